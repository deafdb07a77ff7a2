/* SPDX-License-Identifier: MIT */
/* test-redirect-vxlan.c - a container moves between two hosts of a real VXLAN while a client behind a third one counts. */
#include "move-lab.h"

#define CT_MAC  "02:77:00:00:01:00"
#define CLI_MAC "02:77:00:00:02:00"

static const char *const hosts[] = { "src", "dst", "oth" };

struct kind {
	bool learning, zero_list, underlay6;
};

static const char *vtep(const struct kind *k, int i)
{
	static const char *const v4[] = { "10.0.0.1", "10.0.0.2", "10.0.0.3" }, *const v6[] = { "fd00::1", "fd00::2", "fd00::3" };

	return k->underlay6 ? v6[i] : v4[i];
}

/* Bridge br0 with a VXLAN port. The host's own stack is not to answer on it. */
static void build_host(const struct move_lab *lab, const struct kind *k, int i)
{
	const char *h = hosts[i];

	cable(lab, h, "eth0", "sw", h);
	at(lab, "sw", "ip link set %s master brs", h);
	at(lab, h, "ip addr add 10.0.0.%d/24 dev eth0 && ip addr add fd00::%d/64 dev eth0", i + 1, i + 1);
	at(lab, h, "ip link add br0 type bridge mcast_snooping 0 && ip link set br0 addrgenmode none && ip link set br0 up");
	at(lab, h, "ip link add vx0 type vxlan id 77 dstport 4789 local %s %s", vtep(k, i), k->learning ? "learning" : "nolearning");
	at(lab, h, "ip link set vx0 addrgenmode none && ip link set vx0 mtu 1400 master br0 up");
	for (int j = 0; j < 3 && k->zero_list; j++)
		if (j != i)
			at(lab, h, "bridge fdb append 00:00:00:00:00:00 dev vx0 dst %s", vtep(k, j));
}

static void build(struct move_lab *lab, const struct kind *k)
{
	static const char *const names[] = { "sw", "src", "dst", "oth", "mux", "ct", "cli" };

	lab_begin(lab);
	for (size_t i = 0; i < FM_ARRAY_SIZE(names); i++)
		add_ns(lab, names[i]);
	at(lab, "sw", "ip link add brs type bridge && ip link set brs up");
	for (int i = 0; i < 3; i++)
		build_host(lab, k, i);
	at(lab, "mux", "ip link add brm type bridge mcast_snooping 0 && ip link set brm up");
	cable(lab, "ct", "eth0", "mux", "ct");
	cable(lab, "mux", "m-src", "src", "ct0");
	cable(lab, "mux", "m-dst", "dst", "ct0");
	cable(lab, "cli", "eth0", "oth", "cli0");
	at(lab, "mux", "ip link set ct master brm; ip link set m-src master brm");
	at(lab, "src", "ip link set ct0 arp off; ip link set ct0 master br0");
	at(lab, "dst", "ip link set ct0 arp off");
	at(lab, "oth", "ip link set cli0 master br0");
	at(lab, "ct",
	   "ip link set eth0 address " CT_MAC " mtu 1400; ip addr add 10.78.0.100/24 dev eth0; ip addr add fd78::100/64 dev eth0");
	at(lab, "cli", "ip link set eth0 address " CLI_MAC " mtu 1400; ip addr add 10.78.0.3/24 dev eth0; ip addr add fd78::3/64 dev eth0");
	if (k->learning) {
		settle(lab);
		return;
	}
	/* nobody is asked where nothing is flooded */
	for (int i = 0; i < 2; i++)
		at(lab, hosts[i], "bridge fdb add " CLI_MAC " dev vx0 dst %s", vtep(k, 2));
	at(lab, "oth", "bridge fdb add " CT_MAC " dev vx0 dst %s", vtep(k, 0));
	at(lab, "dst", "bridge fdb add " CT_MAC " dev vx0 dst %s", vtep(k, 0));
	at(lab, "ct", "ip neigh replace 10.78.0.3 lladdr " CLI_MAC " dev eth0; ip neigh replace fd78::3 lladdr " CLI_MAC " dev eth0");
	at(lab, "cli", "ip neigh replace 10.78.0.100 lladdr " CT_MAC " dev eth0; ip neigh replace fd78::100 lladdr " CT_MAC " dev eth0");
	settle(lab);
}

static void announce(const struct move_lab *lab)
{
	/* what the endpoint does when it opens; here by a frame of the container's, an unsolicited neighbour advertisement being as good as any */
	at(lab, "ct",
	   "python3 -c \"import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind((\\\"eth0\\\", 0)); "
	   "m = bytes.fromhex(\\\"027700000100\\\"); a = bytes([10, 78, 0, 100]); "
	   "s.send(b\\\"\\xff\\\" * 6 + m + bytes.fromhex(\\\"08060001080006040001\\\") + m + a + bytes(6) + a)\"");
}

static void close_source(const struct move_lab *lab)
{
	at(lab, "src", "ip link set ct0 nomaster");
	at(lab, "mux", "ip link set m-src nomaster; ip link set m-dst master brm");
}

/* As the endpoint does: without an entry the bridge would believe that the container is behind the VXLAN, where it heard it last. */
static void open_destination(const struct move_lab *lab)
{
	at(lab, "dst", "ip link set ct0 master br0; bridge fdb replace " CT_MAC " dev ct0 master static sticky");
}

static char *action_for(const struct kind *k)
{
	return fm_xasprintf("{\"driver\":\"vxlan\",\"device\":\"vx0\",\"mac\":\"" CT_MAC
	                    "\",\"from\":\"%s\",\"to\":\"%s\",\"learning\":%s}",
	                    vtep(k, 0), vtep(k, 1), k->learning ? "true" : "false");
}

/* The actions of all three hosts, as their agents carry them out. */
static void all(const struct move_lab *lab, int what, const char *action, char *undo[3])
{
	for (int i = 0; i < 3; i++)
		twice(lab, hosts[i], what, action, &undo[i]);
}

static void moves(const struct kind *k, const char *address)
{
	_fm_free_ char *action = action_for(k);
	struct move_lab lab;
	struct service s;
	struct client c;
	char *undo[3] = { 0 };
	unsigned first, last;

	build(&lab, k);
	for (int i = 0; i < 3; i++)
		assert_ok(driver(&lab, hosts[i], PREPARE, action, &undo[i], &err));
	service_start(&lab, "ct", &s);
	client_start(&lab, "cli", address, &c);
	await_traffic(&s, &c);
	all(&lab, OPEN, action, undo);
	await_traffic(&s, &c);
	first = atomic_load(&c.sent);
	close_source(&lab);
	open_destination(&lab);
	if (k->learning)
		announce(&lab);
	last = atomic_load(&c.sent);
	await_traffic(&s, &c);
	if (!k->learning)
		assert_code(FM_E_FAILED_PRECONDITION, driver(&lab, "oth", VERIFY, action, &undo[2], &err));
	all(&lab, FLIP, action, undo);
	all(&lab, VERIFY, action, undo);
	await_traffic(&s, &c);
	client_stop(&c);
	service_stop(&s);
	assert_numbers(&s, &c, first, last);
	for (int i = 0; i < 3; i++)
		free(undo[i]);
	lab_end(&lab);
}

static bool missing(void)
{
	const char *why = lab_is_missing();

	if (why)
		print_message("skipped: %s\n", why);
	return why;
}

static void test_static_without_flooding(void **state)
{
	if (missing())
		skip();
	moves(&(struct kind){ 0 }, "10.78.0.100");
}

static void test_static_with_flooding(void **state)
{
	if (missing())
		skip();
	moves(&(struct kind){ .zero_list = true }, "fd78::100");
}

static void test_static_underlay6(void **state)
{
	if (missing())
		skip();
	moves(&(struct kind){ .underlay6 = true }, "10.78.0.100");
}

static void test_learning(void **state)
{
	if (missing())
		skip();
	moves(&(struct kind){ .learning = true, .zero_list = true }, "10.78.0.100");
	moves(&(struct kind){ .learning = true, .zero_list = true, .underlay6 = true }, "fd78::100");
}

/* Back again after the flip, with traffic: the table is what it was, and so is the way. */
static void test_rolled_back(void **state)
{
	struct kind k = { 0 };
	_fm_free_ char *action = action_for(&k), *before = NULL;
	struct move_lab lab;
	struct service s;
	struct client c;
	char *undo[3] = { 0 };
	unsigned first, last;

	if (missing())
		skip();
	build(&lab, &k);
	before = snapshot(&lab, "oth");
	service_start(&lab, "ct", &s);
	client_start(&lab, "cli", "10.78.0.100", &c);
	for (int i = 0; i < 3; i++)
		assert_ok(driver(&lab, hosts[i], PREPARE, action, &undo[i], &err));
	all(&lab, OPEN, action, undo);
	await_traffic(&s, &c);
	first = atomic_load(&c.sent);
	all(&lab, FLIP, action, undo);
	all(&lab, REVERT, action, undo);
	last = atomic_load(&c.sent);
	await_traffic(&s, &c);
	assert_unchanged(&lab, "oth", before);
	client_stop(&c);
	service_stop(&s);
	assert_numbers(&s, &c, first, last);
	for (int i = 0; i < 3; i++)
		free(undo[i]);
	lab_end(&lab);
}

/* Details of an entry that a naive undo would lose. */
static void test_every_stop_reverts(void **state)
{
	static const char *const entries[] = {
		"bridge fdb add " CT_MAC " dev vx0 dst 10.0.0.1",
		"bridge fdb add " CT_MAC " dev vx0 dst 10.0.0.1 static",
		"bridge fdb add " CT_MAC " dev vx0 dst 10.0.0.1 port 4790 vni 78 via eth0 router",
		"bridge fdb append 00:00:00:00:00:00 dev vx0 dst 10.0.0.9 static; bridge fdb add " CT_MAC " dev vx0 dst 10.0.0.1",
		"bridge fdb append 00:00:00:00:00:00 dev vx0 dst 10.0.0.1; bridge fdb add " CT_MAC " dev vx0 dst 10.0.0.1",
		"bridge fdb append 00:00:00:00:00:00 dev vx0 dst 239.1.1.1 via eth0; bridge fdb add " CT_MAC " dev vx0 dst 10.0.0.1",
		"bridge fdb append 00:00:00:00:00:00 dev vx0 dst 10.0.0.1", /* not listed, to the destination nothing is flooded */
		"bridge fdb append 00:00:00:00:00:00 dev vx0 dst 10.0.0.2", /* not listed, flooded */
	};
	static const char action[] =
	        "{\"driver\":\"vxlan\",\"device\":\"vx0\",\"mac\":\"" CT_MAC "\",\"from\":\"10.0.0.1\",\"to\":\"10.0.0.2\"}";
	struct move_lab lab;

	if (missing())
		skip();
	lab_begin(&lab);
	add_ns(&lab, "oth");
	at(&lab, "oth", "ip link add eth0 type bridge && ip link set eth0 up && ip addr add 10.0.0.3/24 dev eth0");
	for (size_t i = 0; i < 2 * FM_ARRAY_SIZE(entries); i++) {
		at(&lab, "oth", "ip link add vx0 type vxlan id 77 dstport 4789 local 10.0.0.3 %s && ip link set vx0 up",
		   i % 2 ? "learning" : "nolearning");
		at(&lab, "oth", "%s", entries[i / 2]);
		settle(&lab);
		assert_every_stop_reverts(&lab, "oth", action);
		at(&lab, "oth", "ip link del vx0");
	}
	lab_end(&lab);
}

static void one_vxlan(struct move_lab *lab, const char *more)
{
	lab_begin(lab);
	add_ns(lab, "oth");
	at(lab, "oth", "ip link add vx0 type vxlan id 77 dstport 4789 %s && ip link set vx0 up", more);
	settle(lab);
}

static const char plain[] = "{\"driver\":\"vxlan\",\"device\":\"vx0\",\"mac\":\"" CT_MAC "\",\"from\":\"10.0.0.1\",\"to\":\"10.0.0.2\"}";

static void test_somebody_else(void **state)
{
	static const int then[] = { OPEN, FLIP, REVERT };
	_fm_free_ char *undo = NULL;
	struct move_lab lab;

	if (missing())
		skip();
	one_vxlan(&lab, "local 10.0.0.3 nolearning");
	at(&lab, "oth", "bridge fdb add " CT_MAC " dev vx0 dst 10.0.0.1");
	assert_ok(driver(&lab, "oth", PREPARE, plain, &undo, &err));
	for (size_t i = 0; i < FM_ARRAY_SIZE(then); i++) {
		_fm_free_ char *before = NULL;

		if (then[i] != OPEN)
			assert_ok(driver(&lab, "oth", OPEN, plain, &undo, &err));
		at(&lab, "oth", "bridge fdb replace " CT_MAC " dev vx0 dst 10.0.0.7");
		before = snapshot(&lab, "oth");
		assert_code(FM_E_ABORTED, driver(&lab, "oth", then[i], plain, &undo, &err));
		assert_non_null(strstr(err.message, "10.0.0.7"));
		assert_unchanged(&lab, "oth", before);
		at(&lab, "oth", "bridge fdb replace " CT_MAC " dev vx0 dst 10.0.0.1");
		assert_ok(driver(&lab, "oth", REVERT, plain, &undo, &err));
	}
	/* and a device that has gone takes its table along */
	at(&lab, "oth", "ip link del vx0");
	assert_ok(driver(&lab, "oth", REVERT, plain, &undo, &err));
	assert_code(FM_E_FAILED_PRECONDITION, driver(&lab, "oth", OPEN, plain, &undo, &err));
	lab_end(&lab);
}

/* A learned entry that stands still because the announcement was lost. */
static void test_learned_entry_is_moved(void **state)
{
	_fm_free_ char *undo = NULL;
	struct move_lab lab;

	if (missing())
		skip();
	one_vxlan(&lab, "local 10.0.0.3 learning");
	at(&lab, "oth", "bridge fdb add " CT_MAC " dev vx0 dst 10.0.0.1 dynamic");
	assert_ok(driver(&lab, "oth", PREPARE, plain, &undo, &err));
	twice(&lab, "oth", OPEN, plain, &undo);
	assert_code(FM_E_FAILED_PRECONDITION, driver(&lab, "oth", VERIFY, plain, &undo, &err));
	twice(&lab, "oth", FLIP, plain, &undo);
	at(&lab, "oth", "bridge fdb show dev vx0 | grep -q \"" CT_MAC " dst 10.0.0.2\"");
	assert_ok(driver(&lab, "oth", VERIFY, plain, &undo, &err));
	twice(&lab, "oth", REVERT, plain, &undo);
	at(&lab, "oth", "bridge fdb show dev vx0 | grep -q \"" CT_MAC " dst 10.0.0.1\"");
	at(&lab, "oth", "bridge fdb replace " CT_MAC " dev vx0 dst 10.0.0.7 dynamic");
	assert_code(FM_E_ABORTED, driver(&lab, "oth", FLIP, plain, &undo, &err));
	lab_end(&lab);
}

static void test_refused(void **state)
{
	static const struct {
		const char *setup, *action;
		enum fm_code code;
		const char *word;
	} t[] = {
		{ "true", "{\"driver\":\"vxlan\"}", FM_E_INVALID_ARGUMENT, "device" },
		{ "true", "{\"driver\":\"vxlan\",\"device\":\"a/b\"}", FM_E_INVALID_ARGUMENT, "device" },
		{ "true", "{\"driver\":\"vxlan\",\"device\":\"vx0\",\"mac\":\"01:00:00:00:00:01\"}", FM_E_INVALID_ARGUMENT, "mac" },
		{ "true", "{\"driver\":\"vxlan\",\"device\":\"vx0\",\"mac\":\"02:77:00:00:01\"}", FM_E_INVALID_ARGUMENT, "mac" },
		{ "true", "{\"driver\":\"vxlan\",\"device\":\"vx0\",\"mac\":\"" CT_MAC "\",\"from\":\"10.0.0.1/24\"}",
		  FM_E_INVALID_ARGUMENT, "from" },
		{ "true", "{\"driver\":\"vxlan\",\"device\":\"vx0\",\"mac\":\"" CT_MAC "\",\"from\":\"10.0.0.1\",\"to\":\"fd00::2\"}",
		  FM_E_INVALID_ARGUMENT, "to" },
		{ "true", "{\"driver\":\"vxlan\",\"device\":\"vx0\",\"mac\":\"" CT_MAC "\",\"from\":\"10.0.0.1\",\"to\":\"10.0.0.1\"}",
		  FM_E_INVALID_ARGUMENT, "to" },
		{ "true",
		  "{\"driver\":\"vxlan\",\"device\":\"vx0\",\"mac\":\"" CT_MAC "\",\"from\":\"10.0.0.1\",\"to\":\"10.0.0.2\",\"vni\":7}",
		  FM_E_INVALID_ARGUMENT, "vni" },
		{ "true",
		  "{\"driver\":\"vxlan\",\"device\":\"vx0\",\"mac\":\"" CT_MAC
		  "\",\"from\":\"10.0.0.1\",\"to\":\"10.0.0.2\",\"learning\":1}",
		  FM_E_INVALID_ARGUMENT, "learning" },
		{ "true", "{\"driver\":\"vxlan\",\"device\":\"vx9\",\"mac\":\"" CT_MAC "\",\"from\":\"10.0.0.1\",\"to\":\"10.0.0.2\"}",
		  FM_E_FAILED_PRECONDITION, "vx9" },
		{ "true", "{\"driver\":\"vxlan\",\"device\":\"lo\",\"mac\":\"" CT_MAC "\",\"from\":\"10.0.0.1\",\"to\":\"10.0.0.2\"}",
		  FM_E_FAILED_PRECONDITION, "lo" },
		{ "true",
		  "{\"driver\":\"vxlan\",\"device\":\"vx0\",\"mac\":\"" CT_MAC
		  "\",\"from\":\"10.0.0.1\",\"to\":\"10.0.0.2\",\"learning\":true}",
		  FM_E_FAILED_PRECONDITION, "learn" },
		{ "true", "{\"driver\":\"vxlan\",\"device\":\"vx0\",\"mac\":\"" CT_MAC "\",\"from\":\"fd00::1\",\"to\":\"fd00::2\"}",
		  FM_E_FAILED_PRECONDITION, "family" },
		{ "bridge fdb replace " CT_MAC " dev vx0 dst 10.0.0.9", plain, FM_E_FAILED_PRECONDITION, "10.0.0.9" },
		{ "bridge fdb del " CT_MAC " dev vx0; bridge fdb add " CT_MAC " dev vx0 dst 10.0.0.1 extern_learn", plain,
		  FM_E_FAILED_PRECONDITION, "daemon" },
	};
	struct move_lab lab;

	if (missing())
		skip();
	one_vxlan(&lab, "local 10.0.0.3 nolearning");
	for (size_t i = 0; i < FM_ARRAY_SIZE(t); i++) {
		_fm_free_ char *undo = NULL, *before = NULL;

		at(&lab, "oth", "%s", t[i].setup);
		before = snapshot(&lab, "oth");
		assert_code(t[i].code, driver(&lab, "oth", PREPARE, t[i].action, &undo, &err));
		if (!strstr(err.message, t[i].word) || strncmp(err.message, "vxlan: ", 7) != 0)
			fail_msg("%zu: %s", i, err.message);
		assert_unchanged(&lab, "oth", before);
	}
	lab_end(&lab);
}

/* The line of a journal is read strictly too. */
static void test_damaged_undo(void **state)
{
	static const char *const t[] = {
		"{}",
		"{\"mode\":\"listed\",\"before\":null}",
		"{\"mode\":\"other\",\"before\":null,\"added\":[]}",
		"{\"mode\":\"listed\",\"before\":{},\"added\":[]}",
		"{\"mode\":\"listed\",\"before\":null,\"added\":[null,null,null]}",
		"{\"mode\":\"listed\",\"before\":null,\"added\":[null]}",
		"{\"mode\":\"listed\",\"before\":{\"dst\":\"10.0.0.1\",\"state\":70000,\"flags\":2,\"port\":0,\"vni\":0,\"via\":\"\"},"
		"\"added\":[]}",
	};
	struct move_lab lab;

	if (missing())
		skip();
	one_vxlan(&lab, "local 10.0.0.3 nolearning");
	for (size_t i = 0; i < FM_ARRAY_SIZE(t); i++) {
		_fm_free_ char *undo = fm_xstrdup(t[i]);

		assert_code(FM_E_DATA_LOSS, driver(&lab, "oth", REVERT, plain, &undo, &err));
	}
	lab_end(&lab);
}

static void test_deadline_and_cancel(void **state)
{
	const struct fm_redirect_ops *ops = fm_redirect_driver("vxlan");
	int stop = eventfd(1, EFD_CLOEXEC);
	json_t *action = json_loads(plain, 0, NULL), *undo = NULL;

	assert_non_null(ops);
	assert_code(FM_E_DEADLINE_EXCEEDED,
	            ops->prepare(&(struct fm_redirect_call){ .deadline_ms = fm_now_ms(), .cancel_fd = -1 }, action, &undo, &err));
	assert_code(FM_E_CANCELLED, ops->prepare(&(struct fm_redirect_call){ .deadline_ms = fm_now_ms() + WAIT_MS, .cancel_fd = stop },
	                                         action, &undo, &err));
	assert_null(undo);
	json_decref(action);
	(void)close(stop);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_static_without_flooding),
		cmocka_unit_test(test_static_with_flooding),
		cmocka_unit_test(test_static_underlay6),
		cmocka_unit_test(test_learning),
		cmocka_unit_test(test_rolled_back),
		cmocka_unit_test(test_every_stop_reverts),
		cmocka_unit_test(test_somebody_else),
		cmocka_unit_test(test_learned_entry_is_moved),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_damaged_undo),
		cmocka_unit_test(test_deadline_and_cancel),
	};

	return cmocka_run_group_tests_name("redirect-vxlan", tests, NULL, NULL);
}
