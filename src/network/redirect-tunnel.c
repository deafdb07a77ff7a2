/* SPDX-License-Identifier: MIT */
/*
 * redirect-tunnel.c - driver "tunnel": packets for a container that still arrive at the source are carried to the destination. The action is described in redirect-tunnel.h.
 *
 * The tunnel is a VXLAN device with one remote at each host, named fmt<id>. It learns nothing: each side has the other as gateway (169.254.77.2, fe80::1) with a permanent neighbour entry, the other
 * side's MAC, which follows from the id. A routing table of its own has a default route through it. It has an IPv4 address of the link only because the kernel's loose reverse path filter is strict on
 * interfaces without any; it has no IPv6 address.
 *
 * Which packets go there is said by rules before the main table, not by routes: nobody's route is touched, the endpoint's and an operator's included, and flipping is one system call.
 *
 *   source       flip    to A -> table of the tunnel
 *   destination  open    from the tunnel, to A -> main table, but not by its default route; from the tunnel, anything else -> dropped. So nothing but the container's packets come in, and
 *                        when the container is gone, its packets do not go round and round.
 *                "back"  from A -> table of the tunnel: replies return to the source, which translates them back (DNAT). Otherwise they leave directly.
 *   both                 the tunnel forwards, and its reverse path filter is loose: clients' addresses arrive on it, their way back is another
 *
 * Large segments: the tunnel's MTU is that of the path to the other host less the header (50 bytes, 70 over IPv6). A full-size segment that a client sends is too big then: the source answers with
 * ICMP "fragmentation needed" (packet too big), the client's TCP sends it again at once in smaller ones: one round trip, once. Replies that leave directly are not concerned. Where such ICMP does
 * not reach clients, give "mtu" as large as theirs: the outer packets are fragmented instead.
 *
 * As any VXLAN this trusts the network between the hosts: who can send to the port with the right id, can send to the container's addresses.
 */
#include "network/redirect-tunnel.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/fib_rules.h>
#include <linux/if_link.h>
#include <linux/ip.h>
#include <linux/neighbour.h>
#include <stdio.h>
#include <string.h>

#include "basic/clock.h"
#include "basic/id.h"
#include "basic/io.h"
#include "basic/str.h"
#include "network/fields.h"
#include "network/redirect-kernel.h"
#include "network/redirect-tunnel-internal.h"

#define NAME          "tunnel"
#define MAX_ADDRESSES 4
#define MAX_RULES     (2 * MAX_ADDRESSES + 2)
#define HEADER4       50 /* IPv4, UDP, VXLAN, Ethernet */
#define HEADER6       70
#define MTU_MIN4      576
#define MTU_MIN6      1280
#define MTU_MAX       65000
/* The same on both sides and for every tunnel: a host may be the destination of one and the source of another, and a gateway that is an address of its own is refused. */
#define OWN4     "169.254.77.1"
#define GATEWAY4 "169.254.77.2"
#define GATEWAY6 "fe80::1"

struct action {
	bool at_source, back;
	char id[FM_TUNNEL_ID_LEN + 1], device[IFNAMSIZ];
	uint32_t vni, table, port, mtu; /* mtu 0 = of the path */
	struct fm_ip local, remote;
	struct fm_ip address[MAX_ADDRESSES];
	size_t n;
	uint8_t own_mac[6], other_mac[6];
};

/* A rule before the main table. Of from, to and iif those that are given must match. */
struct rule {
	int family;
	uint32_t priority, table;
	const struct fm_ip *from, *to;
	const char *iif;
	bool not_by_default, drop;
};

static bool has_family(const struct action *a, int family)
{
	for (size_t i = 0; i < a->n; i++)
		if (a->address[i].family == family)
			return true;
	return false;
}

/* ---- words ---- */

void fm_tunnel_id(const char *migration, char ret[FM_TUNNEL_ID_LEN + 1])
{
	uint64_t h = fm_hash_str(migration);

	(void)snprintf(ret, FM_TUNNEL_ID_LEN + 1, "%08x", (uint32_t)(h ^ (h >> 32)));
}

static void side_mac(uint32_t vni, bool source, uint8_t ret[6])
{
	ret[0] = 0x02;
	ret[1] = 'f';
	ret[2] = source ? 0 : 1;
	ret[3] = (uint8_t)(vni >> 16);
	ret[4] = (uint8_t)(vni >> 8);
	ret[5] = (uint8_t)vni;
}

static bool is_id(const char *text)
{
	return strlen(text) == FM_TUNNEL_ID_LEN && strspn(text, "0123456789abcdef") == FM_TUNNEL_ID_LEN;
}

static void set_id(struct action *a, const char *id)
{
	memcpy(a->id, id, sizeof(a->id));
	(void)snprintf(a->device, sizeof(a->device), FM_TUNNEL_PREFIX "%s", id);
	a->vni = fm_tunnel_vni(id);
	a->table = FM_TUNNEL_TABLE_BASE | a->vni;
	side_mac(a->vni, a->at_source, a->own_mac);
	side_mac(a->vni, !a->at_source, a->other_mac);
}

static int parse_address(void *userdata, size_t n, const json_t *v, const struct fm_place *at, struct fm_error *err)
{
	static const struct fm_field how = { .parse = fm_read_host };
	struct action *a = userdata;
	struct fm_ip *ip = &a->address[n];

	if (fm_field_read(v, at, &how, ip, err) < 0)
		return -1;
	if (fm_ip_is_link_local6(ip))
		return fm_field_wrong(at, NULL, "is of one link only", err);
	if (fm_ip_equal(ip, &a->local) || fm_ip_equal(ip, &a->remote))
		return fm_field_wrong(at, NULL, "is an address of the hosts", err);
	for (size_t i = 0; i < n; i++)
		if (fm_ip_equal(ip, &a->address[i]))
			return fm_field_wrong(at, NULL, "is there twice", err);
	a->n = n + 1;
	return 0;
}

static int check_hosts(const struct action *a, const struct fm_place *at, struct fm_error *err)
{
	if (a->local.family != a->remote.family || fm_ip_equal(&a->local, &a->remote))
		return fm_field_wrong(at, "remote", "is not another host of local's family", err);
	if (fm_ip_is_link_local6(&a->local) || fm_ip_is_link_local6(&a->remote))
		return fm_field_wrong(at, "remote", "or local is of one link only", err);
	return 0;
}

static int action_parse(const json_t *o, struct action *ret, struct fm_error *err)
{
	struct raw {
		struct action a;
		const char *id;
		const json_t *addresses;
	} raw = { .a = { .port = FM_TUNNEL_PORT } };
	static const char *const sides[] = { "destination", "source", NULL }, *const replies[] = { "direct", "back", NULL };
	static const struct fm_field fields[] = {
		FM_FIELD_DRIVER,
		{ .name = "side", .type = FM_FIELD_BOOL, .words = sides, .offset = offsetof(struct raw, a.at_source), .required = true },
		{ FM_FIELD(struct raw, id), .check = is_id, .what = "is not eight hex digits", .required = true },
		{ .name = "local", .parse = fm_read_host, .offset = offsetof(struct raw, a.local), .required = true },
		{ .name = "remote", .parse = fm_read_host, .offset = offsetof(struct raw, a.remote), .required = true },
		{ FM_FIELD(struct raw, addresses), .type = FM_FIELD_LIST, .min = 1, .max = MAX_ADDRESSES, .required = true },
		{ .name = "reply", .type = FM_FIELD_BOOL, .words = replies, .offset = offsetof(struct raw, a.back) },
		{ .name = "port", .type = FM_FIELD_U32, .min = 1, .max = 65535, .offset = offsetof(struct raw, a.port) },
		{ .name = "mtu", .type = FM_FIELD_U32, .min = MTU_MIN4, .max = MTU_MAX, .offset = offsetof(struct raw, a.mtu) },
		{ 0 },
	};
	const struct fm_place at = { .who = NAME };

	if (fm_fields_read(o, &at, fields, &raw, err) < 0 || check_hosts(&raw.a, &at, err) < 0 ||
	    fm_fields_each(raw.addresses, &at, "addresses", parse_address, &raw.a, err) < 0)
		return -1;
	if (raw.a.mtu && raw.a.mtu < MTU_MIN6 && has_family(&raw.a, AF_INET6))
		return fm_field_wrong(&at, "mtu", "is less than IPv6's 1280", err);
	set_id(&raw.a, raw.id);
	*ret = raw.a;
	return 0;
}

static int undo_of_json(const json_t *undo, uint32_t *ret_mtu, struct fm_error *err)
{
	static const struct fm_field fields[] = {
		{ .name = "mtu", .type = FM_FIELD_U32, .min = MTU_MIN4, .max = MTU_MAX, .required = true }, { 0 }
	};
	const struct fm_place at = { .who = NAME ": undo", .code = FM_E_DATA_LOSS };

	return fm_fields_read(undo, &at, fields, ret_mtu, err);
}

/* ---- the device ---- */

struct device {
	bool there, ours, up;
	int index;
	struct fm_tunnel_traffic traffic;
};

struct look {
	const struct action *a;
	struct device d;
};

static bool data_is_ours(const struct nlattr *data, const struct action *a)
{
	struct fm_ip local = { 0 }, remote = { 0 };
	uint32_t vni = 0, port = 0;
	const struct nlattr *x;

	mnl_attr_for_each_nested (x, data) {
		switch (mnl_attr_get_type(x)) {
		case IFLA_VXLAN_ID:
			vni = mnl_attr_get_u32(x);
			break;
		case IFLA_VXLAN_PORT:
			port = ntohs(mnl_attr_get_u16(x));
			break;
		case IFLA_VXLAN_LOCAL:
		case IFLA_VXLAN_LOCAL6:
			(void)fm_ip_of_attr(x, &local);
			break;
		case IFLA_VXLAN_GROUP:
		case IFLA_VXLAN_GROUP6:
			(void)fm_ip_of_attr(x, &remote);
			break;
		default:
			break;
		}
	}
	return vni == a->vni && port == a->port && fm_ip_equal(&local, &a->local) && fm_ip_equal(&remote, &a->remote);
}

static bool info_is_ours(const struct nlattr *info, const struct action *a)
{
	const struct nlattr *x, *data = NULL;
	bool is_vxlan = false;

	mnl_attr_for_each_nested (x, info) {
		if (mnl_attr_get_type(x) == IFLA_INFO_KIND && mnl_attr_validate(x, MNL_TYPE_NUL_STRING) >= 0)
			is_vxlan = strcmp(mnl_attr_get_str(x), "vxlan") == 0;
		else if (mnl_attr_get_type(x) == IFLA_INFO_DATA)
			data = x;
	}
	return is_vxlan && data && data_is_ours(data, a);
}

static int look_cb(const struct nlmsghdr *h, void *userdata)
{
	const struct ifinfomsg *ifi = mnl_nlmsg_get_payload(h);
	const struct nlattr *x;
	struct look *l = userdata;

	if (h->nlmsg_type != RTM_NEWLINK)
		return MNL_CB_OK;
	l->d.there = true;
	l->d.index = ifi->ifi_index;
	l->d.up = ifi->ifi_flags & IFF_UP;
	mnl_attr_for_each (x, h, sizeof(*ifi)) {
		if (mnl_attr_get_type(x) == IFLA_LINKINFO) {
			l->d.ours = info_is_ours(x, l->a);
		} else if (mnl_attr_get_type(x) == IFLA_STATS64 && mnl_attr_get_payload_len(x) >= sizeof(uint64_t) * 4) {
			struct rtnl_link_stats64 s = { 0 };

			memcpy(&s, mnl_attr_get_payload(x),
			       mnl_attr_get_payload_len(x) < sizeof(s) ? mnl_attr_get_payload_len(x) : sizeof(s));
			l->d.traffic.packets = s.rx_packets + s.tx_packets;
			l->d.traffic.bytes = s.rx_bytes + s.tx_bytes;
		}
	}
	return MNL_CB_OK;
}

static int look(struct fm_nl *nl, const struct action *a, struct device *ret, struct fm_error *err)
{
	char buf[256] __attribute__((aligned(8)));
	struct nlmsghdr *h = fm_nl_question(nl, buf, RTM_GETLINK);
	struct look l = { .a = a };
	int rc;

	mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(h, IFLA_IFNAME, a->device);
	rc = fm_nl_ask(nl, h, look_cb, &l);
	if (rc < 0 && rc != -ENODEV)
		return fm_nl_fail(nl, rc, err, NAME ": look for %s", a->device);
	*ret = l.d;
	return 0;
}

static int not_ours(const struct action *a, enum fm_code code, struct fm_error *err)
{
	(void)fm_error_set(err, code, NAME ": there is an interface %s that is not the tunnel of this action", a->device);
	return fm_error_hint(err, "ip -d link show %s", a->device);
}

static int make_device(struct fm_nl *nl, const struct action *a, uint32_t mtu)
{
	bool v6 = a->local.family == AF_INET6;
	struct nlmsghdr *h = fm_nl_begin(nl, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 512);
	struct nlattr *info, *data;

	if (!h)
		return -ENOBUFS;
	mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(h, IFLA_IFNAME, a->device);
	mnl_attr_put(h, IFLA_ADDRESS, sizeof(a->own_mac), a->own_mac);
	mnl_attr_put_u32(h, IFLA_MTU, mtu);
	info = mnl_attr_nest_start(h, IFLA_LINKINFO);
	mnl_attr_put_strz(h, IFLA_INFO_KIND, "vxlan");
	data = mnl_attr_nest_start(h, IFLA_INFO_DATA);
	mnl_attr_put_u32(h, IFLA_VXLAN_ID, a->vni);
	mnl_attr_put_u16(h, IFLA_VXLAN_PORT, htons((uint16_t)a->port));
	mnl_attr_put_u8(h, IFLA_VXLAN_LEARNING, 0);
	fm_ip_put(h, v6 ? IFLA_VXLAN_LOCAL6 : IFLA_VXLAN_LOCAL, &a->local);
	fm_ip_put(h, v6 ? IFLA_VXLAN_GROUP6 : IFLA_VXLAN_GROUP, &a->remote);
	mnl_attr_nest_end(h, data);
	mnl_attr_nest_end(h, info);
	return fm_nl_flush(nl);
}

/* Before it is up: an address of its own would be announced, and count as traffic. */
static int without_address(struct fm_nl *nl, int index)
{
	struct nlmsghdr *h = fm_nl_begin(nl, RTM_SETLINK, 0, 128);
	struct nlattr *spec, *inet6;
	struct ifinfomsg *ifi;
	int rc;

	if (!h)
		return -ENOBUFS;
	ifi = mnl_nlmsg_put_extra_header(h, sizeof(*ifi));
	ifi->ifi_index = index;
	spec = mnl_attr_nest_start(h, IFLA_AF_SPEC);
	inet6 = mnl_attr_nest_start(h, AF_INET6);
	mnl_attr_put_u8(h, IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
	mnl_attr_nest_end(h, inet6);
	mnl_attr_nest_end(h, spec);
	rc = fm_nl_flush(nl);
	return rc == -EAFNOSUPPORT ? 0 : rc; /* a host without IPv6 */
}

static int bring_up(struct fm_nl *nl, int index)
{
	struct nlmsghdr *h = fm_nl_begin(nl, RTM_SETLINK, 0, 256);
	struct nlattr *spec, *inet, *conf;
	struct ifinfomsg *ifi;

	if (!h)
		return -ENOBUFS;
	ifi = mnl_nlmsg_put_extra_header(h, sizeof(*ifi));
	ifi->ifi_index = index;
	ifi->ifi_flags = ifi->ifi_change = IFF_UP;
	spec = mnl_attr_nest_start(h, IFLA_AF_SPEC);
	inet = mnl_attr_nest_start(h, AF_INET);
	conf = mnl_attr_nest_start(h, IFLA_INET_CONF);
	mnl_attr_put_u32(h, IPV4_DEVCONF_RP_FILTER, 2); /* the larger of this and conf/all counts: loose in any case */
	mnl_attr_put_u32(h, IPV4_DEVCONF_FORWARDING, 1);
	mnl_attr_put_u32(h, IPV4_DEVCONF_SEND_REDIRECTS, 0);
	mnl_attr_nest_end(h, conf);
	mnl_attr_nest_end(h, inet);
	mnl_attr_nest_end(h, spec);
	return fm_nl_flush(nl);
}

static int put_address(struct fm_nl *nl, const struct action *a, int index)
{
	struct nlmsghdr *h = fm_nl_begin(nl, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, 128);
	struct ifaddrmsg *ifa;
	struct fm_ip ip;

	if (!h || !fm_ip_parse(OWN4, &ip))
		return -ENOBUFS;
	ifa = mnl_nlmsg_put_extra_header(h, sizeof(*ifa));
	ifa->ifa_family = AF_INET;
	ifa->ifa_prefixlen = 32;
	ifa->ifa_scope = RT_SCOPE_LINK;
	ifa->ifa_index = (uint32_t)index;
	fm_ip_put(h, IFA_LOCAL, &ip);
	fm_ip_put(h, IFA_ADDRESS, &ip);
	return fm_nl_flush(nl);
}

static int put_gateway(struct fm_nl *nl, const struct action *a, int index, int family)
{
	struct nlmsghdr *h = fm_nl_begin(nl, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, 128);
	struct fm_ip gateway;
	struct ndmsg *nd;
	struct rtmsg *rt;

	if (!h || !fm_ip_parse(family == AF_INET6 ? GATEWAY6 : GATEWAY4, &gateway))
		return -ENOBUFS;
	nd = mnl_nlmsg_put_extra_header(h, sizeof(*nd));
	nd->ndm_family = (uint8_t)family;
	nd->ndm_ifindex = index;
	nd->ndm_state = NUD_PERMANENT;
	fm_ip_put(h, NDA_DST, &gateway);
	mnl_attr_put(h, NDA_LLADDR, sizeof(a->other_mac), a->other_mac);
	h = fm_nl_begin(nl, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, 128);
	if (!h)
		return -ENOBUFS;
	rt = mnl_nlmsg_put_extra_header(h, sizeof(*rt));
	rt->rtm_family = (uint8_t)family;
	rt->rtm_table = RT_TABLE_COMPAT;
	rt->rtm_protocol = FM_TUNNEL_PROTOCOL;
	rt->rtm_type = RTN_UNICAST;
	rt->rtm_flags = RTNH_F_ONLINK;
	mnl_attr_put_u32(h, RTA_TABLE, a->table);
	fm_ip_put(h, RTA_GATEWAY, &gateway);
	mnl_attr_put_u32(h, RTA_OIF, (uint32_t)index);
	return fm_nl_flush(nl);
}

/* ---- rules ---- */

static size_t source_rules(const struct action *a, struct rule r[MAX_RULES])
{
	for (size_t i = 0; i < a->n; i++)
		r[i] = (struct rule){
			.family = a->address[i].family, .priority = FM_TUNNEL_PRIORITY, .to = &a->address[i], .table = a->table
		};
	return a->n;
}

static size_t destination_rules(const struct action *a, struct rule r[MAX_RULES])
{
	size_t n = 0;

	for (size_t i = 0; i < a->n; i++) {
		const struct fm_ip *ip = &a->address[i];

		r[n++] = (struct rule){ .family = ip->family,
			                .priority = FM_TUNNEL_PRIORITY,
			                .to = ip,
			                .iif = a->device,
			                .table = RT_TABLE_MAIN,
			                .not_by_default = true };
		if (a->back)
			r[n++] = (struct rule){ .family = ip->family, .priority = FM_TUNNEL_PRIORITY + 2, .from = ip, .table = a->table };
	}
	for (int six = 0; six < 2; six++)
		if (has_family(a, six ? AF_INET6 : AF_INET))
			r[n++] = (struct rule){
				.family = six ? AF_INET6 : AF_INET, .priority = FM_TUNNEL_PRIORITY + 1, .iif = a->device, .drop = true
			};
	return n;
}

static size_t rules_of(const struct action *a, struct rule r[MAX_RULES])
{
	return a->at_source ? source_rules(a, r) : destination_rules(a, r);
}

static int put_rule(struct fm_nl *nl, const struct rule *r, bool add)
{
	struct nlmsghdr *h = fm_nl_begin(nl, add ? RTM_NEWRULE : RTM_DELRULE, add ? NLM_F_CREATE | NLM_F_EXCL : 0, 192);
	struct fib_rule_hdr *f;

	if (!h)
		return -ENOBUFS;
	f = mnl_nlmsg_put_extra_header(h, sizeof(*f));
	f->family = (uint8_t)r->family;
	f->action = r->drop ? FR_ACT_BLACKHOLE : FR_ACT_TO_TBL;
	f->table = r->table < 256 ? (uint8_t)r->table : RT_TABLE_COMPAT;
	mnl_attr_put_u32(h, FRA_PRIORITY, r->priority);
	mnl_attr_put_u8(h, FRA_PROTOCOL, FM_TUNNEL_PROTOCOL);
	if (r->table)
		mnl_attr_put_u32(h, FRA_TABLE, r->table);
	if (r->iif)
		mnl_attr_put_strz(h, FRA_IIFNAME, r->iif);
	if (r->not_by_default)
		mnl_attr_put_u32(h, FRA_SUPPRESS_PREFIXLEN, 0);
	if (r->from) {
		f->src_len = (uint8_t)(8 * fm_ip_len(r->from));
		fm_ip_put(h, FRA_SRC, r->from);
	}
	if (r->to) {
		f->dst_len = (uint8_t)(8 * fm_ip_len(r->to));
		fm_ip_put(h, FRA_DST, r->to);
	}
	return 0;
}

static int one_by_one(struct fm_nl *nl, const struct rule *r, size_t n, bool add)
{
	int rc = 0;

	for (size_t i = 0; i < n && rc == 0; i++) {
		rc = put_rule(nl, &r[i], add);
		if (rc == 0)
			rc = fm_nl_flush(nl);
		if (rc == (add ? -EEXIST : -ENOENT))
			rc = 0;
	}
	return rc;
}

/* All in one system call when they are added. Some there or gone already: one after the other. */
static int write_rules(struct fm_nl *nl, const struct action *a, bool add, struct fm_error *err)
{
	struct rule r[MAX_RULES];
	size_t n = rules_of(a, r);
	int rc = 0;

	for (size_t i = 0; i < n && rc == 0 && add; i++)
		rc = put_rule(nl, &r[i], true);
	if (rc == 0 && add)
		rc = fm_nl_flush(nl);
	if (!add || rc == -EEXIST)
		rc = one_by_one(nl, r, n, add);
	if (rc < 0)
		return fm_nl_fail(nl, rc, err, NAME ": %s the rules of %s", add ? "add" : "remove", a->device);
	return 0;
}

struct rule_search {
	struct rule r[MAX_RULES];
	size_t n;
	bool found[MAX_RULES];
};

static bool rule_is(const struct nlmsghdr *h, const struct rule *want)
{
	const struct fib_rule_hdr *f = mnl_nlmsg_get_payload(h);
	struct fm_ip from = { 0 }, to = { 0 };
	uint32_t priority = 0, table = f->table;
	const struct nlattr *x;
	const char *iif = NULL;

	mnl_attr_for_each (x, h, sizeof(*f)) {
		switch (mnl_attr_get_type(x)) {
		case FRA_PRIORITY:
			priority = mnl_attr_get_u32(x);
			break;
		case FRA_TABLE:
			table = mnl_attr_get_u32(x);
			break;
		case FRA_IIFNAME:
			iif = mnl_attr_validate(x, MNL_TYPE_NUL_STRING) >= 0 ? mnl_attr_get_str(x) : NULL;
			break;
		case FRA_SRC:
			(void)fm_ip_of_attr(x, &from);
			break;
		case FRA_DST:
			(void)fm_ip_of_attr(x, &to);
			break;
		default:
			break;
		}
	}
	return f->family == want->family && priority == want->priority && (f->action == FR_ACT_BLACKHOLE) == want->drop &&
	       (want->drop || table == want->table) && (want->iif ? fm_streq(iif, want->iif) : !iif) &&
	       (want->from ? fm_ip_equal(&from, want->from) : from.family == AF_UNSPEC) &&
	       (want->to ? fm_ip_equal(&to, want->to) : to.family == AF_UNSPEC);
}

static int rule_cb(const struct nlmsghdr *h, void *userdata)
{
	struct rule_search *s = userdata;

	if (h->nlmsg_type != RTM_NEWRULE || h->nlmsg_len < mnl_nlmsg_size(sizeof(struct fib_rule_hdr)))
		return MNL_CB_OK;
	for (size_t i = 0; i < s->n; i++)
		s->found[i] |= rule_is(h, &s->r[i]);
	return MNL_CB_OK;
}

static int check_rules(struct fm_nl *nl, const struct action *a, struct fm_error *err)
{
	struct fib_rule_hdr all = { 0 };
	struct rule_search s = { 0 };
	int rc;

	s.n = rules_of(a, s.r);
	rc = fm_nl_dump(nl, RTM_GETRULE, &all, sizeof(all), rule_cb, &s, NULL);
	if (rc < 0)
		return fm_nl_fail(nl, rc, err, NAME ": read the rules of this host");
	for (size_t i = 0; i < s.n; i++)
		if (!s.found[i])
			return fm_error_set(err, FM_E_FAILED_PRECONDITION, NAME ": a rule of %s is missing", a->device);
	return 0;
}

/* ---- what prepare looks at ---- */

struct path {
	const struct action *a;
	bool local_is_ours, answered;
	uint32_t mtu; /* of the route, 0 = none */
	char device[IFNAMSIZ];
	unsigned char type;
};

static int own_address_cb(const struct nlmsghdr *h, void *userdata)
{
	struct path *p = userdata;
	const struct nlattr *x;
	struct fm_ip ip;

	if (h->nlmsg_type != RTM_NEWADDR || h->nlmsg_len < mnl_nlmsg_size(sizeof(struct ifaddrmsg)))
		return MNL_CB_OK;
	/* IPv6 has its address in IFA_ADDRESS alone, IPv4 the other end of a point-to-point link */
	mnl_attr_for_each (x, h, sizeof(struct ifaddrmsg))
		if ((mnl_attr_get_type(x) == IFA_LOCAL || (mnl_attr_get_type(x) == IFA_ADDRESS && p->a->local.family == AF_INET6)) &&
		    fm_ip_of_attr(x, &ip) && fm_ip_equal(&ip, &p->a->local))
			p->local_is_ours = true;
	return MNL_CB_OK;
}

static int path_cb(const struct nlmsghdr *h, void *userdata)
{
	const struct rtmsg *rt = mnl_nlmsg_get_payload(h);
	const struct nlattr *x, *y;
	struct path *p = userdata;

	p->answered = h->nlmsg_type == RTM_NEWROUTE;
	p->type = rt->rtm_type;
	mnl_attr_for_each (x, h, sizeof(*rt)) {
		if (mnl_attr_get_type(x) == RTA_OIF && !if_indextoname(mnl_attr_get_u32(x), p->device))
			p->device[0] = '\0';
		if (mnl_attr_get_type(x) == RTA_METRICS)
			mnl_attr_for_each_nested (y, x)
				if (mnl_attr_get_type(y) == RTAX_MTU)
					p->mtu = mnl_attr_get_u32(y);
	}
	return MNL_CB_OK;
}

static int check_path(struct fm_nl *nl, const struct action *a, uint32_t *ret_mtu, struct fm_error *err)
{
	char buf[256] __attribute__((aligned(8))), text[FM_IP_TEXT];
	struct path p = { .a = a };
	struct ifaddrmsg all = { .ifa_family = (uint8_t)a->local.family };
	struct fm_link link = { 0 };
	uint32_t header = a->local.family == AF_INET6 ? HEADER6 : HEADER4, least = has_family(a, AF_INET6) ? MTU_MIN6 : MTU_MIN4;
	struct nlmsghdr *h;
	struct rtmsg *rt;
	int rc;

	rc = fm_nl_dump(nl, RTM_GETADDR, &all, sizeof(all), own_address_cb, &p, NULL);
	if (rc < 0)
		return fm_nl_fail(nl, rc, err, NAME ": read this host's addresses");
	if (!p.local_is_ours)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, NAME ": %s is not an address of this host", fm_ip_text(&a->local, text));
	h = fm_nl_question(nl, buf, RTM_GETROUTE);
	rt = mnl_nlmsg_put_extra_header(h, sizeof(*rt));
	rt->rtm_family = (uint8_t)a->remote.family;
	rt->rtm_dst_len = rt->rtm_src_len = (uint8_t)(8 * fm_ip_len(&a->remote));
	fm_ip_put(h, RTA_DST, &a->remote);
	fm_ip_put(h, RTA_SRC, &a->local);
	rc = fm_nl_ask(nl, h, path_cb, &p);
	if (rc < 0 || !p.answered || p.type != RTN_UNICAST)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, NAME ": the other host %s cannot be reached from here",
		                    fm_ip_text(&a->remote, text));
	rc = fm_nl_link(nl, p.device, &link);
	if (rc < 0)
		return fm_nl_fail(nl, rc, err, NAME ": look at %s", p.device);
	if (p.mtu && p.mtu < link.mtu)
		link.mtu = p.mtu;
	*ret_mtu = a->mtu ? a->mtu : link.mtu > MTU_MAX ? MTU_MAX : link.mtu - header;
	if (link.mtu < header || *ret_mtu < least)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, NAME ": packets of %u bytes pass to %s, too small for a tunnel",
		                    link.mtu, fm_ip_text(&a->remote, text));
	return 0;
}

static int check_forwarding(const char *path, struct fm_error *err)
{
	_fm_free_ char *text = NULL;

	if (fm_read_file(path, 64, &text, NULL, err) < 0)
		return fm_error_prefix(err, NAME);
	if (text[0] != '0')
		return 0;
	(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, NAME ": this host forwards nothing (%s)", path);
	return fm_error_hint(err, "echo 1 >%s", path);
}

/* ---- the calls ---- */

static int tunnel_prepare(const struct fm_redirect_call *c, const json_t *action, json_t **ret_undo, struct fm_error *err)
{
	_fm_nl_ struct fm_nl *nl = NULL;
	struct device d = { 0 };
	struct action a = { 0 };
	uint32_t mtu = 0;

	if (action_parse(action, &a, err) < 0 || fm_redirect_may_go_on(c, NAME, err) < 0 || fm_nl_open(0, &nl, err) < 0 ||
	    look(nl, &a, &d, err) < 0)
		return -1;
	if (d.there)
		return not_ours(&a, FM_E_ALREADY_EXISTS, err);
	/* what comes out of the tunnel is forwarded because the tunnel's own switch is on; IPv6 has one for the whole host */
	if ((a.at_source && has_family(&a, AF_INET) && check_forwarding("/proc/sys/net/ipv4/ip_forward", err) < 0) ||
	    (has_family(&a, AF_INET6) && check_forwarding("/proc/sys/net/ipv6/conf/all/forwarding", err) < 0) ||
	    check_path(nl, &a, &mtu, err) < 0)
		return -1;
	*ret_undo = json_pack("{s:i}", "mtu", (int)mtu);
	return *ret_undo ? 0 : fm_error_errno(err, ENOMEM, NAME ": prepare");
}

static int begin(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_nl **nl, struct action *a,
                 struct device *d, uint32_t *mtu, struct fm_error *err)
{
	if (action_parse(action, a, err) < 0 || undo_of_json(undo, mtu, err) < 0 || fm_redirect_may_go_on(c, NAME, err) < 0 ||
	    fm_nl_open(0, nl, err) < 0 || look(*nl, a, d, err) < 0)
		return -1;
	return d->there && !d->ours ? not_ours(a, FM_E_ABORTED, err) : 0;
}

static int tunnel_open(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	_fm_nl_ struct fm_nl *nl = NULL;
	struct device d = { 0 };
	struct action a = { 0 };
	uint32_t mtu = 0;
	int rc = 0;

	if (begin(c, action, undo, &nl, &a, &d, &mtu, err) < 0)
		return -1;
	/* first what keeps others out */
	if (!a.at_source && write_rules(nl, &a, true, err) < 0)
		return -1;
	if (!d.there)
		rc = make_device(nl, &a, mtu);
	if (rc == 0 && !d.there && look(nl, &a, &d, err) < 0)
		return -1;
	if (rc == 0)
		rc = without_address(nl, d.index);
	if (rc == 0)
		rc = bring_up(nl, d.index);
	if (rc == 0 && has_family(&a, AF_INET))
		rc = put_address(nl, &a, d.index);
	if (rc == 0 && has_family(&a, AF_INET))
		rc = put_gateway(nl, &a, d.index, AF_INET);
	if (rc == 0 && has_family(&a, AF_INET6))
		rc = put_gateway(nl, &a, d.index, AF_INET6);
	if (rc == -EADDRINUSE)
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, NAME ": UDP port %u is taken on this host", a.port);
	else if (rc < 0)
		(void)fm_nl_fail(nl, rc, err, NAME ": make %s", a.device);
	return rc < 0 ? -1 : 0;
}

static int check_stands(const struct action *a, const struct device *d, struct fm_error *err)
{
	if (d->there && d->up)
		return 0;
	return fm_error_set(err, FM_E_FAILED_PRECONDITION, NAME ": %s is %s", a->device, d->there ? "down" : "gone");
}

static int tunnel_flip(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	_fm_nl_ struct fm_nl *nl = NULL;
	struct device d = { 0 };
	struct action a = { 0 };
	uint32_t mtu = 0;

	if (begin(c, action, undo, &nl, &a, &d, &mtu, err) < 0 || check_stands(&a, &d, err) < 0)
		return -1;
	return a.at_source ? write_rules(nl, &a, true, err) : 0;
}

static int tunnel_verify(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	_fm_nl_ struct fm_nl *nl = NULL;
	struct device d = { 0 };
	struct action a = { 0 };
	uint32_t mtu = 0;

	if (begin(c, action, undo, &nl, &a, &d, &mtu, err) < 0 || check_stands(&a, &d, err) < 0)
		return -1;
	return check_rules(nl, &a, err);
}

static int tunnel_revert(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	_fm_nl_ struct fm_nl *nl = NULL;
	struct device d = { 0 };
	struct action a = { 0 };
	uint32_t mtu = 0;
	int rc;

	if (begin(c, action, undo, &nl, &a, &d, &mtu, err) < 0)
		return -1;
	/* at the destination the rules go last: they keep others out */
	if (a.at_source && write_rules(nl, &a, false, err) < 0)
		return -1;
	rc = d.there ? fm_nl_link_delete(nl, a.device) : 0; /* its neighbours, and the routes of its table, go with it */
	if (rc < 0 && rc != -ENODEV)
		return fm_nl_fail(nl, rc, err, NAME ": remove %s", a.device);
	return a.at_source ? 0 : write_rules(nl, &a, false, err);
}

const struct fm_redirect_ops fm_redirect_tunnel = {
	.name = NAME,
	.title = "tunnel between the two hosts",
	.prepare = tunnel_prepare,
	.open = tunnel_open,
	.flip = tunnel_flip,
	.verify = tunnel_verify,
	.revert = tunnel_revert,
	.leftovers = fm_tunnel_leftovers,
	.clean = fm_tunnel_clean,
};

/* ---- what passes ---- */

int fm_tunnel_traffic(const json_t *action, struct fm_tunnel_traffic *ret, struct fm_error *err)
{
	_fm_nl_ struct fm_nl *nl = NULL;
	struct device d = { 0 };
	struct action a = { 0 };

	if (action_parse(action, &a, err) < 0 || fm_nl_open(0, &nl, err) < 0 || look(nl, &a, &d, err) < 0)
		return -1;
	if (!d.there)
		return fm_error_set(err, FM_E_NOT_FOUND, NAME ": there is no %s on this host", a.device);
	*ret = d.traffic;
	return 0;
}

int fm_tunnel_idle_ms(const json_t *action, struct fm_tunnel_idle *state, uint64_t *ret_ms, struct fm_error *err)
{
	struct fm_tunnel_traffic t;
	uint64_t now;

	if (fm_tunnel_traffic(action, &t, err) < 0)
		return -1;
	now = fm_now_ms();
	if (state->since_ms == 0 || state->packets != t.packets)
		*state = (struct fm_tunnel_idle){ .packets = t.packets, .since_ms = now };
	*ret_ms = now - state->since_ms;
	return 0;
}
