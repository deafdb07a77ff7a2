/* SPDX-License-Identifier: MIT */
/* test-lstm.c - the network's gradient against differences, and that training finds what a memory is needed for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above */
#include <cmocka.h>

#include <math.h>
#include <stdio.h>

#include "decision/lstm.h"
#include "decision/predictor-internal.h"

static double uniform(uint64_t *random)
{
	return (double)(fm_random_next(random) >> 11) * 0x1p-52 - 1;
}

static void sample(uint64_t *random, double input[FM_LSTM_STEPS][FM_LSTM_INPUTS], double wanted[FM_LSTM_ANSWERS])
{
	for (unsigned t = 0; t < FM_LSTM_STEPS; t++)
		for (unsigned k = 0; k < FM_LSTM_INPUTS; k++)
			input[t][k] = 2 * uniform(random);
	for (unsigned a = 0; a < FM_LSTM_ANSWERS; a++)
		wanted[a] = 2 * uniform(random);
}

/* Every weight: the central difference of the loss is the gradient, to the precision of differences. */
static void test_gradient(void **state)
{
	uint64_t random = 5;
	for (unsigned round = 0; round < 3; round++) {
		struct fm_lstm n;
		double input[FM_LSTM_STEPS][FM_LSTM_INPUTS], wanted[FM_LSTM_ANSWERS], grad[FM_LSTM_WEIGHTS] = { 0 },
		                                                                      none[FM_LSTM_WEIGHTS] = { 0 }, largest = 0;
		fm_lstm_init(&n, round);
		sample(&random, input, wanted);
		assert_true(fm_lstm_gradient(&n, input, wanted, grad) > 0);
		for (unsigned i = 0; i < FM_LSTM_WEIGHTS; i++) {
			const double step = 1e-5, w = n.weight[i];
			double up, down, by_difference;
			n.weight[i] = w + step;
			up = fm_lstm_gradient(&n, input, wanted, none);
			n.weight[i] = w - step;
			down = fm_lstm_gradient(&n, input, wanted, none);
			n.weight[i] = w;
			by_difference = (up - down) / (2 * step);
			if (fabs(by_difference - grad[i]) > 1e-8 + 1e-5 * fabs(grad[i]))
				fail_msg("weight %u: %.10g, by differences %.10g", i, grad[i], by_difference);
			largest = fmax(largest, fabs(grad[i]));
		}
		assert_true(largest > 1e-3); /* not all zero */
	}
}

/* The sign of the first input 23 steps ago decides: no feed-forward from recent values can know. */
static void test_remembers(void **state)
{
	static struct fm_lstm n;
	uint64_t random = 1;
	double first = 0, last = 0;

	fm_lstm_init(&n, 1);
	for (unsigned i = 0; i < 4000; i++) {
		double input[FM_LSTM_STEPS][FM_LSTM_INPUTS], wanted[FM_LSTM_ANSWERS], grad[FM_LSTM_WEIGHTS] = { 0 }, loss;
		sample(&random, input, wanted);
		for (unsigned t = 1; t < FM_LSTM_STEPS; t++)
			input[t][0] = input[t][1] = 0;
		for (unsigned a = 0; a < FM_LSTM_ANSWERS; a++)
			wanted[a] = input[0][0] > 0 ? 1 : -1;
		loss = fm_lstm_gradient(&n, input, wanted, grad);
		first += i < 100 ? loss : 0;
		last += i >= 3900 ? loss : 0;
		fm_lstm_step(&n, grad, 0.01);
	}
	print_message("loss %.3f at first, %.3f at last\n", first / 100, last / 100);
	assert_true(first / 100 > 0.5);
	assert_true(last / 100 < 0.25);
}

static void test_refuses_no_numbers(void **state)
{
	struct fm_lstm n, before;
	double grad[FM_LSTM_WEIGHTS] = { 0 };
	fm_lstm_init(&n, 1);
	before = n;
	grad[7] = NAN;
	fm_lstm_step(&n, grad, 0.01);
	assert_memory_equal(&n, &before, sizeof(n));
	grad[7] = 1;
	fm_lstm_step(&n, grad, 0.01);
	assert_memory_not_equal(&n, &before, sizeof(n));
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_gradient), cmocka_unit_test(test_remembers),
		                            cmocka_unit_test(test_refuses_no_numbers) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
