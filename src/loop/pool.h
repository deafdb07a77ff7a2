/* SPDX-License-Identifier: MIT */
/*
 * pool.h - a bounded pool of worker threads for blocking work (one migration, one host's call), and stop tokens.
 *
 * A stop token is an eventfd that becomes readable when the holder should give up; blocking calls take it as cancel_fd.
 * Jobs run once each, in order of submission, at most n_threads at a time; submit fails with RESOURCE_EXHAUSTED when max_queued are waiting
 * for a thread. Worker threads block all signals except those of their own faults; fm_child_run gives programs a clean mask again.
 */
#ifndef FM_LOOP_POOL_H
#define FM_LOOP_POOL_H

#include <stdbool.h>
#include <stddef.h>

#include "basic/error.h"

struct fm_pool;
int fm_pool_new(unsigned n_threads, size_t max_queued, struct fm_pool **ret, struct fm_error *err);
int fm_pool_submit(struct fm_pool *p, void (*fn)(void *arg), void *arg, struct fm_error *err);
/*
 * Wait for running and queued jobs, then free. Jobs that these submit meanwhile are refused with CANCELLED. Never from a job of the
 * same pool.
 */
void fm_pool_free(struct fm_pool *p);

struct fm_stop {
	int fd;
};
int fm_stop_init(struct fm_stop *s, struct fm_error *err);
void fm_stop_request(struct fm_stop *s); /* async-signal-safe */
bool fm_stop_requested(const struct fm_stop *s);
void fm_stop_done(struct fm_stop *s);

/* Blocks SIGINT, SIGTERM (and SIGPIPE ignored) in the calling thread; call in main before starting threads. fd is a signalfd. */
int fm_signals_block(int *ret_signalfd, struct fm_error *err);
/* And one more, SIGHUP for instance: reading struct signalfd_siginfo says which it was. */
int fm_signals_block_and(int one_more, int *ret_signalfd, struct fm_error *err);

#endif
