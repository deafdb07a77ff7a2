/* SPDX-License-Identifier: MIT */
/* test-reserve.c - what a plan under way takes is left out of the next one: containers, room, links. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "planning-lab.h"

#include "decision/drain.h"
#include "decision/reserve.h"

FM_DEFINE_CLEANUP(struct fm_snapshot *, fm_snapshot_free);

#define MBIT 125000ull

/* Three hosts of ten cores and one container of five cores on each of the first two. */
static struct fm_snapshot *cluster(void)
{
	struct fm_snapshot *s = fm_snapshot_new(1000);
	for (int h = 0; h < 3; h++)
		(void)lab_host(s);
	(void)lab_container(s, 0, 5, GB);
	(void)lab_container(s, 1, 5, GB);
	for (size_t h = 0; h < 3; h++) {
		s->hosts[h].cpu_percent = h < 2 ? 50 : 0;
		s->hosts[h].network_capacity_bytes_per_s = 1000 * MBIT;
		s->hosts[h].network_in_bytes_per_s = s->hosts[h].network_out_bytes_per_s = 0;
	}
	return s;
}

static struct fm_reserved step(const struct fm_snapshot *s, size_t c, size_t to, uint64_t bandwidth, uint64_t start_ms, uint64_t end_ms)
{
	return (struct fm_reserved){
		s->containers[c].name, s->hosts[s->containers[c].host].name, s->hosts[to].name, bandwidth, start_ms, end_ms
	};
}

static void test_room(void **state)
{
	_fm_cleanup_(fm_snapshot_freep) struct fm_snapshot *s = cluster();
	uint64_t available = s->hosts[2].memory_available_bytes;
	s->hosts[2].cpu_predicted_percent = NAN;
	struct fm_reserved v = step(s, 0, 2, 100 * MBIT, 0, 1000);
	fm_snapshot_reserve(s, "p-1", &v, 1);
	assert_true(fabs(s->hosts[2].cpu_percent - 50) < 1e-9);
	assert_true(isnan(s->hosts[2].cpu_predicted_percent));  /* not known stays so */
	assert_true(fabs(s->hosts[0].cpu_percent - 50) < 1e-9); /* where it leaves it counts still */
	if (available != FM_UNKNOWN)
		assert_int_equal(s->hosts[2].memory_available_bytes, available - GB);
	assert_true(s->containers[0].fixed && !s->containers[1].fixed);
	assert_string_equal(s->containers[0].blocker, "plan p-1 moves it");
}

/* Without the first plan there is room under the threshold; with it there is none, and the drain goes over it as the last resort says. */
static void test_the_next_plan_goes_elsewhere(void **state)
{
	_fm_cleanup_(fm_snapshot_freep) struct fm_snapshot *s = cluster();
	struct fm_error e = FM_ERROR_INIT;
	for (int beside = 0; beside < 2; beside++) {
		_fm_cleanup_(fm_plan_freep) struct fm_plan *p = NULL;
		struct fm_reserved v = step(s, 0, 2, 100 * MBIT, 0, 1000);
		if (beside) { /* another host, with less room than the third has without the first plan */
			size_t h = lab_host(s);
			s->hosts[h].cpu_percent = 25;
			fm_snapshot_reserve(s, "p-1", &v, 1);
		}
		assert_int_equal(fm_plan_drain(s, 1, NULL, &p, &e), 0);
		assert_int_equal(p->n_steps, 1);
		assert_int_equal(p->steps[0].to, beside ? 3 : 2);
	}
}

/* The most at any time, not the sum over time; every way is left with the rest. */
static void test_links(void **state)
{
	_fm_cleanup_(fm_snapshot_freep) struct fm_snapshot *s = cluster();
	struct fm_snap_link *l = fm_snapshot_add_link(s, 2, 0); /* told for the way back only */
	l->bandwidth_bytes_per_s = 1000 * MBIT;
	l->utilisation_percent = 10;
	s->hosts[0].network_out_bytes_per_s = FM_UNKNOWN;
	struct fm_reserved v[4] = { step(s, 0, 2, 300 * MBIT, 0, 1000), step(s, 0, 2, 400 * MBIT, 1000, 2000),
		                    step(s, 0, 2, 100 * MBIT, 500, 2000), step(s, 1, 2, 200 * MBIT, 1500, 1800) };
	fm_snapshot_reserve(s, "p-1", v, 4);
	assert_int_equal(s->hosts[0].network_out_bytes_per_s, 500 * MBIT);
	assert_int_equal(s->hosts[1].network_out_bytes_per_s, 200 * MBIT);
	assert_int_equal(s->hosts[2].network_in_bytes_per_s, 700 * MBIT);
	assert_int_equal(s->hosts[0].network_in_bytes_per_s, 0);
	assert_true(fabs(s->links[0].utilisation_percent - 60) < 1e-9);
}

/* Both plans together keep the budget of the way into their common destination. */
static void test_two_plans_keep_the_budget(void **state)
{
	_fm_cleanup_(fm_snapshot_freep) struct fm_snapshot *s = cluster();
	struct fm_error e = FM_ERROR_INIT;
	struct fm_plan *p[2] = { NULL, NULL };
	s->containers[0].cpu_cores = s->containers[1].cpu_cores = 1;
	for (size_t i = 0; i < 2; i++) {
		s->hosts[i].cordoned = true;
		assert_int_equal(fm_plan_drain(s, i, NULL, &p[i], &e), 0);
		assert_int_equal(p[i]->n_steps, 1);
		assert_int_equal(p[i]->steps[0].to, 2);
		struct fm_reserved v = step(s, i, 2, p[i]->steps[0].bandwidth_bytes_per_s, p[i]->steps[0].start_ms, p[i]->steps[0].end_ms);
		fm_snapshot_reserve(s, "p-1", &v, 1);
	}
	assert_true(p[1]->steps[0].bandwidth_bytes_per_s > 0);
	assert_true((double)(p[0]->steps[0].bandwidth_bytes_per_s + p[1]->steps[0].bandwidth_bytes_per_s) <= 1000.0 * (double)MBIT);
	fm_plan_free(p[0]);
	fm_plan_free(p[1]);
}

static void test_who_is_gone(void **state)
{
	_fm_cleanup_(fm_snapshot_freep) struct fm_snapshot *s = cluster();
	const struct fm_reserved v[2] = { { "nobody", s->hosts[0].name, "nowhere", MBIT, 0, 1 },
		                          { s->containers[1].name, "nowhere", "nowhere", MBIT, 0, 1 } };
	fm_snapshot_reserve(s, "p-1", v, 2);
	fm_snapshot_reserve(s, "p-2", NULL, 0);
	assert_true(!s->containers[0].fixed && s->containers[1].fixed);
	assert_true(fabs(s->hosts[2].cpu_percent) < 1e-9);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_room),        cmocka_unit_test(test_the_next_plan_goes_elsewhere),
		cmocka_unit_test(test_links),       cmocka_unit_test(test_two_plans_keep_the_budget),
		cmocka_unit_test(test_who_is_gone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
