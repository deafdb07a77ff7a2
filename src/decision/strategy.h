/* SPDX-License-Identifier: MIT */
/*
 * strategy.h - Decision Engine: choose a strategy and predict what it costs. Pure functions over a snapshot: no i/o, no clock, replayable.
 *
 * Model (docs/DECISION.md has the measurements behind the constants, from downtime on development machines): dump = 15 ms + 4.4 ms/process + 0.02 ms/MB;
 * restore = 15 ms + 2 ms/process; cold adds memory/bandwidth and eager copying both sides; the downtime of live, pre-copy and post-copy does not contain the transfer.
 */
#ifndef FM_DECISION_STRATEGY_H
#define FM_DECISION_STRATEGY_H

#include <stdbool.h>
#include <stdint.h>

#include "basic/error.h"

enum fm_strategy {
	FM_STRATEGY_AUTO = 1,
	FM_STRATEGY_COLD = 2,
	FM_STRATEGY_PRE_COPY = 3,
	FM_STRATEGY_POST_COPY = 4,
	FM_STRATEGY_LIVE = 5,
	_FM_STRATEGY_MAX
};
const char *fm_strategy_to_string(enum fm_strategy s);                                      /* "post-copy"; never NULL */
int fm_strategy_from_string(const char *name, enum fm_strategy *ret, struct fm_error *err); /* INVALID_ARGUMENT lists the names */
/* INVALID_ARGUMENT for a number that is none */
int fm_strategy_check_available(enum fm_strategy s, struct fm_error *err);

struct fm_workload_snapshot {
	uint64_t memory_bytes;
	uint32_t processes;
	bool nested;
	uint64_t rootfs_bytes;
	uint64_t bandwidth_bytes_per_s;              /* 0 = unknown: 1 GB/s assumed */
	uint64_t destination_memory_available_bytes; /* 0 = unknown: enough */
};
struct fm_strategy_choice {
	enum fm_strategy strategy;
	uint64_t predicted_downtime_ms, predicted_total_ms, predicted_wire_bytes;
	char explanation[512]; /* one sentence: why this one and not the others */
};
/* requested AUTO chooses; anything else is kept if possible for this workload (FAILED_PRECONDITION otherwise: an ordinary container can only be moved cold, live and pre-copy need room for
 * two copies of the memory). */
int fm_strategy_choose(const struct fm_workload_snapshot *w, enum fm_strategy requested, struct fm_strategy_choice *ret,
                       struct fm_error *err);

#endif
