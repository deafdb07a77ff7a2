/* SPDX-License-Identifier: MIT */
/* proactive.c - see proactive.h. */
#include "decision/proactive.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/str.h"
#include "decision/load.h"
#include "decision/memory.h"
#include "decision/order.h"
#include "decision/search.h"

#define HOUR_MS 3600000u
#define PERCENT 100.0

struct host_state {
	char *name;
	bool over; /* in every step since */
	uint64_t since_ms;
	bool hot; /* being acted on: until it is under the threshold less the margin */
	uint64_t rests_until_ms;
};
struct moved {
	char *container, *from;
	uint64_t at_ms;
};
struct fm_proactive {
	struct host_state *hosts;
	size_t n_hosts;
	struct moved *moved; /* of the last hours, oldest first */
	size_t n_moved;
};

struct fm_proactive *fm_proactive_new(void)
{
	return fm_alloc_array(1, sizeof(struct fm_proactive));
}

void fm_proactive_free(struct fm_proactive *p)
{
	if (!p)
		return;
	for (size_t i = 0; i < p->n_hosts; i++)
		free(p->hosts[i].name);
	for (size_t i = 0; i < p->n_moved; i++) {
		free(p->moved[i].container);
		free(p->moved[i].from);
	}
	free(p->hosts);
	free(p->moved);
	free(p);
}

static struct fm_proactive_opts resolved(const struct fm_proactive_opts *o)
{
	struct fm_proactive_opts r = o ? *o : (struct fm_proactive_opts){ 0 };
	r.plan = fm_plan_opts_resolved(&r.plan);
	r.margin_percent = r.margin_percent > 0 ? r.margin_percent : 10;
	r.sustain_ms = r.sustain_ms ? r.sustain_ms : 60000;
	r.settle_ms = r.settle_ms ? r.settle_ms : 300000;
	r.cooldown_ms = r.cooldown_ms ? r.cooldown_ms : 900000;
	r.return_ms = r.return_ms ? r.return_ms : HOUR_MS;
	r.moves_per_hour = r.moves_per_hour ? r.moves_per_hour : 12;
	r.moves_at_once = r.moves_at_once ? r.moves_at_once : 2;
	return r;
}

/* ---------------------------------------------------------------- what is remembered */

/* Snapshots mostly have their hosts in the same order: the guess is right nearly always. */
static struct host_state *state_of(struct fm_proactive *p, size_t guess, const char *name)
{
	if (guess < p->n_hosts && fm_streq(p->hosts[guess].name, name))
		return &p->hosts[guess];
	for (size_t i = 0; i < p->n_hosts; i++)
		if (fm_streq(p->hosts[i].name, name))
			return &p->hosts[i];
	p->hosts = fm_grow_array(p->hosts, p->n_hosts + 1, sizeof(*p->hosts));
	p->hosts[p->n_hosts] = (struct host_state){ .name = fm_xstrdup(name) };
	return &p->hosts[p->n_hosts++];
}

static void forget_old(struct fm_proactive *p, uint64_t now, const struct fm_proactive_opts *o)
{
	uint64_t keep = HOUR_MS > o->return_ms ? HOUR_MS : o->return_ms;
	keep = keep > o->cooldown_ms ? keep : o->cooldown_ms;
	size_t kept = 0;
	for (size_t i = 0; i < p->n_moved; i++) {
		if (now >= p->moved[i].at_ms && now - p->moved[i].at_ms >= keep) {
			free(p->moved[i].container);
			free(p->moved[i].from);
		} else {
			p->moved[kept++] = p->moved[i];
		}
	}
	p->n_moved = kept;
}

/* Of a host that is gone nothing is remembered. */
static void forget_gone(struct fm_proactive *p, const struct fm_snapshot *s)
{
	size_t kept = 0;
	if (p->n_hosts <= s->n_hosts)
		return;
	for (size_t i = 0; i < p->n_hosts; i++)
		if (fm_snapshot_host(s, p->hosts[i].name) == SIZE_MAX)
			free(p->hosts[i].name);
		else
			p->hosts[kept++] = p->hosts[i];
	p->n_hosts = kept;
}

static unsigned spent(const struct fm_proactive *p, uint64_t now)
{
	unsigned n = 0;
	for (size_t i = 0; i < p->n_moved; i++)
		n += now < p->moved[i].at_ms || now - p->moved[i].at_ms < HOUR_MS;
	return n;
}

/* ---------------------------------------------------------------- which hosts are hot */

static double memory_percent(const struct fm_snap_host *h)
{
	if (!isnan(h->memory_percent))
		return h->memory_percent;
	if (h->memory_total_bytes == FM_UNKNOWN || h->memory_total_bytes == 0 || h->memory_available_bytes == FM_UNKNOWN)
		return NAN;
	return (1 - (double)h->memory_available_bytes / (double)h->memory_total_bytes) * PERCENT;
}

static void look_at(struct host_state *st, const struct fm_snap_host *h, uint64_t now, const struct fm_proactive_opts *o)
{
	double cpu = isnan(h->cpu_predicted_percent) ? h->cpu_percent : h->cpu_predicted_percent, memory = memory_percent(h);
	bool known = h->online && !isnan(cpu) && !isnan(memory);
	/* of a comparison with NAN comes false, which is not to mean "well" */
	bool over = known && (cpu > o->plan.cpu_percent || memory > o->plan.memory_percent);
	bool well = !known || (cpu <= o->plan.cpu_percent - o->margin_percent && memory <= o->plan.memory_percent - o->margin_percent);
	if (over && !st->over)
		st->since_ms = now;
	st->over = over;
	if (well)
		st->hot = false;
	else if (over && now - st->since_ms >= o->sustain_ms)
		st->hot = true;
}

/* ---------------------------------------------------------------- what moves */

static void hold_back(const struct fm_proactive *p, struct fm_load *l, const bool *hot, const struct fm_proactive_opts *o)
{
	uint64_t now = l->s->at_unix_ms;
	for (size_t i = 0; i < l->n_items; i++) {
		struct fm_load_item *item = &l->items[i];
		for (size_t m = item->first; m < item->first + item->n; m++) {
			uint64_t moved = l->s->containers[l->members[m]].last_moved_unix_ms;
			if (moved != 0 && moved != FM_UNKNOWN && (now < moved || now - moved < o->cooldown_ms))
				item->movable = false;
		}
		item->movable = item->movable && hot[item->home];
	}
	for (size_t i = 0; i < p->n_moved; i++) {
		size_t c = fm_snapshot_container(l->s, p->moved[i].container);
		if (c == SIZE_MAX)
			continue;
		struct fm_load_item *item = &l->items[l->item_of[c]];
		uint64_t ago = now > p->moved[i].at_ms ? now - p->moved[i].at_ms : 0;
		if (ago < o->cooldown_ms)
			item->movable = false;
		if (ago < o->return_ms)
			item->avoids = fm_snapshot_host(l->s, p->moved[i].from);
	}
}

/*
 * Only so many, the largest first: they help most. The assignment may count on all of its moves, one making room for another; of a part of it only what has room without the rest is kept. l: all items at
 * home, and so it is left.
 */
static size_t keep_largest(struct fm_load *l, size_t *to, size_t allowed)
{
	_fm_free_ bool *taken = fm_alloc_array(l->n_items, sizeof(*taken));
	size_t kept = 0;
	for (;;) {
		size_t best = FM_NONE;
		double most = -1;
		for (size_t i = 0; i < l->n_items; i++) {
			const struct fm_load_item *item = &l->items[i];
			double size = fmax(item->size[FM_CPU] / l->hosts[item->home].total[FM_CPU],
			                   item->size[FM_MEMORY] / l->hosts[item->home].total[FM_MEMORY]);
			if (to[i] != item->home && !taken[i] && size > most && kept + item->n <= allowed &&
			    fm_load_fits(&l->hosts[to[i]], item)) {
				best = i;
				most = size;
			}
		}
		if (best == FM_NONE)
			break;
		taken[best] = true;
		kept += l->items[best].n;
		fm_load_move(l, best, to[best]);
	}
	fm_search_reset(l, NULL);
	for (size_t i = 0; i < l->n_items; i++)
		if (!taken[i])
			to[i] = l->items[i].home;
	return kept;
}

static void remember(struct fm_proactive *p, const struct fm_plan *plan, uint64_t now, const struct fm_proactive_opts *o)
{
	for (size_t i = 0; i < plan->n_steps; i++) {
		const struct fm_plan_step *st = &plan->steps[i];
		p->moved = fm_grow_array(p->moved, p->n_moved + 1, sizeof(*p->moved));
		p->moved[p->n_moved++] = (struct moved){ fm_xstrdup(st->container_name), fm_xstrdup(st->from_name), now };
		state_of(p, st->from, st->from_name)->rests_until_ms = now + o->settle_ms;
		state_of(p, st->to, st->to_name)->rests_until_ms = now + o->settle_ms;
	}
}

static void plan_moves(struct fm_proactive *p, const struct fm_snapshot *s, const struct fm_proactive_opts *o, const bool *hot,
                       struct fm_plan *plan)
{
	uint64_t now = s->at_unix_ms;
	unsigned used = spent(p, now), left = used < o->moves_per_hour ? o->moves_per_hour - used : 0;
	struct fm_load_opts lo = { .percent = { o->plan.cpu_percent - o->margin_percent, o->plan.memory_percent - o->margin_percent },
		                   .drained = FM_NONE,
		                   .predicted = true };
	if (left == 0) {
		(void)snprintf(plan->summary, sizeof(plan->summary), "The budget of %u moves an hour is spent.", o->moves_per_hour);
		return;
	}
	_fm_cleanup_(fm_load_freep) struct fm_load *l = fm_load_new(s, &lo);
	for (size_t h = 0; h < s->n_hosts; h++) {
		l->hosts[h].relieve = l->hosts[h].relieve && hot[h];
		if (state_of(p, h, s->hosts[h].name)->rests_until_ms > now) {
			l->hosts[h].takes = false;
			l->hosts[h].refuses = "it has given or taken not long ago";
		}
	}
	hold_back(p, l, hot, o);
	fm_search_give_up(l);
	(void)fm_search_relieve(l, o->plan.weights);
	_fm_free_ size_t *to = fm_search_hosts(l);
	fm_search_reset(l, NULL);
	size_t kept = keep_largest(l, to, left < o->moves_at_once ? left : o->moves_at_once);
	fm_plan_assemble(plan, l, to, &o->plan);
	remember(p, plan, now, o);
	char what[128];
	fm_plan_describe(plan, what, sizeof(what));
	if (kept)
		(void)snprintf(plan->summary, sizeof(plan->summary), "Before a host is over its threshold: %s.", what);
	else
		(void)snprintf(plan->summary, sizeof(plan->summary),
		               "A host is predicted over its threshold, but nothing on it can go anywhere.");
}

void fm_proactive_step(struct fm_proactive *p, const struct fm_snapshot *s, const struct fm_proactive_opts *opts, struct fm_plan **ret)
{
	struct fm_proactive_opts o = resolved(opts);
	_fm_free_ bool *hot = fm_alloc_array(s->n_hosts, sizeof(*hot));
	bool any = false;
	struct fm_plan *plan = fm_alloc_array(1, sizeof(*plan));
	plan->kind = FM_PLAN_PROACTIVE;
	forget_old(p, s->at_unix_ms, &o);
	forget_gone(p, s);
	for (size_t h = 0; h < s->n_hosts; h++) {
		struct host_state *st = state_of(p, h, s->hosts[h].name);
		look_at(st, &s->hosts[h], s->at_unix_ms, &o);
		hot[h] = st->hot && st->over && st->rests_until_ms <= s->at_unix_ms;
		any = any || hot[h];
	}
	if (any)
		plan_moves(p, s, &o, hot, plan);
	plan->complete = !any || plan->n_steps > 0;
	*ret = plan;
}
