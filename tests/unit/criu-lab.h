/* SPDX-License-Identifier: MIT */
/*
 * criu-lab.h - parents with real inner trees, for the tests of CRIU and of trees.
 *
 * A parent is PID 1 of own pid, mount, network, IPC and UTS namespaces and starts what it is told at pid 500. The inner tree is a
 * Python program (threads that spin, threads that wait, a forked child, a TCP echo server): a program a user would run, and free of the
 * sanitizers that the test may be built with. Every spinning thread steps a generator and writes count and state into a shared file, so
 * that a test sees from outside whether anything ran, and that no step was lost or invented.
 */
#ifndef FM_TESTS_CRIU_LAB_H
#define FM_TESTS_CRIU_LAB_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/proc.h"
#include "basic/str.h"
#include "container/criu.h"
#include "container/images.h"

#define ROOT_PID   500
#define N_SPIN     5 /* threads, and one more in a forked child */
#define PORT       7000
#define TIMEOUT_MS 60000

static const char victim[] = "import mmap, os, socket, struct, sys, threading, time\n"
                             "path, port, spin = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])\n"
                             "f = open(path, 'r+b')\n"
                             "m = mmap.mmap(f.fileno(), 4096)\n"
                             "def step(i):\n"
                             "    s, n = i, 0\n"
                             "    while True:\n"
                             "        s = (s * 6364136223846793005 + 1442695040888963407) & 0xffffffffffffffff\n"
                             "        n += 1\n"
                             "        struct.pack_into('<QQ', m, 32 * i + 16 * (n & 1), n, s)\n"
                             "def start(fn, *a):\n"
                             "    threading.Thread(target=fn, args=a, daemon=True).start()\n"
                             "if os.fork() == 0:\n"
                             "    step(spin)\n"
                             "for i in range(spin):\n"
                             "    start(step, i)\n"
                             "start(threading.Event().wait)\n"
                             "start(time.sleep, 100000)\n"
                             "s = socket.create_server(('', port))\n"
                             "struct.pack_into('<Q', m, 4088, 1)\n"
                             "while True:\n"
                             "    c, _ = s.accept()\n"
                             "    while True:\n"
                             "        d = c.recv(65536)\n"
                             "        if not d: break\n"
                             "        c.sendall(d)\n";

/* ---- a parent: its PID 1 takes commands over a socket ---- */

struct parent {
	pid_t pid;
	int control;
};

static __attribute__((unused)) void lo_up(void)
{
	struct ifreq r = { .ifr_flags = IFF_UP };
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	strcpy(r.ifr_name, "lo");
	if (s < 0 || ioctl(s, SIOCSIFFLAGS, &r) < 0)
		_exit(90);
	close(s);
}

static __attribute__((unused)) pid_t clone_process(uint64_t flags, pid_t want)
{
	struct clone_args a = {
		.flags = flags, .exit_signal = SIGCHLD, .set_tid = want > 0 ? (uintptr_t)&want : 0, .set_tid_size = want > 0
	};

	return (pid_t)syscall(SYS_clone3, &a, sizeof(a));
}

/* argv as "a\0b\0c\0" */
static __attribute__((unused)) pid_t spawn_inside(char *text, size_t n)
{
	char *argv[32] = { NULL };
	int argc = 0;
	pid_t pid = clone_process(0, ROOT_PID);

	if (pid != 0)
		return pid > 0 ? pid : -errno;
	for (size_t i = 0; i < n && argc < 31; i += strlen(text + i) + 1)
		argv[argc++] = text + i;
	signal(SIGCHLD, SIG_DFL);
	setsid();
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	execvp(argv[0], argv);
	_exit(91);
}

/* Things to change in the parent before anything runs there; in its PID 1. */
typedef void (*parent_prepare)(void *arg);

static _Noreturn void run_pid1(int control, parent_prepare prepare, void *arg)
{
	char buf[4096];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGCHLD, SIG_IGN); /* nobody asks for exit statuses: the kernel reaps */
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		_exit(92);
	if (prepare)
		prepare(arg);
	lo_up();
	dup2(control, 3);
	fcntl(3, F_SETFD, FD_CLOEXEC);
	syscall(SYS_close_range, 4, ~0U, 0);
	int null = open("/dev/null", O_RDWR);
	for (int i = 0; i < 3; i++)
		dup2(null, i);
	close(null);
	for (;;) {
		ssize_t n = recv(3, buf, sizeof(buf) - 1, 0);
		if (n <= 0)
			_exit(0);
		buf[n] = '\0';
		pid_t pid = n > 1 ? spawn_inside(buf, (size_t)n) : 0;
		if (send(3, &pid, sizeof(pid), 0) < 0)
			_exit(94);
	}
}

static __attribute__((unused)) void parent_start_prepared(struct parent *p, parent_prepare prepare, void *arg)
{
	pid_t ready = 0;
	int sv[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
	p->pid = clone_process(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS, 0);
	assert_true(p->pid >= 0);
	if (p->pid == 0)
		run_pid1(sv[1], prepare, arg);
	close(sv[1]);
	p->control = sv[0];
	/* It answers when it is ready. */
	assert_int_equal(send(p->control, "", 1, 0), 1);
	assert_int_equal(recv(p->control, &ready, sizeof(ready), 0), sizeof(ready));
}

static __attribute__((unused)) void parent_start(struct parent *p)
{
	parent_start_prepared(p, NULL, NULL);
}

static __attribute__((unused)) void parent_stop(struct parent *p)
{
	if (p->pid <= 0)
		return;
	kill(p->pid, SIGKILL);
	/* A CRIU that a failed test has left there is our child, too, and PID 1 does not end before it is reaped. */
	for (pid_t pid = 0; pid != p->pid;) {
		pid = waitpid(-1, NULL, 0);
		if (pid < 0)
			break;
	}
	close(p->control);
	p->pid = 0;
}

static __attribute__((unused)) pid_t host_pid(const struct parent *p, pid_t ns_pid)
{
	pid_t *children, found = 0;
	size_t n;

	if (fm_proc_children(p->pid, &children, &n, NULL) < 0)
		return 0;
	for (size_t i = 0; i < n; i++) {
		pid_t inner;
		if (fm_proc_ns_pid(children[i], &inner, NULL) == 0 && inner == ns_pid)
			found = children[i];
	}
	free(children);
	return found;
}

/* Start a program as the root of the inner tree; its host pid. */
static __attribute__((unused)) pid_t parent_spawn(struct parent *p, char *const *argv)
{
	struct fm_buf b = FM_BUF_INIT;
	pid_t inner = 0;

	for (; *argv; argv++)
		fm_buf_add(&b, *argv, strlen(*argv) + 1);
	assert_int_equal(send(p->control, b.data, b.len, 0), (ssize_t)b.len);
	assert_int_equal(recv(p->control, &inner, sizeof(inner), 0), sizeof(inner));
	fm_buf_done(&b);
	assert_int_equal(inner, ROOT_PID);
	return host_pid(p, ROOT_PID);
}

/* A connection made in the parent's network namespace; -1 when nobody listens. */
static __attribute__((unused)) int parent_try_connect(const struct parent *p, const char *address, uint16_t port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = inet_addr(address) };
	int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), fd, there, one = 1;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)p->pid);
	there = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(home >= 0 && there >= 0);
	assert_int_equal(setns(there, CLONE_NEWNET), 0);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(setns(home, CLONE_NEWNET), 0);
	close(home);
	close(there);
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
		close(fd);
		return -1;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static __attribute__((unused)) int parent_connect(const struct parent *p, const char *address, uint16_t port)
{
	int fd = parent_try_connect(p, address, port);

	assert_true(fd >= 0);
	return fd;
}

static __attribute__((unused)) void echo(int fd, const char *text)
{
	char buf[256];
	size_t got = 0;

	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
	while (got < strlen(text)) {
		struct pollfd pfd = { .fd = fd, .events = POLLIN };
		assert_int_equal(poll(&pfd, 1, 20000), 1);
		ssize_t n = recv(fd, buf + got, sizeof(buf) - got, 0);
		assert_true(n > 0);
		got += (size_t)n;
	}
	assert_memory_equal(buf, text, strlen(text));
}

/* ---- fixture ---- */

struct fixture {
	struct fm_criu_install install;
	char dir[64]; /* scratch on tmpfs */
	char script[96], counters_path[96];
	int images;   /* <dir>/images: where the source writes */
	int incoming; /* <dir>/incoming: the destination's copy */
	struct parent a, b, client;
	uint64_t *counters; /* the shared file */
};

static int setup(void **state);
static int teardown(void **state);

static __attribute__((unused)) void run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static __attribute__((unused)) void run(const char *fmt, ...)
{
	char cmd[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	if (system(cmd) != 0)
		fail_msg("failed: %s", cmd);
}

static __attribute__((unused)) bool usable(const char *program)
{
	char path[64];

	snprintf(path, sizeof(path), "/usr/bin/%s", program);
	return access(path, X_OK) == 0;
}

static __attribute__((unused)) int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct fm_error err = FM_ERROR_INIT;
	const char *prefix = getenv("FM_CRIU_PREFIX");

	*state = f;
	f->images = f->incoming = -1;
	if (geteuid() != 0 || !usable("python3") || !usable("nsenter"))
		return 0;
	if (fm_criu_install_probe(prefix ? prefix : FM_CRIU_PREFIX_DEFAULT, 0, &f->install, &err) < 0) {
		print_message("no usable CRIU: %s (%s)\n", err.message, err.hint);
		return 0;
	}
	snprintf(f->dir, sizeof(f->dir), "/dev/shm/fm-test-criu.XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	snprintf(f->script, sizeof(f->script), "%s/victim.py", f->dir);
	snprintf(f->counters_path, sizeof(f->counters_path), "%s/counters", f->dir);
	char images[96];
	snprintf(images, sizeof(images), "%s/images", f->dir);
	mkdir(images, 0700);
	f->images = open(images, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	snprintf(images, sizeof(images), "%s/incoming", f->dir);
	mkdir(images, 0700);
	f->incoming = open(images, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fm_write_file_atomic(f->script, victim, sizeof(victim) - 1, 0600, NULL) < 0)
		return -1;
	int fd = open(f->counters_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, 4096) < 0)
		return -1;
	f->counters = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return f->counters == MAP_FAILED ? -1 : 0;
}

static __attribute__((unused)) int teardown(void **state)
{
	struct fixture *f = *state;

	if (getenv("FM_TEST_CRIU_LOG") && f->dir[0])
		run("cp %s/images/*.log %s/incoming/*.log %s/ 2>/dev/null; true", f->dir, f->dir, getenv("FM_TEST_CRIU_LOG"));
	parent_stop(&f->a);
	parent_stop(&f->b);
	parent_stop(&f->client);
	if (f->counters)
		munmap(f->counters, 4096);
	if (f->images >= 0) {
		close(f->images);
		close(f->incoming);
	}
	if (f->dir[0])
		fm_remove_tree(f->dir, NULL);
	free(f);
	return 0;
}

#define NEED(f)                                                                                                                            \
	do {                                                                                                                               \
		if ((f)->images < 0) {                                                                                                     \
			print_message("skipped: needs root, python3, CRIU\n");                                                             \
			skip();                                                                                                            \
		}                                                                                                                          \
	} while (0)

#define OK(call)                                                                                                                           \
	do {                                                                                                                               \
		struct fm_error oops = FM_ERROR_INIT;                                                                                      \
		if ((call) < 0)                                                                                                            \
			fail_msg("%s: %s (%s)", #call, oops.message, oops.hint);                                                           \
	} while (0)

/* How far a thread has come: the higher of its two places. */
static __attribute__((unused)) uint64_t steps_of(const struct fixture *f, int i)
{
	uint64_t a = __atomic_load_n(&f->counters[4 * i], __ATOMIC_ACQUIRE), b = __atomic_load_n(&f->counters[4 * i + 2], __ATOMIC_ACQUIRE);

	return a > b ? a : b;
}

static __attribute__((unused)) pid_t start_victim(struct fixture *f, struct parent *p)
{
	char *const argv[] = { (char *)"python3", f->script, f->counters_path, (char *)"7000", (char *)"5", NULL };
	pid_t root = parent_spawn(p, argv);
	uint64_t deadline = fm_now_ms() + 30000;

	assert_true(root > 0);
	/* ready when it listens and everybody has counted */
	for (;;) {
		bool all = __atomic_load_n(&f->counters[511], __ATOMIC_ACQUIRE) == 1;
		for (int i = 0; i <= N_SPIN; i++)
			all = all && steps_of(f, i) > 10;
		if (all)
			return root;
		assert_true(fm_now_ms() < deadline);
		fm_pause_ms(5);
	}
}

/* Every generator is where its count says. The later of two places may be half written when a thread is stopped there, the other
 * one cannot be. */
static __attribute__((unused)) void check_counters(const struct fixture *f)
{
	for (uint64_t i = 0; i <= N_SPIN; i++) {
		const uint64_t *slot = f->counters + 4 * i;
		uint64_t s = i, last = steps_of(f, (int)i);
		bool found = false;

		for (uint64_t n = 1; n <= last; n++) {
			s = s * 6364136223846793005ull + 1442695040888963407ull;
			if (n + 1 >= last && slot[2 * (n & 1)] == n && slot[2 * (n & 1) + 1] == s)
				found = true;
		}
		if (!found)
			fail_msg("thread %d has lost its way: %llu %llx, %llu %llx", (int)i, (unsigned long long)slot[0],
			         (unsigned long long)slot[1], (unsigned long long)slot[2], (unsigned long long)slot[3]);
	}
}

static __attribute__((unused)) void wait_progress(const struct fixture *f)
{
	uint64_t start[N_SPIN + 1], deadline = fm_now_ms() + 30000;

	for (int i = 0; i <= N_SPIN; i++)
		start[i] = steps_of(f, i);
	for (int i = 0; i <= N_SPIN; i++) {
		while (steps_of(f, i) <= start[i] + 10) {
			if (fm_now_ms() >= deadline)
				fail_msg("thread %d does not go on", i);
			fm_pause_ms(1);
		}
	}
}

/*
 * A network in which the same address moves: a client namespace with one cable to each parent, both parents 10.9.0.2, and a route that
 * says which of them is meant.
 */
static __attribute__((unused)) void network_cable(struct fixture *f, const struct parent *p, const char *cable)
{
	int c = f->client.pid;

	run("nsenter -t %d -n ip link del %s 2>/dev/null; true", c, cable);
	run("nsenter -t %d -n ip link add %s type veth peer name eth0 netns %d", c, cable, (int)p->pid);
	run("nsenter -t %d -n ip link set %s up", c, cable);
	run("nsenter -t %d -n ip addr add 10.9.0.2/24 dev eth0", (int)p->pid);
	run("nsenter -t %d -n ip link set eth0 up", (int)p->pid);
}

static __attribute__((unused)) void network_make(struct fixture *f)
{
	int c = f->client.pid;

	run("nsenter -t %d -n ip addr add 10.9.0.1/32 dev lo", c);
	network_cable(f, &f->a, "ca");
	network_cable(f, &f->b, "cb");
	run("nsenter -t %d -n ip route add 10.9.0.2/32 dev ca src 10.9.0.1", c);
}

/* Pull one parent's plug: nothing that it sends any more arrives. */
static __attribute__((unused)) void network_fence(struct fixture *f, const char *cable)
{
	run("nsenter -t %d -n ip link set %s down", (int)f->client.pid, cable);
}

static __attribute__((unused)) void network_open(struct fixture *f, const char *cable)
{
	run("nsenter -t %d -n ip link set %s up", (int)f->client.pid, cable);
	run("nsenter -t %d -n ip route replace 10.9.0.2/32 dev %s src 10.9.0.1", (int)f->client.pid, cable);
}

static __attribute__((unused)) int log_level(void)
{
	return getenv("FM_TEST_CRIU_LOG") ? 4 : 1;
}

static __attribute__((unused)) void folder_clear(int dirfd)
{
	DIR *d = fdopendir(openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	struct dirent *e;

	while ((e = readdir(d)))
		if (e->d_name[0] != '.')
			unlinkat(dirfd, e->d_name, 0);
	closedir(d);
}

/* What the agents do over the network. */
static __attribute__((unused)) void transfer(const struct fixture *f)
{
	DIR *d = fdopendir(openat(f->images, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	struct dirent *e;

	while ((e = readdir(d)))
		if (fm_str_endswith(e->d_name, ".img"))
			assert_int_equal(linkat(f->images, e->d_name, f->incoming, e->d_name, 0), 0);
	closedir(d);
}

/* A CRIU in the parent, with its images in the folder. */
static __attribute__((unused)) struct fm_criu *criu_in(struct fixture *f, const struct parent *p, int folder)
{
	struct fm_criu_start_opts o = { .ns_pid = p->pid, .avoid_pid = 1000, .images_dirfd = folder };
	struct fm_criu *c = NULL;
	uint64_t t0 = fm_now_us();

	OK(fm_criu_start(&f->install, &o, &c, &oops));
	print_message("    start %.1f ms\n", (double)(fm_now_us() - t0) / 1e3);
	return c;
}

/* The same, under the filter that hides memory. */
static __attribute__((unused)) struct fm_criu *criu_hiding_in(struct fixture *f, const struct parent *p, int folder)
{
	struct fm_criu_start_opts o = { .ns_pid = p->pid, .avoid_pid = 1000, .images_dirfd = folder, .hide_memory = true };
	struct fm_criu *c = NULL;

	OK(fm_criu_start(&f->install, &o, &c, &oops));
	return c;
}

static __attribute__((unused)) struct fm_criu_dump_opts dump_opts(bool lazy)
{
	return (struct fm_criu_dump_opts){
		.root_ns_pid = ROOT_PID, .lazy = lazy, .timeout_ms = TIMEOUT_MS, .cancel_fd = -1, .log_level = log_level()
	};
}

static __attribute__((unused)) struct fm_criu_restore_opts restore_opts(bool lazy)
{
	return (struct fm_criu_restore_opts){ .lazy = lazy, .timeout_ms = TIMEOUT_MS, .cancel_fd = -1, .log_level = log_level() };
}

/* From a CRIU (prepared or not) to a stopped tree. */
static __attribute__((unused)) void dump_and_stop_opts(struct fm_criu *c, pid_t root, const struct fm_criu_dump_opts *o)
{
	uint64_t t0 = fm_now_us(), t1, t2;

	OK(fm_criu_dump_begin(c, o, &oops));
	t1 = fm_now_us();
	OK(fm_tree_stop(root, &oops));
	OK(fm_criu_dump_end(c, TIMEOUT_MS, &oops));
	OK(fm_tree_wait_stopped(root, 10000, &oops));
	t2 = fm_now_us();
	print_message("    dump %.1f ms, end %.1f ms\n", (double)(t1 - t0) / 1e3, (double)(t2 - t1) / 1e3);
	fm_criu_free(c);
}

static __attribute__((unused)) void dump_and_stop_with(struct fm_criu *c, pid_t root, bool lazy)
{
	struct fm_criu_dump_opts o = dump_opts(lazy);

	dump_and_stop_opts(c, root, &o);
}

static __attribute__((unused)) void dump_and_stop(struct fixture *f, const struct parent *p, pid_t root, bool lazy)
{
	dump_and_stop_with(criu_in(f, p, f->images), root, lazy);
}

#endif
