/* SPDX-License-Identifier: MIT */
/*
 * child.c - see child.h.
 *
 * posix_spawn, not fork: we are multi-threaded and may hold gigabytes of pages, whose page tables fork would copy. It also runs
 * nothing of ours in the child. Everything up to and including execve has happened when it returns, so the process group exists and
 * errors are known.
 *
 * The child's end is seen on a pidfd. It stays a zombie until the very end of fm_child_run, which keeps its process group's
 * number from being reused: kill(-pid) cannot hit a stranger.
 *
 * Stopping is: SIGTERM to the group; 2 s; SIGKILL to the group; 5 s. The last limit exists because a process in a frozen
 * cgroup or in uninterruptible sleep does not die of SIGKILL either, and one hung program must not hang a migration for ever.
 */
#include "loop/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/str.h"

#define DEFAULT_TIMEOUT_MS 30000
#define TERM_GRACE_MS      2000
#define KILL_GRACE_MS      5000
#define KEEP_BYTES         (64u << 10) /* of each stream */
#define TAIL_BYTES         512u        /* the end of a longer stream, for the message */
#define MAX_KEEP_FD        65536       /* bounds the list of descriptors to close */

/* One captured stream: its first KEEP_BYTES, and its last TAIL_BYTES. */
struct capture {
	int fd; /* our end, -1 at its end or when not captured */
	struct fm_buf head;
	char tail[TAIL_BYTES];
	size_t tail_len;
};

struct run {
	const char *name;
	const struct fm_child_opts *opts;
	pid_t pid;
	int pidfd;
	bool exited;
	struct capture out, err_out;
};

static void capture_done(struct capture *c)
{
	fm_closep(&c->fd);
	fm_buf_done(&c->head);
}

static void run_done(struct run *r)
{
	fm_closep(&r->pidfd);
	capture_done(&r->out);
	capture_done(&r->err_out);
}

static void tail_add(struct capture *c, const char *data, size_t n)
{
	if (n >= TAIL_BYTES) {
		memcpy(c->tail, data + n - TAIL_BYTES, TAIL_BYTES);
		c->tail_len = TAIL_BYTES;
		return;
	}
	if (c->tail_len + n > TAIL_BYTES) {
		size_t drop = c->tail_len + n - TAIL_BYTES;

		memmove(c->tail, c->tail + drop, c->tail_len - drop);
		c->tail_len -= drop;
	}
	memcpy(c->tail + c->tail_len, data, n);
	c->tail_len += n;
}

/* One read of what is there. true: there may be more. At the end of the stream our end is closed. */
static bool capture_read(struct capture *c)
{
	char chunk[8192];
	ssize_t got;
	size_t room;

	if (c->fd < 0)
		return false;
	got = read(c->fd, chunk, sizeof(chunk));
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return errno == EINTR;
	if (got <= 0) {
		fm_closep(&c->fd);
		c->fd = -1;
		return false;
	}
	room = KEEP_BYTES - c->head.len;
	fm_buf_add(&c->head, chunk, (size_t)got < room ? (size_t)got : room);
	tail_add(c, chunk, (size_t)got);
	return true;
}

/* What the child wrote before it ended is in the pipe already. More than a pipe can hold is some other process's endless output. */
static void capture_drain(struct capture *c)
{
	for (size_t total = 0; total < (1u << 20) && capture_read(c); total += 4096)
		;
}

/* The last line of the stream that is not blank, "" when there is none */
static void last_line(const struct capture *c, char *line, size_t cap)
{
	size_t end = c->tail_len, start, n;

	while (end > 0 && strchr(" \t\r\n", c->tail[end - 1]))
		end--;
	start = end;
	while (start > 0 && c->tail[start - 1] != '\n')
		start--;
	n = end - start < cap - 1 ? end - start : cap - 1;
	memcpy(line, c->tail + start, n);
	line[n] = '\0';
}

/* Moves a descriptor out of 0-2, where the child's standard streams would overwrite it before it is used. */
static int above_stdio(int *fd, struct fm_error *err)
{
	int moved;

	if (*fd > 2)
		return 0;
	moved = fcntl(*fd, F_DUPFD_CLOEXEC, 3);
	if (moved < 0)
		return fm_error_errno(err, errno, "duplicating descriptor %d", *fd);
	(void)close(*fd);
	*fd = moved;
	return 0;
}

/* *ret_write: what becomes the child's stream; a pipe of ours, or a duplicate of the caller's descriptor. */
static int open_stream(struct capture *c, int given_fd, int *ret_write, struct fm_error *err)
{
	_fm_close_ int end = -1;
	int ends[2];

	c->fd = -1;
	/* also for a given descriptor a private copy above 2: "stdout to our 2, stderr to our 1" must work */
	if (given_fd > 0) {
		*ret_write = fcntl(given_fd, F_DUPFD_CLOEXEC, 3);
		return *ret_write >= 0 ? 0 : fm_error_errno(err, errno, "descriptor %d for a program's output", given_fd);
	}
	if (pipe2(ends, O_CLOEXEC) < 0)
		return fm_error_errno(err, errno, "creating a pipe");
	c->fd = ends[0];
	end = ends[1];
	if (above_stdio(&c->fd, err) < 0 || above_stdio(&end, err) < 0 || fm_set_nonblocking(c->fd, true, err) < 0)
		return -1;
	fm_buf_add(&c->head, "", 0); /* never NULL */
	*ret_write = FM_TAKE_FD(end);
	return 0;
}

static int compare_ints(const void *a, const void *b)
{
	int x = *(const int *)a, y = *(const int *)b;

	return (x > y) - (x < y);
}

/* The kept descriptors, sorted, malloc'ed; checked to be open, because posix_spawn could only say EBADF. */
static int sorted_keep_fds(const int *keep, int **ret, size_t *ret_n, struct fm_error *err)
{
	_fm_free_ int *sorted = NULL;
	size_t n = 0;

	for (; keep && keep[n] != -1; n++) {
		if (keep[n] <= 2 || keep[n] > MAX_KEEP_FD)
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "descriptor %d cannot be kept open in a program", keep[n]);
		if (fcntl(keep[n], F_GETFD) < 0)
			return fm_error_errno(err, errno, "descriptor %d to be kept open in a program", keep[n]);
	}
	sorted = calloc(n + 1, sizeof(*sorted));
	if (!sorted)
		return fm_error_errno(err, ENOMEM, "starting a program");
	if (n) {
		memcpy(sorted, keep, n * sizeof(*sorted));
		qsort(sorted, n, sizeof(*sorted), compare_ints);
	}
	*ret = FM_TAKE_PTR(sorted);
	*ret_n = n;
	return 0;
}

/*
 * 0-2 as wanted, kept descriptors lose their O_CLOEXEC (dup2 onto itself does that here), everything else is closed: also what a
 * library opened without O_CLOEXEC. Closing a number that is not open is no error for posix_spawn.
 */
static int add_descriptors(posix_spawn_file_actions_t *a, int out, int err_out, const int *keep, size_t n_keep)
{
	int rc = posix_spawn_file_actions_addopen(a, 0, "/dev/null", O_RDONLY, 0), next = 3;

	if (!rc)
		rc = posix_spawn_file_actions_adddup2(a, out, 1);
	if (!rc)
		rc = posix_spawn_file_actions_adddup2(a, err_out, 2);
	for (size_t i = 0; i < n_keep && !rc; i++) {
		for (; next < keep[i] && !rc; next++)
			rc = posix_spawn_file_actions_addclose(a, next);
		if (!rc)
			rc = posix_spawn_file_actions_adddup2(a, keep[i], keep[i]);
		next = keep[i] + 1;
	}
	if (!rc)
		rc = posix_spawn_file_actions_addclosefrom_np(a, next);
	return rc;
}

static int set_attributes(posix_spawnattr_t *attr)
{
	sigset_t none, all;
	int rc;

	(void)sigemptyset(&none);
	/* not sigfillset: it spares glibc's two internal signals, which posix_spawn would then leave ignored in the program */
	memset(&all, 0xff, sizeof(all));
	rc = posix_spawnattr_setflags(attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	if (!rc)
		rc = posix_spawnattr_setpgroup(attr, 0);
	if (!rc)
		rc = posix_spawnattr_setsigmask(attr, &none);
	if (!rc)
		rc = posix_spawnattr_setsigdefault(attr, &all);
	return rc;
}

/* errno value, as posix_spawn */
static int spawn(struct run *r, char *const *argv, int out, int err_out, const int *keep, size_t n_keep)
{
	char *const *env = r->opts->env ? r->opts->env : environ;
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	int rc;

	rc = posix_spawn_file_actions_init(&actions);
	if (rc)
		return rc;
	rc = posix_spawnattr_init(&attr);
	if (!rc) {
		rc = add_descriptors(&actions, out, err_out, keep, n_keep);
		if (!rc)
			rc = set_attributes(&attr);
		if (!rc)
			rc = posix_spawnp(&r->pid, argv[0], &actions, &attr, argv, env);
		(void)posix_spawnattr_destroy(&attr);
	}
	(void)posix_spawn_file_actions_destroy(&actions);
	return rc;
}

bool fm_found_in_path(const char *name)
{
	const char *path = getenv("PATH"), *end;

	for (; path && *path; path = *end ? end + 1 : end) {
		_fm_free_ char *file = NULL;

		end = strchrnul(path, ':');
		file = fm_xasprintf("%.*s%s%s", (int)(end - path), path, end == path ? "" : "/", name);
		if (fm_path_exists(file))
			return true;
	}
	return false;
}

static int start(struct run *r, char *const *argv, struct fm_error *err)
{
	_fm_close_ int out = -1, err_out = -1;
	_fm_free_ int *keep = NULL;
	size_t n_keep = 0;
	int rc;

	if (sorted_keep_fds(r->opts->keep_fds, &keep, &n_keep, err) < 0 || open_stream(&r->out, r->opts->stdout_fd, &out, err) < 0 ||
	    open_stream(&r->err_out, r->opts->stderr_fd, &err_out, err) < 0)
		return fm_error_prefix(err, "starting %s", r->name);
	rc = spawn(r, argv, out, err_out, keep, n_keep);
	/* a directory in PATH that we may not read says EACCES for a program that is nowhere */
	if (rc == EACCES && !strchr(r->name, '/') && !fm_found_in_path(r->name))
		rc = ENOENT;
	if (rc) {
		(void)fm_error_errno(err, rc, "starting %s", r->name);
		if (rc == ENOENT)
			(void)fm_error_hint(err, "install %s or put it into PATH", r->name);
		return -1;
	}
	r->pidfd = (int)syscall(SYS_pidfd_open, r->pid, 0);
	if (r->pidfd < 0) {
		int saved = errno;

		/* out of descriptors: without one there is no bounded waiting, so the child must not live */
		(void)kill(-r->pid, SIGKILL);
		(void)waitpid(r->pid, NULL, 0);
		return fm_error_errno(err, saved, "starting %s", r->name);
	}
	return 0;
}

enum wake { WAKE_EXITED, WAKE_DEADLINE, WAKE_CANCELLED, WAKE_STREAMS_ENDED };

/*
 * Reads output until the child has exited, the deadline, or cancel. After the child's exit (stopping a whole group): until every
 * captured stream has ended, which says that nobody else of the group holds it. That is a guess at the group's end, good enough to
 * spare the rest of the grace.
 */
static enum wake pump(struct run *r, uint64_t deadline, bool heed_cancel, bool whole_group)
{
	int cancel = heed_cancel && r->opts->cancel_fd > 0 ? r->opts->cancel_fd : -1;

	for (;;) {
		struct pollfd p[4] = {
			{ .fd = r->exited ? -1 : r->pidfd, .events = POLLIN },
			{ .fd = r->out.fd, .events = POLLIN },
			{ .fd = r->err_out.fd, .events = POLLIN },
			{ .fd = cancel, .events = POLLIN },
		};
		int n;

		if (r->exited && !whole_group)
			return WAKE_EXITED;
		if (r->exited && r->out.fd < 0 && r->err_out.fd < 0)
			return WAKE_STREAMS_ENDED;
		n = poll(p, 4, fm_deadline_left_ms(deadline));
		if (n < 0)
			continue; /* EINTR; memory for four entries is on the kernel's stack */
		if (n == 0)
			return WAKE_DEADLINE;
		if (p[0].revents)
			r->exited = true;
		if (p[1].revents)
			(void)capture_read(&r->out);
		if (p[2].revents)
			(void)capture_read(&r->err_out);
		if (p[3].revents && !r->exited)
			return WAKE_CANCELLED;
		/* a stream that never pauses must not hide the deadline */
		if (!r->exited && fm_deadline_left_ms(deadline) == 0)
			return WAKE_DEADLINE;
	}
}

/* Ends the group. false: the child is still there after everything. */
static bool stop_group(struct run *r)
{
	(void)kill(-r->pid, SIGTERM);
	(void)pump(r, fm_now_ms() + TERM_GRACE_MS, false, true);
	(void)kill(-r->pid, SIGKILL);
	(void)pump(r, fm_now_ms() + KILL_GRACE_MS, false, false);
	return r->exited;
}

/* Reaps. Exit status as a shell tells it; -1 if somebody else reaped the child. */
static int reap(struct run *r)
{
	siginfo_t info = { 0 };
	int rc;

	do {
		rc = waitid(P_PID, (id_t)r->pid, &info, WEXITED);
	} while (rc < 0 && errno == EINTR);
	if (rc < 0)
		return -1;
	return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}

static int report_stopped(struct run *r, enum wake why, int timeout_ms, bool stopped, struct fm_error *err)
{
	char line[256];

	if (why == WAKE_CANCELLED)
		(void)fm_error_set(err, FM_E_CANCELLED, "running %s: cancelled", r->name);
	else {
		last_line(&r->err_out, line, sizeof(line));
		(void)fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "running %s: not finished within %d ms%s%s", r->name, timeout_ms,
		                   *line ? ": " : "", line);
	}
	if (!stopped)
		(void)fm_error_hint(err, "process %d did not even end by SIGKILL: frozen cgroup or stuck device?", (int)r->pid);
	return -1;
}

static int report_failed(struct run *r, int status, struct fm_error *err)
{
	char line[TAIL_BYTES + 1];

	last_line(&r->err_out, line, sizeof(line));
	if (!*line)
		last_line(&r->out, line, sizeof(line));
	if (status < 0)
		return fm_error_set(err, FM_E_INTERNAL, "running %s: its exit status was taken by somebody else", r->name);
	if (status > 128 && status <= 128 + SIGRTMAX)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "running %s: ended with status %d (as if by SIG%s)%s%s", r->name, status,
		                    sigabbrev_np(status - 128) ? sigabbrev_np(status - 128) : "?", *line ? ": " : "", line);
	return fm_error_set(err, FM_E_FAILED_PRECONDITION, "running %s: ended with status %d%s%s", r->name, status, *line ? ": " : "",
	                    line);
}

int fm_child_run(char *const *argv, const struct fm_child_opts *opts, struct fm_child_result *ret, struct fm_error *err)
{
	static const struct fm_child_opts no_opts;
	_fm_cleanup_(run_done) struct run r = { .opts = opts ? opts : &no_opts, .pidfd = -1, .out.fd = -1, .err_out.fd = -1 };
	int timeout_ms = r.opts->timeout_ms > 0 ? r.opts->timeout_ms : DEFAULT_TIMEOUT_MS, status;
	uint64_t deadline = fm_now_ms() + (uint64_t)timeout_ms;
	enum wake why;

	if (ret)
		*ret = (struct fm_child_result){ .exit_status = -1 };
	if (!argv || !argv[0])
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "running a program without a name");
	r.name = argv[0];
	if (start(&r, argv, err) < 0)
		return -1;

	why = pump(&r, deadline, true, false);
	if (why != WAKE_EXITED) {
		bool stopped = stop_group(&r);

		if (stopped)
			(void)reap(&r);
		return report_stopped(&r, why, timeout_ms, stopped, err);
	}
	capture_drain(&r.out);
	capture_drain(&r.err_out);
	status = reap(&r);
	if (ret)
		ret->exit_status = status;
	if (status != 0)
		return report_failed(&r, status, err);
	if (ret) {
		ret->out = r.out.head.data ? FM_TAKE_PTR(r.out.head.data) : fm_xstrdup("");
		ret->err = r.err_out.head.data ? FM_TAKE_PTR(r.err_out.head.data) : fm_xstrdup("");
	}
	return 0;
}

void fm_child_result_done(struct fm_child_result *r)
{
	if (!r)
		return;
	free(r->out);
	free(r->err);
	*r = (struct fm_child_result){ .exit_status = -1 };
}
