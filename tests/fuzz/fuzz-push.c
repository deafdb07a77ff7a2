/* SPDX-License-Identifier: MIT */
/*
 * fuzz-push.c - libFuzzer entry for the dialogue of a push stream: rounds, the last one, a stream that breaks and another that goes on with the same store. (What is in a chunk: fuzz-chunk.)
 *
 * The first byte says how many of the commands (fuzz.h) belong to the first stream. Each begins with a proper secret, unless its first command says that it does not (0x40). A store counts as complete only if a stream said so and was answered; once it is, nothing changes it.
 */
#include "fuzz.h"
#include "sync/push.h"

#define PAGE  4096u
#define PAGES 64u

static const enum fm_frame types[] = { FM_FRAME_PAGES_PUSH, FM_FRAME_PAGES_PUSH, FM_FRAME_PAGES_PUSH, FM_FRAME_PAGES_PUSH,
	                               FM_FRAME_ROUND_END,  FM_FRAME_ROUND_END,  FM_FRAME_ROUND_OK,   FM_FRAME_PAGES_SECRET };

/* Half of the chunks are well-formed: zeros, a drop or a page of one byte, of a few addresses. */
static size_t make_chunk(const uint8_t *in, size_t n, uint8_t *out)
{
	unsigned kind = 1 + in[0] % 3; /* ZERO, FULL, KNOWN; a KNOWN of what nobody has is refused */

	kind = kind == 3 ? 5 : kind; /* DROP */
	memset(out, 0, 20);
	fm_put_le32(out, 1);
	fm_put_le32(out + 8, kind == 2 ? PAGE : 0);
	fm_put_le64(out + 12, (uint64_t)(1 + in[1] % PAGES) * PAGE | kind);
	if (kind != 2)
		return 20;
	memset(out + 20, n > 2 ? in[2] : 1, PAGE);
	return 20 + PAGE;
}

static size_t make_frames(const uint8_t *in, size_t n, uint8_t *wire)
{
	static uint8_t chunk[20 + PAGE];
	struct fm_hash_secret secret = fuzz_secret();
	size_t len = 0;

	if (n == 0 || !(in[0] & 0x40))
		len = fuzz_frame(wire, len, FM_FRAME_PAGES_SECRET, 0, 0, secret.bytes, sizeof(secret.bytes));

	while (n >= 4) {
		size_t take = in[3] < n - 4 ? in[3] : n - 4;
		enum fm_frame type = types[in[0] & 7];
		if (type == FM_FRAME_PAGES_PUSH && (in[0] & 8) && take >= 2)
			len = fuzz_frame(wire, len, type, 1, (uint64_t)(in[2] & 1) << 63, chunk, make_chunk(in + 4, take, chunk));
		else
			len = fuzz_frame(wire, len, type, in[1], in[2] & 3, in + 4, take);
		in += 4 + take;
		n -= 4 + take;
	}
	return len;
}

static uint64_t sum_of(const struct fm_page_store *store)
{
	struct fm_hash_secret secret = fuzz_secret();
	uint64_t sum = 0;

	for (uint64_t i = 0; i < PAGES + 1; i++) {
		const void *page = NULL;
		enum fm_page_have have = fm_page_store_get(store, 1, i * PAGE, &page);
		struct fm_page_hash h = have == FM_PAGE_DATA ? fm_page_hash(&secret, page) : (struct fm_page_hash){ .lo = have };
		sum = sum * 31 + h.lo;
	}
	return sum;
}

static void one_stream(struct fm_page_store *store, const uint8_t *data, size_t size)
{
	static uint8_t wire[FUZZ_WIRE_MAX];
	struct fm_error err = FM_ERROR_INIT;
	bool sealed = fm_page_store_is_sealed(store);
	uint64_t before = sealed ? sum_of(store) : 0;
	int peer = -1;

	struct fm_stream *s = fuzz_stream(wire, make_frames(data, size, wire), &peer);
	int rc = fm_push_receive(s, store, NULL, NULL, -1, &err);
	assert((rc == 0) == (err.code == FM_OK));
	assert(rc < 0 || fm_page_store_is_sealed(store));
	assert(!sealed || (fm_page_store_is_sealed(store) && sum_of(store) == before));
	fm_stream_free(s);
	close(peer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fm_page_store *store = NULL;

	if (size < 1)
		return 0;
	size_t first = data[0] < size - 1 ? data[0] : size - 1;
	if (fm_page_store_new(32 * PAGE, &store, NULL) < 0)
		abort();
	one_stream(store, data + 1, first);
	one_stream(store, data + 1 + first, size - 1 - first);
	fm_page_store_free(store);
	return 0;
}
