/* SPDX-License-Identifier: MIT */
/*
 * seq-client.c - the witnesses of a move: a stream of numbered UDP packets, or many TCP connections with a counter each. IPv4 and IPv6. Nothing is ever connected anew.
 *
 *   seq-client udp ADDRESS PORT RATE                       to seq-server, RATE packets a second, each sent back by it
 *   seq-client tcp ADDRESS PORT CONNECTIONS INTERVAL_US    to seq-server or Redis, the next request INTERVAL_US after a reply
 *
 * Prints "ready" when all connections stand (udp: when the first packet came back), then runs until SIGTERM or SIGINT and prints one JSON object. SIGUSR2 prints it at once, on a line of
 * its own. SIGUSR1 makes the figures about gaps, and `moved`, about what follows.
 *
 * udp: sent; received (different ones, back here); end (the highest of those + 1); settled (the first so many are old enough, 3 s, to be judged); lost (of those); late (came after that, no longer lost);
 *      duplicates; reordered; send_errors; longest_gap_ms (between two arrivals, also one that lasts), gap_at_ms (real time of its begin).
 * tcp: connections; alive; acknowledged (replies); moved (connections with a reply since SIGUSR1); lost (acknowledged increments that the server no longer has); twice (increments that were carried
 *      out more than once); resets (connections that ended); hung (no reply within 60 s at the end); longest_gap_ms (from a request to its reply), gap_at_ms; gaps_over_1s (requests);
 *      waiting_ms (the oldest request without a reply); error (of the first that ended).
 *      At the end each connection asks for its counter, over itself, and compares.
 * Exit status 0: nothing was lost, carried out twice, reset or hung; of UDP only: it ran.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "seq.h"

#define SETTLE_MS        3000
#define MARK_MS          100
#define MARKS            (SETTLE_MS / MARK_MS)
#define BURST_MAX        64
#define CONNECTIONS_MAX  1000u
#define REPLY_TIMEOUT_MS 60000.0
#define REPLY_BYTES      64

static volatile sig_atomic_t stop_requested, reset_requested, report_requested;

static void on_signal(int sig)
{
	if (sig == SIGUSR1)
		reset_requested = 1;
	else if (sig == SIGUSR2)
		report_requested = 1;
	else
		stop_requested = 1;
}

static double now_ms(void)
{
	return seq_clock_ms(CLOCK_MONOTONIC);
}

/* At least until then, or a signal */
static void wait_for(struct pollfd *p, nfds_t n, double until_ms)
{
	double left = until_ms - now_ms();
	if (left < 0)
		left = 0;
	struct timespec t = { .tv_sec = (time_t)(left / 1e3), .tv_nsec = (long)(left * 1e6) % 1000000000L };
	(void)ppoll(p, n, &t, NULL);
}

static int connect_to(const char *address, const char *port, int type)
{
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = type }, *found = NULL;

	if (getaddrinfo(address, port, &hints, &found) != 0) {
		errno = EINVAL;
		return -1;
	}
	int fd = socket(found->ai_family, type | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, found->ai_addr, found->ai_addrlen) < 0) {
		int e = errno;
		(void)close(fd);
		errno = e;
		fd = -1;
	}
	freeaddrinfo(found);
	return fd;
}

/* ---------------------------------------------------------------- UDP */

struct stream {
	int fd;
	uint32_t id;
	uint64_t sent, settled, lost, late, send_errors;
	uint64_t marks[MARKS]; /* how many had been sent, every MARK_MS */
	uint64_t marks_made;
	double mark_due_ms;
	struct seq_count back;
};

static void settle(struct stream *s, double now)
{
	for (; now >= s->mark_due_ms; s->mark_due_ms += MARK_MS) {
		uint64_t old = s->marks_made >= MARKS ? s->marks[s->marks_made % MARKS] : 0;
		for (; s->settled < old; s->settled++)
			s->lost += !seq_has(&s->back, s->settled);
		s->marks[s->marks_made++ % MARKS] = s->sent;
	}
}

static void receive(struct stream *s)
{
	struct seq_packet p;
	ssize_t n;

	/* An error is a word from the network about an earlier packet: that one is lost, the next may come. */
	for (int i = 0; i < BURST_MAX && ((n = recv(s->fd, &p, sizeof(p), MSG_DONTWAIT)) >= 0 || errno != EAGAIN); i++) {
		if (n != sizeof(p) || p.magic != SEQ_MAGIC || p.stream != s->id || p.number >= s->sent)
			continue;
		bool fresh = seq_take(&s->back, p.number);
		s->late += fresh && p.number < s->settled;
		s->lost -= fresh && p.number < s->settled;
	}
}

static void send_one(struct stream *s)
{
	struct seq_packet p = { .magic = SEQ_MAGIC, .stream = s->id, .number = s->sent++ };

	/* The first error may be about an earlier packet, and has then kept this one from being sent. */
	ssize_t n = send(s->fd, &p, sizeof(p), MSG_NOSIGNAL);
	if (n < 0)
		n = send(s->fd, &p, sizeof(p), MSG_NOSIGNAL);
	s->send_errors += n < 0;
}

static void report_stream(struct stream *s)
{
	struct seq_count *b = &s->back;

	if (!stop_requested)
		seq_note_gap(b, now_ms()); /* one that lasts */
	printf("{\"sent\": %llu, \"received\": %llu, \"end\": %llu, \"settled\": %llu, \"lost\": %llu, \"late\": %llu, \"duplicates\": "
	       "%llu, "
	       "\"reordered\": %llu, "
	       "\"send_errors\": %llu, \"longest_gap_ms\": %.3f, \"gap_at_ms\": %.3f}\n",
	       (unsigned long long)s->sent, (unsigned long long)b->received, (unsigned long long)b->end, (unsigned long long)s->settled,
	       (unsigned long long)s->lost, (unsigned long long)s->late, (unsigned long long)b->duplicates,
	       (unsigned long long)b->reordered, (unsigned long long)s->send_errors, b->longest_gap_ms, b->gap_at_ms);
	(void)fflush(stdout);
}

static void obey_stream(struct stream *s)
{
	if (reset_requested) {
		reset_requested = 0;
		s->back.longest_gap_ms = s->back.gap_at_ms = 0;
		s->back.last_ms = s->back.last_ms > 0 ? now_ms() : 0;
	}
	if (report_requested) {
		report_requested = 0;
		report_stream(s);
	}
}

static int run_stream(const char *address, const char *port, double rate)
{
	static struct stream s;
	int room = SEQ_RCVBUF;
	bool ready = false;

	s.fd = connect_to(address, port, SOCK_DGRAM);
	if (s.fd < 0) {
		fprintf(stderr, "seq-client: %s:%s: %s\n", address, port, strerror(errno));
		return 1;
	}
	if (setsockopt(s.fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)) < 0)
		(void)setsockopt(s.fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
	s.id = (uint32_t)getpid();
	double start = now_ms(), end = 0;
	s.mark_due_ms = start + MARK_MS;
	while (end == 0 || now_ms() < end) {
		obey_stream(&s);
		/* The last ones get their time, too. */
		if (stop_requested && end == 0)
			end = now_ms() + SETTLE_MS + 2 * MARK_MS;
		double due = end > 0 ? s.mark_due_ms : start + (double)s.sent * 1e3 / rate;
		struct pollfd p = { .fd = s.fd, .events = POLLIN };
		wait_for(&p, 1, due < s.mark_due_ms ? due : s.mark_due_ms);
		receive(&s);
		double now = now_ms();
		settle(&s, now);
		/* After an interruption it goes on at its rate; a burst would lose packets of its own. */
		if (end == 0 && now - due > MARK_MS)
			start += now - due;
		for (int i = 0; end == 0 && i < BURST_MAX && start + (double)s.sent * 1e3 / rate <= now; i++)
			send_one(&s);
		if (!ready && s.back.received > 0) {
			ready = true;
			printf("ready\n");
			(void)fflush(stdout);
		}
	}
	report_stream(&s);
	return 0;
}

/* ---------------------------------------------------------------- TCP */

struct connection {
	int fd; /* -1: ended */
	char key[40], in[REPLY_BYTES];
	size_t n;
	unsigned long long last;
	double sent_ms, due_ms; /* sent_ms 0: no request is open */
	bool moved;
};

struct crowd {
	unsigned n;
	double interval_ms;
	unsigned long long acknowledged, lost, twice, gaps_over_1s;
	unsigned resets, hung;
	double longest_gap_ms, gap_at_ms;
	char error[160];
	struct connection c[CONNECTIONS_MAX];
};

static void end_connection(struct crowd *w, struct connection *c, const char *why)
{
	if (!w->error[0])
		(void)snprintf(w->error, sizeof(w->error), "connection %td ended: %s", c - w->c, why);
	w->resets++;
	(void)close(c->fd);
	c->fd = -1;
	c->sent_ms = 0;
}

static void ask(struct crowd *w, struct connection *c, const char *verb)
{
	char request[128];
	int n = snprintf(request, sizeof(request), "*2\r\n$%zu\r\n%s\r\n$%zu\r\n%s\r\n", strlen(verb), verb, strlen(c->key), c->key);

	c->sent_ms = now_ms();
	if (send(c->fd, request, (size_t)n, MSG_NOSIGNAL) != n)
		end_connection(w, c, strerror(errno));
}

/* One reply, when it is whole: ":N\r\n" or "$LENGTH\r\nN\r\n" */
static bool take_number(struct crowd *w, struct connection *c, unsigned long long *ret)
{
	ssize_t r = recv(c->fd, c->in + c->n, sizeof(c->in) - 1 - c->n, MSG_DONTWAIT);

	if (r < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (r <= 0) {
		end_connection(w, c, r < 0 ? strerror(errno) : "closed by the server");
		return false;
	}
	c->n += (size_t)r;
	c->in[c->n] = '\0';
	const char *line = strchr(c->in, '\n');
	if (line && c->in[0] == '$')
		line = strchr(line + 1, '\n');
	if (!line && c->n < sizeof(c->in) - 1)
		return false;
	if (!line || line[1] || (c->in[0] != ':' && (c->in[0] != '$' || c->in[1] == '-'))) {
		c->in[strcspn(c->in, "\r\n")] = '\0';
		end_connection(w, c, c->in);
		return false;
	}
	*ret = strtoull(c->in[0] == ':' ? c->in + 1 : strchr(c->in, '\n') + 1, NULL, 10);
	c->n = 0;
	return true;
}

static void compare(struct crowd *w, struct connection *c, unsigned long long value, unsigned long long expected)
{
	if (value < expected)
		w->lost += expected - value;
	else
		w->twice += value - expected;
	c->last = value;
}

static void take_reply(struct crowd *w, struct connection *c)
{
	unsigned long long value = 0;

	if (!take_number(w, c, &value))
		return;
	double now = now_ms(), gap = now - c->sent_ms;
	if (gap > w->longest_gap_ms) {
		w->longest_gap_ms = gap;
		w->gap_at_ms = seq_clock_ms(CLOCK_REALTIME) - gap;
	}
	w->gaps_over_1s += gap > 1000;
	w->acknowledged++;
	compare(w, c, value, c->last + 1);
	c->moved = true;
	c->sent_ms = 0;
	c->due_ms = now + w->interval_ms;
}

static void report_crowd(const struct crowd *w)
{
	unsigned alive = 0, moved = 0;
	double now = now_ms(), waiting = 0;

	for (unsigned i = 0; i < w->n; i++) {
		alive += w->c[i].fd >= 0;
		moved += w->c[i].moved;
		if (w->c[i].sent_ms > 0 && now - w->c[i].sent_ms > waiting)
			waiting = now - w->c[i].sent_ms;
	}
	printf("{\"connections\": %u, \"alive\": %u, \"acknowledged\": %llu, \"moved\": %u, \"lost\": %llu, \"twice\": %llu, \"resets\": "
	       "%u, \"hung\": %u, "
	       "\"longest_gap_ms\": %.3f, \"gap_at_ms\": %.3f, \"gaps_over_1s\": %llu, \"waiting_ms\": %.3f, \"error\": \"%s\"}\n",
	       w->n, alive, w->acknowledged, moved, w->lost, w->twice, w->resets, w->hung, w->longest_gap_ms, w->gap_at_ms, w->gaps_over_1s,
	       waiting, w->error);
	(void)fflush(stdout);
}

static void obey_crowd(struct crowd *w)
{
	if (reset_requested) {
		reset_requested = 0;
		w->longest_gap_ms = w->gap_at_ms = 0;
		w->gaps_over_1s = 0;
		for (unsigned i = 0; i < w->n; i++)
			w->c[i].moved = false;
	}
	if (report_requested) {
		report_requested = 0;
		report_crowd(w);
	}
}

/* Until a reply comes or the next request is due; taken by `take`. Number of requests that are still open. */
static unsigned turn(struct crowd *w, double until_ms, void (*take)(struct crowd *w, struct connection *c))
{
	struct pollfd p[CONNECTIONS_MAX];
	unsigned of[CONNECTIONS_MAX], n = 0, open = 0;

	for (unsigned i = 0; i < w->n; i++) {
		struct connection *c = &w->c[i];
		if (c->fd < 0)
			continue;
		of[n] = i;
		p[n++] = (struct pollfd){ .fd = c->fd, .events = POLLIN }; /* idle ones, too: they may end */
		if (c->sent_ms == 0 && c->due_ms < until_ms)
			until_ms = c->due_ms;
	}
	wait_for(p, n, until_ms);
	for (unsigned i = 0; i < n; i++)
		if (p[i].revents)
			take(w, &w->c[of[i]]);
	for (unsigned i = 0; i < n; i++)
		open += w->c[of[i]].fd >= 0 && w->c[of[i]].sent_ms > 0;
	return open;
}

static void take_final(struct crowd *w, struct connection *c)
{
	unsigned long long value = 0;

	if (!take_number(w, c, &value))
		return;
	compare(w, c, value, c->last);
	c->sent_ms = 0;
}

static void finish(struct crowd *w, void (*take)(struct crowd *w, struct connection *c))
{
	double deadline = now_ms() + REPLY_TIMEOUT_MS;
	unsigned open = 0;

	for (unsigned i = 0; i < w->n; i++)
		w->c[i].due_ms = deadline;
	while ((open = turn(w, now_ms() + MARK_MS, take)) > 0 && now_ms() < deadline)
		;
	w->hung += open;
}

static int connect_all(struct crowd *w, const char *address, const char *port)
{
	int one = 1;

	for (unsigned i = 0; i < w->n; i++) {
		struct connection *c = &w->c[i];
		(void)snprintf(c->key, sizeof(c->key), "seq:%d:%u", (int)getpid(), i);
		c->fd = connect_to(address, port, SOCK_STREAM);
		if (c->fd < 0) {
			fprintf(stderr, "seq-client: %s:%s: connection %u: %s\n", address, port, i, strerror(errno));
			return -1;
		}
		(void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		/* spread over the interval, not all at once */
		c->due_ms = now_ms() + w->interval_ms * i / w->n;
	}
	return 0;
}

static int run_crowd(const char *address, const char *port, unsigned connections, double interval_ms)
{
	static struct crowd w;

	w.n = connections;
	w.interval_ms = interval_ms;
	if (connect_all(&w, address, port) < 0)
		return 1;
	printf("ready\n");
	(void)fflush(stdout);
	while (!stop_requested) {
		obey_crowd(&w);
		(void)turn(&w, now_ms() + MARK_MS, take_reply);
		double now = now_ms();
		for (unsigned i = 0; i < w.n; i++)
			if (w.c[i].fd >= 0 && w.c[i].sent_ms == 0 && w.c[i].due_ms <= now)
				ask(&w, &w.c[i], "INCR");
	}
	finish(&w, take_reply);
	for (unsigned i = 0; i < w.n; i++)
		if (w.c[i].fd >= 0 && w.c[i].sent_ms == 0)
			ask(&w, &w.c[i], "GET");
	if (w.hung == 0)
		finish(&w, take_final);
	report_crowd(&w);
	return w.lost || w.twice || w.resets || w.hung ? 1 : 0;
}

int main(int argc, char **argv)
{
	bool udp = argc == 5 && strcmp(argv[1], "udp") == 0, tcp = argc == 6 && strcmp(argv[1], "tcp") == 0;
	double rate = udp ? strtod(argv[4], NULL) : 0, interval_us = tcp ? strtod(argv[5], NULL) : -1;
	unsigned long connections = tcp ? strtoul(argv[4], NULL, 10) : 0;

	if ((!udp || rate < 1 || rate > SEQ_RATE_MAX) && (!tcp || connections < 1 || connections > CONNECTIONS_MAX || interval_us < 0)) {
		fprintf(stderr,
		        "usage: seq-client udp ADDRESS PORT RATE (1 to %d)\n       seq-client tcp ADDRESS PORT CONNECTIONS (1 to %u) "
		        "INTERVAL_US\n",
		        SEQ_RATE_MAX, CONNECTIONS_MAX);
		return 2;
	}
	for (int i = 0; i < 4; i++)
		(void)signal((int[]){ SIGTERM, SIGINT, SIGUSR1, SIGUSR2 }[i], on_signal);
	(void)prctl(PR_SET_TIMERSLACK, 1);
	return udp ? run_stream(argv[2], argv[3], rate) : run_crowd(argv[2], argv[3], (unsigned)connections, interval_us / 1e3);
}
