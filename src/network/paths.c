/* SPDX-License-Identifier: MIT */
/*
 * paths.c - one search over the topology, and the questions for one path. See topology.h.
 *
 * Dijkstra's algorithm (E. W. Dijkstra, A note on two problems in connexion with graphs, Numerische Mathematik 1, 1959) with a binary heap
 * that knows where each node is, so that a node is in it once. A label is (cost, number of links), compared in this order; both add up
 * along a path, and the number of links always grows, so equal labels have predecessors that were taken out of the heap before, and
 * choosing the first link among them depends on nothing but the graph.
 *
 * Widest paths are the same search with "greater of the two" in the place of "sum" (the maximum capacity path: M. Pollack, Operations
 * Research 8, 1960). It finds how wide, not which: the path is then the shortest one over links that are wide enough (Z. Wang, J.
 * Crowcroft, Quality-of-service routing for supporting multimedia applications, IEEE JSAC 14 (7), 1996: "shortest-widest path", and leaving
 * out the links that are too narrow where both bandwidth and delay are bounded).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "network/topology-internal.h"

#define AT_UNSEEN UINT32_MAX
#define AT_DONE   (UINT32_MAX - 1)

/* ---- the heap */

static bool before(const struct search *s, uint32_t a, uint32_t b)
{
	const struct label *x = &s->labels[a], *y = &s->labels[b];

	if (x->cost != y->cost)
		return x->cost < y->cost;
	if (x->n_links != y->n_links)
		return x->n_links < y->n_links;
	return a < b;
}

static void heap_put(struct search *s, uint32_t at, uint32_t node)
{
	s->heap[at] = node;
	s->labels[node].at = at;
}

/* `node`, which belongs to place `at` or above, goes where it belongs. */
static void heap_up(struct search *s, uint32_t at, uint32_t node)
{
	for (; at > 0 && before(s, node, s->heap[(at - 1) / 2]); at = (at - 1) / 2)
		heap_put(s, at, s->heap[(at - 1) / 2]);
	heap_put(s, at, node);
}

static uint32_t heap_pop(struct search *s)
{
	uint32_t top = s->heap[0], last = s->heap[--s->n_heap], at = 0, child;

	for (; (child = 2 * at + 1) < s->n_heap; at = child) {
		if (child + 1 < s->n_heap && before(s, s->heap[child + 1], s->heap[child]))
			child++;
		if (!before(s, s->heap[child], last))
			break;
		heap_put(s, at, s->heap[child]);
	}
	if (s->n_heap > 0)
		heap_put(s, at, last);
	s->labels[top].at = AT_DONE;
	return top;
}

/* ---- the search */

static bool is_usable(const struct search *s, const struct hop *h, unsigned rules)
{
	const struct fm_topology_link *l = &s->t->links[h->link];

	if ((rules & RULE_UP) && !l->up)
		return false;
	if ((rules & RULE_AVOID) && (s->shut_links[h->link] || s->shut_nodes[h->peer]))
		return false;
	return !(rules & RULE_AVAILABLE) || fm_topology_link_available(l) >= s->min_available;
}

static void reach(struct search *s, uint32_t node, struct label l)
{
	struct label *old = &s->labels[node];

	if (old->at == AT_DONE)
		return;
	l.at = old->at;
	if (old->at == AT_UNSEEN) {
		*old = l;
		heap_up(s, s->n_heap++, node);
	} else if (l.cost < old->cost || (l.cost == old->cost && l.n_links < old->n_links)) {
		*old = l;
		heap_up(s, l.at, node);
	} else if (l.cost == old->cost && l.n_links == old->n_links && l.link < old->link) {
		*old = l;
	}
}

/* Everything that one link more leads to. The cost of a widest path is how much it lacks of the most there could be. */
static void expand(struct search *s, uint32_t node, unsigned rules, bool widest)
{
	const struct hops *out = &s->t->hops[node];
	const struct label from = s->labels[node];

	s->steps += out->n;
	for (uint32_t i = 0; i < out->n; i++) {
		const struct hop *h = &out->v[i];
		const struct fm_topology_link *link = &s->t->links[h->link];
		struct label l = { .n_links = from.n_links + 1, .link = h->link, .before = node };

		if (!is_usable(s, h, rules))
			continue;
		if (widest) {
			uint64_t lacks = UINT64_MAX - fm_topology_link_available(link);

			l.cost = lacks > from.cost ? lacks : from.cost;
		} else {
			l.cost = from.cost + link->m.latency_us;
			if ((rules & RULE_LATENCY) && l.cost > s->max_latency)
				continue;
		}
		reach(s, h->peer, l);
	}
}

static bool run(struct search *s, uint32_t start, unsigned rules, bool widest)
{
	for (uint32_t i = 0; i < s->t->n_nodes; i++)
		s->labels[i].at = AT_UNSEEN;
	s->n_heap = 0;
	s->steps += s->t->n_nodes;
	reach(s, start, (struct label){ .before = FM_NO_NODE });
	while (s->n_heap > 0) {
		uint32_t node = heap_pop(s);

		if (node == s->to)
			return true;
		if (node == start || s->t->nodes[node].forwards || !(rules & RULE_FORWARDS))
			expand(s, node, rules, widest);
	}
	return false;
}

bool fm_search_shortest(struct search *s, uint32_t start, unsigned rules)
{
	return run(s, start, rules, false);
}

/* The most that a path has available, whatever its latency. */
static bool widest_available(struct search *s, unsigned rules, uint64_t *ret)
{
	if (!run(s, s->from, rules & ~(unsigned)RULE_LATENCY, true))
		return false;
	*ret = UINT64_MAX - s->labels[s->to].cost;
	return true;
}

/* ---- paths */

void fm_path_done(struct fm_path *p)
{
	free(p->nodes);
	free(p->links);
	*p = (struct fm_path){ 0 };
}

void fm_paths_free(struct fm_path *v, size_t n)
{
	for (size_t i = 0; v && i < n; i++)
		fm_path_done(&v[i]);
	free(v);
}

/*
 * Latencies add up, the narrowest link decides, and a packet arrives when no link loses it (RFC 6049, spatial composition
 * of metrics, sections 4 and 5: the sum of delays; 1 minus the product of what the parts deliver).
 */
void fm_path_summarise(const struct fm_topology *t, struct fm_path *p)
{
	double arrives = 1;

	p->latency_us = 0;
	p->available_bytes_per_s = p->n_links ? UINT64_MAX : 0;
	for (uint32_t i = 0; i < p->n_links; i++) {
		const struct fm_topology_link *l = &t->links[p->links[i]];
		uint64_t available = fm_topology_link_available(l);

		p->latency_us += l->m.latency_us;
		if (available < p->available_bytes_per_s)
			p->available_bytes_per_s = available;
		arrives *= (double)(FM_PPM - l->m.loss_ppm) / FM_PPM;
	}
	p->loss_ppm = (uint32_t)((1 - arrives) * FM_PPM + 0.5);
}

int fm_search_path(const struct search *s, uint32_t start, const struct fm_path *root, uint32_t n, struct fm_path *ret,
                   struct fm_error *err)
{
	uint32_t n_links = n + s->labels[s->to].n_links, at = n_links;
	struct fm_path p = { .n_links = n_links };

	p.nodes = calloc(n_links + 1, sizeof(*p.nodes));
	p.links = calloc(n_links + 1, sizeof(*p.links));
	if (!p.nodes || !p.links) {
		fm_path_done(&p);
		return fm_error_errno(err, ENOMEM, "a path of %u links", n_links);
	}
	for (uint32_t node = s->to; node != start; node = s->labels[node].before) {
		p.nodes[at] = node;
		p.links[--at] = s->labels[node].link;
	}
	p.nodes[n] = start;
	if (n > 0) {
		memcpy(p.nodes, root->nodes, n * sizeof(*p.nodes));
		memcpy(p.links, root->links, n * sizeof(*p.links));
	}
	fm_path_summarise(s->t, &p);
	*ret = p;
	return 0;
}

/* ---- questions */

static int shut(uint8_t *v, size_t n, const uint32_t *avoid, size_t n_avoid, const char *what, struct fm_error *err)
{
	for (size_t i = 0; i < n_avoid; i++) {
		if (avoid[i] >= n)
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "there is no %s %u that could be avoided", what, avoid[i]);
		v[avoid[i]] = SHUT_AVOIDED;
	}
	return 0;
}

static int constrain(struct search *s, const struct fm_path_constraints *c, struct fm_error *err)
{
	s->min_available = c->min_available_bytes_per_s;
	s->max_latency = c->max_latency_us ? c->max_latency_us : UINT64_MAX;
	if (shut(s->shut_nodes, s->t->n_nodes, c->avoid_nodes, c->n_avoid_nodes, "node", err) < 0 ||
	    shut(s->shut_links, s->t->n_links, c->avoid_links, c->n_avoid_links, "link", err) < 0)
		return -1;
	if (s->shut_nodes[s->from] || s->shut_nodes[s->to])
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "\"%s\" is both an end of the path and to be avoided",
		                    s->t->nodes[s->shut_nodes[s->from] ? s->from : s->to].name);
	return 0;
}

int fm_search_init(struct search *s, const struct fm_topology *t, uint32_t from, uint32_t to, const struct fm_path_constraints *c,
                   struct fm_error *err)
{
	*s = (struct search){ .t = t, .from = from, .to = to, .max_latency = UINT64_MAX };
	if (from >= t->n_nodes || to >= t->n_nodes)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "there is no node %u", from >= t->n_nodes ? from : to);
	if (from == to)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a path from \"%s\" to itself", t->nodes[from].name);
	s->shut_nodes = calloc(t->n_nodes, 1);
	s->shut_links = calloc((size_t)t->n_links + 1, 1);
	s->labels = calloc(t->n_nodes, sizeof(*s->labels));
	s->heap = calloc(t->n_nodes, sizeof(*s->heap));
	if (!s->shut_nodes || !s->shut_links || !s->labels || !s->heap)
		return fm_error_errno(err, ENOMEM, "a search over %u nodes", t->n_nodes);
	return c ? constrain(s, c, err) : 0;
}

void fm_search_done(struct search *s)
{
	free(s->shut_nodes);
	free(s->shut_links);
	free(s->labels);
	free(s->heap);
}

/* With one rule more each time: the first that leaves no path is the reason. */
int fm_search_explain(struct search *s, struct fm_error *err)
{
	const char *from = s->t->nodes[s->from].name, *to = s->t->nodes[s->to].name;
	uint64_t available = 0;

	if (!run(s, s->from, 0, false))
		return fm_error_set(err, FM_E_NOT_FOUND, "no links lead from \"%s\" to \"%s\"", from, to);
	if (!run(s, s->from, RULE_FORWARDS, false))
		return fm_error_set(err, FM_E_NOT_FOUND, "every path from \"%s\" to \"%s\" leads through a host that does not forward",
		                    from, to);
	if (!run(s, s->from, RULE_FORWARDS | RULE_UP, false))
		return fm_error_set(err, FM_E_NOT_FOUND, "every path from \"%s\" to \"%s\" has a link that is down", from, to);
	if (!widest_available(s, RULE_FORWARDS | RULE_UP | RULE_AVOID, &available))
		return fm_error_set(err, FM_E_NOT_FOUND, "every path from \"%s\" to \"%s\" has a node or link that is to be avoided", from,
		                    to);
	if (available < s->min_available)
		return fm_error_set(err, FM_E_NOT_FOUND, "no path from \"%s\" to \"%s\" has %llu bytes/s available: the widest has %llu",
		                    from, to, (unsigned long long)s->min_available, (unsigned long long)available);
	if (!run(s, s->from, RULE_ALL & ~RULE_LATENCY, false))
		return fm_error_set(err, FM_E_INTERNAL, "no path from \"%s\" to \"%s\", but one that is wide enough", from, to);
	return fm_error_set(err, FM_E_NOT_FOUND, "no path from \"%s\" to \"%s\" %shas a latency of at most %llu us: the shortest has %llu",
	                    from, to, s->min_available ? "that is wide enough " : "", (unsigned long long)s->max_latency,
	                    (unsigned long long)s->labels[s->to].cost);
}

int fm_topology_shortest(const struct fm_topology *t, uint32_t from, uint32_t to, const struct fm_path_constraints *c, struct fm_path *ret,
                         struct fm_error *err)
{
	_fm_cleanup_(fm_search_done) struct search s;

	if (fm_search_init(&s, t, from, to, c, err) < 0)
		return -1;
	if (!fm_search_shortest(&s, from, RULE_ALL))
		return fm_search_explain(&s, err);
	return fm_search_path(&s, from, NULL, 0, ret, err);
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/*
 * The widest path is too long: the greatest width with which there is one that is not. It is the availability of some link, and what a
 * width allows, every smaller one does, so it is found by halving.
 */
static int narrow(struct search *s, struct fm_error *err)
{
	_fm_free_ uint64_t *widths = calloc((size_t)s->t->n_links + 1, sizeof(*widths));
	size_t low = 0, high = s->t->n_links; /* widths[low] is possible, widths[high] and above are not */

	if (!widths)
		return fm_error_errno(err, ENOMEM, "the widths of %u links", s->t->n_links);
	for (uint32_t i = 0; i < s->t->n_links; i++)
		widths[i] = fm_topology_link_available(&s->t->links[i]);
	qsort(widths, s->t->n_links, sizeof(*widths), by_value);
	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;

		s->min_available = widths[middle];
		if (fm_search_shortest(s, s->from, RULE_ALL))
			low = middle;
		else
			high = middle;
	}
	s->min_available = widths[low];
	return 0;
}

int fm_topology_widest(const struct fm_topology *t, uint32_t from, uint32_t to, const struct fm_path_constraints *c, struct fm_path *ret,
                       struct fm_error *err)
{
	_fm_cleanup_(fm_search_done) struct search s;
	uint64_t available = 0;

	if (fm_search_init(&s, t, from, to, c, err) < 0)
		return -1;
	if (!fm_search_shortest(&s, from, RULE_ALL) || !widest_available(&s, RULE_ALL, &available))
		return fm_search_explain(&s, err);
	s.min_available = available;
	if (!fm_search_shortest(&s, from, RULE_ALL)) {
		if (narrow(&s, err) < 0)
			return -1;
		if (!fm_search_shortest(&s, from, RULE_ALL))
			return fm_error_set(err, FM_E_INTERNAL, "a path was there a moment ago");
	}
	return fm_search_path(&s, from, NULL, 0, ret, err);
}
