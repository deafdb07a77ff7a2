/* SPDX-License-Identifier: MIT */
/* procmaps.c - see procmaps.h. */
#include "basic/procmaps.h"

#include <stdlib.h>
#include <string.h>

#include "basic/str.h"

#define FLAGS "VmFlags: "

/* Without sscanf: a process may have 65,000 of these lines, and they are read in a freeze. */
bool fm_map_parse(const char *line, struct fm_map *ret)
{
	char *p;
	uint64_t start = strtoull(line, &p, 16);

	if (p == line || *p != '-')
		return false;
	uint64_t end = strtoull(p + 1, &p, 16);
	const char *perms = *p == ' ' ? p + 1 : "";
	if (end <= start || strnlen(perms, 5) < 5 || perms[4] != ' ')
		return false;
	uint64_t offset = strtoull(perms + 5, &p, 16);
	p = *p == ' ' ? strchr(p + 1, ' ') : NULL;
	if (!p)
		return false;
	uint64_t inode = strtoull(p, &p, 10);
	while (*p == ' ')
		p++;
	*ret = (struct fm_map){ .start = start,
		                .end = end,
		                .offset = offset,
		                .inode = inode,
		                .writable = perms[1] == 'w',
		                .shared = perms[3] == 's',
		                .name = p };
	return true;
}

bool fm_map_is_private_anonymous(const struct fm_map *m)
{
	return !m->shared && m->inode == 0 &&
	       (*m->name == '\0' || fm_streq(m->name, "[heap]") || fm_str_startswith(m->name, "[stack") ||
	        fm_str_startswith(m->name, "[anon:"));
}

char *fm_cut_line(char *p)
{
	char *end = strchr(p, '\n');

	if (!end)
		return NULL;
	*end = '\0';
	return end[1] ? end + 1 : NULL;
}

static bool is_header(const char *line)
{
	return (*line >= '0' && *line <= '9') || (*line >= 'a' && *line <= 'f');
}

int fm_smaps_each(char *text, fm_smaps_fn fn, void *userdata)
{
	const char *header = NULL;

	for (char *line = *text ? text : NULL, *next; line; line = next) {
		next = fm_cut_line(line);
		if (is_header(line))
			header = line;
		else if (header && fm_str_startswith(line, FLAGS)) {
			int rc = fn(userdata, header, line + strlen(FLAGS));
			if (rc < 0)
				return rc;
			header = NULL;
		}
	}
	return 0;
}

bool fm_smaps_has_flag(const char *flags, const char *flag)
{
	for (const char *p = flags; p[0] && p[1]; p += p[2] == ' ' ? 3 : 2)
		if (p[0] == flag[0] && p[1] == flag[1])
			return true;
	return false;
}
