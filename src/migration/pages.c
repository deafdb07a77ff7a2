/* SPDX-License-Identifier: MIT */
/*
 * pages.c - the destination's pages of a post-copy migration: connects the pager (sync/) with the images and the nest (container/), and follows it to its end.
 * A broken stream only pauses: the accept thread brings the next one.
 */
#include <poll.h>
#include <string.h>

#include "basic/cleanup.h"
#include "migration/mover-internal.h"
#include "sync/file-pages.h"

#define PROGRESS_MS   100
#define CALM_MS       20 /* without a new fault */
#define CALM_MAX_US   500000
#define FILE_PAGES_MS 200
#define FILES_HERE_MS 1000

static int load_ranges(void *userdata, struct fm_pager_range **ret, size_t *ret_n, struct fm_error *err)
{
	struct fm_mover *m = userdata;
	_fm_free_ struct fm_lazy_range *v = NULL;
	size_t n = 0;
	if (fm_images_lazy_ranges(m->images_fd, &v, &n, err) < 0)
		return -1;
	struct fm_pager_range *out = calloc(n ? n : 1, sizeof(*out));
	if (!out)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	for (size_t i = 0; i < n; i++)
		out[i] = (struct fm_pager_range){ .ns_pid = v[i].ns_pid, .vaddr = v[i].vaddr, .n_pages = v[i].n_pages };
	*ret = out;
	*ret_n = n;
	return 0;
}

static int keep(void *userdata, uint64_t key, int fd, struct fm_error *err)
{
	struct fm_mover *m = userdata;
	return fm_nest_keep(m->local.control_dir, key, fd, err);
}

static int drop(void *userdata, uint64_t key, struct fm_error *err)
{
	struct fm_mover *m = userdata;
	return fm_nest_drop(m->local.control_dir, key, err);
}

static size_t local(void *userdata, pid_t ns_pid, uint64_t vaddr, size_t max, enum fm_page_have *ret_have, const void **ret_page)
{
	struct fm_mover *m = userdata;
	*ret_have = FM_PAGE_NOT_HERE;
	return atomic_load(&m->store_ready) ? fm_page_store_get_run(m->store, ns_pid, vaddr, max, ret_have, ret_page) : max;
}

static void local_taken(void *userdata, pid_t ns_pid, uint64_t vaddr, uint64_t n_pages)
{
	struct fm_mover *m = userdata;
	fm_page_store_taken(m->store, ns_pid, vaddr, n_pages);
}

static struct fm_pager_opts pager_opts(struct fm_mover *m)
{
	return (struct fm_pager_opts){ .images_dirfd = m->images_fd,
		                       .load_ranges = load_ranges,
		                       .keep = keep,
		                       .drop = drop,
		                       .local = local,
		                       .local_taken = local_taken,
		                       .userdata = m };
}

/* ---------------------------------------------------------------- what comes before the freeze */

/*
 * What the application has read from its files need not come twice. The source waits for this (fm_push_receive_with), so it is short; it waits once, before the first round. It comes when it has
 * sent the files, while they are put in their places here; one that comes before that is told nothing after a while: at a volume's place something else may be still.
 */
static bool files_are_here(struct fm_mover *m)
{
	struct pollfd fds[] = { { .fd = m->files_here_fd, .events = POLLIN }, { .fd = m->stop.fd, .events = POLLIN } };
	return poll(fds, 2, FILES_HERE_MS) > 0 && (fds[0].revents & POLLIN) && !fm_stop_requested(&m->stop);
}

static void look_at_files(void *userdata)
{
	struct fm_mover *m = userdata;
	struct fm_file_pages_opts o = { .max_bytes = fm_revisit_pages_spare(m->h->revisit_pages),
		                        .max_ms = FILE_PAGES_MS,
		                        .cancel_fd = m->stop.fd };
	struct fm_file_pages_result got = { 0 };
	const char *roots[FM_MAX_VOLUMES + 1];
	uint64_t t = fm_now_us();
	size_t n = 0;

	if (m->files_looked_at || o.max_bytes == 0 || !files_are_here(m))
		return;
	m->files_looked_at = true;
	for (size_t i = 0; i < m->volumes.n && n < FM_MAX_VOLUMES; i++)
		roots[n++] = m->volumes.v[i].where;
	roots[n++] = m->rootfs;
	/* What has gone wrong, if anything, is that there is no more memory for it. */
	fm_thread_haste(FM_HASTE_USUAL);
	(void)fm_file_pages_put(m->store, roots, n, &o, &got, NULL);
	fm_thread_haste(FM_HASTE_PATIENT);
	fm_mover_phase(m, "file-pages", fm_now_us() - t);
}

static void *receive_push(void *arg)
{
	struct fm_mover *m = arg;
	struct fm_error e = FM_ERROR_INIT;
	fm_thread_haste(FM_HASTE_PATIENT);
	if (fm_push_receive_with(m->push, m->store, look_at_files, m, m->stop.fd, &e) == 0)
		atomic_store(&m->store_ready, true);
	else if (
	        e.code !=
	        FM_E_CANCELLED) { /* the source starts again, or does without; it may be busy sending, so it is not to wait for us to read */
		fm_stream_shutdown(m->push);
		fm_mover_note(m, "the stream of pages before the freeze has ended: %s", e.message);
	}
	return NULL;
}

/* The thread ends when its stream does. */
static void end_push_stream(struct fm_mover *m)
{
	if (m->push)
		fm_stream_shutdown(m->push);
	if (m->push_started)
		pthread_join(m->push_thread, NULL);
	m->push_started = false;
	if (m->push) {
		pthread_mutex_lock(&m->lock);
		m->wire_bytes += fm_stream_bytes(m->push);
		pthread_mutex_unlock(&m->lock);
		fm_stream_free(m->push);
	}
	m->push = NULL;
}

/* The source's first, or its next after a break: what has come so far is kept. */
int fm_pages_take_push(struct fm_mover *m, struct fm_stream *s, struct fm_error *err)
{
	int rc = 0;
	if (m->strategy != FM_STRATEGY_LIVE && m->strategy != FM_STRATEGY_PRE_COPY)
		rc = fm_error_set(err, FM_E_FAILED_PRECONDITION, "no push stream is expected");
	else if (!m->store && !(m->store = fm_revisit_pages_take(m->h->revisit_pages, m->container)))
		rc = fm_page_store_new(FM_MOVER_IMAGES_MAX_BYTES, &m->store, err);
	if (rc < 0) {
		fm_stream_free(s);
		return -1;
	}
	end_push_stream(m);
	m->push = s;
	rc = pthread_create(&m->push_thread, NULL, receive_push, m);
	if (rc != 0)
		return fm_error_errno(err, rc, "cannot start the thread that receives pages");
	m->push_started = true;
	return 0;
}

static void end_push(struct fm_mover *m)
{
	end_push_stream(m);
	atomic_store(&m->store_ready, false);
	fm_page_store_free(m->store);
	m->store = NULL;
}

/* With the lock. Before the commit a broken stream is the end of the migration, no pause. */
static void look_for_pause(struct fm_mover *m, const struct fm_pager_stats *st)
{
	if (!st->waits_for_source || !atomic_load(&m->resumed))
		m->pause.since_unix_ms = 0;
	else if (m->pause.since_unix_ms == 0)
		m->pause.since_unix_ms = fm_realtime_ms();
}

static void note_break(struct fm_mover *m, const struct fm_error *e)
{
	pthread_mutex_lock(&m->lock);
	(void)snprintf(m->pause.reason, sizeof(m->pause.reason), "the connection to '%s' is down: %.100s", m->peer, e->message);
	pthread_mutex_unlock(&m->lock);
}

void fm_pages_refresh(struct fm_mover *m)
{
	struct fm_pager_stats st;
	pthread_mutex_lock(&m->lock);
	if (m->pager) {
		fm_pager_stats(m->pager, &st);
		m->pages_total = st.pages_total;
		m->pages_done = st.pages_done;
		look_for_pause(m, &st);
		pthread_cond_broadcast(&m->changed);
	}
	pthread_mutex_unlock(&m->lock);
}

static void finished(struct fm_mover *m, uint64_t since_us)
{
	struct fm_pager_stats st;
	fm_pages_refresh(m);
	fm_pager_stats(m->pager, &st);
	fm_mover_phase(m, "pages", fm_now_us() - since_us);
	fm_mover_phase(m, "fault-p50", st.fault_latency_p50_us);
	fm_mover_phase(m, "fault-p99", st.fault_latency_p99_us);
	if (st.pages_local > 0)
		fm_mover_note(m, "%llu pages present, %llu of them since before the freeze, %llu faults served",
		              (unsigned long long)st.pages_total, (unsigned long long)st.pages_local, (unsigned long long)st.faults);
	else
		fm_mover_note(m, "%llu pages present, %llu faults served", (unsigned long long)st.pages_total,
		              (unsigned long long)st.faults);
	fm_mover_step(m, "pages complete");
}

/*
 * The first thing a restored application does is to touch its working set, page by page, and each of these faults is faster by ten times when no bulk transfer shares its way. So the background
 * waits until the faults have calmed down, or for CALM_MAX_US at most.
 */
struct calm {
	uint64_t resumed_us, faults;
};

static bool is_calm(struct fm_mover *m, struct calm *c)
{
	struct fm_pager_stats st;
	if (!atomic_load(&m->resumed))
		return false;
	/* What is here already comes without the link, faster than it would be asked for one by one. */
	if (atomic_load(&m->store_ready))
		return true;
	fm_pager_stats(m->pager, &st);
	bool first = c->resumed_us == 0, quiet = !first && st.faults == c->faults;
	if (first)
		c->resumed_us = fm_now_us();
	c->faults = st.faults;
	return quiet || fm_now_us() > c->resumed_us + CALM_MAX_US;
}

/* Everything that is a page of a process has its own name by now. */
static void forget_files(struct fm_mover *m)
{
	if (atomic_load(&m->store_ready))
		fm_page_store_taken(m->store, FM_FILE_PAGES_PID, 0, UINT64_MAX);
}

static void *follow_pager(void *arg)
{
	struct fm_mover *m = arg;
	uint64_t t = fm_now_us();
	struct calm calm = { 0 };
	bool background = false;
	while (!fm_stop_requested(&m->stop)) {
		struct fm_error err = FM_ERROR_INIT;
		if (fm_pager_wait(m->pager, background ? PROGRESS_MS : CALM_MS, m->stop.fd, &err) == 0) {
			finished(m, t);
			return NULL;
		}
		fm_pages_refresh(m);
		if (!background && is_calm(m, &calm)) {
			fm_pager_start_background(m->pager);
			forget_files(m);
			background = true;
		}
		if (fm_journal_decision(m->journal) == FM_DECISION_COMMITTED && fm_mover_fault(m, "destination-pages", &err) < 0) {
			(void)fm_mover_fail(m, &err);
			return NULL;
		}
		if (err.code == FM_E_UNAVAILABLE) {
			note_break(m, &err);
			(void)fm_wait_fd(m->stop.fd, POLLIN, 50, NULL); /* until the source is back */
		} else if (err.code != FM_E_DEADLINE_EXCEEDED && err.code != FM_E_CANCELLED) {
			(void)fm_mover_fail(m, &err);
			return NULL;
		}
	}
	return NULL;
}

static int attach(struct fm_mover *m, struct fm_error *err)
{
	pthread_mutex_lock(&m->lock);
	int rc = m->pages ? fm_pager_set_stream(m->pager, m->pages, err) : 0;
	pthread_mutex_unlock(&m->lock);
	if (rc < 0)
		return -1;
	rc = pthread_create(&m->follow_thread, NULL, follow_pager, m);
	if (rc != 0)
		return fm_error_errno(err, rc, "cannot start the thread that follows the pages");
	m->follow_started = true;
	return 0;
}

int fm_pages_start(struct fm_mover *m, struct fm_error *err)
{
	struct fm_pager_opts o = pager_opts(m);
	struct fm_pager *p = NULL;
	if (fm_pager_new(&o, &p, err) < 0)
		return -1;
	pthread_mutex_lock(&m->lock);
	m->pager = p;
	pthread_mutex_unlock(&m->lock);
	return attach(m, err);
}

int fm_pages_recover(struct fm_mover *m, struct fm_error *err)
{
	struct fm_pager_opts o = pager_opts(m);
	_fm_free_ int *fds = NULL;
	_fm_free_ uint64_t *keys = NULL;
	size_t n = 0;
	if (fm_nest_fetch(m->local.control_dir, &fds, &keys, &n, err) < 0)
		return -1;
	if (n == 0) { /* nothing is kept: every page is there */
		fm_mover_step(m, "pages complete");
		return 0;
	}
	if (fm_pager_recover(&o, fds, keys, n, &m->pager, err) < 0)
		return -1;
	(void)snprintf(m->pause.reason, sizeof(m->pause.reason), "'%s' has not connected yet since the agent of '%s' was restarted",
	               m->peer, m->h->name);
	atomic_store(&m->resumed, true);
	return attach(m, err);
}

void fm_pages_stop(struct fm_mover *m)
{
	if (m->follow_started)
		pthread_join(m->follow_thread, NULL);
	m->follow_started = false;
	fm_pages_refresh(m);
	pthread_mutex_lock(&m->lock);
	struct fm_pager *p = m->pager;
	m->pager = NULL;
	pthread_mutex_unlock(&m->lock);
	fm_pager_free(p);
	end_push(m);
}
