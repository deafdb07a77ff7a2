/* SPDX-License-Identifier: MIT */
/*
 * test-coordinator-restart.c - the manager stops in every state without finishing, another one opens the same store: it finishes or rolls back, and
 * what the agents' journals say decides. Agents forget what they had finished, too.
 */
#include "coordinator-lab.h"

/* Blocks that call (its times-th), stops the coordinator there, lifts the block and starts another one. */
static void restart_at(struct lab *l, const char *host, enum fm_agent_method method, char id[64])
{
	_fm_free_ char *call = fm_xasprintf("%s %s", host, twin_method_names[method]);
	unsigned before = twin_count(l->t, call);
	twin_rule_add(l->t, (struct twin_rule){ .host = host, .method = method, .action = TWIN_BLOCK });
	lab_start(l);
	if (!id[0])
		lab_migrate(l, id);
	twin_await(l->t, call, before + 1);
	lab_stop(l);
	twin_lift_all(l->t);
}

static void check_restart(const char *host, enum fm_agent_method method, bool completed, const char *path, const char *where)
{
	void *state = NULL;
	char id[64] = "";
	assert_int_equal(lab_setup(&state), 0);
	struct lab *l = state;
	l->t->endpoint = l->t->health = true;
	restart_at(l, host, method, id);
	assert_int_equal(l->t->violations, 0);
	lab_start(l);
	lab_assert_end(l, id, completed ? COMPLETED : FAILED, path, where);
	assert_true(lab_has_line(l, id, "WARN \\[MigrationManager\\]: Taking up migration *"));
	/* a stop is not a failure: no line of the first manager says so */
	assert_false(lab_has_line(l, id, "*cancelled*"));
	assert_int_equal(lab_teardown(&state), 0);
}

static void test_restart_on_the_way(void **state)
{
	check_restart("alpha", FM_AGENT_INSPECT, true, "1N 2N 3N 4N 5N 6N", "beta");
	check_restart("beta", FM_AGENT_PREPARE_DESTINATION, false, "1N 2N 3F 8N", "alpha");
	check_restart("alpha", FM_AGENT_PREPARE_SOURCE, false, "1N 2N 3F 8N", "alpha");
	check_restart("alpha", FM_AGENT_EXECUTE, false, "1N 2N 3N 4F 8N", "alpha");
	check_restart("beta", FM_AGENT_PROBE, true, "1N 2N 3N 4N 5N 6N", "beta");
	check_restart("alpha", FM_AGENT_PROBE, true, "1N 2N 3N 4N 5N 6N", "beta");
	check_restart("beta", FM_AGENT_VERIFY, true, "1N 2N 3N 4N 5N 6N", "beta");
	check_restart("alpha", FM_AGENT_RELEASE, true, "1N 2N 3N 4N 5N 6N", "beta");
	check_restart("beta", FM_AGENT_RELEASE, true, "1N 2N 3N 4N 5N 6N", "beta");
}

/* Queued behind another one when the manager stops; nothing is started on the way out. */
static void test_restart_queued(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;
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
	lab_stop(l);
	assert_int_equal(l->t->n_calls, 3); /* two were looked at, one was prepared */
	twin_lift_all(l->t);
	lab_start(l);
	lab_assert_end(l, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta");
	fm_pb_free(lab_finish(l, first));
}

/* More unfinished ones than a manager takes: all are taken up. */
static void test_restart_many(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;
	char name[16], last[64];
	FM_PB(Migration) **list = NULL;
	size_t n = 0;
	for (int i = 0; i < 100; i++) {
		uint32_t epoch;
		(void)snprintf(name, sizeof(name), "c%d", i);
		(void)snprintf(last, sizeof(last), "m-%012d", i);
		FM_PB(Migration) m = FLEXIMIGRATE__V1__MIGRATION__INIT;
		m.id = last;
		m.container = name;
		m.destination = "beta";
		m.state = FLEXIMIGRATE__V1__STATE__PENDING;
		uint8_t blob[512];
		struct fm_store_migration r = { .id = last,
			                        .container = name,
			                        .destination = "beta",
			                        .strategy = "auto",
			                        .state = 1,
			                        .detail = blob,
			                        .detail_len = protobuf_c_message_pack(&m.base, blob) };
		assert_ok(fm_store_migration_create(l->store, &r, &epoch, &e), e);
	}
	lab_start(l);
	for (int i = 0; i < 100; i++) {
		(void)snprintf(last, sizeof(last), "m-%012d", i);
		FM_PB(Migration) *m = lab_finish(l, last);
		assert_string_equal(m->path, "1F"); /* nobody knows such containers */
		fm_pb_free(m);
	}
	assert_ok(fm_coordinator_list(l->c, true, 0, &list, &n, &e), e);
	assert_int_equal(n, 0);
	free(list);
}

/* The source's journal decides about a switch-over whose end the first manager did not see. */
static void restart_in_execution(enum twin_execute how, bool completed, const char *where, const char *aborts, bool agents_too)
{
	void *state = NULL;
	char id[64] = "";
	assert_int_equal(lab_setup(&state), 0);
	struct lab *l = state;
	l->t->execute = how;
	/* the answer is lost; the first manager stops while it asks for the status */
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_EXECUTE, .action = TWIN_LOSE_ANSWER, .code = FM_E_UNAVAILABLE });
	restart_at(l, "alpha", FM_AGENT_STATUS, id);
	if (agents_too) {
		twin_restart_agent(l->t, "alpha");
		twin_restart_agent(l->t, "beta");
	}
	lab_start(l);
	lab_assert_end(l, id, completed ? COMPLETED : FAILED, completed ? "1N 2N 3N 4N 5N 6N" : "1N 2N 3N 4F 8N", where);
	lab_assert_calls(l, "Abort", aborts);
	assert_int_equal(lab_teardown(&state), 0);
}

static void test_restart_in_execution(void **state)
{
	for (int agents_too = 0; agents_too < 2; agents_too++) {
		restart_in_execution(TWIN_SUCCEEDS, true, "beta", "", agents_too);
		restart_in_execution(TWIN_STAYS_PREPARED, false, "alpha", "alpha Abort, beta Abort", agents_too);
		restart_in_execution(TWIN_UNDOES, false, "alpha", "alpha Abort, beta Abort", agents_too);
		restart_in_execution(TWIN_DESTINATION_DIES, false, "alpha", "beta Abort, alpha Abort dead", agents_too);
	}
	restart_in_execution(TWIN_STAYS_FROZEN, false, "alpha", "alpha Abort, beta Abort", true);
	restart_in_execution(TWIN_NEVER_RUNS, false, "alpha", "beta Abort, alpha Abort dead", true);
}

static void rules(struct lab *l, const char *text)
{
	_fm_free_ char *path = fm_xasprintf("%s/policies.yaml", l->dir);
	struct fm_error e = FM_ERROR_INIT;
	assert_ok(fm_write_file_atomic(path, text, strlen(text), 0600, &e), e);
	if (l->policies)
		assert_ok(fm_rulebook_reload(l->policies, &e), e);
	else
		assert_ok(fm_rulebook_open(path, &l->policies, &e), e);
}

/* The record as it would be had the migration begun that much earlier. */
static void age_record(struct lab *l, const char *id, uint64_t by_ms)
{
	struct fm_store_migration r;
	struct fm_error e = FM_ERROR_INIT;
	assert_ok(fm_store_migration_get(l->store, id, &r, &e), e);
	FM_PB(Migration) *m = fleximigrate__v1__migration__unpack(NULL, r.detail_len, r.detail);
	assert_non_null(m);
	assert_true(m->n_transitions > 0);
	for (size_t i = 0; i < m->n_transitions; i++)
		m->transitions[i]->at_unix_ms -= by_ms;
	_fm_free_ uint8_t *blob = malloc(protobuf_c_message_get_packed_size(&m->base));
	assert_non_null(blob);
	struct fm_store_migration aged = { .id = (char *)id, .detail = blob, .detail_len = protobuf_c_message_pack(&m->base, blob) };
	assert_ok(fm_store_migration_update(l->store, &aged, &e), e);
	fm_pb_free(m);
	fm_store_migration_done(&r);
}

/* A policy gives half an hour; the second manager finds the source in the middle of the switch-over, so much later. The policy is another one by then. */
static void restart_with_duration(enum twin_execute how, uint64_t later_ms, bool completed)
{
	void *state = NULL;
	char id[64] = "";
	assert_int_equal(lab_setup(&state), 0);
	struct lab *l = state;
	rules(l, "policy_name: half_an_hour\nACTIONS: [allow_migration]\nCONSTRAINTS: {migration_duration: 1800}\n");
	l->t->execute = how;
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_EXECUTE, .action = TWIN_LOSE_ANSWER, .code = FM_E_UNAVAILABLE });
	restart_at(l, "alpha", FM_AGENT_STATUS, id);
	rules(l, "policy_name: any\nACTIONS: [allow_migration]\n");
	age_record(l, id, later_ms);
	lab_start(l);
	lab_assert_end(l, id, completed ? COMPLETED : FAILED, completed ? "1N 2N 3N 4N 5N 6N" : "1N 2N 3N 4F 8N",
	               completed ? "beta" : "alpha");
	FM_PB(Migration) *m = lab_get(l, id);
	if (!completed)
		assert_string_equal(m->error_message,
		                    "the migration took longer than policy 'half_an_hour' allows (migration_duration 1800 s)");
	fm_pb_free(m);
	assert_int_equal(l->t->violations, 0);
	assert_int_equal(lab_teardown(&state), 0);
}

static void test_restart_with_duration(void **state)
{
	restart_with_duration(TWIN_STAYS_FROZEN, 1800000, false);
	restart_with_duration(TWIN_SUCCEEDS, 60000, true);
	restart_with_duration(TWIN_SUCCEEDS, 1800000, true); /* committed before: nothing to roll back to */
}

/* In the middle of a rollback before the commit. */
static void restart_in_rollback(const char *host, enum fm_agent_method failing, const char *path)
{
	void *state = NULL;
	char id[64] = "";
	assert_int_equal(lab_setup(&state), 0);
	struct lab *l = state;
	twin_rule_add(l->t, (struct twin_rule){ .method = failing, .action = TWIN_FAIL, .code = FM_E_INTERNAL });
	restart_at(l, host, FM_AGENT_ABORT, id);
	lab_start(l);
	lab_assert_end(l, id, FAILED, path, "alpha");
	assert_true(lab_has_line(l, id, "* Final State: FAILED."));
	assert_int_equal(lab_teardown(&state), 0);
}

static void test_restart_in_rollback(void **state)
{
	restart_in_rollback("beta", FM_AGENT_PREPARE_DESTINATION, "1N 2N 3F 8N");
	restart_in_rollback("alpha", FM_AGENT_PREPARE_SOURCE, "1N 2N 3F 8N");
	restart_in_rollback("beta", FM_AGENT_PREPARE_SOURCE, "1N 2N 3F 8N");
	restart_in_rollback("alpha", FM_AGENT_EXECUTE, "1N 2N 3N 4F 8N");
	restart_in_rollback("beta", FM_AGENT_EXECUTE, "1N 2N 3N 4F 8N");
}

/* In the middle of the way back, at each of its calls; agents restarted, too, or not. */
static void restart_in_carry_back(const char *host, enum fm_agent_method method, bool agents_too)
{
	void *state = NULL;
	char id[64] = "";
	_fm_free_ char *call = fm_xasprintf("%s %s", host, twin_method_names[method]);
	assert_int_equal(lab_setup(&state), 0);
	struct lab *l = state;
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_VERIFY, .action = TWIN_BLOCK, .times = 1 });
	lab_start(l);
	lab_migrate(l, id);
	twin_await(l->t, "beta Verify", 1);
	lab_stop(l); /* in VERIFICATION; the next manager finds it unhealthy */
	twin_lift_all(l->t);
	twin_rule_add(l->t, (struct twin_rule){ .method = FM_AGENT_VERIFY, .action = TWIN_FAIL, .code = FM_E_FAILED_PRECONDITION });
	restart_at(l, host, method, id);
	if (agents_too) {
		twin_restart_agent(l->t, "alpha");
		twin_restart_agent(l->t, "beta");
	}
	lab_start(l);
	FM_PB(Migration) *m = lab_finish(l, id);
	/* Home again; only an agent that has forgotten an attempt's id may keep it from being used again. */
	if (m->state != FAILED || l->t->violations || strcmp(twin_where(l->t, "web"), "alpha") != 0 || twin_leftovers(l->t)) {
		for (size_t i = 0; i < l->t->n_calls; i++)
			print_message("    call %s\n", l->t->calls[i]);
		fail_msg("restart at '%s' (agents too: %d): running on '%s', %u leftovers, %u violations: %s", call, agents_too,
		         twin_where(l->t, "web"), twin_leftovers(l->t), l->t->violations, l->t->violation);
	}
	assert_string_equal(m->path, "1N 2N 3N 4N 5F 8N");
	assert_true(lab_has_line(l, id, "* Service restored on source. Migration failed. Final State: FAILED."));
	fm_pb_free(m);
	assert_int_equal(lab_teardown(&state), 0);
}

static void test_restart_in_carry_back(void **state)
{
	for (int agents_too = 0; agents_too < 2; agents_too++) {
		restart_in_carry_back("alpha", FM_AGENT_PREPARE_DESTINATION, agents_too);
		restart_in_carry_back("beta", FM_AGENT_PREPARE_SOURCE, agents_too);
		restart_in_carry_back("beta", FM_AGENT_EXECUTE, agents_too);
		restart_in_carry_back("alpha", FM_AGENT_RELEASE, agents_too);
		restart_in_carry_back("beta", FM_AGENT_RELEASE, agents_too);
	}
}

/* After a failed way back the source is released: a manager and an agent that forget must not take the destination's copy for a leftover. */
static void test_restart_while_settling(void **state)
{
	static const char *const hosts[] = { "alpha", "beta" };
	for (int i = 0; i < 4; i++) {
		void *fresh = NULL;
		char id[64] = "";
		assert_int_equal(lab_setup(&fresh), 0);
		struct lab *l = fresh;
		lab_fault(l, "manager-after-execute=fail"); /* 4F after the commit */
		l->t->execute_back = TWIN_UNDOES;
		restart_at(l, hosts[i % 2], FM_AGENT_RELEASE, id);
		if (i >= 2)
			twin_restart_agent(l->t, "alpha");
		lab_fault(l, NULL);
		lab_start(l);
		FM_PB(Migration) *m = lab_finish(l, id);
		assert_int_equal(m->state, FAILED);
		assert_string_equal(m->path, "1N 2N 3N 4F 8N");
		fm_pb_free(m);
		assert_int_equal(l->t->violations, 0);
		assert_string_equal(twin_where(l->t, "web"), "beta");
		assert_int_equal(twin_leftovers(l->t), 0);
		assert_true(lab_has_line(l, id, "* stays on destination 'beta'*"));
		assert_int_equal(lab_teardown(&fresh), 0);
	}
	(void)state;
}

/* A record that cannot be read does not keep the manager from starting. */
static void test_damaged_record(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;
	uint32_t epoch;
	char id[64];
	struct fm_store_migration r = {
		.id = "m-damaged", .container = "broken", .strategy = "auto", .state = 3, .detail = "\xff\xff\xff", .detail_len = 3
	};
	FM_PB(Migration) *m = NULL;
	assert_ok(fm_store_migration_create(l->store, &r, &epoch, &e), e);
	lab_start(l);
	assert_code(fm_coordinator_get(l->c, "m-damaged", &m, &e), e, FM_E_DATA_LOSS);
	lab_migrate(l, id);
	lab_assert_end(l, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta");
}

#define T(f) cmocka_unit_test_setup_teardown(f, lab_setup, lab_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_restart_on_the_way),
		T(test_restart_queued),
		T(test_restart_many),
		cmocka_unit_test(test_restart_in_execution),
		cmocka_unit_test(test_restart_with_duration),
		cmocka_unit_test(test_restart_in_rollback),
		cmocka_unit_test(test_restart_in_carry_back),
		cmocka_unit_test(test_restart_while_settling),
		T(test_damaged_record),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
