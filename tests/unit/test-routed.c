/* SPDX-License-Identifier: MIT */
/* test-routed.c - endpoints without a bridge at two hosts behind a router: what passes open, closed inbound and closed, of both families; the move; what is left. */
#include "router-lab.h"

struct lab {
	struct move_lab m;
	struct fm_endpoint *end[2];
	struct fm_endpoint_config cfg;
	char *before[2]; /* of the hosts */
};

static const char *const hosts[] = { "src", "dst" }, *const containers[] = { "csrc", "cdst" };

static struct fm_endpoint_config config(void)
{
	const struct fm_endpoint_words w = { .address = CT4 "/32", .address6 = CT6 "/128", .mac = "02:77:00:00:01:00" };
	struct fm_endpoint_config c;

	assert_ok(fm_endpoint_config_parse(&w, "web", 0, &c, &err));
	return c;
}

struct call {
	struct fm_endpoint *e;
	int (*fn)(struct fm_endpoint *e, struct fm_error *err);
	const char *name;
};

static int do_prepare(void *userdata, struct fm_error *e)
{
	struct call *c = userdata;

	return fm_endpoint_prepare(c->e, true, e) < 0 ? -1 : fm_endpoint_await_free(c->e, e);
}

static int do_fn(void *userdata, struct fm_error *e)
{
	struct call *c = userdata;

	return c->fn(c->e, e);
}

static int do_remove(void *userdata, struct fm_error *e)
{
	struct call *c = userdata;

	return fm_endpoint_remove(c->name, e);
}

static int on_host(struct lab *l, int h, int (*fn)(void *, struct fm_error *), struct call c, struct fm_error *e)
{
	return fm_netns_call(lab_ns(&l->m, hosts[h]), fn, &c, e);
}

static struct fm_endpoint *endpoint(struct lab *l, int h)
{
	struct fm_endpoint *e = NULL;
	char path[128];

	(void)snprintf(path, sizeof(path), "%s/%s", l->m.dir, containers[h]);
	assert_ok(fm_endpoint_new(&l->cfg, path, &e, &err));
	return e;
}

static void begin(struct lab *l)
{
	*l = (struct lab){ .cfg = config() };
	router_hosts(&l->m);
	for (int h = 0; h < 2; h++) {
		add_ns(&l->m, containers[h]);
		l->before[h] = snapshot(&l->m, hosts[h]);
		l->end[h] = endpoint(l, h);
		assert_ok(on_host(l, h, do_prepare, (struct call){ .e = l->end[h] }, &err));
	}
}

/* With all of it gone, the hosts are as they were. */
static void end(struct lab *l)
{
	for (int h = 0; h < 2; h++) {
		fm_endpoint_free(l->end[h]);
		for (int i = 0; i < 2; i++)
			assert_ok(on_host(l, h, do_remove, (struct call){ .name = l->cfg.host_ifname }, &err));
		assert_unchanged(&l->m, hosts[h], l->before[h]);
		free(l->before[h]);
	}
	lab_end(&l->m);
}

static bool missing(void)
{
	const char *why = lab_is_missing();

	if (why)
		print_message("skipped: %s\n", why);
	return why;
}

static void say(int fd, char what)
{
	/* an ICMP error of an earlier one is reported once, instead of sending */
	if (send(fd, &what, 1, 0) != 1)
		assert_int_equal(send(fd, &what, 1, 0), 1);
}

static char hear(int fd)
{
	struct pollfd p = { fd, POLLIN, 0 };
	char what = '\0';

	if (poll(&p, 1, WAIT_MS) == 1)
		(void)recv(fd, &what, 1, MSG_DONTWAIT);
	return what;
}

static void test_config(void **state)
{
	static const struct {
		struct fm_endpoint_words w;
		bool ok;
	} t[] = {
		{ { .address = "10.0.0.5/32" }, true },
		{ { .address6 = "fd00::5/128" }, true },
		{ { .bridge = "", .address = "10.0.0.5/32", .gateway = "169.254.1.1" }, true },
		{ { .address6 = "fd00::5/128", .gateway6 = "fe80::1" }, true },
		{ { .address = "10.0.0.5/24" }, false },
		{ { .address = "10.0.0.5/32", .gateway = "10.0.0.1" }, false },
		{ { .address = "224.0.0.5/32" }, false },
		{ { .address6 = "fd00::5/64" }, false },
		{ { .address6 = "fd00::5/128", .gateway6 = "fd00::1" }, false },
		{ { .address6 = "fe80::5/128" }, false },
		{ { .bridge = "br0", .address = "10.0.0.5/32", .gateway = "169.254.1.1" }, false },
	};

	for (size_t i = 0; i < FM_ARRAY_SIZE(t); i++) {
		struct fm_endpoint_config c = { 0 };

		err = FM_ERROR_INIT;
		if ((fm_endpoint_config_parse(&t[i].w, "web", 0, &c, &err) == 0) != t[i].ok)
			fail_msg("line %zu: %s", i, err.message);
		if (!t[i].ok)
			assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
	}
}

static void test_open_and_closed(void **state)
{
	struct lab l;

	if (missing())
		skip();
	begin(&l);
	for (int six = 0; six < 2; six++) {
		int inside = socket_in(&l.m, "csrc", SOCK_DGRAM, NULL), outside = socket_in(&l.m, "cli", SOCK_DGRAM, NULL),
		    to_container = socket_in(&l.m, "cli", SOCK_DGRAM, six ? CT6 : CT4),
		    from_container = socket_in(&l.m, "csrc", SOCK_DGRAM, six ? "fd09::1" : "10.9.0.1");

		assert_false(fm_endpoint_is_open(l.end[0]));
		say(to_container, 'a');
		say(from_container, 'a');
		for (int i = 0; i < 2; i++)
			assert_ok(fm_endpoint_open(l.end[0], &err));
		assert_ok(fm_endpoint_announce(l.end[0], &err));
		assert_true(fm_endpoint_is_open(l.end[0]));
		say(to_container, 'b');
		say(from_container, 'b');
		assert_int_equal(hear(inside), 'b');
		assert_int_equal(hear(outside), 'b');
		for (int i = 0; i < 2; i++)
			assert_ok(fm_endpoint_close_inbound(l.end[0], &err));
		assert_true(fm_endpoint_is_open(l.end[0]));
		say(to_container, 'c');
		say(from_container, 'c');
		assert_int_equal(hear(outside), 'c');
		assert_ok(fm_endpoint_open(l.end[0], &err));
		say(to_container, 'd');
		assert_int_equal(hear(inside), 'd');
		assert_ok(fm_endpoint_close_inbound(l.end[0], &err));
		for (int i = 0; i < 2; i++)
			assert_ok(fm_endpoint_close(l.end[0], &err));
		assert_false(fm_endpoint_is_open(l.end[0]));
		assert_ok(fm_endpoint_close_inbound(l.end[0], &err)); /* opens nothing */
		assert_false(fm_endpoint_is_open(l.end[0]));
		say(to_container, 'e');
		say(from_container, 'e');
		assert_ok(fm_endpoint_open(l.end[0], &err));
		say(to_container, 'f');
		say(from_container, 'f');
		assert_int_equal(hear(inside), 'f');
		assert_int_equal(hear(outside), 'f');
		assert_ok(fm_endpoint_close(l.end[0], &err));
		(void)close(inside);
		(void)close(outside);
		(void)close(to_container);
		(void)close(from_container);
	}
	end(&l);
}

/* A live connection outlasts an inbound fence and a closed endpoint. */
static void test_connection(void **state)
{
	struct service s;
	struct client c;
	struct lab l;

	if (missing())
		skip();
	for (int six = 0; six < 2; six++) {
		unsigned first, last;

		begin(&l);
		assert_ok(fm_endpoint_open(l.end[0], &err));
		service_start(&l.m, "csrc", &s);
		client_start(&l.m, "cli", six ? CT6 : CT4, &c);
		await_traffic(&s, &c);
		first = atomic_load(&c.sent);
		assert_ok(fm_endpoint_close_inbound(l.end[0], &err));
		assert_ok(fm_endpoint_close(l.end[0], &err));
		assert_ok(fm_endpoint_open(l.end[0], &err));
		last = atomic_load(&c.sent);
		await_traffic(&s, &c);
		client_stop(&c);
		service_stop(&s);
		assert_numbers(&s, &c, first, last);
		end(&l);
	}
}

/* Client's numbers go on at the destination; nothing arrives at both. */
static void test_moves(void **state)
{
	static const char *const actions[] = { "{\"driver\":\"route\",\"address\":\"" CT4 "\",\"via\":\"10.0.2.1\"}",
		                               "{\"driver\":\"route\",\"address\":\"" CT6 "\",\"via\":\"fd00:2::1\"}" };
	struct lab l;

	if (missing())
		skip();
	begin(&l);
	for (int six = 0; six < 2; six++) {
		int at_source = socket_in(&l.m, "csrc", SOCK_DGRAM, NULL), at_destination = socket_in(&l.m, "cdst", SOCK_DGRAM, NULL),
		    client = socket_in(&l.m, "cli", SOCK_DGRAM, six ? CT6 : CT4);
		_fm_free_ char *undo = NULL;
		uint64_t took;

		assert_ok(driver(&l.m, "rt", PREPARE, actions[six], &undo, &err));
		assert_ok(fm_endpoint_open(l.end[0], &err));
		say(client, 'a');
		assert_int_equal(hear(at_source), 'a');
		assert_ok(fm_endpoint_close_inbound(l.end[0], &err));
		assert_ok(fm_endpoint_close(l.end[0], &err));
		took = fm_now_us();
		assert_ok(fm_endpoint_open(l.end[1], &err));
		print_message("open %u us\n", (unsigned)(fm_now_us() - took));
		assert_ok(driver(&l.m, "rt", FLIP, actions[six], &undo, &err));
		say(client, 'b');
		assert_int_equal(hear(at_destination), 'b');
		/* and back */
		assert_ok(fm_endpoint_close(l.end[1], &err));
		assert_ok(fm_endpoint_open(l.end[0], &err));
		assert_ok(driver(&l.m, "rt", REVERT, actions[six], &undo, &err));
		say(client, 'c');
		assert_int_equal(hear(at_source), 'c');
		assert_ok(fm_endpoint_close(l.end[0], &err));
		(void)close(at_source);
		(void)close(at_destination);
		(void)close(client);
	}
	end(&l);
}

/* Neighbours of a routed endpoint are the same everywhere, and an old gateway's MAC must not come along. */
static void test_neighbours(void **state)
{
	struct fm_neighbour v[4] = { { .family = AF_INET, .mac = { 2 } } };
	size_t n = FM_ARRAY_SIZE(v);
	struct lab l;

	if (missing())
		skip();
	begin(&l);
	at(&l.m, "csrc", "test \"$(ip neigh show nud permanent | grep -c 169.254.1.1)\" = 1");
	v[0].address.s_addr = inet_addr("169.254.1.1");
	assert_ok(fm_endpoint_set_neighbours(l.end[0], v, 1, &err));
	at(&l.m, "csrc", "test \"$(ip neigh show nud permanent | grep -c 169.254.1.1)\" = 1");
	assert_ok(fm_endpoint_neighbours(l.end[0], v, &n, &err));
	assert_int_equal(n, 0);
	end(&l);
}

/* By name alone, as after a crash; an open one is somebody's service; the same pair is completed. */
static void test_recovery(void **state)
{
	struct fm_endpoint *e;
	struct lab l;

	if (missing())
		skip();
	begin(&l);
	assert_ok(fm_endpoint_open(l.end[0], &err));
	assert_code(FM_E_FAILED_PRECONDITION, on_host(&l, 0, do_prepare, (struct call){ .e = l.end[0] }, &err));
	e = endpoint(&l, 0);
	assert_ok(on_host(&l, 0, do_fn, (struct call){ .e = e, .fn = fm_endpoint_close }, &err));
	assert_false(fm_endpoint_is_open(l.end[0]));
	assert_ok(on_host(&l, 0, do_fn, (struct call){ .e = e, .fn = fm_endpoint_attach }, &err));
	assert_ok(fm_endpoint_open(e, &err));
	assert_true(fm_endpoint_is_open(l.end[0]));
	fm_endpoint_free(e);
	assert_ok(fm_endpoint_close(l.end[0], &err));
	assert_ok(on_host(&l, 0, do_prepare, (struct call){ .e = l.end[0] }, &err));
	/* gone: closed, and nothing to close */
	assert_ok(on_host(&l, 0, do_remove, (struct call){ .name = l.cfg.host_ifname }, &err));
	assert_ok(fm_endpoint_close(l.end[0], &err));
	assert_ok(fm_endpoint_close_inbound(l.end[0], &err));
	assert_false(fm_endpoint_is_open(l.end[0]));
	assert_ok(on_host(&l, 0, do_prepare, (struct call){ .e = l.end[0] }, &err));
	assert_ok(fm_endpoint_open(l.end[0], &err));
	assert_true(fm_endpoint_is_open(l.end[0]));
	end(&l);
}

static void test_refused(void **state)
{
	static const struct {
		const char *spoil, *mend, *word;
	} t[] = {
		{ "echo 0 >/proc/sys/net/ipv4/ip_forward", "echo 1 >/proc/sys/net/ipv4/ip_forward", "ip_forward" },
		{ "echo 0 >/proc/sys/net/ipv6/conf/all/forwarding",
		  "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding; ip -6 route replace default via fd00:1::254", "forwarding" },
		{ "ip route add " CT4 " via 10.0.1.254", "ip route del " CT4, "route" },
	};
	struct lab l;

	if (missing())
		skip();
	begin(&l);
	for (size_t i = 0; i < FM_ARRAY_SIZE(t); i++) {
		at(&l.m, "src", "%s", t[i].spoil);
		assert_code(FM_E_FAILED_PRECONDITION, on_host(&l, 0, do_prepare, (struct call){ .e = l.end[0] }, &err));
		assert_non_null(strstr(err.message, t[i].word));
		at(&l.m, "src", "%s", t[i].mend);
	}
	/* somebody's route that came later stays, and the endpoint stays closed */
	at(&l.m, "src", "ip route add " CT4 " via 10.0.1.254");
	assert_code(FM_E_ALREADY_EXISTS, fm_endpoint_open(l.end[0], &err));
	assert_false(fm_endpoint_is_open(l.end[0]));
	at(&l.m, "src", "ip route del " CT4);
	end(&l);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_config),  cmocka_unit_test(test_open_and_closed), cmocka_unit_test(test_connection),
		cmocka_unit_test(test_moves),   cmocka_unit_test(test_neighbours),      cmocka_unit_test(test_recovery),
		cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests_name("routed", tests, NULL, NULL);
}
