/* SPDX-License-Identifier: MIT */
/*
 * coordinator.h - the Migration Manager's heart: takes requests, runs each migration through the state machine on a worker thread, recovers after a restart.
 *
 * All outside things come as parameters: the store, the agents (agent-api.h), the fleet (what hosts and containers exist), the log. Every transition goes through
 * one function (transition.c): table check -> store transaction -> log line -> event. Nothing else sets a state. The phases are in phase-*.c, undoing in rollback.c, restart in coordinator.c (take_up).
 *
 * Where the decision about ownership lives: the manager durably authorises the switch-over (state EXECUTION in the store with the epoch) before it calls Execute. From then on the
 * source agent's journal decides (COMMITTED or not), because the manager may die inside the freeze and the freeze must not wait for it. After any doubt the coordinator asks
 * Status on both agents and acts on the journals: source COMMITTED -> go on to VERIFICATION; source not committed -> Abort source (which makes a later commit impossible), then destination.
 * A source that is committed is resumed only with the destination's proof that its tree never ran or is dead.
 */
#ifndef FM_MIGRATION_COORDINATOR_H
#define FM_MIGRATION_COORDINATOR_H

#include "basic/error.h"
#include "basic/fault.h"
#include "basic/log.h"
#include "migration/agent-api.h"
#include "migration/fleet.h"
#include "migration/network.h"
#include "migration/rules.h"
#include "migration/tally.h"
#include "store/store.h"

struct fm_coordinator;
struct fm_costs;

struct fm_coordinator_opts {
	struct fm_store *store;
	struct fm_agent_api agents;
	struct fm_fleet *fleet;
	struct fm_log *log;
	struct fm_fault *fault;
	unsigned max_concurrent;      /* 0 = 8 */
	struct fm_network *network;   /* what there is around the hosts, and services' intents; NULL: nothing */
	struct fm_rulebook *policies; /* the operator's; NULL: none */
	/* The cluster as policies see it; NULL: what the fleet and the store know */
	int (*snapshot)(void *userdata, struct fm_snapshot **ret, struct fm_error *err);
	void *snapshot_userdata;
	struct fm_costs *costs;   /* what moves have cost; borrowed; NULL: learnt from the store here */
	struct fm_tally *tally;   /* what is over is counted there; NULL: nobody asks for figures */
	const char *secrets_dir;  /* key files that redirections name (network/redirect.h); NULL: none */
	bool strategy_by_weights; /* decision/selector.h */
	int agent_grace_ms; /* how long to wait for an agent that was lost in mid-migration before going on without it where that is safe; 0 = 30000 */
};
/* Reads unfinished migrations from the store and resumes or rolls back each on a worker thread before new ones are accepted for the same container. */
int fm_coordinator_new(const struct fm_coordinator_opts *o, struct fm_coordinator **ret, struct fm_error *err);
/* Stop: cancels nothing; waits for running phases up to 5 s at a safe point (the store knows the rest), frees. */
void fm_coordinator_free(struct fm_coordinator *c);

/* Accept a request. Malformed requests (no container, bad strategy number) are INVALID_ARGUMENT and leave no record. Everything else is recorded: an unknown container, offline host, same host…
 * produce a migration that ends FAILED on path 1F, and the call returns the record (not an error). A second migration of a container that has one under way: ALREADY_EXISTS, no record.
 * Strategies pre-copy and live: UNIMPLEMENTED, no record. dry_run: plans without recording; *ret has the plan (or the error is returned). *ret: free with fleximigrate__v1__migration__free_unpacked. */
int fm_coordinator_migrate(struct fm_coordinator *c, const FM_PB(MigrateRequest) * req, FM_PB(Migration) * *ret, struct fm_error *err);
/* Can it move there, what is in the way, what may go wrong? Asks both hosts, touches nothing, records nothing. An unknown container, host or one that is offline is an error. */
int fm_coordinator_can_migrate(struct fm_coordinator *c, const FM_PB(CanMigrateRequest) * req, FM_PB(CanMigrateResponse) * *ret,
                               struct fm_error *err);
int fm_coordinator_get(struct fm_coordinator *c, const char *id, FM_PB(Migration) * *ret, struct fm_error *err);
int fm_coordinator_list(struct fm_coordinator *c, bool active_only, size_t limit, FM_PB(Migration) * **ret, size_t *ret_n,
                        struct fm_error *err);
/* Before the commit point: the migration fails with reason `cancelled` and rolls back. After it: FAILED_PRECONDITION. Finished: FAILED_PRECONDITION saying so. Returns at once. */
int fm_coordinator_cancel(struct fm_coordinator *c, const char *id, FM_PB(Migration) * *ret, struct fm_error *err);
/* Of one that waits for approval (docs/POLICIES.md). FAILED_PRECONDITION: it does not. */
int fm_coordinator_approve(struct fm_coordinator *c, const char *id, FM_PB(Migration) * *ret, struct fm_error *err);
/* The next event with seq > after_seq, waiting up to wait_ms; *ret NULL when none came. Free with fleximigrate__v1__event__free_unpacked. */
int fm_coordinator_next_event(struct fm_coordinator *c, const char *id, uint64_t after_seq, int wait_ms, FM_PB(Event) * *ret,
                              struct fm_error *err);
/* Is a migration of that container under way? (container rm must refuse) */
bool fm_coordinator_is_moving(struct fm_coordinator *c, const char *container);

/* What moves have cost, for who plans several; borrowed, as long as the coordinator. */
struct fm_costs *fm_coordinator_costs(struct fm_coordinator *c);

/* Is that migration in the hands of a worker? When not, all its lines are in the store. */
bool fm_coordinator_is_active(struct fm_coordinator *c, const char *id);

#endif
