/* SPDX-License-Identifier: MIT */
/*
 * filetree-internal.h - shared by the two ends of a file transfer: the entry on the wire, limits, and the sender's memory of a pass (manifest). Not for other rooms.
 *
 * FILE_ENTRY's payload, little-endian:
 *
 *    0  u32 mode        type and permission bits as in st_mode
 *    4  u32 uid, u32 gid
 *   12  u32 rdev major, u32 rdev minor   device nodes, else 0
 *   20  u32 mtime nanoseconds
 *   24  i64 mtime seconds
 *   32  u64 size        regular files, else 0
 *   40  u32 flags       FM_ENTRY_*
 *   44  u16 path length, u16 target length
 *   48  u32 xattrs length
 *   52  path, target (of a symbolic link, or the path of the file to link to), xattrs: {u16 name length, u32 value length, name, value} …
 *
 * FILE_KNOWN: in place of FILE_DATA, payload = u64 low, u64 high of the content's hash (file-known.h).
 * FILE_DATA: a = offset in the file of the last FILE_ENTRY, ascending; what no frame covers is a hole (UPDATE: stays as it is). FILE_DELETE: payload = path, with all that is below it.
 * FILES_END: a = pass, b = number of FILE_ENTRY and FILE_DELETE frames. FILES_OK: a = pass.
 */
#ifndef FM_SYNC_FILETREE_INTERNAL_H
#define FM_SYNC_FILETREE_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "sync/filetree.h"
#include "sync/hash-secret.h"

#define FM_TREE_ENTRIES_MAX      (4u << 20)
#define FM_TREE_PATH_MAX         4095u
#define FM_TREE_NAME_MAX         255u
#define FM_TREE_DEPTH_MAX        256u
#define FM_TREE_XATTRS_BYTES_MAX (64u << 10)
#define FM_ENTRY_FIXED_BYTES     52u
#define FM_ENTRY_BYTES_MAX       (FM_ENTRY_FIXED_BYTES + 2 * FM_TREE_PATH_MAX + FM_TREE_XATTRS_BYTES_MAX)

#define FM_ENTRY_HARD_LINK  1u /* another name of `target`, which is at the receiver already */
#define FM_ENTRY_FOLDER_END 2u /* nothing below this folder changes any more in this pass: set its mode and mtime; no xattrs */
#define FM_ENTRY_UPDATE     4u /* a regular file that is there from the pass before: only blocks that changed follow, and its new size counts */
#define FM_ENTRY_FLAGS      (FM_ENTRY_HARD_LINK | FM_ENTRY_FOLDER_END | FM_ENTRY_UPDATE)

/*
 * Of a file without holes the sender remembers what it sent, block by block (XXH3-128 with a secret, hash-secret.h): of a database's file only what was written since goes again, and of one that is only sent again because its stamps are too
 * young to be believed, nothing but the attributes.
 */
#define FM_TREE_BLOCK_BYTES (64u << 10)
#define FM_TREE_BLOCKS_MAX  (16u << 20) /* of a whole tree: 1 TiB of content, 256 MiB of memory */

/* The extended attributes that are carried; others belong to the host (security modules, overlay's own). */
bool fm_xattr_is_carried(const char *name);

/* fm_filetree_send with another width of the window in which a file counts as just changed (FM_TREE_RACY_MS); for tests. */
#define FM_TREE_RACY_MS 2000u
int fm_filetree_send_racy(struct fm_stream *s, const char *root, char *const *exclude, const struct fm_manifest *previous, unsigned pass,
                          unsigned racy_ms, struct fm_manifest **ret, uint64_t *ret_bytes, int timeout_ms, int cancel_fd,
                          struct fm_error *err);

#define FM_MANIFEST_NONE UINT32_MAX

/* One name as it was when it was last sent. Content and attributes are unchanged as long as none of the numbers differ (the kernel moves ctime with every change). */
struct fm_manifest_entry {
	uint64_t ino, size;
	int64_t mtime_s, ctime_s;
	uint32_t mtime_ns, ctime_ns;
	uint32_t mode, uid, gid;
	uint32_t parent;           /* index of the folder, which comes before; FM_MANIFEST_NONE for the root */
	uint32_t name_off;         /* in names */
	uint32_t blocks, n_blocks; /* first in the manifest's blocks, and how many; none: 0 */
	uint8_t name_len;
	bool racy; /* changed so shortly before it was read that a later change may carry the same ctime: send it again */
	/* of the pass under way */
	bool touched;     /* folder: something directly in it was sent or deleted */
	bool not_entered; /* folder: another filesystem is mounted on it */
};

struct fm_manifest {
	struct fm_manifest_entry *entries;
	uint32_t n, cap;
	char *names;
	uint32_t names_len, names_cap;
	struct fm_block_hash {
		uint64_t low, high;
	} * blocks;
	struct fm_hash_secret secret; /* of the blocks' hashes: the same in all passes */
	uint32_t n_blocks, cap_blocks;
	uint32_t *slots; /* hash table of entry indices by (parent, name) */
	uint32_t n_slots;
};

/* previous: of the pass before, or NULL */
int fm_manifest_new(const struct fm_manifest *previous, struct fm_manifest **ret, struct fm_error *err);
/* *ret_index: of the new entry. RESOURCE_EXHAUSTED past FM_TREE_ENTRIES_MAX. The root has parent NONE and name "". */
int fm_manifest_add(struct fm_manifest *m, uint32_t parent, const char *name, size_t name_len, const struct stat *st, bool racy,
                    uint32_t *ret_index, struct fm_error *err);
/* FM_MANIFEST_NONE when m is NULL or has none */
uint32_t fm_manifest_find(const struct fm_manifest *m, uint32_t parent, const char *name, size_t name_len);
/* The next block of the newest entry. false: there is no room for more, and the entry has none any more. */
bool fm_manifest_add_block(struct fm_manifest *m, struct fm_block_hash h);
/* The newest entry has the content that this one had. */
void fm_manifest_copy_blocks(struct fm_manifest *m, const struct fm_manifest *from, uint32_t index);
void fm_manifest_drop_blocks(struct fm_manifest *m);
bool fm_manifest_same(const struct fm_manifest_entry *e, const struct stat *st);
/* Path relative to the root, "." for the root itself; returns its length. It fits, because deeper or longer ones were never added. */
size_t fm_manifest_path(const struct fm_manifest *m, uint32_t index, char path[FM_TREE_PATH_MAX + 1]);

#endif
