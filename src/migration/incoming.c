/* SPDX-License-Identifier: MIT */
/*
 * incoming.c - the destination's side of the push streams (sync/push.h): for each a thread that fills a store of its own. A stream that breaks is replaced by the source's next one with the
 * same number, and goes on with its store. Sealed, all stores together say what the frozen tree had.
 */
#include <poll.h>
#include <string.h>

#include "basic/cleanup.h"
#include "migration/mover-internal.h"
#include "migration/revisit-pages.h"
#include "sync/file-pages.h"

#define FILE_PAGES_MS 200
#define FILES_HERE_MS 1000

struct incoming_stream {
	struct fm_mover *m;
	struct fm_page_store *store;
	struct fm_stream *stream; /* the last one; NULL: none yet */
	uint32_t redials;         /* of it */
	pthread_t thread;
	bool started;
	bool sealed;          /* its thread's */
	bool files_looked_at; /* for their pages; its threads' */
};

struct fm_incoming {
	atomic_uint unsealed;
	unsigned n;
	struct incoming_stream v[FM_MAX_PUSH_STREAMS];
};

static bool files_are_here(struct fm_mover *m)
{
	struct pollfd fds[] = { { .fd = m->files_here_fd, .events = POLLIN }, { .fd = m->stop.fd, .events = POLLIN } };
	return poll(fds, 2, FILES_HERE_MS) > 0 && (fds[0].revents & POLLIN) && !fm_stop_requested(&m->stop);
}

/*
 * What the application has read from its files need not come twice. The source waits for this (fm_push_receive), so it is short; it waits once, before the first round. It comes when it has sent
 * the files, while they are put in their places here; one that comes before that is told nothing after a while: at a volume's place something else may be still. A content may be of any stream, so each store has all of them, and room for its share.
 */
static void look_at_files(void *userdata)
{
	struct incoming_stream *in = userdata;
	struct fm_mover *m = in->m;
	struct fm_file_pages_opts o = { .max_bytes = fm_revisit_pages_spare(m->h->revisit_pages),
		                        .max_ms = FILE_PAGES_MS,
		                        .cancel_fd = m->stop.fd };
	struct fm_file_pages_result got = { 0 };
	const char *roots[FM_MAX_VOLUMES + 1];
	uint64_t t = fm_now_us();
	size_t n = 0;

	if (o.max_bytes > FM_FILE_PAGES_BYTES_MAX)
		o.max_bytes = FM_FILE_PAGES_BYTES_MAX;
	o.max_bytes /= m->incoming->n;
	if (in->files_looked_at || o.max_bytes == 0 || !files_are_here(m))
		return;
	in->files_looked_at = true;
	for (size_t i = 0; i < m->volumes.n && n < FM_MAX_VOLUMES; i++)
		roots[n++] = m->volumes.v[i].where;
	roots[n++] = m->rootfs;
	/* What has gone wrong, if anything, is that there is no more memory for it. */
	fm_thread_haste(FM_HASTE_USUAL);
	(void)fm_file_pages_put(in->store, roots, n, &o, &got, NULL);
	fm_thread_haste(FM_HASTE_PATIENT);
	if (in == &m->incoming->v[0])
		fm_mover_phase(m, "file-pages", fm_now_us() - t);
}

static void *receive(void *arg)
{
	struct incoming_stream *in = arg;
	struct fm_error e = FM_ERROR_INIT;
	fm_thread_haste(FM_HASTE_PATIENT);
	if (fm_push_receive(in->stream, in->store, look_at_files, in, in->m->stop.fd, &e) == 0) {
		/* Once more, when only our last answer was lost. */
		if (!in->sealed && atomic_fetch_sub(&in->m->incoming->unsealed, 1) == 1)
			atomic_store(&in->m->store_ready, true);
		in->sealed = true;
	} else if (e.code != FM_E_CANCELLED) {
		/* The source starts again, or does without; it may be busy sending, so it is not to wait for us to read. */
		fm_stream_shutdown(in->stream);
		fm_mover_note(in->m, "a stream of pages before the freeze has ended: %s", e.message);
	}
	return NULL;
}

/* The thread ends when its stream does. */
static void end_stream(struct incoming_stream *in)
{
	if (in->stream)
		fm_stream_shutdown(in->stream);
	if (in->started)
		pthread_join(in->thread, NULL);
	in->started = false;
	if (in->stream) {
		pthread_mutex_lock(&in->m->lock);
		in->m->wire_bytes += fm_stream_bytes(in->stream);
		pthread_mutex_unlock(&in->m->lock);
		fm_stream_free(in->stream);
	}
	in->stream = NULL;
}

static void free_stores(struct fm_incoming *in)
{
	for (unsigned i = 0; i < in->n; i++)
		fm_page_store_free(in->v[i].store);
}

/* All stores together hold as much as one would. */
static int make_stores(struct fm_mover *m, struct fm_incoming *in, struct fm_error *err)
{
	struct fm_page_store *stores[FM_MAX_PUSH_STREAMS];
	bool known = fm_revisit_pages_take(m->h->revisit_pages, m->container, in->n, stores);
	for (unsigned i = 0; i < in->n; i++) {
		in->v[i].m = m;
		if (known)
			in->v[i].store = stores[i];
		else if (fm_page_store_new(FM_MOVER_IMAGES_MAX_BYTES / in->n, &in->v[i].store, err) < 0)
			return -1;
	}
	return 0;
}

static int begin(struct fm_mover *m, unsigned n, struct fm_error *err)
{
	struct fm_incoming *in = calloc(1, sizeof(*in));
	if (!in)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	in->n = n;
	atomic_init(&in->unsealed, n);
	if (make_stores(m, in, err) < 0) {
		free_stores(in);
		free(in);
		return -1;
	}
	m->incoming = in;
	return 0;
}

static int check(struct fm_mover *m, const struct fm_stream_hello *what, struct fm_error *err)
{
	if (m->strategy != FM_STRATEGY_LIVE && m->strategy != FM_STRATEGY_PRE_COPY)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "no push stream is expected");
	if (!m->incoming)
		return 0;
	const struct incoming_stream *in = &m->incoming->v[what->index];
	if (what->count != m->incoming->n)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a push stream of %u, where there are %u", what->count, m->incoming->n);
	if (in->stream && what->redials <= in->redials)
		return fm_error_set(err, FM_E_ALREADY_EXISTS, "push stream %u of %u is here already", what->index, what->count);
	return 0;
}

/* The source's first, or its next after a break: what has come so far is kept. */
int fm_incoming_take(struct fm_mover *m, struct fm_stream *s, const struct fm_stream_hello *what, struct fm_error *err)
{
	struct fm_error e = FM_ERROR_INIT;
	if (check(m, what, &e) < 0 || (!m->incoming && begin(m, what->count, &e) < 0)) {
		fm_stream_send_error(s, &e);
		fm_stream_free(s);
		if (err)
			*err = e;
		return -1;
	}
	struct incoming_stream *in = &m->incoming->v[what->index];
	end_stream(in);
	in->stream = s;
	in->redials = what->redials;
	int rc = pthread_create(&in->thread, NULL, receive, in);
	if (rc != 0)
		return fm_error_errno(err, rc, "cannot start the thread that receives pages");
	in->started = true;
	return 0;
}

size_t fm_incoming_get_run(struct fm_mover *m, pid_t ns_pid, uint64_t vaddr, size_t max, enum fm_page_have *ret_have, const void **ret_page)
{
	*ret_have = FM_PAGE_NOT_HERE;
	if (!atomic_load(&m->store_ready))
		return max;
	const struct fm_incoming *in = m->incoming;
	const struct fm_page_store *store = in->v[fm_push_stream_of(ns_pid, vaddr, in->n)].store;
	return fm_page_store_get_run(store, ns_pid, vaddr, fm_push_stream_run(vaddr, max, in->n), ret_have, ret_page);
}

void fm_incoming_taken(struct fm_mover *m, pid_t ns_pid, uint64_t vaddr, uint64_t n_pages)
{
	const struct fm_incoming *in = m->incoming;
	for (uint64_t k; in && n_pages > 0; vaddr += k * FM_PAGE_BYTES, n_pages -= k) {
		k = fm_push_stream_run(vaddr, n_pages, in->n);
		fm_page_store_taken(in->v[fm_push_stream_of(ns_pid, vaddr, in->n)].store, ns_pid, vaddr, k);
	}
}

void fm_incoming_forget_files(struct fm_mover *m)
{
	if (!atomic_load(&m->store_ready))
		return;
	for (unsigned i = 0; i < m->incoming->n; i++)
		fm_page_store_taken(m->incoming->v[i].store, FM_FILE_PAGES_PID, 0, UINT64_MAX);
}

void fm_incoming_end(struct fm_mover *m)
{
	struct fm_incoming *in = m->incoming;
	if (!in)
		return;
	for (unsigned i = 0; i < in->n; i++)
		end_stream(&in->v[i]);
	atomic_store(&m->store_ready, false);
	m->incoming = NULL;
	free_stores(in);
	free(in);
}
