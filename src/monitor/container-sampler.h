/* SPDX-License-Identifier: MIT */
/* container-sampler.h - one container's usage, sample by sample, from its control groups. Private to monitor/, not thread-safe. */
#ifndef FM_MONITOR_CONTAINER_SAMPLER_H
#define FM_MONITOR_CONTAINER_SAMPLER_H

#include <sys/types.h>

#include "monitor/reader.h"
#include "monitor/usage.h"

/* Files of its control groups. Each may be of another version: in hybrid mode some controllers are v1's and pressure is v2's. */
enum fm_group_file {
	FM_GROUP_CPU,     /* cpuacct.usage | cpu.stat */
	FM_GROUP_MEMORY,  /* memory.usage_in_bytes | memory.current */
	FM_GROUP_QUOTA,   /* cpu.stat of both */
	FM_GROUP_DETAILS, /* memory.stat of both */
	FM_GROUP_PIDS,    /* pids.current of both */
	FM_GROUP_DISK,    /* blkio.throttle.io_service_bytes(_recursive) | io.stat */
	FM_GROUP_PRESSURE_CPU,
	FM_GROUP_PRESSURE_MEMORY,
	FM_GROUP_PRESSURE_IO,
	FM_GROUP_PROCS, /* cgroup.procs of the group that counts memory, or else of any */
	_FM_GROUP_FILES
};

struct fm_container_sampler {
	pid_t pid;
	int fd[_FM_GROUP_FILES];
	bool v2[_FM_GROUP_FILES];
	uint64_t groups; /* a hash of which groups it was in */
	bool disk_by_process;
	bool own_network; /* its namespace is not the host's */
	struct fm_counter cpu, faults, major_faults, read, written, periods, throttled, net_in, net_out;
};

/* Where process pid's groups are. What is not there stays unknown: also all that the root group counts, for that is not the container alone. */
void fm_container_sampler_open(struct fm_container_sampler *c, const char *root, const char *mountinfo, pid_t pid, struct fm_reader *r);
/* Has its process been put into other groups since, as a restore does? Its old ones may be there all the same. */
bool fm_container_sampler_is_elsewhere(const struct fm_container_sampler *c, const char *root, struct fm_reader *r);
void fm_container_sampler_close(struct fm_container_sampler *c);
/* Processor time and memory. false: the groups are gone, to be opened again. */
bool fm_container_sampler_fast(struct fm_container_sampler *c, struct fm_reader *r, uint64_t now_us, struct fm_container_usage *u);
/* The rest, and the network counters of its namespace if `with_network`. */
void fm_container_sampler_slow(struct fm_container_sampler *c, const char *root, struct fm_reader *r, bool with_network, uint64_t now_us,
                               struct fm_container_usage *u);
/* Counters of the host ends of its endpoints. */
void fm_container_sampler_net(struct fm_container_sampler *c, bool known, uint64_t host_in, uint64_t host_out, uint64_t now_us,
                              struct fm_container_usage *u);

#endif
