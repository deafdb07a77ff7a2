/* SPDX-License-Identifier: MIT */
/* lstm.c - forward, backward and Adam for the network of lstm.h. */
#include "decision/lstm.h"

#include <math.h>
#include <string.h>

#include "decision/predictor-internal.h"

#define H      FM_LSTM_HIDDEN
#define T      FM_LSTM_STEPS
#define DELTA  0.1
#define BETA_1 0.9
#define BETA_2 0.999

/* What the forward pass leaves for the backward pass. */
struct unrolled {
	double z[T][FM_LSTM_FAN_IN]; /* inputs, outputs of the step before, 1 */
	double gate[T][FM_LSTM_GATES];
	double cell[T + 1][H]; /* [0] is zero */
	double cell_tanh[T][H];
	double out[H];
};

static double sigmoid(double x)
{
	return 1 / (1 + exp(-x));
}

void fm_lstm_init(struct fm_lstm *n, uint64_t seed)
{
	memset(n, 0, sizeof(*n));
	for (unsigned i = 0; i < FM_LSTM_WEIGHTS; i++) {
		double uniform = (double)(fm_random_next(&seed) >> 11) * 0x1p-53;
		n->weight[i] = (2 * uniform - 1) / sqrt(FM_LSTM_FAN_IN);
	}
	for (unsigned r = 0; r < FM_LSTM_GATES; r++)
		n->weight[r * FM_LSTM_FAN_IN + FM_LSTM_FAN_IN - 1] = r >= H && r < 2 * H ? 1 : 0;
	n->decay_mean = n->decay_square = 1;
}

static void forward(const struct fm_lstm *n, double (*input)[FM_LSTM_INPUTS], struct unrolled *u)
{
	double out[H] = { 0 };
	memset(u->cell[0], 0, sizeof(u->cell[0]));
	for (unsigned t = 0; t < T; t++) {
		memcpy(u->z[t], input[t], sizeof(input[t]));
		memcpy(u->z[t] + FM_LSTM_INPUTS, out, sizeof(out));
		u->z[t][FM_LSTM_FAN_IN - 1] = 1;
		for (unsigned r = 0; r < FM_LSTM_GATES; r++) {
			const double *w = n->weight + (size_t)r * FM_LSTM_FAN_IN;
			double sum = 0;
			for (unsigned k = 0; k < FM_LSTM_FAN_IN; k++)
				sum += w[k] * u->z[t][k];
			u->gate[t][r] = r < 3 * H ? sigmoid(sum) : tanh(sum);
		}
		for (unsigned k = 0; k < H; k++) {
			const double *g = u->gate[t];
			u->cell[t + 1][k] = g[H + k] * u->cell[t][k] + g[k] * g[3 * H + k];
			u->cell_tanh[t][k] = tanh(u->cell[t + 1][k]);
			out[k] = g[2 * H + k] * u->cell_tanh[t][k];
		}
	}
	memcpy(u->out, out, sizeof(out));
}

static const double *answer_row(const double *weight, unsigned a)
{
	return weight + (size_t)FM_LSTM_GATES * FM_LSTM_FAN_IN + (size_t)a * (H + 1);
}

static double answer_of(const struct fm_lstm *n, const double out[H], unsigned a)
{
	const double *v = answer_row(n->weight, a);
	double sum = v[H];
	for (unsigned k = 0; k < H; k++)
		sum += v[k] * out[k];
	return sum;
}

void fm_lstm_answer(const struct fm_lstm *n, double (*input)[FM_LSTM_INPUTS], double answer[FM_LSTM_ANSWERS])
{
	struct unrolled u;
	forward(n, input, &u);
	for (unsigned a = 0; a < FM_LSTM_ANSWERS; a++)
		answer[a] = answer_of(n, u.out, a);
}

/* One step back: d_out and d_cell are the loss's derivatives by this step's outputs and cells, and become those of the step before. */
static void backward_step(const struct fm_lstm *n, const struct unrolled *u, unsigned t, double d_out[H], double d_cell[H], double *grad)
{
	const double *g = u->gate[t];
	double d_gate[FM_LSTM_GATES], d_z[FM_LSTM_FAN_IN] = { 0 };
	for (unsigned k = 0; k < H; k++) {
		double d = d_cell[k] + d_out[k] * g[2 * H + k] * (1 - u->cell_tanh[t][k] * u->cell_tanh[t][k]);
		d_gate[k] = d * g[3 * H + k] * g[k] * (1 - g[k]);
		d_gate[H + k] = d * u->cell[t][k] * g[H + k] * (1 - g[H + k]);
		d_gate[2 * H + k] = d_out[k] * u->cell_tanh[t][k] * g[2 * H + k] * (1 - g[2 * H + k]);
		d_gate[3 * H + k] = d * g[k] * (1 - g[3 * H + k] * g[3 * H + k]);
		d_cell[k] = d * g[H + k];
	}
	for (unsigned r = 0; r < FM_LSTM_GATES; r++) {
		const double *w = n->weight + (size_t)r * FM_LSTM_FAN_IN;
		double *to = grad + (size_t)r * FM_LSTM_FAN_IN;
		for (unsigned k = 0; k < FM_LSTM_FAN_IN; k++) {
			to[k] += d_gate[r] * u->z[t][k];
			d_z[k] += d_gate[r] * w[k];
		}
	}
	memcpy(d_out, d_z + FM_LSTM_INPUTS, H * sizeof(d_out[0]));
}

double fm_lstm_gradient(const struct fm_lstm *n, double (*input)[FM_LSTM_INPUTS], const double wanted[FM_LSTM_ANSWERS], double *grad)
{
	struct unrolled u;
	double d_out[H] = { 0 }, d_cell[H] = { 0 }, loss = 0;
	forward(n, input, &u);
	for (unsigned a = 0; a < FM_LSTM_ANSWERS; a++) {
		const double *v = answer_row(n->weight, a);
		double *to = grad + (v - n->weight), e = answer_of(n, u.out, a) - wanted[a], root = sqrt(e * e + DELTA * DELTA),
		       d = e / root / FM_LSTM_ANSWERS;
		loss += (root - DELTA) / FM_LSTM_ANSWERS;
		for (unsigned k = 0; k < H; k++) {
			to[k] += d * u.out[k];
			d_out[k] += d * v[k];
		}
		to[H] += d;
	}
	for (unsigned t = T; t-- > 0;)
		backward_step(n, &u, t, d_out, d_cell, grad);
	return loss;
}

void fm_lstm_step(struct fm_lstm *n, const double *grad, double rate)
{
	double length = 0, shorten;
	for (unsigned i = 0; i < FM_LSTM_WEIGHTS; i++)
		length += grad[i] * grad[i];
	length = sqrt(length);
	if (!isfinite(length))
		return;
	shorten = length > 1 ? 1 / length : 1;
	n->decay_mean *= BETA_1;
	n->decay_square *= BETA_2;
	for (unsigned i = 0; i < FM_LSTM_WEIGHTS; i++) {
		double g = grad[i] * shorten;
		n->mean[i] = BETA_1 * n->mean[i] + (1 - BETA_1) * g;
		n->square[i] = BETA_2 * n->square[i] + (1 - BETA_2) * g * g;
		n->weight[i] -= rate * (n->mean[i] / (1 - n->decay_mean)) / (sqrt(n->square[i] / (1 - n->decay_square)) + 1e-8);
	}
}
