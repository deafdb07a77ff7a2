/* SPDX-License-Identifier: MIT */
/* next-hop.c - see next-hop.h: one question about the route, one about the interface, one about the neighbour. */
#include "network/next-hop.h"

#include <errno.h>
#include <linux/neighbour.h>
#include <netinet/in.h>
#include <string.h>

/* A question with one attribute behind its header, as fm_nl_get wants it */
struct question {
	union {
		struct rtmsg route;
		struct ndmsg neighbour;
	} header __attribute__((aligned(4)));
	struct nlattr attribute;
	uint8_t address[sizeof(struct in6_addr)];
} __attribute__((packed));

_Static_assert(sizeof(struct rtmsg) == sizeof(struct ndmsg), "both headers end where the attribute begins");

static size_t address_len(int family)
{
	return family == AF_INET ? sizeof(struct in_addr) : sizeof(struct in6_addr);
}

static size_t ask_about(struct question *q, uint16_t type, int family, const void *address)
{
	size_t n = address_len(family);
	q->attribute = (struct nlattr){ .nla_len = (uint16_t)(sizeof(struct nlattr) + n), .nla_type = type };
	memcpy(q->address, address, n);
	return offsetof(struct question, address) + n;
}

struct route {
	size_t address_len;
	int index;
	bool has_gateway;
	uint8_t gateway[sizeof(struct in6_addr)];
};

static int route_cb(const struct nlmsghdr *h, void *userdata)
{
	const struct rtmsg *rt = mnl_nlmsg_get_payload(h);
	struct route *r = userdata;
	const struct nlattr *a;

	if (h->nlmsg_type != RTM_NEWROUTE || h->nlmsg_len < mnl_nlmsg_size(sizeof(*rt)) || rt->rtm_type != RTN_UNICAST)
		return MNL_CB_OK;
	mnl_attr_for_each (a, h, sizeof(*rt)) {
		if (mnl_attr_get_type(a) == RTA_OIF && mnl_attr_get_payload_len(a) == sizeof(uint32_t)) {
			r->index = (int)mnl_attr_get_u32(a);
		} else if (mnl_attr_get_type(a) == RTA_GATEWAY && mnl_attr_get_payload_len(a) == r->address_len) {
			r->has_gateway = true;
			memcpy(r->gateway, mnl_attr_get_payload(a), r->address_len);
		}
	}
	return MNL_CB_OK;
}

struct mac {
	bool known;
	uint8_t v[6];
};

static void take_mac(const struct nlattr *a, struct mac *m)
{
	if (mnl_attr_get_payload_len(a) != sizeof(m->v))
		return;
	memcpy(m->v, mnl_attr_get_payload(a), sizeof(m->v));
	m->known = true;
}

static int link_cb(const struct nlmsghdr *h, void *userdata)
{
	const struct nlattr *a;

	if (h->nlmsg_type != RTM_NEWLINK || h->nlmsg_len < mnl_nlmsg_size(sizeof(struct ifinfomsg)))
		return MNL_CB_OK;
	mnl_attr_for_each (a, h, sizeof(struct ifinfomsg))
		if (mnl_attr_get_type(a) == IFLA_ADDRESS)
			take_mac(a, userdata);
	return MNL_CB_OK;
}

static int neighbour_cb(const struct nlmsghdr *h, void *userdata)
{
	const struct ndmsg *nd = mnl_nlmsg_get_payload(h);
	const struct nlattr *a;

	if (h->nlmsg_type != RTM_NEWNEIGH || h->nlmsg_len < mnl_nlmsg_size(sizeof(*nd)) ||
	    !(nd->ndm_state & (NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE)))
		return MNL_CB_OK;
	mnl_attr_for_each (a, h, sizeof(*nd))
		if (mnl_attr_get_type(a) == NDA_LLADDR)
			take_mac(a, userdata);
	return MNL_CB_OK;
}

int fm_next_hop(struct fm_nl *nl, int family, const void *address, struct fm_next_hop *ret)
{
	struct route r = { .address_len = address_len(family) };
	struct mac own = { 0 }, next = { 0 };
	struct question q = { .header.route = { .rtm_family = (uint8_t)family, .rtm_dst_len = (uint8_t)(8 * r.address_len) } };
	int rc = fm_nl_get(nl, RTM_GETROUTE, &q, ask_about(&q, RTA_DST, family, address), route_cb, &r);

	if (rc == 0 && r.index == 0)
		rc = -ENETUNREACH;
	if (rc == 0) {
		struct ifinfomsg link = { .ifi_index = r.index };
		rc = fm_nl_get(nl, RTM_GETLINK, &link, sizeof(link), link_cb, &own);
	}
	if (rc == 0) {
		q.header.neighbour = (struct ndmsg){ .ndm_family = (uint8_t)family, .ndm_ifindex = r.index };
		rc = fm_nl_get(nl, RTM_GETNEIGH, &q, ask_about(&q, NDA_DST, family, r.has_gateway ? r.gateway : address), neighbour_cb,
		               &next);
	}
	if (rc == 0 && (!own.known || !next.known))
		rc = -ENOENT;
	if (rc < 0)
		return rc;
	ret->index = r.index;
	memcpy(ret->from, own.v, sizeof(ret->from));
	memcpy(ret->to, next.v, sizeof(ret->to));
	return 0;
}
