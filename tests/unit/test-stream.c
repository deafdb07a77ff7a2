/* SPDX-License-Identifier: MIT */
/*
 * test-stream.c - frames over socket pairs with real threads: damage, cuts, deadlines, cancelling, first frames, throughput. TLS: test-stream-tls.c.
 */
#include "stream-lab.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "basic/cleanup.h"
#include "sync/crc32c.h"

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
	static const uint8_t want[35] = { 'F', 'M', 'S', '1', 41, 0, 0, 0,    3,    0,    0,    0,    0xb7, 0x3f, 0x4b, 0x36, 7,  0,
		                          0,   0,   0,   0,   0,  0, 0, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 'a',  'b',  'c' };

	pair_raw(&a, &fd);
	assert_ok(fm_stream_send(a, FM_FRAME_PAGES, 7, 0x7060504030201000, "abc", 3, WAIT_MS, &err));
	assert_ok(fm_read_full(fd, got, sizeof(got), &err));
	assert_memory_equal(want, got, sizeof(got));
	assert_int_equal(35, fm_stream_bytes(a));
	fm_stream_free(a);
	close(fd);
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
	fm_frame_encode(f, (enum fm_frame)39, 0, 0, NULL, 0); /* a gap in the numbers */
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
	assert_ok(fm_stream_send(b, FM_FRAME_FILES_OK, 1, 0, NULL, 0, WAIT_MS, &err)); /* an answer that nobody has read yet */
	fm_stream_send_error(b, &e);
	fm_stream_free(b);
	assert_code(FM_E_UNAVAILABLE, fm_stream_send(a, FM_FRAME_FILE_DATA, 0, 0, p, FM_MAX_FRAME_BYTES, WAIT_MS, &err));
	struct fm_error why = err;
	assert_int_equal(-1, fm_stream_explain(a, &why));
	assert_int_equal(FM_E_RESOURCE_EXHAUSTED, why.code);
	fm_stream_free(a);
	free(p);
}

static void tcp_pair(int ret[2])
{
	_fm_close_ int listening = -1;
	uint16_t port = 0;
	char address[32];

	assert_ok(fm_tcp_listen("127.0.0.1:0", 1, &listening, &err));
	assert_ok(fm_tcp_local_port(listening, &port, &err));
	(void)snprintf(address, sizeof(address), "127.0.0.1:%u", port);
	assert_ok(fm_tcp_connect(address, WAIT_MS, &ret[0], &err));
	assert_ok(fm_accept(listening, WAIT_MS, -1, &ret[1], &err));
}

/* A peer that gives up while its window is full sends no reset for what it does not read: that it has ended has to be noticed while sending, or the sender waits until its deadline. */
static void test_explain_full_window(void **state)
{
	uint8_t *p = calloc(1, FM_MAX_FRAME_BYTES);
	struct fm_stream *a, *b;
	struct fm_error e = FM_ERROR_INIT;
	int fd[2];

	tcp_pair(fd);
	/* also what poll does not call room */
	do
		while (send(fd[0], p, FM_MAX_FRAME_BYTES, MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
			;
	while (fm_wait_fd(fd[0], POLLOUT, 300, NULL) > 0);
	assert_ok(fm_stream_from_fd(fd[0], &a, &err));
	assert_ok(fm_stream_from_fd(fd[1], &b, &err));
	fm_error_set(&e, FM_E_RESOURCE_EXHAUSTED, "the disk is full");
	fm_stream_send_error(b, &e);
	fm_stream_shutdown(b);
	(void)alarm(60);
	assert_code(FM_E_UNAVAILABLE, fm_stream_send(a, FM_FRAME_FILE_DATA, 0, 0, p, FM_MAX_FRAME_BYTES, -1, &err));
	(void)alarm(0);
	struct fm_error why = err;
	assert_int_equal(-1, fm_stream_explain(a, &why));
	assert_int_equal(FM_E_RESOURCE_EXHAUSTED, why.code);
	fm_stream_free(a);
	fm_stream_free(b);
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

/* A client with valid TLS or none that says the wrong thing first: raw frames against a plain server */
static void expect_first_frame(enum fm_frame type, uint64_t a, uint64_t b, const char *payload, enum fm_code code)
{
	struct fm_stream *c, *s = NULL;
	struct fm_stream_hello what;
	int fd;

	pair_raw(&c, &fd);
	assert_ok(fm_stream_send(c, type, a, b, payload, strlen(payload), WAIT_MS, &err));
	assert_code(code, fm_stream_accept(fd, NULL, TOKEN, ID, WAIT_MS, &what, &s, &err));
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
	expect_first_frame(FM_FRAME_HELLO, 1, 4, TOKEN "\n" ID, FM_E_INVALID_ARGUMENT);
	expect_first_frame(FM_FRAME_HELLO, 1, 1, long_text, FM_E_DATA_LOSS);
}

/* Which of how many */
static void test_push_hello(void **state)
{
	static const uint64_t bad[] = {
		3,                       /* none of none */
		3 | 1 << 8 | 1 << 16,    /* the second of one */
		3 | 255 << 8 | 16 << 16, /* a high one of 16 */
		3 | 17 << 16,            /* more than there may be */
		3 | 0xffffull << 16,     /* far more */
		2 | 1 << 16,             /* pages on demand come over one */
		1 | 1ull << 32,          /* control is not dialled again */
		1 | 1ull << 63,
	};
	static const struct fm_stream_hello good[] = {
		{ FM_STREAM_PUSH, 0, 1, 0 },
		{ FM_STREAM_PUSH, 0, 16, 1 },
		{ FM_STREAM_PUSH, 15, 16, UINT32_MAX },
		{ FM_STREAM_PAGES, 0, 0, 0 },
	};
	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++)
		expect_first_frame(FM_FRAME_HELLO, 1, bad[i], TOKEN "\n" ID, FM_E_INVALID_ARGUMENT);
	for (size_t i = 0; i < FM_ARRAY_SIZE(good); i++) {
		const uint64_t b = (uint64_t)good[i].role | good[i].index << 8 | good[i].count << 16 | (uint64_t)good[i].redials << 32;
		struct fm_stream_hello what;
		struct fm_frame_header h;
		struct fm_stream *c, *s;
		int fd;
		pair_raw(&c, &fd);
		assert_ok(fm_stream_send(c, FM_FRAME_HELLO, 1, b, TOKEN "\n" ID, strlen(TOKEN "\n" ID), WAIT_MS, &err));
		assert_ok(fm_stream_accept(fd, NULL, TOKEN, ID, WAIT_MS, &what, &s, &err));
		assert_true(what.role == good[i].role && what.index == good[i].index && what.count == good[i].count &&
		            what.redials == good[i].redials);
		assert_ok(fm_stream_expect(c, FM_FRAME_HELLO_OK, &h, NULL, 0, WAIT_MS, -1, &err));
		assert_true(h.b == b);
		fm_stream_free(c);
		fm_stream_free(s);
	}
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
		cmocka_unit_test(test_explain_full_window),
		cmocka_unit_test(test_batch),
		cmocka_unit_test(test_two_senders),
		cmocka_unit_test(test_throughput_plain),
		cmocka_unit_test(test_first_frame),
		cmocka_unit_test(test_push_hello),
	};
	return cmocka_run_group_tests_name("stream", tests, NULL, NULL);
}
