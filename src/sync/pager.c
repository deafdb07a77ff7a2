/* SPDX-License-Identifier: MIT */
/*
 * pager.c - see pager.h. Here: the object, the fault thread, the end, and the public functions.
 *
 * Two threads. The *fault thread* lives from new to done: it waits on one epoll for CRIU's socket, the userfaultfds and a kick, and after
 * each round does what there is to do: hands children's descriptors over for keeping, drops spaces that need nothing any more, sends
 * requests, looks whether all is done. The *receiver* lives as long as a stream: it puts the answers into place. All state is under one
 * lock, which is held for one batch of messages or one piece of copying (some tens of us); sending, receiving and the callbacks are
 * outside.
 *
 * Whose stream is it: given by set_stream, it is used by the receiver and, for one send at a time, by the fault thread. A failure on either
 * side shuts it down, so both come out; the receiver, as the last, reports it broken, and then nobody touches it.
 *
 * The end: no space lacks a page, and no request is without its answer (the source would otherwise wait for ever with an answer that nobody
 * takes). The receiver is halted, the guard drops its duplicates and we close ours: closing the last one makes all the memory ordinary
 * again, also what no image lists. It is not unregistered range by range before, because the ranges are pieces of mappings, which would be
 * split in thousands. Until then each space stays, even with all its pages, because threads may wait in untouched memory or in fork.
 *
 * After something fatal the threads end and the descriptors stay open until fm_pager_free: tasks that need a page block, none reads a wrong
 * one.
 */
#include "sync/pager.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/proc.h"
#include "sync/pager-internal.h"

#define WINDOW_DEFAULT 2048u
#define WINDOW_MAX     65536u
#define WINDOW_START   256u
#define DONE_SEND_MS   5000
#define EVENTS         32

FM_DEFINE_CLEANUP(struct fm_pager *, fm_pager_free);

void fm_pager_lock(struct fm_pager *p)
{
	pthread_mutex_lock(&p->turn);
	pthread_mutex_lock(&p->lock);
	pthread_mutex_unlock(&p->turn);
}

void fm_pager_unlock(struct fm_pager *p)
{
	pthread_mutex_unlock(&p->lock);
}

void fm_pager_kick(struct fm_pager *p)
{
	(void)eventfd_write(p->kick_fd, 1);
}

void fm_pager_fatal(struct fm_pager *p, const struct fm_error *e)
{
	if (fm_error_is_set(&p->fatal))
		return;
	p->fatal = *e;
	p->quit = true;
	fm_pager_kick(p);
	(void)eventfd_write(p->halt_fd, 1);
	(void)eventfd_write(p->event_fd, 1);
	(void)eventfd_write(p->kept_fd, 1);
	pthread_cond_broadcast(&p->changed);
}

static void fatal(struct fm_pager *p, const struct fm_error *e)
{
	fm_pager_lock(p);
	fm_pager_fatal(p, e);
	fm_pager_unlock(p);
}

void fm_pager_check_kept(struct fm_pager *p)
{
	if (p->kept_reported || !fm_table_all_kept(p->table))
		return;
	p->kept_reported = true;
	(void)eventfd_write(p->kept_fd, 1);
}

int fm_pager_watch(struct fm_pager *p, int fd, uint64_t what, struct fm_error *err)
{
	struct epoll_event e = { .events = EPOLLIN, .data.u64 = what };

	if (epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0)
		return fm_error_errno(err, errno, "cannot watch a descriptor of the pager");
	return 0;
}

/* children, and what is over */

/* One that is not kept yet; its descriptor stays as long as this thread does not drop it. */
static bool next_unkept(struct fm_pager *p, uint64_t *ret_key, int *ret_fd)
{
	bool found = false;

	fm_pager_lock(p);
	for (size_t i = 0; p->table && i < p->table->n_spaces && !found; i++) {
		const struct fm_pager_space *s = p->table->spaces[i];
		if (!s->forked || s->kept || s->unguarded || s->dead || s->missing == 0)
			continue;
		*ret_key = s->key;
		*ret_fd = s->fd;
		found = true;
	}
	fm_pager_unlock(p);
	return found;
}

/*
 * A child for which the guard has no place is served all the same. Only a crash would be its end, and recovery finds it in the state file
 * and refuses.
 */
static void keep_children(struct fm_pager *p)
{
	uint64_t key = 0;
	int fd = -1;

	while (!p->quit && next_unkept(p, &key, &fd)) {
		int r = p->o.keep(p->o.userdata, key, fd, NULL);
		fm_pager_lock(p);
		struct fm_pager_space *s = fm_table_space(p->table, key);
		if (s && r == 0)
			fm_table_set_kept(p->table, s);
		else if (s)
			s->unguarded = true;
		fm_pager_unlock(p);
	}
}

static struct fm_pager_space *next_over(struct fm_pager *p)
{
	for (size_t i = 0; p->table && i < p->table->n_spaces; i++) {
		struct fm_pager_space *s = p->table->spaces[i];
		if (s->dead || (s->forked && s->missing == 0))
			return s;
	}
	return NULL;
}

static void drop_space(struct fm_pager *p, struct fm_pager_space *s)
{
	/* While a duplicate is kept, closing ours would not end the watch. */
	(void)epoll_ctl(p->epoll_fd, EPOLL_CTL_DEL, s->fd, NULL);
	fm_pager_forget_waiting(p, s->key);
	fm_table_drop(p->table, s);
}

/* Dead ones, and children that have everything: short-lived children must not pile up. */
static int drop_what_is_over(struct fm_pager *p, struct fm_error *err)
{
	for (;;) {
		fm_pager_lock(p);
		struct fm_pager_space *s = next_over(p);
		uint64_t key = s ? s->key : 0;
		bool kept = s && s->kept, dead = s && s->dead;
		fm_pager_unlock(p);
		if (!s)
			return 0;
		/* A duplicate of a living one that stays would block it in its next fork. */
		if (kept && p->o.drop(p->o.userdata, key, err) < 0 && !dead)
			return fm_error_prefix(err, "giving up the userfaultfd of a process that has all its memory");
		fm_pager_lock(p);
		drop_space(p, s);
		fm_pager_unlock(p);
	}
}

/* the end */

static bool is_complete(struct fm_pager *p)
{
	return p->table && !p->quit && fm_pager_state_finished(p->table->state) && p->n_requests == 0 &&
	       fm_table_missing(p->table, true) == 0;
}

/* The stream to say good-bye on, or NULL */
static struct fm_stream *halt_receiver(struct fm_pager *p)
{
	(void)eventfd_write(p->halt_fd, 1);
	fm_pager_lock(p);
	while (p->receiving)
		pthread_cond_wait(&p->changed, &p->lock);
	struct fm_stream *s = p->stream;
	fm_pager_unlock(p);
	return s;
}

/* true: done, or failed in the attempt */
static bool finish(struct fm_pager *p)
{
	struct fm_error e = FM_ERROR_INIT;

	fm_pager_lock(p);
	bool complete = is_complete(p);
	p->finishing = complete;
	fm_pager_unlock(p);
	if (!complete)
		return false;
	struct fm_stream *s = halt_receiver(p);
	if (p->o.drop(p->o.userdata, UINT64_MAX, &e) < 0) {
		(void)fm_error_prefix(&e, "all pages are there, but the kept descriptors could not be given up");
		fatal(p, &e);
		return true;
	}
	fm_pager_lock(p);
	while (p->table->n_spaces)
		drop_space(p, p->table->spaces[p->table->n_spaces - 1]);
	fm_pager_unlock(p);
	if (s)
		(void)fm_stream_send(s, FM_FRAME_PAGES_DONE, 0, 0, NULL, 0, DONE_SEND_MS, NULL);
	fm_pager_lock(p);
	p->done = true;
	p->stream = NULL;
	(void)eventfd_write(p->event_fd, 1);
	pthread_cond_broadcast(&p->changed);
	fm_pager_unlock(p);
	return true;
}

/* the fault thread */

static void read_space(struct fm_pager *p, uint64_t key)
{
	fm_pager_lock(p);
	struct fm_pager_space *s = p->table ? fm_table_space(p->table, key) : NULL;
	if (s)
		fm_pager_read_events(p, s);
	fm_pager_unlock(p);
}

static int dispatch(struct fm_pager *p, const struct epoll_event *e, struct fm_error *err)
{
	eventfd_t count;

	switch (e->data.u64) {
	case FM_WATCH_KICK:
		(void)eventfd_read(p->kick_fd, &count);
		return 0;
	case FM_WATCH_LISTEN:
		return fm_pager_criu_accept(p, err);
	case FM_WATCH_CRIU:
		return fm_pager_criu_read(p, err);
	default:
		read_space(p, e->data.u64);
		return 0;
	}
}

static int run(struct fm_pager *p, struct fm_error *err)
{
	struct epoll_event events[EVENTS];
	bool more_local = false;

	while (!p->quit) {
		int n = epoll_wait(p->epoll_fd, events, EVENTS, more_local ? 0 : -1);
		if (n < 0 && errno != EINTR)
			return fm_error_errno(err, errno, "epoll_wait");
		for (int i = 0; i < n && !p->quit; i++)
			if (dispatch(p, &events[i], err) < 0)
				return -1;
		int local = fm_pager_fill_local(p, err);
		if (local < 0)
			return -1;
		more_local = local > 0;
		(void)fm_pager_send_requests(p);
		keep_children(p);
		if (drop_what_is_over(p, err) < 0)
			return -1;
		if (finish(p))
			return 0;
	}
	return 0;
}

static void *fault_thread(void *pager)
{
	struct fm_pager *p = pager;
	struct fm_error e = FM_ERROR_INIT;

	fm_thread_haste(FM_HASTE_HURRIED);
	if (run(p, &e) < 0)
		fatal(p, &e);
	return NULL;
}

static int start_thread(pthread_t *t, void *(*fn)(void *), struct fm_pager *p, struct fm_error *err)
{
	sigset_t all, old;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int e = pthread_create(t, NULL, fn, p);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return e ? fm_error_errno(err, e, "cannot start a thread of the pager") : 0;
}

/* the object */

static int open_descriptors(struct fm_pager *p, struct fm_error *err)
{
	p->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	p->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	p->halt_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	p->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	p->kept_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (p->epoll_fd < 0 || p->kick_fd < 0 || p->halt_fd < 0 || p->event_fd < 0 || p->kept_fd < 0)
		return fm_error_errno(err, errno, "cannot open the pager's descriptors");
	return fm_pager_watch(p, p->kick_fd, FM_WATCH_KICK, err);
}

static int pager_new(const struct fm_pager_opts *o, struct fm_pager **ret, struct fm_error *err)
{
	if (sysconf(_SC_PAGESIZE) != (long)FM_PAGE_BYTES)
		return fm_error_set(err, FM_E_UNIMPLEMENTED, "this host has pages of %ld bytes; filling memory on demand needs %u",
		                    sysconf(_SC_PAGESIZE), FM_PAGE_BYTES);
	struct fm_pager *p = calloc(1, sizeof(*p));
	if (!p)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for a pager");
	p->o = *o;
	p->epoll_fd = p->kick_fd = p->halt_fd = p->event_fd = p->kept_fd = -1;
	p->criu.listen_fd = p->criu.fd = -1;
	p->window_max = o->window_pages ? o->window_pages : WINDOW_DEFAULT;
	if (p->window_max < FM_PAGER_WINDOW_MIN)
		p->window_max = FM_PAGER_WINDOW_MIN;
	if (p->window_max > WINDOW_MAX)
		p->window_max = WINDOW_MAX;
	p->window = p->window_max < WINDOW_START ? p->window_max : WINDOW_START;
	p->look_again = true;
	pthread_mutex_init(&p->turn, NULL);
	pthread_mutex_init(&p->lock, NULL);
	pthread_mutex_init(&p->control, NULL);
	pthread_cond_init(&p->changed, NULL);
	if (open_descriptors(p, err) < 0) {
		fm_pager_free(p);
		return -1;
	}
	*ret = p;
	return 0;
}

static int start_faults(struct fm_pager *p, struct fm_error *err)
{
	if (start_thread(&p->fault_thread, fault_thread, p, err) < 0)
		return -1;
	p->fault_started = true;
	return 0;
}

int fm_pager_new(const struct fm_pager_opts *o, struct fm_pager **ret, struct fm_error *err)
{
	_fm_cleanup_(fm_pager_freep) struct fm_pager *p = NULL;

	if (pager_new(o, &p, err) < 0 || fm_pager_criu_listen(p, err) < 0 || start_faults(p, err) < 0)
		return -1;
	*ret = FM_TAKE_PTR(p);
	return 0;
}

/* recovery */

/* Takes fd. One that no space knows belonged to a space that was over when the old process died. */
static int adopt(struct fm_pager *p, uint64_t key, int fd_owned, struct fm_error *err)
{
	_fm_close_ int fd = fd_owned;
	struct fm_pager_space *s = fm_table_space(p->table, key);

	if (!s || s->fd >= 0)
		return s ? 0 : p->o.drop(p->o.userdata, key, err);
	if (fm_pager_prepare_uffd(fd, err) < 0)
		return fm_error_prefix(err, "kept descriptor %llu", (unsigned long long)key);
	s->fd = FM_TAKE_FD(fd);
	fm_table_set_kept(p->table, s);
	return 0;
}

/* Faults that the old process had read are told to nobody any more: the threads shall fault again. */
static int resume_spaces(struct fm_pager *p, struct fm_error *err)
{
	for (size_t i = 0; i < p->table->n_spaces;) {
		struct fm_pager_space *s = p->table->spaces[i];
		if (s->fd < 0 && s->missing)
			return fm_error_set(err, FM_E_DATA_LOSS,
			                    "a userfaultfd of process %d was not kept: %llu pages that it lacked then read as zeros now",
			                    (int)p->table->tasks[s->task].pid, (unsigned long long)s->missing);
		if (s->fd < 0) {
			fm_table_drop(p->table, s);
			continue;
		}
		if (fm_pager_watch(p, s->fd, s->key, err) < 0)
			return -1;
		fm_pager_wake_all(s);
		i++;
	}
	return 0;
}

static int load_old_table(struct fm_pager *p, struct fm_error *err)
{
	_fm_free_ struct fm_pager_range *v = NULL;
	struct fm_error e = FM_ERROR_INIT;
	size_t n = 0;

	if (p->o.load_ranges(p->o.userdata, &v, &n, err) < 0)
		return fm_error_prefix(err, "reading which pages are lazy");
	if (fm_table_open(p->o.images_dirfd, v, n, &p->table, &e) == 0)
		return 0;
	if (e.code == FM_E_NOT_FOUND)
		e.code = FM_E_DATA_LOSS;
	if (err)
		*err = e;
	return fm_error_prefix(err, "taking over the filling of memory after a crash");
}

int fm_pager_recover(const struct fm_pager_opts *o, const int *fds, const uint64_t *keys, size_t n, struct fm_pager **ret,
                     struct fm_error *err)
{
	_fm_cleanup_(fm_pager_freep) struct fm_pager *p = NULL;
	int r = pager_new(o, &p, err);

	if (r == 0)
		r = load_old_table(p, err);
	for (size_t i = 0; i < n; i++) {
		if (r == 0)
			r = adopt(p, keys[i], fds[i], err);
		else
			(void)close(fds[i]);
	}
	if (r < 0 || resume_spaces(p, err) < 0)
		return -1;
	fm_pager_state_set_finished(p->table->state);
	p->kept_reported = true;
	(void)eventfd_write(p->kept_fd, 1);
	fm_pager_kick(p); /* all may be there already */
	if (start_faults(p, err) < 0)
		return -1;
	*ret = FM_TAKE_PTR(p);
	return 0;
}

/* streams */

/* With the lock; returns with it. Nobody is in a stream afterwards, unless all is over. */
static void end_old_stream(struct fm_pager *p)
{
	while (p->finishing && !p->done && !p->quit)
		pthread_cond_wait(&p->changed, &p->lock);
	if (p->stream_state == FM_PAGES_UP && p->receiving && !p->quit)
		fm_stream_shutdown(p->stream);
	while (p->receiving && !p->quit)
		pthread_cond_wait(&p->changed, &p->lock);
	while (p->finishing && !p->done && !p->quit)
		pthread_cond_wait(&p->changed, &p->lock);
}

static int use_stream(struct fm_pager *p, struct fm_stream *s, struct fm_error *err)
{
	eventfd_t count;

	if (p->receiver_started)
		pthread_join(p->receiver_thread, NULL);
	p->receiver_started = false;
	fm_pager_lock(p);
	(void)eventfd_read(p->event_fd, &count);
	p->stream = s;
	p->stream_state = FM_PAGES_UP;
	p->stream_error = FM_ERROR_INIT;
	p->receiving = true;
	p->look_again = true;
	p->quickest_us = 0;
	int r = start_thread(&p->receiver_thread, fm_pager_receive, p, err);
	p->receiver_started = r == 0;
	if (r < 0) {
		p->stream = NULL;
		p->receiving = false;
		p->stream_state = FM_PAGES_BROKEN;
		(void)eventfd_write(p->event_fd, 1);
	}
	fm_pager_unlock(p);
	fm_pager_kick(p);
	return r;
}

int fm_pager_set_stream(struct fm_pager *p, struct fm_stream *s, struct fm_error *err)
{
	int r = 0;

	pthread_mutex_lock(&p->control);
	fm_pager_lock(p);
	end_old_stream(p);
	bool done = p->done, failed = p->quit;
	if (failed && err)
		*err = p->fatal;
	fm_pager_unlock(p);
	if (failed)
		r = -1;
	else if (done) /* the source has come back for a word that it missed */
		r = fm_stream_send(s, FM_FRAME_PAGES_DONE, 0, 0, NULL, 0, DONE_SEND_MS, err);
	else
		r = use_stream(p, s, err);
	pthread_mutex_unlock(&p->control);
	return r;
}

void fm_pager_start_background(struct fm_pager *p)
{
	fm_pager_lock(p);
	p->background = true;
	fm_pager_unlock(p);
	fm_pager_kick(p);
}

/* asking */

static uint64_t bucket_max_us(unsigned b)
{
	return b < 4 ? b : ((uint64_t)(5 + b % 4) << (b / 4 - 1)) - 1;
}

static uint64_t percentile(const struct fm_pager *p, unsigned percent)
{
	uint64_t seen = 0;

	for (unsigned b = 0; b < FM_PAGER_LATENCY_BUCKETS; b++) {
		seen += p->latency[b];
		if (seen * 100 >= p->latency_n * percent && seen)
			return bucket_max_us(b) < p->latency_max_us ? bucket_max_us(b) : p->latency_max_us;
	}
	return 0;
}

void fm_pager_stats(struct fm_pager *p, struct fm_pager_stats *ret)
{
	fm_pager_lock(p);
	uint64_t total = p->table ? p->table->n_pages : 0;
	*ret = (struct fm_pager_stats){
		.pages_total = total,
		.pages_done = p->table ? total - fm_table_missing(p->table, false) : 0,
		.pages_local = p->local.pages,
		.faults = p->faults,
		.fault_latency_p50_us = percentile(p, 50),
		.fault_latency_p99_us = percentile(p, 99),
		.fault_latency_max_us = p->latency_max_us,
		.stream_up = p->stream_state == FM_PAGES_UP && !p->done,
		.done = p->done,
	};
	ret->waits_for_source = !p->done && p->stream_state != FM_PAGES_UP && ret->pages_done < total && fm_pager_local_is_over(p);
	fm_pager_unlock(p);
}

/* Wait for fd or cancel_fd; 0, or -1 with *err. */
static int wait_for(int fd, uint64_t deadline_ms, int cancel_fd, const char *what, struct fm_error *err)
{
	struct pollfd f[2] = { { .fd = fd, .events = POLLIN }, { .fd = cancel_fd, .events = POLLIN } };

	for (;;) {
		int n = poll(f, 2, deadline_ms ? fm_deadline_left_ms(deadline_ms) : -1);
		if (n < 0 && errno != EINTR)
			return fm_error_errno(err, errno, "poll");
		if (n > 0 && f[0].revents)
			return 0;
		if (n > 0)
			return fm_error_set(err, FM_E_CANCELLED, "cancelled while waiting until %s", what);
		if (n == 0 && deadline_ms && fm_deadline_left_ms(deadline_ms) == 0)
			return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "not in time: waiting until %s", what);
	}
}

/* 1 nothing to report yet, 0 done, -1 */
static int report(struct fm_pager *p, struct fm_error *err)
{
	int r = 1;

	fm_pager_lock(p);
	if (fm_error_is_set(&p->fatal)) {
		r = -1;
		if (err)
			*err = p->fatal;
	} else if (p->done) {
		r = 0;
	} else if (p->stream_state == FM_PAGES_BROKEN) {
		r = fm_error_set(err, FM_E_UNAVAILABLE, "the stream of pages broke: %s", p->stream_error.message);
	}
	fm_pager_unlock(p);
	return r;
}

int fm_pager_wait(struct fm_pager *p, int timeout_ms, int cancel_fd, struct fm_error *err)
{
	uint64_t deadline_ms = timeout_ms < 0 ? 0 : fm_now_ms() + (uint64_t)timeout_ms;
	int r;

	while ((r = report(p, err)) > 0)
		if (wait_for(p->event_fd, deadline_ms, cancel_fd, "all pages are there", err) < 0)
			return -1;
	return r;
}

int fm_pager_wait_kept(struct fm_pager *p, int timeout_ms, int cancel_fd, struct fm_error *err)
{
	uint64_t deadline_ms = timeout_ms < 0 ? 0 : fm_now_ms() + (uint64_t)timeout_ms;
	int r = wait_for(p->kept_fd, deadline_ms, cancel_fd, "every restored process has handed over its userfaultfd", err);

	fm_pager_lock(p);
	if (r == 0 && fm_error_is_set(&p->fatal)) {
		r = -1;
		if (err)
			*err = p->fatal;
	}
	fm_pager_unlock(p);
	return r;
}

void fm_pager_free(struct fm_pager *p)
{
	if (!p)
		return;
	fm_pager_lock(p);
	p->quit = true;
	if (p->sending) /* it may be blocked */
		fm_stream_shutdown(p->stream);
	pthread_cond_broadcast(&p->changed);
	fm_pager_unlock(p);
	fm_pager_kick(p);
	(void)eventfd_write(p->halt_fd, 1);
	if (p->fault_started)
		pthread_join(p->fault_thread, NULL);
	if (p->receiver_started)
		pthread_join(p->receiver_thread, NULL);
	fm_pager_criu_close(p);
	fm_table_free(p->table);
	while (p->n_orphans)
		(void)close(p->orphans[--p->n_orphans]);
	fm_closep(&p->epoll_fd);
	fm_closep(&p->kick_fd);
	fm_closep(&p->halt_fd);
	fm_closep(&p->event_fd);
	fm_closep(&p->kept_fd);
	pthread_mutex_destroy(&p->turn);
	pthread_mutex_destroy(&p->lock);
	pthread_mutex_destroy(&p->control);
	pthread_cond_destroy(&p->changed);
	free(p->requests);
	free(p->waiting);
	free(p);
}
