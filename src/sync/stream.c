/* SPDX-License-Identifier: MIT */
/*
 * stream.c - see stream.h and docs/PROTOCOL.md.
 *
 * Input passes through one buffer, so that a burst of small frames costs one system call; the bulk of a large payload is read straight into the caller's buffer. A header is only consumed when
 * all 32 bytes are there, and a payload that stopped half way at a deadline is remembered, so a receive that timed out can be repeated.
 *
 * Output: whoever sends holds the writer lock for whole frames. A frame that was not sent completely (deadline, cancel) makes the stream unusable for sending, because the peer would
 * take the next frame's header for payload.
 *
 * Nothing blocks in read or write: every transfer is tried first, poll(2) waits on the socket and the cancel descriptor together, and the deadline and the cancel descriptor are looked at before
 * every transfer, so that a peer who keeps sending cannot keep us.
 */
#include "sync/stream.h"

#include <openssl/crypto.h>

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "sync/crc32c.h"
#include "sync/stream-internal.h"

#define PROTOCOL_VERSION    1u
#define INPUT_BYTES         (64u << 10)
#define DIRECT_READ_BYTES   4096u /* from here on a payload's rest is read past the buffer */
#define ERROR_PAYLOAD_BYTES 2048u
#define SECRET_BYTES        128u /* longest token or migration id */
#define EXPLAIN_FRAMES      8u   /* empty frames in front of an ERROR */
#define SEND_ERROR_MS       1000

/* How long a silent peer is believed to be alive. Pages: waiting tasks are blocked, so soon. Control: the receiver may be busy with its disk. */
#define DEAD_PEER_MS_PAGES   10000
#define DEAD_PEER_MS_CONTROL 120000

struct fm_stream {
	bool damage; /* the next frame */
	int fd;
	struct fm_tls *tls; /* NULL: plain */
	pthread_mutex_t write_lock;
	_Atomic uint64_t wire_bytes;
	atomic_bool shut_down;

	atomic_int read_broken; /* enum fm_code that ended it, 0 = usable */
	atomic_int write_broken;

	/* the reader's */
	struct {
		bool active;
		struct fm_frame_header header;
		uint32_t crc;
		void *buf; /* where the first `done` bytes are */
		size_t done;
	} partial;
	size_t in_off, in_len;
	uint8_t in[INPUT_BYTES];
};

FM_DEFINE_CLEANUP(struct fm_stream *, fm_stream_free);

struct wait {
	uint64_t deadline_ms; /* 0 = none */
	int cancel_fd;
	bool tried; /* a transfer was tried already: with timeout 0 one try is made */
};

static const char *const frame_names[_FM_FRAME_MAX] = {
	[FM_FRAME_HELLO] = "HELLO",
	[FM_FRAME_HELLO_OK] = "HELLO_OK",
	[FM_FRAME_ERROR] = "ERROR",
	[FM_FRAME_FILE_ENTRY] = "FILE_ENTRY",
	[FM_FRAME_FILE_DATA] = "FILE_DATA",
	[FM_FRAME_FILE_DELETE] = "FILE_DELETE",
	[FM_FRAME_FILES_END] = "FILES_END",
	[FM_FRAME_FILES_OK] = "FILES_OK",
	[FM_FRAME_IMAGE_BEGIN] = "IMAGE_BEGIN",
	[FM_FRAME_IMAGE_DATA] = "IMAGE_DATA",
	[FM_FRAME_IMAGES_END] = "IMAGES_END",
	[FM_FRAME_NEIGHBOURS] = "NEIGHBOURS",
	[FM_FRAME_FLOWS] = "FLOWS",
	[FM_FRAME_RESTORE] = "RESTORE",
	[FM_FRAME_RESTORED] = "RESTORED",
	[FM_FRAME_COMMIT] = "COMMIT",
	[FM_FRAME_RUNNING] = "RUNNING",
	[FM_FRAME_PREPARED] = "PREPARED",
	[FM_FRAME_BYE] = "BYE",
	[FM_FRAME_ABORT] = "ABORT",
	[FM_FRAME_PAGE_REQUEST] = "PAGE_REQUEST",
	[FM_FRAME_PAGES] = "PAGES",
	[FM_FRAME_PAGES_GONE] = "PAGES_GONE",
	[FM_FRAME_PAGES_DONE] = "PAGES_DONE",
	[FM_FRAME_PAGES_PUSH] = "PAGES_PUSH",
	[FM_FRAME_ROUND_END] = "ROUND_END",
	[FM_FRAME_ROUND_OK] = "ROUND_OK",
	[FM_FRAME_PAGES_HAVE] = "PAGES_HAVE",
	[FM_FRAME_PAGES_HAVE_END] = "PAGES_HAVE_END",
	[FM_FRAME_PAGES_SECRET] = "PAGES_SECRET",
	[FM_FRAME_FILES_HAVE] = "FILES_HAVE",
	[FM_FRAME_HAVE_END] = "HAVE_END",
	[FM_FRAME_FILE_KNOWN] = "FILE_KNOWN",
	[FM_FRAME_VOLUME] = "VOLUME",
	[FM_FRAME_MEMORY] = "MEMORY",
};

static bool frame_is_known(unsigned type)
{
	return type < _FM_FRAME_MAX && frame_names[type];
}

const char *fm_frame_to_string(unsigned type)
{
	return frame_is_known(type) ? frame_names[type] : "unknown frame";
}

/* waiting */

static struct wait wait_until(int timeout_ms, int cancel_fd)
{
	return (struct wait){ .deadline_ms = timeout_ms < 0 ? 0 : fm_now_ms() + (uint64_t)timeout_ms, .cancel_fd = cancel_fd };
}

static int shut_down_error(struct fm_error *err)
{
	return fm_error_set(err, FM_E_UNAVAILABLE, "the stream was shut down on this side");
}

static int lost_peer(struct fm_stream *s, int e, const char *what, struct fm_error *err)
{
	if (atomic_load_explicit(&s->shut_down, memory_order_relaxed))
		return shut_down_error(err);
	if (!e)
		return fm_error_set(err, FM_E_UNAVAILABLE, "the other side closed the connection while %s", what);
	(void)fm_error_errno(err, e, "the connection broke while %s", what);
	if (err)
		err->code = FM_E_UNAVAILABLE;
	return -1;
}

/*
 * Is the cancel descriptor readable, or (events != 0) wait until it is or the socket is ready. Nobody here ends only one direction: a peer that has ended its own does not read ours any more, and with a full
 * window no reset would ever tell.
 */
static int wait_socket(struct fm_stream *s, short events, struct wait *w, const char *what, struct fm_error *err)
{
	bool gone_matters = events == POLLOUT;

	if (gone_matters)
		events |= POLLRDHUP;
	for (;;) {
		struct pollfd p[2] = { { .fd = events ? s->fd : -1, .events = events }, { .fd = w->cancel_fd, .events = POLLIN } };
		int timeout = !events ? 0 : w->deadline_ms ? fm_deadline_left_ms(w->deadline_ms) : -1;

		int n = poll(p, 2, timeout);
		if (n < 0 && errno != EINTR)
			return fm_error_errno(err, errno, "poll while %s", what);
		if (n > 0 && w->cancel_fd >= 0 && p[1].revents)
			return fm_error_set(err, FM_E_CANCELLED, "cancelled while %s", what);
		if (n > 0 && gone_matters && p[0].revents == POLLRDHUP)
			return lost_peer(s, 0, what, err);
		if (!events || (n > 0 && p[0].revents))
			return 0;
		if (w->deadline_ms && fm_deadline_left_ms(w->deadline_ms) == 0)
			return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "the other side did not answer in time while %s", what);
	}
}

/* Before every transfer: a peer who is never quiet must not outrun the deadline or the cancel descriptor. */
static int check_wait(struct fm_stream *s, struct wait *w, const char *what, struct fm_error *err)
{
	if (atomic_load_explicit(&s->shut_down, memory_order_relaxed))
		return shut_down_error(err);
	if (w->tried && w->deadline_ms && fm_deadline_left_ms(w->deadline_ms) == 0)
		return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "the other side is too slow: deadline while %s", what);
	w->tried = true;
	return w->cancel_fd >= 0 ? wait_socket(s, 0, w, what, err) : 0;
}

/* transport */

/* > 0 bytes, 0 wait for *ret_want, -1 */
static ssize_t transport_read(struct fm_stream *s, void *buf, size_t n, short *ret_want, struct fm_error *err)
{
	ssize_t r;

	if (s->tls) {
		r = fm_tls_read(s->tls, buf, n, ret_want, err);
		return r < 0 && atomic_load(&s->shut_down) ? shut_down_error(err) : r;
	}
	do
		r = recv(s->fd, buf, n, MSG_DONTWAIT);
	while (r < 0 && errno == EINTR);
	if (r > 0) {
		atomic_fetch_add_explicit(&s->wire_bytes, (uint64_t)r, memory_order_relaxed);
		return r;
	}
	if (r < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
		*ret_want = POLLIN;
		return 0;
	}
	return lost_peer(s, r < 0 ? errno : 0, "receiving", err);
}

static ssize_t transport_write(struct fm_stream *s, struct iovec *iov, size_t n_iov, short *ret_want, struct fm_error *err)
{
	ssize_t r;

	if (s->tls) {
		r = fm_tls_write(s->tls, iov, n_iov, ret_want, err);
		return r < 0 && atomic_load(&s->shut_down) ? shut_down_error(err) : r;
	}
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = n_iov };
	do
		r = sendmsg(s->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (r < 0 && errno == EINTR);
	if (r >= 0) {
		atomic_fetch_add_explicit(&s->wire_bytes, (uint64_t)r, memory_order_relaxed);
		return r;
	}
	if (errno == EAGAIN || errno == EWOULDBLOCK) {
		*ret_want = POLLOUT;
		return 0;
	}
	return lost_peer(s, errno, "sending", err);
}

/* One successful transfer of at least a byte, or an error. */
static ssize_t read_some(struct fm_stream *s, void *buf, size_t n, struct wait *w, struct fm_error *err)
{
	if (check_wait(s, w, "receiving", err) < 0)
		return -1;
	for (;;) {
		short want = 0;
		ssize_t r = transport_read(s, buf, n, &want, err);
		if (r != 0)
			return r;
		if (wait_socket(s, want, w, "receiving", err) < 0)
			return -1;
	}
}

/* Forget the first n bytes of the vector. */
static void advance(struct iovec **iov, size_t *n_iov, size_t n)
{
	while (*n_iov && n >= (*iov)->iov_len) {
		n -= (*iov)->iov_len;
		++*iov;
		--*n_iov;
	}
	if (n) {
		(*iov)->iov_base = (uint8_t *)(*iov)->iov_base + n;
		(*iov)->iov_len -= n;
	}
}

/* *begun: bytes are out, or TLS has taken a record that it will not forget */
static int write_all(struct fm_stream *s, struct iovec *iov, size_t n_iov, struct wait *w, bool *begun, struct fm_error *err)
{
	while (n_iov) {
		short want = 0;
		if (check_wait(s, w, "sending", err) < 0)
			return -1;
		ssize_t r = transport_write(s, iov, n_iov, &want, err);
		*begun |= r != 0 || s->tls;
		if (r < 0)
			return -1;
		if (r == 0 && wait_socket(s, want, w, "sending", err) < 0)
			return -1;
		advance(&iov, &n_iov, (size_t)r);
	}
	return 0;
}

/* sending */

void fm_frame_encode(uint8_t out[FM_FRAME_HEADER_BYTES], enum fm_frame type, uint64_t a, uint64_t b, const void *payload, size_t length)
{
	fm_put_le32(out, FM_FRAME_MAGIC);
	fm_put_le16(out + 4, (uint16_t)type);
	fm_put_le16(out + 6, 0);
	fm_put_le32(out + 8, (uint32_t)length);
	fm_put_le32(out + 12, fm_crc32c(0, payload, length));
	fm_put_le64(out + 16, a);
	fm_put_le64(out + 24, b);
}

/* Only a report of what went wrong may still follow after the input turned out to be damaged. */
static int check_writable(struct fm_stream *s, bool is_report, struct fm_error *err)
{
	int broken = atomic_load(&s->write_broken);
	if (!broken && !is_report && atomic_load(&s->read_broken) == FM_E_DATA_LOSS)
		broken = FM_E_DATA_LOSS;
	if (broken)
		return fm_error_set(err, (enum fm_code)broken, "the stream is unusable after an earlier failure");
	return 0;
}

static int lock_writer(struct fm_stream *s, struct wait *w, struct fm_error *err)
{
	if (!w->deadline_ms) {
		pthread_mutex_lock(&s->write_lock);
		return 0;
	}
	struct timespec until = { .tv_sec = (time_t)(w->deadline_ms / 1000), .tv_nsec = (long)(w->deadline_ms % 1000) * 1000000 };
	if (pthread_mutex_trylock(&s->write_lock) == 0 || pthread_mutex_clocklock(&s->write_lock, CLOCK_MONOTONIC, &until) == 0)
		return 0;
	return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "another frame was still being sent at the deadline");
}

static int send_vector(struct fm_stream *s, struct iovec *iov, size_t n_iov, bool is_report, int timeout_ms, int cancel_fd,
                       struct fm_error *err)
{
	struct wait w = wait_until(timeout_ms, cancel_fd);
	struct fm_error e = FM_ERROR_INIT;

	if (lock_writer(s, &w, err) < 0)
		return -1;
	bool begun = false;
	int r = check_writable(s, is_report, &e);
	if (r == 0)
		r = write_all(s, iov, n_iov, &w, &begun, &e);
	if (r < 0 && begun)
		atomic_store(&s->write_broken, e.code == FM_E_DATA_LOSS ? FM_E_DATA_LOSS : FM_E_UNAVAILABLE);
	pthread_mutex_unlock(&s->write_lock);
	if (r < 0 && err)
		*err = e;
	return r;
}

int fm_stream_send_encoded(struct fm_stream *s, const void *frames, size_t n, int timeout_ms, int cancel_fd, struct fm_error *err)
{
	struct iovec iov = { .iov_base = (void *)frames, .iov_len = n };
	return send_vector(s, &iov, 1, false, timeout_ms, cancel_fd, err);
}

int fm_stream_send(struct fm_stream *s, enum fm_frame type, uint64_t a, uint64_t b, const void *payload, size_t length, int timeout_ms,
                   struct fm_error *err)
{
	uint8_t header[FM_FRAME_HEADER_BYTES];

	if (length > FM_MAX_FRAME_BYTES || !frame_is_known(type))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "cannot send a frame of type %d with %zu bytes", (int)type, length);
	fm_frame_encode(header, type, a, b, payload, length);
	if (s->damage)
		header[12] ^= 1; /* of the checksum: to the receiver no different from a bit of the payload */
	s->damage = false;
	struct iovec iov[2] = { { .iov_base = header, .iov_len = sizeof(header) }, { .iov_base = (void *)payload, .iov_len = length } };
	return send_vector(s, iov, length ? 2 : 1, type == FM_FRAME_ERROR, timeout_ms, -1, err);
}

void fm_stream_damage_next(struct fm_stream *s)
{
	s->damage = true;
}

void fm_stream_send_error(struct fm_stream *s, const struct fm_error *e)
{
	char text[ERROR_PAYLOAD_BYTES];
	int n = snprintf(text, sizeof(text), "%s\n%s\n%s", e->message, e->hint, e->phase);

	if (n > 0)
		(void)fm_stream_send(s, FM_FRAME_ERROR, e->code, 0, text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1,
		                     SEND_ERROR_MS, NULL);
}

/* receiving */

/* At least n bytes (n <= INPUT_BYTES) in the buffer */
static int fill(struct fm_stream *s, size_t n, struct wait *w, struct fm_error *err)
{
	if (s->in_len < n && s->in_off) {
		memmove(s->in, s->in + s->in_off, s->in_len);
		s->in_off = 0;
	}
	while (s->in_len < n) {
		ssize_t r = read_some(s, s->in + s->in_len, sizeof(s->in) - s->in_len, w, err);
		if (r < 0)
			return -1;
		s->in_len += (size_t)r;
	}
	return 0;
}

static void take(struct fm_stream *s, void *to, size_t n)
{
	if (n)
		memcpy(to, s->in + s->in_off, n);
	s->in_off += n;
	s->in_len -= n;
}

/* Go on with the payload of s->partial. */
static int read_payload(struct fm_stream *s, struct wait *w, struct fm_error *err)
{
	uint8_t *to = s->partial.buf;
	size_t n = s->partial.header.length;

	while (s->partial.done < n) {
		size_t left = n - s->partial.done;
		size_t have = s->in_len < left ? s->in_len : left;
		if (have) {
			take(s, to + s->partial.done, have);
			s->partial.done += have;
		} else if (left < DIRECT_READ_BYTES) {
			if (fill(s, 1, w, err) < 0)
				return -1;
		} else {
			ssize_t r = read_some(s, to + s->partial.done, left, w, err);
			if (r < 0)
				return -1;
			s->partial.done += (size_t)r;
		}
	}
	return 0;
}

static int damaged(struct fm_stream *s)
{
	atomic_store(&s->read_broken, FM_E_DATA_LOSS);
	return -1;
}

/* The peer's ERROR becomes ours. Its text may be anything; fm_error_set makes it harmless. The header is still in the buffer. */
static int take_error(struct fm_stream *s, const struct fm_frame_header *h, uint32_t crc, struct wait *w, bool *from_peer,
                      struct fm_error *err)
{
	char text[ERROR_PAYLOAD_BYTES + 1];

	if (h->length > ERROR_PAYLOAD_BYTES) {
		(void)fm_error_set(err, FM_E_DATA_LOSS, "the other side sent an ERROR of %u bytes, at most %u are allowed", h->length,
		                   ERROR_PAYLOAD_BYTES);
		return damaged(s);
	}
	if (fill(s, FM_FRAME_HEADER_BYTES + h->length, w, err) < 0)
		return -1;
	take(s, text, FM_FRAME_HEADER_BYTES);
	take(s, text, h->length);
	text[h->length] = 0;
	if (fm_crc32c(0, text, h->length) != crc) {
		(void)fm_error_set(err, FM_E_DATA_LOSS, "the checksum of an ERROR frame is wrong");
		return damaged(s);
	}
	char *hint = strchr(text, '\n'), *phase = hint ? strchr(hint + 1, '\n') : NULL;
	if (hint)
		*hint++ = 0;
	if (phase)
		*phase++ = 0;
	enum fm_code code = h->a > FM_OK && h->a < _FM_CODE_MAX ? (enum fm_code)h->a : FM_E_UNKNOWN;
	(void)fm_error_set(err, code, "%s", *text ? text : "the other side gave up without a reason");
	if (hint && *hint)
		(void)fm_error_hint(err, "%s", hint);
	if (phase && *phase)
		(void)fm_error_phase(err, phase);
	*from_peer = true;
	return -1;
}

static int check_header(const uint8_t *raw, struct fm_frame_header *h, struct fm_error *err)
{
	*h = (struct fm_frame_header){
		.type = fm_get_le16(raw + 4),
		.flags = fm_get_le16(raw + 6),
		.length = fm_get_le32(raw + 8),
		.a = fm_get_le64(raw + 16),
		.b = fm_get_le64(raw + 24),
	};
	if (fm_get_le32(raw) != FM_FRAME_MAGIC)
		return fm_error_set(err, FM_E_DATA_LOSS, "not a frame: the stream is damaged or the other side speaks another protocol");
	if (!frame_is_known(h->type) || h->flags)
		return fm_error_set(err, FM_E_DATA_LOSS, "a frame of unknown type %u (flags %#x) arrived", h->type, h->flags);
	if (h->length > FM_MAX_FRAME_BYTES)
		return fm_error_set(err, FM_E_DATA_LOSS, "%s announces %u bytes, at most %u are allowed", fm_frame_to_string(h->type),
		                    h->length, FM_MAX_FRAME_BYTES);
	return 0;
}

/* A header into s->partial; 0 also when one is there already. */
static int begin_frame(struct fm_stream *s, void *buf, size_t cap, struct wait *w, bool *from_peer, struct fm_error *err)
{
	struct fm_frame_header h;

	if (s->partial.active) {
		if (s->partial.buf == buf && s->partial.header.length <= cap)
			return 0;
		(void)fm_error_set(err, FM_E_DATA_LOSS, "a half received %s was dropped", fm_frame_to_string(s->partial.header.type));
		return damaged(s);
	}
	if (fill(s, FM_FRAME_HEADER_BYTES, w, err) < 0)
		return -1;
	const uint8_t *raw = s->in + s->in_off;
	uint32_t crc = fm_get_le32(raw + 12);
	if (check_header(raw, &h, err) < 0)
		return damaged(s);
	if (h.type == FM_FRAME_ERROR)
		return take_error(s, &h, crc, w, from_peer, err);
	if (h.length > cap) {
		(void)fm_error_set(err, FM_E_DATA_LOSS, "%s of %u bytes where at most %zu make sense", fm_frame_to_string(h.type), h.length,
		                   cap);
		return damaged(s);
	}
	s->in_off += FM_FRAME_HEADER_BYTES;
	s->in_len -= FM_FRAME_HEADER_BYTES;
	s->partial.active = true;
	s->partial.header = h;
	s->partial.crc = crc;
	s->partial.buf = buf;
	s->partial.done = 0;
	return 0;
}

static int receive(struct fm_stream *s, struct fm_frame_header *ret, void *buf, size_t cap, struct wait *w, bool *from_peer,
                   struct fm_error *err)
{
	int broken = atomic_load(&s->read_broken);
	if (broken)
		return fm_error_set(err, (enum fm_code)broken, "the stream is unusable after an earlier failure");
	if (begin_frame(s, buf, cap, w, from_peer, err) < 0 || read_payload(s, w, err) < 0)
		return -1;
	s->partial.active = false;
	if (fm_crc32c(0, buf, s->partial.header.length) != s->partial.crc) {
		(void)fm_error_set(err, FM_E_DATA_LOSS, "the checksum of a %s frame is wrong", fm_frame_to_string(s->partial.header.type));
		return damaged(s);
	}
	*ret = s->partial.header;
	return 0;
}

int fm_stream_recv(struct fm_stream *s, struct fm_frame_header *ret, void *buf, size_t cap, int timeout_ms, int cancel_fd,
                   struct fm_error *err)
{
	struct wait w = wait_until(timeout_ms, cancel_fd);
	bool from_peer = false;

	return receive(s, ret, buf, cap, &w, &from_peer, err);
}

int fm_stream_explain(struct fm_stream *s, struct fm_error *err)
{
	struct wait w = wait_until(200, -1); /* it is there already, or nothing more comes */
	struct fm_frame_header h;
	struct fm_error e = FM_ERROR_INIT;
	bool from_peer = false;

	if (!err || err->code != FM_E_UNAVAILABLE)
		return -1;
	for (unsigned i = 0; i < EXPLAIN_FRAMES && receive(s, &h, NULL, 0, &w, &from_peer, &e) == 0; i++)
		; /* an answer to something earlier, FILES_OK for instance */
	if (from_peer)
		*err = e;
	return -1;
}

int fm_stream_unexpected(struct fm_stream *s, const struct fm_frame_header *h, const char *during, struct fm_error *err)
{
	if (h->type == FM_FRAME_ABORT)
		return fm_error_set(err, FM_E_CANCELLED, "the other side aborted the migration while %s", during);
	(void)fm_error_set(err, FM_E_DATA_LOSS, "unexpected %s while %s", fm_frame_to_string(h->type), during);
	return damaged(s);
}

int fm_stream_expect(struct fm_stream *s, enum fm_frame type, struct fm_frame_header *ret, void *buf, size_t cap, int timeout_ms,
                     int cancel_fd, struct fm_error *err)
{
	struct fm_frame_header h;
	char during[64];

	if (fm_stream_recv(s, &h, buf, cap, timeout_ms, cancel_fd, err) < 0)
		return -1;
	if (h.type != type) {
		(void)snprintf(during, sizeof(during), "waiting for %s", fm_frame_to_string(type));
		return fm_stream_unexpected(s, &h, during, err);
	}
	*ret = h;
	return 0;
}

/* opening */

static int stream_new(int fd, struct fm_stream **ret, struct fm_error *err)
{
	int type = 0;
	socklen_t len = sizeof(type);

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_STREAM)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "descriptor %d is not a stream socket", fd);
	struct fm_stream *s = calloc(1, sizeof(*s));
	if (!s)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for a stream");
	pthread_mutex_init(&s->write_lock, NULL);
	s->fd = fd;

	/* For unix sockets (tests) these mean nothing and fail. */
	int on = 1, idle_s = 5, interval_s = 2, count = 3;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
	*ret = s;
	return 0;
}

/* Unacknowledged data (or a closed window) for this long ends the connection; the kernel's own patience is a quarter of an hour. */
static void set_dead_peer_time(struct fm_stream *s, enum fm_stream_role role)
{
	unsigned ms = role == FM_STREAM_PAGES ? DEAD_PEER_MS_PAGES : DEAD_PEER_MS_CONTROL;
	(void)setsockopt(s->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof(ms));
}

void fm_stream_set_patience(struct fm_stream *s, unsigned ms)
{
	/* Probes of an idle connection begin early enough to be decided within the time. */
	int idle_s = ms >= 3000 ? (int)(ms / 3000) : 1, interval_s = 1;
	(void)setsockopt(s->fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	(void)setsockopt(s->fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
	(void)setsockopt(s->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof(ms));
}

static int start_tls(struct fm_stream *s, const struct fm_stream_tls *files, bool server, const char *host, struct wait *w,
                     struct fm_error *err)
{
	if (fm_tls_new(s->fd, files, server, host, &s->wire_bytes, &s->tls, err) < 0)
		return -1;
	for (;;) {
		short want = 0;
		int r = fm_tls_handshake(s->tls, &want, err);
		if (r != 0)
			return r < 0 ? -1 : 0;
		if (wait_socket(s, want, w, "agreeing on TLS", err) < 0)
			return -1;
	}
}

/* Host part of "host:port" or "[v6]:port" */
static int host_of(const char *address, char *host, size_t cap, struct fm_error *err)
{
	const char *start = address, *end = strrchr(address, ':');

	if (*address == '[') {
		start = address + 1;
		end = strchr(address, ']');
	}
	if (!end || end == start || (size_t)(end - start) >= cap)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%s' is not host:port", address);
	memcpy(host, start, (size_t)(end - start));
	host[end - start] = 0;
	return 0;
}

/* A secret that cannot be sent or compared is a programming error, and an empty one would let everybody in. */
static int check_secrets(const char *token, const char *migration_id, struct fm_error *err)
{
	if (!token || !*token || strlen(token) > SECRET_BYTES || strchr(token, '\n'))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "the stream's token must have 1 to %u characters in one line",
		                    SECRET_BYTES);
	if (!migration_id || !*migration_id || strlen(migration_id) > SECRET_BYTES)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "the migration's id must have 1 to %u characters", SECRET_BYTES);
	return 0;
}

/* b of HELLO and HELLO_OK: role, index << 8, count << 16, redials << 32 */
static uint64_t pack_hello(const struct fm_stream_hello *h)
{
	return (uint64_t)h->role | (uint64_t)h->index << 8 | (uint64_t)h->count << 16 | (uint64_t)h->redials << 32;
}

static int unpack_hello(uint64_t b, struct fm_stream_hello *ret, struct fm_error *err)
{
	*ret = (struct fm_stream_hello){
		.role = (enum fm_stream_role)(b & 0xff),
		.index = b >> 8 & 0xff,
		.count = b >> 16 & 0xffff,
		.redials = (uint32_t)(b >> 32),
	};
	if (ret->role != FM_STREAM_CONTROL && ret->role != FM_STREAM_PAGES && ret->role != FM_STREAM_PUSH)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "unknown stream role %u", (unsigned)ret->role);
	if (ret->role != FM_STREAM_PUSH && b != (uint64_t)ret->role)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a stream of role %u cannot be one of several", (unsigned)ret->role);
	if (ret->role == FM_STREAM_PUSH && (ret->index >= ret->count || ret->count > FM_MAX_PUSH_STREAMS))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "there is no push stream %u of %u (at most %d)", ret->index, ret->count,
		                    FM_MAX_PUSH_STREAMS);
	return 0;
}

int fm_stream_connect(const char *address, const struct fm_stream_tls *tls, const char *token, const char *migration_id,
                      const struct fm_stream_hello *what, int timeout_ms, struct fm_stream **ret, struct fm_error *err)
{
	const uint64_t b = pack_hello(what);
	char host[256], hello[2 * SECRET_BYTES + 2];
	struct wait w = wait_until(timeout_ms < 0 ? INT_MAX : timeout_ms, -1);
	struct fm_frame_header h;

	if (check_secrets(token, migration_id, err) < 0 || host_of(address, host, sizeof(host), err) < 0)
		return -1;
	_fm_close_ int fd = -1;
	if (fm_tcp_connect(address, fm_deadline_left_ms(w.deadline_ms), &fd, err) < 0)
		return -1;
	_fm_cleanup_(fm_stream_freep) struct fm_stream *s = NULL;
	if (stream_new(fd, &s, err) < 0)
		return -1;
	(void)FM_TAKE_FD(fd); /* the stream's now */
	if (tls && start_tls(s, tls, false, host, &w, err) < 0)
		return fm_error_prefix(err, "connecting to %s", address);
	set_dead_peer_time(s, what->role);

	int n = snprintf(hello, sizeof(hello), "%s\n%s", token, migration_id);
	int r = fm_stream_send(s, FM_FRAME_HELLO, PROTOCOL_VERSION, b, hello, (size_t)n, fm_deadline_left_ms(w.deadline_ms), err);
	OPENSSL_cleanse(hello, sizeof(hello));
	/* A server that refuses us may have closed already: its reason is worth more than our broken pipe. */
	if (fm_stream_expect(s, FM_FRAME_HELLO_OK, &h, NULL, 0, fm_deadline_left_ms(w.deadline_ms), -1, err) < 0 || r < 0)
		return fm_error_prefix(err, "connecting to %s", address);
	if (h.a != PROTOCOL_VERSION || h.b != b)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION,
		                    "%s answered with protocol version %llu, role %#llx; we speak version %u", address,
		                    (unsigned long long)h.a, (unsigned long long)h.b, PROTOCOL_VERSION);
	*ret = FM_TAKE_PTR(s);
	return 0;
}

/* Same time for every wrong value of the same length class: both are padded to one size before they are compared. */
static bool secret_equal(const char *given, size_t given_len, const char *wanted)
{
	uint8_t a[SECRET_BYTES] = { 0 }, b[SECRET_BYTES] = { 0 };
	size_t wanted_len = strlen(wanted);

	if (given_len > sizeof(a))
		return false;
	memcpy(a, given, given_len);
	memcpy(b, wanted, wanted_len);
	bool equal = CRYPTO_memcmp(a, b, sizeof(a)) == 0 && given_len == wanted_len;
	OPENSSL_cleanse(a, sizeof(a));
	OPENSSL_cleanse(b, sizeof(b));
	return equal;
}

static int check_hello(const struct fm_frame_header *h, const char *payload, const char *token, const char *migration_id,
                       struct fm_stream_hello *ret, struct fm_error *err)
{
	const char *newline = memchr(payload, '\n', h->length);
	size_t token_len = newline ? (size_t)(newline - payload) : h->length;

	/* The token first: nobody without it learns anything else. */
	if (!secret_equal(payload, token_len, token))
		return fm_error_set(err, FM_E_UNAUTHENTICATED, "the stream's token is not the one of this migration");
	if (h->a < PROTOCOL_VERSION)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "the other side speaks protocol version %llu, we need %u",
		                    (unsigned long long)h->a, PROTOCOL_VERSION);
	if (!newline || !secret_equal(newline + 1, h->length - token_len - 1, migration_id))
		return fm_error_set(err, FM_E_UNAUTHENTICATED, "the stream belongs to another migration than '%s'", migration_id);
	return unpack_hello(h->b, ret, err);
}

int fm_stream_accept(int fd_owned, const struct fm_stream_tls *tls, const char *token, const char *migration_id, int timeout_ms,
                     struct fm_stream_hello *ret_what, struct fm_stream **ret, struct fm_error *err)
{
	_fm_close_ int fd = fd_owned;
	struct fm_stream_hello what;
	char hello[2 * SECRET_BYTES + 2];
	struct wait w = wait_until(timeout_ms < 0 ? INT_MAX : timeout_ms, -1);
	struct fm_frame_header h;
	struct fm_error e = FM_ERROR_INIT;

	if (check_secrets(token, migration_id, err) < 0)
		return -1;
	_fm_cleanup_(fm_stream_freep) struct fm_stream *s = NULL;
	if (stream_new(fd, &s, err) < 0)
		return -1;
	(void)FM_TAKE_FD(fd); /* the stream's now */
	if (tls && start_tls(s, tls, true, NULL, &w, err) < 0)
		return fm_error_prefix(err, "a connecting host");
	if (fm_stream_expect(s, FM_FRAME_HELLO, &h, hello, sizeof(hello), fm_deadline_left_ms(w.deadline_ms), -1, err) < 0)
		return fm_error_prefix(err, "a connecting host");

	int r = check_hello(&h, hello, token, migration_id, &what, &e);
	OPENSSL_cleanse(hello, sizeof(hello));
	if (r < 0) {
		fm_stream_send_error(s, &e);
		if (err)
			*err = e;
		return -1;
	}
	set_dead_peer_time(s, what.role);
	if (fm_stream_send(s, FM_FRAME_HELLO_OK, PROTOCOL_VERSION, h.b, NULL, 0, fm_deadline_left_ms(w.deadline_ms), err) < 0)
		return -1;
	*ret_what = what;
	*ret = FM_TAKE_PTR(s);
	return 0;
}

int fm_stream_from_fd(int fd_owned, struct fm_stream **ret, struct fm_error *err)
{
	_fm_close_ int fd = fd_owned;

	if (stream_new(fd, ret, err) < 0)
		return -1;
	(void)FM_TAKE_FD(fd); /* the stream's now */
	return 0;
}

void fm_stream_free(struct fm_stream *s)
{
	if (!s)
		return;
	fm_tls_free(s->tls);
	(void)close(s->fd);
	pthread_mutex_destroy(&s->write_lock);
	free(s);
}

void fm_stream_shutdown(struct fm_stream *s)
{
	atomic_store(&s->shut_down, true);
	(void)shutdown(s->fd, SHUT_RDWR);
}

uint64_t fm_stream_bytes(const struct fm_stream *s)
{
	return atomic_load_explicit(&s->wire_bytes, memory_order_relaxed);
}

void fm_stream_set_rekey_bytes(struct fm_stream *s, uint64_t bytes)
{
	if (s->tls)
		fm_tls_set_rekey_bytes(s->tls, bytes);
}
