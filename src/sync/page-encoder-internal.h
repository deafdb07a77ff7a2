/* SPDX-License-Identifier: MIT */
/* page-encoder-internal.h - the encoder's helpers: the cache of last versions (page-encoder-cache.c) and the choice of a compression (page-encoder-pack.c). Not for other files. */
#ifndef FM_SYNC_PAGE_ENCODER_INTERNAL_H
#define FM_SYNC_PAGE_ENCODER_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <zstd.h>

#include "basic/error.h"
#include "sync/page-codec.h"
#include "sync/page-names.h"

/* Last sent versions of pages that change again and again: a fixed number of places, given up by the clock's hand. */
struct fm_delta_place {
	uint64_t page;
	int32_t ns_pid; /* 0: free */
	bool used_lately;
};
struct fm_delta_cache {
	struct fm_names names; /* page -> place + 1 */
	struct fm_delta_place *places;
	uint8_t *data;
	uint32_t n, hand;
};
/* bytes: of the versions kept; 0 keeps none */
int fm_delta_cache_init(struct fm_delta_cache *c, uint64_t bytes, struct fm_error *err);
void fm_delta_cache_done(struct fm_delta_cache *c);
const void *fm_delta_cache_get(struct fm_delta_cache *c, pid_t ns_pid, uint64_t page); /* NULL: not here */
int fm_delta_cache_put(struct fm_delta_cache *c, pid_t ns_pid, uint64_t page, const void *bytes, struct fm_error *err);
void fm_delta_cache_clear(struct fm_delta_cache *c);
void fm_delta_cache_forget(struct fm_delta_cache *c, pid_t ns_pid, uint64_t page);

#define FM_CHUNK_METHODS 3u
/* Compression of bodies, and what was learnt about it */
struct fm_packer {
	ZSTD_CCtx *zstd;
	void *lz4;
	uint8_t *buf; /* FM_CHUNK_BODY_MAX */
	int fixed;    /* enum fm_chunk_method, or -1: adapt */
	enum fm_chunk_method method;
	double link;                                          /* bytes a microsecond; 0: not known yet */
	double base_us;                                       /* time of a body byte before compression */
	double us[FM_CHUNK_METHODS], ratio[FM_CHUNK_METHODS]; /* a body byte's time and what becomes of it */
	unsigned until_probe;
	struct fm_giveway *giveway; /* NULL: compressing does not give way */
};
int fm_packer_init(struct fm_packer *p, int method, struct fm_error *err);
void fm_packer_done(struct fm_packer *p);
void fm_packer_link(struct fm_packer *p, uint64_t bytes, uint64_t us);
/* The body is replaced by its compressed form when that is smaller; *n its length. Returns how it is now. made_us: time it took to make the body. */
enum fm_chunk_method fm_packer_pack(struct fm_packer *p, uint8_t *body, size_t *n, uint64_t made_us);

#endif
