/* SPDX-License-Identifier: MIT */
/* order.c - see order.h: which move has to wait for which. */
#include "decision/order.h"

#include <string.h>

#include "basic/cleanup.h"
#include "decision/memory.h"

/* What has been decided about a host so far. */
struct station {
	double first[FM_DIMENSIONS];   /* used before anything moves */
	double arrived[FM_DIMENSIONS]; /* of all that come, whether others leave or not */
	size_t *left;                  /* moves away from it, in their order */
	size_t n_left, cap_left;
};
struct ordering {
	struct fm_load *l;
	const size_t *to;
	const double *transit;
	struct station *stations;
	size_t *last; /* move of each item, FM_NONE */
	size_t *pending;
	size_t n_pending;
	struct fm_order *out;
	size_t cap, detours;
};

static void limit_of(const struct ordering *o, size_t host, bool transit, double ret[FM_DIMENSIONS])
{
	const struct fm_load_host *h = &o->l->hosts[host];
	for (int d = 0; d < FM_DIMENSIONS; d++) {
		double more = o->transit[d] / 100 * h->total[d];
		ret[d] = transit && more > h->limit[d] ? more : h->limit[d];
	}
}

static bool can_go(const struct ordering *o, size_t item, size_t to, bool transit)
{
	const struct fm_load_host *h = &o->l->hosts[to];
	double limit[FM_DIMENSIONS];
	limit_of(o, to, transit, limit);
	for (int d = 0; d < FM_DIMENSIONS; d++)
		if (fm_load_exceeds(h->used[d] + o->l->items[item].size[d], limit[d]))
			return false;
	return fm_load_allows(o->l, item, to);
}

static void wait_for(struct fm_order_move *m, size_t move)
{
	for (size_t i = 0; i < m->n_after; i++)
		if (m->after[i] == move)
			return;
	m->after = fm_grow_array(m->after, m->n_after + 1, sizeof(*m->after));
	m->after[m->n_after++] = move;
}

static bool repel(const struct fm_load *l, size_t a, size_t b)
{
	const struct fm_load_item *x = &l->items[a], *y = &l->items[b];
	if (!x->picky || !y->picky)
		return false;
	for (size_t i = x->first; i < x->first + x->n; i++)
		for (size_t k = y->first; k < y->first + y->n; k++)
			if (l->anti[l->members[i]] != FM_NONE && l->anti[l->members[i]] == l->anti[l->members[k]])
				return true;
	return false;
}

/*
 * The first so many that leave, until there is room even if all that come before this one in the list are there. Whichever of those that arrive is last in the list, it has waited for enough: so
 * the host keeps within its limit in every order that respects what is waited for.
 */
static void find_waits(const struct ordering *o, struct fm_order_move *m)
{
	const struct station *at = &o->stations[m->to];
	double load[FM_DIMENSIONS], limit[FM_DIMENSIONS];
	limit_of(o, m->to, m->transit, limit);
	for (int d = 0; d < FM_DIMENSIONS; d++)
		load[d] = at->first[d] + at->arrived[d] + o->l->items[m->item].size[d];
	for (size_t i = 0; i < at->n_left; i++) {
		size_t gone = o->out->moves[at->left[i]].item;
		bool full = fm_load_exceeds(load[FM_CPU], limit[FM_CPU]) || fm_load_exceeds(load[FM_MEMORY], limit[FM_MEMORY]);
		if (full || repel(o->l, gone, m->item))
			wait_for(m, at->left[i]);
		for (int d = 0; d < FM_DIMENSIONS; d++)
			load[d] -= o->l->items[gone].size[d];
	}
	if (o->last[m->item] != FM_NONE)
		wait_for(m, o->last[m->item]);
}

static void go(struct ordering *o, size_t item, size_t to, bool transit, bool detour)
{
	struct fm_order *out = o->out;
	if (out->n == o->cap) {
		o->cap = o->cap ? 2 * o->cap : 64;
		out->moves = fm_grow_array(out->moves, o->cap, sizeof(*out->moves));
	}
	struct fm_order_move *m = &out->moves[out->n];
	*m = (struct fm_order_move){ .item = item, .from = o->l->items[item].host, .to = to, .transit = transit, .detour = detour };
	find_waits(o, m);
	struct station *from = &o->stations[m->from];
	if (from->n_left == from->cap_left) {
		from->cap_left = from->cap_left ? 2 * from->cap_left : 8;
		from->left = fm_grow_array(from->left, from->cap_left, sizeof(*from->left));
	}
	from->left[from->n_left++] = out->n;
	for (int d = 0; d < FM_DIMENSIONS; d++)
		o->stations[to].arrived[d] += o->l->items[item].size[d];
	o->last[item] = out->n++;
	fm_load_move(o->l, item, to);
}

/* The one that can go and whose host needs it most; FM_NONE: none can. Index into pending. */
static size_t next_to_go(const struct ordering *o, bool transit)
{
	size_t best = FM_NONE;
	double most = -1;
	for (size_t i = 0; i < o->n_pending; i++) {
		size_t item = o->pending[i];
		double excess = fm_load_excess(&o->l->hosts[o->l->items[item].host]);
		if (excess > most && can_go(o, item, o->to[item], transit)) {
			most = excess;
			best = i;
		}
	}
	return best;
}

static void no_longer_pending(struct ordering *o, size_t at)
{
	memmove(&o->pending[at], &o->pending[at + 1], (--o->n_pending - at) * sizeof(*o->pending));
}

/* One waits at a third host, so that another can take its place. */
static bool make_detour(struct ordering *o)
{
	if (o->detours >= o->l->n_items)
		return false;
	for (size_t i = 0; i < o->n_pending; i++) {
		size_t item = o->pending[i];
		if (o->l->items[item].host != o->l->items[item].home)
			continue; /* waits elsewhere already */
		for (size_t h = 0; h < o->l->n_hosts; h++)
			if (h != o->to[item] && o->l->hosts[h].takes && can_go(o, item, h, false)) {
				go(o, item, h, false, true);
				o->detours++;
				return true;
			}
	}
	return false;
}

static void run(struct ordering *o)
{
	while (o->n_pending > 0) {
		bool transit = false;
		size_t at = next_to_go(o, false);
		if (at == FM_NONE) {
			transit = true;
			at = next_to_go(o, true);
		}
		if (at != FM_NONE) {
			go(o, o->pending[at], o->to[o->pending[at]], transit, false);
			no_longer_pending(o, at);
		} else if (!make_detour(o)) {
			return;
		}
	}
}

void fm_order_moves(struct fm_load *l, const size_t *to, const double transit[FM_DIMENSIONS], struct fm_order *ret)
{
	struct ordering o = { .l = l, .to = to, .transit = transit, .out = ret };
	*ret = (struct fm_order){ .stuck = fm_alloc_array(l->n_items, sizeof(bool)) };
	o.stations = fm_alloc_array(l->n_hosts, sizeof(*o.stations));
	o.last = fm_alloc_array(l->n_items, sizeof(*o.last));
	o.pending = fm_alloc_array(l->n_items, sizeof(*o.pending));
	for (size_t h = 0; h < l->n_hosts; h++)
		memcpy(o.stations[h].first, l->hosts[h].used, sizeof(o.stations[h].first));
	for (size_t i = 0; i < l->n_items; i++) {
		o.last[i] = FM_NONE;
		if (to[i] != l->items[i].host)
			o.pending[o.n_pending++] = i;
	}
	run(&o);
	for (size_t i = 0; i < o.n_pending;
	     i++) /* one that waits elsewhere for a place that never comes is stuck, too: a plan that strands it is not made */
		ret->stuck[o.pending[i]] = true;
	ret->n_stuck = o.n_pending;
	for (size_t h = 0; h < l->n_hosts; h++)
		free(o.stations[h].left);
	free(o.stations);
	free(o.last);
	free(o.pending);
}

void fm_order_done(struct fm_order *o)
{
	for (size_t i = 0; i < o->n; i++)
		free(o->moves[i].after);
	free(o->moves);
	free(o->stuck);
	*o = (struct fm_order){ 0 };
}
