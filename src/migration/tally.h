/* SPDX-License-Identifier: MIT */
/*
 * tally.h - what all migrations that are over come to: the counters and histograms that monitoring asks the manager for.
 *
 * A counter must not go down while it is watched, or its reader takes the whole of it for new. So a tally that is made counts all migrations of the store as long as the store still has every
 * one of them; once the store has begun to drop old ones (FM_STORE_MAX_MIGRATIONS) the tally begins at zero, as a counter may after a restart. Times are summed up as whole microseconds:
 * a sum of floating point numbers would depend on the order, and could come out smaller after a restart. Pauses are not on record and always begin at zero.
 *
 * Thread-safe. The functions that take NULL do nothing then: nobody has asked for figures.
 */
#ifndef FM_MIGRATION_TALLY_H
#define FM_MIGRATION_TALLY_H

#include <stdint.h>

#include "basic/error.h"
#include "decision/strategy.h"
#include "migration/agent-api.h"
#include "store/store.h"

#define FM_TALLY_BUCKETS 14

/* Upper bounds, microseconds, increasing. Downtimes and phases from 5 ms to a minute, whole migrations from 250 ms to an hour. */
extern const uint64_t fm_tally_short_us[FM_TALLY_BUCKETS];
extern const uint64_t fm_tally_long_us[FM_TALLY_BUCKETS];

struct fm_tally_times {
	uint64_t counts[FM_TALLY_BUCKETS + 1]; /* of at most that bound and more than the one before; the last one: the rest */
	uint64_t sum_us;
};

/* The phases that are told apart, as agents name them (fm_mover_phase); the last one, "other", takes the rest: what an agent reports does not make new time series. */
extern const char *const fm_tally_phases[];
#define FM_TALLY_PHASES 20

struct fm_tally_figures {
	struct {
		uint64_t completed, failed;
		uint64_t wire_bytes, files_bytes, pages;
		struct fm_tally_times duration; /* of completed ones: on the long bounds */
		struct fm_tally_times downtime; /* likewise, on the short ones */
	} by_strategy[_FM_STRATEGY_MAX];
	uint64_t failures[_FM_CODE_MAX]; /* by code; [FM_OK] is not used */
	uint64_t rolled_back, throttled, pauses;
	struct fm_tally_times phases[FM_TALLY_PHASES]; /* short bounds */
};

struct fm_tally;

/* Reads the store: all its records at once, some 3 KB each. */
int fm_tally_new(struct fm_store *store, struct fm_tally **ret, struct fm_error *err);
void fm_tally_free(struct fm_tally *t);
/* That migration is over, and this is its record. NULL-safe; each once. */
void fm_tally_add(struct fm_tally *t, const FM_PB(Migration) * m);
/* A container has begun to wait for pages. NULL-safe. */
void fm_tally_paused(struct fm_tally *t);
void fm_tally_read(struct fm_tally *t, struct fm_tally_figures *ret);

#endif
