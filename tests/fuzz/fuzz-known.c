/* SPDX-License-Identifier: MIT */
/*
 * fuzz-known.c - libFuzzer entry for what a receiver of files claims to have: whatever it says, the set stays within its limits and a look for a content in it ends.
 *
 * Input: commands {u8 frame, u8 number of records or length, u8 how}, made into frames; records are well-formed more often than not, with sizes around the limits.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sync/file-known-internal.h"
#include "fuzz.h"

#define WIRE_MAX (64u << 10)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t make_records(const uint8_t *in, uint8_t *p)
{
	static const uint64_t sizes[] = { FM_KNOWN_FILE_BYTES_MIN, FM_KNOWN_FILE_BYTES_MIN + 1, 8192, 8192,
		                          FM_KNOWN_BYTES_MAX / 8,  FM_KNOWN_BYTES_MAX,          4095, UINT64_MAX };
	size_t n = in[1] & 31;

	for (size_t i = 0; i < n; i++) {
		fm_put_le64(p + i * 24, sizes[(in[2] & 0x80) ? (in[2] + i) & 7 : (in[2] + i) & 3]);
		fm_put_le64(p + i * 24 + 8, in[2] & 0x40 ? 7 : i);
		fm_put_le64(p + i * 24 + 16, in[1]);
	}
	return in[2] & 0x20 && n ? n * 24 - 1 : n * 24;
}

static size_t make_frames(const uint8_t *in, size_t n, uint8_t *out)
{
	static const enum fm_frame types[] = { FM_FRAME_FILES_HAVE, FM_FRAME_FILES_HAVE, FM_FRAME_FILES_HAVE, FM_FRAME_HAVE_END,
		                               FM_FRAME_ERROR,      FM_FRAME_ABORT,      FM_FRAME_FILES_OK,   FM_FRAME_FILE_KNOWN };
	const struct fm_hash_secret secret = fuzz_secret();
	uint8_t payload[1024] = { 0 };
	size_t len = 0;
	uint64_t records = 0;

	for (; n >= 3 && len < WIRE_MAX - 2048; in += 3, n -= 3) {
		enum fm_frame type = types[in[0] & 7];
		size_t take = type == FM_FRAME_FILES_HAVE              ? make_records(in, payload)
		              : in[1] > 250                            ? in[2]
		              : (type == FM_FRAME_HAVE_END && records) ? FM_HASH_SECRET_BYTES
		                                                       : 0;
		if (type == FM_FRAME_HAVE_END && take == sizeof(secret.bytes))
			memcpy(payload, secret.bytes, take);
		records += type == FM_FRAME_FILES_HAVE ? take / 24 : 0;
		fm_frame_encode(out + len, type, type == FM_FRAME_HAVE_END ? records + (in[0] > 250) : in[1], in[2], payload, take);
		memcpy(out + len + FM_FRAME_HEADER_BYTES, payload, take);
		len += FM_FRAME_HEADER_BYTES + take;
	}
	return len;
}

static void check(struct fm_known *k)
{
	uint8_t hash[FM_KNOWN_HASH_BYTES];
	int fd = memfd_create("fuzz-known", MFD_CLOEXEC);

	assert(fd >= 0 && ftruncate(fd, 8192) == 0);
	assert(fm_known_count(k) <= FM_KNOWN_FILES_MAX && k->bytes <= FM_KNOWN_BYTES_MAX);
	for (size_t i = 1; i < k->n; i++)
		assert(k->files[i - 1].size <= k->files[i].size);
	for (int i = 0; i < 4; i++)
		assert(fm_known_find(k, fd, 8192, -1, hash, NULL) == 0); /* nobody can have named it without knowing our hash of it */
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t wire[WIRE_MAX];
	struct fm_error err = FM_ERROR_INIT;
	struct fm_known *k = NULL;
	int peer = -1;

	size_t n = make_frames(data, size, wire);
	struct fm_stream *s = fuzz_stream(wire, n, &peer);
	int r = fm_known_take(s, &k, 1000, -1, &err);
	assert((r == 0) == (err.code == FM_OK) && (r == 0) == (k != NULL));
	if (k)
		check(k);
	fm_known_free(k);
	fm_stream_free(s);
	close(peer);
	return 0;
}
