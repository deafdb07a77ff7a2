/* SPDX-License-Identifier: MIT */
/* test-tally.c - counters of migrations: fed by a real coordinator over a real store, and the same again after a restart. */
#include "coordinator-lab.h"

static void begin(struct lab *l)
{
	struct fm_error e = FM_ERROR_INIT;
	assert_ok(fm_tally_new(l->store, &l->tally, &e), e);
	lab_start(l);
}

/* The coordinator goes before what it counts in. */
static void end(struct lab *l)
{
	lab_stop(l);
	fm_tally_free(l->tally);
	l->tally = NULL;
}

static size_t phase(const char *name)
{
	for (size_t i = 0; i < FM_TALLY_PHASES; i++)
		if (fm_streq(fm_tally_phases[i], name))
			return i;
	fail_msg("there is no phase %s", name);
	return 0;
}

static uint64_t total(const struct fm_tally_times *t)
{
	uint64_t n = 0;
	for (size_t i = 0; i <= FM_TALLY_BUCKETS; i++)
		n += t->counts[i];
	return n;
}

static void test_counts_what_is_over_and_knows_it_after_a_restart(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;
	struct fm_tally_figures f, again;
	char id[64];
	begin(l);
	fm_tally_read(l->tally, &f);
	assert_int_equal(f.by_strategy[FM_STRATEGY_LIVE].completed, 0);
	lab_migrate(l, id);
	lab_assert_end(l, id, COMPLETED, "1N 2N 3N 4N 5N 6N", "beta");
	/* there is no such host: it fails on path 1F, before a strategy is chosen */
	assert_ok(lab_try_migrate(l, "web", "gamma", id, &e), e);
	fm_pb_free(lab_finish(l, id));

	fm_tally_read(l->tally, &f);
	assert_int_equal(f.by_strategy[FM_STRATEGY_LIVE].completed, 1);
	assert_int_equal(f.by_strategy[FM_STRATEGY_LIVE].failed, 0);
	assert_int_equal(f.by_strategy[FM_STRATEGY_LIVE].wire_bytes, 64000000);
	assert_int_equal(f.by_strategy[FM_STRATEGY_LIVE].pages, 100);
	assert_int_equal(f.by_strategy[FM_STRATEGY_LIVE].downtime.sum_us, 34000);
	assert_int_equal(f.by_strategy[FM_STRATEGY_LIVE].downtime.counts[3], 1); /* more than 25 ms, at most 50 */
	assert_int_equal(total(&f.by_strategy[FM_STRATEGY_LIVE].duration), 1);
	assert_int_equal(f.by_strategy[FM_STRATEGY_AUTO].failed, 1);
	assert_int_equal(total(&f.by_strategy[FM_STRATEGY_AUTO].duration), 0);
	assert_int_equal(f.failures[FM_E_NOT_FOUND], 1);
	uint64_t phases = 0;
	for (size_t i = 0; i < FM_TALLY_PHASES; i++)
		phases += total(&f.phases[i]);
	assert_int_equal(phases, 1);
	fm_tally_paused(l->tally);

	end(l);
	begin(l);
	fm_tally_read(l->tally, &again);
	assert_memory_equal(&f, &again, sizeof(f)); /* pauses are not on record: they were not in f yet */
	end(l);
}

static void finished(FM_PB(Migration) * m, FM_PB(State) state)
{
	fleximigrate__v1__migration__init(m);
	m->strategy = FLEXIMIGRATE__V1__STRATEGY__PRE_COPY;
	m->state = state;
	m->created_unix_ms = 1000;
	m->finished_unix_ms = 1250;
}

static void test_what_an_agent_makes_up(void **state)
{
	struct lab *l = *state;
	struct fm_error e = FM_ERROR_INIT;
	struct fm_tally_figures f;
	FM_PB(Phase) made_up = FLEXIMIGRATE__V1__PHASE__INIT, restore = made_up, fault = made_up;
	FM_PB(Migration) m;
	made_up.name = "made-up";
	made_up.duration_us = UINT32_MAX;
	restore.name = "restore";
	restore.duration_us = 5000;
	fault.name = "fault-p99";
	assert_ok(fm_tally_new(l->store, &l->tally, &e), e);
	finished(&m, FLEXIMIGRATE__V1__STATE__COMPLETED);
	m.phases = (FM_PB(Phase) *[]){ &made_up, &restore, &fault };
	m.n_phases = 3;
	fm_tally_add(l->tally, &m);
	finished(&m, FLEXIMIGRATE__V1__STATE__FAILED);
	m.strategy = (FM_PB(Strategy))77;
	m.error_code = 4711;
	m.rolled_back = true;
	m.throttle_percent = 5;
	m.finished_unix_ms = 1; /* the clock was set back */
	fm_tally_add(l->tally, &m);
	fm_tally_read(l->tally, &f);
	assert_int_equal(f.phases[phase("other")].counts[FM_TALLY_BUCKETS], 1);
	assert_int_equal(f.phases[phase("restore")].counts[0], 1); /* a bound belongs to its bucket */
	assert_int_equal(f.by_strategy[FM_STRATEGY_PRE_COPY].duration.counts[0], 1);
	assert_int_equal(total(&f.by_strategy[FM_STRATEGY_PRE_COPY].downtime), 0); /* not known */
	assert_int_equal(f.by_strategy[FM_STRATEGY_AUTO].failed, 1);
	assert_int_equal(f.failures[FM_E_UNKNOWN], 1);
	assert_int_equal(f.rolled_back, 1);
	assert_int_equal(f.throttled, 1);
	fm_tally_free(l->tally);
	l->tally = NULL;
	fm_tally_add(NULL, &m); /* nobody asks */
	fm_tally_paused(NULL);
}

/* A migration of a container of its own, in that state; it is never looked at again. */
static void put(struct fm_store *store, unsigned i, bool over)
{
	struct fm_error e = FM_ERROR_INIT;
	char id[32];
	uint32_t epoch = 0;
	(void)snprintf(id, sizeof(id), "m%u", i);
	FM_PB(Migration) m;
	uint8_t detail[256];
	finished(&m, over ? FLEXIMIGRATE__V1__STATE__COMPLETED : FLEXIMIGRATE__V1__STATE__PENDING);
	struct fm_store_migration r = { .id = id,
		                        .container = id,
		                        .source = "a",
		                        .destination = "b",
		                        .strategy = "pre-copy",
		                        .state = FM_STATE_PENDING,
		                        .path = "",
		                        .error_message = "",
		                        .detail = detail,
		                        .detail_len = fleximigrate__v1__migration__pack(&m, detail) };
	assert_ok(fm_store_migration_create(store, &r, &epoch, &e), e);
	if (!over)
		return;
	r.state = FM_STATE_COMPLETED;
	r.finished_ms = 1250;
	assert_ok(fm_store_migration_transition(store, FM_STATE_PENDING, &r, "6N", "", &e), e);
}

static uint64_t completed(struct fm_store *store)
{
	struct fm_tally *t = NULL;
	struct fm_tally_figures f;
	struct fm_error e = FM_ERROR_INIT;
	assert_ok(fm_tally_new(store, &t, &e), e);
	fm_tally_read(t, &f);
	fm_tally_free(t);
	return f.by_strategy[FM_STRATEGY_PRE_COPY].completed;
}

/* With records gone the sum would be smaller than it was, and Prometheus would take all of it for new. */
static void test_begins_at_zero_when_the_store_has_dropped_some(void **state)
{
	struct fm_store *store = NULL;
	struct fm_error e = FM_ERROR_INIT;
	assert_ok(fm_store_open_sqlite(":memory:", &store, &e), e);
	put(store, 0, true);
	put(store, 1, true);
	for (unsigned i = 2; i < FM_STORE_MAX_MIGRATIONS - 1; i++)
		put(store, i, false);
	assert_int_equal(completed(store), 2);
	put(store, FM_STORE_MAX_MIGRATIONS, false);
	assert_int_equal(completed(store), 0);
	fm_store_close(store);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_counts_what_is_over_and_knows_it_after_a_restart, lab_setup, lab_teardown),
		cmocka_unit_test_setup_teardown(test_what_an_agent_makes_up, lab_setup, lab_teardown),
		cmocka_unit_test(test_begins_at_zero_when_the_store_has_dropped_some),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
