/* SPDX-License-Identifier: MIT */
/*
 * planning.c - how long plans for large clusters take, and how good they are. `build/bench-planning`: a table; every line is a made-up cluster for which an assignment without overload exists
 * (tests/unit/planning-lab.h). The steps are carried out in an order chosen by chance: "over after" counts what is over then.
 */
#include "../tests/unit/planning-lab.h"

#include "basic/clock.h"

static void check(int rc)
{
	if (rc < 0)
		abort();
}

static size_t over_after(const struct fm_snapshot *s, const struct fm_plan *p, uint64_t *seed, const char **wrong)
{
	struct lab_world w = lab_world(s);
	*wrong = lab_play(s, p, 150, 90, seed, &w);
	size_t n = lab_over(s, &w, 80, 70);
	lab_world_done(&w);
	return n;
}

static void balance(size_t hosts, size_t containers, double low, double full, uint64_t seed)
{
	struct fm_snapshot *s = lab_planted(hosts, containers, low, full, &seed);
	struct lab_world w = lab_world(s);
	size_t before = lab_over(s, &w, 80, 70);
	struct fm_plan *p = NULL;
	const char *wrong = "";
	uint64_t begin = fm_thread_cpu_us();
	check(fm_plan_balance(s, NULL, &p, NULL));
	double ms = (double)(fm_thread_cpu_us() - begin) / 1000;
	size_t after = over_after(s, p, &seed, &wrong);
	printf("balance      %5zu %7zu %5.1f %% %6zu %6zu %6zu %8.0f ms  %s\n", hosts, s->n_containers, full * 100, before, after,
	       p->n_steps, ms, wrong);
	lab_world_done(&w);
	fm_plan_free(p);
	fm_snapshot_free(s);
}

static void consolidate(size_t hosts, size_t containers, double full, uint64_t seed)
{
	struct fm_snapshot *s = lab_planted(hosts, containers, 0.9 * full, full, &seed);
	struct fm_plan *p = NULL;
	const char *wrong = "";
	uint64_t begin = fm_thread_cpu_us();
	check(fm_plan_consolidate(s, NULL, &p, NULL));
	double ms = (double)(fm_thread_cpu_us() - begin) / 1000;
	(void)over_after(s, p, &seed, &wrong);
	printf("consolidate  %5zu %7zu %5.1f %% %6zu freed  %6zu %8.0f ms  %s\n", hosts, s->n_containers, full * 100, fm_strv_len(p->freed),
	       p->n_steps, ms, wrong);
	fm_plan_free(p);
	fm_snapshot_free(s);
}

static void drain(size_t hosts, size_t containers, uint64_t deadline_ms, uint64_t seed)
{
	struct fm_snapshot *s = lab_planted(hosts, containers, 0.5, 0.6, &seed);
	struct fm_plan_opts o = { .deadline_ms = deadline_ms };
	struct fm_plan *p = NULL;
	uint64_t begin = fm_thread_cpu_us();
	check(fm_plan_drain(s, 0, &o, &p, NULL));
	double ms = (double)(fm_thread_cpu_us() - begin) / 1000;
	printf("drain        %5zu %7zu         %6zu left   %6zu %8.0f ms\n", hosts, s->n_containers, p->n_left, p->n_steps, ms);
	fm_plan_free(p);
	fm_snapshot_free(s);
}

int main(void)
{
	static const double full[] = { 0.7, 0.9, 0.97, 0.99, 1 };
	printf("             hosts  containers full  over before/after  moves  processor time\n");
	for (size_t i = 0; i < sizeof(full) / sizeof(full[0]); i++)
		for (uint64_t seed = 1; seed <= 3; seed++)
			balance(1000, 20000, 0.9 * full[i], full[i], seed);
	for (uint64_t seed = 1; seed <= 3; seed++) {
		balance(1000, 20000, 0.985, 0.99, seed); /* hardly any room anywhere */
		balance(1000, 20000, 0.995, 1, seed);
		balance(1000, 5000, 0.9, 0.95, seed); /* large pieces */
		balance(1000, 5000, 0.95, 1, seed);
	}
	consolidate(1000, 20000, 0.5, 1);
	consolidate(100, 2000, 0.3, 1);
	drain(1000, 20000, 0, 1);
	drain(1000, 20000, 300000, 1);
	drain(10, 1000, 300000, 1);
	return 0;
}
