/* SPDX-License-Identifier: MIT */
/*
 * consolidate.c - see balance.h. Hosts are emptied one after the other, the cheapest to empty first; each is emptied wholly or not at all, into hosts that are kept. Several orders are tried, and the
 * one that frees the most hosts, with the fewest moves, is taken.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/str.h"
#include "decision/balance.h"
#include "decision/memory.h"
#include "decision/order.h"
#include "decision/search.h"

enum by { BY_CONTAINERS, BY_LOAD, BY_COST, _BY_MAX };

struct ranked {
	size_t host;
	double value;
};

struct attempt {
	size_t *to;
	size_t freed, moves;
};

static int lowest_first(const void *a, const void *b)
{
	const struct ranked *x = a, *y = b;
	if (x->value > y->value || x->value < y->value)
		return x->value < y->value ? -1 : 1;
	return x->host < y->host ? -1 : x->host > y->host;
}

/* Emptied it must be wholly: what cannot be moved keeps it. */
static bool can_be_emptied(const struct fm_load *l, size_t host)
{
	const struct fm_load_host *h = &l->hosts[host];
	bool movable = h->n_items > 0;
	for (size_t k = 0; k < h->n_items; k++)
		movable = movable && l->items[h->items[k]].movable;
	return movable;
}

static double rank(const struct fm_load *l, size_t host, enum by by)
{
	double load[FM_DIMENSIONS] = { 0 }, n = 0;
	const char *cost = fm_snap_label(&l->s->hosts[host].labels, "fleximigrate.cost");
	for (size_t k = 0; k < l->hosts[host].n_items; k++) {
		n += (double)l->items[l->hosts[host].items[k]].n;
		for (int d = 0; d < FM_DIMENSIONS; d++)
			load[d] += l->items[l->hosts[host].items[k]].size[d];
	}
	double share = fmax(load[FM_CPU] / l->hosts[host].total[FM_CPU], load[FM_MEMORY] / l->hosts[host].total[FM_MEMORY]);
	switch (by) {
	case BY_CONTAINERS:
		return n + share / 1000;
	case BY_COST:
		return share - (cost ? strtod(cost, NULL) : 0) * 1e6;
	default:
		return share;
	}
}

struct sized {
	size_t item;
	double size;
};

static int largest_first(const void *a, const void *b)
{
	const struct sized *x = a, *y = b;
	if (x->size > y->size || x->size < y->size)
		return x->size > y->size ? -1 : 1;
	return x->item < y->item ? -1 : x->item > y->item;
}

static bool empty_host(struct fm_load *l, const struct fm_placement_weights *w, size_t host, const bool *kept)
{
	size_t n = l->hosts[host].n_items, done = 0;
	_fm_free_ struct sized *v = fm_alloc_array(n, sizeof(*v));
	for (size_t k = 0; k < n; k++) {
		const struct fm_load_item *i = &l->items[l->hosts[host].items[k]];
		v[k] = (struct sized){ l->hosts[host].items[k], fmax(i->size[FM_CPU] / l->hosts[host].total[FM_CPU],
			                                             i->size[FM_MEMORY] / l->hosts[host].total[FM_MEMORY]) };
	}
	qsort(v, n, sizeof(*v), largest_first);
	for (; done < n; done++) {
		size_t to = fm_search_best_host(l, w, v[done].item, true, kept);
		if (to == FM_NONE)
			break;
		fm_load_move(l, v[done].item, to);
	}
	if (done == n)
		return true;
	while (done-- > 0)
		fm_load_move(l, v[done].item, host);
	return false;
}

static struct attempt try_order(struct fm_load *l, const struct fm_placement_weights *w, enum by by)
{
	struct attempt a = { 0 };
	_fm_free_ struct ranked *order = fm_alloc_array(l->n_hosts, sizeof(*order));
	_fm_free_ bool *kept = fm_alloc_array(l->n_hosts, sizeof(*kept)); /* has containers: one that has none stays free */
	size_t n = 0;
	for (size_t h = 0; h < l->n_hosts; h++) {
		kept[h] = l->hosts[h].n_items > 0;
		if (l->s->hosts[h].online && can_be_emptied(l, h) && !fm_load_over(&l->hosts[h]))
			order[n++] = (struct ranked){ h, rank(l, h, by) };
	}
	if (n)
		qsort(order, n, sizeof(*order), lowest_first);
	for (size_t i = 0; i < n; i++) {
		kept[order[i].host] = false;
		if (empty_host(l, w, order[i].host, kept))
			a.freed++;
		else
			kept[order[i].host] = true;
	}
	a.moves = fm_search_moves(l);
	a.to = fm_search_hosts(l);
	fm_search_reset(l, NULL);
	return a;
}

static void find_freed(struct fm_plan *p, const struct fm_load *l)
{
	_fm_free_ bool *had = fm_alloc_array(l->n_hosts, sizeof(*had));
	for (size_t i = 0; i < l->n_items; i++)
		had[l->items[i].home] = true;
	for (size_t h = 0; h < l->n_hosts; h++)
		if (had[h] && l->hosts[h].n_items == 0)
			fm_strv_add(&p->freed, l->s->hosts[h].name);
}

int fm_plan_consolidate(const struct fm_snapshot *s, const struct fm_plan_opts *o, struct fm_plan **ret, struct fm_error *err)
{
	struct fm_plan_opts r = fm_plan_opts_resolved(o);
	struct fm_load_opts lo = { .percent = { r.cpu_percent, r.memory_percent }, .drained = FM_NONE };
	_fm_cleanup_(fm_load_freep) struct fm_load *l = fm_load_new(s, &lo);
	struct attempt best = { 0 };
	for (int by = 0; by < _BY_MAX; by++) {
		struct attempt a = try_order(l, r.weights, (enum by)by);
		bool better = !best.to || a.freed > best.freed || (a.freed == best.freed && a.moves < best.moves);
		free(better ? best.to : a.to);
		if (better)
			best = a;
	}
	struct fm_plan *p = fm_alloc_array(1, sizeof(*p));
	char what[128];
	p->kind = FM_PLAN_CONSOLIDATE;
	fm_plan_assemble(p, l, best.to, &r);
	fm_search_reset(l, best.to);
	find_freed(p, l);
	fm_plan_sort_left(p);
	p->complete = true;
	fm_plan_describe(p, what, sizeof(what));
	(void)snprintf(p->summary, sizeof(p->summary), "%zu host%s freed: %s.", fm_strv_len(p->freed),
	               fm_strv_len(p->freed) == 1 ? " is" : "s are", what);
	free(best.to);
	*ret = p;
	return 0;
}
