/* SPDX-License-Identifier: MIT */
/*
 * redirect-flow.h - what the two drivers that move flows of switches share (openflow: the switches themselves; rest: a controller in front of them): the action, the undo, and what a flow that was
 * found means. Pure functions, private to network/.
 *
 *   {"driver": "openflow", "table": 0, "priority": 500, "cookie": "0x666d000000000007", "match": {"mac": "02:77:00:00:01:00", "vlan": 5},
 *    "switches": [{"name": "s1", "address": "tcp:10.0.0.9:6653", "from_port": 1, "to_port": 2}, …]}
 *   {"driver": "rest", "url": "http://10.0.0.8:8080", "ca": "controller.pem", …, "switches": [{"name": "s1", "dpid": 9, "from_port": 1, "to_port": 2}, …]}
 *
 * match is one of mac, ipv4, ipv6, the destination of packets, and may have a vlan (1…4094) beside it. With mac, everything that is sent to that address is redirected, also ARP and neighbour discovery
 * answers; frames to all (ARP requests, router and neighbour solicitations) go to groups' addresses, and are never redirected: they reach both hosts as they always did. With ipv4 or ipv6 only packets
 * of that protocol are; how ARP and neighbour discovery get there is somebody else's.
 * from_port is the one towards the source, to_port towards the destination. A switch for which they are the same is not asked and not touched. "cookie" begins with FM_FLOW_COOKIE, so that what was
 * made here can be told from what others made.
 *
 * On each switch there is one flow with exactly this match at this priority, or none:
 *   there before: only its actions are replaced, wherever its cookie is still the one that was found; its cookie, counters, time and owner stay. It must be one that outputs to from_port, does
 *                 nothing else and does not expire: what else it might mean is not ours to know.
 *   not there:    it is added, with our cookie, and deleted on the way back, if it has our cookie.
 *
 * undo: {"switches": [{"name": "s1", "was": null}, {"name": "s2", "was": {"cookie": "0x0", "output": [1]}}, …]}, those that change, in the order of the action.
 */
#ifndef FM_NETWORK_REDIRECT_FLOW_H
#define FM_NETWORK_REDIRECT_FLOW_H

#include <jansson.h>

#include "network/openflow-codec.h"

#define FM_FLOW_COOKIE      0x666d000000000000ull /* "fm"; not above 2^63, where some controllers' JSON ends */
#define FM_FLOW_COOKIE_MASK 0xffff000000000000ull

enum fm_flow_kind { FM_FLOW_OPENFLOW, FM_FLOW_REST };

struct fm_flow_switch {
	const char *name, *address; /* of the action; address: OpenFlow's */
	uint64_t dpid;              /* the controller's name for it */
	uint32_t from_port, to_port;
	bool was_there; /* from the undo, or by fm_flow_look */
	uint64_t was_cookie;
};

struct fm_flow_plan {
	enum fm_flow_kind kind;
	uint8_t table;
	uint16_t priority;
	uint64_t cookie;
	struct fm_of_match match;
	char what[96];                 /* "02:77:00:00:01:00 in VLAN 5 (table 0, priority 500)" */
	const char *url, *unix_socket; /* REST's, of the action; unix_socket may be NULL */
	const char *ca;                /* name of a file, or NULL */
	size_t n;                      /* those that change */
	struct fm_flow_switch at[FM_MAX_OF_SWITCHES];
};

/* How the flow is, and how it is to be */
enum fm_flow_state {
	FM_FLOW_AS_IT_WAS,
	FM_FLOW_BOTH,    /* to both ports */
	FM_FLOW_MOVED,   /* to to_port only */
	FM_FLOW_FOREIGN, /* anything else: somebody has changed it */
};

const char *fm_flow_driver(enum fm_flow_kind kind); /* "openflow" */

/* INVALID_ARGUMENT names the member. What *ret points to is the action's. */
int fm_flow_plan_parse(const json_t *action, enum fm_flow_kind kind, struct fm_flow_plan *ret, struct fm_error *err);
/* Completes the plan with what the undo says was there. DATA_LOSS: it is none of this action's. */
int fm_flow_undo_parse(struct fm_flow_plan *p, const json_t *undo, struct fm_error *err);
json_t *fm_flow_undo_make(const struct fm_flow_plan *p);

/* Before anything was changed: notes what is there for switch i among its flows; FAILED_PRECONDITION when that is in the way. */
int fm_flow_look(struct fm_flow_plan *p, size_t i, const struct fm_of_flow *flows, size_t n, struct fm_error *err);
/* And afterwards. What was found in words into found. */
enum fm_flow_state fm_flow_state_of(const struct fm_flow_plan *p, size_t i, const struct fm_of_flow *flows, size_t n, char *found,
                                    size_t cap);
const char *fm_flow_state_to_string(enum fm_flow_state s);
/* The flow with our match, table and priority, or NULL */
const struct fm_of_flow *fm_flow_find(const struct fm_flow_plan *p, const struct fm_of_flow *flows, size_t n);
/* ABORTED, for a FOREIGN one */
int fm_flow_foreign(const struct fm_flow_plan *p, size_t i, const char *found, struct fm_error *err);

/* The change that makes it so, whatever it is now but FOREIGN. It may be repeated. */
void fm_flow_mod_to(const struct fm_flow_plan *p, size_t i, enum fm_flow_state want, struct fm_of_flow_mod *ret);
/* Which flows a question for ours is about */
void fm_flow_filter(const struct fm_flow_plan *p, struct fm_of_flow_filter *ret);

/* Does a flow carry a mark of ours that no action in `known` (an array of actions, of any driver) has? In words then, for leftovers. */
bool fm_flow_is_leftover(const json_t *known, const char *where, const struct fm_of_flow *f, char *words, size_t cap);
/* "output:1,2" or "drop" or "output:1 and more" */
const char *fm_flow_actions_text(const struct fm_of_actions *a, char *buf, size_t cap);

#endif
