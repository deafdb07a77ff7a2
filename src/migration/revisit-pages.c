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
#include "sync/push.h"
#include "sync/tracker.h"

#define VISITS_MAX 64u
#define KEEP_MS    3600000u
#define STORE_MAX_BYTES                                                                                                                    \
	(64ull << 30) /* address space of a store: it goes on as that of a destination, and that has no other limit than memory */
#define BATCH_PAGES 128u
#define DIVIDE_MS   2000u /* the source waits for it, and has the pages */

/* A copy, divided as the push streams of the next migration are expected to be. */
struct parts {
	struct fm_page_store *v[FM_MAX_PUSH_STREAMS];
	unsigned n; /* 0: there is none */
};

struct visit {
	char container[FM_MAX_NAME + 1];
	struct parts parts;
	uint64_t bytes, since_ms;
};

struct fm_revisit_pages {
	pthread_mutex_t lock; /* guards all of it */
	uint64_t max_bytes;
	struct visit v[VISITS_MAX]; /* oldest first */
	size_t n;
};

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

static void free_parts(struct parts *p)
{
	for (unsigned i = 0; i < p->n; i++)
		fm_page_store_free(p->v[i]);
	p->n = 0;
}

static int make_parts(struct parts *p, unsigned n, struct fm_error *err)
{
	*p = (struct parts){ .n = n };
	for (unsigned i = 0; i < n; i++)
		if (fm_page_store_new(STORE_MAX_BYTES / n, &p->v[i], err) < 0)
			return -1;
	return 0;
}

static int put(const struct parts *p, pid_t ns_pid, uint64_t vaddr, const void *page, struct fm_error *err)
{
	return fm_page_store_put(p->v[fm_push_stream_of(ns_pid, vaddr, p->n)], ns_pid, vaddr, page, err);
}

static struct fm_page_store_stats stats_of(const struct parts *p)
{
	struct fm_page_store_stats st = { 0 }, one;

	for (unsigned i = 0; i < p->n; i++) {
		fm_page_store_stats(p->v[i], &one);
		st.pages += one.pages;
		st.bytes += one.bytes;
	}
	return st;
}

/* Under the lock; the copy is the caller's. */
static struct parts remove_at(struct fm_revisit_pages *v, size_t i)
{
	struct parts parts = v->v[i].parts;

	v->n--;
	memmove(&v->v[i], &v->v[i + 1], (v->n - i) * sizeof(v->v[0]));
	return parts;
}

static void give_up_at(struct fm_revisit_pages *v, size_t i)
{
	struct parts parts = remove_at(v, i);

	free_parts(&parts);
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
		give_up_at(v, 0);
	(void)pthread_mutex_destroy(&v->lock);
	free(v);
}

static struct parts find(struct fm_revisit_pages *v, const char *container)
{
	struct parts found = { 0 };

	if (!v)
		return found;
	(void)pthread_mutex_lock(&v->lock);
	for (size_t i = 0; i < v->n && !found.n; i++)
		if (fm_streq(v->v[i].container, container))
			found = remove_at(v, i);
	(void)pthread_mutex_unlock(&v->lock);
	return found;
}

void fm_revisit_pages_forget(struct fm_revisit_pages *v, const char *container)
{
	struct parts found = find(v, container);

	free_parts(&found);
}

/* ---------------------------------------------------------------- another number of streams */

struct division {
	struct fm_page_store *from;
	const struct parts *to;
	uint64_t deadline_ms;
};

static int divide_run(void *userdata, pid_t ns_pid, uint64_t vaddr, const struct fm_page_hash *hashes, size_t n, struct fm_error *err)
{
	const struct division *d = userdata;

	for (size_t i = 0; i < n; i++) {
		uint64_t at = vaddr + i * FM_PAGE_BYTES;
		const void *page = fm_page_store_peek(d->from, ns_pid, at);
		if (page && put(d->to, ns_pid, at, page, err) < 0)
			return -1;
	}
	fm_page_store_taken(d->from, ns_pid, vaddr, n); /* both at once might be more memory than there is */
	if (fm_deadline_left_ms(d->deadline_ms) == 0)
		return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "out of time");
	return 0;
}

/* What cannot be had in time, or in memory, is sent again. */
static void divide(struct parts *from, const struct parts *to)
{
	struct division d = { .to = to, .deadline_ms = fm_now_ms() + DIVIDE_MS };
	int rc = 0;

	for (unsigned i = 0; i < from->n && rc == 0; i++) {
		d.from = from->v[i];
		rc = fm_page_store_seal(d.from, NULL) < 0 ? -1 : fm_page_store_each(d.from, divide_run, &d, NULL);
	}
	free_parts(from);
}

bool fm_revisit_pages_take(struct fm_revisit_pages *v, const char *container, unsigned n_streams, struct fm_page_store **ret)
{
	struct parts found = find(v, container), parts;

	if (found.n == 0)
		return false;
	if (found.n == n_streams) {
		parts = found;
	} else if (make_parts(&parts, n_streams, NULL) == 0) {
		divide(&found, &parts);
	} else {
		free_parts(&parts);
		free_parts(&found);
		return false;
	}
	memcpy(ret, parts.v, n_streams * sizeof(*ret));
	return true;
}

/* ---------------------------------------------------------------- keeping */

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

/* Takes the parts. */
static void keep(struct fm_revisit_pages *v, const char *container, const struct parts *parts)
{
	struct fm_page_store_stats st = stats_of(parts);

	fm_revisit_pages_forget(v, container);
	(void)pthread_mutex_lock(&v->lock);
	while (v->n > 0 && (v->n == VISITS_MAX || sum(v) + st.bytes > v->max_bytes))
		give_up_at(v, 0);
	struct visit *one = &v->v[v->n++];
	*one = (struct visit){ .parts = *parts, .bytes = st.bytes, .since_ms = fm_now_ms() };
	(void)snprintf(one->container, sizeof(one->container), "%s", container);
	(void)pthread_mutex_unlock(&v->lock);
}

/* ---------------------------------------------------------------- copying */

struct copy {
	struct parts parts;
	uint64_t max_bytes, deadline_ms;
	uint8_t *buf; /* BATCH_PAGES */
};

/* 1: enough */
static int copy_run(struct copy *c, const struct fm_page_source_task *t, const struct fm_page_run *r, struct fm_error *err)
{
	for (uint32_t done = 0, k; done < r->n_pages; done += k) {
		k = r->n_pages - done < BATCH_PAGES ? r->n_pages - done : BATCH_PAGES;
		uint64_t at = r->vaddr + (uint64_t)done * FM_PAGE_BYTES;
		struct iovec local = { .iov_base = c->buf, .iov_len = k * FM_PAGE_BYTES };
		struct iovec remote = { .iov_base = (void *)(uintptr_t)at, .iov_len = k * FM_PAGE_BYTES };
		ssize_t got = process_vm_readv(t->host_pid, &local, 1, &remote, 1, 0);
		for (ssize_t i = 0; i < got / (ssize_t)FM_PAGE_BYTES; i++)
			if (put(&c->parts, t->ns_pid, at + (uint64_t)i * FM_PAGE_BYTES, c->buf + i * FM_PAGE_BYTES, err) < 0)
				return -1;
		if (stats_of(&c->parts).bytes + (uint64_t)BATCH_PAGES * FM_PAGE_BYTES > c->max_bytes ||
		    fm_deadline_left_ms(c->deadline_ms) == 0)
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
                          unsigned n_streams, unsigned timeout_ms, uint64_t *ret_pages, struct fm_error *err)
{
	_fm_free_ uint8_t *buf = malloc(BATCH_PAGES * FM_PAGE_BYTES);
	struct copy c = { .buf = buf, .max_bytes = v ? room(v) : 0, .deadline_ms = fm_now_ms() + timeout_ms };
	*ret_pages = 0;
	if (c.max_bytes < (uint64_t)BATCH_PAGES * FM_PAGE_BYTES)
		return 0;
	if (!buf)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for a copy of pages");
	int rc = make_parts(&c.parts, n_streams, err) < 0 || copy_tree(&c, tasks, n, err) < 0 ? -1 : 0;
	*ret_pages = rc == 0 ? stats_of(&c.parts).pages : 0;
	if (*ret_pages > 0)
		keep(v, container, &c.parts);
	else
		free_parts(&c.parts);
	return rc;
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
		give_up_at(v, 0);
	}
	(void)pthread_mutex_unlock(&v->lock);
}

void fm_revisit_pages_stats(struct fm_revisit_pages *v, struct fm_revisit_pages_stats *ret)
{
	(void)pthread_mutex_lock(&v->lock);
	*ret = (struct fm_revisit_pages_stats){ .n = v->n, .bytes = sum(v), .max_bytes = v->max_bytes };
	(void)pthread_mutex_unlock(&v->lock);
}
