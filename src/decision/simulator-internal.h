/* SPDX-License-Identifier: MIT */
/* simulator-internal.h - private to the simulator (simulator.h): the scenario as it was read, and the world as it goes on. */
#ifndef FM_DECISION_SIMULATOR_INTERNAL_H
#define FM_DECISION_SIMULATOR_INTERNAL_H

#include "decision/balance.h"
#include "decision/drain.h"
#include "decision/proactive.h"
#include "decision/simulator.h"

/* ---------------------------------------------------------------- the scenario; simulator-read.c */

enum sim_cpu_kind { SIM_CONSTANT, SIM_SINE, SIM_WALK, SIM_BURSTS, SIM_TRACE };
enum sim_placement { SIM_SPREAD, SIM_PACK, SIM_RANDOM };
enum sim_event_kind { SIM_DRAIN, SIM_FAIL, SIM_RETURN, SIM_LOAD };

struct sim_cpu {
	enum sim_cpu_kind kind;
	double cores;     /* constant, mean of sine, where a walk comes back to, between bursts; of a trace: added to it */
	double amplitude; /* sine */
	double deviation; /* of a walk, for an hour */
	double peak;      /* in bursts */
	double scale;     /* cores for 1 of a trace's values */
	double noise;     /* standard deviation, as a share of the value */
	double spread[2]; /* each container's own factor is between them */
	double min, max;  /* cores, of the result */
	uint64_t period_ms, on_ms, off_ms;
	uint64_t shift_ms; /* earlier in its period or trace */
	bool shift_random; /* each container by something else */
	size_t trace;
};
struct sim_hosts {
	char *name;
	uint64_t count; /* 0: one, whose name has no number */
	double cpus, cost, latency_ms;
	uint64_t memory_bytes, network_bytes_per_s;
	struct fm_snap_labels labels;
};
struct sim_containers {
	char *name;
	uint64_t count;
	uint64_t memory_bytes[2]; /* between them */
	uint64_t dirty_bytes_per_s, files_bytes, processes;
	double compressibility;
	bool nested;
	enum sim_placement placement;
	struct fm_snap_labels labels;
	struct sim_cpu cpu;
};
struct sim_event {
	uint64_t at_ms, deadline_ms;
	enum sim_event_kind kind;
	char *name; /* host, or group of containers */
	double factor;
};
struct fm_scenario {
	uint64_t seed, start_unix_ms, duration_ms, step_ms;
	double utc_offset_h;
	unsigned mode;
	double cpu_percent, memory_percent;
	struct {
		double share;
		uint64_t max_concurrent, max_per_host;
	} moves;
	struct {
		double noise, downtime_factor, total_factor, failures;
	} outcome;
	uint64_t reactive_every_ms;
	struct {
		double margin_percent;
		uint64_t sustain_ms, settle_ms, cooldown_ms, return_ms, moves_per_hour, moves_at_once;
	} proactive;
	uint32_t members;
	uint64_t horizon_ms;
	uint64_t *consolidate_at_ms; /* ascending */
	size_t n_consolidate;
	struct sim_hosts *hosts;
	struct sim_containers *containers;
	struct sim_event *events; /* by time, then as they were written */
	size_t n_hosts, n_containers, n_events;
	char **traces, **policies;
};

/* ---------------------------------------------------------------- chance: splitmix64 (Steele, Lea, Flood, 2014), one sequence for each thing that has one */

static inline uint64_t sim_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}
/* 0 <= x < 1 */
static inline double sim_uniform(uint64_t *state)
{
	return (double)(sim_random(state) >> 11) / 9007199254740992.0;
}
/* Mean 0, deviation 1, never beyond 3.5: the sum of four uniform ones (Irwin-Hall), which needs no function whose last bit differs between libraries. */
static inline double sim_normal(uint64_t *state)
{
	return (sim_uniform(state) + sim_uniform(state) + sim_uniform(state) + sim_uniform(state) - 2) * 1.7320508075688772;
}
static inline uint64_t sim_seed(uint64_t seed, uint64_t what, uint64_t which)
{
	uint64_t state = seed ^ (what * 0xd1342543de82ef95ull);
	state = sim_random(&state) ^ (which * 0x2545f4914f6cdd1dull);
	return sim_random(&state);
}

/* ---------------------------------------------------------------- the world */

#define SIM_REMEMBERED 4u       /* hosts that a container has left */
#define SIM_BACK_MS    3600000u /* within that it is ping-pong */

struct sim_load; /* what containers need; simulator-load.c */

struct sim_host {
	double cores, memory_bytes; /* needed by what is there; memory also of what is coming */
	size_t n;
	bool failed, cordoned;
	double cost;
	uint64_t since_ms; /* all is added up until then */
	struct fm_predictor *predictor;
};
struct sim_container {
	size_t host, group;
	double cores;
	uint64_t moves;
	bool moving;
	size_t left[SIM_REMEMBERED];
	uint64_t left_at_ms[SIM_REMEMBERED];
	unsigned n_left;
};
enum sim_phase { SIM_PREPARES, SIM_SENDS, SIM_OVER };
struct sim_move {
	size_t container, from, to, step;
	uint64_t plan; /* its number */
	enum sim_phase phase;
	struct fm_cost_case c;
	uint64_t began_ms, sends_since_ms, limit_ms; /* limit: 0 none */
	double left_ms, left_bytes, all_bytes, most; /* bytes/ms it may have */
	double rate;
	bool fixed;
	bool fails;
	double downtime_factor, wire_factor;
	uint64_t predicted_downtime_ms;
};
enum sim_step { SIM_WAITING, SIM_RUNNING, SIM_DONE, SIM_GIVEN_UP };
struct sim {
	const struct fm_scenario *sc;
	const struct fm_simulation_inputs *in;
	struct fm_simulation *r;
	struct fm_snapshot *s; /* kept up to date by sim_refresh() */
	struct sim_host *hosts;
	struct sim_container *containers;
	struct sim_load *load;
	size_t n_hosts, n_containers, hosts_in_use; /* in use: that have containers */
	uint64_t now_ms;
	struct fm_plan_opts opts;
	struct fm_move_costs costs;
	struct fm_cost_model *model;
	struct fm_proactive *proactive;
	/* the plan under way */
	struct fm_plan *plan;
	enum sim_step *steps;
	bool *waited;
	bool stopped;
	uint64_t plan_number, plan_began_ms, plan_deadline_ms; /* deadline: a moment; 0 none */
	struct sim_move *moves;
	size_t n_moves, cap_moves;
	struct sim_ways {
		double out, in; /* bytes/ms left */
		unsigned n_out, n_in;
	} * ways;          /* of each host, for sharing */
	uint64_t *denials; /* of each policy, and behind them of none */
	/* what comes next of each kind; drains: r->drains, in the order of their events */
	size_t next_event, next_drain, next_consolidate;
	uint64_t next_reactive_ms;
	bool *judged; /* drains whose deadline has been */
	uint64_t in_use_ms;
};

/* simulator-load.c */
struct sim_load *sim_load_new(const struct fm_scenario *sc, const struct fm_trace *traces, uint64_t seed, size_t n_containers);
void sim_load_free(struct sim_load *l);
double sim_load_expected(const struct sim_load *l, size_t container); /* mean cores */
void sim_load_step(struct sim_load *l, uint64_t at_ms);               /* once a step, in the order of time */
double sim_load_cores(const struct sim_load *l, size_t container);
void sim_load_factor(struct sim_load *l, size_t group, double factor);

/* simulator-world.c */
int sim_world_new(const struct fm_scenario *sc, const struct fm_simulation_inputs *in, struct sim **ret, struct fm_error *err);
void sim_world_free(struct sim *w); /* but its r, when that was taken */
FM_DEFINE_CLEANUP(struct sim *, sim_world_free);
void sim_account(struct sim *w, size_t host);      /* adds up what was since the last time; before anything there changes */
void sim_refresh_host(struct sim *w, size_t host); /* the snapshot's view of it */
void sim_refresh(struct sim *w);                   /* of everything */

/* simulator.c */
void sim_run(struct sim *w); /* once */

/* simulator-move.c */
void sim_start_plan(struct sim *w, struct fm_plan *p, uint64_t deadline_ms); /* takes it; deadline: a moment, 0: none */
void sim_advance(struct sim *w, uint64_t until_ms); /* with all moves that begin and end meanwhile; returns before when a plan is over */
void sim_host_failed(struct sim *w, size_t host);

#endif
