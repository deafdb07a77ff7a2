/* SPDX-License-Identifier: MIT */
/* tracker-maps.c - /proc/PID/maps, and what kind each mapping is of. */
#include <string.h>

#include "basic/proc.h"
#include "basic/procmaps.h"
#include "basic/str.h"
#include "sync/tracker-internal.h"

void fm_mappings_done(struct fm_mappings *m)
{
	free(m->v);
	*m = (struct fm_mappings){ 0 };
}

/* Shared memory that is nobody's file: it has to be saved even where it may only be read now. */
static bool is_shared_memory_name(const char *name)
{
	return fm_str_startswith(name, "/dev/zero") || fm_str_startswith(name, "/memfd:") || fm_str_startswith(name, "/SYSV") ||
	       fm_str_startswith(name, "[anon_shmem:");
}

/* One FM_TRACK_*, or 0: never reported */
static unsigned kind_of(const struct fm_map *m)
{
	if (fm_str_startswith(m->name, "/anon_hugepage"))
		return FM_TRACK_HUGETLB;
	if (m->shared)
		return is_shared_memory_name(m->name) || m->writable ? FM_TRACK_SHARED : 0;
	if (m->inode != 0)
		return FM_TRACK_PRIVATE_FILE;
	return fm_map_is_private_anonymous(m) ? FM_TRACK_ANONYMOUS : 0;
}

static bool parse_mapping(const char *line, struct fm_mapping *ret)
{
	struct fm_map m;

	if (!fm_map_parse(line, &m))
		return false;
	*ret = (struct fm_mapping){ .start = m.start,
		                    .end = m.end,
		                    .offset = m.offset,
		                    .kind = kind_of(&m),
		                    .shared = m.shared,
		                    .private_file = !m.shared && m.inode != 0 };
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

struct special {
	struct fm_mappings *m;
	size_t i;
};

static int mark_special(void *userdata, const char *header, char *flags)
{
	struct special *s = userdata;
	struct fm_mappings *m = s->m;
	struct fm_map at;
	bool huge = fm_smaps_has_flag(flags, "ht"), locked = fm_smaps_has_flag(flags, "lo");

	if ((!huge && !locked) || !fm_map_parse(header, &at))
		return 0;
	while (s->i < m->n && m->v[s->i].start < at.start)
		s->i++;
	for (size_t k = s->i; k < m->n && m->v[k].start < at.end; k++)
		m->v[k].kind = m->v[k].kind == 0 ? 0 : huge ? FM_TRACK_HUGETLB : FM_TRACK_LOCKED;
	return 0;
}

/* Only smaps tells locked mappings and those of huge pages. It is slow (the kernel walks all pages), so it is read only when there are any. */
static int find_special(pid_t pid, struct fm_mappings *m, struct fm_error *err)
{
	_fm_free_ char *smaps = NULL;
	struct special s = { .m = m };
	uint64_t locked, huge;

	if (fm_proc_status_number(pid, "VmLck:", &locked, err) < 0 || fm_proc_status_number(pid, "HugetlbPages:", &huge, err) < 0)
		return -1;
	if (locked == 0 && huge == 0)
		return 0;
	if (fm_proc_read(pid, "smaps", FM_PROC_SMAPS_MAX, &smaps, NULL, err) < 0)
		return -1;
	return fm_smaps_each(smaps, mark_special, &s);
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

	if (fm_proc_read(pid, "maps", FM_PROC_MAPS_MAX, &maps, NULL, err) < 0)
		return -1;
	for (char *line = *maps ? maps : NULL, *next; line; line = next) {
		struct fm_mapping one;
		next = fm_cut_line(line);
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
