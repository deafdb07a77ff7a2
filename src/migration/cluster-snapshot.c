/* SPDX-License-Identifier: MIT */
/* cluster-snapshot.c - see cluster-snapshot.h. */
#include "migration/cluster-snapshot.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/limits.h"
#include "migration/pb.h"
#include "migration/usage.h"

#define MOVES_LOOKED_AT 1000 /* the last migrations: who was moved longer ago counts as never moved */
#define PERCENT         100.0
#define ALL_PAIRS_HOSTS 128 /* with more, links are those that agents measured only */

struct work {
	const struct fm_cluster *c;
	const struct fm_snapshot_predictor *predictor;
	FM_PB(Host) * *hosts;
	size_t n_hosts;
	FM_PB(Container) * *containers;
	size_t n_containers;
	struct fm_store_migration *moves;
	size_t n_moves;
	struct fm_snapshot *s;
};

static void work_done(struct work *w)
{
	for (size_t i = 0; i < w->n_hosts; i++)
		fm_pb_free(w->hosts[i]);
	for (size_t i = 0; i < w->n_containers; i++)
		fm_pb_free(w->containers[i]);
	free(w->hosts);
	free(w->containers);
	fm_store_migrations_free(w->moves, w->n_moves);
	fm_snapshot_free(w->s);
}

static void copy_labels(FM_PB(Label) *const *v, size_t n, struct fm_snap_labels *to)
{
	for (size_t i = 0; i < n; i++)
		fm_snap_labels_add(to, v[i]->key, v[i]->value);
}

static double either(double mean, double last)
{
	return isnan(mean) ? last : mean;
}

/*
 * A forecast is made of whole steps of five minutes, and the one that is not complete is not known to it: by as much as now is above the last whole step it would be too low for minutes, and a host whose load is new would
 * be left alone as long. What has become less is not taken off: a lull is not to be counted on.
 */
static double with_news(double forecast, double now, const struct fm_ring *fives)
{
	double last = fives->newest ? (double)fm_ring_at(fives, fives->newest - 1) : NAN;
	if (isnan(forecast) || isnan(now))
		return forecast;
	return isnan(last) ? fmax(forecast, now) : forecast + fmax(now - last, 0);
}

/* The seam: what a predictor makes of the past. NAN: there is none, or it cannot say. */
static double predict(const struct work *w, bool host, const char *name, enum fm_usage_kind kind, double now)
{
	struct fm_series past;
	bool known = w->predictor && (host ? fm_usage_history_host(w->c->history, name, kind, &past)
	                                   : fm_usage_history_container(w->c->history, name, kind, &past));

	return known ? with_news(w->predictor->predict(w->predictor->userdata, host, name, kind, &past), now, &past.fives) : NAN;
}

/* ---- hosts */

static void add_measures(const struct work *w, const FM_PB(Host) * h, struct fm_snap_host *to)
{
	struct fm_host_usage u;

	fm_usage_host_figures(h->usage, &u);
	double total = (double)h->memory_total_bytes, last = total > 0 ? (total - (double)h->memory_available_bytes) * 100 / total : NAN;
	to->cpu_percent = either(fm_usage_history_now(w->c->history, true, h->name, FM_USAGE_CPU, w->s->at_unix_ms), u.cpu_percent);
	to->memory_percent = either(fm_usage_history_now(w->c->history, true, h->name, FM_USAGE_MEMORY, w->s->at_unix_ms), last);
	to->cpu_predicted_percent = predict(w, true, h->name, FM_USAGE_CPU, to->cpu_percent);
	if (to->cpu_predicted_percent > PERCENT)
		to->cpu_predicted_percent = PERCENT;
	to->cpu_pressure_percent = u.cpu_pressure_percent;
	to->memory_pressure_percent = u.memory_pressure_percent;
	to->io_pressure_percent = u.io_pressure_percent;
	to->disk_utilisation_percent = u.disk_utilisation_percent;
	to->memory_available_bytes = h->memory_available_bytes;
	to->disk_available_bytes = h->disk_available_bytes;
	to->network_in_bytes_per_s = u.network_in_bytes_per_s;
	to->network_out_bytes_per_s = u.network_out_bytes_per_s;
	to->network_capacity_bytes_per_s = u.network_capacity_bytes_per_s ? u.network_capacity_bytes_per_s : FM_UNKNOWN;
}

static bool is_online(const struct work *w, const char *name)
{
	for (size_t i = 0; i < w->n_hosts; i++)
		if (fm_streq(w->hosts[i]->name, name))
			return fm_streq(w->hosts[i]->status, "online");
	return false;
}

static void add_peers(const struct work *w, const FM_PB(Host) * h, struct fm_snap_host *to)
{
	for (size_t i = 0; i < h->n_peers; i++) {
		const FM_PB(PeerMeasure) *p = h->peers[i];
		double loss = p->loss_ppm / 1e4, latency = (double)p->latency_us / 1000;
		if (!is_online(w, p->host))
			continue;
		to->loss_percent = to->loss_percent >= loss ? to->loss_percent : loss; /* and not when it is NAN */
		to->latency_ms = to->latency_ms >= latency ? to->latency_ms : latency;
	}
}

static void add_images(const FM_PB(Host) * h, struct fm_snap_host *to)
{
	for (size_t i = 0; i < h->n_images; i++)
		fm_strv_add(&to->images, h->images[i]);
}

static void add_host(const struct work *w, const FM_PB(Host) * h)
{
	struct fm_snap_host *to = fm_snapshot_add_host(w->s, h->name);

	to->online = fm_streq(h->status, "online");
	to->cordoned = h->cordoned;
	to->can_restore = !h->criu_problem[0] && h->runtime_version[0];
	to->cpus = h->cpus ? (double)h->cpus : NAN;
	to->memory_total_bytes = h->memory_total_bytes ? h->memory_total_bytes : FM_UNKNOWN;
	copy_labels(h->labels, h->n_labels, &to->labels);
	add_images(h, to);
	if (!to->online)
		return;
	add_measures(w, h, to);
	add_peers(w, h, to);
}

/* ---- containers */

static void add_moves(const struct work *w, struct fm_snap_container *to)
{
	to->last_moved_unix_ms = 0;
	for (size_t i = 0; i < w->n_moves; i++) { /* newest first */
		const struct fm_store_migration *m = &w->moves[i];
		if (!fm_streq(m->container, to->name))
			continue;
		to->moving = to->moving || !m->finished_ms;
		if (m->finished_ms && m->error_code == 0 && m->finished_ms > to->last_moved_unix_ms)
			to->last_moved_unix_ms = m->finished_ms;
	}
}

static void add_usage(const struct work *w, const FM_PB(Container) * c, struct fm_snap_container *to)
{
	struct fm_container_usage u;

	fm_usage_container_figures(c->usage, &u);
	to->cpu_cores = either(fm_usage_history_now(w->c->history, false, c->name, FM_USAGE_CPU, w->s->at_unix_ms), u.cpu_cores);
	to->cpu_predicted_cores = predict(w, false, c->name, FM_USAGE_CPU, to->cpu_cores);
	if (u.memory_bytes != FM_USAGE_UNKNOWN)
		to->memory_bytes = u.memory_bytes;
	to->working_set_bytes = u.working_set_bytes;
	to->dirty_bytes_per_s = u.dirty_bytes_per_s;
	to->network_in_bytes_per_s = u.network_in_bytes_per_s;
	to->network_out_bytes_per_s = u.network_out_bytes_per_s;
	if (u.disk_read_bytes_per_s != FM_USAGE_UNKNOWN && u.disk_write_bytes_per_s != FM_USAGE_UNKNOWN)
		to->disk_bytes_per_s = u.disk_read_bytes_per_s + u.disk_write_bytes_per_s;
	to->connections = u.connections;
	to->restarts = u.restarts;
}

/* What an agent does not measure, or has not yet: by the container's last migrations. */
static void add_remembered(const struct work *w, struct fm_snap_container *to)
{
	struct fm_cost_case known = { .dirty_bytes_per_s = to->dirty_bytes_per_s,
		                      .files_bytes = to->files_bytes,
		                      .compressibility = to->compressibility };

	if (!w->c->costs)
		return;
	fm_costs_recall(w->c->costs, to->name, &known);
	to->dirty_bytes_per_s = known.dirty_bytes_per_s;
	to->files_bytes = known.files_bytes;
	to->compressibility = known.compressibility;
}

static void add_container(const struct work *w, const FM_PB(Container) * c)
{
	size_t host = fm_snapshot_host(w->s, c->host);

	if (host == SIZE_MAX || fm_streq(c->status, "incoming"))
		return; /* one that is moving is where it leaves */
	struct fm_snap_container *to = fm_snapshot_add_container(w->s, c->name, host);
	to->nested = fm_streq(c->kind, "nested");
	to->moving = fm_streq(c->status, "outgoing");
	to->processes = c->processes;
	to->memory_bytes = c->memory_bytes ? c->memory_bytes : FM_UNKNOWN;
	to->memory_limit_bytes = c->memory_limit_bytes ? c->memory_limit_bytes : FM_UNKNOWN;
	if (c->image[0])
		to->image = fm_xstrdup(c->image);
	copy_labels(c->labels, c->n_labels, &to->labels);
	add_moves(w, to);
	if (w->s->hosts[host].online)
		add_usage(w, c, to);
	add_remembered(w, to);
}

/* ---- links */

static const FM_PB(PeerMeasure) * measured(const FM_PB(Host) * from, const char *to)
{
	for (size_t i = 0; i < from->n_peers; i++)
		if (fm_streq(from->peers[i]->host, to))
			return from->peers[i];
	return NULL;
}

static double interface_utilisation(const struct fm_snap_host *h)
{
	if (h->network_capacity_bytes_per_s == FM_UNKNOWN || !h->network_capacity_bytes_per_s || h->network_in_bytes_per_s == FM_UNKNOWN ||
	    h->network_out_bytes_per_s == FM_UNKNOWN)
		return NAN;
	uint64_t most = h->network_in_bytes_per_s > h->network_out_bytes_per_s ? h->network_in_bytes_per_s : h->network_out_bytes_per_s;
	double percent = (double)most * 100 / (double)h->network_capacity_bytes_per_s;
	return percent > 100 ? 100 : percent;
}

/* Without a described network: the ends' interfaces are what is known of the way. */
static void by_interfaces(const struct work *w, struct fm_snap_link *l)
{
	const struct fm_snap_host *a = &w->s->hosts[l->from], *b = &w->s->hosts[l->to];
	double x = interface_utilisation(a), y = interface_utilisation(b);

	if (a->network_capacity_bytes_per_s != FM_UNKNOWN && b->network_capacity_bytes_per_s != FM_UNKNOWN)
		l->bandwidth_bytes_per_s = a->network_capacity_bytes_per_s < b->network_capacity_bytes_per_s
		                                   ? a->network_capacity_bytes_per_s
		                                   : b->network_capacity_bytes_per_s;
	l->utilisation_percent = isnan(x) || isnan(y) ? NAN : x > y ? x : y;
}

/* Measured from either end: half of a round trip is the same both ways. */
static void add_link(struct work *w, size_t from, size_t to)
{
	const FM_PB(PeerMeasure) *p = measured(w->hosts[from], w->hosts[to]->name);
	struct fm_network_way way;
	bool described = w->c->network && fm_network_between(w->c->network, w->hosts[from]->name, w->hosts[to]->name, &way, NULL) == 0;

	p = p ? p : measured(w->hosts[to], w->hosts[from]->name);
	if (!w->s->hosts[from].online || !w->s->hosts[to].online)
		p = NULL;
	if (!p && !described)
		return;
	struct fm_snap_link *l = fm_snapshot_add_link(w->s, from, to);
	if (described) {
		l->latency_ms = (double)way.latency_us / 1000;
		l->loss_percent = way.loss_ppm / 1e4;
		l->utilisation_percent = way.utilisation_ppm / 1e4;
		l->bandwidth_bytes_per_s = way.bandwidth_bytes_per_s;
	} else {
		by_interfaces(w, l);
	}
	if (p) {
		l->latency_ms = (double)p->latency_us / 1000;
		l->loss_percent = p->loss_ppm / 1e4;
	}
}

static void add_links(struct work *w)
{
	bool all = w->n_hosts <= ALL_PAIRS_HOSTS;

	for (size_t i = 0; i < w->n_hosts; i++)
		for (size_t k = i + 1; all && k < w->n_hosts; k++)
			add_link(w, i, k);
	for (size_t i = 0; !all && i < w->n_hosts; i++)
		for (size_t p = 0; p < w->hosts[i]->n_peers; p++) {
			size_t k = fm_snapshot_host(w->s, w->hosts[i]->peers[p]->host);
			if (k != SIZE_MAX && k != i &&
			    !(k < i && measured(w->hosts[k], w->hosts[i]->name))) /* that way round it is there already */
				add_link(w, i, k);
		}
}

/* ---- all */

static int utc_offset_s(uint64_t now_ms)
{
	time_t now = (time_t)(now_ms / 1000);
	struct tm local;

	return localtime_r(&now, &local) ? (int)local.tm_gmtoff : 0;
}

int fm_cluster_snapshot_predicted(const struct fm_cluster *c, const struct fm_snapshot_predictor *p, struct fm_snapshot **ret,
                                  struct fm_error *err)
{
	_fm_cleanup_(work_done) struct work w = { .c = c, .predictor = p, .s = fm_snapshot_new(fm_realtime_ms()) };

	if (!w.s)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	if (fm_fleet_hosts(c->fleet, &w.hosts, &w.n_hosts, err) < 0 ||
	    fm_fleet_containers(c->fleet, "", &w.containers, &w.n_containers, err) < 0 ||
	    fm_store_migration_list(c->store, false, MOVES_LOOKED_AT, &w.moves, &w.n_moves, err) < 0)
		return -1;
	w.s->utc_offset_s = utc_offset_s(w.s->at_unix_ms);
	for (size_t i = 0; i < w.n_hosts; i++)
		add_host(&w, w.hosts[i]);
	for (size_t i = 0; i < w.n_containers; i++)
		add_container(&w, w.containers[i]);
	add_links(&w);
	*ret = FM_TAKE_PTR(w.s);
	return 0;
}

int fm_cluster_snapshot(const struct fm_cluster *c, struct fm_snapshot **ret, struct fm_error *err)
{
	return fm_cluster_snapshot_predicted(c, NULL, ret, err);
}
