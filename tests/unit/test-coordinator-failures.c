/* SPDX-License-Identifier: MIT */
/*
 * test-coordinator-failures.c - what the coordinator does when a migration fails in the switch-over, in the verification or on the way back, at each
 * agent call and at each transition: the right undoing in the right order, and never two running copies or none (agent-twin.h checks).
 */
#include "coordinator-lab.h"

/* ---------------------------------------------------------------- scenario 5 */

static const char *const execution_lines[] = {
	"ERROR \\[StateSynchronizer\\]: *",
	"ERROR \\[MigrationManager\\]: * Transitioning: EXECUTION -> FAILED.",
	"INFO \\[MigrationManager\\]: * State: FAILED -> ROLLBACK.",
	"INFO \\[ContainerManager\\]: Ensuring container 'web' remains operational on source 'alpha'. Aborting destination restore.",
	"INFO \\[NetworkManager\\]: Reverting *",
	"INFO \\[StateSynchronizer\\]: Discarding partial state data on 'beta'.",
	"INFO \\[MigrationManager\\]: * Final State: FAILED.",
	NULL,
};

static void fail_execution(struct lab *l, const char *first_aborts)
{
	char id[64];
	lab_start(l);
	lab_migrate(l, id);
	lab_assert_end(l, id, FAILED, "1N 2N 3N 4F 8N", "alpha");
	lab_assert_lines(l, id, execution_lines);
	assert_transitions(l, id, "1>2:1N 2>3:2N 3>4:3N 4>7:4F 7>8 8>7:8N");
	lab_assert_calls(l, "Abort", first_aborts);
}

static void test_execute_fails(void **state)
{
	struct lab *l = *state;
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_EXECUTE, .action = TWIN_FAIL, .code = FM_E_INTERNAL });
	fail_execution(l, "alpha Abort, beta Abort");
}

static void test_execute_undone_by_source(void **state)
{
	struct lab *l = *state;
	l->t->execute = TWIN_UNDOES;
	fail_execution(l, "alpha Abort, beta Abort");
}

/* No answer from the source: what its journal says later decides. */
static void test_execute_unanswered_prepared(void **state)
{
	struct lab *l = *state;
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_EXECUTE, .action = TWIN_FAIL, .code = FM_E_UNAVAILABLE });
	twin_rule_add(l->t,
	              (struct twin_rule){
	                      .host = "alpha", .method = FM_AGENT_STATUS, .action = TWIN_FAIL, .code = FM_E_UNAVAILABLE, .times = 3 });
	fail_execution(l, "alpha Abort, beta Abort");
	assert_true(twin_count(l->t, "alpha Status") >= 4);
}

static void test_execute_unanswered_aborted(void **state)
{
	struct lab *l = *state;
	l->t->execute = TWIN_UNDOES;
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_EXECUTE, .action = TWIN_LOSE_ANSWER, .code = FM_E_UNAVAILABLE });
	fail_execution(l, "alpha Abort, beta Abort");
}

static void test_execute_unanswered_frozen(void **state)
{
	struct lab *l = *state;
	char id[64];
	l->t->execute = TWIN_STAYS_FROZEN;
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_EXECUTE, .action = TWIN_LOSE_ANSWER, .code = FM_E_DEADLINE_EXCEEDED });
	lab_start(l);
	lab_migrate(l, id);
	twin_await(l->t, "alpha Status", 3); /* it waits for the source to make up its mind */
	lab_assert_calls(l, "Abort", "");
	twin_restart_agent(l->t, "alpha");
	lab_assert_end(l, id, FAILED, "1N 2N 3N 4F 8N", "alpha");
	lab_assert_lines(l, id, execution_lines);
}

static void test_execute_unanswered_committed(void **state)
{
	struct lab *l = *state;
	char id[64];
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_EXECUTE, .action = TWIN_LOSE_ANSWER, .code = FM_E_UNAVAILABLE });
	twin_rule_add(l->t,
	              (struct twin_rule){ .method = FM_AGENT_STATUS, .action = TWIN_FAIL, .code = FM_E_DEADLINE_EXCEEDED, .times = 2 });
	lab_start(l);
	lab_migrate(l, id);
	lab_assert_end(l, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta");
	lab_assert_lines(l, id, success_lines);
	assert_true(lab_has_line(l, id, "WARN \\[MigrationManager\\]: Lost host 'alpha' during the switch-over*"));
	lab_assert_calls(l, "Abort", "");
}

/* The source knows nothing (its state was lost), the destination is prepared only. */
static void test_execute_unanswered_unknown(void **state)
{
	struct lab *l = *state;
	char id[64];
	l->t->execute = TWIN_UNDOES;
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_EXECUTE, .action = TWIN_LOSE_ANSWER, .code = FM_E_UNAVAILABLE });
	twin_rule_add(l->t, (struct twin_rule){ .host = "alpha", .method = FM_AGENT_STATUS, .action = TWIN_BLOCK, .times = 0 });
	lab_start(l);
	lab_migrate(l, id);
	twin_await(l->t, "alpha Status", 1);
	twin_restart_agent(l->t, "alpha");
	twin_lift_all(l->t);
	lab_assert_end(l, id, FAILED, "1N 2N 3N 4F 8N", "alpha");
}

/* Committed, and the destination is dead or never ran: destination first, then the source with the proof. */
static void test_destination_dead_after_commit(void **state)
{
	struct lab *l = *state;
	char id[64];
	l->t->execute = TWIN_DESTINATION_DIES;
	lab_start(l);
	lab_migrate(l, id);
	lab_assert_end(l, id, FAILED, "1N 2N 3N 4F 8N", "alpha");
	lab_assert_calls(l, "Abort", "beta Abort, alpha Abort dead");
	assert_true(lab_has_line(l, id, "WARN \\[StateSynchronizer\\]: The destination had run since the switch-over * may be missing."));
	assert_true(lab_has_line(l, id, "INFO * Service restored on source. Migration failed. Final State: FAILED."));
}

static void test_destination_never_ran(void **state)
{
	struct lab *l = *state;
	char id[64];
	l->t->execute = TWIN_NEVER_RUNS;
	lab_start(l);
	lab_migrate(l, id);
	/* "undecided" ends when the destination says that it failed; here it is RESTORED for ever, so kill its agent */
	twin_await(l->t, "beta Status", 2);
	twin_restart_agent(l->t, "beta");
	lab_assert_end(l, id, FAILED, "1N 2N 3N 4F 8N", "alpha");
	lab_assert_calls(l, "Abort", "beta Abort, alpha Abort dead");
	assert_false(lab_has_line(l, id, "*may be missing*"));
	FM_PB(Migration) *m = lab_get(l, id);
	assert_int_equal(m->lost_service_ms, 0);
	fm_pb_free(m);
}

/* The destination cannot be undone: then the source must not run. */
static void test_no_source_without_proof(void **state)
{
	struct lab *l = *state;
	char id[64];
	l->t->execute = TWIN_DESTINATION_DIES;
	twin_rule_add(l->t, (struct twin_rule){
	                            .host = "beta", .method = FM_AGENT_ABORT, .action = TWIN_FAIL, .code = FM_E_FAILED_PRECONDITION });
	lab_start(l);
	lab_migrate(l, id);
	FM_PB(Migration) *m = lab_finish(l, id);
	assert_int_equal(m->state, FAILED);
	assert_false(m->rolled_back);
	fm_pb_free(m);
	lab_assert_calls(l, "alpha Abort", "");
	assert_true(lab_has_line(l, id, "ERROR * needs an operator* Final State: FAILED."));
	assert_false(lab_has_line(l, id, "*restored on source*"));
}

/* The abort of the source is refused because its commit was quicker: the destination has the only living copy and keeps it. */
static void test_commit_quicker_than_abort(void **state)
{
	struct lab *l = *state;
	char id[64];
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_EXECUTE, .action = TWIN_FAIL, .code = FM_E_INTERNAL, .times = 1 });
	twin_rule_add(l->t, (struct twin_rule){ .host = "alpha", .method = FM_AGENT_ABORT, .action = TWIN_BLOCK });
	lab_start(l);
	lab_migrate(l, id);
	twin_await(l->t, "alpha Abort", 1);
	pthread_mutex_lock(&l->t->lock);
	twin_switch_over(l->t, twin_mover(l->t, "alpha", id), twin_mover(l->t, "beta", id), TWIN_SUCCEEDS);
	pthread_mutex_unlock(&l->t->lock);
	twin_lift_all(l->t);
	lab_assert_end(l, id, FAILED, "1N 2N 3N 4F 8N", "alpha"); /* carried back, with all writes */
	assert_true(lab_has_line(l, id, "INFO * carrying its state back *"));
	lab_assert_calls(l, "PrepareDestination", "beta PrepareDestination, alpha PrepareDestination");
	assert_int_equal(twin_count(l->t, "beta Abort"), 0);
}

/* Whatever error the call ends with: a source that has committed has committed. */
static void test_execute_any_error_after_commit(void **state)
{
	static const enum fm_code codes[] = { FM_E_INTERNAL, FM_E_UNKNOWN, FM_E_RESOURCE_EXHAUSTED, FM_E_CANCELLED };
	for (size_t i = 0; i < FM_ARRAY_SIZE(codes); i++) {
		void *fresh = NULL;
		char id[64];
		assert_int_equal(lab_setup(&fresh), 0);
		struct lab *f = fresh;
		twin_rule_add(f->t, (struct twin_rule){ .method = FM_AGENT_EXECUTE, .action = TWIN_LOSE_ANSWER, .code = codes[i] });
		lab_start(f);
		lab_migrate(f, id);
		lab_assert_end(f, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta");
		assert_int_equal(lab_teardown(&fresh), 0);
	}
}

/* ---------------------------------------------------------------- scenario 6 */

static const char *const verification_lines[] = {
	"WARN \\[ResourceMonitor\\]: *",
	"ERROR \\[MigrationManager\\]: * Transitioning: VERIFICATION -> FAILED.",
	"INFO \\[MigrationManager\\]: * State: FAILED -> ROLLBACK.",
	"INFO \\[ContainerManager\\]: Halting container 'web' on destination 'beta' and * reactivate on source 'alpha'.",
	"INFO \\[NetworkManager\\]: Reverting *",
	"INFO \\[MigrationManager\\]: * Service restored on source. Migration failed. Final State: FAILED.",
	NULL,
};

static void fail_verification(struct lab *l)
{
	char id[64];
	lab_start(l);
	lab_migrate(l, id);
	lab_assert_end(l, id, FAILED, "1N 2N 3N 4N 5F 8N", "alpha");
	lab_assert_lines(l, id, verification_lines);
	assert_transitions(l, id, "1>2:1N 2>3:2N 3>4:3N 4>5:4N 5>7:5F 7>8 8>7:8N");
}

static void test_health_check_fails(void **state)
{
	struct lab *l = *state;
	l->t->endpoint = l->t->health = true;
	twin_rule_add(l->t, (struct twin_rule){
	                            .host = "beta", .method = FM_AGENT_PROBE, .action = TWIN_FAIL, .code = FM_E_FAILED_PRECONDITION });
	fail_verification(l);
	assert_int_equal(twin_count(l->t, "beta Probe"), 2); /* as often as the health check says */
	/* the way back is a whole move: facts from where it runs, prepared at home first */
	lab_assert_calls(
	        l, "Pr",
	        "beta PrepareDestination, alpha PrepareSource, beta Probe, beta Probe, alpha PrepareDestination, beta PrepareSource");
	lab_assert_calls(l, "Inspect", "alpha Inspect, beta Inspect");
	lab_assert_calls(l, "Execute", "alpha Execute, beta Execute");
	lab_assert_calls(l, "Release", "alpha Release, beta Release, beta Release, alpha Release");
	lab_assert_calls(l, "Abort", "");
	FM_PB(Container) *c = NULL;
	struct fm_error e = FM_ERROR_INIT;
	assert_ok(fm_fleet_container(l->fleet, "web", &c, &e), e);
	assert_string_equal(c->host, "alpha");
	fm_pb_free(c);
}

static void test_health_check_recovers(void **state)
{
	struct lab *l = *state;
	char id[64];
	l->t->endpoint = l->t->health = true;
	twin_rule_add(l->t, (struct twin_rule){
	                            .host = "beta", .method = FM_AGENT_PROBE, .action = TWIN_FAIL, .code = FM_E_UNAVAILABLE, .times = 1 });
	lab_start(l);
	lab_migrate(l, id);
	lab_assert_end(l, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta");
}

static void test_latency_over_limit(void **state)
{
	struct lab *l = *state;
	l->t->endpoint = l->t->health = true;
	l->t->max_latency_ms = 5;
	l->t->latency_us = 5001;
	fail_verification(l);
}

static void test_path_from_source_fails(void **state)
{
	struct lab *l = *state;
	l->t->endpoint = true;
	twin_rule_add(l->t, (struct twin_rule){ .host = "alpha", .method = FM_AGENT_PROBE, .action = TWIN_FAIL, .code = FM_E_UNAVAILABLE });
	fail_verification(l);
}

/* A packet or two that are lost on the way are no reason to carry it back. */
static void test_path_from_source_is_tried_again(void **state)
{
	struct lab *l = *state;
	char id[64];
	l->t->endpoint = true;
	twin_rule_add(l->t, (struct twin_rule){
	                            .host = "alpha", .method = FM_AGENT_PROBE, .action = TWIN_FAIL, .code = FM_E_UNAVAILABLE, .times = 2 });
	lab_start(l);
	lab_migrate(l, id);
	lab_assert_end(l, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta");
	assert_int_equal(twin_count(l->t, "alpha Probe"), 3);
}

static void test_verify_fails(void **state)
{
	struct lab *l = *state;
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_VERIFY, .action = TWIN_FAIL, .code = FM_E_FAILED_PRECONDITION });
	fail_verification(l);
}

/* The destination dies while it is verified: there is nothing to carry back. */
static void test_destination_dies_in_verification(void **state)
{
	struct lab *l = *state;
	char id[64];
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_VERIFY, .action = TWIN_BLOCK });
	lab_start(l);
	lab_migrate(l, id);
	twin_await(l->t, "beta Verify", 1);
	pthread_mutex_lock(&l->t->lock);
	l->t->instances[1].state = TWIN_GONE;
	pthread_mutex_unlock(&l->t->lock);
	twin_lift_all(l->t);
	lab_assert_end(l, id, FAILED, "1N 2N 3N 4N 5F 8N", "alpha");
	lab_assert_lines(l, id, verification_lines);
	lab_assert_calls(l, "Abort", "beta Abort, alpha Abort dead");
	assert_true(lab_has_line(l, id, "WARN * may be missing."));
}

/* The way back fails each time: the service stays where all its writes are, the source's copy goes. */
static void test_carry_back_fails(void **state)
{
	struct lab *l = *state;
	char id[64];
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_VERIFY, .action = TWIN_FAIL, .code = FM_E_FAILED_PRECONDITION });
	l->t->execute_back = TWIN_UNDOES;
	lab_start(l);
	lab_migrate(l, id);
	lab_assert_end(l, id, FAILED, "1N 2N 3N 4N 5F 8N", "beta");
	lab_assert_calls(l, "Execute", "alpha Execute, beta Execute, beta Execute, beta Execute");
	assert_true(lab_has_line(l, id, "INFO * the service stays on destination 'beta'. Migration failed. Final State: FAILED."));
	FM_PB(Migration) *m = lab_get(l, id);
	assert_false(m->rolled_back);
	fm_pb_free(m);
	FM_PB(Container) *c = NULL;
	struct fm_error e = FM_ERROR_INIT;
	assert_ok(fm_fleet_container(l->fleet, "web", &c, &e), e);
	assert_string_equal(c->host, "beta");
	fm_pb_free(c);
}

/* The home's tree dies right after the way back's commit: the other copy must not stay frozen. */
static void test_carry_back_dies_at_home(void **state)
{
	struct lab *l = *state;
	char id[64];
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_VERIFY, .action = TWIN_FAIL, .code = FM_E_FAILED_PRECONDITION });
	l->t->execute_back = TWIN_DESTINATION_DIES;
	lab_start(l);
	lab_migrate(l, id);
	lab_assert_end(l, id, FAILED, "1N 2N 3N 4N 5F 8N", "beta");
	assert_true(twin_count(l->t, "beta Abort dead") == 3);
}

static void test_carry_back_second_attempt(void **state)
{
	struct lab *l = *state;
	char id[64];
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_VERIFY, .action = TWIN_FAIL, .code = FM_E_FAILED_PRECONDITION });
	twin_rule_add(l->t, (struct twin_rule){ .host = "alpha",
	                                        .method = FM_AGENT_PREPARE_DESTINATION,
	                                        .action = TWIN_LOSE_ANSWER,
	                                        .code = FM_E_UNAVAILABLE,
	                                        .times = 1 });
	lab_start(l);
	lab_migrate(l, id);
	lab_assert_end(l, id, FAILED, "1N 2N 3N 4N 5F 8N", "alpha");
	assert_true(lab_has_line(l, id, "WARN * Attempt 1 of 3 to carry 'web' back failed: *"));
}

/* ---------------------------------------------------------------- fault points */

static void test_fault_points(void **state)
{
	struct lab *l = *state;
	static const struct {
		const char *spec, *path, *where;
		bool completed;
	} v[] = {
		{ "manager-before-execute=fail", "1N 2N 3N 4F 8N", "alpha", false },
		{ "manager-after-execute=fail", "1N 2N 3N 4F 8N", "alpha", false }, /* carried back */
		{ "manager-after-transition@1=fail", "1N 2F 8N", "alpha", false },
		{ "manager-after-transition@2=fail", "1N 2N 3F 8N", "alpha", false },
		{ "manager-after-transition@3=fail", "1N 2N 3N 4F 8N", "alpha", false },
		{ "manager-after-transition@4=fail", "1N 2N 3N 4N 5F 8N", "alpha", false },
		{ "manager-after-transition@5=fail", "1N 2N 3N 4N 5N 6N", "beta", true },
		{ "manager-after-transition@6=fail", "1N 2N 3N 4N 5N 6N", "beta", true },
	};
	for (size_t i = 0; i < FM_ARRAY_SIZE(v); i++) {
		void *fresh = NULL;
		char id[64];
		assert_int_equal(lab_setup(&fresh), 0);
		struct lab *f = fresh;
		lab_fault(f, v[i].spec);
		lab_start(f);
		lab_migrate(f, id);
		lab_assert_end(f, id, v[i].completed ? COMPLETED : FAILED, v[i].path, v[i].where);
		assert_int_equal(lab_teardown(&fresh), 0);
	}
	assert_null(l->c);
}

/* ---------------------------------------------------------------- the store is full */

static void test_store_full(void **state)
{
	/* The transition that fails, what it leads to. A rollback tries again until there is room. */
	static const struct {
		int nth, times;
		const char *path, *where;
		bool completed;
	} v[] = {
		{ 1, 1, "1F", "alpha", false },
		{ 2, 1, "1N 2F 8N", "alpha", false },
		{ 3, 1, "1N 2N 3F 8N", "alpha", false },
		{ 3, 2, "1N 2N 3F 8N", "alpha", false },
		{ 4, 1, "1N 2N 3N 4F 8N", "alpha", false }, /* carried back */
		{ 5, 1, "1N 2N 3N 4N 5F 8N", "alpha", false },
		{ 6, 2, "1N 2N 3N 4N 5N 6N", "beta", true },
	};
	for (size_t i = 0; i < FM_ARRAY_SIZE(v); i++) {
		void *fresh = NULL;
		char id[64];
		assert_int_equal(lab_setup(&fresh), 0);
		struct lab *f = fresh;
		atomic_store(&f->full->fail_times, v[i].times);
		atomic_store(&f->full->fail_transition, v[i].nth);
		lab_start(f);
		lab_migrate(f, id);
		lab_assert_end(f, id, v[i].completed ? COMPLETED : FAILED, v[i].path, v[i].where);
		assert_int_equal(lab_teardown(&fresh), 0);
	}
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;
	char id[64];
	lab_start(l);
	atomic_store(&l->full->fail_create, 1);
	assert_code(lab_try_migrate(l, "web", "beta", id, &e), e, FM_E_RESOURCE_EXHAUSTED);
	assert_false(fm_coordinator_is_moving(l->c, "web"));
}

#define T(f) cmocka_unit_test_setup_teardown(f, lab_setup, lab_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_execute_fails),
		T(test_execute_undone_by_source),
		T(test_execute_unanswered_prepared),
		T(test_execute_unanswered_aborted),
		T(test_execute_unanswered_frozen),
		T(test_execute_unanswered_committed),
		T(test_execute_unanswered_unknown),
		T(test_destination_dead_after_commit),
		T(test_destination_never_ran),
		T(test_no_source_without_proof),
		T(test_commit_quicker_than_abort),
		T(test_execute_any_error_after_commit),
		T(test_health_check_fails),
		T(test_health_check_recovers),
		T(test_latency_over_limit),
		T(test_path_from_source_fails),
		T(test_path_from_source_is_tried_again),
		T(test_verify_fails),
		T(test_destination_dies_in_verification),
		T(test_carry_back_fails),
		T(test_carry_back_dies_at_home),
		T(test_carry_back_second_attempt),
		T(test_fault_points),
		T(test_store_full),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
