/* SPDX-License-Identifier: MIT */
/* state.c - the table. Every legal move is a row; what is not here does not happen. */
#include "migration/state.h"

#include <string.h>

#include "basic/cleanup.h"

const struct fm_transition_rule fm_transition_rules[] = {
	{ FM_STATE_PENDING, FM_STATE_PLANNING, "1N", false },       { FM_STATE_PENDING, FM_STATE_FAILED, "1F", false },
	{ FM_STATE_PLANNING, FM_STATE_PREPARATION, "2N", false },   { FM_STATE_PLANNING, FM_STATE_FAILED, "2F", false },
	{ FM_STATE_PREPARATION, FM_STATE_EXECUTION, "3N", false },  { FM_STATE_PREPARATION, FM_STATE_FAILED, "3F", false },
	{ FM_STATE_EXECUTION, FM_STATE_VERIFICATION, "4N", false }, { FM_STATE_EXECUTION, FM_STATE_FAILED, "4F", false },
	{ FM_STATE_VERIFICATION, FM_STATE_COMPLETED, "5N", false }, { FM_STATE_VERIFICATION, FM_STATE_FAILED, "5F", false },
	{ FM_STATE_COMPLETED, FM_STATE_COMPLETED, "6N", true }, /* finalised: source resources are released */
	{ FM_STATE_FAILED, FM_STATE_ROLLBACK, "", false },          { FM_STATE_ROLLBACK, FM_STATE_FAILED, "8N", true },
	{ FM_STATE_INVALID, FM_STATE_INVALID, "", false },
};

static const char *const names[] = { "INVALID",      "PENDING",   "PLANNING", "PREPARATION", "EXECUTION",
	                             "VERIFICATION", "COMPLETED", "FAILED",   "ROLLBACK" };

const struct fm_transition_rule *fm_transition_find(enum fm_state from, enum fm_state to)
{
	for (const struct fm_transition_rule *r = fm_transition_rules; r->from != FM_STATE_INVALID; r++)
		if (r->from == from && r->to == to)
			return r;
	return NULL;
}

const char *fm_state_to_string(enum fm_state s)
{
	return (unsigned)s < FM_ARRAY_SIZE(names) ? names[s] : names[0];
}

enum fm_state fm_state_from_string(const char *name)
{
	for (size_t i = 1; name && i < FM_ARRAY_SIZE(names); i++)
		if (strcmp(names[i], name) == 0)
			return (enum fm_state)i;
	return FM_STATE_INVALID;
}
