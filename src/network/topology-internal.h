/* SPDX-License-Identifier: MIT */
/*
 * topology-internal.h - what the topology's own files share. Private to network/.
 *
 *   topology.c         the graph: adding, measuring, finding
 *   topology-text.c    JSON in and out, Graphviz out
 *   paths.c            one search over the graph, and the questions for one path
 *   paths-several.c    k paths
 */
#ifndef FM_NETWORK_TOPOLOGY_INTERNAL_H
#define FM_NETWORK_TOPOLOGY_INTERNAL_H

#include <jansson.h>

#include "network/topology.h"

#define FM_NO_NODE UINT32_MAX

/* One way out of a node. */
struct hop {
	uint32_t link, peer;
};

struct hops {
	struct hop *v;
	uint32_t n, cap;
};

struct fm_topology {
	struct fm_topology_node *nodes;
	struct hops *hops; /* of each node */
	struct fm_topology_link *links;
	uint32_t n_nodes, cap_nodes, n_links, cap_links;
	uint32_t *names; /* open addressing by fm_hash_str(name), a power of two; FM_NO_NODE where there is none */
	uint32_t names_size;
};

/* The description as a part of a larger one (description.c), whose size has been checked. */
int fm_topology_from_json(const json_t *o, struct fm_topology **ret, struct fm_error *err);

/* Which rules a search keeps. One after the other they tell why there is no path. */
enum {
	RULE_FORWARDS = 1 << 0,  /* hosts in the middle forward */
	RULE_UP = 1 << 1,        /* links are up */
	RULE_AVOID = 1 << 2,     /* what is shut stays out */
	RULE_AVAILABLE = 1 << 3, /* every link has min_available */
	RULE_LATENCY = 1 << 4,   /* max_latency in all */
	RULE_ALL = (1 << 5) - 1,
};

enum { SHUT_AVOIDED = 1, SHUT_BRANCH = 2 }; /* by the constraints; by the search for several paths, for now */

/* How a node is reached. */
struct label {
	uint64_t cost;
	uint32_t n_links;
	uint32_t link, before; /* the last link, and the node it comes from */
	uint32_t at;           /* its place in the heap, AT_… */
};

struct search {
	const struct fm_topology *t;
	uint32_t from, to;
	uint64_t min_available, max_latency;
	uint8_t *shut_nodes, *shut_links; /* SHUT_… */
	struct label *labels;
	uint32_t *heap;
	uint32_t n_heap;
	uint64_t steps; /* nodes and links looked at, in all runs */
};

/* Checks the arguments of a question. c may be NULL. */
int fm_search_init(struct search *s, const struct fm_topology *t, uint32_t from, uint32_t to, const struct fm_path_constraints *c,
                   struct fm_error *err);
void fm_search_done(struct search *s);
/* The least latency from `start` to s->to. Is there a path? */
bool fm_search_shortest(struct search *s, uint32_t start, unsigned rules);
/* The path that the last run found, behind the `n` links that `ret` has already; room for all is there afterwards. */
int fm_search_path(const struct search *s, uint32_t start, const struct fm_path *root, uint32_t n, struct fm_path *ret,
                   struct fm_error *err);
/* Why there is none; always -1. */
int fm_search_explain(struct search *s, struct fm_error *err);

#endif
