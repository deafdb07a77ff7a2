/* SPDX-License-Identifier: MIT */
/* host-sampler.c - see host-sampler.h. */
#include "monitor/host-sampler.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "basic/str.h"
#include "monitor/parse.h"

static int open_below(const struct fm_host_sampler *h, const char *path)
{
	char full[512];

	(void)snprintf(full, sizeof(full), "%s%s", h->root, path);
	return open(full, O_RDONLY | O_CLOEXEC);
}

void fm_host_sampler_init(struct fm_host_sampler *h, const char *root)
{
	static const char *const pressure[] = { "/proc/pressure/cpu", "/proc/pressure/memory", "/proc/pressure/io" };

	*h = (struct fm_host_sampler){ 0 };
	(void)snprintf(h->root, sizeof(h->root), "%s", root ? root : "");
	h->stat = open_below(h, "/proc/stat");
	h->meminfo = open_below(h, "/proc/meminfo");
	h->vmstat = open_below(h, "/proc/vmstat");
	h->diskstats = open_below(h, "/proc/diskstats");
	h->net_dev = open_below(h, "/proc/self/net/dev");
	h->snmp = open_below(h, "/proc/self/net/snmp");
	h->loadavg = open_below(h, "/proc/loadavg");
	for (int i = 0; i < 3; i++)
		h->pressure[i] = open_below(h, pressure[i]); /* a kernel without it has none */
}

static void close_fd(int fd)
{
	if (fd >= 0)
		(void)close(fd);
}

void fm_host_sampler_done(struct fm_host_sampler *h)
{
	const int fds[] = { h->stat, h->meminfo, h->vmstat,      h->diskstats,   h->net_dev,
		            h->snmp, h->loadavg, h->pressure[0], h->pressure[1], h->pressure[2] };

	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		close_fd(fds[i]);
}

static void sample_cpu(struct fm_host_sampler *h, struct fm_reader *r, uint64_t now_us, struct fm_host_usage *ret)
{
	uint64_t busy = 0, all = 0;
	bool known = fm_reader_read(r, h->stat, true) && fm_parse_cpu_ticks(r->text, &busy, &all);
	double used = fm_counter_rate(&h->busy, known, busy, now_us), whole = fm_counter_rate(&h->all, known, all, now_us);

	if (whole > 0 && used >= 0)
		ret->cpu_percent = used >= whole ? 100 : used * 100 / whole;
	if (!fm_reader_read(r, h->loadavg, true) || !fm_parse_load1(r->text, &ret->load1))
		ret->load1 = NAN;
}

static void sample_memory(struct fm_host_sampler *h, struct fm_reader *r, uint64_t now_us, struct fm_host_usage *ret)
{
	uint64_t total, available, swap, swap_free, faults = 0, major = 0;

	if (fm_reader_read(r, h->meminfo, true) && fm_parse_keyed(r->text, "MemTotal:", &total) &&
	    fm_parse_keyed(r->text, "MemAvailable:", &available) && total < UINT64_MAX / 1024 && available <= total) {
		ret->memory_total_bytes = total * 1024;
		ret->memory_available_bytes = available * 1024;
	}
	if (fm_parse_keyed(r->text, "SwapTotal:", &swap) && fm_parse_keyed(r->text, "SwapFree:", &swap_free) && swap_free <= swap &&
	    swap < UINT64_MAX / 1024)
		ret->swap_used_bytes = (swap - swap_free) * 1024;
	bool known = fm_reader_read(r, h->vmstat, false);
	bool has_faults = known && fm_parse_keyed(r->text, "pgfault", &faults),
	     has_major = known && fm_parse_keyed(r->text, "pgmajfault", &major);
	ret->page_faults_per_s = fm_counter_rate(&h->faults, has_faults, faults, now_us);
	ret->major_page_faults_per_s = fm_counter_rate(&h->major_faults, has_major, major, now_us);
}

static size_t find_disk(const struct fm_host_sampler *h, const char *name)
{
	size_t i = 0;

	while (i < h->n_disks && !fm_streq(h->disks[i].name, name))
		i++;
	return i;
}

static void sample_disks(struct fm_host_sampler *h, struct fm_reader *r, uint64_t now_us, struct fm_host_usage *ret)
{
	uint64_t in = 0, out = 0;
	double busiest = NAN;
	struct fm_disk_line d;
	bool known = fm_reader_read(r, h->diskstats, false);
	const char *p = r->text;

	known = known && h->n_disks > 0;
	while (known && fm_parse_disk_line(&p, &d)) {
		size_t i = find_disk(h, d.name);
		if (i == h->n_disks)
			continue;
		in += d.read_bytes;
		out += d.written_bytes;
		double busy = fm_counter_rate(&h->disks[i].busy_ms, true, d.busy_ms, now_us) / 10; /* ms a second as percent */
		if (!(busy <= busiest))
			busiest = isnan(busy) ? busiest : busy;
	}
	ret->disk_read_bytes_per_s = fm_usage_count(fm_counter_rate(&h->disk_read, known, in, now_us));
	ret->disk_write_bytes_per_s = fm_usage_count(fm_counter_rate(&h->disk_written, known, out, now_us));
	ret->disk_utilisation_percent = busiest > 100 ? 100 : busiest;
}

static double sample_pressure(struct fm_reader *r, int fd)
{
	double v;

	return fm_reader_read(r, fd, true) && fm_parse_pressure(r->text, &v) ? v : NAN;
}

void fm_host_sampler_sample(struct fm_host_sampler *h, struct fm_reader *r, uint64_t now_us, struct fm_host_usage *ret)
{
	uint64_t connections;

	fm_host_usage_unknown(ret);
	sample_cpu(h, r, now_us, ret);
	sample_memory(h, r, now_us, ret);
	sample_disks(h, r, now_us, ret);
	ret->cpu_pressure_percent = sample_pressure(r, h->pressure[0]);
	ret->memory_pressure_percent = sample_pressure(r, h->pressure[1]);
	ret->io_pressure_percent = sample_pressure(r, h->pressure[2]);
	if (fm_reader_read(r, h->snmp, true) && fm_parse_established(r->text, &connections))
		ret->connections = connections;
}

bool fm_host_sampler_read_net(struct fm_host_sampler *h, struct fm_reader *r)
{
	return fm_reader_read(r, h->net_dev, false);
}

bool fm_host_sampler_counts(const struct fm_host_sampler *h, const char *interface)
{
	return h->root[0] ? !fm_streq(interface, "lo") : fm_nics_has(&h->nics, interface);
}

void fm_host_sampler_net(struct fm_host_sampler *h, bool known, uint64_t in, uint64_t out, uint64_t now_us, struct fm_host_usage *ret)
{
	ret->network_in_bytes_per_s = fm_usage_count(fm_counter_rate(&h->net_in, known, in, now_us));
	ret->network_out_bytes_per_s = fm_usage_count(fm_counter_rate(&h->net_out, known, out, now_us));
	if (h->nics.capacity_bytes_per_s)
		ret->network_capacity_bytes_per_s = h->nics.capacity_bytes_per_s;
}

/* A disk, and not a part of one or something made of others: these would be counted twice. */
static bool is_disk(const struct fm_host_sampler *h, const char *name)
{
	char path[512];

	(void)snprintf(path, sizeof(path), "%s/sys/block/%s/device", h->root, name);
	return access(path, F_OK) == 0;
}

static void find_disks(struct fm_host_sampler *h, struct fm_reader *r)
{
	struct fm_disk_line d;
	bool changed = false;
	size_t n = 0;
	const char *p = r->text;

	if (!fm_reader_read(r, h->diskstats, false))
		return;
	while (n < FM_HOST_DISKS && fm_parse_disk_line(&p, &d)) {
		if (!is_disk(h, d.name))
			continue;
		if (n >= h->n_disks || !fm_streq(h->disks[n].name, d.name)) {
			changed = true;
			memset(&h->disks[n], 0, sizeof(h->disks[n]));
			memcpy(h->disks[n].name, d.name, sizeof(d.name));
		}
		n++;
	}
	if (changed || n != h->n_disks) /* the sum is another one */
		h->disk_read = h->disk_written = (struct fm_counter){ 0 };
	h->n_disks = n;
}

void fm_host_sampler_refresh(struct fm_host_sampler *h, struct fm_reader *r, bool (*is_endpoint)(void *userdata, const char *name),
                             void *userdata)
{
	struct fm_nics before = h->nics;

	find_disks(h, r);
	if (h->root[0])
		return;
	fm_nics_find(&h->nics, is_endpoint, userdata);
	if (before.n != h->nics.n || memcmp(before.name, h->nics.name, sizeof(before.name)) != 0)
		h->net_in = h->net_out = (struct fm_counter){ 0 };
}
