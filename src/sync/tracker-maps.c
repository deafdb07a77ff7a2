/* SPDX-License-Identifier: MIT */
/* tracker-maps.c - /proc/PID/maps, and what kind each mapping is of. */
#include <ctype.h>
#include <string.h>

#include "basic/io.h"
#include "basic/str.h"
#include "sync/tracker-internal.h"

#define MAPS_BYTES_MAX (64u << 20)

void fm_mappings_done(struct fm_mappings *m)
{
	free(m->v);
	*m = (struct fm_mappings){ 0 };
}

static bool is_anonymous_name(const char *name)
{
	return *name == '\0' || strcmp(name, "[heap]") == 0 || fm_str_startswith(name, "[stack") || fm_str_startswith(name, "[anon:");
}

/* Shared memory that is nobody's file: it has to be saved even where it may only be read now. */
static bool is_shared_memory_name(const char *name)
{
	return fm_str_startswith(name, "/dev/zero") || fm_str_startswith(name, "/memfd:") || fm_str_startswith(name, "/SYSV") ||
	       fm_str_startswith(name, "[anon_shmem:");
}

static unsigned kind_of(const char *perms, uint64_t inode, const char *name)
{
	if (fm_str_startswith(name, "/anon_hugepage"))
		return FM_TRACK_HUGETLB;
	if (perms[3] == 's')
		return is_shared_memory_name(name) || perms[1] == 'w' ? FM_TRACK_SHARED : 0;
	if (inode != 0)
		return FM_TRACK_PRIVATE_FILE;
	return is_anonymous_name(name) ? FM_TRACK_ANONYMOUS : 0;
}

/* "start-end perms offset major:minor inode   name"; kind 0 when it is never reported */
static bool parse_mapping(char *line, struct fm_mapping *ret)
{
	char *p = line;
	uint64_t start = strtoull(p, &p, 16);
	if (*p != '-')
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
	unsigned kind = kind_of(perms, inode, p);
	*ret = (struct fm_mapping){ .start = start,
		                    .end = end,
		                    .offset = offset,
		                    .kind = kind,
		                    .shared = perms[3] == 's',
		                    .private_file = perms[3] != 's' && inode != 0 };
	return true;
}

static int add_mapping(struct fm_mappings *m, const struct fm_mapping *one, struct fm_error *err)
{
	if (m->n == m->cap) {
		size_t cap = m->cap ? 2 * m->cap : 256;
		struct fm_mapping *more = reallocarray(m->v, cap, sizeof(*more));
		if (!more)
			return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for a list of mappings");
		m->v = more;
		m->cap = cap;
	}
	m->v[m->n++] = *one;
	return 0;
}

static int read_proc(pid_t pid, const char *name, char **ret, struct fm_error *err)
{
	char path[48];

	(void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	return fm_read_file(path, MAPS_BYTES_MAX, ret, NULL, err);
}

static bool status_is_zero(const char *status, const char *key)
{
	const char *line = strstr(status, key);

	return !line || strtoull(line + strlen(key), NULL, 10) == 0;
}

/* Only smaps tells locked mappings and those of huge pages. It is slow (the kernel walks all pages), so it is read only when there are any. */
static int find_special(pid_t pid, struct fm_mappings *m, struct fm_error *err)
{
	_fm_free_ char *status = NULL, *smaps = NULL;
	char *save = NULL;
	struct fm_mapping at = { 0 };
	size_t i = 0;

	if (read_proc(pid, "status", &status, err) < 0)
		return -1;
	if (status_is_zero(status, "\nVmLck:") && status_is_zero(status, "\nHugetlbPages:"))
		return 0;
	if (read_proc(pid, "smaps", &smaps, err) < 0)
		return -1;
	for (char *line = strtok_r(smaps, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (isdigit((unsigned char)*line) || (*line >= 'a' && *line <= 'f')) {
			(void)parse_mapping(line, &at);
			continue;
		}
		if (!fm_str_startswith(line, "VmFlags:"))
			continue;
		bool huge = strstr(line, " ht") != NULL, locked = strstr(line, " lo") != NULL;
		while (i < m->n && m->v[i].start < at.start)
			i++;
		for (size_t k = i; (huge || locked) && k < m->n && m->v[k].start < at.end; k++)
			m->v[k].kind = m->v[k].kind == 0 ? 0 : huge ? FM_TRACK_HUGETLB : FM_TRACK_LOCKED;
	}
	return 0;
}

static void keep_wanted(struct fm_mappings *m, unsigned kinds)
{
	size_t kept = 0, neighbour = 0; /* neighbour: the first without something unwanted in between */
	uint64_t fence = 0;

	for (size_t i = 0; i < m->n; i++) {
		struct fm_mapping one = m->v[i];
		if (one.kind & kinds) {
			one.room_start = fence ? fence : one.start;
			m->v[kept++] = one;
		} else {
			for (; neighbour < kept; neighbour++)
				m->v[neighbour].room_end = one.start;
			fence = one.end;
		}
	}
	for (size_t i = neighbour; i < kept; i++)
		m->v[i].room_end = m->v[kept - 1].end;
	m->n = kept;
}

int fm_mappings_read(pid_t pid, unsigned kinds, struct fm_mappings *ret, struct fm_error *err)
{
	_fm_cleanup_(fm_mappings_done) struct fm_mappings all = { 0 };
	_fm_free_ char *maps = NULL;
	char *save = NULL;

	if (read_proc(pid, "maps", &maps, err) < 0)
		return -1;
	for (char *line = strtok_r(maps, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		struct fm_mapping one;
		if (!parse_mapping(line, &one))
			return fm_error_set(err, FM_E_INTERNAL, "the kernel shows a mapping of process %d that cannot be read: %.80s",
			                    (int)pid, line);
		if (add_mapping(&all, &one, err) < 0)
			return -1;
	}
	if (all.n > 0 && find_special(pid, &all, err) < 0)
		return -1;
	keep_wanted(&all, kinds);
	*ret = all;
	all = (struct fm_mappings){ 0 };
	return 0;
}
