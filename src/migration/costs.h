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

/* What is known of the container before its move; bandwidth and latency are the caller's to fill in. usage: of the container, as its agent reported it (an inspection has none); it and source may be NULL. */
void fm_costs_case(const FM_PB(InspectResponse) * facts, const FM_PB(ContainerUsage) * usage, const FM_PB(Host) * source,
                   struct fm_cost_case *ret);
/*
 * What this container's last migrations measured, where c does not know it: dirty rate and compressibility by their rounds, also of one that gave up after them; the files' bytes (FM_UNKNOWN) by the last inspection. Of
 * the FM_COSTS_REMEMBERED containers moved last.
 */
void fm_costs_recall(struct fm_costs *costs, const char *container, struct fm_cost_case *c);
#define FM_COSTS_REMEMBERED 256
/* fm_strategy_choose with what was learnt; w->model is not looked at */
int fm_costs_choose(struct fm_costs *c, const struct fm_workload_snapshot *w, enum fm_strategy requested, struct fm_strategy_choice *ret,
                    struct fm_error *err);
/* Into a plan: what it was made from, the other options */
void fm_costs_keep(FM_PB(Plan) * p, const struct fm_cost_case *known, const struct fm_strategy_choice *choice);
/* Of a migration that is over. What moves cost is learnt from one that is COMPLETED and whose plan tells what it was made from; what was measured of the container on the way (fm_costs_recall), from any. */
void fm_costs_learn(struct fm_costs *c, const FM_PB(Migration) * m);

#endif
