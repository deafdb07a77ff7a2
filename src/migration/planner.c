/* SPDX-License-Identifier: MIT */
/* planner.c - see planner.h: requests, and planning without being asked. */
#include "migration/planner.h"

#include <poll.h>
#include <stdio.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/id.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "decision/balance.h"
#include "decision/drain.h"
#include "migration/costs.h"
#include "migration/planner-internal.h"

FM_DEFINE_CLEANUP(struct fm_snapshot *, fm_snapshot_free);

#define PROACTIVE_PERIOD_MS 10000
#define PLANS_LISTED        100
#define MAX_DEADLINE_MS     (7ull * 24 * 3600 * 1000)

/* ---------------------------------------------------------------- what decisions are made of */

static int take_snapshot(struct fm_planner *p, struct fm_snapshot **ret, struct fm_error *err)
{
	return p->o.snapshot(p->o.snapshot_userdata, ret, err);
}

/* With what moves have cost here. */
static int predict(void *userdata, const struct fm_snapshot *s, const struct fm_move *m, struct fm_move_cost *ret, struct fm_error *err)
{
	struct fm_planner *p = userdata;
	struct fm_workload_snapshot w = fm_move_workload(s, m);
	struct fm_strategy_choice choice;
	if (fm_costs_choose(fm_coordinator_costs(p->o.coordinator), &w, m->strategy, &choice, err) < 0)
		return -1;
	*ret = (struct fm_move_cost){ choice.strategy, choice.predicted_total_ms, choice.predicted_downtime_ms,
		                      choice.predicted_wire_bytes };
	return 0;
}

/* ---------------------------------------------------------------- its beginning */

/* With a claim, which is given back then. pb is taken when it returns 0. */
static int start(struct fm_planner *p, FM_PB(ClusterPlan) * pb, unsigned max_concurrent, char id[FM_MIGRATION_ID_LEN + 1],
                 struct fm_error *err)
{
	fm_id_new(id);
	id[0] = 'p';
	fm_pb_set(&pb->id, id);
	fm_pb_set(&pb->state, "running");
	if (fm_planner_record(p, pb, err) < 0)
		return -1;
	fm_log_write(p->o.log, FM_LOG_INFO, FM_PLAN_COMPONENT, NULL, "Plan '%s' (%s%s%s): %s", pb->id, pb->kind, pb->host[0] ? " " : "",
	             pb->host, pb->summary);
	struct fm_plan_run *run = malloc(sizeof(*run));
	if (!run)
		abort();
	*run = (struct fm_plan_run){ .p = p, .pb = pb, .max_concurrent = max_concurrent ? max_concurrent : FM_PLAN_MAX_CONCURRENT };
	fm_planner_add(p, run);
	if (fm_pool_submit(p->pool, fm_planner_run, run, err) == 0) {
		fm_planner_unclaim(p);
		return 0;
	}
	fm_planner_remove(p, run);
	free(run);
	(void)fm_store_record_delete(p->o.store, FM_PLAN_KIND, id, NULL);
	return -1;
}

/* ---------------------------------------------------------------- requests */

static int check(const FM_PB(PlanRequest) * req, struct fm_error *err)
{
	bool drain = fm_streq(req->kind, "drain");
	if (!drain && !fm_streq(req->kind, "balance") && !fm_streq(req->kind, "consolidate"))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%s' is no kind of plan: balance, drain, consolidate", req->kind);
	if (drain != (req->host[0] != '\0'))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, drain ? "drain: which host?" : "%s is about all hosts, not about '%s'",
		                    req->kind, req->host);
	if (req->deadline_ms > 0 && !drain)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "only a drain has a deadline");
	if (req->deadline_ms > MAX_DEADLINE_MS)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a deadline of %llu ms is more than the longest one, %llu ms",
		                    (unsigned long long)req->deadline_ms, MAX_DEADLINE_MS);
	/* written so that a NAN is refused */
	if (!(req->cpu_percent >= 0 && req->cpu_percent <= 100) || !(req->memory_percent >= 0 && req->memory_percent <= 100))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "thresholds are from 1 to 100 percent");
	if (!(req->link_share >= 0 && req->link_share <= 1))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "the share of the links is from 0 to 1");
	if (req->max_concurrent > FM_MAX_MIGRATIONS_ACTIVE)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%u migrations at once are more than a manager takes, %d",
		                    req->max_concurrent, FM_MAX_MIGRATIONS_ACTIVE);
	return 0;
}

static int make(struct fm_planner *p, const FM_PB(PlanRequest) * req, FM_PB(ClusterPlan) * *ret, struct fm_error *err)
{
	_fm_cleanup_(fm_snapshot_freep) struct fm_snapshot *s = NULL;
	_fm_cleanup_(fm_plan_freep) struct fm_plan *plan = NULL;
	struct fm_move_costs costs = { predict, p };
	struct fm_plan_opts o = { .cpu_percent = req->cpu_percent,
		                  .memory_percent = req->memory_percent,
		                  .deadline_ms = req->deadline_ms,
		                  .max_concurrent = req->max_concurrent,
		                  .link_share = req->link_share,
		                  .costs = &costs };
	if (take_snapshot(p, &s, err) < 0)
		return -1;
	fm_planner_reserve(p, s);
	int rc = fm_streq(req->kind, "drain")     ? fm_plan_drain(s, fm_snapshot_host(s, req->host), &o, &plan, err)
	         : fm_streq(req->kind, "balance") ? fm_plan_balance(s, &o, &plan, err)
	                                          : fm_plan_consolidate(s, &o, &plan, err);
	if (rc < 0)
		return -1;
	FM_PB(ClusterPlan) *pb = fm_plan_to_pb(plan);
	fm_pb_set(&pb->host, req->host);
	fm_pb_set(&pb->requested_by, req->requested_by);
	*ret = pb;
	return 0;
}

static int make_and_start(struct fm_planner *p, const FM_PB(PlanRequest) * req, FM_PB(ClusterPlan) * *ret, struct fm_error *err)
{
	FM_PB(ClusterPlan) *pb = NULL;
	char id[FM_MIGRATION_ID_LEN + 1];
	/* before it is looked at, so that nothing comes after it was */
	if ((req->host[0] && fm_fleet_cordon(p->o.fleet, req->host, true, err) < 0) || make(p, req, &pb, err) < 0 ||
	    start(p, pb, req->max_concurrent, id, err) < 0) {
		fm_pb_free(pb);
		fm_planner_unclaim(p);
		return -1;
	}
	return fm_planner_get(p, id, ret, err);
}

int fm_planner_plan(struct fm_planner *p, const FM_PB(PlanRequest) * req, FM_PB(ClusterPlan) * *ret, struct fm_error *err)
{
	_fm_pb_ FM_PB(Host) *host = NULL;
	if (check(req, err) < 0 || (req->host[0] && fm_fleet_host(p->o.fleet, req->host, &host, err) < 0))
		return -1;
	if (req->dry_run)
		return make(p, req, ret, err);
	if (fm_planner_claim(p, false, err) < 0)
		return -1;
	return make_and_start(p, req, ret, err);
}

/* Of a plan that was interrupted: its last migrations are over some time. */
static void refresh(struct fm_planner *p, FM_PB(ClusterPlan) * pb)
{
	for (size_t i = 0; pb->finished_unix_ms && i < pb->n_steps; i++) {
		FM_PB(PlanStep) *s = pb->steps[i];
		_fm_pb_ FM_PB(Migration) *m = NULL;
		if (!fm_streq(s->state, "running") || fm_coordinator_get(p->o.coordinator, s->migration, &m, NULL) < 0 ||
		    m->finished_unix_ms == 0)
			continue;
		fm_pb_set(&s->state, m->state == FLEXIMIGRATE__V1__STATE__COMPLETED ? "done" : "failed");
		fm_pb_set(&s->error, m->error_message);
		s->finished_unix_ms = m->finished_unix_ms;
	}
}

int fm_planner_get(struct fm_planner *p, const char *id, FM_PB(ClusterPlan) * *ret, struct fm_error *err)
{
	_fm_free_ void *data = NULL;
	size_t len = 0;
	FM_PB(ClusterPlan) *pb = NULL;
	pthread_mutex_lock(&p->lock);
	const struct fm_plan_run *run = fm_planner_find(p, id);
	if (run)
		pb = fm_pb_copy(run->pb);
	pthread_mutex_unlock(&p->lock);
	if (!pb) {
		if (fm_store_record_get(p->o.store, FM_PLAN_KIND, id, &data, &len, err) < 0)
			return fm_error_hint(err, "'fleximigrate plan ls' shows the known ones");
		if (fm_planner_unpack(data, len, id, &pb, err) < 0)
			return -1;
		refresh(p, pb);
	}
	*ret = pb;
	return 0;
}

int fm_planner_list(struct fm_planner *p, FM_PB(ClusterPlan) * **ret, size_t *ret_n, struct fm_error *err)
{
	struct fm_store_record *r = NULL;
	size_t n = 0, out = 0;
	if (fm_store_record_list(p->o.store, FM_PLAN_KIND, PLANS_LISTED, &r, &n, err) < 0)
		return -1;
	FM_PB(ClusterPlan) **v = calloc(n + 1, sizeof(*v));
	for (size_t i = 0; v && i < n; i++)
		if (fm_planner_get(p, r[i].id, &v[out], NULL) == 0)
			out++;
	fm_store_records_free(r, n);
	if (!v)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	*ret = v;
	*ret_n = out;
	return 0;
}

int fm_planner_cancel(struct fm_planner *p, const char *id, FM_PB(ClusterPlan) * *ret, struct fm_error *err)
{
	_fm_pb_ FM_PB(ClusterPlan) *pb = NULL;
	if (fm_planner_get(p, id, &pb, err) < 0)
		return -1;
	pthread_mutex_lock(&p->lock);
	struct fm_plan_run *run = fm_planner_find(p, id);
	bool active = run && run->pb->finished_unix_ms == 0;
	if (active)
		run->cancel = true;
	pthread_mutex_unlock(&p->lock);
	if (!active)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "plan '%s' is over: %s", id, pb->state);
	*ret = FM_TAKE_PTR(pb);
	return 0;
}

/* ---------------------------------------------------------------- without being asked */

static void proactive_step(struct fm_planner *p)
{
	struct fm_error err = FM_ERROR_INIT;
	_fm_cleanup_(fm_snapshot_freep) struct fm_snapshot *s = NULL;
	_fm_cleanup_(fm_plan_freep) struct fm_plan *plan = NULL;
	struct fm_move_costs costs = { predict, p };
	struct fm_proactive_opts o = p->o.proactive_opts;
	char id[FM_MIGRATION_ID_LEN + 1];
	o.plan.costs = &costs;
	if (fm_planner_claim(p, true, NULL) < 0)
		return; /* what is under way changes what it would see */
	if (take_snapshot(p, &s, &err) == 0)
		fm_proactive_step(p->proactive, s, &o, &plan);
	FM_PB(ClusterPlan) *pb = plan && plan->n_steps > 0 ? fm_plan_to_pb(plan) : NULL;
	if (pb && start(p, pb, 0, id, &err) == 0)
		return;
	fm_pb_free(pb);
	fm_planner_unclaim(p);
	if (err.code)
		fm_log_write(p->o.log, FM_LOG_ERROR, FM_PLAN_COMPONENT, NULL, "Proactive planning failed: %s", err.message);
}

static void proactive_loop(void *arg)
{
	struct fm_planner *p = arg;
	int period_ms = p->o.proactive_period_ms ? (int)p->o.proactive_period_ms : PROACTIVE_PERIOD_MS;
	while (!fm_stop_requested(&p->shutdown)) {
		proactive_step(p);
		(void)fm_wait_fd(p->shutdown.fd, POLLIN, period_ms, NULL);
	}
}

/* ---------------------------------------------------------------- life */

int fm_planner_new(const struct fm_planner_opts *o, struct fm_planner **ret, struct fm_error *err)
{
	struct fm_planner *p = calloc(1, sizeof(*p));
	if (!p)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	p->o = *o;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->changed, NULL);
	p->proactive = fm_proactive_new();
	if (fm_stop_init(&p->shutdown, err) < 0 || fm_planner_interrupt_all(p, err) < 0 ||
	    fm_pool_new(FM_MAX_PLANS_ACTIVE + 1, FM_MAX_PLANS_ACTIVE + 1, &p->pool, err) < 0 ||
	    (o->proactive && fm_pool_submit(p->pool, proactive_loop, p, err) < 0)) {
		fm_planner_free(p);
		return -1;
	}
	*ret = p;
	return 0;
}

void fm_planner_free(struct fm_planner *p)
{
	if (!p)
		return;
	fm_stop_request(&p->shutdown);
	if (p->pool)
		fm_pool_free(p->pool);
	for (size_t i = 0; i < FM_MAX_PLANS_ACTIVE; i++) /* whose job has not begun */
		if (p->runs[i]) {
			fm_pb_free(p->runs[i]->pb);
			free(p->runs[i]);
		}
	fm_proactive_free(p->proactive);
	fm_stop_done(&p->shutdown);
	pthread_cond_destroy(&p->changed);
	pthread_mutex_destroy(&p->lock);
	free(p);
}
