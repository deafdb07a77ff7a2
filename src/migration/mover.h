/* SPDX-License-Identifier: MIT */
/*
 * mover.h - one side of one migration on an agent: the source that gives a container away, the destination that takes it.
 *
 * The manager (coordinator.h) calls Prepare, Execute, Status, Verify, Release, Abort; inside the switch-over the two movers talk to each other alone, over the control stream
 * (sync/stream.h), because the freeze waits for nobody else. Each mover has a journal (journal.h); whatever process dies, the journals of both sides decide.
 *
 *   source:      prepare  -> PREPARED;  execute: FROZEN -> (destination RESTORED) -> COMMITTED;  release -> RELEASED;  abort -> ABORTED
 *   destination: prepare  -> PREPARED;  restores: RESTORED -> (COMMIT received) COMMITTED;       release -> RELEASED;  abort -> ABORTED
 *
 * The commit point is the source's COMMITTED record, fsync'ed. Before it an abort (on either side) leaves the source running. After it the source is resumed only with
 * proof that the destination never ran or is dead (abort with destination_is_dead).
 *
 * Threads: all functions may be called from any thread; one lock a mover. A destination has one thread of its own (it serves the stream), a source has one for pages.
 */
#ifndef FM_MIGRATION_MOVER_H
#define FM_MIGRATION_MOVER_H

#include "migration/host.h"

struct fm_movers; /* all movers of an agent */

/* Reads the journals, undoes half-made `run`s, brings back what was under way (a committed destination goes on serving pages, a frozen source waits for the manager's decision). */
int fm_movers_new(struct fm_host *h, struct fm_movers **ret, struct fm_error *err);
void fm_movers_free(struct fm_movers *m); /* stops threads; decides nothing: journals stay */

int fm_movers_prepare_destination(struct fm_movers *m, const FM_PB(PrepareDestinationRequest) * req,
                                  FM_PB(PrepareDestinationResponse) * *ret, struct fm_error *err);
int fm_movers_prepare_source(struct fm_movers *m, const FM_PB(PrepareSourceRequest) * req, FM_PB(PrepareSourceResponse) * *ret,
                             struct fm_error *err);
int fm_movers_execute(struct fm_movers *m, const FM_PB(ExecuteRequest) * req, FM_PB(MoverStatus) * *ret, struct fm_error *err);
/* Never fails for an unknown id: decision UNKNOWN. Waits up to wait_ms for a change when known_pages_done equals the current count. */
int fm_movers_status(struct fm_movers *m, const FM_PB(StatusRequest) * req, FM_PB(MoverStatus) * *ret, struct fm_error *err);
int fm_movers_verify(struct fm_movers *m, const FM_PB(VerifyRequest) * req, FM_PB(VerifyResponse) * *ret, struct fm_error *err);
int fm_movers_release(struct fm_movers *m, const char *migration_id, struct fm_error *err);
int fm_movers_abort(struct fm_movers *m, const FM_PB(AbortRequest) * req, FM_PB(AbortResponse) * *ret, struct fm_error *err);

/* "incoming", "outgoing" or NULL for an instance, and whether any migration holds this container (rm must refuse). */
const char *fm_movers_instance_role(struct fm_movers *m, const char *instance);
bool fm_movers_holds(struct fm_movers *m, const char *container);

/* What its moves come to since this agent started, for monitoring: [0] as a source, [1] as a destination. */
struct fm_mover_figures {
	struct {
		uint64_t under_way[FM_DECISION_RELEASED + 1]; /* now, by what their journals have decided */
		uint64_t released, aborted;                   /* that are over */
		uint64_t wire_bytes;                          /* over streams, both directions; those of a push count when it ends */
		uint64_t pages;                               /* of those that are over */
	} role[2];
	uint64_t rounds; /* as a source */
	uint64_t paused; /* now, as a destination */
};
void fm_movers_figures(struct fm_movers *m, struct fm_mover_figures *ret);

/* ids of all movers here, for doctor; *ret: strv */
void fm_movers_ids(struct fm_movers *m, char ***ret);

#endif
