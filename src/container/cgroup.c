/* SPDX-License-Identifier: MIT */
/* cgroup.c - see cgroup.h. rmdir on a cgroup succeeds only when it has neither children nor processes, so nothing has to be checked first. */
#include "container/cgroup.h"

#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "basic/cgroups.h"
#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/proc.h"
#include "basic/str.h"

#define CGROUPS_BYTES_MAX   (1u << 20)
#define MOUNTINFO_BYTES_MAX (16u << 20)
#define VALUE_BYTES_MAX     4096u
#define QUOTA_US_MIN        1000u /* the kernel's */

static void end_mounts(FILE **f)
{
	if (*f)
		(void)endmntent(*f);
}

static void prune_below(const char *mount_point, const char *path)
{
	_fm_free_ char *folder = fm_xasprintf("%s%s", mount_point, path);
	size_t root = strlen(mount_point);
	while (strlen(folder) > root + 1 && rmdir(folder) == 0)
		*strrchr(folder, '/') = '\0';
}

void fm_cgroup_prune(const char *path)
{
	FILE *f __attribute__((cleanup(end_mounts))) = setmntent("/proc/self/mounts", "re");
	struct mntent m;
	char buf[8192];
	if (path[0] != '/' || !path[1])
		return;
	while (f && getmntent_r(f, &m, buf, sizeof(buf)))
		if (fm_streq(m.mnt_type, "cgroup") || fm_streq(m.mnt_type, "cgroup2"))
			prune_below(m.mnt_dir, path);
}

/* ---- processor time */

struct fm_cgroup_cpu {
	char *quota;  /* v1: cpu.cfs_quota_us "-1"; v2: cpu.max "max 100000" */
	char *period; /* v1: cpu.cfs_period_us; v2: NULL, it is in the quota's file */
	char *used;   /* v1: cpuacct.usage, nanoseconds; v2: cpu.stat */
};

FM_DEFINE_CLEANUP(struct fm_cgroup_cpu *, fm_cgroup_cpu_free);

void fm_cgroup_cpu_free(struct fm_cgroup_cpu *c)
{
	if (!c)
		return;
	free(c->quota);
	free(c->period);
	free(c->used);
	free(c);
}

/* The file of the process' cgroup in the hierarchy of that controller (NULL: cgroup v2); NULL when there is none, or only the root's. */
static char *file_of(const char *cgroups, const char *mountinfo, const char *controller, const char *name)
{
	_fm_free_ char *copy = fm_xstrdup(cgroups);
	char *save = NULL;

	for (char *line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *controllers = strchr(line, ':');
		char *path = controllers ? strchr(controllers + 1, ':') : NULL;

		if (!path)
			continue;
		*path++ = '\0';
		controllers++;
		if (fm_streq(path, "/") || (controller ? !fm_cgroup_has_controller(controllers, controller) : *controllers != '\0'))
			continue;
		_fm_free_ char *folder = fm_cgroup_folder(controllers, path, mountinfo);
		_fm_free_ char *file = folder ? fm_xasprintf("%s/%s", folder, name) : NULL;
		return file && fm_path_exists(file) ? FM_TAKE_PTR(file) : NULL;
	}
	return NULL;
}

int fm_cgroup_cpu_open(pid_t pid, struct fm_cgroup_cpu **ret, struct fm_error *err)
{
	_fm_free_ char *cgroups = NULL, *mountinfo = NULL;

	if (fm_proc_read(pid, "cgroup", CGROUPS_BYTES_MAX, &cgroups, NULL, err) < 0 ||
	    fm_read_file("/proc/self/mountinfo", MOUNTINFO_BYTES_MAX, &mountinfo, NULL, err) < 0)
		return fm_error_prefix(err, "the cgroup of process %d", (int)pid);
	_fm_cleanup_(fm_cgroup_cpu_freep) struct fm_cgroup_cpu *c = calloc(1, sizeof(*c));
	if (!c)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	c->quota = file_of(cgroups, mountinfo, "cpu", "cpu.cfs_quota_us");
	if (c->quota) {
		c->period = file_of(cgroups, mountinfo, "cpu", "cpu.cfs_period_us");
		c->used = file_of(cgroups, mountinfo, "cpuacct", "cpuacct.usage");
	} else {
		c->quota = file_of(cgroups, mountinfo, NULL, "cpu.max");
		c->used = file_of(cgroups, mountinfo, NULL, "cpu.stat");
	}
	/* Without a period it would pass for cgroup v2. */
	if (!c->quota || !c->used || (!c->period && !fm_str_endswith(c->quota, "cpu.max")))
		return fm_error_set(err, FM_E_FAILED_PRECONDITION,
		                    "process %d is in no cgroup of its own whose processor time can be limited", (int)pid);
	*ret = FM_TAKE_PTR(c);
	return 0;
}

/* A file of one line, without its end. */
static int read_line(const char *path, char *buf, size_t cap, struct fm_error *err)
{
	_fm_free_ char *text = NULL;

	if (fm_read_file(path, VALUE_BYTES_MAX, &text, NULL, err) < 0)
		return -1;
	text[strcspn(text, "\n")] = '\0';
	return fm_snprintf(buf, cap, err, "%s", text);
}

int fm_cgroup_cpu_used_us(const struct fm_cgroup_cpu *c, uint64_t *ret, struct fm_error *err)
{
	static const char key[] = "usage_usec ";
	_fm_free_ char *text = NULL;
	unsigned long long v;

	if (fm_read_file(c->used, VALUE_BYTES_MAX, &text, NULL, err) < 0)
		return -1;
	const char *number = c->period ? text : strstr(text, key);
	if (!number || sscanf(number + (c->period ? 0 : strlen(key)), "%llu", &v) != 1)
		return fm_error_set(err, FM_E_INTERNAL, "%s does not say how much processor time was used", c->used);
	*ret = c->period ? v / 1000 : v;
	return 0;
}

int fm_cgroup_cpu_remember(const struct fm_cgroup_cpu *c, char *ret, size_t cap, struct fm_error *err)
{
	char value[64];

	return read_line(c->quota, value, sizeof(value), err) < 0 ? -1 : fm_snprintf(ret, cap, err, "%s=%s", c->quota, value);
}

/* quota: -1, there is none */
static int read_quota(const struct fm_cgroup_cpu *c, long long *ret_quota, unsigned long long *ret_period, struct fm_error *err)
{
	char quota[64], period[64];
	const char *rest = period;

	if (read_line(c->quota, quota, sizeof(quota), err) < 0 || (c->period && read_line(c->period, period, sizeof(period), err) < 0))
		return -1;
	if (!c->period)
		rest = strchr(quota, ' ');
	*ret_quota = -1;
	if (!rest || sscanf(rest, "%llu", ret_period) != 1 || *ret_period == 0 ||
	    (!fm_str_startswith(quota, "max ") && sscanf(quota, "%lld", ret_quota) != 1))
		return fm_error_set(err, FM_E_INTERNAL, "%s has no quota that is understood here: '%s'", c->quota, quota);
	return 0;
}

int fm_cgroup_cpu_limit(const struct fm_cgroup_cpu *c, uint64_t us_per_s, struct fm_error *err)
{
	unsigned long long period;
	long long now;
	char text[64];

	if (read_quota(c, &now, &period, err) < 0)
		return -1;
	unsigned long long quota = us_per_s * period / 1000000;
	if (quota < QUOTA_US_MIN)
		quota = QUOTA_US_MIN;
	if (now >= 0 && (unsigned long long)now <= quota)
		return 0;
	if (c->period)
		(void)snprintf(text, sizeof(text), "%llu", quota);
	else
		(void)snprintf(text, sizeof(text), "%llu %llu", quota, period);
	return fm_write_file(c->quota, text, err);
}

int fm_cgroup_cpu_restore(const char *remembered, struct fm_error *err)
{
	_fm_free_ char *file = fm_xstrdup(remembered);
	char *value = strrchr(file, '=');

	if (!value)
		return fm_error_set(err, FM_E_INTERNAL, "'%s' is no quota to put back", remembered);
	*value++ = '\0';
	/* It may end between looking and writing. */
	struct fm_error e = FM_ERROR_INIT;
	if (!fm_path_exists(file) || fm_write_file(file, value, &e) == 0 || !fm_path_exists(file))
		return 0;
	if (err)
		*err = e;
	return -1;
}
