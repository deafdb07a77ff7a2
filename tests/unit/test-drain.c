/* SPDX-License-Identifier: MIT */
/* test-drain.c - all off a host by a deadline: next to an exact scheduler on small cases, simulated on links that are shared; and what is said of what will not make it. */
#include "check.h"
#include "planning-lab.h"

#include "decision/placement.h"

#define MAX_JOBS 8

static struct fm_plan *drain(const struct fm_snapshot *s, size_t host, uint64_t deadline_ms)
{
	struct fm_move_costs costs = { lab_predict, NULL };
	struct fm_plan_opts o = { .deadline_ms = deadline_ms, .costs = &costs };
	struct fm_plan *p = NULL;
	assert_ok(fm_plan_drain(s, host, &o, &p, &err));
	return p;
}

/* ---------------------------------------------------------------- a simulator of shared links: every transfer gets its fair part at every moment */

struct sim_job {
	size_t to;
	double fixed_ms, bytes, at_most; /* bytes/ms it may use; INFINITY */
	double start_ms;                 /* not before */
	double end_ms, left_fixed, left_bytes, rate;
	bool begun, over;
};
struct sim {
	double out;   /* bytes/ms of the host that is drained */
	double in[4]; /* of the others */
	struct sim_job jobs[MAX_JOBS];
	size_t n, slots;
};

/* Max-min fair: rates of all grow together until one of their links is full, or their own limit is reached. */
static void share_out(struct sim *s)
{
	double out = s->out, in[4];
	bool fixed[MAX_JOBS];
	memcpy(in, s->in, sizeof(in));
	for (size_t i = 0; i < s->n; i++) {
		s->jobs[i].rate = 0;
		fixed[i] = !s->jobs[i].begun || s->jobs[i].over || s->jobs[i].left_fixed > 0;
	}
	for (;;) {
		double step = INFINITY;
		size_t users = 0, users_in[4] = { 0 };
		for (size_t i = 0; i < s->n; i++)
			if (!fixed[i]) {
				users++;
				users_in[s->jobs[i].to]++;
				step = fmin(step, s->jobs[i].at_most - s->jobs[i].rate);
			}
		if (users == 0)
			return;
		step = fmin(step, out / (double)users);
		for (int h = 0; h < 4; h++)
			if (users_in[h])
				step = fmin(step, in[h] / (double)users_in[h]);
		for (size_t i = 0; i < s->n; i++)
			if (!fixed[i]) {
				s->jobs[i].rate += step;
				out -= step;
				in[s->jobs[i].to] -= step;
			}
		for (size_t i = 0; i < s->n; i++)
			fixed[i] = fixed[i] || out < 1e-9 * s->out || in[s->jobs[i].to] < 1e-9 * s->in[s->jobs[i].to] ||
			           s->jobs[i].rate >= s->jobs[i].at_most * (1 - 1e-12);
	}
}

static bool begin_jobs(struct sim *s, double now)
{
	size_t active = 0, left = 0;
	for (size_t i = 0; i < s->n; i++) {
		active += s->jobs[i].begun && !s->jobs[i].over;
		left += !s->jobs[i].over;
	}
	for (size_t i = 0; i < s->n && active < s->slots; i++)
		if (!s->jobs[i].begun && s->jobs[i].start_ms <= now + 1e-6) {
			s->jobs[i].begun = true;
			s->jobs[i].left_fixed = s->jobs[i].fixed_ms;
			s->jobs[i].left_bytes = s->jobs[i].bytes;
			active++;
		}
	return left > 0;
}

static double simulate(struct sim *s)
{
	double now = 0;
	while (begin_jobs(s, now)) {
		double step = INFINITY;
		share_out(s);
		for (size_t i = 0; i < s->n; i++) {
			struct sim_job *j = &s->jobs[i];
			if (!j->begun && j->start_ms > now)
				step = fmin(step, j->start_ms - now);
			if (!j->begun || j->over)
				continue;
			step = fmin(step, j->left_fixed > 0 ? j->left_fixed : j->left_bytes / j->rate);
		}
		now += step;
		for (size_t i = 0; i < s->n; i++) {
			struct sim_job *j = &s->jobs[i];
			if (!j->begun || j->over)
				continue;
			if (j->left_fixed > 0)
				j->left_fixed = j->left_fixed - step < 1e-6 ? 0 : j->left_fixed - step;
			else
				j->left_bytes -= j->rate * step;
			if (j->left_fixed <= 0 && j->left_bytes < 1) {
				j->over = true;
				j->end_ms = now;
			}
		}
	}
	return now;
}

/* ---------------------------------------------------------------- the exact scheduler */

struct exact {
	const struct fm_snapshot *s;
	double fixed_ms[MAX_JOBS], bytes[MAX_JOBS];
	struct sim links;
	size_t n, to[MAX_JOBS], order[MAX_JOBS];
	double memory[4], best, enough; /* GB left; the shortest makespan; it may stop when one is as short as this */
};

static void try_order(struct exact *e)
{
	for (size_t slots = 1; slots <= 4 && e->best > e->enough; slots++) {
		struct sim s = e->links;
		s.n = e->n;
		s.slots = slots;
		for (size_t i = 0; i < e->n; i++)
			s.jobs[i] = (struct sim_job){ .to = e->to[e->order[i]],
				                      .fixed_ms = e->fixed_ms[e->order[i]],
				                      .bytes = e->bytes[e->order[i]],
				                      .at_most = INFINITY };
		double end = simulate(&s);
		e->best = end < e->best ? end : e->best;
	}
}

static void try_orders(struct exact *e, size_t k)
{
	if (k == e->n) {
		try_order(e);
		return;
	}
	for (size_t i = k; i < e->n && e->best > e->enough; i++) {
		size_t was = e->order[k];
		e->order[k] = e->order[i];
		e->order[i] = was;
		try_orders(e, k + 1);
		e->order[i] = e->order[k];
		e->order[k] = was;
	}
}

static void try_hosts(struct exact *e, size_t k)
{
	if (k == e->n) {
		try_orders(e, 0);
		return;
	}
	double size = (double)e->s->containers[k].memory_bytes / 1e9;
	for (size_t h = 1; h < e->s->n_hosts && e->best > e->enough; h++)
		if (e->memory[h] >= size - 1e-9) {
			e->memory[h] -= size;
			e->to[k] = h;
			try_hosts(e, k + 1);
			e->memory[h] += size;
		}
}

/* The fastest strategy there is: everything once (post-copy). */
static void cost_of(const struct fm_snapshot *s, size_t c, double *fixed_ms, double *bytes)
{
	struct fm_move m = { c, 0, 1, FM_STRATEGY_POST_COPY, s->containers[c].memory_bytes, 1000 * GB, FM_UNKNOWN };
	struct fm_move_cost r;
	assert_ok(lab_predict(NULL, s, &m, &r, &err));
	*bytes = (double)r.wire_bytes;
	*fixed_ms = (double)r.total_ms - *bytes / 1e12 * 1000;
}

static struct fm_snapshot *random_case(uint64_t *seed, struct exact *e)
{
	struct fm_snapshot *s = fm_snapshot_new(1);
	size_t hosts = 3 + lab_random(seed) % 2, n = 3 + lab_random(seed) % 3;
	*e = (struct exact){ .s = s, .n = n, .best = INFINITY };
	double total = 0;
	for (size_t h = 0; h < hosts; h++) {
		(void)lab_host(s);
		s->hosts[h].network_capacity_bytes_per_s = (uint64_t)lab_uniform(seed, 50, 250) * MB;
		e->links.in[h] = 0.8 * (double)s->hosts[h].network_capacity_bytes_per_s / 1000;
	}
	e->links.out = e->links.in[0];
	for (size_t c = 0; c < n; c++) {
		(void)lab_container(s, 0, 0.1, (uint64_t)lab_uniform(seed, 200, 8000) * MB);
		cost_of(s, c, &e->fixed_ms[c], &e->bytes[c]);
		total += (double)s->containers[c].memory_bytes / 1e9;
		e->order[c] = c;
	}
	for (size_t h = 1; h < hosts; h++) { /* room, of 70 GB below the threshold, for some of it */
		e->memory[h] = fmin(65, lab_uniform(seed, 0.4, 1.2) * total);
		lab_use(s, h, 0, (90 - e->memory[h]) * 1e9);
		s->hosts[h].memory_available_bytes = 100 * GB; /* enough for two copies: strategies are not what this is about */
	}
	return s;
}

static void check_simulated(const struct exact *e, const struct fm_plan *p, double deadline_ms)
{
	struct sim s = e->links;
	s.n = p->n_steps;
	s.slots = MAX_JOBS;
	for (size_t i = 0; i < p->n_steps; i++) {
		double factor =
		        p->steps[i].cost.strategy == FM_STRATEGY_LIVE || p->steps[i].cost.strategy == FM_STRATEGY_PRE_COPY ? 1.3 : 1;
		s.jobs[i] = (struct sim_job){ .to = p->steps[i].to,
			                      .fixed_ms = e->fixed_ms[p->steps[i].container],
			                      .bytes = factor * e->bytes[p->steps[i].container],
			                      .at_most = (double)p->steps[i].bandwidth_bytes_per_s / 1000,
			                      .start_ms = (double)p->steps[i].start_ms };
	}
	double end = simulate(&s);
	if (end > deadline_ms + 50)
		fail_msg("the plan says %.0f ms, the simulator %.0f ms, the deadline is %.0f ms", (double)p->duration_ms, end, deadline_ms);
}

static void test_deadlines_that_can_be_met_are(void **state)
{
	uint64_t seed = 424242;
	size_t possible = 0, met = 0, impossible = 0;
	while (possible < 200) {
		struct exact e;
		struct fm_snapshot *s = random_case(&seed, &e);
		double total = 0, longest_fixed = 0;
		for (size_t c = 0; c < e.n; c++) {
			total += e.bytes[c];
			longest_fixed = fmax(longest_fixed, e.fixed_ms[c]);
		}
		double deadline = floor(total / e.links.out * lab_uniform(&seed, 0.9, 1.5) + longest_fixed);
		e.enough = deadline;
		if (total / e.links.out < deadline)
			try_hosts(&e, 0);
		struct fm_plan *p = drain(s, 0, (uint64_t)deadline);
		bool can = e.best <= deadline;
		possible += can;
		impossible += !can;
		met += can && p->complete;
		if (p->complete && !can && e.best > deadline + 50)
			fail_msg("the plan claims what cannot be: %.0f ms, the exact schedule takes %.0f ms", (double)p->duration_ms,
			         e.best);
		if (can && !p->complete)
			print_message("missed: deadline %.0f ms, exact %.0f ms, %zu of %zu left: %s\n", deadline, e.best, p->n_left, e.n,
			              p->left[0].why);
		assert_true(p->duration_ms <= (uint64_t)deadline);
		assert_int_equal(p->n_steps + p->n_left, e.n);
		check_simulated(&e, p, deadline);
		fm_plan_free(p);
		fm_snapshot_free(s);
	}
	print_message("%zu of %zu deadlines met that an exact schedule meets; %zu were impossible\n", met, possible, impossible);
	assert_true(impossible > 20); /* else they are not tight */
	assert_true(met * 100 >= possible * 95);
}

/* ---------------------------------------------------------------- one thing each */

static void test_important_first(void **state)
{
	struct fm_snapshot *s = fm_snapshot_new(1);
	size_t a = lab_host(s);
	(void)lab_host(s);
	for (int i = 0; i < 6; i++) /* 20 s each on 100 MB/s; 50 s are enough for two */
		(void)lab_container(s, a, 0.1, 2 * GB);
	fm_snap_labels_add(&s->containers[3].labels, "fleximigrate.importance", "50");
	fm_snap_labels_add(&s->containers[5].labels, "fleximigrate.importance", "20");
	struct fm_plan *p = drain(s, a, 45000);
	assert_false(p->complete);
	assert_int_equal(p->n_steps, 2);
	assert_true(p->steps[0].container + p->steps[1].container == 8);
	assert_int_equal(p->n_left, 4);
	assert_non_null(strstr(p->left[0].why, "45.0 s"));
	assert_non_null(strstr(p->summary, "4 containers of 'h0' will not make it"));
	char *json = fm_plan_to_json(p);
	assert_true(strstr(json, "will_not_make_it") < strstr(json, "steps"));
	free(json);
	fm_plan_free(p);
	fm_snapshot_free(s);
}

static void test_no_deadline_takes_the_least_downtime(void **state)
{
	struct fm_snapshot *s = fm_snapshot_new(1);
	size_t a = lab_host(s);
	(void)lab_host(s);
	(void)lab_container(s, a, 1, 10 * GB);
	struct fm_plan *p = drain(s, a, 0);
	assert_true(p->complete);
	assert_int_equal(p->steps[0].cost.strategy, FM_STRATEGY_LIVE);
	uint64_t live_ms = p->duration_ms;
	fm_plan_free(p);
	p = drain(s, a, live_ms - 1000); /* live is too slow now */
	assert_true(p->complete);
	assert_int_equal(p->steps[0].cost.strategy, FM_STRATEGY_POST_COPY);
	assert_non_null(strstr(p->steps[0].why, "in time"));
	fm_plan_free(p);
	fm_snapshot_free(s);
}

static void test_no_room_is_said(void **state)
{
	struct fm_snapshot *s = fm_snapshot_new(1);
	size_t a = lab_host(s), b = lab_host(s), c = lab_host(s);
	(void)lab_container(s, a, 1, 50 * GB);
	(void)lab_container(s, a, 1, 30 * GB);
	lab_container(s, a, 1, GB)->fixed = true;
	s->containers[2].blocker = strdup("it has a device of the host");
	lab_use(s, b, 0, 55e9); /* to 90 %: 35 GB */
	s->hosts[c].online = false;
	struct fm_plan *p = drain(s, a, 0);
	assert_int_equal(p->n_steps, 1);
	assert_string_equal(p->steps[0].container_name, "c1");
	assert_int_equal(p->n_left, 2);
	assert_non_null(strstr(p->left[0].why, "'h1': it has too little memory left; 'h2': it is offline"));
	assert_string_equal(p->left[1].why, "it has a device of the host");
	fm_plan_free(p);
	fm_snapshot_free(s);
}

static void test_thresholds_before_limits(void **state)
{
	struct fm_snapshot *s = fm_snapshot_new(1);
	size_t a = lab_host(s), b = lab_host(s), c = lab_host(s);
	(void)lab_container(s, a, 1, 20 * GB);
	lab_use(s, b, 0, 60e9); /* would be at 80 % */
	lab_use(s, c, 6, 45e9); /* 65 % */
	struct fm_plan *p = drain(s, a, 0);
	assert_int_equal(p->steps[0].to, c);
	fm_plan_free(p);
	fm_snapshot_free(s);
}

static void test_what_is_not_known_counts_with_the_most_it_can_be(void **state)
{
	struct fm_snapshot *s = fm_snapshot_new(1);
	size_t a = lab_host(s), b = lab_host(s);
	struct fm_snap_container *c = lab_container(s, a, 5, 10 * GB);
	c->cpu_cores = NAN; /* its host uses 5: it cannot be more */
	lab_use(s, b, 6, 0);
	struct fm_plan *p = drain(s, a, 0);
	assert_false(p->complete);
	assert_int_equal(p->n_steps, 0);
	fm_plan_free(p);
	s->hosts[b].cpu_percent = 20;
	p = drain(s, a, 0);
	assert_true(p->complete);
	fm_plan_free(p);
	s->hosts[b].memory_percent = NAN; /* 100 GB available, but what is used is not known to the planner any more */
	s->hosts[b].memory_available_bytes = FM_UNKNOWN;
	p = drain(s, a, 0);
	assert_int_equal(p->n_steps, 0);
	assert_non_null(strstr(p->left[0].why, "its use of memory is not known"));
	fm_plan_free(p);
	fm_snapshot_free(s);
}

/* ---------------------------------------------------------------- placement */

static void test_placement(void **state)
{
	struct fm_snapshot *s = fm_snapshot_new(1);
	size_t a = lab_host(s), b = lab_host(s), c = lab_host(s), d = lab_host(s), e = lab_host(s);
	lab_container(s, a, 2, 10 * GB)->image = strdup("redis:7");
	lab_use(s, b, 1, 10e9);
	lab_use(s, c, 1, 10e9);
	fm_strv_add(&s->hosts[c].images, "redis:7");
	s->hosts[d].can_restore = false;
	lab_use(s, e, 7, 0);
	struct fm_placement_host *v = NULL;
	size_t n = 0;
	assert_ok(fm_placement(s, 0, NULL, &v, &n, &err));
	assert_int_equal(n, 5);
	assert_int_equal(v[0].host, c);
	assert_int_equal(v[1].host, b);
	assert_true(v[0].score - v[1].score > 0.0999 && v[0].score - v[1].score < 0.1001); /* the image's weight */
	assert_true(v[0].part[FM_CRITERION_PREDICTED] == 0);                               /* not known: no merit */
	assert_false(v[2].feasible || v[3].feasible || v[4].feasible);
	assert_string_equal(v[2].why, "it is there");
	assert_string_equal(v[3].why, "it cannot restore containers");
	assert_string_equal(v[4].why, "its processors would be at 90 %, over 80 %");
	free(v);
	s->containers[0].fixed = true;
	assert_code(FM_E_FAILED_PRECONDITION, fm_placement(s, 0, NULL, &v, &n, &err));
	fm_snapshot_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_deadlines_that_can_be_met_are),
		cmocka_unit_test(test_important_first),
		cmocka_unit_test(test_no_deadline_takes_the_least_downtime),
		cmocka_unit_test(test_no_room_is_said),
		cmocka_unit_test(test_thresholds_before_limits),
		cmocka_unit_test(test_what_is_not_known_counts_with_the_most_it_can_be),
		cmocka_unit_test(test_placement),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
