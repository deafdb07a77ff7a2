/* SPDX-License-Identifier: MIT */
/* fleet-snapshot.h - the fleet as decisions see it (decision/snapshot.h): what agents have reported last; what they have not is unknown. */
#ifndef FM_MIGRATION_FLEET_SNAPSHOT_H
#define FM_MIGRATION_FLEET_SNAPSHOT_H

#include "decision/snapshot.h"
#include "migration/fleet.h"

/* moving: is a migration of that container under way? May be NULL. *ret: fm_snapshot_free. */
int fm_fleet_snapshot(struct fm_fleet *f, bool (*moving)(void *userdata, const char *container), void *userdata, struct fm_snapshot **ret,
                      struct fm_error *err);

#endif
