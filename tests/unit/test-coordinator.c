/* SPDX-License-Identifier: MIT */
/*
 * test-coordinator.c - the coordinator between a real store and the twin of two agents (agent-twin.h): the six scenarios of docs/LIFECYCLE.md,
 * what stops a migration before its switch-over, cancel, limits, events.
 * Failures from the switch-over on are in test-coordinator-failures.c, restarts in test-coordinator-restart.c.
 */
#include "coordinator-lab.h"

/* ---------------------------------------------------------------- success */

static void test_success(void **state)
{
	struct lab *l = *state;
	char id[64];
	l->t->endpoint = l->t->health = true;
	lab_start(l);
	lab_migrate(l, id);
	lab_assert_end(l, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta");
	lab_assert_lines(l, id, success_lines);
	assert_transitions(l, id, "1>2:1N 2>3:2N 3>4:3N 4>5:4N 5>6:5N 6>6:6N");
	lab_assert_calls(l, "Abort", "");
	lab_assert_calls(l, "Release", "alpha Release, beta Release");
	lab_assert_calls(l, "Pr", "beta PrepareDestination, alpha PrepareSource, beta Probe, alpha Probe");

	FM_PB(Migration) *m = lab_get(l, id);
	assert_string_equal(m->source, "alpha");
	assert_string_equal(m->step, "completed");
	assert_int_equal(m->strategy, FLEXIMIGRATE__V1__STRATEGY__LIVE);
	assert_int_equal(m->frozen_us, 34000);
	assert_int_equal(m->wire_bytes, 64000000);
	assert_int_equal(m->pages_done, 100);
	assert_int_equal(m->n_phases, 1);
	assert_int_equal(m->error_code, 0);
	assert_non_null(m->plan);
	assert_true(m->plan->n_steps >= 3);
	assert_true(m->finished_unix_ms >= m->created_unix_ms);
	fm_pb_free(m);

	FM_PB(Container) *c = NULL;
	struct fm_error e = FM_ERROR_INIT;
	assert_ok(fm_fleet_container(l->fleet, "web", &c, &e), e);
	assert_string_equal(c->host, "beta");
	fm_pb_free(c);
}

static void test_success_cold_without_network(void **state)
{
	struct lab *l = *state;
	FM_PB(MigrateRequest) req = FLEXIMIGRATE__V1__MIGRATE_REQUEST__INIT;
	FM_PB(Migration) *m = NULL;
	struct fm_error e = FM_ERROR_INIT;
	char id[64];
	lab_start(l);
	req.container = "web";
	req.to = "beta";
	req.strategy = FLEXIMIGRATE__V1__STRATEGY__COLD;
	assert_ok(fm_coordinator_migrate(l->c, &req, &m, &e), e);
	(void)snprintf(id, sizeof(id), "%s", m->id);
	fm_pb_free(m);
	lab_assert_end(l, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta");
	lab_assert_lines(l, id, success_lines);
	lab_assert_calls(l, "Probe", "");
	m = lab_get(l, id);
	assert_int_equal(m->strategy, FLEXIMIGRATE__V1__STRATEGY__COLD);
	fm_pb_free(m);
	/* and back again, with the next epoch */
	lab_report(l, "alpha", NULL, 8ull << 30);
	lab_report(l, "beta", (const char *const[]){ "web", NULL }, 8ull << 30);
	assert_ok(lab_try_migrate(l, "web", "alpha", id, &e), e);
	lab_assert_end(l, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "alpha");
	assert_int_equal(l->t->movers[0].epoch + 1, l->t->movers[2].epoch);
}

/* COMPLETED is never the final state before both hosts have released. */
static void test_completed_needs_both_releases(void **state)
{
	struct lab *l = *state;
	static const char *const hosts[] = { "alpha", "beta" };
	char id[64];
	for (int i = 0; i < 2; i++)
		twin_rule_add(l->t, (struct twin_rule){ .host = hosts[i], .method = FM_AGENT_RELEASE, .action = TWIN_BLOCK, .times = 1 });
	lab_start(l);
	lab_migrate(l, id);
	for (int i = 0; i < 2; i++) {
		twin_await(l->t, i ? "beta Release" : "alpha Release", 1);
		FM_PB(Migration) *m = lab_get(l, id);
		assert_int_equal(m->state, COMPLETED);
		assert_int_equal(m->finished_unix_ms, 0);
		assert_string_equal(m->path, "1N 2N 3N 4N 5N");
		fm_pb_free(m);
		assert_true(fm_coordinator_is_moving(l->c, "web"));
		assert_false(lab_has_line(l, id, "*Final State*"));
		pthread_mutex_lock(&l->t->lock);
		l->t->rules[i].lifted = true;
		pthread_mutex_unlock(&l->t->lock);
		fm_stop_request(&l->t->lift);
	}
	lab_assert_end(l, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta");
}

/* ---------------------------------------------------------------- scenarios 2 and 3: nothing was touched */

static const char *const pending_lines[] = {
	"ERROR \\[MigrationManager\\]: Initial validation failed * Reason: *",
	"ERROR \\[MigrationManager\\]: * Transitioning: PENDING -> FAILED.",
	"INFO \\[MigrationManager\\]: * State: FAILED -> ROLLBACK.",
	"INFO \\[MigrationManager\\]: Minimal rollback required *",
	"INFO \\[MigrationManager\\]: * Final State: FAILED.",
	NULL,
};

static void assert_fails_pending(struct lab *l, const char *container, const char *to, enum fm_code code)
{
	struct fm_error e = FM_ERROR_INIT;
	char id[64];
	assert_ok(lab_try_migrate(l, container, to, id, &e), e);
	lab_assert_end(l, id, FAILED, "1F", "alpha");
	lab_assert_lines(l, id, pending_lines);
	assert_transitions(l, id, "1>7:1F 7>8 8>7");
	FM_PB(Migration) *m = lab_get(l, id);
	assert_int_equal(m->error_code, code);
	assert_true(m->error_message[0]);
	fm_pb_free(m);
	lab_assert_calls(l, "", "");
}

static void test_pending_failures(void **state)
{
	struct lab *l = *state;
	lab_start(l);
	assert_fails_pending(l, "nobody", "beta", FM_E_NOT_FOUND);
	assert_fails_pending(l, "web", "nowhere", FM_E_NOT_FOUND);
	assert_fails_pending(l, "web", "alpha", FM_E_INVALID_ARGUMENT);
	/* A fleet that is only remembered is offline. */
	struct fm_error e = FM_ERROR_INIT;
	lab_stop(l);
	fm_fleet_free(l->fleet);
	assert_ok(fm_fleet_new(l->store, &l->fleet, &e), e);
	lab_start(l);
	assert_fails_pending(l, "web", "beta", FM_E_UNAVAILABLE);
}

static const char *const planning_lines[] = {
	"INFO \\[MigrationManager\\]: Policy check passed. Transitioning: PENDING -> PLANNING.",
	"INFO \\[PolicyEnforcer\\]: Checking policy '*'.",
	"WARN \\[PolicyEnforcer\\]: Migration request '*' violates policy '*'. *",
	"ERROR \\[MigrationManager\\]: * Transitioning: PLANNING -> FAILED.",
	"INFO \\[MigrationManager\\]: No actions to roll back * Final State: FAILED.",
	NULL,
};

static void assert_denied(struct lab *l, const char *policy)
{
	struct fm_error e = FM_ERROR_INIT;
	char id[64];
	_fm_free_ char *line = fm_xasprintf("WARN * violates policy '%s'*", policy);
	assert_ok(lab_try_migrate(l, "web", "beta", id, &e), e);
	lab_assert_end(l, id, FAILED, "1N 2F 8N", "alpha");
	lab_assert_lines(l, id, planning_lines);
	assert_true(lab_has_line(l, id, line));
	assert_transitions(l, id, "1>2:1N 2>7:2F 7>8 8>7:8N");
	FM_PB(Migration) *m = lab_get(l, id);
	assert_int_equal(m->error_code, FM_E_FAILED_PRECONDITION);
	assert_string_equal(m->error_phase, "planning");
	assert_true(m->rolled_back);
	fm_pb_free(m);
	lab_assert_calls(l, "Prepare", "");
	lab_assert_calls(l, "Abort", "");
}

static void test_policies(void **state)
{
	struct lab *l = *state;
	lab_start(l);
	l->t->deny = true;
	assert_denied(l, "placement");
	l->t->deny = false;
	l->t->memory_bytes = 8ull << 30; /* a tenth too much */
	assert_denied(l, "destination_capacity");
	l->t->memory_bytes = 1;
	FM_PB(ReportRequest) r = FLEXIMIGRATE__V1__REPORT_REQUEST__INIT;
	FM_PB(Host) h = FLEXIMIGRATE__V1__HOST__INIT;
	struct fm_error e = FM_ERROR_INIT;
	h.name = "beta";
	h.criu_problem = "there is no CRIU";
	h.memory_available_bytes = 1ull << 40;
	r.host = &h;
	assert_ok(fm_fleet_report(l->fleet, &r, &e), e);
	assert_denied(l, "destination_readiness");
}

static void test_policy_concurrency(void **state)
{
	struct lab *l = *state;
	static const char *const names[] = { "c0", "c1", "c2", "c3", "c4", "web", NULL };
	char ids[5][64], id[64];
	struct fm_error e = FM_ERROR_INIT;
	for (int i = 0; i < 5; i++)
		(void)twin_instance_add(l->t, "alpha", names[i], TWIN_RUNNING);
	lab_report(l, "alpha", names, 8ull << 30);
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_PREPARE_DESTINATION, .action = TWIN_BLOCK });
	lab_start(l);
	for (int i = 0; i < 5; i++) {
		assert_ok(lab_try_migrate(l, names[i], "beta", ids[i], &e), e);
		twin_await(l->t, "beta PrepareDestination", (unsigned)i + 1);
	}
	lab_migrate(l, id); /* the sixth waits */
	FM_PB(Migration) *m = lab_await_sub_state(l, id, "QUEUED");
	assert_int_equal(m->state, FLEXIMIGRATE__V1__STATE__PLANNING);
	fm_pb_free(m);
	assert_true(lab_has_line(l, id, "INFO * waits in the queue (priority 50, 0 before it)*"));
	twin_lift_all(l->t);
	for (int i = 0; i < 5; i++) {
		m = lab_finish(l, ids[i]);
		assert_int_equal(m->state, COMPLETED);
		fm_pb_free(m);
	}
	assert_int_equal(l->t->violations, 0);
	lab_assert_end(l, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta");
}

static void test_planning_failures(void **state)
{
	struct lab *l = *state;
	char id[64];
	lab_start(l);
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_INSPECT, .action = TWIN_FAIL, .code = FM_E_UNAVAILABLE, .times = 1 });
	lab_migrate(l, id);
	lab_assert_end(l, id, FAILED, "1N 2F 8N", "alpha");
	l->t->bare = true;
	lab_migrate(l, id);
	lab_assert_end(l, id, FAILED, "1N 2F 8N", "alpha");
	l->t->bare = false;
	l->t->blockers[0] = "process 12 has an io_uring";
	lab_migrate(l, id);
	lab_assert_end(l, id, FAILED, "1N 2F 8N", "alpha");
	l->t->blockers[0] = NULL;
	l->t->nested = false; /* ordinary: only cold */
	FM_PB(MigrateRequest) req = FLEXIMIGRATE__V1__MIGRATE_REQUEST__INIT;
	FM_PB(Migration) *m = NULL;
	struct fm_error e = FM_ERROR_INIT;
	req.container = "web";
	req.to = "beta";
	req.strategy = FLEXIMIGRATE__V1__STRATEGY__POST_COPY;
	assert_ok(fm_coordinator_migrate(l->c, &req, &m, &e), e);
	(void)snprintf(id, sizeof(id), "%s", m->id);
	fm_pb_free(m);
	lab_assert_end(l, id, FAILED, "1N 2F 8N", "alpha");
	lab_assert_calls(l, "Abort", "");
}

/* ---------------------------------------------------------------- scenario 4 */

static const char *const preparation_lines[] = {
	"ERROR \\[*\\]: Preparation of 'web' on 'beta' failed: *",
	"ERROR \\[MigrationManager\\]: * Transitioning: PREPARATION -> FAILED.",
	"INFO \\[MigrationManager\\]: * State: FAILED -> ROLLBACK.",
	"INFO \\[ContainerManager\\]: *",
	"INFO \\[NetworkManager\\]: *",
	"INFO \\[MigrationManager\\]: * Final State: FAILED.",
	NULL,
};

static void fail_preparation(struct lab *l, struct twin_rule rule, const char *aborts)
{
	char id[64];
	size_t before = l->t->n_calls;
	rule.times = 1;
	twin_rule_add(l->t, rule);
	lab_migrate(l, id);
	lab_assert_end(l, id, FAILED, "1N 2N 3F 8N", "alpha");
	lab_assert_lines(l, id, preparation_lines);
	assert_transitions(l, id, "1>2:1N 2>3:2N 3>7:3F 7>8 8>7:8N");
	_fm_buf_ struct fm_buf b = FM_BUF_INIT;
	for (size_t i = before; i < l->t->n_calls; i++)
		if (strstr(l->t->calls[i], "Abort"))
			fm_buf_addf(&b, "%s%s", b.len ? ", " : "", l->t->calls[i]);
	assert_string_equal(b.data, aborts);
}

static void test_preparation_failures(void **state)
{
	struct lab *l = *state;
	static const enum fm_code codes[] = { FM_E_INTERNAL, FM_E_UNAVAILABLE, FM_E_RESOURCE_EXHAUSTED, FM_E_DEADLINE_EXCEEDED };
	lab_start(l);
	for (size_t i = 0; i < FM_ARRAY_SIZE(codes); i++) {
		struct twin_rule r = { .method = FM_AGENT_PREPARE_DESTINATION,
			               .action = i % 2 ? TWIN_LOSE_ANSWER : TWIN_FAIL,
			               .code = codes[i] };
		fail_preparation(l, r, "beta Abort");
		r.method = FM_AGENT_PREPARE_SOURCE;
		fail_preparation(l, r, "alpha Abort, beta Abort");
	}
}

/* A destination that has died does not hold up the source for ever. */
static void test_destination_gone_in_preparation(void **state)
{
	struct lab *l = *state;
	char id[64];
	lab_start(l);
	twin_rule_add(l->t,
	              (struct twin_rule){
	                      .host = "beta", .method = FM_AGENT_PREPARE_DESTINATION, .action = TWIN_FAIL, .code = FM_E_UNAVAILABLE });
	twin_rule_add(l->t, (struct twin_rule){ .host = "beta", .method = FM_AGENT_ABORT, .action = TWIN_FAIL, .code = FM_E_UNAVAILABLE });
	lab_migrate(l, id);
	lab_assert_end(l, id, FAILED, "1N 2N 3F 8N", "alpha");
	assert_true(lab_has_line(l, id, "WARN \\[ContainerManager\\]: Host 'beta' does not answer *"));
	assert_true(twin_count(l->t, "beta Abort") > 1);
}

/* An abort that fails is tried again; one that never works leaves a record that says so. */
static void test_abort_fails(void **state)
{
	struct lab *l = *state;
	char id[64];
	lab_start(l);
	twin_rule_add(l->t, (struct twin_rule){
	                            .host = "beta", .method = FM_AGENT_ABORT, .action = TWIN_FAIL, .code = FM_E_INTERNAL, .times = 1 });
	fail_preparation(l, (struct twin_rule){ .method = FM_AGENT_PREPARE_SOURCE, .action = TWIN_FAIL, .code = FM_E_INTERNAL },
	                 "alpha Abort, beta Abort, beta Abort");
	twin_rule_add(l->t, (struct twin_rule){
	                            .host = "beta", .method = FM_AGENT_ABORT, .action = TWIN_FAIL, .code = FM_E_FAILED_PRECONDITION });
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_PREPARE_SOURCE, .action = TWIN_FAIL, .code = FM_E_INTERNAL });
	lab_migrate(l, id);
	FM_PB(Migration) *m = lab_finish(l, id);
	assert_string_equal(m->path, "1N 2N 3F 8N");
	assert_string_equal(twin_where(l->t, "web"), "alpha");
	assert_true(lab_has_line(l, id, "ERROR \\[ContainerManager\\]: Undoing on 'beta' failed*"));
	fm_pb_free(m);
}

/* ---------------------------------------------------------------- cancel and deadline */

static void cancel_at(struct lab *l, const char *call, struct twin_rule rule, const char *path)
{
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(Migration) *m = NULL;
	char id[64];
	rule.action = TWIN_BLOCK;
	twin_rule_add(l->t, rule);
	lab_start(l);
	lab_migrate(l, id);
	twin_await(l->t, call, 1);
	assert_ok(fm_coordinator_cancel(l->c, id, &m, &e), e);
	fm_pb_free(m);
	if (rule.method == FM_AGENT_INSPECT) /* a short call is waited for */
		twin_lift_all(l->t);
	lab_assert_end(l, id, FAILED, path, "alpha");
	m = lab_get(l, id);
	assert_int_equal(m->error_code, FM_E_CANCELLED);
	assert_string_equal(m->error_message, "cancelled");
	fm_pb_free(m);
	m = NULL;
	assert_code(fm_coordinator_cancel(l->c, id, &m, &e), e, FM_E_FAILED_PRECONDITION);
	assert_null(m);
	assert_non_null(strstr(e.message, "is over: FAILED"));
}

static void test_cancel_planning(void **state)
{
	/* Found out at the next step: its preparation does not begin. */
	cancel_at(*state, "alpha Inspect", (struct twin_rule){ .method = FM_AGENT_INSPECT }, "1N 2N 3F 8N");
}

static void test_cancel_preparing_destination(void **state)
{
	cancel_at(*state, "beta PrepareDestination", (struct twin_rule){ .method = FM_AGENT_PREPARE_DESTINATION }, "1N 2N 3F 8N");
}

static void test_cancel_preparing_source(void **state)
{
	cancel_at(*state, "alpha PrepareSource", (struct twin_rule){ .method = FM_AGENT_PREPARE_SOURCE }, "1N 2N 3F 8N");
}

static void test_cancel_executing(void **state)
{
	cancel_at(*state, "alpha Execute", (struct twin_rule){ .method = FM_AGENT_EXECUTE }, "1N 2N 3N 4F 8N");
}

/* Queued behind another one: PLANNING, and nothing was done. */
static void test_cancel_queued(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(Migration) *m = NULL;
	char first[64], id[64];
	l->max_concurrent = 1;
	(void)twin_instance_add(l->t, "alpha", "other", TWIN_RUNNING);
	lab_report(l, "alpha", (const char *const[]){ "web", "other", NULL }, 8ull << 30);
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_PREPARE_DESTINATION, .action = TWIN_BLOCK });
	lab_start(l);
	assert_ok(lab_try_migrate(l, "other", "beta", first, &e), e);
	twin_await(l->t, "beta PrepareDestination", 1);
	lab_migrate(l, id);
	fm_pb_free(lab_await_sub_state(l, id, "QUEUED"));
	assert_ok(fm_coordinator_cancel(l->c, id, &m, &e), e);
	fm_pb_free(m);
	lab_assert_end(l, id, FAILED, "1N 2F 8N", "alpha"); /* while the first is under way */
	twin_lift_all(l->t);
	fm_pb_free(lab_finish(l, first));
}

static void test_cancel_after_commit(void **state)
{
	struct lab *l = *state;
	static const struct {
		const char *call;
		enum fm_agent_method method;
	} v[] = { { "beta Verify", FM_AGENT_VERIFY }, { "alpha Release", FM_AGENT_RELEASE } };
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(Migration) *m = NULL;
	char id[64];
	for (size_t i = 0; i < FM_ARRAY_SIZE(v); i++)
		twin_rule_add(l->t, (struct twin_rule){ .method = v[i].method, .action = TWIN_BLOCK, .times = 1 });
	lab_start(l);
	lab_migrate(l, id);
	for (size_t i = 0; i < FM_ARRAY_SIZE(v); i++) {
		twin_await(l->t, v[i].call, 1);
		assert_code(fm_coordinator_cancel(l->c, id, &m, &e), e, FM_E_FAILED_PRECONDITION);
		assert_non_null(strstr(e.message, "past its commit point"));
		pthread_mutex_lock(&l->t->lock);
		l->t->rules[i].lifted = true;
		pthread_mutex_unlock(&l->t->lock);
		fm_stop_request(&l->t->lift);
	}
	lab_assert_end(l, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta");
	assert_code(fm_coordinator_cancel(l->c, id, &m, &e), e, FM_E_FAILED_PRECONDITION);
	assert_code(fm_coordinator_cancel(l->c, "m-nobody", &m, &e), e, FM_E_NOT_FOUND);
}

static void test_cancel_while_rolling_back(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(Migration) *m = NULL;
	char id[64];
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_EXECUTE, .action = TWIN_FAIL, .code = FM_E_INTERNAL });
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_ABORT, .action = TWIN_BLOCK });
	lab_start(l);
	lab_migrate(l, id);
	twin_await(l->t, "alpha Abort", 1);
	assert_code(fm_coordinator_cancel(l->c, id, &m, &e), e, FM_E_FAILED_PRECONDITION);
	twin_lift_all(l->t);
	lab_assert_end(l, id, FAILED, "1N 2N 3N 4F 8N", "alpha");
}

/* The user's cancel comes when the source has committed already: it goes on. */
static void test_cancel_too_late(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(Migration) *m = NULL;
	char id[64];
	l->t->execute = TWIN_SUCCEEDS;
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_EXECUTE, .action = TWIN_LOSE_ANSWER, .code = FM_E_CANCELLED });
	lab_fault(l, "manager-before-execute=stall:300");
	lab_start(l);
	lab_migrate(l, id);
	lab_await_state(l, id, FLEXIMIGRATE__V1__STATE__EXECUTION);
	if (fm_coordinator_cancel(l->c, id, &m, &e) == 0)
		fm_pb_free(m);
	m = lab_finish(l, id);
	/* The call is cancelled before it is made, or its answer was lost: both are told apart by the journals. */
	assert_true(m->state == COMPLETED || (m->state == FAILED && strcmp(m->path, "1N 2N 3N 4F 8N") == 0));
	assert_string_equal(twin_where(l->t, "web"), m->state == COMPLETED ? "beta" : "alpha");
	assert_int_equal(l->t->violations, 0);
	assert_int_equal(twin_leftovers(l->t), 0);
	fm_pb_free(m);
}

static void test_deadline(void **state)
{
	struct lab *l = *state;
	FM_PB(MigrateRequest) req = FLEXIMIGRATE__V1__MIGRATE_REQUEST__INIT;
	FM_PB(Migration) *m = NULL;
	struct fm_error e = FM_ERROR_INIT;
	char id[64];
	req.container = "web";
	req.to = "beta";
	req.max_total_ms = 300;
	/* nothing is ever lifted: the limit ends it, wherever it is by then */
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_PREPARE_DESTINATION, .action = TWIN_BLOCK });
	lab_start(l);
	assert_ok(fm_coordinator_migrate(l->c, &req, &m, &e), e);
	(void)snprintf(id, sizeof(id), "%s", m->id);
	fm_pb_free(m);
	m = lab_finish(l, id);
	assert_int_equal(m->state, FAILED);
	assert_string_equal(twin_where(l->t, "web"), "alpha");
	assert_int_equal(twin_leftovers(l->t), 0);
	assert_int_equal(m->error_code, FM_E_DEADLINE_EXCEEDED);
	assert_non_null(strstr(m->error_message, "--max-total-time"));
	fm_pb_free(m);
	req.max_total_ms = UINT64_MAX;
	assert_code(fm_coordinator_migrate(l->c, &req, &m, &e), e, FM_E_INVALID_ARGUMENT);
}

/* ---------------------------------------------------------------- requests and questions */

static void test_refused_requests(void **state)
{
	struct lab *l = *state;
	static const struct {
		const char *container, *to;
		int strategy;
		enum fm_code code;
	} v[] = {
		{ "", "beta", 0, FM_E_INVALID_ARGUMENT },     { "../etc", "beta", 0, FM_E_INVALID_ARGUMENT },
		{ "web", "", 0, FM_E_INVALID_ARGUMENT },      { "web", "a b", 0, FM_E_INVALID_ARGUMENT },
		{ "web", "beta", 99, FM_E_INVALID_ARGUMENT }, { "web", "beta", -1, FM_E_INVALID_ARGUMENT },
	};
	FM_PB(Migration) **list = NULL;
	struct fm_error e = FM_ERROR_INIT;
	size_t n = 1;
	lab_start(l);
	for (size_t i = 0; i < FM_ARRAY_SIZE(v); i++) {
		FM_PB(MigrateRequest) req = FLEXIMIGRATE__V1__MIGRATE_REQUEST__INIT;
		FM_PB(Migration) *m = NULL;
		req.container = (char *)v[i].container;
		req.to = (char *)v[i].to;
		req.strategy = (FM_PB(Strategy))v[i].strategy;
		assert_code(fm_coordinator_migrate(l->c, &req, &m, &e), e, v[i].code);
		assert_null(m);
	}
	e = FM_ERROR_INIT;
	assert_ok(fm_coordinator_list(l->c, false, 0, &list, &n, &e), e);
	assert_int_equal(n, 0);
	free(list);
	assert_int_equal(l->t->n_calls, 0);
	FM_PB(Migration) *m = NULL;
	assert_code(fm_coordinator_get(l->c, "m-000000000000", &m, &e), e, FM_E_NOT_FOUND);
	assert_true(e.hint[0]);
}

static void test_second_migration(void **state)
{
	struct lab *l = *state;
	FM_PB(Migration) **list = NULL;
	struct fm_error e = FM_ERROR_INIT;
	char id[64], second[64];
	size_t n = 0;
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_EXECUTE, .action = TWIN_BLOCK });
	lab_start(l);
	lab_migrate(l, id);
	twin_await(l->t, "alpha Execute", 1);
	assert_code(lab_try_migrate(l, "web", "beta", second, &e), e, FM_E_ALREADY_EXISTS);
	assert_true(fm_coordinator_is_moving(l->c, "web"));
	assert_false(fm_coordinator_is_moving(l->c, "other"));
	assert_ok(fm_coordinator_list(l->c, true, 0, &list, &n, &e), e);
	assert_int_equal(n, 1);
	assert_string_equal(list[0]->id, id);
	assert_int_equal(list[0]->state, FLEXIMIGRATE__V1__STATE__EXECUTION);
	assert_string_equal(list[0]->step, "switch-over"); /* from the worker, not from the record */
	fm_pb_free(list[0]);
	free(list);
	twin_lift_all(l->t);
	lab_assert_end(l, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta");
}

/* As many as the source thinks fit by default; the label says how many for who does not. */
static void test_streams(void **state)
{
	struct lab *l = *state;
	static const struct {
		const char *label;
		uint32_t asked, planned;
	} v[] = { { NULL, 0, 0 }, { NULL, 3, 3 }, { "2", 0, 2 }, { "2", 16, 16 }, { "0", 0, 0 }, { "many", 1, 1 } };
	FM_PB(MigrateRequest) req = FLEXIMIGRATE__V1__MIGRATE_REQUEST__INIT;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(Migration) *m = NULL;
	char id[64];
	lab_start(l);
	req.container = "web";
	req.to = "beta";
	req.dry_run = true;
	for (size_t i = 0; i < FM_ARRAY_SIZE(v); i++) {
		l->t->streams = v[i].label;
		req.streams = v[i].asked;
		assert_ok(fm_coordinator_migrate(l->c, &req, &m, &e), e);
		assert_int_equal(m->plan->streams, v[i].planned);
		fm_pb_free(m);
		m = NULL;
	}
	req.streams = 17;
	assert_code(fm_coordinator_migrate(l->c, &req, &m, &e), e, FM_E_INVALID_ARGUMENT);
	req.streams = 0;
	assert_code(fm_coordinator_migrate(l->c, &req, &m, &e), e, FM_E_INVALID_ARGUMENT); /* "many" */
	assert_non_null(strstr(e.message, "fleximigrate.streams"));
	l->t->streams = "5";
	lab_migrate(l, id);
	fm_pb_free(lab_finish(l, id));
	assert_int_equal(l->t->asked_streams, 5);
}

/* Nobody is slowed down by default; the label allows it, and the wish wins over the label. */
static void test_throttle(void **state)
{
	struct lab *l = *state;
	static const struct {
		const char *label;
		uint32_t asked;
		bool none;
		uint32_t planned;
	} v[] = { { NULL, 0, false, 0 }, { NULL, 60, false, 60 }, { "40", 0, false, 40 },    { "40", 60, false, 60 },
		  { "40", 0, true, 0 },  { "0", 0, false, 0 },    { "half", 60, false, 60 }, { "half", 0, true, 0 } };
	FM_PB(MigrateRequest) req = FLEXIMIGRATE__V1__MIGRATE_REQUEST__INIT;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(Migration) *m = NULL;
	char id[64];
	lab_start(l);
	req.container = "web";
	req.to = "beta";
	req.dry_run = true;
	for (size_t i = 0; i < FM_ARRAY_SIZE(v); i++) {
		l->t->throttle = v[i].label;
		req.max_throttle_percent = v[i].asked;
		req.no_throttle = v[i].none;
		assert_ok(fm_coordinator_migrate(l->c, &req, &m, &e), e);
		assert_int_equal(m->plan->max_throttle_percent, v[i].planned);
		fm_pb_free(m);
		m = NULL;
	}
	req.no_throttle = false;
	req.max_throttle_percent = 100;
	assert_code(fm_coordinator_migrate(l->c, &req, &m, &e), e, FM_E_INVALID_ARGUMENT);
	req.max_throttle_percent = 0;
	assert_code(fm_coordinator_migrate(l->c, &req, &m, &e), e, FM_E_INVALID_ARGUMENT); /* "half" */
	assert_non_null(strstr(e.message, "fleximigrate.throttle"));
	l->t->throttle = "40";
	lab_migrate(l, id);
	m = lab_finish(l, id);
	assert_int_equal(m->state, FLEXIMIGRATE__V1__STATE__COMPLETED);
	assert_int_equal(l->t->max_throttle_percent, 40);
	assert_int_equal(m->throttle_percent, 20);
	fm_pb_free(m);
}

static void test_dry_run(void **state)
{
	struct lab *l = *state;
	FM_PB(MigrateRequest) req = FLEXIMIGRATE__V1__MIGRATE_REQUEST__INIT;
	FM_PB(Migration) *m = NULL;
	FM_PB(Migration) **list = NULL;
	struct fm_error e = FM_ERROR_INIT;
	size_t n = 1;
	lab_start(l);
	req.container = "web";
	req.to = "beta";
	req.dry_run = true;
	assert_ok(fm_coordinator_migrate(l->c, &req, &m, &e), e);
	assert_string_equal(m->id, "");
	assert_string_equal(m->source, "alpha");
	assert_non_null(m->plan);
	assert_int_equal(m->plan->strategy, FLEXIMIGRATE__V1__STRATEGY__LIVE);
	assert_true(m->plan->predicted_downtime_ms > 0);
	assert_true(m->plan->n_steps > 0);
	fm_pb_free(m);
	m = NULL;
	l->t->blockers[0] = "first";
	l->t->blockers[1] = "second";
	l->t->blockers[2] = "third";
	assert_code(fm_coordinator_migrate(l->c, &req, &m, &e), e, FM_E_FAILED_PRECONDITION);
	assert_non_null(strstr(e.message, "first"));
	assert_non_null(strstr(e.hint, "second; third"));
	l->t->blockers[0] = NULL;
	req.to = "alpha";
	assert_code(fm_coordinator_migrate(l->c, &req, &m, &e), e, FM_E_INVALID_ARGUMENT);
	req.to = "nowhere";
	assert_code(fm_coordinator_migrate(l->c, &req, &m, &e), e, FM_E_NOT_FOUND);
	req.to = "beta";
	req.container = "nobody";
	assert_code(fm_coordinator_migrate(l->c, &req, &m, &e), e, FM_E_NOT_FOUND);
	req.container = "web";
	l->t->deny = true;
	assert_code(fm_coordinator_migrate(l->c, &req, &m, &e), e, FM_E_FAILED_PRECONDITION);
	assert_null(m);
	e = FM_ERROR_INIT;
	assert_ok(fm_coordinator_list(l->c, false, 0, &list, &n, &e), e);
	assert_int_equal(n, 0);
	free(list);
	lab_assert_calls(l, "Prepare", "");
}

static void test_limit_of_active(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;
	char names[70][16], id[64];
	const char *list[71] = { "web" };
	unsigned n = 0;
	for (n = 1; n < 70; n++) {
		(void)snprintf(names[n], sizeof(names[n]), "c%u", n);
		list[n] = names[n];
	}
	lab_report(l, "alpha", list, 8ull << 30);
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_INSPECT, .action = TWIN_BLOCK });
	lab_start(l);
	lab_migrate(l, id);
	twin_await(l->t, "alpha Inspect", 1);
	for (n = 1; n < 70; n++) {
		e = FM_ERROR_INIT;
		if (lab_try_migrate(l, names[n], "beta", id, &e) < 0)
			break;
	}
	assert_int_equal(e.code, FM_E_RESOURCE_EXHAUSTED);
	assert_int_equal(n, 64);
	twin_lift_all(l->t);
	fm_pb_free(lab_finish(l, id)); /* the last one that was taken */
}

/* ---------------------------------------------------------------- events */

static void test_events(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(Event) *event = NULL;
	uint64_t seq = 0;
	int last_state = 0;
	unsigned n = 0;
	char id[64];
	lab_start(l);
	lab_migrate(l, id);
	fm_pb_free(lab_finish(l, id));
	for (;; n++) {
		assert_ok(fm_coordinator_next_event(l->c, id, seq, 0, &event, &e), e);
		if (!event)
			break;
		assert_int_equal(event->seq, seq + 1);
		assert_true(event->at_unix_ms > 0);
		assert_true((int)event->state >= last_state); /* success goes upwards */
		assert_true(fm_str_startswith(event->line, event->level));
		assert_non_null(strstr(event->line, event->component));
		seq = event->seq;
		last_state = event->state;
		fm_pb_free(event);
	}
	assert_true(n >= 19);
	assert_int_equal(last_state, COMPLETED);
	/* nothing comes any more; the wait ends */
	assert_ok(fm_coordinator_next_event(l->c, id, seq, 10, &event, &e), e);
	assert_null(event);
	assert_false(fm_coordinator_is_active(l->c, id));
}

/* ---------------------------------------------------------------- PAUSED */

static const char *const pause_lines[] = {
	"INFO \\[MigrationManager\\]: * Transitioning: EXECUTION -> VERIFICATION.",
	"INFO \\[StateSynchronizer\\]: Fetching the pages of 'web' goes on after * s of pause.",
	"INFO \\[MigrationManager\\]: * Transitioning: VERIFICATION -> COMPLETED.",
	NULL,
};

static unsigned count_lines(struct lab *l, const char *id, const char *pattern)
{
	struct fm_store_event *v = NULL;
	size_t n = lab_lines(l, id, &v);
	unsigned found = 0;
	for (size_t i = 0; i < n; i++)
		found += fnmatch(pattern, v[i].line, 0) == 0;
	fm_store_events_free(v, n);
	return found;
}

/* Until the destination has been asked n times; the last time it is held up. */
static void assert_paused(struct lab *l, const char *id, unsigned n, const char *reason)
{
	twin_await(l->t, "beta Status", n);
	FM_PB(Migration) *m = lab_get(l, id);
	assert_int_equal(m->state, FLEXIMIGRATE__V1__STATE__VERIFICATION);
	assert_string_equal(m->sub_state, "PAUSED");
	assert_non_null(m->pause);
	assert_int_equal(m->pause->since_unix_ms, 1000);
	assert_int_equal(m->pause->pages_missing, 75);
	assert_int_equal(fnmatch(reason, m->pause->reason, 0), 0);
	fm_pb_free(m);
}

static void assert_goes_on(struct lab *l, const char *id)
{
	twin_lift_all(l->t);
	lab_assert_end(l, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta");
	lab_assert_lines(l, id, pause_lines);
	assert_int_equal(count_lines(l, id,
	                             "WARN \\[StateSynchronizer\\]: * is PAUSED: 75 pages are missing on 'beta', and the connection to "
	                             "'alpha' is down: cut.*"),
	                 1);
	assert_int_equal(count_lines(l, id, "*PAUSED*"), 1);
	assert_int_equal(count_lines(l, id, "*of pause.*"), 1);
	FM_PB(Migration) *m = lab_get(l, id);
	assert_string_equal(m->sub_state, "");
	assert_null(m->pause);
	fm_pb_free(m);
}

/* Said by the destination in EXECUTION and in VERIFICATION: one pause. */
static void test_paused(void **state)
{
	struct lab *l = *state;
	char id[64];
	l->t->paused = 2;
	twin_rule_add(l->t, (struct twin_rule){ .host = "beta", .method = FM_AGENT_STATUS, .action = TWIN_BLOCK, .after = 2, .times = 1 });
	lab_start(l);
	lab_migrate(l, id);
	assert_paused(l, id, 3, "the connection to 'alpha' is down: cut");
	assert_goes_on(l, id);
}

/* The destination's agent falls silent in the middle of a pause: it goes on, for another reason. */
static void test_paused_and_silent(void **state)
{
	struct lab *l = *state;
	char id[64];
	l->t->paused = 2;
	twin_rule_add(l->t, (struct twin_rule){ .host = "beta", .method = FM_AGENT_STATUS, .action = TWIN_BLOCK, .after = 3, .times = 1 });
	twin_rule_add(
	        l->t,
	        (struct twin_rule){
	                .host = "beta", .method = FM_AGENT_STATUS, .action = TWIN_FAIL, .code = FM_E_UNAVAILABLE, .after = 2, .times = 1 });
	lab_start(l);
	lab_migrate(l, id);
	assert_paused(l, id, 4, "host 'beta' does not answer (*)");
	assert_goes_on(l, id);
}

/* A health check that fails while pages cannot be fetched says nothing; it is made again. Without a pause the same failures end the migration. */
static void test_health_check_in_a_pause(void **state)
{
	struct lab *l = *state;
	char id[64];
	l->t->endpoint = l->t->health = true;
	l->t->paused = 2;
	twin_rule_add(l->t, (struct twin_rule){ .host = "beta", .method = FM_AGENT_STATUS, .action = TWIN_BLOCK, .after = 2, .times = 1 });
	twin_rule_add(l->t, (struct twin_rule){
	                            .host = "beta", .method = FM_AGENT_PROBE, .action = TWIN_FAIL, .code = FM_E_UNAVAILABLE, .times = 2 });
	lab_start(l);
	lab_migrate(l, id);
	assert_paused(l, id, 3, "the connection to 'alpha' is down: cut");
	assert_goes_on(l, id);
	lab_assert_calls(l, "Probe", "beta Probe, beta Probe, beta Probe, alpha Probe");
}

#define T(f) cmocka_unit_test_setup_teardown(f, lab_setup, lab_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_success),
		T(test_success_cold_without_network),
		T(test_completed_needs_both_releases),
		T(test_pending_failures),
		T(test_policies),
		T(test_policy_concurrency),
		T(test_planning_failures),
		T(test_preparation_failures),
		T(test_destination_gone_in_preparation),
		T(test_abort_fails),
		T(test_cancel_planning),
		T(test_cancel_preparing_destination),
		T(test_cancel_preparing_source),
		T(test_cancel_executing),
		T(test_cancel_queued),
		T(test_cancel_after_commit),
		T(test_cancel_while_rolling_back),
		T(test_cancel_too_late),
		T(test_deadline),
		T(test_refused_requests),
		T(test_second_migration),
		T(test_dry_run),
		T(test_throttle),
		T(test_streams),
		T(test_limit_of_active),
		T(test_events),
		T(test_paused),
		T(test_paused_and_silent),
		T(test_health_check_in_a_pause),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
