/* SPDX-License-Identifier: MIT */
/*
 * search.c - see search.h. Three stages: what has to leave is chosen and placed greedily; what is still over is repaired by tabu search over moves and exchanges (Glover 1986), and by chains in
 * which one makes room for another; moves that turn out not to be needed are taken back. Small instances are then searched exhaustively for fewer (exact.c).
 */
#include "decision/search.h"

#include <math.h>
#include <string.h>

#include "basic/cleanup.h"
#include "decision/memory.h"

#define SHORTLIST        32       /* hosts whose full score is looked at */
#define SUBSETS          20000    /* of a host's items that are tried for what has to leave */
#define TABU_EVALUATIONS 40000000 /* positions looked at: some 0.3 s */
#define TABU_ITERATIONS  20000
#define TABU_TENURE      7
#define EXACT_ITEMS      64 /* what counts as small */
#define EXACT_HOSTS      16
#define EXACT_POSITIONS  200000
#define CHAIN_HOSTS      48       /* with the most room, for the last of a chain */
#define CHAIN_STEPS      20000000 /* pairs looked at for all chains together */
#define EXCHANGE_HOSTS   64       /* that one round looks for exchanges at; the next round at others */

/* ---------------------------------------------------------------- the whole position */

size_t fm_search_moves(const struct fm_load *l)
{
	size_t n = 0;
	for (size_t i = 0; i < l->n_items; i++)
		if (l->items[i].host != l->items[i].home)
			n += l->items[i].n;
	return n;
}

size_t fm_search_over(const struct fm_load *l)
{
	size_t n = 0;
	for (size_t h = 0; h < l->n_hosts; h++)
		n += fm_load_over(&l->hosts[h]);
	return n;
}

void fm_search_reset(struct fm_load *l, const size_t *hosts)
{
	for (size_t i = 0; i < l->n_items; i++) {
		size_t to = hosts ? hosts[i] : l->items[i].home;
		if (l->items[i].host != to)
			fm_load_move(l, i, to);
	}
}

size_t *fm_search_hosts(const struct fm_load *l)
{
	size_t *v = fm_alloc_array(l->n_items, sizeof(*v));
	for (size_t i = 0; i < l->n_items; i++)
		v[i] = l->items[i].host;
	return v;
}

static double total_excess(const struct fm_load *l)
{
	double sum = 0;
	for (size_t h = 0; h < l->n_hosts; h++)
		if (l->hosts[h].relieve)
			sum += fm_load_excess(&l->hosts[h]);
	return sum;
}

void fm_search_give_up(struct fm_load *l)
{
	for (size_t h = 0; h < l->n_hosts; h++) {
		struct fm_load_host *host = &l->hosts[h];
		if (!fm_load_over(host))
			continue;
		for (int d = 0; d < FM_DIMENSIONS; d++) {
			double rest = host->used[d];
			for (size_t k = 0; k < host->n_items; k++)
				rest -= l->items[host->items[k]].movable ? l->items[host->items[k]].size[d] : 0;
			if (fm_load_exceeds(rest, host->limit[d]))
				host->relieve = false;
		}
	}
}

/* ---------------------------------------------------------------- lower bound */

static int descending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x < y) - (x > y);
}

/* The fewest items, the largest first, that make up what is too much; of several containers in an item each counts as one that moves, so items are what is counted: never too many. */
static size_t bound_of_host(const struct fm_load *l, const struct fm_load_host *h, int d, const bool *fixed, double *scratch)
{
	double too_much = h->used[d] - h->limit[d];
	size_t n = 0, taken = 0;
	if (!fm_load_exceeds(h->used[d], h->limit[d]))
		return 0;
	for (size_t k = 0; k < h->n_items; k++) {
		const struct fm_load_item *i = &l->items[h->items[k]];
		if (i->movable && i->host == i->home && !(fixed && fixed[h->items[k]]))
			scratch[n++] = i->size[d];
	}
	if (n)
		qsort(scratch, n, sizeof(*scratch), descending);
	while (taken < n && fm_load_exceeds(too_much, 0))
		too_much -= scratch[taken++];
	return fm_load_exceeds(too_much, 1e-9 * h->limit[d]) ? FM_NONE : taken;
}

size_t fm_search_bound(const struct fm_load *l, const bool *fixed)
{
	size_t sum = 0;
	_fm_free_ double *scratch = fm_alloc_array(l->n_items, sizeof(*scratch));
	for (size_t h = 0; h < l->n_hosts; h++) {
		size_t most = 0;
		for (int d = 0; d < FM_DIMENSIONS && fm_load_over(&l->hosts[h]); d++) {
			size_t one = bound_of_host(l, &l->hosts[h], d, fixed, scratch);
			if (one == FM_NONE)
				return FM_NONE;
			most = one > most ? one : most;
		}
		sum += most;
	}
	return sum;
}

/* ---------------------------------------------------------------- where to */

static double room_after(const struct fm_load_host *h, const struct fm_load_item *i)
{
	double cpu = 1 - (h->used[FM_CPU] + i->size[FM_CPU]) / h->limit[FM_CPU],
	       memory = 1 - (h->used[FM_MEMORY] + i->size[FM_MEMORY]) / h->limit[FM_MEMORY];
	return fmin(cpu, memory);
}

/* Best fit for two dimensions: what it leaves of both together. */
static double rest_after(const struct fm_load_host *h, const struct fm_load_item *i)
{
	return 2 - (h->used[FM_CPU] + i->size[FM_CPU]) / h->limit[FM_CPU] - (h->used[FM_MEMORY] + i->size[FM_MEMORY]) / h->limit[FM_MEMORY];
}

struct candidate {
	size_t host;
	double value;
};

static void offer(struct candidate *list, size_t *n, size_t cap, size_t host, double value)
{
	size_t at = *n;
	while (at > 0 && list[at - 1].value < value)
		at--;
	if (at == cap)
		return;
	size_t moved = (*n < cap ? *n : cap - 1) - at;
	memmove(&list[at + 1], &list[at], moved * sizeof(*list));
	list[at] = (struct candidate){ host, value };
	*n += *n < cap;
}

size_t fm_search_best_host(const struct fm_load *l, const struct fm_placement_weights *w, size_t item, bool tightest, const bool *among)
{
	const struct fm_load_item *i = &l->items[item];
	struct candidate list[SHORTLIST];
	size_t n = 0, best = FM_NONE;
	for (size_t h = 0; h < l->n_hosts; h++) {
		const struct fm_load_host *host = &l->hosts[h];
		if (!host->takes || (among && !among[h]) || !fm_load_fits(host, i) || !fm_load_allows(l, item, h))
			continue;
		offer(list, &n, tightest ? 1 : SHORTLIST, h, tightest ? -rest_after(host, i) : room_after(host, i));
	}
	if (tightest)
		return n ? list[0].host : FM_NONE;
	double best_score = -1;
	for (size_t k = 0; k < n; k++) {
		double score = fm_placement_score(l, w, item, list[k].host, NULL);
		if (score > best_score || (score >= best_score && list[k].host < best)) {
			best_score = score;
			best = list[k].host;
		}
	}
	return best;
}

/* ---------------------------------------------------------------- what has to leave */

struct leaving {
	const struct fm_load *l;
	const struct fm_load_host *h;
	size_t *movable; /* items */
	size_t n;
	size_t chosen[3], best[3];
	double best_size;
};

static double relative_size(const struct fm_load_host *h, const double size[FM_DIMENSIONS])
{
	return fmax(size[FM_CPU] / h->total[FM_CPU], size[FM_MEMORY] / h->total[FM_MEMORY]);
}

static void try_subsets(struct leaving *v, size_t from, size_t depth, size_t k, const double sum[FM_DIMENSIONS])
{
	if (depth == k) {
		bool enough = !fm_load_exceeds(v->h->used[FM_CPU] - sum[FM_CPU], v->h->limit[FM_CPU]) &&
		              !fm_load_exceeds(v->h->used[FM_MEMORY] - sum[FM_MEMORY], v->h->limit[FM_MEMORY]);
		double size = relative_size(v->h, sum);
		if (enough && size < v->best_size) {
			v->best_size = size;
			memcpy(v->best, v->chosen, sizeof(v->best));
		}
		return;
	}
	for (size_t i = from; i < v->n; i++) {
		const double *one = v->l->items[v->movable[i]].size;
		double more[FM_DIMENSIONS] = { sum[FM_CPU] + one[FM_CPU], sum[FM_MEMORY] + one[FM_MEMORY] };
		v->chosen[depth] = v->movable[i];
		try_subsets(v, i + 1, depth + 1, k, more);
	}
}

static size_t subsets(size_t n, size_t k)
{
	return k == 1 ? n : k == 2 ? n * (n - 1) / 2 : n * (n - 1) / 2 * (n - 2) / 3;
}

/* Repeatedly the one that brings most of what is missing. */
static size_t leave_greedily(struct leaving *v, size_t *ret)
{
	double missing[FM_DIMENSIONS];
	size_t taken = 0;
	for (int d = 0; d < FM_DIMENSIONS; d++)
		missing[d] = v->h->used[d] - v->h->limit[d];
	while (taken < v->n && (fm_load_exceeds(missing[FM_CPU], 0) || fm_load_exceeds(missing[FM_MEMORY], 0))) {
		size_t best = taken;
		double best_gain = -1;
		for (size_t i = taken; i < v->n; i++) {
			const struct fm_load_item *item = &v->l->items[v->movable[i]];
			double gain = 0;
			for (int d = 0; d < FM_DIMENSIONS; d++)
				gain += fmax(0, fmin(missing[d], item->size[d])) / v->h->total[d];
			if (gain > best_gain) {
				best_gain = gain;
				best = i;
			}
		}
		size_t chosen = v->movable[best];
		v->movable[best] = v->movable[taken];
		v->movable[taken] = ret[taken] = chosen;
		for (int d = 0; d < FM_DIMENSIONS; d++)
			missing[d] -= v->l->items[chosen].size[d];
		taken++;
	}
	return taken;
}

/* The fewest items whose leaving is enough, of these the smallest. ret has room for all of the host's. */
static size_t what_leaves(const struct fm_load *l, const struct fm_load_host *h, size_t *ret)
{
	_fm_free_ size_t *movable = fm_alloc_array(h->n_items, sizeof(*movable));
	struct leaving v = { .l = l, .h = h, .movable = movable, .best_size = INFINITY };
	const double nothing[FM_DIMENSIONS] = { 0 };
	for (size_t k = 0; k < h->n_items; k++)
		if (l->items[h->items[k]].movable && l->items[h->items[k]].home == l->items[h->items[k]].host)
			movable[v.n++] = h->items[k];
	for (size_t k = 1; k <= FM_ARRAY_SIZE(v.chosen) && k <= v.n && subsets(v.n, k) <= SUBSETS; k++) {
		try_subsets(&v, 0, 0, k, nothing);
		if (isfinite(v.best_size)) {
			memcpy(ret, v.best, k * sizeof(*ret));
			return k;
		}
	}
	return leave_greedily(&v, ret);
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

/* False: some did not find a place. */
static bool leave_and_place(struct fm_load *l, const struct fm_placement_weights *w, bool tightest)
{
	_fm_free_ struct sized *all = fm_alloc_array(l->n_items, sizeof(*all));
	_fm_free_ size_t *some = fm_alloc_array(l->n_items, sizeof(*some));
	size_t n = 0;
	for (size_t h = 0; h < l->n_hosts; h++) {
		if (!fm_load_over(&l->hosts[h]))
			continue;
		size_t k = what_leaves(l, &l->hosts[h], some);
		for (size_t i = 0; i < k; i++)
			all[n++] = (struct sized){ some[i], relative_size(&l->hosts[h], l->items[some[i]].size) };
	}
	if (n)
		qsort(all, n, sizeof(*all), largest_first);
	bool placed = true;
	for (size_t i = 0; i < n; i++) {
		if (!fm_load_over(&l->hosts[l->items[all[i].item].host]))
			continue; /* not needed: cannot be, but of what was chosen greedily */
		size_t to = fm_search_best_host(l, w, all[i].item, tightest, NULL);
		if (to == FM_NONE)
			placed = false;
		else
			fm_load_move(l, all[i].item, to);
	}
	return placed;
}

/* ---------------------------------------------------------------- chains: one makes room for another */

struct chain {
	struct fm_load *l;
	size_t roomy[CHAIN_HOSTS], n_roomy;
	uint64_t left; /* steps that may still be taken */
};

static void find_roomy(struct chain *c)
{
	struct candidate list[CHAIN_HOSTS];
	const struct fm_load_item nothing = { 0 };
	c->n_roomy = 0;
	for (size_t h = 0; h < c->l->n_hosts; h++)
		if (c->l->hosts[h].takes && room_after(&c->l->hosts[h], &nothing) > 0)
			offer(list, &c->n_roomy, CHAIN_HOSTS, h, room_after(&c->l->hosts[h], &nothing));
	for (size_t i = 0; i < c->n_roomy; i++)
		c->roomy[i] = list[i].host;
}

static bool fits_without(const struct fm_load_host *h, const struct fm_load_item *comes, const struct fm_load_item *goes)
{
	for (int d = 0; d < FM_DIMENSIONS; d++)
		if (fm_load_exceeds(h->used[d] + comes->size[d] - goes->size[d], h->limit[d]))
			return false;
	return true;
}

/* item goes to `to` when one of those there goes elsewhere, back to where item came from included. Done when true. */
static bool make_room(struct chain *c, size_t item, size_t to)
{
	struct fm_load *l = c->l;
	size_t from = l->items[item].host;
	for (size_t k = 0; k < l->hosts[to].n_items && c->left > 0; k++) {
		size_t other = l->hosts[to].items[k];
		c->left--;
		if (!l->items[other].movable || !fits_without(&l->hosts[to], &l->items[item], &l->items[other]))
			continue;
		for (size_t r = 0; r < c->n_roomy && c->left > 0; r++) {
			size_t last = c->roomy[r];
			c->left--;
			if (last == to || last == from || !fm_load_fits(&l->hosts[last], &l->items[other]) ||
			    !fm_load_allows(l, other, last))
				continue;
			fm_load_move(l, other, last);
			if (fm_load_allows(l, item, to)) {
				fm_load_move(l, item, to);
				return true;
			}
			fm_load_move(l, other, to);
		}
	}
	return false;
}

/* One item of the host leaves, by way of a chain, and the host is less over than before. */
static bool chain_from(struct chain *c, size_t host)
{
	struct fm_load *l = c->l;
	for (size_t k = 0; k < l->hosts[host].n_items; k++) {
		size_t item = l->hosts[host].items[k];
		if (!l->items[item].movable)
			continue;
		for (size_t to = 0; to < l->n_hosts; to++)
			if (l->hosts[to].takes && to != host && !fm_load_over(&l->hosts[to]) && make_room(c, item, to))
				return true;
	}
	return false;
}

static void chains(struct fm_load *l)
{
	struct chain c = { .l = l, .left = CHAIN_STEPS };
	for (size_t h = 0; h < l->n_hosts; h++)
		while (fm_load_over(&l->hosts[h])) {
			double before = fm_load_excess(&l->hosts[h]);
			find_roomy(&c);
			if (!chain_from(&c, h) || fm_load_excess(&l->hosts[h]) >= before)
				break;
		}
}

/* ---------------------------------------------------------------- tabu search over moves and exchanges */

struct tabu {
	struct fm_load *l;
	uint64_t *until; /* iteration, of each item */
	uint64_t now, evaluations;
	size_t *best; /* hosts of the best position */
	double best_excess;
	/* the best change found in this round */
	size_t item, to, other; /* other: FM_NONE, or the one that comes back */
	double change;
};

/* Excess of a host with so much more; of one that need not be relieved any growth is too much. */
static double excess_with(const struct fm_load_host *h, const double more[FM_DIMENSIONS])
{
	double sum = 0;
	for (int d = 0; d < FM_DIMENSIONS; d++) {
		double used = h->used[d] + more[d];
		if (fm_load_exceeds(used, h->limit[d]))
			sum += (used - h->limit[d]) / h->total[d] + (h->relieve ? 0 : 1e6);
	}
	return sum;
}

static void consider(struct tabu *t, size_t item, size_t to, size_t other, const double was[2])
{
	const struct fm_load *l = t->l;
	double more[FM_DIMENSIONS], less[FM_DIMENSIONS];
	t->evaluations++;
	for (int d = 0; d < FM_DIMENSIONS; d++) {
		more[d] = l->items[item].size[d] - (other == FM_NONE ? 0 : l->items[other].size[d]);
		less[d] = -more[d];
	}
	double change = excess_with(&l->hosts[to], more) - was[1] + excess_with(&l->hosts[l->items[item].host], less) - was[0];
	if (change > t->change - 1e-12)
		return;
	if (!fm_load_allows(l, item, to) || (other != FM_NONE && !fm_load_allows(l, other, l->items[item].host)))
		return; /* two that repel each other cannot change places this way; a chain can */
	t->change = change;
	t->item = item;
	t->to = to;
	t->other = other;
}

static void look_around(struct tabu *t, size_t host, bool exchanges)
{
	struct fm_load *l = t->l;
	double was[2] = { fm_load_excess(&l->hosts[host]), 0 };
	size_t stride = exchanges && l->n_hosts > EXCHANGE_HOSTS ? l->n_hosts / EXCHANGE_HOSTS : 1;
	for (size_t to = t->now % stride; to < l->n_hosts; to += stride) {
		const struct fm_load_host *there = &l->hosts[to];
		if (to == host || !there->takes)
			continue;
		was[1] = fm_load_excess(there);
		for (size_t k = 0; k < l->hosts[host].n_items; k++) {
			size_t item = l->hosts[host].items[k];
			if (!l->items[item].movable || t->until[item] > t->now)
				continue;
			if (!exchanges) {
				consider(t, item, to, FM_NONE, was);
				continue;
			}
			for (size_t m = 0; m < there->n_items; m++)
				if (l->items[there->items[m]].movable && t->until[there->items[m]] <= t->now)
					consider(t, item, to, there->items[m], was);
		}
	}
}

static size_t worst_host(const struct tabu *t)
{
	size_t worst = FM_NONE;
	double most = 0;
	for (size_t h = 0; h < t->l->n_hosts; h++) {
		double excess = t->l->hosts[h].relieve ? fm_load_excess(&t->l->hosts[h]) : 0;
		if (excess > most) {
			most = excess;
			worst = h;
		}
	}
	return worst;
}

static void tabu_round(struct tabu *t, size_t host)
{
	struct fm_load *l = t->l;
	size_t from = host;
	t->change = INFINITY;
	t->item = FM_NONE;
	look_around(t, host, false);
	/* A move that solves it, or as much of it as the host's excess is, needs no exchange. */
	if (t->change > -fm_load_excess(&l->hosts[host]) + 1e-9)
		look_around(t, host, true);
	t->now++;
	if (t->item == FM_NONE)
		return;
	/* Longer where there is more to choose from; the iteration's number takes the place of chance. */
	uint64_t tenure = TABU_TENURE + t->now % 5;
	fm_load_move(l, t->item, t->to);
	t->until[t->item] = t->now + tenure;
	if (t->other != FM_NONE) {
		fm_load_move(l, t->other, from);
		t->until[t->other] = t->now + tenure;
	}
}

static void tabu_search(struct fm_load *l)
{
	_fm_free_ uint64_t *until = fm_alloc_array(l->n_items, sizeof(*until));
	struct tabu t = { .l = l, .until = until, .best = fm_search_hosts(l), .best_excess = total_excess(l) };
	size_t idle = 0;
	for (unsigned i = 0; i < TABU_ITERATIONS && t.evaluations < TABU_EVALUATIONS && idle < 2 * TABU_TENURE; i++) {
		size_t host = worst_host(&t);
		if (host == FM_NONE)
			break;
		tabu_round(&t, host);
		idle = t.item == FM_NONE ? idle + 1 : 0;
		double excess = total_excess(l);
		if (excess < t.best_excess - 1e-12) {
			t.best_excess = excess;
			free(t.best);
			t.best = fm_search_hosts(l);
		}
	}
	fm_search_reset(l, t.best);
	free(t.best);
}

/* ---------------------------------------------------------------- moves that are not needed */

static bool fits_home(struct fm_load *l, size_t item)
{
	size_t home = l->items[item].home;
	return fm_load_fits(&l->hosts[home], &l->items[item]) && fm_load_allows(l, item, home);
}

/* `item` goes home when one that came to its home goes elsewhere: one move less. */
static bool give_back(struct fm_load *l, const struct fm_placement_weights *w, size_t item)
{
	size_t home = l->items[item].home, away = l->items[item].host;
	for (size_t k = 0; k < l->hosts[home].n_items; k++) {
		size_t other = l->hosts[home].items[k];
		if (l->items[other].home == home || !fits_without(&l->hosts[home], &l->items[item], &l->items[other]))
			continue;
		fm_load_move(l, item, home);
		size_t to = fm_search_best_host(l, w, other, false, NULL);
		if (to != FM_NONE && !fm_load_why_not(l, other, to)) {
			fm_load_move(l, other, to);
			if (!fm_load_over(&l->hosts[home]))
				return true;
			fm_load_move(l, other, home);
		}
		fm_load_move(l, item, away);
	}
	return false;
}

static void take_back(struct fm_load *l, const struct fm_placement_weights *w)
{
	bool again = true;
	for (int round = 0; again && round < 4; round++) {
		again = false;
		for (size_t i = 0; i < l->n_items; i++) {
			if (l->items[i].host == l->items[i].home)
				continue;
			if (fits_home(l, i)) {
				fm_load_move(l, i, l->items[i].home);
				again = true;
			} else if (give_back(l, w, i)) {
				again = true;
			}
		}
	}
}

/* ---------------------------------------------------------------- all of it */

/* No host that was well may be over for it. */
static void undo_harm(struct fm_load *l, const bool *was_over)
{
	for (size_t h = 0; h < l->n_hosts; h++)
		for (size_t k = l->hosts[h].n_items; k-- > 0 && !was_over[h] && fm_load_over(&l->hosts[h]);) {
			size_t item = l->hosts[h].items[k];
			if (l->items[item].home != h)
				fm_load_move(l, item, l->items[item].home);
		}
}

static bool heuristic(struct fm_load *l, const struct fm_placement_weights *w)
{
	if (leave_and_place(l, w, false) && fm_search_over(l) == 0)
		return true;
	fm_search_reset(l, NULL);
	if (leave_and_place(l, w, true) && fm_search_over(l) == 0)
		return true;
	chains(l);
	if (fm_search_over(l) > 0)
		tabu_search(l);
	return fm_search_over(l) == 0;
}

bool fm_search_relieve(struct fm_load *l, const struct fm_placement_weights *w)
{
	_fm_free_ bool *was_over = fm_alloc_array(l->n_hosts, sizeof(*was_over));
	uint64_t budget = EXACT_POSITIONS;
	for (size_t h = 0; h < l->n_hosts; h++)
		was_over[h] = fm_load_over(&l->hosts[h]);
	size_t bound = fm_search_bound(l, NULL);
	bool solved = heuristic(l, w);
	if (solved)
		take_back(l, w);
	size_t moves = fm_search_moves(l);
	if (l->n_items <= EXACT_ITEMS && l->n_hosts <= EXACT_HOSTS && !(solved && moves == bound)) {
		_fm_free_ size_t *kept = fm_search_hosts(l);
		fm_search_reset(l, NULL);
		if (fm_search_exact(l, solved ? moves : l->s->n_containers + 1, &budget))
			return true;
		fm_search_reset(l, kept);
	}
	if (!solved)
		undo_harm(l, was_over);
	return solved;
}
