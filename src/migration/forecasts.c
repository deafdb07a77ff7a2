/* SPDX-License-Identifier: MIT */
/* forecasts.c - see forecasts.h. Series are found in a tree by what they are of; what is learnt and when is paid for from a budget of time that fills up slowly. */
#include "migration/forecasts.h"

#include <math.h>
#include <pthread.h>
#include <search.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "decision/predictor.h"

#define AHEAD_STEPS 6 /* half an hour */
#define FULL_MAX    64
#define BUDGET_US   100000 /* at once, at most */
#define BUDGET_PART 20     /* of a processor's time: one part of so many */
#define LIGHT       (FM_PREDICTOR_SMOOTHING | FM_PREDICTOR_WINDOW)

struct series {
	bool host;
	enum fm_usage_kind kind;
	char *name;
	struct fm_predictor *p;
	uint64_t fed_step; /* the last one that it knows */
	double value;      /* its forecast; NAN */
};

struct fm_forecasts {
	pthread_mutex_t lock;
	void *tree;
	size_t n, n_full;
	uint64_t budget_us, budget_at_us;
};

static int compare(const void *a, const void *b)
{
	const struct series *x = a, *y = b;
	if (x->host != y->host)
		return x->host ? -1 : 1;
	if (x->kind != y->kind)
		return x->kind < y->kind ? -1 : 1;
	return strcmp(x->name, y->name);
}

static void series_free(void *p)
{
	struct series *s = p;
	fm_predictor_free(s->p);
	free(s->name);
	free(s);
}

struct fm_forecasts *fm_forecasts_new(void)
{
	struct fm_forecasts *f = calloc(1, sizeof(*f));
	if (!f)
		abort();
	(void)pthread_mutex_init(&f->lock, NULL);
	f->budget_us = BUDGET_US;
	f->budget_at_us = fm_now_us();
	return f;
}

void fm_forecasts_free(struct fm_forecasts *f)
{
	if (!f)
		return;
	tdestroy(f->tree, series_free);
	(void)pthread_mutex_destroy(&f->lock);
	free(f);
}

/* Percent of a host cannot be more than all of it. */
static struct fm_predictor_options options_of(const struct series *s, bool full)
{
	bool percent = s->host && (s->kind == FM_USAGE_CPU || s->kind == FM_USAGE_MEMORY);
	return (struct fm_predictor_options){ .step_ms = FM_SERIES_LONG_STEP_MS,
		                              .members = full      ? FM_PREDICTOR_ALL
		                                         : s->host ? FM_PREDICTOR_CHEAP
		                                                   : LIGHT,
		                              .bounded = true,
		                              .min = 0,
		                              .max = percent ? 100 : 1e15 };
}

/* NULL: there are too many already */
static struct series *find(struct fm_forecasts *f, bool host, const char *name, enum fm_usage_kind kind)
{
	struct series key = { .host = host, .kind = kind, .name = (char *)name };
	struct series **found = tfind(&key, &f->tree, compare);
	if (found)
		return *found;
	if (f->n >= FM_MAX_FORECASTS)
		return NULL;
	struct series *s = calloc(1, sizeof(*s));
	if (!s)
		abort();
	*s = (struct series){ .host = host, .kind = kind, .name = fm_xstrdup(name), .value = NAN };
	bool full = host && f->n_full < FULL_MAX;
	struct fm_predictor_options o = options_of(s, full);
	if (fm_predictor_new(&o, &s->p, NULL) < 0 || !tsearch(s, &f->tree, compare)) {
		series_free(s);
		return NULL;
	}
	f->n++;
	f->n_full += full;
	return s;
}

static void fill_budget(struct fm_forecasts *f)
{
	uint64_t now = fm_now_us();
	f->budget_us += (now - f->budget_at_us) / BUDGET_PART;
	if (f->budget_us > BUDGET_US)
		f->budget_us = BUDGET_US;
	f->budget_at_us = now;
}

/* The newest step is not complete. true: it knows all others. */
static bool feed(struct fm_forecasts *f, struct series *s, const struct fm_ring *fives)
{
	uint64_t first = fives->newest > FM_SERIES_LONG ? fives->newest - FM_SERIES_LONG + 1 : 1, began = fm_now_us(), spent = 0;
	if (s->fed_step + 1 > first)
		first = s->fed_step + 1;
	uint64_t step = first;
	for (; step < fives->newest && spent < f->budget_us; step++) {
		float value = fm_ring_at(fives, step);
		if (!isnan(value))
			(void)fm_predictor_observe(s->p, (int64_t)(step * fives->step_ms), value, NULL);
		s->fed_step = step;
		spent = fm_now_us() - began;
	}
	f->budget_us -= spent < f->budget_us ? spent : f->budget_us;
	return step >= fives->newest;
}

double fm_forecasts_predict(void *forecasts, bool host, const char *name, enum fm_usage_kind kind, const struct fm_series *past)
{
	struct fm_forecasts *f = forecasts;
	double value = NAN;
	pthread_mutex_lock(&f->lock);
	fill_budget(f);
	struct series *s = find(f, host, name, kind);
	if (s && past->fives.newest > s->fed_step + 1) {
		struct fm_forecast ahead;
		s->value = feed(f, s, &past->fives) && fm_predictor_forecast(s->p, AHEAD_STEPS, &ahead, NULL) == 0 ? ahead.value : NAN;
	}
	if (s)
		value = s->value;
	pthread_mutex_unlock(&f->lock);
	return value;
}
