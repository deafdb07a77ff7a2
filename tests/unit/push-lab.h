/* SPDX-License-Identifier: MIT */
/* push-lab.h - what the tests of pushed pages share: a link between both ends that breaks after so many bytes. Included by one program each. */
#ifndef FM_TESTS_PUSH_LAB_H
#define FM_TESTS_PUSH_LAB_H

#include <poll.h>

#include "stream-lab.h"

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

#endif
