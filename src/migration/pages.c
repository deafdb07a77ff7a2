/* SPDX-License-Identifier: MIT */
/*
 * pages.c - the destination's pages of a post-copy migration: connects the pager (sync/) with the images and the nest (container/), and follows it to its end.
 * A broken stream only pauses: the accept thread brings the next one.
 */
#include <poll.h>
#include <string.h>

#include "basic/cleanup.h"
#include "migration/mover-internal.h"

#define PROGRESS_MS 100
#define CALM_MS     20 /* without a new fault */
#define CALM_MAX_US 500000

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
	return fm_incoming_get_run(userdata, ns_pid, vaddr, max, ret_have, ret_page);
}

static void local_taken(void *userdata, pid_t ns_pid, uint64_t vaddr, uint64_t n_pages)
{
	fm_incoming_taken(userdata, ns_pid, vaddr, n_pages);
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
			fm_incoming_forget_files(m);
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
	fm_incoming_end(m);
}
