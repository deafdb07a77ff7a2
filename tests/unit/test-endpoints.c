/* SPDX-License-Identifier: MIT */
/*
 * test-endpoints.c - IPv6 of an endpoint, and several endpoints of one container, in the laboratory of netlab.h. TCP connections really move: a socket is taken out of the source's namespace and put into
 * the destination's by TCP_REPAIR, as CRIU does it.
 */
#pragma GCC diagnostic ignored "-Wunused-function" /* of netlab.h */
#include "netlab.h"

#include <linux/if_bridge.h>
#include <linux/tcp.h>
#include <netinet/icmp6.h>
#include <netinet/ip6.h>

#include "network/endpoints.h"
#include "network/frames.h"
#include "network/hold.h"

#define TCP_PORT 7008

static struct fm_endpoint_config config6(const char *address)
{
	struct fm_endpoint_config c;
	const struct fm_endpoint_words w = { .bridge = "br0",
		                             .mac = CT_MAC,
		                             .address = address,
		                             .gateway = address ? "10.77.0.3" : NULL,
		                             .address6 = CT_ADDRESS6 "/64",
		                             .gateway6 = CLI_ADDRESS6 };

	OK(fm_endpoint_config_parse(&w, "web", 0, &c, &err));
	return c;
}

static int both_setup(void **state)
{
	struct fm_endpoint_config c;

	if (geteuid() != 0)
		return 0;
	c = config6(CT_ADDRESS "/24");
	return ends_with(*state, &c);
}

static int only6_setup(void **state)
{
	struct fm_endpoint_config c;

	if (geteuid() != 0)
		return 0;
	c = config6(NULL);
	return ends_with(*state, &c);
}

/* ---- words ---- */

static void test_config6(void **state)
{
	static const struct {
		const char *address6, *gateway6, *address;
		uint32_t mtu;
		bool ok;
	} t[] = {
		{ "fd77::100/64", "fd77::1", "10.0.0.5/24", 0, true },
		{ "fd77::100/64", "fe80::1", NULL, 0, true },
		{ "2001:db8::1/128", "fe80::1", "", 1280, true },
		{ "fd77::/127", "fd77::1", "", 0, true },
		{ "fd77::100/64", "fd77::", "", 0, true }, /* the subnet's routers */
		{ "2001:db8:1:ff00::1/60", "2001:db8:1:ff0f::1", "", 0, true },
		{ "fd77::100", "", "", 0, false },
		{ "fd77::100/129", "", "", 0, false },
		{ "fd77::100/0", "", "", 0, false },
		{ "fd77::100%eth0/64", "", "", 0, false },
		{ "fd77:::100/64", "", "", 0, false },
		{ "fd77:0000:0000:0000:0000:0000:0000:0000:0000:0000:0100/64", "", "", 0, false },
		{ "10.0.0.5/24", "", "", 0, false },
		{ "::/64", "", "", 0, false },
		{ "::1/128", "", "", 0, false },
		{ "ff02::1/64", "", "", 0, false },
		{ "fe80::5/64", "", "", 0, false },
		{ "::ffff:10.0.0.5/128", "", "", 0, false },
		{ "fd77::/64", "", "", 0, false },
		{ "fd77:0:0:10::/60", "", "", 0, false },
		{ "fd77::100/64", "fd78::1", "", 0, false },
		{ "2001:db8:1:ff00::1/60", "2001:db8:1:fef0::1", "", 0, false },
		{ "fd77::100/64", "fd77::100", "", 0, false },
		{ "fd77::100/64", "ff02::2", "", 0, false },
		{ "fd77::100/64", "10.0.0.1", "", 0, false },
		{ "", "fd77::1", "10.0.0.5/24", 0, false },
		{ "", "", "", 0, false },
	};

	for (size_t i = 0; i < FM_ARRAY_SIZE(t); i++) {
		const struct fm_endpoint_words w = {
			.bridge = "br0", .address = t[i].address, .address6 = t[i].address6, .gateway6 = t[i].gateway6
		};
		struct fm_endpoint_config c = { .mtu = 4711 };
		struct fm_error err = FM_ERROR_INIT;
		int r = fm_endpoint_config_parse(&w, "web", 0, &c, &err);

		if ((r == 0) != t[i].ok)
			fail_msg("line %zu: %s", i, err.message);
		assert_true(r == 0 ? c.prefix6_len > 0 : err.code == FM_E_INVALID_ARGUMENT && c.mtu == 4711);
	}
	char text[FM_ENDPOINT_ADDRESSES_LEN];
	struct fm_endpoint_config c = config6(CT_ADDRESS "/24");
	fm_endpoint_addresses_format(&c, text);
	assert_string_equal(text, "10.77.0.100/24 and fd77::100/64");
	c = config6(NULL);
	fm_endpoint_addresses_format(&c, text);
	assert_string_equal(text, "fd77::100/64");
}

static void two_configs(struct fm_endpoint_config c[2])
{
	const struct fm_endpoint_words w[2] = {
		{ .bridge = "br0", .address = "10.77.0.100/24", .gateway = "10.77.0.3", .address6 = "fd77::100/64" },
		{ .bridge = "br1", .address = "10.78.0.100/24", .address6 = "fd78::100/64", .gateway6 = "fe80::1" },
	};

	for (unsigned i = 0; i < 2; i++)
		OK(fm_endpoint_config_parse(&w[i], "web", i, &c[i], &err));
}

static void test_together(void **state)
{
	struct fm_endpoint_config c[FM_MAX_ENDPOINTS + 1], t[2];

	two_configs(t);
	OK(fm_endpoints_check(t, 2, &err));
	assert_string_equal(t[0].ifname, "eth0");
	assert_string_equal(t[1].ifname, "eth1");
	assert_memory_not_equal(t[0].mac, t[1].mac, 6);
	assert_string_not_equal(t[0].host_ifname, t[1].host_ifname);

	memcpy(c, t, sizeof(t));
	memcpy(c[1].ifname, "eth0", 5);
	FAILS(FM_E_INVALID_ARGUMENT, fm_endpoints_check(c, 2, &err));
	memcpy(c, t, sizeof(t));
	memcpy(c[1].mac, c[0].mac, 6);
	FAILS(FM_E_INVALID_ARGUMENT, fm_endpoints_check(c, 2, &err));
	memcpy(c, t, sizeof(t));
	memcpy(c[1].host_ifname, c[0].host_ifname, IFNAMSIZ);
	FAILS(FM_E_INVALID_ARGUMENT, fm_endpoints_check(c, 2, &err));
	memcpy(c, t, sizeof(t));
	c[1].address.s_addr = inet_addr("10.77.3.4");
	c[1].prefix_len = 16;
	FAILS(FM_E_INVALID_ARGUMENT, fm_endpoints_check(c, 2, &err));
	memcpy(c, t, sizeof(t));
	c[1].address6 = c[0].address6;
	c[1].address6.s6_addr[15] ^= 1;
	FAILS(FM_E_INVALID_ARGUMENT, fm_endpoints_check(c, 2, &err));
	memcpy(c, t, sizeof(t));
	c[0].gateway6 = c[1].gateway6;
	FAILS(FM_E_INVALID_ARGUMENT, fm_endpoints_check(c, 2, &err));
	memcpy(c, t, sizeof(t));
	c[1].mac[0] = 1; /* each is checked, too */
	FAILS(FM_E_INVALID_ARGUMENT, fm_endpoints_check(c, 2, &err));
	FAILS(FM_E_INVALID_ARGUMENT, fm_endpoints_check(c, FM_ARRAY_SIZE(c), &err));
	FAILS(FM_E_INVALID_ARGUMENT, fm_endpoint_config_parse(&(struct fm_endpoint_words){ .bridge = "br0", .address = "10.0.0.5/24" },
	                                                      "web", FM_MAX_ENDPOINTS, c, &err));
}

/* ---- frames ---- */

/* Each frame that says who has an address says it, whole; cut anywhere, or changed where it matters, it does not. */
static void test_frames(void **state)
{
	const uint8_t mac[6] = { 2, 0x77, 0, 0, 1, 0 }, device[6] = { 2, 9, 9, 9, 9, 9 };
	struct in6_addr a6, other6;
	struct in_addr a4 = { inet_addr(CT_ADDRESS) }, other4 = { inet_addr("10.77.0.101") };
	uint8_t f[FM_FRAME_MAX], got[6];
	size_t n;

	assert_int_equal(inet_pton(AF_INET6, CT_ADDRESS6, &a6), 1);
	assert_int_equal(inet_pton(AF_INET6, "fd77::101", &other6), 1);
	n = fm_frame_nd_announce(mac, &a6, f);
	assert_true(fm_frame_nd_claims(f, n, &a6, got));
	assert_memory_equal(got, mac, 6);
	assert_false(fm_frame_nd_claims(f, n, &other6, got));
	for (size_t i = 0; i < n; i++)
		assert_false(fm_frame_nd_claims(f, i, &a6, got));
	f[79] = 0; /* an option of no length */
	assert_false(fm_frame_nd_claims(f, n, &a6, got));
	f[79] = 2; /* longer than the packet */
	assert_false(fm_frame_nd_claims(f, n, &a6, got));
	f[79] = 1;
	f[21] = 64; /* has come over a router */
	assert_false(fm_frame_nd_claims(f, n, &a6, got));
	/* somebody else's check for the same address */
	n = fm_frame_nd_probe(device, &a6, f);
	assert_true(fm_frame_nd_claims(f, n, &a6, got));
	assert_memory_equal(got, device, 6);
	f[22] = 0xfd; /* with a source it is a question of a neighbour */
	assert_false(fm_frame_nd_claims(f, n, &a6, got));
	n = fm_frame_mld_report(mac, &a6, f);
	assert_false(fm_frame_nd_claims(f, n, &a6, got));
	for (int reply = 0; reply < 2; reply++) {
		n = fm_frame_arp_announce(mac, a4, reply, f);
		assert_int_equal(n, 60);
		assert_true(fm_frame_arp_claims(f, n, a4, got));
		assert_memory_equal(got, mac, 6);
		assert_false(fm_frame_arp_claims(f, n, other4, got));
		for (size_t i = 0; i < 42; i++)
			assert_false(fm_frame_arp_claims(f, i, a4, got));
	}
	n = fm_frame_arp_probe(device, a4, f);
	assert_false(fm_frame_arp_claims(f, n, a4, got));
}

/* ---- the table between two hosts ---- */

static void test_table(void **state)
{
	struct fm_neighbour v[3] = { { .family = AF_INET, .mac = { 2, 1, 1, 1, 1, 1 }, .address.s_addr = inet_addr("10.77.0.3") },
		                     { .endpoint = 1, .family = AF_INET6, .mac = { 2, 1, 1, 1, 1, 2 } },
		                     { .endpoint = 1, .family = AF_INET6, .mac = { 2, 1, 1, 1, 1, 3 } } },
	                    got[FM_MAX_NEIGHBOURS];
	static const char *const nobody[] = { "::", "::1", "ff02::1", "::ffff:10.0.0.1" };
	static uint8_t wire[FM_NEIGHBOURS_MAX_BYTES];
	size_t n = 99, len;

	assert_int_equal(inet_pton(AF_INET6, "fd77::3", &v[1].address6), 1);
	assert_int_equal(inet_pton(AF_INET6, "fe80::3", &v[2].address6), 1);
	len = fm_neighbours_encode(v, 3, wire);
	assert_int_equal(len, 4 + 3 * 24);
	OK(fm_neighbours_decode(wire, len, 3, 2, got, &n, &err));
	assert_int_equal(n, 3);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(got[i].endpoint, v[i].endpoint);
		assert_int_equal(got[i].family, v[i].family);
		assert_memory_equal(got[i].mac, v[i].mac, 6);
		assert_memory_equal(&got[i].address6, &v[i].address6, v[i].family == AF_INET ? 4 : 16);
	}
	OK(fm_neighbours_decode(wire, 4, 0, 0, got, &n, &err));
	assert_int_equal(n, 0);
	FAILS(FM_E_DATA_LOSS, fm_neighbours_decode(wire, len, 3, 1, got, &n, &err)); /* of an endpoint that there is not */
	FAILS(FM_E_DATA_LOSS, fm_neighbours_decode(wire, len, 2, 2, got, &n, &err));
	FAILS(FM_E_DATA_LOSS, fm_neighbours_decode(wire, len - 1, 3, 2, got, &n, &err));
	FAILS(FM_E_DATA_LOSS, fm_neighbours_decode(wire, 0, 0, 2, got, &n, &err));
	FAILS(FM_E_DATA_LOSS, fm_neighbours_decode(wire, 4, UINT64_MAX / 24 + 1, 2, got, &n, &err));
	FAILS(FM_E_DATA_LOSS, fm_neighbours_decode(wire, 12, 1, 1, got, &n, &err)); /* the layout of old */
	FAILS(FM_E_DATA_LOSS, fm_neighbours_decode(wire, sizeof(wire) + 24, FM_MAX_NEIGHBOURS + 1, 2, got, &n, &err));
	for (size_t i = 0; i < 4; i++) {
		wire[i] ^= 1; /* another layout, or what is nothing yet */
		FAILS(FM_E_DATA_LOSS, fm_neighbours_decode(wire, len, 3, 2, got, &n, &err));
		wire[i] ^= 1;
	}
	wire[4] = 5;
	FAILS(FM_E_DATA_LOSS, fm_neighbours_decode(wire, len, 3, 2, got, &n, &err));
	wire[4] = 4;
	wire[4 + 23] = 1; /* behind an IPv4 address */
	FAILS(FM_E_DATA_LOSS, fm_neighbours_decode(wire, len, 3, 2, got, &n, &err));
	wire[4 + 23] = 0;
	wire[4 + 2] = 3; /* a group */
	FAILS(FM_E_DATA_LOSS, fm_neighbours_decode(wire, len, 3, 2, got, &n, &err));
	for (size_t i = 0; i < FM_ARRAY_SIZE(nobody); i++) {
		assert_int_equal(inet_pton(AF_INET6, nobody[i], &v[1].address6), 1);
		len = fm_neighbours_encode(v, 3, wire);
		FAILS(FM_E_DATA_LOSS, fm_neighbours_decode(wire, len, 3, 2, got, &n, &err));
	}
}

/* ---- what prepare makes ---- */

static int read_conf(void *userdata, struct fm_error *err)
{
	struct step *s = userdata;
	_fm_free_ char *text = NULL, *path = fm_xasprintf("/proc/sys/net/ipv6/conf/eth0/%s", s->a);

	if (fm_read_file(path, 64, &text, NULL, err) < 0)
		return -1;
	s->n = (unsigned)strtoul(text, NULL, 10);
	return 0;
}

static unsigned conf_of(const struct lab *lab, int ns, const char *name)
{
	struct step s = { .a = name };

	OK(fm_netns_call(lab->ns[ns], read_conf, &s, &err));
	return s.n;
}

/* a: where to. Is there a way, and from which address? */
static int route_to(void *userdata, struct fm_error *err)
{
	struct step *s = userdata;
	struct sockaddr_in6 to = { .sin6_family = AF_INET6, .sin6_port = htons(9) }, self;
	_fm_close_ int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(self);
	char text[INET6_ADDRSTRLEN];

	assert_int_equal(inet_pton(AF_INET6, s->a, &to.sin6_addr), 1);
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0 || getsockname(fd, (struct sockaddr *)&self, &len) < 0)
		return fm_error_errno(err, errno, "connect");
	assert_string_equal(inet_ntop(AF_INET6, &self.sin6_addr, text, sizeof(text)), CT_ADDRESS6);
	return 0;
}

/* b: address. A packet to oneself comes back at once: bound, and its local route is there. */
static int echo_self(void *userdata, struct fm_error *err)
{
	struct step *s = userdata;
	struct sockaddr_in6 self = { .sin6_family = AF_INET6 };
	_fm_close_ int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(self);
	char c;

	assert_int_equal(inet_pton(AF_INET6, s->b, &self.sin6_addr), 1);
	if (bind(fd, (struct sockaddr *)&self, len) < 0 || getsockname(fd, (struct sockaddr *)&self, &len) < 0 ||
	    sendto(fd, "x", 1, 0, (struct sockaddr *)&self, len) != 1 || recv(fd, &c, 1, MSG_DONTWAIT) != 1)
		return fm_error_errno(err, errno, "to oneself");
	return 0;
}

static void test_prepared6(void **state)
{
	struct lab *lab = *state;
	struct fm_endpoint_config c = config6(CT_ADDRESS "/24");
	struct fm_endpoint *e;

	if (!need_root())
		skip();
	for (int i = 0; i < 20; i++) {
		e = endpoint_for(lab, 0, &c);
		OK(on_host(lab, 0, do_prepare, (struct end_call){ .e = e }, &err));
		in(lab, CSRC, echo_self, (struct step){ .b = CT_ADDRESS6 });
		in(lab, CSRC, route_to, (struct step){ .a = "2001:db8::1" });
		OK(on_host(lab, 0, do_prepare, (struct end_call){ .e = e }, &err)); /* the same pair */
		in(lab, CSRC, echo_self, (struct step){ .b = CT_ADDRESS6 });
		assert_int_equal(conf_of(lab, CSRC, "accept_ra"), 0);
		assert_int_equal(conf_of(lab, CSRC, "autoconf"), 0);
		OK(on_host(lab, 0, do_remove, (struct end_call){ .name = c.host_ifname }, &err));
		fm_endpoint_free(e);
	}
	assert_int_equal(count_on(lab, 0), 0);
}

static void expect_duplicate(struct lab *lab, const char *address6, const char *who)
{
	struct fm_endpoint_config c = config6(NULL);
	struct fm_error why = FM_ERROR_INIT;
	struct fm_endpoint *e;

	c.gateway6 = in6addr_any;
	assert_int_equal(inet_pton(AF_INET6, address6, &c.address6), 1);
	e = endpoint_for(lab, 1, &c);
	assert_int_equal(on_host(lab, 1, do_prepare, (struct end_call){ .e = e, .check = true }, &why), -1);
	if (why.code != FM_E_ALREADY_EXISTS || !strstr(why.message, address6) || !strstr(why.message, who))
		fail_msg("%s: %s", address6, why.message);
	assert_int_equal(count_on(lab, 1), 0);
	fm_endpoint_free(e);
}

static void test_duplicate6(void **state)
{
	struct lab *lab = *state;
	char mac[18];

	if (!need_root())
		skip();
	fm_mac_format(link_of(lab, CLI, "eth0").mac, mac);
	expect_duplicate(lab, CLI_ADDRESS6, mac);
	in(lab, DST, do_address, (struct step){ .a = "br0", .b = "fd77::2", .n = 64 });
	expect_duplicate(lab, "fd77::2", "host's own");
}

static void test_duplicate6_knows_the_container(void **state)
{
	struct lab *lab = *state;

	if (!need_root())
		skip();
	open_at(lab, 0);
	assert_true(echo(lab, CT_ADDRESS6, '0'));
	OK(on_host(lab, 1, do_prepare, (struct end_call){ .e = lab->end[1], .check = true }, &err));
	assert_true(echo(lab, CT_ADDRESS6, '0'));
	assert_true(echo(lab, CT_ADDRESS, '0'));
}

/* ---- announcing ---- */

static void await_switch_port(struct lab *lab, const char *port)
{
	int index = link_of(lab, SW, port).index;
	uint64_t deadline = fm_now_ms() + WAIT_MS;

	while (fdb_in(lab, SW).ifindex != index && fm_deadline_left_ms(deadline) > 0)
		fm_pause_ms(1);
	assert_int_equal(fdb_in(lab, SW).ifindex, index);
}

struct group_search {
	int port;
	bool found;
};

static int mdb_cb(const struct nlmsghdr *h, void *userdata)
{
	static const struct in6_addr group = { .s6_addr = { 0xff, 0x02, [11] = 1, 0xff, 0xab, 0xcd, 0xef } };
	struct group_search *s = userdata;
	const struct nlattr *table, *entry, *info;

	mnl_attr_for_each (table, h, sizeof(struct br_port_msg)) {
		if (mnl_attr_get_type(table) != MDBA_MDB)
			continue;
		mnl_attr_for_each_nested (entry, table) {
			mnl_attr_for_each_nested (info, entry) {
				const struct br_mdb_entry *e = mnl_attr_get_payload(info);

				s->found |= (int)e->ifindex == s->port && e->addr.proto == htons(ETH_P_IPV6) &&
				            memcmp(&e->addr.u.ip6, &group, sizeof(group)) == 0;
			}
		}
	}
	return MNL_CB_OK;
}

static int do_mdb(void *userdata, struct fm_error *err)
{
	_fm_nl_ struct fm_nl *nl = NULL;
	struct br_port_msg all = { .family = PF_BRIDGE };
	int rc;

	assert_int_equal(fm_nl_open(0, &nl, err), 0);
	rc = fm_nl_dump(nl, RTM_GETMDB, &all, sizeof(all), mdb_cb, userdata, NULL);
	return rc < 0 ? fm_nl_fail(nl, rc, err, "laboratory: multicast table") : 0;
}

static void await_group(struct lab *lab, const char *port)
{
	struct group_search s = { .port = link_of(lab, SW, port).index };
	uint64_t deadline = fm_now_ms() + WAIT_MS;

	do {
		OK(fm_netns_call(lab->ns[SW], do_mdb, &s, &err));
		if (!s.found)
			fm_pause_ms(1);
	} while (!s.found && fm_deadline_left_ms(deadline) > 0);
	assert_true(s.found);
}

/* The MAC that the client has for the container's IPv6 address; put: first write one there that is wrong */
static int do_client_entry(void *userdata, struct fm_error *why)
{
	struct fm_neighbour *v = userdata;
	struct fm_endpoint *e = NULL;
	struct fm_endpoint_config c = config6(NULL);
	struct fm_neighbour all[64];
	size_t n = FM_ARRAY_SIZE(all);

	/* the client's own eth0, looked at as if it were a container's */
	OK(fm_endpoint_new(&c, "/proc/thread-self/ns/net", &e, &err));
	if (v->mac[0]) {
		OK(fm_endpoint_set_neighbours(e, v, 1, &err));
	}
	OK(fm_endpoint_neighbours(e, all, &n, &err));
	fm_endpoint_free(e);
	for (size_t i = 0; i < n; i++)
		if (IN6_ARE_ADDR_EQUAL(&all[i].address6, &v->address6))
			*v = all[i];
	return 0;
}

/* A switch that delivers groups to who has asked for them only learns where this one is wanted now. The address is one that the kernel has not, and will not report itself. */
static void test_group_report(void **state)
{
	struct lab *lab = *state;
	struct fm_endpoint_config c = config6(NULL);
	struct fm_endpoint *e;

	if (!need_root())
		skip();
	assert_int_equal(inet_pton(AF_INET6, "fd77::abab:cdef", &c.address6), 1);
	c.gateway6 = in6addr_any;
	e = endpoint_for(lab, 1, &c);
	OK(on_host(lab, 1, do_call, (struct end_call){ .e = e, .fn = fm_endpoint_attach }, &err));
	OK(fm_endpoint_open(e, &err));
	OK(fm_endpoint_announce(e, &err));
	await_group(lab, "s-dst");
	OK(fm_endpoint_close(e, &err));
	fm_endpoint_free(e);
}

/* IPv6 alone: its advertisement moves the switch's entry, and corrects a neighbour that knows it otherwise. */
static void test_announce6(void **state)
{
	struct lab *lab = *state;
	struct fm_endpoint_config c = config6(NULL);
	struct fm_neighbour v = { .family = AF_INET6, .mac = { 2, 6, 6, 6, 6, 6 }, .address6 = c.address6 };
	uint64_t deadline;

	if (!need_root())
		skip();
	OK(fm_endpoint_open(lab->end[0], &err));
	OK(fm_endpoint_announce(lab->end[0], &err));
	await_switch_port(lab, "s-src");
	assert_true(echo(lab, CT_ADDRESS6, '0'));
	OK(fm_endpoint_close(lab->end[0], &err));
	OK(fm_netns_call(lab->ns[CLI], do_client_entry, &v, &err));
	assert_int_equal(v.mac[1], 6);
	OK(fm_endpoint_open(lab->end[1], &err));
	OK(fm_endpoint_announce(lab->end[1], &err));
	await_switch_port(lab, "s-dst");
	deadline = fm_now_ms() + WAIT_MS;
	do {
		v.mac[0] = 0;
		OK(fm_netns_call(lab->ns[CLI], do_client_entry, &v, &err));
	} while (memcmp(v.mac, c.mac, 6) != 0 && fm_deadline_left_ms(deadline) > 0);
	assert_memory_equal(v.mac, c.mac, 6);
	assert_true(echo(lab, CT_ADDRESS6, '1'));
}

/* ---- connections ---- */

struct connection {
	const char *address;
	int client, server, listener;
	/* of the server's end, between the two hosts */
	uint32_t seq[2]; /* received, sent */
	struct tcp_repair_window window;
	struct tcp_info info;
	int mss, timestamp;
	struct sockaddr_in6 self, peer;
};

static struct sockaddr_in6 tcp_address(const char *ip)
{
	struct sockaddr_in6 a = udp_address(ip);

	a.sin6_port = htons(TCP_PORT);
	return a;
}

static int tcp_socket(void)
{
	int off = 0, on = 1, fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)), 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)), 0);
	return fd;
}

static int do_tcp_listen(void *userdata, struct fm_error *err)
{
	struct connection *c = userdata;
	struct sockaddr_in6 at = tcp_address(c->address);

	c->listener = tcp_socket();
	if (bind(c->listener, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(c->listener, 1) < 0)
		return fm_error_errno(err, errno, "laboratory: listen");
	return 0;
}

static int do_tcp_connect(void *userdata, struct fm_error *err)
{
	struct connection *c = userdata;
	struct sockaddr_in6 to = tcp_address(c->address);
	struct timeval limit = { .tv_sec = WAIT_MS / 1000 };

	c->client = tcp_socket();
	assert_int_equal(setsockopt(c->client, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
	if (connect(c->client, (struct sockaddr *)&to, sizeof(to)) < 0)
		return fm_error_errno(err, errno, "laboratory: connect");
	return 0;
}

static void repair(int fd, int mode)
{
	assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &mode, sizeof(mode)), 0);
}

static void get_tcp(int fd, int name, void *ret, socklen_t len)
{
	assert_int_equal(getsockopt(fd, IPPROTO_TCP, name, ret, &len), 0);
}

static void set_tcp(int fd, int name, const void *value, socklen_t len)
{
	assert_int_equal(setsockopt(fd, IPPROTO_TCP, name, value, len), 0);
}

/* Its queues are empty: everything was acknowledged before. */
static void take_out(struct connection *c)
{
	socklen_t len = sizeof(c->self);

	repair(c->server, TCP_REPAIR_ON);
	get_tcp(c->server, TCP_INFO, &c->info, sizeof(c->info));
	get_tcp(c->server, TCP_MAXSEG, &c->mss, sizeof(c->mss));
	get_tcp(c->server, TCP_TIMESTAMP, &c->timestamp, sizeof(c->timestamp));
	get_tcp(c->server, TCP_REPAIR_WINDOW, &c->window, sizeof(c->window));
	for (int q = 0; q < 2; q++) {
		int queue = q == 0 ? TCP_RECV_QUEUE : TCP_SEND_QUEUE;

		set_tcp(c->server, TCP_REPAIR_QUEUE, &queue, sizeof(queue));
		get_tcp(c->server, TCP_QUEUE_SEQ, &c->seq[q], sizeof(c->seq[q]));
	}
	assert_int_equal(getsockname(c->server, (struct sockaddr *)&c->self, &len), 0);
	assert_int_equal(getpeername(c->server, (struct sockaddr *)&c->peer, &len), 0);
	(void)close(c->server); /* in repair: nothing is sent */
	(void)close(c->listener);
	c->server = c->listener = -1;
}

static int do_put_in(void *userdata, struct fm_error *err)
{
	struct connection *c = userdata;
	struct tcp_repair_opt o[4] = { { .opt_code = 2 /* MSS */, .opt_val = (uint32_t)c->mss } };
	size_t n = 1;

	c->server = tcp_socket();
	repair(c->server, TCP_REPAIR_ON);
	for (int q = 0; q < 2; q++) {
		int queue = q == 0 ? TCP_RECV_QUEUE : TCP_SEND_QUEUE;

		set_tcp(c->server, TCP_REPAIR_QUEUE, &queue, sizeof(queue));
		set_tcp(c->server, TCP_QUEUE_SEQ, &c->seq[q], sizeof(c->seq[q]));
	}
	if (bind(c->server, (struct sockaddr *)&c->self, sizeof(c->self)) < 0 ||
	    connect(c->server, (struct sockaddr *)&c->peer, sizeof(c->peer)) < 0)
		return fm_error_errno(err, errno, "laboratory: restore");
	if (c->info.tcpi_options & TCPI_OPT_WSCALE)
		o[n++] = (struct tcp_repair_opt){ .opt_code = 3,
			                          .opt_val = c->info.tcpi_snd_wscale | (uint32_t)c->info.tcpi_rcv_wscale << 16 };
	if (c->info.tcpi_options & TCPI_OPT_SACK)
		o[n++] = (struct tcp_repair_opt){ .opt_code = 4 };
	if (c->info.tcpi_options & TCPI_OPT_TIMESTAMPS)
		o[n++] = (struct tcp_repair_opt){ .opt_code = 8 };
	set_tcp(c->server, TCP_REPAIR_OPTIONS, o, (socklen_t)(n * sizeof(o[0])));
	set_tcp(c->server, TCP_TIMESTAMP, &c->timestamp, sizeof(c->timestamp));
	set_tcp(c->server, TCP_REPAIR_WINDOW, &c->window, sizeof(c->window));
	repair(c->server, TCP_REPAIR_OFF); /* sends a probe */
	return 0;
}

static void passes(int from, int to, const char *text)
{
	struct pollfd p = { .fd = to, .events = POLLIN };
	char buf[32] = "";

	assert_int_equal(send(from, text, strlen(text), MSG_NOSIGNAL), strlen(text));
	assert_int_equal(poll(&p, 1, WAIT_MS), 1);
	assert_int_equal(recv(to, buf, sizeof(buf) - 1, 0), strlen(text));
	assert_string_equal(buf, text);
}

static void await_acknowledged(int fd)
{
	uint64_t deadline = fm_now_ms() + WAIT_MS;
	struct tcp_info i;

	do {
		get_tcp(fd, TCP_INFO, &i, sizeof(i));
		if (i.tcpi_unacked)
			fm_pause_ms(1);
	} while (i.tcpi_unacked && fm_deadline_left_ms(deadline) > 0);
	assert_int_equal(i.tcpi_unacked, 0);
}

/* Has the container asked for somebody's MAC? Its announcements are no questions. */
static unsigned questions(int tap)
{
	const uint8_t mac[6] = { 2, 0x77, 0, 0, 1, 0 };
	unsigned asked = 0;
	uint8_t f[128];
	ssize_t n;

	while ((n = recv(tap, f, sizeof(f), MSG_DONTWAIT)) >= 0) {
		if (n < 60 || memcmp(f + 6, mac, 6) != 0)
			continue;
		if (f[12] == 8 && f[13] == 6)
			asked += f[21] == ARPOP_REQUEST && memcmp(f + 28, f + 38, 4) != 0;
		else
			asked += f[12] == 0x86 && f[13] == 0xdd && f[20] == IPPROTO_ICMPV6 && f[54] == ND_NEIGHBOR_SOLICIT;
	}
	return asked;
}

static void test_connections_move(void **state)
{
	struct lab *lab = *state;
	struct connection c[2] = { { .address = CT_ADDRESS }, { .address = CT_ADDRESS6 } };
	struct fm_neighbour v[FM_MAX_NEIGHBOURS];
	size_t n = FM_ARRAY_SIZE(v), found[2] = { 0 };
	_fm_close_ int tap = -1;

	if (!need_root())
		skip();
	open_at(lab, 0);
	for (int i = 0; i < 2; i++) {
		OK(fm_netns_call(lab->ns[CSRC], do_tcp_listen, &c[i], &err));
		OK(fm_netns_call(lab->ns[CLI], do_tcp_connect, &c[i], &err));
		c[i].server = accept(c[i].listener, NULL, NULL);
		passes(c[i].client, c[i].server, "question");
		passes(c[i].server, c[i].client, "answer");
		await_acknowledged(c[i].server);
	}
	OK(fm_endpoint_close(lab->end[0], &err));
	for (int i = 0; i < 2; i++) {
		take_out(&c[i]);
		/* into the freeze: lost, and repeated by the client's kernel */
		assert_int_equal(send(c[i].client, "frozen", 6, MSG_NOSIGNAL), 6);
		OK(fm_netns_call(lab->ns[CDST], do_put_in, &c[i], &err));
	}
	OK(fm_endpoint_neighbours(lab->end[0], v, &n, &err));
	for (size_t i = 0; i < n; i++)
		found[v[i].family == AF_INET6]++;
	assert_true(found[0] > 0 && found[1] > 0);
	OK(fm_endpoint_set_neighbours(lab->end[1], v, n, &err));
	tap = watch_in(lab, CDST, "eth0", ETH_P_ALL);
	open_at(lab, 1);
	for (int i = 0; i < 2; i++) {
		struct pollfd p = { .fd = c[i].server, .events = POLLIN };
		char buf[16] = "";

		passes(c[i].server, c[i].client, "from the destination");
		assert_int_equal(poll(&p, 1, WAIT_MS), 1);
		assert_int_equal(recv(c[i].server, buf, sizeof(buf), 0), 6);
		assert_string_equal(buf, "frozen");
		passes(c[i].client, c[i].server, "again");
		(void)close(c[i].client);
		(void)close(c[i].server);
	}
	assert_int_equal(questions(tap), 0); /* all that it had to know came with it */
}

/* A family that the endpoint has no address of, and what is nobody's address. */
static void test_neighbours6(void **state)
{
	struct lab *lab = *state;
	struct fm_neighbour v = { .family = AF_INET, .mac = { 2, 0, 0, 0, 0, 9 }, .address.s_addr = inet_addr("10.77.0.9") };

	if (!need_root())
		skip();
	FAILS(FM_E_INVALID_ARGUMENT, fm_endpoint_set_neighbours(lab->end[0], &v, 1, &err));
	v = (struct fm_neighbour){ .family = AF_INET6, .mac = { 2, 0, 0, 0, 0, 9 } };
	assert_int_equal(inet_pton(AF_INET6, "ff02::9", &v.address6), 1);
	FAILS(FM_E_INVALID_ARGUMENT, fm_endpoint_set_neighbours(lab->end[0], &v, 1, &err));
	assert_int_equal(inet_pton(AF_INET6, "fe80::9", &v.address6), 1);
	OK(fm_endpoint_set_neighbours(lab->end[0], &v, 1, &err));
}

/* Closed: neither the client nor the host itself, which has IPv6 on its bridge, hears the container, even when the container knows the MAC of the loose end. Closed inbound: what is said to all does not come in. */
static void test_closed6(void **state)
{
	struct lab *lab = *state;
	struct sockaddr_in6 to_client = udp_address(CLI_ADDRESS6), to_host = udp_address("fd77::1"), client = { 0 };
	struct fm_neighbour host = { .family = AF_INET6, .address6 = to_host.sin6_addr };
	struct echo e = { .seq = 99 };
	socklen_t len = sizeof(client);
	_fm_close_ int sink = -1, tap = -1;
	char name[IFNAMSIZ];
	uint8_t f[128] = { 0 };
	unsigned before;

	if (!need_root())
		skip();
	fm_endpoint_host_ifname("web", 0, name);
	in(lab, SRC, do_address, (struct step){ .a = "br0", .b = "fd77::1", .n = 64 });
	in(lab, SRC, do_ready6, (struct step){ .b = "fd77::1" });
	sink = udp_in(lab, SRC, ECHO_PORT);
	open_at(lab, 0);
	assert_true(echo(lab, CT_ADDRESS6, '0'));
	assert_int_equal(getsockname(lab->client, (struct sockaddr *)&client, &len), 0);
	to_client.sin6_port = client.sin6_port;
	OK(fm_endpoint_close_inbound(lab->end[0], &err));
	before = atomic_load(&lab->at[0].received);
	tap = watch_in(lab, CSRC, "eth0", ETH_P_IPV6);
	open_at(lab, 1); /* advertises to all nodes */
	assert_int_equal(recv(tap, f, sizeof(f), MSG_DONTWAIT), -1);
	OK(fm_endpoint_close(lab->end[1], &err));
	OK(fm_endpoint_close(lab->end[0], &err));
	(void)close(tap);
	tap = watch_in(lab, SRC, name, ETH_P_IPV6);
	memcpy(host.mac, link_of(lab, SRC, name).mac, 6);
	OK(fm_endpoint_set_neighbours(lab->end[0], &host, 1, &err));
	for (int i = 0; i < 50; i++) {
		(void)send_seq(lab, CT_ADDRESS6);
		(void)sendto(lab->at[0].fd, &e, sizeof(e), 0, (struct sockaddr *)&to_client, sizeof(to_client));
		assert_int_equal(sendto(lab->at[0].fd, &e, sizeof(e), 0, (struct sockaddr *)&to_host, sizeof(to_host)), sizeof(e));
	}
	/* they have come to the loose end … */
	while (f[20] != IPPROTO_UDP || memcmp(f + 38, &to_host.sin6_addr, 16) != 0)
		assert_true(recv(tap, f, sizeof(f), 0) > 0);
	open_at(lab, 1);
	assert_true(echo(lab, CT_ADDRESS6, '1'));
	assert_int_equal(atomic_load(&lab->at[0].received), before);
	assert_int_equal(recv(sink, &e, sizeof(e), MSG_DONTWAIT), -1); /* … and no further */
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

/* Both families, in the order in which they came. */
static void test_hold6(void **state)
{
	struct lab *lab = *state;
	struct hold_call c = { .cfg = config6(CT_ADDRESS "/24") };
	const uint8_t mac[6] = { 2, 0x77, 0, 0, 1, 0 };
	_fm_close_ int tap = -1;
	uint32_t seq[20];
	size_t released;

	if (!need_root())
		skip();
	open_at(lab, 0);
	assert_true(echo(lab, CT_ADDRESS, '0') && echo(lab, CT_ADDRESS6, '0'));
	OK(fm_netns_call(lab->ns[SRC], do_hold, &c, &err));
	OK(fm_endpoint_close_inbound(lab->end[0], &err));
	tap = watch_in(lab, SRC, "eth0", ETH_P_ALL);
	for (size_t i = 0; i < FM_ARRAY_SIZE(seq); i++)
		seq[i] = send_seq(lab, i % 2 ? CT_ADDRESS6 : CT_ADDRESS);
	for (size_t i = 0; i < FM_ARRAY_SIZE(seq);) {
		uint8_t f[128];
		assert_true(recv(tap, f, sizeof(f), MSG_TRUNC) > 0);
		/* UDP of either family */
		i += memcmp(f, mac, 6) == 0 &&
		     ((f[12] == 8 && f[13] == 0 && f[23] == IPPROTO_UDP) || (f[12] == 0x86 && f[20] == IPPROTO_UDP));
	}
	OK(fm_endpoint_close(lab->end[0], &err));
	open_at(lab, 1);
	released = fm_hold_release(c.hold);
	assert_true(released >= FM_ARRAY_SIZE(seq)); /* solicitations of a neighbour that checks may be among them */
	for (size_t i = 0; i < FM_ARRAY_SIZE(seq); i++)
		assert_true(answered(lab, seq[i], '1'));
	fm_hold_free(c.hold);
}

/* ---- several endpoints ---- */

struct set_call {
	struct fm_endpoints *s;
	const char *what;
	bool check;
};

static int do_set(void *userdata, struct fm_error *err)
{
	struct set_call *c = userdata;

	if (fm_endpoints_prepare(c->s, c->check, err) < 0)
		return -1;
	return fm_endpoints_await_free(c->s, err);
}

static struct fm_endpoints *set_for(struct lab *lab, int h, const struct fm_endpoint_config *c, size_t n)
{
	struct fm_endpoints *s = NULL;
	char path[128];

	OK(fm_endpoints_new(c, n, ns_path(lab, CSRC + h, path), &s, &err));
	return s;
}

static void remove_two(struct lab *lab, int h)
{
	for (unsigned i = 0; i < 2; i++) {
		char name[IFNAMSIZ];

		fm_endpoint_host_ifname("web", i, name);
		OK(on_host(lab, h, do_remove, (struct end_call){ .name = name }, &err));
	}
	assert_int_equal(count_on(lab, h), 0);
}

static int expect_none(struct lab *lab, const struct fm_endpoint_config c[2], bool check, enum fm_code expected)
{
	struct fm_endpoints *s = set_for(lab, 1, c, 2);
	struct set_call call = { .s = s, .check = check };

	FAILS(expected, fm_netns_call(lab->ns[DST], do_set, &call, &err));
	assert_int_equal(count_on(lab, 1), 0);
	fm_endpoints_free(s);
	return 0;
}

static int do_attach_and_close(void *userdata, struct fm_error *err)
{
	return fm_endpoints_attach(userdata, err) < 0 ? -1 : fm_endpoints_close(userdata, err);
}

static unsigned master_of(const struct lab *lab, int h, unsigned index)
{
	char name[IFNAMSIZ];

	fm_endpoint_host_ifname("web", index, name);
	return (unsigned)link_of(lab, SRC + h, name).master;
}

/* Prepared, opened, closed and refused together. */
static void test_two(void **state)
{
	struct lab *lab = *state;
	struct fm_endpoint_config c[2], bad[2];
	struct fm_endpoints *s;
	struct set_call call;

	if (!need_root())
		skip();
	two_configs(c);
	expect_none(lab, c, false, FM_E_FAILED_PRECONDITION); /* there is no br1 yet, when the first is prepared already */
	in(lab, DST, do_bridge, (struct step){ .a = "br1" });
	in(lab, DST, do_plug, (struct step){ .a = "br1" });
	in(lab, DST, do_address, (struct step){ .a = "br1", .b = "fd78::2", .n = 64 });
	memcpy(bad, c, sizeof(bad));
	assert_int_equal(inet_pton(AF_INET6, "fd78::2", &bad[1].address6), 1);
	expect_none(lab, bad, true, FM_E_ALREADY_EXISTS); /* known at once */
	memcpy(bad, c, sizeof(bad));
	bad[0].gateway.s_addr = 0;
	assert_int_equal(inet_pton(AF_INET6, CLI_ADDRESS6, &bad[0].address6), 1);
	expect_none(lab, bad, true, FM_E_ALREADY_EXISTS); /* only asking tells */

	s = set_for(lab, 1, c, 2);
	call = (struct set_call){ .s = s, .check = true };
	OK(fm_netns_call(lab->ns[DST], do_set, &call, &err));
	assert_int_equal(count_on(lab, 1), 2);
	assert_false(fm_endpoints_is_open(s));
	OK(fm_endpoints_open(s, &err));
	OK(fm_endpoints_announce(s, &err));
	assert_int_equal(master_of(lab, 1, 0), link_of(lab, DST, "br0").index);
	assert_int_equal(master_of(lab, 1, 1), link_of(lab, DST, "br1").index);
	OK(fm_endpoints_close_inbound(s, &err));
	assert_true(fm_endpoints_is_open(s));
	OK(fm_endpoints_close(s, &err));
	assert_false(fm_endpoints_is_open(s));
	/* the second cannot be opened: neither is */
	in(lab, DST, do_delete, (struct step){ .a = "br1" });
	FAILS(FM_E_FAILED_PRECONDITION, fm_endpoints_open(s, &err));
	assert_int_equal(master_of(lab, 1, 0), 0);
	fm_endpoints_free(s);
	/* a fence after a crash, by name */
	s = set_for(lab, 1, c, 2);
	OK(fm_netns_call(lab->ns[DST], do_attach_and_close, s, &err));
	fm_endpoints_free(s);
	remove_two(lab, 1);
}

/* Each entry comes back to where it was. */
static void test_two_tables(void **state)
{
	struct lab *lab = *state;
	struct fm_neighbour v[4] = { { .family = AF_INET, .mac = { 2, 0, 0, 0, 0, 1 }, .address.s_addr = inet_addr("10.77.0.9") },
		                     { .endpoint = 1,
		                       .family = AF_INET,
		                       .mac = { 2, 0, 0, 0, 0, 2 },
		                       .address.s_addr = inet_addr("10.78.0.9") },
		                     { .endpoint = 1, .family = AF_INET6, .mac = { 2, 0, 0, 0, 0, 3 } } },
	                    got[16];
	size_t n = FM_ARRAY_SIZE(got), one = 1, seen = 0;
	struct fm_endpoint_config c[2];
	struct fm_endpoints *s;
	struct set_call call;

	if (!need_root())
		skip();
	assert_int_equal(inet_pton(AF_INET6, "fd78::9", &v[2].address6), 1);
	two_configs(c);
	memcpy(c[1].bridge, "br0", 4);
	s = set_for(lab, 1, c, 2);
	call = (struct set_call){ .s = s };
	OK(fm_netns_call(lab->ns[DST], do_set, &call, &err));
	OK(fm_endpoints_set_neighbours(s, v, 3, &err));
	OK(fm_endpoints_neighbours(s, got, &n, &err));
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < 3; k++)
			seen += got[i].endpoint == v[k].endpoint && got[i].family == v[k].family && memcmp(got[i].mac, v[k].mac, 6) == 0;
	assert_int_equal(seen, 3);
	OK(fm_endpoints_neighbours(s, got, &one, &err));
	assert_int_equal(one, 1);
	v[3] = v[0];
	v[3].endpoint = 2;
	FAILS(FM_E_INVALID_ARGUMENT, fm_endpoints_set_neighbours(s, v, 4, &err));
	FAILS(FM_E_INVALID_ARGUMENT, fm_endpoints_set_neighbours(NULL, v, 1, &err));
	OK(fm_endpoints_set_neighbours(NULL, NULL, 0, &err));
	fm_endpoints_free(s);
	remove_two(lab, 1);
}

/* A container without endpoints. */
static void test_none(void **state)
{
	struct fm_endpoints *s = (struct fm_endpoints *)state;
	struct fm_neighbour v[1];
	size_t n = 1;

	OK(fm_endpoints_new(NULL, 0, "/nowhere", &s, &err));
	assert_null(s);
	OK(fm_endpoints_prepare(s, true, &err));
	OK(fm_endpoints_await_free(s, &err));
	OK(fm_endpoints_attach(s, &err));
	OK(fm_endpoints_open(s, &err));
	OK(fm_endpoints_announce(s, &err));
	OK(fm_endpoints_close_inbound(s, &err));
	OK(fm_endpoints_close(s, &err));
	OK(fm_endpoints_neighbours(s, v, &n, &err));
	assert_int_equal(n, 0);
	assert_false(fm_endpoints_is_open(s));
	fm_endpoints_free(s);
}

#define WITH_BOTH(t)  cmocka_unit_test_setup_teardown(t, both_setup, ends_teardown)
#define WITH_ONLY6(t) cmocka_unit_test_setup_teardown(t, only6_setup, ends_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_config6),
		cmocka_unit_test(test_together),
		cmocka_unit_test(test_frames),
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_prepared6),
		cmocka_unit_test(test_duplicate6),
		WITH_BOTH(test_duplicate6_knows_the_container),
		WITH_ONLY6(test_announce6),
		WITH_ONLY6(test_group_report),
		WITH_BOTH(test_connections_move),
		WITH_ONLY6(test_neighbours6),
		WITH_BOTH(test_closed6),
		WITH_BOTH(test_hold6),
		cmocka_unit_test(test_two),
		cmocka_unit_test(test_two_tables),
		cmocka_unit_test(test_none),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
