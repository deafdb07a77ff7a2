/* SPDX-License-Identifier: MIT */
/* Tests of loop/pool. */
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cmocka.h>

#include "basic/cleanup.h"
#include "loop/pool.h"

#define LONG_WAIT_MS 20000

struct gate {
	sem_t entered, go;
	atomic_int done;
};

static void gate_init(struct gate *g)
{
	assert_int_equal(sem_init(&g->entered, 0, 0), 0);
	assert_int_equal(sem_init(&g->go, 0, 0), 0);
	atomic_init(&g->done, 0);
}

static void gate_done(struct gate *g)
{
	(void)sem_destroy(&g->entered);
	(void)sem_destroy(&g->go);
}

static void hold(void *arg)
{
	struct gate *g = arg;

	(void)sem_post(&g->entered);
	(void)sem_wait(&g->go);
	atomic_fetch_add(&g->done, 1);
}

static void count(void *arg)
{
	atomic_fetch_add((atomic_int *)arg, 1);
}

struct order {
	int next, seen[100];
};

struct step {
	struct order *order;
	int number;
};

static void note(void *arg)
{
	struct step *s = arg;

	s->order->seen[s->order->next++] = s->number; /* one thread: no lock */
}

static void test_order(void **state)
{
	struct fm_error err = FM_ERROR_INIT;
	struct order order = { 0 };
	struct step steps[100];
	struct fm_pool *p = NULL;

	assert_int_equal(fm_pool_new(1, 100, &p, &err), 0);
	for (int i = 0; i < 100; i++) {
		steps[i] = (struct step){ &order, i };
		assert_int_equal(fm_pool_submit(p, note, &steps[i], &err), 0);
	}
	fm_pool_free(p); /* waits for all */
	assert_int_equal(order.next, 100);
	for (int i = 0; i < 100; i++)
		assert_int_equal(order.seen[i], i);
}

static void meet(void *arg)
{
	(void)pthread_barrier_wait(arg);
}

/* ends only if as many jobs as threads run at once */
static void test_parallel(void **state)
{
	struct fm_error err = FM_ERROR_INIT;
	pthread_barrier_t barrier;
	struct fm_pool *p = NULL;

	assert_int_equal(pthread_barrier_init(&barrier, NULL, 4), 0);
	assert_int_equal(fm_pool_new(4, 0, &p, &err), 0);
	for (int i = 0; i < 4; i++)
		assert_int_equal(fm_pool_submit(p, meet, &barrier, &err), 0);
	fm_pool_free(p);
	(void)pthread_barrier_destroy(&barrier);
}

static void test_limit(void **state)
{
	struct fm_error err = FM_ERROR_INIT;
	struct fm_pool *p = NULL;
	struct gate g;

	gate_init(&g);
	assert_int_equal(fm_pool_new(2, 3, &p, &err), 0);
	/* two run, three wait; whether a thread has taken its job yet makes no difference */
	for (int i = 0; i < 5; i++)
		assert_int_equal(fm_pool_submit(p, hold, &g, &err), 0);
	assert_int_equal(fm_pool_submit(p, hold, &g, &err), -1);
	assert_int_equal(err.code, FM_E_RESOURCE_EXHAUSTED);
	assert_int_equal(sem_wait(&g.entered), 0);
	assert_int_equal(sem_wait(&g.entered), 0);
	assert_int_equal(sem_trywait(&g.entered), -1); /* never more than two at once */
	assert_int_equal(fm_pool_submit(p, hold, &g, &err), -1);
	assert_int_equal(sem_post(&g.go), 0); /* one leaves, one of the waiting enters */
	assert_int_equal(sem_wait(&g.entered), 0);
	assert_int_equal(fm_pool_submit(p, hold, &g, &err), 0);
	for (int i = 0; i < 5; i++)
		assert_int_equal(sem_post(&g.go), 0);
	fm_pool_free(p);
	assert_int_equal(atomic_load(&g.done), 6);
	gate_done(&g);
}

struct late {
	struct fm_pool *pool;
	atomic_int ran;
	enum fm_code refused;
};

/* submits until it is told that the pool closes */
static void submit_late(void *arg)
{
	struct late *l = arg;
	struct fm_error err = FM_ERROR_INIT;

	while (fm_pool_submit(l->pool, count, &l->ran, &err) == 0 || err.code == FM_E_RESOURCE_EXHAUSTED)
		(void)sched_yield();
	l->refused = err.code;
}

static void test_closing(void **state)
{
	struct late l = { .refused = FM_OK };

	assert_int_equal(fm_pool_new(1, 2, &l.pool, NULL), 0);
	assert_int_equal(fm_pool_submit(l.pool, submit_late, &l, NULL), 0);
	fm_pool_free(l.pool);
	assert_int_equal(l.refused, FM_E_CANCELLED);
	assert_in_range(atomic_load(&l.ran), 0, 2); /* those that were queued before have run */
}

static void test_arguments(void **state)
{
	struct fm_error err = FM_ERROR_INIT;
	struct fm_pool *p = NULL;

	assert_int_equal(fm_pool_new(0, 1, &p, &err), -1);
	assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
	assert_int_equal(fm_pool_new(1u << 30, 1, &p, &err), -1);
	assert_null(p);
	fm_pool_free(NULL);
	assert_int_equal(fm_pool_new(3, 1, &p, &err), 0); /* never used */
	fm_pool_free(p);
}

static void read_mask(void *arg)
{
	(void)pthread_sigmask(SIG_SETMASK, NULL, arg);
}

static void test_worker_signals(void **state)
{
	struct fm_pool *p = NULL;
	sigset_t mask, mine;

	(void)sigemptyset(&mask);
	assert_int_equal(fm_pool_new(1, 1, &p, NULL), 0);
	assert_int_equal(fm_pool_submit(p, read_mask, &mask, NULL), 0);
	fm_pool_free(p);
	assert_true(sigismember(&mask, SIGTERM) && sigismember(&mask, SIGINT) && sigismember(&mask, SIGCHLD));
	assert_false(sigismember(&mask, SIGSEGV) || sigismember(&mask, SIGBUS));
	(void)pthread_sigmask(SIG_SETMASK, NULL, &mine);
	assert_false(sigismember(&mine, SIGTERM)); /* the creator's mask is as before */
}

static void request_stop(void *arg)
{
	fm_stop_request(arg);
}

static void test_stop(void **state)
{
	struct fm_error err = FM_ERROR_INIT;
	struct pollfd pfd = { .events = POLLIN };
	struct fm_stop s = { .fd = -1 };
	struct fm_pool *p = NULL;

	assert_false(fm_stop_requested(&s));
	fm_stop_request(&s);
	fm_stop_done(&s);
	assert_int_equal(fm_stop_init(&s, &err), 0);
	assert_true(fcntl(s.fd, F_GETFD) & FD_CLOEXEC);
	assert_false(fm_stop_requested(&s));
	assert_int_equal(fm_pool_new(1, 1, &p, &err), 0);
	assert_int_equal(fm_pool_submit(p, request_stop, &s, &err), 0);
	pfd.fd = s.fd;
	assert_int_equal(poll(&pfd, 1, LONG_WAIT_MS), 1);
	fm_pool_free(p);
	for (int i = 0; i < 3; i++) {
		assert_true(fm_stop_requested(&s)); /* asking does not take it away */
		fm_stop_request(&s);
	}
	fm_stop_done(&s);
	assert_int_equal(s.fd, -1);
	fm_stop_done(&s);
}

static int signals_in_child(void)
{
	struct signalfd_siginfo info = { 0 };
	struct pollfd pfd = { .events = POLLIN };
	int p[2];

	if (fm_signals_block(&pfd.fd, NULL) < 0 || !(fcntl(pfd.fd, F_GETFD) & FD_CLOEXEC))
		return 1;
	if (kill(getpid(), SIGTERM) < 0 || poll(&pfd, 1, LONG_WAIT_MS) != 1)
		return 2;
	if (read(pfd.fd, &info, sizeof(info)) != sizeof(info) || info.ssi_signo != SIGTERM)
		return 3;
	if (kill(getpid(), SIGINT) < 0 || read(pfd.fd, &info, sizeof(info)) != sizeof(info) || info.ssi_signo != SIGINT)
		return 4;
	if (pipe2(p, O_CLOEXEC) < 0 || close(p[0]) < 0 || write(p[1], "x", 1) >= 0) /* no SIGPIPE */
		return 5;
	return 0;
}

static void test_signals(void **state)
{
	pid_t pid = fork();
	int status = 0;

	assert_true(pid >= 0);
	if (pid == 0)
		_exit(signals_in_child());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order),   cmocka_unit_test(test_parallel),  cmocka_unit_test(test_limit),
		cmocka_unit_test(test_closing), cmocka_unit_test(test_arguments), cmocka_unit_test(test_worker_signals),
		cmocka_unit_test(test_stop),    cmocka_unit_test(test_signals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
