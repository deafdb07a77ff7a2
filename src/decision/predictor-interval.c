/* SPDX-License-Identifier: MIT */
/*
 * predictor-interval.c - where 90 of 100 values lie, one horizon at a time.
 *
 * Split conformal intervals on the newest FM_INTERVAL_RESIDUALS signed errors of the forecast itself (Vovk, Gammerman, Shafer 2005; Lei and others 2018): the ends are the forecast plus a low and a high
 * quantile of them. Errors of a series are not exchangeable, so the two quantiles are moved after each value (adaptive conformal inference, Gibbs and Candès 2021): q <- q + gamma (0.05 - missed),
 * each end apart. Over time, each is missed in 5 of 100 cases whatever the series does.
 *
 * Unless it cannot be: nothing is below a queue that is empty, and a quantile at MISS_MOST that still misses less is held by values that are equal. What such an end leaves of its 5 % is the other's, so that the
 * two together come as near to 90 % as equal values let them.
 */
#include <math.h>
#include <string.h>

#include "decision/predictor-internal.h"

#define MISS       0.05
#define GAMMA      0.02
#define MISS_MOST  0.25
#define MISS_LEAST (-0.1)
#define SHARE_RATE 0.005
#define FEW        20u /* residuals, below which the scale is used too */

void fm_interval_init(struct fm_interval *iv)
{
	memset(iv, 0, sizeof(*iv));
	iv->miss_low = iv->miss_high = iv->missed_low = iv->missed_high = MISS;
}

/* Where x is, or belongs, among ascending values. */
static unsigned place(const float *v, unsigned n, float x)
{
	unsigned low = 0, high = n;
	while (low < high) {
		unsigned middle = (low + high) / 2;
		if (v[middle] < x)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void sorted_insert(float *v, unsigned n, float x)
{
	unsigned at = place(v, n, x);
	memmove(v + at + 1, v + at, (n - at) * sizeof(v[0]));
	v[at] = x;
}

/* Not for what is no number, either. */
static bool in(double x, double least, double most)
{
	return x >= least && x <= most;
}

bool fm_interval_wake(struct fm_interval *iv)
{
	if (iv->n > FM_INTERVAL_RESIDUALS || iv->next >= FM_INTERVAL_RESIDUALS || (iv->n < FM_INTERVAL_RESIDUALS && iv->next != iv->n))
		return false;
	for (unsigned i = 0; i < iv->n; i++) {
		if (!isfinite(iv->residual[i]))
			return false;
		sorted_insert(iv->sorted, i, iv->residual[i]);
	}
	return in(iv->miss_low, MISS_LEAST, MISS_MOST) && in(iv->miss_high, MISS_LEAST, MISS_MOST) && in(iv->missed_low, 0, 1) &&
	       in(iv->missed_high, 0, 1);
}

static void add_residual(struct fm_interval *iv, float r)
{
	if (iv->n == FM_INTERVAL_RESIDUALS) {
		unsigned at = place(iv->sorted, iv->n, iv->residual[iv->next]);
		iv->n--;
		memmove(iv->sorted + at, iv->sorted + at + 1, (iv->n - at) * sizeof(iv->sorted[0]));
	}
	sorted_insert(iv->sorted, iv->n, r);
	iv->n++;
	iv->residual[iv->next] = r;
	iv->next = (iv->next + 1) % FM_INTERVAL_RESIDUALS;
}

/* What an end that cannot be drawn in further leaves of its share to the other. */
static double left(double quantile, double missed)
{
	return quantile >= MISS_MOST ? fmax(MISS - missed, 0) : 0;
}

static double moved(double quantile, double wanted, bool missed)
{
	return fmin(fmax(quantile + GAMMA * (wanted - missed), MISS_LEAST), MISS_MOST);
}

void fm_interval_score(struct fm_interval *iv, uint64_t count, unsigned horizon, double value)
{
	unsigned then = (count - horizon) % FM_RECENT;
	float r = (float)(value - iv->said[then]);
	if (count < horizon || !isfinite(r))
		return;
	bool below = value<iv->low[then], above = value> iv->high[then];
	double from_low = left(iv->miss_low, iv->missed_low), from_high = left(iv->miss_high, iv->missed_high);
	iv->miss_low = moved(iv->miss_low, MISS + from_high, below);
	iv->miss_high = moved(iv->miss_high, MISS + from_low, above);
	iv->missed_low += SHARE_RATE * (below - iv->missed_low);
	iv->missed_high += SHARE_RATE * (above - iv->missed_high);
	add_residual(iv, r);
}

/* The residual below which a share q of (n + 1) cases is; when that is before the first one, the first one and, below zero, further out by how far q is. */
static double residual_at(const struct fm_interval *iv, double q, bool from_above)
{
	double rank = floor(q * (iv->n + 1)), outside = 0;
	unsigned i = rank >= 1 ? (unsigned)rank - 1 : 0;
	if (i >= iv->n)
		i = iv->n - 1;
	if (q < 0)
		outside = -q / MISS * (double)(iv->sorted[iv->n - 1] - iv->sorted[0]);
	return from_above ? iv->sorted[iv->n - 1 - i] + outside : iv->sorted[i] - outside;
}

void fm_interval_ends(struct fm_interval *iv, uint64_t count, double forecast, double scale, double *ret_low, double *ret_high)
{
	unsigned now = count % FM_RECENT;
	double low = 0, high = 0, slack;
	if (iv->n > 0) {
		low = fmin(residual_at(iv, iv->miss_low, false), 0);
		high = fmax(residual_at(iv, iv->miss_high, true), 0);
	}
	if (iv->n < FEW) {
		low = fmin(low, -3 * scale);
		high = fmax(high, 3 * scale);
	}
	/* residuals are kept in single precision: what they lose must not put a value outside that was exactly there */
	slack = 1e-6 * (high - low) + 1e-12 * fabs(forecast);
	iv->said[now] = forecast;
	*ret_low = iv->low[now] = forecast + low - slack;
	*ret_high = iv->high[now] = forecast + high + slack;
}
