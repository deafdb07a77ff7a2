/* SPDX-License-Identifier: MIT */
/* predictor.c - one predictor: puts stamps on a grid, feeds series, members, weights and intervals, in this order. */
#include "decision/predictor.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "decision/predictor-internal.h"

#define STEP_MS_MIN 1000u
#define STEP_MS_MAX 86400000u

static const struct {
	const char *name;
	uint32_t kinds;
} kind_names[] = {
	{ "last", FM_PREDICTOR_LAST },
	{ "smoothing", FM_PREDICTOR_SMOOTHING },
	{ "window", FM_PREDICTOR_WINDOW },
	{ "seasonal", FM_PREDICTOR_SEASONAL },
	{ "autoregressive", FM_PREDICTOR_AUTOREGRESSIVE },
	{ "analog", FM_PREDICTOR_ANALOG },
	{ "forest", FM_PREDICTOR_FOREST },
	{ "lstm", FM_PREDICTOR_LSTM },
	{ "cheap", FM_PREDICTOR_CHEAP },
	{ "all", FM_PREDICTOR_ALL },
};

const struct fm_family *fm_family_at(unsigned index)
{
	static const struct fm_family *const all[FM_FAMILIES] = { &fm_family_last,           &fm_family_smoothing,
		                                                  &fm_family_window,         &fm_family_seasonal,
		                                                  &fm_family_autoregressive, &fm_family_analog,
		                                                  &fm_family_forest,         &fm_family_lstm };
	return all[index];
}

const char *fm_predictor_kind_to_string(enum fm_predictor_kind kind)
{
	for (unsigned i = 0; i < FM_FAMILIES; i++)
		if (kind_names[i].kinds == (uint32_t)kind)
			return kind_names[i].name;
	return "unknown";
}

int fm_predictor_kinds_from_string(const char *names, uint32_t *ret, struct fm_error *err)
{
	uint32_t kinds = 0;
	for (const char *at = names;; at++) {
		size_t n = strcspn(at, ",");
		unsigned i = 0;
		while (i < FM_ARRAY_SIZE(kind_names) && (strlen(kind_names[i].name) != n || strncmp(kind_names[i].name, at, n) != 0))
			i++;
		if (i == FM_ARRAY_SIZE(kind_names))
			return fm_error_set(err, FM_E_INVALID_ARGUMENT,
			                    "'%.*s' is no kind of predictor; there are last, smoothing, window, seasonal, autoregressive, "
			                    "analog, forest, lstm, cheap, all",
			                    n > 40 ? 40 : (int)n, at);
		kinds |= kind_names[i].kinds;
		at += n;
		if (!*at)
			break;
	}
	*ret = kinds;
	return 0;
}

/* ---------------------------------------------------------------- making one */

int fm_predictor_options_check(const struct fm_predictor_options *o, struct fm_error *err)
{
	if (o->step_ms < STEP_MS_MIN || o->step_ms > STEP_MS_MAX)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "steps of %u ms: 1 s to 1 day is possible", o->step_ms);
	if (o->members & ~(uint32_t)FM_PREDICTOR_ALL)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "kinds of predictors %#x: not known",
		                    o->members & ~(uint32_t)FM_PREDICTOR_ALL);
	if (o->bounded && !(fabs(o->min) <= FM_PREDICTOR_VALUE_MOST && fabs(o->max) <= FM_PREDICTOR_VALUE_MOST && o->min <= o->max))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "bounds %g to %g of a series", o->min, o->max);
	return 0;
}

void fm_predictor_begin(struct fm_predictor *p)
{
	struct fm_predictor_core *c = &p->core;
	fm_past_init(&c->series, c->options.step_ms, c->options.members);
	memset(&c->mix, 0, sizeof(c->mix));
	for (unsigned h = 0; h < FM_HORIZONS; h++)
		fm_interval_init(&c->interval[h]);
	for (unsigned i = 0; i < p->n_families; i++) {
		c->mix.n += p->family[i]->n;
		if (p->state[i])
			memset(p->state[i], 0, p->family[i]->state_bytes);
		if (p->family[i]->init)
			p->family[i]->init(p->state[i], c->options.seed + i);
	}
}

int fm_predictor_allocate(const struct fm_predictor_options *o, struct fm_predictor **ret, struct fm_error *err)
{
	_fm_cleanup_(fm_predictor_freep) struct fm_predictor *p = calloc(1, sizeof(*p));
	if (!p)
		return fm_error_errno(err, ENOMEM, "cannot make a predictor");
	/* field by field: what lies between them is saved, too, and stays zero */
	p->core.options.step_ms = o->step_ms;
	p->core.options.members = o->members;
	p->core.options.seed = o->seed;
	p->core.options.bounded = o->bounded;
	p->core.options.min = o->min;
	p->core.options.max = o->max;
	p->core.stats.memory_bytes = sizeof(*p);
	for (unsigned i = 0; i < FM_FAMILIES; i++) {
		const struct fm_family *f = fm_family_at(i);
		if (!(o->members & f->kind))
			continue;
		p->state[p->n_families] = f->state_bytes ? calloc(1, f->state_bytes) : NULL;
		if (f->state_bytes && !p->state[p->n_families])
			return fm_error_errno(err, ENOMEM, "cannot make a predictor");
		p->family[p->n_families++] = f;
		p->core.stats.memory_bytes += f->state_bytes;
	}
	*ret = FM_TAKE_PTR(p);
	return 0;
}

int fm_predictor_new(const struct fm_predictor_options *o, struct fm_predictor **ret, struct fm_error *err)
{
	struct fm_predictor_options full = *o;
	if (full.step_ms == 0)
		full.step_ms = FM_PREDICTOR_STEP_MS;
	if (full.members == 0)
		full.members = FM_PREDICTOR_CHEAP;
	full.members |= FM_PREDICTOR_LAST;
	if (fm_predictor_options_check(&full, err) < 0 || fm_predictor_allocate(&full, ret, err) < 0)
		return -1;
	fm_predictor_begin(*ret);
	return 0;
}

void fm_predictor_free(struct fm_predictor *p)
{
	for (unsigned i = 0; p && i < p->n_families; i++)
		free(p->state[i]);
	free(p);
}

/* ---------------------------------------------------------------- observing */

static double bound(const struct fm_predictor_options *o, double x)
{
	return o->bounded ? fmin(fmax(x, o->min), o->max) : x;
}

/* All forecasts from the series as it is now. */
static void forecast_all(struct fm_predictor *p)
{
	struct fm_predictor_core *c = &p->core;
	double members[FM_PREDICTOR_MAX_MEMBERS][FM_HORIZONS], mixed[FM_HORIZONS];
	unsigned row = 0;
	for (unsigned i = 0; i < p->n_families; i++) {
		p->family[i]->forecast(p->state[i], &c->series, members + row);
		row += p->family[i]->n;
	}
	fm_mix_forecast(&c->mix, c->series.count, fm_past_at(&c->series, 0), members, mixed);
	for (unsigned h = 0; h < FM_HORIZONS; h++) {
		struct fm_forecast *f = &c->forecast[h];
		f->value = bound(&c->options, mixed[h]);
		fm_interval_ends(&c->interval[h], c->series.count, f->value, c->series.scale[c->series.count % FM_RECENT], &f->low,
		                 &f->high);
		f->low = fmin(bound(&c->options, f->low), f->value);
		f->high = fmax(bound(&c->options, f->high), f->value);
	}
}

static void take(struct fm_predictor *p, double value, bool missing)
{
	struct fm_predictor_core *c = &p->core;
	uint64_t step = c->series.count + 1; /* as the series will count it */
	if (!missing && c->series.count > 0) {
		/* forecasts made at steps 1 to count */
		fm_mix_score(&c->mix, step, value);
		for (unsigned h = 1; h <= FM_HORIZONS && h < step; h++)
			fm_interval_score(&c->interval[h - 1], step, h, value);
	}
	fm_past_add(&c->series, value, missing);
	for (unsigned i = 0; i < p->n_families; i++)
		p->family[i]->observe(p->state[i], &c->series);
	forecast_all(p);
}

int fm_predictor_observe(struct fm_predictor *p, int64_t unix_ms, double value, struct fm_error *err)
{
	struct fm_predictor_core *c = &p->core;
	int64_t step_ms = c->options.step_ms, step = 0;
	if (!(fabs(value) <= FM_PREDICTOR_VALUE_MOST))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%g is no value to predict from", value);
	if (unix_ms < 0 || unix_ms > FM_PREDICTOR_STAMP_MOST)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%lld ms is no stamp between 1970 and 9999", (long long)unix_ms);
	if (c->series.count > 0) {
		/* to the nearest step; a little before the first one is still the first */
		int64_t from = unix_ms - c->origin_ms + step_ms / 2;
		step = from < 0 ? -1 : from / step_ms;
		if (step == c->newest)
			c->stats.duplicates++;
		else if (step < c->newest)
			c->stats.late++;
		if (step <= c->newest)
			return 0;
		c->stats.missing_steps += (uint64_t)(step - c->newest - 1);
		if (step - c->newest - 1 > FM_SERIES_PAST)
			fm_predictor_begin(p);
		for (int64_t i = c->newest + 1; i < step && c->series.count > 0; i++)
			take(p, fm_past_at(&c->series, 0), true);
	}
	if (c->series.count == 0) {
		c->origin_ms = unix_ms;
		step = 0;
	}
	take(p, value, false);
	c->newest = step;
	c->stats.observations++;
	return 0;
}

int fm_predictor_forecast(const struct fm_predictor *p, unsigned horizon_steps, struct fm_forecast *ret, struct fm_error *err)
{
	if (horizon_steps < 1 || horizon_steps > FM_HORIZONS)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a forecast of %u steps: 1 to %u is possible", horizon_steps, FM_HORIZONS);
	if (p->core.series.count == 0)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "nothing has been observed yet");
	*ret = p->core.forecast[horizon_steps - 1];
	return 0;
}

void fm_predictor_stats(const struct fm_predictor *p, struct fm_predictor_stats *ret)
{
	*ret = p->core.stats;
}

bool fm_predictor_member(const struct fm_predictor *p, unsigned index, unsigned horizon_steps, struct fm_predictor_member *ret)
{
	double weight[FM_PREDICTOR_MAX_MEMBERS];
	unsigned first = 0;
	if (index >= p->core.mix.n || horizon_steps < 1 || horizon_steps > FM_HORIZONS)
		return false;
	fm_mix_weights(&p->core.mix, horizon_steps - 1, weight);
	for (unsigned i = 0; i < p->n_families; first += p->family[i++]->n)
		if (index < first + p->family[i]->n) {
			*ret = (struct fm_predictor_member){ .name = p->family[i]->names[index - first],
				                             .kind = p->family[i]->kind,
				                             .weight = weight[index] };
			return true;
		}
	return false;
}
