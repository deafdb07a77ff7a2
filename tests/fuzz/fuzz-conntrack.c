/* SPDX-License-Identifier: MIT */
/* fuzz-conntrack.c - libFuzzer entry for the tracked connections that a source sends: what is taken is within its limits, and is what the encoder would have written. */
#include "fuzz.h"
#include "network/conntrack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* in a piece of memory of exactly its size, so that a byte too far is seen */
	uint8_t *exact = malloc(size ? size : 1), *again = NULL;
	struct fm_conntrack_flow *v = NULL;
	struct fm_error err = FM_ERROR_INIT;
	uint32_t left_out;
	size_t n, len;

	if (!exact)
		return 0;
	memcpy(exact, data, size);
	if (fm_conntrack_decode(exact, size, &v, &n, &left_out, &err) < 0) {
		assert(err.code == FM_E_DATA_LOSS && err.message[0] && !v);
	} else {
		assert(err.code == FM_OK && n <= FM_MAX_CONNTRACK && size <= FM_MAX_CONNTRACK_BYTES);
		for (size_t i = 0; i < n; i++)
			assert(v[i].port[0] && v[i].port[1] && v[i].timeout_s && v[i].timeout_s <= FM_MAX_CONNTRACK_TIMEOUT_S);
		if (fm_conntrack_encode(v, n, left_out, &again, &len, &err) < 0)
			abort();
		assert(len == size && memcmp(again, exact, size) == 0);
	}
	free(again);
	free(v);
	free(exact);
	return 0;
}
