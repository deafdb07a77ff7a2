/* SPDX-License-Identifier: MIT */
/* cgroups.c - see cgroups.h. */
#include "basic/cgroups.h"

#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/str.h"

/* Fields of a mountinfo line: 4 root, 5 mount point, after " - " type, source, options. */
struct cgroup_mount {
	const char *root, *point, *type, *options;
};

static bool split_mount_line(char *line, struct cgroup_mount *ret)
{
	char *save = NULL, *tail = strstr(line, " - ");
	char *type, *options;

	if (!tail)
		return false;
	*tail = '\0';
	type = strtok_r(tail + 3, " ", &save);
	if (!type || !strtok_r(NULL, " ", &save) || !(options = strtok_r(NULL, " ", &save)))
		return false;
	*ret = (struct cgroup_mount){ .root = "", .point = "", .type = type, .options = options };
	char *field = strtok_r(line, " ", &save);
	for (int i = 1; field; i++, field = strtok_r(NULL, " ", &save)) {
		if (i == 4)
			ret->root = field;
		if (i == 5)
			ret->point = field;
	}
	return *ret->root && *ret->point;
}

bool fm_cgroup_has_controller(const char *list, const char *word)
{
	size_t n = strlen(word);

	for (const char *p = list; (p = strstr(p, word)) != NULL; p += n)
		if ((p == list || p[-1] == ',') && (p[n] == ',' || p[n] == '\0'))
			return true;
	return false;
}

/* Is this mount the hierarchy of a line "controllers" of /proc/PID/cgroup ("" is cgroup v2)? */
static bool is_hierarchy(const struct cgroup_mount *m, const char *controllers)
{
	if (*controllers == '\0')
		return fm_streq(m->type, "cgroup2");
	if (!fm_streq(m->type, "cgroup"))
		return false;
	char first[128];
	size_t n = strcspn(controllers, ",");
	if (n >= sizeof(first))
		return false;
	memcpy(first, controllers, n);
	first[n] = '\0';
	return fm_cgroup_has_controller(m->options, first);
}

/* How much of the cgroup's path is the mount's root; -1: it is not below. */
static ssize_t root_length(const char *path, const char *root)
{
	size_t n = fm_streq(root, "/") ? 0 : strlen(root);

	return strncmp(path, root, n) == 0 && (n == 0 || path[n] == '/' || path[n] == '\0') ? (ssize_t)n : -1;
}

char *fm_cgroup_folder(const char *controllers, const char *path, const char *mountinfo)
{
	_fm_free_ char *copy = fm_xstrdup(mountinfo);
	char *save = NULL;

	for (char *line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		struct cgroup_mount m;
		ssize_t above;

		if (!split_mount_line(line, &m) || !is_hierarchy(&m, controllers) || (above = root_length(path, m.root)) < 0)
			continue;
		_fm_free_ char *folder = fm_xasprintf("%s%s", m.point, path + above);
		_fm_free_ char *procs = fm_xasprintf("%s/cgroup.procs", folder);
		if (fm_path_exists(procs))
			return FM_TAKE_PTR(folder);
	}
	return NULL;
}
