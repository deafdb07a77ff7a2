/* SPDX-License-Identifier: MIT */
/* test-openflow-ovs.c - our OpenFlow against a real Open vSwitch; what flows there are is asked with ovs-ofctl. */
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#include "network/openflow-link.h"
#include "network/openflow-rates.h"
#include "ovs-lab.h"

#define ETH_DST   "\x02\x77\x00\x00\x01\x00"
#define RATE_HZ   2000u
#define STREAM_MS 2000u
#define IN_FLIGHT 128u /* less than a port's buffer holds: a switch that is not scheduled for a moment loses nothing */
#define FLIPS_MIN 10u
#define SETTLE_MS 5000u

static struct fm_of *connect_to(const char *address)
{
	struct fm_of_options o = { .address = address };
	struct fm_of *c = NULL;

	assert_ok(fm_of_connect(&o, WAIT_MS, -1, &c, &err));
	return c;
}

static struct fm_of_flow_mod flow_to(uint32_t port, uint16_t priority)
{
	struct fm_of_flow_mod f = { .command = FM_OF_ADD, .priority = priority, .cookie = 0x77 };

	f.match.has = FM_OF_ETH_DST;
	memcpy(f.match.eth_dst, ETH_DST, 6);
	f.actions.n = 1;
	f.actions.at[0] = (struct fm_of_action){ .kind = FM_OF_OUTPUT, .number = port };
	return f;
}

static struct fm_of_flow_mod delete_all(void)
{
	return (struct fm_of_flow_mod){ .command = FM_OF_DELETE, .table = FM_OF_TABLE_ALL };
}

/* The same flow a second time, less wide, and not to be taken when it overlaps */
static struct fm_of_flow_mod overlapping(uint16_t priority)
{
	struct fm_of_flow_mod f = flow_to(2, priority);

	f.match.has |= FM_OF_IN_PORT;
	f.match.in_port = 1;
	f.flags = FM_OF_CHECK_OVERLAP;
	return f;
}

static struct fm_of_flow_mod impossible(void)
{
	return flow_to(FM_OF_PORT_MAX + 7, 1); /* a reserved number that means nothing */
}

static void clear(struct fm_of *c)
{
	struct fm_of_flow_mod f = delete_all();

	assert_ok(fm_of_flow_mods(c, &f, 1, WAIT_MS, -1, &err));
}

static void test_connect(void **state)
{
	struct ovs_lab *lab = *state;
	_fm_of_ struct fm_of *a = connect_to(TCP_A), *b = connect_to(lab->address_b);

	assert_true(fm_of_is_up(a) && fm_of_datapath_id(a) == DPID_A);
	assert_true(fm_of_is_up(b) && fm_of_datapath_id(b) == DPID_B);
	assert_true(fm_of_retry_at_ms(a) == 0);
	assert_ok(fm_of_barrier(a, WAIT_MS, -1, &err));
	assert_ok(fm_of_keepalive(a, WAIT_MS, -1, &err));
	assert_ok(fm_of_check(b, &err));
}

static void test_versions(void **state)
{
	struct ovs_lab *lab = *state;
	struct fm_of_options o = { .address = lab->address_b };
	struct fm_of *c = NULL;

	lab_run("ovs-vsctl --db=$DB set bridge br-b protocols=OpenFlow10,OpenFlow13");
	assert_code(FM_E_UNIMPLEMENTED, fm_of_connect(&o, WAIT_MS, -1, &c, &err));
	lab_run("ovs-vsctl --db=$DB set bridge br-b protocols=OpenFlow13,OpenFlow14");
	c = connect_to(lab->address_b);
	fm_of_free(c);
	lab_run("ovs-vsctl --db=$DB clear bridge br-b protocols");
}

static void test_flow_mods(void **state)
{
	_fm_of_ struct fm_of *a = connect_to(TCP_A);
	struct fm_of_flow_mod f[3] = { flow_to(2, 100), flow_to(3, 200), { .command = FM_OF_ADD, .priority = 5, .table = 1 } };

	clear(a);
	f[1].match.has |= FM_OF_IN_PORT | FM_OF_ETH_TYPE | FM_OF_IPV4_DST | FM_OF_VLAN_VID;
	f[1].match.in_port = 1;
	f[1].match.eth_type = 0x0800;
	f[1].match.vlan_vid = 42;
	inet_pton(AF_INET, "10.77.0.100", &f[1].match.ipv4_dst);
	f[1].actions.n = 3;
	f[1].actions.at[0] = (struct fm_of_action){ .kind = FM_OF_SET_ETH_SRC, .mac = { 2, 0, 0, 0, 0, 7 } };
	f[1].actions.at[1] = (struct fm_of_action){ .kind = FM_OF_SET_IPV4_DST };
	inet_pton(AF_INET, "10.78.0.100", &f[1].actions.at[1].ipv4);
	f[1].actions.at[2] = (struct fm_of_action){ .kind = FM_OF_OUTPUT, .number = 3 };
	assert_ok(fm_of_flow_mods(a, f, 3, WAIT_MS, -1, &err));
	assert_flows("br-a", "priority=200,ip,in_port=1,dl_vlan=42,dl_dst=02:77:00:00:01:00,nw_dst=10.77.0.100 "
	                     "actions=set_field:02:00:00:00:00:07->eth_src,set_field:10.78.0.100->ip_dst,output:3\n"
	                     "priority=100,dl_dst=02:77:00:00:01:00 actions=output:2\n"
	                     "table=1, priority=5 actions=drop\n");
	f[0].command = FM_OF_MODIFY_STRICT;
	f[0].actions.at[0].number = FM_OF_PORT_LOCAL;
	f[1].command = FM_OF_DELETE_STRICT;
	f[1].actions.n = 0;
	f[2].command = FM_OF_DELETE;
	assert_ok(fm_of_flow_mods(a, f, 3, WAIT_MS, -1, &err));
	assert_flows("br-a", "priority=100,dl_dst=02:77:00:00:01:00 actions=LOCAL\n");
	/* the second of three is refused, and the error says so; the others are carried out, this is no bundle */
	struct fm_of_flow_mod mixed[3] = { flow_to(2, 1), impossible(), flow_to(3, 2) };
	assert_code(FM_E_FAILED_PRECONDITION, fm_of_flow_mods(a, mixed, 3, WAIT_MS, -1, &err));
	assert_non_null(strstr(err.message, TCP_A));
	assert_non_null(strstr(err.message, "change 2 of 3: bad action: there is no such port to send to (2/4)"));
	assert_flows("br-a", "priority=100,dl_dst=02:77:00:00:01:00 actions=LOCAL\npriority=2,dl_dst=02:77:00:00:01:00 actions=output:3\n"
	                     "priority=1,dl_dst=02:77:00:00:01:00 actions=output:2\n");
}

/* Everything that a match can have, as a switch gives it back */
static void test_flow_matches_come_back(void **state)
{
	_fm_of_ struct fm_of *a = connect_to(TCP_A);
	struct fm_of_flow_mod f[3] = { flow_to(2, 30), flow_to(2, 20), flow_to(2, 10) };
	_fm_free_ struct fm_of_flow *flows = NULL;
	size_t n = 0;

	clear(a);
	f[0].match = (struct fm_of_match){ .has = FM_OF_ETH_TYPE | FM_OF_IPV6_DST | FM_OF_IPV6_SRC, .eth_type = 0x86dd };
	inet_pton(AF_INET6, "fd77::100", &f[0].match.ipv6_dst);
	inet_pton(AF_INET6, "fd77::3", &f[0].match.ipv6_src);
	f[0].actions.at[0] = (struct fm_of_action){ .kind = FM_OF_SET_IPV6_DST, .ipv6 = f[0].match.ipv6_src };
	f[1].match = (struct fm_of_match){ .has = FM_OF_ETH_TYPE | FM_OF_ARP_OP | FM_OF_ARP_TPA | FM_OF_ARP_SPA,
		                           .eth_type = 0x0806,
		                           .arp_op = 1 };
	inet_pton(AF_INET, "10.77.0.100", &f[1].match.arp_tpa);
	f[2].match =
	        (struct fm_of_match){ .has = FM_OF_IN_PORT | FM_OF_ETH_SRC | FM_OF_VLAN_VID, .in_port = 1, .vlan_vid = FM_OF_VLAN_NONE };
	memcpy(f[2].match.eth_src, ETH_DST, 6);
	assert_ok(fm_of_flow_mods(a, f, 3, WAIT_MS, -1, &err));
	assert_ok(fm_of_flows(a, NULL, WAIT_MS, -1, &flows, &n, &err));
	assert_int_equal(n, 3);
	for (size_t i = 0; i < n; i++) {
		const struct fm_of_flow_mod *m = &f[3 - flows[i].priority / 10];
		assert_memory_equal(&flows[i].match, &m->match, sizeof(m->match));
		assert_true(flows[i].cookie == 0x77 && flows[i].actions.n == 1 && !flows[i].actions.more);
		assert_memory_equal(&flows[i].actions.at[0], &m->actions.at[0], sizeof(m->actions.at[0]));
	}
}

static void test_bundle(void **state)
{
	_fm_of_ struct fm_of *a = connect_to(TCP_A);
	struct fm_of_flow_mod good[2] = { flow_to(2, 10), flow_to(3, 20) }, bad[2] = { flow_to(2, 30), impossible() };
	struct fm_of_flow_mod late[2] = { flow_to(2, 40), overlapping(10) };
	uint32_t id = 0, other = 0;

	clear(a);
	assert_ok(fm_of_bundle_prepare(a, good, 2, WAIT_MS, -1, &id, &err));
	assert_flows("br-a", ""); /* nothing yet */
	assert_ok(fm_of_bundle_commit(a, id, WAIT_MS, -1, &err));
	const char *two = "priority=20,dl_dst=02:77:00:00:01:00 actions=output:3\npriority=10,dl_dst=02:77:00:00:01:00 actions=output:2\n";
	assert_flows("br-a", two);
	assert_code(FM_E_FAILED_PRECONDITION, fm_of_bundle_commit(a, id, WAIT_MS, -1, &err)); /* it is gone */
	/* refused when it is handed over */
	assert_code(FM_E_FAILED_PRECONDITION, fm_of_bundle_prepare(a, bad, 2, WAIT_MS, -1, &other, &err));
	assert_non_null(strstr(err.message, "change 2 of 2"));
	assert_flows("br-a", two);
	assert_ok(fm_of_barrier(a, WAIT_MS, -1, &err));
	assert_int_equal(other, 0);
	assert_code(FM_E_FAILED_PRECONDITION, fm_of_bundle_commit(a, id + 1, WAIT_MS, -1, &err)); /* it was discarded */
	/* refused when it is to be true: all of it, also what was in front */
	assert_ok(fm_of_bundle_prepare(a, late, 2, WAIT_MS, -1, &id, &err));
	assert_code(FM_E_FAILED_PRECONDITION, fm_of_bundle_commit(a, id, WAIT_MS, -1, &err));
	assert_non_null(strstr(err.message, "change 2 of 2: flow-mod failed: it overlaps with another flow"));
	assert_flows("br-a", two);
	/* and one that nobody wants any more */
	assert_ok(fm_of_bundle_prepare(a, late, 1, WAIT_MS, -1, &id, &err));
	assert_ok(fm_of_bundle_discard(a, id, WAIT_MS, -1, &err));
	assert_code(FM_E_FAILED_PRECONDITION, fm_of_bundle_commit(a, id, WAIT_MS, -1, &err));
	assert_flows("br-a", two);
}

static void test_large_bundle(void **state)
{
	_fm_of_ struct fm_of *a = connect_to(TCP_A);
	struct fm_of_flow_mod *many = calloc(FM_MAX_OF_BUNDLE_MESSAGES + 1, sizeof(*many));
	_fm_free_ struct fm_of_flow *flows = NULL;
	struct fm_of_flow_filter few = { .cookie = 0x1000, .cookie_mask = ~0xfull, .table = FM_OF_TABLE_ALL };
	uint32_t id;
	size_t n;

	clear(a);
	for (uint16_t i = 0; i <= FM_MAX_OF_BUNDLE_MESSAGES; i++) {
		many[i] = flow_to(2, i);
		many[i].cookie = 0x1000u + i;
	}
	assert_code(FM_E_RESOURCE_EXHAUSTED, fm_of_bundle_prepare(a, many, FM_MAX_OF_BUNDLE_MESSAGES + 1, WAIT_MS, -1, &id, &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_of_bundle_prepare(a, many, 0, WAIT_MS, -1, &id, &err));
	assert_ok(fm_of_bundle_prepare(a, many, FM_MAX_OF_BUNDLE_MESSAGES, WAIT_MS, -1, &id, &err));
	assert_ok(fm_of_bundle_commit(a, id, WAIT_MS, -1, &err));
	assert_ok(fm_of_flows(a, NULL, WAIT_MS, -1, &flows, &n, &err)); /* in several messages */
	assert_int_equal(n, FM_MAX_OF_BUNDLE_MESSAGES);
	free(FM_TAKE_PTR(flows));
	assert_ok(fm_of_flows(a, &few, WAIT_MS, -1, &flows, &n, &err));
	assert_int_equal(n, 16);
	clear(a);
	free(FM_TAKE_PTR(flows));
	assert_ok(fm_of_flows(a, &few, WAIT_MS, -1, &flows, &n, &err));
	assert_true(n == 0 && !flows);
	free(many);
}

/* two bridges */

struct pair {
	struct fm_of *a, *b;
	struct fm_of_flow_mod old, new[2], undo[2];
	struct fm_of_change change[2];
};

#define OLD_FLOWS "priority=50,dl_dst=02:77:00:00:01:00 actions=output:2\n"
#define NEW_FLOWS "priority=60,dl_dst=02:77:00:00:01:00 actions=output:1\npriority=50,dl_dst=02:77:00:00:01:00 actions=output:3\n"

/* Both have the old flow. The change leads it elsewhere and adds one; the undo may be repeated. */
static void pair_up(struct pair *p, struct ovs_lab *lab)
{
	*p = (struct pair){ .a = connect_to(TCP_A), .b = connect_to(lab->address_b), .old = flow_to(2, 50) };
	p->new[0] = flow_to(3, 50);
	p->new[1] = flow_to(1, 60);
	p->undo[0] = p->old;
	p->undo[1] = p->new[1];
	p->undo[1].command = FM_OF_DELETE_STRICT;
	p->undo[1].actions.n = 0;
	clear(p->a);
	clear(p->b);
	assert_ok(fm_of_flow_mods(p->a, &p->old, 1, WAIT_MS, -1, &err));
	assert_ok(fm_of_flow_mods(p->b, &p->old, 1, WAIT_MS, -1, &err));
	p->change[0] = (struct fm_of_change){ p->a, p->new, p->undo, 2, 2 };
	p->change[1] = (struct fm_of_change){ p->b, p->new, p->undo, 2, 2 };
}

static void pair_down(struct pair *p)
{
	fm_of_free(p->a);
	fm_of_free(p->b);
}

static void assert_states(const struct fm_of_group *g, enum fm_of_state a, enum fm_of_state b)
{
	char text[256];

	if (fm_of_group_state(g, 0) != a || fm_of_group_state(g, 1) != b)
		fail_msg("%s", fm_of_group_describe(g, text, sizeof(text)));
}

static void test_group_changes_both(void **state)
{
	_fm_of_group_ struct fm_of_group *g = NULL;
	struct pair p;

	pair_up(&p, *state);
	assert_ok(fm_of_group_new(p.change, 2, &g, &err));
	assert_code(FM_E_FAILED_PRECONDITION, fm_of_group_commit(g, WAIT_MS, -1, &err));
	assert_ok(fm_of_group_prepare(g, WAIT_MS, -1, &err));
	assert_states(g, FM_OF_PREPARED, FM_OF_PREPARED);
	assert_flows("br-a", OLD_FLOWS);
	assert_ok(fm_of_group_commit(g, WAIT_MS, -1, &err));
	assert_states(g, FM_OF_COMMITTED, FM_OF_COMMITTED);
	assert_flows("br-a", NEW_FLOWS);
	assert_flows("br-b", NEW_FLOWS);
	/* and back, although it had succeeded */
	assert_ok(fm_of_group_rollback(g, WAIT_MS, -1, &err));
	assert_states(g, FM_OF_UNDONE, FM_OF_UNDONE);
	assert_flows("br-a", OLD_FLOWS);
	assert_flows("br-b", OLD_FLOWS);
	/* prepared, and then not wanted */
	assert_ok(fm_of_group_prepare(g, WAIT_MS, -1, &err));
	assert_ok(fm_of_group_rollback(g, WAIT_MS, -1, &err));
	assert_states(g, FM_OF_UNCHANGED, FM_OF_UNCHANGED);
	assert_flows("br-b", OLD_FLOWS);
	pair_down(&p);
}

static void test_group_one_refuses_in_prepare(void **state)
{
	_fm_of_group_ struct fm_of_group *g = NULL;
	struct pair p;

	pair_up(&p, *state);
	struct fm_of_flow_mod bad[2] = { p.new[0], impossible() };
	p.change[1].mods = bad;
	assert_ok(fm_of_group_new(p.change, 2, &g, &err));
	assert_code(FM_E_FAILED_PRECONDITION, fm_of_group_prepare(g, WAIT_MS, -1, &err));
	assert_non_null(strstr(err.message, fm_of_name(p.b)));
	assert_non_null(strstr(err.message, "there is no such port"));
	assert_states(g, FM_OF_UNCHANGED, FM_OF_UNCHANGED);
	assert_flows("br-a", OLD_FLOWS);
	assert_flows("br-b", OLD_FLOWS);
	pair_down(&p);
}

static void test_group_one_refuses_in_commit(void **state)
{
	struct pair p;

	pair_up(&p, *state);
	for (int who = 0; who < 2; who++) { /* the first and the last */
		_fm_of_group_ struct fm_of_group *g = NULL;
		struct fm_of_flow_mod bad[2] = { p.new[1], overlapping(50) };

		p.change[who].mods = bad;
		assert_ok(fm_of_group_new(p.change, 2, &g, &err));
		assert_ok(fm_of_group_prepare(g, WAIT_MS, -1, &err));
		assert_code(FM_E_FAILED_PRECONDITION, fm_of_group_commit(g, WAIT_MS, -1, &err));
		assert_non_null(strstr(err.message, fm_of_name(who ? p.b : p.a)));
		assert_non_null(strstr(err.message, "it overlaps"));
		assert_string_equal(err.hint, "");
		assert_states(g, who ? FM_OF_UNDONE : FM_OF_UNCHANGED, who ? FM_OF_UNCHANGED : FM_OF_UNDONE);
		assert_flows("br-a", OLD_FLOWS);
		assert_flows("br-b", OLD_FLOWS);
		p.change[who].mods = p.new;
	}
	pair_down(&p);
}

/* The switch does not answer: it may have heard the commit, and it has. What is unknown stays unknown until it can be undone. */
static void test_group_no_answer(void **state)
{
	struct ovs_lab *lab = *state;
	_fm_of_group_ struct fm_of_group *g = NULL;
	struct pair p;

	pair_up(&p, lab);
	assert_ok(fm_of_group_new(p.change, 2, &g, &err));
	assert_ok(fm_of_group_prepare(g, WAIT_MS, -1, &err));
	assert_sys(kill(lab->vswitchd, SIGSTOP));
	assert_code(FM_E_DEADLINE_EXCEEDED, fm_of_group_commit(g, 100, -1, &err));
	assert_non_null(strstr(err.hint, "UNKNOWN"));
	assert_states(g, FM_OF_UNKNOWN, FM_OF_UNKNOWN);
	assert_sys(kill(lab->vswitchd, SIGCONT));
	assert_ok(fm_of_group_rollback(g, WAIT_MS, -1, &err));
	assert_states(g, FM_OF_UNDONE, FM_OF_UNDONE);
	assert_flows("br-a", OLD_FLOWS);
	assert_flows("br-b", OLD_FLOWS);
	pair_down(&p);
}

/* A connection that broke is made again for the undo. */
static void test_group_undo_connects_again(void **state)
{
	_fm_of_group_ struct fm_of_group *g = NULL;
	struct fm_error broken = { .code = FM_E_UNAVAILABLE, .message = "for the test" };
	struct pair p;

	pair_up(&p, *state);
	assert_ok(fm_of_group_new(p.change, 2, &g, &err));
	assert_ok(fm_of_group_prepare(g, WAIT_MS, -1, &err));
	assert_ok(fm_of_group_commit(g, WAIT_MS, -1, &err));
	(void)fm_of_lose(p.a, &broken);
	(void)fm_of_lose(p.b, &broken);
	assert_ok(fm_of_group_rollback(g, WAIT_MS, -1, &err));
	assert_true(fm_of_is_up(p.a) && fm_of_is_up(p.b));
	assert_states(g, FM_OF_UNDONE, FM_OF_UNDONE);
	assert_flows("br-a", OLD_FLOWS);
	assert_flows("br-b", OLD_FLOWS);
	pair_down(&p);
}

static void test_masters(void **state)
{
	struct fm_of_options one = { .address = TCP_A, .master_generation = 5 }, two = { .address = TCP_A, .master_generation = 6 };
	_fm_of_ struct fm_of *older = NULL, *newer = NULL, *equal = connect_to(TCP_A);
	struct fm_of_flow_mod f = flow_to(2, 1);
	struct fm_of *late = NULL;
	uint32_t id;

	assert_ok(fm_of_connect(&one, WAIT_MS, -1, &older, &err));
	assert_ok(fm_of_bundle_prepare(older, &f, 1, WAIT_MS, -1, &id, &err));
	assert_ok(fm_of_connect(&two, WAIT_MS, -1, &newer, &err));
	/* what the older one had begun does not come later */
	assert_code(FM_E_PERMISSION_DENIED, fm_of_bundle_commit(older, id, WAIT_MS, -1, &err));
	assert_code(FM_E_PERMISSION_DENIED, fm_of_flow_mods(older, &f, 1, WAIT_MS, -1, &err));
	assert_ok(fm_of_flow_mods(newer, &f, 1, WAIT_MS, -1, &err));
	assert_code(FM_E_ABORTED, fm_of_connect(&one, WAIT_MS, -1, &late, &err));
	assert_ok(fm_of_flow_mods(equal, &f, 1, WAIT_MS, -1, &err)); /* an equal is no slave */
}

/* ports, packets */

static int open_port(int number)
{
	struct sockaddr_ll sa = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL) };
	char name[8];
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;

	assert_true(fd >= 0);
	(void)snprintf(name, sizeof(name), "p%d", number);
	sa.sll_ifindex = (int)if_nametoindex(name);
	assert_true(sa.sll_ifindex > 0);
	assert_sys(setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on)));
	assert_sys(bind(fd, (struct sockaddr *)&sa, sizeof(sa)));
	return fd;
}

/* A UDP packet whose number is its content */
struct packet {
	uint8_t dst[6], src[6], type[2];
	uint8_t ip[20], udp[8];
	uint32_t number;
} __attribute__((packed));

static void send_packet(int fd, uint32_t number)
{
	struct packet p = { .src = { 2, 0x77, 0, 0, 0, 1 }, .type = { 8, 0 }, .number = number };
	static const uint8_t ip[20] = { 0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 77, 0, 3, 10, 77, 0, 100 };
	unsigned sum = 0;

	memcpy(p.dst, ETH_DST, 6);
	memcpy(p.ip, ip, sizeof(ip));
	for (int i = 0; i < 20; i += 2)
		sum += (unsigned)ip[i] << 8 | ip[i + 1];
	sum = ~((sum & 0xffff) + (sum >> 16)) & 0xffff;
	p.ip[10] = (uint8_t)(sum >> 8);
	p.ip[11] = (uint8_t)sum;
	memcpy(p.udp, "\x1b\x5f\x1b\x5f\x00\x0c\x00\x00", 8);
	assert_int_equal(send(fd, &p, sizeof(p), 0), sizeof(p));
}

/* The next packet of ours that is there, or -1 */
static int64_t receive_packet(int fd)
{
	struct packet p;
	ssize_t n;

	while ((n = recv(fd, &p, sizeof(p), MSG_DONTWAIT)) > 0)
		if (n == sizeof(p) && memcmp(p.dst, ETH_DST, 6) == 0 && p.udp[0] == 0x1b)
			return p.number;
	return -1;
}

static int64_t await_packet(int fd, int timeout_ms)
{
	uint64_t deadline = fm_now_ms() + (uint64_t)timeout_ms;
	int64_t number;

	while ((number = receive_packet(fd)) < 0 && fm_deadline_left_ms(deadline) > 0)
		(void)fm_wait_fd(fd, POLLIN, fm_deadline_left_ms(deadline), NULL);
	return number;
}

/* The switch's cache follows its table a moment later, and may drop packets that came before there was a flow for them. */
static void await_way(int from, int to)
{
	uint64_t deadline = fm_now_ms() + WAIT_MS;

	do {
		send_packet(from, 0);
		assert_true(fm_deadline_left_ms(deadline) > 0);
	} while (await_packet(to, 100) < 0);
	while (await_packet(to, 100) >= 0) /* late ones */
		;
}

static void test_statistics(void **state)
{
	_fm_of_ struct fm_of *a = connect_to(TCP_A);
	_fm_close_ int from = open_port(1), to = open_port(2);
	struct fm_of_flow_mod f = flow_to(2, 10);
	uint64_t deadline = fm_now_ms() + WAIT_MS, packets = 0, bytes = 0;

	clear(a);
	f.idle_timeout_s = 300;
	assert_ok(fm_of_flow_mods(a, &f, 1, WAIT_MS, -1, &err));
	for (uint32_t i = 0; i < 20; i++) {
		send_packet(from, i);
		assert_int_equal(await_packet(to, WAIT_MS), i);
	}
	/* the switch brings its counters up to date now and then */
	while (packets < 20 && fm_deadline_left_ms(deadline) > 0) {
		_fm_free_ struct fm_of_flow *flows = NULL;
		size_t n;

		assert_ok(fm_of_flows(a, NULL, WAIT_MS, -1, &flows, &n, &err));
		assert_int_equal(n, 1);
		assert_true(flows[0].idle_timeout_s == 300 && flows[0].priority == 10);
		packets = flows[0].packets;
		bytes = flows[0].bytes;
		fm_pause_ms(20);
	}
	assert_true(packets == 20 && bytes == 20 * sizeof(struct packet));
}

static const struct fm_of_counters *of_port(const struct fm_of_counters *v, size_t n, uint32_t port)
{
	for (size_t i = 0; i < n; i++)
		if (v[i].port == port)
			return &v[i];
	fail_msg("no port %u", port);
	return NULL;
}

/* Two readings with known traffic between them, and what that is a second. The switch lists its ports in any order. */
static void test_counters(void **state)
{
	_fm_of_ struct fm_of *a = connect_to(TCP_A);
	_fm_close_ int from = open_port(1), to = open_port(2);
	_fm_free_ struct fm_of_counters *before = NULL, *after = NULL;
	struct fm_of_flow_mod f = flow_to(2, 10);
	uint64_t deadline = fm_now_ms() + WAIT_MS;
	const struct fm_of_counters *was, *is;
	size_t n_before = 0, n = 0, n_rates = 0, at = 0;
	struct fm_of_rate rates[8];

	clear(a);
	assert_ok(fm_of_flow_mods(a, &f, 1, WAIT_MS, -1, &err));
	await_way(from, to);
	assert_ok(fm_of_port_counters(a, WAIT_MS, -1, &before, &n_before, &err));
	assert_int_equal(n_before, 4); /* three, and the bridge's own */
	was = of_port(before, n_before, 1);
	for (uint32_t i = 0; i < 20; i++) {
		send_packet(from, i);
		assert_int_equal(await_packet(to, WAIT_MS), i);
	}
	do {
		free(FM_TAKE_PTR(after));
		assert_ok(fm_of_port_counters(a, WAIT_MS, -1, &after, &n, &err));
		is = of_port(after, n, 1);
		fm_pause_ms(5);
	} while (is->rx_bytes - was->rx_bytes < 20 * sizeof(struct packet) && fm_deadline_left_ms(deadline) > 0);
	if (is->rx_packets - was->rx_packets < 20 || is->rx_bytes - was->rx_bytes < 20 * sizeof(struct packet) || is->age_us <= was->age_us)
		fail_msg("%llu packets, %llu bytes in %lld us", (unsigned long long)(is->rx_packets - was->rx_packets),
		         (unsigned long long)(is->rx_bytes - was->rx_bytes), (long long)(is->age_us - was->age_us));
	fm_of_port_rates(before, n_before, after, n, rates, &n_rates);
	assert_int_equal(n_rates, 4);
	while (rates[at].port != 1)
		at++;
	assert_int_equal(rates[at].rx_bytes_per_s, (is->rx_bytes - was->rx_bytes) * 1000000 / (is->age_us - was->age_us));
}

static void assert_event(struct fm_of *c, enum fm_of_port_reason reason, const char *name, bool link_down)
{
	struct fm_of_port_status s = { 0 };

	do /* of the same port there may be some that say less */
		assert_ok(fm_of_port_event(c, WAIT_MS, -1, &s, &err));
	while (!fm_streq(s.port.name, name) || s.reason != reason || s.port.link_down != link_down);
}

static void test_ports(void **state)
{
	_fm_of_ struct fm_of *a = connect_to(TCP_A);
	_fm_free_ struct fm_of_port *ports = NULL;
	struct fm_of_port_status s;
	size_t n, seen = 0;

	assert_ok(fm_of_ports(a, WAIT_MS, -1, &ports, &n, &err));
	for (size_t i = 0; i < n; i++)
		if (ports[i].number <= 3) {
			assert_true(ports[i].name[0] == 's' && ports[i].name[1] == (char)('0' + ports[i].number));
			assert_false(ports[i].link_down);
			seen++;
		}
	assert_int_equal(seen, 3);
	assert_code(FM_E_DEADLINE_EXCEEDED, fm_of_port_event(a, 0, -1, &s, &err));
	lab_run("ip link set p3 down");
	assert_event(a, FM_OF_PORT_MODIFIED, "s3", true);
	lab_run("ip link set p3 up");
	assert_event(a, FM_OF_PORT_MODIFIED, "s3", false);
	lab_run("ovs-vsctl --db=$DB del-port br-a s3");
	assert_ok(fm_of_barrier(a, WAIT_MS, -1, &err)); /* events are kept while something else is asked */
	assert_event(a, FM_OF_PORT_DELETED, "s3", false);
	lab_run("ovs-vsctl --db=$DB add-port br-a s3 -- set interface s3 ofport_request=3");
	assert_event(a, FM_OF_PORT_ADDED, "s3", false);
}

/* a flip under load */

struct stream {
	int from, to[2];
	_Atomic unsigned sent, received;
	unsigned lost, twice, at[2];
	bool stop;
};

static void take_packets(struct stream *s, uint8_t *seen)
{
	for (int i = 0; i < 2; i++) {
		int64_t number;
		while ((number = receive_packet(s->to[i])) >= 0) {
			s->twice += seen[number];
			seen[number] = 1;
			s->at[i]++;
			s->received++;
		}
	}
}

/* 2,000 packets a second, and never more under way than a port's buffer holds: what is missing then was lost by the flows. A loss stops nothing: it counts as arrived after SETTLE_MS. */
static void *run_stream(void *arg)
{
	struct stream *s = arg;
	uint8_t seen[RATE_HZ * STREAM_MS / 1000] = { 0 };
	uint64_t begin = fm_now_us(), deadline;

	while (s->sent < sizeof(seen)) {
		struct pollfd p[2] = { { .fd = s->to[0], .events = POLLIN }, { .fd = s->to[1], .events = POLLIN } };
		uint64_t due = begin + (uint64_t)s->sent * 1000000 / RATE_HZ, now = fm_now_us();

		if (now >= due && s->sent - s->received < IN_FLIGHT)
			send_packet(s->from, s->sent++);
		else if (poll(p, 2, 1) == 0 && now > due + SETTLE_MS * 1000)
			break;
		take_packets(s, seen);
	}
	for (deadline = fm_now_ms() + SETTLE_MS; s->received < s->sent && fm_deadline_left_ms(deadline) > 0; take_packets(s, seen)) {
		struct pollfd p[2] = { { .fd = s->to[0], .events = POLLIN }, { .fd = s->to[1], .events = POLLIN } };
		(void)poll(p, 2, 10);
	}
	s->lost = (unsigned)sizeof(seen) - s->received;
	return NULL;
}

static void test_flip_loses_nothing(void **state)
{
	_fm_of_ struct fm_of *a = connect_to(TCP_A);
	struct stream s = { .from = open_port(1), .to = { open_port(2), open_port(3) } };
	struct fm_of_flow_mod f[2] = { flow_to(2, 10), flow_to(2, 10) };
	unsigned flips = 0;
	uint64_t slowest_us = 0, all_us = 0;
	pthread_t thread;
	uint32_t id;

	clear(a);
	assert_ok(fm_of_flow_mods(a, f, 1, WAIT_MS, -1, &err));
	await_way(s.from, s.to[0]);

	assert_int_equal(0, pthread_create(&thread, NULL, run_stream, &s));
	f[0].command = FM_OF_DELETE; /* the old goes and the new comes at one instant */
	f[0].actions.n = 0;
	while (s.sent < RATE_HZ * STREAM_MS / 1000 - RATE_HZ / 10 && flips < 1000) {
		f[1] = flow_to(flips % 2 ? 2 : 3, (uint16_t)(11 + flips % 2));
		assert_ok(fm_of_bundle_prepare(a, f, 2, WAIT_MS, -1, &id, &err));
		uint64_t begin = fm_now_us();
		assert_ok(fm_of_bundle_commit(a, id, WAIT_MS, -1, &err));
		uint64_t took = fm_now_us() - begin;
		slowest_us = took > slowest_us ? took : slowest_us;
		all_us += took;
		flips++;
		fm_pause_ms(50); /* so that packets come to both */
	}
	assert_int_equal(0, pthread_join(thread, NULL));
	print_message("%u packets, %u flips, lost %u, twice %u; %u and %u at the two ports; a commit took %llu us, the slowest %llu\n",
	              s.sent, flips, s.lost, s.twice, s.at[0], s.at[1], (unsigned long long)(all_us / (flips ? flips : 1)),
	              (unsigned long long)slowest_us);
	assert_int_equal(s.lost, 0);
	assert_int_equal(s.twice, 0);
	assert_true(flips >= FLIPS_MIN && s.at[0] > 0 && s.at[1] > 0);

	/*
	 * This sees a loss where there is one: deleted first, added afterwards. What a flow-mod says comes to the packets a moment later (the datapath has a cache), so what goes is sent until it
	 * does not arrive, and then until it arrives again.
	 */
	uint64_t deadline = fm_now_ms() + WAIT_MS;
	uint32_t number = 1;
	assert_ok(fm_of_flow_mods(a, f, 1, WAIT_MS, -1, &err));
	do {
		send_packet(s.from, number++);
		assert_true(fm_deadline_left_ms(deadline) > 0);
	} while (await_packet(s.to[flips % 2], 200) >= 0);
	f[1] = flow_to(2, 10);
	assert_ok(fm_of_flow_mods(a, &f[1], 1, WAIT_MS, -1, &err));
	do {
		send_packet(s.from, number++);
		assert_true(fm_deadline_left_ms(deadline) > 0);
	} while (await_packet(s.to[0], 50) < 0);
	close(s.from);
	close(s.to[0]);
	close(s.to[1]);
}

/* Killed without a word, and back again */
static void test_switch_dies(void **state)
{
	struct ovs_lab *lab = *state;
	_fm_of_group_ struct fm_of_group *g = NULL;
	struct pair p;
	uint64_t began, previous = 0;

	pair_up(&p, lab);
	assert_ok(fm_of_group_new(p.change, 2, &g, &err));
	assert_ok(fm_of_group_prepare(g, WAIT_MS, -1, &err));
	lab_end(&lab->vswitchd, SIGKILL);
	assert_code(FM_E_UNAVAILABLE, fm_of_group_commit(g, WAIT_MS, -1, &err));
	assert_states(g, FM_OF_UNCHANGED, FM_OF_UNCHANGED);
	assert_code(FM_E_UNAVAILABLE, fm_of_barrier(p.a, WAIT_MS, -1, &err));
	assert_false(fm_of_is_up(p.a));
	began = fm_now_ms();
	for (unsigned i = 0; i < 4; i++) { /* later each time; not waited for here */
		assert_code(FM_E_UNAVAILABLE, fm_of_reconnect(p.a, WAIT_MS, -1, &err));
		assert_true(fm_of_retry_at_ms(p.a) >= began + (FM_OF_RETRY_MS_MIN << i) / 2);
		assert_true(fm_of_retry_at_ms(p.a) + FM_OF_RETRY_MS_MIN > previous);
		previous = fm_of_retry_at_ms(p.a);
	}
	lab_start_switch(lab);
	while (fm_of_reconnect(p.a, WAIT_MS, -1, &err) < 0) { /* when it is time: as whoever uses this has to */
		assert_true(fm_now_ms() < began + WAIT_MS);
		fm_pause_ms((unsigned)fm_deadline_left_ms(fm_of_retry_at_ms(p.a)));
	}
	assert_true(fm_of_is_up(p.a) && fm_of_datapath_id(p.a) == DPID_A && fm_of_retry_at_ms(p.a) == 0);
	assert_ok(fm_of_reconnect(p.b, WAIT_MS, -1, &err));
	assert_flows("br-b", ""); /* what was there, and what was prepared, went with it */
	assert_ok(fm_of_flow_mods(p.a, &p.old, 1, WAIT_MS, -1, &err));
	assert_flows("br-a", OLD_FLOWS);
	/* all that is left of the group works with the new connections */
	assert_ok(fm_of_group_prepare(g, WAIT_MS, -1, &err));
	assert_ok(fm_of_group_commit(g, WAIT_MS, -1, &err));
	assert_flows("br-b", NEW_FLOWS);
	pair_down(&p);
}

/* A switch that calls us */
static void test_passive(void **state)
{
	struct fm_of_options o = { .address = "br-b" };
	_fm_of_ struct fm_of *c = NULL;
	_fm_close_ int listener = -1;
	uint16_t port;
	int fd;

	assert_ok(fm_tcp_listen("127.0.0.1:0", 4, &listener, &err));
	assert_ok(fm_tcp_local_port(listener, &port, &err));
	lab_run("ovs-vsctl --db=$DB set-controller br-b tcp:127.0.0.1:%u", port);
	assert_ok(fm_accept(listener, WAIT_MS, -1, &fd, &err));
	assert_ok(fm_of_accept(fd, &o, WAIT_MS, -1, &c, &err));
	assert_true(fm_of_datapath_id(c) == DPID_B);
	clear(c);
	struct fm_of_flow_mod f = flow_to(2, 7);
	assert_ok(fm_of_flow_mods(c, &f, 1, WAIT_MS, -1, &err));
	assert_flows("br-b", "priority=7,dl_dst=02:77:00:00:01:00 actions=output:2\n");
	lab_run("ovs-vsctl --db=$DB del-controller br-b");
	uint64_t deadline = fm_now_ms() + WAIT_MS;
	while (fm_of_check(c, &err) == 0 && fm_deadline_left_ms(deadline) > 0)
		fm_pause_ms(5);
	assert_code(FM_E_FAILED_PRECONDITION, fm_of_reconnect(c, WAIT_MS, -1, &err));
}

static void test_skipped(void **state)
{
	print_message("skipped: %s\n", ovs_is_missing());
	skip();
}

static int up(void **state)
{
	static struct ovs_lab lab;

	lab_up(&lab);
	*state = &lab;
	return 0;
}

static int down(void **state)
{
	lab_down(*state);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_connect),
		cmocka_unit_test(test_versions),
		cmocka_unit_test(test_flow_mods),
		cmocka_unit_test(test_flow_matches_come_back),
		cmocka_unit_test(test_bundle),
		cmocka_unit_test(test_large_bundle),
		cmocka_unit_test(test_group_changes_both),
		cmocka_unit_test(test_group_one_refuses_in_prepare),
		cmocka_unit_test(test_group_one_refuses_in_commit),
		cmocka_unit_test(test_group_no_answer),
		cmocka_unit_test(test_group_undo_connects_again),
		cmocka_unit_test(test_statistics),
		cmocka_unit_test(test_counters),
		cmocka_unit_test(test_ports),
		cmocka_unit_test(test_flip_loses_nothing),
		cmocka_unit_test(test_passive),
		cmocka_unit_test(test_switch_dies),
		cmocka_unit_test(test_masters),
	};
	const struct CMUnitTest nothing[] = { cmocka_unit_test(test_skipped) };

	signal(SIGPIPE, SIG_IGN);
	if (ovs_is_missing())
		return cmocka_run_group_tests_name("openflow-ovs", nothing, NULL, NULL);
	return cmocka_run_group_tests_name("openflow-ovs", tests, up, down);
}
