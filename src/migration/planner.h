/* SPDX-License-Identifier: MIT */
/*
 * planner.h - the manager makes plans of several moves (decision/plan.h) of what the fleet is now, and carries them out through the coordinator.
 *
 * Up to FM_MAX_PLANS_ACTIVE are under way beside each other. What the others will still move counts when one is made (decision/reserve.h): their containers are left alone, and what they take of hosts and links is
 * used. How many migrations of a host there are at once is the coordinator's queue's to say, for all. Unasked nothing is planned while a plan is under way. The steps of a plan begin when those they depend on are over, at most max_concurrent at once; and of steps that share a host, only those overlap that the plan lets overlap,
 * so that the links' budgets hold however long each takes. The bandwidth of a step is the limit of its migration. When a step fails, or the deadline has come, nothing more is begun (of a drain:
 * nothing that depends on the step; who can still leave the host does), what is under way goes on, and the plan says what was left. Cancelling asks the migrations under way to roll back, too.
 *
 * A plan is recorded in the store at each change. After a restart of the manager its migrations are taken up by the coordinator; the plan itself is marked "interrupted" and begins nothing more: the
 * world it was made for may be another one.
 *
 * A drain cordons its host before anything is looked at; it stays cordoned, whatever becomes of the plan.
 *
 * Thread-safe. Messages that are returned belong to the caller.
 */
#ifndef FM_MIGRATION_PLANNER_H
#define FM_MIGRATION_PLANNER_H

#include "decision/proactive.h"
#include "migration/coordinator.h"

struct fm_planner;

struct fm_planner_opts {
	struct fm_store *store;
	struct fm_fleet *fleet;
	struct fm_coordinator *coordinator;
	struct fm_log *log;
	/* The cluster now; called by any thread. */
	int (*snapshot)(void *userdata, struct fm_snapshot **ret, struct fm_error *err);
	void *snapshot_userdata;
	bool proactive; /* plan without being asked, every proactive_period_ms (0 = 10 s) */
	uint64_t proactive_period_ms;
	struct fm_proactive_opts proactive_opts;
};
int fm_planner_new(const struct fm_planner_opts *o, struct fm_planner **ret, struct fm_error *err);
/* Before the coordinator. Begins nothing more, and leaves the plan under way as it is on record. */
void fm_planner_free(struct fm_planner *p);

/* INVALID_ARGUMENT; NOT_FOUND (host); FAILED_PRECONDITION: as many plans as may be are under way. While another one is made it waits. */
int fm_planner_plan(struct fm_planner *p, const FM_PB(PlanRequest) * req, FM_PB(ClusterPlan) * *ret, struct fm_error *err);
int fm_planner_get(struct fm_planner *p, const char *id, FM_PB(ClusterPlan) * *ret, struct fm_error *err);
int fm_planner_list(struct fm_planner *p, FM_PB(ClusterPlan) * **ret, size_t *ret_n, struct fm_error *err);
/* FAILED_PRECONDITION: it is over. Returns at once. */
int fm_planner_cancel(struct fm_planner *p, const char *id, FM_PB(ClusterPlan) * *ret, struct fm_error *err);

#endif
