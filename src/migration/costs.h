/* SPDX-License-Identifier: MIT */
/*
 * costs.h - what moves have cost this manager, and what the next one will (decision/cost.h): the model, learnt from the migrations that the store has, oldest first, and from each that completes.
 * Thread-safe.
 */
#ifndef FM_MIGRATION_COSTS_H
#define FM_MIGRATION_COSTS_H

#include "basic/error.h"
#include "decision/selector.h"
#include "migration/agent-api.h"
#include "store/store.h"

struct fm_costs;
int fm_costs_new(struct fm_store *store, struct fm_costs **ret, struct fm_error *err);
void fm_costs_free(struct fm_costs *c);

/* What is known of the container before its move; bandwidth and latency are the caller's to fill in. source may be NULL. */
void fm_costs_case(const FM_PB(InspectResponse) * facts, const FM_PB(Host) * source, struct fm_cost_case *ret);
/* fm_strategy_choose with what was learnt; w->model is not looked at */
int fm_costs_choose(struct fm_costs *c, const struct fm_workload_snapshot *w, enum fm_strategy requested, struct fm_strategy_choice *ret,
                    struct fm_error *err);
/* Into a plan: what it was made from, the other options */
void fm_costs_keep(FM_PB(Plan) * p, const struct fm_cost_case *known, const struct fm_strategy_choice *choice);
/* Of a migration that is COMPLETED; others, and those without a plan that tells what it was made from, teach nothing. */
void fm_costs_learn(struct fm_costs *c, const FM_PB(Migration) * m);

#endif
