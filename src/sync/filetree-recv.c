/* SPDX-License-Identifier: MIT */
/*
 * filetree-recv.c - the receiving end of filetree.h.
 *
 * The stream comes from another host and is not trusted to stay inside the tree: paths are checked as text first (no "..", no empty component, no NUL), and then every folder is opened beneath the
 * root by openat2(2), which refuses to leave it, to follow a link of any kind, and to enter another mount. The last component is only ever used with calls that do not follow links.
 *
 * Files are made anew, never written over: the old name may be a hard link to something that has to stay, or a program that runs. Only what an earlier pass made and has one name is updated in place. So nothing needs a rename into place either: nobody uses
 * the tree before the migration's commit, and after a failed pass it is thrown away or received again.
 *
 * Order of attributes: owner (clears set-user-id and capabilities), mode, extended attributes, times last. A folder gets its final mode and mtime with its FOLDER_END entry.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/limits.h"
#include "sync/filetree-internal.h"
#include "sync/stream-internal.h"

#define FRAMES_MAX    (3ull * FM_TREE_ENTRIES_MAX) /* an entry, a folder's end, a deletion */
#define REMOVE_ROUNDS 4

struct folder_slot {
	int fd; /* O_PATH, -1 none */
	size_t len;
	char path[FM_TREE_PATH_MAX + 1];
};

struct entry {
	uint32_t mode, uid, gid, rdev_major, rdev_minor, mtime_ns, flags;
	int64_t mtime_s;
	uint64_t size;
	size_t xattrs_len;
	bool root_is_file; /* the tree is one regular file, named "." */
	char path[FM_TREE_PATH_MAX + 1];
	char target[FM_TREE_PATH_MAX + 1];
	uint8_t xattrs[FM_TREE_XATTRS_BYTES_MAX];
};

struct receiver {
	struct fm_stream *stream;
	struct fm_known *known; /* offered to the sender, or NULL */
	int cancel_fd;
	int root_fd;
	bool root_is_file;
	uint64_t max_bytes, bytes, frames;
	int timeout_ms;

	struct folder_slot folder[2]; /* last one used for paths, and for link targets: entries come folder by folder */
	int file_fd;                  /* regular file being received, -1 none */
	uint64_t next_offset;
	struct entry entry; /* the last one; of the open file */
	char xattr_names[FM_TREE_XATTRS_BYTES_MAX];
	uint8_t buf[FM_MAX_FRAME_BYTES];
};

static void receiver_free(struct receiver **p)
{
	struct receiver *r = *p;
	if (!r)
		return;
	fm_closep(&r->folder[0].fd);
	fm_closep(&r->folder[1].fd);
	fm_closep(&r->file_fd);
	fm_closep(&r->root_fd);
	free(r);
}

/* decoding */

/* "." or a/b/c */
static bool path_ok(const char *p, size_t n)
{
	unsigned depth = 1;
	size_t start = 0;

	if (n == 0 || n > FM_TREE_PATH_MAX || memchr(p, 0, n))
		return false;
	if (n == 1 && p[0] == '.')
		return true;
	for (size_t i = 0; i <= n; i++) {
		if (i < n && p[i] != '/')
			continue;
		size_t len = i - start;
		if (len == 0 || len > FM_TREE_NAME_MAX || (len == 1 && p[start] == '.') ||
		    (len == 2 && p[start] == '.' && p[start + 1] == '.'))
			return false;
		if (i < n && ++depth > FM_TREE_DEPTH_MAX)
			return false;
		start = i + 1;
	}
	return true;
}

/* One attribute of the list at *at; false at the end or when it is malformed (*at then stays before the end). */
static bool next_xattr(const struct entry *e, size_t *at, char name[FM_TREE_NAME_MAX + 1], const uint8_t **ret_value, size_t *ret_len)
{
	size_t left = e->xattrs_len - *at;

	if (left < 6)
		return false;
	size_t name_len = fm_get_le16(e->xattrs + *at), value_len = fm_get_le32(e->xattrs + *at + 2);
	if (name_len == 0 || name_len > FM_TREE_NAME_MAX || value_len > FM_TREE_XATTRS_BYTES_MAX || left - 6 < name_len + value_len)
		return false;
	memcpy(name, e->xattrs + *at + 6, name_len);
	name[name_len] = 0;
	if (strlen(name) != name_len || !fm_xattr_is_carried(name))
		return false;
	*ret_value = e->xattrs + *at + 6 + name_len;
	*ret_len = value_len;
	*at += 6 + name_len + value_len;
	return true;
}

static bool xattrs_ok(const struct entry *e)
{
	char name[FM_TREE_NAME_MAX + 1];
	const uint8_t *value;
	size_t len, at = 0;

	while (next_xattr(e, &at, name, &value, &len))
		;
	return at == e->xattrs_len;
}

/* What may come with what */
static bool entry_consistent(const struct entry *e, size_t path_len, size_t target_len)
{
	bool reg = S_ISREG(e->mode), dir = S_ISDIR(e->mode), lnk = S_ISLNK(e->mode), dev = S_ISCHR(e->mode) || S_ISBLK(e->mode);
	bool link = e->flags & FM_ENTRY_HARD_LINK, end = e->flags & FM_ENTRY_FOLDER_END;

	if ((e->flags & FM_ENTRY_UPDATE) && (!reg || link))
		return false;

	if (!(reg || dir || lnk || dev || S_ISFIFO(e->mode)) || (e->mode & ~(uint32_t)(S_IFMT | 07777)) || (e->flags & ~FM_ENTRY_FLAGS))
		return false;
	if (e->mtime_ns >= 1000000000u || e->uid == UINT32_MAX || e->gid == UINT32_MAX || e->size > INT64_MAX)
		return false;
	if (!path_ok(e->path, path_len) || (!dir && !e->root_is_file && path_len == 1 && e->path[0] == '.'))
		return false;
	if (e->root_is_file && (!reg || link || path_len != 1 || e->path[0] != '.'))
		return false;
	if (link)
		return !dir && !end && e->size == 0 && e->xattrs_len == 0 && path_ok(e->target, target_len) &&
		       !(target_len == 1 && e->target[0] == '.');
	if (end && (!dir || e->xattrs_len))
		return false;
	if (lnk ? target_len == 0 || target_len > FM_TREE_PATH_MAX || memchr(e->target, 0, target_len) : target_len != 0)
		return false;
	if ((e->size && !reg) || (e->xattrs_len && !reg && !dir) || ((e->rdev_major || e->rdev_minor) && !dev))
		return false;
	return xattrs_ok(e);
}

static int decode_entry(struct entry *e, const uint8_t *p, size_t n, struct fm_error *err)
{
	if (n < FM_ENTRY_FIXED_BYTES)
		return fm_error_set(err, FM_E_DATA_LOSS, "a file entry of %zu bytes", n);
	size_t path_len = fm_get_le16(p + 44), target_len = fm_get_le16(p + 46), xattrs_len = fm_get_le32(p + 48);
	if (path_len > FM_TREE_PATH_MAX || target_len > FM_TREE_PATH_MAX || xattrs_len > FM_TREE_XATTRS_BYTES_MAX ||
	    n != FM_ENTRY_FIXED_BYTES + path_len + target_len + xattrs_len)
		return fm_error_set(err, FM_E_DATA_LOSS, "a file entry with wrong lengths");
	e->mode = fm_get_le32(p);
	e->uid = fm_get_le32(p + 4);
	e->gid = fm_get_le32(p + 8);
	e->rdev_major = fm_get_le32(p + 12);
	e->rdev_minor = fm_get_le32(p + 16);
	e->mtime_ns = fm_get_le32(p + 20);
	e->mtime_s = (int64_t)fm_get_le64(p + 24);
	e->size = fm_get_le64(p + 32);
	e->flags = fm_get_le32(p + 40);
	e->xattrs_len = xattrs_len;
	p += FM_ENTRY_FIXED_BYTES;
	memcpy(e->path, p, path_len);
	e->path[path_len] = 0;
	memcpy(e->target, p + path_len, target_len);
	e->target[target_len] = 0;
	memcpy(e->xattrs, p + path_len + target_len, xattrs_len);
	if (!entry_consistent(e, path_len, target_len))
		return fm_error_set(err, FM_E_DATA_LOSS, "a file entry that makes no sense ('%s', mode %o, flags %u)", e->path, e->mode,
		                    e->flags);
	return 0;
}

/* places in the tree */

static int open_beneath(int dirfd, const char *path, uint64_t flags)
{
	struct open_how how = {
		.flags = flags | O_CLOEXEC | O_NOFOLLOW,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
	};
	return (int)syscall(SYS_openat2, dirfd, path, &how, sizeof(how));
}

/* What a failed open_beneath means: the tree is not as the sender believes, or it wants out of it. */
static void beneath_error(int e, const char *path, struct fm_error *err)
{
	if (e == ENOENT || e == ENOTDIR || e == ELOOP || e == EXDEV) {
		(void)fm_error_errno(err, e, "'%s' does not lead to a folder of the tree", path);
		if (err)
			err->code = FM_E_DATA_LOSS;
	} else if (e == ENOSYS) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION,
		                   "this kernel has no openat2 (Linux 5.6), files cannot be received safely");
	} else {
		(void)fm_error_errno(err, e, "cannot open folder '%s'", path);
	}
}

/* The folder that path is in (borrowed from the slot) and the last component. */
static int locate(struct receiver *r, unsigned slot, const char *path, int *ret_dirfd, const char **ret_name, struct fm_error *err)
{
	struct folder_slot *s = &r->folder[slot];
	const char *slash = strrchr(path, '/');

	if (!slash) {
		*ret_dirfd = r->root_fd;
		*ret_name = path;
		return 0;
	}
	size_t len = (size_t)(slash - path);
	if (s->fd < 0 || s->len != len || memcmp(s->path, path, len) != 0) {
		fm_closep(&s->fd);
		s->fd = -1;
		memcpy(s->path, path, len);
		s->path[len] = 0;
		s->len = len;
		s->fd = open_beneath(r->root_fd, s->path, O_PATH | O_DIRECTORY);
		if (s->fd < 0) {
			beneath_error(errno, s->path, err);
			return -1;
		}
	}
	*ret_dirfd = s->fd;
	*ret_name = slash + 1;
	return 0;
}

static int remove_tree(struct receiver *r, int dirfd, const char *name, unsigned depth, struct fm_error *err);

static int remove_content(struct receiver *r, DIR *dir, unsigned depth, struct fm_error *err)
{
	for (;;) {
		errno = 0;
		const struct dirent *d = readdir(dir);
		if (!d)
			return errno ? fm_error_errno(err, errno, "cannot read a folder to remove") : 0;
		if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
			continue;
		if (remove_tree(r, dirfd(dir), d->d_name, depth + 1, err) < 0)
			return -1;
	}
}

/* name and all below it; never through a link or into another mount. Missing is fine. */
static int remove_tree(struct receiver *r, int dirfd, const char *name, unsigned depth, struct fm_error *err)
{
	if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return fm_error_errno(err, errno, "cannot remove '%s'", name);
	if (depth > FM_TREE_DEPTH_MAX)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "cannot remove '%s': nested too deeply", name);

	_fm_close_ int fd = open_beneath(dirfd, name, O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		return fm_error_errno(err, errno, errno == EXDEV ? "cannot remove '%s': something is mounted on it" : "cannot remove '%s'",
		                      name);
	_fm_closedir_ DIR *dir = fdopendir(fd);
	if (!dir)
		return fm_error_errno(err, errno, "cannot remove '%s'", name);
	(void)FM_TAKE_FD(fd);                /* dir's */
	for (unsigned round = 0;; round++) { /* removing while reading may skip names on some filesystems */
		if (remove_content(r, dir, depth, err) < 0)
			return -1;
		if (unlinkat(dirfd, name, AT_REMOVEDIR) == 0)
			return 0;
		if (errno != ENOTEMPTY || round == REMOVE_ROUNDS)
			return fm_error_errno(err, errno, "cannot remove '%s'", name);
		rewinddir(dir);
	}
}

/* Make way for something new of this name. */
static int clear_name(struct receiver *r, int dirfd, const char *name, struct fm_error *err)
{
	for (unsigned i = 0; i < 2; i++) { /* a remembered folder may lie in what goes */
		if (r->folder[i].fd != dirfd) {
			fm_closep(&r->folder[i].fd);
			r->folder[i].fd = -1;
		}
	}
	return remove_tree(r, dirfd, name, 0, err);
}

/* attributes */

static bool entry_has_xattr(const struct entry *e, const char *wanted)
{
	char name[FM_TREE_NAME_MAX + 1];
	const uint8_t *value;
	size_t len, at = 0;

	while (next_xattr(e, &at, name, &value, &len)) {
		if (strcmp(name, wanted) == 0)
			return true;
	}
	return false;
}

/* Exactly the entry's: also those go that a new file inherits from its folder (default ACLs). */
static int set_xattrs(struct receiver *r, int fd, const struct entry *e, struct fm_error *err)
{
	char name[FM_TREE_NAME_MAX + 1];
	const uint8_t *value;
	size_t len, at = 0;

	ssize_t n = flistxattr(fd, r->xattr_names, sizeof(r->xattr_names));
	for (const char *p = r->xattr_names; n > 0 && p < r->xattr_names + n; p += strlen(p) + 1) {
		if (fm_xattr_is_carried(p) && !entry_has_xattr(e, p) && fremovexattr(fd, p) < 0 && errno != ENODATA)
			return fm_error_errno(err, errno, "cannot remove extended attribute '%s'", p);
	}
	while (next_xattr(e, &at, name, &value, &len)) {
		if (fsetxattr(fd, name, value, len, 0) == 0)
			continue;
		(void)fm_error_errno(err, errno, "cannot set extended attribute '%s'", name);
		if (errno == EOPNOTSUPP && err) {
			err->code = FM_E_FAILED_PRECONDITION;
			(void)fm_error_hint(
			        err,
			        "the destination's filesystem lacks an attribute that the source's has; use one with the same abilities");
		}
		return -1;
	}
	return 0;
}

static void entry_times(const struct entry *e, struct timespec t[2])
{
	t[0] = (struct timespec){ .tv_nsec = UTIME_OMIT };
	t[1] = (struct timespec){ .tv_sec = (time_t)e->mtime_s, .tv_nsec = (long)e->mtime_ns };
}

static int set_attributes(struct receiver *r, int fd, const struct entry *e, mode_t mode, struct fm_error *err)
{
	struct timespec t[2];

	entry_times(e, t);
	if (fchown(fd, e->uid, e->gid) < 0)
		return fm_error_errno(err, errno, "cannot give it to %u:%u", e->uid, e->gid);
	if (fchmod(fd, mode & 07777) < 0)
		return fm_error_errno(err, errno, "cannot set mode %o", mode & 07777);
	if (set_xattrs(r, fd, e, err) < 0)
		return -1;
	if (futimens(fd, t) < 0)
		return fm_error_errno(err, errno, "cannot set its time");
	return 0;
}

/* Links and nodes, which are not opened */
static int set_attributes_at(int dirfd, const char *name, const struct entry *e, struct fm_error *err)
{
	struct timespec t[2];
	char proc[48];

	entry_times(e, t);
	if (fchownat(dirfd, name, e->uid, e->gid, AT_SYMLINK_NOFOLLOW) < 0)
		return fm_error_errno(err, errno, "cannot give it to %u:%u", e->uid, e->gid);
	if (!S_ISLNK(e->mode)) {
		_fm_close_ int fd = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			return fm_error_errno(err, errno, "cannot open it again");
		(void)snprintf(proc, sizeof(proc), "/proc/self/fd/%d",
		               fd); /* chmod without following a link, on kernels before fchmodat2 */
		if (chmod(proc, e->mode & 07777) < 0)
			return fm_error_errno(err, errno, "cannot set mode %o", e->mode & 07777);
	}
	if (utimensat(dirfd, name, t, AT_SYMLINK_NOFOLLOW) < 0)
		return fm_error_errno(err, errno, "cannot set its time");
	return 0;
}

/* making things */

static int make_node(int dirfd, const char *name, const struct entry *e)
{
	if (S_ISLNK(e->mode))
		return symlinkat(e->target, dirfd, name);
	if (S_ISDIR(e->mode))
		return mkdirat(dirfd, name, 0700);
	return mknodat(dirfd, name, (e->mode & S_IFMT) | 0600, makedev(e->rdev_major, e->rdev_minor));
}

static int receive_node(struct receiver *r, const struct entry *e, struct fm_error *err)
{
	int dirfd;
	const char *name;

	if (locate(r, 0, e->path, &dirfd, &name, err) < 0)
		return -1;
	int made = make_node(dirfd, name, e);
	if (made < 0 && errno == EEXIST) {
		if (clear_name(r, dirfd, name, err) < 0)
			return -1;
		made = make_node(dirfd, name, e);
	}
	if (made < 0)
		return fm_error_errno(err, errno, "cannot create it");
	return set_attributes_at(dirfd, name, e, err);
}

/* Creates or keeps the folder, *ret_fd -1 when it is a mount point here: that belongs to the host. */
static int open_folder(struct receiver *r, const struct entry *e, bool create, int *ret_fd, struct fm_error *err)
{
	int dirfd;
	const char *name;
	struct stat st;

	if (locate(r, 0, e->path, &dirfd, &name, err) < 0)
		return -1;
	if (create && strcmp(e->path, ".") != 0 && make_node(dirfd, name, e) < 0) {
		if (errno != EEXIST || fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return fm_error_errno(err, errno, "cannot create the folder");
		if (!S_ISDIR(st.st_mode)) {
			if (clear_name(r, dirfd, name, err) < 0)
				return -1;
			if (make_node(dirfd, name, e) < 0)
				return fm_error_errno(err, errno, "cannot create the folder");
		}
	}
	int fd = open_beneath(dirfd, name, O_RDONLY | O_DIRECTORY);
	if (fd < 0 && errno != EXDEV) {
		beneath_error(errno, e->path, err);
		return -1;
	}
	*ret_fd = fd;
	return 0;
}

static int receive_folder(struct receiver *r, const struct entry *e, struct fm_error *err)
{
	_fm_close_ int fd = -1;

	if (open_folder(r, e, true, &fd, err) < 0)
		return -1;
	/* Open for ourselves until its end comes, should we not be root. */
	return fd < 0 ? 0 : set_attributes(r, fd, e, e->mode | 0700, err);
}

static int receive_folder_end(struct receiver *r, const struct entry *e, struct fm_error *err)
{
	struct timespec t[2];
	_fm_close_ int fd = -1;

	if (open_folder(r, e, false, &fd, err) < 0)
		return -1;
	entry_times(e, t);
	if (fd >= 0 && (fchmod(fd, e->mode & 07777) < 0 || futimens(fd, t) < 0))
		return fm_error_errno(err, errno, "cannot set mode and time of the folder");
	return 0;
}

static bool same_file(int dirfd, const char *name, int dirfd2, const char *name2)
{
	struct stat a, b;
	return fstatat(dirfd, name, &a, AT_SYMLINK_NOFOLLOW) == 0 && fstatat(dirfd2, name2, &b, AT_SYMLINK_NOFOLLOW) == 0 &&
	       a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static int receive_hard_link(struct receiver *r, const struct entry *e, struct fm_error *err)
{
	int dirfd, target_dirfd;
	const char *name, *target;

	if (locate(r, 0, e->path, &dirfd, &name, err) < 0 || locate(r, 1, e->target, &target_dirfd, &target, err) < 0)
		return -1;
	int linked = linkat(target_dirfd, target, dirfd, name, 0);
	if (linked < 0 && errno == EEXIST) {
		if (same_file(dirfd, name, target_dirfd, target))
			return 0;
		if (clear_name(r, dirfd, name, err) < 0 || locate(r, 1, e->target, &target_dirfd, &target, err) < 0)
			return -1;
		linked = linkat(target_dirfd, target, dirfd, name, 0);
	}
	return linked < 0 ? fm_error_errno(err, errno, "cannot link it to '%s'", e->target) : 0;
}

/* An opened file that is written in place */
static int resize(struct receiver *r, const struct entry *e, struct fm_error *err)
{
	r->next_offset = 0;
	return ftruncate(r->file_fd, e->flags & FM_ENTRY_UPDATE ? (off_t)e->size : 0) < 0 ? fm_error_errno(err, errno, "cannot resize it")
	                                                                                  : 0;
}

/* What an earlier pass made, and nobody else has a name for */
static int begin_update(struct receiver *r, int dirfd, const char *name, const struct entry *e, struct fm_error *err)
{
	struct stat st;

	r->file_fd = openat(dirfd, name, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (r->file_fd < 0 || fstat(r->file_fd, &st) < 0) {
		(void)fm_error_errno(err, errno, "cannot open what is to be updated");
		if (err)
			err->code = FM_E_DATA_LOSS;
		return -1;
	}
	if (!S_ISREG(st.st_mode) || st.st_nlink != 1)
		return fm_error_set(err, FM_E_DATA_LOSS, "what is to be updated is not a file of one name");
	return resize(r, e, err);
}

static int begin_file(struct receiver *r, const struct entry *e, struct fm_error *err)
{
	int dirfd;
	const char *name;

	if (r->root_is_file) { /* in place: see filetree.h */
		r->file_fd = fcntl(r->root_fd, F_DUPFD_CLOEXEC, 3);
		return r->file_fd < 0 ? fm_error_errno(err, errno, "cannot write it") : resize(r, e, err);
	}
	if (locate(r, 0, e->path, &dirfd, &name, err) < 0)
		return -1;
	if (e->flags & FM_ENTRY_UPDATE)
		return begin_update(r, dirfd, name, e, err);
	int flags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
	int fd = openat(dirfd, name, flags, 0600);
	if (fd < 0 && errno == EEXIST) {
		if (clear_name(r, dirfd, name, err) < 0)
			return -1;
		fd = openat(dirfd, name, flags, 0600);
	}
	if (fd < 0)
		return fm_error_errno(err, errno, "cannot create it");
	r->file_fd = fd;
	r->next_offset = 0;
	return 0;
}

static int finish_file(struct receiver *r, struct fm_error *err)
{
	_fm_close_ int fd = FM_TAKE_FD(r->file_fd);

	if (fd < 0)
		return 0;
	if (r->next_offset < r->entry.size && ftruncate(fd, (off_t)r->entry.size) < 0)
		return fm_error_errno(err, errno, "'%s': cannot make it %llu bytes long", r->entry.path, (unsigned long long)r->entry.size);
	if (set_attributes(r, fd, &r->entry, r->entry.mode, err) < 0)
		return fm_error_prefix(err, "'%s'", r->entry.path);
	return 0;
}

/* frames */

static int count_bytes(struct receiver *r, uint64_t n, struct fm_error *err)
{
	if (n > r->max_bytes - r->bytes)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "the files take more than the %llu bytes allowed",
		                    (unsigned long long)r->max_bytes);
	r->bytes += n;
	return 0;
}

static int count_frame(struct receiver *r, struct fm_error *err)
{
	return ++r->frames > FRAMES_MAX ? fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "more than %llu files and folders", FRAMES_MAX) : 0;
}

static int on_entry(struct receiver *r, const struct fm_frame_header *h, struct fm_error *err)
{
	struct entry *e = &r->entry;
	int done;

	if (finish_file(r, err) < 0 || count_frame(r, err) < 0 || count_bytes(r, h->length, err) < 0 ||
	    decode_entry(e, r->buf, h->length, err) < 0)
		return -1;
	if (e->flags & FM_ENTRY_FOLDER_END)
		done = receive_folder_end(r, e, err);
	else if (e->flags & FM_ENTRY_HARD_LINK)
		done = receive_hard_link(r, e, err);
	else if (S_ISDIR(e->mode))
		done = receive_folder(r, e, err);
	else if (S_ISREG(e->mode))
		done = begin_file(r, e, err);
	else
		done = receive_node(r, e, err);
	return done < 0 ? fm_error_prefix(err, "'%s'", e->path) : 0;
}

static int on_data(struct receiver *r, const struct fm_frame_header *h, struct fm_error *err)
{
	uint64_t offset = h->a;

	if (r->file_fd < 0)
		return fm_error_set(err, FM_E_DATA_LOSS, "data without a file");
	if (h->length == 0 || offset < r->next_offset || offset > r->entry.size || h->length > r->entry.size - offset)
		return fm_error_set(err, FM_E_DATA_LOSS, "'%s': %u bytes at %llu do not fit a file of %llu", r->entry.path, h->length,
		                    (unsigned long long)offset, (unsigned long long)r->entry.size);
	if (count_bytes(r, h->length, err) < 0)
		return -1;
	for (size_t done = 0; done < h->length;) {
		ssize_t n = pwrite(r->file_fd, r->buf + done, h->length - done, (off_t)(offset + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return fm_error_errno(err, n < 0 ? errno : EIO, "'%s': cannot write", r->entry.path);
		done += (size_t)n;
	}
	r->next_offset = offset + h->length;
	return 0;
}

static int on_known(struct receiver *r, const struct fm_frame_header *h, struct fm_error *err)
{
	if (r->file_fd < 0 || r->next_offset || !r->known || h->length != FM_KNOWN_HASH_BYTES)
		return fm_error_set(err, FM_E_DATA_LOSS, "a known content where none belongs");
	if (count_bytes(r, r->entry.size, err) < 0)
		return -1;
	if (fm_known_fill(r->known, r->buf, r->entry.size, r->file_fd, r->cancel_fd, err) < 0)
		return fm_error_prefix(err, "'%s'", r->entry.path);
	r->next_offset = r->entry.size;
	return 0;
}

static int on_delete(struct receiver *r, const struct fm_frame_header *h, struct fm_error *err)
{
	int dirfd;
	const char *name;
	char path[FM_TREE_PATH_MAX + 1];

	if (finish_file(r, err) < 0 || count_frame(r, err) < 0)
		return -1;
	if (r->root_is_file || !path_ok((const char *)r->buf, h->length) || (h->length == 1 && r->buf[0] == '.'))
		return fm_error_set(err, FM_E_DATA_LOSS, "a deletion outside the tree was asked for");
	memcpy(path, r->buf, h->length);
	path[h->length] = 0;
	if (locate(r, 0, path, &dirfd, &name, err) < 0 || clear_name(r, dirfd, name, err) < 0)
		return fm_error_prefix(err, "deleting '%s'", path);
	return 0;
}

static int on_end(struct receiver *r, const struct fm_frame_header *h, int durable, struct fm_error *err)
{
	if (finish_file(r, err) < 0)
		return -1;
	if (h->b != r->frames)
		return fm_error_set(err, FM_E_DATA_LOSS, "%llu of %llu entries arrived", (unsigned long long)r->frames,
		                    (unsigned long long)h->b);
	if (durable && syncfs(r->root_fd) < 0)
		return fm_error_errno(err, errno, "cannot write the files to disk");
	return fm_stream_send(r->stream, FM_FRAME_FILES_OK, h->a, 0, NULL, 0, r->timeout_ms, err);
}

static int receive_pass(struct receiver *r, int durable, int cancel_fd, struct fm_error *err)
{
	struct fm_frame_header h;
	int result = 0;

	while (result == 0) {
		if (fm_stream_recv(r->stream, &h, r->buf, sizeof(r->buf), r->timeout_ms, cancel_fd, err) < 0)
			return -1;
		switch (h.type) {
		case FM_FRAME_FILE_ENTRY:
			result = on_entry(r, &h, err);
			break;
		case FM_FRAME_FILE_DATA:
			result = on_data(r, &h, err);
			break;
		case FM_FRAME_FILE_KNOWN:
			result = on_known(r, &h, err);
			break;
		case FM_FRAME_FILE_DELETE:
			result = on_delete(r, &h, err);
			break;
		case FM_FRAME_FILES_END:
			return on_end(r, &h, durable, err);
		default:
			result = fm_stream_unexpected(r->stream, &h, "receiving files", err);
		}
	}
	return -1;
}

int fm_filetree_recv(struct fm_stream *s, const char *root, int durable, uint64_t max_bytes, int timeout_ms, int cancel_fd,
                     struct fm_error *err)
{
	return fm_filetree_recv_known(s, NULL, root, durable, max_bytes, timeout_ms, cancel_fd, err);
}

int fm_filetree_recv_known(struct fm_stream *s, struct fm_known *known, const char *root, int durable, uint64_t max_bytes, int timeout_ms,
                           int cancel_fd, struct fm_error *err)
{
	/* cleared memory is not needed for the large buffers, and would cost more than a small pass */
	_fm_cleanup_(receiver_free) struct receiver *r = malloc(sizeof(*r));
	struct stat st;
	if (!r)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for receiving files");
	r->stream = s;
	r->known = known;
	r->cancel_fd = cancel_fd;
	r->root_fd = r->file_fd = r->folder[0].fd = r->folder[1].fd = -1;
	r->max_bytes = max_bytes;
	r->bytes = r->frames = r->next_offset = 0;
	r->timeout_ms = timeout_ms;
	r->root_is_file = stat(root, &st) == 0 && S_ISREG(st.st_mode);
	r->entry.root_is_file = r->root_is_file;
	r->root_fd = open(root, r->root_is_file ? O_WRONLY | O_NOFOLLOW | O_CLOEXEC : O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (r->root_fd < 0)
		return fm_error_errno(err, errno, "cannot open '%s'", root);
	if (receive_pass(r, durable, cancel_fd, err) < 0)
		return fm_error_prefix(err, "receiving files into '%s'", root);
	return 0;
}
