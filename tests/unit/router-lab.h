/* SPDX-License-Identifier: MIT */
/*
 * router-lab.h - the routed laboratory of the redirections' tests: a router "rt" between the client "cli" (10.9.0.0/24) and the two hosts "src" (10.0.1.0/24) and "dst" (10.0.2.0/24), each in a subnet of
 * its own. The container 10.78.0.100 (fd78::100) is no host's neighbour: it is reached by a host route. See move-lab.h.
 */
#ifndef FM_TESTS_ROUTER_LAB_H
#define FM_TESTS_ROUTER_LAB_H

#include "move-lab.h"

#define CT4    "10.78.0.100"
#define CT6    "fd78::100"
#define CT_GW  "169.254.1.1"
#define GW_MAC "fe:00:00:00:00:01"

static inline void router_host(const struct move_lab *lab, const char *h, int i)
{
	cable(lab, h, "eth0", "rt", h);
	at(lab, "rt", "ip addr add 10.0.%d.254/24 dev %s; ip addr add fd00:%d::254/64 dev %s", i, h, i, h);
	at(lab, h,
	   "ip addr add 10.0.%d.1/24 dev eth0; ip addr add fd00:%d::1/64 dev eth0; ip route add default via 10.0.%d.254; "
	   "ip -6 route add default via fd00:%d::254",
	   i, i, i, i);
}

/* Router, hosts and client. */
static inline void router_hosts(struct move_lab *lab)
{
	static const char *const names[] = { "rt", "src", "dst", "cli" };

	lab_begin(lab);
	for (size_t i = 0; i < FM_ARRAY_SIZE(names); i++)
		add_ns(lab, names[i]);
	for (size_t i = 0; i < 3; i++)
		at(lab, names[i],
		   "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding; "
		   "for d in all default; do echo 0 >/proc/sys/net/ipv4/conf/$d/send_redirects; done; echo 0 "
		   ">/proc/sys/net/ipv4/conf/all/rp_filter");
	router_host(lab, "src", 1);
	router_host(lab, "dst", 2);
	cable(lab, "cli", "eth0", "rt", "cli");
	at(lab, "rt", "ip addr add 10.9.0.254/24 dev cli; ip addr add fd09::254/64 dev cli");
	at(lab, "cli",
	   "ip addr add 10.9.0.1/24 dev eth0; ip addr add fd09::1/64 dev eth0; ip route add default via 10.9.0.254; ip -6 route add "
	   "default via fd09::254");
	at(lab, "rt", "ip route add " CT4 " via 10.0.1.1; ip -6 route add " CT6 " via fd00:1::1");
	settle(lab);
}

/* And a container that can be plugged into either host. */
static inline void router_build(struct move_lab *lab)
{
	router_hosts(lab);
	add_ns(lab, "mux");
	add_ns(lab, "ct");
	at(lab, "mux", "ip link add brm type bridge mcast_snooping 0 && ip link set brm up");
	cable(lab, "ct", "eth0", "mux", "ct");
	cable(lab, "mux", "m-src", "src", "ct0");
	cable(lab, "mux", "m-dst", "dst", "ct0");
	at(lab, "mux", "ip link set ct master brm; ip link set m-src master brm");
	at(lab, "src",
	   "ip link set ct0 address " GW_MAC "; ip addr add fe80::1/64 dev ct0; ip route add " CT4 " dev ct0; ip -6 route add " CT6
	   " dev ct0");
	at(lab, "dst", "ip link set ct0 address " GW_MAC "; ip addr add fe80::1/64 dev ct0");
	at(lab, "ct",
	   "ip addr add " CT4 "/32 dev eth0; ip addr add " CT6 "/128 dev eth0; ip neigh add " CT_GW " lladdr " GW_MAC
	   " dev eth0 nud permanent; ip route add default via " CT_GW " dev eth0 onlink; ip -6 neigh add fe80::1 lladdr " GW_MAC
	   " dev eth0 nud permanent; ip -6 route add default via fe80::1 dev eth0");
	settle(lab);
}

static inline void router_close_source(const struct move_lab *lab)
{
	at(lab, "src", "ip route del " CT4 "; ip -6 route del " CT6);
	at(lab, "mux", "ip link set m-src nomaster; ip link set m-dst master brm");
}

static inline void router_open_destination(const struct move_lab *lab)
{
	at(lab, "dst", "ip route add " CT4 " dev ct0; ip -6 route add " CT6 " dev ct0");
}

#endif
