/* SPDX-License-Identifier: MIT */
/*
 * tracker.h - which pages of a running tree have changed since they were last looked at.
 *
 * Three backends behind one vtable; which of them works is found out by behaviour (fm_tracker_probe), never by a kernel's version:
 *   write-protect  a userfaultfd of the tracked address space in asynchronous write-protect mode and the PAGEMAP_SCAN ioctl (Linux 6.7);
 *   soft-dirty     /proc/PID/clear_refs and bit 55 of /proc/PID/pagemap (kernels with CONFIG_MEM_SOFT_DIRTY);
 *   hash           reads every page and compares its XXH3-128 with the last one: works everywhere, costs a core. An equal hash of
 *                  different pages (2^-128 for accidental content) would be missed: an application that can choose its memory's
 *                  content could make one, so each tracker has a random secret (hash-secret.h).
 *
 * Unknown is dirty: whatever a backend cannot vouch for (new or moved mappings, a new process, a page that is swapped out, a marker)
 * is reported. A page is to be read after the scan that reported it; then, if it changes while it is read, the next scan reports it.
 *
 * Transparency: write-protect makes a system call inside each task of the tree (ptrace, the vdso's syscall instruction, registers and
 * signal mask restored), which stops the task for about a millisecond, once; a task that is traced by somebody else cannot be tracked
 * (FAILED_PRECONDITION). While it is tracked, Linux 6.17 and later refuse an mremap(MREMAP_FIXED) over several mappings (EFAULT), and a
 * mapping may be several for a moment while it is registered (tracker-wp.c; seen 4 times in 96 copies of a program that
 * does nothing else, at a load of 8): that is why a container may opt out (label fleximigrate.tracking=hash). Nothing of it outlives the tracker: the kernel ends it with the
 * descriptor, also when this process dies.
 *
 * Threads: one at a time. Memory: O(mappings), the hash backend 24 bytes a page more. Only for hosts with pages of 4096 bytes.
 */
#ifndef FM_SYNC_TRACKER_H
#define FM_SYNC_TRACKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "basic/error.h"
#include "sync/page-source.h"

enum fm_tracker_backend { FM_TRACKER_AUTO, FM_TRACKER_WRITE_PROTECT, FM_TRACKER_SOFT_DIRTY, FM_TRACKER_HASH, _FM_TRACKER_MAX };
const char *fm_tracker_backend_to_string(enum fm_tracker_backend b); /* "auto", "write-protect", "soft-dirty", "hash" */
int fm_tracker_backend_from_string(const char *s, enum fm_tracker_backend *ret, struct fm_error *err);

/* What works on this host, tried on a child of ours. reason: why not, "" when it works. Takes about 10 ms. */
struct fm_tracker_support {
	bool works[_FM_TRACKER_MAX]; /* [FM_TRACKER_AUTO] is never set */
	char reason[_FM_TRACKER_MAX][160];
	enum fm_tracker_backend best;
};
void fm_tracker_probe(struct fm_tracker_support *ret);

/* Kinds of mappings. Others ([vdso], [vvar], devices, mappings that only read a file) are never reported. */
#define FM_TRACK_ANONYMOUS    1u  /* private anonymous, stacks and heap included: what the fault server (pager.h) can bring later */
#define FM_TRACK_PRIVATE_FILE 2u  /* pages of private file mappings that are not the file's any more */
#define FM_TRACK_SHARED       4u  /* shared anonymous, memfd, shared memory segments, writable shared files */
#define FM_TRACK_HUGETLB      8u  /* whichever of the above on huge page filesystems */
#define FM_TRACK_LOCKED       16u /* whichever of the above with MAP_LOCKED: CRIU restores these itself */
#define FM_TRACK_ALL          31u

/* Runs of pages of one task, ascending by (task, vaddr), never overlapping, never empty. */
struct fm_page_run {
	uint32_t task; /* index into the tasks last given */
	uint32_t n_pages;
	uint64_t vaddr;
};
struct fm_page_runs {
	struct fm_page_run *v; /* malloc'ed, NULL when n = 0 */
	size_t n;
	uint64_t n_pages;
};
void fm_page_runs_done(struct fm_page_runs *r); /* frees, makes it empty */

struct fm_tracker_opts {
	enum fm_tracker_backend backend; /* AUTO: the best that works */
	unsigned kinds;                  /* FM_TRACK_* to report */
};

struct fm_tracker;
int fm_tracker_new(const struct fm_tracker_opts *o, struct fm_tracker **ret, struct fm_error *err);
/* Ends the tracking. With write-protect the kernel clears its marks page by page (30 ms for 800 MB, during which the task's page faults
 * wait): not to be called inside a freeze. NULL-safe. */
void fm_tracker_free(struct fm_tracker *t);
enum fm_tracker_backend fm_tracker_backend(const struct fm_tracker *t);

/* Who belongs to the tree now; ns_pid is only carried along. To be called before every scan: tasks that forked in between are new, and all
 * of their pages are dirty. A task that is gone is forgotten. A task that ended between the caller's look and this call is left out: no error. */
int fm_tracker_set_tasks(struct fm_tracker *t, const struct fm_page_source_task *tasks, size_t n, struct fm_error *err);

/* *dirty: every page of the wanted kinds that may differ from what was read after the last scan that reported it (the first scan: all that are present). Pages that were never touched and
 * the shared zero page may be left out. */
int fm_tracker_scan(struct fm_tracker *t, struct fm_page_runs *dirty, struct fm_error *err);
/* The same for a frozen tree, without touching it, also while CRIU traces it. When `present` is not NULL it gets all pages of these kinds that have content now: what a copy has and `present`
 * has not is gone (munmap, MADV_DONTNEED, truncation) and reads as zeros, or not at all. */
int fm_tracker_scan_frozen(struct fm_tracker *t, struct fm_page_runs *dirty, struct fm_page_runs *present, struct fm_error *err);

/*
 * The caller tells what it has read of pages that a scan reported (n_pages whole pages from vaddr on). Only the hash backend needs it, and needs it for every page: it compares later content
 * with this, and a page it was not told about since it was reported stays dirty. (It cannot use what it saw in the scan: a lock that was free then, held when it was read and is free again now would pass for
 * unchanged.) The others ignore it. `task` is an index into the tasks last given.
 */
void fm_tracker_note_read(struct fm_tracker *t, uint32_t task, uint64_t vaddr, const void *pages, size_t n_pages);

#endif
