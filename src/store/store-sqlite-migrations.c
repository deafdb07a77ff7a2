/* SPDX-License-Identifier: MIT */
/*
 * store-sqlite-migrations.c - migrations, their transitions and their log lines.
 *
 * Migrations and transitions go through the durable connection. Log lines go through the relaxed one: a line is not worth a disk's flush
 * in the middle of a switch-over, and since both connections append to the same log file, the flush of the next transition covers the
 * lines before it.
 *
 * A transition is guarded twice: by reading the state first (which gives the good message) and by `WHERE state = expected` (which is the
 * law).
 */
#include <stdlib.h>
#include <string.h>

#include "basic/clock.h"
#include "basic/error.h"
#include "store/store-sqlite.h"

#define MIGRATION_COLUMNS                                                                                                                  \
	"id, container, source, destination, strategy, state, path, epoch, created_ms, finished_ms, error_code, error_message, detail"

/* A list under construction, freed with what it holds unless handed over (FM_TAKE_PTR(l.v)). */
struct list {
	void *v;
	size_t n, cap;
};

static void migrations_freep(struct list *l)
{
	fm_store_migrations_free(l->v, l->n);
}

static void transitions_freep(struct list *l)
{
	fm_store_transitions_free(l->v, l->n);
}

static void events_freep(struct list *l)
{
	fm_store_events_free(l->v, l->n);
}

/* One more element, zeroed and counted at once, so that what is half filled is freed too. NULL: out of memory, list unchanged. */
static void *list_add(struct list *l, size_t size)
{
	void *slot;

	if (l->n == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 16;
		void *v = reallocarray(l->v, cap, size);

		if (!v)
			return NULL;
		l->v = v;
		l->cap = cap;
	}
	slot = (char *)l->v + l->n++ * size;
	memset(slot, 0, size);
	return slot;
}

/* ------------------------------------------------------------------------------------------------ create */

static int refuse_active(struct fm_sq_conn *c, const char *container, struct fm_error *err)
{
	_fm_sq_reset_ sqlite3_stmt *st =
	        fm_sq_stmt(c, FM_SQ_MIGRATION_ACTIVE, "SELECT id FROM migrations WHERE container = ?1 AND finished_ms = 0", err);
	int r;

	if (!st)
		return -1;
	fm_sq_text(st, 1, container);
	r = fm_sq_step(c, st, err, "look for a migration under way");
	if (r <= 0)
		return r;
	(void)fm_error_set(err, FM_E_ALREADY_EXISTS, "container '%s' is already being migrated by '%s'", container,
	                   (const char *)sqlite3_column_text(st, 0));
	return fm_error_hint(err, "wait until it is finished, or cancel it");
}

static int refuse_known_id(struct fm_sq_conn *c, const char *id, struct fm_error *err)
{
	sqlite3_stmt *st = fm_sq_stmt(c, FM_SQ_MIGRATION_EXISTS, "SELECT 1 FROM migrations WHERE id = ?1", err);
	int r;

	if (!st)
		return -1;
	fm_sq_text(st, 1, id);
	r = fm_sq_run_value(c, st, NULL, err, "look for a migration");
	return r > 0 ? fm_error_set(err, FM_E_ALREADY_EXISTS, "migration '%s' exists already", id) : r;
}

static int next_epoch(struct fm_sq_conn *c, const char *container, int64_t *ret, struct fm_error *err)
{
	sqlite3_stmt *st = fm_sq_stmt(c, FM_SQ_EPOCH_NEXT,
	                              "INSERT INTO epochs (container, epoch) VALUES (?1, 1)"
	                              " ON CONFLICT (container) DO UPDATE SET epoch = epoch + 1 RETURNING epoch",
	                              err);

	if (!st)
		return -1;
	fm_sq_text(st, 1, container);
	return fm_sq_run_value(c, st, ret, err, "assign an epoch") < 0 ? -1 : 0;
}

static int insert_migration(struct fm_sq_conn *c, const struct fm_store_migration *m, int64_t epoch, struct fm_error *err)
{
	sqlite3_stmt *st = fm_sq_stmt(c, FM_SQ_MIGRATION_INSERT,
	                              "INSERT INTO migrations (" MIGRATION_COLUMNS ")"
	                              " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 0, ?10, ?11, ?12)",
	                              err);

	if (!st)
		return -1;
	fm_sq_text(st, 1, m->id);
	fm_sq_text(st, 2, m->container);
	fm_sq_text(st, 3, m->source);
	fm_sq_text(st, 4, m->destination);
	fm_sq_text(st, 5, m->strategy);
	fm_sq_int(st, 6, m->state);
	fm_sq_text_cut(st, 7, m->path);
	fm_sq_int(st, 8, epoch);
	fm_sq_int(st, 9, (int64_t)(m->created_ms ? m->created_ms : fm_realtime_ms()));
	fm_sq_int(st, 10, m->error_code);
	fm_sq_text_cut(st, 11, m->error_message);
	fm_sq_blob(st, 12, m->detail, m->detail_len);
	return fm_sq_run(c, st, err, "create a migration");
}

/* Requests come from outside, so history has a bound. seq grows by one a migration: no counting. */
static int prune_migrations(struct fm_sq_conn *c, struct fm_error *err)
{
	sqlite3_stmt *st =
	        fm_sq_stmt(c, FM_SQ_MIGRATION_PRUNE,
	                   "DELETE FROM migrations WHERE seq <= (SELECT max(seq) FROM migrations) - ?1 AND finished_ms <> 0", err);

	if (!st)
		return -1;
	fm_sq_int(st, 1, FM_STORE_MAX_MIGRATIONS);
	return fm_sq_run(c, st, err, "drop the oldest history");
}

int fm_sq_migration_create(struct fm_store *s, const struct fm_store_migration *m, uint32_t *ret_epoch, struct fm_error *err)
{
	_fm_sq_lock_ struct fm_sqlite *sq = fm_sq_lock(s);
	_fm_sq_tx_ struct fm_sq_tx tx = FM_SQ_TX_INIT;
	struct fm_sq_conn *c = &sq->durable;
	int64_t epoch = 0;

	if (fm_sq_begin(&tx, c, err) < 0 || refuse_active(c, m->container, err) < 0 || refuse_known_id(c, m->id, err) < 0 ||
	    next_epoch(c, m->container, &epoch, err) < 0 || insert_migration(c, m, epoch, err) < 0 || prune_migrations(c, err) < 0 ||
	    fm_sq_commit(&tx, err) < 0)
		return -1;
	if (ret_epoch)
		*ret_epoch = (uint32_t)epoch;
	return 0;
}

/* ------------------------------------------------------------------------------------------------ transition, update */

static int not_found(const char *id, struct fm_error *err)
{
	(void)fm_error_set(err, FM_E_NOT_FOUND, "no migration '%s'", id);
	return fm_error_hint(err, "list the migrations: only the newest %d are kept", FM_STORE_MAX_MIGRATIONS);
}

/* Is it there, under way, and in the state the caller thinks? *ret_seq: its row. */
static int check_expected(struct fm_sq_conn *c, const char *id, int expected, int64_t *ret_seq, struct fm_error *err)
{
	_fm_sq_reset_ sqlite3_stmt *st =
	        fm_sq_stmt(c, FM_SQ_MIGRATION_STATE, "SELECT seq, state, finished_ms FROM migrations WHERE id = ?1", err);
	int r;

	if (!st)
		return -1;
	fm_sq_text(st, 1, id);
	r = fm_sq_step(c, st, err, "read a migration's state");
	if (r < 0)
		return -1;
	if (r == 0)
		return not_found(id, err);
	if (sqlite3_column_int(st, 1) != expected)
		return fm_error_set(err, FM_E_ABORTED, "migration '%s' is in state %d, not in %d", id, sqlite3_column_int(st, 1), expected);
	if (sqlite3_column_int64(st, 2) != 0)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "migration '%s' is finished", id);
	*ret_seq = sqlite3_column_int64(st, 0);
	return 0;
}

static int write_transition(struct fm_sq_conn *c, int64_t seq, int expected, const struct fm_store_migration *m, struct fm_error *err)
{
	sqlite3_stmt *st =
	        fm_sq_stmt(c, FM_SQ_MIGRATION_TRANSITION,
	                   "UPDATE migrations SET source = ?3, destination = ?4, strategy = ?5, state = ?6, path = ?7, finished_ms = ?8,"
	                   " error_code = ?9, error_message = ?10, detail = ?11"
	                   " WHERE seq = ?1 AND state = ?2 AND finished_ms = 0",
	                   err);

	if (!st)
		return -1;
	fm_sq_int(st, 1, seq);
	fm_sq_int(st, 2, expected);
	fm_sq_text(st, 3, m->source);
	fm_sq_text(st, 4, m->destination);
	fm_sq_text(st, 5, m->strategy);
	fm_sq_int(st, 6, m->state);
	fm_sq_text_cut(st, 7, m->path);
	fm_sq_int(st, 8, (int64_t)m->finished_ms);
	fm_sq_int(st, 9, m->error_code);
	fm_sq_text_cut(st, 10, m->error_message);
	fm_sq_blob(st, 11, m->detail, m->detail_len);
	if (fm_sq_run(c, st, err, "record a transition") < 0)
		return -1;
	if (sqlite3_changes(c->db) != 1)
		return fm_error_set(err, FM_E_ABORTED, "migration '%s' has left state %d", m->id, expected);
	return 0;
}

static int add_history(struct fm_sq_conn *c, int64_t seq, int from, int to, const char *label, const char *reason, struct fm_error *err)
{
	sqlite3_stmt *st = fm_sq_stmt(c, FM_SQ_TRANSITION_INSERT,
	                              "INSERT INTO transitions (migration, from_state, to_state, label, at_ms, reason)"
	                              " VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
	                              err);

	if (!st)
		return -1;
	fm_sq_int(st, 1, seq);
	fm_sq_int(st, 2, from);
	fm_sq_int(st, 3, to);
	fm_sq_text(st, 4, label);
	fm_sq_int(st, 5, (int64_t)fm_realtime_ms());
	fm_sq_text_cut(st, 6, reason);
	return fm_sq_run(c, st, err, "record a transition");
}

int fm_sq_migration_transition(struct fm_store *s, int expected, const struct fm_store_migration *m, const char *label, const char *reason,
                               struct fm_error *err)
{
	_fm_sq_lock_ struct fm_sqlite *sq = fm_sq_lock(s);
	_fm_sq_tx_ struct fm_sq_tx tx = FM_SQ_TX_INIT;
	struct fm_sq_conn *c = &sq->durable;
	int64_t seq = 0;

	if (fm_sq_begin(&tx, c, err) < 0 || check_expected(c, m->id, expected, &seq, err) < 0 ||
	    write_transition(c, seq, expected, m, err) < 0 || add_history(c, seq, expected, m->state, label, reason, err) < 0)
		return -1;
	return fm_sq_commit(&tx, err);
}

int fm_sq_migration_update(struct fm_store *s, const struct fm_store_migration *m, struct fm_error *err)
{
	_fm_sq_lock_ struct fm_sqlite *sq = fm_sq_lock(s);
	_fm_sq_tx_ struct fm_sq_tx tx = FM_SQ_TX_INIT;
	struct fm_sq_conn *c = &sq->durable;
	sqlite3_stmt *st;

	if (fm_sq_begin(&tx, c, err) < 0)
		return -1;
	st = fm_sq_stmt(c, FM_SQ_MIGRATION_UPDATE, "UPDATE migrations SET error_code = ?2, error_message = ?3, detail = ?4 WHERE id = ?1",
	                err);
	if (!st)
		return -1;
	fm_sq_text(st, 1, m->id);
	fm_sq_int(st, 2, m->error_code);
	fm_sq_text_cut(st, 3, m->error_message);
	fm_sq_blob(st, 4, m->detail, m->detail_len);
	if (fm_sq_run(c, st, err, "update a migration") < 0)
		return -1;
	if (sqlite3_changes(c->db) != 1)
		return not_found(m->id, err);
	return fm_sq_commit(&tx, err);
}

/* ------------------------------------------------------------------------------------------------ reading */

/* *m is zeroed; on failure it holds what was read so far and is the caller's to free. */
static int read_migration(sqlite3_stmt *st, struct fm_store_migration *m, struct fm_error *err)
{
	m->id = fm_sq_column_text(st, 0);
	m->container = fm_sq_column_text(st, 1);
	m->source = fm_sq_column_text(st, 2);
	m->destination = fm_sq_column_text(st, 3);
	m->strategy = fm_sq_column_text(st, 4);
	m->state = sqlite3_column_int(st, 5);
	m->path = fm_sq_column_text(st, 6);
	m->epoch = (uint32_t)sqlite3_column_int64(st, 7);
	m->created_ms = (uint64_t)sqlite3_column_int64(st, 8);
	m->finished_ms = (uint64_t)sqlite3_column_int64(st, 9);
	m->error_code = sqlite3_column_int(st, 10);
	m->error_message = fm_sq_column_text(st, 11);
	if (!m->id || !m->container || !m->source || !m->destination || !m->strategy || !m->path || !m->error_message)
		return fm_sq_no_memory(err);
	return fm_sq_column_blob(st, 12, &m->detail, &m->detail_len, err);
}

int fm_sq_migration_get(struct fm_store *s, const char *id, struct fm_store_migration *ret, struct fm_error *err)
{
	_fm_sq_lock_ struct fm_sqlite *sq = fm_sq_lock(s);
	struct fm_sq_conn *c = &sq->durable;
	_fm_sq_reset_ sqlite3_stmt *st =
	        fm_sq_stmt(c, FM_SQ_MIGRATION_GET, "SELECT " MIGRATION_COLUMNS " FROM migrations WHERE id = ?1", err);
	struct fm_store_migration m = { 0 };
	int r;

	if (!st)
		return -1;
	fm_sq_text(st, 1, id);
	r = fm_sq_step(c, st, err, "read a migration");
	if (r <= 0)
		return r < 0 ? -1 : not_found(id, err);
	if (read_migration(st, &m, err) < 0) {
		fm_store_migration_done(&m);
		return -1;
	}
	*ret = m;
	return 0;
}

int fm_sq_migration_list(struct fm_store *s, bool active_only, size_t limit, struct fm_store_migration **ret, size_t *ret_n,
                         struct fm_error *err)
{
	_fm_sq_lock_ struct fm_sqlite *sq = fm_sq_lock(s);
	_fm_cleanup_(migrations_freep) struct list l = { 0 };
	struct fm_sq_conn *c = &sq->durable;
	_fm_sq_reset_ sqlite3_stmt *st = NULL;
	int r;

	/* Two statements, because only the second can use the index of unfinished ones. */
	if (!active_only)
		st = fm_sq_stmt(c, FM_SQ_MIGRATION_LIST, "SELECT " MIGRATION_COLUMNS " FROM migrations ORDER BY seq DESC LIMIT ?1", err);
	else
		st = fm_sq_stmt(c, FM_SQ_MIGRATION_LIST_ACTIVE,
		                "SELECT " MIGRATION_COLUMNS " FROM migrations WHERE finished_ms = 0 ORDER BY seq DESC LIMIT ?1", err);
	if (!st)
		return -1;
	fm_sq_int(st, 1, (int64_t)limit);
	while ((r = fm_sq_step(c, st, err, "list migrations")) > 0) {
		struct fm_store_migration *m = list_add(&l, sizeof(*m));

		if (!m)
			return fm_sq_no_memory(err);
		if (read_migration(st, m, err) < 0)
			return -1;
	}
	if (r < 0)
		return -1;
	*ret = FM_TAKE_PTR(l.v);
	*ret_n = l.n;
	return 0;
}

/* An unknown migration has an empty list too; say which it is. *ret_seq: its row. */
static int find_migration(struct fm_sq_conn *c, const char *id, int64_t *ret_seq, struct fm_error *err)
{
	sqlite3_stmt *st = fm_sq_stmt(c, FM_SQ_MIGRATION_SEQ, "SELECT seq FROM migrations WHERE id = ?1", err);
	int r;

	if (!st)
		return -1;
	fm_sq_text(st, 1, id);
	r = fm_sq_run_value(c, st, ret_seq, err, "look for a migration");
	return r == 0 ? not_found(id, err) : r;
}

int fm_sq_transition_list(struct fm_store *s, const char *id, struct fm_store_transition **ret, size_t *ret_n, struct fm_error *err)
{
	_fm_sq_lock_ struct fm_sqlite *sq = fm_sq_lock(s);
	_fm_cleanup_(transitions_freep) struct list l = { 0 };
	struct fm_sq_conn *c = &sq->durable;
	_fm_sq_reset_ sqlite3_stmt *st = NULL;
	int64_t seq = 0;
	int r;

	if (find_migration(c, id, &seq, err) < 0)
		return -1;
	st = fm_sq_stmt(c, FM_SQ_TRANSITION_LIST,
	                "SELECT from_state, to_state, label, at_ms, reason FROM transitions WHERE migration = ?1 ORDER BY seq", err);
	if (!st)
		return -1;
	fm_sq_int(st, 1, seq);
	while ((r = fm_sq_step(c, st, err, "list transitions")) > 0) {
		struct fm_store_transition *t = list_add(&l, sizeof(*t));

		if (!t)
			return fm_sq_no_memory(err);
		t->from = sqlite3_column_int(st, 0);
		t->to = sqlite3_column_int(st, 1);
		(void)snprintf(t->label, sizeof(t->label), "%s", (const char *)sqlite3_column_text(st, 2));
		t->at_ms = (uint64_t)sqlite3_column_int64(st, 3);
		t->reason = fm_sq_column_text(st, 4);
		if (!t->reason)
			return fm_sq_no_memory(err);
	}
	if (r < 0)
		return -1;
	*ret = FM_TAKE_PTR(l.v);
	*ret_n = l.n;
	return 0;
}

/* ------------------------------------------------------------------------------------------------ log lines */

static int insert_event(struct fm_sq_conn *c, int64_t migration, const struct fm_store_event *e, int64_t *ret_seq, struct fm_error *err)
{
	sqlite3_stmt *st =
	        fm_sq_stmt(c, FM_SQ_EVENT_INSERT,
	                   "INSERT INTO events (migration, seq, at_ms, level, component, line, state)"
	                   " VALUES (?1, (SELECT coalesce(max(seq), 0) + 1 FROM events WHERE migration = ?1), ?2, ?3, ?4, ?5, ?6)"
	                   " RETURNING seq",
	                   err);

	if (!st)
		return -1;
	fm_sq_int(st, 1, migration);
	fm_sq_int(st, 2, (int64_t)(e->at_ms ? e->at_ms : fm_realtime_ms()));
	fm_sq_int(st, 3, e->level);
	fm_sq_text(st, 4, e->component);
	fm_sq_text_cut(st, 5, e->line);
	fm_sq_int(st, 6, e->state);
	return fm_sq_run_value(c, st, ret_seq, err, "keep a log line") < 0 ? -1 : 0;
}

static int prune_events(struct fm_sq_conn *c, int64_t migration, int64_t newest, struct fm_error *err)
{
	sqlite3_stmt *st;

	if (newest <= FM_STORE_MAX_EVENTS)
		return 0;
	st = fm_sq_stmt(c, FM_SQ_EVENT_PRUNE, "DELETE FROM events WHERE migration = ?1 AND seq <= ?2", err);
	if (!st)
		return -1;
	fm_sq_int(st, 1, migration);
	fm_sq_int(st, 2, newest - FM_STORE_MAX_EVENTS);
	return fm_sq_run(c, st, err, "drop the oldest log lines");
}

int fm_sq_event_append(struct fm_store *s, const char *id, const struct fm_store_event *e, uint64_t *ret_seq, struct fm_error *err)
{
	_fm_sq_lock_ struct fm_sqlite *sq = fm_sq_lock(s);
	_fm_sq_tx_ struct fm_sq_tx tx = FM_SQ_TX_INIT;
	struct fm_sq_conn *c = sq->relaxed;
	int64_t migration = 0, seq = 0;

	if (fm_sq_begin(&tx, c, err) < 0 || find_migration(c, id, &migration, err) < 0 || insert_event(c, migration, e, &seq, err) < 0 ||
	    prune_events(c, migration, seq, err) < 0 || fm_sq_commit(&tx, err) < 0)
		return -1;
	if (ret_seq)
		*ret_seq = (uint64_t)seq;
	return 0;
}

static int read_event(sqlite3_stmt *st, struct fm_store_event *e, struct fm_error *err)
{
	e->seq = (uint64_t)sqlite3_column_int64(st, 0);
	e->at_ms = (uint64_t)sqlite3_column_int64(st, 1);
	e->level = sqlite3_column_int(st, 2);
	e->component = fm_sq_column_text(st, 3);
	e->line = fm_sq_column_text(st, 4);
	e->state = sqlite3_column_int(st, 5);
	return e->component && e->line ? 0 : fm_sq_no_memory(err);
}

int fm_sq_event_list(struct fm_store *s, const char *id, uint64_t after_seq, size_t limit, struct fm_store_event **ret, size_t *ret_n,
                     struct fm_error *err)
{
	_fm_sq_lock_ struct fm_sqlite *sq = fm_sq_lock(s);
	_fm_cleanup_(events_freep) struct list l = { 0 };
	struct fm_sq_conn *c = sq->relaxed;
	_fm_sq_reset_ sqlite3_stmt *st = NULL;
	int64_t migration = 0;
	int r;

	if (find_migration(c, id, &migration, err) < 0)
		return -1;
	st = fm_sq_stmt(
	        c, FM_SQ_EVENT_LIST,
	        "SELECT seq, at_ms, level, component, line, state FROM events WHERE migration = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
	        err);
	if (!st)
		return -1;
	fm_sq_int(st, 1, migration);
	fm_sq_int(st, 2, (int64_t)after_seq);
	fm_sq_int(st, 3, (int64_t)limit);
	while ((r = fm_sq_step(c, st, err, "list log lines")) > 0) {
		struct fm_store_event *e = list_add(&l, sizeof(*e));

		if (!e)
			return fm_sq_no_memory(err);
		if (read_event(st, e, err) < 0)
			return -1;
	}
	if (r < 0)
		return -1;
	*ret = FM_TAKE_PTR(l.v);
	*ret_n = l.n;
	return 0;
}
