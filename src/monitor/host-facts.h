/* SPDX-License-Identifier: MIT */
/* host-facts.h - Resource Monitor: what a host has and has left, read now. (Rates, pressure and rings come with the monitor's own issue.) */
#ifndef FM_MONITOR_HOST_FACTS_H
#define FM_MONITOR_HOST_FACTS_H

#include <stdint.h>

#include "basic/error.h"

struct fm_host_facts {
	uint32_t cpus; /* online */
	uint64_t memory_total_bytes;
	uint64_t memory_available_bytes; /* MemAvailable of /proc/meminfo: without swapping */
	uint64_t disk_available_bytes;   /* for root or us, of the filesystem of `path` */
	char kernel[65];                 /* uname -r */
};

int fm_host_facts_read(const char *path, struct fm_host_facts *ret, struct fm_error *err);

#endif
