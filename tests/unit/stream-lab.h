/* SPDX-License-Identifier: MIT */
/*
 * stream-lab.h - what the tests of streams share: checked calls, pairs of streams, threads that push numbered frames through them. Included by one program each.
 */
#ifndef FM_TESTS_STREAM_LAB_H
#define FM_TESTS_STREAM_LAB_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "sync/stream-internal.h"
#include "sync/stream.h"

#define TOKEN   "0123456789abcdef0123456789abcdef"
#define ID      "m-3f9a61c2b07d"
#define WAIT_MS 60000

/* A stream and the naked other end */
static inline void pair_raw(struct fm_stream **a, int *fd)
{
	int sv[2];
	assert_int_equal(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv));
	assert_ok(fm_stream_from_fd(sv[0], a, &err));
	*fd = sv[1];
}

static inline void pair(struct fm_stream **a, struct fm_stream **b)
{
	int fd;
	pair_raw(a, &fd);
	assert_ok(fm_stream_from_fd(fd, b, &err));
}

static inline void fill_pattern(uint8_t *p, size_t n, uint32_t seed)
{
	uint32_t x = seed * 2654435761u + 1;
	for (size_t i = 0; i < n; i++) {
		x = x * 1664525u + 1013904223u;
		p[i] = (uint8_t)(x >> 24);
	}
}

static inline void *send_sizes(void *arg)
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

static inline void receive_sizes(struct fm_stream *s)
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

struct load {
	struct fm_stream *s;
	uint32_t id;
	size_t frames, bytes;
	struct fm_error err;
};

static inline void *send_load(void *arg)
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

static inline void *recv_load(void *arg)
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

/* Both ends send and receive at the same time; prints the sum of both directions. */
static inline void run_duplex(struct fm_stream *a, struct fm_stream *b, size_t frames, size_t bytes, const char *what)
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

static inline void run_simplex(struct fm_stream *a, struct fm_stream *b, size_t frames, size_t bytes, const char *what)
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

#endif
