/* SPDX-License-Identifier: MIT */
/*
 * page-store.c - see page-store.h.
 *
 * Three tables: names (page -> slot), contents (hash -> slot, with counts of the names that have it) and the slots. A slot is written before a name points to it. A page that is overwritten
 * and has its content for itself is overwritten in place: what changes again and again makes no holes.
 *
 * Slots are anonymous memory in huge pages where there are any: on virtual machines the first touch of each page can cost more than its copy. It is made chunk by chunk with
 * MADV_POPULATE_WRITE, which tells when there is none left, and given back in chunks, when all of a chunk's pages have been taken: to give back single pages would make the kernel interrupt
 * all processors that run threads of ours, each time. No child of this process inherits it, and it is in no core dump.
 */
#include "sync/page-store-internal.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <xxhash.h>

#define CHUNK_BYTES (FM_STORE_CHUNK * FM_STORE_PAGE)

static const uint64_t zero_page[FM_STORE_PAGE / 8];

struct fm_page_hash fm_page_hash(const struct fm_hash_secret *secret, const void *page)
{
	XXH128_hash_t h = fm_hash_keyed(secret, page, FM_STORE_PAGE);
	return (struct fm_page_hash){ .lo = h.low64, .hi = h.high64 };
}

bool fm_page_is_zero(const void *page)
{
	uint64_t first;

	/* Most pages are told apart by their first bytes, without a call. */
	memcpy(&first, page, sizeof(first));
	return !first && memcmp(page, zero_page, FM_STORE_PAGE) == 0;
}

int fm_page_store_new(uint64_t max_bytes, struct fm_page_store **ret, struct fm_error *err)
{
	max_bytes -= max_bytes % FM_STORE_PAGE;
	if (!max_bytes || max_bytes > FM_STORE_BYTES_MAX)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a page store holds one page to 1 TiB, not %llu bytes",
		                    (unsigned long long)max_bytes);
	_fm_cleanup_(fm_page_store_freep) struct fm_page_store *s = calloc(1, sizeof(*s));
	if (!s)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for a page store");
	s->live = calloc(max_bytes / FM_STORE_PAGE / FM_STORE_CHUNK + 1, sizeof(*s->live));
	if (!s->live)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for a page store");
	s->max_bytes = max_bytes;
	s->max_names = max_bytes / FM_STORE_PAGE * 4;
	fm_hash_secret_draw(&s->secret);
	fm_names_init(&s->names, s->max_names);
	fm_contents_init(&s->contents, (uint32_t)(max_bytes / FM_STORE_PAGE));
	/* One chunk more than is used, to begin at a multiple of one. */
	uint8_t *p = mmap(NULL, max_bytes + 2 * CHUNK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return fm_error_errno(err, errno, "cannot reserve %llu bytes of address space for pages", (unsigned long long)max_bytes);
	s->area = p;
	s->area_bytes = max_bytes + 2 * CHUNK_BYTES;
	s->base = p + (CHUNK_BYTES - (uintptr_t)p % CHUNK_BYTES) % CHUNK_BYTES;
	(void)madvise(p, s->area_bytes, MADV_HUGEPAGE);
	(void)madvise(p, s->area_bytes, MADV_DONTFORK);
	(void)madvise(p, s->area_bytes, MADV_DONTDUMP);
	*ret = FM_TAKE_PTR(s);
	return 0;
}

void fm_page_store_free(struct fm_page_store *s)
{
	if (!s)
		return;
	if (s->area)
		(void)munmap(s->area, s->area_bytes);
	free(s->live);
	fm_names_done(&s->names);
	fm_contents_done(&s->contents);
	free(s);
}

static struct fm_page_hash hash_of_slot(const void *ctx, uint32_t slot)
{
	const struct fm_page_store *s = ctx;

	return fm_page_hash(&s->secret, fm_store_slot(s, slot));
}

int fm_page_store_set_secret(struct fm_page_store *s, const struct fm_hash_secret *secret, struct fm_error *err)
{
	if (memcmp(&s->secret, secret, sizeof(*secret)) == 0)
		return 0;
	if (s->sealed)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "the page store is sealed: its hashes stay as they are");
	s->secret = *secret;
	fm_contents_rehash(&s->contents, hash_of_slot, s);
	return 0;
}

/* Memory behind this slot. Kernels before 5.14 have no MADV_POPULATE_WRITE: then it comes with the first touch. */
static int back_slot(struct fm_page_store *s, uint32_t slot, struct fm_error *err)
{
	if ((uint64_t)slot * FM_STORE_PAGE < s->backed)
		return 0;
	if (madvise(s->base + s->backed, CHUNK_BYTES, MADV_POPULATE_WRITE) < 0 && errno != EINVAL)
		return fm_error_errno(err, errno, "no memory for pages after %llu bytes", (unsigned long long)s->backed);
	s->backed += CHUNK_BYTES;
	return 0;
}

static void count(_Atomic uint64_t *what, int64_t by)
{
	atomic_fetch_add_explicit(what, (uint64_t)by, memory_order_relaxed);
}

/* For the one thread that fills: readers of the figures see whole numbers, and there is no bus lock. */
static void count_filling(_Atomic uint64_t *what, int by)
{
	atomic_store_explicit(what, atomic_load_explicit(what, memory_order_relaxed) + (uint64_t)(int64_t)by, memory_order_relaxed);
}

static void count_slot(struct fm_page_store *s, uint32_t slot, int by)
{
	_Atomic uint16_t *live = &s->live[slot / FM_STORE_CHUNK];

	atomic_store_explicit(live, (uint16_t)(atomic_load_explicit(live, memory_order_relaxed) + by), memory_order_relaxed);
	count_filling(&s->unique_pages, by);
}

static void give_up(struct fm_page_store *s, uint32_t value)
{
	if (value == FM_NAME_ZERO)
		count_filling(&s->zero_pages, -1);
	else if (value >= FM_NAME_SLOT && fm_contents_unref(&s->contents, value - FM_NAME_SLOT))
		count_slot(s, value - FM_NAME_SLOT, -1);
}

/* value: its reference is taken already */
static void set_name(struct fm_page_store *s, struct fm_names_ref ref, uint32_t value)
{
	uint32_t old = fm_names_at(&s->names, ref);

	fm_names_set(&s->names, ref, value);
	if (value == FM_NAME_ZERO)
		count_filling(&s->zero_pages, 1);
	count_filling(&s->pages, (value != FM_NAME_NONE) - (old != FM_NAME_NONE));
	give_up(s, old);
}

static int reserve_name(struct fm_page_store *s, pid_t ns_pid, uint64_t vaddr, struct fm_names_ref *ret, struct fm_error *err)
{
	if (s->sealed)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "the page store is sealed: it takes no more pages");
	if (ns_pid <= 0 || vaddr % FM_STORE_PAGE || vaddr >= FM_PAGE_ADDRESS_END)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "no page can lie at %#llx of process %d", (unsigned long long)vaddr,
		                    (int)ns_pid);
	if (fm_names_reserve(&s->names, ns_pid, vaddr / FM_STORE_PAGE, ret, err) < 0)
		return -1;
	if (atomic_load_explicit(&s->pages, memory_order_relaxed) >= s->max_names && !fm_names_at(&s->names, *ret))
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "the page store has %llu pages and takes no more",
		                    (unsigned long long)s->max_names);
	return 0;
}

static uint32_t find_same(const struct fm_page_store *s, struct fm_page_hash h, const void *page)
{
	unsigned budget = FM_CONTENT_SEARCH_MAX;
	uint32_t slot = FM_CONTENT_NONE;

	do
		slot = fm_contents_find(&s->contents, h, slot, &budget);
	while (slot != FM_CONTENT_NONE && memcmp(fm_store_slot(s, slot), page, FM_STORE_PAGE) != 0);
	return slot;
}

/* Is this content nobody else's? Then it can be changed where it is. */
static bool is_alone(const struct fm_page_store *s, uint32_t value)
{
	return value >= FM_NAME_SLOT && atomic_load_explicit(&s->contents.v[value - FM_NAME_SLOT].refs, memory_order_relaxed) == 1;
}

int fm_store_put_hashed(struct fm_page_store *s, pid_t ns_pid, uint64_t vaddr, const void *page, struct fm_page_hash h,
                        struct fm_error *err)
{
	struct fm_names_ref ref;
	uint32_t slot;

	fm_contents_prefetch(&s->contents, h);
	if (reserve_name(s, ns_pid, vaddr, &ref, err) < 0)
		return -1;
	uint32_t old = fm_names_at(&s->names, ref);
	slot = find_same(s, h, page);
	if (slot != FM_CONTENT_NONE) {
		if (old == slot + FM_NAME_SLOT)
			return 0;
		fm_contents_ref(&s->contents, slot);
	} else if (is_alone(s, old)) {
		memcpy(fm_store_slot(s, old - FM_NAME_SLOT), page, FM_STORE_PAGE);
		fm_contents_change(&s->contents, old - FM_NAME_SLOT, h);
		return 0;
	} else {
		if (fm_contents_reserve(&s->contents, &slot, err) < 0 || back_slot(s, slot, err) < 0)
			return -1;
		memcpy(fm_store_slot(s, slot), page, FM_STORE_PAGE);
		(void)fm_contents_add(&s->contents, h);
		count_slot(s, slot, 1);
	}
	set_name(s, ref, slot + FM_NAME_SLOT);
	return 0;
}

int fm_page_store_put(struct fm_page_store *s, pid_t ns_pid, uint64_t vaddr, const void *page, struct fm_error *err)
{
	if (fm_page_is_zero(page))
		return fm_page_store_put_zero(s, ns_pid, vaddr, err);
	return fm_store_put_hashed(s, ns_pid, vaddr, page, fm_page_hash(&s->secret, page), err);
}

int fm_page_store_put_new(struct fm_page_store *s, pid_t ns_pid, uint64_t vaddr, const void *page, bool *ret_new, struct fm_error *err)
{
	*ret_new = false;
	if (fm_page_is_zero(page))
		return 0;
	struct fm_page_hash h = fm_page_hash(&s->secret, page);
	if (find_same(s, h, page) != FM_CONTENT_NONE)
		return 0;
	if (fm_store_put_hashed(s, ns_pid, vaddr, page, h, err) < 0)
		return -1;
	*ret_new = true;
	return 0;
}

int fm_page_store_put_zero(struct fm_page_store *s, pid_t ns_pid, uint64_t vaddr, struct fm_error *err)
{
	struct fm_names_ref ref;

	if (reserve_name(s, ns_pid, vaddr, &ref, err) < 0)
		return -1;
	set_name(s, ref, FM_NAME_ZERO);
	return 0;
}

int fm_page_store_put_known(struct fm_page_store *s, pid_t ns_pid, uint64_t vaddr, struct fm_page_hash h, struct fm_error *err)
{
	unsigned budget = FM_CONTENT_SEARCH_MAX;
	struct fm_names_ref ref;

	if (reserve_name(s, ns_pid, vaddr, &ref, err) < 0)
		return -1;
	uint32_t slot = fm_contents_find(&s->contents, h, FM_CONTENT_NONE, &budget);
	if (slot == FM_CONTENT_NONE)
		return fm_error_set(err, FM_E_NOT_FOUND, "no page here has the content of %#llx of process %d", (unsigned long long)vaddr,
		                    (int)ns_pid);
	fm_contents_ref(&s->contents, slot);
	set_name(s, ref, slot + FM_NAME_SLOT);
	return 0;
}

static void drop_one(void *ctx, struct fm_names_ref ref)
{
	set_name(ctx, ref, FM_NAME_NONE);
}

int fm_page_store_drop(struct fm_page_store *s, pid_t ns_pid, uint64_t vaddr, uint64_t n_pages, struct fm_error *err)
{
	if (s->sealed)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "the page store is sealed: it drops no pages");
	if (vaddr % FM_STORE_PAGE)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "no page can lie at %#llx", (unsigned long long)vaddr);
	fm_names_each(&s->names, ns_pid, vaddr / FM_STORE_PAGE, n_pages, drop_one, s);
	return 0;
}

static enum fm_page_have have_of(uint32_t value)
{
	return value == FM_NAME_NONE ? FM_PAGE_NOT_HERE : value == FM_NAME_ZERO ? FM_PAGE_ZERO : FM_PAGE_DATA;
}

const void *fm_page_store_peek(const struct fm_page_store *s, pid_t ns_pid, uint64_t vaddr)
{
	const void *page = NULL;

	switch (fm_page_store_get(s, ns_pid, vaddr, &page)) {
	case FM_PAGE_ZERO:
		return zero_page;
	case FM_PAGE_DATA:
		return page;
	case FM_PAGE_NOT_HERE:
		break;
	}
	return NULL;
}

int fm_page_store_seal(struct fm_page_store *s, struct fm_error *err)
{
	if (s->sealed)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "the page store is sealed already");
	s->sealed = true;
	return 0;
}

bool fm_page_store_is_sealed(const struct fm_page_store *s)
{
	return s->sealed;
}

enum fm_page_have fm_page_store_get(const struct fm_page_store *s, pid_t ns_pid, uint64_t vaddr, const void **ret_page)
{
	uint32_t value = fm_names_get(&s->names, ns_pid, vaddr / FM_STORE_PAGE);
	enum fm_page_have have = have_of(value);

	*ret_page = have == FM_PAGE_DATA ? fm_store_slot(s, value - FM_NAME_SLOT) : NULL;
	return have;
}

/* How many values of the leaf, at most max from i on, go on like the one before, which is `value`; *value becomes the last that does. */
static size_t run_in_leaf(const struct fm_names_leaf *leaf, uint32_t i, size_t max, uint32_t *value)
{
	size_t n = 0;

	for (; i < FM_NAMES_LEAF_PAGES && n < max; i++, n++) {
		uint32_t v = leaf ? atomic_load_explicit(&leaf->v[i], memory_order_relaxed) : FM_NAME_NONE;
		if (v != (*value >= FM_NAME_SLOT ? *value + 1 : *value))
			break;
		*value = v;
	}
	return n;
}

size_t fm_page_store_get_run(const struct fm_page_store *s, pid_t ns_pid, uint64_t vaddr, size_t max, enum fm_page_have *ret_have,
                             const void **ret_page)
{
	uint64_t page = vaddr / FM_STORE_PAGE;
	size_t n = 1;

	if (!max)
		return 0;
	const struct fm_names_leaf *leaf = fm_names_leaf(&s->names, ns_pid, page);
	uint32_t value = leaf ? atomic_load_explicit(&leaf->v[page % FM_NAMES_LEAF_PAGES], memory_order_relaxed) : FM_NAME_NONE;
	*ret_have = have_of(value);
	*ret_page = *ret_have == FM_PAGE_DATA ? fm_store_slot(s, value - FM_NAME_SLOT) : NULL;
	while (n < max) {
		uint32_t i = (uint32_t)((page + n) % FM_NAMES_LEAF_PAGES);
		if (i == 0)
			leaf = fm_names_leaf(&s->names, ns_pid, page + n);
		size_t room = FM_NAMES_LEAF_PAGES - i < max - n ? FM_NAMES_LEAF_PAGES - i : max - n;
		size_t more = run_in_leaf(leaf, i, room, &value);
		n += more;
		if (more < room)
			break;
	}
	return n;
}

static int each_of_leaf(const struct fm_page_store *s, uint32_t leaf, fm_page_store_fn fn, void *userdata, struct fm_error *err)
{
	const struct fm_names_key *key = &s->names.keys[leaf];
	struct fm_page_hash hashes[FM_NAMES_LEAF_PAGES];
	uint32_t n = 0;

	for (uint32_t i = 0; i <= FM_NAMES_LEAF_PAGES; i++) {
		uint32_t value =
		        i < FM_NAMES_LEAF_PAGES ? atomic_load_explicit(&s->names.leaves[leaf].v[i], memory_order_relaxed) : FM_NAME_NONE;
		if (value != FM_NAME_NONE) {
			hashes[n++] = value == FM_NAME_ZERO ? (struct fm_page_hash){ 0 } : s->contents.v[value - FM_NAME_SLOT].hash;
			continue;
		}
		uint64_t first = (key->no * FM_NAMES_LEAF_PAGES + i - n) * FM_STORE_PAGE;
		if (n > 0 && fn(userdata, key->ns_pid, first, hashes, n, err) < 0)
			return -1;
		n = 0;
	}
	return 0;
}

int fm_page_store_each(const struct fm_page_store *s, fm_page_store_fn fn, void *userdata, struct fm_error *err)
{
	for (uint32_t leaf = 0; leaf < s->names.n; leaf++)
		if (each_of_leaf(s, leaf, fn, userdata, err) < 0)
			return -1;
	return 0;
}

struct taking {
	struct fm_page_store *s;
	uint64_t pages, zero_pages, unique_pages;
};

static void give_back(struct fm_page_store *s, uint32_t chunk)
{
	(void)madvise(s->base + (size_t)chunk * CHUNK_BYTES, CHUNK_BYTES, MADV_DONTNEED);
}

static void take_one(void *ctx, struct fm_names_ref ref)
{
	struct taking *t = ctx;
	uint32_t value = atomic_exchange_explicit(&t->s->names.leaves[ref.leaf].v[ref.i], FM_NAME_NONE, memory_order_relaxed);

	/* Another thread may have been faster. */
	if (value == FM_NAME_NONE)
		return;
	t->pages++;
	if (value == FM_NAME_ZERO) {
		t->zero_pages++;
		return;
	}
	uint32_t slot = value - FM_NAME_SLOT;
	/* Whoever used a content of the chunk, under whatever name, is done with it before the hole is made. */
	if (atomic_fetch_sub_explicit(&t->s->contents.v[slot].refs, 1, memory_order_acq_rel) != 1)
		return;
	t->unique_pages++;
	if (atomic_fetch_sub_explicit(&t->s->live[slot / FM_STORE_CHUNK], 1, memory_order_acq_rel) == 1)
		give_back(t->s, slot / FM_STORE_CHUNK);
}

void fm_page_store_taken(struct fm_page_store *s, pid_t ns_pid, uint64_t vaddr, uint64_t n_pages)
{
	struct taking t = { .s = s };

	if (!s->sealed)
		return;
	fm_names_each(&s->names, ns_pid, vaddr / FM_STORE_PAGE, n_pages, take_one, &t);
	count(&s->pages, -(int64_t)t.pages);
	count(&s->zero_pages, -(int64_t)t.zero_pages);
	count(&s->unique_pages, -(int64_t)t.unique_pages);
}

void fm_page_store_stats(const struct fm_page_store *s, struct fm_page_store_stats *ret)
{
	*ret = (struct fm_page_store_stats){
		.pages = atomic_load_explicit(&s->pages, memory_order_relaxed),
		.zero_pages = atomic_load_explicit(&s->zero_pages, memory_order_relaxed),
		.unique_pages = atomic_load_explicit(&s->unique_pages, memory_order_relaxed),
	};
	ret->bytes = ret->unique_pages * FM_STORE_PAGE;
}
