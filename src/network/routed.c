/* SPDX-License-Identifier: MIT */
/*
 * routed.c - attachment without a bridge: the host routes to the container's addresses, /32 and /128, by its end of the pair.
 *
 * The container's gateway is 169.254.1.1 (fe80::1) on every host, with a permanent neighbour entry inside: the MAC of the host end, which is the same for all routed endpoints. So what the container
 * knows of its link is right on every host, nothing has to be asked, and no neighbour travels. The host end has no address.
 *
 * Closed = no route by the host end, and the seal (veth.c): strict reverse path filtering drops all IPv4 that comes in where there is no route back, and IPv6 is off. Open = forwarding on, the container's
 * MAC as a permanent neighbour, and the routes. The filter stays strict: an open endpoint takes in IPv4 from the container's own address and nothing else. IPv6 has no such filter.
 *
 * Closed inbound = the route stays, because the filter would drop what the container sends; but the neighbour's MAC is nobody's, so the container's kernel drops what arrives.
 *
 * Clients are led here by others (redirect.h): a router's route, a tunnel. So there is nothing to announce.
 *
 * IPv6 of an interface can be switched off and on by /proc/sys only, which shows the namespace of who opens the file. It is opened by prepare or attach; a handle that has seen neither opens it when it
 * needs it, in the namespace of the calling thread, as everything else.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/ip.h>
#include <linux/neighbour.h>
#include <stdio.h>
#include <string.h>

#include "basic/io.h"
#include "network/internal.h"

#define MTU_DEFAULT 1500

static const uint8_t nobodys_mac[6] = { 0x02, 'f', 'm', 'n', 'i', 'l' };

/* ---- one request each, queued ---- */

struct one {
	int family;
	size_t n;
	const void *address, *gateway;
};

/* The endpoint's families: how many. */
static size_t families(const struct fm_endpoint_config *c, struct one ret[2])
{
	size_t n = 0;

	if (c->prefix_len)
		ret[n++] = (struct one){ AF_INET, sizeof(c->address), &c->address, &c->gateway };
	if (c->prefix6_len)
		ret[n++] = (struct one){ AF_INET6, sizeof(c->address6), &c->address6, &c->gateway6 };
	return n;
}

static int put_neighbour(struct fm_nl *nl, int index, const struct one *f, const void *address, const uint8_t mac[6])
{
	struct nlmsghdr *h = fm_nl_begin(nl, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, 128);
	struct ndmsg *nd;

	if (!h)
		return -ENOBUFS;
	nd = mnl_nlmsg_put_extra_header(h, sizeof(*nd));
	nd->ndm_family = (uint8_t)f->family;
	nd->ndm_ifindex = index;
	nd->ndm_state = NUD_PERMANENT;
	mnl_attr_put(h, NDA_DST, f->n, address);
	mnl_attr_put(h, NDA_LLADDR, 6, mac);
	return 0;
}

static int put_route(struct fm_nl *nl, int index, const struct one *f, bool add)
{
	struct nlmsghdr *h = fm_nl_begin(nl, add ? RTM_NEWROUTE : RTM_DELROUTE, add ? NLM_F_CREATE | NLM_F_EXCL : 0, 128);
	struct rtmsg *rt;

	if (!h)
		return -ENOBUFS;
	rt = mnl_nlmsg_put_extra_header(h, sizeof(*rt));
	rt->rtm_family = (uint8_t)f->family;
	rt->rtm_dst_len = (uint8_t)(8 * f->n);
	rt->rtm_table = RT_TABLE_MAIN;
	rt->rtm_protocol = RTPROT_STATIC;
	rt->rtm_scope = f->family == AF_INET ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE;
	rt->rtm_type = RTN_UNICAST;
	mnl_attr_put(h, RTA_DST, f->n, f->address);
	mnl_attr_put_u32(h, RTA_OIF, (uint32_t)index);
	return 0;
}

static int put_forwarding(struct fm_nl *nl, int index, bool on)
{
	struct nlmsghdr *h = fm_nl_begin(nl, RTM_SETLINK, 0, 128);
	struct nlattr *spec, *inet, *conf;
	struct ifinfomsg *ifi;

	if (!h)
		return -ENOBUFS;
	ifi = mnl_nlmsg_put_extra_header(h, sizeof(*ifi));
	ifi->ifi_index = index;
	spec = mnl_attr_nest_start(h, IFLA_AF_SPEC);
	inet = mnl_attr_nest_start(h, AF_INET);
	conf = mnl_attr_nest_start(h, IFLA_INET_CONF);
	mnl_attr_put_u32(h, IPV4_DEVCONF_FORWARDING, on);
	mnl_attr_nest_end(h, conf);
	mnl_attr_nest_end(h, inet);
	mnl_attr_nest_end(h, spec);
	return 0;
}

/* ---- what is there ---- */

struct search {
	const struct one *f;
	int index;
	bool here, elsewhere;
};

static int search_cb(const struct nlmsghdr *h, void *userdata)
{
	const struct rtmsg *rt = mnl_nlmsg_get_payload(h);
	struct search *s = userdata;
	bool address = false, by = false;
	const struct nlattr *a;

	if (h->nlmsg_type != RTM_NEWROUTE || h->nlmsg_len < mnl_nlmsg_size(sizeof(*rt)) || rt->rtm_table != RT_TABLE_MAIN ||
	    rt->rtm_dst_len != 8 * s->f->n || (rt->rtm_flags & RTM_F_CLONED))
		return MNL_CB_OK;
	mnl_attr_for_each (a, h, sizeof(*rt)) {
		if (mnl_attr_get_type(a) == RTA_DST && mnl_attr_get_payload_len(a) == s->f->n)
			address = memcmp(mnl_attr_get_payload(a), s->f->address, s->f->n) == 0;
		else if (mnl_attr_get_type(a) == RTA_OIF)
			by = (int)mnl_attr_get_u32(a) == s->index;
	}
	s->here |= address && by;
	s->elsewhere |= address && !by;
	return MNL_CB_OK;
}

/* Of one family; what is found is added. */
static int search_family(struct fm_endpoint *e, int index, const struct one *f, bool *here, bool *elsewhere)
{
	struct rtmsg all = { .rtm_family = (uint8_t)f->family };
	struct search s = { .f = f, .index = index };
	int rc = fm_nl_dump(e->host, RTM_GETROUTE, &all, sizeof(all), search_cb, &s, NULL);

	*here |= s.here;
	*elsewhere |= s.elsewhere;
	return rc;
}

static int search_routes(struct fm_endpoint *e, int index, bool *here, bool *elsewhere)
{
	struct one f[2];
	size_t n = families(&e->cfg, f);
	int rc = 0;

	*here = *elsewhere = false;
	for (size_t i = 0; i < n && rc == 0; i++)
		rc = search_family(e, index, &f[i], here, elsewhere);
	return rc;
}

static int check_switch(const char *path, struct fm_error *err)
{
	_fm_free_ char *text = NULL;

	if (fm_read_file(path, 64, &text, NULL, err) < 0)
		return -1;
	if (text[0] != '0')
		return 0;
	(void)fm_error_set(err, FM_E_FAILED_PRECONDITION,
	                   "a container without a bridge is reached by routing, and this host forwards nothing (%s)", path);
	return fm_error_hint(err, "echo 1 >%s", path);
}

int fm_routed_check(struct fm_endpoint *e, struct fm_link *ret_like, struct fm_error *err)
{
	struct fm_link host_end = { 0 };
	bool here = false, elsewhere = false;
	int rc;

	if ((e->cfg.prefix_len && check_switch("/proc/sys/net/ipv4/ip_forward", err) < 0) ||
	    (e->cfg.prefix6_len && check_switch("/proc/sys/net/ipv6/conf/all/forwarding", err) < 0))
		return -1;
	rc = fm_nl_link(e->host, e->cfg.host_ifname, &host_end);
	if (rc == 0 || rc == -ENODEV)
		rc = search_routes(e, host_end.index, &here, &elsewhere);
	if (rc < 0)
		return fm_nl_fail(e->host, rc, err, "look for a route to the container");
	if (elsewhere)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION,
		                    "this host has a route to the container's address by another interface than %s", e->cfg.host_ifname);
	*ret_like = (struct fm_link){ .mtu = e->cfg.mtu ? e->cfg.mtu : MTU_DEFAULT };
	return 0;
}

/* ---- IPv6 of the host end ---- */

int fm_routed_keep(struct fm_endpoint *e, struct fm_error *err)
{
	char path[128];

	if (e->cfg.bridge[0] || !e->cfg.prefix6_len)
		return 0;
	fm_closep(&e->ipv6_fd);
	(void)snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/disable_ipv6", e->cfg.host_ifname);
	e->ipv6_fd = open(path, O_WRONLY | O_CLOEXEC);
	return e->ipv6_fd < 0 ? fm_error_errno(err, errno, "open %s", path) : 0;
}

static int switch_ipv6(struct fm_endpoint *e, bool on, struct fm_error *err)
{
	const char *value = on ? "0" : "1";

	if (!e->cfg.prefix6_len || (e->ipv6_fd >= 0 && pwrite(e->ipv6_fd, value, 1, 0) == 1))
		return 0;
	/* none yet, or of a pair that has been removed since */
	if (fm_routed_keep(e, err) < 0)
		return -1;
	if (pwrite(e->ipv6_fd, value, 1, 0) != 1)
		return fm_error_errno(err, errno, "switch IPv6 of %s %s", e->cfg.host_ifname, on ? "on" : "off");
	return 0;
}

/* No link-local address on the host end: it would be there only while the endpoint is open. */
static int without_address6(struct fm_endpoint *e, int index)
{
	struct nlmsghdr *h = fm_nl_begin(e->host, RTM_SETLINK, 0, 128);
	struct nlattr *spec, *inet6;
	struct ifinfomsg *ifi;

	if (!h)
		return -ENOBUFS;
	ifi = mnl_nlmsg_put_extra_header(h, sizeof(*ifi));
	ifi->ifi_index = index;
	spec = mnl_attr_nest_start(h, IFLA_AF_SPEC);
	inet6 = mnl_attr_nest_start(h, AF_INET6);
	mnl_attr_put_u8(h, IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
	mnl_attr_nest_end(h, inet6);
	mnl_attr_nest_end(h, spec);
	return fm_nl_flush(e->host);
}

int fm_routed_finish(struct fm_endpoint *e, struct fm_error *err)
{
	struct fm_link host_end = { 0 }, in = { 0 };
	struct one f[2];
	size_t n = families(&e->cfg, f);
	int rc;

	if (e->cfg.bridge[0])
		return 0;
	rc = fm_nl_link(e->host, e->cfg.host_ifname, &host_end);
	if (rc == 0 && e->cfg.prefix6_len)
		rc = without_address6(e, host_end.index);
	if (rc < 0)
		return fm_nl_fail(e->host, rc, err, "set up %s", e->cfg.host_ifname);
	rc = fm_nl_link(e->inside, e->cfg.ifname, &in);
	for (size_t i = 0; i < n && rc == 0; i++)
		rc = put_neighbour(e->inside, in.index, &f[i], f[i].gateway, host_end.mac);
	if (rc == 0)
		rc = fm_nl_flush(e->inside);
	if (rc < 0)
		return fm_nl_fail(e->inside, rc, err, "tell the container its gateway");
	return fm_routed_keep(e, err);
}

/* ---- the attachment ---- */

static int routed_close(struct fm_endpoint *e, struct fm_error *err)
{
	struct fm_link host_end = { 0 };
	struct one f[2];
	size_t n = families(&e->cfg, f);
	int rc;

	if (fm_endpoint_need_host(e, err) < 0)
		return -1;
	rc = fm_nl_link(e->host, e->cfg.host_ifname, &host_end);
	if (rc == -ENODEV)
		return 0;
	for (size_t i = 0; i < n && rc == 0; i++) {
		rc = put_route(e->host, host_end.index, &f[i], false);
		if (rc == 0)
			rc = fm_nl_flush(e->host);
		rc = rc == -ESRCH ? 0 : rc;
	}
	if (rc == 0)
		rc = put_forwarding(e->host, host_end.index, false);
	if (rc == 0)
		rc = fm_nl_flush(e->host);
	if (rc < 0)
		return fm_nl_fail(e->host, rc, err, "close endpoint %s", e->cfg.host_ifname);
	return switch_ipv6(e, false, err);
}

/* An existing route is ours, or somebody's who must not be overwritten. */
static int add_routes(struct fm_endpoint *e, int index)
{
	struct one f[2];
	size_t n = families(&e->cfg, f);
	int rc = 0;

	for (size_t i = 0; i < n && rc == 0; i++) {
		bool here = false, elsewhere = false;

		rc = put_route(e->host, index, &f[i], true);
		if (rc == 0)
			rc = fm_nl_flush(e->host);
		if (rc == -EEXIST && search_family(e, index, &f[i], &here, &elsewhere) == 0 && here)
			rc = 0;
	}
	return rc;
}

static int routed_open(struct fm_endpoint *e, struct fm_error *err)
{
	struct fm_link host_end = { 0 };
	struct one f[2];
	size_t n = families(&e->cfg, f);
	int rc;

	if (fm_endpoint_need_host(e, err) < 0)
		return -1;
	rc = fm_nl_link(e->host, e->cfg.host_ifname, &host_end);
	if (rc < 0)
		return fm_nl_fail(e->host, rc, err, "open endpoint %s", e->cfg.host_ifname);
	if (switch_ipv6(e, true, err) < 0)
		return -1;
	rc = put_forwarding(e->host, host_end.index, true);
	for (size_t i = 0; i < n && rc == 0; i++)
		rc = put_neighbour(e->host, host_end.index, &f[i], f[i].address, e->cfg.mac);
	if (rc == 0)
		rc = fm_nl_flush(e->host);
	if (rc == 0)
		rc = add_routes(e, host_end.index);
	if (rc < 0) {
		(void)fm_nl_fail(e->host, rc, err, "open endpoint %s", e->cfg.host_ifname);
		(void)routed_close(e, NULL); /* half open is not open */
		return -1;
	}
	return 0;
}

static int routed_close_inbound(struct fm_endpoint *e, struct fm_error *err)
{
	struct fm_link host_end = { 0 };
	bool here = false, elsewhere = false;
	struct one f[2];
	size_t n = families(&e->cfg, f);
	int rc;

	if (fm_endpoint_need_host(e, err) < 0)
		return -1;
	rc = fm_nl_link(e->host, e->cfg.host_ifname, &host_end);
	if (rc == -ENODEV)
		return 0;
	if (rc == 0)
		rc = search_routes(e, host_end.index, &here, &elsewhere);
	if (rc == 0 && !here)
		return 0; /* closed altogether */
	for (size_t i = 0; i < n && rc == 0; i++)
		rc = put_neighbour(e->host, host_end.index, &f[i], f[i].address, nobodys_mac);
	if (rc == 0)
		rc = fm_nl_flush(e->host);
	return rc < 0 ? fm_nl_fail(e->host, rc, err, "let nothing into %s any more", e->cfg.host_ifname) : 0;
}

static int routed_announce(struct fm_endpoint *e, struct fm_error *err)
{
	return 0;
}

static bool routed_is_open(struct fm_endpoint *e)
{
	struct fm_link host_end = { 0 };
	bool here = false, elsewhere = false;
	int rc;

	/* what cannot be shown to be closed counts as open */
	if (fm_endpoint_need_host(e, NULL) < 0)
		return true;
	rc = fm_nl_link(e->host, e->cfg.host_ifname, &host_end);
	if (rc == -ENODEV)
		return false;
	return rc < 0 || search_routes(e, host_end.index, &here, &elsewhere) < 0 || here;
}

const struct fm_attach_ops fm_attach_routed = {
	.name = "routed",
	.open = routed_open,
	.close_inbound = routed_close_inbound,
	.close = routed_close,
	.announce = routed_announce,
	.is_open = routed_is_open,
};
