/* SPDX-License-Identifier: MIT */
/*
 * redirect-vxlan.c - driver "vxlan": the forwarding table of a VXLAN device, on every host of the VXLAN.
 *
 *   {"driver":"vxlan", "device":"vx0", "mac":"02:…", "from":"tunnel endpoint of the source", "to":"of the destination", "learning":true or false (optional: what the device must be)}
 *
 * What the kernel does (drivers/net/vxlan): a unicast MAC has one remote and no second (appending is for the all-zero MAC, whose remotes get what no entry is there for). So the one way to reach both
 * hosts is to have no entry and let the device flood; the closed endpoints drop what is not theirs, bridges of other hosts do not send back to the port that a frame came from. A static entry is not
 * moved by learning; on a device that learns, frames from another remote than the entry's are dropped even. A device with an entry for a multicast group floods to everybody already.
 *
 * Listed (a static entry for the MAC, or a device that does not learn):
 *   open    adds what of source and destination the all-zero list lacks, then removes the MAC's entry
 *   flip    MAC -> destination, then takes the added ones away again
 *   revert  the entry as it was, then takes the added ones away
 * Learned (no static entry on a device that learns): open does nothing, the announcement moves the entry; flip moves it where the announcement was lost. An entry that is not there is right.
 * Flooded (not listed, does not learn, and the destination is in the all-zero list): nothing has to be done and nothing is. Clients reach the container wherever it is.
 *
 * The two hosts themselves have an action too. Their own address is never a remote: at the source there is no entry before, at the destination none after, and only the source widens, so that its other
 * containers find the new place from the moment its endpoint is closed.
 *
 * Changes are made so that the kernel refuses rather than overwrites where it can: a new entry with NLM_F_EXCL, a removal with the remote that must be there.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <stdio.h>
#include <string.h>

#include "basic/str.h"
#include "network/endpoint.h"
#include "network/fields.h"
#include "network/redirect-kernel.h"

#define NAME     "vxlan"
#define MAX_ADDS 2 /* to the all-zero list: source and destination */
#define STATIC   (NUD_PERMANENT | NUD_NOARP)
#define FLAGS    (NTF_SELF | NTF_EXT_LEARNED | NTF_ROUTER)

enum mode { LISTED, LEARNED, FLOODED };
static const char *const mode_names[] = { "listed", "learned", "flooded", NULL };

struct entry {
	bool present;
	struct fm_ip dst;
	uint32_t state, flags;
	uint32_t port, vni;  /* 0 = the device's */
	char via[IFNAMSIZ];  /* "" = by route */
	bool nexthop_object; /* has no remote of its own */
};

struct action {
	char device[IFNAMSIZ];
	uint8_t mac[6];
	struct fm_ip from, to;
	bool learning, learning_given;
};

struct device {
	struct fm_nl *nl;
	int index;
	bool is_vxlan, learning, external;
	struct fm_ip local;
};

struct undo {
	enum mode mode;
	struct entry before;
	struct entry add[MAX_ADDS]; /* to the all-zero list */
	size_t n_add;
};

/* What the table says about the MAC and about the all-zero one. */
struct table {
	const struct action *a;
	struct entry own, zero;
	bool zero_from, zero_to, zero_group;
};

static bool is_zero(const uint8_t mac[6])
{
	static const uint8_t zero[6];

	return memcmp(mac, zero, sizeof(zero)) == 0;
}

static int action_parse(const json_t *o, struct action *ret, struct fm_error *err)
{
	static const struct fm_field fields[] = {
		FM_FIELD_DRIVER,
		{ FM_FIELD(struct action, device), .parse = fm_read_interface, .required = true },
		{ FM_FIELD(struct action, mac), .parse = fm_read_mac, .required = true },
		{ FM_FIELD(struct action, from), .parse = fm_read_host, .required = true },
		{ FM_FIELD(struct action, to), .parse = fm_read_host, .required = true },
		{ FM_FIELD(struct action, learning), .type = FM_FIELD_BOOL },
		{ 0 },
	};
	const struct fm_place at = { .who = NAME };
	struct action a = { .learning_given = json_object_get(o, "learning") };

	if (fm_fields_read(o, &at, fields, &a, err) < 0)
		return -1;
	if (a.from.family != a.to.family)
		return fm_field_wrong(&at, "to", "is not of from's family", err);
	if (fm_ip_equal(&a.from, &a.to))
		return fm_field_wrong(&at, "to", "is the same as from", err);
	*ret = a;
	return 0;
}

/* ---- the device ---- */

static void device_data(const struct nlattr *data, struct device *d)
{
	const struct nlattr *x;

	mnl_attr_for_each_nested (x, data) {
		switch (mnl_attr_get_type(x)) {
		case IFLA_VXLAN_LEARNING:
			d->learning = mnl_attr_get_u8(x);
			break;
		case IFLA_VXLAN_COLLECT_METADATA:
			d->external = mnl_attr_get_u8(x);
			break;
		case IFLA_VXLAN_LOCAL:
		case IFLA_VXLAN_LOCAL6:
			(void)fm_ip_of_attr(x, &d->local);
			break;
		default:
			break;
		}
	}
}

static int device_cb(const struct nlmsghdr *h, void *userdata)
{
	const struct ifinfomsg *ifi = mnl_nlmsg_get_payload(h);
	const struct nlattr *x, *y, *data = NULL;
	struct device *d = userdata;

	if (h->nlmsg_type != RTM_NEWLINK)
		return MNL_CB_OK;
	d->index = ifi->ifi_index;
	mnl_attr_for_each (x, h, sizeof(*ifi)) {
		if (mnl_attr_get_type(x) != IFLA_LINKINFO)
			continue;
		mnl_attr_for_each_nested (y, x) {
			if (mnl_attr_get_type(y) == IFLA_INFO_KIND && mnl_attr_validate(y, MNL_TYPE_NUL_STRING) >= 0)
				d->is_vxlan = strcmp(mnl_attr_get_str(y), "vxlan") == 0;
			else if (mnl_attr_get_type(y) == IFLA_INFO_DATA)
				data = y;
		}
	}
	if (d->is_vxlan && data)
		device_data(data, d);
	return MNL_CB_OK;
}

static void device_done(struct device *d)
{
	fm_nl_close(d->nl);
}

/* 1 = it is there, 0 = it is not. */
static int device_open(const struct action *a, struct device *ret, struct fm_error *err)
{
	char buf[256] __attribute__((aligned(8)));
	struct nlmsghdr *h;
	int rc;

	if (fm_nl_open(0, &ret->nl, err) < 0)
		return -1;
	h = fm_nl_question(ret->nl, buf, RTM_GETLINK);
	mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(h, IFLA_IFNAME, a->device);
	rc = fm_nl_ask(ret->nl, h, device_cb, ret);
	if (rc == -ENODEV)
		return 0;
	if (rc < 0)
		return fm_nl_fail(ret->nl, rc, err, NAME ": look for %s", a->device);
	if (!ret->is_vxlan)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, NAME ": interface %s is not a VXLAN device", a->device);
	return 1;
}

static int device_need(const struct action *a, struct device *ret, struct fm_error *err)
{
	int there = device_open(a, ret, err);

	if (there == 0)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, NAME ": there is no interface %s on this host", a->device);
	return there < 0 ? -1 : 0;
}

/* ---- its table ---- */

static void entry_parse(const struct nlmsghdr *h, struct entry *e, uint8_t mac[6], bool *is_bridges)
{
	const struct ndmsg *nd = mnl_nlmsg_get_payload(h);
	const struct nlattr *x;

	*e = (struct entry){ .present = true, .state = nd->ndm_state, .flags = nd->ndm_flags & FLAGS };
	*is_bridges = true;
	mnl_attr_for_each (x, h, sizeof(*nd)) {
		switch (mnl_attr_get_type(x)) {
		case NDA_LLADDR:
			if (mnl_attr_get_payload_len(x) == 6) {
				memcpy(mac, mnl_attr_get_payload(x), 6);
				*is_bridges = false;
			}
			break;
		case NDA_DST:
			(void)fm_ip_of_attr(x, &e->dst);
			break;
		case NDA_PORT:
			e->port = ntohs(mnl_attr_get_u16(x));
			break;
		case NDA_VNI:
			e->vni = mnl_attr_get_u32(x);
			break;
		case NDA_IFINDEX:
			if (!if_indextoname(mnl_attr_get_u32(x), e->via))
				e->via[0] = '\0';
			break;
		case NDA_NH_ID:
			e->nexthop_object = true;
			break;
		case NDA_MASTER: /* the table of the bridge that the device is a port of comes in the same answer */
			*is_bridges = true;
			return;
		default:
			break;
		}
	}
}

static int table_cb(const struct nlmsghdr *h, void *userdata)
{
	struct table *t = userdata;
	uint8_t mac[6] = { 0 };
	bool is_bridges;
	struct entry e;

	if (h->nlmsg_type != RTM_NEWNEIGH || h->nlmsg_len < mnl_nlmsg_size(sizeof(struct ndmsg)))
		return MNL_CB_OK;
	entry_parse(h, &e, mac, &is_bridges);
	if (is_bridges)
		return MNL_CB_OK;
	if (memcmp(mac, t->a->mac, sizeof(mac)) == 0)
		t->own = e;
	if (!is_zero(mac))
		return MNL_CB_OK;
	t->zero = e;
	t->zero_from |= fm_ip_equal(&e.dst, &t->a->from);
	t->zero_to |= fm_ip_equal(&e.dst, &t->a->to);
	t->zero_group |= e.dst.family != AF_UNSPEC && !fm_ip_is_unicast(&e.dst);
	return MNL_CB_OK;
}

static void table_reset(void *userdata)
{
	struct table *t = userdata;

	*t = (struct table){ .a = t->a };
}

static int table_read(const struct device *d, const struct action *a, struct table *ret, struct fm_error *err)
{
	/* the kernel takes an ifinfomsg here, with the port whose entries are wanted */
	struct ifinfomsg of = { .ifi_family = PF_BRIDGE, .ifi_index = d->index };
	int rc;

	*ret = (struct table){ .a = a };
	rc = fm_nl_dump(d->nl, RTM_GETNEIGH, &of, sizeof(of), table_cb, ret, table_reset);
	return rc < 0 ? fm_nl_fail(d->nl, rc, err, NAME ": read the forwarding table of %s", a->device) : 0;
}

/* The MAC's entry alone, however long the table is. */
static int own_read(const struct device *d, const struct action *a, struct entry *ret, struct fm_error *err)
{
	char buf[256] __attribute__((aligned(8)));
	struct nlmsghdr *h = fm_nl_question(d->nl, buf, RTM_GETNEIGH);
	struct ndmsg *nd = mnl_nlmsg_put_extra_header(h, sizeof(*nd));
	struct table t = { .a = a };
	int rc;

	nd->ndm_family = PF_BRIDGE;
	nd->ndm_ifindex = d->index;
	nd->ndm_flags = NTF_SELF;
	mnl_attr_put(h, NDA_LLADDR, sizeof(a->mac), a->mac);
	rc = fm_nl_ask(d->nl, h, table_cb, &t);
	if (rc < 0 && rc != -ENOENT)
		return fm_nl_fail(d->nl, rc, err, NAME ": read the forwarding entry of %s", a->device);
	*ret = t.own;
	return 0;
}

static const char *entry_text(const struct entry *e, char buf[128])
{
	char ip[FM_IP_TEXT];

	if (!e->present)
		return "not listed";
	(void)snprintf(buf, 128, "%s %s%s%s", e->state & STATIC ? "listed at" : "learned from", fm_ip_text(&e->dst, ip),
	               e->via[0] ? " through " : "", e->via);
	return buf;
}

static bool entry_same(const struct entry *a, const struct entry *b)
{
	if (!a->present || !b->present)
		return a->present == b->present;
	return fm_ip_equal(&a->dst, &b->dst) && a->port == b->port && a->vni == b->vni && fm_streq(a->via, b->via) &&
	       !(a->state & STATIC) == !(b->state & STATIC) && !a->nexthop_object && !b->nexthop_object;
}

static const uint8_t zero_mac[6];

static int change(const struct device *d, const uint8_t mac[6], const struct entry *e, uint16_t type, uint16_t flags)
{
	struct nlmsghdr *h = fm_nl_begin(d->nl, type, flags, 128);
	struct ndmsg *nd;

	if (!h)
		return -ENOBUFS;
	nd = mnl_nlmsg_put_extra_header(h, sizeof(*nd));
	nd->ndm_family = PF_BRIDGE;
	nd->ndm_ifindex = d->index;
	nd->ndm_state = (uint16_t)e->state;
	nd->ndm_flags = (uint8_t)(e->flags | NTF_SELF);
	mnl_attr_put(h, NDA_LLADDR, 6, mac);
	fm_ip_put(h, NDA_DST, &e->dst);
	if (e->port)
		mnl_attr_put_u16(h, NDA_PORT, htons((uint16_t)e->port));
	if (e->vni)
		mnl_attr_put_u32(h, NDA_VNI, e->vni);
	if (e->via[0])
		mnl_attr_put_u32(h, NDA_IFINDEX, if_nametoindex(e->via));
	return fm_nl_flush(d->nl);
}

/* ---- undo ---- */

static json_t *entry_to_json(const struct entry *e)
{
	char ip[FM_IP_TEXT];

	if (!e->present)
		return json_null();
	return json_pack("{s:s, s:i, s:i, s:i, s:i, s:s}", "dst", fm_ip_text(&e->dst, ip), "state", (int)e->state, "flags", (int)e->flags,
	                 "port", (int)e->port, "vni", (int)e->vni, "via", e->via);
}

static int entry_of_json(const json_t *o, const struct fm_place *at, struct entry *ret, struct fm_error *err)
{
	static const struct fm_field fields[] = {
		{ FM_FIELD(struct entry, dst), .parse = fm_read_host, .required = true },
		{ FM_FIELD(struct entry, state), .type = FM_FIELD_U32, .max = UINT16_MAX, .required = true },
		{ FM_FIELD(struct entry, flags), .type = FM_FIELD_U32, .max = UINT8_MAX, .required = true },
		{ FM_FIELD(struct entry, port), .type = FM_FIELD_U32, .max = UINT16_MAX, .required = true },
		{ FM_FIELD(struct entry, vni), .type = FM_FIELD_U32, .max = (1u << 24) - 1, .required = true },
		{ FM_FIELD(struct entry, via), .parse = fm_read_interface, .empty = true, .required = true },
		{ 0 },
	};
	struct entry e = { .present = true };

	if (fm_fields_read(o, at, fields, &e, err) < 0)
		return -1;
	*ret = e;
	return 0;
}

static json_t *undo_to_json(const struct undo *u)
{
	json_t *add = json_array(), *o;

	for (size_t i = 0; i < u->n_add; i++)
		(void)json_array_append_new(add, entry_to_json(&u->add[i]));
	o = json_pack("{s:s, s:o, s:o}", "mode", mode_names[u->mode], "before", entry_to_json(&u->before), "added", add);
	return o;
}

static int added_of_json(void *userdata, size_t i, const json_t *o, const struct fm_place *at, struct fm_error *err)
{
	struct undo *u = userdata;

	u->n_add = i + 1;
	return entry_of_json(o, at, &u->add[i], err);
}

static int undo_of_json(const json_t *o, struct undo *ret, struct fm_error *err)
{
	struct raw {
		unsigned mode;
		const json_t *before, *added;
	} raw = { 0 };
	static const struct fm_field fields[] = {
		{ FM_FIELD(struct raw, mode), .type = FM_FIELD_WORD, .words = mode_names, .required = true },
		{ FM_FIELD(struct raw, before), .type = FM_FIELD_OBJECT, .empty = true, .required = true },
		{ FM_FIELD(struct raw, added), .type = FM_FIELD_LIST, .max = MAX_ADDS, .required = true },
		{ 0 },
	};
	const struct fm_place at = { .who = NAME ": undo", .code = FM_E_DATA_LOSS }, before = fm_place_member(&at, "before");
	struct undo u = { 0 };

	if (fm_fields_read(o, &at, fields, &raw, err) < 0 || (raw.before && entry_of_json(raw.before, &before, &u.before, err) < 0) ||
	    fm_fields_each(raw.added, &at, "added", added_of_json, &u, err) < 0)
		return -1;
	u.mode = (enum mode)raw.mode;
	*ret = u;
	return 0;
}

/* ---- the plan ---- */

static bool is_at(const struct device *d, const struct fm_ip *vtep)
{
	return fm_ip_equal(&d->local, vtep);
}

static struct entry entry_after(const struct device *d, const struct action *a, const struct undo *u)
{
	struct entry e = u->before;

	if (is_at(d, &a->to))
		return (struct entry){ 0 };
	if (!e.present)
		e = (struct entry){ .present = true,
			            .state = u->mode == LEARNED ? NUD_REACHABLE : NUD_NOARP | NUD_PERMANENT,
			            .flags = NTF_SELF };
	e.dst = a->to;
	return e;
}

static int check_device(const struct device *d, const struct action *a, struct fm_error *err)
{
	char local[FM_IP_TEXT];

	if (d->external)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, NAME ": %s has no forwarding table of its own (external)", a->device);
	if (a->learning_given && a->learning != d->learning)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, NAME ": %s %s, the action says otherwise", a->device,
		                    d->learning ? "learns" : "does not learn");
	if (d->local.family != AF_UNSPEC && d->local.family != a->from.family)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, NAME ": the tunnel of %s is of the other family (%s)", a->device,
		                    fm_ip_text(&d->local, local));
	return 0;
}

static int check_entry(const struct device *d, const struct action *a, const struct entry *own, struct fm_error *err)
{
	char text[128];
	bool ok = !own->present || (fm_ip_equal(&own->dst, &a->from) && !is_at(d, &a->from));

	if (own->present && (own->nexthop_object || (own->flags & NTF_EXT_LEARNED))) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, NAME ": the MAC's entry on %s belongs to a routing daemon", a->device);
		return fm_error_hint(err, "leave this action out: who wrote the entry moves it");
	}
	/* an older move back is still remembered: nobody told the kernel that it is over */
	if (own->present && !(own->state & STATIC) && fm_ip_equal(&own->dst, &a->to))
		ok = true;
	if (!ok)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, NAME ": the MAC is %s on %s, not where the action says",
		                    entry_text(own, text), a->device);
	return 0;
}

/* Which of the two the all-zero list lacks. Entries of one MAC share their state. */
static void plan_adds(const struct device *d, const struct action *a, const struct table *t, struct undo *u)
{
	struct entry e = { .present = true, .state = NUD_PERMANENT, .flags = NTF_SELF };

	if (u->mode != LISTED || t->zero_group || is_at(d, &a->to))
		return;
	if (t->zero.present) {
		e.state = t->zero.state;
		e.flags = t->zero.flags;
	}
	e.port = u->before.port;
	e.vni = u->before.vni;
	memcpy(e.via, u->before.via, sizeof(e.via));
	if (!t->zero_from && !is_at(d, &a->from)) {
		e.dst = a->from;
		u->add[u->n_add++] = e;
	}
	if (!t->zero_to) {
		e.dst = a->to;
		u->add[u->n_add++] = e;
	}
}

static void plan(const struct device *d, const struct action *a, const struct table *t, struct undo *u)
{
	bool is_static = t->own.present && (t->own.state & STATIC);

	*u = (struct undo){ .mode = LISTED };
	if (d->learning && !is_static)
		u->mode = LEARNED;
	else if (!t->own.present && (t->zero_to || t->zero_group) && !is_at(d, &a->from))
		u->mode = FLOODED;
	u->before = t->own;
	plan_adds(d, a, t, u);
}

static int somebody_else(const struct action *a, const struct entry *now, struct fm_error *err)
{
	char text[128], mac[18];

	fm_mac_format(a->mac, mac);
	return fm_error_set(err, FM_E_ABORTED, NAME ": somebody else changed %s on %s: it is %s now", mac, a->device,
	                    entry_text(now, text));
}

/* As open leaves it. On a device that learns, what came in since was learned. */
static bool is_opened(const struct device *d, const struct entry *now)
{
	return !now->present || (d->learning && !(now->state & STATIC));
}

static int remove_adds(const struct device *d, const struct action *a, const struct undo *u, struct fm_error *err)
{
	for (size_t i = 0; i < u->n_add; i++) {
		int rc = change(d, zero_mac, &u->add[i], RTM_DELNEIGH, 0);

		if (rc < 0 && rc != -ENOENT)
			return fm_nl_fail(d->nl, rc, err, NAME ": take a destination of flooding away from %s", a->device);
	}
	return 0;
}

/* From what is there now to what shall be. */
static int settle(const struct device *d, const struct action *a, const struct entry *now, const struct entry *want, struct fm_error *err)
{
	int rc;

	if (entry_same(now, want))
		return 0;
	if (!want->present)
		rc = change(d, a->mac, now, RTM_DELNEIGH, 0);
	else
		rc = change(d, a->mac, want, RTM_NEWNEIGH, now->present ? NLM_F_REPLACE : NLM_F_CREATE | NLM_F_EXCL);
	if (rc == -EEXIST || rc == -ENOENT) {
		struct entry found = { 0 };

		if (own_read(d, a, &found, err) < 0)
			return -1;
		return entry_same(&found, want) ? 0 : somebody_else(a, &found, err);
	}
	return rc < 0 ? fm_nl_fail(d->nl, rc, err, NAME ": write the MAC's entry on %s", a->device) : 0;
}

/* ---- the calls ---- */

#define _device_ _fm_cleanup_(device_done)

static int vxlan_prepare(const struct fm_redirect_call *c, const json_t *action, json_t **ret_undo, struct fm_error *err)
{
	_device_ struct device d = { 0 };
	struct action a = { 0 };
	struct table t = { 0 };
	struct undo u = { 0 };

	if (action_parse(action, &a, err) < 0 || fm_redirect_may_go_on(c, NAME, err) < 0 || device_need(&a, &d, err) < 0 ||
	    check_device(&d, &a, err) < 0 || table_read(&d, &a, &t, err) < 0 || check_entry(&d, &a, &t.own, err) < 0)
		return -1;
	plan(&d, &a, &t, &u);
	*ret_undo = undo_to_json(&u);
	return *ret_undo ? 0 : fm_error_errno(err, ENOMEM, NAME ": prepare");
}

static int begin(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct action *a, struct undo *u,
                 struct fm_error *err)
{
	return action_parse(action, a, err) < 0 || undo_of_json(undo, u, err) < 0 ? -1 : fm_redirect_may_go_on(c, NAME, err);
}

static int widen(const struct device *d, const struct action *a, const struct undo *u, struct fm_error *err)
{
	int rc = 0;

	for (size_t i = 0; i < u->n_add && rc == 0; i++)
		rc = change(d, zero_mac, &u->add[i], RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_APPEND);
	if (rc < 0)
		return fm_nl_fail(d->nl, rc, err, NAME ": add a destination of flooding to %s", a->device);
	/* the destination itself stays with its entry: its own containers have the bridge's from the moment the endpoint opens */
	if (!u->before.present || is_at(d, &a->to))
		return 0;
	rc = change(d, a->mac, &u->before, RTM_DELNEIGH, 0);
	if (rc < 0 && rc != -ENOENT)
		return fm_nl_fail(d->nl, rc, err, NAME ": remove the MAC's entry from %s", a->device);
	return 0;
}

static int vxlan_open(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	_device_ struct device d = { 0 };
	struct entry now = { 0 }, after;
	struct action a = { 0 };
	struct undo u = { 0 };

	if (begin(c, action, undo, &a, &u, err) < 0)
		return -1;
	if (u.mode != LISTED)
		return 0;
	if (device_need(&a, &d, err) < 0 || own_read(&d, &a, &now, err) < 0)
		return -1;
	after = entry_after(&d, &a, &u);
	if (after.present && entry_same(&now, &after))
		return 0; /* flipped already: not to be widened again */
	if (!entry_same(&now, &u.before) && !is_opened(&d, &now))
		return somebody_else(&a, &now, err);
	return widen(&d, &a, &u, err);
}

/* Learned: the entry goes where the container went, unless the kernel has heard it from there. */
static int move_learned(const struct device *d, const struct action *a, const struct entry *now, const struct fm_ip *from,
                        const struct fm_ip *to, struct fm_error *err)
{
	struct entry want = *now;

	if (!now->present || fm_ip_equal(&now->dst, to))
		return 0;
	if ((now->state & STATIC) || !fm_ip_equal(&now->dst, from))
		return somebody_else(a, now, err);
	want.dst = *to;
	if (is_at(d, to))
		want = (struct entry){ 0 };
	return settle(d, a, now, &want, err);
}

static int vxlan_flip(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	_device_ struct device d = { 0 };
	struct entry now = { 0 }, after;
	struct action a = { 0 };
	struct undo u = { 0 };

	if (begin(c, action, undo, &a, &u, err) < 0)
		return -1;
	if (u.mode == FLOODED)
		return 0;
	if (device_need(&a, &d, err) < 0 || own_read(&d, &a, &now, err) < 0)
		return -1;
	if (u.mode == LEARNED)
		return move_learned(&d, &a, &now, &a.from, &a.to, err);
	after = entry_after(&d, &a, &u);
	if (!entry_same(&now, &after) && !entry_same(&now, &u.before) && !is_opened(&d, &now))
		return somebody_else(&a, &now, err);
	return settle(&d, &a, &now, &after, err) < 0 ? -1 : remove_adds(&d, &a, &u, err);
}

static int vxlan_verify(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	_device_ struct device d = { 0 };
	struct entry after;
	struct action a = { 0 };
	struct table t = { 0 };
	struct undo u = { 0 };
	char text[128];
	bool ok;

	if (begin(c, action, undo, &a, &u, err) < 0 || device_need(&a, &d, err) < 0 || table_read(&d, &a, &t, err) < 0)
		return -1;
	after = entry_after(&d, &a, &u);
	if (u.mode == LISTED)
		ok = entry_same(&t.own, &after);
	else
		ok = !t.own.present || (u.mode == LEARNED && fm_ip_equal(&t.own.dst, &a.to));
	if (!ok)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, NAME ": after the move the MAC is %s on %s", entry_text(&t.own, text),
		                    a.device);
	for (size_t i = 0; i < u.n_add; i++)
		if (fm_ip_equal(&u.add[i].dst, &a.to) ? t.zero_to : t.zero_from)
			return fm_error_set(err, FM_E_FAILED_PRECONDITION, NAME ": %s still floods to what was added for the move",
			                    a.device);
	return 0;
}

static int vxlan_revert(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	_device_ struct device d = { 0 };
	struct entry now = { 0 }, after;
	struct action a = { 0 };
	struct undo u = { 0 };
	int there;

	if (begin(c, action, undo, &a, &u, err) < 0)
		return -1;
	there = u.mode == FLOODED ? 0 : device_open(&a, &d, err);
	if (there <= 0)
		return there; /* with the device its table went */
	if (own_read(&d, &a, &now, err) < 0)
		return -1;
	if (u.mode == LEARNED)
		return move_learned(&d, &a, &now, &a.to, &a.from, err);
	after = entry_after(&d, &a, &u);
	if (!entry_same(&now, &after) && !entry_same(&now, &u.before) && !is_opened(&d, &now))
		return somebody_else(&a, &now, err);
	return settle(&d, &a, &now, &u.before, err) < 0 ? -1 : remove_adds(&d, &a, &u, err);
}

const struct fm_redirect_ops fm_redirect_vxlan = {
	.name = NAME,
	.title = "forwarding entries of a VXLAN",
	.prepare = vxlan_prepare,
	.open = vxlan_open,
	.flip = vxlan_flip,
	.verify = vxlan_verify,
	.revert = vxlan_revert,
	.leftovers = NULL, /* an entry has no room for a mark */
};
