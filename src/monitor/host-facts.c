/* SPDX-License-Identifier: MIT */
/* host-facts.c - see host-facts.h. */
#include "monitor/host-facts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/io.h"

#define MEMINFO_MAX_BYTES (1u << 16)

static uint64_t memory_available_bytes(void)
{
	_fm_free_ char *text = NULL;
	if (fm_read_file("/proc/meminfo", MEMINFO_MAX_BYTES, &text, NULL, NULL) < 0)
		return 0;
	const char *p = strstr(text, "MemAvailable:");
	return p ? strtoull(p + strlen("MemAvailable:"), NULL, 10) * 1024 : 0;
}

int fm_host_facts_read(const char *path, struct fm_host_facts *ret, struct fm_error *err)
{
	struct utsname u;
	struct sysinfo si;
	struct statvfs fs;
	if (uname(&u) < 0 || sysinfo(&si) < 0)
		return fm_error_errno(err, errno, "cannot read this host's facts");
	if (statvfs(path, &fs) < 0)
		return fm_error_errno(err, errno, "cannot read the free space of %s", path);
	*ret = (struct fm_host_facts){
		.cpus = (uint32_t)sysconf(_SC_NPROCESSORS_ONLN),
		.memory_total_bytes = (uint64_t)si.totalram * si.mem_unit,
		.memory_available_bytes = memory_available_bytes(),
		.disk_available_bytes = (uint64_t)fs.f_bavail * fs.f_frsize,
	};
	(void)snprintf(ret->kernel, sizeof(ret->kernel), "%s", u.release);
	return 0;
}
