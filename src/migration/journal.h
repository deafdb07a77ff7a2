/* SPDX-License-Identifier: MIT */
/*
 * journal.h - an agent's durable memory of one migration: what it intends to do outside (so that it can be undone), and what was decided.
 *
 * One file per migration and role, JSON lines, append-only: {"k": kind, …}. An intent is written *before* its effect; undoing reads them backwards and every undo is
 * idempotent. Decisions that other hosts act on are fsync'ed before they take effect. A torn last line (crash in the middle of a write) is ignored: what it announced has not been done.
 * Files: <dir>/<migration>.<role>.journal. Single writer, any thread (internal lock).
 */
#ifndef FM_MIGRATION_JOURNAL_H
#define FM_MIGRATION_JOURNAL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/error.h"

enum fm_decision {
	FM_DECISION_UNKNOWN = 0,
	FM_DECISION_PREPARED = 1,
	FM_DECISION_FROZEN = 2,
	FM_DECISION_RESTORED = 3,
	FM_DECISION_COMMITTED = 4,
	FM_DECISION_ABORTED = 5,
	FM_DECISION_RELEASED = 6
};
const char *fm_decision_to_string(enum fm_decision d);

struct fm_journal;

/* Create (ALREADY_EXISTS if there is one) with a head record; durable. head is stolen. */
int fm_journal_create(const char *dir, const char *migration_id, const char *role, json_t *head, struct fm_journal **ret,
                      struct fm_error *err);
/* Open an existing one and read it. NOT_FOUND: it is there without its first record, so nothing has been done in its name yet. */
int fm_journal_open(const char *dir, const char *file, struct fm_journal **ret, struct fm_error *err);
void fm_journal_free(struct fm_journal *j);
/* Delete the file: the migration is forgotten here. Durable. What was decided can still be asked for, but nothing else: what fm_journal_head and _get gave is gone. */
int fm_journal_remove(struct fm_journal *j, struct fm_error *err);

/* Record that `what` (e.g. "netns") with `arg` is about to be done. Not fsync'ed unless durable: after a crash of the process the page cache is still there; after a crash of the
 * host so are none of the effects (namespaces, mounts, processes) - except files, whose intents are durable. */
int fm_journal_intent(struct fm_journal *j, const char *what, const char *arg, bool durable, struct fm_error *err);
/* The effect was undone (or given to somebody else): not to be undone again. */
int fm_journal_forget(struct fm_journal *j, const char *what, struct fm_error *err);
/* A named fact worth keeping ("stream_address", "root_pid"). */
int fm_journal_note(struct fm_journal *j, const char *key, const char *value, struct fm_error *err);
/* COMMITTED, ABORTED and RELEASED are fsync'ed before it returns; the others only survive the process. */
int fm_journal_decide(struct fm_journal *j, enum fm_decision d, bool ran, struct fm_error *err);
/* Decide ABORTED. A journal without COMMITTED reads as aborted anyway: then a disk that is full is not in the way of undoing. */
int fm_journal_abort(struct fm_journal *j, struct fm_error *err);

enum fm_decision fm_journal_decision(struct fm_journal *j);
bool fm_journal_ran(struct fm_journal *j);
const char *fm_journal_head(struct fm_journal *j, const char *key); /* string member of the head, NULL if absent; valid while j lives */
const char *fm_journal_get(struct fm_journal *j, const char *key);  /* last note, NULL if absent; valid until the next note of that key */
/* Pending intents, newest first: fn returns 0 to mark it undone, -1 to keep it and go on with the others. Returns -1 if any failed (first error kept). */
typedef int (*fm_journal_undo_fn)(void *userdata, const char *what, const char *arg, struct fm_error *err);
int fm_journal_undo(struct fm_journal *j, fm_journal_undo_fn fn, void *userdata, struct fm_error *err);

#endif
