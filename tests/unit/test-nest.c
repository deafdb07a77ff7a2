/* SPDX-License-Identifier: MIT */
/*
 * test-nest.c - the nest as PID 1 of real namespaces, with a probe as its application, and the agent's side of nest.h against it.
 *
 * A parent is: this program -> "outer" (waits, and passes the exit code on) -> PID 1 in new pid and mount namespaces, in a chroot. Both
 * die with this program.
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "basic/clock.h"
#include "basic/proc.h"
#include "container/nest.h"
#include "nest-lab.h"

#define PATIENCE_MS 30000
#define UID         12345

struct parent {
	pid_t outer, nest; /* host pids */
	int out, err;      /* what an orchestrator would read; -1 when closed */
	char control[128];
};

struct start {
	bool wait;    /* on the command line … */
	bool waiting; /* … or by its mark */
	uid_t uid;
	bool no_control;
	int extra_fd; /* >0: left open for the nest to inherit */
	int out_size; /* >0: capacity of the pipe that is the nest's stdout */
	bool again;   /* in the control folder that the parent had before */
};

/* ---- starting and ending parents */

static void must(int ok, const char *what)
{
	if (!ok) {
		(void)dprintf(2, "test set-up: %s: %s\n", what, strerror(errno));
		_exit(99);
	}
}

/* Becomes the nest, as a runtime would. */
static void pid_one(const char *root, const char *control, const struct start *s, char **argv)
{
	char path[256];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0, "private mounts");
	if (!s->no_control) {
		(void)snprintf(path, sizeof path, "%s/.fleximigrate/run", root);
		must(mount(control, path, NULL, MS_BIND, NULL) == 0, "control folder");
	}
	(void)snprintf(path, sizeof path, "%s/dev", root);
	must(mount("/dev", path, NULL, MS_BIND, NULL) == 0, "/dev");
	(void)snprintf(path, sizeof path, "%s/proc", root);
	must(mount("proc", path, "proc", 0, NULL) == 0, "/proc");
	must(chroot(root) == 0 && chdir("/tmp") == 0, "chroot");
	if (s->uid)
		must(setresgid(s->uid, s->uid, s->uid) == 0 && setresuid(s->uid, s->uid, s->uid) == 0, "setuid");
	(void)umask(027);
	execv(argv[0], argv);
	must(0, "exec");
}

static void outer(const char *root, const char *control, const struct start *s, char **argv, int report)
{
	pid_t pid;
	int status = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	must(unshare(CLONE_NEWNS | CLONE_NEWPID) == 0, "unshare");
	pid = fork();
	must(pid >= 0, "fork");
	if (pid == 0)
		pid_one(root, control, s, argv);
	must(write(report, &pid, sizeof pid) == sizeof pid, "report");
	close(report);
	close(1); /* the nest alone holds the log now */
	close(2);
	while (waitpid(pid, &status, 0) < 0)
		;
	_exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

static void make_pipe(int p[2])
{
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
}

static void await_nest(struct parent *p)
{
	struct fm_error err = FM_ERROR_INIT;
	uint64_t deadline = fm_now_ms() + PATIENCE_MS;
	struct fm_nest_status st;

	while (fm_nest_status(p->control, &st, &err) < 0) {
		if (fm_now_ms() > deadline)
			fail_msg("no nest: %s", err.message);
		fm_pause_ms(5);
	}
}

/* args: the application's; NULL-terminated. */
static void parent_start(const struct lab *lab, struct parent *p, const struct start *s, char *const *args)
{
	static unsigned number;
	_fm_free_ char *root = fm_xasprintf("%s/root", lab->dir);
	_fm_cleanup_(fm_strv_freep) char **argv = NULL;
	int out[2], err[2], report[2];

	if (!s->again) {
		(void)snprintf(p->control, sizeof p->control, "%s/control%u", lab->dir, number++);
		assert_int_equal(fm_nest_prepare_control(p->control, s->uid, s->uid, s->waiting, NULL), 0);
	}
	fm_strv_add(&argv, "/nest");
	if (s->wait)
		fm_strv_add(&argv, "--wait");
	fm_strv_add(&argv, "--");
	for (size_t i = 0; args[i]; i++)
		fm_strv_add(&argv, args[i]);
	make_pipe(out);
	make_pipe(err);
	make_pipe(report);
	if (s->out_size)
		assert_true(fcntl(out[1], F_SETPIPE_SZ, s->out_size) >= 0);
	p->outer = fork();
	assert_true(p->outer >= 0);
	if (p->outer == 0) {
		must(dup2(out[1], 1) == 1 && dup2(err[1], 2) == 2, "stdio");
		close(out[0]); /* no exec here that would do it */
		close(out[1]);
		close(err[0]);
		close(err[1]);
		if (s->extra_fd > 0)
			must(fcntl(s->extra_fd, F_SETFD, 0) == 0, "extra fd");
		outer(root, p->control, s, argv, report[1]);
	}
	close(out[1]);
	close(err[1]);
	close(report[1]);
	assert_int_equal(read(report[0], &p->nest, sizeof p->nest), sizeof p->nest);
	close(report[0]);
	p->out = out[0];
	p->err = err[0];
}

static int parent_wait(struct parent *p)
{
	int status = 0;

	assert_int_equal(waitpid(p->outer, &status, 0), p->outer);
	if (p->out >= 0)
		close(p->out);
	if (p->err >= 0)
		close(p->err);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* All of it until the end of the stream. */
static char *slurp(int fd)
{
	struct fm_buf b = FM_BUF_INIT;
	char chunk[4096];
	ssize_t n;

	fm_buf_add(&b, "", 0);
	while ((n = read(fd, chunk, sizeof chunk)) > 0)
		fm_buf_add(&b, chunk, (size_t)n);
	return b.data;
}

/* The next line, without its newline. */
static const char *line_of(int fd)
{
	static char line[512];
	size_t n = 0;

	while (n < sizeof line - 1) {
		struct fm_error err = FM_ERROR_INIT;

		if (fm_wait_fd(fd, POLLIN, PATIENCE_MS, &err) != 1)
			fail_msg("no line came, only '%.*s'", (int)n, line);
		if (read(fd, line + n, 1) != 1 || line[n] == '\n')
			break;
		n++;
	}
	line[n] = '\0';
	return line;
}

static struct fm_nest_status status_of(struct parent *p)
{
	struct fm_error err = FM_ERROR_INIT;
	struct fm_nest_status st = { 0 };

	if (fm_nest_status(p->control, &st, &err) < 0)
		fail_msg("%s", err.message);
	return st;
}

static void await_state(struct parent *p, enum fm_nest_state state)
{
	uint64_t deadline = fm_now_ms() + PATIENCE_MS;

	while (status_of(p).state != state) {
		assert_true(fm_now_ms() < deadline);
		fm_pause_ms(2);
	}
}

static pid_t app_host_pid(struct parent *p)
{
	struct fm_error err = FM_ERROR_INIT;
	pid_t pid = 0;

	if (fm_nest_host_pid(p->nest, status_of(p).app_ns_pid, &pid, &err) < 0)
		fail_msg("%s", err.message);
	return pid;
}

static void expect_code(int result, const struct fm_error *err, enum fm_code code)
{
	assert_int_equal(result, -1);
	if (err->code != code)
		fail_msg("expected %s, got %s: %s", fm_code_to_string(code), fm_code_to_string(err->code), err->message);
}

#define NEED_LAB(state)                                                                                                                    \
	struct lab *lab = *(state);                                                                                                        \
	if (!lab)                                                                                                                          \
	skip()

static char *const PAUSE[] = { (char *)"/probe", (char *)"pause", NULL };
static char *const SIGNALS[] = { (char *)"/probe", (char *)"signals", NULL };

/* Runs the probe to its end; returns the exit code and gives both outputs. */
static int run_app(const struct lab *lab, const char *a, const char *b, const char *c, char **ret_out, char **ret_err)
{
	char *args[] = { (char *)a, (char *)b, (char *)c, NULL };
	struct start s = { 0 };
	struct parent p;

	parent_start(lab, &p, &s, args);
	*ret_out = slurp(p.out);
	*ret_err = slurp(p.err);
	return parent_wait(&p);
}

/* ---- the application's life */

static void test_exit_codes(void **state)
{
	NEED_LAB(state);
	static const struct {
		const char *a, *b, *c;
		int code;
	} cases[] = {
		{ "/probe", "exit", "0", 0 },           { "/probe", "exit", "3", 3 },         { "/probe", "die", "9", 137 },
		{ "/probe", "die", "11", 139 },         { "/probe", "die", "15", 143 },       { "/does-not-exist", NULL, NULL, 127 },
		{ "no-such-program", NULL, NULL, 127 }, { "/proc/version", NULL, NULL, 126 },
	};

	for (size_t i = 0; i < FM_ARRAY_SIZE(cases); i++) {
		_fm_free_ char *out = NULL, *err = NULL;

		assert_int_equal(run_app(lab, cases[i].a, cases[i].b, cases[i].c, &out, &err), cases[i].code);
		assert_string_equal(out, "");
		if (cases[i].code == 127 || cases[i].code == 126)
			assert_non_null(strstr(err, "cannot start '"));
		else
			assert_string_equal(err, "");
	}
}

static void test_setup_failure(void **state)
{
	NEED_LAB(state);
	char *const args[] = { (char *)"/probe", NULL };
	struct start s = { .no_control = true, .uid = UID };
	struct parent p;
	_fm_free_ char *err = NULL;

	/* a foreign uid cannot make the fifos in what the root filesystem has as control folder */
	parent_start(lab, &p, &s, args);
	err = slurp(p.err);
	assert_non_null(strstr(err, "fleximigrate-nest: cannot open the fifo"));
	assert_int_equal(parent_wait(&p), FM_NEST_EXIT_SETUP);
}

static void check_pattern(const char *data, size_t n)
{
	assert_int_equal(strlen(data), n);
	for (size_t i = 0; i < n; i++)
		if (data[i] != 'a' + (char)(i % 26))
			fail_msg("byte %zu is wrong", i);
}

static void test_output_complete(void **state)
{
	NEED_LAB(state);
	_fm_free_ char *out = NULL, *err = NULL;

	assert_int_equal(run_app(lab, "/probe", "out", "3000000", &out, &err), 0);
	check_pattern(out, 3000000);
	assert_string_equal(err, "done\n");
}

/* Nobody reads: the application blocks, nothing is lost, the nest stays responsive. */
static void test_output_back_pressure(void **state)
{
	NEED_LAB(state);
	char *const args[] = { (char *)"/probe", (char *)"out", (char *)"1000000", NULL };
	struct start s = { 0 };
	struct parent p;
	_fm_free_ char *out = NULL;
	uint64_t deadline = fm_now_ms() + PATIENCE_MS;
	int queued = 0, before = -1;

	parent_start(lab, &p, &s, args);
	await_nest(&p);
	while (queued == 0 || queued != before) { /* until the pipe is full */
		before = queued;
		assert_true(fm_now_ms() < deadline);
		fm_pause_ms(20);
		assert_int_equal(ioctl(p.out, FIONREAD, &queued), 0);
	}
	assert_true(queued < 1000000);
	assert_int_equal(status_of(&p).state, FM_NEST_RUNNING);
	out = slurp(p.out);
	check_pattern(out, 1000000);
	assert_int_equal(parent_wait(&p), 0);
}

/* The application has ended, its last output has not been read yet: the nest waits with it. */
static void test_output_after_exit(void **state)
{
	NEED_LAB(state);
	char *const args[] = { (char *)"/probe", (char *)"out", (char *)"8000", NULL };
	struct start s = { .out_size = 4096 };
	struct parent p;
	struct fm_nest_status st;
	_fm_free_ char *out = NULL;

	parent_start(lab, &p, &s, args);
	await_nest(&p);
	await_state(&p, FM_NEST_EXITED);
	st = status_of(&p);
	assert_int_equal(st.app_ns_pid, 0);
	assert_true(WIFEXITED(st.exit_status) && WEXITSTATUS(st.exit_status) == 0);
	assert_int_equal(kill(p.nest, SIGTERM), 0); /* no reason to lose it */
	out = slurp(p.out);
	check_pattern(out, 8000);
	assert_int_equal(parent_wait(&p), 0);
}

static void test_output_nobody_listens(void **state)
{
	NEED_LAB(state);
	char *const args[] = { (char *)"/probe", (char *)"out", (char *)"1000000", NULL };
	struct start s = { 0 };
	struct parent p;
	_fm_free_ char *err = NULL;

	parent_start(lab, &p, &s, args);
	close(p.out);
	p.out = -1;
	err = slurp(p.err);
	assert_string_equal(err, "done\n");
	assert_int_equal(parent_wait(&p), 0);
}

static void test_stdio(void **state)
{
	NEED_LAB(state);
	_fm_close_ int extra = open("/dev/null", O_RDONLY | O_CLOEXEC);

	for (uid_t uid = 0; uid <= UID; uid += UID) {
		char *const args[] = { (char *)"/probe", (char *)"stdio", NULL };
		struct start s = { .uid = uid, .extra_fd = extra };
		_fm_free_ char *out = NULL, *err = NULL, *want = NULL;
		struct parent p;

		parent_start(lab, &p, &s, args);
		out = slurp(p.out);
		err = slurp(p.err);
		want = fm_xasprintf("fd 0 /dev/null\nfd 1 /.fleximigrate/run/out\nfd 2 /.fleximigrate/run/err\n"
		                    "session own, subreaper 1, blocked 0, umask 027, uid %u\nreopen ok\nnest's descriptors %s\n",
		                    (unsigned)uid, uid ? "closed" : "open");
		assert_string_equal(out, want);
		assert_string_equal(err, "");
		assert_int_equal(parent_wait(&p), 0);
	}
}

static void test_orphans(void **state)
{
	NEED_LAB(state);
	_fm_free_ char *out = NULL, *err = NULL;
	char *root, *orphan;
	int root_pid, parent_pid;

	assert_int_equal(run_app(lab, "/probe", "orphan", NULL, &out, &err), 0);
	root = strstr(out, "root is ");
	orphan = strstr(out, "orphan has parent ");
	assert_non_null(root);
	assert_non_null(orphan);
	root_pid = atoi(root + strlen("root is "));
	parent_pid = atoi(orphan + strlen("orphan has parent "));
	assert_true(root_pid > 1);
	assert_int_equal(root_pid, parent_pid);
}

/* ---- signals and states */

static void test_signals(void **state)
{
	NEED_LAB(state);
	static const int sent[] = { SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT, SIGALRM };
	struct start s = { 0 };
	struct parent p;

	parent_start(lab, &p, &s, SIGNALS);
	assert_string_equal(line_of(p.out), "ready");
	for (size_t i = 0; i < FM_ARRAY_SIZE(sent); i++) {
		char want[32];

		(void)snprintf(want, sizeof want, "signal %d", sent[i]);
		assert_int_equal(kill(p.nest, sent[i]), 0);
		assert_string_equal(line_of(p.out), want);
	}
	assert_int_equal(kill(p.nest, SIGTERM), 0);
	assert_string_equal(line_of(p.out), "signal 15");
	assert_int_equal(parent_wait(&p), 7);
}

static void test_hold(void **state)
{
	NEED_LAB(state);
	struct start s = { 0 };
	struct parent p;

	parent_start(lab, &p, &s, SIGNALS);
	assert_string_equal(line_of(p.out), "ready");
	assert_int_equal(fm_nest_hold(p.control, 1, NULL), 0);
	assert_int_equal(fm_nest_hold(p.control, 1, NULL), 0); /* may be repeated */
	assert_int_equal(status_of(&p).state, FM_NEST_HELD);
	assert_int_equal(kill(p.nest, SIGTERM), 0);
	assert_int_equal(kill(p.nest, SIGUSR1), 0);
	/* only the application itself is told now */
	assert_int_equal(kill(app_host_pid(&p), SIGUSR2), 0);
	assert_string_equal(line_of(p.out), "signal 12");
	assert_int_equal(status_of(&p).state, FM_NEST_HELD);
	assert_int_equal(fm_nest_hold(p.control, 0, NULL), 0);
	/* both are pending at once: which one the probe takes first is not ours to say */
	if (strcmp(line_of(p.out), "signal 10") == 0)
		assert_string_equal(line_of(p.out), "signal 15");
	assert_int_equal(parent_wait(&p), 7);
}

static void test_leave(void **state)
{
	NEED_LAB(state);
	struct fm_error err = FM_ERROR_INIT;
	struct start s = { 0 };
	struct parent p;

	parent_start(lab, &p, &s, PAUSE);
	assert_string_equal(line_of(p.out), "pausing");
	expect_code(fm_nest_leave(p.control, &err), &err, FM_E_FAILED_PRECONDITION);
	expect_code(fm_nest_adopt(p.control, 5, &err), &err, FM_E_FAILED_PRECONDITION);
	assert_int_equal(fm_nest_hold(p.control, 1, NULL), 0);
	assert_int_equal(fm_nest_leave(p.control, NULL), 0);
	assert_int_equal(fm_nest_leave(p.control, NULL), 0);
	assert_int_equal(status_of(&p).state, FM_NEST_GONE);
	expect_code(fm_nest_hold(p.control, 0, &err), &err, FM_E_FAILED_PRECONDITION);
	assert_int_equal(kill(p.nest, SIGTERM), 0); /* not forwarded */
	assert_int_equal(status_of(&p).state, FM_NEST_GONE);
	assert_int_equal(kill(app_host_pid(&p), SIGKILL), 0);
	assert_int_equal(parent_wait(&p), FM_NEST_EXIT_MOVED);
}

/* What an orchestrator with a restart policy does to the parent whose tree has left. */
static void test_started_again(void **state)
{
	NEED_LAB(state);
	struct start s = { 0 };
	struct parent p;
	char *again[] = { (char *)"/probe", (char *)"exit", (char *)"3", NULL };

	parent_start(lab, &p, &s, PAUSE);
	assert_string_equal(line_of(p.out), "pausing");
	assert_int_equal(fm_nest_hold(p.control, 1, NULL), 0);
	assert_int_equal(kill(p.nest, SIGKILL), 0); /* before it leaves: the application is only here */
	assert_int_equal(parent_wait(&p), 137);
	s.again = true;
	parent_start(lab, &p, &s, again);
	assert_int_equal(parent_wait(&p), 3);

	parent_start(lab, &p, &s, PAUSE);
	assert_string_equal(line_of(p.out), "pausing");
	assert_int_equal(fm_nest_hold(p.control, 1, NULL), 0);
	assert_int_equal(fm_nest_leave(p.control, NULL), 0);
	assert_int_equal(kill(p.nest, SIGKILL), 0);
	assert_int_equal(parent_wait(&p), 137);
	for (int i = 0; i < 2; i++) {
		_fm_free_ char *err = NULL;

		parent_start(lab, &p, &s, again);
		err = slurp(p.err);
		assert_int_equal(parent_wait(&p), FM_NEST_EXIT_MOVED);
		assert_non_null(strstr(err, "moved to another host"));
	}
	s.wait = true;
	parent_start(lab, &p, &s, PAUSE);
	await_nest(&p);
	assert_int_equal(status_of(&p).state, FM_NEST_EMPTY);
	assert_int_equal(kill(p.nest, SIGTERM), 0);
	assert_int_equal(parent_wait(&p), 143);
}

/* Where it cannot be written down that the tree has left, it does not leave. */
static void test_leave_unwritten(void **state)
{
	NEED_LAB(state);
	struct fm_error err = FM_ERROR_INIT;
	struct start s = { 0 };
	struct parent p;
	_fm_free_ char *mark = NULL;

	parent_start(lab, &p, &s, PAUSE);
	assert_string_equal(line_of(p.out), "pausing");
	assert_int_equal(fm_nest_hold(p.control, 1, NULL), 0);
	mark = fm_xasprintf("%s/" FM_NEST_MOVED, p.control);
	assert_int_equal(symlink("elsewhere", mark), 0);
	assert_int_equal(fm_nest_leave(p.control, &err), -1);
	assert_int_equal(status_of(&p).state, FM_NEST_HELD);
	assert_int_equal(unlink(mark), 0);
	assert_int_equal(fm_nest_leave(p.control, NULL), 0);
	assert_int_equal(kill(app_host_pid(&p), SIGKILL), 0);
	assert_int_equal(parent_wait(&p), FM_NEST_EXIT_MOVED);
}

static bool marked(const struct parent *p, const char *mark)
{
	_fm_free_ char *path = fm_xasprintf("%s/%s", p->control, mark);

	return access(path, F_OK) == 0;
}

/* Ends it as a crash would, and starts it again as an orchestrator does: the same command line. */
static void crash_and_restart(const struct lab *lab, struct parent *p, char *const *args)
{
	struct start again = { .again = true };

	assert_int_equal(kill(p->nest, SIGKILL), 0);
	assert_int_equal(parent_wait(p), 137);
	parent_start(lab, p, &again, args);
}

static void expect_refused(struct parent *p, const char *why)
{
	_fm_free_ char *err = slurp(p->err);

	assert_int_equal(parent_wait(p), FM_NEST_EXIT_MOVED);
	if (!strstr(err, why))
		fail_msg("said '%s'", err);
}

/* Between the fence and the word that it is over, nothing is started by whoever starts the parent again. */
static void test_fence(void **state)
{
	NEED_LAB(state);
	struct fm_error err = FM_ERROR_INIT;
	struct start s = { 0 }, again = { .again = true };
	char *const exits[] = { (char *)"/probe", (char *)"exit", (char *)"3", NULL };
	struct parent p;

	parent_start(lab, &p, &s, PAUSE);
	assert_string_equal(line_of(p.out), "pausing");
	for (int i = 0; i < 2; i++) { /* may be repeated, and taken back */
		assert_int_equal(fm_nest_fence(p.control, 1, NULL), 0);
		assert_int_equal(fm_nest_fence(p.control, 1, NULL), 0);
		assert_true(marked(&p, FM_NEST_HELD_MARK));
		assert_int_equal(fm_nest_hold(p.control, 1, NULL), 0);
		assert_int_equal(fm_nest_hold(p.control, 0, NULL), 0);
		assert_int_equal(fm_nest_fence(p.control, 0, NULL), 0);
		assert_int_equal(fm_nest_fence(p.control, 0, NULL), 0);
		assert_false(marked(&p, FM_NEST_HELD_MARK));
	}
	assert_int_equal(fm_nest_fence(p.control, 1, NULL), 0);
	crash_and_restart(lab, &p, exits);
	expect_refused(&p, "being moved to another host");
	/* undone while there is no parent */
	assert_int_equal(fm_nest_fence(p.control, 0, NULL), 0);
	expect_code(fm_nest_fence(p.control, 1, &err), &err, FM_E_UNAVAILABLE);
	parent_start(lab, &p, &again, exits);
	assert_int_equal(parent_wait(&p), 3);

	/* it left: that is for good */
	parent_start(lab, &p, &again, PAUSE);
	assert_string_equal(line_of(p.out), "pausing");
	assert_int_equal(fm_nest_fence(p.control, 1, NULL), 0);
	assert_int_equal(fm_nest_hold(p.control, 1, NULL), 0);
	assert_int_equal(fm_nest_leave(p.control, NULL), 0);
	expect_code(fm_nest_fence(p.control, 0, &err), &err, FM_E_FAILED_PRECONDITION);
	crash_and_restart(lab, &p, exits);
	expect_refused(&p, "moved to another host");
}

/* A parent made to wait: started by word, once, and by its orchestrator from then on; never where its application is elsewhere. */
static void test_waiting_start(void **state)
{
	NEED_LAB(state);
	struct fm_error err = FM_ERROR_INIT;
	struct start s = { .waiting = true, .uid = UID };
	char *const exits[] = { (char *)"/probe", (char *)"exit", (char *)"3", NULL };
	_fm_free_ char *mark = NULL;
	struct parent p;

	parent_start(lab, &p, &s, PAUSE);
	await_nest(&p);
	crash_and_restart(lab, &p, PAUSE);
	await_nest(&p);
	assert_int_equal(status_of(&p).state, FM_NEST_EMPTY);
	expect_code(fm_nest_fence(p.control, 1, &err), &err, FM_E_FAILED_PRECONDITION);
	expect_code(fm_nest_fence(p.control, 0, &err), &err, FM_E_FAILED_PRECONDITION);
	mark = fm_xasprintf("%s/" FM_NEST_MOVED, p.control);
	assert_int_equal(symlink("nowhere", mark), 0);
	expect_code(fm_nest_start(p.control, &err), &err, FM_E_FAILED_PRECONDITION);
	assert_int_equal(status_of(&p).state, FM_NEST_EMPTY);
	assert_int_equal(unlink(mark), 0);
	assert_int_equal(fm_nest_start(p.control, NULL), 0);
	assert_false(marked(&p, FM_NEST_WAITING));
	assert_int_equal(status_of(&p).state, FM_NEST_RUNNING);
	assert_string_equal(line_of(p.out), "pausing");
	expect_code(fm_nest_start(p.control, &err), &err, FM_E_FAILED_PRECONDITION);
	crash_and_restart(lab, &p, exits);
	assert_int_equal(parent_wait(&p), 3);
}

static void test_empty(void **state)
{
	NEED_LAB(state);
	struct fm_error err = FM_ERROR_INIT;
	struct start s = { .wait = true };
	struct parent p;

	parent_start(lab, &p, &s, PAUSE);
	await_nest(&p);
	assert_int_equal(status_of(&p).state, FM_NEST_EMPTY);
	assert_int_equal(status_of(&p).app_ns_pid, 0);
	expect_code(fm_nest_hold(p.control, 1, &err), &err, FM_E_FAILED_PRECONDITION);
	expect_code(fm_nest_hold(p.control, 0, &err), &err, FM_E_FAILED_PRECONDITION);
	expect_code(fm_nest_leave(p.control, &err), &err, FM_E_FAILED_PRECONDITION);
	expect_code(fm_nest_adopt(p.control, 4321, &err), &err, FM_E_NOT_FOUND);
	assert_int_equal(kill(p.nest, SIGUSR1), 0); /* means nothing */
	assert_int_equal(status_of(&p).state, FM_NEST_EMPTY);
	assert_int_equal(kill(p.nest, SIGTERM), 0);
	assert_int_equal(parent_wait(&p), 143);
	expect_code(fm_nest_hold(p.control, 1, &err), &err, FM_E_UNAVAILABLE);
}

/* ---- adoption */

/*
 * Plays CRIU: a process in the parent's pid namespace, child of ours, whose child is the "restored" application. Commands over a pipe:
 * 'k' kill the application, 'e' end it with status 5, 'r' reap it, 'q' quit. Reports the application's pid first, then each command's
 * letter.
 */
struct restorer {
	pid_t pid; /* of the helper that waits for it */
	int to, from;
	pid_t app; /* in the namespace */
};

static void restorer_main(int in, int out)
{
	int tell[2];
	pid_t app;
	char c;

	must(pipe2(tell, O_CLOEXEC) == 0, "pipe");
	app = fork();
	if (app == 0) {
		close(tell[1]);
		while (read(tell[0], &c, 1) != 1) /* the end: the restorer is gone */
			pause();
		_exit(5);
	}
	close(tell[0]);
	must(write(out, &app, sizeof app) == sizeof app, "write");
	while (read(in, &c, 1) == 1 && c != 'q') {
		siginfo_t si;

		if (c == 'k')
			(void)kill(app, SIGKILL);
		if (c == 'e')
			(void)!write(tell[1], "", 1);
		if (c == 'k' || c == 'e')
			must(waitid(P_PID, (id_t)app, &si, WEXITED | WNOWAIT) == 0, "waitid");
		if (c == 'r')
			must(waitpid(app, NULL, 0) == app, "reap");
		must(write(out, &c, 1) == 1, "write");
	}
	_exit(0);
}

static void restorer_start(struct restorer *r, pid_t nest)
{
	int to[2], from[2];
	char path[64];

	make_pipe(to);
	make_pipe(from);
	(void)snprintf(path, sizeof path, "/proc/%d/ns/pid", (int)nest);
	r->pid = fork();
	assert_true(r->pid >= 0);
	if (r->pid == 0) {
		int ns = open(path, O_RDONLY | O_CLOEXEC), status;
		pid_t pid;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		must(setns(ns, CLONE_NEWPID) == 0, "setns");
		pid = fork();
		if (pid == 0) {
			close(to[1]);
			restorer_main(to[0], from[1]);
		}
		(void)waitpid(pid, &status, 0);
		_exit(0);
	}
	close(to[0]);
	close(from[1]);
	r->to = to[1];
	r->from = from[0];
	assert_int_equal(read(r->from, &r->app, sizeof r->app), sizeof r->app);
}

static void restorer_gone(struct restorer *r)
{
	assert_int_equal(waitpid(r->pid, NULL, 0), r->pid);
	close(r->to);
	close(r->from);
}

static void restorer_do(struct restorer *r, char c)
{
	char answer = 0;

	assert_int_equal(write(r->to, &c, 1), 1);
	if (c == 'q') {
		restorer_gone(r);
		return;
	}
	assert_int_equal(read(r->from, &answer, 1), 1);
	assert_int_equal(answer, c);
}

static void start_adopted(const struct lab *lab, struct parent *p, struct restorer *r)
{
	struct fm_error err = FM_ERROR_INIT;
	struct start s = { .wait = true };

	parent_start(lab, p, &s, PAUSE);
	await_nest(p);
	restorer_start(r, p->nest);
	if (fm_nest_adopt(p->control, r->app, &err) < 0)
		fail_msg("%s", err.message);
	assert_int_equal(status_of(p).state, FM_NEST_RUNNING);
	assert_int_equal(status_of(p).app_ns_pid, r->app);
}

/* The usual way: the restorer goes, the application becomes the nest's child and ends later. */
static void test_adopt(void **state)
{
	NEED_LAB(state);
	struct parent p;
	struct restorer r;
	pid_t pid = 0;

	start_adopted(lab, &p, &r);
	assert_int_equal(fm_nest_host_pid(p.nest, r.app, &pid, NULL), 0); /* it is not below the nest yet */
	restorer_do(&r, 'q');
	assert_int_equal(app_host_pid(&p), pid);
	assert_int_equal(kill(p.nest, SIGTERM), 0); /* forwarded to it */
	assert_int_equal(parent_wait(&p), 143);
}

static void test_adopt_ends_first(void **state)
{
	NEED_LAB(state);
	struct parent p;
	struct restorer r;

	/* a zombie below the restorer, inherited with its status when that ends */
	start_adopted(lab, &p, &r);
	restorer_do(&r, 'e');
	assert_int_equal(status_of(&p).state, FM_NEST_RUNNING);
	restorer_do(&r, 'q');
	assert_int_equal(parent_wait(&p), 5);

	/* reaped by the restorer, which lives on: the status is lost, the end must not be */
	start_adopted(lab, &p, &r);
	restorer_do(&r, 'e');
	restorer_do(&r, 'r');
	{
		_fm_free_ char *err = slurp(p.err);

		assert_non_null(strstr(err, "status is not known"));
	}
	assert_int_equal(parent_wait(&p), 137);
	restorer_gone(&r); /* the end of PID 1 is everybody's */
}

/* While its tree may yet be given back, a parent that is started again is an empty one. */
static void test_adopted_waits(void **state)
{
	NEED_LAB(state);
	struct parent p;
	struct restorer r;
	char *const exits[] = { (char *)"/probe", (char *)"exit", (char *)"3", NULL };
	struct start again = { .again = true };

	parent_start(lab, &p, &(struct start){ .waiting = true }, PAUSE);
	await_nest(&p);
	restorer_start(&r, p.nest);
	assert_int_equal(fm_nest_adopt(p.control, r.app, NULL), 0);
	assert_true(marked(&p, FM_NEST_WAITING));
	assert_int_equal(kill(p.nest, SIGKILL), 0);
	assert_int_equal(parent_wait(&p), 137);
	restorer_gone(&r);
	parent_start(lab, &p, &again, exits);
	await_nest(&p);
	assert_int_equal(status_of(&p).state, FM_NEST_EMPTY);
	restorer_start(&r, p.nest);
	assert_int_equal(fm_nest_adopt(p.control, r.app, NULL), 0);
	assert_int_equal(fm_nest_fence(p.control, 0, NULL), 0);
	assert_false(marked(&p, FM_NEST_WAITING));
	assert_int_equal(kill(p.nest, SIGKILL), 0);
	assert_int_equal(parent_wait(&p), 137);
	restorer_gone(&r);
	parent_start(lab, &p, &again, exits);
	assert_int_equal(parent_wait(&p), 3);
}

/* ---- kept descriptors */

static int numbered_fd(unsigned n)
{
	char text[16];
	int fd = memfd_create("kept", MFD_CLOEXEC);

	assert_true(fd >= 0);
	(void)snprintf(text, sizeof text, "%u", n);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	return fd;
}

static void keep_number(struct parent *p, uint64_t key, unsigned n)
{
	struct fm_error err = FM_ERROR_INIT;
	_fm_close_ int fd = numbered_fd(n);

	if (fm_nest_keep(p->control, key, fd, &err) < 0)
		fail_msg("%s", err.message);
}

static void test_keep(void **state)
{
	NEED_LAB(state);
	struct fm_error err = FM_ERROR_INIT;
	struct start s = { .wait = true };
	struct parent p;
	_fm_free_ int *fds = NULL;
	_fm_free_ uint64_t *keys = NULL;
	_fm_close_ int one_more = numbered_fd(0);
	size_t n = 0;

	parent_start(lab, &p, &s, PAUSE);
	await_nest(&p);
	assert_int_equal(fm_nest_fetch(p.control, &fds, &keys, &n, NULL), 0);
	assert_int_equal(n, 0);
	free(fds);
	free(keys);
	for (unsigned i = 0; i < FM_NEST_MAX_KEPT; i++) /* in an order of its own */
		keep_number(&p, 1000 + (i * 7) % FM_NEST_MAX_KEPT, 5);
	for (unsigned i = 0; i < FM_NEST_MAX_KEPT; i++)
		keep_number(&p, 1000 + i, i); /* replaces */
	assert_int_equal(status_of(&p).n_kept, FM_NEST_MAX_KEPT);
	expect_code(fm_nest_keep(p.control, 1, one_more, &err), &err, FM_E_RESOURCE_EXHAUSTED);
	expect_code(fm_nest_keep(p.control, UINT64_MAX, one_more, &err), &err, FM_E_INTERNAL);
	assert_int_equal(fm_nest_fetch(p.control, &fds, &keys, &n, NULL), 0);
	assert_int_equal(n, FM_NEST_MAX_KEPT);
	for (unsigned i = 0; i < n; i++) {
		char text[16] = "", want[16];

		assert_int_equal(keys[i], 1000 + i);
		(void)snprintf(want, sizeof want, "%u", i);
		assert_true(pread(fds[i], text, sizeof text - 1, 0) > 0);
		assert_string_equal(text, want);
		close(fds[i]);
	}
	assert_int_equal(fm_nest_drop(p.control, 1003, NULL), 0);
	expect_code(fm_nest_drop(p.control, 1003, &err), &err, FM_E_NOT_FOUND);
	assert_int_equal(status_of(&p).n_kept, FM_NEST_MAX_KEPT - 1);
	assert_int_equal(fm_nest_drop(p.control, UINT64_MAX, NULL), 0);
	assert_int_equal(status_of(&p).n_kept, 0);
	assert_int_equal(kill(p.nest, SIGTERM), 0);
	assert_int_equal(parent_wait(&p), 143);
}

/* The kept one is the only one left, and it really keeps the object alive. */
static void test_keep_alone(void **state)
{
	NEED_LAB(state);
	struct start s = { .wait = true };
	struct parent p;
	int pipe_fds[2];
	char c;

	parent_start(lab, &p, &s, PAUSE);
	await_nest(&p);
	make_pipe(pipe_fds);
	assert_int_equal(fm_nest_keep(p.control, 7, pipe_fds[1], NULL), 0);
	close(pipe_fds[1]);
	assert_int_equal(fm_set_nonblocking(pipe_fds[0], true, NULL), 0);
	assert_int_equal(read(pipe_fds[0], &c, 1), -1); /* EAGAIN: no end of file */
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(fm_nest_drop(p.control, 7, NULL), 0);
	assert_int_equal(read(pipe_fds[0], &c, 1), 0);
	close(pipe_fds[0]);
	assert_int_equal(kill(p.nest, SIGINT), 0);
	assert_int_equal(parent_wait(&p), 130);
}

/* ---- who may talk, and how */

static void test_application_is_refused(void **state)
{
	NEED_LAB(state);

	for (uid_t uid = 0; uid <= UID; uid += UID) {
		char *const args[] = { (char *)"/probe", (char *)"talk", NULL };
		struct start s = { .uid = uid };
		struct parent p;

		parent_start(lab, &p, &s, args);
		assert_string_equal(line_of(p.out), "refused");
		assert_int_equal(parent_wait(&p), 0);
	}
}

static void test_impostor(void **state)
{
	NEED_LAB(state);
	static const struct {
		const char *arg, *says;
	} cases[] = { { "impostor", "listening" }, { "symlink", "linked" } };

	for (size_t i = 0; i < FM_ARRAY_SIZE(cases); i++) {
		char *const args[] = { (char *)"/probe", (char *)cases[i].arg, NULL };
		struct start s = { .uid = UID };
		struct fm_error err = FM_ERROR_INIT;
		struct fm_nest_status st;
		struct parent p;

		parent_start(lab, &p, &s, args);
		assert_string_equal(line_of(p.out), cases[i].says);
		expect_code(fm_nest_status(p.control, &st, &err), &err, FM_E_PERMISSION_DENIED);
		assert_int_equal(kill(p.nest, SIGKILL), 0);
		assert_int_equal(parent_wait(&p), 137);
	}
}

static int raw_connect(struct parent *p)
{
	_fm_free_ char *path = fm_xasprintf("%s/nest.sock", p->control);
	int fd = -1;

	assert_int_equal(fm_unix_connect(path, SOCK_SEQPACKET, &fd, NULL), 0);
	return fd;
}

/* Sends one packet; returns the reply's error, or -1 when the connection was closed without one. */
static int raw_call(struct parent *p, const void *data, size_t n, size_t n_fds)
{
	_fm_close_ int fd = raw_connect(p);
	struct fm_nest_reply r = { 0 };
	int fds[8] = { 0, 0, 0, 0, 0, 0, 0, 0 };
	ssize_t len;

	assert_int_equal(fm_send_with_fds(fd, data, n, fds, n_fds, NULL), 0);
	assert_int_equal(fm_wait_fd(fd, POLLIN, PATIENCE_MS, NULL), 1);
	len = recv(fd, &r, sizeof r, 0);
	if (len <= 0)
		return -1;
	assert_int_equal(len, sizeof r);
	assert_int_equal(r.version, FM_NEST_VERSION);
	return r.error;
}

static size_t fds_of(pid_t pid)
{
	char path[64];
	size_t n = 0;

	(void)snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
	{
		_fm_closedir_ DIR *d = opendir(path);

		assert_non_null(d);
		while (readdir(d))
			n++;
	}
	return n;
}

static void test_hostile_packets(void **state)
{
	NEED_LAB(state);
	struct fm_nest_request q = { .version = FM_NEST_VERSION, .op = FM_NEST_STATUS };
	struct start s = { 0 };
	struct parent p;
	static char big[65536];
	int idle[40];
	size_t before;

	parent_start(lab, &p, &s, PAUSE);
	assert_string_equal(line_of(p.out), "pausing");
	(void)status_of(&p);
	before = fds_of(p.nest);
	assert_int_equal(raw_call(&p, &q, sizeof q, 0), 0);
	assert_int_equal(raw_call(&p, &q, 1, 0), EBADMSG);
	assert_int_equal(raw_call(&p, &q, sizeof q - 1, 0), EBADMSG);
	assert_int_equal(raw_call(&p, big, sizeof q + 1, 0), EBADMSG);
	assert_int_equal(raw_call(&p, big, sizeof big, 0), EBADMSG);
	assert_int_equal(raw_call(&p, big, sizeof q, 0), EPROTONOSUPPORT);
	assert_int_equal(raw_call(&p, &q, sizeof q, 1), EINVAL);
	for (size_t n = 2; n <= 8; n++)
		assert_int_equal(raw_call(&p, &q, sizeof q, n), EBADMSG);
	q.op = FM_NEST_KEEP;
	assert_int_equal(raw_call(&p, &q, sizeof q, 0), EINVAL);
	for (size_t n = 2; n <= 8; n++)
		assert_int_equal(raw_call(&p, &q, sizeof q, n), EBADMSG);
	q.op = FM_NEST_ADOPT;
	for (uint64_t arg = UINT64_MAX; arg; arg >>= 1) {
		q.arg = arg;
		assert_int_equal(raw_call(&p, &q, sizeof q, 0), arg < 2 || arg > INT32_MAX ? EINVAL : EBUSY);
	}
	for (uint32_t op = 0; op < 40; op = op ? op + 9 : 11) {
		q.op = op;
		assert_int_equal(raw_call(&p, &q, sizeof q, 0), EOPNOTSUPP);
	}
	q.op = UINT32_MAX;
	assert_int_equal(raw_call(&p, &q, sizeof q, 0), EOPNOTSUPP);
	q.version = FM_NEST_VERSION + 1;
	q.op = FM_NEST_HOLD;
	assert_int_equal(raw_call(&p, &q, sizeof q, 0), EPROTONOSUPPORT);
	for (size_t i = 0; i < FM_ARRAY_SIZE(idle); i++) /* who says nothing does not keep others out */
		idle[i] = raw_connect(&p);
	assert_int_equal(status_of(&p).state, FM_NEST_RUNNING);
	for (size_t i = 0; i < FM_ARRAY_SIZE(idle); i++)
		close(idle[i]);
	while (fds_of(p.nest) > before) /* it closes what we closed; a leak hangs here until the runner's deadline */
		fm_pause_ms(2);
	assert_int_equal(status_of(&p).n_kept, 0);
	assert_int_equal(kill(p.nest, SIGTERM), 0);
	assert_int_equal(parent_wait(&p), 143);
}

/* ---- pid namespaces, control folder */

static void test_last_pid(void **state)
{
	NEED_LAB(state);
	struct fm_error err = FM_ERROR_INIT;
	struct start s = { .wait = true };
	struct restorer r;
	struct parent p;
	pid_t pid = 0, inner = 0;

	parent_start(lab, &p, &s, PAUSE);
	await_nest(&p);
	if (fm_pidns_set_last_pid(p.nest, FM_NEST_FIRST_PID - 2, &err) < 0)
		fail_msg("%s", err.message);
	restorer_start(&r, p.nest); /* the restorer is the first, its application the next */
	assert_int_equal(r.app, FM_NEST_FIRST_PID);
	assert_int_equal(fm_nest_host_pid(p.nest, FM_NEST_FIRST_PID, &pid, NULL), 0);
	assert_int_equal(fm_proc_ns_pid(pid, &inner, NULL), 0);
	assert_int_equal(inner, FM_NEST_FIRST_PID);
	assert_int_equal(fm_nest_host_pid(p.nest, 1, &pid, NULL), 0);
	assert_int_equal(pid, p.nest);
	expect_code(fm_nest_host_pid(p.nest, 4321, &pid, &err), &err, FM_E_NOT_FOUND);
	expect_code(fm_pidns_set_last_pid(p.nest, -1, &err), &err, FM_E_INVALID_ARGUMENT);
	assert_int_equal(kill(p.nest, SIGTERM), 0);
	assert_int_equal(parent_wait(&p), 143);
	restorer_gone(&r);
	assert_int_equal(fm_nest_host_pid(p.nest, 1, &pid, &err), -1);
	assert_int_equal(fm_pidns_set_last_pid(p.nest, 5, &err), -1);
}

static void test_prepare_control(void **state)
{
	NEED_LAB(state);
	struct fm_error err = FM_ERROR_INIT;
	_fm_free_ char *dir = fm_xasprintf("%s/prepared", lab->dir), *out = fm_xasprintf("%s/out", dir),
	               *waiting = fm_xasprintf("%s/waiting", dir);
	struct stat st;
	mode_t old = umask(0077);

	for (int i = 0; i < 2; i++) {
		assert_int_equal(fm_nest_prepare_control(dir, UID, UID + 1, i == 1, NULL), 0);
		assert_int_equal(stat(out, &st), 0);
		assert_true(S_ISFIFO(st.st_mode));
		assert_int_equal(st.st_mode & 07777, 0622);
		assert_int_equal(st.st_uid, UID);
		assert_int_equal(st.st_gid, UID + 1);
		assert_int_equal(stat(waiting, &st), i == 1 ? 0 : -1);
		assert_int_equal(stat(dir, &st), 0);
		assert_int_equal(st.st_mode & 07777, 0700);
	}
	assert_int_equal(unlink(out), 0);
	assert_int_equal(symlink("/etc/passwd", out), 0);
	expect_code(fm_nest_prepare_control(dir, UID, UID, false, &err), &err, FM_E_ALREADY_EXISTS);
	(void)umask(old);
	assert_int_equal(stat("/etc/passwd", &st), 0);
	assert_int_equal(st.st_uid, 0);
}

static int group_setup(void **state)
{
	static struct lab lab;
	_fm_free_ char *root = NULL;

	(void)signal(SIGPIPE, SIG_IGN);
	if (lab_init(&lab) < 0)
		return 0; /* every test skips */
	root = lab_rootfs(&lab, "root");
	if (!root)
		return -1;
	*state = &lab;
	return 0;
}

static int group_teardown(void **state)
{
	if (*state)
		lab_done(*state);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_exit_codes),
		cmocka_unit_test(test_setup_failure),
		cmocka_unit_test(test_output_complete),
		cmocka_unit_test(test_output_back_pressure),
		cmocka_unit_test(test_output_after_exit),
		cmocka_unit_test(test_output_nobody_listens),
		cmocka_unit_test(test_stdio),
		cmocka_unit_test(test_orphans),
		cmocka_unit_test(test_signals),
		cmocka_unit_test(test_hold),
		cmocka_unit_test(test_leave),
		cmocka_unit_test(test_started_again),
		cmocka_unit_test(test_leave_unwritten),
		cmocka_unit_test(test_empty),
		cmocka_unit_test(test_adopt),
		cmocka_unit_test(test_adopt_ends_first),
		cmocka_unit_test(test_keep),
		cmocka_unit_test(test_keep_alone),
		cmocka_unit_test(test_application_is_refused),
		cmocka_unit_test(test_impostor),
		cmocka_unit_test(test_hostile_packets),
		cmocka_unit_test(test_last_pid),
		cmocka_unit_test(test_prepare_control),
		cmocka_unit_test(test_fence),
		cmocka_unit_test(test_waiting_start),
		cmocka_unit_test(test_adopted_waits),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
