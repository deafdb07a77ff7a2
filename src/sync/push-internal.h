/* SPDX-License-Identifier: MIT */
/* push-internal.h - the source's side of push.h: what a round has in common (push.c) and what each of its streams has (push-stream.c). Not for other files. */
#ifndef FM_SYNC_PUSH_INTERNAL_H
#define FM_SYNC_PUSH_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "sync/page-codec.h"
#include "sync/push.h"

#define FM_PUSH_FROZEN  (1ull << 63) /* in a PAGES_PUSH frame's number of the round: the last one */
#define FM_PUSH_SEND_MS 30000

/* The thread that sends its part of a round has it for itself, but for `stream`. */
struct fm_push_stream {
	struct fm_push *push;
	unsigned index;
	struct fm_stream
	        *stream; /* borrowed; set and shut down with the push's lock. NULL: another one is asked for, or there will be none */
	struct fm_page_encoder *encoder;
	uint64_t round;
	uint64_t *addresses; /* of the batch */
	uint8_t *pages;
	uint8_t *chunk;
	size_t n;     /* pages in the batch */
	pid_t ns_pid; /* whose */
	pid_t host_pid;
	uint32_t task;
	struct fm_giveway giveway;
	bool knows;                   /* what the destination had when the stream began */
	uint64_t taken;               /* of the round's max_pages */
	struct fm_push_result result; /* of the round under way */
};

struct fm_push {
	struct fm_push_opts o;
	struct fm_tracker *tracker;
	struct fm_push_stream *streams;
	unsigned n;
	struct fm_hash_secret secret; /* of all streams */
	int stop_fd,
	        stop_or_cancel_fd; /* of several streams: an eventfd, readable when one has failed; an epoll of it and of the round's cancel_fd */

	/* the round under way: the same for all streams */
	const struct fm_page_runs *dirty;
	const struct fm_page_source_task *tasks;
	bool frozen; /* the last one: somebody waits for it */
	int cancel_fd;
	_Atomic uint64_t left; /* of max_pages */

	pthread_mutex_t lock;  /* what follows, and each stream's `stream` */
	bool failed;           /* for good */
	struct fm_error error; /* the first one */
	uint64_t due_us;       /* bandwidth: when what was sent so far may be out */
};

/* ---- push-stream.c: one stream */
int fm_push_stream_init(struct fm_push_stream *s, struct fm_push *p, unsigned index, struct fm_error *err);
void fm_push_stream_done(struct fm_push_stream *s);
/* The first frame of a connection, so that the destination gets ready while the first scan runs. A failure shows when its answer is waited for. */
void fm_push_stream_open(struct fm_push_stream *s);
/* Its part of the round, until the destination has it. */
int fm_push_stream_round(struct fm_push_stream *s, struct fm_error *err);

/* ---- push.c: what the streams share; any of their threads */
int fm_push_pace(struct fm_push *p, size_t bytes, struct fm_error *err);
void fm_push_note_read(struct fm_push *p, uint32_t task, const uint64_t *addresses, const uint8_t *pages, size_t n);
/* Another connection in the place of a broken one. -1: there is none, or it is all over. */
int fm_push_replace(struct fm_push_stream *s, const struct fm_error *why, struct fm_error *err);

#endif
