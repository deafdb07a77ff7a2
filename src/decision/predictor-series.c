/* SPDX-License-Identifier: MIT */
/* predictor-series.c - the remembered past of a series, its center and scale, and how far it is from itself some steps ago. */
#include <math.h>
#include <string.h>

#include "decision/predictor-internal.h"

#define DAY_MS 86400000u
/* What a difference of single doubles cannot tell from nothing. */
#define SCALE_FLOOR(center) (1e-9 * fabs(center) + 1e-12)

/* Share of a new difference in the mean, by rate. */
static const float lag_share[FM_LAG_RATES] = { 0.3f, 0.15f, 0.05f, 0.01f };
/* A mean of fewer differences says nothing about a lag. */
static const unsigned lag_least[FM_LAG_RATES] = { 3, 6, 10, 10 };

/* The k-th smallest (from 0), by Hoare's selection: smaller ones end before it, larger ones behind. */
static double select_nth(double *v, unsigned n, unsigned k)
{
	unsigned low = 0, high = n - 1;
	while (low < high) {
		double pivot = v[low + (high - low) / 2];
		unsigned i = low, j = high;
		while (i <= j) {
			while (i < high && v[i] < pivot)
				i++;
			while (j > low && v[j] > pivot)
				j--;
			if (i > j)
				break;
			double t = v[i];
			v[i++] = v[j];
			v[j] = t;
			if (j-- == 0)
				break;
		}
		if (j < n && k <= j)
			high = j;
		else if (k >= i)
			low = i;
		else
			break;
	}
	return v[k];
}

double fm_median(double *v, unsigned n)
{
	double upper = select_nth(v, n, n / 2), lower;
	if (n % 2)
		return upper;
	lower = v[0];
	for (unsigned i = 1; i < n / 2; i++)
		lower = fmax(lower, v[i]);
	return lower + (upper - lower) / 2;
}

void fm_past_init(struct fm_past *s, uint32_t step_ms, uint32_t members)
{
	memset(s, 0, sizeof(*s));
	s->wants_lags = (members & (FM_PREDICTOR_SEASONAL | FM_PREDICTOR_ANALOG)) != 0;
	s->n_day = DAY_MS % step_ms == 0 ? DAY_MS / step_ms : 0;
}

void fm_past_norm(const struct fm_past *s, uint32_t back, double *ret_center, double *ret_scale)
{
	double window[FM_NORM_STEPS], sum = 0;
	unsigned n = 0;
	for (uint32_t i = back; i < s->n && n < FM_NORM_STEPS; i++)
		window[n++] = s->y[s->n - 1 - i];
	if (n == 0)
		window[n++] = fm_past_at(s, back);
	*ret_center = fm_median(window, n);
	for (unsigned i = 0; i < n; i++)
		sum += fabs(window[i] - *ret_center);
	*ret_scale = fmax(sum / n, SCALE_FLOOR(*ret_center));
}

/* Mean of |y now - y lag steps ago|: exponential, and a plain one while there are fewer differences than the exponential one looks back. */
static void update_distances(struct fm_past *s)
{
	const double now = s->y[s->n - 1], *past = s->y + s->n - 1;
	unsigned lags = s->n - 1 < FM_LAGS ? s->n - 1 : FM_LAGS;
	for (unsigned r = 0; r < FM_LAG_RATES; r++) {
		float share = lag_share[r], *d = s->distance[r];
		uint64_t full = (uint64_t)(1 / share);
		unsigned old = s->count > full ? (unsigned)(s->count - full < lags ? s->count - full : lags) : 0;
		for (unsigned i = 0; i < old; i++)
			d[i] += share * ((float)fabs(now - past[-(int)i - 1]) - d[i]);
		for (unsigned i = old; i < lags; i++)
			d[i] += ((float)fabs(now - past[-(int)i - 1]) - d[i]) / (float)(s->count - i);
	}
}

/* Lags of which enough differences are known. */
static unsigned lags_known(const struct fm_past *s, unsigned rate)
{
	uint64_t known = s->count > lag_least[rate] ? s->count - lag_least[rate] : 0;
	if (known > s->n - (s->n > 0))
		known = s->n - (s->n > 0);
	return known < FM_LAGS ? (unsigned)known : FM_LAGS;
}

/* Into the FM_LAGS_NEAREST nearest so far, of which there are *n. */
static void insert_nearest(float *best, uint16_t *lag, unsigned *n, float d, unsigned l)
{
	unsigned at = *n;
	if (at == FM_LAGS_NEAREST)
		at--;
	else
		++*n;
	for (; at > 0 && best[at - 1] > d; at--) {
		best[at] = best[at - 1];
		lag[at] = lag[at - 1];
	}
	best[at] = d;
	lag[at] = (uint16_t)l;
}

/* The nearest lags not farther than a bound. With as many as wanted they are the nearest of all. */
static unsigned nearest_within(const struct fm_past *s, unsigned rate, float bound, uint16_t lag[FM_LAGS_NEAREST])
{
	const float *d = s->distance[rate];
	float best[FM_LAGS_NEAREST] = { 0 };
	unsigned n = 0, known = lags_known(s, rate);
	for (unsigned i = 0; i < known; i++) {
		if (d[i] > bound || (n == FM_LAGS_NEAREST && d[i] >= best[n - 1]))
			continue;
		insert_nearest(best, lag, &n, d[i], i + 1);
	}
	return n;
}

/*
 * Most lags that were near a step ago still are: the farthest of them is a bound that saves sorting in what will be thrown out again. What is found does not depend on it.
 */
static void update_nearest(struct fm_past *s)
{
	for (unsigned r = 0; r < FM_LAG_RATES; r++) {
		float bound = 0;
		unsigned n = s->n_nearest[r];
		for (unsigned i = 0; i < n; i++)
			bound = fmaxf(bound, s->distance[r][s->nearest[r][i] - 1]);
		if (n == FM_LAGS_NEAREST)
			n = nearest_within(s, r, bound, s->nearest[r]);
		if (n < FM_LAGS_NEAREST)
			n = nearest_within(s, r, INFINITY, s->nearest[r]);
		s->n_nearest[r] = n;
	}
}

void fm_past_add(struct fm_past *s, double value, bool missing)
{
	if (s->n == FM_SERIES_ROOM) {
		memmove(s->y, s->y + FM_SERIES_ROOM - FM_SERIES_PAST, FM_SERIES_PAST * sizeof(s->y[0]));
		s->n = FM_SERIES_PAST;
	}
	s->y[s->n++] = value;
	s->missing = missing;
	if (s->count > 0 && s->wants_lags)
		update_distances(s);
	s->count++;
	if (s->wants_lags)
		update_nearest(s);
	fm_past_norm(s, 0, &s->center[s->count % FM_RECENT], &s->scale[s->count % FM_RECENT]);
}

unsigned fm_past_period(const struct fm_past *s)
{
	for (unsigned i = 0; i < s->n_nearest[FM_LAG_RATES - 1]; i++)
		if (s->nearest[FM_LAG_RATES - 1][i] >= 2)
			return s->nearest[FM_LAG_RATES - 1][i];
	return 0;
}
