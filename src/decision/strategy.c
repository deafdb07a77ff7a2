/* SPDX-License-Identifier: MIT */
/* strategy.c - see strategy.h for the model and its source. */
#include "decision/strategy.h"

#include <stdio.h>

#include "basic/cleanup.h"
#include "basic/str.h"

#define MB                (1000.0 * 1000.0)
#define DEFAULT_BANDWIDTH 1e9
/* Below this much memory copying everything inside the freeze costs less than one round of page faults afterwards. */
#define COLD_BELOW_BYTES (16u << 20)
#define TWICE_TENTHS     22u /* two copies, and a tenth for what holds them */
#define ROUNDS_FACTOR    1.3 /* what changes while it is sent is sent again */

static const char *const names[] = { "unspecified", "auto", "cold", "pre-copy", "post-copy", "live" };

const char *fm_strategy_to_string(enum fm_strategy s)
{
	return (unsigned)s < FM_ARRAY_SIZE(names) ? names[s] : names[0];
}

int fm_strategy_from_string(const char *name, enum fm_strategy *ret, struct fm_error *err)
{
	for (unsigned i = FM_STRATEGY_AUTO; i < _FM_STRATEGY_MAX; i++)
		if (fm_streq(names[i], name)) {
			*ret = (enum fm_strategy)i;
			return 0;
		}
	(void)fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%s' is not a strategy", name);
	return fm_error_hint(err, "strategies: auto, live, pre-copy, post-copy, cold");
}

int fm_strategy_check_available(enum fm_strategy s, struct fm_error *err)
{
	if (s >= FM_STRATEGY_AUTO && s < _FM_STRATEGY_MAX)
		return 0;
	return fm_error_set(err, FM_E_INVALID_ARGUMENT, "strategy number %d is unknown", (int)s);
}

static double bandwidth(const struct fm_workload_snapshot *w)
{
	return w->bandwidth_bytes_per_s ? (double)w->bandwidth_bytes_per_s : DEFAULT_BANDWIDTH;
}

static double cold_downtime_ms(const struct fm_workload_snapshot *w)
{
	double mb = (double)w->memory_bytes / MB,
	       start = w->nested ? 30 : 400; /* an ordinary container pays for the runtime and its namespaces */
	return start + 6.4 * w->processes + 0.75 * mb + 0.75 * mb + (double)w->memory_bytes / bandwidth(w) * 1000;
}

/* CRIU is not shown the pages: what is left of them is their list. */
static double switch_downtime_ms(const struct fm_workload_snapshot *w)
{
	return 30 + 6.4 * w->processes + 0.02 * (double)w->memory_bytes / MB;
}

static bool comes_before(enum fm_strategy s)
{
	return s == FM_STRATEGY_LIVE || s == FM_STRATEGY_PRE_COPY;
}

/* Until the restored container has taken them, pages that came before the freeze are there twice. */
static bool fits_twice(const struct fm_workload_snapshot *w)
{
	return w->destination_memory_available_bytes == 0 || w->memory_bytes / 10 * TWICE_TENTHS <= w->destination_memory_available_bytes;
}

static void predict(const struct fm_workload_snapshot *w, struct fm_strategy_choice *c)
{
	double copy_ms = (double)(w->memory_bytes + w->rootfs_bytes) / bandwidth(w) * 1000;
	double down = c->strategy == FM_STRATEGY_COLD ? cold_downtime_ms(w) : switch_downtime_ms(w);
	c->predicted_downtime_ms = (uint64_t)(down + 0.5);
	double factor = comes_before(c->strategy) ? ROUNDS_FACTOR : 1;
	c->predicted_total_ms = (uint64_t)(down + factor * copy_ms + 300.5); /* 300 ms: parent container and endpoint */
	c->predicted_wire_bytes = (uint64_t)(factor * (double)w->memory_bytes) + w->rootfs_bytes;
}

int fm_strategy_choose(const struct fm_workload_snapshot *w, enum fm_strategy requested, struct fm_strategy_choice *ret,
                       struct fm_error *err)
{
	struct fm_strategy_choice c = { .strategy = requested };
	char size[32];
	if (fm_strategy_check_available(requested, err) < 0)
		return -1;
	if (!w->nested && requested != FM_STRATEGY_AUTO && requested != FM_STRATEGY_COLD) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "an ordinary container can only be moved with strategy cold, not %s",
		                   fm_strategy_to_string(requested));
		return fm_error_hint(err, "start it nested ('fleximigrate container run' without --ordinary) or use --strategy cold");
	}
	(void)fm_format_bytes(w->memory_bytes, size, sizeof(size));
	if (comes_before(requested) && !fits_twice(w)) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION,
		                   "strategy %s needs room for two copies of %s of memory at the destination",
		                   fm_strategy_to_string(requested), size);
		return fm_error_hint(err, "use --strategy post-copy, which needs one");
	}
	if (requested != FM_STRATEGY_AUTO) {
		(void)snprintf(c.explanation, sizeof(c.explanation), "Asked for by the user (%s of memory in %u process%s).", size,
		               w->processes, w->processes == 1 ? "" : "es");
	} else if (!w->nested) {
		c.strategy = FM_STRATEGY_COLD;
		(void)snprintf(c.explanation, sizeof(c.explanation),
		               "It is an ordinary container: the runtime's own checkpoint and restore is the only way.");
	} else if (w->memory_bytes < COLD_BELOW_BYTES) {
		c.strategy = FM_STRATEGY_COLD;
		(void)snprintf(c.explanation, sizeof(c.explanation),
		               "With %s of memory copying everything at once is as short as any other way, and simpler.", size);
	} else if (!fits_twice(w)) {
		c.strategy = FM_STRATEGY_POST_COPY;
		(void)snprintf(
		        c.explanation, sizeof(c.explanation),
		        "The destination has no room for two copies of %s of memory, so its pages are fetched after the switch-over.",
		        size);
	} else {
		c.strategy = FM_STRATEGY_LIVE;
		(void)snprintf(c.explanation, sizeof(c.explanation),
		               "With %s of memory it is down for about %.0f ms when its pages are there before, cold for %.0f ms.", size,
		               switch_downtime_ms(w), cold_downtime_ms(w));
	}
	predict(w, &c);
	*ret = c;
	return 0;
}
