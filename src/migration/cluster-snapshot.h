/* SPDX-License-Identifier: MIT */
/*
 * cluster-snapshot.h - the cluster at this moment as decisions see it (decision/snapshot.h), put together from what the manager knows: the fleet's reports, the history of usage, the network's
 * description and measurements, and migrations under way.
 *
 * Everything is borrowed; history and network may be NULL, what they know is unknown then. Any thread.
 */
#ifndef FM_MIGRATION_CLUSTER_SNAPSHOT_H
#define FM_MIGRATION_CLUSTER_SNAPSHOT_H

#include "decision/snapshot.h"
#include "migration/fleet.h"
#include "migration/costs.h"
#include "migration/network.h"
#include "migration/usage-history.h"

struct fm_cluster {
	struct fm_fleet *fleet;
	struct fm_store *store; /* migrations under way and the last ones */
	struct fm_usage_history *history;
	struct fm_network *network;
	struct fm_costs *costs; /* NULL: nothing is remembered of what containers' migrations measured */
};

/* What an offline host has and what runs there is as it was last heard, with online = false and its measurements unknown. A container that is being moved stands where it leaves. */
int fm_cluster_snapshot(const struct fm_cluster *c, struct fm_snapshot **ret, struct fm_error *err);

/*
 * The seam for predictions: called for each host and container with what was measured, and fills in the predicted members; what is used now more than in the last whole step of the history is added. Without it they are unknown. The history's copies are the callee's for the time of
 * the call.
 */
struct fm_snapshot_predictor {
	void *userdata;
	double (*predict)(void *userdata, bool host, const char *name, enum fm_usage_kind kind, const struct fm_series *history);
};
int fm_cluster_snapshot_predicted(const struct fm_cluster *c, const struct fm_snapshot_predictor *p, struct fm_snapshot **ret,
                                  struct fm_error *err);

#endif
