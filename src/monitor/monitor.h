/* SPDX-License-Identifier: MIT */
/*
 * monitor.h - Resource Monitor: samples this host and the containers it is told about, again and again, at a price that nobody notices.
 *
 * How: files of /proc and of control groups (v1, hybrid, v2) stay open between samples and are read with pread into one buffer; nothing is allocated by a sample. What is cheap (processor time,
 * memory, network) is read each time; what costs more (memory.stat, disk, quota, pressure, processes, connections) every FM_MONITOR_SLOW_MS, each container in its turn. Network counters
 * of all containers come from one read of the host's own /proc/net/dev, where their endpoints' host ends are. How fast memory is written is estimated for one container at a time (dirty.h).
 * docs/MONITORING.md says where each figure comes from and what all this costs.
 *
 * Calling sequence: new -> watch (again whenever containers come or go) and sample, in turn -> host, container, history at any time -> free. sample is one thread's; all may be called by any thread.
 */
#ifndef FM_MONITOR_MONITOR_H
#define FM_MONITOR_MONITOR_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "basic/error.h"
#include "monitor/ring.h"
#include "monitor/usage.h"

#define FM_MONITOR_PERIOD_MS     1000
#define FM_MONITOR_PERIOD_MIN_MS 200
#define FM_MONITOR_PERIOD_MAX_MS 60000
#define FM_MONITOR_SLOW_MS       5000
#define FM_MONITOR_IFNAMES       8

struct fm_monitor;

struct fm_monitor_options {
	const char *root;   /* put before /proc and /sys, for tests; NULL: "" */
	bool no_dirty;      /* never look into the containers' memory */
	uint32_t period_ms; /* how often fm_monitor_sample is called, to know whose turn it is; 0: FM_MONITOR_PERIOD_MS */
};

/* A container to watch. */
struct fm_monitor_subject {
	const char *name; /* the instance's: another one is another container */
	pid_t pid;        /* of its first process; its control groups are those of this process. 0: it does not run */
	bool quiet;       /* it is being moved: nothing looks into its memory */
	size_t n_ifnames;
	char ifnames[FM_MONITOR_IFNAMES]
	            [16]; /* the host ends of its endpoints; none: network counters of the process' namespace, unless that is the host's */
};

int fm_monitor_new(const struct fm_monitor_options *o, struct fm_monitor **ret, struct fm_error *err);
void fm_monitor_free(struct fm_monitor *m);

/* Exactly these from now on. What is known of one that stays, stays; another pid of the same name counts as a restart. At most FM_MAX_CONTAINERS_PER_HOST; the rest is not watched. */
void fm_monitor_watch(struct fm_monitor *m, const struct fm_monitor_subject *v, size_t n);

/* One sample of all. What cannot be read is unknown then; it is tried again. */
void fm_monitor_sample(struct fm_monitor *m);

/* The last sample. */
void fm_monitor_host(struct fm_monitor *m, struct fm_host_usage *ret);
/* false: it is not watched */
bool fm_monitor_container(struct fm_monitor *m, const char *name, struct fm_container_usage *ret);

/* What was measured lately (ring.h): a copy. name NULL: the host. false: it is not watched. */
bool fm_monitor_history(struct fm_monitor *m, const char *name, enum fm_usage_kind kind, struct fm_series *ret);

/* Counts for tests and the bench: reads of files since the start. */
uint64_t fm_monitor_reads(struct fm_monitor *m);

#endif
