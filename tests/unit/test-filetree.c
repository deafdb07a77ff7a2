/* SPDX-License-Identifier: MIT */
/*
 * test-filetree.c - real trees over a socket pair, pass after pass, compared attribute by attribute; and hostile senders.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above */
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "collision.h"
#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "sync/filetree-internal.h"
#include "sync/filetree.h"
#include "sync/stream-internal.h"

#define WAIT_MS 30000
#define GIB     (1ull << 30)

struct fixture {
	char *dir, *from, *to;
	int from_fd, to_fd;
	struct fm_stream *a, *b;
};

static bool is_root(void)
{
	return geteuid() == 0;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int sv[2];

	umask(022);
	f->dir = fm_xstrdup("/tmp/fm-test-filetree-XXXXXX");
	if (!mkdtemp(f->dir) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
		return -1;
	f->from = fm_xasprintf("%s/from", f->dir);
	f->to = fm_xasprintf("%s/to", f->dir);
	if (mkdir(f->from, 0755) < 0 || mkdir(f->to, 0700) < 0)
		return -1;
	f->from_fd = open(f->from, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	f->to_fd = open(f->to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = f;
	if (fm_stream_from_fd(sv[0], &f->a, NULL) < 0 || fm_stream_from_fd(sv[1], &f->b, NULL) < 0)
		return -1;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fm_stream_free(f->a);
	fm_stream_free(f->b);
	close(f->from_fd);
	close(f->to_fd);
	(void)umount2(f->from, MNT_DETACH); /* a test that failed half way may have left an overlay on it */
	int r = fm_remove_tree(f->dir, NULL);
	free(f->dir);
	free(f->from);
	free(f->to);
	free(f);
	return r;
}

/* making trees */

static void put(int dirfd, const char *path, const char *text)
{
	int fd = openat(dirfd, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_sys(fd);
	assert_ok(fm_write_full(fd, text, strlen(text), &err));
	close(fd);
}

static void put_bytes(int dirfd, const char *path, size_t n, uint32_t seed)
{
	uint8_t *p = malloc(n);
	for (size_t i = 0; i < n; i++) {
		seed = seed * 1664525u + 1013904223u;
		p[i] = (uint8_t)(seed >> 24);
	}
	int fd = openat(dirfd, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_sys(fd);
	assert_ok(fm_write_full(fd, p, n, &err));
	close(fd);
	free(p);
}

static void write_at(int dirfd, const char *path, off_t offset, const char *text)
{
	int fd = openat(dirfd, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	assert_sys(fd);
	assert_int_equal(strlen(text), pwrite(fd, text, strlen(text), offset));
	close(fd);
}

static void set_size(int dirfd, const char *path, off_t size)
{
	int fd = openat(dirfd, path, O_WRONLY | O_CLOEXEC);
	assert_sys(fd);
	assert_sys(ftruncate(fd, size));
	close(fd);
}

static void set_times(int dirfd, const char *path, time_t s, long ns)
{
	struct timespec t[2] = { { s, ns }, { s, ns } };
	assert_sys(utimensat(dirfd, path, t, AT_SYMLINK_NOFOLLOW));
}

static void set_xattr(int dirfd, const char *path, const char *name, const void *value, size_t n)
{
	int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
	assert_sys(fd);
	assert_sys(fsetxattr(fd, name, value, n, 0));
	close(fd);
}

static bool has_user_xattrs(int dirfd)
{
	bool yes = fsetxattr(dirfd, "user.fmtest", "x", 1, 0) == 0;
	if (yes)
		(void)fremovexattr(dirfd, "user.fmtest");
	return yes;
}

/* A moment that the filesystem's clock can tell from the last one */
static void next_tick(void)
{
	struct timespec a, b;

	clock_gettime(CLOCK_REALTIME_COARSE, &a);
	do {
		fm_pause_ms(1);
		clock_gettime(CLOCK_REALTIME_COARSE, &b);
	} while (b.tv_sec == a.tv_sec && b.tv_nsec == a.tv_nsec);
}

/* comparing trees */

static void compare_xattrs(int a, int b, const char *path)
{
	char names_a[4096], names_b[4096], value_a[4096], value_b[4096];
	ssize_t n = flistxattr(a, names_a, sizeof(names_a)), m = flistxattr(b, names_b, sizeof(names_b));

	if (n != m)
		fail_msg("'%s': other extended attributes", path);
	for (const char *p = names_a; n > 0 && p < names_a + n; p += strlen(p) + 1) {
		ssize_t x = fgetxattr(a, p, value_a, sizeof(value_a)), y = fgetxattr(b, p, value_b, sizeof(value_b));
		if (x != y || memcmp(value_a, value_b, (size_t)x) != 0)
			fail_msg("'%s': attribute %s differs", path, p);
	}
}

static void compare_content(int a, int b, const struct stat *st, const struct stat *got, const char *path)
{
	size_t chunk = 1 << 20;
	_fm_free_ uint8_t *x = malloc(chunk);
	_fm_free_ uint8_t *y = malloc(chunk);

	for (off_t at = 0; at < st->st_size;) {
		ssize_t n = pread(a, x, chunk, at), m = pread(b, y, chunk, at);
		if (n <= 0 || n != m || memcmp(x, y, (size_t)n) != 0)
			fail_msg("'%s' differs after %lld", path, (long long)at);
		at += n;
	}
	if (st->st_size > (1 << 20) && st->st_blocks < st->st_size / 1024 && got->st_blocks > st->st_blocks + 64)
		fail_msg("'%s' lost its holes: %lld blocks instead of %lld", path, (long long)got->st_blocks, (long long)st->st_blocks);
}

static void compare_folder(int a, int b, const char *path, unsigned *count);

static void compare_one(int a, int b, const char *name, const char *path, unsigned *count)
{
	struct stat x, y;
	char tx[4096] = "", ty[4096] = "";

	assert_sys(fstatat(a, name, &x, AT_SYMLINK_NOFOLLOW));
	if (S_ISSOCK(x.st_mode)) {
		assert_int_equal(-1, fstatat(b, name, &y, AT_SYMLINK_NOFOLLOW));
		return;
	}
	++*count;
	if (fstatat(b, name, &y, AT_SYMLINK_NOFOLLOW) < 0)
		fail_msg("'%s' is missing", path);
	if (x.st_mode != y.st_mode || x.st_uid != y.st_uid || x.st_gid != y.st_gid ||
	    (!S_ISDIR(x.st_mode) && (x.st_size != y.st_size || x.st_nlink != y.st_nlink)) || x.st_rdev != y.st_rdev)
		fail_msg("'%s': mode %o/%o owner %u:%u/%u:%u size %lld/%lld links %d/%d", path, x.st_mode, y.st_mode, x.st_uid, x.st_gid,
		         y.st_uid, y.st_gid, (long long)x.st_size, (long long)y.st_size, (int)x.st_nlink, (int)y.st_nlink);
	if (x.st_mtim.tv_sec != y.st_mtim.tv_sec || x.st_mtim.tv_nsec != y.st_mtim.tv_nsec)
		fail_msg("'%s': mtime %lld.%09ld instead of %lld.%09ld", path, (long long)y.st_mtim.tv_sec, y.st_mtim.tv_nsec,
		         (long long)x.st_mtim.tv_sec, x.st_mtim.tv_nsec);
	if (S_ISLNK(x.st_mode)) {
		assert_true(readlinkat(a, name, tx, sizeof(tx) - 1) > 0);
		assert_true(readlinkat(b, name, ty, sizeof(ty) - 1) > 0);
		assert_string_equal(tx, ty);
	}
	if (!S_ISREG(x.st_mode) && !S_ISDIR(x.st_mode))
		return;
	_fm_close_ int fa = openat(a, name, O_RDONLY | O_CLOEXEC);
	_fm_close_ int fb = openat(b, name, O_RDONLY | O_CLOEXEC);
	if (fa < 0 && errno == EACCES)
		return;
	assert_true(fa >= 0 && fb >= 0);
	compare_xattrs(fa, fb, path);
	if (S_ISREG(x.st_mode))
		compare_content(fa, fb, &x, &y, path);
	else
		compare_folder(fa, fb, path, count);
}

static unsigned names_in(int fd, bool sockets)
{
	_fm_closedir_ DIR *d = fdopendir(openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	unsigned n = 0;
	for (const struct dirent *e; (e = readdir(d));)
		n += sockets || e->d_type != DT_SOCK;
	return n;
}

static void compare_folder(int a, int b, const char *path, unsigned *count)
{
	_fm_closedir_ DIR *d = fdopendir(openat(a, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));

	assert_non_null(d);
	for (const struct dirent *e; (e = readdir(d));) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		_fm_free_ char *sub = fm_xasprintf("%s/%s", path, e->d_name);
		compare_one(a, b, e->d_name, sub, count);
	}
	if (names_in(a, false) != names_in(b, true))
		fail_msg("'%s' holds something that should not be there", path);
}

static unsigned compare_trees(struct fixture *f)
{
	unsigned count = 0;
	compare_one(f->from_fd, f->to_fd, ".", ".", &count);
	return count;
}

/* passes */

struct sending {
	struct fixture *f;
	char *const *exclude;
	const struct fm_manifest *previous;
	struct fm_manifest *manifest;
	unsigned pass, racy_ms;
	bool last;
	int cancel_fd;
	uint64_t bytes, us;
	int result;
	struct fm_error err;
};

static void *send_pass(void *arg)
{
	struct sending *s = arg;
	uint64_t start = fm_now_us();

	s->result = fm_filetree_send_racy(s->f->a, s->f->from, s->exclude, s->previous, s->pass, s->racy_ms, s->last ? NULL : &s->manifest,
	                                  &s->bytes, WAIT_MS, s->cancel_fd, &s->err);
	s->us = fm_now_us() - start;
	return NULL;
}

/* One pass with its receiver; returns the new manifest (NULL when last). */
static struct fm_manifest *run_pass(struct fixture *f, const struct fm_manifest *previous, unsigned pass, struct sending *ret)
{
	struct sending s = { .f = f,
		             .previous = previous,
		             .pass = pass,
		             .cancel_fd = -1,
		             .last = ret && ret->last,
		             .racy_ms = ret ? ret->racy_ms : 0,
		             .exclude = ret ? ret->exclude : NULL };
	struct fm_frame_header h;
	pthread_t t;

	pthread_create(&t, NULL, send_pass, &s);
	assert_ok(fm_filetree_recv(f->b, f->to, 0, 4 * GIB, WAIT_MS, -1, &err));
	pthread_join(t, NULL);
	if (s.result < 0)
		fail_msg("sending: %s", s.err.message);
	assert_ok(fm_stream_expect(f->a, FM_FRAME_FILES_OK, &h, NULL, 0, WAIT_MS, -1, &err));
	assert_int_equal(pass, h.a);
	if (ret)
		*ret = s;
	return s.manifest;
}

/* Two passes with `change` in between, compared after each */
static void change_and_compare(struct fixture *f, void (*change)(struct fixture *f))
{
	struct fm_manifest *one = run_pass(f, NULL, 1, NULL), *two;
	compare_trees(f);
	next_tick();
	change(f);
	two = run_pass(f, one, 2, NULL);
	compare_trees(f);
	struct sending s = { 0 };
	struct fm_manifest *three = run_pass(f, two, 3, &s);
	assert_int_equal(FM_FRAME_HEADER_BYTES, s.bytes); /* nothing but FILES_END */
	assert_int_equal(fm_manifest_entries(two), fm_manifest_entries(three));
	fm_manifest_free(one);
	fm_manifest_free(two);
	fm_manifest_free(three);
}

static void make_sample(struct fixture *f)
{
	static const uint8_t cap[20] = {
		1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
	}; /* cap_net_bind_service=ep, revision 2 */
	int d = f->from_fd;
	char long_name[256];

	assert_sys(mkdirat(d, "etc", 0755));
	assert_sys(mkdirat(d, "etc/deep", 0700));
	assert_sys(mkdirat(d, "etc/deep/er", 0755));
	assert_sys(mkdirat(d, "tmp", 0755));
	assert_sys(fchmodat(d, "tmp", 01777, 0));
	assert_sys(mkdirat(d, "empty", 0555));
	put(d, "etc/hosts", "127.0.0.1 localhost\n");
	put(d, "etc/deep/er/file with spaces\n and a line", "x");
	put(d, "etc/\xff\xfe not utf-8", "y");
	put(d, "empty-file", "");
	put_bytes(d, "one-megabyte", (1 << 20) + 7, 1);
	memset(long_name, 'n', 255);
	long_name[255] = 0;
	put(d, long_name, "long");
	put(d, "suid", "#!/bin/sh\n");
	put(d, "secret", "s");
	put(d, "old", "before the epoch");
	set_times(d, "old", -1234567, 999999999);
	put(d, "far", "in 2400");
	set_times(d, "far", 13569465600, 1);
	write_at(d, "sparse", 0, "head");
	write_at(d, "sparse", 50 << 20, "middle");
	set_size(d, "sparse", 100 << 20);
	write_at(d, "all-hole", 0, "");
	set_size(d, "all-hole", 10 << 20);
	write_at(d, "hole-first", 20 << 20, "end");
	assert_sys(symlinkat("etc/hosts", d, "link"));
	assert_sys(symlinkat("/nonexistent/../absolute", d, "dangling"));
	set_times(d, "dangling", 1000000000, 123456789);
	assert_sys(mkfifoat(d, "fifo", 0640));
	assert_sys(linkat(d, "etc/hosts", d, "etc/deep/hosts2", 0));
	assert_sys(linkat(d, "etc/hosts", d, "hosts3", 0));
	assert_sys(linkat(d, "fifo", d, "etc/fifo2", 0));
	assert_sys(linkat(d, "dangling", d, "etc/dangling2", 0));
	if (has_user_xattrs(d)) {
		set_xattr(d, "etc/hosts", "user.comment", "a value", 7);
		set_xattr(d, "etc/hosts", "user.empty", "", 0);
		set_xattr(d, "etc", "user.on-a-folder", "f", 1);
	}
	if (is_root()) {
		assert_sys(mknodat(d, "null", S_IFCHR | 0666, makedev(1, 3)));
		assert_sys(mknodat(d, "block", S_IFBLK | 0600, makedev(7, 200)));
		assert_sys(fchownat(d, "suid", 1234, 5678, 0));
		assert_sys(fchownat(d, "link", 1234, 5678, AT_SYMLINK_NOFOLLOW));
		assert_sys(fchownat(d, "etc/deep", 4321, 8765, 0));
		assert_sys(fchownat(d, "fifo", 3, 4, 0));
		set_xattr(d, "one-megabyte", "security.capability", cap, sizeof(cap));
		assert_sys(fchmodat(d, "secret", 0, 0));
	}
	assert_sys(fchmodat(d, "suid", 06755, 0));
	assert_sys(fchmodat(d, "etc/deep/er", 02750, 0));
	set_times(d, "etc", 1111111111, 222222222);
	set_times(d, "empty", 7, 8);
	set_times(d, ".", 1234567890, 987654321);
}

static void make_socket(struct fixture *f)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%.80s/socket", f->from);
	assert_sys(bind(s, (struct sockaddr *)&a, sizeof(a)));
	close(s);
}

static void test_everything(void **state)
{
	struct fixture *f = *state;

	if (!is_root())
		print_message("    not root: without device nodes, owners and capabilities\n");
	make_sample(f);
	make_socket(f);
	struct fm_manifest *m = run_pass(f, NULL, 1, NULL);
	unsigned n = compare_trees(f);
	assert_int_equal(n, fm_manifest_entries(m));
	assert_true(n > 25);
	fm_manifest_free(m);
}

static void test_acl(void **state)
{
	struct fixture *f = *state;
	/* user::rwx user:1234:rwx group::r-x mask::rwx other::r-x, as the kernel stores it */
	static const uint8_t acl[] = { 2, 0,    0,    0,    1,    0,    7,    0, 0xff, 0xff, 0xff, 0xff, 2,    0,    7,
		                       0, 0xd2, 4,    0,    0,    4,    0,    5, 0,    0xff, 0xff, 0xff, 0xff, 0x10, 0,
		                       7, 0,    0xff, 0xff, 0xff, 0xff, 0x20, 0, 5,    0,    0xff, 0xff, 0xff, 0xff };

	assert_sys(mkdirat(f->from_fd, "folder", 0755));
	put(f->from_fd, "folder/before", "has no list");
	int fd = openat(f->from_fd, "folder", O_RDONLY | O_CLOEXEC);
	if (fsetxattr(fd, "system.posix_acl_default", acl, sizeof(acl), 0) < 0) {
		close(fd);
		print_message("    no access control lists here: %s\n", strerror(errno));
		skip();
	}
	close(fd);
	put(f->from_fd, "folder/after", "inherits");
	assert_sys(mkdirat(f->from_fd, "folder/sub", 0755));
	fm_manifest_free(run_pass(f, NULL, 1, NULL));
	compare_trees(f);
}

/* changes between passes */

static void change_nothing(struct fixture *f)
{
	(void)f;
}

static void change_files(struct fixture *f)
{
	int d = f->from_fd;
	struct stat st;

	/* same size, and the mtime put back: only ctime tells */
	assert_sys(fstatat(d, "one-megabyte", &st, 0));
	write_at(d, "one-megabyte", 1000, "changed");
	set_times(d, "one-megabyte", st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
	assert_sys(fchmodat(d, "suid", 0711, 0));
	put(d, "empty-file", "no longer empty");
	put(d, "secret", "");
	write_at(d, "sparse", 70 << 20, "more");
	write_at(d, "etc/deep/er/file with spaces\n and a line", 0,
	         "in place: the folder's mtime does not change, and must not at the receiver");
	assert_sys(unlinkat(d, "link", 0));
	assert_sys(symlinkat("elsewhere", d, "link"));
	assert_sys(unlinkat(d, "old", 0));
	put(d, "new", "file");
	set_times(d, "far", 5, 5);
	if (has_user_xattrs(d)) {
		int fd = openat(d, "etc/hosts", O_RDONLY | O_CLOEXEC);
		assert_sys(fremovexattr(fd, "user.comment"));
		close(fd);
		fd = openat(d, "etc", O_RDONLY | O_CLOEXEC);
		assert_sys(fremovexattr(fd, "user.on-a-folder"));
		assert_sys(fsetxattr(fd, "user.another", "z", 1, 0));
		close(fd);
	}
	if (is_root())
		assert_sys(fchownat(d, "etc/deep", 1, 1, 0));
}

static void change_kinds(struct fixture *f)
{
	int d = f->from_fd;

	/* folder -> file, file -> folder, file -> link, link -> file, fifo -> socket, a whole folder away, another renamed */
	assert_sys(unlinkat(d, "empty", AT_REMOVEDIR));
	put(d, "empty", "was a folder");
	assert_sys(unlinkat(d, "suid", 0));
	assert_sys(mkdirat(d, "suid", 0755));
	put(d, "suid/inside", "was a file");
	assert_sys(unlinkat(d, "old", 0));
	assert_sys(symlinkat("/etc", d, "old"));
	assert_sys(unlinkat(d, "link", 0));
	put(d, "link", "was a link");
	_fm_free_ char *gone = fm_xasprintf("%s/tmp", f->from);
	assert_ok(fm_remove_tree(gone, &err));
	assert_sys(renameat(d, "etc/deep", d, "moved"));
	assert_sys(unlinkat(d, "fifo", 0));
	make_socket(f);
}

static void change_links(struct fixture *f)
{
	int d = f->from_fd;

	/* etc/hosts, etc/deep/hosts2 and hosts3 are one inode: its content changes, one name goes its own way, another appears */
	write_at(d, "hosts3", 0, "192.0.2.1");
	put(d, "replacement", "a file of its own");
	assert_sys(renameat(d, "replacement", d, "etc/deep/hosts2"));
	assert_sys(linkat(d, "etc/hosts", d, "etc/deep/er/hosts4", 0));
	assert_sys(linkat(d, "one-megabyte", d, "aaa", 0));
	assert_sys(unlinkat(d, "etc/fifo2", 0));
}

static void test_unchanged(void **state)
{
	make_sample(*state);
	change_and_compare(*state, change_nothing);
}

static void test_changed_files(void **state)
{
	make_sample(*state);
	change_and_compare(*state, change_files);
}

static void test_changed_kinds(void **state)
{
	make_sample(*state);
	change_and_compare(*state, change_kinds);
}

static void test_changed_links(void **state)
{
	make_sample(*state);
	change_and_compare(*state, change_links);
}

/* Names of one inode must stay together even where their manifest entries disagree, as when the inode changed between two looks of one walk. */
static void test_links_disagree(void **state)
{
	struct fixture *f = *state;

	put(f->from_fd, "a", "one");
	assert_sys(linkat(f->from_fd, "a", f->from_fd, "b", 0));
	assert_sys(mkdirat(f->from_fd, "c", 0755));
	assert_sys(linkat(f->from_fd, "a", f->from_fd, "c/d", 0));
	for (uint32_t forged = 1; forged <= 3; forged++) { /* each of the three in turn, whatever the order of the walk */
		struct fm_manifest *m = run_pass(f, NULL, 1, NULL);
		uint32_t seen = 0;
		for (uint32_t i = 0; i < m->n; i++) {
			if (S_ISREG(m->entries[i].mode) && ++seen == forged)
				m->entries[i].ctime_ns ^= 1;
		}
		fm_manifest_free(run_pass(f, m, 2, NULL));
		compare_trees(f);
		fm_manifest_free(m);
	}
}

/* What changed a moment ago is sent again, because its next change might look the same. */
static void test_racily_clean(void **state)
{
	struct fixture *f = *state;
	struct sending s = { .racy_ms = FM_TREE_RACY_MS };

	put(f->from_fd, "fresh", "contents");
	struct fm_manifest *one = run_pass(f, NULL, 1, &s);
	struct sending s2 = { .racy_ms = 0 };
	struct fm_manifest *two = run_pass(f, one, 2, &s2);
	assert_true(s2.bytes > FM_FRAME_HEADER_BYTES + FM_ENTRY_FIXED_BYTES);
	compare_trees(f);
	fm_manifest_free(one);
	fm_manifest_free(two);
}

/* Bytes of the last of three passes over what has not changed since before the first. */
static uint64_t sent_again(struct fixture *f)
{
	struct sending one = { .racy_ms = FM_TREE_RACY_MS }, two = one, three = { .last = true };

	fm_pause_ms(200); /* older than the clock's tick, younger than what a write may take */
	struct fm_manifest *m1 = run_pass(f, NULL, 1, &one);
	struct fm_manifest *m2 = run_pass(f, m1, 2, &two);
	(void)run_pass(f, m2, 3, &three);
	compare_trees(f);
	fm_manifest_free(m1);
	fm_manifest_free(m2);
	return three.bytes;
}

/* A file that changed a moment ago is not sent again when nobody can be writing to it. */
static void test_no_writer(void **state)
{
	struct fixture *f = *state;
	uint64_t size = 300000;

	put_bytes(f->from_fd, "quiet", size, 5);
	assert_sys(linkat(f->from_fd, "quiet", f->from_fd, "name of its own", 0)); /* files with several names go whole, or not at all */
	assert_true(sent_again(f) < size);
	int fd = openat(f->from_fd, "quiet", O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	write_at(f->from_fd, "quiet", 0, "x");
	assert_true(sent_again(f) > size);
	void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(MAP_FAILED, map);
	close(fd);
	write_at(f->from_fd, "quiet", 0, "y");
	assert_true(sent_again(f) > size);
	munmap(map, size);
	write_at(f->from_fd, "quiet", 0, "z");
	assert_true(sent_again(f) < size);
}

/* A store through a mapping whose page was dirty already: the file's times do not show it unless the first pass has cleaned the page. */
static void mapped_store(struct fixture *f)
{
	put_bytes(f->from_fd, "database", 64 << 10, 3);
	int fd = openat(f->from_fd, "database", O_RDWR | O_CLOEXEC);
	volatile char *map = mmap(NULL, 64 << 10, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(MAP_FAILED, map);
	close(fd); /* the mapping alone keeps it */
	map[5000] = 'a';
	next_tick();
	struct fm_manifest *one = run_pass(f, NULL, 1, NULL);
	next_tick();
	map[5000] = 'b';
	fm_manifest_free(run_pass(f, one, 2, NULL));
	compare_trees(f);
	fm_manifest_free(one);
	munmap((void *)map, 64 << 10);
}

static void test_mapped_store(void **state)
{
	struct fixture *f = *state;
	struct statfs fs;

	assert_sys(fstatfs(f->from_fd, &fs));
	if (fs.f_type == TMPFS_MAGIC || fs.f_type == OVERLAYFS_SUPER_MAGIC) {
		print_message("    /tmp is on tmpfs or overlay: nothing to be tested there\n");
		skip();
	}
	mapped_store(f);
}

static bool own_mounts(void)
{
	return is_root() && unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

static void test_mapped_store_overlay(void **state)
{
	struct fixture *f = *state;
	static const char *const names[] = { "lower", "upper", "work" };
	_fm_free_ char *options = fm_xasprintf("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", f->dir, f->dir, f->dir);
	struct statfs fs;

	assert_sys(fstatfs(f->from_fd, &fs));
	for (int i = 0; i < 3; i++) {
		_fm_free_ char *path = fm_xasprintf("%s/%s", f->dir, names[i]);
		assert_sys(mkdir(path, 0755));
	}
	if (fs.f_type == TMPFS_MAGIC || !own_mounts() || mount("overlay", f->from, "overlay", 0, options) < 0) {
		print_message("    needs root, a mount namespace, overlay and /tmp on a disk\n");
		skip();
	}
	close(f->from_fd);
	f->from_fd = open(f->from, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	mapped_store(f);
	assert_sys(umount2(f->from, MNT_DETACH));
}

static void test_exclude(void **state)
{
	struct fixture *f = *state;
	char *const exclude[] = { (char *)"proc", (char *)"/run/", (char *)"./a/b", NULL };
	struct sending s = { .exclude = exclude };

	assert_sys(mkdirat(f->from_fd, "proc", 0755));
	put(f->from_fd, "proc/x", "x");
	assert_sys(mkdirat(f->from_fd, "run", 0755));
	assert_sys(mkdirat(f->from_fd, "a", 0755));
	put(f->from_fd, "a/b", "x");
	put(f->from_fd, "a/bc", "x");
	assert_sys(mkdirat(f->to_fd, "run", 0700)); /* the receiver's own stays */
	struct fm_manifest *m = run_pass(f, NULL, 1, &s);
	assert_int_equal(3, fm_manifest_entries(m));
	assert_int_equal(-1, faccessat(f->to_fd, "proc", F_OK, 0));
	assert_int_equal(-1, faccessat(f->to_fd, "a/b", F_OK, 0));
	assert_int_equal(0, faccessat(f->to_fd, "a/bc", F_OK, 0));
	assert_int_equal(0, faccessat(f->to_fd, "run", F_OK, 0));
	fm_manifest_free(m);
}

/* Mounts below the root are there as folders only, whatever filesystem they are, and do not make earlier content go away. */
static void test_mounts(void **state)
{
	struct fixture *f = *state;
	_fm_free_ char *mnt = fm_xasprintf("%s/mnt", f->from);
	_fm_free_ char *bind = fm_xasprintf("%s/bind", f->from);
	_fm_free_ char *file = fm_xasprintf("%s/file", f->from);

	if (!own_mounts()) {
		print_message("    needs root and a mount namespace\n");
		skip();
	}
	/* descriptors from before do not see what is mounted in the new namespace */
	close(f->from_fd);
	close(f->to_fd);
	f->from_fd = open(f->from, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	f->to_fd = open(f->to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_sys(mkdirat(f->from_fd, "mnt", 0755));
	put(f->from_fd, "mnt/below", "hidden later");
	assert_sys(mkdirat(f->from_fd, "bind", 0755));
	put(f->from_fd, "file", "hidden later");
	put(f->from_fd, "other", "o");
	struct fm_manifest *one = run_pass(f, NULL, 1, NULL);
	compare_trees(f);

	assert_sys(mount("none", mnt, "tmpfs", 0, "size=1m"));
	put(f->from_fd, "mnt/above", "not ours");
	assert_sys(mount("/usr/share", bind, NULL, MS_BIND, NULL)); /* same filesystem as /tmp in many places */
	assert_sys(mount("/etc/hostname", file, NULL, MS_BIND, NULL));
	struct fm_manifest *two = run_pass(f, one, 2, NULL);
	assert_int_equal(0, faccessat(f->to_fd, "mnt/below", F_OK, 0));
	assert_int_equal(-1, faccessat(f->to_fd, "mnt/above", F_OK, 0));
	assert_sys(umount2(mnt, MNT_DETACH));
	assert_sys(umount2(bind, MNT_DETACH));
	assert_sys(umount2(file, MNT_DETACH));
	_fm_close_ int to_bind = openat(f->to_fd, "bind", O_RDONLY | O_CLOEXEC);
	assert_int_equal(2, names_in(to_bind, true)); /* "." and ".." */
	fm_manifest_free(run_pass(f, two, 3, NULL));
	compare_trees(f);

	/* and the receiver never writes into another mount */
	_fm_free_ char *to_mnt = fm_xasprintf("%s/mnt", f->to);
	assert_sys(mount("none", to_mnt, "tmpfs", 0, "size=1m"));
	struct sending s = { .f = f, .cancel_fd = -1 };
	pthread_t t;
	pthread_create(&t, NULL, send_pass, &s);
	err = FM_ERROR_INIT;
	assert_int_equal(-1, fm_filetree_recv(f->b, f->to, 0, GIB, WAIT_MS, -1, &err));
	assert_int_equal(FM_E_DATA_LOSS, err.code);
	assert_int_equal(-1, faccessat(f->to_fd, "mnt/below", F_OK, 0));
	fm_stream_shutdown(f->b);
	pthread_join(t, NULL);
	fm_manifest_free(s.manifest);
	assert_sys(umount2(to_mnt, MNT_DETACH));
	fm_manifest_free(one);
	fm_manifest_free(two);
}

/* A container's usual root: layers on different filesystems, where every file may report a device number of its own, and a change moves it to another layer. */
static void test_overlay(void **state)
{
	struct fixture *f = *state;
	_fm_free_ char *lower = fm_xasprintf("%s/lower", f->dir);
	_fm_free_ char *upper = fm_xasprintf("%s/upper", f->dir);
	_fm_free_ char *options = fm_xasprintf("lowerdir=%s/l,upperdir=%s/u,workdir=%s/w,index=on", lower, upper, upper);

	if (!own_mounts()) {
		print_message("    needs root and a mount namespace\n");
		skip();
	}
	assert_sys(mkdir(lower, 0755));
	assert_sys(mkdir(upper, 0755));
	assert_sys(mount("none", lower, "tmpfs", 0, "size=64m"));
	assert_sys(mount("none", upper, "tmpfs", 0, "size=64m"));
	_fm_close_ int l = open(lower, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_fm_close_ int u = open(upper, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_sys(mkdirat(l, "l", 0755));
	assert_sys(mkdirat(u, "u", 0755));
	assert_sys(mkdirat(u, "w", 0755));
	close(f->from_fd);
	f->from_fd = openat(l, "l", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	make_sample(f);
	bool mounted = mount("overlay", f->from, "overlay", 0, options) == 0;
	close(f->from_fd);
	f->from_fd = open(f->from, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (mounted) {
		struct fm_manifest *one = run_pass(f, NULL, 1, NULL);
		assert_int_equal(compare_trees(f), fm_manifest_entries(one));
		fm_manifest_free(one);
		change_and_compare(f, change_files);
		assert_sys(umount2(f->from, MNT_DETACH));
	}
	assert_sys(umount2(lower, MNT_DETACH));
	assert_sys(umount2(upper, MNT_DETACH));
	if (!mounted) {
		print_message("    no overlay with index=on here\n");
		skip();
	}
}

/* a tree that is in use */

struct churn {
	struct fixture *f;
	atomic_bool stop;
};

static void *churn(void *arg)
{
	struct churn *c = arg;
	int d = c->f->from_fd;
	uint32_t x = 1;
	char a[64], b[64];

	while (!atomic_load(&c->stop)) {
		x = x * 1664525u + 1013904223u;
		snprintf(a, sizeof(a), "d%u/f%u", (x >> 8) % 8, (x >> 12) % 8);
		snprintf(b, sizeof(b), "d%u/f%u", (x >> 16) % 8, (x >> 20) % 8);
		int fd;
		switch ((x >> 24) % 10) {
		case 0:
			(void)unlinkat(d, a, 0);
			break;
		case 1:
			(void)renameat(d, a, d, b);
			break;
		case 2:
			(void)linkat(d, a, d, b, 0);
			break;
		case 3:
			(void)symlinkat("/etc/shadow", d, a);
			break;
		case 4: /* folder of this name, then away again */
			if (mkdirat(d, a, 0755) == 0)
				(void)unlinkat(d, a, AT_REMOVEDIR);
			break;
		case 5:
		case 6:
			fd = openat(d, a, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
			if (fd >= 0 && ftruncate(fd, (off_t)(x >> 10) % 100000) == 0)
				(void)!pwrite(fd, &x, sizeof(x), (off_t)((x >> 7) % 50000));
			if (fd >= 0)
				close(fd);
			break;
		case 7:
			a[2] = 0;
			snprintf(b, sizeof(b), "d%u/moved", (x >> 16) % 8);
			if (renameat(d, a, d, b) == 0)
				(void)renameat(d, b, d, a);
			break;
		default:
			fd = openat(d, a, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
			if (fd >= 0) {
				char buf[3000];
				memset(buf, (int)x, sizeof(buf));
				(void)!write(fd, buf, 1 + (x >> 5) % 2999);
				close(fd);
			}
		}
	}
	return NULL;
}

static void test_tree_in_use(void **state)
{
	struct fixture *f = *state;
	struct churn c = { .f = f };
	pthread_t t;
	char name[16];

	for (int i = 0; i < 8; i++) {
		snprintf(name, sizeof(name), "d%d", i);
		assert_sys(mkdirat(f->from_fd, name, 0755));
	}
	put_bytes(f->from_fd, "d0/large", 3 << 20, 1);
	pthread_create(&t, NULL, churn, &c);
	struct fm_manifest *m = NULL;
	for (unsigned pass = 1; pass <= 12; pass++) { /* passes under fire: must only not fail */
		struct sending s = { .racy_ms = FM_TREE_RACY_MS };
		struct fm_manifest *next = run_pass(f, m, pass, &s);
		fm_manifest_free(m);
		m = next;
	}
	atomic_store(&c.stop, true);
	pthread_join(t, NULL);
	struct sending s = { .last = true };
	assert_null(run_pass(f, m, 13, &s)); /* frozen: now it must be exact */
	compare_trees(f);
	fm_manifest_free(m);
}

/* time */

static void test_three_thousand(void **state)
{
	struct fixture *f = *state;
	char name[64];

	for (int i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), "dir%d", i);
		assert_sys(mkdirat(f->from_fd, name, 0755));
		for (int k = 0; k < 30; k++) {
			snprintf(name, sizeof(name), "dir%d/file-number-%d.txt", i, k);
			put_bytes(f->from_fd, name, 2000, (uint32_t)(i * 30 + k));
		}
	}
	next_tick();
	struct sending s = { 0 };
	struct fm_manifest *one = run_pass(f, NULL, 1, &s);
	print_message("    3,000 files, first pass: %.1f ms\n", (double)s.us / 1000);
	assert_int_equal(3101, fm_manifest_entries(one));
	write_at(f->from_fd, "dir50/file-number-7.txt", 0, "changed");
	struct sending s2 = { .last = true };
	(void)run_pass(f, one, 2, &s2);
	print_message("    3,000 files, second pass, one changed: %.2f ms, %llu bytes\n", (double)s2.us / 1000,
	              (unsigned long long)s2.bytes);
	compare_trees(f);
	struct sending s3 = { .last = true };
	(void)run_pass(f, one, 3, &s3);
	print_message("    again: %.2f ms\n", (double)s3.us / 1000);
	fm_manifest_free(one);
}

/* large files */

static struct fm_manifest *pass_of(struct fixture *f, struct fm_manifest *previous, unsigned pass, uint64_t *bytes)
{
	struct sending s = { 0 };
	struct fm_manifest *next = run_pass(f, previous, pass, &s);
	compare_trees(f);
	fm_manifest_free(previous);
	*bytes = s.bytes;
	next_tick();
	return next;
}

static ino_t ino_of(int dirfd, const char *path)
{
	struct stat st;
	assert_sys(fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW));
	return st.st_ino;
}

/* Of a large file only what differs goes again, and it is written in place. */
static void test_large_file(void **state)
{
	struct fixture *f = *state;
	uint64_t bytes;

	put_bytes(f->from_fd, "db", 8 << 20, 1);
	struct fm_manifest *m = pass_of(f, NULL, 1, &bytes);
	assert_true(bytes > 8 << 20);
	ino_t ino = ino_of(f->to_fd, "db");
	write_at(f->from_fd, "db", 3 << 20, "changed");
	write_at(f->from_fd, "db", 8 << 20, "appended");
	m = pass_of(f, m, 2, &bytes);
	assert_in_range(bytes, FM_TREE_BLOCK_BYTES, 2 * FM_TREE_BLOCK_BYTES);
	write_at(f->from_fd, "db", (8 << 20) + 8, ", and more"); /* the block that is not full */
	m = pass_of(f, m, 3, &bytes);
	assert_in_range(bytes, 10, 1000);
	set_size(f->from_fd, "db", (5 << 20) + 17);
	m = pass_of(f, m, 4, &bytes);
	assert_in_range(bytes, 17, 1000);
	put(f->from_fd, "other", "so that db is the same for a pass"); /* what is known of it is handed on */
	m = pass_of(f, m, 5, &bytes);
	write_at(f->from_fd, "db", 0, "x");
	m = pass_of(f, m, 6, &bytes);
	assert_in_range(bytes, FM_TREE_BLOCK_BYTES, FM_TREE_BLOCK_BYTES + 1000);
	assert_int_equal(ino, ino_of(f->to_fd, "db"));
	fm_manifest_free(m);
}

static void overwrite(int dirfd, const char *path, const uint8_t *bytes, size_t n)
{
	_fm_close_ int fd = openat(dirfd, path, O_WRONLY | O_CLOEXEC);
	assert_int_equal(pwrite(fd, bytes, n, 0), n);
}

/* A block that was made to look like the one before, for who knows how we hash */
static void test_block_made_to_collide(void **state)
{
	static uint8_t a[FM_TREE_BLOCK_BYTES], b[FM_TREE_BLOCK_BYTES];
	struct fixture *f = *state;
	uint64_t bytes;

	make_collision(a, b, sizeof(a));
	put_bytes(f->from_fd, "db", 1 << 20, 1);
	overwrite(f->from_fd, "db", a, sizeof(a));
	struct fm_manifest *m = pass_of(f, NULL, 1, &bytes);
	overwrite(f->from_fd, "db", b, sizeof(b));
	m = pass_of(f, m, 2, &bytes);
	assert_in_range(bytes, FM_TREE_BLOCK_BYTES, FM_TREE_BLOCK_BYTES + 1000);
	fm_manifest_free(m);
}

/* Everything that makes a large file another one */
static void test_large_file_replaced(void **state)
{
	struct fixture *f = *state;
	uint64_t bytes;

	put_bytes(f->from_fd, "db", 2 << 20, 1);
	struct fm_manifest *m = pass_of(f, NULL, 1, &bytes);
	put_bytes(f->from_fd, "new", 3 << 20, 2);
	assert_sys(renameat(f->from_fd, "new", f->from_fd, "db"));
	m = pass_of(f, m, 2, &bytes);
	set_size(f->from_fd, "db", 64 << 20); /* a hole */
	m = pass_of(f, m, 3, &bytes);
	write_at(f->from_fd, "db", 32 << 20, "in the hole");
	m = pass_of(f, m, 4, &bytes);
	put_bytes(f->from_fd, "db", 2 << 20, 3);
	m = pass_of(f, m, 5, &bytes);
	assert_sys(linkat(f->from_fd, "db", f->from_fd, "link", 0));
	write_at(f->from_fd, "db", 1 << 20, "of both names");
	m = pass_of(f, m, 6, &bytes);
	assert_sys(unlinkat(f->from_fd, "link", 0));
	write_at(f->from_fd, "db", 1 << 20, "of one name");
	m = pass_of(f, m, 7, &bytes);
	write_at(f->from_fd, "db", 0, "once more");
	m = pass_of(f, m, 8, &bytes);
	assert_true(bytes < 1 << 20);
	put(f->from_fd, "db", "small now");
	m = pass_of(f, m, 9, &bytes);
	assert_sys(unlinkat(f->from_fd, "db", 0));
	assert_sys(mkdirat(f->from_fd, "db", 0755));
	m = pass_of(f, m, 10, &bytes);
	fm_manifest_free(m);
}

/* a root that is a file */

static void test_single_file(void **state)
{
	struct fixture *f = *state;
	struct sending s = { 0 };
	unsigned n = 0;

	free(f->from);
	free(f->to);
	f->from = fm_xasprintf("%s/from/one", f->dir);
	f->to = fm_xasprintf("%s/to/one", f->dir);
	put(f->from_fd, "one", "as it was");
	assert_sys(fchmodat(f->from_fd, "one", 0640, 0));
	set_times(f->from_fd, "one", 1234567890, 987654321);
	put(f->to_fd, "one", "");
	ino_t ino = ino_of(f->to_fd, "one");
	struct fm_manifest *one = run_pass(f, NULL, 1, NULL);
	compare_one(f->from_fd, f->to_fd, "one", "one", &n);
	next_tick();
	struct fm_manifest *two = run_pass(f, one, 2, &s);
	assert_int_equal(FM_FRAME_HEADER_BYTES, s.bytes);
	put(f->from_fd, "one", "short");
	struct fm_manifest *three = run_pass(f, two, 3, NULL);
	compare_one(f->from_fd, f->to_fd, "one", "one", &n);
	put_bytes(f->from_fd, "one", 3 << 20, 1);
	next_tick();
	struct fm_manifest *four = run_pass(f, three, 4, NULL);
	write_at(f->from_fd, "one", 2 << 20, "changed");
	s = (struct sending){ .last = true };
	assert_null(run_pass(f, four, 5, &s));
	assert_true(s.bytes < 1 << 20);
	compare_one(f->from_fd, f->to_fd, "one", "one", &n);
	assert_int_equal(ino, ino_of(f->to_fd, "one")); /* in place */
	fm_manifest_free(one);
	fm_manifest_free(two);
	fm_manifest_free(three);
	fm_manifest_free(four);
}

/* digests */

static void digest_now(struct fixture *f, char ret[FM_MANIFEST_DIGEST_LEN + 1])
{
	struct fm_manifest *m = NULL;
	assert_ok(fm_filetree_look(f->from, &m, -1, &err));
	fm_manifest_digest(m, ret);
	fm_manifest_free(m);
}

#define assert_same(a, b)    assert_string_equal(a, b)
#define assert_differs(a, b) assert_string_not_equal(a, b)

static void test_digest(void **state)
{
	struct fixture *f = *state;
	char before[FM_MANIFEST_DIGEST_LEN + 1], after[FM_MANIFEST_DIGEST_LEN + 1];
	_fm_free_ char *elsewhere = fm_xasprintf("%s/elsewhere", f->dir);

	make_sample(f);
	struct fm_manifest *sent = run_pass(f, NULL, 1, NULL);
	fm_manifest_digest(sent, before);
	fm_manifest_free(sent);
	digest_now(f, after);
	assert_same(before, after); /* looking sees what sending saw */
	next_tick();
	assert_sys(rename(f->from, elsewhere));
	assert_sys(rename(elsewhere, f->from));
	digest_now(f, after);
	assert_same(before, after);

	static const char *const names[] = { "new", "new", "newer" };
	for (size_t i = 0; i < FM_ARRAY_SIZE(names); i++) {
		memcpy(before, after, sizeof(before));
		next_tick();
		if (i == 0)
			put(f->from_fd, "new", "one");
		else if (i == 1)
			write_at(f->from_fd, "new", 0, "two");
		else
			assert_sys(renameat(f->from_fd, "new", f->from_fd, "newer"));
		digest_now(f, after);
		assert_differs(before, after);
		assert_sys(faccessat(f->from_fd, names[i], F_OK, 0));
	}
	memcpy(before, after, sizeof(before));
	assert_sys(fchmodat(f->from_fd, "newer", 0600, 0));
	digest_now(f, after);
	assert_differs(before, after);
}

/* limits and failures of the sender */

static void expect_send_fails(struct fixture *f, enum fm_code code, int cancel_fd)
{
	struct sending s = { .f = f, .cancel_fd = cancel_fd };
	send_pass(&s);
	assert_int_equal(-1, s.result);
	assert_int_equal(code, s.err.code);
	assert_null(s.manifest);
}

static void test_too_deep(void **state)
{
	struct fixture *f = *state;
	int fd = dup(f->from_fd);

	for (int i = 0; i < 256; i++) {
		assert_sys(mkdirat(fd, "d", 0755));
		int next = openat(fd, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		assert_sys(next);
		close(fd);
		fd = next;
	}
	expect_send_fails(f, FM_E_RESOURCE_EXHAUSTED, -1);
	/* one less is carried */
	int up = openat(fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_sys(unlinkat(up, "d", AT_REMOVEDIR));
	put(up, "f", "deep down");
	close(up);
	close(fd);
	int sv[2];
	fm_stream_free(f->a);
	fm_stream_free(f->b);
	assert_sys(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv));
	assert_ok(fm_stream_from_fd(sv[0], &f->a, &err));
	assert_ok(fm_stream_from_fd(sv[1], &f->b, &err));
	fm_manifest_free(run_pass(f, NULL, 1, NULL));
	assert_int_equal(257, compare_trees(f));
}

static void test_send_failures(void **state)
{
	struct fixture *f = *state;
	int cancel = eventfd(1, EFD_CLOEXEC);
	struct fm_error full = FM_ERROR_INIT;

	put_bytes(f->from_fd, "large", 4 << 20, 1);
	expect_send_fails(f, FM_E_CANCELLED, cancel);
	fm_error_set(&full, FM_E_RESOURCE_EXHAUSTED, "no space left");
	fm_stream_send_error(f->b, &full);
	fm_stream_free(f->b);
	f->b = NULL;
	expect_send_fails(f, FM_E_RESOURCE_EXHAUSTED, -1);
	free(f->from);
	f->from = fm_xasprintf("%s/missing", f->dir);
	expect_send_fails(f, FM_E_NOT_FOUND, -1);
	close(cancel);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(test_everything),
		T(test_acl),
		T(test_unchanged),
		T(test_changed_files),
		T(test_changed_kinds),
		T(test_changed_links),
		T(test_links_disagree),
		T(test_racily_clean),
		T(test_no_writer),
		T(test_mapped_store),
		T(test_mapped_store_overlay),
		T(test_exclude),
		T(test_mounts),
		T(test_overlay),
		T(test_tree_in_use),
		T(test_three_thousand),
		T(test_too_deep),
		T(test_send_failures),
		T(test_large_file),
		T(test_block_made_to_collide),
		T(test_digest),
		T(test_large_file_replaced),
		T(test_single_file),
	};
	return cmocka_run_group_tests_name("filetree", tests, NULL, NULL);
}
