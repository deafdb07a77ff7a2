/* SPDX-License-Identifier: MIT */
/*
 * test-conntrack.c - entries of the connection tracking table between two hosts that each have a firewall for what they bridge.
 *
 *    src: br0 {eth0, ct0} --\        ct0 is the host end of the container's only interface. It is moved from src to dst, and the container's sockets with it:
 *    dst: br0 {eth0} -------- sw --- cli        what is missing then at dst is exactly what the old host's table knows.
 */
#include <linux/filter.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "nslab.h"
#include "network/conntrack.h"
#include "network/internal.h"

#define PORT 6379

enum { SW, SRC, DST, CLI, CT, N_NS };
static const char *const names[] = { "sw", "src", "dst", "cli", "ct" };

/* What is invalid or not begun here is dropped, and a connection begins with a SYN: a firewall that means it. */
static const char firewall[] = "nft -f - <<'END'\n"
                               "table inet fw {\n"
                               "  counter dropped { }\n"
                               "  chain forward {\n"
                               "    type filter hook forward priority filter;\n"
                               "    meta l4proto ipv6-icmp accept\n"
                               "    ct state established,related accept\n"
                               "    ct state new tcp flags & (syn | ack) == syn accept\n"
                               "    iifname \"%s\" udp sport 1-65535 ct state new accept\n"
                               "    counter name dropped drop\n"
                               "  }\n"
                               "}\n"
                               "END\n";

static void plug(int ns)
{
	in_ns(ns, "ip link set ct0 up; ip link set ct0 master br0");
	until_in(ns, "bridge link show dev ct0 | grep -q 'state forwarding'");
}

static int do_announce(void *userdata, struct fm_error *e)
{
	int index = (int)if_nametoindex("eth0"), fd = -1;
	const struct fm_endpoint_words w = { .bridge = "br0", .mac = "02:78:00:00:01:00", .address = "10.78.0.100/24" };
	struct fm_endpoint_config cfg;

	if (fm_endpoint_config_parse(&w, "ct", 0, &cfg, e) < 0 || fm_raw_open(index, &fd, e) < 0)
		return -1;
	return fm_announce(fd, index, &cfg, e) | close(fd);
}

/* Without a word to anybody: nothing passes before `arrive`. */
static void leave(int from, int to)
{
	in_ns(from, "ip link set ct0 nomaster; ip link set ct0 netns $DIR/%s", names[to]);
}

static void arrive(int at)
{
	plug(at);
	assert_ok(fm_netns_call(lab.ns[CT], do_announce, NULL, &err));
	until_in(SW, "bridge fdb show br br0 | grep -q '02:78:00:00:01:00 dev p-%s'", names[at]);
}

static void build_host(int ns)
{
	in_ns(ns, "ip link add br0 type bridge && ip link set br0 up");
	in_ns(ns, "ip link add eth0 type veth peer name p-%s netns $DIR/sw && ip link set eth0 master br0 up", names[ns]);
	in_ns(SW, "ip link set p-%s master br0 up", names[ns]);
	in_ns(ns, "echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables; echo 1 >/proc/sys/net/bridge/bridge-nf-call-ip6tables");
	/* the source lets UDP begin that comes from outside, the destination none */
	in_ns(ns, firewall, ns == SRC ? "br0" : "none");
	/* connections that it did not see begin are invalid, not new */
	in_ns(ns, "echo 0 >/proc/sys/net/netfilter/nf_conntrack_tcp_loose");
	until_in(ns, "bridge link show dev eth0 | grep -q 'state forwarding'");
}

static int group_setup(void **state)
{
	if (!lab_possible())
		return 0;
	lab_up(names, N_NS);
	in_ns(SW, "ip link add br0 type bridge && ip link set br0 up");
	build_host(SRC);
	build_host(DST);
	in_ns(CLI, "ip link add eth0 type veth peer name p-cli netns $DIR/sw && ip link set eth0 up; ip address add 10.78.0.3/24 dev eth0; "
	           "ip address add fd78::3/64 dev eth0 nodad");
	in_ns(SW, "ip link set p-cli master br0 up");
	until_in(SW, "[ $(bridge link show | grep -c 'state forwarding') = 3 ]");
	in_ns(CT, "ip link add eth0 address 02:78:00:00:01:00 type veth peer name ct0 netns $DIR/src && ip link set eth0 up; "
	          "ip address add 10.78.0.100/24 dev eth0; ip address add fd78::100/64 dev eth0 nodad");
	arrive(SRC);
	/* the kernel finishes an IPv6 address in the background */
	until_in(CLI, "ip -6 route show table local | grep -q fd78::3");
	until_in(CT, "ip -6 route show table local | grep -q fd78::100");
	return 0;
}

static int group_teardown(void **state)
{
	if (lab.n)
		lab_down();
	return 0;
}

static struct fm_conntrack_address own[2];
static struct fm_conntrack *tables[N_NS];

static int do_open(void *userdata, struct fm_error *e)
{
	return fm_conntrack_open(userdata, e);
}

static int setup(void **state)
{
	assert_ok(fm_conntrack_address_parse("10.78.0.100", &own[0], &err));
	assert_ok(fm_conntrack_address_parse("fd78::100", &own[1], &err));
	for (int i = SRC; i <= DST && lab.n; i++) {
		assert_ok(fm_netns_call(lab.ns[i], do_open, &tables[i], &err));
		assert_true(fm_conntrack_is_there(tables[i]));
	}
	return 0;
}

struct forgetting {
	struct fm_conntrack *table;
	const struct fm_conntrack_address *of; /* NULL: both of the container's */
	const struct fm_conntrack_address *keep;
	size_t n_keep, deleted;
	bool translated;
};

static int do_forget(void *userdata, struct fm_error *e)
{
	struct forgetting *f = userdata;

	return fm_conntrack_forget(f->table, f->of ? f->of : own, f->of ? 1 : 2, f->keep, f->n_keep, f->translated, &f->deleted, e);
}

static size_t forget_at(int ns, struct forgetting f)
{
	f.table = tables[ns];
	assert_ok(fm_netns_call(lab.ns[ns], do_forget, &f, &err));
	return f.deleted;
}

static int teardown(void **state)
{
	for (int i = SRC; i <= DST && lab.n; i++) {
		(void)forget_at(i, (struct forgetting){ .translated = true });
		fm_conntrack_free(tables[i]);
	}
	return 0;
}

static struct fm_conntrack_live live_at(int ns)
{
	struct fm_conntrack_live live;

	assert_ok(fm_conntrack_count(tables[ns], own, 2, &live, &err));
	return live;
}

static unsigned long dropped_at(int ns)
{
	_fm_free_ char *text = output_in(ns, "nft list counter inet fw dropped");
	const char *p = strstr(text, "packets ");

	assert_non_null(p);
	return strtoul(p + 8, NULL, 10);
}

struct carried {
	uint8_t *bytes;
	size_t len;
	struct fm_conntrack_dumped what;
};

static struct carried dump_from(int ns, size_t max)
{
	struct carried c = { 0 };

	assert_ok(fm_conntrack_dump(tables[ns], own, 2, max, &c.bytes, &c.len, &c.what, &err));
	return c;
}

static struct fm_conntrack_restored restore_to(int ns, const struct carried *c)
{
	struct fm_conntrack_restored what;

	assert_ok(fm_conntrack_restore(tables[ns], c->bytes, c->len, own, 2, &what, &err));
	return what;
}

/* Only the flow whose beginner has this port. */
static void keep_only(struct carried *c, uint16_t port)
{
	_fm_free_ struct fm_conntrack_flow *v = NULL;
	uint32_t left_out;
	size_t n, kept = 0;

	assert_ok(fm_conntrack_decode(c->bytes, c->len, &v, &n, &left_out, &err));
	for (size_t i = 0; i < n; i++)
		if (v[i].port[0] == port)
			v[kept++] = v[i];
	assert_int_equal(kept, 1);
	free(c->bytes);
	assert_ok(fm_conntrack_encode(v, kept, left_out, &c->bytes, &c->len, &err));
}

static uint16_t port_of(int fd)
{
	struct sockaddr_in6 a;
	socklen_t len = sizeof(a);

	assert_sys(getsockname(fd, (struct sockaddr *)&a, &len));
	return ntohs(a.sin6_port);
}

static void wait_error(int fd, int expected)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	int got = 0;
	socklen_t len = sizeof(got);

	assert_int_equal(poll(&p, 1, 2 * LAB_WAIT_MS), 1);
	assert_true(p.revents & POLLERR);
	assert_sys(getsockopt(fd, SOL_SOCKET, SO_ERROR, &got, &len));
	assert_int_equal(got, expected);
}

/* Two connections move; one of them with its entry. The other dies, and it is the firewall that does it. */
static void moves_with_entry_only(const char *address)
{
	int listener = listen_in(CT, PORT), limit_ms = 1500;
	struct lab_connection with = connect_from(CLI, NULL, address, PORT, listener);
	struct lab_connection without = connect_from(CLI, NULL, address, PORT, listener);
	struct carried c;
	unsigned long before = dropped_at(DST);

	talk(&with);
	talk(&without);
	assert_int_equal(live_at(SRC).tcp, 2);
	leave(SRC, DST);
	c = dump_from(SRC, FM_MAX_CONNTRACK);
	assert_int_equal(c.what.flows, 2);
	assert_int_equal(c.what.translated, 0);
	keep_only(&c, port_of(with.client));
	assert_int_equal(restore_to(DST, &c).inserted, 1);
	arrive(DST);

	/* the one that begins to talk after the move is the client here and the server there: both directions count as established */
	talk(&with);
	send_over(with.server, 'x');
	receive_over(with.client, 'x');
	assert_int_equal(dropped_at(DST), before);
	assert_sys(setsockopt(without.client, IPPROTO_TCP, TCP_USER_TIMEOUT, &limit_ms, sizeof(limit_ms)));
	send_over(without.client, 'y');
	wait_error(without.client, ETIMEDOUT);
	assert_true(dropped_at(DST) > before + 1);
	talk(&with);

	/* what the connection does from here on is seen: it ends, and is not counted any more */
	assert_int_equal(live_at(DST).tcp, 1);
	assert_int_equal(forget_at(SRC, (struct forgetting){ 0 }), 2);
	assert_int_equal(live_at(SRC).tcp, 0);
	hang_up(&with);
	for (uint64_t deadline = fm_now_ms() + LAB_WAIT_MS; live_at(DST).tcp; fm_pause_ms(5))
		assert_true(fm_deadline_left_ms(deadline) > 0);
	break_off(&without);
	(void)close(listener);
	free(c.bytes);
	leave(DST, SRC);
	arrive(SRC);
}

static void test_a_connection_lives_by_its_entry(void **state)
{
	if (!lab.n)
		skip();
	moves_with_entry_only("10.78.0.100");
}

static void test_ipv6(void **state)
{
	if (!lab.n)
		skip();
	moves_with_entry_only("fd78::100");
}

/* The entry can come late: the client's kernel repeats what the firewall has dropped. And home again, to a host that still has the entries of the first time. */
static void test_late_and_back(void **state)
{
	int listener;
	struct lab_connection c;
	struct carried out, back;
	struct fm_conntrack_restored what;
	unsigned long before;

	if (!lab.n)
		skip();
	listener = listen_in(CT, PORT);
	c = connect_from(CLI, NULL, "10.78.0.100", PORT, listener);
	before = dropped_at(DST);
	talk(&c);
	out = dump_from(SRC, FM_MAX_CONNTRACK);
	leave(SRC, DST);
	arrive(DST);
	send_over(c.client, 'l');
	for (uint64_t deadline = fm_now_ms() + LAB_WAIT_MS; dropped_at(DST) < before + 2; fm_pause_ms(5))
		assert_true(fm_deadline_left_ms(deadline) > 0);
	what = restore_to(DST, &out);
	assert_int_equal(what.inserted, 1);
	assert_int_equal(what.replaced, 0);
	receive_over(c.server, 'l');
	talk(&c);

	/* repeated, it changes nothing */
	what = restore_to(DST, &out);
	assert_int_equal(what.inserted, 1);
	assert_int_equal(what.replaced, 1);
	talk(&c);
	assert_int_equal(live_at(DST).tcp, 1);

	back = dump_from(DST, FM_MAX_CONNTRACK);
	leave(DST, SRC);
	what = restore_to(SRC, &back);
	assert_int_equal(what.replaced, 1);
	before = dropped_at(SRC);
	arrive(SRC);
	talk(&c);
	assert_int_equal(dropped_at(SRC), before);
	hang_up(&c);
	(void)close(listener);
	free(out.bytes);
	free(back.bytes);
}

/* An answer to a question that came at the old host is not new at the new one. */
static void test_udp(void **state)
{
	struct sockaddr_in6 to = lab_sockaddr("10.78.0.100", PORT), from;
	socklen_t len = sizeof(from);
	struct carried c;
	int client, server;
	char got;

	if (!lab.n)
		skip();
	client = socket_in(CLI, SOCK_DGRAM, NULL, 0);
	server = socket_in(CT, SOCK_DGRAM, NULL, PORT);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(sendto(client, "q", 1, 0, (struct sockaddr *)&to, sizeof(to)), 1);
		wait_readable(server);
		assert_int_equal(recvfrom(server, &got, 1, 0, (struct sockaddr *)&from, &len), 1);
		assert_int_equal(sendto(server, "a", 1, 0, (struct sockaddr *)&from, len), 1);
		receive_over(client, 'a');
		if (i)
			break;
		assert_int_equal(live_at(SRC).udp, 1);
		leave(SRC, DST);
		c = dump_from(SRC, FM_MAX_CONNTRACK);
		assert_int_equal(restore_to(DST, &c).inserted, 1);
		free(c.bytes);
		arrive(DST);
	}
	assert_int_equal(live_at(DST).udp, 1);
	(void)close(client);
	(void)close(server);
	leave(DST, SRC);
	arrive(SRC);
}

static struct fm_conntrack_flow sample(void)
{
	struct fm_conntrack_flow f = { .port = { 40000, PORT },
		                       .protocol = IPPROTO_TCP,
		                       .seen_reply = true,
		                       .assured = true,
		                       .tcp_state = TCP_CONNTRACK_ESTABLISHED,
		                       .tcp_flags = { 3, 1 },
		                       .tcp_wscale = { 7, 0 },
		                       .timeout_s = 432000,
		                       .mark = 0xfedcba98 };

	assert_ok(fm_conntrack_address_parse("10.78.0.3", &f.address[0], &err));
	f.address[1] = own[0];
	return f;
}

static int by_port(const void *a, const void *b)
{
	return ((const struct fm_conntrack_flow *)a)->port[0] - ((const struct fm_conntrack_flow *)b)->port[0];
}

/* Entries whose windows are not tracked, either direction counted. */
static int liberal_cb(const struct nlmsghdr *h, void *userdata)
{
	const struct nlattr *a, *b, *c;
	size_t *n = userdata;

	mnl_attr_for_each (a, h, sizeof(struct nfgenmsg))
		if (mnl_attr_get_type(a) == CTA_PROTOINFO)
			mnl_attr_for_each_nested (b, a)
				mnl_attr_for_each_nested (c, b)
					if (mnl_attr_get_type(c) == CTA_PROTOINFO_TCP_FLAGS_ORIGINAL ||
					    mnl_attr_get_type(c) == CTA_PROTOINFO_TCP_FLAGS_REPLY)
						*n += (mnl_attr_get_u8(c) & IP_CT_TCP_FLAG_BE_LIBERAL) != 0;
	return MNL_CB_OK;
}

static int do_count_liberal(void *userdata, struct fm_error *e)
{
	struct nfgenmsg all = { .nfgen_family = AF_UNSPEC };
	_fm_nl_ struct fm_nl *nl = NULL;

	if (fm_nl_open_bus(NETLINK_NETFILTER, 0, &nl, e) < 0)
		return -1;
	return fm_nl_dump(nl, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, &all, sizeof(all), liberal_cb, userdata, NULL);
}

/* What is carried is what the kernel said, but for the time that went by; what is over is told; 200 connections cost milliseconds. */
static void test_many(void **state)
{
	enum { MANY = 200 };
	static struct lab_connection c[MANY];
	struct fm_conntrack_flow *was = NULL, *is = NULL;
	uint64_t at[3];
	struct carried all, some, there;
	size_t n_was, n_is, liberal = 0;
	uint32_t left_out;
	int listener;

	if (!lab.n)
		skip();
	listener = listen_in(CT, PORT);
	for (int i = 0; i < MANY; i++)
		c[i] = connect_from(CLI, NULL, i % 2 ? "10.78.0.100" : "fd78::100", PORT, listener);
	for (int i = 0; i < 3; i++) {
		struct fm_conntrack_dumping *running;

		at[0] = fm_now_us();
		assert_ok(fm_conntrack_dump_begin(tables[SRC], own, 2, FM_MAX_CONNTRACK, &running, &err));
		at[1] = fm_now_us();
		assert_ok(fm_conntrack_dump_end(running, &all.bytes, &all.len, &all.what, &err));
		at[2] = fm_now_us();
		assert_int_equal(all.what.flows, MANY);
		free(all.bytes);
		print_message("in a thread: begin %.2f ms, done after %.2f ms\n", (double)(at[1] - at[0]) / 1000,
		              (double)(at[2] - at[0]) / 1000);
	}
	at[0] = fm_now_us();
	all = dump_from(SRC, FM_MAX_CONNTRACK);
	at[1] = fm_now_us();
	assert_int_equal(all.what.flows, MANY);
	assert_int_equal(restore_to(DST, &all).inserted, MANY);
	at[2] = fm_now_us();
	print_message("%d entries, %zu bytes: dump %.2f ms, restore %.2f ms\n", MANY, all.len, (double)(at[1] - at[0]) / 1000,
	              (double)(at[2] - at[1]) / 1000);
	assert_true(at[2] - at[0] < 200000); /* a busy machine, sanitizers; what is meant is 5 ms */

	assert_ok(fm_netns_call(lab.ns[DST], do_count_liberal, &liberal, &err));
	assert_int_equal(liberal, 2 * MANY);
	some = dump_from(SRC, 7);
	assert_int_equal(some.what.flows, 7);
	assert_int_equal(some.what.over, MANY - 7);
	there = dump_from(DST, FM_MAX_CONNTRACK);
	assert_ok(fm_conntrack_decode(all.bytes, all.len, &was, &n_was, &left_out, &err));
	assert_ok(fm_conntrack_decode(there.bytes, there.len, &is, &n_is, &left_out, &err));
	assert_int_equal(n_was, n_is);
	qsort(was, n_was, sizeof(*was), by_port);
	qsort(is, n_is, sizeof(*is), by_port);
	for (size_t i = 0; i < n_was; i++) {
		assert_true(was[i].timeout_s - is[i].timeout_s <= 10);
		is[i].timeout_s = was[i].timeout_s;
		assert_int_equal(was[i].tcp_state, TCP_CONNTRACK_ESTABLISHED);
		assert_true(was[i].assured && (was[i].tcp_flags[0] & was[i].tcp_flags[1] & IP_CT_TCP_FLAG_WINDOW_SCALE));
		assert_memory_equal(&was[i], &is[i], sizeof(was[i]));
	}
	for (int i = 0; i < MANY; i++)
		hang_up(&c[i]);
	(void)close(listener);
	free(was);
	free(is);
	free(all.bytes);
	free(some.bytes);
	free(there.bytes);
}

/* A host with so many other flows that the kernel is asked to filter. */
static void test_crowded(void **state)
{
	enum { ROUNDS = 5 };
	struct fm_conntrack_flow *v = calloc(FM_MAX_CONNTRACK, sizeof(*v));
	struct fm_conntrack_address other;
	struct fm_conntrack_live each[4];
	struct fm_conntrack_restored what;
	struct lab_connection in[2], out;
	int listener, outside;
	struct carried c;
	uint64_t at;

	if (!lab.n) {
		free(v);
		skip();
	}
	assert_ok(fm_conntrack_address_parse("10.78.1.1", &other, &err));
	for (int round = 0; round < ROUNDS; round++) {
		_fm_free_ uint8_t *bytes = NULL;
		size_t len;

		for (int i = 0; i < FM_MAX_CONNTRACK; i++) {
			v[i] = sample();
			v[i].address[1] = other;
			v[i].port[0] = (uint16_t)(1024 + i);
			v[i].port[1] = (uint16_t)(80 + round);
		}
		assert_ok(fm_conntrack_encode(v, FM_MAX_CONNTRACK, 0, &bytes, &len, &err));
		at = fm_now_us();
		assert_ok(fm_conntrack_restore(tables[SRC], bytes, len, &other, 1, &what, &err));
		print_message("%d entries restored in %.2f ms\n", FM_MAX_CONNTRACK, (double)(fm_now_us() - at) / 1000);
		assert_int_equal(what.inserted, FM_MAX_CONNTRACK);
		assert_int_equal(what.replaced, 0);
	}
	listener = listen_in(CT, PORT);
	outside = listen_in(CLI, PORT);
	in[0] = connect_from(CLI, NULL, "10.78.0.100", PORT, listener);
	in[1] = connect_from(CLI, NULL, "fd78::100", PORT, listener);
	out = connect_from(CT, NULL, "10.78.0.3", PORT, outside);
	at = fm_now_us();
	c = dump_from(SRC, FM_MAX_CONNTRACK);
	print_message("dump of 3 among %d: %.2f ms\n", ROUNDS * FM_MAX_CONNTRACK, (double)(fm_now_us() - at) / 1000);
	assert_int_equal(c.what.flows, 3);
	assert_int_equal(live_at(SRC).tcp, 3);
	assert_ok(fm_conntrack_count_each(tables[SRC], (struct fm_conntrack_address[]){ own[0], other, own[1], own[0] }, 4, each, &err));
	assert_int_equal(each[0].tcp, 2);
	assert_int_equal(each[1].tcp, ROUNDS * FM_MAX_CONNTRACK);
	assert_int_equal(each[2].tcp, 1);
	assert_int_equal(each[3].tcp, 2);
	assert_int_equal(forget_at(SRC, (struct forgetting){ .of = &other }), ROUNDS * FM_MAX_CONNTRACK);
	assert_int_equal(live_at(SRC).tcp, 3);
	hang_up(&in[0]);
	hang_up(&in[1]);
	hang_up(&out);
	(void)close(listener);
	(void)close(outside);
	free(c.bytes);
	free(v);
}

static void test_forget_keeps_what_still_passes(void **state)
{
	struct fm_conntrack_address client;
	struct lab_connection c;
	int listener;

	if (!lab.n)
		skip();
	assert_ok(fm_conntrack_address_parse("10.78.0.3", &client, &err));
	listener = listen_in(CT, PORT);
	c = connect_from(CLI, NULL, "10.78.0.100", PORT, listener);
	assert_int_equal(forget_at(SRC, (struct forgetting){ .keep = &client, .n_keep = 1 }), 0);
	/* the peer as this host's own address */
	in_ns(SRC, "ip address add 10.78.0.3/32 dev lo");
	assert_int_equal(forget_at(SRC, (struct forgetting){ 0 }), 0);
	in_ns(SRC, "ip address delete 10.78.0.3/32 dev lo");
	assert_int_equal(live_at(SRC).tcp, 1);
	assert_int_equal(forget_at(SRC, (struct forgetting){ 0 }), 1);
	assert_int_equal(live_at(SRC).tcp, 0);
	assert_int_equal(forget_at(SRC, (struct forgetting){ 0 }), 0);
	hang_up(&c);
	(void)close(listener);
}

/* ---- the byte string ---- */

static void test_wire(void **state)
{
	struct fm_conntrack_flow v[3] = { sample(), sample(), sample() }, *got = NULL;
	_fm_free_ uint8_t *bytes = NULL;
	uint32_t left_out = 0;
	size_t len, n;

	v[1].address[0] = v[1].address[1] = own[1];
	v[2].protocol = IPPROTO_UDP;
	v[2].tcp_state = v[2].tcp_flags[0] = v[2].tcp_flags[1] = v[2].tcp_wscale[0] = 0;
	assert_ok(fm_conntrack_encode(v, 3, 9, &bytes, &len, &err));
	assert_int_equal(len, 16 + 28 + 52 + 28);
	assert_ok(fm_conntrack_decode(bytes, len, &got, &n, &left_out, &err));
	assert_int_equal(n, 3);
	assert_int_equal(left_out, 9);
	assert_memory_equal(got, v, sizeof(v));
	free(got);
	got = NULL;
	/* whatever is cut off or too much, and every byte of the header */
	for (size_t i = 0; i < len; i++)
		assert_code(FM_E_DATA_LOSS, fm_conntrack_decode(bytes, i, &got, &n, &left_out, &err));
	for (size_t i = 0; i < 12; i++) {
		bytes[i] ^= 0x40;
		assert_code(FM_E_DATA_LOSS, fm_conntrack_decode(bytes, len, &got, &n, &left_out, &err));
		bytes[i] ^= 0x40;
	}
	assert_null(got);
	assert_code(FM_E_RESOURCE_EXHAUSTED, fm_conntrack_encode(v, FM_MAX_CONNTRACK + 1, 0, &bytes, &len, &err));
}

static void test_wire_refuses(void **state)
{
	struct fm_conntrack_flow bad[14], *got = NULL;
	_fm_free_ uint8_t *bytes = NULL;
	uint32_t left_out;
	size_t len, n;

	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++)
		bad[i] = sample();
	bad[0].address[0].bytes[0] = 224;
	bad[1].address[0].bytes[0] = 0;
	bad[2].address[0].bytes[0] = 127;
	bad[3].address[0] = own[1];
	bad[4].port[1] = 0;
	bad[5].timeout_s = 0;
	bad[6].timeout_s = FM_MAX_CONNTRACK_TIMEOUT_S + 1;
	bad[7].seen_reply = false;
	bad[8].protocol = IPPROTO_ICMP;
	bad[9].protocol = IPPROTO_UDP;
	bad[10].tcp_state = TCP_CONNTRACK_TIME_WAIT;
	bad[11].tcp_flags[0] |= IP_CT_TCP_FLAG_BE_LIBERAL;
	bad[12].tcp_wscale[0] = 15;
	bad[13].tcp_flags[0] = 0;
	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++)
		assert_code(FM_E_INVALID_ARGUMENT, fm_conntrack_encode(&bad[i], 1, 0, &bytes, &len, &err));
	/* the same from another host */
	assert_ok(fm_conntrack_encode(bad, 0, 0, &bytes, &len, &err));
	free(bytes);
	bad[0] = sample();
	assert_ok(fm_conntrack_encode(bad, 1, 0, &bytes, &len, &err));
	bytes[16 + 3] = TCP_CONNTRACK_CLOSE;
	assert_code(FM_E_DATA_LOSS, fm_conntrack_decode(bytes, len, &got, &n, &left_out, &err));
	bytes[16 + 3] = TCP_CONNTRACK_ESTABLISHED;
	bytes[16 + 20] = 240;
	assert_code(FM_E_DATA_LOSS, fm_conntrack_decode(bytes, len, &got, &n, &left_out, &err));
}

/* The source cannot open the destination's firewall for somebody else. */
static void test_only_the_containers_own(void **state)
{
	struct fm_conntrack_flow v[2] = { sample(), sample() };
	_fm_free_ uint8_t *bytes = NULL;
	struct fm_conntrack_restored what;
	size_t len;

	if (!lab.n)
		skip();
	v[1].address[1].bytes[3] = 101;
	assert_ok(fm_conntrack_encode(v, 2, 0, &bytes, &len, &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_conntrack_restore(tables[DST], bytes, len, own, 2, &what, &err));
	assert_int_equal(live_at(DST).tcp, 0);
	assert_code(FM_E_DATA_LOSS, fm_conntrack_restore(tables[DST], bytes, len - 1, own, 2, &what, &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_conntrack_count(tables[DST], own, 0, &(struct fm_conntrack_live){ 0 }, &err));
}

/* A kernel without netfilter: such a socket cannot be made. In a process of its own, because a seccomp filter stays. */
static int without_netfilter(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_socket, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NETLINK_NETFILTER, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPROTONOSUPPORT),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { .len = FM_ARRAY_SIZE(code), .filter = code };
	struct fm_conntrack_flow f = sample();
	struct fm_conntrack_restored restored = { 0 };
	struct fm_conntrack_live live = { .tcp = 1 };
	struct fm_conntrack_dumped dumped = { 0 };
	struct fm_conntrack *ct = NULL;
	uint8_t *bytes = NULL, *empty = NULL;
	size_t len, empty_len, deleted = 1;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) < 0)
		return 10;
	if (fm_conntrack_open(&ct, NULL) < 0 || fm_conntrack_is_there(ct))
		return 11;
	if (fm_conntrack_dump(ct, own, 2, 100, &empty, &empty_len, &dumped, NULL) < 0 || empty_len != 16 || dumped.flows)
		return 12;
	if (fm_conntrack_encode(&f, 1, 0, &bytes, &len, NULL) < 0 || fm_conntrack_restore(ct, bytes, len, own, 2, &restored, NULL) < 0 ||
	    restored.refused != 1 || restored.inserted)
		return 13;
	if (fm_conntrack_count(ct, own, 2, &live, NULL) < 0 || live.tcp)
		return 14;
	live.tcp = 1;
	if (fm_conntrack_count_each(ct, own, 1, &live, NULL) < 0 || live.tcp)
		return 15;
	if (fm_conntrack_forget(ct, own, 2, NULL, 0, true, &deleted, NULL) < 0 || deleted ||
	    fm_conntrack_forget(ct, own, 2, NULL, 0, true, NULL, NULL) < 0)
		return 16;
	fm_conntrack_free(ct);
	free(bytes);
	free(empty);
	return 0;
}

static void test_without_conntrack(void **state)
{
	int status;
	pid_t pid = fork();

	assert_sys(pid);
	if (pid == 0)
		_exit(without_netfilter());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void test_addresses(void **state)
{
	static const char *const bad[] = {
		"",   "10.78.0", "10.78.0.100/24", "0.0.0.0",         "127.0.0.1",    "239.1.1.1", "255.255.255.255",
		"::", "::1",     "ff02::1",        "::ffff:10.0.0.1", "fe80::1%eth0", "name"
	};
	struct fm_conntrack_address a;

	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++)
		assert_code(FM_E_INVALID_ARGUMENT, fm_conntrack_address_parse(bad[i], &a, &err));
}

int main(void)
{
#define WITH_TABLES(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		WITH_TABLES(test_a_connection_lives_by_its_entry),
		WITH_TABLES(test_ipv6),
		WITH_TABLES(test_late_and_back),
		WITH_TABLES(test_udp),
		WITH_TABLES(test_many),
		WITH_TABLES(test_crowded),
		WITH_TABLES(test_forget_keeps_what_still_passes),
		WITH_TABLES(test_wire),
		WITH_TABLES(test_wire_refuses),
		WITH_TABLES(test_only_the_containers_own),
		WITH_TABLES(test_without_conntrack),
		WITH_TABLES(test_addresses),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
