/* SPDX-License-Identifier: MIT */
/*
 * page-store-index.c - "pages.index": what a sealed store knows, so that another process takes it up. See page-store.h.
 *
 * Written once, by seal, under another name first: the file is whole or not there. A header, then three arrays, each with its checksum in the header: the keys of the leaves, the leaves
 * (values as in page-store-internal.h) and 32 bits of the hash of each slot. It stays on this host: numbers are the processor's own.
 *
 * The snapshot is not brought up to date by fm_page_store_taken; the holes in the file of slots tell which pages are gone: a slot of zeros is one, since zero pages have no slot.
 */
#include "sync/page-store-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "basic/io.h"
#include "sync/crc32c.h"

#define MAGIC   0x3158444947504d46ull /* "FMPGIDX1" */
#define VERSION 1u

struct index_header {
	uint64_t magic;
	uint64_t max_bytes;
	uint32_t version;
	uint32_t n_leaves, n_slots;
	uint32_t keys_crc, leaves_crc, checks_crc;
	uint32_t reserved; /* 0 */
	uint32_t crc;      /* of all before */
};
_Static_assert(sizeof(struct index_header) == 48, "the file's layout");
_Static_assert(sizeof(struct fm_names_key) == 16 && sizeof(struct fm_names_leaf) == 256, "the file's layout");

static uint32_t header_crc(const struct index_header *h)
{
	return fm_crc32c(0, h, offsetof(struct index_header, crc));
}

static int write_arrays(int fd, const struct fm_page_store *s, const uint32_t *checks, struct fm_error *err)
{
	size_t keys = s->names.n * sizeof(*s->names.keys), leaves = s->names.n * sizeof(*s->names.leaves);
	size_t slots = s->contents.n * sizeof(*checks);
	struct index_header h = {
		.magic = MAGIC,
		.max_bytes = s->max_bytes,
		.version = VERSION,
		.n_leaves = s->names.n,
		.n_slots = s->contents.n,
		.keys_crc = fm_crc32c(0, s->names.keys, keys),
		.leaves_crc = fm_crc32c(0, s->names.leaves, leaves),
		.checks_crc = fm_crc32c(0, checks, slots),
	};

	h.crc = header_crc(&h);
	if (fm_write_full(fd, &h, sizeof(h), err) < 0 || fm_write_full(fd, s->names.keys, keys, err) < 0 ||
	    fm_write_full(fd, s->names.leaves, leaves, err) < 0 || fm_write_full(fd, checks, slots, err) < 0)
		return fm_error_prefix(err, "writing " FM_STORE_INDEX);
	return 0;
}

int fm_store_write_index(const struct fm_page_store *s, struct fm_error *err)
{
	_fm_free_ uint32_t *checks = malloc((s->contents.n + 1ull) * sizeof(*checks));
	_fm_close_ int fd = -1;

	if (!checks)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for the page store's index");
	for (uint32_t i = 0; i < s->contents.n; i++)
		checks[i] = (uint32_t)s->contents.v[i].hash.hi;
	fd = openat(s->dirfd, FM_STORE_INDEX_TMP, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return fm_error_errno(err, errno, "cannot create " FM_STORE_INDEX_TMP);
	int r = write_arrays(fd, s, checks, err);
	if (r == 0 && renameat(s->dirfd, FM_STORE_INDEX_TMP, s->dirfd, FM_STORE_INDEX) < 0)
		r = fm_error_errno(err, errno, "cannot rename " FM_STORE_INDEX_TMP);
	if (r < 0)
		(void)unlinkat(s->dirfd, FM_STORE_INDEX_TMP, 0);
	return r;
}

static int damaged(struct fm_error *err, const char *what)
{
	return fm_error_set(err, FM_E_DATA_LOSS, FM_STORE_INDEX " is damaged: %s", what);
}

static int read_header(int fd, struct index_header *h, struct fm_error *err)
{
	struct stat sb;

	if (fstat(fd, &sb) < 0)
		return fm_error_errno(err, errno, "cannot read " FM_STORE_INDEX);
	if (!S_ISREG(sb.st_mode) || sb.st_size < (off_t)sizeof(*h))
		return damaged(err, "no header");
	if (fm_read_full(fd, h, sizeof(*h), err) < 0)
		return fm_error_prefix(err, "reading " FM_STORE_INDEX);
	if (h->magic != MAGIC || h->version != VERSION || h->reserved || h->crc != header_crc(h))
		return damaged(err, "its header");
	if (!h->max_bytes || h->max_bytes > FM_STORE_BYTES_MAX || h->max_bytes % FM_STORE_PAGE || h->n_slots > h->max_bytes / FM_STORE_PAGE)
		return damaged(err, "its sizes");
	uint64_t expected = sizeof(*h) + (uint64_t)h->n_leaves * (sizeof(struct fm_names_key) + sizeof(struct fm_names_leaf)) +
	                    (uint64_t)h->n_slots * sizeof(uint32_t);
	if ((uint64_t)sb.st_size != expected)
		return damaged(err, "its length");
	return 0;
}

static int read_array(int fd, void *to, size_t bytes, uint32_t crc, struct fm_error *err)
{
	if (fm_read_full(fd, to, bytes, err) < 0)
		return fm_error_prefix(err, "reading " FM_STORE_INDEX);
	return fm_crc32c(0, to, bytes) == crc ? 0 : damaged(err, "a checksum");
}

static int read_names(struct fm_page_store *s, int fd, const struct index_header *h, struct fm_error *err)
{
	_fm_free_ struct fm_names_key *keys = malloc((h->n_leaves + 1ull) * sizeof(*keys));

	if (!keys)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for the page store's index");
	if (read_array(fd, keys, h->n_leaves * sizeof(*keys), h->keys_crc, err) < 0)
		return -1;
	for (uint32_t i = 0; i < h->n_leaves; i++)
		if (keys[i].ns_pid <= 0 || keys[i].no >= FM_PAGE_ADDRESS_END / FM_STORE_PAGE / FM_NAMES_LEAF_PAGES)
			return damaged(err, "an address");
	if (fm_names_load(&s->names, keys, h->n_leaves, err) < 0)
		return -1;
	return read_array(fd, s->names.leaves, h->n_leaves * sizeof(*s->names.leaves), h->leaves_crc, err);
}

static int open_slots(struct fm_page_store *s, int dirfd, uint32_t n_slots, struct fm_error *err)
{
	uint64_t bytes = n_slots * FM_STORE_PAGE;
	struct stat sb;

	s->fd = openat(dirfd, FM_STORE_FILE, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (s->fd < 0 || fstat(s->fd, &sb) < 0)
		return fm_error_set(err, FM_E_DATA_LOSS, "cannot open " FM_STORE_FILE ": %s", strerror(errno));
	if (!S_ISREG(sb.st_mode) || (uint64_t)sb.st_size < bytes || (uint64_t)sb.st_size > s->max_bytes)
		return fm_error_set(err, FM_E_DATA_LOSS, FM_STORE_FILE " has an impossible size of %lld bytes", (long long)sb.st_size);
	s->contents.v = calloc(n_slots + 1ull, sizeof(*s->contents.v));
	if (!s->contents.v)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for the page store's contents");
	s->contents.n = s->contents.cap = n_slots;
	return fm_store_map(s, bytes, err);
}

/* Slots in use get refs 1, which are counted later; holes (what was taken before the crash) stay 0. */
static int check_slots(struct fm_page_store *s, const uint32_t *checks, struct fm_error *err)
{
	off_t end = (off_t)s->mapped;

	for (off_t at = 0; at < end;) {
		off_t data = lseek(s->fd, at, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			break;
		off_t hole = data < 0 ? -1 : lseek(s->fd, data, SEEK_HOLE);
		if (hole < 0)
			return fm_error_errno(err, errno, "cannot find the holes of " FM_STORE_FILE);
		uint32_t slot = (uint32_t)((uint64_t)data / FM_STORE_PAGE);
		/* All at once, where the kernel can (Linux 5.14): a fault for each page would take longer than the check. */
		off_t upto = hole < end ? hole : end;
		if (upto > data)
			(void)madvise(s->base + data, (size_t)(upto - data), MADV_POPULATE_READ);
		for (; slot < s->contents.n && (off_t)(slot * FM_STORE_PAGE) < hole; slot++) {
			const void *page = fm_store_slot(s, slot);
			if (fm_page_is_zero(page))
				continue;
			if ((uint32_t)fm_page_hash(page).hi != checks[slot])
				return fm_error_set(err, FM_E_DATA_LOSS, FM_STORE_FILE " is damaged: page %u", slot);
			s->contents.v[slot].refs = 1;
		}
		at = hole;
	}
	return 0;
}

static int count_leaf(struct fm_page_store *s, uint32_t leaf, struct fm_error *err)
{
	for (uint32_t i = 0; i < FM_NAMES_LEAF_PAGES; i++) {
		uint32_t v = s->names.leaves[leaf].v[i];
		if (v >= FM_NAME_SLOT && v - FM_NAME_SLOT >= s->contents.n)
			return damaged(err, "a page outside the file");
		if (v >= FM_NAME_SLOT && !s->contents.v[v - FM_NAME_SLOT].refs)
			v = s->names.leaves[leaf].v[i] = FM_NAME_NONE;
		if (v == FM_NAME_NONE)
			continue;
		s->names.keys[leaf].used++;
		s->pages++;
		if (v == FM_NAME_ZERO)
			s->zero_pages++;
		else
			s->contents.v[v - FM_NAME_SLOT].refs++;
	}
	return 0;
}

static int count_names(struct fm_page_store *s, struct fm_error *err)
{
	for (uint32_t i = 0; i < s->names.n; i++)
		if (count_leaf(s, i, err) < 0)
			return -1;
	if (s->pages > s->max_names)
		return damaged(err, "more pages than allowed");
	for (uint32_t i = 0; i < s->contents.n; i++) {
		if (s->contents.v[i].refs) /* less the one from check_slots */
			s->contents.v[i].refs--;
		s->unique_pages += s->contents.v[i].refs != 0;
	}
	return 0;
}

int fm_page_store_open(int dirfd, struct fm_page_store **ret, struct fm_error *err)
{
	_fm_cleanup_(fm_page_store_freep) struct fm_page_store *s = NULL;
	_fm_free_ uint32_t *checks = NULL;
	_fm_close_ int fd = openat(dirfd, FM_STORE_INDEX, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	struct index_header h;

	if (fd < 0 && errno == ENOENT)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "there is no sealed page store");
	if (fd < 0)
		return fm_error_errno(err, errno, "cannot open " FM_STORE_INDEX);
	if (read_header(fd, &h, err) < 0 || fm_store_alloc(h.max_bytes, &s, err) < 0)
		return -1;
	s->sealed = true;
	checks = malloc((h.n_slots + 1ull) * sizeof(*checks));
	if (!checks)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for the page store's index");
	if (read_names(s, fd, &h, err) < 0 || read_array(fd, checks, h.n_slots * sizeof(*checks), h.checks_crc, err) < 0)
		return -1;
	if (open_slots(s, dirfd, h.n_slots, err) < 0 || check_slots(s, checks, err) < 0 || count_names(s, err) < 0)
		return -1;
	*ret = FM_TAKE_PTR(s);
	return 0;
}
