/* SPDX-License-Identifier: MIT */
/* test-predictor-robust.c - series that mislead a predictor: short ones, ones that turn unpredictable, counts with many equal values, very large and very small numbers, holes. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>

#include "series.h"

#define N 2400u

typedef double value_fn(unsigned t, double *state, uint64_t *random);

static double random_walk(unsigned t, double *state, uint64_t *random)
{
	return t == 0 ? (*state = 100) : (*state += noise(random));
}

/* Noise around a level while it is observed; what is scored is a random walk of a twentieth of its size. */
static double noise_then_walk(unsigned t, double *state, uint64_t *random)
{
	*state += t < N * 7 / 10 ? 0 : noise(random);
	return t < N * 7 / 10 ? 20 * noise(random) : *state;
}

/* How many of 100 events happened: 0, 1 or 2, rarely more. Nothing is below 0. */
static double counts(unsigned t, double *state, uint64_t *random)
{
	unsigned n = 0;
	for (unsigned i = 0; i < 100; i++)
		n += uniform(random) < 0.01;
	return n;
}

static double seldom(unsigned t, double *state, uint64_t *random)
{
	return uniform(random) < 0.07;
}

static double wander(unsigned t, double *state, uint64_t *random)
{
	*state = 0.8 * *state + noise(random);
	return 50 + 5 * *state;
}

static struct fm_backtest backtest(value_fn *next, unsigned n, uint64_t seed, double factor, double hole)
{
	_fm_cleanup_(fm_trace_done) struct fm_trace t = { .point = calloc(n, sizeof(*t.point)), .step_ms = STEP_MS };
	struct fm_backtest b;
	uint64_t holes = seed + 1000;
	double state = 0;
	for (unsigned i = 0; i < n; i++) {
		struct fm_trace_point p = { .unix_ms = BEGIN_MS + (int64_t)i * STEP_MS, .value = factor * next(i, &state, &seed) };
		if (uniform(&holes) >= hole)
			t.point[t.n++] = p;
	}
	assert_ok(fm_backtest_run(&t, &(struct fm_predictor_options){ 0 }, &b, &err));
	return b;
}

/* A hundred values of a random walk look as if there was something in them. */
static void test_short(void **state)
{
	static const unsigned lengths[] = { 60, 100, 200, 400 };
	for (size_t k = 0; k < FM_ARRAY_SIZE(lengths); k++) {
		double sum = 0;
		for (uint64_t seed = 1; seed <= 20; seed++) {
			struct fm_backtest b = backtest(random_walk, lengths[k], seed, 1, 0);
			for (unsigned h = 1; h <= 12; h++)
				sum += log(b.horizon[h - 1].ratio) / (20 * 12);
			fm_backtest_done(&b);
		}
		print_message("%u values of a random walk: %.4f\n", lengths[k], exp(sum));
		assert_true(exp(sum) <= 1.005);
	}
}

static void test_turns_unpredictable(void **state)
{
	for (uint64_t seed = 1; seed <= 3; seed++) {
		struct fm_backtest b = backtest(noise_then_walk, N, seed, 1, 0);
		print_message("noise, then a random walk: %.3f, %.3f, %.3f\n", b.horizon[0].ratio, b.horizon[5].ratio, b.horizon[11].ratio);
		assert_true(b.horizon[0].ratio <= 1.2 && b.horizon[5].ratio <= 1.06 && b.horizon[11].ratio <= 1.05);
		fm_backtest_done(&b);
	}
}

static void test_equal_values(void **state)
{
	static value_fn *const all[] = { counts, seldom };
	for (size_t i = 0; i < FM_ARRAY_SIZE(all); i++) {
		struct fm_backtest b = backtest(all[i], N, 3, 1, 0);
		for (unsigned h = 1; h <= 12; h++) {
			print_message("counts %zu, %u steps: %.3f inside\n", i, h, b.horizon[h - 1].coverage);
			assert_true(b.horizon[h - 1].coverage >= 0.87 && b.horizon[h - 1].coverage <= 0.945);
		}
		fm_backtest_done(&b);
	}
}

/* Neither size nor sign nor holes change how good a forecast is. */
static void test_sizes_and_holes(void **state)
{
	static const struct {
		double factor, hole;
	} cases[] = { { 1e12, 0 }, { 1e-12, 0 }, { -1, 0 }, { 1, 0.1 }, { 1, 0.4 } };
	struct fm_backtest as_is = backtest(wander, N, 5, 1, 0);
	for (size_t i = 0; i < FM_ARRAY_SIZE(cases); i++) {
		struct fm_backtest b = backtest(wander, N, 5, cases[i].factor, cases[i].hole);
		for (unsigned h = 1; h <= 12; h++) {
			if (h % 5 == 1)
				print_message("times %g, %g missing, %u steps: %.3f (as it is %.3f), %.3f inside\n", cases[i].factor,
				              cases[i].hole, h, b.horizon[h - 1].ratio, as_is.horizon[h - 1].ratio,
				              b.horizon[h - 1].coverage);
			assert_true(b.horizon[h - 1].coverage >= 0.85 && b.horizon[h - 1].coverage <= 0.95);
			assert_true(fabs(b.horizon[h - 1].ratio - as_is.horizon[h - 1].ratio) <= (cases[i].hole > 0 ? 0.1 : 0.02));
		}
		fm_backtest_done(&b);
	}
	fm_backtest_done(&as_is);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_short),
		cmocka_unit_test(test_turns_unpredictable),
		cmocka_unit_test(test_equal_values),
		cmocka_unit_test(test_sizes_and_holes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
