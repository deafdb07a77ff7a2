/* SPDX-License-Identifier: MIT */
/* page-names.c - see page-names.h. Leaves that have become empty are only given up when the table is full: then they are half of it, or it grows. */
#include "sync/page-names.h"

#include <stdlib.h>
#include <string.h>

#include "basic/cleanup.h"

#define CAP_MIN 64u
#define CAP_MAX (1u << 30)

void fm_names_init(struct fm_names *n, uint64_t max_pages)
{
	*n = (struct fm_names){ .max = max_pages > CAP_MAX / 2 ? CAP_MAX : (uint32_t)max_pages * 2 };
	if (n->max < CAP_MIN)
		n->max = CAP_MIN;
}

void fm_names_done(struct fm_names *n)
{
	free(n->keys);
	free(n->leaves);
	free(n->index);
	*n = (struct fm_names){ .max = n->max };
}

static uint32_t bucket(const struct fm_names *n, pid_t ns_pid, uint64_t no)
{
	uint64_t x = (no ^ (uint64_t)(uint32_t)ns_pid << 32) * 0x9e3779b97f4a7c15ull;

	x ^= x >> 29;
	return (uint32_t)((x * 0xbf58476d1ce4e5b9ull) >> 32) & n->index_mask;
}

/* The place in the index of a key, or the free one where it belongs */
static uint32_t *probe(const struct fm_names *n, pid_t ns_pid, uint64_t no)
{
	for (uint32_t b = bucket(n, ns_pid, no);; b = (b + 1) & n->index_mask) {
		uint32_t i = n->index[b];
		if (!i || (n->keys[i - 1].no == no && n->keys[i - 1].ns_pid == ns_pid))
			return &n->index[b];
	}
}

const struct fm_names_leaf *fm_names_leaf(const struct fm_names *n, pid_t ns_pid, uint64_t page)
{
	if (!n->n)
		return NULL;
	uint32_t i = *probe(n, ns_pid, page / FM_NAMES_LEAF_PAGES);
	return i ? &n->leaves[i - 1] : NULL;
}

static void drop_empty(struct fm_names *n)
{
	uint32_t to = 0;

	for (uint32_t i = 0; i < n->n; i++) {
		if (!n->keys[i].used)
			continue;
		if (to != i) {
			n->keys[to] = n->keys[i];
			memcpy(&n->leaves[to], &n->leaves[i], sizeof(*n->leaves));
		}
		to++;
	}
	n->n = to;
	n->last = 0;
}

static void reindex(struct fm_names *n)
{
	memset(n->index, 0, ((size_t)n->index_mask + 1) * sizeof(*n->index));
	for (uint32_t i = 0; i < n->n; i++)
		*probe(n, n->keys[i].ns_pid, n->keys[i].no) = i + 1;
}

static int enlarge(struct fm_names *n, uint32_t cap, struct fm_error *err)
{
	size_t buckets = CAP_MIN;

	while (buckets < (size_t)cap * 2)
		buckets *= 2;
	struct fm_names_key *keys = realloc(n->keys, cap * sizeof(*keys));
	if (keys)
		n->keys = keys;
	struct fm_names_leaf *leaves = keys ? realloc(n->leaves, cap * sizeof(*leaves)) : NULL;
	if (leaves)
		n->leaves = leaves;
	uint32_t *index = leaves ? malloc(buckets * sizeof(*index)) : NULL;
	if (!index)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for a table of pages");
	free(n->index);
	n->index = index;
	n->index_mask = (uint32_t)buckets - 1;
	n->cap = cap;
	reindex(n);
	return 0;
}

static int make_room(struct fm_names *n, struct fm_error *err)
{
	uint32_t empty = 0;

	for (uint32_t i = 0; i < n->n; i++)
		empty += !n->keys[i].used;
	if (n->n && (empty > n->n / 2 || (n->cap >= n->max && empty))) {
		drop_empty(n);
		reindex(n);
		return 0;
	}
	if (n->cap >= n->max)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "the pages are spread over more than %u ranges", n->max);
	uint32_t cap = n->cap < CAP_MIN ? CAP_MIN : n->cap * 2;
	return enlarge(n, cap < n->max ? cap : n->max, err);
}

static uint32_t append(struct fm_names *n, uint32_t *place, pid_t ns_pid, uint64_t no)
{
	n->keys[n->n] = (struct fm_names_key){ .no = no, .ns_pid = ns_pid };
	memset(&n->leaves[n->n], 0, sizeof(*n->leaves));
	*place = n->n + 1;
	return n->n++;
}

int fm_names_reserve(struct fm_names *n, pid_t ns_pid, uint64_t page, struct fm_names_ref *ret, struct fm_error *err)
{
	uint64_t no = page / FM_NAMES_LEAF_PAGES;
	uint32_t leaf = n->last;

	if (leaf >= n->n || n->keys[leaf].no != no || n->keys[leaf].ns_pid != ns_pid) {
		uint32_t *place = n->n ? probe(n, ns_pid, no) : NULL;
		if (!place || !*place) {
			if (n->n == n->cap && make_room(n, err) < 0)
				return -1;
			leaf = append(n, probe(n, ns_pid, no), ns_pid, no);
		} else {
			leaf = *place - 1;
		}
		n->last = leaf;
	}
	*ret = (struct fm_names_ref){ .leaf = leaf, .i = (uint32_t)(page % FM_NAMES_LEAF_PAGES) };
	return 0;
}

static void each_of_leaf(const struct fm_names *n, uint32_t leaf, uint64_t first, uint64_t last, void (*fn)(void *, struct fm_names_ref),
                         void *ctx)
{
	uint64_t base = n->keys[leaf].no * FM_NAMES_LEAF_PAGES;

	for (uint32_t i = first > base ? (uint32_t)(first - base) : 0; i < FM_NAMES_LEAF_PAGES && base + i <= last; i++) {
		struct fm_names_ref ref = { .leaf = leaf, .i = i };
		if (fm_names_at(n, ref))
			fn(ctx, ref);
	}
}

void fm_names_each(const struct fm_names *n, pid_t ns_pid, uint64_t page, uint64_t n_pages, void (*fn)(void *ctx, struct fm_names_ref ref),
                   void *ctx)
{
	if (!n_pages || !n->n)
		return;
	uint64_t last = n_pages - 1 > UINT64_MAX - page ? UINT64_MAX : page + n_pages - 1;
	uint64_t first_no = page / FM_NAMES_LEAF_PAGES, last_no = last / FM_NAMES_LEAF_PAGES;

	/* A wide range that is mostly not there must not cost more than the table is large. */
	if (last_no - first_no >= n->n) {
		for (uint32_t i = 0; i < n->n; i++)
			if (n->keys[i].ns_pid == ns_pid && n->keys[i].no >= first_no && n->keys[i].no <= last_no)
				each_of_leaf(n, i, page, last, fn, ctx);
		return;
	}
	for (uint64_t no = first_no; no <= last_no; no++) {
		uint32_t i = *probe(n, ns_pid, no);
		if (i)
			each_of_leaf(n, i - 1, page, last, fn, ctx);
	}
}
