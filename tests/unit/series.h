/* SPDX-License-Identifier: MIT */
/* series.h - made-up series with known properties, for the tests of prediction. Included by one program each. */
#ifndef FM_TESTS_SERIES_H
#define FM_TESTS_SERIES_H

#include <math.h>

#include "decision/predictor-internal.h"
#include "decision/trace.h"

#define STEP_MS  300000
#define BEGIN_MS 1392388200000ll /* 2014-02-14 14:30 */

/* 0 to 1 */
__attribute__((unused)) static double uniform(uint64_t *random)
{
	return (double)(fm_random_next(random) >> 11) * 0x1p-53;
}

/* About normal: mean 0, variance 1. */
__attribute__((unused)) static double noise(uint64_t *random)
{
	double sum = -6;
	for (int i = 0; i < 12; i++)
		sum += uniform(random);
	return sum;
}

enum shape { CONSTANT, QUANTISED, RANDOM_WALK, AR_1, LEVEL_SHIFTS, PIECEWISE, SPIKES, PERIODIC_SPIKES, DAILY, ON_OFF, SHAPES };
__attribute__((unused)) static const char *const shape_names[SHAPES] = { "constant", "quantised",       "random walk",
	                                                                 "AR(1)",    "level shifts",    "piecewise constant",
	                                                                 "spikes",   "periodic spikes", "daily",
	                                                                 "on/off" };

__attribute__((unused)) static double shape_next(enum shape shape, unsigned t, double *state, uint64_t *random)
{
	switch (shape) {
	case CONSTANT:
		return 7;
	case QUANTISED:
		return 0.066 * round(3 + 0.3 * noise(random));
	case RANDOM_WALK:
		return t == 0 ? (*state = 100) : (*state += noise(random));
	case AR_1:
		*state = 0.5 * *state + noise(random);
		return 50 + *state;
	case LEVEL_SHIFTS:
		if (t % 400 == 0)
			*state = 10 + 80 * uniform(random);
		return *state + noise(random);
	case PIECEWISE:
		if (t == 0 || uniform(random) < 0.02)
			*state = floor(100 * uniform(random));
		return *state;
	case SPIKES:
		return 5 + 0.2 * noise(random) + (uniform(random) < 0.03 ? 30 * uniform(random) : 0);
	case PERIODIC_SPIKES:
		return 2 + 0.1 * noise(random) + (t % 24 < 3 ? 40 : 0);
	case DAILY:
		return 50 + 30 * sin(2 * M_PI * t / 288) + 3 * noise(random);
	case ON_OFF:
		if (uniform(random) < (*state > 0 ? 0.08 : 0.02))
			*state = 1 - *state;
		return 0.1 + *state * (80 + 5 * noise(random));
	case SHAPES:
		break;
	}
	return 0;
}

/* n points of a shape; freed by fm_trace_done. */
__attribute__((unused)) static struct fm_trace made_up(enum shape shape, unsigned n, uint64_t seed)
{
	struct fm_trace t = { .point = calloc(n, sizeof(*t.point)), .n = n, .step_ms = STEP_MS };
	double state = 0;
	for (unsigned i = 0; i < n; i++)
		t.point[i] =
		        (struct fm_trace_point){ .unix_ms = BEGIN_MS + (int64_t)i * STEP_MS, .value = shape_next(shape, i, &state, &seed) };
	return t;
}

#endif
