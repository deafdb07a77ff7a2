/* SPDX-License-Identifier: MIT */
/*
 * filetree.h - a root filesystem or volume over a control stream: once in full while the container runs, then only what changed.
 *
 * Carried: regular files, folders, symbolic links, fifos, device nodes (sockets are skipped: whoever listens makes them anew); hard links within the tree, mode with set-id bits, owner, mtime (ns), sparse
 * regions, extended attributes user.*, security.capability and access control lists. Not: atime, ctime, trusted.* and the security modules' labels, which belong to the host.
 * A manifest remembers (path, inode, size, mtime_ns, ctime_ns, mode, uid, gid) of the last pass; the next pass sends what differs and deletes what went away. What changed less than two seconds before it was
 * looked at (a tenth of a second when nobody has it open for writing) is sent again with the next pass, because the kernel's stamps are too coarse to show whether it changed again: after a burst of writes one more pass outside the freeze makes the one inside short.
 * Of a file without holes that is sent again only blocks of 64 KiB that differ go, and the receiver writes them in place.
 * Other filesystems mounted below the root are not entered, nor is anything else that is a mount point (also of one file): the folder is made, what is in it is neither sent nor deleted.
 * Receiver: every path is resolved beneath the root (openat2 RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS|RESOLVE_NO_MAGICLINKS|RESOLVE_NO_XDEV); "..", absolute paths and NULs are refused. Files are made anew, never written over, but for those that an earlier pass made.
 * A root may also be one regular file (a volume that is a single file): content, owner, mode, mtime and attributes go; at the receiver it is written in place, because a bind mount of it must stay one of it.
 * Limits: 4 Mi entries, paths of 4095 bytes, 256 levels, 64 KiB of attributes a file; beyond is RESOURCE_EXHAUSTED at the sender, DATA_LOSS at the receiver.
 * Not noticed but by fm_filetree_send_memory: a change of a file on tmpfs that is made only through a shared mapping (tmpfs has no write-back that would stamp it).
 */
#ifndef FM_SYNC_FILETREE_H
#define FM_SYNC_FILETREE_H

#include "sync/file-known.h"
#include "sync/stream.h"

struct fm_manifest; /* opaque */
void fm_manifest_free(struct fm_manifest *m);
size_t fm_manifest_entries(const struct fm_manifest *m);
/* A number for all that the manifest says, in hex: two manifests of the same tree on the same host have the same one unless a file was changed, made, renamed or removed in between. Order of walking does
 * not matter, nor does ctime of the root, which may be renamed. */
#define FM_MANIFEST_DIGEST_LEN 32
void fm_manifest_digest(const struct fm_manifest *m, char ret[FM_MANIFEST_DIGEST_LEN + 1]);

/* One pass over root. previous NULL = everything. Sends FILE_* frames and FILES_END{a=pass}; does not wait for FILES_OK. exclude: strv of paths relative to root, may be NULL.
 * A file that changes while it is read is sent as read and will differ from its manifest entry, so the next pass sends it again. A file that vanishes is left out.
 * ret NULL = the last pass, for a frozen tree: no manifest is kept, and nothing waits for the disk. With ret, dirty pages of what is sent are written back first, so that stores through mappings show.
 * timeout_ms: longest time without progress. When the receiver gave up, *err is its reason. */
int fm_filetree_send(struct fm_stream *s, const char *root, char *const *exclude, const struct fm_manifest *previous, unsigned pass,
                     struct fm_manifest **ret, uint64_t *ret_bytes, int timeout_ms, int cancel_fd, struct fm_error *err);
/* The same, but a file whose content the receiver has (known, may be NULL) is sent as the name of its content. The content is what was read, at the time when it would have been read to be sent: all else is the
 * same. Not for the last pass. */
int fm_filetree_send_known(struct fm_stream *s, struct fm_known *known, const char *root, char *const *exclude,
                           const struct fm_manifest *previous, unsigned pass, struct fm_manifest **ret, uint64_t *ret_bytes, int timeout_ms,
                           int cancel_fd, struct fm_error *err);
/* The last pass, as above, that still says what it saw: *ret is for fm_manifest_digest, not for another pass. */
int fm_filetree_send_last(struct fm_stream *s, const char *root, char *const *exclude, const struct fm_manifest *previous, unsigned pass,
                          struct fm_manifest **ret, uint64_t *ret_bytes, int timeout_ms, int cancel_fd, struct fm_error *err);
/*
 * The same for a tmpfs, whose files may be changed through shared mappings without any stamp: a page that was read through a mapping is writable already, and a store into it faults no more. So no stamp of a regular file is believed; all of
 * them are read again in every pass and compared block by block with what was sent. ret NULL: the last pass.
 */
int fm_filetree_send_memory(struct fm_stream *s, const char *root, const struct fm_manifest *previous, unsigned pass,
                            struct fm_manifest **ret, uint64_t *ret_bytes, int timeout_ms, int cancel_fd, struct fm_error *err);
/* What a pass would see now; nothing is sent. */
int fm_filetree_look(const char *root, struct fm_manifest **ret, int cancel_fd, struct fm_error *err);
/* Receive one pass into root (must exist) until FILES_END, apply, fsync the filesystem when durable is set, answer FILES_OK. max_bytes: of entries and data in this pass (holes are free).
 * After a failure the tree is neither the old nor the new one: receive everything again or throw it away. */
int fm_filetree_recv(struct fm_stream *s, const char *root, int durable, uint64_t max_bytes, int timeout_ms, int cancel_fd,
                     struct fm_error *err);
/* The same with contents that were offered to the sender. DATA_LOSS when one of them is not what it was (fm_known_is_bad), or was never offered. */
int fm_filetree_recv_known(struct fm_stream *s, struct fm_known *known, const char *root, int durable, uint64_t max_bytes, int timeout_ms,
                           int cancel_fd, struct fm_error *err);

#endif
