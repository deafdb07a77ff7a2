/* SPDX-License-Identifier: MIT */
/*
 * page-decoder.c - see page-codec.h.
 *
 * The form of a chunk is checked as a whole before its first page goes to the store; what only the store can tell (is the content known? does the difference give the right page?) shows
 * while the pages are taken.
 */
#include <lz4.h>
#include <string.h>
#include <xxhash.h>
#include <zstd.h>

#include "basic/cleanup.h"
#include "sync/page-codec.h"
#include "sync/page-delta.h"
#include "sync/stream-internal.h"

#define PAGE        4096u
#define KNOWN_BYTES 16u
#define DELTA_HEAD  2u
#define DELTA_TAIL  8u

struct fm_page_decoder {
	struct fm_page_store *store; /* borrowed */
	ZSTD_DCtx *zstd;
	uint8_t body[FM_CHUNK_BODY_MAX];
	uint8_t page[PAGE];
};

FM_DEFINE_CLEANUP(struct fm_page_decoder *, fm_page_decoder_free);

int fm_page_decoder_new(struct fm_page_store *store, struct fm_page_decoder **ret, struct fm_error *err)
{
	_fm_cleanup_(fm_page_decoder_freep) struct fm_page_decoder *d = malloc(sizeof(*d));
	if (d) {
		d->store = store;
		d->zstd = ZSTD_createDCtx();
	}
	if (!d || !d->zstd)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for a decoder of pages");
	*ret = FM_TAKE_PTR(d);
	return 0;
}

void fm_page_decoder_free(struct fm_page_decoder *d)
{
	if (!d)
		return;
	ZSTD_freeDCtx(d->zstd);
	free(d);
}

static int malformed(struct fm_error *err, const char *what)
{
	return fm_error_set(err, FM_E_DATA_LOSS, "a malformed chunk of pages: %s", what);
}

/* *ret: body_bytes of body, in the chunk itself or in d->body */
static int unpack(struct fm_page_decoder *d, unsigned method, const uint8_t *in, size_t n, size_t body_bytes, const uint8_t **ret,
                  struct fm_error *err)
{
	if (method == FM_CHUNK_PLAIN) {
		*ret = in;
		return n == body_bytes ? 0 : malformed(err, "the length of its body");
	}
	if (method != FM_CHUNK_LZ4 && method != FM_CHUNK_ZSTD)
		return malformed(err, "its method");
	/* An encoder sends what does not become smaller as it is. */
	if (n >= body_bytes)
		return malformed(err, "compression that makes it larger");
	bool whole;
	if (method == FM_CHUNK_LZ4)
		whole = LZ4_decompress_safe((const char *)in, (char *)d->body, (int)n, (int)body_bytes) == (int)body_bytes;
	else
		whole = ZSTD_decompressDCtx(d->zstd, d->body, body_bytes, in, n) == body_bytes;
	*ret = d->body;
	return whole ? 0 : malformed(err, "its compressed body");
}

/* What the entry takes of the body, or -1: unknown kind, body too short */
static ssize_t entry_bytes(unsigned kind, const uint8_t *body, size_t left)
{
	size_t need;

	switch (kind) {
	case FM_PAGE_KIND_ZERO:
	case FM_PAGE_KIND_DROP:
		return 0;
	case FM_PAGE_KIND_FULL:
		need = PAGE;
		break;
	case FM_PAGE_KIND_KNOWN:
		need = KNOWN_BYTES;
		break;
	case FM_PAGE_KIND_DELTA:
		if (left < DELTA_HEAD || fm_get_le16(body) > FM_DELTA_BYTES_MAX)
			return -1;
		need = DELTA_HEAD + (size_t)fm_get_le16(body) + DELTA_TAIL;
		break;
	default:
		return -1;
	}
	return need <= left ? (ssize_t)need : -1;
}

static int check_entries(const uint8_t *entries, uint32_t n, const uint8_t *body, size_t body_bytes, struct fm_error *err)
{
	size_t at = 0;

	for (uint32_t i = 0; i < n; i++) {
		uint64_t entry = fm_get_le64(entries + (size_t)i * 8);
		if (entry >= FM_PAGE_ADDRESS_END)
			return malformed(err, "an address");
		ssize_t bytes = entry_bytes(entry % PAGE, body + at, body_bytes - at);
		if (bytes < 0)
			return malformed(err, "an entry");
		at += (size_t)bytes;
	}
	return at == body_bytes ? 0 : malformed(err, "the length of its body");
}

static int put_known(struct fm_page_decoder *d, pid_t ns_pid, uint64_t vaddr, const uint8_t *body, struct fm_error *err)
{
	struct fm_page_hash h = { .lo = fm_get_le64(body), .hi = fm_get_le64(body + 8) };
	struct fm_error e = FM_ERROR_INIT;

	if (fm_page_store_put_known(d->store, ns_pid, vaddr, h, &e) == 0)
		return 0;
	if (e.code == FM_E_NOT_FOUND)
		e.code = FM_E_DATA_LOSS;
	if (err)
		*err = e;
	return -1;
}

static int put_delta(struct fm_page_decoder *d, pid_t ns_pid, uint64_t vaddr, const uint8_t *body, struct fm_error *err)
{
	size_t n = fm_get_le16(body);
	const void *old = fm_page_store_peek(d->store, ns_pid, vaddr);

	if (!old)
		return fm_error_set(err, FM_E_DATA_LOSS, "a difference to the page at %#llx of process %d, which is not here",
		                    (unsigned long long)vaddr, (int)ns_pid);
	memcpy(d->page, old, PAGE);
	if (fm_page_delta_apply(d->page, body + DELTA_HEAD, n, err) < 0)
		return -1;
	if (XXH3_64bits(d->page, PAGE) != fm_get_le64(body + DELTA_HEAD + n))
		return fm_error_set(err, FM_E_DATA_LOSS, "the page at %#llx of process %d is not what the source has after its difference",
		                    (unsigned long long)vaddr, (int)ns_pid);
	return fm_page_store_put(d->store, ns_pid, vaddr, d->page, err);
}

static int take_entry(struct fm_page_decoder *d, pid_t ns_pid, uint64_t entry, const uint8_t *body, struct fm_error *err)
{
	uint64_t vaddr = entry - entry % PAGE;

	switch (entry % PAGE) {
	case FM_PAGE_KIND_ZERO:
		return fm_page_store_put_zero(d->store, ns_pid, vaddr, err);
	case FM_PAGE_KIND_FULL:
		return fm_page_store_put(d->store, ns_pid, vaddr, body, err);
	case FM_PAGE_KIND_KNOWN:
		return put_known(d, ns_pid, vaddr, body, err);
	case FM_PAGE_KIND_DELTA:
		return put_delta(d, ns_pid, vaddr, body, err);
	default: /* DROP: nothing else passed check_entries */
		return fm_page_store_drop(d->store, ns_pid, vaddr, 1, err);
	}
}

int fm_page_decoder_chunk(struct fm_page_decoder *d, pid_t ns_pid, const void *chunk, size_t n, struct fm_error *err)
{
	const uint8_t *p = chunk, *body = NULL;

	if (ns_pid <= 0)
		return malformed(err, "its process");
	if (n < FM_CHUNK_HEAD_BYTES || n > FM_CHUNK_BYTES_MAX)
		return malformed(err, "its length");
	uint32_t n_entries = fm_get_le32(p), body_bytes = fm_get_le32(p + 8);
	if (n_entries == 0 || n_entries > FM_CHUNK_PAGES_MAX || body_bytes > n_entries * PAGE || p[5] || p[6] || p[7])
		return malformed(err, "its head");
	size_t before = FM_CHUNK_HEAD_BYTES + (size_t)n_entries * 8;
	if (n < before)
		return malformed(err, "its length");
	if (unpack(d, p[4], p + before, n - before, body_bytes, &body, err) < 0)
		return -1;
	const uint8_t *entries = p + FM_CHUNK_HEAD_BYTES;
	if (check_entries(entries, n_entries, body, body_bytes, err) < 0)
		return -1;
	for (uint32_t i = 0; i < n_entries; i++) {
		uint64_t entry = fm_get_le64(entries + (size_t)i * 8);
		ssize_t bytes = entry_bytes(entry % PAGE, body, PAGE);
		if (take_entry(d, ns_pid, entry, body, err) < 0)
			return -1;
		body += bytes;
	}
	return 0;
}
