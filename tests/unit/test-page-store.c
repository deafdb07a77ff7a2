/* SPDX-License-Identifier: MIT */
/* test-page-store.c - the page store: against a model, its limits, sealing, and holes. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "sync/page-store-internal.h"

#define PAGE 4096u
#define BASE 0x7f0000000000ull
#define MIB  (1ull << 20)

struct fixture {
	struct fm_page_store *s;
	size_t told;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fm_page_store_free(f->s);
	free(f);
	return 0;
}

static void create(struct fixture *f, uint64_t max_bytes)
{
	struct fm_error e = FM_ERROR_INIT;

	if (fm_page_store_new(max_bytes, &f->s, &e) < 0)
		fail_msg("%s", e.message);
}

static void seal(struct fixture *f)
{
	struct fm_error e = FM_ERROR_INIT;

	if (fm_page_store_seal(f->s, &e) < 0)
		fail_msg("%s", e.message);
}

/* A page that only this number makes; 0: zeros */
static const void *content(uint64_t n)
{
	static uint64_t page[PAGE / 8];

	for (size_t i = 0; i < PAGE / 8; i++)
		page[i] = n ? n * 0x9e3779b97f4a7c15ull + i : 0;
	return page;
}

static void put(struct fixture *f, pid_t pid, uint64_t page, uint64_t n)
{
	struct fm_error e = FM_ERROR_INIT;

	if (fm_page_store_put(f->s, pid, BASE + page * PAGE, content(n), &e) < 0)
		fail_msg("%s", e.message);
}

static void expect(struct fixture *f, pid_t pid, uint64_t page, uint64_t n)
{
	const void *p = NULL;

	switch (fm_page_store_get(f->s, pid, BASE + page * PAGE, &p)) {
	case FM_PAGE_NOT_HERE:
		fail_msg("page %llu is not here", (unsigned long long)page);
		break;
	case FM_PAGE_ZERO:
		assert_int_equal(n, 0);
		assert_null(p);
		break;
	case FM_PAGE_DATA:
		assert_int_not_equal(n, 0);
		assert_memory_equal(p, content(n), PAGE);
		break;
	}
}

static void expect_none(struct fixture *f, pid_t pid, uint64_t page)
{
	const void *p = NULL;

	assert_int_equal(fm_page_store_get(f->s, pid, BASE + page * PAGE, &p), FM_PAGE_NOT_HERE);
	assert_null(fm_page_store_peek(f->s, pid, BASE + page * PAGE));
}

static uint64_t bytes_of(struct fixture *f)
{
	struct fm_page_store_stats st;

	fm_page_store_stats(f->s, &st);
	assert_int_equal(st.bytes, st.unique_pages * PAGE);
	return st.bytes;
}

static void test_contents_are_kept_once(void **state)
{
	struct fixture *f = *state;
	struct fm_page_store_stats st;
	struct fm_error e = FM_ERROR_INIT;

	create(f, MIB);
	put(f, 1, 0, 7);
	put(f, 1, 1, 7);
	put(f, 2, 0, 7);
	put(f, 1, 2, 0);
	assert_int_equal(fm_page_store_put_known(f->s, 3, BASE, fm_page_hash(&f->s->secret, content(7)), &e), 0);
	fm_page_store_stats(f->s, &st);
	assert_int_equal(st.pages, 5);
	assert_int_equal(st.zero_pages, 1);
	assert_int_equal(st.unique_pages, 1);
	expect(f, 3, 0, 7);
	expect(f, 1, 2, 0);
	assert_memory_equal(fm_page_store_peek(f->s, 1, BASE + 2 * PAGE), content(0), PAGE);
	expect_none(f, 3, 1);
	/* The last of them that changes takes the content away. */
	put(f, 1, 0, 8);
	put(f, 1, 1, 9);
	assert_int_equal(fm_page_store_put_zero(f->s, 2, BASE, &e), 0);
	assert_int_equal(fm_page_store_drop(f->s, 3, BASE, 1, &e), 0);
	assert_int_equal(bytes_of(f), 2 * PAGE);
	assert_int_equal(fm_page_store_put_known(f->s, 3, BASE, fm_page_hash(&f->s->secret, content(7)), &e), -1);
	assert_int_equal(e.code, FM_E_NOT_FOUND);
	expect_none(f, 3, 0);
	/* A page of its own content, again, and known to itself */
	put(f, 1, 0, 8);
	assert_int_equal(fm_page_store_put_known(f->s, 1, BASE, fm_page_hash(&f->s->secret, content(8)), &e), 0);
	expect(f, 1, 0, 8);
	assert_int_equal(bytes_of(f), 2 * PAGE);
}

static void test_same_hash_is_not_same_page(void **state)
{
	struct fixture *f = *state;
	struct fm_page_hash h = { 1, 2 };
	struct fm_error e = FM_ERROR_INIT;

	create(f, 16 * MIB);
	for (uint64_t round = 0; round < 2; round++)
		for (uint64_t i = 0; i < 600; i++)
			assert_int_equal(fm_store_put_hashed(f->s, 1, BASE + i * PAGE, content(1 + i), h, &e), 0);
	for (uint64_t i = 0; i < 600; i++)
		expect(f, 1, i, 1 + i);
	assert_int_equal(fm_page_store_drop(f->s, 1, BASE, 600, &e), 0);
	assert_int_equal(bytes_of(f), 0);
	put(f, 1, 0, 5);
	expect(f, 1, 0, 5);
}

static int count_hashes(void *userdata, pid_t ns_pid, uint64_t vaddr, const struct fm_page_hash *hashes, size_t n, struct fm_error *err)
{
	struct fixture *f = userdata;

	for (size_t i = 0; i < n; i++) {
		uint64_t page = (vaddr - BASE) / PAGE + i;
		struct fm_page_hash h = fm_page_hash(&f->s->secret, content(1 + page / 2));
		assert_int_equal(hashes[i].lo, h.lo);
		assert_int_equal(hashes[i].hi, h.hi);
	}
	f->told += n;
	return 0;
}

/* 0 .. n - 1, without every third of them, each content twice */
static void fill_with_holes(struct fixture *f, uint64_t n)
{
	struct fm_error e = FM_ERROR_INIT;

	for (uint64_t i = 0; i < n; i++)
		put(f, 1, i, 1 + i / 2);
	for (uint64_t i = 0; i < n; i += 3)
		assert_int_equal(fm_page_store_drop(f->s, 1, BASE + i * PAGE, 1, &e), 0);
}

/* Two stores have nothing in common; with another secret all that is there is found by that, and by nothing else. */
static void test_another_secret(void **state)
{
	struct fixture *f = *state;
	struct fm_hash_secret old, secret;
	struct fm_error e = FM_ERROR_INIT;

	create(f, 16 * MIB);
	assert_int_equal(fm_page_store_set_secret(f->s, &f->s->secret, &e), 0);
	fill_with_holes(f, 3000);
	uint64_t bytes = bytes_of(f);
	old = f->s->secret;
	fm_hash_secret_draw(&secret);
	assert_memory_not_equal(&old, &secret, sizeof(old));
	assert_int_equal(fm_page_store_set_secret(f->s, &secret, &e), 0);
	assert_int_equal(fm_page_store_each(f->s, count_hashes, f, &e), 0);
	assert_int_equal(f->told, 2000);
	assert_int_equal(fm_page_store_put_known(f->s, 2, BASE, fm_page_hash(&old, content(7)), &e), -1);
	assert_int_equal(e.code, FM_E_NOT_FOUND);
	for (uint64_t i = 0; i < 3000; i++) /* every content is still there once */
		assert_int_equal(fm_page_store_put_known(f->s, 2, BASE + i * PAGE, fm_page_hash(&secret, content(1 + i / 2)), &e), 0);
	for (uint64_t i = 0; i < 3000; i++) {
		put(f, 1, i, 1 + i / 2);
		expect(f, 1, i, 1 + i / 2);
		expect(f, 2, i, 1 + i / 2);
	}
	assert_int_equal(bytes_of(f), bytes);
	put(f, 1, 3000, 5000); /* and what was free is used again */
	assert_int_equal(bytes_of(f), bytes + PAGE);
	seal(f);
	assert_int_equal(fm_page_store_set_secret(f->s, &secret, &e), 0);
	assert_int_equal(fm_page_store_set_secret(f->s, &old, &e), -1);
	assert_int_equal(e.code, FM_E_FAILED_PRECONDITION);
}

#define MODEL_PAGES 700
#define MODEL_NONE  UINT64_MAX

static void compare_with_model(struct fixture *f, const uint64_t *model)
{
	uint64_t pages = 0;
	struct fm_page_store_stats st;

	for (uint64_t i = 0; i < MODEL_PAGES; i++) {
		pid_t pid = 1 + (pid_t)(i % 3);
		uint64_t page = i / 3 * (i % 7 == 0 ? 1 : 1000);
		if (model[i] == MODEL_NONE)
			expect_none(f, pid, page);
		else
			expect(f, pid, page, model[i]);
		pages += model[i] != MODEL_NONE;
	}
	fm_page_store_stats(f->s, &st);
	assert_int_equal(st.pages, pages);
}

static void test_against_model(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	uint64_t model[MODEL_PAGES];

	create(f, 4 * MIB);
	srandom(1);
	for (size_t i = 0; i < MODEL_PAGES; i++)
		model[i] = MODEL_NONE;
	for (int round = 0; round < 20000; round++) {
		uint64_t i = (uint64_t)random() % MODEL_PAGES, n = (uint64_t)random() % 200;
		pid_t pid = 1 + (pid_t)(i % 3);
		uint64_t page = i / 3 * (i % 7 == 0 ? 1 : 1000);
		uint64_t vaddr = BASE + page * PAGE;
		if (random() % 4 == 0) {
			assert_int_equal(fm_page_store_drop(f->s, pid, vaddr, 1, &e), 0);
			model[i] = MODEL_NONE;
		} else if (random() % 3 || !n) {
			put(f, pid, page, n);
			model[i] = n;
		} else if (fm_page_store_put_known(f->s, pid, vaddr, fm_page_hash(&f->s->secret, content(n)), &e) == 0) {
			model[i] = n;
		}
		if (round % 2000 == 0)
			compare_with_model(f, model);
		if (round % 3000 == 0) {
			struct fm_hash_secret secret;
			fm_hash_secret_draw(&secret);
			assert_int_equal(fm_page_store_set_secret(f->s, &secret, &e), 0);
		}
	}
	compare_with_model(f, model);
	seal(f);
	compare_with_model(f, model);
}

static void test_wide_drop(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;

	create(f, 4 * MIB);
	for (uint64_t i = 0; i < 300; i++)
		put(f, 1, i * 100, 1 + i);
	put(f, 2, 5, 1);
	/* The whole address space at once, then what overflows it */
	assert_int_equal(fm_page_store_drop(f->s, 1, BASE + 100 * PAGE, UINT64_MAX, &e), 0);
	expect(f, 1, 0, 1);
	for (uint64_t i = 1; i < 300; i++)
		expect_none(f, 1, i * 100);
	expect(f, 2, 5, 1);
	assert_int_equal(bytes_of(f), PAGE);
	/* Ranges that come and go leave nothing behind that would fill the table. */
	for (uint64_t i = 0; i < 20000; i++) {
		put(f, 1, i * 64, 3);
		assert_int_equal(fm_page_store_drop(f->s, 1, BASE + i * 64 * PAGE, 1, &e), 0);
	}
	assert_true(f->s->names.cap <= 2048);
}

static void test_limits(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;

	assert_int_equal(fm_page_store_new(100, &f->s, &e), -1);
	assert_int_equal(fm_page_store_new(UINT64_MAX, &f->s, &e), -1);
	create(f, 8 * PAGE + 5);
	for (uint64_t i = 0; i < 8; i++)
		put(f, 1, i, 1 + i);
	assert_int_equal(fm_page_store_put(f->s, 1, BASE + 8 * PAGE, content(9), &e), -1);
	assert_int_equal(e.code, FM_E_RESOURCE_EXHAUSTED);
	put(f, 1, 7, 20); /* in place */
	for (uint64_t i = 8; i < 32; i++)
		put(f, 1, i, i % 2);
	assert_int_equal(fm_page_store_put_zero(f->s, 1, BASE + 32 * PAGE, &e), -1);
	assert_int_equal(e.code, FM_E_RESOURCE_EXHAUSTED);
	expect_none(f, 1, 32);
	for (uint64_t i = 0; i < 7; i++)
		expect(f, 1, i, 1 + i);
	expect(f, 1, 7, 20);
	put(f, 1, 31, 0); /* a page that is here may change */

	const struct {
		pid_t pid;
		uint64_t vaddr;
	} bad[] = { { 0, BASE }, { -1, BASE }, { 1, BASE + 1 }, { 1, FM_PAGE_ADDRESS_END }, { 1, UINT64_MAX - 4095 } };
	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++) {
		assert_int_equal(fm_page_store_put(f->s, bad[i].pid, bad[i].vaddr, content(1), &e), -1);
		assert_int_equal(e.code, FM_E_INVALID_ARGUMENT);
	}
}

static void test_sealed(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;

	create(f, MIB);
	struct fm_page_hash h = fm_page_hash(&f->s->secret, content(1));
	put(f, 1, 0, 1);
	fm_page_store_taken(f->s, 1, BASE, 1); /* not yet: nothing happens */
	expect(f, 1, 0, 1);
	seal(f);
	assert_int_equal(fm_page_store_put(f->s, 1, BASE, content(2), &e), -1);
	assert_int_equal(e.code, FM_E_FAILED_PRECONDITION);
	assert_int_equal(fm_page_store_put_zero(f->s, 1, BASE, &e), -1);
	assert_int_equal(fm_page_store_put_known(f->s, 1, BASE, h, &e), -1);
	assert_int_equal(fm_page_store_drop(f->s, 1, BASE, 1, &e), -1);
	assert_int_equal(fm_page_store_seal(f->s, &e), -1);
	expect(f, 1, 0, 1);
}

static void test_runs(void **state)
{
	struct fixture *f = *state;
	enum fm_page_have have;
	const void *p;

	create(f, 4 * MIB);
	for (uint64_t i = 0; i < 200; i++) /* over several leaves */
		put(f, 1, i, 1 + i);
	for (uint64_t i = 200; i < 300; i++)
		put(f, 1, i, 0);
	put(f, 1, 400, 1);
	put(f, 1, 401, 1);
	put(f, 1, 402, 2);
	seal(f);
	assert_int_equal(fm_page_store_get_run(f->s, 1, BASE, 1000, &have, &p), 200);
	assert_int_equal(have, FM_PAGE_DATA);
	for (uint64_t i = 0; i < 200; i++)
		assert_memory_equal((const uint8_t *)p + i * PAGE, content(1 + i), PAGE);
	assert_int_equal(fm_page_store_get_run(f->s, 1, BASE + 50 * PAGE, 20, &have, &p), 20);
	assert_memory_equal(p, content(51), PAGE);
	assert_int_equal(fm_page_store_get_run(f->s, 1, BASE + 210 * PAGE, 1000, &have, &p), 90);
	assert_int_equal(have, FM_PAGE_ZERO);
	assert_int_equal(fm_page_store_get_run(f->s, 1, BASE + 300 * PAGE, 1000, &have, &p), 100);
	assert_int_equal(have, FM_PAGE_NOT_HERE);
	assert_int_equal(fm_page_store_get_run(f->s, 1, BASE + 400 * PAGE, 1000, &have, &p), 1);
	assert_int_equal(fm_page_store_get_run(f->s, 1, BASE + 401 * PAGE, 1000, &have, &p), 2);
	assert_int_equal(fm_page_store_get_run(f->s, 9, BASE, 100000, &have, &p), 100000);
	assert_int_equal(have, FM_PAGE_NOT_HERE);
	assert_int_equal(fm_page_store_get_run(f->s, 1, BASE, 0, &have, &p), 0);
}

/* Memory that the kernel has given for the slots */
static uint64_t resident_bytes(const struct fixture *f)
{
	size_t n = f->s->backed / PAGE;
	unsigned char *there = malloc(n);
	uint64_t pages = 0;

	assert_int_equal(mincore(f->s->base, f->s->backed, there), 0);
	for (size_t i = 0; i < n; i++)
		pages += there[i] & 1;
	free(there);
	return pages * PAGE;
}

static void test_taken_gives_memory_back(void **state)
{
	struct fixture *f = *state;
	const uint64_t chunk = FM_STORE_CHUNK, n = 2 * chunk;

	create(f, 8 * MIB);
	for (uint64_t i = 0; i < n; i++)
		put(f, 1, i, 1 + i);
	put(f, 2, 0, 11); /* shared with page 10 */
	put(f, 1, n, 0);
	seal(f);
	uint64_t before = resident_bytes(f);
	fm_page_store_taken(f->s, 1, BASE, chunk);
	assert_int_equal(before - resident_bytes(f), 0);
	expect_none(f, 1, 0);
	expect_none(f, 1, 10);
	expect(f, 2, 0, 11);
	expect(f, 1, chunk, chunk + 1);
	fm_page_store_taken(f->s, 1, BASE, chunk); /* twice is once */
	assert_int_equal(bytes_of(f), (chunk + 1) * PAGE);
	fm_page_store_taken(f->s, 2, 0, UINT64_MAX);
	assert_int_equal(before - resident_bytes(f), chunk * PAGE);
	assert_int_equal(bytes_of(f), chunk * PAGE);

	for (uint64_t i = chunk; i < n; i++)
		expect(f, 1, i, 1 + i);
	expect(f, 1, n, 0);
	fm_page_store_taken(f->s, 1, 0, UINT64_MAX);
	assert_int_equal(before - resident_bytes(f), n * PAGE);
	assert_int_equal(bytes_of(f), 0);
	expect_none(f, 1, n);
}

struct taker {
	struct fixture *f;
	uint64_t first;
	unsigned wrong;
};

/* Every fourth page is this thread's; all four threads' pages of a group have the same content. */
static void *take_pages(void *arg)
{
	struct taker *t = arg;

	for (uint64_t i = t->first; i < 4000; i += 4) {
		const void *p = NULL;
		uint64_t first = 0;
		if (fm_page_store_get(t->f->s, 1, BASE + i * PAGE, &p) != FM_PAGE_DATA) {
			t->wrong++;
			continue;
		}
		memcpy(&first, p, sizeof(first));
		t->wrong += first != (1 + i / 4) * 0x9e3779b97f4a7c15ull;
		fm_page_store_taken(t->f->s, 1, BASE + i * PAGE, 1);
	}
	return NULL;
}

static void test_threads_take(void **state)
{
	struct fixture *f = *state;
	struct taker t[4];
	pthread_t threads[4];

	create(f, 16 * MIB);
	for (uint64_t i = 0; i < 4000; i++)
		put(f, 1, i, 1 + i / 4);
	seal(f);
	for (unsigned i = 0; i < 4; i++) {
		t[i] = (struct taker){ .f = f, .first = i };
		assert_int_equal(pthread_create(&threads[i], NULL, take_pages, &t[i]), 0);
	}
	for (unsigned i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(t[i].wrong, 0);
	}
	assert_int_equal(bytes_of(f), 0);
}

/* A child has none of it, and goes on without. */
static void test_is_not_inherited(void **state)
{
	struct fixture *f = *state;
	int status;

	create(f, MIB);
	put(f, 1, 0, 1);
	pid_t pid = fork();
	if (pid == 0) {
		unsigned char there;
		_exit(mincore(f->s->base, PAGE, &there) < 0 && errno == ENOMEM ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	expect(f, 1, 0, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_contents_are_kept_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_same_hash_is_not_same_page, setup, teardown),
		cmocka_unit_test_setup_teardown(test_another_secret, setup, teardown),
		cmocka_unit_test_setup_teardown(test_against_model, setup, teardown),
		cmocka_unit_test_setup_teardown(test_wide_drop, setup, teardown),
		cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sealed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_runs, setup, teardown),
		cmocka_unit_test_setup_teardown(test_taken_gives_memory_back, setup, teardown),
		cmocka_unit_test_setup_teardown(test_threads_take, setup, teardown),
		cmocka_unit_test_setup_teardown(test_is_not_inherited, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
