/* SPDX-License-Identifier: MIT */
/*
 * simulator-load.c - see simulator-internal.h: how many cores each container needs, step by step. Each has its own sequence of numbers, so what one needs does not depend on how many others there are, on where it
 * is or on what is moved: a scenario has the same load in all modes.
 */
#include <math.h>

#include "decision/memory.h"
#include "decision/simulator-internal.h"

#define HOUR_MS     3600000.0
#define TAU         6.283185307179586
#define WALK_BACK_H 12.0 /* hours in which a walk forgets where it was, to 1/e */
#define BETWEEN     0xfeedu

struct one {
	size_t group;
	double factor, cores, walk;
	uint64_t shift_ms, state;
	bool on;
};
/* A trace at the steps' distance, from its first point to its last, and from the beginning again */
struct series {
	double *value;
	size_t n;
	double mean;
};
struct sim_load {
	const struct fm_scenario *sc;
	struct one *v;
	size_t n;
	double *factor; /* of groups, by events */
	struct series *series;
	size_t n_series;
};

/* At most as many values as steps: a longer one is not reached, but by a shift, which counts within what is kept. */
static struct series resample(const struct fm_trace *t, uint64_t step_ms)
{
	int64_t first = t->point[0].unix_ms, last = first;
	for (size_t i = 0; i < t->n; i++) {
		first = t->point[i].unix_ms < first ? t->point[i].unix_ms : first;
		last = t->point[i].unix_ms > last ? t->point[i].unix_ms : last;
	}
	uint64_t n = (uint64_t)(last - first) / step_ms + 1;
	struct series s = { .n = (size_t)(n < FM_MAX_TRACE_POINTS ? n : FM_MAX_TRACE_POINTS) };
	s.value = fm_alloc_array(s.n, sizeof(*s.value));
	for (size_t i = 0; i < s.n; i++)
		s.value[i] = NAN;
	for (size_t i = 0; i < t->n; i++) { /* of several in one step the last one in the text */
		uint64_t at = (uint64_t)(t->point[i].unix_ms - first) / step_ms;
		if (at < s.n)
			s.value[at] = t->point[i].value;
	}
	for (size_t i = 0; i < s.n; i++) {
		if (isnan(s.value[i])) /* where nothing was recorded it is as before; the first one is there */
			s.value[i] = s.value[i - 1];
		s.mean += fmax(s.value[i], 0) / (double)s.n;
	}
	return s;
}

static void begin(const struct fm_scenario *sc, const struct series *series, uint64_t seed, size_t index, struct one *o)
{
	const struct sim_cpu *c = &sc->containers[o->group].cpu;
	o->state = sim_seed(seed, BETWEEN, index);
	o->factor = c->spread[0] + (c->spread[1] - c->spread[0]) * sim_uniform(&o->state);
	double shift = sim_uniform(&o->state);
	uint64_t whole = c->kind == SIM_TRACE ? series[c->trace].n * sc->step_ms : c->period_ms;
	o->shift_ms = c->shift_random ? (uint64_t)(shift * (double)whole) : c->shift_ms;
	o->walk = c->cores;
	o->on = sim_uniform(&o->state) * (double)(c->on_ms + c->off_ms) < (double)c->on_ms;
}

struct sim_load *sim_load_new(const struct fm_scenario *sc, const struct fm_trace *traces, uint64_t seed, size_t n_containers)
{
	struct sim_load *l = fm_alloc_array(1, sizeof(*l));
	size_t n_series = 0, at = 0;
	(void)fm_scenario_traces(sc, &n_series);
	*l = (struct sim_load){ .sc = sc, .n = n_containers, .n_series = n_series };
	l->v = fm_alloc_array(n_containers, sizeof(*l->v));
	l->factor = fm_alloc_array(sc->n_containers, sizeof(*l->factor));
	l->series = fm_alloc_array(n_series, sizeof(*l->series));
	for (size_t i = 0; i < n_series; i++)
		l->series[i] = resample(&traces[i], sc->step_ms);
	for (size_t g = 0; g < sc->n_containers; g++) {
		uint64_t count = sc->containers[g].count ? sc->containers[g].count : 1;
		l->factor[g] = 1;
		for (uint64_t i = 0; i < count; i++, at++) {
			l->v[at].group = g;
			begin(sc, l->series, seed, at, &l->v[at]);
		}
	}
	return l;
}

void sim_load_free(struct sim_load *l)
{
	if (!l)
		return;
	for (size_t i = 0; i < l->n_series; i++)
		free(l->series[i].value);
	free(l->series);
	free(l->factor);
	free(l->v);
	free(l);
}

double sim_load_expected(const struct sim_load *l, size_t container)
{
	const struct one *o = &l->v[container];
	const struct sim_cpu *c = &l->sc->containers[o->group].cpu;
	double mean = c->cores, on = (double)c->on_ms;
	if (c->kind == SIM_BURSTS)
		mean += (c->peak - c->cores) * on / (on + (double)c->off_ms);
	else if (c->kind == SIM_TRACE)
		mean += c->scale * l->series[c->trace].mean;
	return fmin(fmax(mean * o->factor, c->min), c->max);
}

/* ---------------------------------------------------------------- a step */

/* Ornstein and Uhlenbeck's: a random walk that is drawn back to where it began */
static double walk(const struct sim_cpu *c, struct one *o, double hours)
{
	double back = exp(-hours / WALK_BACK_H);
	o->walk = c->cores + (o->walk - c->cores) * back + c->deviation * sqrt(hours) * sim_normal(&o->state);
	return o->walk = fmax(o->walk, 0);
}

/* On and off for random times, whose means are given */
static double bursts(const struct sim_cpu *c, struct one *o, double step_ms)
{
	double mean = (double)(o->on ? c->on_ms : c->off_ms);
	if (sim_uniform(&o->state) < 1 - exp(-step_ms / mean))
		o->on = !o->on;
	return o->on ? c->peak : c->cores;
}

static double value(const struct sim_load *l, struct one *o, uint64_t at_ms)
{
	const struct sim_cpu *c = &l->sc->containers[o->group].cpu;
	double step_ms = (double)l->sc->step_ms;
	const struct series *s = NULL;
	switch (c->kind) {
	case SIM_SINE:
		return c->cores + c->amplitude * sin(TAU * (double)((at_ms + o->shift_ms) % c->period_ms) / (double)c->period_ms);
	case SIM_WALK:
		return walk(c, o, step_ms / HOUR_MS);
	case SIM_BURSTS:
		return bursts(c, o, step_ms);
	case SIM_TRACE:
		s = &l->series[c->trace];
		return c->cores + c->scale * s->value[(at_ms + o->shift_ms) / l->sc->step_ms % s->n];
	default:
		return c->cores;
	}
}

void sim_load_step(struct sim_load *l, uint64_t at_ms)
{
	for (size_t i = 0; i < l->n; i++) {
		struct one *o = &l->v[i];
		const struct sim_cpu *c = &l->sc->containers[o->group].cpu;
		double v = value(l, o, at_ms) * o->factor;
		if (c->noise > 0)
			v *= 1 + c->noise * sim_normal(&o->state);
		o->cores = fmin(fmax(v, c->min), c->max);
	}
}

double sim_load_cores(const struct sim_load *l, size_t container)
{
	return l->v[container].cores * l->factor[l->v[container].group];
}

void sim_load_factor(struct sim_load *l, size_t group, double factor)
{
	l->factor[group] = factor;
}
