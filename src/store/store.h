/* SPDX-License-Identifier: MIT */
/*
 * store.h - the manager's durable truth.
 *
 * One vtable (store-backend.h: sqlite here; etcd later; "sqlite :memory:" serves tests). Every function is one transaction: when it
 * returns 0 the change is durable (WAL, synchronous=FULL for migrations and transitions; host and container reports are a cache and use
 * NORMAL; log lines use NORMAL too and are therefore durable with the next transition at the latest). When it returns -1 nothing has
 * changed. Functions may be called from any thread; the implementation serialises. Records are plain structs owned by the caller;
 * strings inside are malloc'ed and freed by the *_done functions. Strings read back are never NULL; NULL given means "". A disk that is
 * full gives RESOURCE_EXHAUSTED and changes nothing; a damaged file DATA_LOSS; a file that another process keeps locked for
 * FM_STORE_BUSY_MS UNAVAILABLE. After DATA_LOSS the manager should stop: see docs/STORE.md.
 *
 * Limits: names and ids 1-64 bytes (container, source and destination up to 255, since a malformed request is recorded too), detail 4
 * MiB, a report's blob 1 MiB; beyond them INVALID_ARGUMENT. Free text (path, reason, error message, log line) is cut instead, at a
 * character's boundary. The newest FM_STORE_MAX_MIGRATIONS are kept: older ones that are finished go when a new one is created.
 */
#ifndef FM_STORE_STORE_H
#define FM_STORE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/error.h"

#define FM_STORE_BUSY_MS        5000
#define FM_STORE_MAX_MIGRATIONS 10000
#define FM_STORE_MAX_EVENTS     2000 /* a migration */

struct fm_store;

/* One migration. `detail` is an opaque blob the domain packs (the protobuf Migration): phases, plan, counters; the columns are what is
 * searched. */
struct fm_store_migration {
	char *id;
	char *container;
	char *source;
	char *destination;
	char *strategy;
	int state;            /* enum fm_state */
	char *path;           /* "1N 2N" */
	uint32_t epoch;       /* fencing number, grows per container */
	uint64_t created_ms;  /* real time */
	uint64_t finished_ms; /* 0 = under way */
	int error_code;
	char *error_message;
	void *detail;
	size_t detail_len;
};
void fm_store_migration_done(struct fm_store_migration *m);
void fm_store_migrations_free(struct fm_store_migration *m, size_t n);

struct fm_store_transition {
	int from, to;
	char label[4];
	uint64_t at_ms;
	char *reason;
};
void fm_store_transitions_free(struct fm_store_transition *t, size_t n);

struct fm_store_event {
	uint64_t seq;
	uint64_t at_ms;
	int level;
	char *component;
	char *line;
	int state;
};
void fm_store_events_free(struct fm_store_event *e, size_t n);

/* path: database file (created 0600, its folder must exist), or ":memory:". Checks the file (damaged: DATA_LOSS; another program's
 * database or one that others may write: FAILED_PRECONDITION), and upgrades the schema in one transaction; a newer schema than known is
 * FAILED_PRECONDITION. Several processes may have it open. */
int fm_store_open_sqlite(const char *path, struct fm_store **ret, struct fm_error *err);
void fm_store_close(struct fm_store *s);

/* Create a migration in state m->state (PENDING) unless the container has one under way (ALREADY_EXISTS, naming it). Assigns and returns
 * the next epoch of the container. m->epoch and m->finished_ms are not looked at; created_ms 0 = now. */
int fm_store_migration_create(struct fm_store *s, const struct fm_store_migration *m, uint32_t *ret_epoch, struct fm_error *err);

/* The transition: state, path, history row, finished_ms and detail, in one transaction, only if the stored state is `expected` (else
 * ABORTED) and the migration is not finished (else FAILED_PRECONDITION). m carries the new values: all but container, epoch and
 * created_ms, which never change. finished_ms != 0 needs COMPLETED or FAILED. label may be "". The history row's time is now. */
int fm_store_migration_transition(struct fm_store *s, int expected, const struct fm_store_migration *m, const char *label,
                                  const char *reason, struct fm_error *err);

/* Update detail and error (and nothing else) without a transition; NOT_FOUND. */
int fm_store_migration_update(struct fm_store *s, const struct fm_store_migration *m, struct fm_error *err);
int fm_store_migration_get(struct fm_store *s, const char *id, struct fm_store_migration *ret, struct fm_error *err);
/* newest first; limit 0 = all that are kept */
int fm_store_migration_list(struct fm_store *s, bool active_only, size_t limit, struct fm_store_migration **ret, size_t *ret_n,
                            struct fm_error *err);
int fm_store_transition_list(struct fm_store *s, const char *migration_id, struct fm_store_transition **ret, size_t *ret_n,
                             struct fm_error *err);

/* Log lines of a migration: appended with the next seq (e->seq is not looked at; at_ms 0 = now); at most FM_STORE_MAX_EVENTS kept a
 * migration (then the call succeeds and drops the oldest: the end of a story says why it ended). List: oldest first, limit 0 = all. */
int fm_store_event_append(struct fm_store *s, const char *migration_id, const struct fm_store_event *e, uint64_t *ret_seq,
                          struct fm_error *err);
int fm_store_event_list(struct fm_store *s, const char *migration_id, uint64_t after_seq, size_t limit, struct fm_store_event **ret,
                        size_t *ret_n, struct fm_error *err);

/* Hosts and containers: the last report, as packed protobuf blobs, so that a restarted manager knows its fleet at once. */
int fm_store_host_put(struct fm_store *s, const char *name, const void *host, size_t host_len, uint64_t seen_ms, struct fm_error *err);
/* Replace all containers of a host. names/blobs/lens have n entries. NOT_FOUND when the host was never put. */
int fm_store_containers_put(struct fm_store *s, const char *host, size_t n, const char *const *names, const void *const *blobs,
                            const size_t *lens, struct fm_error *err);
/* For each, in the order of names; seen_ms is the host's. fn returning non-zero stops (success). Called with no lock held: fn may use
 * the store. Read in pages, so that what is changed meanwhile may be seen old or new. `blob` is never NULL. For hosts, host and name are
 * the same. */
typedef int (*fm_store_blob_fn)(void *userdata, const char *host, const char *name, const void *blob, size_t len, uint64_t seen_ms);
int fm_store_host_each(struct fm_store *s, fm_store_blob_fn fn, void *userdata, struct fm_error *err);
int fm_store_container_each(struct fm_store *s, fm_store_blob_fn fn, void *userdata, struct fm_error *err);

/*
 * Small records of other kinds, opaque, by kind ("plan", "cordoned", "usage": 1 to 64 bytes) and id (1 to 255 bytes); data: at most 4 MiB. Each has a time. Two ways to write one, each replaces what is there:
 *   put   what the manager must not lose: durable when it returns; its time is now. Of its kind the newest FM_STORE_MAX_RECORDS are kept (by when they were first put), the oldest go.
 *   keep  what it could do without: durable as reports are; at_ms is the caller's, and so is how many there are: prune.
 * get is NOT_FOUND without one, delete succeeds without one. prune: those of the kind whose time is before that one go.
 */
#define FM_STORE_MAX_RECORDS 4096
int fm_store_record_put(struct fm_store *s, const char *kind, const char *id, const void *data, size_t len, struct fm_error *err);
int fm_store_record_keep(struct fm_store *s, const char *kind, const char *id, uint64_t at_ms, const void *data, size_t len,
                         struct fm_error *err);
int fm_store_record_get(struct fm_store *s, const char *kind, const char *id, void **ret, size_t *ret_len, struct fm_error *err);
int fm_store_record_delete(struct fm_store *s, const char *kind, const char *id, struct fm_error *err);
int fm_store_record_prune(struct fm_store *s, const char *kind, uint64_t before_ms, struct fm_error *err);

/* A whole kind at once, the newest first (by when they were first written); limit 0 = FM_STORE_MAX_RECORDS. */
struct fm_store_record {
	char *id;
	void *data; /* never NULL */
	size_t len;
};
int fm_store_record_list(struct fm_store *s, const char *kind, size_t limit, struct fm_store_record **ret, size_t *ret_n,
                         struct fm_error *err);
void fm_store_records_free(struct fm_store_record *r, size_t n);

/* A kind of any size: one after the other in the order of ids, as fm_store_host_each; `host` is the kind, `name` the id, seen_ms the record's time. */
int fm_store_record_each(struct fm_store *s, const char *kind, fm_store_blob_fn fn, void *userdata, struct fm_error *err);

#endif
