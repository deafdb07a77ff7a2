/* SPDX-License-Identifier: MIT */
/* member-simple.c - members that need little: the last value, exponential smoothing, medians of windows, the same time of earlier periods. */
#include <math.h>
#include <string.h>

#include "decision/predictor-internal.h"

static void all_horizons(double out[FM_HORIZONS], double value)
{
	for (unsigned h = 0; h < FM_HORIZONS; h++)
		out[h] = value;
}

static void observe_nothing(void *state, const struct fm_past *s)
{
}

/* ---------------------------------------------------------------- last value */

static void last_forecast(const void *state, const struct fm_past *s, double (*out)[FM_HORIZONS])
{
	all_horizons(out[0], fm_past_at(s, 0));
}

const struct fm_family fm_family_last = {
	.kind = FM_PREDICTOR_LAST, .n = 1, .names = { "last" }, .observe = observe_nothing, .forecast = last_forecast
};

/* ---------------------------------------------------------------- exponential smoothing */

#define SIMPLE 3u
#define DAMPED 2u
static const double simple_alpha[SIMPLE] = { 0.1, 0.3, 0.6 };
/* Gardner and McKenzie 1985: the trend fades by phi a step, so that it is not followed into the sky. */
static const struct {
	double alpha, beta, phi;
} damped[DAMPED] = { { 0.3, 0.1, 0.9 }, { 0.6, 0.2, 0.8 } };

struct smoothing {
	double level[SIMPLE + DAMPED], trend[DAMPED];
	uint32_t begun;
};

static void smoothing_observe(void *state, const struct fm_past *s)
{
	struct smoothing *m = state;
	double y = fm_past_at(s, 0);
	for (unsigned i = 0; !m->begun && i < SIMPLE + DAMPED; i++)
		m->level[i] = y;
	m->begun = 1;
	if (s->missing)
		return;
	for (unsigned i = 0; i < SIMPLE; i++)
		m->level[i] += simple_alpha[i] * (y - m->level[i]);
	for (unsigned i = 0; i < DAMPED; i++) {
		double *level = &m->level[SIMPLE + i], *trend = &m->trend[i], before = *level, carried = damped[i].phi * *trend;
		*level = damped[i].alpha * y + (1 - damped[i].alpha) * (before + carried);
		*trend = damped[i].beta * (*level - before) + (1 - damped[i].beta) * carried;
	}
}

static void smoothing_forecast(const void *state, const struct fm_past *s, double (*out)[FM_HORIZONS])
{
	const struct smoothing *m = state;
	for (unsigned i = 0; i < SIMPLE; i++)
		all_horizons(out[i], m->level[i]);
	for (unsigned i = 0; i < DAMPED; i++) {
		double fade = 1, sum = 0;
		for (unsigned h = 0; h < FM_HORIZONS; h++) {
			fade *= damped[i].phi;
			sum += fade;
			out[SIMPLE + i][h] = m->level[SIMPLE + i] + sum * m->trend[i];
		}
	}
}

const struct fm_family fm_family_smoothing = {
	.kind = FM_PREDICTOR_SMOOTHING,
	.n = SIMPLE + DAMPED,
	.names = { "smoothing-0.1", "smoothing-0.3", "smoothing-0.6", "trend-0.3", "trend-0.6" },
	.state_bytes = sizeof(struct smoothing),
	.observe = smoothing_observe,
	.forecast = smoothing_forecast,
};

/* ---------------------------------------------------------------- medians of windows */

#define WINDOWS     8u
#define WINDOW_MOST 289u
#define LEVEL_MOST  97u
#define JUMP        5.0 /* mean distances from the median, which two values together on one side leave only when the level is another one */

static const unsigned window_steps[WINDOWS] = { 3, 5, 9, 13, 25, 49, 97, WINDOW_MOST };

/* Steps since the level last jumped, as far as can be seen. */
struct level {
	uint32_t steps;
};

/* Median of the n values (of those there are) that end `back` steps ago. */
static double median_of(const struct fm_past *s, unsigned back, unsigned n)
{
	double copy[WINDOW_MOST] = { 0 };
	unsigned have = 0;
	for (; have < n && have < WINDOW_MOST && back + have < s->n; have++)
		copy[have] = fm_past_at(s, back + have);
	return have ? fm_median(copy, have) : fm_past_at(s, 0);
}

static void window_observe(void *state, const struct fm_past *s)
{
	struct level *l = state;
	double center, distance = 0, newest, before;
	unsigned n = l->steps < LEVEL_MOST ? l->steps : LEVEL_MOST;
	l->steps = n + 1;
	if (n < 4 || s->n < n + 2)
		return;
	center = median_of(s, 2, n - 1);
	for (unsigned i = 0; i < n - 1; i++)
		distance += fabs(fm_past_at(s, 2 + i) - center) / (n - 1);
	newest = fm_past_at(s, 0) - center;
	before = fm_past_at(s, 1) - center;
	if (fmin(newest, before) > JUMP * distance || fmax(newest, before) < -JUMP * distance)
		l->steps = 2;
}

static void window_forecast(const void *state, const struct fm_past *s, double (*out)[FM_HORIZONS])
{
	const struct level *l = state;
	for (unsigned i = 0; i < WINDOWS; i++)
		all_horizons(out[i], median_of(s, 0, window_steps[i]));
	all_horizons(out[WINDOWS], median_of(s, 0, l->steps < LEVEL_MOST ? l->steps : LEVEL_MOST));
}

const struct fm_family fm_family_window = {
	.kind = FM_PREDICTOR_WINDOW,
	.n = WINDOWS + 1,
	.names = { "median-3", "median-5", "median-9", "median-13", "median-25", "median-49", "median-97", "median-289", "level" },
	.state_bytes = sizeof(struct level),
	.observe = window_observe,
	.forecast = window_forecast,
};

/* ---------------------------------------------------------------- seasonal */

#define SEASONS 5u

/* The value `period` steps before the one that is forecast, or the median of those 1 to `n` periods before, as far as the memory reaches; the last value without any. */
static void seasonal_one(const struct fm_past *s, unsigned period, unsigned n, double out[FM_HORIZONS])
{
	for (unsigned h = 1; h <= FM_HORIZONS; h++) {
		double seen[3];
		unsigned have = 0, back = period;
		while (period && back < h)
			back += period;
		for (; period && have < n && back - h < s->n; back += period)
			seen[have++] = fm_past_at(s, back - h);
		out[h - 1] = have ? fm_median(seen, have) : fm_past_at(s, 0);
	}
}

static void seasonal_forecast(const void *state, const struct fm_past *s, double (*out)[FM_HORIZONS])
{
	unsigned period = fm_past_period(s);
	seasonal_one(s, s->n_day, 1, out[0]);
	seasonal_one(s, s->n_day, 3, out[1]);
	seasonal_one(s, s->n_day * 7, 1, out[2]);
	seasonal_one(s, period, 1, out[3]);
	seasonal_one(s, period, 3, out[4]);
}

const struct fm_family fm_family_seasonal = {
	.kind = FM_PREDICTOR_SEASONAL,
	.n = SEASONS,
	.names = { "day-1", "day-3", "week-1", "period-1", "period-3" },
	.observe = observe_nothing,
	.forecast = seasonal_forecast,
};
