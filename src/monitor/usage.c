/* SPDX-License-Identifier: MIT */
/* usage.c - see usage.h. */
#include "monitor/usage.h"

#include <math.h>

void fm_host_usage_unknown(struct fm_host_usage *ret)
{
	*ret = (struct fm_host_usage){ .cpu_percent = NAN,
		                       .load1 = NAN,
		                       .memory_total_bytes = FM_USAGE_UNKNOWN,
		                       .memory_available_bytes = FM_USAGE_UNKNOWN,
		                       .swap_used_bytes = FM_USAGE_UNKNOWN,
		                       .page_faults_per_s = NAN,
		                       .major_page_faults_per_s = NAN,
		                       .disk_read_bytes_per_s = FM_USAGE_UNKNOWN,
		                       .disk_write_bytes_per_s = FM_USAGE_UNKNOWN,
		                       .disk_utilisation_percent = NAN,
		                       .network_in_bytes_per_s = FM_USAGE_UNKNOWN,
		                       .network_out_bytes_per_s = FM_USAGE_UNKNOWN,
		                       .network_capacity_bytes_per_s = FM_USAGE_UNKNOWN,
		                       .connections = FM_USAGE_UNKNOWN,
		                       .cpu_pressure_percent = NAN,
		                       .memory_pressure_percent = NAN,
		                       .io_pressure_percent = NAN };
}

void fm_container_usage_unknown(struct fm_container_usage *ret)
{
	*ret = (struct fm_container_usage){ .cpu_cores = NAN,
		                            .memory_bytes = FM_USAGE_UNKNOWN,
		                            .working_set_bytes = FM_USAGE_UNKNOWN,
		                            .dirty_bytes_per_s = FM_USAGE_UNKNOWN,
		                            .page_faults_per_s = NAN,
		                            .major_page_faults_per_s = NAN,
		                            .disk_read_bytes_per_s = FM_USAGE_UNKNOWN,
		                            .disk_write_bytes_per_s = FM_USAGE_UNKNOWN,
		                            .network_in_bytes_per_s = FM_USAGE_UNKNOWN,
		                            .network_out_bytes_per_s = FM_USAGE_UNKNOWN,
		                            .connections = FM_USAGE_UNKNOWN,
		                            .threads = FM_USAGE_UNKNOWN,
		                            .restarts = FM_USAGE_UNKNOWN,
		                            .cpu_pressure_percent = NAN,
		                            .memory_pressure_percent = NAN,
		                            .io_pressure_percent = NAN,
		                            .throttled_percent = NAN };
}
