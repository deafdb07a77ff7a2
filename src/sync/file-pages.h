/* SPDX-License-Identifier: MIT */
/*
 * file-pages.h - pages of files as contents that need not travel: what an application has read from its files (buffers of a database, a model, code that was loaded) is in its private memory, and the
 * destination has these files already, mostly still in its page cache.
 *
 * Each page of a file that is in the page cache is put into the destination's page store, as a page of a process that does not exist; so the source is told of it with the rest (PAGES_HAVE, push.h), and
 * may say KNOWN. It is a copy: what becomes of the file later makes no difference, and a page in the store is never anything but what its hash says.
 *
 * Only what the cache has: nothing is read from a disk (RWF_NOWAIT, of what mincore reports), so a file may also be missing in part. Whole pages at multiples of 4096 bytes in files of
 * FM_FILE_PAGES_FILE_BYTES_MIN and more, the largest first, as far as bytes and time allow. Not zeros, nor contents that the store has.
 * The trees are the container's, and may have been made to do harm: nothing but regular files is opened, beneath the tree's root, on its filesystem; they are read, never touched through a mapping.
 * An error leaves a store that can be used.
 */
#ifndef FM_SYNC_FILE_PAGES_H
#define FM_SYNC_FILE_PAGES_H

#include "sync/page-store.h"

#define FM_FILE_PAGES_PID            INT32_MAX /* processes have lower ids: 2^22 at most */
#define FM_FILE_PAGES_FILE_BYTES_MIN (64u << 10)
#define FM_FILE_PAGES_FILES_MAX      4096u
#define FM_FILE_PAGES_BYTES_MAX      (1ull << 30)

struct fm_file_pages_opts {
	uint64_t max_bytes; /* of copies; FM_FILE_PAGES_BYTES_MAX at most */
	unsigned max_ms;
	int cancel_fd; /* or -1 */
};
struct fm_file_pages_result {
	uint64_t pages_put, pages_read;
	unsigned files;
};
/* roots: folders, or single files; what is not there is left out. store: filling, without pages of files. */
int fm_file_pages_put(struct fm_page_store *store, const char *const *roots, size_t n_roots, const struct fm_file_pages_opts *o,
                      struct fm_file_pages_result *ret, struct fm_error *err);

#endif
