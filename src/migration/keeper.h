/* SPDX-License-Identifier: MIT */
/*
 * keeper.h - what an agent looks after when a migration is over, in a thread of its own: what stays in place for old connections of containers that have left this host (network/stub.h),
 * looked at once a second, the publications of those that are here, and the repeated announcements of those that have come.
 *
 * Calling sequence: new (at the agent's start, in the host's network namespace; takes up what an earlier agent kept) -> keep, arriving and opened, from any thread -> free (the records stay).
 */
#ifndef FM_MIGRATION_KEEPER_H
#define FM_MIGRATION_KEEPER_H

#include <jansson.h>

#include "basic/log.h"
#include "migration/agent-api.h"
#include "network/endpoint.h"

struct fm_keeper;

int fm_keeper_new(const char *folder, const char *secrets_dir, struct fm_log *log, struct fm_keeper **ret, struct fm_error *err);
/* From now on they are this host's: durable when it returns. What an earlier move has left here and would lead packets round between this host and the one where they now go, goes. Repeatable. */
int fm_keeper_keep(struct fm_keeper *k, const char *migration_id, FM_PB(Redirection) *const *v, size_t n, struct fm_error *err);
/* A container with these addresses is about to be reached here again: what leads its packets away goes, at once. What fails is logged, and tried again once a second. NULL-safe. */
void fm_keeper_arriving(struct fm_keeper *k, char *const *addresses);
/*
 * A container's ports have just opened here: they are announced again after 0.1, 0.3, 0.7, 1.5 and 3 s, as long as they are open. A switch that has packets of old flows in its cache may go on
 * believing the old host for some time whatever it has heard before (docs/NETWORK.md, Stalls). NULL-safe.
 */
void fm_keeper_opened(struct fm_keeper *k, const struct fm_endpoint_config *v, size_t n, const char *netns_path);
/*
 * What is kept, records of network/stub.h in an array to be given back (json_decref). Some are of containers that are here: publications (fm_keeper_is_of_resident), each with the container's "addresses"; they go, now, when somebody who knows
 * says that the container has left (what fails is tried again).
 */
json_t *fm_keeper_records(struct fm_keeper *k);
bool fm_keeper_is_of_resident(const json_t *record);
int fm_keeper_left(struct fm_keeper *k, const json_t *record, struct fm_error *err);
size_t fm_keeper_count(struct fm_keeper *k);
void fm_keeper_free(struct fm_keeper *k);

#endif
