/* SPDX-License-Identifier: MIT */
/*
 * test-pager.c - the pager against a real kernel (pager-lab.h): processes with userfaultfds registered as CRIU does, that read, write,
 * remove, unmap, move and fork while they are filled; sources that shuffle, cut and lie; crashes of the pager. FM_TEST_PAGER_MIB sets the
 * size of the throughput test (default 128), FM_TEST_SEED what the processes do.
 *
 * Needs root.
 */
#include "pager-lab.h"

#include "sync/page-source.h"

#define NS_PID 512

/* ---- all memory, in order */

static void body_read_all(const struct victim_side *v)
{
	victim_hand_over(v);
	victim_check_all(v);
}

static void test_fills_everything(void **state)
{
	struct lab *l = *state;
	struct fm_pager_stats st;
	const uint64_t pages = 16384;

	if (!lab_possible())
		skip();
	uint8_t *mem = lab_reserve(l, pages);
	lab_range(l, NS_PID, mem, pages);
	struct victim *v = lab_victim(l, NS_PID, mem, pages, body_read_all);
	lab_pager(l);
	struct source *src = lab_connect(l, SOURCE_GOOD, 0, 0);
	fm_pager_start_background(l->pager);
	victim_go(v);
	assert_int_equal(fm_pager_wait_kept(l->pager, HANG_MS, -1, NULL), 0);
	uint64_t t = fm_now_us();
	lab_wait_done(l);
	t = fm_now_us() - t;
	victim_must_succeed(v);
	fm_pager_stats(l->pager, &st);
	assert_true(st.done);
	assert_int_equal(st.pages_total, pages);
	assert_int_equal(st.pages_done, pages);
	assert_int_equal(l->n_kept_ever, 1);
	assert_int_equal(l->n_kept, 0);
	pthread_join(src->thread, NULL);
	src->started = false;
	assert_true(src->got_done);
	assert_int_equal(src->pages, pages); /* nothing twice */
	printf("             %llu MiB while a process reads them: %.0f ms, %llu faults, p50 %llu us, p99 %llu us\n", (unsigned long long)(pages >> 8),
	       (double)t / 1000, (unsigned long long)st.faults, (unsigned long long)st.fault_latency_p50_us, (unsigned long long)st.fault_latency_p99_us);

	/* who comes later is told that it is over */
	src = lab_connect(l, SOURCE_GOOD, 0, 0);
	pthread_join(src->thread, NULL);
	src->started = false;
	assert_true(src->got_done);
	assert_int_equal(fm_pager_wait(l->pager, 0, -1, NULL), 0);
}

/* ---- only what is asked for; memory that no image lists */

static void body_read_some(const struct victim_side *v)
{
	victim_hand_over(v);
	/* the second half is registered, but was never touched */
	for (uint64_t i = v->pages / 2; i < v->pages; i += 7)
		VICTIM_CHECK(content_is(0, 0, v->mem + i * PAGE));
	v->mem[(v->pages - 1) * PAGE] = 1;
	victim_say(v);
	for (uint64_t i = 0; i < v->pages / 2; i++)
		VICTIM_CHECK(content_is(v->ns_pid, (uintptr_t)v->mem + i * PAGE, v->mem + i * PAGE));
	victim_say(v);
	victim_await(v); /* done: nothing is registered any more */
	VICTIM_CHECK(madvise(v->mem, v->pages * PAGE, MADV_DONTNEED) == 0);
	for (uint64_t i = 0; i < v->pages; i++)
		VICTIM_CHECK(content_is(0, 0, v->mem + i * PAGE));
}

static void test_faults_without_background(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;
	struct fm_pager_stats st;

	if (!lab_possible())
		skip();
	uint8_t *mem = lab_reserve(l, 256);
	lab_range(l, NS_PID, mem, 128);
	struct victim *v = lab_victim(l, NS_PID, mem, 256, body_read_some);
	lab_pager(l);
	victim_go(v);
	await_victim(v); /* zeros need no stream */
	assert_int_equal(fm_pager_wait(l->pager, 0, -1, &e), -1);
	assert_int_equal(e.code, FM_E_DEADLINE_EXCEEDED);
	fm_pager_stats(l->pager, &st);
	assert_false(st.stream_up || st.done);
	(void)lab_connect(l, SOURCE_GOOD, 0, 0);
	await_victim(v);
	lab_wait_done(l);
	victim_go(v);
	victim_must_succeed(v);
}

/* ---- chaos */

struct cell {
	uint8_t *at;
	uint64_t src; /* 0: zeros */
	uint64_t mark; /* written over, 0 = not */
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

static void chaos_move(struct chaos *c, uint64_t from, uint64_t n)
{
	if (c->spare_used + n > c->spare_pages)
		return;
	for (uint64_t i = 1; i < n; i++)
		if (c->cells[from + i].mapping != c->cells[from].mapping)
			n = i;
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
		VICTIM_CHECK(mprotect(cell->at, n * PAGE, chaos_random(c, 2) ? PROT_READ | PROT_WRITE | PROT_EXEC : PROT_READ | PROT_WRITE) == 0);
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
	struct chaos c = { .v = v, .cells = calloc(n, sizeof(*c.cells)), .n = n, .spare = v->mem + n * PAGE, .spare_pages = n,
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

/* ---- memory that is registered late, while faults are served already */

static void body_register_late(const struct victim_side *v)
{
	int sock = victim_connect(v->lab), uffd = victim_uffd();

	victim_send_task(sock, v->ns_pid, uffd);
	victim_register(uffd, v->mem, 8 * PAGE);
	/* What is asked for behind page 4 does not fit yet. The answer for page 0 comes after it. */
	for (int i = 4; i >= 0; i -= 4)
		VICTIM_CHECK(content_is(v->ns_pid, (uintptr_t)v->mem + (uint64_t)i * PAGE, v->mem + (uint64_t)i * PAGE));
	victim_register(uffd, v->mem + 8 * PAGE, (v->pages - 8) * PAGE);
	close(uffd);
	victim_send_word(sock, 0x52535446);
	close(sock);
	victim_check_all(v);
}

static void test_registered_late(void **state)
{
	struct lab *l = *state;

	if (!lab_possible())
		skip();
	uint8_t *mem = lab_reserve(l, 512);
	lab_range(l, NS_PID, mem, 512);
	struct victim *v = lab_victim(l, NS_PID, mem, 512, body_register_late);
	lab_pager(l);
	fm_pager_start_background(l->pager); /* must wait for CRIU's word */
	(void)lab_connect(l, SOURCE_GOOD, 0, 0);
	victim_go(v);
	lab_wait_done(l);
	victim_must_succeed(v);
}

/* ---- a task that ends, several tasks, zombies */

static void body_end_early(const struct victim_side *v)
{
	victim_hand_over(v);
	VICTIM_CHECK(content_is(v->ns_pid, (uintptr_t)v->mem, v->mem));
	if (fork() == 0) /* gone again at once */
		_exit(0);
}

static void test_task_ends(void **state)
{
	struct lab *l = *state;

	if (!lab_possible())
		skip();
	uint8_t *mem = lab_reserve(l, 8192);
	lab_range(l, NS_PID, mem, 8192);
	struct victim *v = lab_victim(l, NS_PID, mem, 8192, body_end_early);
	lab_pager(l);
	(void)lab_connect(l, SOURCE_GOOD, 0, 0);
	victim_go(v);
	victim_must_succeed(v);
	fm_pager_start_background(l->pager);
	lab_wait_done(l);
	assert_true(l->sources[0].pages < 8192); /* nobody needed them */
}

static void body_two_tasks(const struct victim_side *v)
{
	struct victim_side other = *v;
	int sock = victim_connect(v->lab), uffd = victim_uffd();

	other.ns_pid++;
	victim_send_word(sock, (uint32_t)-700); /* a zombie */
	victim_send_task(sock, v->ns_pid, uffd);
	pid_t pid = fork();
	VICTIM_CHECK(pid >= 0);
	if (pid == 0) {
		close(uffd);
		uffd = victim_uffd();
		victim_send_task(sock, other.ns_pid, uffd);
		victim_register(uffd, v->mem, v->pages * PAGE);
		close(uffd);
		victim_say(v);
		victim_check_all(&other);
		_exit(0);
	}
	victim_register(uffd, v->mem, v->pages * PAGE);
	close(uffd);
	victim_await(v);
	victim_send_word(sock, 0x52535446);
	close(sock);
	victim_check_all(v);
	int status;
	VICTIM_CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

static void test_two_tasks_and_a_zombie(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;

	if (!lab_possible())
		skip();
	uint8_t *mem = lab_reserve(l, 2048);
	lab_range(l, NS_PID, mem, 2048);
	lab_range(l, NS_PID + 1, mem, 2048);
	struct victim *v = lab_victim(l, NS_PID, mem, 2048, body_two_tasks);
	lab_pager(l);
	assert_int_equal(fm_pager_wait_kept(l->pager, 0, -1, &e), -1);
	assert_int_equal(e.code, FM_E_DEADLINE_EXCEEDED);
	(void)lab_connect(l, SOURCE_GOOD, 0, 0);
	fm_pager_start_background(l->pager);
	victim_go(v);
	await_victim(v);
	assert_int_equal(fm_pager_wait_kept(l->pager, HANG_MS, -1, NULL), 0);
	victim_go(v);
	lab_wait_done(l);
	victim_must_succeed(v);
	assert_int_equal(l->n_kept_ever, 2);
}

/* ---- crashes */

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
	struct { int sock, unused; struct lab *lab; } ctx = { guard, 0, l };
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

/* ---- sources that lie */

static void lied_to(struct lab *l, enum source_mode mode)
{
	struct fm_error e = FM_ERROR_INIT;
	enum fm_code expected = mode == SOURCE_REPORTS ? FM_E_FAILED_PRECONDITION : FM_E_DATA_LOSS;

	uint8_t *mem = lab_reserve(l, 64);
	lab_range(l, NS_PID, mem, 64);
	struct victim *v = lab_victim(l, NS_PID, mem, 64, body_read_all);
	lab_pager(l);
	victim_go(v);
	for (int i = 0; i < 3; i++) { /* damage in transit may happen, but not always */
		(void)lab_connect(l, mode, 0, 0);
		assert_int_equal(fm_pager_wait(l->pager, HANG_MS, -1, &e), -1);
		if (e.code != FM_E_UNAVAILABLE)
			break;
		assert_int_equal(mode, SOURCE_DAMAGED);
	}
	assert_int_equal(e.code, expected);
	assert_int_equal(fm_pager_set_stream(l->pager, l->ours[0], &e), -1);
	assert_int_equal(e.code, expected);

	/* Nothing wrong has reached the victim: with an honest source all ends well. */
	fm_pager_free(l->pager);
	l->pager = NULL;
	if (lab_recover(l, &e) < 0)
		fail_msg("%s", e.message);
	(void)lab_connect(l, SOURCE_GOOD, 0, 0);
	fm_pager_start_background(l->pager);
	lab_wait_done(l);
	victim_must_succeed(v);
}

static void test_lies(void **state)
{
	if (!lab_possible())
		skip();
	for (enum source_mode m = SOURCE_WRONG_PID; m <= SOURCE_REPORTS; m++) {
		void *l;
		(void)lab_setup(&l);
		lied_to(l, m);
		(void)lab_teardown(&l);
	}
}

/* ---- a CRIU that misbehaves, a guard that does */

static void body_hangs_up(const struct victim_side *v)
{
	int sock = victim_connect(v->lab), uffd = victim_uffd();
	victim_send_task(sock, v->ns_pid, uffd);
	close(sock);
	victim_await(v);
}

static void body_nonsense(const struct victim_side *v)
{
	int sock = victim_connect(v->lab);
	victim_send_word(sock, 0x7fffffff);
	victim_await(v);
	close(sock);
}

static void body_other_descriptor(const struct victim_side *v)
{
	int sock = victim_connect(v->lab);
	victim_send_task(sock, v->ns_pid, v->sync);
	victim_await(v);
	close(sock);
}

static void body_twice(const struct victim_side *v)
{
	int sock = victim_connect(v->lab), uffd = victim_uffd();
	victim_send_task(sock, v->ns_pid, uffd);
	victim_send_task(sock, v->ns_pid, uffd);
	victim_await(v);
	close(sock);
}

static void body_forgets_a_task(const struct victim_side *v)
{
	int sock = victim_connect(v->lab), uffd = victim_uffd();
	victim_send_task(sock, v->ns_pid + 5, uffd);
	victim_send_word(sock, 0x52535446);
	victim_await(v);
	close(sock);
}

static void body_no_descriptor(const struct victim_side *v)
{
	int sock = victim_connect(v->lab);
	victim_send_word(sock, (uint32_t)v->ns_pid);
	victim_send_word(sock, (uint32_t)v->ns_pid);
	victim_await(v);
	close(sock);
}

static void failed_restore(void (*body)(const struct victim_side *), bool keep_fails, enum fm_code expected)
{
	struct fm_error e = FM_ERROR_INIT;
	void *state;

	(void)lab_setup(&state);
	struct lab *l = state;
	uint8_t *mem = lab_reserve(l, 16);
	lab_range(l, NS_PID, mem, 16);
	struct victim *v = lab_victim(l, NS_PID, mem, 16, body);
	l->keep_fails = keep_fails;
	lab_pager(l);
	victim_go(v);
	assert_int_equal(fm_pager_wait(l->pager, HANG_MS, -1, &e), -1);
	assert_int_equal(e.code, expected);
	e = FM_ERROR_INIT;
	assert_int_equal(fm_pager_wait_kept(l->pager, HANG_MS, -1, &e), -1);
	assert_int_equal(e.code, expected);
	(void)lab_teardown(&state);
}

static void test_failed_restores(void **state)
{
	if (!lab_possible())
		skip();
	failed_restore(body_hangs_up, true, FM_E_RESOURCE_EXHAUSTED); /* not kept: CRIU may not go on */
	failed_restore(body_nonsense, false, FM_E_INTERNAL);
	failed_restore(body_other_descriptor, false, FM_E_INVALID_ARGUMENT);
	failed_restore(body_twice, false, FM_E_INTERNAL);
	failed_restore(body_forgets_a_task, false, FM_E_DATA_LOSS);
	failed_restore(body_no_descriptor, false, FM_E_ABORTED);
}

static void test_criu_hangs_up(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;

	if (!lab_possible())
		skip();
	uint8_t *mem = lab_reserve(l, 16);
	lab_range(l, NS_PID, mem, 16);
	struct victim *v = lab_victim(l, NS_PID, mem, 16, body_hangs_up);
	lab_pager(l);
	victim_go(v);
	assert_int_equal(fm_pager_wait(l->pager, HANG_MS, -1, &e), -1);
	assert_int_equal(e.code, FM_E_ABORTED);
}

static void test_guard_fails_at_the_end(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;

	if (!lab_possible())
		skip();
	uint8_t *mem = lab_reserve(l, 64);
	lab_range(l, NS_PID, mem, 64);
	struct victim *v = lab_victim(l, NS_PID, mem, 64, body_read_all);
	l->refuse_drop = true;
	lab_pager(l);
	(void)lab_connect(l, SOURCE_GOOD, 0, 0);
	victim_go(v);
	assert_int_equal(fm_pager_wait(l->pager, HANG_MS, -1, &e), -1);
	assert_int_equal(e.code, FM_E_UNAVAILABLE);
	victim_must_succeed(v);
}

/* A pager for which nobody comes. */
static void test_nobody_comes(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;
	int cancel = eventfd(1, EFD_CLOEXEC);

	lab_pager(l);
	assert_int_equal(fm_pager_wait(l->pager, -1, cancel, &e), -1);
	assert_int_equal(e.code, FM_E_CANCELLED);
	assert_int_equal(faccessat(l->dirfd, "lazy-pages.socket", F_OK, 0), 0);
	fm_pager_free(l->pager);
	l->pager = NULL;
	assert_int_equal(faccessat(l->dirfd, "lazy-pages.socket", F_OK, 0), -1);
	close(cancel);
}

/* ---- with the real page source */

static void body_source_process(const struct victim_side *v)
{
	VICTIM_CHECK(mmap(v->mem, v->pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == v->mem);
	content_fill(v->ns_pid, (uintptr_t)v->mem, v->mem, v->pages);
	victim_say(v);
	victim_await(v);
}

static void body_random_then_all(const struct victim_side *v)
{
	unsigned seed = 5;

	victim_hand_over(v);
	for (int i = 0; i < 2000; i++) {
		uint64_t page = (uint64_t)rand_r(&seed) % v->pages;
		VICTIM_CHECK(content_is(v->ns_pid, (uintptr_t)v->mem + page * PAGE, v->mem + page * PAGE));
	}
	victim_say(v);
	victim_await(v);
	victim_check_all(v);
}

struct real_source {
	struct fm_page_source *p;
	struct fm_stream *s;
	int result;
};

static void *real_source_thread(void *arg)
{
	struct real_source *r = arg;
	r->result = fm_page_source_serve(r->p, r->s, -1, NULL);
	return NULL;
}

static void test_throughput(void **state)
{
	struct lab *l = *state;
	const char *mib = getenv("FM_TEST_PAGER_MIB");
	uint64_t pages = (mib ? strtoull(mib, NULL, 10) : 128) << 8;
	struct fm_pager_stats st;
	struct real_source r = { 0 };
	struct fm_stream *ours;
	pthread_t thread;
	int fds[2];

	if (!lab_possible())
		skip();
	uint8_t *mem = lab_reserve(l, pages);
	lab_range(l, NS_PID, mem, pages);
	struct victim *from = lab_victim(l, NS_PID, mem, pages, body_source_process);
	struct victim *v = lab_victim(l, NS_PID, mem, pages, body_random_then_all);
	victim_go(from);
	await_victim(from);
	lab_pager(l);
	stream_pair(fds);
	assert_int_equal(fm_stream_from_fd(fds[0], &ours, NULL), 0);
	assert_int_equal(fm_stream_from_fd(fds[1], &r.s, NULL), 0);
	const struct fm_page_source_task task = { .ns_pid = NS_PID, .host_pid = from->pid };
	assert_int_equal(fm_page_source_new(&task, 1, &r.p, NULL), 0);
	assert_int_equal(pthread_create(&thread, NULL, real_source_thread, &r), 0);
	assert_int_equal(fm_pager_set_stream(l->pager, ours, NULL), 0);
	victim_go(v);
	await_victim(v);
	fm_pager_stats(l->pager, &st);
	printf("             random faults alone: %llu, p50 %llu us, p99 %llu us, max %llu us\n", (unsigned long long)st.faults,
	       (unsigned long long)st.fault_latency_p50_us, (unsigned long long)st.fault_latency_p99_us, (unsigned long long)st.fault_latency_max_us);
	uint64_t before = st.pages_done, t = fm_now_us();
	fm_pager_start_background(l->pager);
	lab_wait_done(l);
	t = fm_now_us() - t;
	printf("             background alone: %llu MiB in %.0f ms, %.0f MiB/s\n", (unsigned long long)((pages - before) >> 8), (double)t / 1000,
	       (double)(pages - before) / 256 * 1e6 / (double)(t ? t : 1));
	victim_go(v);
	victim_must_succeed(v);
	pthread_join(thread, NULL);
	assert_int_equal(r.result, 0);
	victim_go(from);
	victim_must_succeed(from);
	fm_page_source_free(r.p);
	fm_stream_free(r.s);
	fm_pager_free(l->pager);
	l->pager = NULL;
	fm_stream_free(ours);
}

#define LAB_TEST(f) cmocka_unit_test_setup_teardown(f, lab_setup, lab_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		LAB_TEST(test_nobody_comes),
		LAB_TEST(test_fills_everything),
		LAB_TEST(test_faults_without_background),
		LAB_TEST(test_chaos),
		LAB_TEST(test_chaos_with_cuts),
		LAB_TEST(test_chaos_with_a_full_guard),
		LAB_TEST(test_answers_under_way),
		LAB_TEST(test_waiting_for_what_changes),
		LAB_TEST(test_registered_late),
		LAB_TEST(test_task_ends),
		LAB_TEST(test_two_tasks_and_a_zombie),
		LAB_TEST(test_crash_with_a_blocked_reader),
		cmocka_unit_test(test_killed),
		LAB_TEST(test_crash_with_a_kept_child),
		LAB_TEST(test_crash_with_an_unkept_child),
		cmocka_unit_test(test_lies),
		cmocka_unit_test(test_failed_restores),
		LAB_TEST(test_criu_hangs_up),
		LAB_TEST(test_guard_fails_at_the_end),
		LAB_TEST(test_throughput),
	};
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
