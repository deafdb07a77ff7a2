/* SPDX-License-Identifier: MIT */
/*
 * intent.h - what a service wants of the network when its container moves, and what that means for this move: a list of actions for the redirection drivers (redirect.h), or the reason why it cannot be had.
 *
 * An intent is a member of "intents" in the network's description (description.h):
 *
 *   {"service": "redis",                                 its name; unique
 *    "container": "redis-1",                             or "label": "app=redis": which containers it is about
 *    "keep": "address",                                  clients go on with the container's address; or "name": they ask for its name again
 *    "name": "redis.example.org", "dns": "lab",          with keep "name": the record, and the entry of "dns" that has its zone
 *    "addresses": {"h1": "192.0.2.11", "h2": "…"},       where clients find the service when it is on each host: what the name means, what a balancer has, where ports are published. Missing: the container's own address
 *    "max_gap_ms": 200,                                  the longest that clients may have to wait
 *    "min_bandwidth_bytes_per_s": 10000000,              that has to be available on the way from its clients to it
 *    "clients": ["gw", "h3"],                            hosts or switches of the topology that they come from; missing: the source host while it moves; while it rests, its host's own links are looked at
 *    "drivers": ["bridge", "openflow", …],               the only ones that may be used; missing: all
 *    "isolation": "none",                                or "vlan:ID": its flows match this VLAN only; or "dedicated-path": no link of its clients' ways is another service's
 *    "load_balancer": {"name": "lb1", "backend": "be", "server": "redis1", "port": 6379, "drain": true,
 *                      "by_policy": true},                  its address is changed only by a move for which a policy says trigger_load_balancer_reconfiguration
 *    "publish": [{"host_port": 6379, "port": 6379, "protocol": "tcp"}],
 *    "webhooks": ["chat"]}
 *
 * How a kept address is led to another host, the first of these that is described for both hosts and allowed:
 *
 *   vxlan               both are ends of one VXLAN: the forwarding entries of its other ends
 *   bridge, openflow, rest   only switches are between them: those that are described get flows, at each the next link towards the host; the others learn, from the announcement (bridge: no action)
 *   route               routers have next hops to both: routes of the address alone, and a tunnel beside them where there can be one
 *   tunnel              from the source to the destination, for as long as somebody comes the old way
 *
 * The next link of a switch is that of the shortest path, or with a least bandwidth of the widest one (topology.h), through switches only; following them leads to the host from everywhere without a loop.
 *
 * Pure functions of their arguments: nothing is read, sent or logged. Any number of threads, while nobody changes the description. Errors of an intent that cannot be met are FAILED_PRECONDITION,
 * "intent 'redis': …".
 */
#ifndef FM_NETWORK_INTENT_H
#define FM_NETWORK_INTENT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/error.h"
#include "network/description.h"

#define FM_INTENT_AT_MANAGER "manager" /* an action's "at"; else a host's name */

enum fm_intent_driver { /* bits */
	                FM_INTENT_BRIDGE = 1 << 0,
	                FM_INTENT_OPENFLOW = 1 << 1,
	                FM_INTENT_REST = 1 << 2,
	                FM_INTENT_VXLAN = 1 << 3,
	                FM_INTENT_ROUTE = 1 << 4,
	                FM_INTENT_TUNNEL = 1 << 5,
	                FM_INTENT_DNS = 1 << 6,
	                FM_INTENT_HAPROXY = 1 << 7,
	                FM_INTENT_WEBHOOK = 1 << 8,
	                FM_INTENT_DNAT = 1 << 9,
	                FM_INTENT_ALL = (1 << 10) - 1,
};

struct fm_intent_port {
	uint32_t host_port, port;
	const char *protocol; /* "tcp", "udp" */
};

struct fm_intent_balancer {
	const struct fm_net_balancer *balancer; /* NULL: none */
	const char *name, *backend, *server;
	uint32_t port;
	bool drain, by_policy;
};

/* As it is written, checked; texts are the description's. */
struct fm_intent {
	const char *service;
	const char *container, *label; /* one is NULL */
	const char *keep, *name;
	const struct fm_net_dns *dns;
	const json_t *addresses; /* NULL: none */
	uint64_t max_gap_ms;     /* 0: any */
	uint64_t min_bandwidth_bytes_per_s;
	unsigned drivers; /* FM_INTENT_… that may be used */
	const char *isolation;
	uint32_t vlan; /* 0: none */
	bool dedicated_path;
	struct fm_intent_balancer balancer;
	uint32_t clients[FM_MAX_INTENT_LIST]; /* nodes of the topology */
	struct fm_intent_port publish[FM_MAX_INTENT_LIST];
	const struct fm_net_webhook *webhooks[FM_MAX_INTENT_LIST];
	size_t n_clients, n_publish, n_webhooks;
	const json_t *json;
};

/* "bridge", …; 0 and NULL for what there is not. The bits' names in their order: fm_intent_driver_name(1 << i). */
unsigned fm_intent_driver(const char *name);
const char *fm_intent_driver_name(unsigned driver);

/*
 * Which intent is about this container? By its name first, else by a label "key=value". NULL in *ret: none, so nothing is to be done. FAILED_PRECONDITION: two are.
 * labels: NULL-terminated, "key=value".
 */
int fm_intent_find(const struct fm_description *d, const char *container, char *const *labels, const struct fm_intent **ret,
                   struct fm_error *err);

/* One interface of the container. */
struct fm_intent_endpoint {
	const char *mac;              /* "02:77:00:00:01:00" */
	const char *const *addresses; /* without prefix lengths */
	size_t n_addresses;
};

struct fm_intent_move {
	const char *migration; /* its id, which marks what is this migration's only; NULL: there is none yet */
	const char *container;
	const struct fm_intent_endpoint *endpoints;
	size_t n_endpoints;
	const char *source, *destination;
	uint64_t predicted_downtime_ms;
	const uint32_t *taken_links; /* of the topology: this service must not use them (fm_intent_links of others) */
	size_t n_taken_links;
	const json_t *
	        known_ports; /* {"s1": 3}: where switches' flows for the container are known to lead now (the to_port of the last move); NULL or not there: as computed for the source */
};

/*
 * The actions, in the order in which they are to be prepared and opened; undone in the reverse order. Each has "at" (FM_INTENT_AT_MANAGER or a host's name), "driver", and the driver's own members; whoever hands an
 * action to its driver takes "at" out. At most FM_MAX_REDIRECTS, of FM_MAX_REDIRECT_BYTES each. *ret is an empty list where nothing has to be done.
 * FAILED_PRECONDITION: the intent cannot be met by this move. INVALID_ARGUMENT: the arguments.
 */
int fm_intent_compile(const struct fm_description *d, const struct fm_intent *i, const struct fm_intent_move *m, json_t **ret,
                      struct fm_error *err);
/*
 * Can it be met now? For re-checking after measurements have changed: all that stands against it in words, one for each kind of wish. The source may be the destination: the service
 * rests there. *ret: NULL when it can; fm_strv_free.
 */
int fm_intent_check(const struct fm_description *d, const struct fm_intent *i, const struct fm_intent_move *m, char ***ret,
                    struct fm_error *err);
/*
 * The links that its clients' ways to that host use, keeping from `taken`: what others must keep from when one of the two wants a dedicated path. *ret: free(). Nothing when it names no clients or they have
 * no way.
 */
int fm_intent_links(const struct fm_description *d, const struct fm_intent *i, const char *host, const uint32_t *taken, size_t n_taken,
                    uint32_t **ret, size_t *ret_n, struct fm_error *err);

#endif
