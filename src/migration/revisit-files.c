/* SPDX-License-Identifier: MIT */
/*
 * revisit-files.c - see revisit-files.h. Everything that comes or goes does so by one rename; trees are removed under a name of their own, so nobody finds half of one.
 */
#include "migration/revisit-files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/id.h"
#include "basic/io.h"
#include "basic/str.h"
#include "container/bundle.h"

#define GONE_PREFIX ".gone."
#define DAY_S       86400
#define FOUND_MAX   4096u /* more than ever are there */

static char *place(const struct fm_host *h, const char *container)
{
	return fm_xasprintf("%s/%s", h->visited_dir, container);
}

/* ---------------------------------------------------------------- going */

static int remove_at(struct fm_host *h, const char *path, struct fm_error *err)
{
	char token[FM_TOKEN_LEN + 1];
	fm_token_new(token);
	_fm_free_ char *gone = fm_xasprintf("%s/" GONE_PREFIX "%s", h->visited_dir, token);
	if (rename(path, gone) < 0)
		return errno == ENOENT ? 0 : fm_error_errno(err, errno, "cannot remove %s", path);
	return fm_remove_tree(gone, err);
}

int fm_revisit_files_remove(struct fm_host *h, const char *container, struct fm_error *err)
{
	if (!fm_name_is_valid(container))
		return 0;
	_fm_free_ char *path = place(h, container);
	return remove_at(h, path, err);
}

/* ---------------------------------------------------------------- coming */

static bool is_folder(const char *path)
{
	struct stat st;
	return lstat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* The root filesystem in the user's bundle, NULL when there is none, or when it is one of ours (and gone already). */
static char *users_rootfs(const struct fm_host *h, const char *instance_dir)
{
	struct fm_bundle_info info __attribute__((cleanup(fm_bundle_info_done))) = { 0 };
	_fm_free_ char *bundle = fm_xasprintf("%s/bundle", instance_dir);
	_fm_free_ char *config = NULL;
	_fm_free_ char *ours = fm_xasprintf("%s/", h->state_dir);
	if (fm_bundle_read(bundle, &config, &info, NULL) < 0 || fm_str_startswith(info.rootfs, ours) || !is_folder(info.rootfs))
		return NULL;
	return FM_TAKE_PTR(info.rootfs);
}

int fm_revisit_files_keep(struct fm_host *h, const char *container, const char *instance, struct fm_error *err)
{
	if (!h->revisit_files_max_bytes || !fm_name_is_valid(container) || !fm_name_is_valid(instance))
		return 0;
	_fm_free_ char *dir = fm_xasprintf("%s/%s", h->instances_dir, instance);
	_fm_free_ char *own = fm_xasprintf("%s/rootfs", dir);
	_fm_free_ char *path = place(h, container);
	_fm_free_ char *users = is_folder(own) ? NULL : users_rootfs(h, dir);
	if (!users && !is_folder(own))
		return 0; /* none, or moved before a crash */
	if (remove_at(h, path, err) < 0)
		return -1;
	/* The moment of leaving, see fm_revisit_files_open: before it moves, so that what was moved has it whatever happens. */
	if (!users && utimensat(AT_FDCWD, own, NULL, AT_SYMLINK_NOFOLLOW) < 0)
		return fm_error_errno(err, errno, "cannot stamp %s", own);
	if ((users ? symlink(users, path) : rename(own, path)) < 0)
		return fm_error_errno(err, errno, "cannot keep the root filesystem of '%s' as %s", container, path);
	return fm_revisit_files_trim(h, true, err);
}

void fm_revisit_files_open(struct fm_host *h, const char *container, int *ret_fd, struct timespec *ret_since)
{
	struct stat st;
	_fm_free_ char *path = place(h, container);
	*ret_fd = -1;
	if (!fm_name_is_valid(container) || lstat(path, &st) < 0)
		return;
	*ret_since = st.st_mtim;
	_fm_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* a link is one of ours, and followed */
	if (fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) == 0)
		*ret_fd = FM_TAKE_FD(fd);
}

/* ---------------------------------------------------------------- bounds */

struct found {
	char name[NAME_MAX + 1];
	struct timespec since;
	uint64_t bytes;
};

static int newest_first(const void *a, const void *b)
{
	const struct found *x = a, *y = b;
	if (x->since.tv_sec != y->since.tv_sec)
		return x->since.tv_sec > y->since.tv_sec ? -1 : 1;
	return x->since.tv_nsec != y->since.tv_nsec ? (x->since.tv_nsec > y->since.tv_nsec ? -1 : 1) : strcmp(x->name, y->name);
}

static uint64_t own_bytes(const char *path, const struct stat *st)
{
	uint64_t n = 0;
	if (S_ISDIR(st->st_mode))
		(void)fm_tree_bytes(path, &n, NULL);
	return n;
}

static struct found *look(struct fm_host *h, bool measure, size_t *ret_n)
{
	struct found *v = NULL;
	size_t n = 0, cap = 0;
	_fm_closedir_ DIR *d = opendir(h->visited_dir);
	for (struct dirent *e; d && n < FOUND_MAX && (e = readdir(d));) {
		struct stat st;
		_fm_free_ char *path = place(h, e->d_name);
		if (e->d_name[0] == '.' || lstat(path, &st) < 0)
			continue;
		if (n == cap) {
			struct found *more = realloc(v, (cap = cap ? cap * 2 : FM_REVISIT_FILES_MAX) * sizeof(*v));
			if (!more)
				break;
			v = more;
		}
		v[n] = (struct found){ .since = st.st_mtim, .bytes = measure ? own_bytes(path, &st) : 0 };
		(void)snprintf(v[n++].name, sizeof(v->name), "%s", e->d_name);
	}
	if (n)
		qsort(v, n, sizeof(*v), newest_first);
	*ret_n = n;
	return v;
}

/* What somebody was interrupted at removing. */
static void finish_removals(struct fm_host *h)
{
	_fm_closedir_ DIR *d = opendir(h->visited_dir);
	for (struct dirent *e; d && (e = readdir(d));) {
		_fm_free_ char *path = place(h, e->d_name);
		if (fm_str_startswith(e->d_name, GONE_PREFIX))
			(void)fm_remove_tree(path, NULL);
	}
}

/* Not what a destination reads just now. A link can go at any time: whoever reads has the folder. */
static int let_go(struct fm_host *h, const struct found *f, struct fm_error *err)
{
	_fm_free_ char *path = place(h, f->name);
	_fm_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0)
		return 0;
	return remove_at(h, path, err);
}

static bool disk_is_full(const struct fm_host *h)
{
	struct statvfs s;
	return statvfs(h->visited_dir, &s) == 0 && (uint64_t)s.f_bavail * FM_REVISIT_FILES_FREE_PART_MIN < s.f_blocks;
}

static uint64_t bytes_max(const struct fm_host *h)
{
	struct statvfs s;
	if (h->revisit_files_max_bytes != FM_REVISIT_FILES_TENTH)
		return h->revisit_files_max_bytes;
	return statvfs(h->visited_dir, &s) == 0 ? (uint64_t)s.f_blocks * s.f_frsize / 10 : 0;
}

int fm_revisit_files_trim(struct fm_host *h, bool measure, struct fm_error *err)
{
	int rc = 0;
	size_t n = 0, keep = 0;
	uint64_t max = bytes_max(h), sum = 0;
	time_t now = time(NULL);
	finish_removals(h);
	_fm_free_ struct found *v = look(h, measure, &n);
	while (keep < n && keep < FM_REVISIT_FILES_MAX && max && v[keep].since.tv_sec > now - (time_t)FM_REVISIT_FILES_DAYS_MAX * DAY_S &&
	       v[keep].bytes <= max - sum)
		sum += v[keep++].bytes;
	while (n > 0 && (n > keep || disk_is_full(h)))
		if (let_go(h, &v[--n], err) < 0)
			rc = -1;
	return rc;
}

void fm_revisit_files_usage(struct fm_host *h, unsigned *ret_n, uint64_t *ret_bytes)
{
	size_t n = 0;
	_fm_free_ struct found *v = look(h, true, &n);
	*ret_n = (unsigned)n;
	*ret_bytes = 0;
	for (size_t i = 0; i < n; i++)
		*ret_bytes += v[i].bytes;
}
