/* SPDX-License-Identifier: MIT */
/* test-manager-metrics.c - what a manager exposes while migrations are under way, and when its store does not answer. What is over is in test-tally.c, hosts and containers in test-fleet-metrics.c. */
#include "coordinator-lab.h"

#include "web/metrics.h"

/* The thresholds' verdict, which is nobody's but the manager's. */
static void judge(void *userdata, FM_PB(Host) * host)
{
	fm_pb_set(&host->load, fm_streq(host->name, userdata) ? "over" : "");
}

static char *expose(struct lab *l)
{
	struct fm_web_manager web = {
		.version = "1.2.3", .fleet = l->fleet, .coordinator = l->c, .tally = l->tally, .judge = judge, .judge_userdata = "beta"
	};
	struct fm_exposition *x = fm_exposition_new(1u << 20);
	struct fm_error e = FM_ERROR_INIT;
	char *text = NULL;
	size_t len = 0;
	fm_web_manager_metrics(&web, x);
	assert_ok(fm_exposition_take(x, &text, &len, &e), e);
	fm_exposition_free(x);
	return text;
}

static void assert_line(struct lab *l, const char *line)
{
	_fm_free_ char *text = expose(l), *want = fm_xasprintf("\n%s\n", line);
	if (!strstr(text, want)) {
		(void)fputs(text, stderr); /* longer than a message may be */
		fail_msg("no line '%s'", line);
	}
}

static void start(struct lab *l)
{
	struct fm_error e = FM_ERROR_INIT;
	assert_ok(fm_tally_new(l->store, &l->tally, &e), e);
	lab_start(l);
}

static void stop(struct lab *l)
{
	lab_stop(l);
	fm_tally_free(l->tally);
	l->tally = NULL;
}

static void test_under_way_and_paused(void **state)
{
	struct lab *l = *state;
	char id[64];
	l->t->paused = 2;
	twin_rule_add(l->t, (struct twin_rule){ .host = "beta", .method = FM_AGENT_STATUS, .action = TWIN_BLOCK, .after = 2, .times = 1 });
	start(l);
	assert_line(l, "fleximigrate_migrations_active{state=\"VERIFICATION\"} 0");
	assert_line(l, "fleximigrate_migrations_paused 0");
	lab_migrate(l, id);
	twin_await(l->t, "beta Status", 3); /* which is held up */
	assert_line(l, "fleximigrate_migrations_active{state=\"VERIFICATION\"} 1");
	assert_line(l, "fleximigrate_migrations_active{state=\"EXECUTION\"} 0");
	assert_line(l, "fleximigrate_migrations_paused 1");
	assert_line(l, "fleximigrate_migration_pauses_total 1");
	assert_line(l, "fleximigrate_migrations_total{strategy=\"live\",state=\"COMPLETED\"} 0");
	twin_lift_all(l->t);
	lab_assert_end(l, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta");
	assert_line(l, "fleximigrate_migrations_active{state=\"VERIFICATION\"} 0");
	assert_line(l, "fleximigrate_migrations_paused 0");
	assert_line(l, "fleximigrate_migration_pauses_total 1");
	assert_line(l, "fleximigrate_migrations_total{strategy=\"live\",state=\"COMPLETED\"} 1");
	assert_line(l, "fleximigrate_migration_downtime_seconds_sum{strategy=\"live\"} 0.034");
	assert_line(l, "fleximigrate_hosts{status=\"online\"} 2");
	assert_line(l, "fleximigrate_host_load_state{host=\"beta\",state=\"over\"} 1");
	assert_line(l, "fleximigrate_container_resident_memory_bytes{host=\"beta\",container=\"web\"} 67108864");
	stop(l);
}

static int no_list(struct fm_store *s, bool active_only, size_t limit, struct fm_store_migration **ret, size_t *ret_n, struct fm_error *err)
{
	return fm_error_set(err, FM_E_DATA_LOSS, "the file is damaged");
}

static void test_a_store_that_does_not_answer(void **state)
{
	struct lab *l = *state;
	struct fm_store_ops ops = full_ops;
	struct fm_error e = FM_ERROR_INIT;
	start(l);
	struct fm_web_manager web = { .version = "1.2.3", .fleet = l->fleet, .coordinator = l->c, .tally = l->tally };
	assert_ok(fm_web_manager_ready(&web, &e), e);
	ops.migration_list = no_list;
	l->full->store.ops = &ops;
	assert_code(fm_web_manager_ready(&web, &e), e, FM_E_DATA_LOSS);
	_fm_free_ char *text = expose(l);
	assert_null(strstr(text, "fleximigrate_migrations_active")); /* 0 would be a lie */
	assert_non_null(strstr(text, "\nfleximigrate_hosts{status=\"online\"} 2\n"));
	assert_null(strstr(text, "fleximigrate_host_load_state{host=\"alpha\""));
	l->full->store.ops = &full_ops;
	stop(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_under_way_and_paused, lab_setup, lab_teardown),
		cmocka_unit_test_setup_teardown(test_a_store_that_does_not_answer, lab_setup, lab_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
