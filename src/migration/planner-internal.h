/* SPDX-License-Identifier: MIT */
/* planner-internal.h - private to planner*.c. */
#ifndef FM_MIGRATION_PLANNER_INTERNAL_H
#define FM_MIGRATION_PLANNER_INTERNAL_H

#include <pthread.h>

#include "loop/pool.h"
#include "migration/pb.h"
#include "migration/planner.h"

#define FM_PLAN_KIND      "plan" /* of record */
#define FM_PLAN_COMPONENT "Planner"

struct fm_planner {
	struct fm_planner_opts o;
	struct fm_pool *pool;
	struct fm_stop shutdown;
	struct fm_proactive *proactive; /* of the thread that plans unasked */
	pthread_mutex_t lock;
	pthread_cond_t idle;         /* busy has become false */
	bool busy;                   /* somebody makes a plan that will be carried out, or one is under way */
	FM_PB(ClusterPlan) * active; /* changed by its worker only, under the lock; NULL */
	unsigned max_concurrent;     /* of active */
	bool cancel;
};

/* planner-record.c: a plan of the decision engine as a message; the record of one. */
FM_PB(ClusterPlan) * fm_plan_to_pb(const struct fm_plan *plan);
int fm_planner_record(struct fm_planner *p, const FM_PB(ClusterPlan) * pb, struct fm_error *err);
int fm_planner_unpack(const void *data, size_t len, const char *id, FM_PB(ClusterPlan) * *ret, struct fm_error *err);
/* Marks what an earlier manager had under way. */
int fm_planner_interrupt_all(struct fm_planner *p, struct fm_error *err);

/* planner-run.c: carries p->active out; a job of the pool. */
void fm_planner_run(void *arg);

#endif
