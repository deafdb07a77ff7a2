/* SPDX-License-Identifier: MIT */
/* Tests of loop/child, with real programs (sh, cat, sleep, grep). */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/proc.h"
#include "basic/str.h"
#include "loop/child.h"

#define LONG_WAIT_MS 20000

#define _result_ _fm_cleanup_(fm_child_result_done)

static int run_sh(const char *script, const struct fm_child_opts *opts, struct fm_child_result *ret, struct fm_error *err)
{
	char *const argv[] = { (char *)"sh", (char *)"-c", (char *)script, NULL };

	return fm_child_run(argv, opts, ret, err);
}

static int count_fds(void)
{
	_fm_closedir_ DIR *d = opendir("/proc/self/fd");
	int n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	return n;
}

/* every child is reaped, every descriptor closed */
static int setup(void **state)
{
	*state = (void *)(intptr_t)count_fds();
	return 0;
}

static int teardown(void **state)
{
	if ((intptr_t)*state != count_fds())
		return -1;
	return waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD ? 0 : -1;
}

static void test_output(void **state)
{
	_result_ struct fm_child_result r = { 0 };
	struct fm_error err = FM_ERROR_INIT;

	assert_int_equal(run_sh("echo out; echo err >&2", NULL, &r, &err), 0);
	assert_int_equal(r.exit_status, 0);
	assert_string_equal(r.out, "out\n");
	assert_string_equal(r.err, "err\n");
	fm_child_result_done(&r);
	fm_child_result_done(&r);
	fm_child_result_done(NULL);
}

static void test_silent(void **state)
{
	_result_ struct fm_child_result r = { 0 };
	char *const argv[] = { (char *)"true", NULL };

	assert_int_equal(fm_child_run(argv, NULL, &r, NULL), 0);
	assert_string_equal(r.out, "");
	assert_string_equal(r.err, "");
	assert_int_equal(fm_child_run(argv, NULL, NULL, NULL), 0);
}

static void test_failure(void **state)
{
	_result_ struct fm_child_result r = { 0 };
	struct fm_error err = FM_ERROR_INIT;

	assert_int_equal(run_sh("echo first >&2; printf 'no such \\033container\\n\\n  \\n' >&2; exit 7", NULL, &r, &err), -1);
	assert_int_equal(err.code, FM_E_FAILED_PRECONDITION);
	assert_string_equal(err.message, "running sh: ended with status 7: no such ?container");
	assert_int_equal(r.exit_status, 7);
	assert_null(r.out);
	assert_int_equal(run_sh("echo on stdout; exit 1", NULL, &r, &err), -1);
	assert_string_equal(err.message, "running sh: ended with status 1: on stdout");
	assert_int_equal(run_sh("exit 1", NULL, NULL, &err), -1);
	assert_string_equal(err.message, "running sh: ended with status 1");
}

static void test_signal(void **state)
{
	_result_ struct fm_child_result r = { 0 };
	struct fm_error err = FM_ERROR_INIT;

	assert_int_equal(run_sh("kill -USR1 $$", NULL, &r, &err), -1);
	assert_int_equal(err.code, FM_E_FAILED_PRECONDITION);
	assert_int_equal(r.exit_status, 128 + SIGUSR1);
	assert_non_null(strstr(err.message, "SIGUSR1"));
}

static void test_cannot_start(void **state)
{
	char *const missing[] = { (char *)"fm-no-such-program", NULL }, *const none[] = { NULL };
	char *const denied[] = { (char *)"/etc/passwd", NULL };
	_result_ struct fm_child_result r = { 0 };
	struct fm_error err = FM_ERROR_INIT;

	assert_int_equal(fm_child_run(missing, NULL, &r, &err), -1);
	assert_int_equal(err.code, FM_E_NOT_FOUND);
	assert_non_null(strstr(err.message, "fm-no-such-program"));
	assert_string_not_equal(err.hint, "");
	assert_int_equal(r.exit_status, -1);
	assert_int_equal(fm_child_run(denied, NULL, &r, &err), -1);
	assert_int_equal(err.code, FM_E_PERMISSION_DENIED);
	assert_int_equal(fm_child_run(none, NULL, &r, &err), -1);
	assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
}

/* 64 KiB are kept, the child is never blocked by a full pipe, and the end of stderr still reaches the message */
static void test_much_output(void **state)
{
	_result_ struct fm_child_result r = { 0 };
	struct fm_error err = FM_ERROR_INIT;

	assert_int_equal(run_sh("yes abcdefg | head -c 1000000; yes xyz | head -c 300000 >&2", NULL, &r, &err), 0);
	assert_int_equal(strlen(r.out), 65536);
	assert_int_equal(strlen(r.err), 65536);
	assert_memory_equal(r.out, "abcdefg\nabcdefg\n", 16);
	fm_child_result_done(&r);
	assert_int_equal(run_sh("yes xyz | head -c 300000 >&2; echo; echo the reason >&2; exit 3", NULL, &r, &err), -1);
	assert_string_equal(err.message, "running sh: ended with status 3: the reason");
	assert_int_equal(run_sh("yes '' | tr '\\n' x | head -c 5000 >&2; exit 3", NULL, &r, &err), -1);
	assert_true(strlen(err.message) < 600);
}

static void test_stdin_is_empty(void **state)
{
	_result_ struct fm_child_result r = { 0 };
	char *const argv[] = { (char *)"cat", NULL };

	assert_int_equal(fm_child_run(argv, NULL, &r, NULL), 0);
	assert_string_equal(r.out, "");
}

static void test_environment(void **state)
{
	char *const env[] = { (char *)"FM_TEST_A=1", (char *)"PATH=/usr/bin:/bin", NULL };
	struct fm_child_opts opts = { .env = env };
	_result_ struct fm_child_result r = { 0 }, inherited = { 0 };

	assert_int_equal(setenv("FM_TEST_B", "2", 1), 0);
	assert_int_equal(run_sh("echo $FM_TEST_A $FM_TEST_B", &opts, &r, NULL), 0);
	assert_string_equal(r.out, "1\n");
	assert_int_equal(run_sh("echo $FM_TEST_A $FM_TEST_B", NULL, &inherited, NULL), 0);
	assert_string_equal(inherited.out, "2\n");
	assert_int_equal(unsetenv("FM_TEST_B"), 0);
}

/* The caller blocks and ignores signals (as our workers do); the program starts clean, in its own group. */
static void test_signals_and_group(void **state)
{
	_result_ struct fm_child_result r = { 0 };
	struct sigaction ignore = { .sa_handler = SIG_IGN }, before;
	sigset_t all, old;

	(void)sigfillset(&all);
	assert_int_equal(sigaction(SIGPIPE, &ignore, &before), 0);
	assert_int_equal(pthread_sigmask(SIG_SETMASK, &all, &old), 0);
	assert_int_equal(run_sh("exec grep -E '^Sig(Blk|Ign)' /proc/self/status", NULL, &r, NULL), 0);
	assert_string_equal(r.out, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
	fm_child_result_done(&r);
	assert_int_equal(run_sh("set -- $(cat /proc/$$/stat); test $1 = $5", NULL, &r, NULL), 0); /* pid = pgrp */
	assert_int_equal(pthread_sigmask(SIG_SETMASK, &old, NULL), 0);
	assert_int_equal(sigaction(SIGPIPE, &before, NULL), 0);
}

static void test_descriptors(void **state)
{
	_fm_close_ int low = open("/dev/null", O_RDONLY), kept = fcntl(low, F_DUPFD_CLOEXEC, 30), leak = fcntl(low, F_DUPFD, 20),
	               high = fcntl(low, F_DUPFD, 200), also = fcntl(low, F_DUPFD_CLOEXEC, 25);
	int keep[] = { kept, also, -1 };
	struct fm_child_opts opts = { .keep_fds = keep };
	_result_ struct fm_child_result r = { 0 }, none = { 0 };
	_fm_free_ char *expected = fm_xasprintf("0\n1\n2\n%d\n%d\n", also, kept);

	assert_true(leak >= 20 && high >= 200);
	/* the shell's own view, without ls, whose directory descriptor would show up */
	assert_int_equal(run_sh("for f in $(seq 0 300); do [ -e /proc/$$/fd/$f ] && echo $f; done; true", &opts, &r, NULL), 0);
	assert_string_equal(r.out, expected);
	assert_int_equal(run_sh("for f in $(seq 0 300); do [ -e /proc/$$/fd/$f ] && echo $f; done; true", NULL, &none, NULL), 0);
	assert_string_equal(none.out, "0\n1\n2\n");
	assert_true(fcntl(kept, F_GETFD) & FD_CLOEXEC); /* ours stays as it was */
}

static void test_bad_descriptors(void **state)
{
	int stdio[] = { 1, -1 }, closed[] = { 999, -1 }, negative[] = { -2, -1 }, huge[] = { 1 << 30, -1 };
	const int *const bad[] = { stdio, closed, negative, huge };
	struct fm_child_opts no_out = { .stdout_fd = 999 };
	struct fm_error err = FM_ERROR_INIT;

	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++) {
		struct fm_child_opts opts = { .keep_fds = bad[i] };

		assert_int_equal(run_sh("true", &opts, NULL, &err), -1);
	}
	assert_int_equal(run_sh("true", &no_out, NULL, &err), -1);
}

static void test_given_streams(void **state)
{
	_result_ struct fm_child_result r = { 0 };
	struct fm_error err = FM_ERROR_INIT;
	struct fm_child_opts opts = { 0 };
	char text[8] = "";
	int p[2];

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	opts.stdout_fd = opts.stderr_fd = p[1];
	assert_int_equal(run_sh("echo ab; echo cd >&2", &opts, &r, &err), 0);
	assert_string_equal(r.out, "");
	assert_string_equal(r.err, "");
	assert_int_equal(fm_read_full(p[0], text, 6, &err), 0);
	assert_string_equal(text, "ab\ncd\n");
	(void)close(p[0]);
	(void)close(p[1]);
}

/* In a process without 0-2, our pipes would get these numbers; also streams exchanged on purpose. */
static int without_stdio(void)
{
	struct fm_child_result r = { 0 };
	struct fm_child_opts crossed = { .stdout_fd = 2, .stderr_fd = 1 };
	char text[16] = "";
	int a[2], b[2];

	(void)close(0);
	(void)close(1);
	(void)close(2);
	if (run_sh("echo out; echo err >&2", NULL, &r, NULL) < 0 || strcmp(r.out, "out\n") != 0 || strcmp(r.err, "err\n") != 0)
		return 1;
	fm_child_result_done(&r);
	if (pipe2(a, 0) < 0 || pipe2(b, 0) < 0) /* 0,1 and 2,3 */
		return 2;
	b[0] = dup(b[0]);
	if (a[1] != 1 || b[0] < 3 || dup2(b[1], 2) != 2)
		return 3;
	if (run_sh("echo out; echo err >&2", &crossed, NULL, NULL) < 0)
		return 4;
	if (fm_read_full(a[0], text, 4, NULL) < 0 || strcmp(text, "err\n") != 0)
		return 5;
	if (fm_read_full(b[0], text, 4, NULL) < 0 || strcmp(text, "out\n") != 0)
		return 6;
	return 0;
}

static void test_without_stdio(void **state)
{
	pid_t pid = fork();
	int status = 0;

	assert_true(pid >= 0);
	if (pid == 0) {
		(void)signal(SIGPIPE, SIG_IGN);
		_exit(without_stdio());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 0);
	assert_true(WIFEXITED(status));
}

/* Everybody of the group holds the writing end of a pipe: its end of file proves that all of them are gone. */
static void assert_group_gone(int fd)
{
	char c;

	for (;;) {
		ssize_t n;

		assert_int_equal(fm_wait_fd(fd, POLLIN, LONG_WAIT_MS, NULL), 1);
		n = read(fd, &c, 1);
		assert_true(n >= 0);
		if (n == 0)
			return;
	}
}

static void test_deadline_ends_group(void **state)
{
	_result_ struct fm_child_result r = { 0 };
	struct fm_error err = FM_ERROR_INIT;
	int keep[] = { -1, -1 }, p[2];
	struct fm_child_opts opts = { .timeout_ms = 2000, .keep_fds = keep };

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	keep[0] = p[1];
	assert_int_equal(run_sh("echo halfway >&2; sleep 1000 & sleep 1000", &opts, &r, &err), -1);
	(void)close(p[1]);
	assert_int_equal(err.code, FM_E_DEADLINE_EXCEEDED);
	assert_string_equal(err.message, "running sh: not finished within 2000 ms: halfway");
	assert_null(r.out);
	assert_int_equal(r.exit_status, -1);
	assert_group_gone(p[0]);
	(void)close(p[0]);
}

/* neither a shell that ignores SIGTERM nor one that fills its pipe all the time gets past the deadline */
static void test_deadline_stubborn(void **state)
{
	struct fm_error err = FM_ERROR_INIT;
	int keep[] = { -1, -1 }, p[2];
	struct fm_child_opts opts = { .timeout_ms = 100, .keep_fds = keep };

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	keep[0] = p[1];
	assert_int_equal(run_sh("trap '' TERM; sleep 1000 & while :; do echo busy; done", &opts, NULL, &err), -1);
	(void)close(p[1]);
	assert_int_equal(err.code, FM_E_DEADLINE_EXCEEDED);
	assert_group_gone(p[0]);
	(void)close(p[0]);
}

/* A polite program may tidy up after SIGTERM. It says itself, by cancel_fd, when it is ready to be stopped. */
static void test_stop_lets_tidy_up(void **state)
{
	_fm_free_ char *path = NULL, *script = NULL;
	char dir[] = "/tmp/fm-test-child-XXXXXX";
	struct fm_error err = FM_ERROR_INIT;
	int keep[] = { -1, -1 }, p[2];
	struct fm_child_opts opts = { .keep_fds = keep };

	assert_non_null(mkdtemp(dir));
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	opts.cancel_fd = p[0];
	keep[0] = p[1];
	path = fm_xasprintf("%s/tidy", dir);
	script = fm_xasprintf("trap 'echo yes >%s; exit 0' TERM; sleep 1000 & echo ready >/proc/self/fd/%d; wait", path, p[1]);
	assert_int_equal(run_sh(script, &opts, NULL, &err), -1);
	(void)close(p[0]);
	(void)close(p[1]);
	assert_int_equal(err.code, FM_E_CANCELLED);
	assert_true(fm_path_exists(path));
	assert_int_equal(fm_remove_tree(dir, &err), 0);
}

static void test_cancel(void **state)
{
	_fm_close_ int cancel = eventfd(1, EFD_CLOEXEC);
	struct fm_child_opts opts = { .cancel_fd = cancel };
	struct fm_error err = FM_ERROR_INIT;

	assert_int_equal(run_sh("sleep 1000", &opts, NULL, &err), -1);
	assert_int_equal(err.code, FM_E_CANCELLED);
	assert_int_equal(err.message[strlen(err.message) - 1], 'd');
}

/* a program that leaves a daemon behind (as container runtimes do), which holds our pipes for ever */
static void test_daemon_stays(void **state)
{
	_result_ struct fm_child_result r = { 0 };
	struct fm_child_opts opts = { .timeout_ms = LONG_WAIT_MS };
	struct fm_proc_id id = { 0 };
	int pid = 0;

	assert_int_equal(run_sh("sleep 1000 & echo $!", &opts, &r, NULL), 0);
	r.out[strcspn(r.out, "\n")] = '\0';
	assert_int_equal(fm_parse_int(r.out, 2, 1 << 30, &pid, NULL), 0);
	assert_int_equal(fm_proc_identify(pid, &id, NULL), 0);
	assert_true(fm_proc_alive(&id));
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(fm_proc_wait_gone(&id, LONG_WAIT_MS, NULL), 0);
}

#define THREADS 8
#define RUNS    10

static void *run_many(void *arg)
{
	intptr_t failures = 0;

	for (int i = 0; i < RUNS; i++) {
		_fm_free_ char *script = fm_xasprintf("echo %p-%d; exit 0", arg, i), *expected = fm_xasprintf("%p-%d\n", arg, i);
		_result_ struct fm_child_result r = { 0 };

		if (run_sh(script, NULL, &r, NULL) < 0 || strcmp(r.out, expected) != 0)
			failures++;
	}
	return (void *)failures;
}

static void test_threads(void **state)
{
	pthread_t threads[THREADS];
	char names[THREADS]; /* their addresses tell the threads apart */
	void *failures;

	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, run_many, &names[i]), 0);
	for (int i = 0; i < THREADS; i++) {
		assert_int_equal(pthread_join(threads[i], &failures), 0);
		assert_null(failures);
	}
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_output),
		TEST(test_silent),
		TEST(test_failure),
		TEST(test_signal),
		TEST(test_cannot_start),
		TEST(test_much_output),
		TEST(test_stdin_is_empty),
		TEST(test_environment),
		TEST(test_signals_and_group),
		TEST(test_descriptors),
		TEST(test_bad_descriptors),
		TEST(test_given_streams),
		TEST(test_without_stdio),
		TEST(test_deadline_ends_group),
		TEST(test_deadline_stubborn),
		TEST(test_stop_lets_tidy_up),
		TEST(test_cancel),
		TEST(test_daemon_stays),
		TEST(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
