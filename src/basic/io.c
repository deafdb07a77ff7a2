/* SPDX-License-Identifier: MIT */
/*
 * io.c - files and trees of io.h; its sockets are in io-socket.c.
 *
 * fm_remove_tree walks by descriptors (openat, O_NOFOLLOW), so nobody can redirect it by swapping a directory for a symbolic link
 * while it runs. A directory that stands on a mount is recognised on the opened descriptor, not by name, for the same reason.
 * The trees come from container images, that is, from outsiders: the depth of recursion is bounded by moving directories that
 * lie too deep up into the tree's top, where the walk finds them again.
 */
#include "basic/io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/id.h"
#include "basic/str.h"

#define REMOVE_MAX_DEPTH  64 /* = descriptors open at once */
#define REMOVE_MAX_PASSES 16 /* over one directory, when readdir missed entries or somebody adds new ones */

int fm_read_full(int fd, void *buf, size_t n, struct fm_error *err)
{
	size_t done = 0;

	while (done < n) {
		ssize_t got = read(fd, (char *)buf + done, n - done);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && errno == EAGAIN)
			return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "reading: nothing came in time after %zu of %zu bytes", done, n);
		if (got < 0)
			return fm_error_errno(err, errno, "reading %zu bytes", n);
		if (got == 0)
			return fm_error_set(err, FM_E_DATA_LOSS, "reading: ended after %zu of %zu bytes", done, n);
		done += (size_t)got;
	}
	return 0;
}

int fm_write_full(int fd, const void *buf, size_t n, struct fm_error *err)
{
	size_t done = 0;

	while (done < n) {
		ssize_t put = write(fd, (const char *)buf + done, n - done);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0 && errno == EAGAIN)
			return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "writing: nothing was taken in time after %zu of %zu bytes", done,
			                    n);
		if (put < 0)
			return fm_error_errno(err, errno, "writing %zu bytes", n);
		done += (size_t)put;
	}
	return 0;
}

/* First guess of the size: exact plus one (to see the end) for regular files, a page for /proc and the like. Never above max + 1. */
static size_t first_capacity(int fd, size_t max_bytes)
{
	uint64_t guess = 4096;
	struct stat st;

	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0)
		guess = (uint64_t)st.st_size;
	return (guess < max_bytes ? (size_t)guess : max_bytes) + 1;
}

int fm_read_file_at(int dirfd, const char *path, size_t max_bytes, char **ret_data, size_t *ret_len, struct fm_error *err)
{
	_fm_close_ int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	_fm_free_ char *data = NULL;
	size_t len = 0, cap;

	if (fd < 0)
		return fm_error_errno(err, errno, "opening %s", path);
	if (max_bytes > SSIZE_MAX / 4)
		max_bytes = SSIZE_MAX / 4; /* keeps the arithmetic below from overflowing */
	cap = first_capacity(fd, max_bytes);
	for (;;) {
		/* one more than needed: for the NUL. The loop leaves with len < cap or len > max_bytes. */
		char *bigger = !data || len == cap ? realloc(data, (data ? (cap = 2 * cap) : cap) + 1) : data;
		ssize_t got;

		if (!bigger)
			return fm_error_errno(err, ENOMEM, "reading %s", path);
		data = bigger;
		got = read(fd, data + len, cap - len);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return fm_error_errno(err, errno, "reading %s", path);
		len += (size_t)got;
		if (len > max_bytes)
			return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "reading %s: larger than the limit of %zu bytes", path,
			                    max_bytes);
		if (got == 0)
			break;
	}
	data[len] = '\0';
	if (ret_len)
		*ret_len = len;
	*ret_data = FM_TAKE_PTR(data);
	return 0;
}

int fm_read_file(const char *path, size_t max_bytes, char **ret_data, size_t *ret_len, struct fm_error *err)
{
	return fm_read_file_at(AT_FDCWD, path, max_bytes, ret_data, ret_len, err);
}

int fm_write_file(const char *path, const char *text, struct fm_error *err)
{
	_fm_close_ int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
	size_t n = strlen(text);
	ssize_t put;

	if (fd < 0)
		return fm_error_errno(err, errno, "opening %s for writing", path);
	do {
		put = write(fd, text, n); /* the kernel parses each write(2) of these files on its own: never split */
	} while (put < 0 && errno == EINTR);
	if (put < 0)
		return fm_error_errno(err, errno, "writing '%.64s' to %s", text, path);
	if ((size_t)put != n)
		return fm_error_set(err, FM_E_DATA_LOSS, "writing '%.64s' to %s: only %zd of %zu bytes were taken", text, path, put, n);
	return 0;
}

/* Splits path into its directory ("." when there is none) and its last part. */
static int split_path(const char *path, char **ret_dir, const char **ret_base, struct fm_error *err)
{
	const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;

	if (!*base)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%s' names no file", path);
	*ret_dir = !slash ? fm_xstrdup(".") : slash == path ? fm_xstrdup("/") : fm_xasprintf("%.*s", (int)(slash - path), path);
	*ret_base = base;
	return 0;
}

/* Creates a file of its own name in dirfd. The name is hidden and tells what it was for, should a crash leave it behind. */
static int create_temporary(int dirfd, const char *base, mode_t mode, char *name, size_t cap)
{
	char token[FM_TOKEN_LEN + 1];
	int fd;

	fm_token_new(token);
	(void)snprintf(name, cap, ".%.180s.%.12s", base, token);
	fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	/* the caller's mode, whatever the umask */
	if (fd >= 0 && fchmod(fd, mode) < 0) {
		int saved = errno;

		(void)close(fd);
		(void)unlinkat(dirfd, name, 0);
		errno = saved;
		return -1;
	}
	return fd;
}

int fm_write_file_atomic(const char *path, const void *data, size_t n, mode_t mode, struct fm_error *err)
{
	_fm_close_ int dirfd = -1, fd = -1;
	_fm_free_ char *dir = NULL;
	const char *base = NULL;
	char tmp[256];

	if (split_path(path, &dir, &base, err) < 0)
		return -1;
	dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0)
		return fm_error_errno(err, errno, "writing %s: opening its directory", path);
	fd = create_temporary(dirfd, base, mode, tmp, sizeof(tmp));
	if (fd < 0)
		return fm_error_errno(err, errno, "writing %s: creating a temporary file beside it", path);
	if (fm_write_full(fd, data, n, err) < 0) {
		(void)fm_error_prefix(err, "writing %s", path);
		goto undo;
	}
	if (fsync(fd) < 0 || renameat(dirfd, tmp, dirfd, base) < 0) {
		(void)fm_error_errno(err, errno, "writing %s", path);
		goto undo;
	}
	if (fsync(dirfd) < 0)
		return fm_error_errno(err, errno, "writing %s: it is replaced, but may not be durable", path);
	return 0;
undo:
	(void)unlinkat(dirfd, tmp, 0);
	return -1;
}

int fm_mkdir_p(const char *path, mode_t mode, struct fm_error *err)
{
	_fm_free_ char *copy = fm_xstrdup(path);
	struct stat st;

	if (!*path)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "creating a directory without a name");
	for (char *p = copy + 1;; p++) {
		char was = *p;

		if (was != '/' && was != '\0')
			continue;
		*p = '\0';
		if (mkdir(copy, mode) < 0 && errno != EEXIST) {
			int saved = errno;

			/* a read-only or foreign parent may refuse before it says "exists" */
			if (stat(copy, &st) < 0 || !S_ISDIR(st.st_mode))
				return fm_error_errno(err, saved, "creating directory %s", copy);
		}
		*p = was;
		if (was == '\0')
			break;
	}
	if (stat(path, &st) < 0)
		return fm_error_errno(err, errno, "creating directory %s", path);
	if (!S_ISDIR(st.st_mode))
		return fm_error_errno(err, ENOTDIR, "creating directory %s", path);
	return 0;
}

struct removal {
	const char *path; /* for messages */
	int top_fd;       /* the tree's root */
	dev_t dev;
	uint64_t moved; /* directories moved up to the root so far */
	struct fm_error *err;
};

/* Whether fd is the root of a mount. Kernels before 5.8 do not say; there another device number gives it away. */
static int check_no_mount(struct removal *r, int fd, const char *name)
{
	struct statx sx;
	bool mounted;

	if (statx(fd, "", AT_EMPTY_PATH | AT_NO_AUTOMOUNT, STATX_BASIC_STATS, &sx) < 0)
		return fm_error_errno(r->err, errno, "removing %s: looking at '%s'", r->path, name);
	if (sx.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) {
		mounted = sx.stx_attributes & STATX_ATTR_MOUNT_ROOT;
	} else {
		dev_t dev = makedev(sx.stx_dev_major, sx.stx_dev_minor);

		mounted = r->dev && dev != r->dev;
		if (!r->dev)
			r->dev = dev;
	}
	if (!mounted)
		return 0;
	(void)fm_error_set(r->err, FM_E_FAILED_PRECONDITION, "removing %s: '%s' is a mount point", r->path, name);
	return fm_error_hint(r->err, "unmount it first");
}

static int remove_children(struct removal *r, int fd, unsigned depth);

/* Out of the deep: becomes an entry of the root, which is read again until it is empty. */
static int move_up(struct removal *r, int dirfd, const char *name)
{
	char target[64], token[FM_TOKEN_LEN + 1];

	fm_token_new(token);
	(void)snprintf(target, sizeof(target), ".fm-removing-%.16s", token);
	if (renameat(dirfd, name, r->top_fd, target) < 0)
		return fm_error_errno(r->err, errno, "removing %s: moving the deep directory '%s' up", r->path, name);
	r->moved++;
	return 0;
}

/* An entry that may be a directory. ENOENT is fine everywhere: somebody else removed it. */
static int remove_entry(struct removal *r, int dirfd, const char *name, bool maybe_dir, unsigned depth)
{
	int fd;

	if (maybe_dir) {
		fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
		if (fd >= 0) {
			_fm_close_ int owned = fd;

			if (check_no_mount(r, fd, name) < 0)
				return -1;
			if (depth + 1 >= REMOVE_MAX_DEPTH)
				return move_up(r, dirfd, name);
			if (remove_children(r, FM_TAKE_FD(owned), depth + 1) < 0)
				return -1;
			if (unlinkat(dirfd, name, AT_REMOVEDIR) < 0 && errno != ENOENT && errno != ENOTEMPTY && errno != EEXIST)
				return fm_error_errno(r->err, errno, "removing %s: directory '%s'", r->path, name);
			return 0;
		}
		if (errno == ENOENT)
			return 0;
		if (errno != ENOTDIR && errno != ELOOP)
			return fm_error_errno(r->err, errno, "removing %s: opening directory '%s'", r->path, name);
	}
	if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno == EBUSY) {
		(void)fm_error_set(r->err, FM_E_FAILED_PRECONDITION, "removing %s: '%s' is busy, probably a mount point", r->path, name);
		return fm_error_hint(r->err, "unmount it first");
	}
	return fm_error_errno(r->err, errno, "removing %s: '%s'", r->path, name);
}

/* One pass over d; *ret_found = number of entries seen */
static int remove_pass(struct removal *r, DIR *d, unsigned depth, size_t *ret_found)
{
	struct dirent *e;
	size_t found = 0;

	rewinddir(d);
	for (;;) {
		errno = 0;
		e = readdir(d);
		if (!e)
			break;
		if (fm_streq(e->d_name, ".") || fm_streq(e->d_name, ".."))
			continue;
		found++;
		if (remove_entry(r, dirfd(d), e->d_name, e->d_type == DT_DIR || e->d_type == DT_UNKNOWN, depth) < 0)
			return -1;
	}
	if (errno)
		return fm_error_errno(r->err, errno, "removing %s: reading a directory", r->path);
	*ret_found = found;
	return 0;
}

/*
 * Takes fd. Passes are repeated until one finds nothing: readdir may skip entries while others vanish, and the root receives what
 * was moved up.
 */
static int remove_children(struct removal *r, int fd, unsigned depth)
{
	_fm_closedir_ DIR *d = fdopendir(fd);
	unsigned idle = 0;
	size_t found = 1;

	if (!d) {
		int saved = errno;

		(void)close(fd);
		return fm_error_errno(r->err, saved, "removing %s", r->path);
	}
	while (found) {
		uint64_t moved = r->moved;

		if (remove_pass(r, d, depth, &found) < 0)
			return -1;
		if (moved == r->moved && ++idle > REMOVE_MAX_PASSES)
			return fm_error_set(r->err, FM_E_ABORTED, "removing %s: somebody keeps adding files", r->path);
	}
	return 0;
}

int fm_remove_tree(const char *path, struct fm_error *err)
{
	_fm_free_ char *copy = fm_xstrdup(path);
	_fm_close_ int fd = -1;
	int walk_fd;
	struct removal r = { .path = path, .top_fd = -1, .err = err };
	size_t n = strlen(copy);

	/* "link/" would be followed in spite of O_NOFOLLOW */
	while (n > 1 && copy[n - 1] == '/')
		copy[--n] = '\0';
	if (n == 0 || fm_streq(copy, "/") || fm_streq(copy, ".") || fm_streq(copy, ".."))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "refusing to remove '%s'", path);

	fd = open(copy, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0) {
		if (errno == ENOENT)
			return 0;
		if ((errno == ENOTDIR || errno == ELOOP) && (unlink(copy) == 0 || errno == ENOENT))
			return 0;
		return fm_error_errno(err, errno, "removing %s", path);
	}
	if (check_no_mount(&r, fd, copy) < 0)
		return -1;
	r.top_fd = fd;
	walk_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (walk_fd < 0)
		return fm_error_errno(err, errno, "removing %s", path);
	if (remove_children(&r, walk_fd, 0) < 0)
		return -1;
	if (rmdir(copy) < 0 && errno != ENOENT)
		return fm_error_errno(err, errno, "removing %s", path);
	return 0;
}

#define TREE_DEPTH_MAX 256

static int add_tree_bytes(int dirfd_, const char *name, dev_t dev, unsigned depth, uint64_t *sum)
{
	_fm_closedir_ DIR *d = NULL;
	int fd = openat(dirfd_, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || !(d = fdopendir(fd))) {
		if (fd >= 0)
			(void)close(fd);
		return -1;
	}
	for (struct dirent *e; (e = readdir(d));) {
		struct stat st;
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
		    fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		if (S_ISREG(st.st_mode))
			*sum += (uint64_t)st.st_blocks * 512;
		else if (S_ISDIR(st.st_mode) && st.st_dev == dev && depth < TREE_DEPTH_MAX)
			(void)add_tree_bytes(dirfd(d), e->d_name, dev, depth + 1, sum); /* what vanishes meanwhile does not count */
	}
	return 0;
}

int fm_tree_bytes(const char *path, uint64_t *ret, struct fm_error *err)
{
	struct stat st;
	uint64_t sum = 0;
	if (lstat(path, &st) < 0 || add_tree_bytes(AT_FDCWD, path, st.st_dev, 0, &sum) < 0)
		return fm_error_errno(err, errno, "cannot measure %s", path);
	*ret = sum;
	return 0;
}

bool fm_path_exists(const char *path)
{
	return faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

int fm_set_nonblocking(int fd, bool on, struct fm_error *err)
{
	int flags = fcntl(fd, F_GETFL), wanted;

	if (flags < 0)
		return fm_error_errno(err, errno, "reading a descriptor's flags");
	wanted = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
	if (wanted != flags && fcntl(fd, F_SETFL, wanted) < 0)
		return fm_error_errno(err, errno, "making a descriptor %s", on ? "non-blocking" : "blocking");
	return 0;
}

int fm_wait_fd(int fd, short events, int timeout_ms, struct fm_error *err)
{
	uint64_t deadline = timeout_ms < 0 ? 0 : fm_now_ms() + (uint64_t)timeout_ms;
	struct pollfd p = { .fd = fd, .events = events };

	for (;;) {
		int n = poll(&p, 1, timeout_ms < 0 ? -1 : fm_deadline_left_ms(deadline));

		if (n > 0 && p.revents & POLLNVAL)
			return fm_error_errno(err, EBADF, "waiting for descriptor %d", fd);
		if (n >= 0)
			return n;
		if (errno != EINTR)
			return fm_error_errno(err, errno, "waiting for descriptor %d", fd);
	}
}
