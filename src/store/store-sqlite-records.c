/* SPDX-License-Identifier: MIT */
/* store-sqlite-records.c - records of other kinds: a blob by kind and id. A record keeps its place (seq) when it is replaced. */
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "store/store-sqlite.h"

static int drop_oldest(struct fm_sq_conn *c, const char *kind, struct fm_error *err)
{
	sqlite3_stmt *st =
	        fm_sq_stmt(c, FM_SQ_RECORD_PRUNE,
	                   "DELETE FROM records WHERE kind = ?1 AND seq <= (SELECT seq FROM records WHERE kind = ?1 ORDER BY seq DESC"
	                   " LIMIT 1 OFFSET ?2)",
	                   err);

	if (!st)
		return -1;
	fm_sq_text(st, 1, kind);
	fm_sq_int(st, 2, FM_STORE_MAX_RECORDS);
	return fm_sq_run(c, st, err, "drop old records");
}

int fm_sq_record_put(struct fm_store *s, const char *kind, const char *id, uint64_t at_ms, const void *data, size_t len, bool durable,
                     struct fm_error *err)
{
	_fm_sq_lock_ struct fm_sqlite *sq = fm_sq_lock(s);
	_fm_sq_tx_ struct fm_sq_tx tx = FM_SQ_TX_INIT;
	struct fm_sq_conn *c = durable ? &sq->durable : sq->relaxed;
	sqlite3_stmt *st;

	if (fm_sq_begin(&tx, c, err) < 0)
		return -1;
	st = fm_sq_stmt(c, FM_SQ_RECORD_PUT,
	                "INSERT INTO records (kind, id, at_ms, data) VALUES (?1, ?2, ?3, ?4)"
	                " ON CONFLICT (kind, id) DO UPDATE SET at_ms = ?3, data = ?4",
	                err);
	if (!st)
		return -1;
	fm_sq_text(st, 1, kind);
	fm_sq_text(st, 2, id);
	fm_sq_int(st, 3, (int64_t)at_ms);
	fm_sq_blob(st, 4, data, len);
	if (fm_sq_run(c, st, err, "keep a record") < 0 || (durable && drop_oldest(c, kind, err) < 0))
		return -1;
	return fm_sq_commit(&tx, err);
}

int fm_sq_record_get(struct fm_store *s, const char *kind, const char *id, void **ret, size_t *ret_len, struct fm_error *err)
{
	_fm_sq_lock_ struct fm_sqlite *sq = fm_sq_lock(s);
	struct fm_sq_conn *c = &sq->durable;
	_fm_sq_reset_ sqlite3_stmt *st = fm_sq_stmt(c, FM_SQ_RECORD_GET, "SELECT data FROM records WHERE kind = ?1 AND id = ?2", err);
	void *data = NULL;
	int r;

	if (!st)
		return -1;
	fm_sq_text(st, 1, kind);
	fm_sq_text(st, 2, id);
	r = fm_sq_step(c, st, err, "read a record");
	if (r < 0)
		return -1;
	if (r == 0)
		return fm_error_set(err, FM_E_NOT_FOUND, "there is no %s '%s'", kind, id);
	if (fm_sq_column_blob(st, 0, &data, ret_len, err) < 0)
		return -1;
	*ret = data ? data : calloc(1, 1);
	return *ret ? 0 : fm_sq_no_memory(err);
}

int fm_sq_record_delete(struct fm_store *s, const char *kind, const char *id, struct fm_error *err)
{
	_fm_sq_lock_ struct fm_sqlite *sq = fm_sq_lock(s);
	_fm_sq_tx_ struct fm_sq_tx tx = FM_SQ_TX_INIT;
	struct fm_sq_conn *c = &sq->durable;
	sqlite3_stmt *st;

	if (fm_sq_begin(&tx, c, err) < 0)
		return -1;
	st = fm_sq_stmt(c, FM_SQ_RECORD_DELETE, "DELETE FROM records WHERE kind = ?1 AND id = ?2", err);
	if (!st)
		return -1;
	fm_sq_text(st, 1, kind);
	fm_sq_text(st, 2, id);
	if (fm_sq_run(c, st, err, "remove a record") < 0)
		return -1;
	return fm_sq_commit(&tx, err);
}

static int read_one(sqlite3_stmt *st, struct fm_store_record **v, size_t *n, struct fm_error *err)
{
	struct fm_store_record *grown = reallocarray(*v, *n + 1, sizeof(*grown));

	if (!grown)
		return fm_sq_no_memory(err);
	*v = grown;
	struct fm_store_record *r = &grown[(*n)++]; /* counted first: the caller frees what is half read */
	*r = (struct fm_store_record){ .id = fm_sq_column_text(st, 0) };
	if (!r->id)
		return fm_sq_no_memory(err);
	if (fm_sq_column_blob(st, 1, &r->data, &r->len, err) < 0)
		return -1;
	if (!r->data)
		r->data = calloc(1, 1);
	return r->data ? 0 : fm_sq_no_memory(err);
}

int fm_sq_record_list(struct fm_store *s, const char *kind, size_t limit, struct fm_store_record **ret, size_t *ret_n, struct fm_error *err)
{
	_fm_sq_lock_ struct fm_sqlite *sq = fm_sq_lock(s);
	struct fm_sq_conn *c = &sq->durable;
	_fm_sq_reset_ sqlite3_stmt *st =
	        fm_sq_stmt(c, FM_SQ_RECORD_LIST, "SELECT id, data FROM records WHERE kind = ?1 ORDER BY seq DESC LIMIT ?2", err);
	struct fm_store_record *v = NULL;
	size_t n = 0;
	int r;

	if (!st)
		return -1;
	fm_sq_text(st, 1, kind);
	fm_sq_int(st, 2, (int64_t)limit);
	while ((r = fm_sq_step(c, st, err, "list records")) > 0)
		if (read_one(st, &v, &n, err) < 0) {
			r = -1;
			break;
		}
	if (r < 0) {
		fm_store_records_free(v, n);
		return -1;
	}
	*ret = v;
	*ret_n = n;
	return 0;
}

int fm_sq_record_each(struct fm_store *s, const char *kind, fm_store_blob_fn fn, void *userdata, struct fm_error *err)
{
	return fm_sq_each(s, FM_SQ_RECORD_PAGE,
	                  "SELECT kind, id, at_ms, data FROM records WHERE kind = ?1 AND id > ?2 ORDER BY id LIMIT ?3", kind, fn, userdata,
	                  err);
}

int fm_sq_record_prune(struct fm_store *s, const char *kind, uint64_t before_ms, struct fm_error *err)
{
	_fm_sq_lock_ struct fm_sqlite *sq = fm_sq_lock(s);
	struct fm_sq_conn *c = sq->relaxed;
	sqlite3_stmt *st = fm_sq_stmt(c, FM_SQ_RECORD_FORGET, "DELETE FROM records WHERE kind = ?1 AND at_ms < ?2", err);

	if (!st)
		return -1;
	fm_sq_text(st, 1, kind);
	fm_sq_int(st, 2, (int64_t)before_ms);
	return fm_sq_run(c, st, err, "forget old records");
}
