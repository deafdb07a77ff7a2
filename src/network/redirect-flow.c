/* SPDX-License-Identifier: MIT */
/* redirect-flow.c - see redirect-flow.h. */
#include "network/redirect-flow.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "basic/str.h"
#include "network/http.h"
#include "network/openflow.h"
#include "network/redirect.h"

#define ETH_TYPE_IPV4 0x0800
#define ETH_TYPE_IPV6 0x86dd
#define ADDRESS_MAX   160

/* ---- strict reading ---- */

static const char *driver_name(enum fm_flow_kind kind)
{
	return kind == FM_FLOW_REST ? "rest" : "openflow";
}

/* Every member is one of the names, which end with NULL. */
static int check_members(const json_t *o, const char *where, const char *const *names, struct fm_error *err)
{
	const char *key;
	json_t *value;

	if (!json_is_object(o))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s is not an object", where);
	json_object_foreach((json_t *)o, key, value)
	{
		size_t i = 0;

		while (names[i] && !fm_streq(names[i], key))
			i++;
		if (!names[i])
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s: there is no member \"%.32s\"", where, key);
	}
	return 0;
}

static int take_integer(const json_t *o, const char *where, const char *key, uint64_t min, uint64_t max, uint64_t *ret,
                        struct fm_error *err)
{
	const json_t *v = json_object_get(o, key);

	if (!json_is_integer(v) || json_integer_value(v) < 0 || (uint64_t)json_integer_value(v) < min ||
	    (uint64_t)json_integer_value(v) > max)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s: %s is not an integer from %" PRIu64 " to %" PRIu64, where, key, min,
		                    max);
	*ret = (uint64_t)json_integer_value(v);
	return 0;
}

/* Text without NUL of 1 to max bytes */
static const char *take_text(const json_t *o, const char *key, size_t max)
{
	const json_t *v = json_object_get(o, key);
	size_t n = json_string_length(v);

	return json_is_string(v) && n > 0 && n <= max && !memchr(json_string_value(v), '\0', n) ? json_string_value(v) : NULL;
}

static int take_cookie(const char *text, uint64_t *ret)
{
	size_t n = text ? strlen(text) : 0;

	if (n < 3 || n > 18 || text[0] != '0' || text[1] != 'x' || strspn(text + 2, "0123456789abcdefABCDEF") != n - 2)
		return -1;
	*ret = strtoull(text, NULL, 16);
	return 0;
}

/* ---- the match ---- */

static bool parse_mac(const char *text, uint8_t ret[6])
{
	char canonical[18];
	unsigned b[6];

	if (strlen(text) != 17 || sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5]) != 6)
		return false;
	for (int i = 0; i < 6; i++)
		ret[i] = (uint8_t)b[i];
	(void)snprintf(canonical, sizeof(canonical), "%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5]);
	return strcasecmp(canonical, text) == 0 && memcmp(ret, "\0\0\0\0\0\0", 6) != 0;
}

static int match_mac(const char *text, const char *driver, struct fm_of_match *m, struct fm_error *err)
{
	if (!parse_mac(text, m->eth_dst))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s: match.mac '%.32s' is no MAC address", driver, text);
	if (m->eth_dst[0] & 1)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT,
		                    "%s: match.mac %s is the address of a group: frames to many are not redirected", driver, text);
	m->has = FM_OF_ETH_DST;
	return 0;
}

static int match_ipv4(const char *text, const char *driver, struct fm_of_match *m, struct fm_error *err)
{
	if (inet_pton(AF_INET, text, &m->ipv4_dst) != 1)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s: match.ipv4 '%.64s' is no IPv4 address", driver, text);
	if (m->ipv4_dst.s_addr == 0 || ntohl(m->ipv4_dst.s_addr) >= 0xe0000000u)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s: match.ipv4 %s is the address of no host", driver, text);
	m->eth_type = ETH_TYPE_IPV4;
	m->has = FM_OF_ETH_TYPE | FM_OF_IPV4_DST;
	return 0;
}

static int match_ipv6(const char *text, const char *driver, struct fm_of_match *m, struct fm_error *err)
{
	if (inet_pton(AF_INET6, text, &m->ipv6_dst) != 1)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s: match.ipv6 '%.64s' is no IPv6 address", driver, text);
	if (IN6_IS_ADDR_UNSPECIFIED(&m->ipv6_dst) || IN6_IS_ADDR_MULTICAST(&m->ipv6_dst))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s: match.ipv6 %s is the address of no host", driver, text);
	m->eth_type = ETH_TYPE_IPV6;
	m->has = FM_OF_ETH_TYPE | FM_OF_IPV6_DST;
	return 0;
}

static int match_parse(const json_t *o, struct fm_flow_plan *p, struct fm_error *err)
{
	static const char *const names[] = { "mac", "ipv4", "ipv6", "vlan", NULL };
	const char *driver = driver_name(p->kind), *mac = take_text(o, "mac", 32), *ipv4 = take_text(o, "ipv4", 64),
	           *ipv6 = take_text(o, "ipv6", 64);
	char where[32], vlan_text[24] = "";
	uint64_t vlan = 0;

	(void)snprintf(where, sizeof(where), "%s: match", driver);
	if (check_members(o, where, names, err) < 0)
		return -1;
	if (!!mac + !!ipv4 + !!ipv6 != 1 || json_object_size(o) != 1u + (json_object_get(o, "vlan") != NULL))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s needs exactly one of mac, ipv4, ipv6, as text", where);
	if ((mac    ? match_mac(mac, driver, &p->match, err)
	     : ipv4 ? match_ipv4(ipv4, driver, &p->match, err)
	            : match_ipv6(ipv6, driver, &p->match, err)) < 0)
		return -1;
	if (json_object_get(o, "vlan")) {
		if (take_integer(o, where, "vlan", 1, 4094, &vlan, err) < 0)
			return -1;
		p->match.has |= FM_OF_VLAN_VID;
		p->match.vlan_vid = (uint16_t)vlan;
		(void)snprintf(vlan_text, sizeof(vlan_text), " in VLAN %u", (unsigned)vlan);
	}
	(void)snprintf(p->what, sizeof(p->what), "%.46s%s (table %u, priority %u)",
	               mac    ? mac
	               : ipv4 ? ipv4
	                      : ipv6,
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

static int switch_where(const struct fm_flow_plan *p, const json_t *o, size_t i, struct fm_flow_switch *s, char where[64],
                        struct fm_error *err)
{
	static const char *const openflow[] = { "name", "address", "from_port", "to_port", NULL };
	static const char *const rest[] = { "name", "dpid", "from_port", "to_port", NULL };

	(void)snprintf(where, 64, "%s: switches[%zu]", driver_name(p->kind), i);
	if (check_members(o, where, p->kind == FM_FLOW_REST ? rest : openflow, err) < 0)
		return -1;
	s->name = take_text(o, "name", FM_MAX_NAME - 1);
	if (!s->name || !fm_name_is_valid(s->name))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s: name is not the name of a switch", where);
	if (p->kind == FM_FLOW_REST)
		return take_integer(o, where, "dpid", 1, INT64_MAX, &s->dpid, err);
	s->address = take_text(o, "address", ADDRESS_MAX);
	if (s->address && fm_of_address_is_numeric(s->address))
		return 0;
	(void)fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s: address is not tcp:ADDRESS:PORT or unix:/PATH", where);
	return fm_error_hint(err,
	                     "hosts are written as addresses, IPv6 in brackets: looking up a name could take longer than there is time");
}

static int switch_parse(struct fm_flow_plan *p, const json_t *o, size_t i, struct fm_flow_switch *ret, struct fm_error *err)
{
	struct fm_flow_switch s = { 0 };
	uint64_t from, to;
	char where[64];

	if (switch_where(p, o, i, &s, where, err) < 0 || take_integer(o, where, "from_port", 1, FM_OF_PORT_MAX, &from, err) < 0 ||
	    take_integer(o, where, "to_port", 1, FM_OF_PORT_MAX, &to, err) < 0)
		return -1;
	s.from_port = (uint32_t)from;
	s.to_port = (uint32_t)to;
	*ret = s;
	return 0;
}

static int switches_parse(struct fm_flow_plan *p, const json_t *list, struct fm_error *err)
{
	size_t n = json_array_size(list);
	struct fm_flow_switch all[FM_MAX_OF_SWITCHES] = { 0 };

	if (!json_is_array(list) || n == 0 || n > FM_MAX_OF_SWITCHES)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s: switches is not a list of 1 to %u", driver_name(p->kind),
		                    FM_MAX_OF_SWITCHES);
	for (size_t i = 0; i < n; i++) {
		if (switch_parse(p, json_array_get(list, i), i, &all[i], err) < 0)
			return -1;
		for (size_t j = 0; j < i; j++)
			if (fm_streq(all[i].name, all[j].name) || fm_streq(all[i].address, all[j].address) ||
			    (p->kind == FM_FLOW_REST && all[i].dpid == all[j].dpid))
				return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s: switches[%zu] is switches[%zu] once more",
				                    driver_name(p->kind), i, j);
		if (all[i].from_port != all[i].to_port)
			p->at[p->n++] = all[i];
	}
	return 0;
}

static int controller_parse(const json_t *action, struct fm_flow_plan *p, struct fm_error *err)
{
	p->url = take_text(action, "url", FM_MAX_HTTP_URL_BYTES / 2);
	if (fm_http_url_check(p->url, err) < 0)
		return fm_error_prefix(err, "rest: url");
	if (strpbrk(p->url, "?#"))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "rest: url has a query; it is what /stats/… is put behind");
	p->unix_socket = take_text(action, "unix_socket", FM_MAX_HTTP_SOCKET_PATH);
	if (json_object_get(action, "unix_socket") && (!p->unix_socket || p->unix_socket[0] != '/'))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "rest: unix_socket is not the whole path of a socket");
	p->ca = take_text(action, "ca", FM_MAX_NAME - 1);
	if (json_object_get(action, "ca") && (!p->ca || !fm_name_is_valid(p->ca)))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "rest: ca is not the name of a file");
	return 0;
}

int fm_flow_plan_parse(const json_t *action, enum fm_flow_kind kind, struct fm_flow_plan *ret, struct fm_error *err)
{
	static const char *const openflow[] = { "driver", "table", "priority", "cookie", "match", "switches", NULL };
	static const char *const rest[] = {
		"driver", "table", "priority", "cookie", "match", "switches", "url", "unix_socket", "ca", NULL
	};
	const char *driver = driver_name(kind);
	struct fm_flow_plan p = { .kind = kind };
	uint64_t table = 0, priority;

	if (check_members(action, driver, kind == FM_FLOW_REST ? rest : openflow, err) < 0)
		return -1;
	if (json_object_get(action, "table") && take_integer(action, driver, "table", 0, 254, &table, err) < 0)
		return -1;
	if (take_integer(action, driver, "priority", 1, UINT16_MAX, &priority, err) < 0)
		return -1;
	if (take_cookie(take_text(action, "cookie", 18), &p.cookie) < 0 || (p.cookie & FM_FLOW_COOKIE_MASK) != FM_FLOW_COOKIE)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s: cookie is not \"0x%04x…\", 16 hexadecimal digits as text", driver,
		                    (unsigned)(FM_FLOW_COOKIE >> 48));
	p.table = (uint8_t)table;
	p.priority = (uint16_t)priority;
	if ((kind == FM_FLOW_REST && controller_parse(action, &p, err) < 0) || match_parse(json_object_get(action, "match"), &p, err) < 0 ||
	    switches_parse(&p, json_object_get(action, "switches"), err) < 0)
		return -1;
	*ret = p;
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

static bool was_parse(const json_t *o, struct fm_flow_switch *s)
{
	const json_t *was = json_object_get(o, "was"), *output = json_object_get(was, "output");

	s->was_there = json_is_object(was);
	if (json_is_null(was))
		return true;
	return s->was_there && json_object_size(was) == 2 && take_cookie(take_text(was, "cookie", 18), &s->was_cookie) == 0 &&
	       json_array_size(output) == 1 && json_integer_value(json_array_get(output, 0)) == s->from_port;
}

int fm_flow_undo_parse(struct fm_flow_plan *p, const json_t *undo, struct fm_error *err)
{
	const json_t *list = json_object_get(undo, "switches");

	if (json_object_size(undo) != 1 || !json_is_array(list) || json_array_size(list) != p->n)
		return fm_error_set(err, FM_E_DATA_LOSS, "%s: the undo is not one of this action", driver_name(p->kind));
	for (size_t i = 0; i < p->n; i++) {
		const json_t *o = json_array_get(list, i);

		if (json_object_size(o) != 2 || !fm_streq(take_text(o, "name", FM_MAX_NAME), p->at[i].name) || !was_parse(o, &p->at[i]))
			return fm_error_set(err, FM_E_DATA_LOSS, "%s: the undo's switches[%zu] is not %s of this action",
			                    driver_name(p->kind), i, p->at[i].name);
	}
	return 0;
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
	struct fm_flow_switch *s = &p->at[i];
	char found[160];

	describe(f, found, sizeof(found));
	if (higher) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION,
		                   "switch %s: a flow of priority %u takes the packets to %s before ours can", s->name, higher->priority,
		                   p->what);
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
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "switch %s: the flow to %s expires (idle %u s, hard %u s): %s", s->name,
		                   p->what, f->idle_timeout_s, f->hard_timeout_s, found);
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
	(void)fm_error_set(err, FM_E_ABORTED, "switch %s: somebody else has changed the flow to %s: %s", p->at[i].name, p->what, found);
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
		uint64_t cookie;

		if (take_cookie(take_text(json_array_get(known, i), "cookie", 18), &cookie) == 0 && cookie == f->cookie)
			return false;
	}
	(void)snprintf(words, cap, "switch %s: a flow of ours, cookie 0x%" PRIx64 ", table %u, priority %u, %s", where, f->cookie, f->table,
	               f->priority, fm_flow_actions_text(&f->actions, actions, sizeof(actions)));
	return true;
}
