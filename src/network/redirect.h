/* SPDX-License-Identifier: MIT */
/*
 * redirect.h - how clients' packets find a container after its move: one change of the network around the two hosts, behind one vtable.
 *
 * The endpoint (endpoint.h) is the container's own port on a host. A redirection is everything else that has to point to the new host: flows of switches, forwarding entries of other
 * VXLAN hosts, routes of routers, a tunnel between the two hosts, records of a name service, a load balancer's servers. A migration has a list of them; each is described by one JSON object, the
 * *action*, made in PLANNING from the network's description and the service's intent (intent.h), shown by --dry-run, and carried out by the manager or by one host's agent.
 *
 * Widened before, narrowed after: nothing but the two hosts acts in the freeze. `open` comes before the freeze and, where the medium can do that, lets packets reach both hosts; the closed endpoint at the
 * destination, and later the closed one at the source, drop what is not theirs, so nothing arrives twice. `flip` comes when the container runs at the destination and leaves the new way only. A medium that
 * cannot widen (a route has one next hop) does nothing in open, and has a tunnel beside it until it is flipped. So no switch, router, controller or name server can lengthen a freeze, and one that hangs or dies
 * after the commit leaves a network that works.
 *
 *   prepare -> [undo durably on record] -> open -> [freeze, commit] -> flip -> verify -> [forgotten]          moved
 *   prepare -> [undo durably on record] -> open? -> [flip?] -> revert -> [forgotten]                          rolled back, at any point
 *
 * Stateless: a call has all it needs in its arguments, so any of them can be repeated by another process after a crash. All but prepare are idempotent: opening the opened, flipping the flipped and reverting what never
 * happened succeed. Nobody else's change is overwritten: what is neither as `undo` says it was, nor as this action would have left it, is ABORTED, with what was found.
 *
 * prepare changes nothing outside. It looks whether the action can be done at all (FAILED_PRECONDITION, UNAVAILABLE, PERMISSION_DENIED, … with what is in the way and a hint what to do), and
 * returns what revert will need: `undo`, a JSON object of at most FM_MAX_REDIRECT_UNDO_BYTES, without secrets. It reads the state as it is now, so it must not be repeated once open may have begun.
 * verify asks the medium whether only the new way is there; FAILED_PRECONDITION with what it says instead.
 * revert restores what undo says, and nothing more; it must work when the container's hosts are gone.
 * leftovers names (in words for an operator, through cb) what this driver finds of its own that belongs to no action in `known`: doctor shows them. May be NULL where a driver leaves no mark of its own.
 * clean takes away what leftovers names in exactly these words, if it still does; nothing is success. NULL where the driver cannot.
 *
 * Each call ends at deadline_ms with DEADLINE_EXCEEDED, or when cancel_fd is readable with CANCELLED; a peer that hangs is no reason to exceed it. INVALID_ARGUMENT names the member of the action
 * that is wrong: "dnat: to_port …". Unknown members are an error. Called in the network namespace of the host (agent) or the manager. Any thread; no state is shared between calls.
 */
#ifndef FM_NETWORK_REDIRECT_H
#define FM_NETWORK_REDIRECT_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/error.h"

#define FM_MAX_REDIRECTS           64         /* of one migration */
#define FM_MAX_REDIRECT_BYTES      (16 << 10) /* of one action as text: all of a migration fit into its record */
#define FM_MAX_REDIRECT_UNDO_BYTES (32 << 10)

struct fm_redirect_call {
	uint64_t deadline_ms;    /* of fm_now_ms() */
	int cancel_fd;           /* -1: none */
	const char *secrets_dir; /* where actions' key files are looked for: names in actions have no '/'; NULL: none can be used */
};

struct fm_redirect_ops {
	const char *name;  /* the action's "driver" */
	const char *title; /* for people, "flows of OpenFlow switches" */
	int (*prepare)(const struct fm_redirect_call *c, const json_t *action, json_t **ret_undo, struct fm_error *err);
	int (*open)(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err);
	int (*flip)(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err);
	int (*verify)(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err);
	int (*revert)(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err);
	int (*leftovers)(const struct fm_redirect_call *c, const json_t *known, void (*cb)(const char *what, void *userdata),
	                 void *userdata, struct fm_error *err);
	int (*clean)(const struct fm_redirect_call *c, const json_t *known, const char *what, struct fm_error *err);
};

/* redirect-<driver>.c */
extern const struct fm_redirect_ops fm_redirect_dnat;
extern const struct fm_redirect_ops fm_redirect_dns;
extern const struct fm_redirect_ops fm_redirect_haproxy;
extern const struct fm_redirect_ops fm_redirect_openflow;
extern const struct fm_redirect_ops fm_redirect_rest;
extern const struct fm_redirect_ops fm_redirect_route;
extern const struct fm_redirect_ops fm_redirect_tunnel;
extern const struct fm_redirect_ops fm_redirect_vxlan;
extern const struct fm_redirect_ops fm_redirect_webhook;

/* NULL when there is no such driver. */
const struct fm_redirect_ops *fm_redirect_driver(const char *name);
/* Of the action's "driver"; INVALID_ARGUMENT when it is missing or unknown. */
int fm_redirect_driver_of(const json_t *action, const struct fm_redirect_ops **ret, struct fm_error *err);

#endif
