/* SPDX-License-Identifier: MIT */
/*
 * test-store-crash.c - the store when things go wrong: kill -9 in a write loop, power loss, several processes and threads at once, a full
 * disk, no memory. The law in all of them: what returned 0 is there, what returned -1 changed nothing.
 *
 * Power loss is played by a VFS that copies a file aside whenever SQLite syncs it: the copies are what a disk would still have.
 * Children that are forked never use cmocka's assertions (they would jump into the parent's test): they report by exit status.
 * The private header gives access to the connections, for limits that only SQLite can set.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/error.h"
#include "basic/io.h"
#include "basic/str.h"
#include "store/store-sqlite.h"

enum { PENDING = 1, PLANNING, PREPARATION, EXECUTION, VERIFICATION, COMPLETED, FAILED, ROLLBACK };

#define assert_ok(call, e)                                                                                                                 \
	do {                                                                                                                               \
		if ((call) != 0)                                                                                                           \
			fail_msg("%s: %s (%s)", #call, (e).message, (e).hint);                                                             \
	} while (0)

struct fixture {
	char dir[64];
	char path[128];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	(void)snprintf(f->dir, sizeof(f->dir), "/tmp/fm-test-store-XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	(void)snprintf(f->path, sizeof(f->path), "%s/store.db", f->dir);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	int r = fm_remove_tree(f->dir, &e);

	free(f);
	return r;
}

static struct fm_store *open_store(const char *path)
{
	struct fm_store *s = NULL;
	struct fm_error e = FM_ERROR_INIT;

	assert_ok(fm_store_open_sqlite(path, &s, &e), e);
	return s;
}

static int create(struct fm_store *s, const char *id, const char *container, struct fm_error *e)
{
	struct fm_store_migration m = { .id = (char *)id, .container = (char *)container, .state = PENDING };

	return fm_store_migration_create(s, &m, NULL, e);
}

static int move(struct fm_store *s, const char *id, int from, int to, uint64_t finished_ms, const char *detail, struct fm_error *e)
{
	struct fm_store_migration m = { .id = (char *)id, .state = to, .finished_ms = finished_ms, .detail = (void *)detail };

	m.detail_len = detail ? strlen(detail) : 0;
	return fm_store_migration_transition(s, from, &m, "", "", e);
}

/* The state, or minus the error's code. */
static int stored_state(struct fm_store *s, const char *id)
{
	struct fm_store_migration m = { 0 };
	struct fm_error e = FM_ERROR_INIT;
	int state;

	if (fm_store_migration_get(s, id, &m, &e) < 0)
		return -(int)e.code;
	state = m.state;
	fm_store_migration_done(&m);
	return state;
}

static size_t count_transitions(struct fm_store *s, const char *id)
{
	struct fm_store_transition *t = NULL;
	size_t n = 0;

	if (fm_store_transition_list(s, id, &t, &n, NULL) < 0)
		return 0;
	fm_store_transitions_free(t, n);
	return n;
}

/* ------------------------------------------------------------------------------------------------ kill -9 */

/* What the killed child does: migration after migration through three steps; each step that returned 0 is one byte in the pipe. */
static int write_for_ever(const char *path, int ack_fd, int first)
{
	struct fm_store *s = NULL;

	if (fm_store_open_sqlite(path, &s, NULL) < 0)
		return 1;
	for (int i = first;; i++) {
		char id[32];

		(void)snprintf(id, sizeof(id), "m-%d", i);
		if (create(s, id, "c", NULL) < 0 || write(ack_fd, "1", 1) != 1 || move(s, id, PENDING, FAILED, 0, NULL, NULL) < 0 ||
		    write(ack_fd, "2", 1) != 1 || move(s, id, FAILED, FAILED, 7, NULL, NULL) < 0 || write(ack_fd, "3", 1) != 1)
			return 2;
	}
}

/* Starts the child, kills it after `n_acks` steps, and returns how many it had acknowledged when it was dead. */
static unsigned run_and_kill(const char *path, int first, unsigned n_acks)
{
	int fds[2], status = 0;
	unsigned acks = 0;
	char c;
	pid_t pid;

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0)
		_exit(write_for_ever(path, fds[1], first));
	assert_true(pid > 0);
	(void)close(fds[1]);
	while (read(fds[0], &c, 1) == 1)
		if (++acks == n_acks)
			(void)kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	(void)close(fds[0]);
	return acks;
}

/* Steps done by the migrations from `first` on; *ret_next: the first number that is free. */
static unsigned count_steps(struct fm_store *s, int first, int *ret_next)
{
	unsigned steps = 0;
	int i;

	for (i = first;; i++) {
		struct fm_store_migration m = { 0 };
		char id[32];

		(void)snprintf(id, sizeof(id), "m-%d", i);
		if (fm_store_migration_get(s, id, &m, NULL) < 0)
			break;
		steps += m.finished_ms ? 3 : m.state == FAILED ? 2 : 1;
		assert_int_equal(count_transitions(s, id), m.finished_ms ? 2 : m.state == FAILED ? 1 : 0);
		fm_store_migration_done(&m);
	}
	*ret_next = i;
	return steps;
}

static void test_kill_in_write_loop(void **state)
{
	struct fixture *f = *state;
	int next = 0;

	for (unsigned round = 0; round < 8; round++) {
		struct fm_error e = FM_ERROR_INIT;
		unsigned acks = run_and_kill(f->path, next, 1 + round * 5);
		struct fm_store *s = open_store(f->path);
		struct fm_store_migration *v = NULL;
		size_t n = 0;
		unsigned steps = count_steps(s, next, &next);

		/* All that was acknowledged, and at most the one step after it. */
		assert_in_range(steps, acks, acks + 1);
		assert_ok(fm_store_migration_list(s, true, 0, &v, &n, &e), e);
		assert_in_range(n, 0, 1);
		if (n == 1) /* what a recovering manager does */
			assert_ok(move(s, v[0].id, v[0].state, FAILED, 9, NULL, &e), e);
		fm_store_migrations_free(v, n);
		fm_store_close(s);
	}
}

/* ------------------------------------------------------------------------------------------------ power loss */

struct crash_vfs {
	sqlite3_vfs vfs; /* first */
	sqlite3_vfs *real;
	char prefix[128];  /* only files below */
	char durable[128]; /* where the copies go */
	unsigned syncs;
};
struct crash_file {
	sqlite3_file file; /* first */
	struct crash_vfs *owner;
	char name[128];
	_Alignas(void *) char real[]; /* sqlite3_file of the real VFS */
};

static sqlite3_file *real_of(sqlite3_file *f)
{
	return (sqlite3_file *)((struct crash_file *)f)->real;
}

static int copy_file(const char *from, const char *to)
{
	_fm_free_ char *data = NULL;
	size_t n = 0;

	if (fm_read_file(from, 64 << 20, &data, &n, NULL) < 0)
		return -1;
	return fm_write_file_atomic(to, data, n, 0600, NULL);
}

static int crash_sync(sqlite3_file *f, int flags)
{
	struct crash_file *cf = (struct crash_file *)f;
	int rc = real_of(f)->pMethods->xSync(real_of(f), flags);
	char to[256];

	cf->owner->syncs++;
	(void)snprintf(to, sizeof(to), "%s/%s", cf->owner->durable, strrchr(cf->name, '/') + 1);
	return rc != SQLITE_OK || copy_file(cf->name, to) < 0 ? SQLITE_IOERR_FSYNC : SQLITE_OK;
}

/* Everything else is passed on. */
static int c_close(sqlite3_file *f)
{
	return real_of(f)->pMethods->xClose(real_of(f));
}
static int c_read(sqlite3_file *f, void *p, int n, sqlite3_int64 o)
{
	return real_of(f)->pMethods->xRead(real_of(f), p, n, o);
}
static int c_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 o)
{
	return real_of(f)->pMethods->xWrite(real_of(f), p, n, o);
}
static int c_truncate(sqlite3_file *f, sqlite3_int64 n)
{
	return real_of(f)->pMethods->xTruncate(real_of(f), n);
}
static int c_size(sqlite3_file *f, sqlite3_int64 *n)
{
	return real_of(f)->pMethods->xFileSize(real_of(f), n);
}
static int c_lock(sqlite3_file *f, int l)
{
	return real_of(f)->pMethods->xLock(real_of(f), l);
}
static int c_unlock(sqlite3_file *f, int l)
{
	return real_of(f)->pMethods->xUnlock(real_of(f), l);
}
static int c_reserved(sqlite3_file *f, int *r)
{
	return real_of(f)->pMethods->xCheckReservedLock(real_of(f), r);
}
static int c_control(sqlite3_file *f, int op, void *p)
{
	return real_of(f)->pMethods->xFileControl(real_of(f), op, p);
}
static int c_sector(sqlite3_file *f)
{
	return real_of(f)->pMethods->xSectorSize(real_of(f));
}
static int c_device(sqlite3_file *f)
{
	return real_of(f)->pMethods->xDeviceCharacteristics(real_of(f));
}
static int c_map(sqlite3_file *f, int i, int n, int w, void volatile **p)
{
	return real_of(f)->pMethods->xShmMap(real_of(f), i, n, w, p);
}
static int c_shm_lock(sqlite3_file *f, int o, int n, int l)
{
	return real_of(f)->pMethods->xShmLock(real_of(f), o, n, l);
}
static void c_barrier(sqlite3_file *f)
{
	real_of(f)->pMethods->xShmBarrier(real_of(f));
}
static int c_unmap(sqlite3_file *f, int d)
{
	return real_of(f)->pMethods->xShmUnmap(real_of(f), d);
}

static const sqlite3_io_methods crash_methods = {
	.iVersion = 2,
	.xClose = c_close,
	.xRead = c_read,
	.xWrite = c_write,
	.xTruncate = c_truncate,
	.xSync = crash_sync,
	.xFileSize = c_size,
	.xLock = c_lock,
	.xUnlock = c_unlock,
	.xCheckReservedLock = c_reserved,
	.xFileControl = c_control,
	.xSectorSize = c_sector,
	.xDeviceCharacteristics = c_device,
	.xShmMap = c_map,
	.xShmLock = c_shm_lock,
	.xShmBarrier = c_barrier,
	.xShmUnmap = c_unmap,
};

static int crash_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *out)
{
	struct crash_vfs *v = (struct crash_vfs *)vfs;
	struct crash_file *cf = (struct crash_file *)f;
	int rc;

	cf->file.pMethods = NULL;
	if (!name || !fm_str_startswith(name, v->prefix))
		return v->real->xOpen(v->real, name, f, flags, out); /* not ours: the real one, in its own shape */
	rc = v->real->xOpen(v->real, name, real_of(f), flags, out);
	if (rc != SQLITE_OK)
		return rc;
	cf->owner = v;
	(void)snprintf(cf->name, sizeof(cf->name), "%s", name);
	cf->file.pMethods = &crash_methods;
	return SQLITE_OK;
}

static void crash_vfs_install(struct crash_vfs *v, const char *prefix, const char *durable)
{
	v->real = sqlite3_vfs_find(NULL);
	v->vfs = *v->real;
	v->vfs.zName = "crash";
	v->vfs.szOsFile = (int)sizeof(struct crash_file) + v->real->szOsFile;
	v->vfs.xOpen = crash_open;
	(void)snprintf(v->prefix, sizeof(v->prefix), "%s", prefix);
	(void)snprintf(v->durable, sizeof(v->durable), "%s", durable);
	assert_int_equal(sqlite3_vfs_register(&v->vfs, 1), SQLITE_OK);
}

/* Put the disk's content into a folder of its own and open it there, as after a restart. */
static struct fm_store *open_after_power_loss(const struct fixture *f)
{
	char from[256], to[256];
	struct fm_error e = FM_ERROR_INIT;

	(void)snprintf(to, sizeof(to), "%s/after", f->dir);
	assert_ok(fm_remove_tree(to, &e), e);
	assert_ok(fm_mkdir_p(to, 0700, &e), e);
	for (int i = 0; i < 2; i++) {
		(void)snprintf(from, sizeof(from), "%s/disk/store.db%s", f->dir, i ? "-wal" : "");
		(void)snprintf(to, sizeof(to), "%s/after/store.db%s", f->dir, i ? "-wal" : "");
		if (fm_path_exists(from))
			assert_int_equal(copy_file(from, to), 0);
	}
	(void)snprintf(to, sizeof(to), "%s/after/store.db", f->dir);
	return open_store(to);
}

static void test_power_loss(void **state)
{
	struct fixture *f = *state;
	static struct crash_vfs vfs; /* stays registered when an assertion fails */
	struct fm_error e = FM_ERROR_INIT;
	struct fm_store *s = NULL, *after = NULL;
	struct fm_store_event ev = { .component = "C", .line = "a line" };
	struct fm_store_event *events = NULL;
	char live[128], disk[128];
	_fm_free_ char *detail = calloc(1, 6001);
	unsigned syncs;
	size_t n = 0;

	memset(detail, 'd', 6000);
	(void)snprintf(live, sizeof(live), "%s/live", f->dir);
	(void)snprintf(disk, sizeof(disk), "%s/disk", f->dir);
	assert_ok(fm_mkdir_p(live, 0700, &e), e);
	assert_ok(fm_mkdir_p(disk, 0700, &e), e);
	crash_vfs_install(&vfs, live, disk);
	(void)snprintf(live, sizeof(live), "%s/live/store.db", f->dir);
	s = open_store(live);
	assert_ok(create(s, "m-0", "c-0", &e), e);
	syncs = vfs.syncs;
	for (int i = 0; i < 10; i++)
		assert_ok(fm_store_event_append(s, "m-0", &ev, NULL, &e), e);
	assert_int_equal(vfs.syncs, syncs); /* log lines do not wait for the disk … */
	assert_ok(move(s, "m-0", PENDING, PLANNING, 0, detail, &e), e);
	assert_true(vfs.syncs > syncs);
	/* Copying the log into the file often, so that both are caught in every relation to each other. */
	assert_int_equal(sqlite3_wal_autocheckpoint(((struct fm_sqlite *)s)->durable.db, 11), SQLITE_OK);
	for (int i = 1; i < 40; i++) {
		char id[32];

		(void)snprintf(id, sizeof(id), "m-%d", i);
		assert_ok(create(s, id, id, &e), e);
		assert_ok(fm_store_event_append(s, id, &ev, NULL, &e), e);
		assert_ok(move(s, id, PENDING, PLANNING, 0, detail, &e), e);
		after = open_after_power_loss(f);
		assert_int_equal(stored_state(after, id), PLANNING);
		assert_int_equal(count_transitions(after, id), 1);
		assert_ok(fm_store_event_list(after, id, 0, 0, &events, &n, &e), e);
		assert_int_equal(n, 1); /* … but are on it with the next transition */
		fm_store_events_free(events, n);
		assert_int_equal(stored_state(after, "m-0"), PLANNING);
		fm_store_close(after);
	}
	fm_store_close(s);
	(void)sqlite3_vfs_unregister(&vfs.vfs);
}

/* ------------------------------------------------------------------------------------------------ several at once */

/* Each of several processes opens the (fresh) file and tries to get the same container, and moves one of its own. */
static int compete(const char *path, int go_fd, int me)
{
	struct fm_store *s = NULL;
	struct fm_error e = FM_ERROR_INIT;
	char id[32], own[32], c;
	int won;

	if (read(go_fd, &c, 1) != 0 || fm_store_open_sqlite(path, &s, &e) < 0) {
		(void)dprintf(2, "child: %s\n", e.message);
		return 100;
	}
	(void)snprintf(id, sizeof(id), "m-shared-%d", me);
	won = create(s, id, "shared", &e) == 0;
	if (!won && e.code != FM_E_ALREADY_EXISTS)
		return 101;
	for (int i = 0; i < 10; i++) {
		(void)snprintf(id, sizeof(id), "m-%d-%d", me, i);
		(void)snprintf(own, sizeof(own), "c-%d", me);
		if (create(s, id, own, &e) < 0 || move(s, id, PENDING, FAILED, 0, NULL, &e) < 0 ||
		    move(s, id, FAILED, FAILED, 5, NULL, &e) < 0) {
			(void)dprintf(2, "child: %s\n", e.message);
			return 102;
		}
	}
	fm_store_close(s);
	return won;
}

static void test_processes_at_once(void **state)
{
	enum { N = 4 };
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	struct fm_store_migration *v = NULL;
	struct fm_store *s;
	int go[2], winners = 0;
	pid_t pids[N];
	size_t n = 0;

	assert_int_equal(pipe2(go, O_CLOEXEC), 0);
	for (int i = 0; i < N; i++) {
		pids[i] = fork();
		if (pids[i] == 0) {
			(void)close(go[1]);
			_exit(compete(f->path, go[0], i));
		}
		assert_true(pids[i] > 0);
	}
	(void)close(go[1]); /* go */
	for (int i = 0; i < N; i++) {
		int status = 0;

		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_true(WIFEXITED(status));
		assert_in_range(WEXITSTATUS(status), 0, 1);
		winners += WEXITSTATUS(status);
	}
	(void)close(go[0]);
	assert_int_equal(winners, 1);
	s = open_store(f->path);
	assert_ok(fm_store_migration_list(s, false, 0, &v, &n, &e), e);
	assert_int_equal(n, N * 10 + 1);
	fm_store_migrations_free(v, n);
	fm_store_close(s);
}

/* Two processes that both want the same transition: one gets it, the other ABORTED. */
static void test_same_transition_from_two(void **state)
{
	struct fixture *f = *state;
	struct fm_store *a = open_store(f->path), *b = open_store(f->path);
	struct fm_error e = FM_ERROR_INIT;

	assert_ok(create(a, "m-1", "c", &e), e);
	assert_ok(move(b, "m-1", PENDING, PLANNING, 0, NULL, &e), e);
	assert_int_equal(move(a, "m-1", PENDING, FAILED, 0, NULL, &e), -1);
	assert_int_equal(e.code, FM_E_ABORTED);
	assert_int_equal(stored_state(a, "m-1"), PLANNING);
	fm_store_close(a);
	fm_store_close(b);
}

static void test_locked_by_another(void **state)
{
	struct fixture *f = *state;
	struct fm_store *a = open_store(f->path), *b = open_store(f->path);
	struct fm_error e = FM_ERROR_INIT;

	(void)sqlite3_busy_timeout(((struct fm_sqlite *)a)->durable.db, 1); /* instead of FM_STORE_BUSY_MS */
	assert_int_equal(sqlite3_exec(((struct fm_sqlite *)b)->durable.db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(create(a, "m-1", "c", &e), -1);
	assert_int_equal(e.code, FM_E_UNAVAILABLE);
	assert_non_null(strstr(e.hint, "fuser"));
	assert_int_equal(stored_state(a, "m-1"), -FM_E_NOT_FOUND); /* reading goes on */
	assert_int_equal(sqlite3_exec(((struct fm_sqlite *)b)->durable.db, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
	assert_ok(create(a, "m-1", "c", &e), e);
	fm_store_close(a);
	fm_store_close(b);
}

struct worker {
	struct fm_store *store;
	int number;
	int failed_at;
};

static void *work(void *arg)
{
	struct worker *w = arg;
	struct fm_store_event ev = { .line = "l" };
	char id[32];

	for (int i = 0; i < 15 && !w->failed_at; i++) {
		(void)snprintf(id, sizeof(id), "m-%d-%d", w->number, i);
		if (create(w->store, id, id, NULL) < 0 || fm_store_event_append(w->store, id, &ev, NULL, NULL) < 0 ||
		    move(w->store, id, PENDING, PLANNING, 0, "d", NULL) < 0 || fm_store_host_put(w->store, id, "r", 1, 1, NULL) < 0 ||
		    stored_state(w->store, id) != PLANNING)
			w->failed_at = i + 1;
	}
	return NULL;
}

static void test_threads_at_once(void **state)
{
	enum { N = 4 };
	struct fixture *f = *state;
	struct fm_store *s = open_store(f->path);
	struct worker workers[N];
	pthread_t threads[N];

	for (int i = 0; i < N; i++) {
		workers[i] = (struct worker){ .store = s, .number = i };
		assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
	}
	for (int i = 0; i < N; i++) {
		assert_int_equal(pthread_join(threads[i], NULL), 0);
		assert_int_equal(workers[i].failed_at, 0);
	}
	fm_store_close(s);
}

/* ------------------------------------------------------------------------------------------------ full disk */

static void set_max_pages(struct fm_store *s, const char *sql)
{
	struct fm_sqlite *sq = (struct fm_sqlite *)s;

	assert_int_equal(sqlite3_exec(sq->durable.db, sql, NULL, NULL, NULL), SQLITE_OK);
	if (sq->relaxed != &sq->durable)
		assert_int_equal(sqlite3_exec(sq->relaxed->db, sql, NULL, NULL, NULL), SQLITE_OK);
}

/* Fill until it fails, then check that nothing of the failed one is there and that all goes on when there is room again. */
static int fill_until_full(struct fm_store *s, const char *detail)
{
	struct fm_error e = FM_ERROR_INIT;
	char id[32];

	for (int i = 0; i < 100000; i++) {
		(void)snprintf(id, sizeof(id), "m-%d", i);
		e = FM_ERROR_INIT;
		if (create(s, id, id, &e) < 0) {
			if (stored_state(s, id) != -FM_E_NOT_FOUND)
				return -1;
			break;
		}
		if (move(s, id, PENDING, PLANNING, 0, detail, &e) < 0) {
			if (stored_state(s, id) != PENDING || count_transitions(s, id) != 0)
				return -2;
			break;
		}
	}
	if (e.code != FM_E_RESOURCE_EXHAUSTED || !strstr(e.hint, "free space"))
		return -3;
	return stored_state(s, "m-0") == PLANNING ? 0 : -4;
}

static void test_full_by_page_count(void **state)
{
	struct fixture *f = *state;
	struct fm_store *s = open_store(f->path);
	struct fm_error e = FM_ERROR_INIT;
	_fm_free_ char *detail = calloc(1, 3001);
	struct fm_store_event ev = { .line = detail };
	int r = 0;

	memset(detail, 'd', 3000);
	set_max_pages(s, "PRAGMA max_page_count = 40");
	assert_int_equal(fill_until_full(s, detail), 0);
	for (int i = 0; i < 100 && r == 0; i++)
		r = fm_store_event_append(s, "m-0", &ev, NULL, &e);
	assert_int_equal(r, -1);
	assert_int_equal(e.code, FM_E_RESOURCE_EXHAUSTED);
	r = fm_store_host_put(s, "h", detail, 3000, 1, &e); /* may or may not fit */
	assert_true(r == 0 || e.code == FM_E_RESOURCE_EXHAUSTED);
	set_max_pages(s, "PRAGMA max_page_count = 100000");
	assert_ok(create(s, "m-more", "c-more", &e), e);
	assert_ok(fm_store_event_append(s, "m-more", &ev, NULL, &e), e);
	fm_store_close(s);
	s = open_store(f->path);
	assert_int_equal(stored_state(s, "m-more"), PENDING);
	fm_store_close(s);
}

/* In a mount namespace of its own: a file system of 400 KiB. Exit status 0 = as it should be. */
static int fill_tmpfs(const char *dir, const char *path)
{
	struct fm_error e = FM_ERROR_INIT;
	struct fm_store *s = NULL;
	char detail[3001], junk[256];
	int r;

	memset(detail, 'd', 3000);
	detail[3000] = '\0';
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("tmpfs", dir, "tmpfs", 0, "size=400k") < 0)
		return 77;
	if (fm_store_open_sqlite(path, &s, &e) < 0)
		return 2;
	r = fill_until_full(s, detail);
	if (r < 0)
		return 10 - r;
	fm_store_close(s); /* must not spoil anything either: the log may not fit into the file */
	if (fm_store_open_sqlite(path, &s, &e) == 0) {
		if (stored_state(s, "m-0") != PLANNING)
			return 3;
		fm_store_close(s);
	} else if (e.code != FM_E_RESOURCE_EXHAUSTED) {
		(void)dprintf(2, "child: %s\n", e.message);
		return 4;
	}
	if (mount(NULL, dir, NULL, MS_REMOUNT, "size=2m") < 0)
		return 77;
	if (fm_store_open_sqlite(path, &s, &e) < 0 || stored_state(s, "m-0") != PLANNING || create(s, "m-more", "c-more", &e) < 0)
		return 5;
	fm_store_close(s);
	/* No room even for an empty store: refused with the reason, and possible later. */
	if (mount("tmpfs", dir, "tmpfs", 0, "size=16k") < 0)
		return 77;
	if (fm_store_open_sqlite(path, &s, &e) == 0 || e.code != FM_E_RESOURCE_EXHAUSTED) {
		(void)dprintf(2, "child: %s %s\n", fm_code_to_string(e.code), e.message);
		return 6;
	}
	(void)snprintf(junk, sizeof(junk), "size=2m");
	if (mount(NULL, dir, NULL, MS_REMOUNT, junk) < 0)
		return 77;
	if (fm_store_open_sqlite(path, &s, &e) < 0 || create(s, "m-1", "c", &e) < 0)
		return 7;
	fm_store_close(s);
	return 0;
}

static void test_full_tmpfs(void **state)
{
	struct fixture *f = *state;
	int status = 0;
	pid_t pid;

	if (geteuid() != 0) {
		print_message("needs root to mount a small file system\n");
		skip();
	}
	pid = fork();
	if (pid == 0)
		_exit(fill_tmpfs(f->dir, f->path));
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77) {
		print_message("cannot mount a small file system here\n");
		skip();
	}
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* ------------------------------------------------------------------------------------------------ no memory */

static sqlite3_mem_methods real_memory;
static long allocations_left = -1; /* < 0: no limit */

static void *fail_malloc(int n)
{
	if (allocations_left == 0)
		return NULL;
	if (allocations_left > 0)
		allocations_left--;
	return real_memory.xMalloc(n);
}

static void *fail_realloc(void *p, int n)
{
	if (allocations_left == 0)
		return NULL;
	if (allocations_left > 0)
		allocations_left--;
	return real_memory.xRealloc(p, n);
}

/* Before SQLite's first use in this process; every n-th allocation and all after it fail, for all n. */
static void test_no_memory(void **state)
{
	struct fm_error e = FM_ERROR_INIT;
	struct fixture *f = *state;
	struct fm_store *s = NULL;
	long n;

	for (n = 0; !s; n++) {
		e = FM_ERROR_INIT;
		allocations_left = n;
		if (fm_store_open_sqlite(f->path, &s, &e) < 0)
			assert_true(e.code == FM_E_RESOURCE_EXHAUSTED);
		allocations_left = -1;
		assert_true(n < 100000);
	}
	for (int i = 0, done = 0; !done; i++) {
		struct fm_store_event ev = { .line = "x" };
		struct fm_store_migration *v = NULL;
		size_t count = 0;
		int created, moved, noted, listed;
		char id[32];

		(void)snprintf(id, sizeof(id), "m-%d", i);
		allocations_left = i;
		created = create(s, id, id, NULL);
		moved = created < 0 ? -1 : move(s, id, PENDING, PLANNING, 0, "d", NULL);
		noted = created < 0 ? -1 : fm_store_event_append(s, id, &ev, NULL, NULL);
		listed = fm_store_migration_list(s, true, 0, &v, &count, NULL);
		allocations_left = -1;
		fm_store_migrations_free(v, count);
		assert_int_equal(stored_state(s, id), created < 0 ? -(int)FM_E_NOT_FOUND : moved < 0 ? PENDING : PLANNING);
		assert_int_equal(count_transitions(s, id), moved == 0);
		done = moved == 0 && noted == 0 && listed == 0;
		assert_true(i < 100000);
	}
	fm_store_close(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_kill_in_write_loop, setup, teardown),
		cmocka_unit_test_setup_teardown(test_power_loss, setup, teardown),
		cmocka_unit_test_setup_teardown(test_processes_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_same_transition_from_two, setup, teardown),
		cmocka_unit_test_setup_teardown(test_locked_by_another, setup, teardown),
		cmocka_unit_test_setup_teardown(test_threads_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full_by_page_count, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full_tmpfs, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_memory, setup, teardown),
	};
	sqlite3_mem_methods memory;

	if (sqlite3_config(SQLITE_CONFIG_GETMALLOC, &real_memory) != SQLITE_OK)
		return 1;
	memory = real_memory;
	memory.xMalloc = fail_malloc;
	memory.xRealloc = fail_realloc;
	if (sqlite3_config(SQLITE_CONFIG_MALLOC, &memory) != SQLITE_OK)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
