/* SPDX-License-Identifier: MIT */
/*
 * seq-server.c - a small static program that counts what reaches it, made to be moved: the other end of seq-client.
 *
 *   seq-server PORT
 *
 * UDP, IPv4 and IPv6: each packet of a seq-client is counted and sent back.
 * TCP, IPv4 and IPv6: as much of Redis' protocol as seq-client, incr-client and redis-cli need: PING, INCR KEY, GET KEY, STATE. STATE is JSON: connections (open now), accepted (ever),
 * keys, streams (of UDP, each with stream, received, duplicates, reordered, missing (up to the highest that came), longest_gap_ms between two arrivals, gap_at_ms).
 * All it knows is in its memory. One thread, epoll.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "seq.h"

#define CONNECTIONS_MAX 1024u
#define KEYS_MAX        4096u /* a power of two; three quarters are used */
#define KEY_BYTES       48
#define REQUEST_BYTES   512
#define WORDS_MAX       4
#define STREAMS_MAX     16u
#define STATE_BYTES     8192
#define PACKETS_A_TURN  64

enum kind { LISTENER, DATAGRAMS, CONNECTION };

struct source {
	enum kind kind;
	int fd;
	size_t n;
	char in[REQUEST_BYTES];
};

struct key {
	char name[KEY_BYTES]; /* "": free */
	unsigned long long value;
};

struct stream {
	uint32_t id;
	struct seq_count count;
};

struct server {
	int epoll;
	unsigned connections, accepted, keys_used, streams_used;
	struct key keys[KEYS_MAX];
	struct stream streams[STREAMS_MAX];
};

struct words {
	int n;
	const char *at[WORDS_MAX];
	size_t length[WORDS_MAX];
};

/* ---------------------------------------------------------------- UDP */

static struct stream *find_stream(struct server *s, uint32_t id)
{
	for (unsigned i = 0; i < s->streams_used; i++)
		if (s->streams[i].id == id)
			return &s->streams[i];
	if (s->streams_used == STREAMS_MAX)
		return NULL;
	s->streams[s->streams_used].id = id;
	return &s->streams[s->streams_used++];
}

static void take_packets(struct server *s, int fd)
{
	for (int i = 0; i < PACKETS_A_TURN; i++) {
		struct seq_packet p;
		struct sockaddr_storage from;
		socklen_t length = sizeof(from);
		ssize_t n = recvfrom(fd, &p, sizeof(p), MSG_DONTWAIT, (struct sockaddr *)&from, &length);
		if (n < 0)
			return;
		if (n != sizeof(p) || p.magic != SEQ_MAGIC)
			continue;
		struct stream *st = find_stream(s, p.stream);
		if (st)
			(void)seq_take(&st->count, p.number);
		(void)sendto(fd, &p, sizeof(p), MSG_DONTWAIT, (struct sockaddr *)&from, length);
	}
}

/* ---------------------------------------------------------------- TCP */

static struct key *find_key(struct server *s, const char *name, size_t length)
{
	uint32_t h = 2166136261u;

	if (length == 0 || length >= KEY_BYTES)
		return NULL;
	for (size_t i = 0; i < length; i++)
		h = (h ^ (unsigned char)name[i]) * 16777619u;
	for (;; h++) {
		struct key *k = &s->keys[h % KEYS_MAX];
		if (strncmp(k->name, name, length) == 0 && k->name[length] == '\0')
			return k;
		if (k->name[0])
			continue;
		if (s->keys_used >= KEYS_MAX / 4 * 3)
			return NULL;
		s->keys_used++;
		memcpy(k->name, name, length);
		return k;
	}
}

/* "*N\r\n" and N times "$LENGTH\r\nWORD\r\n". Bytes that it took, 0 when it is not whole, -1 when it is something else. */
static ssize_t parse(const char *in, size_t n, struct words *ret)
{
	const char *p = in, *end = in + n;
	*ret = (struct words){ 0 };

	for (int i = -1, count = 1; i < count; i++) {
		const char *line = memchr(p, '\n', (size_t)(end - p));
		if (!line)
			return n < REQUEST_BYTES ? 0 : -1;
		long number = strtol(p + 1, NULL, 10);
		if (*p != (i < 0 ? '*' : '$') || number < (i < 0) || number > (i < 0 ? WORDS_MAX : REQUEST_BYTES))
			return -1;
		p = line + 1;
		if (i < 0) {
			count = (int)number;
			continue;
		}
		if (end - p < number + 2)
			return n < REQUEST_BYTES ? 0 : -1;
		ret->at[ret->n] = p;
		ret->length[ret->n++] = (size_t)number;
		p += number + 2;
	}
	return p - in;
}

static int state(const struct server *s, char *to, size_t size)
{
	int n = snprintf(to, size, "{\"connections\": %u, \"accepted\": %u, \"keys\": %u, \"streams\": [", s->connections, s->accepted,
	                 s->keys_used);

	for (unsigned i = 0; i < s->streams_used; i++) {
		const struct seq_count *c = &s->streams[i].count;
		n += snprintf(to + n, size - (size_t)n,
		              "%s{\"stream\": %u, \"received\": %llu, \"duplicates\": %llu, \"reordered\": %llu, \"missing\": %llu, "
		              "\"longest_gap_ms\": %.3f, "
		              "\"gap_at_ms\": %.3f}",
		              i ? ", " : "", s->streams[i].id, (unsigned long long)c->received, (unsigned long long)c->duplicates,
		              (unsigned long long)c->reordered, (unsigned long long)(c->end - c->received), c->longest_gap_ms,
		              c->gap_at_ms);
	}
	return n + snprintf(to + n, size - (size_t)n, "]}");
}

static bool is_word(const struct words *w, int at, const char *word)
{
	return w->n > at && w->length[at] == strlen(word) && strncasecmp(w->at[at], word, w->length[at]) == 0;
}

static int answer(struct server *s, const struct words *w, char *to, size_t size)
{
	char text[STATE_BYTES];
	struct key *k = w->n == 2 ? find_key(s, w->at[1], w->length[1]) : NULL;

	if (is_word(w, 0, "PING"))
		return snprintf(to, size, "+PONG\r\n");
	if (is_word(w, 0, "INCR") && k)
		return snprintf(to, size, ":%llu\r\n", ++k->value);
	if (is_word(w, 0, "GET") && k)
		return snprintf(to, size, "$%d\r\n%llu\r\n", snprintf(text, sizeof(text), "%llu", k->value), k->value);
	if (is_word(w, 0, "STATE")) {
		int n = state(s, text, sizeof(text));
		return snprintf(to, size, "$%d\r\n%s\r\n", n, text);
	}
	return snprintf(to, size, "-ERR unknown command, or too many keys\r\n");
}

/* Answers all requests that are whole; -1 ends the connection. */
static int serve(struct server *s, struct source *c)
{
	char out[STATE_BYTES + 64];
	struct words w;

	ssize_t n = recv(c->fd, c->in + c->n, sizeof(c->in) - c->n, MSG_DONTWAIT);
	if (n <= 0)
		return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
	c->n += (size_t)n;
	while (c->n > 0 && (n = parse(c->in, c->n, &w)) != 0) {
		if (n < 0)
			return -1;
		int length = answer(s, &w, out, sizeof(out));
		if (send(c->fd, out, (size_t)length, MSG_NOSIGNAL) != length)
			return -1;
		c->n -= (size_t)n;
		memmove(c->in, c->in + n, c->n);
	}
	return 0;
}

/* ---------------------------------------------------------------- sockets */

static int watch(struct server *s, enum kind kind, int fd)
{
	struct source *source = calloc(1, sizeof(*source));
	if (!source)
		return -1;
	source->kind = kind;
	source->fd = fd;
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = source };
	if (epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &e) == 0)
		return 0;
	free(source);
	return -1;
}

static void accept_one(struct server *s, int listener)
{
	int one = 1, fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (s->connections >= CONNECTIONS_MAX || watch(s, CONNECTION, fd) < 0) {
		(void)close(fd);
		return;
	}
	s->connections++;
	s->accepted++;
}

static void end_connection(struct server *s, struct source *c)
{
	(void)close(c->fd);
	free(c);
	s->connections--;
}

/* Without IPv6 in the kernel there is none, and that is no error. */
static int open_socket(struct server *s, int family, int type, int port)
{
	struct sockaddr_in a4 = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	struct sockaddr_in6 a6 = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port) };
	const struct sockaddr *a = family == AF_INET ? (const struct sockaddr *)&a4 : (const struct sockaddr *)&a6;
	int one = 1, room = SEQ_RCVBUF, fd = socket(family, type | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return family == AF_INET6 && errno == EAFNOSUPPORT ? 0 : -1;
	if (family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (type == SOCK_STREAM)
		(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	else if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)) < 0)
		(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room)); /* in a container: as much as it may */
	if (bind(fd, a, family == AF_INET ? sizeof(a4) : sizeof(a6)) == 0 && (type == SOCK_DGRAM || listen(fd, 1024) == 0) &&
	    watch(s, type == SOCK_STREAM ? LISTENER : DATAGRAMS, fd) == 0)
		return 0;
	(void)close(fd);
	return -1;
}

int main(int argc, char **argv)
{
	static struct server s;
	struct epoll_event ready[64];
	int port = argc == 2 ? atoi(argv[1]) : 0;

	if (port < 1 || port > 65535) {
		fprintf(stderr, "usage: seq-server PORT\n");
		return 2;
	}
	(void)signal(SIGPIPE, SIG_IGN);
	s.epoll = epoll_create1(EPOLL_CLOEXEC);
	for (int i = 0; i < 4; i++)
		if (s.epoll < 0 || open_socket(&s, i < 2 ? AF_INET : AF_INET6, i % 2 ? SOCK_STREAM : SOCK_DGRAM, port) < 0) {
			fprintf(stderr, "seq-server: port %d: %s\n", port, strerror(errno));
			return 1;
		}
	printf("serving\n");
	(void)fflush(stdout);
	for (;;) {
		int n = epoll_wait(s.epoll, ready, 64, -1);
		for (int i = 0; i < n; i++) {
			struct source *c = ready[i].data.ptr;
			if (c->kind == LISTENER)
				accept_one(&s, c->fd);
			else if (c->kind == DATAGRAMS)
				take_packets(&s, c->fd);
			else if (serve(&s, c) < 0)
				end_connection(&s, c);
		}
	}
}
