/* SPDX-License-Identifier: MIT */
/* world.c - see world.h. */
#include "migration/world.h"

#include <math.h>
#include <time.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/str.h"
#include "migration/pb.h"

FM_DEFINE_CLEANUP(struct fm_snapshot *, fm_snapshot_free);

struct list {
	void **v;
	size_t n;
};

static void list_done(struct list *l)
{
	for (size_t i = 0; i < l->n; i++)
		fm_pb_free(l->v[i]);
	free(l->v);
}
#define _list_ _fm_cleanup_(list_done)

static bool is_unknown(const uint32_t *unknown, size_t n, uint32_t field)
{
	for (size_t i = 0; i < n; i++)
		if (unknown[i] == field)
			return true;
	return false;
}

static void add_labels(FM_PB(Label) *const *labels, size_t n, struct fm_snap_labels *to)
{
	for (size_t i = 0; i < n; i++)
		fm_snap_labels_add(to, labels[i]->key, labels[i]->value);
}

/* Field numbers are HostUsage's. */
static void take_host_usage(const FM_PB(HostUsage) * u, struct fm_snap_host *h)
{
#define HAS(field) (!is_unknown(u->unknown, u->n_unknown, field))
	h->cpu_percent = HAS(2) ? u->cpu_percent : NAN;
	h->disk_utilisation_percent = HAS(11) ? u->disk_utilisation_percent : NAN;
	h->network_in_bytes_per_s = HAS(12) ? u->network_in_bytes_per_s : FM_UNKNOWN;
	h->network_out_bytes_per_s = HAS(13) ? u->network_out_bytes_per_s : FM_UNKNOWN;
	h->network_capacity_bytes_per_s = HAS(14) && u->network_capacity_bytes_per_s ? u->network_capacity_bytes_per_s : FM_UNKNOWN;
	h->cpu_pressure_percent = HAS(16) ? u->cpu_pressure_percent : NAN;
	h->memory_pressure_percent = HAS(17) ? u->memory_pressure_percent : NAN;
	h->io_pressure_percent = HAS(18) ? u->io_pressure_percent : NAN;
#undef HAS
}

static void add_host(struct fm_snapshot *s, const FM_PB(Host) * from)
{
	struct fm_snap_host *h = fm_snapshot_add_host(s, from->name);
	h->online = fm_streq(from->status, "online");
	h->cordoned = from->cordoned;
	h->can_restore = !from->criu_problem[0];
	h->cpus = from->cpus ? from->cpus : NAN;
	h->memory_available_bytes = from->memory_available_bytes;
	h->disk_available_bytes = from->disk_available_bytes;
	if (from->memory_total_bytes) {
		h->memory_total_bytes = from->memory_total_bytes;
		h->memory_percent = 100.0 * (1 - (double)from->memory_available_bytes / (double)from->memory_total_bytes);
	}
	if (from->usage && h->online)
		take_host_usage(from->usage, h);
	add_labels(from->labels, from->n_labels, &h->labels);
}

/* Field numbers are ContainerUsage's. */
static void take_usage(const FM_PB(ContainerUsage) * u, struct fm_snap_container *c)
{
#define HAS(field) (!is_unknown(u->unknown, u->n_unknown, field))
	c->cpu_cores = HAS(2) ? u->cpu_cores : NAN;
	c->working_set_bytes = HAS(4) ? u->working_set_bytes : FM_UNKNOWN;
	c->dirty_bytes_per_s = HAS(5) ? u->dirty_bytes_per_s : FM_UNKNOWN;
	c->disk_bytes_per_s = HAS(8) && HAS(9) ? u->disk_read_bytes_per_s + u->disk_write_bytes_per_s : FM_UNKNOWN;
	c->network_in_bytes_per_s = HAS(10) ? u->network_in_bytes_per_s : FM_UNKNOWN;
	c->network_out_bytes_per_s = HAS(11) ? u->network_out_bytes_per_s : FM_UNKNOWN;
	c->connections = HAS(12) ? u->connections : FM_UNKNOWN;
	c->restarts = HAS(14) ? u->restarts : FM_UNKNOWN;
#undef HAS
}

static void add_container(struct fm_snapshot *s, const FM_PB(Container) * from)
{
	size_t host = fm_snapshot_host(s, from->host);
	if (host == SIZE_MAX)
		return;
	struct fm_snap_container *c = fm_snapshot_add_container(s, from->name, host);
	c->nested = fm_streq(from->kind, "nested");
	c->memory_bytes = from->memory_bytes;
	c->processes = from->processes;
	if (from->memory_limit_bytes)
		c->memory_limit_bytes = from->memory_limit_bytes;
	if (from->usage)
		take_usage(from->usage, c);
	if (from->image[0])
		c->image = fm_xstrdup(from->image);
	add_labels(from->labels, from->n_labels, &c->labels);
}

static void add_links(struct fm_snapshot *s, const FM_PB(Host) * from)
{
	for (size_t i = 0; i < from->n_peers; i++) {
		size_t to = fm_snapshot_host(s, from->peers[i]->host);
		if (to == SIZE_MAX)
			continue;
		struct fm_snap_link *l = fm_snapshot_add_link(s, fm_snapshot_host(s, from->name), to);
		l->latency_ms = (double)from->peers[i]->latency_us / 1000;
		l->loss_percent = (double)from->peers[i]->loss_ppm / 10000;
	}
}

int fm_world_snapshot(struct fm_fleet *fleet, struct fm_snapshot **ret, struct fm_error *err)
{
	_list_ struct list hosts = { 0 };
	_list_ struct list containers = { 0 };
	if (fm_fleet_hosts(fleet, (FM_PB(Host) ***)&hosts.v, &hosts.n, err) < 0 ||
	    fm_fleet_containers(fleet, "", (FM_PB(Container) ***)&containers.v, &containers.n, err) < 0)
		return -1;
	_fm_cleanup_(fm_snapshot_freep) struct fm_snapshot *s = fm_snapshot_new(fm_realtime_ms());
	time_t now = (time_t)(s->at_unix_ms / 1000);
	struct tm local;
	if (localtime_r(&now, &local))
		s->utc_offset_s = (int)local.tm_gmtoff;
	for (size_t i = 0; i < hosts.n; i++)
		add_host(s, hosts.v[i]);
	for (size_t i = 0; i < hosts.n; i++)
		add_links(s, hosts.v[i]);
	for (size_t i = 0; i < containers.n; i++)
		if (!fm_streq(((FM_PB(Container) *)containers.v[i])->status, "incoming")) /* reported where it leaves, too */
			add_container(s, containers.v[i]);
	*ret = FM_TAKE_PTR(s);
	return 0;
}
