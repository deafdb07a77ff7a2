/* SPDX-License-Identifier: MIT */
/*
 * schedule.c - see order.h: times of moves over shared links. List scheduling (Graham 1966) with a budget a link: a job gets its part of every link on its way when it begins and keeps it, so what
 * is planned for the others does not depend on how well it goes.
 */
#include <stdio.h>
#include <string.h>

#include "basic/cleanup.h"
#include "decision/selector.h"
#include "decision/memory.h"
#include "decision/order.h"

#define UNKNOWN_PROCESSES 16 /* of a container nobody has counted them of */
#define WORTH_SHARING     0.95

/* ---------------------------------------------------------------- options and costs */

struct fm_plan_opts fm_plan_opts_resolved(const struct fm_plan_opts *o)
{
	struct fm_plan_opts r = o ? *o : (struct fm_plan_opts){ 0 };
	r.cpu_percent = r.cpu_percent > 0 ? r.cpu_percent : FM_PLAN_CPU_PERCENT;
	r.memory_percent = r.memory_percent > 0 ? r.memory_percent : FM_PLAN_MEMORY_PERCENT;
	r.transit_cpu_percent = r.transit_cpu_percent > 0 ? r.transit_cpu_percent : FM_PLAN_TRANSIT_CPU_PERCENT;
	r.transit_memory_percent = r.transit_memory_percent > 0 ? r.transit_memory_percent : FM_PLAN_TRANSIT_MEMORY_PERCENT;
	r.link_share = r.link_share > 0 && r.link_share <= 1 ? r.link_share : FM_PLAN_LINK_SHARE;
	r.max_concurrent = r.max_concurrent ? r.max_concurrent : FM_PLAN_MAX_CONCURRENT;
	r.max_per_host = r.max_per_host ? r.max_per_host : FM_PLAN_MAX_PER_HOST;
	r.weights = r.weights ? r.weights : &fm_placement_default_weights;
	return r;
}

static bool has_image(const struct fm_snap_host *h, const char *image)
{
	for (char **i = h->images; image && i && *i; i++)
		if (strcmp(*i, image) == 0)
			return true;
	return false;
}

static uint64_t files_of(const struct fm_snapshot *s, const struct fm_move *m)
{
	const struct fm_snap_container *c = &s->containers[m->container];
	if (c->files_bytes != FM_UNKNOWN)
		return c->files_bytes;
	return has_image(&s->hosts[m->to], c->image) ? 0 : FM_PLAN_FILES_BYTES;
}

struct fm_workload_snapshot fm_move_workload(const struct fm_snapshot *s, const struct fm_move *m)
{
	const struct fm_snap_container *c = &s->containers[m->container];
	struct fm_workload_snapshot w = FM_WORKLOAD_UNKNOWN;
	w.c.nested = c->nested;
	w.c.processes = c->processes == FM_UNKNOWN ? UNKNOWN_PROCESSES : (uint32_t)c->processes;
	w.c.memory_bytes = m->memory_bytes;
	w.c.dirty_bytes_per_s = c->dirty_bytes_per_s;
	w.c.files_bytes = files_of(s, m);
	w.c.bandwidth_bytes_per_s = m->bandwidth_bytes_per_s;
	w.c.compressibility = c->compressibility;
	w.c.source_cpu_percent = s->hosts[m->from].cpu_percent;
	w.destination_memory_available_bytes = m->destination_available_bytes == FM_UNKNOWN ? 0 : m->destination_available_bytes;
	w.importance = fm_container_importance(c);
	return w;
}

static int predict_by_model(void *userdata, const struct fm_snapshot *s, const struct fm_move *m, struct fm_move_cost *ret,
                            struct fm_error *err)
{
	struct fm_strategy_choice choice;
	struct fm_workload_snapshot w = fm_move_workload(s, m);
	w.model = userdata;
	if (fm_strategy_choose(&w, m->strategy, &choice, err) < 0)
		return -1;
	*ret = (struct fm_move_cost){ choice.strategy, choice.predicted_total_ms, choice.predicted_downtime_ms,
		                      choice.predicted_wire_bytes };
	return 0;
}

struct fm_move_costs fm_move_costs_model(const struct fm_cost_model *model)
{
	return (struct fm_move_costs){ predict_by_model, (void *)model };
}

/* ---------------------------------------------------------------- links */

struct scheduling {
	const struct fm_load *l;
	const struct fm_plan_opts *o;
	unsigned share;
	struct fm_job *jobs;
	size_t n;
	bool *begun;
	size_t *active;
	size_t n_active;
	size_t *waiting_from; /* of each host: jobs that have not begun */
	uint64_t now;
};

static double least(double a, double b)
{
	return a < b ? a : b;
}

struct way {
	double alone, left; /* bytes/s for moves: when there is no other, and now */
	size_t users;       /* that have a part of the narrowest of its links */
};

static struct way look_at_way(const struct scheduling *s, size_t from, size_t to)
{
	double budget = s->o->link_share;
	double cap[3] = { budget * (double)fm_load_port(s->l, from, true), budget * (double)fm_load_port(s->l, to, false),
		          budget * (double)fm_load_bandwidth(s->l, from, to) };
	double left[3] = { cap[0], cap[1], cap[2] };
	size_t users = 0;
	for (size_t i = 0; i < s->n_active; i++) {
		const struct fm_job *a = &s->jobs[s->active[i]];
		double part = (double)a->bandwidth_bytes_per_s;
		left[0] -= a->from == from ? part : 0;
		left[1] -= a->to == to ? part : 0;
		left[2] -= a->from == from && a->to == to ? part : 0;
		users += a->from == from || a->to == to;
	}
	return (struct way){ least(least(cap[0], cap[1]), cap[2]), least(least(left[0], left[1]), left[2]), users };
}

static bool crowded(const struct scheduling *s, size_t host)
{
	unsigned n = 0;
	for (size_t i = 0; i < s->n_active; i++)
		n += s->jobs[s->active[i]].from == host || s->jobs[s->active[i]].to == host;
	return n >= s->o->max_per_host;
}

/* ---------------------------------------------------------------- jobs */

static uint64_t available_at(const struct fm_load *l, size_t host)
{
	const struct fm_snap_host *h = &l->s->hosts[host];
	return h->memory_available_bytes;
}

bool fm_job_predict(const struct fm_load *l, const struct fm_plan_opts *o, struct fm_job *j, double bandwidth)
{
	struct fm_move_costs costs = o->costs ? *o->costs : fm_move_costs_model(NULL);
	struct fm_error err = FM_ERROR_INIT;
	j->bandwidth_bytes_per_s = bandwidth < 1 ? 1 : (uint64_t)bandwidth;
	struct fm_move m = {
		j->container,          j->from, j->to, j->strategy, fm_load_memory_bytes(l, j->container), j->bandwidth_bytes_per_s,
		available_at(l, j->to)
	};
	if (m.memory_bytes == FM_UNKNOWN) {
		(void)snprintf(j->problem, sizeof(j->problem), "nothing is known of its memory");
		return false;
	}
	if (costs.predict(costs.userdata, l->s, &m, &j->cost, &err) < 0) {
		(void)snprintf(j->problem, sizeof(j->problem), "%.*s", (int)sizeof(j->problem) - 1, err.message);
		return false;
	}
	return true;
}

enum readiness { READY, NOT_YET, NEVER };

static enum readiness readiness(const struct scheduling *s, const struct fm_job *j)
{
	enum readiness r = READY;
	for (size_t i = 0; i < j->n_after; i++) {
		const struct fm_job *before = &s->jobs[j->after[i]];
		if (before->left_out)
			return NEVER;
		if (!s->begun[j->after[i]] || before->end_ms > s->now)
			r = NOT_YET;
	}
	return r;
}

static void leave_out(struct scheduling *s, size_t i, const char *why)
{
	struct fm_job *j = &s->jobs[i];
	j->left_out = true;
	s->begun[i] = true;
	s->waiting_from[j->from]--;
	if (why && !j->problem[0])
		(void)snprintf(j->problem, sizeof(j->problem), "%s", why);
}

/* Its part: an equal one of what is left for as many as may still join it. */
static bool find_part(struct scheduling *s, struct fm_job *j, const struct way *w)
{
	size_t slots = s->share > w->users ? s->share - w->users : 1, want = s->waiting_from[j->from];
	size_t among = want < slots ? want : slots;
	return fm_job_predict(s->l, s->o, j, w->left / (double)(among ? among : 1));
}

/* True when it has begun or never will. */
static bool consider(struct scheduling *s, size_t i)
{
	struct fm_job *j = &s->jobs[i];
	enum readiness r = readiness(s, j);
	if (r == NEVER) {
		leave_out(s, i, "what it waits for is not moved");
		return true;
	}
	if (r == NOT_YET || s->n_active >= s->o->max_concurrent || crowded(s, j->from) || crowded(s, j->to))
		return false;
	struct way w = look_at_way(s, j->from, j->to);
	if (w.left < w.alone / s->share * 0.999)
		return false;
	if (!find_part(s, j, &w)) {
		leave_out(s, i, NULL);
		return true;
	}
	j->start_ms = s->now;
	j->end_ms = s->now + (j->cost.total_ms ? j->cost.total_ms : 1);
	s->begun[i] = true;
	s->waiting_from[j->from]--;
	s->active[s->n_active++] = i;
	return true;
}

static void next_event(struct scheduling *s)
{
	uint64_t next = UINT64_MAX;
	size_t kept = 0;
	for (size_t i = 0; i < s->n_active; i++)
		if (s->jobs[s->active[i]].end_ms < next)
			next = s->jobs[s->active[i]].end_ms;
	s->now = next;
	for (size_t i = 0; i < s->n_active; i++)
		if (s->jobs[s->active[i]].end_ms > next)
			s->active[kept++] = s->active[i];
	s->n_active = kept;
}

uint64_t fm_schedule(const struct fm_load *l, const struct fm_plan_opts *o, unsigned share, struct fm_job *jobs, size_t n)
{
	struct scheduling s = { .l = l, .o = o, .share = share, .jobs = jobs, .n = n };
	uint64_t last = 0;
	s.begun = fm_alloc_array(n, sizeof(*s.begun));
	s.active = fm_alloc_array(n, sizeof(*s.active));
	s.waiting_from = fm_alloc_array(l->n_hosts, sizeof(*s.waiting_from));
	for (size_t i = 0; i < n; i++) {
		jobs[i].left_out = false;
		jobs[i].problem[0] = '\0';
		s.waiting_from[jobs[i].from]++;
	}
	for (size_t first = 0; first < n;) {
		for (size_t i = first; i < n && s.n_active < o->max_concurrent; i++)
			if (!s.begun[i])
				(void)consider(&s, i);
		while (first < n && s.begun[first])
			first++;
		if (first < n && s.n_active == 0) { /* nothing is under way and nothing could begin: what is left cannot */
			for (size_t i = first; i < n; i++)
				if (!s.begun[i])
					leave_out(&s, i, "there is no way to begin it");
			break;
		}
		if (first < n)
			next_event(&s);
	}
	for (size_t i = 0; i < n; i++)
		if (!jobs[i].left_out && jobs[i].end_ms > last)
			last = jobs[i].end_ms;
	free(s.begun);
	free(s.active);
	free(s.waiting_from);
	return last;
}

uint64_t fm_schedule_best(const struct fm_load *l, const struct fm_plan_opts *o, struct fm_job *jobs, size_t n)
{
	static const unsigned shares[] = { 1, 2, 4 };
	unsigned best = shares[0];
	uint64_t shortest = UINT64_MAX;
	for (size_t i = 0; i < FM_ARRAY_SIZE(shares); i++) {
		uint64_t end = fm_schedule(l, o, shares[i], jobs, n);
		if ((double)end < WORTH_SHARING * (double)shortest) {
			shortest = end;
			best = shares[i];
		}
	}
	return fm_schedule(l, o, best, jobs, n);
}
