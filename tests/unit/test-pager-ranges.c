/* SPDX-License-Identifier: MIT */
/* test-pager-ranges.c - the pager's table, without a kernel: against a model that keeps one entry for every page of the address space. */
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
#include "sync/pager-ranges.h"

#define PAGE ((uint64_t)FM_PAGE_BYTES)
#define BASE 0x10000000ull

struct fixture {
	char dir[64];
	int dirfd;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/fm-ranges-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	f->dirfd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(f->dirfd >= 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	close(f->dirfd);
	(void)fm_remove_tree(f->dir, NULL);
	free(f);
	return 0;
}

static struct fm_pager_table *create(const struct fixture *f, const struct fm_pager_range *v, size_t n)
{
	struct fm_error e = FM_ERROR_INIT;
	struct fm_pager_table *t = NULL;

	if (fm_table_create(f->dirfd, v, n, &t, &e) < 0)
		fail_msg("%s", e.message);
	return t;
}

static enum fm_code refused(const struct fixture *f, const struct fm_pager_range *v, size_t n)
{
	struct fm_error e = FM_ERROR_INIT;
	struct fm_pager_table *t = NULL;

	assert_int_equal(fm_table_create(f->dirfd, v, n, &t, &e), -1);
	return e.code;
}

static void test_impossible_ranges(void **state)
{
	const struct fm_pager_range unaligned = { 5, BASE + 1, 1 }, empty = { 5, BASE, 0 }, nobody = { 0, BASE, 1 },
	                            high = { 5, 1ull << 60, 1 }, wraps = { 5, BASE, UINT64_MAX / PAGE }, huge = { 5, 0, (1ull << 32) + 1 };
	const struct fm_pager_range twice[] = { { 5, BASE + 4 * PAGE, 4 }, { 5, BASE, 5 } };
	const struct fm_pager_range *one[] = { &unaligned, &empty, &nobody, &high, &wraps, &huge };

	for (size_t i = 0; i < FM_ARRAY_SIZE(one); i++)
		assert_int_equal(refused(*state, one[i], 1), FM_E_DATA_LOSS);
	assert_int_equal(refused(*state, twice, 2), FM_E_DATA_LOSS);
}

static void test_ranges_are_sorted_and_joined(void **state)
{
	const struct fm_pager_range v[] = { { 9, BASE, 1 }, { 5, BASE + 8 * PAGE, 2 }, { 5, BASE + 2 * PAGE, 3 }, { 5, BASE, 2 } };
	struct fm_pager_table *t = create(*state, v, 4);
	uint64_t page;
	uint32_t n;

	assert_int_equal(t->n_pages, 8);
	assert_int_equal(t->n_tasks, 2);
	assert_int_equal(t->tasks[0].pid, 5);
	assert_int_equal(t->tasks[0].n_extents, 2);
	assert_int_equal(fm_task_address(&t->tasks[0], 4), BASE + 4 * PAGE);
	assert_int_equal(fm_task_address(&t->tasks[0], 5), BASE + 8 * PAGE);

	/* nobody lacks anything as long as there is no space */
	assert_false(fm_task_next_wanted(&t->tasks[0], 0, UINT64_MAX, 256, &page, &n));
	assert_false(fm_table_all_kept(t));
	struct fm_pager_space *s, *again;
	assert_int_equal(fm_table_add(t, 5, -1, &s, NULL), 0);
	assert_int_equal(fm_table_add(t, 5, -1, &again, NULL), -1);
	assert_true(fm_task_next_wanted(&t->tasks[0], 0, UINT64_MAX, 256, &page, &n));
	assert_int_equal(page, 0);
	assert_int_equal(n, 5); /* not across the gap in the source */
	assert_int_equal(fm_table_missing(t, true), 8);

	/* a process of which nothing is lazy */
	assert_int_equal(fm_table_add(t, 7, -1, &again, NULL), 0);
	assert_int_equal(again->missing, 0);
	assert_false(fm_space_page_at(again, BASE, &page));
	assert_int_equal(fm_table_add(t, 9, -1, &again, NULL), 0);
	assert_false(fm_table_all_kept(t));
	for (size_t i = 0; i < t->n_spaces; i++)
		fm_table_set_kept(t, t->spaces[i]);
	assert_true(fm_table_all_kept(t));
	fm_table_free(t);
}

static void test_asking(void **state)
{
	const struct fm_pager_range v[] = { { 5, BASE, 1000 } };
	struct fm_pager_table *t = create(*state, v, 1);
	struct fm_pager_task *task = &t->tasks[0];
	struct fm_pager_space *s, *child;
	uint64_t page;
	uint32_t n;

	assert_int_equal(fm_table_add(t, 5, -1, &s, NULL), 0);
	fm_task_set_asked(task, 0, 130, true);
	fm_space_set_done(s, 200, 1);
	assert_true(fm_task_next_wanted(task, 0, UINT64_MAX, 256, &page, &n));
	assert_int_equal(page, 130);
	assert_int_equal(n, 70);
	assert_true(fm_task_next_wanted(task, 201, UINT64_MAX, 256, &page, &n));
	assert_int_equal(page, 201);
	assert_int_equal(n, 256);
	assert_true(fm_task_next_wanted(task, 900, UINT64_MAX, 256, &page, &n));
	assert_int_equal(n, 100);
	assert_false(fm_task_next_wanted(task, 200, 201, 256, &page, &n));

	/* what the parent has and the child lacks is wanted, and the other way round */
	fm_space_set_done(s, 0, 1000);
	assert_false(fm_task_next_wanted(task, 0, UINT64_MAX, 256, &page, &n));
	assert_int_equal(fm_table_fork(t, s, &child, NULL), 0);
	assert_int_equal(child->missing, 0);
	fm_table_drop(t, child);
	assert_int_equal(task->state, FM_TASK_HERE);
	fm_table_free(t);
}

/* the model */

#define PAGES 300u
#define SPACE 1024u /* pages of address space */

struct model {
	int page[SPACE]; /* which page is at this place, -1 none */
	bool done[PAGES];
};

static void check(const struct fm_pager_space *s, const struct model *m)
{
	uint64_t missing = 0, page;
	struct fm_pager_extent run;

	for (unsigned i = 0; i < SPACE; i++) {
		bool here = fm_space_page_at(s, BASE + i * PAGE, &page);
		if (m->page[i] >= 0 && !m->done[m->page[i]]) {
			assert_true(here);
			assert_int_equal(page, m->page[i]);
			assert_false(fm_space_is_done(s, page));
			assert_true(fm_space_next_missing(s, page, PAGES, 1, &run));
			assert_int_equal(run.addr, BASE + i * PAGE);
		} else if (here) {
			assert_true(fm_space_is_done(s, page)); /* zeros */
		}
	}
	for (unsigned i = 0; i < PAGES; i++)
		missing += !m->done[i];
	assert_int_equal(s->missing, missing);
	/* the runs cover exactly what is missing, and lie together */
	for (uint64_t at = 0; fm_space_next_missing(s, at, PAGES, 64, &run); at = run.page + run.n_pages) {
		assert_true(run.n_pages >= 1 && run.n_pages <= 64);
		for (uint64_t i = 0; i < run.n_pages; i++) {
			assert_false(m->done[run.page + i]);
			assert_int_equal(m->page[(run.addr - BASE) / PAGE + i], run.page + i);
		}
		missing -= run.n_pages;
	}
	assert_int_equal(missing, 0);
}

static unsigned below(unsigned *seed, unsigned n)
{
	return (unsigned)rand_r(seed) % n;
}

static void model_remove(struct model *m, unsigned from, unsigned n)
{
	for (unsigned i = from; i < from + n; i++)
		if (m->page[i] >= 0)
			m->done[m->page[i]] = true;
}

static void random_step(struct fm_pager_table *t, struct fm_pager_space *s, struct model *m, unsigned *seed)
{
	unsigned n = 1 + below(seed, 40), from = below(seed, SPACE - n), to = below(seed, SPACE - n);

	switch (below(seed, 4)) {
	case 0: { /* filled */
		unsigned page = below(seed, PAGES);
		fm_space_set_done(s, page, 1);
		m->done[page] = true;
		return;
	}
	case 1:
		n = 1 + n / 8;
		fm_space_remove(s, BASE + from * PAGE, BASE + (from + n) * PAGE);
		model_remove(m, from, n);
		return;
	default:
		if (from < to + n && to < from + n) /* the kernel does not either */
			return;
		assert_int_equal(fm_space_remap(t, s, BASE + from * PAGE, BASE + to * PAGE, n * PAGE, NULL), 0);
		model_remove(m, to, n);
		memcpy(&m->page[to], &m->page[from], n * sizeof(m->page[0]));
		for (unsigned i = from; i < from + n; i++)
			m->page[i] = -1;
		return;
	}
}

/* Close and take up again: a crash between two events. */
static struct fm_pager_table *reopen(const struct fixture *f, struct fm_pager_table *t, const struct fm_pager_range *v, size_t n)
{
	struct fm_error e = FM_ERROR_INIT;
	struct fm_pager_table *again = NULL;

	fm_table_free(t);
	if (fm_table_open(f->dirfd, v, n, &again, &e) < 0)
		fail_msg("%s", e.message);
	return again;
}

static void play(const struct fixture *f, unsigned seed)
{
	const struct fm_pager_range v[] = { { 5, BASE, 100 }, { 5, BASE + 150 * PAGE, 100 }, { 5, BASE + 300 * PAGE, 100 } };
	struct fm_pager_table *t = create(f, v, 3);
	struct model parent = { 0 }, child;
	struct fm_pager_space *s, *c;

	assert_int_equal(fm_table_add(t, 5, -1, &s, NULL), 0);
	for (int i = 0; i < (int)SPACE; i++)
		parent.page[i] = i < 400 && i % 150 < 100 ? i / 150 * 100 + i % 150 : -1;
	check(s, &parent);
	for (unsigned i = 0; i < 30; i++) {
		random_step(t, s, &parent, &seed);
		check(s, &parent);
	}
	child = parent;
	assert_int_equal(fm_table_fork(t, s, &c, NULL), 0);
	for (unsigned i = 0; i < 60; i++) {
		random_step(t, s, &parent, &seed);
		random_step(t, c, &child, &seed);
		check(s, &parent);
		check(c, &child);
		uint64_t keys[2] = { s->key, c->key };
		if (i % 20 == 10) {
			t = reopen(f, t, v, 3);
			s = fm_table_space(t, keys[0]);
			c = fm_table_space(t, keys[1]);
			assert_true(c->forked && !s->forked);
		}
	}
	assert_int_equal(fm_table_missing(t, true), s->missing + c->missing);
	fm_table_drop(t, s);
	check(c, &child);
	assert_int_equal(t->tasks[0].state, FM_TASK_GONE);
	fm_table_free(t);
}

static void test_against_model(void **state)
{
	for (unsigned seed = 1; seed <= 60; seed++)
		play(*state, seed);
}

static void test_fragments_are_joined_again(void **state)
{
	const struct fm_pager_range v[] = { { 5, BASE, 512 } };
	struct fm_pager_table *t = create(*state, v, 1);
	struct fm_pager_space *s;

	assert_int_equal(fm_table_add(t, 5, -1, &s, NULL), 0);
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < 512; i += 2)
			assert_int_equal(fm_space_remap(t, s, BASE + i * PAGE, 2 * BASE + i * PAGE, PAGE, NULL), 0);
		assert_int_equal(s->n_extents, 512);
		for (unsigned i = 0; i < 512; i += 2)
			assert_int_equal(fm_space_remap(t, s, 2 * BASE + i * PAGE, BASE + i * PAGE, PAGE, NULL), 0);
		assert_int_equal(s->n_extents, 1);
	}
	assert_int_equal(s->missing, 512);
	fm_table_free(t);
}

static enum fm_code open_code(const struct fixture *f, const struct fm_pager_range *v, size_t n)
{
	struct fm_error e = FM_ERROR_INIT;
	struct fm_pager_table *t = NULL;

	assert_int_equal(fm_table_open(f->dirfd, v, n, &t, &e), -1);
	return e.code;
}

static void test_refuses_to_guess(void **state)
{
	const struct fixture *f = *state;
	const struct fm_pager_range v[] = { { 5, BASE, 10 }, { 6, BASE, 10 } }, other[] = { { 5, BASE, 10 }, { 6, BASE, 11 } };
	struct fm_pager_space *s;

	assert_int_equal(open_code(f, v, 2), FM_E_NOT_FOUND);
	struct fm_pager_table *t = create(f, v, 2);
	assert_int_equal(fm_table_add(t, 5, -1, &s, NULL), 0);
	assert_int_equal(open_code(f, v, 2), FM_E_DATA_LOSS); /* 6 was never here */
	assert_int_equal(fm_table_add(t, 6, -1, &s, NULL), 0);
	assert_int_equal(open_code(f, other, 2), FM_E_DATA_LOSS);

	/* died in an event */
	fm_pager_state_begin_event(t->state);
	assert_int_equal(open_code(f, v, 2), FM_E_DATA_LOSS);
	fm_pager_state_end_event(t->state);

	/* ended and dropped, after the restore */
	fm_pager_state_set_finished(t->state);
	fm_table_drop(t, s);
	t = reopen(f, t, v, 2);
	assert_int_equal(t->tasks[1].state, FM_TASK_GONE);
	assert_int_equal(fm_table_missing(t, true), 10);

	/* damage */
	int fd = openat(f->dirfd, FM_PAGER_STATE_NAME, O_RDWR | O_CLOEXEC);
	uint64_t far = 1ull << 40;
	assert_int_equal(pwrite(fd, &far, 8, 4096 + offsetof(struct fm_state_slot, done_offset)), 8);
	assert_int_equal(open_code(f, v, 2), FM_E_DATA_LOSS);
	fm_table_free(t);
	assert_int_equal(ftruncate(fd, 5000), 0);
	assert_int_equal(open_code(f, v, 2), FM_E_DATA_LOSS);
	close(fd);
}

static void test_many_children(void **state)
{
	const struct fm_pager_range v[] = { { 5, BASE, 40000 } };
	struct fm_pager_table *t = create(*state, v, 1);
	struct fm_pager_space *s, *c;
	struct fm_error e = FM_ERROR_INIT;
	int n = 1;

	assert_int_equal(fm_table_add(t, 5, -1, &s, NULL), 0);
	/* the space of those that are gone is used again: the file does not grow */
	for (int i = 0; i < 10000; i++) {
		assert_int_equal(fm_table_fork(t, s, &c, NULL), 0);
		fm_table_drop(t, c);
	}
	char path[128];
	char *data = NULL;
	(void)snprintf(path, sizeof(path), "%s/" FM_PAGER_STATE_NAME, ((struct fixture *)*state)->dir);
	assert_int_equal(fm_read_file(path, 1u << 20, &data, NULL, &e), 0);
	free(data);
	while (fm_table_fork(t, s, &c, &e) == 0)
		n++;
	assert_int_equal(n, FM_PAGER_MAX_SPACES);
	assert_int_equal(e.code, FM_E_RESOURCE_EXHAUSTED);
	fm_table_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_impossible_ranges, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ranges_are_sorted_and_joined, setup, teardown),
		cmocka_unit_test_setup_teardown(test_asking, setup, teardown),
		cmocka_unit_test_setup_teardown(test_against_model, setup, teardown),
		cmocka_unit_test_setup_teardown(test_fragments_are_joined_again, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refuses_to_guess, setup, teardown),
		cmocka_unit_test_setup_teardown(test_many_children, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
