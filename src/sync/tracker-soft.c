/* SPDX-License-Identifier: MIT */
/*
 * tracker-soft.c - soft-dirty bits: bit 55 of /proc/PID/pagemap, reset by writing 4 to /proc/PID/clear_refs.
 *
 * Nothing reads and resets the bits in one step: a write in between would be lost. So the threads are held (ptrace) from the first read to the last reset, a few milliseconds for each
 * gigabyte. All are read before any is reset, because processes may share an address space (vfork).
 */
#include <errno.h>
#include <fcntl.h>

#include "sync/tracker-internal.h"

struct find {
	const struct fm_tracked *task;
	struct fm_scan *scan;
};

static int found(void *userdata, uint64_t start, uint64_t end, uint64_t categories, struct fm_error *err)
{
	const struct find *f = userdata;
	bool clean = !f->task->fresh && !(categories & FM_PAGE_IS_SOFT_DIRTY) && (!f->scan->frozen || (categories & FM_PAGE_IS_PRESENT));

	if (!clean && fm_run_list_add(&f->scan->dirty, f->task->index, start, end, err) < 0)
		return -1;
	return f->scan->present ? fm_run_list_add(f->scan->present, f->task->index, start, end, err) : 0;
}

static int scan(struct fm_tracker *t, struct fm_tracked *task, struct fm_mappings *m, struct fm_scan *s, struct fm_error *err)
{
	struct find f = { .task = task, .scan = s };

	for (size_t i = 0; i < m->n; i++) {
		struct fm_walk w = fm_walk_content(t, m->v[i].private_file);
		w.returned = FM_PAGE_IS_SOFT_DIRTY | FM_PAGE_IS_PRESENT;
		if (s->frozen && m->v[i].shared) {
			if (fm_add_shared(t, task, &m->v[i], s, err) < 0)
				return -1;
		} else if (fm_walk_pages(t, task, m->v[i].start, m->v[i].end, &w, found, &f, err) < 0) {
			return -1;
		}
	}
	return 0;
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

static void forget(struct fm_tracked *task)
{
}

const struct fm_tracker_ops fm_tracker_soft_dirty = {
	.backend = FM_TRACKER_SOFT_DIRTY,
	.scan = scan,
	.forget = forget,
	.reset = reset,
};
