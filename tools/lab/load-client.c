/* SPDX-License-Identifier: MIT */
/*
 * load-client.c - a paced load on a Redis: reads and writes of random keys over several connections that never reconnect, and the proof that no acknowledged write was lost.
 *
 *   load-client ADDRESS PORT KEYS VALUE_BYTES CONNECTIONS RATE WRITE_PERCENT
 *
 * First writes every key once ("key:0" ... , pipelined) and prints "loaded". Then sends RATE requests a second over all connections, each connection one at a time, as client libraries do;
 * RATE 0: only waits. What a connection cannot send in time because its reply is missing is sent later: the rate is met again after an interruption as far as the server can.
 * Until SIGTERM or SIGINT or the end of a connection; then reads every key back, and prints one JSON object:
 *   requests (replies seen), now_ms (real time of the report), longest_gap_ms (between a request and its reply, over all connections, since SIGUSR1), gap_at_ms (real time of that request),
 *   writes (acknowledged), lost_writes (keys whose value is older than the last acknowledged one), error ("" or why it ended).
 * SIGUSR1 resets the gap; SIGUSR2 prints the object at once, without reading back.
 *
 * Values are made of words, with the key and a version first: text that compresses to about a third, as documents in a cache do, and no two values are the same.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS_MAX  256
#define VALUE_BYTES_MAX  65536u
#define LOAD_BATCH       64u
#define REPLY_TIMEOUT_MS 120000

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

struct connection {
	int fd;
	double sent_ms; /* of the request that waits, 0: none does */
	uint32_t key;
	uint32_t version; /* of the value that is being written, 0: a read */
	char *in;
	size_t n;
};

struct load {
	struct connection c[CONNECTIONS_MAX];
	unsigned connections, write_percent, value_bytes;
	uint32_t keys;
	uint32_t *acknowledged; /* by key: version */
	uint32_t *sent;         /* also what was not acknowledged: it may be there as well */
	uint64_t requests, writes, lost_writes, seed;
	double longest_gap_ms, gap_at_ms;
	char *out; /* one request, or LOAD_BATCH of them */
	char error[160];
};

static double clock_ms(clockid_t id)
{
	struct timespec t;
	clock_gettime(id, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static uint64_t next_random(uint64_t *s) /* xorshift64* (Vigna 2014) */
{
	*s ^= *s >> 12;
	*s ^= *s << 25;
	*s ^= *s >> 27;
	return *s * 0x2545f4914f6cdd1dull;
}

/* A value is a function of its key and version, so it can be compared without being kept. */
static void make_value(const struct load *l, uint32_t key, uint32_t version, char *to)
{
	static const char *const words[] = { "customer", "order",   "pending", "shipped", "address", "Lisbon",  "invoice",  "total",
		                             "article",  "comment", "reader",  "session", "basket",  "payment", "returned", "express" };
	uint64_t seed = ((uint64_t)version << 32 | key) * 0x9e3779b97f4a7c15ull | 1;
	size_t n = (size_t)snprintf(to, 64, "%010u %010u ", key, version);

	while (n < l->value_bytes) {
		uint64_t r = next_random(&seed);
		char word[48];
		int k = snprintf(word, sizeof(word), "%s:%s=%05x;", words[r & 15], words[r >> 4 & 15], (unsigned)(r >> 8 & 0xfffff));
		size_t room = l->value_bytes - n, take = (size_t)k < room ? (size_t)k : room;
		memcpy(to + n, word, take);
		n += take;
	}
}

static size_t make_write(const struct load *l, uint32_t key, uint32_t version, char *to)
{
	char name[24];
	int k = snprintf(name, sizeof(name), "key:%u", key);
	int n = sprintf(to, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%u\r\n", k, name, l->value_bytes);

	make_value(l, key, version, to + n);
	memcpy(to + n + l->value_bytes, "\r\n", 2);
	return (size_t)n + l->value_bytes + 2;
}

static size_t make_read(struct load *l, uint32_t key, char *to)
{
	char name[24];
	int k = snprintf(name, sizeof(name), "key:%u", key);

	return (size_t)sprintf(to, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", k, name);
}

static int fail(struct load *l, const char *what, const char *why)
{
	(void)snprintf(l->error, sizeof(l->error), "%s: %s", what, why);
	return -1;
}

static int connect_to(struct load *l, struct connection *c, const char *address, int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((unsigned short)port) };
	int one = 1;

	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	c->in = malloc(l->value_bytes + 64);
	if (!c->in || c->fd < 0 || inet_pton(AF_INET, address, &a.sin_addr) != 1 || connect(c->fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		return fail(l, "cannot connect", strerror(errno));
	(void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return 0;
}

static int send_all(struct load *l, struct connection *c, const char *data, size_t n)
{
	while (n > 0) {
		ssize_t r = send(c->fd, data, n, MSG_NOSIGNAL);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return fail(l, "cannot send", strerror(errno));
		data += r;
		n -= (size_t)r;
	}
	return 0;
}

/* Is a whole reply in c->in? Its length, 0: not yet, -1: not what was asked for */
static ssize_t reply_length(struct load *l, const struct connection *c)
{
	const char *end = memchr(c->in, '\n', c->n);

	if (!end)
		return 0;
	size_t head = (size_t)(end - c->in) + 1;
	if (c->in[0] == '+')
		return (ssize_t)head;
	if (c->in[0] == '$' && strtol(c->in + 1, NULL, 10) == (long)l->value_bytes)
		return c->n >= head + l->value_bytes + 2 ? (ssize_t)(head + l->value_bytes + 2) : 0;
	return fail(l, "unexpected reply", c->in[0] == '-' ? "an error" : "not the value");
}

/* 1: a whole reply is in c->in (*ret: its length), 0: not yet */
static int receive(struct load *l, struct connection *c, size_t *ret)
{
	ssize_t have = c->n ? reply_length(l, c) : 0;

	if (have == 0) {
		ssize_t r = recv(c->fd, c->in + c->n, l->value_bytes + 64 - c->n, MSG_DONTWAIT);
		if (r < 0 && (errno == EAGAIN || errno == EINTR))
			return 0;
		if (r <= 0)
			return fail(l, "connection ended", r < 0 ? strerror(errno) : "closed by the server");
		c->n += (size_t)r;
		have = reply_length(l, c);
	}
	*ret = have > 0 ? (size_t)have : 0;
	return have > 0 ? 1 : (int)have;
}

static void consume(struct connection *c, size_t n)
{
	memmove(c->in, c->in + n, c->n - n);
	c->n -= n;
}

static int await_reply(struct load *l, struct connection *c, size_t *ret)
{
	double deadline = clock_ms(CLOCK_MONOTONIC) + REPLY_TIMEOUT_MS;
	int rc;

	while ((rc = receive(l, c, ret)) == 0) {
		struct pollfd p = { .fd = c->fd, .events = POLLIN };
		(void)poll(&p, 1, 1000);
		if (clock_ms(CLOCK_MONOTONIC) > deadline)
			return fail(l, "no reply", "the time is over");
	}
	return rc < 0 ? -1 : 0;
}

typedef size_t (*make_fn)(struct load *l, uint32_t key, char *to);
typedef void (*take_fn)(struct load *l, const struct connection *c, uint32_t key); /* the reply that c->in begins with; may be NULL */

/* A request for each key, many at a time, over the first connection. */
static int each_key(struct load *l, make_fn make, take_fn take)
{
	struct connection *c = &l->c[0];

	for (uint32_t first = 0; first < l->keys; first += LOAD_BATCH) {
		uint32_t last = l->keys - first < LOAD_BATCH ? l->keys : first + LOAD_BATCH;
		size_t n = 0, reply;
		for (uint32_t key = first; key < last; key++)
			n += make(l, key, l->out + n);
		if (send_all(l, c, l->out, n) < 0)
			return -1;
		for (uint32_t key = first; key < last; key++) {
			if (await_reply(l, c, &reply) < 0)
				return -1;
			if (take)
				take(l, c, key);
			consume(c, reply);
		}
	}
	return 0;
}

static size_t make_first_write(struct load *l, uint32_t key, char *to)
{
	return make_write(l, key, l->acknowledged[key] = l->sent[key] = 1, to);
}

static int send_one(struct load *l, struct connection *c)
{
	uint64_t r = next_random(&l->seed);
	bool write = r % 100 < l->write_percent;

	c->key = (uint32_t)(r >> 32) % l->keys;
	c->version = 0;
	/* One writer to a key at a time: of two at once nobody knows which was last. */
	for (unsigned i = 0; i < l->connections && write; i++)
		write = &l->c[i] == c || l->c[i].sent_ms == 0 || l->c[i].key != c->key;
	if (write)
		c->version = ++l->sent[c->key];
	size_t n = write ? make_write(l, c->key, c->version, l->out) : make_read(l, c->key, l->out);
	c->sent_ms = clock_ms(CLOCK_MONOTONIC);
	return send_all(l, c, l->out, n);
}

static int take_reply(struct load *l, struct connection *c)
{
	size_t n;
	int rc = receive(l, c, &n);

	if (rc <= 0)
		return rc;
	double gap = clock_ms(CLOCK_MONOTONIC) - c->sent_ms;
	if (gap > l->longest_gap_ms) {
		l->longest_gap_ms = gap;
		l->gap_at_ms = clock_ms(CLOCK_REALTIME) - gap;
	}
	if (c->version) {
		l->acknowledged[c->key] = c->version;
		l->writes++;
	}
	l->requests++;
	c->sent_ms = 0;
	consume(c, n);
	return 0;
}

static void report(struct load *l)
{
	printf("{\"requests\": %llu, \"now_ms\": %.3f, \"longest_gap_ms\": %.3f, \"gap_at_ms\": %.3f, \"writes\": %llu, \"lost_writes\": "
	       "%llu, "
	       "\"error\": \"%s\"}\n",
	       (unsigned long long)l->requests, clock_ms(CLOCK_REALTIME), l->longest_gap_ms, l->gap_at_ms, (unsigned long long)l->writes,
	       (unsigned long long)l->lost_writes, l->error);
	(void)fflush(stdout);
}

static void obey(struct load *l)
{
	if (reset_requested) {
		reset_requested = 0;
		l->longest_gap_ms = l->gap_at_ms = 0;
	}
	if (report_requested) {
		report_requested = 0;
		report(l);
	}
}

/* Until the next request is due or a reply comes */
static void wait_some(const struct load *l, double due_ms)
{
	struct pollfd p[CONNECTIONS_MAX];
	nfds_t n = 0;
	bool idle = false;

	for (unsigned i = 0; i < l->connections; i++) {
		if (l->c[i].sent_ms > 0)
			p[n++] = (struct pollfd){ .fd = l->c[i].fd, .events = POLLIN };
		else
			idle = true;
	}
	double left_ms = due_ms - clock_ms(CLOCK_MONOTONIC);
	if (!idle || left_ms > 1000)
		left_ms = 1000;
	if (left_ms > 0) {
		struct timespec t = { .tv_sec = (time_t)(left_ms / 1e3), .tv_nsec = (long)(left_ms * 1e6) % 1000000000 };
		(void)ppoll(p, n, &t, NULL);
	} else {
		(void)poll(p, n, 0);
	}
}

static int run(struct load *l, double rate)
{
	double start = clock_ms(CLOCK_MONOTONIC);
	uint64_t sent = 0;
	unsigned next = 0;

	while (!stop_requested) {
		obey(l);
		double due = rate > 0 ? start + (double)sent * 1e3 / rate : clock_ms(CLOCK_MONOTONIC) + 1000;
		wait_some(l, due);
		for (unsigned i = 0; i < l->connections; i++)
			if (l->c[i].sent_ms > 0 && take_reply(l, &l->c[i]) < 0)
				return -1;
		double now = clock_ms(CLOCK_MONOTONIC);
		/* What an interruption left undone is not caught up with by a burst longer than a second. */
		if (rate > 0 && now - due > 1000)
			start += now - due - 1000;
		for (unsigned i = 0; rate > 0 && i < l->connections && start + (double)sent * 1e3 / rate <= now; i++) {
			struct connection *c = &l->c[next++ % l->connections];
			if (c->sent_ms > 0)
				continue;
			if (send_one(l, c) < 0)
				return -1;
			sent++;
		}
	}
	return 0;
}

static int finish_open(struct load *l)
{
	for (unsigned i = 0; i < l->connections; i++) {
		size_t n;
		while (l->c[i].sent_ms > 0)
			if (await_reply(l, &l->c[i], &n) < 0 || take_reply(l, &l->c[i]) < 0)
				return -1;
	}
	return 0;
}

/* Is its version the last acknowledged one, or one that was sent after it, and its text whole? */
static void compare(struct load *l, const struct connection *c, uint32_t key)
{
	const char *value = (const char *)memchr(c->in, '\n', c->n) + 1;
	uint32_t version = (uint32_t)strtoul(value + 11, NULL, 10);

	make_value(l, key, version, l->out);
	if (version < l->acknowledged[key] || version > l->sent[key] || memcmp(value, l->out, l->value_bytes) != 0)
		l->lost_writes++;
}

static int prepare(struct load *l, char **argv)
{
	l->keys = (uint32_t)strtoul(argv[3], NULL, 10);
	l->value_bytes = (unsigned)strtoul(argv[4], NULL, 10);
	l->connections = (unsigned)strtoul(argv[5], NULL, 10);
	l->write_percent = (unsigned)strtoul(argv[7], NULL, 10);
	l->seed = 88172645463325252ull;
	if (!l->keys || l->value_bytes < 64 || l->value_bytes > VALUE_BYTES_MAX || !l->connections || l->connections > CONNECTIONS_MAX)
		return fail(l, "bad arguments", "see the head of the source");
	l->acknowledged = calloc(l->keys, sizeof(*l->acknowledged));
	l->sent = calloc(l->keys, sizeof(*l->sent));
	l->out = malloc((size_t)LOAD_BATCH * (l->value_bytes + 128));
	if (!l->acknowledged || !l->sent || !l->out)
		return fail(l, "out of memory", "");
	for (unsigned i = 0; i < l->connections; i++)
		if (connect_to(l, &l->c[i], argv[1], atoi(argv[2])) < 0)
			return -1;
	return 0;
}

int main(int argc, char **argv)
{
	static struct load l;

	if (argc != 8) {
		fprintf(stderr, "usage: load-client ADDRESS PORT KEYS VALUE_BYTES CONNECTIONS RATE WRITE_PERCENT\n");
		return 2;
	}
	for (int i = 0; i < 4; i++)
		(void)signal((int[]){ SIGTERM, SIGINT, SIGUSR1, SIGUSR2 }[i], on_signal);
	if (prepare(&l, argv) == 0 && each_key(&l, make_first_write, NULL) == 0) {
		printf("loaded\n");
		(void)fflush(stdout);
		if (run(&l, strtod(argv[6], NULL)) == 0 && finish_open(&l) == 0)
			(void)each_key(&l, make_read, compare);
	}
	report(&l);
	return l.error[0] || l.lost_writes ? 1 : 0;
}
