/* SPDX-License-Identifier: MIT */
/*
 * fuzz.h - what several fuzzers need: a folder of the process's own in memory, and frames with a right header from input that has none.
 *
 * Frames: {u8 type, u8 a, u8 b, u8 length, length bytes} each; `types` maps the first byte, so that most of what a fuzzer makes up is about the dialogue and not about its headers.
 */
#ifndef FM_TESTS_FUZZ_H
#define FM_TESTS_FUZZ_H

#include <assert.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "basic/io.h"
#include "sync/hash-secret.h"
#include "sync/stream-internal.h"

#define FUZZ_WIRE_MAX (64u << 10) /* fits into a socket's buffer: nobody reads while it is written */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The same in each run, so that what a fuzzer has learnt stays true. */
__attribute__((unused)) static struct fm_hash_secret fuzz_secret(void)
{
	struct fm_hash_secret s;

	for (unsigned i = 0; i < sizeof(s.bytes); i++)
		s.bytes[i] = (uint8_t)(i * 73 + 11);
	return s;
}

static char *fuzz_folder_path;

__attribute__((unused)) static void fuzz_folder_remove(void)
{
	(void)fm_remove_tree(fuzz_folder_path, NULL);
	free(fuzz_folder_path);
}

/* Made once, removed when the process ends. */
__attribute__((unused)) static const char *fuzz_folder(void)
{
	if (fuzz_folder_path)
		return fuzz_folder_path;
	fuzz_folder_path = strdup(access("/dev/shm", W_OK) == 0 ? "/dev/shm/fm-fuzz-XXXXXX" : "/tmp/fm-fuzz-XXXXXX");
	if (!fuzz_folder_path || !mkdtemp(fuzz_folder_path))
		abort();
	atexit(fuzz_folder_remove);
	return fuzz_folder_path;
}

__attribute__((unused)) static void fuzz_write_file(const char *path, const uint8_t *data, size_t size)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || (size && write(fd, data, size) != (ssize_t)size))
		abort();
	close(fd);
}

__attribute__((unused)) static size_t fuzz_frame(uint8_t *wire, size_t len, enum fm_frame type, uint64_t a, uint64_t b,
                                                 const uint8_t *payload, size_t n)
{
	if (FUZZ_WIRE_MAX - len < FM_FRAME_HEADER_BYTES + n)
		return len;
	fm_frame_encode(wire + len, type, a, b, payload, n);
	memcpy(wire + len + FM_FRAME_HEADER_BYTES, payload, n);
	return len + FM_FRAME_HEADER_BYTES + n;
}

__attribute__((unused)) static size_t fuzz_frames(const uint8_t *in, size_t n, const enum fm_frame *types, size_t n_types, uint8_t *wire)
{
	size_t len = 0;

	while (n >= 4) {
		size_t take = in[3] < n - 4 ? in[3] : n - 4;
		len = fuzz_frame(wire, len, types[in[0] % n_types], in[1], in[2], in + 4, take);
		in += 4 + take;
		n -= 4 + take;
	}
	return len;
}

/* A stream at whose other end these bytes have been sent, and no more will come. *ret_peer is closed by the caller. */
__attribute__((unused)) static struct fm_stream *fuzz_stream(const uint8_t *wire, size_t n, int *ret_peer)
{
	struct fm_stream *s = NULL;
	int sv[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0 || (n && write(sv[1], wire, n) != (ssize_t)n))
		abort();
	shutdown(sv[1], SHUT_WR);
	if (fm_stream_from_fd(sv[0], &s, NULL) < 0)
		abort();
	*ret_peer = sv[1];
	return s;
}

#endif
