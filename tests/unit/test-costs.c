/* SPDX-License-Identifier: MIT */
/* test-costs.c - the manager learns from its own records: from those that completed, whatever else is in the store, and a restart knows as much as before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "decision/snapshot.h"
#include "migration/costs.h"
#include "migration/pb.h"
#include "migration/usage.h"

#define MOVES 20

static struct fm_workload_snapshot workload(void)
{
	struct fm_workload_snapshot w = FM_WORKLOAD_UNKNOWN;
	w.c.nested = true;
	w.c.processes = 1;
	w.c.memory_bytes = 512u << 20;
	return w;
}

static FM_PB(Migration) * completed(unsigned i, double times)
{
	struct fm_workload_snapshot w = workload();
	struct fm_strategy_choice choice;
	assert_int_equal(fm_strategy_choose(&w, FM_STRATEGY_LIVE, &choice, NULL), 0);
	FM_PB(Migration) *m = FM_PB_NEW(Migration, migration);
	_fm_free_ char *id = fm_xasprintf("m-%u", i);
	fm_pb_set(&m->id, id);
	m->state = FLEXIMIGRATE__V1__STATE__COMPLETED;
	m->strategy = FLEXIMIGRATE__V1__STRATEGY__LIVE;
	m->created_unix_ms = 1000;
	m->finished_unix_ms = 1000 + (uint64_t)(choice.cost.total_ms * times);
	m->frozen_us = (uint64_t)(choice.cost.downtime_ms * times * 1000);
	m->wire_bytes = 1 << 20;
	m->plan = FM_PB_NEW(Plan, plan);
	fm_costs_keep(m->plan, &w.c, &choice);
	return m;
}

static double predicted_ms(struct fm_costs *c)
{
	struct fm_workload_snapshot w = workload();
	struct fm_strategy_choice choice;
	assert_int_equal(fm_costs_choose(c, &w, FM_STRATEGY_LIVE, &choice, NULL), 0);
	return choice.cost.downtime_ms;
}

static void record(struct fm_store *s, const FM_PB(Migration) * m)
{
	uint8_t detail[8192];
	size_t n = protobuf_c_message_pack(&m->base, detail);
	uint32_t epoch = 0;
	struct fm_error e = FM_ERROR_INIT;
	struct fm_store_migration r = { .id = m->id,
		                        .container = m->id,
		                        .source = "a",
		                        .destination = "b",
		                        .strategy = "live",
		                        .state = 1,
		                        .path = "",
		                        .error_message = "",
		                        .detail = detail,
		                        .detail_len = n };
	if (fm_store_migration_create(s, &r, &epoch, &e) < 0)
		fail_msg("%s", e.message);
}

static void test_learns_and_a_restart_knows(void **state)
{
	struct fm_store *s = NULL;
	struct fm_costs *c = NULL, *again = NULL;
	assert_int_equal(fm_store_open_sqlite(":memory:", &s, NULL), 0);
	assert_int_equal(fm_costs_new(s, &c, NULL), 0);
	double before = predicted_ms(c);
	for (unsigned i = 0; i < MOVES; i++) {
		_fm_pb_ FM_PB(Migration) *m = completed(i, 3);
		fm_costs_learn(c, m);
		record(s, m);
	}
	double after = predicted_ms(c);
	assert_true(after > 2 * before && after < 4 * before);
	assert_int_equal(fm_costs_new(s, &again, NULL), 0);
	assert_true(predicted_ms(again) == after);
	fm_costs_free(c);
	fm_costs_free(again);
	fm_store_close(s);
}

static void test_only_what_completed_teaches(void **state)
{
	struct fm_store *s = NULL;
	struct fm_costs *c = NULL;
	assert_int_equal(fm_store_open_sqlite(":memory:", &s, NULL), 0);
	assert_int_equal(fm_costs_new(s, &c, NULL), 0);
	double before = predicted_ms(c);
	for (unsigned i = 0; i < 5 * MOVES; i++) {
		_fm_pb_ FM_PB(Migration) *m = completed(i, 3);
		switch (i % 5) {
		case 0:
			m->state = FLEXIMIGRATE__V1__STATE__FAILED;
			break;
		case 1: /* of a manager that kept less */
			fm_pb_free(m->plan->cost_case);
			m->plan->cost_case = NULL;
			break;
		case 2:
			m->frozen_us = 0;
			break;
		case 3: /* the clock was set back */
			m->finished_unix_ms = m->created_unix_ms - 1;
			break;
		default:
			m->strategy = FLEXIMIGRATE__V1__STRATEGY__AUTO;
		}
		fm_costs_learn(c, m);
	}
	assert_true(predicted_ms(c) == before);
	fm_costs_free(c);
	fm_store_close(s);
}

static struct fm_cost_case recalled(struct fm_costs *c, const char *container)
{
	struct fm_cost_case k = FM_WORKLOAD_UNKNOWN.c;
	k.files_bytes = FM_UNKNOWN;
	fm_costs_recall(c, container, &k);
	return k;
}

/* Of pages of rounds that were in vain, too; and the next migration, which has no rounds, does not make it unknown. */
static void test_what_rounds_measured_is_remembered(void **state)
{
	struct fm_store *s = NULL;
	struct fm_costs *c = NULL, *again = NULL;
	_fm_pb_ FM_PB(Migration) *gave_up = completed(1, 1), *cold = completed(2, 1), *absurd = completed(3, 1);
	assert_int_equal(fm_store_open_sqlite(":memory:", &s, NULL), 0);
	assert_int_equal(fm_costs_new(s, &c, NULL), 0);
	fm_pb_set(&gave_up->container, "web");
	gave_up->state = FLEXIMIGRATE__V1__STATE__FAILED;
	gave_up->dirty_bytes_per_s = 5000000;
	gave_up->compressibility = 0.4;
	gave_up->plan->cost_case->files_bytes = 17;
	fm_costs_learn(c, gave_up);
	record(s, gave_up);
	assert_true(recalled(c, "web").dirty_bytes_per_s == 5000000 && recalled(c, "web").files_bytes == 17);
	fm_pb_set(&cold->container, "web");
	cold->plan->cost_case->files_bytes = 18;
	fm_costs_learn(c, cold);
	record(s, cold);
	fm_pb_set(&absurd->container, "web");
	absurd->plan->cost_case->files_bytes = 18;
	absurd->dirty_bytes_per_s = UINT64_MAX;
	absurd->compressibility = NAN;
	fm_costs_learn(c, absurd);
	assert_int_equal(fm_costs_new(s, &again, NULL), 0);
	for (unsigned i = 0; i < 2; i++) {
		struct fm_cost_case k = recalled(i ? again : c, "web");
		assert_true(k.dirty_bytes_per_s == 5000000 && k.compressibility == 0.4 && k.files_bytes == 18);
	}
	assert_true(recalled(c, "db").dirty_bytes_per_s == FM_UNKNOWN && recalled(c, "db").files_bytes == FM_UNKNOWN);
	fm_costs_free(c);
	fm_costs_free(again);
	fm_store_close(s);
}

static void test_what_is_known_stays(void **state)
{
	struct fm_store *s = NULL;
	struct fm_costs *c = NULL;
	_fm_pb_ FM_PB(Migration) *m = completed(1, 1);
	struct fm_cost_case k = FM_WORKLOAD_UNKNOWN.c;
	assert_int_equal(fm_store_open_sqlite(":memory:", &s, NULL), 0);
	assert_int_equal(fm_costs_new(s, &c, NULL), 0);
	fm_pb_set(&m->container, "web");
	m->dirty_bytes_per_s = 5000000;
	fm_costs_learn(c, m);
	k.dirty_bytes_per_s = 0; /* the monitor has looked, and it writes nothing */
	fm_costs_recall(c, "web", &k);
	assert_true(k.dirty_bytes_per_s == 0 && k.files_bytes == 0 && isnan(k.compressibility));
	fm_costs_free(c);
	fm_store_close(s);
}

/* The one that was moved longest ago makes room. */
static void test_so_many_are_remembered(void **state)
{
	struct fm_store *s = NULL;
	struct fm_costs *c = NULL;
	assert_int_equal(fm_store_open_sqlite(":memory:", &s, NULL), 0);
	assert_int_equal(fm_costs_new(s, &c, NULL), 0);
	for (unsigned i = 0; i <= FM_COSTS_REMEMBERED + 1; i++) {
		_fm_pb_ FM_PB(Migration) *m = FM_PB_NEW(Migration, migration);
		_fm_free_ char *name = fm_xasprintf("c%u", i == FM_COSTS_REMEMBERED ? 0 : i); /* the first one is moved once more */
		fm_pb_set(&m->container, name);
		m->dirty_bytes_per_s = 1 + i;
		fm_costs_learn(c, m);
	}
	assert_true(recalled(c, "c0").dirty_bytes_per_s == FM_COSTS_REMEMBERED + 1);
	assert_true(recalled(c, "c1").dirty_bytes_per_s == FM_UNKNOWN);
	assert_true(recalled(c, "c2").dirty_bytes_per_s == 3);
	fm_costs_free(c);
	fm_store_close(s);
}

/* An inspection has no usage: what the agent reported counts, and only what is known of it. */
static void test_case_takes_reported_usage(void **state)
{
	struct fm_cost_case k;
	struct fm_container_usage u;
	_fm_pb_ FM_PB(InspectResponse) *facts = FM_PB_NEW(InspectResponse, inspect_response);
	facts->container = FM_PB_NEW(Container, container);
	facts->container->memory_bytes = 1 << 20;
	fm_costs_case(facts, NULL, NULL, &k);
	assert_true(k.dirty_bytes_per_s == FM_UNKNOWN && k.memory_bytes == 1 << 20);
	fm_container_usage_unknown(&u);
	u.at_unix_ms = 1;
	u.cpu_cores = 1;
	_fm_pb_ FM_PB(ContainerUsage) *without = fm_usage_container_message(&u);
	fm_costs_case(facts, without, NULL, &k);
	assert_true(k.dirty_bytes_per_s == FM_UNKNOWN);
	u.dirty_bytes_per_s = 12345;
	_fm_pb_ FM_PB(ContainerUsage) *with = fm_usage_container_message(&u);
	fm_costs_case(facts, with, NULL, &k);
	assert_true(k.dirty_bytes_per_s == 12345);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_learns_and_a_restart_knows),
		cmocka_unit_test(test_only_what_completed_teaches),
		cmocka_unit_test(test_what_rounds_measured_is_remembered),
		cmocka_unit_test(test_what_is_known_stays),
		cmocka_unit_test(test_so_many_are_remembered),
		cmocka_unit_test(test_case_takes_reported_usage),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
