/* SPDX-License-Identifier: MIT */
/*
 * balance.h - Decision Engine: fewest moves that bring all hosts under their thresholds, and few hosts that carry everything. Pure functions of a snapshot; see plan.h for what they give.
 */
#ifndef FM_DECISION_BALANCE_H
#define FM_DECISION_BALANCE_H

#include "decision/plan.h"

/*
 * Hosts over a threshold (cpu_percent, memory_percent) are relieved with as few moves as can be found: on small instances the fewest there are. No host gets over a threshold by it, but for the
 * moment in which containers change places. plan->over says which hosts stay over, and why.
 */
int fm_plan_balance(const struct fm_snapshot *s, const struct fm_plan_opts *o, struct fm_plan **ret, struct fm_error *err);

/* Empties as many hosts as it finds, under the thresholds; plan->freed has them. Hosts that are over are not touched: balance first. */
int fm_plan_consolidate(const struct fm_snapshot *s, const struct fm_plan_opts *o, struct fm_plan **ret, struct fm_error *err);

#endif
