/* SPDX-License-Identifier: MIT */
/*
 * topology.h - hosts, switches and the links between them, and which paths lead from one to another.
 *
 * A topology is described (fm_topology_parse, or node by node), then measured: a link's latency, bandwidth, loss and utilisation are
 * replaced in place, and it goes down and up. Nothing is ever removed: what is gone is down, and a changed description is parsed into a new
 * topology.
 *
 * Nodes and links have numbers, 0, 1, 2, … in the order in which they were added. Hosts and switches share one name space
 * (fm_name_is_valid). A link is crossed in both directions with the same measurements, or is directed, from -> to; where the directions
 * differ there are two directed ones. Between two nodes there may be several links, told apart by their ports. Switches pass everything on;
 * a host passes on only what it is said to forward, else it is the end of a path and never in the middle.
 *
 * Sizes: FM_MAX_TOPOLOGY_* (basic/limits.h), RESOURCE_EXHAUSTED beyond. Threads: questions change nothing, any number may be asked at a
 * time; whoever changes the topology must be alone with it. Pointers to nodes and links are valid until the next one is added. Nothing is
 * read, sent or logged.
 *
 * Cost, with n nodes and m links: finding a node O(1), adding a link and finding one O(links of its ends), a path O((n + m) log n); a
 * widest one log m times that where the greatest width takes too long; k paths of l links O(k l (n + m) log n). docs/NETWORK.md says what
 * that is in milliseconds.
 */
#ifndef FM_NETWORK_TOPOLOGY_H
#define FM_NETWORK_TOPOLOGY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "basic/limits.h"

#define FM_PPM 1000000u /* parts per million: 1000000 is all of it */

enum fm_node_kind { FM_NODE_HOST = 1, FM_NODE_SWITCH };

struct fm_topology_node {
	char name[FM_MAX_NAME];
	enum fm_node_kind kind;
	bool forwards; /* is the middle of paths, too; always for switches */
};

struct fm_topology_port {
	char name[FM_MAX_PORT_NAME]; /* "eth0", "ge-0/0/1"; [a-zA-Z0-9_./:@-], "" when it is not known */
	uint32_t number;             /* OpenFlow's, 1 to 0xffffff00; 0 when it is not known */
};

struct fm_link_measurement {
	uint64_t latency_us; /* one way */
	uint64_t bandwidth_bytes_per_s;
	uint32_t loss_ppm;        /* packets */
	uint32_t utilisation_ppm; /* of the bandwidth, by everybody */
};

struct fm_topology_link {
	uint32_t from, to; /* nodes */
	struct fm_topology_port from_port, to_port;
	struct fm_link_measurement m;
	bool directed; /* from -> to only */
	bool up;
};

struct fm_topology;

struct fm_topology *fm_topology_new(void); /* NULL: no memory */
void fm_topology_free(struct fm_topology *t);
FM_DEFINE_CLEANUP(struct fm_topology *, fm_topology_free);

/* INVALID_ARGUMENT: the name; ALREADY_EXISTS: the name is taken. ret_node may be NULL. */
int fm_topology_add_node(struct fm_topology *t, const char *name, enum fm_node_kind kind, bool forwards, uint32_t *ret_node,
                         struct fm_error *err);
/*
 * A copy is taken. INVALID_ARGUMENT: an end that is no node, both ends the same, a port's name, a measurement out of range.
 * ALREADY_EXISTS: there is a link between the same ports in one of its directions already. ret_link may be NULL.
 */
int fm_topology_add_link(struct fm_topology *t, const struct fm_topology_link *link, uint32_t *ret_link, struct fm_error *err);

/*
 * Replaces all four. INVALID_ARGUMENT: no such link, or one of them is out of range (latency FM_MAX_LINK_LATENCY_US, bandwidth
 * FM_MAX_LINK_BYTES_PER_S); nothing has changed then.
 */
int fm_topology_measure(struct fm_topology *t, uint32_t link, const struct fm_link_measurement *m, struct fm_error *err);
int fm_topology_set_up(struct fm_topology *t, uint32_t link, bool up, struct fm_error *err);

uint32_t fm_topology_n_nodes(const struct fm_topology *t);
uint32_t fm_topology_n_links(const struct fm_topology *t);
/* NULL when there is no such number. */
const struct fm_topology_node *fm_topology_node(const struct fm_topology *t, uint32_t node);
const struct fm_topology_link *fm_topology_link(const struct fm_topology *t, uint32_t link);
/* bandwidth × (1 - utilisation), rounded up */
uint64_t fm_topology_link_available(const struct fm_topology_link *link);
int fm_topology_find_node(const struct fm_topology *t, const char *name, uint32_t *ret_node, struct fm_error *err);
/*
 * The link that leads from one node to the other. A port's name may be NULL when it does not matter; FAILED_PRECONDITION when that leaves
 * several.
 */
int fm_topology_find_link(const struct fm_topology *t, const char *from, const char *from_port, const char *to, const char *to_port,
                          uint32_t *ret_link, struct fm_error *err);

/*
 * The description, JSON, at most FM_MAX_TOPOLOGY_BYTES; need not end with a NUL:
 *
 *   {"version": 1,
 *    "hosts":    [{"name": "a"}, {"name": "b", "forwards": true}],
 *    "switches": [{"name": "s1"}],
 *    "links":    [{"from": "a", "from_port": "eth0", "to": "s1", "to_port": "ge-0/0/1", "to_port_number": 1,
 *                  "latency_us": 120, "bandwidth_bytes_per_s": 1250000000, "loss_ppm": 0, "utilisation_ppm": 300000,
 *                  "directed": false, "up": true}]}
 *
 * A link needs from, to, latency_us and bandwidth_bytes_per_s; without the others, port names are "", numbers 0, it is not directed and up.
 * The three lists may be missing. Hosts get the first numbers, then switches. A member that is none of these is an error, as a unit
 * mistaken would be. INVALID_ARGUMENT, ALREADY_EXISTS or RESOURCE_EXHAUSTED with the place, "topology: links[3].latency_us …", or line and
 * column where it is no JSON.
 */
int fm_topology_parse(const char *text, size_t n, struct fm_topology **ret, struct fm_error *err);
/* The same again, all members written, one node or link a line; links keep their numbers, nodes their order among hosts and switches.
 * free() it. */
char *fm_topology_to_json(const struct fm_topology *t);
/* For Graphviz; hosts are boxes, links that are down are dashed. free() it. */
char *fm_topology_to_dot(const struct fm_topology *t);

/* What a path must do. All zero: nothing. The lists may be in any order; an end of the path in avoid_nodes is INVALID_ARGUMENT. */
struct fm_path_constraints {
	uint64_t min_available_bytes_per_s; /* on each of its links */
	uint64_t max_latency_us;            /* of the whole path; 0: any */
	const uint32_t *avoid_nodes;
	size_t n_avoid_nodes;
	const uint32_t *avoid_links;
	size_t n_avoid_links;
};

/* nodes[0] -links[0]- nodes[1] -links[1]- … nodes[n_links]; no node twice. The rest is what its links' measurements say together. */
struct fm_path {
	uint32_t n_links;
	uint32_t *nodes, *links;
	uint64_t latency_us;            /* sum */
	uint64_t available_bytes_per_s; /* least */
	uint32_t loss_ppm;              /* 1 - product of (1 - loss): losses are taken to be independent */
};

void fm_path_done(struct fm_path *p);
void fm_paths_free(struct fm_path *v, size_t n);
/* The three figures again, after measurements changed. Of a path of this topology. */
void fm_path_summarise(const struct fm_topology *t, struct fm_path *p);

/*
 * The path with the least latency; of those with the fewest links. If there are still several: looking back from the end, each node is
 * reached over the link that was added first. So the answer depends on the topology only. Links that are down are never used; full ones
 * are, unless the constraints say otherwise. INVALID_ARGUMENT: an end that is no node, both ends the same, constraints that name none.
 * NOT_FOUND: no path; the message says what stands in the way: no link at all, hosts that do not forward, links that are down, what is to
 * be avoided, bandwidth, latency, in this order.
 */
int fm_topology_shortest(const struct fm_topology *t, uint32_t from, uint32_t to, const struct fm_path_constraints *c, struct fm_path *ret,
                         struct fm_error *err);
/*
 * The path whose least available bandwidth is greatest; of those the one that fm_topology_shortest() would choose. Exact with a greatest
 * latency, too.
 */
int fm_topology_widest(const struct fm_topology *t, uint32_t from, uint32_t to, const struct fm_path_constraints *c, struct fm_path *ret,
                       struct fm_error *err);
/*
 * The k paths with the least latency, best first; the first is fm_topology_shortest()'s. No node twice in one, and two that differ in a
 * parallel link are two. Of equal latency, the ones with fewer links come first. Fewer than k when there are no more (at least one, else
 * NOT_FOUND). k: 1 to FM_MAX_PATHS. RESOURCE_EXHAUSTED: it would take more than FM_MAX_PATH_STEPS. *ret is freed with fm_paths_free.
 */
int fm_topology_k_shortest(const struct fm_topology *t, uint32_t from, uint32_t to, size_t k, const struct fm_path_constraints *c,
                           struct fm_path **ret, size_t *ret_n, struct fm_error *err);

#endif
