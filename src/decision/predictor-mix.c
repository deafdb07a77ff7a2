/* SPDX-License-Identifier: MIT */
/*
 * predictor-mix.c - one forecast from those of the members, weighted by their recent errors.
 *
 * For each horizon apart: L_i is the sum of a member's absolute errors, older ones discounted by 0.99 a step, in units of the middle member's; its weight is exp(-0.15 (L_i - min L)) + 0.001. Exponential
 * weights: Vovk 1990, Littlestone and Warmuth 1994; discounting and the share that no member falls below let another member take over after a change (Herbster and Warmuth 1998, "Tracking the best expert").
 * The mixture is the weighted median, because the absolute error counts and because a member that is far off must not pull. The last value counts as three members.
 *
 * What was forecast for 12 steps is known to be wrong only 12 steps later, and a level that shifts would be missed for as long. So L_i also has half of the errors of the forecasts whose time has not come:
 * each of the newest 11 origins is judged by what its forecasts for the newest value were off, at the shorter horizon.
 *
 * Guard: the same kind of sum (discount 0.998) is held for the mixture and for the last value. Unless the mixture is better by 2 %, the last value is the forecast: there are series whose next value is this
 * one, and nothing else. Forecasts for h steps overlap, so n of them are worth about n / h: of a short series more is demanded, 2 h / n besides. An alarm, the same sums with discount 0.97, takes the last value where the
 * mixture was lately worse by 5 %: when a series turns from one that can be predicted into one that moves much less and cannot, the long sums would remember the large errors of before for hundreds of steps.
 */
#include <math.h>
#include <string.h>

#include "decision/predictor-internal.h"

#define DISCOUNT       0.99
#define GUARD_DISCOUNT 0.998
#define GUARD_MARGIN   1.02
#define ALARM_DISCOUNT 0.97
#define ALARM_MARGIN   0.95
#define FEWNESS        2.0
#define ETA            0.15
#define PENDING        0.5
#define SHARE          0.001
#define LAST_COUNTS_AS 3.0
#define EXPONENT_MOST  60.0

void fm_mix_weights(const struct fm_mix *m, unsigned horizon, double weight[FM_PREDICTOR_MAX_MEMBERS])
{
	const struct fm_mix_horizon *z = &m->horizon[horizon];
	double least = INFINITY, sum = 0, unit = z->typical_weight > 0 ? z->typical / z->typical_weight : 0;
	for (unsigned i = 0; i < m->n; i++)
		least = fmin(least, z->loss[i] + PENDING * z->pending[i]);
	for (unsigned i = 0; i < m->n; i++) {
		double behind = z->loss[i] + PENDING * z->pending[i] - least;
		double x = behind > 0 ? fmin(ETA * behind / (unit + 1e-300), EXPONENT_MOST) : 0;
		weight[i] = (exp(-x) + SHARE) * (i == 0 ? LAST_COUNTS_AS : 1);
		sum += weight[i];
	}
	for (unsigned i = 0; i < m->n; i++)
		weight[i] /= sum;
}

/* Index of the member at which half of the weight is reached, by ascending forecast. */
static unsigned weighted_median(const struct fm_mix *m, const double *weight, double (*members)[FM_HORIZONS], unsigned h)
{
	unsigned order[FM_PREDICTOR_MAX_MEMBERS] = { 0 };
	double sum = 0;
	for (unsigned i = 1; i < m->n; i++) {
		unsigned at = i;
		for (; at > 0 && members[order[at - 1]][h] > members[i][h]; at--)
			order[at] = order[at - 1];
		order[at] = i;
	}
	for (unsigned i = 0; i < m->n; i++) {
		sum += weight[order[i]];
		if (sum >= 0.5)
			return order[i];
	}
	return 0;
}

void fm_mix_score(struct fm_mix *m, uint64_t count, double value)
{
	double pending[FM_PREDICTOR_MAX_MEMBERS] = { 0 };
	for (unsigned h = 1; h <= FM_HORIZONS && h < count; h++) {
		struct fm_mix_horizon *z = &m->horizon[h - 1];
		unsigned then = (count - h) % FM_RECENT;
		double error[FM_PREDICTOR_MAX_MEMBERS] = { 0 }, moved = value - m->base[then];
		for (unsigned i = 0; i < m->n; i++) {
			error[i] = fabs(moved - (double)m->ahead[then][i][h - 1]);
			z->loss[i] = DISCOUNT * z->loss[i] + error[i];
			z->pending[i] = pending[i];
			pending[i] += error[i];
		}
		z->guard_last = GUARD_DISCOUNT * z->guard_last + error[0];
		z->guard_mixed = GUARD_DISCOUNT * z->guard_mixed + fabs(value - z->mixed[then]);
		z->alarm_last = ALARM_DISCOUNT * z->alarm_last + error[0];
		z->alarm_mixed = ALARM_DISCOUNT * z->alarm_mixed + fabs(value - z->mixed[then]);
		z->typical = DISCOUNT * z->typical + fm_median(error, m->n);
		z->typical_weight = DISCOUNT * z->typical_weight + 1;
	}
}

static bool is_trusted(const struct fm_mix_horizon *z, unsigned horizon, uint64_t count)
{
	double margin = GUARD_MARGIN + FEWNESS * horizon / (double)count;
	return z->guard_last >= margin * z->guard_mixed && z->alarm_last >= ALARM_MARGIN * z->alarm_mixed;
}

void fm_mix_forecast(struct fm_mix *m, uint64_t count, double last, double (*members)[FM_HORIZONS], double ret[FM_HORIZONS])
{
	unsigned now = count % FM_RECENT;
	double weight[FM_PREDICTOR_MAX_MEMBERS] = { 0 };
	m->base[now] = last;
	for (unsigned i = 0; i < m->n; i++)
		for (unsigned h = 0; h < FM_HORIZONS; h++) {
			if (!isfinite(members[i][h]))
				members[i][h] = last;
			m->ahead[now][i][h] = (float)(members[i][h] - last);
		}
	for (unsigned h = 0; h < FM_HORIZONS; h++) {
		struct fm_mix_horizon *z = &m->horizon[h];
		fm_mix_weights(m, h, weight);
		z->mixed[now] = members[weighted_median(m, weight, members, h)][h];
		ret[h] = is_trusted(z, h + 1, count) ? z->mixed[now] : last;
	}
}
