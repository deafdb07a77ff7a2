/* SPDX-License-Identifier: MIT */
/*
 * tracker-soft.c - soft-dirty bits: bit 55 of /proc/PID/pagemap, reset by writing 4 to /proc/PID/clear_refs.
 *
 * Nothing reads and resets the bits in one step: a write in between would be lost. So the threads are held (ptrace) from the first read to the last reset, a few milliseconds for each
 * gigabyte. All are read before any is reset, because processes may share an address space (vfork).
 *
 * The bit tells of writes. Content also changes without one: a page is given up (MADV_DONTNEED) and read, and the page of zeros is there without a mark; an mremap of whole page tables brings
 * others without marks (both seen with, or read in, Linux 6.1). So which page frame there is belongs to what is remembered of a page, and another one counts as a change. (A page that the kernel only moved in
 * memory counts, too; its content is compared before it is sent.)
 */
#include <errno.h>
#include <fcntl.h>

#include "sync/page-names.h"
#include "sync/tracker-internal.h"

#define FRAME_BITS 55
#define PAGES_MAX  (1u << 30) /* of a process: 4 TiB */

/* Where the page was in the last running scan: frame or place in swap. Pages that had no content then are not in it: what comes there is unknown. */
struct soft {
	struct fm_names frames;
};

struct look {
	struct fm_tracked *task;
	struct fm_scan *scan;
	struct fm_names *now; /* NULL: frozen, nothing is remembered */
	uint64_t content;     /* categories of which one is wanted */
	uint64_t without;     /* and none of these */
};

/* 0: the kernel does not tell. Exact for frames of up to 8 TiB of memory. */
static uint32_t frame_of(uint64_t entry)
{
	uint64_t frame = entry & ((UINT64_C(1) << FRAME_BITS) - 1);

	return frame ? (uint32_t)(frame ^ frame >> 31) << 1 | (uint32_t)(entry >> 63) : 0;
}

static bool is_clean(const struct look *l, uint64_t page, uint64_t categories, uint32_t frame)
{
	const struct soft *old = l->task->state;

	if (l->task->fresh || !old || frame == 0 || (categories & FM_PAGE_IS_SOFT_DIRTY))
		return false;
	if (l->scan->frozen && !(categories & FM_PAGE_IS_PRESENT))
		return false;
	return fm_names_get(&old->frames, 1, page) == frame;
}

static int look_at(struct look *l, uint64_t vaddr, uint64_t entry, struct fm_error *err)
{
	uint64_t categories = fm_entry_categories(entry), page = vaddr / FM_TRACKER_PAGE;
	uint32_t frame = frame_of(entry);
	struct fm_names_ref ref;

	if (!(categories & l->content) || (categories & l->without))
		return 0;
	if (!is_clean(l, page, categories, frame) &&
	    fm_run_list_add(&l->scan->dirty, l->task->index, vaddr, vaddr + FM_TRACKER_PAGE, err) < 0)
		return -1;
	if (l->scan->present && fm_run_list_add(l->scan->present, l->task->index, vaddr, vaddr + FM_TRACKER_PAGE, err) < 0)
		return -1;
	if (!l->now || frame == 0)
		return 0;
	if (fm_names_reserve(l->now, 1, page, &ref, err) < 0)
		return -1;
	fm_names_set(l->now, ref, frame);
	return 0;
}

static int look_at_range(struct fm_tracker *t, struct look *l, uint64_t at, uint64_t end, struct fm_error *err)
{
	const uint64_t *entries;

	for (size_t n; at < end;) {
		if (fm_read_entries(t, l->task, at, end, &entries, &n, err) < 0)
			return -1;
		if (n == 0)
			return 0;
		for (size_t i = 0; i < n; i++, at += FM_TRACKER_PAGE)
			if (entries[i] && look_at(l, at, entries[i], err) < 0)
				return -1;
	}
	return 0;
}

/* Some programs reserve terabytes and use little of it: where the kernel can tell which pages there are, only their entries are read. */
static int look_at_mapping(struct fm_tracker *t, struct look *l, const struct fm_mapping *m, struct fm_error *err)
{
	_fm_cleanup_(fm_run_list_done) struct fm_run_list content = { 0 };

	l->without = FM_PAGE_IS_GUARD | (m->private_file ? FM_PAGE_IS_FILE : 0);
	if (!t->has_pagemap_scan)
		return look_at_range(t, l, m->start, m->end, err);
	if (fm_add_content(t, l->task, m, &content, NULL, err) < 0)
		return -1;
	for (size_t i = 0; i < content.n; i++) {
		uint64_t start = content.v[i].vaddr;
		if (look_at_range(t, l, start, start + (uint64_t)content.v[i].n_pages * FM_TRACKER_PAGE, err) < 0)
			return -1;
	}
	return 0;
}

static void forget(struct fm_tracked *task)
{
	struct soft *s = task->state;

	if (s)
		fm_names_done(&s->frames);
	free(s);
	task->state = NULL;
}

static int scan(struct fm_tracker *t, struct fm_tracked *task, struct fm_mappings *m, struct fm_scan *s, struct fm_error *err)
{
	struct soft *now = s->frozen ? NULL : calloc(1, sizeof(*now));
	struct look l = { .task = task, .scan = s, .now = now ? &now->frames : NULL, .content = FM_PAGE_HAS_CONTENT };
	int rc = 0;

	if (!s->frozen && !now)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for tracking process %d", (int)task->host_pid);
	if (now)
		fm_names_init(&now->frames, PAGES_MAX);
	for (size_t i = 0; i < m->n && rc == 0; i++) {
		if (s->frozen && m->v[i].shared)
			rc = fm_add_shared(t, task, &m->v[i], s, err);
		else
			rc = look_at_mapping(t, &l, &m->v[i], err);
	}
	if (!now)
		return rc;
	forget(task);
	task->state = now; /* after a failure the caller has it forgotten */
	return rc;
}

static int reset(struct fm_tracker *t, struct fm_error *err)
{
	for (size_t i = 0; i < t->n_tasks; i++) {
		char path[48];
		(void)snprintf(path, sizeof(path), "/proc/%d/clear_refs", (int)t->tasks[i].host_pid);
		_fm_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
		bool done = fd >= 0 && write(fd, "4", 1) == 1;
		int saved = errno;
		if (!done && !fm_tracked_has_ended(&t->tasks[i]) && saved != ESRCH)
			return fm_error_errno(err, saved, "cannot reset the soft-dirty bits of process %d", (int)t->tasks[i].host_pid);
		t->tasks[i].fresh = false;
	}
	return 0;
}

const struct fm_tracker_ops fm_tracker_soft_dirty = {
	.backend = FM_TRACKER_SOFT_DIRTY,
	.scan = scan,
	.forget = forget,
	.reset = reset,
};
