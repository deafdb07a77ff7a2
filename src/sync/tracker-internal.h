/* SPDX-License-Identifier: MIT */
/*
 * tracker-internal.h - shared by tracker*.c: mappings, walks over page tables, lists of runs, the backends' vtable.
 *
 * Two ways to scan a task. Running: what changed, and from now on changes are counted anew. Frozen: what changed and what there is, nothing is reset and no task is
 * touched, so that it also works while CRIU traces the tree; what is dirty then is still dirty in the next scan.
 */
#ifndef FM_SYNC_TRACKER_INTERNAL_H
#define FM_SYNC_TRACKER_INTERNAL_H

#include "basic/cleanup.h"
#include "basic/pagemap-abi.h"
#include "sync/hash-secret.h"
#include "sync/tracker.h"

#define FM_TRACKER_PAGE     4096u
#define FM_TRACKER_REGIONS  65536u
#define FM_PAGE_HAS_CONTENT (FM_PAGE_IS_PRESENT | FM_PAGE_IS_SWAPPED)

/* ---- mappings (tracker-maps.c) */

struct fm_mapping {
	uint64_t start, end, offset;   /* offset: in the file */
	uint64_t room_start, room_end; /* around it, up to the next mappings that are not listed: nothing else may be in there but holes */
	unsigned kind;                 /* one FM_TRACK_*; mappings of kinds that nobody wants are not listed */
	bool shared, private_file;
	bool untracked; /* the backend cannot vouch for it */
};
struct fm_mappings {
	struct fm_mapping *v; /* ascending */
	size_t n, cap;
};
/* Those of the wanted kinds. A process without an address space has none. */
int fm_mappings_read(pid_t pid, unsigned kinds, struct fm_mappings *ret, struct fm_error *err);
void fm_mappings_done(struct fm_mappings *m);

/* ---- runs (tracker-pages.c) */

struct fm_run_list {
	struct fm_page_run *v;
	size_t n, cap;
	uint64_t n_pages;
};
/* Addresses ascending within a task; neighbours are joined, and what is in the list already is not added again. */
int fm_run_list_add(struct fm_run_list *l, uint32_t task, uint64_t start, uint64_t end, struct fm_error *err);
void fm_run_list_done(struct fm_run_list *l);
/* Takes back what was added since the mark. */
struct fm_run_mark {
	size_t n;
	uint64_t n_pages;
	struct fm_page_run last;
};
struct fm_run_mark fm_run_list_mark(const struct fm_run_list *l);
void fm_run_list_back_to(struct fm_run_list *l, const struct fm_run_mark *mark);

/* ---- tasks */

struct fm_tracked {
	uint32_t index; /* in the tasks last given */
	pid_t ns_pid, host_pid;
	int pidfd;
	int pagemap_fd; /* during a scan: of the address space whose mappings were read */
	int mem_fd;     /* hash backend, during a scan */
	bool fresh;     /* all its pages are dirty in the next running scan, whatever its pages say */
	void *state;    /* the backend's */
};

struct fm_tracker_ops;
struct fm_tracker {
	const struct fm_tracker_ops *ops;
	unsigned kinds;
	struct fm_tracked *tasks;
	size_t n_tasks;
	uint64_t round; /* number of the scan */
	bool has_pagemap_scan;
	uint64_t never; /* categories of pages that are never reported: the zero page, guard regions */
	struct fm_page_region *regions;
	uint8_t *buffer; /* hash backend */
	struct fm_hash_secret secret;
};

struct fm_scan {
	struct fm_run_list dirty;
	struct fm_run_list *present; /* NULL: not wanted */
	bool frozen;
};

struct fm_tracker_ops {
	enum fm_tracker_backend backend;
	/* Running scans only, before the task's mappings are read: make it trackable. May be NULL. NOT_FOUND: it has ended. */
	int (*prepare)(struct fm_tracker *t, struct fm_tracked *task, struct fm_error *err);
	int (*scan)(struct fm_tracker *t, struct fm_tracked *task, struct fm_mappings *m, struct fm_scan *s, struct fm_error *err);
	/* The caller has read these pages. May be NULL. */
	void (*note_read)(struct fm_tracker *t, struct fm_tracked *task, uint64_t vaddr, const uint8_t *pages, size_t n);
	/* Ends the tracking of a task; its state becomes NULL. */
	void (*forget)(struct fm_tracked *task);
	/* The end of a running scan, when all tasks were looked at. Not NULL: reading and resetting are two steps, so the tasks are held still meanwhile. */
	int (*reset)(struct fm_tracker *t, struct fm_error *err);
};
extern const struct fm_tracker_ops fm_tracker_write_protect, fm_tracker_soft_dirty, fm_tracker_hash;

bool fm_tracked_has_ended(const struct fm_tracked *task);

/* ---- walks (tracker-pages.c) */

/* As in PAGEMAP_SCAN; on kernels without it the pagemap is read (present, swapped, file, soft-dirty). */
struct fm_walk {
	uint64_t flags, inverted, mask, anyof, returned;
};
typedef int (*fm_walk_fn)(void *userdata, uint64_t start, uint64_t end, uint64_t categories, struct fm_error *err);
/* 1: PM_SCAN_CHECK_WPASYNC found a mapping that is not tracked. What was told until then holds. */
int fm_walk_pages(struct fm_tracker *t, const struct fm_tracked *task, uint64_t start, uint64_t end, const struct fm_walk *w, fm_walk_fn fn,
                  void *userdata, struct fm_error *err);
/* The entries of pagemap from start on, as many as there is room for, before end; 0: its address space is gone. Valid until the next call or walk. */
int fm_read_entries(struct fm_tracker *t, const struct fm_tracked *task, uint64_t start, uint64_t end, const uint64_t **ret, size_t *ret_n,
                    struct fm_error *err);
uint64_t fm_entry_categories(uint64_t entry);
/* Adds what has content and may be reported in a mapping (of its kind) to the lists that are not NULL. */
int fm_add_content(struct fm_tracker *t, const struct fm_tracked *task, const struct fm_mapping *m, struct fm_run_list *a,
                   struct fm_run_list *b, struct fm_error *err);
/*
 * Shared memory of a frozen task: page tables tell neither who else wrote to it (another mapping, write(2)) nor what was never mapped here. So all that the object has is dirty, as
 * the file system tells it, or, when that cannot tell, as the page tables do.
 */
int fm_add_shared(struct fm_tracker *t, const struct fm_tracked *task, const struct fm_mapping *m, struct fm_scan *s, struct fm_error *err);
/* The masks that leave out what is never reported, and unchanged pages of private file mappings. */
struct fm_walk fm_walk_content(const struct fm_tracker *t, bool private_file);
void fm_tracker_find_abilities(struct fm_tracker *t);

int fm_tracker_new_with(const struct fm_tracker_ops *ops, unsigned kinds, struct fm_tracker **ret, struct fm_error *err);

#endif
