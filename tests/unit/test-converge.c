/* SPDX-License-Identifier: MIT */
/* test-converge.c - when pre-copy and live switch over, and when they give up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above */
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "decision/converge.h"

#define MIB        (1ull << 20)
#define ROUNDS_MAX 200u

/* A container of `memory` bytes that changes `dirty` bytes a second (never more than `working_set`), over a link of `rate` bytes/s, until the decision is no other round. Number of rounds. */
static unsigned simulate(const struct fm_converge_limits *l, uint64_t memory, uint64_t dirty, uint64_t working_set, uint64_t rate,
                         bool on_demand, struct fm_converge_decision *d)
{
	struct fm_converge_round r[ROUNDS_MAX];
	uint64_t changed = memory;

	for (unsigned n = 0; n < ROUNDS_MAX;) {
		uint64_t us = changed * 1000000 / rate + 1000;
		r[n++] = (struct fm_converge_round){ .changed_bytes = changed, .sent_bytes = changed, .us = us };
		changed = dirty * us / 1000000;
		if (changed > working_set)
			changed = working_set;
		fm_converge(l, r, n, on_demand, 0, d);
		if (d->verdict != FM_CONVERGE_ANOTHER)
			return n;
	}
	fail_msg("it goes on for ever");
	return 0;
}

static void test_nothing_yet(void **state)
{
	struct fm_converge_limits l = { 0 };
	struct fm_converge_decision d;

	fm_converge(&l, NULL, 0, true, 0, &d);
	assert_int_equal(d.verdict, FM_CONVERGE_ANOTHER);
}

static void test_idle(void **state)
{
	struct fm_converge_limits l = { 0 };
	struct fm_converge_decision d;

	for (int live = 0; live < 2; live++) {
		assert_int_equal(simulate(&l, 512 * MIB, 0, 0, 1000 * MIB, live, &d), 2);
		assert_int_equal(d.verdict, FM_CONVERGE_SWITCH);
		assert_in_range(d.predicted_downtime_ms, 30, 100);
	}
}

static void test_converges(void **state)
{
	struct fm_converge_limits l = { 0 };
	struct fm_converge_decision d;

	assert_in_range(simulate(&l, 512 * MIB, 100 * MIB, 512 * MIB, 1000 * MIB, false, &d), 3, 6);
	assert_int_equal(d.verdict, FM_CONVERGE_SWITCH);
	assert_true(d.predicted_downtime_ms <= 300);
}

/* Writes faster than the link: live switches soon, pre-copy gives up with the reason, neither goes on. */
static void test_faster_than_the_link(void **state)
{
	struct fm_converge_limits l = { 0 };
	struct fm_converge_decision d;

	assert_in_range(simulate(&l, 512 * MIB, 400 * MIB, 512 * MIB, 100 * MIB, true, &d), 2, 4);
	assert_int_equal(d.verdict, FM_CONVERGE_SWITCH);
	assert_in_range(simulate(&l, 512 * MIB, 400 * MIB, 512 * MIB, 100 * MIB, false, &d), 3, 8);
	assert_int_equal(d.verdict, FM_CONVERGE_HOPELESS);
	assert_non_null(strstr(d.reason, "downtime"));
	assert_true(d.predicted_downtime_ms > 300);
}

/* A small working set that changes all the time: more rounds are of no use, but the downtime is all right. */
static void test_small_working_set(void **state)
{
	struct fm_converge_limits l = { 0 };
	struct fm_converge_decision d;

	assert_in_range(simulate(&l, 512 * MIB, 4000 * MIB, 20 * MIB, 500 * MIB, false, &d), 3, 5);
	assert_int_equal(d.verdict, FM_CONVERGE_SWITCH);
	l.max_downtime_ms = 65;
	(void)simulate(&l, 512 * MIB, 4000 * MIB, 20 * MIB, 500 * MIB, false, &d);
	assert_int_equal(d.verdict, FM_CONVERGE_HOPELESS);
}

static void test_limits(void **state)
{
	struct fm_converge_decision d;
	struct fm_converge_limits time = { .max_rounds_ms = 2000 }, rounds = { .max_rounds = 1 }, factor = { .max_factor_percent = 120 };

	(void)simulate(&time, 512 * MIB, 90 * MIB, 512 * MIB, 100 * MIB, false, &d);
	assert_int_equal(d.verdict, FM_CONVERGE_HOPELESS);
	assert_int_equal(simulate(&rounds, 512 * MIB, 90 * MIB, 512 * MIB, 100 * MIB, true, &d), 1);
	assert_int_equal(d.verdict, FM_CONVERGE_SWITCH);
	(void)simulate(&factor, 512 * MIB, 70 * MIB, 512 * MIB, 100 * MIB, false, &d);
	assert_int_equal(d.verdict, FM_CONVERGE_HOPELESS);
	assert_non_null(strstr(d.reason, "memory"));
}

/* Whatever is measured, it ends, and nonsense does not break it. */
static void test_always_ends(void **state)
{
	struct fm_converge_limits l = { 0 };
	struct fm_converge_decision d;

	srandom(7);
	for (int i = 0; i < 2000; i++) {
		struct fm_converge_round r[64];
		unsigned n = 0;
		do {
			r[n++] = (struct fm_converge_round){ .changed_bytes = (uint64_t)random() << (random() % 12),
				                             .sent_bytes = (uint64_t)random() << (random() % 12),
				                             .us = (uint64_t)random() >> (random() % 31) };
			fm_converge(&l, r, n, i % 2, 0, &d);
		} while (d.verdict == FM_CONVERGE_ANOTHER && n < 64);
		assert_int_not_equal(d.verdict, FM_CONVERGE_ANOTHER);
		assert_true(d.reason[0] != '\0');
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_yet),       cmocka_unit_test(test_idle),
		cmocka_unit_test(test_converges),         cmocka_unit_test(test_faster_than_the_link),
		cmocka_unit_test(test_small_working_set), cmocka_unit_test(test_limits),
		cmocka_unit_test(test_always_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
