/* SPDX-License-Identifier: MIT */
/*
 * description.h - the network around the hosts as its operator describes it, in one JSON file (`fleximigrate manager --network FILE`): what there is that a redirection (redirect.h) can change, and what
 * services want of it (intent.h).
 *
 *   {"version": 1,
 *    "topology": {"version": 1, "hosts": […], "switches": […], "links": […]},                            topology.h; hosts have their agents' names
 *    "openflow": {"table": 0, "priority": 40000, "switches": [{"switch": "s1", "address": "tcp:192.0.2.1:6653"}]},
 *    "controllers": [{"name": "c1", "url": "https://192.0.2.2:8080", "ca": "c1.pem", "switches": [{"switch": "s2", "dpid": 2}]}],
 *    "vxlan": [{"device": "vx0", "hosts": {"h1": "192.0.2.11", "h2": "192.0.2.12"}}],                   addresses of the tunnel ends (VTEPs)
 *    "routers": [{"host": "r1", "table": 254, "via": {"h1": "192.0.2.11", "h2": "192.0.2.12"}}],        next hops from the router r1 (an agent) towards each host, of one family; "host_routes": false where a container's subnet is what is routed until it moves
 *    "tunnels": {"port": 4797, "hosts": {"h1": "192.0.2.11", "h2": "192.0.2.12"}},                      addresses that hosts reach each other with; port (UDP): FM_TUNNEL_PORT
 *    "dns": [{"name": "lab", "server": "192.0.2.53", "zone": "example.org", "reverse_zone": "2.0.192.in-addr.arpa",
 *             "key": "mover", "algorithm": "hmac-sha256", "key_file": "mover.key", "ttl_s": 5}],
 *    "load_balancers": [{"name": "lb1", "driver": "haproxy", "socket": "/run/haproxy/admin.sock", "max_drain_ms": 30000}],                                              or "tcp:192.0.2.5:9999"
 *    "webhooks": [{"name": "chat", "url": "https://192.0.2.4/hook", "events": ["flip", "revert"], "headers": {"X-Team": "net"}, "secret_file": "hook.key", "required": false}],
 *    "intents": […]}
 *
 * Everything but the version may be missing. Secrets are not in the file: key_file, secret_file, ca and ca_file are names of files in the manager's folder of secrets. A member that is not known, a name that is there twice, a
 * switch that is not in the topology, an intent that names what is not described: an error with its place, "network: dns[0].server …".
 *
 * What is read stays as it is, but for the links' measurements: whoever changes these (fm_topology_measure on `topology`) must be alone with it; questions may be asked by any number of threads.
 * Nothing is read from the disk here, sent or logged.
 */
#ifndef FM_NETWORK_DESCRIPTION_H
#define FM_NETWORK_DESCRIPTION_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "network/topology.h"

struct fm_intent;

/* Texts are borrowed from the description's JSON; "" or NULL when they were not given. */
struct fm_net_switch {
	const char *name;
	uint32_t node;       /* in the topology */
	const char *address; /* of a switch that is spoken to itself */
	uint64_t dpid;       /* of one behind a controller */
};

struct fm_net_openflow {
	uint32_t table, priority;
	struct fm_net_switch *switches;
	size_t n;
};

struct fm_net_controller {
	const char *name, *url, *ca,
	        *unix_socket; /* of the authority's certificate in the folder of secrets; a socket instead of the URL's host */
	uint32_t table, priority;
	struct fm_net_switch *switches;
	size_t n;
};

struct fm_net_vxlan {
	const char *device;
	const json_t *hosts; /* {"h1": "address"} */
};

struct fm_net_router {
	const char *host;
	uint32_t table;
	const json_t *via; /* {"h1": "next hop"} */
	int family;        /* of all of them */
	bool host_routes;  /* each container has a route of its own before it moves, too; else only from its first move on */
};

struct fm_net_tunnels {
	uint32_t port;
	const json_t *hosts; /* NULL: none */
};

struct fm_net_dns {
	const char *name, *server, *zone, *reverse_zone, *key, *algorithm, *key_file;
	uint32_t ttl_s; /* while the service moves */
};

struct fm_net_balancer {
	const char *name, *driver, *socket;
	uint64_t max_drain_ms;
};

struct fm_net_webhook {
	const char *name, *url, *secret_file, *ca_file;
	const json_t *events, *headers; /* NULL: all, none */
	bool required;
};

struct fm_description {
	json_t *json;
	struct fm_topology *topology; /* never NULL; empty when none is described */
	struct fm_net_openflow openflow;
	struct fm_net_controller *controllers;
	struct fm_net_vxlan *vxlans;
	struct fm_net_router *routers;
	struct fm_net_tunnels tunnels;
	struct fm_net_dns *dns;
	struct fm_net_balancer *balancers;
	struct fm_net_webhook *webhooks;
	struct fm_intent *intents;
	size_t n_controllers, n_vxlans, n_routers, n_dns, n_balancers, n_webhooks, n_intents;
};

/*
 * At most FM_MAX_DESCRIPTION_BYTES; need not end with a NUL. INVALID_ARGUMENT (ALREADY_EXISTS from the topology) with the place, or line and column where it is no JSON;
 * RESOURCE_EXHAUSTED: more than there may be.
 */
int fm_description_parse(const char *text, size_t n, struct fm_description **ret, struct fm_error *err);
void fm_description_free(struct fm_description *d);
FM_DEFINE_CLEANUP(struct fm_description *, fm_description_free);

/* NULL: there is none of that name. */
const struct fm_net_dns *fm_description_dns(const struct fm_description *d, const char *name);
const struct fm_net_balancer *fm_description_balancer(const struct fm_description *d, const char *name);
const struct fm_net_webhook *fm_description_webhook(const struct fm_description *d, const char *name);

#endif
