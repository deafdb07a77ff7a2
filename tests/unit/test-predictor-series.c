/* SPDX-License-Identifier: MIT */
/* test-predictor-series.c - the remembered past: medians, distances at lags and the nearest of them against what is computed the long way, periods, moving to the front. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above */
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "decision/predictor-internal.h"

#define SHARE_2 0.05 /* of the third rate, 0.95 */

static double uniform(uint64_t *random)
{
	return (double)(fm_random_next(random) >> 11) * 0x1p-53;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static void test_median(void **state)
{
	uint64_t random = 1;
	for (unsigned round = 0; round < 3000; round++) {
		double v[97], sorted[97], median;
		unsigned n = 1 + round % 97;
		for (unsigned i = 0; i < n; i++)
			v[i] = sorted[i] = round % 3 ? uniform(&random) : floor(4 * uniform(&random)); /* ties, too */
		qsort(sorted, n, sizeof(sorted[0]), ascending);
		median = n % 2 ? sorted[n / 2] : sorted[n / 2 - 1] + (sorted[n / 2] - sorted[n / 2 - 1]) / 2;
		assert_true(fm_median(v, n) == median);
	}
}

static struct fm_past *walk(unsigned steps, uint64_t seed, double **ret_all)
{
	struct fm_past *s = calloc(1, sizeof(*s));
	double y = 50, *all = calloc(steps, sizeof(*all));
	assert_non_null(s);
	assert_non_null(all);
	fm_past_init(s, 300000, FM_PREDICTOR_CHEAP);
	for (unsigned i = 0; i < steps; i++) {
		all[i] = y += uniform(&seed) - 0.5;
		fm_past_add(s, y, false);
	}
	*ret_all = all;
	return s;
}

/* As long as there are fewer differences than the exponential mean looks back it is the plain one. */
static void test_distances(void **state)
{
	double *all;
	struct fm_past *s = walk(21, 2, &all);
	for (unsigned lag = 1; lag <= 20; lag++) {
		double sum = 0;
		for (unsigned i = lag; i < 21; i++)
			sum += fabs(all[i] - all[i - lag]);
		assert_true(fabs((double)s->distance[2][lag - 1] - sum / (21 - lag)) < 1e-5);
	}
	free(all);
	free(s);

	/* later, and after the memory has been moved, it is the exponential one */
	s = walk(3000, 3, &all);
	for (unsigned lag = 1; lag <= 900; lag += 101) {
		double mean = 0;
		for (unsigned i = lag; i < 3000; i++)
			mean += (i == lag ? 1 : SHARE_2) * (fabs(all[i] - all[i - lag]) - mean);
		assert_true(fabs((double)s->distance[2][lag - 1] - mean) < 1e-3 * mean); /* the beginning is forgotten */
	}
	free(all);
	free(s);
}

/* The nearest lags are the nearest of all, nearest first, at every moment. */
static void test_nearest(void **state)
{
	struct fm_past *s = calloc(1, sizeof(*s));
	uint64_t random = 4;
	assert_non_null(s);
	fm_past_init(s, 300000, FM_PREDICTOR_ANALOG);
	for (unsigned i = 0; i < 2700; i++) {
		fm_past_add(s, i % 50 < 3 ? 90 + uniform(&random) : floor(3 * uniform(&random)), false);
		if (i % 37 && i > 60)
			continue;
		for (unsigned r = 0; r < FM_LAG_RATES; r++) {
			bool is_nearest[FM_LAGS] = { 0 };
			float farthest = 0;
			for (unsigned k = 0; k < s->n_nearest[r]; k++) {
				float d = s->distance[r][s->nearest[r][k] - 1];
				assert_true(d >= farthest && s->nearest[r][k] < s->n && !is_nearest[s->nearest[r][k] - 1]);
				is_nearest[s->nearest[r][k] - 1] = true;
				farthest = d;
			}
			/* enough differences for a lag: those of lag_least in predictor-series.c */
			unsigned least = r == 0 ? 3 : r == 1 ? 6 : 10, known = i + 1 > least ? i + 1 - least : 0;
			known = known < FM_LAGS ? known : FM_LAGS;
			assert_int_equal(s->n_nearest[r], known < FM_LAGS_NEAREST ? known : FM_LAGS_NEAREST);
			for (unsigned k = 0; k < known; k++)
				assert_true(is_nearest[k] || s->distance[r][k] >= farthest);
		}
	}
	free(s);
}

static void test_period(void **state)
{
	static const unsigned periods[] = { 2, 7, 54, 288, 700 };
	for (unsigned k = 0; k < FM_ARRAY_SIZE(periods); k++) {
		struct fm_past *s = calloc(1, sizeof(*s));
		uint64_t random = 1;
		assert_non_null(s);
		fm_past_init(s, 300000, FM_PREDICTOR_SEASONAL);
		assert_int_equal(fm_past_period(s), 0);
		for (unsigned i = 0; i < 3 * periods[k] + 40; i++)
			fm_past_add(s, (i % periods[k] ? 1 : 20) + 5 * sin(2 * M_PI * i / periods[k]) + 0.01 * uniform(&random), false);
		assert_int_equal(fm_past_period(s) % periods[k], 0);
		assert_int_not_equal(fm_past_period(s), 0);
		free(s);
	}
}

/* The past is in order and complete before and after it is moved to the front; what nobody asked for is not computed. */
static void test_memory(void **state)
{
	double *all, center, scale;
	struct fm_past *s = walk(FM_SERIES_ROOM + 1, 5, &all);
	assert_int_equal(s->n, FM_SERIES_PAST + 1);
	assert_int_equal(s->count, FM_SERIES_ROOM + 1);
	for (unsigned back = 0; back < s->n; back++)
		assert_true(fm_past_at(s, back) == all[FM_SERIES_ROOM - back]);
	assert_true(fm_past_at(s, 1000000) == all[FM_SERIES_ROOM - FM_SERIES_PAST]);
	fm_past_norm(s, 0, &center, &scale);
	assert_true(center == s->center[s->count % FM_RECENT] && scale == s->scale[s->count % FM_RECENT] && scale > 0);
	free(all);

	fm_past_init(s, 7000000, FM_PREDICTOR_LAST);
	assert_int_equal(s->n_day, 0); /* no whole number of steps is a day */
	for (unsigned i = 0; i < 100; i++)
		fm_past_add(s, i, false);
	assert_int_equal(s->n_nearest[0], 0);
	free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_median), cmocka_unit_test(test_distances), cmocka_unit_test(test_nearest),
		cmocka_unit_test(test_period), cmocka_unit_test(test_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
