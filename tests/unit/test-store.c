/* SPDX-License-Identifier: MIT */
/*
 * test-store.c - what each function of the store promises, and which files it refuses, on real files.
 * What must hold when things go wrong (kill -9, power loss, two processes, full disk, no memory) is in test-store-crash.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/clock.h"
#include "basic/error.h"
#include "basic/io.h"
#include "basic/log.h"
#include "basic/str.h"
#include "store/store-sqlite.h"

enum { PENDING = 1, PLANNING, PREPARATION, EXECUTION, VERIFICATION, COMPLETED, FAILED, ROLLBACK };

#define assert_ok(call, e)                                                                                                                 \
	do {                                                                                                                               \
		if ((call) != 0)                                                                                                           \
			fail_msg("%s: %s (%s)", #call, (e).message, (e).hint);                                                             \
	} while (0)
#define assert_code(call, e, want)                                                                                                         \
	do {                                                                                                                               \
		(e) = FM_ERROR_INIT;                                                                                                       \
		assert_int_equal((call), -1);                                                                                              \
		if ((e).code != (want))                                                                                                    \
			fail_msg("%s: %s %s, wanted %s", #call, fm_code_to_string((e).code), (e).message, fm_code_to_string(want));        \
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

static struct fm_store_migration make(const char *id, const char *container)
{
	return (struct fm_store_migration){ .id = (char *)id,
		                            .container = (char *)container,
		                            .source = "a",
		                            .destination = "b",
		                            .strategy = "auto",
		                            .state = PENDING,
		                            .path = "",
		                            .created_ms = 1000 };
}

static int move(struct fm_store *s, struct fm_store_migration *m, int to, const char *label, uint64_t finished_ms, struct fm_error *e)
{
	int from = m->state;

	m->state = to;
	m->finished_ms = finished_ms;
	if (fm_store_migration_transition(s, from, m, label, "because", e) == 0)
		return 0;
	m->state = from;
	m->finished_ms = 0;
	return -1;
}

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

/* ------------------------------------------------------------------------------------------------ migrations */

static void test_create_and_get(void **state)
{
	struct fixture *f = *state;
	struct fm_store *s = open_store(f->path);
	struct fm_store_migration m = make("m-1", "redis"), got = { 0 };
	struct fm_error e = FM_ERROR_INIT;
	uint32_t epoch = 0;

	m.detail = "\0x\xff";
	m.detail_len = 3;
	m.error_code = 9;
	m.error_message = "none yet";
	m.epoch = 77;       /* not looked at */
	m.finished_ms = 55; /* not looked at */
	assert_ok(fm_store_migration_create(s, &m, &epoch, &e), e);
	assert_int_equal(epoch, 1);
	fm_store_close(s);

	s = open_store(f->path);
	assert_ok(fm_store_migration_get(s, "m-1", &got, &e), e);
	assert_string_equal(got.id, "m-1");
	assert_string_equal(got.container, "redis");
	assert_string_equal(got.source, "a");
	assert_string_equal(got.destination, "b");
	assert_string_equal(got.strategy, "auto");
	assert_string_equal(got.path, "");
	assert_string_equal(got.error_message, "none yet");
	assert_int_equal(got.state, PENDING);
	assert_int_equal(got.epoch, 1);
	assert_int_equal(got.created_ms, 1000);
	assert_int_equal(got.finished_ms, 0);
	assert_int_equal(got.error_code, 9);
	assert_int_equal(got.detail_len, 3);
	assert_memory_equal(got.detail, "\0x\xff", 3);
	fm_store_migration_done(&got);
	assert_null(got.id); /* may be freed twice */
	fm_store_migration_done(&got);
	assert_code(fm_store_migration_get(s, "m-2", &got, &e), e, FM_E_NOT_FOUND);
	assert_null(got.id); /* written only on success */
	fm_store_close(s);
	fm_store_close(NULL);
	fm_store_migration_done(NULL);
}

static void test_one_migration_a_container(void **state)
{
	struct fixture *f = *state;
	struct fm_store *s = open_store(f->path);
	struct fm_store_migration m1 = make("m-1", "redis"), m2 = make("m-2", "redis"), m3 = make("m-3", "web");
	struct fm_error e = FM_ERROR_INIT;
	struct fm_sqlite *sq = (struct fm_sqlite *)s;
	uint32_t epoch = 0;

	assert_ok(fm_store_migration_create(s, &m1, &epoch, &e), e);
	assert_code(fm_store_migration_create(s, &m2, &epoch, &e), e, FM_E_ALREADY_EXISTS);
	assert_non_null(strstr(e.message, "m-1"));
	assert_non_null(strstr(e.message, "redis"));
	assert_int_equal(epoch, 1);
	assert_ok(fm_store_migration_create(s, &m3, &epoch, &e), e);
	assert_int_equal(epoch, 1);
	/* FAILED for the first time is not the end: the rollback follows. */
	assert_ok(move(s, &m1, FAILED, "1F", 0, &e), e);
	assert_code(fm_store_migration_create(s, &m2, &epoch, &e), e, FM_E_ALREADY_EXISTS);
	assert_ok(move(s, &m1, ROLLBACK, "", 0, &e), e);
	assert_ok(move(s, &m1, FAILED, "", 2000, &e), e);
	/* A refused creation used up no epoch. */
	assert_ok(fm_store_migration_create(s, &m2, &epoch, &e), e);
	assert_int_equal(epoch, 2);
	m3.container = "other";
	assert_code(fm_store_migration_create(s, &m3, &epoch, &e), e, FM_E_ALREADY_EXISTS); /* the id */
	/* The law is the database's, not only ours. */
	assert_int_equal(sqlite3_exec(sq->durable.db,
	                              "INSERT INTO migrations SELECT NULL, 'm-9', container, source, destination, strategy, state,"
	                              " path, 9, created_ms, 0, 0, '', x'' FROM migrations WHERE id = 'm-2'",
	                              NULL, NULL, NULL),
	                 SQLITE_CONSTRAINT_UNIQUE);
	assert_int_equal(sqlite3_exec(sq->durable.db, "UPDATE migrations SET state = 9 WHERE id = 'm-2'", NULL, NULL, NULL),
	                 SQLITE_CONSTRAINT_CHECK);
	assert_int_equal(sqlite3_exec(sq->durable.db, "UPDATE migrations SET state = 'x' WHERE id = 'm-2'", NULL, NULL, NULL),
	                 SQLITE_CONSTRAINT_DATATYPE);
	assert_int_equal(sqlite3_exec(sq->durable.db, "UPDATE migrations SET finished_ms = 1 WHERE id = 'm-2'", NULL, NULL, NULL),
	                 SQLITE_CONSTRAINT_CHECK);
	assert_int_equal(sqlite3_exec(sq->durable.db, "UPDATE migrations SET finished_ms = 0 WHERE id = 'm-1'", NULL, NULL, NULL),
	                 SQLITE_CONSTRAINT_TRIGGER);
	assert_int_equal(sqlite3_exec(sq->durable.db, "INSERT INTO transitions VALUES (NULL, 4711, 1, 2, '', 0, '')", NULL, NULL, NULL),
	                 SQLITE_CONSTRAINT_FOREIGNKEY);
	fm_store_close(s);
}

static void test_transitions(void **state)
{
	struct fixture *f = *state;
	struct fm_store *s = open_store(f->path);
	struct fm_store_migration m = make("m-1", "redis"), got = { 0 };
	struct fm_store_transition *t = NULL;
	struct fm_error e = FM_ERROR_INIT;
	size_t n = 0;

	assert_code(fm_store_migration_transition(s, PENDING, &m, "1N", "", &e), e, FM_E_NOT_FOUND);
	assert_code(fm_store_transition_list(s, "m-1", &t, &n, &e), e, FM_E_NOT_FOUND);
	assert_ok(fm_store_migration_create(s, &m, NULL, &e), e);
	assert_ok(fm_store_transition_list(s, "m-1", &t, &n, &e), e);
	assert_int_equal(n, 0);
	fm_store_transitions_free(t, n);
	m.state = PLANNING;
	assert_code(fm_store_migration_transition(s, PREPARATION, &m, "1N", "", &e), e, FM_E_ABORTED);
	assert_int_equal(stored_state(s, "m-1"), PENDING);
	m.state = PENDING;
	m.path = "1N";
	m.strategy = "post-copy";
	m.source = NULL;
	m.destination = "c";
	m.container = "ignored";
	m.detail = "d1";
	m.detail_len = 2;
	assert_ok(move(s, &m, PLANNING, "1N", 0, &e), e);
	assert_code(fm_store_migration_transition(s, PENDING, &m, "1N", "again", &e), e, FM_E_ABORTED);
	assert_ok(fm_store_migration_get(s, "m-1", &got, &e), e);
	assert_string_equal(got.container, "redis");
	assert_string_equal(got.source, "");
	assert_string_equal(got.destination, "c");
	assert_string_equal(got.strategy, "post-copy");
	assert_string_equal(got.path, "1N");
	assert_int_equal(got.created_ms, 1000);
	assert_memory_equal(got.detail, "d1", 2);
	fm_store_migration_done(&got);
	assert_ok(move(s, &m, PREPARATION, "2N", 0, &e), e);
	assert_ok(move(s, &m, EXECUTION, NULL, 0, &e), e);
	assert_ok(move(s, &m, VERIFICATION, "4N", 0, &e), e);
	assert_ok(move(s, &m, COMPLETED, "5N", 0, &e), e);
	assert_ok(move(s, &m, COMPLETED, "6N", 3000, &e), e);
	assert_code(fm_store_migration_transition(s, COMPLETED, &m, "6N", "", &e), e, FM_E_FAILED_PRECONDITION);
	m.state = FAILED;
	assert_code(fm_store_migration_transition(s, COMPLETED, &m, "", "", &e), e, FM_E_FAILED_PRECONDITION);
	assert_int_equal(stored_state(s, "m-1"), COMPLETED);
	assert_ok(fm_store_transition_list(s, "m-1", &t, &n, &e), e);
	assert_int_equal(n, 6);
	assert_int_equal(t[0].from, PENDING);
	assert_int_equal(t[0].to, PLANNING);
	assert_string_equal(t[0].label, "1N");
	assert_string_equal(t[0].reason, "because");
	assert_true(t[0].at_ms > 1500000000000);
	assert_string_equal(t[2].label, "");
	assert_int_equal(t[5].from, COMPLETED);
	assert_int_equal(t[5].to, COMPLETED);
	fm_store_transitions_free(t, n);
	fm_store_close(s);
}

static void test_update_and_list(void **state)
{
	struct fixture *f = *state;
	struct fm_store *s = open_store(f->path);
	struct fm_store_migration m1 = make("m-1", "c1"), m2 = make("m-2", "c2"), m3 = make("m-3", "c3"), u = { .id = "m-2" };
	struct fm_store_migration *v = NULL;
	struct fm_error e = FM_ERROR_INIT;
	size_t n = 7;

	assert_ok(fm_store_migration_list(s, false, 0, &v, &n, &e), e);
	assert_int_equal(n, 0);
	fm_store_migrations_free(v, n);
	assert_code(fm_store_migration_update(s, &m1, &e), e, FM_E_NOT_FOUND);
	assert_ok(fm_store_migration_create(s, &m1, NULL, &e), e);
	assert_ok(fm_store_migration_create(s, &m2, NULL, &e), e);
	assert_ok(fm_store_migration_create(s, &m3, NULL, &e), e);
	assert_ok(move(s, &m1, FAILED, "1F", 99, &e), e);
	u.error_code = 14;
	u.error_message = "agent 'b' is away";
	u.detail = "later";
	u.detail_len = 5;
	assert_ok(fm_store_migration_update(s, &u, &e), e);
	assert_ok(fm_store_migration_list(s, false, 0, &v, &n, &e), e);
	assert_int_equal(n, 3);
	assert_string_equal(v[0].id, "m-3");
	assert_string_equal(v[2].id, "m-1");
	assert_int_equal(v[1].state, PENDING);
	assert_int_equal(v[1].error_code, 14);
	assert_string_equal(v[1].error_message, "agent 'b' is away");
	assert_string_equal(v[1].source, "a"); /* not part of an update */
	assert_memory_equal(v[1].detail, "later", 5);
	assert_null(v[0].detail);
	fm_store_migrations_free(v, n);
	assert_ok(fm_store_migration_list(s, true, 10, &v, &n, &e), e);
	assert_int_equal(n, 2);
	assert_string_equal(v[1].id, "m-2");
	fm_store_migrations_free(v, n);
	assert_ok(fm_store_migration_list(s, false, 1, &v, &n, &e), e);
	assert_int_equal(n, 1);
	assert_string_equal(v[0].id, "m-3");
	fm_store_migrations_free(v, n);
	fm_store_close(s);
}

static void test_arguments_are_checked(void **state)
{
	struct fm_store *s = open_store(":memory:");
	struct fm_store_migration m = make("m-1", "c");
	struct fm_store_event ev = { .level = FM_LOG_INFO };
	struct fm_error e = FM_ERROR_INIT;
	_fm_free_ char *big = calloc(1, (4 << 20) + 1);
	char long_name[300];
	const size_t lens[] = { 5 };
	const char *const names[] = { "" };
	const void *const blobs[] = { "hello" };

	memset(long_name, 'x', sizeof(long_name) - 1);
	long_name[sizeof(long_name) - 1] = '\0';
#define REFUSED(field, value)                                                                                                              \
	do {                                                                                                                               \
		struct fm_store_migration bad = m;                                                                                         \
		bad.field = (value);                                                                                                       \
		assert_code(fm_store_migration_create(s, &bad, NULL, &e), e, FM_E_INVALID_ARGUMENT);                                       \
	} while (0)
	REFUSED(id, NULL);
	REFUSED(id, "");
	REFUSED(id, long_name);
	REFUSED(container, NULL);
	REFUSED(container, "");
	REFUSED(container, long_name);
	REFUSED(source, long_name);
	REFUSED(destination, long_name);
	REFUSED(strategy, long_name);
	REFUSED(state, 0);
	REFUSED(state, 9);
	REFUSED(error_code, -1);
	REFUSED(error_code, 17);
	REFUSED(created_ms, UINT64_MAX);
	REFUSED(detail_len, 1);
	m.detail = big;
	m.detail_len = (4 << 20) + 1;
	assert_code(fm_store_migration_create(s, &m, NULL, &e), e, FM_E_INVALID_ARGUMENT);
	m.detail_len--;
	assert_ok(fm_store_migration_create(s, &m, NULL, &e), e); /* the largest */
	m.state = PLANNING;
	assert_code(fm_store_migration_transition(s, PENDING, &m, "1234", "", &e), e, FM_E_INVALID_ARGUMENT);
	assert_code(fm_store_migration_transition(s, 0, &m, "", "", &e), e, FM_E_INVALID_ARGUMENT);
	m.finished_ms = 1;
	assert_code(fm_store_migration_transition(s, PENDING, &m, "", "", &e), e, FM_E_INVALID_ARGUMENT);
	ev.level = 4;
	assert_code(fm_store_event_append(s, "m-1", &ev, NULL, &e), e, FM_E_INVALID_ARGUMENT);
	ev.level = 0;
	ev.state = 9;
	assert_code(fm_store_event_append(s, "m-1", &ev, NULL, &e), e, FM_E_INVALID_ARGUMENT);
	assert_code(fm_store_host_put(s, "", "x", 1, 0, &e), e, FM_E_INVALID_ARGUMENT);
	assert_code(fm_store_host_put(s, "h", NULL, 1, 0, &e), e, FM_E_INVALID_ARGUMENT);
	assert_code(fm_store_host_put(s, "h", big, (1 << 20) + 1, 0, &e), e, FM_E_INVALID_ARGUMENT);
	assert_code(fm_store_containers_put(s, "h", 1, names, blobs, lens, &e), e, FM_E_INVALID_ARGUMENT);
	assert_code(fm_store_containers_put(s, "h", 5000, names, blobs, lens, &e), e, FM_E_RESOURCE_EXHAUSTED);
	assert_int_equal(fm_store_migration_get(s, NULL, NULL, NULL), -1); /* nobody wants the reason */
	fm_store_close(s);
}

static void test_free_text_is_cut_at_a_character(void **state)
{
	struct fm_store *s = open_store(":memory:");
	struct fm_store_migration m = make("m-1", "c"), got = { 0 };
	struct fm_error e = FM_ERROR_INIT;
	char text[4000];

	/* 'x' and then two-byte characters: byte 2048 is in the middle of one. */
	text[0] = 'x';
	for (size_t i = 1; i + 2 < sizeof(text); i += 2)
		memcpy(text + i, "\xc3\xa9", 3);
	m.error_message = text;
	assert_ok(fm_store_migration_create(s, &m, NULL, &e), e);
	assert_ok(fm_store_migration_get(s, "m-1", &got, &e), e);
	assert_int_equal(strlen(got.error_message), 2047);
	assert_memory_equal(got.error_message, text, 2047);
	fm_store_migration_done(&got);
	fm_store_close(s);
}

static void test_history_is_bounded(void **state)
{
	struct fm_store *s = open_store(":memory:");
	struct fm_sqlite *sq = (struct fm_sqlite *)s;
	struct fm_store_migration old = make("m-old", "old"), active = make("m-active", "active"), fresh = make("m-fresh", "old");
	struct fm_store_event ev = { .component = "X", .line = "y" };
	struct fm_store_event *events = NULL;
	struct fm_error e = FM_ERROR_INIT;
	uint32_t epoch = 0;
	size_t n = 0;

	assert_ok(fm_store_migration_create(s, &old, NULL, &e), e);
	assert_ok(fm_store_event_append(s, "m-old", &ev, NULL, &e), e);
	assert_ok(move(s, &old, FAILED, "1F", 5, &e), e);
	assert_ok(fm_store_migration_create(s, &active, NULL, &e), e);
	/* As if 10,000 had passed. */
	assert_int_equal(sqlite3_exec(sq->durable.db, "UPDATE sqlite_sequence SET seq = 10001 WHERE name = 'migrations'", NULL, NULL, NULL),
	                 SQLITE_OK);
	assert_ok(fm_store_migration_create(s, &fresh, &epoch, &e), e);
	assert_int_equal(epoch, 2); /* fencing numbers outlive the history */
	assert_int_equal(stored_state(s, "m-old"), -FM_E_NOT_FOUND);
	assert_int_equal(stored_state(s, "m-active"), PENDING);
	assert_code(fm_store_event_list(s, "m-old", 0, 0, &events, &n, &e), e, FM_E_NOT_FOUND);
	fm_store_close(s);
}

/* ------------------------------------------------------------------------------------------------ log lines */

static void test_events(void **state)
{
	struct fixture *f = *state;
	struct fm_store *s = open_store(f->path);
	struct fm_store_migration m1 = make("m-1", "c1"), m2 = make("m-2", "c2");
	struct fm_store_event ev = {
		.seq = 99, .at_ms = 5, .level = FM_LOG_WARN, .component = "Planner", .line = "hello", .state = PLANNING
	};
	struct fm_store_event *v = NULL;
	struct fm_error e = FM_ERROR_INIT;
	uint64_t seq = 0;
	size_t n = 0;

	assert_code(fm_store_event_append(s, "m-1", &ev, &seq, &e), e, FM_E_NOT_FOUND);
	assert_ok(fm_store_migration_create(s, &m1, NULL, &e), e);
	assert_ok(fm_store_migration_create(s, &m2, NULL, &e), e);
	assert_ok(fm_store_event_append(s, "m-1", &ev, &seq, &e), e);
	assert_int_equal(seq, 1);
	ev.line = NULL;
	ev.component = NULL;
	ev.at_ms = 0;
	assert_ok(fm_store_event_append(s, "m-1", &ev, NULL, &e), e);
	assert_ok(fm_store_event_append(s, "m-2", &ev, &seq, &e), e);
	assert_int_equal(seq, 1); /* counted a migration */
	fm_store_close(s);
	s = open_store(f->path);
	assert_ok(fm_store_event_list(s, "m-1", 0, 0, &v, &n, &e), e);
	assert_int_equal(n, 2);
	assert_int_equal(v[0].seq, 1);
	assert_int_equal(v[0].at_ms, 5);
	assert_int_equal(v[0].level, FM_LOG_WARN);
	assert_int_equal(v[0].state, PLANNING);
	assert_string_equal(v[0].component, "Planner");
	assert_string_equal(v[0].line, "hello");
	assert_string_equal(v[1].line, "");
	assert_true(v[1].at_ms > 1500000000000);
	fm_store_events_free(v, n);
	assert_ok(fm_store_event_list(s, "m-1", 1, 0, &v, &n, &e), e);
	assert_int_equal(n, 1);
	fm_store_events_free(v, n);
	assert_ok(fm_store_event_list(s, "m-1", 0, 1, &v, &n, &e), e);
	assert_int_equal(n, 1);
	assert_int_equal(v[0].seq, 1);
	fm_store_events_free(v, n);
	assert_ok(fm_store_event_list(s, "m-1", UINT64_MAX, 0, &v, &n, &e), e);
	assert_int_equal(n, 0);
	fm_store_events_free(v, n);
	fm_store_close(s);
}

static void test_events_are_bounded(void **state)
{
	struct fm_store *s = open_store(":memory:");
	struct fm_store_migration m = make("m-1", "c");
	struct fm_store_event ev = { .component = "C", .line = "l" };
	struct fm_store_event *v = NULL;
	struct fm_error e = FM_ERROR_INIT;
	uint64_t seq = 0;
	size_t n = 0;

	assert_ok(fm_store_migration_create(s, &m, NULL, &e), e);
	for (int i = 0; i < 2100; i++)
		assert_ok(fm_store_event_append(s, "m-1", &ev, &seq, &e), e);
	assert_int_equal(seq, 2100);
	assert_ok(fm_store_event_list(s, "m-1", 0, 0, &v, &n, &e), e);
	assert_int_equal(n, 2000);
	assert_int_equal(v[0].seq, 101);
	assert_int_equal(v[1999].seq, 2100);
	fm_store_events_free(v, n);
	fm_store_close(s);
}

/* ------------------------------------------------------------------------------------------------ fleet */

struct seen {
	struct fm_store *store;
	unsigned n, stop_after;
	char text[4096];
};

static int see(void *userdata, const char *host, const char *name, const void *blob, size_t len, uint64_t seen_ms)
{
	struct seen *s = userdata;
	size_t used = strlen(s->text);

	if (used < sizeof(s->text) - 128)
		(void)snprintf(s->text + used, sizeof(s->text) - used, "%s/%s=%.*s@%d ", host, name, (int)len, (const char *)blob,
		               (int)seen_ms);
	/* The store may be used from here. */
	if (s->store && fm_store_host_put(s->store, "h1", "again", 5, 8, NULL) < 0)
		return -1;
	return ++s->n == s->stop_after;
}

static void test_hosts_and_containers(void **state)
{
	struct fixture *f = *state;
	struct fm_store *s = open_store(f->path);
	struct fm_error e = FM_ERROR_INIT;
	const char *const names[] = { "web", "db", "web" };
	const void *const blobs[] = { "W", "D", "X" };
	const size_t lens[] = { 1, 1, 1 };
	struct seen seen = { 0 };

	assert_code(fm_store_containers_put(s, "h1", 2, names, blobs, lens, &e), e, FM_E_NOT_FOUND);
	assert_ok(fm_store_host_put(s, "h2", NULL, 0, 6, &e), e);
	assert_ok(fm_store_host_put(s, "h1", "one", 3, 5, &e), e);
	assert_ok(fm_store_host_put(s, "h1", "two", 3, 7, &e), e);
	assert_ok(fm_store_containers_put(s, "h1", 2, names, blobs, lens, &e), e);
	assert_ok(fm_store_containers_put(s, "h2", 1, names, blobs, lens, &e), e);
	assert_code(fm_store_containers_put(s, "h1", 3, names, blobs, lens, &e), e, FM_E_INVALID_ARGUMENT); /* "web" twice: all as before */
	fm_store_close(s);
	s = open_store(f->path);
	assert_ok(fm_store_host_each(s, see, &seen, &e), e);
	assert_string_equal(seen.text, "h1/h1=two@7 h2/h2=@6 ");
	seen = (struct seen){ .store = s };
	assert_ok(fm_store_container_each(s, see, &seen, &e), e);
	assert_string_equal(seen.text, "h1/db=D@7 h1/web=W@7 h2/web=W@6 ");
	seen = (struct seen){ .stop_after = 2 };
	assert_ok(fm_store_container_each(s, see, &seen, &e), e);
	assert_int_equal(seen.n, 2);
	assert_ok(fm_store_containers_put(s, "h1", 0, NULL, NULL, NULL, &e), e);
	seen = (struct seen){ 0 };
	assert_ok(fm_store_container_each(s, see, &seen, &e), e);
	assert_string_equal(seen.text, "h2/web=W@6 ");
	fm_store_close(s);
}

static void test_many_containers(void **state)
{
	enum { N = 192 }; /* three whole pages */
	struct fm_store *s = open_store(":memory:");
	struct fm_error e = FM_ERROR_INIT;
	char text[N][8];
	const char *names[N];
	const void *blobs[N];
	size_t lens[N];
	struct seen seen = { .store = s };

	for (int i = 0; i < N; i++) {
		(void)snprintf(text[i], sizeof(text[i]), "c%d", i);
		names[i] = blobs[i] = text[i];
		lens[i] = strlen(text[i]);
	}
	assert_ok(fm_store_host_put(s, "h1", "x", 1, 1, &e), e);
	assert_ok(fm_store_host_put(s, "h2", "x", 1, 1, &e), e);
	assert_ok(fm_store_containers_put(s, "h1", N, names, blobs, lens, &e), e);
	assert_ok(fm_store_containers_put(s, "h2", N - 1, names, blobs, lens, &e), e);
	assert_ok(fm_store_container_each(s, see, &seen, &e), e);
	assert_int_equal(seen.n, 2 * N - 1);
	fm_store_close(s);
}

/* ------------------------------------------------------------------------------------------------ the file */

static void test_file_is_private_and_checked(void **state)
{
	struct fixture *f = *state;
	struct fm_store *s = NULL;
	struct fm_error e = FM_ERROR_INIT;
	char path[200];
	mode_t mask = umask(0);
	struct stat sb;

	s = open_store(f->path);
	umask(mask);
	for (int i = 0; i < 3; i++) {
		(void)snprintf(path, sizeof(path), "%s%s", f->path, (const char *[]){ "", "-wal", "-shm" }[i]);
		assert_int_equal(stat(path, &sb), 0);
		assert_int_equal(sb.st_mode & 07777, 0600);
	}
	fm_store_close(s);
	s = NULL;
	(void)snprintf(path, sizeof(path), "%s-wal", f->path);
	assert_int_equal(access(path, F_OK), -1); /* everything is in one file after a clean end */
	(void)snprintf(path, sizeof(path), "%s/none/store.db", f->dir);
	assert_code(fm_store_open_sqlite(path, &s, &e), e, FM_E_NOT_FOUND);
	assert_code(fm_store_open_sqlite(f->dir, &s, &e), e, FM_E_FAILED_PRECONDITION);
	assert_code(fm_store_open_sqlite("", &s, &e), e, FM_E_INVALID_ARGUMENT);
	assert_code(fm_store_open_sqlite(NULL, &s, &e), e, FM_E_INVALID_ARGUMENT);
	assert_int_equal(chmod(f->path, 0620), 0);
	assert_code(fm_store_open_sqlite(f->path, &s, &e), e, FM_E_FAILED_PRECONDITION);
	assert_non_null(strstr(e.hint, "chmod"));
	assert_null(s);
}

static void raw_sql(const char *path, const char *sql)
{
	sqlite3 *db = NULL;

	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static void test_newer_and_foreign_files_are_refused(void **state)
{
	struct fixture *f = *state;
	struct fm_store *s = open_store(f->path);
	struct fm_error e = FM_ERROR_INIT;
	char other[200];
	_fm_free_ char *before = NULL;
	_fm_free_ char *after = NULL;
	size_t n_before = 0, n_after = 0;

	fm_store_close(s);
	s = NULL;
	raw_sql(f->path, "PRAGMA user_version = 99");
	assert_ok(fm_read_file(f->path, 1 << 20, &before, &n_before, &e), e);
	assert_code(fm_store_open_sqlite(f->path, &s, &e), e, FM_E_FAILED_PRECONDITION);
	assert_non_null(strstr(e.message, "schema version 99"));
	assert_ok(fm_read_file(f->path, 1 << 20, &after, &n_after, &e), e);
	assert_int_equal(n_before, n_after);
	assert_memory_equal(before, after, n_before); /* not touched */
	(void)snprintf(other, sizeof(other), "%s/other.db", f->dir);
	raw_sql(other, "CREATE TABLE t (x)");
	assert_int_equal(chmod(other, 0600), 0);
	assert_code(fm_store_open_sqlite(other, &s, &e), e, FM_E_FAILED_PRECONDITION);
	assert_non_null(strstr(e.message, "another program"));
	raw_sql(other, "DROP TABLE t; PRAGMA application_id = 7");
	assert_code(fm_store_open_sqlite(other, &s, &e), e, FM_E_FAILED_PRECONDITION);
	raw_sql(other, "PRAGMA application_id = 0; PRAGMA user_version = -1");
	assert_code(fm_store_open_sqlite(other, &s, &e), e, FM_E_FAILED_PRECONDITION);
	assert_null(s);
}

static void write_file(const char *path, size_t offset, const void *data, size_t n, bool truncate)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | (truncate ? O_TRUNC : 0), 0600);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, data, n, (off_t)offset), (ssize_t)n);
	(void)close(fd);
}

static void test_damaged_files_are_refused(void **state)
{
	struct fixture *f = *state;
	struct fm_store *s = open_store(f->path);
	struct fm_error e = FM_ERROR_INIT;
	struct fm_store_migration m = make("m-1", "c");
	_fm_free_ char *sound = NULL;
	char junk[4096];
	size_t n = 0;

	assert_ok(fm_store_migration_create(s, &m, NULL, &e), e);
	fm_store_close(s);
	s = NULL;
	raw_sql(f->path, "VACUUM"); /* a page that upgrades have freed may hold anything */
	assert_ok(fm_read_file(f->path, 1 << 20, &sound, &n, &e), e);
	assert_true(n > 4 * sizeof(junk));
	memset(junk, 0x5a, sizeof(junk));
	/* Each page in turn, the first with the header included. */
	for (size_t at = 0; at < n; at += sizeof(junk)) {
		write_file(f->path, 0, sound, n, true);
		write_file(f->path, at, junk, sizeof(junk), false);
		assert_code(fm_store_open_sqlite(f->path, &s, &e), e, FM_E_DATA_LOSS);
		assert_non_null(strstr(e.message, f->path));
		assert_non_null(strstr(e.hint, "backup"));
	}
	write_file(f->path, 0, sound, n / 2, true); /* cut off */
	assert_code(fm_store_open_sqlite(f->path, &s, &e), e, FM_E_DATA_LOSS);
	write_file(f->path, 0, "not a database at all, but long enough to have been one", 50, true);
	assert_code(fm_store_open_sqlite(f->path, &s, &e), e, FM_E_DATA_LOSS);
	assert_null(s);
	write_file(f->path, 0, sound, n, true);
	s = open_store(f->path);
	assert_int_equal(stored_state(s, "m-1"), PENDING);
	fm_store_close(s);
	write_file(f->path, 0, "", 0, true); /* empty: an interrupted first start */
	s = open_store(f->path);
	fm_store_close(s);
}

static void test_upgrade_sets_version_and_identity(void **state)
{
	struct fixture *f = *state;
	struct fm_store *s = NULL;
	sqlite3 *db = NULL;
	sqlite3_stmt *st = NULL;

	/* An empty database that another connection has open already. */
	raw_sql(f->path, "PRAGMA journal_mode = WAL");
	assert_int_equal(chmod(f->path, 0600), 0);
	assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
	s = open_store(f->path);
	assert_int_equal(sqlite3_prepare_v2(db,
	                                    "SELECT (SELECT user_version FROM pragma_user_version),"
	                                    " (SELECT application_id FROM pragma_application_id), count(*)"
	                                    " FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'",
	                                    -1, &st, NULL),
	                 SQLITE_OK);
	assert_int_equal(sqlite3_step(st), SQLITE_ROW);
	assert_int_equal(sqlite3_column_int(st, 0), 4);
	assert_int_equal(sqlite3_column_int(st, 1), 0x464d6967);
	assert_int_equal(sqlite3_column_int(st, 2), 7);
	(void)sqlite3_finalize(st);
	(void)sqlite3_close(db);
	fm_store_close(s);
	s = open_store(f->path); /* nothing to upgrade the second time */
	fm_store_close(s);
}

static void test_records(void **state)
{
	struct fixture *f = *state;
	struct fm_store *s = open_store(f->path);
	struct fm_error e = FM_ERROR_INIT;
	struct fm_store_record *v = NULL;
	void *data = NULL;
	size_t n = 0, len = 0;

	assert_int_equal(fm_store_record_put(s, "plan", "p1", "one", 3, &e), 0);
	assert_int_equal(fm_store_record_put(s, "plan", "p2", NULL, 0, &e), 0);
	assert_int_equal(fm_store_record_put(s, "other", "p1", "x", 1, &e), 0);
	assert_int_equal(fm_store_record_put(s, "plan", "p1", "uno", 3, &e), 0); /* keeps its place */
	fm_store_close(s);
	s = open_store(f->path);
	assert_int_equal(fm_store_record_list(s, "plan", 0, &v, &n, &e), 0);
	assert_int_equal(n, 2);
	assert_string_equal(v[0].id, "p2");
	assert_int_equal(v[0].len, 0);
	assert_non_null(v[0].data);
	assert_string_equal(v[1].id, "p1");
	assert_memory_equal(v[1].data, "uno", 3);
	fm_store_records_free(v, n);
	assert_int_equal(fm_store_record_list(s, "plan", 1, &v, &n, &e), 0);
	assert_int_equal(n, 1);
	fm_store_records_free(v, n);
	assert_int_equal(fm_store_record_get(s, "other", "p1", &data, &len, &e), 0);
	assert_int_equal(len, 1);
	free(data);
	assert_int_equal(fm_store_record_delete(s, "plan", "p1", &e), 0);
	assert_int_equal(fm_store_record_delete(s, "plan", "p1", &e), 0);
	assert_int_equal(fm_store_record_get(s, "plan", "p1", &data, &len, &e), -1);
	assert_int_equal(e.code, FM_E_NOT_FOUND);
	assert_int_equal(fm_store_record_put(s, "", "p1", "x", 1, &e), -1);
	assert_int_equal(e.code, FM_E_INVALID_ARGUMENT);
	fm_store_close(s);
}

static void test_records_that_are_kept(void **state)
{
	struct fixture *f = *state;
	struct fm_store *s = open_store(f->path);
	struct fm_error e = FM_ERROR_INIT;
	char name[257] = "";
	struct seen seen = { 0 };

	assert_ok(fm_store_record_keep(s, "usage", "b@1", 10, "one", 3, &e), e);
	assert_ok(fm_store_record_keep(s, "usage", "a@2", 20, "two", 3, &e), e);
	assert_ok(fm_store_record_keep(s, "usage", "b@1", 30, "three", 5, &e), e);
	assert_ok(fm_store_record_keep(s, "zoo", "a@2", 1, NULL, 0, &e), e);
	assert_ok(fm_store_record_keep(s, "apes", "x", 1, "x", 1, &e), e);
	assert_code(fm_store_record_keep(s, "", "x", 1, "x", 1, &e), e, FM_E_INVALID_ARGUMENT);
	assert_code(fm_store_record_keep(s, "usage", "", 1, "x", 1, &e), e, FM_E_INVALID_ARGUMENT);
	assert_code(fm_store_record_keep(s, "usage", NULL, 1, "x", 1, &e), e, FM_E_INVALID_ARGUMENT);
	memset(name, 'n', 256);
	assert_code(fm_store_record_keep(s, "usage", name, 1, "x", 1, &e), e, FM_E_INVALID_ARGUMENT);
	name[255] = '\0';
	assert_ok(fm_store_record_keep(s, "apes", name, 2, "x", 1, &e), e);
	assert_code(fm_store_record_keep(s, "usage", "x", UINT64_MAX, "x", 1, &e), e, FM_E_INVALID_ARGUMENT);
	assert_code(fm_store_record_keep(s, "usage", "x", 1, "x", (4u << 20) + 1, &e), e, FM_E_INVALID_ARGUMENT);
	fm_store_close(s);
	s = open_store(f->path);
	assert_ok(fm_store_record_each(s, "usage", see, &seen, &e), e);
	assert_string_equal(seen.text, "usage/a@2=two@20 usage/b@1=three@30 ");
	assert_ok(fm_store_record_prune(s, "usage", 30, &e), e);
	seen = (struct seen){ 0 };
	assert_ok(fm_store_record_each(s, "usage", see, &seen, &e), e);
	assert_string_equal(seen.text, "usage/b@1=three@30 ");
	for (int i = 0; i < 130; i++) { /* three pages, and the other kinds' records are not among them */
		(void)snprintf(name, sizeof(name), "c%03d", i);
		assert_ok(fm_store_record_keep(s, "many", name, 1, "x", 1, &e), e);
	}
	seen = (struct seen){ 0 };
	assert_ok(fm_store_record_each(s, "many", see, &seen, &e), e);
	assert_int_equal(seen.n, 130);
	fm_store_close(s);
}

/* As many of a kind as there may be, whoever wrote them last; what is only kept is not counted, and a time prunes either. */
static void test_records_are_bounded(void **state)
{
	struct fm_store *s = open_store(":memory:");
	struct fm_error e = FM_ERROR_INIT;
	struct seen seen = { 0 };
	void *data = NULL;
	char id[16];
	size_t len = 0;

	(void)state;
	for (int i = 0; i <= FM_STORE_MAX_RECORDS; i++) {
		(void)snprintf(id, sizeof(id), "r%05d", i);
		assert_ok(fm_store_record_put(s, "put", id, "x", 1, &e), e);
		assert_ok(fm_store_record_keep(s, "keep", id, (uint64_t)i, "x", 1, &e), e);
	}
	assert_ok(fm_store_record_each(s, "put", see, &seen, &e), e);
	assert_int_equal(seen.n, FM_STORE_MAX_RECORDS);
	assert_code(fm_store_record_get(s, "put", "r00000", &data, &len, &e), e, FM_E_NOT_FOUND);
	seen = (struct seen){ 0 };
	assert_ok(fm_store_record_each(s, "keep", see, &seen, &e), e);
	assert_int_equal(seen.n, FM_STORE_MAX_RECORDS + 1);
	assert_ok(fm_store_record_get(s, "keep", "r00000", &data, &len, &e), e);
	free(data);
	assert_ok(fm_store_record_prune(s, "put", fm_realtime_ms() - 3600000, &e), e); /* an hour ago none was there */
	assert_ok(fm_store_record_get(s, "put", "r00001", &data, &len, &e), e);
	free(data);
	assert_ok(fm_store_record_prune(s, "put", fm_realtime_ms() + 1000, &e), e);
	assert_code(fm_store_record_get(s, "put", "r00001", &data, &len, &e), e, FM_E_NOT_FOUND);
	fm_store_close(s);
}

/* Version 3 had two tables. The file is today's, with these two as they were. */
static void test_upgrade_from_two_tables(void **state)
{
	struct fixture *f = *state;
	struct fm_store *s = open_store(f->path);
	struct fm_error e = FM_ERROR_INIT;
	struct fm_store_record *v = NULL;
	struct seen seen = { 0 };
	size_t n = 0;

	fm_store_close(s);
	raw_sql(f->path,
	        "DROP TABLE records;"
	        "CREATE TABLE records (seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL CHECK (length(kind) BETWEEN 1 AND 64),"
	        "  id TEXT NOT NULL CHECK (length(id) BETWEEN 1 AND 64), data BLOB NOT NULL, UNIQUE (kind, id)) STRICT;"
	        "CREATE TABLE kept (kind TEXT NOT NULL CHECK (length(kind) BETWEEN 1 AND 64),"
	        "  name TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 255), at_ms INTEGER NOT NULL, value BLOB NOT NULL,"
	        "  PRIMARY KEY (kind, name)) STRICT;"
	        "INSERT INTO records (seq, kind, id, data) VALUES (7, 'plan', 'z', x'6f6e65'), (9, 'plan', 'a', x''), (8, 'cordoned', "
	        "'h1', x'');"
	        "INSERT INTO kept VALUES ('usage', 'h1@2', 20, x'74776f'), ('usage', 'h1@1', 10, x'');"
	        "PRAGMA user_version = 3");
	s = open_store(f->path);
	assert_ok(fm_store_record_put(s, "plan", "later", "x", 1, &e), e);
	assert_ok(fm_store_record_list(s, "plan", 0, &v, &n, &e), e);
	assert_int_equal(n, 3);
	assert_string_equal(v[0].id, "later");
	assert_string_equal(v[1].id, "a");
	assert_string_equal(v[2].id, "z");
	assert_int_equal(v[2].len, 3);
	assert_memory_equal(v[2].data, "one", 3);
	fm_store_records_free(v, n);
	assert_ok(fm_store_record_each(s, "cordoned", see, &seen, &e), e);
	assert_ok(fm_store_record_each(s, "usage", see, &seen, &e), e);
	assert_string_equal(seen.text, "cordoned/h1=@0 usage/h1@1=@10 usage/h1@2=two@20 ");
	fm_store_close(s);
}

static void test_connections_are_set_up(void **state)
{
	struct fixture *f = *state;
	struct fm_store *s = open_store(f->path);
	struct fm_sqlite *sq = (struct fm_sqlite *)s;
	const struct {
		sqlite3 *db;
		const char *pragma;
		const char *want;
	} rows[] = {
		{ sq->durable.db, "journal_mode", "wal" },  { sq->relaxed->db, "journal_mode", "wal" },
		{ sq->durable.db, "synchronous", "2" },     { sq->relaxed->db, "synchronous", "1" },
		{ sq->durable.db, "foreign_keys", "1" },    { sq->relaxed->db, "foreign_keys", "1" },
		{ sq->durable.db, "busy_timeout", "5000" }, { sq->relaxed->db, "busy_timeout", "5000" },
		{ sq->durable.db, "trusted_schema", "0" },  { sq->relaxed->db, "trusted_schema", "0" },
	};

	for (size_t i = 0; i < FM_ARRAY_SIZE(rows); i++) {
		char sql[64];
		sqlite3_stmt *st = NULL;

		(void)snprintf(sql, sizeof(sql), "PRAGMA %s", rows[i].pragma);
		assert_int_equal(sqlite3_prepare_v2(rows[i].db, sql, -1, &st, NULL), SQLITE_OK);
		assert_int_equal(sqlite3_step(st), SQLITE_ROW);
		assert_string_equal((const char *)sqlite3_column_text(st, 0), rows[i].want);
		(void)sqlite3_finalize(st);
	}
	fm_store_close(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_create_and_get, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_migration_a_container, setup, teardown),
		cmocka_unit_test_setup_teardown(test_transitions, setup, teardown),
		cmocka_unit_test_setup_teardown(test_update_and_list, setup, teardown),
		cmocka_unit_test(test_arguments_are_checked),
		cmocka_unit_test(test_free_text_is_cut_at_a_character),
		cmocka_unit_test(test_history_is_bounded),
		cmocka_unit_test_setup_teardown(test_events, setup, teardown),
		cmocka_unit_test(test_events_are_bounded),
		cmocka_unit_test_setup_teardown(test_hosts_and_containers, setup, teardown),
		cmocka_unit_test(test_many_containers),
		cmocka_unit_test_setup_teardown(test_file_is_private_and_checked, setup, teardown),
		cmocka_unit_test_setup_teardown(test_newer_and_foreign_files_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damaged_files_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_upgrade_sets_version_and_identity, setup, teardown),
		cmocka_unit_test_setup_teardown(test_records, setup, teardown),
		cmocka_unit_test_setup_teardown(test_records_that_are_kept, setup, teardown),
		cmocka_unit_test(test_records_are_bounded),
		cmocka_unit_test_setup_teardown(test_upgrade_from_two_tables, setup, teardown),
		cmocka_unit_test_setup_teardown(test_connections_are_set_up, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
