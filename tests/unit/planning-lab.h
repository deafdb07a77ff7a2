/* SPDX-License-Identifier: MIT */
/* planning-lab.h - what tests and measurements of plans share: made-up clusters, and a plan carried out step by step in every order it allows. Included by one program each. */
#ifndef FM_TESTS_PLANNING_LAB_H
#define FM_TESTS_PLANNING_LAB_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decision/balance.h"
#include "decision/drain.h"
#include "decision/plan.h"
#include "basic/str.h"
#include "decision/snapshot.h"

#define GB (1000ull * 1000 * 1000)
#define MB (1000ull * 1000)

/* xorshift64*: the same numbers on every machine */
static inline uint64_t lab_random(uint64_t *seed)
{
	*seed ^= *seed >> 12;
	*seed ^= *seed << 25;
	*seed ^= *seed >> 27;
	return *seed * 2685821657736338717ull;
}
static inline double lab_uniform(uint64_t *seed, double low, double high)
{
	return low + (high - low) * (double)(lab_random(seed) >> 11) / 9007199254740992.0;
}

/* Idle, with 10 cores, 100 GB and 1 Gbit/s, so that percentages are easy to read. */
static inline size_t lab_host(struct fm_snapshot *s)
{
	char name[32];
	(void)snprintf(name, sizeof(name), "h%zu", s->n_hosts);
	struct fm_snap_host *h = fm_snapshot_add_host(s, name);
	h->online = h->can_restore = true;
	h->cpus = 10;
	h->cpu_percent = 0;
	h->memory_total_bytes = 100 * GB;
	h->memory_percent = 0;
	h->memory_available_bytes = 100 * GB;
	h->network_capacity_bytes_per_s = 125 * MB;
	return s->n_hosts - 1;
}

static inline void lab_use(struct fm_snapshot *s, size_t host, double cores, double bytes)
{
	struct fm_snap_host *h = &s->hosts[host];
	h->cpu_percent += cores / h->cpus * 100;
	h->memory_percent += bytes / (double)h->memory_total_bytes * 100;
	h->memory_available_bytes = (uint64_t)fmax(0, (double)h->memory_total_bytes * (1 - h->memory_percent / 100));
}

static inline struct fm_snap_container *lab_container(struct fm_snapshot *s, size_t host, double cores, uint64_t bytes)
{
	char name[32];
	(void)snprintf(name, sizeof(name), "c%zu", s->n_containers);
	struct fm_snap_container *c = fm_snapshot_add_container(s, name, host);
	c->nested = true;
	c->cpu_cores = cores;
	c->memory_bytes = c->working_set_bytes = bytes;
	c->processes = 4;
	c->files_bytes = 0;
	lab_use(s, host, cores, (double)bytes);
	return c;
}

/* Costs that are easy to reckon with: everything goes once, with rounds 1.3 times; 300 ms before, 30 ms of downtime where the pages are not in it. */
static inline int lab_predict(void *userdata, const struct fm_snapshot *s, const struct fm_move *m, struct fm_move_cost *ret,
                              struct fm_error *e)
{
	enum fm_strategy strategy = m->strategy == FM_STRATEGY_AUTO ? FM_STRATEGY_LIVE : m->strategy;
	double factor = strategy == FM_STRATEGY_LIVE || strategy == FM_STRATEGY_PRE_COPY ? 1.3 : 1,
	       bytes = factor * (double)m->memory_bytes;
	double copy_ms = bytes / (double)m->bandwidth_bytes_per_s * 1000, down_ms = strategy == FM_STRATEGY_COLD ? 30 + copy_ms : 30;
	*ret = (struct fm_move_cost){ strategy, (uint64_t)(330.5 + copy_ms), (uint64_t)down_ms, (uint64_t)bytes };
	return 0;
}

/* The world as a plan changes it. */
struct lab_world {
	double *cpu, *memory; /* percent of each host */
	size_t *host;         /* of each container */
};

static inline struct lab_world lab_world(const struct fm_snapshot *s)
{
	struct lab_world w = { calloc(s->n_hosts + 1, sizeof(double)), calloc(s->n_hosts + 1, sizeof(double)),
		               calloc(s->n_containers + 1, sizeof(size_t)) };
	for (size_t h = 0; h < s->n_hosts; h++) {
		w.cpu[h] = s->hosts[h].cpu_percent;
		w.memory[h] = s->hosts[h].memory_percent;
	}
	for (size_t c = 0; c < s->n_containers; c++)
		w.host[c] = s->containers[c].host;
	return w;
}
static inline void lab_world_done(struct lab_world *w)
{
	free(w->cpu);
	free(w->memory);
	free(w->host);
}
static inline void lab_add(const struct fm_snapshot *s, struct lab_world *w, size_t container, size_t host, double sign)
{
	w->cpu[host] += sign * s->containers[container].cpu_cores / s->hosts[host].cpus * 100;
	w->memory[host] += sign * (double)s->containers[container].working_set_bytes / (double)s->hosts[host].memory_total_bytes * 100;
}

/*
 * Carries the plan out in an order that its dependencies allow, chosen by chance, each container at both its hosts meanwhile. "" or what went wrong: a step that begins where its container is not, or
 * a destination that was well and gets over limit (which a transit of the plan's own may: transit_cpu, transit_memory).
 */
static inline const char *lab_play(const struct fm_snapshot *s, const struct fm_plan *p, double cpu_limit, double memory_limit,
                                   uint64_t *seed, struct lab_world *w)
{
	bool *done = calloc(p->n_steps + 1, sizeof(bool));
	const char *wrong = "";
	for (size_t n = 0; n < p->n_steps && !wrong[0]; n++) {
		size_t pick = SIZE_MAX, ready = 0;
		for (size_t i = 0; i < p->n_steps; i++) {
			bool can = !done[i];
			for (size_t k = 0; k < p->steps[i].n_depends_on; k++)
				can = can && done[p->steps[i].depends_on[k]];
			if (can && lab_random(seed) % ++ready == 0)
				pick = i;
		}
		if (pick == SIZE_MAX) {
			wrong = "steps wait for each other";
			break;
		}
		const struct fm_plan_step *st = &p->steps[pick];
		if (w->host[st->container] != st->from)
			wrong = "a step begins where its container is not";
		lab_add(s, w, st->container, st->to, 1);
		if (w->cpu[st->to] > cpu_limit + 1e-6 || w->memory[st->to] > memory_limit + 1e-6)
			wrong = "a destination has no room when its container comes";
		lab_add(s, w, st->container, st->from, -1);
		w->host[st->container] = st->to;
		done[pick] = true;
	}
	free(done);
	return wrong;
}

static inline size_t lab_over(const struct fm_snapshot *s, const struct lab_world *w, double cpu, double memory)
{
	size_t n = 0;
	for (size_t h = 0; h < s->n_hosts; h++)
		n += w->cpu[h] > cpu + 1e-6 || w->memory[h] > memory + 1e-6;
	return n;
}

/* A cluster for which an assignment exists in which every host uses from `low` to `full` of its thresholds (80 and 70): then some containers are moved onto every tenth host. */
static inline struct fm_snapshot *lab_planted(size_t hosts, size_t containers, double low, double full, uint64_t *seed)
{
	struct fm_snapshot *s = fm_snapshot_new(1000000);
	size_t per_host = containers / hosts;
	for (size_t h = 0; h < hosts; h++)
		(void)lab_host(s);
	for (size_t h = 0; h < hosts; h++) {
		double *parts = calloc(2 * per_host, sizeof(double)), sum[2] = { 0, 0 };
		for (size_t k = 0; k < 2 * per_host; k++)
			sum[k % 2] += parts[k] = lab_uniform(seed, 0.2, 1.8);
		for (size_t k = 0; k < per_host; k++) {
			double share = lab_uniform(seed, low, full); /* of the host's thresholds, altogether */
			size_t at = h % 10 != 0 && lab_random(seed) % 12 == 0 ? h - h % 10 : h;
			(void)lab_container(s, at, parts[2 * k] / sum[0] * 8 * share,
			                    (uint64_t)(parts[2 * k + 1] / sum[1] * 70 * share * (double)GB));
		}
		free(parts);
	}
	return s;
}

#endif
