/* SPDX-License-Identifier: MIT */
/* test-selector.c - which strategy is taken: what is possible, what meets the limits, what is cheapest; and that it says why. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "basic/cleanup.h"
#include "decision/selector.h"

static const uint64_t sizes[] = { 0,         1,         4096,       1u << 20,    15u << 20, (16u << 20) - 1,
	                          16u << 20, 64u << 20, 1ull << 30, 64ull << 30, 1ull << 40 };

static struct fm_workload_snapshot nested(uint64_t memory_bytes)
{
	struct fm_workload_snapshot w = FM_WORKLOAD_UNKNOWN;
	w.c.nested = true;
	w.c.memory_bytes = memory_bytes;
	w.c.processes = 3;
	return w;
}

static struct fm_strategy_choice choose(struct fm_workload_snapshot w, enum fm_strategy requested)
{
	struct fm_strategy_choice c = { 0 };
	struct fm_error e = FM_ERROR_INIT;
	if (fm_strategy_choose(&w, requested, &c, &e) < 0)
		fail_msg("%s: %s", fm_strategy_to_string(requested), e.message);
	assert_true(c.explanation[0]);
	return c;
}

static void test_only_known_strategies(void **state)
{
	for (int s = -1; s <= 7; s++) {
		struct fm_workload_snapshot w = nested(1 << 20);
		struct fm_strategy_choice c = { 0 };
		bool there = s >= FM_STRATEGY_AUTO && s <= FM_STRATEGY_LIVE;
		assert_int_equal(fm_strategy_choose(&w, (enum fm_strategy)s, &c, NULL), there ? 0 : -1);
		if (!there)
			assert_int_equal(c.strategy, 0); /* written only on success */
	}
}

static void test_ordinary_only_cold(void **state)
{
	for (size_t i = 0; i < FM_ARRAY_SIZE(sizes); i++) {
		struct fm_workload_snapshot w = nested(sizes[i]);
		struct fm_strategy_choice c;
		w.c.nested = false;
		assert_int_equal(choose(w, FM_STRATEGY_AUTO).strategy, FM_STRATEGY_COLD);
		assert_int_equal(choose(w, FM_STRATEGY_COLD).strategy, FM_STRATEGY_COLD);
		for (enum fm_strategy s = FM_STRATEGY_PRE_COPY; s <= FM_STRATEGY_LIVE; s++) {
			struct fm_error e = FM_ERROR_INIT;
			assert_int_equal(fm_strategy_choose(&w, s, &c, &e), -1);
			assert_int_equal(e.code, FM_E_FAILED_PRECONDITION);
			assert_true(e.hint[0]);
			w.by_weights = !w.by_weights;
			assert_int_equal(choose(w, FM_STRATEGY_AUTO).strategy, FM_STRATEGY_COLD);
		}
	}
}

static void test_what_is_asked_for_is_taken(void **state)
{
	for (size_t i = 0; i < FM_ARRAY_SIZE(sizes); i++)
		for (enum fm_strategy s = FM_STRATEGY_COLD; s <= FM_STRATEGY_LIVE; s++) {
			struct fm_workload_snapshot w = nested(sizes[i]);
			w.max_downtime_ms = 1; /* not even then is it another one */
			struct fm_strategy_choice c = choose(w, s);
			assert_int_equal(c.strategy, s);
			assert_true(c.predicted_total_ms >= c.predicted_downtime_ms);
			assert_memory_equal(&c.cost, &c.options[s - FM_STRATEGY_COLD].cost, sizeof(c.cost));
		}
}

static void test_replayable(void **state)
{
	for (size_t i = 0; i < FM_ARRAY_SIZE(sizes); i++) {
		struct fm_strategy_choice a = choose(nested(sizes[i]), FM_STRATEGY_AUTO), b = choose(nested(sizes[i]), FM_STRATEGY_AUTO);
		assert_string_equal(a.explanation, b.explanation);
		assert_int_equal(a.predicted_total_ms, b.predicted_total_ms);
		assert_int_equal(a.strategy, b.strategy);
	}
}

static void test_room_for_two_copies(void **state)
{
	struct fm_workload_snapshot w = nested(1u << 30);
	struct fm_strategy_choice c;
	w.destination_memory_available_bytes = 3ull << 30;
	assert_int_equal(choose(w, FM_STRATEGY_AUTO).strategy, FM_STRATEGY_LIVE);
	w.destination_memory_available_bytes = 2ull << 30;
	c = choose(w, FM_STRATEGY_AUTO);
	assert_int_equal(c.strategy, FM_STRATEGY_POST_COPY);
	assert_non_null(strstr(c.explanation, "not live"));
	assert_non_null(strstr(c.explanation, "two copies"));
	for (enum fm_strategy s = FM_STRATEGY_COLD; s <= FM_STRATEGY_LIVE; s++) {
		struct fm_error e = FM_ERROR_INIT;
		bool twice = s == FM_STRATEGY_LIVE || s == FM_STRATEGY_PRE_COPY;
		assert_int_equal(fm_strategy_choose(&w, s, &c, &e), twice ? -1 : 0);
		assert_int_equal(e.code, twice ? FM_E_FAILED_PRECONDITION : FM_OK);
	}
}

/* The cheapest of those that meet the limits: checked against all prices. */
static void test_cheapest_within_the_limits(void **state)
{
	static const uint64_t limits[] = { 1, 50, 100, 300, 1000, 10000 };
	unsigned within = 0, without = 0;
	for (size_t i = 0; i < FM_ARRAY_SIZE(sizes); i++)
		for (size_t k = 0; k < FM_ARRAY_SIZE(limits); k++)
			for (uint64_t dirty = 0; dirty < 2000000000; dirty = dirty * 3 + 1000000) {
				struct fm_workload_snapshot w = nested(sizes[i]);
				w.c.dirty_bytes_per_s = dirty;
				w.c.bandwidth_bytes_per_s = 125000000;
				w.max_downtime_ms = limits[k];
				struct fm_strategy_choice c = choose(w, FM_STRATEGY_AUTO);
				const struct fm_strategy_option *taken = &c.options[c.strategy - FM_STRATEGY_COLD];
				for (unsigned o = 0; o < FM_STRATEGY_OPTIONS; o++) {
					const struct fm_strategy_option *other = &c.options[o];
					assert_true(other->meets_limits || other->why_not[0]);
					if (taken->meets_limits)
						assert_true(!other->meets_limits || 0.95 * taken->price <= other->price);
					else
						assert_true(!other->meets_limits && taken->cost.downtime_ms <= other->cost.downtime_ms);
				}
				within += taken->meets_limits;
				without += !taken->meets_limits;
				if (!taken->meets_limits)
					assert_non_null(strstr(c.explanation, "over the limits"));
			}
	assert_true(within > 100 && without > 100);
}

static void test_rounds_that_do_not_shrink_are_no_pre_copy(void **state)
{
	struct fm_workload_snapshot w = nested(1u << 30);
	w.c.bandwidth_bytes_per_s = 125000000;
	w.c.dirty_bytes_per_s = 1000000000;
	w.max_downtime_ms = 60000;
	struct fm_strategy_choice c = choose(w, FM_STRATEGY_AUTO);
	const struct fm_strategy_option *pre = &c.options[FM_STRATEGY_PRE_COPY - FM_STRATEGY_COLD];
	assert_true(pre->possible && !pre->meets_limits);
	assert_non_null(strstr(pre->why_not, "would not shrink"));
	assert_int_not_equal(c.strategy, FM_STRATEGY_PRE_COPY);
}

/* What was learnt decides: where live was slow every time and cold fast, it is cold. */
static void test_history_changes_the_choice(void **state)
{
	struct fm_workload_snapshot w = nested(24u << 20);
	struct fm_cost_model *m = fm_cost_model_new();
	assert_int_equal(choose(w, FM_STRATEGY_AUTO).strategy, FM_STRATEGY_LIVE);
	for (unsigned i = 0; i < 60; i++) {
		struct fm_cost_case c = w.c;
		struct fm_cost_outcome o = { .total_ms = 700 };
		c.strategy = (enum fm_strategy)(FM_STRATEGY_COLD + i % 4);
		o.downtime_ms = c.strategy == FM_STRATEGY_COLD ? 40 : 150;
		fm_cost_learn(m, &c, &o);
	}
	w.model = m;
	struct fm_strategy_choice c = choose(w, FM_STRATEGY_AUTO);
	assert_int_equal(c.strategy, FM_STRATEGY_COLD);
	assert_non_null(strstr(c.explanation, "60 moves"));
	fm_cost_model_free(m);
}

static void test_importance_weighs_downtime(void **state)
{
	struct fm_workload_snapshot w = nested(1u << 30);
	double before = choose(w, FM_STRATEGY_AUTO).options[FM_STRATEGY_LIVE - FM_STRATEGY_COLD].price;
	w.importance = 10;
	assert_true(choose(w, FM_STRATEGY_AUTO).options[FM_STRATEGY_LIVE - FM_STRATEGY_COLD].price > before);
}

static void test_published_weights(void **state)
{
	struct fm_workload_snapshot w = nested(1u << 30);
	w.by_weights = true;
	w.max_downtime_ms = 60000;
	struct fm_strategy_choice c = choose(w, FM_STRATEGY_AUTO);
	assert_non_null(strstr(c.explanation, "published weights"));
	for (unsigned i = 0; i < FM_STRATEGY_OPTIONS; i++)
		assert_true(c.options[i].price >= 0 && c.options[i].price <= 1);
	/* less room at the destination speaks against two copies */
	w.destination_memory_available_bytes = 3ull << 30;
	struct fm_strategy_choice tight = choose(w, FM_STRATEGY_AUTO);
	w.destination_memory_available_bytes = 300ull << 30;
	struct fm_strategy_choice wide = choose(w, FM_STRATEGY_AUTO);
	unsigned live = FM_STRATEGY_LIVE - FM_STRATEGY_COLD;
	assert_true(tight.options[live].price > wide.options[live].price);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_only_known_strategies),
		cmocka_unit_test(test_ordinary_only_cold),
		cmocka_unit_test(test_what_is_asked_for_is_taken),
		cmocka_unit_test(test_replayable),
		cmocka_unit_test(test_room_for_two_copies),
		cmocka_unit_test(test_cheapest_within_the_limits),
		cmocka_unit_test(test_rounds_that_do_not_shrink_are_no_pre_copy),
		cmocka_unit_test(test_history_changes_the_choice),
		cmocka_unit_test(test_importance_weighs_downtime),
		cmocka_unit_test(test_published_weights),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
