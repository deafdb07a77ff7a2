/* SPDX-License-Identifier: MIT */
/*
 * simulator.h - Decision Engine: a made-up cluster over hours and days, moved by the same code that decides about a real one: policies, predictors, cost model, balance, proactive, consolidate, drain.
 *
 * Pure: no i/o, no clock. Scenario, traces and policies are read by the caller and passed in; time is counted from the scenario's start. The same scenario, inputs and seed give the same answer, byte for
 * byte; what containers need of processors is the same in all modes, so modes can be compared.
 *
 *   fm_scenario_read(document, &scenario, err);       docs/SIMULATE.md is the manual of what it may say
 *   traces[i] of fm_scenario_traces(scenario)[i], policies of fm_scenario_policies(scenario)
 *   fm_simulate(scenario, &inputs, &result, err);
 *
 * Between steps time passes from one moment to the next in which something begins or ends, in whole milliseconds; what is over a threshold is added up exactly. One plan is under way at a time and is carried
 * out as migration/planner.h does: a step that fails or is denied stops the rest of its plan. A drain stops another kind of plan; drains wait for each other.
 *
 * A scenario is read-only once it is read: any number of threads. A simulation runs on the thread that calls it.
 */
#ifndef FM_DECISION_SIMULATOR_H
#define FM_DECISION_SIMULATOR_H

#include "basic/document.h"
#include "decision/cost.h"
#include "decision/policy.h"
#include "decision/trace.h"

/* What plans moves by itself; bits, so that balancing and consolidating go together. Drains happen in all modes. */
enum fm_simulation_mode { FM_SIMULATE_NONE = 0, FM_SIMULATE_REACTIVE = 1, FM_SIMULATE_PROACTIVE = 2, FM_SIMULATE_CONSOLIDATE = 4 };
#define FM_SIMULATE_MODES 8
/* "none", "proactive+consolidate" */
const char *fm_simulation_mode_to_string(unsigned mode);
int fm_simulation_mode_from_string(const char *name, unsigned *ret, struct fm_error *err);

struct fm_scenario;
/* INVALID_ARGUMENT "FILE:LINE:COLUMN: …": also for members that are not known. RESOURCE_EXHAUSTED: a limit. */
int fm_scenario_read(const struct fm_document *d, struct fm_scenario **ret, struct fm_error *err);
void fm_scenario_free(struct fm_scenario *s);
FM_DEFINE_CLEANUP(struct fm_scenario *, fm_scenario_free);
/* Names of files as the scenario has them, each once; the scenario's. */
char *const *fm_scenario_traces(const struct fm_scenario *s, size_t *ret_n);
char *const *fm_scenario_policies(const struct fm_scenario *s, size_t *ret_n);
unsigned fm_scenario_mode(const struct fm_scenario *s);
uint64_t fm_scenario_seed(const struct fm_scenario *s);
/* Hosts, containers, steps: what a run costs. */
void fm_scenario_size(const struct fm_scenario *s, size_t *ret_hosts, size_t *ret_containers, uint64_t *ret_steps);

/* The cluster at the beginning of a step, after what was decided then; sums are since the beginning. */
struct fm_simulation_row {
	uint64_t at_ms, at_unix_ms;
	size_t hosts_in_use, hosts_over_cpu, hosts_over_memory, hosts_offline, moves_under_way;
	double cpu_mean_percent, cpu_max_percent, memory_max_percent; /* of hosts that are online */
	uint64_t moves, denied, wire_bytes;
};

/* What is needed besides the scenario; all borrowed. */
struct fm_simulation_inputs {
	const struct fm_trace *traces;      /* one for each of fm_scenario_traces() */
	const struct fm_policies *policies; /* NULL: none */
	unsigned mode;
	uint64_t seed;
	void (*row)(void *userdata, const struct fm_simulation_row *r); /* may be NULL */
	void *userdata;
};

struct fm_simulation_denials {
	char *policy; /* "" where no policy allowed it */
	uint64_t n;
};
struct fm_simulation_drain {
	char *host;
	uint64_t at_ms, deadline_ms; /* deadline: after at_ms; 0: none */
	bool begun;                  /* false: another one was under way until the end */
	size_t containers;           /* it had when its plan was made */
	size_t foretold;             /* that the plan said would not make it */
	size_t missed;               /* still there at the deadline, or at the end where there is none */
	uint64_t empty_ms;           /* after at_ms, when the last one had left; FM_UNKNOWN: never */
};

struct fm_simulation {
	unsigned mode;
	uint64_t seed, steps, duration_ms;
	size_t hosts, containers;
	uint64_t plans; /* with steps */
	/* migrations that were asked for: each ends as one of the next six (or is under way at the end) */
	uint64_t asked, moved, failed, denied, refused, overdue, interrupted;
	uint64_t under_way; /* at the end */
	uint64_t queued;    /* of those asked for, that had to wait for a policy's max_concurrent_migrations */
	uint64_t ping_pong; /* of those moved: back on a host they had left less than an hour before */
	uint64_t by_strategy[_FM_STRATEGY_MAX];
	uint64_t wire_bytes, wasted_bytes; /* of moves; of what was rolled back */
	double downtime_ms, longest_downtime_ms, total_ms;
	uint64_t forecasts_met; /* of those moved: downtime within 30 % or 20 ms of what was predicted */
	/* host-minutes over thresholds */
	double cpu_over_min, memory_over_min, over_min;
	double unserved_core_min;    /* that containers needed and their host did not have */
	double outage_container_min; /* on hosts that had failed */
	uint64_t deadline_misses;    /* containers, of all drains with a deadline */
	double hosts_in_use_mean;
	size_t hosts_in_use_most, hosts_in_use_end;
	double cost;                           /* hours of hosts in use times their cost */
	struct fm_simulation_denials *denials; /* in the order of their policies */
	struct fm_simulation_drain *drains;
	size_t n_denials, n_drains;
};
/* INVALID_ARGUMENT: a trace is missing; FAILED_PRECONDITION: a container has room on no host at the beginning. */
int fm_simulate(const struct fm_scenario *s, const struct fm_simulation_inputs *in, struct fm_simulation **ret, struct fm_error *err);
void fm_simulation_free(struct fm_simulation *r);
FM_DEFINE_CLEANUP(struct fm_simulation *, fm_simulation_free);
json_t *fm_simulation_to_json(const struct fm_simulation *r); /* members named as above; the caller's */

#endif
