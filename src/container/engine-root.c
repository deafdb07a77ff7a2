/* SPDX-License-Identifier: MIT */
/*
 * engine-root.c - a root filesystem that moves into an engine's own store: see engine.h.
 *
 * Names are renamed one by one, so nothing is copied however large it is, and the way back is the same. The folder itself stays: its owner, mode and times are given to the layer, whose top is the container's root.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "basic/io.h"
#include "basic/str.h"
#include "container/engine.h"

#define MAX_TOP_ENTRIES 65536 /* of a root folder */

static int names_of(const char *path, char ***ret, struct fm_error *err)
{
	_fm_closedir_ DIR *d = opendir(path);
	_fm_cleanup_(fm_strv_freep) char **v = NULL;
	struct dirent *e;
	size_t n = 0;

	if (!d)
		return fm_error_errno(err, errno, "opening %s", path);
	while (errno = 0, (e = readdir(d)) != NULL) {
		if (fm_streq(e->d_name, ".") || fm_streq(e->d_name, ".."))
			continue;
		if (++n > MAX_TOP_ENTRIES)
			return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "%s has more than %d entries", path, MAX_TOP_ENTRIES);
		fm_strv_add(&v, e->d_name);
	}
	if (errno)
		return fm_error_errno(err, errno, "reading %s", path);
	*ret = FM_TAKE_PTR(v);
	return 0;
}

/* What the engine has put there (a working directory, say) would be in the way. */
static int clear(const char *path, struct fm_error *err)
{
	_fm_cleanup_(fm_strv_freep) char **names = NULL;

	if (names_of(path, &names, err) < 0)
		return -1;
	for (size_t i = 0; names && names[i]; i++) {
		_fm_free_ char *p = fm_xasprintf("%s/%s", path, names[i]);

		if (fm_remove_tree(p, err) < 0)
			return -1;
	}
	return 0;
}

static int copy_attributes(int from, int to, struct fm_error *err)
{
	struct stat st;

	if (fstat(from, &st) < 0 || fchown(to, st.st_uid, st.st_gid) < 0 || fchmod(to, st.st_mode & 07777) < 0 ||
	    futimens(to, (struct timespec[2]){ st.st_atim, st.st_mtim }) < 0)
		return fm_error_errno(err, errno, "the root folder's owner, mode and times");
	return 0;
}

/* The first n names, moved back. */
static int give_back(int from, int to, char *const *names, size_t n)
{
	int rc = 0;

	for (size_t i = 0; i < n; i++)
		if (renameat(to, names[i], from, names[i]) < 0)
			rc = -1;
	return rc;
}

static int move(int from, int to, char *const *names, struct fm_error *err)
{
	size_t n = 0;

	for (; names && names[n]; n++)
		if (renameat(from, names[n], to, names[n]) < 0)
			break;
	if (!names || !names[n])
		return 0;
	(void)fm_error_errno(err, errno, "moving %s into the engine's layer", names[n]);
	if (give_back(from, to, names, n) < 0) {
		(void)fm_error_prefix(err, "what was moved before could not be moved back");
		(void)fm_error_hint(err, "it is in the container's layer still: look there before the container is removed");
		if (err)
			err->code = FM_E_DATA_LOSS;
	}
	return -1;
}

/* The length of the longest folder that both are below. */
static size_t common(const char *a, const char *b)
{
	size_t n = 0;

	for (size_t i = 0; a[i] && a[i] == b[i]; i++)
		if (a[i] == '/')
			n = i;
	return n ? n : 1;
}

static int open_below(int base, const char *path, size_t skip, int *ret, struct fm_error *err)
{
	const char *below = path + skip + (path[skip] == '/');
	struct stat a, b;
	_fm_close_ int fd = openat(base, below, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &a) < 0 || stat(path, &b) < 0 || a.st_dev != b.st_dev || a.st_ino != b.st_ino) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "%s is on another filesystem than what it has to be moved to or from",
		                   path);
		return fm_error_hint(err, "let the agent's state folder and the engine's data root be on the same filesystem");
	}
	*ret = FM_TAKE_FD(fd);
	return 0;
}

/*
 * Both folders, seen through one mount: Docker mounts its store's folder onto itself, and nothing can be renamed from one mount to another, the same filesystem or not. A private copy of the mount that both are below, without what is
 * mounted on it, goes when its descriptor is closed.
 */
static int open_both(const char *from, const char *to, int *ret_from, int *ret_to, struct fm_error *err)
{
	_fm_free_ char *a = realpath(from, NULL), *b = realpath(to, NULL), *above = NULL;
	_fm_close_ int base = -1, f = -1, t = -1;

	if (!a || !b)
		return fm_error_errno(err, errno, "opening %s and %s", from, to);
	size_t n = common(a, b);
	above = fm_xasprintf("%.*s", (int)n, a);
	base = open_tree(AT_FDCWD, above, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (base < 0)
		return fm_error_errno(err, errno, "a view of %s without its mounts", above);
	if (open_below(base, a, n == 1 ? 0 : n, &f, err) < 0 || open_below(base, b, n == 1 ? 0 : n, &t, err) < 0)
		return -1;
	*ret_from = FM_TAKE_FD(f);
	*ret_to = FM_TAKE_FD(t);
	return 0;
}

int fm_engine_take_root(const char *from, const char *to, struct fm_error *err)
{
	_fm_cleanup_(fm_strv_freep) char **names = NULL;
	_fm_close_ int f = -1, t = -1;

	if (open_both(from, to, &f, &t, err) < 0 || names_of(from, &names, err) < 0 || clear(to, err) < 0 || copy_attributes(f, t, err) < 0)
		return -1;
	return move(f, t, names, err);
}
