/* SPDX-License-Identifier: MIT */
/*
 * exact.c - see search.h: the fewest moves, by iterative deepening (Korf 1985).
 *
 * One host that is over is taken; in every solution one of the containers that were there from the beginning leaves it, as arrivals only make it worse. So it is enough to try, for this host
 * only, which one leaves and where to; one that was tried stays there in all that is tried after it, so no set is tried twice. What a host lacks at least is a lower bound (fm_search_bound).
 */
#include <string.h>

#include "basic/cleanup.h"
#include "decision/memory.h"
#include "decision/search.h"

struct exact {
	struct fm_load *l;
	bool *fixed; /* has moved, or was decided to stay */
	uint64_t *budget;
};

/* The one with the fewest ways to get better is the best to branch on: most constrained first. */
static size_t host_to_relieve(const struct exact *e)
{
	size_t best = FM_NONE, fewest = SIZE_MAX;
	for (size_t h = 0; h < e->l->n_hosts; h++) {
		const struct fm_load_host *host = &e->l->hosts[h];
		size_t n = 0;
		if (!fm_load_over(host))
			continue;
		for (size_t k = 0; k < host->n_items; k++)
			n += !e->fixed[host->items[k]] && e->l->items[host->items[k]].movable;
		if (n < fewest) {
			fewest = n;
			best = h;
		}
	}
	return best;
}

static bool same_numbers(const struct fm_load_host *a, const struct fm_load_host *b)
{
	for (int d = 0; d < FM_DIMENSIONS; d++)
		if (a->used[d] < b->used[d] || a->used[d] > b->used[d] || a->limit[d] < b->limit[d] || a->limit[d] > b->limit[d])
			return false;
	return true;
}

/* Two hosts with nothing on them and the same numbers lead to the same: one of them is enough. */
static bool same_as_earlier(const struct exact *e, size_t item, size_t host)
{
	const struct fm_load_host *h = &e->l->hosts[host];
	if (h->n_items > 0 || e->l->items[item].picky || e->l->items[item].affinity != FM_NONE)
		return false;
	for (size_t k = 0; k < host; k++) {
		const struct fm_load_host *other = &e->l->hosts[k];
		if (other->n_items == 0 && other->takes && same_numbers(other, h))
			return true;
	}
	return false;
}

static bool deepen(struct exact *e, size_t left);

static bool try_item(struct exact *e, size_t item, size_t left)
{
	struct fm_load *l = e->l;
	size_t home = l->items[item].host;
	for (int fits = 1; fits >= 0; fits--) /* where there is room first */
		for (size_t to = 0; to < l->n_hosts; to++) {
			const struct fm_load_host *h = &l->hosts[to];
			if (!h->takes || to == home || fm_load_fits(h, &l->items[item]) != fits || (!fits && !h->relieve) ||
			    !fm_load_allows(l, item, to) || same_as_earlier(e, item, to))
				continue;
			fm_load_move(l, item, to);
			if (deepen(e, left - l->items[item].n))
				return true;
			fm_load_move(l, item, home);
			if (*e->budget == 0)
				return false;
		}
	return false;
}

static bool deepen(struct exact *e, size_t left)
{
	if (*e->budget == 0)
		return false;
	--*e->budget;
	size_t host = host_to_relieve(e);
	if (host == FM_NONE)
		return true;
	size_t bound = fm_search_bound(e->l, e->fixed);
	if (bound == FM_NONE || bound > left)
		return false;
	size_t n = e->l->hosts[host].n_items, tried = 0;
	_fm_free_ size_t *items = fm_alloc_array(n, sizeof(*items)); /* the list changes while it is tried */
	memcpy(items, e->l->hosts[host].items, n * sizeof(*items));
	bool found = false;
	for (; tried < n && !found; tried++) {
		size_t i = items[tried];
		if (e->fixed[i] || !e->l->items[i].movable || e->l->items[i].n > left) {
			items[tried] = FM_NONE;
			continue;
		}
		e->fixed[i] = true;
		found = try_item(e, i, left);
	}
	for (size_t k = 0; k < tried; k++)
		if (items[k] != FM_NONE)
			e->fixed[items[k]] = false;
	return found;
}

bool fm_search_exact(struct fm_load *l, size_t below, uint64_t *budget)
{
	_fm_free_ bool *fixed = fm_alloc_array(l->n_items, sizeof(*fixed));
	struct exact e = { l, fixed, budget };
	size_t bound = fm_search_bound(l, NULL);
	for (size_t depth = bound; bound != FM_NONE && depth<below && * budget> 0; depth++)
		if (deepen(&e, depth))
			return true;
	return false;
}
