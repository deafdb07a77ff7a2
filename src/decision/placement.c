/* SPDX-License-Identifier: MIT */
/* placement.c - see placement.h. */
#include "decision/placement.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/str.h"
#include "decision/load.h"
#include "decision/memory.h"

#define PERCENT 100.0
#define NEUTRAL 0.5

static const char *const names[_FM_CRITERION_MAX] = {
	"capacity", "predicted", "latency", "bandwidth", "labels", "affinity", "image", "cost"
};

const struct fm_placement_weights fm_placement_default_weights = { .percent = { [FM_CRITERION_CAPACITY] = 30,
	                                                                        [FM_CRITERION_PREDICTED] = 20,
	                                                                        [FM_CRITERION_LATENCY] = 5,
	                                                                        [FM_CRITERION_BANDWIDTH] = 15,
	                                                                        [FM_CRITERION_LABELS] = 5,
	                                                                        [FM_CRITERION_AFFINITY] = 10,
	                                                                        [FM_CRITERION_IMAGE] = 10,
	                                                                        [FM_CRITERION_COST] = 5 } };

static double within(double x)
{
	return isnan(x) || x < 0 ? 0 : x > 1 ? 1 : x;
}

/* ---------------------------------------------------------------- criteria */

static double capacity(const struct fm_load_host *h, const struct fm_load_item *i)
{
	double least = 1;
	for (int d = 0; d < FM_DIMENSIONS; d++)
		least = fmin(least, 1 - (h->used[d] + i->size[d]) / h->limit[d]);
	return within(least);
}

static double predicted(const struct fm_load *l, size_t host, const struct fm_load_item *i)
{
	const struct fm_snap_host *h = &l->s->hosts[host];
	/* what planned moves have changed since the snapshot counts as well */
	double moved = l->hosts[host].used[FM_CPU] / h->cpus * PERCENT - h->cpu_percent;
	return within(1 - (h->cpu_predicted_percent + fmax(moved, 0)) / PERCENT - i->size[FM_CPU] / h->cpus);
}

static double latency(const struct fm_load *l, size_t from, size_t to)
{
	const struct fm_snap_link *link = fm_load_link(l, from, to);
	double ms = link && !isnan(link->latency_ms) ? link->latency_ms : l->s->hosts[to].latency_ms;
	return within(1 / (1 + ms));
}

static double bandwidth(const struct fm_load *l, size_t from, size_t to)
{
	const struct fm_snap_link *link = fm_load_link(l, from, to);
	uint64_t capacity_there = l->s->hosts[to].network_capacity_bytes_per_s;
	if ((!link || link->bandwidth_bytes_per_s == FM_UNKNOWN) && (capacity_there == FM_UNKNOWN || capacity_there == 0))
		return 0;
	double b = (double)fm_load_bandwidth(l, from, to);
	return b / (b + FM_PLAN_LINK_BYTES_PER_S);
}

static double labels(const struct fm_snap_labels *container, const struct fm_snap_labels *host)
{
	unsigned common = 0, equal = 0;
	for (size_t i = 0; i < container->n; i++) {
		const char *there =
		        fm_str_startswith(container->v[i].key, "fleximigrate.") ? NULL : fm_snap_label(host, container->v[i].key);
		common += there != NULL;
		equal += fm_streq(there, container->v[i].value);
	}
	return common ? (double)equal / common : NEUTRAL;
}

static double affinity(const struct fm_load *l, size_t item, size_t host)
{
	if (l->items[item].affinity == FM_NONE)
		return NEUTRAL;
	const struct fm_load_group *g = &l->affinity[l->items[item].affinity];
	size_t there = 0, others = 0;
	for (size_t i = 0; i < g->n; i++)
		if (g->items[i] != item) {
			others += l->items[g->items[i]].n;
			there += l->items[g->items[i]].host == host ? l->items[g->items[i]].n : 0;
		}
	return others ? (double)there / (double)others : NEUTRAL;
}

static double image(const struct fm_load *l, const struct fm_load_item *item, size_t host)
{
	size_t there = 0;
	for (size_t m = item->first; m < item->first + item->n; m++) {
		const char *wanted = l->s->containers[l->members[m]].image;
		char **has = l->s->hosts[host].images;
		while (wanted && has && *has && !fm_streq(*has, wanted))
			has++;
		there += wanted && has && *has;
	}
	return (double)there / (double)item->n;
}

static double cost(const struct fm_load *l, size_t host)
{
	const char *label = fm_snap_label(&l->s->hosts[host].labels, "fleximigrate.cost");
	if (!label || !(l->dearest > 0))
		return 0;
	return within(1 - strtod(label, NULL) / l->dearest);
}

double fm_placement_score(const struct fm_load *l, const struct fm_placement_weights *w, size_t item, size_t host,
                          double part[_FM_CRITERION_MAX])
{
	const struct fm_load_item *i = &l->items[item];
	double p[_FM_CRITERION_MAX] = { [FM_CRITERION_CAPACITY] = capacity(&l->hosts[host], i),
		                        [FM_CRITERION_PREDICTED] = predicted(l, host, i),
		                        [FM_CRITERION_LATENCY] = latency(l, i->home, host),
		                        [FM_CRITERION_BANDWIDTH] = bandwidth(l, i->home, host),
		                        [FM_CRITERION_LABELS] =
		                                labels(&l->s->containers[l->members[i->first]].labels, &l->s->hosts[host].labels),
		                        [FM_CRITERION_AFFINITY] = affinity(l, item, host),
		                        [FM_CRITERION_IMAGE] = image(l, i, host),
		                        [FM_CRITERION_COST] = cost(l, host) };
	double sum = 0, weight = 0;
	for (int k = 0; k < _FM_CRITERION_MAX; k++) {
		sum += w->percent[k] * p[k];
		weight += w->percent[k];
	}
	if (part)
		memcpy(part, p, sizeof(p));
	return weight > 0 ? sum / weight : 0;
}

/* ---------------------------------------------------------------- all hosts, for a user */

static int best_first(const void *a, const void *b)
{
	const struct fm_placement_host *x = a, *y = b;
	if (x->feasible != y->feasible)
		return x->feasible ? -1 : 1;
	if (x->score > y->score || x->score < y->score)
		return x->score > y->score ? -1 : 1;
	return x->host < y->host ? -1 : x->host > y->host;
}

static void explain_room(struct fm_placement_host *p, const struct fm_load_host *h, const struct fm_load_item *i)
{
	for (int d = 0; d < FM_DIMENSIONS; d++)
		if (fm_load_exceeds(h->used[d] + i->size[d], h->limit[d])) {
			(void)snprintf(p->why, sizeof(p->why), "its %s would be at %.0f %%, over %.0f %%",
			               d == FM_CPU ? "processors" : "memory", (h->used[d] + i->size[d]) / h->total[d] * PERCENT,
			               h->limit[d] / h->total[d] * PERCENT);
			return;
		}
}

static void explain_score(struct fm_placement_host *p)
{
	size_t at = 0;
	for (int k = 0; k < _FM_CRITERION_MAX && at < sizeof(p->why); k++)
		at += (size_t)snprintf(p->why + at, sizeof(p->why) - at, "%s%s %.2f", k ? ", " : "", names[k], p->part[k]);
}

int fm_placement(const struct fm_snapshot *s, size_t container, const struct fm_plan_opts *o, struct fm_placement_host **ret, size_t *ret_n,
                 struct fm_error *err)
{
	double cpu = o && o->cpu_percent > 0 ? o->cpu_percent : FM_PLAN_CPU_PERCENT,
	       memory = o && o->memory_percent > 0 ? o->memory_percent : FM_PLAN_MEMORY_PERCENT;
	const struct fm_placement_weights *w = o && o->weights ? o->weights : &fm_placement_default_weights;
	struct fm_load_opts lo = { .percent = { cpu, memory }, .drained = FM_NONE };
	_fm_cleanup_(fm_load_freep) struct fm_load *l = fm_load_new(s, &lo);
	size_t item = l->item_of[container];
	if (!l->items[item].movable)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "container '%s' stays where it is: %s", s->containers[container].name,
		                    l->items[item].blocker);
	struct fm_placement_host *v = fm_alloc_array(s->n_hosts, sizeof(*v));
	for (size_t h = 0; h < s->n_hosts; h++) {
		const char *why = fm_load_why_not(l, item, h);
		v[h].host = h;
		v[h].feasible = !why && fm_load_fits(&l->hosts[h], &l->items[item]);
		if (why) {
			(void)snprintf(v[h].why, sizeof(v[h].why), "%s", why);
		} else if (!v[h].feasible) {
			explain_room(&v[h], &l->hosts[h], &l->items[item]);
		} else {
			v[h].score = fm_placement_score(l, w, item, h, v[h].part);
			explain_score(&v[h]);
		}
	}
	if (s->n_hosts)
		qsort(v, s->n_hosts, sizeof(*v), best_first);
	*ret = v;
	*ret_n = s->n_hosts;
	return 0;
}
