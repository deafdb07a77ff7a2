/* SPDX-License-Identifier: MIT */
/* drain-internal.h - private to drain*.c: what a drain is looking for, and one answer. */
#ifndef FM_DECISION_DRAIN_INTERNAL_H
#define FM_DECISION_DRAIN_INTERNAL_H

#include "decision/load.h"
#include "decision/order.h"

struct fm_drain {
	struct fm_load *l;
	struct fm_plan_opts o;
	size_t host;
	double limit
	        [FM_DIMENSIONS]; /* percent, that destinations keep to as long as anything fits: the thresholds, or when that is not enough those of urgency */
	size_t *items; /* of the host, that can be moved */
	size_t n;
	size_t n_containers; /* in them */
	double *bytes;       /* of each item, about what has to be sent */
	double *importance;  /* of each item, its containers' together */
};

/* to[i]: host of items[i], FM_NONE: there is no room. */
enum fm_drain_way { FM_DRAIN_BY_SCORE, FM_DRAIN_BY_TIME, FM_DRAIN_BY_SCORE_IMPORTANT, FM_DRAIN_BY_TIME_IMPORTANT, _FM_DRAIN_WAY_MAX };
/* True: all have one. The load is at home before and after. */
bool fm_drain_assign(struct fm_drain *d, enum fm_drain_way way, size_t *to);
/* All of them have one, if that can be found out with a bounded effort. */
bool fm_drain_assign_exactly(struct fm_drain *d, size_t *to);

/* One answer: jobs in their order, with times. */
struct fm_drain_answer {
	struct fm_job *jobs;
	size_t *to; /* of each item of the drain; may change while it is improved */
	unsigned share;
	double value; /* importance of what is away in time */
	size_t moved;
	size_t forced;   /* strategies that are another than the cheapest */
	double downtime; /* weighted */
	uint64_t end_ms;
};
/* Schedules a->jobs and fills in what it is worth. */
void fm_drain_evaluate(const struct fm_drain *d, struct fm_drain_answer *a);
bool fm_drain_better(const struct fm_drain_answer *a, const struct fm_drain_answer *b);
/* Tries small changes (order, destination, strategy, how many at once) as long as one helps and the effort is bounded. */
void fm_drain_improve(struct fm_drain *d, struct fm_drain_answer *a);

#endif
