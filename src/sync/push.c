/* SPDX-License-Identifier: MIT */
/*
 * push.c - see push.h.
 *
 * A round: scan, then all streams send their parts of what the scan reported (push-stream.c), the first one in the thread of the caller, the others in threads that live as long as the round. They have
 * nothing in common but the tracker's notes, the bandwidth and how many pages may still be sent.
 * Read after scan, never before: what changes while it is read is reported by the next scan (tracker.h).
 */
#include "sync/push-internal.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/proc.h"
#include "sync/stream-internal.h"

#define SLICE_US  100000u
#define SECRET_MS 30000

FM_DEFINE_CLEANUP(struct fm_push *, fm_push_free);
FM_DEFINE_CLEANUP(struct fm_page_decoder *, fm_page_decoder_free);

/* ---------------------------------------------------------------- several streams */

unsigned fm_push_stream_of(pid_t ns_pid, uint64_t vaddr, unsigned n)
{
	uint64_t x = vaddr / FM_PUSH_BLOCK_BYTES ^ (uint64_t)ns_pid << 32;

	if (n == 1)
		return 0;
	/* the finalizer of MurmurHash3: neighbours spread */
	x = (x ^ x >> 33) * 0xff51afd7ed558ccdull;
	x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53ull;
	return (unsigned)((x ^ x >> 33) % n);
}

uint64_t fm_push_stream_run(uint64_t vaddr, uint64_t n_pages, unsigned n)
{
	uint64_t in_block = (FM_PUSH_BLOCK_BYTES - vaddr % FM_PUSH_BLOCK_BYTES) / FM_PAGE_BYTES;

	return n == 1 || n_pages < in_block ? n_pages : in_block;
}

static int open_stop(struct fm_push *p, struct fm_error *err)
{
	struct epoll_event ev = { .events = EPOLLIN };

	p->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	p->stop_or_cancel_fd = epoll_create1(EPOLL_CLOEXEC);
	if (p->stop_fd < 0 || p->stop_or_cancel_fd < 0 || epoll_ctl(p->stop_or_cancel_fd, EPOLL_CTL_ADD, p->stop_fd, &ev) < 0)
		return fm_error_errno(err, errno, "cannot make a descriptor that ends all streams");
	return 0;
}

int fm_push_new(const struct fm_push_opts *o, struct fm_push **ret, struct fm_error *err)
{
	struct fm_tracker_opts t = { .backend = o->backend, .kinds = FM_TRACK_ANONYMOUS };

	if (o->n_streams == 0 || o->n_streams > FM_MAX_PUSH_STREAMS)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "pages are pushed over 1 to %d streams, not %u", FM_MAX_PUSH_STREAMS,
		                    o->n_streams);
	_fm_cleanup_(fm_push_freep) struct fm_push *p = calloc(1, sizeof(*p));
	if (!p)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for pushing pages");
	(void)pthread_mutex_init(&p->lock, NULL);
	p->o = *o;
	p->stop_fd = p->stop_or_cancel_fd = -1;
	p->streams = calloc(o->n_streams, sizeof(*p->streams));
	if (!p->streams)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for pushing pages");
	p->n = o->n_streams;
	fm_hash_secret_draw(&p->secret);
	for (unsigned i = 0; i < p->n; i++)
		if (fm_push_stream_init(&p->streams[i], p, i, err) < 0)
			return -1;
	if ((p->n > 1 && open_stop(p, err) < 0) || fm_tracker_new(&t, &p->tracker, err) < 0)
		return -1;
	p->o.streams = NULL; /* each has its own */
	for (unsigned i = 0; i < p->n; i++)
		fm_push_stream_open(&p->streams[i]);
	*ret = FM_TAKE_PTR(p);
	return 0;
}

enum fm_tracker_backend fm_push_tracker(const struct fm_push *p)
{
	return fm_tracker_backend(p->tracker);
}

void fm_push_free(struct fm_push *p)
{
	if (!p)
		return;
	fm_tracker_free(p->tracker);
	for (unsigned i = 0; i < p->n; i++)
		fm_push_stream_done(&p->streams[i]);
	free(p->streams);
	fm_closep(&p->stop_fd);
	fm_closep(&p->stop_or_cancel_fd);
	(void)pthread_mutex_destroy(&p->lock);
	free(p);
}

/* ---------------------------------------------------------------- what the streams share */

/* Keep to the bandwidth: wait until what was sent may be out. What was not used is saved up for a slice's time. */
int fm_push_pace(struct fm_push *p, size_t bytes, struct fm_error *err)
{
	uint64_t now = fm_now_us(), due_us;

	if (p->o.bandwidth_bytes_per_s == 0 || p->frozen)
		return 0;
	(void)pthread_mutex_lock(&p->lock);
	if (p->due_us + SLICE_US < now)
		p->due_us = now - SLICE_US;
	p->due_us += bytes * 1000000 / p->o.bandwidth_bytes_per_s;
	due_us = p->due_us;
	(void)pthread_mutex_unlock(&p->lock);
	int ms = due_us > now ? (int)((due_us - now) / 1000) : 0;
	if (ms > 0 && fm_wait_fd(p->cancel_fd, POLLIN, ms, NULL) > 0)
		return fm_error_set(err, FM_E_CANCELLED, "cancelled while sending pages");
	return 0;
}

/* Only one backend wants to know. */
void fm_push_note_read(struct fm_push *p, uint32_t task, const uint64_t *addresses, const uint8_t *pages, size_t n)
{
	if (fm_tracker_backend(p->tracker) != FM_TRACKER_HASH)
		return;
	(void)pthread_mutex_lock(&p->lock);
	for (size_t i = 0; i < n; i++)
		fm_tracker_note_read(p->tracker, task, addresses[i], pages + i * FM_PAGE_BYTES, 1);
	(void)pthread_mutex_unlock(&p->lock);
}

/* A stream whose connection is being replaced is borrowed by nobody: the caller may free the old one. */
static bool set_stream(struct fm_push_stream *s, struct fm_stream *stream)
{
	(void)pthread_mutex_lock(&s->push->lock);
	bool failed = s->push->failed;
	s->stream = stream;
	if (failed && stream)
		fm_stream_shutdown(stream);
	(void)pthread_mutex_unlock(&s->push->lock);
	return !failed;
}

int fm_push_replace(struct fm_push_stream *s, const struct fm_error *why, struct fm_error *err)
{
	const struct fm_push_opts *o = &s->push->o;
	struct fm_stream *stream = NULL;

	if (set_stream(s, NULL) && o->reconnect(o->userdata, s->index, why, s->push->cancel_fd, &stream, err) < 0)
		return -1;
	return set_stream(s, stream) ? 0 : fm_error_set(err, FM_E_CANCELLED, "another stream of pages has failed");
}

/* The first failure ends all streams: whatever they wait for, they find out. */
static void fail(struct fm_push *p, const struct fm_error *e)
{
	(void)pthread_mutex_lock(&p->lock);
	if (!p->failed) {
		p->failed = true;
		p->error = *e;
		if (p->stop_fd >= 0)
			(void)eventfd_write(p->stop_fd, 1);
		for (unsigned i = 0; i < p->n && p->n > 1; i++)
			if (p->streams[i].stream)
				fm_stream_shutdown(p->streams[i].stream);
	}
	(void)pthread_mutex_unlock(&p->lock);
}

/* ---------------------------------------------------------------- rounds */

static void *send_part(void *arg)
{
	struct fm_push_stream *s = arg;
	struct fm_error e = FM_ERROR_INIT;

	if (fm_push_stream_round(s, &e) < 0)
		fail(s->push, &e);
	return NULL;
}

/* The threads are as much in haste as the caller, whose children they are. */
static int send_parts(struct fm_push *p, struct fm_error *err)
{
	pthread_t threads[FM_MAX_PUSH_STREAMS];
	unsigned n = 1;

	for (int rc = 0; n < p->n && rc == 0; n += rc == 0) {
		rc = pthread_create(&threads[n], NULL, send_part, &p->streams[n]);
		if (rc != 0) {
			struct fm_error e = FM_ERROR_INIT;
			(void)fm_error_errno(&e, rc, "cannot start a thread for each stream of pages");
			fail(p, &e);
		}
	}
	(void)send_part(&p->streams[0]);
	while (n-- > 1)
		(void)pthread_join(threads[n], NULL);
	if (!p->failed)
		return 0;
	*err = p->error;
	return -1;
}

/* Of several streams each is to end when the caller says so or another one fails. */
static int send_round(struct fm_push *p, int cancel_fd, struct fm_error *err)
{
	struct epoll_event ev = { .events = EPOLLIN };

	p->cancel_fd = p->n > 1 ? p->stop_or_cancel_fd : cancel_fd;
	if (p->n == 1 || cancel_fd < 0)
		return send_parts(p, err);
	if (epoll_ctl(p->stop_or_cancel_fd, EPOLL_CTL_ADD, cancel_fd, &ev) < 0)
		return fm_error_errno(err, errno, "cannot wait for descriptor %d", cancel_fd);
	int rc = send_parts(p, err);
	(void)epoll_ctl(p->stop_or_cancel_fd, EPOLL_CTL_DEL, cancel_fd, NULL);
	return rc;
}

static void add_up(const struct fm_push *p, struct fm_push_result *ret)
{
	for (unsigned i = 0; i < p->n; i++) {
		const struct fm_push_result *r = &p->streams[i].result;
		ret->pages_changed += r->pages_changed;
		ret->pages_sent += r->pages_sent;
		ret->pages_known += r->pages_known;
		/* Each stream has been told of the same files. */
		ret->pages_of_files = r->pages_of_files > ret->pages_of_files ? r->pages_of_files : ret->pages_of_files;
		ret->pages_left += r->pages_left;
		ret->payload_bytes += r->payload_bytes;
	}
}

static int one_round(struct fm_push *p, const struct fm_page_source_task *tasks, size_t n, uint64_t max_pages, bool final, int cancel_fd,
                     struct fm_push_result *ret, struct fm_error *err)
{
	_fm_cleanup_(fm_page_runs_done) struct fm_page_runs dirty = { 0 };
	struct fm_push_result result = { 0 };
	uint64_t start = fm_now_us();

	if (p->failed)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "no pages are sent after a failure");
	p->dirty = &dirty;
	p->tasks = tasks;
	p->frozen = final;
	p->due_us = start;
	atomic_store(&p->left, max_pages);
	/* What is gone at the source, or was never there, the destination is not asked for: a list of what there is is not needed. */
	if (fm_tracker_set_tasks(p->tracker, tasks, n, err) < 0 ||
	    (final ? fm_tracker_scan_frozen(p->tracker, &dirty, NULL, err) : fm_tracker_scan(p->tracker, &dirty, err)) < 0)
		return fm_error_prefix(err, "finding out which pages have changed");
	result.scan_us = fm_now_us() - start;
	if (send_round(p, cancel_fd, err) < 0)
		return -1;
	add_up(p, &result);
	result.total_us = fm_now_us() - start;
	*ret = result;
	return 0;
}

int fm_push_round(struct fm_push *p, const struct fm_page_source_task *tasks, size_t n, int cancel_fd, struct fm_push_result *ret,
                  struct fm_error *err)
{
	return one_round(p, tasks, n, UINT64_MAX, false, cancel_fd, ret, err);
}

int fm_push_final(struct fm_push *p, const struct fm_page_source_task *tasks, size_t n, uint64_t max_pages, int cancel_fd,
                  struct fm_push_result *ret, struct fm_error *err)
{
	return one_round(p, tasks, n, max_pages, true, cancel_fd, ret, err);
}

/* ---------------------------------------------------------------- receiving */

struct telling {
	struct fm_stream *stream;
	uint64_t n;
};

static int tell_run(void *userdata, pid_t ns_pid, uint64_t vaddr, const struct fm_page_hash *hashes, size_t n, struct fm_error *err)
{
	uint8_t payload[FM_CHUNK_PAGES_MAX * 16];
	struct telling *t = userdata;

	for (size_t done = 0, k; done < n; done += k) {
		k = n - done < FM_CHUNK_PAGES_MAX ? n - done : FM_CHUNK_PAGES_MAX;
		for (size_t i = 0; i < k; i++) {
			fm_put_le64(payload + i * 16, hashes[done + i].lo);
			fm_put_le64(payload + i * 16 + 8, hashes[done + i].hi);
		}
		if (fm_stream_send(t->stream, FM_FRAME_PAGES_HAVE, (uint64_t)ns_pid, vaddr + done * FM_PAGE_BYTES, payload, k * 16,
		                   FM_PUSH_SEND_MS, err) < 0)
			return -1;
	}
	t->n += n;
	return 0;
}

static int tell(struct fm_stream *s, const struct fm_page_store *store, struct fm_error *err)
{
	struct telling t = { .stream = s };

	if (fm_page_store_each(store, tell_run, &t, err) < 0)
		return -1;
	return fm_stream_send(s, FM_FRAME_PAGES_HAVE_END, t.n, 0, NULL, 0, FM_PUSH_SEND_MS, err);
}

/* What is there from an earlier visit has hashes of another secret. */
static int take_secret(struct fm_stream *s, struct fm_page_store *store, uint8_t *buf, int cancel_fd, bool *ret_look, struct fm_error *err)
{
	struct fm_hash_secret secret;
	struct fm_frame_header h;

	if (fm_stream_expect(s, FM_FRAME_PAGES_SECRET, &h, buf, FM_MAX_FRAME_BYTES, SECRET_MS, cancel_fd, err) < 0 ||
	    fm_hash_secret_take(buf, h.length, &secret, err) < 0)
		return -1;
	*ret_look = h.a != 0;
	return fm_page_store_set_secret(store, &secret, err);
}

static int receive(struct fm_stream *s, struct fm_page_store *store, struct fm_page_decoder *d, uint8_t *buf, int cancel_fd,
                   struct fm_error *err)
{
	struct fm_frame_header h;
	bool hurried = false;

	for (;;) {
		if (fm_stream_recv(s, &h, buf, FM_MAX_FRAME_BYTES, -1, cancel_fd, err) < 0)
			return -1;
		if (h.type == FM_FRAME_PAGES_PUSH) {
			if ((h.b & FM_PUSH_FROZEN) && !hurried)
				fm_thread_haste(FM_HASTE_HURRIED);
			hurried = hurried || (h.b & FM_PUSH_FROZEN);
			if (h.a == 0 || h.a > INT32_MAX)
				return fm_error_set(err, FM_E_DATA_LOSS, "pages of process %llu were sent", (unsigned long long)h.a);
			/* Sealed: only our answer to the last round was lost, and the tree is frozen: the same comes again. */
			if (!fm_page_store_is_sealed(store) && fm_page_decoder_chunk(d, (pid_t)h.a, buf, h.length, err) < 0)
				return -1;
			continue;
		}
		if (h.type != FM_FRAME_ROUND_END)
			return fm_stream_unexpected(s, &h, "receiving pages before the freeze", err);
		bool final = h.b != 0;
		if (final && !fm_page_store_is_sealed(store) && fm_page_store_seal(store, err) < 0)
			return -1;
		if (fm_stream_send(s, FM_FRAME_ROUND_OK, h.a, 0, NULL, 0, FM_PUSH_SEND_MS, err) < 0)
			return -1;
		if (final)
			return 0;
	}
}

static int begin_to_receive(struct fm_stream *s, struct fm_page_store *store, uint8_t *buf, void (*look)(void *userdata), void *userdata,
                            int cancel_fd, struct fm_error *err)
{
	bool wanted = false;

	if (take_secret(s, store, buf, cancel_fd, &wanted, err) < 0)
		return -1;
	if (look && wanted && !fm_page_store_is_sealed(store))
		look(userdata);
	return tell(s, store, err);
}

int fm_push_receive(struct fm_stream *s, struct fm_page_store *store, void (*look)(void *userdata), void *userdata, int cancel_fd,
                    struct fm_error *err)
{
	_fm_cleanup_(fm_page_decoder_freep) struct fm_page_decoder *d = NULL;
	_fm_free_ uint8_t *buf = malloc(FM_MAX_FRAME_BYTES);
	struct fm_error e = FM_ERROR_INIT;

	if (!buf)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for receiving pages");
	if (fm_page_decoder_new(store, &d, err) < 0)
		return -1;
	if (begin_to_receive(s, store, buf, look, userdata, cancel_fd, &e) == 0 && receive(s, store, d, buf, cancel_fd, &e) == 0)
		return 0;
	if (e.code != FM_E_UNAVAILABLE && e.code != FM_E_CANCELLED)
		fm_stream_send_error(s, &e);
	if (err)
		*err = e;
	return -1;
}
