/* SPDX-License-Identifier: MIT */
/*
 * veth.c - the pair of an endpoint.
 *
 * Invariants of the host end, each of them learned from an accident:
 *  - Its MAC starts with fe:ff: a bridge without a configured MAC takes the lowest of its ports', and must not change its own because a
 *    container came.
 *  - Its MTU is the bridge's, whatever the container's end has: a bridge lowers its MTU to its smallest port's.
 *  - It is *sealed*: without a master it is an ordinary interface of the host, and the host would answer ARP on it and take in or forward
 *    what the container sends. Strict reverse path filtering on an interface without an address drops all IPv4, arp_ignore 8 answers
 *    nobody, and IPv6 is off. A bridge port hands its frames to the bridge before any of these is looked at, so the open endpoint carries
 *    IPv6 as well.
 *
 * The container's end has its IPv6 address without the kernel's duplicate detection (duplicate.c is ours; the kernel's would keep the
 * address from sockets for a second and more), its link-local one too, and takes no addresses and routes from router advertisements: they
 * would not be those that travel.
 */
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/ip.h>
#include <linux/neighbour.h>
#include <linux/veth.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "basic/clock.h"
#include "basic/id.h"
#include "basic/io.h"
#include "network/internal.h"

/* A neighbour entry that is INCOMPLETE when the port opens is asked for again after this long; the kernel's second would be downtime. */
#define RETRANS_TIME_MS 20

#define ARP_IGNORE_ALL 8

#define ADDRESS_TIMEOUT_MS 5000

static void host_mac(const struct fm_endpoint_config *cfg, uint8_t ret[6])
{
	static const uint8_t routed[6] = { 0xfe, 'f', 'm', 0, 0, 1 };
	uint64_t h = fm_hash_str(cfg->host_ifname);

	if (!cfg->bridge[0]) { /* the container's gateway, the same on every host */
		memcpy(ret, routed, sizeof(routed));
		return;
	}
	/* a network card in a lab may have a random one that begins with fe as well */
	ret[0] = 0xfe;
	ret[1] = 0xff;
	for (int i = 2; i < 6; i++)
		ret[i] = (uint8_t)(h >> (8 * i));
	/* equal to the container's, the bridge would deliver the container's frames to itself */
	if (memcmp(ret, cfg->mac, 6) == 0)
		ret[5] ^= 1;
}

int fm_veth_create(struct fm_endpoint *e, const struct fm_link *bridge, struct fm_error *err)
{
	struct nlmsghdr *h = fm_nl_begin(e->host, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 512);
	struct nlattr *info, *data, *peer;
	uint8_t mac[6];
	int rc;

	if (!h)
		return fm_error_set(err, FM_E_INTERNAL, "create veth %s: request too long", e->cfg.host_ifname);
	host_mac(&e->cfg, mac);
	mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(h, IFLA_IFNAME, e->cfg.host_ifname);
	mnl_attr_put(h, IFLA_ADDRESS, sizeof(mac), mac);
	mnl_attr_put_u32(h, IFLA_MTU, bridge->mtu);
	info = mnl_attr_nest_start(h, IFLA_LINKINFO);
	mnl_attr_put_strz(h, IFLA_INFO_KIND, "veth");
	data = mnl_attr_nest_start(h, IFLA_INFO_DATA);
	peer = mnl_attr_nest_start(h, VETH_INFO_PEER);
	mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(h, IFLA_IFNAME, e->cfg.ifname);
	mnl_attr_put(h, IFLA_ADDRESS, sizeof(e->cfg.mac), e->cfg.mac);
	mnl_attr_put_u32(h, IFLA_MTU, e->cfg.mtu ? e->cfg.mtu : bridge->mtu);
	mnl_attr_put_u32(h, IFLA_NET_NS_FD, (uint32_t)e->netns_fd);
	mnl_attr_nest_end(h, peer);
	mnl_attr_nest_end(h, data);
	mnl_attr_nest_end(h, info);
	rc = fm_nl_flush(e->host);
	if (rc < 0) {
		(void)fm_nl_fail(e->host, rc, err, "create veth %s with %s in the container's namespace", e->cfg.host_ifname,
		                 e->cfg.ifname);
		if (rc == -EEXIST)
			(void)fm_error_hint(err, "the namespace has an interface %s already; give the container a namespace of its own",
			                    e->cfg.ifname);
		return -1;
	}
	return 0;
}

bool fm_veth_is_pair(struct fm_endpoint *e, const struct fm_link *host_end)
{
	struct fm_link in;

	if (strcmp(host_end->kind, "veth") != 0 || fm_nl_link(e->inside, e->cfg.ifname, &in) < 0)
		return false;
	return strcmp(in.kind, "veth") == 0 && in.index == host_end->peer && in.peer == host_end->index &&
	       memcmp(in.mac, e->cfg.mac, sizeof(in.mac)) == 0;
}

static int set_retrans_time(struct fm_endpoint *e, int index, int family)
{
	struct nlmsghdr *h = fm_nl_begin(e->inside, RTM_SETNEIGHTBL, 0, 128);
	struct ndtmsg *ndt;
	struct nlattr *parms;

	if (!h)
		return -ENOBUFS;
	ndt = mnl_nlmsg_put_extra_header(h, sizeof(*ndt));
	ndt->ndtm_family = (uint8_t)family;
	mnl_attr_put_strz(h, NDTA_NAME, family == AF_INET ? "arp_cache" : "ndisc_cache");
	parms = mnl_attr_nest_start(h, NDTA_PARMS);
	mnl_attr_put_u32(h, NDTPA_IFINDEX, (uint32_t)index);
	mnl_attr_put_u64(h, NDTPA_RETRANS_TIME, RETRANS_TIME_MS);
	mnl_attr_nest_end(h, parms);
	return fm_nl_flush(e->inside);
}

static int add_address(struct fm_endpoint *e, int index)
{
	struct nlmsghdr *h = fm_nl_begin(e->inside, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, 128);
	struct ifaddrmsg *ifa;

	if (!h)
		return -ENOBUFS;
	ifa = mnl_nlmsg_put_extra_header(h, sizeof(*ifa));
	ifa->ifa_family = AF_INET;
	ifa->ifa_prefixlen = e->cfg.prefix_len;
	ifa->ifa_scope = RT_SCOPE_UNIVERSE;
	ifa->ifa_index = (uint32_t)index;
	mnl_attr_put_u32(h, IFA_LOCAL, e->cfg.address.s_addr);
	mnl_attr_put_u32(h, IFA_ADDRESS, e->cfg.address.s_addr);
	if (e->cfg.prefix_len < 31)
		mnl_attr_put_u32(h, IFA_BROADCAST, e->cfg.address.s_addr | htonl(0xffffffffu >> e->cfg.prefix_len));
	return fm_nl_flush(e->inside);
}

static int add_address6(struct fm_endpoint *e, int index)
{
	struct nlmsghdr *h = fm_nl_begin(e->inside, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, 128);
	struct ifaddrmsg *ifa;

	if (!h)
		return -ENOBUFS;
	ifa = mnl_nlmsg_put_extra_header(h, sizeof(*ifa));
	ifa->ifa_family = AF_INET6;
	ifa->ifa_prefixlen = e->cfg.prefix6_len;
	ifa->ifa_scope = RT_SCOPE_UNIVERSE;
	ifa->ifa_flags = IFA_F_NODAD;
	ifa->ifa_index = (uint32_t)index;
	mnl_attr_put(h, IFA_LOCAL, sizeof(e->cfg.address6), &e->cfg.address6);
	mnl_attr_put(h, IFA_ADDRESS, sizeof(e->cfg.address6), &e->cfg.address6);
	return fm_nl_flush(e->inside);
}

static int add_default_route(struct fm_endpoint *e, int index, int family)
{
	struct nlmsghdr *h = fm_nl_begin(e->inside, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, 128);
	struct rtmsg *rt;

	if (!h)
		return -ENOBUFS;
	rt = mnl_nlmsg_put_extra_header(h, sizeof(*rt));
	rt->rtm_family = (uint8_t)family;
	rt->rtm_table = RT_TABLE_MAIN;
	rt->rtm_protocol = RTPROT_STATIC;
	rt->rtm_scope = RT_SCOPE_UNIVERSE;
	rt->rtm_type = RTN_UNICAST;
	rt->rtm_flags = e->cfg.bridge[0] ? 0 : RTNH_F_ONLINK; /* no subnet that the gateway could be in */
	if (family == AF_INET)
		mnl_attr_put_u32(h, RTA_GATEWAY, e->cfg.gateway.s_addr);
	else
		mnl_attr_put(h, RTA_GATEWAY, sizeof(e->cfg.gateway6), &e->cfg.gateway6);
	mnl_attr_put_u32(h, RTA_OIF, (uint32_t)index);
	return fm_nl_flush(e->inside);
}

/* In the container's namespace: /proc/sys/net shows the reader's own. */
static int write_conf6(void *userdata, struct fm_error *err)
{
	static const struct {
		const char *name, *value;
	} conf[] = { { "disable_ipv6", "0" }, { "accept_ra", "0" }, { "autoconf", "0" }, { "accept_dad", "0" } };
	const char *ifname = userdata;
	char path[128];

	for (size_t i = 0; i < sizeof(conf) / sizeof(conf[0]); i++) {
		(void)snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/%s", ifname, conf[i].name);
		if (fm_write_file(path, conf[i].value, err) < 0)
			return -1;
	}
	return 0;
}

static int prepare_ipv6(struct fm_endpoint *e, int index, struct fm_error *err)
{
	struct fm_error why = FM_ERROR_INIT;
	int rc;

	if (!fm_path_exists("/proc/sys/net/ipv6/conf"))
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "this host's kernel has no IPv6, and the container has an IPv6 address");
	if (fm_netns_call(e->netns_fd, write_conf6, e->cfg.ifname, &why) < 0) {
		if (err)
			*err = why;
		(void)fm_error_prefix(err, "set up IPv6 of %s", e->cfg.ifname);
		return fm_error_hint(err, "the agent needs a writable /proc/sys");
	}
	rc = set_retrans_time(e, index, AF_INET6);
	return rc < 0 ? fm_nl_fail(e->inside, rc, err, "set the neighbour discovery's retransmission time of %s", e->cfg.ifname) : 0;
}

static int prepare_ipv4(struct fm_endpoint *e, int index, struct fm_error *err)
{
	int rc = set_retrans_time(e, index, AF_INET);

	if (rc < 0)
		return fm_nl_fail(e->inside, rc, err, "set the ARP retransmission time of %s", e->cfg.ifname);
	rc = add_address(e, index);
	return rc < 0 ? fm_nl_fail(e->inside, rc, err, "give %s its address", e->cfg.ifname) : 0;
}

int fm_veth_configure_inside(struct fm_endpoint *e, struct fm_error *err)
{
	struct fm_link lo, in;
	int rc = fm_nl_link(e->inside, e->cfg.ifname, &in);

	if (rc < 0)
		return fm_nl_fail(e->inside, rc, err, "find %s in the container's namespace", e->cfg.ifname);
	rc = fm_nl_link(e->inside, "lo", &lo);
	if (rc == 0)
		rc = fm_nl_link_up(e->inside, lo.index);
	if (rc < 0)
		return fm_nl_fail(e->inside, rc, err, "bring up lo in the container's namespace");
	if ((e->cfg.prefix_len && prepare_ipv4(e, in.index, err) < 0) || (e->cfg.prefix6_len && prepare_ipv6(e, in.index, err) < 0))
		return -1;
	rc = fm_nl_link_up(e->inside, in.index);
	if (rc < 0)
		return fm_nl_fail(e->inside, rc, err, "bring up %s", e->cfg.ifname);
	if (e->cfg.gateway.s_addr)
		rc = add_default_route(e, in.index, AF_INET);
	if (rc < 0)
		return fm_nl_fail(e->inside, rc, err, "add the default route through %s", e->cfg.ifname);
	return 0;
}

struct local_route {
	struct in6_addr address;
	bool found;
};

static int local_route_cb(const struct nlmsghdr *h, void *userdata)
{
	const struct rtmsg *rt = mnl_nlmsg_get_payload(h);
	struct local_route *l = userdata;
	const struct nlattr *a;

	if (h->nlmsg_type != RTM_NEWROUTE || h->nlmsg_len < mnl_nlmsg_size(sizeof(*rt)) || rt->rtm_type != RTN_LOCAL)
		return MNL_CB_OK;
	mnl_attr_for_each (a, h, sizeof(*rt)) {
		if (mnl_attr_get_type(a) == RTA_DST && mnl_attr_get_payload_len(a) == sizeof(l->address) &&
		    memcmp(mnl_attr_get_payload(a), &l->address, sizeof(l->address)) == 0)
			l->found = true;
	}
	return MNL_CB_OK;
}

/* The kernel finishes a new IPv6 address in the background: what is sent to it before its local route is there goes astray. */
static int wait_local_route(struct fm_endpoint *e, struct fm_nl *watch, struct fm_error *err)
{
	uint64_t deadline = fm_now_ms() + ADDRESS_TIMEOUT_MS;
	char buf[4096];

	for (;;) {
		struct local_route l = { .address = e->cfg.address6 };
		struct rtmsg all = { .rtm_family = AF_INET6 };
		int left, fd = mnl_socket_get_fd(watch->sock),
		          rc = fm_nl_dump(e->inside, RTM_GETROUTE, &all, sizeof(all), local_route_cb, &l, NULL);

		if (rc < 0)
			return fm_nl_fail(e->inside, rc, err, "read the routes of %s", e->cfg.ifname);
		if (l.found)
			return 0;
		left = fm_deadline_left_ms(deadline);
		if (left == 0)
			return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "the IPv6 address of %s was not usable within %d ms",
			                    e->cfg.ifname, ADDRESS_TIMEOUT_MS);
		/* any notification is a reason to look again; a lost one (ENOBUFS) too */
		rc = fm_wait_fd(fd, POLLIN, left, err);
		if (rc < 0)
			return -1;
		if (rc > 0)
			(void)recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
	}
}

int fm_veth_finish_inside(struct fm_endpoint *e, struct fm_error *err)
{
	_fm_nl_ struct fm_nl *watch = NULL;
	struct fm_link in;
	int rc;

	if (!e->cfg.prefix6_len)
		return 0;
	/* before the address is there, so that the notification cannot be missed */
	if (fm_nl_open_in(e->netns_fd, RTMGRP_IPV6_ROUTE, &watch, err) < 0)
		return -1;
	rc = fm_nl_link(e->inside, e->cfg.ifname, &in);
	if (rc == 0)
		rc = add_address6(e, in.index);
	if (rc < 0)
		return fm_nl_fail(e->inside, rc, err, "give %s its IPv6 address", e->cfg.ifname);
	if (wait_local_route(e, watch, err) < 0)
		return -1;
	if (!IN6_IS_ADDR_UNSPECIFIED(&e->cfg.gateway6))
		rc = add_default_route(e, in.index, AF_INET6);
	return rc < 0 ? fm_nl_fail(e->inside, rc, err, "add the IPv6 default route through %s", e->cfg.ifname) : 0;
}

/* The thread is in the host's namespace here, and /proc/sys/net shows the reader's own. */
static int disable_ipv6(const char *ifname, struct fm_error *err)
{
	struct fm_error why = FM_ERROR_INIT;
	char path[128];

	(void)snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/disable_ipv6", ifname);
	if (!fm_path_exists("/proc/sys/net/ipv6/conf") || fm_write_file(path, "1", &why) == 0)
		return 0;
	if (err)
		*err = why;
	(void)fm_error_prefix(err, "seal the closed endpoint %s", ifname);
	return fm_error_hint(err, "the agent needs a writable /proc/sys");
}

int fm_veth_seal_host_end(struct fm_endpoint *e, struct fm_error *err)
{
	struct nlmsghdr *h = fm_nl_begin(e->host, RTM_SETLINK, 0, 256);
	struct nlattr *spec, *inet, *conf;
	int rc;

	if (!h)
		return fm_error_set(err, FM_E_INTERNAL, "seal %s: request too long", e->cfg.host_ifname);
	mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(h, IFLA_IFNAME, e->cfg.host_ifname);
	spec = mnl_attr_nest_start(h, IFLA_AF_SPEC);
	inet = mnl_attr_nest_start(h, AF_INET);
	conf = mnl_attr_nest_start(h, IFLA_INET_CONF);
	mnl_attr_put_u32(h, IPV4_DEVCONF_RP_FILTER, 1);
	mnl_attr_put_u32(h, IPV4_DEVCONF_ARP_IGNORE, ARP_IGNORE_ALL);
	mnl_attr_put_u32(h, IPV4_DEVCONF_FORWARDING, 0);
	mnl_attr_put_u32(h, IPV4_DEVCONF_PROXY_ARP, 0);
	mnl_attr_nest_end(h, conf);
	mnl_attr_nest_end(h, inet);
	mnl_attr_nest_end(h, spec);
	rc = fm_nl_flush(e->host);
	if (rc < 0)
		return fm_nl_fail(e->host, rc, err, "seal the closed endpoint %s", e->cfg.host_ifname);
	return disable_ipv6(e->cfg.host_ifname, err);
}
