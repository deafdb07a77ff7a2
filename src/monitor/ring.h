/* SPDX-License-Identifier: MIT */
/*
 * ring.h - means of a measurement over steps of time, the last n of them, in a memory that never grows.
 *
 * A step is a stretch of real time that begins at a multiple of the step's length, so that rings of different processes, and of one process before and after a restart, fit together. A step's mean is
 * that of the values in it, each weighing the same. Steps without a value are unknown (NAN), also when the clock leaps ahead; a value for a step that is older than the newest one is put where it belongs as
 * long as that is kept, and otherwise forgotten.
 *
 * Plain memory: a ring is copied with its values by fm_series_copy. Not thread-safe.
 */
#ifndef FM_MONITOR_RING_H
#define FM_MONITOR_RING_H

#include <stddef.h>
#include <stdint.h>

/* The kinds of measurements whose past is kept. Hosts: percent of all processors, percent of memory that is not available, bytes a second. Containers: processors, bytes, bytes a second. */
enum fm_usage_kind {
	FM_USAGE_CPU,
	FM_USAGE_MEMORY,  /* of a container its working set, or all of its memory where that is not known */
	FM_USAGE_NETWORK, /* in and out together */
	FM_USAGE_DIRTY,   /* of a host: bytes a second of its disks, read and written */
	_FM_USAGE_KINDS
};

struct fm_ring {
	uint64_t newest;  /* number of the newest step: real time / step; 0: there is none */
	uint32_t step_ms; /* > 0 */
	uint32_t n;       /* steps kept, > 0 */
	uint32_t count;   /* values in the newest step */
	double sum;       /* of them */
	float *v;         /* n of them, the caller's memory; step s is at s % n */
};

void fm_ring_init(struct fm_ring *r, uint32_t step_ms, float *v, uint32_t n);
void fm_ring_add(struct fm_ring *r, uint64_t at_unix_ms, double value); /* NAN: nothing is added */
/* A whole step's mean, as it was kept elsewhere. */
void fm_ring_put(struct fm_ring *r, uint64_t step, float mean);
/* Of the step with this number; NAN where nothing is known. */
float fm_ring_at(const struct fm_ring *r, uint64_t step);
/* The mean of what is known from the step of `from` to the newest; NAN when nothing is. */
double fm_ring_mean(const struct fm_ring *r, uint64_t from_unix_ms);

#define FM_SERIES_RECENT_STEP_MS 5000u
#define FM_SERIES_RECENT         24u /* 2 minutes */
#define FM_SERIES_MINUTES        120u
#define FM_SERIES_LONG_STEP_MS   300000u
#define FM_SERIES_LONG           576u /* 48 hours */

/* One measurement's past at three scales. */
struct fm_series {
	struct fm_ring recent, minutes, fives;
	float v[FM_SERIES_RECENT + FM_SERIES_MINUTES + FM_SERIES_LONG];
};
void fm_series_init(struct fm_series *s);
void fm_series_copy(struct fm_series *to, const struct fm_series *from);
void fm_series_add(struct fm_series *s, uint64_t at_unix_ms, double value);

#endif
