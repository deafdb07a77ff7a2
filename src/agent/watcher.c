/* SPDX-License-Identifier: MIT */
/* watcher.c - see watcher.h. */
#include "agent/watcher.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/proc.h"
#include "loop/pool.h"
#include "migration/pb.h"
#include "migration/usage.h"
#include "monitor/peers.h"
#include "network/endpoint.h"

struct fm_watcher {
	struct fm_watcher_options o;
	struct fm_monitor *monitor;
	struct fm_peers *peers;
	struct fm_stop stop;
	pthread_t thread;
	bool stoppable, running;
};

/* At even distances whatever a sample takes; one that would have been due meanwhile is left out. */
static void *sample(void *arg)
{
	struct fm_watcher *w = arg;
	uint64_t next_ms = fm_now_ms();

	fm_thread_haste(FM_HASTE_PATIENT);
	while (!fm_stop_requested(&w->stop)) {
		fm_monitor_sample(w->monitor);
		uint64_t now_ms = fm_now_ms();
		next_ms += w->o.period_ms;
		if (next_ms < now_ms)
			next_ms = now_ms + w->o.period_ms;
		(void)fm_wait_fd(w->stop.fd, POLLIN, fm_deadline_left_ms(next_ms), NULL);
	}
	return NULL;
}

static void open_peers(struct fm_watcher *w)
{
	struct fm_error err = FM_ERROR_INIT;

	if (w->o.host && fm_peers_new(w->o.host, w->o.port, 0, &w->peers, &err) < 0)
		fm_log_write(w->o.log, FM_LOG_WARN, "ResourceMonitor", NULL, "Latency and loss to other agents are not measured: %s",
		             err.message);
}

int fm_watcher_new(const struct fm_watcher_options *o, struct fm_watcher **ret, struct fm_error *err)
{
	struct fm_watcher *w = calloc(1, sizeof(*w));

	if (!w)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	w->o = *o;
	w->stoppable = fm_stop_init(&w->stop, err) == 0;
	if (!w->stoppable || fm_monitor_new(&(struct fm_monitor_options){ .period_ms = o->period_ms }, &w->monitor, err) < 0) {
		fm_watcher_free(w);
		return -1;
	}
	open_peers(w);
	int rc = pthread_create(&w->thread, NULL, sample, w);
	if (rc != 0) {
		fm_watcher_free(w);
		return fm_error_errno(err, rc, "cannot start the monitor's thread");
	}
	w->running = true;
	*ret = w;
	return 0;
}

void fm_watcher_free(struct fm_watcher *w)
{
	if (!w)
		return;
	if (w->running) {
		fm_stop_request(&w->stop);
		pthread_join(w->thread, NULL);
	}
	fm_peers_free(w->peers);
	fm_monitor_free(w->monitor);
	if (w->stoppable)
		fm_stop_done(&w->stop);
	free(w);
}

/* ---- */

static const char *name_of(const FM_PB(Container) * c)
{
	return c->instance[0] ? c->instance : c->name;
}

/* Foreign ones have no endpoints of ours: their own namespace is asked. */
static void subject_of(const struct fm_watcher *w, const FM_PB(Container) * c, struct fm_monitor_subject *ret)
{
	*ret = (struct fm_monitor_subject){ .name = name_of(c),
		                            .pid = fm_streq(c->status, "running") || fm_streq(c->status, "paused") ? c->pid : 0 };
	ret->quiet = fm_movers_holds(w->o.movers, c->name) || !fm_streq(c->status, "running");
	while (ret->n_ifnames < FM_MONITOR_IFNAMES && fm_pb_endpoint(c, ret->n_ifnames)) {
		fm_endpoint_host_ifname(name_of(c), (unsigned)ret->n_ifnames, ret->ifnames[ret->n_ifnames]);
		ret->n_ifnames++;
	}
}

void fm_watcher_watch(struct fm_watcher *w, FM_PB(Container) *const *v, size_t n)
{
	struct fm_monitor_subject *subjects = calloc(n + 1, sizeof(*subjects));

	if (!subjects)
		abort(); /* as FM_PB_NEW */
	for (size_t i = 0; i < n; i++)
		subject_of(w, v[i], &subjects[i]);
	fm_monitor_watch(w->monitor, subjects, n);
	free(subjects);
}

static void report_peers(struct fm_watcher *w, FM_PB(Host) * h)
{
	struct fm_peer_measure v[FM_MAX_PEERS];
	size_t n = w->peers ? fm_peers_measures(w->peers, v, FM_ARRAY_SIZE(v)) : 0;

	h->echo_port = w->peers ? w->o.port : 0;
	for (size_t i = 0; i < n; i++) {
		FM_PB(PeerMeasure) *m = FM_PB_NEW(PeerMeasure, peer_measure);
		fm_pb_set(&m->host, v[i].host);
		m->at_unix_ms = v[i].at_unix_ms;
		m->latency_us = v[i].latency_us;
		m->loss_ppm = v[i].loss_ppm;
		FM_PB_ADD(h->peers, h->n_peers, m);
	}
}

void fm_watcher_report(struct fm_watcher *w, FM_PB(Host) * h, FM_PB(Container) *const *v, size_t n)
{
	struct fm_host_usage host;
	struct fm_container_usage c;

	fm_monitor_host(w->monitor, &host);
	h->usage = fm_usage_host_message(&host);
	for (size_t i = 0; i < n; i++)
		if (fm_monitor_container(w->monitor, name_of(v[i]), &c))
			v[i]->usage = fm_usage_container_message(&c);
	report_peers(w, h);
}

void fm_watcher_peers(struct fm_watcher *w, const FM_PB(ReportResponse) * r)
{
	struct fm_peer v[FM_MAX_PEERS];
	size_t n = 0;

	if (!w->peers)
		return;
	for (size_t i = 0; i < r->n_peers && n < FM_MAX_PEERS; i++) {
		if (strlen(r->peers[i]->host) >= sizeof(v[n].host) || strlen(r->peers[i]->address) >= sizeof(v[n].address))
			continue;
		v[n] = (struct fm_peer){ 0 };
		memcpy(v[n].host, r->peers[i]->host, strlen(r->peers[i]->host));
		memcpy(v[n].address, r->peers[i]->address, strlen(r->peers[i]->address));
		n++;
	}
	fm_peers_set(w->peers, r->peer_key.data, r->peer_key.len, v, n);
}
