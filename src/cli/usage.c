/* SPDX-License-Identifier: MIT */
/* usage.c - see usage.h. */
#include "cli/usage.h"

#include <math.h>
#include <stdio.h>

#include "basic/clock.h"
#include "basic/str.h"

const char *fm_show_percent(double v, char *buf, size_t cap)
{
	(void)snprintf(buf, cap, isnan(v) ? "-" : "%.1f %%", v);
	return buf;
}

const char *fm_show_number(double v, char *buf, size_t cap)
{
	(void)snprintf(buf, cap, isnan(v) ? "-" : "%.2f", v);
	return buf;
}

const char *fm_show_bytes(uint64_t v, char *buf, size_t cap)
{
	if (v == FM_USAGE_UNKNOWN)
		(void)snprintf(buf, cap, "-");
	else
		(void)fm_format_bytes(v, buf, cap);
	return buf;
}

const char *fm_show_rate(uint64_t bytes_per_s, char *buf, size_t cap)
{
	char bytes[32];

	(void)snprintf(buf, cap, "%s%s", fm_show_bytes(bytes_per_s, bytes, sizeof(bytes)), bytes_per_s == FM_USAGE_UNKNOWN ? "" : "/s");
	return buf;
}

static const char *count(uint64_t v, char *buf, size_t cap)
{
	(void)snprintf(buf, cap, v == FM_USAGE_UNKNOWN ? "-" : "%llu", (unsigned long long)v);
	return buf;
}

/* Two of them are in most lines. */
struct cells {
	char a[40], b[40], c[40], d[40];
};
#define IN(cell) cell, sizeof(cell)

static void print_pressure(double cpu, double memory, double io)
{
	struct cells t;

	printf("Pressure:   processor %s, memory %s, disk %s\n", fm_show_percent(cpu, IN(t.a)), fm_show_percent(memory, IN(t.b)),
	       fm_show_percent(io, IN(t.c)));
}

static void print_peers(const FM_PB(Host) * h)
{
	for (size_t i = 0; i < h->n_peers; i++)
		printf("Way:        to %s %.3f ms, loss %.2f %%\n", h->peers[i]->host, (double)h->peers[i]->latency_us / 1000,
		       h->peers[i]->loss_ppm / 1e4);
}

void fm_print_host_usage(const FM_PB(Host) * h)
{
	struct fm_host_usage u;
	struct cells t;

	for (size_t i = 0; i < h->n_labels; i++)
		printf("Label:      %s=%s\n", h->labels[i]->key, h->labels[i]->value);
	if (h->load[0])
		printf("Load:       %s%s%s\n", h->load, h->load_reason[0] ? ": " : "", h->load_reason);
	if (!h->usage)
		return;
	fm_usage_host_figures(h->usage, &u);
	printf("Processor:  %s in use, load %s\n", fm_show_percent(u.cpu_percent, IN(t.a)), fm_show_number(u.load1, IN(t.b)));
	printf("Swap:       %s in use, %s page faults/s, %s major\n", fm_show_bytes(u.swap_used_bytes, IN(t.a)),
	       fm_show_number(u.page_faults_per_s, IN(t.b)), fm_show_number(u.major_page_faults_per_s, IN(t.c)));
	printf("Disks:      %s read, %s written, busiest %s\n", fm_show_rate(u.disk_read_bytes_per_s, IN(t.a)),
	       fm_show_rate(u.disk_write_bytes_per_s, IN(t.b)), fm_show_percent(u.disk_utilisation_percent, IN(t.c)));
	printf("Network:    %s in, %s out, of %s; %s connections\n", fm_show_rate(u.network_in_bytes_per_s, IN(t.a)),
	       fm_show_rate(u.network_out_bytes_per_s, IN(t.b)), fm_show_rate(u.network_capacity_bytes_per_s, IN(t.c)),
	       count(u.connections, IN(t.d)));
	print_pressure(u.cpu_pressure_percent, u.memory_pressure_percent, u.io_pressure_percent);
	print_peers(h);
}

void fm_print_container_usage(const FM_PB(Container) * c)
{
	struct fm_container_usage u;
	struct cells t;

	if (!c->usage)
		return;
	fm_usage_container_figures(c->usage, &u);
	printf("Processor: %s in use, throttled %s\n", fm_show_number(u.cpu_cores, IN(t.a)), fm_show_percent(u.throttled_percent, IN(t.b)));
	printf("Group:     %s, working set %s, written %s\n", fm_show_bytes(u.memory_bytes, IN(t.a)),
	       fm_show_bytes(u.working_set_bytes, IN(t.b)), fm_show_rate(u.dirty_bytes_per_s, IN(t.c)));
	printf("Faults:    %s/s, %s/s major\n", fm_show_number(u.page_faults_per_s, IN(t.a)),
	       fm_show_number(u.major_page_faults_per_s, IN(t.b)));
	printf("Disks:     %s read, %s written\n", fm_show_rate(u.disk_read_bytes_per_s, IN(t.a)),
	       fm_show_rate(u.disk_write_bytes_per_s, IN(t.b)));
	printf("Network:   %s in, %s out; %s connections\n", fm_show_rate(u.network_in_bytes_per_s, IN(t.a)),
	       fm_show_rate(u.network_out_bytes_per_s, IN(t.b)), count(u.connections, IN(t.c)));
	printf("Threads:   %s; restarts %s\n", count(u.threads, IN(t.a)), count(u.restarts, IN(t.b)));
	printf("Pressure:  processor %s, memory %s, disk %s\n", fm_show_percent(u.cpu_pressure_percent, IN(t.a)),
	       fm_show_percent(u.memory_pressure_percent, IN(t.b)), fm_show_percent(u.io_pressure_percent, IN(t.c)));
}
