/* SPDX-License-Identifier: MIT */
/* container-sampler.c - see container-sampler.h. */
#include "monitor/container-sampler.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cgroups.h"
#include "basic/id.h"
#include "basic/str.h"
#include "monitor/parse.h"

#define PATH_BYTES 4200
#define PIDS_MAX   64 /* of one container that are asked what they have read and written */

/* ---- where its groups are */

struct where {
	const char *controller; /* of v1 */
	const char *v1[2];      /* the first that is there */
	const char *v2;
};

static const struct where files[_FM_GROUP_FILES] = {
	[FM_GROUP_CPU] = { "cpuacct", { "cpuacct.usage" }, "cpu.stat" },
	[FM_GROUP_MEMORY] = { "memory", { "memory.usage_in_bytes" }, "memory.current" },
	[FM_GROUP_QUOTA] = { "cpu", { "cpu.stat" }, "cpu.stat" },
	[FM_GROUP_DETAILS] = { "memory", { "memory.stat" }, "memory.stat" },
	[FM_GROUP_PIDS] = { "pids", { "pids.current" }, "pids.current" },
	[FM_GROUP_DISK] = { "blkio", { "blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_service_bytes" }, "io.stat" },
	[FM_GROUP_PRESSURE_CPU] = { NULL, { NULL }, "cpu.pressure" },
	[FM_GROUP_PRESSURE_MEMORY] = { NULL, { NULL }, "memory.pressure" },
	[FM_GROUP_PRESSURE_IO] = { NULL, { NULL }, "io.pressure" },
	[FM_GROUP_PROCS] = { "memory", { "cgroup.procs" }, "cgroup.procs" },
};

static int open_in(const char *folder, const char *name)
{
	char path[PATH_BYTES];

	if (!folder || !name || fm_snprintf(path, sizeof(path), NULL, "%s/%s", folder, name) < 0)
		return -1;
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* One line of /proc/PID/cgroup: opens what this hierarchy has and is not open yet. */
static void open_hierarchy(struct fm_container_sampler *c, const char *controllers, const char *path, const char *mountinfo)
{
	bool v2 = *controllers == '\0';
	_fm_free_ char *folder = fm_streq(path, "/") ? NULL : fm_cgroup_folder(controllers, path, mountinfo);

	for (int f = 0; folder && f < _FM_GROUP_FILES; f++) {
		const struct where *w = &files[f];
		if (!v2 && (!w->controller || !fm_cgroup_has_controller(controllers, w->controller)))
			continue;
		for (int i = 0; i < (v2 ? 1 : 2) && c->fd[f] < 0; i++) {
			c->fd[f] = open_in(folder, v2 ? w->v2 : w->v1[i]);
			c->v2[f] = v2;
		}
	}
}

static bool is_own_network(const char *root, pid_t pid)
{
	char path[512];
	struct stat its, ours;

	(void)snprintf(path, sizeof(path), "%s/proc/%d/ns/net", root, (int)pid);
	if (stat(path, &its) < 0)
		return false;
	(void)snprintf(path, sizeof(path), "%s/proc/self/ns/net", root);
	return stat(path, &ours) == 0 && (its.st_ino != ours.st_ino || its.st_dev != ours.st_dev);
}

void fm_container_sampler_open(struct fm_container_sampler *c, const char *root, const char *mountinfo, pid_t pid, struct fm_reader *r)
{
	char path[512];

	*c = (struct fm_container_sampler){ .pid = pid };
	memset(c->fd, 0xff, sizeof(c->fd)); /* -1 each */
	(void)snprintf(path, sizeof(path), "%s/proc/%d/cgroup", root, (int)pid);
	if (pid <= 0 || !fm_reader_read_path(r, path, false))
		return;
	c->groups = fm_hash_str(r->text);
	c->own_network = is_own_network(root, pid);
	char *save = NULL;
	/* v1 first, as the kernel lists them: a controller is of one version only, but cgroup.procs is in both */
	for (char *line = strtok_r(r->text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
		if (!group)
			continue;
		*group++ = '\0';
		open_hierarchy(c, controllers + 1, group, mountinfo);
	}
}

bool fm_container_sampler_is_elsewhere(const struct fm_container_sampler *c, const char *root, struct fm_reader *r)
{
	char path[512];

	(void)snprintf(path, sizeof(path), "%s/proc/%d/cgroup", root, (int)c->pid);
	return fm_reader_read_path(r, path, false) && fm_hash_str(r->text) != c->groups;
}

void fm_container_sampler_close(struct fm_container_sampler *c)
{
	for (int f = 0; f < _FM_GROUP_FILES; f++) {
		if (c->fd[f] >= 0)
			(void)close(c->fd[f]);
		c->fd[f] = -1;
	}
}

/* ---- samples */

static bool read_number(struct fm_container_sampler *c, enum fm_group_file f, struct fm_reader *r, uint64_t *ret)
{
	return fm_reader_read(r, c->fd[f], true) && fm_parse_number(r->text, ret);
}

bool fm_container_sampler_fast(struct fm_container_sampler *c, struct fm_reader *r, uint64_t now_us, struct fm_container_usage *u)
{
	uint64_t used = 0;
	bool known = c->v2[FM_GROUP_CPU] ? fm_reader_read(r, c->fd[FM_GROUP_CPU], true) && fm_parse_keyed(r->text, "usage_usec", &used)
	                                 : read_number(c, FM_GROUP_CPU, r, &used);

	u->cpu_cores = fm_counter_rate(&c->cpu, known, used, now_us) / (c->v2[FM_GROUP_CPU] ? 1e6 : 1e9);
	bool memory = read_number(c, FM_GROUP_MEMORY, r, &u->memory_bytes);
	if (!memory)
		u->memory_bytes = FM_USAGE_UNKNOWN;
	return (known || c->fd[FM_GROUP_CPU] < 0) && (memory || c->fd[FM_GROUP_MEMORY] < 0);
}

static void slow_memory(struct fm_container_sampler *c, struct fm_reader *r, uint64_t now_us, struct fm_container_usage *u)
{
	bool v2 = c->v2[FM_GROUP_DETAILS], known = fm_reader_read(r, c->fd[FM_GROUP_DETAILS], false);
	uint64_t inactive, faults = 0, major = 0;

	u->working_set_bytes = FM_USAGE_UNKNOWN;
	if (known && u->memory_bytes != FM_USAGE_UNKNOWN &&
	    fm_parse_keyed(r->text, v2 ? "inactive_file" : "total_inactive_file", &inactive))
		u->working_set_bytes = inactive < u->memory_bytes ? u->memory_bytes - inactive : 0;
	bool has_faults = known && fm_parse_keyed(r->text, v2 ? "pgfault" : "total_pgfault", &faults);
	bool has_major = known && fm_parse_keyed(r->text, v2 ? "pgmajfault" : "total_pgmajfault", &major);
	u->page_faults_per_s = fm_counter_rate(&c->faults, has_faults, faults, now_us);
	u->major_page_faults_per_s = fm_counter_rate(&c->major_faults, has_major, major, now_us);
}

/* What its processes have read and written, as far as they still run. */
static bool disk_of_processes(struct fm_container_sampler *c, const char *root, struct fm_reader *r, uint64_t *ret_read,
                              uint64_t *ret_written)
{
	pid_t pids[PIDS_MAX];
	size_t n = 0;
	bool any = false;

	if (!fm_reader_read(r, c->fd[FM_GROUP_PROCS], false))
		return false;
	for (const char *p = r->text; n < PIDS_MAX && fm_parse_pid_line(&p, &pids[n]);)
		n++;
	for (size_t i = 0; i < n; i++) {
		char path[512];
		uint64_t in, out;
		(void)snprintf(path, sizeof(path), "%s/proc/%d/io", root, (int)pids[i]);
		if (!fm_reader_read_path(r, path, true) || !fm_parse_keyed(r->text, "read_bytes:", &in) ||
		    !fm_parse_keyed(r->text, "write_bytes:", &out))
			continue; /* it has ended meanwhile */
		*ret_read += in;
		*ret_written += out;
		any = true;
	}
	return any;
}

/*
 * v1 groups of newer kernels count only where something is limited; all others say "Total 0" whatever happens. That is unknown, and processes are asked: those that have ended are missing then, so that the
 * count may go back, which is unknown for one turn.
 */
static void slow_disk(struct fm_container_sampler *c, const char *root, struct fm_reader *r, uint64_t now_us, struct fm_container_usage *u)
{
	uint64_t in = 0, out = 0;
	bool v2 = c->v2[FM_GROUP_DISK], known = fm_reader_read(r, c->fd[FM_GROUP_DISK], false) &&
	                                        (v2 ? fm_parse_io_stat(r->text, &in, &out) : fm_parse_blkio(r->text, &in, &out));
	bool by_process = !known || (!v2 && !strstr(r->text, " Read "));

	if (by_process) {
		in = out = 0;
		known = disk_of_processes(c, root, r, &in, &out);
	}
	if (by_process != c->disk_by_process)
		c->read = c->written = (struct fm_counter){ 0 };
	c->disk_by_process = by_process;
	u->disk_read_bytes_per_s = fm_usage_count(fm_counter_rate(&c->read, known, in, now_us));
	u->disk_write_bytes_per_s = fm_usage_count(fm_counter_rate(&c->written, known, out, now_us));
}

static void slow_quota(struct fm_container_sampler *c, struct fm_reader *r, uint64_t now_us, struct fm_container_usage *u)
{
	uint64_t periods = 0, throttled = 0;
	bool known = fm_reader_read(r, c->fd[FM_GROUP_QUOTA], true) && fm_parse_keyed(r->text, "nr_periods", &periods) &&
	             fm_parse_keyed(r->text, "nr_throttled", &throttled);
	double all = fm_counter_rate(&c->periods, known, periods, now_us),
	       stopped = fm_counter_rate(&c->throttled, known, throttled, now_us);

	u->throttled_percent = all > 0 ? (stopped < all ? stopped * 100 / all : 100)
	                               : all; /* no period went by: it was not stopped; not known: not known */
}

static double slow_pressure(struct fm_container_sampler *c, struct fm_reader *r, enum fm_group_file f)
{
	double v;

	return fm_reader_read(r, c->fd[f], true) && fm_parse_pressure(r->text, &v) ? v : NAN;
}

static void slow_network(struct fm_container_sampler *c, const char *root, struct fm_reader *r, bool with_counters, uint64_t now_us,
                         struct fm_container_usage *u)
{
	char path[512];
	uint64_t in = 0, out = 0;
	struct fm_net_line line;

	/* Opened each time: a descriptor that stays open would keep the namespace of a container that has gone. */
	(void)snprintf(path, sizeof(path), "%s/proc/%d/net/snmp", root, (int)c->pid);
	u->connections = FM_USAGE_UNKNOWN;
	if (c->own_network && fm_reader_read_path(r, path, true) && fm_parse_established(r->text, &in))
		u->connections = in;
	if (!with_counters)
		return;
	(void)snprintf(path, sizeof(path), "%s/proc/%d/net/dev", root, (int)c->pid);
	bool known = c->own_network && fm_reader_read_path(r, path, false);
	in = 0;
	for (const char *p = r->text; known && fm_parse_net_line(&p, &line);) {
		if (fm_streq(line.name, "lo"))
			continue;
		in += line.in_bytes;
		out += line.out_bytes;
	}
	fm_container_sampler_net(c, known, out, in, now_us, u);
}

void fm_container_sampler_slow(struct fm_container_sampler *c, const char *root, struct fm_reader *r, bool with_network, uint64_t now_us,
                               struct fm_container_usage *u)
{
	uint64_t threads;

	slow_memory(c, r, now_us, u);
	slow_disk(c, root, r, now_us, u);
	slow_quota(c, r, now_us, u);
	u->threads = read_number(c, FM_GROUP_PIDS, r, &threads) ? threads : FM_USAGE_UNKNOWN;
	u->cpu_pressure_percent = slow_pressure(c, r, FM_GROUP_PRESSURE_CPU);
	u->memory_pressure_percent = slow_pressure(c, r, FM_GROUP_PRESSURE_MEMORY);
	u->io_pressure_percent = slow_pressure(c, r, FM_GROUP_PRESSURE_IO);
	slow_network(c, root, r, with_network, now_us, u);
}

void fm_container_sampler_net(struct fm_container_sampler *c, bool known, uint64_t host_in, uint64_t host_out, uint64_t now_us,
                              struct fm_container_usage *u)
{
	u->network_out_bytes_per_s =
	        fm_usage_count(fm_counter_rate(&c->net_out, known, host_in, now_us)); /* what it sends, the host receives */
	u->network_in_bytes_per_s = fm_usage_count(fm_counter_rate(&c->net_in, known, host_out, now_us));
}
