/* SPDX-License-Identifier: MIT */
/*
 * store-sqlite-conn.c - one SQLite connection: kept statements, transactions, and SQLite's results as our errors.
 *
 * Writes open with BEGIN IMMEDIATE: the write lock is taken before anything is read, so that a check and the write that depends on it
 * cannot be separated by another process, and waiting is done by the busy handler instead of failing half-way with "database is locked".
 * A commit that fails is rolled back at once: a transaction never outlives its function.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "store/store-sqlite.h"

/* ------------------------------------------------------------------------------------------------ errors */

static bool is_space_errno(int e)
{
	return e == ENOSPC || e == EDQUOT;
}

static enum fm_code code_of(int extended, int sys_errno)
{
	/* Every place where a full disk shows, also the shared index of the log, which SQLite reports as an i/o error. */
	if ((extended & 0xff) == SQLITE_IOERR && is_space_errno(sys_errno))
		return FM_E_RESOURCE_EXHAUSTED;
	switch (extended & 0xff) {
	case SQLITE_FULL:
	case SQLITE_NOMEM:
	case SQLITE_TOOBIG:
		return FM_E_RESOURCE_EXHAUSTED;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return FM_E_UNAVAILABLE;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return FM_E_DATA_LOSS;
	case SQLITE_READONLY:
	case SQLITE_PERM:
	case SQLITE_AUTH:
		return FM_E_PERMISSION_DENIED;
	case SQLITE_CANTOPEN:
		return sys_errno == EACCES || sys_errno == EPERM ? FM_E_PERMISSION_DENIED : FM_E_FAILED_PRECONDITION;
	default:
		return FM_E_INTERNAL;
	}
}

static void add_hint(struct fm_error *err, enum fm_code code, const char *path)
{
	if (code == FM_E_RESOURCE_EXHAUSTED)
		(void)fm_error_hint(err, "free space on the file system of '%s' and ask again; nothing was changed", path);
	else if (code == FM_E_DATA_LOSS)
		(void)fm_error_hint(err, "stop the manager, keep a copy of the file, restore a backup: docs/STORE.md");
	else if (code == FM_E_UNAVAILABLE)
		(void)fm_error_hint(err, "another process keeps it locked (a second manager, a backup?): `fuser %s`", path);
	else if (code == FM_E_PERMISSION_DENIED)
		(void)fm_error_hint(err, "the manager must own '%s', its -wal and -shm files and be able to write their folder", path);
}

int fm_sq_error(struct fm_sq_conn *c, struct fm_error *err, const char *what)
{
	int extended = c->db ? sqlite3_extended_errcode(c->db) : SQLITE_NOMEM;
	int primary = extended & 0xff;
	int sys = primary == SQLITE_IOERR || primary == SQLITE_CANTOPEN || primary == SQLITE_FULL ? sqlite3_system_errno(c->db) : 0;
	enum fm_code code = code_of(extended, sys);
	const char *text = c->db ? sqlite3_errmsg(c->db) : "out of memory";
	char sys_text[96] = "";

	if (sys) {
		char buf[80];

		(void)snprintf(sys_text, sizeof(sys_text), " (%s)", strerror_r(sys, buf, sizeof(buf)));
	}
	(void)fm_error_set(err, code, "cannot %s in store '%s': %s%s [sqlite %d]", what, c->path, text, sys_text, extended);
	if (err) {
		err->sys_errno = sys;
		add_hint(err, code, c->path);
	}
	return -1;
}

int fm_sq_no_memory(struct fm_error *err)
{
	return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "store: out of memory");
}

/* ------------------------------------------------------------------------------------------------ statements */

sqlite3_stmt *fm_sq_stmt(struct fm_sq_conn *c, enum fm_sq_slot slot, const char *sql, struct fm_error *err)
{
	sqlite3_stmt **st = &c->stmts[slot];

	if (!*st && sqlite3_prepare_v3(c->db, sql, -1, SQLITE_PREPARE_PERSISTENT, st, NULL) != SQLITE_OK) {
		(void)fm_sq_error(c, err, "prepare a statement");
		return NULL;
	}
	return *st;
}

static void check_bound(int rc)
{
	assert(rc != SQLITE_RANGE && rc != SQLITE_MISUSE);
	(void)rc;
}

void fm_sq_text(sqlite3_stmt *st, int i, const char *s)
{
	check_bound(sqlite3_bind_text(st, i, s ? s : "", -1, SQLITE_STATIC));
}

/* Cut before `max` without splitting a UTF-8 character: protobuf refuses half ones, and a refused history is worse than a short one. */
static size_t cut_length(const char *s, size_t max)
{
	size_t n = strnlen(s, max + 1);

	if (n <= max)
		return n;
	n = max;
	while (n > 0 && ((unsigned char)s[n] & 0xc0) == 0x80)
		n--;
	return n;
}

void fm_sq_text_cut(sqlite3_stmt *st, int i, const char *s)
{
	if (!s)
		s = "";
	check_bound(sqlite3_bind_text(st, i, s, (int)cut_length(s, FM_STORE_MAX_TEXT), SQLITE_STATIC));
}

void fm_sq_int(sqlite3_stmt *st, int i, int64_t v)
{
	check_bound(sqlite3_bind_int64(st, i, v));
}

void fm_sq_blob(sqlite3_stmt *st, int i, const void *p, size_t n)
{
	/* A NULL pointer would bind NULL, which the schema refuses. */
	if (n == 0)
		check_bound(sqlite3_bind_zeroblob(st, i, 0));
	else
		check_bound(sqlite3_bind_blob64(st, i, p, n, SQLITE_STATIC));
}

int fm_sq_step(struct fm_sq_conn *c, sqlite3_stmt *st, struct fm_error *err, const char *what)
{
	int rc = sqlite3_step(st);
	int ret = 0;

	if (rc == SQLITE_ROW)
		return 1;
	if (rc != SQLITE_DONE)
		ret = fm_sq_error(c, err, what); /* before the reset, which may forget the reason */
	(void)sqlite3_reset(st);
	(void)sqlite3_clear_bindings(st);
	return ret;
}

int fm_sq_run_value(struct fm_sq_conn *c, sqlite3_stmt *st, int64_t *ret_value, struct fm_error *err, const char *what)
{
	int64_t value = 0;
	int rows = 0, r;

	while ((r = fm_sq_step(c, st, err, what)) > 0)
		if (rows++ == 0)
			value = sqlite3_column_int64(st, 0);
	if (r < 0)
		return -1;
	if (rows > 0 && ret_value)
		*ret_value = value;
	return rows > 0;
}

int fm_sq_run(struct fm_sq_conn *c, sqlite3_stmt *st, struct fm_error *err, const char *what)
{
	return fm_sq_run_value(c, st, NULL, err, what) < 0 ? -1 : 0;
}

char *fm_sq_column_text(sqlite3_stmt *st, int i)
{
	const char *s = (const char *)sqlite3_column_text(st, i);

	return s ? strdup(s) : NULL;
}

int fm_sq_column_blob(sqlite3_stmt *st, int i, void **ret, size_t *ret_n, struct fm_error *err)
{
	const void *p = sqlite3_column_blob(st, i); /* before _bytes: SQLite's order */
	int n = sqlite3_column_bytes(st, i);
	void *copy = NULL;

	if (n > 0) {
		copy = p ? malloc((size_t)n) : NULL;
		if (!copy)
			return fm_sq_no_memory(err);
		memcpy(copy, p, (size_t)n);
	}
	*ret = copy;
	*ret_n = n > 0 ? (size_t)n : 0;
	return 0;
}

/* ------------------------------------------------------------------------------------------------ transactions */

static int roll_back(struct fm_sq_conn *c, struct fm_error *err)
{
	sqlite3_stmt *st = fm_sq_stmt(c, FM_SQ_ROLLBACK, "ROLLBACK", err);

	return st ? fm_sq_run(c, st, err, "roll back") : -1;
}

int fm_sq_begin(struct fm_sq_tx *tx, struct fm_sq_conn *c, struct fm_error *err)
{
	sqlite3_stmt *st = fm_sq_stmt(c, FM_SQ_BEGIN, "BEGIN IMMEDIATE", err);

	/* The way out is prepared before the way in: it is needed when memory or disk are short. */
	if (!st || !fm_sq_stmt(c, FM_SQ_COMMIT, "COMMIT", err) || !fm_sq_stmt(c, FM_SQ_ROLLBACK, "ROLLBACK", err))
		return -1;
	if (!sqlite3_get_autocommit(c->db) && roll_back(c, err) < 0)
		return -1;
	if (fm_sq_run(c, st, err, "begin a transaction") < 0)
		return -1;
	tx->conn = c;
	return 0;
}

int fm_sq_commit(struct fm_sq_tx *tx, struct fm_error *err)
{
	sqlite3_stmt *st = fm_sq_stmt(tx->conn, FM_SQ_COMMIT, "COMMIT", err);

	if (!st || fm_sq_run(tx->conn, st, err, "commit") < 0)
		return -1; /* fm_sq_rollbackp ends it */
	tx->conn = NULL;
	return 0;
}

void fm_sq_rollbackp(struct fm_sq_tx *tx)
{
	int saved = errno;

	/* Some failures (disk full, i/o) have rolled back already. Should it fail, the next fm_sq_begin tries again. */
	if (tx->conn && !sqlite3_get_autocommit(tx->conn->db))
		(void)roll_back(tx->conn, NULL);
	tx->conn = NULL;
	errno = saved;
}
