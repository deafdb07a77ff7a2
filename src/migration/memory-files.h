/* SPDX-License-Identifier: MIT */
/*
 * memory-files.h - the tmpfs mounts of a parent container (/dev/shm, /run, /tmp, …): which there are, and what is said of them on the way.
 *
 * The inner tree uses its parent's mounts, which CRIU does not save: what is in the files there travels as file trees (filetree.h), from memory to memory. A *memory tree* is one such mount, known by its place in
 * the container. Found in mountinfo, not only in config.json: engines mount some of their own. Not memory trees: the root, /dev and what is below /proc and /sys (the runtime's), what config.json binds there
 * (volumes, volumes.h), parts of a tmpfs that are bound (engines' own hosts and resolv.conf), and what other mounts hide.
 *
 * The list (frame MEMORY): first of all trees in each pass, {u32 number}, then for each {u64 bytes in use, u64 names in use, u16 length of the path, path}. Little-endian. A later list begins with what an earlier one had.
 * Everything here is pure or reads /proc; thread-safe.
 */
#ifndef FM_MIGRATION_MEMORY_FILES_H
#define FM_MIGRATION_MEMORY_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "basic/error.h"
#include "basic/limits.h"

#define FM_MEMORY_LIST_BYTES_MAX (4u + FM_MAX_MEMORY_TREES * (18u + FM_MAX_PATH))

struct fm_manifest;

struct fm_memory_tree {
	char *target;   /* in the container, clean and absolute */
	uint64_t bytes; /* in use */
	uint64_t names;
	uint64_t mount_id; /* as in mountinfo; 0 in a list that was received */
	bool read_only;
	struct fm_manifest *manifest; /* source: of the last pass, NULL before the first */
};
struct fm_memory_trees {
	struct fm_memory_tree *v;
	size_t n;
};
void fm_memory_trees_done(struct fm_memory_trees *t);

/* From the text of /proc/PID/mountinfo (changed by it). skip: strv of places in the container that are something else, may be NULL. Candidates: what is hidden by another mount is found out by opening it. RESOURCE_EXHAUSTED past FM_MAX_MEMORY_TREES. */
int fm_memory_trees_parse(char *mountinfo, char *const *skip, struct fm_memory_trees *ret, struct fm_error *err);
/*
 * Opens the tmpfs that a process has mounted at target; *ret_fd its root. No link is followed and the process's root is not left, whatever it does to its names meanwhile. mount_id 0: any. NOT_FOUND: nothing is mounted there, no
 * tmpfs, or another than mount_id.
 */
int fm_memory_tree_open(pid_t pid, const char *target, uint64_t mount_id, int *ret_fd, struct fm_error *err);
/* Those of process pid, without hidden ones and without read-only ones that are empty (they hide something), with what is in use. */
int fm_memory_trees_find(pid_t pid, char *const *skip, struct fm_memory_trees *ret, struct fm_error *err);

/* *ret to be freed */
int fm_memory_list_encode(const struct fm_memory_trees *t, uint8_t **ret, size_t *ret_n, struct fm_error *err);
/* DATA_LOSS: whatever does not fit exactly, paths that are not absolute and clean, doubles, too many. */
int fm_memory_list_decode(const uint8_t *bytes, size_t n, struct fm_memory_trees *ret, struct fm_error *err);

/* Octal escapes of mountinfo, in place. */
void fm_mountinfo_unescape(char *s);

#endif
