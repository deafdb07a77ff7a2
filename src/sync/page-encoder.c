/* SPDX-License-Identifier: MIT */
/*
 * page-encoder.c - see page-codec.h.
 *
 * Keeps the same two tables as the store at the other end (page -> content, content -> how many pages have it), without the bytes, and changes them in the same order as the decoder will:
 * entry by entry, the new content is looked up before the old one is given up. So a content that is here is there.
 */
#include <string.h>
#include <xxhash.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "sync/page-contents.h"
#include "sync/page-delta.h"
#include "sync/page-encoder-internal.h"
#include "sync/stream-internal.h"

#define PAGE                4096u
#define DELTA_CACHE_DEFAULT (32ull << 20)
#define PAGES_MAX           (1u << 30) /* of all processes: 4 TiB */

/* What was sent last of a page. */
enum { SENT_NOTHING = 0, SENT_ZERO = 1, SENT_CONTENT = 2 /* + its number */ };

struct fm_page_encoder {
	struct fm_names sent;
	struct fm_contents contents;
	struct fm_delta_cache cache;
	struct fm_packer packer;
	struct fm_hash_secret secret;
	bool broken; /* an error in the middle of a chunk: what the destination has is not known any more */
	struct fm_page_encoder_stats stats;
};

/* A chunk in the making: entries and body grow in the caller's buffer, the body behind the place of the most entries. */
struct chunk {
	pid_t ns_pid;
	uint8_t *entries, *body;
	size_t n, body_len;
};

static const uint64_t zero_page[PAGE / 8];

FM_DEFINE_CLEANUP(struct fm_page_encoder *, fm_page_encoder_free);

int fm_page_encoder_new(const struct fm_page_encoder_opts *o, struct fm_page_encoder **ret, struct fm_error *err)
{
	uint64_t cache = o->delta_cache_bytes == 0 ? DELTA_CACHE_DEFAULT : o->delta_cache_bytes == UINT64_MAX ? 0 : o->delta_cache_bytes;

	if (o->compress < -1 || o->compress > FM_CHUNK_ZSTD)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "there is no compression number %d", o->compress);
	if (!o->secret)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "an encoder of pages needs the secret of the store at the other end");
	_fm_cleanup_(fm_page_encoder_freep) struct fm_page_encoder *e = calloc(1, sizeof(*e));
	if (!e)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for an encoder of pages");
	e->secret = *o->secret;
	fm_names_init(&e->sent, PAGES_MAX);
	fm_contents_init(&e->contents, PAGES_MAX);
	if (fm_delta_cache_init(&e->cache, cache, err) < 0 || fm_packer_init(&e->packer, o->compress, err) < 0)
		return -1;
	*ret = FM_TAKE_PTR(e);
	return 0;
}

void fm_page_encoder_free(struct fm_page_encoder *e)
{
	if (!e)
		return;
	fm_names_done(&e->sent);
	fm_contents_done(&e->contents);
	fm_delta_cache_done(&e->cache);
	fm_packer_done(&e->packer);
	free(e);
}

static void add_entry(struct chunk *c, uint64_t page, enum fm_page_kind kind)
{
	fm_put_le64(c->entries + c->n * 8, page * PAGE | kind);
	c->n++;
}

/* value: its reference is taken already */
static void set_sent(struct fm_page_encoder *e, struct fm_names_ref ref, uint32_t value)
{
	uint32_t old = fm_names_at(&e->sent, ref);

	fm_names_set(&e->sent, ref, value);
	if (old >= SENT_CONTENT)
		(void)fm_contents_unref(&e->contents, old - SENT_CONTENT);
}

static void add_zero(struct fm_page_encoder *e, struct chunk *c, struct fm_names_ref ref, uint64_t page)
{
	add_entry(c, page, FM_PAGE_KIND_ZERO);
	fm_delta_cache_forget(&e->cache, c->ns_pid, page);
	set_sent(e, ref, SENT_ZERO);
	e->stats.zero++;
}

static void add_known(struct fm_page_encoder *e, struct chunk *c, uint64_t page, struct fm_page_hash h)
{
	add_entry(c, page, FM_PAGE_KIND_KNOWN);
	fm_put_le64(c->body + c->body_len, h.lo);
	fm_put_le64(c->body + c->body_len + 8, h.hi);
	c->body_len += 16;
	e->stats.known++;
}

/* As a difference to what was sent last, when those bytes are at hand and it is worth it */
static void add_bytes(struct fm_page_encoder *e, struct chunk *c, uint64_t page, uint32_t old, const void *bytes)
{
	const void *base = old == SENT_ZERO ? zero_page : old ? fm_delta_cache_get(&e->cache, c->ns_pid, page) : NULL;
	uint8_t *to = c->body + c->body_len;
	size_t n = base ? fm_page_delta_encode(base, bytes, to + 2, FM_DELTA_BYTES_MAX) : 0;

	if (n) {
		add_entry(c, page, FM_PAGE_KIND_DELTA);
		fm_put_le16(to, (uint16_t)n);
		fm_put_le64(to + 2 + n, XXH3_64bits(bytes, PAGE));
		c->body_len += 2 + n + 8;
		e->stats.delta++;
		return;
	}
	add_entry(c, page, FM_PAGE_KIND_FULL);
	memcpy(to, bytes, PAGE);
	c->body_len += PAGE;
	e->stats.full++;
}

static int add_page(struct fm_page_encoder *e, struct chunk *c, uint64_t page, const void *bytes, struct fm_error *err)
{
	unsigned budget = FM_CONTENT_SEARCH_MAX;
	struct fm_names_ref ref;
	uint32_t content;

	if (fm_names_reserve(&e->sent, c->ns_pid, page, &ref, err) < 0)
		return -1;
	uint32_t old = fm_names_at(&e->sent, ref);
	if (fm_page_is_zero(bytes)) {
		if (old == SENT_ZERO)
			e->stats.unchanged++;
		else
			add_zero(e, c, ref, page);
		return 0;
	}
	struct fm_page_hash h = fm_page_hash(&e->secret, bytes);
	if (old >= SENT_CONTENT && e->contents.v[old - SENT_CONTENT].hash.lo == h.lo && e->contents.v[old - SENT_CONTENT].hash.hi == h.hi) {
		e->stats.unchanged++;
		return 0;
	}
	content = fm_contents_find(&e->contents, h, FM_CONTENT_NONE, &budget);
	if (content != FM_CONTENT_NONE) {
		fm_contents_ref(&e->contents, content);
		add_known(e, c, page, h);
	} else {
		if (fm_contents_reserve(&e->contents, &content, err) < 0)
			return -1;
		content = fm_contents_add(&e->contents, h);
		add_bytes(e, c, page, old, bytes);
	}
	set_sent(e, ref, SENT_CONTENT + content);
	/* Only what was sent before: most pages never change, and would push out those that do. */
	return old ? fm_delta_cache_put(&e->cache, c->ns_pid, page, bytes, err) : 0;
}

static int check_range(const struct fm_page_encoder *e, pid_t ns_pid, uint64_t vaddr, size_t n, struct fm_error *err)
{
	if (e->broken)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "this encoder of pages has failed before");
	if (ns_pid <= 0 || vaddr % PAGE || n == 0 || n > FM_CHUNK_PAGES_MAX || vaddr > FM_PAGE_ADDRESS_END - (uint64_t)n * PAGE)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "no chunk can be made of %zu pages at %#llx of process %d", n,
		                    (unsigned long long)vaddr, (int)ns_pid);
	return 0;
}

/* Puts the parts together; returns the length. */
static size_t finish(struct fm_page_encoder *e, struct chunk *c, uint8_t *out, uint64_t made_us)
{
	size_t before = FM_CHUNK_HEAD_BYTES + c->n * 8, packed = c->body_len;

	if (!c->n)
		return 0;
	enum fm_chunk_method method = fm_packer_pack(&e->packer, c->body, &packed, made_us);
	fm_put_le32(out, (uint32_t)c->n);
	fm_put_le32(out + 4, method); /* and the pad */
	fm_put_le32(out + 8, (uint32_t)c->body_len);
	if (out + before != c->body)
		memmove(out + before, c->body, packed);
	e->stats.bytes_out += before + packed;
	return before + packed;
}

int fm_page_encoder_pages(struct fm_page_encoder *e, pid_t ns_pid, const uint64_t *addresses, const void *pages, size_t n, uint8_t *out,
                          size_t *ret_len, struct fm_error *err)
{
	struct chunk c = { .ns_pid = ns_pid, .entries = out + FM_CHUNK_HEAD_BYTES, .body = out + FM_CHUNK_HEAD_BYTES + n * 8 };
	uint64_t start = fm_now_us();

	for (size_t i = 0; i < n; i++)
		if (check_range(e, ns_pid, addresses[i], 1, err) < 0)
			return -1;
	if (n == 0 || n > FM_CHUNK_PAGES_MAX)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "no chunk can be made of %zu pages", n);
	for (size_t i = 0; i < n; i++)
		if (add_page(e, &c, addresses[i] / PAGE, (const uint8_t *)pages + i * PAGE, err) < 0) {
			e->broken = true;
			return -1;
		}
	*ret_len = finish(e, &c, out, fm_now_us() - start);
	e->stats.pages_in += n;
	e->stats.bytes_in += (uint64_t)n * PAGE;
	e->stats.encode_us += fm_now_us() - start;
	return 0;
}

int fm_page_encoder_chunk(struct fm_page_encoder *e, pid_t ns_pid, uint64_t vaddr, const void *pages, size_t n, uint8_t *out,
                          size_t *ret_len, struct fm_error *err)
{
	uint64_t addresses[FM_CHUNK_PAGES_MAX];

	if (check_range(e, ns_pid, vaddr, n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++)
		addresses[i] = vaddr + i * PAGE;
	return fm_page_encoder_pages(e, ns_pid, addresses, pages, n, out, ret_len, err);
}

struct dropping {
	struct fm_page_encoder *e;
	struct chunk c;
};

static void drop_one(void *ctx, struct fm_names_ref ref)
{
	struct dropping *d = ctx;
	uint64_t page = d->e->sent.keys[ref.leaf].no * FM_NAMES_LEAF_PAGES + ref.i;

	add_entry(&d->c, page, FM_PAGE_KIND_DROP);
	fm_delta_cache_forget(&d->e->cache, d->c.ns_pid, page);
	set_sent(d->e, ref, SENT_NOTHING);
	d->e->stats.dropped++;
}

int fm_page_encoder_drop(struct fm_page_encoder *e, pid_t ns_pid, uint64_t vaddr, size_t n, uint8_t *out, size_t *ret_len,
                         struct fm_error *err)
{
	struct dropping d = { .e = e, .c = { .ns_pid = ns_pid, .entries = out + FM_CHUNK_HEAD_BYTES } };

	if (check_range(e, ns_pid, vaddr, n, err) < 0)
		return -1;
	fm_names_each(&e->sent, ns_pid, vaddr / PAGE, n, drop_one, &d);
	d.c.body = out + FM_CHUNK_HEAD_BYTES + d.c.n * 8;
	*ret_len = finish(e, &d.c, out, 0);
	return 0;
}

void fm_page_encoder_restart(struct fm_page_encoder *e)
{
	fm_names_done(&e->sent);
	fm_contents_done(&e->contents);
	fm_names_init(&e->sent, PAGES_MAX);
	fm_contents_init(&e->contents, PAGES_MAX);
	fm_delta_cache_clear(&e->cache);
}

static int preload_one(struct fm_page_encoder *e, pid_t ns_pid, uint64_t page, struct fm_page_hash h, struct fm_error *err)
{
	unsigned budget = FM_CONTENT_SEARCH_MAX;
	struct fm_names_ref ref;

	if (fm_names_reserve(&e->sent, ns_pid, page, &ref, err) < 0)
		return -1;
	if (h.lo == 0 && h.hi == 0) {
		set_sent(e, ref, SENT_ZERO);
		return 0;
	}
	uint32_t content = fm_contents_find(&e->contents, h, FM_CONTENT_NONE, &budget);
	if (content != FM_CONTENT_NONE) {
		fm_contents_ref(&e->contents, content);
	} else {
		if (fm_contents_reserve(&e->contents, &content, err) < 0)
			return -1;
		content = fm_contents_add(&e->contents, h);
	}
	set_sent(e, ref, SENT_CONTENT + content);
	return 0;
}

int fm_page_encoder_preload(struct fm_page_encoder *e, pid_t ns_pid, uint64_t vaddr, const struct fm_page_hash *hashes, size_t n,
                            struct fm_error *err)
{
	if (check_range(e, ns_pid, vaddr, n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++)
		if (preload_one(e, ns_pid, vaddr / PAGE + i, hashes[i], err) < 0) {
			e->broken = true;
			return -1;
		}
	return 0;
}

bool fm_page_encoder_has_sent(const struct fm_page_encoder *e, pid_t ns_pid, uint64_t vaddr)
{
	return fm_names_get(&e->sent, ns_pid, vaddr / PAGE) >= SENT_ZERO;
}

void fm_page_encoder_link(struct fm_page_encoder *e, uint64_t bytes, uint64_t us)
{
	fm_packer_link(&e->packer, bytes, us);
}

void fm_page_encoder_give_way(struct fm_page_encoder *e, struct fm_giveway *g)
{
	e->packer.giveway = g;
}

void fm_page_encoder_stats(const struct fm_page_encoder *e, struct fm_page_encoder_stats *ret)
{
	*ret = e->stats;
	ret->method = e->packer.method;
}
