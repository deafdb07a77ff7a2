/* SPDX-License-Identifier: MIT */
/*
 * pager.h - our fault server: fills the lazy pages of a restored tree through userfaultfd, in place of `criu lazy-pages`.
 *
 * Speaks CRIU's lazy-pages socket (peers: `criu restore --lazy-pages` connects to "lazy-pages.socket" in its work folder, sends per task an int32 pid in the tree's namespace and the task's
 * userfaultfd by SCM_RIGHTS, later the word 0x52535446 "restore finished"). Which ranges are lazy is read from the pagemap images when CRIU connects.
 *
 * Pages that are here already (opts.local) are put into place from here. Every other is asked for over the page stream: faults at once (urgent), the rest in the background with a bounded window (pull), so the source keeps no state and a cut stream only
 * pauses: waiting tasks block, and everything not yet filled is asked again on the next stream. EVENT_FORK, REMAP, REMOVE, UNMAP are followed. A page that is already there
 * (EEXIST) is never overwritten.
 *
 * Crash safety: each userfaultfd is handed to `keep` (the nest) before CRIU may go on; a bitmap of what was filled or removed lives in a file on the migration's tmpfs. If this process dies, faults block; a
 * new process calls fm_pager_recover with the kept descriptors and goes on. When all is filled, `drop` is called and the
 * descriptors are closed, which makes the memory ordinary again, and the pager is done.
 *
 * A child that is forked meanwhile and finds no place with the guard is served all the same, but a crash is then DATA_LOSS. So is a crash in the microseconds in which a message of the
 * kernel has been read and not yet been written down.
 *
 * Threads: fm_pager_new starts one, each stream another; the functions below may be called from any other. Memory: O(ranges) + bitmap + window. Only for hosts with pages of 4096 bytes.
 */
#ifndef FM_SYNC_PAGER_H
#define FM_SYNC_PAGER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "sync/page-store.h"
#include "sync/stream.h"

struct fm_pager_range {
	pid_t ns_pid;
	uint64_t vaddr;
	uint64_t n_pages;
};

struct fm_pager_opts {
	int images_dirfd; /* borrowed for the pager's life: socket and state file ("pager.state") live there */
	/* Lazy ranges of the images; *ret malloc'ed. Called once, when CRIU connects (and by recover). */
	int (*load_ranges)(void *userdata, struct fm_pager_range **ret, size_t *ret_n, struct fm_error *err);
	/* Keep a duplicate of fd under key outside this process; drop key UINT64_MAX = all. */
	int (*keep)(void *userdata, uint64_t key, int fd, struct fm_error *err);
	int (*drop)(void *userdata, uint64_t key, struct fm_error *err);
	/* May be NULL. Pages that are here already: how many from vaddr on, at most max, are alike (all zero, or one after the other at *ret_page, or not here), like fm_page_store_get_run.
	 * The source has them too, the same: what cannot be put into place from here is asked for there, and after a crash all is. local_taken: these are not asked for any more. */
	size_t (*local)(void *userdata, pid_t ns_pid, uint64_t vaddr, size_t max, enum fm_page_have *ret_have, const void **ret_page);
	void (*local_taken)(void *userdata, pid_t ns_pid, uint64_t vaddr, uint64_t n_pages);
	void *userdata;
	uint32_t window_pages; /* background pages under way; 0 = 2048 (8 MiB) */
};

struct fm_pager;
int fm_pager_new(const struct fm_pager_opts *o, struct fm_pager **ret, struct fm_error *err);
int fm_pager_recover(const struct fm_pager_opts *o, const int *fds, const uint64_t *keys, size_t n, struct fm_pager **ret,
                     struct fm_error *err); /* takes the fds */
/* Give it a (new) page stream; borrowed until the pager reports it broken, is done or is freed, or until set_stream with another one returns. On one that is done, only says so to the source. */
int fm_pager_set_stream(struct fm_pager *p, struct fm_stream *s, struct fm_error *err);
/* Wait until every restored process of which the images list lazy pages has handed over its userfaultfd and all are kept: before CRIU is allowed to run them. */
int fm_pager_wait_kept(struct fm_pager *p, int timeout_ms, int cancel_fd, struct fm_error *err);
/* Background filling may start (after the commit; before it only faults are served). */
void fm_pager_start_background(struct fm_pager *p);

/* pages: of the images, without what children have of them. faults: all; latency: of those that had to wait for the source. */
struct fm_pager_stats {
	uint64_t pages_total, pages_done, pages_local, faults, fault_latency_p50_us, fault_latency_p99_us, fault_latency_max_us;
	bool stream_up, done;
	bool waits_for_source; /* pages are missing that are not here, and there is no stream */
};
void fm_pager_stats(struct fm_pager *p, struct fm_pager_stats *ret);
/* Wait for: done (0), the stream broke (UNAVAILABLE: connect again, set_stream, wait again), deadline, cancel, fatal (DATA_LOSS: the source or the state is not
 * what it should be; ABORTED: CRIU gave up; RESOURCE_EXHAUSTED, INTERNAL; or what the source reported). After a fatal one tasks that need pages stay blocked. */
int fm_pager_wait(struct fm_pager *p, int timeout_ms, int cancel_fd, struct fm_error *err);
/* Stops the thread. Kept descriptors stay kept unless done. */
void fm_pager_free(struct fm_pager *p);

#endif
