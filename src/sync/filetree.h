/* SPDX-License-Identifier: MIT */
/*
 * filetree.h - a root filesystem or volume over a control stream: once in full while the container runs, then only what changed.
 *
 * Carried: regular files, folders, symbolic links, fifos, device nodes, sockets are skipped; hard links (by inode), mode, owner, mtime (ns), xattrs (user.*, security.capability), sparse regions.
 * A manifest remembers (path, inode, size, mtime_ns, ctime_ns, mode, uid, gid) of the last pass; the next pass sends what differs and deletes what went away.
 * Other filesystems mounted below the root are not entered (st_dev). Receiver: every path is resolved beneath the root (openat2 RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS|RESOLVE_NO_MAGICLINKS); "..", absolute paths and NULs are refused.
 */
#ifndef FM_SYNC_FILETREE_H
#define FM_SYNC_FILETREE_H

#include "sync/stream.h"

struct fm_manifest; /* opaque */
void fm_manifest_free(struct fm_manifest *m);
size_t fm_manifest_entries(const struct fm_manifest *m);

/* One pass over root. previous NULL = everything. Sends FILE_* frames and FILES_END{a=pass}; does not wait for FILES_OK. exclude: strv of paths relative to root, may be NULL.
 * A file that changes while it is read is sent as read and will differ from its manifest entry, so the next pass sends it again. */
int fm_filetree_send(struct fm_stream *s, const char *root, char *const *exclude, const struct fm_manifest *previous, unsigned pass,
                     struct fm_manifest **ret, uint64_t *ret_bytes, int timeout_ms, int cancel_fd, struct fm_error *err);
/* Receive one pass into root (must exist) until FILES_END, apply, fsync the filesystem when durable is set, answer FILES_OK. */
int fm_filetree_recv(struct fm_stream *s, const char *root, int durable, uint64_t max_bytes, int timeout_ms, int cancel_fd,
                     struct fm_error *err);

#endif
