/* SPDX-License-Identifier: MIT */
/* ring.c - see ring.h. */
#include "monitor/ring.h"

#include <math.h>
#include <stdbool.h>

void fm_ring_init(struct fm_ring *r, uint32_t step_ms, float *v, uint32_t n)
{
	*r = (struct fm_ring){ .step_ms = step_ms, .n = n, .v = v };
	for (uint32_t i = 0; i < n; i++)
		v[i] = NAN;
}

static bool is_kept(const struct fm_ring *r, uint64_t step)
{
	return r->newest && step <= r->newest && r->newest - step < r->n;
}

/* A new step is the newest: those between are unknown. */
static void advance(struct fm_ring *r, uint64_t step)
{
	uint64_t from = !r->newest || step - r->newest >= r->n ? step - (step < r->n ? step : r->n - 1) : r->newest + 1;

	for (uint64_t s = from; s <= step; s++)
		r->v[s % r->n] = NAN;
	r->newest = step;
	r->count = 0;
	r->sum = 0;
}

void fm_ring_put(struct fm_ring *r, uint64_t step, float mean)
{
	if (!step || isnan(mean))
		return;
	if (step > r->newest)
		advance(r, step);
	if (!is_kept(r, step))
		return;
	r->v[step % r->n] = mean;
	if (step == r->newest) { /* more values of this step weigh against it as against one */
		r->count = 1;
		r->sum = (double)mean;
	}
}

void fm_ring_add(struct fm_ring *r, uint64_t at_unix_ms, double value)
{
	uint64_t step = at_unix_ms / r->step_ms;

	if (isnan(value) || !step)
		return;
	if (step < r->newest) {
		if (is_kept(r, step) && isnan(r->v[step % r->n]))
			r->v[step % r->n] = (float)value;
		return;
	}
	if (step > r->newest)
		advance(r, step);
	r->sum += value;
	r->count++;
	r->v[step % r->n] = (float)(r->sum / r->count);
}

float fm_ring_at(const struct fm_ring *r, uint64_t step)
{
	return is_kept(r, step) ? r->v[step % r->n] : NAN;
}

double fm_ring_mean(const struct fm_ring *r, uint64_t from_unix_ms)
{
	uint64_t step = from_unix_ms / r->step_ms, oldest = r->newest >= r->n ? r->newest - r->n + 1 : 1;
	double sum = 0;
	unsigned n = 0;

	for (step = step > oldest ? step : oldest; step <= r->newest; step++) {
		float v = fm_ring_at(r, step);
		if (isnan(v))
			continue;
		sum += (double)v;
		n++;
	}
	return n ? sum / n : NAN;
}

static void place(struct fm_series *s)
{
	s->recent.v = s->v;
	s->minutes.v = s->v + FM_SERIES_RECENT;
	s->fives.v = s->v + FM_SERIES_RECENT + FM_SERIES_MINUTES;
}

void fm_series_init(struct fm_series *s)
{
	fm_ring_init(&s->recent, FM_SERIES_RECENT_STEP_MS, s->v, FM_SERIES_RECENT);
	fm_ring_init(&s->minutes, 60000, s->v + FM_SERIES_RECENT, FM_SERIES_MINUTES);
	fm_ring_init(&s->fives, FM_SERIES_LONG_STEP_MS, s->v + FM_SERIES_RECENT + FM_SERIES_MINUTES, FM_SERIES_LONG);
}

void fm_series_copy(struct fm_series *to, const struct fm_series *from)
{
	*to = *from;
	place(to);
}

void fm_series_add(struct fm_series *s, uint64_t at_unix_ms, double value)
{
	fm_ring_add(&s->recent, at_unix_ms, value);
	fm_ring_add(&s->minutes, at_unix_ms, value);
	fm_ring_add(&s->fives, at_unix_ms, value);
}
