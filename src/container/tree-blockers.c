/* SPDX-License-Identifier: MIT */
/*
 * tree-blockers.c - what CRIU would refuse, or what would stay behind, found in /proc without touching the tree.
 *
 * A snapshot of a running tree: good for a warning at planning time, no promise. Everything listed here was refused by CRIU 4.2
 * (files.c, sk-inet.c, namespaces.c, proc_parse.c) or is lost silently because the parent's namespaces are not dumped (System V
 * objects, processes outside the tree). Sockets are looked at through pidfd_getfd: a duplicate for the time of two getsockopt calls.
 */
#include "container/criu.h"

#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include <sched.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/proc.h"
#include "basic/str.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

#define MAX_FINDINGS     64 /* more do not help anybody */
#define MEM_MAJOR        1
#define TTY_MAJOR        4
#define TTYAUX_MAJOR     5
#define MISC_MAJOR       10
#define TUN_MINOR        200
#define UNIX98_PTY_FIRST 128
#define UNIX98_PTY_LAST  143

struct search {
	pid_t nest, root;
	const pid_t *tree;
	size_t n_tree;
	char **found;
	size_t n_found;
};

/* One process of the tree. */
struct subject {
	pid_t pid, ns_pid;
	char comm[32];
	int dir, pidfd;
};

static void subject_done(struct subject *s)
{
	fm_closep(&s->dir);
	fm_closep(&s->pidfd);
}

static void note(struct search *s, const struct subject *p, const char *text)
{
	if (s->n_found >= MAX_FINDINGS)
		return;
	_fm_free_ char *line = fm_xasprintf("process %d (%s) %s", (int)p->ns_pid, p->comm, text);
	for (size_t i = 0; i < s->n_found; i++)
		if (fm_streq(s->found[i], line))
			return;
	fm_strv_add(&s->found, line);
	s->n_found++;
}

static bool open_subject(pid_t pid, struct subject *ret)
{
	_fm_free_ char *comm = NULL;
	char path[32];

	*ret = (struct subject){ .pid = pid, .ns_pid = pid, .dir = -1, .pidfd = -1 };
	snprintf(path, sizeof(path), "/proc/%d", (int)pid);
	ret->dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (ret->dir < 0 || fm_read_file_at(ret->dir, "comm", 4096, &comm, NULL, NULL) < 0)
		return false;
	comm[strcspn(comm, "\n")] = '\0';
	for (char *c = comm; *c; c++)
		if (*c < ' ' || *c == 127)
			*c = '?';
	snprintf(ret->comm, sizeof(ret->comm), "%s", comm);
	(void)fm_proc_ns_pid(pid, &ret->ns_pid, NULL);
	ret->pidfd = fm_pidfd_open(pid);
	return true;
}

/* ---- descriptors ---- */

static void check_socket(struct search *s, const struct subject *p, int number)
{
	_fm_close_ int fd = p->pidfd >= 0 ? (int)syscall(SYS_pidfd_getfd, p->pidfd, number, 0) : -1;
	int domain = 0, protocol = 0, type = 0;
	socklen_t len = sizeof(int);
	char text[96];

	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &len) < 0 || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
		return;
	if (domain != AF_UNIX && domain != AF_INET && domain != AF_INET6 && domain != AF_NETLINK && domain != AF_PACKET) {
		snprintf(text, sizeof(text), "uses a socket of family %d, which cannot be saved", domain);
		note(s, p, text);
	}
	if ((domain != AF_INET && domain != AF_INET6) || type == SOCK_RAW)
		return;
	if (protocol == IPPROTO_MPTCP) {
		note(s, p, "uses multipath TCP, which cannot be saved (Go programs: set GODEBUG=multipathtcp=0)");
	} else if (protocol != IPPROTO_IP && protocol != IPPROTO_TCP && protocol != IPPROTO_UDP && protocol != IPPROTO_UDPLITE &&
	           protocol != IPPROTO_ICMP && protocol != IPPROTO_ICMPV6) {
		snprintf(text, sizeof(text), "uses a socket of protocol %d, which cannot be saved", protocol);
		note(s, p, text);
	}
}

static void check_anon(struct search *s, const struct subject *p, const char *kind)
{
	static const char *const good[] = { "[eventfd]", "[eventpoll]", "inotify", "[fanotify]", "[signalfd]", "[timerfd]", "[pidfd]" };
	static const struct {
		const char *kind, *text;
	} bad[] = {
		{ "[io_uring]", "uses io_uring, which cannot be saved" },
		{ "[perf_event]", "has a performance counter (perf_event) open, which cannot be saved" },
		{ "[userfaultfd]", "handles page faults itself (userfaultfd), which cannot be saved" },
		{ "bpf-prog", "has a BPF program open, which cannot be saved" },
		{ "bpf_link", "has a BPF link open, which cannot be saved" },
		{ "bpf-map", "has a BPF map open, which cannot be saved" },
		{ "kvm-vm", "runs a virtual machine (KVM), which cannot be saved" },
		{ "kvm-vcpu", "runs a virtual machine (KVM), which cannot be saved" },
		{ "seccomp notify", "supervises another process (seccomp notify), which cannot be saved" },
	};
	char text[128];

	for (size_t i = 0; i < FM_ARRAY_SIZE(good); i++)
		if (fm_streq(kind, good[i]))
			return;
	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++)
		if (fm_str_startswith(kind, bad[i].kind)) {
			note(s, p, bad[i].text);
			return;
		}
	snprintf(text, sizeof(text), "has a kernel object open (%.48s) that cannot be saved", kind);
	note(s, p, text);
}

static bool device_can_be_saved(dev_t dev)
{
	unsigned maj = major(dev), min = minor(dev);

	return maj == MEM_MAJOR || maj == TTY_MAJOR || maj == TTYAUX_MAJOR || (maj >= UNIX98_PTY_FIRST && maj <= UNIX98_PTY_LAST) ||
	       (maj == MISC_MAJOR && (min == TUN_MINOR || min == 235));
}

static void check_descriptor(struct search *s, const struct subject *p, int fd_dir, const char *name)
{
	char target[PATH_MAX], text[192];
	ssize_t n = readlinkat(fd_dir, name, target, sizeof(target) - 1);
	struct stat st;

	if (n <= 0)
		return;
	target[n] = '\0';
	if (fm_str_startswith(target, "anon_inode:"))
		check_anon(s, p, target + strlen("anon_inode:"));
	else if (fm_str_startswith(target, "socket:"))
		check_socket(s, p, atoi(name));
	else if (fm_str_startswith(target, "/dmabuf:"))
		note(s, p, "shares memory with a device (dma-buf), which cannot be saved");
	else if (fstatat(fd_dir, name, &st, 0) == 0 && (S_ISBLK(st.st_mode) || (S_ISCHR(st.st_mode) && !device_can_be_saved(st.st_rdev)))) {
		snprintf(text, sizeof(text), "has the device %.128s open, which cannot be saved", target);
		note(s, p, text);
	}
}

static void check_descriptors(struct search *s, const struct subject *p)
{
	_fm_closedir_ DIR *d = NULL;
	int fd = openat(p->dir, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct dirent *e;

	if (fd < 0)
		return;
	d = fdopendir(fd);
	if (!d) {
		close(fd);
		return;
	}
	while ((e = readdir(d)))
		if (e->d_name[0] != '.')
			check_descriptor(s, p, dirfd(d), e->d_name);
}

/* ---- memory, tracer, namespaces ---- */

static void check_maps(struct search *s, const struct subject *p)
{
	int fd = openat(p->dir, "maps", O_RDONLY | O_CLOEXEC);
	_fm_fclose_ FILE *f = fd >= 0 ? fdopen(fd, "re") : NULL;
	_fm_free_ char *line = NULL;
	size_t cap = 0;

	if (!f && fd >= 0)
		close(fd);
	while (f && getline(&line, &cap, f) >= 0) {
		const char *path = strchr(line, '/');

		if (path && fm_str_startswith(path, "/SYSV"))
			note(s, p, "uses System V shared memory, which cannot be saved");
		else if (strstr(line, "anon_inode:[io_uring]"))
			note(s, p, "uses io_uring, which cannot be saved");
	}
}

static void check_tracer(struct search *s, const struct subject *p)
{
	_fm_free_ char *status = NULL;
	const char *tracer;

	if (fm_read_file_at(p->dir, "status", 65536, &status, NULL, NULL) < 0)
		return;
	tracer = strstr(status, "\nTracerPid:\t");
	if (tracer && strtol(tracer + strlen("\nTracerPid:\t"), NULL, 10) > 0)
		note(s, p, "is being debugged or traced, and can have one tracer only");
}

static void check_namespaces(struct search *s, const struct subject *p)
{
	static const char *const names[] = { "mnt", "pid", "net", "ipc", "uts", "user", "cgroup" };
	char ours[64], path[32], text[96];
	struct stat a, b;

	for (size_t i = 0; i < FM_ARRAY_SIZE(names); i++) {
		snprintf(ours, sizeof(ours), "/proc/%d/ns/%s", (int)s->nest, names[i]);
		snprintf(path, sizeof(path), "ns/%s", names[i]);
		if (stat(ours, &a) < 0 || fstatat(p->dir, path, &b, 0) < 0 || a.st_ino == b.st_ino)
			continue;
		snprintf(text, sizeof(text), "has made a %s namespace of its own, which cannot be saved", names[i]);
		note(s, p, text);
	}
}

/* ---- the parent as a whole ---- */

static bool in_tree(const struct search *s, pid_t pid)
{
	for (size_t i = 0; i < s->n_tree; i++)
		if (s->tree[i] == pid)
			return true;
	return false;
}

static bool in_pid_namespace(pid_t pid, const struct stat *ns)
{
	char path[64];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%d/ns/pid", (int)pid);
	return stat(path, &st) == 0 && st.st_ino == ns->st_ino;
}

/* 0 when it has ended */
static pid_t parent_of(pid_t pid)
{
	_fm_free_ char *text = NULL;
	char path[32], *p;
	int ppid = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	if (fm_read_file(path, 4096, &text, NULL, NULL) < 0 || !(p = strrchr(text, ')')) || sscanf(p + 1, " %*c %d", &ppid) != 1)
		return 0;
	return ppid;
}

/* Is it one of our own (a CRIU waiting in the parent), or a child of one? Follows parents, as long as they are in the parent's pid
 * namespace, up to us. */
static bool is_ours(pid_t pid, const struct stat *ns)
{
	for (int depth = 0; depth < 8 && in_pid_namespace(pid, ns); depth++) {
		pid_t ppid = parent_of(pid), inner = 0;

		/* The parent's PID 1 may be our child as well; it does not count. */
		if (ppid == 0 || fm_proc_ns_pid(pid, &inner, NULL) < 0 || inner == 1)
			return false;
		if (ppid == getpid())
			return true;
		pid = ppid;
	}
	return false;
}

/* Has the tree grown by it since the snapshot? Its parents lead to the tree's root then, unless one of them ends while we look. */
static bool has_joined(const struct search *s, pid_t pid, const struct stat *ns)
{
	for (int attempt = 0; attempt < 3; attempt++) {
		pid_t p = pid;

		while (p > 0 && p != s->root && p != s->nest && in_pid_namespace(p, ns))
			p = parent_of(p);
		if (p == s->root || parent_of(pid) == 0)
			return true;
	}
	return false;
}

static void check_strangers(struct search *s)
{
	_fm_closedir_ DIR *d = opendir("/proc");
	char path[64];
	struct stat nest;
	struct dirent *e;

	snprintf(path, sizeof(path), "/proc/%d/ns/pid", (int)s->nest);
	if (!d || stat(path, &nest) < 0)
		return;
	while ((e = readdir(d))) {
		_fm_cleanup_(subject_done) struct subject p = { .dir = -1, .pidfd = -1 };
		pid_t pid = (pid_t)atoi(e->d_name);

		if (pid <= 0 || pid == s->nest || in_tree(s, pid))
			continue;
		if (!in_pid_namespace(pid, &nest) || fm_proc_state(pid) == 'Z')
			continue;
		if (!open_subject(pid, &p) || p.ns_pid == 1 || is_ours(pid, &nest) || has_joined(s, pid, &nest))
			continue;
		note(s, &p, "does not belong to the application (docker exec?) and would stay behind");
	}
}

/* Numbers of System V objects can only be asked for inside the IPC namespace. Exit status of the child: 1 memory, 2 semaphores, 4
 * queues. */
static void check_sysv(struct search *s)
{
	char path[64];
	struct stat theirs, ours;
	int status = 0;

	snprintf(path, sizeof(path), "/proc/%d/ns/ipc", (int)s->nest);
	_fm_close_ int ns = open(path, O_RDONLY | O_CLOEXEC);
	if (ns < 0 || fstat(ns, &theirs) < 0 || stat("/proc/self/ns/ipc", &ours) < 0 || theirs.st_ino == ours.st_ino)
		return;
	pid_t pid = fork();
	if (pid == 0) {
		struct shm_info shm = { 0 };
		struct seminfo sem = { 0 };
		struct msginfo msg = { 0 };

		if (setns(ns, CLONE_NEWIPC) < 0)
			_exit(0);
		(void)shmctl(0, SHM_INFO, (struct shmid_ds *)&shm);
		(void)semctl(0, 0, SEM_INFO, &sem);
		(void)msgctl(0, MSG_INFO, (struct msqid_ds *)&msg);
		_exit((shm.used_ids > 0 ? 1 : 0) | (sem.semusz > 0 ? 2 : 0) | (msg.msgpool > 0 ? 4 : 0));
	}
	if (pid < 0)
		return;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (!WIFEXITED(status))
		return;
	static const struct {
		int bit;
		const char *text;
	} kinds[] = {
		{ 1, "the container has System V shared memory, which would stay behind" },
		{ 2, "the container has System V semaphores, which would stay behind" },
		{ 4, "the container has System V message queues, which would stay behind" },
	};
	for (size_t i = 0; i < FM_ARRAY_SIZE(kinds); i++)
		if (WEXITSTATUS(status) & kinds[i].bit)
			fm_strv_add(&s->found, kinds[i].text);
}

int fm_tree_blockers(pid_t nest_pid, pid_t root, char ***ret, struct fm_error *err)
{
	_fm_free_ pid_t *tree = NULL;
	size_t n = 0;

	if (fm_proc_tree(root, &tree, &n, err) < 0)
		return -1;
	struct search s = { .nest = nest_pid, .root = root, .tree = tree, .n_tree = n };
	for (size_t i = 0; i < n; i++) {
		_fm_cleanup_(subject_done) struct subject p = { .dir = -1, .pidfd = -1 };

		if (!open_subject(tree[i], &p))
			continue; /* ended meanwhile */
		check_descriptors(&s, &p);
		check_maps(&s, &p);
		check_tracer(&s, &p);
		check_namespaces(&s, &p);
	}
	check_strangers(&s);
	check_sysv(&s);
	*ret = s.found;
	return 0;
}
