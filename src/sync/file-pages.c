/* SPDX-License-Identifier: MIT */
/* file-pages.c - see file-pages.h. */
#include "sync/file-pages.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "sync/filetree-internal.h"
#include "sync/open-beneath.h"

#define PAGE         4096u
#define DEPTH_MAX    64u           /* descriptors open at once */
#define WINDOW_BYTES (16ull << 20) /* of a file, looked up in the page cache at once */
#define BATCH_PAGES  64u
#define PATHS_MAX    (4u << 20) /* bytes */

struct file {
	uint64_t size;
	size_t root;
	char *path; /* beneath it; NULL: the root itself */
};

struct look {
	struct fm_page_store *store;
	const struct fm_file_pages_opts *o;
	uint64_t end_ms, walk_end_ms;
	int *roots; /* O_PATH; -1: not there */
	size_t n_roots;
	struct file *files;
	size_t n, paths_bytes;
	char path[FM_TREE_PATH_MAX + 1];
	uint8_t cached[WINDOW_BYTES / PAGE];
	uint8_t pages[BATCH_PAGES * PAGE];
	struct fm_file_pages_result got;
};

static void look_free(struct look *l)
{
	if (!l)
		return;
	for (size_t i = 0; i < l->n; i++)
		free(l->files[i].path);
	for (size_t i = 0; l->roots && i < l->n_roots; i++)
		fm_closep(&l->roots[i]);
	free(l->roots);
	free(l->files);
	free(l);
}
FM_DEFINE_CLEANUP(struct look *, look_free);

/* ---------------------------------------------------------------- which files */

static bool walk_is_over(const struct look *l)
{
	return l->n == FM_FILE_PAGES_FILES_MAX || fm_deadline_left_ms(l->walk_end_ms) == 0;
}

/* path: NULL: the root itself */
static void add_file(struct look *l, size_t root, const char *path, uint64_t size)
{
	size_t len = path ? strlen(path) + 1 : 0;

	if (size < FM_FILE_PAGES_FILE_BYTES_MIN || walk_is_over(l) || len > PATHS_MAX - l->paths_bytes)
		return;
	struct file f = { .size = size, .root = root, .path = path ? strdup(path) : NULL };
	if (path && !f.path)
		return;
	l->paths_bytes += len;
	l->files[l->n++] = f;
}

static void walk(struct look *l, size_t root, int fd, size_t path_len, unsigned depth);

static void visit(struct look *l, size_t root, int dirfd, const char *name, size_t path_len, unsigned depth)
{
	struct stat st;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return;
	if (S_ISREG(st.st_mode)) {
		add_file(l, root, l->path, (uint64_t)st.st_size);
		return;
	}
	if (!S_ISDIR(st.st_mode) || depth == DEPTH_MAX)
		return;
	int fd = fm_open_beneath(dirfd, name, O_RDONLY | O_DIRECTORY);
	if (fd >= 0)
		walk(l, root, fd, path_len, depth + 1);
}

/* fd is owned. */
static void walk(struct look *l, size_t root, int fd, size_t path_len, unsigned depth)
{
	_fm_closedir_ DIR *dir = fdopendir(fd);

	if (!dir) {
		(void)close(fd);
		return;
	}
	for (const struct dirent *d; !walk_is_over(l) && (d = readdir(dir));) {
		size_t n = strlen(d->d_name), slash = path_len ? 1 : 0;
		if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0 || path_len + slash + n > FM_TREE_PATH_MAX)
			continue;
		if (slash)
			l->path[path_len] = '/';
		memcpy(l->path + path_len + slash, d->d_name, n + 1);
		visit(l, root, dirfd(dir), d->d_name, path_len + slash + n, depth);
	}
}

static int largest_first(const void *a, const void *b)
{
	const struct file *x = a, *y = b;

	return x->size < y->size ? 1 : x->size > y->size ? -1 : 0;
}

static void find_files(struct look *l, const char *const *roots)
{
	for (size_t i = 0; i < l->n_roots; i++) {
		struct stat st;
		l->roots[i] = open(roots[i], O_PATH | O_NOFOLLOW | O_CLOEXEC);
		if (l->roots[i] < 0 || fstat(l->roots[i], &st) < 0)
			continue;
		if (S_ISREG(st.st_mode))
			add_file(l, i, NULL, (uint64_t)st.st_size);
		int fd = S_ISDIR(st.st_mode) ? openat(l->roots[i], ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
		if (fd >= 0)
			walk(l, i, fd, 0, 0);
	}
	if (l->n)
		qsort(l->files, l->n, sizeof(*l->files), largest_first);
}

/* ---------------------------------------------------------------- their pages */

static bool is_over(const struct look *l)
{
	return (l->got.pages_put + BATCH_PAGES) * PAGE > l->o->max_bytes || fm_deadline_left_ms(l->end_ms) == 0 ||
	       fm_wait_fd(l->o->cancel_fd, POLLIN, 0, NULL) > 0;
}

/* Whole pages that could be read without waiting for a disk; what was in the cache may not be any more. Filesystems that know no such thing are asked in the usual way, for just that. */
static size_t read_cached(struct look *l, int fd, uint64_t offset, size_t n)
{
	struct iovec v = { .iov_base = l->pages, .iov_len = n * PAGE };
	ssize_t r = preadv2(fd, &v, 1, (off_t)offset, RWF_NOWAIT);

	if (r < 0 && errno == EOPNOTSUPP)
		r = pread(fd, l->pages, n * PAGE, (off_t)offset);
	return r > 0 ? (size_t)r / PAGE : 0;
}

static int put_pages(struct look *l, size_t n, struct fm_error *err)
{
	for (size_t i = 0; i < n; i++) {
		bool is_new = false;
		if (fm_page_store_put_new(l->store, FM_FILE_PAGES_PID, l->got.pages_put * PAGE, l->pages + i * PAGE, &is_new, err) < 0)
			return -1;
		l->got.pages_put += is_new;
	}
	l->got.pages_read += n;
	return 0;
}

/* A run of pages of which all are cached; 1: it is enough */
static int put_run(struct look *l, int fd, uint64_t offset, size_t n, struct fm_error *err)
{
	for (size_t k; n > 0; n -= k, offset += (uint64_t)k * PAGE) {
		k = n < BATCH_PAGES ? n : BATCH_PAGES;
		if (is_over(l))
			return 1;
		if (put_pages(l, read_cached(l, fd, offset, k), err) < 0)
			return -1;
	}
	return 0;
}

/* Which pages are in the cache. The mapping is only asked about: the file may become shorter at any time, and then touching it would be the end of this process. */
static bool ask_cache(struct look *l, int fd, uint64_t offset, size_t n)
{
	void *p = mmap(NULL, n * PAGE, PROT_NONE, MAP_SHARED, fd, (off_t)offset);

	if (p == MAP_FAILED)
		return false;
	bool known = mincore(p, n * PAGE, l->cached) == 0;
	(void)munmap(p, n * PAGE);
	return known;
}

static int put_window(struct look *l, int fd, uint64_t offset, size_t n, struct fm_error *err)
{
	int rc = 0;

	if (!ask_cache(l, fd, offset, n))
		return 0;
	for (size_t i = 0, k; i < n && rc == 0; i += k ? k : 1) {
		for (k = 0; i + k < n && (l->cached[i + k] & 1); k++)
			;
		if (k)
			rc = put_run(l, fd, offset + i * PAGE, k, err);
	}
	return rc;
}

static int put_file(struct look *l, const struct file *f, struct fm_error *err)
{
	struct stat st;
	int rc = 0;

	_fm_close_ int fd = f->path ? fm_open_regular_beneath(l->roots[f->root], f->path, &st) : fm_open_regular_at(l->roots[f->root], &st);
	if (fd < 0)
		return 0;
	l->got.files++;
	(void)posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM); /* no reading ahead, should a page be gone */
	uint64_t end = (uint64_t)st.st_size / PAGE * PAGE;
	for (uint64_t at = 0; at < end && rc == 0; at += WINDOW_BYTES)
		rc = is_over(l) ? 1 : put_window(l, fd, at, (end - at < WINDOW_BYTES ? end - at : WINDOW_BYTES) / PAGE, err);
	return rc;
}

int fm_file_pages_put(struct fm_page_store *store, const char *const *roots, size_t n_roots, const struct fm_file_pages_opts *o,
                      struct fm_file_pages_result *ret, struct fm_error *err)
{
	uint64_t now = fm_now_ms();
	struct fm_file_pages_opts within = *o;
	int rc = 0;

	if (within.max_bytes > FM_FILE_PAGES_BYTES_MAX)
		within.max_bytes = FM_FILE_PAGES_BYTES_MAX;
	_fm_cleanup_(look_freep) struct look *l = calloc(1, sizeof(*l));
	if (l) {
		l->roots = malloc((n_roots ? n_roots : 1) * sizeof(*l->roots));
		l->files = calloc(FM_FILE_PAGES_FILES_MAX, sizeof(*l->files));
	}
	if (!l || !l->roots || !l->files)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for looking at files");
	l->store = store;
	l->o = &within;
	/* A tree of very many files must not take all the time for finding the largest. */
	l->walk_end_ms = now + o->max_ms / 2;
	l->end_ms = now + o->max_ms;
	l->n_roots = n_roots;
	memset(l->roots, 0xff, (n_roots ? n_roots : 1) * sizeof(*l->roots)); /* -1 */
	find_files(l, roots);
	for (size_t i = 0; i < l->n && rc == 0; i++)
		rc = put_file(l, &l->files[i], err);
	*ret = l->got;
	return rc < 0 ? -1 : 0;
}
