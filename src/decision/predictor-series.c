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

void fm_series_init(struct fm_series *s, uint32_t step_ms)
{
	memset(s, 0, sizeof(*s));
	s->n_day = DAY_MS % step_ms == 0 ? DAY_MS / step_ms : 0;
}

void fm_series_norm(const struct fm_series *s, uint32_t back, double *ret_center, double *ret_scale)
{
	double window[FM_NORM_STEPS], sum = 0;
	unsigned n = 0;
	for (uint32_t i = back; i < s->n && n < FM_NORM_STEPS; i++)
		window[n++] = s->y[s->n - 1 - i];
	if (n == 0)
		window[n++] = fm_series_at(s, back);
	*ret_center = fm_median(window, n);
	for (unsigned i = 0; i < n; i++)
		sum += fabs(window[i] - *ret_center);
	*ret_scale = fmax(sum / n, SCALE_FLOOR(*ret_center));
}

/* Mean of |y now - y lag steps ago|: exponential, and a plain one while there are fewer differences than the exponential one looks back. */
static void update_distances(struct fm_series *s)
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

void fm_series_add(struct fm_series *s, double value, bool missing)
{
	if (s->n == FM_SERIES_ROOM) {
		memmove(s->y, s->y + FM_SERIES_ROOM - FM_SERIES_PAST, FM_SERIES_PAST * sizeof(s->y[0]));
		s->n = FM_SERIES_PAST;
	}
	s->y[s->n++] = value;
	s->missing = missing;
	if (s->count > 0)
		update_distances(s);
	s->count++;
	fm_series_norm(s, 0, &s->center[s->count % FM_RECENT], &s->scale[s->count % FM_RECENT]);
}

/* Lags of which enough differences are known. */
static unsigned lags_known(const struct fm_series *s, unsigned rate)
{
	uint64_t known = s->count > lag_least[rate] ? s->count - lag_least[rate] : 0;
	if (known > s->n - (s->n > 0))
		known = s->n - (s->n > 0);
	return known < FM_LAGS ? (unsigned)known : FM_LAGS;
}

unsigned fm_series_nearest(const struct fm_series *s, unsigned rate, uint16_t lag[FM_LAGS_NEAREST])
{
	float best[FM_LAGS_NEAREST];
	unsigned n = 0, known = lags_known(s, rate);
	for (unsigned i = 0; i < known; i++) {
		float d = s->distance[rate][i];
		unsigned at = n;
		if (n == FM_LAGS_NEAREST && d >= best[n - 1])
			continue;
		if (n == FM_LAGS_NEAREST)
			at--;
		else
			n++;
		for (; at > 0 && best[at - 1] > d; at--) {
			best[at] = best[at - 1];
			lag[at] = lag[at - 1];
		}
		best[at] = d;
		lag[at] = (uint16_t)(i + 1);
	}
	return n;
}

unsigned fm_series_period(const struct fm_series *s)
{
	unsigned best = 0, known = lags_known(s, FM_LAG_RATES - 1);
	const float *d = s->distance[FM_LAG_RATES - 1];
	for (unsigned i = 1; i < known; i++)
		if (best == 0 || d[i] < d[best - 1])
			best = i + 1;
	return best;
}
