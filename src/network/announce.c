/* SPDX-License-Identifier: MIT */
/*
 * announce.c - the two uses of raw ARP.
 *
 * Announcing: one gratuitous request and one gratuitous reply, sent from the container's own end, so that every switch on the way learns
 * the port (the MAC moves with the container, so neighbours' caches stay right; the switches' tables do not). Both forms, because some
 * implementations update on one only.
 *
 * Duplicate check, after RFC 5227: three probes with sender address 0.0.0.0, so that nobody's cache learns anything from the question. The
 * whole takes 200 ms instead of the RFC's several seconds: on a wired segment an owner answers within a millisecond. A thread of its own waits for them, so that a migration need not.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <netinet/if_ether.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "network/internal.h"

#define PROBES            3
#define PROBE_INTERVAL_MS 60
#define PROBE_TOTAL_MS    200

struct arp_frame {
	struct ether_header eth;
	struct ether_arp arp;
	uint8_t pad[60 - sizeof(struct ether_header) - sizeof(struct ether_arp)]; /* the shortest frame of Ethernet */
} __attribute__((packed));

static const uint8_t broadcast[ETH_ALEN] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

static void fill(struct arp_frame *f, uint16_t op, const uint8_t sender[6], struct in_addr sender_ip, const uint8_t target[6],
                 struct in_addr target_ip)
{
	memset(f, 0, sizeof(*f));
	memcpy(f->eth.ether_dhost, broadcast, ETH_ALEN);
	memcpy(f->eth.ether_shost, sender, ETH_ALEN);
	f->eth.ether_type = htons(ETH_P_ARP);
	f->arp.arp_hrd = htons(ARPHRD_ETHER);
	f->arp.arp_pro = htons(ETH_P_IP);
	f->arp.arp_hln = ETH_ALEN;
	f->arp.arp_pln = sizeof(struct in_addr);
	f->arp.arp_op = htons(op);
	memcpy(f->arp.arp_sha, sender, ETH_ALEN);
	memcpy(f->arp.arp_spa, &sender_ip, sizeof(sender_ip));
	if (target)
		memcpy(f->arp.arp_tha, target, ETH_ALEN);
	memcpy(f->arp.arp_tpa, &target_ip, sizeof(target_ip));
}

static int send_frame(int fd, int ifindex, const struct arp_frame *f, struct fm_error *err)
{
	struct sockaddr_ll to = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_ARP),
		.sll_ifindex = ifindex,
		.sll_halen = ETH_ALEN,
	};

	memcpy(to.sll_addr, broadcast, ETH_ALEN);
	if (sendto(fd, f, sizeof(*f), 0, (const struct sockaddr *)&to, sizeof(to)) < 0)
		return fm_error_errno(err, errno, "send an ARP frame");
	return 0;
}

int fm_arp_open(int ifindex, int *ret_fd, struct fm_error *err)
{
	/* protocol 0: a socket that only sends, so that nothing piles up in it */
	_fm_close_ int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_ifindex = ifindex };

	if (fd < 0 || bind(fd, (const struct sockaddr *)&at, sizeof(at)) < 0)
		return fm_error_errno(err, errno, "open a raw socket for ARP");
	*ret_fd = FM_TAKE_FD(fd);
	return 0;
}

int fm_arp_announce(int fd, int ifindex, const uint8_t mac[6], struct in_addr address, struct fm_error *err)
{
	struct arp_frame f;

	fill(&f, ARPOP_REQUEST, mac, address, NULL, address);
	if (send_frame(fd, ifindex, &f, err) < 0)
		return fm_error_prefix(err, "announce the endpoint");
	fill(&f, ARPOP_REPLY, mac, address, mac, address);
	if (send_frame(fd, ifindex, &f, err) < 0)
		return fm_error_prefix(err, "announce the endpoint");
	return 0;
}

/* Does the frame say that somebody but `own` has the address? */
static bool is_conflict(const struct arp_frame *f, size_t n, struct in_addr address, const uint8_t own[6])
{
	if (n < offsetof(struct arp_frame, pad) || f->eth.ether_type != htons(ETH_P_ARP))
		return false;
	if (f->arp.arp_hrd != htons(ARPHRD_ETHER) || f->arp.arp_pro != htons(ETH_P_IP) || f->arp.arp_hln != ETH_ALEN ||
	    f->arp.arp_pln != sizeof(struct in_addr))
		return false;
	return memcmp(f->arp.arp_spa, &address, sizeof(address)) == 0 && memcmp(f->arp.arp_sha, own, ETH_ALEN) != 0;
}

/* All that has arrived: 1 = a conflict, whose MAC is in ret_mac. */
static int drain(int fd, struct in_addr address, const uint8_t own[6], uint8_t ret_mac[6], struct fm_error *err)
{
	struct arp_frame f;

	for (;;) {
		ssize_t n = recv(fd, &f, sizeof(f), 0);

		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n < 0 && errno != EINTR)
			return fm_error_errno(err, errno, "wait for ARP answers");
		if (n > 0 && is_conflict(&f, (size_t)n, address, own)) {
			memcpy(ret_mac, f.arp.arp_sha, ETH_ALEN);
			return 1;
		}
	}
}

static int probe(int fd, const struct fm_link *device, struct in_addr address, const uint8_t own[6], uint8_t ret_mac[6],
                 struct fm_error *err)
{
	uint64_t start = fm_now_ms(), deadline = start + PROBE_TOTAL_MS;
	struct arp_frame f;
	unsigned sent = 0;

	fill(&f, ARPOP_REQUEST, device->mac, (struct in_addr){ 0 }, NULL, address);
	for (;;) {
		uint64_t now = fm_now_ms(), next = start + (uint64_t)sent * PROBE_INTERVAL_MS;
		int r;

		if (now >= deadline)
			return 0;
		if (sent < PROBES && now >= next) {
			if (send_frame(fd, device->index, &f, err) < 0)
				return -1;
			sent++;
			continue;
		}
		r = fm_wait_fd(fd, POLLIN, fm_deadline_left_ms(sent < PROBES ? next : deadline), err);
		if (r > 0)
			r = drain(fd, address, own, ret_mac, err);
		if (r != 0)
			return r;
	}
}

struct fm_arp_watch {
	pthread_t thread;
	int fd;
	struct fm_link device;
	struct in_addr address;
	uint8_t own[6], other[6];
	int found; /* as probe() says */
	struct fm_error error;
};

static void *watch(void *arg)
{
	struct fm_arp_watch *w = arg;

	w->found = probe(w->fd, &w->device, w->address, w->own, w->other, &w->error);
	return NULL;
}

static void free_watch(struct fm_arp_watch *w)
{
	fm_closep(&w->fd);
	free(w);
}

int fm_arp_watch_begin(const struct fm_link *device, struct in_addr address, const uint8_t own[6], struct fm_arp_watch **ret,
                       struct fm_error *err)
{
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ARP), .sll_ifindex = device->index };
	struct fm_arp_watch *w = calloc(1, sizeof(*w));
	int rc = ENOMEM;

	if (w) {
		*w = (struct fm_arp_watch){ .device = *device, .address = address };
		memcpy(w->own, own, sizeof(w->own));
		w->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		rc = w->fd < 0 || bind(w->fd, (const struct sockaddr *)&at, sizeof(at)) < 0 ? errno
		                                                                            : pthread_create(&w->thread, NULL, watch, w);
	}
	if (rc != 0) {
		if (w)
			free_watch(w);
		return fm_error_errno(err, rc, "check for a duplicate address on %s", device->name);
	}
	*ret = w;
	return 0;
}

static int conflict(const struct fm_arp_watch *w, struct fm_error *err)
{
	char text[INET_ADDRSTRLEN], mac_text[18];

	fm_mac_format(w->other, mac_text);
	(void)inet_ntop(AF_INET, &w->address, text, sizeof(text));
	(void)fm_error_set(err, FM_E_ALREADY_EXISTS, "address %s is in use behind %s by another machine (%s)", text, w->device.name,
	                   mac_text);
	return fm_error_hint(err, "give the container another address, or find out who has this one: ip neigh show %s", text);
}

int fm_arp_watch_end(struct fm_arp_watch *w, struct fm_error *err)
{
	int rc = 0;

	pthread_join(w->thread, NULL);
	if (w->found < 0) {
		if (err)
			*err = w->error;
		rc = fm_error_prefix(err, "check for a duplicate address on %s", w->device.name);
	} else if (w->found > 0) {
		rc = conflict(w, err);
	}
	free_watch(w);
	return rc;
}
