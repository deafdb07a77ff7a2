/* SPDX-License-Identifier: MIT */
/* test-predictor.c - what a predictor accepts, gaps and stamps, made-up series against the last value, each kind of member alone, intervals. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>

#include "series.h"

#define N 2400u

static struct fm_predictor *new_of(uint32_t members)
{
	struct fm_predictor *p = NULL;
	struct fm_predictor_options o = { .members = members };
	assert_ok(fm_predictor_new(&o, &p, &err));
	return p;
}

static void feed(struct fm_predictor *p, const struct fm_trace *t, size_t from, size_t to)
{
	for (size_t i = from; i < to; i++)
		assert_ok(fm_predictor_observe(p, t->point[i].unix_ms, t->point[i].value, &err));
}

static struct fm_backtest backtest(enum shape shape, unsigned n, uint64_t seed, uint32_t members)
{
	struct fm_trace t = made_up(shape, n, seed);
	struct fm_predictor_options o = { .members = members };
	struct fm_backtest b;
	assert_ok(fm_backtest_run(&t, &o, &b, &err));
	fm_trace_done(&t);
	return b;
}

/* ---------------------------------------------------------------- what is accepted */

static void test_options(void **state)
{
	struct fm_predictor *p = NULL;
	uint32_t kinds = 0;

	assert_code(FM_E_INVALID_ARGUMENT, fm_predictor_new(&(struct fm_predictor_options){ .step_ms = 999 }, &p, &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_predictor_new(&(struct fm_predictor_options){ .step_ms = 86400001 }, &p, &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_predictor_new(&(struct fm_predictor_options){ .members = 1u << 8 }, &p, &err));
	assert_code(FM_E_INVALID_ARGUMENT,
	            fm_predictor_new(&(struct fm_predictor_options){ .bounded = true, .min = 1, .max = 0 }, &p, &err));
	assert_code(FM_E_INVALID_ARGUMENT,
	            fm_predictor_new(&(struct fm_predictor_options){ .bounded = true, .min = NAN, .max = 0 }, &p, &err));
	assert_null(p);
	fm_predictor_free(p);

	assert_ok(fm_predictor_kinds_from_string("seasonal,lstm", &kinds, &err));
	assert_int_equal(kinds, FM_PREDICTOR_SEASONAL | FM_PREDICTOR_LSTM);
	assert_ok(fm_predictor_kinds_from_string("cheap", &kinds, &err));
	assert_int_equal(kinds, FM_PREDICTOR_CHEAP);
	assert_code(FM_E_INVALID_ARGUMENT, fm_predictor_kinds_from_string("seasonal,", &kinds, &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_predictor_kinds_from_string("season", &kinds, &err));
	assert_non_null(strstr(err.message, "season"));
	assert_string_equal(fm_predictor_kind_to_string(FM_PREDICTOR_ANALOG), "analog");
	assert_string_equal(fm_predictor_kind_to_string((enum fm_predictor_kind)0), "unknown");
}

static void test_refused_values(void **state)
{
	struct fm_predictor *p = new_of(0);
	struct fm_forecast f = { 0 };
	struct fm_predictor_stats stats;

	assert_code(FM_E_FAILED_PRECONDITION, fm_predictor_forecast(p, 1, &f, &err));
	assert_ok(fm_predictor_observe(p, BEGIN_MS, 5, &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_predictor_forecast(p, 0, &f, &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_predictor_forecast(p, 13, &f, &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_predictor_observe(p, BEGIN_MS + STEP_MS, NAN, &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_predictor_observe(p, BEGIN_MS + STEP_MS, INFINITY, &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_predictor_observe(p, BEGIN_MS + STEP_MS, -1.1e15, &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_predictor_observe(p, -1, 5, &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_predictor_observe(p, INT64_MAX, 5, &err));
	/* none of it has left a trace */
	fm_predictor_stats(p, &stats);
	assert_int_equal(stats.observations, 1);
	assert_ok(fm_predictor_forecast(p, 12, &f, &err));
	assert_true(f.value == 5 && f.low <= 5 && f.high >= 5);
	fm_predictor_free(p);
}

/* ---------------------------------------------------------------- stamps */

static void test_stamps(void **state)
{
	struct fm_predictor *p = new_of(0);
	struct fm_predictor_stats s;
	struct fm_forecast f;

	assert_ok(fm_predictor_observe(p, BEGIN_MS, 1, &err));
	assert_ok(fm_predictor_observe(p, BEGIN_MS + STEP_MS + 149999, 2, &err)); /* the nearest step is the next */
	assert_ok(fm_predictor_observe(p, BEGIN_MS + STEP_MS - 149999, 9, &err)); /* so is this one's */
	assert_ok(fm_predictor_observe(p, BEGIN_MS, 9, &err));
	assert_ok(fm_predictor_observe(p, BEGIN_MS - 10 * STEP_MS, 9, &err));
	fm_predictor_stats(p, &s);
	assert_int_equal(s.observations, 2);
	assert_int_equal(s.duplicates, 1);
	assert_int_equal(s.late, 2);
	assert_int_equal(s.missing_steps, 0);
	assert_ok(fm_predictor_forecast(p, 1, &f, &err));
	assert_true(f.value <= 2); /* no 9 was taken */

	assert_ok(fm_predictor_observe(p, BEGIN_MS + 5 * STEP_MS, 2, &err));
	fm_predictor_stats(p, &s);
	assert_int_equal(s.missing_steps, 3);
	assert_int_equal(s.observations, 3);
	fm_predictor_free(p);
}

/* A gap costs what was not seen, no more: the daily pattern is found again behind it. A gap over the whole memory begins anew, from the one value there is. */
static void test_gaps(void **state)
{
	struct fm_trace t = made_up(DAILY, N, 3);
	struct fm_predictor *p = new_of(0), *anew = new_of(0);
	struct fm_forecast f, g;
	double error = 0, last = 0;

	feed(p, &t, 0, 1500);
	for (size_t i = 1560; i < N - 12; i++) {
		assert_ok(fm_predictor_observe(p, t.point[i].unix_ms, t.point[i].value, &err));
		assert_ok(fm_predictor_forecast(p, 12, &f, &err));
		assert_true(f.low <= f.value && f.value <= f.high);
		error += fabs(t.point[i + 12].value - f.value);
		last += fabs(t.point[i + 12].value - t.point[i].value);
	}
	assert_true(error < 0.7 * last);
	assert_ok(fm_predictor_observe(p, t.point[N - 1].unix_ms + 3000ll * STEP_MS, 5, &err));
	assert_ok(fm_predictor_observe(anew, BEGIN_MS, 5, &err));
	for (unsigned h = 1; h <= 12; h++) {
		assert_ok(fm_predictor_forecast(p, h, &f, &err));
		assert_ok(fm_predictor_forecast(anew, h, &g, &err));
		assert_true(f.value == g.value && f.low == g.low && f.high == g.high);
	}
	fm_predictor_free(anew);
	fm_predictor_free(p);
	fm_trace_done(&t);
}

static void test_bounds(void **state)
{
	struct fm_trace t = made_up(ON_OFF, N, 5);
	struct fm_predictor_options o = { .bounded = true, .min = 0, .max = 82 };
	struct fm_predictor *p = NULL;
	struct fm_forecast f;
	bool touched = false;

	assert_ok(fm_predictor_new(&o, &p, &err));
	for (size_t i = 0; i < t.n; i++) {
		feed(p, &t, i, i + 1);
		for (unsigned h = 1; h <= 12; h++) {
			assert_ok(fm_predictor_forecast(p, h, &f, &err));
			assert_true(0 <= f.low && f.low <= f.value && f.value <= f.high && f.high <= 82);
			touched |= f.high == 82;
		}
	}
	assert_true(touched);
	fm_predictor_free(p);
	fm_trace_done(&t);
}

/* Steps of a minute: a period of an hour is found among them, a day is 1440. */
static void test_one_minute(void **state)
{
	struct fm_predictor_options o = { .step_ms = 60000 };
	struct fm_predictor *p = NULL;
	struct fm_forecast f;
	double error = 0, last = 0, before = 0;

	assert_ok(fm_predictor_new(&o, &p, &err));
	for (int i = 0; i < 1500; i++) {
		double value = i % 60 < 7 ? 90 : 10;
		if (i > 1000) {
			error += fabs(value - f.value);
			last += fabs(value - before);
		}
		assert_ok(fm_predictor_observe(p, BEGIN_MS + i * 60000ll, value, &err));
		assert_ok(fm_predictor_forecast(p, 1, &f, &err));
		before = value;
	}
	assert_true(last > 1000);
	assert_true(error == 0);
	fm_predictor_free(p);
}

/* ---------------------------------------------------------------- against the last value */

/* What the whole may cost at most, relative to the last value, at 1, 6 and 12 steps. Series that cannot be predicted better must not become worse. */
static const struct {
	enum shape shape;
	double most[3];
} wanted[] = {
	{ CONSTANT, { 1, 1, 1 } },      { QUANTISED, { 0.65, 0.65, 0.65 } },      { RANDOM_WALK, { 1.05, 1.05, 1.05 } },
	{ AR_1, { 0.93, 0.8, 0.8 } },   { LEVEL_SHIFTS, { 0.9, 0.95, 0.95 } },    { PIECEWISE, { 1.05, 1.1, 1.1 } },
	{ SPIKES, { 0.6, 0.6, 0.6 } },  { PERIODIC_SPIKES, { 0.1, 0.05, 0.05 } }, { DAILY, { 0.85, 0.7, 0.55 } },
	{ ON_OFF, { 1.05, 1.1, 1.1 } },
};

static void test_made_up_series(void **state)
{
	static const unsigned horizons[] = { 1, 6, 12 };
	for (size_t i = 0; i < FM_ARRAY_SIZE(wanted); i++)
		for (uint64_t seed = 1; seed <= 2; seed++) {
			struct fm_backtest b = backtest(wanted[i].shape, N, seed, FM_PREDICTOR_CHEAP);
			for (unsigned k = 0; k < 3; k++) {
				const struct fm_backtest_horizon *z = &b.horizon[horizons[k] - 1];
				assert_int_equal(z->scored, N - N * 70 / 100);
				print_message("%s, %u steps: %.3f, coverage %.3f\n", shape_names[wanted[i].shape], horizons[k], z->ratio,
				              z->coverage);
				assert_true(z->ratio <= wanted[i].most[k]);
			}
			fm_backtest_done(&b);
		}
}

static void test_coverage(void **state)
{
	static const enum shape shapes[] = { RANDOM_WALK, AR_1, LEVEL_SHIFTS, SPIKES, PERIODIC_SPIKES, DAILY, ON_OFF };
	for (size_t i = 0; i < FM_ARRAY_SIZE(shapes); i++) {
		struct fm_backtest b = backtest(shapes[i], N, 7, FM_PREDICTOR_CHEAP);
		for (unsigned h = 1; h <= 12; h++)
			if (b.horizon[h - 1].coverage < 0.85 || b.horizon[h - 1].coverage > 0.95)
				fail_msg("%s, %u steps: %.3f inside", shape_names[shapes[i]], h, b.horizon[h - 1].coverage);
		fm_backtest_done(&b);
	}
}

/* After one large shift the next forecasts are at the new level; 12 steps later at the latest those of all horizons are. */
static void test_follows_a_shift(void **state)
{
	struct fm_predictor *p = new_of(0);
	uint64_t random = 1;
	struct fm_forecast f;
	for (unsigned i = 0; i < 1000; i++) {
		assert_ok(fm_predictor_observe(p, BEGIN_MS + (int64_t)i * STEP_MS, (i < 900 ? 10 : 80) + noise(&random), &err));
		for (unsigned h = 1; h <= 12; h++) {
			assert_ok(fm_predictor_forecast(p, h, &f, &err));
			if (i >= 902 + h)
				assert_true(fabs(f.value - 80) < 8);
		}
	}
	fm_predictor_free(p);
}

/* ---------------------------------------------------------------- members */

/* Each kind alone (the last value is always there) predicts what it is made for: were it not working, the ratio would be 1. */
static void test_each_kind(void **state)
{
	static const struct {
		uint32_t kind;
		enum shape shape;
		unsigned horizon;
		double most;
	} cases[] = {
		{ FM_PREDICTOR_SMOOTHING, AR_1, 12, 0.85 },       { FM_PREDICTOR_WINDOW, SPIKES, 6, 0.7 },
		{ FM_PREDICTOR_SEASONAL, DAILY, 12, 0.6 },        { FM_PREDICTOR_SEASONAL, PERIODIC_SPIKES, 1, 0.1 },
		{ FM_PREDICTOR_AUTOREGRESSIVE, AR_1, 6, 0.8 },    { FM_PREDICTOR_ANALOG, PERIODIC_SPIKES, 6, 0.05 },
		{ FM_PREDICTOR_FOREST, PERIODIC_SPIKES, 6, 0.5 }, { FM_PREDICTOR_LSTM, PERIODIC_SPIKES, 6, 0.6 },
	};
	for (size_t i = 0; i < FM_ARRAY_SIZE(cases); i++) {
		struct fm_backtest b = backtest(cases[i].shape, 1500, 1, cases[i].kind);
		double ratio = b.horizon[cases[i].horizon - 1].ratio;
		print_message("%s alone, %s: %.3f\n", fm_predictor_kind_to_string((enum fm_predictor_kind)cases[i].kind),
		              shape_names[cases[i].shape], ratio);
		assert_true(ratio <= cases[i].most);
		fm_backtest_done(&b);
	}
}

static void test_weights(void **state)
{
	struct fm_trace t = made_up(DAILY, N, 1);
	struct fm_predictor *p = new_of(FM_PREDICTOR_ALL & ~(uint32_t)(FM_PREDICTOR_FOREST | FM_PREDICTOR_LSTM));
	struct fm_predictor_member m;
	double sum = 0, last = 0;
	unsigned n = 0;

	feed(p, &t, 0, N);
	for (; fm_predictor_member(p, n, 12, &m); n++) {
		assert_true(m.weight > 0 && strlen(m.name) > 0);
		sum += m.weight;
		if (m.kind == FM_PREDICTOR_LAST)
			last = m.weight;
	}
	assert_int_equal(n, 34);
	assert_true(fabs(sum - 1) < 1e-9);
	assert_true(last < 0.05); /* an hour ahead of a daily pattern it is of no use, and has lost its weight */
	assert_false(fm_predictor_member(p, 0, 13, &m));
	fm_predictor_free(p);
	fm_trace_done(&t);
}

/* Same seed, same forecasts; another seed, another forest. */
static void test_seed(void **state)
{
	struct fm_trace t = made_up(AR_1, 600, 1);
	struct fm_forecast f[3];
	for (uint64_t i = 0; i < 3; i++) {
		struct fm_predictor_options o = { .members = FM_PREDICTOR_FOREST | FM_PREDICTOR_LSTM, .seed = i / 2 };
		struct fm_predictor *p = NULL;
		assert_ok(fm_predictor_new(&o, &p, &err));
		feed(p, &t, 0, t.n);
		assert_ok(fm_predictor_forecast(p, 3, &f[i], &err));
		fm_predictor_free(p);
	}
	assert_true(f[0].value == f[1].value && f[0].low == f[1].low && f[0].high == f[1].high);
	assert_true(f[0].value != f[2].value);
	fm_trace_done(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_options),        cmocka_unit_test(test_refused_values), cmocka_unit_test(test_stamps),
		cmocka_unit_test(test_gaps),           cmocka_unit_test(test_bounds),         cmocka_unit_test(test_one_minute),
		cmocka_unit_test(test_made_up_series), cmocka_unit_test(test_coverage),       cmocka_unit_test(test_follows_a_shift),
		cmocka_unit_test(test_each_kind),      cmocka_unit_test(test_weights),        cmocka_unit_test(test_seed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
