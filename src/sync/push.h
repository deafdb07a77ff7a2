/* SPDX-License-Identifier: MIT */
/*
 * push.h - pages on their way before the freeze: rounds of "what has changed" from the source into the destination's page store, over push streams (FM_STREAM_PUSH, docs/PROTOCOL.md).
 *
 * Source: fm_push_round as often as the caller likes while the tree runs, then fm_push_final once, when it is frozen. Each waits until the destination has
 * everything in its store (ROUND_OK), so that a number in a result is about pages that have arrived. Each stream begins with the source telling the secret of all hashes, which it has drawn with
 * fm_push_new, and the destination telling what is in its store: pages of an earlier
 * visit, or, when the stream broke and a new one was asked for (reconnect), what had arrived; then the round is sent once more, as far as the destination does not have it. After a failure the
 * push is over: its store at the destination is worth nothing; the source still has every page, so a post-copy can go on without it.
 *
 * Several streams share the work: each has the pages of its blocks of addresses (fm_push_stream_of), and everything that belongs to them for itself: connection, encoder, decoder, store and at either end
 * a thread. So nothing has to be in order between streams, and one that breaks sends only its part again; but of two pages alike only those of one stream are sent once. A round is over when it is for all of them.
 * The first failure of one ends all, and no thread outlives the round.
 *
 * Destination: fm_push_receive until the final round, with a store that is empty or has what an earlier visit left; then the store is sealed. What it holds then is exactly the content of the frozen tree's pages that it
 * has: the last round has replaced or dropped all that changed. After UNAVAILABLE or DATA_LOSS it may be called again with the source's next stream and the same store (the
 * old one is to be shut down: the source may be busy sending).
 *
 * Threads: one calls fm_push_*; each stream has its own that calls fm_push_receive.
 */
#ifndef FM_SYNC_PUSH_H
#define FM_SYNC_PUSH_H

#include "sync/page-source.h"
#include "sync/page-store.h"
#include "sync/stream.h"
#include "sync/tracker.h"

#define FM_PUSH_BLOCK_BYTES (2ull << 20)
/* Which of n streams a page belongs to: a part of the protocol. */
unsigned fm_push_stream_of(pid_t ns_pid, uint64_t vaddr, unsigned n);
/* How many of these pages, at least the first, belong to one stream because they are of one block. */
uint64_t fm_push_stream_run(uint64_t vaddr, uint64_t n_pages, unsigned n);

/* The functions are called by the threads of the streams, several at a time. */
struct fm_push_opts {
	struct fm_stream *const *streams; /* borrowed, the list until fm_push_new has returned */
	unsigned n_streams;               /* 1 to FM_MAX_PUSH_STREAMS */
	bool look;                        /* it is worth that the destination looks for pages elsewhere (fm_push_receive) */
	/* One has broken (why) and is not used any more: another in its place, borrowed as well, or -1, soon after cancel_fd becomes readable. NULL: never. */
	int (*reconnect)(void *userdata, unsigned index, const struct fm_error *why, int cancel_fd, struct fm_stream **ret,
	                 struct fm_error *err);
	bool (*damage)(void *userdata); /* tests: shall the next chunk arrive damaged? May be NULL */
	void *userdata;
	enum fm_tracker_backend backend;
	uint64_t bandwidth_bytes_per_s; /* 0: no limit; of payloads of all streams, kept over tenths of a second; not in the final round */
	int compress;                   /* -1: adapt; see page-codec.h */
};

struct fm_push_result {
	uint64_t pages_changed;  /* as the tracker says */
	uint64_t pages_sent;     /* with content, a difference or a reference: the rest was the same as before */
	uint64_t pages_known;    /* that the destination had when the stream began: 0 but in the round that began it */
	uint64_t pages_of_files; /* some of them: in files of the container (file-pages.h) */
	uint64_t pages_left;     /* final: changed, not sent, to be asked for */
	uint64_t payload_bytes;
	uint64_t scan_us, total_us;
};

struct fm_push;
int fm_push_new(const struct fm_push_opts *o, struct fm_push **ret, struct fm_error *err);
/* Ends the tracking as well, which takes time (tracker.h): not inside a freeze. NULL-safe. */
void fm_push_free(struct fm_push *p);

enum fm_tracker_backend fm_push_tracker(const struct fm_push *p); /* never AUTO */

/* tasks: the tree as it is now; ns_pids must stay the same for the same task. */
int fm_push_round(struct fm_push *p, const struct fm_page_source_task *tasks, size_t n, int cancel_fd, struct fm_push_result *ret,
                  struct fm_error *err);
/* The tree is frozen. At most max_pages of what changed are sent, of the rest the destination forgets what it has. */
int fm_push_final(struct fm_push *p, const struct fm_page_source_task *tasks, size_t n, uint64_t max_pages, int cancel_fd,
                  struct fm_push_result *ret, struct fm_error *err);

/*
 * One stream. Until the final round (0, the store is sealed) or a failure. look (may be NULL) is called when the store has the secret and before the source is told what is in it, which waits for it: it may put
 * more there. Only when the source says that it is worth it.
 */
int fm_push_receive(struct fm_stream *s, struct fm_page_store *store, void (*look)(void *userdata), void *userdata, int cancel_fd,
                    struct fm_error *err);

#endif
