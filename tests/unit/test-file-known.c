/* SPDX-License-Identifier: MIT */
/*
 * test-file-known.c - contents that a receiver has: looked for in a copy, offered, named instead of sent; copies that change, peers that claim what is not so, limits.
 */
#include "stream-lab.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "basic/str.h"
#include "sync/file-known-internal.h"
#include "sync/filetree-internal.h"

static struct fm_hash_secret secret;

#define MIB (1u << 20)
#define GIB (1ull << 30)

/* from is sent to to, whose host has copy. */
struct fixture {
	char *dir, *from, *to;
	int dir_fd, from_fd, to_fd, copy_fd;
	struct fm_stream *a, *b;
	struct fm_known *have, *told; /* the receiver's, the sender's */
};

static void new_streams(struct fixture *f)
{
	fm_stream_free(f->a);
	fm_stream_free(f->b);
	pair(&f->a, &f->b);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	umask(022);
	fm_hash_secret_draw(&secret);
	f->dir = fm_xstrdup("/tmp/fm-test-known-XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	f->dir_fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	f->from = fm_xasprintf("%s/from", f->dir);
	f->to = fm_xasprintf("%s/to", f->dir);
	if (mkdirat(f->dir_fd, "from", 0755) < 0 || mkdirat(f->dir_fd, "to", 0755) < 0 || mkdirat(f->dir_fd, "copy", 0755) < 0)
		return -1;
	f->from_fd = openat(f->dir_fd, "from", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	f->to_fd = openat(f->dir_fd, "to", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	f->copy_fd = openat(f->dir_fd, "copy", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = f;
	new_streams(f);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	fm_known_free(f->have);
	fm_known_free(f->told);
	fm_stream_free(f->a);
	fm_stream_free(f->b);
	close(f->dir_fd);
	close(f->from_fd);
	close(f->to_fd);
	close(f->copy_fd);
	int r = fm_remove_tree(f->dir, NULL);
	free(f->dir);
	free(f->from);
	free(f->to);
	free(f);
	return r;
}

static void put(int dirfd, const char *path, size_t n, uint32_t seed)
{
	uint8_t *p = malloc(n + 1);
	fill_pattern(p, n, seed);
	int fd = openat(dirfd, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_sys(fd);
	assert_ok(fm_write_full(fd, p, n, &err));
	close(fd);
	free(p);
}

static void put_both(struct fixture *f, const char *path, size_t n, uint32_t seed)
{
	put(f->from_fd, path, n, seed);
	put(f->copy_fd, path, n, seed);
}

static void write_at(int dirfd, const char *path, off_t at, const char *text)
{
	int fd = openat(dirfd, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	assert_sys(fd);
	assert_int_equal(strlen(text), pwrite(fd, text, strlen(text), at));
	close(fd);
}

static void set_size(int dirfd, const char *path, off_t size)
{
	int fd = openat(dirfd, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	assert_sys(fd);
	assert_sys(ftruncate(fd, size));
	close(fd);
}

static void assert_same(struct fixture *f, const char *path)
{
	struct stat a, b;
	uint64_t x[2], y[2];
	_fm_close_ int fa = openat(f->from_fd, path, O_RDONLY | O_CLOEXEC);
	_fm_close_ int fb = openat(f->to_fd, path, O_RDONLY | O_CLOEXEC);
	assert_true(fa >= 0 && fb >= 0);
	assert_sys(fstat(fa, &a));
	assert_sys(fstat(fb, &b));
	assert_int_equal(a.st_size, b.st_size);
	assert_int_equal(a.st_mode, b.st_mode);
	assert_int_equal(a.st_mtim.tv_sec, b.st_mtim.tv_sec);
	assert_int_equal(a.st_mtim.tv_nsec, b.st_mtim.tv_nsec);
	for (off_t at = 0; at < a.st_size;) { /* not by our own hash */
		static uint8_t p[MIB], q[MIB];
		ssize_t n = pread(fa, p, sizeof(p), at);
		if (n <= 0 || pread(fb, q, sizeof(q), at) != n || memcmp(p, q, (size_t)n) != 0)
			fail_msg("'%s' differs after %lld", path, (long long)at);
		at += n;
	}
	assert_int_equal(1, fm_known_hash(fa, (uint64_t)a.st_size, &secret, -1, x, NULL));
	assert_int_equal(1, fm_known_hash(fb, (uint64_t)a.st_size, &secret, -1, y, NULL));
	assert_memory_equal(x, y, sizeof(x));
}

static struct timespec tomorrow(void)
{
	return (struct timespec){ .tv_sec = time(NULL) + 86400 };
}

static void *offer(void *arg)
{
	struct fixture *f = arg;
	struct fm_error e = FM_ERROR_INIT;
	return fm_known_offer(f->b, f->have, WAIT_MS, -1, &e) < 0 ? fm_xstrdup(e.message) : NULL;
}

static void tell(struct fixture *f)
{
	pthread_t t;
	void *failed = NULL;
	fm_known_free(f->told);
	f->told = NULL;
	pthread_create(&t, NULL, offer, f);
	assert_ok(fm_known_take(f->a, &f->told, WAIT_MS, -1, &err));
	pthread_join(t, &failed);
	assert_null(failed);
}

static void scan_and_tell(struct fixture *f)
{
	struct timespec until = tomorrow();
	fm_known_free(f->have);
	f->have = NULL;
	assert_ok(fm_known_scan(openat(f->copy_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), &until, -1, &f->have, &err));
	tell(f);
}

struct sending {
	struct fixture *f;
	const struct fm_manifest *previous;
	struct fm_manifest *manifest;
	uint64_t bytes;
	int result;
	struct fm_error err;
};

static void *send_pass(void *arg)
{
	struct sending *s = arg;
	s->result = fm_filetree_send_known(s->f->a, s->f->told, s->f->from, NULL, s->previous, 1, &s->manifest, &s->bytes, WAIT_MS, -1,
	                                   &s->err);
	if (s->result < 0)
		fm_stream_shutdown(s->f->a);
	return NULL;
}

/* Bytes on the wire; the receiver's verdict in err.code when ret_code is given, else it has to be good. */
static uint64_t pass(struct fixture *f, const struct fm_manifest *previous, struct fm_manifest **ret, enum fm_code *ret_code)
{
	struct sending s = { .f = f, .previous = previous, .err = FM_ERROR_INIT };
	pthread_t t;
	pthread_create(&t, NULL, send_pass, &s);
	err = FM_ERROR_INIT;
	int r = fm_filetree_recv_known(f->b, f->have, f->to, 0, 8 * GIB, WAIT_MS, -1, &err);
	if (r < 0)
		fm_stream_shutdown(f->b);
	pthread_join(t, NULL);
	if (ret_code)
		*ret_code = r < 0 ? err.code : FM_OK;
	else if (r < 0 || s.result < 0)
		fail_msg("receiver: %s, sender: %s", err.message, s.err.message);
	if (ret)
		*ret = s.manifest;
	else
		fm_manifest_free(s.manifest);
	if (r == 0) {
		struct fm_frame_header h;
		assert_ok(fm_stream_expect(f->a, FM_FRAME_FILES_OK, &h, NULL, 0, WAIT_MS, -1, &err));
	}
	return s.bytes;
}

/* ---------------------------------------------------------------- honest ones */

static void test_known_is_not_sent(void **state)
{
	struct fixture *f = *state;
	assert_sys(mkdirat(f->from_fd, "d", 0755));
	assert_sys(mkdirat(f->copy_fd, "d", 0755));
	assert_sys(mkdirat(f->copy_fd, "d/deeper", 0755));
	put_both(f, "same", 3 * MIB + 17, 1);
	put_both(f, "d/below", 70000, 2);
	put_both(f, "least", FM_KNOWN_FILE_BYTES_MIN, 3);
	put(f->from_fd, "moved", 50000, 4);
	put(f->copy_fd, "d/deeper/under another name", 50000, 4);
	put(f->from_fd, "twice", 50000, 4);
	assert_sys(fchmodat(f->from_fd, "same", 0750, 0));
	scan_and_tell(f);
	assert_int_equal(4, fm_known_count(f->have));
	assert_int_equal(4, fm_known_count(f->told));
	assert_true(pass(f, NULL, NULL, NULL) < 2000);
	assert_same(f, "same");
	assert_same(f, "d/below");
	assert_same(f, "least");
	assert_same(f, "moved");
	assert_same(f, "twice");
	assert_false(fm_known_is_bad(f->have));
}

/* What differs in a byte, or is too small to be worth it, travels. */
static void test_the_rest_is_sent(void **state)
{
	struct fixture *f = *state;
	put_both(f, "changed", MIB, 1);
	write_at(f->from_fd, "changed", MIB / 2, "!");
	put_both(f, "longer", 40000, 2);
	write_at(f->from_fd, "longer", 40000, "!");
	put_both(f, "small", FM_KNOWN_FILE_BYTES_MIN - 1, 3);
	put_both(f, "empty", 0, 0);
	put(f->from_fd, "new", 30000, 4);
	put(f->copy_fd, "old", 30001, 5);
	scan_and_tell(f);
	assert_int_equal(3, fm_known_count(f->told));
	assert_true(pass(f, NULL, NULL, NULL) > MIB + 40000 + 4095 + 30000);
	assert_same(f, "changed");
	assert_same(f, "longer");
	assert_same(f, "small");
	assert_same(f, "empty");
	assert_same(f, "new");
}

static void test_nothing_is_known(void **state)
{
	struct fixture *f = *state;
	put(f->from_fd, "file", 100000, 1);
	tell(f);
	assert_int_equal(0, fm_known_count(f->told));
	assert_true(pass(f, NULL, NULL, NULL) > 100000);
	assert_same(f, "file");
	new_streams(f);
	scan_and_tell(f); /* an empty copy */
	assert_int_equal(0, fm_known_count(f->told));
	assert_true(pass(f, NULL, NULL, NULL) > 100000);
}

/* The second pass: what was changed to something known, and what the first pass was sure about. */
static void test_later_pass(void **state)
{
	struct fixture *f = *state;
	struct fm_manifest *one = NULL;
	put(f->from_fd, "file", 200000, 1);
	put(f->copy_fd, "file", 200000, 2);
	scan_and_tell(f);
	assert_true(pass(f, NULL, &one, NULL) > 200000);
	put(f->from_fd, "file", 200000, 2);
	assert_true(pass(f, one, NULL, NULL) < 1000);
	assert_same(f, "file");
	fm_manifest_free(one);
}

static void test_holes(void **state)
{
	struct fixture *f = *state;
	struct stat st;
	static const struct {
		off_t data, size;
	} v[] = { { 0, 64 << 20 }, { 32 << 20, 64 << 20 }, { (64 << 20) - 1, 64 << 20 }, { -1, 63 << 20 } };
	char name[16];
	for (size_t i = 0; i < FM_ARRAY_SIZE(v); i++) {
		(void)snprintf(name, sizeof(name), "sparse%zu", i);
		for (int k = 0; k < 2; k++) {
			set_size(k ? f->copy_fd : f->from_fd, name, v[i].size);
			if (v[i].data >= 0)
				write_at(k ? f->copy_fd : f->from_fd, name, v[i].data, "x");
		}
	}
	put(f->from_fd, "zeros", 0, 0);
	set_size(f->from_fd, "zeros", MIB);
	uint8_t *zeros = calloc(1, MIB); /* written out in the copy, a hole at the sender: the same content */
	_fm_close_ int fd = openat(f->copy_fd, "zeros", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	assert_ok(fm_write_full(fd, zeros, MIB, &err));
	free(zeros);
	scan_and_tell(f);
	assert_int_equal(5, fm_known_count(f->told));
	assert_true(pass(f, NULL, NULL, NULL) < 2000);
	for (size_t i = 0; i < FM_ARRAY_SIZE(v); i++) {
		(void)snprintf(name, sizeof(name), "sparse%zu", i);
		assert_same(f, name);
		assert_sys(fstatat(f->to_fd, name, &st, 0));
		assert_true(st.st_blocks < 2048); /* not 128 Ki */
	}
	assert_same(f, "zeros");
}

/* ---------------------------------------------------------------- copies that cannot be relied on */

static void expect_spoiled(struct fixture *f)
{
	enum fm_code code;
	(void)pass(f, NULL, NULL, &code);
	assert_int_equal(FM_E_DATA_LOSS, code);
	assert_true(fm_known_is_bad(f->have));
	new_streams(f);
	assert_ok(fm_remove_tree(f->to, &err));
	assert_sys(mkdir(f->to, 0755));
}

static void test_changed_copy(void **state)
{
	struct fixture *f = *state;
	put_both(f, "file", 100000, 1);
	scan_and_tell(f);
	write_at(f->copy_fd, "file", 50000, "?");
	expect_spoiled(f);

	put_both(f, "file", 100000, 1);
	scan_and_tell(f);
	set_size(f->copy_fd, "file", 99999);
	expect_spoiled(f);
	set_size(f->copy_fd, "file", 100001);
	scan_and_tell(f); /* as it is now */
	put_both(f, "file", 100000, 1);
	scan_and_tell(f);
	assert_sys(unlinkat(f->copy_fd, "file", 0));
	expect_spoiled(f);

	put_both(f, "file", 100000, 1);
	scan_and_tell(f);
	assert_sys(unlinkat(f->copy_fd, "file", 0));
	assert_sys(mkfifoat(f->copy_fd, "file", 0600)); /* and nobody waits for a writer */
	expect_spoiled(f);
	assert_sys(unlinkat(f->copy_fd, "file", 0));

	/* thrown away, it is not missed */
	fm_known_free(f->have);
	f->have = NULL;
	tell(f);
	assert_true(pass(f, NULL, NULL, NULL) > 100000);
}

/* Neither when it is looked through nor when something is taken from it is a link followed. */
static void test_links_in_the_copy(void **state)
{
	struct fixture *f = *state;
	put(f->from_fd, "file", 100000, 1);
	put(f->dir_fd, "outside", 100000, 1);
	assert_sys(symlinkat("../outside", f->copy_fd, "file"));
	assert_sys(symlinkat("..", f->copy_fd, "folder"));
	scan_and_tell(f);
	assert_int_equal(0, fm_known_count(f->have));

	assert_sys(mkdirat(f->copy_fd, "d", 0755));
	put(f->copy_fd, "d/outside", 100000, 1);
	scan_and_tell(f);
	assert_int_equal(1, fm_known_count(f->have));
	assert_sys(unlinkat(f->copy_fd, "d/outside", 0));
	assert_sys(unlinkat(f->copy_fd, "d", AT_REMOVEDIR));
	assert_sys(symlinkat("..", f->copy_fd, "d"));
	expect_spoiled(f);
}

/* What changed after the container had left is another's; what was there then is not. */
static void test_only_what_was_left(void **state)
{
	struct fixture *f = *state;
	struct timespec until;
	struct stat st;
	put(f->copy_fd, "left", 10000, 1);
	assert_sys(fstatat(f->copy_fd, "left", &st, 0));
	until = st.st_ctim;
	do
		put(f->copy_fd, "later", 10000, 2);
	while (fstatat(f->copy_fd, "later", &st, 0) == 0 && st.st_ctim.tv_sec == until.tv_sec && st.st_ctim.tv_nsec == until.tv_nsec);
	assert_ok(fm_known_scan(openat(f->copy_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), &until, -1, &f->have, &err));
	assert_int_equal(1, fm_known_count(f->have));
	assert_string_equal("left", f->have->paths);
}

/* ---------------------------------------------------------------- limits of looking */

static void test_scan_limits(void **state)
{
	struct fixture *f = *state;
	put(f->copy_fd, "file", 5000, 1);
	set_size(f->copy_fd, "huge", (off_t)FM_KNOWN_BYTES_MAX + 1);
	scan_and_tell(f);
	assert_int_equal(1, fm_known_count(f->told));
	new_streams(f);
	set_size(f->copy_fd, "huge", 0);
	for (int i = 0; i < 3; i++) { /* two of them fit */
		char name[16];
		(void)snprintf(name, sizeof(name), "g%d", i);
		set_size(f->copy_fd, name, (off_t)(FM_KNOWN_BYTES_MAX / 2) - 5000 - i);
	}
	scan_and_tell(f);
	assert_in_range(fm_known_count(f->told), 2, 3);
	assert_true(f->have->bytes <= FM_KNOWN_BYTES_MAX);
}

static void test_cancelled(void **state)
{
	struct fixture *f = *state;
	struct timespec until = tomorrow();
	int cancel = eventfd(1, EFD_CLOEXEC);
	put(f->copy_fd, "file", 5000, 1);
	assert_code(FM_E_CANCELLED,
	            fm_known_scan(openat(f->copy_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), &until, cancel, &f->have, &err));
	assert_null(f->have);
	assert_code(FM_E_CANCELLED, fm_known_take(f->a, &f->told, WAIT_MS, cancel, &err));
	assert_code(FM_E_DEADLINE_EXCEEDED, fm_known_take(f->a, &f->told, 1, -1, &err));
	assert_null(f->told);
	close(cancel);
}

/* Files of a size that is known are read, but not for ever. */
static void test_find_budget(void **state)
{
	struct fixture *f = *state;
	uint8_t hash[FM_KNOWN_HASH_BYTES];
	put(f->copy_fd, "file", 8192, 1);
	put(f->from_fd, "other", 8192, 2);
	put(f->from_fd, "same", 8192, 1);
	scan_and_tell(f);
	_fm_close_ int other = openat(f->from_fd, "other", O_RDONLY | O_CLOEXEC);
	_fm_close_ int same = openat(f->from_fd, "same", O_RDONLY | O_CLOEXEC);
	assert_int_equal(0, fm_known_find(NULL, same, 8192, -1, hash, NULL));
	assert_int_equal(0, fm_known_find(f->told, same, 8191, -1, hash, NULL));
	assert_int_equal(0, fm_known_find(f->told, other, 8192, -1, hash, NULL));
	assert_int_equal(1, fm_known_find(f->told, same, 8192, -1, hash, NULL));
	assert_int_equal(0, fm_known_find(f->told, same, 8192, -1, hash, NULL));
}

/* A file that became shorter has no content of that size. */
static void test_find_short(void **state)
{
	struct fixture *f = *state;
	uint8_t hash[FM_KNOWN_HASH_BYTES];
	put(f->copy_fd, "file", 8192, 1);
	set_size(f->copy_fd, "zeros", 12000);
	put(f->from_fd, "short", 8191, 1);
	scan_and_tell(f);
	_fm_close_ int fd = openat(f->from_fd, "short", O_RDWR | O_CLOEXEC);
	assert_int_equal(0, fm_known_find(f->told, fd, 8192, -1, hash, NULL));
	assert_sys(ftruncate(fd, 0));
	assert_int_equal(0, fm_known_find(f->told, fd, 12000, -1, hash, NULL));
	assert_sys(ftruncate(fd, 12000));
	assert_int_equal(1, fm_known_find(f->told, fd, 12000, -1, hash, NULL));
}

/* ---------------------------------------------------------------- peers that lie */

static void record(uint8_t p[24], uint64_t size, uint64_t n)
{
	fm_put_le64(p, size);
	fm_put_le64(p + 8, n);
	fm_put_le64(p + 16, ~n);
}

static void expect_claim(struct fixture *f, const void *p, size_t n, uint64_t count, enum fm_code code)
{
	if (n)
		assert_ok(fm_stream_send(f->b, FM_FRAME_FILES_HAVE, 0, 0, p, n, WAIT_MS, &err));
	assert_ok(fm_stream_send(f->b, FM_FRAME_HAVE_END, count, 0, secret.bytes, n ? sizeof(secret.bytes) : 0, WAIT_MS, &err));
	err = FM_ERROR_INIT;
	assert_int_equal(code == FM_OK ? 0 : -1, fm_known_take(f->a, &f->told, WAIT_MS, -1, &err));
	assert_int_equal(code, err.code);
	fm_known_free(f->told);
	f->told = NULL;
	new_streams(f);
}

static void test_claims(void **state)
{
	struct fixture *f = *state;
	uint8_t p[72];
	record(p, FM_KNOWN_FILE_BYTES_MIN, 1);
	record(p + 24, FM_KNOWN_BYTES_MAX - 2 * FM_KNOWN_FILE_BYTES_MIN, 2);
	record(p + 48, FM_KNOWN_FILE_BYTES_MIN, 1); /* the same once more counts, and is one */
	expect_claim(f, p, 72, 3, FM_OK);
	expect_claim(f, p, 72, 2, FM_E_DATA_LOSS);
	expect_claim(f, p, 72, 4, FM_E_DATA_LOSS);
	expect_claim(f, p, 71, 3, FM_E_DATA_LOSS);
	expect_claim(f, p, 25, 1, FM_E_DATA_LOSS);
	expect_claim(f, p, 0, 1, FM_E_DATA_LOSS);
	record(p + 48, FM_KNOWN_FILE_BYTES_MIN + 1, 3); /* 1 byte too much in sum */
	expect_claim(f, p, 72, 3, FM_E_DATA_LOSS);
	record(p, FM_KNOWN_FILE_BYTES_MIN - 1, 1);
	expect_claim(f, p, 24, 1, FM_E_DATA_LOSS);
	record(p, UINT64_MAX, 1);
	expect_claim(f, p, 24, 1, FM_E_DATA_LOSS);
	assert_ok(fm_stream_send(f->b, FM_FRAME_FILES_OK, 1, 0, NULL, 0, WAIT_MS, &err));
	assert_code(FM_E_DATA_LOSS, fm_known_take(f->a, &f->told, WAIT_MS, -1, &err));
	new_streams(f);
	assert_ok(fm_stream_send(f->b, FM_FRAME_FILES_HAVE, 0, 0, NULL, 0, WAIT_MS, &err));
	assert_code(FM_E_DATA_LOSS, fm_known_take(f->a, &f->told, WAIT_MS, -1, &err));
	new_streams(f);
	assert_ok(fm_stream_send(f->b, FM_FRAME_HAVE_END, 0, 0, secret.bytes, sizeof(secret.bytes), WAIT_MS, &err)); /* of nothing */
	assert_code(FM_E_DATA_LOSS, fm_known_take(f->a, &f->told, WAIT_MS, -1, &err));
	new_streams(f);
	record(p, FM_KNOWN_FILE_BYTES_MIN, 1);
	assert_ok(fm_stream_send(f->b, FM_FRAME_FILES_HAVE, 0, 0, p, 24, WAIT_MS, &err));
	assert_ok(fm_stream_send(f->b, FM_FRAME_HAVE_END, 1, 0, secret.bytes, sizeof(secret.bytes) - 1, WAIT_MS, &err));
	assert_code(FM_E_DATA_LOSS, fm_known_take(f->a, &f->told, WAIT_MS, -1, &err));
}

struct claim {
	struct fm_stream *s;
	uint32_t n;
};

static void *claim_many(void *arg)
{
	struct claim *c = arg;
	uint8_t *p = malloc(24 * 32768);
	for (uint32_t i = 0; i < c->n;) {
		uint32_t k = 0;
		for (; k < 32768 && i < c->n; k++, i++)
			record(p + 24 * k, FM_KNOWN_FILE_BYTES_MIN, i);
		if (fm_stream_send(c->s, FM_FRAME_FILES_HAVE, 0, 0, p, (size_t)k * 24, WAIT_MS, NULL) < 0)
			break;
	}
	(void)fm_stream_send(c->s, FM_FRAME_HAVE_END, c->n, 0, secret.bytes, sizeof(secret.bytes), WAIT_MS, NULL);
	free(p);
	return NULL;
}

static void test_too_many_claims(void **state)
{
	struct fixture *f = *state;
	for (uint32_t more = 0; more < 2; more++) {
		struct claim c = { .s = f->b, .n = FM_KNOWN_FILES_MAX + more };
		pthread_t t;
		pthread_create(&t, NULL, claim_many, &c);
		err = FM_ERROR_INIT;
		int r = fm_known_take(f->a, &f->told, WAIT_MS, -1, &err);
		fm_stream_shutdown(f->a);
		pthread_join(t, NULL);
		assert_int_equal(more ? -1 : 0, r);
		assert_int_equal(more ? FM_E_DATA_LOSS : FM_OK, err.code);
		if (!more)
			assert_int_equal(FM_KNOWN_FILES_MAX, fm_known_count(f->told));
		new_streams(f);
	}
}

static void send_entry(struct fixture *f, const char *path, uint64_t size)
{
	uint8_t p[256] = { 0 };
	size_t n = strlen(path);
	fm_put_le32(p, S_IFREG | 0644);
	fm_put_le32(p + 4, geteuid());
	fm_put_le32(p + 8, getegid());
	fm_put_le64(p + 32, size);
	fm_put_le16(p + 44, (uint16_t)n);
	memcpy(p + FM_ENTRY_FIXED_BYTES, path, n);
	assert_ok(fm_stream_send(f->a, FM_FRAME_FILE_ENTRY, 0, 0, p, FM_ENTRY_FIXED_BYTES + n, WAIT_MS, &err));
}

static void send_known(struct fixture *f, const uint8_t *hash, size_t n)
{
	assert_ok(fm_stream_send(f->a, FM_FRAME_FILE_KNOWN, 0, 0, hash, n, WAIT_MS, &err));
}

static void expect_refused(struct fixture *f, struct fm_known *have, enum fm_code code)
{
	assert_ok(fm_stream_send(f->a, FM_FRAME_FILES_END, 1, 1, NULL, 0, WAIT_MS, &err));
	err = FM_ERROR_INIT;
	int r = fm_filetree_recv_known(f->b, have, f->to, 0, 1 << 20, WAIT_MS, -1, &err);
	assert_int_equal(code == FM_OK ? 0 : -1, r);
	assert_int_equal(code, err.code);
	assert_false(fm_known_is_bad(have)); /* it is the sender that is */
	new_streams(f);
}

static void test_hostile_sender(void **state)
{
	struct fixture *f = *state;
	uint8_t hash[FM_KNOWN_HASH_BYTES + 1];
	put_both(f, "file", 100000, 1);
	put(f->copy_fd, "large", MIB + 1, 2);
	scan_and_tell(f);
	_fm_close_ int fd = openat(f->from_fd, "file", O_RDONLY | O_CLOEXEC);
	assert_int_equal(1, fm_known_find(f->told, fd, 100000, -1, hash, NULL));

	send_entry(f, "good", 100000);
	send_known(f, hash, FM_KNOWN_HASH_BYTES);
	expect_refused(f, f->have, FM_OK);

	send_entry(f, "never offered", 100000);
	hash[0] ^= 1;
	send_known(f, hash, FM_KNOWN_HASH_BYTES);
	hash[0] ^= 1;
	expect_refused(f, f->have, FM_E_DATA_LOSS);
	send_entry(f, "of another size", 100001);
	send_known(f, hash, FM_KNOWN_HASH_BYTES);
	expect_refused(f, f->have, FM_E_DATA_LOSS);
	send_entry(f, "nothing was offered", 100000);
	send_known(f, hash, FM_KNOWN_HASH_BYTES);
	expect_refused(f, NULL, FM_E_DATA_LOSS);
	send_known(f, hash, FM_KNOWN_HASH_BYTES); /* of no file */
	expect_refused(f, f->have, FM_E_DATA_LOSS);
	send_entry(f, "short", 100000);
	send_known(f, hash, FM_KNOWN_HASH_BYTES - 1);
	expect_refused(f, f->have, FM_E_DATA_LOSS);
	send_entry(f, "long", 100000);
	send_known(f, hash, FM_KNOWN_HASH_BYTES + 1);
	expect_refused(f, f->have, FM_E_DATA_LOSS);
	send_entry(f, "twice", 100000);
	send_known(f, hash, FM_KNOWN_HASH_BYTES);
	send_known(f, hash, FM_KNOWN_HASH_BYTES);
	expect_refused(f, f->have, FM_E_DATA_LOSS);
	send_entry(f, "after data", 100000);
	assert_ok(fm_stream_send(f->a, FM_FRAME_FILE_DATA, 0, 0, "x", 1, WAIT_MS, &err));
	send_known(f, hash, FM_KNOWN_HASH_BYTES);
	expect_refused(f, f->have, FM_E_DATA_LOSS);
	send_entry(f, "before data", 100000);
	send_known(f, hash, FM_KNOWN_HASH_BYTES);
	assert_ok(fm_stream_send(f->a, FM_FRAME_FILE_DATA, 0, 0, "x", 1, WAIT_MS, &err));
	expect_refused(f, f->have, FM_E_DATA_LOSS);

	for (size_t i = 0; i < f->have->n; i++)
		if (f->have->files[i].size == MIB + 1) {
			fm_put_le64(hash, f->have->files[i].hash[0]);
			fm_put_le64(hash + 8, f->have->files[i].hash[1]);
		}
	send_entry(f, "more than is allowed", MIB + 1);
	send_known(f, hash, FM_KNOWN_HASH_BYTES);
	expect_refused(f, f->have, FM_E_RESOURCE_EXHAUSTED);
}

/* The disk is full: that is not the copy's fault. */
static void test_no_room(void **state)
{
	struct fixture *f = *state;
	struct rlimit was, small;
	enum fm_code code;
	put_both(f, "file", 8 * MIB, 1);
	scan_and_tell(f);
	assert_sys(getrlimit(RLIMIT_FSIZE, &was));
	small = (struct rlimit){ MIB, was.rlim_max };
	void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
	assert_sys(setrlimit(RLIMIT_FSIZE, &small));
	(void)pass(f, NULL, NULL, &code);
	assert_sys(setrlimit(RLIMIT_FSIZE, &was));
	(void)signal(SIGXFSZ, handler);
	assert_true(code != FM_OK && code != FM_E_DATA_LOSS);
	assert_false(fm_known_is_bad(f->have));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(test_known_is_not_sent),
		T(test_the_rest_is_sent),
		T(test_nothing_is_known),
		T(test_later_pass),
		T(test_holes),
		T(test_changed_copy),
		T(test_links_in_the_copy),
		T(test_only_what_was_left),
		T(test_scan_limits),
		T(test_cancelled),
		T(test_find_budget),
		T(test_find_short),
		T(test_claims),
		T(test_too_many_claims),
		T(test_hostile_sender),
		T(test_no_room),
	};
	return cmocka_run_group_tests_name("file-known", tests, NULL, NULL);
}
