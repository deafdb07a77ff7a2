/* SPDX-License-Identifier: MIT */
/* drain-assign.c - see drain-internal.h: where what leaves a host finds room. */
#include <math.h>

#include "basic/cleanup.h"
#include "decision/drain-internal.h"
#include "decision/memory.h"
#include "decision/search.h"

#define EXACT_POSITIONS 200000

struct ranked {
	size_t at; /* in d->items */
	double first, second;
};

static int highest_first(const void *a, const void *b)
{
	const struct ranked *x = a, *y = b;
	if (x->first > y->first || x->first < y->first)
		return x->first > y->first ? -1 : 1;
	if (x->second > y->second || x->second < y->second)
		return x->second > y->second ? -1 : 1;
	return x->at < y->at ? -1 : x->at > y->at;
}

/* The largest share of the average host it takes. */
static double size_of(const struct fm_drain *d, size_t at)
{
	const struct fm_load_item *i = &d->l->items[d->items[at]];
	const struct fm_load_host *h = &d->l->hosts[d->host];
	double size = 0;
	for (int k = 0; k < FM_DIMENSIONS; k++)
		if (h->total[k] > 0)
			size = fmax(size, i->size[k] / h->total[k]);
	return size;
}

static struct ranked *in_order(const struct fm_drain *d, bool important_first)
{
	struct ranked *v = fm_alloc_array(d->n, sizeof(*v));
	for (size_t i = 0; i < d->n; i++)
		v[i] = (struct ranked){ i, important_first ? d->importance[i] : size_of(d, i), size_of(d, i) };
	if (d->n)
		qsort(v, d->n, sizeof(*v), highest_first);
	return v;
}

/* Where it would be there first, behind what goes there already. */
static size_t soonest_host(const struct fm_drain *d, size_t at, const double *queued)
{
	const struct fm_load *l = d->l;
	size_t item = d->items[at], best = FM_NONE;
	double soonest = INFINITY, best_score = -1;
	for (size_t h = 0; h < l->n_hosts; h++) {
		if (!l->hosts[h].takes || !fm_load_fits(&l->hosts[h], &l->items[item]) || !fm_load_allows(l, item, h))
			continue;
		double end = (queued[h] + d->bytes[at]) / (double)fm_load_bandwidth(l, d->host, h);
		double score = end <= soonest ? fm_placement_score(l, d->o.weights, item, h, NULL) : 0;
		if (end < soonest || (end <= soonest && score > best_score)) {
			soonest = end;
			best_score = score;
			best = h;
		}
	}
	return best;
}

static void place_all(struct fm_drain *d, enum fm_drain_way way, const struct ranked *order, size_t *to)
{
	bool by_time = way == FM_DRAIN_BY_TIME || way == FM_DRAIN_BY_TIME_IMPORTANT;
	_fm_free_ double *queued = fm_alloc_array(d->l->n_hosts, sizeof(*queued));
	for (size_t k = 0; k < d->n; k++)
		if (to[order[k].at] != FM_NONE)
			queued[to[order[k].at]] += d->bytes[order[k].at];
	for (size_t k = 0; k < d->n; k++) {
		size_t at = order[k].at;
		if (to[at] != FM_NONE)
			continue;
		to[at] = by_time ? soonest_host(d, at, queued) : fm_search_best_host(d->l, d->o.weights, d->items[at], false, NULL);
		if (to[at] == FM_NONE)
			continue;
		queued[to[at]] += d->bytes[at];
		fm_load_move(d->l, d->items[at], to[at]);
	}
}

static bool all_placed(const struct fm_drain *d, const size_t *to)
{
	for (size_t i = 0; i < d->n; i++)
		if (to[i] == FM_NONE)
			return false;
	return true;
}

bool fm_drain_assign(struct fm_drain *d, enum fm_drain_way way, size_t *to)
{
	_fm_free_ struct ranked *order = in_order(d, way == FM_DRAIN_BY_SCORE_IMPORTANT || way == FM_DRAIN_BY_TIME_IMPORTANT);
	for (size_t i = 0; i < d->n; i++)
		to[i] = FM_NONE;
	place_all(d, way, order, to);
	if (!all_placed(d, to)) {
		fm_load_limits(d->l, FM_PLAN_DRAIN_CPU_PERCENT, d->o.transit_memory_percent);
		place_all(d, way, order, to);
		fm_load_limits(d->l, d->limit[FM_CPU], d->limit[FM_MEMORY]);
	}
	fm_search_reset(d->l, NULL);
	return all_placed(d, to);
}

static bool place_rest(struct fm_drain *d, const struct ranked *order, size_t k, size_t *to, uint64_t *budget)
{
	if (k == d->n)
		return true;
	size_t item = d->items[order[k].at];
	for (size_t h = 0; h<d->l->n_hosts && * budget> 0; h++) {
		if (!d->l->hosts[h].takes || !fm_load_fits(&d->l->hosts[h], &d->l->items[item]) || !fm_load_allows(d->l, item, h))
			continue;
		--*budget;
		to[order[k].at] = h;
		fm_load_move(d->l, item, h);
		if (place_rest(d, order, k + 1, to, budget))
			return true;
		fm_load_move(d->l, item, d->host);
	}
	return false;
}

bool fm_drain_assign_exactly(struct fm_drain *d, size_t *to)
{
	_fm_free_ struct ranked *order = in_order(d, false);
	uint64_t budget = EXACT_POSITIONS;
	bool found = place_rest(d, order, 0, to, &budget);
	if (!found) {
		budget = EXACT_POSITIONS;
		fm_load_limits(d->l, FM_PLAN_DRAIN_CPU_PERCENT, d->o.transit_memory_percent);
		found = place_rest(d, order, 0, to, &budget);
		fm_load_limits(d->l, d->limit[FM_CPU], d->limit[FM_MEMORY]);
	}
	fm_search_reset(d->l, NULL);
	return found;
}
