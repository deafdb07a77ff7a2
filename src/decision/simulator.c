/* SPDX-License-Identifier: MIT */
/* simulator.c - see simulator.h: the steps, what is decided in them, and the events between. The world is in simulator-world.c, moves are in simulator-move.c. */
#include "decision/simulator.h"

#include <math.h>

#include "basic/str.h"
#include "decision/load.h"
#include "decision/memory.h"
#include "decision/simulator-internal.h"

#define PERCENT 100.0

/* ---------------------------------------------------------------- what containers need, and what is predicted */

static void take_load(struct sim *w)
{
	for (size_t h = 0; h < w->n_hosts; h++) {
		sim_account(w, h);
		w->hosts[h].cores = 0;
	}
	for (size_t i = 0; i < w->n_containers; i++) {
		w->containers[i].cores = sim_load_cores(w->load, i);
		w->hosts[w->containers[i].host].cores += w->containers[i].cores;
	}
	sim_refresh(w);
}

static unsigned horizon_of(const struct fm_scenario *sc)
{
	uint64_t steps = (sc->horizon_ms + sc->step_ms / 2) / sc->step_ms;
	return steps < 1 ? 1 : steps > FM_PREDICTOR_HORIZONS ? FM_PREDICTOR_HORIZONS : (unsigned)steps;
}

static void predict(struct sim *w)
{
	int64_t now = (int64_t)(w->sc->start_unix_ms + w->now_ms);
	struct fm_forecast f;
	for (size_t h = 0; h < w->n_hosts; h++) {
		struct fm_snap_host *snap = &w->s->hosts[h];
		snap->cpu_predicted_percent = NAN;
		if (!w->hosts[h].failed && fm_predictor_observe(w->hosts[h].predictor, now, snap->cpu_percent, NULL) == 0 &&
		    fm_predictor_forecast(w->hosts[h].predictor, horizon_of(w->sc), &f, NULL) == 0)
			snap->cpu_predicted_percent = f.value;
	}
	sim_refresh(w);
}

/* ---------------------------------------------------------------- events */

static void drain_asked(struct sim *w, const struct sim_event *e, size_t host)
{
	w->hosts[host].cordoned = true;
	w->r->drains[w->r->n_drains++] = (struct fm_simulation_drain){ .host = fm_xstrdup(e->name),
		                                                       .at_ms = e->at_ms,
		                                                       .deadline_ms = e->deadline_ms,
		                                                       .containers = w->hosts[host].n,
		                                                       .empty_ms = w->hosts[host].n ? FM_UNKNOWN : 0 };
	if (w->plan && w->plan->kind != FM_PLAN_DRAIN)
		w->stopped = true; /* it goes before what is not urgent */
}

static void happen(struct sim *w, const struct sim_event *e)
{
	size_t host = e->kind == SIM_LOAD ? SIZE_MAX : fm_snapshot_host(w->s, e->name);
	if (e->kind == SIM_LOAD) {
		for (size_t g = 0; g < w->sc->n_containers; g++)
			if (fm_streq(w->sc->containers[g].name, e->name))
				sim_load_factor(w->load, g, e->factor);
		take_load(w);
		return;
	}
	sim_account(w, host);
	if (e->kind == SIM_DRAIN)
		drain_asked(w, e, host);
	else if (e->kind == SIM_FAIL && !w->hosts[host].failed)
		sim_host_failed(w, host);
	if (e->kind == SIM_FAIL)
		w->hosts[host].failed = true;
	if (e->kind == SIM_RETURN)
		w->hosts[host].failed = w->hosts[host].cordoned = false;
	sim_refresh_host(w, host);
}

static void events_due(struct sim *w)
{
	while (w->next_event < w->sc->n_events && w->sc->events[w->next_event].at_ms <= w->now_ms)
		happen(w, &w->sc->events[w->next_event++]);
}

/* ---------------------------------------------------------------- drains */

/* A moment; UINT64_MAX: it has none */
static uint64_t deadline_of(const struct fm_simulation_drain *d)
{
	return d->deadline_ms ? d->at_ms + d->deadline_ms : UINT64_MAX;
}

static void judge(struct sim *w, size_t i)
{
	struct fm_simulation_drain *d = &w->r->drains[i];
	d->missed = w->hosts[fm_snapshot_host(w->s, d->host)].n;
	w->r->deadline_misses += d->deadline_ms ? d->missed : 0;
	w->judged[i] = true;
}

static void deadlines_due(struct sim *w)
{
	for (size_t i = 0; i < w->r->n_drains; i++)
		if (!w->judged[i] && deadline_of(&w->r->drains[i]) <= w->now_ms)
			judge(w, i);
}

static void start_drain(struct sim *w)
{
	while (!w->plan && w->next_drain < w->r->n_drains) {
		struct fm_simulation_drain *d = &w->r->drains[w->next_drain++];
		uint64_t deadline = deadline_of(d);
		struct fm_plan_opts o = w->opts;
		struct fm_plan *p = NULL;
		size_t host = fm_snapshot_host(w->s, d->host);
		if (deadline <= w->now_ms)
			continue; /* another one took all its time */
		o.deadline_ms = d->deadline_ms ? deadline - w->now_ms : 0;
		sim_refresh(w);
		if (fm_plan_drain(w->s, host, &o, &p, NULL) < 0)
			continue;
		d->begun = true;
		d->containers = w->hosts[host].n;
		d->foretold = p->n_left;
		sim_start_plan(w, p, d->deadline_ms ? deadline : 0);
	}
}

/* ---------------------------------------------------------------- what is decided in a step */

static void consolidate(struct sim *w)
{
	struct fm_plan *p = NULL;
	size_t due = w->next_consolidate;
	while (due < w->sc->n_consolidate && w->sc->consolidate_at_ms[due] <= w->now_ms)
		due++;
	if (due == w->next_consolidate || w->plan)
		return;
	w->next_consolidate = due;
	if (fm_plan_consolidate(w->s, &w->opts, &p, NULL) == 0)
		sim_start_plan(w, p, 0);
}

static void react(struct sim *w)
{
	struct fm_plan *p = NULL;
	if (w->plan || w->now_ms < w->next_reactive_ms)
		return;
	w->next_reactive_ms = (w->now_ms / w->sc->reactive_every_ms + 1) * w->sc->reactive_every_ms;
	if (fm_plan_balance(w->s, &w->opts, &p, NULL) == 0)
		sim_start_plan(w, p, 0);
}

static void foresee(struct sim *w)
{
	struct fm_plan *p = NULL;
	const struct fm_proactive_opts o = { .plan = w->opts,
		                             .margin_percent = w->sc->proactive.margin_percent,
		                             .sustain_ms = w->sc->proactive.sustain_ms,
		                             .settle_ms = w->sc->proactive.settle_ms,
		                             .cooldown_ms = w->sc->proactive.cooldown_ms,
		                             .return_ms = w->sc->proactive.return_ms,
		                             .moves_per_hour = (unsigned)w->sc->proactive.moves_per_hour,
		                             .moves_at_once = (unsigned)w->sc->proactive.moves_at_once };
	if (w->plan)
		return;
	fm_proactive_step(w->proactive, w->s, &o, &p);
	sim_start_plan(w, p, 0);
}

static void decide(struct sim *w)
{
	if (w->in->mode & FM_SIMULATE_CONSOLIDATE)
		consolidate(w);
	if (w->in->mode & FM_SIMULATE_REACTIVE)
		react(w);
	if (w->in->mode & FM_SIMULATE_PROACTIVE)
		foresee(w);
}

/* ---------------------------------------------------------------- a line of the timeline */

static void tell_row(const struct sim *w)
{
	struct fm_simulation_row r = { .at_ms = w->now_ms,
		                       .at_unix_ms = w->sc->start_unix_ms + w->now_ms,
		                       .hosts_in_use = w->hosts_in_use,
		                       .moves_under_way = w->n_moves,
		                       .moves = w->r->moved,
		                       .denied = w->r->denied,
		                       .wire_bytes = w->r->wire_bytes };
	size_t online = 0;
	for (size_t h = 0; w->in->row && h < w->n_hosts; h++) {
		const struct sim_host *host = &w->hosts[h];
		const struct fm_snap_host *snap = &w->s->hosts[h];
		double cpu = host->cores / snap->cpus * PERCENT, memory = host->memory_bytes / (double)snap->memory_total_bytes * PERCENT;
		r.hosts_offline += host->failed;
		if (host->failed)
			continue;
		online++;
		r.cpu_mean_percent += cpu;
		r.cpu_max_percent = fmax(r.cpu_max_percent, cpu);
		r.memory_max_percent = fmax(r.memory_max_percent, memory);
		r.hosts_over_cpu += fm_load_exceeds(cpu, w->opts.cpu_percent);
		r.hosts_over_memory += fm_load_exceeds(memory, w->opts.memory_percent);
	}
	r.cpu_mean_percent /= online ? (double)online : 1;
	if (w->in->row)
		w->in->row(w->in->userdata, &r);
}

/* ---------------------------------------------------------------- the whole */

static uint64_t next_moment(const struct sim *w, uint64_t until_ms)
{
	uint64_t next = until_ms;
	if (w->next_event < w->sc->n_events && w->sc->events[w->next_event].at_ms < next)
		next = w->sc->events[w->next_event].at_ms;
	for (size_t i = 0; i < w->r->n_drains; i++)
		if (!w->judged[i] && deadline_of(&w->r->drains[i]) < next)
			next = deadline_of(&w->r->drains[i]);
	return next;
}

/* What is due at this moment */
static void be_on_time(struct sim *w)
{
	deadlines_due(w);
	events_due(w);
	start_drain(w);
}

/* Up to a moment, but not what is due then */
static void go_on(struct sim *w, uint64_t until_ms)
{
	while (w->now_ms < until_ms) {
		be_on_time(w);
		sim_advance(w, next_moment(w, until_ms));
	}
}

static void sum_up(struct sim *w)
{
	struct fm_simulation *r = w->r;
	size_t n = w->in->policies ? w->in->policies->n : 0;
	for (size_t h = 0; h < w->n_hosts; h++)
		sim_account(w, h);
	for (size_t i = 0; i < r->n_drains; i++)
		if (!w->judged[i])
			judge(w, i);
	r->under_way = w->n_moves;
	r->hosts_in_use_end = w->hosts_in_use;
	r->hosts_in_use_mean = r->duration_ms ? (double)w->in_use_ms / (double)r->duration_ms : 0;
	r->denials = fm_alloc_array(n + 1, sizeof(*r->denials));
	for (size_t i = 0; i <= n; i++)
		if (w->denials[i])
			r->denials[r->n_denials++] =
			        (struct fm_simulation_denials){ fm_xstrdup(i < n ? w->in->policies->v[i]->name : ""), w->denials[i] };
}

void sim_run(struct sim *w)
{
	for (uint64_t k = 0; k < w->r->steps; k++) {
		go_on(w, k * w->sc->step_ms);
		sim_load_step(w->load, w->now_ms);
		take_load(w);
		be_on_time(w);
		if (w->in->mode & FM_SIMULATE_PROACTIVE)
			predict(w);
		decide(w);
		tell_row(w);
	}
	go_on(w, w->r->duration_ms);
	deadlines_due(w);
	sum_up(w);
}

int fm_simulate(const struct fm_scenario *s, const struct fm_simulation_inputs *in, struct fm_simulation **ret, struct fm_error *err)
{
	_fm_cleanup_(sim_world_freep) struct sim *w = NULL;
	size_t traces = 0;
	(void)fm_scenario_traces(s, &traces);
	for (size_t i = 0; i < traces; i++)
		if (!in->traces || in->traces[i].n == 0)
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "trace '%s' is missing", s->traces[i]);
	if (sim_world_new(s, in, &w, err) < 0)
		return -1;
	sim_run(w);
	*ret = FM_TAKE_PTR(w->r);
	return 0;
}
