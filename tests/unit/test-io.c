/* SPDX-License-Identifier: MIT */
/* Tests of basic/io: real files, mounts and sockets in a directory of their own. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/str.h"

#define LONG_WAIT_MS 20000 /* only reached when something is broken */

static int setup(void **state)
{
	char dir[] = "/tmp/fm-test-io-XXXXXX";

	if (!mkdtemp(dir))
		return -1;
	*state = fm_xstrdup(dir);
	return 0;
}

static int teardown(void **state)
{
	_fm_free_ char *dir = *state;

	return fm_remove_tree(dir, NULL);
}

static char *at(void **state, const char *name)
{
	return fm_xasprintf("%s/%s", (const char *)*state, name);
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

static void assert_cloexec(int fd)
{
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

static void create(const char *path, const char *text)
{
	struct fm_error err = FM_ERROR_INIT;

	assert_int_equal(fm_write_file_atomic(path, text, strlen(text), 0644, &err), 0);
}

static void test_full(void **state)
{
	struct fm_error err = FM_ERROR_INIT;
	char buf[8] = "";
	int p[2];

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	assert_int_equal(fm_write_full(p[1], "abcdef", 6, &err), 0);
	assert_int_equal(fm_read_full(p[0], buf, 4, &err), 0);
	assert_string_equal(buf, "abcd");
	assert_int_equal(fm_read_full(p[0], buf, 0, &err), 0);
	(void)close(p[1]);
	assert_int_equal(fm_read_full(p[0], buf, 4, &err), -1);
	assert_int_equal(err.code, FM_E_DATA_LOSS);
	assert_non_null(strstr(err.message, "2 of 4"));
	(void)close(p[0]);
	assert_int_equal(fm_read_full(-1, buf, 1, &err), -1);
	assert_int_equal(err.sys_errno, EBADF);
	assert_int_equal(fm_write_full(-1, buf, 1, &err), -1);
}

struct trickle {
	int fd;
	size_t n;
};

static void *trickle(void *arg)
{
	struct trickle *t = arg;

	for (size_t i = 0; i < t->n; i++) {
		char c = (char)('a' + i % 26);

		if (write(t->fd, &c, 1) != 1)
			break;
	}
	return NULL;
}

/* many short reads, and a writer that has to wait for the reader again and again */
static void test_full_in_pieces(void **state)
{
	struct fm_error err = FM_ERROR_INIT;
	struct trickle t = { .n = 1000 };
	pthread_t thread;
	char buf[1000];
	int p[2];

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	t.fd = p[1];
	assert_int_equal(pthread_create(&thread, NULL, trickle, &t), 0);
	assert_int_equal(fm_read_full(p[0], buf, sizeof(buf), &err), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	for (size_t i = 0; i < sizeof(buf); i++)
		assert_int_equal(buf[i], 'a' + i % 26);
	(void)close(p[0]);
	(void)close(p[1]);
}

static void test_full_timeout(void **state)
{
	struct timeval limit = { .tv_usec = 10000 };
	struct fm_error err = FM_ERROR_INIT;
	char c;
	int s[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
	assert_int_equal(setsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
	assert_int_equal(fm_read_full(s[0], &c, 1, &err), -1);
	assert_int_equal(err.code, FM_E_DEADLINE_EXCEEDED);
	(void)close(s[0]);
	(void)close(s[1]);
}

static void test_read_file(void **state)
{
	_fm_free_ char *path = at(state, "file"), *data = NULL, *proc = NULL;
	struct fm_error err = FM_ERROR_INIT;
	size_t len = 0;
	char *none = NULL;

	create(path, "hello");
	assert_int_equal(fm_read_file(path, 5, &data, &len, &err), 0);
	assert_string_equal(data, "hello");
	assert_int_equal(len, 5);
	assert_int_equal(fm_read_file(path, 4, &none, &len, &err), -1);
	assert_int_equal(err.code, FM_E_RESOURCE_EXHAUSTED);
	assert_int_equal(fm_read_file(path, 0, &none, &len, &err), -1);
	assert_int_equal(err.code, FM_E_RESOURCE_EXHAUSTED);
	assert_null(none);
	assert_int_equal(len, 5);
	assert_int_equal(fm_read_file("/proc/self/status", SIZE_MAX, &proc, NULL, &err), 0);
	assert_non_null(strstr(proc, "NSpid:"));
	assert_int_equal(fm_read_file("/no/such/file", 10, &none, NULL, &err), -1);
	assert_int_equal(err.code, FM_E_NOT_FOUND);
	assert_non_null(strstr(err.message, "/no/such/file"));
	assert_int_equal(fm_read_file("/tmp", 10, &none, NULL, &err), -1);
	assert_int_equal(err.sys_errno, EISDIR);
}

static void test_read_file_sizes(void **state)
{
	_fm_close_ int dirfd = open(*state, O_PATH | O_DIRECTORY | O_CLOEXEC);
	_fm_free_ char *path = at(state, "f"), *big = calloc(1, 20001);
	struct fm_error err = FM_ERROR_INIT;

	assert_non_null(big);
	memset(big, 'x', 20000);
	for (size_t n = 0; n <= 20000; n = n < 3 ? n + 1 : n * 3 - 1) {
		_fm_free_ char *data = NULL;
		size_t len = 99;

		assert_int_equal(fm_write_file_atomic(path, big, n, 0600, &err), 0);
		assert_int_equal(fm_read_file_at(dirfd, "f", n, &data, &len, &err), 0);
		assert_int_equal(len, n);
		assert_int_equal(strlen(data), n);
	}
}

static void test_write_file(void **state)
{
	_fm_free_ char *path = at(state, "knob"), *missing = at(state, "missing"), *data = NULL;
	struct fm_error err = FM_ERROR_INIT;

	create(path, "12345");
	assert_int_equal(fm_write_file(path, "99", &err), 0);
	assert_int_equal(fm_read_file(path, 100, &data, NULL, &err), 0);
	assert_string_equal(data, "99345"); /* no truncation: these files are knobs */
	assert_int_equal(fm_write_file(missing, "1", &err), -1);
	assert_int_equal(err.code, FM_E_NOT_FOUND);
	assert_false(fm_path_exists(missing));
	assert_int_equal(fm_write_file("/dev/full", "1", &err), -1);
	assert_int_equal(err.code, FM_E_RESOURCE_EXHAUSTED);
}

static size_t count_entries(const char *dir)
{
	_fm_closedir_ DIR *d = opendir(dir);
	size_t n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	return n - 2;
}

static void test_write_file_atomic(void **state)
{
	_fm_free_ char *path = at(state, "state.json"), *sub = at(state, "sub"), *missing = at(state, "no/file"), *slash = at(state, "");
	_fm_free_ char *data = NULL;
	struct fm_error err = FM_ERROR_INIT;
	mode_t mask = umask(077);
	struct stat st;

	create(path, "old");
	assert_int_equal(fm_write_file_atomic(path, "newer", 5, 0640, &err), 0);
	assert_int_equal(fm_read_file(path, 100, &data, NULL, &err), 0);
	assert_string_equal(data, "newer");
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
	assert_int_equal(mkdir(sub, 0700), 0);
	assert_int_equal(fm_write_file_atomic(sub, "x", 1, 0600, &err), -1); /* rename onto a directory */
	assert_int_equal(fm_write_file_atomic(missing, "x", 1, 0600, &err), -1);
	assert_int_equal(err.code, FM_E_NOT_FOUND);
	assert_int_equal(fm_write_file_atomic(slash, "x", 1, 0600, &err), -1);
	assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
	assert_int_equal(count_entries(*state), 2); /* no temporary file stays behind */
	(void)umask(mask);
}

/* names as long as a directory allows, and paths without a slash */
static void test_write_file_atomic_names(void **state)
{
	_fm_close_ int here = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct fm_error err = FM_ERROR_INIT;
	char name[256];

	assert_int_equal(chdir(*state), 0);
	memset(name, 'n', 255);
	name[255] = '\0';
	assert_int_equal(fm_write_file_atomic(name, "x", 1, 0600, &err), 0);
	assert_true(fm_path_exists(name));
	assert_int_equal(fm_write_file_atomic("a", "x", 1, 0600, &err), 0);
	assert_int_equal(count_entries("."), 2);
	assert_int_equal(fchdir(here), 0);
}

static void test_mkdir_p(void **state)
{
	_fm_free_ char *deep = at(state, "a/b//c/"), *file = at(state, "file"), *below = at(state, "file/x");
	_fm_free_ char *link = at(state, "l"), *via = at(state, "l/d");
	struct fm_error err = FM_ERROR_INIT;
	struct stat st;

	assert_int_equal(fm_mkdir_p(deep, 0700, &err), 0);
	assert_int_equal(stat(deep, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_int_equal(fm_mkdir_p(deep, 0700, &err), 0);
	assert_int_equal(fm_mkdir_p("/", 0700, &err), 0);
	assert_int_equal(fm_mkdir_p("/proc/self", 0700, &err), 0); /* a parent that refuses new entries */
	create(file, "");
	assert_int_equal(fm_mkdir_p(file, 0700, &err), -1);
	assert_int_equal(err.sys_errno, ENOTDIR);
	assert_int_equal(fm_mkdir_p(below, 0700, &err), -1);
	assert_int_equal(symlink(*state, link), 0);
	assert_int_equal(fm_mkdir_p(via, 0700, &err), 0);
	assert_int_equal(fm_mkdir_p("", 0700, &err), -1);
	assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
}

static void test_remove_tree(void **state)
{
	_fm_free_ char *root = at(state, "t"), *deep = at(state, "t/a/b"), *precious = at(state, "precious"),
	               *inner = at(state, "precious/f"), *link = at(state, "t/a/link"), *link_slash = at(state, "outer/"),
	               *outer = at(state, "outer"), *dangling = at(state, "t/dangling");
	struct fm_error err = FM_ERROR_INIT;
	int before = count_fds();

	assert_int_equal(fm_mkdir_p(deep, 0700, &err), 0);
	assert_int_equal(fm_mkdir_p(precious, 0700, &err), 0);
	create(inner, "keep");
	assert_int_equal(symlink(precious, link), 0);
	assert_int_equal(symlink(precious, outer), 0);
	assert_int_equal(symlink("/nowhere", dangling), 0);
	for (int i = 0; i < 3000; i++) {
		_fm_free_ char *path = fm_xasprintf("%s/f%d", deep, i);
		int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

		assert_true(fd >= 0);
		(void)close(fd);
	}
	assert_int_equal(fm_remove_tree(root, &err), 0);
	assert_false(fm_path_exists(root));
	assert_true(fm_path_exists(inner));
	assert_int_equal(fm_remove_tree(root, &err), 0);       /* missing is success */
	assert_int_equal(fm_remove_tree(link_slash, &err), 0); /* the link goes, not what it points to */
	assert_false(fm_path_exists(outer));
	assert_true(fm_path_exists(inner));
	assert_int_equal(fm_remove_tree(inner, &err), 0); /* a file */
	assert_false(fm_path_exists(inner));
	assert_int_equal(count_fds(), before);
}

static void test_remove_tree_refuses(void **state)
{
	static const char *const bad[] = { "", "/", "///", ".", "..", "./" };
	struct fm_error err = FM_ERROR_INIT;

	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++) {
		assert_int_equal(fm_remove_tree(bad[i], &err), -1);
		assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
	}
}

/* deeper than PATH_MAX, descriptors and, for a recursive walk, the stack allow; with files on the way */
static void test_remove_tree_deep(void **state)
{
	_fm_free_ char *root = at(state, "deep");
	struct fm_error err = FM_ERROR_INIT;
	int fd, next;

	assert_int_equal(mkdir(root, 0700), 0);
	fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (int i = 0; i < 5000; i++) {
		assert_int_equal(mkdirat(fd, "d", 0700), 0);
		if (i % 50 == 0) {
			next = openat(fd, "file", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
			assert_true(next >= 0);
			(void)close(next);
		}
		next = openat(fd, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		assert_true(next >= 0);
		(void)close(fd);
		fd = next;
	}
	(void)close(fd);
	assert_int_equal(fm_remove_tree(root, &err), 0);
	assert_false(fm_path_exists(root));
}

/* In a mount namespace of its own: a mount inside the tree, a bind mount (same device number), and a mounted file stop the removal. */
static int mounts_in_tree(const char *dir)
{
	_fm_free_ char *root = fm_xasprintf("%s/m", dir), *point = fm_xasprintf("%s/m/x/mnt", dir), *precious = fm_xasprintf("%s/p", dir),
	               *inner = fm_xasprintf("%s/p/f", dir), *file = fm_xasprintf("%s/m/x/file", dir);
	struct fm_error err = FM_ERROR_INIT;

	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return 77;
	if (fm_mkdir_p(point, 0700, NULL) < 0 || fm_mkdir_p(precious, 0700, NULL) < 0 ||
	    fm_write_file_atomic(inner, "x", 1, 0600, NULL) < 0)
		return 1;
	if (mount(precious, point, NULL, MS_BIND, NULL) < 0)
		return 2;
	if (fm_remove_tree(root, &err) == 0 || err.code != FM_E_FAILED_PRECONDITION || !fm_path_exists(inner))
		return 3;
	if (fm_remove_tree(point, &err) == 0 || err.code != FM_E_FAILED_PRECONDITION || !fm_path_exists(inner))
		return 4;
	if (umount(point) < 0 || fm_write_file_atomic(file, "y", 1, 0600, NULL) < 0 || mount(inner, file, NULL, MS_BIND, NULL) < 0)
		return 5;
	if (fm_remove_tree(root, &err) == 0 || err.code != FM_E_FAILED_PRECONDITION || !fm_path_exists(inner))
		return 6;
	if (umount(file) < 0 || fm_remove_tree(root, &err) < 0 || fm_path_exists(root))
		return 7;
	return 0;
}

static void test_remove_tree_mounts(void **state)
{
	int status = 0;
	pid_t pid;

	if (geteuid() != 0) {
		print_message("needs root for mounts\n");
		skip();
	}
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(mounts_in_tree(*state));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
		print_message("mount namespaces are not allowed here\n");
		skip();
	}
	assert_int_equal(status, 0);
}

static void test_path_exists(void **state)
{
	_fm_free_ char *link = at(state, "dangling");

	assert_true(fm_path_exists(*state));
	assert_false(fm_path_exists(link));
	assert_int_equal(symlink("/nowhere", link), 0);
	assert_true(fm_path_exists(link)); /* the link itself is there */
}

static void test_unix_listen(void **state)
{
	_fm_free_ char *path = at(state, "s");
	_fm_close_ int a = -1, b = -1, client = -1, served = -1;
	struct fm_error err = FM_ERROR_INIT;
	mode_t mask = umask(0077);
	struct stat st;
	char c = 0;

	assert_int_equal(fm_unix_listen(path, SOCK_STREAM, 0666, &a, &err), 0);
	(void)umask(mask);
	assert_cloexec(a);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0666);
	assert_int_equal(fm_unix_connect(path, SOCK_STREAM, &client, &err), 0);
	assert_cloexec(client);
	assert_int_equal(fm_accept(a, LONG_WAIT_MS, -1, &served, &err), 0);
	assert_cloexec(served);
	assert_int_equal(fm_write_full(client, "x", 1, &err), 0);
	assert_int_equal(fm_read_full(served, &c, 1, &err), 0);

	/* occupied, also for another type of socket */
	assert_int_equal(fm_unix_listen(path, SOCK_STREAM, 0600, &b, &err), -1);
	assert_int_equal(err.code, FM_E_ALREADY_EXISTS);
	assert_int_equal(fm_unix_listen(path, SOCK_SEQPACKET, 0600, &b, &err), -1);
	assert_int_equal(err.code, FM_E_ALREADY_EXISTS);
	assert_int_equal(b, -1);

	/* left over from a process that died */
	(void)close(FM_TAKE_FD(a));
	assert_true(fm_path_exists(path));
	assert_int_equal(fm_unix_listen(path, SOCK_SEQPACKET, 0600, &b, &err), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
}

static void test_unix_refusals(void **state)
{
	_fm_free_ char *path = at(state, "file"), *missing = at(state, "missing"), *dir = at(state, "");
	struct fm_error err = FM_ERROR_INIT;
	int fd = -1;

	create(path, "precious");
	assert_int_equal(fm_unix_listen(path, SOCK_STREAM, 0600, &fd, &err), -1);
	assert_int_equal(err.code, FM_E_ALREADY_EXISTS);
	assert_true(fm_path_exists(path));
	assert_int_equal(fm_unix_connect(missing, SOCK_STREAM, &fd, &err), -1);
	assert_int_equal(err.code, FM_E_NOT_FOUND);
	assert_string_not_equal(err.hint, "");
	assert_int_equal(fm_unix_connect(path, SOCK_STREAM, &fd, &err), -1);
	assert_int_equal(err.code, FM_E_UNAVAILABLE);
	assert_int_equal(fm_unix_listen(dir, SOCK_STREAM, 0600, &fd, &err), -1);
	assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
	assert_int_equal(fm_unix_listen("", SOCK_STREAM, 0600, &fd, &err), -1);
	assert_int_equal(fd, -1);
}

static void test_unix_long_path(void **state)
{
	_fm_free_ char *dir = fm_xasprintf("%s/%0120d/%0120d", (char *)*state, 1, 2), *path = fm_xasprintf("%s/agent.sock", dir),
	               *name = fm_xasprintf("%s/%0200d", dir, 3);
	_fm_close_ int a = -1, b = -1, client = -1;
	struct fm_error err = FM_ERROR_INIT;
	int before, none = -1;

	assert_int_equal(fm_mkdir_p(dir, 0700, &err), 0);
	before = count_fds();
	assert_int_equal(fm_unix_listen(path, SOCK_SEQPACKET, 0600, &a, &err), 0);
	assert_int_equal(fm_unix_connect(path, SOCK_SEQPACKET, &client, &err), 0);
	assert_int_equal(count_fds(), before + 2);
	assert_int_equal(fm_unix_listen(path, SOCK_SEQPACKET, 0600, &none, &err), -1);
	assert_int_equal(err.code, FM_E_ALREADY_EXISTS);
	(void)close(FM_TAKE_FD(a));
	assert_int_equal(fm_unix_listen(path, SOCK_SEQPACKET, 0600, &b, &err), 0); /* stale here too */
	assert_int_equal(fm_unix_listen(name, SOCK_SEQPACKET, 0600, &none, &err), -1);
	assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
}

static void tcp_round_trip(const char *listen_on, const char *connect_format)
{
	_fm_close_ int listener = -1, client = -1, served = -1;
	struct fm_error err = FM_ERROR_INIT;
	_fm_free_ char *address = NULL;
	uint16_t port = 0;
	char c = 0;

	if (fm_tcp_listen(listen_on, 5, &listener, &err) < 0) {
		if (strchr(listen_on, '[')) {
			print_message("no IPv6 here: %s\n", err.message);
			skip();
		}
		fail_msg("%s", err.message);
	}
	assert_cloexec(listener);
	assert_int_equal(fm_tcp_local_port(listener, &port, &err), 0);
	assert_int_not_equal(port, 0);
	address = strchr(connect_format, '[') ? fm_xasprintf("[::1]:%u", port) : fm_xasprintf("127.0.0.1:%u", port);
	assert_int_equal(fm_tcp_connect(address, LONG_WAIT_MS, &client, &err), 0);
	assert_cloexec(client);
	assert_false(fcntl(client, F_GETFL) & O_NONBLOCK);
	assert_int_equal(fm_accept(listener, LONG_WAIT_MS, -1, &served, &err), 0);
	assert_cloexec(served);
	assert_false(fcntl(served, F_GETFL) & O_NONBLOCK);
	assert_int_equal(fm_write_full(served, "x", 1, &err), 0);
	assert_int_equal(fm_read_full(client, &c, 1, &err), 0);
	assert_int_equal(c, 'x');
}

static void test_tcp(void **state)
{
	tcp_round_trip("127.0.0.1:0", "127.0.0.1:%u");
	tcp_round_trip("localhost:0", "127.0.0.1:%u");
	tcp_round_trip(":0", "127.0.0.1:%u");
	tcp_round_trip("*:0", "127.0.0.1:%u");
}

static void test_tcp_v6(void **state)
{
	tcp_round_trip("[::1]:0", "[::1]:%u");
}

static void test_tcp_refusals(void **state)
{
	static const char *const bad[] = { "",        "host",   ":",     "host:",    "host:x", "host:65536",
		                           "host:-1", "::1:80", "[::1]", "host:80x", ":80",    "*:80" };
	_fm_free_ char *address = NULL;
	struct fm_error err = FM_ERROR_INIT;
	uint16_t port = 0;
	int fd = -1, listener = -1, s[2];

	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++) {
		assert_int_equal(fm_tcp_connect(bad[i], 1000, &fd, &err), -1);
		assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
	}
	assert_int_equal(fm_tcp_listen("127.0.0.1:0", 5, &listener, &err), 0);
	assert_int_equal(fm_tcp_local_port(listener, &port, &err), 0);
	address = fm_xasprintf("127.0.0.1:%u", port);
	assert_int_equal(fm_tcp_listen(address, 5, &fd, &err), -1);
	assert_int_equal(err.code, FM_E_ALREADY_EXISTS);
	(void)close(listener);
	assert_int_equal(fm_tcp_connect(address, LONG_WAIT_MS, &fd, &err), -1);
	assert_int_equal(err.code, FM_E_UNAVAILABLE);
	assert_string_not_equal(err.hint, "");
	assert_int_equal(fd, -1);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
	assert_int_equal(fm_tcp_local_port(s[0], &port, &err), -1);
	(void)close(s[0]);
	(void)close(s[1]);
}

static void test_accept_deadline_and_cancel(void **state)
{
	_fm_close_ int listener = -1, cancel = eventfd(0, EFD_CLOEXEC);
	struct fm_error err = FM_ERROR_INIT;
	int fd = -1;

	assert_int_equal(fm_tcp_listen("127.0.0.1:0", 5, &listener, &err), 0);
	assert_int_equal(fm_accept(listener, 5, cancel, &fd, &err), -1);
	assert_int_equal(err.code, FM_E_DEADLINE_EXCEEDED);
	assert_int_equal(eventfd_write(cancel, 1), 0);
	assert_int_equal(fm_accept(listener, -1, cancel, &fd, &err), -1);
	assert_int_equal(err.code, FM_E_CANCELLED);
	assert_int_equal(fm_accept(-1, 5, -1, &fd, &err), -1);
	assert_int_equal(fd, -1);
}

static void test_wait_fd(void **state)
{
	struct fm_error err = FM_ERROR_INIT;
	int p[2];

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	assert_int_equal(fm_wait_fd(p[0], POLLIN, 0, &err), 0);
	assert_int_equal(fm_wait_fd(p[1], POLLOUT, -1, &err), 1);
	(void)close(p[1]);
	assert_int_equal(fm_wait_fd(p[0], POLLIN, -1, &err), 1); /* the end of a stream is something to read */
	(void)close(p[0]);
	assert_int_equal(fm_wait_fd(p[0], POLLIN, 0, &err), -1);
	assert_int_equal(err.sys_errno, EBADF);
}

static void on_alarm(int sig)
{
}

/* signals must not end or prolong a wait */
static void test_wait_fd_interrupted(void **state)
{
	struct itimerval often = { { 0, 1000 }, { 0, 1000 } }, never = { 0 };
	struct sigaction sa = { .sa_handler = on_alarm }, before;
	struct fm_error err = FM_ERROR_INIT;
	int p[2];

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	assert_int_equal(sigaction(SIGALRM, &sa, &before), 0);
	assert_int_equal(setitimer(ITIMER_REAL, &often, NULL), 0);
	assert_int_equal(fm_wait_fd(p[0], POLLIN, 20, &err), 0);
	assert_int_equal(setitimer(ITIMER_REAL, &never, NULL), 0);
	assert_int_equal(sigaction(SIGALRM, &before, NULL), 0);
	(void)close(p[0]);
	(void)close(p[1]);
}

static void test_nonblocking(void **state)
{
	struct fm_error err = FM_ERROR_INIT;
	int p[2];

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	assert_int_equal(fm_set_nonblocking(p[0], true, &err), 0);
	assert_true(fcntl(p[0], F_GETFL) & O_NONBLOCK);
	assert_int_equal(fm_set_nonblocking(p[0], false, &err), 0);
	assert_false(fcntl(p[0], F_GETFL) & O_NONBLOCK);
	(void)close(p[0]);
	(void)close(p[1]);
	assert_int_equal(fm_set_nonblocking(p[0], true, &err), -1);
}

static void test_fds(void **state)
{
	int before = count_fds(), s[2], p[2], got[16], send[17];
	struct fm_error err = FM_ERROR_INIT;
	size_t len = 0, n = 16;
	char buf[16] = "";

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0);
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	assert_int_equal(fm_send_with_fds(s[0], "hi", 2, &p[1], 1, &err), 0);
	assert_int_equal(fm_recv_with_fds(s[1], buf, sizeof(buf), &len, got, &n, &err), 0);
	assert_int_equal(len, 2);
	assert_int_equal(n, 1);
	assert_cloexec(got[0]);
	assert_int_equal(fm_write_full(got[0], "z", 1, &err), 0);
	assert_int_equal(fm_read_full(p[0], buf, 1, &err), 0);
	(void)close(got[0]);

	for (size_t i = 0; i < 17; i++)
		send[i] = p[0];
	n = 16;
	assert_int_equal(fm_send_with_fds(s[0], "x", 1, send, 16, &err), 0);
	assert_int_equal(fm_recv_with_fds(s[1], buf, sizeof(buf), &len, got, &n, &err), 0);
	assert_int_equal(n, 16);
	for (size_t i = 0; i < n; i++)
		(void)close(got[i]);
	assert_int_equal(fm_send_with_fds(s[0], "x", 1, send, 17, &err), -1);
	assert_int_equal(fm_send_with_fds(s[0], "", 0, send, 1, &err), -1);

	assert_int_equal(fm_send_with_fds(s[0], "plain", 5, NULL, 0, &err), 0);
	assert_int_equal(fm_recv_with_fds(s[1], buf, sizeof(buf), &len, NULL, NULL, &err), 0);
	assert_int_equal(len, 5);
	(void)close(s[0]);
	assert_int_equal(fm_recv_with_fds(s[1], buf, sizeof(buf), &len, NULL, NULL, &err), 0);
	assert_int_equal(len, 0);
	(void)close(s[1]);
	(void)close(p[0]);
	(void)close(p[1]);
	assert_int_equal(count_fds(), before);
}

/* an outsider sends more descriptors, or a longer message, than expected: refused, and nothing leaks */
static void test_fds_hostile(void **state)
{
	int before = count_fds(), s[2], got[2], send[10] = { 0, 1, 2, 0, 1, 2, 0, 1, 2, 0 };
	struct fm_error err = FM_ERROR_INIT;
	size_t len = 99, n = 2;
	char buf[4];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0);
	assert_int_equal(fm_send_with_fds(s[0], "x", 1, send, 10, &err), 0);
	assert_int_equal(fm_recv_with_fds(s[1], buf, sizeof(buf), &len, got, &n, &err), -1);
	assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
	assert_int_equal(fm_send_with_fds(s[0], "x", 1, send, 1, &err), 0);
	assert_int_equal(fm_recv_with_fds(s[1], buf, sizeof(buf), &len, NULL, NULL, &err), -1);
	assert_int_equal(fm_send_with_fds(s[0], "12345", 5, send, 2, &err), 0);
	assert_int_equal(fm_recv_with_fds(s[1], buf, sizeof(buf), &len, got, &n, &err), -1);
	assert_int_equal(err.code, FM_E_DATA_LOSS);
	assert_int_equal(len, 99);
	assert_int_equal(n, 2);
	assert_int_equal(count_fds(), before + 2);
	(void)close(s[0]);
	(void)close(s[1]);
}

/* more than one control buffer of ours can hold: the kernel cuts, we close what came */
static void test_fds_too_many_for_buffer(void **state)
{
	union {
		char space[CMSG_SPACE(100 * sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { .iov_base = (char[]){ 'x' }, .iov_len = 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof(control.space) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	struct fm_error err = FM_ERROR_INIT;
	int before = count_fds(), s[2], got[16];
	size_t len = 0, n = 16;
	char buf[4];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(100 * sizeof(int));
	memset(CMSG_DATA(c), 0, 100 * sizeof(int)); /* a hundred times descriptor 0 */
	assert_int_equal(sendmsg(s[0], &m, 0), 1);
	assert_int_equal(fm_recv_with_fds(s[1], buf, sizeof(buf), &len, got, &n, &err), -1);
	assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
	assert_int_equal(count_fds(), before + 2);
	(void)close(s[0]);
	(void)close(s[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_full_in_pieces),
		cmocka_unit_test(test_full_timeout),
		cmocka_unit_test_setup_teardown(test_read_file, setup, teardown),
		cmocka_unit_test_setup_teardown(test_read_file_sizes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_write_file, setup, teardown),
		cmocka_unit_test_setup_teardown(test_write_file_atomic, setup, teardown),
		cmocka_unit_test_setup_teardown(test_write_file_atomic_names, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mkdir_p, setup, teardown),
		cmocka_unit_test_setup_teardown(test_remove_tree, setup, teardown),
		cmocka_unit_test(test_remove_tree_refuses),
		cmocka_unit_test_setup_teardown(test_remove_tree_deep, setup, teardown),
		cmocka_unit_test_setup_teardown(test_remove_tree_mounts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_path_exists, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unix_listen, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unix_refusals, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unix_long_path, setup, teardown),
		cmocka_unit_test(test_tcp),
		cmocka_unit_test(test_tcp_v6),
		cmocka_unit_test(test_tcp_refusals),
		cmocka_unit_test(test_accept_deadline_and_cancel),
		cmocka_unit_test(test_wait_fd),
		cmocka_unit_test(test_wait_fd_interrupted),
		cmocka_unit_test(test_nonblocking),
		cmocka_unit_test(test_fds),
		cmocka_unit_test(test_fds_hostile),
		cmocka_unit_test(test_fds_too_many_for_buffer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
