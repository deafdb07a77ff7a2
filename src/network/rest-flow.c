/* SPDX-License-Identifier: MIT */
/* rest-flow.c - see rest-flow.h. */
#include "network/rest-flow.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <inttypes.h>
#include <string.h>
#include <strings.h>

#include "basic/str.h"
#include "network/address.h"

#define SAFE_DIGITS 18u /* a number of so many always fits */

/* ---- reading numbers ---- */

/* Puts integers that may not fit into quotation marks. Text that is no JSON stays none. */
static void quote_large(const char *text, size_t n, struct fm_buf *out)
{
	bool string = false;

	for (size_t i = 0; i < n; i++) {
		size_t digits = 0;

		if (!string)
			while (i + digits < n && isdigit((unsigned char)text[i + digits]))
				digits++;
		if (digits > SAFE_DIGITS) {
			fm_buf_addf(out, "\"%.*s\"", (int)(digits > 40 ? 40 : digits), text + i);
			i += digits - 1;
		} else if (digits > 0) {
			fm_buf_add(out, text + i, digits);
			i += digits - 1;
		} else {
			string = text[i] == '"' ? !string : string;
			fm_buf_add(out, text + i, 1);
			if (string && text[i] == '\\' && i + 1 < n)
				fm_buf_add(out, text + ++i, 1);
		}
	}
}

int fm_rest_parse(const char *text, size_t n, json_t **ret, struct fm_error *err)
{
	_fm_buf_ struct fm_buf quoted = FM_BUF_INIT;
	json_error_t e;

	quote_large(text, n, &quoted);
	*ret = json_loadb(quoted.data ? quoted.data : "", quoted.len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &e);
	return *ret ? 0 : fm_error_set(err, FM_E_DATA_LOSS, "an answer that is no JSON: %.100s", e.text);
}

/* A number as a number, or as text, decimal or 0x… */
static bool to_u64(const json_t *v, uint64_t *ret)
{
	const char *text = json_string_value(v);
	char *end = NULL;

	if (json_is_integer(v) && json_integer_value(v) >= 0) {
		*ret = (uint64_t)json_integer_value(v);
		return true;
	}
	if (!text || !isdigit((unsigned char)text[0]) || strlen(text) > 20)
		return false;
	errno = 0;
	*ret = strtoull(text, &end, strncmp(text, "0x", 2) == 0 ? 16 : 10);
	return errno == 0 && *end == '\0';
}

static uint64_t number(const json_t *o, const char *key, uint64_t max, uint64_t otherwise)
{
	uint64_t v;

	return to_u64(json_object_get(o, key), &v) && v <= max ? v : otherwise;
}

/* ---- matches ---- */

static bool to_vlan(const json_t *v, uint16_t *ret)
{
	uint64_t id;

	if (!to_u64(v, &id) || id > 4095)
		return false;
	/* as text with 0x: without the bit for "tagged", which is "0x0000", untagged */
	*ret = json_is_string(v) && strncmp(json_string_value(v), "0x", 2) == 0 ? FM_OF_VLAN_NONE : (uint16_t)id;
	return *ret != FM_OF_VLAN_NONE || id == 0;
}

static bool to_u16(const json_t *v, uint16_t *ret)
{
	uint64_t n;

	if (!to_u64(v, &n) || n > UINT16_MAX)
		return false;
	*ret = (uint16_t)n;
	return true;
}

static bool is_key(const char *key, const char *name, const char *old_name)
{
	return fm_streq(key, name) || fm_streq(key, old_name);
}

/* One field of those that a redirection can have; all others, masks and unknown forms are `more`. */
static uint32_t take_field(const char *key, const json_t *v, struct fm_of_match *m)
{
	const char *text = json_string_value(v);

	if (is_key(key, "eth_dst", "dl_dst"))
		return text && fm_mac_parse(text, m->eth_dst) ? FM_OF_ETH_DST : 0;
	if (is_key(key, "eth_type", "dl_type"))
		return to_u16(v, &m->eth_type) ? FM_OF_ETH_TYPE : 0;
	if (is_key(key, "vlan_vid", "dl_vlan"))
		return to_vlan(v, &m->vlan_vid) ? FM_OF_VLAN_VID : 0;
	if (is_key(key, "ipv4_dst", "nw_dst"))
		return text && inet_pton(AF_INET, text, &m->ipv4_dst) == 1 ? FM_OF_IPV4_DST : 0;
	if (is_key(key, "ipv6_dst", "ipv6_dst"))
		return text && inet_pton(AF_INET6, text, &m->ipv6_dst) == 1 ? FM_OF_IPV6_DST : 0;
	return 0;
}

static void take_match(const json_t *o, struct fm_of_match *m)
{
	const char *key;
	json_t *v;

	m->more = !json_is_object(o);
	json_object_foreach((json_t *)o, key, v)
	{
		uint32_t field = take_field(key, v, m);

		if (!field || (m->has & field))
			m->more = true;
		m->has |= field;
	}
}

/* ---- actions ---- */

static void add_output(struct fm_of_actions *a, bool known, uint64_t port)
{
	if (!known || port == 0 || port > UINT32_MAX || a->n == FM_MAX_OF_ACTIONS)
		a->more = true;
	else
		a->at[a->n++] = (struct fm_of_action){ .kind = FM_OF_OUTPUT, .number = (uint32_t)port };
}

/* "OUTPUT:2"; reserved ports have names, "OUTPUT:NORMAL" */
static void take_action_text(const char *text, struct fm_of_actions *a)
{
	const char *port = text && fm_str_startswith(text, "OUTPUT:") ? text + strlen("OUTPUT:") : "";
	uint64_t n = 0;
	bool known = fm_parse_u64(port, &n, NULL) == 0;

	add_output(a, known, n);
}

static void take_action(const json_t *o, struct fm_of_actions *a)
{
	const char *type = json_string_value(json_object_get(o, "type"));
	uint64_t n = 0;
	bool known = fm_streq(type, "OUTPUT") && to_u64(json_object_get(o, "port"), &n);

	if (json_is_string(o))
		take_action_text(json_string_value(o), a);
	else
		add_output(a, known, n);
}

static void take_list(const json_t *list, struct fm_of_actions *a)
{
	if (!json_is_array(list))
		a->more = true;
	for (size_t i = 0; i < json_array_size(list); i++)
		take_action(json_array_get(list, i), a);
}

static void take_actions(const json_t *flow, struct fm_of_actions *a)
{
	const json_t *instructions = json_object_get(flow, "instructions");

	if (!instructions) {
		take_list(json_object_get(flow, "actions"), a);
		return;
	}
	if (!json_is_array(instructions) || json_array_size(instructions) > 1)
		a->more = true;
	for (size_t i = 0; i < json_array_size(instructions); i++) {
		const json_t *one = json_array_get(instructions, i);

		if (fm_streq(json_string_value(json_object_get(one, "type")), "APPLY_ACTIONS"))
			take_list(json_object_get(one, "actions"), a);
		else
			a->more = true;
	}
}

static int take_flow(const json_t *o, struct fm_of_flow *ret, struct fm_error *err)
{
	uint64_t priority, table, cookie;

	if (!to_u64(json_object_get(o, "priority"), &priority) || priority > UINT16_MAX ||
	    !to_u64(json_object_get(o, "table_id"), &table) || table > UINT8_MAX || !to_u64(json_object_get(o, "cookie"), &cookie))
		return fm_error_set(err, FM_E_DATA_LOSS, "a flow without priority, table_id and cookie as numbers");
	*ret = (struct fm_of_flow){ .table = (uint8_t)table, .priority = (uint16_t)priority, .cookie = cookie };
	ret->idle_timeout_s = (uint16_t)number(o, "idle_timeout", UINT16_MAX, UINT16_MAX);
	ret->hard_timeout_s = (uint16_t)number(o, "hard_timeout", UINT16_MAX, UINT16_MAX);
	ret->packets = number(o, "packet_count", UINT64_MAX, UINT64_MAX);
	ret->bytes = number(o, "byte_count", UINT64_MAX, UINT64_MAX);
	take_match(json_object_get(o, "match"), &ret->match);
	take_actions(o, &ret->actions);
	return 0;
}

int fm_rest_flows(const json_t *answer, uint64_t dpid, struct fm_of_flow **ret, size_t *ret_n, struct fm_error *err)
{
	_fm_free_ struct fm_of_flow *flows = NULL;
	char key[24];

	(void)snprintf(key, sizeof(key), "%" PRIu64, dpid);
	const json_t *list = json_object_get(answer, key);
	size_t n = json_array_size(list);
	if (!json_is_array(list))
		return fm_error_set(err, FM_E_DATA_LOSS, "an answer without the flows of %s", key);
	if (n > FM_MAX_OF_FLOWS)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "an answer of %zu flows, at most %u are read", n, FM_MAX_OF_FLOWS);
	if (n > 0 && !(flows = calloc(n, sizeof(*flows))))
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "no memory for %zu flows", n);
	for (size_t i = 0; i < n; i++)
		if (take_flow(json_array_get(list, i), &flows[i], err) < 0)
			return -1;
	*ret = FM_TAKE_PTR(flows);
	*ret_n = n;
	return 0;
}

/* ---- writing ---- */

static json_t *large(uint64_t v)
{
	char text[24];

	(void)snprintf(text, sizeof(text), "%" PRIu64, v);
	return v <= INT64_MAX ? json_integer((json_int_t)v) : json_string(text);
}

static json_t *match_json(const struct fm_of_match *m)
{
	char text[INET6_ADDRSTRLEN];
	json_t *o = json_object();

	if (m->has & FM_OF_ETH_DST) {
		(void)snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", m->eth_dst[0], m->eth_dst[1], m->eth_dst[2],
		               m->eth_dst[3], m->eth_dst[4], m->eth_dst[5]);
		(void)json_object_set_new(o, "eth_dst", json_string(text));
	}
	if (m->has & FM_OF_ETH_TYPE)
		(void)json_object_set_new(o, "eth_type", json_integer(m->eth_type));
	if (m->has & FM_OF_VLAN_VID)
		(void)json_object_set_new(o, "vlan_vid", json_integer(m->vlan_vid));
	if (m->has & FM_OF_IPV4_DST)
		(void)json_object_set_new(o, "ipv4_dst", json_string(inet_ntop(AF_INET, &m->ipv4_dst, text, sizeof(text))));
	if (m->has & FM_OF_IPV6_DST)
		(void)json_object_set_new(o, "ipv6_dst", json_string(inet_ntop(AF_INET6, &m->ipv6_dst, text, sizeof(text))));
	return o;
}

static json_t *actions_json(const struct fm_of_actions *a)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < a->n; i++)
		(void)json_array_append_new(list, json_pack("{s:s, s:I}", "type", "OUTPUT", "port", (json_int_t)a->at[i].number));
	return list;
}

static const char *command_of(enum fm_of_command c)
{
	switch (c) {
	case FM_OF_ADD:
		return "add";
	case FM_OF_MODIFY_STRICT:
		return "modify_strict";
	case FM_OF_DELETE_STRICT:
		return "delete_strict";
	default:
		return NULL;
	}
}

static bool is_ours_to_write(const struct fm_of_flow_mod *m)
{
	if ((m->match.has & ~(uint32_t)(FM_OF_ETH_DST | FM_OF_ETH_TYPE | FM_OF_VLAN_VID | FM_OF_IPV4_DST | FM_OF_IPV6_DST)) ||
	    m->match.more || m->actions.more || m->match.vlan_vid > 4095)
		return false;
	for (unsigned i = 0; i < m->actions.n; i++)
		if (m->actions.at[i].kind != FM_OF_OUTPUT)
			return false;
	return true;
}

char *fm_rest_flow_mod(uint64_t dpid, const struct fm_of_flow_mod *m, const char **ret_command)
{
	const char *command = command_of(m->command);

	if (!command || !is_ours_to_write(m))
		return NULL;
	json_t *actions = actions_json(&m->actions);
	_fm_cleanup_(json_decrefp) json_t *o =
	        json_pack("{s:o, s:i, s:i, s:o, s:o, s:i, s:i, s:o, s:O, s:[{s:s, s:o}]}", "dpid", large(dpid), "table_id", m->table,
	                  "priority", m->priority, "cookie", large(m->cookie), "cookie_mask", large(m->cookie_mask), "idle_timeout",
	                  m->idle_timeout_s, "hard_timeout", m->hard_timeout_s, "match", match_json(&m->match), "actions", actions,
	                  "instructions", "type", "APPLY_ACTIONS", "actions", actions);
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	if (text)
		*ret_command = command;
	return text;
}
