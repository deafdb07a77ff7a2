/* SPDX-License-Identifier: MIT */
/*
 * page-contents.h - a table of page contents by their hash, with reference counts. Internal to this room: the store keeps the bytes of content number i in its slot i, the encoder keeps
 * no bytes. Numbers of contents that nobody has any more are used again. One writer.
 */
#ifndef FM_SYNC_PAGE_CONTENTS_H
#define FM_SYNC_PAGE_CONTENTS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "basic/error.h"
#include "sync/page-store.h"

#define FM_CONTENT_NONE UINT32_MAX
/* An application can make pages whose hashes collide as it likes; more than this many are not looked at, and count as not found. */
#define FM_CONTENT_SEARCH_MAX 256u

struct fm_content {
	struct fm_page_hash hash;
	_Atomic uint32_t refs;
	uint32_t next, prev; /* in the bucket; next also in the list of free ones */
};

struct fm_contents {
	struct fm_content *v;
	uint32_t *heads;
	uint32_t n, cap, heads_mask;
	uint32_t max;
	uint32_t free, free_last;
};

void fm_contents_init(struct fm_contents *c, uint32_t max);
void fm_contents_done(struct fm_contents *c);
/* The first content with this hash after the one given (FM_CONTENT_NONE: from the start), or FM_CONTENT_NONE. *budget starts as FM_CONTENT_SEARCH_MAX. */
uint32_t fm_contents_find(const struct fm_contents *c, struct fm_page_hash h, uint32_t after, unsigned *budget);
/* Room for one more; *ret is the number that add will give to it. RESOURCE_EXHAUSTED beyond max. */
int fm_contents_reserve(struct fm_contents *c, uint32_t *ret, struct fm_error *err);
uint32_t fm_contents_add(struct fm_contents *c, struct fm_page_hash h); /* reserved before; refs 1 */
bool fm_contents_unref(struct fm_contents *c, uint32_t i);              /* true: it was the last, the number is free */
/* The only holder has other bytes now */
void fm_contents_change(struct fm_contents *c, uint32_t i, struct fm_page_hash h);
/* All of them have other hashes now. */
void fm_contents_rehash(struct fm_contents *c, struct fm_page_hash (*of)(const void *ctx, uint32_t i), const void *ctx);

/* Its bucket is going to be looked at. */
static inline void fm_contents_prefetch(const struct fm_contents *c, struct fm_page_hash h)
{
	if (c->heads)
		__builtin_prefetch(&c->heads[(uint32_t)h.lo & c->heads_mask]);
}

static inline void fm_contents_ref(struct fm_contents *c, uint32_t i)
{
	atomic_fetch_add_explicit(&c->v[i].refs, 1, memory_order_relaxed);
}

#endif
