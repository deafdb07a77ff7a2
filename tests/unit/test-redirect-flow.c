/* SPDX-License-Identifier: MIT */
/* test-redirect-flow.c - actions and undos of the drivers that move flows, and flows in a controller's JSON: what is read, what is refused, what is written. */
#include <arpa/inet.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "basic/cleanup.h"
#include "basic/str.h"
#include "network/openflow.h"
#include "network/redirect-flow.h"
#include "network/redirect.h"
#include "network/rest-flow.h"

#define OPENFLOW                                                                                                                           \
	"{\"driver\": \"openflow\", \"table\": 1, \"priority\": 500, \"cookie\": \"0x666d000000000007\", \"match\": {\"mac\": "            \
	"\"02:77:00:00:01:00\"},"                                                                                                          \
	" \"switches\": [{\"name\": \"s1\", \"address\": \"tcp:10.0.0.9:6653\", \"from_port\": 1, \"to_port\": 2},"                        \
	" {\"name\": \"s2\", \"address\": \"unix:/run/x\", \"from_port\": 3, \"to_port\": 3},"                                             \
	" {\"name\": \"s3\", \"address\": \"tcp:[::1]:6653\", \"from_port\": 4, \"to_port\": 5}]}"
#define REST                                                                                                                               \
	"{\"driver\": \"rest\", \"url\": \"http://10.0.0.8:8080/\", \"unix_socket\": \"/run/c\", \"ca\": \"c.pem\", \"priority\": 1,"      \
	" \"cookie\": \"0x666d0000ffffffff\", \"match\": {\"ipv6\": \"fd77::100\", \"vlan\": 7},"                                          \
	" \"switches\": [{\"name\": \"s1\", \"dpid\": 9, \"from_port\": 1, \"to_port\": 2}]}"

static void json_done(json_t **j)
{
	json_decref(*j);
}
#define _json_ _fm_cleanup_(json_done) json_t

static json_t *load(const char *text)
{
	json_t *o = json_loads(text, JSON_DECODE_ANY, NULL);

	assert_non_null(o);
	return o;
}

static void test_actions(void **state)
{
	_json_ *openflow = load(OPENFLOW), *rest = load(REST);
	struct fm_flow_plan p;

	assert_ok(fm_flow_plan_parse(openflow, FM_FLOW_OPENFLOW, &p, &err));
	assert_true(p.table == 1 && p.priority == 500 && p.cookie == 0x666d000000000007ull);
	assert_int_equal(p.n, 2); /* s2 does not change */
	assert_string_equal(p.at[0].name, "s1");
	assert_string_equal(p.at[0].address, "tcp:10.0.0.9:6653");
	assert_true(p.at[1].from_port == 4 && p.at[1].to_port == 5 && fm_streq(p.at[1].name, "s3"));
	assert_string_equal(p.what, "02:77:00:00:01:00 (table 1, priority 500)");
	assert_true(p.match.has == FM_OF_ETH_DST && memcmp(p.match.eth_dst, "\x02\x77\0\0\x01\0", 6) == 0);
	assert_ok(fm_flow_plan_parse(rest, FM_FLOW_REST, &p, &err));
	assert_true(p.at[0].dpid == 9 && p.table == 0 && p.n == 1);
	assert_string_equal(p.unix_socket, "/run/c");
	assert_string_equal(p.ca, "c.pem");
	assert_true(p.match.has == (FM_OF_ETH_TYPE | FM_OF_IPV6_DST | FM_OF_VLAN_VID) && p.match.eth_type == 0x86dd &&
	            p.match.vlan_vid == 7);
	assert_string_equal(p.what, "fd77::100 in VLAN 7 (table 0, priority 1)");
}

/* `path` of the action ("match.mac", "switches.0.name") becomes `value` (NULL: goes); the error names `word`. */
static void assert_bad(const char *text, const char *path, const char *value, const char *word)
{
	_json_ *action = load(text);
	json_t *o = action;
	_fm_free_ char *copy = fm_xstrdup(path);
	struct fm_flow_plan p = { .n = 77 };
	char *dot, *key = copy;

	for (; (dot = strchr(key, '.')); key = dot + 1) {
		*dot = '\0';
		o = json_is_array(o) ? json_array_get(o, strtoul(key, NULL, 10)) : json_object_get(o, key);
		assert_non_null(o);
	}
	if (json_is_array(o))
		assert_int_equal(0, json_array_set_new(o, strtoul(key, NULL, 10), load(value)));
	else if (value)
		assert_int_equal(0, json_object_set_new(o, key, load(value)));
	else
		assert_int_equal(0, json_object_del(o, key));
	assert_code(FM_E_INVALID_ARGUMENT, fm_flow_plan_parse(action, fm_streq(text, REST) ? FM_FLOW_REST : FM_FLOW_OPENFLOW, &p, &err));
	if (!strstr(err.message, word))
		fail_msg("%s = %s: '%s' does not say '%s'", path, value ? value : "nothing", err.message, word);
	assert_int_equal(p.n, 77);
}

static void test_bad_actions(void **state)
{
	static const char *const all[][3] = {
		{ "color", "1", "openflow: color is not a member" },
		{ "url", "\"http://a\"", "openflow: url is not a member" }, /* the other driver's */
		{ "table", "255", "table" },
		{ "table", "\"1\"", "table" },
		{ "priority", "0", "priority" },
		{ "priority", "65536", "priority" },
		{ "priority", NULL, "priority" },
		{ "cookie", "7", "cookie" },
		{ "cookie", "\"0x77\"", "cookie" },
		{ "cookie", "\"0x666d00000000000g\"", "cookie" },
		{ "cookie", "\"0x666d0000000000077\"", "cookie" },
		{ "cookie", NULL, "cookie" },
		{ "match", "{}", "match" },
		{ "match", "[]", "match" },
		{ "match.ipv4", "\"10.0.0.1\"", "exactly one" }, /* two */
		{ "match.mac", "\"02:77:00:00:01\"", "match.mac" },
		{ "match.mac", "\"02-77-00-00-01-00\"", "match.mac" },
		{ "match.mac", "\"00:00:00:00:00:00\"", "match.mac" },
		{ "match.mac", "\"ff:ff:ff:ff:ff:ff\"", "group" },
		{ "match.mac", "\"33:33:00:00:00:01\"", "group" },
		{ "match.mac", "7", "match" },
		{ "match.vlan", "0", "vlan" },
		{ "match.vlan", "4095", "vlan" },
		{ "match.tcp", "80", "match.tcp is not a member" },
		{ "match", "{\"ipv4\": \"10.0.0\"}", "match.ipv4" },
		{ "match", "{\"ipv4\": \"224.0.0.1\"}", "match.ipv4" },
		{ "match", "{\"ipv4\": \"255.255.255.255\"}", "match.ipv4" },
		{ "match", "{\"ipv4\": \"0.0.0.0\"}", "match.ipv4" },
		{ "match", "{\"ipv6\": \"10.0.0.1\"}", "match.ipv6" },
		{ "match", "{\"ipv6\": \"ff02::1\"}", "match.ipv6" },
		{ "match", "{\"ipv6\": \"::\"}", "match.ipv6" },
		{ "match", "{\"ipv4\": \"10.0.0.1\", \"ipv6\": 7}", "match.ipv6 is not a string" },
		{ "switches", "[]", "switches" },
		{ "switches", "{}", "switches" },
		{ "switches.0", "7", "switches[0]" },
		{ "switches.0.dpid", "7", "switches[0].dpid is not a member" },
		{ "switches.0.name", "\"a b\"", "switches[0].name" },
		{ "switches.0.name", "\"s3\"", "switches[2] is switches[0] once more" },
		{ "switches.0.address", "\"tcp:[::1]:6653\"", "switches[2] is switches[0] once more" },
		{ "switches.0.address", "\"tcp:switch.example:6653\"", "switches[0].address" },
		{ "switches.0.address", "\"tcp:10.0.0.9\"", "switches[0].address" },
		{ "switches.0.address", "\"tcp:10.0.0.9:0\"", "switches[0].address" },
		{ "switches.0.address", "\"unix:relative\"", "switches[0].address" },
		{ "switches.0.address", "\"10.0.0.9:6653\"", "switches[0].address" },
		{ "switches.0.from_port", "0", "switches[0].from_port" },
		{ "switches.0.to_port", "4294967040000", "switches[0].to_port" },
		{ "switches.0.to_port", NULL, "switches[0].to_port" },
	};
	static const char *const rest[][3] = {
		{ "url", "\"ftp://a\"", "rest: url" },
		{ "url", "\"http://a/?x\"", "rest: url" },
		{ "url", NULL, "rest: url" },
		{ "unix_socket", "\"x\"", "unix_socket" },
		{ "ca", "\"../x\"", "rest: ca" },
		{ "switches.0.dpid", "0", "switches[0].dpid" },
		{ "switches.0.dpid", "\"9\"", "switches[0].dpid" },
		{ "switches.0.address", "\"unix:/x\"", "switches[0].address is not a member" },
		{ "switches",
		  "[{\"name\": \"a\", \"dpid\": 9, \"from_port\": 1, \"to_port\": 2}, {\"name\": \"b\", \"dpid\": 9, \"from_port\": 1, "
		  "\"to_port\": 2}]",
		  "once more" },
	};

	for (size_t i = 0; i < FM_ARRAY_SIZE(all); i++)
		assert_bad(OPENFLOW, all[i][0], all[i][1], all[i][2]);
	for (size_t i = 0; i < FM_ARRAY_SIZE(rest); i++)
		assert_bad(REST, rest[i][0], rest[i][1], rest[i][2]);
}

/* The most switches there may be, their undo fits; one more does not. */
static void test_many(void **state)
{
	_json_ *action = load(OPENFLOW), *undo = NULL;
	json_t *list = json_array();
	struct fm_flow_plan p;

	for (unsigned i = 0; i <= FM_MAX_OF_SWITCHES; i++) {
		_fm_free_ char *name = fm_xasprintf("s%060u", i), *address = fm_xasprintf("tcp:10.0.0.%u:6653", i);

		if (i == FM_MAX_OF_SWITCHES) {
			assert_ok(fm_flow_plan_parse(action, FM_FLOW_OPENFLOW, &p, &err));
			for (size_t j = 0; j < p.n; j++)
				p.at[j].was_there = true;
			undo = fm_flow_undo_make(&p);
			_fm_free_ char *text = json_dumps(undo, 0);
			assert_true(strlen(text) < FM_MAX_REDIRECT_UNDO_BYTES);
			assert_ok(fm_flow_undo_parse(&p, undo, &err));
		}
		assert_int_equal(0, json_array_append_new(list, json_pack("{s:s, s:s, s:i, s:i}", "name", name, "address", address,
		                                                          "from_port", 1, "to_port", 2)));
		assert_int_equal(0, json_object_set(action, "switches", list));
	}
	assert_code(FM_E_INVALID_ARGUMENT, fm_flow_plan_parse(action, FM_FLOW_OPENFLOW, &p, &err));
	json_decref(list);
}

static void test_bad_undos(void **state)
{
	static const char *const all[] = {
		"{}",
		"[]",
		"null",
		"{\"switches\": []}",
		"{\"switches\": [{\"name\": \"s1\", \"was\": null}]}",
		"{\"switches\": [{\"name\": \"s3\", \"was\": null}, {\"name\": \"s1\", \"was\": null}]}",
		"{\"switches\": [{\"name\": \"s1\", \"was\": null}, {\"name\": \"s3\"}]}",
		"{\"switches\": [{\"name\": \"s1\", \"was\": null}, {\"name\": \"s3\", \"was\": 7}]}",
		"{\"switches\": [{\"name\": \"s1\", \"was\": null}, {\"name\": \"s3\", \"was\": {\"cookie\": \"0x1\", \"output\": [5]}}]}",
		"{\"switches\": [{\"name\": \"s1\", \"was\": null}, {\"name\": \"s3\", \"was\": {\"cookie\": \"0x1\", \"output\": [4, "
		"5]}}]}",
		"{\"switches\": [{\"name\": \"s1\", \"was\": null}, {\"name\": \"s3\", \"was\": {\"cookie\": 1, \"output\": [4]}}]}",
		"{\"switches\": [{\"name\": \"s1\", \"was\": null}, {\"name\": \"s3\", \"was\": null}], \"more\": 1}",
	};
	_json_ *action = load(OPENFLOW);
	struct fm_flow_plan p;

	assert_ok(fm_flow_plan_parse(action, FM_FLOW_OPENFLOW, &p, &err));
	for (size_t i = 0; i < FM_ARRAY_SIZE(all); i++) {
		_json_ *undo = load(all[i]);

		assert_code(FM_E_DATA_LOSS, fm_flow_undo_parse(&p, undo, &err));
	}
	_json_ *good = load("{\"switches\": [{\"name\": \"s1\", \"was\": null}, {\"name\": \"s3\", \"was\": {\"cookie\": "
	                    "\"0xfedcba9876543210\", \"output\": [4]}}]}");
	assert_ok(fm_flow_undo_parse(&p, good, &err));
	assert_true(!p.at[0].was_there && p.at[1].was_there && p.at[1].was_cookie == 0xfedcba9876543210ull);
}

/* ---- a controller's JSON ---- */

#define FLOWS_1_4                                                                                                                          \
	"{\"10\": [{\"length\": 96, \"table_id\": 0, \"duration_sec\": 3, \"duration_nsec\": 1, \"priority\": 500, \"idle_timeout\": 5, "  \
	"\"hard_timeout\": 0,"                                                                                                             \
	"\"flags\": 0, \"importance\": 0, \"cookie\": 18364758544493064720, \"packet_count\": 18446744073709551615, \"byte_count\": 9,"    \
	"\"match\": {\"eth_dst\": \"02:77:00:00:01:00\", \"vlan_vid\": \"42\"},"                                                           \
	"\"instructions\": [{\"type\": \"APPLY_ACTIONS\", \"len\": 24, \"actions\": [{\"len\": 16, \"max_len\": 65509, \"port\": 2, "      \
	"\"type\": \"OUTPUT\"},"                                                                                                           \
	"{\"len\": 16, \"max_len\": 65509, \"port\": 3, \"type\": \"OUTPUT\"}]}]}, {\"table_id\": 3, \"priority\": 1, \"cookie\": 0, "     \
	"\"match\": {},"                                                                                                                   \
	"\"instructions\": []}]}"
#define FLOWS_1_3                                                                                                                          \
	"{\"10\": [{\"table_id\": 0, \"priority\": 500, \"idle_timeout\": 0, \"hard_timeout\": 0, \"cookie\": 7, \"packet_count\": 1, "    \
	"\"byte_count\": 9,"                                                                                                               \
	"\"match\": {\"dl_type\": 2048, \"nw_dst\": \"10.77.0.100\"}, \"actions\": [\"OUTPUT:2\"]},"                                       \
	"{\"table_id\": 0, \"priority\": 2, \"cookie\": 7, \"match\": {\"dl_vlan\": \"0x0000\"}, \"actions\": [\"OUTPUT:NORMAL\"]}]}"

static void flows_of(const char *text, struct fm_of_flow **ret, size_t *ret_n)
{
	_json_ *answer = NULL;

	assert_ok(fm_rest_parse(text, strlen(text), &answer, &err));
	assert_ok(fm_rest_flows(answer, 10, ret, ret_n, &err));
}

static void test_flows_in_json(void **state)
{
	_fm_free_ struct fm_of_flow *f = NULL;
	size_t n;

	flows_of(FLOWS_1_4, &f, &n);
	assert_int_equal(n, 2);
	assert_true(f[0].priority == 500 && f[0].table == 0 && f[0].cookie == 0xfedcba9876543210ull && f[0].idle_timeout_s == 5 &&
	            f[0].hard_timeout_s == 0);
	assert_true(f[0].packets == UINT64_MAX && f[0].bytes == 9);
	assert_true(f[0].match.has == (FM_OF_ETH_DST | FM_OF_VLAN_VID) && f[0].match.vlan_vid == 42 && !f[0].match.more);
	assert_memory_equal(f[0].match.eth_dst, "\x02\x77\0\0\x01\0", 6);
	assert_true(f[0].actions.n == 2 && !f[0].actions.more && f[0].actions.at[0].number == 2 && f[0].actions.at[1].number == 3);
	assert_true(f[1].table == 3 && f[1].match.has == 0 && !f[1].match.more && f[1].actions.n == 0 && !f[1].actions.more);
	free(FM_TAKE_PTR(f));
	flows_of(FLOWS_1_3, &f, &n);
	assert_int_equal(n, 2);
	assert_true(f[0].match.has == (FM_OF_ETH_TYPE | FM_OF_IPV4_DST) && f[0].match.ipv4_dst.s_addr == inet_addr("10.77.0.100") &&
	            !f[0].match.more);
	assert_true(f[0].actions.n == 1 && f[0].actions.at[0].number == 2 && f[0].cookie == 7);
	assert_true(f[1].match.vlan_vid == FM_OF_VLAN_NONE && f[1].actions.more && f[1].actions.n == 0);
	free(FM_TAKE_PTR(f));
	flows_of("{\"10\": []}", &f, &n);
	assert_true(n == 0 && !f);
}

/* What is not understood is never taken for something that is. */
static void test_flows_with_more(void **state)
{
	static const char *const matches[] = {
		"{\"eth_dst\": \"02:77:00:00:01:00/ff:ff:ff:00:00:00\"}",
		"{\"eth_dst\": \"02:77:00:00:01:00\", \"tcp_dst\": 80}",
		"{\"ipv4_dst\": \"10.0.0.0/255.0.0.0\"}",
		"{\"vlan_vid\": \"0x1000/0x1000\"}",
		"{\"eth_dst\": 7}",
		"{\"eth_type\": 65536}",
		"{\"eth_dst\": \"02:77:00:00:01:00\", \"dl_dst\": \"02:77:00:00:01:00\"}",
		"7",
	};
	static const char *const actions[] = {
		"\"actions\": [\"OUTPUT:2\", \"SET_FIELD: {eth_dst:02:00:00:00:00:01}\"]",
		"\"actions\": [\"OUTPUT:4294967296\"]",
		"\"actions\": [{\"WRITE_ACTIONS\": [\"OUTPUT:2\"]}]",
		"\"actions\": [\"GOTO_TABLE:1\"]",
		"\"actions\": 7",
		"\"instructions\": [{\"type\": \"GOTO_TABLE\", \"table_id\": 1}]",
		"\"instructions\": [{\"type\": \"WRITE_ACTIONS\", \"actions\": [{\"type\": \"OUTPUT\", \"port\": 2}]}]",
		"\"instructions\": [{\"type\": \"APPLY_ACTIONS\", \"actions\": [{\"type\": \"OUTPUT\", \"port\": \"NORMAL\"}]}]",
		"\"instructions\": [{\"type\": \"APPLY_ACTIONS\", \"actions\": []}, {\"type\": \"METER\"}]",
		"\"instructions\": 7",
		"\"x\": 1",
	};

	for (size_t i = 0; i < FM_ARRAY_SIZE(matches); i++) {
		_fm_free_ char *text = fm_xasprintf(
		        "{\"10\": [{\"table_id\": 0, \"priority\": 5, \"cookie\": 0, \"match\": %s, \"actions\": []}]}", matches[i]);
		_fm_free_ struct fm_of_flow *f = NULL;
		size_t n;

		flows_of(text, &f, &n);
		if (!f[0].match.more)
			fail_msg("%s", matches[i]);
	}
	for (size_t i = 0; i < FM_ARRAY_SIZE(actions); i++) {
		_fm_free_ char *text =
		        fm_xasprintf("{\"10\": [{\"table_id\": 0, \"priority\": 5, \"cookie\": 0, \"match\": {}, %s}]}", actions[i]);
		_fm_free_ struct fm_of_flow *f = NULL;
		size_t n;

		flows_of(text, &f, &n);
		if (!f[0].actions.more)
			fail_msg("%s", actions[i]);
	}
}

static void test_no_flows(void **state)
{
	static const char *const all[] = { "", "{", "[1,", "{\"10\": 18446744073709551615", "\"\\", "nan" };
	static const char *const forms[] = { "[]",
		                             "{}",
		                             "{\"11\": []}",
		                             "{\"10\": {}}",
		                             "{\"10\": [7]}",
		                             "{\"10\": [{\"table_id\": 0, \"priority\": 5}]}",
		                             "{\"10\": [{\"table_id\": 0, \"priority\": 65536, \"cookie\": 0}]}",
		                             "{\"10\": [{\"table_id\": \"ALL\", \"priority\": 1, \"cookie\": 0}]}",
		                             "{\"10\": [{\"table_id\": 0, \"priority\": 1, \"cookie\": 184467440737095516150}]}",
		                             "18446744073709551615" };
	struct fm_of_flow *f = NULL;
	size_t n;

	for (size_t i = 0; i < FM_ARRAY_SIZE(all); i++) {
		json_t *o = NULL;
		assert_code(FM_E_DATA_LOSS, fm_rest_parse(all[i], strlen(all[i]), &o, &err));
	}
	for (size_t i = 0; i < FM_ARRAY_SIZE(forms); i++) {
		_json_ *o = NULL;
		assert_ok(fm_rest_parse(forms[i], strlen(forms[i]), &o, &err));
		assert_code(FM_E_DATA_LOSS, fm_rest_flows(o, 10, &f, &n, &err));
	}
	/* numbers in texts stay texts */
	_json_ *text = NULL;
	assert_ok(fm_rest_parse("[\"a\\\"18446744073709551615\", 1]", 30, &text, &err));
	assert_string_equal(json_string_value(json_array_get(text, 0)), "a\"18446744073709551615");
}

static void test_changes_in_json(void **state)
{
	_json_ *action = load(REST);
	struct fm_flow_plan p;
	struct fm_of_flow_mod m;
	const char *command;

	assert_ok(fm_flow_plan_parse(action, FM_FLOW_REST, &p, &err));
	fm_flow_mod_to(&p, 0, FM_FLOW_BOTH, &m);
	_fm_free_ char *add = fm_rest_flow_mod(9, &m, &command);
	assert_string_equal(command, "add");
	assert_string_equal(add, "{\"dpid\":9,\"table_id\":0,\"priority\":1,\"cookie\":7380555368625078271,\"cookie_mask\":0,\"idle_"
	                         "timeout\":0,\"hard_timeout\":0,"
	                         "\"match\":{\"eth_type\":34525,\"vlan_vid\":7,\"ipv6_dst\":\"fd77::100\"},"
	                         "\"actions\":[{\"type\":\"OUTPUT\",\"port\":1},{\"type\":\"OUTPUT\",\"port\":2}],"
	                         "\"instructions\":[{\"type\":\"APPLY_ACTIONS\",\"actions\":[{\"type\":\"OUTPUT\",\"port\":1},{\"type\":"
	                         "\"OUTPUT\",\"port\":2}]}]}");
	fm_flow_mod_to(&p, 0, FM_FLOW_AS_IT_WAS, &m);
	_fm_free_ char *delete = fm_rest_flow_mod(9, &m, &command);
	assert_string_equal(command, "delete_strict");
	assert_non_null(strstr(delete, "\"cookie_mask\":\"18446744073709551615\""));
	assert_non_null(strstr(delete, "\"actions\":[]"));
	p.at[0].was_there = true;
	p.at[0].was_cookie = 0xfedcba9876543210ull;
	fm_flow_mod_to(&p, 0, FM_FLOW_MOVED, &m);
	_fm_free_ char *modify = fm_rest_flow_mod(9, &m, &command);
	assert_string_equal(command, "modify_strict");
	assert_non_null(strstr(modify, "\"cookie\":\"18364758544493064720\""));
	assert_non_null(strstr(modify, "\"actions\":[{\"type\":\"OUTPUT\",\"port\":2}]"));
	/* what is not in this language is not written in it */
	m.match.has |= FM_OF_ETH_SRC;
	assert_null(fm_rest_flow_mod(9, &m, &command));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_actions),   cmocka_unit_test(test_bad_actions),     cmocka_unit_test(test_many),
		cmocka_unit_test(test_bad_undos), cmocka_unit_test(test_flows_in_json),   cmocka_unit_test(test_flows_with_more),
		cmocka_unit_test(test_no_flows),  cmocka_unit_test(test_changes_in_json),
	};

	return cmocka_run_group_tests_name("redirect-flow", tests, NULL, NULL);
}
