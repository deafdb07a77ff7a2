/* SPDX-License-Identifier: MIT */
/* redirect-flow.c - see redirect-flow.h. */
#include "network/redirect-flow.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "basic/str.h"
#include "loop/http.h"
#include "network/address.h"
#include "network/fields.h"
#include "network/openflow.h"
#include "network/redirect.h"

#define ETH_TYPE_IPV4 0x0800
#define ETH_TYPE_IPV6 0x86dd
#define ADDRESS_MAX   160

/* ---- the match ---- */

const char *fm_flow_driver(enum fm_flow_kind kind)
{
	return kind == FM_FLOW_REST ? "rest" : "openflow";
}

static int match_mac(const char *text, struct fm_of_match *m, struct fm_error *err)
{
	if (!fm_mac_parse(text, m->eth_dst) || memcmp(m->eth_dst, "\0\0\0\0\0\0", 6) == 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%.32s' is no MAC address", text);
	if (m->eth_dst[0] & 1)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s is the address of a group: frames to many are not redirected", text);
	m->has = FM_OF_ETH_DST;
	return 0;
}

static int match_ipv4(const char *text, struct fm_of_match *m, struct fm_error *err)
{
	if (inet_pton(AF_INET, text, &m->ipv4_dst) != 1)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%.64s' is no IPv4 address", text);
	if (m->ipv4_dst.s_addr == 0 || ntohl(m->ipv4_dst.s_addr) >= 0xe0000000u)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s is the address of no host", text);
	m->eth_type = ETH_TYPE_IPV4;
	m->has = FM_OF_ETH_TYPE | FM_OF_IPV4_DST;
	return 0;
}

static int match_ipv6(const char *text, struct fm_of_match *m, struct fm_error *err)
{
	if (inet_pton(AF_INET6, text, &m->ipv6_dst) != 1)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%.64s' is no IPv6 address", text);
	if (IN6_IS_ADDR_UNSPECIFIED(&m->ipv6_dst) || IN6_IS_ADDR_MULTICAST(&m->ipv6_dst))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s is the address of no host", text);
	m->eth_type = ETH_TYPE_IPV6;
	m->has = FM_OF_ETH_TYPE | FM_OF_IPV6_DST;
	return 0;
}

static int match_parse(const json_t *o, const struct fm_place *outer, struct fm_flow_plan *p, struct fm_error *err)
{
	struct raw {
		const char *mac, *ipv4, *ipv6;
		uint16_t vlan;
	} raw = { 0 };
	static const struct fm_field fields[] = {
		{ FM_FIELD(struct raw, mac), .max = 32 },
		{ FM_FIELD(struct raw, ipv4), .max = 64 },
		{ FM_FIELD(struct raw, ipv6), .max = 64 },
		{ FM_FIELD(struct raw, vlan), .type = FM_FIELD_U16, .min = 1, .max = 4094 },
		{ 0 },
	};
	const struct fm_place at = fm_place_member(outer, "match");
	char vlan_text[24] = "";

	if (fm_fields_read(o, &at, fields, &raw, err) < 0)
		return -1;
	if (!!raw.mac + !!raw.ipv4 + !!raw.ipv6 != 1)
		return fm_field_wrong(&at, NULL, "needs exactly one of mac, ipv4, ipv6", err);
	if ((raw.mac    ? match_mac(raw.mac, &p->match, err)
	     : raw.ipv4 ? match_ipv4(raw.ipv4, &p->match, err)
	                : match_ipv6(raw.ipv6, &p->match, err)) < 0)
		return fm_field_error(&at, raw.mac ? "mac" : raw.ipv4 ? "ipv4" : "ipv6", err);
	if (raw.vlan) {
		p->match.has |= FM_OF_VLAN_VID;
		p->match.vlan_vid = raw.vlan;
		(void)snprintf(vlan_text, sizeof(vlan_text), " in VLAN %u", raw.vlan);
	}
	(void)snprintf(p->what, sizeof(p->what), "%.46s%s (table %u, priority %u)",
	               raw.mac    ? raw.mac
	               : raw.ipv4 ? raw.ipv4
	                          : raw.ipv6,
	               vlan_text, p->table, p->priority);
	return 0;
}

static bool same_match(const struct fm_of_match *ours, const struct fm_of_match *m)
{
	return !m->more && m->has == ours->has && (!(m->has & FM_OF_ETH_DST) || memcmp(m->eth_dst, ours->eth_dst, 6) == 0) &&
	       (!(m->has & FM_OF_ETH_TYPE) || m->eth_type == ours->eth_type) &&
	       (!(m->has & FM_OF_VLAN_VID) || m->vlan_vid == ours->vlan_vid) &&
	       (!(m->has & FM_OF_IPV4_DST) || m->ipv4_dst.s_addr == ours->ipv4_dst.s_addr) &&
	       (!(m->has & FM_OF_IPV6_DST) || IN6_ARE_ADDR_EQUAL(&m->ipv6_dst, &ours->ipv6_dst));
}

/* ---- the action ---- */

static int read_cookie(const char *text, void *ret, struct fm_error *err)
{
	uint64_t cookie = 0;

	if (fm_read_hex(text, &cookie, err) < 0)
		return -1;
	if ((cookie & FM_FLOW_COOKIE_MASK) != FM_FLOW_COOKIE)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s does not begin with 0x%04x, of 16 digits", text,
		                    (unsigned)(FM_FLOW_COOKIE >> 48));
	*(uint64_t *)ret = cookie;
	return 0;
}

static int read_switch_address(const char *text, void *ret, struct fm_error *err)
{
	if (fm_of_address_is_numeric(text)) {
		*(const char **)ret = text;
		return 0;
	}
	(void)fm_error_set(err, FM_E_INVALID_ARGUMENT, "\"%.64s\" is not tcp:ADDRESS:PORT or unix:/PATH", text);
	return fm_error_hint(err,
	                     "hosts are written as addresses, IPv6 in brackets: looking up a name could take longer than there is time");
}

static const struct fm_field *switch_fields(enum fm_flow_kind kind)
{
#define AT(member)   FM_FIELD(struct fm_flow_switch, member), .required = true
#define NAME         AT(name), .max = FM_MAX_NAME - 1, .check = fm_name_is_valid, .what = "is not the name of a switch"
#define PORT(member) AT(member), .type = FM_FIELD_U32, .min = 1, .max = FM_OF_PORT_MAX
	static const struct fm_field openflow[] = {
		{ NAME }, { AT(address), .max = ADDRESS_MAX, .parse = read_switch_address }, { PORT(from_port) }, { PORT(to_port) }, { 0 },
	};
	static const struct fm_field rest[] = {
		{ NAME }, { AT(dpid), .type = FM_FIELD_U64, .min = 1, .max = INT64_MAX }, { PORT(from_port) }, { PORT(to_port) }, { 0 },
	};
#undef AT
#undef NAME
#undef PORT

	return kind == FM_FLOW_REST ? rest : openflow;
}

struct reading {
	struct fm_flow_plan *p;
	struct fm_flow_switch all[FM_MAX_OF_SWITCHES];
};

static int switch_parse(void *userdata, size_t i, const json_t *o, const struct fm_place *at, struct fm_error *err)
{
	struct reading *r = userdata;
	struct fm_flow_switch *all = r->all, *s = &all[i];
	char said[48];

	if (fm_fields_read(o, at, switch_fields(r->p->kind), s, err) < 0)
		return -1;
	for (size_t j = 0; j < i; j++)
		if (fm_streq(s->name, all[j].name) || fm_streq(s->address, all[j].address) || (s->dpid && s->dpid == all[j].dpid)) {
			(void)snprintf(said, sizeof(said), "is switches[%zu] once more", j);
			return fm_field_wrong(at, NULL, said, err);
		}
	if (s->from_port != s->to_port)
		r->p->at[r->p->n++] = *s;
	return 0;
}

static int controller_check(const struct fm_flow_plan *p, const struct fm_place *at, struct fm_error *err)
{
	if (fm_http_url_check(p->url, err) < 0)
		return fm_field_error(at, "url", err);
	if (strpbrk(p->url, "?#"))
		return fm_field_wrong(at, "url", "has a query; it is what /stats/… is put behind", err);
	if (p->unix_socket && p->unix_socket[0] != '/')
		return fm_field_wrong(at, "unix_socket", "is not the whole path of a socket", err);
	return 0;
}

struct words {
	struct fm_flow_plan p;
	const json_t *match, *switches;
};

static const struct fm_field *action_fields(enum fm_flow_kind kind)
{
#define IN(member) .name = #member, .offset = offsetof(struct words, p.member)
	static const struct fm_field fields[] = {
		{ IN(url), .max = FM_MAX_HTTP_URL_BYTES / 2, .required = true },
		{ IN(unix_socket), .max = FM_MAX_HTTP_SOCKET_PATH },
		{ IN(ca), .max = FM_MAX_NAME - 1, .check = fm_is_file_name, .what = "is not the name of a file" },
		FM_FIELD_DRIVER, /* from here on both have them */
		{ IN(table), .type = FM_FIELD_U8, .max = FM_MAX_FLOW_TABLE },
		{ IN(priority), .type = FM_FIELD_U16, .min = 1, .required = true },
		{ IN(cookie), .max = 18, .parse = read_cookie, .required = true },
		{ FM_FIELD(struct words, match), .type = FM_FIELD_OBJECT, .required = true },
		{ FM_FIELD(struct words, switches), .type = FM_FIELD_LIST, .min = 1, .max = FM_MAX_OF_SWITCHES, .required = true },
		{ 0 },
	};
#undef IN

	return kind == FM_FLOW_REST ? fields : fields + 3;
}

int fm_flow_plan_parse(const json_t *action, enum fm_flow_kind kind, struct fm_flow_plan *ret, struct fm_error *err)
{
	const struct fm_place at = { .who = fm_flow_driver(kind) };
	struct words w = { .p = { .kind = kind } };
	struct reading r = { .p = &w.p };

	if (fm_fields_read(action, &at, action_fields(kind), &w, err) < 0 ||
	    (kind == FM_FLOW_REST && controller_check(&w.p, &at, err) < 0) || match_parse(w.match, &at, &w.p, err) < 0 ||
	    fm_fields_each(w.switches, &at, "switches", switch_parse, &r, err) < 0)
		return -1;
	*ret = w.p;
	return 0;
}

/* ---- the undo ---- */

json_t *fm_flow_undo_make(const struct fm_flow_plan *p)
{
	json_t *list = json_array();
	char cookie[20];

	for (size_t i = 0; i < p->n; i++) {
		const struct fm_flow_switch *s = &p->at[i];

		(void)snprintf(cookie, sizeof(cookie), "0x%016" PRIx64, s->was_cookie);
		json_t *was = s->was_there ? json_pack("{s:s, s:[I]}", "cookie", cookie, "output", (json_int_t)s->from_port) : json_null();
		(void)json_array_append_new(list, json_pack("{s:s, s:o}", "name", s->name, "was", was));
	}
	return json_pack("{s:o}", "switches", list);
}

static int was_parse(const json_t *o, const struct fm_place *outer, struct fm_flow_switch *s, struct fm_error *err)
{
	static const struct fm_field fields[] = {
		{ .name = "cookie", .parse = fm_read_hex, .offset = offsetof(struct fm_flow_switch, was_cookie), .required = true },
		{ .name = "output", .type = FM_FIELD_ANY, .required = true },
		{ 0 },
	};
	const struct fm_place at = fm_place_member(outer, "was");
	const json_t *output = json_object_get(o, "output");

	if (fm_fields_read(o, &at, fields, s, err) < 0)
		return -1;
	if (json_array_size(output) != 1 || json_integer_value(json_array_get(output, 0)) != s->from_port)
		return fm_field_wrong(&at, "output", "is not the action's from_port", err);
	s->was_there = true;
	return 0;
}

static int undo_switch_parse(void *userdata, size_t i, const json_t *o, const struct fm_place *at, struct fm_error *err)
{
	struct raw {
		const char *name;
		const json_t *was;
	} raw = { 0 };
	static const struct fm_field fields[] = {
		{ FM_FIELD(struct raw, name), .max = FM_MAX_NAME, .required = true },
		{ FM_FIELD(struct raw, was), .type = FM_FIELD_OBJECT, .empty = true, .required = true },
		{ 0 },
	};
	struct fm_flow_switch *s = &((struct fm_flow_plan *)userdata)->at[i];

	if (fm_fields_read(o, at, fields, &raw, err) < 0)
		return -1;
	if (!fm_streq(raw.name, s->name))
		return fm_field_wrong(at, "name", "is not that of the action's switch", err);
	s->was_there = false;
	return raw.was ? was_parse(raw.was, at, s, err) : 0;
}

int fm_flow_undo_parse(struct fm_flow_plan *p, const json_t *undo, struct fm_error *err)
{
	static const struct fm_field fields[] = { { .name = "switches", .type = FM_FIELD_LIST, .required = true }, { 0 } };
	const struct fm_place at = { .who = p->kind == FM_FLOW_REST ? "rest: undo" : "openflow: undo", .code = FM_E_DATA_LOSS };
	const json_t *list = NULL;

	if (fm_fields_read(undo, &at, fields, &list, err) < 0)
		return -1;
	if (json_array_size(list) != p->n)
		return fm_field_wrong(&at, "switches", "are not those of the action that change", err);
	return fm_fields_each(list, &at, "switches", undo_switch_parse, p, err);
}

/* ---- what is found ---- */

const struct fm_of_flow *fm_flow_find(const struct fm_flow_plan *p, const struct fm_of_flow *flows, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (flows[i].table == p->table && flows[i].priority == p->priority && same_match(&p->match, &flows[i].match))
			return &flows[i];
	return NULL;
}

static bool outputs(const struct fm_of_actions *a, uint32_t one, uint32_t other)
{
	unsigned n = other ? 2 : 1;

	if (a->more || a->n != n)
		return false;
	for (unsigned i = 0; i < n; i++)
		if (a->at[i].kind != FM_OF_OUTPUT)
			return false;
	return n == 1 ? a->at[0].number == one
	              : (a->at[0].number == one && a->at[1].number == other) || (a->at[0].number == other && a->at[1].number == one);
}

__attribute__((format(printf, 4, 5))) static size_t add(char *buf, size_t cap, size_t len, const char *fmt, ...)
{
	va_list ap;

	if (len >= cap)
		return len;
	va_start(ap, fmt);
	int n = vsnprintf(buf + len, cap - len, fmt, ap);
	va_end(ap);
	return n < 0 ? cap : len + (size_t)n;
}

const char *fm_flow_actions_text(const struct fm_of_actions *a, char *buf, size_t cap)
{
	bool other = a->more;
	size_t len = 0, n = 0;

	buf[0] = '\0';
	for (unsigned i = 0; i < a->n; i++) {
		if (a->at[i].kind != FM_OF_OUTPUT)
			other = true;
		else
			len = add(buf, cap, len, n++ ? ",%u" : "output:%u", a->at[i].number);
	}
	if (other)
		(void)add(buf, cap, len, "%s", n ? " and more" : "other actions");
	else if (n == 0)
		(void)add(buf, cap, len, "drop");
	return buf;
}

static void describe(const struct fm_of_flow *f, char *found, size_t cap)
{
	char actions[96];

	if (!f)
		(void)snprintf(found, cap, "no such flow");
	else
		(void)snprintf(found, cap, "cookie 0x%" PRIx64 ", %s", f->cookie,
		               fm_flow_actions_text(&f->actions, actions, sizeof(actions)));
}

/* A flow of a higher priority that takes the very same packets */
static const struct fm_of_flow *above(const struct fm_flow_plan *p, const struct fm_of_flow *flows, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (flows[i].table == p->table && flows[i].priority > p->priority && same_match(&p->match, &flows[i].match))
			return &flows[i];
	return NULL;
}

int fm_flow_look(struct fm_flow_plan *p, size_t i, const struct fm_of_flow *flows, size_t n, struct fm_error *err)
{
	const struct fm_of_flow *f = fm_flow_find(p, flows, n), *higher = above(p, flows, n);
	const char *driver = fm_flow_driver(p->kind);
	struct fm_flow_switch *s = &p->at[i];
	char found[160];

	describe(f, found, sizeof(found));
	if (higher) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION,
		                   "%s: switch %s: a flow of priority %u takes the packets to %s before ours can", driver, s->name,
		                   higher->priority, p->what);
		return fm_error_hint(err, "use a priority above %u, or exactly %u to redirect that flow", higher->priority,
		                     higher->priority);
	}
	s->was_there = f != NULL;
	s->was_cookie = f ? f->cookie : 0;
	if (!f)
		return 0;
	if (!outputs(&f->actions, s->from_port, 0)) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "switch %s: the flow to %s is somebody else's: %s instead of output:%u",
		                   s->name, p->what, found, s->from_port);
		return fm_error_hint(err, "use a higher priority, correct from_port, or remove that flow");
	}
	if (f->idle_timeout_s || f->hard_timeout_s) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "%s: switch %s: the flow to %s expires (idle %u s, hard %u s): %s",
		                   driver, s->name, p->what, f->idle_timeout_s, f->hard_timeout_s, found);
		return fm_error_hint(err, "a controller makes it when packets come; use a higher priority than its flows");
	}
	return 0;
}

enum fm_flow_state fm_flow_state_of(const struct fm_flow_plan *p, size_t i, const struct fm_of_flow *flows, size_t n, char *found,
                                    size_t cap)
{
	const struct fm_of_flow *f = fm_flow_find(p, flows, n);
	const struct fm_flow_switch *s = &p->at[i];

	describe(f, found, cap);
	if (!f)
		return s->was_there ? FM_FLOW_FOREIGN : FM_FLOW_AS_IT_WAS;
	if (f->cookie != (s->was_there ? s->was_cookie : p->cookie))
		return FM_FLOW_FOREIGN;
	if (outputs(&f->actions, s->to_port, 0))
		return FM_FLOW_MOVED;
	if (outputs(&f->actions, s->from_port, s->to_port))
		return FM_FLOW_BOTH;
	return s->was_there && outputs(&f->actions, s->from_port, 0) ? FM_FLOW_AS_IT_WAS : FM_FLOW_FOREIGN;
}

const char *fm_flow_state_to_string(enum fm_flow_state s)
{
	static const char *const names[] = { "as it was", "to both ports", "moved", "changed by somebody else" };

	return (size_t)s < FM_ARRAY_SIZE(names) ? names[s] : "?";
}

int fm_flow_foreign(const struct fm_flow_plan *p, size_t i, const char *found, struct fm_error *err)
{
	(void)fm_error_set(err, FM_E_ABORTED, "%s: switch %s: somebody else has changed the flow to %s: %s", fm_flow_driver(p->kind),
	                   p->at[i].name, p->what, found);
	return fm_error_hint(err, "it is left as it is; a switch that was restarted has lost its flows");
}

/* ---- what is to be ---- */

void fm_flow_mod_to(const struct fm_flow_plan *p, size_t i, enum fm_flow_state want, struct fm_of_flow_mod *ret)
{
	const struct fm_flow_switch *s = &p->at[i];
	struct fm_of_flow_mod m = { .table = p->table, .priority = p->priority, .match = p->match };

	m.command = s->was_there ? FM_OF_MODIFY_STRICT : want == FM_FLOW_AS_IT_WAS ? FM_OF_DELETE_STRICT : FM_OF_ADD;
	m.cookie = s->was_there ? s->was_cookie : p->cookie;
	m.cookie_mask = m.command == FM_OF_ADD ? 0 : UINT64_MAX;
	if (want != FM_FLOW_MOVED && m.command != FM_OF_DELETE_STRICT)
		m.actions.at[m.actions.n++] = (struct fm_of_action){ .kind = FM_OF_OUTPUT, .number = s->from_port };
	if (want != FM_FLOW_AS_IT_WAS)
		m.actions.at[m.actions.n++] = (struct fm_of_action){ .kind = FM_OF_OUTPUT, .number = s->to_port };
	*ret = m;
}

void fm_flow_filter(const struct fm_flow_plan *p, struct fm_of_flow_filter *ret)
{
	*ret = (struct fm_of_flow_filter){ .table = p->table, .match = p->match };
}

/* ---- leftovers ---- */

bool fm_flow_is_leftover(const json_t *known, const char *where, const struct fm_of_flow *f, char *words, size_t cap)
{
	char actions[96];

	if ((f->cookie & FM_FLOW_COOKIE_MASK) != FM_FLOW_COOKIE)
		return false;
	for (size_t i = 0; i < json_array_size(known); i++) {
		const char *text = json_string_value(json_object_get(json_array_get(known, i), "cookie"));
		uint64_t cookie;

		if (text && fm_read_hex(text, &cookie, NULL) == 0 && cookie == f->cookie)
			return false;
	}
	(void)snprintf(words, cap, "switch %s: a flow of ours, cookie 0x%" PRIx64 ", table %u, priority %u, %s", where, f->cookie, f->table,
	               f->priority, fm_flow_actions_text(&f->actions, actions, sizeof(actions)));
	return true;
}
