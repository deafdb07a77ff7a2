/* SPDX-License-Identifier: MIT */
/*
 * file-known.h - contents that a receiver of files has already: those of a copy of the container from an earlier visit. They need not travel again.
 *
 *   receiver                                        sender
 *   fm_known_scan      hashes the copy's files
 *   fm_known_offer     FILES_HAVE …, HAVE_END ─▶  fm_known_take
 *   fm_filetree_recv_known  ◀── FILE_KNOWN (hash) in place of FILE_DATA ── fm_filetree_send_known
 *
 * Without a copy the receiver offers an empty set, so that the sender knows when to begin. Only regular files of FM_KNOWN_FILE_BYTES_MIN and more count, at most FM_KNOWN_FILES_MAX of
 * FM_KNOWN_BYTES_MAX together: what a copy has beyond is ignored, a peer that claims more is refused (DATA_LOSS).
 *
 * A content is known by its size and its XXH3-128 with a secret (hash-secret.h) that the receiver draws for each offer, holes read as zeros. Peers trust each other with contents anyway.
 *
 * The copy is not trusted to stay as it was scanned: what is filled in from it is hashed again where it ends up. Its files are reached beneath its root only, never through a link or a mount.
 * Not thread-safe; an object belongs to one thread at a time.
 */
#ifndef FM_SYNC_FILE_KNOWN_H
#define FM_SYNC_FILE_KNOWN_H

#include <stdbool.h>
#include <time.h>

#include "sync/stream.h"

#define FM_KNOWN_FILE_BYTES_MIN 4096u
#define FM_KNOWN_FILES_MAX      65536u
#define FM_KNOWN_BYTES_MAX      (4ull << 30)
#define FM_KNOWN_HASH_BYTES     16u

struct fm_known; /* a set of contents; a receiver's has the copy that they are in */
void fm_known_free(struct fm_known *k);
size_t fm_known_count(const struct fm_known *k); /* NULL: 0 */

/* The contents of the files below root_fd (a folder; owned from now on, also on failure). Files that have changed after `until` are somebody else's by now and are left out, as is what cannot be
 * read; only memory and cancel_fd make it fail. */
int fm_known_scan(int root_fd, const struct timespec *until, int cancel_fd, struct fm_known **ret, struct fm_error *err);
/* Tell the sender; k NULL: nothing. */
int fm_known_offer(struct fm_stream *s, const struct fm_known *k, int timeout_ms, int cancel_fd, struct fm_error *err);
/* Makes fd (empty, open for reading and writing) the announced content of that size; holes of the copy stay holes.
 * DATA_LOSS: it was not announced, or the copy has changed; only the latter makes the copy bad, for good. */
int fm_known_fill(struct fm_known *k, const uint8_t hash[FM_KNOWN_HASH_BYTES], uint64_t size, int fd, int cancel_fd, struct fm_error *err);
bool fm_known_is_bad(const struct fm_known *k);

/* Await the receiver's set. */
int fm_known_take(struct fm_stream *s, struct fm_known **ret, int timeout_ms, int cancel_fd, struct fm_error *err);
/* Does the receiver have what is in fd now? 1 yes (hash is its name), 0 no; reads nothing when no known content has that size, or when twice as much was read as the receiver has: then there are many
 * files of the same size, and reading is not free. k may be NULL. */
int fm_known_find(struct fm_known *k, int fd, uint64_t size, int cancel_fd, uint8_t hash[FM_KNOWN_HASH_BYTES], struct fm_error *err);

#endif
