/* SPDX-License-Identifier: MIT */
/* giveway.c - see giveway.h. */
#include "basic/giveway.h"

#include <errno.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include "basic/clock.h"

#define STARVED_FACTOR 4u    /* waited so many times longer than it ran */
#define STARVED_US     2000u /* and that long at least: a busy moment is not a busy host */
#define PENANCE_FIRST  16u
#define PENANCE_MAX    1024u

static bool set_policy(int policy, int nice)
{
	struct sched_param p = { 0 };
	return sched_setscheduler(0, policy, &p) == 0 && setpriority(PRIO_PROCESS, (id_t)gettid(), nice) == 0;
}

/* Leaving SCHED_IDLE needs the right to the thread's niceness; found out by taking one less. */
static bool may_come_back(int nice)
{
	return setpriority(PRIO_PROCESS, (id_t)gettid(), nice - 1) == 0 && setpriority(PRIO_PROCESS, (id_t)gettid(), nice) == 0;
}

void fm_giveway_init(struct fm_giveway *g)
{
	*g = (struct fm_giveway){ 0 };
	errno = 0;
	g->nice = getpriority(PRIO_PROCESS, (id_t)gettid());
	g->possible = errno == 0 && sched_getscheduler(0) == SCHED_OTHER && may_come_back(g->nice);
}

void fm_giveway_begin(struct fm_giveway *g)
{
	if (!g->possible)
		return;
	if (g->ordinary > 0) {
		g->ordinary--;
		return;
	}
	g->began_us = fm_now_us();
	g->began_cpu_us = fm_thread_cpu_us();
	g->idle = set_policy(SCHED_IDLE, g->nice);
}

void fm_giveway_end(struct fm_giveway *g)
{
	if (!g->idle)
		return;
	g->idle = false;
	g->possible = set_policy(SCHED_OTHER, g->nice);
	uint64_t ran = fm_thread_cpu_us() - g->began_cpu_us, took = fm_now_us() - g->began_us;
	if (took < STARVED_US || took / STARVED_FACTOR < ran) {
		g->penance = 0;
		return;
	}
	g->penance = g->penance == 0 ? PENANCE_FIRST : g->penance * 2 < PENANCE_MAX ? g->penance * 2 : PENANCE_MAX;
	g->ordinary = g->penance;
}
