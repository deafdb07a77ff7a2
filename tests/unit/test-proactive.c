/* SPDX-License-Identifier: MIT */
/* test-proactive.c - moves before it is too late, over made-up days: when, how many, and never to and fro. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "planning-lab.h"

#include "decision/proactive.h"

#define MINUTE 60000ull

struct trace {
	struct fm_snapshot *s;
	struct fm_proactive *p;
	struct fm_proactive_opts o;
	size_t moves, plans;
	size_t to_and_fro; /* moves of a container back to where it was less than an hour ago */
	uint64_t left_ms[64];
	size_t left[64]; /* host */
	uint64_t at[512];
};

static struct trace trace(size_t hosts, size_t containers, double cores)
{
	struct trace t = { .s = fm_snapshot_new(1000 * MINUTE), .p = fm_proactive_new() };
	for (size_t h = 0; h < hosts; h++)
		(void)lab_host(t.s);
	for (size_t c = 0; c < containers; c++)
		(void)lab_container(t.s, c % hosts, cores, GB);
	for (size_t i = 0; i < 64; i++)
		t.left[i] = SIZE_MAX;
	return t;
}
static void trace_done(struct trace *t)
{
	fm_proactive_free(t->p);
	fm_snapshot_free(t->s);
}

/* What containers use now is their hosts' use, and what is predicted of them. */
static void add_up(struct fm_snapshot *s, double predicted_factor)
{
	for (size_t h = 0; h < s->n_hosts; h++)
		s->hosts[h].cpu_percent = 0;
	for (size_t c = 0; c < s->n_containers; c++) {
		s->hosts[s->containers[c].host].cpu_percent += s->containers[c].cpu_cores * 10;
		s->containers[c].cpu_predicted_cores = s->containers[c].cpu_cores * predicted_factor;
	}
	for (size_t h = 0; h < s->n_hosts; h++)
		s->hosts[h].cpu_predicted_percent = s->hosts[h].cpu_percent * predicted_factor;
}

/* One step, and what it says is done. */
static size_t step(struct trace *t, uint64_t ms)
{
	struct fm_plan *p = NULL;
	fm_proactive_step(t->p, t->s, &t->o, &p);
	assert_int_equal(p->kind, FM_PLAN_PROACTIVE);
	for (size_t i = 0; i < p->n_steps; i++) {
		struct fm_snap_container *c = &t->s->containers[p->steps[i].container];
		size_t k = p->steps[i].container;
		assert_int_equal(c->host, p->steps[i].from);
		assert_int_equal(p->steps[i].n_depends_on, 0);
		if (k < 64) {
			t->to_and_fro += t->left[k] == p->steps[i].to && t->s->at_unix_ms - t->left_ms[k] < 60 * MINUTE;
			t->left[k] = c->host;
			t->left_ms[k] = t->s->at_unix_ms;
		}
		c->host = p->steps[i].to;
		c->last_moved_unix_ms = t->s->at_unix_ms;
		t->at[t->moves++ % 512] = t->s->at_unix_ms;
	}
	size_t n = p->n_steps;
	t->plans += n > 0;
	fm_plan_free(p);
	t->s->at_unix_ms += ms;
	return n;
}

static void test_acts_before_it_is_over(void **state)
{
	struct trace t = trace(3, 9, 2); /* 60 % everywhere */
	bool acted = false;
	for (int minute = 0; minute < 120 && !acted; minute++) {
		t.s->containers[0].cpu_cores = 2 + minute * 0.02;
		add_up(t.s, 1);
		t.s->hosts[0].cpu_predicted_percent = t.s->hosts[0].cpu_percent + 6; /* 30 minutes ahead */
		t.s->hosts[1].cpu_percent = t.s->hosts[1].cpu_predicted_percent = 30;
		acted = step(&t, MINUTE) > 0;
		assert_true(t.s->hosts[0].cpu_percent <= 80);
	}
	assert_true(acted);
	assert_true(t.s->hosts[0].cpu_predicted_percent > 80);
	trace_done(&t);
}

static void test_patience(void **state)
{
	struct trace t = trace(2, 4, 2);
	for (int i = 0; i < 100; i++) { /* a peak in every other step */
		add_up(t.s, 1);
		t.s->hosts[0].cpu_predicted_percent = i % 2 ? 95 : 60;
		assert_int_equal(step(&t, 30000), 0);
	}
	add_up(t.s, 1);
	t.s->hosts[0].cpu_predicted_percent = 60;
	assert_int_equal(step(&t, 30000), 0);
	for (int i = 0; i < 2; i++) {
		t.s->hosts[0].cpu_predicted_percent = 95;
		assert_int_equal(step(&t, 30000), 0);
	}
	t.s->hosts[0].cpu_predicted_percent = 95;
	t.s->hosts[0].cpu_percent = 75;
	assert_int_equal(step(&t, 30000), 1); /* 60 s later */
	trace_done(&t);
}

static void test_a_constant_load_is_acted_on_once(void **state)
{
	struct trace t = trace(4, 16, 1);
	for (size_t c = 0; c < 16; c += 4)
		t.s->containers[c].cpu_cores = 2.4; /* h0: 96 %, others 40 % */
	for (int i = 0; i < 24 * 60; i++) {
		add_up(t.s, 1);
		(void)step(&t, MINUTE);
	}
	add_up(t.s, 1);
	for (size_t h = 0; h < 4; h++)
		assert_true(t.s->hosts[h].cpu_percent <= 80);
	assert_int_equal(t.to_and_fro, 0);
	assert_true(t.moves >= 1 && t.moves <= 2);
	trace_done(&t);
}

/* The load wanders from host to host faster than moves could follow: what is held back. */
static void test_no_to_and_fro(void **state)
{
	struct trace t = trace(4, 24, 1);
	uint64_t seed = 5;
	for (int i = 0; i < 3 * 24 * 60; i++) {
		for (size_t c = 0; c < 24; c++)
			t.s->containers[c].cpu_cores =
			        fmax(0.1, 1 + 0.9 * sin(2 * M_PI * (i + 60.0 * (double)c) / 240) + lab_uniform(&seed, -0.2, 0.2));
		add_up(t.s, 1);
		(void)step(&t, MINUTE);
	}
	print_message("%zu moves in 3 days of wandering load, %zu of them back within an hour\n", t.moves, t.to_and_fro);
	assert_true(t.moves > 0); /* else it tells nothing */
	assert_int_equal(t.to_and_fro, 0);
	trace_done(&t);
}

static void test_budget(void **state)
{
	struct trace t = trace(12, 120, 0.75);
	t.o.moves_per_hour = 5;
	for (size_t c = 0; c < 120; c++)
		if (c % 12 < 6)
			t.s->containers[c].cpu_cores = 0.95; /* six hosts at 95 % */
		else
			t.s->containers[c].cpu_cores = 0.1;
	for (int i = 0; i < 59; i++) {
		add_up(t.s, 1);
		assert_true(step(&t, MINUTE) <= 2);
	}
	assert_int_equal(t.moves, 5);
	for (int i = 0; i < 6 * 60; i++) {
		add_up(t.s, 1);
		(void)step(&t, MINUTE);
	}
	for (size_t i = 5; i < t.moves; i++) /* never more than five in any hour */
		assert_true(t.at[i] - t.at[i - 5] >= 60 * MINUTE);
	assert_true(t.moves > 10);
	trace_done(&t);
}

static void test_cool_down(void **state)
{
	struct trace t = trace(2, 2, 1);
	add_up(t.s, 1);
	(void)lab_container(t.s, 0, 8.5, GB); /* the only one that would help, and it fits nowhere else under the margin */
	t.s->containers[2].cpu_cores = 4;
	(void)lab_container(t.s, 0, 4, GB);
	t.s->containers[2].last_moved_unix_ms = t.s->containers[3].last_moved_unix_ms = t.s->at_unix_ms;
	uint64_t began = t.s->at_unix_ms;
	size_t moved = 0;
	for (int i = 0; i < 60 && !moved; i++) {
		add_up(t.s, 1); /* 90 % */
		moved = step(&t, MINUTE);
	}
	assert_int_equal(moved, 1);
	assert_true(t.at[0] - began >= 15 * MINUTE);
	trace_done(&t);
}

static void test_unknown_does_nothing(void **state)
{
	struct trace t = trace(2, 4, 2.4);
	for (int i = 0; i < 10; i++) {
		add_up(t.s, 1);
		t.s->containers[0].cpu_cores = 5;
		t.s->hosts[0].cpu_percent = t.s->hosts[0].cpu_predicted_percent = NAN;
		assert_int_equal(step(&t, MINUTE), 0);
	}
	for (int i = 0; i < 10; i++) { /* of the other one nothing is known: it takes nothing */
		add_up(t.s, 1);
		t.s->hosts[0].cpu_predicted_percent = 95;
		t.s->hosts[1].cpu_percent = NAN;
		assert_int_equal(step(&t, MINUTE), 0);
	}
	trace_done(&t);
}

static void test_hosts_come_and_go(void **state)
{
	struct trace t = trace(6, 12, 2);
	for (int i = 0; i < 5; i++) {
		add_up(t.s, 1);
		(void)step(&t, MINUTE);
	}
	struct fm_snapshot *other = fm_snapshot_new(t.s->at_unix_ms);
	for (int i = 0; i < 3; i++)
		(void)lab_host(other);
	struct fm_plan *p = NULL;
	fm_proactive_step(t.p, other, &t.o, &p);
	assert_int_equal(p->n_steps, 0);
	fm_plan_free(p);
	fm_snapshot_free(other);
	(void)step(&t, MINUTE);
	trace_done(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_acts_before_it_is_over),
		cmocka_unit_test(test_patience),
		cmocka_unit_test(test_a_constant_load_is_acted_on_once),
		cmocka_unit_test(test_no_to_and_fro),
		cmocka_unit_test(test_budget),
		cmocka_unit_test(test_cool_down),
		cmocka_unit_test(test_unknown_does_nothing),
		cmocka_unit_test(test_hosts_come_and_go),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
