/* SPDX-License-Identifier: MIT */
/*
 * pages.c - a program that knows what is in its memory, for tests of moves: every page carries its number and a version in all of its words, and is compared before it is used, so that a page that
 * was lost, is old, or reads as zeros is found by the program itself, at once.
 *
 *   pages MEGABYTES [--write] [--port PORT] [--log FILE]
 *
 * Without --write it reads all pages over and over. With it, it writes them as fast as it can: pass v finds version v - 1 in each page and leaves v.
 *   --port  serves as much of Redis' protocol as tools/lab/incr-client and redis-cli need: PING, INCR and GET of a counter, STATE
 *   --log   writes the state into FILE fifty times a second, as a whole
 * The state, as JSON: passes, checked (pages), zero and wrong (pages that were not what they had to be), first (the first such page, -1 none).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define WORDS       512u /* of a page */
#define CLIENTS     32
#define REQUEST_MAX 512u
#define LOG_NS      20000000

struct state {
	_Atomic uint64_t passes, checked, zero, wrong, counter;
	_Atomic int64_t first;
};

struct program {
	struct state state;
	uint64_t *memory;
	uint64_t n_pages;
	bool write;
	int port;
	const char *log;
};

static uint64_t word_of(uint64_t page, uint64_t version, uint64_t k)
{
	uint64_t x = (page << 32 | version) * 0x9e3779b97f4a7c15ull + k * 0xd1342543de82ef95ull;
	return x ^ x >> 29;
}

static void put(uint64_t *p, uint64_t page, uint64_t version)
{
	for (uint64_t k = 0; k < WORDS; k++)
		p[k] = word_of(page, version, k);
}

static void check(struct program *g, uint64_t *p, uint64_t page, uint64_t version)
{
	uint64_t differ = 0, any = 0;

	for (uint64_t k = 0; k < WORDS; k++) {
		differ |= p[k] ^ word_of(page, version, k);
		any |= p[k];
	}
	atomic_fetch_add(&g->state.checked, 1);
	if (!differ)
		return;
	int64_t none = -1;
	atomic_compare_exchange_strong(&g->state.first, &none, (int64_t)page);
	atomic_fetch_add(any ? &g->state.wrong : &g->state.zero, 1);
	/* Counted once, and not again in each pass. */
	put(p, page, version);
}

static void work(struct program *g)
{
	for (uint64_t page = 0; page < g->n_pages; page++)
		put(g->memory + page * WORDS, page, 1);
	for (uint64_t version = 1;; version += g->write) {
		for (uint64_t page = 0; page < g->n_pages; page++) {
			check(g, g->memory + page * WORDS, page, version);
			if (g->write)
				put(g->memory + page * WORDS, page, version + 1);
		}
		atomic_fetch_add(&g->state.passes, 1);
		if (!g->write)
			(void)usleep(1000);
	}
}

static int state_text(struct program *g, char *buf, size_t cap)
{
	struct state *s = &g->state;

	return snprintf(buf, cap,
	                "{\"passes\": %llu, \"checked\": %llu, \"zero\": %llu, \"wrong\": %llu, \"first\": %lld, \"pages\": %llu}",
	                (unsigned long long)s->passes, (unsigned long long)s->checked, (unsigned long long)s->zero,
	                (unsigned long long)s->wrong, (long long)s->first, (unsigned long long)g->n_pages);
}

/* ---- the log */

static void *keep_log(void *arg)
{
	struct program *g = arg;
	const struct timespec pause = { .tv_nsec = LOG_NS };
	char text[512], name[512];

	(void)snprintf(name, sizeof(name), "%s.new", g->log);
	for (;;) {
		int n = state_text(g, text, sizeof(text)), fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		if (fd < 0 || write(fd, text, (size_t)n) != n || close(fd) < 0 || rename(name, g->log) < 0)
			abort();
		(void)nanosleep(&pause, NULL);
	}
}

/* ---- serving */

struct client {
	char buf[REQUEST_MAX];
	size_t n;
};

static int answer(struct program *g, const char *verb, char *out, size_t cap)
{
	char text[512];

	if (strcasecmp(verb, "PING") == 0)
		return snprintf(out, cap, "+PONG\r\n");
	if (strcasecmp(verb, "INCR") == 0)
		return snprintf(out, cap, ":%llu\r\n", (unsigned long long)atomic_fetch_add(&g->state.counter, 1) + 1);
	if (strcasecmp(verb, "GET") == 0)
		(void)snprintf(text, sizeof(text), "%llu", (unsigned long long)g->state.counter);
	else if (strcasecmp(verb, "STATE") == 0)
		(void)state_text(g, text, sizeof(text));
	else
		return snprintf(out, cap, "-ERR unknown command\r\n");
	return snprintf(out, cap, "$%zu\r\n%s\r\n", strlen(text), text);
}

/* An array of bulk strings at p: its length, 0 when it is not complete yet, -1 when it is none. verb: the first string. */
static long request_length(const char *p, char *verb, size_t cap)
{
	char *at;

	if (!strstr(p, "\r\n"))
		return 0;
	long words = *p == '*' ? strtol(p + 1, &at, 10) : -1;
	if (words < 1 || words > 8)
		return -1;
	at += 2;
	for (long i = 0; i < words; i++) {
		char *end = strstr(at, "\r\n");
		if (!end)
			return 0;
		long n = *at == '$' ? strtol(at + 1, NULL, 10) : -1;
		if (n < 0 || n > 256)
			return -1;
		if (strlen(end + 2) < (size_t)n + 2)
			return 0;
		if (i == 0)
			(void)snprintf(verb, cap, "%.*s", (int)n, end + 2);
		at = end + 2 + n + 2;
	}
	return at - p;
}

/* false: it has gone, or says what is no request */
static bool serve(struct program *g, int fd, struct client *c)
{
	char verb[64], out[1024];
	long used;
	ssize_t r = recv(fd, c->buf + c->n, sizeof(c->buf) - 1 - c->n, 0);

	if (r <= 0)
		return false;
	c->n += (size_t)r;
	c->buf[c->n] = '\0';
	while ((used = request_length(c->buf, verb, sizeof(verb))) > 0) {
		int n = answer(g, verb, out, sizeof(out));
		if (send(fd, out, (size_t)n, MSG_NOSIGNAL) != n)
			return false;
		c->n -= (size_t)used;
		memmove(c->buf, c->buf + used, c->n + 1);
	}
	return used == 0 && c->n < sizeof(c->buf) - 1;
}

static int listen_on(int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ||
	    listen(fd, CLIENTS) < 0)
		abort();
	return fd;
}

static void *serve_all(void *arg)
{
	static struct client clients[CLIENTS + 1];
	struct program *g = arg;
	struct pollfd fds[CLIENTS + 1] = { { .fd = listen_on(g->port), .events = POLLIN } };
	nfds_t n = 1;

	for (int ready; (ready = poll(fds, n, -1)) >= 0 || errno == EINTR;) {
		if (ready < 0)
			continue;
		for (nfds_t i = n; i-- > 1;)
			if (fds[i].revents && !serve(g, fds[i].fd, &clients[i])) {
				(void)close(fds[i].fd);
				fds[i] = fds[--n];
				clients[i] = clients[n];
			}
		int one = 1, fd = fds[0].revents ? accept(fds[0].fd, NULL, NULL) : -1;
		if (fd >= 0 && n <= CLIENTS) {
			(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
			clients[n].n = 0;
			fds[n++] = (struct pollfd){ .fd = fd, .events = POLLIN };
		} else if (fd >= 0) {
			(void)close(fd);
		}
	}
	return NULL;
}

static bool parse(int argc, char **argv, struct program *g)
{
	if (argc < 2)
		return false;
	g->n_pages = strtoull(argv[1], NULL, 10) * 256;
	for (int i = 2; i < argc; i++) {
		if (strcmp(argv[i], "--write") == 0)
			g->write = true;
		else if (strcmp(argv[i], "--port") == 0 && i + 1 < argc)
			g->port = (int)strtol(argv[++i], NULL, 10);
		else if (strcmp(argv[i], "--log") == 0 && i + 1 < argc)
			g->log = argv[++i];
		else
			return false;
	}
	return g->n_pages > 0;
}

int main(int argc, char **argv)
{
	static struct program g = { .state = { .first = -1 } };
	pthread_t t;

	if (!parse(argc, argv, &g)) {
		fprintf(stderr, "usage: pages MEGABYTES [--write] [--port PORT] [--log FILE]\n");
		return 2;
	}
	g.memory = mmap(NULL, g.n_pages * WORDS * sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (g.memory == MAP_FAILED || (g.port && pthread_create(&t, NULL, serve_all, &g) != 0) ||
	    (g.log && pthread_create(&t, NULL, keep_log, &g) != 0))
		abort();
	work(&g);
	return 0;
}
