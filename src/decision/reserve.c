/* SPDX-License-Identifier: MIT */
/* reserve.c - see reserve.h. */
#include "decision/reserve.h"

#include <math.h>

#include "basic/cleanup.h"
#include "basic/str.h"
#include "decision/memory.h"
#include "decision/plan.h"

#define PERCENT 100.0

/* A step with its hosts found. */
struct found {
	const struct fm_reserved *r;
	size_t from, to, link; /* SIZE_MAX */
};

/* ---------------------------------------------------------------- hosts */

static double memory_of(const struct fm_snapshot *s, const struct fm_snap_container *c)
{
	const struct fm_snap_host *h = &s->hosts[c->host];
	uint64_t known = c->working_set_bytes != FM_UNKNOWN ? c->working_set_bytes : c->memory_bytes;
	if (known != FM_UNKNOWN)
		return (double)known;
	if (c->memory_limit_bytes != FM_UNKNOWN && c->memory_limit_bytes > 0)
		return (double)c->memory_limit_bytes;
	if (h->memory_total_bytes == FM_UNKNOWN || h->memory_available_bytes == FM_UNKNOWN)
		return 0; /* nothing is known that could be counted */
	return fmax((double)h->memory_total_bytes - (double)h->memory_available_bytes, 0);
}

static double cores_of(const struct fm_snapshot *s, const struct fm_snap_container *c)
{
	double cores = fmax(c->cpu_cores, c->cpu_predicted_cores), all = s->hosts[c->host].cpu_percent / PERCENT * s->hosts[c->host].cpus;
	return !isnan(cores) ? cores : isnan(all) ? 0 : all;
}

static void take(uint64_t *from, double bytes)
{
	if (*from != FM_UNKNOWN)
		*from = bytes < (double)*from ? *from - (uint64_t)bytes : 0;
}

/* Of NAN comes NAN: what is not known stays so. */
static void count_at(struct fm_snapshot *s, const struct fm_snap_container *c, size_t host)
{
	struct fm_snap_host *h = &s->hosts[host];
	double memory = memory_of(s, c), percent = cores_of(s, c) / h->cpus * PERCENT;
	h->cpu_percent += percent;
	h->cpu_predicted_percent += percent;
	if (h->memory_total_bytes != FM_UNKNOWN && h->memory_total_bytes > 0)
		h->memory_percent += memory / (double)h->memory_total_bytes * PERCENT;
	take(&h->memory_available_bytes, memory);
	if (c->files_bytes != FM_UNKNOWN)
		take(&h->disk_available_bytes, (double)c->files_bytes);
}

static void fix(struct fm_snap_container *c, const char *plan)
{
	c->fixed = true;
	free(c->blocker);
	c->blocker = fm_xasprintf("plan %s moves it", plan);
}

/* ---------------------------------------------------------------- links */

struct event {
	uint64_t at_ms;
	bool begins;
	size_t step;
};

/* What ends at a moment ends before what begins then. */
static int by_time(const void *a, const void *b)
{
	const struct event *x = a, *y = b;
	if (x->at_ms != y->at_ms)
		return x->at_ms < y->at_ms ? -1 : 1;
	return x->begins != y->begins ? x->begins - y->begins : (x->step > y->step) - (x->step < y->step);
}

/* Of one way: what steps take at a moment, and the most that was at any. */
struct carried {
	uint64_t now, most;
};

static void carry(struct carried *c, size_t way, uint64_t bytes_per_s, bool begins)
{
	if (way == SIZE_MAX)
		return;
	c[way].now = begins ? c[way].now + bytes_per_s : c[way].now - bytes_per_s;
	c[way].most = c[way].now > c[way].most ? c[way].now : c[way].most;
}

static void use(uint64_t *used, uint64_t more)
{
	*used = (*used == FM_UNKNOWN ? 0 : *used) + more;
}

/* SIZE_MAX: the ways in and out of the hosts have it */
static size_t link_of(const struct fm_snapshot *s, const struct found *f)
{
	const struct fm_snap_link *l = f->from != SIZE_MAX && f->to != SIZE_MAX ? fm_snapshot_link(s, f->from, f->to) : NULL;
	return l && l->bandwidth_bytes_per_s ? (size_t)(l - s->links) : SIZE_MAX;
}

static void use_link(struct fm_snap_link *l, uint64_t bytes_per_s)
{
	uint64_t bandwidth = l->bandwidth_bytes_per_s == FM_UNKNOWN ? FM_PLAN_LINK_BYTES_PER_S : l->bandwidth_bytes_per_s;
	double used = (isnan(l->utilisation_percent) ? 0 : l->utilisation_percent) + (double)bytes_per_s / (double)bandwidth * PERCENT;
	l->utilisation_percent = fmin(used, PERCENT);
}

static struct event *events_of(const struct found *v, size_t n)
{
	struct event *e = fm_alloc_array(2 * n, sizeof(*e));
	for (size_t i = 0; i < n; i++) {
		e[2 * i] = (struct event){ v[i].r->start_ms, true, i };
		e[2 * i + 1] = (struct event){ v[i].r->end_ms > v[i].r->start_ms ? v[i].r->end_ms : v[i].r->start_ms + 1, false, i };
	}
	if (n)
		qsort(e, 2 * n, sizeof(*e), by_time);
	return e;
}

/* In the order of time, so that a plan of thousands of steps takes milliseconds. */
static void use_links(struct fm_snapshot *s, const struct found *v, size_t n)
{
	_fm_free_ struct event *e = events_of(v, n);
	_fm_free_ struct carried *out = fm_alloc_array(s->n_hosts, sizeof(*out)), *in = fm_alloc_array(s->n_hosts, sizeof(*in));
	_fm_free_ struct carried *link = fm_alloc_array(s->n_links, sizeof(*link));
	for (size_t i = 0; i < 2 * n; i++) {
		const struct found *f = &v[e[i].step];
		carry(out, f->from, f->r->bandwidth_bytes_per_s, e[i].begins);
		carry(in, f->to, f->r->bandwidth_bytes_per_s, e[i].begins);
		carry(link, f->link, f->r->bandwidth_bytes_per_s, e[i].begins);
	}
	for (size_t i = 0; i < s->n_hosts; i++) {
		if (out[i].most)
			use(&s->hosts[i].network_out_bytes_per_s, out[i].most);
		if (in[i].most)
			use(&s->hosts[i].network_in_bytes_per_s, in[i].most);
	}
	for (size_t i = 0; i < s->n_links; i++)
		if (link[i].most)
			use_link(&s->links[i], link[i].most);
}

void fm_snapshot_reserve(struct fm_snapshot *s, const char *plan, const struct fm_reserved *v, size_t n)
{
	_fm_free_ struct found *f = fm_alloc_array(n, sizeof(*f));
	for (size_t i = 0; i < n; i++) {
		f[i] = (struct found){ &v[i], fm_snapshot_host(s, v[i].from), fm_snapshot_host(s, v[i].to), SIZE_MAX };
		f[i].link = link_of(s, &f[i]);
		size_t c = fm_snapshot_container(s, v[i].container);
		if (c == SIZE_MAX)
			continue;
		if (f[i].to != SIZE_MAX)
			count_at(s, &s->containers[c], f[i].to);
		fix(&s->containers[c], plan);
	}
	use_links(s, f, n);
}
