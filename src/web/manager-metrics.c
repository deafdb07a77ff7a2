/* SPDX-License-Identifier: MIT */
/* manager-metrics.c - what the manager exposes: migrations that are over (tally.h) and under way, and its fleet; see metrics.h. */
#include <stdlib.h>

#include "basic/limits.h"
#include "basic/str.h"
#include "migration/pb.h"
#include "migration/state.h"
#include "web/metrics.h"

/* All strategies are there from the start, with zeros: a counter that appears with its first event hides that event from increase(). */
#define EACH_STRATEGY(s) for (enum fm_strategy s = FM_STRATEGY_AUTO; s < _FM_STRATEGY_MAX; s++)

static void strategy_counter(struct fm_exposition *x, enum fm_metric m, const struct fm_tally_figures *f, size_t offset)
{
	fm_exposition_begin(x, m);
	EACH_STRATEGY(s)
	{
		const uint64_t *value = (const uint64_t *)((const char *)&f->by_strategy[s] + offset);
		fm_exposition_add_u64(x, *value, (const char *const[]){ fm_strategy_to_string(s) });
	}
}

static void times(struct fm_exposition *x, const struct fm_tally_times *t, const uint64_t *bounds, const char *label)
{
	const struct fm_exposition_histogram h = { .bounds_us = bounds, .n = FM_TALLY_BUCKETS, .counts = t->counts, .sum_us = t->sum_us };
	fm_exposition_histogram(x, &h, (const char *const[]){ label });
}

static void ended(struct fm_exposition *x, const struct fm_tally_figures *f)
{
	fm_exposition_begin(x, FM_METRIC_MIGRATIONS);
	EACH_STRATEGY(s)
	{
		fm_exposition_add_u64(x, f->by_strategy[s].completed, (const char *const[]){ fm_strategy_to_string(s), "COMPLETED" });
		fm_exposition_add_u64(x, f->by_strategy[s].failed, (const char *const[]){ fm_strategy_to_string(s), "FAILED" });
	}
	fm_exposition_begin(x, FM_METRIC_FAILURES);
	for (enum fm_code c = FM_OK + 1; c < _FM_CODE_MAX; c++)
		fm_exposition_add_u64(x, f->failures[c], (const char *const[]){ fm_code_to_string(c) });
	fm_exposition_one_u64(x, FM_METRIC_ROLLED_BACK, f->rolled_back);
	fm_exposition_one_u64(x, FM_METRIC_THROTTLED, f->throttled);
	fm_exposition_one_u64(x, FM_METRIC_PAUSES, f->pauses);
}

#define OFFSET(member) (offsetof(struct fm_tally_figures, by_strategy[0].member) - offsetof(struct fm_tally_figures, by_strategy[0]))

static void volumes_and_times(struct fm_exposition *x, const struct fm_tally_figures *f)
{
	strategy_counter(x, FM_METRIC_WIRE_BYTES, f, OFFSET(wire_bytes));
	strategy_counter(x, FM_METRIC_FILES_BYTES, f, OFFSET(files_bytes));
	strategy_counter(x, FM_METRIC_PAGES, f, OFFSET(pages));
	fm_exposition_begin(x, FM_METRIC_DURATION);
	EACH_STRATEGY(s)
	times(x, &f->by_strategy[s].duration, fm_tally_long_us, fm_strategy_to_string(s));
	fm_exposition_begin(x, FM_METRIC_DOWNTIME);
	EACH_STRATEGY(s)
	times(x, &f->by_strategy[s].downtime, fm_tally_short_us, fm_strategy_to_string(s));
	fm_exposition_begin(x, FM_METRIC_PHASE_DURATION);
	for (size_t i = 0; i < FM_TALLY_PHASES; i++)
		times(x, &f->phases[i], fm_tally_short_us, fm_tally_phases[i]);
}

/* Absent when the store does not answer: 0 would be a lie, and readiness says why. */
static void under_way(struct fm_exposition *x, struct fm_coordinator *c)
{
	uint64_t by_state[_FM_STATE_MAX] = { 0 }, paused = 0;
	FM_PB(Migration) **v = NULL;
	size_t n = 0;
	if (fm_coordinator_list(c, true, FM_STORE_MAX_MIGRATIONS, &v, &n, NULL) < 0)
		return;
	for (size_t i = 0; i < n; i++) {
		by_state[v[i]->state > 0 && v[i]->state < (int)_FM_STATE_MAX ? (size_t)v[i]->state : FM_STATE_INVALID]++;
		paused += v[i]->pause != NULL;
		fm_pb_free(v[i]);
	}
	free(v);
	fm_exposition_begin(x, FM_METRIC_ACTIVE);
	for (enum fm_state s = FM_STATE_PENDING; s < _FM_STATE_MAX; s++)
		fm_exposition_add_u64(x, by_state[s], (const char *const[]){ fm_state_to_string(s) });
	fm_exposition_one_u64(x, FM_METRIC_PAUSED, paused);
}

static void hosts(struct fm_exposition *x, const struct fm_web_manager *m)
{
	FM_PB(Host) **v = NULL;
	size_t n = 0, online = 0;
	if (fm_fleet_hosts(m->fleet, &v, &n, NULL) < 0)
		return;
	for (size_t i = 0; i < n; i++) {
		online += fm_streq(v[i]->status, "online");
		if (m->judge)
			m->judge(m->judge_userdata, v[i]);
	}
	fm_exposition_begin(x, FM_METRIC_HOSTS);
	fm_exposition_add_u64(x, online, (const char *const[]){ "online" });
	fm_exposition_add_u64(x, n - online, (const char *const[]){ "offline" });
	fm_web_write_hosts(x, v, n);
	for (size_t i = 0; i < n; i++)
		fm_pb_free(v[i]);
	free(v);
}

/* Also those of hosts that are offline, as they were last: they are where they were. */
static void containers(struct fm_exposition *x, struct fm_fleet *fleet)
{
	FM_PB(Container) **v = NULL;
	size_t n = 0;
	if (fm_fleet_containers(fleet, NULL, &v, &n, NULL) < 0)
		return;
	fm_web_write_containers(x, v, n);
	for (size_t i = 0; i < n; i++)
		fm_pb_free(v[i]);
	free(v);
}

void fm_web_manager_metrics(void *userdata, struct fm_exposition *x)
{
	struct fm_web_manager *m = userdata;
	struct fm_tally_figures f;
	fm_web_write_process(x, m->version, "manager");
	fm_tally_read(m->tally, &f);
	ended(x, &f);
	volumes_and_times(x, &f);
	under_way(x, m->coordinator);
	hosts(x, m);
	containers(x, m->fleet);
}

int fm_web_manager_ready(void *userdata, struct fm_error *err)
{
	struct fm_web_manager *m = userdata;
	FM_PB(Migration) **v = NULL;
	size_t n = 0;
	if (fm_coordinator_list(m->coordinator, true, 1, &v, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++)
		fm_pb_free(v[i]);
	free(v);
	return 0;
}
