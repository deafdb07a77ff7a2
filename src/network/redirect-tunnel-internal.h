/* SPDX-License-Identifier: MIT */
/* redirect-tunnel-internal.h - what redirect-tunnel.c and redirect-tunnel-left.c share: the marks by which a tunnel's device and rules are known as ours. Private to the two. */
#ifndef FM_NETWORK_REDIRECT_TUNNEL_INTERNAL_H
#define FM_NETWORK_REDIRECT_TUNNEL_INTERNAL_H

#include <stdlib.h>

#include "network/redirect.h"
#include "network/redirect-tunnel.h"

#define FM_TUNNEL_PREFIX     "fmt" /* of the device's name, before the id */
#define FM_TUNNEL_PROTOCOL   70    /* of our rules and routes: 'F' */
#define FM_TUNNEL_PRIORITY   100   /* of our rules, and the two after it */
#define FM_TUNNEL_TABLE_BASE 0x66000000u

/* Of an id: VXLAN's number of 24 bits, never 0. */
static inline uint32_t fm_tunnel_vni(const char *id)
{
	uint32_t vni = (uint32_t)strtoul(id, NULL, 16) & 0xffffff;

	return vni ? vni : 1;
}

/* The driver's leftovers and clean, see redirect.h. Known is a tunnel of which an action has the id; nothing else of the action need be there. */
int fm_tunnel_leftovers(const struct fm_redirect_call *c, const json_t *known, void (*cb)(const char *what, void *userdata), void *userdata,
                        struct fm_error *err);
int fm_tunnel_clean(const struct fm_redirect_call *c, const json_t *known, const char *what, struct fm_error *err);

#endif
