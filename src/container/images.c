/* SPDX-License-Identifier: MIT */
/*
 * images.c - pagemap-<pid>.img of CRIU.
 *
 * A file is two magic words, then records: u32 length, protobuf message, all little-endian as CRIU writes them on every machine we run
 * on. The first record is the head (which pages file), the others are entries: vaddr = 1, compat_nr_pages = 2, in_parent = 3, flags =
 * 4, nr_pages = 5 (where present, it counts instead of 2). Decoded by hand: five varints do not need a library, there is nothing to
 * allocate, and the input is hostile.
 *
 * The vector grows when its length is a power of two, so that no capacity has to be carried along.
 */
#include "container/images.h"

#include <dirent.h>
#include <endian.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/str.h"

#define IMAGE_MAGIC       0x54564319u
#define PAGEMAP_MAGIC     0x56084025u
#define FLAG_LAZY         (1u << 1)
#define MAX_RECORD_BYTES  256u
#define MAX_PAGEMAP_BYTES (256u << 20)
#define MAX_TOTAL_PAGES   (1ull << 32)
#define MAX_RANGES        (1u << 24)
#define MAX_ADDRESS       (1ull << 57) /* user space of five-level page tables */

#define HIDDEN_MAGIC        0x50484d46u /* "FMHP" */
#define HIDDEN_VERSION      1u
#define HIDDEN_RECORD_BYTES 24u

struct reader {
	const unsigned char *p, *end;
};

static bool take_u32(struct reader *r, uint32_t *ret)
{
	uint32_t v;

	if (r->end - r->p < 4)
		return false;
	memcpy(&v, r->p, 4);
	r->p += 4;
	*ret = le32toh(v);
	return true;
}

static bool take_varint(struct reader *r, uint64_t *ret)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 70 && r->p < r->end; shift += 7) {
		unsigned char b = *r->p++;

		if (shift == 63 && b > 1)
			return false;
		v |= (uint64_t)(b & 0x7f) << shift;
		if (!(b & 0x80)) {
			*ret = v;
			return true;
		}
	}
	return false;
}

/* The value of a field that is no varint: only its length matters. */
static bool skip_field(struct reader *r, unsigned wire)
{
	uint64_t n;

	if (wire == 1)
		n = 8;
	else if (wire == 5)
		n = 4;
	else if (wire != 2 || !take_varint(r, &n))
		return false;
	if (n > (uint64_t)(r->end - r->p))
		return false;
	r->p += n;
	return true;
}

struct entry {
	uint64_t vaddr, n_pages, flags;
};

static bool parse_entry(struct reader r, struct entry *ret)
{
	uint64_t values[6] = { 0 };
	bool have[6] = { false };

	while (r.p < r.end) {
		uint64_t key, value;

		if (!take_varint(&r, &key) || key >> 3 == 0)
			return false;
		if ((key & 7) != 0) {
			if (!skip_field(&r, key & 7))
				return false;
			continue;
		}
		if (!take_varint(&r, &value))
			return false;
		if (key >> 3 < FM_ARRAY_SIZE(values)) {
			values[key >> 3] = value;
			have[key >> 3] = true;
		}
	}
	*ret = (struct entry){ .vaddr = values[1], .n_pages = have[5] ? values[5] : values[2], .flags = values[4] };
	return have[1] && (have[2] || have[5]);
}

static int append(struct fm_lazy_range **v, size_t *n, const struct fm_lazy_range *item, struct fm_error *err)
{
	if (*n >= MAX_RANGES)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "more than %u lazy ranges", MAX_RANGES);
	if ((*n & (*n - 1)) == 0) {
		struct fm_lazy_range *bigger = reallocarray(*v, *n ? 2 * *n : 1, sizeof(**v));

		if (!bigger)
			return fm_error_errno(err, ENOMEM, "reading lazy ranges");
		*v = bigger;
	}
	(*v)[(*n)++] = *item;
	return 0;
}

static int check_entry(const struct entry *e, uint64_t page_size, struct fm_error *err)
{
	if (e->n_pages == 0 || e->n_pages > MAX_TOTAL_PAGES || e->vaddr % page_size != 0 || e->vaddr >= MAX_ADDRESS ||
	    e->n_pages > (MAX_ADDRESS - e->vaddr) / page_size)
		return fm_error_set(err, FM_E_DATA_LOSS, "pagemap has an impossible entry: 0x%llx, %llu pages",
		                    (unsigned long long)e->vaddr, (unsigned long long)e->n_pages);
	return 0;
}

/* v may be longer than what this file adds. */
static int parse_records(struct reader r, pid_t ns_pid, struct fm_lazy_range **v, size_t *n, struct fm_error *err)
{
	uint64_t page_size = (uint64_t)sysconf(_SC_PAGESIZE), last_end = 0;
	bool head = true;

	while (r.p < r.end) {
		struct entry e;
		uint32_t len;

		if (!take_u32(&r, &len) || len > MAX_RECORD_BYTES || len > (size_t)(r.end - r.p))
			return fm_error_set(err, FM_E_DATA_LOSS, "pagemap is cut or corrupt");
		struct reader record = { .p = r.p, .end = r.p + len };
		r.p += len;
		if (head) {
			head = false;
			continue;
		}
		if (!parse_entry(record, &e))
			return fm_error_set(err, FM_E_DATA_LOSS, "pagemap has an entry that cannot be read");
		if (check_entry(&e, page_size, err) < 0)
			return -1;
		/* CRIU writes them in order; overlapping ones would be filled twice. */
		if (e.vaddr < last_end)
			return fm_error_set(err, FM_E_DATA_LOSS, "pagemap is not in order at 0x%llx", (unsigned long long)e.vaddr);
		last_end = e.vaddr + e.n_pages * page_size;
		struct fm_lazy_range range = { .ns_pid = ns_pid, .vaddr = e.vaddr, .n_pages = e.n_pages };
		if ((e.flags & FLAG_LAZY) && append(v, n, &range, err) < 0)
			return -1;
	}
	return head ? fm_error_set(err, FM_E_DATA_LOSS, "pagemap has no head") : 0;
}

int fm_pagemap_parse(const void *data, size_t len, pid_t ns_pid, struct fm_lazy_range **v, size_t *n, struct fm_error *err)
{
	struct reader r = { .p = data, .end = (const unsigned char *)data + len };
	size_t before = *n;
	uint32_t common, magic;

	if (!take_u32(&r, &common) || !take_u32(&r, &magic) || common != IMAGE_MAGIC || magic != PAGEMAP_MAGIC)
		return fm_error_set(err, FM_E_DATA_LOSS, "not a pagemap image");
	if (parse_records(r, ns_pid, v, n, err) < 0) {
		*n = before; /* what was there is kept, the rest of the memory is reused or freed with it */
		return -1;
	}
	return 0;
}

/* ---- our own: pages that CRIU was not shown ---- */

static void put_u32(unsigned char *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (unsigned char)(v >> 8 * i);
}

static void put_u64(unsigned char *p, uint64_t v)
{
	put_u32(p, (uint32_t)v);
	put_u32(p + 4, (uint32_t)(v >> 32));
}

static bool take_u64(struct reader *r, uint64_t *ret)
{
	uint32_t low, high;

	if (!take_u32(r, &low) || !take_u32(r, &high))
		return false;
	*ret = low | (uint64_t)high << 32;
	return true;
}

int fm_images_write_lazy(int images_dirfd, const struct fm_lazy_range *v, size_t n, struct fm_error *err)
{
	size_t len = 8 + n * HIDDEN_RECORD_BYTES;
	_fm_free_ unsigned char *data = malloc(len);
	_fm_close_ int fd = openat(images_dirfd, FM_IMAGES_HIDDEN, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0)
		return fm_error_errno(err, errno, "cannot make image %s", FM_IMAGES_HIDDEN);
	if (!data)
		return fm_error_errno(err, ENOMEM, "writing image %s", FM_IMAGES_HIDDEN);
	put_u32(data, HIDDEN_MAGIC);
	put_u32(data + 4, HIDDEN_VERSION);
	for (size_t i = 0; i < n; i++) {
		unsigned char *p = data + 8 + i * HIDDEN_RECORD_BYTES;
		put_u64(p, v[i].vaddr);
		put_u64(p + 8, v[i].n_pages);
		put_u32(p + 16, (uint32_t)v[i].ns_pid);
		put_u32(p + 20, 0);
	}
	return fm_write_full(fd, data, len, err);
}

static int parse_hidden(struct reader r, struct fm_lazy_range **v, size_t *n, struct fm_error *err)
{
	uint64_t page_size = (uint64_t)sysconf(_SC_PAGESIZE), last_end = 0;
	uint32_t last_pid = 0;

	while (r.p < r.end) {
		struct entry e = { 0 };
		uint32_t pid, zero;

		if (!take_u64(&r, &e.vaddr) || !take_u64(&r, &e.n_pages) || !take_u32(&r, &pid) || !take_u32(&r, &zero))
			return fm_error_set(err, FM_E_DATA_LOSS, "it is cut");
		if (check_entry(&e, page_size, err) < 0)
			return -1;
		if (pid == 0 || pid > INT32_MAX || zero != 0 || pid < last_pid || (pid == last_pid && e.vaddr < last_end))
			return fm_error_set(err, FM_E_DATA_LOSS, "it is not in order at process %u, 0x%llx", pid,
			                    (unsigned long long)e.vaddr);
		last_pid = pid;
		last_end = e.vaddr + e.n_pages * page_size;
		struct fm_lazy_range range = { .ns_pid = (pid_t)pid, .vaddr = e.vaddr, .n_pages = e.n_pages };
		if (append(v, n, &range, err) < 0)
			return -1;
	}
	return 0;
}

int fm_hidden_parse(const void *data, size_t len, struct fm_lazy_range **v, size_t *n, struct fm_error *err)
{
	struct reader r = { .p = data, .end = (const unsigned char *)data + len };
	size_t before = *n;
	uint32_t magic, version;

	if (!take_u32(&r, &magic) || !take_u32(&r, &version) || magic != HIDDEN_MAGIC)
		return fm_error_set(err, FM_E_DATA_LOSS, "it is no list of pages");
	if (version != HIDDEN_VERSION)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "it is of version %u, which is not known here", version);
	if (parse_hidden(r, v, n, err) < 0) {
		*n = before;
		return -1;
	}
	return 0;
}

/* ---- files ---- */

static int read_image(int dirfd, const char *name, char **ret, size_t *ret_len, struct fm_error *err)
{
	_fm_close_ int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	_fm_free_ char *data = NULL;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return fm_error_errno(err, errno, "cannot open image %s", name);
	if (!S_ISREG(st.st_mode) || st.st_size > (off_t)MAX_PAGEMAP_BYTES)
		return fm_error_set(err, FM_E_DATA_LOSS, "image %s is no regular file of at most %u bytes", name, MAX_PAGEMAP_BYTES);
	data = malloc((size_t)st.st_size + 1);
	if (!data)
		return fm_error_errno(err, ENOMEM, "reading image %s", name);
	if (fm_read_full(fd, data, (size_t)st.st_size, err) < 0)
		return fm_error_prefix(err, "reading image %s", name);
	*ret = FM_TAKE_PTR(data);
	*ret_len = (size_t)st.st_size;
	return 0;
}

/* "pagemap-500.img" -> 500; pagemap-shmem-… and others are not of a process */
static bool pid_of(const char *name, pid_t *ret)
{
	char *end;
	long pid;

	if (!fm_str_startswith(name, "pagemap-") || name[8] < '1' || name[8] > '9')
		return false;
	errno = 0;
	pid = strtol(name + 8, &end, 10);
	if (errno != 0 || !fm_streq(end, ".img") || pid > INT32_MAX)
		return false;
	*ret = (pid_t)pid;
	return true;
}

static int by_place(const void *a, const void *b)
{
	const struct fm_lazy_range *x = a, *y = b;

	if (x->ns_pid != y->ns_pid)
		return x->ns_pid < y->ns_pid ? -1 : 1;
	return x->vaddr < y->vaddr ? -1 : x->vaddr > y->vaddr;
}

int fm_images_lazy_ranges(int images_dirfd, struct fm_lazy_range **ret, size_t *ret_n, struct fm_error *err)
{
	_fm_free_ struct fm_lazy_range *v = NULL;
	_fm_closedir_ DIR *d = NULL;
	size_t n = 0, done = 0;
	uint64_t total = 0;
	struct dirent *e;
	pid_t pid = 0;

	/* A descriptor of its own: the caller's has a position. */
	int fd = openat(images_dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || !(d = fdopendir(fd))) {
		fm_error_errno(err, errno, "cannot read the images folder");
		fm_closep(&fd);
		return -1;
	}
	while ((e = readdir(d))) {
		_fm_free_ char *data = NULL;
		size_t len = 0;

		bool hidden = fm_streq(e->d_name, FM_IMAGES_HIDDEN);
		if (!hidden && !pid_of(e->d_name, &pid))
			continue;
		if (read_image(images_dirfd, e->d_name, &data, &len, err) < 0)
			return -1;
		if ((hidden ? fm_hidden_parse(data, len, &v, &n, err) : fm_pagemap_parse(data, len, pid, &v, &n, err)) < 0)
			return fm_error_prefix(err, "image %s", e->d_name);
		for (; done < n; done++)
			total += v[done].n_pages; /* cannot overflow: 2^24 ranges of at most 2^32 */
		if (total > MAX_TOTAL_PAGES)
			return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "the images have more than 2^32 lazy pages");
	}
	if (n > 0)
		qsort(v, n, sizeof(*v), by_place);
	*ret = FM_TAKE_PTR(v);
	*ret_n = n;
	return 0;
}
