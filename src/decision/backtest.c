/* SPDX-License-Identifier: MIT */
/* backtest.c - how well a recorded series would have been predicted; see trace.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "decision/predictor-internal.h"
#include "decision/trace.h"

#define TRAIN_PERCENT 70u

/* What was said after the newest steps, by step; a ring that one turn of the longest horizon fits in. */
struct said {
	int64_t step; /* from the first point; -1: nothing yet */
	double last;
	struct fm_forecast forecast[FM_HORIZONS];
};
struct run {
	struct fm_predictor *p;
	struct said said[FM_RECENT];
	struct fm_backtest_horizon *horizon;
	uint32_t step_ms;
	int64_t origin_ms, newest;
};

static void score(struct run *r, int64_t step, double value)
{
	for (unsigned h = 1; h <= FM_HORIZONS && h <= step; h++) {
		const struct said *then = &r->said[(step - h) % FM_RECENT];
		struct fm_backtest_horizon *z = &r->horizon[h - 1];
		if (then->step != step - (int64_t)h)
			continue;
		z->scored++;
		z->mae += fabs(value - then->forecast[h - 1].value);
		z->last_mae += fabs(value - then->last);
		z->coverage += then->forecast[h - 1].low <= value && value <= then->forecast[h - 1].high;
	}
}

static int take_point(struct run *r, const struct fm_trace_point *point, bool scored, struct fm_error *err)
{
	int64_t from = point->unix_ms - r->origin_ms + r->step_ms / 2, step = from < 0 ? -1 : from / r->step_ms;
	struct said *now;
	/* duplicates and late ones are the predictor's to count and to ignore; neither is scored */
	if (step > r->newest && scored)
		score(r, step, point->value);
	if (fm_predictor_observe(r->p, point->unix_ms, point->value, err) < 0)
		return -1;
	if (step <= r->newest)
		return 0;
	r->newest = step;
	now = &r->said[step % FM_RECENT];
	now->step = step;
	now->last = point->value;
	for (unsigned h = 1; h <= FM_HORIZONS; h++)
		if (fm_predictor_forecast(r->p, h, &now->forecast[h - 1], err) < 0)
			return -1;
	return 0;
}

static void finish(struct fm_backtest_horizon *z)
{
	double n = z->scored ? (double)z->scored : 1;
	z->mae /= n;
	z->last_mae /= n;
	z->coverage /= n;
	z->ratio = z->last_mae > 0 ? z->mae / z->last_mae : z->mae > 0 ? INFINITY : 1;
}

int fm_backtest_run(const struct fm_trace *t, const struct fm_predictor_options *o, struct fm_backtest *ret, struct fm_error *err)
{
	_fm_cleanup_(fm_predictor_freep) struct fm_predictor *p = NULL;
	struct fm_predictor_options options = *o;
	struct fm_backtest b = { 0 };
	struct run r = { .horizon = b.horizon, .origin_ms = t->point[0].unix_ms, .newest = -1 };
	if (options.step_ms == 0)
		options.step_ms = t->step_ms;
	if (fm_predictor_new(&options, &p, err) < 0)
		return -1;
	r.p = p;
	r.step_ms = options.step_ms;
	for (unsigned i = 0; i < FM_RECENT; i++)
		r.said[i].step = -1;
	for (size_t i = 0; i < t->n; i++)
		if (take_point(&r, &t->point[i], i >= t->n * TRAIN_PERCENT / 100, err) < 0)
			return fm_error_prefix(err, "point %zu", i + 1);
	for (unsigned h = 0; h < FM_HORIZONS; h++)
		finish(&b.horizon[h]);
	fm_predictor_stats(p, &b.stats);
	b.predictor = FM_TAKE_PTR(p);
	*ret = b;
	return 0;
}

void fm_backtest_done(struct fm_backtest *b)
{
	fm_predictor_free(b->predictor);
	*b = (struct fm_backtest){ 0 };
}
