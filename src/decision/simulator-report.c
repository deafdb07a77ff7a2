/* SPDX-License-Identifier: MIT */
/* simulator-report.c - see simulator.h: what became of it, as JSON. */
#include <math.h>

#include "decision/simulator-internal.h"

static json_t *whole(uint64_t n)
{
	return json_integer((json_int_t)(n > INT64_MAX ? INT64_MAX : n));
}

/* To thousandths: nothing of it is known better. */
static json_t *real(double v)
{
	return json_real(round(v * 1000) / 1000);
}

static void put(json_t *o, const char *key, json_t *v)
{
	(void)json_object_set_new(o, key, v);
}

static json_t *denials(const struct fm_simulation *r)
{
	json_t *list = json_array();
	for (size_t i = 0; i < r->n_denials; i++)
		(void)json_array_append_new(list,
		                            json_pack("{s:s, s:I}", "policy", r->denials[i].policy, "denied", (json_int_t)r->denials[i].n));
	return list;
}

static json_t *drains(const struct fm_simulation *r)
{
	json_t *list = json_array();
	for (size_t i = 0; i < r->n_drains; i++) {
		const struct fm_simulation_drain *d = &r->drains[i];
		json_t *o = json_object();
		put(o, "host", json_string(d->host));
		put(o, "at_ms", whole(d->at_ms));
		put(o, "deadline_ms", d->deadline_ms ? whole(d->deadline_ms) : json_null());
		put(o, "begun", json_boolean(d->begun));
		put(o, "containers", whole(d->containers));
		put(o, "foretold", whole(d->foretold));
		put(o, "missed", whole(d->missed));
		put(o, "empty_ms", d->empty_ms == FM_UNKNOWN ? json_null() : whole(d->empty_ms));
		(void)json_array_append_new(list, o);
	}
	return list;
}

static json_t *migrations(const struct fm_simulation *r)
{
	json_t *o = json_object(), *by = json_object();
	for (int s = FM_STRATEGY_COLD; s < _FM_STRATEGY_MAX; s++)
		put(by, fm_strategy_to_string((enum fm_strategy)s), whole(r->by_strategy[s]));
	put(o, "asked", whole(r->asked));
	put(o, "moved", whole(r->moved));
	put(o, "failed", whole(r->failed));
	put(o, "denied", whole(r->denied));
	put(o, "refused", whole(r->refused));
	put(o, "overdue", whole(r->overdue));
	put(o, "interrupted", whole(r->interrupted));
	put(o, "under_way", whole(r->under_way));
	put(o, "queued", whole(r->queued));
	put(o, "ping_pong", whole(r->ping_pong));
	put(o, "by_strategy", by);
	put(o, "wire_bytes", whole(r->wire_bytes));
	put(o, "wasted_bytes", whole(r->wasted_bytes));
	put(o, "downtime_ms", real(r->downtime_ms));
	put(o, "longest_downtime_ms", real(r->longest_downtime_ms));
	put(o, "total_ms", real(r->total_ms));
	put(o, "forecasts_met", whole(r->forecasts_met));
	return o;
}

json_t *fm_simulation_to_json(const struct fm_simulation *r)
{
	json_t *o = json_object(), *v = json_object();
	put(v, "cpu_over_min", real(r->cpu_over_min));
	put(v, "memory_over_min", real(r->memory_over_min));
	put(v, "over_min", real(r->over_min));
	put(v, "unserved_core_min", real(r->unserved_core_min));
	put(v, "outage_container_min", real(r->outage_container_min));
	put(v, "deadline_misses", whole(r->deadline_misses));
	put(v, "denials", denials(r));
	put(o, "mode", json_string(fm_simulation_mode_to_string(r->mode)));
	put(o, "seed", whole(r->seed));
	put(o, "hosts", whole(r->hosts));
	put(o, "containers", whole(r->containers));
	put(o, "steps", whole(r->steps));
	put(o, "duration_ms", whole(r->duration_ms));
	put(o, "plans", whole(r->plans));
	put(o, "migrations", migrations(r));
	put(o, "violations", v);
	put(o, "hosts_in_use",
	    json_pack("{s:o, s:o, s:o}", "mean", real(r->hosts_in_use_mean), "most", whole(r->hosts_in_use_most), "end",
	              whole(r->hosts_in_use_end)));
	put(o, "cost", real(r->cost));
	put(o, "drains", drains(r));
	return o;
}

void fm_simulation_free(struct fm_simulation *r)
{
	if (!r)
		return;
	for (size_t i = 0; i < r->n_denials; i++)
		free(r->denials[i].policy);
	for (size_t i = 0; i < r->n_drains; i++)
		free(r->drains[i].host);
	free(r->denials);
	free(r->drains);
	free(r);
}
