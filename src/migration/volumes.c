/* SPDX-License-Identifier: MIT */
/* volumes.c - see volumes.h. What is remembered is in volume-records.c. */
#include "migration/volumes.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "basic/io.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "container/bundle.h"
#include "migration/memory-files.h"
#include "migration/pb.h"

#define LABEL               "fleximigrate.volumes"
#define MOUNTINFO_MAX_BYTES (8u << 20)

static void volume_done(struct fm_volume *v)
{
	free(v->path);
	free(v->where);
	free(v->target);
	free(v->lineage);
}

void fm_volumes_done(struct fm_volumes *vs)
{
	for (size_t i = 0; i < vs->n; i++)
		volume_done(&vs->v[i]);
	free(vs->v);
	*vs = (struct fm_volumes){ 0 };
}

/* ---------------------------------------------------------------- paths */

char *fm_volume_path_clean(const char *path)
{
	struct fm_buf b = FM_BUF_INIT;
	if (!path || path[0] != '/')
		return NULL;
	for (const char *p = path; *p;) {
		while (*p == '/')
			p++;
		size_t n = strcspn(p, "/");
		if (n == 2 && p[0] == '.' && p[1] == '.') {
			fm_buf_done(&b);
			return NULL;
		}
		if (n && !(n == 1 && p[0] == '.'))
			fm_buf_addf(&b, "/%.*s", (int)n, p);
		p += n;
	}
	return b.data ? b.data : fm_xstrdup("/");
}

/* a itself or something in it */
static bool is_within(const char *path, const char *a)
{
	size_t n = strlen(a);
	return fm_streq(a, "/") || (fm_str_startswith(path, a) && (path[n] == '\0' || path[n] == '/'));
}

bool fm_paths_overlap(const char *a, const char *b)
{
	return is_within(a, b) || is_within(b, a);
}

int fm_volume_identity(const char *path, char ret[FM_VOLUME_ID_LEN + 1], struct fm_error *err)
{
	struct statx x;
	if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_TYPE | STATX_INO | STATX_BTIME, &x) < 0)
		return fm_error_errno(err, errno, "cannot look at %s", path);
	bool born = x.stx_mask & STATX_BTIME;
	return fm_snprintf(ret, FM_VOLUME_ID_LEN + 1, err, "%o:%llu:%lld.%09u", (unsigned)(x.stx_mode & S_IFMT),
	                   (unsigned long long)x.stx_ino, born ? (long long)x.stx_btime.tv_sec : 0, born ? x.stx_btime.tv_nsec : 0);
}

bool fm_volume_is(const char *path, const char *identity)
{
	char now[FM_VOLUME_ID_LEN + 1];
	return identity && identity[0] && fm_volume_identity(path, now, NULL) == 0 && fm_streq(now, identity);
}

/* An empty lost+found says only that the file system is new. */
static bool counts(int dirfd, const char *name)
{
	struct stat st;
	return !(fm_streq(name, ".") || fm_streq(name, "..") ||
	         (fm_streq(name, "lost+found") && fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode) &&
	          st.st_nlink == 2));
}

int fm_volume_is_empty(const char *path, bool *ret, struct fm_error *err)
{
	struct stat st;
	if (lstat(path, &st) < 0)
		return fm_error_errno(err, errno, "cannot look at %s", path);
	if (!S_ISDIR(st.st_mode)) {
		*ret = S_ISREG(st.st_mode) && st.st_size == 0;
		return 0;
	}
	_fm_closedir_ DIR *d = opendir(path);
	if (!d)
		return fm_error_errno(err, errno, "cannot read %s", path);
	*ret = true;
	for (const struct dirent *e; *ret && (e = readdir(d));)
		*ret = !counts(dirfd(d), e->d_name);
	return 0;
}

int fm_volume_empty(const char *path, struct fm_error *err)
{
	struct stat st;
	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : fm_error_errno(err, errno, "cannot look at %s", path);
	if (S_ISREG(st.st_mode))
		return truncate(path, 0) < 0 ? fm_error_errno(err, errno, "cannot empty %s", path) : 0;
	_fm_closedir_ DIR *d = opendir(path);
	if (!d)
		return fm_error_errno(err, errno, "cannot read %s", path);
	_fm_cleanup_(fm_strv_freep) char **names = NULL; /* removing while reading may skip some */
	for (const struct dirent *e; (e = readdir(d));)
		if (counts(dirfd(d), e->d_name))
			fm_strv_add(&names, e->d_name);
	for (char **n = names; n && *n; n++) {
		_fm_free_ char *one = fm_xasprintf("%s/%s", path, *n);
		if (fm_remove_tree(one, err) < 0)
			return -1;
	}
	return 0;
}

/* ---------------------------------------------------------------- the label */

static bool contains(char *const *v, const char *s)
{
	for (; v && *v; v++)
		if (fm_streq(*v, s))
			return true;
	return false;
}

static int parse_shared(const char *list, char *const *targets, char ***ret, struct fm_error *err)
{
	_fm_cleanup_(fm_strv_freep) char **v = NULL;
	for (const char *p = list;; p++) {
		size_t n = strcspn(p, ",");
		_fm_free_ char *one = fm_xasprintf("%.*s", (int)n, p);
		_fm_free_ char *clean = fm_volume_path_clean(one);
		if (!clean || !contains(targets, clean))
			return fm_error_set(err, FM_E_INVALID_ARGUMENT,
			                    "label " LABEL " names '%s', where the container has no writable volume", one);
		fm_strv_add(&v, clean);
		p += n;
		if (!*p)
			break;
	}
	*ret = FM_TAKE_PTR(v);
	return 0;
}

int fm_volumes_label(const FM_PB(Container) * c, char *const *targets, bool *ret_all, char ***ret_shared, struct fm_error *err)
{
	*ret_all = false;
	*ret_shared = NULL;
	for (size_t i = 0; i < c->n_labels; i++) {
		const char *value = c->labels[i]->value;
		if (!fm_streq(c->labels[i]->key, LABEL))
			continue;
		if (fm_str_startswith(value, "shared:"))
			return parse_shared(value + strlen("shared:"), targets, ret_shared, err);
		if (!fm_streq(value, "shared"))
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "label " LABEL "=%s is neither 'shared' nor 'shared:PATH,…'",
			                    value);
		*ret_all = true;
	}
	return 0;
}

/* ---------------------------------------------------------------- what stands in the way */

bool fm_volume_is_used(struct fm_host *h, const char *where, const char *container, char *name, size_t cap)
{
	_fm_free_ struct fm_instance *v = NULL;
	size_t n = 0;
	bool used = false;
	if (h->runtime->ops->list(h->runtime, &v, &n, NULL) < 0) {
		if (name)
			(void)snprintf(name, cap, "?");
		return true; /* unknown is not "no" */
	}
	for (size_t i = 0; i < n && !used; i++) {
		struct fm_local l __attribute__((cleanup(fm_local_done))) = FM_LOCAL_INIT;
		struct fm_bundle_info info __attribute__((cleanup(fm_bundle_info_done))) = { 0 };
		_fm_free_ char *config = NULL;
		if (fm_instances_open(h, v[i].id, &l, NULL) < 0 || fm_streq(l.container->name, container) ||
		    fm_bundle_read(l.container->bundle, &config, &info, NULL) < 0)
			continue;
		char **lists[] = { info.volumes, info.read_only };
		for (size_t k = 0; k < FM_ARRAY_SIZE(lists) && !used; k++)
			for (char **p = lists[k]; p && *p && !used; p++) {
				_fm_free_ char *real = realpath(*p, NULL);
				used = real && fm_paths_overlap(real, where);
			}
		if (used && name)
			(void)snprintf(name, cap, "%s", l.container->name);
	}
	return used;
}

static bool is_pseudo(const char *path)
{
	static const long kinds[] = { PROC_SUPER_MAGIC, SYSFS_MAGIC,      CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, DEBUGFS_MAGIC,
		                      TRACEFS_MAGIC,    SECURITYFS_MAGIC, BPF_FS_MAGIC,       DEVPTS_SUPER_MAGIC };
	struct statfs fs;
	if (statfs(path, &fs) < 0)
		return false;
	for (size_t i = 0; i < FM_ARRAY_SIZE(kinds); i++)
		if ((long)fs.f_type == kinds[i])
			return true;
	return false;
}

/* Something mounted below a volume would stay behind. */
static char *mounted_below(const char *where)
{
	_fm_free_ char *text = NULL;
	char *save = NULL;
	if (fm_read_file("/proc/self/mountinfo", MOUNTINFO_MAX_BYTES, &text, NULL, NULL) < 0)
		return fm_xstrdup("something that cannot be found out");
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		_fm_free_ char *point = NULL;
		if (sscanf(line, "%*d %*d %*s %*s %ms", &point) != 1)
			continue;
		fm_mountinfo_unescape(point);
		if (is_within(point, where) && !fm_streq(point, where))
			return FM_TAKE_PTR(point);
	}
	return NULL;
}

/* Does the container have what is at that path now? A folder may have been renamed, a file replaced, since it was started. */
static bool is_what_is_mounted(const struct fm_local *l, const struct fm_volume *v)
{
	_fm_free_ char *root_path = fm_xasprintf("/proc/%d/root", (int)l->pid1);
	struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT };
	struct stat a, b;
	_fm_close_ int root = open(root_path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	_fm_close_ int fd = root < 0 ? -1 : (int)syscall(SYS_openat2, root, v->target, &how, sizeof(how));
	return fd >= 0 && fstat(fd, &a) == 0 && stat(v->where, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static void add_file_mount_points(int root, const char *rootfs, char *const *sources, char *const *targets, char ***ret)
{
	struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT };
	for (size_t i = 0; sources && sources[i]; i++) {
		char link[48], path[FM_MAX_PATH];
		struct stat st;
		if (stat(sources[i], &st) < 0 || S_ISDIR(st.st_mode))
			continue;
		_fm_close_ int fd = (int)syscall(SYS_openat2, root, targets[i], &how, sizeof(how));
		(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		ssize_t n = fd < 0 ? -1 : readlink(link, path, sizeof(path) - 1);
		if (n < 0)
			continue;
		path[n] = '\0';
		if (is_within(path, rootfs) && !fm_streq(path, rootfs))
			fm_strv_add(ret, path + strlen(rootfs) + 1);
	}
}

void fm_file_mount_points(const struct fm_bundle_info *info, char ***ret)
{
	_fm_free_ char *rootfs = realpath(info->rootfs, NULL);
	_fm_close_ int root = rootfs ? open(rootfs, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
	if (root < 0 || fm_streq(rootfs, "/"))
		return;
	add_file_mount_points(root, rootfs, info->volumes, info->volume_targets, ret);
	add_file_mount_points(root, rootfs, info->read_only, info->read_only_targets, ret);
}

/* Why this one cannot travel, or NULL */
static char *obstacle(struct fm_host *h, const struct fm_local *l, struct fm_volume *v)
{
	struct stat st;
	char other[128];
	if (!v->where || stat(v->where, &st) < 0)
		return fm_xasprintf("cannot be looked at (%s)", strerror(errno));
	if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode))
		return fm_xstrdup("is neither a folder nor a regular file");
	v->file = S_ISREG(st.st_mode);
	if (is_pseudo(v->where))
		return fm_xstrdup("is the kernel's");
	if (fm_streq(v->where, "/") || fm_paths_overlap(v->where, h->state_dir) || fm_paths_overlap(v->where, h->run_dir))
		return fm_xstrdup("contains this agent's own folders");
	_fm_free_ char *below = mounted_below(v->where);
	if (below)
		return fm_xasprintf("has something mounted in it, at %s, which would stay behind", below);
	if (fm_volume_is_used(h, v->where, l->container->name, other, sizeof(other)))
		return fm_xasprintf("is used by container '%s', too", other);
	if (l->pid1 > 0 && !is_what_is_mounted(l, v))
		return fm_xasprintf("is not what the container has at %s: it was replaced after the container was started", v->target);
	return NULL;
}

/* ---------------------------------------------------------------- finding them */

/* As in the root filesystem (fm_file_mount_points), but here there is no leaving it out: the digest says what is in a volume. */
static char *mounted_on_a_file(const struct fm_bundle_info *info, const char *target)
{
	char **sources[] = { info->volumes, info->read_only }, **targets[] = { info->volume_targets, info->read_only_targets };
	struct stat st;
	for (size_t k = 0; k < FM_ARRAY_SIZE(sources); k++)
		for (size_t i = 0; sources[k] && sources[k][i]; i++)
			if (is_within(targets[k][i], target) && !fm_streq(targets[k][i], target) && stat(sources[k][i], &st) == 0 &&
			    !S_ISDIR(st.st_mode))
				return fm_xasprintf("has a file of its own mounted in it, at %s", targets[k][i]);
	return NULL;
}

static void add_blocker(char ***blockers, const char *path, const char *why)
{
	if (!blockers)
		return;
	_fm_free_ char *text = fm_xasprintf("its volume %s %s (label " LABEL "=shared says that the destination has its own)", path, why);
	fm_strv_add(blockers, text);
}

/* It travels with the one that it lies in. */
static bool is_in_another(const struct fm_volumes *vs, const char *where)
{
	for (size_t i = 0; where && i < vs->n; i++)
		if (vs->v[i].where && is_within(where, vs->v[i].where))
			return true;
	return false;
}

static void lineage_of(struct fm_host *h, const struct fm_local *l, struct fm_volume *v)
{
	json_t *r = v->where ? fm_volume_record(h, v->where) : NULL;
	bool same = r && fm_streq(json_string_value(json_object_get(r, "container")), l->container->name) &&
	            !json_is_true(json_object_get(r, "left")) && fm_volume_is(v->where, json_string_value(json_object_get(r, "id")));
	const char *lineage = same ? json_string_value(json_object_get(r, "lineage")) : NULL;
	v->lineage = fm_xstrdup(lineage ? lineage : "");
	json_decref(r);
}

static int keep(struct fm_volumes *vs, struct fm_volume *v, struct fm_error *err)
{
	struct fm_volume *grown = realloc(vs->v, (vs->n + 1) * sizeof(*vs->v));
	if (!grown)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	vs->v = grown;
	vs->v[vs->n++] = *v;
	*v = (struct fm_volume){ 0 };
	return 0;
}

static int add_volume(struct fm_host *h, const struct fm_local *l, const struct fm_bundle_info *info, size_t i, bool measure,
                      struct fm_volumes *vs, char ***blockers, struct fm_error *err)
{
	const char *source = info->volumes[i], *target = info->volume_targets[i];
	_fm_cleanup_(volume_done) struct fm_volume v = { .path = fm_volume_path_clean(source), .target = fm_xstrdup(target) };
	v.where = v.path ? realpath(v.path, NULL) : NULL;
	_fm_free_ char *why = v.path ? obstacle(h, l, &v) : fm_xstrdup("has a path with '..'");
	if (!why)
		why = mounted_on_a_file(info, target);
	if (why) {
		add_blocker(blockers, source, why);
		return 0;
	}
	if (is_in_another(vs, v.where))
		return 0;
	lineage_of(h, l, &v);
	if (measure)
		(void)fm_tree_bytes(v.where, &v.bytes, NULL);
	return keep(vs, &v, err);
}

/* Outer folders before those in them */
static void sort_by_length(char **sources, char **targets)
{
	size_t n = fm_strv_len(sources);
	for (size_t i = 1; i < n; i++)
		for (size_t k = i; k > 0 && strlen(sources[k]) < strlen(sources[k - 1]); k--) {
			char *s = sources[k], *t = targets[k];
			sources[k] = sources[k - 1];
			targets[k] = targets[k - 1];
			sources[k - 1] = s;
			targets[k - 1] = t;
		}
}

int fm_volumes_find(struct fm_host *h, const struct fm_local *l, bool measure, struct fm_volumes *ret, char ***blockers,
                    struct fm_error *err)
{
	struct fm_bundle_info info __attribute__((cleanup(fm_bundle_info_done))) = { 0 };
	struct fm_volumes vs __attribute__((cleanup(fm_volumes_done))) = { 0 };
	_fm_cleanup_(fm_strv_freep) char **shared = NULL;
	_fm_free_ char *config = NULL;
	_fm_free_ char *ours = fm_xasprintf("%s/", l->dir);
	struct fm_error e = FM_ERROR_INIT;
	bool all = false;
	if (fm_bundle_read(l->container->bundle, &config, &info, err) < 0)
		return -1;
	if (fm_volumes_label(l->container, info.volume_targets, &all, &shared, &e) < 0) {
		if (!blockers) {
			*err = e;
			return -1;
		}
		fm_strv_add(blockers, e.message);
	}
	sort_by_length(info.volumes, info.volume_targets);
	for (size_t i = 0; !all && info.volumes && info.volumes[i]; i++) {
		if ((l->dir[0] && fm_str_startswith(info.volumes[i], ours)) || contains(shared, info.volume_targets[i]))
			continue; /* the nest's control folder; the user's word */
		if (add_volume(h, l, &info, i, measure, &vs, blockers, err) < 0)
			return -1;
	}
	if (vs.n > FM_MAX_VOLUMES)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "container '%s' has more than %d volumes that travel", l->container->name,
		                    FM_MAX_VOLUMES);
	*ret = vs;
	vs = (struct fm_volumes){ 0 };
	return 0;
}

void fm_volumes_paths(struct fm_host *h, const char *instance, char ***ret)
{
	struct fm_local l __attribute__((cleanup(fm_local_done))) = FM_LOCAL_INIT;
	struct fm_bundle_info info __attribute__((cleanup(fm_bundle_info_done))) = { 0 };
	_fm_free_ char *config = NULL;
	if (fm_instances_open(h, instance, &l, NULL) < 0 || fm_bundle_read(l.container->bundle, &config, &info, NULL) < 0)
		return;
	for (char **v = info.volumes; v && *v; v++) {
		_fm_free_ char *real = realpath(*v, NULL);
		if (real)
			fm_strv_add(ret, real);
	}
}
