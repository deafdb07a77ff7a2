/* SPDX-License-Identifier: MIT */
/*
 * tracker-hash.c - content: a page is clean when its hash is that of what the caller has read last (fm_tracker_note_read).
 *
 * The hash is not taken in the scan that reports a page: it may change until it is read, and change back until the next scan. A page that is gone is forgotten: when it comes again, it is
 * unknown, and dirty. Reading is as in page-source.c: process_vm_readv, and /proc/PID/mem for pages that the application itself may not read.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <xxhash.h>

#include "sync/tracker-internal.h"

#define BATCH_PAGES 256u
#define KNOWN       1u /* in the lowest bit of the address */

struct entry {
	uint64_t vaddr_known;
	uint64_t low, high;
};

struct pages {
	struct entry *v; /* ascending; all that had content in the last scan */
	size_t n, cap;
};

static uint64_t address_of(const struct entry *e)
{
	return e->vaddr_known & ~(uint64_t)KNOWN;
}

/* ---------------------------------------------------------------- reading */

/* How many pages from vaddr on, at most n, could be read; 0: not even the first. */
static size_t read_pages(const struct fm_tracked *task, uint64_t vaddr, uint8_t *to, size_t n)
{
	struct iovec local = { .iov_base = to, .iov_len = n * FM_TRACKER_PAGE };
	struct iovec remote = { .iov_base = (void *)(uintptr_t)vaddr, .iov_len = n * FM_TRACKER_PAGE };
	ssize_t r = process_vm_readv(task->host_pid, &local, 1, &remote, 1, 0);

	if (r >= (ssize_t)FM_TRACKER_PAGE)
		return (size_t)r / FM_TRACKER_PAGE;
	do
		r = pread(task->mem_fd, to, FM_TRACKER_PAGE, (off_t)vaddr);
	while (r < 0 && errno == EINTR);
	return r == (ssize_t)FM_TRACKER_PAGE ? 1 : 0;
}

static int add_entry(struct pages *p, uint64_t vaddr, const struct entry *same, struct fm_error *err)
{
	if (p->n == p->cap) {
		size_t cap = p->cap ? p->cap + p->cap / 2 : 4096;
		struct entry *more = reallocarray(p->v, cap, sizeof(*more));
		if (!more)
			return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for the hashes of %zu pages", p->n);
		p->v = more;
		p->cap = cap;
	}
	/* Reported, it is unknown until the caller tells: perhaps it cannot read it, and has dropped what it had. */
	p->v[p->n++] = same ? *same : (struct entry){ .vaddr_known = vaddr };
	return 0;
}

static bool is_same(const struct fm_tracker *t, const struct entry *old, const uint8_t *page)
{
	if (!old || !(old->vaddr_known & KNOWN))
		return false;
	XXH128_hash_t h = fm_hash_keyed(&t->secret, page, FM_TRACKER_PAGE);
	return h.low64 == old->low && h.high64 == old->high;
}

/* ---------------------------------------------------------------- scanning */

struct comparison {
	struct fm_tracker *tracker;
	const struct fm_tracked *task;
	const struct pages *old;
	size_t at; /* in old */
	struct pages *now;
	struct fm_scan *scan;
};

static const struct entry *old_entry(struct comparison *c, uint64_t vaddr)
{
	while (c->at < c->old->n && address_of(&c->old->v[c->at]) < vaddr)
		c->at++;
	return c->at < c->old->n && address_of(&c->old->v[c->at]) == vaddr ? &c->old->v[c->at] : NULL;
}

static int compare_run(struct comparison *c, uint64_t vaddr, uint64_t n_pages, struct fm_error *err)
{
	uint32_t index = c->task->index;

	while (n_pages > 0) {
		size_t want = n_pages < BATCH_PAGES ? (size_t)n_pages : BATCH_PAGES;
		size_t got = read_pages(c->task, vaddr, c->tracker->buffer, want);
		for (size_t i = 0; i < (got ? got : 1); i++, vaddr += FM_TRACKER_PAGE, n_pages--) {
			const struct entry *old = old_entry(c, vaddr);
			bool same = got && is_same(c->tracker, old, c->tracker->buffer + i * FM_TRACKER_PAGE);
			if (add_entry(c->now, vaddr, same ? old : NULL, err) < 0)
				return -1;
			if (!same && fm_run_list_add(&c->scan->dirty, index, vaddr, vaddr + FM_TRACKER_PAGE, err) < 0)
				return -1;
		}
	}
	return 0;
}

static int compare_mapping(struct comparison *c, const struct fm_mapping *m, struct fm_error *err)
{
	_fm_cleanup_(fm_run_list_done) struct fm_run_list content = { 0 };

	if (m->shared) {
		struct fm_scan both = { .frozen = true };
		int rc = fm_add_shared(c->tracker, c->task, m, &both, err);
		content = both.dirty;
		if (rc < 0)
			return -1;
	} else if (fm_add_content(c->tracker, c->task, m, &content, NULL, err) < 0) {
		return -1;
	}
	for (size_t i = 0; i < content.n; i++) {
		const struct fm_page_run *r = &content.v[i];
		uint64_t end = r->vaddr + (uint64_t)r->n_pages * FM_TRACKER_PAGE;
		if (compare_run(c, r->vaddr, r->n_pages, err) < 0)
			return -1;
		if (c->scan->present && fm_run_list_add(c->scan->present, c->task->index, r->vaddr, end, err) < 0)
			return -1;
	}
	return 0;
}

static void forget(struct fm_tracked *task)
{
	struct pages *p = task->state;

	task->state = NULL;
	if (p)
		free(p->v);
	free(p);
}

static int open_memory(struct fm_tracker *t, struct fm_tracked *task, struct fm_error *err)
{
	char path[48];

	if (!t->buffer)
		t->buffer = malloc(BATCH_PAGES * FM_TRACKER_PAGE);
	if (!task->state)
		task->state = calloc(1, sizeof(struct pages));
	if (!t->buffer || !task->state)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	(void)snprintf(path, sizeof(path), "/proc/%d/mem", (int)task->host_pid);
	task->mem_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (task->mem_fd < 0 && errno != ESRCH && !fm_tracked_has_ended(task))
		return fm_error_errno(err, errno, "cannot read the memory of process %d", (int)task->host_pid);
	return 0;
}

static int scan(struct fm_tracker *t, struct fm_tracked *task, struct fm_mappings *m, struct fm_scan *s, struct fm_error *err)
{
	struct pages now = { 0 };
	int rc = 0;

	if (open_memory(t, task, err) < 0)
		return -1;
	struct pages *known = task->state;
	struct comparison c = { .tracker = t, .task = task, .old = known, .now = &now, .scan = s };
	for (size_t i = 0; i < m->n && rc == 0; i++)
		rc = compare_mapping(&c, &m->v[i], err);
	if (rc < 0) {
		free(now.v);
		return -1;
	}
	free(known->v);
	*known = now;
	task->fresh = false;
	return 0;
}

static void note_read(struct fm_tracker *t, struct fm_tracked *task, uint64_t vaddr, const uint8_t *pages, size_t n)
{
	struct pages *p = task->state;
	size_t low = 0, high = p ? p->n : 0;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (address_of(&p->v[middle]) < vaddr)
			low = middle + 1;
		else
			high = middle;
	}
	for (; p && low < p->n && address_of(&p->v[low]) < vaddr + n * FM_TRACKER_PAGE; low++) {
		struct entry *e = &p->v[low];
		XXH128_hash_t h = fm_hash_keyed(&t->secret, pages + (address_of(e) - vaddr), FM_TRACKER_PAGE);
		*e = (struct entry){ .vaddr_known = address_of(e) | KNOWN, .low = h.low64, .high = h.high64 };
	}
}

const struct fm_tracker_ops fm_tracker_hash = {
	.backend = FM_TRACKER_HASH,
	.scan = scan,
	.note_read = note_read,
	.forget = forget,
};
