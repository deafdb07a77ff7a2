/* SPDX-License-Identifier: MIT */
/* planner-run.c - carries a plan out: which steps may begin now, what became of those that have. */
#include <poll.h>
#include <stdio.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "migration/planner-internal.h"

#define TICK_MS       100  /* how often migrations under way are asked about */
#define SHORTEST_MS   1000 /* that a migration is given, however near the deadline is */
#define WAITING       "waiting"
#define RUNNING       "running"
#define DONE          "done"
#define FAILED        "failed"
#define LEFT          "left"
#define MIN_BANDWIDTH 65536 /* that a migration takes as a limit */

struct running {
	struct fm_planner *p;
	const struct fm_plan_run *run;
	FM_PB(ClusterPlan) * pb; /* the run's */
	bool stop;               /* nothing more is begun */
	bool cancelled;          /* told the migrations */
	bool changed;
	const char *outcome;  /* state in the end, when it is not "done" */
	uint64_t deadline_ms; /* monotonic; 0 */
};

static bool is(const FM_PB(PlanStep) * s, const char *state)
{
	return fm_streq(s->state, state);
}

static size_t count(const struct running *r, const char *state)
{
	size_t n = 0;
	for (size_t i = 0; i < r->pb->n_steps; i++)
		n += is(r->pb->steps[i], state);
	return n;
}

static void set_step(struct running *r, FM_PB(PlanStep) * s, const char *state, const char *error)
{
	pthread_mutex_lock(&r->p->lock);
	fm_pb_set(&s->state, state);
	if (error)
		fm_pb_set(&s->error, error);
	if (fm_streq(state, RUNNING))
		s->started_unix_ms = fm_realtime_ms();
	else if (!fm_streq(state, LEFT))
		s->finished_unix_ms = fm_realtime_ms();
	pthread_mutex_unlock(&r->p->lock);
	r->changed = true;
}

/* The first reason counts. */
static void go_wrong(struct running *r, const char *outcome, const char *reason)
{
	if (r->outcome)
		return;
	r->outcome = outcome;
	pthread_mutex_lock(&r->p->lock);
	fm_pb_set(&r->pb->reason, reason);
	pthread_mutex_unlock(&r->p->lock);
	r->changed = true;
}

/* Nothing more is begun. */
static void stop_for(struct running *r, const char *outcome, const char *reason)
{
	r->stop = true;
	go_wrong(r, outcome, reason);
}

/* A host that is drained is about to go: who can still leave it does. What another plan is for has become doubtful. */
static void step_failed(struct running *r, FM_PB(PlanStep) * s, const char *message)
{
	_fm_free_ char *reason = fm_xasprintf("container '%s' was not moved from '%s' to '%s': %s", s->container, s->from, s->to, message);
	set_step(r, s, FAILED, message);
	go_wrong(r, FAILED, reason);
	r->stop = r->stop || !fm_streq(r->pb->kind, "drain");
}

static void look_at_running(struct running *r)
{
	for (size_t i = 0; i < r->pb->n_steps; i++) {
		FM_PB(PlanStep) *s = r->pb->steps[i];
		_fm_pb_ FM_PB(Migration) *m = NULL;
		struct fm_error err = FM_ERROR_INIT;
		if (!is(s, RUNNING) || fm_coordinator_is_active(r->p->o.coordinator, s->migration))
			continue;
		if (fm_coordinator_get(r->p->o.coordinator, s->migration, &m, &err) < 0)
			step_failed(r, s, err.message);
		else if (m->state == FLEXIMIGRATE__V1__STATE__COMPLETED)
			set_step(r, s, DONE, NULL);
		else if (m->finished_unix_ms)
			step_failed(r, s, m->error_message[0] ? m->error_message : "its migration failed");
	}
}

/* ---------------------------------------------------------------- may it begin? */

static bool share_a_host(const FM_PB(PlanStep) * a, const FM_PB(PlanStep) * b)
{
	return fm_streq(a->from, b->from) || fm_streq(a->to, b->to) || fm_streq(a->from, b->to) || fm_streq(a->to, b->from);
}

/*
 * Steps of one host overlap only if they do in the plan. Intervals that overlap in pairs have a moment in common (Helly), and at that moment the plan has kept the budgets of the host's links; so they
 * are kept whenever these steps run together, late as they may be. Other plans under way have left these budgets out of theirs (planner-beside.c).
 */
static bool ready(const struct running *r, size_t i)
{
	const FM_PB(PlanStep) *s = r->pb->steps[i];
	for (size_t k = 0; k < s->n_depends_on; k++)
		if (s->depends_on[k] >= r->pb->n_steps || !is(r->pb->steps[s->depends_on[k]], DONE))
			return false;
	for (size_t k = 0; k < r->pb->n_steps; k++) {
		const FM_PB(PlanStep) *o = r->pb->steps[k];
		if (k != i && is(o, RUNNING) && share_a_host(s, o) && (o->end_ms <= s->start_ms || s->end_ms <= o->start_ms))
			return false;
	}
	return true;
}

/* What it needs will not come. */
static bool is_hopeless(const struct running *r, const FM_PB(PlanStep) * s)
{
	for (size_t k = 0; k < s->n_depends_on; k++)
		if (s->depends_on[k] >= r->pb->n_steps || is(r->pb->steps[s->depends_on[k]], FAILED) ||
		    is(r->pb->steps[s->depends_on[k]], LEFT))
			return true;
	return false;
}

static void begin(struct running *r, FM_PB(PlanStep) * s)
{
	struct fm_error err = FM_ERROR_INIT;
	_fm_pb_ FM_PB(Migration) *m = NULL;
	FM_PB(MigrateRequest) req = FLEXIMIGRATE__V1__MIGRATE_REQUEST__INIT;
	req.container = s->container;
	req.to = s->to;
	req.strategy = s->strategy;
	req.bandwidth_bytes_per_s = s->bandwidth_bytes_per_s > MIN_BANDWIDTH ? s->bandwidth_bytes_per_s : MIN_BANDWIDTH;
	req.requested_by = fm_streq(r->pb->kind, "consolidate") ? "balance" : r->pb->kind; /* the trigger that policies see */
	if (r->deadline_ms) {
		int left = fm_deadline_left_ms(r->deadline_ms);
		req.max_total_ms = left > SHORTEST_MS ? (uint64_t)left : SHORTEST_MS;
	}
	if (fm_coordinator_migrate(r->p->o.coordinator, &req, &m, &err) < 0) {
		step_failed(r, s, err.message);
		return;
	}
	pthread_mutex_lock(&r->p->lock);
	fm_pb_set(&s->migration, m->id);
	pthread_mutex_unlock(&r->p->lock);
	set_step(r, s, RUNNING, NULL);
}

static void begin_ready(struct running *r)
{
	size_t running = count(r, RUNNING);
	for (size_t i = 0; i < r->pb->n_steps; i++) /* those before it in the list are what it depends on */
		if (is(r->pb->steps[i], WAITING) && is_hopeless(r, r->pb->steps[i]))
			set_step(r, r->pb->steps[i], LEFT, NULL);
	for (size_t i = 0; i < r->pb->n_steps && !r->stop && running < r->run->max_concurrent; i++)
		if (is(r->pb->steps[i], WAITING) && ready(r, i)) {
			begin(r, r->pb->steps[i]);
			running += is(r->pb->steps[i], RUNNING);
		}
}

/* ---------------------------------------------------------------- the whole */

static void heed_cancel(struct running *r)
{
	pthread_mutex_lock(&r->p->lock);
	bool cancel = r->run->cancel;
	pthread_mutex_unlock(&r->p->lock);
	if (!cancel || r->cancelled)
		return;
	r->cancelled = true;
	stop_for(r, "cancelled", "it was cancelled");
	for (size_t i = 0; i < r->pb->n_steps; i++) {
		_fm_pb_ FM_PB(Migration) *m = NULL;
		if (is(r->pb->steps[i], RUNNING)) /* past its commit point it goes on: that is no failure */
			(void)fm_coordinator_cancel(r->p->o.coordinator, r->pb->steps[i]->migration, &m, NULL);
	}
}

static void finish(struct running *r)
{
	size_t left = count(r, WAITING) + count(r, LEFT), done = count(r, DONE);
	for (size_t i = 0; i < r->pb->n_steps; i++)
		if (is(r->pb->steps[i], WAITING))
			set_step(r, r->pb->steps[i], LEFT, NULL);
	pthread_mutex_lock(&r->p->lock);
	_fm_free_ char *reason = left ? fm_xasprintf("%s; %zu step%s left: not begun", r->pb->reason[0] ? r->pb->reason : "it was stopped",
	                                             left, left == 1 ? " is" : "s are")
	                              : fm_xstrdup(r->pb->reason);
	fm_pb_set(&r->pb->reason, reason);
	fm_pb_set(&r->pb->state, r->outcome ? r->outcome : DONE);
	r->pb->finished_unix_ms = fm_realtime_ms();
	pthread_mutex_unlock(&r->p->lock);
	fm_log_write(r->p->o.log, r->outcome ? FM_LOG_WARN : FM_LOG_INFO, FM_PLAN_COMPONENT, NULL,
	             "Plan '%s' is over: %s, %zu of %zu steps done%s%s.", r->pb->id, r->pb->state, done, r->pb->n_steps,
	             reason[0] ? "; " : "", reason);
}

static void record(struct running *r)
{
	struct fm_error err = FM_ERROR_INIT;
	if (!r->changed)
		return;
	if (fm_planner_record(r->p, r->pb, &err) == 0)
		r->changed = false;
	else /* its migrations are on record anyway; it is tried again at the next tick */
		fm_log_write(r->p->o.log, FM_LOG_ERROR, FM_PLAN_COMPONENT, NULL, "Plan '%s' cannot be recorded: %s", r->pb->id,
		             err.message);
}

static bool tick(struct running *r)
{
	look_at_running(r);
	heed_cancel(r);
	if (r->deadline_ms && fm_deadline_left_ms(r->deadline_ms) == 0 && count(r, WAITING) > 0)
		stop_for(r, FAILED, "its deadline has come");
	begin_ready(r);
	bool over = count(r, RUNNING) == 0 && (r->stop || count(r, WAITING) == 0);
	if (over)
		finish(r);
	record(r);
	return over;
}

void fm_planner_run(void *arg)
{
	struct fm_plan_run *run = arg;
	struct fm_planner *p = run->p;
	struct running r = { .p = p, .run = run, .pb = run->pb, .changed = true };
	if (r.pb->deadline_ms)
		r.deadline_ms = fm_now_ms() + r.pb->deadline_ms;
	bool over = false;
	while (!over && !fm_stop_requested(&p->shutdown)) {
		over = tick(&r);
		if (!over)
			(void)fm_wait_fd(p->shutdown.fd, POLLIN, TICK_MS, NULL);
	}
	/* Not given up before its end is on record: who asks is told the truth meanwhile. */
	while (over && r.changed && fm_wait_fd(p->shutdown.fd, POLLIN, TICK_MS, NULL) == 0)
		record(&r);
	fm_planner_remove(p, run);
	fm_pb_free(run->pb);
	free(run);
}
