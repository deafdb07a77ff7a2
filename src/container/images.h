/* SPDX-License-Identifier: MIT */
/* images.h - the few CRIU image files we read: which pages are lazy. Input is hostile (it comes from another host): every length is
 * checked; fuzzed. */
#ifndef FM_CONTAINER_IMAGES_H
#define FM_CONTAINER_IMAGES_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "basic/error.h"

struct fm_lazy_range {
	pid_t ns_pid;
	uint64_t vaddr;
	uint64_t n_pages;
};

/* From every pagemap-<pid>.img of the folder, entries with PE_LAZY, and what fm_images_write_lazy wrote; sorted by (pid, vaddr). *ret malloc'ed; total pages
 * limited to 2^32. */
int fm_images_lazy_ranges(int images_dirfd, struct fm_lazy_range **ret, size_t *ret_n, struct fm_error *err);
/* One file's bytes (for the fuzzer): appends to *v. */
int fm_pagemap_parse(const void *data, size_t len, pid_t ns_pid, struct fm_lazy_range **v, size_t *n, struct fm_error *err);
/*
 * Pages that a dump did not even see (criu-view.h), as one more image: FM_IMAGES_HIDDEN, little-endian {u32 magic "FMHP", u32 version 1}, then {u64 vaddr, u64 n_pages,
 * u32 pid, u32 0} each, sorted by (pid, vaddr), not overlapping.
 */
#define FM_IMAGES_HIDDEN "hidden-pages.img"
int fm_images_write_lazy(int images_dirfd, const struct fm_lazy_range *v, size_t n, struct fm_error *err);
int fm_hidden_parse(const void *data, size_t len, struct fm_lazy_range **v, size_t *n, struct fm_error *err); /* appends to *v */

#endif
