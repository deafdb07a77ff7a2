/* SPDX-License-Identifier: MIT */
/*
 * keeper.h - the agent's side of what stays in place for old connections of containers that have left this host (network/stub.h), looked at once a second by a thread of its own.
 *
 * Calling sequence: new (at the agent's start, in the host's network namespace; takes up what an earlier agent kept) -> keep and arriving, from any thread -> free (the records stay).
 */
#ifndef FM_MIGRATION_KEEPER_H
#define FM_MIGRATION_KEEPER_H

#include "basic/log.h"
#include "migration/agent-api.h"

struct fm_keeper;

int fm_keeper_new(const char *folder, const char *secrets_dir, struct fm_log *log, struct fm_keeper **ret, struct fm_error *err);
/* From now on they are this host's: durable when it returns. Repeatable. */
int fm_keeper_keep(struct fm_keeper *k, const char *migration_id, FM_PB(Redirection) *const *v, size_t n, struct fm_error *err);
/* A container with these addresses is about to be reached here again: what leads its packets away goes, at once. Failures are logged, and tried again. NULL-safe. */
void fm_keeper_arriving(struct fm_keeper *k, char *const *addresses);
size_t fm_keeper_count(struct fm_keeper *k);
void fm_keeper_free(struct fm_keeper *k);

#endif
