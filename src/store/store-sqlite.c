/* SPDX-License-Identifier: MIT */
/*
 * store-sqlite.c - opening and closing: is this our file, is it sound, is its schema ours or older; then two connections.
 *
 * Order, each step before anything is written that a later one would regret:
 *   1. the file: a regular one that nobody else may write; created 0600 when missing
 *   2. application_id and user_version: another program's database and a newer schema are refused untouched
 *   3. quick_check: a damaged file is refused before it is made the base of decisions about who owns a container
 *   4. journal_mode=WAL
 *   5. upgrades from user_version to SCHEMA_VERSION, all in one transaction that looks at user_version again under the lock
 *
 * The schema's history is the table `upgrades`: a step that was ever released is never edited, only followed by another.
 * STRICT tables: a value of a wrong type is refused by the database too.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "basic/clock.h"
#include "basic/error.h"
#include "basic/str.h"
#include "store/store-sqlite.h"

#define APPLICATION_ID 0x464d6967 /* "FMig" */
#define SCHEMA_VERSION ((int)FM_ARRAY_SIZE(upgrades))
#define LENGTH_MAX     (8 << 20) /* of one row: detail plus texts */

static const char *const upgrades[] = {
	/* 0 -> 1. States: 1 PENDING … 6 COMPLETED, 7 FAILED, 8 ROLLBACK (docs/LIFECYCLE.md). */
	"CREATE TABLE migrations ("
	"  seq           INTEGER PRIMARY KEY AUTOINCREMENT," /* order of creation, never used twice */
	"  id            TEXT    NOT NULL UNIQUE CHECK (length(id) BETWEEN 1 AND 64),"
	"  container     TEXT    NOT NULL CHECK (length(container) BETWEEN 1 AND 255),"
	"  source        TEXT    NOT NULL,"
	"  destination   TEXT    NOT NULL,"
	"  strategy      TEXT    NOT NULL,"
	"  state         INTEGER NOT NULL CHECK (state BETWEEN 1 AND 8),"
	"  path          TEXT    NOT NULL,"
	"  epoch         INTEGER NOT NULL CHECK (epoch BETWEEN 1 AND 4294967295),"
	"  created_ms    INTEGER NOT NULL CHECK (created_ms >= 0),"
	"  finished_ms   INTEGER NOT NULL CHECK (finished_ms >= 0),"
	"  error_code    INTEGER NOT NULL CHECK (error_code BETWEEN 0 AND 16),"
	"  error_message TEXT    NOT NULL,"
	"  detail        BLOB    NOT NULL,"
	"  UNIQUE (container, epoch),"
	"  CHECK (finished_ms = 0 OR state IN (6, 7))"
	") STRICT;"
	/* The law that a container is moved once at a time, for every process that ever opens this file. */
	"CREATE UNIQUE INDEX migrations_one_active ON migrations (container) WHERE finished_ms = 0;"
	/* What was finished stays as it was. */
	"CREATE TRIGGER migrations_final BEFORE UPDATE OF state, finished_ms, path ON migrations WHEN OLD.finished_ms <> 0"
	"  BEGIN SELECT RAISE(ABORT, 'a finished migration does not change its state'); END;"
	"CREATE TABLE transitions ("
	"  seq           INTEGER PRIMARY KEY,"
	"  migration     INTEGER NOT NULL REFERENCES migrations (seq) ON DELETE CASCADE,"
	"  from_state    INTEGER NOT NULL CHECK (from_state BETWEEN 1 AND 8),"
	"  to_state      INTEGER NOT NULL CHECK (to_state BETWEEN 1 AND 8),"
	"  label         TEXT    NOT NULL CHECK (length(label) <= 3),"
	"  at_ms         INTEGER NOT NULL,"
	"  reason        TEXT    NOT NULL"
	") STRICT;"
	"CREATE INDEX transitions_of ON transitions (migration, seq);"
	"CREATE TABLE events ("
	"  migration     INTEGER NOT NULL REFERENCES migrations (seq) ON DELETE CASCADE,"
	"  seq           INTEGER NOT NULL CHECK (seq >= 1),"
	"  at_ms         INTEGER NOT NULL,"
	"  level         INTEGER NOT NULL CHECK (level BETWEEN 0 AND 3),"
	"  component     TEXT    NOT NULL,"
	"  line          TEXT    NOT NULL,"
	"  state         INTEGER NOT NULL CHECK (state BETWEEN 0 AND 8),"
	"  PRIMARY KEY (migration, seq)"
	") STRICT, WITHOUT ROWID;"
	/* Outlives pruned history: a fencing number that starts again would let an old owner pass. */
	"CREATE TABLE epochs ("
	"  container     TEXT    NOT NULL PRIMARY KEY,"
	"  epoch         INTEGER NOT NULL CHECK (epoch BETWEEN 1 AND 4294967295)"
	") STRICT, WITHOUT ROWID;"
	"CREATE TABLE hosts ("
	"  name          TEXT    NOT NULL PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 64),"
	"  seen_ms       INTEGER NOT NULL,"
	"  report        BLOB    NOT NULL"
	") STRICT;"
	"CREATE TABLE containers ("
	"  host          TEXT    NOT NULL REFERENCES hosts (name) ON DELETE CASCADE,"
	"  name          TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 64),"
	"  report        BLOB    NOT NULL,"
	"  PRIMARY KEY (host, name)"
	") STRICT;",
	/* 1 -> 2: what else is to outlive the manager, by kind. */
	"CREATE TABLE records ("
	"  seq           INTEGER PRIMARY KEY AUTOINCREMENT,"
	"  kind          TEXT    NOT NULL CHECK (length(kind) BETWEEN 1 AND 64),"
	"  id            TEXT    NOT NULL CHECK (length(id) BETWEEN 1 AND 64),"
	"  data          BLOB    NOT NULL,"
	"  UNIQUE (kind, id)"
	") STRICT;",
	/* 2 -> 3. What parts of the manager keep for their next start; they could do without. */
	"CREATE TABLE kept ("
	"  kind          TEXT    NOT NULL CHECK (length(kind) BETWEEN 1 AND 64),"
	"  name          TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 255),"
	"  at_ms         INTEGER NOT NULL,"
	"  value         BLOB    NOT NULL,"
	"  PRIMARY KEY (kind, name)"
	") STRICT;",
	/* 3 -> 4: both in one; kinds of the two never met. When a record of version 3 was written nobody knows: as if it were long ago. */
	"CREATE TABLE both ("
	"  seq           INTEGER PRIMARY KEY AUTOINCREMENT,"
	"  kind          TEXT    NOT NULL CHECK (length(kind) BETWEEN 1 AND 64),"
	"  id            TEXT    NOT NULL CHECK (length(id) BETWEEN 1 AND 255),"
	"  at_ms         INTEGER NOT NULL,"
	"  data          BLOB    NOT NULL,"
	"  UNIQUE (kind, id)"
	") STRICT;"
	"INSERT INTO both (seq, kind, id, at_ms, data) SELECT seq, kind, id, 0, data FROM records;"
	"INSERT INTO both (kind, id, at_ms, data) SELECT kind, name, at_ms, value FROM kept ORDER BY kind, name;"
	"DROP TABLE records;"
	"DROP TABLE kept;"
	"ALTER TABLE both RENAME TO records;"
	"CREATE INDEX records_of ON records (kind, seq);", /* the newest of a kind, however many there are of another */
};

/* ------------------------------------------------------------------------------------------------ the file */

static int sync_folder_of(const char *path, struct fm_error *err)
{
	_fm_free_ char *folder = fm_xstrdup(path);
	_fm_close_ int fd = -1;
	char *slash = strrchr(folder, '/');

	if (slash)
		slash[slash == folder ? 1 : 0] = '\0';
	fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0)
		return fm_error_errno(err, errno, "cannot sync the folder of store '%s'", path);
	return 0;
}

/*
 * mknod() and stat(), no open(): closing any descriptor of a file drops all POSIX locks this process has on it, and
 * another store of the same process may hold some.
 */
static int provide_file(const char *path, struct fm_error *err)
{
	struct stat sb;

	if (mknod(path, S_IFREG | 0600, 0) == 0)
		return sync_folder_of(path, err);
	if (errno == ENOENT) {
		(void)fm_error_errno(err, errno, "cannot create store '%s'", path);
		return fm_error_hint(err, "create its folder first, mode 0700, owned by the manager's user");
	}
	if (errno != EEXIST)
		return fm_error_errno(err, errno, "cannot create store '%s'", path);
	if (stat(path, &sb) < 0)
		return fm_error_errno(err, errno, "cannot open store '%s'", path);
	if (!S_ISREG(sb.st_mode))
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "store '%s' is not a regular file", path);
	if (sb.st_mode & (S_IWGRP | S_IWOTH)) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "store '%s' may be written by others than its owner (mode %04o)", path,
		                   (unsigned)(sb.st_mode & 07777));
		return fm_error_hint(err, "look who changed it, then `chmod 600 %s`", path);
	}
	return 0;
}

/* ------------------------------------------------------------------------------------------------ statements used once */

static int exec(struct fm_sq_conn *c, const char *sql, struct fm_error *err, const char *what)
{
	if (sqlite3_exec(c->db, sql, NULL, NULL, NULL) != SQLITE_OK)
		return fm_sq_error(c, err, what);
	return 0;
}

static void finalizep(sqlite3_stmt **st)
{
	(void)sqlite3_finalize(*st);
}

/* The first column of the first row: as a number and as text (cut), whichever is wanted. */
static int query(struct fm_sq_conn *c, const char *sql, int64_t *ret_value, char *ret_text, size_t cap, struct fm_error *err,
                 const char *what)
{
	_fm_cleanup_(finalizep) sqlite3_stmt *st = NULL;
	int rc;

	if (sqlite3_prepare_v2(c->db, sql, -1, &st, NULL) != SQLITE_OK)
		return fm_sq_error(c, err, what);
	rc = sqlite3_step(st);
	if (rc != SQLITE_ROW)
		return rc == SQLITE_DONE ? fm_error_set(err, FM_E_INTERNAL, "cannot %s in store '%s': no answer", what, c->path)
		                         : fm_sq_error(c, err, what);
	if (ret_value)
		*ret_value = sqlite3_column_int64(st, 0);
	if (ret_text) {
		const char *s = (const char *)sqlite3_column_text(st, 0);

		(void)snprintf(ret_text, cap, "%s", s ? s : "");
	}
	return 0;
}

/* ------------------------------------------------------------------------------------------------ connections */

static void conn_close(struct fm_sq_conn *c)
{
	for (int i = 0; i < _FM_SQ_SLOT_MAX; i++)
		(void)sqlite3_finalize(c->stmts[i]);
	if (c->db) {
		int rc = sqlite3_close(c->db);

		assert(rc == SQLITE_OK); /* BUSY would be a statement outside the slots */
		(void)rc;
	}
	memset(c, 0, sizeof(*c));
}

static int conn_open(struct fm_sq_conn *c, const char *path, struct fm_error *err)
{
	/* NOMUTEX: ours covers every use. EXRESCODE: the errno behind an i/o error. */
	const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;

	c->path = path;
	if (sqlite3_open_v2(path, &c->db, flags, NULL) != SQLITE_OK)
		return fm_sq_error(c, err, "open the database");
	(void)sqlite3_busy_timeout(c->db, FM_STORE_BUSY_MS);
	/* The file is data, not a program: no schema tricks from a file that somebody else prepared. */
	(void)sqlite3_db_config(c->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
	(void)sqlite3_db_config(c->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
	(void)sqlite3_limit(c->db, SQLITE_LIMIT_LENGTH, LENGTH_MAX);
	(void)sqlite3_limit(c->db, SQLITE_LIMIT_ATTACHED, 0);
	return 0;
}

static int conn_configure(struct fm_sq_conn *c, bool durable, struct fm_error *err)
{
	if (exec(c, durable ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL", err, "set synchronous") < 0)
		return -1;
	return exec(c, "PRAGMA foreign_keys = ON; PRAGMA cell_size_check = ON; PRAGMA journal_size_limit = 16777216", err, "configure");
}

/* ------------------------------------------------------------------------------------------------ identity, soundness, schema */

static int check_version(struct fm_sq_conn *c, int64_t version, struct fm_error *err)
{
	if (version >= 0 && version <= SCHEMA_VERSION)
		return 0;
	(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "store '%s' has schema version %lld, this program knows up to %d", c->path,
	                   (long long)version, SCHEMA_VERSION);
	return fm_error_hint(err, "start the newer version that wrote it, or restore the backup made before the upgrade");
}

/* Ours, or empty and ready to become ours. Reads only. */
static int check_identity(struct fm_sq_conn *c, int64_t *ret_version, struct fm_error *err)
{
	int64_t id = 0, version = 0, objects = 0;

	/* The identity last: another process that makes this file ours in between sets all three at once, and then ours is what we see. */
	if (query(c, "PRAGMA user_version", &version, NULL, 0, err, "read the header") < 0 ||
	    query(c, "SELECT count(*) FROM sqlite_schema", &objects, NULL, 0, err, "read the schema") < 0 ||
	    query(c, "PRAGMA application_id", &id, NULL, 0, err, "read the header") < 0)
		return -1;
	if (id != APPLICATION_ID && (id != 0 || version != 0 || objects != 0)) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "'%s' is a database of another program (application_id 0x%08llx)",
		                   c->path, (unsigned long long)id & 0xffffffff);
		return fm_error_hint(err, "give the manager a path of its own");
	}
	if (check_version(c, version, err) < 0)
		return -1;
	*ret_version = version;
	return 0;
}

static int check_sound(struct fm_sq_conn *c, struct fm_error *err)
{
	char answer[256];

	if (query(c, "PRAGMA quick_check(1)", NULL, answer, sizeof(answer), err, "check the database") < 0)
		return -1;
	if (strcmp(answer, "ok") == 0)
		return 0;
	(void)fm_error_set(err, FM_E_DATA_LOSS, "store '%s' is damaged: %s", c->path, answer);
	return fm_error_hint(err, "stop the manager, keep a copy of the file, restore a backup: docs/STORE.md");
}

/* Changing to WAL needs the file for a moment alone, and SQLite does not always wait for it: two managers that start at once would fail. */
static int use_wal(struct fm_sq_conn *c, struct fm_error *err)
{
	uint64_t deadline = fm_now_ms() + FM_STORE_BUSY_MS;
	char mode[16];

	for (;;) {
		struct fm_error e = FM_ERROR_INIT;

		if (query(c, "PRAGMA journal_mode = WAL", NULL, mode, sizeof(mode), &e, "switch to write-ahead logging") == 0)
			break;
		if (e.code != FM_E_UNAVAILABLE || fm_deadline_left_ms(deadline) == 0) {
			if (err)
				*err = e;
			return -1;
		}
		fm_pause_ms(10);
	}
	/* An in-memory database answers "memory". A file system without shared memory answers "delete". */
	if (strcmp(mode, "wal") == 0 || strcmp(mode, "memory") == 0)
		return 0;
	(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "store '%s' cannot use write-ahead logging (journal mode stays '%s')", c->path,
	                   mode);
	return fm_error_hint(err, "put it on a local file system (not NFS)");
}

static int upgrade(struct fm_sq_conn *c, struct fm_error *err)
{
	_fm_sq_tx_ struct fm_sq_tx tx = FM_SQ_TX_INIT;
	char sql[96];
	int64_t version = 0;

	if (fm_sq_begin(&tx, c, err) < 0)
		return -1;
	/* Again, under the lock: another process may have upgraded since. */
	if (check_identity(c, &version, err) < 0)
		return -1;
	for (int64_t v = version; v < SCHEMA_VERSION; v++)
		if (exec(c, upgrades[v], err, "upgrade the schema") < 0)
			return -1;
	(void)snprintf(sql, sizeof(sql), "PRAGMA application_id = %d; PRAGMA user_version = %d", APPLICATION_ID, SCHEMA_VERSION);
	if (version < SCHEMA_VERSION && exec(c, sql, err, "set the schema version") < 0)
		return -1;
	return fm_sq_commit(&tx, err);
}

/* ------------------------------------------------------------------------------------------------ open, close */

static void sqlite_close(struct fm_store *s)
{
	struct fm_sqlite *sq = (struct fm_sqlite *)s;

	/* The relaxed one first: the last one to close copies the log into the file and removes it, with full syncs. */
	conn_close(&sq->relaxed_own);
	conn_close(&sq->durable);
	(void)pthread_mutex_destroy(&sq->lock);
	free(sq->path);
	free(sq);
}
FM_DEFINE_CLEANUP(struct fm_store *, sqlite_close);

static const struct fm_store_ops sqlite_ops = {
	.close = sqlite_close,
	.migration_create = fm_sq_migration_create,
	.migration_transition = fm_sq_migration_transition,
	.migration_update = fm_sq_migration_update,
	.migration_get = fm_sq_migration_get,
	.migration_list = fm_sq_migration_list,
	.transition_list = fm_sq_transition_list,
	.event_append = fm_sq_event_append,
	.event_list = fm_sq_event_list,
	.record_put = fm_sq_record_put,
	.record_get = fm_sq_record_get,
	.record_delete = fm_sq_record_delete,
	.record_list = fm_sq_record_list,
	.record_each = fm_sq_record_each,
	.record_prune = fm_sq_record_prune,
	.host_put = fm_sq_host_put,
	.containers_put = fm_sq_containers_put,
	.host_each = fm_sq_host_each,
	.container_each = fm_sq_container_each,
};

static int open_durable(struct fm_sq_conn *c, const char *path, struct fm_error *err)
{
	int64_t version = 0;

	if (conn_open(c, path, err) < 0 || check_identity(c, &version, err) < 0 || check_sound(c, err) < 0 || use_wal(c, err) < 0 ||
	    conn_configure(c, true, err) < 0)
		return -1;
	return upgrade(c, err);
}

int fm_store_open_sqlite(const char *path, struct fm_store **ret, struct fm_error *err)
{
	_fm_cleanup_(sqlite_closep) struct fm_store *s = NULL;
	bool memory = fm_streq(path, ":memory:");
	struct fm_sqlite *sq;

	if (!path || !*path)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "store: no path given");
	if (!memory && provide_file(path, err) < 0)
		return -1;
	sq = calloc(1, sizeof(*sq));
	if (!sq)
		return fm_sq_no_memory(err);
	s = &sq->store;
	s->ops = &sqlite_ops;
	(void)pthread_mutex_init(&sq->lock, NULL);
	sq->path = fm_xstrdup(path);
	if (open_durable(&sq->durable, sq->path, err) < 0)
		return -1;
	sq->relaxed = memory ? &sq->durable : &sq->relaxed_own;
	if (!memory && (conn_open(sq->relaxed, sq->path, err) < 0 || conn_configure(sq->relaxed, false, err) < 0))
		return -1;
	*ret = FM_TAKE_PTR(s);
	return 0;
}
