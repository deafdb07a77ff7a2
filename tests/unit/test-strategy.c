/* SPDX-License-Identifier: MIT */
/* test-strategy.c - which strategy is chosen, and properties of the predictions over a grid of workloads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "basic/cleanup.h"
#include "decision/strategy.h"

static const uint64_t sizes[] = { 0,         1,         4096,       1u << 20,    15u << 20, (16u << 20) - 1,
	                          16u << 20, 64u << 20, 1ull << 30, 64ull << 30, 1ull << 40 };

static struct fm_strategy_choice choose(struct fm_workload_snapshot w, enum fm_strategy requested)
{
	struct fm_strategy_choice c = { 0 };
	struct fm_error e = FM_ERROR_INIT;
	if (fm_strategy_choose(&w, requested, &c, &e) < 0)
		fail_msg("%s: %s", fm_strategy_to_string(requested), e.message);
	assert_true(c.explanation[0]);
	return c;
}

static void test_names(void **state)
{
	static const char *const names[] = { "auto", "cold", "pre-copy", "post-copy", "live" };
	struct fm_error e = FM_ERROR_INIT;
	for (int i = 0; i < 5; i++) {
		enum fm_strategy s = (enum fm_strategy)0;
		assert_string_equal(fm_strategy_to_string((enum fm_strategy)(i + 1)), names[i]);
		assert_int_equal(fm_strategy_from_string(names[i], &s, &e), 0);
		assert_int_equal(s, i + 1);
	}
	static const char *const bad[] = { "", "AUTO", "unspecified", "cold ", NULL };
	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++) {
		enum fm_strategy s = FM_STRATEGY_COLD;
		e = FM_ERROR_INIT;
		assert_int_equal(fm_strategy_from_string(bad[i], &s, &e), -1);
		assert_int_equal(e.code, FM_E_INVALID_ARGUMENT);
		assert_non_null(strstr(e.hint, "post-copy"));
		assert_int_equal(s, FM_STRATEGY_COLD);
	}
	assert_non_null(fm_strategy_to_string((enum fm_strategy) - 1));
	assert_non_null(fm_strategy_to_string((enum fm_strategy)99));
}

static void test_available(void **state)
{
	for (int s = -1; s <= 7; s++) {
		struct fm_error e = FM_ERROR_INIT;
		bool there = s >= FM_STRATEGY_AUTO && s <= FM_STRATEGY_LIVE;
		assert_int_equal(fm_strategy_check_available((enum fm_strategy)s, &e), there ? 0 : -1);
		assert_int_equal(e.code, there ? FM_OK : FM_E_INVALID_ARGUMENT);
		struct fm_workload_snapshot w = { .nested = true };
		struct fm_strategy_choice c = { 0 };
		assert_int_equal(fm_strategy_choose(&w, (enum fm_strategy)s, &c, NULL), there ? 0 : -1);
		if (!there)
			assert_int_equal(c.strategy, 0); /* written only on success */
	}
}

static void test_ordinary_only_cold(void **state)
{
	for (size_t i = 0; i < FM_ARRAY_SIZE(sizes); i++) {
		struct fm_workload_snapshot w = { .memory_bytes = sizes[i], .processes = 3 };
		struct fm_strategy_choice c;
		struct fm_error e = FM_ERROR_INIT;
		assert_int_equal(choose(w, FM_STRATEGY_AUTO).strategy, FM_STRATEGY_COLD);
		assert_int_equal(choose(w, FM_STRATEGY_COLD).strategy, FM_STRATEGY_COLD);
		for (enum fm_strategy s = FM_STRATEGY_PRE_COPY; s <= FM_STRATEGY_LIVE; s++) {
			e = FM_ERROR_INIT;
			assert_int_equal(fm_strategy_choose(&w, s, &c, &e), -1);
			assert_int_equal(e.code, FM_E_FAILED_PRECONDITION);
			assert_true(e.hint[0]);
		}
	}
}

static void test_nested(void **state)
{
	for (size_t i = 0; i < FM_ARRAY_SIZE(sizes); i++) {
		struct fm_workload_snapshot w = { .memory_bytes = sizes[i], .processes = 3, .nested = true };
		assert_int_equal(choose(w, FM_STRATEGY_COLD).strategy, FM_STRATEGY_COLD);
		for (enum fm_strategy s = FM_STRATEGY_PRE_COPY; s <= FM_STRATEGY_LIVE; s++)
			assert_int_equal(choose(w, s).strategy, s);
		enum fm_strategy s = choose(w, FM_STRATEGY_AUTO).strategy;
		assert_int_equal(s, sizes[i] < (16u << 20) ? FM_STRATEGY_COLD : FM_STRATEGY_LIVE);
		/* replayable: the same snapshot gives the same answer */
		struct fm_strategy_choice a = choose(w, FM_STRATEGY_AUTO), b = choose(w, FM_STRATEGY_AUTO);
		assert_string_equal(a.explanation, b.explanation);
		assert_int_equal(a.predicted_total_ms, b.predicted_total_ms);
	}
}

static void test_room_for_two_copies(void **state)
{
	struct fm_workload_snapshot w = { .memory_bytes = 1u << 30, .processes = 1, .nested = true };
	struct fm_strategy_choice c;

	w.destination_memory_available_bytes = 3ull << 30;
	assert_int_equal(choose(w, FM_STRATEGY_AUTO).strategy, FM_STRATEGY_LIVE);
	w.destination_memory_available_bytes = 2ull << 30;
	assert_int_equal(choose(w, FM_STRATEGY_AUTO).strategy, FM_STRATEGY_POST_COPY);
	for (enum fm_strategy s = FM_STRATEGY_COLD; s <= FM_STRATEGY_LIVE; s++) {
		struct fm_error e = FM_ERROR_INIT;
		bool twice = s == FM_STRATEGY_LIVE || s == FM_STRATEGY_PRE_COPY;
		assert_int_equal(fm_strategy_choose(&w, s, &c, &e), twice ? -1 : 0);
		assert_int_equal(e.code, twice ? FM_E_FAILED_PRECONDITION : FM_OK);
	}
}

/* More of anything never costs less; a faster network never more. */
static void test_monotonic(void **state)
{
	static const enum fm_strategy both[] = { FM_STRATEGY_COLD, FM_STRATEGY_POST_COPY, FM_STRATEGY_LIVE };
	for (size_t k = 0; k < FM_ARRAY_SIZE(both); k++)
		for (uint32_t processes = 0; processes <= 4096; processes = processes * 4 + 1)
			for (size_t i = 0; i + 1 < FM_ARRAY_SIZE(sizes); i++) {
				struct fm_workload_snapshot w = {
					.memory_bytes = sizes[i], .processes = processes, .nested = true, .rootfs_bytes = 1 << 20
				};
				struct fm_strategy_choice a = choose(w, both[k]), b;
				assert_true(a.predicted_total_ms >= a.predicted_downtime_ms);
				assert_true(a.predicted_downtime_ms > 0);
				assert_true(a.predicted_wire_bytes >= w.memory_bytes);
				w.memory_bytes = sizes[i + 1];
				b = choose(w, both[k]);
				assert_true(b.predicted_downtime_ms >= a.predicted_downtime_ms &&
				            b.predicted_total_ms >= a.predicted_total_ms &&
				            b.predicted_wire_bytes >= a.predicted_wire_bytes);
				a = b;
				w.processes++;
				b = choose(w, both[k]);
				assert_true(b.predicted_downtime_ms >= a.predicted_downtime_ms &&
				            b.predicted_total_ms >= a.predicted_total_ms);
				a = b;
				w.rootfs_bytes *= 100;
				b = choose(w, both[k]);
				assert_true(b.predicted_downtime_ms == a.predicted_downtime_ms); /* files travel before the freeze */
				assert_true(b.predicted_total_ms >= a.predicted_total_ms);
				w.bandwidth_bytes_per_s = 2000000000;
				a = choose(w, both[k]);
				assert_true(a.predicted_downtime_ms <= b.predicted_downtime_ms &&
				            a.predicted_total_ms <= b.predicted_total_ms);
			}
}

/* Post-copy's downtime does not contain the transfer. */
static void test_post_copy_is_shorter(void **state)
{
	for (size_t i = 0; i < FM_ARRAY_SIZE(sizes); i++) {
		struct fm_workload_snapshot w = {
			.memory_bytes = sizes[i], .processes = 3, .nested = true, .bandwidth_bytes_per_s = 100000000
		};
		uint64_t lazy = choose(w, FM_STRATEGY_POST_COPY).predicted_downtime_ms;
		assert_true(lazy <= choose(w, FM_STRATEGY_COLD).predicted_downtime_ms);
		w.bandwidth_bytes_per_s = 1000;
		assert_int_equal(choose(w, FM_STRATEGY_POST_COPY).predicted_downtime_ms, lazy);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_available),
		cmocka_unit_test(test_ordinary_only_cold),
		cmocka_unit_test(test_nested),
		cmocka_unit_test(test_room_for_two_copies),
		cmocka_unit_test(test_monotonic),
		cmocka_unit_test(test_post_copy_is_shorter),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
