/* SPDX-License-Identifier: MIT */
/*
 * push-lab.h - what the tests of pushed pages share: a process whose memory is pushed while it changes, what arrived of it, and a link between both ends that breaks after so many
 * bytes. Included by one program each.
 */
#ifndef FM_TESTS_PUSH_LAB_H
#define FM_TESTS_PUSH_LAB_H

#include <poll.h>
#include <signal.h>
#include <sys/uio.h>

#include "hostile-lab.h"
#include "stream-lab.h"
#include "sync/push.h"

/* After a damaged bit: should it be in a length, the receiver waits for what never comes, so the link is cut as well. (Within TLS no damage gets that far.) */
#define DAMAGED_BYTES 20000
#define DAMAGED_MS    300

struct link {
	int a, b;              /* towards the source, towards the destination */
	int64_t good;          /* bytes from the source that pass, then: */
	bool damages, damaged; /* one bit is turned, instead of a cut */
	pthread_t thread;
};

static inline bool pass(struct link *l, int from, int to, bool counts)
{
	uint8_t buf[16384];
	ssize_t n = read(from, buf, sizeof(buf));

	if (n <= 0)
		return false;
	if (counts && l->good < n) {
		if (!l->damages)
			return false;
		buf[l->good] ^= 4;
		l->damages = false;
		l->damaged = true;
		l->good = n + DAMAGED_BYTES;
	}
	l->good -= counts ? n : 0;
	return fm_write_full(to, buf, (size_t)n, NULL) == 0;
}

static inline void *relay(void *arg)
{
	struct link *l = arg;
	struct pollfd p[] = { { .fd = l->a, .events = POLLIN }, { .fd = l->b, .events = POLLIN } };

	for (bool on = true; on && poll(p, 2, l->damaged ? DAMAGED_MS : WAIT_MS) > 0;) {
		if (p[0].revents)
			on = pass(l, l->a, l->b, true);
		if (on && p[1].revents)
			on = pass(l, l->b, l->a, false);
	}
	(void)close(l->a);
	(void)close(l->b);
	return NULL;
}

/* An echo, and how much of it changes between rounds: `changes` times up to `longest` pages of `pages`. */
struct churn {
	uint32_t pages, changes, longest;
};

static inline struct fm_page_source_task task_of(const struct target *t)
{
	return (struct fm_page_source_task){ .ns_pid = t->pid, .host_pid = t->pid };
}

static inline void change_some(const struct target *t, const struct churn *c, unsigned *seed)
{
	for (uint32_t i = 0; i < c->changes; i++) {
		uint32_t first = (uint32_t)rand_r(seed) % c->pages, n = 1 + (uint32_t)rand_r(seed) % c->longest;
		order(t, rand_r(seed) % 4 ? 'w' : 'd', first, first + n > c->pages ? c->pages - first : n);
	}
}

static inline void freeze(const struct target *t)
{
	assert_int_equal(kill(t->pid, SIGSTOP), 0);
	assert_int_equal(state_becomes(t->pid, "T"), 'T');
}

static inline void push_all(struct fm_push *p, const struct target *of, const struct churn *c, unsigned *seed, unsigned rounds,
                            uint64_t max_pages, struct fm_push_result *ret)
{
	struct fm_page_source_task t = task_of(of);

	for (unsigned i = 0; i < rounds; i++) {
		assert_ok(fm_push_round(p, &t, 1, -1, ret, &err));
		change_some(of, c, seed);
	}
	freeze(of);
	assert_ok(fm_push_final(p, &t, 1, max_pages, -1, ret, &err));
}

/* What the store has of a page is what the frozen process has; true: it has nothing, and the process has. (What the process has discarded is never asked for: only pages that have content are.) */
static inline bool is_missing(const struct target *t, uint64_t at, enum fm_page_have have, const void *page)
{
	static const uint8_t zero[FM_PAGE_BYTES];
	uint8_t real[FM_PAGE_BYTES];
	struct iovec local = { .iov_base = real, .iov_len = sizeof(real) },
	             remote = { .iov_base = (void *)(uintptr_t)at, .iov_len = sizeof(real) };

	assert_int_equal(process_vm_readv(t->pid, &local, 1, &remote, 1, 0), sizeof(real));
	bool nothing = memcmp(real, zero, sizeof(real)) == 0;
	if (have != FM_PAGE_NOT_HERE && !nothing && memcmp(real, have == FM_PAGE_ZERO ? zero : page, sizeof(real)) != 0)
		fail_msg("the page at %#llx is not the process's", (unsigned long long)at);
	return have == FM_PAGE_NOT_HERE && !nothing;
}

#endif
