/* SPDX-License-Identifier: MIT */
/*
 * push-stream.c - the source's side of one push stream: its part of a round, sent and answered.
 *
 * What a scan reported is read in batches of pages of one task that may lie anywhere (one process_vm_readv for up to FM_CHUNK_PAGES_MAX of them), encoded, sent.
 * A page that cannot be read any more has gone since the scan: the destination drops it; if it comes back, the next scan reports it.
 */
#include "sync/push-internal.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/uio.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "sync/file-pages.h"
#include "sync/stream-internal.h"

#define ROUND_OK_MS       60000 /* the destination has everything in its queue already: it only has to put it away */
#define HAVE_MS           30000
#define BREAKS_MAX        8u            /* in one round: a link that breaks more often than that is none */
#define DELTA_CACHE_BYTES (32ull << 20) /* of all streams */

int fm_push_stream_init(struct fm_push_stream *s, struct fm_push *p, unsigned index, struct fm_error *err)
{
	struct fm_page_encoder_opts e = { .delta_cache_bytes = DELTA_CACHE_BYTES / p->n, .compress = p->o.compress, .secret = &p->secret };

	*s = (struct fm_push_stream){ .push = p, .index = index, .stream = p->o.streams[index] };
	s->addresses = calloc(FM_CHUNK_PAGES_MAX, sizeof(*s->addresses));
	s->pages = malloc(FM_CHUNK_BODY_MAX);
	s->chunk = malloc(FM_CHUNK_BYTES_MAX);
	if (!s->addresses || !s->pages || !s->chunk)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for pushing pages");
	memset(s->pages, 0, FM_CHUNK_BODY_MAX); /* reading into memory that has to be made first is slow */
	return fm_page_encoder_new(&e, &s->encoder, err);
}

void fm_push_stream_done(struct fm_push_stream *s)
{
	fm_page_encoder_free(s->encoder);
	free(s->addresses);
	free(s->pages);
	free(s->chunk);
}

void fm_push_stream_open(struct fm_push_stream *s)
{
	const struct fm_push *p = s->push;

	(void)fm_stream_send(s->stream, FM_FRAME_PAGES_SECRET, p->o.look, 0, p->secret.bytes, sizeof(p->secret.bytes), FM_PUSH_SEND_MS,
	                     NULL);
}

static int send_chunk(struct fm_push_stream *s, size_t len, struct fm_error *err)
{
	const struct fm_push_opts *o = &s->push->o;
	uint64_t t = fm_now_us();

	if (len == 0)
		return 0;
	if (o->damage && o->damage(o->userdata))
		fm_stream_damage_next(s->stream);
	if (fm_stream_send(s->stream, FM_FRAME_PAGES_PUSH, (uint64_t)s->ns_pid, s->round | (s->push->frozen ? FM_PUSH_FROZEN : 0), s->chunk,
	                   len, FM_PUSH_SEND_MS, err) < 0)
		return fm_stream_explain(s->stream, err);
	fm_page_encoder_link(s->encoder, len, fm_now_us() - t);
	s->result.payload_bytes += len;
	return fm_push_pace(s->push, len, err);
}

/* How many of the batch's pages from `first` on could be read. */
static size_t read_pages(struct fm_push_stream *s, size_t first)
{
	struct iovec remote[FM_CHUNK_PAGES_MAX],
	        local = { .iov_base = s->pages + first * FM_PAGE_BYTES, .iov_len = (s->n - first) * FM_PAGE_BYTES };
	size_t k = 0;

	for (size_t i = first; i < s->n; i++) {
		void *at = (void *)(uintptr_t)s->addresses[i];
		if (k && (char *)remote[k - 1].iov_base + remote[k - 1].iov_len == (char *)at)
			remote[k - 1].iov_len += FM_PAGE_BYTES;
		else
			remote[k++] = (struct iovec){ .iov_base = at, .iov_len = FM_PAGE_BYTES };
	}
	ssize_t r = process_vm_readv(s->host_pid, &local, 1, remote, k, 0);
	return r > 0 ? (size_t)r / FM_PAGE_BYTES : 0;
}

/* The pages of the batch that are gone (or may not be read this way: PROT_NONE) are left to be asked for. */
static int flush(struct fm_push_stream *s, struct fm_error *err)
{
	size_t first = 0, len = 0;

	while (first < s->n) {
		size_t got = read_pages(s, first);
		if (got > 0) {
			fm_push_note_read(s->push, s->task, s->addresses + first, s->pages + first * FM_PAGE_BYTES, got);
			if (fm_page_encoder_pages(s->encoder, s->ns_pid, s->addresses + first, s->pages + first * FM_PAGE_BYTES, got,
			                          s->chunk, &len, err) < 0 ||
			    send_chunk(s, len, err) < 0)
				return -1;
			first += got;
			continue;
		}
		if (fm_page_encoder_drop(s->encoder, s->ns_pid, s->addresses[first], 1, s->chunk, &len, err) < 0 ||
		    send_chunk(s, len, err) < 0)
			return -1;
		first++;
	}
	s->n = 0;
	return fm_wait_fd(s->push->cancel_fd, POLLIN, 0, NULL) > 0 ? fm_error_set(err, FM_E_CANCELLED, "cancelled while sending pages") : 0;
}

static int add_page(struct fm_push_stream *s, uint32_t task, uint64_t address, struct fm_error *err)
{
	const struct fm_page_source_task *t = &s->push->tasks[task];

	if (s->n > 0 && (s->ns_pid != t->ns_pid || s->n == FM_CHUNK_PAGES_MAX) && flush(s, err) < 0)
		return -1;
	s->task = task;
	s->ns_pid = t->ns_pid;
	s->host_pid = t->host_pid;
	s->addresses[s->n++] = address;
	return 0;
}

static int drop_run(struct fm_push_stream *s, const struct fm_page_source_task *t, uint64_t address, uint64_t n_pages, struct fm_error *err)
{
	s->ns_pid = t->ns_pid;
	while (n_pages > 0) {
		size_t len = 0, k = n_pages < FM_CHUNK_PAGES_MAX ? n_pages : FM_CHUNK_PAGES_MAX;
		if (fm_page_encoder_drop(s->encoder, t->ns_pid, address, k, s->chunk, &len, err) < 0 || send_chunk(s, len, err) < 0)
			return -1;
		address += k * FM_PAGE_BYTES;
		n_pages -= k;
	}
	return 0;
}

static int end_round(struct fm_push_stream *s, struct fm_error *err)
{
	struct fm_frame_header h;
	uint8_t none[8];

	if (fm_stream_send(s->stream, FM_FRAME_ROUND_END, s->round, s->push->frozen, NULL, 0, FM_PUSH_SEND_MS, err) < 0 ||
	    fm_stream_expect(s->stream, FM_FRAME_ROUND_OK, &h, none, sizeof(none), ROUND_OK_MS, s->push->cancel_fd, err) < 0)
		return fm_stream_explain(s->stream, err);
	if (h.a != s->round)
		return fm_error_set(err, FM_E_DATA_LOSS, "the destination answered for round %llu, not %llu", (unsigned long long)h.a,
		                    (unsigned long long)s->round);
	s->round++;
	return 0;
}

/* As many of `wanted` pages as may still be sent in this round, by whichever stream. */
static uint64_t take(struct fm_push_stream *s, uint64_t wanted)
{
	uint64_t left = atomic_load(&s->push->left), k;

	do
		k = wanted < left ? wanted : left;
	while (!atomic_compare_exchange_weak(&s->push->left, &left, left - k));
	s->taken += k;
	return k;
}

static int send_part(struct fm_push_stream *s, uint32_t task, uint64_t vaddr, uint64_t n_pages, struct fm_error *err)
{
	uint64_t k = take(s, n_pages);

	for (uint64_t i = 0; i < k; i++)
		if (add_page(s, task, vaddr + i * FM_PAGE_BYTES, err) < 0)
			return -1;
	s->result.pages_changed += n_pages;
	s->result.pages_left += n_pages - k;
	if (k == n_pages)
		return 0;
	return flush(s, err) < 0 ? -1 : drop_run(s, &s->push->tasks[task], vaddr + k * FM_PAGE_BYTES, n_pages - k, err);
}

/* All streams look at all runs: that is little, next to reading a page. */
static int send_runs(struct fm_push_stream *s, struct fm_error *err)
{
	const struct fm_push *p = s->push;

	for (size_t i = 0; i < p->dirty->n; i++) {
		const struct fm_page_run *run = &p->dirty->v[i];
		pid_t ns_pid = p->tasks[run->task].ns_pid;
		for (uint64_t done = 0, k; done < run->n_pages; done += k) {
			uint64_t at = run->vaddr + done * FM_PAGE_BYTES;
			k = fm_push_stream_run(at, run->n_pages - done, p->n);
			if (fm_push_stream_of(ns_pid, at, p->n) == s->index && send_part(s, run->task, at, k, err) < 0)
				return -1;
		}
	}
	return flush(s, err);
}

static bool may_have_been_the_stream(const struct fm_error *e)
{
	return e->code == FM_E_UNAVAILABLE || e->code == FM_E_DATA_LOSS || e->code == FM_E_DEADLINE_EXCEEDED;
}

/* 0: there is a new stream. */
static int start_again(struct fm_push_stream *s, const struct fm_error *why, struct fm_error *err)
{
	if (fm_push_replace(s, why, err) < 0)
		return -1;
	fm_push_stream_open(s);
	s->n = 0;
	s->knows = false;
	s->result.pages_changed = s->result.pages_left = 0;
	atomic_fetch_add(&s->push->left, s->taken);
	s->taken = 0;
	return 0;
}

static int take_have(struct fm_push_stream *s, const struct fm_frame_header *h, const uint8_t *payload, struct fm_error *err)
{
	struct fm_page_hash hashes[FM_CHUNK_PAGES_MAX];
	size_t n = h->length / 16;

	if (h->a == 0 || h->a > INT32_MAX || h->length % 16 || n == 0 || n > FM_CHUNK_PAGES_MAX || h->b % FM_PAGE_BYTES ||
	    h->b > FM_PAGE_ADDRESS_END - n * FM_PAGE_BYTES)
		return fm_error_set(err, FM_E_DATA_LOSS, "the destination says in a malformed way which pages it has");
	for (size_t i = 0; i < n; i++)
		hashes[i] = (struct fm_page_hash){ .lo = fm_get_le64(payload + i * 16), .hi = fm_get_le64(payload + i * 16 + 8) };
	s->result.pages_known += n;
	s->result.pages_of_files += h->a == FM_FILE_PAGES_PID ? n : 0;
	return fm_page_encoder_preload(s->encoder, (pid_t)h->a, h->b, hashes, n, err);
}

/* A stream begins with what the destination has: from an earlier visit of the container, or from before the last stream broke. */
static int learn(struct fm_push_stream *s, struct fm_error *err)
{
	struct fm_frame_header h;

	if (s->knows)
		return 0;
	fm_page_encoder_restart(s->encoder);
	s->result.pages_known = s->result.pages_of_files = 0;
	for (;;) {
		if (fm_stream_recv(s->stream, &h, s->chunk, FM_CHUNK_BYTES_MAX, HAVE_MS, s->push->cancel_fd, err) < 0)
			return -1;
		if (h.type == FM_FRAME_PAGES_HAVE_END)
			break;
		if (h.type != FM_FRAME_PAGES_HAVE)
			return fm_stream_unexpected(s->stream, &h, "hearing which pages the destination has", err);
		if (take_have(s, &h, s->chunk, err) < 0)
			return -1;
	}
	if (h.a != s->result.pages_known)
		return fm_error_set(err, FM_E_DATA_LOSS, "the destination has %llu pages, but told of %llu", (unsigned long long)h.a,
		                    (unsigned long long)s->result.pages_known);
	s->knows = true;
	return 0;
}

static int send_round(struct fm_push_stream *s, struct fm_error *err)
{
	for (unsigned breaks = 0;; breaks++) {
		struct fm_error e = FM_ERROR_INIT;
		if (learn(s, &e) == 0 && send_runs(s, &e) == 0 && end_round(s, &e) == 0)
			return 0;
		if (!s->push->o.reconnect || breaks == BREAKS_MAX || !may_have_been_the_stream(&e)) {
			*err = e;
			return -1;
		}
		if (start_again(s, &e, err) < 0)
			return -1;
	}
}

int fm_push_stream_round(struct fm_push_stream *s, struct fm_error *err)
{
	struct fm_page_encoder_stats before, after;

	s->result = (struct fm_push_result){ 0 };
	s->taken = 0;
	if (!s->push->frozen)
		fm_giveway_init(&s->giveway);
	fm_page_encoder_give_way(s->encoder, s->push->frozen ? NULL : &s->giveway);
	fm_page_encoder_stats(s->encoder, &before);
	if (send_round(s, err) < 0)
		return -1;
	fm_page_encoder_stats(s->encoder, &after);
	s->result.pages_sent =
	        after.full + after.delta + after.known + after.zero - before.full - before.delta - before.known - before.zero;
	return 0;
}
