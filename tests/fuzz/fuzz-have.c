/* SPDX-License-Identifier: MIT */
/*
 * fuzz-have.c - libFuzzer entry for what a destination says it has at the beginning of a push stream, and for its answer to the round (push.h, the source's side). The round is one of no processes.
 */
#include "fuzz.h"
#include "sync/push.h"

static const enum fm_frame types[] = { FM_FRAME_PAGES_HAVE,     FM_FRAME_PAGES_HAVE, FM_FRAME_PAGES_HAVE, FM_FRAME_PAGES_HAVE_END,
	                               FM_FRAME_PAGES_HAVE_END, FM_FRAME_ROUND_OK,   FM_FRAME_ERROR,      FM_FRAME_PAGES };

static size_t make_frames(const uint8_t *in, size_t n, uint8_t *wire)
{
	size_t len = 0;

	while (n >= 4) {
		size_t take = in[3] < n - 4 ? in[3] : n - 4;
		enum fm_frame type = types[in[0] & 7];
		uint64_t a = type == FM_FRAME_PAGES_HAVE ? in[1] & 3 : in[1], b = (uint64_t)in[2] << 12;
		if (in[0] & 8) { /* well-formed */
			a += type == FM_FRAME_PAGES_HAVE && a == 0;
			take -= type == FM_FRAME_PAGES_HAVE ? take % 16 : 0;
		} else {
			b += in[0] >> 6;
		}
		len = fuzz_frame(wire, len, type, a, b, in + 4, take);
		in += 4 + take;
		n -= 4 + take;
	}
	return len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t wire[FUZZ_WIRE_MAX];
	struct fm_error err = FM_ERROR_INIT;
	struct fm_push_result r = { 0 };
	struct fm_push *p = NULL;
	int peer = -1;

	struct fm_stream *s = fuzz_stream(wire, make_frames(data, size, wire), &peer);
	struct fm_push_opts o = { .streams = &s, .n_streams = 1, .backend = FM_TRACKER_HASH };
	if (fm_push_new(&o, &p, NULL) < 0)
		abort();
	int rc = fm_push_round(p, NULL, 0, -1, &r, &err);
	assert((rc == 0) == (err.code == FM_OK));
	fm_push_free(p);
	fm_stream_free(s);
	close(peer);
	return 0;
}
