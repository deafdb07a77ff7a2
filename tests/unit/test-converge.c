/* SPDX-License-Identifier: MIT */
/* test-converge.c - when pre-copy and live switch over, and when they give up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above */
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/limits.h"
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

/* The same container, which is slowed down as the decision says: it writes that much less. highest: the throttle that was in force at the end. */
static unsigned simulate_throttled(const struct fm_converge_limits *l, uint64_t dirty, uint64_t working_set, uint64_t rate, bool on_demand,
                                   struct fm_converge_decision *d, struct fm_converge_round *r)
{
	uint64_t changed = working_set * 2;
	uint32_t throttle = 0;

	for (unsigned n = 0; n < ROUNDS_MAX;) {
		uint64_t us = changed * 1000000 / rate + 1000;
		r[n++] = (struct fm_converge_round){
			.changed_bytes = changed, .sent_bytes = changed, .us = us, .throttle_percent = throttle
		};
		changed = dirty * (100 - throttle) / 100 * us / 1000000;
		if (changed > working_set)
			changed = working_set;
		fm_converge(l, r, n, on_demand, 0, d);
		assert_true(d->throttle_percent <= l->max_throttle_percent);
		assert_true(d->throttle_percent >= throttle);
		if (d->verdict != FM_CONVERGE_ANOTHER)
			return n;
		throttle = d->throttle_percent;
	}
	fail_msg("it goes on for ever");
	return 0;
}

/* Twenty first, then ten more a round, as far as it is needed: three times the link's rate shrinks again from 74 % on. */
static void test_throttle_converges(void **state)
{
	struct fm_converge_limits l = { .max_throttle_percent = 99 };
	struct fm_converge_decision d;
	struct fm_converge_round r[ROUNDS_MAX];

	for (int live = 0; live < 2; live++) {
		unsigned n = simulate_throttled(&l, 300 * MIB, 256 * MIB, 100 * MIB, live, &d, r);
		assert_int_equal(d.verdict, FM_CONVERGE_SWITCH);
		assert_in_range(d.throttle_percent, 80, 90);
		assert_int_equal(r[n - 1].throttle_percent, d.throttle_percent);
		uint32_t was = 0;
		for (unsigned i = 0; i < n; i++) {
			if (r[i].throttle_percent != was)
				assert_int_equal(r[i].throttle_percent, was ? was + 10 : 20);
			was = r[i].throttle_percent;
		}
	}
}

/* Not without being allowed to, not for rounds that shrink, not for a set that fits into the freeze as it is. */
static void test_throttle_not_needed(void **state)
{
	struct fm_converge_limits never = { 0 }, l = { .max_throttle_percent = 99 };
	struct fm_converge_decision d;
	struct fm_converge_round r[ROUNDS_MAX];

	for (int live = 0; live < 2; live++) {
		unsigned n = simulate_throttled(&never, 300 * MIB, 256 * MIB, 100 * MIB, live, &d, r);
		assert_int_equal(d.verdict, live ? FM_CONVERGE_SWITCH : FM_CONVERGE_HOPELESS);
		assert_int_equal(r[n - 1].throttle_percent, 0);
		assert_null(strstr(d.reason, "throttled"));
		(void)simulate_throttled(&l, 50 * MIB, 256 * MIB, 100 * MIB, live, &d, r);
		assert_int_equal(d.verdict, FM_CONVERGE_SWITCH);
		assert_int_equal(d.throttle_percent, 0);
		(void)simulate_throttled(&l, 4000 * MIB, 20 * MIB, 500 * MIB, live, &d, r);
		assert_int_equal(d.verdict, FM_CONVERGE_SWITCH);
		assert_int_equal(d.throttle_percent, 0);
	}
}

/* At the maximum a whole round passes before the verdict, and the verdict says what was tried. */
static void test_throttle_in_vain(void **state)
{
	static const uint32_t maxima[] = { 5, 20, 25, 40, 99 };
	struct fm_converge_decision d;
	struct fm_converge_round r[ROUNDS_MAX];

	for (size_t i = 0; i < sizeof(maxima) / sizeof(maxima[0]); i++)
		for (int live = 0; live < 2; live++) {
			struct fm_converge_limits l = { .max_throttle_percent = maxima[i] };
			unsigned n = simulate_throttled(&l, 100000 * MIB, 256 * MIB, 100 * MIB, live, &d, r);
			assert_int_equal(d.verdict, live ? FM_CONVERGE_SWITCH : FM_CONVERGE_HOPELESS);
			assert_int_equal(d.throttle_percent, maxima[i]);
			assert_int_equal(r[n - 2].throttle_percent, maxima[i]);
			if (!live) {
				char said[64];
				(void)snprintf(said, sizeof(said), "throttled to %u %%", 100 - maxima[i]);
				assert_non_null(strstr(d.reason, said));
				assert_non_null(strstr(d.reason, "ms of downtime, not 300")); /* not cut off */
			}
		}
}

/* Limits come before more throttling. */
static void test_throttle_limits(void **state)
{
	struct fm_converge_limits time = { .max_throttle_percent = 99, .max_rounds_ms = 12000 };
	struct fm_converge_limits rounds = { .max_throttle_percent = 99, .max_rounds = 4 };
	struct fm_converge_limits factor = { .max_throttle_percent = 99, .max_factor_percent = 250 };
	const struct fm_converge_limits *all[] = { &time, &rounds, &factor };
	struct fm_converge_decision d;
	struct fm_converge_round r[ROUNDS_MAX];

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		(void)simulate_throttled(all[i], 100000 * MIB, 256 * MIB, 100 * MIB, false, &d, r);
		assert_int_equal(d.verdict, FM_CONVERGE_HOPELESS);
		assert_in_range(d.throttle_percent, 20, 60);
		assert_non_null(strstr(d.reason, "throttled to"));
		(void)simulate_throttled(all[i], 100000 * MIB, 256 * MIB, 100 * MIB, true, &d, r);
		assert_int_equal(d.verdict, FM_CONVERGE_SWITCH);
	}
}

/* The round just before the freeze: left out only where it would be sent twice. */
static void test_last_round(void **state)
{
	struct fm_converge_round r[] = { { .changed_bytes = 64 * MIB }, { .changed_bytes = 60 * MIB } };

	assert_true(fm_converge_last_round(r, 1, true));
	assert_false(fm_converge_last_round(r, 2, true));
	assert_true(fm_converge_last_round(r, 2, false)); /* pre-copy has to bring all of it */
	r[1].changed_bytes = 32 * MIB;
	assert_true(fm_converge_last_round(r, 2, true));
	r[0].changed_bytes = r[1].changed_bytes = 8 * MIB;
	assert_true(fm_converge_last_round(r, 2, true));
	r[0].changed_bytes = r[1].changed_bytes = 9 * MIB;
	assert_false(fm_converge_last_round(r, 2, true));
}

/* A label's number: 0 to max */
static void check_numbers(int (*from_string)(const char *, uint32_t *, struct fm_error *), const char *const *bad, const char *highest,
                          uint32_t max)
{
	struct fm_error e = FM_ERROR_INIT;
	uint32_t v = 7;

	for (; *bad; bad++) {
		e = FM_ERROR_INIT;
		assert_int_equal(from_string(*bad, &v, &e), -1);
		assert_int_equal(e.code, FM_E_INVALID_ARGUMENT);
		assert_int_equal(v, 7);
	}
	assert_int_equal(from_string("0", &v, &e), 0);
	assert_int_equal(v, 0);
	assert_int_equal(from_string(highest, &v, &e), 0);
	assert_int_equal(v, max);
}

static void test_throttle_from_string(void **state)
{
	static const char *const bad[] = { "", "-1", "100", "4294967296", "60%", "half", " 60", "6 0", "99999999999999999999", NULL };

	check_numbers(fm_throttle_from_string, bad, "99", FM_MAX_THROTTLE_PERCENT);
}

static void test_streams(void **state)
{
	static const char *const bad[] = { "", "-1", "17", "4294967297", "two", "2 ", NULL };
	static const unsigned of_processors[] = { 1, 1, 1, 1, 2, 2, 3, 3, 4, 4 };

	check_numbers(fm_streams_from_string, bad, "16", FM_MAX_PUSH_STREAMS);
	for (uint32_t i = 0; i < sizeof(of_processors) / sizeof(of_processors[0]); i++)
		assert_int_equal(fm_converge_streams(i), of_processors[i]);
	assert_int_equal(fm_converge_streams(UINT32_MAX), 4);
}

/* Whatever is measured, it ends, and nonsense does not break it. */
static void test_always_ends(void **state)
{
	struct fm_converge_decision d = { .throttle_percent = 0 };

	srandom(7);
	for (int i = 0; i < 2000; i++) {
		struct fm_converge_limits l = { .max_throttle_percent = i % 3 ? (uint32_t)random() % 130 : 0 };
		struct fm_converge_round r[64];
		unsigned n = 0;
		do {
			r[n++] = (struct fm_converge_round){ .changed_bytes = (uint64_t)random() << (random() % 12),
				                             .sent_bytes = (uint64_t)random() << (random() % 12),
				                             .us = (uint64_t)random() >> (random() % 31),
				                             .throttle_percent = n ? d.throttle_percent : 0 };
			fm_converge(&l, r, n, i % 2, 0, &d);
			assert_true(d.throttle_percent <= FM_MAX_THROTTLE_PERCENT);
		} while (d.verdict == FM_CONVERGE_ANOTHER && n < 64);
		assert_int_not_equal(d.verdict, FM_CONVERGE_ANOTHER);
		assert_true(d.reason[0] != '\0');
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_yet),
		cmocka_unit_test(test_idle),
		cmocka_unit_test(test_converges),
		cmocka_unit_test(test_faster_than_the_link),
		cmocka_unit_test(test_small_working_set),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_throttle_converges),
		cmocka_unit_test(test_throttle_not_needed),
		cmocka_unit_test(test_throttle_in_vain),
		cmocka_unit_test(test_throttle_limits),
		cmocka_unit_test(test_last_round),
		cmocka_unit_test(test_throttle_from_string),
		cmocka_unit_test(test_streams),
		cmocka_unit_test(test_always_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
