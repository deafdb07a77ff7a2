/* SPDX-License-Identifier: MIT */
/*
 * simulator-move.c - see simulator-internal.h: a plan is carried out, step by step, as the manager does it (migration/planner.h), and moves take their time.
 *
 * A move has a part that takes as long as it takes, and bytes; both are found by asking the cost model's formula twice, as schedule-fair.c does. Moves share the hosts' ways into the network fairly
 * (max-min; Bertsekas and Gallager, Data Networks, 6.5.2), none has more than its plan gave it. What the formula says is then bent by the scenario's outcome: factors and chance.
 */
#include <math.h>
#include <string.h>

#include "basic/str.h"
#include "decision/memory.h"
#include "decision/simulator-internal.h"

#define QUARTER    4.0
#define SETTLED    1e-9
#define NOTHING    1e-6 /* ms or bytes */
#define MET_SHARE  0.3  /* a forecast of downtime is met within that, */
#define MET_MS     20.0 /* or that */
#define CHANCE     0xc4a2ceu
#define WIRE_NOISE 0.25 /* bytes vary less than times do */

/* ---------------------------------------------------------------- steps of the plan */

static bool step_of_plan(const struct sim *w, const struct sim_move *m)
{
	return w->plan && m->plan == w->plan_number;
}

static void give_up(struct sim *w, size_t step)
{
	w->steps[step] = SIM_GIVEN_UP;
	w->stopped =
	        w->stopped || w->plan->kind != FM_PLAN_DRAIN; /* one that fails stops the rest, but who can leave a drained host does */
}

static bool share_a_host(const struct fm_plan_step *a, const struct fm_plan_step *b)
{
	return a->from == b->from || a->to == b->to || a->from == b->to || a->to == b->from;
}

/* As in migration/planner-run.c: what shares a host overlaps only if it does in the plan. */
static bool ready(const struct sim *w, size_t i)
{
	const struct fm_plan_step *s = &w->plan->steps[i];
	for (size_t k = 0; k < s->n_depends_on; k++)
		if (w->steps[s->depends_on[k]] != SIM_DONE)
			return false;
	for (size_t k = 0; k < w->plan->n_steps; k++) {
		const struct fm_plan_step *o = &w->plan->steps[k];
		if (k != i && w->steps[k] == SIM_RUNNING && share_a_host(s, o) && (o->end_ms <= s->start_ms || s->end_ms <= o->start_ms))
			return false;
	}
	return true;
}

void sim_start_plan(struct sim *w, struct fm_plan *p, uint64_t deadline_ms)
{
	if (p->n_steps == 0) {
		fm_plan_free(p);
		return;
	}
	w->r->plans++;
	w->plan = p;
	w->steps = fm_alloc_array(p->n_steps, sizeof(*w->steps));
	w->waited = fm_alloc_array(p->n_steps, sizeof(*w->waited));
	w->stopped = false;
	w->plan_number++;
	w->plan_deadline_ms = deadline_ms;
}

static void end_plan(struct sim *w)
{
	fm_plan_free(w->plan);
	free(w->steps);
	free(w->waited);
	w->plan = NULL;
	w->steps = NULL;
	w->waited = NULL;
}

/* ---------------------------------------------------------------- may it begin? */

static bool can_begin(const struct sim *w, const struct fm_plan_step *st)
{
	const struct sim_container *c = &w->containers[st->container];
	const struct sim_host *to = &w->hosts[st->to];
	double needed = to->memory_bytes + (double)w->s->containers[st->container].memory_bytes;
	return c->host == st->from && !c->moving && !w->hosts[st->from].failed && !to->failed && !to->cordoned &&
	       needed <= (double)w->s->hosts[st->to].memory_total_bytes;
}

static bool within(unsigned limit, unsigned n)
{
	return limit == 0 || n < limit;
}

static bool within_limits(const struct sim *w, const struct fm_policy_limits *l, const struct fm_plan_step *st)
{
	unsigned at_from = 0, at_to = 0, on_link = 0;
	for (size_t i = 0; i < w->n_moves; i++) {
		const struct sim_move *m = &w->moves[i];
		at_from += m->from == st->from || m->to == st->from;
		at_to += m->from == st->to || m->to == st->to;
		on_link += (m->from == st->from && m->to == st->to) || (m->from == st->to && m->to == st->from);
	}
	return within(l->global, (unsigned)w->n_moves) && within(l->per_host, at_from) && within(l->per_host, at_to) &&
	       within(l->per_link, on_link);
}

struct asked {
	struct fm_workload_snapshot work;
	struct fm_strategy_choice choice;
	uint32_t duration_s;
	bool denied, waits;
	const char *by;
};

static void count_denial(struct sim *w, const char *by)
{
	size_t n = w->in->policies ? w->in->policies->n : 0, i = 0;
	while (i < n && !fm_streq(w->in->policies->v[i]->name, by))
		i++;
	w->denials[i]++;
	w->r->denied++;
}

/* -1: no strategy is possible */
static int ask_policies(struct sim *w, const struct fm_plan_step *st, struct asked *a)
{
	struct fm_policy_decision d = { 0 };
	enum fm_strategy strategy = FM_STRATEGY_AUTO;
	const struct fm_policy_case c = { .snapshot = w->s,
		                          .container = st->container,
		                          .source = st->from,
		                          .destination = st->to,
		                          .strategy = fm_strategy_to_string(a->choice.strategy),
		                          .requested_strategy = fm_strategy_to_string(st->cost.strategy),
		                          .trigger = fm_plan_kind_to_string(w->plan->kind),
		                          .predicted_downtime_ms = a->choice.predicted_downtime_ms,
		                          .predicted_total_ms = a->choice.predicted_total_ms,
		                          .predicted_wire_bytes = a->choice.predicted_wire_bytes,
		                          .active_migrations = (unsigned)w->n_moves };
	int rc = 0;
	if (!w->in->policies)
		return 0;
	fm_policies_decide(w->in->policies, &c, &d);
	json_decref(d.record);
	a->denied = !d.allowed || d.approval_by; /* nobody is there to approve */
	a->by = d.allowed ? d.approval_by : d.decided_by;
	a->waits = !a->denied && !within_limits(w, &d.limits, st);
	a->duration_s = d.duration_s;
	if (!a->denied && !a->waits && d.strategy && fm_strategy_from_string(d.strategy, &strategy, NULL) == 0)
		rc = fm_strategy_choose(&a->work, strategy, &a->choice, NULL);
	return rc;
}

/* ---------------------------------------------------------------- a move begins */

/* How long it takes with all it may have, and with a quarter of that: time = fixed + bytes / rate */
static void fit(struct sim_move *m)
{
	struct fm_cost_case c = m->c;
	struct fm_cost quick, slow;
	c.bandwidth_bytes_per_s = (uint64_t)fmax(m->most * 1000, 1);
	fm_cost_predict(NULL, &c, &quick);
	c.bandwidth_bytes_per_s = (uint64_t)fmax(m->most * 1000 / QUARTER, 1);
	fm_cost_predict(NULL, &c, &slow);
	m->left_bytes = fmax(0, slow.total_ms - quick.total_ms) / (QUARTER - 1) * m->most;
	m->left_ms = quick.total_ms - m->left_bytes / m->most;
	if (m->left_ms < 0) {
		m->left_ms = 0;
		m->left_bytes = quick.total_ms * m->most;
	}
}

static void draw_outcome(const struct sim *w, struct sim_move *m)
{
	struct sim_container *c = &w->containers[m->container];
	uint64_t state = sim_seed(w->in->seed + c->moves++, CHANCE, m->container);
	double noise = w->sc->outcome.noise, longer = w->sc->outcome.total_factor * exp(noise * sim_normal(&state));
	m->downtime_factor = w->sc->outcome.downtime_factor * exp(noise * sim_normal(&state));
	m->wire_factor = exp(WIRE_NOISE * noise * sim_normal(&state));
	m->fails = sim_uniform(&state) < w->sc->outcome.failures;
	m->left_ms *= longer;
	m->left_bytes *= longer;
	m->all_bytes = m->left_bytes;
}

static double way_of(const struct sim *w, size_t host)
{
	return w->opts.link_share * (double)w->s->hosts[host].network_capacity_bytes_per_s / 1000;
}

static void begin(struct sim *w, size_t step, const struct asked *a)
{
	const struct fm_plan_step *st = &w->plan->steps[step];
	if (w->n_moves == w->cap_moves) {
		w->cap_moves = w->cap_moves ? 2 * w->cap_moves : 16;
		w->moves = fm_grow_array(w->moves, w->cap_moves, sizeof(*w->moves));
	}
	struct sim_move *m = &w->moves[w->n_moves++];
	*m = (struct sim_move){
		.container = st->container, .from = st->from, .to = st->to, .step = step, .plan = w->plan_number, .c = a->work.c
	};
	m->c.strategy = a->choice.strategy;
	m->began_ms = w->now_ms;
	m->limit_ms = (uint64_t)a->duration_s * 1000;
	m->predicted_downtime_ms = a->choice.predicted_downtime_ms;
	m->most = fmin(fmin(way_of(w, st->from), way_of(w, st->to)), (double)st->bandwidth_bytes_per_s / 1000);
	m->most = fmax(m->most, NOTHING);
	fit(m);
	draw_outcome(w, m);
	sim_account(w, st->to);
	w->hosts[st->to].memory_bytes += (double)w->s->containers[st->container].memory_bytes;
	w->containers[st->container].moving = w->s->containers[st->container].moving = true;
	sim_refresh_host(w, st->to);
	w->steps[step] = SIM_RUNNING;
}

static void try_step(struct sim *w, size_t i)
{
	const struct fm_plan_step *st = &w->plan->steps[i];
	struct asked a = { 0 };
	struct fm_move m = { st->container,
		             st->from,
		             st->to,
		             st->cost.strategy,
		             w->s->containers[st->container].memory_bytes,
		             st->bandwidth_bytes_per_s ? st->bandwidth_bytes_per_s : 1,
		             w->s->hosts[st->to].memory_available_bytes };
	w->s->at_unix_ms = w->sc->start_unix_ms + w->now_ms;
	a.work = fm_move_workload(w->s, &m);
	a.work.model = w->model;
	bool possible =
	        can_begin(w, st) && fm_strategy_choose(&a.work, st->cost.strategy, &a.choice, NULL) == 0 && ask_policies(w, st, &a) == 0;
	if (a.waits) {
		w->r->queued += !w->waited[i];
		w->waited[i] = true;
		return;
	}
	w->r->asked++;
	if (a.denied)
		count_denial(w, a.by);
	else if (!possible)
		w->r->refused++;
	if (a.denied || !possible)
		give_up(w, i);
	else
		begin(w, i, &a);
}

static bool is_hopeless(const struct sim *w, size_t step)
{
	const struct fm_plan_step *s = &w->plan->steps[step];
	for (size_t k = 0; k < s->n_depends_on; k++)
		if (w->steps[s->depends_on[k]] == SIM_GIVEN_UP)
			return true;
	return false;
}

static void begin_ready(struct sim *w)
{
	if (!w->plan)
		return;
	if (w->plan_deadline_ms && w->now_ms >= w->plan_deadline_ms)
		w->stopped = true;
	for (size_t i = 0; i < w->plan->n_steps; i++)
		if (w->steps[i] == SIM_WAITING && is_hopeless(w, i))
			w->steps[i] = SIM_GIVEN_UP;
	for (size_t i = 0; i < w->plan->n_steps && !w->stopped && w->n_moves < w->opts.max_concurrent; i++)
		if (w->steps[i] == SIM_WAITING && ready(w, i))
			try_step(w, i);
}

static bool plan_is_over(const struct sim *w)
{
	bool over = w->plan != NULL;
	for (size_t i = 0; over && i < w->plan->n_steps; i++)
		over = w->steps[i] != SIM_RUNNING && (w->stopped || w->steps[i] != SIM_WAITING);
	return over;
}

/* ---------------------------------------------------------------- a move ends */

static void remember_left(struct sim *w, const struct sim_move *m)
{
	struct sim_container *c = &w->containers[m->container];
	bool back = false;
	for (unsigned i = 0; i < c->n_left && i < SIM_REMEMBERED; i++)
		back = back || (c->left[i] == m->to && w->now_ms - c->left_at_ms[i] < SIM_BACK_MS);
	w->r->ping_pong += back;
	c->left[c->n_left % SIM_REMEMBERED] = m->from;
	c->left_at_ms[c->n_left % SIM_REMEMBERED] = w->now_ms;
	c->n_left++;
}

static void change_host(struct sim *w, const struct sim_move *m)
{
	struct sim_container *c = &w->containers[m->container];
	struct sim_host *from = &w->hosts[m->from], *to = &w->hosts[m->to];
	sim_account(w, m->from);
	sim_account(w, m->to);
	from->memory_bytes -= (double)w->s->containers[m->container].memory_bytes;
	from->cores -= c->cores;
	to->cores += c->cores;
	w->hosts_in_use += to->n++ == 0;
	w->hosts_in_use -= --from->n == 0;
	if (from->n == 0)
		from->cores = 0; /* no rest of rounding; memory is whole numbers */
	c->host = w->s->containers[m->container].host = m->to;
	c->moving = w->s->containers[m->container].moving = false;
	w->s->containers[m->container].last_moved_unix_ms = w->sc->start_unix_ms + w->now_ms;
	if (w->hosts_in_use > w->r->hosts_in_use_most)
		w->r->hosts_in_use_most = w->hosts_in_use;
	sim_refresh_host(w, m->from);
	sim_refresh_host(w, m->to);
	for (size_t i = 0; from->n == 0 && i < w->r->n_drains; i++)
		if (fm_streq(w->r->drains[i].host, w->s->hosts[m->from].name) && w->r->drains[i].empty_ms == FM_UNKNOWN)
			w->r->drains[i].empty_ms = w->now_ms - w->r->drains[i].at_ms;
}

static void learn(struct sim *w, struct sim_move *m)
{
	struct fm_cost k;
	uint64_t sent_ms = w->now_ms - m->sends_since_ms;
	double rate = sent_ms ? m->all_bytes / (double)sent_ms : m->most;
	m->c.bandwidth_bytes_per_s = (uint64_t)fmax(rate * 1000, 1);
	fm_cost_predict(NULL, &m->c, &k);
	double total_ms = (double)(w->now_ms - m->began_ms), downtime_ms = fmin(k.downtime_ms * m->downtime_factor, total_ms);
	const struct fm_cost_outcome o = { downtime_ms, total_ms, k.wire_bytes * m->wire_factor };
	double off = fabs((double)m->predicted_downtime_ms - downtime_ms);
	w->r->forecasts_met += off <= MET_MS || off <= MET_SHARE * downtime_ms;
	w->r->downtime_ms += downtime_ms;
	w->r->longest_downtime_ms = fmax(w->r->longest_downtime_ms, downtime_ms);
	w->r->total_ms += total_ms;
	w->r->wire_bytes += (uint64_t)o.wire_bytes;
	fm_cost_learn(w->model, &m->c, &o);
}

static void roll_back(struct sim *w, const struct sim_move *m)
{
	double memory = (double)w->s->containers[m->container].memory_bytes;
	sim_account(w, m->to);
	w->hosts[m->to].memory_bytes -= memory;
	w->containers[m->container].moving = w->s->containers[m->container].moving = false;
	w->r->wasted_bytes += (uint64_t)(m->all_bytes - fmax(m->left_bytes, 0));
	sim_refresh_host(w, m->to);
	if (step_of_plan(w, m))
		give_up(w, m->step);
}

static void finish(struct sim *w, struct sim_move *m)
{
	if (m->fails) {
		w->r->failed++;
		roll_back(w, m);
		return;
	}
	w->r->moved++;
	w->r->by_strategy[m->c.strategy]++;
	learn(w, m);
	remember_left(w, m);
	change_host(w, m);
	if (step_of_plan(w, m))
		w->steps[m->step] = SIM_DONE;
}

static void remove_move(struct sim *w, size_t i)
{
	memmove(&w->moves[i], &w->moves[i + 1], (w->n_moves - i - 1) * sizeof(*w->moves));
	w->n_moves--;
}

static void end_moves(struct sim *w)
{
	for (size_t i = 0; i < w->n_moves;) {
		struct sim_move m = w->moves[i];
		bool overdue = m.phase != SIM_OVER && m.limit_ms && w->now_ms - m.began_ms >= m.limit_ms;
		if (m.phase != SIM_OVER && !overdue) {
			i++;
			continue;
		}
		remove_move(w, i);
		w->r->overdue += overdue;
		if (overdue)
			roll_back(w, &m);
		else
			finish(w, &m);
	}
}

void sim_host_failed(struct sim *w, size_t host)
{
	for (size_t i = 0; i < w->n_moves;) {
		struct sim_move m = w->moves[i];
		if (m.from != host && m.to != host) {
			i++;
			continue;
		}
		remove_move(w, i);
		w->r->interrupted++;
		roll_back(w, &m);
	}
}

/* ---------------------------------------------------------------- links */

/* All rates grow together until a way is full or a move has all it may have; these are done with, the others go on. */
static bool grow_rates(struct sim *w)
{
	double step = INFINITY;
	for (size_t i = 0; i < w->n_moves; i++) {
		const struct sim_move *m = &w->moves[i];
		const struct sim_ways *from = &w->ways[m->from], *to = &w->ways[m->to];
		if (!m->fixed)
			step = fmin(fmin(step, m->most - m->rate), fmin(from->out / from->n_out, to->in / to->n_in));
	}
	if (!isfinite(step))
		return false;
	for (size_t i = 0; i < w->n_moves; i++)
		if (!w->moves[i].fixed) {
			w->moves[i].rate += step;
			w->ways[w->moves[i].from].out -= step;
			w->ways[w->moves[i].to].in -= step;
		}
	for (size_t i = 0; i < w->n_moves; i++) {
		struct sim_move *m = &w->moves[i];
		struct sim_ways *from = &w->ways[m->from], *to = &w->ways[m->to];
		m->fixed = m->fixed || m->rate >= m->most * (1 - SETTLED) || from->out <= SETTLED * way_of(w, m->from) ||
		           to->in <= SETTLED * way_of(w, m->to);
	}
	return true;
}

static void count_users(struct sim *w)
{
	for (size_t i = 0; i < w->n_moves; i++)
		w->ways[w->moves[i].from].n_out = w->ways[w->moves[i].to].n_in = 0;
	for (size_t i = 0; i < w->n_moves; i++)
		if (!w->moves[i].fixed) {
			w->ways[w->moves[i].from].n_out++;
			w->ways[w->moves[i].to].n_in++;
		}
}

static void share_out(struct sim *w)
{
	for (size_t i = 0; i < w->n_moves; i++) {
		struct sim_move *m = &w->moves[i];
		m->rate = 0;
		m->fixed = m->phase != SIM_SENDS;
		w->ways[m->from].out = way_of(w, m->from);
		w->ways[m->to].in = way_of(w, m->to);
	}
	do
		count_users(w);
	while (grow_rates(w));
}

/* ---------------------------------------------------------------- time passes */

/* Until something ends, in whole milliseconds, or `most` */
static uint64_t next_ms(const struct sim *w, uint64_t most)
{
	double next = (double)most;
	for (size_t i = 0; i < w->n_moves; i++) {
		const struct sim_move *m = &w->moves[i];
		next = fmin(next, ceil((m->phase == SIM_PREPARES ? m->left_ms : m->left_bytes / m->rate) - NOTHING));
		if (m->limit_ms)
			next = fmin(next, (double)(m->limit_ms - (w->now_ms - m->began_ms)));
	}
	return next < 1 ? 1 : (uint64_t)next;
}

static void pass(struct sim *w, uint64_t ms)
{
	w->now_ms += ms;
	for (size_t i = 0; i < w->n_moves; i++) {
		struct sim_move *m = &w->moves[i];
		if (m->phase == SIM_PREPARES) {
			m->left_ms -= (double)ms;
			if (m->left_ms <= NOTHING) {
				m->phase = SIM_SENDS;
				m->sends_since_ms = w->now_ms;
			}
		} else {
			m->left_bytes -= m->rate * (double)ms;
		}
		if (m->phase == SIM_SENDS && m->left_bytes <= NOTHING)
			m->phase = SIM_OVER;
	}
}

void sim_advance(struct sim *w, uint64_t until_ms)
{
	for (;;) {
		begin_ready(w);
		if (plan_is_over(w)) {
			end_plan(w);
			return;
		}
		if (w->now_ms >= until_ms)
			return;
		share_out(w);
		pass(w, next_ms(w, until_ms - w->now_ms));
		end_moves(w);
	}
}
