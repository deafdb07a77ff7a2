/* SPDX-License-Identifier: MIT */
/* file-known-internal.h - shared by file-known.c (sets and what is said about them) and file-known-copy.c (the copy they are from). Not for other rooms. */
#ifndef FM_SYNC_FILE_KNOWN_INTERNAL_H
#define FM_SYNC_FILE_KNOWN_INTERNAL_H

#include "sync/file-known.h"
#include "sync/hash-secret.h"

struct fm_known_file {
	uint64_t size;
	uint64_t hash[2]; /* low, high */
	uint32_t path;    /* in paths; receiver only */
};

struct fm_known {
	struct fm_known_file *files; /* in order of size and hash once it is complete */
	uint32_t n, cap;
	uint64_t bytes;
	struct fm_hash_secret secret;
	uint64_t budget; /* sender: bytes that may still be hashed */
	/* receiver */
	int root_fd; /* -1 none */
	char *paths; /* NUL-terminated, back to back */
	uint32_t paths_len, paths_cap;
	bool bad;
};

int fm_known_new(struct fm_known **ret, struct fm_error *err);
/* paths: of the receiver's copy, else NULL. */
int fm_known_add(struct fm_known *k, uint64_t size, const uint64_t hash[2], const char *path, struct fm_error *err);
void fm_known_sort(struct fm_known *k);
const struct fm_known_file *fm_known_lookup(const struct fm_known *k, uint64_t size, const uint64_t hash[2]);
/* Of the first size bytes. 1 done, 0 the file is shorter or cannot be read, -1 cancelled or no memory. */
int fm_known_hash(int fd, uint64_t size, const struct fm_hash_secret *secret, int cancel_fd, uint64_t hash[2], struct fm_error *err);

#endif
