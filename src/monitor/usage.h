/* SPDX-License-Identifier: MIT */
/*
 * usage.h - Resource Monitor: what a host and a container use, as plain figures. What could not be measured is unknown, never zero: NAN in a double, FM_USAGE_UNKNOWN in a count.
 *
 * Rates are means of the time since the sample before, percentages of a host are of all its processors, cores are processors in use (1.0 = one).
 */
#ifndef FM_MONITOR_USAGE_H
#define FM_MONITOR_USAGE_H

#include <stdint.h>

#define FM_USAGE_UNKNOWN UINT64_MAX

struct fm_host_usage {
	uint64_t at_unix_ms; /* 0: nothing was measured yet */
	double cpu_percent, load1;
	uint64_t memory_total_bytes, memory_available_bytes, swap_used_bytes;
	double page_faults_per_s, major_page_faults_per_s;
	uint64_t disk_read_bytes_per_s, disk_write_bytes_per_s;
	double disk_utilisation_percent; /* of its busiest disk: the part of the time in which something was asked of it */
	uint64_t network_in_bytes_per_s, network_out_bytes_per_s;
	uint64_t network_capacity_bytes_per_s;                                     /* of its interfaces together, as they say; each way */
	uint64_t connections;                                                      /* established TCP, of the agent's network namespace */
	double cpu_pressure_percent, memory_pressure_percent, io_pressure_percent; /* PSI, some, avg60 */
};

struct fm_container_usage {
	uint64_t at_unix_ms;
	double cpu_cores;
	uint64_t memory_bytes;      /* of its control group, with page cache */
	uint64_t working_set_bytes; /* without the page cache that was not used lately */
	uint64_t dirty_bytes_per_s; /* an estimate, see dirty.h */
	double page_faults_per_s, major_page_faults_per_s;
	uint64_t disk_read_bytes_per_s, disk_write_bytes_per_s;
	uint64_t network_in_bytes_per_s, network_out_bytes_per_s; /* seen from the container */
	uint64_t connections, threads, restarts;
	double cpu_pressure_percent, memory_pressure_percent, io_pressure_percent;
	double throttled_percent; /* of the periods of its quota in which it was stopped for the rest of one */
};

void fm_host_usage_unknown(struct fm_host_usage *ret);
void fm_container_usage_unknown(struct fm_container_usage *ret);

#endif
