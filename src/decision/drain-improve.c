/* SPDX-License-Identifier: MIT */
/*
 * drain-improve.c - see drain-internal.h: what an answer is worth, and local search for a better one. With a common deadline and one link the question which jobs to leave out is the knapsack problem
 * (weighted number of tardy jobs, 1 | d_j = d | sum w_j U_j; Lawler and Moore 1969), with several it is harder: good orders are tried and improved, not the best one proved.
 */
#include <string.h>

#include "basic/cleanup.h"
#include "decision/drain-internal.h"
#include "decision/memory.h"
#include "decision/search.h"

#define SCHEDULES  6000 /* that are made at most for an improvement of 10 jobs; fewer of more */
#define SMALL_JOBS 10
#define TINY_VALUE 1e-3 /* of what has an importance of 0: rather moved than not */

static const enum fm_strategy strategies[] = { FM_STRATEGY_AUTO, FM_STRATEGY_LIVE, FM_STRATEGY_POST_COPY, FM_STRATEGY_PRE_COPY,
	                                       FM_STRATEGY_COLD };

void fm_drain_evaluate(const struct fm_drain *d, struct fm_drain_answer *a)
{
	a->value = 0;
	a->moved = 0;
	a->forced = 0;
	a->downtime = 0;
	a->end_ms = d->o.deadline_ms ? fm_schedule_fair(d->l, &d->o, a->share, a->jobs, d->n_containers)
	                             : fm_schedule(d->l, &d->o, a->share, a->jobs, d->n_containers);
	for (size_t i = 0; i < d->n_containers; i++) {
		if (a->jobs[i].left_out)
			continue;
		double importance = fm_container_importance(&d->l->s->containers[a->jobs[i].container]);
		a->value += importance + TINY_VALUE;
		a->downtime += (importance + TINY_VALUE) * (double)a->jobs[i].cost.downtime_ms;
		a->moved++;
		a->forced += a->jobs[i].strategy != FM_STRATEGY_AUTO;
	}
}

bool fm_drain_better(const struct fm_drain_answer *a, const struct fm_drain_answer *b)
{
	if (a->value > b->value + 1e-9 || a->value < b->value - 1e-9)
		return a->value > b->value;
	if (a->moved != b->moved)
		return a->moved > b->moved;
	if (a->downtime > b->downtime + 1e-9 || a->downtime < b->downtime - 1e-9)
		return a->downtime < b->downtime;
	return a->forced != b->forced ? a->forced < b->forced : a->end_ms < b->end_ms;
}

struct improving {
	struct fm_drain *d;
	struct fm_drain_answer *a;
	struct fm_job *kept; /* the jobs before a change */
	size_t schedules;    /* that may still be made */
};

/* The change is in a->jobs already: keep it, or take it back. */
static bool keep_if_better(struct improving *m)
{
	struct fm_drain_answer before = *m->a;
	if (m->schedules == 0)
		return false;
	m->schedules--;
	fm_drain_evaluate(m->d, m->a);
	if (fm_drain_better(m->a, &before)) {
		memcpy(m->kept, m->a->jobs, m->d->n_containers * sizeof(*m->kept));
		return true;
	}
	memcpy(m->a->jobs, m->kept, m->d->n_containers * sizeof(*m->kept));
	m->a->value = before.value;
	m->a->moved = before.moved;
	m->a->forced = before.forced;
	m->a->downtime = before.downtime;
	m->a->end_ms = before.end_ms;
	return false;
}

static void move_job(struct fm_job *jobs, size_t from, size_t to)
{
	struct fm_job one = jobs[from];
	if (from < to)
		memmove(&jobs[from], &jobs[from + 1], (to - from) * sizeof(*jobs));
	else
		memmove(&jobs[to + 1], &jobs[to], (from - to) * sizeof(*jobs));
	jobs[to] = one;
}

static bool other_order(struct improving *m)
{
	bool better = false;
	for (size_t from = 0; from < m->d->n_containers; from++)
		for (size_t to = 0; to < m->d->n_containers && m->schedules > 0; to++) {
			if (from == to)
				continue;
			move_job(m->a->jobs, from, to);
			better = keep_if_better(m) || better;
		}
	return better;
}

static bool other_strategy(struct improving *m)
{
	bool better = false;
	for (size_t i = 0; i < m->d->n_containers; i++)
		for (size_t k = 0; k < FM_ARRAY_SIZE(strategies) && m->schedules > 0; k++) {
			if (m->a->jobs[i].strategy == strategies[k])
				continue;
			m->a->jobs[i].strategy = strategies[k];
			better = keep_if_better(m) || better;
		}
	return better;
}

static size_t item_at(const struct fm_drain *d, size_t container)
{
	for (size_t i = 0; i < d->n; i++)
		if (d->items[i] == d->l->item_of[container])
			return i;
	return FM_NONE;
}

static void send_to(struct improving *m, size_t at, size_t host)
{
	for (size_t i = 0; i < m->d->n_containers; i++)
		if (m->d->l->item_of[m->a->jobs[i].container] == m->d->items[at])
			m->a->jobs[i].to = host;
}

/* The load has all at their destinations here. */
static bool other_host(struct improving *m)
{
	struct fm_load *l = m->d->l;
	bool better = false;
	for (size_t i = 0; i < m->d->n_containers; i++) {
		size_t at = item_at(m->d, m->a->jobs[i].container), item = m->d->items[at];
		for (size_t h = 0; h < l->n_hosts && m->schedules > 0; h++) {
			size_t was = m->a->to[at];
			if (h == m->d->host || h == was || !l->hosts[h].takes || !fm_load_fits(&l->hosts[h], &l->items[item]) ||
			    !fm_load_allows(l, item, h))
				continue;
			send_to(m, at, h);
			if (!keep_if_better(m))
				continue;
			better = true;
			m->a->to[at] = h;
			fm_load_move(l, item, h);
		}
	}
	return better;
}

/* Two that do not fit elsewhere as they are may change places. */
static bool exchange_hosts(struct improving *m)
{
	struct fm_load *l = m->d->l;
	bool better = false;
	for (size_t x = 0; x < m->d->n; x++)
		for (size_t y = x + 1; y < m->d->n && m->schedules > 0; y++) {
			size_t a = m->a->to[x], b = m->a->to[y], i = m->d->items[x], j = m->d->items[y];
			if (a == b || a == FM_NONE || b == FM_NONE)
				continue;
			fm_load_move(l, i, m->d->host);
			fm_load_move(l, j, m->d->host);
			bool fits = fm_load_fits(&l->hosts[b], &l->items[i]) && fm_load_fits(&l->hosts[a], &l->items[j]) &&
			            fm_load_allows(l, i, b) && fm_load_allows(l, j, a);
			if (fits) {
				send_to(m, x, b);
				send_to(m, y, a);
				fits = keep_if_better(m);
			}
			fm_load_move(l, i, fits ? b : a);
			fm_load_move(l, j, fits ? a : b);
			m->a->to[x] = fits ? b : a;
			m->a->to[y] = fits ? a : b;
			better = better || fits;
		}
	return better;
}

static bool other_share(struct improving *m)
{
	static const unsigned shares[] = { 1, 2, 3, 4 };
	bool better = false;
	for (size_t k = 0; k < FM_ARRAY_SIZE(shares); k++) {
		unsigned was = m->a->share;
		m->a->share = shares[k];
		if (was != shares[k] && keep_if_better(m))
			better = true;
		else
			m->a->share = was;
	}
	return better;
}

void fm_drain_improve(struct fm_drain *d, struct fm_drain_answer *a)
{
	size_t n = d->n_containers;
	_fm_free_ struct fm_job *kept = fm_alloc_array(n, sizeof(*kept));
	memcpy(kept, a->jobs, n * sizeof(*kept));
	struct improving m = { d, a, kept, n <= SMALL_JOBS ? SCHEDULES : SCHEDULES * SMALL_JOBS * SMALL_JOBS / n / n };
	for (size_t i = 0; i < d->n; i++)
		if (a->to[i] != FM_NONE)
			fm_load_move(d->l, d->items[i], a->to[i]);
	bool again = true;
	while (again && m.schedules > 0) {
		again = other_strategy(&m);
		again = other_share(&m) || again;
		again = other_order(&m) || again;
		again = other_host(&m) || again;
		again = exchange_hosts(&m) || again;
	}
	fm_search_reset(d->l, NULL);
}
