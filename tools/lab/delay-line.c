/* SPDX-License-Identifier: MIT */
/*
 * delay-line.c - latency for a lab, where the kernel has no netem: a wire between two interfaces of one namespace on which each frame is on its way for a set time.
 *
 *   delay-line DEVICE DEVICE MICROSECONDS
 *
 * Neither device may belong to a bridge. Frames are taken and given with their virtio header, so that segment offload and checksum offload go on as without it. What a device's queue does not
 * take is lost, as on a wire; so is what comes when QUEUE_BYTES_MAX are on their way in one direction. Says "ready" when frames pass, ends with SIGTERM.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define FRAME_BYTES_MAX ((64u << 10) + 256u) /* a segment offload's frame and its headers */
#define QUEUE_BYTES_MAX (256u << 20)
#define SOCKET_BYTES    (64 << 20)
#define LATENCY_US_MAX  10000000u
#define HASTE           (-15) /* what waits for the processor is late */

struct frame {
	struct frame *next;
	uint64_t due_us;
	size_t n;
	uint8_t bytes[];
};

struct direction {
	int from, to;
	struct frame *first, **last;
	size_t queued;
	uint64_t lost;
};

static uint64_t now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static int fail(const char *what, const char *device)
{
	(void)fprintf(stderr, "delay-line: %s %s: %s\n", what, device, strerror(errno));
	return -1;
}

static int set(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value));
}

static int open_device(const char *device)
{
	int index = (int)if_nametoindex(device);
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = index };
	struct packet_mreq all = { .mr_ifindex = index, .mr_type = PACKET_MR_PROMISC };
	int fd = index ? socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0) : -1; /* deaf until it is bound */

	if (fd < 0)
		return fail("cannot open", device);
	if (set(fd, SOL_PACKET, PACKET_VNET_HDR, 1) < 0 || set(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, 1) < 0 ||
	    set(fd, SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BYTES) < 0 || set(fd, SOL_SOCKET, SO_SNDBUFFORCE, SOCKET_BYTES) < 0 ||
	    setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof(all)) < 0 ||
	    bind(fd, (const struct sockaddr *)&at, sizeof(at)) < 0) {
		(void)fail("cannot use", device);
		(void)close(fd);
		return -1;
	}
	return fd;
}

static void put(struct direction *d, const uint8_t *bytes, size_t n, uint64_t due_us)
{
	struct frame *f = d->queued + n > QUEUE_BYTES_MAX ? NULL : malloc(sizeof(*f) + n);

	if (!f) {
		d->lost++;
		return;
	}
	*f = (struct frame){ .due_us = due_us, .n = n };
	memcpy(f->bytes, bytes, n);
	*d->last = f;
	d->last = &f->next;
	d->queued += n;
}

static int take_in(struct direction *d, unsigned latency_us)
{
	static uint8_t buffer[sizeof(struct virtio_net_hdr) + FRAME_BYTES_MAX];

	for (;;) {
		ssize_t n = recv(d->from, buffer, sizeof(buffer), MSG_TRUNC);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR || errno == ENETDOWN ? 0 : -1;
		if ((size_t)n > sizeof(buffer)) {
			d->lost++;
			continue;
		}
		put(d, buffer, (size_t)n, now_us() + latency_us);
	}
}

static void give_out(struct direction *d)
{
	uint64_t now = now_us();

	while (d->first && d->first->due_us <= now) {
		struct frame *f = d->first;
		if (send(d->to, f->bytes, f->n, 0) < 0)
			d->lost++;
		d->queued -= f->n;
		d->first = f->next;
		if (!d->first)
			d->last = &d->first;
		free(f);
	}
}

static int carry(struct direction *d, unsigned latency_us)
{
	struct pollfd fds[] = { { .fd = d[0].from, .events = POLLIN }, { .fd = d[1].from, .events = POLLIN } };

	for (;;) {
		uint64_t now = now_us(), due = UINT64_MAX;
		for (int i = 0; i < 2; i++)
			if (d[i].first && d[i].first->due_us < due)
				due = d[i].first->due_us;
		uint64_t left = due > now ? due - now : 0;
		struct timespec t = { .tv_sec = (time_t)(left / 1000000), .tv_nsec = (long)(left % 1000000 * 1000) };
		if (ppoll(fds, 2, due == UINT64_MAX ? NULL : &t, NULL) < 0 && errno != EINTR)
			return -1;
		for (int i = 0; i < 2; i++) {
			if (take_in(&d[i], latency_us) < 0)
				return -1;
			give_out(&d[i]);
		}
	}
}

int main(int argc, char **argv)
{
	char *end = NULL;
	unsigned long latency_us = argc == 4 ? strtoul(argv[3], &end, 10) : 0;

	if (argc != 4 || *end || end == argv[3] || latency_us > LATENCY_US_MAX) {
		(void)fprintf(stderr, "Usage: delay-line DEVICE DEVICE MICROSECONDS\n");
		return 2;
	}
	int a = open_device(argv[1]), b = open_device(argv[2]);
	if (a < 0 || b < 0)
		return 1;
	(void)setpriority(PRIO_PROCESS, 0, HASTE);
	(void)prctl(PR_SET_TIMERSLACK, 1ul);
	struct direction d[2] = { { .from = a, .to = b }, { .from = b, .to = a } };
	d[0].last = &d[0].first;
	d[1].last = &d[1].first;
	(void)puts("ready");
	(void)fflush(stdout);
	return carry(d, (unsigned)latency_us) < 0 ? 1 : 0;
}
