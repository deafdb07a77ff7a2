/* SPDX-License-Identifier: MIT */
/* next-hop.h - where this host sends packets for an address now: the interface, and the Ethernet addresses of a frame there. Private to network/. */
#ifndef FM_NETWORK_NEXT_HOP_H
#define FM_NETWORK_NEXT_HOP_H

#include "network/netlink.h"

struct fm_next_hop {
	int index;
	uint8_t from[6], to[6];
};

/* As the kernel's own lookup says, rules included. -ENETUNREACH, -EHOSTUNREACH and the like: nowhere; -ENOENT: the next one's MAC is not known. Nobody is asked for it: for use in a freeze. */
int fm_next_hop(struct fm_nl *nl, int family, const void *address, struct fm_next_hop *ret);

#endif
