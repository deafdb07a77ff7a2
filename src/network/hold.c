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
#include <linux/virtio_net.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "basic/cleanup.h"

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

#define FRAME_MAX  (sizeof(struct virtio_net_hdr) + 65536 + ETH_HLEN)
#define FRAMES_MAX 16384

struct port {
	int fd;
	int bridge_index;
	unsigned char bridge_mac[6];
};

struct fm_hold {
	size_t n;
	struct port v[FM_MAX_ENDPOINTS];
};

/* Accept IPv4 and IPv6 that is sent to this MAC; everything else costs a few instructions and no memory. */
static int attach_filter(int fd, const uint8_t mac[6])
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
	struct sock_fprog prog = { .len = FM_ARRAY_SIZE(code), .filter = code };
	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog));
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

static int listen_for(struct port *p, const struct fm_endpoint_config *cfg)
{
	int on = 1, bytes = FM_HOLD_MAX_BYTES;
	/* Protocol 0: it hears nothing before the filter is there. */
	p->fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	/* All protocols, because only such a tap sees what a bridge's port takes in before the bridge has it; the filter does the choosing. */
	struct sockaddr_ll every_port = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL) };
	if (p->fd < 0 || find_bridge(p, cfg->bridge) < 0 || attach_filter(p->fd, cfg->mac) < 0 ||
	    setsockopt(p->fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)) < 0 ||
	    setsockopt(p->fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on)) < 0 ||
	    (setsockopt(p->fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) < 0 &&
	     setsockopt(p->fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes)) < 0) ||
	    bind(p->fd, (struct sockaddr *)&every_port, sizeof(every_port)) < 0) {
		forget(p);
		return -1;
	}
	return 0;
}

struct fm_hold *fm_hold_start(const struct fm_endpoint_config *v, size_t n)
{
	struct fm_hold *h = calloc(1, sizeof(*h));
	for (size_t i = 0; h && i < n && i < FM_MAX_ENDPOINTS; i++)
		if (listen_for(&h->v[h->n], &v[i]) == 0)
			h->n++;
	if (h && h->n == 0) {
		free(h);
		return NULL;
	}
	return h;
}

/* What is sent may come in again by another port of this host, and would be taken for one more, without end. */
static int take_no_more(int fd)
{
	struct sock_filter code[] = { BPF_STMT(BPF_RET | BPF_K, 0) };
	struct sock_fprog prog = { .len = FM_ARRAY_SIZE(code), .filter = code };
	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog));
}

static size_t release(struct port *p, unsigned char *frame)
{
	struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_ifindex = p->bridge_index, .sll_halen = 6 };
	size_t sent = 0;
	bool taken = take_no_more(p->fd) == 0;
	for (size_t i = 0; taken && i < FRAMES_MAX; i++) {
		ssize_t n = recv(p->fd, frame, FRAME_MAX, MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < (ssize_t)(sizeof(struct virtio_net_hdr) + ETH_HLEN))
			break;
		unsigned char *ethernet = frame + sizeof(struct virtio_net_hdr);
		memcpy(ethernet + ETH_ALEN, p->bridge_mac, ETH_ALEN);
		memcpy(to.sll_addr, ethernet, ETH_ALEN);
		memcpy(&to.sll_protocol, ethernet + offsetof(struct ethhdr, h_proto), sizeof(to.sll_protocol));
		if (sendto(p->fd, frame, (size_t)n, MSG_DONTWAIT, (struct sockaddr *)&to, sizeof(to)) == n)
			sent++;
	}
	forget(p);
	return sent;
}

size_t fm_hold_release(struct fm_hold *h)
{
	size_t sent = 0;
	if (!h)
		return 0;
	_fm_free_ unsigned char *frame = malloc(FRAME_MAX);
	for (size_t i = 0; frame && i < h->n; i++)
		sent += release(&h->v[i], frame);
	return sent;
}

void fm_hold_free(struct fm_hold *h)
{
	for (size_t i = 0; h && i < h->n; i++)
		forget(&h->v[i]);
	free(h);
}
