/* SPDX-License-Identifier: MIT */
/*
 * member-autoregressive.c - linear in the recent values, one regression a horizon, learnt as values come.
 *
 * Values are taken relative to center and scale of the step from which is forecast, so that a level that moves does not have to be learnt, and cut off at +-8 scales (+-20 for what is forecast), so that
 * one spike does not move all coefficients.
 *
 * "least-squares": recursive least squares with forgetting (Plackett 1950; Haykin, Adaptive Filter Theory, ch. 10). All horizons have the same regressors, only later answers: the gain computed for a step
 * is kept until the answers come, and one matrix serves all 12.
 * "least-absolute": the same with each pair weighted by 1 / |error|, which turns squares into absolute errors (iteratively reweighted least squares, Schlossmacher 1973, in one pass); the weights differ
 * by horizon, so each has its matrix.
 */
#include <math.h>
#include <string.h>

#include "decision/predictor-internal.h"

#define INPUTS     17u /* 16 recent values and 1 */
#define SQUARES    13u /* of which the squares use the 12 newest, and 1 */
#define FORGET     0.999
#define CUT_INPUT  8.0
#define CUT_ANSWER 20.0
#define LEAST      0.05 /* errors below this weigh alike: they are found exactly enough */
#define TRACE_MOST 1e4  /* of a matrix, for each input: what was not excited for long is not blown up by forgetting */

struct regressor_inputs {
	double x[INPUTS]; /* x[INPUTS - 1] is 1; squares[] has its own order, see inputs_of */
};
struct autoregressive {
	struct regressor_inputs input[FM_RECENT];
	double gain[FM_RECENT][SQUARES];
	double squares[SQUARES][SQUARES];
	double square_weight[FM_HORIZONS][SQUARES];
	double absolutes[FM_HORIZONS][INPUTS][INPUTS];
	double absolute_weight[FM_HORIZONS][INPUTS];
};

/* The newest SQUARES - 1 values and the 1. */
static void square_inputs(const struct regressor_inputs *in, double x[SQUARES])
{
	memcpy(x, in->x, (SQUARES - 1) * sizeof(x[0]));
	x[SQUARES - 1] = 1;
}

static double dot(const double *a, const double *b, unsigned n)
{
	double sum = 0;
	for (unsigned i = 0; i < n; i++)
		sum += a[i] * b[i];
	return sum;
}

static void identity(double *p, unsigned n)
{
	memset(p, 0, (size_t)n * n * sizeof(p[0]));
	for (unsigned i = 0; i < n; i++)
		p[(size_t)i * n + i] = 1;
}

/* One step of the recursion for inputs x of weight w; gain may be used for the coefficients afterwards. What has become impossible by rounding begins anew. */
static void recursion(double *p, unsigned n, const double *x, double w, double *gain)
{
	double px[INPUTS], trace = 0, xpx;
	for (unsigned i = 0; i < n; i++)
		px[i] = dot(p + (size_t)i * n, x, n);
	xpx = dot(x, px, n);
	if (!(xpx >= 0) || !isfinite(xpx)) {
		identity(p, n);
		memset(gain, 0, n * sizeof(gain[0]));
		return;
	}
	for (unsigned i = 0; i < n; i++)
		gain[i] = px[i] / (FORGET / w + xpx);
	for (unsigned i = 0; i < n; i++) {
		for (unsigned j = 0; j < n; j++)
			p[(size_t)i * n + j] = (p[(size_t)i * n + j] - gain[i] * px[j]) / FORGET;
		trace += p[(size_t)i * n + i];
	}
	if (trace > TRACE_MOST * n)
		for (unsigned i = 0; i < n * n; i++)
			p[i] *= TRACE_MOST * n / trace;
}

static double cut(double x, double most)
{
	return fmin(fmax(x, -most), most);
}

static void take_inputs(struct autoregressive *m, const struct fm_past *s)
{
	double *x = m->input[s->count % FM_RECENT].x;
	for (unsigned i = 0; i < INPUTS - 1; i++)
		x[i] = cut((fm_past_at(s, i) - s->center[s->count % FM_RECENT]) / s->scale[s->count % FM_RECENT], CUT_INPUT);
	x[INPUTS - 1] = 1;
}

/* What the newest value teaches about forecasts of h steps. */
static void learn(struct autoregressive *m, const struct fm_past *s, unsigned h)
{
	unsigned from = (s->count - h) % FM_RECENT;
	double y = cut((fm_past_at(s, 0) - s->center[from]) / s->scale[from], CUT_ANSWER), x[SQUARES], gain[INPUTS], error;
	double *w = m->square_weight[h - 1];
	square_inputs(&m->input[from], x);
	error = y - dot(w, x, SQUARES);
	for (unsigned i = 0; i < SQUARES; i++)
		w[i] += m->gain[from][i] * error;

	w = m->absolute_weight[h - 1];
	error = y - dot(w, m->input[from].x, INPUTS);
	recursion(&m->absolutes[h - 1][0][0], INPUTS, m->input[from].x, 1 / fmax(fabs(error), LEAST), gain);
	for (unsigned i = 0; i < INPUTS; i++)
		w[i] += gain[i] * error;
}

static void autoregressive_init(void *state, uint64_t seed)
{
	struct autoregressive *m = state;
	identity(&m->squares[0][0], SQUARES);
	for (unsigned h = 0; h < FM_HORIZONS; h++)
		identity(&m->absolutes[h][0][0], INPUTS);
}

static void autoregressive_observe(void *state, const struct fm_past *s)
{
	struct autoregressive *m = state;
	double x[SQUARES];
	for (unsigned h = 1; h <= FM_HORIZONS && h < s->count && !s->missing; h++)
		learn(m, s, h);
	take_inputs(m, s);
	square_inputs(&m->input[s->count % FM_RECENT], x);
	recursion(&m->squares[0][0], SQUARES, x, 1, m->gain[s->count % FM_RECENT]);
}

static void autoregressive_forecast(const void *state, const struct fm_past *s, double (*out)[FM_HORIZONS])
{
	const struct autoregressive *m = state;
	unsigned now = s->count % FM_RECENT;
	double x[SQUARES];
	square_inputs(&m->input[now], x);
	for (unsigned h = 0; h < FM_HORIZONS; h++) {
		out[0][h] = s->center[now] + s->scale[now] * cut(dot(m->square_weight[h], x, SQUARES), CUT_ANSWER);
		out[1][h] = s->center[now] + s->scale[now] * cut(dot(m->absolute_weight[h], m->input[now].x, INPUTS), CUT_ANSWER);
	}
}

const struct fm_family fm_family_autoregressive = {
	.kind = FM_PREDICTOR_AUTOREGRESSIVE,
	.n = 2,
	.names = { "least-squares", "least-absolute" },
	.state_bytes = sizeof(struct autoregressive),
	.init = autoregressive_init,
	.observe = autoregressive_observe,
	.forecast = autoregressive_forecast,
};
