/* SPDX-License-Identifier: MIT */
/*
 * test-tracker.c - the dirty tracker against programs of their own (hostile.c): a copy made while they run, and corrected when they are frozen, is exact; and they are none the worse for it.
 * FM_TEST_TRACKER_SEED and FM_TEST_TRACKER_ROUNDS change the chaos, FM_TEST_TRACKER_MIB (default 64) the size of what is timed.
 *
 * Needs root.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above */
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hostile-lab.h"
#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/proc.h"
#include "basic/str.h"
#include "sync/tracker.h"
#include "tracker-lab.h"

#define PAGE 4096u

/* ---------------------------------------------------------------- targets */

struct fixture {
	struct target targets[2];
	size_t n_targets;
	struct fm_tracker *tracker;
	char dir[32];
};

static struct target *start(struct fixture *f, const char *what, const char *a, const char *b)
{
	struct target *t = &f->targets[f->n_targets++];

	target_start(t, what, a, b);
	return t;
}

static int status_of(struct target *t)
{
	const struct fm_proc_id id = { .pid = t->pid };
	struct fm_proc_id real = id;
	int status;

	if (fm_proc_identify(t->pid, &real, NULL) == 0)
		assert_ok(fm_proc_wait_gone(&real, HANG_MS, &err));
	assert_int_equal(waitpid(t->pid, &status, 0), t->pid);
	t->pid = 0;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	strcpy(f->dir, "/tmp/fm-tracker-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fm_tracker_free(f->tracker);
	for (size_t i = 0; i < f->n_targets; i++)
		target_end(&f->targets[i]);
	(void)fm_remove_tree(f->dir, NULL);
	free(f);
	return 0;
}

static void new_tracker(struct fixture *f, enum fm_tracker_backend b, unsigned kinds)
{
	const struct fm_tracker_opts o = { .backend = b, .kinds = kinds };

	fm_tracker_free(f->tracker);
	f->tracker = NULL;
	assert_ok(fm_tracker_new(&o, &f->tracker, &err));
	assert_int_equal(fm_tracker_backend(f->tracker), b);
}

static void set_one(struct fixture *f, pid_t pid)
{
	const struct fm_page_source_task task = { .ns_pid = 1, .host_pid = pid };

	assert_ok(fm_tracker_set_tasks(f->tracker, &task, 1, &err));
}

static bool works(enum fm_tracker_backend b)
{
	struct fm_tracker_support s;

	fm_tracker_probe(&s);
	if (!s.works[b])
		printf("             %s does not work here: %s\n", fm_tracker_backend_to_string(b), s.reason[b]);
	return s.works[b];
}

/* How many pages of [first, first + n) of an echo's memory are in the list. */
static uint64_t among(const struct fm_page_runs *r, const struct target *t, uint64_t first, uint64_t n)
{
	uint64_t from = t->memory + first * PAGE, to = from + n * PAGE, sum = 0;

	for (size_t i = 0; i < r->n; i++) {
		uint64_t a = r->v[i].vaddr, b = a + (uint64_t)r->v[i].n_pages * PAGE;
		a = a > from ? a : from;
		b = b < to ? b : to;
		sum += b > a ? (b - a) / PAGE : 0;
	}
	return sum;
}

/* The caller's part for the hash backend. */
static void read_dirty(struct fixture *f, pid_t pid, const struct fm_page_runs *r)
{
	for (size_t i = 0; i < r->n; i++) {
		size_t bytes = (size_t)r->v[i].n_pages * PAGE;
		_fm_free_ uint8_t *to = malloc(bytes);
		struct iovec local = { .iov_base = to, .iov_len = bytes };
		struct iovec remote = { .iov_base = (void *)(uintptr_t)r->v[i].vaddr, .iov_len = bytes };
		ssize_t got = process_vm_readv(pid, &local, 1, &remote, 1, 0);
		if (got > 0)
			fm_tracker_note_read(f->tracker, r->v[i].task, r->v[i].vaddr, to, (size_t)got / PAGE);
	}
}

static uint64_t scan(struct fixture *f, const struct target *t, uint64_t first, uint64_t n)
{
	_fm_cleanup_(fm_page_runs_done) struct fm_page_runs dirty = { 0 };

	assert_ok(fm_tracker_scan(f->tracker, &dirty, &err));
	read_dirty(f, t->pid, &dirty);
	return among(&dirty, t, first, n);
}

/* ---------------------------------------------------------------- simple truths */

static void test_names(void **state)
{
	enum fm_tracker_backend b;

	for (int i = 0; i < _FM_TRACKER_MAX; i++) {
		assert_ok(fm_tracker_backend_from_string(fm_tracker_backend_to_string((enum fm_tracker_backend)i), &b, &err));
		assert_int_equal(b, i);
	}
	assert_int_equal(fm_tracker_backend_from_string("magic", &b, &err), -1);
	assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
}

static void test_probe(void **state)
{
	struct fixture *f = *state;
	struct fm_tracker_support s;
	const struct fm_tracker_opts o = { .backend = FM_TRACKER_AUTO, .kinds = FM_TRACK_ALL };

	uint64_t t = fm_now_us();
	fm_tracker_probe(&s);
	printf("             the probe took %.1f ms\n", (double)(fm_now_us() - t) / 1000);
	assert_false(s.works[FM_TRACKER_AUTO]);
	assert_true(s.works[FM_TRACKER_HASH]);
	assert_true(s.works[s.best]);
	for (int i = 1; i < _FM_TRACKER_MAX; i++)
		assert_int_equal(s.works[i], s.reason[i][0] == '\0');
	assert_ok(fm_tracker_new(&o, &f->tracker, &err));
	assert_int_equal(fm_tracker_backend(f->tracker), s.best);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child is left */
}

static void check_what_is_dirty(struct fixture *f, enum fm_tracker_backend b)
{
	_fm_cleanup_(fm_page_runs_done) struct fm_page_runs dirty = { 0 }, present = { 0 };
	struct target *t = start(f, "echo", "100", NULL);

	new_tracker(f, b, FM_TRACK_ANONYMOUS);
	set_one(f, t->pid);
	assert_int_equal(scan(f, t, 0, 100), 100);
	assert_int_equal(scan(f, t, 0, 100), 0);
	order(t, 'w', 7, 3);
	assert_int_equal(scan(f, t, 0, 100), 3);
	order(t, 'w', 50, 1);
	order(t, 'd', 20, 10);
	assert_int_equal(kill(t->pid, SIGSTOP), 0);
	assert_int_equal(state_becomes(t->pid, "T"), 'T');
	assert_ok(fm_tracker_scan_frozen(f->tracker, &dirty, &present, &err));
	assert_int_equal(among(&dirty, t, 0, 100), 1);
	assert_int_equal(among(&dirty, t, 50, 1), 1);
	assert_int_equal(among(&present, t, 0, 100), 90);
	assert_int_equal(among(&present, t, 20, 10), 0);
	assert_int_equal(kill(t->pid, SIGCONT), 0);
	/* the frozen scan forgot nothing */
	assert_int_equal(scan(f, t, 50, 1), 1);
	/* and another program is all new */
	give(t, 'e', 0, 0);
	read_target(t, &t->memory, sizeof(t->memory));
	assert_int_equal(scan(f, t, 0, 100), 100);
	assert_int_equal(scan(f, t, 0, 100), b == FM_TRACKER_WRITE_PROTECT ? 100 : 0); /* in this one it is registered */
	assert_int_equal(scan(f, t, 0, 100), 0);
	order(t, 'w', 3, 1);
	assert_int_equal(scan(f, t, 0, 100), 1);
}

/* Content changes without a write: pages of zeros come in the place of others, and other pages in the place of whole page tables. */
static void check_unwritten(struct fixture *f, enum fm_tracker_backend b)
{
	_fm_cleanup_(fm_page_runs_done) struct fm_page_runs dirty = { 0 }, present = { 0 };
	const unsigned table = 512; /* pages of one page table */
	struct target *t = start(f, "small", "2048", NULL);
	unsigned first = (unsigned)(((uint64_t)table * PAGE - t->memory % ((uint64_t)table * PAGE)) / PAGE);

	new_tracker(f, b, FM_TRACK_ANONYMOUS);
	set_one(f, t->pid);
	order(t, 'w', first + table, table); /* or both would have the same bytes */
	assert_int_equal(scan(f, t, 0, 2048), 2048);
	assert_int_equal(scan(f, t, 0, 2048), 0);
	order(t, 'a', first, table);
	order(t, 'd', first + 2 * table, 10);
	order(t, 'r', first + 2 * table, 10);
	assert_int_equal(kill(t->pid, SIGSTOP), 0);
	assert_int_equal(state_becomes(t->pid, "T"), 'T');
	assert_ok(fm_tracker_scan_frozen(f->tracker, &dirty, &present, &err));
	assert_int_equal(among(&dirty, t, first, table), table);
	assert_int_equal(among(&present, t, first + table, table), 0);
	/* reported, or said not to be there: then they are zeros as well */
	assert_true(among(&dirty, t, first + 2 * table, 10) == 10 || among(&present, t, first + 2 * table, 10) == 0);
	assert_int_equal(kill(t->pid, SIGCONT), 0);
	uint64_t zeros = among(&present, t, first + 2 * table, 10);
	assert_int_equal(scan(f, t, 0, 2048), table + zeros);
	if (b == FM_TRACKER_WRITE_PROTECT) /* what was moved is registered in the second one */
		(void)scan(f, t, 0, 2048);
	assert_int_equal(scan(f, t, 0, 2048), 0);
}

static void test_unwritten(void **state)
{
	for (int b = FM_TRACKER_AUTO + 1; b < _FM_TRACKER_MAX; b++)
		if (works((enum fm_tracker_backend)b))
			check_unwritten(*state, (enum fm_tracker_backend)b);
}

static void test_write_protect(void **state)
{
	if (!works(FM_TRACKER_WRITE_PROTECT))
		skip();
	check_what_is_dirty(*state, FM_TRACKER_WRITE_PROTECT);
}

/* The first half's pages are marked; then the second half comes back and is merged with it, and the kernel drops the registration of both. */
static void merge_and_write(struct fixture *f, const struct target *t)
{
	order(t, 'm', 0, 0);
	(void)scan(f, t, 0, 100);
	assert_int_equal(scan(f, t, 0, 50), 0);
	order(t, 'b', 0, 0);
	order(t, 'w', 3, 1);
}

static void check_merged(struct fixture *f, enum fm_tracker_backend b)
{
	_fm_cleanup_(fm_page_runs_done) struct fm_page_runs dirty = { 0 }, present = { 0 };
	struct target *t = start(f, "echo", "100", NULL);

	new_tracker(f, b, FM_TRACK_ANONYMOUS);
	set_one(f, t->pid);
	assert_int_equal(scan(f, t, 0, 100), 100);
	merge_and_write(f, t);
	assert_int_equal(scan(f, t, 3, 1), 1);
	assert_int_equal(scan(f, t, 0, 100), 0);
	order(t, 'w', 4, 1); /* no old mark is left */
	assert_int_equal(scan(f, t, 0, 100), 1);

	merge_and_write(f, t);
	assert_int_equal(kill(t->pid, SIGSTOP), 0);
	assert_int_equal(state_becomes(t->pid, "T"), 'T');
	assert_ok(fm_tracker_scan_frozen(f->tracker, &dirty, &present, &err));
	assert_int_equal(among(&dirty, t, 3, 1), 1);
	assert_int_equal(among(&dirty, t, 50, 50), 50);
	assert_int_equal(among(&present, t, 0, 100), 100);
}

static void test_merged_write_protect(void **state)
{
	if (!works(FM_TRACKER_WRITE_PROTECT))
		skip();
	check_merged(*state, FM_TRACKER_WRITE_PROTECT);
}

static void test_soft_dirty(void **state)
{
	if (!works(FM_TRACKER_SOFT_DIRTY))
		skip();
	check_what_is_dirty(*state, FM_TRACKER_SOFT_DIRTY);
}

static void test_hash(void **state)
{
	check_what_is_dirty(*state, FM_TRACKER_HASH);
}

/* A free lock that was held when it was read, and is free again: not the same as what was read. */
static void test_hash_changed_and_back(void **state)
{
	struct fixture *f = *state;
	_fm_cleanup_(fm_page_runs_done) struct fm_page_runs dirty = { 0 };
	struct target *t = start(f, "echo", "1", NULL);
	uint8_t other[PAGE] = { 1 };

	new_tracker(f, FM_TRACKER_HASH, FM_TRACK_ANONYMOUS);
	set_one(f, t->pid);
	assert_ok(fm_tracker_scan(f->tracker, &dirty, &err));
	other[100] = 1;
	fm_tracker_note_read(f->tracker, 0, t->memory, other, 1);
	assert_int_equal(scan(f, t, 0, 1), 1);
	assert_int_equal(scan(f, t, 0, 1), 0);

	/* reported, but could not be read: what was read before counts no longer */
	fm_page_runs_done(&dirty);
	order(t, 'w', 0, 1);
	assert_ok(fm_tracker_scan(f->tracker, &dirty, &err));
	for (int i = 0; i < 255; i++)
		order(t, 'w', 0, 1);
	assert_int_equal(scan(f, t, 0, 1), 1);
}

/* Two processes in one address space: both are told of every change. */
static void test_shared_address_space(void **state)
{
	struct fixture *f = *state;
	_fm_free_ pid_t *tree = NULL;
	size_t n = 0;
	char word;

	if (!works(FM_TRACKER_WRITE_PROTECT))
		skip();
	struct target *t = start(f, "echo", "100", NULL);
	new_tracker(f, FM_TRACKER_WRITE_PROTECT, FM_TRACK_ANONYMOUS);
	set_one(f, t->pid);
	assert_int_equal(scan(f, t, 0, 100), 100);
	assert_int_equal(scan(f, t, 0, 100), 0);
	give(t, 'v', 60, 1);
	read_target(t, &word, 1);
	assert_int_equal(word, 'v');
	assert_ok(fm_proc_tree(t->pid, &tree, &n, &err));
	assert_int_equal(n, 2);
	const struct fm_page_source_task tasks[] = { { 1, tree[1] }, { 2, tree[0] } };
	assert_ok(fm_tracker_set_tasks(f->tracker, tasks, 2, &err));
	for (int round = 0; round < 3; round++) {
		_fm_cleanup_(fm_page_runs_done) struct fm_page_runs dirty = { 0 };
		assert_ok(fm_tracker_scan(f->tracker, &dirty, &err));
		uint64_t of[2] = { 0, 0 };
		for (size_t i = 0; i < dirty.n; i++) {
			struct fm_page_runs one = { .v = &dirty.v[i], .n = 1 };
			of[dirty.v[i].task] += among(&one, t, 0, 100);
		}
		assert_int_equal(of[0], round == 0 ? 100 : 0);
		assert_int_equal(of[1], round == 0 ? 1 : 0);
	}
	order(t, 'w', 0, 0);
	set_one(f, t->pid);
	order(t, 'w', 0, 4);
	assert_int_equal(scan(f, t, 0, 100), 4);
}

static void test_dead_pid(void **state)
{
	struct fixture *f = *state;
	struct target *t = start(f, "echo", "10", NULL), *dead = start(f, "echo", "10", NULL);
	_fm_cleanup_(fm_page_runs_done) struct fm_page_runs dirty = { 0 };
	const struct fm_page_source_task tasks[] = { { 1, dead->pid }, { 2, t->pid } };

	enum fm_tracker_backend b = works(FM_TRACKER_WRITE_PROTECT) ? FM_TRACKER_WRITE_PROTECT : FM_TRACKER_SOFT_DIRTY;
	b = works(b) ? b : FM_TRACKER_HASH;
	new_tracker(f, b, FM_TRACK_ANONYMOUS);
	assert_ok(fm_tracker_set_tasks(f->tracker, tasks, 2, &err));
	assert_int_equal(kill(dead->pid, SIGKILL), 0);
	assert_int_equal(state_becomes(dead->pid, "Z"), 'Z');
	assert_ok(fm_tracker_scan(f->tracker, &dirty, &err)); /* a zombie */
	for (size_t i = 0; i < dirty.n; i++)
		assert_int_equal(dirty.v[i].task, 1);
	assert_true(dirty.n > 0);
	(void)status_of(dead);
	assert_ok(fm_tracker_set_tasks(f->tracker, tasks, 2, &err));
	/* by content: dirty until it is told that they were read */
	assert_int_equal(scan(f, t, 0, 10), b == FM_TRACKER_HASH ? 10 : 0);
}

/* ---------------------------------------------------------------- none the worse */

static size_t count_descriptors(pid_t pid)
{
	char path[48];
	size_t n = 0;

	(void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	_fm_closedir_ DIR *d = opendir(path);
	assert_non_null(d);
	for (struct dirent *e = readdir(d); e; e = readdir(d))
		n++;
	return n;
}

static void track_often(struct fixture *f, pid_t pid, unsigned times)
{
	for (unsigned i = 0; i < times; i++) {
		_fm_cleanup_(fm_page_runs_done) struct fm_page_runs dirty = { 0 };
		new_tracker(f, FM_TRACKER_WRITE_PROTECT, FM_TRACK_ANONYMOUS);
		set_one(f, pid);
		assert_ok(fm_tracker_scan(f->tracker, &dirty, &err));
		assert_true(dirty.n > 0);
	}
	fm_tracker_free(f->tracker);
	f->tracker = NULL;
}

static void test_registers(void **state)
{
	struct fixture *f = *state;
	uint32_t received, sent = 200;

	if (!works(FM_TRACKER_WRITE_PROTECT))
		skip();
	struct target *t = start(f, "registers", NULL, NULL);
	for (uint32_t i = 0; i < sent; i++) {
		assert_int_equal(kill(t->pid, SIGRTMIN), 0);
		track_often(f, t->pid, 1);
	}
	assert_int_equal(kill(t->pid, SIGTERM), 0);
	read_target(t, &received, sizeof(received));
	assert_int_equal(status_of(t), 0);
	assert_int_equal(received, sent);
}

static void test_blocked_calls(void **state)
{
	struct fixture *f = *state;

	if (!works(FM_TRACKER_WRITE_PROTECT))
		skip();
	struct target *t = start(f, "reader", NULL, NULL), *s = start(f, "sleeper", NULL, NULL);
	for (int i = 0; i < 50; i++) {
		track_often(f, t->pid, 1);
		track_often(f, s->pid, 1);
	}
	assert_ok(fm_write_full(t->to, "x", 1, &err));
	assert_int_equal(status_of(t), 0);
	assert_int_equal(kill(s->pid, SIGTERM), 0);
	assert_int_equal(status_of(s), 0);
}

/* What grows while it is registered must not be cut in two. */
static void test_growing(void **state)
{
	struct fixture *f = *state;

	if (!works(FM_TRACKER_WRITE_PROTECT))
		skip();
	struct target *t = start(f, "grower", NULL, NULL);
	new_tracker(f, FM_TRACKER_WRITE_PROTECT, FM_TRACK_ALL);
	set_one(f, t->pid);
	for (int i = 0; i < 1000; i++)
		(void)scan(f, t, 0, 0);
	assert_int_equal(kill(t->pid, SIGTERM), 0);
	assert_int_equal(status_of(t), 0);
}

static void test_leaves_nothing(void **state)
{
	struct fixture *f = *state;

	if (!works(FM_TRACKER_WRITE_PROTECT))
		skip();
	struct target *t = start(f, "echo", "10", NULL);
	size_t before = count_descriptors(t->pid);
	track_often(f, t->pid, 3);
	new_tracker(f, FM_TRACKER_WRITE_PROTECT, FM_TRACK_ALL);
	set_one(f, t->pid);
	assert_int_equal(scan(f, t, 0, 10), 10);
	assert_int_equal(count_descriptors(t->pid), before); /* also meanwhile */
	fm_tracker_free(f->tracker);
	f->tracker = NULL;
	assert_int_equal(state_becomes(t->pid, "S"), 'S');
	order(t, 'w', 0, 10);
}

static void test_tracker_is_killed(void **state)
{
	struct fixture *f = *state;
	int ready[2];
	char word;

	if (!works(FM_TRACKER_WRITE_PROTECT))
		skip();
	struct target *t = start(f, "echo", "10", NULL);
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid_t pid = fork();
	if (pid == 0) {
		track_often(f, t->pid, 1);
		new_tracker(f, FM_TRACKER_WRITE_PROTECT, FM_TRACK_ANONYMOUS);
		set_one(f, t->pid);
		(void)scan(f, t, 0, 10);
		(void)!write(ready[1], "x", 1);
		for (;;)
			(void)pause();
	}
	(void)close(ready[1]);
	assert_int_equal(fm_wait_fd(ready[0], POLLIN, HANG_MS, NULL), 1);
	assert_int_equal(read(ready[0], &word, 1), 1);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	(void)close(ready[0]);
	order(t, 'w', 0, 10);
	/* nothing of it is left: somebody else may register the same memory */
	new_tracker(f, FM_TRACKER_WRITE_PROTECT, FM_TRACK_ANONYMOUS);
	set_one(f, t->pid);
	assert_int_equal(scan(f, t, 0, 10), 10);
	assert_int_equal(scan(f, t, 0, 10), 0);
}

static void test_stays_stopped(void **state)
{
	struct fixture *f = *state;
	int status;

	if (!works(FM_TRACKER_WRITE_PROTECT))
		skip();
	struct target *t = start(f, "echo", "10", NULL);
	assert_int_equal(kill(t->pid, SIGSTOP), 0);
	assert_int_equal(waitpid(t->pid, &status, WUNTRACED), t->pid);
	track_often(f, t->pid, 20);
	assert_int_equal(state_becomes(t->pid, "T"), 'T');
	give(t, 'w', 0, 1);
	assert_int_equal(fm_wait_fd(t->from, POLLIN, 50, NULL), 0);
	assert_int_equal(kill(t->pid, SIGCONT), 0);
	char word;
	read_target(t, &word, 1);
}

static void test_traced_by_another(void **state)
{
	struct fixture *f = *state;
	_fm_cleanup_(fm_page_runs_done) struct fm_page_runs dirty = { 0 };
	int ready[2];
	char word;

	if (!works(FM_TRACKER_WRITE_PROTECT))
		skip();
	struct target *t = start(f, "echo", "10", NULL);
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid_t pid = fork();
	if (pid == 0) {
		if (ptrace(PTRACE_SEIZE, t->pid, NULL, NULL) == 0)
			(void)!write(ready[1], "x", 1);
		(void)!pause();
		_exit(0);
	}
	assert_int_equal(fm_wait_fd(ready[0], POLLIN, HANG_MS, NULL), 1);
	assert_int_equal(read(ready[0], &word, 1), 1);
	new_tracker(f, FM_TRACKER_WRITE_PROTECT, FM_TRACK_ANONYMOUS);
	set_one(f, t->pid);
	assert_int_equal(fm_tracker_scan(f->tracker, &dirty, &err), -1);
	assert_int_equal(err.code, FM_E_FAILED_PRECONDITION);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	(void)close(ready[0]);
	(void)close(ready[1]);
	assert_int_equal(scan(f, t, 0, 10), 10);
	order(t, 'w', 0, 1);
}

/* ---------------------------------------------------------------- chaos */

static unsigned number(const char *name, unsigned otherwise)
{
	const char *s = getenv(name);

	return s ? (unsigned)strtoul(s, NULL, 10) : otherwise;
}

static void one_round(struct fixture *f, struct copy *c, pid_t root)
{
	_fm_cleanup_(fm_page_runs_done) struct fm_page_runs dirty = { 0 };
	struct fm_page_source_task tasks[LAB_PROCESSES];

	size_t n = lab_tree(root, tasks);
	assert_ok(fm_tracker_set_tasks(f->tracker, tasks, n, &err));
	assert_ok(fm_tracker_scan(f->tracker, &dirty, &err));
	(void)copy_read(c, f->tracker, &dirty, tasks);
}

/* Pages of all copies, and how many of them were read in the freeze. */
struct copies {
	uint64_t same, last;
};

static void check_copy(struct fixture *f, enum fm_tracker_backend b, unsigned seed, unsigned rounds, struct copies *sum)
{
	_fm_cleanup_(copy_done) struct copy c = { .slots = calloc(LAB_SLOTS, sizeof(struct copied)) };
	_fm_cleanup_(fm_page_runs_done) struct fm_page_runs dirty = { 0 }, present = { 0 };
	struct fm_page_source_task tasks[LAB_PROCESSES];
	char text[16];

	assert_non_null(c.slots);
	(void)snprintf(text, sizeof(text), "%u", seed);
	f->n_targets = 0;
	struct target *t = start(f, "chaos", text, f->dir);
	new_tracker(f, b, FM_TRACK_ALL);
	for (unsigned i = 0; i < rounds; i++) {
		one_round(f, &c, t->pid);
		fm_pause_ms(20);
	}
	if (strchr("ZX", fm_proc_state(t->pid)))
		fail_msg("the target died: status %d", status_of(t));
	size_t n = lab_freeze(t->pid, tasks);
	assert_ok(fm_tracker_set_tasks(f->tracker, tasks, n, &err));
	assert_ok(fm_tracker_scan_frozen(f->tracker, &dirty, &present, &err));
	copy_keep(&c, &present, tasks);
	uint64_t last = copy_read(&c, f->tracker, &dirty, tasks);
	struct truth r = lab_compare(&c, tasks, n);
	for (size_t i = n; i-- > 0;) /* each: one that was stopped right after its fork does not die with its parent yet */
		assert_int_equal(kill(tasks[i].host_pid, SIGKILL), 0);
	printf("             seed %u: %zu processes, %llu pages the same (%llu read last), %llu zero, %llu the file's, %llu unreadable\n",
	       seed, n, (unsigned long long)r.same, (unsigned long long)last, (unsigned long long)r.zero, (unsigned long long)r.of_file,
	       (unsigned long long)r.unreadable);
	assert_int_equal(r.different, 0);
	assert_int_equal(r.missing, 0);
	assert_int_equal(r.stale, 0);
	assert_true(r.same > 100);
	sum->same += r.same;
	sum->last += last;
	fm_tracker_free(f->tracker);
	f->tracker = NULL;
	(void)status_of(t);
	(void)close(t->to);
	(void)close(t->from);
	f->n_targets = 0;
}

static void check_copies(struct fixture *f, enum fm_tracker_backend b, unsigned times)
{
	unsigned seed = number("FM_TEST_TRACKER_SEED", 0);
	struct copies sum = { 0 };

	if (!works(b))
		skip();
	times = number("FM_TEST_TRACKER_TIMES", times);
	for (unsigned i = 0; i < times; i++)
		check_copy(f, b, seed ? seed : 1 + i, number("FM_TEST_TRACKER_ROUNDS", 10), &sum);
	/* The copies were made while the program ran, not in the end. (One may be, when nothing could be vouched for.) */
	assert_true(sum.last < sum.same);
}

static void test_copy_write_protect(void **state)
{
	check_copies(*state, FM_TRACKER_WRITE_PROTECT, 6);
}

static void test_copy_soft_dirty(void **state)
{
	check_copies(*state, FM_TRACKER_SOFT_DIRTY, 6);
}

static void test_copy_hash(void **state)
{
	check_copies(*state, FM_TRACKER_HASH, 3);
}

/* ---------------------------------------------------------------- how long it takes */

static void time_scan(struct fixture *f, const char *what, bool frozen)
{
	_fm_cleanup_(fm_page_runs_done) struct fm_page_runs dirty = { 0 }, present = { 0 };

	uint64_t t = fm_now_us();
	assert_ok(frozen ? fm_tracker_scan_frozen(f->tracker, &dirty, &present, &err) : fm_tracker_scan(f->tracker, &dirty, &err));
	printf("             %-22s %8.2f ms, %llu pages dirty\n", what, (double)(fm_now_us() - t) / 1000,
	       (unsigned long long)dirty.n_pages);
}

static void test_times(void **state)
{
	struct fixture *f = *state;
	unsigned pages = number("FM_TEST_TRACKER_MIB", 64) * 256;
	char text[16];

	if (!works(FM_TRACKER_WRITE_PROTECT))
		skip();
	(void)snprintf(text, sizeof(text), "%u", pages);
	struct target *t = start(f, "echo", text, NULL);
	new_tracker(f, FM_TRACKER_WRITE_PROTECT, FM_TRACK_ANONYMOUS);
	set_one(f, t->pid);
	time_scan(f, "first scan", false);
	time_scan(f, "idle", false);
	for (unsigned i = 0; i < pages; i += 6400)
		order(t, 'w', i, 64);
	assert_int_equal(kill(t->pid, SIGSTOP), 0);
	assert_int_equal(state_becomes(t->pid, "T"), 'T');
	time_scan(f, "frozen, 1 % dirty", true);
	uint64_t start_us = fm_now_us();
	fm_tracker_free(f->tracker);
	f->tracker = NULL;
	printf("             %-22s %8.2f ms\n", "free", (double)(fm_now_us() - start_us) / 1000);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_names),
		TEST(test_probe),
		TEST(test_write_protect),
		TEST(test_merged_write_protect),
		TEST(test_soft_dirty),
		TEST(test_hash),
		TEST(test_hash_changed_and_back),
		TEST(test_shared_address_space),
		TEST(test_dead_pid),
		TEST(test_registers),
		TEST(test_blocked_calls),
		TEST(test_growing),
		TEST(test_leaves_nothing),
		TEST(test_tracker_is_killed),
		TEST(test_stays_stopped),
		TEST(test_traced_by_another),
		TEST(test_copy_write_protect),
		TEST(test_unwritten),
		TEST(test_copy_soft_dirty),
		TEST(test_copy_hash),
		TEST(test_times),
	};

	cmocka_set_test_filter(getenv("FM_TEST_FILTER"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
