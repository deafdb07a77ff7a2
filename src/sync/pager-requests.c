/* SPDX-License-Identifier: MIT */
/*
 * pager-requests.c - the pager and the source: what is asked, and what comes back.
 *
 * Asking (the fault thread): first every page that a task waits for, one page a request, followed by a small one for the pages behind it;
 * then the background, in order of addresses from wherever the last fault was, as far as the window allows. The source answers in order, so
 * what the background has under way is what a fault waits behind. Each fault halves the window; each answer to the background lets it grow
 * by what came, up to the caller's size, as long as it did not take QUEUE_US longer than the quickest one: more under way would not make a
 * slow network faster, only the first fault after a quiet time slower.
 *
 * Receiving (its own thread, one for each stream): an answer must be the next piece of a request that was sent on this stream, or the
 * source is not what it should be and nothing of the answer is used. It goes to every space that lacks the pages, in pieces, with the lock
 * given back between them. A page that could not be put into place (the kernel was changing the address space for too long, a child came to
 * life meanwhile) is simply still missing, and no longer asked for: it will be asked for again. So every exception ends in the normal way,
 * and so does a broken stream: what was asked there is not asked any more, the next stream starts from the bitmaps.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/limits.h"
#include "sync/pager-internal.h"
#include "sync/stream-internal.h"

#define SEND_MS        30000 /* forty bytes; a stream that does not take them is no use */
#define AHEAD_PAGES    16u
#define CHANGING_US    200 /* between two looks whether the kernel has finished changing an address space */
#define CHANGING_TRIES 100
#define DAMAGED_MAX    3
#define QUEUE_US       10000

/* what to ask next; with the lock */

static bool urgent_request(struct fm_pager *p, struct fm_pager_request *ret)
{
	for (size_t i = 0; i < p->n_waiting; i++) {
		const struct fm_pager_waiting *w = &p->waiting[i];
		if (fm_task_is_asked(&p->table->tasks[w->task], w->page))
			continue;
		*ret = (struct fm_pager_request){ .task = w->task, .page = w->page, .n_pages = 1 };
		p->ahead[p->n_ahead < FM_PAGER_AHEAD_MAX ? p->n_ahead++ : 0] =
		        (struct fm_pager_ahead){ .task = w->task, .page = w->page + 1 };
		p->cursor.task = w->task;
		p->cursor.page = w->page + 1;
		return true;
	}
	return false;
}

static bool ahead_request(struct fm_pager *p, struct fm_pager_request *ret)
{
	if (!fm_pager_local_is_over(p)) { /* what lies behind is probably here */
		p->n_ahead = 0;
		return false;
	}

	uint64_t page;
	uint32_t n;

	while (p->n_ahead) {
		const struct fm_pager_ahead *a = &p->ahead[--p->n_ahead];
		if (!fm_task_next_wanted(&p->table->tasks[a->task], a->page, a->page + AHEAD_PAGES, AHEAD_PAGES, &page, &n) ||
		    page != a->page)
			continue;
		*ret = (struct fm_pager_request){ .task = a->task, .page = page, .n_pages = n, .background = true };
		return true;
	}
	return false;
}

static bool background_request(struct fm_pager *p, struct fm_pager_request *ret)
{
	uint64_t page, max = p->window - (p->background_pages < p->window ? p->background_pages : p->window);
	size_t n_tasks = p->table->n_tasks;
	uint32_t n;

	if (!p->background || !fm_pager_local_is_over(p) || !p->look_again || max < FM_PAGER_WINDOW_MIN ||
	    !fm_pager_state_finished(p->table->state))
		return false;
	if (max > FM_PAGES_PER_REQUEST_MAX)
		max = FM_PAGES_PER_REQUEST_MAX;
	for (size_t i = 0; i <= n_tasks && n_tasks; i++) { /* the first one twice: from the cursor on, and what lies before it */
		uint32_t task = (uint32_t)((p->cursor.task + i) % n_tasks);
		uint64_t from = i == 0 ? p->cursor.page : 0, end = i == n_tasks ? p->cursor.page : UINT64_MAX;
		if (!fm_task_next_wanted(&p->table->tasks[task], from, end, max, &page, &n))
			continue;
		*ret = (struct fm_pager_request){ .task = task, .page = page, .n_pages = n, .background = true };
		p->cursor.task = task;
		p->cursor.page = page + n;
		return true;
	}
	p->look_again = false;
	return false;
}

static bool next_request(struct fm_pager *p, struct fm_pager_request *ret)
{
	if (p->quit || !p->table || p->stream_state != FM_PAGES_UP || !p->receiving)
		return false;
	return urgent_request(p, ret) || ahead_request(p, ret) || background_request(p, ret);
}

static int remember(struct fm_pager *p, struct fm_pager_request *r, struct fm_error *err)
{
	struct fm_pager_task *task = &p->table->tasks[r->task];

	if (p->n_requests == p->cap_requests) {
		size_t cap = p->cap_requests ? p->cap_requests * 2 : 64;
		struct fm_pager_request *more = realloc(p->requests, cap * sizeof(*more));
		if (!more)
			return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for page requests");
		p->requests = more;
		p->cap_requests = cap;
	}
	r->vaddr = fm_task_address(task, r->page);
	r->sent_us = fm_now_us();
	p->requests[p->n_requests++] = *r;
	fm_task_set_asked(task, r->page, r->n_pages, true);
	if (r->background)
		p->background_pages += r->n_pages;
	return 0;
}

/* 1: one is to be sent, 0: nothing to send now, -1 fatal */
static int prepare(struct fm_pager *p, struct fm_stream **ret_stream, struct fm_pager_request *ret, pid_t *ret_pid)
{
	struct fm_error e = FM_ERROR_INIT;
	int r = 0;

	fm_pager_lock(p);
	if (next_request(p, ret)) {
		r = remember(p, ret, &e) < 0 ? -1 : 1;
		*ret_stream = p->stream;
		*ret_pid = p->table->tasks[ret->task].pid;
		p->sending = r == 1;
	}
	if (r < 0)
		fm_pager_fatal(p, &e);
	fm_pager_unlock(p);
	return r;
}

int fm_pager_send_requests(struct fm_pager *p)
{
	struct fm_stream *s = NULL;
	struct fm_pager_request q;
	pid_t pid = 0;
	int r;

	while ((r = prepare(p, &s, &q, &pid)) > 0) {
		struct fm_error e = FM_ERROR_INIT;
		uint8_t payload[8];
		fm_put_le32(payload, q.n_pages);
		fm_put_le32(payload + 4, !q.background);
		int sent = fm_stream_send(s, FM_FRAME_PAGE_REQUEST, (uint64_t)pid, q.vaddr, payload, sizeof(payload), SEND_MS, &e);
		if (sent < 0)
			fm_stream_shutdown(s); /* the receiver sees it, and gives the stream back */
		fm_pager_lock(p);
		if (sent < 0 && !fm_error_is_set(&p->stream_error))
			p->stream_error = e;
		p->sending = false;
		pthread_cond_broadcast(&p->changed);
		fm_pager_unlock(p);
		if (sent < 0)
			return -1;
	}
	return r;
}

/* answers */

/* The request of which (pid, vaddr, n) is the next piece, or n_requests */
static size_t match(const struct fm_pager *p, uint64_t pid, uint64_t vaddr, uint64_t n)
{
	size_t i;

	for (i = 0; i < p->n_requests; i++) {
		const struct fm_pager_request *q = &p->requests[i];
		if (q->vaddr + (uint64_t)q->got * FM_PAGE_BYTES == vaddr && (uint64_t)p->table->tasks[q->task].pid == pid)
			return n <= q->n_pages - q->got ? i : p->n_requests;
	}
	return i;
}

/* One piece into one space. Like fm_pager_put; a space that is gone needs nothing. *ret_fd: to wait for messages. */
static int put_piece(struct fm_pager *p, uint64_t key, uint64_t *page, uint64_t end, const uint8_t *data, uint64_t first, int *ret_fd,
                     struct fm_error *err)
{
	fm_pager_lock(p);
	struct fm_pager_space *s = p->quit ? NULL : fm_table_space(p->table, key);
	int r = 1;
	if (s) {
		*ret_fd = s->fd;
		r = fm_pager_put(p, s, page, end, data, first, err);
		if (r == 0) /* whoever changes the address space waits until this is read */
			fm_pager_read_events(p, s);
	} else {
		*page = end;
	}
	fm_pager_unlock(p);
	return r;
}

/*
 * There is no way to be told when the kernel has finished changing an address space: it takes microseconds after the message is read, or as
 * long as an munmap takes.
 */
static void wait_changing(int fd)
{
	struct pollfd f = { .fd = fd, .events = POLLIN };
	struct timespec t = { .tv_nsec = CHANGING_US * 1000 };
	(void)ppoll(&f, 1, &t, NULL);
}

static int put_into_space(struct fm_pager *p, uint64_t key, uint64_t first, uint64_t end, const uint8_t *data, struct fm_error *err)
{
	unsigned tries = 0;
	int fd = -1;

	for (uint64_t page = first; page < end && tries < CHANGING_TRIES;) {
		int r = put_piece(p, key, &page, end, data, first, &fd, err);
		if (r < 0)
			return -1;
		if (r == 0) {
			tries++;
			wait_changing(fd);
		}
	}
	return 0;
}

/* Children that come to life meanwhile have larger keys, and get the pages too. */
int fm_pager_put_everywhere(struct fm_pager *p, uint32_t task, uint64_t first, uint64_t end, const uint8_t *data, struct fm_error *err)
{
	for (uint64_t key = 0;;) {
		fm_pager_lock(p);
		struct fm_pager_space *s = fm_table_next_space(p->table, task, key);
		key = s ? s->key : 0;
		fm_pager_unlock(p);
		if (!s || p->quit)
			return 0;
		if (put_into_space(p, key, first, end, data, err) < 0)
			return -1;
	}
}

static void adapt_window(struct fm_pager *p, const struct fm_pager_request *q)
{
	uint64_t us = fm_now_us() - q->sent_us;

	if (!p->quickest_us || us < p->quickest_us)
		p->quickest_us = us;
	if (us - p->quickest_us > QUEUE_US)
		p->window -= p->window / 8;
	else
		p->window += q->n_pages;
	if (p->window < FM_PAGER_WINDOW_MIN)
		p->window = FM_PAGER_WINDOW_MIN;
	if (p->window > p->window_max)
		p->window = p->window_max;
}

static void settle(struct fm_pager *p, size_t i, uint32_t n)
{
	struct fm_pager_request *q = &p->requests[i];
	struct fm_pager_task *task = &p->table->tasks[q->task];
	uint64_t page, first = q->page + q->got;
	uint32_t left;

	fm_task_set_asked(task, first, n, false);
	if (fm_task_next_wanted(task, first, first + n, n, &page, &left))
		p->look_again = true;
	if (q->background)
		p->background_pages -= n;
	q->got += n;
	if (q->got == q->n_pages) {
		if (q->background)
			adapt_window(p, q);
		memmove(q, q + 1, (--p->n_requests - i) * sizeof(*q));
	}
	p->damaged = 0;
	fm_pager_kick(p);
}

static int refuse(const struct fm_frame_header *h, const char *why, struct fm_error *err)
{
	return fm_error_set(err, FM_E_DATA_LOSS, "the source sent %s: %s of process %llu at %#llx, %u bytes", why,
	                    fm_frame_to_string(h->type), (unsigned long long)h->a, (unsigned long long)h->b, h->length);
}

static int take_answer(struct fm_pager *p, const struct fm_frame_header *h, const uint8_t *payload, struct fm_error *err)
{
	bool gone = h->type == FM_FRAME_PAGES_GONE;
	uint32_t n = 0;

	if (gone && h->length == 4)
		n = fm_get_le32(payload);
	else if (!gone && h->length % FM_PAGE_BYTES == 0)
		n = h->length / FM_PAGE_BYTES;
	if (n == 0)
		return refuse(h, "an impossible answer", err);
	fm_pager_lock(p);
	size_t i = match(p, h->a, h->b, n);
	bool asked = i < p->n_requests;
	/* The fault thread only adds requests: i stays. */
	struct fm_pager_request q = asked ? p->requests[i] : (struct fm_pager_request){ 0 };
	fm_pager_unlock(p);
	if (!asked)
		return refuse(h, "pages that were not asked for", err);
	uint64_t first = q.page + q.got;
	if (fm_pager_put_everywhere(p, q.task, first, first + n, gone ? NULL : payload, err) < 0)
		return -1;
	fm_pager_lock(p);
	settle(p, i, n);
	fm_pager_unlock(p);
	return 0;
}

/* the receiver */

static void forget_requests(struct fm_pager *p)
{
	for (size_t i = 0; i < p->n_requests; i++) {
		const struct fm_pager_request *q = &p->requests[i];
		fm_task_set_asked(&p->table->tasks[q->task], q->page, q->n_pages, false);
	}
	p->n_requests = 0;
	p->background_pages = 0;
	p->n_ahead = 0;
	p->look_again = true;
}

/* The next stream may be better? Damage in transit is (TLS finds it), a source that keeps sending nonsense is not. With the lock. */
static bool only_broken(struct fm_pager *p, const struct fm_error *e)
{
	switch (e->code) {
	case FM_E_UNAVAILABLE:
	case FM_E_CANCELLED:
	case FM_E_ABORTED:
	case FM_E_DEADLINE_EXCEEDED:
		return true;
	case FM_E_DATA_LOSS:
	case FM_E_UNAUTHENTICATED:
		return ++p->damaged < DAMAGED_MAX;
	default:
		return false;
	}
}

/* The stream is no use any more: no thread is in it when this is known outside. */
static void give_back(struct fm_pager *p, struct fm_stream *s, const struct fm_error *e, bool fatal)
{
	fm_stream_shutdown(s);
	fm_pager_lock(p);
	while (p->sending)
		pthread_cond_wait(&p->changed, &p->lock);
	forget_requests(p);
	p->receiving = false;
	p->stream = NULL;
	p->stream_state = FM_PAGES_BROKEN;
	if (!fm_error_is_set(&p->stream_error))
		p->stream_error = *e;
	if (fatal || !only_broken(p, e))
		fm_pager_fatal(p, e);
	(void)eventfd_write(p->event_fd, 1);
	pthread_cond_broadcast(&p->changed);
	fm_pager_kick(p);
	fm_pager_unlock(p);
}

static int receive(struct fm_pager *p, struct fm_stream *s, uint8_t *buf, bool *ret_fatal, struct fm_error *err)
{
	struct fm_frame_header h;

	for (;;) {
		if (fm_stream_recv(s, &h, buf, FM_MAX_FRAME_BYTES, -1, p->halt_fd, err) < 0)
			return -1;
		*ret_fatal = true;
		if (h.type != FM_FRAME_PAGES && h.type != FM_FRAME_PAGES_GONE)
			return fm_stream_unexpected(s, &h, "receiving pages", err);
		if (take_answer(p, &h, buf, err) < 0)
			return -1;
		*ret_fatal = false;
	}
}

void *fm_pager_receive(void *pager)
{
	struct fm_pager *p = pager;
	struct fm_error e = FM_ERROR_INIT;
	_fm_free_ uint8_t *buf = NULL;
	bool fatal = true;

	fm_pager_lock(p);
	struct fm_stream *s = p->stream;
	fm_pager_unlock(p);
	if (posix_memalign((void **)&buf, FM_PAGE_BYTES, FM_MAX_FRAME_BYTES) != 0) {
		buf = NULL;
		(void)fm_error_set(&e, FM_E_RESOURCE_EXHAUSTED, "out of memory for receiving pages");
	} else {
		fatal = false;
		(void)receive(p, s, buf, &fatal, &e);
	}
	fm_pager_lock(p);
	bool halted = e.code == FM_E_CANCELLED && (p->quit || p->finishing);
	if (halted) {
		p->receiving = false;
		pthread_cond_broadcast(&p->changed);
	}
	fm_pager_unlock(p);
	if (!halted)
		give_back(p, s, &e, fatal);
	return NULL;
}
