/* SPDX-License-Identifier: MIT */
/*
 * push.c - see push.h.
 *
 * A round: scan, then read what the scan reported, in batches of pages of one task that may lie anywhere (one process_vm_readv for up to FM_CHUNK_PAGES_MAX of them), encode, send.
 * A page that cannot be read any more has gone since the scan: the destination drops it; if it comes back, the next scan reports it.
 * Read after scan, never before: what changes while it is read is reported by the next scan (tracker.h).
 */
#include "sync/push.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/uio.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/proc.h"
#include "sync/file-pages.h"
#include "sync/page-codec.h"
#include "sync/stream-internal.h"

#define SEND_MS     30000
#define ROUND_OK_MS 60000 /* the destination has everything in its queue already: it only has to put it away */
#define SLICE_US    100000u
#define FROZEN      (1ull << 63) /* in a PAGES_PUSH frame's number of the round: the last one */
#define SECRET_MS   30000
#define HAVE_MS     30000
#define BREAKS_MAX  8u /* in one round: a link that breaks more often than that is none */

struct fm_push {
	struct fm_push_opts o;
	struct fm_tracker *tracker;
	struct fm_page_encoder *encoder;
	struct fm_hash_secret secret; /* of all streams */
	uint64_t round;
	uint64_t *addresses; /* of the batch */
	uint8_t *pages;
	uint8_t *chunk;
	size_t n;     /* pages in the batch */
	pid_t ns_pid; /* whose */
	pid_t host_pid;
	uint32_t task;
	bool knows;    /* what the destination had when the stream began */
	bool frozen;   /* the round under way is the last one: somebody waits for it */
	int cancel_fd; /* of the round under way */
	struct fm_giveway giveway;
	struct fm_push_result result;   /* of the round under way */
	uint64_t slice_us, slice_bytes; /* bandwidth: since when, how much */
};

FM_DEFINE_CLEANUP(struct fm_push *, fm_push_free);
FM_DEFINE_CLEANUP(struct fm_page_decoder *, fm_page_decoder_free);

/* The first frame of each stream, so that the destination gets ready while the first scan runs. A failure shows when its answer is waited for (learn). */
static void open_stream(struct fm_push *p)
{
	(void)fm_stream_send(p->o.stream, FM_FRAME_PAGES_SECRET, p->o.look, 0, p->secret.bytes, sizeof(p->secret.bytes), SEND_MS, NULL);
}

int fm_push_new(const struct fm_push_opts *o, struct fm_push **ret, struct fm_error *err)
{
	struct fm_tracker_opts t = { .backend = o->backend, .kinds = FM_TRACK_ANONYMOUS };
	struct fm_page_encoder_opts e = { .compress = o->compress };
	_fm_cleanup_(fm_push_freep) struct fm_push *p = calloc(1, sizeof(*p));

	if (p) {
		p->o = *o;
		p->addresses = calloc(FM_CHUNK_PAGES_MAX, sizeof(*p->addresses));
		p->pages = malloc(FM_CHUNK_BODY_MAX);
		p->chunk = malloc(FM_CHUNK_BYTES_MAX);
	}
	if (!p || !p->addresses || !p->pages || !p->chunk)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for pushing pages");
	memset(p->pages, 0, FM_CHUNK_BODY_MAX); /* reading into memory that has to be made first is slow */
	fm_hash_secret_draw(&p->secret);
	e.secret = &p->secret;
	if (fm_tracker_new(&t, &p->tracker, err) < 0 || fm_page_encoder_new(&e, &p->encoder, err) < 0)
		return -1;
	open_stream(p);
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
	fm_page_encoder_free(p->encoder);
	free(p->addresses);
	free(p->pages);
	free(p->chunk);
	free(p);
}

/* ---------------------------------------------------------------- sending */

/* Keep to the bandwidth: once a slice's bytes are out, wait for its end. */
static int pace(struct fm_push *p, size_t bytes, struct fm_error *err)
{
	uint64_t now = fm_now_us(), allowed_us;

	if (p->o.bandwidth_bytes_per_s == 0 || p->frozen)
		return 0;
	p->slice_bytes += bytes;
	allowed_us = p->slice_bytes * 1000000 / p->o.bandwidth_bytes_per_s;
	if (now - p->slice_us < allowed_us) {
		int ms = (int)((allowed_us - (now - p->slice_us)) / 1000);
		if (ms > 0 && fm_wait_fd(p->cancel_fd, POLLIN, ms, NULL) > 0)
			return fm_error_set(err, FM_E_CANCELLED, "cancelled while sending pages");
	}
	if (fm_now_us() - p->slice_us > SLICE_US && allowed_us > SLICE_US) {
		p->slice_us = fm_now_us();
		p->slice_bytes = 0;
	}
	return 0;
}

static int send_chunk(struct fm_push *p, size_t len, struct fm_error *err)
{
	uint64_t t = fm_now_us();

	if (len == 0)
		return 0;
	if (p->o.damage && p->o.damage(p->o.userdata))
		fm_stream_damage_next(p->o.stream);
	if (fm_stream_send(p->o.stream, FM_FRAME_PAGES_PUSH, (uint64_t)p->ns_pid, p->round | (p->frozen ? FROZEN : 0), p->chunk, len,
	                   SEND_MS, err) < 0)
		return fm_stream_explain(p->o.stream, err);
	fm_page_encoder_link(p->encoder, len, fm_now_us() - t);
	p->result.payload_bytes += len;
	return pace(p, len, err);
}

/* How many of the batch's pages from `first` on could be read. */
static size_t read_pages(struct fm_push *p, size_t first)
{
	struct iovec remote[FM_CHUNK_PAGES_MAX],
	        local = { .iov_base = p->pages + first * FM_PAGE_BYTES, .iov_len = (p->n - first) * FM_PAGE_BYTES };
	size_t k = 0;

	for (size_t i = first; i < p->n; i++) {
		void *at = (void *)(uintptr_t)p->addresses[i];
		if (k && (char *)remote[k - 1].iov_base + remote[k - 1].iov_len == (char *)at)
			remote[k - 1].iov_len += FM_PAGE_BYTES;
		else
			remote[k++] = (struct iovec){ .iov_base = at, .iov_len = FM_PAGE_BYTES };
	}
	ssize_t r = process_vm_readv(p->host_pid, &local, 1, remote, k, 0);
	return r > 0 ? (size_t)r / FM_PAGE_BYTES : 0;
}

/* The pages of the batch that are gone (or may not be read this way: PROT_NONE) are left to be asked for. */
static int flush(struct fm_push *p, struct fm_error *err)
{
	size_t first = 0, len = 0;

	while (first < p->n) {
		size_t got = read_pages(p, first);
		if (got > 0) {
			for (size_t i = first; i < first + got; i++)
				fm_tracker_note_read(p->tracker, p->task, p->addresses[i], p->pages + i * FM_PAGE_BYTES, 1);
			if (fm_page_encoder_pages(p->encoder, p->ns_pid, p->addresses + first, p->pages + first * FM_PAGE_BYTES, got,
			                          p->chunk, &len, err) < 0 ||
			    send_chunk(p, len, err) < 0)
				return -1;
			first += got;
			continue;
		}
		if (fm_page_encoder_drop(p->encoder, p->ns_pid, p->addresses[first], 1, p->chunk, &len, err) < 0 ||
		    send_chunk(p, len, err) < 0)
			return -1;
		first++;
	}
	p->n = 0;
	return fm_wait_fd(p->cancel_fd, POLLIN, 0, NULL) > 0 ? fm_error_set(err, FM_E_CANCELLED, "cancelled while sending pages") : 0;
}

static int add_page(struct fm_push *p, const struct fm_page_source_task *tasks, uint32_t task, uint64_t address, struct fm_error *err)
{
	const struct fm_page_source_task *t = &tasks[task];

	if (p->n > 0 && (p->ns_pid != t->ns_pid || p->n == FM_CHUNK_PAGES_MAX) && flush(p, err) < 0)
		return -1;
	p->task = task;
	p->ns_pid = t->ns_pid;
	p->host_pid = t->host_pid;
	p->addresses[p->n++] = address;
	return 0;
}

static int drop_run(struct fm_push *p, const struct fm_page_source_task *t, uint64_t address, uint64_t n_pages, struct fm_error *err)
{
	p->ns_pid = t->ns_pid;
	while (n_pages > 0) {
		size_t len = 0, k = n_pages < FM_CHUNK_PAGES_MAX ? n_pages : FM_CHUNK_PAGES_MAX;
		if (fm_page_encoder_drop(p->encoder, t->ns_pid, address, k, p->chunk, &len, err) < 0 || send_chunk(p, len, err) < 0)
			return -1;
		address += k * FM_PAGE_BYTES;
		n_pages -= k;
	}
	return 0;
}

static int end_round(struct fm_push *p, struct fm_error *err)
{
	struct fm_frame_header h;
	uint8_t none[8];

	if (fm_stream_send(p->o.stream, FM_FRAME_ROUND_END, p->round, p->frozen, NULL, 0, SEND_MS, err) < 0 ||
	    fm_stream_expect(p->o.stream, FM_FRAME_ROUND_OK, &h, none, sizeof(none), ROUND_OK_MS, p->cancel_fd, err) < 0)
		return fm_stream_explain(p->o.stream, err);
	if (h.a != p->round)
		return fm_error_set(err, FM_E_DATA_LOSS, "the destination answered for round %llu, not %llu", (unsigned long long)h.a,
		                    (unsigned long long)p->round);
	p->round++;
	return 0;
}

static int send_runs(struct fm_push *p, const struct fm_page_runs *dirty, const struct fm_page_source_task *tasks, uint64_t max_pages,
                     struct fm_error *err)
{
	for (size_t i = 0; i < dirty->n; i++) {
		const struct fm_page_run *run = &dirty->v[i];
		uint64_t left = max_pages > p->result.pages_changed ? max_pages - p->result.pages_changed : 0;
		uint64_t k = run->n_pages < left ? run->n_pages : left;
		for (uint64_t j = 0; j < k; j++)
			if (add_page(p, tasks, run->task, run->vaddr + j * FM_PAGE_BYTES, err) < 0)
				return -1;
		p->result.pages_changed += run->n_pages;
		p->result.pages_left += run->n_pages - k;
		if (k == run->n_pages)
			continue;
		if (flush(p, err) < 0 || drop_run(p, &tasks[run->task], run->vaddr + k * FM_PAGE_BYTES, run->n_pages - k, err) < 0)
			return -1;
	}
	return flush(p, err);
}

static bool may_have_been_the_stream(const struct fm_error *e)
{
	return e->code == FM_E_UNAVAILABLE || e->code == FM_E_DATA_LOSS || e->code == FM_E_DEADLINE_EXCEEDED;
}

/* 0: there is a new stream. */
static int start_again(struct fm_push *p, const struct fm_error *why, struct fm_error *err)
{
	struct fm_stream *s = NULL;

	if (p->o.reconnect(p->o.userdata, why, &s, err) < 0)
		return -1;
	p->o.stream = s;
	open_stream(p);
	p->n = 0;
	p->knows = false;
	p->result.pages_changed = p->result.pages_left = 0;
	return 0;
}

static int take_have(struct fm_push *p, const struct fm_frame_header *h, const uint8_t *payload, struct fm_error *err)
{
	struct fm_page_hash hashes[FM_CHUNK_PAGES_MAX];
	size_t n = h->length / 16;

	if (h->a == 0 || h->a > INT32_MAX || h->length % 16 || n == 0 || n > FM_CHUNK_PAGES_MAX || h->b % FM_PAGE_BYTES ||
	    h->b > FM_PAGE_ADDRESS_END - n * FM_PAGE_BYTES)
		return fm_error_set(err, FM_E_DATA_LOSS, "the destination says in a malformed way which pages it has");
	for (size_t i = 0; i < n; i++)
		hashes[i] = (struct fm_page_hash){ .lo = fm_get_le64(payload + i * 16), .hi = fm_get_le64(payload + i * 16 + 8) };
	p->result.pages_known += n;
	p->result.pages_of_files += h->a == FM_FILE_PAGES_PID ? n : 0;
	return fm_page_encoder_preload(p->encoder, (pid_t)h->a, h->b, hashes, n, err);
}

/* A stream begins with what the destination has: from an earlier visit of the container, or from before the last stream broke. */
static int learn(struct fm_push *p, struct fm_error *err)
{
	struct fm_frame_header h;

	if (p->knows)
		return 0;
	fm_page_encoder_restart(p->encoder);
	p->result.pages_known = p->result.pages_of_files = 0;
	for (;;) {
		if (fm_stream_recv(p->o.stream, &h, p->chunk, FM_CHUNK_BYTES_MAX, HAVE_MS, p->cancel_fd, err) < 0)
			return -1;
		if (h.type == FM_FRAME_PAGES_HAVE_END)
			break;
		if (h.type != FM_FRAME_PAGES_HAVE)
			return fm_stream_unexpected(p->o.stream, &h, "hearing which pages the destination has", err);
		if (take_have(p, &h, p->chunk, err) < 0)
			return -1;
	}
	if (h.a != p->result.pages_known)
		return fm_error_set(err, FM_E_DATA_LOSS, "the destination has %llu pages, but told of %llu", (unsigned long long)h.a,
		                    (unsigned long long)p->result.pages_known);
	p->knows = true;
	return 0;
}

static int send_round(struct fm_push *p, const struct fm_page_runs *dirty, const struct fm_page_source_task *tasks, uint64_t max_pages,
                      struct fm_error *err)
{
	for (unsigned breaks = 0;; breaks++) {
		struct fm_error e = FM_ERROR_INIT;
		if (learn(p, &e) == 0 && send_runs(p, dirty, tasks, max_pages, &e) == 0 && end_round(p, &e) == 0)
			return 0;
		if (!p->o.reconnect || breaks == BREAKS_MAX || !may_have_been_the_stream(&e)) {
			*err = e;
			return -1;
		}
		if (start_again(p, &e, err) < 0)
			return -1;
	}
}

static int one_round(struct fm_push *p, const struct fm_page_source_task *tasks, size_t n, uint64_t max_pages, bool final, int cancel_fd,
                     struct fm_push_result *ret, struct fm_error *err)
{
	_fm_cleanup_(fm_page_runs_done) struct fm_page_runs dirty = { 0 };
	struct fm_page_encoder_stats before, after;
	uint64_t start = fm_now_us();

	p->frozen = final;
	p->cancel_fd = cancel_fd;
	p->result = (struct fm_push_result){ 0 };
	p->slice_us = start;
	p->slice_bytes = 0;
	if (!final)
		fm_giveway_init(&p->giveway);
	fm_page_encoder_give_way(p->encoder, final ? NULL : &p->giveway);
	fm_page_encoder_stats(p->encoder, &before);
	/* What is gone at the source, or was never there, the destination is not asked for: a list of what there is is not needed. */
	if (fm_tracker_set_tasks(p->tracker, tasks, n, err) < 0 ||
	    (final ? fm_tracker_scan_frozen(p->tracker, &dirty, NULL, err) : fm_tracker_scan(p->tracker, &dirty, err)) < 0)
		return fm_error_prefix(err, "finding out which pages have changed");
	p->result.scan_us = fm_now_us() - start;
	if (send_round(p, &dirty, tasks, max_pages, err) < 0)
		return -1;
	fm_page_encoder_stats(p->encoder, &after);
	p->result.pages_sent =
	        after.full + after.delta + after.known + after.zero - before.full - before.delta - before.known - before.zero;
	p->result.total_us = fm_now_us() - start;
	*ret = p->result;
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
		if (fm_stream_send(t->stream, FM_FRAME_PAGES_HAVE, (uint64_t)ns_pid, vaddr + done * FM_PAGE_BYTES, payload, k * 16, SEND_MS,
		                   err) < 0)
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
	return fm_stream_send(s, FM_FRAME_PAGES_HAVE_END, t.n, 0, NULL, 0, SEND_MS, err);
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
			if ((h.b & FROZEN) && !hurried)
				fm_thread_haste(FM_HASTE_HURRIED);
			hurried = hurried || (h.b & FROZEN);
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
		if (fm_stream_send(s, FM_FRAME_ROUND_OK, h.a, 0, NULL, 0, SEND_MS, err) < 0)
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

int fm_push_receive(struct fm_stream *s, struct fm_page_store *store, int cancel_fd, struct fm_error *err)
{
	return fm_push_receive_with(s, store, NULL, NULL, cancel_fd, err);
}

int fm_push_receive_with(struct fm_stream *s, struct fm_page_store *store, void (*look)(void *userdata), void *userdata, int cancel_fd,
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
