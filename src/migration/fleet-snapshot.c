/* SPDX-License-Identifier: MIT */
/* fleet-snapshot.c - see fleet-snapshot.h. */
#include "migration/fleet-snapshot.h"

#include <math.h>
#include <time.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "migration/pb.h"

#define USAGE_MAX_AGE_MS 30000 /* what is older tells nothing of now */

static bool known(const uint32_t *unknown, size_t n, uint32_t field)
{
	for (size_t i = 0; i < n; i++)
		if (unknown[i] == field)
			return false;
	return true;
}

#define KNOWN(u, member, field) (known((u)->unknown, (u)->n_unknown, (field)) ? (u)->member : NAN)
#define COUNT(u, member, field) (known((u)->unknown, (u)->n_unknown, (field)) ? (u)->member : FM_UNKNOWN)

static bool fresh(uint64_t at_unix_ms, uint64_t now)
{
	return at_unix_ms + USAGE_MAX_AGE_MS >= now;
}

static void host_usage(struct fm_snap_host *h, const FM_PB(HostUsage) * u)
{
	h->cpu_percent = KNOWN(u, cpu_percent, 2);
	h->disk_utilisation_percent = KNOWN(u, disk_utilisation_percent, 11);
	h->network_in_bytes_per_s = COUNT(u, network_in_bytes_per_s, 12);
	h->network_out_bytes_per_s = COUNT(u, network_out_bytes_per_s, 13);
	h->network_capacity_bytes_per_s = u->network_capacity_bytes_per_s ? COUNT(u, network_capacity_bytes_per_s, 14) : FM_UNKNOWN;
	h->cpu_pressure_percent = KNOWN(u, cpu_pressure_percent, 16);
	h->memory_pressure_percent = KNOWN(u, memory_pressure_percent, 17);
	h->io_pressure_percent = KNOWN(u, io_pressure_percent, 18);
}

static void add_host(struct fm_snapshot *s, const FM_PB(Host) * pb)
{
	struct fm_snap_host *h = fm_snapshot_add_host(s, pb->name);
	h->online = fm_streq(pb->status, "online");
	h->cordoned = pb->cordoned;
	h->can_restore = !pb->criu_problem[0];
	if (pb->cpus > 0)
		h->cpus = pb->cpus;
	if (pb->memory_total_bytes > 0) {
		h->memory_total_bytes = pb->memory_total_bytes;
		h->memory_available_bytes = pb->memory_available_bytes;
		h->memory_percent = (1 - (double)pb->memory_available_bytes / (double)pb->memory_total_bytes) * 100;
	}
	h->disk_available_bytes = pb->disk_available_bytes;
	if (pb->usage && fresh(pb->usage->at_unix_ms, s->at_unix_ms))
		host_usage(h, pb->usage);
	for (size_t i = 0; i < pb->n_labels; i++)
		fm_snap_labels_add(&h->labels, pb->labels[i]->key, pb->labels[i]->value);
	for (size_t i = 0; i < pb->n_images; i++)
		fm_strv_add(&h->images, pb->images[i]);
}

static void add_links(struct fm_snapshot *s, size_t from, const FM_PB(Host) * pb)
{
	for (size_t i = 0; i < pb->n_peers; i++) {
		size_t to = fm_snapshot_host(s, pb->peers[i]->host);
		if (to == SIZE_MAX || to == from || !fresh(pb->peers[i]->at_unix_ms, s->at_unix_ms))
			continue;
		struct fm_snap_link *l = fm_snapshot_add_link(s, from, to);
		l->latency_ms = (double)pb->peers[i]->latency_us / 1000;
		l->loss_percent = (double)pb->peers[i]->loss_ppm / 10000;
	}
}

static void container_usage(struct fm_snap_container *c, const FM_PB(ContainerUsage) * u)
{
	c->cpu_cores = KNOWN(u, cpu_cores, 2);
	c->working_set_bytes = COUNT(u, working_set_bytes, 4);
	c->dirty_bytes_per_s = COUNT(u, dirty_bytes_per_s, 5);
	c->network_in_bytes_per_s = COUNT(u, network_in_bytes_per_s, 10);
	c->network_out_bytes_per_s = COUNT(u, network_out_bytes_per_s, 11);
	c->connections = COUNT(u, connections, 12);
	c->restarts = COUNT(u, restarts, 14);
}

static void add_container(struct fm_snapshot *s, size_t host, const FM_PB(Container) * pb)
{
	struct fm_snap_container *c = fm_snapshot_add_container(s, pb->name, host);
	c->nested = fm_streq(pb->kind, "nested");
	c->processes = pb->processes;
	c->memory_bytes = pb->memory_bytes;
	if (pb->memory_limit_bytes > 0)
		c->memory_limit_bytes = pb->memory_limit_bytes;
	if (!fm_streq(pb->status, "running")) {
		c->fixed = true;
		c->blocker = fm_xasprintf("it is %s", pb->status);
	}
	if (pb->usage && fresh(pb->usage->at_unix_ms, s->at_unix_ms))
		container_usage(c, pb->usage);
	if (pb->image[0])
		c->image = fm_xstrdup(pb->image);
	for (size_t i = 0; i < pb->n_labels; i++)
		fm_snap_labels_add(&c->labels, pb->labels[i]->key, pb->labels[i]->value);
}

static int add_containers(struct fm_snapshot *s, struct fm_fleet *f, struct fm_error *err)
{
	FM_PB(Container) **v = NULL;
	size_t n = 0;
	if (fm_fleet_containers(f, NULL, &v, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		size_t host = fm_snapshot_host(s, v[i]->host);
		/* on its way it is reported by both: where it is resident is where it is */
		if (host != SIZE_MAX && !fm_streq(v[i]->status, "incoming") && !fm_streq(v[i]->status, "outgoing"))
			add_container(s, host, v[i]);
		fm_pb_free(v[i]);
	}
	free(v);
	return 0;
}

static int utc_offset_s(void)
{
	time_t now = time(NULL);
	struct tm tm;
	return localtime_r(&now, &tm) ? (int)tm.tm_gmtoff : 0;
}

int fm_fleet_snapshot(struct fm_fleet *f, bool (*moving)(void *userdata, const char *container), void *userdata, struct fm_snapshot **ret,
                      struct fm_error *err)
{
	FM_PB(Host) **hosts = NULL;
	size_t n = 0;
	if (fm_fleet_hosts(f, &hosts, &n, err) < 0)
		return -1;
	struct fm_snapshot *s = fm_snapshot_new(fm_realtime_ms());
	s->utc_offset_s = utc_offset_s();
	for (size_t i = 0; i < n; i++)
		add_host(s, hosts[i]);
	for (size_t i = 0; i < n; i++)
		add_links(s, i, hosts[i]);
	for (size_t i = 0; i < n; i++)
		fm_pb_free(hosts[i]);
	free(hosts);
	if (add_containers(s, f, err) < 0) {
		fm_snapshot_free(s);
		return -1;
	}
	for (size_t i = 0; moving && i < s->n_containers; i++)
		s->containers[i].moving = moving(userdata, s->containers[i].name);
	*ret = s;
	return 0;
}
