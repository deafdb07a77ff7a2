/* SPDX-License-Identifier: MIT */
/* test-revisit-pages.c - copies of the memory of processes that leave: whole, within their room, given up in order. */
#include "hostile-lab.h"

#include <sys/uio.h>

#include "migration/revisit-pages.h"

#define PAGES 512u
#define PAGE  4096u
#define MIB   (1ull << 20)

static struct fm_page_source_task stopped(struct target *t)
{
	char pages[16];

	(void)snprintf(pages, sizeof(pages), "%u", PAGES);
	target_start(t, "echo", pages, NULL);
	/* no two pages alike, each with a content of its own */
	for (uint32_t i = 0; i < PAGES; i++)
		for (uint32_t k = 0; k <= i / 255; k++)
			order(t, 'w', i, 1);
	assert_int_equal(kill(t->pid, SIGSTOP), 0);
	assert_int_equal(state_becomes(t->pid, "T"), 'T');
	return (struct fm_page_source_task){ .ns_pid = 500, .host_pid = t->pid };
}

static void test_whole(void **state)
{
	struct fm_revisit_pages_stats st;
	struct fm_revisit_pages *v;
	struct target t;
	uint64_t pages = 0;

	assert_ok(fm_revisit_pages_new(64 * MIB, &v, &err));
	struct fm_page_source_task task = stopped(&t);
	assert_null(fm_revisit_pages_take(v, "web"));
	assert_ok(fm_revisit_pages_copy(v, "web", &task, 1, HANG_MS, &pages, &err));
	assert_true(pages >= PAGES);
	fm_revisit_pages_stats(v, &st);
	assert_int_equal(st.n, 1);
	assert_true(st.bytes > 0 && st.bytes <= st.max_bytes);
	assert_null(fm_revisit_pages_take(v, "db"));
	struct fm_page_store *s = fm_revisit_pages_take(v, "web");
	assert_non_null(s);
	assert_null(fm_revisit_pages_take(v, "web"));
	for (uint32_t i = 0; i < PAGES; i++) {
		uint64_t at = t.memory + (uint64_t)i * PAGE;
		uint8_t real[PAGE];
		struct iovec local = { .iov_base = real, .iov_len = PAGE }, remote = { .iov_base = (void *)(uintptr_t)at, .iov_len = PAGE };
		const void *page = NULL;
		assert_int_equal(process_vm_readv(t.pid, &local, 1, &remote, 1, 0), PAGE);
		assert_int_equal(fm_page_store_get(s, 500, at, &page), FM_PAGE_DATA);
		assert_memory_equal(page, real, PAGE);
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
	assert_ok(fm_revisit_pages_copy(NULL, "web", &task, 1, HANG_MS, &pages, &err));
	assert_int_equal(pages, 0);
	assert_ok(fm_revisit_pages_new(0, &v, &err));
	assert_ok(fm_revisit_pages_copy(v, "web", &task, 1, HANG_MS, &pages, &err));
	assert_int_equal(pages, 0);
	fm_revisit_pages_free(v);
	/* for a part of it: what is there is of use */
	assert_ok(fm_revisit_pages_new(MIB, &v, &err));
	assert_ok(fm_revisit_pages_copy(v, "web", &task, 1, HANG_MS, &pages, &err));
	fm_revisit_pages_stats(v, &st);
	assert_true(pages > 0 && pages < PAGES);
	assert_true(st.bytes > 0 && st.bytes <= MIB);
	/* the same container once more takes the place of the old copy; another one pushes it out */
	assert_ok(fm_revisit_pages_copy(v, "web", &task, 1, HANG_MS, &pages, &err));
	fm_revisit_pages_stats(v, &st);
	assert_int_equal(st.n, 1);
	assert_ok(fm_revisit_pages_copy(v, "db", &task, 1, HANG_MS, &pages, &err));
	fm_revisit_pages_stats(v, &st);
	assert_int_equal(st.n, 1);
	assert_true(st.bytes <= MIB);
	assert_null(fm_revisit_pages_take(v, "web"));
	fm_revisit_pages_expire(v); /* young, and the host has memory */
	fm_revisit_pages_stats(v, &st);
	assert_int_equal(st.n, 1);
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
	assert_ok(fm_revisit_pages_copy(v, "web", &task, 1, 0, &pages, &err));
	assert_true(pages <= 128);
	fm_revisit_pages_free(v);
	target_end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whole),
		cmocka_unit_test(test_room),
		cmocka_unit_test(test_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
