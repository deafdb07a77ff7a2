/* SPDX-License-Identifier: MIT */
/* The simulator: the same answer each time, nothing lost, nothing counted wrongly; tiny clusters whose result is known beforehand; what a scenario may not say. */
#include <math.h>
#include <stdio.h>

#include "check.h"

#include "basic/cleanup.h"
#include "basic/str.h"
#include "decision/simulator-internal.h"

#define WAY (0.8 * 125e6) /* that moves may have of 1 Gbit/s */

static struct fm_scenario *scenario(const char *text)
{
	_fm_document_ struct fm_document *d = NULL;
	struct fm_scenario *s = NULL;
	assert_ok(fm_document_parse(text, strlen(text), "s.yaml", NULL, &d, &err));
	assert_ok(fm_scenario_read(d, &s, &err));
	return s;
}

static struct fm_policies *policies(const char *text)
{
	_fm_document_ struct fm_document *d = NULL;
	struct fm_policies *p = fm_policies_new();
	assert_ok(fm_document_parse(text, strlen(text), "p.yaml", NULL, &d, &err));
	assert_ok(fm_policies_add(p, d, &err));
	return p;
}

/* ---------------------------------------------------------------- what holds in every step */

struct watched {
	struct sim *w;
	struct fm_buf rows;
	size_t n;
	double cpu[400];
};

/* Every container is on one host, and what is added up of them is what hosts have; of memory what is coming, too. */
static void check_world(const struct sim *w)
{
	_fm_free_ double *memory = calloc(w->n_hosts, sizeof(*memory)), *cores = calloc(w->n_hosts, sizeof(*cores));
	_fm_free_ size_t *n = calloc(w->n_hosts, sizeof(*n));
	size_t moving = 0, in_use = 0;
	for (size_t i = 0; i < w->n_containers; i++) {
		size_t h = w->containers[i].host;
		assert_true(h < w->n_hosts);
		assert_int_equal(h, w->s->containers[i].host);
		assert_int_equal(w->containers[i].moving, w->s->containers[i].moving);
		n[h]++;
		cores[h] += w->containers[i].cores;
		memory[h] += (double)w->s->containers[i].memory_bytes;
		moving += w->containers[i].moving;
	}
	assert_int_equal(moving, w->n_moves);
	for (size_t i = 0; i < w->n_moves; i++) {
		assert_true(w->containers[w->moves[i].container].moving);
		assert_int_equal(w->containers[w->moves[i].container].host, w->moves[i].from);
		memory[w->moves[i].to] += (double)w->s->containers[w->moves[i].container].memory_bytes;
	}
	for (size_t h = 0; h < w->n_hosts; h++) {
		assert_int_equal(n[h], w->hosts[h].n);
		assert_true(fabs(cores[h] - w->hosts[h].cores) < 1e-6);
		assert_true(memory[h] == w->hosts[h].memory_bytes);
		assert_true(memory[h] <= (double)w->s->hosts[h].memory_total_bytes);
		in_use += n[h] > 0;
	}
	assert_int_equal(in_use, w->hosts_in_use);
}

static void check_report(const struct fm_simulation *r)
{
	uint64_t by_strategy = 0, denied = 0;
	assert_int_equal(r->asked, r->moved + r->failed + r->denied + r->refused + r->overdue + r->interrupted + r->under_way);
	for (int i = 0; i < _FM_STRATEGY_MAX; i++)
		by_strategy += r->by_strategy[i];
	for (size_t i = 0; i < r->n_denials; i++)
		denied += r->denials[i].n;
	assert_int_equal(by_strategy, r->moved);
	assert_int_equal(denied, r->denied);
	assert_true(r->over_min <= r->cpu_over_min + r->memory_over_min + 1e-6);
	assert_true(r->hosts_in_use_end <= r->hosts_in_use_most && r->hosts_in_use_most <= r->hosts);
}

static void watch(void *userdata, const struct fm_simulation_row *r)
{
	struct watched *v = userdata;
	check_world(v->w);
	fm_buf_addf(&v->rows, "%llu %zu %zu %zu %.9g %.9g %.9g %llu %llu %llu\n", (unsigned long long)r->at_ms, r->hosts_in_use,
	            r->hosts_over_cpu, r->hosts_over_memory, r->cpu_mean_percent, r->cpu_max_percent, r->memory_max_percent,
	            (unsigned long long)r->moves, (unsigned long long)r->denied, (unsigned long long)r->wire_bytes);
	if (v->n < FM_ARRAY_SIZE(v->cpu))
		v->cpu[v->n++] = r->cpu_mean_percent;
}

/* *text: all rows and the report; NULL when nobody wants it. v: may be NULL. */
static struct fm_simulation *run_with(const struct fm_scenario *s, struct fm_simulation_inputs in, char **text, struct watched *v)
{
	struct watched mine = { 0 };
	struct sim *w = NULL;
	v = v ? v : &mine;
	in.row = watch;
	in.userdata = v;
	assert_ok(sim_world_new(s, &in, &w, &err));
	v->w = w;
	sim_run(w);
	check_world(w);
	struct fm_simulation *r = FM_TAKE_PTR(w->r);
	sim_world_free(w);
	check_report(r);
	if (text) {
		json_t *j = fm_simulation_to_json(r);
		_fm_free_ char *report = json_dumps(j, 0);
		json_decref(j);
		*text = fm_xasprintf("%s%s", v->rows.data ? v->rows.data : "", report);
	}
	fm_buf_done(&v->rows);
	return r;
}

static struct fm_simulation *run(const char *text, const struct fm_policies *p)
{
	_fm_cleanup_(fm_scenario_freep) struct fm_scenario *s = scenario(text);
	return run_with(s, (struct fm_simulation_inputs){ .mode = fm_scenario_mode(s), .seed = fm_scenario_seed(s), .policies = p }, NULL,
	                NULL);
}

#define LIVELY                                                                                                                             \
	"seed: 5\nduration: 12h\nstep: 10m\nmode: %s\n"                                                                                    \
	"hosts: [{name: h, count: 12, cpus: 16, memory: 64G}]\n"                                                                           \
	"containers:\n"                                                                                                                    \
	"- {name: web, count: 75, memory: [1G, 3G], placement: random, cpu: {kind: sine, cores: 0.7, amplitude: 0.5, period: 6h, noise: "  \
	"0.1, spread: [0.5, 1.5]}}\n"                                                                                                      \
	"- {name: job, count: 40, memory: 1G, cpu: {kind: bursts, cores: 0.1, peak: 2}}\n"                                                 \
	"- {name: db, count: 8, memory: 6G, cpu: {kind: walk, cores: 2, deviation: 0.5}}\n"                                                \
	"consolidate: {at: [3h, 9h]}\n"                                                                                                    \
	"outcome: {noise: 0.3, failures: 0.05}\n"                                                                                          \
	"events:\n- {at: 1h, drain: h-3, deadline: 2m}\n- {at: 2h, return: h-3}\n- {at: 4h, fail: h-5}\n- {at: 5h, return: h-5}\n- {at: "  \
	"6h, load: job, factor: 1.5}\n"

static void test_determinism(void **state)
{
	for (unsigned mode = 0; mode < FM_SIMULATE_MODES; mode++) {
		_fm_free_ char *text = fm_xasprintf(LIVELY, "none"), *first = NULL, *second = NULL, *other = NULL;
		_fm_cleanup_(fm_scenario_freep) struct fm_scenario *s = scenario(text);
		fm_simulation_free(run_with(s, (struct fm_simulation_inputs){ .mode = mode, .seed = 5 }, &first, NULL));
		fm_simulation_free(run_with(s, (struct fm_simulation_inputs){ .mode = mode, .seed = 5 }, &second, NULL));
		fm_simulation_free(run_with(s, (struct fm_simulation_inputs){ .mode = mode, .seed = 6 }, &other, NULL));
		assert_string_equal(first, second);
		assert_string_not_equal(first, other);
	}
}

/* What is needed does not depend on what is moved. All hosts are the same, so the mean tells. */
static void test_load_is_the_same_in_all_modes(void **state)
{
	_fm_free_ char *text = fm_xasprintf(LIVELY, "none");
	_fm_cleanup_(fm_scenario_freep) struct fm_scenario *s = scenario(text);
	struct watched none = { 0 }, all = { 0 };
	s->n_events = 4; /* without the one whose host is offline: then its containers do not count */
	s->events[2].kind = s->events[3].kind = SIM_RETURN;
	fm_simulation_free(run_with(s, (struct fm_simulation_inputs){ .mode = 0 }, NULL, &none));
	struct fm_simulation *r = run_with(s, (struct fm_simulation_inputs){ .mode = 7 }, NULL, &all);
	assert_true(r->moved > 20);
	assert_int_equal(none.n, 72);
	for (size_t i = 0; i < none.n; i++)
		assert_true(fabs(none.cpu[i] - all.cpu[i]) < 1e-6);
	s->n_events = 5;
	fm_simulation_free(r);
}

/* ---------------------------------------------------------------- known beforehand */

static void test_violations(void **state)
{
	/* 9 of 10 cores for two hours: 120 host-minutes; 8 of 10 GB all the time, 10 cores in the second hour: nothing is over 10; 3 beyond at the end */
	_fm_cleanup_(fm_simulation_freep) struct fm_simulation *r = run(
	        "duration: 2h\nstep: 10m\nthresholds: {cpu: 85, memory: 75}\nhosts: [{name: h, cpus: 10, memory: 10000000000, cost: 2}]\n"
	        "containers: [{name: c, memory: 8000000000, cpu: 9}, {name: d, memory: 1, cpu: 1}]\nevents: [{at: 90m, load: d, factor: "
	        "4}]\n",
	        NULL);
	assert_true(fabs(r->cpu_over_min - 120) < 1e-9);
	assert_true(fabs(r->memory_over_min - 120) < 1e-9);
	assert_true(fabs(r->over_min - 120) < 1e-9);
	assert_true(fabs(r->unserved_core_min - 3 * 30) < 1e-9);
	assert_true(fabs(r->cost - 4) < 1e-9);
	assert_true(fabs(r->hosts_in_use_mean - 1) < 1e-9);
	assert_int_equal(r->asked, 0);
}

/* Both begin on a; twice the load for b at half past, and it has to leave: what that takes is what the cost model says. */
#define TINY                                                                                                                               \
	"duration: 2h\nstep: 5m\nmode: reactive\noutcome: {noise: 0}\n"                                                                    \
	"hosts: [{name: a, cpus: 10, memory: 64G}, {name: b, cpus: 10, memory: 64G}]\n"                                                    \
	"containers:\n"                                                                                                                    \
	"- {name: x, memory: 1000000000, dirty: 1000000, placement: pack, cpu: 3}\n"                                                       \
	"- {name: y, memory: 1000000000, dirty: 1000000, placement: pack, cpu: 3}\n"

static struct fm_cost cost_of(uint64_t memory, uint64_t dirty, enum fm_strategy strategy, double bandwidth)
{
	const struct fm_cost_case c = { .strategy = strategy,
		                        .nested = true,
		                        .processes = 4,
		                        .memory_bytes = memory,
		                        .dirty_bytes_per_s = dirty,
		                        .bandwidth_bytes_per_s = (uint64_t)bandwidth,
		                        .latency_ms = NAN,
		                        .compressibility = 0.6,
		                        .source_cpu_percent = NAN };
	struct fm_cost k;
	fm_cost_predict(NULL, &c, &k);
	return k;
}

static void test_one_move(void **state)
{
	_fm_cleanup_(fm_simulation_freep) struct fm_simulation *r = run(TINY "events: [{at: 30m, load: x, factor: 2}]\n", NULL);
	struct fm_cost k = cost_of(1000000000, 1000000, FM_STRATEGY_LIVE, WAY);
	assert_int_equal(r->moved, 1);
	assert_int_equal(r->plans, 1);
	assert_int_equal(r->by_strategy[FM_STRATEGY_LIVE], 1);
	/* over the threshold from the event until it is away, in whole milliseconds */
	assert_true(fabs(r->total_ms - k.total_ms) <= 3);
	assert_true(fabs(r->cpu_over_min * 60000 - r->total_ms) < 1);
	assert_true(fabs(r->downtime_ms - k.downtime_ms) <= 0.02 * k.downtime_ms);
	assert_true(fabs((double)r->wire_bytes - k.wire_bytes) <= 0.01 * k.wire_bytes);
	assert_int_equal(r->forecasts_met, 1);
	assert_int_equal(r->hosts_in_use_end, 2);
	assert_int_equal(r->ping_pong, 0);
	assert_true(fabs(r->hosts_in_use_mean - (1 + (90 - r->total_ms / 60000) / 120)) < 1e-6);
}

static void test_ping_pong(void **state)
{
	/* y leaves for b, where z then needs all there is: back to a, where x needs little again */
	static const char *const text =
	        TINY "- {name: z, memory: 1, labels: {fleximigrate.hosts: zone=b, fleximigrate.migrate: deny}, cpu: 0.5}\n"
	             "events: [{at: 30m, load: x, factor: 2}, {at: %s, load: x, factor: 1}, {at: %s, load: z, factor: 14}]\n";
	for (int late = 0; late < 2; late++) {
		_fm_free_ char *all = fm_xasprintf(text, late ? "95m" : "40m", late ? "95m" : "40m");
		char *zone = strstr(all, "{name: b, ");
		_fm_free_ char *zoned =
		        fm_xasprintf("%.*s{name: b, labels: {zone: b}, %s", (int)(zone - all), all, zone + strlen("{name: b, "));
		_fm_cleanup_(fm_simulation_freep) struct fm_simulation *r = run(zoned, NULL);
		assert_int_equal(r->moved, 2);
		assert_int_equal(r->ping_pong, late ? 0 : 1);
	}
}

static void test_denied(void **state)
{
	_fm_cleanup_(fm_policies_freep) struct fm_policies *
	        deny = policies("{policy_name: never, CONDITIONS: 'trigger == \"balance\"', ACTIONS: [deny_migration]}"),
	       *approve = policies("{policy_name: ask, CONDITIONS: true, ACTIONS: [require_approval]}"),
	       *brief =
	               policies("{policy_name: brief, CONDITIONS: true, ACTIONS: [allow_migration], CONSTRAINTS: {migration_duration: 3}}"),
	       *other = policies("{policy_name: other, CONDITIONS: 'trigger == \"user\"', ACTIONS: [allow_migration]}");
	struct fm_simulation *r = run(TINY "reactive: {every: 10m}\nevents: [{at: 30m, load: x, factor: 2}]\n", deny);
	/* asked again every ten minutes until the end */
	assert_int_equal(r->denied, 9);
	assert_int_equal(r->moved, 0);
	assert_int_equal(r->n_denials, 1);
	assert_string_equal(r->denials[0].policy, "never");
	assert_int_equal(r->denials[0].n, 9);
	assert_true(fabs(r->cpu_over_min - 90) < 1e-9);
	fm_simulation_free(r);
	r = run(TINY "events: [{at: 115m, load: x, factor: 2}]\n", approve);
	assert_int_equal(r->denied, 1);
	assert_string_equal(r->denials[0].policy, "ask");
	fm_simulation_free(r);
	r = run(TINY "events: [{at: 115m, load: x, factor: 2}]\n", other);
	assert_int_equal(r->denied, 1);
	assert_string_equal(r->denials[0].policy, "");
	fm_simulation_free(r);
	/* it takes some six seconds, and is given three */
	r = run(TINY "events: [{at: 115m, load: x, factor: 2}]\n", brief);
	assert_int_equal(r->overdue, 1);
	assert_int_equal(r->moved, 0);
	assert_true(r->wasted_bytes > 0);
	fm_simulation_free(r);
}

static void test_strategy_and_limits_of_policies(void **state)
{
	/* both of a are at 90 % of their processors; each has one that goes to a host of its own, at the same time */
	static const char *const text =
	        "duration: 1h\nstep: 5m\nmode: reactive\noutcome: {noise: 0}\nhosts: [{name: a, count: 2, cpus: 10, memory: 64G}, {name: "
	        "b, count: 2, cpus: 10, memory: 64G}]\n"
	        "containers:\n- {name: x, count: 2, memory: 1000000000, placement: pack, labels: {fleximigrate.anti-affinity: x}, cpu: 4}\n"
	        "- {name: y, count: 2, memory: 1000000000, placement: pack, labels: {fleximigrate.anti-affinity: y}, cpu: 3}\nevents: "
	        "[{at: 10m, load: y, factor: 1.7}]\n";
	_fm_cleanup_(fm_policies_freep) struct fm_policies *p =
	        policies("{policy_name: one, CONDITIONS: 'trigger == \"balance\"', ACTIONS: ['set_strategy(\"post-copy\")'], CONSTRAINTS: "
	                 "{max_concurrent_migrations: {global: 1}}}");
	_fm_cleanup_(fm_simulation_freep) struct fm_simulation *r = run(text, p), *free_of_it = run(text, NULL);
	double alone = r->total_ms / 2;
	assert_int_equal(r->moved, 2);
	assert_int_equal(r->by_strategy[FM_STRATEGY_POST_COPY], 2);
	assert_int_equal(r->queued, 1);
	/* one waits for the other: over for one time, and for two */
	assert_true(fabs(r->cpu_over_min * 60000 - 3 * alone) <= 4);
	assert_int_equal(free_of_it->moved, 2);
	assert_int_equal(free_of_it->by_strategy[FM_STRATEGY_LIVE], 2);
	assert_int_equal(free_of_it->queued, 0);
	assert_true(fabs(free_of_it->cpu_over_min * 60000 - free_of_it->total_ms) <= 4);
}

/* ---------------------------------------------------------------- drains, failures */

static void test_drain(void **state)
{
	static const char *const text =
	        "duration: 1h\nstep: 5m\noutcome: {noise: 0}\nhosts: [{name: a, cpus: 10, memory: 64G}, {name: b, cpus: 10, memory: 64G}]\n"
	        "containers: [{name: c, memory: 10000000000, dirty: 1000000, placement: pack, cpu: 1}]\nevents: [{at: 603s, drain: a, "
	        "deadline: %s}]\n";
	_fm_free_ char *enough = fm_xasprintf(text, "5m"), *little = fm_xasprintf(text, "10s");
	_fm_cleanup_(fm_simulation_freep) struct fm_simulation *r = run(enough, NULL), *late = run(little, NULL);
	double total = cost_of(10000000000, 1000000, FM_STRATEGY_LIVE, WAY).total_ms;
	assert_int_equal(r->n_drains, 1);
	assert_int_equal(r->drains[0].at_ms, 603000);
	assert_int_equal(r->drains[0].containers, 1);
	assert_int_equal(r->drains[0].missed, 0);
	assert_true(fabs((double)r->drains[0].empty_ms - total) <= 0.02 * total);
	assert_int_equal(r->deadline_misses, 0);
	/* 6 GB at 100 MB/s in ten seconds: it is said before, and not begun */
	assert_int_equal(late->drains[0].missed, 1);
	assert_int_equal(late->drains[0].foretold, 1);
	assert_int_equal(late->deadline_misses, 1);
	assert_int_equal(late->asked, 0);
	assert_true(late->drains[0].empty_ms == FM_UNKNOWN);
}

/* Where all goes as predicted, exactly what was foretold is late: the fair sharing here is the planner's. */
static void test_drains_keep_what_they_say(void **state)
{
	unsigned partly = 0;
	for (unsigned i = 0; i < 40; i++) {
		_fm_free_ char *text = fm_xasprintf(
		        "seed: %u\nduration: 20m\nstep: 5m\noutcome: {noise: 0}\nhosts: [{name: h, count: 5, cpus: 32, memory: 256G}]\n"
		        "containers: [{name: c, count: 30, memory: [200M, 6G], dirty: 5M, placement: random, cpu: 1}]\n"
		        "events: [{at: 5m, drain: h-1, deadline: %us}]\n",
		        i, 20 + 4 * i);
		_fm_cleanup_(fm_simulation_freep) struct fm_simulation *r = run(text, NULL);
		partly += r->drains[0].foretold > 0 && r->moved > 0;
		assert_int_equal(r->drains[0].missed, r->drains[0].foretold);
		assert_int_equal(r->moved + r->drains[0].foretold, r->drains[0].containers);
	}
	assert_true(partly >= 10);
}

static void test_failed_host(void **state)
{
	/* three containers for half an hour */
	_fm_cleanup_(fm_simulation_freep) struct fm_simulation *r =
	        run("duration: 1h\nstep: 5m\nhosts: [{name: a, cpus: 10, memory: 8G}, {name: b, cpus: 10, memory: 8G}]\n"
	            "containers: [{name: c, count: 3, memory: 1G, placement: pack, cpu: 1}]\nevents: [{at: 12m, fail: a}, {at: 42m, "
	            "return: a}]\n",
	            NULL);
	assert_true(fabs(r->outage_container_min - 90) < 1e-9);
	assert_true(fabs(r->hosts_in_use_mean - 0.5) < 1e-9);
	/* in the middle of a move of 60 s: it is back where it was, with its host */
	_fm_cleanup_(fm_simulation_freep) struct fm_simulation *cut =
	        run("duration: 1h\nstep: 5m\nhosts: [{name: a, cpus: 10, memory: 64G}, {name: b, cpus: 10, memory: 64G}]\n"
	            "containers: [{name: c, memory: 10000000000, placement: pack, cpu: 1}]\nevents: [{at: 10m, drain: a}, {at: 620s, fail: "
	            "b}]\n",
	            NULL);
	assert_int_equal(cut->interrupted, 1);
	assert_int_equal(cut->moved, 0);
	assert_int_equal(cut->drains[0].missed, 1);
	assert_true(cut->wasted_bytes > 500000000 && cut->wasted_bytes < 2500000000);
}

/* ---------------------------------------------------------------- learning, proactive, consolidating */

static void test_outcomes_are_learnt(void **state)
{
	_fm_free_ char *text = fm_xasprintf(LIVELY, "reactive");
	_fm_cleanup_(fm_scenario_freep) struct fm_scenario *s = scenario(text);
	s->outcome.noise = 0.1;
	s->outcome.failures = 0;
	s->outcome.downtime_factor = 3;
	_fm_cleanup_(fm_simulation_freep) struct fm_simulation *r = run_with(s, (struct fm_simulation_inputs){ .mode = 1 }, NULL, NULL);
	assert_true(r->moved > 50);
	assert_true((double)r->forecasts_met >= 0.8 * (double)r->moved);
	assert_true(r->forecasts_met < r->moved); /* the first one was not known */
}

static void test_proactive_helps(void **state)
{
	static const char *const text = "duration: 1d\nstep: 5m\nhosts: [{name: h, count: 10, cpus: 16, memory: 64G}]\ncontainers: [{name: "
	                                "c, count: 80, memory: 1G, placement: random, "
	                                "cpu: {kind: sine, cores: 0.8, amplitude: 0.5, period: 1d, spread: [0.3, 1.7], noise: 0.05}}]\n";
	_fm_cleanup_(fm_scenario_freep) struct fm_scenario *s = scenario(text);
	_fm_cleanup_(fm_simulation_freep) struct fm_simulation
	        *none = run_with(s, (struct fm_simulation_inputs){ .mode = 0, .seed = 2 }, NULL, NULL),
	        *ahead = run_with(s, (struct fm_simulation_inputs){ .mode = FM_SIMULATE_PROACTIVE, .seed = 2 }, NULL, NULL);
	assert_true(none->cpu_over_min > 100);
	assert_true(ahead->cpu_over_min < 0.3 * none->cpu_over_min);
	assert_true(ahead->moved > 0 && ahead->moved <= 12 * 24);
	assert_int_equal(ahead->ping_pong, 0);
}

/* In a cluster with too little room for all of it nobody is helped by moves to where room would have been made by others that are not made. */
static void test_proactive_does_no_harm(void **state)
{
	static const char *const text = "duration: 1d\nstep: 10m\nhosts: [{name: h, count: 8, cpus: 16, memory: 64G}]\ncontainers: [{name: "
	                                "c, count: 60, memory: 1G, placement: random, "
	                                "cpu: {kind: sine, cores: 1.1, amplitude: 0.8, period: 1d, spread: [0.5, 1.5], noise: 0.05}},"
	                                "{name: j, count: 20, memory: 1G, cpu: {kind: bursts, cores: 0.1, peak: 2, on: 30m, off: 2h}}]\n";
	_fm_cleanup_(fm_scenario_freep) struct fm_scenario *s = scenario(text);
	double without = 0, with = 0;
	for (uint64_t seed = 0; seed < 3; seed++) { /* of chance in one of them, a little is no harm */
		_fm_cleanup_(fm_simulation_freep) struct fm_simulation
		        *none = run_with(s, (struct fm_simulation_inputs){ .mode = 0, .seed = seed }, NULL, NULL),
		        *ahead = run_with(s, (struct fm_simulation_inputs){ .mode = FM_SIMULATE_PROACTIVE, .seed = seed }, NULL, NULL);
		assert_true(none->unserved_core_min > 100);
		assert_true(ahead->unserved_core_min <= 1.1 * none->unserved_core_min);
		without += none->unserved_core_min;
		with += ahead->unserved_core_min;
	}
	assert_true(with < without / 2);
}

static void test_consolidate(void **state)
{
	/* ten containers of one core, spread over ten hosts: two hosts of ten cores carry them under 80 % */
	_fm_cleanup_(fm_simulation_freep) struct fm_simulation *r =
	        run("duration: 4h\nstep: 10m\nmode: consolidate\nconsolidate: {at: [1h]}\nhosts: [{name: h, count: 10, cpus: 10, memory: "
	            "64G, cost: 1}]\n"
	            "containers: [{name: c, count: 10, memory: 1G, cpu: 1}]\n",
	            NULL);
	assert_int_equal(r->hosts_in_use_most, 10);
	assert_int_equal(r->hosts_in_use_end, 2);
	assert_int_equal(r->moved, 8);
	assert_true(r->cost > 10 + 2 * 3 && r->cost < 10 + 2 * 3 + 0.5);
}

static void test_trace(void **state)
{
	static const char *const csv = "2026-01-01 00:00:00,10\n2026-01-01 00:05:00,20\n2026-01-01 00:10:00,90\n2026-01-01 00:20:00,50\n";
	struct fm_trace t = { 0 };
	struct watched v = { 0 };
	/* of 10 cores: 10, 20, 90, 90 (nothing recorded), 50, and again; over 80 for 2 of 5 */
	_fm_cleanup_(fm_scenario_freep) struct fm_scenario *s =
	        scenario("duration: 50m\nstep: 5m\nhosts: [{name: h, cpus: 10, memory: 8G}]\ncontainers: [{name: c, cpu: {kind: trace, "
	                 "file: t.csv, scale: 0.1}}]\n");
	size_t n = 0;
	assert_string_equal(fm_scenario_traces(s, &n)[0], "t.csv");
	assert_int_equal(n, 1);
	assert_ok(fm_trace_parse(csv, strlen(csv), &t, &err));
	_fm_cleanup_(fm_simulation_freep) struct fm_simulation *r = run_with(s, (struct fm_simulation_inputs){ .traces = &t }, NULL, &v);
	const double wanted[] = { 10, 20, 90, 90, 50, 10, 20, 90, 90, 50 };
	for (size_t i = 0; i < FM_ARRAY_SIZE(wanted); i++)
		assert_true(fabs(v.cpu[i] - wanted[i]) < 1e-9);
	assert_true(fabs(r->cpu_over_min - 20) < 1e-9);
	fm_trace_done(&t);
	struct fm_simulation *none = NULL;
	assert_code(FM_E_INVALID_ARGUMENT, fm_simulate(s, &(struct fm_simulation_inputs){ 0 }, &none, &err));
}

/* ---------------------------------------------------------------- what it may not say */

static void test_refused(void **state)
{
	static const struct {
		const char *text, *wanted;
	} wrong[] = {
		{ "[]", "s.yaml:1:1: a scenario has to be a mapping" },
		{ "sead: 1", "s.yaml:1:1: a scenario has no member 'sead'; is 'seed' meant?" },
		{ "seed: x", "s.yaml:1:7: 'seed' has to be a whole number" },
		{ "duration: 0s", "s.yaml:1:11: 'duration' has to be from 1 to" },
		{ "duration: 3000d\nstep: 1s", "s.yaml: 'duration' has more than" },
		{ "mode: active", "s.yaml:1:7: there is no mode 'active'" },
		{ "start: monday", "s.yaml:1:8: 'start' has to be a moment" },
		{ "duration: 1d", "'hosts' is needed" },
		{ "hosts: [{count: 3}]", "s.yaml:1:9: a group without 'name'" },
		{ "hosts: [{name: 'a b'}]", "'name' has to be 1 to 63 letters" },
		{ "hosts: [{name: a, count: 3}, {name: a-2}]", "s.yaml:1:37: a name of 'a-2' is there already" },
		{ "hosts: [{name: a, count: 5000}]", "'count' has to be from 1 to 4096" },
		{ "hosts: [{name: a, count: 4096}, {name: b}]", "more than 4096 hosts" },
		{ "hosts: [{name: a, memory: many}]", "'memory' has to be a size like 512M" },
		{ "hosts: [{name: a, labels: {x: 1}}]", "'x' has to be a text" },
		{ "hosts: [{name: a}]\ncontainers: [{name: c}]", "a group of containers without 'cpu'" },
		{ "hosts: [{name: a}]\ncontainers: [{name: c, cpu: {kind: cosine}}]",
		  "'kind' has to be one of constant, sine, walk, bursts, trace" },
		{ "hosts: [{name: a}]\ncontainers: [{name: c, cpu: {kind: trace}}]", "'file' is needed for kind trace" },
		{ "hosts: [{name: a}]\ncontainers: [{name: c, cpu: 1, memory: [2G, 1G]}]", "with the smaller one first" },
		{ "hosts: [{name: a}]\ncontainers: [{name: c, cpu: -1}]", "'cpu' has to be cores" },
		{ "hosts: [{name: a}]\nevents: [{at: 1h, drain: b}]", "s.yaml:2:26: 'drain' has to be the name of a host" },
		{ "hosts: [{name: a}]\nevents: [{drain: a}]", "an event has 'at', and one of" },
		{ "hosts: [{name: a}]\nevents: [{at: 1h, fail: a, return: a}]", "an event has 'at', and one of" },
		{ "hosts: [{name: a}]\nevents: [{at: 1h, fail: a, deadline: 1m}]", "'deadline' has to be with a drain" },
		{ "hosts: [{name: a, count: 2}]\nevents: [{at: 1h, drain: a-02}]", "the name of a host" },
		{ "predictor: {members: magic}", "s.yaml:1:22: 'members':" },
		{ "thresholds: {cpu: 0}", "'cpu' has to be from 1 to 100" },
		{ "proactive: {marign: 5}", "proactive has no member 'marign'; is 'margin' meant?" },
	};
	for (size_t i = 0; i < FM_ARRAY_SIZE(wrong); i++) {
		_fm_document_ struct fm_document *d = NULL;
		struct fm_scenario *s = NULL;
		assert_ok(fm_document_parse(wrong[i].text, strlen(wrong[i].text), "s.yaml", NULL, &d, &err));
		assert_int_equal(fm_scenario_read(d, &s, &err), -1);
		if (!strstr(err.message, wrong[i].wanted))
			fail_msg("%s: '%s' instead of '%s'", wrong[i].text, err.message, wrong[i].wanted);
		err = FM_ERROR_INIT;
	}
}

static void test_no_room(void **state)
{
	_fm_cleanup_(fm_scenario_freep) struct fm_scenario *s =
	        scenario("hosts: [{name: h, memory: 4G}]\ncontainers: [{name: c, count: 5, memory: 1G, cpu: 0}]\n");
	struct fm_simulation *r = NULL;
	assert_code(FM_E_FAILED_PRECONDITION, fm_simulate(s, &(struct fm_simulation_inputs){ 0 }, &r, &err));
	assert_non_null(strstr(err.message, "'c-5'"));
}

static void test_placement(void **state)
{
	/* anti-affinity spreads, affinity brings together, a requirement is kept */
	static const char *const text =
	        "duration: 10m\nstep: 5m\nhosts: [{name: a, count: 3}, {name: b, labels: {disk: ssd}}]\ncontainers:\n"
	        "- {name: apart, count: 4, placement: pack, labels: {fleximigrate.anti-affinity: x}, cpu: 1}\n"
	        "- {name: along, count: 3, placement: random, labels: {fleximigrate.affinity: y}, cpu: 1}\n"
	        "- {name: fast, count: 2, labels: {fleximigrate.hosts: disk=ssd}, cpu: 1}\n";
	_fm_cleanup_(fm_scenario_freep) struct fm_scenario *s = scenario(text);
	struct fm_simulation_inputs in = { 0 };
	struct sim *w = NULL;
	assert_ok(sim_world_new(s, &in, &w, &err));
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(w->containers[i].host, i);
	assert_int_equal(w->containers[4].host, w->containers[5].host);
	assert_int_equal(w->containers[4].host, w->containers[6].host);
	assert_int_equal(w->containers[7].host, 3);
	assert_int_equal(w->containers[8].host, 3);
	sim_world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_determinism),
		cmocka_unit_test(test_load_is_the_same_in_all_modes),
		cmocka_unit_test(test_violations),
		cmocka_unit_test(test_one_move),
		cmocka_unit_test(test_ping_pong),
		cmocka_unit_test(test_denied),
		cmocka_unit_test(test_strategy_and_limits_of_policies),
		cmocka_unit_test(test_drain),
		cmocka_unit_test(test_drains_keep_what_they_say),
		cmocka_unit_test(test_failed_host),
		cmocka_unit_test(test_outcomes_are_learnt),
		cmocka_unit_test(test_proactive_helps),
		cmocka_unit_test(test_proactive_does_no_harm),
		cmocka_unit_test(test_consolidate),
		cmocka_unit_test(test_trace),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_no_room),
		cmocka_unit_test(test_placement),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
