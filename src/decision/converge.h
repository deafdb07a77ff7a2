/* SPDX-License-Identifier: MIT */
/*
 * converge.h - Decision Engine: after each round of pre-copy, another one, the switch-over, or no hope? A pure function of what was measured.
 *
 * Model: pages that change while a round is sent are the next round's work. With w bytes changing while r bytes are sent at rate b, rounds shrink when w < r. The downtime that a
 * switch-over would have now is base_ms (freeze, dump, restore) plus, for pre-copy, what of the last set does not fit behind them: the last set is sent while CRIU
 * dumps and restores, overlap_ms of it cost nothing. For live the last set does not count: what is not sent is fetched on demand.
 *
 * Throttling: where it is allowed, a container whose rounds do not shrink and whose last set would not fit is slowed down, like QEMU's auto-converge does it: 20 % of its processor time are
 * taken away first, then 10 points more a round. What a round finds was written during the one before, so the maximum counts as tried when a whole round has passed under it.
 */
#ifndef FM_DECISION_CONVERGE_H
#define FM_DECISION_CONVERGE_H

#include <stdbool.h>
#include <stdint.h>

#include "basic/error.h"

struct fm_converge_limits {
	uint64_t max_downtime_ms;    /* 0: 300 */
	uint64_t max_rounds_ms;      /* all rounds together; 0: 5 minutes */
	uint32_t max_factor_percent; /* of the memory's size on the wire; 0: 300, or 1500 where throttling is allowed, which takes rounds */
	uint32_t max_rounds;         /* 0: 30 */
	uint32_t max_throttle_percent; /* of its processor time that may be taken away; 0: none */
};

struct fm_converge_round {
	uint64_t changed_bytes;    /* found by its scan */
	uint64_t sent_bytes;       /* payload on the wire */
	uint64_t us;               /* scan to arrival */
	uint32_t throttle_percent; /* in force meanwhile */
};

enum fm_converge_verdict { FM_CONVERGE_ANOTHER, FM_CONVERGE_SWITCH, FM_CONVERGE_HOPELESS };

struct fm_converge_decision {
	enum fm_converge_verdict verdict;
	uint64_t predicted_downtime_ms;
	uint64_t rate_bytes_per_s; /* of memory, best of the rounds that say something */
	uint32_t throttle_percent; /* ANOTHER: with this one in force; never less than before */
	char reason[256];          /* one sentence */
};

/* rounds: all so far, oldest first. on_demand: what is left may be fetched after the switch-over (live). base_ms: 0 = 60. */
void fm_converge(const struct fm_converge_limits *l, const struct fm_converge_round *rounds, unsigned n, bool on_demand, uint64_t base_ms,
                 struct fm_converge_decision *ret);

/*
 * Is one more round, just before the freeze, worth its bytes? Not when what is left is fetched on demand anyway and most of a memory that is not small changed during the last one: the round, however short, would
 * send most of it once more, and most of that would change again. n > 0.
 */
bool fm_converge_last_round(const struct fm_converge_round *rounds, unsigned n, bool on_demand);

/* Over how many streams a host with so many processors sends the rounds when nobody says: half of them for the application, and no more than a fast link needs. */
unsigned fm_converge_streams(uint32_t processors);
/* "4" of the label fleximigrate.streams: 0 (as many as that) to FM_MAX_PUSH_STREAMS */
int fm_streams_from_string(const char *text, uint32_t *ret, struct fm_error *err);

/* "60" of the label fleximigrate.throttle: 0 to FM_MAX_THROTTLE_PERCENT */
int fm_throttle_from_string(const char *text, uint32_t *ret, struct fm_error *err);

#endif
