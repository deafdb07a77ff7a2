/* SPDX-License-Identifier: MIT */
/*
 * test-mover.c - the movers of an agent as far as they go without containers: questions about ids that nobody knows, what is refused, fencing by
 * epoch, recovery from journals. Real movements are in tests/e2e.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <pthread.h>
#include <unistd.h>

#include "basic/io.h"
#include "basic/str.h"
#include "migration/journal.h"
#include "migration/mover.h"
#include "migration/pb.h"

#define assert_ok(call, e)                                                                                                                 \
	do {                                                                                                                               \
		if ((call) != 0)                                                                                                           \
			fail_msg("%s: %s", #call, (e).message);                                                                            \
	} while (0)
#define assert_code(call, e, want)                                                                                                         \
	do {                                                                                                                               \
		(e) = FM_ERROR_INIT;                                                                                                       \
		assert_int_equal((call), -1);                                                                                              \
		if ((e).code != (want))                                                                                                    \
			fail_msg("%s: %s %s, wanted %s", #call, fm_code_to_string((e).code), (e).message, fm_code_to_string(want));        \
	} while (0)

/* ---------------------------------------------------------------- a runtime that has nothing */

static int none_list(struct fm_runtime *rt, struct fm_instance **ret, size_t *ret_n, struct fm_error *err)
{
	*ret = NULL;
	*ret_n = 0;
	return 0;
}
static int none_state(struct fm_runtime *rt, const char *id, struct fm_instance *ret, struct fm_error *err)
{
	return fm_error_set(err, FM_E_NOT_FOUND, "there is no instance '%s'", id);
}
static int none_simple(struct fm_runtime *rt, const char *id, struct fm_error *err)
{
	return 0;
}
static int none_kill(struct fm_runtime *rt, const char *id, int signal, struct fm_error *err)
{
	return 0;
}
static const struct fm_runtime_ops none_ops = { .name = "none",
	                                        .list = none_list,
	                                        .state = none_state,
	                                        .remove = none_simple,
	                                        .pause = none_simple,
	                                        .resume = none_simple,
	                                        .kill = none_kill };

struct fixture {
	char dir[64];
	struct fm_runtime rt;
	struct fm_host h;
	struct fm_movers *ms;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	char state_dir[96], run_dir[96];
	struct fm_error e = FM_ERROR_INIT;
	(void)snprintf(f->dir, sizeof(f->dir), "/tmp/fm-test-mover-XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	(void)snprintf(state_dir, sizeof(state_dir), "%s/state", f->dir);
	(void)snprintf(run_dir, sizeof(run_dir), "%s/run", f->dir);
	(void)snprintf(f->h.name, sizeof(f->h.name), "alpha");
	f->rt.ops = &none_ops;
	f->h.runtime = &f->rt;
	*state = f;
	return fm_host_init_dirs(&f->h, state_dir, run_dir, &e);
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	fm_movers_free(f->ms);
	int rc = fm_remove_tree(f->dir, NULL);
	free(f);
	return rc;
}

static void start(struct fixture *f)
{
	struct fm_error e = FM_ERROR_INIT;
	fm_movers_free(f->ms);
	f->ms = NULL;
	assert_ok(fm_movers_new(&f->h, &f->ms, &e), e);
}

/* As a process that is gone left it */
static void leave_journal(struct fixture *f, const char *id, const char *role, const char *container, unsigned epoch, enum fm_decision d)
{
	struct fm_journal *j = NULL;
	struct fm_error e = FM_ERROR_INIT;
	char number[16];
	_fm_free_ char *instance = fm_xasprintf("%s.%s", container, id);
	(void)snprintf(number, sizeof(number), "%u", epoch);
	json_t *head = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "container", container, "peer", "beta", "token", "t", "instance",
	                         instance, "stream_address", "127.0.0.1:1", "epoch", number, "strategy", "cold");
	assert_ok(fm_journal_create(f->h.journals_dir, id, role, head, &j, &e), e);
	if (fm_streq(role, "source"))
		assert_ok(fm_journal_note(j, "instance", instance, &e), e);
	if (d)
		assert_ok(fm_journal_decide(j, d, d >= FM_DECISION_COMMITTED, &e), e);
	fm_journal_free(j);
}

static bool has_journal(struct fixture *f, const char *id, const char *role)
{
	_fm_free_ char *path = fm_xasprintf("%s/%s.%s.journal", f->h.journals_dir, id, role);
	return fm_path_exists(path);
}

static FM_PB(MoverStatus) * status(struct fixture *f, const char *id)
{
	FM_PB(StatusRequest) req = FLEXIMIGRATE__V1__STATUS_REQUEST__INIT;
	FM_PB(MoverStatus) *s = NULL;
	struct fm_error e = FM_ERROR_INIT;
	req.migration_id = (char *)id;
	assert_ok(fm_movers_status(f->ms, &req, &s, &e), e);
	assert_string_equal(s->migration_id, id);
	return s;
}

static int decision(struct fixture *f, const char *id)
{
	_fm_pb_ FM_PB(MoverStatus) *s = status(f, id);
	return (int)s->decision;
}

static int prepare_source(struct fixture *f, const char *id, const char *container, unsigned epoch, int strategy, struct fm_error *err)
{
	FM_PB(PrepareSourceRequest) req = FLEXIMIGRATE__V1__PREPARE_SOURCE_REQUEST__INIT;
	FM_PB(PrepareSourceResponse) *r = NULL;
	req.migration_id = (char *)id;
	req.container = (char *)container;
	req.epoch = epoch;
	req.strategy = (FM_PB(Strategy))strategy;
	req.destination = "beta";
	int rc = fm_movers_prepare_source(f->ms, &req, &r, err);
	fm_pb_free(r);
	return rc;
}

static int abort_of(struct fixture *f, const char *id, bool dead, struct fm_error *err)
{
	FM_PB(AbortRequest) req = FLEXIMIGRATE__V1__ABORT_REQUEST__INIT;
	FM_PB(AbortResponse) *r = NULL;
	req.migration_id = (char *)id;
	req.destination_is_dead = dead;
	int rc = fm_movers_abort(f->ms, &req, &r, err);
	fm_pb_free(r);
	return rc;
}

#define COLD FLEXIMIGRATE__V1__STRATEGY__COLD

/* ---------------------------------------------------------------- tests */

static void test_unknown_ids(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(ExecuteRequest) x = FLEXIMIGRATE__V1__EXECUTE_REQUEST__INIT;
	FM_PB(VerifyRequest) v = FLEXIMIGRATE__V1__VERIFY_REQUEST__INIT;
	FM_PB(AbortRequest) a = FLEXIMIGRATE__V1__ABORT_REQUEST__INIT;
	FM_PB(MoverStatus) *s = NULL;
	FM_PB(VerifyResponse) *vr = NULL;
	FM_PB(AbortResponse) *ar = NULL;
	static const char *const ids[] = { "m-nobody", "", "../../etc" };
	char **list = NULL;
	start(f);
	for (size_t i = 0; i < FM_ARRAY_SIZE(ids); i++) {
		x.migration_id = v.migration_id = a.migration_id = (char *)ids[i];
		assert_int_equal(decision(f, ids[i]), 0);
		assert_code(fm_movers_execute(f->ms, &x, &s, &e), e, FM_E_NOT_FOUND);
		assert_code(fm_movers_verify(f->ms, &v, &vr, &e), e, FM_E_NOT_FOUND);
		e = FM_ERROR_INIT;
		assert_ok(fm_movers_release(f->ms, ids[i], &e), e);
		assert_ok(fm_movers_abort(f->ms, &a, &ar, &e), e);
		assert_true(ar->source_running);
		assert_int_equal(ar->n_undone, 0);
		fm_pb_free(ar);
		ar = NULL;
	}
	assert_false(fm_movers_holds(f->ms, "web"));
	assert_null(fm_movers_instance_role(f->ms, "web"));
	fm_movers_ids(f->ms, &list);
	assert_null(list);
}

static void test_bad_requests(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	static const char *const bad[] = { "",    "..",   "../x",
		                           "a/b", "a b",  "-x",
		                           "x\n", "\xff", "m-012345678901234567890123456789012345678901" };
	FM_PB(PrepareDestinationRequest) d = FLEXIMIGRATE__V1__PREPARE_DESTINATION_REQUEST__INIT;
	FM_PB(PrepareDestinationResponse) *dr = NULL;
	FM_PB(Container) c = FLEXIMIGRATE__V1__CONTAINER__INIT;
	start(f);
	d.strategy = COLD;
	d.migration_id = "m-1";
	assert_code(fm_movers_prepare_destination(f->ms, &d, &dr, &e), e, FM_E_INVALID_ARGUMENT); /* no container */
	d.container = &c;
	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++) {
		assert_code(prepare_source(f, bad[i], "web", 1, COLD, &e), e, FM_E_INVALID_ARGUMENT);
		d.migration_id = (char *)bad[i];
		c.name = "web";
		assert_code(fm_movers_prepare_destination(f->ms, &d, &dr, &e), e, FM_E_INVALID_ARGUMENT);
		if (i + 1 == FM_ARRAY_SIZE(bad))
			break; /* long, but a good name */
		assert_code(prepare_source(f, "m-1", bad[i], 1, COLD, &e), e, FM_E_INVALID_ARGUMENT);
		d.migration_id = "m-1";
		c.name = (char *)bad[i];
		assert_code(fm_movers_prepare_destination(f->ms, &d, &dr, &e), e, FM_E_INVALID_ARGUMENT);
	}
	static const int strategies[] = { 0, FLEXIMIGRATE__V1__STRATEGY__AUTO, 6, 99, -1 };
	for (size_t i = 0; i < FM_ARRAY_SIZE(strategies); i++)
		assert_code(prepare_source(f, "m-1", "web", 1, strategies[i], &e), e, FM_E_UNIMPLEMENTED);
	assert_null(dr);
	assert_int_equal(decision(f, "m-1"), 0);
	assert_false(has_journal(f, "m-1", "source") || has_journal(f, "m-1", "destination"));
}

/* A preparation that fails undoes itself, and its outcome is remembered. */
static void test_failed_preparation(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	start(f);
	assert_code(prepare_source(f, "m-1", "web", 1, COLD, &e), e, FM_E_NOT_FOUND);
	assert_false(has_journal(f, "m-1", "source"));
	assert_false(fm_movers_holds(f->ms, "web"));
	_fm_pb_ FM_PB(MoverStatus) *s = status(f, "m-1");
	assert_int_equal(s->decision, FLEXIMIGRATE__V1__DECISION__ABORTED);
	assert_int_equal(s->error_code, FM_E_NOT_FOUND);
	assert_string_equal(s->role, "source");
	assert_false(s->alive);
	assert_code(prepare_source(f, "m-1", "web", 2, COLD, &e), e, FM_E_ALREADY_EXISTS);
	e = FM_ERROR_INIT;
	assert_ok(abort_of(f, "m-1", false, &e), e);
	assert_ok(abort_of(f, "m-1", true, &e), e);
	FM_PB(ExecuteRequest) x = FLEXIMIGRATE__V1__EXECUTE_REQUEST__INIT;
	FM_PB(MoverStatus) *r = NULL;
	x.migration_id = "m-1";
	x.epoch = 1;
	assert_code(fm_movers_execute(f->ms, &x, &r, &e), e, FM_E_FAILED_PRECONDITION);
}

static void test_fencing(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	char **ids = NULL;
	leave_journal(f, "m-old", "source", "web", 5, FM_DECISION_COMMITTED);
	start(f);
	assert_true(fm_movers_holds(f->ms, "web"));
	assert_false(fm_movers_holds(f->ms, "other"));
	assert_string_equal(fm_movers_instance_role(f->ms, "web.m-old"), "outgoing");
	fm_movers_ids(f->ms, &ids);
	assert_int_equal(fm_strv_len(ids), 1);
	fm_strv_free(ids);
	assert_int_equal(decision(f, "m-old"), FLEXIMIGRATE__V1__DECISION__COMMITTED);
	for (unsigned epoch = 0; epoch <= 5; epoch++) {
		assert_code(prepare_source(f, "m-new", "web", epoch, COLD, &e), e, FM_E_ABORTED);
		assert_non_null(strstr(e.message, "m-old"));
		assert_int_equal(decision(f, "m-new"), 0);
	}
	assert_code(prepare_source(f, "m-old", "web", 9, COLD, &e), e, FM_E_ALREADY_EXISTS);
	assert_code(prepare_source(f, "m-new", "web", 6, COLD, &e), e, FM_E_NOT_FOUND);     /* passes; there is no such container */
	assert_code(prepare_source(f, "m-other", "other", 1, COLD, &e), e, FM_E_NOT_FOUND); /* another container's epochs are its own */
	/* past the commit point: only with the proof, or released */
	assert_code(abort_of(f, "m-old", false, &e), e, FM_E_FAILED_PRECONDITION);
	assert_int_equal(decision(f, "m-old"), FLEXIMIGRATE__V1__DECISION__COMMITTED);
	e = FM_ERROR_INIT;
	assert_ok(fm_movers_release(f->ms, "m-old", &e), e);
	assert_ok(fm_movers_release(f->ms, "m-old", &e), e);
	assert_int_equal(decision(f, "m-old"), FLEXIMIGRATE__V1__DECISION__RELEASED);
	assert_false(has_journal(f, "m-old", "source"));
	assert_false(fm_movers_holds(f->ms, "web"));
}

/* What was not committed is undone by the agent's start; what was stays; what was released is finished. */
static void test_recovery(void **state)
{
	struct fixture *f = *state;
	static const struct {
		const char *role;
		enum fm_decision d, after;
	} v[] = {
		{ "source", FM_DECISION_UNKNOWN, FM_DECISION_ABORTED },
		{ "source", FM_DECISION_PREPARED, FM_DECISION_ABORTED },
		{ "source", FM_DECISION_FROZEN, FM_DECISION_ABORTED },
		{ "source", FM_DECISION_COMMITTED, FM_DECISION_COMMITTED },
		{ "source", FM_DECISION_ABORTED, FM_DECISION_ABORTED },
		{ "source", FM_DECISION_RELEASED, FM_DECISION_RELEASED },
		{ "destination", FM_DECISION_UNKNOWN, FM_DECISION_ABORTED },
		{ "destination", FM_DECISION_PREPARED, FM_DECISION_ABORTED },
		{ "destination", FM_DECISION_RESTORED, FM_DECISION_ABORTED },
		{ "destination", FM_DECISION_COMMITTED, FM_DECISION_COMMITTED },
		{ "destination", FM_DECISION_ABORTED, FM_DECISION_ABORTED },
		{ "destination", FM_DECISION_RELEASED, FM_DECISION_RELEASED },
	};
	char id[32], container[32];
	for (size_t i = 0; i < FM_ARRAY_SIZE(v); i++) {
		(void)snprintf(id, sizeof(id), "m-%zu", i);
		(void)snprintf(container, sizeof(container), "c%zu", i);
		leave_journal(f, id, v[i].role, container, 1, v[i].d);
	}
	start(f);
	for (size_t i = 0; i < FM_ARRAY_SIZE(v); i++) {
		(void)snprintf(id, sizeof(id), "m-%zu", i);
		(void)snprintf(container, sizeof(container), "c%zu", i);
		if (decision(f, id) != (int)v[i].after)
			fail_msg("%s %s became %s", v[i].role, fm_decision_to_string(v[i].d),
			         fm_decision_to_string((enum fm_decision)decision(f, id)));
		assert_int_equal(has_journal(f, id, v[i].role), v[i].after == FM_DECISION_COMMITTED);
		assert_int_equal(fm_movers_holds(f->ms, container), v[i].after == FM_DECISION_COMMITTED);
	}
	/* again: the same, with only the two left */
	start(f);
	assert_int_equal(decision(f, "m-3"), FM_DECISION_COMMITTED);
	assert_int_equal(decision(f, "m-9"), FM_DECISION_COMMITTED);
	assert_int_equal(decision(f, "m-0"), FM_DECISION_UNKNOWN);
}

static void test_bad_journals(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	static const struct {
		const char *name, *text;
		bool stays;
	} v[] = {
		{ "m-empty.source.journal", "", false },
		{ "m-torn.destination.journal", "{\"k\":\"he", false },
		{ "m-damaged.source.journal", "{\"k\":\"head\"}\nnonsense\n{}\n", true },
		{ "notes.txt", "nothing of ours", true },
		{ ".source.journal", "", true },
	};
	leave_journal(f, "m-good", "source", "web", 1, FM_DECISION_COMMITTED);
	for (size_t i = 0; i < FM_ARRAY_SIZE(v); i++) {
		_fm_free_ char *path = fm_xasprintf("%s/%s", f->h.journals_dir, v[i].name);
		assert_ok(fm_write_file_atomic(path, v[i].text, strlen(v[i].text), 0600, &e), e);
	}
	start(f);
	for (size_t i = 0; i < FM_ARRAY_SIZE(v); i++) {
		_fm_free_ char *path = fm_xasprintf("%s/%s", f->h.journals_dir, v[i].name);
		assert_int_equal(fm_path_exists(path), v[i].stays);
	}
	assert_int_equal(decision(f, "m-good"), FM_DECISION_COMMITTED);
}

static void test_limit(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	char id[32], container[32];
	for (int i = 0; i < 256; i++) {
		(void)snprintf(id, sizeof(id), "m-%d", i);
		(void)snprintf(container, sizeof(container), "c%d", i);
		leave_journal(f, id, "source", container, 1, FM_DECISION_COMMITTED);
	}
	start(f);
	assert_code(prepare_source(f, "m-more", "web", 1, COLD, &e), e, FM_E_RESOURCE_EXHAUSTED);
	assert_false(has_journal(f, "m-more", "source"));
	/* what is finished makes room */
	e = FM_ERROR_INIT;
	assert_ok(fm_movers_release(f->ms, "m-7", &e), e);
	assert_code(prepare_source(f, "m-more", "web", 1, COLD, &e), e, FM_E_NOT_FOUND);
	assert_int_equal(decision(f, "m-7"), 0);
	assert_int_equal(decision(f, "m-8"), FM_DECISION_COMMITTED);
}

/* An agent's memory does not grow with what it has done: of what is over it remembers the latest, as many as a manager may still be about, and counts the others. */
static void test_ended_are_forgotten(void **state)
{
	enum { REMEMBERED = 64, MORE = 100 };
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	struct fm_mover_figures figures;
	char id[32];
	leave_journal(f, "m-long", "source", "other", 1, FM_DECISION_COMMITTED);
	start(f);
	for (int i = 0; i < REMEMBERED + MORE; i++) {
		if (i == MORE) { /* the first to begin is not the first to end */
			e = FM_ERROR_INIT;
			assert_ok(fm_movers_release(f->ms, "m-long", &e), e);
		}
		(void)snprintf(id, sizeof(id), "m-%d", i);
		assert_code(prepare_source(f, id, "web", 1, COLD, &e), e, FM_E_NOT_FOUND);
	}
	for (int i = 0; i < REMEMBERED + MORE; i++) {
		(void)snprintf(id, sizeof(id), "m-%d", i);
		assert_int_equal(decision(f, id), i < MORE ? FM_DECISION_UNKNOWN : FM_DECISION_ABORTED);
	}
	assert_int_equal(decision(f, "m-long"), FM_DECISION_RELEASED);
	fm_movers_figures(f->ms, &figures);
	assert_int_equal(figures.role[0].aborted, REMEMBERED + MORE);
	assert_int_equal(figures.role[0].released, 1);
	e = FM_ERROR_INIT;
	assert_ok(abort_of(f, "m-0", false, &e), e); /* as after a restart: nothing of it is here */
	assert_ok(fm_movers_release(f->ms, "m-0", &e), e);
}

/* The quota that a dead agent had lowered is put back, as the record says; one whose cgroup is gone is in nobody's way. */
static void test_throttle_is_undone(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	static const char *const ids[] = { "m-1", "m-2" };
	_fm_free_ char *file = fm_xasprintf("%s/quota", f->dir);
	_fm_free_ char *text = NULL;
	assert_ok(fm_write_file_atomic(file, "", 0, 0600, &e), e);
	for (size_t i = 0; i < FM_ARRAY_SIZE(ids); i++) {
		_fm_free_ char *was = fm_xasprintf("%s%s=max 100000", file, i ? "-gone" : "");
		_fm_free_ char *name = fm_xasprintf("%s.source.journal", ids[i]);
		struct fm_journal *j = NULL;
		leave_journal(f, ids[i], "source", i ? "other" : "web", 1, FM_DECISION_PREPARED);
		assert_ok(fm_journal_open(f->h.journals_dir, name, &j, &e), e);
		assert_ok(fm_journal_intent(j, "throttle", was, false, &e), e);
		fm_journal_free(j);
	}
	start(f);
	for (size_t i = 0; i < FM_ARRAY_SIZE(ids); i++) {
		assert_int_equal(decision(f, ids[i]), FM_DECISION_ABORTED);
		assert_false(has_journal(f, ids[i], "source"));
	}
	assert_ok(fm_read_file(file, 4096, &text, NULL, &e), e);
	assert_string_equal(text, "max 100000");
}

static void test_throttle_limit(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(PrepareSourceRequest) req = FLEXIMIGRATE__V1__PREPARE_SOURCE_REQUEST__INIT;
	FM_PB(PrepareSourceResponse) *r = NULL;
	start(f);
	req.migration_id = "m-1";
	req.container = "web";
	req.strategy = FLEXIMIGRATE__V1__STRATEGY__PRE_COPY;
	req.max_throttle_percent = 100;
	assert_code(fm_movers_prepare_source(f->ms, &req, &r, &e), e, FM_E_INVALID_ARGUMENT);
	assert_non_null(strstr(e.message, "99"));
	req.max_throttle_percent = 99;
	assert_code(fm_movers_prepare_source(f->ms, &req, &r, &e), e, FM_E_NOT_FOUND); /* passes; there is no such container */
	req.streams = 17;
	assert_code(fm_movers_prepare_source(f->ms, &req, &r, &e), e, FM_E_INVALID_ARGUMENT);
	assert_non_null(strstr(e.message, "17 streams"));
	req.streams = 16;
	req.migration_id = "m-2";
	assert_code(fm_movers_prepare_source(f->ms, &req, &r, &e), e, FM_E_NOT_FOUND);
}

/* Prepare and Abort of one id at the same time, as a cancelled call makes them: nothing crashes, nothing is left. */
struct racer {
	struct fixture *f;
	char id[32];
};

static void *race_abort(void *arg)
{
	struct racer *r = arg;
	(void)abort_of(r->f, r->id, false, NULL);
	return NULL;
}

static void test_abort_races_prepare(void **state)
{
	struct fixture *f = *state;
	start(f);
	for (int i = 0; i < 100; i++) {
		struct racer r = { .f = f };
		pthread_t t[2];
		struct fm_error e = FM_ERROR_INIT;
		(void)snprintf(r.id, sizeof(r.id), "m-%d", i);
		for (int k = 0; k < 2; k++)
			assert_int_equal(pthread_create(&t[k], NULL, race_abort, &r), 0);
		assert_int_equal(prepare_source(f, r.id, "web", 1, COLD, &e), -1);
		for (int k = 0; k < 2; k++)
			assert_int_equal(pthread_join(t[k], NULL), 0);
		assert_false(has_journal(f, r.id, "source"));
		assert_false(fm_movers_holds(f->ms, "web"));
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = { T(test_unknown_ids),
		                            T(test_bad_requests),
		                            T(test_failed_preparation),
		                            T(test_fencing),
		                            T(test_recovery),
		                            T(test_bad_journals),
		                            T(test_limit),
		                            T(test_ended_are_forgotten),
		                            T(test_abort_races_prepare),
		                            T(test_throttle_is_undone),
		                            T(test_throttle_limit) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
