/* SPDX-License-Identifier: MIT */
/*
 * analyzer.h - Resource Monitor: is a host used too much, or too little? Thresholds as the published framework has them, with a duration and a hysteresis, so that a peak is no reason to move anything.
 *
 * A host is over when one of its figures has been above its limit for over_ms without a break. It stays over until all of them have been below limit - hysteresis for clear_ms. It is under when both
 * processor and memory have been below their lower limits for under_ms, and stays so until one of them has been above lower limit + hysteresis for clear_ms. What is unknown keeps nobody over and
 * makes nobody under: a host whose processor or memory is not known is never under. One that has said nothing for FM_LOAD_GAP_MS begins anew.
 *
 * fm_load_step is a pure function of the state before, the figures and the time: one state a host, no clock of its own, no allocation.
 */
#ifndef FM_MONITOR_ANALYZER_H
#define FM_MONITOR_ANALYZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/error.h"

#define FM_LOAD_GAP_MS 30000

enum fm_load { FM_LOAD_UNKNOWN, FM_LOAD_NORMAL, FM_LOAD_OVER, FM_LOAD_UNDER };
const char *fm_load_to_string(enum fm_load l); /* "", "normal", "over", "under" */

enum fm_load_figure { FM_LOAD_CPU, FM_LOAD_MEMORY, FM_LOAD_LOSS, FM_LOAD_LATENCY, _FM_LOAD_FIGURES };

struct fm_load_figures {
	double v[_FM_LOAD_FIGURES]; /* percent, percent, percent of packets, milliseconds; NAN: not known */
};

struct fm_load_limits {
	double over[_FM_LOAD_FIGURES];                  /* INFINITY: not looked at */
	double under_cpu_percent, under_memory_percent; /* negative: no host is ever under */
	double hysteresis_percent;                      /* of the limit: 80 with 10 is left at 72, 20 at 22 */
	uint32_t over_ms, under_ms, clear_ms;
};
/* 80 % of processors, 70 % of memory, 1 % loss, 100 ms: the framework's. It has a limit of 200 ms for answers of services, too, which a host does not have: health checks have it. The lower limits (20 %,
 * 30 %) and times (60 s, 10 min, 60 s) are ours. */
#define FM_LOAD_LIMITS_DEFAULT                                                                                                             \
	((struct fm_load_limits){ .over = { 80, 70, 1, 100 },                                                                              \
	                          .under_cpu_percent = 20,                                                                                 \
	                          .under_memory_percent = 30,                                                                              \
	                          .hysteresis_percent = 10,                                                                                \
	                          .over_ms = 60000,                                                                                        \
	                          .under_ms = 600000,                                                                                      \
	                          .clear_ms = 60000 })

/* INVALID_ARGUMENT: NAN, negative limits, a lower limit that is not below the upper one with their hysteresis. */
int fm_load_limits_check(const struct fm_load_limits *l, struct fm_error *err);

struct fm_load_state {
	enum fm_load load;
	enum fm_load_figure why;                  /* over: which figure was the first to be */
	uint64_t since_ms;                        /* of load */
	uint64_t seen_ms;                         /* the last step; 0: none */
	uint64_t over_since_ms[_FM_LOAD_FIGURES]; /* above its limit since; 0: it is not */
	uint64_t under_since_ms, clear_since_ms;
};

/* now_ms: any clock that goes forward, > 0. true: load has changed. */
bool fm_load_step(const struct fm_load_limits *l, struct fm_load_state *s, const struct fm_load_figures *f, uint64_t now_ms);
/* "processor 91.2 % for 60 s, limit 80 %"; "" unless it is over or under. */
void fm_load_explain(const struct fm_load_limits *l, const struct fm_load_state *s, const struct fm_load_figures *f, uint64_t now_ms,
                     char *ret, size_t cap);

#endif
