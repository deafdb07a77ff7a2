/* SPDX-License-Identifier: MIT */
/* test-endpoint.c - endpoints between two hosts of a laboratory (netlab.h): what they are, what passes, what is left. */
#include "netlab.h"
#include "network/hold.h"

static void assert_learned_on_uplink(const struct lab *lab, int h)
{
	struct fm_link uplink = link_of(lab, SRC + h, "eth0");
	struct fdb f;
	uint64_t deadline = fm_now_ms() + WAIT_MS;

	/* the announcement is flooded to the hosts in any order: poll */
	for (;;) {
		f = fdb_of(lab, h);
		if ((f.n == 1 && f.ifindex == uplink.index) || fm_deadline_left_ms(deadline) == 0)
			break;
		fm_pause_ms(1);
	}
	assert_int_equal(f.n, 1);
	assert_int_equal(f.ifindex, uplink.index);
	assert_false(f.state & (NUD_NOARP | NUD_PERMANENT));
}

static void assert_pinned_to_port(const struct lab *lab, int h)
{
	char name[IFNAMSIZ];
	struct fdb f = fdb_of(lab, h);

	fm_endpoint_host_ifname("web", 0, name);
	assert_int_equal(f.n, 1);
	assert_int_equal(f.ifindex, link_of(lab, SRC + h, name).index);
	assert_true(f.state & NUD_NOARP);
	assert_true(f.flags & NTF_STICKY);
}

/* ---- tests ---- */

static void test_config(void **state)
{
	static const struct {
		const char *bridge, *ifname, *mac, *address, *gateway, *name;
		bool ok;
	} t[] = {
		{ "br0", "eth0", CT_MAC, "10.0.0.5/24", "10.0.0.1", "web", true },
		{ "br0", NULL, NULL, "10.0.0.5/24", NULL, "web", true },
		{ "br0", "", "", "10.0.0.0/31", "10.0.0.1", "web", true },
		{ "br0", "", "FE:00:00:00:00:01", "10.0.0.5/32", "", "web", true },
		{ "", "", "", "10.0.0.5/24", "", "web", false },
		{ NULL, "", "", "10.0.0.5/24", "", "web", false },
		{ "br/0", "", "", "10.0.0.5/24", "", "web", false },
		{ "br0123456789abcdef", "", "", "10.0.0.5/24", "", "web", false },
		{ "br0", "lo", "", "10.0.0.5/24", "", "web", false },
		{ "br0", "eth 0", "", "10.0.0.5/24", "", "web", false },
		{ "br0", "eth%d", "", "10.0.0.5/24", "", "web", false },
		{ "br0", "eth0123456789abcd", "", "10.0.0.5/24", "", "web", false },
		{ "br0", "", "01:00:5e:00:00:01", "10.0.0.5/24", "", "web", false },
		{ "br0", "", "00:00:00:00:00:00", "10.0.0.5/24", "", "web", false },
		{ "br0", "", "02:77:00:00:01", "10.0.0.5/24", "", "web", false },
		{ "br0", "", "02:77:00:00:01:00:", "10.0.0.5/24", "", "web", false },
		{ "br0", "", "02-77-00-00-01-00", "10.0.0.5/24", "", "web", false },
		{ "br0", "", "", "10.0.0.5", "", "web", false },
		{ "br0", "", "", "10.0.0.5/33", "", "web", false },
		{ "br0", "", "", "10.0.0.5/0", "", "web", false },
		{ "br0", "", "", "10.0.0.5/+24", "", "web", false },
		{ "br0", "", "", "10.0.0.0/24", "", "web", false },
		{ "br0", "", "", "10.0.0.255/24", "", "web", false },
		{ "br0", "", "", "127.0.0.5/24", "", "web", false },
		{ "br0", "", "", "224.0.0.5/24", "", "web", false },
		{ "br0", "", "", "fd00::5/64", "", "web", false },
		{ "br0", "", "", "", "", "web", false },
		{ "br0", "", "", "10.0.0.5/24", "10.0.1.1", "web", false },
		{ "br0", "", "", "10.0.0.5/24", "10.0.0.5", "web", false },
		{ "br0", "", "", "10.0.0.5/24", "gateway", "web", false },
		{ "br0", "", "", "10.0.0.5/24", "", "", false },
	};

	for (size_t i = 0; i < FM_ARRAY_SIZE(t); i++) {
		struct fm_endpoint_config c = { .mtu = 4711 };
		struct fm_error err = FM_ERROR_INIT;
		const struct fm_endpoint_words w = {
			.bridge = t[i].bridge, .ifname = t[i].ifname, .mac = t[i].mac, .address = t[i].address, .gateway = t[i].gateway
		};
		int r = fm_endpoint_config_parse(&w, t[i].name, 0, &c, &err);

		if ((r == 0) != t[i].ok)
			fail_msg("line %zu: %s", i, err.message);
		if (r < 0) {
			assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
			assert_int_equal(c.mtu, 4711); /* untouched */
		}
	}
}

static void test_names(void **state)
{
	struct fm_endpoint_config a, b;
	char x[IFNAMSIZ], y[IFNAMSIZ], mac[18];

	fm_endpoint_host_ifname("web", 0, x);
	fm_endpoint_host_ifname("web", 0, y);
	assert_string_equal(x, y);
	assert_int_equal(strlen(x), 10);
	fm_endpoint_host_ifname("web2", 0, y);
	assert_string_not_equal(x, y);
	fm_endpoint_host_ifname("web", 1, y);
	assert_string_not_equal(x, y);
	OK(fm_endpoint_config_parse(&(struct fm_endpoint_words){ .bridge = "br0", .address = "10.0.0.5/24" }, "web", 0, &a, &err));
	OK(fm_endpoint_config_parse(&(struct fm_endpoint_words){ .bridge = "br1", .address = "10.0.0.6/24" }, "web", 0, &b, &err));
	assert_memory_equal(a.mac, b.mac, 6); /* by name alone: the same on every host */
	assert_int_equal(a.mac[0], 0x02);
	assert_string_equal(a.ifname, "eth0");
	OK(fm_endpoint_config_parse(&(struct fm_endpoint_words){ .bridge = "br0", .mac = "0A:bc:00:00:01:fF", .address = "10.0.0.5/24" },
	                            "web", 0, &a, &err));
	fm_mac_format(a.mac, mac);
	assert_string_equal(mac, "0a:bc:00:00:01:ff");
}

static int do_lo_flags(void *userdata, struct fm_error *err)
{
	struct fm_link *l = userdata;
	struct step s = { .a = "lo", .link = l };

	return do_link(&s, err);
}

static int do_fail(void *userdata, struct fm_error *err)
{
	return fm_error_set(err, FM_E_ABORTED, "on purpose");
}

static void test_netns(void **state)
{
	struct lab *lab = *state;
	struct stat before, after;
	char path[128], other[128];
	struct fm_link lo;
	int fd;

	if (!need_root())
		skip();
	(void)snprintf(path, sizeof(path), "%s/sub/one", lab->dir);
	OK(fm_netns_create(path, &err));
	FAILS(FM_E_ALREADY_EXISTS, fm_netns_create(path, &err));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(stat("/proc/thread-self/ns/net", &before), 0);
	OK(fm_netns_call(fd, do_lo_flags, &lo, &err));
	assert_true(lo.flags & IFF_UP);
	FAILS(FM_E_ABORTED, fm_netns_call(fd, do_fail, NULL, &err));
	FAILS(FM_E_INTERNAL, fm_netns_call(lab->client, do_fail, NULL, &err)); /* no namespace at all */
	assert_int_equal(stat("/proc/thread-self/ns/net", &after), 0);
	assert_int_equal(before.st_ino, after.st_ino);
	(void)close(fd);
	OK(fm_netns_remove(path, &err));
	OK(fm_netns_remove(path, &err));
	assert_false(fm_path_exists(path));

	/* what a crash between file and mount leaves is used; what is not ours is not touched */
	fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	(void)close(fd);
	OK(fm_netns_create(path, &err));
	OK(fm_netns_remove(path, &err));
	(void)snprintf(other, sizeof(other), "%s/sub/data", lab->dir);
	fd = open(other, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_int_equal(write(fd, "x", 1), 1);
	(void)close(fd);
	FAILS(FM_E_ALREADY_EXISTS, fm_netns_create(other, &err));
	FAILS(FM_E_FAILED_PRECONDITION, fm_netns_remove(other, &err));
	assert_int_equal(unlink(other), 0);
	FAILS(FM_E_INVALID_ARGUMENT, fm_netns_create("relative/path", &err));
	(void)snprintf(path, sizeof(path), "%s/sub", lab->dir);
	assert_int_equal(rmdir(path), 0);
}

static void test_new_refuses(void **state)
{
	struct fm_endpoint_config c = config(CT_ADDRESS "/24");
	struct fm_endpoint *e = NULL;

	FAILS(FM_E_NOT_FOUND, fm_endpoint_new(&c, "/nowhere/netns", &e, &err));
	FAILS(FM_E_INVALID_ARGUMENT, fm_endpoint_new(&c, "/dev/null", &e, &err));
	FAILS(FM_E_INVALID_ARGUMENT, fm_endpoint_new(&c, "/proc/self/ns/mnt", &e, &err));
	(void)snprintf(c.host_ifname, sizeof(c.host_ifname), "eth0");
	FAILS(FM_E_INVALID_ARGUMENT, fm_endpoint_new(&c, "/proc/self/ns/net", &e, &err));
	assert_null(e);
	fm_endpoint_free(NULL);
	FAILS(FM_E_INVALID_ARGUMENT, fm_endpoint_remove("eth0", &err));
	FAILS(FM_E_INVALID_ARGUMENT, fm_endpoint_remove("fm0123456z", &err));
}

static void test_host_namespace_is_refused(void **state)
{
	struct lab *lab = *state;
	struct fm_endpoint_config c = config(CT_ADDRESS "/24");
	struct fm_endpoint *e = NULL;
	char path[128];

	if (!need_root())
		skip();
	OK(fm_endpoint_new(&c, ns_path(lab, SRC, path), &e, &err));
	FAILS(FM_E_FAILED_PRECONDITION, on_host(lab, 0, do_prepare, (struct end_call){ .e = e }, &err));
	FAILS(FM_E_FAILED_PRECONDITION, on_host(lab, 0, do_call, (struct end_call){ .e = e, .fn = fm_endpoint_attach }, &err));
	assert_int_equal(count_on(lab, 0), 0);
	fm_endpoint_free(e);
}

static void expect_prepare(struct lab *lab, const struct fm_endpoint_config *c, bool check, enum fm_code expected)
{
	struct fm_endpoint *e = endpoint_for(lab, 1, c);

	FAILS(expected, on_host(lab, 1, do_prepare, (struct end_call){ .e = e, .check = check }, &err));
	assert_int_equal(count_on(lab, 1), 0); /* nothing left behind */
	fm_endpoint_free(e);
}

static void test_bad_bridges(void **state)
{
	struct lab *lab = *state;
	struct fm_endpoint_config c;

	if (!need_root())
		skip();
	c = config(CT_ADDRESS "/24");
	(void)snprintf(c.bridge, sizeof(c.bridge), "nobridge");
	expect_prepare(lab, &c, false, FM_E_FAILED_PRECONDITION);
	(void)snprintf(c.bridge, sizeof(c.bridge), "eth0");
	expect_prepare(lab, &c, false, FM_E_FAILED_PRECONDITION);
	in(lab, DST, do_bridge, (struct step){ .a = "brtest" });
	(void)snprintf(c.bridge, sizeof(c.bridge), "brtest");
	expect_prepare(lab, &c, false, FM_E_FAILED_PRECONDITION); /* down */
	in(lab, DST, do_delete, (struct step){ .a = "brtest" });
	in(lab, DST, do_bridge, (struct step){ .a = "brtest", .n = 1500 });
	in(lab, DST, do_plug, (struct step){ .a = "brtest" });
	expect_prepare(lab, &c, false, FM_E_FAILED_PRECONDITION); /* spanning tree */
	in(lab, DST, do_delete, (struct step){ .a = "brtest" });
}

/* Something fails after the pair was created: it goes again. */
static void test_failure_undoes(void **state)
{
	struct lab *lab = *state;
	struct fm_error why = FM_ERROR_INIT;
	struct fm_endpoint_config c;
	struct fm_endpoint *e;
	int r;

	if (!need_root())
		skip();
	c = config(CT_ADDRESS "/24");
	assert_int_equal(mount("/proc/sys", "/proc/sys", NULL, MS_BIND | MS_REC, NULL), 0);
	assert_int_equal(mount(NULL, "/proc/sys", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL), 0);
	e = endpoint_for(lab, 1, &c);
	r = on_host(lab, 1, do_prepare, (struct end_call){ .e = e }, &why);
	assert_int_equal(umount2("/proc/sys", MNT_DETACH), 0);
	assert_int_equal(r, -1);
	assert_true(why.hint[0]);
	assert_int_equal(count_on(lab, 1), 0);
	/* and the handle is as good as new */
	OK(on_host(lab, 1, do_prepare, (struct end_call){ .e = e }, &err));
	OK(on_host(lab, 1, do_remove, (struct end_call){ .name = c.host_ifname }, &err));
	fm_endpoint_free(e);
}

static void test_duplicate_address(void **state)
{
	struct lab *lab = *state;
	struct fm_endpoint_config c;

	if (!need_root())
		skip();
	c = config("10.77.0.4/24");
	c.gateway.s_addr = 0;
	c.address.s_addr = inet_addr("10.77.0.3"); /* the client's */
	expect_prepare(lab, &c, true, FM_E_ALREADY_EXISTS);
	c.address.s_addr = inet_addr("10.77.0.2"); /* the host's own */
	expect_prepare(lab, &c, true, FM_E_ALREADY_EXISTS);
}

/* The source serves while the destination prepares: the same MAC answers, and that is fine. */
static void test_duplicate_check_knows_the_container(void **state)
{
	struct lab *lab = *state;

	if (!need_root())
		skip();
	open_at(lab, 0);
	assert_true(echo(lab, CT_ADDRESS, '0'));
	OK(on_host(lab, 1, do_prepare, (struct end_call){ .e = lab->end[1], .check = true }, &err));
	assert_true(echo(lab, CT_ADDRESS, '0'));
}

static int do_if_inet6(void *userdata, struct fm_error *err)
{
	char **text = userdata;

	return fm_read_file("/proc/thread-self/net/if_inet6", 1 << 16, text, NULL, err);
}

static void test_prepared(void **state)
{
	struct lab *lab = *state;
	_fm_free_ char *inet6 = NULL;
	struct fm_link host_end, inside;
	char name[IFNAMSIZ];

	if (!need_root())
		skip();
	fm_endpoint_host_ifname("web", 0, name);
	host_end = link_of(lab, DST, name);
	inside = link_of(lab, CDST, "eth0");
	assert_int_equal(host_end.master, 0);
	assert_true(host_end.flags & IFF_UP);
	assert_int_equal(host_end.operstate, IF_OPER_UP);
	assert_int_equal(host_end.mac[0], 0xfe);
	assert_int_equal(inside.operstate, IF_OPER_UP);
	assert_int_equal(inside.mtu, link_of(lab, DST, "br0").mtu);
	assert_false(fm_endpoint_is_open(lab->end[1]));
	assert_int_equal(count_on(lab, 1), 1);
	OK(fm_netns_call(lab->ns[DST], do_if_inet6, &inet6, &err));
	assert_null(strstr(inet6, name)); /* sealed: the host has no address on it */
	/* again: the same pair */
	OK(on_host(lab, 1, do_prepare, (struct end_call){ .e = lab->end[1] }, &err));
	assert_int_equal(link_of(lab, DST, name).index, host_end.index);
	/* once it is open, it is somebody's service */
	OK(fm_endpoint_open(lab->end[1], &err));
	FAILS(FM_E_FAILED_PRECONDITION, on_host(lab, 1, do_prepare, (struct end_call){ .e = lab->end[1] }, &err));
	assert_true(fm_endpoint_is_open(lab->end[1]));
}

static void test_name_taken(void **state)
{
	struct lab *lab = *state;
	struct fm_endpoint_config c;
	struct fm_endpoint *e;

	if (!need_root())
		skip();
	/* the same instance, but another container's namespace */
	c = config(CT_ADDRESS "/24");
	e = endpoint_for(lab, 0, &c);
	FAILS(FM_E_ALREADY_EXISTS, on_host(lab, 1, do_prepare, (struct end_call){ .e = e }, &err));
	FAILS(FM_E_FAILED_PRECONDITION, on_host(lab, 1, do_call, (struct end_call){ .e = e, .fn = fm_endpoint_attach }, &err));
	fm_endpoint_free(e);
	assert_int_equal(count_on(lab, 1), 1);
	/* another instance, but the namespace has its eth0 already */
	fm_endpoint_host_ifname("other", 0, c.host_ifname);
	e = endpoint_for(lab, 1, &c);
	FAILS(FM_E_ALREADY_EXISTS, on_host(lab, 1, do_prepare, (struct end_call){ .e = e }, &err));
	fm_endpoint_free(e);
	assert_int_equal(count_on(lab, 1), 1);
}

static void test_idempotence(void **state)
{
	struct lab *lab = *state;
	struct fm_endpoint_config c;
	struct fm_endpoint *e;

	if (!need_root())
		skip();
	OK(fm_endpoint_close(lab->end[0], &err));
	OK(fm_endpoint_open(lab->end[0], &err));
	OK(fm_endpoint_open(lab->end[0], &err));
	assert_true(fm_endpoint_is_open(lab->end[0]));
	assert_pinned_to_port(lab, 0);
	OK(fm_endpoint_close(lab->end[0], &err));
	OK(fm_endpoint_close(lab->end[0], &err));
	assert_false(fm_endpoint_is_open(lab->end[0]));
	assert_int_equal(fdb_of(lab, 0).n, 0);
	/* a fence by name alone, without attach */
	OK(fm_endpoint_open(lab->end[0], &err));
	c = config(CT_ADDRESS "/24");
	e = endpoint_for(lab, 0, &c);
	OK(on_host(lab, 0, do_call, (struct end_call){ .e = e, .fn = fm_endpoint_close }, &err));
	assert_false(fm_endpoint_is_open(lab->end[0]));
	OK(on_host(lab, 0, do_call, (struct end_call){ .e = e, .fn = fm_endpoint_attach }, &err));
	OK(fm_endpoint_announce(e, &err));
	/* gone: closing is done, opening cannot be */
	OK(on_host(lab, 0, do_remove, (struct end_call){ .name = c.host_ifname }, &err));
	OK(on_host(lab, 0, do_remove, (struct end_call){ .name = c.host_ifname }, &err));
	OK(fm_endpoint_close(e, &err));
	assert_false(fm_endpoint_is_open(e));
	assert_int_equal(fm_endpoint_open(e, NULL), -1);
	FAILS(FM_E_NOT_FOUND, on_host(lab, 0, do_call, (struct end_call){ .e = e, .fn = fm_endpoint_attach }, &err));
	fm_endpoint_free(e);
}

static void test_moves(void **state)
{
	struct lab *lab = *state;
	uint64_t open_us = 0, open_max = 0, close_us = 0, close_max = 0;
	unsigned lost = 0;

	if (!need_root())
		skip();
	open_at(lab, 0);
	assert_true(echo(lab, CT_ADDRESS, '0'));
	for (int i = 0; i < MOVES; i++) {
		int from = i % 2, to = !from;
		uint64_t t0 = fm_now_us(), t1, t2;

		OK(fm_endpoint_close(lab->end[from], &err));
		t1 = fm_now_us();
		OK(fm_endpoint_open(lab->end[to], &err));
		OK(fm_endpoint_announce(lab->end[to], &err));
		t2 = fm_now_us();
		wait_announced(lab);
		close_us += t1 - t0;
		open_us += t2 - t1;
		close_max = t1 - t0 > close_max ? t1 - t0 : close_max;
		open_max = t2 - t1 > open_max ? t2 - t1 : open_max;
		for (int k = 0; k < 20; k++)
			lost += !echo(lab, CT_ADDRESS, (char)('0' + to));
		assert_pinned_to_port(lab, to);
		assert_learned_on_uplink(lab, from);
	}
	print_message("close: mean %llu us, max %llu us; open + announce: mean %llu us, max %llu us; lost %u of %d\n",
	              (unsigned long long)close_us / MOVES, (unsigned long long)close_max, (unsigned long long)open_us / MOVES,
	              (unsigned long long)open_max, lost, MOVES * 20);
	assert_int_equal(lost, 0);
}

static void test_ipv6_follows(void **state)
{
	struct lab *lab = *state;

	if (!need_root())
		skip();
	open_at(lab, 0);
	assert_true(echo(lab, CT_ADDRESS6, '0'));
	OK(fm_endpoint_close(lab->end[0], &err));
	open_at(lab, 1);
	assert_true(echo(lab, CT_ADDRESS6, '1'));
	assert_true(echo(lab, CT_ADDRESS, '1'));
}

/* In both directions; and the host itself must not become the container's peer through the loose end. */
static void test_closed_passes_nothing(void **state)
{
	struct lab *lab = *state;
	struct sockaddr_in6 to_client = udp_address("10.77.0.3"), to_host = udp_address("10.77.0.1");
	struct fm_neighbour known[8];
	size_t n = FM_ARRAY_SIZE(known);
	_fm_close_ int sink = -1, arp = -1;
	struct echo e = { .seq = 99 };
	struct sockaddr_in6 client = { 0 };
	socklen_t len = sizeof(client);
	unsigned before;
	char name[IFNAMSIZ], buf[64];

	if (!need_root())
		skip();
	fm_endpoint_host_ifname("web", 0, name);
	sink = udp_in(lab, SRC, ECHO_PORT);
	open_at(lab, 0);
	assert_true(echo(lab, CT_ADDRESS, '0')); /* both know each other's MAC now */
	OK(fm_endpoint_close(lab->end[0], &err));
	before = atomic_load(&lab->at[0].received);
	assert_int_equal(getsockname(lab->client, (struct sockaddr *)&client, &len), 0);
	to_client.sin6_port = client.sin6_port;
	arp = watch_in(lab, SRC, name, ETH_P_ARP);
	for (int i = 0; i < 50; i++) {
		(void)send_seq(lab, CT_ADDRESS);
		(void)sendto(lab->at[0].fd, &e, sizeof(e), 0, (struct sockaddr *)&to_client, sizeof(to_client));
		(void)sendto(lab->at[0].fd, &e, sizeof(e), 0, (struct sockaddr *)&to_host, sizeof(to_host));
	}
	/* the question for the host's MAC has come to the loose end … */
	assert_true(recv(arp, buf, sizeof(buf), 0) > 0);
	open_at(lab, 1);
	/* … the first thing that the client hears and the first that gets through comes after the opening */
	assert_true(echo(lab, CT_ADDRESS, '1'));
	assert_int_equal(recv(lab->client, &e, sizeof(e), MSG_DONTWAIT), -1);
	assert_int_equal(atomic_load(&lab->at[0].received), before);
	assert_int_equal(atomic_load(&lab->at[1].received), 1);
	assert_int_equal(recv(sink, &e, sizeof(e), MSG_DONTWAIT), -1);
	OK(fm_endpoint_neighbours(lab->end[0], known, &n, &err));
	for (size_t i = 0; i < n; i++)
		assert_int_not_equal(known[i].address.s_addr, inet_addr("10.77.0.1")); /* … and nobody answered */
}

/* Nothing comes in, to the MAC or by broadcast; what the container sends still leaves; opening puts everything back. */
static void test_closed_inbound(void **state)
{
	struct lab *lab = *state;
	struct sockaddr_in6 to_client = udp_address("10.77.0.3");
	struct echo e = { .seq = 99 };
	struct sockaddr_in6 client = { 0 };
	socklen_t len = sizeof(client);
	_fm_close_ int arp = -1;
	unsigned before;
	char buf[64];

	if (!need_root())
		skip();
	OK(fm_endpoint_close_inbound(lab->end[0], &err)); /* of a closed one: nothing to do */
	open_at(lab, 0);
	assert_true(echo(lab, CT_ADDRESS, '0'));
	assert_int_equal(getsockname(lab->client, (struct sockaddr *)&client, &len), 0);
	to_client.sin6_port = client.sin6_port;
	OK(fm_endpoint_close_inbound(lab->end[0], &err));
	OK(fm_endpoint_close_inbound(lab->end[0], &err));
	before = atomic_load(&lab->at[0].received);
	arp = watch_in(lab, CSRC, "eth0", ETH_P_ARP);
	for (int i = 0; i < 50; i++) {
		(void)send_seq(lab, CT_ADDRESS);
		assert_int_equal(sendto(lab->at[0].fd, &e, sizeof(e), 0, (struct sockaddr *)&to_client, sizeof(to_client)), sizeof(e));
		assert_true(answered(lab, 99, '\0'));
	}
	open_at(lab, 1); /* announces by broadcast */
	assert_int_equal(recv(arp, buf, sizeof(buf), MSG_DONTWAIT), -1);
	assert_int_equal(atomic_load(&lab->at[0].received), before);
	OK(fm_endpoint_close(lab->end[0], &err));
	OK(fm_endpoint_close(lab->end[1], &err));
	open_at(lab, 0);
	assert_true(echo(lab, CT_ADDRESS, '0'));
	OK(fm_endpoint_close_inbound(lab->end[0], &err));
	open_at(lab, 0); /* without a close in between, too */
	assert_true(echo(lab, CT_ADDRESS, '0'));
}

struct hold_call {
	struct fm_endpoint_config cfg;
	struct fm_hold *hold;
};

static int do_hold(void *userdata, struct fm_error *e)
{
	struct hold_call *c = userdata;

	c->hold = fm_hold_start(&c->cfg, 1);
	return c->hold ? 0 : fm_error_set(e, FM_E_INTERNAL, "no hold");
}

/* Until n IPv4 frames for the container have come in through a tap that hears them after the hold. */
static void await_frames(int tap, unsigned n)
{
	uint8_t mac[6] = { 0x02, 0x77, 0x00, 0x00, 0x01, 0x00 };

	while (n > 0) {
		struct ether_header h;
		assert_true(recv(tap, &h, sizeof(h), MSG_TRUNC) > 0);
		n -= memcmp(h.ether_dhost, mac, 6) == 0 && h.ether_type == htons(ETHERTYPE_IP);
	}
}

/* A pair of which one end is a port and the other is not: what the bridge floods comes in again. */
static int do_add_echo(void *userdata, struct fm_error *e)
{
	return system("ip link add k0 type veth peer name k1 && ip link set k0 master br0 up && ip link set k1 up && bridge link set dev "
	              "eth0 learning off") == 0
	               ? 0
	               : fm_error_set(e, FM_E_INTERNAL, "no echo");
}

/* What is sent into the freeze reaches nobody then, and the destination once, in order, when it is open. */
static void test_hold(void **state)
{
	struct lab *lab = *state;
	struct hold_call c = { 0 };
	uint32_t seq[20];
	_fm_close_ int tap = -1;
	unsigned before;

	if (!need_root())
		skip();
	c.cfg = config(CT_ADDRESS "/24");
	open_at(lab, 0);
	assert_true(echo(lab, CT_ADDRESS, '0'));
	OK(fm_netns_call(lab->ns[SRC], do_hold, &c, &err));
	OK(fm_endpoint_close_inbound(lab->end[0], &err));
	before = atomic_load(&lab->at[0].received);
	tap = watch_in(lab, SRC, "eth0", ETH_P_ALL);
	for (size_t i = 0; i < FM_ARRAY_SIZE(seq); i++)
		seq[i] = send_seq(lab, CT_ADDRESS);
	await_frames(tap, FM_ARRAY_SIZE(seq));
	OK(fm_endpoint_close(lab->end[0], &err));
	open_at(lab, 1);
	assert_int_equal(fm_hold_release(c.hold), FM_ARRAY_SIZE(seq));
	for (size_t i = 0; i < FM_ARRAY_SIZE(seq); i++)
		assert_true(answered(lab, seq[i], '1'));
	assert_int_equal(atomic_load(&lab->at[0].received), before);
	assert_true(echo(lab, CT_ADDRESS, '1')); /* the switch still knows where the client is */
	fm_hold_free(c.hold);

	/* What is handed on is not taken in again, where a host has a way back to itself. */
	OK(fm_endpoint_close(lab->end[1], &err));
	OK(fm_netns_call(lab->ns[SRC], do_add_echo, NULL, &err));
	open_at(lab, 0);
	assert_true(echo(lab, CT_ADDRESS, '0'));
	OK(fm_netns_call(lab->ns[SRC], do_hold, &c, &err));
	OK(fm_endpoint_close(lab->end[0], &err));
	(void)close(tap);
	tap = watch_in(lab, SRC, "eth0", ETH_P_ALL);
	(void)send_seq(lab, CT_ADDRESS);
	await_frames(tap, 1);
	assert_in_range(fm_hold_release(c.hold), 1, 3);
	fm_hold_free(c.hold);
	assert_null(fm_hold_start(&(struct fm_endpoint_config){ .bridge = "none" }, 1));
	assert_int_equal(fm_hold_release(NULL), 0);
}

/* A late packet of the source's copy, coming in through the uplink, must not pull the address away. */
static void test_late_packet(void **state)
{
	struct lab *lab = *state;
	struct ether_header f[4] = { { .ether_shost = { 2, 0x77, 0, 0, 1, 0 }, .ether_type = htons(ETH_P_802_EX1) } };
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_802_EX1) };
	_fm_close_ int seen = -1;
	char buf[64];

	if (!need_root())
		skip();
	at.sll_ifindex = link_of(lab, CLI, "eth0").index;
	memset(f[0].ether_dhost, 0xff, 6);
	open_at(lab, 1);
	seen = watch_in(lab, CDST, "eth0", ETH_P_802_EX1);
	/* from the client's cable: the switch believes it, the container's host must not; a broadcast, which the container sees pass */
	for (int i = 0; i < 3; i++) {
		assert_true(sendto(lab->watch, f, sizeof(f), 0, (struct sockaddr *)&at, sizeof(at)) > 0);
		assert_true(recv(seen, buf, sizeof(buf), 0) > 0);
	}
	assert_pinned_to_port(lab, 1);
	OK(fm_endpoint_announce(lab->end[1], &err));
	wait_announced(lab);
	assert_true(echo(lab, CT_ADDRESS, '1'));
}

static void test_bridge_is_left_alone(void **state)
{
	struct lab *lab = *state;
	struct fm_link before, after;

	if (!need_root())
		skip();
	before = link_of(lab, DST, "br0");
	OK(fm_endpoint_open(lab->end[1], &err));
	after = link_of(lab, DST, "br0");
	assert_memory_equal(before.mac, after.mac, 6);
	assert_int_equal(before.mtu, after.mtu);
}

static void test_mtu(void **state)
{
	struct lab *lab = *state;
	struct fm_endpoint_config c;
	struct fm_endpoint *e;
	char name[IFNAMSIZ];

	if (!need_root())
		skip();
	in(lab, DST, do_bridge, (struct step){ .a = "brmtu" });
	in(lab, DST, do_plug, (struct step){ .a = "brmtu", .n = 1400 });
	c = config(CT_ADDRESS "/24");
	(void)snprintf(c.bridge, sizeof(c.bridge), "brmtu");
	(void)snprintf(name, sizeof(name), "%s", c.host_ifname);
	for (uint32_t mtu = 0; mtu <= 1300; mtu += 1300) {
		c.mtu = mtu;
		e = endpoint_for(lab, 1, &c);
		OK(on_host(lab, 1, do_prepare, (struct end_call){ .e = e }, &err));
		OK(fm_endpoint_open(e, &err));
		assert_int_equal(link_of(lab, CDST, "eth0").mtu, mtu ? mtu : 1400);
		assert_int_equal(link_of(lab, DST, name).mtu, 1400);
		assert_int_equal(link_of(lab, DST, "brmtu").mtu, 1400);
		fm_endpoint_free(e);
		OK(on_host(lab, 1, do_remove, (struct end_call){ .name = name }, &err));
	}
	in(lab, DST, do_delete, (struct step){ .a = "brmtu" });
	assert_int_equal(count_on(lab, 1), 0);
}

static void test_neighbours(void **state)
{
	struct lab *lab = *state;
	struct fm_neighbour v[512], many[300], w[512];
	size_t n = FM_ARRAY_SIZE(v), m = FM_ARRAY_SIZE(w), one = 1;
	struct fm_link client;
	bool found = false;

	if (!need_root())
		skip();
	client = link_of(lab, CLI, "eth0");
	open_at(lab, 0);
	assert_true(echo(lab, CT_ADDRESS, '0'));
	OK(fm_endpoint_neighbours(lab->end[0], v, &n, &err));
	for (size_t i = 0; i < n; i++)
		found |= v[i].address.s_addr == inet_addr("10.77.0.3") && memcmp(v[i].mac, client.mac, 6) == 0;
	assert_true(found);
	OK(fm_endpoint_set_neighbours(lab->end[1], v, n, &err));
	OK(fm_endpoint_neighbours(lab->end[1], w, &m, &err));
	assert_int_equal(m, n);
	/* more than one batch, and twice */
	for (size_t i = 0; i < FM_ARRAY_SIZE(many); i++)
		many[i] = (struct fm_neighbour){ .family = AF_INET,
			                         .address.s_addr = htonl(0x0a4d0200u + (uint32_t)i),
			                         .mac = { 2, 0, 0, 0, (uint8_t)(i >> 8), (uint8_t)i } };
	for (int i = 0; i < 2; i++)
		OK(fm_endpoint_set_neighbours(lab->end[1], many, FM_ARRAY_SIZE(many), &err));
	m = FM_ARRAY_SIZE(w);
	OK(fm_endpoint_neighbours(lab->end[1], w, &m, &err));
	assert_int_equal(m, n + FM_ARRAY_SIZE(many));
	OK(fm_endpoint_neighbours(lab->end[1], w, &one, &err));
	assert_int_equal(one, 1);
	/* what another host sends is not trusted */
	many[7].mac[0] = 0xff;
	FAILS(FM_E_INVALID_ARGUMENT, fm_endpoint_set_neighbours(lab->end[1], many, 8, &err));
	FAILS(FM_E_RESOURCE_EXHAUSTED, fm_endpoint_set_neighbours(lab->end[1], many, 100000, &err));
	OK(fm_endpoint_set_neighbours(lab->end[1], NULL, 0, &err));
}

/* The container's namespace dies first: the kernel takes the pair down in the background, remove waits for it. */
static void test_remove_after_namespace(void **state)
{
	struct lab *lab = *state;
	struct fm_endpoint_config c;
	char path[128];

	if (!need_root())
		skip();
	c = config("10.77.0.101/24");
	fm_endpoint_host_ifname("short-lived", 0, c.host_ifname);
	(void)snprintf(path, sizeof(path), "%s/short", lab->dir);
	for (int i = 0; i < 3; i++) {
		struct fm_endpoint *e = NULL;

		OK(fm_netns_create(path, &err));
		OK(fm_endpoint_new(&c, path, &e, &err));
		OK(on_host(lab, 0, do_prepare, (struct end_call){ .e = e }, &err));
		OK(fm_endpoint_open(e, &err));
		fm_endpoint_free(e);
		OK(fm_netns_remove(path, &err));
		OK(on_host(lab, 0, do_remove, (struct end_call){ .name = c.host_ifname }, &err));
		assert_int_equal(count_on(lab, 0), 0);
	}
}

#define WITH_ENDS(t) cmocka_unit_test_setup_teardown(t, ends_setup, ends_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_netns),
		cmocka_unit_test(test_new_refuses),
		cmocka_unit_test(test_host_namespace_is_refused),
		cmocka_unit_test(test_bad_bridges),
		cmocka_unit_test(test_failure_undoes),
		cmocka_unit_test(test_duplicate_address),
		WITH_ENDS(test_duplicate_check_knows_the_container),
		WITH_ENDS(test_prepared),
		WITH_ENDS(test_name_taken),
		WITH_ENDS(test_idempotence),
		WITH_ENDS(test_moves),
		WITH_ENDS(test_ipv6_follows),
		WITH_ENDS(test_closed_passes_nothing),
		WITH_ENDS(test_closed_inbound),
		WITH_ENDS(test_hold),
		WITH_ENDS(test_late_packet),
		WITH_ENDS(test_bridge_is_left_alone),
		cmocka_unit_test(test_mtu),
		WITH_ENDS(test_neighbours),
		cmocka_unit_test(test_remove_after_namespace),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
