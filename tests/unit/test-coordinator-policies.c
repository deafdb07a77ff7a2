/* SPDX-License-Identifier: MIT */
/*
 * test-coordinator-policies.c - the operator's policies in migrations: denied ones touch nothing and say why, terms hold (approval, order in the queue, duration, strategy), a restart of the manager asks nobody twice.
 * The hosts are twins (agent-twin.h).
 */
#include "coordinator-lab.h"

#include "decision/policy.h"

static void rules(struct lab *l, const char *text)
{
	_fm_free_ char *path = fm_xasprintf("%s/policies.yaml", l->dir);
	struct fm_error e = FM_ERROR_INIT;

	assert_ok(fm_write_file_atomic(path, text, strlen(text), 0600, &e), e);
	if (!l->policies)
		assert_ok(fm_rulebook_open(path, &l->policies, &e), e);
	else
		assert_ok(fm_rulebook_reload(l->policies, &e), e);
}

/* Denied, with that in the reason, in the log, and in the record in words; nothing was called but the look at the source. */
static void assert_denied(struct lab *l, const char *policy, const char *reason)
{
	char id[64];
	_fm_free_ char *line = fm_xasprintf("WARN \\[PolicyEnforcer\\]: Migration request '*' violates policy '%s'. *%s*", policy, reason);
	lab_migrate(l, id);
	FM_PB(Migration) *m = lab_finish(l, id);
	assert_string_equal(m->path, "1N 2F 8N");
	if (!strstr(m->error_message, policy) || !strstr(m->error_message, reason))
		fail_msg("'%s' does not say '%s' and '%s'", m->error_message, policy, reason);
	if (!lab_has_line(l, id, line))
		fail_msg("no line %s", line);
	json_t *record = json_loads(m->decision, 0, NULL);
	_fm_free_ char *words = fm_policy_explain(record);
	assert_non_null(words);
	assert_non_null(strstr(words, reason));
	assert_memory_equal(words, "Denied", 6);
	assert_true(json_array_size(json_object_get(record, "built_in")) > 0);
	json_decref(record);
	fm_pb_free(m);
	lab_assert_calls(l, "Prepare", "");
}

static void test_denied(void **state)
{
	struct lab *l = *state;
	rules(l, "policy_name: nested_stay\nCONDITIONS: nested and container == 'web'\nACTIONS: [deny_migration]\n");
	lab_start(l);
	assert_denied(l, "nested_stay", "nested (nested is true)");
	rules(l, "policy_name: hot_only\nCONDITIONS: source_cpu_utilization > 80\nACTIONS: [allow_migration]\n");
	assert_denied(l, "hot_only", "'source_cpu_utilization' is not known");
	rules(l, "policy_name: large_only\nCONDITIONS: memory_bytes > 1e15\nACTIONS: [allow_migration]\n");
	assert_denied(l, "default", "no policy allows it; 'large_only': its conditions do not hold: memory_bytes > 1e15");
	rules(l, "policy_name: broken\nCONDITIONS: 1 / (memory_bytes * 0) > 1\nACTIONS: [allow_migration]\n");
	assert_denied(l, "broken", "line 1, column 5: division by zero");
	rules(l, "policy_name: balanced\nACTIONS: [trigger_load_balancer_reconfiguration]\n");
	char id[64];
	lab_migrate(l, id);
	FM_PB(Migration) *m = lab_finish(l, id);
	assert_non_null(strstr(m->error_message, "policy 'balanced' wants its load balancer reconfigured, but no intent"));
	assert_string_equal(m->path, "1N 2F 8N");
	fm_pb_free(m);
	rules(l, "[]");
	lab_migrate(l, id);
	lab_assert_end(l, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta");
}

/* A window that is certainly not now, and one that certainly is: days of the week by UTC, told in an offset that both have. */
static void test_windows(void **state)
{
	struct lab *l = *state;
	static const char *const days[] = { "mon", "tue", "wed", "thu", "fri", "sat", "sun" };
	char id[64];
	size_t far = (size_t)((fm_realtime_ms() / 86400000 + 3 + 3) % 7); /* three days from now */
	_fm_free_ char *closed = fm_xasprintf(
	        "policy_name: w\nACTIONS: [allow_migration]\nCONSTRAINTS: {windows: [{days: [%s], utc_offset: \"+00:00\"}]}\n", days[far]);
	_fm_free_ char *open = fm_xasprintf(
	        "policy_name: w\nACTIONS: [allow_migration]\nCONSTRAINTS: {windows: [{days: [%s]}, {utc_offset: \"-03:30\"}]}\n",
	        days[far]);
	rules(l, closed);
	lab_start(l);
	assert_denied(l, "w", "it is in force outside its windows");
	rules(l, open);
	lab_migrate(l, id);
	lab_assert_end(l, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta");
	assert_true(lab_has_line(l, id, "INFO \\[PolicyEnforcer\\]: Checking policy 'w'."));
}

static void test_built_in_is_recorded(void **state)
{
	struct lab *l = *state;
	lab_report(l, "beta", NULL, 1);
	l->t->memory_bytes = 4096;
	lab_start(l);
	assert_denied(l, "destination_capacity", "it needs");
}

static const char approval[] = "policy_name: ask\nACTIONS: [require_approval]\n";

static void test_approval(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(Migration) *m = NULL;
	char id[64];
	rules(l, approval);
	lab_start(l);
	lab_migrate(l, id);
	m = lab_await_sub_state(l, id, "AWAITING_APPROVAL");
	assert_int_equal(m->state, FLEXIMIGRATE__V1__STATE__PLANNING);
	assert_string_equal(m->step, "waiting for approval");
	fm_pb_free(m);
	lab_assert_calls(l, "Prepare", "");
	assert_ok(fm_coordinator_approve(l->c, id, &m, &e), e);
	assert_true(m->approved_unix_ms > 0);
	fm_pb_free(m);
	lab_assert_end(l, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta");
	assert_true(lab_has_line(l, id, "INFO \\[PolicyEnforcer\\]: Migration '*' waits for approval, as policy 'ask' wants: *"));
	assert_int_equal(fm_coordinator_approve(l->c, id, &m, &e), -1);
	assert_int_equal(e.code, FM_E_FAILED_PRECONDITION);
	e = FM_ERROR_INIT;
	assert_int_equal(fm_coordinator_approve(l->c, "m-000000000000", &m, &e), -1);
	assert_int_equal(e.code, FM_E_NOT_FOUND);
}

static void test_approval_refused(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(Migration) *m = NULL;
	char id[64];
	rules(l, approval);
	lab_start(l);
	lab_migrate(l, id);
	fm_pb_free(lab_await_sub_state(l, id, "AWAITING_APPROVAL"));
	assert_ok(fm_coordinator_cancel(l->c, id, &m, &e), e);
	fm_pb_free(m);
	lab_assert_end(l, id, FAILED, "1N 2F 8N", "alpha");
	/* nobody comes */
	FM_PB(MigrateRequest) req = FLEXIMIGRATE__V1__MIGRATE_REQUEST__INIT;
	req.container = "web";
	req.to = "beta";
	req.max_total_ms = 300;
	assert_ok(fm_coordinator_migrate(l->c, &req, &m, &e), e);
	(void)snprintf(id, sizeof(id), "%s", m->id);
	fm_pb_free(m);
	lab_assert_end(l, id, FAILED, "1N 2F 8N", "alpha");
	m = lab_get(l, id);
	assert_string_equal(m->sub_state, "");
	assert_int_equal(m->error_code, FM_E_DEADLINE_EXCEEDED);
	fm_pb_free(m);
	lab_assert_calls(l, "Prepare", "");
}

/* A restart while it waits asks again; one after the approval does not. */
static void test_approval_and_restart(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(Migration) *m = NULL;
	char id[64], first[64];
	l->max_concurrent = 1;
	(void)twin_instance_add(l->t, "alpha", "other", TWIN_RUNNING);
	lab_report(l, "alpha", (const char *const[]){ "web", "other", NULL }, 8ull << 30);
	rules(l, "policy_name: ask\nCONDITIONS: container == 'web'\nACTIONS: [require_approval]\n");
	lab_start(l);
	lab_migrate(l, id);
	fm_pb_free(lab_await_sub_state(l, id, "AWAITING_APPROVAL"));
	lab_stop(l);
	lab_start(l);
	fm_pb_free(lab_await_sub_state(l, id, "AWAITING_APPROVAL"));
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_PREPARE_DESTINATION, .action = TWIN_BLOCK });
	assert_ok(lab_try_migrate(l, "other", "beta", first, &e), e);
	twin_await(l->t, "beta PrepareDestination", 1);
	assert_ok(fm_coordinator_approve(l->c, id, &m, &e), e);
	fm_pb_free(m);
	fm_pb_free(lab_await_sub_state(l, id, "QUEUED"));
	lab_stop(l);
	twin_lift_all(l->t);
	lab_start(l);
	lab_assert_end(l, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta");
	fm_pb_free(lab_finish(l, first));
}

/* What was asked for, and by whom, is on record: planned anew it is the same question. */
static void test_question_and_restart(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(Migration) *m = NULL;
	char id[64];
	rules(l, "policy_name: ask\nCONDITIONS: trigger == 'drain' and requested_strategy == 'auto'\nACTIONS: [allow_migration, "
	         "require_approval, 'set_strategy(\"cold\")']\n");
	l->t->memory_bytes = 64 << 20;
	lab_start(l);
	FM_PB(MigrateRequest) req = FLEXIMIGRATE__V1__MIGRATE_REQUEST__INIT;
	req.container = "web";
	req.to = "beta";
	req.requested_by = "drain";
	assert_ok(fm_coordinator_migrate(l->c, &req, &m, &e), e);
	(void)snprintf(id, sizeof(id), "%s", m->id);
	fm_pb_free(m);
	fm_pb_free(lab_await_sub_state(l, id, "AWAITING_APPROVAL"));
	lab_stop(l);
	lab_start(l);
	fm_pb_free(lab_await_sub_state(l, id, "AWAITING_APPROVAL"));
	assert_ok(fm_coordinator_approve(l->c, id, &m, &e), e);
	fm_pb_free(m);
	lab_assert_end(l, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta");
	m = lab_get(l, id);
	assert_int_equal(m->strategy, FLEXIMIGRATE__V1__STRATEGY__COLD);
	assert_int_equal(m->requested_strategy, FLEXIMIGRATE__V1__STRATEGY__AUTO);
	assert_string_equal(m->trigger, "drain");
	fm_pb_free(m);
}

static void test_duration(void **state)
{
	struct lab *l = *state;
	char id[64];
	rules(l, "policy_name: quick\nACTIONS: [allow_migration]\nCONSTRAINTS: {migration_duration: 1}\n");
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_PREPARE_SOURCE, .action = TWIN_BLOCK });
	lab_start(l);
	lab_migrate(l, id);
	lab_assert_end(l, id, FAILED, "1N 2N 3F 8N", "alpha");
	FM_PB(Migration) *m = lab_get(l, id);
	assert_int_equal(m->error_code, FM_E_DEADLINE_EXCEEDED);
	assert_string_equal(m->error_message, "the migration took longer than policy 'quick' allows (migration_duration 1 s)");
	fm_pb_free(m);
	twin_lift_all(l->t);
	lab_migrate(l, id);
	lab_assert_end(l, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta");
}

/* One at a time, by a policy: of the three that wait the one with the highest priority goes first, then the older one. */
static void test_priorities(void **state)
{
	struct lab *l = *state;
	static const char *const names[] = { "web", "low1", "low2", "high", NULL };
	struct fm_error e = FM_ERROR_INIT;
	char ids[4][64];
	for (int i = 1; i < 4; i++)
		(void)twin_instance_add(l->t, "alpha", names[i], TWIN_RUNNING);
	lab_report(l, "alpha", names, 8ull << 30);
	rules(l, "- policy_name: one\n  ACTIONS: [allow_migration]\n  CONSTRAINTS: {max_concurrent_migrations: {per_link: 1}}\n"
	         "- policy_name: urgent\n  CONDITIONS: container == 'high'\n  ACTIONS: ['set_priority(\"high\")']\n");
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_PREPARE_DESTINATION, .action = TWIN_BLOCK });
	lab_start(l);
	assert_ok(lab_try_migrate(l, names[0], "beta", ids[0], &e), e);
	twin_await(l->t, "beta PrepareDestination", 1);
	for (int i = 1; i < 4; i++) {
		assert_ok(lab_try_migrate(l, names[i], "beta", ids[i], &e), e);
		fm_pb_free(lab_await_sub_state(l, ids[i], "QUEUED"));
	}
	assert_true(lab_has_line(l, ids[2], "INFO * waits in the queue (priority 50, 1 before it)*"));
	assert_true(lab_has_line(l, ids[3], "INFO * waits in the queue (priority 75, 0 before it)*"));
	twin_lift_all(l->t);
	uint64_t began[4];
	for (int i = 0; i < 4; i++) {
		FM_PB(Migration) *m = lab_finish(l, ids[i]);
		assert_int_equal(m->state, COMPLETED);
		began[i] = 0;
		fm_pb_free(m);
	}
	struct fm_store_event *v = NULL;
	for (int i = 0; i < 4; i++) { /* at most one at a time, so the ends have the order of the beginnings */
		size_t n = lab_lines(l, ids[i], &v);
		began[i] = v[n - 1].at_ms;
		fm_store_events_free(v, n);
	}
	assert_true(began[0] <= began[3] && began[3] <= began[1] && began[1] <= began[2]);
	assert_int_equal(l->t->violations, 0);
}

static void test_strategy(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(Migration) *m = NULL;
	char id[64];
	rules(l, "policy_name: whole\nCONDITIONS: requested_strategy in ('auto', 'live')\nACTIONS: ['set_strategy(\"cold\")']\n");
	l->t->memory_bytes = 64 << 20;
	lab_start(l);
	FM_PB(MigrateRequest) req = FLEXIMIGRATE__V1__MIGRATE_REQUEST__INIT;
	req.container = "web";
	req.to = "beta";
	req.strategy = FLEXIMIGRATE__V1__STRATEGY__LIVE;
	assert_ok(fm_coordinator_migrate(l->c, &req, &m, &e), e);
	(void)snprintf(id, sizeof(id), "%s", m->id);
	fm_pb_free(m);
	lab_assert_end(l, id, FAILED, "1N 2F 8N", "alpha");
	m = lab_get(l, id);
	assert_string_equal(m->error_message, "policy 'whole' wants strategy cold, asked for was live");
	fm_pb_free(m);
	lab_migrate(l, id);
	lab_assert_end(l, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta");
	m = lab_get(l, id);
	assert_int_equal(m->strategy, FLEXIMIGRATE__V1__STRATEGY__COLD);
	fm_pb_free(m);
}

static void test_trigger(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(Migration) *m = NULL;
	rules(l, "policy_name: people_only\nCONDITIONS: trigger != 'user'\nACTIONS: [deny_migration]\n");
	lab_start(l);
	FM_PB(MigrateRequest) req = FLEXIMIGRATE__V1__MIGRATE_REQUEST__INIT;
	req.container = "web";
	req.to = "beta";
	req.dry_run = true;
	req.requested_by = "balance";
	assert_int_equal(fm_coordinator_migrate(l->c, &req, &m, &e), -1);
	assert_non_null(strstr(e.message, "trigger is 'balance'"));
	req.requested_by = "somebody";
	e = FM_ERROR_INIT;
	assert_ok(fm_coordinator_migrate(l->c, &req, &m, &e), e);
	assert_non_null(strstr(m->decision, "\"allowed\":true"));
	fm_pb_free(m);
}

static const char balanced[] =
        "{\"version\":1,\"load_balancers\":[{\"name\":\"lb1\",\"socket\":\"/run/haproxy.sock\",\"max_drain_ms\":700}],"
        "\"intents\":[{\"service\":\"web\",\"container\":\"web\",\"keep\":\"address\",\"addresses\":{\"alpha\":\"192.0.2.1\",\"beta\":"
        "\"192.0.2.2\"},"
        "\"drivers\":[\"bridge\",\"haproxy\"],\"load_balancer\":{\"name\":\"lb1\",\"backend\":\"be\",\"server\":\"web\",\"port\":80%s}}]}";

/* How often the plan has the balancer's server follow */
static unsigned planned_balancers(struct lab *l)
{
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(Migration) *m = NULL;
	FM_PB(MigrateRequest) req = FLEXIMIGRATE__V1__MIGRATE_REQUEST__INIT;
	unsigned n = 0;
	req.container = "web";
	req.to = "beta";
	req.dry_run = true;
	assert_ok(fm_coordinator_migrate(l->c, &req, &m, &e), e);
	for (size_t i = 0; i < m->n_redirections; i++) {
		n += strstr(m->redirections[i]->action, "\"driver\":\"haproxy\"") != NULL;
		assert_null(strstr(m->redirections[i]->action, "by_policy")); /* the driver does not know it */
	}
	fm_pb_free(m);
	return n;
}

static void test_balancer(void **state)
{
	struct lab *l = *state;
	_fm_free_ char *path = fm_xasprintf("%s/network.json", l->dir);
	_fm_free_ char *always = fm_xasprintf(balanced, ""), *by_policy = fm_xasprintf(balanced, ",\"by_policy\":true");
	struct fm_error e = FM_ERROR_INIT;
	l->t->endpoint = true;
	assert_ok(fm_write_file_atomic(path, by_policy, strlen(by_policy), 0600, &e), e);
	assert_ok(fm_network_open(path, l->fleet, &l->network, &e), e);
	rules(l, "policy_name: lb\nACTIONS: [trigger_load_balancer_reconfiguration]\n");
	lab_start(l);
	assert_int_equal(planned_balancers(l), 1);
	rules(l, "[]");
	assert_int_equal(planned_balancers(l), 0);
	lab_stop(l);
	fm_network_free(l->network);
	assert_ok(fm_write_file_atomic(path, always, strlen(always), 0600, &e), e);
	assert_ok(fm_network_open(path, l->fleet, &l->network, &e), e);
	lab_start(l);
	assert_int_equal(planned_balancers(l), 1);
}

/* What is wrong with a file changes nothing. */
static void test_reload(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;
	_fm_free_ char *path = fm_xasprintf("%s/policies.yaml", l->dir);
	static const char broken[] = "policy_name: x\nACTIONS: [alow_migration]\n";
	rules(l, "policy_name: stay\nACTIONS: [rollback]\n");
	lab_start(l);
	assert_ok(fm_write_file_atomic(path, broken, strlen(broken), 0600, &e), e);
	assert_int_equal(fm_rulebook_reload(l->policies, &e), -1);
	assert_non_null(strstr(e.message, "policies.yaml:2:11: there is no action 'alow_migration'; is 'allow_migration' meant?"));
	assert_int_equal(fm_rulebook_count(l->policies), 1);
	assert_denied(l, "stay", "it denies");
}

#define T(test) cmocka_unit_test_setup_teardown(test, lab_setup, lab_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_denied),
		T(test_windows),
		T(test_built_in_is_recorded),
		T(test_approval),
		T(test_approval_refused),
		T(test_approval_and_restart),
		T(test_question_and_restart),
		T(test_duration),
		T(test_priorities),
		T(test_strategy),
		T(test_trigger),
		T(test_reload),
		T(test_balancer),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
