/* SPDX-License-Identifier: MIT */
/*
 * pager-internal.h - the pager's object, shared by its files: pager.c (threads, requests, window, public functions), pager-fill.c (what the
 * kernel says and is told), pager-criu.c (CRIU's socket). Not for others.
 */
#ifndef FM_SYNC_PAGER_INTERNAL_H
#define FM_SYNC_PAGER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>

#include "sync/pager-ranges.h"
#include "sync/pager.h"

#define FM_PAGER_LATENCY_BUCKETS 256
#define FM_PAGER_WINDOW_MIN      64u /* pages */
#define FM_PAGER_AHEAD_MAX       16u
#define FM_PAGER_MESSAGES        16u /* read at a time */

enum fm_pager_stream_state {
	FM_PAGES_NONE, /* none given yet */
	FM_PAGES_UP,
	FM_PAGES_BROKEN, /* reported, and the stream is the caller's again */
};

/* A fault that waits for a page of the source. */
struct fm_pager_waiting {
	uint64_t key; /* space */
	uint64_t addr, page;
	uint32_t task;
	uint64_t since_us;
};

/* Sent and not answered completely. */
struct fm_pager_request {
	uint32_t task;
	uint32_t n_pages, got;
	uint64_t page, vaddr;
	uint64_t sent_us;
	bool background;
};

/* CRIU's side of the socket */
struct fm_pager_criu {
	int listen_fd, fd;
	uint8_t word[4];
	size_t have;
	pid_t pid; /* whose descriptor comes next, 0 = a word comes next */
};

struct fm_pager {
	struct fm_pager_opts o;
	int epoll_fd;
	int kick_fd;  /* wakes the fault thread */
	int halt_fd;  /* readable: the receiver ends */
	int event_fd; /* readable: done, broken or fatal */
	int kept_fd;  /* readable: every task is kept, or fatal */
	pthread_t fault_thread, receiver_thread;
	bool fault_started, receiver_started;
	atomic_bool quit; /* freed, or fatal: the threads end */

	/*
	 * Before `lock` everybody takes `turn` and gives it back when he has the lock: so the two threads alternate, and a fault never
	 * waits for more than one piece of copying.
	 */
	pthread_mutex_t turn, lock;
	pthread_cond_t changed;
	pthread_mutex_t control; /* set_stream, free */

	/* the rest is under `lock` */
	struct fm_error fatal;
	struct fm_pager_table *table; /* NULL until CRIU has connected */
	struct fm_pager_criu criu;    /* the fault thread's */
	bool kept_reported;

	struct fm_stream *stream;
	enum fm_pager_stream_state stream_state;
	bool receiving, sending; /* a thread is in the stream */
	struct fm_error stream_error;
	unsigned damaged; /* streams in a row that ended in damage */
	bool background, finishing, done;

	struct fm_pager_request *requests;
	size_t n_requests, cap_requests;
	struct fm_pager_waiting *waiting;
	size_t n_waiting, cap_waiting;
	uint64_t background_pages; /* under way */
	uint64_t window, window_max;
	uint64_t quickest_us; /* answer to the background on this stream */
	bool look_again;      /* there may be something for the background to ask */
	struct {
		uint32_t task;
		uint64_t page;
	} cursor; /* where the background goes on */
	struct fm_pager_ahead {
		uint32_t task;
		uint64_t page;
	} ahead[FM_PAGER_AHEAD_MAX]; /* to ask right after the pages of faults */
	size_t n_ahead;

	struct {
		uint32_t task;
		uint64_t page;
		bool done;
		uint64_t pages; /* put into place */
	} local;                /* where the filling from here goes on */

	int orphans[FM_PAGER_MESSAGES]; /* descriptors of children that could not be taken up: open, so that the children block */
	size_t n_orphans;

	uint64_t faults, latency_max_us, latency_n;
	uint32_t latency[FM_PAGER_LATENCY_BUCKETS];
};

void fm_pager_lock(struct fm_pager *p);
void fm_pager_unlock(struct fm_pager *p);
/* First one wins; everything stops, faults stay blocked. With the lock. */
void fm_pager_fatal(struct fm_pager *p, const struct fm_error *e);
void fm_pager_kick(struct fm_pager *p);
/* Tell who waits in fm_pager_wait_kept. With the lock. */
void fm_pager_check_kept(struct fm_pager *p);
int fm_pager_watch(struct fm_pager *p, int fd, uint64_t what, struct fm_error *err);

/* What the fault thread's epoll reports: keys of spaces, and */
#define FM_WATCH_KICK   UINT64_MAX
#define FM_WATCH_LISTEN (UINT64_MAX - 1)
#define FM_WATCH_CRIU   (UINT64_MAX - 2)

/* pager-criu.c; the fault thread's, without the lock */
int fm_pager_criu_listen(struct fm_pager *p, struct fm_error *err);
int fm_pager_criu_accept(struct fm_pager *p, struct fm_error *err);
int fm_pager_criu_read(struct fm_pager *p, struct fm_error *err);
void fm_pager_criu_close(struct fm_pager *p);

/* pager-requests.c */
/* All that may be sent now; the fault thread's, without the lock; -1: a failure that is dealt with. */
int fm_pager_send_requests(struct fm_pager *p);
void *fm_pager_receive(void *pager); /* the receiver's thread */

/* Put [first, end) into every space of the task that lacks them; data NULL: zeros. Without the lock. */
int fm_pager_put_everywhere(struct fm_pager *p, uint32_t task, uint64_t first, uint64_t end, const uint8_t *data, struct fm_error *err);

/* pager-local.c; the fault thread's, without the lock */
/* What tasks wait for and is here, and a piece of the rest. 1: there is more, 0: nothing is left to do just now, -1: fatal */
int fm_pager_fill_local(struct fm_pager *p, struct fm_error *err);
/* Has everything that is here been tried? With the lock. */
bool fm_pager_local_is_over(const struct fm_pager *p);

/* pager-fill.c; with the lock */

/* Make a descriptor fit for use: it must be a userfaultfd. */
int fm_pager_prepare_uffd(int fd, struct fm_error *err);
/* Everything the kernel has to say about the space. Failures are fatal. */
void fm_pager_read_events(struct fm_pager *p, struct fm_pager_space *s);
/* Wake every thread that waits in the space, so that it faults again and is reported again. */
void fm_pager_wake_all(const struct fm_pager_space *s);
void fm_pager_forget_waiting(struct fm_pager *p, uint64_t key);

/*
 * Put pages [*page, end) that the space lacks into it, a piece at a time; data: contents of page `first`, NULL = zeros. *page moves on.
 * 1: call again (or *page == end: finished), 0: the kernel changes this address space just now, -1 fatal.
 */
int fm_pager_put(struct fm_pager *p, struct fm_pager_space *s, uint64_t *page, uint64_t end, const uint8_t *data, uint64_t first,
                 struct fm_error *err);

#endif
