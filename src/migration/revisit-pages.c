/* SPDX-License-Identifier: MIT */
/* revisit-pages.c - see revisit-pages.h. */
#include "migration/revisit-pages.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "monitor/host-facts.h"
#include "sync/tracker.h"

#define VISITS_MAX 64u
#define KEEP_MS    3600000u
#define STORE_MAX_BYTES                                                                                                                    \
	(64ull << 30) /* address space of a store: it goes on as that of a destination, and that has no other limit than memory */
#define BATCH_PAGES 128u

struct visit {
	char container[FM_MAX_NAME + 1];
	struct fm_page_store *store;
	uint64_t bytes, since_ms;
};

struct fm_revisit_pages {
	pthread_mutex_t lock; /* guards all of it */
	uint64_t max_bytes;
	struct visit v[VISITS_MAX]; /* oldest first */
	size_t n;
};

FM_DEFINE_CLEANUP(struct fm_page_store *, fm_page_store_free);
FM_DEFINE_CLEANUP(struct fm_tracker *, fm_tracker_free);

int fm_revisit_pages_new(uint64_t max_bytes, struct fm_revisit_pages **ret, struct fm_error *err)
{
	struct fm_host_facts facts;

	if (max_bytes == UINT64_MAX) {
		if (fm_host_facts_read("/", &facts, err) < 0)
			return -1;
		max_bytes = facts.memory_total_bytes / 8;
	}
	struct fm_revisit_pages *v = calloc(1, sizeof(*v));
	if (!v)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	v->max_bytes = max_bytes;
	(void)pthread_mutex_init(&v->lock, NULL);
	*ret = v;
	return 0;
}

/* Under the lock; the store is the caller's. */
static struct fm_page_store *remove_at(struct fm_revisit_pages *v, size_t i)
{
	struct fm_page_store *store = v->v[i].store;

	v->n--;
	memmove(&v->v[i], &v->v[i + 1], (v->n - i) * sizeof(v->v[0]));
	return store;
}

static uint64_t sum(const struct fm_revisit_pages *v)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < v->n; i++)
		bytes += v->v[i].bytes;
	return bytes;
}

void fm_revisit_pages_free(struct fm_revisit_pages *v)
{
	if (!v)
		return;
	while (v->n > 0)
		fm_page_store_free(remove_at(v, 0));
	(void)pthread_mutex_destroy(&v->lock);
	free(v);
}

struct fm_page_store *fm_revisit_pages_take(struct fm_revisit_pages *v, const char *container)
{
	struct fm_page_store *found = NULL;

	if (!v)
		return NULL;
	(void)pthread_mutex_lock(&v->lock);
	for (size_t i = 0; i < v->n && !found; i++)
		if (fm_streq(v->v[i].container, container))
			found = remove_at(v, i);
	(void)pthread_mutex_unlock(&v->lock);
	return found;
}

/* What may be taken without making the host short of memory. */
static uint64_t room(const struct fm_revisit_pages *v)
{
	struct fm_host_facts facts;

	if (v->max_bytes == 0 || fm_host_facts_read("/", &facts, NULL) < 0 || facts.memory_available_bytes <= facts.memory_total_bytes / 4)
		return 0;
	uint64_t spare = facts.memory_available_bytes - facts.memory_total_bytes / 4;
	return spare < v->max_bytes ? spare : v->max_bytes;
}

uint64_t fm_revisit_pages_spare(struct fm_revisit_pages *v)
{
	uint64_t spare = v ? room(v) : 0, used;

	if (!spare)
		return 0;
	(void)pthread_mutex_lock(&v->lock);
	used = sum(v);
	(void)pthread_mutex_unlock(&v->lock);
	/* What is kept is not available memory any more, but counts in the budget. */
	uint64_t left = used < v->max_bytes ? v->max_bytes - used : 0;
	return spare < left ? spare : left;
}

/* Takes the store. */
static void keep(struct fm_revisit_pages *v, const char *container, struct fm_page_store *store)
{
	struct fm_page_store_stats st;

	fm_page_store_stats(store, &st);
	fm_page_store_free(fm_revisit_pages_take(v, container));
	(void)pthread_mutex_lock(&v->lock);
	while (v->n > 0 && (v->n == VISITS_MAX || sum(v) + st.bytes > v->max_bytes))
		fm_page_store_free(remove_at(v, 0));
	struct visit *one = &v->v[v->n++];
	*one = (struct visit){ .store = store, .bytes = st.bytes, .since_ms = fm_now_ms() };
	(void)snprintf(one->container, sizeof(one->container), "%s", container);
	(void)pthread_mutex_unlock(&v->lock);
}

/* ---------------------------------------------------------------- copying */

struct copy {
	struct fm_page_store *store;
	uint64_t max_bytes, deadline_ms;
	uint8_t *buf; /* BATCH_PAGES */
};

/* 1: enough */
static int copy_run(struct copy *c, const struct fm_page_source_task *t, const struct fm_page_run *r, struct fm_error *err)
{
	struct fm_page_store_stats st;

	for (uint32_t done = 0, k; done < r->n_pages; done += k) {
		k = r->n_pages - done < BATCH_PAGES ? r->n_pages - done : BATCH_PAGES;
		uint64_t at = r->vaddr + (uint64_t)done * FM_PAGE_BYTES;
		struct iovec local = { .iov_base = c->buf, .iov_len = k * FM_PAGE_BYTES };
		struct iovec remote = { .iov_base = (void *)(uintptr_t)at, .iov_len = k * FM_PAGE_BYTES };
		ssize_t got = process_vm_readv(t->host_pid, &local, 1, &remote, 1, 0);
		for (ssize_t i = 0; i < got / (ssize_t)FM_PAGE_BYTES; i++)
			if (fm_page_store_put(c->store, t->ns_pid, at + (uint64_t)i * FM_PAGE_BYTES, c->buf + i * FM_PAGE_BYTES, err) < 0)
				return -1;
		fm_page_store_stats(c->store, &st);
		if (st.bytes + (uint64_t)BATCH_PAGES * FM_PAGE_BYTES > c->max_bytes || fm_deadline_left_ms(c->deadline_ms) == 0)
			return 1;
	}
	return 0;
}

static int copy_tree(struct copy *c, const struct fm_page_source_task *tasks, size_t n, struct fm_error *err)
{
	_fm_cleanup_(fm_page_runs_done) struct fm_page_runs all = { 0 };
	_fm_cleanup_(fm_tracker_freep) struct fm_tracker *tracker = NULL;
	struct fm_tracker_opts o = { .backend = FM_TRACKER_AUTO, .kinds = FM_TRACK_ANONYMOUS };
	int rc = 0;

	/* A tracker that has never looked before reports all there is. */
	if (fm_tracker_new(&o, &tracker, err) < 0 || fm_tracker_set_tasks(tracker, tasks, n, err) < 0 ||
	    fm_tracker_scan_frozen(tracker, &all, NULL, err) < 0)
		return -1;
	for (size_t i = 0; i < all.n && rc == 0; i++)
		rc = copy_run(c, &tasks[all.v[i].task], &all.v[i], err);
	return rc < 0 ? -1 : 0;
}

int fm_revisit_pages_copy(struct fm_revisit_pages *v, const char *container, const struct fm_page_source_task *tasks, size_t n,
                          unsigned timeout_ms, uint64_t *ret_pages, struct fm_error *err)
{
	_fm_cleanup_(fm_page_store_freep) struct fm_page_store *store = NULL;
	_fm_free_ uint8_t *buf = malloc(BATCH_PAGES * FM_PAGE_BYTES);
	struct copy c = { .buf = buf, .max_bytes = v ? room(v) : 0, .deadline_ms = fm_now_ms() + timeout_ms };
	struct fm_page_store_stats st;

	*ret_pages = 0;
	if (c.max_bytes < (uint64_t)BATCH_PAGES * FM_PAGE_BYTES)
		return 0;
	if (!buf)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for a copy of pages");
	if (fm_page_store_new(STORE_MAX_BYTES, &store, err) < 0)
		return -1;
	c.store = store;
	if (copy_tree(&c, tasks, n, err) < 0)
		return -1;
	fm_page_store_stats(store, &st);
	if (st.pages > 0)
		keep(v, container, FM_TAKE_PTR(store));
	*ret_pages = st.pages;
	return 0;
}

void fm_revisit_pages_expire(struct fm_revisit_pages *v)
{
	struct fm_host_facts facts;

	if (!v)
		return;
	bool known = fm_host_facts_read("/", &facts, NULL) == 0;
	uint64_t missing = known && facts.memory_available_bytes < facts.memory_total_bytes / 8
	                           ? facts.memory_total_bytes / 8 - facts.memory_available_bytes
	                           : 0;
	(void)pthread_mutex_lock(&v->lock);
	while (v->n > 0 && (missing > 0 || fm_now_ms() - v->v[0].since_ms > KEEP_MS)) {
		missing -= missing < v->v[0].bytes ? missing : v->v[0].bytes;
		fm_page_store_free(remove_at(v, 0));
	}
	(void)pthread_mutex_unlock(&v->lock);
}

void fm_revisit_pages_stats(struct fm_revisit_pages *v, struct fm_revisit_pages_stats *ret)
{
	(void)pthread_mutex_lock(&v->lock);
	*ret = (struct fm_revisit_pages_stats){ .n = v->n, .bytes = sum(v), .max_bytes = v->max_bytes };
	(void)pthread_mutex_unlock(&v->lock);
}
