/* SPDX-License-Identifier: MIT */
/*
 * page-encoder-pack.c - see page-encoder-internal.h.
 *
 * Making a chunk and sending the one before go on at the same time, so a byte costs the longer of the two. That is estimated for each method from the link's speed and from what the
 * method did to recent bodies; the methods that are not in use are tried now and then on a part of a body.
 *
 * A byte on the wire has a price besides: the link is not ours alone, and a switch behind it is often slower than what its first hop takes. So a compressor is used on a faster link than
 * time alone would tell, as long as it is worth its while: not for random bytes, and not at ten times the price.
 */
#include <lz4.h>
#include <stdlib.h>
#include <string.h>

#include "basic/clock.h"
#include "sync/page-encoder-internal.h"

#define PROBE_EVERY 64u         /* chunks */
#define PROBE_BYTES (64u << 10) /* long enough to be timed, short enough not to be felt */
#define PACK_MIN    512u        /* a body below that is mostly hashes */
#define LINK_MIN    (16u << 10) /* a transfer below that tells about latency, not about speed */
#define BYTE_US     0.01        /* the price: as if 100 MB/s of the link were ours */
#define SAME        0.98
#define WORTH       0.9 /* of the cost now: another method has to be that much better */

int fm_packer_init(struct fm_packer *p, int method, struct fm_error *err)
{
	*p = (struct fm_packer){ .fixed = method, .method = method < 0 ? FM_CHUNK_PLAIN : (enum fm_chunk_method)method };
	p->ratio[FM_CHUNK_PLAIN] = 1;
	p->zstd = ZSTD_createCCtx();
	p->lz4 = malloc((size_t)LZ4_sizeofState());
	p->buf = malloc(FM_CHUNK_BODY_MAX);
	if (!p->zstd || !p->lz4 || !p->buf)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for compression");
	return 0;
}

void fm_packer_done(struct fm_packer *p)
{
	ZSTD_freeCCtx(p->zstd);
	free(p->lz4);
	free(p->buf);
	*p = (struct fm_packer){ 0 };
}

/* Exponentially smoothed; the first value counts as it is. */
static void learn(double *what, double value)
{
	*what = *what > 0 ? *what + (value - *what) / 4 : value;
}

void fm_packer_link(struct fm_packer *p, uint64_t bytes, uint64_t us)
{
	if (bytes >= LINK_MIN)
		learn(&p->link, (double)bytes / (double)(us ? us : 1));
}

/* Into p->buf; 0 when it does not become smaller. */
static size_t compress(struct fm_packer *p, enum fm_chunk_method m, const uint8_t *body, size_t n)
{
	/* Its own time, not that of others for whom it waited: what it costs is what is compared. */
	uint64_t start = fm_thread_cpu_us();
	size_t r = 0;

	if (p->giveway)
		fm_giveway_begin(p->giveway);
	if (m == FM_CHUNK_LZ4) {
		r = (size_t)LZ4_compress_fast_extState(p->lz4, (const char *)body, (char *)p->buf, (int)n, (int)n - 1, 1);
	} else {
		r = ZSTD_compressCCtx(p->zstd, p->buf, n - 1, body, n, 1);
		if (ZSTD_isError(r))
			r = 0;
	}
	uint64_t us = fm_thread_cpu_us() - start;
	if (p->giveway)
		fm_giveway_end(p->giveway);
	learn(&p->us[m], (double)(us ? us : 1) / (double)n);
	learn(&p->ratio[m], r ? (double)r / (double)n : 1);
	return r;
}

static double cost(const struct fm_packer *p, enum fm_chunk_method m)
{
	double make = p->base_us + p->us[m], wire = p->ratio[m] / p->link;
	return (make > wire ? make : wire) + p->ratio[m] * BYTE_US;
}

static void probe(struct fm_packer *p, const uint8_t *body, size_t n)
{
	size_t part = n < PROBE_BYTES ? n : PROBE_BYTES;
	enum fm_chunk_method best = FM_CHUNK_PLAIN;

	for (enum fm_chunk_method m = FM_CHUNK_LZ4; m <= FM_CHUNK_ZSTD; m++)
		if (m != p->method)
			(void)compress(p, m, body + (n - part) / 2, part);
	for (enum fm_chunk_method m = FM_CHUNK_LZ4; m <= FM_CHUNK_ZSTD; m++)
		if (cost(p, m) < cost(p, best))
			best = m;
	if (cost(p, best) < WORTH * cost(p, p->method))
		p->method = best;
	/* Of two that cost about the same the one that leaves the processor alone. */
	while (p->method > FM_CHUNK_PLAIN && cost(p, p->method - 1) * SAME <= cost(p, p->method))
		p->method--;
}

static void adapt(struct fm_packer *p, const uint8_t *body, size_t n)
{
	if (p->link <= 0)
		return; /* nothing is known: plain */
	if (p->until_probe) {
		p->until_probe--;
	} else if (n >= PROBE_BYTES / 4) {
		probe(p, body, n);
		p->until_probe = PROBE_EVERY - 1;
	}
}

enum fm_chunk_method fm_packer_pack(struct fm_packer *p, uint8_t *body, size_t *n, uint64_t made_us)
{
	if (*n >= PROBE_BYTES)
		learn(&p->base_us, (double)made_us / (double)*n);
	if (p->fixed < 0)
		adapt(p, body, *n);
	if (p->method == FM_CHUNK_PLAIN || *n < PACK_MIN)
		return FM_CHUNK_PLAIN;
	size_t r = compress(p, p->method, body, *n);
	if (!r)
		return FM_CHUNK_PLAIN;
	memcpy(body, p->buf, r);
	*n = r;
	return p->method;
}
