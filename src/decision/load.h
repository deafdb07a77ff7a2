/* SPDX-License-Identifier: MIT */
/*
 * load.h - private to decision/: the world as planners change it in their heads. Made of a snapshot; moves are made and taken back in it in constant time.
 *
 * What moves together is one item: a container, or all containers of a host with the same value of fleximigrate.affinity. An item's size is what it uses of processors and memory; a host has
 * limits for both. Where the size is not known the item stays, but on a host that is drained, where it counts with the most it can be.
 *
 * Limits, and what is over: a host whose use of something is not known takes nothing and is never over. "Over" is meant only of hosts with relieve set. Not thread-safe.
 */
#ifndef FM_DECISION_LOAD_H
#define FM_DECISION_LOAD_H

#include "decision/plan.h"

#define FM_NONE SIZE_MAX

enum { FM_CPU, FM_MEMORY, FM_DIMENSIONS };

struct fm_load_item {
	double size[FM_DIMENSIONS]; /* cores, bytes */
	size_t host, home;          /* now, and in the snapshot */
	size_t at;                  /* place in its host's list */
	size_t first, n;            /* its containers: load->members[first …] */
	size_t affinity;            /* group, FM_NONE */
	size_t avoids;              /* a host where it must not go, FM_NONE */
	bool movable;
	bool picky;          /* some container has anti-affinity or wants certain hosts, or files that may not fit */
	const char *blocker; /* why not movable, static text or the snapshot's */
};
struct fm_load_host {
	double used[FM_DIMENSIONS], limit[FM_DIMENSIONS], total[FM_DIMENSIONS];
	bool known, takes, relieve;
	const char *refuses; /* why it takes nothing */
	size_t *items;
	size_t n_items, cap_items;
};
struct fm_load_group {
	size_t *items;
	size_t n;
};
struct fm_load {
	const struct fm_snapshot *s;
	struct fm_load_host *hosts;
	struct fm_load_item *items;
	size_t n_hosts, n_items;
	size_t *members;      /* containers, by item */
	size_t *item_of;      /* container -> item */
	size_t *anti, *wants; /* container -> group of anti-affinity, requirement; FM_NONE */
	uint8_t *allowed;     /* [requirement * n_hosts + host] */
	struct fm_load_group *affinity;
	size_t n_affinity;
	size_t *link_first;                /* host -> first of links[]; n_hosts + 1 */
	const struct fm_snap_link **links; /* by from, then to; one that leads both ways is there twice */
	size_t *link_to;
	double dearest; /* cost label of the dearest host, 0: none has one */
};

struct fm_load_opts {
	double percent[FM_DIMENSIONS]; /* limits */
	size_t drained;                /* host, FM_NONE: none */
	bool predicted;                /* processors as predicted where that is more */
};
struct fm_load *fm_load_new(const struct fm_snapshot *s, const struct fm_load_opts *o);
void fm_load_free(struct fm_load *l);
FM_DEFINE_CLEANUP(struct fm_load *, fm_load_free);

void fm_load_limits(struct fm_load *l, double cpu_percent, double memory_percent);

/* May it be there, whatever there is of room? Its own host: no. */
bool fm_load_allows(const struct fm_load *l, size_t item, size_t host);
/* NULL: yes. */
const char *fm_load_why_not(const struct fm_load *l, size_t item, size_t host);
void fm_load_move(struct fm_load *l, size_t item, size_t to);

/* A rounding error is no overload. */
static inline bool fm_load_exceeds(double used, double limit)
{
	return used > limit + 1e-9 * (limit < 1 ? 1 : limit);
}
static inline bool fm_load_over(const struct fm_load_host *h)
{
	return h->relieve &&
	       (fm_load_exceeds(h->used[FM_CPU], h->limit[FM_CPU]) || fm_load_exceeds(h->used[FM_MEMORY], h->limit[FM_MEMORY]));
}
static inline bool fm_load_fits(const struct fm_load_host *h, const struct fm_load_item *i)
{
	return !fm_load_exceeds(h->used[FM_CPU] + i->size[FM_CPU], h->limit[FM_CPU]) &&
	       !fm_load_exceeds(h->used[FM_MEMORY] + i->size[FM_MEMORY], h->limit[FM_MEMORY]);
}
/* How much it is over, in parts of its limits. */
double fm_load_excess(const struct fm_load_host *h);

const struct fm_snap_link *fm_load_link(const struct fm_load *l, size_t from, size_t to); /* NULL: nothing is known */
/* Free of it now; never 0: 1 at least. */
uint64_t fm_load_bandwidth(const struct fm_load *l, size_t from, size_t to);
uint64_t fm_load_port(const struct fm_load *l, size_t host,
                      bool out); /* of its own way into the network, shared by all that leaves (or comes) */

/* placement.c: score of a host for it, 0 to 1. part: may be NULL. */
double fm_placement_score(const struct fm_load *l, const struct fm_placement_weights *w, size_t item, size_t host,
                          double part[_FM_CRITERION_MAX]);

double fm_container_importance(const struct fm_snap_container *c);

/* The most a container can have of memory, where it is not known what it has: FM_UNKNOWN when even that is not known. */
uint64_t fm_load_memory_bytes(const struct fm_load *l, size_t container);

#endif
