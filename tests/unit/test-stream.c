/* SPDX-License-Identifier: MIT */
/*
 * test-stream.c - frames over socket pairs with real threads, and over TLS on loopback with certificates made here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above */
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "sync/crc32c.h"
#include "sync/stream-internal.h"
#include "sync/stream.h"

#define TOKEN "0123456789abcdef0123456789abcdef"
#define ID "m-3f9a61c2b07d"
#define WAIT_MS 20000

static struct fm_error err;

#define assert_ok(call)                                                                           \
	do {                                                                                      \
		err = FM_ERROR_INIT;                                                              \
		if ((call) < 0)                                                                   \
			fail_msg("%s: %s: %s", #call, fm_code_to_string(err.code), err.message); \
	} while (0)
#define assert_code(expected, call)                                                                                             \
	do {                                                                                                                    \
		err = FM_ERROR_INIT;                                                                                            \
		assert_int_equal(-1, (call));                                                                                   \
		if (err.code != (expected))                                                                                     \
			fail_msg("%s: %s instead of %s: %s", #call, fm_code_to_string(err.code), fm_code_to_string(expected), err.message); \
	} while (0)

/* A stream and the naked other end */
static void pair_raw(struct fm_stream **a, int *fd)
{
	int sv[2];
	assert_int_equal(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv));
	assert_ok(fm_stream_from_fd(sv[0], a, &err));
	*fd = sv[1];
}

static void pair(struct fm_stream **a, struct fm_stream **b)
{
	int fd;
	pair_raw(a, &fd);
	assert_ok(fm_stream_from_fd(fd, b, &err));
}

static void fill_pattern(uint8_t *p, size_t n, uint32_t seed)
{
	uint32_t x = seed * 2654435761u + 1;
	for (size_t i = 0; i < n; i++) {
		x = x * 1664525u + 1013904223u;
		p[i] = (uint8_t)(x >> 24);
	}
}

static void test_crc32c(void **state)
{
	uint8_t b[4096];

	assert_int_equal(0xe3069283u, fm_crc32c(0, "123456789", 9));
	memset(b, 0, 32);
	assert_int_equal(0x8a9136aau, fm_crc32c(0, b, 32)); /* RFC 3720 B.4 */
	memset(b, 0xff, 32);
	assert_int_equal(0x62a8ab43u, fm_crc32c(0, b, 32));
	for (int i = 0; i < 32; i++)
		b[i] = (uint8_t)i;
	assert_int_equal(0x46dd794eu, fm_crc32c(0, b, 32));
	assert_int_equal(0, fm_crc32c(0, NULL, 0));

	fill_pattern(b, sizeof(b), 1);
	for (size_t off = 0; off < 9; off++) {
		for (size_t n = 0; n < 300; n++) {
			assert_int_equal(fm_crc32c_table(0, b + off, n), fm_crc32c(0, b + off, n));
			assert_int_equal(fm_crc32c(0, b + off, n + 64), fm_crc32c(fm_crc32c(0, b + off, n), b + off + n, 64));
		}
	}
}

static void test_wire_format(void **state)
{
	struct fm_stream *a;
	int fd;
	uint8_t got[35];
	static const uint8_t want[35] = { 'F', 'M', 'S', '1', 41, 0, 0, 0, 3, 0, 0, 0, 0xb7, 0x3f, 0x4b, 0x36, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 'a', 'b', 'c' };

	pair_raw(&a, &fd);
	assert_ok(fm_stream_send(a, FM_FRAME_PAGES, 7, 0x7060504030201000, "abc", 3, WAIT_MS, &err));
	assert_ok(fm_read_full(fd, got, sizeof(got), &err));
	assert_memory_equal(want, got, sizeof(got));
	assert_int_equal(35, fm_stream_bytes(a));
	fm_stream_free(a);
	close(fd);
}

static void *send_sizes(void *arg)
{
	static const size_t sizes[] = { 0, 1, 31, 32, 4095, 4096, 16352, 16353, 65535, 65536, 65537, FM_MAX_FRAME_BYTES };
	uint8_t *p = malloc(FM_MAX_FRAME_BYTES);
	struct fm_error e = FM_ERROR_INIT;

	for (size_t i = 0; i < FM_ARRAY_SIZE(sizes); i++) {
		fill_pattern(p, sizes[i], (uint32_t)i);
		if (fm_stream_send(arg, FM_FRAME_IMAGE_DATA, sizes[i], i, p, sizes[i], WAIT_MS, &e) < 0)
			fprintf(stderr, "send: %s\n", e.message);
	}
	free(p);
	return NULL;
}

static void receive_sizes(struct fm_stream *s)
{
	struct fm_frame_header h;
	uint8_t *buf = malloc(FM_MAX_FRAME_BYTES), *want = malloc(FM_MAX_FRAME_BYTES);

	for (uint64_t i = 0; i < 12; i++) {
		assert_ok(fm_stream_recv(s, &h, buf, FM_MAX_FRAME_BYTES, WAIT_MS, -1, &err));
		assert_int_equal(FM_FRAME_IMAGE_DATA, h.type);
		assert_int_equal(i, h.b);
		assert_int_equal(h.a, h.length);
		fill_pattern(want, h.length, (uint32_t)i);
		assert_memory_equal(want, buf, h.length);
	}
	free(buf);
	free(want);
}

static void test_sizes(void **state)
{
	struct fm_stream *a, *b;
	pthread_t t;

	pair(&a, &b);
	pthread_create(&t, NULL, send_sizes, a);
	receive_sizes(b);
	pthread_join(t, NULL);
	assert_int_equal(fm_stream_bytes(a), fm_stream_bytes(b));
	assert_code(FM_E_INVALID_ARGUMENT, fm_stream_send(a, FM_FRAME_PAGES, 0, 0, "", FM_MAX_FRAME_BYTES + 1, WAIT_MS, &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_stream_send(a, 99, 0, 0, NULL, 0, WAIT_MS, &err));
	fm_stream_free(a);
	fm_stream_free(b);
}

static void test_not_a_socket(void **state)
{
	struct fm_stream *s;
	int p[2];

	assert_int_equal(0, pipe2(p, O_CLOEXEC));
	assert_code(FM_E_INVALID_ARGUMENT, fm_stream_from_fd(p[0], &s, &err));
	assert_int_equal(-1, fcntl(p[0], F_GETFD)); /* owned, also on failure */
	close(p[1]);
}

/* Every bit of a frame, header and payload, is guarded by something. (Bits of a and b are the dialogue's business: no checksum covers them; TLS does.) */
static void test_damage(void **state)
{
	uint8_t frame[FM_FRAME_HEADER_BYTES + 64], payload[64], buf[64];

	fill_pattern(payload, sizeof(payload), 5);
	fm_frame_encode(frame, FM_FRAME_FILE_DATA, 1, 2, payload, sizeof(payload));
	memcpy(frame + FM_FRAME_HEADER_BYTES, payload, sizeof(payload));
	for (size_t i = 0; i < sizeof(frame); i++) {
		struct fm_stream *a;
		struct fm_frame_header h;
		int fd;
		if (i >= 16 && i < 32)
			continue;
		if (i == 4) /* another known type is not damage that a frame can show */
			continue;
		pair_raw(&a, &fd);
		frame[i] ^= 0x40;
		assert_ok(fm_write_full(fd, frame, sizeof(frame), &err));
		frame[i] ^= 0x40;
		shutdown(fd, SHUT_WR); /* a length made smaller or larger: then it is cut */
		int r = fm_stream_recv(a, &h, buf, sizeof(buf), WAIT_MS, -1, &err);
		assert_int_equal(-1, r);
		if (i < 8 || i > 11)
			assert_int_equal(FM_E_DATA_LOSS, err.code);
		if (err.code == FM_E_DATA_LOSS) {
			assert_code(FM_E_DATA_LOSS, fm_stream_recv(a, &h, buf, sizeof(buf), WAIT_MS, -1, &err));
			assert_code(FM_E_DATA_LOSS, fm_stream_send(a, FM_FRAME_BYE, 0, 0, NULL, 0, WAIT_MS, &err));
			uint8_t report[FM_FRAME_HEADER_BYTES];
			fm_stream_send_error(a, &err); /* may still say why */
			assert_ok(fm_read_full(fd, report, sizeof(report), &err));
			assert_int_equal(FM_FRAME_ERROR, report[4]);
		}
		fm_stream_free(a);
		close(fd);
	}
}

static void expect_refused(const uint8_t *frame, size_t n, size_t cap)
{
	struct fm_stream *a;
	struct fm_frame_header h = { .type = 77 };
	int fd;
	uint8_t *buf = malloc(cap + 1);

	pair_raw(&a, &fd);
	assert_ok(fm_write_full(fd, frame, n, &err));
	assert_code(FM_E_DATA_LOSS, fm_stream_recv(a, &h, buf, cap, WAIT_MS, -1, &err));
	assert_int_equal(77, h.type); /* written only on success */
	fm_stream_free(a);
	close(fd);
	free(buf);
}

static void test_hostile_headers(void **state)
{
	uint8_t f[FM_FRAME_HEADER_BYTES];

	fm_frame_encode(f, FM_FRAME_FILE_DATA, 0, 0, NULL, 0);
	fm_put_le32(f + 8, FM_MAX_FRAME_BYTES + 1);
	expect_refused(f, sizeof(f), FM_MAX_FRAME_BYTES);
	fm_put_le32(f + 8, UINT32_MAX);
	expect_refused(f, sizeof(f), FM_MAX_FRAME_BYTES);
	fm_put_le32(f + 8, 17); /* allowed in general, not here */
	expect_refused(f, sizeof(f), 16);
	fm_frame_encode(f, (enum fm_frame)0, 0, 0, NULL, 0);
	expect_refused(f, sizeof(f), 16);
	fm_frame_encode(f, (enum fm_frame)15, 0, 0, NULL, 0); /* a gap in the numbers */
	expect_refused(f, sizeof(f), 16);
	fm_frame_encode(f, _FM_FRAME_MAX, 0, 0, NULL, 0);
	expect_refused(f, sizeof(f), 16);
	fm_frame_encode(f, FM_FRAME_BYE, 0, 0, NULL, 0);
	f[6] = 1; /* flags are not in use yet */
	expect_refused(f, sizeof(f), 16);
	fm_frame_encode(f, FM_FRAME_ERROR, FM_E_INTERNAL, 0, NULL, 0);
	fm_put_le32(f + 8, 2049);
	expect_refused(f, sizeof(f), FM_MAX_FRAME_BYTES);
}

static void test_cut(void **state)
{
	uint8_t frame[FM_FRAME_HEADER_BYTES + 6000] = { 0 }, buf[6000];

	fm_frame_encode(frame, FM_FRAME_IMAGE_DATA, 0, 0, frame + FM_FRAME_HEADER_BYTES, 6000);
	static const size_t cuts[] = { 0, 1, 31, 32, 33, 32 + 5999 };
	for (size_t i = 0; i < FM_ARRAY_SIZE(cuts); i++) {
		struct fm_stream *a;
		struct fm_frame_header h;
		int fd;
		pair_raw(&a, &fd);
		assert_ok(fm_write_full(fd, frame, cuts[i], &err));
		close(fd);
		assert_code(FM_E_UNAVAILABLE, fm_stream_recv(a, &h, buf, sizeof(buf), WAIT_MS, -1, &err));
		assert_code(FM_E_UNAVAILABLE, fm_stream_send(a, FM_FRAME_BYE, 0, 0, NULL, 0, WAIT_MS, &err)); /* and no SIGPIPE */
		fm_stream_free(a);
	}
}

static void test_cancel_and_deadline(void **state)
{
	struct fm_stream *a;
	struct fm_frame_header h;
	int fd, cancel = eventfd(0, EFD_CLOEXEC);
	uint64_t one = 1;
	uint8_t frame[FM_FRAME_HEADER_BYTES + 9000], buf[9000];

	pair_raw(&a, &fd);
	fill_pattern(frame + FM_FRAME_HEADER_BYTES, 9000, 3);
	fm_frame_encode(frame, FM_FRAME_IMAGE_DATA, 1, 2, frame + FM_FRAME_HEADER_BYTES, 9000);

	assert_code(FM_E_DEADLINE_EXCEEDED, fm_stream_recv(a, &h, buf, sizeof(buf), 0, cancel, &err));
	assert_code(FM_E_DEADLINE_EXCEEDED, fm_stream_recv(a, &h, buf, sizeof(buf), 10, cancel, &err));
	assert_ok(fm_write_full(fd, frame, 20, &err)); /* half a header */
	assert_code(FM_E_DEADLINE_EXCEEDED, fm_stream_recv(a, &h, buf, sizeof(buf), 10, cancel, &err));
	assert_ok(fm_write_full(fd, frame + 20, 5000, &err)); /* half a payload */
	assert_code(FM_E_DEADLINE_EXCEEDED, fm_stream_recv(a, &h, buf, sizeof(buf), 10, cancel, &err));
	assert_int_equal(8, write(cancel, &one, sizeof(one)));
	assert_code(FM_E_CANCELLED, fm_stream_recv(a, &h, buf, sizeof(buf), -1, cancel, &err));
	assert_ok(fm_write_full(fd, frame + 5020, sizeof(frame) - 5020, &err));
	assert_code(FM_E_CANCELLED, fm_stream_recv(a, &h, buf, sizeof(buf), -1, cancel, &err)); /* also when data waits */
	assert_ok(fm_stream_recv(a, &h, buf, sizeof(buf), WAIT_MS, -1, &err));                  /* and nothing is lost */
	assert_memory_equal(frame + FM_FRAME_HEADER_BYTES, buf, sizeof(buf));

	/* Another buffer in the middle of a payload: the beginning is gone */
	assert_ok(fm_write_full(fd, frame, 5000, &err));
	assert_code(FM_E_DEADLINE_EXCEEDED, fm_stream_recv(a, &h, buf, sizeof(buf), 10, -1, &err));
	assert_code(FM_E_DATA_LOSS, fm_stream_recv(a, &h, frame, sizeof(frame), 10, -1, &err));
	fm_stream_free(a);
	close(fd);
	close(cancel);
}

static void test_send_deadline(void **state)
{
	struct fm_stream *a;
	int fd, cancel = eventfd(1, EFD_CLOEXEC);
	uint8_t *p = calloc(1, FM_MAX_FRAME_BYTES);

	pair_raw(&a, &fd);
	assert_code(FM_E_CANCELLED, fm_stream_send_encoded(a, p, 1, -1, cancel, &err)); /* before the first byte: harmless */
	assert_code(FM_E_DEADLINE_EXCEEDED, fm_stream_send(a, FM_FRAME_PAGES, 0, 0, p, FM_MAX_FRAME_BYTES, 20, &err));
	assert_code(FM_E_UNAVAILABLE, fm_stream_send(a, FM_FRAME_BYE, 0, 0, NULL, 0, WAIT_MS, &err)); /* half a frame is out */
	fm_stream_free(a);
	free(p);
	close(fd);
	close(cancel);
}

static void *recv_one(void *arg)
{
	struct fm_frame_header h;
	struct fm_error *e = calloc(1, sizeof(*e));
	uint8_t buf[16];

	fm_stream_recv(arg, &h, buf, sizeof(buf), -1, -1, e);
	return e;
}

static void test_shutdown(void **state)
{
	struct fm_stream *a;
	struct fm_error *e;
	pthread_t t;
	int fd;
	char c;

	pair_raw(&a, &fd);
	pthread_create(&t, NULL, recv_one, a);
	fm_stream_shutdown(a);
	pthread_join(t, (void **)&e);
	assert_int_equal(FM_E_UNAVAILABLE, e->code);
	assert_non_null(strstr(e->message, "this side"));
	assert_code(FM_E_UNAVAILABLE, fm_stream_send(a, FM_FRAME_BYE, 0, 0, NULL, 0, WAIT_MS, &err));
	assert_int_equal(0, read(fd, &c, 1));
	free(e);
	fm_stream_free(a);
	fm_stream_free(NULL);
	close(fd);
}

static void test_error_frame(void **state)
{
	struct fm_stream *a, *b;
	struct fm_frame_header h;
	struct fm_error e = FM_ERROR_INIT;
	char text[1500];

	pair(&a, &b);
	fm_error_set(&e, FM_E_RESOURCE_EXHAUSTED, "the disk is full");
	fm_error_hint(&e, "make room");
	fm_stream_send_error(a, &e);
	assert_code(FM_E_RESOURCE_EXHAUSTED, fm_stream_recv(b, &h, NULL, 0, WAIT_MS, -1, &err)); /* whatever the caller's buffer holds */
	assert_string_equal("the disk is full", err.message);
	assert_string_equal("make room", err.hint);

	assert_ok(fm_stream_send(a, FM_FRAME_ERROR, 12345, 0, "bad\033[31m", 8, WAIT_MS, &err));
	assert_code(FM_E_UNKNOWN, fm_stream_expect(b, FM_FRAME_BYE, &h, NULL, 0, WAIT_MS, -1, &err));
	assert_null(strchr(err.message, '\033'));
	assert_ok(fm_stream_send(a, FM_FRAME_ERROR, FM_OK, 0, NULL, 0, WAIT_MS, &err));
	assert_code(FM_E_UNKNOWN, fm_stream_expect(b, FM_FRAME_BYE, &h, NULL, 0, WAIT_MS, -1, &err));
	memset(text, 'x', sizeof(text));
	assert_ok(fm_stream_send(a, FM_FRAME_ERROR, FM_E_INTERNAL, 0, text, sizeof(text), WAIT_MS, &err));
	assert_code(FM_E_INTERNAL, fm_stream_expect(b, FM_FRAME_BYE, &h, NULL, 0, WAIT_MS, -1, &err));

	assert_ok(fm_stream_send(a, FM_FRAME_ABORT, 0, 0, NULL, 0, WAIT_MS, &err));
	assert_code(FM_E_CANCELLED, fm_stream_expect(b, FM_FRAME_RESTORE, &h, NULL, 0, WAIT_MS, -1, &err));
	assert_ok(fm_stream_send(a, FM_FRAME_ABORT, 0, 0, NULL, 0, WAIT_MS, &err));
	assert_ok(fm_stream_expect(b, FM_FRAME_ABORT, &h, NULL, 0, WAIT_MS, -1, &err));
	assert_ok(fm_stream_send(a, FM_FRAME_COMMIT, 0, 0, NULL, 0, WAIT_MS, &err));
	assert_code(FM_E_DATA_LOSS, fm_stream_expect(b, FM_FRAME_RESTORE, &h, NULL, 0, WAIT_MS, -1, &err));
	fm_stream_free(a);
	fm_stream_free(b);
	assert_string_equal("PAGES_GONE", fm_frame_to_string(FM_FRAME_PAGES_GONE));
	assert_string_equal("unknown frame", fm_frame_to_string(1000));
}

/* A peer that gives up tells why and closes, while we are still pushing data at it: its reason must not be lost behind our broken pipe. */
static void test_explain(void **state)
{
	struct fm_stream *a, *b;
	struct fm_error e = FM_ERROR_INIT;
	uint8_t *p = calloc(1, FM_MAX_FRAME_BYTES);

	pair(&a, &b);
	fm_error_set(&e, FM_E_RESOURCE_EXHAUSTED, "the disk is full");
	fm_stream_send_error(b, &e);
	fm_stream_free(b);
	assert_code(FM_E_UNAVAILABLE, fm_stream_send(a, FM_FRAME_FILE_DATA, 0, 0, p, FM_MAX_FRAME_BYTES, WAIT_MS, &err));
	struct fm_error why = err;
	assert_int_equal(-1, fm_stream_explain(a, &why));
	assert_int_equal(FM_E_RESOURCE_EXHAUSTED, why.code);
	fm_stream_free(a);
	free(p);
}

static void test_batch(void **state)
{
	struct fm_stream *a, *b;
	struct fm_batch batch;
	struct fm_frame_header h;
	uint8_t *to, buf[4096];
	size_t room;

	pair(&a, &b);
	assert_ok(fm_batch_init(&batch, a, 4096, WAIT_MS, -1, &err));
	for (uint64_t i = 0; i < 300; i++)
		assert_ok(fm_batch_add(&batch, FM_FRAME_FILE_DATA, i, 0, "xyz", 3, &err));
	assert_ok(fm_batch_reserve(&batch, 1000, &to, &room, &err));
	assert_true(room >= 1000 && room <= 4096 - FM_FRAME_HEADER_BYTES);
	memset(to, 'q', 1000);
	fm_batch_commit(&batch, FM_FRAME_FILE_DATA, 300, 0, 1000);
	assert_ok(fm_batch_flush(&batch, &err));
	assert_ok(fm_batch_flush(&batch, &err));
	assert_int_equal(fm_stream_bytes(a), batch.bytes);
	for (uint64_t i = 0; i <= 300; i++) {
		assert_ok(fm_stream_expect(b, FM_FRAME_FILE_DATA, &h, buf, sizeof(buf), WAIT_MS, -1, &err));
		assert_int_equal(i, h.a);
		assert_int_equal(i < 300 ? 3 : 1000, h.length);
	}
	assert_code(FM_E_INVALID_ARGUMENT, fm_batch_reserve(&batch, 4096, &to, &room, &err));
	fm_batch_done(&batch);
	fm_stream_free(a);
	fm_stream_free(b);
}

/* threads */

struct load {
	struct fm_stream *s;
	uint32_t id;
	size_t frames, bytes;
	struct fm_error err;
};

static void *send_load(void *arg)
{
	struct load *l = arg;
	uint8_t *p = malloc(l->bytes);

	fill_pattern(p, l->bytes, l->id);
	for (uint64_t i = 0; i < l->frames && l->err.code == FM_OK; i++) {
		fm_put_le64(p, i);
		fm_stream_send(l->s, FM_FRAME_PAGES, l->id, i, p, l->bytes, WAIT_MS, &l->err);
	}
	free(p);
	return NULL;
}

static void *recv_load(void *arg)
{
	struct load *l = arg;
	struct fm_frame_header h;
	uint8_t *p = malloc(FM_MAX_FRAME_BYTES);
	uint64_t next[4] = { 0 };

	for (size_t i = 0; i < l->frames && l->err.code == FM_OK; i++) {
		if (fm_stream_recv(l->s, &h, p, FM_MAX_FRAME_BYTES, WAIT_MS, -1, &l->err) < 0)
			break;
		if (h.length != l->bytes || h.a >= 4 || h.b != next[h.a]++ || fm_get_le64(p) != h.b)
			fm_error_set(&l->err, FM_E_DATA_LOSS, "frame %zu is not what was sent", i);
	}
	free(p);
	return NULL;
}

/* Two senders on one stream: frames are whole and in order */
static void test_two_senders(void **state)
{
	struct fm_stream *a, *b;
	pthread_t t[2];

	pair(&a, &b);
	struct load one = { .s = a, .id = 1, .frames = 3000, .bytes = 777 }, two = { .s = a, .id = 2, .frames = 3000, .bytes = 777 };
	struct load in = { .s = b, .frames = 6000, .bytes = 777 };
	pthread_create(&t[0], NULL, send_load, &one);
	pthread_create(&t[1], NULL, send_load, &two);
	recv_load(&in);
	pthread_join(t[0], NULL);
	pthread_join(t[1], NULL);
	assert_string_equal("", in.err.message);
	assert_string_equal("", one.err.message);
	assert_string_equal("", two.err.message);
	fm_stream_free(a);
	fm_stream_free(b);
}

/* Both ends send and receive at the same time; prints the sum of both directions. */
static void run_duplex(struct fm_stream *a, struct fm_stream *b, size_t frames, size_t bytes, const char *what)
{
	struct load l[4] = {
		{ .s = a, .id = 1, .frames = frames, .bytes = bytes },
		{ .s = b, .id = 2, .frames = frames, .bytes = bytes },
		{ .s = a, .frames = frames, .bytes = bytes },
		{ .s = b, .frames = frames, .bytes = bytes },
	};
	pthread_t t[4];
	uint64_t start = fm_now_us();

	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, i < 2 ? send_load : recv_load, &l[i]);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	uint64_t us = fm_now_us() - start;
	for (int i = 0; i < 4; i++)
		assert_string_equal("", l[i].err.message);
	print_message("    %s, both directions at once: %.0f MB/s in sum\n", what, 2.0 * (double)frames * (double)bytes / (double)us);
}

static void run_simplex(struct fm_stream *a, struct fm_stream *b, size_t frames, size_t bytes, const char *what)
{
	struct load out = { .s = a, .id = 1, .frames = frames, .bytes = bytes }, in = { .s = b, .frames = frames, .bytes = bytes };
	pthread_t t;
	uint64_t start = fm_now_us();

	pthread_create(&t, NULL, send_load, &out);
	recv_load(&in);
	pthread_join(t, NULL);
	uint64_t us = fm_now_us() - start;
	assert_string_equal("", out.err.message);
	assert_string_equal("", in.err.message);
	print_message("    %s, one direction, frames of %zu: %.0f MB/s\n", what, bytes, (double)frames * (double)bytes / (double)us);
}

static void test_throughput_plain(void **state)
{
	struct fm_stream *a, *b;

	pair(&a, &b);
	run_simplex(a, b, 512, FM_MAX_FRAME_BYTES, "plain socket pair");
	run_simplex(a, b, 20000, 4096, "plain socket pair");
	run_duplex(a, b, 256, FM_MAX_FRAME_BYTES, "plain socket pair");
	fm_stream_free(a);
	fm_stream_free(b);
}

/* TLS */

struct pki {
	char *dir;
	struct fm_stream_tls host, other, wrong_name; /* signed by the authority, by another one, for another host */
	char paths[8][96];
};

static EVP_PKEY *new_key(const char *path)
{
	EVP_PKEY *k = EVP_EC_gen("P-256");
	FILE *f = fopen(path, "we");
	assert_non_null(k);
	assert_non_null(f);
	assert_int_equal(1, PEM_write_PrivateKey(f, k, NULL, NULL, 0, NULL, NULL));
	fclose(f);
	return k;
}

static void add_extension(X509 *x, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX c;
	X509V3_set_ctx_nodb(&c);
	X509V3_set_ctx(&c, issuer, x, NULL, NULL, 0);
	X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &c, nid, value);
	assert_non_null(e);
	X509_add_ext(x, e, -1);
	X509_EXTENSION_free(e);
}

static X509 *new_cert(const char *path, const char *name, const char *san, EVP_PKEY *key, X509 *issuer, EVP_PKEY *issuer_key)
{
	X509 *x = X509_new();
	static long serial;

	X509_set_version(x, X509_VERSION_3);
	ASN1_INTEGER_set(X509_get_serialNumber(x), ++serial);
	X509_gmtime_adj(X509_getm_notBefore(x), -60);
	X509_gmtime_adj(X509_getm_notAfter(x), 3600);
	X509_set_pubkey(x, key);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_UTF8, (const unsigned char *)name, -1, -1, 0);
	X509_set_issuer_name(x, X509_get_subject_name(issuer ? issuer : x));
	add_extension(x, issuer ? issuer : x, NID_basic_constraints, issuer ? "CA:FALSE" : "critical,CA:TRUE");
	if (issuer)
		add_extension(x, issuer, NID_ext_key_usage, "serverAuth,clientAuth");
	if (san)
		add_extension(x, issuer, NID_subject_alt_name, san);
	assert_true(X509_sign(x, issuer_key, EVP_sha256()) > 0);
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	assert_int_equal(1, PEM_write_X509(f, x));
	fclose(f);
	return x;
}

static int pki_setup(void **state)
{
	struct pki *p = calloc(1, sizeof(*p));
	static const char *const names[8] = { "ca.pem", "ca.key", "host.pem", "host.key", "other-ca.pem", "other.pem", "wrong.pem", "plain.txt" };

	p->dir = fm_xstrdup("/tmp/fm-test-stream-XXXXXX");
	if (!mkdtemp(p->dir))
		return -1;
	for (int i = 0; i < 8; i++)
		snprintf(p->paths[i], sizeof(p->paths[i]), "%s/%s", p->dir, names[i]);
	EVP_PKEY *ca_key = new_key(p->paths[1]), *key = new_key(p->paths[3]);
	X509 *ca = new_cert(p->paths[0], "test authority", NULL, ca_key, NULL, ca_key);
	X509 *host = new_cert(p->paths[2], "a", "DNS:localhost,IP:127.0.0.1,IP:::1", key, ca, ca_key);
	X509 *other_ca = new_cert(p->paths[4], "other authority", NULL, key, NULL, key);
	X509 *other = new_cert(p->paths[5], "a", "DNS:localhost,IP:127.0.0.1", key, other_ca, key);
	X509 *wrong = new_cert(p->paths[6], "b", "DNS:elsewhere.example,IP:192.0.2.1", key, ca, ca_key);
	p->host = (struct fm_stream_tls){ p->paths[0], p->paths[2], p->paths[3] };
	p->other = (struct fm_stream_tls){ p->paths[4], p->paths[5], p->paths[3] };
	p->wrong_name = (struct fm_stream_tls){ p->paths[0], p->paths[6], p->paths[3] };
	X509_free(ca);
	X509_free(host);
	X509_free(other_ca);
	X509_free(other);
	X509_free(wrong);
	EVP_PKEY_free(ca_key);
	EVP_PKEY_free(key);
	*state = p;
	return 0;
}

static int pki_teardown(void **state)
{
	struct pki *p = *state;
	struct fm_error e = FM_ERROR_INIT;
	int r = fm_remove_tree(p->dir, &e);
	free(p->dir);
	free(p);
	return r;
}

struct server {
	int listen_fd;
	char address[32];
	const struct fm_stream_tls *tls;
	const char *token, *id;
	int timeout_ms;
	pthread_t thread;
	struct fm_stream *stream;
	enum fm_stream_role role;
	struct fm_error err;
};

static void *serve_one(void *arg)
{
	struct server *s = arg;
	int fd;

	if (fm_accept(s->listen_fd, WAIT_MS, -1, &fd, &s->err) == 0)
		fm_stream_accept(fd, s->tls, s->token, s->id, s->timeout_ms, &s->role, &s->stream, &s->err);
	return NULL;
}

static void server_start(struct server *s, const struct fm_stream_tls *tls)
{
	uint16_t port;

	*s = (struct server){ .tls = tls, .token = TOKEN, .id = ID, .timeout_ms = WAIT_MS };
	assert_ok(fm_tcp_listen("127.0.0.1:0", 4, &s->listen_fd, &err));
	assert_ok(fm_tcp_local_port(s->listen_fd, &port, &err));
	snprintf(s->address, sizeof(s->address), "127.0.0.1:%u", port);
	pthread_create(&s->thread, NULL, serve_one, s);
}

static void server_join(struct server *s)
{
	pthread_join(s->thread, NULL);
	close(s->listen_fd);
}

static void tls_pair(struct pki *p, struct fm_stream **client, struct fm_stream **server)
{
	struct server s;

	server_start(&s, p ? &p->host : NULL);
	assert_ok(fm_stream_connect(s.address, p ? &p->host : NULL, TOKEN, ID, FM_STREAM_PAGES, WAIT_MS, client, &err));
	server_join(&s);
	assert_string_equal("", s.err.message);
	assert_int_equal(FM_STREAM_PAGES, s.role);
	*server = s.stream;
}

static void test_tls_frames(void **state)
{
	struct fm_stream *a, *b;
	pthread_t t;

	tls_pair(*state, &a, &b);
	pthread_create(&t, NULL, send_sizes, a);
	receive_sizes(b);
	pthread_join(t, NULL);
	pthread_create(&t, NULL, send_sizes, b);
	receive_sizes(a);
	pthread_join(t, NULL);
	/* what TLS adds is counted, and no more than that */
	uint64_t plain = 2 * (FM_MAX_FRAME_BYTES + 250000u);
	assert_true(fm_stream_bytes(a) > 2 * (uint64_t)FM_MAX_FRAME_BYTES && fm_stream_bytes(a) < plain + plain / 20);
	fm_stream_free(a);
	struct fm_frame_header h;
	assert_code(FM_E_UNAVAILABLE, fm_stream_recv(b, &h, NULL, 0, WAIT_MS, -1, &err)); /* said good-bye */
	fm_stream_free(b);
}

static void test_tls_rekey(void **state)
{
	struct fm_stream *a, *b;

	tls_pair(*state, &a, &b);
	fm_stream_set_rekey_bytes(a, 100000);
	fm_stream_set_rekey_bytes(b, 70000);
	run_duplex(a, b, 64, 65536, "TLS, new keys all the time");
	fm_stream_free(a);
	fm_stream_free(b);
}

static void test_tls_throughput(void **state)
{
	struct fm_stream *a, *b;

	tls_pair(NULL, &a, &b);
	run_simplex(a, b, 256, FM_MAX_FRAME_BYTES, "plain loopback");
	fm_stream_free(a);
	fm_stream_free(b);
	tls_pair(*state, &a, &b);
	run_simplex(a, b, 256, FM_MAX_FRAME_BYTES, "TLS loopback");
	run_simplex(a, b, 10000, 4096, "TLS loopback");
	run_duplex(a, b, 96, FM_MAX_FRAME_BYTES, "TLS loopback");
	fm_stream_free(a);
	fm_stream_free(b);
}

/* Both sides' codes when the client comes with these credentials */
static void expect_hello(const struct fm_stream_tls *server_tls, const struct fm_stream_tls *client_tls, const char *token, const char *id, enum fm_code client_code,
			 enum fm_code server_code)
{
	struct server s;
	struct fm_stream *c = NULL;

	server_start(&s, server_tls);
	assert_code(client_code, fm_stream_connect(s.address, client_tls, token, id, FM_STREAM_CONTROL, WAIT_MS, &c, &err));
	assert_null(c);
	struct fm_error client_err = err;
	server_join(&s);
	assert_null(s.stream);
	if (s.err.code != server_code)
		fail_msg("server: %s instead of %s: %s (client: %s)", fm_code_to_string(s.err.code), fm_code_to_string(server_code), s.err.message, client_err.message);
}

static void test_tls_refusals(void **state)
{
	struct pki *p = *state;

	expect_hello(&p->host, &p->host, "0123456789abcdef0123456789abcdee", ID, FM_E_UNAUTHENTICATED, FM_E_UNAUTHENTICATED);
	expect_hello(&p->host, &p->host, "0", ID, FM_E_UNAUTHENTICATED, FM_E_UNAUTHENTICATED);
	expect_hello(&p->host, &p->host, TOKEN, "m-000000000000", FM_E_UNAUTHENTICATED, FM_E_UNAUTHENTICATED);
	/* another authority, on either side, and on the client's side only (its certificate is what is wrong) */
	expect_hello(&p->host, &p->other, TOKEN, ID, FM_E_UNAUTHENTICATED, FM_E_UNAUTHENTICATED);
	struct fm_stream_tls mixed = { p->host.ca_pem_path, p->other.cert_pem_path, p->other.key_pem_path };
	expect_hello(&p->host, &mixed, TOKEN, ID, FM_E_UNAUTHENTICATED, FM_E_UNAUTHENTICATED);
	/* a genuine host, but not the one that was dialled */
	expect_hello(&p->wrong_name, &p->host, TOKEN, ID, FM_E_UNAUTHENTICATED, FM_E_UNAUTHENTICATED);
}

static void test_tls_files(void **state)
{
	struct pki *p = *state;
	struct fm_stream *s;
	struct fm_stream_tls bad = p->host;
	int sv[2];
	enum fm_stream_role role;

	bad.cert_pem_path = "/nonexistent/cert.pem";
	assert_int_equal(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
	assert_code(FM_E_NOT_FOUND, fm_stream_accept(sv[0], &bad, TOKEN, ID, WAIT_MS, &role, &s, &err));
	assert_non_null(strstr(err.message, "/nonexistent/cert.pem"));
	close(sv[1]);
	bad = p->host;
	bad.key_pem_path = p->paths[1]; /* the key of another certificate */
	assert_int_equal(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
	assert_code(FM_E_INVALID_ARGUMENT, fm_stream_accept(sv[0], &bad, TOKEN, ID, WAIT_MS, &role, &s, &err));
	close(sv[1]);
	assert_int_equal(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
	assert_code(FM_E_INVALID_ARGUMENT, fm_stream_accept(sv[0], &p->host, "", ID, WAIT_MS, &role, &s, &err)); /* an empty token would let everybody in */
	close(sv[1]);
}

/* Clients that are not ours: no certificate, an old TLS, no TLS at all, nothing */
static void *rude_client(void *arg)
{
	const char *kind = ((void **)arg)[0], *address = ((void **)arg)[1];
	struct fm_error e = FM_ERROR_INIT;
	char c[64];
	int fd;

	if (fm_tcp_connect(address, WAIT_MS, &fd, &e) < 0)
		return NULL;
	if (strcmp(kind, "plain") == 0) {
		(void)!write(fd, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27);
	} else if (strcmp(kind, "silent") != 0) {
		SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
		if (strcmp(kind, "old") == 0)
			SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION);
		SSL *ssl = SSL_new(ctx);
		SSL_set_fd(ssl, fd);
		if (SSL_connect(ssl) == 1)
			(void)SSL_read(ssl, c, sizeof(c));
		SSL_free(ssl);
		SSL_CTX_free(ctx);
	}
	while (read(fd, c, sizeof(c)) > 0)
		;
	close(fd);
	return NULL;
}

static void expect_rude(struct pki *p, const char *kind, int timeout_ms, enum fm_code code)
{
	uint16_t port;
	char address[32];
	int fd, listen_fd;
	struct fm_stream *s = NULL;
	enum fm_stream_role role;
	pthread_t t;

	assert_ok(fm_tcp_listen("127.0.0.1:0", 4, &listen_fd, &err));
	assert_ok(fm_tcp_local_port(listen_fd, &port, &err));
	snprintf(address, sizeof(address), "127.0.0.1:%u", port);
	const void *arg[2] = { kind, address };
	pthread_create(&t, NULL, rude_client, arg);
	assert_ok(fm_accept(listen_fd, WAIT_MS, -1, &fd, &err));
	assert_code(code, fm_stream_accept(fd, &p->host, TOKEN, ID, timeout_ms, &role, &s, &err));
	assert_null(s);
	pthread_join(t, NULL);
	close(listen_fd);
}

static void test_tls_rude_clients(void **state)
{
	signal(SIGPIPE, SIG_IGN); /* OpenSSL's own socket code in rude_client */
	expect_rude(*state, "no certificate", WAIT_MS, FM_E_UNAUTHENTICATED);
	expect_rude(*state, "old", WAIT_MS, FM_E_UNAUTHENTICATED);
	expect_rude(*state, "plain", WAIT_MS, FM_E_UNAUTHENTICATED);
	expect_rude(*state, "silent", 50, FM_E_DEADLINE_EXCEEDED);
	signal(SIGPIPE, SIG_DFL);
}

/* Somebody on the wire who changes one byte of what the client sends, or cuts. Accepts one client and forwards. */
struct middle {
	int listen_fd;
	char address[32];
	const char *server_address;
	size_t damage_at, cut_at; /* counted from the client's first byte; 0 = never */
	pthread_t thread;
};

static void *run_middle(void *arg)
{
	struct middle *m = arg;
	struct fm_error e = FM_ERROR_INIT;
	uint8_t buf[4096];
	size_t seen = 0;
	int client, server;

	if (fm_accept(m->listen_fd, WAIT_MS, -1, &client, &e) < 0)
		return NULL;
	if (fm_tcp_connect(m->server_address, WAIT_MS, &server, &e) < 0) {
		close(client);
		return NULL;
	}
	for (;;) {
		struct pollfd p[2] = { { .fd = client, .events = POLLIN }, { .fd = server, .events = POLLIN } };
		if (poll(p, 2, WAIT_MS) <= 0)
			break;
		bool up = p[0].revents;
		ssize_t n = read(up ? client : server, buf, sizeof(buf));
		if (n <= 0)
			break;
		if (up && m->cut_at && seen + (size_t)n > m->cut_at)
			break;
		if (up && m->damage_at && seen <= m->damage_at && m->damage_at < seen + (size_t)n)
			buf[m->damage_at - seen] ^= 1;
		seen += up ? (size_t)n : 0;
		if (send(up ? server : client, buf, (size_t)n, MSG_NOSIGNAL) != n)
			break;
	}
	close(client);
	close(server);
	return NULL;
}

static void expect_on_wire(struct pki *p, size_t damage_at, size_t cut_at, enum fm_code code)
{
	struct server s;
	struct fm_stream *c;
	struct middle m = { .damage_at = damage_at, .cut_at = cut_at };
	uint16_t port;
	struct fm_frame_header h;
	uint8_t *buf = calloc(1, FM_MAX_FRAME_BYTES);

	server_start(&s, &p->host);
	m.server_address = s.address;
	assert_ok(fm_tcp_listen("127.0.0.1:0", 4, &m.listen_fd, &err));
	assert_ok(fm_tcp_local_port(m.listen_fd, &port, &err));
	snprintf(m.address, sizeof(m.address), "127.0.0.1:%u", port);
	pthread_create(&m.thread, NULL, run_middle, &m);
	assert_ok(fm_stream_connect(m.address, &p->host, TOKEN, ID, FM_STREAM_CONTROL, WAIT_MS, &c, &err));
	server_join(&s);
	assert_string_equal("", s.err.message);
	assert_int_equal(FM_STREAM_CONTROL, s.role);

	struct load out = { .s = c, .frames = 8, .bytes = 65536 };
	pthread_t t;
	pthread_create(&t, NULL, send_load, &out);
	int r = 0;
	err = FM_ERROR_INIT;
	for (int i = 0; i < 9 && r == 0; i++)
		r = fm_stream_recv(s.stream, &h, buf, FM_MAX_FRAME_BYTES, WAIT_MS, -1, &err);
	assert_int_equal(-1, r);
	assert_int_equal(code, err.code);
	fm_stream_shutdown(s.stream);
	pthread_join(t, NULL);
	fm_stream_free(c);
	fm_stream_free(s.stream);
	pthread_join(m.thread, NULL);
	close(m.listen_fd);
	free(buf);
}

static void test_tls_on_wire(void **state)
{
	expect_on_wire(*state, 100000, 0, FM_E_DATA_LOSS);
	expect_on_wire(*state, 0, 100000, FM_E_UNAVAILABLE);
}

/* A client with valid TLS or none that says the wrong thing first: raw frames against a plain server */
static void expect_first_frame(enum fm_frame type, uint64_t a, uint64_t b, const char *payload, enum fm_code code)
{
	struct fm_stream *c, *s = NULL;
	enum fm_stream_role role;
	int fd;

	pair_raw(&c, &fd);
	assert_ok(fm_stream_send(c, type, a, b, payload, strlen(payload), WAIT_MS, &err));
	assert_code(code, fm_stream_accept(fd, NULL, TOKEN, ID, WAIT_MS, &role, &s, &err));
	assert_null(s);
	fm_stream_free(c);
}

static void test_first_frame(void **state)
{
	char long_text[300];

	memset(long_text, 'x', sizeof(long_text) - 1);
	long_text[sizeof(long_text) - 1] = 0;
	expect_first_frame(FM_FRAME_BYE, 1, 1, "", FM_E_DATA_LOSS);
	expect_first_frame(FM_FRAME_PAGE_REQUEST, 1, 0, "12345678", FM_E_DATA_LOSS);
	expect_first_frame(FM_FRAME_HELLO, 1, 1, "", FM_E_UNAUTHENTICATED);
	expect_first_frame(FM_FRAME_HELLO, 1, 1, TOKEN, FM_E_UNAUTHENTICATED);
	expect_first_frame(FM_FRAME_HELLO, 1, 1, TOKEN "\n", FM_E_UNAUTHENTICATED);
	expect_first_frame(FM_FRAME_HELLO, 1, 1, TOKEN "\n" ID "x", FM_E_UNAUTHENTICATED);
	expect_first_frame(FM_FRAME_HELLO, 1, 1, TOKEN "x\n" ID, FM_E_UNAUTHENTICATED);
	expect_first_frame(FM_FRAME_HELLO, 0, 1, TOKEN "\n" ID, FM_E_FAILED_PRECONDITION);
	expect_first_frame(FM_FRAME_HELLO, 1, 3, TOKEN "\n" ID, FM_E_INVALID_ARGUMENT);
	expect_first_frame(FM_FRAME_HELLO, 1, 1, long_text, FM_E_DATA_LOSS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_crc32c),
		cmocka_unit_test(test_wire_format),
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_not_a_socket),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_hostile_headers),
		cmocka_unit_test(test_cut),
		cmocka_unit_test(test_cancel_and_deadline),
		cmocka_unit_test(test_send_deadline),
		cmocka_unit_test(test_shutdown),
		cmocka_unit_test(test_error_frame),
		cmocka_unit_test(test_explain),
		cmocka_unit_test(test_batch),
		cmocka_unit_test(test_two_senders),
		cmocka_unit_test(test_throughput_plain),
		cmocka_unit_test(test_tls_frames),
		cmocka_unit_test(test_tls_rekey),
		cmocka_unit_test(test_tls_throughput),
		cmocka_unit_test(test_tls_refusals),
		cmocka_unit_test(test_tls_files),
		cmocka_unit_test(test_tls_rude_clients),
		cmocka_unit_test(test_tls_on_wire),
		cmocka_unit_test(test_first_frame),
	};
	return cmocka_run_group_tests_name("stream", tests, pki_setup, pki_teardown);
}
