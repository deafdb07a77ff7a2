/* SPDX-License-Identifier: MIT */
/*
 * file-known-copy.c - see file-known.h: the copy of an earlier visit, looked through once and then taken from.
 *
 * Whoever may write there (it can be the bundle that the user ran the container from) may put anything in the place of anything. So nothing is opened but through a descriptor
 * that was checked to be a regular file beneath the copy's root, and what has been copied is compared by its hash where it has arrived.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/id.h"
#include "sync/file-known-internal.h"
#include "sync/filetree-internal.h"
#include "sync/open-beneath.h"
#include "sync/stream-internal.h"

#define SCAN_DEPTH_MAX 64u /* descriptors open at once */
#define COPY_BYTES     (1u << 20)

FM_DEFINE_CLEANUP(struct fm_known *, fm_known_free);

/* ---------------------------------------------------------------- looking through it */

struct scan {
	struct fm_known *k;
	struct timespec until;
	int cancel_fd;
	uint32_t files;
	uint64_t bytes;
	char path[FM_TREE_PATH_MAX + 1];
};

static bool is_later(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec != b->tv_sec ? a->tv_sec > b->tv_sec : a->tv_nsec > b->tv_nsec;
}

static int scan_file(struct scan *s, int dirfd, const char *name, struct fm_error *err)
{
	struct stat st;
	uint64_t hash[2];
	_fm_close_ int fd = fm_open_regular_beneath(dirfd, name, &st);
	if (fd < 0 || st.st_size < (off_t)FM_KNOWN_FILE_BYTES_MIN || is_later(&st.st_ctim, &s->until) ||
	    (uint64_t)st.st_size > FM_KNOWN_BYTES_MAX - s->bytes || s->files == FM_KNOWN_FILES_MAX)
		return 0;
	s->files++;
	s->bytes += (uint64_t)st.st_size;
	int r = fm_known_hash(fd, (uint64_t)st.st_size, &s->k->secret, s->cancel_fd, hash, err);
	if (r <= 0)
		return r;
	return fm_known_add(s->k, (uint64_t)st.st_size, hash, s->path, err);
}

static int scan_folder(struct scan *s, int fd, size_t path_len, unsigned depth, struct fm_error *err);

static int scan_name(struct scan *s, int dirfd, const char *name, size_t path_len, unsigned depth, struct fm_error *err)
{
	struct stat st;
	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	if (S_ISREG(st.st_mode))
		return scan_file(s, dirfd, name, err);
	if (!S_ISDIR(st.st_mode) || depth == SCAN_DEPTH_MAX)
		return 0;
	int fd = fm_open_beneath(dirfd, name, O_RDONLY | O_DIRECTORY);
	return fd < 0 ? 0 : scan_folder(s, fd, path_len, depth + 1, err);
}

/* fd is owned. */
static int scan_folder(struct scan *s, int fd, size_t path_len, unsigned depth, struct fm_error *err)
{
	_fm_closedir_ DIR *dir = fdopendir(fd);
	if (!dir) {
		(void)close(fd);
		return 0;
	}
	for (const struct dirent *d; (d = readdir(dir));) {
		size_t n = strlen(d->d_name), slash = path_len ? 1 : 0;
		if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0 || path_len + slash + n > FM_TREE_PATH_MAX)
			continue;
		if (slash)
			s->path[path_len] = '/';
		memcpy(s->path + path_len + slash, d->d_name, n + 1);
		if (scan_name(s, dirfd(dir), d->d_name, path_len + slash + n, depth, err) < 0)
			return -1;
	}
	return 0;
}

int fm_known_scan(int root_fd, const struct timespec *until, int cancel_fd, struct fm_known **ret, struct fm_error *err)
{
	_fm_close_ int root = root_fd;
	_fm_cleanup_(fm_known_freep) struct fm_known *k = NULL;
	_fm_free_ struct scan *s = calloc(1, sizeof(*s));
	if (!s)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	if (fm_known_new(&k, err) < 0)
		return -1;
	*s = (struct scan){ .k = k, .until = *until, .cancel_fd = cancel_fd };
	fm_hash_secret_draw(&k->secret);
	int fd = openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0 && scan_folder(s, fd, 0, 0, err) < 0)
		return -1;
	fm_known_sort(k);
	k->root_fd = FM_TAKE_FD(root);
	*ret = FM_TAKE_PTR(k);
	return 0;
}

/* ---------------------------------------------------------------- taking from it */

enum copied { COPIED, COPY_ENDED, COPY_FAILED };

static enum copied copy_by_hand(int from, int to, uint64_t at, uint64_t end, struct fm_error *err)
{
	_fm_free_ uint8_t *buf = malloc(COPY_BYTES);
	if (!buf) {
		(void)fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for copying a file");
		return COPY_FAILED;
	}
	while (at < end) {
		ssize_t n = pread(from, buf, end - at < COPY_BYTES ? (size_t)(end - at) : COPY_BYTES, (off_t)at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return COPY_ENDED;
		for (ssize_t done = 0; done < n;) {
			ssize_t w = pwrite(to, buf + done, (size_t)(n - done), (off_t)at + done);
			if (w < 0 && errno == EINTR)
				continue;
			if (w <= 0) {
				(void)fm_error_errno(err, w < 0 ? errno : EIO, "cannot write");
				return COPY_FAILED;
			}
			done += w;
		}
		at += (uint64_t)n;
	}
	return COPIED;
}

/* The kernel may share the blocks; where it cannot copy between the two, or stops for a reason of its own, it is done by hand, which tells the reason. */
static enum copied copy_range(int from, int to, uint64_t at, uint64_t end, struct fm_error *err)
{
	while (at < end) {
		off_t in = (off_t)at, out = (off_t)at;
		ssize_t n = copy_file_range(from, &in, to, &out, (size_t)(end - at), 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return copy_by_hand(from, to, at, end, err);
		at += (uint64_t)n;
	}
	return COPIED;
}

static enum copied copy_content(int from, int to, uint64_t size, struct fm_error *err)
{
	enum copied r = COPIED;
	for (uint64_t at = 0; r == COPIED && at < size;) {
		off_t data = lseek(from, (off_t)at, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			break; /* a hole to the end */
		if (data < 0)
			data = (off_t)at; /* no such thing here */
		off_t hole = lseek(from, data, SEEK_HOLE);
		uint64_t end = hole <= data || (uint64_t)hole > size ? size : (uint64_t)hole;
		if ((uint64_t)data >= size)
			break;
		r = copy_range(from, to, (uint64_t)data, end, err);
		at = end;
	}
	if (r == COPIED && ftruncate(to, (off_t)size) < 0) {
		(void)fm_error_errno(err, errno, "cannot make it %llu bytes long", (unsigned long long)size);
		return COPY_FAILED;
	}
	return r;
}

static int spoiled(struct fm_known *k, const char *path, struct fm_error *err)
{
	k->bad = true;
	(void)fm_error_set(err, FM_E_DATA_LOSS, "'%s' of the copy from an earlier visit is not what it was", path);
	return fm_error_hint(err, "the copy is dropped: the next attempt sends everything");
}

int fm_known_fill(struct fm_known *k, const uint8_t name[FM_KNOWN_HASH_BYTES], uint64_t size, int fd, int cancel_fd, struct fm_error *err)
{
	uint64_t hash[2] = { fm_get_le64(name), fm_get_le64(name + 8) }, got[2];
	const struct fm_known_file *f = fm_known_lookup(k, size, hash);
	struct stat st;
	if (!f || k->root_fd < 0)
		return fm_error_set(err, FM_E_DATA_LOSS, "a content is said to be known that is not");
	const char *path = k->paths + f->path;
	_fm_close_ int from = fm_open_regular_beneath(k->root_fd, path, &st);
	if (from < 0 || (uint64_t)st.st_size != size)
		return spoiled(k, path, err);
	switch (copy_content(from, fd, size, err)) {
	case COPIED:
		break;
	case COPY_ENDED:
		return spoiled(k, path, err);
	case COPY_FAILED:
		return -1;
	}
	int r = fm_known_hash(fd, size, &k->secret, cancel_fd, got, err);
	if (r < 0)
		return -1;
	if (r == 0 || got[0] != hash[0] || got[1] != hash[1])
		return spoiled(k, path, err);
	return 0;
}
