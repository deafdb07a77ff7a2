/* SPDX-License-Identifier: MIT */
/*
 * capture.c - the last packets that passed an interface, kept in memory, and written to a file only when asked: for the search after a move that failed, without a disk full of those that did not.
 *
 *   capture INTERFACE FILE
 *
 * Prints "ready" and keeps the beginnings (192 bytes) of the last 65,536 packets, both directions. SIGUSR1 forgets them; SIGUSR2 writes FILE (pcap, times in nanoseconds) and prints
 * {"packets": …, "overrun": …}: overrun are packets that the kernel dropped, since the start, because we were too slow. SIGTERM or SIGINT ends it. Needs CAP_NET_RAW.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SNAP_BYTES     192u
#define PACKETS        65536u
#define PCAP_MAGIC_NS  0xa1b23c4du
#define LINKTYPE_ETHER 1u
#define RCVBUF         (16 << 20)
#define A_TURN         256

struct record { /* as pcap has it */
	uint32_t seconds, nanoseconds, kept, length;
	unsigned char bytes[SNAP_BYTES];
};

struct ring {
	int fd;
	struct record *records;
	uint64_t end, begin; /* begin: what SIGUSR1 left; more than PACKETS before the end are overwritten */
	uint64_t overrun;
};

static volatile sig_atomic_t stop_requested, forget_requested, write_requested;

static void on_signal(int sig)
{
	if (sig == SIGUSR1)
		forget_requested = 1;
	else if (sig == SIGUSR2)
		write_requested = 1;
	else
		stop_requested = 1;
}

static void take(struct ring *r)
{
	for (int i = 0; i < A_TURN; i++) {
		struct record *to = &r->records[r->end % PACKETS];
		union {
			struct cmsghdr align;
			char bytes[CMSG_SPACE(sizeof(struct timespec))];
		} control;
		struct iovec iov = { .iov_base = to->bytes, .iov_len = SNAP_BYTES };
		struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
		ssize_t n = recvmsg(r->fd, &m, MSG_DONTWAIT | MSG_TRUNC);
		if (n < 0)
			return;
		struct timespec t = { 0 };
		for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
			if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_TIMESTAMPNS)
				memcpy(&t, CMSG_DATA(c), sizeof(t));
		to->seconds = (uint32_t)t.tv_sec;
		to->nanoseconds = (uint32_t)t.tv_nsec;
		to->length = (uint32_t)n;
		to->kept = to->length < SNAP_BYTES ? to->length : SNAP_BYTES;
		r->end++;
	}
}

static int write_file(struct ring *r, const char *path)
{
	const struct {
		uint32_t magic;
		uint16_t major, minor;
		uint32_t zone, accuracy, snap, link;
	} head = { PCAP_MAGIC_NS, 2, 4, 0, 0, SNAP_BYTES, LINKTYPE_ETHER };
	struct tpacket_stats stats = { 0 };
	socklen_t length = sizeof(stats);
	uint64_t at = r->end - r->begin > PACKETS ? r->end - PACKETS : r->begin, n = r->end - at;
	FILE *f = fopen(path, "we");

	if (!f)
		return -1;
	int bad = fwrite(&head, sizeof(head), 1, f) != 1;
	for (; at < r->end && !bad; at++) {
		const struct record *p = &r->records[at % PACKETS];
		bad = fwrite(p, offsetof(struct record, bytes) + p->kept, 1, f) != 1;
	}
	if (fclose(f) != 0 || bad)
		return -1;
	if (getsockopt(r->fd, SOL_PACKET, PACKET_STATISTICS, &stats, &length) == 0) /* reading resets it */
		r->overrun += stats.tp_drops;
	printf("{\"packets\": %llu, \"overrun\": %llu}\n", (unsigned long long)n, (unsigned long long)r->overrun);
	(void)fflush(stdout);
	return 0;
}

static int open_ring(struct ring *r, const char *interface)
{
	struct sockaddr_ll a = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = (int)if_nametoindex(interface) };
	int one = 1, room = RCVBUF;

	r->records = calloc(PACKETS, sizeof(*r->records));
	r->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0); /* no protocol: nothing comes before it is bound */
	if (!r->records || a.sll_ifindex == 0 || r->fd < 0)
		return -1;
	(void)setsockopt(r->fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof(one));
	(void)setsockopt(r->fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	return bind(r->fd, (struct sockaddr *)&a, sizeof(a));
}

int main(int argc, char **argv)
{
	struct ring r = { .fd = -1 };

	if (argc != 3) {
		fprintf(stderr, "usage: capture INTERFACE FILE\n");
		return 2;
	}
	for (int i = 0; i < 4; i++)
		(void)signal((int[]){ SIGTERM, SIGINT, SIGUSR1, SIGUSR2 }[i], on_signal);
	if (open_ring(&r, argv[1]) < 0) {
		fprintf(stderr, "capture: %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	printf("ready\n");
	(void)fflush(stdout);
	while (!stop_requested) {
		struct pollfd p = { .fd = r.fd, .events = POLLIN };
		(void)poll(&p, 1, 200); /* a signal between this and the look at its flag waits no longer */
		take(&r);
		if (forget_requested) {
			forget_requested = 0;
			r.begin = r.end;
		}
		if (write_requested) {
			write_requested = 0;
			if (write_file(&r, argv[2]) < 0) {
				fprintf(stderr, "capture: %s: %s\n", argv[2], strerror(errno));
				return 1;
			}
		}
	}
	return 0;
}
