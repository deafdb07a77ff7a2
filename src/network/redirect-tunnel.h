/* SPDX-License-Identifier: MIT */
/*
 * redirect-tunnel.h - what besides the driver's calls (redirect.h) is asked of a tunnel between the two hosts of a move: its id, and whether anything still passes.
 *
 * The actions, one at each host:
 *
 *   {"driver":"tunnel", "side":"source" or "destination", "id":"3f9a61c2", "local":"10.0.1.1", "remote":"10.0.2.1", "addresses":["10.78.0.100","fd78::100"], "reply":"direct" or "back" (optional, direct),
 *    "port":4797 (optional), "mtu":1450 (optional)}
 *
 * local and remote are the hosts' own addresses, seen from the side of the action; id and port are the same on both. addresses are the container's, as they are at the destination.
 */
#ifndef FM_NETWORK_REDIRECT_TUNNEL_H
#define FM_NETWORK_REDIRECT_TUNNEL_H

#include <jansson.h>
#include <stdint.h>

#include "basic/error.h"

#define FM_TUNNEL_ID_LEN 8
#define FM_TUNNEL_PORT   4797 /* UDP, unless an action says another; not VXLAN's own: a host may have VXLANs of somebody else */

/* The id of a migration's tunnel, eight hex digits. */
void fm_tunnel_id(const char *migration, char ret[FM_TUNNEL_ID_LEN + 1]);

struct fm_tunnel_traffic {
	uint64_t packets, bytes; /* both directions, since the tunnel was made */
};
/* NOT_FOUND when there is no such tunnel on this host. */
int fm_tunnel_traffic(const json_t *action, struct fm_tunnel_traffic *ret, struct fm_error *err);

/* What was seen last; begin with zeros, one for each tunnel. */
struct fm_tunnel_idle {
	uint64_t packets, since_ms;
};
/* For how long nothing has passed, as far as the calls with this state have seen: 0 the first time, and whenever something passed since the last call. A stub retires (revert) when this is longer
 * than the longest silence of a live flow, two hours with the usual keep-alive; a connection tracking table knows better where there is one. */
int fm_tunnel_idle_ms(const json_t *action, struct fm_tunnel_idle *state, uint64_t *ret_ms, struct fm_error *err);

#endif
