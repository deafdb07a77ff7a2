/* SPDX-License-Identifier: MIT */
/*
 * fuzz-chunk.c - libFuzzer entry for chunks of pages on their way into the store.
 *
 * The input is a row of chunks, each with a length of two bytes in front. Some pages of other processes are there before, and have to be as they were afterwards.
 */
#include "fuzz.h"
#include "sync/page-codec.h"

#define PAGE      4096u
#define OTHER_PID 77
#define BASE      0x10000ull

/* Page 0 of each process is the same: a content that a KNOWN may name, and a base of a DELTA. */
static void prepare(struct fm_page_store *store, uint8_t pages[3][PAGE])
{
	for (unsigned i = 0; i < 3; i++) {
		memset(pages[i], (int)i + 1, PAGE);
		if (fm_page_store_put(store, OTHER_PID, BASE + (uint64_t)i * PAGE, pages[i], NULL) < 0)
			abort();
	}
	if (fm_page_store_put(store, 1, BASE, pages[0], NULL) < 0 || fm_page_store_put_zero(store, 1, BASE + PAGE, NULL) < 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t pages[3][PAGE];
	struct fm_page_store *store = NULL;
	struct fm_page_decoder *decoder = NULL;
	struct fm_hash_secret secret = fuzz_secret();

	if (fm_page_store_new(64 * PAGE, &store, NULL) < 0 || fm_page_store_set_secret(store, &secret, NULL) < 0 ||
	    fm_page_decoder_new(store, &decoder, NULL) < 0)
		abort();
	prepare(store, pages);
	while (size >= 2) {
		struct fm_error err = FM_ERROR_INIT;
		size_t n = fm_get_le16(data);
		if (n > size - 2)
			n = size - 2;
		uint8_t *chunk = malloc(n ? n : 1); /* of exactly that size */
		if (!chunk)
			abort();
		memcpy(chunk, data + 2, n);
		if (fm_page_decoder_chunk(decoder, 1, chunk, n, &err) < 0)
			assert(err.code == FM_E_DATA_LOSS || err.code == FM_E_RESOURCE_EXHAUSTED);
		free(chunk);
		data += 2 + n;
		size -= 2 + n;
	}
	for (unsigned i = 0; i < 3; i++)
		assert(memcmp(fm_page_store_peek(store, OTHER_PID, BASE + (uint64_t)i * PAGE), pages[i], PAGE) == 0);
	fm_page_decoder_free(decoder);
	fm_page_store_free(store);
	return 0;
}
