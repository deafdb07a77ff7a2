/* SPDX-License-Identifier: MIT */
/*
 * member-analog.c - what followed when the series last looked like now.
 *
 * "Looked like now" is a lag at which the series' recent steps are near to themselves: the exponentially weighted mean of |y(t) - y(t - lag)| that the series keeps for all lags. It costs one addition a lag
 * and step, where comparing windows would cost one a lag, step and window's element. The forecast for h steps is the median of y(t + h - lag) over the nearest 5, 15 or 40 lags not shorter than h
 * (nearest neighbours: Lorenz 1969; medians because the absolute error counts). Repeating spikes, on/off patterns and noise around a level all end up with the neighbours that fit.
 */
#include <string.h>

#include "decision/predictor-internal.h"

#define SIZES 3u
static const unsigned neighbours[SIZES] = { 5, 15, 40 };

/* Into ascending values, of which there are n. */
static void insert_sorted(double *v, unsigned n, double x)
{
	for (; n > 0 && v[n - 1] > x; n--)
		v[n] = v[n - 1];
	v[n] = x;
}

static double middle(const double *v, unsigned n)
{
	return n % 2 ? v[n / 2] : v[n / 2 - 1] + (v[n / 2] - v[n / 2 - 1]) / 2;
}

static void forecast_rate(const struct fm_past *s, unsigned rate, double (*out)[FM_HORIZONS])
{
	const uint16_t *lag = s->nearest[rate];
	unsigned n = s->n_nearest[rate];
	for (unsigned h = 1; h <= FM_HORIZONS; h++) {
		double followed[FM_LAGS_NEAREST];
		unsigned have = 0, size = 0;
		for (unsigned i = 0; i < n && size < SIZES; i++) {
			if (lag[i] < h)
				continue;
			insert_sorted(followed, have++, fm_past_at(s, lag[i] - h));
			if (have == neighbours[size])
				out[size++][h - 1] = middle(followed, have);
		}
		for (; size < SIZES; size++)
			out[size][h - 1] = have ? middle(followed, have) : fm_past_at(s, 0);
	}
}

static void analog_observe(void *state, const struct fm_past *s)
{
}

static void analog_forecast(const void *state, const struct fm_past *s, double (*out)[FM_HORIZONS])
{
	for (unsigned r = 0; r < FM_LAG_RATES; r++)
		forecast_rate(s, r, out + (size_t)r * SIZES);
}

const struct fm_family fm_family_analog = {
	.kind = FM_PREDICTOR_ANALOG,
	.n = FM_LAG_RATES * SIZES,
	.names = { "analog-0.7-5", "analog-0.7-15", "analog-0.7-40", "analog-0.85-5", "analog-0.85-15", "analog-0.85-40", "analog-0.95-5",
	           "analog-0.95-15", "analog-0.95-40", "analog-0.99-5", "analog-0.99-15", "analog-0.99-40" },
	.observe = analog_observe,
	.forecast = analog_forecast,
};
