/* SPDX-License-Identifier: MIT */
/* test-predictor-state.c - a predictor saved and loaded goes on as if nothing had happened; what is cut, altered or made up is refused. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>

#include "series.h"

#define HEADER_BYTES 24u

static struct fm_predictor *fed(const struct fm_trace *t, uint32_t members, size_t n)
{
	struct fm_predictor_options o = { .members = members, .seed = 3 };
	struct fm_predictor *p = NULL;
	assert_ok(fm_predictor_new(&o, &p, &err));
	for (size_t i = 0; i < n; i++)
		assert_ok(fm_predictor_observe(p, t->point[i].unix_ms, t->point[i].value, &err));
	return p;
}

static void assert_same_forecasts(const struct fm_predictor *a, const struct fm_predictor *b)
{
	struct fm_forecast f, g;
	for (unsigned h = 1; h <= 12; h++) {
		assert_ok(fm_predictor_forecast(a, h, &f, &err));
		assert_ok(fm_predictor_forecast(b, h, &g, &err));
		assert_true(f.value == g.value && f.low == g.low && f.high == g.high);
	}
}

/* All members, before and after the forest is grown first, and after the series' memory has been moved to the front. */
static void test_goes_on(void **state)
{
	static const size_t ends[] = { 1, 30, 399, 2700 };
	struct fm_trace t = made_up(DAILY, 3100, 2);
	for (size_t k = 0; k < FM_ARRAY_SIZE(ends); k++) {
		struct fm_predictor *p = fed(&t, FM_PREDICTOR_ALL, ends[k]), *q = NULL;
		struct fm_predictor_stats a, b;
		_fm_buf_ struct fm_buf buf = FM_BUF_INIT;
		assert_ok(fm_predictor_save(p, &buf, &err));
		assert_ok(fm_predictor_load(buf.data, buf.len, &q, &err));
		assert_same_forecasts(p, q);
		for (size_t i = ends[k]; i < ends[k] + 200; i++) {
			assert_ok(fm_predictor_observe(p, t.point[i].unix_ms, t.point[i].value, &err));
			assert_ok(fm_predictor_observe(q, t.point[i].unix_ms, t.point[i].value, &err));
			assert_same_forecasts(p, q);
		}
		fm_predictor_stats(p, &a);
		fm_predictor_stats(q, &b);
		assert_memory_equal(&a, &b, sizeof(a));
		fm_predictor_free(p);
		fm_predictor_free(q);
	}
	fm_trace_done(&t);
}

static void test_empty(void **state)
{
	struct fm_predictor *p = fed(NULL, 0, 0), *q = NULL;
	_fm_buf_ struct fm_buf buf = FM_BUF_INIT;
	struct fm_forecast f;
	assert_ok(fm_predictor_save(p, &buf, &err));
	assert_ok(fm_predictor_load(buf.data, buf.len, &q, &err));
	assert_code(FM_E_FAILED_PRECONDITION, fm_predictor_forecast(q, 1, &f, &err));
	assert_ok(fm_predictor_observe(q, BEGIN_MS, 1, &err));
	fm_predictor_free(p);
	fm_predictor_free(q);
}

static void test_altered(void **state)
{
	struct fm_trace t = made_up(AR_1, 100, 2);
	struct fm_predictor *p = fed(&t, 0, 100), *q = NULL;
	_fm_buf_ struct fm_buf buf = FM_BUF_INIT;

	assert_ok(fm_predictor_save(p, &buf, &err));
	assert_code(FM_E_DATA_LOSS, fm_predictor_load(buf.data, 0, &q, &err));
	for (size_t n = 1; n < buf.len; n += n < 64 ? 1 : 9973)
		assert_code(FM_E_DATA_LOSS, fm_predictor_load(buf.data, n, &q, &err));
	for (size_t i = 0; i < buf.len; i += i < 64 ? 1 : 9973) {
		buf.data[i] ^= 0x10;
		assert_code(i >= 8 && i < 12 ? FM_E_FAILED_PRECONDITION : FM_E_DATA_LOSS, fm_predictor_load(buf.data, buf.len, &q, &err));
		buf.data[i] ^= 0x10;
	}
	assert_null(q);
	assert_ok(fm_predictor_load(buf.data, buf.len, &q, &err));
	fm_predictor_free(q);
	fm_predictor_free(p);
	fm_trace_done(&t);
}

/* As the one of predictor-state.c, a bit at a time. */
static uint32_t crc32_of(const char *data, size_t n)
{
	uint32_t crc = 0xffffffffu;
	for (size_t i = 0; i < n; i++) {
		crc ^= (uint8_t)data[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc & 1 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
	}
	return ~crc;
}

/* A state with these bytes at this place of the core and a checksum that is right. */
static int load_forged(const struct fm_buf *buf, size_t at, const void *bytes, size_t n, struct fm_predictor **ret)
{
	_fm_buf_ struct fm_buf copy = FM_BUF_INIT;
	uint32_t crc;
	fm_buf_add(&copy, buf->data, buf->len);
	memcpy(copy.data + HEADER_BYTES + at, bytes, n);
	crc = crc32_of(copy.data + HEADER_BYTES, copy.len - HEADER_BYTES);
	memcpy(copy.data + 12, &crc, sizeof(crc));
	err = FM_ERROR_INIT;
	return fm_predictor_load(copy.data, copy.len, ret, &err);
}

#define assert_forged(field, ...)                                                                                                          \
	do {                                                                                                                               \
		__typeof__(((struct fm_predictor_core *)0)->field) forged_ = __VA_ARGS__;                                                  \
		assert_int_equal(load_forged(&buf, offsetof(struct fm_predictor_core, field), &forged_, sizeof(forged_), &q), -1);         \
		assert_int_equal(err.code, FM_E_DATA_LOSS);                                                                                \
	} while (0)

static void test_forged(void **state)
{
	struct fm_trace t = made_up(AR_1, 200, 2);
	struct fm_predictor *p = fed(&t, 0, 200), *q = NULL;
	_fm_buf_ struct fm_buf buf = FM_BUF_INIT;

	assert_ok(fm_predictor_save(p, &buf, &err));
	assert_forged(options.step_ms, 0);
	assert_forged(options.members, FM_PREDICTOR_ALL | 1u << 9);
	assert_forged(options.members, FM_PREDICTOR_ALL); /* more members than there are states for */
	assert_forged(options.members, FM_PREDICTOR_LSTM);
	assert_forged(series.n, FM_SERIES_ROOM + 1);
	assert_forged(series.n, 0);
	assert_forged(series.count, 3);
	assert_forged(series.count, UINT64_MAX);
	assert_forged(series.y[5], NAN);
	assert_forged(mix.n, 7);
	assert_forged(mix.n, 4000);
	assert_forged(mix.horizon[11].loss[3], NAN);
	assert_forged(mix.horizon[0].mixed[12], INFINITY);
	assert_forged(mix.ahead[12][39][11], NAN);
	assert_forged(interval[3].n, FM_INTERVAL_RESIDUALS + 1);
	assert_forged(interval[3].next, FM_INTERVAL_RESIDUALS);
	assert_forged(interval[3].residual[0], NAN);
	assert_forged(newest, -5);
	assert_forged(forecast[0].value, NAN);
	assert_null(q);
	fm_predictor_free(p);
	fm_trace_done(&t);
}

/* Members' own numbers are not checked: with those of smoothing, the first family that has some, made nonsense, forecasts still are numbers. */
static void test_nonsense_of_a_member(void **state)
{
	struct fm_trace t = made_up(AR_1, 400, 2);
	struct fm_predictor *p = fed(&t, 0, 200), *q = NULL;
	const double nonsense[7] = { NAN, INFINITY, -INFINITY, NAN, 1e308, NAN, 1e308 };
	_fm_buf_ struct fm_buf buf = FM_BUF_INIT;
	struct fm_forecast f;

	assert_ok(fm_predictor_save(p, &buf, &err));
	assert_int_equal(load_forged(&buf, sizeof(struct fm_predictor_core), nonsense, sizeof(nonsense), &q), 0);
	for (size_t i = 200; i < t.n; i++) {
		assert_ok(fm_predictor_observe(q, t.point[i].unix_ms, t.point[i].value, &err));
		for (unsigned h = 1; h <= 12; h++) {
			assert_ok(fm_predictor_forecast(q, h, &f, &err));
			assert_true(f.value > 40 && f.value < 60 && f.low <= f.value && f.value <= f.high);
		}
	}
	fm_predictor_free(q);
	fm_predictor_free(p);
	fm_trace_done(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_goes_on),
		cmocka_unit_test(test_empty),
		cmocka_unit_test(test_altered),
		cmocka_unit_test(test_forged),
		cmocka_unit_test(test_nonsense_of_a_member),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
