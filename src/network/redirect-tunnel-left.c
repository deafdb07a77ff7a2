/* SPDX-License-Identifier: MIT */
/*
 * redirect-tunnel-left.c - tunnels on this host that nobody knows, and rules of such: found by their marks, named, and taken away. See redirect-tunnel-internal.h.
 *
 * A device has the mark in its name, and is a VXLAN. A rule has our protocol number and priority, and its table, or the interface it is for, says of which tunnel it is. Its neighbours, and the routes of its
 * table, go with a device; rules do not.
 */
#include <errno.h>
#include <linux/fib_rules.h>
#include <stdio.h>
#include <string.h>

#include "basic/str.h"
#include "network/redirect-kernel.h"
#include "network/redirect-tunnel-internal.h"

#define NAME           "tunnel"
#define RULE_BYTES_MAX 512 /* as the kernel tells it */
#define FOUND_MAX      256 /* of all kinds; more are found by the next call */
#define WORDS_MAX      192

struct found {
	char words[WORDS_MAX];
	char device[IFNAMSIZ]; /* "": a rule */
	size_t n;
	char rule[RULE_BYTES_MAX]; /* header and attributes */
};

struct search {
	const json_t *known;
	struct found *v;
	size_t n;
};

static void search_done(struct search *s)
{
	free(s->v);
}

static const char *known_id(const json_t *action)
{
	const char *id = json_string_value(json_object_get(action, "id"));

	return fm_streq(json_string_value(json_object_get(action, "driver")), NAME) ? id : NULL;
}

static bool is_known(const json_t *known, const char *device, uint32_t table)
{
	const json_t *o;
	size_t i;

	json_array_foreach(known, i, o)
	{
		const char *id = known_id(o);

		if (id &&
		    ((device && fm_streq(device + strlen(FM_TUNNEL_PREFIX), id)) || (FM_TUNNEL_TABLE_BASE | fm_tunnel_vni(id)) == table))
			return true;
	}
	return false;
}

static bool is_tunnel_name(const char *s)
{
	const char *id = s + strlen(FM_TUNNEL_PREFIX);

	return fm_str_startswith(s, FM_TUNNEL_PREFIX) && strlen(id) == FM_TUNNEL_ID_LEN &&
	       strspn(id, "0123456789abcdef") == FM_TUNNEL_ID_LEN;
}

static struct found *next(struct search *s)
{
	return s->n < FOUND_MAX ? &s->v[s->n] : NULL;
}

static void look_at_link(const struct fm_link *link, void *userdata)
{
	struct search *s = userdata;
	struct found *f = next(s);

	if (!f || !is_tunnel_name(link->name) || !fm_streq(link->kind, "vxlan") || is_known(s->known, link->name, 0))
		return;
	*f = (struct found){ 0 };
	(void)snprintf(f->device, sizeof(f->device), "%s", link->name);
	(void)snprintf(f->words, sizeof(f->words), "tunnel %s (ip link delete %s)", link->name, link->name);
	s->n++;
}

static void forget_links(void *userdata)
{
	((struct search *)userdata)->n = 0;
}

/* What a rule says, as far as ours say something. */
struct rule {
	uint32_t table, priority, protocol;
	const char *iif;
	struct fm_ip from, to;
};

static void read_rule(const struct nlmsghdr *h, struct rule *r)
{
	const struct nlattr *x;

	mnl_attr_for_each (x, h, sizeof(struct fib_rule_hdr)) {
		switch (mnl_attr_get_type(x)) {
		case FRA_TABLE:
			r->table = mnl_attr_get_u32(x);
			break;
		case FRA_PRIORITY:
			r->priority = mnl_attr_get_u32(x);
			break;
		case FRA_PROTOCOL:
			r->protocol = mnl_attr_get_u8(x);
			break;
		case FRA_IIFNAME:
			r->iif = mnl_attr_validate(x, MNL_TYPE_NUL_STRING) >= 0 ? mnl_attr_get_str(x) : NULL;
			break;
		case FRA_SRC:
			(void)fm_ip_of_attr(x, &r->from);
			break;
		case FRA_DST:
			(void)fm_ip_of_attr(x, &r->to);
			break;
		default:
			break;
		}
	}
}

static void say_rule(int family, const struct rule *r, char words[WORDS_MAX])
{
	char from[FM_IP_TEXT], to[FM_IP_TEXT];

	(void)snprintf(words, WORDS_MAX, "rule of a tunnel (ip %s rule delete priority %u protocol %u%s%s%s%s%s%s)",
	               family == AF_INET6 ? "-6" : "-4", r->priority, r->protocol, r->from.family ? " from " : "",
	               r->from.family ? fm_ip_text(&r->from, from) : "", r->to.family ? " to " : "",
	               r->to.family ? fm_ip_text(&r->to, to) : "", r->iif ? " iif " : "", r->iif ? r->iif : "");
	fm_str_sanitize(words);
}

static int look_at_rule(const struct nlmsghdr *h, void *userdata)
{
	const struct fib_rule_hdr *header = mnl_nlmsg_get_payload(h);
	struct search *s = userdata;
	struct found *f = next(s);
	struct rule r = { 0 };
	bool of_tunnel;

	if (!f || h->nlmsg_type != RTM_NEWRULE || h->nlmsg_len < mnl_nlmsg_size(sizeof(*header)) ||
	    mnl_nlmsg_get_payload_len(h) > RULE_BYTES_MAX)
		return MNL_CB_OK;
	read_rule(h, &r);
	of_tunnel = (r.iif && is_tunnel_name(r.iif)) || (r.table & 0xff000000) == FM_TUNNEL_TABLE_BASE;
	if (r.protocol != FM_TUNNEL_PROTOCOL || r.priority < FM_TUNNEL_PRIORITY || r.priority > FM_TUNNEL_PRIORITY + 2 || !of_tunnel ||
	    is_known(s->known, r.iif && is_tunnel_name(r.iif) ? r.iif : NULL, r.table))
		return MNL_CB_OK;
	*f = (struct found){ .n = mnl_nlmsg_get_payload_len(h) };
	memcpy(f->rule, header, f->n);
	say_rule(header->family, &r, f->words);
	s->n++;
	return MNL_CB_OK;
}

static int search(const struct fm_redirect_call *c, const json_t *known, struct fm_nl *nl, struct search *ret, struct fm_error *err)
{
	struct fib_rule_hdr all = { 0 };
	int rc;

	*ret = (struct search){ .known = known, .v = calloc(FOUND_MAX, sizeof(*ret->v)) };
	if (!ret->v)
		return fm_error_errno(err, ENOMEM, NAME ": look for leftovers");
	rc = fm_nl_links(nl, look_at_link, ret, forget_links);
	/* rules twice, where the kernel is asked again, are no harm: they are told, and deleted, once */
	if (rc == 0)
		rc = fm_nl_dump(nl, RTM_GETRULE, &all, sizeof(all), look_at_rule, ret, NULL);
	return rc < 0 ? fm_nl_fail(nl, rc, err, NAME ": look for leftovers") : 0;
}

static bool told_before(const struct search *s, size_t i)
{
	for (size_t k = 0; k < i; k++)
		if (fm_streq(s->v[k].words, s->v[i].words))
			return true;
	return false;
}

int fm_tunnel_leftovers(const struct fm_redirect_call *c, const json_t *known, void (*cb)(const char *what, void *userdata), void *userdata,
                        struct fm_error *err)
{
	_fm_cleanup_(search_done) struct search s = { 0 };
	_fm_nl_ struct fm_nl *nl = NULL;

	if (fm_redirect_may_go_on(c, NAME, err) < 0 || fm_nl_open(0, &nl, err) < 0 || search(c, known, nl, &s, err) < 0)
		return -1;
	for (size_t i = 0; i < s.n; i++)
		if (!told_before(&s, i))
			cb(s.v[i].words, userdata);
	return 0;
}

/* The kernel's own words back to it. */
static int delete_rule(struct fm_nl *nl, const struct found *f)
{
	struct nlmsghdr *h = fm_nl_begin(nl, RTM_DELRULE, 0, RULE_BYTES_MAX);

	if (!h)
		return -ENOBUFS;
	memcpy(mnl_nlmsg_put_extra_header(h, f->n), f->rule, f->n);
	return fm_nl_flush(nl);
}

int fm_tunnel_clean(const struct fm_redirect_call *c, const json_t *known, const char *what, struct fm_error *err)
{
	_fm_cleanup_(search_done) struct search s = { 0 };
	_fm_nl_ struct fm_nl *nl = NULL;
	int rc = 0;

	if (fm_redirect_may_go_on(c, NAME, err) < 0 || fm_nl_open(0, &nl, err) < 0 || search(c, known, nl, &s, err) < 0)
		return -1;
	for (size_t i = 0; i < s.n && rc == 0; i++) {
		if (!fm_streq(s.v[i].words, what))
			continue;
		rc = s.v[i].device[0] ? fm_nl_link_delete(nl, s.v[i].device) : delete_rule(nl, &s.v[i]);
		if (rc == -ENODEV || rc == -ENOENT) /* gone meanwhile */
			rc = 0;
	}
	return rc < 0 ? fm_nl_fail(nl, rc, err, NAME ": %s", what) : 0;
}
