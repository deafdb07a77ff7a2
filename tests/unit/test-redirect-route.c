/* SPDX-License-Identifier: MIT */
/* test-redirect-route.c - a router's host route follows a container, with live connections of both families; what is put back is what was there. */
#include "router-lab.h"

#define PLAIN4 "{\"driver\":\"route\",\"address\":\"10.78.0.100\",\"via\":\"10.0.2.1\",\"from_via\":\"10.0.1.1\"}"
#define PLAIN6 "{\"driver\":\"route\",\"address\":\"fd78::100\",\"via\":\"fd00:2::1\",\"device\":\"dst\",\"table\":254}"

static bool missing(void)
{
	const char *why = lab_is_missing();

	if (why)
		print_message("skipped: %s\n", why);
	return why;
}

static void moves(const char *address, const char *action)
{
	_fm_free_ char *undo = NULL;
	unsigned first, last;
	struct move_lab lab;
	struct service s;
	struct client c;

	router_build(&lab);
	assert_ok(driver(&lab, "rt", PREPARE, action, &undo, &err));
	service_start(&lab, "ct", &s);
	client_start(&lab, "cli", address, &c);
	await_traffic(&s, &c);
	twice(&lab, "rt", OPEN, action, &undo);
	await_traffic(&s, &c);
	first = atomic_load(&c.sent);
	router_close_source(&lab);
	router_open_destination(&lab);
	assert_ok(driver(&lab, "rt", FLIP, action, &undo, &err));
	last = atomic_load(&c.sent);
	await_traffic(&s, &c);
	twice(&lab, "rt", FLIP, action, &undo);
	twice(&lab, "rt", VERIFY, action, &undo);
	await_traffic(&s, &c);
	client_stop(&c);
	service_stop(&s);
	assert_numbers(&s, &c, first, last);
	lab_end(&lab);
}

static void test_moves4(void **state)
{
	if (missing())
		skip();
	moves(CT4, PLAIN4);
}

static void test_moves6(void **state)
{
	if (missing())
		skip();
	moves(CT6, PLAIN6);
}

/* A router with one interface for each host, and nothing else. */
static void one_router(struct move_lab *lab)
{
	lab_begin(lab);
	add_ns(lab, "rt");
	for (int i = 1; i <= 2; i++)
		at(lab, "rt",
		   "ip link add h%d type bridge; ip link set h%d up; ip addr add 10.0.%d.254/24 dev h%d; ip addr add fd00:%d::254/64 dev "
		   "h%d nodad",
		   i, i, i, i, i, i);
	at(lab, "rt", "ip addr add 10.255.0.1/32 dev lo");
	settle(lab);
}

/* 4 = IPv4 action, 6 = IPv6 action; NULL at the end */
static const char *const old_routes[] = {
	"4ip route add 10.78.0.100 via 10.0.1.1",
	"4ip route add 10.78.0.100 via 10.0.1.1 metric 7 src 10.255.0.1 mtu lock 1400 advmss 1200 proto bird",
	"4ip route add 10.78.0.100 via 10.0.9.9 dev h1 onlink proto 99",
	"4ip route add 10.78.0.100 dev h1 realm 3",
	"4ip route add 10.78.0.100 via inet6 fd00:1::1",
	"4ip route add blackhole 10.78.0.100",
	"4ip route add unreachable 10.78.0.100 metric 9",
	"4ip route add 10.78.0.0/24 via 10.0.1.1",
	"4ip route add 10.78.0.100 via 10.0.1.1 tos 0x10",
	"4ip route add 10.78.0.100 via 10.0.1.1 table 100", /* other tables are not looked at */
	"6ip -6 route add fd78::100 via fd00:1::1",
	"6ip -6 route add fd78::100 via fd00:1::1 metric 7 pref high mtu lock 1400 proto bird",
	"6ip -6 route add fd78::100 dev h1",
	"6ip -6 route add fd78::100 via fe80::9 dev h1",
	"6ip -6 route add blackhole fd78::100",
	"6ip -6 route add fd78::/64 via fd00:1::1",
	NULL,
};

static void test_every_stop_reverts(void **state)
{
	struct move_lab lab;

	if (missing())
		skip();
	one_router(&lab);
	for (size_t i = 0; old_routes[i]; i++) {
		bool v6 = old_routes[i][0] == '6';

		at(&lab, "rt", "%s", old_routes[i] + 1);
		print_message("%s\n", old_routes[i] + 1);
		assert_every_stop_reverts(&lab, "rt",
		                          v6 ? "{\"driver\":\"route\",\"address\":\"fd78::100\",\"via\":\"fd00:2::1\"}"
		                             : "{\"driver\":\"route\",\"address\":\"10.78.0.100\",\"via\":\"10.0.2.1\",\"device\":\"h2\"}");
		at(&lab, "rt",
		   "for f in -4 -6; do for t in main 100; do ip $f route flush table $t root 10.78.0.0/16 2>/dev/null || true; ip $f route "
		   "flush table $t root fd78::/32 2>/dev/null || true; done; done");
	}
	lab_end(&lab);
}

static void test_table_and_link_local(void **state)
{
	struct move_lab lab;

	if (missing())
		skip();
	one_router(&lab);
	at(&lab, "rt", "ip route add 10.78.0.100 via 10.0.1.1 table 100000");
	assert_every_stop_reverts(
	        &lab, "rt",
	        "{\"driver\":\"route\",\"address\":\"10.78.0.100\",\"via\":\"10.0.2.1\",\"from_via\":\"10.0.1.1\",\"table\":100000}");
	assert_every_stop_reverts(&lab, "rt",
	                          "{\"driver\":\"route\",\"address\":\"fd78::100\",\"via\":\"fe80::2\",\"device\":\"h2\",\"table\":77}");
	lab_end(&lab);
}

static void test_somebody_else(void **state)
{
	static const int then[] = { FLIP, REVERT };
	static const char *const change[] = { "ip route replace 10.78.0.100 via 10.0.1.7", "ip route del 10.78.0.100",
		                              "ip route add 10.78.0.100 via 10.0.1.7 metric 5" };
	struct move_lab lab;

	if (missing())
		skip();
	one_router(&lab);
	for (size_t i = 0; i < FM_ARRAY_SIZE(then) * FM_ARRAY_SIZE(change); i++) {
		_fm_free_ char *undo = NULL, *before = NULL;
		int what = then[i % FM_ARRAY_SIZE(then)];

		at(&lab, "rt", "ip route flush root 10.78.0.0/16; ip route add 10.78.0.100 via 10.0.1.1");
		assert_ok(driver(&lab, "rt", PREPARE, PLAIN4, &undo, &err));
		if (what == REVERT)
			assert_ok(driver(&lab, "rt", FLIP, PLAIN4, &undo, &err));
		at(&lab, "rt", "%s", change[i / FM_ARRAY_SIZE(then)]);
		before = snapshot(&lab, "rt");
		assert_code(FM_E_ABORTED, driver(&lab, "rt", what, PLAIN4, &undo, &err));
		assert_code(FM_E_FAILED_PRECONDITION, driver(&lab, "rt", VERIFY, PLAIN4, &undo, &err));
		assert_unchanged(&lab, "rt", before);
	}
	lab_end(&lab);
}

#define A(more) "{\"driver\":\"route\",\"address\":\"10.78.0.100\"," more "}"

static void test_refused(void **state)
{
	static const struct {
		const char *setup, *action;
		enum fm_code code;
		const char *word;
	} t[] = {
		{ "true", "{\"driver\":\"route\"}", FM_E_INVALID_ARGUMENT, "address" },
		{ "true", "{\"driver\":\"route\",\"address\":\"10.78.0.0/24\"}", FM_E_INVALID_ARGUMENT, "address" },
		{ "true", "{\"driver\":\"route\",\"address\":\"224.0.0.1\"}", FM_E_INVALID_ARGUMENT, "address" },
		{ "true", "{\"driver\":\"route\",\"address\":\"fe80::1\",\"via\":\"fd00:2::1\"}", FM_E_INVALID_ARGUMENT, "address" },
		{ "true", "{\"driver\":\"route\",\"address\":\"fd78::1\",\"via\":\"10.0.2.1\"}", FM_E_INVALID_ARGUMENT, "via" },
		{ "true", "{\"driver\":\"route\",\"address\":\"fd78::1\",\"via\":\"fe80::1\"}", FM_E_INVALID_ARGUMENT, "device" },
		{ "true", A("\"via\":5"), FM_E_INVALID_ARGUMENT, "via" },
		{ "true", A("\"via\":\"10.78.0.100\""), FM_E_INVALID_ARGUMENT, "via" },
		{ "true", A("\"via\":\"10.0.2.1\",\"from_via\":\"10.0.2.1\""), FM_E_INVALID_ARGUMENT, "via" },
		{ "true", A("\"via\":\"10.0.2.1\",\"table\":0"), FM_E_INVALID_ARGUMENT, "table" },
		{ "true", A("\"via\":\"10.0.2.1\",\"table\":255"), FM_E_INVALID_ARGUMENT, "table" },
		{ "true", A("\"via\":\"10.0.2.1\",\"table\":4294967296"), FM_E_INVALID_ARGUMENT, "table" },
		{ "true", A("\"via\":\"10.0.2.1\",\"prefix\":24"), FM_E_INVALID_ARGUMENT, "prefix" },
		{ "true", A("\"via\":\"10.0.2.1\",\"device\":\"h9\""), FM_E_FAILED_PRECONDITION, "h9" },
		{ "true", A("\"via\":\"10.0.2.1\",\"device\":\"h1\""), FM_E_FAILED_PRECONDITION, "neighbour" },
		{ "true", A("\"via\":\"10.55.2.1\""), FM_E_FAILED_PRECONDITION, "neighbour" },
		{ "true", A("\"via\":\"10.255.0.1\""), FM_E_FAILED_PRECONDITION, "neighbour" },
		{ "true", PLAIN4, FM_E_FAILED_PRECONDITION, "no route" },
		{ "ip route add 10.78.0.100 via 10.0.1.9", PLAIN4, FM_E_FAILED_PRECONDITION, "10.0.1.9" },
		{ "ip route add 10.78.0.100 via 10.0.1.1 metric 9", PLAIN4, FM_E_FAILED_PRECONDITION, "others" },
		{ "ip route flush root 10.78.0.0/16; ip route add 10.78.0.100 nexthop via 10.0.1.1 nexthop via 10.0.1.2", PLAIN4,
		  FM_E_FAILED_PRECONDITION, "several" },
		{ "ip route flush root 10.78.0.0/16; ip nexthop add id 5 via 10.0.1.1 dev h1; ip route add 10.78.0.100 nhid 5", PLAIN4,
		  FM_E_FAILED_PRECONDITION, "nexthop object" },
	};
	struct move_lab lab;

	if (missing())
		skip();
	one_router(&lab);
	for (size_t i = 0; i < FM_ARRAY_SIZE(t); i++) {
		_fm_free_ char *undo = NULL, *before = NULL;

		at(&lab, "rt", "%s", t[i].setup);
		before = snapshot(&lab, "rt");
		err = FM_ERROR_INIT;
		if (driver(&lab, "rt", PREPARE, t[i].action, &undo, &err) == 0)
			fail_msg("%s: taken", t[i].action);
		if (err.code != t[i].code || !strstr(err.message, t[i].word) || strncmp(err.message, "route: ", 7) != 0)
			fail_msg("%s: %s: %s", t[i].action, fm_code_to_string(err.code), err.message);
		assert_unchanged(&lab, "rt", before);
	}
	lab_end(&lab);
}

static void test_damaged_undo(void **state)
{
	static const char *const t[] = {
		"{}",
		"{\"old\":null,\"x\":1}",
		"{\"old\":{}}",
		"{\"old\":{\"via\":\"10.0.1.1\",\"device\":\"h1\",\"source\":\"\",\"metric\":0,\"tos\":0,\"protocol\":3,\"scope\":0,"
		"\"type\":1,"
		"\"onlink\":0,\"pref\":0,\"realm\":0,\"metrics\":\"0\"}}",
		"{\"old\":{\"via\":\"10.0.1\",\"device\":\"h1\",\"source\":\"\",\"metric\":0,\"tos\":0,\"protocol\":3,\"scope\":0,\"type\":"
		"1,"
		"\"onlink\":0,\"pref\":0,\"realm\":0,\"metrics\":\"\"}}",
	};
	struct move_lab lab;

	if (missing())
		skip();
	one_router(&lab);
	for (size_t i = 0; i < FM_ARRAY_SIZE(t); i++) {
		_fm_free_ char *undo = fm_xstrdup(t[i]);

		assert_code(FM_E_DATA_LOSS, driver(&lab, "rt", REVERT, PLAIN4, &undo, &err));
	}
	lab_end(&lab);
}

static void test_deadline_and_cancel(void **state)
{
	const struct fm_redirect_ops *ops = fm_redirect_driver("route");
	int stop = eventfd(1, EFD_CLOEXEC);
	json_t *action = json_loads(PLAIN4, 0, NULL), *undo = NULL;

	assert_non_null(ops);
	assert_code(FM_E_DEADLINE_EXCEEDED,
	            ops->prepare(&(struct fm_redirect_call){ .deadline_ms = fm_now_ms(), .cancel_fd = -1 }, action, &undo, &err));
	assert_code(FM_E_CANCELLED, ops->prepare(&(struct fm_redirect_call){ .deadline_ms = fm_now_ms() + WAIT_MS, .cancel_fd = stop },
	                                         action, &undo, &err));
	json_decref(action);
	(void)close(stop);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_moves4),
		cmocka_unit_test(test_moves6),
		cmocka_unit_test(test_every_stop_reverts),
		cmocka_unit_test(test_table_and_link_local),
		cmocka_unit_test(test_somebody_else),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_damaged_undo),
		cmocka_unit_test(test_deadline_and_cancel),
	};

	return cmocka_run_group_tests_name("redirect-route", tests, NULL, NULL);
}
