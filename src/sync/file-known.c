/* SPDX-License-Identifier: MIT */
/* file-known.c - see file-known.h: the set, its hashes, and how it travels. */
#include "sync/file-known.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include <xxhash.h>

#include "basic/cleanup.h"
#include "basic/limits.h"
#include "sync/file-known-internal.h"
#include "sync/stream-internal.h"

#define RECORD_BYTES      24u
#define RECORDS_PER_FRAME (FM_MAX_FRAME_BYTES / RECORD_BYTES)
#define READ_BYTES        (256u << 10)
#define FIRST_FILES       256u
#define PATHS_BYTES_MAX   (16u << 20)

FM_DEFINE_CLEANUP(struct fm_known *, fm_known_free);

/* ---------------------------------------------------------------- the set */

int fm_known_new(struct fm_known **ret, struct fm_error *err)
{
	struct fm_known *k = calloc(1, sizeof(*k));
	if (!k)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	k->root_fd = -1;
	*ret = k;
	return 0;
}

void fm_known_free(struct fm_known *k)
{
	if (!k)
		return;
	if (k->root_fd >= 0)
		(void)close(k->root_fd);
	free(k->files);
	free(k->paths);
	free(k);
}

size_t fm_known_count(const struct fm_known *k)
{
	return k ? k->n : 0;
}

bool fm_known_is_bad(const struct fm_known *k)
{
	return k && k->bad;
}

static int add_path(struct fm_known *k, const char *path, uint32_t *ret)
{
	size_t n = strlen(path) + 1;
	while (k->paths_cap - k->paths_len < n) {
		uint32_t cap = k->paths_cap ? k->paths_cap * 2 : 16384;
		char *paths = cap <= PATHS_BYTES_MAX ? realloc(k->paths, cap) : NULL;
		if (!paths)
			return -1;
		k->paths = paths;
		k->paths_cap = cap;
	}
	memcpy(k->paths + k->paths_len, path, n);
	*ret = k->paths_len;
	k->paths_len += (uint32_t)n;
	return 0;
}

int fm_known_add(struct fm_known *k, uint64_t size, const uint64_t hash[2], const char *path, struct fm_error *err)
{
	struct fm_known_file f = { .size = size, .hash = { hash[0], hash[1] } };
	if (k->n == k->cap) {
		uint32_t cap = k->cap ? k->cap * 2 : FIRST_FILES;
		struct fm_known_file *files = realloc(k->files, cap * sizeof(*files));
		if (!files)
			return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for a list of %u files", cap);
		k->files = files;
		k->cap = cap;
	}
	if (path && add_path(k, path, &f.path) < 0)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for the names of %u files", k->n);
	k->files[k->n++] = f;
	k->bytes += size;
	return 0;
}

static int compare(const void *a, const void *b)
{
	const struct fm_known_file *x = a, *y = b;
	if (x->size != y->size)
		return x->size < y->size ? -1 : 1;
	if (x->hash[1] != y->hash[1])
		return x->hash[1] < y->hash[1] ? -1 : 1;
	return x->hash[0] < y->hash[0] ? -1 : x->hash[0] > y->hash[0];
}

static int compare_size(const void *a, const void *b)
{
	const struct fm_known_file *x = a, *y = b;
	return x->size < y->size ? -1 : x->size > y->size;
}

void fm_known_sort(struct fm_known *k)
{
	uint32_t n = 0;
	if (k->n)
		qsort(k->files, k->n, sizeof(*k->files), compare);
	for (uint32_t i = 0; i < k->n; i++) /* each content once */
		if (!n || compare(&k->files[n - 1], &k->files[i]) != 0)
			k->files[n++] = k->files[i];
	k->n = n;
}

const struct fm_known_file *fm_known_lookup(const struct fm_known *k, uint64_t size, const uint64_t hash[2])
{
	const struct fm_known_file key = { .size = size, .hash = { hash[0], hash[1] } };
	return k && k->n ? bsearch(&key, k->files, k->n, sizeof(key), compare) : NULL;
}

/* ---------------------------------------------------------------- hashes */

struct hashing {
	XXH3_state_t *state;
	uint8_t *buf;
	uint64_t done;
	int cancel_fd;
};

static void hashing_done(struct hashing *h)
{
	(void)XXH3_freeState(h->state);
	free(h->buf);
}

static int check_cancel(int cancel_fd, struct fm_error *err)
{
	struct pollfd p = { .fd = cancel_fd, .events = POLLIN };
	if (cancel_fd >= 0 && poll(&p, 1, 0) > 0)
		return fm_error_set(err, FM_E_CANCELLED, "cancelled while hashing files");
	return 0;
}

/* What no data is at reads as zeros. */
static int hash_zeros(struct hashing *h, uint64_t end, struct fm_error *err)
{
	memset(h->buf, 0, READ_BYTES);
	while (h->done < end) {
		size_t n = end - h->done < READ_BYTES ? (size_t)(end - h->done) : READ_BYTES;
		if (check_cancel(h->cancel_fd, err) < 0)
			return -1;
		(void)XXH3_128bits_update(h->state, h->buf, n);
		h->done += n;
	}
	return 1;
}

static int hash_data(struct hashing *h, int fd, uint64_t end, struct fm_error *err)
{
	while (h->done < end) {
		size_t want = end - h->done < READ_BYTES ? (size_t)(end - h->done) : READ_BYTES;
		if (check_cancel(h->cancel_fd, err) < 0)
			return -1;
		ssize_t n = pread(fd, h->buf, want, (off_t)h->done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return 0;
		(void)XXH3_128bits_update(h->state, h->buf, (size_t)n);
		h->done += (uint64_t)n;
	}
	return 1;
}

static int hash_all(struct hashing *h, int fd, uint64_t size, struct fm_error *err)
{
	int r = 1;
	while (r == 1 && h->done < size) {
		off_t data = lseek(fd, (off_t)h->done, SEEK_DATA);
		if (data < 0 && errno == ENXIO) { /* a hole to the end, wherever that is by now */
			off_t length = lseek(fd, 0, SEEK_END);
			return length < (off_t)size ? 0 : hash_zeros(h, size, err);
		}
		if (data < 0)
			return hash_data(h, fd, size, err); /* no such thing here */
		off_t hole = lseek(fd, data, SEEK_HOLE);
		uint64_t end = hole < 0 || (uint64_t)hole > size ? size : (uint64_t)hole;
		r = (uint64_t)data > h->done ? hash_zeros(h, (uint64_t)data < size ? (uint64_t)data : size, err) : 1;
		if (r == 1)
			r = hash_data(h, fd, end, err);
	}
	return r;
}

int fm_known_hash(int fd, uint64_t size, const struct fm_hash_secret *secret, int cancel_fd, uint64_t hash[2], struct fm_error *err)
{
	_fm_cleanup_(hashing_done) struct hashing h = { .state = XXH3_createState(), .buf = malloc(READ_BYTES), .cancel_fd = cancel_fd };
	if (!h.state || !h.buf)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for hashing files");
	(void)XXH3_128bits_reset_withSecret(h.state, secret->bytes, sizeof(secret->bytes));
	int r = hash_all(&h, fd, size, err);
	XXH128_hash_t x = XXH3_128bits_digest(h.state);
	hash[0] = x.low64;
	hash[1] = x.high64;
	return r;
}

int fm_known_find(struct fm_known *k, int fd, uint64_t size, int cancel_fd, uint8_t name[FM_KNOWN_HASH_BYTES], struct fm_error *err)
{
	const struct fm_known_file key = { .size = size };
	uint64_t hash[2];
	if (!k || !k->n || size > k->budget || !bsearch(&key, k->files, k->n, sizeof(key), compare_size))
		return 0;
	k->budget -= size;
	int r = fm_known_hash(fd, size, &k->secret, cancel_fd, hash, err);
	if (r != 1 || !fm_known_lookup(k, size, hash))
		return r < 0 ? -1 : 0;
	fm_put_le64(name, hash[0]);
	fm_put_le64(name + 8, hash[1]);
	return 1;
}

/* ---------------------------------------------------------------- on the wire */

int fm_known_offer(struct fm_stream *s, const struct fm_known *k, int timeout_ms, int cancel_fd, struct fm_error *err)
{
	_fm_batch_ struct fm_batch b = { 0 };
	uint32_t n = (uint32_t)fm_known_count(k);
	uint8_t *p;
	size_t room;
	if (fm_batch_init(&b, s, FM_MAX_FRAME_BYTES + 4 * FM_FRAME_HEADER_BYTES, timeout_ms, cancel_fd, err) < 0)
		return -1;
	for (uint32_t i = 0; i < n;) {
		uint32_t now = n - i < RECORDS_PER_FRAME ? n - i : RECORDS_PER_FRAME;
		if (fm_batch_reserve(&b, (size_t)now * RECORD_BYTES, &p, &room, err) < 0)
			return -1;
		for (uint32_t r = 0; r < now; r++, i++, p += RECORD_BYTES) {
			fm_put_le64(p, k->files[i].size);
			fm_put_le64(p + 8, k->files[i].hash[0]);
			fm_put_le64(p + 16, k->files[i].hash[1]);
		}
		fm_batch_commit(&b, FM_FRAME_FILES_HAVE, 0, 0, (size_t)now * RECORD_BYTES);
	}
	if (fm_batch_add(&b, FM_FRAME_HAVE_END, n, 0, k ? k->secret.bytes : NULL, n ? sizeof(k->secret.bytes) : 0, err) < 0)
		return -1;
	return fm_batch_flush(&b, err);
}

static int take_records(struct fm_known *k, const uint8_t *p, size_t length, struct fm_error *err)
{
	if (length == 0 || length % RECORD_BYTES)
		return fm_error_set(err, FM_E_DATA_LOSS, "a list of known files of %zu bytes", length);
	for (; length; length -= RECORD_BYTES, p += RECORD_BYTES) {
		uint64_t size = fm_get_le64(p), hash[2] = { fm_get_le64(p + 8), fm_get_le64(p + 16) };
		if (size < FM_KNOWN_FILE_BYTES_MIN || size > FM_KNOWN_BYTES_MAX - k->bytes || k->n == FM_KNOWN_FILES_MAX)
			return fm_error_set(err, FM_E_DATA_LOSS, "the peer claims to know more than %u files, or one of %llu bytes", k->n,
			                    (unsigned long long)size);
		if (fm_known_add(k, size, hash, NULL, err) < 0)
			return -1;
	}
	return 0;
}

int fm_known_take(struct fm_stream *s, struct fm_known **ret, int timeout_ms, int cancel_fd, struct fm_error *err)
{
	_fm_cleanup_(fm_known_freep) struct fm_known *k = NULL;
	_fm_free_ uint8_t *buf = malloc(FM_MAX_FRAME_BYTES);
	struct fm_frame_header h;
	if (!buf)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	if (fm_known_new(&k, err) < 0)
		return -1;
	for (;;) {
		if (fm_stream_recv(s, &h, buf, FM_MAX_FRAME_BYTES, timeout_ms, cancel_fd, err) < 0)
			return -1;
		if (h.type == FM_FRAME_HAVE_END)
			break;
		if (h.type != FM_FRAME_FILES_HAVE)
			return fm_stream_unexpected(s, &h, "learning what files are known", err);
		if (take_records(k, buf, h.length, err) < 0)
			return -1;
	}
	if (h.a != k->n || (k->n == 0 && h.length > 0))
		return fm_error_set(err, FM_E_DATA_LOSS, "%u of %llu known files arrived", k->n, (unsigned long long)h.a);
	if (k->n > 0 && fm_hash_secret_take(buf, h.length, &k->secret, err) < 0)
		return -1;
	k->budget = 2 * k->bytes;
	fm_known_sort(k);
	*ret = FM_TAKE_PTR(k);
	return 0;
}
