/* SPDX-License-Identifier: MIT */
/*
 * reserve.h - Decision Engine: planning beside a plan that is being carried out. What it still will move is put into the snapshot that the next plan is made of:
 *   - its containers are fixed: a container is in one plan only; the blocker names the plan,
 *   - where they go their use counts already (processors as of now and as predicted, memory, disk), and where they leave it counts still: what has room then has it in whatever order the two plans go,
 *   - of the links, the hosts' ways in and out, and those between two hosts, the most that the plan takes at any time is used.
 * Of what is not known of a container the most it can be counts: its limit, or all that its host uses.
 *
 * A host of which the use is not known stays so: it takes nothing anyway. Pure but for the snapshot. What is reserved for several plans adds up: call it for each.
 */
#ifndef FM_DECISION_RESERVE_H
#define FM_DECISION_RESERVE_H

#include "decision/snapshot.h"

/* A step that is not over. Texts are borrowed. Times are those of its plan. */
struct fm_reserved {
	const char *container, *from, *to;
	uint64_t bandwidth_bytes_per_s, start_ms, end_ms;
};

/* plan: its id. Hosts and containers that the snapshot does not have are passed over. */
void fm_snapshot_reserve(struct fm_snapshot *s, const char *plan, const struct fm_reserved *v, size_t n);

#endif
