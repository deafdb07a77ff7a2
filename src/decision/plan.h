/* SPDX-License-Identifier: MIT */
/*
 * plan.h - Decision Engine: plans of several moves, as data. A plan is made of a snapshot by balance, drain, consolidate or proactive planning (balance.h, drain.h, proactive.h) and carried out
 * by the manager or played by the simulator. The same snapshot and options give the same plan, byte for byte: nothing here looks at a clock or draws a number.
 *
 * A plan owns everything in it (names too: it outlives the snapshot). Indices are those of the snapshot it was made of. Not thread-safe. Times are ms from the plan's start.
 *
 * docs/PLANNING.md has the algorithms and where they come from.
 */
#ifndef FM_DECISION_PLAN_H
#define FM_DECISION_PLAN_H

#include "basic/cleanup.h"
#include "decision/selector.h"
#include "decision/placement.h"
#include "decision/snapshot.h"
#include "decision/strategy.h"

#define FM_PLAN_CPU_PERCENT            80.0 /* thresholds of the published framework */
#define FM_PLAN_MEMORY_PERCENT         70.0
#define FM_PLAN_TRANSIT_CPU_PERCENT    150.0 /* what a host may reach while containers change places: slower for seconds does no harm, */
#define FM_PLAN_TRANSIT_MEMORY_PERCENT 90.0  /* no memory does */
#define FM_PLAN_DRAIN_CPU_PERCENT      100.0 /* what a host may be left with by a drain, where there is no better one; of memory as in transit */
#define FM_PLAN_LINK_SHARE             0.8 /* of what a link has free, that moves may take */
#define FM_PLAN_MAX_CONCURRENT         8
#define FM_PLAN_MAX_PER_HOST           4         /* moves that begin or end at one host at once */
#define FM_PLAN_LINK_BYTES_PER_S       125000000 /* of a link nobody knows anything about: 1 Gbit/s */
#define FM_PLAN_FILES_BYTES            268435456 /* of a root filesystem whose size nobody knows */

/* ---------------------------------------------------------------- what a move costs */

struct fm_move {
	size_t container, from, to;
	enum fm_strategy strategy;            /* AUTO: the cheapest */
	uint64_t memory_bytes;                /* known, or the most it can be */
	uint64_t bandwidth_bytes_per_s;       /* that this move has for itself; never 0 */
	uint64_t destination_available_bytes; /* memory left there then; FM_UNKNOWN */
};
struct fm_move_cost {
	enum fm_strategy strategy; /* never AUTO */
	uint64_t total_ms, downtime_ms, wire_bytes;
};
/* The one question a planner asks. Pure, and total_ms does not grow with bandwidth. FAILED_PRECONDITION: that strategy cannot be used for it. */
struct fm_move_costs {
	int (*predict)(void *userdata, const struct fm_snapshot *s, const struct fm_move *m, struct fm_move_cost *ret,
	               struct fm_error *err);
	void *userdata;
};
/* What cost.h predicts and selector.h chooses; model (borrowed) may be NULL: the formula alone. */
struct fm_move_costs fm_move_costs_model(const struct fm_cost_model *model);
/* The question to the selector that a move is; without a model. */
struct fm_workload_snapshot fm_move_workload(const struct fm_snapshot *s, const struct fm_move *m);

/* ---------------------------------------------------------------- options */

/* Zero in a number means its default above. */
struct fm_plan_opts {
	double cpu_percent, memory_percent; /* thresholds: a host above one of them is over */
	double transit_cpu_percent, transit_memory_percent;
	double link_share;
	unsigned max_concurrent, max_per_host;
	uint64_t deadline_ms;                       /* drain: none when 0 */
	const struct fm_placement_weights *weights; /* NULL: the documented ones */
	const struct fm_move_costs *costs;          /* NULL: fm_move_costs_model(NULL) */
};

/* ---------------------------------------------------------------- the plan */

enum fm_plan_kind { FM_PLAN_BALANCE = 1, FM_PLAN_DRAIN = 2, FM_PLAN_CONSOLIDATE = 3, FM_PLAN_PROACTIVE = 4 };
const char *fm_plan_kind_to_string(enum fm_plan_kind k); /* "balance"; never NULL */

struct fm_plan_step {
	size_t container, from, to;
	char *container_name, *from_name, *to_name;
	struct fm_move_cost cost;
	uint64_t bandwidth_bytes_per_s; /* its share of the links on its way */
	uint64_t start_ms, end_ms;
	size_t *depends_on; /* steps before it in the list, that have to be over: they make room, or have brought this container where it leaves from */
	size_t n_depends_on;
	char why[192];
};

/* A container that stays although the plan's aim was another, or a host that stays over a threshold. */
struct fm_plan_left {
	char *name;
	double importance; /* of a container */
	char why[192];
};

struct fm_plan {
	enum fm_plan_kind kind;
	bool complete; /* its aim is reached when all steps are done (in time, where there is a deadline) */
	struct fm_plan_step *steps;
	struct fm_plan_left *left; /* containers, the most important first */
	struct fm_plan_left *over; /* hosts */
	char **freed;              /* hosts that have no container afterwards and had one before; NULL or NULL-terminated */
	size_t n_steps, n_left, n_over;
	uint64_t deadline_ms; /* 0: none */
	uint64_t duration_ms; /* until the last step is over */
	char summary[256];    /* one sentence */
};
void fm_plan_free(struct fm_plan *p);
FM_DEFINE_CLEANUP(struct fm_plan *, fm_plan_free);

/* {"kind", "complete", "summary", "deadline_ms", "duration_ms", "will_not_make_it": [{"container", "importance", "why"}], "over": [{"host", "why"}], "freed": [], "steps": [{"step", "container",
 * "from", "to", "strategy", "depends_on": [], "start_ms", "end_ms", "downtime_ms", "wire_bytes", "bandwidth_bytes_per_s", "why"}]}. The caller frees it. */
char *fm_plan_to_json(const struct fm_plan *p);

#endif
