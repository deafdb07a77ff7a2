/* SPDX-License-Identifier: MIT */
/* costs.c - see costs.h. */
#include "migration/costs.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "basic/cleanup.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "decision/snapshot.h"
#include "migration/pb.h"
#include "migration/usage.h"

#define HISTORY_MAX 256 /* more than the model keeps teach it nothing */

/* Of one container, by its migrations */
struct remembered {
	char container[FM_MAX_NAME + 1];
	uint64_t learnt;            /* number of the newest of them */
	uint64_t dirty_bytes_per_s; /* FM_UNKNOWN */
	uint64_t files_bytes;       /* FM_UNKNOWN */
	double compressibility;     /* NAN */
};

struct fm_costs {
	pthread_mutex_t lock;
	struct fm_cost_model *model;
	struct remembered remembered[FM_COSTS_REMEMBERED];
	uint64_t learnt;
};

void fm_costs_case(const FM_PB(InspectResponse) * facts, const FM_PB(ContainerUsage) * usage, const FM_PB(Host) * source,
                   struct fm_cost_case *ret)
{
	const FM_PB(Container) *c = facts->container;
	struct fm_container_usage used;
	struct fm_host_usage busy;
	*ret = FM_WORKLOAD_UNKNOWN.c;
	ret->nested = fm_streq(c->kind, "nested");
	ret->processes = c->processes;
	ret->memory_bytes = c->memory_bytes;
	ret->files_bytes = facts->rootfs_bytes;
	for (size_t i = 0; i < facts->n_volumes; i++)
		ret->files_bytes += facts->volumes[i]->bytes;
	fm_usage_container_figures(usage, &used);
	ret->dirty_bytes_per_s = used.dirty_bytes_per_s == FM_USAGE_UNKNOWN ? FM_UNKNOWN : used.dirty_bytes_per_s;
	fm_usage_host_figures(source ? source->usage : NULL, &busy);
	ret->source_cpu_percent = busy.cpu_percent; /* NAN as there */
}

void fm_costs_keep(FM_PB(Plan) * p, const struct fm_cost_case *known, const struct fm_strategy_choice *choice)
{
	FM_PB(CostCase) *c = FM_PB_NEW(CostCase, cost_case);
	c->nested = known->nested;
	c->processes = known->processes;
	c->memory_bytes = known->memory_bytes;
	c->dirty_bytes_per_s = known->dirty_bytes_per_s;
	c->files_bytes = known->files_bytes;
	c->bandwidth_bytes_per_s = known->bandwidth_bytes_per_s;
	c->latency_ms = known->latency_ms;
	c->compressibility = known->compressibility;
	c->source_cpu_percent = known->source_cpu_percent;
	p->cost_case = c;
	p->downtime_low_ms = choice->cost.downtime_low_ms;
	p->downtime_high_ms = choice->cost.downtime_high_ms;
	p->total_low_ms = choice->cost.total_low_ms;
	p->total_high_ms = choice->cost.total_high_ms;
	p->options = calloc(FM_STRATEGY_OPTIONS, sizeof(*p->options));
	if (!p->options)
		abort();
	for (unsigned i = 0; i < FM_STRATEGY_OPTIONS; i++) {
		const struct fm_strategy_option *from = &choice->options[i];
		FM_PB(StrategyOption) *o = FM_PB_NEW(StrategyOption, strategy_option);
		o->strategy = (FM_PB(Strategy))from->strategy;
		o->possible = from->possible;
		o->meets_limits = from->meets_limits;
		o->downtime_ms = from->cost.downtime_ms;
		o->total_ms = from->cost.total_ms;
		o->wire_bytes = from->cost.wire_bytes;
		o->price = from->price;
		fm_pb_set(&o->why_not, from->why_not);
		p->options[p->n_options++] = o;
	}
}

/* ---------------------------------------------------------------- what is remembered of a container */

static struct remembered *find(struct fm_costs *c, const char *container)
{
	for (size_t i = 0; i < FM_COSTS_REMEMBERED; i++)
		if (c->remembered[i].learnt && fm_streq(c->remembered[i].container, container))
			return &c->remembered[i];
	return NULL;
}

/* In a free place, else in that of the one that was moved longest ago */
static struct remembered *add(struct fm_costs *c, const char *container)
{
	struct remembered *oldest = &c->remembered[0];
	for (size_t i = 1; i < FM_COSTS_REMEMBERED; i++)
		if (c->remembered[i].learnt < oldest->learnt)
			oldest = &c->remembered[i];
	*oldest = (struct remembered){ .dirty_bytes_per_s = FM_UNKNOWN, .files_bytes = FM_UNKNOWN, .compressibility = NAN };
	(void)snprintf(oldest->container, sizeof(oldest->container), "%s", container);
	return oldest;
}

static void remember_locked(struct fm_costs *c, const FM_PB(Migration) * m)
{
	if (!fm_name_is_valid(m->container))
		return;
	struct remembered *r = find(c, m->container);
	if (!r)
		r = add(c, m->container);
	r->learnt = ++c->learnt;
	if (m->dirty_bytes_per_s && m->dirty_bytes_per_s <= (uint64_t)FM_USAGE_MAX)
		r->dirty_bytes_per_s = m->dirty_bytes_per_s;
	if (m->compressibility > 0 && m->compressibility <= 1)
		r->compressibility = m->compressibility;
	if (m->plan && m->plan->cost_case)
		r->files_bytes = m->plan->cost_case->files_bytes;
}

void fm_costs_recall(struct fm_costs *costs, const char *container, struct fm_cost_case *c)
{
	pthread_mutex_lock(&costs->lock);
	const struct remembered *r = find(costs, container);
	if (r && c->dirty_bytes_per_s == FM_UNKNOWN)
		c->dirty_bytes_per_s = r->dirty_bytes_per_s;
	if (r && isnan(c->compressibility))
		c->compressibility = r->compressibility;
	if (r && c->files_bytes == FM_UNKNOWN)
		c->files_bytes = r->files_bytes;
	pthread_mutex_unlock(&costs->lock);
}

/* ---------------------------------------------------------------- what moves cost */

static bool teaches(const FM_PB(Migration) * m)
{
	return m->state == FLEXIMIGRATE__V1__STATE__COMPLETED && m->plan && m->plan->cost_case && m->frozen_us &&
	       m->finished_unix_ms > m->created_unix_ms && m->strategy > FLEXIMIGRATE__V1__STRATEGY__AUTO &&
	       m->strategy <= FLEXIMIGRATE__V1__STRATEGY__LIVE;
}

static void learn_locked(struct fm_costs *c, const FM_PB(Migration) * m)
{
	remember_locked(c, m);
	if (!teaches(m))
		return;
	const FM_PB(CostCase) *k = m->plan->cost_case;
	const struct fm_cost_case known = { .strategy = (enum fm_strategy)m->strategy,
		                            .nested = k->nested,
		                            .processes = k->processes,
		                            .memory_bytes = k->memory_bytes,
		                            .dirty_bytes_per_s = k->dirty_bytes_per_s,
		                            .files_bytes = k->files_bytes,
		                            .bandwidth_bytes_per_s = k->bandwidth_bytes_per_s,
		                            .latency_ms = k->latency_ms,
		                            .compressibility = k->compressibility,
		                            .source_cpu_percent = k->source_cpu_percent };
	const struct fm_cost_outcome o = { .downtime_ms = (double)m->frozen_us / 1000,
		                           .total_ms = (double)(m->finished_unix_ms - m->created_unix_ms),
		                           .wire_bytes = (double)m->wire_bytes };
	fm_cost_learn(c->model, &known, &o);
}

void fm_costs_learn(struct fm_costs *c, const FM_PB(Migration) * m)
{
	pthread_mutex_lock(&c->lock);
	learn_locked(c, m);
	pthread_mutex_unlock(&c->lock);
}

int fm_costs_choose(struct fm_costs *c, const struct fm_workload_snapshot *w, enum fm_strategy requested, struct fm_strategy_choice *ret,
                    struct fm_error *err)
{
	struct fm_workload_snapshot with = *w;
	pthread_mutex_lock(&c->lock);
	with.model = c->model;
	int rc = fm_strategy_choose(&with, requested, ret, err);
	pthread_mutex_unlock(&c->lock);
	return rc;
}

int fm_costs_new(struct fm_store *store, struct fm_costs **ret, struct fm_error *err)
{
	struct fm_store_migration *records = NULL;
	size_t n = 0;
	if (fm_store_migration_list(store, false, HISTORY_MAX, &records, &n, err) < 0)
		return -1;
	struct fm_costs *c = calloc(1, sizeof(*c));
	if (!c)
		abort();
	(void)pthread_mutex_init(&c->lock, NULL);
	c->model = fm_cost_model_new();
	while (n-- > 0) { /* the list's newest comes first */
		_fm_pb_ FM_PB(Migration) *m = fleximigrate__v1__migration__unpack(NULL, records[n].detail_len, records[n].detail);
		if (m)
			learn_locked(c, m);
		fm_store_migration_done(&records[n]);
	}
	free(records);
	*ret = c;
	return 0;
}

void fm_costs_free(struct fm_costs *c)
{
	if (!c)
		return;
	fm_cost_model_free(c->model);
	(void)pthread_mutex_destroy(&c->lock);
	free(c);
}
