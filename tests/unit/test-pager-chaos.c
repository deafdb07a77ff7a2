/* SPDX-License-Identifier: MIT */
/*
 * test-pager-chaos.c - the pager against a real kernel (pager-lab.h): processes that read, write, remove, unmap, protect, move and fork
 * while they are filled, by sources that shuffle and cut, and pagers that crash. Each process knows of every page what must be there.
 * FM_TEST_SEED changes what they do.
 *
 * Needs root.
 */
#include "pager-lab.h"

#include <sys/resource.h>

#define NS_PID 512

/* ---- chaos */

struct cell {
	uint8_t *at;
	uint64_t src;     /* 0: zeros */
	uint64_t mark;    /* written over, 0 = not */
	unsigned mapping; /* cells of one number lie in one mapping: the kernel moves only within one */
	bool gone;
};

struct chaos {
	const struct victim_side *v;
	struct cell *cells;
	uint64_t n;
	uint8_t *spare; /* where things are moved to */
	uint64_t spare_pages, spare_used;
	unsigned mappings;
	unsigned seed;
};

static uint64_t chaos_random(struct chaos *c, uint64_t n)
{
	return ((uint64_t)rand_r(&c->seed) << 16 ^ (uint64_t)rand_r(&c->seed)) % n;
}

static void chaos_check(const struct chaos *c, uint64_t i)
{
	const struct cell *cell = &c->cells[i];
	uint64_t first;

	if (cell->gone)
		return;
	if (cell->mark) {
		memcpy(&first, cell->at, sizeof(first));
		VICTIM_CHECK(first == cell->mark);
		return;
	}
	VICTIM_CHECK(content_is(c->v->ns_pid, cell->src && content_is_gone(cell->src) ? 0 : cell->src, cell->at));
}

static bool chaos_together(const struct chaos *c, uint64_t from, uint64_t n)
{
	for (uint64_t i = from; i < from + n; i++)
		if (c->cells[i].gone || c->cells[i].at != c->cells[from].at + (i - from) * PAGE)
			return false;
	return true;
}

static void chaos_new_mapping(struct chaos *c, uint64_t from, uint64_t n)
{
	c->mappings++;
	for (uint64_t i = from; i < from + n; i++)
		c->cells[i].mapping = c->mappings;
}

static uint64_t chaos_in_one_mapping(const struct chaos *c, uint64_t from, uint64_t n)
{
	for (uint64_t i = 1; i < n; i++)
		if (c->cells[from + i].mapping != c->cells[from].mapping)
			return i;
	return n;
}

static void chaos_move(struct chaos *c, uint64_t from, uint64_t n)
{
	if (c->spare_used + n > c->spare_pages)
		return;
	n = chaos_in_one_mapping(c, from, n);
	chaos_new_mapping(c, from, n);
	uint8_t *to = c->spare + c->spare_used * PAGE, *at = c->cells[from].at;
	VICTIM_CHECK(mremap(at, n * PAGE, n * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
	c->spare_used += n;
	for (uint64_t i = 0; i < n; i++)
		c->cells[from + i].at = to + i * PAGE;
	chaos_check(c, from + chaos_random(c, n));
}

static void chaos_step(struct chaos *c)
{
	uint64_t n = 1 + chaos_random(c, 48), from = chaos_random(c, c->n - n);
	struct cell *cell = &c->cells[from];

	switch (chaos_random(c, 6)) {
	case 0:
		if (!chaos_together(c, from, n))
			return;
		chaos_check(c, from); /* its neighbours are asked for now */
		VICTIM_CHECK(madvise(cell->at, n * PAGE, MADV_DONTNEED) == 0);
		for (uint64_t i = from; i < from + n; i++)
			c->cells[i].src = c->cells[i].mark = 0;
		for (uint64_t i = from; i < from + n && from % 2; i++) /* else nobody touches them before a fork */
			chaos_check(c, i);
		return;
	case 1:
		n = 1 + n / 8;
		if (!chaos_together(c, from, n))
			return;
		chaos_check(c, from);
		VICTIM_CHECK(munmap(cell->at, n * PAGE) == 0);
		for (uint64_t i = from; i < from + n; i++)
			c->cells[i].gone = true;
		return;
	case 2:
		if (!chaos_together(c, from, n))
			return;
		chaos_check(c, from);
		chaos_move(c, from, n);
		return;
	case 3:
		if (cell->gone)
			return;
		cell->mark = chaos_random(c, UINT32_MAX) + 1;
		memcpy(cell->at, &cell->mark, sizeof(cell->mark));
		return;
	case 4: /* mappings are split without a word: a piece that spans two does not go in at once */
		if (!chaos_together(c, from, n))
			return;
		n = chaos_in_one_mapping(c, from, n);
		VICTIM_CHECK(mprotect(cell->at, n * PAGE, PROT_READ | PROT_WRITE | (chaos_random(c, 2) ? PROT_EXEC : 0)) == 0);
		chaos_new_mapping(c, from, n);
		return;
	default:
		chaos_check(c, from);
	}
}

/* A copy of everything as it is now, which goes its own way. */
static pid_t chaos_fork(struct chaos *c, int depth)
{
	pid_t pid = fork();

	VICTIM_CHECK(pid >= 0);
	if (pid)
		return pid;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	c->seed += 77;
	pid_t child = depth ? chaos_fork(c, depth - 1) : 0;
	for (int i = 0; i < 40; i++)
		chaos_step(c);
	for (uint64_t i = 0; i < c->n; i += 1 + chaos_random(c, 4))
		chaos_check(c, i);
	int status = 0;
	VICTIM_CHECK(child == 0 || (waitpid(child, &status, 0) == child && status == 0));
	_exit(0);
}

struct reader {
	struct chaos *c;
	uint64_t from, to;
	unsigned seed;
};

static void *chaos_reader(void *arg)
{
	struct reader *r = arg;

	for (unsigned i = 0; i < 3000; i++)
		chaos_check(r->c, r->from + (uint64_t)rand_r(&r->seed) % (r->to - r->from));
	return NULL;
}

static struct chaos chaos_new(const struct victim_side *v)
{
	uint64_t n = v->pages / 2; /* the other half is where things go */
	const char *seed = getenv("FM_TEST_SEED");
	struct chaos c = { .v = v,
		           .cells = calloc(n, sizeof(*c.cells)),
		           .n = n,
		           .spare = v->mem + n * PAGE,
		           .spare_pages = n,
		           .seed = seed ? (unsigned)atoi(seed) : 42 };

	VICTIM_CHECK(c.cells);
	for (uint64_t i = 0; i < n; i++)
		c.cells[i] = (struct cell){ .at = v->mem + i * PAGE, .src = (uintptr_t)v->mem + i * PAGE };
	return c;
}

static void body_chaos(const struct victim_side *v)
{
	struct victim_side half = *v;
	struct chaos c = chaos_new(v);
	pthread_t t[2];
	pid_t children[6];
	int n_children = 0, status;

	half.pages = c.n;
	victim_hand_over(&half);
	victim_await(v);
	uint64_t quiet = c.n - c.n / 4; /* the last quarter is the readers' */
	struct reader r[2] = { { &c, quiet, c.n, 1 }, { &c, quiet, c.n, 2 } };
	for (int i = 0; i < 2; i++)
		VICTIM_CHECK(pthread_create(&t[i], NULL, chaos_reader, &r[i]) == 0);
	struct chaos mutator = c;
	mutator.n = quiet;
	for (int i = 0; i < 600; i++) {
		chaos_step(&mutator);
		if (i % 100 == 10)
			children[n_children++] = chaos_fork(&mutator, i == 10);
	}
	victim_say(v);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	for (uint64_t i = 0; i < c.n; i++)
		chaos_check(&c, i);
	while (n_children) {
		VICTIM_CHECK(waitpid(children[--n_children], &status, 0) > 0);
		VICTIM_CHECK(status == 0);
	}
}

/* late: the background fills what is left when the worst is over; else everything is soon there. */
static void chaos(struct lab *l, uint64_t pages, unsigned cuts, bool late)
{
	struct fm_error e = FM_ERROR_INIT;
	unsigned n = 0;

	uint8_t *mem = lab_reserve(l, pages);
	lab_range(l, NS_PID, mem, pages / 4); /* two ranges that touch, and a hole before a third */
	lab_range(l, NS_PID, mem + pages / 4 * PAGE, pages / 4);
	struct victim *v = lab_victim(l, NS_PID, mem, pages, body_chaos);
	lab_pager(l);
	if (!late)
		fm_pager_start_background(l->pager);
	(void)lab_connect(l, SOURCE_SHUFFLE, 0, cuts ? 9 : 0);
	victim_go(v);
	victim_go(v);
	if (late) {
		await_victim(v);
		fm_pager_start_background(l->pager);
	}
	while (fm_pager_wait(l->pager, HANG_MS, -1, &e) < 0) {
		if (e.code != FM_E_UNAVAILABLE)
			fail_msg("%s %s", fm_code_to_string(e.code), e.message);
		n++;
		(void)lab_connect(l, SOURCE_SHUFFLE, 0, n < cuts ? 9 + n * 3 : 0);
	}
	assert_int_equal(n, cuts);
	victim_must_succeed(v);
	assert_int_equal(l->n_kept, 0);
	printf("             %zu descriptors were kept, %u cuts\n", l->n_kept_ever, n);
}

static void test_chaos(void **state)
{
	if (!lab_possible())
		skip();
	chaos(*state, 16384, 0, true);
}

static void test_chaos_with_cuts(void **state)
{
	if (!lab_possible())
		skip();
	((struct lab *)*state)->window = 64;
	chaos(*state, 16384, 5, false);
}

static void test_chaos_with_a_full_guard(void **state)
{
	struct lab *l = *state;
	uint64_t pages = 4096;

	if (!lab_possible())
		skip();
	/* the task itself is kept, its children are not: they are served all the same */
	uint8_t *mem = lab_reserve(l, pages);
	lab_range(l, NS_PID, mem, pages / 2);
	struct victim *v = lab_victim(l, NS_PID, mem, pages, body_chaos);
	lab_pager(l);
	victim_go(v);
	assert_int_equal(fm_pager_wait_kept(l->pager, HANG_MS, -1, NULL), 0);
	pthread_mutex_lock(&l->lock);
	l->keep_fails = true;
	pthread_mutex_unlock(&l->lock);
	victim_go(v);
	(void)lab_connect(l, SOURCE_SHUFFLE, 0, 0);
	fm_pager_start_background(l->pager);
	lab_wait_done(l);
	victim_must_succeed(v);
	assert_int_equal(l->n_kept_ever, 1);
}

/* ---- what was removed or moved while it is on its way */

static void body_races(const struct victim_side *v)
{
	struct chaos c = chaos_new(v);
	struct victim_side half = *v;

	half.pages = c.n;
	victim_hand_over(&half);
	for (uint64_t i = 0; i + 16 <= c.n; i += 16) {
		chaos_check(&c, i); /* the next sixteen are asked for now */
		if (i / 16 % 2) {
			VICTIM_CHECK(madvise(c.cells[i].at, 16 * PAGE, MADV_DONTNEED) == 0);
			for (uint64_t j = i; j < i + 16; j++)
				c.cells[j].src = 0;
		} else {
			chaos_move(&c, i, 16);
		}
		for (uint64_t j = i + 16; j-- > i;)
			chaos_check(&c, j);
	}
}

static void test_answers_under_way(void **state)
{
	struct lab *l = *state;

	if (!lab_possible())
		skip();
	uint8_t *mem = lab_reserve(l, 16384);
	lab_range(l, NS_PID, mem, 8192);
	struct victim *v = lab_victim(l, NS_PID, mem, 16384, body_races);
	lab_pager(l);
	(void)lab_connect(l, SOURCE_SHUFFLE, 0, 0);
	victim_go(v);
	lab_wait_done(l);
	victim_must_succeed(v);
}

/* One thread waits for a page, another one changes what it waits for. */
static void *read_page(void *page)
{
	return (void *)(uintptr_t)content_is(0, 0, page);
}

static void body_rouse(const struct victim_side *v)
{
	void *zeros[2];
	pthread_t t[2];

	victim_hand_over(v);
	for (int i = 0; i < 2; i++)
		VICTIM_CHECK(pthread_create(&t[i], NULL, read_page, v->mem + i * 64 * PAGE) == 0);
	victim_await(v); /* both faults are asked for, and will not be answered */
	VICTIM_CHECK(madvise(v->mem, PAGE, MADV_DONTNEED) == 0);
	uint8_t *to = mremap(v->mem + 64 * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	VICTIM_CHECK(to != MAP_FAILED);
	for (int i = 0; i < 2; i++)
		VICTIM_CHECK(pthread_join(t[i], &zeros[i]) == 0 && zeros[i]);
	victim_say(v);
	VICTIM_CHECK(content_is(v->ns_pid, (uintptr_t)v->mem + 64 * PAGE, to));
	VICTIM_CHECK(content_is(0, 0, v->mem) && content_is(0, 0, v->mem + 64 * PAGE));
}

static void test_waiting_for_what_changes(void **state)
{
	struct lab *l = *state;
	struct fm_pager_stats st = { 0 };

	if (!lab_possible())
		skip();
	uint8_t *mem = lab_reserve(l, 128);
	lab_range(l, NS_PID, mem, 128);
	struct victim *v = lab_victim(l, NS_PID, mem, 128, body_rouse);
	lab_pager(l);
	struct source *src = lab_connect(l, SOURCE_SILENT, 0, 0);
	victim_go(v);
	for (int urgent = 0; urgent < 2; urgent++) {
		eventfd_t one;
		await_fd(src->held_fd);
		assert_int_equal(eventfd_read(src->held_fd, &one), 0);
	}
	victim_go(v);
	await_victim(v);
	fm_pager_stats(l->pager, &st);
	assert_true(st.faults >= 4); /* twice each */
	(void)lab_connect(l, SOURCE_GOOD, 0, 0);
	fm_pager_start_background(l->pager);
	lab_wait_done(l);
	victim_must_succeed(v);
}

/* ---- crashes */

static void body_read_all(const struct victim_side *v)
{
	victim_hand_over(v);
	victim_check_all(v);
}

static void test_crash_with_a_blocked_reader(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;

	if (!lab_possible())
		skip();
	uint8_t *mem = lab_reserve(l, 2048);
	lab_range(l, NS_PID, mem, 2048);
	struct victim *v = lab_victim(l, NS_PID, mem, 2048, body_read_all);
	lab_pager(l);
	struct source *src = lab_connect(l, SOURCE_GOOD, 12, 0);
	victim_go(v);
	await_fd(src->held_fd); /* without background: the reader waits for this page */
	fm_pager_free(l->pager);
	l->pager = NULL;
	if (lab_recover(l, &e) < 0)
		fail_msg("%s", e.message);
	/* still without background: the fault that the old pager had read must be reported again */
	(void)lab_connect(l, SOURCE_GOOD, 0, 0);
	lab_wait_done(l);
	victim_must_succeed(v);
	assert_int_equal(l->n_kept, 0);
}

static void body_mutate(const struct victim_side *v)
{
	struct victim_side half = *v;
	struct chaos c = chaos_new(v);

	half.pages = c.n;
	victim_hand_over(&half);
	for (int i = 0; i < 400; i++)
		chaos_step(&c);
	for (uint64_t i = 0; i < c.n; i++)
		chaos_check(&c, i);
}

static int remote_keep(void *userdata, uint64_t key, int fd, struct fm_error *err)
{
	char ack;
	int sock = *(int *)userdata;
	return fm_send_with_fds(sock, &key, sizeof(key), &fd, 1, err) == 0 && read(sock, &ack, 1) == 1 ? 0 : -1;
}

static int remote_load(void *userdata, struct fm_pager_range **ret, size_t *ret_n, struct fm_error *err)
{
	return lab_load(*(struct lab **)((int *)userdata + 2), ret, ret_n, err);
}

/* The pager as a process of its own: what a crash of the agent is. */
static void pager_process(struct lab *l, int guard, int stream_fd)
{
	struct {
		int sock, unused;
		struct lab *lab;
	} ctx = { guard, 0, l };
	struct fm_pager_opts o = lab_opts(l);
	struct fm_pager *p;
	struct fm_stream *s;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	o.keep = remote_keep;
	o.load_ranges = remote_load;
	o.userdata = &ctx;
	VICTIM_CHECK(fm_pager_new(&o, &p, NULL) == 0);
	VICTIM_CHECK(fm_stream_from_fd(stream_fd, &s, NULL) == 0);
	VICTIM_CHECK(fm_pager_set_stream(p, s, NULL) == 0);
	fm_pager_start_background(p);
	VICTIM_CHECK(write(guard, "r", 1) == 1); /* ready */
	for (;;)
		(void)pause();
}

static void guard_once(struct lab *l, int sock)
{
	uint64_t key;
	int fd = -1;
	size_t len, n = 1;

	await_fd(sock);
	assert_int_equal(fm_recv_with_fds(sock, &key, sizeof(key), &len, &fd, &n, NULL), 0);
	assert_int_equal(n, 1);
	assert_int_equal(lab_keep(l, key, fd, NULL), 0);
	close(fd);
	assert_int_equal(write(sock, "!", 1), 1);
}

static void killed_after(struct lab *l, unsigned requests)
{
	struct fm_error e = FM_ERROR_INIT;
	int sv[2], stream_fd = -1;
	char c;

	uint8_t *mem = lab_reserve(l, 8192);
	lab_range(l, NS_PID, mem, 4096);
	struct victim *v = lab_victim(l, NS_PID, mem, 8192, body_mutate);
	l->window = 64; /* enough requests to be killed between them */
	struct source *src = lab_source(l, SOURCE_SHUFFLE, &stream_fd);
	src->hold_after = requests;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
	pid_t pid = fork();
	if (pid == 0)
		pager_process(l, sv[1], stream_fd);
	close(sv[1]);
	close(stream_fd);
	source_start(src);
	await_fd(sv[0]);
	assert_int_equal(read(sv[0], &c, 1), 1);
	victim_go(v);
	guard_once(l, sv[0]);
	await_fd(src->held_fd);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	close(sv[0]);
	if (lab_recover(l, &e) < 0) {
		/* the honest answer to a crash inside an event */
		assert_int_equal(e.code, FM_E_DATA_LOSS);
		printf("             killed after %u requests: %s\n", requests, e.message);
		return;
	}
	fm_pager_start_background(l->pager);
	(void)lab_connect(l, SOURCE_SHUFFLE, 0, 0);
	lab_wait_done(l);
	victim_must_succeed(v);
}

static void test_killed(void **state)
{
	const unsigned after[] = { 1, 2, 5, 10, 20, 30, 45 };

	if (!lab_possible())
		skip();
	for (size_t i = 0; i < FM_ARRAY_SIZE(after); i++) {
		void *l;
		(void)lab_setup(&l);
		killed_after(l, after[i]);
		(void)lab_teardown(&l);
	}
}

/* 0 when all is right, 1 when not; the caller knows what to expect. */
static void body_fork_and_wait(const struct victim_side *v)
{
	int status, ok = 1;

	victim_hand_over(v);
	victim_await(v);
	pid_t pid = fork();
	VICTIM_CHECK(pid >= 0);
	if (pid == 0)
		victim_say(v);
	for (uint64_t i = 0; i < v->pages; i++)
		ok &= content_is(v->ns_pid, (uintptr_t)v->mem + i * PAGE, v->mem + i * PAGE);
	if (pid == 0)
		_exit(!ok);
	VICTIM_CHECK(waitpid(pid, &status, 0) == pid);
	_exit(!ok || status);
}

/* A child's memory survives a crash when it was kept; when not, nobody guesses. */
static void crash_with_child(struct lab *l, bool guarded)
{
	struct fm_error e = FM_ERROR_INIT;

	uint8_t *mem = lab_reserve(l, 1024);
	lab_range(l, NS_PID, mem, 1024);
	struct victim *v = lab_victim(l, NS_PID, mem, 1024, body_fork_and_wait);
	lab_pager(l);
	victim_go(v);
	assert_int_equal(fm_pager_wait_kept(l->pager, HANG_MS, -1, NULL), 0);
	pthread_mutex_lock(&l->lock);
	l->keep_fails = !guarded;
	pthread_mutex_unlock(&l->lock);
	victim_go(v);
	await_victim(v);
	struct source *src = lab_connect(l, SOURCE_GOOD, 6, 0);
	await_fd(src->held_fd);
	fm_pager_free(l->pager);
	l->pager = NULL;
	assert_int_equal(l->n_kept, guarded ? 2 : 1);
	int r = lab_recover(l, &e);
	if (!guarded) {
		assert_int_equal(r, -1);
		assert_int_equal(e.code, FM_E_DATA_LOSS);
		return;
	}
	if (r < 0)
		fail_msg("%s", e.message);
	(void)lab_connect(l, SOURCE_GOOD, 0, 0);
	fm_pager_start_background(l->pager);
	lab_wait_done(l);
	victim_must_succeed(v);
}

static void test_crash_with_a_kept_child(void **state)
{
	if (!lab_possible())
		skip();
	crash_with_child(*state, true);
}

static void test_crash_with_an_unkept_child(void **state)
{
	if (!lab_possible())
		skip();
	crash_with_child(*state, false);
}

/* The state file cannot grow: the child is not taken up, and blocks. */
static void test_no_room_for_a_child(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;
	struct rlimit old, small;
	struct stat sb;

	if (!lab_possible())
		skip();
	uint8_t *mem = lab_reserve(l, 1024);
	lab_range(l, NS_PID, mem, 1024);
	struct victim *v = lab_victim(l, NS_PID, mem, 1024, body_fork_and_wait);
	lab_pager(l);
	victim_go(v);
	assert_int_equal(fm_pager_wait_kept(l->pager, HANG_MS, -1, NULL), 0);
	assert_int_equal(fstatat(l->dirfd, "pager.state", &sb, 0), 0);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	small = old;
	small.rlim_cur = (rlim_t)sb.st_size;
	(void)signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	victim_go(v);
	int r = fm_pager_wait(l->pager, HANG_MS, -1, &e);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(r, -1);
	assert_non_null(strstr(e.message, "cannot enlarge pager.state"));
	await_victim(v); /* the child runs, up to the first page */
	fm_pager_free(l->pager);
	l->pager = NULL;
	assert_int_equal(lab_recover(l, &e), -1);
	assert_int_equal(e.code, FM_E_DATA_LOSS);
}

#define LAB_TEST(f) cmocka_unit_test_setup_teardown(f, lab_setup, lab_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		LAB_TEST(test_chaos),
		LAB_TEST(test_chaos_with_cuts),
		LAB_TEST(test_chaos_with_a_full_guard),
		LAB_TEST(test_answers_under_way),
		LAB_TEST(test_waiting_for_what_changes),
		LAB_TEST(test_crash_with_a_blocked_reader),
		cmocka_unit_test(test_killed),
		LAB_TEST(test_crash_with_a_kept_child),
		LAB_TEST(test_crash_with_an_unkept_child),
		LAB_TEST(test_no_room_for_a_child),
	};
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
