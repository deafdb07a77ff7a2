/* SPDX-License-Identifier: MIT */
/* fuzz-hidden.c - libFuzzer entry for hidden-pages.img, which comes from another host: what is accepted is exactly what the file says, in order. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "container/images.h"

#define HEAD_BYTES   8u
#define RECORD_BYTES 24u
#define PAGE         4096u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct fm_lazy_range *v, size_t n)
{
	for (size_t i = 1; i < n; i++) {
		assert(v[i].ns_pid > 0 && v[i].n_pages > 0 && v[i].vaddr % PAGE == 0);
		assert(v[i].vaddr + v[i].n_pages * PAGE > v[i].vaddr);
		if (i == 1)
			continue;
		assert(v[i].ns_pid >= v[i - 1].ns_pid);
		assert(v[i].ns_pid > v[i - 1].ns_pid || v[i].vaddr >= v[i - 1].vaddr + v[i - 1].n_pages * PAGE);
	}
}

static void parse(const uint8_t *data, size_t size)
{
	const struct fm_lazy_range first = { .ns_pid = 7, .vaddr = 0x7000, .n_pages = 7 };
	struct fm_error err = FM_ERROR_INIT;
	struct fm_lazy_range *v = malloc(sizeof(*v)); /* from another image: it is appended to */
	size_t n = 1;

	if (!v)
		abort();
	v[0] = first;
	if (fm_hidden_parse(data, size, &v, &n, &err) == 0) {
		assert(size == HEAD_BYTES + (n - 1) * RECORD_BYTES);
		check(v, n);
	} else {
		assert(n == 1 && err.code != FM_OK && err.message[0]);
	}
	assert(memcmp(&v[0], &first, sizeof(first)) == 0);
	free(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t head[HEAD_BYTES] = { 'F', 'M', 'H', 'P', 1 };
	uint8_t *whole = malloc(HEAD_BYTES + size);

	if (!whole)
		return 0;
	parse(data, size);
	/* Most inputs have no right head: what is behind it is tried too. */
	memcpy(whole, head, HEAD_BYTES);
	if (size)
		memcpy(whole + HEAD_BYTES, data, size);
	parse(whole, HEAD_BYTES + size);
	free(whole);
	return 0;
}
