/* SPDX-License-Identifier: MIT */
/*
 * netlab.h - the laboratory of test-endpoint.c and test-endpoints.c: two hosts and a client on one switch, as network namespaces in this process.
 *
 *    src: br0 {eth0, fm…} --\                        the container's namespaces "csrc" and "cdst" hold the two ends of one endpoint,
 *    dst: br0 {eth0, fm…} ---- sw: br0 --- cli: eth0  with the same MAC and address; a UDP responder runs in each.
 *
 * Everything stands in a private mount namespace under a temporary folder, so that even a crash leaves no namespace behind. Nothing waits
 * for a time: carriers are awaited by notification, and that the switch has learned is known when the client has seen the announcement.
 * All functions are the including program's own.
 */
#ifndef FM_TESTS_NETLAB_H
#define FM_TESTS_NETLAB_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <linux/neighbour.h>
#include <linux/veth.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <linux/if.h>
#include <netinet/if_ether.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "basic/clock.h"
#include "basic/io.h"
#include "basic/str.h"
#include "network/endpoint.h"
#include "network/netlink.h"

#define CT_ADDRESS   "10.77.0.100"
#define CT_MAC       "02:77:00:00:01:00"
#define CT_ADDRESS6  "fd77::100"
#define CLI_ADDRESS6 "fd77::3"
#define ECHO_PORT    7007
#define WAIT_MS      5000
#define MOVES        50

enum { SW, SRC, DST, CLI, CSRC, CDST, N_NS };
static const char *const ns_names[N_NS] = { "sw", "src", "dst", "cli", "csrc", "cdst" };

struct responder {
	pthread_t thread;
	int fd, stop_fd;
	char tag;
	atomic_uint received;
	bool running;
};

struct lab {
	char dir[64];
	int ns[N_NS];
	struct responder at[2]; /* csrc, cdst */
	struct fm_endpoint *end[2];
	int client, watch; /* UDP socket and ARP listener in cli */
	uint32_t seq;
};

struct echo {
	uint32_t seq;
	char tag;
} __attribute__((packed));

#define OK(call)                                                                                                                           \
	do {                                                                                                                               \
		struct fm_error err = FM_ERROR_INIT;                                                                                       \
		if ((call) != 0)                                                                                                           \
			fail_msg("%s: %s (%d)", #call, err.message, err.code);                                                             \
	} while (0)

#define FAILS(expected, call)                                                                                                              \
	do {                                                                                                                               \
		struct fm_error err = FM_ERROR_INIT;                                                                                       \
		assert_int_equal((call), -1);                                                                                              \
		if (err.code != (expected))                                                                                                \
			fail_msg("%s: %s, not %s: %s", #call, fm_code_to_string(err.code), fm_code_to_string(expected), err.message);      \
		assert_true(err.message[0]);                                                                                               \
	} while (0)

static bool need_root(void)
{
	if (geteuid() == 0)
		return true;
	print_message("skipped: network namespaces need root\n");
	return false;
}

/* ---- the laboratory's own netlink: bridges, cables, addresses ---- */

struct step {
	const char *a, *b;
	int peer_ns;
	unsigned n;
	struct fm_link *link;
	int fd;
};

static struct nlattr *kind_begin(struct nlmsghdr *h, const char *kind, struct nlattr **info)
{
	*info = mnl_attr_nest_start(h, IFLA_LINKINFO);
	mnl_attr_put_strz(h, IFLA_INFO_KIND, kind);
	return mnl_attr_nest_start(h, IFLA_INFO_DATA);
}

static int flush(struct fm_nl *nl, const char *what, struct fm_error *err)
{
	int rc = fm_nl_flush(nl);

	return rc < 0 ? fm_nl_fail(nl, rc, err, "laboratory: %s", what) : 0;
}

/* a: name, n: forward delay, 0 = no spanning tree */
static int do_bridge(void *userdata, struct fm_error *err)
{
	const struct step *s = userdata;
	_fm_nl_ struct fm_nl *nl = NULL;
	struct nlattr *info, *data;
	struct nlmsghdr *h;

	assert_int_equal(fm_nl_open(0, &nl, err), 0);
	h = fm_nl_begin(nl, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 256);
	mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(h, IFLA_IFNAME, s->a);
	data = kind_begin(h, "bridge", &info);
	mnl_attr_put_u32(h, IFLA_BR_STP_STATE, s->n != 0);
	if (s->n)
		mnl_attr_put_u32(h, IFLA_BR_FORWARD_DELAY, s->n);
	mnl_attr_nest_end(h, data);
	mnl_attr_nest_end(h, info);
	return flush(nl, "bridge", err);
}

/* a here, b in peer_ns */
static int do_cable(void *userdata, struct fm_error *err)
{
	const struct step *s = userdata;
	_fm_nl_ struct fm_nl *nl = NULL;
	struct nlattr *info, *data, *peer;
	struct nlmsghdr *h;

	assert_int_equal(fm_nl_open(0, &nl, err), 0);
	h = fm_nl_begin(nl, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 256);
	mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(h, IFLA_IFNAME, s->a);
	data = kind_begin(h, "veth", &info);
	peer = mnl_attr_nest_start(h, VETH_INFO_PEER);
	mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(h, IFLA_IFNAME, s->b);
	mnl_attr_put_u32(h, IFLA_NET_NS_FD, (uint32_t)s->peer_ns);
	mnl_attr_nest_end(h, peer);
	mnl_attr_nest_end(h, data);
	mnl_attr_nest_end(h, info);
	return flush(nl, "cable", err);
}

/* a: port, b: bridge or NULL; the port also goes up */
static int do_plug(void *userdata, struct fm_error *err)
{
	const struct step *s = userdata;
	_fm_nl_ struct fm_nl *nl = NULL;
	struct fm_link port, bridge = { 0 };
	struct ifinfomsg *ifi;
	struct nlmsghdr *h;

	assert_int_equal(fm_nl_open(0, &nl, err), 0);
	assert_int_equal(fm_nl_link(nl, s->a, &port), 0);
	if (s->b)
		assert_int_equal(fm_nl_link(nl, s->b, &bridge), 0);
	h = fm_nl_begin(nl, RTM_NEWLINK, 0, 256);
	ifi = mnl_nlmsg_put_extra_header(h, sizeof(*ifi));
	ifi->ifi_index = port.index;
	ifi->ifi_flags = ifi->ifi_change = IFF_UP;
	if (s->b)
		mnl_attr_put_u32(h, IFLA_MASTER, (uint32_t)bridge.index);
	if (s->n)
		mnl_attr_put_u32(h, IFLA_MTU, s->n);
	return flush(nl, "plug", err);
}

/* a: interface, b: address, n: prefix length */
static int do_address(void *userdata, struct fm_error *err)
{
	const struct step *s = userdata;
	_fm_nl_ struct fm_nl *nl = NULL;
	struct ifaddrmsg *ifa;
	uint8_t raw[16];
	struct fm_link l;
	struct nlmsghdr *h;
	int family = strchr(s->b, ':') ? AF_INET6 : AF_INET;
	size_t n = family == AF_INET ? 4 : 16;

	assert_int_equal(inet_pton(family, s->b, raw), 1);
	assert_int_equal(fm_nl_open(0, &nl, err), 0);
	assert_int_equal(fm_nl_link(nl, s->a, &l), 0);
	h = fm_nl_begin(nl, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, 256);
	ifa = mnl_nlmsg_put_extra_header(h, sizeof(*ifa));
	ifa->ifa_family = (uint8_t)family;
	ifa->ifa_prefixlen = (uint8_t)s->n;
	ifa->ifa_index = (uint32_t)l.index;
	ifa->ifa_flags = family == AF_INET6 ? IFA_F_NODAD : 0;
	mnl_attr_put(h, IFA_LOCAL, n, raw);
	mnl_attr_put(h, IFA_ADDRESS, n, raw);
	return flush(nl, "address", err);
}

/* The kernel finishes a new IPv6 address in the background, local route included: until a packet to oneself comes back. */
static int do_ready6(void *userdata, struct fm_error *err)
{
	const struct step *s = userdata;
	_fm_close_ int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in6 self = { .sin6_family = AF_INET6 };
	uint64_t deadline = fm_now_ms() + WAIT_MS;
	struct pollfd p = { .fd = fd, .events = POLLIN };
	socklen_t len = sizeof(self);

	assert_int_equal(inet_pton(AF_INET6, s->b, &self.sin6_addr), 1);
	assert_int_equal(bind(fd, (struct sockaddr *)&self, len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&self, &len), 0);
	do {
		(void)sendto(fd, "x", 1, 0, (struct sockaddr *)&self, len);
		if (poll(&p, 1, 10) == 1)
			return 0;
	} while (fm_deadline_left_ms(deadline) > 0);
	return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "laboratory: %s is not usable", s->b);
}

static int do_wait_up(void *userdata, struct fm_error *err)
{
	const struct step *s = userdata;
	_fm_nl_ struct fm_nl *nl = NULL, *watch = NULL;

	if (fm_nl_open(RTMGRP_LINK, &watch, err) < 0 || fm_nl_open(0, &nl, err) < 0)
		return -1;
	return fm_nl_wait_up(nl, watch, s->a, WAIT_MS, err);
}

static int do_delete(void *userdata, struct fm_error *err)
{
	const struct step *s = userdata;
	_fm_nl_ struct fm_nl *nl = NULL;
	int rc;

	assert_int_equal(fm_nl_open(0, &nl, err), 0);
	rc = fm_nl_link_delete(nl, s->a);
	return rc < 0 && rc != -ENODEV ? fm_nl_fail(nl, rc, err, "laboratory: delete %s", s->a) : 0;
}

static int do_link(void *userdata, struct fm_error *err)
{
	struct step *s = userdata;
	_fm_nl_ struct fm_nl *nl = NULL;
	int rc;

	assert_int_equal(fm_nl_open(0, &nl, err), 0);
	rc = fm_nl_link(nl, s->a, s->link);
	return rc < 0 ? fm_nl_fail(nl, rc, err, "laboratory: find %s", s->a) : 0;
}

static void in(const struct lab *lab, int ns, int (*fn)(void *, struct fm_error *), struct step s)
{
	OK(fm_netns_call(lab->ns[ns], fn, &s, &err));
}

static struct fm_link link_of(const struct lab *lab, int ns, const char *name)
{
	struct fm_link l;

	in(lab, ns, do_link, (struct step){ .a = name, .link = &l });
	return l;
}

/* ---- the forwarding table of a bridge ---- */

struct fdb {
	uint8_t mac[6];
	int ifindex;
	unsigned state, flags, n;
};

static int fdb_cb(const struct nlmsghdr *h, void *userdata)
{
	struct fdb *f = userdata;
	const struct ndmsg *nd = mnl_nlmsg_get_payload(h);
	const struct nlattr *a;
	bool is_bridge_entry = false, is_mac = false;

	mnl_attr_for_each (a, h, sizeof(*nd)) {
		is_bridge_entry |= mnl_attr_get_type(a) == NDA_MASTER;
		is_mac |= mnl_attr_get_type(a) == NDA_LLADDR && memcmp(mnl_attr_get_payload(a), f->mac, 6) == 0;
	}
	if (is_bridge_entry && is_mac) {
		f->ifindex = nd->ndm_ifindex;
		f->state = nd->ndm_state;
		f->flags = nd->ndm_flags;
		f->n++;
	}
	return MNL_CB_OK;
}

static int do_fdb(void *userdata, struct fm_error *err)
{
	struct fdb *f = userdata;
	_fm_nl_ struct fm_nl *nl = NULL;
	struct ifinfomsg all = { .ifi_family = PF_BRIDGE };
	int rc;

	assert_int_equal(fm_nl_open(0, &nl, err), 0);
	f->n = 0;
	rc = fm_nl_dump(nl, RTM_GETNEIGH, &all, sizeof(all), fdb_cb, f, NULL);
	return rc < 0 ? fm_nl_fail(nl, rc, err, "laboratory: forwarding table") : 0;
}

static struct fdb fdb_in(const struct lab *lab, int ns)
{
	struct fdb f = { .mac = { 2, 0x77, 0, 0, 1, 0 } };

	OK(fm_netns_call(lab->ns[ns], do_fdb, &f, &err));
	return f;
}

static struct fdb fdb_of(const struct lab *lab, int h)
{
	return fdb_in(lab, SRC + h);
}

/* ---- sockets inside ---- */

static int do_udp(void *userdata, struct fm_error *err)
{
	struct step *s = userdata;
	struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)s->n) };
	int off = 0;

	/* dual stack: the same responder answers both */
	s->fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (s->fd < 0 || setsockopt(s->fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)) < 0 ||
	    bind(s->fd, (struct sockaddr *)&any, sizeof(any)) < 0)
		return fm_error_errno(err, errno, "laboratory: UDP socket");
	return 0;
}

static int do_watch(void *userdata, struct fm_error *err)
{
	struct step *s = userdata;
	struct sockaddr_ll at = { .sll_family = AF_PACKET,
		                  .sll_protocol = htons((uint16_t)s->n),
		                  .sll_ifindex = (int)if_nametoindex(s->a) };

	s->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (s->fd < 0 || bind(s->fd, (struct sockaddr *)&at, sizeof(at)) < 0)
		return fm_error_errno(err, errno, "laboratory: listener");
	return 0;
}

static int udp_in(const struct lab *lab, int ns, unsigned port)
{
	struct step s = { .n = port, .fd = -1 };

	OK(fm_netns_call(lab->ns[ns], do_udp, &s, &err));
	return s.fd;
}

static int watch_in(const struct lab *lab, int ns, const char *ifname, unsigned protocol)
{
	struct step s = { .a = ifname, .n = protocol, .fd = -1 };

	OK(fm_netns_call(lab->ns[ns], do_watch, &s, &err));
	return s.fd;
}

static void *respond(void *arg)
{
	struct responder *r = arg;
	struct pollfd p[2] = { { .fd = r->fd, .events = POLLIN }, { .fd = r->stop_fd, .events = POLLIN } };

	while (poll(p, 2, -1) >= 0 && !p[1].revents) {
		struct sockaddr_in6 from;
		socklen_t len = sizeof(from);
		struct echo e;

		if (recvfrom(r->fd, &e, sizeof(e), MSG_DONTWAIT, (struct sockaddr *)&from, &len) != sizeof(e))
			continue;
		atomic_fetch_add(&r->received, 1);
		e.tag = r->tag;
		(void)sendto(r->fd, &e, sizeof(e), 0, (struct sockaddr *)&from, len);
	}
	return NULL;
}

static struct sockaddr_in6 udp_address(const char *ip)
{
	struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_port = htons(ECHO_PORT) };
	char mapped[64];

	(void)snprintf(mapped, sizeof(mapped), strchr(ip, ':') ? "%s" : "::ffff:%s", ip);
	assert_int_equal(inet_pton(AF_INET6, mapped, &a.sin6_addr), 1);
	return a;
}

static uint32_t send_seq(struct lab *lab, const char *ip)
{
	struct sockaddr_in6 to = udp_address(ip);
	struct echo e = { .seq = ++lab->seq };

	assert_int_equal(sendto(lab->client, &e, sizeof(e), 0, (struct sockaddr *)&to, sizeof(to)), sizeof(e));
	return e.seq;
}

/* Exactly the answer to `seq`, from the responder `tag`. */
static bool answered(struct lab *lab, uint32_t seq, char tag)
{
	struct pollfd p = { .fd = lab->client, .events = POLLIN };
	struct echo e;

	if (poll(&p, 1, WAIT_MS) != 1 || recv(lab->client, &e, sizeof(e), 0) != sizeof(e))
		return false;
	return e.seq == seq && e.tag == tag;
}

static bool echo(struct lab *lab, const char *ip, char tag)
{
	return answered(lab, send_seq(lab, ip), tag);
}

/* Until the client has seen both forms of the announcement: every switch on the way has learned by then. */
static void wait_announced(struct lab *lab)
{
	uint64_t deadline = fm_now_ms() + WAIT_MS;
	unsigned seen = 0;

	while (seen != 3) {
		struct {
			struct ether_header eth;
			struct ether_arp arp;
		} __attribute__((packed)) f;
		struct pollfd p = { .fd = lab->watch, .events = POLLIN };
		struct in_addr spa;

		assert_int_equal(poll(&p, 1, fm_deadline_left_ms(deadline)), 1);
		if (recv(lab->watch, &f, sizeof(f), 0) < (ssize_t)sizeof(f))
			continue;
		memcpy(&spa, f.arp.arp_spa, sizeof(spa));
		if (spa.s_addr != inet_addr(CT_ADDRESS) || memcmp(f.arp.arp_spa, f.arp.arp_tpa, 4) != 0)
			continue;
		seen |= ntohs(f.arp.arp_op) == ARPOP_REQUEST ? 1 : 2;
	}
}

static void drain_watch(struct lab *lab)
{
	char buf[64];

	while (recv(lab->watch, buf, sizeof(buf), MSG_DONTWAIT) >= 0)
		;
}

/* ---- endpoints: host h is 0 (src) or 1 (dst) ---- */

struct end_call {
	struct fm_endpoint *e;
	int (*fn)(struct fm_endpoint *e, struct fm_error *err);
	bool check;
	const char *name;
	size_t count;
};

static int do_prepare(void *userdata, struct fm_error *err)
{
	struct end_call *c = userdata;

	return fm_endpoint_prepare(c->e, c->check, err) < 0 || fm_endpoint_await_free(c->e, err) < 0 ? -1 : 0;
}

static int do_call(void *userdata, struct fm_error *err)
{
	struct end_call *c = userdata;

	return c->fn(c->e, err);
}

static int do_remove(void *userdata, struct fm_error *err)
{
	struct end_call *c = userdata;

	return fm_endpoint_remove(c->name, err);
}

static int do_list(void *userdata, struct fm_error *err)
{
	struct end_call *c = userdata;
	char(*v)[IFNAMSIZ] = NULL;
	int r = fm_endpoint_list(&v, &c->count, err);

	free(v);
	return r;
}

static int on_host(const struct lab *lab, int h, int (*fn)(void *, struct fm_error *), struct end_call c, struct fm_error *err)
{
	return fm_netns_call(lab->ns[SRC + h], fn, &c, err);
}

static size_t count_on(const struct lab *lab, int h)
{
	struct end_call c = { 0 };

	OK(fm_netns_call(lab->ns[SRC + h], do_list, &c, &err));
	return c.count;
}

static struct fm_endpoint_config config(const char *address)
{
	struct fm_endpoint_config c;

	const struct fm_endpoint_words w = { .bridge = "br0", .mac = CT_MAC, .address = address, .gateway = "10.77.0.3" };

	OK(fm_endpoint_config_parse(&w, "web", 0, &c, &err));
	return c;
}

static const char *ns_path(const struct lab *lab, int ns, char buf[128])
{
	(void)snprintf(buf, 128, "%s/%s", lab->dir, ns_names[ns]);
	return buf;
}

static struct fm_endpoint *endpoint_for(const struct lab *lab, int h, const struct fm_endpoint_config *c)
{
	struct fm_endpoint *e = NULL;
	char path[128];

	OK(fm_endpoint_new(c, ns_path(lab, CSRC + h, path), &e, &err));
	return e;
}

static void build(struct lab *lab)
{
	static const struct {
		int ns;
		const char *port, *address;
	} host[] = {
		{ SRC, "s-src", "10.77.0.1" },
		{ DST, "s-dst", "10.77.0.2" },
		{ CLI, "s-cli", "10.77.0.3" },
	};

	in(lab, SW, do_bridge, (struct step){ .a = "br0" });
	in(lab, SW, do_plug, (struct step){ .a = "br0" });
	for (size_t i = 0; i < FM_ARRAY_SIZE(host); i++) {
		bool is_client = host[i].ns == CLI;
		const char *device = is_client ? "eth0" : "br0";

		in(lab, SW, do_cable, (struct step){ .a = host[i].port, .b = "eth0", .peer_ns = lab->ns[host[i].ns] });
		in(lab, SW, do_plug, (struct step){ .a = host[i].port, .b = "br0" });
		if (!is_client)
			in(lab, host[i].ns, do_bridge, (struct step){ .a = "br0" });
		in(lab, host[i].ns, do_plug, (struct step){ .a = "eth0", .b = is_client ? NULL : "br0" });
		in(lab, host[i].ns, do_plug, (struct step){ .a = device });
		in(lab, host[i].ns, do_address, (struct step){ .a = device, .b = host[i].address, .n = 24 });
	}
	for (size_t i = 0; i < FM_ARRAY_SIZE(host); i++) {
		in(lab, host[i].ns, do_wait_up, (struct step){ .a = "eth0" });
		in(lab, SW, do_wait_up, (struct step){ .a = host[i].port });
		if (host[i].ns != CLI)
			in(lab, host[i].ns, do_wait_up, (struct step){ .a = "br0" });
	}
	in(lab, CLI, do_address, (struct step){ .a = "eth0", .b = CLI_ADDRESS6, .n = 64 });
	in(lab, CLI, do_ready6, (struct step){ .b = CLI_ADDRESS6 });
	lab->client = udp_in(lab, CLI, 0);
	lab->watch = watch_in(lab, CLI, "eth0", ETH_P_ARP);
}

static int group_setup(void **state)
{
	struct lab *lab = calloc(1, sizeof(*lab));

	*state = lab;
	(void)snprintf(lab->dir, sizeof(lab->dir), "/tmp/fm-test-endpoint-%d-XXXXXX", (int)getpid());
	assert_non_null(mkdtemp(lab->dir));
	if (geteuid() != 0)
		return 0;
	/* namespaces pinned here go with the process, whatever happens to it */
	assert_int_equal(unshare(CLONE_NEWNS), 0);
	assert_int_equal(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	for (int i = 0; i < N_NS; i++) {
		char path[128];

		OK(fm_netns_create(ns_path(lab, i, path), &err));
		lab->ns[i] = open(path, O_RDONLY | O_CLOEXEC);
		assert_true(lab->ns[i] >= 0);
	}
	build(lab);
	return 0;
}

static int group_teardown(void **state)
{
	struct lab *lab = *state;

	if (geteuid() == 0) {
		(void)close(lab->client);
		(void)close(lab->watch);
		for (int i = 0; i < N_NS; i++) {
			char path[128];

			(void)close(lab->ns[i]);
			OK(fm_netns_remove(ns_path(lab, i, path), &err));
		}
	}
	/* nothing left in it */
	if (rmdir(lab->dir) < 0) {
		(void)fm_remove_tree(lab->dir, NULL);
		fail_msg("something was left in %s", lab->dir);
	}
	free(lab);
	return 0;
}

/* Both ends prepared and closed, a responder in each. */
static int ends_with(struct lab *lab, const struct fm_endpoint_config *c)
{
	for (int h = 0; h < 2; h++) {
		struct responder *r = &lab->at[h];

		lab->end[h] = endpoint_for(lab, h, c);
		OK(on_host(lab, h, do_prepare, (struct end_call){ .e = lab->end[h] }, &err));
		if (!c->prefix6_len) {
			in(lab, CSRC + h, do_address, (struct step){ .a = "eth0", .b = CT_ADDRESS6, .n = 64 });
			in(lab, CSRC + h, do_ready6, (struct step){ .b = CT_ADDRESS6 });
		}
		r->fd = udp_in(lab, CSRC + h, ECHO_PORT);
		r->stop_fd = eventfd(0, EFD_CLOEXEC);
		r->tag = (char)('0' + h);
		atomic_store(&r->received, 0);
		assert_int_equal(pthread_create(&r->thread, NULL, respond, r), 0);
		r->running = true;
	}
	drain_watch(lab);
	return 0;
}

/* IPv4 is the endpoint's, IPv6 the container's own affair. */
static int ends_setup(void **state)
{
	struct fm_endpoint_config c;

	if (geteuid() != 0)
		return 0;
	c = config(CT_ADDRESS "/24");
	return ends_with(*state, &c);
}

static int ends_teardown(void **state)
{
	struct lab *lab = *state;
	char name[IFNAMSIZ];

	fm_endpoint_host_ifname("web", 0, name);
	for (int h = 0; h < 2 && geteuid() == 0; h++) {
		struct responder *r = &lab->at[h];
		uint64_t one = 1;

		if (r->running) {
			assert_int_equal(write(r->stop_fd, &one, sizeof(one)), sizeof(one));
			assert_int_equal(pthread_join(r->thread, NULL), 0);
			(void)close(r->fd);
			(void)close(r->stop_fd);
			r->running = false;
		}
		fm_endpoint_free(lab->end[h]);
		lab->end[h] = NULL;
		OK(on_host(lab, h, do_remove, (struct end_call){ .name = name }, &err));
		assert_int_equal(count_on(lab, h), 0);
	}
	return 0;
}

static void open_at(struct lab *lab, int h)
{
	OK(fm_endpoint_open(lab->end[h], &err));
	OK(fm_endpoint_announce(lab->end[h], &err));
	wait_announced(lab);
}

#endif
