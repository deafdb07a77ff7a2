/* SPDX-License-Identifier: MIT */
/* analyzer.c - see analyzer.h. */
#include "monitor/analyzer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const figure_names[_FM_LOAD_FIGURES] = { "processor", "memory", "packet loss", "latency" };
static const char *const figure_units[_FM_LOAD_FIGURES] = { "%", "%", "%", "ms" };

const char *fm_load_to_string(enum fm_load l)
{
	static const char *const names[] = {
		[FM_LOAD_UNKNOWN] = "", [FM_LOAD_NORMAL] = "normal", [FM_LOAD_OVER] = "over", [FM_LOAD_UNDER] = "under"
	};

	return (unsigned)l < sizeof(names) / sizeof(names[0]) ? names[l] : "";
}

static double left_at(const struct fm_load_limits *l, double limit)
{
	return limit * (1 - l->hysteresis_percent / 100);
}

static double left_above(const struct fm_load_limits *l, double limit)
{
	return limit * (1 + l->hysteresis_percent / 100);
}

int fm_load_limits_check(const struct fm_load_limits *l, struct fm_error *err)
{
	const double under[] = { l->under_cpu_percent, l->under_memory_percent };

	for (int i = 0; i < _FM_LOAD_FIGURES; i++)
		if (isnan(l->over[i]) || l->over[i] <= 0)
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "the limit of %s is not above 0", figure_names[i]);
	if (!(l->hysteresis_percent >= 0 && l->hysteresis_percent < 100))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "the hysteresis is not from 0 to below 100 %%");
	for (int i = 0; i < 2; i++)
		if (isnan(under[i]) || (under[i] >= 0 && left_above(l, under[i]) >= left_at(l, l->over[i])))
			return fm_error_set(err, FM_E_INVALID_ARGUMENT,
			                    "the lower limit of %s, %g %%, is not below the upper one, %g %%, with a hysteresis of %g %%",
			                    figure_names[i], under[i], l->over[i], l->hysteresis_percent);
	return 0;
}

/* Keeps when a condition began; 0: it does not hold. */
static bool held_for(uint64_t *since, bool holds, uint64_t now_ms, uint32_t for_ms)
{
	if (!holds)
		*since = 0;
	else if (!*since)
		*since = now_ms;
	return holds && now_ms - *since >= for_ms;
}

static bool step_over(const struct fm_load_limits *l, struct fm_load_state *s, const struct fm_load_figures *f, uint64_t now_ms)
{
	int first = -1;

	for (int i = 0; i < _FM_LOAD_FIGURES; i++)
		if (held_for(&s->over_since_ms[i], f->v[i] > l->over[i], now_ms, l->over_ms) &&
		    (first < 0 || s->over_since_ms[i] < s->over_since_ms[first]))
			first = i;
	if (first >= 0 && s->load != FM_LOAD_OVER)
		s->why = (enum fm_load_figure)first;
	return first >= 0;
}

static bool is_under(const struct fm_load_limits *l, const struct fm_load_figures *f)
{
	return f->v[FM_LOAD_CPU] < l->under_cpu_percent && f->v[FM_LOAD_MEMORY] < l->under_memory_percent;
}

/* Is what made it over, or under, gone with the hysteresis? What is not known any more is: it keeps nobody. */
static bool is_clear(const struct fm_load_limits *l, const struct fm_load_state *s, const struct fm_load_figures *f)
{
	if (s->load == FM_LOAD_UNDER)
		return !(f->v[FM_LOAD_CPU] <= left_above(l, l->under_cpu_percent) &&
		         f->v[FM_LOAD_MEMORY] <= left_above(l, l->under_memory_percent));
	for (int i = 0; i < _FM_LOAD_FIGURES; i++)
		if (f->v[i] >= left_at(l, l->over[i]))
			return false;
	return true;
}

static enum fm_load next_load(const struct fm_load_limits *l, struct fm_load_state *s, const struct fm_load_figures *f, uint64_t now_ms)
{
	bool over = step_over(l, s, f, now_ms);
	bool under = held_for(&s->under_since_ms, is_under(l, f), now_ms, l->under_ms);
	bool clear = held_for(&s->clear_since_ms, is_clear(l, s, f), now_ms, l->clear_ms);

	if (over)
		return FM_LOAD_OVER;
	if ((s->load == FM_LOAD_OVER || s->load == FM_LOAD_UNDER) && !clear)
		return s->load;
	if (isnan(f->v[FM_LOAD_CPU]) && isnan(f->v[FM_LOAD_MEMORY]))
		return FM_LOAD_UNKNOWN;
	return under ? FM_LOAD_UNDER : FM_LOAD_NORMAL;
}

bool fm_load_step(const struct fm_load_limits *l, struct fm_load_state *s, const struct fm_load_figures *f, uint64_t now_ms)
{
	enum fm_load before = s->load;

	if (s->seen_ms && now_ms - s->seen_ms > FM_LOAD_GAP_MS)
		*s = (struct fm_load_state){ .load = FM_LOAD_UNKNOWN };
	s->seen_ms = now_ms;
	enum fm_load next = next_load(l, s, f, now_ms);
	if (next != s->load) {
		s->load = next;
		s->since_ms = now_ms;
		s->clear_since_ms = 0;
	}
	return s->load != before;
}

void fm_load_explain(const struct fm_load_limits *l, const struct fm_load_state *s, const struct fm_load_figures *f, uint64_t now_ms,
                     char *ret, size_t cap)
{
	unsigned long long over_s = s->over_since_ms[s->why] ? (now_ms - s->over_since_ms[s->why]) / 1000 : 0;

	ret[0] = '\0';
	if (s->load == FM_LOAD_UNDER)
		(void)snprintf(ret, cap, "processor %.1f %%, memory %.1f %%, below %g and %g %%", f->v[FM_LOAD_CPU], f->v[FM_LOAD_MEMORY],
		               l->under_cpu_percent, l->under_memory_percent);
	else if (s->load == FM_LOAD_OVER && over_s)
		(void)snprintf(ret, cap, "%s %.1f %s for %llu s, limit %g %s", figure_names[s->why], f->v[s->why], figure_units[s->why],
		               over_s, l->over[s->why], figure_units[s->why]);
	else if (s->load == FM_LOAD_OVER)
		(void)snprintf(ret, cap, "%s was over %g %s, now %.1f %s", figure_names[s->why], l->over[s->why], figure_units[s->why],
		               f->v[s->why], figure_units[s->why]);
}
