/* SPDX-License-Identifier: MIT */
/*
 * giveway.h - long computing next to an application that is not to feel it: a thread of ordinary policy, however nice, keeps its processor from one that wakes up for the length of its slice (some
 * milliseconds of each); one of SCHED_IDLE gives it up at once. Measured with a Redis and two computing threads on two processors: 63 % of its requests a second at nice 10, 95 % with this.
 *
 * Two dangers come with SCHED_IDLE. On a host that is busy for good such a thread never runs: so one that waited for much longer than it ran computes as an ordinary one for a while, longer each time. And
 * what it holds when it has to stop is held for long: so nothing may be locked between begin and end, and no system call made that locks an address space.
 *
 * One thread each.
 */
#ifndef FM_BASIC_GIVEWAY_H
#define FM_BASIC_GIVEWAY_H

#include <stdbool.h>
#include <stdint.h>

struct fm_giveway {
	int nice;          /* of the thread, outside of the sections */
	bool possible;     /* the thread may come back from SCHED_IDLE */
	bool idle;         /* inside a section that gives way */
	unsigned ordinary; /* so many more sections do not */
	unsigned penance;  /* so many did not the last time that it starved */
	uint64_t began_us, began_cpu_us;
};

/* For the calling thread, as nice as it is now. */
void fm_giveway_init(struct fm_giveway *g);
/* A section: milliseconds, not microseconds (it costs a few of these). */
void fm_giveway_begin(struct fm_giveway *g);
void fm_giveway_end(struct fm_giveway *g);

#endif
