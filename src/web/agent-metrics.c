/* SPDX-License-Identifier: MIT */
/* agent-metrics.c - what an agent exposes: its last report, its movers, what it keeps; see metrics.h. */
#include <dirent.h>
#include <pthread.h>
#include <stdlib.h>

#include "basic/clock.h"
#include "basic/str.h"
#include "migration/pb.h"
#include "web/metrics.h"

/* A report is made once an interval, and may be late by the time that the runtime takes to answer. */
#define LATE_MS 5000

struct fm_web_agent {
	struct fm_web_agent_opts o;
	pthread_mutex_t lock; /* guards what follows */
	FM_PB(ReportRequest) * last;
	uint64_t last_ms;  /* monotonic, when it was made */
	uint64_t taken_ms; /* monotonic; 0: the manager has not taken one yet */
	uint64_t taken_unix_ms;
	uint32_t interval_ms;
};

struct fm_web_agent *fm_web_agent_new(const struct fm_web_agent_opts *o)
{
	struct fm_web_agent *a = calloc(1, sizeof(*a));
	if (!a)
		abort();
	a->o = *o;
	a->interval_ms = FM_FLEET_REPORT_MS;
	pthread_mutex_init(&a->lock, NULL);
	return a;
}

void fm_web_agent_free(struct fm_web_agent *a)
{
	if (!a)
		return;
	fm_pb_free(a->last);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

void fm_web_agent_report(struct fm_web_agent *a, const FM_PB(ReportRequest) * r)
{
	if (!a)
		return;
	FM_PB(ReportRequest) *copy = fm_pb_copy(r);
	for (size_t i = 0; i < copy->n_containers; i++)
		fm_pb_set(&copy->containers[i]->host, copy->host->name); /* who reports need not name itself in each */
	pthread_mutex_lock(&a->lock);
	FM_PB(ReportRequest) *old = a->last;
	a->last = copy;
	a->last_ms = fm_now_ms();
	pthread_mutex_unlock(&a->lock);
	fm_pb_free(old);
}

void fm_web_agent_taken(struct fm_web_agent *a, uint32_t interval_ms)
{
	if (!a)
		return;
	pthread_mutex_lock(&a->lock);
	a->interval_ms = interval_ms;
	a->taken_ms = fm_now_ms();
	a->taken_unix_ms = fm_realtime_ms();
	pthread_mutex_unlock(&a->lock);
}

/* Of the reports: is that moment recent? Under the lock. */
static bool is_recent(const struct fm_web_agent *a, uint64_t at_ms)
{
	return at_ms && fm_now_ms() < at_ms + a->interval_ms + LATE_MS;
}

/* What is too old to be true is not told: the host and its containers are absent then. */
static void reported(struct fm_exposition *x, struct fm_web_agent *a)
{
	_fm_pb_ FM_PB(ReportRequest) *r = NULL;
	pthread_mutex_lock(&a->lock);
	if (a->last && is_recent(a, a->last_ms))
		r = fm_pb_copy(a->last);
	uint64_t taken_unix_ms = a->taken_unix_ms;
	bool connected = is_recent(a, a->taken_ms);
	pthread_mutex_unlock(&a->lock);
	fm_exposition_one_u64(x, FM_METRIC_AGENT_CONNECTED, connected);
	if (taken_unix_ms)
		fm_exposition_one(x, FM_METRIC_AGENT_LAST_REPORT, (double)taken_unix_ms / 1000);
	if (!r)
		return;
	r->host->containers = (uint32_t)r->n_containers;
	fm_web_write_hosts(x, (FM_PB(Host) *const[]){ r->host }, 1);
	fm_web_write_peers(x, r->host);
	fm_web_write_containers(x, r->containers, r->n_containers);
}

/* 0 is also what a folder has that cannot be read; the agent does not run then. */
static uint64_t count_journals(const char *folder)
{
	uint64_t n = 0;
	_fm_closedir_ DIR *d = opendir(folder);
	for (struct dirent *e; d && (e = readdir(d));)
		n += fm_str_endswith(e->d_name, ".journal");
	return n;
}

static const char *const roles[] = { "source", "destination" };

static void movers(struct fm_exposition *x, const struct fm_mover_figures *f)
{
	fm_exposition_begin(x, FM_METRIC_AGENT_MOVERS);
	for (size_t r = 0; r < FM_ARRAY_SIZE(roles); r++)
		for (enum fm_decision d = FM_DECISION_UNKNOWN; d <= FM_DECISION_RELEASED; d++)
			fm_exposition_add_u64(x, f->role[r].under_way[d], (const char *const[]){ roles[r], fm_decision_to_string(d) });
	fm_exposition_begin(x, FM_METRIC_AGENT_MOVES);
	for (size_t r = 0; r < FM_ARRAY_SIZE(roles); r++) {
		fm_exposition_add_u64(x, f->role[r].released,
		                      (const char *const[]){ roles[r], fm_decision_to_string(FM_DECISION_RELEASED) });
		fm_exposition_add_u64(x, f->role[r].aborted, (const char *const[]){ roles[r], fm_decision_to_string(FM_DECISION_ABORTED) });
	}
	fm_exposition_begin(x, FM_METRIC_AGENT_STREAM_BYTES);
	for (size_t r = 0; r < FM_ARRAY_SIZE(roles); r++)
		fm_exposition_add_u64(x, f->role[r].wire_bytes, (const char *const[]){ roles[r] });
	fm_exposition_begin(x, FM_METRIC_AGENT_PAGES);
	for (size_t r = 0; r < FM_ARRAY_SIZE(roles); r++)
		fm_exposition_add_u64(x, f->role[r].pages, (const char *const[]){ roles[r] });
	fm_exposition_one_u64(x, FM_METRIC_AGENT_ROUNDS, f->rounds);
	fm_exposition_one_u64(x, FM_METRIC_AGENT_PAUSED, f->paused);
}

void fm_web_agent_metrics(void *userdata, struct fm_exposition *x)
{
	struct fm_web_agent *a = userdata;
	struct fm_mover_figures f;
	fm_web_write_process(x, a->o.version, "agent");
	reported(x, a);
	fm_movers_figures(a->o.movers, &f);
	movers(x, &f);
	fm_exposition_one_u64(x, FM_METRIC_AGENT_JOURNALS, count_journals(a->o.journals_dir));
	fm_exposition_one_u64(x, FM_METRIC_AGENT_KEPT, fm_keeper_count(a->o.keeper));
}

int fm_web_agent_ready(void *userdata, struct fm_error *err)
{
	struct fm_web_agent *a = userdata;
	pthread_mutex_lock(&a->lock);
	bool yes = is_recent(a, a->taken_ms);
	pthread_mutex_unlock(&a->lock);
	return yes ? 0 : fm_error_set(err, FM_E_UNAVAILABLE, "the manager does not take this agent's reports");
}
