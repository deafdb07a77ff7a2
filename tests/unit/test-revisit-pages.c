/* SPDX-License-Identifier: MIT */
/* test-revisit-pages.c - copies of the memory of processes that leave: whole, within their room, given up in order, divided as the next streams are. */
#include "hostile-lab.h"

#include <sys/uio.h>

#include "migration/revisit-pages.h"
#include "sync/push.h"

#define PAGES 512u
#define PAGE  4096u
#define MIB   (1ull << 20)

static struct fm_page_source_task stopped_of(struct target *t, uint32_t n)
{
	char pages[16];

	(void)snprintf(pages, sizeof(pages), "%u", n);
	target_start(t, "echo", pages, NULL);
	/* no two pages alike, each with a content of its own */
	for (uint32_t i = 0; i < PAGES; i++)
		for (uint32_t k = 0; k <= i / 255; k++)
			order(t, 'w', i, 1);
	assert_int_equal(kill(t->pid, SIGSTOP), 0);
	assert_int_equal(state_becomes(t->pid, "T"), 'T');
	return (struct fm_page_source_task){ .ns_pid = 500, .host_pid = t->pid };
}

static struct fm_page_source_task stopped(struct target *t)
{
	return stopped_of(t, PAGES);
}

static void expect_page(const struct target *t, const struct fm_page_store *s, uint64_t at)
{
	uint8_t real[PAGE];
	struct iovec local = { .iov_base = real, .iov_len = PAGE }, remote = { .iov_base = (void *)(uintptr_t)at, .iov_len = PAGE };
	const void *page = NULL;

	assert_int_equal(process_vm_readv(t->pid, &local, 1, &remote, 1, 0), PAGE);
	assert_int_equal(fm_page_store_get(s, 500, at, &page), fm_page_is_zero(real) ? FM_PAGE_ZERO : FM_PAGE_DATA);
	if (page)
		assert_memory_equal(page, real, PAGE);
}

static void test_whole(void **state)
{
	struct fm_revisit_pages_stats st;
	struct fm_revisit_pages *v;
	struct target t;
	uint64_t pages = 0;

	assert_ok(fm_revisit_pages_new(64 * MIB, &v, &err));
	struct fm_page_source_task task = stopped(&t);
	struct fm_page_store *s = NULL;
	assert_false(fm_revisit_pages_take(v, "web", 1, &s));
	assert_ok(fm_revisit_pages_copy(v, "web", &task, 1, 1, HANG_MS, &pages, &err));
	assert_true(pages >= PAGES);
	fm_revisit_pages_stats(v, &st);
	assert_int_equal(st.n, 1);
	assert_true(st.bytes > 0 && st.bytes <= st.max_bytes);
	assert_false(fm_revisit_pages_take(v, "db", 1, &s));
	assert_true(fm_revisit_pages_take(v, "web", 1, &s));
	assert_non_null(s);
	struct fm_page_store *none = NULL;
	assert_false(fm_revisit_pages_take(v, "web", 1, &none));
	for (uint32_t i = 0; i < PAGES; i++) {
		expect_page(&t, s, t.memory + (uint64_t)i * PAGE);
	}
	/* it goes on as the store of a destination */
	static const uint8_t another[PAGE] = { 1, 2, 3 };
	assert_ok(fm_page_store_put(s, 501, 0x10000, another, &err));
	fm_page_store_free(s);
	fm_revisit_pages_free(v);
	target_end(&t);
}

static void test_room(void **state)
{
	struct fm_revisit_pages_stats st;
	struct fm_revisit_pages *v;
	struct target t;
	uint64_t pages = 1;

	struct fm_page_source_task task = stopped(&t);
	/* none at all */
	assert_ok(fm_revisit_pages_copy(NULL, "web", &task, 1, 1, HANG_MS, &pages, &err));
	assert_int_equal(pages, 0);
	assert_ok(fm_revisit_pages_new(0, &v, &err));
	assert_ok(fm_revisit_pages_copy(v, "web", &task, 1, 1, HANG_MS, &pages, &err));
	assert_int_equal(pages, 0);
	fm_revisit_pages_free(v);
	/* for a part of it: what is there is of use */
	assert_ok(fm_revisit_pages_new(MIB, &v, &err));
	assert_ok(fm_revisit_pages_copy(v, "web", &task, 1, 1, HANG_MS, &pages, &err));
	fm_revisit_pages_stats(v, &st);
	assert_true(pages > 0 && pages < PAGES);
	assert_true(st.bytes > 0 && st.bytes <= MIB);
	/* the same container once more takes the place of the old copy; another one pushes it out */
	assert_ok(fm_revisit_pages_copy(v, "web", &task, 1, 1, HANG_MS, &pages, &err));
	fm_revisit_pages_stats(v, &st);
	assert_int_equal(st.n, 1);
	assert_ok(fm_revisit_pages_copy(v, "db", &task, 1, 1, HANG_MS, &pages, &err));
	fm_revisit_pages_stats(v, &st);
	assert_int_equal(st.n, 1);
	assert_true(st.bytes <= MIB);
	struct fm_page_store *store = NULL;
	assert_false(fm_revisit_pages_take(v, "web", 1, &store));
	fm_revisit_pages_expire(v); /* young, and the host has memory */
	fm_revisit_pages_stats(v, &st);
	assert_int_equal(st.n, 1);
	fm_revisit_pages_forget(v, "web"); /* which is not there */
	fm_revisit_pages_forget(v, "db");
	fm_revisit_pages_stats(v, &st);
	assert_true(st.n == 0 && st.bytes == 0);
	fm_revisit_pages_free(v);
	target_end(&t);
}

/* What the next migration's streams will look for where they look for it, whatever they were the last time. */
static void test_streams(void **state)
{
	static const unsigned counts[][2] = { { 3, 3 }, { 1, 4 }, { 4, 1 }, { 2, 16 }, { 16, 3 } };
	struct fm_revisit_pages *v;
	struct target t;

	assert_ok(fm_revisit_pages_new(64 * MIB, &v, &err));
	struct fm_page_source_task task = stopped_of(&t, 8 * PAGES);
	for (size_t i = 0; i < FM_ARRAY_SIZE(counts); i++) {
		struct fm_page_store *stores[FM_MAX_PUSH_STREAMS] = { NULL };
		struct fm_page_store_stats st;
		unsigned n = counts[i][1];
		uint64_t pages = 0, found = 0;
		assert_ok(fm_revisit_pages_copy(v, "web", &task, 1, counts[i][0], HANG_MS, &pages, &err));
		assert_true(pages >= 8 * PAGES);
		assert_true(fm_revisit_pages_take(v, "web", n, stores));
		for (unsigned k = 0; k < n; k++) {
			fm_page_store_stats(stores[k], &st);
			found += st.pages;
			assert_false(fm_page_store_is_sealed(stores[k]));
		}
		assert_int_equal(found, pages);
		for (uint32_t k = 0; k < 8 * PAGES; k++) {
			uint64_t at = t.memory + (uint64_t)k * PAGE;
			expect_page(&t, stores[fm_push_stream_of(500, at, n)], at);
		}
		for (unsigned k = 0; k < n; k++)
			fm_page_store_free(stores[k]);
	}
	fm_revisit_pages_free(v);
	target_end(&t);
}

static void test_time(void **state)
{
	struct fm_revisit_pages *v;
	struct target t;
	uint64_t pages = 0;

	assert_ok(fm_revisit_pages_new(64 * MIB, &v, &err));
	struct fm_page_source_task task = stopped(&t);
	/* no time: it ends after one look at the clock */
	assert_ok(fm_revisit_pages_copy(v, "web", &task, 1, 1, 0, &pages, &err));
	assert_true(pages <= 128);
	fm_revisit_pages_free(v);
	target_end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whole),
		cmocka_unit_test(test_room),
		cmocka_unit_test(test_streams),
		cmocka_unit_test(test_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
