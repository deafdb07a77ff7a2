/* SPDX-License-Identifier: MIT */
/*
 * hold.h - what clients send to a container while it is frozen, kept at the source and handed on when it runs at the destination.
 *
 * Without it a request sent into the freeze waits for the client's next TCP retransmission, whose time-out doubles each time: a freeze of 160 ms would be seen as 315 ms, and as 200 ms at least
 * with the usual shortest time-out. With it, it arrives as soon as the container runs. A help only: every failure here leaves the retransmission to do its work, so nothing is reported.
 *
 * Frames are taken by a packet socket on every port of this host (with their offload state, so that they can go on as they came), at most FM_HOLD_MAX_BYTES for an endpoint; the rest is dropped as before. They go
 * on through the bridge, from the bridge's own MAC, so that no switch learns a client at the wrong place. Packets for the container's addresses that this host itself was to forward (it is the container's router, or the
 * endpoint has no bridge) go on where its routes lead by then: the tunnel to the new host, or the container's own port after a rollback; but not back where they came from: who sent them does not know the way yet.
 * One thread at a time.
 */
#ifndef FM_NETWORK_HOLD_H
#define FM_NETWORK_HOLD_H

#include <stddef.h>

#include "network/endpoint.h"

#define FM_HOLD_MAX_BYTES (4u << 20)

struct fm_hold;
/* From now on keep IPv4 and IPv6 frames that come into this host for the MACs and addresses of these endpoints, of which each has sockets of its own. What cannot be kept is not; NULL when none can. */
struct fm_hold *fm_hold_start(const struct fm_endpoint_config *v, size_t n);
/* Send them on, oldest first; returns how many. Whatever comes later is not kept any more. The sockets stay until fm_hold_free: closing each waits for the kernel. */
size_t fm_hold_release(struct fm_hold *h);
/* Forgets what was not released. NULL-safe. Takes milliseconds: not while somebody waits. */
void fm_hold_free(struct fm_hold *h);

#endif
