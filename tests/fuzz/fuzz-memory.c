/* SPDX-License-Identifier: MIT */
/* fuzz-memory.c - libFuzzer entry for the list of memory trees, which comes from another host, and for mountinfo, in which containers choose names. The first byte: which. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "migration/memory-files.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void list(const uint8_t *data, size_t n)
{
	struct fm_memory_trees t = { 0 };
	struct fm_error err = FM_ERROR_INIT;
	uint8_t *again = NULL;
	size_t got = 0;

	if (fm_memory_list_decode(data, n, &t, &err) < 0) {
		assert(err.code != FM_OK && !t.v);
		return;
	}
	/* what is taken has one form */
	assert(fm_memory_list_encode(&t, &again, &got, &err) == 0 && got == n && memcmp(again, data, n) == 0);
	for (size_t i = 0; i < t.n; i++)
		assert(t.v[i].target[0] == '/' && !strstr(t.v[i].target, "/../"));
	free(again);
	fm_memory_trees_done(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fm_memory_trees t = { 0 };

	if (size == 0)
		return 0;
	if (data[0] & 1) {
		list(data + 1, size - 1);
		return 0;
	}
	char *text = malloc(size);
	if (!text)
		return 0;
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	if (fm_memory_trees_parse(text, NULL, &t, NULL) == 0)
		fm_memory_trees_done(&t);
	free(text);
	return 0;
}
