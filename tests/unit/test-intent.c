/* SPDX-License-Identifier: MIT */
/* test-intent.c - what services want of the network, compiled for a move: labs by hand, what cannot be met, and flows of random topologies followed from everywhere. */
#include "check.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "basic/cleanup.h"
#include "basic/str.h"
#include "network/intent.h"

#define MAC "02:77:00:00:01:00"

static struct fm_description *describe(const char *text)
{
	struct fm_description *d = NULL;

	assert_ok(fm_description_parse(text, strlen(text), &d, &err));
	return d;
}

static const char *const ipv4[] = { "10.77.0.100" }, *const both[] = { "10.77.0.100", "fd77::100" };
static const struct fm_intent_endpoint one = { .mac = MAC, .addresses = ipv4, .n_addresses = 1 };
static const struct fm_intent_endpoint dual = { .mac = MAC, .addresses = both, .n_addresses = 2 };

static struct fm_intent_move move(const char *source, const char *destination)
{
	return (struct fm_intent_move){ .container = "redis-1",
		                        .endpoints = &one,
		                        .n_endpoints = 1,
		                        .source = source,
		                        .destination = destination,
		                        .predicted_downtime_ms = 50 };
}

/* The actions are these and no others. */
static void assert_actions(const struct fm_description *d, const struct fm_intent_move *m, const char *expected)
{
	json_auto_t *actions = NULL, *want = json_loads(expected, JSON_REJECT_DUPLICATES, NULL);

	assert_non_null(want);
	assert_ok(fm_intent_compile(d, &d->intents[0], m, &actions, &err));
	if (!json_equal(actions, want)) {
		_fm_free_ char *is = json_dumps(actions, JSON_INDENT(1) | JSON_SORT_KEYS);
		_fm_free_ char *should = json_dumps(want, JSON_INDENT(1) | JSON_SORT_KEYS);
		fail_msg("actions\n%s\nare not\n%s", is, should);
	}
}

static void assert_refused(const struct fm_description *d, const struct fm_intent_move *m, const char *why)
{
	json_t *actions = NULL;

	assert_code(FM_E_FAILED_PRECONDITION, fm_intent_compile(d, &d->intents[0], m, &actions, &err));
	assert_null(actions);
	if (!strstr(err.message, why) || strncmp(err.message, "intent 'redis': ", 16) != 0)
		fail_msg("\"%s\" does not say \"%s\"", err.message, why);
}

/* ---- labs. Each takes the intent's own members. */

#define INTENT(members) "\"intents\": [{\"service\": \"redis\", \"container\": \"redis-1\"" members "}]"
#define LINK(a, b, port, more)                                                                                                             \
	"{\"from\": \"" a "\", \"to\": \"" b "\", \"to_port_number\": " #port                                                              \
	", \"latency_us\": 100, \"bandwidth_bytes_per_s\": 1000" more "}"
#define NUMBERED(a, a_port, b, b_port) LINK(a, b, b_port, ", \"from_port_number\": " #a_port)

/* h1, h2 and gw at one switch */
#define ONE_SWITCH                                                                                                                         \
	"{\"version\": 1, \"topology\": {\"version\": 1, \"hosts\": [{\"name\": \"h1\"}, {\"name\": \"h2\"}, {\"name\": \"gw\"}],"         \
	"\"switches\": [{\"name\": \"s1\"}], \"links\": [" LINK("h1", "s1", 1, "") "," LINK("h2", "s1", 2, "") "," LINK("gw", "s1", 3,     \
	                                                                                                                "") "]},"
#define SPOKEN_TO                                                                                                                          \
	"\"openflow\": {\"table\": 3, \"priority\": 500, \"switches\": [{\"switch\": \"s1\", \"address\": \"tcp:192.0.2.1:6653\"}]},"

/* h1 - s1 - s2 - s3 - h2, gw at s2 */
#define ROW                                                                                                                                \
	"{\"version\": 1, \"topology\": {\"version\": 1, \"hosts\": [{\"name\": \"h1\"}, {\"name\": \"h2\"}, {\"name\": \"gw\"}],"         \
	"\"switches\": [{\"name\": \"s1\"}, {\"name\": \"s2\"}, {\"name\": \"s3\"}], \"links\": [" LINK("h1", "s1", 1, "") "," LINK(       \
	        "h2", "s3", 1, "") "," LINK("gw", "s2", 1, "") "," NUMBERED("s1", 2, "s2", 2) "," NUMBERED("s2", 3, "s3", 3) "]},"

#define FLOWS(driver, own, switches)                                                                                                       \
	"{\"at\": \"manager\", \"driver\": \"" driver "\", " own ", \"cookie\": \"0x666d373adc22e0fe\", \"match\": {\"mac\": \"" MAC       \
	"\"}, \"switches\": [" switches "]}"
#define FLOW(name, where, from, to) "{\"name\": \"" name "\", " where ", \"from_port\": " #from ", \"to_port\": " #to "}"

static void test_one_switch(void **state)
{
	_fm_cleanup_(fm_description_freep) struct fm_description *learns = describe(ONE_SWITCH INTENT("") "}");
	_fm_cleanup_(fm_description_freep) struct fm_description *spoken = describe(ONE_SWITCH SPOKEN_TO INTENT("") "}");
	struct fm_intent_move m = move("h1", "h2"), back = move("h2", "h1");

	assert_actions(learns, &m, "[]");
	assert_actions(
	        spoken, &m,
	        "[" FLOWS("openflow", "\"table\": 3, \"priority\": 500", FLOW("s1", "\"address\": \"tcp:192.0.2.1:6653\"", 1, 2)) "]");
	assert_actions(
	        spoken, &back,
	        "[" FLOWS("openflow", "\"table\": 3, \"priority\": 500", FLOW("s1", "\"address\": \"tcp:192.0.2.1:6653\"", 2, 1)) "]");
}

static void test_two_interfaces(void **state)
{
	_fm_cleanup_(fm_description_freep) struct fm_description *d = describe(ONE_SWITCH SPOKEN_TO INTENT("") "}");
	static const struct fm_intent_endpoint two[] = { { .mac = "02:00:00:00:00:01" }, { .mac = "02:00:00:00:00:02" } };
	struct fm_intent_move m = move("h1", "h2");
	json_auto_t *actions = NULL;

	m.endpoints = two;
	m.n_endpoints = 2;
	assert_ok(fm_intent_compile(d, &d->intents[0], &m, &actions, &err));
	assert_int_equal(json_array_size(actions), 2);
	for (size_t i = 0; i < 2; i++)
		assert_string_equal(json_string_value(json_object_get(json_object_get(json_array_get(actions, i), "match"), "mac")),
		                    two[i].mac);
	m.n_endpoints = 0; /* without an endpoint there is nothing to lead anywhere */
	assert_actions(d, &m, "[]");
}

#define S(n) "\"address\": \"unix:/run/s" #n "\""
#define ROW_SPOKEN                                                                                                                         \
	"\"openflow\": {\"switches\": [{\"switch\": \"s1\", " S(1) "}, {\"switch\": \"s2\", " S(2) "}, {\"switch\": \"s3\", " S(3) "}]},"

static void test_row_of_switches(void **state)
{
	_fm_cleanup_(fm_description_freep) struct fm_description *all = describe(ROW ROW_SPOKEN INTENT("") "}");
	_fm_cleanup_(fm_description_freep) struct fm_description *mixed =
	        describe(ROW "\"openflow\": {\"switches\": [{\"switch\": \"s1\", " S(
	                1) "}]},"
	                   "\"controllers\": [{\"name\": \"c\", \"url\": \"http://192.0.2.2:8080\", \"priority\": 7, \"switches\": "
	                   "[{\"switch\": \"s2\", \"dpid\": 2},"
	                   "{\"switch\": \"s1\", \"dpid\": 1}]}]," INTENT("") "}");
	struct fm_intent_move m = move("h1", "h2");

	assert_actions(all, &m,
	               "[" FLOWS("openflow", "\"table\": 0, \"priority\": 40000",
	                         FLOW("s1", S(1), 1, 2) "," FLOW("s2", S(2), 2, 3) "," FLOW("s3", S(3), 3, 1)) "]");
	/* s3 learns; s1 is spoken to, although the controller knows it, too */
	assert_actions(
	        mixed, &m,
	        "[" FLOWS("openflow", "\"table\": 0, \"priority\": 40000", FLOW("s1", S(1), 1, 2)) "," FLOWS(
	                "rest", "\"url\": \"http://192.0.2.2:8080\", \"table\": 0, \"priority\": 7", FLOW("s2", "\"dpid\": 2", 2, 3)) "]");
	m.destination = "gw"; /* the switch behind it needs nothing: to it both are on the same side */
	assert_actions(all, &m,
	               "[" FLOWS("openflow", "\"table\": 0, \"priority\": 40000", FLOW("s1", S(1), 1, 2) "," FLOW("s2", S(2), 2, 1)) "]");
}

static void test_allowed_drivers(void **state)
{
	static const struct {
		const char *drivers, *why;
	} refused[] = {
		{ "\"bridge\", \"rest\"", "switch 's1' needs openflow, which may not be used" },
		{ "\"openflow\"", "switch 's2' has to learn, and bridge may not be used" },
		{ "", "vxlan may not be used" },
	};
	struct fm_intent_move m = move("h1", "h2");

	for (size_t i = 0; i < FM_ARRAY_SIZE(refused); i++) {
		_fm_free_ char *text = fm_xasprintf(
		        ROW "\"openflow\": {\"switches\": [{\"switch\": \"s1\", " S(1) "}]}," INTENT(", \"drivers\": [%s]") "}",
		        refused[i].drivers);
		_fm_cleanup_(fm_description_freep) struct fm_description *d = describe(text);

		assert_refused(d, &m, refused[i].why);
	}
}

/* A switch off the way between the two has flows, too, that would go on leading to the source. */
static void test_forbidden_switch_aside(void **state)
{
	_fm_cleanup_(fm_description_freep) struct fm_description *d =
	        describe(ROW "\"openflow\": {\"switches\": [{\"switch\": \"s2\", " S(2) "}]}," INTENT(", \"drivers\": [\"bridge\"]") "}");
	struct fm_intent_move m = move("h1", "h2");

	assert_refused(d, &m, "switch 's2' needs openflow");
	m.source = "h2"; /* s2 is behind both then: 3 and 3 */
	m.destination = "h2";
	assert_code(FM_E_INVALID_ARGUMENT, fm_intent_compile(d, &d->intents[0], &m, &(json_t *){ NULL }, &err));
}

static void test_ports_without_numbers(void **state)
{
	_fm_cleanup_(fm_description_freep) struct fm_description *d =
	        describe("{\"version\": 1, \"topology\": {\"version\": 1, \"hosts\": [{\"name\": \"h1\"}, {\"name\": \"h2\"}],"
	                 "\"switches\": [{\"name\": \"s1\"}], \"links\": [" LINK("h1", "s1", 1, "") "," LINK(
	                         "h2", "s1", 0, "") "]}," SPOKEN_TO INTENT("") "}");
	struct fm_intent_move m = move("h1", "h2");

	assert_refused(d, &m, "which port of 's1' leads to 'h2'");
	m.destination = "s1"; /* a host that is called like a switch */
	assert_refused(d, &m, "'s1' is not a host of the topology");
}

static void test_known_ports(void **state)
{
	_fm_cleanup_(fm_description_freep) struct fm_description *d = describe(ONE_SWITCH SPOKEN_TO INTENT("") "}");
	json_auto_t *known = json_pack("{s:i}", "s1", 9);
	struct fm_intent_move m = move("h1", "h2");

	m.known_ports = known;
	assert_actions(
	        d, &m,
	        "[" FLOWS("openflow", "\"table\": 3, \"priority\": 500", FLOW("s1", "\"address\": \"tcp:192.0.2.1:6653\"", 9, 2)) "]");
	json_object_set_new(known, "s1", json_integer(2)); /* it leads there already */
	assert_actions(d, &m, "[]");
}

/* ---- VXLAN, routers, tunnels */

#define VXLAN4                                                                                                                             \
	"{\"version\": 1, \"vxlan\": [{\"device\": \"vx9\", \"hosts\": {\"h7\": \"192.0.2.7\"}}, {\"device\": \"vx0\", \"hosts\": "        \
	"{\"h1\": \"192.0.2.11\", \"h2\": \"192.0.2.12\", \"h3\": \"192.0.2.13\", \"h4\": \"192.0.2.14\"}}],"
#define VX(at)                                                                                                                             \
	"{\"at\": \"" at "\", \"driver\": \"vxlan\", \"device\": \"vx0\", \"mac\": \"" MAC                                                 \
	"\", \"from\": \"192.0.2.11\", \"to\": \"192.0.2.12\"}"

static void test_vxlan_of_four(void **state)
{
	_fm_cleanup_(fm_description_freep) struct fm_description *d = describe(VXLAN4 INTENT("") "}");
	_fm_cleanup_(fm_description_freep) struct fm_description *forbidden = describe(VXLAN4 INTENT(", \"drivers\": [\"tunnel\"]") "}");
	struct fm_intent_move m = move("h1", "h2"), out = move("h1", "h7");

	assert_actions(d, &m, "[" VX("h1") "," VX("h2") "," VX("h3") "," VX("h4") "]");
	assert_refused(forbidden, &m, "vxlan may not be used");
	assert_actions(d, &out, "[]"); /* no VXLAN has both, and nothing is said about switches: they learn */
}

#define ROUTED                                                                                                                             \
	"{\"version\": 1, \"topology\": {\"version\": 1, \"hosts\": [{\"name\": \"h1\"}, {\"name\": \"h2\"}, {\"name\": \"r1\", "          \
	"\"forwards\": true}], "                                                                                                           \
	"\"links\": [" LINK("h1", "r1", 0, "") "," LINK(                                                                                   \
	        "h2", "r1", 0, "") "]},"                                                                                                   \
	                           "\"routers\": [{\"host\": \"r1\", \"via\": {\"h1\": \"192.0.2.11\", \"h2\": \"192.0.2.12\"}},"          \
	                           "{\"host\": \"r1\", \"table\": 99, \"via\": {\"h1\": \"fd00::11\", \"h2\": \"fd00::12\"}}, {\"host\": " \
	                           "\"r2\", \"via\": {\"h1\": \"192.0.2.1\", \"h2\": \"192.0.2.1\"}}],"
#define TUNNELS "\"tunnels\": {\"hosts\": {\"h1\": \"192.0.2.11\", \"h2\": \"192.0.2.12\"}},"
#define ROUTE(address, from, to, table)                                                                                                    \
	"{\"at\": \"r1\", \"driver\": \"route\", \"address\": \"" address "\", \"from_via\": \"" from "\", \"via\": \"" to                 \
	"\", \"table\": " #table "}"
#define END(side, at, local, remote, addresses, reply)                                                                                     \
	"{\"at\": \"" at "\", \"driver\": \"tunnel\", \"side\": \"" side "\", \"id\": \"d153d7c4\", \"local\": \"" local                   \
	"\", \"remote\": \"" remote "\", \"port\": 4797, \"addresses\": [" addresses "], \"reply\": \"" reply "\"}"
#define TUNNEL(addresses, reply)                                                                                                           \
	END("source", "h1", "192.0.2.11", "192.0.2.12", addresses, reply)                                                                  \
	"," END("destination", "h2", "192.0.2.12", "192.0.2.11", addresses, reply)

static void test_routed(void **state)
{
	_fm_cleanup_(fm_description_freep) struct fm_description *alone = describe(ROUTED INTENT("") "}");
	_fm_cleanup_(fm_description_freep) struct fm_description *beside = describe(ROUTED TUNNELS INTENT("") "}");
	struct fm_intent_move m = move("h1", "h2");

	assert_actions(alone, &m, "[" ROUTE("10.77.0.100", "192.0.2.11", "192.0.2.12", 254) "]");
	assert_actions(beside, &m, "[" TUNNEL("\"10.77.0.100\"", "direct") "," ROUTE("10.77.0.100", "192.0.2.11", "192.0.2.12", 254) "]");
	m.endpoints = &dual;
	assert_actions(beside, &m,
	               "[" TUNNEL("\"10.77.0.100\", \"fd77::100\"", "direct") "," ROUTE(
	                       "10.77.0.100", "192.0.2.11", "192.0.2.12", 254) "," ROUTE("fd77::100", "fd00::11", "fd00::12", 99) "]");
}

/* Until its first move a container's subnet is what is routed: there is no old next hop of its own. */
static void test_routed_subnets(void **state)
{
	_fm_cleanup_(fm_description_freep) struct fm_description *d = describe(
	        "{\"version\": 1, \"routers\": [{\"host\": \"r1\", \"host_routes\": false, \"via\": {\"h1\": \"192.0.2.11\", \"h2\": "
	        "\"192.0.2.12\"}}]," INTENT(", \"drivers\": [\"route\"]") "}");
	struct fm_intent_move m = move("h1", "h2");

	assert_actions(d, &m,
	               "[{\"at\": \"r1\", \"driver\": \"route\", \"address\": \"10.77.0.100\", \"via\": \"192.0.2.12\", \"table\": 254}]");
}

static void test_tunnel_alone(void **state)
{
	_fm_cleanup_(fm_description_freep) struct fm_description *d = describe(ROUTED TUNNELS INTENT(", \"drivers\": [\"tunnel\"]") "}");
	_fm_cleanup_(fm_description_freep) struct fm_description *forbidden = describe(ROUTED INTENT(", \"drivers\": [\"tunnel\"]") "}");
	struct fm_intent_move m = move("h1", "h2");

	assert_actions(d, &m, "[" TUNNEL("\"10.77.0.100\"", "direct") "]");
	assert_refused(forbidden, &m, "tunnels have no address of 'h1'");
	m.destination = "r1";
	assert_refused(d, &m, "nothing leads its address from 'h1' to 'r1'");
	assert_non_null(strstr(err.message, "route may not be used"));
	assert_non_null(strstr(err.message, "tunnels have no address of 'r1'"));
}

/* What is made for one migration is told apart from what an earlier one has left. */
static void test_migrations_have_their_own_tunnels(void **state)
{
	_fm_cleanup_(fm_description_freep) struct fm_description *d = describe(ROUTED TUNNELS INTENT(", \"drivers\": [\"tunnel\"]") "}");
	static const char *const many[] = { "10.77.0.1", "10.77.0.2", "10.77.0.3", "10.77.0.4", "10.77.0.5" };
	const struct fm_intent_endpoint five = { .mac = MAC, .addresses = many, .n_addresses = 5 };
	struct fm_intent_move m = move("h1", "h2");
	char ids[2][16];

	for (int i = 0; i < 2; i++) {
		json_auto_t *actions = NULL;

		m.migration = i ? "m-3f9a61c2b07d" : "m-3f9a61c2b07e";
		assert_ok(fm_intent_compile(d, &d->intents[0], &m, &actions, &err));
		snprintf(ids[i], sizeof(ids[i]), "%s", json_string_value(json_object_get(json_array_get(actions, 0), "id")));
		assert_string_equal(ids[i], json_string_value(json_object_get(json_array_get(actions, 1), "id")));
		assert_int_equal(strlen(ids[i]), 8);
	}
	assert_string_not_equal(ids[0], ids[1]);
	m.endpoints = &five;
	assert_refused(d, &m, "it has 5 addresses, a tunnel carries 4");
}

/* A router that would go on leading to the source. */
static void test_router_without_the_destination(void **state)
{
	_fm_cleanup_(fm_description_freep) struct fm_description *d =
	        describe("{\"version\": 1, \"topology\": {\"version\": 1, \"hosts\": [{\"name\": \"h1\"}, {\"name\": \"h2\"}]},"
	                 "\"routers\": [{\"host\": \"r1\", \"via\": {\"h1\": \"192.0.2.11\", \"h2\": \"192.0.2.12\"}},"
	                 "{\"host\": \"r3\", \"via\": {\"h1\": \"192.0.2.31\"}}]," INTENT("") "}");
	struct fm_intent_move m = move("h1", "h2");

	assert_refused(d, &m, "router 'r3' has a next hop to 'h1' and none to 'h2'");
	assert_non_null(strstr(err.message, "no links lead from"));
	m = move("h2", "h1");
	assert_actions(d, &m, "[" ROUTE("10.77.0.100", "192.0.2.12", "192.0.2.11", 254) "]");
}

/* ---- names, balancers, ports, webhooks */

#define NAMES                                                                                                                              \
	"{\"version\": 1, \"dns\": [{\"name\": \"lab\", \"server\": \"192.0.2.53:5353\", \"zone\": \"example.org\", \"reverse_zone\": "    \
	"\"2.0.192.in-addr.arpa\", \"key\": \"mover\", \"key_file\": \"mover.key\", \"ttl_s\": 2}],"                                       \
	"\"load_balancers\": [{\"name\": \"lb1\", \"socket\": \"/run/haproxy.sock\", \"max_drain_ms\": 700}],"                             \
	"\"webhooks\": [{\"name\": \"chat\", \"url\": \"https://192.0.2.4/hook\", \"headers\": {\"X-Team\": \"net\"}, \"secret_file\": "   \
	"\"hook.key\", \"ca_file\": \"hook.pem\", \"events\": [\"flip\", \"revert\"]}],"
#define FOLLOWS                                                                                                                            \
	", \"keep\": \"name\", \"name\": \"redis.example.org\", \"dns\": \"lab\", \"addresses\": {\"h1\": \"192.0.2.11\", \"h2\": "        \
	"\"192.0.2.12\", \"h6\": \"fd00::6\"}"
#define DNS                                                                                                                                \
	"{\"at\": \"manager\", \"driver\": \"dns\", \"server\": \"192.0.2.53:5353\", \"zone\": \"example.org\", \"reverse_zone\": "        \
	"\"2.0.192.in-addr.arpa\", \"key\": \"mover\", \"algorithm\": \"hmac-sha256\", \"key_file\": \"mover.key\", \"name\": "            \
	"\"redis.example.org\", \"from\": \"192.0.2.11\", \"to\": \"192.0.2.12\", \"ttl_s\": 2, \"reverse\": true}"

static void test_following_a_name(void **state)
{
	_fm_cleanup_(fm_description_freep) struct fm_description *d = describe(NAMES INTENT(FOLLOWS ", \"max_gap_ms\": 2050") "}");
	struct fm_intent_move m = move("h1", "h2");

	assert_actions(d, &m, "[" DNS "]");
	m.predicted_downtime_ms = 51; /* who has the old address waits for its time to live, too */
	assert_refused(d, &m, "may be held for 2000 ms");
	m = move("h1", "h3");
	assert_refused(d, &m, "where clients find it on 'h3'");
	m = move("h1", "h6");
	assert_refused(d, &m, "addresses of two families");
}

static void test_balancer_and_webhook(void **state)
{
	static const char balancer[] =
	        ", \"load_balancer\": {\"name\": \"lb1\", \"backend\": \"be\", \"server\": \"redis1\", \"port\": 6379%s},"
	        "\"webhooks\": [\"chat\"], \"keep\": \"%s\"%s";
	static const char hook[] =
	        "{\"at\": \"manager\", \"driver\": \"webhook\", \"url\": \"https://192.0.2.4/hook\", \"headers\": {\"X-Team\": \"net\"}, "
	        "\"secret_file\": \"hook.key\", \"ca_file\": \"hook.pem\", \"events\": [\"flip\", \"revert\"], \"required\": false, "
	        "\"about\": {\"service\": \"redis\", \"container\": \"redis-1\", "
	        "\"source\": \"h1\", \"destination\": \"h2\"}}";
	static const char action[] =
	        "{\"at\": \"manager\", \"driver\": \"haproxy\", \"socket\": \"/run/haproxy.sock\", \"backend\": \"be\", \"server\": "
	        "\"redis1\", \"from\": \"%s\", \"to\": \"%s\", \"drain\": %s}";
	const struct {
		const char *drain, *more, *from, *to, *drains;
	} cases[] = {
		{ ", \"drain\": true", "", "10.77.0.100:6379", "10.77.0.100:6379", "true, \"max_drain_ms\": 700" },
		{ "", ", \"addresses\": {\"h1\": \"fd00::1\", \"h2\": \"fd00::2\"}", "[fd00::1]:6379", "[fd00::2]:6379", "false" },
		{ ", \"by_policy\": true", ", \"addresses\": {\"h1\": \"fd00::1\", \"h2\": \"fd00::2\"}", "[fd00::1]:6379",
		  "[fd00::2]:6379", "false, \"by_policy\": true" },
		{ "", "", NULL, NULL, NULL }, /* nothing changes for it */
	};
	struct fm_intent_move m = move("h1", "h2");

	for (size_t i = 0; i < FM_ARRAY_SIZE(cases); i++) {
		_fm_free_ char *members = fm_xasprintf(balancer, cases[i].drain, "address", cases[i].more);
		_fm_free_ char *text = fm_xasprintf("%s" INTENT("%s") "}", NAMES, members);
		_fm_free_ char *first = cases[i].from ? fm_xasprintf(action, cases[i].from, cases[i].to, cases[i].drains) : fm_xstrdup("");
		_fm_free_ char *expected = fm_xasprintf("[%s%s%s]", first, *first ? "," : "", hook);
		_fm_cleanup_(fm_description_freep) struct fm_description *d = describe(text);

		assert_actions(d, &m, expected);
	}
}

#define PUBLISHED ", \"publish\": [{\"host_port\": 80, \"port\": 8080}, {\"host_port\": 53, \"port\": 5353, \"protocol\": \"udp\"}]"
#define PORT(at, side, protocol, address, host_port, port)                                                                                 \
	"{\"at\": \"" at "\", \"driver\": \"dnat\", \"side\": \"" side "\", \"protocol\": \"" protocol "\", \"host_address\": \"" address  \
	"\", \"host_port\": " #host_port ", \"address\": \"10.77.0.100\", \"port\": " #port "}"

/* Connections to the source's port go on through the tunnel, and are answered through it. */
static void test_published_ports(void **state)
{
	_fm_cleanup_(fm_description_freep) struct fm_description *d =
	        describe(NAMES TUNNELS INTENT(FOLLOWS PUBLISHED ", \"max_gap_ms\": 60") "}");
	_fm_cleanup_(fm_description_freep) struct fm_description *bare = describe(NAMES INTENT(FOLLOWS PUBLISHED) "}");
	_fm_cleanup_(fm_description_freep) struct fm_description *forbidden =
	        describe(NAMES TUNNELS INTENT(FOLLOWS PUBLISHED ", \"drivers\": [\"tunnel\", \"dns\"]") "}");
	_fm_cleanup_(fm_description_freep) struct fm_description *kept = describe(ONE_SWITCH TUNNELS INTENT(PUBLISHED) "}");
	struct fm_intent_move m = move("h1", "h2");

	assert_actions(d, &m,
	               "[" TUNNEL("\"10.77.0.100\"", "back") "," PORT("h1", "source", "tcp", "192.0.2.11", 80, 8080) "," PORT(
	                       "h2", "destination", "tcp", "192.0.2.12", 80,
	                       8080) "," PORT("h1", "source", "udp", "192.0.2.11", 53, 5353) "," PORT("h2", "destination", "udp",
	                                                                                              "192.0.2.12", 53, 5353) "," DNS "]");
	assert_refused(bare, &m, "tunnels have no address of 'h1'");
	assert_refused(forbidden, &m, "publishing ports needs dnat, which may not be used");
	assert_actions(kept, &m,
	               "[" TUNNEL("\"10.77.0.100\"", "back") "," PORT("h1", "source", "tcp", "192.0.2.11", 80, 8080) "," PORT(
	                       "h2", "destination", "tcp", "192.0.2.12", 80, 8080) "," PORT("h1", "source", "udp", "192.0.2.11", 53,
	                                                                                    5353) "," PORT("h2", "destination", "udp",
	                                                                                                   "192.0.2.12", 53, 5353) "]");
}

/* ---- gap, bandwidth, isolation */

static void test_gap(void **state)
{
	_fm_cleanup_(fm_description_freep) struct fm_description *d = describe(ONE_SWITCH INTENT(", \"max_gap_ms\": 50") "}");
	struct fm_intent_move m = move("h1", "h2");

	assert_actions(d, &m, "[]");
	m.predicted_downtime_ms = 51;
	assert_refused(d, &m, "at most 50 ms is allowed, 51 ms are predicted");
}

static void test_bandwidth(void **state)
{
	_fm_cleanup_(fm_description_freep) struct fm_description *d =
	        describe(ONE_SWITCH INTENT(", \"min_bandwidth_bytes_per_s\": 600") "}");
	_fm_cleanup_(fm_description_freep) struct fm_description *clients =
	        describe(ONE_SWITCH INTENT(", \"min_bandwidth_bytes_per_s\": 600, \"clients\": [\"gw\"]") "}");
	_fm_cleanup_(fm_description_freep) struct fm_description *unknown =
	        describe("{\"version\": 1, " INTENT(", \"min_bandwidth_bytes_per_s\": 600") "}");
	struct fm_link_measurement busy = { .latency_us = 100, .bandwidth_bytes_per_s = 1000, .utilisation_ppm = 500000 };
	struct fm_intent_move m = move("h1", "h2"), rest = move("h2", "h2");
	_fm_cleanup_(fm_strv_freep) char **problems = NULL;

	assert_actions(d, &m, "[]");
	assert_actions(clients, &m, "[]");
	assert_refused(unknown, &m, "'h1' is not a host of the topology");
	assert_ok(fm_topology_measure(d->topology, 0, &busy, &err)); /* h1 - s1 */
	assert_ok(fm_topology_measure(clients->topology, 0, &busy, &err));
	assert_refused(d, &m, "has 600 bytes/s available: the widest has 500");
	assert_actions(clients, &m, "[]"); /* its clients come another way */
	assert_ok(fm_topology_measure(clients->topology, 2, &busy, &err));
	assert_refused(clients, &m, "no path from \"gw\" to \"h2\"");

	/* at rest on h2 */
	assert_ok(fm_intent_check(d, &d->intents[0], &rest, &problems, &err));
	assert_null(problems);
	assert_ok(fm_topology_measure(d->topology, 1, &busy, &err));
	assert_ok(fm_intent_check(d, &d->intents[0], &rest, &problems, &err));
	assert_int_equal(fm_strv_len(problems), 1);
	assert_string_equal(problems[0], "no link to 'h2' has 600 bytes/s available: the widest has 500");
}

/* With a bandwidth the flows take the widest way: two between s1 and s2, the shorter one narrow. */
static void test_widest_flows(void **state)
{
	static const char text[] = "{\"version\": 1, \"topology\": {\"version\": 1, \"hosts\": [{\"name\": \"h1\"}, {\"name\": \"h2\"}], "
	                           "\"switches\": [{\"name\": \"s1\"}, "
	                           "{\"name\": \"s2\"}], \"links\": [" LINK("h1", "s1", 1, "") "," LINK(
	                                   "h2", "s2", 1, "") ","
	                                                      "{\"from\": \"s1\", \"from_port_number\": 2, \"to\": \"s2\", "
	                                                      "\"to_port_number\": 2, \"latency_us\": 1, \"bandwidth_bytes_per_s\": 10},"
	                                                      "{\"from\": \"s1\", \"from_port_number\": 3, \"to\": \"s2\", "
	                                                      "\"to_port_number\": 3, \"latency_us\": 9, \"bandwidth_bytes_per_s\": 100}]},"
	                                                      "\"openflow\": {\"switches\": [{\"switch\": \"s1\", " S(
	                                                              1) "}, {\"switch\": \"s2\", " S(2) "}]}," INTENT("%s") "}";
	struct fm_intent_move m = move("h1", "h2");

	for (int wide = 0; wide < 2; wide++) {
		_fm_free_ char *t = fm_xasprintf(text, wide ? ", \"min_bandwidth_bytes_per_s\": 50" : "");
		_fm_cleanup_(fm_description_freep) struct fm_description *d = describe(t);

		if (wide)
			assert_actions(d, &m,
			               "[" FLOWS("openflow", "\"table\": 0, \"priority\": 40000",
			                         FLOW("s1", S(1), 1, 3) "," FLOW("s2", S(2), 3, 1)) "]");
		else
			assert_actions(d, &m,
			               "[" FLOWS("openflow", "\"table\": 0, \"priority\": 40000",
			                         FLOW("s1", S(1), 1, 2) "," FLOW("s2", S(2), 2, 1)) "]");
	}
}

static void test_vlan(void **state)
{
	_fm_cleanup_(fm_description_freep) struct fm_description *d =
	        describe(ONE_SWITCH SPOKEN_TO INTENT(", \"isolation\": \"vlan:7\"") "}");
	_fm_cleanup_(fm_description_freep) struct fm_description *learns = describe(ONE_SWITCH INTENT(", \"isolation\": \"vlan:7\"") "}");
	_fm_cleanup_(fm_description_freep) struct fm_description *vxlan = describe(VXLAN4 INTENT(", \"isolation\": \"vlan:7\"") "}");
	struct fm_intent_move m = move("h1", "h2");
	json_auto_t *actions = NULL;

	assert_ok(fm_intent_compile(d, &d->intents[0], &m, &actions, &err));
	assert_int_equal(json_integer_value(json_object_get(json_object_get(json_array_get(actions, 0), "match"), "vlan")), 7);
	assert_refused(learns, &m, "isolation vlan:7: switch 's1' learns");
	assert_refused(vxlan, &m, "isolation vlan:7: its way from 'h1' to 'h2' is not one of switches alone");
}

/* gw reaches h2 over s2 (short) or s3 (long): the short way is somebody's already. */
static void test_dedicated_path(void **state)
{
	_fm_cleanup_(fm_description_freep) struct fm_description *d = describe(
	        "{\"version\": 1, \"topology\": {\"version\": 1, \"hosts\": [{\"name\": \"h1\"}, {\"name\": \"h2\"}, {\"name\": \"gw\"}], "
	        "\"switches\": [{\"name\": "
	        "\"s1\"}, {\"name\": \"s2\"}, {\"name\": \"s3\"}, {\"name\": \"s4\"}], \"links\": [" LINK("gw", "s1", 1, "") "," NUMBERED("s1", 2, "s2", 1) "," NUMBERED(
	                "s2", 2, "s4",
	                2) "," NUMBERED("s1", 3, "s3",
	                                1) "," NUMBERED("s3", 2, "s4",
	                                                3) "," LINK("h2", "s4", 1,
	                                                            "") "," LINK("h1", "s1", 9,
	                                                                         "") "]},"
	                                                                             "\"openflow\": {\"switches\": "
	                                                                             "[{\"switch\": "
	                                                                             "\"s1\", " S(
	                                                                                     1) "}, {\"switch\": "
	                                                                                        "\"s2\", " S(
	                                                                                                2) "}, "
	                                                                                                   "{\"switch"
	                                                                                                   "\": "
	                                                                                                   "\"s3\","
	                                                                                                   " " S(3) "}"
	                                                                                                            ","
	                                                                                                            " "
	                                                                                                            "{"
	                                                                                                            "\"switch"
	                                                                                                            "\": "
	                                                                                                            "\"s4\","
	                                                                                                            " " S(4) "}"
	                                                                                                                     "]"
	                                                                                                                     "}"
	                                                                                                                     "," INTENT(
	                                                                                                                             ", "
	                                                                                                                             "\"iso"
	                                                                                                                             "latio"
	                                                                                                                             "n\": "
	                                                                                                                             "\"ded"
	                                                                                                                             "icate"
	                                                                                                                             "d-"
	                                                                                                                             "path"
	                                                                                                                             "\", "
	                                                                                                                             "\"cli"
	                                                                                                                             "ents"
	                                                                                                                             "\": "
	                                                                                                                             "[\"gw"
	                                                                                                                             "\"]") "}");
	const uint32_t short_way[] = { 1 }, own_link[] = { 5 };
	struct fm_intent_move m = move("h1", "h2");
	_fm_free_ uint32_t *links = NULL;
	size_t n = 0;

	assert_actions(
	        d, &m,
	        "[" FLOWS("openflow", "\"table\": 0, \"priority\": 40000",
	                  FLOW("s1", S(1), 9, 2) "," FLOW("s2", S(2), 1, 2) "," FLOW("s3", S(3), 1, 2) "," FLOW("s4", S(4), 2, 1)) "]");
	assert_ok(fm_intent_links(d, &d->intents[0], "h2", NULL, 0, &links, &n, &err));
	assert_int_equal(n, 4);
	assert_true(links[0] == 0 && links[1] == 1 && links[2] == 2 && links[3] == 5);
	m.taken_links = short_way;
	m.n_taken_links = 1;
	/* s2 has the other way round, and s1 leads to s3 */
	assert_actions(d, &m,
	               "[" FLOWS("openflow", "\"table\": 0, \"priority\": 40000",
	                         FLOW("s1", S(1), 9, 3) "," FLOW("s3", S(3), 1, 2) "," FLOW("s4", S(4), 3, 1)) "]");
	m.taken_links = own_link;
	assert_refused(d, &m, "no way from 'gw' to 'h2' that keeps from other services' links");
}

/* ---- whose intent */

static void test_find(void **state)
{
	_fm_cleanup_(fm_description_freep) struct fm_description *d = describe(
	        "{\"version\": 1, \"intents\": [{\"service\": \"a\", \"label\": \"app=web\"}, {\"service\": \"b\", \"label\": \"tier=1\"}, "
	        "{\"service\": \"c\", \"container\": \"one\"}]}");
	const struct fm_intent *i = NULL;
	char *web[] = { (char *)"x=y", (char *)"app=web", NULL }, *two[] = { (char *)"app=web", (char *)"tier=1", NULL };

	assert_ok(fm_intent_find(d, "one", two, &i, &err)); /* its name goes first */
	assert_string_equal(i->service, "c");
	assert_ok(fm_intent_find(d, "other", web, &i, &err));
	assert_string_equal(i->service, "a");
	assert_ok(fm_intent_find(d, "other", NULL, &i, &err));
	assert_null(i);
	assert_code(FM_E_FAILED_PRECONDITION, fm_intent_find(d, "other", two, &i, &err));
	assert_non_null(strstr(err.message, "'a' and 'b'"));
}

static void test_wrong_moves(void **state)
{
	_fm_cleanup_(fm_description_freep) struct fm_description *d = describe(ONE_SWITCH INTENT("") "}");
	static const char *const word[] = { "10.77.0.100/24" };
	const struct fm_intent_endpoint no_address = { .mac = MAC, .addresses = word, .n_addresses = 1 }, no_mac = { 0 };
	struct fm_intent_move m = move("h1", "h1");
	json_t *actions = NULL;

	assert_code(FM_E_INVALID_ARGUMENT, fm_intent_compile(d, &d->intents[0], &m, &actions, &err));
	m = move("h1", "../h2");
	assert_code(FM_E_INVALID_ARGUMENT, fm_intent_compile(d, &d->intents[0], &m, &actions, &err));
	m = move("h1", "h2");
	m.endpoints = &no_address;
	assert_code(FM_E_INVALID_ARGUMENT, fm_intent_compile(d, &d->intents[0], &m, &actions, &err));
	m.endpoints = &no_mac;
	assert_code(FM_E_INVALID_ARGUMENT, fm_intent_compile(d, &d->intents[0], &m, &actions, &err));
}

static void test_several_problems(void **state)
{
	_fm_cleanup_(fm_description_freep) struct fm_description *d = describe(ONE_SWITCH INTENT(
	        ", \"max_gap_ms\": 10, \"min_bandwidth_bytes_per_s\": 5000, \"isolation\": \"vlan:3\", \"drivers\": [\"bridge\"]") "}");
	_fm_cleanup_(fm_strv_freep) char **problems = NULL;
	struct fm_intent_move m = move("h1", "h2");

	assert_ok(fm_intent_check(d, &d->intents[0], &m, &problems, &err));
	assert_int_equal(fm_strv_len(problems), 3);
	assert_non_null(strstr(problems[0], "50 ms are predicted"));
	assert_non_null(strstr(problems[1], "the widest has 1000"));
	assert_non_null(strstr(problems[2], "switch 's1' learns"));
}

/* ---- the property: from everywhere, the flows lead to the destination */

#define NODES_MAX 12

static uint64_t random_state;

static uint32_t random_below(uint32_t n)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)(random_state >> 20) % n;
}

struct net {
	uint32_t n_switches, n_hosts, n_ports[NODES_MAX];
	struct fm_buf text;
};

static void add_link(struct net *n, const char *separator, bool host, uint32_t from, uint32_t to)
{
	uint32_t a = host ? 0 : ++n->n_ports[from], b = ++n->n_ports[to];

	/* few values, so that there are many ties */
	fm_buf_addf(&n->text,
	            "%s{\"from\": \"%s%u\", \"from_port_number\": %u, \"to\": \"s%u\", \"to_port_number\": %u, \"latency_us\": %u, "
	            "\"bandwidth_bytes_per_s\": %u, \"utilisation_ppm\": %u, \"up\": %s}",
	            separator, host ? "h" : "s", from, a, to, b, random_below(3), 100 + 100 * random_below(3), random_below(2) * 500000,
	            host || random_below(10) > 0 ? "true" : "false");
}

/* h0, h1 and more hosts hang at any switch; switches are joined at random. One in three is behind a controller. */
static struct fm_description *random_network(struct net *n, bool wide)
{
	struct fm_description *d;

	*n = (struct net){ .n_switches = 1 + random_below(8), .n_hosts = 2 + random_below(3) };
	fm_buf_addf(&n->text, "{\"version\": 1, \"topology\": {\"version\": 1, \"hosts\": [");
	for (uint32_t i = 0; i < n->n_hosts; i++)
		fm_buf_addf(&n->text, "%s{\"name\": \"h%u\", \"forwards\": %s}", i ? "," : "", i,
		            i > 1 && random_below(2) ? "true" : "false");
	fm_buf_addf(&n->text, "], \"switches\": [");
	for (uint32_t i = 0; i < n->n_switches; i++)
		fm_buf_addf(&n->text, "%s{\"name\": \"s%u\"}", i ? "," : "", i);
	fm_buf_addf(&n->text, "], \"links\": [");
	for (uint32_t i = 0; i < n->n_hosts; i++)
		add_link(n, i ? "," : "", true, i, random_below(n->n_switches));
	add_link(n, ",", true, 2 % n->n_hosts, random_below(n->n_switches)); /* one has a second link, and may forward */
	for (uint32_t i = 0; i < n->n_switches * 2; i++) {
		uint32_t a = random_below(n->n_switches), b = random_below(n->n_switches);

		if (a != b)
			add_link(n, ",", false, a, b);
	}
	fm_buf_addf(&n->text, "]}, \"openflow\": {\"switches\": [");
	for (uint32_t i = 0, first = 1; i < n->n_switches; i++)
		if (i % 3) {
			fm_buf_addf(&n->text, "%s{\"switch\": \"s%u\", \"address\": \"unix:/run/s%u\"}", first ? "" : ",", i, i);
			first = 0;
		}
	fm_buf_addf(&n->text, "]}, \"controllers\": [{\"name\": \"c\", \"url\": \"http://192.0.2.2\", \"switches\": [");
	for (uint32_t i = 0; i < n->n_switches; i += 3)
		fm_buf_addf(&n->text, "%s{\"switch\": \"s%u\", \"dpid\": %u}", i ? "," : "", i, i + 1);
	fm_buf_addf(&n->text, "]}], \"intents\": [{\"service\": \"redis\", \"container\": \"redis-1\"%s}]}",
	            wide ? ", \"min_bandwidth_bytes_per_s\": 1" : "");
	d = describe(n->text.data);
	fm_buf_done(&n->text);
	return d;
}

/* Where that port leads. */
static uint32_t peer_of(const struct fm_topology *t, uint32_t node, uint32_t port)
{
	for (uint32_t i = 0; i < fm_topology_n_links(t); i++) {
		const struct fm_topology_link *l = fm_topology_link(t, i);

		if (l->from == node && l->from_port.number == port && fm_topology_node(t, node)->kind == FM_NODE_SWITCH) {
			assert_true(l->up);
			return l->to;
		}
		if (l->to == node && l->to_port.number == port) {
			assert_true(l->up);
			return l->from;
		}
	}
	fail_msg("no link at port %u", port);
	return 0;
}

/* The ports that the actions say, by node; 0: none. */
static void ports_of(const struct fm_topology *t, const json_t *actions, const char *key, uint32_t *ret)
{
	for (size_t a = 0; a < json_array_size(actions); a++) {
		const json_t *switches = json_object_get(json_array_get(actions, a), "switches");

		for (size_t s = 0; s < json_array_size(switches); s++) {
			const json_t *o = json_array_get(switches, s);
			uint32_t node = 0;

			assert_ok(fm_topology_find_node(t, json_string_value(json_object_get(o, "name")), &node, &err));
			assert_int_equal(ret[node], 0); /* told once */
			ret[node] = (uint32_t)json_integer_value(json_object_get(o, key));
			assert_true(ret[node] > 0);
		}
	}
}

static bool reaches(const struct fm_topology *t, uint32_t node, const char *host, const uint32_t *avoid, size_t n_avoid)
{
	const struct fm_path_constraints c = { .avoid_nodes = avoid, .n_avoid_nodes = n_avoid };
	struct fm_path p = { 0 };
	uint32_t to = 0;

	assert_ok(fm_topology_find_node(t, host, &to, &err));
	if (fm_topology_shortest(t, node, to, &c, &p, NULL) < 0)
		return false;
	fm_path_done(&p);
	return true;
}

/* Along the ports of the actions, and where a switch has none, along the one by which it reaches both hosts. */
static void follow(const struct fm_description *d, const uint32_t *to_port, uint32_t node, uint32_t host, const uint32_t *same)
{
	uint32_t steps = 0;

	while (node != host) {
		uint32_t port = to_port[node] ? to_port[node] : same[node];

		assert_true(port > 0);
		assert_in_range(++steps, 1, NODES_MAX); /* more than there are nodes: a loop */
		node = peer_of(d->topology, node, port);
	}
}

/* The first port of each switch's best path to the host; without the taken links where that can be. */
static void best_ports(const struct fm_description *d, const char *host, bool wide, const uint32_t *avoid, size_t n_avoid,
                       const struct fm_intent_move *m, uint32_t *ret)
{
	struct fm_path_constraints c = {
		.avoid_nodes = avoid, .n_avoid_nodes = n_avoid, .avoid_links = m->taken_links, .n_avoid_links = m->n_taken_links
	};
	struct fm_path_constraints all = { .avoid_nodes = avoid, .n_avoid_nodes = n_avoid };
	uint32_t to = 0;

	assert_ok(fm_topology_find_node(d->topology, host, &to, &err));
	for (uint32_t n = 0; n < fm_topology_n_nodes(d->topology); n++) {
		_fm_cleanup_(fm_path_done) struct fm_path p = { 0 };
		const struct fm_topology_link *l;

		if (fm_topology_node(d->topology, n)->kind != FM_NODE_SWITCH ||
		    ((wide ? fm_topology_widest : fm_topology_shortest)(d->topology, n, to, &c, &p, NULL) < 0 &&
		     (wide ? fm_topology_widest : fm_topology_shortest)(d->topology, n, to, &all, &p, NULL) < 0))
			continue;
		l = fm_topology_link(d->topology, p.links[0]);
		ret[n] = l->from == n ? l->from_port.number : l->to_port.number;
	}
}

static size_t check_random(bool wide, bool taken)
{
	struct net n;
	_fm_cleanup_(fm_description_freep) struct fm_description *d = random_network(&n, wide);
	uint32_t from_port[NODES_MAX * 2] = { 0 }, to_port[NODES_MAX * 2] = { 0 }, was[NODES_MAX * 2] = { 0 }, is[NODES_MAX * 2] = { 0 };
	uint32_t routers[NODES_MAX], source = 0, destination = 0, n_routers = 0;
	uint32_t links[2] = { random_below(fm_topology_n_links(d->topology)), random_below(fm_topology_n_links(d->topology)) };
	struct fm_intent_move m = move("h0", "h1");
	json_auto_t *actions = NULL;

	m.taken_links = links;
	m.n_taken_links = taken ? 2 : 0;
	for (uint32_t i = 0; i < fm_topology_n_nodes(d->topology); i++)
		if (fm_topology_node(d->topology, i)->kind == FM_NODE_HOST && fm_topology_node(d->topology, i)->forwards)
			routers[n_routers++] = i;
	assert_ok(fm_topology_find_node(d->topology, "h0", &source, &err));
	assert_ok(fm_topology_find_node(d->topology, "h1", &destination, &err));
	if (!reaches(d->topology, source, "h1", routers, n_routers)) {
		assert_code(FM_E_FAILED_PRECONDITION, fm_intent_compile(d, &d->intents[0], &m, &actions, &err));
		return 0;
	}
	if (taken && fm_intent_compile(d, &d->intents[0], &m, &actions, &err) < 0) {
		assert_non_null(strstr(err.message, "keeps from other services' links"));
		return 0;
	}
	if (!taken)
		assert_ok(fm_intent_compile(d, &d->intents[0], &m, &actions, &err));
	ports_of(d->topology, actions, "from_port", from_port);
	ports_of(d->topology, actions, "to_port", to_port);
	best_ports(d, "h0", wide, routers, n_routers, &m, was);
	best_ports(d, "h1", wide, routers, n_routers, &m, is);
	for (uint32_t i = 0; i < fm_topology_n_nodes(d->topology); i++) {
		if (fm_topology_node(d->topology, i)->kind != FM_NODE_SWITCH || !reaches(d->topology, i, "h1", routers, n_routers))
			continue;
		assert_true(from_port[i] == 0 ? was[i] == is[i] : from_port[i] == was[i] && from_port[i] != to_port[i]);
		follow(d, from_port, i, source, was);
		follow(d, to_port, i, destination, is);
	}
	return json_array_size(actions);
}

static void test_flows_lead_there(void **state)
{
	size_t some = 0;

	random_state = 0x9e3779b97f4a7c15;
	for (int round = 0; round < 4000; round++)
		some += check_random(round % 2, round % 3 == 0) > 0;
	assert_in_range(some, 1500, 4000); /* else the networks would say little */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_switch),
		cmocka_unit_test(test_two_interfaces),
		cmocka_unit_test(test_row_of_switches),
		cmocka_unit_test(test_allowed_drivers),
		cmocka_unit_test(test_forbidden_switch_aside),
		cmocka_unit_test(test_ports_without_numbers),
		cmocka_unit_test(test_known_ports),
		cmocka_unit_test(test_vxlan_of_four),
		cmocka_unit_test(test_routed),
		cmocka_unit_test(test_routed_subnets),
		cmocka_unit_test(test_tunnel_alone),
		cmocka_unit_test(test_migrations_have_their_own_tunnels),
		cmocka_unit_test(test_router_without_the_destination),
		cmocka_unit_test(test_following_a_name),
		cmocka_unit_test(test_balancer_and_webhook),
		cmocka_unit_test(test_published_ports),
		cmocka_unit_test(test_gap),
		cmocka_unit_test(test_bandwidth),
		cmocka_unit_test(test_widest_flows),
		cmocka_unit_test(test_vlan),
		cmocka_unit_test(test_dedicated_path),
		cmocka_unit_test(test_find),
		cmocka_unit_test(test_wrong_moves),
		cmocka_unit_test(test_several_problems),
		cmocka_unit_test(test_flows_lead_there),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
