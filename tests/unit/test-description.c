/* SPDX-License-Identifier: MIT */
/* test-description.c - the network's description: all of it read, and everything that is wrong told with its place. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "basic/cleanup.h"
#include "basic/str.h"
#include "network/intent.h"
#include "network/redirect-tunnel.h"

#define TOPOLOGY                                                                                                                           \
	"\"topology\": {\"version\": 1, \"hosts\": [{\"name\": \"h1\"}, {\"name\": \"h2\"}], \"switches\": [{\"name\": \"s1\"}, "          \
	"{\"name\": "                                                                                                                      \
	"\"s2\"}], \"links\": [{\"from\": \"h1\", \"to\": \"s1\", \"latency_us\": 1, \"bandwidth_bytes_per_s\": 1}]}"

static const char whole[] =
        "{\"version\": 1, " TOPOLOGY ","
        "\"openflow\": {\"table\": 2, \"priority\": 7, \"switches\": [{\"switch\": \"s1\", \"address\": \"tcp:switch.example:6653\"}]},"
        "\"controllers\": [{\"name\": \"c1\", \"url\": \"https://192.0.2.2:8080/x\", \"ca\": \"c1.pem\", \"switches\": [{\"switch\": "
        "\"s2\", \"dpid\": 18}]}],"
        "\"vxlan\": [{\"device\": \"vx0\", \"hosts\": {\"h1\": \"fd00::1\", \"h2\": \"192.0.2.12\"}}],"
        "\"routers\": [{\"host\": \"r1\", \"table\": 100, \"via\": {\"h1\": \"fd00::1\"}}],"
        "\"tunnels\": {\"hosts\": {\"h1\": \"192.0.2.11\"}, \"port\": 4789},"
        "\"dns\": [{\"name\": \"lab\", \"server\": \"[fd00::53]:53\", \"zone\": \"example.org\", \"key\": \"k\", \"algorithm\": "
        "\"hmac-sha512\", \"key_file\": \"k.key\"}],"
        "\"load_balancers\": [{\"name\": \"lb\", \"driver\": \"haproxy\", \"socket\": \"tcp:192.0.2.5:9999\"}],"
        "\"webhooks\": [{\"name\": \"w\", \"url\": \"http://192.0.2.4/\", \"events\": [\"flip\"], \"required\": true}],"
        "\"intents\": [{\"service\": \"redis\", \"label\": \"app=redis\", \"keep\": \"name\", \"name\": \"redis.EXAMPLE.org\", \"dns\": "
        "\"lab\","
        "\"addresses\": {\"h1\": \"192.0.2.11\"}, \"max_gap_ms\": 200, \"min_bandwidth_bytes_per_s\": 5, \"clients\": [\"h2\", \"s2\"], "
        "\"drivers\": [\"dns\", \"bridge\"],"
        "\"isolation\": \"vlan:4094\", \"load_balancer\": {\"name\": \"lb\", \"backend\": \"be\", \"server\": \"r:1\", \"port\": 6379, "
        "\"drain\": true},"
        "\"publish\": [{\"host_port\": 1, \"port\": 65535}], \"webhooks\": [\"w\"]}]}";

static struct fm_description *parse(const char *text)
{
	struct fm_description *d = NULL;

	assert_ok(fm_description_parse(text, strlen(text), &d, &err));
	return d;
}

static void test_the_whole(void **state)
{
	_fm_cleanup_(fm_description_freep) struct fm_description *d = parse(whole);
	const struct fm_intent *i = &d->intents[0];

	assert_int_equal(fm_topology_n_nodes(d->topology), 4);
	assert_int_equal(d->openflow.table, 2);
	assert_int_equal(d->openflow.priority, 7);
	assert_int_equal(d->openflow.n, 1);
	assert_int_equal(d->openflow.switches[0].node, 2);
	assert_string_equal(d->openflow.switches[0].address, "tcp:switch.example:6653");
	assert_string_equal(d->controllers[0].url, "https://192.0.2.2:8080/x");
	assert_string_equal(d->controllers[0].ca, "c1.pem");
	assert_null(d->controllers[0].unix_socket);
	assert_int_equal(d->controllers[0].priority, 40000);
	assert_int_equal(d->controllers[0].switches[0].dpid, 18);
	assert_string_equal(d->vxlans[0].device, "vx0");
	assert_int_equal(d->routers[0].table, 100);
	assert_int_equal(d->routers[0].family, AF_INET6);
	assert_int_equal(d->tunnels.port, 4789);
	assert_string_equal(fm_description_dns(d, "lab")->algorithm, "hmac-sha512");
	assert_int_equal(d->dns[0].ttl_s, 5);
	assert_null(fm_description_dns(d, "other"));
	assert_string_equal(fm_description_balancer(d, "lb")->socket, "tcp:192.0.2.5:9999");
	assert_true(fm_description_webhook(d, "w")->required);
	assert_int_equal(d->n_intents, 1);
	assert_null(i->container);
	assert_string_equal(i->label, "app=redis");
	assert_ptr_equal(i->dns, &d->dns[0]);
	assert_int_equal(i->max_gap_ms, 200);
	assert_int_equal(i->min_bandwidth_bytes_per_s, 5);
	assert_int_equal(i->n_clients, 2);
	assert_int_equal(i->clients[1], 3);
	assert_int_equal(i->drivers, FM_INTENT_DNS | FM_INTENT_BRIDGE);
	assert_int_equal(i->vlan, 4094);
	assert_false(i->dedicated_path);
	assert_true(i->balancer.drain && i->balancer.balancer == &d->balancers[0]);
	assert_int_equal(i->publish[0].port, 65535);
	assert_string_equal(i->publish[0].protocol, "tcp");
	assert_ptr_equal(i->webhooks[0], &d->webhooks[0]);
}

static void test_nothing_but_the_version(void **state)
{
	_fm_cleanup_(fm_description_freep) struct fm_description *d = parse("{\"version\": 1}");

	assert_non_null(d->topology);
	assert_int_equal(fm_topology_n_nodes(d->topology), 0);
	assert_int_equal(d->n_intents, 0);
	assert_int_equal(d->tunnels.port, FM_TUNNEL_PORT);
}

#define WITH(members)      "{\"version\": 1, " TOPOLOGY ", " members "}"
#define OPENFLOW(switches) WITH("\"openflow\": {\"switches\": [" switches "]}")
#define DNS(members)       WITH("\"dns\": [{\"name\": \"lab\", \"key\": \"k\", \"key_file\": \"f\", " members "}]")
#define INTENT(members)                                                                                                                    \
	WITH("\"dns\": [{\"name\": \"lab\", \"server\": \"192.0.2.53\", \"zone\": \"example.org\", \"key\": \"k\", \"key_file\": "         \
	     "\"f\"}], \"intents\": [{\"service\": \"a\", " members "}]")
#define ABOUT(members) INTENT("\"container\": \"c\", " members)

static const struct {
	const char *text, *why;
} wrong[] = {
	{ "", "network: line 1, column 0" },
	{ "{\"version\": 1,\n \"dns\" 2}", "network: line 2, column 8" },
	{ "{\"version\": 1, \"version\": 1}", "duplicate" },
	{ "[]", "network: it is not an object" },
	{ "{}", "network: version is missing" },
	{ "{\"version\": 2}", "version 2; only 1 is known" },
	{ "{\"version\": 1, \"switch\": []}", "network: switch is not a member that is known here" },
	{ "{\"version\": 1, \"dns\": {}}", "network: dns is not a list" },
	{ "{\"version\": 1, \"dns\": [7]}", "network: dns[0] is not an object" },
	{ "{\"version\": 1, \"topology\": []}", "network: topology is not an object" },
	{ "{\"version\": 1, \"topology\": {\"version\": 1, \"hosts\": [{}]}}", "network: topology: hosts[0].name is missing" },
	{ OPENFLOW("{\"switch\": \"s9\", \"address\": \"unix:/a\"}"), "network: openflow.switches[0].switch is not in the topology" },
	{ OPENFLOW("{\"switch\": \"h1\", \"address\": \"unix:/a\"}"), "openflow.switches[0].switch is a host in the topology" },
	{ OPENFLOW("{\"switch\": \"s1\", \"address\": \"unix:/a\"}, {\"switch\": \"s1\", \"address\": \"unix:/b\"}"),
	  "openflow.switches[1].switch is that of one before it" },
	{ OPENFLOW("{\"switch\": \"s1\"}"), "openflow.switches[0].address is missing" },
	{ OPENFLOW("{\"switch\": \"s1\", \"address\": \"192.0.2.1:6653\"}"), "address is not the address of a switch" },
	{ OPENFLOW("{\"switch\": \"s1\", \"address\": \"tcp:192.0.2.1\"}"), "address is not the address of a switch" },
	{ OPENFLOW("{\"switch\": \"s1\", \"address\": \"tcp::6653\"}"), "address is not the address of a switch" },
	{ OPENFLOW("{\"switch\": \"s1\", \"address\": \"unix:a\"}"), "address is not the address of a switch" },
	{ WITH("\"openflow\": {\"priority\": 0, \"switches\": []}"), "openflow.priority is not a whole number from 1 to 65535" },
	{ WITH("\"openflow\": {\"table\": 255, \"switches\": []}"), "openflow.table is not a whole number from 0 to 254" },
	{ WITH("\"openflow\": {\"table\": \"0\", \"switches\": []}"), "openflow.table is not a whole number" },
	{ WITH("\"controllers\": [{\"name\": \"c\", \"url\": \"ftp://a\", \"switches\": []}]"), "controllers[0].url is not a URL" },
	{ WITH("\"controllers\": [{\"name\": \"c\", \"url\": \"http://a b\", \"switches\": []}]"), "controllers[0].url is not a URL" },
	{ WITH("\"controllers\": [{\"name\": \"c\", \"url\": \"http://\", \"switches\": []}]"), "controllers[0].url is not a URL" },
	{ WITH("\"controllers\": [{\"name\": \"c\", \"url\": \"http://a\", \"ca\": \"../x\", \"switches\": []}]"),
	  "controllers[0].ca is not the name of a file" },
	{ WITH("\"controllers\": [{\"name\": \"c\", \"url\": \"http://a\", \"switches\": [{\"switch\": \"s1\", \"dpid\": 0}]}]"),
	  "controllers[0].switches[0].dpid is not a whole number" },
	{ WITH("\"controllers\": [{\"name\": \"c\", \"url\": \"http://a\", \"switches\": []}, {\"name\": \"c\", \"url\": \"http://a\", "
	       "\"switches\": []}]"),
	  "controllers[1].name is that of one before it" },
	{ WITH("\"vxlan\": [{\"device\": \"a/b\", \"hosts\": {}}]"), "vxlan[0].device is not the name of an interface" },
	{ WITH("\"vxlan\": [{\"device\": \"1234567890123456\", \"hosts\": {}}]"), "vxlan[0].device is not the name of an interface" },
	{ WITH("\"vxlan\": [{\"device\": \"vx0\", \"hosts\": {\"h1\": \"192.0.2.300\"}}]"),
	  "network: vxlan[0].hosts.h1 is not an address" },
	{ WITH("\"vxlan\": [{\"device\": \"vx0\", \"hosts\": {\"h1\": 7}}]"), "network: vxlan[0].hosts.h1 is not a string" },
	{ WITH("\"vxlan\": [{\"device\": \"vx0\", \"hosts\": {\"h 1\": \"192.0.2.3\"}}]"), "network: vxlan[0].hosts.h 1 is not a name" },
	{ WITH("\"routers\": [{\"host\": \"r1\", \"via\": {}}]"), "routers[0].via has 0 entries; 1 to" },
	{ WITH("\"routers\": [{\"host\": \"r1\", \"via\": {\"h1\": \"192.0.2.1\", \"h2\": \"fd00::1\"}}]"),
	  "routers[0].via has next hops of both families" },
	{ WITH("\"routers\": [{\"host\": \"r1\", \"table\": 0, \"via\": {\"h1\": \"192.0.2.1\"}}]"), "routers[0].table is not" },
	{ WITH("\"tunnels\": {\"port\": 65536, \"hosts\": {}}"), "tunnels.port is not a whole number from 1 to 65535" },
	{ WITH("\"tunnels\": {\"port\": 1}"), "tunnels.hosts is missing" },
	{ DNS("\"zone\": \"example.org\""), "dns[0].server is missing" },
	{ DNS("\"zone\": \"example.org\", \"server\": \"ns.example.org\""), "dns[0].server is not an address with or without a port" },
	{ DNS("\"zone\": \"example.org\", \"server\": \"192.0.2.53:0\""), "dns[0].server is not an address" },
	{ DNS("\"zone\": \"example.org\", \"server\": \"[fd00::1]\""), "dns[0].server is not an address" },
	{ DNS("\"zone\": \"exa mple\", \"server\": \"192.0.2.53\""), "dns[0].zone is not the name of a zone" },
	{ DNS("\"zone\": \"a\", \"server\": \"192.0.2.53\", \"algorithm\": \"hmac-md5\""),
	  "dns[0].algorithm is not hmac-sha256, hmac-sha1, hmac-sha224, hmac-sha384 or hmac-sha512" },
	{ DNS("\"zone\": \"\", \"server\": \"192.0.2.53\""), "dns[0].zone is empty" },
	{ WITH("\"load_balancers\": [{\"name\": \"lb\", \"socket\": \"a.sock\"}]"), "load_balancers[0].socket is neither" },
	{ WITH("\"load_balancers\": [{\"name\": \"lb\", \"socket\": \"tcp:192.0.2.5\"}]"), "load_balancers[0].socket is neither" },
	{ WITH("\"load_balancers\": [{\"name\": \"lb\", \"driver\": \"nginx\", \"socket\": \"/a\"}]"),
	  "load_balancers[0].driver is not haproxy" },
	{ WITH("\"webhooks\": [{\"name\": \"w\", \"url\": \"http://a\", \"events\": []}]"), "webhooks[0].events has 0 entries" },
	{ WITH("\"webhooks\": [{\"name\": \"w\", \"url\": \"http://a\", \"events\": [1]}]"), "webhooks[0].events[0] is not prepare, open" },
	{ WITH("\"webhooks\": [{\"name\": \"w\", \"url\": \"http://a\", \"headers\": {\"A\": \"b\\r\\nC: d\"}}]"),
	  "webhooks[0].headers.A has control characters" },
	{ WITH("\"webhooks\": [{\"name\": \"w\", \"url\": \"http://a\", \"required\": 1}]"),
	  "webhooks[0].required is neither true nor false" },
	{ INTENT("\"keep\": \"address\""), "intents[0].container is missing, and there is no label either" },
	{ INTENT("\"container\": \"c\", \"label\": \"a=b\""), "intents[0].label is there beside container" },
	{ INTENT("\"label\": \"=b\""), "intents[0].label is not KEY=VALUE" },
	{ INTENT("\"container\": \"c\"}, {\"service\": \"a\", \"container\": \"d\""), "intents[1].service is that of one before it" },
	{ INTENT("\"container\": \"c\"}, {\"service\": \"b\", \"container\": \"c\""),
	  "intents[1].container has an intent before this one" },
	{ ABOUT("\"keep\": \"both\""), "intents[0].keep is not address or name" },
	{ ABOUT("\"keep\": \"name\", \"dns\": \"lab\""), "intents[0].name is missing" },
	{ ABOUT("\"keep\": \"name\", \"name\": \"a.example.org\""), "intents[0].dns is missing" },
	{ ABOUT("\"keep\": \"name\", \"name\": \"a.example.org\", \"dns\": \"x\""),
	  "intents[0].dns is not the name of one of the entries of dns" },
	{ ABOUT("\"keep\": \"name\", \"name\": \"a.badexample.org\", \"dns\": \"lab\""),
	  "intents[0].name is not in the zone of its dns entry" },
	{ ABOUT("\"name\": \"a.example.org\""), "intents[0].name has a meaning with" },
	{ ABOUT("\"max_gap_s\": 1"), "intents[0].max_gap_s is not a member that is known here" },
	{ ABOUT("\"max_gap_ms\": 86400001"), "intents[0].max_gap_ms is not a whole number from 0 to 86400000" },
	{ ABOUT("\"min_bandwidth_bytes_per_s\": 1.5"), "intents[0].min_bandwidth_bytes_per_s is not" },
	{ ABOUT("\"drivers\": [\"bridge\", \"iptables\"]"), "intents[0].drivers[1] is not bridge, openflow" },
	{ ABOUT("\"drivers\": [null]"), "intents[0].drivers[0] is not bridge" },
	{ ABOUT("\"clients\": [\"h9\"]"), "intents[0].clients[0] is not a host or switch of the topology" },
	{ ABOUT("\"clients\": [5]"), "intents[0].clients[0] is not" },
	{ ABOUT("\"isolation\": \"vlan:0\""), "intents[0].isolation is not none, vlan:1 to vlan:4094, or dedicated-path" },
	{ ABOUT("\"isolation\": \"vlan:4095\""), "intents[0].isolation is not" },
	{ ABOUT("\"isolation\": \"dedicated-path\""), "intents[0].clients is missing, and \"dedicated-path\" needs them" },
	{ ABOUT("\"load_balancer\": {\"name\": \"x\", \"backend\": \"b\", \"server\": \"s\", \"port\": 1}"),
	  "intents[0].load_balancer.name is not the name of one" },
	{ ABOUT("\"load_balancer\": {\"name\": \"x\", \"backend\": \"b;\", \"server\": \"s\", \"port\": 1}"),
	  "intents[0].load_balancer.backend is not" },
	{ ABOUT("\"load_balancer\": {\"name\": \"x\", \"backend\": \"b\", \"server\": \"s\", \"port\": 0}"),
	  "intents[0].load_balancer.port is not" },
	{ ABOUT("\"publish\": [{\"host_port\": 1, \"port\": 1, \"protocol\": \"sctp\"}]"),
	  "intents[0].publish[0].protocol is not tcp or udp" },
	{ ABOUT("\"publish\": [{\"host_port\": 1, \"port\": 1}, {\"host_port\": 1, \"port\": 2}]"),
	  "intents[0].publish[1].host_port is that of one before it" },
	{ ABOUT("\"webhooks\": [\"w\"]"), "intents[0].webhooks[0] is not the name of one of the webhooks" },
	{ ABOUT("\"addresses\": {\"h1\": \"192.0.2.1/24\"}"), "intents[0].addresses.h1 is not an address" },
};

static void test_wrong(void **state)
{
	struct fm_description *d = NULL;

	for (size_t i = 0; i < FM_ARRAY_SIZE(wrong); i++) {
		assert_code(FM_E_INVALID_ARGUMENT, fm_description_parse(wrong[i].text, strlen(wrong[i].text), &d, &err));
		if (!strstr(err.message, wrong[i].why) || strncmp(err.message, "network: ", 9) != 0)
			fail_msg("%s\n\"%s\" does not say \"%s\"", wrong[i].text, err.message, wrong[i].why);
	}
	assert_null(d);
}

static void test_one_port_of_two_protocols(void **state)
{
	/* the same port of two protocols is two */
	_fm_cleanup_(fm_description_freep) struct fm_description *d =
	        parse(ABOUT("\"publish\": [{\"host_port\": 53, \"port\": 53}, {\"host_port\": 53, \"port\": 53, \"protocol\": \"udp\"}]"));

	assert_int_equal(d->intents[0].n_publish, 2);
}

static void test_too_much(void **state)
{
	_fm_buf_ struct fm_buf many = FM_BUF_INIT, lists = FM_BUF_INIT, names = FM_BUF_INIT;
	_fm_free_ char *large = malloc(FM_MAX_DESCRIPTION_BYTES + 1);
	struct fm_description *d = NULL;

	memset(large, ' ', FM_MAX_DESCRIPTION_BYTES + 1);
	assert_code(FM_E_RESOURCE_EXHAUSTED, fm_description_parse(large, FM_MAX_DESCRIPTION_BYTES + 1, &d, &err));
	for (int i = 0; i < 100000; i++)
		fm_buf_addf(&lists, "[");
	assert_code(FM_E_RESOURCE_EXHAUSTED, fm_description_parse(lists.data, lists.len, &d, &err));
	fm_buf_addf(&many, "{\"version\": 1, \"intents\": [");
	for (int i = 0; i <= FM_MAX_INTENTS; i++)
		fm_buf_addf(&many, "%s{\"service\": \"s%d\", \"container\": \"c%d\"}", i ? "," : "", i, i);
	fm_buf_addf(&many, "]}");
	assert_code(FM_E_INVALID_ARGUMENT, fm_description_parse(many.data, many.len, &d, &err));
	assert_non_null(strstr(err.message, "network: intents has 1025 entries; 0 to 1024 are possible"));
	fm_buf_addf(&names, "{\"version\": 1, \"dns\": [{\"name\": \"");
	for (int i = 0; i < 300; i++)
		fm_buf_addf(&names, "n");
	fm_buf_addf(&names, "\"}]}");
	assert_code(FM_E_INVALID_ARGUMENT, fm_description_parse(names.data, names.len, &d, &err));
	assert_non_null(strstr(err.message, "dns[0].name has 300 bytes; 1 to 255 are possible"));
}

static void test_driver_names(void **state)
{
	unsigned all = 0;

	for (unsigned d = 1; d & FM_INTENT_ALL; d <<= 1) {
		assert_int_equal(fm_intent_driver(fm_intent_driver_name(d)), d);
		all |= d;
	}
	assert_int_equal(all, FM_INTENT_ALL);
	assert_int_equal(fm_intent_driver("iptables"), 0);
	assert_int_equal(fm_intent_driver(NULL), 0);
	assert_null(fm_intent_driver_name(FM_INTENT_ALL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_whole), cmocka_unit_test(test_nothing_but_the_version),
		cmocka_unit_test(test_wrong),     cmocka_unit_test(test_one_port_of_two_protocols),
		cmocka_unit_test(test_too_much),  cmocka_unit_test(test_driver_names),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
