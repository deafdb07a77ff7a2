/* SPDX-License-Identifier: MIT */
/* test-ring.c - means over steps: what is added, what is missing, what is too old, what a leap of the clock does. */
#include "check.h"

#include <math.h>
#include <stdlib.h>

#include "monitor/ring.h"

static void test_means(void **state)
{
	float v[4];
	struct fm_ring r;

	fm_ring_init(&r, 1000, v, 4);
	assert_true(isnan(fm_ring_at(&r, 5)) && isnan(fm_ring_mean(&r, 0)));
	fm_ring_add(&r, 5000, 1);
	fm_ring_add(&r, 5999, 3);
	fm_ring_add(&r, 5500, NAN);
	assert_true(fm_ring_at(&r, 5) == 2);
	fm_ring_add(&r, 6000, 8);
	assert_true(fm_ring_at(&r, 5) == 2 && fm_ring_at(&r, 6) == 8);
	assert_true(fm_ring_mean(&r, 0) == 5 && fm_ring_mean(&r, 6000) == 8);
	assert_true(isnan(fm_ring_mean(&r, 7000)));
	fm_ring_add(&r, 9000, 4); /* 7 and 8 are not known, 5 is not kept any more */
	assert_true(isnan(fm_ring_at(&r, 5)) && fm_ring_at(&r, 6) == 8 && isnan(fm_ring_at(&r, 7)) && isnan(fm_ring_at(&r, 8)) &&
	            fm_ring_at(&r, 9) == 4);
	assert_true(isnan(fm_ring_at(&r, 10)));
}

static void test_late_and_leaps(void **state)
{
	float v[4];
	struct fm_ring r;

	fm_ring_init(&r, 1000, v, 4);
	fm_ring_add(&r, 9000, 1);
	fm_ring_add(&r, 7000, 2); /* late, but kept */
	assert_true(fm_ring_at(&r, 7) == 2);
	fm_ring_add(&r, 7500, 6); /* a step that is over has its value */
	assert_true(fm_ring_at(&r, 7) == 2);
	fm_ring_add(&r, 5000, 9); /* too late */
	assert_true(isnan(fm_ring_at(&r, 5)) && fm_ring_at(&r, 9) == 1);
	fm_ring_add(&r, 1000000000, 3); /* years later */
	for (uint64_t s = 0; s < 20; s++)
		assert_true(isnan(fm_ring_at(&r, s)));
	assert_true(fm_ring_at(&r, 1000000) == 3 && isnan(fm_ring_at(&r, 999999)));
	fm_ring_add(&r, 2000, 7); /* the clock was set back: the past is the past */
	assert_true(fm_ring_mean(&r, 0) == 3);
}

static void test_put(void **state)
{
	float v[4];
	struct fm_ring r;

	fm_ring_init(&r, 1000, v, 4);
	fm_ring_put(&r, 5, 10);
	fm_ring_put(&r, 4, 20);
	fm_ring_put(&r, 3, NAN);
	fm_ring_put(&r, 1, 5);
	fm_ring_add(&r, 5100, 30); /* goes on with the step that was kept */
	assert_true(fm_ring_at(&r, 5) == 20 && fm_ring_at(&r, 4) == 20 && isnan(fm_ring_at(&r, 3)) && isnan(fm_ring_at(&r, 1)));
}

/* Against the plain way, with values in a random order of steps that does not go back further than is kept. */
static void test_against_plain(void **state)
{
	enum { N = 16, STEPS = 500 };
	float v[N];
	double sum[STEPS + 1] = { 0 };
	unsigned count[STEPS + 1] = { 0 };
	struct fm_ring r;

	srandom(7);
	fm_ring_init(&r, 10, v, N);
	for (uint64_t step = 1; step <= STEPS; step += 1 + (uint64_t)random() % 3)
		for (long k = random() % 4; k > 0; k--) {
			double x = (double)(random() % 1000);
			fm_ring_add(&r, step * 10 + (uint64_t)random() % 10, x);
			sum[step] += x;
			count[step]++;
		}
	for (uint64_t step = r.newest - N + 1; step <= r.newest; step++) {
		if (count[step])
			assert_true(fabs((double)fm_ring_at(&r, step) - sum[step] / count[step]) < 0.01);
		else
			assert_true(isnan(fm_ring_at(&r, step)));
	}
}

static void test_series(void **state)
{
	struct fm_series s, copy;

	fm_series_init(&s);
	for (uint64_t t = 1; t <= 3600; t++)
		fm_series_add(&s, 600000000000 + t * 1000, t <= 1800 ? 1 : 3);
	fm_series_copy(&copy, &s);
	fm_series_init(&s);
	assert_true(fm_ring_mean(&copy.recent, 600000000000 + 3540000) == 3);
	assert_true(fm_ring_at(&copy.fives, 2000000) == 1 && fm_ring_at(&copy.fives, 2000011) == 3);
	assert_true(fm_ring_at(&copy.minutes, 10000000 + 10) == 1);
	assert_true(isnan(fm_ring_mean(&s.fives, 0)));
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_means), cmocka_unit_test(test_late_and_leaps), cmocka_unit_test(test_put),
		                            cmocka_unit_test(test_against_plain), cmocka_unit_test(test_series) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
