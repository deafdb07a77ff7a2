/* SPDX-License-Identifier: MIT */
/*
 * stub.h - what a host keeps in place for the old flows of a container that has left, until the last one has ended.
 *
 * A stub is a list of redirections (redirect.h) that have been carried out, with what undoes each, and the addresses whose flows need them: a publication on this host's address, a tunnel to the new host. Each is one
 * file of JSON in a folder, written durably before fm_stubs_add returns; until then the redirections belong to the migration's journal, from then on to the stub. So one record always says who undoes them.
 *
 *   {"stub":1, "id":"m-3f9a61c2b07d", "created_ms":1764150000000, "addresses":["10.78.0.100"], "flows":"translated", "grace_ms":10000, "max_age_ms":86400000,
 *    "actions":[{"action":{"driver":"dnat",…},"undo":{…}},…]}
 *
 * until: "flows" (or nothing): the last flow, as said above; "leaves": a publication of a container that is here, which goes with it: no step looks at it, whoever knows that the container has left retires it.
 *
 * flows: "all" flows of the addresses count, or only those "translated" by this host (a publication without a tunnel: flows that only pass through this host are not its own). grace_ms (default 10 s): how long there
 * must have been none. max_age_ms (default 24 h; 0: none): after that the stub goes with flows or without, because a client that vanished looks alive for days. created_ms: Unix time, set by fm_stubs_add when missing.
 *
 * Calling sequence: load once at the agent's start, step every few seconds (it goes through the whole connection tracking table), add at a release, retire when the container comes back. In the network namespace of the host. Step is one thread's; the others are for any thread, and wait for no step: only who
 * retires a stub that is just being reverted waits for that, until its deadline. A crash in the middle of
 * anything leaves the record, and reverting is idempotent; after a restart a grace begins again. When it cannot be known whether there are flows, the stub stays.
 */
#ifndef FM_NETWORK_STUB_H
#define FM_NETWORK_STUB_H

#include <jansson.h>

#include "network/conntrack.h"
#include "network/redirect.h"

#define FM_STUB_GRACE_MS   10000
#define FM_STUB_MAX_AGE_MS 86400000

struct fm_stubs;

/* Makes the folder (mode 0700). damaged: called for each record that cannot be read, with why; the file stays where it is, for an operator. RESOURCE_EXHAUSTED when there are more than FM_MAX_STUBS. */
int fm_stubs_load(const char *folder, void (*damaged)(const char *file, const struct fm_error *why, void *userdata), void *userdata,
                  struct fm_stubs **ret, struct fm_error *err);
void fm_stubs_free(struct fm_stubs *s); /* the records stay */
FM_DEFINE_CLEANUP(struct fm_stubs *, fm_stubs_free);
#define _fm_stubs_ _fm_cleanup_(fm_stubs_freep)

/* INVALID_ARGUMENT names the member. The same record again is success, another one with its id ALREADY_EXISTS. */
int fm_stubs_add(struct fm_stubs *s, const json_t *record, struct fm_error *err);
size_t fm_stubs_count(struct fm_stubs *s);
/* All records, an array to be given back (json_decref) and not changed. */
json_t *fm_stubs_records(struct fm_stubs *s);

struct fm_stubs_step {
	struct fm_redirect_call call;   /* for each revert; deadline_ms is that of the whole step */
	struct fm_conntrack *conntrack; /* NULL: flows are not looked at, only the counters */
	/* How many packets an action has passed since whenever (a tunnel's counters): what grows is a flow. 0: knows, *ret set; 1: does not know such actions; -1: failed. May be NULL. */
	int (*counter)(const json_t *action, const json_t *undo, uint64_t *ret, void *userdata, struct fm_error *err);
	/* A stub has gone. May be NULL. */
	void (*retired)(const char *id, const char *why, void *userdata);
	void *userdata;
};
/* Looks at each stub, and reverts and deletes those that are due. All are looked at, also when one fails; the first failure is the result, and is tried again with the next step. */
int fm_stubs_step(struct fm_stubs *s, const struct fm_stubs_step *how, struct fm_error *err);
/* Now, whatever flows there are. NOT_FOUND when there is no such stub. */
int fm_stubs_retire(struct fm_stubs *s, const char *id, const struct fm_redirect_call *call, struct fm_error *err);

#endif
