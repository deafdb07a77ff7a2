/* SPDX-License-Identifier: MIT */
/*
 * selector.h - Decision Engine: which strategy a move takes. A pure function of what is known of the workload, the cost model and the limits: no i/o, no clock, replayable.
 *
 * Every strategy that is possible for this workload is priced (cost.h). Of those that meet the limits for downtime and total time the cheapest is taken (of two that are within 5 % the more robust one: live, pre-copy, post-copy, cold); if none does, the one with the shortest downtime, and the
 * explanation says so. by_weights: the published framework's selector instead, a weighted sum of how well each strategy suits memory .3, cpu .2, bandwidth .2, disk .1, size .1, downtime .1.
 */
#ifndef FM_DECISION_SELECTOR_H
#define FM_DECISION_SELECTOR_H

#include <math.h>

#include "decision/cost.h"

#define FM_SELECTOR_DOWNTIME_MS 300    /* where no limit is given */
#define FM_SELECTOR_TOTAL_MS    600000 /* likewise */

struct fm_workload_snapshot {
	struct fm_cost_case c;                       /* its strategy does not count */
	uint64_t destination_memory_available_bytes; /* 0 = unknown: enough */
	double importance;                           /* weighs downtime; 0 = 1 */
	uint64_t max_downtime_ms, max_total_ms;      /* 0: as above */
	bool filtered; /* its tasks have seccomp filters: CRIU has to bring the pages of memory itself, which it cannot before the freeze */
	bool by_weights;
	const struct fm_cost_model *model; /* borrowed; NULL: the formula alone */
};
/* Everything that may be unknown is */
#define FM_WORKLOAD_UNKNOWN                                                                                                                \
	((struct fm_workload_snapshot){                                                                                                    \
	        .c = { .dirty_bytes_per_s = UINT64_MAX, .latency_ms = NAN, .compressibility = NAN, .source_cpu_percent = NAN } })

struct fm_strategy_option {
	enum fm_strategy strategy;
	bool possible;     /* else why_not, and nothing else is set */
	bool meets_limits; /* else why_not */
	struct fm_cost cost;
	double price; /* fm_cost_of, less is better; by_weights: 1 - the published score */
	char why_not[160];
};

#define FM_STRATEGY_OPTIONS 4 /* cold, pre-copy, post-copy, live */
struct fm_strategy_choice {
	enum fm_strategy strategy;
	uint64_t predicted_downtime_ms, predicted_total_ms, predicted_wire_bytes; /* of it, rounded */
	struct fm_cost cost;                                                      /* of it */
	struct fm_strategy_option options[FM_STRATEGY_OPTIONS];
	char explanation[512]; /* one or two sentences: why this one and not the others */
};

/* requested AUTO chooses; anything else is kept if possible for this workload (FAILED_PRECONDITION otherwise: an ordinary container can only be moved cold, live and pre-copy need room for
 * two copies of the memory, and no seccomp filter), whether it meets the limits or not. */
int fm_strategy_choose(const struct fm_workload_snapshot *w, enum fm_strategy requested, struct fm_strategy_choice *ret,
                       struct fm_error *err);

#endif
