/* SPDX-License-Identifier: MIT */
/*
 * order.h - private to decision/: from an assignment to moves one after the other, and from these to times on shared links.
 *
 * A move needs room at its destination while the container is still at its source, so some have to wait for others to leave. What a move waits for is told so that all that do not wait for each
 * other can be done in any order or at once. Containers that change places in a circle, none of which can go first, are solved by a host that gets over its threshold for the moment (up to the
 * limits of transit), else by a third host with spare room where one of them waits; what remains is stuck.
 */
#ifndef FM_DECISION_ORDER_H
#define FM_DECISION_ORDER_H

#include "decision/load.h"

struct fm_order_move {
	size_t item, from, to;
	bool transit;  /* its destination is over its threshold until others have left */
	bool detour;   /* it only waits there */
	size_t *after; /* moves before it in the list */
	size_t n_after;
};
struct fm_order {
	struct fm_order_move *moves;
	size_t n;
	bool *stuck; /* of each item */
	size_t n_stuck;
};
/* l: all items at home; it is left as it is at the end. to[]: the host of each item. transit: percent. */
void fm_order_moves(struct fm_load *l, const size_t *to, const double transit[FM_DIMENSIONS], struct fm_order *ret);
void fm_order_done(struct fm_order *o);

/* Options with their defaults filled in. */
struct fm_plan_opts fm_plan_opts_resolved(const struct fm_plan_opts *o);

/* What has to be scheduled: in the order of preference; what one waits for is before it. */
struct fm_job {
	size_t container, from, to;
	enum fm_strategy strategy; /* AUTO: the cheapest */
	const size_t *after;
	size_t n_after;
	double value; /* with a deadline: what it is worth that it is in time */
	/* filled in */
	bool left_out; /* it, or what it waits for, would not be over at the deadline, or there is no way to move it (problem) */
	uint64_t start_ms, end_ms, bandwidth_bytes_per_s;
	struct fm_move_cost cost;
	char problem[160];
	/* of fm_schedule_fair: how long it takes with so much of the links, as it was found out for this destination and strategy */
	double fixed_ms, bytes, alone; /* bytes/ms */
	size_t fitted_to;
	enum fm_strategy fitted_strategy; /* 0: not yet */
};
/* What it costs with so many bytes/s; false: it cannot be, j->problem says why. */
bool fm_job_predict(const struct fm_load *l, const struct fm_plan_opts *o, struct fm_job *j, double bandwidth);

/* Each job has a fixed part of the links on its way for as long as it takes: about 1/share of what is there, more when nobody else waits for it. Returns the end of the last. */
uint64_t fm_schedule(const struct fm_load *l, const struct fm_plan_opts *o, unsigned share, struct fm_job *jobs, size_t n);
/* The best of several shares, when there is no deadline. */
uint64_t fm_schedule_best(const struct fm_load *l, const struct fm_plan_opts *o, struct fm_job *jobs, size_t n);

/*
 * schedule-fair.c: with a deadline. Up to `slots` jobs at once share links as TCP streams do, every one gets its fair part at every moment; each may take all of the budget when it is alone. What would be
 * late is left out, the least valuable first, so that the others are faster.
 */
uint64_t fm_schedule_fair(const struct fm_load *l, const struct fm_plan_opts *o, unsigned slots, struct fm_job *jobs, size_t n);

/* Append steps for jobs that were scheduled (left_out ones are skipped, and what they would have been told in ret->left). why[i]: of job i. */
void fm_plan_add_jobs(struct fm_plan *p, const struct fm_snapshot *s, const struct fm_job *jobs, size_t n, char *const *why);
void fm_plan_add_left(struct fm_plan *p, const char *name, double importance, const char *why);
void fm_plan_add_over(struct fm_plan *p, const struct fm_load *l);
void fm_plan_sort_left(struct fm_plan *p);

/* Steps for an assignment, in an order that works, with times. l: all items at home, as it is again at the end; to[]: where they should be, of those that cannot get there their home again. */
void fm_plan_assemble(struct fm_plan *p, struct fm_load *l, size_t *to, const struct fm_plan_opts *o);
/* "3 moves in 12 s, 60 ms of downtime altogether, 1.2 GiB" */
void fm_plan_describe(const struct fm_plan *p, char *ret, size_t cap);

#endif
