/* SPDX-License-Identifier: MIT */
/* planner-internal.h - private to planner*.c. */
#ifndef FM_MIGRATION_PLANNER_INTERNAL_H
#define FM_MIGRATION_PLANNER_INTERNAL_H

#include <pthread.h>

#include "basic/limits.h"
#include "loop/pool.h"
#include "migration/pb.h"
#include "migration/planner.h"

#define FM_PLAN_KIND      "plan" /* of record */
#define FM_PLAN_COMPONENT "Planner"

/* A plan that is carried out. */
struct fm_plan_run {
	struct fm_planner *p;
	FM_PB(ClusterPlan) * pb; /* changed by its worker only, under the planner's lock */
	unsigned max_concurrent;
	bool cancel; /* asked for; under the lock */
};

struct fm_planner {
	struct fm_planner_opts o;
	struct fm_pool *pool;
	struct fm_stop shutdown;
	struct fm_proactive *proactive; /* of the thread that plans unasked */
	pthread_mutex_t lock;
	pthread_cond_t changed; /* planning has become false, or there is a run less */
	bool planning;          /* somebody makes a plan that will be carried out: one at a time, so that each knows of those before it */
	struct fm_plan_run *runs[FM_MAX_PLANS_ACTIVE]; /* NULL: a free place */
};

/*
 * planner-beside.c. A claim is the right to make a plan and to begin it; it is given back when the plan is among the runs, or there will be none. alone: only when nothing is under way, and without waiting.
 * FAILED_PRECONDITION: too many are under way.
 */
int fm_planner_claim(struct fm_planner *p, bool alone, struct fm_error *err);
void fm_planner_unclaim(struct fm_planner *p);
struct fm_plan_run *fm_planner_find(const struct fm_planner *p, const char *id); /* under the lock; NULL */
void fm_planner_add(struct fm_planner *p, struct fm_plan_run *run);              /* with a claim */
void fm_planner_remove(struct fm_planner *p, struct fm_plan_run *run);
/* What the plans under way will still move is counted in the snapshot (decision/reserve.h). */
void fm_planner_reserve(struct fm_planner *p, struct fm_snapshot *s);

/* planner-record.c: a plan of the decision engine as a message; the record of one. */
FM_PB(ClusterPlan) * fm_plan_to_pb(const struct fm_plan *plan);
int fm_planner_record(struct fm_planner *p, const FM_PB(ClusterPlan) * pb, struct fm_error *err);
int fm_planner_unpack(const void *data, size_t len, const char *id, FM_PB(ClusterPlan) * *ret, struct fm_error *err);
/* Marks what an earlier manager had under way. */
int fm_planner_interrupt_all(struct fm_planner *p, struct fm_error *err);

/* planner-run.c: carries a plan out; a job of the pool. run is freed in the end. */
void fm_planner_run(void *arg);

#endif
