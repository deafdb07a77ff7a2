/* SPDX-License-Identifier: MIT */
/*
 * incr-client.c - a client that increments a Redis counter over one TCP connection and never reconnects: the witness of every migration test.
 *
 *   incr-client ADDRESS PORT KEY INTERVAL_US
 *
 * Runs until SIGTERM or SIGINT or the connection ends, then prints one JSON object: acknowledged (replies seen), last (value of the last one), first, longest_gap_ms (between the
 * sending of a request and its reply, by this program's own clock), gap_at_ms (real time of that request), gaps_over_50ms, error ("" or why the connection ended). SIGUSR1 resets the gap figures
 * (they are then about what follows); SIGUSR2 prints the object at once, on a line of its own. Each reply must be its predecessor plus one: anything else is an error, too.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define REPLY_TIMEOUT_MS 60000

static volatile sig_atomic_t stop_requested, reset_requested, report_requested;

static void on_stop(int sig)
{
	(void)sig;
	stop_requested = 1;
}

static void on_reset(int sig)
{
	(void)sig;
	reset_requested = 1;
}

static void on_report(int sig)
{
	(void)sig;
	report_requested = 1;
}

struct stats {
	unsigned long long acknowledged, first, last, gaps_over_50ms;
	double longest_gap_ms, gap_at_ms;
	char error[160];
};

static double clock_ms(clockid_t id)
{
	struct timespec t;
	clock_gettime(id, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int connect_to(const char *address, int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((unsigned short)port) };
	struct sockaddr_in6 a6 = { .sin6_family = AF_INET6, .sin6_port = htons((unsigned short)port) };
	int is_ipv6 = strchr(address, ':') != NULL;
	int one = 1, s = socket(is_ipv6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s < 0 || (is_ipv6 ? inet_pton(AF_INET6, address, &a6.sin6_addr) : inet_pton(AF_INET, address, &a.sin_addr)) != 1 ||
	    (is_ipv6 ? connect(s, (struct sockaddr *)&a6, sizeof(a6)) : connect(s, (struct sockaddr *)&a, sizeof(a))) < 0)
		return -1;
	(void)setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return s;
}

/* Reads one ":<number>\r\n"; -1 with st->error on anything else. A stop request while waiting still waits for the reply: an unanswered request must not be lost from the count. */
static int read_reply(int s, struct stats *st, unsigned long long *ret)
{
	char buf[64];
	size_t n = 0;
	double deadline = clock_ms(CLOCK_MONOTONIC) + REPLY_TIMEOUT_MS;
	while (n < sizeof(buf) - 1) {
		struct pollfd p = { .fd = s, .events = POLLIN };
		if (poll(&p, 1, 1000) <= 0) {
			if (clock_ms(CLOCK_MONOTONIC) < deadline)
				continue;
			(void)snprintf(st->error, sizeof(st->error), "no reply within %d ms", REPLY_TIMEOUT_MS);
			return -1;
		}
		ssize_t r = recv(s, buf + n, sizeof(buf) - 1 - n, 0);
		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0) {
			(void)snprintf(st->error, sizeof(st->error), "connection ended: %s",
			               r < 0 ? strerror(errno) : "closed by the server");
			return -1;
		}
		n += (size_t)r;
		buf[n] = '\0';
		if (buf[n - 1] == '\n')
			break;
	}
	if (buf[0] != ':') {
		buf[strcspn(buf, "\r\n")] = '\0';
		(void)snprintf(st->error, sizeof(st->error), "unexpected reply '%s'", buf);
		return -1;
	}
	*ret = strtoull(buf + 1, NULL, 10);
	return 0;
}

static int one_increment(int s, const char *request, size_t length, struct stats *st)
{
	unsigned long long value = 0;
	double sent = clock_ms(CLOCK_MONOTONIC);
	if (send(s, request, length, MSG_NOSIGNAL) != (ssize_t)length) {
		(void)snprintf(st->error, sizeof(st->error), "cannot send: %s", strerror(errno));
		return -1;
	}
	if (read_reply(s, st, &value) < 0)
		return -1;
	double gap = clock_ms(CLOCK_MONOTONIC) - sent;
	if (st->acknowledged && value != st->last + 1) {
		(void)snprintf(st->error, sizeof(st->error), "the counter jumped from %llu to %llu", st->last, value);
		return -1;
	}
	if (!st->acknowledged)
		st->first = value;
	st->last = value;
	st->acknowledged++;
	st->gaps_over_50ms += gap > 50;
	if (gap > st->longest_gap_ms) {
		st->longest_gap_ms = gap;
		st->gap_at_ms = clock_ms(CLOCK_REALTIME) - gap;
	}
	return 0;
}

static void print_report(const struct stats *st)
{
	printf("{\"acknowledged\": %llu, \"first\": %llu, \"last\": %llu, \"longest_gap_ms\": %.3f, \"gap_at_ms\": %.3f, "
	       "\"gaps_over_50ms\": %llu, \"error\": \"%s\"}\n",
	       st->acknowledged, st->first, st->last, st->longest_gap_ms, st->gap_at_ms, st->gaps_over_50ms, st->error);
	(void)fflush(stdout);
}

int main(int argc, char **argv)
{
	struct stats st = { 0 };
	char request[256];
	if (argc != 5) {
		fprintf(stderr, "usage: incr-client ADDRESS PORT KEY INTERVAL_US\n");
		return 2;
	}
	(void)signal(SIGTERM, on_stop);
	(void)signal(SIGINT, on_stop);
	(void)signal(SIGUSR1, on_reset);
	(void)signal(SIGUSR2, on_report);
	long interval_us = strtol(argv[4], NULL, 10);
	int n = snprintf(request, sizeof(request), "*2\r\n$4\r\nINCR\r\n$%zu\r\n%s\r\n", strlen(argv[3]), argv[3]);
	int s = n > 0 && (size_t)n < sizeof(request) ? connect_to(argv[1], atoi(argv[2])) : -1;
	if (s < 0) {
		fprintf(stderr, "incr-client: cannot connect to %s:%s: %s\n", argv[1], argv[2], strerror(errno));
		return 1;
	}
	while (!stop_requested) {
		if (reset_requested) {
			reset_requested = 0;
			st.longest_gap_ms = st.gap_at_ms = 0;
			st.gaps_over_50ms = 0;
		}
		if (report_requested) {
			report_requested = 0;
			print_report(&st);
		}
		if (one_increment(s, request, (size_t)n, &st) < 0)
			break;
		struct timespec t = { .tv_nsec = interval_us * 1000 };
		(void)nanosleep(&t, NULL);
	}
	print_report(&st);
	close(s);
	return st.error[0] ? 1 : 0;
}
