/* SPDX-License-Identifier: MIT */
/*
 * internal.h - what the endpoint's own files share: the object, and the steps that each file contributes. Private to network/.
 *
 *   config.c      words -> struct fm_endpoint_config, names, MAC text
 *   endpoint.c    the public object: order of the steps, undoing, idempotence
 *   veth.c        the pair: creation, the container's end, the sealed host end
 *   bridge.c      attachment to a bridge: port and forwarding entry
 *   routed.c      attachment without one: host routes
 *   frames.c      ARP and neighbour discovery as bytes (frames.h)
 *   announce.c    where the container is now
 *   duplicate.c   duplicate address check
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
	struct fm_nl *host;             /* session in the host's namespace; NULL until prepare, attach or the first call that needs it */
	struct fm_nl *inside;           /* session in the container's namespace */
	int raw_fd;                     /* AF_PACKET socket bound to the container's end, -1 until needed */
	int inside_index;               /* ifindex of the container's end */
	struct fm_address_watch *watch; /* who else has the addresses is being asked, else NULL */
	int ipv6_fd;                    /* routed: the switch of the host end's IPv6, -1 until needed */
	bool made;                      /* the pair is prepare's: it goes when an address turns out to be taken */
};

bool fm_endpoint_ifname_is_ours(const char *host_ifname);
int fm_endpoint_config_check(const struct fm_endpoint_config *cfg, struct fm_error *err);

/* Takes back what prepare made, if it did. */
void fm_endpoint_unprepare(struct fm_endpoint *e);
/* Unprepared, and from now on one of another namespace. */
int fm_endpoint_rehome(struct fm_endpoint *e, const char *netns_path, struct fm_error *err);

/* The sessions: open them if they are not yet. The inside part also finds the container's end and opens the raw socket. */
int fm_endpoint_need_host(struct fm_endpoint *e, struct fm_error *err);
int fm_endpoint_need_inside(struct fm_endpoint *e, struct fm_error *err);

/* veth.c. `bridge` is the bridge's link as it is now. */
int fm_veth_create(struct fm_endpoint *e, const struct fm_link *bridge, struct fm_error *err);
/* Is an existing host end one of a pair whose other end is this endpoint's? */
bool fm_veth_is_pair(struct fm_endpoint *e, const struct fm_link *host_end);
int fm_veth_configure_inside(struct fm_endpoint *e, struct fm_error *err);
/* The part of it that needs the carrier: the IPv6 address, usable when it returns. Nothing where there is none. */
int fm_veth_finish_inside(struct fm_endpoint *e, struct fm_error *err);
int fm_veth_seal_host_end(struct fm_endpoint *e, struct fm_error *err);

/* routed.c. May this host have the endpoint at all, and what its pair shall be like (MTU). */
int fm_routed_check(struct fm_endpoint *e, struct fm_link *ret_like, struct fm_error *err);
/* After veth.c is through; nothing for an endpoint on a bridge. */
int fm_routed_finish(struct fm_endpoint *e, struct fm_error *err);
/* Opens, anew, what open and close need, in the host's namespace; nothing for an endpoint on a bridge. */
int fm_routed_keep(struct fm_endpoint *e, struct fm_error *err);

/* announce.c. A socket that sends, non-blocking; a frame as it is; all announcements of an endpoint. */
int fm_raw_open(int ifindex, int *ret_fd, struct fm_error *err);
int fm_raw_send(int fd, int ifindex, const uint8_t *frame, size_t n, struct fm_error *err);
int fm_announce(int fd, int ifindex, const struct fm_endpoint_config *cfg, struct fm_error *err);

/* duplicate.c. Does somebody but cfg->mac answer for one of the addresses behind `device`, a link of the calling thread's namespace? A thread asks, for 200 ms; the end waits for it, frees, and is
 * ALREADY_EXISTS when somebody did. */
struct fm_address_watch;
int fm_address_watch_begin(const struct fm_link *device, const struct fm_endpoint_config *cfg, struct fm_address_watch **ret,
                           struct fm_error *err);
int fm_address_watch_end(struct fm_address_watch *w, struct fm_error *err);

#endif
