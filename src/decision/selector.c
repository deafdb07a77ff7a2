/* SPDX-License-Identifier: MIT */
/* selector.c - see selector.h. */
#include "decision/selector.h"

#include <stdio.h>
#include <string.h>

#include "basic/str.h"

#define TWICE_TENTHS     22u  /* two copies, and a tenth for what holds them */
#define MUCH_MS          1000 /* of downtime or time on demand that suits nobody, by the published weights */
#define ALIKE            0.95 /* prices this near are the same, and then the more robust one is taken */
#define FAST_BYTES_PER_S 1.25e9

static bool comes_before(enum fm_strategy s)
{
	return s == FM_STRATEGY_LIVE || s == FM_STRATEGY_PRE_COPY;
}

/* Until the restored container has taken them, pages that came before the freeze are there twice. */
static bool fits_twice(const struct fm_workload_snapshot *w)
{
	return w->destination_memory_available_bytes == 0 || w->c.memory_bytes / 10 * TWICE_TENTHS <= w->destination_memory_available_bytes;
}

static int check_possible(const struct fm_workload_snapshot *w, enum fm_strategy s, struct fm_error *err)
{
	char size[32];
	if (!w->c.nested && s != FM_STRATEGY_COLD) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "an ordinary container can only be moved with strategy cold, not %s",
		                   fm_strategy_to_string(s));
		return fm_error_hint(err, "start it nested ('fleximigrate container run' without --ordinary) or use --strategy cold");
	}
	if (comes_before(s) && w->filtered) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "its processes have seccomp filters, with which strategy %s cannot be",
		                   fm_strategy_to_string(s));
		return fm_error_hint(err, "use --strategy post-copy");
	}
	if (comes_before(s) && !fits_twice(w)) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION,
		                   "strategy %s needs room for two copies of %s of memory at the destination", fm_strategy_to_string(s),
		                   fm_format_bytes(w->c.memory_bytes, size, sizeof(size)));
		return fm_error_hint(err, "use --strategy post-copy, which needs one");
	}
	return 0;
}

/* ---------------------------------------------------------------- the published weights */

static double part(double v)
{
	return fmin(fmax(v, 0), 1);
}

/* Each part from 0 (does not suit) to 1: copies of the memory at the destination, processor time for rounds, bytes over the bandwidth, files, memory inside the freeze, downtime. */
static double published_score(const struct fm_workload_snapshot *w, const struct fm_strategy_option *o)
{
	double copies = comes_before(o->strategy) ? 2 : 1, available = (double)w->destination_memory_available_bytes;
	double memory = available > 0 ? part(1 - copies * (double)w->c.memory_bytes / available) : 1 / copies;
	double cpu = isfinite(w->c.source_cpu_percent) ? w->c.source_cpu_percent / 100 : 0.5;
	double busy = comes_before(o->strategy) ? o->cost.rounds : 1;
	double bandwidth = w->c.bandwidth_bytes_per_s ? (double)w->c.bandwidth_bytes_per_s : FAST_BYTES_PER_S;
	double wire_s = o->cost.wire_bytes / bandwidth;
	double size = o->strategy == FM_STRATEGY_COLD ? part(1 - (double)w->c.memory_bytes / FAST_BYTES_PER_S) : 1;
	return .3 * memory + .2 * part(1 - cpu * busy / 4) + .2 / (1 + wire_s) + .1 / (1 + (double)w->c.files_bytes / bandwidth) +
	       .1 * size + .1 * part(1 - o->cost.downtime_ms / MUCH_MS);
}

/* ---------------------------------------------------------------- prices */

static void check_limits(const struct fm_workload_snapshot *w, struct fm_strategy_option *o)
{
	double downtime = (double)(w->max_downtime_ms ? w->max_downtime_ms : FM_SELECTOR_DOWNTIME_MS);
	double total = (double)(w->max_total_ms ? w->max_total_ms : FM_SELECTOR_TOTAL_MS);
	o->meets_limits = false;
	if (o->strategy == FM_STRATEGY_PRE_COPY && !o->cost.converges)
		(void)snprintf(o->why_not, sizeof(o->why_not), "its rounds would not shrink");
	else if (o->cost.downtime_ms > downtime)
		(void)snprintf(o->why_not, sizeof(o->why_not), "%.0f ms of downtime are more than %.0f", o->cost.downtime_ms, downtime);
	else if (o->cost.total_ms > total)
		(void)snprintf(o->why_not, sizeof(o->why_not), "%.1f s in all are more than %.1f", o->cost.total_ms / 1000, total / 1000);
	else
		o->meets_limits = true;
}

static void price(const struct fm_workload_snapshot *w, struct fm_strategy_option *o)
{
	struct fm_cost_case c = w->c;
	struct fm_error e = FM_ERROR_INIT;
	if (check_possible(w, o->strategy, &e) < 0) {
		(void)snprintf(o->why_not, sizeof(o->why_not), "%.*s", (int)sizeof(o->why_not) - 1, e.message);
		return;
	}
	o->possible = true;
	c.strategy = o->strategy;
	fm_cost_predict(w->model, &c, &o->cost);
	o->price = w->by_weights ? 1 - published_score(w, o) : fm_cost_of(&c, &o->cost, w->importance > 0 ? w->importance : 1);
	check_limits(w, o);
}

/* a is the more robust one of the two: it comes first in `order`. */
static const struct fm_strategy_option *better(const struct fm_strategy_option *a, const struct fm_strategy_option *b)
{
	if (!b->possible)
		return a;
	if (!a || !a->possible)
		return b;
	if (a->meets_limits != b->meets_limits)
		return a->meets_limits ? a : b;
	if (!a->meets_limits)
		return a->cost.downtime_ms <= b->cost.downtime_ms ? a : b;
	return b->price < ALIKE * a->price ? b : a;
}

static void explain_auto(const struct fm_workload_snapshot *w, const struct fm_strategy_option *best, struct fm_strategy_choice *c)
{
	struct fm_buf b = FM_BUF_INIT;
	if (!w->c.nested) {
		fm_buf_addf(&b, "It is an ordinary container: the runtime's own checkpoint and restore is the only way.");
	} else {
		fm_buf_addf(&b, "%s: about %.0f ms down, %.1f s in all", fm_strategy_to_string(best->strategy), best->cost.downtime_ms,
		            best->cost.total_ms / 1000);
		fm_buf_addf(&b, best->meets_limits ? "; " : ", over the limits (%s) as all others are, but down for the shortest time; ",
		            best->why_not);
		const char *between = "";
		for (unsigned i = 0; i < FM_STRATEGY_OPTIONS; i++) {
			const struct fm_strategy_option *o = &c->options[i];
			if (o == best)
				continue;
			if (!o->meets_limits)
				fm_buf_addf(&b, "%snot %s: %s", between, fm_strategy_to_string(o->strategy), o->why_not);
			else
				fm_buf_addf(&b, "%s%s: %.0f ms, %.1f s", between, fm_strategy_to_string(o->strategy), o->cost.downtime_ms,
				            o->cost.total_ms / 1000);
			between = ", ";
		}
		fm_buf_addf(&b, " (%u moves learnt from%s).", w->model ? fm_cost_learnt(w->model) : 0,
		            w->by_weights ? "; by the published weights" : "");
	}
	(void)snprintf(c->explanation, sizeof(c->explanation), "%s", b.data);
	fm_buf_done(&b);
}

static void take(struct fm_strategy_choice *c, const struct fm_strategy_option *o)
{
	c->strategy = o->strategy;
	c->cost = o->cost;
	c->predicted_downtime_ms = (uint64_t)(o->cost.downtime_ms + 0.5);
	c->predicted_total_ms = (uint64_t)(o->cost.total_ms + 0.5);
	c->predicted_wire_bytes = (uint64_t)o->cost.wire_bytes;
}

int fm_strategy_choose(const struct fm_workload_snapshot *w, enum fm_strategy requested, struct fm_strategy_choice *ret,
                       struct fm_error *err)
{
	/* Live ends well whatever the application writes; pre-copy may give up, post-copy leans on the network for longest, cold stops for longest. */
	static const enum fm_strategy order[FM_STRATEGY_OPTIONS] = { FM_STRATEGY_LIVE, FM_STRATEGY_PRE_COPY, FM_STRATEGY_POST_COPY,
		                                                     FM_STRATEGY_COLD };
	struct fm_strategy_choice c = { 0 };
	const struct fm_strategy_option *best = NULL;
	char size[32];
	if (fm_strategy_check_available(requested, err) < 0 || (requested != FM_STRATEGY_AUTO && check_possible(w, requested, err) < 0))
		return -1;
	for (unsigned i = 0; i < FM_STRATEGY_OPTIONS; i++) {
		c.options[i].strategy = (enum fm_strategy)(FM_STRATEGY_COLD + i);
		price(w, &c.options[i]);
	}
	for (unsigned i = 0; i < FM_STRATEGY_OPTIONS && requested == FM_STRATEGY_AUTO; i++)
		best = better(best, &c.options[order[i] - FM_STRATEGY_COLD]);
	if (!best)
		best = &c.options[requested - FM_STRATEGY_COLD];
	take(&c, best);
	if (requested == FM_STRATEGY_AUTO)
		explain_auto(w, best, &c);
	else
		(void)snprintf(c.explanation, sizeof(c.explanation), "Asked for by the user (%s of memory in %u process%s).",
		               fm_format_bytes(w->c.memory_bytes, size, sizeof(size)), w->c.processes, w->c.processes == 1 ? "" : "es");
	*ret = c;
	return 0;
}
