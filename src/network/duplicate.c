/* SPDX-License-Identifier: MIT */
/*
 * duplicate.c - does somebody else have an address that the endpoint is to get?
 *
 * IPv4 after RFC 5227: three probes with sender address 0.0.0.0; IPv6 after RFC 4862: three solicitations from the unspecified address. So
 * nobody's cache learns anything from the question. The whole takes 200 ms, for both together, instead of the RFCs' seconds: on a wired
 * segment an owner answers within a millisecond. A thread of its own waits for them, so that a migration need not.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <netinet/icmp6.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "network/frames.h"
#include "network/internal.h"

#define PROBES            3
#define PROBE_INTERVAL_MS 60
#define PROBE_TOTAL_MS    200
#define FAMILIES          2

struct question {
	int fd, family;
	uint8_t probe[FM_FRAME_MAX];
	size_t len;
};

struct fm_address_watch {
	pthread_t thread;
	struct question q[FAMILIES];
	size_t n;
	struct fm_link device;
	struct fm_endpoint_config cfg;
	int found; /* as ask() says */
	int found_family;
	uint8_t other[6];
	struct fm_error error;
};

static bool is_conflict(const struct fm_address_watch *w, const struct question *q, const uint8_t *frame, size_t n, uint8_t ret_mac[6])
{
	bool claims = q->family == AF_INET ? fm_frame_arp_claims(frame, n, w->cfg.address, ret_mac)
	                                   : fm_frame_nd_claims(frame, n, &w->cfg.address6, ret_mac);

	/* our own solicitation may come back over a loop of cables */
	return claims && memcmp(ret_mac, w->cfg.mac, 6) != 0 && memcmp(ret_mac, w->device.mac, 6) != 0;
}

/* All that has arrived: 1 = a conflict. */
static int drain(struct fm_address_watch *w, const struct question *q)
{
	uint8_t frame[256];

	for (;;) {
		ssize_t n = recv(q->fd, frame, sizeof(frame), 0);

		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n < 0 && errno != EINTR)
			return fm_error_errno(&w->error, errno, "wait for answers");
		if (n > 0 && is_conflict(w, q, frame, (size_t)n, w->other)) {
			w->found_family = q->family;
			return 1;
		}
	}
}

static int wait_and_drain(struct fm_address_watch *w, int timeout_ms)
{
	struct pollfd p[FAMILIES];

	for (size_t i = 0; i < w->n; i++)
		p[i] = (struct pollfd){ .fd = w->q[i].fd, .events = POLLIN };
	int r = poll(p, w->n, timeout_ms);
	if (r < 0)
		return errno == EINTR ? 0 : fm_error_errno(&w->error, errno, "wait for answers");
	for (size_t i = 0; r > 0 && i < w->n; i++) {
		int found = p[i].revents ? drain(w, &w->q[i]) : 0;

		if (found != 0)
			return found;
	}
	return 0;
}

/* 1 = somebody has one of them, 0 = nobody has answered in time. */
static int ask(struct fm_address_watch *w)
{
	uint64_t start = fm_now_ms(), deadline = start + PROBE_TOTAL_MS;
	unsigned sent = 0;

	for (;;) {
		uint64_t now = fm_now_ms(), next = start + (uint64_t)sent * PROBE_INTERVAL_MS;
		int r;

		if (now >= deadline)
			return 0;
		if (sent < PROBES && now >= next) {
			for (size_t i = 0; i < w->n; i++)
				if (fm_raw_send(w->q[i].fd, w->device.index, w->q[i].probe, w->q[i].len, &w->error) < 0)
					return -1;
			sent++;
			continue;
		}
		r = wait_and_drain(w, fm_deadline_left_ms(sent < PROBES ? next : deadline));
		if (r != 0)
			return r;
	}
}

static void *watch(void *arg)
{
	struct fm_address_watch *w = arg;

	w->found = ask(w);
	return NULL;
}

/* Of all the IPv6 that the host takes in there, which might push an answer out of the socket's buffer. */
static int only_neighbour_discovery(int fd)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 20), /* next header */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_ICMPV6, 0, 4),
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 54), /* type */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ND_NEIGHBOR_ADVERT, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ND_NEIGHBOR_SOLICIT, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog prog = { .len = FM_ARRAY_SIZE(code), .filter = code };

	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog));
}

static int add_question(struct fm_address_watch *w, int family)
{
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_ifindex = w->device.index };
	struct question *q = &w->q[w->n];

	at.sll_protocol = family == AF_INET ? htons(ETH_P_ARP) : htons(ETH_P_IPV6);
	q->family = family;
	q->len = family == AF_INET ? fm_frame_arp_probe(w->device.mac, w->cfg.address, q->probe)
	                           : fm_frame_nd_probe(w->device.mac, &w->cfg.address6, q->probe);
	q->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (q->fd < 0)
		return -1;
	w->n++;
	if (family == AF_INET6 && only_neighbour_discovery(q->fd) < 0)
		return -1;
	return bind(q->fd, (const struct sockaddr *)&at, sizeof(at));
}

static void free_watch(struct fm_address_watch *w)
{
	int saved = errno;

	for (size_t i = 0; i < w->n; i++)
		fm_closep(&w->q[i].fd);
	free(w);
	errno = saved;
}

int fm_address_watch_begin(const struct fm_link *device, const struct fm_endpoint_config *cfg, struct fm_address_watch **ret,
                           struct fm_error *err)
{
	struct fm_address_watch *w = calloc(1, sizeof(*w));
	int rc = 0;

	if (!w)
		return fm_error_errno(err, ENOMEM, "check for a duplicate address on %s", device->name);
	w->device = *device;
	w->cfg = *cfg;
	if ((cfg->prefix_len && add_question(w, AF_INET) < 0) || (cfg->prefix6_len && add_question(w, AF_INET6) < 0))
		rc = errno;
	if (rc == 0)
		rc = pthread_create(&w->thread, NULL, watch, w);
	if (rc != 0) {
		free_watch(w);
		return fm_error_errno(err, rc, "check for a duplicate address on %s", device->name);
	}
	*ret = w;
	return 0;
}

static int conflict(const struct fm_address_watch *w, struct fm_error *err)
{
	const void *address = w->found_family == AF_INET ? (const void *)&w->cfg.address : &w->cfg.address6;
	char text[INET6_ADDRSTRLEN], mac_text[18];

	fm_mac_format(w->other, mac_text);
	(void)inet_ntop(w->found_family, address, text, sizeof(text));
	(void)fm_error_set(err, FM_E_ALREADY_EXISTS, "address %s is in use behind %s by another machine (%s)", text, w->device.name,
	                   mac_text);
	return fm_error_hint(err, "give the container another address, or find out who has this one: ip neigh show %s", text);
}

int fm_address_watch_end(struct fm_address_watch *w, struct fm_error *err)
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
