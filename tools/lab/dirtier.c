/* SPDX-License-Identifier: MIT */
/*
 * dirtier.c - a program that changes memory at a set rate, to be moved: no server's own habits are in what a bench measures.
 *
 *   dirtier PORT MEGABYTES WORKING_MEGABYTES PAGES_PER_S
 *
 * Fills MEGABYTES of memory with words (text that compresses to about a third, no two pages the same) and then changes PAGES_PER_S pages a second, each a random one of the first
 * WORKING_MEGABYTES, 64 bytes of it. What it could not do in time, because it was stopped for example, it leaves out: after an interruption it goes on at the same rate.
 * Before it changes a page it compares all of it with what it wrote, which it knows from a version that it keeps elsewhere: a page that is lost, old or of somebody else counts as damaged.
 * It answers over TCP: a line with a page's number is answered with "VERSION DAMAGED", the version of that page (which is compared now) and the number of damaged pages found so far.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES      4096u
#define CHANGED_BYTES   64u
#define CONNECTIONS_MAX 64
#define LINES_BYTES_MAX 4096 /* of a connection's requests that are not answered yet */
#define MEGABYTES_MAX   65536ul
#define LATE_MS_MAX     20.0

struct connection {
	int fd; /* -1: free */
	char in[LINES_BYTES_MAX];
	size_t n;
};

struct dirtier {
	unsigned char *memory;
	uint32_t *versions; /* by page */
	uint32_t pages, working_pages;
	double rate_per_s;
	uint64_t damaged, seed;
	int listener;
	struct connection c[CONNECTIONS_MAX];
};

static double now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static uint64_t next_random(uint64_t *s) /* xorshift64* (Vigna 2014) */
{
	*s ^= *s >> 12;
	*s ^= *s << 25;
	*s ^= *s >> 27;
	return *s * 0x2545f4914f6cdd1dull;
}

static void words(uint64_t seed, unsigned char *to, size_t n)
{
	static const char *const all[] = {
		"customer ", "order ",   "pending ", "shipped ", "address ", "Lisbon ",  "invoice ",  "total ",
		"article ",  "comment ", "reader ",  "session ", "basket ",  "payment ", "returned ", "express "
	};
	static const char digits[] = "0123456789abcdef";

	seed = seed * 0x9e3779b97f4a7c15ull | 1;
	for (size_t i = 0; i < n;) {
		uint64_t r = next_random(&seed);
		const char *word = all[r & 15];
		for (const char *p = word; *p && i < n; p++)
			to[i++] = (unsigned char)*p;
		for (unsigned k = 0; k < 5 && i < n; k++)
			to[i++] = (unsigned char)digits[r >> (8 + 4 * k) & 15];
	}
}

/* A page is a function of its number and version: its first bytes change, the rest stays. */
static void make_page(uint32_t page, uint32_t version, unsigned char *to)
{
	words((uint64_t)version << 32 | page, to, CHANGED_BYTES);
	words((uint64_t)UINT32_MAX << 32 | page, to + CHANGED_BYTES, PAGE_BYTES - CHANGED_BYTES);
}

static void check_page(struct dirtier *d, uint32_t page)
{
	unsigned char *here = d->memory + (size_t)page * PAGE_BYTES, good[PAGE_BYTES];

	make_page(page, d->versions[page], good);
	if (memcmp(here, good, PAGE_BYTES) == 0)
		return;
	d->damaged++;
	memcpy(here, good, PAGE_BYTES); /* counted once */
}

static void change_page(struct dirtier *d)
{
	uint32_t page = (uint32_t)(next_random(&d->seed) >> 32) % d->working_pages;

	check_page(d, page);
	d->versions[page]++;
	words((uint64_t)d->versions[page] << 32 | page, d->memory + (size_t)page * PAGE_BYTES, CHANGED_BYTES);
}

static void hang_up(struct connection *c)
{
	(void)close(c->fd);
	c->fd = -1;
	c->n = 0;
}

/* The answers are short and few lines are open: they fit into the socket's buffer, or the peer does not read and is left. */
static void answer(struct dirtier *d, struct connection *c)
{
	ssize_t r = recv(c->fd, c->in + c->n, sizeof(c->in) - c->n, MSG_DONTWAIT);
	char out[64], *end;
	size_t done = 0;

	if (r < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (r <= 0) {
		hang_up(c);
		return;
	}
	c->n += (size_t)r;
	while ((end = memchr(c->in + done, '\n', c->n - done))) {
		uint32_t page = (uint32_t)strtoul(c->in + done, NULL, 10) % d->pages;
		check_page(d, page);
		int n = snprintf(out, sizeof(out), "%u %llu\n", d->versions[page], (unsigned long long)d->damaged);
		if (send(c->fd, out, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) != n) {
			hang_up(c);
			return;
		}
		done = (size_t)(end - c->in) + 1;
	}
	c->n -= done;
	memmove(c->in, c->in + done, c->n);
	if (c->n == sizeof(c->in))
		hang_up(c);
}

static void take_connection(struct dirtier *d)
{
	int one = 1, fd = accept4(d->listener, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	for (int i = 0; i < CONNECTIONS_MAX; i++)
		if (d->c[i].fd < 0) {
			d->c[i].fd = fd;
			return;
		}
	(void)close(fd);
}

static void serve(struct dirtier *d, double due_ms)
{
	struct pollfd p[CONNECTIONS_MAX + 1] = { { .fd = d->listener, .events = POLLIN } };
	double left_ms = due_ms - now_ms();
	struct timespec t = { .tv_nsec = left_ms > 0 ? (long)((left_ms < 900 ? left_ms : 900) * 1e6) : 0 };

	for (int i = 0; i < CONNECTIONS_MAX; i++)
		p[i + 1] = (struct pollfd){ .fd = d->c[i].fd, .events = POLLIN };
	if (ppoll(p, CONNECTIONS_MAX + 1, &t, NULL) <= 0)
		return;
	for (int i = 0; i < CONNECTIONS_MAX; i++)
		if (p[i + 1].revents)
			answer(d, &d->c[i]);
	if (p[0].revents)
		take_connection(d);
}

static _Noreturn void run(struct dirtier *d)
{
	double start = now_ms();
	uint64_t done = 0;

	for (;;) {
		double due = d->rate_per_s > 0 ? start + (double)done * 1e3 / d->rate_per_s : now_ms() + 900, now = now_ms();
		if (now - due > LATE_MS_MAX) {
			start += now - due;
			due = now;
		}
		serve(d, due);
		for (now = now_ms(); d->rate_per_s > 0 && start + (double)done * 1e3 / d->rate_per_s <= now && now - due <= LATE_MS_MAX;
		     done++)
			change_page(d);
	}
}

static int prepare(struct dirtier *d, char **argv)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)strtoul(argv[1], NULL, 10)) };
	unsigned long megabytes = strtoul(argv[2], NULL, 10), working = strtoul(argv[3], NULL, 10);
	int one = 1;

	d->rate_per_s = strtod(argv[4], NULL);
	d->seed = 88172645463325252ull;
	if (!a.sin_port || !megabytes || megabytes > MEGABYTES_MAX || !working || working > megabytes || d->rate_per_s < 0) {
		fprintf(stderr, "dirtier: bad arguments, see the head of the source\n");
		return -1;
	}
	d->pages = (uint32_t)(megabytes * (1048576 / PAGE_BYTES));
	d->working_pages = (uint32_t)(working * (1048576 / PAGE_BYTES));
	d->memory = mmap(NULL, (size_t)d->pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	d->versions = calloc(d->pages, sizeof(*d->versions));
	if (d->memory == MAP_FAILED || !d->versions) {
		perror("dirtier: memory");
		return -1;
	}
	for (int i = 0; i < CONNECTIONS_MAX; i++)
		d->c[i].fd = -1;
	for (uint32_t i = 0; i < d->pages; i++)
		make_page(i, 0, d->memory + (size_t)i * PAGE_BYTES);
	d->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (d->listener < 0 || setsockopt(d->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
	    bind(d->listener, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(d->listener, CONNECTIONS_MAX) < 0) {
		perror("dirtier: listen");
		return -1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	static struct dirtier d;

	if (argc != 5) {
		fprintf(stderr, "usage: dirtier PORT MEGABYTES WORKING_MEGABYTES PAGES_PER_S\n");
		return 2;
	}
	if (prepare(&d, argv) < 0)
		return 1;
	run(&d);
}
