/* SPDX-License-Identifier: MIT */
/* fuzz-trace.c - libFuzzer entry for recorded series, which users bring. What is accepted has a step and finite values, and can be predicted: every forecast is a number inside its interval. */
#include <assert.h>
#include <math.h>
#include <stdint.h>

#include "decision/trace.h"

#define POINTS_MOST 64u /* predicted for one input: reading is what is looked at */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void predict(struct fm_trace *t)
{
	struct fm_predictor_options o = { .members = FM_PREDICTOR_SMOOTHING | FM_PREDICTOR_WINDOW | FM_PREDICTOR_SEASONAL |
		                                     FM_PREDICTOR_ANALOG };
	struct fm_backtest b;
	struct fm_forecast f;
	if (t->n > POINTS_MOST)
		t->n = POINTS_MOST;
	assert(fm_backtest_run(t, &o, &b, NULL) == 0);
	for (unsigned h = 1; h <= FM_PREDICTOR_HORIZONS; h++) {
		assert(fm_predictor_forecast(b.predictor, h, &f, NULL) == 0);
		assert(isfinite(f.value) && f.low <= f.value && f.value <= f.high);
		assert(b.horizon[h - 1].scored <= t->n && b.horizon[h - 1].coverage >= 0 && b.horizon[h - 1].coverage <= 1);
	}
	fm_backtest_done(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fm_trace t;
	struct fm_error err = FM_ERROR_INIT;

	if (fm_trace_parse((const char *)data, size, &t, &err) < 0) {
		assert(err.code != FM_OK && err.message[0]);
		return 0;
	}
	assert(t.n >= 2 && t.step_ms >= 1000 && t.step_ms <= 86400000);
	for (size_t i = 0; i < t.n; i++)
		assert(isfinite(t.point[i].value) && t.point[i].unix_ms >= 0);
	predict(&t);
	fm_trace_done(&t);
	return 0;
}
