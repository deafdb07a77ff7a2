/* SPDX-License-Identifier: MIT */
/* assemble.c - see order.h: an assignment becomes steps that say why they are there. */
#include <stdio.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/str.h"
#include "decision/memory.h"
#include "decision/order.h"

struct assembling {
	struct fm_load *l; /* all at home */
	const struct fm_plan_opts *o;
	const struct fm_order *order;
	size_t *first_job; /* of each move */
	struct fm_job *jobs;
	char **why;
	size_t n_jobs;
	enum fm_plan_kind kind;
};

static char *explain(const struct assembling *a, const struct fm_order_move *m)
{
	const struct fm_snapshot *s = a->l->s;
	const struct fm_load_host *from = &a->l->hosts[m->from];
	const char *from_name = s->hosts[m->from].name, *to_name = s->hosts[m->to].name;
	if (m->detour)
		return fm_xasprintf("waits on '%s': it changes places with others, and none can go first", to_name);
	if (a->l->items[m->item].home != m->from)
		return fm_xasprintf("goes on from '%s', where it waited", from_name);
	double score = fm_placement_score(a->l, a->o->weights, m->item, m->to, NULL);
	const char *transit = m->transit ? ", which is over its threshold until others have left" : "";
	for (int d = 0; d < FM_DIMENSIONS; d++)
		if (from->relieve && fm_load_exceeds(from->used[d], from->limit[d]))
			return fm_xasprintf("'%s' has %s at %.0f %%; score of '%s' %.2f%s", from_name,
			                    d == FM_CPU ? "processors" : "memory", from->used[d] / from->total[d] * 100, to_name, score,
			                    transit);
	return fm_xasprintf("%s '%s'; score of '%s' %.2f%s", a->kind == FM_PLAN_CONSOLIDATE ? "empties" : "makes room on", from_name,
	                    to_name, score, transit);
}

static void add_jobs(struct assembling *a, size_t move)
{
	const struct fm_order_move *m = &a->order->moves[move];
	const struct fm_load_item *item = &a->l->items[m->item];
	size_t n_after = 0;
	for (size_t i = 0; i < m->n_after; i++)
		n_after += a->l->items[a->order->moves[m->after[i]].item].n;
	a->first_job[move] = a->n_jobs;
	for (size_t k = 0; k < item->n; k++) {
		size_t *after = fm_alloc_array(n_after, sizeof(*after)), at = 0;
		for (size_t i = 0; i < m->n_after; i++)
			for (size_t j = 0; j < a->l->items[a->order->moves[m->after[i]].item].n; j++)
				after[at++] = a->first_job[m->after[i]] + j;
		a->why[a->n_jobs] = explain(a, m);
		a->jobs[a->n_jobs++] = (struct fm_job){ .container = a->l->members[item->first + k],
			                                .from = m->from,
			                                .to = m->to,
			                                .strategy = FM_STRATEGY_AUTO,
			                                .after = after,
			                                .n_after = n_after };
	}
}

/* What is stuck stays at home; then others may be stuck, which wanted its place. */
static void order_what_can_go(struct fm_plan *p, struct fm_load *l, size_t *to, const struct fm_plan_opts *o, struct fm_order *order)
{
	const double transit[FM_DIMENSIONS] = { o->transit_cpu_percent, o->transit_memory_percent };
	_fm_free_ size_t *home = fm_alloc_array(l->n_items, sizeof(*home));
	for (size_t i = 0; i < l->n_items; i++)
		home[i] = l->items[i].host;
	for (;;) {
		fm_order_moves(l, to, transit, order);
		for (size_t i = 0; i < l->n_items; i++)
			if (l->items[i].host != home[i])
				fm_load_move(l, i, home[i]);
		if (order->n_stuck == 0)
			return;
		for (size_t i = 0; i < l->n_items; i++) {
			if (!order->stuck[i])
				continue;
			const struct fm_snap_container *c = &l->s->containers[l->members[l->items[i].first]];
			to[i] = home[i];
			fm_plan_add_left(p, c->name, fm_container_importance(c),
			                 "it changes places with others, and no host has room for one of them meanwhile");
		}
		fm_order_done(order);
	}
}

void fm_plan_assemble(struct fm_plan *p, struct fm_load *l, size_t *to, const struct fm_plan_opts *o)
{
	struct fm_order order;
	order_what_can_go(p, l, to, o, &order);
	size_t most = 0;
	for (size_t i = 0; i < order.n; i++)
		most += l->items[order.moves[i].item].n;
	struct assembling a = { .l = l, .o = o, .order = &order, .kind = p->kind };
	a.first_job = fm_alloc_array(order.n, sizeof(*a.first_job));
	a.jobs = fm_alloc_array(most, sizeof(*a.jobs));
	a.why = fm_alloc_array(most, sizeof(*a.why));
	for (size_t i = 0; i < order.n; i++)
		add_jobs(&a, i);
	(void)fm_schedule_best(l, o, a.jobs, a.n_jobs);
	fm_plan_add_jobs(p, l->s, a.jobs, a.n_jobs, a.why);
	for (size_t i = 0; i < a.n_jobs; i++) {
		free((size_t *)a.jobs[i].after);
		free(a.why[i]);
	}
	free(a.first_job);
	free(a.jobs);
	free(a.why);
	fm_order_done(&order);
}

void fm_plan_describe(const struct fm_plan *p, char *ret, size_t cap)
{
	uint64_t downtime_ms = 0, bytes = 0;
	char size[32];
	for (size_t i = 0; i < p->n_steps; i++) {
		downtime_ms += p->steps[i].cost.downtime_ms;
		bytes += p->steps[i].cost.wire_bytes;
	}
	(void)snprintf(ret, cap, "%zu move%s in %.1f s, %.1f s of downtime altogether, %s", p->n_steps, p->n_steps == 1 ? "" : "s",
	               (double)p->duration_ms / 1000, (double)downtime_ms / 1000, fm_format_bytes(bytes, size, sizeof(size)));
}
