/* SPDX-License-Identifier: MIT */
/* test-redirect-tunnel.c - the router still sends to the source, and the connections go on at the destination: through a tunnel, with direct replies or back through it. */
#include <sys/ioctl.h>

#include "network/redirect-tunnel.h"
#include "router-lab.h"

#define ID     "3f9a61c2"
#define DEVICE "fmt" ID
#define BOTH   "\"" CT4 "\",\"" CT6 "\""

/* `more` begins with a comma, or is empty. */
static char *side(bool source, bool outer6, const char *more)
{
	static const char *const v4[] = { "10.0.2.1", "10.0.1.1" }, *const v6[] = { "fd00:2::1", "fd00:1::1" };
	const char *const *v = outer6 ? v6 : v4;

	return fm_xasprintf("{\"driver\":\"tunnel\",\"side\":\"%s\",\"id\":\"" ID
	                    "\",\"local\":\"%s\",\"remote\":\"%s\",\"addresses\":[" BOTH "]%s}",
	                    source ? "source" : "destination", v[source], v[!source], more);
}

static bool missing(void)
{
	const char *why = lab_is_missing();

	if (why)
		print_message("skipped: %s\n", why);
	return why;
}

struct both {
	char *action[2], *undo[2]; /* source, destination */
};

static const char *const ends[] = { "src", "dst" };

static void both_make(struct both *b, bool outer6, const char *more)
{
	*b = (struct both){ .action = { side(true, outer6, more), side(false, outer6, more) } };
}

static void both_done(struct both *b)
{
	for (int i = 0; i < 2; i++) {
		free(b->action[i]);
		free(b->undo[i]);
	}
}

static int path_mtu(int fd, bool v6)
{
	int mtu = 0;
	socklen_t n = sizeof(mtu);

	assert_sys(getsockopt(fd, v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? IPV6_MTU : IP_MTU, &mtu, &n));
	return mtu;
}

struct question {
	const json_t *action;
	struct fm_tunnel_traffic traffic;
	struct fm_tunnel_idle idle;
	uint64_t idle_ms;
};

static int do_traffic(void *userdata, struct fm_error *e)
{
	struct question *q = userdata;

	return fm_tunnel_traffic(q->action, &q->traffic, e);
}

static int do_idle(void *userdata, struct fm_error *e)
{
	struct question *q = userdata;

	return fm_tunnel_idle_ms(q->action, &q->idle, &q->idle_ms, e);
}

static void ask_tunnel(const struct move_lab *lab, const char *ns, const char *action, int (*fn)(void *, struct fm_error *),
                       struct question *q)
{
	json_t *o = json_loads(action, 0, NULL);

	q->action = o;
	assert_ok(fm_netns_call(lab_ns(lab, ns), fn, q, &err));
	q->action = NULL;
	json_decref(o);
}

struct way {
	const char *address, *more;
	bool outer6, back;
	int mtu; /* that the client finds out */
};

static void moves(const struct way *w)
{
	struct fm_tunnel_traffic *t[2];
	struct question q[2] = { 0 };
	unsigned first, last;
	struct move_lab lab;
	struct service s;
	struct client c;
	struct both b;
	uint64_t took;
	int mtu;

	router_build(&lab);
	both_make(&b, w->outer6, w->more);
	/* strict where it can be; and with "back" the router takes nothing from the destination that should come from the source */
	at(&lab, "dst", "echo 1 >/proc/sys/net/ipv4/conf/all/rp_filter");
	at(&lab, "src", "echo 1 >/proc/sys/net/ipv4/conf/all/rp_filter");
	if (w->back)
		at(&lab, "rt", "echo 1 >/proc/sys/net/ipv4/conf/dst/rp_filter");
	for (int i = 0; i < 2; i++)
		assert_ok(driver(&lab, ends[i], PREPARE, b.action[i], &b.undo[i], &err));
	service_start(&lab, "ct", &s);
	client_start(&lab, "cli", w->address, &c);
	await_traffic(&s, &c);
	for (int i = 0; i < 2; i++)
		twice(&lab, ends[i], OPEN, b.action[i], &b.undo[i]);
	await_traffic(&s, &c);
	first = atomic_load(&c.sent);
	router_close_source(&lab);
	router_open_destination(&lab);
	took = fm_now_us();
	assert_ok(driver(&lab, "src", FLIP, b.action[0], &b.undo[0], &err));
	took = fm_now_us() - took;
	last = atomic_load(&c.sent);
	await_traffic(&s, &c);
	for (int i = 0; i < 2; i++)
		twice(&lab, ends[i], FLIP, b.action[i], &b.undo[i]);
	for (int i = 0; i < 2; i++)
		twice(&lab, ends[i], VERIFY, b.action[i], &b.undo[i]);
	await_traffic(&s, &c);
	for (int i = 0; i < 2; i++) {
		ask_tunnel(&lab, ends[i], b.action[i], do_traffic, &q[i]);
		t[i] = &q[i].traffic;
		assert_true(t[i]->packets > SLACK && t[i]->bytes > t[i]->packets);
	}
	mtu = path_mtu(c.tcp, strchr(w->address, ':'));
	client_stop(&c);
	service_stop(&s);
	print_message("%s%s: flip %u us; ", w->address, w->more, (unsigned)took);
	assert_numbers(&s, &c, first, last);
	assert_int_equal(mtu, w->mtu);
	for (int i = 0; i < 2; i++)
		twice(&lab, ends[i], REVERT, b.action[i], &b.undo[i]);
	both_done(&b);
	lab_end(&lab);
}

static void test_direct4(void **state)
{
	if (missing())
		skip();
	moves(&(struct way){ CT4, "", .mtu = 1450 });
}

static void test_direct6(void **state)
{
	if (missing())
		skip();
	moves(&(struct way){ CT6, "", .mtu = 1450 });
}

static void test_outer6(void **state)
{
	if (missing())
		skip();
	moves(&(struct way){ CT4, ",\"port\":4789", .outer6 = true, .mtu = 1430 });
}

static void test_back(void **state)
{
	if (missing())
		skip();
	moves(&(struct way){ CT4, ",\"reply\":\"back\"", .back = true, .mtu = 1450 });
}

/* No ICMP to the client: the outer packets are fragmented. */
static void test_large_mtu(void **state)
{
	if (missing())
		skip();
	moves(&(struct way){ CT4, ",\"mtu\":1500", .mtu = 1500 });
}

/* What was under way goes on at the source after a rollback. */
static void test_rolled_back(void **state)
{
	_fm_free_ char *before[2] = { 0 };
	unsigned first, last;
	struct move_lab lab;
	struct service s;
	struct client c;
	struct both b;

	if (missing())
		skip();
	router_build(&lab);
	both_make(&b, false, "");
	service_start(&lab, "ct", &s);
	client_start(&lab, "cli", CT4, &c);
	for (int i = 0; i < 2; i++) {
		before[i] = snapshot(&lab, ends[i]);
		assert_ok(driver(&lab, ends[i], PREPARE, b.action[i], &b.undo[i], &err));
		twice(&lab, ends[i], OPEN, b.action[i], &b.undo[i]);
	}
	await_traffic(&s, &c);
	first = atomic_load(&c.sent);
	twice(&lab, "src", FLIP, b.action[0], &b.undo[0]);
	for (int i = 0; i < 2; i++)
		twice(&lab, ends[i], REVERT, b.action[i], &b.undo[i]);
	last = atomic_load(&c.sent);
	await_traffic(&s, &c);
	client_stop(&c);
	service_stop(&s);
	assert_numbers(&s, &c, first, last);
	for (int i = 0; i < 2; i++)
		assert_unchanged(&lab, ends[i], before[i]);
	free(before[1]);
	both_done(&b);
	lab_end(&lab);
}

static void test_every_stop_reverts(void **state)
{
	struct move_lab lab;

	if (missing())
		skip();
	router_build(&lab);
	for (int i = 0; i < 4; i++) {
		_fm_free_ char *action = side(i % 2, false, i / 2 ? ",\"reply\":\"back\"" : "");

		assert_every_stop_reverts(&lab, ends[!(i % 2)], action);
	}
	lab_end(&lab);
}

/* From the tunnel nothing reaches anybody but the container, and nobody once it is gone. */
static void test_only_the_container(void **state)
{
	struct move_lab lab;
	struct both b;

	if (missing())
		skip();
	router_build(&lab);
	both_make(&b, false, "");
	assert_ok(driver(&lab, "dst", PREPARE, b.action[1], &b.undo[1], &err));
	assert_ok(driver(&lab, "dst", OPEN, b.action[1], &b.undo[1], &err));
	router_open_destination(&lab);
	at(&lab, "dst", "ip route get " CT4 " from 10.9.0.1 iif " DEVICE " | grep -q \"dev ct0\"");
	at(&lab, "dst", "ip -6 route get " CT6 " from fd09::1 iif " DEVICE " | grep -q \"dev ct0\"");
	at(&lab, "dst", "! ip route get 10.9.0.7 from 10.9.0.1 iif " DEVICE " 2>/dev/null");
	at(&lab, "dst", "! ip -6 route get fd09::7 from fd09::1 iif " DEVICE " 2>/dev/null");
	at(&lab, "dst", "ip route del " CT4 "; ip -6 route del " CT6);
	at(&lab, "dst", "ip route get " CT4 " | grep -q \"via 10.0.2.254\""); /* the host itself knows a way, the tunnel's packets do not */
	at(&lab, "dst", "! ip route get " CT4 " from 10.9.0.1 iif " DEVICE " 2>/dev/null");
	at(&lab, "dst", "! ip -6 route get " CT6 " from fd09::1 iif " DEVICE " 2>/dev/null");
	assert_ok(driver(&lab, "dst", REVERT, b.action[1], &b.undo[1], &err));
	both_done(&b);
	lab_end(&lab);
}

static void test_idle(void **state)
{
	struct question q = { 0 };
	uint64_t deadline = fm_now_ms() + WAIT_MS;
	struct fm_tunnel_traffic before;
	struct move_lab lab;
	struct both b;
	json_t *action;
	int udp;

	if (missing())
		skip();
	router_build(&lab);
	both_make(&b, false, "");
	action = json_loads(b.action[0], 0, NULL);
	assert_code(FM_E_NOT_FOUND, fm_tunnel_traffic(action, &before, &err));
	json_decref(action);
	assert_ok(driver(&lab, "src", PREPARE, b.action[0], &b.undo[0], &err));
	assert_ok(driver(&lab, "src", OPEN, b.action[0], &b.undo[0], &err));
	assert_ok(driver(&lab, "src", FLIP, b.action[0], &b.undo[0], &err));
	ask_tunnel(&lab, "src", b.action[0], do_idle, &q);
	assert_int_equal(q.idle_ms, 0);
	while (q.idle_ms < 50) {
		ask_tunnel(&lab, "src", b.action[0], do_idle, &q);
		assert_true(fm_deadline_left_ms(deadline) > 0);
		fm_pause_ms(1);
	}
	ask_tunnel(&lab, "src", b.action[0], do_traffic, &q);
	before = q.traffic;
	udp = socket_in(&lab, "cli", SOCK_DGRAM, CT4);
	assert_int_equal(send(udp, "x", 1, 0), 1);
	do {
		ask_tunnel(&lab, "src", b.action[0], do_traffic, &q);
		assert_true(fm_deadline_left_ms(deadline) > 0);
	} while (q.traffic.packets == before.packets);
	assert_int_equal(q.traffic.packets, before.packets + 1);
	ask_tunnel(&lab, "src", b.action[0], do_idle, &q);
	assert_int_equal(q.idle_ms, 0);
	(void)close(udp);
	assert_ok(driver(&lab, "src", REVERT, b.action[0], &b.undo[0], &err));
	both_done(&b);
	lab_end(&lab);
}

static void test_somebody_else(void **state)
{
	static const int then[] = { OPEN, FLIP, VERIFY, REVERT };
	struct move_lab lab;
	struct both b;

	if (missing())
		skip();
	router_build(&lab);
	both_make(&b, false, "");
	assert_ok(driver(&lab, "src", PREPARE, b.action[0], &b.undo[0], &err));
	at(&lab, "src", "ip link add " DEVICE " type vxlan id 9 dstport 4789 local 10.0.1.1 remote 10.0.2.1");
	for (size_t i = 0; i < FM_ARRAY_SIZE(then); i++) {
		_fm_free_ char *before = snapshot(&lab, "src");

		assert_code(FM_E_ABORTED, driver(&lab, "src", then[i], b.action[0], &b.undo[0], &err));
		assert_non_null(strstr(err.message, DEVICE));
		assert_unchanged(&lab, "src", before);
	}
	assert_code(FM_E_ALREADY_EXISTS, driver(&lab, "src", PREPARE, b.action[0], &b.undo[0], &err));
	at(&lab, "src", "ip link del " DEVICE);
	assert_code(FM_E_FAILED_PRECONDITION, driver(&lab, "src", FLIP, b.action[0], &b.undo[0], &err));
	assert_ok(driver(&lab, "src", OPEN, b.action[0], &b.undo[0], &err));
	assert_code(FM_E_FAILED_PRECONDITION, driver(&lab, "src", VERIFY, b.action[0], &b.undo[0], &err)); /* not flipped */
	assert_ok(driver(&lab, "src", FLIP, b.action[0], &b.undo[0], &err));
	at(&lab, "src", "ip rule del priority 100 to " CT4);
	assert_code(FM_E_FAILED_PRECONDITION, driver(&lab, "src", VERIFY, b.action[0], &b.undo[0], &err));
	assert_ok(driver(&lab, "src", FLIP, b.action[0], &b.undo[0], &err));
	assert_ok(driver(&lab, "src", VERIFY, b.action[0], &b.undo[0], &err));
	assert_ok(driver(&lab, "src", REVERT, b.action[0], &b.undo[0], &err));
	both_done(&b);
	lab_end(&lab);
}

struct found {
	char text[512];
	unsigned n;
};

static void found_cb(const char *what, void *userdata)
{
	struct found *f = userdata;
	size_t n = strlen(f->text);

	f->n++;
	(void)snprintf(f->text + n, sizeof(f->text) - n, "%s\n", what);
}

struct leftover_call {
	json_t *known;
	struct found f;
};

static int do_leftovers(void *userdata, struct fm_error *e)
{
	struct leftover_call *c = userdata;
	struct fm_redirect_call call = { .deadline_ms = fm_now_ms() + WAIT_MS, .cancel_fd = -1 };

	return fm_redirect_driver("tunnel")->leftovers(&call, c->known, found_cb, &c->f, e);
}

static void test_leftovers(void **state)
{
	struct leftover_call none = { .known = json_array() }, all = { .known = json_array() };
	struct move_lab lab;
	struct both b;

	if (missing())
		skip();
	router_build(&lab);
	both_make(&b, false, "");
	assert_ok(fm_netns_call(lab_ns(&lab, "src"), do_leftovers, &none, &err));
	assert_int_equal(none.f.n, 0);
	for (int what = PREPARE; what <= FLIP; what++)
		assert_ok(driver(&lab, "src", what, b.action[0], &b.undo[0], &err));
	assert_ok(fm_netns_call(lab_ns(&lab, "src"), do_leftovers, &none, &err));
	if (none.f.n != 3 || !strstr(none.f.text, DEVICE)) /* a device and two rules */
		fail_msg("%s", none.f.text);
	assert_int_equal(json_array_append_new(all.known, json_loads(b.action[0], 0, NULL)), 0);
	assert_ok(fm_netns_call(lab_ns(&lab, "src"), do_leftovers, &all, &err));
	assert_int_equal(all.f.n, 0);
	assert_ok(driver(&lab, "src", REVERT, b.action[0], &b.undo[0], &err));
	json_decref(none.known);
	json_decref(all.known);
	both_done(&b);
	lab_end(&lab);
}

#define T(side, rest) "{\"driver\":\"tunnel\",\"side\":\"" side "\",\"id\":\"" ID "\"," rest "}"
#define L             "\"local\":\"10.0.1.1\",\"remote\":\"10.0.2.1\""
#define ADDR          "\"addresses\":[\"10.78.0.100\"]"

static void test_refused(void **state)
{
	static const struct {
		const char *setup, *action;
		enum fm_code code;
		const char *word;
	} t[] = {
		{ "true", "{\"driver\":\"tunnel\"}", FM_E_INVALID_ARGUMENT, "side" },
		{ "true", T("middle", L "," ADDR), FM_E_INVALID_ARGUMENT, "side" },
		{ "true", "{\"driver\":\"tunnel\",\"side\":\"source\",\"id\":\"3F9A61C2\"," L "," ADDR "}", FM_E_INVALID_ARGUMENT, "id" },
		{ "true", T("source", "\"local\":\"10.0.1.1\"," ADDR), FM_E_INVALID_ARGUMENT, "remote" },
		{ "true", T("source", "\"local\":\"10.0.1.1\",\"remote\":\"fd00:2::1\"," ADDR), FM_E_INVALID_ARGUMENT, "remote" },
		{ "true", T("source", L), FM_E_INVALID_ARGUMENT, "addresses" },
		{ "true", T("source", L ",\"addresses\":[]"), FM_E_INVALID_ARGUMENT, "addresses" },
		{ "true", T("source", L ",\"addresses\":[\"10.78.0.0/24\"]"), FM_E_INVALID_ARGUMENT, "addresses" },
		{ "true", T("source", L ",\"addresses\":[\"10.0.2.1\"]"), FM_E_INVALID_ARGUMENT, "addresses" },
		{ "true", T("source", L ",\"addresses\":[\"10.78.0.1\",\"10.78.0.1\"]"), FM_E_INVALID_ARGUMENT, "addresses" },
		{ "true", T("source", L "," ADDR ",\"reply\":\"both\""), FM_E_INVALID_ARGUMENT, "reply" },
		{ "true", T("source", L "," ADDR ",\"port\":0"), FM_E_INVALID_ARGUMENT, "port" },
		{ "true", T("source", L "," ADDR ",\"mtu\":100"), FM_E_INVALID_ARGUMENT, "mtu" },
		{ "true", T("source", L ",\"addresses\":[\"fd78::100\"],\"mtu\":1000"), FM_E_INVALID_ARGUMENT, "mtu" },
		{ "true", T("source", L "," ADDR ",\"kind\":\"gre\""), FM_E_INVALID_ARGUMENT, "kind" },
		{ "true", T("source", "\"local\":\"10.0.7.1\",\"remote\":\"10.0.2.1\"," ADDR), FM_E_FAILED_PRECONDITION, "10.0.7.1" },
		{ "ip route add unreachable 10.0.2.0/24", T("source", L "," ADDR), FM_E_FAILED_PRECONDITION, "reached" },
		{ "ip route del unreachable 10.0.2.0/24; ip link set eth0 mtu 600", T("source", L "," ADDR), FM_E_FAILED_PRECONDITION,
		  "small" },
		{ "ip link set eth0 mtu 1500; echo 0 >/proc/sys/net/ipv4/ip_forward", T("source", L "," ADDR), FM_E_FAILED_PRECONDITION,
		  "ip_forward" },
	};
	struct move_lab lab;

	if (missing())
		skip();
	router_build(&lab);
	for (size_t i = 0; i < FM_ARRAY_SIZE(t); i++) {
		_fm_free_ char *undo = NULL, *before = NULL;

		at(&lab, "src", "%s", t[i].setup);
		settle(&lab); /* below an MTU of 1280 there is no IPv6: it comes back in the background */
		before = snapshot(&lab, "src");
		err = FM_ERROR_INIT;
		if (driver(&lab, "src", PREPARE, t[i].action, &undo, &err) == 0)
			fail_msg("%s: taken", t[i].action);
		if (err.code != t[i].code || !strstr(err.message, t[i].word) || strncmp(err.message, "tunnel: ", 8) != 0)
			fail_msg("%s: %s: %s", t[i].action, fm_code_to_string(err.code), err.message);
		assert_unchanged(&lab, "src", before);
	}
	lab_end(&lab);
}

static void test_port_taken(void **state)
{
	_fm_free_ char *undo = NULL, *action = side(true, false, ",\"port\":7007"), *before = NULL;
	struct move_lab lab;
	int udp;

	if (missing())
		skip();
	router_build(&lab);
	udp = socket_in(&lab, "src", SOCK_DGRAM, NULL);
	before = snapshot(&lab, "src");
	assert_ok(driver(&lab, "src", PREPARE, action, &undo, &err));
	assert_code(FM_E_FAILED_PRECONDITION, driver(&lab, "src", OPEN, action, &undo, &err));
	assert_non_null(strstr(err.message, "7007"));
	assert_ok(driver(&lab, "src", REVERT, action, &undo, &err));
	assert_unchanged(&lab, "src", before);
	(void)close(udp);
	lab_end(&lab);
}

static void test_id(void **state)
{
	char a[FM_TUNNEL_ID_LEN + 1], b[FM_TUNNEL_ID_LEN + 1];

	fm_tunnel_id("one", a);
	fm_tunnel_id("two", b);
	assert_int_equal(strlen(a), FM_TUNNEL_ID_LEN);
	assert_string_not_equal(a, b);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_direct4),
		cmocka_unit_test(test_direct6),
		cmocka_unit_test(test_outer6),
		cmocka_unit_test(test_back),
		cmocka_unit_test(test_large_mtu),
		cmocka_unit_test(test_rolled_back),
		cmocka_unit_test(test_every_stop_reverts),
		cmocka_unit_test(test_only_the_container),
		cmocka_unit_test(test_idle),
		cmocka_unit_test(test_somebody_else),
		cmocka_unit_test(test_leftovers),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_port_taken),
		cmocka_unit_test(test_id),
	};

	return cmocka_run_group_tests_name("redirect-tunnel", tests, NULL, NULL);
}
