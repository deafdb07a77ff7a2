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
	size_t from, to; /* SIZE_MAX */
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

/* The most that steps between these take at any time: it is reached when one of them begins. SIZE_MAX: any host. */
static uint64_t peak(const struct found *v, size_t n, size_t from, size_t to)
{
	uint64_t most = 0;
	for (size_t i = 0; i < n; i++) {
		uint64_t now = 0;
		for (size_t k = 0; k < n; k++)
			if ((from == SIZE_MAX || v[k].from == from) && (to == SIZE_MAX || v[k].to == to) &&
			    v[k].r->start_ms <= v[i].r->start_ms && v[i].r->start_ms < v[k].r->end_ms)
				now += v[k].r->bandwidth_bytes_per_s;
		most = now > most ? now : most;
	}
	return most;
}

static void use(uint64_t *used, uint64_t more)
{
	*used = (*used == FM_UNKNOWN ? 0 : *used) + more;
}

static struct fm_snap_link *link_of(struct fm_snapshot *s, size_t from, size_t to)
{
	struct fm_snap_link *back = NULL;
	for (size_t i = 0; i < s->n_links; i++) {
		struct fm_snap_link *l = &s->links[i];
		if (l->from == from && l->to == to)
			return l;
		if (l->from == to && l->to == from)
			back = l; /* told for the other direction only */
	}
	return back;
}

static void use_link(struct fm_snapshot *s, size_t from, size_t to, uint64_t bytes_per_s)
{
	struct fm_snap_link *l = link_of(s, from, to);
	if (!l || l->bandwidth_bytes_per_s == 0)
		return; /* the ways in and out of the hosts have it */
	uint64_t bandwidth = l->bandwidth_bytes_per_s == FM_UNKNOWN ? FM_PLAN_LINK_BYTES_PER_S : l->bandwidth_bytes_per_s;
	double used = (isnan(l->utilisation_percent) ? 0 : l->utilisation_percent) + (double)bytes_per_s / (double)bandwidth * PERCENT;
	l->utilisation_percent = fmin(used, PERCENT);
}

static bool is_first(const struct found *v, size_t i, bool by_from, bool by_to)
{
	for (size_t k = 0; k < i; k++)
		if ((!by_from || v[k].from == v[i].from) && (!by_to || v[k].to == v[i].to))
			return false;
	return true;
}

static void use_links(struct fm_snapshot *s, const struct found *v, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (v[i].from != SIZE_MAX && is_first(v, i, true, false))
			use(&s->hosts[v[i].from].network_out_bytes_per_s, peak(v, n, v[i].from, SIZE_MAX));
		if (v[i].to != SIZE_MAX && is_first(v, i, false, true))
			use(&s->hosts[v[i].to].network_in_bytes_per_s, peak(v, n, SIZE_MAX, v[i].to));
		if (v[i].from != SIZE_MAX && v[i].to != SIZE_MAX && is_first(v, i, true, true))
			use_link(s, v[i].from, v[i].to, peak(v, n, v[i].from, v[i].to));
	}
}

void fm_snapshot_reserve(struct fm_snapshot *s, const char *plan, const struct fm_reserved *v, size_t n)
{
	_fm_free_ struct found *f = fm_alloc_array(n, sizeof(*f));
	for (size_t i = 0; i < n; i++) {
		f[i] = (struct found){ &v[i], fm_snapshot_host(s, v[i].from), fm_snapshot_host(s, v[i].to) };
		size_t c = fm_snapshot_container(s, v[i].container);
		if (c == SIZE_MAX)
			continue;
		if (f[i].to != SIZE_MAX)
			count_at(s, &s->containers[c], f[i].to);
		fix(&s->containers[c], plan);
	}
	use_links(s, f, n);
}
