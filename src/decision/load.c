/* SPDX-License-Identifier: MIT */
/* load.c - see load.h. */
#include "decision/load.h"

#include <math.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "decision/memory.h"

#define PERCENT 100.0

/* ---------------------------------------------------------------- hosts */

static void host_use(struct fm_load_host *h, const struct fm_snap_host *snap, bool predicted)
{
	double cpu = snap->cpu_percent;
	if (predicted && !isnan(snap->cpu_predicted_percent))
		cpu = fmax(cpu, snap->cpu_predicted_percent); /* fmax: of a number and NAN the number; both are wanted */
	bool memory = snap->memory_total_bytes != FM_UNKNOWN && snap->memory_total_bytes > 0 &&
	              (!isnan(snap->memory_percent) || snap->memory_available_bytes != FM_UNKNOWN);
	h->known = snap->cpus > 0 && !isnan(snap->cpu_percent) && memory;
	h->total[FM_CPU] = snap->cpus;
	h->total[FM_MEMORY] = (double)snap->memory_total_bytes;
	if (!h->known)
		return;
	h->used[FM_CPU] = cpu / PERCENT * snap->cpus;
	h->used[FM_MEMORY] = isnan(snap->memory_percent) ? h->total[FM_MEMORY] - (double)snap->memory_available_bytes
	                                                 : snap->memory_percent / PERCENT * h->total[FM_MEMORY];
}

static const char *refusal(const struct fm_snap_host *snap, const struct fm_load_host *h, bool drained)
{
	if (drained)
		return "it is the one that is drained";
	if (!snap->online)
		return "it is offline";
	if (snap->cordoned)
		return "it is cordoned";
	if (!snap->can_restore)
		return "it cannot restore containers";
	if (!(snap->cpus > 0) || isnan(snap->cpu_percent))
		return "its use of processors is not known";
	if (!h->known)
		return "its use of memory is not known";
	return NULL;
}

static void build_hosts(struct fm_load *l, const struct fm_load_opts *o)
{
	for (size_t i = 0; i < l->n_hosts; i++) {
		struct fm_load_host *h = &l->hosts[i];
		host_use(h, &l->s->hosts[i], o->predicted);
		h->refuses = refusal(&l->s->hosts[i], h, i == o->drained);
		h->takes = !h->refuses;
		h->relieve = h->known && l->s->hosts[i].online && i != o->drained;
		const char *cost = fm_snap_label(&l->s->hosts[i].labels, "fleximigrate.cost");
		double value = cost ? strtod(cost, NULL) : 0;
		if (isfinite(value) && value > l->dearest)
			l->dearest = value;
	}
	fm_load_limits(l, o->percent[FM_CPU], o->percent[FM_MEMORY]);
}

void fm_load_limits(struct fm_load *l, double cpu_percent, double memory_percent)
{
	for (size_t i = 0; i < l->n_hosts; i++) {
		l->hosts[i].limit[FM_CPU] = cpu_percent / PERCENT * l->hosts[i].total[FM_CPU];
		l->hosts[i].limit[FM_MEMORY] = memory_percent / PERCENT * l->hosts[i].total[FM_MEMORY];
	}
}

/* ---------------------------------------------------------------- groups of labels */

struct labelled {
	const char *value;
	size_t container;
};

static int by_value(const void *a, const void *b)
{
	const struct labelled *x = a, *y = b;
	int c = strcmp(x->value, y->value);
	return c ? c : (x->container > y->container) - (x->container < y->container);
}

/* Numbers the values of a label from 0, in their order; values[] gets one of each, borrowed from the snapshot. Returns how many there are. */
static size_t number_label(const struct fm_snapshot *s, const char *key, size_t *group, const char ***values)
{
	struct labelled *v = fm_alloc_array(s->n_containers, sizeof(*v));
	size_t n = 0, groups = 0;
	for (size_t i = 0; i < s->n_containers; i++) {
		const char *value = fm_snap_label(&s->containers[i].labels, key);
		group[i] = FM_NONE;
		if (value && value[0])
			v[n++] = (struct labelled){ value, i };
	}
	if (n)
		qsort(v, n, sizeof(*v), by_value);
	const char **names = fm_alloc_array(n, sizeof(*names));
	for (size_t i = 0; i < n; i++) {
		if (i == 0 || strcmp(v[i].value, v[i - 1].value) != 0)
			names[groups++] = v[i].value;
		group[v[i].container] = groups - 1;
	}
	free(v);
	*values = names;
	return groups;
}

static bool host_has(const struct fm_snap_host *h, const char *requirement)
{
	const char *equals = strchr(requirement, '=');
	if (!equals)
		return fm_snap_label(&h->labels, requirement) != NULL; /* a key alone: whatever its value */
	for (size_t i = 0; i < h->labels.n; i++)
		if (strncmp(h->labels.v[i].key, requirement, (size_t)(equals - requirement)) == 0 &&
		    h->labels.v[i].key[equals - requirement] == '\0' && fm_streq(h->labels.v[i].value, equals + 1))
			return true;
	return false;
}

static void build_labels(struct fm_load *l, size_t *affinity)
{
	const char **values = NULL;
	l->n_affinity = number_label(l->s, "fleximigrate.affinity", affinity, &values);
	free(values);
	(void)number_label(l->s, "fleximigrate.anti-affinity", l->anti, &values);
	free(values);
	size_t n = number_label(l->s, "fleximigrate.hosts", l->wants, &values);
	l->allowed = fm_alloc_array(n * l->n_hosts, 1);
	for (size_t r = 0; r < n; r++)
		for (size_t h = 0; h < l->n_hosts; h++)
			l->allowed[r * l->n_hosts + h] = host_has(&l->s->hosts[h], values[r]);
	free(values);
}

/* ---------------------------------------------------------------- items */

static void attach(struct fm_load *l, size_t item, size_t host)
{
	struct fm_load_host *h = &l->hosts[host];
	if (h->n_items == h->cap_items) {
		h->cap_items = h->cap_items ? 2 * h->cap_items : 8;
		h->items = fm_grow_array(h->items, h->cap_items, sizeof(*h->items));
	}
	l->items[item].host = host;
	l->items[item].at = h->n_items;
	h->items[h->n_items++] = item;
}

static uint64_t container_memory(const struct fm_snap_container *c)
{
	return c->working_set_bytes != FM_UNKNOWN ? c->working_set_bytes : c->memory_bytes;
}

static double container_cpu(const struct fm_snap_container *c, bool predicted)
{
	return predicted && !isnan(c->cpu_predicted_cores) ? c->cpu_predicted_cores : c->cpu_cores;
}

static const char *blocker(const struct fm_load *l, const struct fm_snap_container *c, const struct fm_load_opts *o)
{
	if (c->fixed)
		return c->blocker && c->blocker[0] ? c->blocker : "it cannot be moved";
	if (c->moving)
		return "a migration of it is under way";
	if (fm_streq(fm_snap_label(&c->labels, "fleximigrate.migrate"), "deny"))
		return "its label fleximigrate.migrate says deny";
	if (!l->s->hosts[c->host].online)
		return "its host is offline";
	if (c->host == o->drained)
		return NULL; /* all that can be moved is; what is not known of it, is bounded */
	if (!l->hosts[c->host].known)
		return "the use of its host is not known";
	if (isnan(container_cpu(c, o->predicted)))
		return "its use of processors is not known";
	if (container_memory(c) == FM_UNKNOWN)
		return "its use of memory is not known";
	return NULL;
}

struct host_member {
	size_t host, affinity, container;
};

static int by_host_and_affinity(const void *a, const void *b)
{
	const struct host_member *x = a, *y = b;
	if (x->host != y->host)
		return x->host < y->host ? -1 : 1;
	if (x->affinity != y->affinity)
		return x->affinity < y->affinity ? -1 : 1;
	return x->container < y->container ? -1 : 1;
}

static void add_member(struct fm_load *l, struct fm_load_item *item, size_t container, const struct fm_load_opts *o)
{
	const struct fm_snap_container *c = &l->s->containers[container];
	const char *why = blocker(l, c, o);
	double cpu = container_cpu(c, o->predicted);
	uint64_t memory = container_memory(c);
	item->size[FM_CPU] += isnan(cpu) ? 0 : cpu;                         /* what is not known is added by bound_drained(), */
	item->size[FM_MEMORY] += memory == FM_UNKNOWN ? 0 : (double)memory; /* or the item does not move */
	if (why && item->movable) {
		item->movable = false;
		item->blocker = why;
	}
	if (l->anti[container] != FM_NONE || l->wants[container] != FM_NONE || c->files_bytes != FM_UNKNOWN)
		item->picky = true;
	l->item_of[container] = (size_t)(item - l->items);
	item->n++;
}

static void build_items(struct fm_load *l, const struct fm_load_opts *o, const size_t *affinity)
{
	size_t n = l->s->n_containers;
	struct host_member *v = fm_alloc_array(n, sizeof(*v));
	for (size_t i = 0; i < n; i++)
		v[i] = (struct host_member){ l->s->containers[i].host, affinity[i], i };
	if (n)
		qsort(v, n, sizeof(*v), by_host_and_affinity);
	for (size_t i = 0; i < n; i++) {
		bool same = i > 0 && v[i].affinity != FM_NONE && v[i].affinity == v[i - 1].affinity && v[i].host == v[i - 1].host;
		if (!same) {
			l->items[l->n_items] = (struct fm_load_item){
				.home = v[i].host, .first = i, .affinity = v[i].affinity, .avoids = FM_NONE, .movable = true
			};
			attach(l, l->n_items++, v[i].host);
		}
		l->members[i] = v[i].container;
		add_member(l, &l->items[l->n_items - 1], v[i].container, o);
	}
	free(v);
}

static void build_affinity(struct fm_load *l)
{
	l->affinity = fm_alloc_array(l->n_affinity, sizeof(*l->affinity));
	for (size_t i = 0; i < l->n_items; i++)
		if (l->items[i].affinity != FM_NONE)
			l->affinity[l->items[i].affinity].n++;
	for (size_t g = 0; g < l->n_affinity; g++) {
		l->affinity[g].items = fm_alloc_array(l->affinity[g].n, sizeof(size_t));
		l->affinity[g].n = 0;
	}
	for (size_t i = 0; i < l->n_items; i++)
		if (l->items[i].affinity != FM_NONE) {
			struct fm_load_group *g = &l->affinity[l->items[i].affinity];
			g->items[g->n++] = i;
		}
}

/* ---------------------------------------------------------------- what is not known on a host that is drained */

/* The rest of what its host uses (all of it, where not even that is known): a container cannot use more. */
static double rest_of_host(const struct fm_load *l, size_t host, int d)
{
	const struct fm_load_host *h = &l->hosts[host];
	if (!h->known)
		return h->total[d];
	double rest = h->used[d];
	for (size_t i = 0; i < h->n_items; i++)
		rest -= l->items[h->items[i]].size[d];
	return fmax(rest, 0);
}

uint64_t fm_load_memory_bytes(const struct fm_load *l, size_t container)
{
	const struct fm_snap_container *c = &l->s->containers[container];
	uint64_t known = container_memory(c);
	if (known != FM_UNKNOWN)
		return known;
	if (c->memory_limit_bytes != FM_UNKNOWN && c->memory_limit_bytes > 0)
		return c->memory_limit_bytes;
	return l->s->hosts[c->host].memory_total_bytes;
}

static void bound_drained(struct fm_load *l, const struct fm_load_opts *o)
{
	if (o->drained == FM_NONE)
		return;
	double rest[FM_DIMENSIONS] = { rest_of_host(l, o->drained, FM_CPU), rest_of_host(l, o->drained, FM_MEMORY) };
	for (size_t i = 0; i < l->hosts[o->drained].n_items; i++) {
		struct fm_load_item *item = &l->items[l->hosts[o->drained].items[i]];
		for (size_t m = item->first; m < item->first + item->n; m++) {
			const struct fm_snap_container *c = &l->s->containers[l->members[m]];
			if (isnan(container_cpu(c, o->predicted)))
				item->size[FM_CPU] += rest[FM_CPU];
			if (container_memory(c) != FM_UNKNOWN)
				continue;
			bool limited = c->memory_limit_bytes != FM_UNKNOWN && c->memory_limit_bytes > 0;
			item->size[FM_MEMORY] += limited ? fmin((double)c->memory_limit_bytes, rest[FM_MEMORY]) : rest[FM_MEMORY];
		}
	}
}

/* ---------------------------------------------------------------- links */

struct way {
	size_t from, to;
	bool back; /* of a link that was told for the other direction only */
	const struct fm_snap_link *link;
};

static int by_ends(const void *a, const void *b)
{
	const struct way *x = a, *y = b;
	if (x->from != y->from)
		return x->from < y->from ? -1 : 1;
	if (x->to != y->to)
		return x->to < y->to ? -1 : 1;
	if (x->back != y->back)
		return x->back ? 1 : -1;
	return x->link < y->link ? -1 : x->link > y->link;
}

static void build_links(struct fm_load *l)
{
	size_t n = l->s->n_links, kept = 0;
	struct way *v = fm_alloc_array(2 * n, sizeof(*v));
	for (size_t i = 0; i < n; i++) {
		const struct fm_snap_link *link = &l->s->links[i];
		v[2 * i] = (struct way){ link->from, link->to, false, link };
		v[2 * i + 1] = (struct way){ link->to, link->from, true, link };
	}
	if (n)
		qsort(v, 2 * n, sizeof(*v), by_ends);
	l->links = fm_alloc_array(2 * n, sizeof(*l->links));
	l->link_to = fm_alloc_array(2 * n, sizeof(*l->link_to));
	l->link_first = fm_alloc_array(l->n_hosts + 1, sizeof(*l->link_first));
	for (size_t i = 0; i < 2 * n; i++) {
		if (i > 0 && v[i].from == v[i - 1].from && v[i].to == v[i - 1].to)
			continue; /* the first of them is the one that was told for this direction */
		l->links[kept] = v[i].link;
		l->link_to[kept++] = v[i].to;
		l->link_first[v[i].from + 1] = kept;
	}
	for (size_t h = 1; h <= l->n_hosts; h++)
		if (l->link_first[h] < l->link_first[h - 1])
			l->link_first[h] = l->link_first[h - 1]; /* has none */
	free(v);
}

const struct fm_snap_link *fm_load_link(const struct fm_load *l, size_t from, size_t to)
{
	size_t low = l->link_first[from], high = l->link_first[from + 1];
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (l->link_to[middle] < to)
			low = middle + 1;
		else
			high = middle;
	}
	return low < l->link_first[from + 1] && l->link_to[low] == to ? l->links[low] : NULL;
}

static uint64_t free_of(uint64_t capacity, double share_used)
{
	double left = (double)capacity * (1 - fmin(fmax(share_used, 0), 1));
	return left < 1 ? 1 : (uint64_t)left;
}

uint64_t fm_load_port(const struct fm_load *l, size_t host, bool out)
{
	const struct fm_snap_host *h = &l->s->hosts[host];
	uint64_t used = out ? h->network_out_bytes_per_s : h->network_in_bytes_per_s, capacity = h->network_capacity_bytes_per_s;
	if (capacity == FM_UNKNOWN || capacity == 0) { /* as wide as the widest of its links, or as one nobody knows */
		capacity = 0;
		for (size_t i = l->link_first[host]; i < l->link_first[host + 1]; i++)
			if (l->links[i]->bandwidth_bytes_per_s != FM_UNKNOWN && l->links[i]->bandwidth_bytes_per_s > capacity)
				capacity = l->links[i]->bandwidth_bytes_per_s;
		if (capacity == 0)
			capacity = FM_PLAN_LINK_BYTES_PER_S;
	}
	return free_of(capacity, used == FM_UNKNOWN ? 0 : (double)used / (double)capacity);
}

uint64_t fm_load_bandwidth(const struct fm_load *l, size_t from, size_t to)
{
	uint64_t out = fm_load_port(l, from, true), in = fm_load_port(l, to, false), both = out < in ? out : in;
	const struct fm_snap_link *link = fm_load_link(l, from, to);
	if (!link || link->bandwidth_bytes_per_s == FM_UNKNOWN)
		return both;
	double used = isnan(link->utilisation_percent) ? 0 : link->utilisation_percent / PERCENT;
	uint64_t left = free_of(link->bandwidth_bytes_per_s, used);
	return left < both ? left : both;
}

/* ---------------------------------------------------------------- the whole */

struct fm_load *fm_load_new(const struct fm_snapshot *s, const struct fm_load_opts *o)
{
	struct fm_load *l = fm_alloc_array(1, sizeof(*l));
	l->s = s;
	l->n_hosts = s->n_hosts;
	l->hosts = fm_alloc_array(s->n_hosts, sizeof(*l->hosts));
	l->items = fm_alloc_array(s->n_containers, sizeof(*l->items));
	l->members = fm_alloc_array(s->n_containers, sizeof(size_t));
	l->item_of = fm_alloc_array(s->n_containers, sizeof(size_t));
	l->anti = fm_alloc_array(s->n_containers, sizeof(size_t));
	l->wants = fm_alloc_array(s->n_containers, sizeof(size_t));
	size_t *affinity = fm_alloc_array(s->n_containers, sizeof(size_t));
	build_hosts(l, o);
	build_labels(l, affinity);
	build_items(l, o, affinity);
	build_affinity(l);
	bound_drained(l, o);
	build_links(l);
	free(affinity);
	return l;
}

void fm_load_free(struct fm_load *l)
{
	if (!l)
		return;
	for (size_t i = 0; i < l->n_hosts; i++)
		free(l->hosts[i].items);
	for (size_t i = 0; i < l->n_affinity; i++)
		free(l->affinity[i].items);
	free(l->hosts);
	free(l->items);
	free(l->members);
	free(l->item_of);
	free(l->anti);
	free(l->wants);
	free(l->allowed);
	free(l->affinity);
	free(l->link_first);
	free(l->links);
	free(l->link_to);
	free(l);
}

/* ---------------------------------------------------------------- questions and changes */

static bool group_elsewhere(const struct fm_load *l, size_t item, size_t host)
{
	const struct fm_load_group *g = &l->affinity[l->items[item].affinity];
	bool elsewhere = false;
	for (size_t i = 0; i < g->n; i++) {
		if (g->items[i] == item)
			continue;
		if (l->items[g->items[i]].host == host)
			return false; /* joins some of it */
		elsewhere = true;
	}
	return elsewhere;
}

static bool repelled(const struct fm_load *l, size_t container, size_t host)
{
	const struct fm_load_host *h = &l->hosts[host];
	for (size_t i = 0; i < h->n_items; i++) {
		const struct fm_load_item *there = &l->items[h->items[i]];
		for (size_t m = there->first; there->picky && m < there->first + there->n; m++)
			if (l->anti[l->members[m]] == l->anti[container])
				return true;
	}
	return false;
}

static const char *picky_why_not(const struct fm_load *l, const struct fm_load_item *item, size_t host)
{
	uint64_t disk = l->s->hosts[host].disk_available_bytes;
	for (size_t m = item->first; m < item->first + item->n; m++) {
		size_t c = l->members[m];
		uint64_t files = l->s->containers[c].files_bytes;
		if (l->wants[c] != FM_NONE && !l->allowed[l->wants[c] * l->n_hosts + host])
			return "it lacks the label that fleximigrate.hosts asks for";
		if (l->anti[c] != FM_NONE && repelled(l, c, host))
			return "it has a container with the same fleximigrate.anti-affinity";
		if (files != FM_UNKNOWN && disk != FM_UNKNOWN &&
		    files > disk) /* where one is not known, the move's own preparation checks */
			return "it has no room on disk for the container's files";
	}
	return NULL;
}

const char *fm_load_why_not(const struct fm_load *l, size_t item, size_t host)
{
	const struct fm_load_item *i = &l->items[item];
	if (i->host == host)
		return "it is there";
	if (host != i->home && !l->hosts[host].takes)
		return l->hosts[host].refuses;
	if (i->avoids == host)
		return "it was there not long ago";
	if (i->affinity != FM_NONE && group_elsewhere(l, item, host))
		return "others with the same fleximigrate.affinity are elsewhere";
	return i->picky ? picky_why_not(l, i, host) : NULL;
}

bool fm_load_allows(const struct fm_load *l, size_t item, size_t host)
{
	const struct fm_load_item *i = &l->items[item];
	if (i->host == host || (host != i->home && !l->hosts[host].takes))
		return false;
	if (i->affinity == FM_NONE && !i->picky && i->avoids == FM_NONE)
		return true;
	return !fm_load_why_not(l, item, host);
}

void fm_load_move(struct fm_load *l, size_t item, size_t to)
{
	struct fm_load_item *i = &l->items[item];
	struct fm_load_host *from = &l->hosts[i->host];
	size_t last = from->items[from->n_items - 1];
	from->items[i->at] = last;
	l->items[last].at = i->at;
	from->n_items--;
	for (int d = 0; d < FM_DIMENSIONS; d++) {
		from->used[d] -= i->size[d];
		l->hosts[to].used[d] += i->size[d];
	}
	attach(l, item, to);
}

double fm_load_excess(const struct fm_load_host *h)
{
	double sum = 0;
	for (int d = 0; d < FM_DIMENSIONS; d++)
		if (fm_load_exceeds(h->used[d], h->limit[d]))
			sum += (h->used[d] - h->limit[d]) / h->total[d];
	return sum;
}

double fm_container_importance(const struct fm_snap_container *c)
{
	const char *label = fm_snap_label(&c->labels, "fleximigrate.importance");
	char *end = NULL;
	double value = label ? strtod(label, &end) : 1;
	if (label && (end == label || *end != '\0' || !(value >= 0)))
		return 1;
	return value > PERCENT ? PERCENT : value;
}
