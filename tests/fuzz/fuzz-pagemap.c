/* SPDX-License-Identifier: MIT */
/* fuzz-pagemap.c - libFuzzer entry for pagemap images, which come from another host. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>

#include "container/images.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fm_lazy_range *v = NULL;
	struct fm_error err = FM_ERROR_INIT;
	size_t n = 0;

	if (fm_pagemap_parse(data, size, 500, &v, &n, &err) == 0) {
		uint64_t last = 0;

		for (size_t i = 0; i < n; i++) {
			assert(v[i].ns_pid == 500 && v[i].n_pages > 0 && v[i].vaddr >= last);
			last = v[i].vaddr + v[i].n_pages * 4096;
			assert(last > v[i].vaddr);
		}
	} else {
		assert(n == 0 && err.code != FM_OK);
	}
	free(v);
	return 0;
}
