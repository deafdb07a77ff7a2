/* SPDX-License-Identifier: MIT */
/*
 * cost.h - Decision Engine: what a move will cost by each strategy: downtime, total time, bytes; corrected by what moves have cost here before. Pure: no i/o, no clock.
 *
 * The prediction is a formula (docs/DECISION.md, "Prediction") times a correction. The formula knows how strategies work: what is copied inside the freeze and what outside, rounds that shrink by dirty rate over
 * bandwidth, the part that grows with processes. The correction knows this installation: for downtime, total and bytes one linear model of log(outcome / formula) over a few features, fitted with
 * a ridge towards 0 (weighted ridge regression, Hoerl and Kennard 1970), so that without history it is 1 and each move bends it a little; an outcome far from
 * what is usual counts less (Huber's weights). On top of it comes a level, the mean of what the newest moves of any strategy were off by: a host that gets busy slows all of them down, and that
 * is seen after a few. No correction exceeds a factor of FM_COST_MAX_FACTOR either way.
 *
 * The band (low, high) holds the middle 80 % of outcomes if errors stay as they were.
 *
 * A model is not thread-safe; predicting does not change it. It is rebuilt by learning the recorded moves in order.
 */
#ifndef FM_DECISION_COST_H
#define FM_DECISION_COST_H

#include <stdbool.h>
#include <stdint.h>

#include "basic/error.h"
#include "decision/strategy.h"

#define FM_COST_MAX_FACTOR 20.0

/* What is known of a move beforehand. 0 = unknown in bandwidth; FM_UNKNOWN (snapshot.h) or NAN elsewhere where it says so. */
struct fm_cost_case {
	enum fm_strategy strategy; /* not AUTO */
	bool nested;
	uint32_t processes;
	uint64_t memory_bytes;
	uint64_t dirty_bytes_per_s;     /* FM_UNKNOWN: a hundredth of its memory a second is assumed */
	uint64_t files_bytes;           /* root filesystem and volumes, less what is there */
	uint64_t bandwidth_bytes_per_s; /* between the two hosts, that is free; 0: 1 GB/s is assumed */
	double latency_ms;              /* one way; NAN: 0 */
	double compressibility;         /* NAN: 0.6 */
	double source_cpu_percent;      /* NAN: 50 */
};

struct fm_cost {
	double downtime_ms, downtime_low_ms, downtime_high_ms;
	double total_ms, total_low_ms, total_high_ms;
	double wire_bytes, wire_low_bytes, wire_high_bytes;
	unsigned rounds; /* live, pre-copy; of the formula */
	bool converges;  /* false: rounds do not shrink */
};

struct fm_cost_outcome {
	double downtime_ms, total_ms, wire_bytes; /* 0 or less: not measured */
};

struct fm_cost_model;
struct fm_cost_model *fm_cost_model_new(void);
void fm_cost_model_free(struct fm_cost_model *m);

/* m NULL: the formula alone */
void fm_cost_predict(const struct fm_cost_model *m, const struct fm_cost_case *c, struct fm_cost *ret);
void fm_cost_learn(struct fm_cost_model *m, const struct fm_cost_case *c, const struct fm_cost_outcome *o);
unsigned fm_cost_learnt(const struct fm_cost_model *m); /* moves */

/*
 * One number to compare strategies by, in milliseconds of downtime: downtime x importance + total / FM_COST_TOTAL_WEIGHT + the time that the bytes keep the link busy / FM_COST_WIRE_WEIGHT + what pages on demand slow the
 * application down after the switch-over. (The published planner's: transfer + cpu + memory + downtime x importance; here each is a time.)
 */
#define FM_COST_TOTAL_WEIGHT 50.0
#define FM_COST_WIRE_WEIGHT  50.0
double fm_cost_of(const struct fm_cost_case *c, const struct fm_cost *k, double importance);

#endif
