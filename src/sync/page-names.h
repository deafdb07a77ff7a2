/* SPDX-License-Identifier: MIT */
/*
 * page-names.h - a table from (process id, page number) to 32 bits, for hundreds of thousands of pages that mostly lie side by side. Internal to this room.
 *
 * Leaves of 64 neighbouring pages, found through one hash table: 4 bytes a page where pages are dense, and runs are read from one cache line after the other. 0 means
 * "not in the table". One writer; or, when nobody calls reserve, set or clear any more, any number of threads that get and exchange.
 */
#ifndef FM_SYNC_PAGE_NAMES_H
#define FM_SYNC_PAGE_NAMES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "basic/error.h"

#define FM_NAMES_LEAF_PAGES 64u

struct fm_names_key {
	uint64_t no; /* page number / FM_NAMES_LEAF_PAGES */
	int32_t ns_pid;
	uint32_t used; /* values that are not 0; only kept by the writer */
};
struct fm_names_leaf {
	_Atomic uint32_t v[FM_NAMES_LEAF_PAGES];
};

struct fm_names {
	struct fm_names_key *keys;
	struct fm_names_leaf *leaves;
	uint32_t *index; /* of keys, plus 1; open addressing */
	uint32_t n, cap, index_mask;
	uint32_t max;  /* leaves */
	uint32_t last; /* that was reserved: the next page is mostly there too */
};
struct fm_names_ref {
	uint32_t leaf, i;
};

/* max_pages: how many pages the table has to hold at least; it never has more than twice as many leaves. */
void fm_names_init(struct fm_names *n, uint64_t max_pages);
void fm_names_done(struct fm_names *n);
/* The leaf of a page, or NULL */
const struct fm_names_leaf *fm_names_leaf(const struct fm_names *n, pid_t ns_pid, uint64_t page);
/* A place for the page; *ret is valid until the next reserve. */
int fm_names_reserve(struct fm_names *n, pid_t ns_pid, uint64_t page, struct fm_names_ref *ret, struct fm_error *err);
/* Each page in the range that is in the table, leaf by leaf in order unless the range is wider than the table. fn may set and exchange. */
void fm_names_each(const struct fm_names *n, pid_t ns_pid, uint64_t page, uint64_t n_pages, void (*fn)(void *ctx, struct fm_names_ref ref),
                   void *ctx);

static inline uint32_t fm_names_get(const struct fm_names *n, pid_t ns_pid, uint64_t page)
{
	const struct fm_names_leaf *leaf = fm_names_leaf(n, ns_pid, page);
	return leaf ? atomic_load_explicit(&leaf->v[page % FM_NAMES_LEAF_PAGES], memory_order_relaxed) : 0;
}

static inline uint32_t fm_names_at(const struct fm_names *n, struct fm_names_ref r)
{
	return atomic_load_explicit(&n->leaves[r.leaf].v[r.i], memory_order_relaxed);
}

static inline void fm_names_set(struct fm_names *n, struct fm_names_ref r, uint32_t value)
{
	uint32_t old = fm_names_at(n, r);

	n->keys[r.leaf].used += (value != 0) - (old != 0);
	atomic_store_explicit(&n->leaves[r.leaf].v[r.i], value, memory_order_relaxed);
}

#endif
