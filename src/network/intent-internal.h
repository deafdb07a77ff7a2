/* SPDX-License-Identifier: MIT */
/*
 * intent-internal.h - what the intent's own files share. Private to network/.
 *
 *   intent-read.c   from JSON, checked against the description
 *   intent-way.c    how the address is led: paths, ports of switches, bandwidth, isolation
 *   intent.c        which intent is whose, the other actions, all of it in order
 */
#ifndef FM_NETWORK_INTENT_INTERNAL_H
#define FM_NETWORK_INTENT_INTERNAL_H

#include "network/fields.h"
#include "network/intent.h"

enum fm_way { FM_WAY_NONE, FM_WAY_VXLAN, FM_WAY_SWITCHES, FM_WAY_ROUTERS, FM_WAY_TUNNEL };

/* One compilation. */
struct fm_intent_plan {
	const struct fm_description *d;
	const struct fm_intent *i;
	const struct fm_intent_move *m;
	json_t *actions;
	enum fm_way way;
	const struct fm_net_vxlan *vxlan; /* of that way */
};

/* Entry i of d->intents; fm_fields_each's. */
int fm_intent_read(void *description, size_t i, const json_t *o, const struct fm_place *at, struct fm_error *err);

/* Takes the action. */
int fm_plan_add(struct fm_intent_plan *p, const char *at, const char *driver, json_t *action, struct fm_error *err);
/* FAILED_PRECONDITION. */
#define fm_plan_refuse(err, ...) fm_error_set(err, FM_E_FAILED_PRECONDITION, __VA_ARGS__)
bool fm_plan_may(const struct fm_intent_plan *p, unsigned driver);
bool fm_plan_moves(const struct fm_intent_plan *p);
/* Stable, from the container's name: marks what is its in a place that has no names. */
uint64_t fm_plan_mark(const struct fm_intent_plan *p);

int fm_plan_way(struct fm_intent_plan *p, struct fm_error *err);       /* chooses, and adds its actions */
int fm_plan_bandwidth(struct fm_intent_plan *p, struct fm_error *err); /* is there, from the clients */
int fm_plan_isolation(struct fm_intent_plan *p, struct fm_error *err);
int fm_plan_tunnel(struct fm_intent_plan *p, bool back, struct fm_error *err); /* both ends of one; back: answers go through it, too */
int fm_plan_switches(struct fm_intent_plan *p, struct fm_error *err);          /* flows */

#endif
