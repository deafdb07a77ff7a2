/* SPDX-License-Identifier: MIT */
/*
 * fuzz-stream.c - libFuzzer entry for what arrives on a stream before and after the first frame.
 *
 * The first byte chooses: bit 0 the server's side of HELLO (fm_stream_accept) or plain receiving; bit 1 headers mended (magic, checksum, length), so that the fuzzer gets past
 * the checks that would stop it at once, or raw bytes; the high four bits a small limit of the payload.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "basic/limits.h"
#include "sync/stream-internal.h"
#include "sync/stream.h"

#define INPUT_MAX (64u << 10) /* fits into the socket's buffer: nobody else reads or writes here */
#define TOKEN     "0123456789abcdef0123456789abcdef"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* As many frames as the input makes, with right magic, length and checksum */
static size_t mend(const uint8_t *in, size_t n, uint8_t *out, size_t cap)
{
	size_t len = 0;

	while (n >= 20 && cap - len >= FM_FRAME_HEADER_BYTES) {
		size_t payload = fm_get_le16(in + 2) % 2048;
		if (payload > n - 20)
			payload = n - 20;
		if (payload > cap - len - FM_FRAME_HEADER_BYTES)
			break;
		fm_frame_encode(out + len, (enum fm_frame)in[0], fm_get_le64(in + 4), fm_get_le64(in + 12), in + 20, payload);
		memcpy(out + len + FM_FRAME_HEADER_BYTES, in + 20, payload);
		len += FM_FRAME_HEADER_BYTES + payload;
		in += 20 + payload;
		n -= 20 + payload;
	}
	return len;
}

static void receive_all(struct fm_stream *s, uint8_t *buf, size_t cap)
{
	struct fm_frame_header h;
	struct fm_error err = FM_ERROR_INIT;

	for (;;) {
		err = FM_ERROR_INIT;
		if (fm_stream_recv(s, &h, buf, cap, 1000, -1, &err) < 0) {
			assert(err.code != FM_OK);
			if (err.code == FM_E_DATA_LOSS || err.code == FM_E_UNAVAILABLE || err.code == FM_E_DEADLINE_EXCEEDED)
				return;
			continue; /* an ERROR frame: anything may follow */
		}
		assert(h.length <= cap && h.flags == 0 && strcmp(fm_frame_to_string(h.type), "unknown frame") != 0);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t wire[INPUT_MAX], buf[FM_MAX_FRAME_BYTES];
	struct fm_error err = FM_ERROR_INIT;
	struct fm_stream *s = NULL;
	struct fm_stream_hello what = { 0 };
	int sv[2];

	if (size < 1 || size > INPUT_MAX)
		return 0;
	uint8_t mode = *data++;
	size--;
	size_t n = size;
	if (mode & 2)
		n = mend(data, size, wire, sizeof(wire));
	else
		memcpy(wire, data, size);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
		return 0;
	if (n && write(sv[1], wire, n) != (ssize_t)n)
		abort();
	shutdown(sv[1], SHUT_WR);
	if (mode & 1) {
		if (fm_stream_accept(sv[0], NULL, TOKEN, "m-000000000001", 1000, &what, &s, &err) == 0)
			assert(what.role == FM_STREAM_PUSH ? what.index < what.count && what.count <= FM_MAX_PUSH_STREAMS
			                                   : !what.index && !what.count && !what.redials);
		else
			assert(!s && err.code != FM_OK);
	} else if (fm_stream_from_fd(sv[0], &s, &err) < 0) {
		abort();
	}
	if (s)
		receive_all(s, buf, mode & 0xf0 ? (size_t)(mode >> 4) * 8 : sizeof(buf));
	fm_stream_free(s);
	close(sv[1]);
	return 0;
}
