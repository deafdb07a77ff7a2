/* SPDX-License-Identifier: MIT */
/*
 * hold.c - see hold.h. A frame that was aggregated on its way in, or whose checksum its sender left to the hardware, is only right together with that knowledge: PACKET_VNET_HDR carries
 * it from the receiving to the sending side.
 */
#include "network/hold.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "network/next-hop.h"

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

#define FRAME_MAX  (sizeof(struct virtio_net_hdr) + 65536 + ETH_HLEN)
#define FRAMES_MAX 16384

/* What one socket hears: frames for the endpoint's MAC that come in by its bridge, or one family's packets for its address that this host itself is to forward. */
struct port {
	int fd;
	/* family 0: by the bridge */
	int bridge_index;
	unsigned char bridge_mac[6];
	/* by this host: the route is looked up when it is released */
	int family;
	union {
		struct in_addr v4;
		struct in6_addr v6;
	} address;
};

struct fm_hold {
	size_t n;
	struct port v[3 * FM_MAX_ENDPOINTS];
	struct fm_nl *nl; /* for the routes */
};

static int attach(int fd, struct sock_filter *code, size_t n)
{
	struct sock_fprog prog = { .len = (unsigned short)n, .filter = code };
	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog));
}

/* Accept IPv4 and IPv6 that is sent to this MAC; everything else costs a few instructions and no memory. */
static int attach_mac_filter(int fd, const uint8_t mac[6])
{
	uint32_t first = (uint32_t)mac[0] << 24 | (uint32_t)mac[1] << 16 | (uint32_t)mac[2] << 8 | mac[3];
	uint32_t last = (uint32_t)mac[4] << 8 | mac[5];
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, first, 0, 6),
		BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 4),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, last, 0, 4),
		BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_IP, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_IPV6, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	return attach(fd, code, FM_ARRAY_SIZE(code));
}

/* The same for the packets of one family that are sent to this address, in frames that are sent to this host. */
static int attach_address_filter(int fd, int family, const void *address)
{
	size_t words = family == AF_INET ? 1 : 4, at = 0;
	uint32_t from = ETH_HLEN + (family == AF_INET ? offsetof(struct iphdr, daddr) : offsetof(struct ipv6hdr, daddr));
	struct sock_filter code[12];
	code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(SKF_AD_OFF + SKF_AD_PKTTYPE));
	code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PACKET_HOST, 0, (uint8_t)(2 * words + 1));
	for (size_t i = 0; i < words; i++) {
		uint32_t word;
		memcpy(&word, (const char *)address + i * sizeof(word), sizeof(word));
		code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(from + i * sizeof(word)));
		code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ntohl(word), 0, (uint8_t)(2 * (words - i) - 1));
	}
	code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, 0xffffffff);
	code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, 0);
	return attach(fd, code, at);
}

static int find_bridge(struct port *h, const char *bridge)
{
	_fm_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq r = { 0 };
	(void)snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", bridge);
	h->bridge_index = (int)if_nametoindex(bridge);
	if (fd < 0 || h->bridge_index == 0 || ioctl(fd, SIOCGIFHWADDR, &r) < 0)
		return -1;
	memcpy(h->bridge_mac, r.ifr_hwaddr.sa_data, sizeof(h->bridge_mac));
	return 0;
}

static void forget(struct port *p)
{
	if (p->fd >= 0)
		(void)close(p->fd);
	p->fd = -1;
}

static int filter(const struct port *p, const uint8_t mac[6])
{
	return p->family ? attach_address_filter(p->fd, p->family, &p->address) : attach_mac_filter(p->fd, mac);
}

/*
 * By the bridge: all protocols, because only such a tap sees what a bridge's port takes in before the bridge has it; the filter does the choosing. By this host: one protocol, because such a tap hears each
 * packet once, where it is taken in, and not on the ports, bonds and tagged links below as well.
 */
static int listen_for(struct port *p, const uint8_t mac[6])
{
	int on = 1, bytes = FM_HOLD_MAX_BYTES;
	/* Protocol 0: it hears nothing before the filter is there. */
	p->fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct sockaddr_ll every_port = { .sll_family = AF_PACKET };
	every_port.sll_protocol = htons(p->family == AF_INET ? ETH_P_IP : p->family == AF_INET6 ? ETH_P_IPV6 : ETH_P_ALL);
	if (p->fd < 0 || filter(p, mac) < 0 || setsockopt(p->fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)) < 0 ||
	    setsockopt(p->fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on)) < 0 ||
	    (setsockopt(p->fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) < 0 &&
	     setsockopt(p->fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes)) < 0) ||
	    bind(p->fd, (struct sockaddr *)&every_port, sizeof(every_port)) < 0) {
		forget(p);
		return -1;
	}
	return 0;
}

static void start(struct fm_hold *h, struct port p, const uint8_t mac[6])
{
	if (listen_for(&p, mac) == 0)
		h->v[h->n++] = p;
}

/* A host that is the way to its bridge's containers takes packets in itself, so these are listened for with a bridge, too. */
static void start_one(struct fm_hold *h, const struct fm_endpoint_config *c)
{
	struct port p = { .fd = -1 };
	if (c->bridge[0] && find_bridge(&p, c->bridge) == 0)
		start(h, p, c->mac);
	if (!h->nl && fm_nl_open(0, &h->nl, NULL) < 0)
		return;
	if (c->prefix_len)
		start(h, (struct port){ .fd = -1, .family = AF_INET, .address.v4 = c->address }, NULL);
	if (c->prefix6_len)
		start(h, (struct port){ .fd = -1, .family = AF_INET6, .address.v6 = c->address6 }, NULL);
}

struct fm_hold *fm_hold_start(const struct fm_endpoint_config *v, size_t n)
{
	struct fm_hold *h = calloc(1, sizeof(*h));
	for (size_t i = 0; h && i < n && i < FM_MAX_ENDPOINTS; i++)
		start_one(h, &v[i]);
	if (h && h->n == 0) {
		fm_hold_free(h);
		return NULL;
	}
	return h;
}

/* What is sent may come in again by another port of this host, and would be taken for one more, without end. */
static int take_no_more(int fd)
{
	struct sock_filter code[] = { BPF_STMT(BPF_RET | BPF_K, 0) };
	return attach(fd, code, FM_ARRAY_SIZE(code));
}

static int find_way(struct fm_nl *nl, const struct port *p, struct fm_next_hop *ret)
{
	if (p->family)
		return fm_next_hop(nl, p->family, &p->address, ret);
	ret->index = p->bridge_index;
	memcpy(ret->from, p->bridge_mac, sizeof(ret->from));
	return 0;
}

/* By a bridge a frame keeps the MAC that it is sent to. */
static bool send_on(const struct port *p, const struct fm_next_hop *hop, unsigned char *frame, size_t n)
{
	struct ethhdr *ethernet = (struct ethhdr *)(frame + sizeof(struct virtio_net_hdr));
	struct sockaddr_ll to = {
		.sll_family = AF_PACKET, .sll_protocol = ethernet->h_proto, .sll_ifindex = hop->index, .sll_halen = ETH_ALEN
	};
	memcpy(ethernet->h_source, hop->from, ETH_ALEN);
	if (p->family)
		memcpy(ethernet->h_dest, hop->to, ETH_ALEN);
	memcpy(to.sll_addr, ethernet->h_dest, ETH_ALEN);
	return sendto(p->fd, frame, n, MSG_DONTWAIT, (struct sockaddr *)&to, sizeof(to)) == (ssize_t)n;
}

static size_t release(struct fm_nl *nl, struct port *p, unsigned char *frame)
{
	struct fm_next_hop hop;
	size_t sent = 0;
	bool taken = take_no_more(p->fd) == 0 && find_way(nl, p, &hop) == 0;
	for (size_t i = 0; taken && i < FRAMES_MAX; i++) {
		struct sockaddr_ll from = { 0 };
		socklen_t len = sizeof(from);
		ssize_t n = recvfrom(p->fd, frame, FRAME_MAX, MSG_DONTWAIT, (struct sockaddr *)&from, &len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < (ssize_t)(sizeof(struct virtio_net_hdr) + ETH_HLEN))
			break;
		if (!p->family || from.sll_ifindex != hop.index)
			sent += send_on(p, &hop, frame, (size_t)n);
	}
	return sent;
}

size_t fm_hold_release(struct fm_hold *h)
{
	size_t sent = 0;
	if (!h)
		return 0;
	_fm_free_ unsigned char *frame = malloc(FRAME_MAX);
	for (size_t i = 0; frame && i < h->n; i++)
		sent += release(h->nl, &h->v[i], frame);
	return sent;
}

void fm_hold_free(struct fm_hold *h)
{
	for (size_t i = 0; h && i < h->n; i++)
		forget(&h->v[i]);
	if (h)
		fm_nl_close(h->nl);
	free(h);
}
