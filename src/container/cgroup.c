/* SPDX-License-Identifier: MIT */
/* cgroup.c - see cgroup.h. rmdir on a cgroup succeeds only when it has neither children nor processes, so nothing has to be checked first. */
#include "container/cgroup.h"

#include <mntent.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/str.h"

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
