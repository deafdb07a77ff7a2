/* SPDX-License-Identifier: MIT */
/*
 * criu-start.c - getting `criu swrk` running inside a parent container.
 *
 * CRIU runs as real root with all capabilities, but in the mount namespace of a container that we must not trust: whatever it opens by
 * path may have been put there to be executed by it. So everything that is code comes by descriptor from the host's prefix, and every
 * path that would lead elsewhere is closed:
 *
 *   the loader and the program   sealed memfd copies: nobody inside can write to them through /proc/PID/exe
 *   /etc/ld.so.preload           no option of the loader turns it off: the name is blanked in the copy of the loader
 *   /etc/ld.so.cache             --inhibit-cache, --library-path to our folder of libraries
 *   /etc/criu/default.conf       --no-default-config (it could name scripts to run)
 *   plugins in /usr/lib/criu     --libdir to a folder that never holds any (/proc/self/task)
 *   iptables, sh, … from PATH    PATH=/dev/null: CRIU finds none and goes on; nothing we ask for needs them
 *   /run/criu.kdat               in the copy of the program the name is replaced by a relative one (below)
 *
 * criu.kdat is CRIU's cache of kernel features. It decides, among other things, up to which capability the bounding set is cleared: a
 * forged one would hand out capabilities. The relative name leads to CRIU's work folder, the images folder. Where that is a tmpfs, CRIU
 * keeps the cache there, and later requests are spared the 50 ms of probing, whatever the container has on /run.
 *
 * Way in: fork; the child enters the namespaces and clones with CLONE_PARENT, because a pid namespace takes effect for children only:
 * CRIU is in the namespace and yet our own child, to be waited for. CRIU's pid is chosen with set_tid where the caller wants pids kept
 * free. It waits before exec until we have put it into the cgroups. Between fork and exec only async-signal-safe calls: the process has
 * threads.
 *
 * --address is given a word that is no address: after a refused `post-dump` CRIU would still open its lazy page server (and wait for a
 * client with the tree frozen); so it fails before a socket exists, and CRIU undoes the dump at once.
 */
#include "container/criu-internal.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "basic/cleanup.h"
#include "basic/cgroups.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/str.h"
#include "container/cgroup.h"
#include "container/criu-view.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

#define KDAT_NAME         ".criu.kdat" /* leading dot: never sent as an image */
#define MAX_PROGRAM_BYTES (64u << 20)
#define PID_TRIES         64 /* pids tried above avoid_pid */
#define START_TIMEOUT_MS  10000
#define CRIU_NICE         (-15)

static const struct namespace
{
	const char *name;
	int flag;
}
namespaces[] = {
	/* in this order: mnt last, because it takes /proc away */
	{ "cgroup", CLONE_NEWCGROUP }, { "ipc", CLONE_NEWIPC }, { "uts", CLONE_NEWUTS }, { "net", CLONE_NEWNET },
	{ "time", CLONE_NEWTIME },     { "pid", CLONE_NEWPID }, { "mnt", CLONE_NEWNS },
};
#define N_NAMESPACES FM_ARRAY_SIZE(namespaces)

/* Where a child failed, sent through the status pipe. */
enum step { STEP_CLONED = 1, STEP_SETNS, STEP_CLONE, STEP_PROC, STEP_DESCRIPTORS, STEP_FOLDER, STEP_FILTER, STEP_EXEC };
struct report {
	int step, value, sys_errno;
};

/* Everything the children need, prepared before the fork. Descriptors are CLOEXEC and above all numbers used in the child. */
struct plan {
	int loader, program, libs, images, socket, null, log; /* -1: images only */
	int ns[N_NAMESPACES];                                 /* -1: already in it */
	int last_pid_file;                                    /* -1: nothing to write */
	bool view, view_maps;                                 /* what it sees of memory is filtered (criu-view.h) */
	pid_t avoid_pid;
	int status_w, go_r;
	char *const *argv, *const *env;
};

static void plan_done(struct plan *p)
{
	int *fds[] = { &p->loader, &p->program, &p->libs,          &p->images,   &p->socket,
		       &p->null,   &p->log,     &p->last_pid_file, &p->status_w, &p->go_r };

	for (size_t i = 0; i < FM_ARRAY_SIZE(fds); i++)
		fm_closep(fds[i]);
	for (size_t i = 0; i < N_NAMESPACES; i++)
		fm_closep(&p->ns[i]);
}

/* ---- the program, as sealed copies ---- */

/* Nothing is preloaded: access("") fails. */
static int blank_preload(char *data, size_t len, struct fm_error *err)
{
	static const char name[] = "/etc/ld.so.preload";
	bool found = false;

	for (char *p = data; (p = memmem(p, len - (size_t)(p - data), name, sizeof(name))) != NULL;) {
		*p = '\0';
		found = true;
	}
	if (!found)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION,
		                    "CRIU's loader is not the C library's known one: it does not contain \"%s\"", name);
	return 0;
}

static int redirect_kernel_cache(char *data, size_t len, struct fm_error *err)
{
	static const char end[] = "/criu.kdat";
	bool found = false;

	for (char *p = data; (p = memmem(p, len - (size_t)(p - data), end, sizeof(end))) != NULL; p += sizeof(end)) {
		char *start = p;

		while (start > data && start[-1] != '\0' && p - start < 64)
			start--;
		if (*start != '/' || (size_t)(p - start) + sizeof(end) < sizeof(KDAT_NAME))
			continue;
		memcpy(start, KDAT_NAME, sizeof(KDAT_NAME));
		found = true;
	}
	if (!found)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "the program is no CRIU known here: it does not contain \"…%s\"", end);
	return 0;
}

static int sealed_copy(const char *prefix, const char *name, int (*change)(char *, size_t, struct fm_error *), int *ret_fd,
                       struct fm_error *err)
{
	_fm_free_ char *path = fm_xasprintf("%s/%s", prefix, name);
	_fm_free_ char *data = NULL;
	_fm_close_ int fd = -1;
	size_t len;

	if (fm_read_file(path, MAX_PROGRAM_BYTES, &data, &len, err) < 0) {
		fm_error_prefix(err, "CRIU is not installed properly");
		return fm_error_hint(err, "run tools/setup/install-criu.sh --prefix %s", prefix);
	}
	if (change(data, len, err) < 0)
		return fm_error_prefix(err, "%s", path);
	fd = memfd_create("criu", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
	if (fd < 0 && errno == EINVAL) /* before Linux 6.3 every memfd is executable */
		fd = memfd_create("criu", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0) {
		fm_error_errno(err, errno, "cannot make an executable memory file for %s", path);
		return fm_error_hint(err, "check sysctl vm.memfd_noexec");
	}
	if (fm_write_full(fd, data, len, err) < 0)
		return fm_error_prefix(err, "copying %s to memory", path);
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return fm_error_errno(err, errno, "cannot seal the copy of %s", path);
	*ret_fd = FM_TAKE_FD(fd);
	return 0;
}

/* Move a descriptor above all numbers that dup2 overwrites in the child. */
static int lift(int *fd, struct fm_error *err)
{
	int high = fcntl(*fd, F_DUPFD_CLOEXEC, 32);

	if (high < 0)
		return fm_error_errno(err, errno, "cannot duplicate a descriptor for CRIU");
	close(*fd);
	*fd = high;
	return 0;
}

static int open_program(const char *prefix, struct plan *p, struct fm_error *err)
{
	_fm_free_ char *libs = fm_xasprintf("%s/lib", prefix);

	if (sealed_copy(prefix, "lib/ld.so", blank_preload, &p->loader, err) < 0 ||
	    sealed_copy(prefix, "bin/criu", redirect_kernel_cache, &p->program, err) < 0)
		return -1;
	p->libs = open(libs, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (p->libs < 0)
		return fm_error_errno(err, errno, "cannot open CRIU's libraries %s", libs);
	p->null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (p->null < 0)
		return fm_error_errno(err, errno, "cannot open /dev/null");
	p->log = memfd_create("criu-stderr", MFD_CLOEXEC);
	if (p->log < 0)
		return fm_error_errno(err, errno, "cannot make a memory file for CRIU's messages");
	return 0;
}

/* ---- the parent's namespaces and cgroups ---- */

static int open_namespaces(int proc_dir, pid_t pid, struct plan *p, struct fm_error *err)
{
	struct stat theirs, ours;
	char path[64];

	if (fstatat(proc_dir, "ns/user", &theirs, 0) < 0 || stat("/proc/self/ns/user", &ours) < 0)
		return fm_error_errno(err, errno, "cannot look at the user namespace of process %d", (int)pid);
	if (theirs.st_ino != ours.st_ino) {
		fm_error_set(err, FM_E_FAILED_PRECONDITION, "process %d is in a user namespace of its own, which is not supported",
		             (int)pid);
		return fm_error_hint(err, "remove the user namespace from linux.namespaces of the container's config.json");
	}
	for (size_t i = 0; i < N_NAMESPACES; i++) {
		snprintf(path, sizeof(path), "/proc/self/ns/%s", namespaces[i].name);
		if (stat(path, &ours) < 0) {
			if (errno == ENOENT)
				continue; /* a kernel without this kind */
			return fm_error_errno(err, errno, "cannot look at %s", path);
		}
		snprintf(path, sizeof(path), "ns/%s", namespaces[i].name);
		p->ns[i] = openat(proc_dir, path, O_RDONLY | O_CLOEXEC);
		if (p->ns[i] < 0 || fstat(p->ns[i], &theirs) < 0)
			return fm_error_errno(err, errno, "cannot open %s of process %d", path, (int)pid);
		if (theirs.st_ino == ours.st_ino)
			fm_closep(&p->ns[i]), p->ns[i] = -1;
	}
	return 0;
}

static int join_hierarchy(const char *controllers, const char *path, const char *mountinfo, const char *pid_text, struct fm_error *err)
{
	_fm_free_ char *folder = fm_cgroup_folder(controllers, path, mountinfo);

	if (folder) {
		_fm_free_ char *file = fm_xasprintf("%s/cgroup.procs", folder);
		if (fm_write_file(file, pid_text, err) < 0)
			return fm_error_prefix(err, "putting CRIU into cgroup %s", path);
		return 0;
	}
	/* A hierarchy without processes' own cgroups need not be mounted at all. */
	if (fm_streq(path, "/"))
		return 0;
	return fm_error_set(err, FM_E_FAILED_PRECONDITION, "cgroup hierarchy \"%s\" with %s is not mounted here", controllers, path);
}

static int join_cgroups(int proc_dir, pid_t pid, struct fm_error *err)
{
	_fm_free_ char *cgroups = NULL, *mountinfo = NULL;
	char pid_text[16], *save = NULL;

	if (fm_read_file_at(proc_dir, "cgroup", 1u << 20, &cgroups, NULL, err) < 0 ||
	    fm_read_file("/proc/self/mountinfo", 16u << 20, &mountinfo, NULL, err) < 0)
		return fm_error_prefix(err, "reading the container's cgroups");
	snprintf(pid_text, sizeof(pid_text), "%d", (int)pid);
	for (char *line = strtok_r(cgroups, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		/* "4:memory:/path"; the path may contain colons */
		char *controllers = strchr(line, ':');
		char *path = controllers ? strchr(controllers + 1, ':') : NULL;

		if (!path)
			continue;
		*path++ = '\0';
		if (join_hierarchy(controllers + 1, path, mountinfo, pid_text, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- between fork and exec ---- */

static void tell(const struct plan *p, int step, int value, int sys_errno)
{
	struct report r = { .step = step, .value = value, .sys_errno = sys_errno };
	ssize_t n;

	do
		n = write(p->status_w, &r, sizeof(r));
	while (n < 0 && errno == EINTR);
}

static _Noreturn void fail(const struct plan *p, int step, int value)
{
	tell(p, step, value, errno);
	_exit(127);
}

static void reset_signals(void)
{
	struct sigaction dfl = { .sa_handler = SIG_DFL };
	sigset_t none;

	for (int s = 1; s < NSIG; s++)
		(void)sigaction(s, &dfl, NULL);
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static size_t format_int(char *buf, int n)
{
	char tmp[16];
	size_t len = 0, i = 0;

	do
		tmp[len++] = (char)('0' + n % 10);
	while ((n /= 10) > 0);
	while (len > 0)
		buf[i++] = tmp[--len];
	return i;
}

/* Is /proc really the proc of the namespaces we are in? CRIU looks up everything there. */
static bool proc_is_ours(void)
{
	struct statfs fs;
	char want[16], got[16];
	size_t n = format_int(want, (int)syscall(SYS_getpid));

	if (statfs("/proc", &fs) < 0 || fs.f_type != PROC_SUPER_MAGIC)
		return false;
	return readlink("/proc/self", got, sizeof(got)) == (ssize_t)n && memcmp(want, got, n) == 0;
}

/*
 * Close every descriptor from `first` on but those in keep (-1: none). The child of an agent that dies now must hold neither the writing end of the pipe
 * that it waits for (or it waits for ever) nor the agent's listening socket (or no new agent can start).
 */
static void close_others(int first, int *keep, size_t n_keep)
{
	while (true) {
		int next = -1;
		for (size_t i = 0; i < n_keep; i++)
			if (keep[i] >= first && (next < 0 || keep[i] < next))
				next = keep[i];
		if (next < 0)
			break;
		if (next > first)
			(void)syscall(SYS_close_range, first, next - 1, 0);
		first = next + 1;
	}
	(void)syscall(SYS_close_range, first, ~0U, 0);
}

/* The filter's other end goes to the agent as the first message on CRIU's own socket. */
static void hand_over_view(const struct plan *p)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec byte = { .iov_base = "v", .iov_len = 1 };
	struct msghdr m = { .msg_iov = &byte, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof(control.buf) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	int fd = fm_criu_view_install(p->view_maps);

	if (fd < 0)
		fail(p, STEP_FILTER, 0);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	if (sendmsg(FM_CRIU_CHILD_SOCKET, &m, MSG_NOSIGNAL) < 0)
		fail(p, STEP_FILTER, 1);
}

static _Noreturn void run_criu(const struct plan *p)
{
	const int from[] = { p->null, p->null, p->log, p->socket, p->images, p->libs, p->program };
	int keep[] = { p->loader, p->go_r, p->status_w, p->last_pid_file };
	char text[16];
	ssize_t n;

	for (int i = 0; i < (int)FM_ARRAY_SIZE(from); i++)
		if (from[i] >= 0 && dup2(from[i], i) < 0)
			fail(p, STEP_DESCRIPTORS, i);
	close_others(FM_ARRAY_SIZE(from), keep, FM_ARRAY_SIZE(keep));
	/* Wait until we are in the right cgroups. */
	do
		n = read(p->go_r, text, 1);
	while (n < 0 && errno == EINTR);
	if (n != 1)
		_exit(127);
	/* Best effort, for the short-lived helpers that CRIU forks: our own pid is right already. */
	if (p->last_pid_file >= 0 && write(p->last_pid_file, text, format_int(text, p->avoid_pid + PID_TRIES)) < 0)
		errno = 0;
	errno = 0;
	if (!proc_is_ours())
		fail(p, STEP_PROC, 0);
	(void)setsid();
	(void)umask(077);
	/* What is left above them is for here; exec needs the loader's until then. */
	(void)syscall(SYS_close_range, FM_ARRAY_SIZE(from), ~0U, CLOSE_RANGE_CLOEXEC);
	if (p->images >= 0 && fchdir(FM_CRIU_CHILD_IMAGES_FD) < 0)
		fail(p, STEP_FOLDER, 0);
	reset_signals();
	if (p->view)
		hand_over_view(p);
	/* Everything waits for us while the tree is frozen. What we restore gets its own niceness back from the images. */
	(void)setpriority(PRIO_PROCESS, 0, CRIU_NICE);
	(void)execveat(p->loader, "", p->argv, p->env, AT_EMPTY_PATH);
	fail(p, STEP_EXEC, 0);
}

/* fork(2) without the C library's bookkeeping, as a child of our parent, with a pid above avoid_pid when there is one. */
static pid_t clone_sibling(pid_t avoid_pid)
{
	pid_t want = avoid_pid + 1;
	struct clone_args args = { .flags = CLONE_PARENT };
	long pid = -1;

	for (int i = 0; i < PID_TRIES; i++, want++) {
		if (avoid_pid > 0) {
			args.set_tid = (uintptr_t)&want;
			args.set_tid_size = 1;
		}
		pid = syscall(SYS_clone3, &args, sizeof(args));
		if (pid >= 0 || errno != EEXIST)
			break;
	}
	return (pid_t)pid;
}

static _Noreturn void enter(const struct plan *p)
{
	for (size_t i = 0; i < N_NAMESPACES; i++)
		if (p->ns[i] >= 0 && setns(p->ns[i], namespaces[i].flag) < 0)
			fail(p, STEP_SETNS, (int)i);
	pid_t pid = clone_sibling(p->avoid_pid);
	if (pid < 0)
		fail(p, STEP_CLONE, 0);
	if (pid == 0)
		run_criu(p);
	tell(p, STEP_CLONED, pid, 0);
	_exit(0);
}

/* ---- the parent's side ---- */

static int explain(const struct report *r, pid_t ns_pid, struct fm_error *err)
{
	switch (r->step) {
	case STEP_SETNS:
		return fm_error_errno(err, r->sys_errno, "cannot enter the %s namespace of process %d", namespaces[r->value].name,
		                      (int)ns_pid);
	case STEP_CLONE:
		return fm_error_errno(err, r->sys_errno, "cannot start a process in the pid namespace of process %d", (int)ns_pid);
	case STEP_PROC:
		fm_error_set(err, FM_E_FAILED_PRECONDITION,
		             "the container of process %d has no /proc of its own, without which CRIU cannot work", (int)ns_pid);
		return fm_error_hint(err, "mount proc at /proc in the container's config.json");
	case STEP_FOLDER:
		return fm_error_errno(err, r->sys_errno, "cannot enter the images folder");
	case STEP_FILTER:
		return fm_error_errno(err, r->sys_errno, "cannot filter what CRIU sees of the container's memory");
	case STEP_EXEC:
		return fm_error_errno(err, r->sys_errno, "cannot execute CRIU's loader");
	default:
		return fm_error_errno(err, r->sys_errno, "cannot prepare the CRIU process (step %d)", r->step);
	}
}

/* 1: got a report, 0: end of file (exec happened, or the children died) */
static int read_report(int fd, uint64_t deadline, struct report *ret, struct fm_error *err)
{
	int ready = fm_wait_fd(fd, POLLIN, fm_deadline_left_ms(deadline), err);
	ssize_t n;

	if (ready < 0)
		return -1;
	if (ready == 0)
		return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "CRIU did not start in time");
	do
		n = read(fd, ret, sizeof(*ret));
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return fm_error_errno(err, errno, "cannot read from the starting CRIU");
	return n == (ssize_t)sizeof(*ret);
}

static void reap(pid_t pid)
{
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

/* First half: namespaces entered, CRIU's process cloned and waiting. */
static int fork_into(struct plan *p, int status_r, pid_t ns_pid, uint64_t deadline, pid_t *ret, struct fm_error *err)
{
	struct report r = { 0 };
	sigset_t all, old;
	int got;

	/* No handler of ours may run in the child. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid_t helper = fork();
	int saved = errno;
	if (helper == 0)
		enter(p);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	fm_closep(&p->status_w), p->status_w = -1;
	if (helper < 0)
		return fm_error_errno(err, saved, "cannot fork for CRIU");
	got = read_report(status_r, deadline, &r, err);
	if (got < 0)
		kill(helper, SIGKILL);
	reap(helper);
	if (got < 0)
		return -1;
	if (got == 0)
		return fm_error_set(err, FM_E_INTERNAL, "the process that enters the container's namespaces died");
	if (r.step != STEP_CLONED)
		return explain(&r, ns_pid, err);
	*ret = r.value;
	return 0;
}

/* Second half: into the cgroups, then exec. */
static int let_go(int proc_dir, const struct fm_criu_start_opts *o, pid_t pid, int go_w, int status_r, uint64_t deadline,
                  struct fm_error *err)
{
	struct report r = { 0 };
	int got;

	if (o && o->ns_pid > 0 && o->join_cgroups && join_cgroups(proc_dir, pid, err) < 0)
		return -1;
	if (fm_criu_write_quietly(go_w, "g", 1) != 1)
		return fm_error_errno(err, errno, "the starting CRIU died");
	got = read_report(status_r, deadline, &r, err);
	if (got > 0)
		return explain(&r, o ? o->ns_pid : 0, err);
	return got;
}

static int prepare(const char *prefix, const struct fm_criu_start_opts *o, int proc_dir, struct plan *p, struct fm_error *err)
{
	if (open_program(prefix, p, err) < 0)
		return -1;
	if (o && o->images_dirfd >= 0 && (p->images = fcntl(o->images_dirfd, F_DUPFD_CLOEXEC, 32)) < 0)
		return fm_error_errno(err, errno, "cannot duplicate the images folder's descriptor");
	if (o && o->ns_pid > 0 && open_namespaces(proc_dir, o->ns_pid, p, err) < 0)
		return -1;
	if (o && o->avoid_pid > 0) {
		p->avoid_pid = o->avoid_pid;
		/* The host's own file: which namespace is meant depends on who writes, and the container's /proc/sys is often
		 * read-only. */
		p->last_pid_file = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
	}
	int *lifted[] = { &p->loader, &p->program, &p->libs, &p->socket, &p->null, &p->log, &p->status_w, &p->go_r };
	for (size_t i = 0; i < FM_ARRAY_SIZE(lifted); i++)
		if (lift(lifted[i], err) < 0)
			return -1;
	return 0;
}

static int receive_view(int socket_fd, int *ret, struct fm_error *err)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	char text[8];
	struct iovec into = { .iov_base = text, .iov_len = sizeof(text) };
	struct msghdr m = { .msg_iov = &into, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof(control.buf) };
	ssize_t n = recvmsg(socket_fd, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	const struct cmsghdr *c = n == 1 && text[0] == 'v' ? CMSG_FIRSTHDR(&m) : NULL;

	if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int)))
		return fm_error_set(err, FM_E_INTERNAL, "the starting CRIU did not hand over its filter");
	memcpy(ret, CMSG_DATA(c), sizeof(*ret));
	return 0;
}

ssize_t fm_criu_write_quietly(int fd, const void *buf, size_t n)
{
	struct timespec now = { 0 };
	sigset_t pipe_set, old;
	ssize_t written;

	sigemptyset(&pipe_set);
	sigaddset(&pipe_set, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe_set, &old);
	do
		written = write(fd, buf, n);
	while (written < 0 && errno == EINTR);
	int saved = errno;
	if (written < 0 && saved == EPIPE && !sigismember(&old, SIGPIPE))
		(void)sigtimedwait(&pipe_set, NULL, &now);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	errno = saved;
	return written;
}

void fm_criu_remove_litter(int images_dirfd)
{
	(void)unlinkat(images_dirfd, KDAT_NAME, 0);
	(void)unlinkat(images_dirfd, KDAT_NAME ".tmp", 0);
}

int fm_criu_spawn(const char *prefix, const struct fm_criu_start_opts *o, struct fm_criu_process *ret, struct fm_error *err)
{
	static const char *const argv[] = { "criu",
		                            "--inhibit-cache",
		                            "--library-path",
		                            "/proc/self/fd/5",
		                            "--argv0",
		                            "criu",
		                            "/proc/self/fd/6",
		                            "--no-default-config",
		                            "--libdir",
		                            "/proc/self/task",
		                            "--address",
		                            "refused",
		                            "swrk",
		                            "3",
		                            NULL };
	static const char *const env[] = { "PATH=/dev/null", "GNUTLS_NO_IMPLICIT_INIT=1", NULL };
	_fm_cleanup_(plan_done) struct plan p = { .loader = -1,
		                                  .program = -1,
		                                  .libs = -1,
		                                  .images = -1,
		                                  .socket = -1,
		                                  .null = -1,
		                                  .log = -1,
		                                  .ns = { [0 ... N_NAMESPACES - 1] = -1 },
		                                  .last_pid_file = -1,
		                                  .status_w = -1,
		                                  .go_r = -1 };
	_fm_close_ int proc_dir = -1, socket_fd = -1, status_r = -1, go_w = -1;
	uint64_t deadline = fm_now_ms() + START_TIMEOUT_MS;
	int sv[2], status[2], go[2];
	pid_t pid = -1;

	if (o && o->ns_pid > 0) {
		char path[32];
		snprintf(path, sizeof(path), "/proc/%d", (int)o->ns_pid);
		proc_dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (proc_dir < 0)
			return fm_error_errno(err, errno, "cannot start CRIU in the container: there is no process %d", (int)o->ns_pid);
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0)
		return fm_error_errno(err, errno, "cannot make a socket pair for CRIU");
	socket_fd = sv[0];
	p.socket = sv[1];
	if (pipe2(status, O_CLOEXEC) < 0)
		return fm_error_errno(err, errno, "cannot make a pipe for CRIU");
	status_r = status[0];
	p.status_w = status[1];
	if (pipe2(go, O_CLOEXEC) < 0)
		return fm_error_errno(err, errno, "cannot make a pipe for CRIU");
	p.go_r = go[0];
	go_w = go[1];
	p.argv = (char *const *)argv;
	p.env = (char *const *)env;
	p.view = o && o->hide_memory;
	p.view_maps = p.view && o->hide_maps;
	if (prepare(prefix, o, proc_dir, &p, err) < 0 || fork_into(&p, status_r, o ? o->ns_pid : 0, deadline, &pid, err) < 0)
		return -1;
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0)
		fm_error_errno(err, errno, "cannot open a descriptor for process %d", (int)pid);
	int view_fd = -1;
	if (pidfd < 0 || let_go(proc_dir, o, pid, go_w, status_r, deadline, err) < 0 ||
	    (p.view && receive_view(socket_fd, &view_fd, err) < 0)) {
		fm_closep(&pidfd);
		kill(pid, SIGKILL);
		reap(pid);
		return -1;
	}
	*ret = (struct fm_criu_process){
		.pid = pid, .pidfd = pidfd, .socket = FM_TAKE_FD(socket_fd), .stderr_fd = FM_TAKE_FD(p.log), .view_fd = view_fd
	};
	return 0;
}
