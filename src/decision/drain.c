/* SPDX-License-Identifier: MIT */
/* drain.c - see drain.h: several assignments and orders are scheduled, the best is improved, and told. */
#include "decision/drain.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/str.h"
#include "decision/drain-internal.h"
#include "decision/memory.h"
#include "decision/search.h"

#define IMPROVED_EACH 16 /* containers up to which every assignment is improved by itself */

static const unsigned shares[] = { 1, 2, 4 };

enum by { BY_VALUE, BY_IMPORTANCE, SHORTEST_FIRST, LONGEST_FIRST, _BY_MAX };

struct ranked {
	struct fm_job job;
	double first;
};

/* ---------------------------------------------------------------- what there is to do */

static uint64_t files_of(const struct fm_snap_container *c)
{
	return c->files_bytes == FM_UNKNOWN ? FM_PLAN_FILES_BYTES : c->files_bytes;
}

static void find_items(struct fm_drain *d)
{
	const struct fm_load_host *h = &d->l->hosts[d->host];
	d->items = fm_alloc_array(h->n_items, sizeof(*d->items));
	d->bytes = fm_alloc_array(h->n_items, sizeof(*d->bytes));
	d->importance = fm_alloc_array(h->n_items, sizeof(*d->importance));
	for (size_t k = 0; k < h->n_items; k++) {
		const struct fm_load_item *i = &d->l->items[h->items[k]];
		if (!i->movable)
			continue;
		for (size_t m = i->first; m < i->first + i->n; m++) {
			const struct fm_snap_container *c = &d->l->s->containers[d->l->members[m]];
			uint64_t memory = fm_load_memory_bytes(d->l, d->l->members[m]);
			d->bytes[d->n] += (double)files_of(c) + (memory == FM_UNKNOWN ? 0 : (double)memory);
			d->importance[d->n] += fm_container_importance(c);
		}
		d->items[d->n++] = h->items[k];
		d->n_containers += i->n;
	}
}

/* ---------------------------------------------------------------- orders */

static bool solo_cost(const struct fm_drain *d, const struct fm_job *j, enum fm_strategy strategy, struct fm_move_cost *ret)
{
	struct fm_move_costs costs = d->o.costs ? *d->o.costs : fm_move_costs_model(NULL);
	uint64_t b = (uint64_t)(d->o.link_share * (double)fm_load_bandwidth(d->l, j->from, j->to));
	struct fm_move m = { j->container, j->from, j->to, strategy, fm_load_memory_bytes(d->l, j->container), b ? b : 1, FM_UNKNOWN };
	m.destination_available_bytes = d->l->s->hosts[j->to].memory_available_bytes;
	return m.memory_bytes != FM_UNKNOWN && costs.predict(costs.userdata, d->l->s, &m, ret, NULL) == 0;
}

static enum fm_strategy fastest(const struct fm_drain *d, const struct fm_job *j)
{
	enum fm_strategy best = FM_STRATEGY_AUTO;
	uint64_t least = UINT64_MAX, least_downtime = UINT64_MAX;
	for (enum fm_strategy s = FM_STRATEGY_COLD; s < _FM_STRATEGY_MAX; s++) {
		struct fm_move_cost c;
		if (!solo_cost(d, j, s, &c) || c.total_ms > least || (c.total_ms == least && c.downtime_ms >= least_downtime))
			continue;
		best = s;
		least = c.total_ms;
		least_downtime = c.downtime_ms;
	}
	return best;
}

static int highest_first(const void *a, const void *b)
{
	const struct ranked *x = a, *y = b;
	if (x->first > y->first || x->first < y->first)
		return x->first > y->first ? -1 : 1;
	return x->job.container < y->job.container ? -1 : x->job.container > y->job.container;
}

static double rank(const struct fm_drain *d, const struct fm_job *j, enum by by)
{
	struct fm_move_cost c = { 0 };
	double importance = fm_container_importance(&d->l->s->containers[j->container]);
	if (!solo_cost(d, j, j->strategy, &c))
		return -INFINITY;
	double time = (double)c.total_ms + 1;
	switch (by) {
	case BY_VALUE:
		return (importance + 1e-3) / time;
	case BY_IMPORTANCE:
		return importance * 1e9 - time;
	case SHORTEST_FIRST:
		return -time;
	default:
		return time;
	}
}

static void make_jobs(const struct fm_drain *d, const size_t *to, bool fast, enum by by, struct fm_job *jobs)
{
	_fm_free_ struct ranked *v = fm_alloc_array(d->n_containers, sizeof(*v));
	size_t n = 0;
	for (size_t i = 0; i < d->n; i++) {
		const struct fm_load_item *item = &d->l->items[d->items[i]];
		for (size_t m = item->first; m < item->first + item->n; m++, n++) {
			struct fm_job *j = &v[n].job;
			*j = (struct fm_job){ .container = d->l->members[m], .from = d->host, .to = to[i], .strategy = FM_STRATEGY_AUTO };
			j->value = fm_container_importance(&d->l->s->containers[j->container]) + 1e-3;
			if (fast)
				j->strategy = fastest(d, j);
			v[n].first = rank(d, j, by);
		}
	}
	if (n)
		qsort(v, n, sizeof(*v), highest_first);
	for (size_t i = 0; i < n; i++)
		jobs[i] = v[i].job;
}

/* ---------------------------------------------------------------- the best answer */

/* What has no host is taken out before anything is scheduled; ret says how much remains. */
static struct fm_drain only_placed(const struct fm_drain *d, const size_t *to, size_t *items, size_t *ret_to)
{
	struct fm_drain r = *d;
	r.items = items;
	r.n = r.n_containers = 0;
	for (size_t i = 0; i < d->n; i++)
		if (to[i] != FM_NONE) {
			items[r.n] = d->items[i];
			ret_to[r.n++] = to[i];
			r.n_containers += d->l->items[d->items[i]].n;
		}
	return r;
}

struct best {
	struct fm_drain_answer answer; /* answer.jobs is room for all containers */
	size_t *items, *to;            /* that it has; room for all */
	size_t n, n_containers;
	bool any;
};

static void keep(struct best *b, const struct fm_drain *part, const struct fm_drain_answer *a)
{
	struct fm_job *jobs = b->answer.jobs;
	memcpy(jobs, a->jobs, part->n_containers * sizeof(*jobs));
	memcpy(b->items, part->items, part->n * sizeof(*b->items));
	memcpy(b->to, a->to, part->n * sizeof(*b->to));
	b->answer = *a;
	b->answer.jobs = jobs;
	b->answer.to = b->to;
	b->n = part->n;
	b->n_containers = part->n_containers;
	b->any = true;
}

static void try_assignment(const struct fm_drain *d, const size_t *to, struct best *b)
{
	_fm_free_ size_t *items = fm_alloc_array(d->n, sizeof(*items));
	_fm_free_ size_t *placed = fm_alloc_array(d->n, sizeof(*placed));
	_fm_free_ struct fm_job *jobs = fm_alloc_array(d->n_containers, sizeof(*jobs));
	struct fm_drain part = only_placed(d, to, items, placed);
	for (int fast = 0; fast < (d->o.deadline_ms && !(b->any && b->answer.moved == d->n_containers) ? 2 : 1); fast++)
		for (int by = 0; by < _BY_MAX; by++)
			for (size_t k = 0; k < FM_ARRAY_SIZE(shares); k++) {
				struct fm_drain_answer a = { .jobs = jobs, .to = placed, .share = shares[k] };
				make_jobs(&part, placed, fast, (enum by)by, jobs);
				fm_drain_evaluate(&part, &a);
				if (!b->any || fm_drain_better(&a, &b->answer))
					keep(b, &part, &a);
			}
}

static void improve(const struct fm_drain *d, struct best *b)
{
	struct fm_drain part = *d;
	part.items = b->items;
	part.n = b->n;
	part.n_containers = b->n_containers;
	fm_drain_improve(&part, &b->answer);
}

static void best_new(const struct fm_drain *d, struct best *b)
{
	*b = (struct best){ 0 };
	b->items = fm_alloc_array(d->n, sizeof(*b->items));
	b->to = fm_alloc_array(d->n, sizeof(*b->to));
	b->answer.jobs = fm_alloc_array(d->n_containers, sizeof(*b->answer.jobs));
}

static void best_done(struct best *b)
{
	free(b->items);
	free(b->to);
	free(b->answer.jobs);
}

/* One assignment by itself: the best of several need not be the one that can be improved most. */
static void improve_assignment(const struct fm_drain *d, const size_t *to, struct best *b)
{
	struct best one;
	best_new(d, &one);
	try_assignment(d, to, &one);
	improve(d, &one);
	if (fm_drain_better(&one.answer, &b->answer)) {
		struct fm_drain part = only_placed(d, to, one.items, one.to); /* the same items; where they go is in the answer */
		for (size_t i = 0; i < part.n_containers; i++)
			for (size_t k = 0; k < part.n; k++)
				if (d->l->item_of[one.answer.jobs[i].container] == part.items[k])
					one.to[k] = one.answer.jobs[i].to;
		keep(b, &part, &one.answer);
	}
	best_done(&one);
}

/* to[]: the assignment that is found in this way; false: there is none. */
static bool assign(struct fm_drain *d, int way, size_t *to)
{
	if (way < _FM_DRAIN_WAY_MAX) {
		(void)fm_drain_assign(d, (enum fm_drain_way)way, to);
		return true;
	}
	return fm_drain_assign_exactly(d, to);
}

static void try_all(struct fm_drain *d, struct best *b)
{
	_fm_free_ size_t *to = fm_alloc_array(d->n, sizeof(*to));
	fm_load_limits(d->l, d->limit[FM_CPU], d->limit[FM_MEMORY]);
	for (int way = 0; way <= _FM_DRAIN_WAY_MAX; way++)
		if (assign(d, way, to))
			try_assignment(d, to, b);
	if (d->o.deadline_ms == 0)
		return;
	improve(d, b);
	for (int way = _FM_DRAIN_WAY_MAX; way >= 0 && b->answer.moved < d->n_containers && d->n_containers <= IMPROVED_EACH; way--)
		if (assign(d, way, to))
			improve_assignment(d, to, b);
}

static void find_best(struct fm_drain *d, struct best *b)
{
	best_new(d, b);
	try_all(d, b);
	if (d->o.deadline_ms && b->answer.moved < d->n_containers) { /* a host that is full is better than one that is gone */
		d->limit[FM_CPU] = FM_PLAN_DRAIN_CPU_PERCENT;
		d->limit[FM_MEMORY] = d->o.transit_memory_percent;
		try_all(d, b);
	}
	fm_load_limits(d->l, d->o.cpu_percent, d->o.memory_percent);
}

/* ---------------------------------------------------------------- telling */

static char *why_nowhere(struct fm_load *l, const struct fm_plan_opts *o, size_t item)
{
	_fm_buf_ struct fm_buf b = FM_BUF_INIT;
	size_t told = 0;
	fm_load_limits(l, FM_PLAN_DRAIN_CPU_PERCENT, o->transit_memory_percent);
	for (size_t h = 0; h < l->n_hosts && told < 3; h++) {
		const char *why = fm_load_why_not(l, item, h);
		if (h == l->items[item].home)
			continue;
		if (!why)
			why = fm_load_exceeds(l->hosts[h].used[FM_MEMORY] + l->items[item].size[FM_MEMORY], l->hosts[h].limit[FM_MEMORY])
			              ? "it has too little memory left"
			              : "its processors have too little time left";
		fm_buf_addf(&b, "%s '%s': %s", told ? ";" : "", l->s->hosts[h].name, why);
		told++;
	}
	fm_load_limits(l, o->cpu_percent, o->memory_percent);
	return fm_xasprintf("no host takes it:%s%s", told ? b.data : " there is no other", l->n_hosts > told + 1 ? "; …" : "");
}

static void tell_left(struct fm_plan *p, const struct fm_drain *d, const struct best *b)
{
	const struct fm_load_host *h = &d->l->hosts[d->host];
	fm_search_reset(d->l, NULL);
	for (size_t k = 0; k < h->n_items; k++) {
		const struct fm_load_item *i = &d->l->items[h->items[k]];
		bool placed = false;
		for (size_t n = 0; n < b->n; n++)
			placed = placed || b->items[n] == h->items[k];
		if (placed)
			continue;
		_fm_free_ char *why = i->movable ? NULL : fm_xstrdup(i->blocker);
		if (i->movable) { /* as it is when the others are where they go */
			for (size_t n = 0; n < b->n; n++)
				fm_load_move(d->l, b->items[n], b->to[n]);
			why = why_nowhere(d->l, &d->o, (size_t)(i - d->l->items));
			for (size_t n = 0; n < b->n; n++)
				fm_load_move(d->l, b->items[n], d->host);
		}
		for (size_t m = i->first; m < i->first + i->n; m++) {
			const struct fm_snap_container *c = &d->l->s->containers[d->l->members[m]];
			fm_plan_add_left(p, c->name, fm_container_importance(c), why);
		}
	}
}

static void tell_late(const struct fm_drain *d, struct best *b)
{
	for (size_t i = 0; i < b->n_containers; i++) {
		struct fm_job *j = &b->answer.jobs[i];
		struct fm_move_cost c;
		if (!j->left_out || j->problem[0])
			continue;
		if (solo_cost(d, j, fastest(d, j), &c))
			(void)snprintf(j->problem, sizeof(j->problem),
			               "it needs %.1f s of the link for itself; with what goes before it, it is late for %.1f s",
			               (double)c.total_ms / 1000, (double)d->o.deadline_ms / 1000);
	}
}

static int by_start(const void *a, const void *b)
{
	const struct fm_job *x = a, *y = b;
	if (x->start_ms != y->start_ms)
		return x->start_ms < y->start_ms ? -1 : 1;
	return x->container < y->container ? -1 : x->container > y->container;
}

static char *explain(const struct fm_drain *d, const struct fm_job *j)
{
	double score = fm_placement_score(d->l, d->o.weights, d->l->item_of[j->container], j->to, NULL);
	const char *forced = j->strategy != FM_STRATEGY_AUTO ? ", this strategy to be in time" : "";
	return fm_xasprintf("'%s' is drained; score of '%s' %.2f%s", d->l->s->hosts[d->host].name, d->l->s->hosts[j->to].name, score,
	                    forced);
}

static void tell_steps(struct fm_plan *p, const struct fm_drain *d, struct best *b)
{
	size_t n = b->n_containers;
	_fm_free_ char **why = fm_alloc_array(n, sizeof(*why));
	if (n)
		qsort(b->answer.jobs, n, sizeof(*b->answer.jobs), by_start);
	for (size_t i = 0; i < n; i++)
		why[i] = b->answer.jobs[i].left_out ? NULL : explain(d, &b->answer.jobs[i]);
	fm_plan_add_jobs(p, d->l->s, b->answer.jobs, n, why);
	for (size_t i = 0; i < n; i++)
		free(why[i]);
}

static void summarise(struct fm_plan *p, const char *host)
{
	char what[128];
	fm_plan_describe(p, what, sizeof(what));
	p->complete = p->n_left == 0;
	if (!p->complete)
		(void)snprintf(p->summary, sizeof(p->summary), "%zu container%s of '%s' will not make it: %s.", p->n_left,
		               p->n_left == 1 ? "" : "s", host, what);
	else if (p->n_steps == 0)
		(void)snprintf(p->summary, sizeof(p->summary), "'%s' has no container: nothing to do.", host);
	else
		(void)snprintf(p->summary, sizeof(p->summary), "'%s' is empty afterwards: %s.", host, what);
}

int fm_plan_drain(const struct fm_snapshot *s, size_t host, const struct fm_plan_opts *o, struct fm_plan **ret, struct fm_error *err)
{
	struct fm_plan_opts r = fm_plan_opts_resolved(o);
	struct fm_load_opts lo = { .percent = { r.cpu_percent, r.memory_percent }, .drained = host };
	if (host >= s->n_hosts)
		return fm_error_set(err, FM_E_NOT_FOUND, "there is no such host");
	_fm_cleanup_(fm_load_freep) struct fm_load *l = fm_load_new(s, &lo);
	struct fm_drain d = { .l = l, .o = r, .host = host, .limit = { r.cpu_percent, r.memory_percent } };
	struct best b = { 0 };
	find_items(&d);
	find_best(&d, &b);
	struct fm_plan *p = fm_alloc_array(1, sizeof(*p));
	p->kind = FM_PLAN_DRAIN;
	p->deadline_ms = r.deadline_ms;
	tell_late(&d, &b);
	tell_steps(p, &d, &b);
	tell_left(p, &d, &b);
	fm_plan_sort_left(p);
	if (p->n_left == 0 && p->n_steps > 0)
		fm_strv_add(&p->freed, s->hosts[host].name);
	summarise(p, s->hosts[host].name);
	free(d.items);
	free(d.bytes);
	free(d.importance);
	best_done(&b);
	*ret = p;
	return 0;
}
