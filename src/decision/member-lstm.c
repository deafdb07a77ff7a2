/* SPDX-License-Identifier: MIT */
/*
 * member-lstm.c - the recurrent network (lstm.h) as a member: trained a little with each observation.
 *
 * Inputs are the newest 24 values and their differences, relative to center and scale, through asinh, so that spikes are seen but do not drown the rest; answers are the next 12 values likewise. Each
 * observation completes one sequence (that of 12 steps ago); it and three others of the remembered past, chosen at random by the seed, make one step of Adam.
 */
#include <math.h>
#include <string.h>

#include "decision/lstm.h"
#include "decision/predictor-internal.h"

#define BATCH       4u
#define RATE        0.003
#define ANSWER_MOST 12.0
#define LEAST_PAST  (FM_LSTM_STEPS + FM_HORIZONS + 1u)

struct lstm_member {
	struct fm_lstm net;
	uint64_t random;
};

/* What the network sees `back` steps ago, and the center and scale it is relative to. */
static void inputs_at(const struct fm_past *s, uint32_t back, double input[FM_LSTM_STEPS][FM_LSTM_INPUTS], double *ret_center,
                      double *ret_scale)
{
	double before;
	fm_past_norm(s, back, ret_center, ret_scale);
	before = asinh((fm_past_at(s, back + FM_LSTM_STEPS) - *ret_center) / *ret_scale);
	for (unsigned t = 0; t < FM_LSTM_STEPS; t++) {
		double x = asinh((fm_past_at(s, back + FM_LSTM_STEPS - 1 - t) - *ret_center) / *ret_scale);
		input[t][0] = x;
		input[t][1] = x - before;
		before = x;
	}
}

static void learn_from(const struct lstm_member *m, const struct fm_past *s, uint32_t back, double *grad)
{
	double input[FM_LSTM_STEPS][FM_LSTM_INPUTS], wanted[FM_LSTM_ANSWERS], center, scale;
	inputs_at(s, back, input, &center, &scale);
	for (unsigned h = 1; h <= FM_LSTM_ANSWERS; h++)
		wanted[h - 1] = fmin(fmax((fm_past_at(s, back - h) - center) / scale, -ANSWER_MOST), ANSWER_MOST);
	(void)fm_lstm_gradient(&m->net, input, wanted, grad);
}

static void lstm_init(void *state, uint64_t seed)
{
	struct lstm_member *m = state;
	fm_lstm_init(&m->net, seed);
	m->random = seed ^ 0x6c73746d;
}

static void lstm_observe(void *state, const struct fm_past *s)
{
	struct lstm_member *m = state;
	double grad[FM_LSTM_WEIGHTS] = { 0 };
	if (s->missing || s->n < LEAST_PAST)
		return;
	learn_from(m, s, FM_HORIZONS, grad);
	for (unsigned i = 1; i < BATCH; i++)
		learn_from(m, s, FM_HORIZONS + (uint32_t)(fm_random_next(&m->random) % (s->n - LEAST_PAST + 1)), grad);
	for (unsigned i = 0; i < FM_LSTM_WEIGHTS; i++)
		grad[i] /= BATCH;
	fm_lstm_step(&m->net, grad, RATE);
}

static void lstm_forecast(const void *state, const struct fm_past *s, double (*out)[FM_HORIZONS])
{
	const struct lstm_member *m = state;
	double input[FM_LSTM_STEPS][FM_LSTM_INPUTS], answer[FM_LSTM_ANSWERS], center, scale;
	inputs_at(s, 0, input, &center, &scale);
	fm_lstm_answer(&m->net, input, answer);
	for (unsigned h = 0; h < FM_HORIZONS; h++)
		out[0][h] = s->n < LEAST_PAST ? fm_past_at(s, 0) : center + scale * answer[h];
}

_Static_assert(FM_LSTM_ANSWERS == FM_PREDICTOR_HORIZONS, "one answer a horizon");

const struct fm_family fm_family_lstm = {
	.kind = FM_PREDICTOR_LSTM,
	.n = 1,
	.names = { "lstm" },
	.state_bytes = sizeof(struct lstm_member),
	.init = lstm_init,
	.observe = lstm_observe,
	.forecast = lstm_forecast,
};
