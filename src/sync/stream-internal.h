/* SPDX-License-Identifier: MIT */
/*
 * stream-internal.h - what the files of this room share about streams: the frame header's layout, the TLS transport and batches of frames. Not for other rooms.
 */
#ifndef FM_SYNC_STREAM_INTERNAL_H
#define FM_SYNC_STREAM_INTERNAL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "sync/stream.h"

#define FM_FRAME_MAGIC        0x31534d46u /* "FMS1", little-endian */
#define FM_FRAME_HEADER_BYTES 32u
#define FM_TLS_RECORD_BYTES   16384u

static inline void fm_put_le16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}
static inline void fm_put_le32(uint8_t *p, uint32_t v)
{
	fm_put_le16(p, (uint16_t)v);
	fm_put_le16(p + 2, (uint16_t)(v >> 16));
}
static inline void fm_put_le64(uint8_t *p, uint64_t v)
{
	fm_put_le32(p, (uint32_t)v);
	fm_put_le32(p + 4, (uint32_t)(v >> 32));
}
static inline uint16_t fm_get_le16(const uint8_t *p)
{
	return (uint16_t)(p[0] | (unsigned)p[1] << 8);
}
static inline uint32_t fm_get_le32(const uint8_t *p)
{
	return fm_get_le16(p) | (uint32_t)fm_get_le16(p + 2) << 16;
}
static inline uint64_t fm_get_le64(const uint8_t *p)
{
	return fm_get_le32(p) | (uint64_t)fm_get_le32(p + 4) << 32;
}

/* Writes the 32 bytes of a header; computes the payload's checksum. */
void fm_frame_encode(uint8_t out[FM_FRAME_HEADER_BYTES], enum fm_frame type, uint64_t a, uint64_t b, const void *payload, size_t length);

/* Whole frames, already encoded, as one unit; nothing of another thread gets between. Like fm_stream_send, and ends when cancel_fd (or -1) is readable. */
int fm_stream_send_encoded(struct fm_stream *s, const void *frames, size_t n, int timeout_ms, int cancel_fd, struct fm_error *err);
/* A receiver got a frame that does not fit the dialogue: marks the stream unusable for reading, DATA_LOSS (or CANCELLED when it was an ABORT). Returns -1. */
int fm_stream_unexpected(struct fm_stream *s, const struct fm_frame_header *h, const char *during, struct fm_error *err);
/* After a failed send: when the peer said why it gave up before it closed, that replaces *err (UNAVAILABLE). Only for the thread that receives. Returns -1. */
int fm_stream_explain(struct fm_stream *s, struct fm_error *err);
/* New TLS keys after this many bytes sent (default 64 GiB, far below the limit of AES-GCM); for tests. */
void fm_stream_set_rekey_bytes(struct fm_stream *s, uint64_t bytes);

/*
 * A batch collects frames in one buffer and sends them together: thousands of small frames become a few large writes. The payload is read straight into its
 * place (reserve, fill, commit), so no byte is copied on our side. One thread. Nothing is sent before flush, or until the buffer is full.
 */
struct fm_batch {
	struct fm_stream *stream; /* borrowed */
	uint8_t *data;
	size_t len, cap;
	int timeout_ms, cancel_fd;
	uint64_t bytes; /* headers and payloads sent or waiting */
};
int fm_batch_init(struct fm_batch *b, struct fm_stream *s, size_t cap, int timeout_ms, int cancel_fd, struct fm_error *err);
void fm_batch_done(struct fm_batch *b); /* drops what was not flushed */
#define _fm_batch_ _fm_cleanup_(fm_batch_done)
/* Room for a payload of at least min bytes (flushes when needed); *ret_room says how much fits. Valid until the next call. */
int fm_batch_reserve(struct fm_batch *b, size_t min, uint8_t **ret_payload, size_t *ret_room, struct fm_error *err);
/* The reserved payload is filled with length bytes: make it a frame. */
void fm_batch_commit(struct fm_batch *b, enum fm_frame type, uint64_t a, uint64_t bb, size_t length);
/* reserve + copy + commit; length <= cap - FM_FRAME_HEADER_BYTES */
int fm_batch_add(struct fm_batch *b, enum fm_frame type, uint64_t a, uint64_t bb, const void *payload, size_t length, struct fm_error *err);
int fm_batch_flush(struct fm_batch *b, struct fm_error *err);

/*
 * TLS over a connected socket. One reader and one writer thread may be in read and write at the same time; the object is locked inside. No call blocks: the i/o calls
 * return 0 and the poll events to wait for in *ret_want.
 */
struct fm_tls;
/* host: the name or address the peer's certificate must carry (client), NULL = none (server). wire_bytes: counter of bytes on the socket, borrowed. fd stays the caller's. */
int fm_tls_new(int fd, const struct fm_stream_tls *files, bool server, const char *host, _Atomic uint64_t *wire_bytes, struct fm_tls **ret,
               struct fm_error *err);
/* Says good-bye (close_notify) when that does not block, frees. */
void fm_tls_free(struct fm_tls *t);
int fm_tls_handshake(struct fm_tls *t, short *ret_want, struct fm_error *err); /* 1 done, 0 wait, -1 */
ssize_t fm_tls_read(struct fm_tls *t, void *buf, size_t n, short *ret_want, struct fm_error *err);
/* At most one record; the same bytes must be offered again after a 0. */
ssize_t fm_tls_write(struct fm_tls *t, const struct iovec *iov, size_t n_iov, short *ret_want, struct fm_error *err);
void fm_tls_set_rekey_bytes(struct fm_tls *t, uint64_t bytes);

#endif
