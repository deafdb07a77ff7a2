/* SPDX-License-Identifier: MIT */
/* test-cost.c - the formula's properties over a grid of workloads, and what the correction makes of a history whose truth is known here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "basic/cleanup.h"
#include "decision/cost.h"
#include "decision/snapshot.h"

static const uint64_t sizes[] = { 0, 1, 4096, 1u << 20, 16u << 20, 64u << 20, 1ull << 30, 64ull << 30, 1ull << 40 };

static struct fm_cost_case known(enum fm_strategy s, uint64_t memory_bytes)
{
	return (struct fm_cost_case){ .strategy = s,
		                      .nested = true,
		                      .processes = 2,
		                      .memory_bytes = memory_bytes,
		                      .dirty_bytes_per_s = FM_UNKNOWN,
		                      .files_bytes = 1 << 20,
		                      .latency_ms = NAN,
		                      .compressibility = NAN,
		                      .source_cpu_percent = NAN };
}

static struct fm_cost predict(const struct fm_cost_model *m, struct fm_cost_case c)
{
	struct fm_cost k;
	fm_cost_predict(m, &c, &k);
	assert_true(isfinite(k.downtime_ms) && k.downtime_ms > 0);
	assert_true(isfinite(k.total_ms) && k.total_ms >= k.downtime_ms);
	assert_true(isfinite(k.wire_bytes) && k.wire_bytes >= 0);
	assert_true(k.downtime_low_ms <= k.downtime_ms && k.downtime_ms <= k.downtime_high_ms);
	return k;
}

/* More of anything never costs less; a faster network never more. */
static void test_monotonic(void **state)
{
	static const enum fm_strategy all[] = { FM_STRATEGY_COLD, FM_STRATEGY_POST_COPY, FM_STRATEGY_LIVE };
	for (size_t k = 0; k < FM_ARRAY_SIZE(all); k++)
		for (uint32_t processes = 0; processes <= 4096; processes = processes * 4 + 1)
			for (size_t i = 0; i + 1 < FM_ARRAY_SIZE(sizes); i++) {
				struct fm_cost_case c = known(all[k], sizes[i]);
				c.processes = processes;
				struct fm_cost a = predict(NULL, c);
				c.memory_bytes = sizes[i + 1];
				struct fm_cost b = predict(NULL, c);
				assert_true(b.downtime_ms >= a.downtime_ms && b.total_ms >= a.total_ms && b.wire_bytes >= a.wire_bytes);
				c.processes++;
				a = predict(NULL, c);
				assert_true(a.downtime_ms >= b.downtime_ms && a.total_ms >= b.total_ms);
				c.files_bytes *= 100;
				b = predict(NULL, c);
				assert_true(b.downtime_ms == a.downtime_ms); /* files travel before the freeze */
				assert_true(b.total_ms >= a.total_ms);
				c.bandwidth_bytes_per_s = 2000000000;
				a = predict(NULL, c);
				assert_true(a.downtime_ms <= b.downtime_ms && a.total_ms <= b.total_ms);
			}
}

/* The downtime of post-copy and live does not contain the transfer. */
static void test_downtime_without_the_transfer(void **state)
{
	for (size_t i = 0; i < FM_ARRAY_SIZE(sizes); i++) {
		struct fm_cost_case c = known(FM_STRATEGY_POST_COPY, sizes[i]);
		c.bandwidth_bytes_per_s = 100000000;
		double lazy = predict(NULL, c).downtime_ms;
		c.bandwidth_bytes_per_s = 1000;
		assert_true(predict(NULL, c).downtime_ms == lazy);
		c.strategy = FM_STRATEGY_LIVE;
		assert_true(predict(NULL, c).downtime_ms <= lazy);
	}
}

static void test_rounds_follow_the_dirty_rate(void **state)
{
	struct fm_cost_case c = known(FM_STRATEGY_PRE_COPY, 1ull << 30);
	c.bandwidth_bytes_per_s = 125000000;
	c.compressibility = 1;
	c.dirty_bytes_per_s = 0;
	struct fm_cost idle = predict(NULL, c);
	assert_int_equal(idle.rounds, 1);
	assert_true(idle.converges);
	c.dirty_bytes_per_s = 60000000; /* half of what is sent */
	struct fm_cost busy = predict(NULL, c);
	assert_true(busy.rounds > 3 && busy.converges);
	assert_true(busy.wire_bytes > 1.5 * (1ull << 30) && busy.wire_bytes < 3.5 * (1ull << 30));
	c.dirty_bytes_per_s = 200000000; /* more than is sent */
	struct fm_cost hopeless = predict(NULL, c);
	assert_false(hopeless.converges);
	assert_true(hopeless.downtime_ms > 1000);
}

/* ---------------------------------------------------------------- learning */

/* A generator with a fixed seed, of even bits: the history is the same on every machine */
static double uniform(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005u + 1442695040888963407u;
	return (double)(*seed >> 11) / 9007199254740992.0;
}

static double normal(uint64_t *seed)
{
	double sum = 0;
	for (int i = 0; i < 12; i++)
		sum += uniform(seed);
	return sum - 6;
}

static struct fm_cost_case random_case(uint64_t *seed)
{
	struct fm_cost_case c =
	        known((enum fm_strategy)(FM_STRATEGY_COLD + (unsigned)(uniform(seed) * 4)), (uint64_t)(exp(uniform(seed) * 6) * 4e6));
	c.processes = 1 + (uint32_t)(uniform(seed) * 10);
	c.dirty_bytes_per_s = (uint64_t)(uniform(seed) * 20e6);
	c.source_cpu_percent = uniform(seed) * 100;
	return c;
}

/* This installation: slower than the formula, each strategy by another factor, more so on a busy source; with noise */
static double truth_ms(const struct fm_cost_case *c, double formula_ms, double noise, uint64_t *seed)
{
	static const double factor[] = { 0.8, 1.7, 2.2, 1.4 };
	return formula_ms * factor[c->strategy - FM_STRATEGY_COLD] * (1 + c->source_cpu_percent / 200) * exp(noise * normal(seed));
}

static void learn_one(struct fm_cost_model *m, uint64_t *seed, double noise, double outlier)
{
	struct fm_cost_case c = random_case(seed);
	struct fm_cost k = predict(NULL, c);
	struct fm_cost_outcome o = { truth_ms(&c, k.downtime_ms, noise, seed) * outlier, truth_ms(&c, k.total_ms, noise, seed) * outlier,
		                     k.wire_bytes };
	fm_cost_learn(m, &c, &o);
}

static unsigned percent_near(const struct fm_cost_model *m, uint64_t *seed, double noise)
{
	unsigned near = 0;
	for (unsigned i = 0; i < 500; i++) {
		struct fm_cost_case c = random_case(seed);
		double was = truth_ms(&c, predict(NULL, c).downtime_ms, noise, seed), is = predict(m, c).downtime_ms;
		near += fabs(is - was) <= 20 || fabs(is - was) <= 0.3 * was;
	}
	return near / 5;
}

static void test_thirty_moves_teach_it(void **state)
{
	uint64_t seed = 1;
	struct fm_cost_model *m = fm_cost_model_new();
	unsigned before = percent_near(NULL, &seed, 0.12);
	for (unsigned i = 0; i < 30; i++)
		learn_one(m, &seed, 0.12, 1);
	unsigned after = percent_near(m, &seed, 0.12);
	if (before >= 70 || after < 80)
		fail_msg("%u %% were near before, %u %% after 30 moves", before, after);
	assert_int_equal(fm_cost_learnt(m), 30);
	fm_cost_model_free(m);
}

static void test_outliers_count_little(void **state)
{
	uint64_t seed = 7;
	struct fm_cost_model *m = fm_cost_model_new();
	for (unsigned i = 0; i < 60; i++)
		learn_one(m, &seed, 0.12, i % 10 == 9 ? 15 : 1);
	unsigned after = percent_near(m, &seed, 0.12);
	if (after < 75)
		fail_msg("%u %% are near after 60 moves, every tenth of which took 15 times as long", after);
	fm_cost_model_free(m);
}

/* Learnt when the machine was quiet, and then it is not: 60 moves later that is known. */
static void test_follows_a_change(void **state)
{
	uint64_t seed = 3;
	struct fm_cost_model *m = fm_cost_model_new();
	struct fm_cost_case c = known(FM_STRATEGY_LIVE, 512u << 20);
	double formula_ms = predict(NULL, c).downtime_ms;
	for (unsigned i = 0; i < 120; i++) {
		struct fm_cost_outcome o = { .downtime_ms = formula_ms * (i < 60 ? 1 : 4) * exp(0.05 * normal(&seed)) };
		fm_cost_learn(m, &c, &o);
	}
	double now = predict(m, c).downtime_ms;
	assert_true(now > 2 * formula_ms && now < 5 * formula_ms);
	fm_cost_model_free(m);
}

/* The host gets busy: after a few moves by other strategies that is known for this one, too, and it passes as quickly. */
static void test_a_busy_host_is_seen_at_once(void **state)
{
	static const enum fm_strategy others[] = { FM_STRATEGY_COLD, FM_STRATEGY_PRE_COPY, FM_STRATEGY_POST_COPY };
	uint64_t seed = 13;
	double usual[3];
	struct fm_cost_model *m = fm_cost_model_new();
	for (unsigned i = 0; i < 80; i++)
		learn_one(m, &seed, 0.1, 1);
	double quiet = predict(m, known(FM_STRATEGY_LIVE, 256u << 20)).downtime_ms;
	for (unsigned i = 0; i < 3; i++)
		usual[i] = predict(m, known(others[i], 256u << 20)).downtime_ms;
	for (unsigned i = 0; i < 18; i++) {
		struct fm_cost_case c = known(others[i % 3], 256u << 20);
		struct fm_cost_outcome o = { .downtime_ms = usual[i % 3] * (i < 6 ? 2 : 1) };
		fm_cost_learn(m, &c, &o);
		if (i == 5)
			assert_true(predict(m, known(FM_STRATEGY_LIVE, 256u << 20)).downtime_ms > 1.35 * quiet);
	}
	double again = predict(m, known(FM_STRATEGY_LIVE, 256u << 20)).downtime_ms;
	assert_true(again > 0.85 * quiet && again < 1.15 * quiet);
	fm_cost_model_free(m);
}

/* Rounds alone are packed; the first one travels while the files are looked at. */
static void test_what_is_packed(void **state)
{
	struct fm_cost_case c = known(FM_STRATEGY_POST_COPY, 64u << 20);
	c.compressibility = 0.25;
	c.dirty_bytes_per_s = 0;
	double lazy = predict(NULL, c).wire_bytes;
	c.strategy = FM_STRATEGY_COLD;
	assert_true(predict(NULL, c).wire_bytes == lazy && lazy == (64u << 20) + (1 << 20));
	c.strategy = FM_STRATEGY_LIVE;
	struct fm_cost small = predict(NULL, c);
	assert_true(small.wire_bytes == (16u << 20) + (1 << 20));
	c.memory_bytes = 0;
	struct fm_cost none = predict(NULL, c);
	assert_true(small.total_ms - none.total_ms < 10); /* of its 168 ms */
}

static void test_bands_hold_most(void **state)
{
	uint64_t seed = 11;
	unsigned within = 0;
	struct fm_cost_model *m = fm_cost_model_new();
	struct fm_cost wide = predict(m, known(FM_STRATEGY_LIVE, 512u << 20));
	for (unsigned i = 0; i < 100; i++)
		learn_one(m, &seed, 0.15, 1);
	struct fm_cost narrow = predict(m, known(FM_STRATEGY_LIVE, 512u << 20));
	assert_true(narrow.downtime_high_ms / narrow.downtime_low_ms < wide.downtime_high_ms / wide.downtime_low_ms);
	for (unsigned i = 0; i < 500; i++) {
		struct fm_cost_case c = random_case(&seed);
		struct fm_cost k = predict(m, c);
		double was = truth_ms(&c, predict(NULL, c).downtime_ms, 0.15, &seed);
		within += was >= k.downtime_low_ms && was <= k.downtime_high_ms;
	}
	assert_in_range(within, 500 * 65 / 100, 500 * 95 / 100);
	fm_cost_model_free(m);
}

/* Whatever the history says, corrections stay bounded, and what was not measured teaches nothing. */
static void test_bounded(void **state)
{
	struct fm_cost_model *m = fm_cost_model_new();
	struct fm_cost_case c = known(FM_STRATEGY_COLD, 1ull << 40);
	struct fm_cost before = predict(NULL, c);
	struct fm_cost_outcome absurd = { .downtime_ms = 1e300, .total_ms = 1e-300, .wire_bytes = 0 };
	for (unsigned i = 0; i < 600; i++)
		fm_cost_learn(m, &c, &absurd);
	struct fm_cost after = predict(m, c);
	assert_true(after.downtime_ms <= before.downtime_ms * FM_COST_MAX_FACTOR * 1.001);
	assert_true(after.downtime_ms >= before.downtime_ms * FM_COST_MAX_FACTOR * 0.5);
	assert_true(after.wire_bytes == before.wire_bytes);
	fm_cost_model_free(m);
}

static void test_same_history_same_model(void **state)
{
	struct fm_cost_model *m[2];
	for (unsigned k = 0; k < 2; k++) {
		uint64_t seed = 5;
		m[k] = fm_cost_model_new();
		for (unsigned i = 0; i < 300; i++)
			learn_one(m[k], &seed, 0.3, 1);
	}
	struct fm_cost a = predict(m[0], known(FM_STRATEGY_LIVE, 1 << 26)), b = predict(m[1], known(FM_STRATEGY_LIVE, 1 << 26));
	assert_true(a.downtime_ms == b.downtime_ms && a.total_ms == b.total_ms && a.downtime_high_ms == b.downtime_high_ms);
	fm_cost_model_free(m[0]);
	fm_cost_model_free(m[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_monotonic),
		cmocka_unit_test(test_downtime_without_the_transfer),
		cmocka_unit_test(test_rounds_follow_the_dirty_rate),
		cmocka_unit_test(test_thirty_moves_teach_it),
		cmocka_unit_test(test_outliers_count_little),
		cmocka_unit_test(test_follows_a_change),
		cmocka_unit_test(test_a_busy_host_is_seen_at_once),
		cmocka_unit_test(test_what_is_packed),
		cmocka_unit_test(test_bands_hold_most),
		cmocka_unit_test(test_bounded),
		cmocka_unit_test(test_same_history_same_model),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
