/* SPDX-License-Identifier: MIT */
/*
 * monitor.c - see monitor.h. One lock around everything but looks into processes' memory: a sample of 100 containers takes some milliseconds at most, and who asks has time.
 *
 * Containers stand in an array of pointers in the order of their names, and the host ends of their endpoints in another one in the order of theirs, so that a line of /proc/net/dev finds its
 * container. Both change only in fm_monitor_watch.
 */
#include "monitor/monitor.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "monitor/container-sampler.h"
#include "monitor/dirty.h"
#include "monitor/host-sampler.h"
#include "monitor/parse.h"

#define REFRESH_MS          30000u /* disks, interfaces, mounts, and in which groups processes are */
#define MOUNTINFO_BYTES_MAX (16u << 20)
#define PIDS_MAX            64u
#define DIRTY_AFTER_MS      3000u /* a container that has just started, or come, is left alone */
#define DIRTY_NAME_BYTES    256u  /* of a longer name is not looked into */
#define DIRTY_PAUSE_MS      1000u /* between the looks into two containers: bounds what they cost */

struct past {
	struct fm_series series[_FM_USAGE_KINDS];
};

struct watched {
	struct fm_monitor_subject s;
	char *name;
	pid_t last_pid; /* that it ever ran as; 0: it never did */
	struct fm_container_sampler sampler;
	struct fm_container_usage usage;
	struct past past;
	uint64_t host_in, host_out; /* of the sample that is being taken */
	uint64_t since_ms;
	size_t n_seen; /* interfaces of them that were there */
	bool opened;
};

struct endpoint {
	char name[16];
	struct watched *of;
};

/* Whose memory is looked at between samples: it may go meanwhile, or be another process. */
struct dirty_target {
	char name[DIRTY_NAME_BYTES]; /* "": nobody's */
	pid_t pid;
};

struct fm_monitor {
	pthread_mutex_t lock;
	char root[256];
	struct fm_reader reader;
	struct fm_host_sampler host;
	struct fm_host_usage host_usage;
	struct past host_past;
	struct watched **v;
	size_t n;
	struct endpoint *endpoints;
	size_t n_endpoints;
	char *mountinfo;
	uint64_t samples, slow_every, refresh_at_ms;
	struct fm_dirty *dirty; /* this and what follows are the sampling thread's alone */
	struct dirty_target dirty_now;
	size_t dirty_next;
	uint64_t dirty_after_ms;
};

static void past_init(struct past *p)
{
	for (int k = 0; k < _FM_USAGE_KINDS; k++)
		fm_series_init(&p->series[k]);
}

int fm_monitor_new(const struct fm_monitor_options *o, struct fm_monitor **ret, struct fm_error *err)
{
	struct fm_monitor *m = calloc(1, sizeof(*m));
	uint64_t seed = 1;

	if (!m || fm_reader_init(&m->reader) < 0) {
		free(m);
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	}
	(void)snprintf(m->root, sizeof(m->root), "%s", o->root ? o->root : "");
	(void)getrandom(&seed, sizeof(seed), 0);
	m->dirty = o->no_dirty ? NULL : fm_dirty_new(seed);
	pthread_mutex_init(&m->lock, NULL);
	fm_host_sampler_init(&m->host, m->root);
	fm_host_usage_unknown(&m->host_usage);
	past_init(&m->host_past);
	uint32_t period_ms = o->period_ms ? o->period_ms : FM_MONITOR_PERIOD_MS;
	m->slow_every = period_ms < FM_MONITOR_SLOW_MS ? FM_MONITOR_SLOW_MS / period_ms : 1;
	*ret = m;
	return 0;
}

static void watched_free(struct watched *w)
{
	if (!w)
		return;
	if (w->opened)
		fm_container_sampler_close(&w->sampler);
	free(w->name);
	free(w);
}

void fm_monitor_free(struct fm_monitor *m)
{
	if (!m)
		return;
	for (size_t i = 0; i < m->n; i++)
		watched_free(m->v[i]);
	free(m->v);
	free(m->endpoints);
	free(m->mountinfo);
	fm_host_sampler_done(&m->host);
	fm_reader_done(&m->reader);
	fm_dirty_free(m->dirty);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

/* ---------------------------------------------------------------- who is watched */

static int by_name(const void *a, const void *b)
{
	return strcmp((*(struct watched *const *)a)->name, (*(struct watched *const *)b)->name);
}

static int by_interface(const void *a, const void *b)
{
	return strcmp(((const struct endpoint *)a)->name, ((const struct endpoint *)b)->name);
}

static struct watched *find(struct fm_monitor *m, const char *name)
{
	struct watched key = { .name = (char *)name }, *k = &key;
	struct watched **found = m->n ? bsearch(&k, m->v, m->n, sizeof(*m->v), by_name) : NULL;

	return found ? *found : NULL;
}

static struct watched *watched_new(const struct fm_monitor_subject *s)
{
	struct watched *w = calloc(1, sizeof(*w));

	if (!w)
		abort(); /* as fm_xstrdup */
	w->name = fm_xstrdup(s->name);
	w->s = *s;
	w->since_ms = fm_now_ms();
	fm_container_usage_unknown(&w->usage);
	w->usage.restarts = 0;
	past_init(&w->past);
	return w;
}

/* What was known of it was of these groups. */
static void close_groups(struct fm_monitor *m, struct watched *w)
{
	uint64_t restarts = w->usage.restarts;

	if (w->opened)
		fm_container_sampler_close(&w->sampler);
	w->opened = false;
	fm_container_usage_unknown(&w->usage);
	w->usage.restarts = restarts;
}

/* It runs as another process now, or not at all: other files, and what was counted was another's. */
static void forget_process(struct fm_monitor *m, struct watched *w)
{
	close_groups(m, w);
	w->since_ms = fm_now_ms();
}

static struct watched *take_over(struct fm_monitor *m, const struct fm_monitor_subject *s)
{
	struct watched *w = find(m, s->name);

	if (!w)
		w = watched_new(s);
	if (w->s.pid != s->pid)
		forget_process(m, w);
	if (s->pid > 0) {
		w->usage.restarts += w->last_pid > 0 && w->last_pid != s->pid;
		w->last_pid = s->pid;
	}
	w->s = *s;
	w->s.name = w->name;
	return w;
}

static bool is_in(struct watched *const *v, size_t n, const struct watched *w)
{
	struct watched *const *found = n ? bsearch(&w, v, n, sizeof(*v), by_name) : NULL;

	return found && *found == w;
}

static void index_endpoints(struct fm_monitor *m)
{
	free(m->endpoints);
	m->endpoints = calloc(m->n * FM_MONITOR_IFNAMES + 1, sizeof(*m->endpoints));
	m->n_endpoints = 0;
	for (size_t i = 0; m->endpoints && i < m->n; i++)
		for (size_t k = 0; k < m->v[i]->s.n_ifnames && k < FM_MONITOR_IFNAMES; k++) {
			struct endpoint *e = &m->endpoints[m->n_endpoints++];
			memcpy(e->name, m->v[i]->s.ifnames[k], sizeof(e->name));
			e->name[sizeof(e->name) - 1] = '\0';
			e->of = m->v[i];
		}
	if (m->n_endpoints)
		qsort(m->endpoints, m->n_endpoints, sizeof(*m->endpoints), by_interface);
}

void fm_monitor_watch(struct fm_monitor *m, const struct fm_monitor_subject *v, size_t n)
{
	n = n < FM_MAX_CONTAINERS_PER_HOST ? n : FM_MAX_CONTAINERS_PER_HOST;
	struct watched **all = calloc(n + 1, sizeof(*all));
	size_t kept = 0;

	if (!all)
		abort();
	pthread_mutex_lock(&m->lock);
	for (size_t i = 0; i < n; i++)
		all[kept++] = take_over(m, &v[i]);
	qsort(all, kept, sizeof(*all), by_name);
	/* The runtime's names are unique; should one not be, the second has no figures. */
	for (size_t i = 1; i < kept;) {
		if (!fm_streq(all[i]->name, all[i - 1]->name)) {
			i++;
			continue;
		}
		if (all[i] != all[i - 1])
			watched_free(all[i]);
		memmove(&all[i], &all[i + 1], (--kept - i) * sizeof(*all));
	}
	for (size_t i = 0; i < m->n; i++)
		if (!is_in(all, kept, m->v[i]))
			watched_free(m->v[i]);
	free(m->v);
	m->v = all;
	m->n = kept;
	index_endpoints(m);
	pthread_mutex_unlock(&m->lock);
}

/* ---------------------------------------------------------------- samples */

static struct watched *owner_of(struct fm_monitor *m, const char *interface)
{
	struct endpoint key = { .of = NULL };
	const struct endpoint *e;

	(void)snprintf(key.name, sizeof(key.name), "%.15s", interface);
	e = m->n_endpoints ? bsearch(&key, m->endpoints, m->n_endpoints, sizeof(*m->endpoints), by_interface) : NULL;
	return e ? e->of : NULL;
}

static bool is_endpoint(void *userdata, const char *name)
{
	return owner_of(userdata, name) != NULL;
}

/* One read for the host and for all containers with endpoints. */
static void sample_network(struct fm_monitor *m, uint64_t now_us)
{
	uint64_t in = 0, out = 0;
	struct fm_net_line line;
	bool known = fm_host_sampler_read_net(&m->host, &m->reader), any = false;

	for (size_t i = 0; i < m->n; i++)
		m->v[i]->n_seen = m->v[i]->host_in = m->v[i]->host_out = 0;
	for (const char *p = m->reader.text; known && fm_parse_net_line(&p, &line);) {
		struct watched *w = owner_of(m, line.name);
		if (w) {
			w->n_seen++;
			w->host_in += line.in_bytes;
			w->host_out += line.out_bytes;
		} else if (fm_host_sampler_counts(&m->host, line.name)) {
			any = true;
			in += line.in_bytes;
			out += line.out_bytes;
		}
	}
	fm_host_sampler_net(&m->host, known && any, in, out, now_us, &m->host_usage);
	for (size_t i = 0; i < m->n; i++) {
		struct watched *w = m->v[i];
		if (w->s.n_ifnames)
			fm_container_sampler_net(&w->sampler, known && w->n_seen == w->s.n_ifnames, w->host_in, w->host_out, now_us,
			                         &w->usage);
	}
}

static double known(uint64_t v)
{
	return v == FM_USAGE_UNKNOWN ? NAN : (double)v;
}

static void remember_host(struct fm_monitor *m)
{
	const struct fm_host_usage *u = &m->host_usage;
	double memory = known(u->memory_total_bytes);

	fm_series_add(&m->host_past.series[FM_USAGE_CPU], u->at_unix_ms, u->cpu_percent);
	fm_series_add(&m->host_past.series[FM_USAGE_MEMORY], u->at_unix_ms, (memory - known(u->memory_available_bytes)) * 100 / memory);
	fm_series_add(&m->host_past.series[FM_USAGE_NETWORK], u->at_unix_ms,
	              known(u->network_in_bytes_per_s) + known(u->network_out_bytes_per_s));
	fm_series_add(&m->host_past.series[FM_USAGE_DIRTY], u->at_unix_ms,
	              known(u->disk_read_bytes_per_s) + known(u->disk_write_bytes_per_s));
}

static void remember_container(struct watched *w)
{
	const struct fm_container_usage *u = &w->usage;
	uint64_t memory = u->working_set_bytes == FM_USAGE_UNKNOWN ? u->memory_bytes : u->working_set_bytes;

	fm_series_add(&w->past.series[FM_USAGE_CPU], u->at_unix_ms, u->cpu_cores);
	fm_series_add(&w->past.series[FM_USAGE_MEMORY], u->at_unix_ms, known(memory));
	fm_series_add(&w->past.series[FM_USAGE_NETWORK], u->at_unix_ms,
	              known(u->network_in_bytes_per_s) + known(u->network_out_bytes_per_s));
	fm_series_add(&w->past.series[FM_USAGE_DIRTY], u->at_unix_ms, known(u->dirty_bytes_per_s));
}

static void open_groups(struct fm_monitor *m, struct watched *w)
{
	if (!m->mountinfo) {
		_fm_free_ char *path = fm_xasprintf("%s/proc/self/mountinfo", m->root);
		if (fm_read_file(path, MOUNTINFO_BYTES_MAX, &m->mountinfo, NULL, NULL) < 0)
			return;
	}
	fm_container_sampler_open(&w->sampler, m->root, m->mountinfo, w->s.pid, &m->reader);
	w->opened = true;
}

/* The first sample after the groups were opened has no rates yet. */
static void sample_container(struct fm_monitor *m, struct watched *w, bool slow, uint64_t now_us)
{
	bool first = !w->opened;

	if (w->s.pid <= 0)
		return;
	if (first)
		open_groups(m, w);
	if (!w->opened)
		return;
	if (!fm_container_sampler_fast(&w->sampler, &m->reader, now_us, &w->usage)) {
		close_groups(m, w); /* they are gone: its process may be in others now, and is looked for again */
		return;
	}
	if (slow || first)
		fm_container_sampler_slow(&w->sampler, m->root, &m->reader, w->s.n_ifnames == 0, now_us, &w->usage);
	w->usage.at_unix_ms = m->host_usage.at_unix_ms;
	remember_container(w);
}

/* ---------------------------------------------------------------- how fast memory is written */

static size_t read_pids(struct fm_monitor *m, struct watched *w, pid_t *pids)
{
	size_t n = 0;

	if (!fm_reader_read(&m->reader, w->sampler.fd[FM_GROUP_PROCS], false))
		return 0;
	for (const char *p = m->reader.text; n < PIDS_MAX && fm_parse_pid_line(&p, &pids[n]);)
		n++;
	return n;
}

static bool may_look(const struct watched *w, uint64_t now_ms)
{
	return w->s.pid > 0 && !w->s.quiet && w->opened && now_ms - w->since_ms >= DIRTY_AFTER_MS && strlen(w->name) < DIRTY_NAME_BYTES;
}

/* The one that is looked at, if it may still be. Under the lock. */
static struct watched *target(struct fm_monitor *m, uint64_t now_ms)
{
	struct watched *w = m->dirty_now.name[0] ? find(m, m->dirty_now.name) : NULL;

	return w && w->s.pid == m->dirty_now.pid && may_look(w, now_ms) ? w : NULL;
}

/* One container after the other: those that wait keep their last figure. Under the lock. Returns the number of its processes. */
static size_t choose_target(struct fm_monitor *m, uint64_t now_ms, pid_t *pids)
{
	for (size_t tried = 0; tried < m->n; tried++) {
		struct watched *w = m->v[m->dirty_next++ % m->n];
		if (!may_look(w, now_ms))
			continue;
		(void)snprintf(m->dirty_now.name, sizeof(m->dirty_now.name), "%s", w->name);
		m->dirty_now.pid = w->s.pid;
		return read_pids(m, w, pids);
	}
	return 0;
}

static void end_look(struct fm_monitor *m, uint64_t rate, uint64_t now_ms)
{
	pthread_mutex_lock(&m->lock);
	struct watched *w = target(m, now_ms);
	if (w)
		w->usage.dirty_bytes_per_s = rate;
	pthread_mutex_unlock(&m->lock);
	m->dirty_now.name[0] = '\0';
	m->dirty_after_ms = now_ms + DIRTY_PAUSE_MS;
}

/*
 * The lock is not held while a process's memory is looked at: that waits for whoever changes its mappings, and may wait for long. Figures are then as they were, but whoever asks for them gets them.
 */
static void sample_dirty(struct fm_monitor *m)
{
	pid_t pids[PIDS_MAX];
	uint64_t rate = 0, now_us = fm_now_us(), now_ms = now_us / 1000;
	bool going_on = m->dirty_now.name[0] != '\0', chosen;
	size_t n = 0;

	if (!going_on && now_ms < m->dirty_after_ms)
		return;
	pthread_mutex_lock(&m->lock);
	if (!going_on)
		n = choose_target(m, now_ms, pids);
	chosen = target(m, now_ms) != NULL;
	pthread_mutex_unlock(&m->lock);
	if (!chosen) {
		m->dirty_now.name[0] = '\0';
		return;
	}
	int rc = going_on ? fm_dirty_look(m->dirty, now_us, &rate) : fm_dirty_begin(m->dirty, m->root, pids, n, now_us) ? 0 : -1;
	if (rc != 0)
		end_look(m, rc > 0 ? rate : FM_USAGE_UNKNOWN, now_ms);
}

static void refresh(struct fm_monitor *m, uint64_t now_ms)
{
	if (now_ms < m->refresh_at_ms)
		return;
	m->refresh_at_ms = now_ms + REFRESH_MS;
	fm_host_sampler_refresh(&m->host, &m->reader, is_endpoint, m);
	free(m->mountinfo);
	m->mountinfo = NULL;
	for (size_t i = 0; i < m->n; i++)
		if (m->v[i]->opened && fm_container_sampler_is_elsewhere(&m->v[i]->sampler, m->root, &m->reader))
			close_groups(m, m->v[i]);
}

void fm_monitor_sample(struct fm_monitor *m)
{
	pthread_mutex_lock(&m->lock);
	uint64_t now_us = fm_now_us();
	refresh(m, now_us / 1000);
	fm_host_sampler_sample(&m->host, &m->reader, now_us, &m->host_usage);
	m->host_usage.at_unix_ms = fm_realtime_ms();
	sample_network(m, now_us);
	remember_host(m);
	for (size_t i = 0; i < m->n; i++)
		sample_container(m, m->v[i], (i + m->samples) % m->slow_every == 0, fm_now_us());
	m->samples++;
	pthread_mutex_unlock(&m->lock);
	if (m->dirty)
		sample_dirty(m);
}

/* ---------------------------------------------------------------- questions */

void fm_monitor_host(struct fm_monitor *m, struct fm_host_usage *ret)
{
	pthread_mutex_lock(&m->lock);
	*ret = m->host_usage;
	pthread_mutex_unlock(&m->lock);
}

bool fm_monitor_container(struct fm_monitor *m, const char *name, struct fm_container_usage *ret)
{
	pthread_mutex_lock(&m->lock);
	const struct watched *w = find(m, name);
	if (w)
		*ret = w->usage;
	pthread_mutex_unlock(&m->lock);
	return w != NULL;
}

bool fm_monitor_history(struct fm_monitor *m, const char *name, enum fm_usage_kind kind, struct fm_series *ret)
{
	pthread_mutex_lock(&m->lock);
	const struct watched *w = name ? find(m, name) : NULL;
	if (w || !name)
		fm_series_copy(ret, w ? &w->past.series[kind] : &m->host_past.series[kind]);
	pthread_mutex_unlock(&m->lock);
	return w || !name;
}

uint64_t fm_monitor_reads(struct fm_monitor *m)
{
	pthread_mutex_lock(&m->lock);
	uint64_t n = m->reader.reads;
	pthread_mutex_unlock(&m->lock);
	return n;
}
