/* SPDX-License-Identifier: MIT */
/*
 * lstm.h - a small recurrent network: one layer of long short-term memory over a sequence, and a linear layer from its last output to the answers.
 *
 * Hochreiter and Schmidhuber 1997, with the forget gate of Gers and others 2000. For each step of the sequence, from inputs x and the last outputs h:
 *   i, f, o = sigmoid(W x + U h + b), g = tanh(W x + U h + b), c = f c + i g, h = o tanh(c);     answers = V h + d
 * The loss is the mean over the answers of sqrt(e^2 + delta^2) - delta: the absolute error, round at zero, so that the network aims at the median and has a gradient everywhere. Gradients by
 * back-propagation through the whole sequence; steps by Adam (Kingma and Ba 2015). Plain loops: for these sizes a call of a BLAS would cost more than it saves.
 * No allocation, no state but what is passed. The unit test compares all gradients with differences.
 */
#ifndef FM_DECISION_LSTM_H
#define FM_DECISION_LSTM_H

#include <stdint.h>

#define FM_LSTM_INPUTS  2u
#define FM_LSTM_HIDDEN  10u
#define FM_LSTM_ANSWERS 12u
#define FM_LSTM_STEPS   24u
#define FM_LSTM_GATES   (4u * FM_LSTM_HIDDEN)                  /* rows: i, f, o, g */
#define FM_LSTM_FAN_IN  (FM_LSTM_INPUTS + FM_LSTM_HIDDEN + 1u) /* columns: inputs, last outputs, 1 */
#define FM_LSTM_WEIGHTS (FM_LSTM_GATES * FM_LSTM_FAN_IN + FM_LSTM_ANSWERS * (FM_LSTM_HIDDEN + 1u))

struct fm_lstm {
	double weight[FM_LSTM_WEIGHTS];                        /* gates, row by row, then the answers' */
	double mean[FM_LSTM_WEIGHTS], square[FM_LSTM_WEIGHTS]; /* Adam's moments of the gradient */
	double decay_mean, decay_square;                       /* 0.9 and 0.999 to the number of steps */
};

/* Small random weights by the seed; forget gates begin open. */
void fm_lstm_init(struct fm_lstm *n, uint64_t seed);
void fm_lstm_answer(const struct fm_lstm *n, double (*input)[FM_LSTM_INPUTS], double answer[FM_LSTM_ANSWERS]);
/* The loss, and its gradient added to grad[FM_LSTM_WEIGHTS]. */
double fm_lstm_gradient(const struct fm_lstm *n, double (*input)[FM_LSTM_INPUTS], const double wanted[FM_LSTM_ANSWERS], double *grad);
/* One step of Adam against a gradient, which is shortened to length 1 first. A gradient that is no number changes nothing. */
void fm_lstm_step(struct fm_lstm *n, const double *grad, double rate);

#endif
