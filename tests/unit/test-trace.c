/* SPDX-License-Identifier: MIT */
/* test-trace.c - recorded series as text: what is read, what is refused and at which line; what a backtest scores. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>

#include "series.h"

static int parse(const char *text, struct fm_trace *t)
{
	err = FM_ERROR_INIT;
	return fm_trace_parse(text, strlen(text), t, &err);
}

static void test_reads(void **state)
{
	struct fm_trace t;
	assert_int_equal(parse("timestamp,value\n2014-02-14 14:30:00,0.132\n2014-02-14 "
	                       "14:35:00,-1e3\r\n\n2014-02-14T14:40:00Z,+.5\n2014-02-14T15:45:00.250+01:00,7.",
	                       &t),
	                 0);
	assert_int_equal(t.n, 4);
	assert_int_equal(t.step_ms, 300000);
	assert_int_equal(t.point[0].unix_ms, 1392388200000);
	assert_true(t.point[0].value == 0.132 && t.point[1].value == -1000 && t.point[2].value == 0.5 && t.point[3].value == 7);
	assert_int_equal(t.point[2].unix_ms, 1392388800000);
	assert_int_equal(t.point[3].unix_ms, 1392389100250);
	fm_trace_done(&t);

	/* no heading; leap day; end of a century that has none is refused below; the most frequent distance */
	assert_int_equal(parse("2000-02-29 23:59:00,1\n2000-03-01 00:00:00,2\n2000-03-01 00:01:00,2\n2000-03-01 00:06:00,2\n2000-03-01 "
	                       "00:11:00,2\n2000-03-01 00:16:00,2\n",
	                       &t),
	                 0);
	assert_int_equal(t.point[1].unix_ms, 951868800000);
	assert_int_equal(t.step_ms, 300000);
	fm_trace_done(&t);
}

static void assert_refused(const char *line, const char *word)
{
	_fm_free_ char *text = fm_xasprintf("timestamp,value\n2014-02-14 14:30:00,1\n%s\n2014-02-14 14:40:00,1\n", line);
	struct fm_trace t = { 0 };
	if (parse(text, &t) == 0)
		fail_msg("'%s' was read", line);
	assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
	if (!strstr(err.message, "line 3:") || !strstr(err.message, word))
		fail_msg("'%s': %s", line, err.message);
}

static void test_refuses(void **state)
{
	static const char *const stamps[] = { "timestamp,value",       "2014-02-30 14:35:00,1",      "1900-02-29 00:00:00,1",
		                              "2100-02-29 00:00:00,1", "2014-13-01 00:00:00,1",      "2014-02-14 24:00:00,1",
		                              "2014-02-14 14:60:00,1", "14-02-14 14:35:00,1",        "2014-02-14 14:35,1",
		                              "2014-02-14x14:35:00,1", " 2014-02-14 14:35:00,1",     "2014-02-14 14:35:00.,1",
		                              "1392388200,1",          "2014-02-14 14:35:00+1:00,1", "2014-02-14 14:35:00.1234567890,1" };
	static const char *const values[] = { "2014-02-14 14:35:00",      "2014-02-14 14:35:00,",      "2014-02-14 14:35:00,nan",
		                              "2014-02-14 14:35:00,inf",  "2014-02-14 14:35:00,1e400", "2014-02-14 14:35:00,1,2",
		                              "2014-02-14 14:35:00,0x10", "2014-02-14 14:35:00, 1",    "2014-02-14 14:35:00,1 ",
		                              "2014-02-14 14:35:00,1e",   "2014-02-14 14:35:00,--1",   "2014-02-14 14:35:00;1",
		                              "2014-02-14 14:35:00Zx,1",  "2014-02-14 14:35:00,2e15" };
	for (size_t i = 0; i < FM_ARRAY_SIZE(stamps); i++)
		assert_refused(stamps[i], "stamp");
	for (size_t i = 0; i < FM_ARRAY_SIZE(values); i++)
		assert_refused(values[i], "number");
}

static void test_no_step(void **state)
{
	struct fm_trace t;
	static const char *const texts[] = { "", "timestamp,value\n", "2014-02-14 14:30:00,1\n",
		                             "2014-02-14 14:30:00,1\n2014-02-14 14:30:00,1\n",
		                             "2014-02-14 14:30:00,1\n2014-02-16 14:30:00,1\n" };
	for (size_t i = 0; i < FM_ARRAY_SIZE(texts); i++) {
		assert_int_equal(parse(texts[i], &t), -1);
		assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
		assert_non_null(strstr(err.message, "apart"));
	}
}

static void test_too_many(void **state)
{
	_fm_buf_ struct fm_buf text = FM_BUF_INIT;
	struct fm_trace t;
	for (unsigned i = 0; i <= FM_MAX_TRACE_POINTS; i++)
		fm_buf_add(&text, "2014-02-14 14:30:00,1\n", 22);
	assert_code(FM_E_RESOURCE_EXHAUSTED, fm_trace_parse(text.data, text.len, &t, &err));
}

/* ---------------------------------------------------------------- backtest */

/* With the last value as the only member the error is the last value's, and the rest is what was counted by hand: 10 points, 7 of them for training. */
static void test_scores_the_rest(void **state)
{
	static const double values[10] = { 1, 2, 3, 4, 5, 6, 7, 9, 12, 16 };
	struct fm_trace_point points[10];
	struct fm_trace t = { .point = points, .n = 10, .step_ms = STEP_MS };
	struct fm_predictor_options o = { .members = FM_PREDICTOR_LAST };
	struct fm_backtest b;

	for (int i = 0; i < 10; i++)
		points[i] = (struct fm_trace_point){ BEGIN_MS + i * (int64_t)STEP_MS, values[i] };
	assert_ok(fm_backtest_run(&t, &o, &b, &err));
	assert_int_equal(b.horizon[0].scored, 3);
	assert_true(b.horizon[0].mae == (2 + 3 + 4) / 3.0 && b.horizon[0].last_mae == b.horizon[0].mae && b.horizon[0].ratio == 1);
	assert_true(b.horizon[5].mae == (7 + 9 + 12) / 3.0);
	assert_int_equal(b.horizon[8].scored, 1); /* point 9 from point 0 */
	assert_int_equal(b.horizon[9].scored, 0);
	fm_backtest_done(&b);

	/* a point is missing, one comes twice: neither is scored, and what would have been forecast from the missing one is not either */
	points[7].unix_ms = points[6].unix_ms;
	assert_ok(fm_backtest_run(&t, &o, &b, &err));
	assert_int_equal(b.horizon[0].scored, 1);
	assert_int_equal(b.horizon[1].scored, 1);
	assert_true(b.horizon[0].mae == 4 && b.horizon[1].mae == 5);
	assert_int_equal(b.stats.duplicates, 1);
	assert_int_equal(b.stats.missing_steps, 1);
	fm_backtest_done(&b);
}

/* What comes later must not be known: all forecasts up to a point are the same whatever follows it. */
static void test_never_looks_ahead(void **state)
{
	struct fm_trace a = made_up(DAILY, 900, 1);
	struct fm_predictor_options o = { .members = FM_PREDICTOR_ALL };
	struct fm_predictor *p = NULL;
	struct fm_forecast at_700 = { 0 }, f;
	struct fm_backtest b;
	double error = 0;

	/* scored by hand, one step at a time, from a predictor that has not seen more */
	assert_ok(fm_predictor_new(&o, &p, &err));
	for (size_t i = 0; i < a.n; i++) {
		if (i >= 630)
			error += fabs(a.point[i].value - f.value);
		assert_ok(fm_predictor_observe(p, a.point[i].unix_ms, a.point[i].value, &err));
		assert_ok(fm_predictor_forecast(p, 1, &f, &err));
		if (i == 700)
			at_700 = f;
	}
	assert_ok(fm_backtest_run(&a, &o, &b, &err));
	assert_true(fabs(b.horizon[0].mae - error / 270) < 1e-9);
	assert_true(at_700.low <= at_700.value);
	fm_backtest_done(&b);
	fm_predictor_free(p);
	fm_trace_done(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reads),    cmocka_unit_test(test_refuses),         cmocka_unit_test(test_no_step),
		cmocka_unit_test(test_too_many), cmocka_unit_test(test_scores_the_rest), cmocka_unit_test(test_never_looks_ahead),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
