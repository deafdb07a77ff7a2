/* SPDX-License-Identifier: MIT */
/* host-sampler.h - one host's usage, sample by sample. Private to monitor/, not thread-safe. */
#ifndef FM_MONITOR_HOST_SAMPLER_H
#define FM_MONITOR_HOST_SAMPLER_H

#include "monitor/nics.h"
#include "monitor/reader.h"
#include "monitor/usage.h"

#define FM_HOST_DISKS 64

struct fm_host_sampler {
	char root[256];
	int stat, meminfo, vmstat, diskstats, net_dev, loadavg, snmp, pressure[3];
	struct fm_counter busy, all, faults, major_faults, disk_read, disk_written, net_in, net_out;
	struct {
		char name[32];
		struct fm_counter busy_ms;
	} disks[FM_HOST_DISKS];
	size_t n_disks;
	struct fm_nics nics;
};

void fm_host_sampler_init(struct fm_host_sampler *h, const char *root);
void fm_host_sampler_done(struct fm_host_sampler *h);
/* Everything but the network. */
void fm_host_sampler_sample(struct fm_host_sampler *h, struct fm_reader *r, uint64_t now_us, struct fm_host_usage *ret);
/* The caller reads /proc/net/dev and sums up what fm_host_sampler_counts says. */
bool fm_host_sampler_read_net(struct fm_host_sampler *h, struct fm_reader *r);
bool fm_host_sampler_counts(const struct fm_host_sampler *h, const char *interface);
void fm_host_sampler_net(struct fm_host_sampler *h, bool known, uint64_t in, uint64_t out, uint64_t now_us, struct fm_host_usage *ret);
/* Disks and interfaces come and go: to be called now and then. */
void fm_host_sampler_refresh(struct fm_host_sampler *h, struct fm_reader *r, bool (*is_endpoint)(void *userdata, const char *name),
                             void *userdata);

#endif
