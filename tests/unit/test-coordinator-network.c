/* SPDX-License-Identifier: MIT */
/*
 * test-coordinator-network.c - the redirections of a migration: which steps the coordinator asks for, in which order, and that whatever fails, and wherever the manager dies, the network is led to where
 * the container is and to nowhere else. The hosts are twins (agent-twin.h) on one VXLAN: 'gamma' and 'delta' have nothing to do with the move but their forwarding entries.
 */
#include "coordinator-lab.h"

#define ON_ALL(step) "alpha Redirect " step ", beta Redirect " step ", gamma Redirect " step ", delta Redirect " step
#define STEP(name)   FLEXIMIGRATE__V1__REDIRECTION_STEP__REDIRECTION_##name

static const char vxlan[] = "{\"version\":1,\"vxlan\":[{\"device\":\"vx0\",\"hosts\":{\"alpha\":\"192.0.2.1\",\"beta\":\"192.0.2.2\","
                            "\"gamma\":\"192.0.2.3\",\"delta\":\"192.0.2.4\"}}],"
                            "\"intents\":[{\"service\":\"web\",\"container\":\"web\",\"keep\":\"address\",\"max_gap_ms\":5000}]}";

static void describe(struct lab *l, const char *text)
{
	_fm_free_ char *path = fm_xasprintf("%s/network.json", l->dir);
	struct fm_error e = FM_ERROR_INIT;

	fm_network_free(l->network);
	l->network = NULL;
	assert_ok(fm_write_file_atomic(path, text, strlen(text), 0600, &e), e);
	assert_ok(fm_network_open(path, l->fleet, &l->network, &e), e);
}

static int setup(void **state)
{
	struct lab *l;

	if (lab_setup(state) < 0)
		return -1;
	l = *state;
	l->t->endpoint = true;
	describe(l, vxlan);
	return 0;
}

static void refuse(struct lab *l, const char *host, const char *step, enum twin_action action, enum fm_code code, unsigned times)
{
	twin_rule_add(l->t,
	              (struct twin_rule){
	                      .host = host, .method = FM_AGENT_REDIRECT, .step = step, .action = action, .code = code, .times = times });
}

/* What the hosts around the two have taken last; NEW: none ever. */
static void assert_network(struct lab *l, FM_PB(RedirectionStep) gamma, FM_PB(RedirectionStep) delta)
{
	FM_PB(RedirectionStep) got[2] = { STEP(NEW), STEP(NEW) };

	for (size_t i = 0; i < l->t->n_redirections; i++)
		got[strcmp(l->t->redirections[i].host, "delta") == 0] = l->t->redirections[i].step;
	assert_int_equal(got[0], gamma);
	assert_int_equal(got[1], delta);
}

/* The record says the same of all of them. */
static void assert_record(struct lab *l, const char *id, FM_PB(RedirectionStep) step)
{
	FM_PB(Migration) *m = lab_get(l, id);

	assert_int_equal(m->n_redirections, 4);
	for (size_t i = 0; i < m->n_redirections; i++)
		assert_int_equal(m->redirections[i]->step, step);
	fm_pb_free(m);
}

static void run(struct lab *l, FM_PB(State) state, const char *path, const char *where, char id[64])
{
	lab_start(l);
	lab_migrate(l, id);
	lab_assert_end(l, id, state, path, where);
}

static void test_order(void **state)
{
	struct lab *l = *state;
	char id[64];

	run(l, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta", id);
	assert_network(l, STEP(VERIFIED), STEP(VERIFIED));
	assert_record(l, id, STEP(VERIFIED));
	lab_assert_calls(l, "Redirect", ON_ALL("prepare") ", " ON_ALL("open") ", " ON_ALL("flip") ", " ON_ALL("verify"));
	/* looked at before anything else is prepared, opened when both hosts are ready, flipped when it runs there */
	_fm_free_ char *all = twin_calls_like(l->t, "");
	const char *order[] = { "delta Redirect prepare", "beta PrepareDestination", "alpha PrepareSource", "alpha Redirect open",
		                "delta Redirect open",    "alpha Execute",           "alpha Redirect flip", "alpha Release" };
	const char *at = all;
	for (size_t i = 0; i < FM_ARRAY_SIZE(order); i++) {
		at = strstr(at, order[i]);
		assert_non_null(at);
	}
}

static void test_no_intent(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;
	char id[64];

	(void)twin_instance_add(l->t, "alpha", "other", TWIN_RUNNING);
	lab_report(l, "alpha", (const char *const[]){ "web", "other", NULL }, 8ull << 30);
	lab_start(l);
	assert_ok(lab_try_migrate(l, "other", "beta", id, &e), e);
	fm_pb_free(lab_finish(l, id));
	assert_string_equal(twin_where(l->t, "other"), "beta");
	lab_assert_calls(l, "Redirect", "");
}

static void test_dry_run(void **state)
{
	struct lab *l = *state;
	FM_PB(MigrateRequest) req = FLEXIMIGRATE__V1__MIGRATE_REQUEST__INIT;
	FM_PB(Migration) *m = NULL;
	struct fm_error e = FM_ERROR_INIT;

	lab_start(l);
	req.container = (char *)"web";
	req.to = (char *)"beta";
	req.dry_run = true;
	assert_ok(fm_coordinator_migrate(l->c, &req, &m, &e), e);
	assert_int_equal(m->n_redirections, 4);
	assert_string_equal(m->redirections[2]->at, "gamma");
	assert_non_null(strstr(m->redirections[0]->action, "\"vxlan\""));
	assert_null(strstr(m->redirections[0]->action, "\"at\""));
	fm_pb_free(m);
	lab_assert_calls(l, "Redirect", "");
}

/* An intent that cannot be met ends in PLANNING, with the reason. */
static void test_intent_not_met(void **state)
{
	static const char text[] =
	        "{\"version\":1,\"intents\":[{\"service\":\"web\",\"container\":\"web\",\"keep\":\"address\",\"max_gap_ms\":1}]}";
	struct lab *l = *state;
	char id[64];

	describe(l, text);
	run(l, FAILED, "1N 2F 8N", "alpha", id);
	FM_PB(Migration) *m = lab_get(l, id);
	assert_non_null(strstr(m->error_message, "intent 'web'"));
	fm_pb_free(m);
	lab_assert_calls(l, "Prepare", "");
}

static void test_prepare_fails(void **state)
{
	struct lab *l = *state;
	char id[64];

	refuse(l, "delta", "prepare", TWIN_FAIL, FM_E_UNAVAILABLE, 0);
	run(l, FAILED, "1N 2N 3F 8N", "alpha", id);
	lab_assert_calls(l, "Redirect", ON_ALL("prepare")); /* nothing was changed, so nothing is undone */
	assert_int_equal(twin_count(l->t, "beta PrepareDestination"), 0);
	assert_true(lab_has_line(l, id, "ERROR \\[NetworkManager\\]: *"));
}

/* One that did not answer may have been opened all the same. */
static void test_open_fails(void **state)
{
	struct lab *l = *state;
	char id[64];

	refuse(l, "delta", "open", TWIN_LOSE_ANSWER, FM_E_DEADLINE_EXCEEDED, 0);
	run(l, FAILED, "1N 2N 3F 8N", "alpha", id);
	assert_network(l, STEP(REVERTED), STEP(REVERTED));
	assert_record(l, id, STEP(REVERTED));
	lab_assert_calls(l, "Redirect",
	                 ON_ALL("prepare") ", " ON_ALL(
	                         "open") ", delta Redirect revert, gamma Redirect revert, beta Redirect revert, alpha Redirect revert");
}

static void test_undo_is_not_recorded(void **state)
{
	struct lab *l = *state;
	char id[64];

	atomic_store(&l->full->fail_update, 1);
	run(l, FAILED, "1N 2N 3F 8N", "alpha", id);
	lab_assert_calls(l, "Redirect", ON_ALL("prepare"));
}

static void test_switch_over_undone(void **state)
{
	struct lab *l = *state;
	char id[64];

	l->t->execute = TWIN_UNDOES;
	run(l, FAILED, "1N 2N 3N 4F 8N", "alpha", id);
	assert_network(l, STEP(REVERTED), STEP(REVERTED));
	lab_assert_calls(l, "flip", "");
	/* the service first */
	_fm_free_ char *all = twin_calls_like(l->t, "");
	assert_true(strstr(all, "alpha Abort") < strstr(all, "delta Redirect revert"));
}

/* A rollback writes down what it has reverted; where there is nothing to revert, nothing. */
static void test_revert_is_recorded(void **state)
{
	struct lab *l = *state;
	char id[64];

	l->t->execute = TWIN_UNDOES;
	run(l, FAILED, "1N 2N 3N 4F 8N", "alpha", id);
	assert_int_equal(atomic_load(&l->full->updates), 3); /* prepared, opened, reverted */
}

static void test_nothing_to_revert(void **state)
{
	struct lab *l = *state;
	char id[64];

	describe(l, "{\"version\":1}");
	l->t->execute = TWIN_UNDOES;
	run(l, FAILED, "1N 2N 3N 4F 8N", "alpha", id);
	assert_int_equal(atomic_load(&l->full->updates), 0);
}

static void test_flip_comes_late(void **state)
{
	struct lab *l = *state;
	char id[64];

	refuse(l, "gamma", "flip", TWIN_FAIL, FM_E_UNAVAILABLE, 2);
	run(l, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta", id);
	assert_network(l, STEP(VERIFIED), STEP(VERIFIED));
	assert_true(lab_has_line(l, id, "WARN \\[NetworkManager\\]: *trying again*"));
}

static void test_flip_refused(void **state)
{
	struct lab *l = *state;
	char id[64];

	refuse(l, "delta", "flip", TWIN_FAIL, FM_E_ABORTED, 0); /* somebody else's change: no use in trying again */
	run(l, FAILED, "1N 2N 3N 4F 8N", "alpha", id);
	assert_network(l, STEP(REVERTED), STEP(REVERTED));
	lab_assert_calls(l, "flip", ON_ALL("flip"));
	/* both ways are open while it is carried back */
	_fm_free_ char *all = twin_calls_like(l->t, "");
	const char *back = strstr(all, "beta Execute");
	assert_non_null(back);
	assert_int_equal(twin_count(l->t, "gamma Redirect open"), 2);
	assert_true(strstr(all, "delta Redirect revert") > back);
}

static void test_verify_fails(void **state)
{
	struct lab *l = *state;
	char id[64];

	refuse(l, "delta", "verify", TWIN_FAIL, FM_E_FAILED_PRECONDITION, 0);
	run(l, FAILED, "1N 2N 3N 4N 5F 8N", "alpha", id);
	assert_network(l, STEP(REVERTED), STEP(REVERTED));
}

/* It stays at the destination, the only place with its writes: so does the network. */
static void test_stays_at_destination(void **state)
{
	struct lab *l = *state;
	char id[64];

	l->t->execute_back = TWIN_UNDOES;
	refuse(l, "delta", "verify", TWIN_FAIL, FM_E_FAILED_PRECONDITION, 0);
	run(l, FAILED, "1N 2N 3N 4N 5F 8N", "beta", id);
	assert_network(l, STEP(FLIPPED), STEP(FLIPPED));
	assert_record(l, id, STEP(FLIPPED));
}

static void test_destination_dies(void **state)
{
	struct lab *l = *state;
	char id[64];

	l->t->execute = TWIN_DESTINATION_DIES;
	run(l, FAILED, "1N 2N 3N 4F 8N", "alpha", id);
	assert_network(l, STEP(REVERTED), STEP(REVERTED));
}

/* A host that stays away does not keep the service from coming back; what is left is told, and is on record. */
static void test_revert_fails(void **state)
{
	struct lab *l = *state;
	char id[64];

	l->t->execute = TWIN_UNDOES;
	refuse(l, "gamma", "revert", TWIN_FAIL, FM_E_ABORTED, 0);
	run(l, FAILED, "1N 2N 3N 4F 8N", "alpha", id);
	assert_network(l, STEP(OPEN), STEP(REVERTED));
	assert_true(lab_has_line(l, id, "ERROR \\[NetworkManager\\]: Reverting * for 'web' (by gamma) failed: *"));
	assert_true(lab_has_line(l, id, "*needs an operator*"));
}

/* ---------------------------------------------------------------- what the source does itself, and what stays */

static const char tunnel[] = "{\"version\":1,\"tunnels\":{\"hosts\":{\"alpha\":\"192.0.2.1\",\"beta\":\"192.0.2.2\"}},"
                             "\"intents\":[{\"service\":\"web\",\"container\":\"web\",\"keep\":\"address\",\"drivers\":[\"tunnel\"]}]}";

/* The source flips its side in the switch-over, and both sides stay, in their hosts' hands, before the source is released. */
static void test_tunnel_stays(void **state)
{
	struct lab *l = *state;
	char id[64];

	describe(l, tunnel);
	run(l, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta", id);
	assert_int_equal(l->t->flips, 1);
	assert_int_equal(l->t->reverts, 0);
	assert_int_equal(twin_count(l->t, "alpha Redirect keep"), 1);
	assert_int_equal(twin_count(l->t, "beta Redirect keep"), 1);
	_fm_free_ char *all = twin_calls_like(l->t, "");
	assert_true(strstr(all, "beta Redirect keep") < strstr(all, "alpha Release"));
	FM_PB(Migration) *m = lab_get(l, id);
	assert_int_equal(m->n_redirections, 2);
	for (size_t i = 0; i < m->n_redirections; i++)
		assert_int_equal(m->redirections[i]->step, STEP(KEPT));
	fm_pb_free(m);
}

/* On the way back the tunnel ends when the port opens at home: it would lead away from it. */
static void test_tunnel_of_a_way_back(void **state)
{
	struct lab *l = *state;
	char id[64];

	describe(l, tunnel);
	refuse(l, "beta", "verify", TWIN_FAIL, FM_E_FAILED_PRECONDITION, 0);
	run(l, FAILED, "1N 2N 3N 4N 5F 8N", "alpha", id);
	assert_int_equal(l->t->reverts, 1);
	assert_int_equal(l->t->flips, 0);
	lab_assert_calls(l, "keep", "");
	assert_int_equal(twin_count(l->t, "alpha Redirect revert"), 1);
	assert_int_equal(twin_count(l->t, "beta Redirect revert"), 1);
}

/* ---------------------------------------------------------------- a manager that dies at a point, and the next one */

static void restart_at(struct lab *l, const char *call, struct twin_rule block, char id[64])
{
	lab_start(l);
	twin_rule_add(l->t, block);
	lab_migrate(l, id);
	twin_await(l->t, call, 1);
	lab_stop(l);
	twin_lift_all(l->t);
	lab_start(l);
}

#define BLOCK_AT(h, s) ((struct twin_rule){ .host = (h), .method = FM_AGENT_REDIRECT, .step = (s), .action = TWIN_BLOCK })

/* ---------------------------------------------------------------- where flows lead, as the store has it */

static const char switches[] = "{\"version\":1,\"topology\":{\"version\":1,\"hosts\":[{\"name\":\"alpha\"},{\"name\":\"beta\"}],"
                               "\"switches\":[{\"name\":\"s1\"}],\"links\":["
                               "{\"from\":\"alpha\",\"to\":\"s1\",\"to_port_number\":1,\"latency_us\":1,\"bandwidth_bytes_per_s\":1},"
                               "{\"from\":\"beta\",\"to\":\"s1\",\"to_port_number\":2,\"latency_us\":1,\"bandwidth_bytes_per_s\":1}]},"
                               "\"openflow\":{\"switches\":[{\"switch\":\"s1\",\"address\":\"unix:/nowhere\"}]},"
                               "\"intents\":[{\"service\":\"web\",\"container\":\"web\"},{\"service\":\"other\",\"container\":\"other\"}]}";

/* One that is over, with a flow that it led to that port, or did not in the end. */
static void on_record(struct lab *l, const char *id, const char *container, bool completed, FM_PB(RedirectionStep) step, int to_port)
{
	_fm_pb_ FM_PB(Migration) *pb = FM_PB_NEW(Migration, migration);
	FM_PB(Redirection) *r = FM_PB_NEW(Redirection, redirection);
	_fm_free_ char *action =
	        fm_xasprintf("{\"driver\":\"openflow\",\"switches\":[{\"name\":\"s1\",\"from_port\":1,\"to_port\":%d}]}", to_port);
	struct fm_store_migration m = { .id = (char *)id,
		                        .container = (char *)container,
		                        .source = (char *)"alpha",
		                        .destination = (char *)"beta",
		                        .strategy = (char *)"live",
		                        .state = FLEXIMIGRATE__V1__STATE__PENDING };
	struct fm_error e = FM_ERROR_INIT;
	_fm_free_ uint8_t *detail = NULL;
	uint32_t epoch;

	fm_pb_set(&pb->id, id);
	fm_pb_set(&pb->container, container);
	fm_pb_set(&r->action, action);
	r->step = step;
	FM_PB_ADD(pb->redirections, pb->n_redirections, r);
	detail = malloc(protobuf_c_message_get_packed_size(&pb->base));
	m.detail_len = protobuf_c_message_pack(&pb->base, detail);
	m.detail = detail;
	m.path = m.error_message = (char *)"";
	assert_ok(fm_store_migration_create(l->store, &m, &epoch, &e), e);
	m.state = completed ? COMPLETED : FAILED;
	m.finished_ms = fm_realtime_ms();
	assert_ok(fm_store_migration_transition(l->store, FLEXIMIGRATE__V1__STATE__PENDING, &m, "", "", &e), e);
}

static json_int_t leads_to(struct lab *l)
{
	FM_PB(MigrateRequest) req = FLEXIMIGRATE__V1__MIGRATE_REQUEST__INIT;
	_fm_pb_ FM_PB(Migration) *m = NULL;
	struct fm_error e = FM_ERROR_INIT;

	req.container = (char *)"web";
	req.to = (char *)"beta";
	req.dry_run = true;
	assert_ok(fm_coordinator_migrate(l->c, &req, &m, &e), e);
	assert_int_equal(m->n_redirections, 1);
	json_t *action = json_loads(m->redirections[0]->action, 0, NULL);
	json_int_t port = json_integer_value(json_object_get(json_array_get(json_object_get(action, "switches"), 0), "from_port"));
	json_decref(action);
	return port;
}

/* A manager that is started anew knows it from the moves that are over, not from the topology, which may have changed since. */
static void test_restart_knows_flows(void **state)
{
	struct lab *l = *state;

	describe(l, switches);
	lab_start(l);
	assert_int_equal(leads_to(l), 1);
	lab_stop(l);
	on_record(l, "m-000000000001", "web", true, STEP(VERIFIED), 3);
	on_record(l, "m-000000000002", "web", true, STEP(VERIFIED), 4);
	on_record(l, "m-000000000003", "web", false, STEP(REVERTED), 5);
	on_record(l, "m-000000000004", "other", true, STEP(VERIFIED), 6);
	describe(l, switches);
	lab_start(l);
	assert_int_equal(leads_to(l), 4);
	/* one that failed and stayed at its destination has led its clients there */
	lab_stop(l);
	on_record(l, "m-000000000005", "web", false, STEP(FLIPPED), 7);
	describe(l, switches);
	lab_start(l);
	assert_int_equal(leads_to(l), 7);
}

/* The file changes in the middle: what is under way goes on with what it was planned with, the next one has nothing to do. */
static void test_reload_in_the_middle(void **state)
{
	struct lab *l = *state;
	_fm_free_ char *path = fm_xasprintf("%s/network.json", l->dir);
	FM_PB(MigrateRequest) req = FLEXIMIGRATE__V1__MIGRATE_REQUEST__INIT;
	_fm_pb_ FM_PB(Migration) *next = NULL;
	struct fm_error e = FM_ERROR_INIT;
	char id[64];

	lab_start(l);
	twin_rule_add(l->t, BLOCK_AT("delta", "prepare"));
	lab_migrate(l, id);
	twin_await(l->t, "delta Redirect prepare", 1);
	assert_ok(fm_write_file_atomic(path, "{\"version\":1}", 13, 0600, &e), e);
	assert_ok(fm_network_reload(l->network, &e), e);
	twin_lift_all(l->t);
	lab_assert_end(l, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta");
	assert_network(l, STEP(VERIFIED), STEP(VERIFIED));
	assert_record(l, id, STEP(VERIFIED));
	req.container = (char *)"web";
	req.to = (char *)"alpha";
	req.dry_run = true;
	assert_ok(fm_coordinator_migrate(l->c, &req, &next, &e), e);
	assert_int_equal(next->n_redirections, 0);
}

static void test_restart_in_prepare(void **state)
{
	struct lab *l = *state;
	char id[64];

	restart_at(l, "delta Redirect prepare", BLOCK_AT("delta", "prepare"), id);
	lab_assert_end(l, id, FAILED, "1N 2N 3F 8N", "alpha");
	lab_assert_calls(l, "revert", "");
}

static void test_restart_in_open(void **state)
{
	struct lab *l = *state;
	char id[64];

	restart_at(l, "delta Redirect open", BLOCK_AT("delta", "open"), id);
	lab_assert_end(l, id, FAILED, "1N 2N 3F 8N", "alpha");
	assert_network(l, STEP(REVERTED), STEP(REVERTED));
}

static void test_restart_in_flip(void **state)
{
	struct lab *l = *state;
	char id[64];

	restart_at(l, "delta Redirect flip", BLOCK_AT("delta", "flip"), id);
	lab_assert_end(l, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta");
	assert_network(l, STEP(VERIFIED), STEP(VERIFIED));
}

static void test_restart_in_verify(void **state)
{
	struct lab *l = *state;
	char id[64];

	restart_at(l, "delta Redirect verify", BLOCK_AT("delta", "verify"), id);
	lab_assert_end(l, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta");
	assert_network(l, STEP(VERIFIED), STEP(VERIFIED));
}

static void test_restart_in_revert(void **state)
{
	struct lab *l = *state;
	char id[64];

	l->t->execute = TWIN_UNDOES;
	restart_at(l, "gamma Redirect revert", BLOCK_AT("gamma", "revert"), id);
	lab_assert_end(l, id, FAILED, "1N 2N 3N 4F 8N", "alpha");
	assert_network(l, STEP(REVERTED), STEP(REVERTED));
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, lab_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_order),
		T(test_no_intent),
		T(test_dry_run),
		T(test_intent_not_met),
		T(test_prepare_fails),
		T(test_open_fails),
		T(test_undo_is_not_recorded),
		T(test_switch_over_undone),
		T(test_revert_is_recorded),
		T(test_nothing_to_revert),
		T(test_flip_comes_late),
		T(test_flip_refused),
		T(test_verify_fails),
		T(test_stays_at_destination),
		T(test_destination_dies),
		T(test_revert_fails),
		T(test_tunnel_stays),
		T(test_tunnel_of_a_way_back),
		T(test_restart_knows_flows),
		T(test_reload_in_the_middle),
		T(test_restart_in_prepare),
		T(test_restart_in_open),
		T(test_restart_in_flip),
		T(test_restart_in_verify),
		T(test_restart_in_revert),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
