/* SPDX-License-Identifier: MIT */
/* world.h - the cluster as the fleet's last reports tell it, as a snapshot for policies. One function, so that there is one place where what is known gets richer. */
#ifndef FM_MIGRATION_WORLD_H
#define FM_MIGRATION_WORLD_H

#include "decision/snapshot.h"
#include "migration/fleet.h"

/* Now, in the time zone of this machine. What no agent reports is unknown. Any thread. */
int fm_world_snapshot(struct fm_fleet *fleet, struct fm_snapshot **ret, struct fm_error *err);

#endif
