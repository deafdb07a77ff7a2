/* SPDX-License-Identifier: MIT */
/*
 * store-sqlite-fleet.c - hosts and containers: the last reports, a cache on the relaxed connection; and what parts of the manager keep there, too.
 *
 * Reading hands rows to a callback that may want the store itself. So rows are copied out in pages of PAGE_ROWS under the
 * lock, and the callback runs without it; the next page starts after the last name seen, whatever has changed in between.
 */
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "basic/limits.h"
#include "store/store-sqlite.h"

#define PAGE_ROWS 64

struct row {
	char *host, *name;
	void *blob;
	size_t len;
	uint64_t seen_ms;
};
struct page {
	struct row rows[PAGE_ROWS];
	size_t n;
};

static void page_clear(struct page *p)
{
	for (size_t i = 0; i < p->n; i++) {
		free(p->rows[i].host);
		free(p->rows[i].name);
		free(p->rows[i].blob);
	}
	p->n = 0;
}

/* ------------------------------------------------------------------------------------------------ writing */

static int host_exists(struct fm_sq_conn *c, const char *name, struct fm_error *err)
{
	sqlite3_stmt *st = fm_sq_stmt(c, FM_SQ_HOST_EXISTS, "SELECT 1 FROM hosts WHERE name = ?1", err);

	if (!st)
		return -1;
	fm_sq_text(st, 1, name);
	return fm_sq_run_value(c, st, NULL, err, "look for a host");
}

static int check_room_for_host(struct fm_sq_conn *c, const char *name, struct fm_error *err)
{
	sqlite3_stmt *st;
	int64_t count = 0;
	int r = host_exists(c, name, err);

	if (r != 0)
		return r < 0 ? -1 : 0;
	st = fm_sq_stmt(c, FM_SQ_HOST_COUNT, "SELECT count(*) FROM hosts", err);
	if (!st || fm_sq_run_value(c, st, &count, err, "count hosts") < 0)
		return -1;
	if (count >= FM_MAX_HOSTS)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "host '%s' is one more than the %d that are kept", name, FM_MAX_HOSTS);
	return 0;
}

int fm_sq_host_put(struct fm_store *s, const char *name, const void *host, size_t host_len, uint64_t seen_ms, struct fm_error *err)
{
	_fm_sq_lock_ struct fm_sqlite *sq = fm_sq_lock(s);
	_fm_sq_tx_ struct fm_sq_tx tx = FM_SQ_TX_INIT;
	struct fm_sq_conn *c = sq->relaxed;
	sqlite3_stmt *st;

	if (fm_sq_begin(&tx, c, err) < 0 || check_room_for_host(c, name, err) < 0)
		return -1;
	st = fm_sq_stmt(c, FM_SQ_HOST_PUT,
	                "INSERT INTO hosts (name, seen_ms, report) VALUES (?1, ?2, ?3)"
	                " ON CONFLICT (name) DO UPDATE SET seen_ms = ?2, report = ?3",
	                err);
	if (!st)
		return -1;
	fm_sq_text(st, 1, name);
	fm_sq_int(st, 2, (int64_t)seen_ms);
	fm_sq_blob(st, 3, host, host_len);
	if (fm_sq_run(c, st, err, "keep a host's report") < 0)
		return -1;
	return fm_sq_commit(&tx, err);
}

static int delete_containers(struct fm_sq_conn *c, const char *host, struct fm_error *err)
{
	sqlite3_stmt *st = fm_sq_stmt(c, FM_SQ_CONTAINERS_DELETE, "DELETE FROM containers WHERE host = ?1", err);

	if (!st)
		return -1;
	fm_sq_text(st, 1, host);
	return fm_sq_run(c, st, err, "replace a host's containers");
}

static int insert_container(struct fm_sq_conn *c, const char *host, const char *name, const void *blob, size_t len, struct fm_error *err)
{
	sqlite3_stmt *st = fm_sq_stmt(c, FM_SQ_CONTAINER_INSERT,
	                              "INSERT INTO containers (host, name, report) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING", err);

	if (!st)
		return -1;
	fm_sq_text(st, 1, host);
	fm_sq_text(st, 2, name);
	fm_sq_blob(st, 3, blob, len);
	if (fm_sq_run(c, st, err, "keep a container's report") < 0)
		return -1;
	if (sqlite3_changes(c->db) != 1)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "host '%s' reports container '%s' twice", host, name);
	return 0;
}

int fm_sq_containers_put(struct fm_store *s, const char *host, size_t n, const char *const *names, const void *const *blobs,
                         const size_t *lens, struct fm_error *err)
{
	_fm_sq_lock_ struct fm_sqlite *sq = fm_sq_lock(s);
	_fm_sq_tx_ struct fm_sq_tx tx = FM_SQ_TX_INIT;
	struct fm_sq_conn *c = sq->relaxed;
	int r;

	if (fm_sq_begin(&tx, c, err) < 0)
		return -1;
	r = host_exists(c, host, err);
	if (r <= 0)
		return r < 0 ? -1 : fm_error_set(err, FM_E_NOT_FOUND, "no host '%s' whose containers could be kept", host);
	if (delete_containers(c, host, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++)
		if (insert_container(c, host, names[i], blobs[i], lens[i], err) < 0)
			return -1;
	return fm_sq_commit(&tx, err);
}

/* ------------------------------------------------------------------------------------------------ reading */

static int read_row(sqlite3_stmt *st, struct page *p, struct fm_error *err)
{
	struct row *row = &p->rows[p->n++]; /* counted first: page_clear frees what is half read */

	memset(row, 0, sizeof(*row));
	row->host = fm_sq_column_text(st, 0);
	row->name = fm_sq_column_text(st, 1);
	row->seen_ms = (uint64_t)sqlite3_column_int64(st, 2);
	if (!row->host || !row->name)
		return fm_sq_no_memory(err);
	return fm_sq_column_blob(st, 3, &row->blob, &row->len, err);
}

static int read_page(struct fm_store *s, enum fm_sq_slot slot, const char *sql, const char *host, const char *name, struct page *p,
                     struct fm_error *err)
{
	_fm_sq_lock_ struct fm_sqlite *sq = fm_sq_lock(s);
	struct fm_sq_conn *c = sq->relaxed;
	_fm_sq_reset_ sqlite3_stmt *st = fm_sq_stmt(c, slot, sql, err);
	int r;

	if (!st)
		return -1;
	fm_sq_text(st, 1, host);
	fm_sq_text(st, 2, name);
	fm_sq_int(st, 3, PAGE_ROWS);
	while ((r = fm_sq_step(c, st, err, "read reports")) > 0)
		if (read_row(st, p, err) < 0)
			return -1;
	return r;
}

/* first: what the first column is, or comes after */
static int each(struct fm_store *s, enum fm_sq_slot slot, const char *sql, const char *first, fm_store_blob_fn fn, void *userdata,
                struct fm_error *err)
{
	_fm_cleanup_(page_clear) struct page last = { .n = 0 };
	_fm_cleanup_(page_clear) struct page page = { .n = 0 };

	do {
		const struct row *after = last.n ? &last.rows[last.n - 1] : NULL;

		if (read_page(s, slot, sql, after ? after->host : first, after ? after->name : "", &page, err) < 0)
			return -1;
		page_clear(&last);
		for (size_t i = 0; i < page.n; i++) {
			const struct row *r = &page.rows[i];

			if (fn(userdata, r->host, r->name, r->blob ? r->blob : "", r->len, r->seen_ms) != 0)
				return 0;
		}
		last = page;
		page.n = 0;
	} while (last.n == PAGE_ROWS);
	return 0;
}

int fm_sq_host_each(struct fm_store *s, fm_store_blob_fn fn, void *userdata, struct fm_error *err)
{
	/* A host's own name stands in both columns, so that one reader serves both tables. */
	return each(s, FM_SQ_HOST_PAGE, "SELECT name, name, seen_ms, report FROM hosts WHERE name > ?1 AND ?2 = ?2 ORDER BY name LIMIT ?3",
	            "", fn, userdata, err);
}

int fm_sq_container_each(struct fm_store *s, fm_store_blob_fn fn, void *userdata, struct fm_error *err)
{
	return each(s, FM_SQ_CONTAINER_PAGE,
	            "SELECT c.host, c.name, h.seen_ms, c.report FROM containers c JOIN hosts h ON h.name = c.host"
	            " WHERE (c.host, c.name) > (?1, ?2) ORDER BY c.host, c.name LIMIT ?3",
	            "", fn, userdata, err);
}

/* ------------------------------------------------------------------------------------------------ what parts of the manager keep */

int fm_sq_kept_put(struct fm_store *s, const char *kind, const char *name, uint64_t at_ms, const void *blob, size_t len,
                   struct fm_error *err)
{
	_fm_sq_lock_ struct fm_sqlite *sq = fm_sq_lock(s);
	struct fm_sq_conn *c = sq->relaxed;
	sqlite3_stmt *st = fm_sq_stmt(c, FM_SQ_KEPT_PUT,
	                              "INSERT INTO kept (kind, name, at_ms, value) VALUES (?1, ?2, ?3, ?4)"
	                              " ON CONFLICT (kind, name) DO UPDATE SET at_ms = ?3, value = ?4",
	                              err);

	if (!st)
		return -1;
	fm_sq_text(st, 1, kind);
	fm_sq_text(st, 2, name);
	fm_sq_int(st, 3, (int64_t)at_ms);
	fm_sq_blob(st, 4, blob, len);
	return fm_sq_run(c, st, err, "keep something");
}

int fm_sq_kept_each(struct fm_store *s, const char *kind, fm_store_blob_fn fn, void *userdata, struct fm_error *err)
{
	return each(s, FM_SQ_KEPT_PAGE, "SELECT kind, name, at_ms, value FROM kept WHERE kind = ?1 AND name > ?2 ORDER BY name LIMIT ?3",
	            kind, fn, userdata, err);
}

int fm_sq_kept_prune(struct fm_store *s, const char *kind, uint64_t before_ms, struct fm_error *err)
{
	_fm_sq_lock_ struct fm_sqlite *sq = fm_sq_lock(s);
	struct fm_sq_conn *c = sq->relaxed;
	sqlite3_stmt *st = fm_sq_stmt(c, FM_SQ_KEPT_PRUNE, "DELETE FROM kept WHERE kind = ?1 AND at_ms < ?2", err);

	if (!st)
		return -1;
	fm_sq_text(st, 1, kind);
	fm_sq_int(st, 2, (int64_t)before_ms);
	return fm_sq_run(c, st, err, "forget what is old");
}
