/* SPDX-License-Identifier: MIT */
/*
 * load-client.c - a paced load on a server: reads and writes of random keys over several connections that never reconnect, and the proof that no acknowledged write was lost.
 *
 *   load-client PROTOCOL ADDRESS PORT KEYS VALUE_BYTES CONNECTIONS RATE WRITE_PERCENT
 *
 *   redis, memcached  keys "key:0" ... are written once, read and written then
 *   http              GET /key:0 ... of files that are there already, over connections that are kept alive; nothing is written
 *   dirtier           pages of tools/lab/dirtier, which writes them itself and compares them with what it wrote; VALUE_BYTES is not used
 *
 * First writes or reads every key once (pipelined) and prints "loaded". Then sends RATE requests a second over all connections, each connection one at a time, as client libraries do;
 * RATE 0: only waits. What a connection cannot send in time because its reply is missing is sent later: the rate is met again after an interruption as far as the server can.
 * Until SIGTERM or SIGINT or the end of a connection; then reads every key back, and prints one JSON object:
 *   requests (replies seen), now_ms (real time of the report), longest_gap_ms (between a request and its reply, over all connections, since SIGUSR1), gap_at_ms (real time of that request),
 *   waiting_ms (for how long the oldest request has been without a reply: its gap is not in longest_gap_ms yet), writes (acknowledged), lost_writes (keys whose value is older than the last acknowledged one, files and pages that are not what they were), error ("" or why it ended),
 *   intervals_from_ms (real time of the last SIGUSR1, 0: none came), interval_ms, per_interval (replies in each interval since then).
 * SIGUSR1 resets the gap and the intervals; SIGUSR2 prints the object at once, without reading back.
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
#define HEAD_BYTES_MAX   1024u /* what a reply says before and after the value */
#define LOAD_BATCH       64u
#define REPLY_TIMEOUT_MS 600000
#define INTERVAL_MS      10u
#define INTERVALS_MAX    60000u /* 10 minutes; what comes later is counted in "requests" only */

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

struct load;

struct reply {
	size_t n;          /* bytes of all of it */
	const char *value; /* NULL: it brings none */
	size_t value_bytes;
};

struct protocol {
	const char *name;
	size_t (*make_write)(const struct load *l, uint32_t key, uint32_t version, char *to); /* NULL: only reads */
	size_t (*make_read)(const struct load *l, uint32_t key, char *to);
	/* 1: the n bytes at in begin with a whole reply, 0: not yet, -1: not with what was asked for */
	int (*parse)(struct load *l, const char *in, size_t n, struct reply *ret);
	void (*learn)(struct load *l, uint32_t key, const struct reply *r);   /* from the first reading of each key; NULL: nothing */
	void (*compare)(struct load *l, uint32_t key, const struct reply *r); /* the last reading of each key: counts lost_writes */
};

struct load {
	const struct protocol *protocol;
	struct connection c[CONNECTIONS_MAX];
	unsigned connections, write_percent, value_bytes;
	uint32_t keys;
	uint32_t *acknowledged; /* by key: version; of what is only read: hash of the value */
	uint32_t *sent;         /* also what was not acknowledged: it may be there as well */
	uint64_t requests, writes, lost_writes, seed;
	double longest_gap_ms, gap_at_ms;
	double intervals_from_ms, intervals_since; /* real time for the report, monotonic for counting; 0: not counted */
	uint32_t *intervals;                       /* replies in each */
	char *out;                                 /* one request, or LOAD_BATCH of them */
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

static int fail(struct load *l, const char *what, const char *why)
{
	(void)snprintf(l->error, sizeof(l->error), "%s: %s", what, why);
	return -1;
}

/* ---------------------------------------------------------------- Redis */

static size_t redis_write(const struct load *l, uint32_t key, uint32_t version, char *to)
{
	char name[24];
	int k = snprintf(name, sizeof(name), "key:%u", key);
	int n = sprintf(to, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%u\r\n", k, name, l->value_bytes);

	make_value(l, key, version, to + n);
	memcpy(to + n + l->value_bytes, "\r\n", 2);
	return (size_t)n + l->value_bytes + 2;
}

static size_t redis_read(const struct load *l, uint32_t key, char *to)
{
	char name[24];
	int k = snprintf(name, sizeof(name), "key:%u", key);

	return (size_t)sprintf(to, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", k, name);
}

static int redis_parse(struct load *l, const char *in, size_t n, struct reply *ret)
{
	const char *end = memchr(in, '\n', n);

	if (!end)
		return 0;
	*ret = (struct reply){ .n = (size_t)(end - in) + 1 };
	if (in[0] == '+')
		return 1;
	if (in[0] != '$' || strtol(in + 1, NULL, 10) != (long)l->value_bytes)
		return fail(l, "unexpected reply", in[0] == '-' ? "an error" : "not the value");
	*ret = (struct reply){ .n = ret->n + l->value_bytes + 2, .value = end + 1, .value_bytes = l->value_bytes };
	return n >= ret->n;
}

/* ---------------------------------------------------------------- memcached, text */

static size_t memcached_write(const struct load *l, uint32_t key, uint32_t version, char *to)
{
	int n = sprintf(to, "set key:%u 0 0 %u\r\n", key, l->value_bytes);

	make_value(l, key, version, to + n);
	memcpy(to + n + l->value_bytes, "\r\n", 2);
	return (size_t)n + l->value_bytes + 2;
}

static size_t memcached_read(const struct load *l, uint32_t key, char *to)
{
	return (size_t)sprintf(to, "get key:%u\r\n", key);
}

static int memcached_parse(struct load *l, const char *in, size_t n, struct reply *ret)
{
	static const char stored[] = "STORED\r\n", found[] = "VALUE key:", tail[] = "\r\nEND\r\n";
	const char *end = memchr(in, '\n', n);

	if (!end)
		return 0;
	*ret = (struct reply){ .n = (size_t)(end - in) + 1 };
	if (ret->n == strlen(stored) && memcmp(in, stored, ret->n) == 0)
		return 1;
	const char *value_bytes = memrchr(in, ' ', ret->n); /* "VALUE key:1 0 1024" */
	if (ret->n < strlen(found) || memcmp(in, found, strlen(found)) != 0 || !value_bytes ||
	    strtoul(value_bytes, NULL, 10) != l->value_bytes)
		return fail(l, "unexpected reply", in[0] == 'E' ? "no such key" : "not the value");
	*ret = (struct reply){ .n = ret->n + l->value_bytes + strlen(tail), .value = end + 1, .value_bytes = l->value_bytes };
	return n >= ret->n;
}

/* ---------------------------------------------------------------- HTTP */

static size_t http_read(const struct load *l, uint32_t key, char *to)
{
	return (size_t)sprintf(to, "GET /key:%u HTTP/1.1\r\nHost: lab\r\n\r\n", key);
}

static int http_parse(struct load *l, const char *in, size_t n, struct reply *ret)
{
	static const char good[] = "HTTP/1.1 200 ", length[] = "\r\nContent-Length: ", between[] = "\r\n\r\n";
	const char *end = memmem(in, n, between, strlen(between));

	if (!end)
		return n < HEAD_BYTES_MAX ? 0 : fail(l, "unexpected reply", "a head without end");
	size_t head = (size_t)(end - in) + strlen(between);
	const char *bytes = memmem(in, head, length, strlen(length));
	if (memcmp(in, good, strlen(good)) != 0 || !bytes || strtoul(bytes + strlen(length), NULL, 10) != l->value_bytes)
		return fail(l, "unexpected reply", "not the file");
	*ret = (struct reply){ .n = head + l->value_bytes, .value = in + head, .value_bytes = l->value_bytes };
	return n >= ret->n;
}

static uint32_t hash(const struct reply *r) /* FNV-1a */
{
	uint32_t h = 2166136261u;
	for (size_t i = 0; i < r->value_bytes; i++)
		h = (h ^ (unsigned char)r->value[i]) * 16777619u;
	return h;
}

static void learn_hash(struct load *l, uint32_t key, const struct reply *r)
{
	l->acknowledged[key] = hash(r);
}

static void compare_hash(struct load *l, uint32_t key, const struct reply *r)
{
	l->lost_writes += hash(r) != l->acknowledged[key];
}

/* ---------------------------------------------------------------- the dirtier */

static size_t dirtier_read(const struct load *l, uint32_t key, char *to)
{
	return (size_t)sprintf(to, "%u\n", key);
}

static int dirtier_parse(struct load *l, const char *in, size_t n, struct reply *ret)
{
	const char *end = memchr(in, '\n', n);

	if (!end)
		return 0;
	*ret = (struct reply){ .n = (size_t)(end - in) + 1, .value = in, .value_bytes = (size_t)(end - in) };
	return in[0] >= '0' && in[0] <= '9' ? 1 : fail(l, "unexpected reply", "not a page");
}

/* "VERSION DAMAGED": the second counts all pages that were once not what had been written. */
static void compare_page(struct load *l, uint32_t key, const struct reply *r)
{
	const char *damaged = memchr(r->value, ' ', r->value_bytes);
	l->lost_writes = damaged ? strtoull(damaged, NULL, 10) : l->lost_writes + 1;
}

/* ---------------------------------------------------------------- connections */

static int connect_to(struct load *l, struct connection *c, const char *address, int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((unsigned short)port) };
	int one = 1;

	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	c->in = malloc(l->value_bytes + HEAD_BYTES_MAX);
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

/* 1: a whole reply is in c->in, 0: not yet */
static int receive(struct load *l, struct connection *c, struct reply *ret)
{
	int have = c->n ? l->protocol->parse(l, c->in, c->n, ret) : 0;

	if (have == 0) {
		ssize_t r = recv(c->fd, c->in + c->n, l->value_bytes + HEAD_BYTES_MAX - c->n, MSG_DONTWAIT);
		if (r < 0 && (errno == EAGAIN || errno == EINTR))
			return 0;
		if (r <= 0)
			return fail(l, "connection ended", r < 0 ? strerror(errno) : "closed by the server");
		c->n += (size_t)r;
		have = l->protocol->parse(l, c->in, c->n, ret);
	}
	return have;
}

static void consume(struct connection *c, size_t n)
{
	memmove(c->in, c->in + n, c->n - n);
	c->n -= n;
}

static int await_reply(struct load *l, struct connection *c, struct reply *ret)
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
typedef void (*take_fn)(struct load *l, uint32_t key, const struct reply *r);

/* A request for each key, many at a time, over the first connection; take may be NULL. */
static int each_key(struct load *l, make_fn make, take_fn take)
{
	struct connection *c = &l->c[0];

	for (uint32_t first = 0; first < l->keys; first += LOAD_BATCH) {
		uint32_t last = l->keys - first < LOAD_BATCH ? l->keys : first + LOAD_BATCH;
		size_t n = 0;
		for (uint32_t key = first; key < last; key++)
			n += make(l, key, l->out + n);
		if (send_all(l, c, l->out, n) < 0)
			return -1;
		for (uint32_t key = first; key < last; key++) {
			struct reply r;
			if (await_reply(l, c, &r) < 0)
				return -1;
			if (take)
				take(l, key, &r);
			consume(c, r.n);
		}
	}
	return 0;
}

static size_t first_write(struct load *l, uint32_t key, char *to)
{
	return l->protocol->make_write(l, key, l->acknowledged[key] = l->sent[key] = 1, to);
}

static size_t read_again(struct load *l, uint32_t key, char *to)
{
	return l->protocol->make_read(l, key, to);
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
	size_t n = write ? l->protocol->make_write(l, c->key, c->version, l->out) : l->protocol->make_read(l, c->key, l->out);
	c->sent_ms = clock_ms(CLOCK_MONOTONIC);
	return send_all(l, c, l->out, n);
}

static int take_reply(struct load *l, struct connection *c)
{
	struct reply r;
	int rc = receive(l, c, &r);

	if (rc <= 0)
		return rc;
	double now = clock_ms(CLOCK_MONOTONIC), gap = now - c->sent_ms;
	if (gap > l->longest_gap_ms) {
		l->longest_gap_ms = gap;
		l->gap_at_ms = clock_ms(CLOCK_REALTIME) - gap;
	}
	if (c->version) {
		l->acknowledged[c->key] = c->version;
		l->writes++;
	}
	l->requests++;
	if (l->intervals_since > 0 && now - l->intervals_since < (double)INTERVAL_MS * INTERVALS_MAX)
		l->intervals[(uint32_t)(now - l->intervals_since) / INTERVAL_MS]++;
	c->sent_ms = 0;
	consume(c, r.n);
	return 0;
}

static void print_intervals(const struct load *l)
{
	double over = l->intervals_since > 0 ? (clock_ms(CLOCK_MONOTONIC) - l->intervals_since) / INTERVAL_MS : 0;
	uint32_t n = over < INTERVALS_MAX ? (uint32_t)over : INTERVALS_MAX; /* those that are over */

	printf("\"intervals_from_ms\": %.3f, \"interval_ms\": %u, \"per_interval\": [", l->intervals_from_ms, INTERVAL_MS);
	for (uint32_t i = 0; i < n; i++)
		printf("%s%u", i ? "," : "", l->intervals[i]);
	printf("]");
}

static double waiting_ms(const struct load *l)
{
	double oldest = 0, now = clock_ms(CLOCK_MONOTONIC);
	for (unsigned i = 0; i < l->connections; i++)
		if (l->c[i].sent_ms > 0 && now - l->c[i].sent_ms > oldest)
			oldest = now - l->c[i].sent_ms;
	return oldest;
}

static void report(const struct load *l)
{
	printf("{\"requests\": %llu, \"now_ms\": %.3f, \"longest_gap_ms\": %.3f, \"gap_at_ms\": %.3f, \"waiting_ms\": %.3f, ",
	       (unsigned long long)l->requests, clock_ms(CLOCK_REALTIME), l->longest_gap_ms, l->gap_at_ms, waiting_ms(l));
	printf("\"writes\": %llu, \"lost_writes\": %llu, \"error\": \"%s\", ", (unsigned long long)l->writes,
	       (unsigned long long)l->lost_writes, l->error);
	print_intervals(l);
	printf("}\n");
	(void)fflush(stdout);
}

static void reset(struct load *l)
{
	l->longest_gap_ms = l->gap_at_ms = 0;
	memset(l->intervals, 0, INTERVALS_MAX * sizeof(*l->intervals));
	l->intervals_since = clock_ms(CLOCK_MONOTONIC);
	l->intervals_from_ms = clock_ms(CLOCK_REALTIME);
}

static void obey(struct load *l)
{
	if (reset_requested) {
		reset_requested = 0;
		reset(l);
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
		struct reply r;
		while (l->c[i].sent_ms > 0)
			if (await_reply(l, &l->c[i], &r) < 0 || take_reply(l, &l->c[i]) < 0)
				return -1;
	}
	return 0;
}

/* Is its version the last acknowledged one, or one that was sent after it, and its text whole? */
static void compare_version(struct load *l, uint32_t key, const struct reply *r)
{
	uint32_t version = (uint32_t)strtoul(r->value + 11, NULL, 10);

	make_value(l, key, version, l->out);
	if (version < l->acknowledged[key] || version > l->sent[key] || memcmp(r->value, l->out, l->value_bytes) != 0)
		l->lost_writes++;
}

static const struct protocol *find_protocol(const char *name)
{
	static const struct protocol all[] = {
		{ "redis", redis_write, redis_read, redis_parse, NULL, compare_version },
		{ "memcached", memcached_write, memcached_read, memcached_parse, NULL, compare_version },
		{ "http", NULL, http_read, http_parse, learn_hash, compare_hash },
		{ "dirtier", NULL, dirtier_read, dirtier_parse, NULL, compare_page },
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (strcmp(all[i].name, name) == 0)
			return &all[i];
	return NULL;
}

static int prepare(struct load *l, char **argv)
{
	l->protocol = find_protocol(argv[1]);
	l->keys = (uint32_t)strtoul(argv[4], NULL, 10);
	l->value_bytes = (unsigned)strtoul(argv[5], NULL, 10);
	l->connections = (unsigned)strtoul(argv[6], NULL, 10);
	l->write_percent = (unsigned)strtoul(argv[8], NULL, 10);
	l->seed = 88172645463325252ull;
	if (!l->protocol || !l->keys || l->value_bytes < 64 || l->value_bytes > VALUE_BYTES_MAX || !l->connections ||
	    l->connections > CONNECTIONS_MAX || (l->write_percent && !l->protocol->make_write))
		return fail(l, "bad arguments", "see the head of the source");
	l->acknowledged = calloc(l->keys, sizeof(*l->acknowledged));
	l->sent = calloc(l->keys, sizeof(*l->sent));
	l->intervals = calloc(INTERVALS_MAX, sizeof(*l->intervals));
	l->out = malloc((size_t)LOAD_BATCH * (l->value_bytes + 128));
	if (!l->acknowledged || !l->sent || !l->intervals || !l->out)
		return fail(l, "out of memory", "");
	for (unsigned i = 0; i < l->connections; i++)
		if (connect_to(l, &l->c[i], argv[2], atoi(argv[3])) < 0)
			return -1;
	return 0;
}

/* Writes every key, or reads it where nothing can be written */
static int fill(struct load *l)
{
	return l->protocol->make_write ? each_key(l, first_write, NULL) : each_key(l, read_again, l->protocol->learn);
}

int main(int argc, char **argv)
{
	static struct load l;

	if (argc != 9) {
		fprintf(stderr, "usage: load-client PROTOCOL ADDRESS PORT KEYS VALUE_BYTES CONNECTIONS RATE WRITE_PERCENT\n");
		return 2;
	}
	for (int i = 0; i < 4; i++)
		(void)signal((int[]){ SIGTERM, SIGINT, SIGUSR1, SIGUSR2 }[i], on_signal);
	if (prepare(&l, argv) == 0 && fill(&l) == 0) {
		printf("loaded\n");
		(void)fflush(stdout);
		if (run(&l, strtod(argv[7], NULL)) == 0 && finish_open(&l) == 0)
			(void)each_key(&l, read_again, l.protocol->compare);
	}
	report(&l);
	return l.error[0] || l.lost_writes ? 1 : 0;
}
