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
			err->code = FM_E_INTERNAL;
	}
	return -1;
}

int fm_engine_take_root(const char *from, const char *to, struct fm_error *err)
{
	_fm_close_ int f = open(from, O_RDONLY | O_DIRECTORY | O_CLOEXEC), t = open(to, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	_fm_cleanup_(fm_strv_freep) char **names = NULL;
	struct stat a, b;

	if (f < 0 || t < 0 || fstat(f, &a) < 0 || fstat(t, &b) < 0)
		return fm_error_errno(err, errno, "opening %s and %s", from, to);
	if (a.st_dev != b.st_dev) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION,
		                   "the root filesystem %s is on another filesystem than the engine's store %s", from, to);
		return fm_error_hint(err, "let the agent's state folder and the engine's data root be on the same filesystem");
	}
	if (names_of(from, &names, err) < 0 || clear(to, err) < 0 || copy_attributes(f, t, err) < 0)
		return -1;
	return move(f, t, names, err);
}
