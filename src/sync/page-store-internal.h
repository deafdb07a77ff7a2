/* SPDX-License-Identifier: MIT */
/* page-store-internal.h - a door for tests. Not for other files. */
#ifndef FM_SYNC_PAGE_STORE_INTERNAL_H
#define FM_SYNC_PAGE_STORE_INTERNAL_H

#include "basic/cleanup.h"
#include "sync/page-contents.h"
#include "sync/page-names.h"
#include "sync/page-store.h"

#define FM_STORE_PAGE      4096ull
#define FM_STORE_CHUNK     512u /* slots whose memory is given back together */
#define FM_STORE_BYTES_MAX (1ull << 40)

/* What a name stands for */
enum { FM_NAME_NONE = 0, FM_NAME_ZERO = 1, FM_NAME_SLOT = 2 /* + number of the slot */ };

struct fm_page_store {
	uint8_t *area, *base; /* address space for max_bytes, so that pointers never move; base: aligned to a chunk */
	size_t area_bytes;
	uint64_t max_bytes; /* multiple of a page */
	uint64_t backed;    /* of it have memory, or had: those of all chunks that were ever used */
	uint64_t max_names;
	bool sealed;
	struct fm_hash_secret secret;
	struct fm_names names;
	struct fm_contents contents;
	_Atomic uint16_t *live; /* by chunk of FM_STORE_CHUNK slots: how many are in use */
	_Atomic uint64_t pages, zero_pages, unique_pages;
};

FM_DEFINE_CLEANUP(struct fm_page_store *, fm_page_store_free);

static inline uint8_t *fm_store_slot(const struct fm_page_store *s, uint32_t slot)
{
	return s->base + (uint64_t)slot * FM_STORE_PAGE;
}

/* fm_page_store_put of a page that is not zero, as if this were its hash: how tests make two pages collide. */
int fm_store_put_hashed(struct fm_page_store *s, pid_t ns_pid, uint64_t vaddr, const void *page, struct fm_page_hash h,
                        struct fm_error *err);

#endif
