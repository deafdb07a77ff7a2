/* SPDX-License-Identifier: MIT */
/*
 * ovs-flip.h - a container that moves between two ports of br-a while 10,000 UDP packets a second are sent to it, as its application sees it. Over ovs-lab.h; included by one program.
 *
 * Both ends have a receiver of their own. One is closed at any time: what comes there is dropped. When the container moves the open one is closed and the other opened, between two packets.
 */
#ifndef FM_TESTS_OVS_FLIP_H
#define FM_TESTS_OVS_FLIP_H

#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#include "ovs-lab.h"

#define FLIP_MAC       "02:77:00:00:01:00"
#define FLIP_RATE_HZ   10000u
#define FLIP_PACKETS   20000u
#define FLIP_IN_FLIGHT 256u /* not more than the switch's ports hold, should it not be scheduled for a moment */
#define FLIP_BUFFER    (8 << 20)
#define FLIP_SETTLE_MS 5000u

struct flip_packet {
	uint8_t dst[6], src[6], type[2];
	uint8_t ip[20], udp[8];
	uint32_t number;
} __attribute__((packed));

struct flip_stream {
	int from, to[2];
	_Atomic unsigned sent, open; /* open: which receiver */
	_Atomic unsigned arrived[2]; /* at a port, whether it is open or not */
	_Atomic bool stop;
	_Atomic unsigned at[2]; /* what the application got there */
	unsigned lost, twice, dropped;
	uint64_t took_us;
	uint8_t seen[FLIP_PACKETS], anywhere[FLIP_PACKETS], owner[FLIP_PACKETS];
	unsigned under_way;
};

static inline int flip_port(int number)
{
	struct sockaddr_ll sa = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL) };
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1, buffer = FLIP_BUFFER;
	char name[8];

	assert_true(fd >= 0);
	(void)snprintf(name, sizeof(name), "p%d", number);
	sa.sll_ifindex = (int)if_nametoindex(name);
	assert_true(sa.sll_ifindex > 0);
	assert_sys(setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on)));
	assert_sys(setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof(buffer)));
	assert_sys(bind(fd, (struct sockaddr *)&sa, sizeof(sa)));
	return fd;
}

static inline void flip_send(int fd, uint32_t number)
{
	static const uint8_t ip[20] = { 0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 77, 0, 3, 10, 77, 0, 100 };
	struct flip_packet p = { .dst = { 2, 0x77, 0, 0, 1, 0 }, .src = { 2, 0x77, 0, 0, 0, 1 }, .type = { 8, 0 }, .number = number };
	unsigned sum = 0;

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
static inline int64_t flip_receive(int fd)
{
	struct flip_packet p;
	ssize_t n;

	while ((n = recv(fd, &p, sizeof(p), MSG_DONTWAIT)) > 0)
		if (n == sizeof(p) && memcmp(p.dst, "\x02\x77\x00\x00\x01\x00", 6) == 0 && p.udp[0] == 0x1b)
			return p.number;
	return -1;
}

static inline int64_t flip_await(int fd, int timeout_ms)
{
	uint64_t deadline = fm_now_ms() + (uint64_t)timeout_ms;
	int64_t number;

	while ((number = flip_receive(fd)) < 0 && fm_deadline_left_ms(deadline) > 0)
		(void)fm_wait_fd(fd, POLLIN, fm_deadline_left_ms(deadline), NULL);
	return number;
}

/* The switch's cache follows its table a moment later, and may drop packets that came before there was a flow for them. */
static inline void flip_await_way(int from, int to)
{
	uint64_t deadline = fm_now_ms() + WAIT_MS;

	do {
		flip_send(from, FLIP_PACKETS); /* a number that is not counted, should it be late */
		assert_true(fm_deadline_left_ms(deadline) > 0);
	} while (flip_await(to, 100) < 0);
}

/* A packet belongs to the receiver that was open when it was sent: there the application sees it, elsewhere it is dropped. */
static inline void flip_take(struct flip_stream *s)
{
	for (unsigned i = 0; i < 2; i++) {
		int64_t number;

		while ((number = flip_receive(s->to[i])) >= 0) {
			if (number >= FLIP_PACKETS)
				continue;
			s->arrived[i]++;
			s->under_way -= s->anywhere[number] == 0;
			s->anywhere[number] = 1;
			if (s->owner[number] != i) {
				s->dropped++;
				continue;
			}
			s->twice += s->seen[number];
			s->seen[number] = 1;
			s->at[i]++;
		}
	}
}

static inline void *flip_run(void *arg)
{
	struct flip_stream *s = arg;
	uint64_t begin = fm_now_us(), deadline;

	while (s->sent < FLIP_PACKETS && !s->stop) {
		struct pollfd p[2] = { { .fd = s->to[0], .events = POLLIN }, { .fd = s->to[1], .events = POLLIN } };
		uint64_t due = begin + (uint64_t)s->sent * 1000000 / FLIP_RATE_HZ, now = fm_now_us();

		if (now >= due && s->under_way < FLIP_IN_FLIGHT) {
			s->owner[s->sent] = (uint8_t)s->open;
			s->under_way++;
			flip_send(s->from, s->sent);
			s->sent++;
		} else if (now < due) {
			struct timespec pause = { .tv_nsec = (long)(due - now) * 1000 };
			(void)ppoll(p, 2, &pause, NULL);
		} else if (poll(p, 2, 1) == 0 && now > due + FLIP_SETTLE_MS * 1000) {
			break;
		}
		flip_take(s);
	}
	s->took_us = fm_now_us() - begin;
	for (deadline = fm_now_ms() + FLIP_SETTLE_MS; s->under_way > 0 && fm_deadline_left_ms(deadline) > 0; flip_take(s)) {
		struct pollfd p[2] = { { .fd = s->to[0], .events = POLLIN }, { .fd = s->to[1], .events = POLLIN } };
		(void)poll(p, 2, 10);
	}
	flip_take(s);
	for (unsigned i = 0; i < s->sent; i++)
		s->lost += s->seen[i] == 0;
	return NULL;
}

/* Until `n` more packets are counted */
static inline void flip_await_more(struct flip_stream *s, _Atomic unsigned *counter, unsigned n)
{
	unsigned until = *counter + n;
	uint64_t deadline = fm_now_ms() + WAIT_MS;

	while (*counter < until && s->sent < FLIP_PACKETS) {
		assert_true(fm_deadline_left_ms(deadline) > 0);
		fm_pause_ms(1);
	}
}

#endif
