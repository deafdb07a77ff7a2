/* SPDX-License-Identifier: MIT */
/* test-analyzer.c - verdicts over a host, second by second: duration, hysteresis, what is not known, gaps. */
#include "check.h"

#include <math.h>
#include <stdio.h>

#include "monitor/analyzer.h"

struct run {
	struct fm_load_limits l;
	struct fm_load_state s;
	struct fm_load_figures f;
	uint64_t now_ms;
	unsigned changes;
};

static struct run begin(void)
{
	return (struct run){ .l = FM_LOAD_LIMITS_DEFAULT, .now_ms = 1000000, .f = { .v = { 50, 50, NAN, NAN } } };
}

/* For so many seconds. */
static enum fm_load hold(struct run *r, double cpu, double memory, unsigned seconds)
{
	r->f.v[FM_LOAD_CPU] = cpu;
	r->f.v[FM_LOAD_MEMORY] = memory;
	for (unsigned i = 0; i < seconds; i++) {
		r->changes += fm_load_step(&r->l, &r->s, &r->f, r->now_ms);
		r->now_ms += 1000;
	}
	return r->s.load;
}

static void test_over(void **state)
{
	struct run r = begin();
	char why[128];

	assert_int_equal(hold(&r, 50, 50, 1), FM_LOAD_NORMAL);
	assert_int_equal(hold(&r, 95, 50, 59), FM_LOAD_NORMAL);
	assert_int_equal(hold(&r, 79, 50, 1), FM_LOAD_NORMAL); /* a break: begins anew */
	assert_int_equal(hold(&r, 95, 50, 60), FM_LOAD_NORMAL);
	assert_int_equal(hold(&r, 95, 50, 1), FM_LOAD_OVER);
	fm_load_explain(&r.l, &r.s, &r.f, r.now_ms, why, sizeof(why));
	assert_string_equal(why, "processor 95.0 % for 61 s, limit 80 %");
	assert_int_equal(hold(&r, 75, 50, 600), FM_LOAD_OVER); /* below the limit, but not by the hysteresis */
	fm_load_explain(&r.l, &r.s, &r.f, r.now_ms, why, sizeof(why));
	assert_string_equal(why, "processor was over 80 %, now 75.0 %");
	assert_int_equal(hold(&r, 71, 50, 59), FM_LOAD_OVER);
	assert_int_equal(hold(&r, 90, 50, 1), FM_LOAD_OVER);
	assert_int_equal(hold(&r, 71, 50, 60), FM_LOAD_OVER);
	assert_int_equal(hold(&r, 71, 50, 1), FM_LOAD_NORMAL);
	assert_int_equal(r.changes, 3);
	/* exactly the limit is not over it; the other figures have limits of their own */
	assert_int_equal(hold(&r, 80, 70, 300), FM_LOAD_NORMAL);
	assert_int_equal(hold(&r, 80, 70.5, 61), FM_LOAD_OVER);
	assert_int_equal(r.s.why, FM_LOAD_MEMORY);
}

/* A load that swings around its limit changes nothing again and again. */
static void test_no_flapping(void **state)
{
	struct run r = begin();

	for (int i = 0; i < 200; i++)
		(void)hold(&r, i % 2 ? 78 : 82, 40, 30);
	assert_int_equal(r.changes, 1); /* from not known to normal */
	for (int i = 0; i < 200; i++)
		(void)hold(&r, i % 2 ? 78 : 82, 40, 90);
	assert_int_equal(r.changes, 2); /* and once to over */
}

static void test_under(void **state)
{
	struct run r = begin();

	assert_int_equal(hold(&r, 5, 10, 600), FM_LOAD_NORMAL);
	assert_int_equal(hold(&r, 5, 10, 1), FM_LOAD_UNDER);
	assert_int_equal(hold(&r, 21, 10, 600), FM_LOAD_UNDER); /* over 20, but not over 22 */
	assert_int_equal(hold(&r, 23, 10, 61), FM_LOAD_NORMAL);
	assert_int_equal(hold(&r, 5, 40, 2000), FM_LOAD_NORMAL); /* one of the two is not enough */
	assert_int_equal(hold(&r, 5, 10, 700), FM_LOAD_UNDER);
	assert_int_equal(hold(&r, 99, 10, 61), FM_LOAD_OVER); /* at once, when it is over for long enough */
}

static void test_unknown(void **state)
{
	struct run r = begin();

	assert_int_equal(hold(&r, NAN, NAN, 2000), FM_LOAD_UNKNOWN);
	assert_int_equal(hold(&r, NAN, 10, 2000), FM_LOAD_NORMAL); /* never under */
	assert_int_equal(hold(&r, 5, NAN, 2000), FM_LOAD_NORMAL);
	assert_int_equal(hold(&r, NAN, 99, 61), FM_LOAD_OVER); /* one that is known is enough for over */
	assert_int_equal(hold(&r, NAN, NAN, 61), FM_LOAD_UNKNOWN);
	r = begin();
	r.f.v[FM_LOAD_LOSS] = 2;
	assert_int_equal(hold(&r, 10, 50, 61), FM_LOAD_OVER);
	assert_int_equal(r.s.why, FM_LOAD_LOSS);
	r.f.v[FM_LOAD_LOSS] = 0;
	r.f.v[FM_LOAD_LATENCY] = 101;
	assert_int_equal(hold(&r, 10, 50, 62), FM_LOAD_OVER);
}

static void test_gap(void **state)
{
	struct run r = begin();

	assert_int_equal(hold(&r, 95, 50, 50), FM_LOAD_NORMAL);
	r.now_ms += FM_LOAD_GAP_MS; /* nothing was heard: it was not over all the time, as far as anybody knows */
	assert_int_equal(hold(&r, 95, 50, 50), FM_LOAD_NORMAL);
	assert_int_equal(hold(&r, 95, 50, 11), FM_LOAD_OVER);
}

static void test_limits(void **state)
{
	struct fm_load_limits l = FM_LOAD_LIMITS_DEFAULT;

	assert_ok(fm_load_limits_check(&l, &err));
	assert_true(l.over[FM_LOAD_CPU] == 80 && l.over[FM_LOAD_MEMORY] == 70 && l.over[FM_LOAD_LOSS] == 1 &&
	            l.over[FM_LOAD_LATENCY] == 100);
	l.under_cpu_percent = 70; /* with 10 % each they meet */
	assert_code(FM_E_INVALID_ARGUMENT, fm_load_limits_check(&l, &err));
	l.under_cpu_percent = -1;
	assert_ok(fm_load_limits_check(&l, &err));
	l.over[FM_LOAD_MEMORY] = NAN;
	assert_code(FM_E_INVALID_ARGUMENT, fm_load_limits_check(&l, &err));
	l.over[FM_LOAD_MEMORY] = INFINITY;
	assert_ok(fm_load_limits_check(&l, &err));
	l.hysteresis_percent = 100;
	assert_code(FM_E_INVALID_ARGUMENT, fm_load_limits_check(&l, &err));
	struct run r = begin();
	r.l.under_cpu_percent = r.l.under_memory_percent = -1;
	assert_int_equal(hold(&r, 0, 0, 5000), FM_LOAD_NORMAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_over),  cmocka_unit_test(test_no_flapping),
		                            cmocka_unit_test(test_under), cmocka_unit_test(test_unknown),
		                            cmocka_unit_test(test_gap),   cmocka_unit_test(test_limits) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
