/* SPDX-License-Identifier: MIT */
/*
 * revisit-pages.h - pages of containers that have left this host, kept for their return: a move back sends what has changed, not what is here already (push.h).
 *
 * A copy in the agent's memory, never on a disk, made after the destination has been verified and before the source's tree is destroyed. It is a convenience: it may be incomplete (the copy has a
 * time limit), and is given up when it is an hour old, when others need its room, when the host's available memory falls below an eighth, and with the agent. What of it is
 * used is decided by hashes at the other end. Containers with the label fleximigrate.revisit=no leave nothing.
 *
 * Threads: any.
 */
#ifndef FM_MIGRATION_REVISIT_PAGES_H
#define FM_MIGRATION_REVISIT_PAGES_H

#include <stdbool.h>

#include "sync/page-source.h"
#include "sync/page-store.h"

struct fm_revisit_pages;
/* max_bytes: of all copies together (while one is made, the older ones are still there: twice that); 0: nothing is ever kept; UINT64_MAX: an eighth of the host's memory */
int fm_revisit_pages_new(uint64_t max_bytes, struct fm_revisit_pages **ret, struct fm_error *err);
void fm_revisit_pages_free(struct fm_revisit_pages *v); /* NULL-safe */

/* Copies the memory of a stopped tree, for at most timeout_ms, for a return over n_streams push streams (as many as this time is a good guess). *ret_pages: how many pages are kept; 0 when there is no room. v may be NULL: nothing is kept. */
int fm_revisit_pages_copy(struct fm_revisit_pages *v, const char *container, const struct fm_page_source_task *tasks, size_t n,
                          unsigned n_streams, unsigned timeout_ms, uint64_t *ret_pages, struct fm_error *err);
/*
 * The container comes back, over n_streams push streams: a store for each, the caller's. false: there is no copy, or no memory. If it was copied for another number, the pages are put where they belong now, for a few seconds at
 * most; the rest is given up.
 */
bool fm_revisit_pages_take(struct fm_revisit_pages *v, const char *container, unsigned n_streams, struct fm_page_store **ret);
void fm_revisit_pages_forget(struct fm_revisit_pages *v, const char *container); /* it will not come back */
/* How much more may be held in memory for a moment, of the same budget; v may be NULL: nothing. */
uint64_t fm_revisit_pages_spare(struct fm_revisit_pages *v);
/* Gives up what is too old, or too much for the host. To be called every now and then. */
void fm_revisit_pages_expire(struct fm_revisit_pages *v);

struct fm_revisit_pages_stats {
	size_t n;
	uint64_t bytes, max_bytes;
};
void fm_revisit_pages_stats(struct fm_revisit_pages *v, struct fm_revisit_pages_stats *ret);

#endif
