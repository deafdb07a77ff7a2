/* SPDX-License-Identifier: MIT */
/* simulator-world.c - see simulator-internal.h: the cluster of a scenario, where its containers are at the beginning, and the snapshot that decisions are given. */
#include <math.h>
#include <stdio.h>

#include "basic/str.h"
#include "decision/load.h"
#include "decision/memory.h"
#include "decision/order.h"
#include "decision/simulator-internal.h"

#define PERCENT   100.0
#define MINUTE_MS 60000.0
#define HOUR_MS   3600000.0
#define PLACES    0x91ace5u

/* ---------------------------------------------------------------- hosts and containers */

static void copy_labels(struct fm_snap_labels *to, const struct fm_snap_labels *from)
{
	for (size_t i = 0; i < from->n; i++)
		fm_snap_labels_add(to, from->v[i].key, from->v[i].value);
}

static void name_of(char name[FM_MAX_NAME], const char *group, uint64_t count, uint64_t i)
{
	if (count)
		(void)snprintf(name, FM_MAX_NAME, "%s-%llu", group, (unsigned long long)i + 1);
	else
		(void)snprintf(name, FM_MAX_NAME, "%s", group);
}

static void add_hosts(struct sim *w)
{
	char name[FM_MAX_NAME];
	size_t at = 0;
	for (size_t g = 0; g < w->sc->n_hosts; g++) {
		const struct sim_hosts *group = &w->sc->hosts[g];
		for (uint64_t i = 0; i < (group->count ? group->count : 1); i++, at++) {
			name_of(name, group->name, group->count, i);
			struct fm_snap_host *h = fm_snapshot_add_host(w->s, name);
			h->can_restore = true;
			h->cpus = group->cpus;
			h->memory_total_bytes = group->memory_bytes;
			h->network_capacity_bytes_per_s = group->network_bytes_per_s;
			h->network_in_bytes_per_s = h->network_out_bytes_per_s = 0;
			h->latency_ms = group->latency_ms;
			h->loss_percent = 0;
			h->cpu_pressure_percent = h->memory_pressure_percent = h->io_pressure_percent = h->disk_utilisation_percent = 0;
			copy_labels(&h->labels, &group->labels);
			w->hosts[at].cost = isnan(group->cost) ? 0 : group->cost;
		}
	}
}

static void add_containers(struct sim *w)
{
	char name[FM_MAX_NAME];
	size_t at = 0;
	for (size_t g = 0; g < w->sc->n_containers; g++) {
		const struct sim_containers *group = &w->sc->containers[g];
		double most = (double)(group->memory_bytes[1] - group->memory_bytes[0]);
		for (uint64_t i = 0; i < (group->count ? group->count : 1); i++, at++) {
			uint64_t state = sim_seed(w->in->seed, PLACES, at);
			name_of(name, group->name, group->count, i);
			struct fm_snap_container *c = fm_snapshot_add_container(w->s, name, 0);
			c->nested = group->nested;
			c->processes = group->processes;
			c->memory_bytes = c->working_set_bytes = group->memory_bytes[0] + (uint64_t)(most * sim_uniform(&state));
			c->dirty_bytes_per_s = group->dirty_bytes_per_s;
			c->compressibility = group->compressibility;
			c->files_bytes = group->files_bytes;
			c->connections = c->restarts = c->disk_bytes_per_s = 0;
			c->network_in_bytes_per_s = c->network_out_bytes_per_s = 0;
			copy_labels(&c->labels, &group->labels);
			w->containers[at].group = g;
		}
	}
}

/* ---------------------------------------------------------------- where containers are at the beginning */

/* What labels of groups say: all containers of one have the same. */
struct placing {
	struct sim *w;
	double *cores; /* expected, of each host */
	bool *allowed; /* [group * n_hosts + host], fleximigrate.hosts */
	bool **anti; /* of each group: hosts that have one which must not be with its own; shared by groups with the same label; NULL: none */
	size_t **together; /* likewise: where those of its affinity are, SIZE_MAX: nowhere yet */
};

static bool host_has(const struct fm_snap_host *h, const char *requirement)
{
	for (size_t i = 0; requirement && i < h->labels.n; i++) {
		_fm_free_ char *both = fm_xasprintf("%s=%s", h->labels.v[i].key, h->labels.v[i].value);
		if (fm_streq(both, requirement) || fm_streq(h->labels.v[i].key, requirement))
			return true;
	}
	return !requirement || !requirement[0];
}

/* The first group whose label has the same value */
static size_t first_with(const struct fm_scenario *sc, size_t group, const char *label)
{
	const char *value = fm_snap_label(&sc->containers[group].labels, label);
	size_t i = 0;
	if (!value || !value[0])
		return SIZE_MAX;
	while (!fm_streq(fm_snap_label(&sc->containers[i].labels, label), value))
		i++;
	return i;
}

static void prepare(struct placing *p)
{
	const struct fm_scenario *sc = p->w->sc;
	size_t n = p->w->n_hosts;
	p->cores = fm_alloc_array(n, sizeof(*p->cores));
	p->allowed = fm_alloc_array(sc->n_containers * n, sizeof(*p->allowed));
	p->anti = fm_alloc_array(sc->n_containers, sizeof(*p->anti));
	p->together = fm_alloc_array(sc->n_containers, sizeof(*p->together));
	for (size_t g = 0; g < sc->n_containers; g++) {
		size_t anti = first_with(sc, g, "fleximigrate.anti-affinity"), together = first_with(sc, g, "fleximigrate.affinity");
		for (size_t h = 0; h < n; h++)
			p->allowed[g * n + h] =
			        host_has(&p->w->s->hosts[h], fm_snap_label(&sc->containers[g].labels, "fleximigrate.hosts"));
		if (anti != SIZE_MAX)
			p->anti[g] = anti == g ? fm_alloc_array(n, sizeof(bool)) : p->anti[anti];
		if (together == g) {
			p->together[g] = fm_alloc_array(1, sizeof(size_t));
			*p->together[g] = SIZE_MAX;
		} else if (together != SIZE_MAX) {
			p->together[g] = p->together[together];
		}
	}
}

static void placing_done(struct placing *p)
{
	for (size_t g = 0; g < p->w->sc->n_containers; g++) {
		if (first_with(p->w->sc, g, "fleximigrate.anti-affinity") == g)
			free(p->anti[g]);
		if (first_with(p->w->sc, g, "fleximigrate.affinity") == g)
			free(p->together[g]);
	}
	free(p->cores);
	free(p->allowed);
	free(p->anti);
	free(p->together);
}

/* The larger of what it would use of processors and memory, in parts of what it may; more than 1: it does not fit. */
static double fullness(const struct placing *p, size_t host, size_t container, double cpu_percent, double memory_percent)
{
	const struct sim *w = p->w;
	const struct fm_snap_host *h = &w->s->hosts[host];
	size_t g = w->containers[container].group;
	double cores = p->cores[host] + sim_load_expected(w->load, container);
	double memory = w->hosts[host].memory_bytes + (double)w->s->containers[container].memory_bytes;
	if (!p->allowed[g * w->n_hosts + host] || (p->anti[g] && p->anti[g][host]))
		return INFINITY;
	double cpu_part = cores / (h->cpus * cpu_percent / PERCENT),
	       memory_part = memory / ((double)h->memory_total_bytes * memory_percent / PERCENT);
	return fmax(cpu_part, memory_part);
}

static size_t choose_host(const struct placing *p, size_t container, double cpu_percent, double memory_percent, uint64_t *state)
{
	const struct sim *w = p->w;
	size_t best = SIZE_MAX, g = w->containers[container].group, fitting = 0;
	double least = INFINITY;
	enum sim_placement how = w->sc->containers[g].placement;
	if (p->together[g] && *p->together[g] != SIZE_MAX && fullness(p, *p->together[g], container, cpu_percent, memory_percent) <= 1)
		return *p->together[g];
	for (size_t h = 0; h < w->n_hosts; h++) {
		double full = fullness(p, h, container, cpu_percent, memory_percent);
		if (full > 1)
			continue;
		if (how == SIM_PACK)
			return h;
		fitting++;
		if (how == SIM_RANDOM ? sim_uniform(state) * (double)fitting < 1 : full < least) {
			best = h;
			least = full;
		}
	}
	return best;
}

static int place_one(struct placing *p, size_t container, uint64_t *state, struct fm_error *err)
{
	struct sim *w = p->w;
	size_t g = w->containers[container].group;
	size_t h = choose_host(p, container, w->sc->cpu_percent, w->sc->memory_percent, state);
	if (h == SIZE_MAX) /* rather over a threshold than nowhere */
		h = choose_host(p, container, INFINITY, PERCENT, state);
	if (h == SIZE_MAX)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "container '%s' has room on no host at the beginning",
		                    w->s->containers[container].name);
	w->containers[container].host = w->s->containers[container].host = h;
	w->hosts[h].memory_bytes += (double)w->s->containers[container].memory_bytes;
	w->hosts_in_use += w->hosts[h].n++ == 0;
	p->cores[h] += sim_load_expected(w->load, container);
	if (p->anti[g])
		p->anti[g][h] = true;
	if (p->together[g])
		*p->together[g] = h;
	return 0;
}

static int place(struct sim *w, struct fm_error *err)
{
	struct placing p = { .w = w };
	uint64_t state = sim_seed(w->in->seed, PLACES, SIZE_MAX);
	int rc = 0;
	prepare(&p);
	for (size_t i = 0; rc == 0 && i < w->n_containers; i++)
		rc = place_one(&p, i, &state, err);
	placing_done(&p);
	return rc;
}

/* ---------------------------------------------------------------- the world */

static void set_options(struct sim *w)
{
	w->costs = fm_move_costs_model(w->model);
	w->opts = fm_plan_opts_resolved(&(struct fm_plan_opts){ .cpu_percent = w->sc->cpu_percent,
	                                                        .memory_percent = w->sc->memory_percent,
	                                                        .link_share = w->sc->moves.share,
	                                                        .max_concurrent = (unsigned)w->sc->moves.max_concurrent,
	                                                        .max_per_host = (unsigned)w->sc->moves.max_per_host,
	                                                        .costs = &w->costs });
}

static int new_predictors(struct sim *w, struct fm_error *err)
{
	for (size_t h = 0; h < w->n_hosts; h++) {
		const struct fm_predictor_options o = { .step_ms = (uint32_t)w->sc->step_ms,
			                                .members = w->sc->members,
			                                .seed = sim_seed(w->in->seed, PLACES + 1, h),
			                                .bounded = true,
			                                .max = PERCENT };
		if (fm_predictor_new(&o, &w->hosts[h].predictor, err) < 0)
			return -1;
	}
	return 0;
}

static void new_report(struct sim *w)
{
	size_t drains = 0;
	for (size_t i = 0; i < w->sc->n_events; i++)
		drains += w->sc->events[i].kind == SIM_DRAIN;
	w->r->drains = fm_alloc_array(drains, sizeof(*w->r->drains));
	w->judged = fm_alloc_array(drains, sizeof(*w->judged));
	w->denials = fm_alloc_array((w->in->policies ? w->in->policies->n : 0) + 1, sizeof(*w->denials));
	w->r->mode = w->in->mode;
	w->r->seed = w->in->seed;
	w->r->hosts = w->n_hosts;
	w->r->containers = w->n_containers;
	w->r->steps = w->sc->duration_ms / w->sc->step_ms;
	w->r->duration_ms = w->r->steps * w->sc->step_ms;
}

int sim_world_new(const struct fm_scenario *sc, const struct fm_simulation_inputs *in, struct sim **ret, struct fm_error *err)
{
	_fm_cleanup_(sim_world_freep) struct sim *w = fm_alloc_array(1, sizeof(*w));
	uint64_t steps;
	w->sc = sc;
	w->in = in;
	fm_scenario_size(sc, &w->n_hosts, &w->n_containers, &steps);
	w->r = fm_alloc_array(1, sizeof(*w->r));
	w->s = fm_snapshot_new(sc->start_unix_ms);
	w->s->utc_offset_s = (int)(sc->utc_offset_h * HOUR_MS / 1000);
	w->hosts = fm_alloc_array(w->n_hosts, sizeof(*w->hosts));
	w->containers = fm_alloc_array(w->n_containers, sizeof(*w->containers));
	w->ways = fm_alloc_array(w->n_hosts, sizeof(*w->ways));
	w->load = sim_load_new(sc, in->traces, in->seed, w->n_containers);
	w->model = fm_cost_model_new();
	w->proactive = fm_proactive_new();
	set_options(w);
	new_report(w);
	add_hosts(w);
	add_containers(w);
	if (place(w, err) < 0 || ((in->mode & FM_SIMULATE_PROACTIVE) && new_predictors(w, err) < 0))
		return -1;
	w->r->hosts_in_use_most = w->hosts_in_use;
	*ret = FM_TAKE_PTR(w);
	return 0;
}

void sim_world_free(struct sim *w)
{
	for (size_t h = 0; h < w->n_hosts; h++)
		fm_predictor_free(w->hosts[h].predictor);
	fm_simulation_free(w->r);
	fm_snapshot_free(w->s);
	sim_load_free(w->load);
	fm_cost_model_free(w->model);
	fm_proactive_free(w->proactive);
	fm_plan_free(w->plan);
	free(w->steps);
	free(w->waited);
	free(w->hosts);
	free(w->containers);
	free(w->ways);
	free(w->moves);
	free(w->judged);
	free(w->denials);
	free(w);
}

/* ---------------------------------------------------------------- what is added up, and what is seen */

void sim_account(struct sim *w, size_t host)
{
	struct sim_host *h = &w->hosts[host];
	const struct fm_snap_host *snap = &w->s->hosts[host];
	double ms = (double)(w->now_ms - h->since_ms), minutes = ms / MINUTE_MS;
	h->since_ms = w->now_ms;
	if (h->failed) {
		w->r->outage_container_min += minutes * (double)h->n;
		return;
	}
	bool cpu = fm_load_exceeds(h->cores, snap->cpus * w->opts.cpu_percent / PERCENT);
	bool memory = fm_load_exceeds(h->memory_bytes, (double)snap->memory_total_bytes * w->opts.memory_percent / PERCENT);
	w->r->cpu_over_min += cpu ? minutes : 0;
	w->r->memory_over_min += memory ? minutes : 0;
	w->r->over_min += cpu || memory ? minutes : 0;
	w->r->unserved_core_min += fmax(h->cores - snap->cpus, 0) * minutes;
	if (h->n) {
		w->in_use_ms += (uint64_t)ms;
		w->r->cost += h->cost * ms / HOUR_MS;
	}
}

void sim_refresh_host(struct sim *w, size_t host)
{
	const struct sim_host *h = &w->hosts[host];
	struct fm_snap_host *snap = &w->s->hosts[host];
	double total = (double)snap->memory_total_bytes;
	snap->online = !h->failed;
	snap->cordoned = h->cordoned;
	snap->cpu_percent = fmin(h->cores / snap->cpus, 1) * PERCENT; /* more nobody measures */
	snap->memory_percent = h->memory_bytes / total * PERCENT;
	snap->memory_available_bytes = (uint64_t)fmax(total - h->memory_bytes, 0);
}

void sim_refresh(struct sim *w)
{
	w->s->at_unix_ms = w->sc->start_unix_ms + w->now_ms;
	for (size_t h = 0; h < w->n_hosts; h++)
		sim_refresh_host(w, h);
	for (size_t i = 0; i < w->n_containers; i++) {
		const struct fm_snap_host *h = &w->s->hosts[w->containers[i].host];
		double needed = w->hosts[w->containers[i].host].cores, served = needed > h->cpus ? h->cpus / needed : 1;
		double trend = h->cpu_percent > 0 ? h->cpu_predicted_percent / h->cpu_percent : 1; /* NAN where nobody predicts */
		w->s->containers[i].cpu_cores = w->containers[i].cores * served;
		w->s->containers[i].cpu_predicted_cores = w->s->containers[i].cpu_cores * trend;
	}
}
