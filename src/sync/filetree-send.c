/* SPDX-License-Identifier: MIT */
/*
 * filetree-send.c - the sending end of filetree.h.
 *
 * One walk, depth first, over a tree that may be in use: whatever vanishes under our hands is left out (and deleted at the receiver if an earlier pass had sent it), whatever changes
 * after it was looked at differs from its manifest entry and goes again with the next pass. What makes this exact rather than likely:
 *
 * - Attributes are taken from the open file before its content is read, and they are what the manifest remembers.
 * - Every change moves ctime, but the clock behind it is coarse, and a long write(2) stamps the file before it copies. So a file whose ctime is within two seconds of the moment it was looked
 *   at is remembered as `racy` and sent again next time, whatever its numbers say (git's "racily clean"). The window shrinks to a tenth of a second, far more than a tick of the clock, when
 *   nobody has the file open for writing, so that no write can be half-way: the kernel grants a lease for reading then. Otherwise a container that has just arrived, and leaves again, would
 *   send all of its files inside the freeze.
 * - A store through a shared mapping stamps the file only when its page turns from clean to dirty. So between looking and reading, dirty pages are written back, which write-protects them: the
 *   next store faults and is seen. Not in the last pass (no manifest wanted): nothing will be compared, and it must not wait for a disk. Files on tmpfs have no write-back; a file there
 *   that is changed through a mapping only is not noticed.
 * - Names of one inode (hard links) travel together: when one of them is sent, the others become links to it, whether their own numbers differ or not.
 *
 * A file without holes is compared block by block with what was sent of it, and only what differs goes: by content, so nothing that is said above about stamps is needed for it.
 *
 * No path is ever resolved twice: folders are opened one below the other, links are never followed, and a regular file is opened through the O_PATH descriptor that
 * was checked to be one, so that a device put in its place is never opened. Folders get their mode and mtime at the very end, when nothing below them changes any more.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <time.h>
#include <xxhash.h>

#include "basic/cleanup.h"
#include "basic/limits.h"
#include "sync/filetree-internal.h"
#include "sync/stream-internal.h"

#define BATCH_BYTES     (512u << 10)
#define MIN_CHUNK_BYTES 16384u
#define CANCEL_EVERY    256u /* entries between two looks at the cancel descriptor */
#define TICK_MS         100u /* longer than any tick of the clock that stamps files (10 ms) */
#define WRITTEN_BACK_S  120  /* the kernel writes dirty pages back on its own after half a minute */

/* All names of one inode with several */
struct link_group {
	dev_t dev;
	ino_t ino;
	uint32_t source;  /* entry that was sent with its content in this pass, NONE = none yet */
	uint32_t waiting; /* first of the names seen so far that were not sent (index into waiting list), NONE */
	bool used;
};
struct waiting_name {
	uint32_t entry, next;
};
struct links {
	struct link_group *groups; /* open addressing */
	uint32_t n_groups, n_slots;
	struct waiting_name *waiting;
	uint32_t n_waiting, cap_waiting;
};

struct walk {
	struct fm_batch batch;
	struct fm_known *known;
	const struct fm_manifest *previous;
	struct fm_manifest *manifest;
	uint32_t *now_at; /* of each previous entry: its index in manifest, NONE = gone */
	struct links links;
	char *const *exclude;
	int64_t racy_ns;
	dev_t root_dev;
	bool last, overlay;
	bool fine_stamps; /* a local filesystem whose stamps are the kernel's own clock */
	bool look;        /* nothing is sent */
	bool memory;      /* a tmpfs: nothing is ever written back */
	bool by_content;  /* no stamp of a regular file is believed */
	uint64_t frames;
	uint32_t until_cancel_check;
	int cancel_fd;
	size_t path_len;
	char path[FM_TREE_PATH_MAX + 1]; /* relative to the root, "" = root */
	char target[FM_TREE_PATH_MAX + 1];
	size_t xattrs_len;
	uint8_t xattrs[FM_TREE_XATTRS_BYTES_MAX];
	char xattr_names[FM_TREE_XATTRS_BYTES_MAX];
};

static void walk_done(struct walk **p)
{
	struct walk *w = *p;
	if (!w)
		return;
	fm_batch_done(&w->batch);
	fm_manifest_free(w->manifest);
	free(w->now_at);
	free(w->links.groups);
	free(w->links.waiting);
	free(w);
}

static const char *shown(const struct walk *w)
{
	return w->path_len ? w->path : ".";
}

/* A file that went away, or became something else, between two looks: not an error, the next pass sees what it is then. */
static bool has_vanished(int e)
{
	return e == ENOENT || e == ENOTDIR || e == ELOOP || e == ESTALE;
}

static bool changed_within(const struct stat *st, int64_t ns)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_REALTIME, &now);
	int64_t s = (int64_t)now.tv_sec - st->st_ctim.tv_sec;
	if (s > 3600 || s < -3600)
		return false;
	int64_t age_ns = s * 1000000000 + (now.tv_nsec - st->st_ctim.tv_nsec);
	return age_ns < ns && age_ns > -ns;
}

static bool is_racy(const struct walk *w, const struct stat *st)
{
	return changed_within(st, w->racy_ns);
}

/* Nobody has it open, or mapped, for writing. Who opens it in the microseconds of the lease waits that long; the signal that would tell us is one that is ignored. */
static bool has_no_writer(int fd)
{
	if (fcntl(fd, F_SETSIG, SIGURG) < 0 || fcntl(fd, F_SETLEASE, F_RDLCK) < 0)
		return false;
	return fcntl(fd, F_SETLEASE, F_UNLCK) == 0;
}

/* st is the open file's, and was taken before. */
static bool is_racy_file(const struct walk *w, int fd, const struct stat *st)
{
	if (!is_racy(w, st))
		return false;
	bool settled = w->fine_stamps && st->st_ctim.tv_nsec != 0 && !changed_within(st, TICK_MS * 1000000ll);
	return !settled || !has_no_writer(fd);
}

static bool is_excluded(const struct walk *w)
{
	for (char *const *x = w->exclude; x && *x; x++) {
		const char *p = *x;
		while (*p == '/' || (p[0] == '.' && p[1] == '/'))
			p++;
		size_t n = strlen(p);
		while (n && p[n - 1] == '/')
			n--;
		if (n == w->path_len && memcmp(p, w->path, n) == 0)
			return true;
	}
	return false;
}

static int check_cancel(struct walk *w, struct fm_error *err)
{
	if (w->until_cancel_check--)
		return 0;
	w->until_cancel_check = CANCEL_EVERY;
	struct pollfd p = { .fd = w->cancel_fd, .events = POLLIN };
	if (w->cancel_fd >= 0 && poll(&p, 1, 0) > 0)
		return fm_error_set(err, FM_E_CANCELLED, "cancelled while walking the files");
	return 0;
}

/* hard links */

static uint32_t link_slot(const struct links *l, dev_t dev, ino_t ino)
{
	uint64_t h = (ino ^ (dev * 0x9e3779b97f4a7c15ull)) * 0xff51afd7ed558ccdull;
	uint32_t i = (uint32_t)(h >> 32) & (l->n_slots - 1);

	while (l->groups[i].used && (l->groups[i].dev != dev || l->groups[i].ino != ino))
		i = (i + 1) & (l->n_slots - 1);
	return i;
}

static int grow_links(struct links *l)
{
	uint32_t old_n = l->n_slots;
	struct link_group *old = l->groups, *groups;

	groups = calloc(old_n ? old_n * 2 : 256, sizeof(*groups));
	if (!groups)
		return -1;
	l->groups = groups;
	l->n_slots = old_n ? old_n * 2 : 256;
	for (uint32_t i = 0; i < old_n; i++) {
		if (old[i].used)
			l->groups[link_slot(l, old[i].dev, old[i].ino)] = old[i];
	}
	free(old);
	return 0;
}

/* NULL: out of memory. Valid until the next call. */
static struct link_group *link_group_of(struct links *l, const struct stat *st)
{
	if ((l->n_groups + 1) * 2 > l->n_slots && grow_links(l) < 0)
		return NULL;
	struct link_group *g = &l->groups[link_slot(l, st->st_dev, st->st_ino)];
	if (!g->used) {
		*g = (struct link_group){
			.dev = st->st_dev, .ino = st->st_ino, .source = FM_MANIFEST_NONE, .waiting = FM_MANIFEST_NONE, .used = true
		};
		l->n_groups++;
	}
	return g;
}

static int link_wait(struct links *l, struct link_group *g, uint32_t entry, struct fm_error *err)
{
	if (l->n_waiting == l->cap_waiting) {
		uint32_t cap = l->cap_waiting ? l->cap_waiting * 2 : 256;
		struct waiting_name *v = realloc(l->waiting, cap * sizeof(*v));
		if (!v)
			return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for hard links");
		l->waiting = v;
		l->cap_waiting = cap;
	}
	l->waiting[l->n_waiting] = (struct waiting_name){ .entry = entry, .next = g->waiting };
	g->waiting = l->n_waiting++;
	return 0;
}

/* frames */

struct entry {
	uint32_t mode, uid, gid, flags;
	dev_t rdev;
	int64_t mtime_s;
	uint32_t mtime_ns;
	uint64_t size;
	const char *path, *target;
	size_t path_len, target_len;
	const uint8_t *xattrs;
	size_t xattrs_len;
};

static int put_entry(struct walk *w, const struct entry *e, struct fm_error *err)
{
	uint8_t *p;
	size_t room, n = FM_ENTRY_FIXED_BYTES + e->path_len + e->target_len + e->xattrs_len;

	if (fm_batch_reserve(&w->batch, n, &p, &room, err) < 0)
		return -1;
	fm_put_le32(p, e->mode);
	fm_put_le32(p + 4, e->uid);
	fm_put_le32(p + 8, e->gid);
	fm_put_le32(p + 12, major(e->rdev));
	fm_put_le32(p + 16, minor(e->rdev));
	fm_put_le32(p + 20, e->mtime_ns);
	fm_put_le64(p + 24, (uint64_t)e->mtime_s);
	fm_put_le64(p + 32, e->size);
	fm_put_le32(p + 40, e->flags);
	fm_put_le16(p + 44, (uint16_t)e->path_len);
	fm_put_le16(p + 46, (uint16_t)e->target_len);
	fm_put_le32(p + 48, (uint32_t)e->xattrs_len);
	memcpy(p + FM_ENTRY_FIXED_BYTES, e->path, e->path_len);
	if (e->target_len)
		memcpy(p + FM_ENTRY_FIXED_BYTES + e->path_len, e->target, e->target_len);
	if (e->xattrs_len)
		memcpy(p + FM_ENTRY_FIXED_BYTES + e->path_len + e->target_len, e->xattrs, e->xattrs_len);
	fm_batch_commit(&w->batch, FM_FRAME_FILE_ENTRY, 0, 0, n);
	w->frames++;
	return 0;
}

static struct entry entry_of(const struct walk *w, const struct stat *st)
{
	return (struct entry){
		.mode = st->st_mode,
		.uid = st->st_uid,
		.gid = st->st_gid,
		.rdev = S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode) ? st->st_rdev : 0,
		.mtime_s = st->st_mtim.tv_sec,
		.mtime_ns = (uint32_t)st->st_mtim.tv_nsec,
		.size = S_ISREG(st->st_mode) ? (uint64_t)st->st_size : 0,
		.path = shown(w),
		.path_len = w->path_len ? w->path_len : 1,
	};
}

static int add_xattr(struct walk *w, int fd, const char *name, struct fm_error *err)
{
	size_t name_len = strlen(name), at = w->xattrs_len + 6 + name_len;

	if (at > sizeof(w->xattrs))
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "more than %zu bytes of extended attributes", sizeof(w->xattrs));
	ssize_t n = fgetxattr(fd, name, w->xattrs + at, sizeof(w->xattrs) - at);
	if (n < 0 && errno == ENODATA)
		return 0; /* removed just now */
	if (n < 0 && errno == ERANGE)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "more than %zu bytes of extended attributes", sizeof(w->xattrs));
	if (n < 0)
		return fm_error_errno(err, errno, "cannot read extended attribute '%s'", name);
	/* With no room left the kernel answers with the length alone, as if it had been asked for it. */
	if ((size_t)n > sizeof(w->xattrs) - at)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "more than %zu bytes of extended attributes", sizeof(w->xattrs));
	fm_put_le16(w->xattrs + w->xattrs_len, (uint16_t)name_len);
	fm_put_le32(w->xattrs + w->xattrs_len + 2, (uint32_t)n);
	memcpy(w->xattrs + w->xattrs_len + 6, name, name_len);
	w->xattrs_len = at + (size_t)n;
	return 0;
}

static int read_xattrs(struct walk *w, int fd, struct fm_error *err)
{
	w->xattrs_len = 0;
	ssize_t n = flistxattr(fd, w->xattr_names, sizeof(w->xattr_names));
	if (n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS))
		return 0;
	if (n < 0)
		return fm_error_errno(err, errno, "cannot list extended attributes");
	for (const char *name = w->xattr_names; name < w->xattr_names + n; name += strlen(name) + 1) {
		if (fm_xattr_is_carried(name) && add_xattr(w, fd, name, err) < 0)
			return -1;
	}
	return 0;
}

/* From offset to end, or less when the file has become shorter: the receiver's file has the announced length, what is missing stays zero. 1 = it ended early. */
static int send_range(struct walk *w, int fd, uint64_t offset, uint64_t end, struct fm_error *err)
{
	while (offset < end) {
		uint8_t *to;
		size_t room;
		uint64_t left = end - offset;
		if (fm_batch_reserve(&w->batch, left < MIN_CHUNK_BYTES ? (size_t)left : MIN_CHUNK_BYTES, &to, &room, err) < 0)
			return -1;
		ssize_t n = pread(fd, to, left < room ? (size_t)left : room, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fm_error_errno(err, errno, "cannot read at %llu", (unsigned long long)offset);
		if (n == 0)
			return 1;
		fm_batch_commit(&w->batch, FM_FRAME_FILE_DATA, offset, 0, (size_t)n);
		offset += (uint64_t)n;
	}
	return 0;
}

/* Worth remembering block by block? One name only: the receiver writes it in place. */
static bool has_blocks(const struct stat *st)
{
	return S_ISREG(st->st_mode) && st->st_nlink == 1 && st->st_size > 0 && (uint64_t)st->st_blocks * 512 >= (uint64_t)st->st_size;
}

static bool can_update(const struct walk *w, uint32_t previous, const struct stat *st)
{
	return previous != FM_MANIFEST_NONE && w->previous->entries[previous].n_blocks && has_blocks(st);
}

/* One block into *to; its length, less than wanted when the file has become shorter. */
static ssize_t read_block(int fd, uint8_t *to, size_t want, uint64_t offset)
{
	size_t got = 0;
	while (got < want) {
		ssize_t n = pread(fd, to + got, want - got, (off_t)(offset + got));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (n == 0)
			break;
		got += (size_t)n;
	}
	return (ssize_t)got;
}

/* previous NONE: all of it. What was sent is remembered with the newest entry. */
static int send_blocks(struct walk *w, int fd, const struct stat *st, uint32_t previous, struct fm_error *err)
{
	const struct fm_manifest_entry *old = previous == FM_MANIFEST_NONE ? NULL : &w->previous->entries[previous];
	uint64_t size = (uint64_t)st->st_size;
	bool remember_it = !w->last;

	for (uint64_t offset = 0, i = 0; offset < size; offset += FM_TREE_BLOCK_BYTES, i++) {
		size_t want = size - offset < FM_TREE_BLOCK_BYTES ? (size_t)(size - offset) : FM_TREE_BLOCK_BYTES;
		uint8_t *to;
		size_t room;
		if (fm_batch_reserve(&w->batch, want, &to, &room, err) < 0)
			return -1;
		ssize_t n = read_block(fd, to, want, offset);
		if (n < 0)
			return fm_error_errno(err, errno, "cannot read at %llu", (unsigned long long)offset);
		if ((size_t)n <
		    want) { /* it has become shorter: what the receiver has in place of the rest is not known, so all of it goes next time */
			memset(to + n, 0, want - (size_t)n);
			remember_it = false;
		}
		if (!old && !remember_it) {
			fm_batch_commit(&w->batch, FM_FRAME_FILE_DATA, offset, 0, want);
			continue;
		}
		XXH128_hash_t h = fm_hash_keyed(&w->manifest->secret, to, want);
		struct fm_block_hash hash = { .low = h.low64, .high = h.high64 };
		bool same = old && i < old->n_blocks && w->previous->blocks[old->blocks + i].low == hash.low &&
		            w->previous->blocks[old->blocks + i].high == hash.high;
		if (!same)
			fm_batch_commit(&w->batch, FM_FRAME_FILE_DATA, offset, 0, want);
		remember_it = remember_it && fm_manifest_add_block(w->manifest, hash);
	}
	if (!remember_it)
		fm_manifest_drop_blocks(w->manifest);
	return 0;
}

static int send_content(struct walk *w, int fd, const struct stat *st, struct fm_error *err)
{
	uint64_t size = (uint64_t)st->st_size, offset = 0;

	if ((uint64_t)st->st_blocks * 512 >= size) /* no holes: do not ask */
		return send_range(w, fd, 0, size, err) < 0 ? -1 : 0;
	while (offset < size) {
		off_t data = lseek(fd, (off_t)offset, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			return 0; /* a hole to the end */
		if (data < 0)
			return send_range(w, fd, offset, size, err) < 0 ? -1 : 0; /* no such thing here */
		off_t hole = lseek(fd, data, SEEK_HOLE);
		uint64_t end = hole < 0 || (uint64_t)hole > size ? size : (uint64_t)hole;
		if ((uint64_t)data >= size)
			return 0;
		int r = send_range(w, fd, (uint64_t)data, end, err);
		if (r != 0)
			return r < 0 ? -1 : 0;
		offset = end;
	}
	return 0;
}

/* A regular file through the descriptor that was checked, O_NOATIME when we may. */
static int open_regular(int dirfd, const char *name, struct stat *st)
{
	char proc[48];

	_fm_close_ int path_fd = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (path_fd < 0)
		return -1;
	if (fstat(path_fd, st) < 0)
		return -1;
	if (!S_ISREG(st->st_mode)) {
		errno = ENOENT;
		return -1;
	}
	(void)snprintf(proc, sizeof(proc), "/proc/self/fd/%d", path_fd);
	int fd = open(proc, O_RDONLY | O_NOATIME | O_CLOEXEC);
	return fd < 0 && errno == EPERM ? open(proc, O_RDONLY | O_CLOEXEC) : fd;
}

static bool is_fresh(const struct stat *st)
{
	return time(NULL) - st->st_ctim.tv_sec < WRITTEN_BACK_S;
}

/* What is dirty in memory is written, so that pages become write-protected and the next store through a mapping moves ctime; see the top. */
static void settle(const struct walk *w, int fd, const struct stat *st)
{
	if (w->last || w->memory)
		return;
	if (!w->overlay) {
		(void)sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
		return;
	}
	/* The pages belong to a file of a layer below, which only fsync reaches; it costs a flush of the disk, so not for files that the kernel has long written back on its own. */
	if (is_fresh(st))
		(void)fdatasync(fd);
}

/* settle waits for the disk file by file; in a folder of fresh files, all writes are started first, so that they wait for each other no more. */
static void start_writeback(const struct walk *w, DIR *dir)
{
	struct stat st;

	if (w->last || w->look || w->overlay || w->memory)
		return;
	for (const struct dirent *d; (d = readdir(dir));) {
		if (d->d_type != DT_REG && d->d_type != DT_UNKNOWN)
			continue;
		if (fstatat(dirfd(dir), d->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode) || !is_fresh(&st))
			continue;
		_fm_close_ int fd = open_regular(dirfd(dir), d->d_name, &st);
		if (fd >= 0)
			(void)sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
	}
	rewinddir(dir);
}

/* one name */

static int remember(struct walk *w, uint32_t parent, const char *name, const struct stat *st, bool racy, uint32_t previous, uint32_t *ret,
                    struct fm_error *err)
{
	if (fm_manifest_add(w->manifest, parent, name, strlen(name), st, racy, ret, err) < 0)
		return -1;
	if (previous != FM_MANIFEST_NONE)
		w->now_at[previous] = *ret;
	return 0;
}

/* Not sent, because it is at the receiver as it is */
static int remember_same(struct walk *w, uint32_t parent, const char *name, const struct stat *st, bool racy, uint32_t previous,
                         uint32_t *ret, struct fm_error *err)
{
	if (remember(w, parent, name, st, racy, previous, ret, err) < 0)
		return -1;
	if (!w->last)
		fm_manifest_copy_blocks(w->manifest, w->previous, previous);
	return 0;
}

static void touch(struct walk *w, uint32_t folder)
{
	w->manifest->entries[folder].touched = true;
}

static int send_hard_link(struct walk *w, uint32_t entry, uint32_t source, struct fm_error *err)
{
	char path[FM_TREE_PATH_MAX + 1];
	const struct fm_manifest_entry *m = &w->manifest->entries[entry];
	struct entry e = { .mode = m->mode, .flags = FM_ENTRY_HARD_LINK, .path = path, .target = w->target };

	e.path_len = fm_manifest_path(w->manifest, entry, path);
	e.target_len = fm_manifest_path(w->manifest, source, w->target);
	touch(w, m->parent);
	return put_entry(w, &e, err);
}

/* Is something mounted on exactly this name? */
static bool is_mount_point(int dirfd, const char *name)
{
	struct statx x;

	return statx(dirfd, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_TYPE, &x) == 0 && (x.stx_attributes & STATX_ATTR_MOUNT_ROOT);
}

/* Whole content and attributes. *ret NONE when it vanished. */
static int send_whole(struct walk *w, int dirfd, const char *name, uint32_t parent, uint32_t previous, const struct stat *looked,
                      uint32_t *ret, struct fm_error *err)
{
	struct stat st = *looked;
	_fm_close_ int fd = -1;
	struct entry e;

	bool racy = is_racy(w, &st);

	*ret = FM_MANIFEST_NONE;
	w->xattrs_len = 0;
	if (is_mount_point(dirfd, name))
		return 0;
	if (S_ISREG(st.st_mode)) {
		fd = open_regular(dirfd, name, &st);
		if (fd < 0)
			return has_vanished(errno) ? 0 : fm_error_errno(err, errno, "cannot open");
		racy = is_racy_file(w, fd, &st); /* before settle, which may take long */
		settle(w, fd, &st);
		if (read_xattrs(w, fd, err) < 0)
			return -1;
	}
	e = entry_of(w, &st);
	if (S_ISLNK(st.st_mode)) {
		ssize_t n = readlinkat(dirfd, name, w->target, sizeof(w->target));
		if (n < 0)
			return has_vanished(errno) || errno == EINVAL ? 0 : fm_error_errno(err, errno, "cannot read the symbolic link");
		if (n == 0 || n == (ssize_t)sizeof(w->target))
			return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "the symbolic link's target is too long");
		e.target = w->target;
		e.target_len = (size_t)n;
	}
	e.xattrs = w->xattrs;
	e.xattrs_len = w->xattrs_len;
	/* What the receiver has already is only named. By what is read now, as data would be. */
	uint8_t hash[FM_KNOWN_HASH_BYTES];
	int known = fd < 0 ? 0 : fm_known_find(w->known, fd, (uint64_t)st.st_size, w->cancel_fd, hash, err);
	bool update = !known && can_update(w, previous, &st);
	e.flags = update ? FM_ENTRY_UPDATE : 0;
	if (known < 0 || remember(w, parent, name, &st, racy, previous, ret, err) < 0 || put_entry(w, &e, err) < 0)
		return -1;
	touch(w, parent);
	if (fd < 0)
		return 0;
	if (known)
		return fm_batch_add(&w->batch, FM_FRAME_FILE_KNOWN, 0, 0, hash, sizeof(hash), err);
	return has_blocks(&st) ? send_blocks(w, fd, &st, update ? previous : FM_MANIFEST_NONE, err) : send_content(w, fd, &st, err);
}

/* Everything but folders */
static int visit_file(struct walk *w, int dirfd, const char *name, uint32_t parent, uint32_t previous, const struct stat *st,
                      struct fm_error *err)
{
	bool same = previous != FM_MANIFEST_NONE && fm_manifest_same(&w->previous->entries[previous], st) &&
	            !(w->by_content && S_ISREG(st->st_mode));
	/* What the previous pass was sure about, and has not been stamped since, is as it was then. */
	bool racy = !same && is_racy(w, st);
	uint32_t entry;

	if (w->look)
		return is_mount_point(dirfd, name) ? 0 : remember(w, parent, name, st, racy, previous, &entry, err);
	if (st->st_nlink < 2) {
		if (same)
			return remember_same(w, parent, name, st, racy, previous, &entry, err);
		return send_whole(w, dirfd, name, parent, previous, st, &entry, err);
	}

	struct link_group *g = link_group_of(&w->links, st);
	if (!g)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for hard links");
	if (g->source != FM_MANIFEST_NONE) {
		if (remember(w, parent, name, st, racy, previous, &entry, err) < 0)
			return -1;
		return send_hard_link(w, entry, g->source, err);
	}
	if (same) {
		if (remember(w, parent, name, st, racy, previous, &entry, err) < 0)
			return -1;
		return link_wait(&w->links, g, entry, err);
	}
	if (send_whole(w, dirfd, name, parent, previous, st, &entry, err) < 0)
		return -1;
	if (entry == FM_MANIFEST_NONE)
		return 0;
	g->source = entry;
	for (uint32_t i = g->waiting; i != FM_MANIFEST_NONE; i = w->links.waiting[i].next) {
		if (send_hard_link(w, w->links.waiting[i].entry, entry, err) < 0)
			return -1;
	}
	g->waiting = FM_MANIFEST_NONE;
	return 0;
}

static int walk_folder(struct walk *w, DIR *dir, uint32_t entry, uint32_t previous, unsigned depth, struct fm_error *err);

/* A folder's own attributes; *ret its entry. fd is the folder, open. */
static int send_folder(struct walk *w, int fd, const char *name, uint32_t parent, uint32_t previous, const struct stat *st, uint32_t *ret,
                       struct fm_error *err)
{
	bool same = previous != FM_MANIFEST_NONE && fm_manifest_same(&w->previous->entries[previous], st);

	if (remember(w, parent, name, st, is_racy(w, st), previous, ret, err) < 0)
		return -1;
	if (same || w->look)
		return 0;
	if (read_xattrs(w, fd, err) < 0)
		return -1;
	struct entry e = entry_of(w, st);
	e.xattrs = w->xattrs;
	e.xattrs_len = w->xattrs_len;
	touch(w, *ret);
	/* A new name changes the folder above; new attributes do not. */
	if (parent != FM_MANIFEST_NONE && (previous == FM_MANIFEST_NONE || !S_ISDIR(w->previous->entries[previous].mode)))
		touch(w, parent);
	return put_entry(w, &e, err);
}

/* Opens and sends the folder. *ret_fd -1: it vanished, or it is a mount point, which is not entered. */
static int enter_folder(struct walk *w, int dirfd, const char *name, uint32_t parent, uint32_t previous, int *ret_fd, uint32_t *ret,
                        struct fm_error *err)
{
	struct stat st;

	bool mount_point = is_mount_point(dirfd, name);
	_fm_close_ int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NOATIME | O_CLOEXEC);
	if (fd < 0 && errno == EPERM)
		fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return has_vanished(errno) ? 0 : fm_error_errno(err, errno, "cannot open the folder");
	if (send_folder(w, fd, name, parent, previous, &st, ret, err) < 0)
		return -1;
	if (mount_point || st.st_dev != w->root_dev)
		w->manifest->entries[*ret].not_entered = true;
	else
		*ret_fd = FM_TAKE_FD(fd);
	return 0;
}

static int visit_folder(struct walk *w, int dirfd, const char *name, uint32_t parent, uint32_t previous, unsigned depth,
                        struct fm_error *err)
{
	_fm_close_ int fd = -1;
	uint32_t entry = FM_MANIFEST_NONE;

	if (depth >= FM_TREE_DEPTH_MAX)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "'%s': folders are nested deeper than %u", shown(w), FM_TREE_DEPTH_MAX);
	if (enter_folder(w, dirfd, name, parent, previous, &fd, &entry, err) < 0)
		return fm_error_prefix(err, "'%s'", shown(w));
	if (fd < 0)
		return 0;
	_fm_closedir_ DIR *dir = fdopendir(fd);
	if (!dir)
		return fm_error_errno(err, errno, "'%s': cannot read the folder", shown(w));
	(void)FM_TAKE_FD(fd); /* dir's */
	if (previous != FM_MANIFEST_NONE && !S_ISDIR(w->previous->entries[previous].mode))
		previous = FM_MANIFEST_NONE;
	return walk_folder(w, dir, entry, previous, depth, err);
}

static int visit(struct walk *w, int dirfd, const char *name, uint32_t parent, uint32_t previous_parent, unsigned depth,
                 struct fm_error *err)
{
	struct stat st;

	if (check_cancel(w, err) < 0)
		return -1;
	if (is_excluded(w))
		return 0;
	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return has_vanished(errno) ? 0 : fm_error_errno(err, errno, "cannot look at '%s'", shown(w));
	uint32_t previous =
	        previous_parent == FM_MANIFEST_NONE ? FM_MANIFEST_NONE : fm_manifest_find(w->previous, previous_parent, name, strlen(name));
	if (S_ISDIR(st.st_mode))
		return visit_folder(w, dirfd, name, parent, previous, depth + 1, err);
	if (S_ISSOCK(st.st_mode)) /* whoever listens makes it anew */
		return 0;
	if (visit_file(w, dirfd, name, parent, previous, &st, err) < 0)
		return fm_error_prefix(err, "'%s'", shown(w));
	return 0;
}

static int walk_folder(struct walk *w, DIR *dir, uint32_t entry, uint32_t previous, unsigned depth, struct fm_error *err)
{
	size_t base = w->path_len;

	start_writeback(w, dir);
	for (;;) {
		errno = 0;
		const struct dirent *d = readdir(dir);
		if (!d && errno && !has_vanished(errno))
			return fm_error_errno(err, errno, "cannot read folder '%s'", shown(w));
		if (!d)
			return 0;
		if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
			continue;
		size_t n = strlen(d->d_name), slash = base ? 1 : 0;
		if (base + slash + n > FM_TREE_PATH_MAX)
			return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "a path below '%s' is longer than %u bytes", shown(w),
			                    FM_TREE_PATH_MAX);
		if (slash)
			w->path[base] = '/';
		memcpy(w->path + base + slash, d->d_name, n + 1);
		w->path_len = base + slash + n;
		int r = visit(w, dirfd(dir), d->d_name, entry, previous, depth, err);
		w->path_len = base;
		w->path[base] = 0;
		if (r < 0)
			return -1;
	}
}

/* passes */

/* What the previous pass had and this one did not find. A folder takes all below it along. */
static int send_deletions(struct walk *w, struct fm_error *err)
{
	char path[FM_TREE_PATH_MAX + 1];

	for (uint32_t i = 1; w->previous && i < w->previous->n; i++) {
		if (w->now_at[i] != FM_MANIFEST_NONE)
			continue;
		uint32_t folder = w->now_at[w->previous->entries[i].parent];
		if (folder == FM_MANIFEST_NONE)
			continue;
		const struct fm_manifest_entry *e = &w->manifest->entries[folder];
		if (!S_ISDIR(e->mode) || e->not_entered)
			continue;
		size_t n = fm_manifest_path(w->previous, i, path);
		if (fm_batch_add(&w->batch, FM_FRAME_FILE_DELETE, 0, 0, path, n, err) < 0)
			return -1;
		touch(w, folder);
		w->frames++;
	}
	return 0;
}

static int send_folder_ends(struct walk *w, struct fm_error *err)
{
	char path[FM_TREE_PATH_MAX + 1];

	for (uint32_t i = w->manifest->n; i-- > 0;) { /* inner folders first */
		const struct fm_manifest_entry *m = &w->manifest->entries[i];
		if (!m->touched || !S_ISDIR(m->mode))
			continue;
		struct entry e = { .mode = m->mode,
			           .uid = m->uid,
			           .gid = m->gid,
			           .flags = FM_ENTRY_FOLDER_END,
			           .mtime_s = m->mtime_s,
			           .mtime_ns = m->mtime_ns,
			           .path = path };
		e.path_len = fm_manifest_path(w->manifest, i, path);
		if (put_entry(w, &e, err) < 0)
			return -1;
	}
	return 0;
}

static int start_walk(struct walk *w, int root_fd, struct fm_error *err)
{
	struct statfs fs;

	if (fm_manifest_new(w->previous, &w->manifest, err) < 0)
		return -1;
	if (w->previous) {
		w->now_at = malloc((w->previous->n + 1) * sizeof(*w->now_at));
		if (!w->now_at)
			return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for the list of files");
		memset(w->now_at, 0xff, (w->previous->n + 1) * sizeof(*w->now_at));
	}
	if (fstatfs(root_fd, &fs) < 0)
		return 0;
	w->overlay = fs.f_type == OVERLAYFS_SUPER_MAGIC;
	w->memory = fs.f_type == TMPFS_MAGIC;
	w->fine_stamps = w->overlay || fs.f_type == EXT4_SUPER_MAGIC || fs.f_type == XFS_SUPER_MAGIC || fs.f_type == BTRFS_SUPER_MAGIC ||
	                 fs.f_type == TMPFS_MAGIC;
	return 0;
}

static int end_pass(struct walk *w, unsigned pass, struct fm_error *err)
{
	if (fm_batch_add(&w->batch, FM_FRAME_FILES_END, pass, w->frames, NULL, 0, err) < 0)
		return -1;
	return fm_batch_flush(&w->batch, err);
}

/* The root is a regular file: one entry, named as the root of a tree is. */
static int walk_file(struct walk *w, int fd, const struct stat *st, uint32_t previous, struct fm_error *err)
{
	bool same = previous != FM_MANIFEST_NONE && fm_manifest_same(&w->previous->entries[previous], st);
	uint32_t entry;

	if (same)
		return remember_same(w, FM_MANIFEST_NONE, "", st, is_racy(w, st), previous, &entry, err);
	if (remember(w, FM_MANIFEST_NONE, "", st, is_racy_file(w, fd, st), previous, &entry, err) < 0)
		return -1;
	if (w->look)
		return 0;
	settle(w, fd, st);
	if (read_xattrs(w, fd, err) < 0)
		return -1;
	struct entry e = entry_of(w, st);
	e.xattrs = w->xattrs;
	e.xattrs_len = w->xattrs_len;
	bool update = can_update(w, previous, st);
	e.flags = update ? FM_ENTRY_UPDATE : 0;
	if (put_entry(w, &e, err) < 0)
		return -1;
	return has_blocks(st) ? send_blocks(w, fd, st, update ? previous : FM_MANIFEST_NONE, err) : send_content(w, fd, st, err);
}

static int walk_tree(struct walk *w, int *fd, const struct stat *st, uint32_t previous, struct fm_error *err)
{
	uint32_t entry;

	if (send_folder(w, *fd, "", FM_MANIFEST_NONE, previous, st, &entry, err) < 0)
		return -1;
	_fm_closedir_ DIR *dir = fdopendir(*fd);
	if (!dir)
		return fm_error_errno(err, errno, "cannot read the folder");
	(void)FM_TAKE_FD(*fd); /* dir's */
	if (walk_folder(w, dir, entry, previous, 0, err) < 0)
		return -1;
	return w->look || (send_deletions(w, err) == 0 && send_folder_ends(w, err) == 0) ? 0 : -1;
}

static int run_pass(struct walk *w, const char *root, struct fm_error *err)
{
	struct stat st;
	uint32_t previous = w->previous && w->previous->n ? 0 : FM_MANIFEST_NONE;

	/* Not to be stuck in a fifo that somebody has put there. */
	_fm_close_ int fd = open(root, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return fm_error_errno(err, errno, "cannot open '%s'", root);
	if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode))
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "'%s' is neither a folder nor a regular file", root);
	w->root_dev = st.st_dev;
	if (start_walk(w, fd, err) < 0)
		return -1;
	if ((S_ISREG(st.st_mode) ? walk_file(w, fd, &st, previous, err) : walk_tree(w, &fd, &st, previous, err)) < 0)
		return fm_error_prefix(err, "sending the files of '%s'", root);
	return 0;
}

static struct walk *walk_new(char *const *exclude, const struct fm_manifest *previous, unsigned racy_ms, int cancel_fd,
                             struct fm_error *err)
{
	struct walk *w = calloc(1, sizeof(*w));

	if (!w) {
		(void)fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for a walk over files");
		return NULL;
	}
	w->previous = previous;
	w->exclude = exclude;
	w->racy_ns = (int64_t)racy_ms * 1000000;
	w->cancel_fd = cancel_fd;
	return w;
}

/* ret may be NULL; last: see filetree.h */
static int send_walk(struct walk *w, struct fm_stream *s, const char *root, unsigned pass, struct fm_manifest **ret, uint64_t *ret_bytes,
                     int timeout_ms, struct fm_error *err)
{
	struct fm_error e = FM_ERROR_INIT;

	if (fm_batch_init(&w->batch, s, BATCH_BYTES, timeout_ms, w->cancel_fd, err) < 0)
		return -1;
	if (run_pass(w, root, &e) < 0 || end_pass(w, pass, &e) < 0) {
		(void)fm_stream_explain(s, &e);
		if (err)
			*err = e;
		return -1;
	}
	if (ret)
		*ret = FM_TAKE_PTR(w->manifest);
	if (ret_bytes)
		*ret_bytes = w->batch.bytes;
	return 0;
}

int fm_filetree_send_racy(struct fm_stream *s, const char *root, char *const *exclude, const struct fm_manifest *previous, unsigned pass,
                          unsigned racy_ms, struct fm_manifest **ret, uint64_t *ret_bytes, int timeout_ms, int cancel_fd,
                          struct fm_error *err)
{
	_fm_cleanup_(walk_done) struct walk *w = walk_new(exclude, previous, racy_ms, cancel_fd, err);

	if (!w)
		return -1;
	w->last = !ret;
	return send_walk(w, s, root, pass, ret, ret_bytes, timeout_ms, err);
}

int fm_filetree_send_known(struct fm_stream *s, struct fm_known *known, const char *root, char *const *exclude,
                           const struct fm_manifest *previous, unsigned pass, struct fm_manifest **ret, uint64_t *ret_bytes, int timeout_ms,
                           int cancel_fd, struct fm_error *err)
{
	_fm_cleanup_(walk_done) struct walk *w = walk_new(exclude, previous, FM_TREE_RACY_MS, cancel_fd, err);

	if (!w)
		return -1;
	w->known = known;
	w->last = !ret;
	return send_walk(w, s, root, pass, ret, ret_bytes, timeout_ms, err);
}

int fm_filetree_send(struct fm_stream *s, const char *root, char *const *exclude, const struct fm_manifest *previous, unsigned pass,
                     struct fm_manifest **ret, uint64_t *ret_bytes, int timeout_ms, int cancel_fd, struct fm_error *err)
{
	return fm_filetree_send_racy(s, root, exclude, previous, pass, FM_TREE_RACY_MS, ret, ret_bytes, timeout_ms, cancel_fd, err);
}

int fm_filetree_send_last(struct fm_stream *s, const char *root, char *const *exclude, const struct fm_manifest *previous, unsigned pass,
                          struct fm_manifest **ret, uint64_t *ret_bytes, int timeout_ms, int cancel_fd, struct fm_error *err)
{
	_fm_cleanup_(walk_done) struct walk *w = walk_new(exclude, previous, FM_TREE_RACY_MS, cancel_fd, err);

	if (!w)
		return -1;
	w->last = true;
	return send_walk(w, s, root, pass, ret, ret_bytes, timeout_ms, err);
}

int fm_filetree_send_memory(struct fm_stream *s, const char *root, const struct fm_manifest *previous, unsigned pass,
                            struct fm_manifest **ret, uint64_t *ret_bytes, int timeout_ms, int cancel_fd, struct fm_error *err)
{
	_fm_cleanup_(walk_done) struct walk *w = walk_new(NULL, previous, FM_TREE_RACY_MS, cancel_fd, err);

	if (!w)
		return -1;
	w->last = !ret;
	w->by_content = true;
	return send_walk(w, s, root, pass, ret, ret_bytes, timeout_ms, err);
}

int fm_filetree_look(const char *root, struct fm_manifest **ret, int cancel_fd, struct fm_error *err)
{
	_fm_cleanup_(walk_done) struct walk *w = walk_new(NULL, NULL, FM_TREE_RACY_MS, cancel_fd, err);

	if (!w)
		return -1;
	w->look = true;
	if (run_pass(w, root, err) < 0)
		return -1;
	*ret = FM_TAKE_PTR(w->manifest);
	return 0;
}
