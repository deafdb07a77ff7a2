/* SPDX-License-Identifier: MIT */
/*
 * test-pager.c - the pager against a real kernel (pager-lab.h): everything arrives, CRIU and the guard misbehave, the source lies. What
 * happens when the processes change their memory meanwhile or the pager crashes is in test-pager-chaos.c. FM_TEST_PAGER_MIB sets the size
 * of the throughput test (default 128).
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
	printf("             %llu MiB while a process reads them: %.0f ms, %llu faults, p50 %llu us, p99 %llu us\n",
	       (unsigned long long)(pages >> 8), (double)t / 1000, (unsigned long long)st.faults,
	       (unsigned long long)st.fault_latency_p50_us, (unsigned long long)st.fault_latency_p99_us);

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

	/* with a new pager and a new guard it is done at once, and needs no source */
	fm_pager_free(l->pager);
	l->pager = NULL;
	l->refuse_drop = false;
	assert_int_equal(l->n_kept, 1);
	if (lab_recover(l, &e) < 0)
		fail_msg("%s", e.message);
	lab_wait_done(l);
	assert_int_equal(l->n_kept, 0);
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
	       (unsigned long long)st.fault_latency_p50_us, (unsigned long long)st.fault_latency_p99_us,
	       (unsigned long long)st.fault_latency_max_us);
	uint64_t before = st.pages_done, t = fm_now_us();
	fm_pager_start_background(l->pager);
	lab_wait_done(l);
	t = fm_now_us() - t;
	printf("             background alone: %llu MiB in %.0f ms, %.0f MiB/s\n", (unsigned long long)((pages - before) >> 8),
	       (double)t / 1000, (double)(pages - before) / 256 * 1e6 / (double)(t ? t : 1));
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
		LAB_TEST(test_registered_late),
		LAB_TEST(test_task_ends),
		LAB_TEST(test_two_tasks_and_a_zombie),
		cmocka_unit_test(test_lies),
		cmocka_unit_test(test_failed_restores),
		LAB_TEST(test_criu_hangs_up),
		LAB_TEST(test_guard_fails_at_the_end),
		LAB_TEST(test_throughput),
	};
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
