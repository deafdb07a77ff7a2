/* SPDX-License-Identifier: MIT */
/*
 * endpoint.h - a container's network endpoint: its veth pair, its addresses, the port it is plugged into, and how clients are led to it. A container with several: endpoints.h.
 *
 * Vocabulary: the endpoint is *closed* while the host end of its veth has no master: it exists, has its MAC and addresses (CRIU binds sockets
 * to them), and no packet passes. It is *open* when the host end is a bridge port. Fencing the source is closing its endpoint.
 * Without a bridge (routed.c) it is open while the host has routes to its addresses by the host end, and closed otherwise.
 * Never toggles a link's up/down on the way: link-watch may take a second to notice (see docs/NETWORK.md).
 *
 * Calling sequence (destination): new -> prepare -> [restore] -> set_neighbours -> open -> announce; (source): new -> attach -> close_inbound
 * -> [freeze] -> close -> neighbours. Rolling back: source open -> announce; destination: remove. Everything works on the network namespace of the calling thread
 * as "the host"; a handle keeps the host of its first prepare, attach or other call.
 *
 * Nothing is spawned; rtnetlink through libmnl. In the freeze only open/close/announce/set_neighbours run, on sockets opened by prepare or
 * attach. A handle that has seen neither opens them with the first call that needs them (so a fence works in recovery, by name alone).
 * A handle belongs to one thread at a time. All functions are idempotent: closing the closed, removing the missing succeed.
 */
#ifndef FM_NETWORK_ENDPOINT_H
#define FM_NETWORK_ENDPOINT_H

#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "basic/error.h"
#include "basic/limits.h"

#define FM_ENDPOINT_ADDRESSES_LEN 80

struct fm_endpoint_config {
	char bridge[IFNAMSIZ];      /* must exist; "" = routed: no bridge, the host has routes to the addresses, /32 and /128 */
	char ifname[IFNAMSIZ];      /* inside the container, "eth0" */
	char host_ifname[IFNAMSIZ]; /* host end, "fm" + 8 hex digits, see fm_endpoint_host_ifname */
	uint8_t mac[6];
	/* At least one family: a prefix length of 0 says that there is none of it. */
	uint8_t prefix_len;
	uint8_t prefix6_len;
	struct in_addr address;
	struct in_addr gateway; /* 0 = none */
	struct in6_addr address6;
	struct in6_addr gateway6; /* :: = none; link-local or in the subnet */
	uint32_t mtu;             /* 0 = the bridge's; IPv6 needs 1280 */
};

/* The user's words; all but bridge may be NULL or "", but for one address. */
struct fm_endpoint_words {
	const char *bridge;
	const char *ifname;            /* none: eth0, of the second endpoint eth1, … */
	const char *mac;               /* none: a locally administered one is derived from the container's name and the endpoint's number */
	const char *address, *gateway; /* "10.77.0.100/24", "10.77.0.1" */
	const char *address6, *gateway6; /* "fd77::100/64", "fd77::1" or "fe80::1" */
};
/* A routed endpoint's gateways are 169.254.1.1 and fe80::1 on every host; they need not be said. */
/* INVALID_ARGUMENT names the wrong part. index: 0 for a container's first endpoint, below FM_MAX_ENDPOINTS. host_ifname is derived from name
 * and index too; a caller with a better instance id overwrites it (fm_endpoint_host_ifname). */
int fm_endpoint_config_parse(const struct fm_endpoint_words *w, const char *name, unsigned index, struct fm_endpoint_config *ret,
                             struct fm_error *err);
/* Interface name for an endpoint of an instance on a host; stable, unique per (instance, index). */
void fm_endpoint_host_ifname(const char *instance, unsigned index, char ret[IFNAMSIZ]);
void fm_mac_format(const uint8_t mac[6], char ret[18]);
/* "10.77.0.100/24 and fd77::100/64" */
void fm_endpoint_addresses_format(const struct fm_endpoint_config *c, char ret[FM_ENDPOINT_ADDRESSES_LEN]);

struct fm_neighbour {
	uint8_t endpoint; /* which of the container's; only endpoints.h looks at it */
	uint8_t mac[6];
	int family; /* AF_INET or AF_INET6 */
	union {
		struct in_addr address;
		struct in6_addr address6;
	};
};

struct fm_endpoint;

/* How a host end is attached to the host's network. What else has to be led to the new host is not the endpoint's: redirect.h. */
struct fm_attach_ops {
	const char *name;
	int (*open)(struct fm_endpoint *e, struct fm_error *err); /* make the port forward; 1 ms budget */
	int (*close_inbound)(struct fm_endpoint *e,
	                     struct fm_error *err);                /* nothing reaches the container any more; what it sends still leaves */
	int (*close)(struct fm_endpoint *e, struct fm_error *err); /* no packet passes any more when it returns */
	int (*announce)(struct fm_endpoint *e, struct fm_error *err); /* tell switches and neighbours where the MAC is now */
	bool (*is_open)(struct fm_endpoint *e);
};
extern const struct fm_attach_ops fm_attach_bridge;
extern const struct fm_attach_ops fm_attach_routed;

/* netns_path: "/run/…/netns/X" or "/proc/PID/ns/net". Opens it (must exist); creates nothing. */
int fm_endpoint_new(const struct fm_endpoint_config *cfg, const char *netns_path, struct fm_endpoint **ret, struct fm_error *err);
void fm_endpoint_free(struct fm_endpoint *e); /* closes descriptors only; may wait for a duplicate check under way */

/* Create the veth pair with the container end (MAC, addresses, gateway routes, up, lo up, neighbour retrans time 20 ms; with IPv6 no
 * router advertisements and no duplicate detection of the kernel's) inside the namespace,
 * host end up, sealed, without master; returns when both ends have carrier and sockets can be bound, so that open is immediate.
 * FAILED_PRECONDITION when the bridge is missing, down or delays new ports (spanning tree), when the namespace is the host's own, or when
 * there is an IPv6 address and the kernel has no IPv6.
 * check_duplicate: ALREADY_EXISTS when an address is the host's own; whether somebody else has one is being asked when it returns: call
 * fm_endpoint_await_free before the container runs.
 * ALREADY_EXISTS also when the host end's name is taken by another pair; the same pair is completed, FAILED_PRECONDITION when it is open.
 * Leaves nothing behind on failure. */
int fm_endpoint_prepare(struct fm_endpoint *e, bool check_duplicate, struct fm_error *err);
/* After prepare with check_duplicate: waits (200 ms from there at most). ALREADY_EXISTS when an address answers ARP or a neighbour
 * solicitation from another MAC than the endpoint's on the bridge (the container itself may still serve elsewhere); what prepare made is gone then. */
int fm_endpoint_await_free(struct fm_endpoint *e, struct fm_error *err);
/* Take over an endpoint that exists already (source side, recovery): opens the sockets that open/close/announce need. NOT_FOUND when it
 * does not exist, FAILED_PRECONDITION when the host end leads elsewhere. */
int fm_endpoint_attach(struct fm_endpoint *e, struct fm_error *err);
int fm_endpoint_open(struct fm_endpoint *e, struct fm_error *err);
/* The first half of fencing, before the freeze: an answer to what has been received already still gets out, so it is not in a restored
 * send queue that has to wait a second for its retransmission (docs/NETWORK.md, Stalls). Open and close both end it. */
int fm_endpoint_close_inbound(struct fm_endpoint *e, struct fm_error *err);
int fm_endpoint_close(struct fm_endpoint *e, struct fm_error *err);
/* IPv4: gratuitous ARP, a request and a reply; IPv6: an unsolicited neighbour advertisement that overrides, and a report of the
 * solicited-node group for switches that filter by it. Without waiting. Repeat it now and then during the first second where frames can be lost. */
int fm_endpoint_announce(struct fm_endpoint *e, struct fm_error *err);
/* What cannot be shown to be closed counts as open. */
bool fm_endpoint_is_open(struct fm_endpoint *e);
/* The neighbour table of the container's interface (the families that it has an address of, states with a known MAC), at most *n in; count
 * out. */
int fm_endpoint_neighbours(struct fm_endpoint *e, struct fm_neighbour *ret, size_t *n, struct fm_error *err);
/* Install them as REACHABLE (not permanent: normal ageing goes on). At most FM_MAX_NEIGHBOURS; group MACs and addresses, and a family that
 * the endpoint has no address of, are INVALID_ARGUMENT. A failure costs an ARP round trip, not correctness: the caller may go on. */
int fm_endpoint_set_neighbours(struct fm_endpoint *e, const struct fm_neighbour *v, size_t n, struct fm_error *err);
/* Delete the veth pair by host end name and its FDB entry. Missing is success. Waits until the name is free (deadline 2 s). Other names
 * than fm_endpoint_host_ifname gives are INVALID_ARGUMENT. */
int fm_endpoint_remove(const char *host_ifname, struct fm_error *err);

/* A network namespace that a path keeps alive (empty file + bind mount of a fresh namespace), as `ip netns` does, lo up, IPv6 as the
 * kernel's default. Creates missing folders. ALREADY_EXISTS when the path is taken, but an empty file without a mount is used. */
int fm_netns_create(const char *path, struct fm_error *err);
/* That path keeps the network namespace of a process alive, instead of the one it has kept. */
int fm_netns_pin(const char *path, pid_t pid, struct fm_error *err);
int fm_netns_remove(const char *path, struct fm_error *err); /* lazy unmount + unlink; missing is success */
/* fn(userdata) with the calling thread inside the namespace; back again before it returns (aborts the process if the way back fails). */
int fm_netns_call(int netns_fd, int (*fn)(void *userdata, struct fm_error *err), void *userdata, struct fm_error *err);

/* Host ends ("fm????????") in this namespace that exist now: for doctor and tests. *ret malloc'ed, NULL when there is none. */
int fm_endpoint_list(char (**ret)[IFNAMSIZ], size_t *ret_n, struct fm_error *err);

#endif
