/* SPDX-License-Identifier: MIT */
/* planner-beside.c - plans under way beside each other: how many, who makes one now, and what those that run leave to the next. */
#include <stdio.h>
#include <time.h>

#include "basic/cleanup.h"
#include "decision/memory.h"
#include "decision/reserve.h"
#include "migration/planner-internal.h"

#define PATIENCE_S 60 /* for who makes a plan: that takes seconds at most */

/* ---------------------------------------------------------------- under the lock */

struct fm_plan_run *fm_planner_find(const struct fm_planner *p, const char *id)
{
	for (size_t i = 0; i < FM_MAX_PLANS_ACTIVE; i++)
		if (p->runs[i] && fm_streq(p->runs[i]->pb->id, id))
			return p->runs[i];
	return NULL;
}

static size_t count(const struct fm_planner *p, bool finished_too)
{
	size_t n = 0;
	for (size_t i = 0; i < FM_MAX_PLANS_ACTIVE; i++)
		n += p->runs[i] && (finished_too || !p->runs[i]->pb->finished_unix_ms);
	return n;
}

/* Somebody makes one; or there is no place, but of those that have one some are over, as everybody can see, and only being put away. */
static bool is_to_wait(const struct fm_planner *p)
{
	return p->planning || (count(p, true) == FM_MAX_PLANS_ACTIVE && count(p, false) < FM_MAX_PLANS_ACTIVE);
}

/* ---------------------------------------------------------------- who makes one */

int fm_planner_claim(struct fm_planner *p, bool alone, struct fm_error *err)
{
	struct timespec until;
	(void)clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += PATIENCE_S;
	pthread_mutex_lock(&p->lock);
	while (!alone && is_to_wait(p) && pthread_cond_timedwait(&p->changed, &p->lock, &until) == 0)
		;
	size_t n = count(p, true);
	bool planning = p->planning, free = !planning && n < (alone ? 1 : FM_MAX_PLANS_ACTIVE);
	p->planning = p->planning || free;
	pthread_mutex_unlock(&p->lock);
	if (free)
		return 0;
	if (planning)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "another plan is being made");
	(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "%zu plans are under way, %d is the most", n, FM_MAX_PLANS_ACTIVE);
	return fm_error_hint(err, "wait for one, or cancel one: 'fleximigrate plan ls'");
}

void fm_planner_unclaim(struct fm_planner *p)
{
	pthread_mutex_lock(&p->lock);
	p->planning = false;
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->lock);
}

/* ---------------------------------------------------------------- those that run */

void fm_planner_add(struct fm_planner *p, struct fm_plan_run *run)
{
	pthread_mutex_lock(&p->lock);
	for (size_t i = 0; i < FM_MAX_PLANS_ACTIVE; i++)
		if (!p->runs[i]) { /* the claim has made sure */
			p->runs[i] = run;
			break;
		}
	pthread_mutex_unlock(&p->lock);
}

void fm_planner_remove(struct fm_planner *p, struct fm_plan_run *run)
{
	pthread_mutex_lock(&p->lock);
	for (size_t i = 0; i < FM_MAX_PLANS_ACTIVE; i++)
		if (p->runs[i] == run)
			p->runs[i] = NULL;
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->lock);
}

/* What is not over of it. */
static void reserve(struct fm_snapshot *s, const FM_PB(ClusterPlan) * pb)
{
	_fm_free_ struct fm_reserved *v = fm_alloc_array(pb->n_steps, sizeof(*v));
	size_t n = 0;
	for (size_t i = 0; i < pb->n_steps; i++) {
		const FM_PB(PlanStep) *st = pb->steps[i];
		if (fm_streq(st->state, "waiting") || fm_streq(st->state, "running"))
			v[n++] = (struct fm_reserved){
				st->container, st->from, st->to, st->bandwidth_bytes_per_s, st->start_ms, st->end_ms
			};
	}
	fm_snapshot_reserve(s, pb->id, v, n);
}

void fm_planner_reserve(struct fm_planner *p, struct fm_snapshot *s)
{
	pthread_mutex_lock(&p->lock);
	for (size_t i = 0; i < FM_MAX_PLANS_ACTIVE; i++)
		if (p->runs[i])
			reserve(s, p->runs[i]->pb);
	pthread_mutex_unlock(&p->lock);
}
