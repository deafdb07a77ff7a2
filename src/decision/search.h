/* SPDX-License-Identifier: MIT */
/*
 * search.h - private to decision/: an assignment of items to hosts under which no host is over its limits, with few moves. Works on a load (load.h) as it is in the snapshot and leaves
 * it as it should be; what has moved is what has another host than home.
 *
 * Deterministic, and bounded by counts of what is looked at, not by a clock. docs/PLANNING.md, "Balance".
 */
#ifndef FM_DECISION_SEARCH_H
#define FM_DECISION_SEARCH_H

#include "decision/load.h"

/* Hosts that are over whatever moves (what cannot be moved is more than their limit) lose relieve. */
void fm_search_give_up(struct fm_load *l);

/* True: no host with relieve is over any more. Else some are, and none that was not before. */
bool fm_search_relieve(struct fm_load *l, const struct fm_placement_weights *w);

size_t fm_search_moves(const struct fm_load *l);              /* containers that are not at home */
size_t fm_search_over(const struct fm_load *l);               /* hosts */
void fm_search_reset(struct fm_load *l, const size_t *hosts); /* all items to hosts[]; NULL: home */
size_t *fm_search_hosts(const struct fm_load *l);             /* where all items are; the caller frees it */

/* At least so many containers have to leave hosts that are over (only items with home there and not in fixed[] can); FM_NONE: it cannot be. fixed may be NULL. */
size_t fm_search_bound(const struct fm_load *l, const bool *fixed);

/* exact.c: fewer moves than `below` that leave no host over, found by iterative deepening, or false: there are none, or it was given up after `budget` positions (*budget is what is left of it).
 * From home; the load is at home again when false. */
bool fm_search_exact(struct fm_load *l, size_t below, uint64_t *budget);

/* The best host for it where it fits (FM_NONE), by score; tightest: by how little room it leaves. among: NULL or hosts that may be taken. */
size_t fm_search_best_host(const struct fm_load *l, const struct fm_placement_weights *w, size_t item, bool tightest, const bool *among);

#endif
