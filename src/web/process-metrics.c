/* SPDX-License-Identifier: MIT */
/* process-metrics.c - this process as /proc tells of it, under the names of Prometheus' own client libraries; see metrics.h. */
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/str.h"
#include "web/metrics.h"

#define PROC_FILE_MAX_BYTES (64u << 10)

/* proc(5), /proc/PID/stat: what follows the name in parentheses begins with field 3. */
struct stat_fields {
	unsigned long long utime, stime, threads, start, vsize; /* 14, 15, 20, 22, 23 */
	long long rss;                                          /* 24, pages */
};

static int read_stat(struct stat_fields *ret)
{
	_fm_free_ char *text = NULL;
	if (fm_read_file("/proc/self/stat", PROC_FILE_MAX_BYTES, &text, NULL, NULL) < 0)
		return -1;
	const char *p = strrchr(text, ')');
	int n = p ? sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d %*d %llu %*d %llu %llu %lld",
	                   &ret->utime, &ret->stime, &ret->threads, &ret->start, &ret->vsize, &ret->rss)
	          : 0;
	return n == 6 ? 0 : -1;
}

/* When the machine was started, Unix time in seconds; 0: not known. */
static double boot_time(void)
{
	_fm_free_ char *text = NULL;
	unsigned long long seconds = 0;
	if (fm_read_file("/proc/stat", 16u << 20, &text, NULL, NULL) < 0)
		return 0;
	const char *p = strstr(text, "\nbtime ");
	return p && sscanf(p, "\nbtime %llu", &seconds) == 1 ? (double)seconds : 0;
}

/* The folder that is read is one of them: it is left out. 0: not known. */
static uint64_t open_fds(void)
{
	uint64_t n = 0;
	_fm_closedir_ DIR *d = opendir("/proc/self/fd");
	for (struct dirent *e; d && (e = readdir(d));)
		n += e->d_name[0] != '.';
	return n > 0 ? n - 1 : 0;
}

void fm_web_write_process(struct fm_exposition *x, const char *version, const char *role)
{
	struct stat_fields s = { 0 };
	struct rlimit limit;
	double ticks = (double)sysconf(_SC_CLK_TCK), boot = boot_time();
	fm_exposition_begin(x, FM_METRIC_BUILD_INFO);
	fm_exposition_add_u64(x, 1, (const char *const[]){ version, role });
	if (read_stat(&s) == 0 && ticks > 0) {
		fm_exposition_one(x, FM_METRIC_PROCESS_CPU, (double)(s.utime + s.stime) / ticks);
		if (boot > 0)
			fm_exposition_one(x, FM_METRIC_PROCESS_START, boot + (double)s.start / ticks);
		fm_exposition_one_u64(x, FM_METRIC_PROCESS_RESIDENT, (uint64_t)s.rss * (uint64_t)sysconf(_SC_PAGESIZE));
		fm_exposition_one_u64(x, FM_METRIC_PROCESS_VIRTUAL, s.vsize);
		fm_exposition_one_u64(x, FM_METRIC_PROCESS_THREADS, s.threads);
	}
	uint64_t fds = open_fds();
	if (fds > 0)
		fm_exposition_one_u64(x, FM_METRIC_PROCESS_OPEN_FDS, fds);
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
		fm_exposition_one_u64(x, FM_METRIC_PROCESS_MAX_FDS, limit.rlim_cur);
}
