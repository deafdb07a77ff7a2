/* SPDX-License-Identifier: MIT */
/*
 * paths-several.c - k paths of least latency, none with a node twice. See topology.h.
 *
 * J. Y. Yen, Finding the k shortest loopless paths in a network, Management Science 17 (11), 1971: each further path leaves one of those
 * before it at some node and goes on from there by the shortest way that none of them takes. With E. L. Lawler's refinement (Management
 * Science 18 (7), 1972): a path that itself left another at node i is left only there and behind, because before that the other's turns
 * have found everything already. So no path is found twice.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "network/topology-internal.h"

/* Paths in order, best first: `n_found` are final, the others are candidates. More than are asked for are not kept. */
struct several {
	struct search s;
	struct fm_path *paths;
	uint32_t *turns; /* where each left the one before it */
	size_t n, n_found, k;
};

static void several_done(struct several *w)
{
	fm_paths_free(w->paths, w->n);
	free(w->turns);
	fm_search_done(&w->s);
}

/* The order that is promised, and one among equals, so that the answer depends on the topology only. */
static int compare(const struct fm_path *a, const struct fm_path *b)
{
	if (a->latency_us != b->latency_us)
		return a->latency_us < b->latency_us ? -1 : 1;
	if (a->n_links != b->n_links)
		return a->n_links < b->n_links ? -1 : 1;
	for (uint32_t i = 0; i < a->n_links; i++)
		if (a->links[i] != b->links[i])
			return a->links[i] < b->links[i] ? -1 : 1;
	return 0;
}

/* Takes the path. */
static void keep(struct several *w, struct fm_path p, uint32_t turn)
{
	size_t at = w->n;

	while (at > w->n_found && compare(&p, &w->paths[at - 1]) < 0)
		at--;
	if (at == w->k) {
		fm_path_done(&p);
		return;
	}
	if (w->n == w->k)
		fm_path_done(&w->paths[--w->n]);
	memmove(&w->paths[at + 1], &w->paths[at], (w->n - at) * sizeof(*w->paths));
	memmove(&w->turns[at + 1], &w->turns[at], (w->n - at) * sizeof(*w->turns));
	w->paths[at] = p;
	w->turns[at] = turn;
	w->n++;
}

/* Do both begin with the same n links? */
static bool same_root(const struct fm_path *a, const struct fm_path *b, uint32_t n)
{
	return a->n_links > n && b->n_links > n && memcmp(a->links, b->links, n * sizeof(*a->links)) == 0;
}

/* How the found paths go on from the root that `p` begins with is shut, or no longer. */
static void shut_turns(struct several *w, const struct fm_path *p, uint32_t n, bool on)
{
	for (size_t i = 0; i < w->n_found; i++) {
		const struct fm_path *q = &w->paths[i];

		if (!same_root(p, q, n))
			continue;
		if (on)
			w->s.shut_links[q->links[n]] |= SHUT_BRANCH;
		else
			w->s.shut_links[q->links[n]] &= (uint8_t)~SHUT_BRANCH;
	}
}

/* The best path that begins like `p` up to its node n and goes on like none that is found. */
static int turn(struct several *w, const struct fm_path *p, uint32_t n, uint64_t root_latency, struct fm_error *err)
{
	uint64_t max_latency = w->s.max_latency;
	struct fm_path q;
	bool found;

	w->s.max_latency -= max_latency == UINT64_MAX ? 0 : root_latency; /* p itself keeps the limit */
	w->s.steps += w->n_found * n / 4;                                 /* comparing roots, much faster than looking at links */
	shut_turns(w, p, n, true);
	found = fm_search_shortest(&w->s, p->nodes[n], RULE_ALL);
	shut_turns(w, p, n, false);
	w->s.max_latency = max_latency;
	if (w->s.steps > FM_MAX_PATH_STEPS)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "%zu of %zu paths from \"%s\" to \"%s\" took %llu steps: ask for fewer",
		                    w->n_found, w->k, w->s.t->nodes[w->s.from].name, w->s.t->nodes[w->s.to].name, FM_MAX_PATH_STEPS);
	if (!found)
		return 0;
	if (fm_search_path(&w->s, p->nodes[n], p, n, &q, err) < 0)
		return -1;
	keep(w, q, n);
	return 0;
}

/* All paths that leave the last one found, `p`, at or behind its own turn. */
static int turns(struct several *w, struct fm_error *err)
{
	/* what is found stays in its place */
	const struct fm_path *p = &w->paths[w->n_found - 1];
	uint32_t first = w->turns[w->n_found - 1];
	uint64_t latency_us = 0;
	int r = 0;

	for (uint32_t i = 0; i < p->n_links && r == 0; i++) {
		if (i >= first)
			r = turn(w, p, i, latency_us, err);
		w->s.shut_nodes[p->nodes[i]] |= SHUT_BRANCH;
		latency_us += w->s.t->links[p->links[i]].m.latency_us;
	}
	for (uint32_t i = 0; i < p->n_links; i++)
		w->s.shut_nodes[p->nodes[i]] &= (uint8_t)~SHUT_BRANCH;
	return r;
}

static int find(struct several *w, struct fm_error *err)
{
	struct fm_path p;

	if (!fm_search_shortest(&w->s, w->s.from, RULE_ALL))
		return fm_search_explain(&w->s, err);
	if (fm_search_path(&w->s, w->s.from, NULL, 0, &p, err) < 0)
		return -1;
	keep(w, p, 0);
	w->n_found = 1;
	while (w->n_found < w->k) {
		if (turns(w, err) < 0)
			return -1;
		if (w->n_found == w->n)
			break;
		w->n_found++;
	}
	return 0;
}

int fm_topology_k_shortest(const struct fm_topology *t, uint32_t from, uint32_t to, size_t k, const struct fm_path_constraints *c,
                           struct fm_path **ret, size_t *ret_n, struct fm_error *err)
{
	_fm_cleanup_(several_done) struct several w = { .k = k };

	if (k < 1 || k > FM_MAX_PATHS)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%zu paths: 1 to %d can be asked for", k, FM_MAX_PATHS);
	if (fm_search_init(&w.s, t, from, to, c, err) < 0)
		return -1;
	w.paths = calloc(k, sizeof(*w.paths));
	w.turns = calloc(k, sizeof(*w.turns));
	if (!w.paths || !w.turns)
		return fm_error_errno(err, ENOMEM, "%zu paths", k);
	if (find(&w, err) < 0)
		return -1;
	*ret_n = w.n;
	*ret = FM_TAKE_PTR(w.paths);
	return 0;
}
