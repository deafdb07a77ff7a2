/* SPDX-License-Identifier: MIT */
/* Tests of basic/proc, with real processes. A child waits in pause() and dies with its test (PR_SET_PDEATHSIG). */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/proc.h"

#define LONG_WAIT_MS 20000

static void die_with(pid_t parent)
{
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent) /* it was quicker */
		_exit(1);
}

static void wait_for_death(pid_t parent)
{
	die_with(parent);
	for (;;)
		(void)pause();
}

static pid_t start_child(void)
{
	pid_t parent = getpid(), pid = fork();

	assert_true(pid >= 0);
	if (pid == 0)
		wait_for_death(parent);
	return pid;
}

static void end_child(pid_t pid)
{
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void test_identify(void **state)
{
	struct fm_error err = FM_ERROR_INIT;
	struct fm_proc_id self = { 0 }, child = { 0 }, imposter;
	pid_t pid = start_child();

	assert_int_equal(fm_proc_identify(getpid(), &self, &err), 0);
	assert_int_equal(self.pid, getpid());
	assert_true(self.start_ticks > 0);
	assert_true(fm_proc_alive(&self));
	assert_int_equal(fm_proc_identify(pid, &child, &err), 0);
	assert_true(child.start_ticks >= self.start_ticks);
	assert_true(fm_proc_alive(&child));
	imposter = child;
	imposter.start_ticks++;
	assert_false(fm_proc_alive(&imposter));
	end_child(pid);
	assert_false(fm_proc_alive(&child));
	assert_int_equal(fm_proc_identify(pid, &self, &err), -1);
	assert_int_equal(err.code, FM_E_NOT_FOUND);
	assert_int_equal(self.pid, getpid());
	assert_int_equal(fm_proc_identify(0, &self, &err), -1);
	assert_int_equal(fm_proc_identify(-1, &self, &err), -1);
	assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
}

/* a process that calls itself like the end of the stat line */
static void test_hostile_name(void **state)
{
	struct fm_proc_id before, after;
	struct fm_error err = FM_ERROR_INIT;
	char name[16] = "";
	uint64_t rss = 0;
	pid_t ns_pid = 0;

	assert_int_equal(fm_proc_identify(getpid(), &before, &err), 0);
	assert_int_equal(prctl(PR_GET_NAME, name), 0);
	assert_int_equal(prctl(PR_SET_NAME, ") Z 1 \nNSpid:\t7"), 0);
	assert_int_equal(fm_proc_identify(getpid(), &after, &err), 0);
	assert_true(fm_proc_alive(&before));
	assert_int_equal(fm_proc_ns_pid(getpid(), &ns_pid, &err), 0);
	assert_int_equal(ns_pid, getpid());
	assert_int_equal(fm_proc_rss_bytes(getpid(), &rss, &err), 0);
	assert_int_equal(prctl(PR_SET_NAME, name), 0);
	assert_true(before.start_ticks == after.start_ticks);
}

static void test_states(void **state)
{
	pid_t pid = start_child();
	struct fm_proc_id id;
	siginfo_t info;

	assert_int_equal(fm_proc_state(getpid()), 'R');
	assert_int_equal(fm_proc_identify(pid, &id, NULL), 0);
	assert_int_equal(kill(pid, SIGSTOP), 0);
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WSTOPPED | WNOWAIT), 0);
	assert_int_equal(fm_proc_state(pid), 'T');
	assert_true(fm_proc_alive(&id));
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	assert_int_equal(fm_proc_state(pid), 'Z');
	assert_false(fm_proc_alive(&id)); /* a zombie runs nothing any more */
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(fm_proc_state(pid), 0);
	assert_int_equal(fm_proc_state(0), 0);
}

static void test_rss(void **state)
{
	struct fm_error err = FM_ERROR_INIT;
	uint64_t rss = 0;
	siginfo_t info;
	pid_t pid;

	assert_int_equal(fm_proc_rss_bytes(getpid(), &rss, &err), 0);
	assert_true(rss >= 4096 && rss % 1024 == 0);
	pid = start_child();
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	assert_int_equal(fm_proc_rss_bytes(pid, &rss, &err), 0);
	assert_true(rss == 0); /* zombie */
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(fm_proc_rss_bytes(pid, &rss, &err), -1);
	assert_int_equal(err.code, FM_E_NOT_FOUND);
}

static void test_ns_pid(void **state)
{
	struct fm_error err = FM_ERROR_INIT;
	pid_t pid, inner = 0, ns_pid = 0, parent = getpid();
	int p[2];

	assert_int_equal(fm_proc_ns_pid(getpid(), &ns_pid, &err), 0);
	assert_int_equal(ns_pid, getpid());
	if (geteuid() != 0) {
		print_message("needs root for a pid namespace\n");
		skip();
	}
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		inner = unshare(CLONE_NEWPID) < 0 ? -1 : fork();
		if (inner == 0)
			wait_for_death(0); /* a parent in another pid namespace is 0 */
		(void)fm_write_full(p[1], &inner, sizeof(inner), NULL);
		wait_for_death(parent);
	}
	assert_int_equal(fm_read_full(p[0], &inner, sizeof(inner), &err), 0);
	(void)close(p[0]);
	(void)close(p[1]);
	if (inner > 0) {
		assert_int_equal(fm_proc_ns_pid(inner, &ns_pid, &err), 0);
		assert_int_equal(ns_pid, 1);
		assert_int_equal(kill(inner, SIGKILL), 0);
	}
	end_child(pid);
	if (inner < 0) {
		print_message("pid namespaces are not allowed here\n");
		skip();
	}
}

/* Starts a child with two children, the second of which has one, too. pids: the child, then the other three in no certain order. */
static void start_family(pid_t pids[4])
{
	pid_t top = getpid();
	int p[2];

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	pids[0] = fork();
	assert_true(pids[0] >= 0);
	if (pids[0] == 0) {
		pids[0] = getpid();
		die_with(top);
		pids[1] = fork();
		if (pids[1] == 0)
			wait_for_death(pids[0]);
		pids[2] = fork();
		if (pids[2] == 0) {
			pids[2] = getpid();
			die_with(pids[0]);
			pids[3] = fork();
			if (pids[3] == 0)
				wait_for_death(pids[2]);
			(void)fm_write_full(p[1], &pids[3], sizeof(pids[3]), NULL);
			wait_for_death(pids[0]);
		}
		/* one write(2) each: whole, but in either order, so what is read names them without saying who is who */
		(void)fm_write_full(p[1], &pids[1], 2 * sizeof(pids[1]), NULL);
		wait_for_death(top);
	}
	assert_int_equal(fm_read_full(p[0], &pids[1], 3 * sizeof(pids[1]), NULL), 0);
	(void)close(p[0]);
	(void)close(p[1]);
}

static void end_family(const pid_t pids[4])
{
	for (int i = 1; i < 4; i++)
		(void)kill(pids[i], SIGKILL);
	end_child(pids[0]);
}

static void test_tree(void **state)
{
	_fm_free_ pid_t *children = NULL, *tree = NULL, *leaf = NULL;
	struct fm_error err = FM_ERROR_INIT;
	pid_t family[4] = { 0 };
	size_t n = 0;

	start_family(family);
	assert_int_equal(fm_proc_children(family[0], &children, &n, &err), 0);
	assert_int_equal(n, 2);
	assert_int_equal(fm_proc_tree(family[0], &tree, &n, &err), 0);
	assert_int_equal(n, 4);
	assert_int_equal(tree[0], family[0]);
	assert_true(tree[1] == children[0] && tree[2] == children[1]); /* breadth first */
	for (size_t i = 1; i < 4; i++)
		assert_true(family[i] == tree[1] || family[i] == tree[2] || family[i] == tree[3]);
	assert_int_equal(fm_proc_children(tree[3], &leaf, &n, &err), 0);
	assert_int_equal(n, 0);
	end_family(family);
	n = 77;
	assert_int_equal(fm_proc_tree(family[0], &leaf, &n, &err), -1);
	assert_int_equal(err.code, FM_E_NOT_FOUND);
	assert_int_equal(fm_proc_children(family[0], &leaf, &n, &err), -1);
	assert_int_equal(err.code, FM_E_NOT_FOUND);
	assert_int_equal(n, 77);
}

struct forker {
	pthread_barrier_t forked, seen;
	pid_t pid;
};

static void *fork_in_thread(void *arg)
{
	struct forker *f = arg;

	f->pid = fork();
	if (f->pid == 0)
		for (;;) /* no PR_SET_PDEATHSIG: it would fire at the end of this thread */
			(void)pause();
	(void)pthread_barrier_wait(&f->forked);
	(void)pthread_barrier_wait(&f->seen);
	return NULL;
}

/* children belong to the thread that forked; all threads' must be found */
static void test_children_of_threads(void **state)
{
	_fm_free_ pid_t *children = NULL;
	struct forker f = { .pid = -1 };
	struct fm_error err = FM_ERROR_INIT;
	pthread_t thread;
	size_t n = 0;

	assert_int_equal(pthread_barrier_init(&f.forked, NULL, 2), 0);
	assert_int_equal(pthread_barrier_init(&f.seen, NULL, 2), 0);
	assert_int_equal(pthread_create(&thread, NULL, fork_in_thread, &f), 0);
	(void)pthread_barrier_wait(&f.forked);
	assert_int_equal(fm_proc_children(getpid(), &children, &n, &err), 0);
	(void)pthread_barrier_wait(&f.seen);
	assert_int_equal(pthread_join(thread, NULL), 0);
	end_child(f.pid);
	assert_int_equal(n, 1);
	assert_int_equal(children[0], f.pid);
	(void)pthread_barrier_destroy(&f.forked);
	(void)pthread_barrier_destroy(&f.seen);
}

static void test_wait_gone(void **state)
{
	struct fm_error err = FM_ERROR_INIT;
	pid_t pid = start_child();
	struct fm_proc_id id, imposter;

	assert_int_equal(fm_proc_identify(pid, &id, &err), 0);
	assert_int_equal(fm_proc_wait_gone(&id, 5, &err), -1);
	assert_int_equal(err.code, FM_E_DEADLINE_EXCEEDED);
	imposter = id;
	imposter.start_ticks++;
	assert_int_equal(fm_proc_wait_gone(&imposter, 0, &err), 0); /* that process is gone, whoever has its number */
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(fm_proc_wait_gone(&id, LONG_WAIT_MS, &err), 0); /* a zombie counts as gone */
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(fm_proc_wait_gone(&id, -1, &err), 0);
}

static void *pidfd_of_this_thread(void *result)
{
	int *saved = result;
	_fm_close_ int fd = fm_pidfd_open(gettid());

	*saved = fd < 0 ? errno : 0;
	return NULL;
}

/* Kernels differ in what they say of a number that is not a process's own; ours is always the same. */
static void test_pidfd(void **state)
{
	_fm_close_ int fd = fm_pidfd_open(getpid());
	pthread_t thread;
	int saved = 0;
	pid_t pid = start_child();

	assert_true(fd >= 0);
	assert_int_equal(pthread_create(&thread, NULL, pidfd_of_this_thread, &saved), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(saved, ESRCH);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(fm_pidfd_open(pid), -1);
	assert_int_equal(errno, ESRCH);
	assert_int_equal(fm_pidfd_open(-1), -1);
	assert_int_equal(errno, EINVAL);
}

/* a process that is nobody's child of ours */
static void test_wait_gone_of_stranger(void **state)
{
	struct fm_error err = FM_ERROR_INIT;
	struct fm_proc_id id;
	pid_t family[4] = { 0 };
	_fm_free_ pid_t *tree = NULL;
	size_t n = 0;

	start_family(family);
	assert_int_equal(fm_proc_tree(family[0], &tree, &n, &err), 0);
	assert_int_equal(fm_proc_identify(tree[3], &id, &err), 0);
	assert_int_equal(kill(tree[3], SIGKILL), 0);
	assert_int_equal(fm_proc_wait_gone(&id, LONG_WAIT_MS, &err), 0);
	end_family(family);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_identify),     cmocka_unit_test(test_pidfd),
		cmocka_unit_test(test_hostile_name), cmocka_unit_test(test_states),
		cmocka_unit_test(test_rss),          cmocka_unit_test(test_ns_pid),
		cmocka_unit_test(test_tree),         cmocka_unit_test(test_children_of_threads),
		cmocka_unit_test(test_wait_gone),    cmocka_unit_test(test_wait_gone_of_stranger),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
