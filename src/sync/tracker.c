/* SPDX-License-Identifier: MIT */
/*
 * tracker.c - see tracker.h. Tasks and the order of a scan; the rest is in tracker-*.c.
 *
 * A scan that fails half-way may have reset marks whose pages it can no longer tell. Then everything is forgotten, and the next scan reports all.
 */
#include "sync/tracker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>

#include "basic/limits.h"
#include "basic/proc.h"
#include "basic/str.h"
#include "sync/remote-call.h"
#include "sync/tracker-internal.h"

FM_DEFINE_CLEANUP(struct fm_tracker *, fm_tracker_free);

static const struct fm_tracker_ops *const backends[_FM_TRACKER_MAX] = {
	[FM_TRACKER_WRITE_PROTECT] = &fm_tracker_write_protect,
	[FM_TRACKER_SOFT_DIRTY] = &fm_tracker_soft_dirty,
	[FM_TRACKER_HASH] = &fm_tracker_hash,
};

static const char *const names[_FM_TRACKER_MAX] = {
	[FM_TRACKER_AUTO] = "auto",
	[FM_TRACKER_WRITE_PROTECT] = "write-protect",
	[FM_TRACKER_SOFT_DIRTY] = "soft-dirty",
	[FM_TRACKER_HASH] = "hash",
};

const char *fm_tracker_backend_to_string(enum fm_tracker_backend b)
{
	return (unsigned)b < _FM_TRACKER_MAX ? names[b] : "invalid";
}

int fm_tracker_backend_from_string(const char *s, enum fm_tracker_backend *ret, struct fm_error *err)
{
	for (unsigned b = 0; b < _FM_TRACKER_MAX; b++)
		if (fm_streq(s, names[b])) {
			*ret = (enum fm_tracker_backend)b;
			return 0;
		}
	return fm_error_set(err, FM_E_INVALID_ARGUMENT, "\"%.40s\" is no way to track memory: auto, write-protect, soft-dirty or hash", s);
}

void fm_page_runs_done(struct fm_page_runs *r)
{
	free(r->v);
	*r = (struct fm_page_runs){ 0 };
}

/* ---------------------------------------------------------------- making */

int fm_tracker_new_with(const struct fm_tracker_ops *ops, unsigned kinds, struct fm_tracker **ret, struct fm_error *err)
{
	_fm_cleanup_(fm_tracker_freep) struct fm_tracker *t = calloc(1, sizeof(*t));

	if (sysconf(_SC_PAGESIZE) != FM_TRACKER_PAGE)
		return fm_error_set(err, FM_E_UNIMPLEMENTED, "memory can only be tracked on hosts with pages of %u bytes", FM_TRACKER_PAGE);
	if (t)
		t->regions = malloc(FM_TRACKER_REGIONS * sizeof(*t->regions));
	if (!t || !t->regions)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for a tracker");
	/* touched now, not inside the freeze */
	memset(t->regions, 0xff, FM_TRACKER_REGIONS * sizeof(*t->regions));
	fm_hash_secret_draw(&t->secret);
	t->ops = ops;
	t->kinds = kinds;
	fm_tracker_find_abilities(t);
	*ret = FM_TAKE_PTR(t);
	return 0;
}

int fm_tracker_new(const struct fm_tracker_opts *o, struct fm_tracker **ret, struct fm_error *err)
{
	enum fm_tracker_backend b = o->backend;

	if ((unsigned)b >= _FM_TRACKER_MAX || (o->kinds & ~FM_TRACK_ALL) || o->kinds == 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "no such backend (%d) or kinds of mappings (%#x)", (int)b, o->kinds);
	if (b == FM_TRACKER_AUTO) {
		struct fm_tracker_support support;
		fm_tracker_probe(&support);
		b = support.best;
		if (b == FM_TRACKER_AUTO)
			return fm_error_set(err, FM_E_FAILED_PRECONDITION, "no way to track memory works here: %s",
			                    support.reason[FM_TRACKER_HASH]);
	}
	return fm_tracker_new_with(backends[b], o->kinds, ret, err);
}

static void close_scan_fds(struct fm_tracked *task)
{
	fm_closep(&task->pagemap_fd);
	fm_closep(&task->mem_fd);
	task->pagemap_fd = task->mem_fd = -1;
}

static void let_go(struct fm_tracker *t, struct fm_tracked *task)
{
	t->ops->forget(task);
	close_scan_fds(task);
	fm_closep(&task->pidfd);
	task->pidfd = -1;
}

void fm_tracker_free(struct fm_tracker *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->n_tasks; i++)
		let_go(t, &t->tasks[i]);
	free(t->tasks);
	free(t->regions);
	free(t->buffer);
	free(t);
}

enum fm_tracker_backend fm_tracker_backend(const struct fm_tracker *t)
{
	return t->ops->backend;
}

/* ---------------------------------------------------------------- tasks */

bool fm_tracked_has_ended(const struct fm_tracked *task)
{
	struct pollfd p = { .fd = task->pidfd, .events = POLLIN };
	int n;

	do
		n = poll(&p, 1, 0);
	while (n < 0 && errno == EINTR);
	return n != 0;
}

static int compare_tasks(const void *a, const void *b)
{
	pid_t x = ((const struct fm_tracked *)a)->host_pid, y = ((const struct fm_tracked *)b)->host_pid;
	return x < y ? -1 : x > y;
}

static int compare_index(const void *a, const void *b)
{
	uint32_t x = ((const struct fm_tracked *)a)->index, y = ((const struct fm_tracked *)b)->index;
	return x < y ? -1 : x > y;
}

/* Takes the known task out of the old list, or gets hold of a new one. 1: it has ended. */
static int take_task(struct fm_tracker *t, const struct fm_page_source_task *given, uint32_t index, struct fm_tracked *ret,
                     struct fm_error *err)
{
	struct fm_tracked key = { .host_pid = given->host_pid };
	struct fm_tracked *known = t->n_tasks ? bsearch(&key, t->tasks, t->n_tasks, sizeof(key), compare_tasks) : NULL;

	if (known && known->pidfd >= 0 && !fm_tracked_has_ended(known)) {
		*ret = *known;
		*known = (struct fm_tracked){ .host_pid = given->host_pid, .pidfd = -1, .pagemap_fd = -1, .mem_fd = -1 };
	} else {
		*ret = (struct fm_tracked){ .host_pid = given->host_pid, .pagemap_fd = -1, .mem_fd = -1, .fresh = true };
		ret->pidfd = fm_pidfd_open(given->host_pid);
		if (ret->pidfd < 0 && errno == ESRCH)
			return 1;
		if (ret->pidfd < 0)
			return fm_error_errno(err, errno, "cannot get hold of process %d", (int)given->host_pid);
	}
	ret->ns_pid = given->ns_pid;
	ret->index = index;
	return 0;
}

int fm_tracker_set_tasks(struct fm_tracker *t, const struct fm_page_source_task *tasks, size_t n, struct fm_error *err)
{
	_fm_free_ struct fm_tracked *list = calloc(n ? n : 1, sizeof(*list));
	struct fm_error local = FM_ERROR_INIT;
	size_t kept = 0;
	int rc = 0;

	if (n > FM_MAX_TREE_PROCESSES)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "at most %d processes can be tracked, not %zu", FM_MAX_TREE_PROCESSES, n);
	if (!list)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for %zu tasks", n);
	if (t->n_tasks)
		qsort(t->tasks, t->n_tasks, sizeof(*t->tasks), compare_tasks);
	for (size_t i = 0; i < n && rc >= 0; i++) {
		rc = take_task(t, &tasks[i], (uint32_t)i, &list[kept], &local);
		kept += rc == 0;
	}
	/* When it fails, those not taken over are forgotten too: they would be new, and dirty, the next time. */
	for (size_t i = 0; i < t->n_tasks; i++)
		let_go(t, &t->tasks[i]);
	free(t->tasks);
	if (kept)
		qsort(list, kept, sizeof(*list), compare_index);
	t->tasks = FM_TAKE_PTR(list);
	t->n_tasks = kept;
	if (rc < 0 && err)
		*err = local;
	return rc < 0 ? -1 : 0;
}

/* ---------------------------------------------------------------- scanning */

static bool is_gone(const struct fm_error *e)
{
	return e->code == FM_E_NOT_FOUND || e->sys_errno == ESRCH;
}

/* Opens what belongs to the task's address space as it is now. 1: it has ended, or has none. */
static int open_task(struct fm_tracker *t, struct fm_tracked *task, struct fm_mappings *m, struct fm_error *err)
{
	struct fm_error local = FM_ERROR_INIT;
	char path[48];

	(void)snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)task->host_pid);
	task->pagemap_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (task->pagemap_fd < 0)
		(void)fm_error_errno(&local, errno, "cannot open the page tables of process %d", (int)task->host_pid);
	else if (fm_mappings_read(task->host_pid, t->kinds, m, &local) == 0)
		/* If it lives now, the number was its own until here. */
		return fm_tracked_has_ended(task) ? 1 : 0;
	if (is_gone(&local) || fm_tracked_has_ended(task))
		return 1;
	if (err)
		*err = local;
	return -1;
}

static int scan_task(struct fm_tracker *t, struct fm_tracked *task, struct fm_scan *s, struct fm_error *err)
{
	_fm_cleanup_(fm_mappings_done) struct fm_mappings m = { 0 };
	struct fm_error local = FM_ERROR_INIT;

	if (!s->frozen && t->ops->prepare && t->ops->prepare(t, task, &local) < 0) {
		if (is_gone(&local) || fm_tracked_has_ended(task))
			return 0;
		if (err)
			*err = local;
		return -1;
	}
	int rc = open_task(t, task, &m, err);
	if (rc == 0)
		rc = t->ops->scan(t, task, &m, s, err);
	close_scan_fds(task);
	return rc < 0 ? -1 : 0;
}

struct scan_job {
	struct fm_tracker *tracker;
	struct fm_scan *scan;
};

static int scan_all(struct fm_remote *unused, void *userdata, struct fm_error *err)
{
	const struct scan_job *j = userdata;

	for (size_t i = 0; i < j->tracker->n_tasks; i++)
		if (scan_task(j->tracker, &j->tracker->tasks[i], j->scan, err) < 0)
			return -1;
	return j->tracker->ops->reset && !j->scan->frozen ? j->tracker->ops->reset(j->tracker, err) : 0;
}

static int scan_held(struct scan_job *j, struct fm_error *err)
{
	_fm_free_ pid_t *pids = calloc(j->tracker->n_tasks + 1, sizeof(*pids));

	if (!pids)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for %zu tasks", j->tracker->n_tasks);
	for (size_t i = 0; i < j->tracker->n_tasks; i++)
		pids[i] = j->tracker->tasks[i].host_pid;
	return fm_remote_hold(pids, j->tracker->n_tasks, scan_all, j, err);
}

static void hand_out(struct fm_run_list *l, struct fm_page_runs *ret)
{
	if (!ret)
		return;
	*ret = (struct fm_page_runs){ .n = l->n, .n_pages = l->n_pages };
	if (l->n)
		ret->v = FM_TAKE_PTR(l->v);
}

static int scan(struct fm_tracker *t, struct fm_scan *s, struct fm_page_runs *dirty, struct fm_error *err)
{
	struct scan_job job = { .tracker = t, .scan = s };

	t->round++;
	int rc = t->ops->reset && !s->frozen ? scan_held(&job, err) : scan_all(NULL, &job, err);
	if (rc == 0) {
		hand_out(&s->dirty, dirty);
	} else if (!s->frozen) {
		for (size_t i = 0; i < t->n_tasks; i++) {
			t->ops->forget(&t->tasks[i]);
			t->tasks[i].fresh = true;
		}
	}
	fm_run_list_done(&s->dirty);
	return rc;
}

int fm_tracker_scan(struct fm_tracker *t, struct fm_page_runs *dirty, struct fm_error *err)
{
	struct fm_scan s = { .frozen = false };

	return scan(t, &s, dirty, err);
}

int fm_tracker_scan_frozen(struct fm_tracker *t, struct fm_page_runs *dirty, struct fm_page_runs *present, struct fm_error *err)
{
	struct fm_run_list all = { 0 };
	struct fm_scan s = { .frozen = true, .present = present ? &all : NULL };

	int rc = scan(t, &s, dirty, err);
	if (rc == 0)
		hand_out(&all, present);
	fm_run_list_done(&all);
	return rc;
}

void fm_tracker_note_read(struct fm_tracker *t, uint32_t task, uint64_t vaddr, const void *pages, size_t n_pages)
{
	if (!t->ops->note_read)
		return;
	struct fm_tracked key = { .index = task };
	struct fm_tracked *found = t->n_tasks ? bsearch(&key, t->tasks, t->n_tasks, sizeof(key), compare_index) : NULL;
	if (found)
		t->ops->note_read(t, found, vaddr, pages, n_pages);
}
