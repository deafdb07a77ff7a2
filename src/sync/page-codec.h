/* SPDX-License-Identifier: MIT */
/*
 * page-codec.h - pages on the wire before the freeze: one chunk is the payload of one PAGES_PUSH frame (stream.h), made by an encoder at the source, taken apart by a
 * decoder into the page store at the destination.
 *
 * Chunk, little-endian:
 *    0  u32 n_entries   1 .. FM_CHUNK_PAGES_MAX
 *    4  u8  method      FM_CHUNK_PLAIN, _LZ4, _ZSTD: of the body
 *    5  u8  pad[3]      0
 *    8  u32 body_bytes  uncompressed
 *   12  entries: u64 each = address of the page | kind (low 12 bits)
 *       body, maybe compressed: for each entry in order what its kind needs:
 *         FM_PAGE_KIND_ZERO    nothing
 *         FM_PAGE_KIND_FULL    4096 bytes
 *         FM_PAGE_KIND_KNOWN   u64 lo, u64 hi: XXH3-128, with the secret, of a page that the destination has
 *         FM_PAGE_KIND_DELTA   u16 length (<= FM_DELTA_BYTES_MAX), then runs {u16 skip, u16 copy, bytes} of that length: over the page's last version that was sent; u64 XXH3-64 of the result
 *         FM_PAGE_KIND_DROP    nothing: not to be kept
 * The whole payload is covered by the frame's checksum; every field is checked before it is used, and the memory a decoder needs is bounded by the constants below.
 *
 * Encoder: remembers for each page the hash of what was sent last (an unchanged page is not sent again: it is left out) and which contents the destination has (KNOWN), and keeps
 * the newest versions of pages that change again and again in a cache of fixed size (DELTA). Memory: about 40 bytes a page and the cache. The compression follows the link: plain while
 * compressing costs more than it saves, lz4, then zstd level 1; fm_page_encoder_link tells it how fast the link was.
 * A content is KNOWN only if the very same bytes were sent before in this migration, or the destination says that it has them: the encoder keeps no bytes to compare, and relies on XXH3-128 with a secret
 * that nobody knows but the two agents (accidental collision 2^-128; on purpose: hash-secret.h). The result of a DELTA is checked without one: that finds mistakes, and decides nothing.
 *
 * One thread each.
 */
#ifndef FM_SYNC_PAGE_CODEC_H
#define FM_SYNC_PAGE_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "basic/error.h"
#include "basic/giveway.h"
#include "sync/page-store.h"

#define FM_CHUNK_PAGES_MAX  128u /* entries; a plain chunk of full pages fits a frame */
#define FM_CHUNK_HEAD_BYTES 12u
#define FM_CHUNK_BODY_MAX   (FM_CHUNK_PAGES_MAX * 4096u)
#define FM_CHUNK_BYTES_MAX  (FM_CHUNK_HEAD_BYTES + FM_CHUNK_PAGES_MAX * 8u + FM_CHUNK_BODY_MAX)
#define FM_DELTA_BYTES_MAX  2048u
enum fm_chunk_method { FM_CHUNK_PLAIN = 0, FM_CHUNK_LZ4 = 1, FM_CHUNK_ZSTD = 2 };
enum fm_page_kind { FM_PAGE_KIND_ZERO = 1, FM_PAGE_KIND_FULL = 2, FM_PAGE_KIND_KNOWN = 3, FM_PAGE_KIND_DELTA = 4, FM_PAGE_KIND_DROP = 5 };

struct fm_page_encoder;
struct fm_page_encoder_opts {
	uint64_t delta_cache_bytes;          /* 0: 32 MiB; UINT64_MAX: none */
	int compress;                        /* -1 adapt, else an enum fm_chunk_method */
	const struct fm_hash_secret *secret; /* the same as the store's at the other end; copied */
};
int fm_page_encoder_new(const struct fm_page_encoder_opts *o, struct fm_page_encoder **ret, struct fm_error *err);
void fm_page_encoder_free(struct fm_page_encoder *e);

/*
 * What these make is taken for delivered, in this order. When chunks were lost, restart, and preload what the destination says that it has. After an error other than INVALID_ARGUMENT
 * (all later calls fail then) start anew with another encoder and another store.
 */
/* n (<= FM_CHUNK_PAGES_MAX) pages of a task, wherever they lie, none twice. out has room for FM_CHUNK_BYTES_MAX; *ret_len 0: nothing changed, nothing to send. */
int fm_page_encoder_pages(struct fm_page_encoder *e, pid_t ns_pid, const uint64_t *addresses, const void *pages, size_t n, uint8_t *out,
                          size_t *ret_len, struct fm_error *err);
/* The same for pages that lie one after the other from vaddr on. out has room for FM_CHUNK_BYTES_MAX; *ret_len 0: nothing changed, nothing to send. */
int fm_page_encoder_chunk(struct fm_page_encoder *e, pid_t ns_pid, uint64_t vaddr, const void *pages, size_t n, uint8_t *out,
                          size_t *ret_len, struct fm_error *err);
/* Not readable any more, or not to be kept: the destination is told to drop it. */
int fm_page_encoder_drop(struct fm_page_encoder *e, pid_t ns_pid, uint64_t vaddr, size_t n, uint8_t *out, size_t *ret_len,
                         struct fm_error *err);
/* The destination has nothing. */
void fm_page_encoder_restart(struct fm_page_encoder *e);
/* The destination has pages of these hashes (0, 0: zeros) from vaddr on, at most FM_CHUNK_PAGES_MAX: they count as sent. */
int fm_page_encoder_preload(struct fm_page_encoder *e, pid_t ns_pid, uint64_t vaddr, const struct fm_page_hash *hashes, size_t n,
                            struct fm_error *err);
/* Was this page sent and, as far as the encoder knows, is it still there? */
bool fm_page_encoder_has_sent(const struct fm_page_encoder *e, pid_t ns_pid, uint64_t vaddr);
/* Bytes that the link took and how long they took it: decides between plain, lz4 and zstd. */
void fm_page_encoder_link(struct fm_page_encoder *e, uint64_t bytes, uint64_t us);

/* From now on compressing, which is most of the work, gives way to other threads (NULL: no more). Borrowed. */
void fm_page_encoder_give_way(struct fm_page_encoder *e, struct fm_giveway *g);

struct fm_page_encoder_stats {
	uint64_t pages_in, unchanged, zero, known, delta, full, dropped; /* pages */
	uint64_t bytes_in, bytes_out;                                    /* pages read, payloads made */
	uint64_t encode_us;
	enum fm_chunk_method method; /* at present */
};
void fm_page_encoder_stats(const struct fm_page_encoder *e, struct fm_page_encoder_stats *ret);

struct fm_page_decoder;
/* store: borrowed */
int fm_page_decoder_new(struct fm_page_store *store, struct fm_page_decoder **ret, struct fm_error *err);
void fm_page_decoder_free(struct fm_page_decoder *d);
/* DATA_LOSS for anything malformed, for a KNOWN that is not known and a DELTA whose result is not what the source had: the pages before it in the chunk have been taken. */
int fm_page_decoder_chunk(struct fm_page_decoder *d, pid_t ns_pid, const void *chunk, size_t n, struct fm_error *err);

#endif
