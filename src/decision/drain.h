/* SPDX-License-Identifier: MIT */
/*
 * drain.h - Decision Engine: everything off one host, by a deadline where there is one. A pure function of a snapshot; see plan.h for what it gives.
 *
 * Destinations, order, strategies and how many at once are chosen so that all are away in time, over links that they share. Where that cannot be, the plan moves what is worth most
 * (fleximigrate.importance) and plan->left says what will not make it, and why: it is not begun, as a migration that is cut off in its middle helps nobody. Among plans that move the same, the one
 * with the least downtime, weighted by importance.
 *
 * Destinations keep under the thresholds where they can; what fits nowhere else goes up to the limits of transit, since it would be gone otherwise.
 */
#ifndef FM_DECISION_DRAIN_H
#define FM_DECISION_DRAIN_H

#include "decision/plan.h"

/* o->deadline_ms: 0 for none. NOT_FOUND: no such host. */
int fm_plan_drain(const struct fm_snapshot *s, size_t host, const struct fm_plan_opts *o, struct fm_plan **ret, struct fm_error *err);

#endif
