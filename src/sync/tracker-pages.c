/* SPDX-License-Identifier: MIT */
/* tracker-pages.c - lists of runs; which pages a task's page tables, or a shared object, have. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/vfs.h>

#include "sync/tracker-internal.h"

#define ENTRIES_MAX (FM_TRACKER_REGIONS * sizeof(struct fm_page_region) / sizeof(uint64_t))

/* ---------------------------------------------------------------- runs */

void fm_run_list_done(struct fm_run_list *l)
{
	free(l->v);
	*l = (struct fm_run_list){ 0 };
}

static struct fm_page_run *new_run(struct fm_run_list *l, struct fm_error *err)
{
	if (l->n == l->cap) {
		size_t cap = l->cap ? 2 * l->cap : 1024;
		struct fm_page_run *more = reallocarray(l->v, cap, sizeof(*more));
		if (!more) {
			(void)fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for a list of pages");
			return NULL;
		}
		l->v = more;
		l->cap = cap;
	}
	return &l->v[l->n++];
}

int fm_run_list_add(struct fm_run_list *l, uint32_t task, uint64_t start, uint64_t end, struct fm_error *err)
{
	struct fm_page_run *last = l->n ? &l->v[l->n - 1] : NULL;

	if (last && last->task != task)
		last = NULL;
	uint64_t last_end = last ? last->vaddr + (uint64_t)last->n_pages * FM_TRACKER_PAGE : 0;
	if (last && start < last_end)
		start = last_end;
	while (start < end) {
		uint64_t n = (end - start) / FM_TRACKER_PAGE, room = UINT32_MAX;
		if (last && start == last_end && last->n_pages < UINT32_MAX)
			room = UINT32_MAX - last->n_pages;
		else if ((last = new_run(l, err)))
			*last = (struct fm_page_run){ .task = task, .vaddr = start };
		else
			return -1;
		n = n < room ? n : room;
		last->n_pages += (uint32_t)n;
		l->n_pages += n;
		start += n * FM_TRACKER_PAGE;
		last_end = start;
	}
	return 0;
}

struct fm_run_mark fm_run_list_mark(const struct fm_run_list *l)
{
	struct fm_run_mark mark = { .n = l->n, .n_pages = l->n_pages };

	if (l->n)
		mark.last = l->v[l->n - 1];
	return mark;
}

void fm_run_list_back_to(struct fm_run_list *l, const struct fm_run_mark *mark)
{
	l->n = mark->n;
	l->n_pages = mark->n_pages;
	if (l->n)
		l->v[l->n - 1] = mark->last;
}

/* ---------------------------------------------------------------- walks */

struct fm_walk fm_walk_content(const struct fm_tracker *t, bool private_file)
{
	/* Only where it tells something: the file bit makes the kernel look at every page's descriptor. */
	uint64_t without = t->never | (private_file ? FM_PAGE_IS_FILE : 0);

	return (struct fm_walk){ .inverted = without, .mask = without, .anyof = FM_PAGE_HAS_CONTENT };
}

uint64_t fm_entry_categories(uint64_t entry)
{
	return (entry >> 63 & 1 ? FM_PAGE_IS_PRESENT : 0) | (entry >> 62 & 1 ? FM_PAGE_IS_SWAPPED : 0) |
	       (entry >> 61 & 1 ? FM_PAGE_IS_FILE : 0) | (entry >> 58 & 1 ? FM_PAGE_IS_GUARD : 0) |
	       (entry >> 55 & 1 ? FM_PAGE_IS_SOFT_DIRTY : 0);
}

static bool matches(const struct fm_walk *w, uint64_t categories)
{
	uint64_t c = categories ^ w->inverted;

	return (c & w->mask) == w->mask && (w->anyof == 0 || (c & w->anyof) != 0);
}

static int tell_entries(const uint64_t *entries, size_t n, uint64_t at, const struct fm_walk *w, fm_walk_fn fn, void *userdata,
                        struct fm_error *err)
{
	for (size_t i = 0, end; i < n; i = end) {
		uint64_t c = fm_entry_categories(entries[i]);
		bool wanted = matches(w, c);
		for (end = i + 1; end < n; end++) {
			uint64_t next = fm_entry_categories(entries[end]);
			if (matches(w, next) != wanted || (wanted && (next & w->returned) != (c & w->returned)))
				break;
		}
		if (wanted && fn(userdata, at + i * FM_TRACKER_PAGE, at + end * FM_TRACKER_PAGE, c & w->returned, err) < 0)
			return -1;
	}
	return 0;
}

int fm_read_entries(struct fm_tracker *t, const struct fm_tracked *task, uint64_t start, uint64_t end, const uint64_t **ret, size_t *ret_n,
                    struct fm_error *err)
{
	uint64_t *entries = (uint64_t *)(void *)t->regions, left = (end - start) / FM_TRACKER_PAGE;
	size_t bytes = (left < ENTRIES_MAX ? left : ENTRIES_MAX) * sizeof(*entries);
	ssize_t got;

	do
		got = pread(task->pagemap_fd, entries, bytes, (off_t)(start / FM_TRACKER_PAGE * sizeof(*entries)));
	while (got < 0 && errno == EINTR);
	if (got < 0 && errno != ESRCH)
		return fm_error_errno(err, errno, "cannot read the page tables of process %d", (int)task->host_pid);
	*ret = entries;
	*ret_n = got < 0 ? 0 : (size_t)got / sizeof(*entries);
	return 0;
}

static int walk_by_reading(struct fm_tracker *t, const struct fm_tracked *task, uint64_t start, uint64_t end, const struct fm_walk *w,
                           fm_walk_fn fn, void *userdata, struct fm_error *err)
{
	const uint64_t *entries;

	for (size_t n; start < end; start += n * FM_TRACKER_PAGE) {
		if (fm_read_entries(t, task, start, end, &entries, &n, err) < 0)
			return -1;
		if (n == 0)
			break;
		if (tell_entries(entries, n, start, w, fn, userdata, err) < 0)
			return -1;
	}
	return 0;
}

int fm_walk_pages(struct fm_tracker *t, const struct fm_tracked *task, uint64_t start, uint64_t end, const struct fm_walk *w, fm_walk_fn fn,
                  void *userdata, struct fm_error *err)
{
	if (!t->has_pagemap_scan)
		return walk_by_reading(t, task, start, end, w, fn, userdata, err);
	while (start < end) {
		struct fm_pm_scan_arg a = {
			.size = sizeof(a),
			.flags = w->flags,
			.start = start,
			.end = end,
			.vec = (uintptr_t)t->regions,
			.vec_len = FM_TRACKER_REGIONS,
			.category_inverted = w->inverted,
			.category_mask = w->mask,
			.category_anyof_mask = w->anyof,
			.return_mask = w->returned,
		};
		int n = ioctl(task->pagemap_fd, FM_PAGEMAP_SCAN, &a);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EPERM && (w->flags & FM_PM_SCAN_CHECK_WPASYNC))
			return 1;
		if (n < 0 && errno == ESRCH) /* its address space is gone */
			return 0;
		if (n < 0)
			return fm_error_errno(err, errno, "cannot scan the page tables of process %d", (int)task->host_pid);
		for (int i = 0; i < n; i++)
			if (fn(userdata, t->regions[i].start, t->regions[i].end, t->regions[i].categories, err) < 0)
				return -1;
		/*
		 * walk_end is right only when the vector is full. Otherwise the walk got to the end, and walk_end may be where the kernel's own buffer (512 regions) was full last (seen
		 * with Linux 6.18): to go on from there would reset marks behind what is in the list already.
		 */
		if (n < (int)FM_TRACKER_REGIONS)
			break;
		start = a.walk_end > t->regions[n - 1].end ? a.walk_end : t->regions[n - 1].end;
	}
	return 0;
}

void fm_tracker_find_abilities(struct fm_tracker *t)
{
	_fm_close_ int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct fm_pm_scan_arg a = { .size = sizeof(a), .return_mask = FM_PAGE_IS_PRESENT };

	t->has_pagemap_scan = fd >= 0 && ioctl(fd, FM_PAGEMAP_SCAN, &a) == 0;
	t->never = t->has_pagemap_scan ? FM_PAGE_IS_PFNZERO : 0;
	a.return_mask = FM_PAGE_IS_GUARD;
	if (t->has_pagemap_scan && ioctl(fd, FM_PAGEMAP_SCAN, &a) == 0)
		t->never |= FM_PAGE_IS_GUARD;
}

/* ---------------------------------------------------------------- content */

struct two_lists {
	uint32_t task;
	struct fm_run_list *a, *b;
};

static int add_to_both(void *userdata, uint64_t start, uint64_t end, uint64_t categories, struct fm_error *err)
{
	const struct two_lists *l = userdata;

	if (l->a && fm_run_list_add(l->a, l->task, start, end, err) < 0)
		return -1;
	return l->b ? fm_run_list_add(l->b, l->task, start, end, err) : 0;
}

int fm_add_content(struct fm_tracker *t, const struct fm_tracked *task, const struct fm_mapping *m, struct fm_run_list *a,
                   struct fm_run_list *b, struct fm_error *err)
{
	struct two_lists lists = { .task = task->index, .a = a, .b = b };
	struct fm_walk w = fm_walk_content(t, m->private_file);

	return fm_walk_pages(t, task, m->start, m->end, &w, add_to_both, &lists, err);
}

/* The object of a shared mapping when its file system knows what it holds, else -1. */
static int open_object(const struct fm_tracked *task, const struct fm_mapping *m)
{
	struct statfs fs;
	char path[96];

	(void)snprintf(path, sizeof(path), "/proc/%d/map_files/%llx-%llx", (int)task->host_pid, (unsigned long long)m->start,
	               (unsigned long long)m->end);
	/* stat first: a device must not be opened */
	if (statfs(path, &fs) < 0 || fs.f_type != TMPFS_MAGIC)
		return -1;
	return open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
}

static uint64_t round_up(uint64_t n)
{
	return (n + FM_TRACKER_PAGE - 1) / FM_TRACKER_PAGE * FM_TRACKER_PAGE;
}

int fm_add_shared(struct fm_tracker *t, const struct fm_tracked *task, const struct fm_mapping *m, struct fm_scan *s, struct fm_error *err)
{
	struct two_lists lists = { .task = task->index, .a = &s->dirty, .b = s->present };
	_fm_close_ int fd = open_object(task, m);
	uint64_t at = m->offset, last = m->offset + (m->end - m->start);

	if (fd < 0)
		return fm_add_content(t, task, m, &s->dirty, s->present, err);
	while (at < last) {
		off_t data = lseek(fd, (off_t)at, SEEK_DATA);
		if (data < 0 && errno != ENXIO)
			return fm_error_errno(err, errno, "cannot tell what the shared memory at %#llx of process %d holds",
			                      (unsigned long long)m->start, (int)task->host_pid);
		if (data < 0 || (uint64_t)data >= last)
			break;
		off_t hole = lseek(fd, data, SEEK_HOLE);
		uint64_t end = hole < 0 ? last : round_up((uint64_t)hole);
		end = end < last ? end : last;
		if (add_to_both(&lists, m->start + ((uint64_t)data - m->offset), m->start + (end - m->offset), 0, err) < 0)
			return -1;
		at = end;
	}
	return 0;
}
