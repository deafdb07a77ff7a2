/* SPDX-License-Identifier: MIT */
/*
 * tracker-wp.c - asynchronous write-protection: a userfaultfd of the tracked address space, and PAGEMAP_SCAN.
 *
 * A running scan registers the wanted mappings that are not, and then the kernel, page by page and atomically, reports what is written and protects it again. Only pages with content: a
 * protected hole would look like a swapped page to CRIU. A frozen scan only looks: a page is clean when it is present, protected, and in a mapping that is registered.
 *
 * A mapping loses its registration when it is moved, and also when a moved one is merged with it. In the second case its pages keep their marks, while writes are not noted any more (seen with
 * Linux 6.18). So whatever is found unregistered has its marks cleared when it is registered, which makes all of it written; and what was found registered is not registered again to be on
 * the safe side: it may have lost that just now, and would come back with its old marks.
 *
 * The task does not wait while it is looked at and registered, so a range may end within a mapping that was made in between, and cut it in two. mremap(2) refuses what is more than one mapping
 * (with EFAULT, and half-way when it is a move of the same size). So whenever something was registered the mappings are read once more: the other half is found unregistered, is
 * registered, and the two are one again. What remains is a window of microseconds, for a program that unmaps, maps over it and moves within it.
 *
 * A descriptor belongs to an address space, not to a process. PM_SCAN_CHECK_WPASYNC finds out when the two have parted (execve), because nothing in the new space is registered: then all
 * is dirty, and the next running scan makes another call. Processes that share one (vfork) also share the descriptor; the first of them that is scanned in a round resets the marks, the
 * others get a copy of what it found.
 *
 * A mapping that cannot be registered (the application uses userfaultfd itself; a file that may not be written) is always dirty.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/syscall.h>

#include "sync/remote-call.h"
#include "sync/tracker-internal.h"

/* Linux 5.11, 5.19, 6.4, 6.7: newer than some distributions' headers */
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#define FEATURE_WP_HUGETLBFS_SHMEM (1ull << 12)
#define FEATURE_WP_UNPOPULATED     (1ull << 13)
#define FEATURE_WP_ASYNC           (1ull << 15)
/* Not EVENT_FORK, REMAP, REMOVE: they would make the application wait for us. */
#define FEATURES (UFFD_FEATURE_PAGEFAULT_FLAG_WP | FEATURE_WP_HUGETLBFS_SHMEM | FEATURE_WP_UNPOPULATED | FEATURE_WP_ASYNC)

#define USER_END 0x7ffffffff000ull /* where mappings end that did not ask for more than 47 bits */
#define CLEAN    (FM_PAGE_IS_WPALLOWED | FM_PAGE_IS_PRESENT)

#define TAKE_ATTEMPTS 3u
#define LOOKS         4u /* at the mappings, while something of them is to be registered */

/* An address space; one reference for each of its tasks. */
struct space {
	int uffd;
	unsigned refs;
	bool broken;      /* something may be registered with old marks: to be given up */
	bool looked;      /* all of it was looked at once and registered: from then on what is registered is ours */
	uint64_t taken;   /* ranges registered so far */
	uint64_t round;   /* of the last running scan that reset its marks, 0: none yet */
	pid_t scanned_as; /* in that round */
	size_t from, to;  /* and what it found, in the dirty list */
};

/* ---------------------------------------------------------------- the descriptor */

struct injection {
	int pidfd, uffd;
};

static int make_userfaultfd(struct fm_remote *r, void *userdata, struct fm_error *err)
{
	struct injection *in = userdata;
	long flags = O_CLOEXEC | O_NONBLOCK, fd, rc;

	if (fm_remote_call(r, SYS_userfaultfd, (long[]){ flags, 0, 0 }, &fd, err) < 0)
		return -1;
	/* Without privileges the kernel allows it for faults in user space. Writes by the kernel are tracked all the same. */
	if (fd == -EPERM && fm_remote_call(r, SYS_userfaultfd, (long[]){ flags | UFFD_USER_MODE_ONLY, 0, 0 }, &fd, err) < 0)
		return -1;
	if (fd < 0)
		return fm_error_errno(err, (int)-fd, "userfaultfd inside the task");
	in->uffd = (int)syscall(SYS_pidfd_getfd, in->pidfd, (int)fd, 0);
	int saved = errno;
	if (fm_remote_call(r, SYS_close, (long[]){ fd, 0, 0 }, &rc, err) < 0)
		return -1;
	if (in->uffd < 0)
		return fm_error_errno(err, saved, "cannot fetch a descriptor of the task");
	return 0;
}

static int inject(const struct fm_tracked *task, int *ret_uffd, struct fm_error *err)
{
	struct injection in = { .pidfd = task->pidfd, .uffd = -1 };
	struct uffdio_api api = { .api = UFFD_API, .features = FEATURES };

	int rc = fm_remote_run(task->host_pid, make_userfaultfd, &in, err);
	_fm_close_ int uffd = in.uffd;
	if (rc < 0)
		return fm_error_prefix(err, "tracking the memory of process %d", (int)task->host_pid);
	if (ioctl(uffd, UFFDIO_API, &api) < 0)
		return fm_error_set(err, FM_E_UNIMPLEMENTED, "the kernel has no asynchronous write-protection (Linux 6.7): %s",
		                    strerrordesc_np(errno));
	*ret_uffd = FM_TAKE_FD(uffd);
	return 0;
}

static void forget(struct fm_tracked *task)
{
	struct space *sp = task->state;

	task->state = NULL;
	if (!sp || --sp->refs > 0)
		return;
	fm_closep(&sp->uffd);
	free(sp);
}

static int prepare(struct fm_tracker *t, struct fm_tracked *task, struct fm_error *err)
{
	struct fm_error local = FM_ERROR_INIT;

	if (task->state)
		return 0;
	if (!t->has_pagemap_scan)
		return fm_error_set(err, FM_E_UNIMPLEMENTED, "the kernel has no PAGEMAP_SCAN (Linux 6.7)");
	struct space *sp = calloc(1, sizeof(*sp));
	if (!sp)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	task->fresh = true;
	if (inject(task, &sp->uffd, &local) < 0) {
		free(sp);
		/* It waits in the kernel; perhaps it can be stopped the next time. Until then all of it is dirty. */
		if (local.code == FM_E_DEADLINE_EXCEEDED)
			return 0;
		if (err)
			*err = local;
		return -1;
	}
	sp->refs = 1;
	task->state = sp;
	return 0;
}

/* ---------------------------------------------------------------- registering */

/* 0 or an errno */
static int register_range(const struct space *sp, uint64_t start, uint64_t end)
{
	struct uffdio_register r = { .range = { .start = start, .len = end - start }, .mode = UFFDIO_REGISTER_MODE_WP };

	return ioctl(sp->uffd, UFFDIO_REGISTER, &r) < 0 ? errno : 0;
}

static bool unregister_range(const struct space *sp, uint64_t start, uint64_t end)
{
	struct uffdio_range r = { .start = start, .len = end - start };

	return ioctl(sp->uffd, UFFDIO_UNREGISTER, &r) == 0;
}

/* All pages count as written afterwards. */
static bool clear_marks(const struct space *sp, uint64_t start, uint64_t end)
{
	struct uffdio_writeprotect w = { .range = { .start = start, .len = end - start }, .mode = UFFDIO_WRITEPROTECT_MODE_DONTWAKE };

	return ioctl(sp->uffd, UFFDIO_WRITEPROTECT, &w) == 0;
}

/* Is all that is mapped there registered? Pages are not looked at: the mask leaves out every mapping that is. */
static bool is_registered(const struct fm_tracked *task, uint64_t start, uint64_t end)
{
	struct fm_pm_scan_arg a = { .size = sizeof(a), .flags = FM_PM_SCAN_CHECK_WPASYNC, .start = start, .end = end };

	a.category_inverted = a.category_mask = FM_PAGE_IS_WPALLOWED;
	a.return_mask = FM_PAGE_IS_PRESENT;
	return ioctl(task->pagemap_fd, FM_PAGEMAP_SCAN, &a) == 0;
}

enum taken { TAKEN, NOT_TAKEN, OF_ANOTHER };

/* Registers what is mapped there, with all of its pages written. Again when the program changes it between the two steps; never with old marks left. */
static enum taken take(struct space *sp, const struct fm_tracked *task, uint64_t start, uint64_t end)
{
	bool registered = false;

	for (unsigned attempt = 0; attempt < TAKE_ATTEMPTS; attempt++) {
		int e = register_range(sp, start, end);
		if (e == EBUSY && !sp->looked && is_registered(task, start, end))
			return OF_ANOTHER;
		if (e)
			continue;
		registered = true;
		if (clear_marks(sp, start, end)) {
			sp->taken++;
			return TAKEN;
		}
	}
	if (registered && !unregister_range(sp, start, end))
		sp->broken = true;
	return NOT_TAKEN;
}

/* In the first look whatever is registered is not ours. */
static bool is_ours(const struct space *sp, const struct fm_tracked *task, uint64_t start, uint64_t end)
{
	return sp->looked && is_registered(task, start, end);
}

/*
 * The mappings from..to-1, none of which is registered, with the holes around them. The task does not wait: a mapping that grows after its address was read would be registered in part, and
 * so cut in two, and mremap(2) refuses what is more than one mapping.
 */
static enum taken take_together(struct space *sp, const struct fm_tracked *task, const struct fm_mappings *m, size_t from, size_t to)
{
	const struct fm_mapping *first = &m->v[from], *last = &m->v[to - 1];
	uint64_t start = first->room_start, end = last->room_end < USER_END ? last->room_end : USER_END;

	if (from > 0 && m->v[from - 1].end > start)
		start = m->v[from - 1].end;
	if (to < m->n && m->v[to].start < end)
		end = m->v[to].start;
	return take(sp, task, start, end > last->end ? end : last->end);
}

/* One that cannot be registered makes the whole range fail. */
static enum taken take_each(struct space *sp, const struct fm_tracked *task, struct fm_mappings *m, size_t from, size_t to)
{
	enum taken all = to - from > 1 ? take_together(sp, task, m, from, to) : NOT_TAKEN;

	for (size_t k = from; k < to && all == NOT_TAKEN && !sp->broken; k++) {
		enum taken one = take_together(sp, task, m, k, k + 1);
		/* A hole may be somebody else's by now. */
		if (one == NOT_TAKEN)
			one = take(sp, task, m->v[k].start, m->v[k].end);
		if (one == OF_ANOTHER)
			return one;
		m->v[k].untracked = one == NOT_TAKEN;
	}
	return all;
}

/* false: not a single one could be registered, or what is registered belongs to another descriptor, or cannot be trusted. */
static bool register_mappings(struct space *sp, const struct fm_tracked *task, struct fm_mappings *m)
{
	bool any = m->n == 0;

	for (size_t i = 0, end; i < m->n && !sp->broken; i = end) {
		for (end = i + 1; end < m->n && m->v[end].room_end == m->v[i].room_end; end++)
			;
		bool all = is_ours(sp, task, m->v[i].room_start, m->v[end - 1].end);
		for (size_t k = i, to; k < end && !all; k = to) {
			for (to = k; to < end && !is_ours(sp, task, m->v[to].start, m->v[to].end); to++)
				;
			if (to > k && take_each(sp, task, m, k, to) == OF_ANOTHER)
				return false;
			to += to == k;
		}
		for (size_t k = i; k < end; k++)
			any = any || !m->v[k].untracked;
	}
	return any && !sp->broken;
}

/* Also what was made meanwhile, or cut by the last look. *m is read anew for that. */
static bool register_all(const struct fm_tracker *t, const struct fm_tracked *task, struct fm_mappings *m)
{
	struct space *sp = task->state;

	for (unsigned look = 1;; look++) {
		uint64_t before = sp->taken;
		struct fm_mappings now = { 0 };
		if (!register_mappings(sp, task, m))
			return false;
		sp->looked = true;
		if (sp->taken == before || look == LOOKS)
			return true;
		if (fm_mappings_read(task->host_pid, t->kinds, &now, NULL) < 0)
			return true; /* it is ending */
		fm_mappings_done(m);
		*m = now;
	}
}

static bool same_space(pid_t a, pid_t b)
{
	return syscall(SYS_kcmp, a, b, KCMP_VM, 0, 0) == 0;
}

/* Somebody else's descriptor has it registered: a task with the same address space? Then ours is not needed. */
static bool join_other(struct fm_tracker *t, struct fm_tracked *task)
{
	for (size_t i = 0; i < t->n_tasks; i++) {
		struct fm_tracked *other = &t->tasks[i];
		if (other == task || !other->state || other->state == task->state || !same_space(other->host_pid, task->host_pid))
			continue;
		forget(task);
		task->state = other->state;
		((struct space *)task->state)->refs++;
		return true;
	}
	return false;
}

/* ---------------------------------------------------------------- scanning */

static int add_all(struct fm_tracker *t, const struct fm_tracked *task, const struct fm_mappings *m, struct fm_run_list *l,
                   struct fm_error *err)
{
	for (size_t i = 0; i < m->n; i++)
		if (fm_add_content(t, task, &m->v[i], l, NULL, err) < 0)
			return -1;
	return 0;
}

struct find {
	uint32_t task;
	bool untracked;
	struct fm_scan *scan;
};

static int found_running(void *userdata, uint64_t start, uint64_t end, uint64_t categories, struct fm_error *err)
{
	const struct find *f = userdata;

	return fm_run_list_add(&f->scan->dirty, f->task, start, end, err);
}

static int found_frozen(void *userdata, uint64_t start, uint64_t end, uint64_t categories, struct fm_error *err)
{
	const struct find *f = userdata;

	if ((f->untracked || categories != CLEAN) && fm_run_list_add(&f->scan->dirty, f->task, start, end, err) < 0)
		return -1;
	return f->scan->present ? fm_run_list_add(f->scan->present, f->task, start, end, err) : 0;
}

/* Mappings next to each other are scanned in one go when they are asked for in the same way. */
static size_t end_of_range(const struct fm_mappings *m, size_t i)
{
	size_t end = i + 1;

	while (end < m->n && m->v[end].start == m->v[end - 1].end && m->v[end].untracked == m->v[i].untracked &&
	       m->v[end].private_file == m->v[i].private_file && !m->v[end].shared && !m->v[i].shared)
		end++;
	return end;
}

/* *vouched: at least one range was ours. */
static int scan_running(struct fm_tracker *t, const struct fm_tracked *task, const struct fm_mappings *m, struct fm_scan *s, bool *vouched,
                        struct fm_error *err)
{
	struct find f = { .task = task->index, .scan = s };

	for (size_t i = 0, end; i < m->n; i = end) {
		int rc = 1;
		end = end_of_range(m, i);
		if (!m->v[i].untracked) {
			struct fm_walk w = fm_walk_content(t, m->v[i].private_file);
			w.flags = FM_PM_SCAN_WP_MATCHING | FM_PM_SCAN_CHECK_WPASYNC;
			w.mask |= FM_PAGE_IS_WRITTEN;
			struct fm_run_mark before = fm_run_list_mark(&s->dirty);
			rc = fm_walk_pages(t, task, m->v[i].start, m->v[end - 1].end, &w, found_running, &f, err);
			if (rc < 0)
				return -1;
			*vouched = *vouched || rc == 0;
			/* Marks were reset before it failed, and for which pages is lost: all of the range is dirty. */
			if (rc == 1)
				fm_run_list_back_to(&s->dirty, &before);
		}
		for (size_t k = i; rc == 1 && k < end; k++)
			if (fm_add_content(t, task, &m->v[k], &s->dirty, NULL, err) < 0)
				return -1;
	}
	return 0;
}

static int scan_frozen(struct fm_tracker *t, const struct fm_tracked *task, const struct fm_mappings *m, struct fm_scan *s,
                       struct fm_error *err)
{
	for (size_t i = 0, end; i < m->n; i = end) {
		end = end_of_range(m, i);
		if (m->v[i].shared) {
			if (fm_add_shared(t, task, &m->v[i], s, err) < 0)
				return -1;
			continue;
		}
		struct find f = { .task = task->index, .untracked = m->v[i].untracked || task->fresh, .scan = s };
		struct fm_walk w = fm_walk_content(t, m->v[i].private_file);
		w.returned = CLEAN | FM_PAGE_IS_WRITTEN;
		if (fm_walk_pages(t, task, m->v[i].start, m->v[end - 1].end, &w, found_frozen, &f, err) < 0)
			return -1;
	}
	return 0;
}

static int copy_runs(const struct fm_tracked *task, const struct space *sp, struct fm_run_list *l, struct fm_error *err)
{
	for (size_t i = sp->from; i < sp->to; i++) {
		struct fm_page_run r = l->v[i];
		if (fm_run_list_add(l, task->index, r.vaddr, r.vaddr + (uint64_t)r.n_pages * FM_TRACKER_PAGE, err) < 0)
			return -1;
	}
	return 0;
}

/* The marks of the space may be reset by this task. */
static int scan_first(struct fm_tracker *t, struct fm_tracked *task, const struct fm_mappings *m, struct fm_scan *s, struct fm_error *err)
{
	struct space *sp = task->state;
	bool vouched = m->n == 0;

	sp->from = s->dirty.n;
	if (scan_running(t, task, m, s, &vouched, err) < 0)
		return -1;
	if (!vouched) { /* it runs another program now */
		forget(task);
		return 0;
	}
	sp->to = s->dirty.n;
	sp->round = t->round;
	sp->scanned_as = task->host_pid;
	task->fresh = false;
	return 0;
}

static int scan(struct fm_tracker *t, struct fm_tracked *task, struct fm_mappings *m, struct fm_scan *s, struct fm_error *err)
{
	/* Nothing is registered in the freeze: what is not is dirty. */
	if (s->frozen) {
		const struct space *ours = task->state;
		for (size_t i = 0; i < m->n && (!ours || ours->broken); i++)
			m->v[i].untracked = true;
		return scan_frozen(t, task, m, s, err);
	}
	bool registered = task->state && register_all(t, task, m);

	if (task->state && !registered && join_other(t, task)) {
		registered = register_all(t, task, m);
		task->fresh = true;
	}
	struct space *sp = task->state;
	bool is_first = sp && registered && sp->round != t->round;
	if (is_first && (!task->fresh || sp->round == 0))
		return scan_first(t, task, m, s, err);
	if (sp && registered && !task->fresh && same_space(sp->scanned_as, task->host_pid))
		return copy_runs(task, sp, &s->dirty, err);
	/* New in a space that others are in, another program, or not to be tracked at all: unknown. No mark is reset, so the others lose nothing. */
	if (!registered || !task->fresh)
		forget(task);
	else
		task->fresh = false;
	return add_all(t, task, m, &s->dirty, err);
}

const struct fm_tracker_ops fm_tracker_write_protect = {
	.backend = FM_TRACKER_WRITE_PROTECT,
	.prepare = prepare,
	.scan = scan,
	.forget = forget,
};
