/* SPDX-License-Identifier: MIT */
/*
 * redirect-route.c - driver "route": the next hop of one container's address on a router.
 *
 *   {"driver":"route", "address":"10.78.0.100", "via":"10.0.2.1", "device":"eth1" (optional), "table":254 (optional), "from_via":"10.0.1.1" (optional: what the old route must be)}
 *
 * The route is the host route of the address, /32 or /128, in one table. Where there is none (the address was reached by its subnet's route) it is made, and goes again with a revert. Where there
 * is one it is replaced in one step (NLM_F_REPLACE): at no time is there none. A route has one next hop, so `open` does nothing. All but the next hop, the device and the scope stay as they
 * are: metric, protocol, preferred source, metrics.
 *
 * Refused is what could not be put back exactly: several next hops, nexthop objects, encapsulations, expiring routes, several routes of different metric or type of service.
 *
 * The kernel has no compare and swap for routes. What is there is read right before the replacement; a new route is made with NLM_F_EXCL, and removed with all that it must be.
 * Tables are read as a whole, filtered by the kernel to the one asked for: a router with a full Internet table takes about a second.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "basic/str.h"
#include "network/fields.h"
#include "network/redirect-kernel.h"

#define NAME          "route"
#define IP6_METRIC    1024 /* the kernel's own choice */
#define METRICS_BYTES 256  /* RTA_METRICS: some twenty numbers and the name of a congestion control */

struct action {
	struct fm_ip address, via, from_via;
	char device[IFNAMSIZ];
	uint32_t table;
};

struct route {
	unsigned count;  /* how many the table has for the address; the others stand for the last one */
	const char *odd; /* what about it cannot be put back, or NULL */
	uint32_t tos, protocol, scope, type, onlink, metric, pref, realm;
	struct fm_ip via, source;
	char device[IFNAMSIZ];
	size_t n_metrics;
	uint8_t metrics[METRICS_BYTES];
};

static int action_parse(const json_t *o, struct action *ret, struct fm_error *err)
{
	static const struct fm_field fields[] = {
		FM_FIELD_DRIVER,
		{ FM_FIELD(struct action, address), .parse = fm_read_host, .required = true },
		{ FM_FIELD(struct action, via), .parse = fm_read_host, .required = true },
		{ FM_FIELD(struct action, from_via), .parse = fm_read_host },
		{ FM_FIELD(struct action, device), .parse = fm_read_interface },
		{ FM_FIELD(struct action, table), .type = FM_FIELD_U32, .min = 1 },
		{ 0 },
	};
	const struct fm_place at = { .who = NAME };
	struct action a = { .table = RT_TABLE_MAIN };

	if (fm_fields_read(o, &at, fields, &a, err) < 0)
		return -1;
	if (a.table == RT_TABLE_LOCAL)
		return fm_field_wrong(&at, "table", "is the kernel's own", err);
	if (fm_ip_is_link_local6(&a.address))
		return fm_field_wrong(&at, "address", "is of one link only", err);
	if (fm_ip_is_link_local6(&a.via) && !a.device[0])
		return fm_field_wrong(&at, "device", "is missing, via is of one link only", err);
	if (a.via.family == AF_INET && a.address.family == AF_INET6)
		return fm_field_wrong(&at, "via", "is not of the address's family", err);
	if (fm_ip_equal(&a.via, &a.address))
		return fm_field_wrong(&at, "via", "is the address itself", err);
	if (fm_ip_equal(&a.via, &a.from_via))
		return fm_field_wrong(&at, "via", "is the same as from_via", err);
	*ret = a;
	return 0;
}

/* ---- reading ---- */

struct search {
	const struct action *a;
	struct route r;
};

static void parse_via(const struct nlattr *x, struct route *r)
{
	const struct rtvia *v = mnl_attr_get_payload(x);
	size_t n = mnl_attr_get_payload_len(x) - sizeof(*v);

	if (mnl_attr_get_payload_len(x) <= sizeof(*v) || n > sizeof(r->via.raw)) {
		r->odd = "a next hop of another family";
		return;
	}
	r->via = (struct fm_ip){ .family = v->rtvia_family };
	memcpy(r->via.raw, v->rtvia_addr, n);
}

static void parse_metrics(const struct nlattr *x, struct route *r)
{
	size_t n = mnl_attr_get_payload_len(x);

	if (n > sizeof(r->metrics)) {
		r->odd = "metrics that are too long";
		return;
	}
	r->n_metrics = n;
	memcpy(r->metrics, mnl_attr_get_payload(x), n);
}

static void parse_attribute(const struct nlattr *x, struct route *r)
{
	switch (mnl_attr_get_type(x)) {
	case RTA_GATEWAY:
		(void)fm_ip_of_attr(x, &r->via);
		break;
	case RTA_VIA:
		parse_via(x, r);
		break;
	case RTA_OIF:
		if (!if_indextoname(mnl_attr_get_u32(x), r->device))
			r->device[0] = '\0';
		break;
	case RTA_PRIORITY:
		r->metric = mnl_attr_get_u32(x);
		break;
	case RTA_PREFSRC:
		(void)fm_ip_of_attr(x, &r->source);
		break;
	case RTA_METRICS:
		parse_metrics(x, r);
		break;
	case RTA_PREF:
		r->pref = mnl_attr_get_u8(x);
		break;
	case RTA_FLOW:
		r->realm = mnl_attr_get_u32(x);
		break;
	case RTA_CACHEINFO:
		if (mnl_attr_get_payload_len(x) >= sizeof(struct rta_cacheinfo) &&
		    ((const struct rta_cacheinfo *)mnl_attr_get_payload(x))->rta_expires)
			r->odd = "an expiry";
		break;
	case RTA_MULTIPATH:
		r->odd = "several next hops";
		break;
	case RTA_NH_ID:
		r->odd = "a nexthop object";
		break;
	case RTA_DST:
	case RTA_TABLE:
		break;
	default: /* RTA_ENCAP, and what comes one day */
		r->odd = "an attribute that is not known here";
		break;
	}
}

static bool is_ours(const struct nlmsghdr *h, const struct action *a)
{
	const struct rtmsg *rt = mnl_nlmsg_get_payload(h);
	struct fm_ip dst = { 0 };
	uint32_t table = rt->rtm_table;
	const struct nlattr *x;

	if (rt->rtm_family != a->address.family || rt->rtm_dst_len != 8 * fm_ip_len(&a->address) || (rt->rtm_flags & RTM_F_CLONED))
		return false;
	mnl_attr_for_each (x, h, sizeof(*rt)) {
		if (mnl_attr_get_type(x) == RTA_DST)
			(void)fm_ip_of_attr(x, &dst);
		else if (mnl_attr_get_type(x) == RTA_TABLE)
			table = mnl_attr_get_u32(x);
	}
	return table == a->table && fm_ip_equal(&dst, &a->address);
}

static int search_cb(const struct nlmsghdr *h, void *userdata)
{
	const struct rtmsg *rt = mnl_nlmsg_get_payload(h);
	struct search *s = userdata;
	const struct nlattr *x;

	if (h->nlmsg_type != RTM_NEWROUTE || h->nlmsg_len < mnl_nlmsg_size(sizeof(*rt)) || !is_ours(h, s->a))
		return MNL_CB_OK;
	s->r = (struct route){ .count = s->r.count + 1,
		               .tos = rt->rtm_tos,
		               .protocol = rt->rtm_protocol,
		               .scope = rt->rtm_scope,
		               .type = rt->rtm_type,
		               .onlink = rt->rtm_flags & RTNH_F_ONLINK };
	if (rt->rtm_src_len)
		s->r.odd = "a source prefix";
	mnl_attr_for_each (x, h, sizeof(*rt))
		parse_attribute(x, &s->r);
	return MNL_CB_OK;
}

static void search_reset(void *userdata)
{
	struct search *s = userdata;

	s->r = (struct route){ 0 };
}

static int route_read(struct fm_nl *nl, const struct action *a, struct route *ret, struct fm_error *err)
{
	const struct {
		struct rtmsg rt;
		struct nlattr attr;
		uint32_t table;
	} question = { { .rtm_family = (uint8_t)a->address.family }, { NLA_HDRLEN + sizeof(uint32_t), RTA_TABLE }, a->table };
	struct search s = { .a = a };
	int rc = fm_nl_dump(nl, RTM_GETROUTE, &question, sizeof(question), search_cb, &s, search_reset);

	/* a table that nothing is in does not exist */
	if (rc < 0 && rc != -ENOENT)
		return fm_nl_fail(nl, rc, err, NAME ": read table %u", a->table);
	*ret = s.r;
	return 0;
}

static int session(struct fm_nl **ret, struct fm_error *err)
{
	int on = 1;

	if (fm_nl_open(0, ret, err) < 0)
		return -1;
	/* only faster: the kernel sends the one table */
	(void)mnl_socket_setsockopt((*ret)->sock, NETLINK_GET_STRICT_CHK, &on, sizeof(on));
	return 0;
}

static const char *route_text(const struct route *r, char buf[160])
{
	char ip[FM_IP_TEXT];

	if (r->count == 0)
		return "no route";
	if (r->type != RTN_UNICAST)
		(void)snprintf(buf, 160, "a route of type %u", r->type);
	else
		(void)snprintf(buf, 160, "via %s dev %s metric %u protocol %u%s%s%s", fm_ip_text(&r->via, ip), r->device, r->metric,
		               r->protocol, r->count > 1 ? ", and others" : "", r->odd ? ", with " : "", r->odd ? r->odd : "");
	return buf;
}

/* ---- writing ---- */

static int write_route(struct fm_nl *nl, const struct action *a, const struct route *r, uint16_t type, uint16_t flags)
{
	struct nlmsghdr *h = fm_nl_begin(nl, type, flags, 256 + METRICS_BYTES);
	struct rtmsg *rt;

	if (!h)
		return -ENOBUFS;
	rt = mnl_nlmsg_put_extra_header(h, sizeof(*rt));
	rt->rtm_family = (uint8_t)a->address.family;
	rt->rtm_dst_len = (uint8_t)(8 * fm_ip_len(&a->address));
	rt->rtm_table = a->table < 256 ? (uint8_t)a->table : RT_TABLE_COMPAT;
	rt->rtm_tos = (uint8_t)r->tos;
	rt->rtm_protocol = (uint8_t)r->protocol;
	rt->rtm_scope = (uint8_t)r->scope;
	rt->rtm_type = (uint8_t)r->type;
	rt->rtm_flags = r->onlink;
	mnl_attr_put_u32(h, RTA_TABLE, a->table);
	fm_ip_put(h, RTA_DST, &a->address);
	if (r->metric)
		mnl_attr_put_u32(h, RTA_PRIORITY, r->metric);
	if (r->type == RTN_UNICAST && r->via.family == a->address.family) {
		fm_ip_put(h, RTA_GATEWAY, &r->via);
	} else if (r->type == RTN_UNICAST && r->via.family != AF_UNSPEC) {
		struct {
			uint16_t family;
			uint8_t raw[16];
		} via = { .family = (uint16_t)r->via.family };

		memcpy(via.raw, r->via.raw, sizeof(via.raw));
		mnl_attr_put(h, RTA_VIA, sizeof(via.family) + fm_ip_len(&r->via), &via);
	}
	if (r->type == RTN_UNICAST && r->device[0])
		mnl_attr_put_u32(h, RTA_OIF, if_nametoindex(r->device));
	if (type == RTM_DELROUTE)
		return fm_nl_flush(nl);
	if (r->source.family != AF_UNSPEC)
		fm_ip_put(h, RTA_PREFSRC, &r->source);
	if (r->pref)
		mnl_attr_put_u8(h, RTA_PREF, (uint8_t)r->pref);
	if (r->realm)
		mnl_attr_put_u32(h, RTA_FLOW, r->realm);
	if (r->n_metrics)
		mnl_attr_put(h, RTA_METRICS | NLA_F_NESTED, r->n_metrics, r->metrics);
	return fm_nl_flush(nl);
}

/* ---- undo ---- */

static json_t *undo_to_json(const struct route *r)
{
	char via[FM_IP_TEXT] = "", source[FM_IP_TEXT] = "", metrics[2 * METRICS_BYTES + 1] = "";

	if (r->count == 0)
		return json_pack("{s:n}", "old");
	if (r->via.family != AF_UNSPEC)
		(void)fm_ip_text(&r->via, via);
	if (r->source.family != AF_UNSPEC)
		(void)fm_ip_text(&r->source, source);
	for (size_t i = 0; i < r->n_metrics; i++)
		(void)snprintf(metrics + 2 * i, 3, "%02x", r->metrics[i]);
	return json_pack("{s:{s:s, s:s, s:s, s:I, s:i, s:i, s:i, s:i, s:i, s:i, s:I, s:s}}", "old", "via", via, "device", r->device,
	                 "source", source, "metric", (json_int_t)r->metric, "tos", (int)r->tos, "protocol", (int)r->protocol, "scope",
	                 (int)r->scope, "type", (int)r->type, "onlink", (int)r->onlink, "pref", (int)r->pref, "realm", (json_int_t)r->realm,
	                 "metrics", metrics);
}

/* Two members of the route, so it is given the whole of it. */
static int read_metrics(const char *text, void *route, struct fm_error *err)
{
	struct route *r = route;
	size_t n = strlen(text);

	if (n % 2 || n > 2 * sizeof(r->metrics) || strspn(text, "0123456789abcdef") != n)
		return fm_error_set(err, FM_E_DATA_LOSS, "they are not bytes in hexadecimal digits");
	r->n_metrics = n / 2;
	for (size_t i = 0; i < r->n_metrics; i++) {
		char hex[3] = { text[2 * i], text[2 * i + 1], '\0' };

		r->metrics[i] = (uint8_t)strtoul(hex, NULL, 16);
	}
	return 0;
}

static int undo_of_json(const json_t *undo, struct route *ret, struct fm_error *err)
{
	static const struct fm_field whole[] = { { .name = "old", .type = FM_FIELD_OBJECT, .empty = true, .required = true }, { 0 } };
#define BYTE(member) FM_FIELD(struct route, member), .type = FM_FIELD_U32, .max = UINT8_MAX, .required = true
	static const struct fm_field fields[] = {
		{ FM_FIELD(struct route, via), .parse = fm_read_ip, .empty = true, .required = true },
		{ FM_FIELD(struct route, device), .parse = fm_read_interface, .empty = true, .required = true },
		{ FM_FIELD(struct route, source), .parse = fm_read_ip, .empty = true, .required = true },
		{ FM_FIELD(struct route, metric), .type = FM_FIELD_U32, .required = true },
		{ BYTE(tos) },
		{ BYTE(protocol) },
		{ BYTE(scope) },
		{ BYTE(type) },
		{ FM_FIELD(struct route, onlink), .type = FM_FIELD_U32, .max = RTNH_F_ONLINK, .required = true },
		{ BYTE(pref) },
		{ FM_FIELD(struct route, realm), .type = FM_FIELD_U32, .required = true },
		{ .name = "metrics", .max = 2 * METRICS_BYTES, .parse = read_metrics, .empty = true, .required = true },
		{ 0 },
	};
#undef BYTE
	const struct fm_place at = { .who = NAME ": undo", .code = FM_E_DATA_LOSS }, old = fm_place_member(&at, "old");
	struct route r = { .count = 1 };
	const json_t *o = NULL;

	if (fm_fields_read(undo, &at, whole, &o, err) < 0 || (o && fm_fields_read(o, &old, fields, &r, err) < 0))
		return -1;
	*ret = o ? r : (struct route){ 0 };
	return 0;
}

/* ---- the plan ---- */

static struct route route_after(const struct action *a, const struct route *old)
{
	struct route r = *old;

	if (old->count == 0)
		r = (struct route){ .protocol = RTPROT_STATIC, .metric = a->address.family == AF_INET6 ? IP6_METRIC : 0 };
	r.count = 1;
	r.type = RTN_UNICAST;
	r.scope = RT_SCOPE_UNIVERSE; /* with a next hop there is no other */
	r.via = a->via;
	memcpy(r.device, a->device, sizeof(r.device));
	return r;
}

/* A device that `want` leaves open is the kernel's choice. */
static bool route_is(const struct route *now, const struct route *want)
{
	if (now->count != 1 || want->count != 1)
		return now->count == 0 && want->count == 0;
	return !now->odd && now->type == want->type && now->tos == want->tos && now->protocol == want->protocol &&
	       now->metric == want->metric &&
	       (want->type != RTN_UNICAST ||
	        (fm_ip_equal(&now->via, &want->via) && (!want->device[0] || fm_streq(now->device, want->device))));
}

static int check_old(const struct action *a, const struct route *old, struct fm_error *err)
{
	char address[FM_IP_TEXT], text[160];

	(void)fm_ip_text(&a->address, address);
	if (old->count > 1 || old->odd) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, NAME ": the route to %s could not be put back exactly: %s", address,
		                   route_text(old, text));
		return fm_error_hint(err, "give %s one plain host route on this router", address);
	}
	if (old->count && old->type != RTN_UNICAST && old->type != RTN_BLACKHOLE && old->type != RTN_UNREACHABLE &&
	    old->type != RTN_PROHIBIT)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, NAME ": %s has %s here", address, route_text(old, text));
	if (a->from_via.family != AF_UNSPEC && (old->count == 0 || !fm_ip_equal(&old->via, &a->from_via)))
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, NAME ": the route to %s is not what the action says, but %s", address,
		                    route_text(old, text));
	return 0;
}

struct hop {
	bool answered, by_gateway;
	unsigned char type;
	char device[IFNAMSIZ];
};

static int hop_cb(const struct nlmsghdr *h, void *userdata)
{
	const struct rtmsg *rt = mnl_nlmsg_get_payload(h);
	struct hop *hop = userdata;
	const struct nlattr *x;

	hop->answered = h->nlmsg_type == RTM_NEWROUTE;
	hop->type = rt->rtm_type;
	mnl_attr_for_each (x, h, sizeof(*rt)) {
		if (mnl_attr_get_type(x) == RTA_GATEWAY || mnl_attr_get_type(x) == RTA_VIA)
			hop->by_gateway = true;
		else if (mnl_attr_get_type(x) == RTA_OIF && !if_indextoname(mnl_attr_get_u32(x), hop->device))
			hop->device[0] = '\0';
	}
	return MNL_CB_OK;
}

/* Found out now rather than by the kernel's refusal when the container has moved. */
static int check_next_hop(struct fm_nl *nl, const struct action *a, const struct route *old, struct fm_error *err)
{
	char buf[256] __attribute__((aligned(8))), via[FM_IP_TEXT];
	struct nlmsghdr *h = fm_nl_question(nl, buf, RTM_GETROUTE);
	struct rtmsg *rt = mnl_nlmsg_put_extra_header(h, sizeof(*rt));
	struct hop hop = { 0 };
	int rc;

	if (a->device[0] && !if_nametoindex(a->device))
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, NAME ": there is no interface %s on this router", a->device);
	if (old->onlink)
		return 0;
	(void)fm_ip_text(&a->via, via);
	rt->rtm_family = (uint8_t)a->via.family;
	rt->rtm_dst_len = (uint8_t)(8 * fm_ip_len(&a->via));
	rt->rtm_flags = RTM_F_FIB_MATCH; /* the table's own words: with a device given, IPv4 takes everything for a neighbour */
	fm_ip_put(h, RTA_DST, &a->via);
	if (a->device[0])
		mnl_attr_put_u32(h, RTA_OIF, if_nametoindex(a->device));
	rc = fm_nl_ask(nl, h, hop_cb, &hop);
	if (rc < 0 && rc != -ENETUNREACH && rc != -EHOSTUNREACH && rc != -EACCES && rc != -EINVAL)
		return fm_nl_fail(nl, rc, err, NAME ": look for the next hop %s", via);
	if (rc < 0 || !hop.answered || hop.by_gateway || hop.type != RTN_UNICAST ||
	    (a->device[0] && hop.device[0] && !fm_streq(a->device, hop.device)))
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, NAME ": the next hop %s is not a neighbour of this router%s%s", via,
		                    a->device[0] ? " on " : "", a->device);
	return 0;
}

static int somebody_else(const struct action *a, const struct route *now, struct fm_error *err)
{
	char address[FM_IP_TEXT], text[160];

	return fm_error_set(err, FM_E_ABORTED, NAME ": somebody else changed the route to %s: it is %s now",
	                    fm_ip_text(&a->address, address), route_text(now, text));
}

/* From `now`, which is either of the two sides, to the other. */
static int settle(struct fm_nl *nl, const struct action *a, const struct route *now, const struct route *want, struct fm_error *err)
{
	char address[FM_IP_TEXT];
	int rc;

	if (want->count == 0)
		rc = write_route(nl, a, now, RTM_DELROUTE, 0);
	else
		rc = write_route(nl, a, want, RTM_NEWROUTE, now->count ? NLM_F_REPLACE : NLM_F_CREATE | NLM_F_EXCL);
	if (rc == -EEXIST || rc == -ENOENT || rc == -ESRCH) {
		struct route found = { 0 };

		if (route_read(nl, a, &found, err) < 0)
			return -1;
		return route_is(&found, want) ? 0 : somebody_else(a, &found, err);
	}
	return rc < 0 ? fm_nl_fail(nl, rc, err, NAME ": change the route to %s", fm_ip_text(&a->address, address)) : 0;
}

/* ---- the calls ---- */

struct call {
	struct action a;
	struct route old, after, now;
};

static int route_prepare(const struct fm_redirect_call *c, const json_t *action, json_t **ret_undo, struct fm_error *err)
{
	_fm_nl_ struct fm_nl *nl = NULL;
	struct action a = { 0 };
	struct route old = { 0 };

	if (action_parse(action, &a, err) < 0 || fm_redirect_may_go_on(c, NAME, err) < 0 || session(&nl, err) < 0 ||
	    route_read(nl, &a, &old, err) < 0 || check_old(&a, &old, err) < 0 || check_next_hop(nl, &a, &old, err) < 0)
		return -1;
	*ret_undo = undo_to_json(&old);
	return *ret_undo ? 0 : fm_error_errno(err, ENOMEM, NAME ": prepare");
}

static int begin(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_nl **nl, struct call *x,
                 struct fm_error *err)
{
	if (action_parse(action, &x->a, err) < 0 || undo_of_json(undo, &x->old, err) < 0 || fm_redirect_may_go_on(c, NAME, err) < 0 ||
	    session(nl, err) < 0 || route_read(*nl, &x->a, &x->now, err) < 0)
		return -1;
	x->after = route_after(&x->a, &x->old);
	return 0;
}

static int route_open(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	struct action a = { 0 };
	struct route old = { 0 };

	return action_parse(action, &a, err) < 0 || undo_of_json(undo, &old, err) < 0 ? -1 : fm_redirect_may_go_on(c, NAME, err);
}

static int route_flip(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	_fm_nl_ struct fm_nl *nl = NULL;
	struct call x = { 0 };

	if (begin(c, action, undo, &nl, &x, err) < 0)
		return -1;
	if (route_is(&x.now, &x.after))
		return 0;
	return route_is(&x.now, &x.old) ? settle(nl, &x.a, &x.now, &x.after, err) : somebody_else(&x.a, &x.now, err);
}

static int route_verify(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	_fm_nl_ struct fm_nl *nl = NULL;
	char address[FM_IP_TEXT], text[160];
	struct call x = { 0 };

	if (begin(c, action, undo, &nl, &x, err) < 0)
		return -1;
	if (!route_is(&x.now, &x.after))
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, NAME ": after the move the route to %s is %s",
		                    fm_ip_text(&x.a.address, address), route_text(&x.now, text));
	return 0;
}

static int route_revert(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	_fm_nl_ struct fm_nl *nl = NULL;
	struct call x = { 0 };

	if (begin(c, action, undo, &nl, &x, err) < 0)
		return -1;
	if (route_is(&x.now, &x.old))
		return 0;
	return route_is(&x.now, &x.after) ? settle(nl, &x.a, &x.now, &x.old, err) : somebody_else(&x.a, &x.now, err);
}

const struct fm_redirect_ops fm_redirect_route = {
	.name = NAME,
	.title = "host routes of a router",
	.prepare = route_prepare,
	.open = route_open,
	.flip = route_flip,
	.verify = route_verify,
	.revert = route_revert,
	.leftovers = NULL, /* the route is the old one's heir, with its protocol: no mark of ours */
};
