/* SPDX-License-Identifier: MIT */
/*
 * test-hold.c - what is sent into the freeze of a routed container goes on by whatever way the source has to it afterwards: the tunnel, or its own port after a rollback; and not back to who sent it there.
 * (By a bridge: test-endpoint.c.)
 */
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>

#include "router-lab.h"

#include "network/hold.h"
#include "network/next-hop.h"

#define N      20
#define CT_MAC "02:77:00:00:01:00"

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

struct call {
	struct fm_endpoint_config cfg;
	struct fm_hold *hold;
	struct fm_next_hop hop;
	int rc;
};

static int do_hold(void *userdata, struct fm_error *e)
{
	struct call *c = userdata;
	c->hold = fm_hold_start(&c->cfg, 1);
	return c->hold ? 0 : fm_error_set(e, FM_E_INTERNAL, "no hold");
}

struct wanted {
	int family, type, fd;
};

static int do_open(void *userdata, struct fm_error *e)
{
	struct wanted *w = userdata;
	w->fd = socket(w->family, w->type | SOCK_CLOEXEC, 0);
	return w->fd < 0 ? fm_error_errno(e, errno, "socket") : 0;
}

static int socket_of(const struct move_lab *lab, const char *ns, int family, int type)
{
	struct wanted w = { .family = family, .type = type };
	assert_ok(fm_netns_call(lab_ns(lab, ns), do_open, &w, &err));
	return w.fd;
}

static struct call both_families(void)
{
	struct call c = { .cfg = { .prefix_len = 32, .prefix6_len = 128 } };
	assert_int_equal(inet_pton(AF_INET, CT4, &c.cfg.address), 1);
	assert_int_equal(inet_pton(AF_INET6, CT6, &c.cfg.address6), 1);
	return c;
}

static int udp_in(const struct move_lab *lab, const char *ns, int family, const char *address)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(PORT) };
	int fd = socket_of(lab, ns, family, SOCK_DGRAM);
	assert_int_equal(inet_pton(family, address, family == AF_INET ? (void *)&v4.sin_addr : (void *)&v6.sin6_addr), 1);
	const struct sockaddr *a = family == AF_INET ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6;
	socklen_t n = family == AF_INET ? sizeof(v4) : sizeof(v6);
	int on = 1;
	if (family == AF_INET6)
		assert_sys(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)));
	assert_sys(fm_streq(ns, "ct") ? bind(fd, a, n) : connect(fd, a, n));
	return fd;
}

/* Numbers 0 to N - 1, each as soon as the source has taken in the one before. */
static void send_all(int fd, int tap)
{
	for (uint32_t i = 0; i < N; i++) {
		char heard[2048];
		assert_int_equal(send(fd, &i, sizeof(i), 0), sizeof(i));
		assert_true(recv(tap, heard, sizeof(heard), 0) > 0);
	}
}

static void expect_all(int fd)
{
	for (uint32_t i = 0; i < N; i++) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		uint32_t got = UINT32_MAX;
		assert_int_equal(poll(&p, 1, WAIT_MS), 1);
		assert_int_equal(recv(fd, &got, sizeof(got), 0), sizeof(got));
		assert_int_equal(got, i);
	}
}

/* Hears what comes in by the source's uplink for the container, and nothing else */
static int tap_in(const struct move_lab *lab, int family)
{
	struct sockaddr_ll where = { .sll_family = AF_PACKET };
	int on = 1, fd = socket_of(lab, "src", AF_PACKET, SOCK_DGRAM);
	where.sll_protocol = htons(family == AF_INET ? ETH_P_IP : ETH_P_IPV6);
	assert_sys(setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on)));
	struct sock_filter udp4[] = { BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 9), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_UDP, 0, 1),
		                      BPF_STMT(BPF_RET | BPF_K, 0xffff), BPF_STMT(BPF_RET | BPF_K, 0) };
	struct sock_filter udp6[] = { BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 6), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_UDP, 0, 1),
		                      BPF_STMT(BPF_RET | BPF_K, 0xffff), BPF_STMT(BPF_RET | BPF_K, 0) };
	struct sock_fprog prog = { .len = 4, .filter = family == AF_INET ? udp4 : udp6 };
	assert_sys(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)));
	assert_sys(bind(fd, (struct sockaddr *)&where, sizeof(where)));
	return fd;
}

static void tunnel(const struct move_lab *lab)
{
	static const struct {
		const char *ns, *local, *remote, *mac, *peer_mac;
	} end[] = { { "src", "10.0.1.1", "10.0.2.1", "02:00:00:00:00:01", "02:00:00:00:00:02" },
		    { "dst", "10.0.2.1", "10.0.1.1", "02:00:00:00:00:02", "02:00:00:00:00:01" } };
	for (size_t i = 0; i < 2; i++)
		at(lab, end[i].ns,
		   "ip link add tun0 address %s type vxlan id 7 local %s remote %s dstport 4999 nolearning; ip link set tun0 up; echo 0 "
		   ">/proc/sys/net/ipv4/conf/tun0/rp_filter; ip neigh add 169.254.9.9 lladdr %s dev tun0 nud permanent; ip neigh add "
		   "fe80::9 lladdr %s dev tun0 nud permanent",
		   end[i].mac, end[i].local, end[i].remote, end[i].peer_mac, end[i].peer_mac);
	settle(lab);
}

static bool missing(void)
{
	const char *why = lab_is_missing();
	if (why)
		print_message("skipped: %s\n", why);
	return why;
}

static const int families[] = { AF_INET, AF_INET6 };
static const char *const addresses[] = { CT4, CT6 };

/* The freeze, what clients send into it, and then `open` at the source */
static void freeze_and_release(struct move_lab *lab, const char *open, bool at_destination, size_t expected)
{
	struct call c = both_families();
	int in[2], out[2];
	for (int i = 0; i < 2; i++) {
		in[i] = udp_in(lab, "ct", families[i], i ? "::" : "0.0.0.0");
		out[i] = udp_in(lab, "cli", families[i], addresses[i]);
	}
	assert_ok(fm_netns_call(lab_ns(lab, "src"), do_hold, &c, &err));
	router_close_source(lab);
	for (int i = 0; i < 2; i++) {
		_fm_close_ int tap = tap_in(lab, families[i]);
		at(lab, "src", "ip route add unreachable " CT4 " metric 9; ip -6 route add unreachable " CT6 " metric 9");
		send_all(out[i], tap);
		at(lab, "src", "ip route del unreachable " CT4 " metric 9; ip -6 route del unreachable " CT6 " metric 9");
	}
	if (at_destination)
		router_open_destination(lab);
	else
		at(lab, "mux", "ip link set m-dst nomaster; ip link set m-src master brm");
	at(lab, "src", "%s", open);
	assert_int_equal(fm_hold_release(c.hold), expected);
	for (int i = 0; i < 2; i++) {
		char more[8];
		if (expected)
			expect_all(in[i]);
		assert_int_equal(recv(in[i], more, sizeof(more), MSG_DONTWAIT), -1); /* once */
		(void)close(in[i]);
		(void)close(out[i]);
	}
	fm_hold_free(c.hold);
}

static void test_on_by_the_tunnel(void **state)
{
	_fm_cleanup_(lab_end) struct move_lab lab = { 0 };
	if (missing())
		skip();
	router_build(&lab);
	tunnel(&lab);
	freeze_and_release(&lab,
	                   "ip route add " CT4 " via 169.254.9.9 dev tun0 onlink; ip -6 route add " CT6 " via fe80::9 dev tun0 onlink",
	                   true, 2 * N);
}

static void test_back_to_the_container_itself(void **state)
{
	_fm_cleanup_(lab_end) struct move_lab lab = { 0 };
	if (missing())
		skip();
	router_build(&lab);
	at(&lab, "ct", "ip link set eth0 address " CT_MAC);
	const char *open = "ip neigh replace " CT4 " lladdr " CT_MAC " dev ct0 nud permanent; ip -6 neigh replace " CT6 " lladdr " CT_MAC
	                   " dev ct0 nud permanent; ip route add " CT4 " dev ct0; ip -6 route add " CT6 " dev ct0";
	freeze_and_release(&lab, open, false, 2 * N);
}

/* The source's default route is the router that sent it here: it would come back for ever. */
static void test_not_back_where_it_came_from(void **state)
{
	_fm_cleanup_(lab_end) struct move_lab lab = { 0 };
	if (missing())
		skip();
	router_build(&lab);
	freeze_and_release(&lab, "true", true, 0);
}

static int do_next_hop(void *userdata, struct fm_error *e)
{
	struct call *c = userdata;
	_fm_nl_ struct fm_nl *nl = NULL;
	if (fm_nl_open(0, &nl, e) < 0)
		return -1;
	c->rc = fm_next_hop(nl, AF_INET, &c->cfg.address, &c->hop);
	return 0;
}

static void test_next_hop(void **state)
{
	_fm_cleanup_(lab_end) struct move_lab lab = { 0 };
	static const uint8_t peer[6] = { 2, 0, 0, 0, 0, 2 }, own[6] = { 2, 0, 0, 0, 0, 1 };
	struct call c = both_families();
	if (missing())
		skip();
	router_build(&lab);
	tunnel(&lab);
	at(&lab, "src", "ip route replace " CT4 " via 169.254.9.9 dev tun0 onlink");
	assert_ok(fm_netns_call(lab_ns(&lab, "src"), do_next_hop, &c, &err));
	assert_int_equal(c.rc, 0);
	assert_memory_equal(c.hop.to, peer, 6);
	assert_memory_equal(c.hop.from, own, 6);
	/* a rule comes before the route */
	at(&lab, "src", "ip route add unreachable default table 99; ip rule add to " CT4 " table 99 priority 9");
	assert_ok(fm_netns_call(lab_ns(&lab, "src"), do_next_hop, &c, &err));
	assert_int_equal(c.rc, -EHOSTUNREACH);
	/* nobody is asked for a MAC */
	at(&lab, "src", "ip rule del priority 9; ip neigh del 169.254.9.9 dev tun0");
	assert_ok(fm_netns_call(lab_ns(&lab, "src"), do_next_hop, &c, &err));
	assert_int_equal(c.rc, -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_on_by_the_tunnel),
		cmocka_unit_test(test_back_to_the_container_itself),
		cmocka_unit_test(test_not_back_where_it_came_from),
		cmocka_unit_test(test_next_hop),
	};
	return cmocka_run_group_tests_name("hold", tests, NULL, NULL);
}
