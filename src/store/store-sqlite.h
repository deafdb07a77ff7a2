/* SPDX-License-Identifier: MIT */
/*
 * store-sqlite.h - what the files of the SQLite backend share. Private to src/store.
 *
 *   store-sqlite-conn.c        one connection: statements, transactions, errors
 *   store-sqlite.c             opening: checks of the file, schema, upgrades; closing
 *   store-sqlite-migrations.c  migrations, transitions, log lines
 *   store-sqlite-fleet.c       hosts, containers
 *   store-sqlite-records.c     records of other kinds
 *   store-sqlite-each.c        reading a table of any size in pages
 *
 * Calling sequence of a write, each variable undone at the end of its scope in reverse order (statement reset, roll back unless
 * committed, unlock):
 *
 *   _fm_sq_lock_ struct fm_sqlite *sq = fm_sq_lock(s);
 *   _fm_sq_tx_ struct fm_sq_tx tx = FM_SQ_TX_INIT;
 *   if (fm_sq_begin(&tx, &sq->durable, err) < 0) return -1;
 *   sqlite3_stmt *st = fm_sq_stmt(conn, FM_SQ_X, "SQL", err);   NULL = error
 *   fm_sq_text(st, 1, …); …
 *   if (fm_sq_run(conn, st, err, "doing x") < 0) return -1;
 *   return fm_sq_commit(&tx, err);
 */
#ifndef FM_STORE_STORE_SQLITE_H
#define FM_STORE_STORE_SQLITE_H

#include <pthread.h>
#include <sqlite3.h>

#include "basic/cleanup.h"
#include "store/store-backend.h"

/* Every statement that is kept prepared, one slot each; the text stands where it is used. */
enum fm_sq_slot {
	FM_SQ_BEGIN,
	FM_SQ_COMMIT,
	FM_SQ_ROLLBACK,
	FM_SQ_MIGRATION_ACTIVE,
	FM_SQ_MIGRATION_EXISTS,
	FM_SQ_EPOCH_NEXT,
	FM_SQ_MIGRATION_INSERT,
	FM_SQ_MIGRATION_PRUNE,
	FM_SQ_MIGRATION_STATE,
	FM_SQ_MIGRATION_TRANSITION,
	FM_SQ_TRANSITION_INSERT,
	FM_SQ_MIGRATION_UPDATE,
	FM_SQ_MIGRATION_GET,
	FM_SQ_MIGRATION_LIST,
	FM_SQ_MIGRATION_LIST_ACTIVE,
	FM_SQ_MIGRATION_SEQ,
	FM_SQ_TRANSITION_LIST,
	FM_SQ_EVENT_INSERT,
	FM_SQ_EVENT_PRUNE,
	FM_SQ_EVENT_LIST,
	FM_SQ_HOST_COUNT,
	FM_SQ_HOST_PUT,
	FM_SQ_HOST_EXISTS,
	FM_SQ_CONTAINERS_DELETE,
	FM_SQ_CONTAINER_INSERT,
	FM_SQ_HOST_PAGE,
	FM_SQ_CONTAINER_PAGE,
	FM_SQ_RECORD_PUT,
	FM_SQ_RECORD_PRUNE,
	FM_SQ_RECORD_GET,
	FM_SQ_RECORD_DELETE,
	FM_SQ_RECORD_LIST,
	FM_SQ_RECORD_PAGE,
	FM_SQ_RECORD_FORGET,
	_FM_SQ_SLOT_MAX
};

struct fm_sq_conn {
	sqlite3 *db;
	const char *path; /* for messages; borrowed from struct fm_sqlite */
	sqlite3_stmt *stmts[_FM_SQ_SLOT_MAX];
};

/*
 * Two connections, because synchronous is a property of a connection: durable is FULL, relaxed NORMAL. An in-memory database belongs to its
 * connection, there `relaxed` points to `durable`. One mutex covers both.
 */
struct fm_sqlite {
	struct fm_store store; /* first */
	pthread_mutex_t lock;
	char *path;
	struct fm_sq_conn durable;
	struct fm_sq_conn relaxed_own;
	struct fm_sq_conn *relaxed;
};

/* ------------------------------------------------------------------------------------------------ lock */

static inline struct fm_sqlite *fm_sq_lock(struct fm_store *s)
{
	struct fm_sqlite *sq = (struct fm_sqlite *)s;

	pthread_mutex_lock(&sq->lock);
	return sq;
}
static inline void fm_sq_unlockp(struct fm_sqlite **sq)
{
	int saved = errno;

	if (*sq)
		pthread_mutex_unlock(&(*sq)->lock);
	errno = saved;
}
#define _fm_sq_lock_ _fm_cleanup_(fm_sq_unlockp)

/* ------------------------------------------------------------------------------------------------ statements */

/* The kept statement of that slot, prepared on first use, ready to bind. NULL with *err on failure. */
sqlite3_stmt *fm_sq_stmt(struct fm_sq_conn *c, enum fm_sq_slot slot, const char *sql, struct fm_error *err);

/* Binding cannot fail but by a wrong index (a defect: asserted) or memory (reported by the step). Text and blobs must live until the
 * statement is reset. */
void fm_sq_text(sqlite3_stmt *st, int i, const char *s);     /* NULL = "" */
void fm_sq_text_cut(sqlite3_stmt *st, int i, const char *s); /* at most FM_STORE_MAX_TEXT bytes, whole UTF-8 characters */
void fm_sq_int(sqlite3_stmt *st, int i, int64_t v);
void fm_sq_blob(sqlite3_stmt *st, int i, const void *p, size_t n);

/* 1 = a row is there, 0 = done (and reset), -1 = error (and reset). `what` completes "cannot …". */
int fm_sq_step(struct fm_sq_conn *c, sqlite3_stmt *st, struct fm_error *err, const char *what);
/* Run to the end and reset; the first column of the first row, if any, goes to *ret_value (NULL = not wanted). Returns 1 when there was
 * a row, 0 when not. */
int fm_sq_run_value(struct fm_sq_conn *c, sqlite3_stmt *st, int64_t *ret_value, struct fm_error *err, const char *what);
/* The same for statements without a result: 0 or -1. */
int fm_sq_run(struct fm_sq_conn *c, sqlite3_stmt *st, struct fm_error *err, const char *what);

static inline void fm_sq_resetp(sqlite3_stmt **st)
{
	if (*st) {
		(void)sqlite3_reset(*st);
		(void)sqlite3_clear_bindings(*st);
	}
}
#define _fm_sq_reset_ _fm_cleanup_(fm_sq_resetp)

/* Columns as malloc'ed copies; NULL only out of memory (text) or for zero bytes (blob). */
char *fm_sq_column_text(sqlite3_stmt *st, int i);
int fm_sq_column_blob(sqlite3_stmt *st, int i, void **ret, size_t *ret_n, struct fm_error *err);

/* ------------------------------------------------------------------------------------------------ transactions and errors */

struct fm_sq_tx {
	struct fm_sq_conn *conn;
}; /* conn != NULL: open */
#define FM_SQ_TX_INIT ((struct fm_sq_tx){ 0 })
int fm_sq_begin(struct fm_sq_tx *tx, struct fm_sq_conn *c, struct fm_error *err); /* takes the write lock */
int fm_sq_commit(struct fm_sq_tx *tx, struct fm_error *err);
void fm_sq_rollbackp(struct fm_sq_tx *tx);
#define _fm_sq_tx_ _fm_cleanup_(fm_sq_rollbackp)

/* Fill *err from the connection's last error: "cannot <what> in store '<path>': <reason>". Returns -1. */
int fm_sq_error(struct fm_sq_conn *c, struct fm_error *err, const char *what);
int fm_sq_no_memory(struct fm_error *err);

/*
 * Calls fn for every row of a query on the relaxed connection, without the lock, until it returns non-zero. sql: four columns, a text, a text, a number, a blob, ordered by the two texts, those that come after
 * (?1, ?2), at most ?3. `first`: what ?1 is for the first page; ?2 is then "".
 */
int fm_sq_each(struct fm_store *s, enum fm_sq_slot slot, const char *sql, const char *first, fm_store_blob_fn fn, void *userdata,
               struct fm_error *err);

/* The operations, for the table in store-sqlite.c. */
int fm_sq_migration_create(struct fm_store *s, const struct fm_store_migration *m, uint32_t *ret_epoch, struct fm_error *err);
int fm_sq_migration_transition(struct fm_store *s, int expected, const struct fm_store_migration *m, const char *label, const char *reason,
                               struct fm_error *err);
int fm_sq_migration_update(struct fm_store *s, const struct fm_store_migration *m, struct fm_error *err);
int fm_sq_migration_get(struct fm_store *s, const char *id, struct fm_store_migration *ret, struct fm_error *err);
int fm_sq_migration_list(struct fm_store *s, bool active_only, size_t limit, struct fm_store_migration **ret, size_t *ret_n,
                         struct fm_error *err);
int fm_sq_transition_list(struct fm_store *s, const char *id, struct fm_store_transition **ret, size_t *ret_n, struct fm_error *err);
int fm_sq_event_append(struct fm_store *s, const char *id, const struct fm_store_event *e, uint64_t *ret_seq, struct fm_error *err);
int fm_sq_event_list(struct fm_store *s, const char *id, uint64_t after_seq, size_t limit, struct fm_store_event **ret, size_t *ret_n,
                     struct fm_error *err);
int fm_sq_host_put(struct fm_store *s, const char *name, const void *host, size_t host_len, uint64_t seen_ms, struct fm_error *err);
int fm_sq_containers_put(struct fm_store *s, const char *host, size_t n, const char *const *names, const void *const *blobs,
                         const size_t *lens, struct fm_error *err);
int fm_sq_host_each(struct fm_store *s, fm_store_blob_fn fn, void *userdata, struct fm_error *err);
int fm_sq_container_each(struct fm_store *s, fm_store_blob_fn fn, void *userdata, struct fm_error *err);
int fm_sq_record_put(struct fm_store *s, const char *kind, const char *id, uint64_t at_ms, const void *data, size_t len, bool durable,
                     struct fm_error *err);
int fm_sq_record_get(struct fm_store *s, const char *kind, const char *id, void **ret, size_t *ret_len, struct fm_error *err);
int fm_sq_record_delete(struct fm_store *s, const char *kind, const char *id, struct fm_error *err);
int fm_sq_record_list(struct fm_store *s, const char *kind, size_t limit, struct fm_store_record **ret, size_t *ret_n,
                      struct fm_error *err);
int fm_sq_record_each(struct fm_store *s, const char *kind, fm_store_blob_fn fn, void *userdata, struct fm_error *err);
int fm_sq_record_prune(struct fm_store *s, const char *kind, uint64_t before_ms, struct fm_error *err);

#endif
