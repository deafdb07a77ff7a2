/* SPDX-License-Identifier: MIT */
/*
 * state.h - the states of a migration and the one table of legal transitions (docs/LIFECYCLE.md).
 *
 *   PENDING -1N-> PLANNING -2N-> PREPARATION -3N-> EXECUTION -4N-> VERIFICATION -5N-> COMPLETED(6N)
 *      |1F          |2F             |3F               |4F              |5F
 *      +------------+---------------+-----------------+----------------+-> FAILED -> ROLLBACK -8N-> FAILED
 *
 * FAILED is entered twice on a failure: when the failure is found, and (terminal) when the rollback is finished. Numbers are part of the contract.
 */
#ifndef FM_MIGRATION_STATE_H
#define FM_MIGRATION_STATE_H

#include <stdbool.h>
#include <stddef.h>

enum fm_state {
	FM_STATE_INVALID = 0,
	FM_STATE_PENDING = 1,
	FM_STATE_PLANNING = 2,
	FM_STATE_PREPARATION = 3,
	FM_STATE_EXECUTION = 4,
	FM_STATE_VERIFICATION = 5,
	FM_STATE_COMPLETED = 6,
	FM_STATE_FAILED = 7,
	FM_STATE_ROLLBACK = 8,
	_FM_STATE_MAX
};

struct fm_transition_rule {
	enum fm_state from, to;
	const char *label; /* added to the path: "1N", "4F", "8N", "6N", or "" */
	bool terminal;     /* nothing follows */
};

extern const struct fm_transition_rule fm_transition_rules[]; /* ends with from = FM_STATE_INVALID */

/* NULL when the move is illegal. rolled_back tells the two meanings of entering FAILED apart: ROLLBACK->FAILED is the only one from ROLLBACK. */
const struct fm_transition_rule *fm_transition_find(enum fm_state from, enum fm_state to);
const char *fm_state_to_string(enum fm_state s);      /* "PENDING"; never NULL */
enum fm_state fm_state_from_string(const char *name); /* FM_STATE_INVALID when unknown */

#endif
