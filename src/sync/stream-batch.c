/* SPDX-License-Identifier: MIT */
/*
 * stream-batch.c - many frames, one write; see stream-internal.h.
 *
 * The buffer holds whole frames back to back. A reserved payload lies one header's length behind the last frame, so that commit only has to write the 32 bytes in front of it.
 */
#include <string.h>

#include "basic/cleanup.h"
#include "basic/limits.h"
#include "sync/stream-internal.h"

int fm_batch_init(struct fm_batch *b, struct fm_stream *s, size_t cap, int timeout_ms, int cancel_fd, struct fm_error *err)
{
	uint8_t *data = malloc(cap);
	if (!data)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for %zu bytes of frames", cap);
	*b = (struct fm_batch){ .stream = s, .data = data, .cap = cap, .timeout_ms = timeout_ms, .cancel_fd = cancel_fd };
	return 0;
}

void fm_batch_done(struct fm_batch *b)
{
	free(b->data);
	b->data = NULL;
	b->len = b->cap = 0;
}

int fm_batch_flush(struct fm_batch *b, struct fm_error *err)
{
	if (b->len == 0)
		return 0;
	if (fm_stream_send_encoded(b->stream, b->data, b->len, b->timeout_ms, b->cancel_fd, err) < 0)
		return -1;
	b->len = 0;
	return 0;
}

int fm_batch_reserve(struct fm_batch *b, size_t min, uint8_t **ret_payload, size_t *ret_room, struct fm_error *err)
{
	if (min + FM_FRAME_HEADER_BYTES > b->cap || min > FM_MAX_FRAME_BYTES)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a frame of %zu bytes does not fit", min);
	if (b->cap - b->len < min + FM_FRAME_HEADER_BYTES && fm_batch_flush(b, err) < 0)
		return -1;
	size_t room = b->cap - b->len - FM_FRAME_HEADER_BYTES;
	*ret_payload = b->data + b->len + FM_FRAME_HEADER_BYTES;
	*ret_room = room < FM_MAX_FRAME_BYTES ? room : FM_MAX_FRAME_BYTES;
	return 0;
}

void fm_batch_commit(struct fm_batch *b, enum fm_frame type, uint64_t a, uint64_t bb, size_t length)
{
	uint8_t *header = b->data + b->len;

	fm_frame_encode(header, type, a, bb, header + FM_FRAME_HEADER_BYTES, length);
	b->len += FM_FRAME_HEADER_BYTES + length;
	b->bytes += FM_FRAME_HEADER_BYTES + length;
}

int fm_batch_add(struct fm_batch *b, enum fm_frame type, uint64_t a, uint64_t bb, const void *payload, size_t length, struct fm_error *err)
{
	uint8_t *to;
	size_t room;

	if (fm_batch_reserve(b, length, &to, &room, err) < 0)
		return -1;
	if (length)
		memcpy(to, payload, length);
	fm_batch_commit(b, type, a, bb, length);
	return 0;
}
