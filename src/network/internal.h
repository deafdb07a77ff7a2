/* SPDX-License-Identifier: MIT */
/*
 * internal.h - what the endpoint's own files share: the object, and the steps that each file contributes. Private to network/.
 *
 *   config.c      words -> struct fm_endpoint_config, names, MAC text
 *   endpoint.c    the public object: order of the steps, undoing, idempotence
 *   veth.c        the pair: creation, the container's end, the sealed host end
 *   bridge.c      attachment to a bridge: port and forwarding entry
 *   announce.c    gratuitous ARP, duplicate address check
 *   neighbours.c  the neighbour table out and in
 */
#ifndef FM_NETWORK_INTERNAL_H
#define FM_NETWORK_INTERNAL_H

#include "network/endpoint.h"
#include "network/netlink.h"

struct fm_endpoint {
	struct fm_endpoint_config cfg;
	const struct fm_attach_ops *attach;
	int netns_fd;
	struct fm_nl *host;         /* session in the host's namespace; NULL until prepare, attach or the first call that needs it */
	struct fm_nl *inside;       /* session in the container's namespace */
	int arp_fd;                 /* AF_PACKET socket bound to the container's end, -1 until needed */
	int inside_index;           /* ifindex of the container's end */
	struct fm_arp_watch *watch; /* who else has the address is being asked, else NULL */
	bool made;                  /* the pair is prepare's: it goes when the address turns out to be taken */
};

bool fm_endpoint_ifname_is_ours(const char *host_ifname);
int fm_endpoint_config_check(const struct fm_endpoint_config *cfg, struct fm_error *err);

/* The sessions: open them if they are not yet. The inside part also finds the container's end and opens the ARP socket. */
int fm_endpoint_need_host(struct fm_endpoint *e, struct fm_error *err);
int fm_endpoint_need_inside(struct fm_endpoint *e, struct fm_error *err);

/* veth.c. `bridge` is the bridge's link as it is now. */
int fm_veth_create(struct fm_endpoint *e, const struct fm_link *bridge, struct fm_error *err);
/* Is an existing host end one of a pair whose other end is this endpoint's? */
bool fm_veth_is_pair(struct fm_endpoint *e, const struct fm_link *host_end);
int fm_veth_configure_inside(struct fm_endpoint *e, struct fm_error *err);
int fm_veth_seal_host_end(struct fm_endpoint *e, struct fm_error *err);

/* announce.c. Both sockets are non-blocking. */
int fm_arp_open(int ifindex, int *ret_fd, struct fm_error *err);
int fm_arp_announce(int fd, int ifindex, const uint8_t mac[6], struct in_addr address, struct fm_error *err);
/* Does somebody but `own` answer for the address behind `device`, a link of the calling thread's namespace? A thread asks, for 200 ms; the end waits for it, frees, and is
 * ALREADY_EXISTS when somebody did. */
struct fm_arp_watch;
int fm_arp_watch_begin(const struct fm_link *device, struct in_addr address, const uint8_t own[6], struct fm_arp_watch **ret,
                       struct fm_error *err);
int fm_arp_watch_end(struct fm_arp_watch *w, struct fm_error *err);

#endif
