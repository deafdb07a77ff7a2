/* SPDX-License-Identifier: MIT */
/* memory-files.c - see memory-files.h. */
#include "migration/memory-files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/str.h"
#include "sync/filetree.h"

#define MOUNTINFO_MAX_BYTES (8u << 20)

void fm_memory_trees_done(struct fm_memory_trees *t)
{
	for (size_t i = 0; i < t->n; i++) {
		free(t->v[i].target);
		fm_manifest_free(t->v[i].manifest);
	}
	free(t->v);
	*t = (struct fm_memory_trees){ 0 };
}

void fm_mountinfo_unescape(char *s)
{
	char *to = s;
	for (const char *p = s; *p; p++) {
		if (p[0] == '\\' && p[1] >= '0' && p[1] <= '3' && p[2] >= '0' && p[2] <= '7' && p[3] >= '0' && p[3] <= '7') {
			*to++ = (char)((p[1] - '0') * 64 + (p[2] - '0') * 8 + (p[3] - '0'));
			p += 3;
		} else {
			*to++ = *p;
		}
	}
	*to = '\0';
}

/* ---------------------------------------------------------------- finding */

static struct fm_memory_tree *find(struct fm_memory_trees *t, const char *target)
{
	for (size_t i = 0; i < t->n; i++)
		if (fm_streq(t->v[i].target, target))
			return &t->v[i];
	return NULL;
}

static void drop(struct fm_memory_trees *t, struct fm_memory_tree *one)
{
	free(one->target);
	fm_manifest_free(one->manifest);
	memmove(one, one + 1, (size_t)(&t->v[t->n] - (one + 1)) * sizeof(*one));
	t->n--;
}

static int add(struct fm_memory_trees *t, const struct fm_memory_tree *one, struct fm_error *err)
{
	if (t->n == FM_MAX_MEMORY_TREES)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "more than %d tmpfs mounts whose content would travel",
		                    FM_MAX_MEMORY_TREES);
	struct fm_memory_tree *grown = realloc(t->v, (t->n + 1) * sizeof(*grown));
	if (!grown)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	t->v = grown;
	t->v[t->n] = *one;
	t->v[t->n++].target = fm_xstrdup(one->target);
	return 0;
}

static bool below(const char *path, const char *folder)
{
	size_t n = strlen(folder);
	return fm_str_startswith(path, folder) && (path[n] == '\0' || path[n] == '/');
}

static bool is_somebody_elses(const char *target, char *const *skip)
{
	if (fm_streq(target, "/") || fm_streq(target, "/dev") || below(target, "/proc") || below(target, "/sys") ||
	    below(target, "/.fleximigrate"))
		return true;
	for (; skip && *skip; skip++)
		if (fm_streq(*skip, target))
			return true;
	return false;
}

static bool has_option(const char *options, const char *wanted)
{
	size_t n = strlen(wanted);
	for (const char *p = options; p; p = strchr(p, ','), p = p ? p + 1 : NULL)
		if (strncmp(p, wanted, n) == 0 && (p[n] == ',' || p[n] == '\0'))
			return true;
	return false;
}

/* "36 35 0:30 / /run rw,nosuid shared:5 - tmpfs tmpfs rw,size=64m": what is mounted last at a place counts. */
static int take_line(char *line, char *const *skip, struct fm_memory_trees *t, struct fm_error *err)
{
	_fm_free_ char *root = NULL, *point = NULL, *options = NULL, *type = NULL, *super = NULL;
	const char *dash = strstr(line, " - ");
	unsigned long long id = 0;
	if (sscanf(line, "%llu %*u %*s %ms %ms %ms", &id, &root, &point, &options) != 4 || !dash ||
	    sscanf(dash + 3, "%ms %*s %ms", &type, &super) < 1)
		return 0;
	fm_mountinfo_unescape(point);
	struct fm_memory_tree *old = find(t, point);
	if (old)
		drop(t, old);
	if (!fm_streq(type, "tmpfs") || !fm_streq(root, "/") || point[0] != '/' || strlen(point) >= FM_MAX_PATH ||
	    is_somebody_elses(point, skip))
		return 0;
	struct fm_memory_tree one = { .target = point,
		                      .mount_id = id,
		                      .read_only = has_option(options, "ro") || (super && has_option(super, "ro")) };
	return add(t, &one, err);
}

int fm_memory_trees_parse(char *mountinfo, char *const *skip, struct fm_memory_trees *ret, struct fm_error *err)
{
	struct fm_memory_trees t __attribute__((cleanup(fm_memory_trees_done))) = { 0 };
	char *save = NULL;
	for (char *line = strtok_r(mountinfo, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		if (take_line(line, skip, &t, err) < 0)
			return -1;
	*ret = t;
	t = (struct fm_memory_trees){ 0 };
	return 0;
}

int fm_memory_tree_open(pid_t pid, const char *target, uint64_t mount_id, int *ret_fd, struct fm_error *err)
{
	char root_path[40];
	struct open_how how = { .flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
		                .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS };
	struct statfs fs;
	struct statx x;
	(void)snprintf(root_path, sizeof(root_path), "/proc/%d/root", (int)pid);
	_fm_close_ int root = open(root_path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	_fm_close_ int fd = root < 0 ? -1 : (int)syscall(SYS_openat2, root, target, &how, sizeof(how));
	if (fd < 0)
		return fm_error_errno(err, errno, "cannot open the tmpfs at %s", target);
	if (fstatfs(fd, &fs) < 0 || statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &x) < 0)
		return fm_error_errno(err, errno, "cannot look at the tmpfs at %s", target);
	if (fs.f_type != TMPFS_MAGIC || !(x.stx_attributes & STATX_ATTR_MOUNT_ROOT) || (mount_id && x.stx_mnt_id != mount_id))
		return fm_error_set(err, FM_E_NOT_FOUND, "there is no tmpfs mounted at %s", target);
	*ret_fd = FM_TAKE_FD(fd);
	return 0;
}

static int is_empty(int fd, bool *ret)
{
	_fm_close_ int again = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_fm_closedir_ DIR *d = again < 0 ? NULL : fdopendir(again);
	if (!d)
		return -1;
	(void)FM_TAKE_FD(again); /* d's */
	*ret = true;
	for (const struct dirent *e; *ret && (e = readdir(d));)
		*ret = fm_streq(e->d_name, ".") || fm_streq(e->d_name, "..");
	return 0;
}

/* 1: it is one, 0: hidden by another mount, or it hides something */
static int look(pid_t pid, struct fm_memory_tree *one, struct fm_error *err)
{
	struct fm_error e = FM_ERROR_INIT;
	struct statfs fs;
	bool empty = false;
	_fm_close_ int fd = -1;
	if (fm_memory_tree_open(pid, one->target, one->mount_id, &fd, &e) < 0) {
		if (e.code == FM_E_NOT_FOUND)
			return 0;
		*err = e;
		return -1;
	}
	if (fstatfs(fd, &fs) < 0 || is_empty(fd, &empty) < 0)
		return fm_error_errno(err, errno, "cannot look at the tmpfs at %s", one->target);
	if (one->read_only && empty)
		return 0;
	if (one->read_only)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION,
		                    "the tmpfs at %s is read-only and has something in it, which cannot be made at the destination",
		                    one->target);
	one->bytes = (uint64_t)(fs.f_blocks - fs.f_bfree) * (uint64_t)fs.f_bsize;
	one->names = fs.f_files - fs.f_ffree;
	return 1;
}

int fm_memory_trees_find(pid_t pid, char *const *skip, struct fm_memory_trees *ret, struct fm_error *err)
{
	struct fm_memory_trees t __attribute__((cleanup(fm_memory_trees_done))) = { 0 };
	_fm_free_ char *text = NULL;
	char path[40];
	(void)snprintf(path, sizeof(path), "/proc/%d/mountinfo", (int)pid);
	if (fm_read_file(path, MOUNTINFO_MAX_BYTES, &text, NULL, err) < 0 || fm_memory_trees_parse(text, skip, &t, err) < 0)
		return -1;
	for (size_t i = t.n; i-- > 0;) {
		int is = look(pid, &t.v[i], err);
		if (is < 0)
			return -1;
		if (is == 0)
			drop(&t, &t.v[i]);
	}
	*ret = t;
	t = (struct fm_memory_trees){ 0 };
	return 0;
}

/* ---------------------------------------------------------------- the list */

static void put(uint8_t **p, uint64_t v, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		*(*p)++ = (uint8_t)(v >> (8 * i));
}

static uint64_t get(const uint8_t **p, unsigned bytes)
{
	uint64_t v = 0;
	for (unsigned i = 0; i < bytes; i++)
		v |= (uint64_t) * (*p)++ << (8 * i);
	return v;
}

int fm_memory_list_encode(const struct fm_memory_trees *t, uint8_t **ret, size_t *ret_n, struct fm_error *err)
{
	size_t n = 4;
	for (size_t i = 0; i < t->n; i++)
		n += 18 + strlen(t->v[i].target);
	uint8_t *bytes = malloc(n), *p = bytes;
	if (!bytes)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	put(&p, t->n, 4);
	for (size_t i = 0; i < t->n; i++) {
		size_t len = strlen(t->v[i].target);
		put(&p, t->v[i].bytes, 8);
		put(&p, t->v[i].names, 8);
		put(&p, len, 2);
		memcpy(p, t->v[i].target, len);
		p += len;
	}
	*ret = bytes;
	*ret_n = n;
	return 0;
}

/* Absolute, without empty, "." and ".." parts, and not the root */
static bool is_clean(const char *path)
{
	if (path[0] != '/' || !path[1])
		return false;
	for (const char *p = path; *p;) {
		size_t n = strcspn(++p, "/");
		if (n == 0 || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
			return false;
		p += n;
	}
	return true;
}

static int take_tree(const uint8_t **p, const uint8_t *end, struct fm_memory_trees *t, struct fm_error *err)
{
	char target[FM_MAX_PATH];
	struct fm_memory_tree one = { .target = target };
	if (end - *p < 18)
		return fm_error_set(err, FM_E_DATA_LOSS, "a list of memory trees that ends too early");
	one.bytes = get(p, 8);
	one.names = get(p, 8);
	size_t len = (size_t)get(p, 2);
	if (len >= sizeof(target) || (size_t)(end - *p) < len || memchr(*p, 0, len))
		return fm_error_set(err, FM_E_DATA_LOSS, "a list of memory trees with a wrong length");
	memcpy(target, *p, len);
	target[len] = '\0';
	*p += len;
	if (!is_clean(target) || is_somebody_elses(target, NULL) || find(t, target))
		return fm_error_set(err, FM_E_DATA_LOSS, "no memory tree can be at '%.200s'", target);
	return add(t, &one, err);
}

int fm_memory_list_decode(const uint8_t *bytes, size_t n, struct fm_memory_trees *ret, struct fm_error *err)
{
	struct fm_memory_trees t __attribute__((cleanup(fm_memory_trees_done))) = { 0 };
	const uint8_t *p = bytes, *end = bytes + n;
	if (n < 4)
		return fm_error_set(err, FM_E_DATA_LOSS, "a list of memory trees of %zu bytes", n);
	uint64_t count = get(&p, 4);
	if (count > FM_MAX_MEMORY_TREES)
		return fm_error_set(err, FM_E_DATA_LOSS, "a list of %llu memory trees", (unsigned long long)count);
	for (uint64_t i = 0; i < count; i++)
		if (take_tree(&p, end, &t, err) < 0)
			return -1;
	if (p != end)
		return fm_error_set(err, FM_E_DATA_LOSS, "a list of memory trees with something behind it");
	*ret = t;
	t = (struct fm_memory_trees){ 0 };
	return 0;
}
