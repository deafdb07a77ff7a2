/* SPDX-License-Identifier: MIT */
/* store-sqlite-fleet.c - hosts and containers: the last reports, a cache on the relaxed connection. */
#include "basic/error.h"
#include "basic/limits.h"
#include "store/store-sqlite.h"

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

int fm_sq_host_each(struct fm_store *s, fm_store_blob_fn fn, void *userdata, struct fm_error *err)
{
	/* A host's own name stands in both columns, so that one reader serves both tables. */
	return fm_sq_each(s, FM_SQ_HOST_PAGE,
	                  "SELECT name, name, seen_ms, report FROM hosts WHERE name > ?1 AND ?2 = ?2 ORDER BY name LIMIT ?3", "", fn,
	                  userdata, err);
}

int fm_sq_container_each(struct fm_store *s, fm_store_blob_fn fn, void *userdata, struct fm_error *err)
{
	return fm_sq_each(s, FM_SQ_CONTAINER_PAGE,
	                  "SELECT c.host, c.name, h.seen_ms, c.report FROM containers c JOIN hosts h ON h.name = c.host"
	                  " WHERE (c.host, c.name) > (?1, ?2) ORDER BY c.host, c.name LIMIT ?3",
	                  "", fn, userdata, err);
}
