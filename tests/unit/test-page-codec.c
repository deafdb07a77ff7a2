/* SPDX-License-Identifier: MIT */
/* test-page-codec.c - encoder -> decoder -> store against the memory they are about, and a decoder that is fed with rubbish. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "collision.h"
#include "sync/page-codec.h"
#include "sync/page-delta.h"
#include "sync/page-encoder-internal.h"
#include "sync/stream-internal.h"

#define PAGE      4096u
#define BASE      0x7f0000000000ull
#define MIB       (1ull << 20)
#define PROCESSES 2
#define PAGES     300u /* of each */

struct world {
	struct fm_page_store *store;
	struct fm_page_encoder *enc;
	struct fm_page_decoder *dec;
	uint8_t *memory[PROCESSES];
	bool there[PROCESSES][PAGES];
	uint8_t out[FM_CHUNK_BYTES_MAX];
	size_t len; /* of the last chunk */
};

static struct world *world_new(uint64_t cache, int compress)
{
	struct world *w = calloc(1, sizeof(*w));
	struct fm_hash_secret secret;
	struct fm_page_encoder_opts o = { .delta_cache_bytes = cache, .compress = compress, .secret = &secret };
	struct fm_error e = FM_ERROR_INIT;

	fm_hash_secret_draw(&secret);
	if (fm_page_store_new(8 * MIB, &w->store, &e) < 0 || fm_page_store_set_secret(w->store, &secret, &e) < 0 ||
	    fm_page_encoder_new(&o, &w->enc, &e) < 0 || fm_page_decoder_new(w->store, &w->dec, &e) < 0)
		fail_msg("%s", e.message);
	for (int i = 0; i < PROCESSES; i++)
		w->memory[i] = calloc(PAGES, PAGE);
	return w;
}

static void world_free(struct world *w)
{
	fm_page_decoder_free(w->dec);
	fm_page_encoder_free(w->enc);
	fm_page_store_free(w->store);
	for (int i = 0; i < PROCESSES; i++)
		free(w->memory[i]);
	free(w);
}

static uint8_t *page_of(struct world *w, int process, size_t page)
{
	return w->memory[process] + page * PAGE;
}

static void fill(uint8_t *page, uint64_t n)
{
	for (size_t i = 0; i < PAGE; i += 8) {
		n = n * 6364136223846793005ull + 1442695040888963407ull;
		fm_put_le64(page + i, n % 3 ? n : n >> 40);
	}
}

static void deliver(struct world *w, int process)
{
	struct fm_error e = FM_ERROR_INIT;

	assert_true(w->len <= FM_CHUNK_BYTES_MAX);
	if (w->len && fm_page_decoder_chunk(w->dec, 1 + process, w->out, w->len, &e) < 0)
		fail_msg("%s", e.message);
}

static void send_pages(struct world *w, int process, size_t page, size_t n)
{
	struct fm_error e = FM_ERROR_INIT;

	if (fm_page_encoder_chunk(w->enc, 1 + process, BASE + page * PAGE, page_of(w, process, page), n, w->out, &w->len, &e) < 0)
		fail_msg("%s", e.message);
	deliver(w, process);
	for (size_t i = page; i < page + n; i++)
		w->there[process][i] = true;
}

static void drop_pages(struct world *w, int process, size_t page, size_t n)
{
	struct fm_error e = FM_ERROR_INIT;

	if (fm_page_encoder_drop(w->enc, 1 + process, BASE + page * PAGE, n, w->out, &w->len, &e) < 0)
		fail_msg("%s", e.message);
	deliver(w, process);
	for (size_t i = page; i < page + n; i++)
		w->there[process][i] = false;
}

static void compare(struct world *w)
{
	for (int p = 0; p < PROCESSES; p++)
		for (size_t i = 0; i < PAGES; i++) {
			const void *have = fm_page_store_peek(w->store, 1 + p, BASE + i * PAGE);
			assert_int_equal(fm_page_encoder_has_sent(w->enc, 1 + p, BASE + i * PAGE), w->there[p][i]);
			assert_int_equal(have != NULL, w->there[p][i]);
			if (have)
				assert_memory_equal(have, page_of(w, p, i), PAGE);
		}
}

/* What applications do to a page: a few bytes, all of it, zeros, back to an old content, a copy of another page */
static void change(struct world *w, int p, size_t i)
{
	uint8_t *page = page_of(w, p, i);

	switch (random() % 6) {
	case 0:
		memset(page, 0, PAGE);
		break;
	case 1:
		fill(page, (uint64_t)random());
		break;
	case 2:
		fill(page, (uint64_t)random() % 40);
		break;
	case 3:
		memcpy(page, page_of(w, (int)(random() % PROCESSES), (size_t)random() % PAGES), PAGE);
		break;
	default:
		for (long n = random() % 100; n >= 0; n--)
			page[random() % PAGE] ^= (uint8_t)random();
		break;
	}
}

static void evolve(uint64_t cache, int compress, unsigned seed)
{
	struct world *w = world_new(cache, compress);
	struct fm_page_encoder_stats st;

	srandom(seed);
	for (int round = 0; round < 40; round++) {
		for (int n = 0; n < 80; n++)
			change(w, (int)(random() % PROCESSES), (size_t)random() % (n % 2 ? PAGES : 30));
		fm_page_encoder_link(w->enc, 1 << 20, 1 + (uint64_t)random() % 40000);
		for (int p = 0; p < PROCESSES; p++) {
			size_t n = 1 + (size_t)random() % FM_CHUNK_PAGES_MAX;
			for (size_t i = 0; i < PAGES; i += n) {
				size_t many = PAGES - i < n ? PAGES - i : n;
				if (random() % 12)
					send_pages(w, p, i, many);
				else
					drop_pages(w, p, i, many);
			}
		}
		compare(w);
	}
	fm_page_encoder_stats(w->enc, &st);
	assert_true(st.known && st.zero && st.full && st.delta && st.unchanged && st.dropped);
	assert_int_equal(st.pages_in, st.known + st.zero + st.full + st.delta + st.unchanged);
	world_free(w);
}

static void test_evolution(void **state)
{
	for (int compress = -1; compress <= FM_CHUNK_ZSTD; compress++) {
		evolve(0, compress, 1 + (unsigned)compress);
		evolve(UINT64_MAX, compress, 11 + (unsigned)compress);
		evolve(10 * PAGE, compress, 21 + (unsigned)compress); /* a cache that is always full */
	}
}

static unsigned kind_of(const struct world *w, size_t entry)
{
	return (unsigned)(fm_get_le64(w->out + FM_CHUNK_HEAD_BYTES + entry * 8) % PAGE);
}

static void test_kinds(void **state)
{
	struct world *w = world_new(0, FM_CHUNK_PLAIN);

	fill(page_of(w, 0, 0), 1);
	fill(page_of(w, 0, 2), 1);
	send_pages(w, 0, 0, 3);
	assert_int_equal(fm_get_le32(w->out), 3);
	assert_int_equal(kind_of(w, 0), FM_PAGE_KIND_FULL);
	assert_int_equal(kind_of(w, 1), FM_PAGE_KIND_ZERO);
	assert_int_equal(kind_of(w, 2), FM_PAGE_KIND_KNOWN);
	assert_int_equal(w->len, FM_CHUNK_HEAD_BYTES + 3 * 8 + PAGE + 16);
	send_pages(w, 0, 0, 3);
	assert_int_equal(w->len, 0); /* nothing changed */
	page_of(w, 0, 1)[77] = 1;    /* a zero page is known everywhere */
	send_pages(w, 0, 1, 1);
	assert_int_equal(kind_of(w, 0), FM_PAGE_KIND_DELTA);
	page_of(w, 0, 0)[4095] ^= 1; /* sent once: not in the cache yet */
	send_pages(w, 0, 0, 1);
	assert_int_equal(kind_of(w, 0), FM_PAGE_KIND_FULL);
	page_of(w, 0, 0)[0] ^= 1;
	send_pages(w, 0, 0, 1);
	assert_int_equal(kind_of(w, 0), FM_PAGE_KIND_DELTA);
	for (size_t i = 0; i < PAGE; i += 16)
		page_of(w, 0, 0)[i] ^= 1; /* small changes, but too many */
	for (size_t i = 0; i < PAGE / 2; i++)
		page_of(w, 0, 0)[i] ^= 2;
	send_pages(w, 0, 0, 1);
	assert_int_equal(kind_of(w, 0), FM_PAGE_KIND_FULL);
	/* The last page with a content goes: it has to be sent again. */
	drop_pages(w, 0, 2, 1);
	assert_int_equal(kind_of(w, 0), FM_PAGE_KIND_DROP);
	drop_pages(w, 0, 2, 1); /* said again: the first may have been lost with its stream */
	assert_int_equal(kind_of(w, 0), FM_PAGE_KIND_DROP);
	fill(page_of(w, 1, 5), 1);
	send_pages(w, 1, 5, 1);
	assert_int_equal(kind_of(w, 0), FM_PAGE_KIND_FULL);
	/* Two pages change places: when the first is sent, the other's content is still there; then its own is gone. */
	fill(page_of(w, 1, 7), 77);
	fill(page_of(w, 1, 8), 88);
	send_pages(w, 1, 7, 2);
	fill(page_of(w, 1, 7), 88);
	fill(page_of(w, 1, 8), 77);
	send_pages(w, 1, 7, 2);
	assert_int_equal(kind_of(w, 0), FM_PAGE_KIND_KNOWN);
	assert_int_equal(kind_of(w, 1), FM_PAGE_KIND_FULL);
	w->there[0][2] = false;
	compare(w);
	world_free(w);
}

/* One after the other at one place, and beside each other. */
static void test_pages_made_to_collide(void **state)
{
	struct world *w = world_new(UINT64_MAX, FM_CHUNK_PLAIN);

	make_collision(page_of(w, 0, 0), page_of(w, 0, 1), PAGE);
	send_pages(w, 0, 0, 2);
	compare(w);
	memcpy(page_of(w, 0, 0), page_of(w, 0, 1), PAGE);
	send_pages(w, 0, 0, 1);
	compare(w);
	world_free(w);
}

static void test_compression(void **state)
{
	for (int m = FM_CHUNK_LZ4; m <= FM_CHUNK_ZSTD; m++) {
		struct world *w = world_new(0, m);
		uint8_t *page = page_of(w, 0, 0);
		for (size_t i = 0; i < 100 * (size_t)PAGE; i++)
			page[i] = (uint8_t)("abcdefgh"[i % 8] + i / PAGE);
		send_pages(w, 0, 0, 100);
		assert_int_equal(w->out[4], m);
		assert_true(w->len < 100 * PAGE / 2);
		/* What cannot be compressed is sent as it is. */
		for (size_t i = 0; i < 100 * (size_t)PAGE; i++)
			page[i] = (uint8_t)(random() >> 8);
		send_pages(w, 0, 0, 100);
		assert_int_equal(w->out[4], FM_CHUNK_PLAIN);
		assert_int_equal(w->len, FM_CHUNK_HEAD_BYTES + 100 * 8 + 100 * PAGE);
		send_pages(w, 0, 100, 100); /* zeros */
		compare(w);
		world_free(w);
	}
}

/* The link's figures are those of a slow and of a fast one, not this machine's. Bytes have a price on any link, but what cannot be compressed is not compressed. */
static void test_compression_follows_the_link(void **state)
{
	struct world *w = world_new(0, -1);
	struct fm_page_encoder_stats st;
	const struct {
		bool slow, random, compressed;
	} steps[] = {
		{ false, true, false }, { false, false, true }, { true, true, false }, { true, false, true }, { false, true, false }
	};

	for (size_t s = 0; s < FM_ARRAY_SIZE(steps); s++) {
		for (int round = 0; round < 400; round++) {
			for (size_t i = 0; i < 128 * (size_t)PAGE; i += 4)
				fm_put_le32(page_of(w, 0, 0) + i,
				            steps[s].random ? (uint32_t)random() << 8 ^ (uint32_t)random()
				                            : (uint32_t)(i / 64 + (uint32_t)round * 4096 + (uint32_t)s * 100000000));
			fm_page_encoder_link(w->enc, MIB, steps[s].slow ? MIB * 10 : 1);
			send_pages(w, 0, 0, 128);
		}
		fm_page_encoder_stats(w->enc, &st);
		if ((st.method != FM_CHUNK_PLAIN) != steps[s].compressed)
			fail_msg("step %zu: method %d", s, (int)st.method);
	}
	world_free(w);
}

static void test_delta(void **state)
{
	uint8_t a[PAGE], b[PAGE], c[PAGE], out[PAGE * 2];

	srandom(3);
	for (int round = 0; round < 3000; round++) {
		fill(a, (uint64_t)round);
		memcpy(b, a, PAGE);
		for (long n = random() % 300; n >= 0; n--)
			b[random() % PAGE] ^= (uint8_t)(1 + random() % 255);
		memcpy(c, a, PAGE);
		size_t n = fm_page_delta_encode(a, b, out, sizeof(out));
		assert_int_equal(n == 0, memcmp(a, b, PAGE) == 0);
		assert_int_equal(fm_page_delta_apply(c, out, n, NULL), 0);
		assert_memory_equal(b, c, PAGE);
		if (n)
			assert_int_equal(fm_page_delta_encode(a, b, out, n - 1), 0);
		assert_int_equal(fm_page_delta_encode(a, b, out, n), n);
		for (size_t cut = 1; cut < n && cut < 40; cut++) /* never outside, whatever it says */
			(void)fm_page_delta_apply(c, out + cut, n - cut, NULL);
	}
}

static void test_wrong_arguments(void **state)
{
	struct world *w = world_new(0, -1);
	struct fm_hash_secret secret = { { 0 } };
	struct fm_page_encoder_opts o = { .compress = 3, .secret = &secret };
	struct fm_page_encoder *enc = NULL;
	struct fm_error e = FM_ERROR_INIT;
	const struct {
		pid_t pid;
		uint64_t vaddr;
		size_t n;
	} bad[] = { { 0, BASE, 1 },
		    { -5, BASE, 1 },
		    { 1, BASE + 8, 1 },
		    { 1, BASE, 0 },
		    { 1, BASE, 129 },
		    { 1, FM_PAGE_ADDRESS_END - PAGE, 2 },
		    { 1, UINT64_MAX - PAGE + 1, 1 } };

	assert_int_equal(fm_page_encoder_new(&o, &enc, &e), -1);
	o = (struct fm_page_encoder_opts){ .compress = -1 };
	assert_int_equal(fm_page_encoder_new(&o, &enc, &e), -1);
	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++) {
		assert_int_equal(fm_page_encoder_chunk(w->enc, bad[i].pid, bad[i].vaddr, w->memory[0], bad[i].n, w->out, &w->len, &e), -1);
		assert_int_equal(e.code, FM_E_INVALID_ARGUMENT);
		assert_int_equal(fm_page_encoder_drop(w->enc, bad[i].pid, bad[i].vaddr, bad[i].n, w->out, &w->len, &e), -1);
	}
	send_pages(w, 0, 0, 10);
	compare(w);
	world_free(w);
}

/* One page of each kind at 10.., after which the bytes of the chunk are in w->out. Pages 0..9 are there before and not part of it. */
static void make_chunk(struct world *w)
{
	for (size_t i = 0; i < 10; i++)
		fill(page_of(w, 0, i), 100 + i);
	send_pages(w, 0, 0, 10);
	for (int round = 0; round < 2; round++) {
		fill(page_of(w, 0, 12), 500 + (uint64_t)round);
		send_pages(w, 0, 12, 1);
	}
	fill(page_of(w, 0, 10), 300);
	memset(page_of(w, 0, 10), 7, 3000);
	memcpy(page_of(w, 0, 13), page_of(w, 0, 3), PAGE);
	page_of(w, 0, 12)[5] ^= 0xff;
	page_of(w, 0, 12)[2005] ^= 0xff;

	const unsigned kinds[] = { FM_PAGE_KIND_FULL, FM_PAGE_KIND_ZERO, FM_PAGE_KIND_DELTA, FM_PAGE_KIND_KNOWN };
	struct fm_error e = FM_ERROR_INIT;
	assert_int_equal(fm_page_encoder_chunk(w->enc, 1, BASE + 10 * PAGE, page_of(w, 0, 10), 4, w->out, &w->len, &e), 0);
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(kind_of(w, i), kinds[i]);
}

static void feed(struct world *w, const uint8_t *chunk, size_t n)
{
	struct fm_error e = FM_ERROR_INIT;
	uint8_t *exact = malloc(n ? n : 1); /* so that a sanitizer sees a byte too far */

	memcpy(exact, chunk, n);
	if (fm_page_decoder_chunk(w->dec, 1, exact, n, &e) < 0)
		assert_int_equal(e.code, FM_E_DATA_LOSS);
	free(exact);
}

static void expect_others_intact(struct world *w)
{
	for (size_t i = 0; i < 10; i++) {
		const void *p = fm_page_store_peek(w->store, 1, BASE + i * PAGE);
		assert_non_null(p);
		assert_memory_equal(p, page_of(w, 0, i), PAGE);
	}
}

static void test_corrupt_chunks(void **state)
{
	for (int m = FM_CHUNK_PLAIN; m <= FM_CHUNK_ZSTD; m++) {
		struct world *w = world_new(0, m);
		struct fm_error e = FM_ERROR_INIT;
		make_chunk(w);
		for (size_t n = 0; n < w->len; n++)
			assert_int_equal(fm_page_decoder_chunk(w->dec, 1, w->out, n, &e), -1);
		assert_int_equal(fm_page_decoder_chunk(w->dec, 0, w->out, w->len, &e), -1);
		assert_int_equal(fm_page_decoder_chunk(w->dec, -1, w->out, w->len, &e), -1);
		assert_null(fm_page_store_peek(w->store, 1, BASE + 10 * PAGE)); /* nothing of a chunk that is malformed */
		for (size_t bit = 0; bit < w->len * 8; bit += bit < 1000 ? 1 : 13) {
			/* A changed address may name another page, which is then no longer what it was: leave addresses alone. */
			size_t in_entries = bit / 8 - FM_CHUNK_HEAD_BYTES;
			if (bit / 8 >= FM_CHUNK_HEAD_BYTES && in_entries < 32 &&
			    (in_entries % 8 > 1 || (in_entries % 8 == 1 && bit % 8 > 3)))
				continue;
			w->out[bit / 8] ^= (uint8_t)(1u << bit % 8);
			feed(w, w->out, w->len);
			w->out[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
		expect_others_intact(w);
		world_free(w);
	}
}

static void refuse(struct world *w, const char *what, size_t at, uint8_t value)
{
	struct fm_error e = FM_ERROR_INIT;
	uint8_t was = w->out[at];

	w->out[at] = value;
	if (fm_page_decoder_chunk(w->dec, 1, w->out, w->len, &e) == 0)
		fail_msg("%s was taken", what);
	assert_int_equal(e.code, FM_E_DATA_LOSS);
	w->out[at] = was;
}

static void test_fields_are_checked(void **state)
{
	struct world *w = world_new(0, FM_CHUNK_PLAIN);
	const size_t delta = FM_CHUNK_HEAD_BYTES + 4 * 8 + PAGE; /* FULL and ZERO before */

	make_chunk(w);
	refuse(w, "no entry", 0, 0);
	refuse(w, "129 entries", 0, 129);
	refuse(w, "2^24 entries", 3, 1);
	refuse(w, "a method", 4, 3);
	refuse(w, "padding", 5, 1);
	refuse(w, "padding", 7, 1);
	refuse(w, "a longer body", 8, (uint8_t)(w->out[8] + 1));
	refuse(w, "a body of gigabytes", 11, 0xff);
	refuse(w, "kind 0", 12, 0);
	refuse(w, "kind 6", 12, 6);
	refuse(w, "an address beyond 2^47", 12 + 5, 0x80);
	refuse(w, "an address beyond 2^47", 12 + 7, 1);
	refuse(w, "a difference too long", delta + 1, 0x09);
	refuse(w, "a skip over the page's end", delta + 3, 0xff);
	refuse(w, "an empty run", delta + 4, 0);
	refuse(w, "another result", delta + 2 + 4, (uint8_t)(w->out[delta + 6] ^ 1));
	refuse(w, "an unknown content", w->len - 1, (uint8_t)(w->out[w->len - 1] ^ 1));
	deliver(w, 0); /* and as it was made */
	expect_others_intact(w);
	for (size_t i = 10; i < 14; i++)
		assert_memory_equal(fm_page_store_peek(w->store, 1, BASE + i * PAGE), page_of(w, 0, i), PAGE);
	world_free(w);
}

static void test_full_store(void **state)
{
	struct world *w = world_new(0, FM_CHUNK_PLAIN);
	struct fm_error e = FM_ERROR_INIT;
	static uint8_t pages[128 * PAGE];
	int r = 0;

	for (uint64_t i = 0; r == 0 && i < 100; i++) {
		for (size_t k = 0; k < 128; k++)
			fill(pages + k * PAGE, i * 1000 + k);
		assert_int_equal(fm_page_encoder_chunk(w->enc, 1, BASE + i * 128 * PAGE, pages, 128, w->out, &w->len, &e), 0);
		r = fm_page_decoder_chunk(w->dec, 1, w->out, w->len, &e);
	}
	assert_int_equal(r, -1);
	assert_int_equal(e.code, FM_E_RESOURCE_EXHAUSTED);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_delta),
		cmocka_unit_test(test_kinds),
		cmocka_unit_test(test_evolution),
		cmocka_unit_test(test_pages_made_to_collide),
		cmocka_unit_test(test_compression),
		cmocka_unit_test(test_compression_follows_the_link),
		cmocka_unit_test(test_wrong_arguments),
		cmocka_unit_test(test_corrupt_chunks),
		cmocka_unit_test(test_fields_are_checked),
		cmocka_unit_test(test_full_store),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
