/* SPDX-License-Identifier: MIT */
/*
 * nest-client.c - the agent's side of nest.h.
 *
 * The control folder belongs to the application's uid, so what lies there is not to be trusted: the socket is opened without following a
 * symbolic link, and before anything is sent the listener's credentials must be those of a PID 1 of another pid namespace than ours. An
 * application that puts a socket of its own there gets neither requests nor descriptors.
 *
 * The helpers for pid namespaces fork in a threaded process, so between fork and _exit they make async-signal-safe calls only.
 */
#include "container/nest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/proc.h"
#include "basic/str.h"

#define CALL_TIMEOUT_MS 5000
#define CONNECT_POLL_MS 5
#define MAX_REPLY_FDS   16

/* ---- one call */

static int same_pid_ns(const char *a, const char *b, bool *ret, struct fm_error *err)
{
	struct stat sa, sb;

	if (stat(a, &sa) < 0)
		return fm_error_errno(err, errno, "looking at %s", a);
	if (stat(b, &sb) < 0)
		return fm_error_errno(err, errno, "looking at %s", b);
	*ret = sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
	return 0;
}

/* The listener must be PID 1 of a namespace that is not ours. */
static int check_peer(int sock, const char *control_dir, struct fm_error *err)
{
	struct ucred peer = { .pid = 0 };
	socklen_t len = sizeof peer;
	bool ours = true;
	pid_t ns_pid = 0;
	char path[64];

	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return fm_error_errno(err, errno, "asking who listens in %s", control_dir);
	if (peer.pid > 0) {
		if (fm_proc_ns_pid(peer.pid, &ns_pid, err) < 0)
			return -1;
		(void)snprintf(path, sizeof path, "/proc/%d/ns/pid", (int)peer.pid);
		if (same_pid_ns(path, "/proc/self/ns/pid", &ours, err) < 0)
			return -1;
	}
	if (ns_pid != 1 || ours)
		return fm_error_set(err, FM_E_PERMISSION_DENIED, "process %d, which listens in %s, is not the nest", (int)peer.pid,
		                    control_dir);
	return 0;
}

static int nest_connect(const char *control_dir, uint64_t deadline_ms, int *ret_fd, struct fm_error *err)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	_fm_free_ char *path = fm_xasprintf("%s/nest.sock", control_dir);
	_fm_close_ int file = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	_fm_close_ int fd = -1;
	struct stat st;

	if (file < 0) {
		(void)fm_error_errno(err, errno, "no nest has its socket in %s", control_dir);
		return fm_error_hint(err, "is the parent container running?");
	}
	if (fstat(file, &st) < 0 || !S_ISSOCK(st.st_mode))
		return fm_error_set(err, FM_E_PERMISSION_DENIED, "%s is not a socket", path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return fm_error_errno(err, errno, "making a socket");
	(void)snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d", file);
	while (connect(fd, (struct sockaddr *)&a, sizeof a) < 0) {
		if (errno == EINTR)
			continue;
		/* a full backlog; the nest empties it without waiting for anybody */
		if (errno != EAGAIN || fm_deadline_left_ms(deadline_ms) == 0) {
			(void)fm_error_errno(err, errno, "connecting to the nest in %s", control_dir);
			return fm_error_hint(err, "is the parent container running?");
		}
		fm_pause_ms(CONNECT_POLL_MS);
	}
	if (check_peer(fd, control_dir, err) < 0)
		return -1;
	*ret_fd = FM_TAKE_FD(fd);
	return 0;
}

static const char *op_name(uint32_t op)
{
	static const char *const names[] = {
		[FM_NEST_STATUS] = "status", [FM_NEST_ADOPT] = "adopt", [FM_NEST_HOLD] = "hold",   [FM_NEST_UNHOLD] = "unhold",
		[FM_NEST_LEAVE] = "leave",   [FM_NEST_KEEP] = "keep",   [FM_NEST_FETCH] = "fetch", [FM_NEST_DROP] = "drop",
		[FM_NEST_START] = "start",   [FM_NEST_FENCE] = "fence"
	};

	return op < FM_ARRAY_SIZE(names) && names[op] ? names[op] : "?";
}

static const char *state_name(uint32_t state)
{
	static const char *const names[] = { [FM_NEST_EMPTY] = "empty",
		                             [FM_NEST_RUNNING] = "running",
		                             [FM_NEST_HELD] = "held",
		                             [FM_NEST_GONE] = "gone",
		                             [FM_NEST_EXITED] = "exited" };

	return state < FM_ARRAY_SIZE(names) && names[state] ? names[state] : "?";
}

static int refused(const char *control_dir, const struct fm_nest_request *q, const struct fm_nest_reply *r, struct fm_error *err)
{
	if (r->error == EBUSY)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "the nest in %s cannot '%s' in its state '%s'", control_dir,
		                    op_name(q->op), state_name(r->state));
	if (r->error == ENOENT)
		return fm_error_set(err, FM_E_NOT_FOUND, "the nest in %s keeps no descriptor %llu", control_dir,
		                    (unsigned long long)q->key);
	if (r->error == ESRCH)
		return fm_error_set(err, FM_E_NOT_FOUND, "the nest in %s has no process %llu", control_dir, (unsigned long long)q->arg);
	if (r->error == EPROTONOSUPPORT)
		return fm_error_set(err, FM_E_UNIMPLEMENTED, "the nest in %s speaks version %u of its protocol, this program version %u",
		                    control_dir, r->version, (unsigned)FM_NEST_VERSION);
	return fm_error_errno(err, r->error > 0 ? r->error : EPROTO, "the nest in %s refuses '%s'", control_dir, op_name(q->op));
}

static void close_fds(const int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++)
		(void)close(fds[i]);
}

/* fds (room for MAX_REPLY_FDS) and n_fds may be NULL: then none may come. */
static int nest_call(const char *control_dir, const struct fm_nest_request *q, int send_fd, struct fm_nest_reply *ret, int *fds,
                     struct fm_error *err)
{
	uint64_t deadline = fm_now_ms() + CALL_TIMEOUT_MS;
	struct fm_nest_reply r = { 0 };
	int got[MAX_REPLY_FDS];
	size_t len = 0, n_got = MAX_REPLY_FDS;
	_fm_close_ int sock = -1;
	int ready;

	if (nest_connect(control_dir, deadline, &sock, err) < 0)
		return -1;
	if (fm_send_with_fds(sock, q, sizeof *q, &send_fd, send_fd >= 0 ? 1 : 0, err) < 0)
		return fm_error_prefix(err, "asking the nest in %s for '%s'", control_dir, op_name(q->op));
	ready = fm_wait_fd(sock, POLLIN, fm_deadline_left_ms(deadline), err);
	if (ready < 0)
		return -1;
	if (ready == 0)
		return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "the nest in %s does not answer '%s' within %d ms", control_dir,
		                    op_name(q->op), CALL_TIMEOUT_MS);
	if (fm_recv_with_fds(sock, &r, sizeof r, &len, got, &n_got, err) < 0)
		return fm_error_prefix(err, "answer of the nest in %s to '%s'", control_dir, op_name(q->op));
	if (len != sizeof r || r.n_keys != n_got || (n_got && (!fds || r.error))) {
		close_fds(got, n_got);
		if (len == 0)
			return fm_error_set(err, FM_E_UNAVAILABLE, "the nest in %s ended before it answered '%s'", control_dir,
			                    op_name(q->op));
		return fm_error_set(err, FM_E_INTERNAL, "the nest in %s answers '%s' with a malformed packet", control_dir, op_name(q->op));
	}
	if (r.error)
		return refused(control_dir, q, &r, err);
	if (n_got)
		memcpy(fds, got, n_got * sizeof *fds);
	if (ret)
		*ret = r;
	return 0;
}

static int simple_call(const char *control_dir, enum fm_nest_op op, uint64_t arg, uint64_t key, int fd, struct fm_error *err)
{
	struct fm_nest_request q = { .version = FM_NEST_VERSION, .op = op, .arg = arg, .key = key };

	return nest_call(control_dir, &q, fd, NULL, NULL, err);
}

int fm_nest_status(const char *control_dir, struct fm_nest_status *ret, struct fm_error *err)
{
	struct fm_nest_request q = { .version = FM_NEST_VERSION, .op = FM_NEST_STATUS };
	struct fm_nest_reply r = { 0 };

	if (nest_call(control_dir, &q, -1, &r, NULL, err) < 0)
		return -1;
	if (r.state < FM_NEST_EMPTY || r.state > FM_NEST_EXITED)
		return fm_error_set(err, FM_E_INTERNAL, "the nest in %s reports the unknown state %u", control_dir, r.state);
	*ret = (struct fm_nest_status){
		.state = (enum fm_nest_state)r.state, .app_ns_pid = r.app_pid, .exit_status = r.exit_status, .n_kept = r.n_kept
	};
	return 0;
}

int fm_nest_adopt(const char *control_dir, pid_t ns_pid, struct fm_error *err)
{
	return simple_call(control_dir, FM_NEST_ADOPT, ns_pid > 0 ? (uint64_t)ns_pid : 0, 0, -1, err);
}

int fm_nest_hold(const char *control_dir, int on, struct fm_error *err)
{
	return simple_call(control_dir, on ? FM_NEST_HOLD : FM_NEST_UNHOLD, 0, 0, -1, err);
}

int fm_nest_leave(const char *control_dir, struct fm_error *err)
{
	return simple_call(control_dir, FM_NEST_LEAVE, 0, 0, -1, err);
}

int fm_nest_start(const char *control_dir, struct fm_error *err)
{
	return simple_call(control_dir, FM_NEST_START, 0, 0, -1, err);
}

static int remove_mark(int dirfd, const char *dir, const char *name, struct fm_error *err)
{
	if (unlinkat(dirfd, name, 0) < 0 && errno != ENOENT)
		return fm_error_errno(err, errno, "removing the mark %s/%s", dir, name);
	return 0;
}

static int clear_marks(const char *control_dir, struct fm_error *err)
{
	static const char *const marks[] = { FM_NEST_MOVED, FM_NEST_HELD_MARK, FM_NEST_WAITING };
	_fm_close_ int dirfd = open(control_dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (dirfd < 0)
		return errno == ENOENT ? 0 : fm_error_errno(err, errno, "opening the control folder %s", control_dir);
	for (size_t i = 0; i < FM_ARRAY_SIZE(marks); i++)
		if (remove_mark(dirfd, control_dir, marks[i], err) < 0)
			return -1;
	return fsync(dirfd) < 0 ? fm_error_errno(err, errno, "syncing the control folder %s", control_dir) : 0;
}

int fm_nest_fence(const char *control_dir, int on, struct fm_error *err)
{
	struct fm_error e = FM_ERROR_INIT;

	if (simple_call(control_dir, FM_NEST_FENCE, on ? 1 : 0, 0, -1, &e) == 0)
		return 0;
	if (!on && (e.code == FM_E_NOT_FOUND || e.code == FM_E_UNAVAILABLE)) /* there is no parent just now */
		return clear_marks(control_dir, err);
	if (err)
		*err = e;
	return -1;
}

int fm_nest_keep(const char *control_dir, uint64_t key, int fd, struct fm_error *err)
{
	if (fd < 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "nothing to keep under key %llu", (unsigned long long)key);
	return simple_call(control_dir, FM_NEST_KEEP, 0, key, fd, err);
}

int fm_nest_drop(const char *control_dir, uint64_t key, struct fm_error *err)
{
	return simple_call(control_dir, FM_NEST_DROP, 0, key, -1, err);
}

/* A few hundred bytes: running out of memory is not survived here, as in fm_xstrdup. */
static void *copy_of(const void *data, size_t n)
{
	void *copy = malloc(n ? n : 1);

	if (!copy)
		abort();
	return memcpy(copy, data, n);
}

int fm_nest_fetch(const char *control_dir, int **ret_fds, uint64_t **ret_keys, size_t *ret_n, struct fm_error *err)
{
	struct fm_nest_request q = { .version = FM_NEST_VERSION, .op = FM_NEST_FETCH };
	struct fm_nest_reply r = { 0 };
	int fds[FM_NEST_MAX_KEPT + MAX_REPLY_FDS];
	uint64_t keys[FM_NEST_MAX_KEPT + MAX_REPLY_FDS];
	size_t n = 0;

	do { /* by sixteen, in the order of their keys */
		if (nest_call(control_dir, &q, -1, &r, fds + n, err) < 0) {
			close_fds(fds, n);
			return -1;
		}
		memcpy(keys + n, r.keys, r.n_keys * sizeof *keys);
		n += r.n_keys;
		if (n)
			q.arg = keys[n - 1] + 1;
	} while (r.n_keys == MAX_REPLY_FDS && n < FM_NEST_MAX_KEPT);
	*ret_fds = copy_of(fds, n * sizeof *fds);
	*ret_keys = copy_of(keys, n * sizeof *keys);
	*ret_n = n;
	return 0;
}

/* ---- the control folder */

static int prepare_fifo(int dirfd, const char *dir, const char *name, uid_t uid, gid_t gid, struct fm_error *err)
{
	_fm_close_ int fd = -1;
	char magic[64];
	struct stat st;

	if (mkfifoat(dirfd, name, 0600) < 0 && errno != EEXIST)
		return fm_error_errno(err, errno, "creating the fifo %s/%s", dir, name);
	fd = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return fm_error_errno(err, errno, "opening the fifo %s/%s", dir, name);
	if (!S_ISFIFO(st.st_mode))
		return fm_error_set(err, FM_E_ALREADY_EXISTS, "%s/%s exists and is not a fifo", dir, name);
	/* Everybody inside may write: programs that drop their uid open /dev/stderr again. The same mode everywhere, since CRIU
	 * compares it. */
	(void)snprintf(magic, sizeof magic, "/proc/self/fd/%d", fd);
	if (fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0 || chmod(magic, 0622) < 0)
		return fm_error_errno(err, errno, "handing the fifo %s/%s to uid %u", dir, name, (unsigned)uid);
	return 0;
}

static int prepare_waiting(int dirfd, const char *dir, uid_t uid, gid_t gid, bool waiting, struct fm_error *err)
{
	_fm_close_ int fd = -1;

	if (remove_mark(dirfd, dir, FM_NEST_WAITING, err) < 0)
		return -1;
	if (!waiting)
		return 0;
	/* its owner takes it away, perhaps from a sticky folder */
	fd = openat(dirfd, FM_NEST_WAITING, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0 || fchown(fd, uid, gid) < 0 || fsync(dirfd) < 0)
		return fm_error_errno(err, errno, "writing the mark %s/%s", dir, FM_NEST_WAITING);
	return 0;
}

int fm_nest_prepare_control(const char *control_dir, uid_t uid, gid_t gid, bool waiting, struct fm_error *err)
{
	_fm_close_ int dirfd = -1;

	if (fm_mkdir_p(control_dir, 0700, err) < 0)
		return -1;
	dirfd = open(control_dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dirfd < 0)
		return fm_error_errno(err, errno, "opening the control folder %s", control_dir);
	if (prepare_fifo(dirfd, control_dir, "out", uid, gid, err) < 0 || prepare_fifo(dirfd, control_dir, "err", uid, gid, err) < 0)
		return -1;
	if (prepare_waiting(dirfd, control_dir, uid, gid, waiting, err) < 0)
		return -1;
	if (unlinkat(dirfd, "nest.sock", 0) < 0 && errno != ENOENT)
		return fm_error_errno(err, errno, "removing the old socket in %s", control_dir);
	if (fchmod(dirfd, 0700) < 0 || fchown(dirfd, uid, gid) < 0)
		return fm_error_errno(err, errno, "handing the control folder %s to uid %u", control_dir, (unsigned)uid);
	return 0;
}

/* ---- pid namespaces */

/* Whether host pid is the process ns_pid of the namespace (given as its nsfs inode). Processes may vanish meanwhile: that is a no. */
static bool is_ns_process(pid_t pid, pid_t ns_pid, const struct stat *ns)
{
	char path[64];
	struct stat st;
	pid_t inner;

	(void)snprintf(path, sizeof path, "/proc/%d/ns/pid", (int)pid);
	if (stat(path, &st) < 0 || st.st_ino != ns->st_ino || st.st_dev != ns->st_dev)
		return false;
	return fm_proc_ns_pid(pid, &inner, NULL) == 0 && inner == ns_pid;
}

/* Every process of the machine: a root that CRIU has just restored is not yet below the nest. */
static int find_everywhere(pid_t ns_pid, const struct stat *ns, pid_t *ret, struct fm_error *err)
{
	_fm_closedir_ DIR *d = opendir("/proc");
	struct dirent *e;

	if (!d)
		return fm_error_errno(err, errno, "opening /proc");
	while ((e = readdir(d))) {
		int pid;

		if (fm_parse_int(e->d_name, 1, INT_MAX, &pid, NULL) < 0 || !is_ns_process(pid, ns_pid, ns))
			continue;
		*ret = pid;
		return 1;
	}
	return 0;
}

int fm_nest_host_pid(pid_t nest_pid, pid_t ns_pid, pid_t *ret, struct fm_error *err)
{
	_fm_free_ pid_t *tree = NULL;
	char path[64];
	struct stat ns;
	size_t n = 0;
	int found;

	(void)snprintf(path, sizeof path, "/proc/%d/ns/pid", (int)nest_pid);
	if (stat(path, &ns) < 0)
		return fm_error_errno(err, errno, "the parent's process %d", (int)nest_pid);
	if (fm_proc_tree(nest_pid, &tree, &n, NULL) == 0) /* the quick way; failing is no failure */
		for (size_t i = 0; i < n; i++)
			if (is_ns_process(tree[i], ns_pid, &ns)) {
				*ret = tree[i];
				return 0;
			}
	found = find_everywhere(ns_pid, &ns, ret, err);
	if (found < 0)
		return -1;
	if (!found)
		return fm_error_set(err, FM_E_NOT_FOUND, "no process %d in the pid namespace of process %d", (int)ns_pid, (int)nest_pid);
	return 0;
}

static int wait_status(pid_t pid)
{
	int status = 0;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
}

/* In the child: enter the namespace; only its child is in it. Async-signal-safe. Exits with 0 or an errno (they fit: Linux has fewer
 * than 256 we can meet). */
static void set_last_pid_child(int ns_fd, int file, const char *text, size_t len) __attribute__((noreturn));
static void set_last_pid_child(int ns_fd, int file, const char *text, size_t len)
{
	pid_t pid;

	if (setns(ns_fd, CLONE_NEWPID) < 0)
		_exit(errno);
	pid = fork();
	if (pid < 0)
		_exit(errno);
	if (pid > 0)
		_exit(wait_status(pid));
	_exit(write(file, text, len) == (ssize_t)len ? 0 : errno);
}

int fm_pidns_set_last_pid(pid_t pid, pid_t last, struct fm_error *err)
{
	_fm_close_ int ns_fd = -1, file = -1;
	char path[64], text[16];
	int len, status;
	pid_t child;

	if (pid <= 0 || last < 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "setting the last pid %d in the namespace of process %d", (int)last,
		                    (int)pid);
	(void)snprintf(path, sizeof path, "/proc/%d/ns/pid", (int)pid);
	ns_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (ns_fd < 0)
		return fm_error_errno(err, errno, "opening %s", path);
	/* The kernel takes the writer's namespace, not that of the procfs the file was opened on. */
	file = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
	if (file < 0) {
		(void)fm_error_errno(err, errno, "opening /proc/sys/kernel/ns_last_pid");
		return fm_error_hint(err, "the kernel needs CONFIG_CHECKPOINT_RESTORE");
	}
	len = snprintf(text, sizeof text, "%d", (int)last);
	child = fork();
	if (child < 0)
		return fm_error_errno(err, errno, "forking to set the last pid");
	if (child == 0)
		set_last_pid_child(ns_fd, file, text, (size_t)len);
	status = wait_status(child);
	if (status)
		return fm_error_errno(err, status, "setting the last pid of the namespace of process %d to %d", (int)pid, (int)last);
	return 0;
}
