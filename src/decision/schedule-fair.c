/* SPDX-License-Identifier: MIT */
/*
 * schedule-fair.c - see order.h: jobs that share links fairly (max-min, Bertsekas and Gallager, Data Networks, 6.5.2), from one moment in which something begins or ends to the next.
 *
 * How long a job takes is asked twice, with all of its way and with a quarter: time = fixed + bytes / rate is drawn through both. The fixed part comes first and needs no link.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "basic/cleanup.h"
#include "decision/memory.h"
#include "decision/order.h"

#define QUARTER      4.0
#define SETTLED      1e-9 /* a rate or a link that is done with, in parts of itself */
#define NOTHING_MS   1e-6
#define LATE_AT_ONCE 64 /* with more jobs all that are late go at once instead of one after the other */

enum phase { WAITS, PREPARES, SENDS, OVER };

struct flow {
	enum phase phase;
	double left_ms, left_bytes, rate;
	bool fixed; /* its rate is found */
};
struct fair {
	const struct fm_load *l;
	const struct fm_plan_opts *o;
	struct fm_job *jobs;
	struct flow *flows;
	size_t n;
	size_t *active, n_active; /* jobs under way */
	unsigned slots;
	double now;
	double *out, *in; /* bytes/ms left of each host's way into the network, and out of it */
	bool *known;      /* of each host: out and in are filled in */
	size_t *hosts;    /* those that matter */
	size_t n_hosts;
	double *cap_out, *cap_in;
};

/* ---------------------------------------------------------------- what a job is like */

static void fit(const struct fair *f, struct fm_job *j)
{
	double alone = f->o->link_share * (double)fm_load_bandwidth(f->l, j->from, j->to);
	if (j->fitted_strategy == j->strategy && j->fitted_to == j->to)
		return;
	j->problem[0] = '\0';
	j->fitted_strategy = j->strategy;
	j->fitted_to = j->to;
	j->alone = alone / 1000;
	struct fm_job slow = *j;
	if (!fm_job_predict(f->l, f->o, j, alone))
		return;
	slow.strategy = j->cost.strategy; /* the choice is made once */
	double quick_ms = (double)j->cost.total_ms, slow_ms = quick_ms;
	if (fm_job_predict(f->l, f->o, &slow, alone / QUARTER))
		slow_ms = (double)slow.cost.total_ms;
	j->bytes = fmax(0, slow_ms - quick_ms) / (QUARTER - 1) * j->alone;
	j->fixed_ms = quick_ms - j->bytes / j->alone;
	if (j->fixed_ms < 0) {
		j->fixed_ms = 0;
		j->bytes = quick_ms * j->alone;
	}
}

static void add_host(struct fair *f, size_t h)
{
	if (f->known[h])
		return;
	f->known[h] = true;
	f->hosts[f->n_hosts++] = h;
	f->cap_out[h] = f->o->link_share * (double)fm_load_port(f->l, h, true) / 1000;
	f->cap_in[h] = f->o->link_share * (double)fm_load_port(f->l, h, false) / 1000;
}

/* ---------------------------------------------------------------- rates */

static bool sends(const struct fair *f, size_t i)
{
	return f->flows[i].phase == SENDS;
}

/* All rates grow together until a link of theirs is full, or the job's own way is; those that are stopped stay as they are, the others go on. A way of two hosts is no narrower for two jobs
 * than for one here: it is one link of the network behind it, and the hosts' own ways bound them together. */
static double rate_of_way(const struct fair *f, const struct fm_job *j)
{
	double sum = 0;
	for (size_t k = 0; k < f->n_active; k++) {
		const struct fm_job *o = &f->jobs[f->active[k]];
		if (sends(f, f->active[k]) && o->from == j->from && o->to == j->to)
			sum += f->flows[f->active[k]].rate;
	}
	return sum;
}

/* How much all rates can still grow before this job's way is full. */
static double room_of_way(const struct fair *f, const struct fm_job *j)
{
	size_t out = 0, in = 0, both = 0;
	for (size_t k = 0; k < f->n_active; k++) {
		const struct fm_job *o = &f->jobs[f->active[k]];
		if (f->flows[f->active[k]].fixed)
			continue;
		out += o->from == j->from;
		in += o->to == j->to;
		both += o->from == j->from && o->to == j->to;
	}
	double room = fmin(f->out[j->from] / (double)out, f->in[j->to] / (double)in);
	return fmin(room, fmax(0, j->alone - rate_of_way(f, j)) / (double)both);
}

static void share_out(struct fair *f)
{
	for (size_t k = 0; k < f->n_hosts; k++) {
		f->out[f->hosts[k]] = f->cap_out[f->hosts[k]];
		f->in[f->hosts[k]] = f->cap_in[f->hosts[k]];
	}
	for (size_t k = 0; k < f->n_active; k++) {
		f->flows[f->active[k]].rate = 0;
		f->flows[f->active[k]].fixed = !sends(f, f->active[k]);
	}
	for (;;) {
		double step = INFINITY;
		for (size_t k = 0; k < f->n_active; k++)
			if (!f->flows[f->active[k]].fixed)
				step = fmin(step, room_of_way(f, &f->jobs[f->active[k]]));
		if (!isfinite(step))
			return;
		for (size_t k = 0; k < f->n_active; k++)
			if (!f->flows[f->active[k]].fixed) {
				f->flows[f->active[k]].rate += step;
				f->out[f->jobs[f->active[k]].from] -= step;
				f->in[f->jobs[f->active[k]].to] -= step;
			}
		for (size_t k = 0; k < f->n_active; k++) {
			const struct fm_job *j = &f->jobs[f->active[k]];
			struct flow *w = &f->flows[f->active[k]];
			w->fixed = w->fixed || f->out[j->from] <= SETTLED * f->cap_out[j->from] ||
			           f->in[j->to] <= SETTLED * f->cap_in[j->to] || rate_of_way(f, j) >= j->alone * (1 - SETTLED);
		}
	}
}

/* ---------------------------------------------------------------- from moment to moment */

static bool may_begin(const struct fair *f, size_t i)
{
	const struct fm_job *j = &f->jobs[i];
	size_t at_from = 0, at_to = 0;
	for (size_t k = 0; k < j->n_after; k++)
		if (f->flows[j->after[k]].phase != OVER || f->jobs[j->after[k]].left_out)
			return false;
	for (size_t k = 0; k < f->n_active; k++) {
		const struct fm_job *o = &f->jobs[f->active[k]];
		at_from += o->from == j->from || o->to == j->from;
		at_to += o->from == j->to || o->to == j->to;
	}
	unsigned most = f->slots < f->o->max_concurrent ? f->slots : f->o->max_concurrent;
	return f->n_active < most && at_from < f->o->max_per_host && at_to < f->o->max_per_host;
}

static void begin_jobs(struct fair *f)
{
	for (size_t i = 0; i < f->n && f->n_active < f->slots; i++) {
		struct fm_job *j = &f->jobs[i];
		if (f->flows[i].phase != WAITS || j->left_out || !may_begin(f, i))
			continue;
		f->flows[i] = (struct flow){ .phase = PREPARES, .left_ms = fmax(j->fixed_ms, NOTHING_MS), .left_bytes = j->bytes };
		j->start_ms = (uint64_t)ceil(f->now); /* as ends are: what begins when another ends does not overlap with it */
		j->bandwidth_bytes_per_s = (uint64_t)(j->alone * 1000);
		f->active[f->n_active++] = i;
	}
}

static void pass_time(struct fair *f)
{
	double step = INFINITY;
	size_t kept = 0;
	for (size_t k = 0; k < f->n_active; k++) {
		const struct flow *w = &f->flows[f->active[k]];
		step = fmin(step, w->phase == PREPARES ? w->left_ms : w->left_bytes / w->rate);
	}
	f->now += step;
	for (size_t k = 0; k < f->n_active; k++) {
		size_t i = f->active[k];
		struct flow *w = &f->flows[i];
		if (w->phase == PREPARES && (w->left_ms -= step) <= NOTHING_MS)
			w->phase = SENDS;
		else if (w->phase == SENDS)
			w->left_bytes -= w->rate * step;
		if (w->phase == SENDS && w->left_bytes < 1) {
			w->phase = OVER;
			f->jobs[i].end_ms = (uint64_t)ceil(f->now);
		} else {
			f->active[kept++] = i;
		}
	}
	f->n_active = kept;
}

static void simulate(struct fair *f)
{
	f->now = 0;
	memset(f->flows, 0, f->n * sizeof(*f->flows));
	f->n_active = 0;
	for (begin_jobs(f); f->n_active > 0; begin_jobs(f)) {
		share_out(f);
		pass_time(f);
	}
	for (size_t i = 0; i < f->n; i++)
		if (f->flows[i].phase == WAITS && !f->jobs[i].left_out) {
			f->jobs[i].left_out = true;
			(void)snprintf(f->jobs[i].problem, sizeof(f->jobs[i].problem), "what it waits for is not moved");
		}
}

/* The least valuable of those that are late, and of these the longest; with many, all that are late. False: none is. */
static bool leave_out_late(struct fair *f)
{
	size_t worst = FM_NONE;
	for (size_t i = 0; i < f->n; i++) {
		struct fm_job *j = &f->jobs[i];
		if (j->left_out || j->end_ms <= f->o->deadline_ms)
			continue;
		if (f->n > LATE_AT_ONCE && worst != FM_NONE)
			j->left_out = true;
		else if (worst == FM_NONE || j->value < f->jobs[worst].value ||
		         (j->value <= f->jobs[worst].value && j->bytes / j->alone > f->jobs[worst].bytes / f->jobs[worst].alone))
			worst = i;
	}
	if (worst != FM_NONE)
		f->jobs[worst].left_out = true;
	return worst != FM_NONE;
}

uint64_t fm_schedule_fair(const struct fm_load *l, const struct fm_plan_opts *o, unsigned slots, struct fm_job *jobs, size_t n)
{
	_fm_free_ struct flow *flows = fm_alloc_array(n, sizeof(*flows));
	_fm_free_ double *ports = fm_alloc_array(4 * l->n_hosts, sizeof(*ports));
	_fm_free_ bool *known = fm_alloc_array(l->n_hosts, sizeof(*known));
	_fm_free_ size_t *hosts = fm_alloc_array(l->n_hosts, sizeof(*hosts));
	_fm_free_ size_t *active = fm_alloc_array(n, sizeof(*active));
	struct fair f = {
		.l = l, .o = o, .jobs = jobs, .flows = flows, .n = n, .slots = slots, .known = known, .hosts = hosts, .active = active
	};
	uint64_t last = 0;
	f.out = ports;
	f.in = ports + l->n_hosts;
	f.cap_out = ports + 2 * l->n_hosts;
	f.cap_in = ports + 3 * l->n_hosts;
	for (size_t i = 0; i < n; i++) {
		fit(&f, &jobs[i]);
		jobs[i].left_out = jobs[i].problem[0] != '\0';
		add_host(&f, jobs[i].from);
		add_host(&f, jobs[i].to);
	}
	do
		simulate(&f);
	while (o->deadline_ms && leave_out_late(&f));
	for (size_t i = 0; i < n; i++)
		if (!jobs[i].left_out && jobs[i].end_ms > last)
			last = jobs[i].end_ms;
	return last;
}
