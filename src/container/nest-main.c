/* SPDX-License-Identifier: MIT */
/*
 * nest-main.c - `fleximigrate-nest [--wait] -- PROGRAM ARGS…`: PID 1 of a parent container.
 *
 * The runtime starts us where it would have started the application, with the application's user, environment, capabilities and limits.
 * We keep nothing of the outside in the application: it gets /dev/null and two fifos, both opened by path in here, a session of its own,
 * and nothing else, since a descriptor inherited from outside the mount namespace is what CRIU cannot find again.
 *
 * All signals are blocked and read from a signalfd. This matters for PID 1: the kernel discards what PID 1 neither handles nor blocks.
 *
 * An adopted root has CRIU as its parent until CRIU exits; only then the kernel makes it our child. In between we look at it now and
 * then through a pidfd, because no signal tells us that CRIU has reaped it.
 *
 * The end: the application's status is ours (128 + signal as a shell, or docker-init, has it), after its output has been copied. When we
 * exit, the kernel kills what is left in the pid namespace.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "container/nest-internal.h"

#define EXIT_NOT_EXECUTABLE 126
#define EXIT_NOT_FOUND      127

void nest_say(const char *what, int errnum)
{
	if (errnum)
		(void)dprintf(STDERR_FILENO, "fleximigrate-nest: %s: %s\n", what, strerror(errnum));
	else
		(void)dprintf(STDERR_FILENO, "fleximigrate-nest: %s\n", what);
}

static void die(const char *what, int errnum)
{
	nest_say(what, errnum);
	_exit(FM_NEST_EXIT_SETUP);
}

/* ---- the application */

static int pidfd_of(pid_t pid)
{
#ifdef SYS_pidfd_open
	return (int)syscall(SYS_pidfd_open, pid, 0);
#else
	errno = ENOSYS;
	return -1;
#endif
}

/* By pidfd where there is one: the pid of an adopted root could be used again. */
static int app_signal(const struct nest *n, int sig)
{
#ifdef SYS_pidfd_send_signal
	if (n->app_pidfd >= 0) {
		int r = (int)syscall(SYS_pidfd_send_signal, n->app_pidfd, sig, NULL, 0);

		if (r == 0 || (errno != ENOSYS && errno != EPERM))
			return r;
	}
#endif
	return kill(n->app, sig);
}

static int exit_code_of(int status)
{
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void app_ended(struct nest *n, int status)
{
	if (n->app_pidfd >= 0)
		close(n->app_pidfd);
	n->app_pidfd = -1;
	n->app = 0;
	n->app_foreign = false;
	n->app_status = status;
	n->exit_code = exit_code_of(status);
	if (n->state == FM_NEST_GONE)
		n->exit_code = FM_NEST_EXIT_MOVED;
	else
		n->state = FM_NEST_EXITED;
	n->finishing = true;
	nest_stream_finish(&n->streams[0]);
	nest_stream_finish(&n->streams[1]);
}

static void reap(struct nest *n)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		if (n->app > 0 && pid == n->app)
			app_ended(n, status);
}

/* Called while the adopted root is not our child yet. */
static void check_foreign(struct nest *n)
{
	siginfo_t si = { 0 };

	if (waitid(P_PID, (id_t)n->app, &si, WEXITED | WNOHANG | WNOWAIT) == 0) {
		n->app_foreign = false; /* from now on SIGCHLD tells us */
		reap(n);
	} else if (app_signal(n, 0) < 0 && errno == ESRCH) {
		/* Its former parent has taken the status with it. */
		nest_say("the adopted application ended before its restorer did; its status is not known, reported as killed", 0);
		app_ended(n, SIGKILL);
	}
}

int nest_adopt(struct nest *n, pid_t pid)
{
	int fd;

	if (n->state != FM_NEST_EMPTY || n->finishing)
		return EBUSY;
	if (pid == getpid())
		return EINVAL;
	fd = pidfd_of(pid);
	if (fd < 0 && errno != ENOSYS && errno != EPERM)
		return errno;
	if (fd < 0 && kill(pid, 0) < 0 && errno == ESRCH)
		return ESRCH;
	n->app = pid;
	n->app_pidfd = fd;
	n->app_foreign = true;
	n->state = FM_NEST_RUNNING;
	check_foreign(n);
	return 0;
}

void nest_unhold(struct nest *n)
{
	n->state = FM_NEST_RUNNING;
	for (int sig = 1; sig < NSIG; sig++)
		if (sigismember(&n->held, sig) == 1)
			(void)app_signal(n, sig);
	(void)sigemptyset(&n->held);
}

/* In the new process; never returns. */
static void app_exec(char **argv)
{
	sigset_t none;
	int null, out, err, e;

	for (int sig = 1; sig < NSIG; sig++)
		(void)signal(sig, SIG_DFL);
	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	out = open(FM_NEST_RUN_MOUNT "/out", O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	err = open(FM_NEST_RUN_MOUNT "/err", O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	if (null < 0 || out < 0 || err < 0 || dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
		die("cannot open the application's input and output", errno);
	if (setsid() < 0)
		die("setsid", errno);
	/* Kept over exec: orphans of the application stay below it, so that the whole inner tree hangs on one root. */
	if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
		die("PR_SET_CHILD_SUBREAPER", errno);
	execvp(argv[0], argv);
	e = errno;
	(void)dprintf(STDERR_FILENO, "fleximigrate-nest: cannot start '%s': %s\n", argv[0], strerror(e));
	_exit(e == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE);
}

int nest_start(struct nest *n)
{
	pid_t pid = fork();

	if (pid < 0)
		return errno;
	if (pid == 0)
		app_exec(n->argv);
	n->app = pid;
	n->app_pidfd = pidfd_of(pid);
	n->state = FM_NEST_RUNNING;
	return 0;
}

/* ---- signals */

static void on_signal(struct nest *n, int sig)
{
	if (sig == SIGCHLD) {
		reap(n);
		return;
	}
	switch (n->state) {
	case FM_NEST_EMPTY:
		if (sig == SIGTERM || sig == SIGINT || sig == SIGQUIT || sig == SIGHUP) {
			n->finishing = true;
			n->exit_code = 128 + sig;
			nest_stream_finish(&n->streams[0]);
			nest_stream_finish(&n->streams[1]);
		}
		break;
	case FM_NEST_RUNNING:
		(void)app_signal(n, sig); /* it may just have ended, or have become somebody we may not signal */
		break;
	case FM_NEST_HELD: /* not lost: delivered if the application stays here after all */
		(void)sigaddset(&n->held, sig);
		break;
	case FM_NEST_GONE:
	case FM_NEST_EXITED:
		break;
	}
}

static void on_signals(struct nest *n)
{
	struct signalfd_siginfo si[16];
	ssize_t len;

	while ((len = read(n->signal_fd, si, sizeof si)) > 0)
		for (size_t i = 0; i < (size_t)len / sizeof si[0]; i++)
			on_signal(n, (int)si[i].ssi_signo);
}

/* ---- setup and loop */

static int setup_signals(void)
{
	sigset_t all;
	int fd;

	(void)signal(SIGPIPE, SIG_IGN);
	(void)sigfillset(&all);
	(void)sigdelset(&all, SIGPIPE);
	if (sigprocmask(SIG_SETMASK, &all, NULL) < 0)
		die("cannot block signals", errno);
	fd = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		die("signalfd", errno);
	return fd;
}

/* Nothing above 2 is ours or the application's, and 0 to 2 must exist, or the next open() would take their place. */
static void setup_descriptors(void)
{
	struct rlimit lim = { 0 };
	int fd;

	do {
		fd = open("/dev/null", O_RDWR);
	} while (fd >= 0 && fd <= 2);
#ifdef SYS_close_range
	if (syscall(SYS_close_range, 3U, ~0U, 0U) == 0)
		return;
#endif
	if (getrlimit(RLIMIT_NOFILE, &lim) < 0 || lim.rlim_cur > 65536)
		lim.rlim_cur = 65536;
	for (fd = 3; fd < (int)lim.rlim_cur; fd++)
		(void)close(fd);
}

static void refuse_second_copy(void)
{
	if (nest_mark_is_set(FM_NEST_MOVED))
		nest_say("the application was moved to another host; it is not started a second time here", 0);
	else if (nest_mark_is_set(FM_NEST_HELD_MARK))
		nest_say("the application was being moved to another host when this container ended; it is not started until that is "
		         "decided",
		         0);
	else
		return;
	_exit(FM_NEST_EXIT_MOVED);
}

/* wait: whether the command line says so; then, whether we do. */
static void setup(struct nest *n, bool *wait)
{
	setup_descriptors();
	/* The application has our uid. It must not be able to ptrace us or to take the kept descriptors from /proc/1/fd. */
	(void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	/* PID 1 gets the orphans anyway; this is for a runtime that puts its own init above us. */
	(void)prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	n->signal_fd = setup_signals();
	if (nest_folder_make() < 0)
		die("cannot make " FM_NEST_RUN_MOUNT, errno);
	n->app_pidfd = -1;
	n->state = FM_NEST_EMPTY;
	(void)sigemptyset(&n->held);
	/* before anybody can talk to us */
	*wait = *wait || nest_mark_is_set(FM_NEST_WAITING);
	if (!*wait)
		refuse_second_copy();
	if (nest_stream_open(&n->streams[0], FM_NEST_RUN_MOUNT "/out", STDOUT_FILENO) < 0)
		die("cannot open the fifo " FM_NEST_RUN_MOUNT "/out", errno);
	if (nest_stream_open(&n->streams[1], FM_NEST_RUN_MOUNT "/err", STDERR_FILENO) < 0)
		die("cannot open the fifo " FM_NEST_RUN_MOUNT "/err", errno);
	if (nest_control_open(n) < 0)
		die("cannot listen on " FM_NEST_RUN_MOUNT "/nest.sock", errno);
}

static int loop(struct nest *n)
{
	enum { SIGNALS, LISTEN, STREAM, CLIENT = STREAM + 2, N = CLIENT + NEST_MAX_CLIENTS };

	while (!(n->finishing && nest_stream_drained(&n->streams[0]) && nest_stream_drained(&n->streams[1]))) {
		struct pollfd p[N];

		p[SIGNALS] = (struct pollfd){ .fd = n->signal_fd, .events = POLLIN };
		p[LISTEN] = (struct pollfd){ .fd = n->listen_fd, .events = POLLIN };
		for (int i = 0; i < 2; i++)
			nest_stream_poll(&n->streams[i], &p[STREAM + i]);
		for (int i = 0; i < NEST_MAX_CLIENTS; i++)
			p[CLIENT + i] = (struct pollfd){ .fd = n->clients[i], .events = POLLIN };
		if (poll(p, N, n->app_foreign ? NEST_ADOPT_POLL_MS : -1) < 0 && errno != EINTR)
			die("poll", errno);
		for (int i = 0; i < 2; i++)
			nest_stream_step(&n->streams[i], p[STREAM + i].revents);
		if (p[SIGNALS].revents)
			on_signals(n);
		if (n->app_foreign)
			check_foreign(n);
		for (unsigned i = 0; i < NEST_MAX_CLIENTS; i++)
			if (p[CLIENT + i].revents && n->clients[i] >= 0)
				nest_control_serve(n, i);
		if (p[LISTEN].revents)
			nest_control_accept(n);
	}
	return n->exit_code;
}

int main(int argc, char **argv)
{
	static const char usage[] = "usage: fleximigrate-nest [--wait] -- PROGRAM [ARGUMENT…] | --health";
	struct nest n = { .state = FM_NEST_EMPTY };
	bool wait = false;
	int i = 1, e;

	if (i < argc && strcmp(argv[i], "--wait") == 0) {
		wait = true;
		i++;
	} else if (argc == 2 && strcmp(argv[i], "--health") == 0) {
		_exit(nest_health());
	}
	if (i >= argc || strcmp(argv[i], "--") != 0 || i + 1 >= argc)
		die(usage, 0);
	i++;
	n.argv = argv + i;
	setup(&n, &wait);
	if (!wait && (e = nest_start(&n)) != 0)
		die("cannot fork", e);
	if (chdir("/") < 0) /* do not pin the application's working directory */
		nest_say("chdir /", errno);
	_exit(loop(&n));
}
