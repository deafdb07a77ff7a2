/* SPDX-License-Identifier: MIT */
/*
 * member-forest.c - a random forest (Breiman 2001), by XGBoost's C library: one round of 40 trees grown in parallel on samples of rows and of columns, leaves set to the median of what falls into them.
 *
 * A forest cannot say what it has not seen, and levels of these series shift: inputs and answers are relative to center and scale of the step they belong to, and it is grown anew from the newest 800 steps
 * after every 144 observations. There is one for 1, 3, 6 and 12 steps; horizons between are interpolated. One thread, and its seed is the predictor's: same series, same forest.
 *
 * Trees are not saved. What they were grown from is in the series' memory, so they are grown again when they are first needed after loading. After a gap so long that it is not there any more
 * (STALE_STEPS), the forest says the last value until it is grown again. Failures of the library (memory) have the same effect.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xgboost/c_api.h>

#include "decision/predictor-internal.h"

#define FORESTS     4u
#define ROWS        800u
#define ROWS_LEAST  150u
#define RECENT      12u /* newest values that are inputs */
#define COLUMNS     (RECENT + 4u)
#define EVERY_STEPS 144u
#define STALE_STEPS 300u
#define ANSWER_MOST 20.0
#define REACH       48u /* of the inputs into the past, in steps */

static const unsigned forest_horizon[FORESTS] = { 1, 3, 6, 12 };
static const unsigned further[COLUMNS - RECENT - 1] = { 17, 23, 47 };

struct forest {
	uint64_t seed, grown_at;        /* grown_at: the series' count then; 0: not yet */
	BoosterHandle booster[FORESTS]; /* not saved */
};

static void inputs_at(const struct fm_series *s, uint32_t back, float *x, double *ret_center, double *ret_scale)
{
	unsigned n = 0;
	fm_series_norm(s, back, ret_center, ret_scale);
	for (unsigned i = 0; i < RECENT; i++)
		x[n++] = (float)((fm_series_at(s, back + i) - *ret_center) / *ret_scale);
	for (unsigned i = 0; i < FM_ARRAY_SIZE(further); i++)
		x[n++] = (float)((fm_series_at(s, back + further[i]) - *ret_center) / *ret_scale);
	x[n] = s->n_day ? (float)((s->count - back) % s->n_day) : 0;
}

static void forget(struct forest *f)
{
	for (unsigned i = 0; i < FORESTS; i++) {
		if (f->booster[i])
			(void)XGBoosterFree(f->booster[i]);
		f->booster[i] = NULL;
	}
}

static int set_parameters(BoosterHandle b, uint64_t seed)
{
	char number[24];
	const char *const pairs[][2] = {
		{ "verbosity", "0" },
		{ "nthread", "1" },
		{ "tree_method", "hist" },
		{ "max_bin", "64" },
		{ "objective", "reg:absoluteerror" },
		{ "num_parallel_tree", "40" },
		{ "max_depth", "6" },
		{ "learning_rate", "1" },
		{ "subsample", "0.7" },
		{ "colsample_bynode", "0.5" },
		{ "min_child_weight", "5" },
		{ "lambda", "0" },
		{ "seed", number },
	};
	(void)snprintf(number, sizeof(number), "%u", (unsigned)(seed & 0x7fffffff));
	for (unsigned i = 0; i < FM_ARRAY_SIZE(pairs); i++)
		if (XGBoosterSetParam(b, pairs[i][0], pairs[i][1]) != 0)
			return -1;
	return 0;
}

/* One forest from rows; NULL when it cannot be. */
static BoosterHandle grow_one(const float *x, const float *answers, unsigned rows, uint64_t seed)
{
	DMatrixHandle matrix = NULL;
	BoosterHandle b = NULL;
	bool good = XGDMatrixCreateFromMat_omp(x, rows, COLUMNS, NAN, &matrix, 1) == 0 &&
	            XGDMatrixSetFloatInfo(matrix, "label", answers, rows) == 0 && XGBoosterCreate(&matrix, 1, &b) == 0 &&
	            set_parameters(b, seed) == 0 && XGBoosterUpdateOneIter(b, 0, matrix) == 0;
	if (!good && b) {
		(void)XGBoosterFree(b);
		b = NULL;
	}
	if (matrix)
		(void)XGDMatrixFree(matrix);
	return b;
}

/* From the steps up to `back` ago, as if the series had ended there. */
static void grow(struct forest *f, const struct fm_series *s, uint32_t back)
{
	uint32_t first = back + FM_HORIZONS, rows = s->n > first + REACH ? s->n - first - REACH : 0;
	_fm_free_ float *x = NULL, *answers = NULL;
	forget(f);
	rows = rows < ROWS ? rows : ROWS;
	if (rows < ROWS_LEAST)
		return;
	x = malloc(rows * COLUMNS * sizeof(*x));
	answers = malloc(FORESTS * rows * sizeof(*answers));
	if (!x || !answers)
		return;
	for (uint32_t r = 0; r < rows; r++) {
		double center, scale;
		inputs_at(s, first + r, x + (size_t)r * COLUMNS, &center, &scale);
		for (unsigned i = 0; i < FORESTS; i++) {
			double y = (fm_series_at(s, first + r - forest_horizon[i]) - center) / scale;
			answers[(size_t)i * rows + r] = (float)fmin(fmax(y, -ANSWER_MOST), ANSWER_MOST);
		}
	}
	for (unsigned i = 0; i < FORESTS; i++)
		f->booster[i] = grow_one(x, answers + (size_t)i * rows, rows, f->seed + i);
}

static void forest_init(void *state, uint64_t seed)
{
	((struct forest *)state)->seed = seed;
}

static void forest_done(void *state)
{
	if (state)
		forget(state);
}

static void forest_observe(void *state, const struct fm_series *s)
{
	struct forest *f = state;
	if (s->count - f->grown_at > STALE_STEPS)
		forget(f);
	if (s->missing || s->count - f->grown_at < EVERY_STEPS || s->n < ROWS_LEAST + FM_HORIZONS + REACH)
		return;
	grow(f, s, 0);
	f->grown_at = s->count;
}

static bool forest_wake(void *state, const struct fm_series *s)
{
	struct forest *f = state;
	if (f->grown_at > s->count)
		return false;
	if (f->grown_at > 0 && s->count - f->grown_at <= STALE_STEPS)
		grow(f, s, (uint32_t)(s->count - f->grown_at));
	return true;
}

static int ask(BoosterHandle b, const float *x, double *ret)
{
	char where[128];
	const bst_ulong *shape;
	bst_ulong dim;
	const float *result;
	if (!b)
		return -1;
	(void)snprintf(where, sizeof(where), "{\"data\":[%llu,true],\"shape\":[1,%u],\"typestr\":\"<f4\",\"version\":3}",
	               (unsigned long long)(uintptr_t)x, COLUMNS);
	if (XGBoosterPredictFromDense(b, where,
	                              "{\"type\":0,\"iteration_begin\":0,\"iteration_end\":0,\"strict_shape\":false,\"missing\":NaN}", NULL,
	                              &shape, &dim, &result) != 0)
		return -1;
	*ret = (double)result[0];
	return 0;
}

static void forest_forecast(const void *state, const struct fm_series *s, double (*out)[FM_HORIZONS])
{
	const struct forest *f = state;
	float x[COLUMNS];
	double center, scale, answer[FORESTS];
	bool can = true;
	inputs_at(s, 0, x, &center, &scale);
	for (unsigned i = 0; i < FORESTS && can; i++)
		can = ask(f->booster[i], x, &answer[i]) == 0;
	for (unsigned h = 1, i = 0; h <= FM_HORIZONS; h++) {
		double part;
		if (!can) {
			out[0][h - 1] = fm_series_at(s, 0);
			continue;
		}
		while (i + 2 < FORESTS && h > forest_horizon[i + 1])
			i++;
		part = (double)(h - forest_horizon[i]) / (forest_horizon[i + 1] - forest_horizon[i]);
		out[0][h - 1] = center + scale * (answer[i] + part * (answer[i + 1] - answer[i]));
	}
}

const struct fm_family fm_family_forest = {
	.kind = FM_PREDICTOR_FOREST,
	.n = 1,
	.names = { "forest" },
	.state_bytes = sizeof(struct forest),
	.saved_bytes = offsetof(struct forest, booster),
	.init = forest_init,
	.observe = forest_observe,
	.forecast = forest_forecast,
	.wake = forest_wake,
	.done = forest_done,
};
