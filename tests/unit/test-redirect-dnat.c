/* SPDX-License-Identifier: MIT */
/*
 * test-redirect-dnat.c - a service published on the hosts' addresses, before, while and after its container moves.
 *
 *    cli 192.0.2.3, .4 --- sw --- src 192.0.2.10, dst 192.0.2.20; the container 10.79.0.100 is behind a route of the host that has its interface.
 *
 * Between the hosts there is a plain route for the container's address, and one back for what came by the old host: the two halves of a tunnel. The destination's firewall lets in what is established or published.
 */
#include "nslab.h"
#include "network/conntrack.h"
#include "basic/str.h"
#include "network/redirect.h"

#include <pthread.h>
#include <stdatomic.h>

#define PORT 6379

enum { SW, SRC, DST, CLI, CT, N_NS };
static const char *const names[] = { "sw", "src", "dst", "cli", "ct" };
static const char *const host_address[] = { [SRC] = "192.0.2.10", [DST] = "192.0.2.20" };
static const char *const host_address6[] = { [SRC] = "fd02::10", [DST] = "fd02::20" };

/* Somebody else's publication and rules: what has to be as it was. */
static const char publication[] = "nft -f - <<'END'\n"
                                  "table ip docker {\n"
                                  "  chain prerouting {\n"
                                  "    type nat hook prerouting priority dstnat;\n"
                                  "    ip daddr 192.0.2.10 tcp dport 6379 counter dnat to 10.79.0.100:6379\n"
                                  "  }\n"
                                  "}\n"
                                  "END\n";
static const char firewall[] = "nft -f - <<'END'\n"
                               "table inet fw {\n"
                               "  counter dropped { }\n"
                               "  chain forward {\n"
                               "    type filter hook forward priority filter;\n"
                               "    ct state invalid counter name dropped drop\n"
                               "    ct state established,related accept\n"
                               "    ct status dnat accept\n"
                               "    ip saddr 192.0.2.3 ct state new tcp flags & (syn | ack) == syn accept\n"
                               "    ip saddr 192.0.2.3 ct state new udp dport 53 accept\n"
                               "    meta l4proto ipv6-icmp accept\n"
                               "    counter name dropped drop\n"
                               "  }\n"
                               "}\n"
                               "END\n";

static void build_host(int ns)
{
	in_ns(ns, "ip link add eth0 type veth peer name p-%s netns $DIR/sw && ip link set eth0 up", names[ns]);
	in_ns(SW, "ip link set p-%s master br0 up", names[ns]);
	in_ns(ns, "ip address add %s/24 dev eth0; ip address add %s/64 dev eth0 nodad", host_address[ns], host_address6[ns]);
	in_ns(ns, "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
	in_ns(ns, "for i in all default eth0; do echo 0 >/proc/sys/net/ipv4/conf/$i/rp_filter; echo 0 "
	          ">/proc/sys/net/ipv4/conf/$i/send_redirects; done");
	in_ns(ns, "echo 0 >/proc/sys/net/netfilter/nf_conntrack_tcp_loose");
}

/* The container's interface is this host's. */
static void host_container(int ns)
{
	in_ns(ns, "ip link set ct0 address 02:79:00:00:00:01 up; ip address replace 169.254.79.1/32 dev ct0; ip address replace fe80::1/64 "
	          "dev ct0 nodad; "
	          "ip route replace 10.79.0.100/32 dev ct0; ip route replace fd79::100/128 dev ct0");
	until_in(ns, "ip link show dev ct0 | grep -q 'state UP'");
}

static int group_setup(void **state)
{
	if (!lab_possible())
		return 0;
	lab_up(names, N_NS);
	in_ns(SW, "ip link add br0 type bridge && ip link set br0 up");
	build_host(SRC);
	build_host(DST);
	in_ns(CLI, "ip link add eth0 type veth peer name p-cli netns $DIR/sw && ip link set eth0 up; ip address add 192.0.2.3/24 dev eth0; "
	           "ip address add 192.0.2.4/24 dev eth0; ip address add fd02::3/64 dev eth0 nodad");
	in_ns(SW, "ip link set p-cli master br0 up");
	until_in(SW, "[ $(bridge link show | grep -c 'state forwarding') = 3 ]");
	in_ns(CT, "ip link add eth0 type veth peer name ct0 netns $DIR/src && ip link set eth0 up; ip address add 10.79.0.100/32 dev eth0; "
	          "ip address add fd79::100/128 dev eth0 nodad; ip route add 169.254.79.1 dev eth0; ip route add default via 169.254.79.1; "
	          "ip -6 route add default via fe80::1 dev eth0; ip neighbour add 169.254.79.1 lladdr 02:79:00:00:00:01 dev eth0; "
	          "ip neighbour add fe80::1 lladdr 02:79:00:00:00:01 dev eth0");
	host_container(SRC);
	in_ns(DST, "ip rule add from 10.79.0.100 to 192.0.2.3 lookup 100; ip route add default via 192.0.2.10 table 100");
	in_ns(DST, firewall);
	until_in(CT, "ip -6 route show table local | grep -q fd79::100");
	until_in(CLI, "ip -6 route show table local | grep -q fd02::3");
	for (int i = SRC; i <= DST; i++)
		until_in(i, "ip -6 route show table local | grep -q %s", host_address6[i]);
	return 0;
}

static int group_teardown(void **state)
{
	if (lab.n)
		lab_down();
	return 0;
}

static void move(int from, int to)
{
	in_ns(from, "ip link set ct0 netns $DIR/%s", names[to]);
	host_container(to);
	in_ns(from, "ip route replace 10.79.0.100/32 via %s", host_address[to]);
}

static char *ruleset(int ns)
{
	return output_in(ns, "nft -s list ruleset");
}

/* ---- the driver, in a host's namespace ---- */

enum call { PREPARE, OPEN, FLIP, VERIFY, REVERT };

struct driving {
	enum call call;
	const json_t *action, *undo;
	json_t *made;
	uint64_t limit_ms;
	int cancel_fd;
};

static int do_drive(void *userdata, struct fm_error *e)
{
	struct driving *d = userdata;
	struct fm_redirect_call c = { .deadline_ms = fm_now_ms() + d->limit_ms, .cancel_fd = d->cancel_fd };
	const struct fm_redirect_ops *ops;

	if (fm_redirect_driver_of(d->action, &ops, e) < 0)
		return -1;
	switch (d->call) {
	case PREPARE:
		return ops->prepare(&c, d->action, &d->made, e);
	case OPEN:
		return ops->open(&c, d->action, d->undo, e);
	case FLIP:
		return ops->flip(&c, d->action, d->undo, e);
	case VERIFY:
		return ops->verify(&c, d->action, d->undo, e);
	case REVERT:
		return ops->revert(&c, d->action, d->undo, e);
	}
	return -1;
}

static int drive(int ns, enum call call, const json_t *action, const json_t *undo, struct fm_error *e)
{
	struct driving d = { .call = call, .action = action, .undo = undo, .limit_ms = LAB_WAIT_MS, .cancel_fd = -1 };

	return fm_netns_call(lab.ns[ns], do_drive, &d, e);
}

static json_t *action_at(int ns, const char *protocol, bool six, int port)
{
	json_t *j = json_pack("{s:s, s:s, s:s, s:s, s:i, s:s, s:i}", "driver", "dnat", "side", ns == SRC ? "source" : "destination",
	                      "protocol", protocol, "host_address", six ? host_address6[ns] : host_address[ns], "host_port", PORT,
	                      "address", six ? "fd79::100" : "10.79.0.100", "port", port);

	assert_non_null(j);
	return j;
}

static json_t *prepare(int ns, const json_t *action)
{
	struct driving d = { .call = PREPARE, .action = action, .limit_ms = LAB_WAIT_MS, .cancel_fd = -1 };

	assert_ok(fm_netns_call(lab.ns[ns], do_drive, &d, &err));
	assert_non_null(d.made);
	return d.made;
}

static int do_open_table(void *userdata, struct fm_error *e)
{
	return fm_conntrack_open(userdata, e);
}

static struct fm_conntrack *table_at(int ns)
{
	struct fm_conntrack *ct = NULL;

	assert_ok(fm_netns_call(lab.ns[ns], do_open_table, &ct, &err));
	return ct;
}

static struct fm_conntrack_live live_at(int ns)
{
	_fm_conntrack_ struct fm_conntrack *ct = table_at(ns);
	struct fm_conntrack_address a;
	struct fm_conntrack_live live;

	assert_ok(fm_conntrack_address_parse("10.79.0.100", &a, &err));
	assert_ok(fm_conntrack_count(ct, &a, 1, &live, &err));
	return live;
}

static unsigned long dropped_at(int ns)
{
	_fm_free_ char *text = output_in(ns, "nft list counter inet fw dropped");

	return strtoul(strstr(text, "packets ") + 8, NULL, 10);
}

static void carry(int from, int to, size_t flows, size_t translated)
{
	_fm_conntrack_ struct fm_conntrack *out = table_at(from), *in = table_at(to);
	_fm_free_ uint8_t *bytes = NULL;
	struct fm_conntrack_dumped dumped;
	struct fm_conntrack_restored restored;
	struct fm_conntrack_address a;
	size_t len;

	assert_ok(fm_conntrack_address_parse("10.79.0.100", &a, &err));
	assert_ok(fm_conntrack_dump(out, &a, 1, FM_MAX_CONNTRACK, &bytes, &len, &dumped, &err));
	assert_int_equal(dumped.flows, flows);
	assert_int_equal(dumped.translated, translated);
	assert_ok(fm_conntrack_restore(in, bytes, len, &a, 1, &restored, &err));
	assert_int_equal(restored.inserted, flows);
	/* back at the host that translates, its own entries are the better ones: the same answers, and they stay */
	assert_ok(fm_conntrack_restore(out, bytes, len, &a, 1, &restored, &err));
	assert_int_equal(restored.clashed, translated);
	assert_int_equal(live_at(from).translated, translated);
}

static void assert_peer(int fd, const char *address)
{
	struct sockaddr_in6 a, expected = lab_sockaddr(address, 0);
	socklen_t len = sizeof(a);

	assert_sys(getpeername(fd, (struct sockaddr *)&a, &len));
	assert_memory_equal(&a.sin6_addr, &expected.sin6_addr, sizeof(a.sin6_addr));
}

/* ---- tests ---- */

/* Old connections of three kinds live through the move; new ones reach the container by the old host's address and by the new one's; then everything is as it was. */
static void test_publication_moves(void **state)
{
	json_t *at_source, *at_destination, *undo_source, *undo_destination;
	struct lab_connection docker, ours, late, straight;
	_fm_free_ char *before_src = NULL, *before_dst = NULL, *after_src = NULL, *after_dst = NULL, *open_src = NULL;
	unsigned long dropped;
	int listener;

	if (!lab.n)
		skip();
	at_source = action_at(SRC, "tcp", false, PORT);
	at_destination = action_at(DST, "tcp", false, PORT);
	before_src = ruleset(SRC);
	before_dst = ruleset(DST);
	in_ns(SRC, publication);
	listener = listen_in(CT, PORT);
	docker = connect_from(CLI, "192.0.2.3", host_address[SRC], PORT, listener);

	undo_source = prepare(SRC, at_source);
	undo_destination = prepare(DST, at_destination);
	assert_code(FM_E_FAILED_PRECONDITION, drive(SRC, VERIFY, at_source, undo_source, &err));
	for (int i = 0; i < 2; i++) {
		assert_ok(drive(SRC, OPEN, at_source, undo_source, &err));
		assert_ok(drive(DST, OPEN, at_destination, undo_destination, &err));
	}
	open_src = ruleset(SRC);
	assert_non_null(strstr(open_src, "ip daddr 192.0.2.10 tcp dport 6379 dnat ip to 10.79.0.100:6379"));
	ours = connect_from(CLI, "192.0.2.3", host_address[SRC], PORT, listener);
	talk(&docker);
	talk(&ours);
	dropped = dropped_at(DST);

	carry(SRC, DST, 2, 2);
	move(SRC, DST);
	in_ns(SRC, "nft delete table ip docker");
	assert_ok(drive(SRC, FLIP, at_source, undo_source, &err));
	assert_ok(drive(DST, FLIP, at_destination, undo_destination, &err));
	assert_ok(drive(SRC, VERIFY, at_source, undo_source, &err));
	assert_ok(drive(DST, VERIFY, at_destination, undo_destination, &err));
	talk(&docker);
	talk(&ours);
	late = connect_from(CLI, "192.0.2.3", host_address[SRC], PORT, listener);
	straight = connect_from(CLI, "192.0.2.4", host_address[DST], PORT, listener);
	talk(&late);
	talk(&straight);
	assert_peer(late.server, "192.0.2.3");
	assert_peer(straight.server, "192.0.2.4");
	assert_int_equal(dropped_at(DST), dropped);
	assert_int_equal(live_at(SRC).translated, 3);
	assert_int_equal(live_at(DST).translated, 1);

	for (int i = 0; i < 2; i++) {
		assert_ok(drive(SRC, REVERT, at_source, undo_source, &err));
		assert_ok(drive(DST, REVERT, at_destination, undo_destination, &err));
	}
	after_src = ruleset(SRC);
	after_dst = ruleset(DST);
	assert_string_equal(after_src, before_src);
	assert_string_equal(after_dst, before_dst);
	break_off(&docker);
	break_off(&ours);
	break_off(&late);
	break_off(&straight);
	(void)close(listener);
	move(DST, SRC);
	json_decref(at_source);
	json_decref(at_destination);
	json_decref(undo_source);
	json_decref(undo_destination);
}

static int answered(int socket, const char *to, int server, const char *seen_from)
{
	struct sockaddr_in6 a = lab_sockaddr(to, PORT), from;
	socklen_t len = sizeof(from);
	char got;

	assert_int_equal(sendto(socket, "q", 1, 0, (struct sockaddr *)&a, sizeof(a)), 1);
	wait_readable(server);
	assert_int_equal(recvfrom(server, &got, 1, 0, (struct sockaddr *)&from, &len), 1);
	a = lab_sockaddr(seen_from, 0);
	assert_memory_equal(&from.sin6_addr, &a.sin6_addr, sizeof(a.sin6_addr));
	assert_int_equal(sendto(server, "a", 1, 0, (struct sockaddr *)&from, len), 1);
	wait_readable(socket);
	assert_int_equal(recvfrom(socket, &got, 1, 0, (struct sockaddr *)&from, &len), 1);
	a = lab_sockaddr(to, 0);
	return memcmp(&from.sin6_addr, &a.sin6_addr, sizeof(a.sin6_addr)) == 0 && ntohs(from.sin6_port) == PORT;
}

/* UDP, IPv6, another port inside, and the host's own programs. Three actions in one table: it goes with the last. */
static void test_kinds(void **state)
{
	json_t *action[3], *undo[3];
	_fm_free_ char *before = NULL, *after = NULL;
	int udp, udp6, client, local, listener;
	struct lab_connection c;

	if (!lab.n)
		skip();
	before = ruleset(SRC);
	action[0] = action_at(SRC, "udp", false, 53);
	action[1] = action_at(SRC, "udp", true, 53);
	action[2] = action_at(SRC, "tcp", true, 7000);
	for (int i = 0; i < 3; i++) {
		undo[i] = prepare(SRC, action[i]);
		assert_ok(drive(SRC, OPEN, action[i], undo[i], &err));
	}
	udp = socket_in(CT, SOCK_DGRAM, "10.79.0.100", 53);
	udp6 = socket_in(CT, SOCK_DGRAM, "fd79::100", 53);
	listener = listen_in(CT, 7000);
	client = socket_in(CLI, SOCK_DGRAM, NULL, 0);
	local = socket_in(SRC, SOCK_DGRAM, NULL, 0);
	assert_true(answered(client, host_address[SRC], udp, "192.0.2.3"));
	assert_true(answered(client, host_address6[SRC], udp6, "fd02::3"));
	assert_true(answered(local, host_address[SRC], udp, host_address[SRC]));
	c = connect_from(CLI, NULL, host_address6[SRC], PORT, listener);
	talk(&c);
	break_off(&c);
	for (int i = 0; i < 3; i++) {
		assert_ok(drive(SRC, VERIFY, action[i], undo[i], &err));
		assert_ok(drive(SRC, REVERT, action[i], undo[i], &err));
		assert_code(FM_E_FAILED_PRECONDITION, drive(SRC, VERIFY, action[i], undo[i], &err));
		json_decref(action[i]);
		json_decref(undo[i]);
	}
	after = ruleset(SRC);
	assert_string_equal(after, before);
	(void)close(udp);
	(void)close(udp6);
	(void)close(client);
	(void)close(local);
	(void)close(listener);
}

static void expect_refused(int ns, enum fm_code code, const json_t *action, const char *word)
{
	struct driving d = { .call = PREPARE, .action = action, .limit_ms = LAB_WAIT_MS, .cancel_fd = -1 };

	assert_code(code, fm_netns_call(lab.ns[ns], do_drive, &d, &err));
	assert_null(d.made);
	if (!strstr(err.message, word))
		fail_msg("\"%s\" does not say \"%s\"", err.message, word);
}

static void test_refuses_words(void **state)
{
	static const struct {
		const char *member;
		const char *value; /* JSON; NULL: removed */
	} t[] = { { "side", "\"left\"" },
		  { "side", NULL },
		  { "protocol", "\"icmp\"" },
		  { "host_address", "\"10.0.0\"" },
		  { "host_address", "7" },
		  { "host_port", "0" },
		  { "host_port", "65536" },
		  { "host_port", "\"80\"" },
		  { "address", "\"0.0.0.0\"" },
		  { "address", "\"::1\"" },
		  { "address", "\"fd79::100\"" },
		  { "port", "1.5" },
		  { "port", NULL },
		  { "comment", "1" },
		  { "address", "\"10.79.0.100\\n\"" } };

	if (!lab.n)
		skip();
	for (size_t i = 0; i < FM_ARRAY_SIZE(t); i++) {
		json_t *a = action_at(SRC, "tcp", false, PORT);

		if (t[i].value)
			json_object_set_new(a, t[i].member, json_loads(t[i].value, JSON_DECODE_ANY, NULL));
		else
			json_object_del(a, t[i].member);
		expect_refused(SRC, FM_E_INVALID_ARGUMENT, a, t[i].member);
		assert_true(fm_str_startswith(err.message, "dnat: "));
		json_decref(a);
	}
}

static void test_refuses_hosts(void **state)
{
	json_t *here, *taken, *undo, *elsewhere;
	int listener;

	if (!lab.n)
		skip();
	here = action_at(DST, "tcp", false, PORT);
	elsewhere = action_at(SRC, "tcp", false, PORT);
	expect_refused(DST, FM_E_FAILED_PRECONDITION, elsewhere, "host_address");
	listener = listen_in(DST, PORT);
	expect_refused(DST, FM_E_ALREADY_EXISTS, here, "host_port");
	/* at the source that is the publication's own program */
	json_object_set_new(here, "side", json_string("source"));
	json_decref(prepare(DST, here));
	json_object_set_new(here, "side", json_string("destination"));
	(void)close(listener);
	in_ns(DST, "echo 0 >/proc/sys/net/ipv4/ip_forward");
	expect_refused(DST, FM_E_FAILED_PRECONDITION, here, "forward");
	in_ns(DST, "echo 1 >/proc/sys/net/ipv4/ip_forward");

	/* another container's publication of the same port, also when it comes between prepare and open */
	undo = prepare(DST, here);
	taken = action_at(DST, "tcp", false, 7001);
	{
		json_t *other = prepare(DST, taken);

		assert_ok(drive(DST, OPEN, taken, other, &err));
		expect_refused(DST, FM_E_ALREADY_EXISTS, here, "7001");
		assert_code(FM_E_ABORTED, drive(DST, OPEN, here, undo, &err));
		assert_ok(drive(DST, REVERT, here, undo, &err));
		assert_ok(drive(DST, VERIFY, taken, other, &err));
		assert_ok(drive(DST, REVERT, taken, other, &err));
		json_decref(other);
	}
	json_decref(here);
	json_decref(taken);
	json_decref(undo);
	json_decref(elsewhere);
}

/* A table of our name that somebody made, and somebody's rule in our table. */
static void test_leaves_others_alone(void **state)
{
	_fm_free_ char *before = NULL, *after = NULL, *kept = NULL;
	json_t *a, *undo;

	if (!lab.n)
		skip();
	a = action_at(DST, "tcp", false, PORT);
	undo = prepare(DST, a);
	in_ns(DST, "nft 'add table inet fleximigrate; add chain inet fleximigrate prerouting { type nat hook prerouting priority 0; }'");
	before = ruleset(DST);
	expect_refused(DST, FM_E_FAILED_PRECONDITION, a, "not ours");
	assert_code(FM_E_ABORTED, drive(DST, OPEN, a, undo, &err));
	assert_ok(drive(DST, REVERT, a, undo, &err));
	after = ruleset(DST);
	assert_string_equal(after, before);
	in_ns(DST, "nft delete table inet fleximigrate");

	assert_ok(drive(DST, OPEN, a, undo, &err));
	in_ns(DST, "nft add rule inet fleximigrate output ip daddr 198.51.100.1 accept comment foreign");
	/* of our two rules one is taken away: it comes back */
	in_ns(DST, "nft flush chain inet fleximigrate prerouting");
	assert_code(FM_E_FAILED_PRECONDITION, drive(DST, VERIFY, a, undo, &err));
	assert_ok(drive(DST, FLIP, a, undo, &err));
	assert_ok(drive(DST, VERIFY, a, undo, &err));
	assert_ok(drive(DST, REVERT, a, undo, &err));
	kept = output_in(DST, "nft list table inet fleximigrate");
	assert_non_null(strstr(kept, "foreign"));
	assert_null(strstr(kept, "dnat"));
	in_ns(DST, "nft flush chain inet fleximigrate output");
	/* what a crash leaves: an empty table that is ours */
	assert_ok(drive(DST, REVERT, a, undo, &err));
	in_ns(DST, "! nft list table inet fleximigrate");
	json_decref(a);
	json_decref(undo);
}

struct found {
	const json_t *known;
	char text[256];
	unsigned n;
};

static void found_cb(const char *what, void *userdata)
{
	struct found *f = userdata;

	f->n++;
	(void)snprintf(f->text, sizeof(f->text), "%s", what);
}

static int do_leftovers(void *userdata, struct fm_error *e)
{
	struct found *f = userdata;
	struct fm_redirect_call c = { .deadline_ms = fm_now_ms() + LAB_WAIT_MS, .cancel_fd = -1 };

	f->n = 0;
	return fm_redirect_driver("dnat")->leftovers(&c, f->known, found_cb, f, e);
}

static void test_leftovers(void **state)
{
	struct found f = { 0 };
	json_t *a[2], *undo[2], *known;

	if (!lab.n)
		skip();
	for (int i = 0; i < 2; i++) {
		a[i] = action_at(DST, i ? "udp" : "tcp", i, PORT);
		undo[i] = prepare(DST, a[i]);
		assert_ok(drive(DST, OPEN, a[i], undo[i], &err));
	}
	known = json_pack("[O]", a[0]);
	f.known = known;
	assert_ok(fm_netns_call(lab.ns[DST], do_leftovers, &f, &err));
	assert_int_equal(f.n, 1);
	assert_non_null(strstr(f.text, "udp [fd02::20]:6379 to [fd79::100]:6379"));
	json_array_append(known, a[1]);
	assert_ok(fm_netns_call(lab.ns[DST], do_leftovers, &f, &err));
	assert_int_equal(f.n, 0);
	for (int i = 0; i < 2; i++) {
		assert_ok(drive(DST, REVERT, a[i], undo[i], &err));
		json_decref(a[i]);
		json_decref(undo[i]);
	}
	json_decref(known);
	f.known = NULL;
	assert_ok(fm_netns_call(lab.ns[DST], do_leftovers, &f, &err));
	assert_int_equal(f.n, 0);
}

static void *make_noise(void *arg)
{
	atomic_bool *stop = arg;

	while (!atomic_load(stop))
		in_ns(DST, "for i in 1 2 3 4 5 6 7 8 9 10; do echo 'add table inet noise'; echo 'delete table inet noise'; done | nft -i "
		           ">/dev/null 2>&1");
	return NULL;
}

/* Somebody changes the ruleset all the time: each change of ours is made for the ruleset that was looked at, or is made again. */
static void test_busy_ruleset(void **state)
{
	enum { ROUNDS = 200 };
	_fm_free_ char *before = NULL, *after = NULL;
	atomic_bool stop = false;
	pthread_t noise;
	json_t *a, *undo;

	if (!lab.n)
		skip();
	a = action_at(DST, "tcp", false, PORT);
	undo = prepare(DST, a);
	before = ruleset(DST);
	assert_int_equal(pthread_create(&noise, NULL, make_noise, &stop), 0);
	for (int i = 0; i < ROUNDS; i++) {
		assert_ok(drive(DST, OPEN, a, undo, &err));
		assert_ok(drive(DST, REVERT, a, undo, &err));
	}
	atomic_store(&stop, true);
	assert_int_equal(pthread_join(noise, NULL), 0);
	after = ruleset(DST);
	assert_string_equal(after, before);
	json_decref(a);
	json_decref(undo);
}

static void test_deadline_and_cancel(void **state)
{
	json_t *a, *undo, *damaged;
	int pipe_fd[2];

	if (!lab.n)
		skip();
	a = action_at(DST, "tcp", false, PORT);
	undo = prepare(DST, a);
	damaged = json_pack("{s:i, s:s}", "dnat", 1, "id", "xyz");
	assert_sys(pipe2(pipe_fd, O_CLOEXEC));
	assert_int_equal(write(pipe_fd[1], "x", 1), 1);
	for (int call = PREPARE; call <= REVERT; call++) {
		struct driving d = { .call = (enum call)call, .action = a, .undo = undo, .cancel_fd = -1 };

		assert_code(FM_E_DEADLINE_EXCEEDED, fm_netns_call(lab.ns[DST], do_drive, &d, &err));
		d.limit_ms = LAB_WAIT_MS;
		d.cancel_fd = pipe_fd[0];
		assert_code(FM_E_CANCELLED, fm_netns_call(lab.ns[DST], do_drive, &d, &err));
		d.cancel_fd = -1;
		d.undo = damaged;
		if (call != PREPARE)
			assert_code(FM_E_DATA_LOSS, fm_netns_call(lab.ns[DST], do_drive, &d, &err));
	}
	(void)close(pipe_fd[0]);
	(void)close(pipe_fd[1]);
	json_decref(a);
	json_decref(undo);
	json_decref(damaged);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_publication_moves),   cmocka_unit_test(test_kinds),
		cmocka_unit_test(test_refuses_words),       cmocka_unit_test(test_refuses_hosts),
		cmocka_unit_test(test_leaves_others_alone), cmocka_unit_test(test_leftovers),
		cmocka_unit_test(test_busy_ruleset),        cmocka_unit_test(test_deadline_and_cancel),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
