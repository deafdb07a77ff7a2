/* SPDX-License-Identifier: MIT */
/*
 * pager-ranges.c - see pager-ranges.h.
 *
 * One bitmap for each space, by number of the page in the source, so that an answer of the source is matched against every space that still
 * lacks the page, wherever it has it now, and so that a move in memory changes extents only and never the bitmap.
 *
 * Removing needs no change of extents: the pages are done, and a fault on a page that is done gets zeros. Only a move splits extents; it
 * also cuts what stale extents lie where it goes (of memory that was unmapped before). Neighbours are joined again, so that the extents of
 * a space can never be more than its mappings and the images' ranges together, however long the application plays with mremap.
 *
 * The asked pages are a bitmap of the task, not of the space: an answer serves all spaces. It is not in the state file: a successor asks
 * again.
 */
#include "sync/pager-ranges.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "basic/cleanup.h"

#define WORD_BITS       64u
#define MAX_TOTAL_PAGES (1ull << 32)
#define MAX_ADDRESS     (1ull << 56)
#define MAX_EXTENTS     (1u << 20)

FM_DEFINE_CLEANUP(struct fm_pager_table *, fm_table_free);

/* bitmaps */

static uint64_t words(uint64_t bits)
{
	return bits ? (bits + WORD_BITS - 1) / WORD_BITS : 1;
}

static uint64_t bitmap_bytes(uint64_t bits)
{
	return words(bits) * sizeof(uint64_t);
}

static bool bit(const uint64_t *w, uint64_t i)
{
	return w[i / WORD_BITS] >> (i % WORD_BITS) & 1;
}

/* Those of word i that lie in [from, end) */
static uint64_t mask_of(uint64_t i, uint64_t from, uint64_t end)
{
	uint64_t first = i * WORD_BITS, m = ~0ull;

	if (from > first)
		m &= ~0ull << (from - first);
	if (end - first < WORD_BITS)
		m &= ~(~0ull << (end - first));
	return m;
}

/* Returns how many changed. */
static uint64_t bits_write(uint64_t *w, uint64_t from, uint64_t n, bool value)
{
	uint64_t changed = 0, end = from + n;

	for (uint64_t i = from / WORD_BITS; n && i * WORD_BITS < end; i++) {
		uint64_t m = mask_of(i, from, end) & (value ? ~w[i] : w[i]);
		changed += (uint64_t)__builtin_popcountll(m);
		w[i] ^= m;
	}
	return changed;
}

static uint64_t count_zeros(const uint64_t *w, uint64_t n)
{
	uint64_t zeros = 0;

	for (uint64_t i = 0; n && i * WORD_BITS < n; i++)
		zeros += (uint64_t)__builtin_popcountll(~w[i] & mask_of(i, 0, n));
	return zeros;
}

/* extents */

static int compare_addr(const void *a, const void *b)
{
	uint64_t x = ((const struct fm_pager_extent *)a)->addr, y = ((const struct fm_pager_extent *)b)->addr;
	return x < y ? -1 : x > y;
}

static int compare_page(const void *a, const void *b)
{
	uint64_t x = ((const struct fm_pager_extent *)a)->page, y = ((const struct fm_pager_extent *)b)->page;
	return x < y ? -1 : x > y;
}

static uint64_t extent_end(const struct fm_pager_extent *e)
{
	return e->addr + e->n_pages * FM_PAGE_BYTES;
}

/* The last extent that begins at or before addr, n when none does */
static size_t find_addr(const struct fm_pager_extent *v, size_t n, uint64_t addr)
{
	size_t low = 0, high = n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		if (v[mid].addr <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low ? low - 1 : n;
}

/* The extent with the page, NULL when it is in none */
static const struct fm_pager_extent *find_page(const struct fm_pager_extent *v, size_t n, uint64_t page)
{
	size_t low = 0, high = n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		if (v[mid].page <= page)
			low = mid + 1;
		else
			high = mid;
	}
	return low && page - v[low - 1].page < v[low - 1].n_pages ? &v[low - 1] : NULL;
}

/* building the table */

static int compare_ranges(const void *a, const void *b)
{
	const struct fm_pager_range *x = a, *y = b;
	if (x->ns_pid != y->ns_pid)
		return x->ns_pid < y->ns_pid ? -1 : 1;
	return x->vaddr < y->vaddr ? -1 : x->vaddr > y->vaddr;
}

static int check_range(const struct fm_pager_range *r, const struct fm_pager_range *before, uint64_t *total, struct fm_error *err)
{
	if (r->ns_pid <= 0 || r->vaddr % FM_PAGE_BYTES || r->n_pages == 0 || r->vaddr >= MAX_ADDRESS ||
	    r->n_pages > (MAX_ADDRESS - r->vaddr) / FM_PAGE_BYTES)
		return fm_error_set(err, FM_E_DATA_LOSS, "the images list an impossible range: process %d, %llu pages at %#llx",
		                    (int)r->ns_pid, (unsigned long long)r->n_pages, (unsigned long long)r->vaddr);
	if (before && before->ns_pid == r->ns_pid && r->vaddr - before->vaddr < before->n_pages * FM_PAGE_BYTES)
		return fm_error_set(err, FM_E_DATA_LOSS, "the images list page %#llx of process %d twice", (unsigned long long)r->vaddr,
		                    (int)r->ns_pid);
	*total += r->n_pages;
	if (*total > MAX_TOTAL_PAGES)
		return fm_error_set(err, FM_E_DATA_LOSS, "the images list more than 2^32 lazy pages");
	return 0;
}

/* FNV-1a */
static uint64_t mix(uint64_t h, uint64_t value)
{
	for (unsigned shift = 0; shift < 64; shift += 8)
		h = (h ^ (value >> shift & 0xff)) * 0x100000001b3ull;
	return h;
}

static uint64_t fingerprint(const struct fm_pager_range *v, size_t n)
{
	uint64_t h = 0xcbf29ce484222325ull;

	for (size_t i = 0; i < n; i++)
		h = mix(mix(mix(h, (uint64_t)v[i].ns_pid), v[i].vaddr), v[i].n_pages);
	return h;
}

static int add_task(struct fm_pager_table *t, pid_t pid, struct fm_error *err)
{
	struct fm_pager_task *more = realloc(t->tasks, (t->n_tasks + 1) * sizeof(*more));
	if (!more || t->n_tasks >= FM_PAGER_MAX_SPACES) {
		t->tasks = more ? more : t->tasks;
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "too many processes with lazy pages");
	}
	t->tasks = more;
	t->tasks[t->n_tasks++] = (struct fm_pager_task){ .pid = pid };
	return 0;
}

/* Tasks and extents from the sorted ranges; what touches is joined. */
static int build_tasks(struct fm_pager_table *t, const struct fm_pager_range *v, size_t n, struct fm_error *err)
{
	size_t used = 0;

	t->extents = calloc(n ? n : 1, sizeof(*t->extents));
	if (!t->extents)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for %zu lazy ranges", n);
	for (size_t i = 0; i < n; i++) {
		if (check_range(&v[i], i ? &v[i - 1] : NULL, &t->n_pages, err) < 0)
			return -1;
		if ((i == 0 || v[i - 1].ns_pid != v[i].ns_pid) && add_task(t, v[i].ns_pid, err) < 0)
			return -1;
		struct fm_pager_task *task = &t->tasks[t->n_tasks - 1];
		struct fm_pager_extent *last = task->n_extents ? &t->extents[used - 1] : NULL;
		if (last && extent_end(last) == v[i].vaddr) {
			last->n_pages += v[i].n_pages;
		} else {
			if (!task->n_extents)
				task->extents = &t->extents[used];
			t->extents[used++] = (struct fm_pager_extent){ .addr = v[i].vaddr, .page = task->n_pages, .n_pages = v[i].n_pages };
			task->n_extents++;
		}
		task->n_pages += v[i].n_pages;
	}
	for (size_t i = 0; i < t->n_tasks; i++) {
		t->tasks[i].asked = calloc(words(t->tasks[i].n_pages), sizeof(uint64_t));
		if (!t->tasks[i].asked)
			return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for the list of lazy pages");
	}
	return 0;
}

static int table_new(const struct fm_pager_range *v, size_t n, uint64_t *ret_fingerprint, struct fm_pager_table **ret, struct fm_error *err)
{
	_fm_cleanup_(fm_table_freep) struct fm_pager_table *t = calloc(1, sizeof(*t));
	_fm_free_ struct fm_pager_range *sorted = malloc((n ? n : 1) * sizeof(*sorted));

	if (!t || !sorted)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for %zu lazy ranges", n);
	if (n) {
		memcpy(sorted, v, n * sizeof(*sorted));
		qsort(sorted, n, sizeof(*sorted), compare_ranges);
	}
	if (build_tasks(t, sorted, n, err) < 0)
		return -1;
	*ret_fingerprint = fingerprint(sorted, n);
	*ret = FM_TAKE_PTR(t);
	return 0;
}

int fm_table_create(int dirfd, const struct fm_pager_range *v, size_t n, struct fm_pager_table **ret, struct fm_error *err)
{
	_fm_cleanup_(fm_table_freep) struct fm_pager_table *t = NULL;
	uint64_t mark = 0;

	if (table_new(v, n, &mark, &t, err) < 0 || fm_pager_state_create(dirfd, mark, &t->state, err) < 0)
		return -1;
	*ret = FM_TAKE_PTR(t);
	return 0;
}

/* spaces */

static bool own_extents(const struct fm_pager_space *s)
{
	return s->saved;
}

static void use_task_extents(struct fm_pager_space *s, const struct fm_pager_task *task)
{
	s->by_addr = s->by_page = task->extents;
	s->n_extents = task->n_extents;
}

/* The memory of a space; its areas in the state file stay. */
static void free_space(struct fm_pager_space *s, const struct fm_pager_task *task)
{
	if (!s)
		return;
	fm_pager_state_unmap(s->done, bitmap_bytes(task->n_pages));
	if (own_extents(s)) {
		fm_pager_state_unmap(s->saved, s->n_extents * sizeof(*s->saved));
		free(s->by_addr);
		free(s->by_page);
	}
	fm_closep(&s->fd);
	free(s);
}

/* Takes s. */
static int insert_space(struct fm_pager_table *t, struct fm_pager_space *s, struct fm_error *err)
{
	struct fm_pager_space **more = reallocarray(t->spaces, t->n_spaces + 1, sizeof(struct fm_pager_space *));
	if (!more) {
		free_space(s, &t->tasks[s->task]);
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for an address space");
	}
	t->spaces = more;
	size_t at = t->n_spaces++;
	for (; at && more[at - 1]->key > s->key; at--)
		more[at] = more[at - 1];
	more[at] = s;
	s->next = t->tasks[s->task].spaces;
	t->tasks[s->task].spaces = s;
	return 0;
}

/* Own copies of v (sorted by address), in memory and in the state file. The old ones are given up only when the new ones are there. */
static int set_extents(struct fm_pager_table *t, struct fm_pager_space *s, const struct fm_pager_extent *v, size_t n, struct fm_error *err)
{
	size_t bytes = n * sizeof(*v);
	struct fm_state_slot *slot = fm_pager_state_slot(t->state, s->slot);
	struct fm_pager_extent old = { .addr = slot->extents_offset, .page = s->n_extents };
	void *old_saved = s->saved;
	uint64_t offset = 0;
	void *saved = NULL;

	if (n > MAX_EXTENTS)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED,
		                    "a process has cut its memory into more than %u pieces while it was being filled", MAX_EXTENTS);
	_fm_free_ struct fm_pager_extent *a = malloc(bytes ? bytes : 1), *p = malloc(bytes ? bytes : 1);
	if (!a || !p)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for the ranges of an address space");
	if (fm_pager_state_alloc(t->state, bytes, &offset, &saved, err) < 0)
		return -1;
	if (n) {
		memcpy(a, v, bytes);
		memcpy(p, v, bytes);
		memcpy(saved, v, bytes);
		qsort(p, n, sizeof(*p), compare_page);
	}
	if (own_extents(s)) {
		free(s->by_addr);
		free(s->by_page);
	}
	s->by_addr = FM_TAKE_PTR(a);
	s->by_page = FM_TAKE_PTR(p);
	s->n_extents = n;
	s->saved = saved;
	slot->n_extents = n;
	slot->extents_offset = offset;
	if (old_saved)
		fm_pager_state_release(t->state, old.addr, old.page * sizeof(*v), old_saved);
	return 0;
}

/* A space with its slot and an empty bitmap. The slot is not live yet. */
static struct fm_pager_space *new_space(struct fm_pager_table *t, uint32_t task, bool forked, struct fm_error *err)
{
	struct fm_pager_space *s = calloc(1, sizeof(*s));
	uint64_t offset = 0;
	void *area = NULL;

	if (!s) {
		(void)fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for an address space");
		return NULL;
	}
	s->fd = -1;
	s->task = task;
	s->forked = forked;
	s->missing = t->tasks[task].n_pages;
	if (fm_pager_state_free_slot(t->state, &s->slot, err) < 0 ||
	    fm_pager_state_alloc(t->state, bitmap_bytes(s->missing), &offset, &area, err) < 0) {
		free(s);
		return NULL;
	}
	s->done = area;
	s->key = fm_pager_state_next_key(t->state);
	use_task_extents(s, &t->tasks[task]);
	*fm_pager_state_slot(t->state, s->slot) =
	        (struct fm_state_slot){ .key = s->key, .done_offset = offset, .task = task, .forked = forked };
	return s;
}

/* The process may be one of which nothing is lazy: then a task without pages is added behind the others, so that indices stay. */
static int find_task(struct fm_pager_table *t, pid_t pid, uint32_t *ret, struct fm_error *err)
{
	for (size_t i = 0; i < t->n_tasks; i++)
		if (t->tasks[i].pid == pid) {
			*ret = (uint32_t)i;
			return 0;
		}
	if (add_task(t, pid, err) < 0)
		return -1;
	struct fm_pager_task *task = &t->tasks[t->n_tasks - 1];
	task->asked = calloc(1, sizeof(uint64_t));
	if (!task->asked) {
		t->n_tasks--;
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for a process");
	}
	*ret = (uint32_t)(t->n_tasks - 1);
	return 0;
}

int fm_table_add(struct fm_pager_table *t, pid_t pid, int fd_owned, struct fm_pager_space **ret, struct fm_error *err)
{
	_fm_close_ int fd = fd_owned;
	uint32_t task = 0;

	if (find_task(t, pid, &task, err) < 0)
		return -1;
	if (t->tasks[task].state != FM_TASK_AWAITED)
		return fm_error_set(err, FM_E_INTERNAL, "CRIU handed over a second userfaultfd for process %d", (int)pid);
	struct fm_pager_space *s = new_space(t, task, false, err);
	if (!s)
		return -1;
	s->fd = FM_TAKE_FD(fd);
	if (insert_space(t, s, err) < 0)
		return -1;
	t->tasks[task].state = FM_TASK_HERE;
	fm_pager_state_slot(t->state, s->slot)->live = 1;
	*ret = s;
	return 0;
}

int fm_table_fork(struct fm_pager_table *t, const struct fm_pager_space *parent, struct fm_pager_space **ret, struct fm_error *err)
{
	struct fm_pager_space *s = new_space(t, parent->task, true, err);

	if (!s)
		return -1;
	memcpy(s->done, parent->done, bitmap_bytes(t->tasks[s->task].n_pages));
	s->missing = parent->missing;
	if (own_extents(parent) && set_extents(t, s, parent->by_addr, parent->n_extents, err) < 0) {
		free_space(s, &t->tasks[s->task]);
		return -1;
	}
	if (insert_space(t, s, err) < 0)
		return -1;
	fm_pager_state_slot(t->state, s->slot)->live = 1;
	*ret = s;
	return 0;
}

void fm_table_set_kept(struct fm_pager_table *t, struct fm_pager_space *s)
{
	s->kept = true;
	fm_pager_state_slot(t->state, s->slot)->kept = 1;
}

void fm_table_drop(struct fm_pager_table *t, struct fm_pager_space *s)
{
	struct fm_pager_task *task = &t->tasks[s->task];
	struct fm_state_slot *slot = fm_pager_state_slot(t->state, s->slot);
	struct fm_pager_space **link = &task->spaces;

	slot->live = 0;
	while (*link != s)
		link = &(*link)->next;
	*link = s->next;
	size_t left = 0;
	for (size_t i = 0; i < t->n_spaces; i++)
		if (t->spaces[i] != s)
			t->spaces[left++] = t->spaces[i];
	t->n_spaces = left;
	if (!s->forked)
		task->state = FM_TASK_GONE;
	if (own_extents(s)) {
		fm_pager_state_release(t->state, slot->extents_offset, s->n_extents * sizeof(*s->saved), s->saved);
		free(s->by_addr);
		free(s->by_page);
		s->saved = NULL;
	}
	fm_pager_state_release(t->state, slot->done_offset, bitmap_bytes(task->n_pages), s->done);
	s->done = NULL;
	free_space(s, task);
}

void fm_table_free(struct fm_pager_table *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->n_spaces; i++)
		free_space(t->spaces[i], &t->tasks[t->spaces[i]->task]);
	for (size_t i = 0; i < t->n_tasks; i++)
		free(t->tasks[i].asked);
	fm_pager_state_free(t->state);
	free(t->spaces);
	free(t->tasks);
	free(t->extents);
	free(t);
}

/* recovery */

static int restore_extents(struct fm_pager_table *t, struct fm_pager_space *s, const struct fm_state_slot *slot, struct fm_error *err)
{
	uint64_t n_pages = t->tasks[s->task].n_pages;
	size_t bytes = slot->n_extents * sizeof(struct fm_pager_extent);
	void *saved = NULL;

	if (slot->n_extents > MAX_EXTENTS)
		return fm_error_set(err, FM_E_DATA_LOSS, FM_PAGER_STATE_NAME " is damaged: %llu extents",
		                    (unsigned long long)slot->n_extents);
	if (fm_pager_state_map(t->state, slot->extents_offset, bytes, &saved, err) < 0)
		return -1;
	struct fm_pager_extent *a = calloc(slot->n_extents + 1, sizeof(*a)), *p = calloc(slot->n_extents + 1, sizeof(*p));
	s->saved = saved;
	s->by_addr = a;
	s->by_page = p;
	s->n_extents = slot->n_extents;
	if (!a || !p)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for the ranges of an address space");
	if (bytes) {
		memcpy(a, saved, bytes);
		memcpy(p, saved, bytes);
		qsort(p, s->n_extents, sizeof(*p), compare_page);
	}
	for (size_t i = 0; i < s->n_extents; i++)
		if (p[i].n_pages > n_pages || p[i].page > n_pages - p[i].n_pages || (i && p[i - 1].page + p[i - 1].n_pages > p[i].page))
			return fm_error_set(err, FM_E_DATA_LOSS, FM_PAGER_STATE_NAME " is damaged: overlapping extents");
	return 0;
}

static int restore_space(struct fm_pager_table *t, uint32_t i, const struct fm_state_slot *slot, struct fm_error *err)
{
	if (slot->task >= t->n_tasks)
		return fm_error_set(err, FM_E_DATA_LOSS, FM_PAGER_STATE_NAME " is damaged: it has a process %u of %zu", slot->task,
		                    t->n_tasks);
	const struct fm_pager_task *task = &t->tasks[slot->task];
	struct fm_pager_space *s = calloc(1, sizeof(*s));
	void *area = NULL;

	if (!s)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for an address space");
	*s = (struct fm_pager_space){ .key = slot->key, .fd = -1, .task = slot->task, .slot = i };
	s->forked = slot->forked;
	s->kept = slot->kept;
	use_task_extents(s, task);
	if (fm_pager_state_map(t->state, slot->done_offset, bitmap_bytes(task->n_pages), &area, err) < 0) {
		free_space(s, task);
		return -1;
	}
	s->done = area;
	s->missing = count_zeros(s->done, task->n_pages);
	if (slot->extents_offset && restore_extents(t, s, slot, err) < 0) {
		free_space(s, task);
		return -1;
	}
	if (insert_space(t, s, err) < 0)
		return -1;
	if (!s->forked)
		t->tasks[s->task].state = FM_TASK_HERE;
	return 0;
}

/* Spaces of processes without pages point to tasks that the images do not have: they need nothing and are forgotten. */
static int restore_spaces(struct fm_pager_table *t, struct fm_error *err)
{
	for (uint32_t i = 0; i < FM_PAGER_MAX_SPACES; i++) {
		struct fm_state_slot *slot = fm_pager_state_slot(t->state, i);
		if (slot->live && slot->task >= t->n_tasks && slot->task < FM_PAGER_MAX_SPACES)
			slot->live = 0;
		if (slot->live && restore_space(t, i, slot, err) < 0)
			return -1;
	}
	for (size_t i = 0; i < t->n_tasks; i++) {
		if (t->tasks[i].state != FM_TASK_AWAITED)
			continue;
		if (!fm_pager_state_finished(t->state))
			return fm_error_set(err, FM_E_DATA_LOSS, "the pager died before process %d had handed over its userfaultfd",
			                    (int)t->tasks[i].pid);
		t->tasks[i].state = FM_TASK_GONE; /* it ended, and was dropped */
	}
	return 0;
}

int fm_table_open(int dirfd, const struct fm_pager_range *v, size_t n, struct fm_pager_table **ret, struct fm_error *err)
{
	_fm_cleanup_(fm_table_freep) struct fm_pager_table *t = NULL;
	uint64_t mark = 0;

	if (table_new(v, n, &mark, &t, err) < 0 || fm_pager_state_open(dirfd, mark, &t->state, err) < 0 || restore_spaces(t, err) < 0)
		return -1;
	*ret = FM_TAKE_PTR(t);
	return 0;
}

/* looking up */

struct fm_pager_space *fm_table_space(const struct fm_pager_table *t, uint64_t key)
{
	for (size_t i = 0; i < t->n_spaces; i++)
		if (t->spaces[i]->key == key)
			return t->spaces[i];
	return NULL;
}

struct fm_pager_space *fm_table_next_space(const struct fm_pager_table *t, uint32_t task, uint64_t after)
{
	struct fm_pager_space *best = NULL;

	for (struct fm_pager_space *s = t->tasks[task].spaces; s; s = s->next)
		if (s->key > after && (!best || s->key < best->key))
			best = s;
	return best;
}

bool fm_table_all_kept(const struct fm_pager_table *t)
{
	for (size_t i = 0; i < t->n_tasks; i++)
		if (t->tasks[i].state == FM_TASK_AWAITED)
			return false;
	for (size_t i = 0; i < t->n_spaces; i++)
		if (!t->spaces[i]->forked && !t->spaces[i]->kept)
			return false;
	return true;
}

uint64_t fm_table_missing(const struct fm_pager_table *t, bool forked_too)
{
	uint64_t n = 0;

	for (size_t i = 0; i < t->n_tasks; i++)
		if (t->tasks[i].state == FM_TASK_AWAITED)
			n += t->tasks[i].n_pages;
	for (size_t i = 0; i < t->n_spaces; i++)
		if (!t->spaces[i]->dead && (forked_too || !t->spaces[i]->forked))
			n += t->spaces[i]->missing;
	return n;
}

bool fm_space_page_at(const struct fm_pager_space *s, uint64_t addr, uint64_t *ret_page)
{
	size_t i = find_addr(s->by_addr, s->n_extents, addr);

	if (i == s->n_extents || addr >= extent_end(&s->by_addr[i]))
		return false;
	*ret_page = s->by_addr[i].page + (addr - s->by_addr[i].addr) / FM_PAGE_BYTES;
	return true;
}

bool fm_space_is_done(const struct fm_pager_space *s, uint64_t page)
{
	return bit(s->done, page);
}

void fm_space_set_done(struct fm_pager_space *s, uint64_t page, uint64_t n)
{
	s->missing -= bits_write(s->done, page, n, true);
}

bool fm_space_next_missing(const struct fm_pager_space *s, uint64_t page, uint64_t end, uint64_t max, struct fm_pager_extent *ret)
{
	uint64_t n = 1;

	while (page < end && bit(s->done, page))
		page = ~s->done[page / WORD_BITS] ? page + 1 : (page / WORD_BITS + 1) * WORD_BITS;
	const struct fm_pager_extent *e = page < end ? find_page(s->by_page, s->n_extents, page) : NULL;
	if (!e)
		return false;
	uint64_t offset = page - e->page, limit = e->n_pages - offset;
	if (limit > end - page)
		limit = end - page;
	if (limit > max)
		limit = max;
	while (n < limit && !bit(s->done, page + n))
		n++;
	*ret = (struct fm_pager_extent){ .addr = e->addr + offset * FM_PAGE_BYTES, .page = page, .n_pages = n };
	return true;
}

/* events */

void fm_space_remove(struct fm_pager_space *s, uint64_t start, uint64_t end)
{
	size_t i = find_addr(s->by_addr, s->n_extents, start);

	for (i = i == s->n_extents ? 0 : i; i < s->n_extents && s->by_addr[i].addr < end; i++) {
		const struct fm_pager_extent *e = &s->by_addr[i];
		uint64_t from = e->addr > start ? e->addr : start, to = extent_end(e) < end ? extent_end(e) : end;
		if (from < to)
			fm_space_set_done(s, e->page + (from - e->addr) / FM_PAGE_BYTES, (to - from + FM_PAGE_BYTES - 1) / FM_PAGE_BYTES);
	}
}

static bool touches(const struct fm_pager_space *s, uint64_t start, uint64_t len)
{
	size_t i = find_addr(s->by_addr, s->n_extents, start + len - 1);
	return i != s->n_extents && extent_end(&s->by_addr[i]) > start;
}

static void append(struct fm_pager_extent *v, size_t *n, struct fm_pager_extent e)
{
	if (*n && extent_end(&v[*n - 1]) == e.addr && v[*n - 1].page + v[*n - 1].n_pages == e.page)
		v[*n - 1].n_pages += e.n_pages;
	else
		v[(*n)++] = e;
}

int fm_space_remap(struct fm_pager_table *t, struct fm_pager_space *s, uint64_t from, uint64_t to, uint64_t len, struct fm_error *err)
{
	const uint64_t cuts[4] = { from, from + len, to, to + len };
	size_t n = 0, joined = 0;

	if (!len || (!touches(s, from, len) && !touches(s, to, len)))
		return 0;
	_fm_free_ struct fm_pager_extent *v = malloc((s->n_extents + FM_ARRAY_SIZE(cuts)) * sizeof(*v));
	if (!v)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for the ranges of an address space");
	for (size_t i = 0; i < s->n_extents; i++) {
		struct fm_pager_extent rest = s->by_addr[i];
		while (rest.n_pages) {
			uint64_t end = extent_end(&rest);
			for (size_t c = 0; c < FM_ARRAY_SIZE(cuts); c++)
				if (cuts[c] > rest.addr && cuts[c] < end)
					end = cuts[c];
			struct fm_pager_extent piece = { rest.addr, rest.page, (end - rest.addr) / FM_PAGE_BYTES };
			rest = (struct fm_pager_extent){ end, rest.page + piece.n_pages, rest.n_pages - piece.n_pages };
			if (piece.addr >= from && piece.addr - from < len)
				piece.addr += to - from;
			else if (piece.addr >= to && piece.addr - to < len) {
				fm_space_set_done(s, piece.page, piece.n_pages);
				continue;
			}
			v[n++] = piece;
		}
	}
	qsort(v, n, sizeof(*v), compare_addr);
	for (size_t i = 0; i < n; i++)
		append(v, &joined, v[i]);
	return set_extents(t, s, v, joined, err);
}

/* asking */

uint64_t fm_task_address(const struct fm_pager_task *task, uint64_t page)
{
	const struct fm_pager_extent *e = find_page(task->extents, task->n_extents, page);
	return e ? e->addr + (page - e->page) * FM_PAGE_BYTES : 0;
}

void fm_task_set_asked(struct fm_pager_task *task, uint64_t page, uint64_t n, bool asked)
{
	(void)bits_write(task->asked, page, n, asked);
}

bool fm_task_is_asked(const struct fm_pager_task *task, uint64_t page)
{
	return bit(task->asked, page);
}

static uint64_t wanted_word(const struct fm_pager_task *task, uint64_t i)
{
	uint64_t missing = 0;

	for (const struct fm_pager_space *s = task->spaces; s && missing != ~0ull; s = s->next)
		missing |= s->dead ? 0 : ~s->done[i];
	return missing & ~task->asked[i];
}

bool fm_task_next_wanted(const struct fm_pager_task *task, uint64_t page, uint64_t end, uint64_t max, uint64_t *ret_page, uint32_t *ret_n)
{
	uint64_t w = 0, i = page / WORD_BITS;
	uint32_t n = 1;

	if (end > task->n_pages)
		end = task->n_pages;
	if (page >= end)
		return false;
	for (; !w && i * WORD_BITS < end; i++)
		w = wanted_word(task, i) & mask_of(i, page, end);
	if (!w)
		return false;
	page = --i * WORD_BITS + (uint64_t)__builtin_ctzll(w);
	const struct fm_pager_extent *e = find_page(task->extents, task->n_extents, page);
	uint64_t limit = e->n_pages - (page - e->page);
	if (limit > end - page)
		limit = end - page;
	if (limit > max)
		limit = max;
	for (; n < limit; n++) {
		if ((page + n) / WORD_BITS != i)
			w = wanted_word(task, i = (page + n) / WORD_BITS);
		if (!(w >> (page + n) % WORD_BITS & 1))
			break;
	}
	*ret_page = page;
	*ret_n = n;
	return true;
}
