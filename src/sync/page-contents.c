/* SPDX-License-Identifier: MIT */
/*
 * page-contents.c - see page-contents.h. Buckets are doubly linked lists, so that giving up a content costs the same however many collide with it. Free numbers
 * are used again in the order in which they became free: pages that go and come together lie together.
 */
#include "sync/page-contents.h"

#include <stdlib.h>
#include <string.h>

#define CAP_MIN 1024u

void fm_contents_init(struct fm_contents *c, uint32_t max)
{
	*c = (struct fm_contents){ .max = max < FM_CONTENT_NONE ? max : FM_CONTENT_NONE - 1,
		                   .free = FM_CONTENT_NONE,
		                   .free_last = FM_CONTENT_NONE };
}

void fm_contents_done(struct fm_contents *c)
{
	free(c->v);
	free(c->heads);
	fm_contents_init(c, c->max);
}

static uint32_t *head(const struct fm_contents *c, struct fm_page_hash h)
{
	return &c->heads[(uint32_t)h.lo & c->heads_mask];
}

static void link_in(struct fm_contents *c, uint32_t i)
{
	uint32_t *first = head(c, c->v[i].hash);

	c->v[i].prev = FM_CONTENT_NONE;
	c->v[i].next = *first;
	if (*first != FM_CONTENT_NONE)
		c->v[*first].prev = i;
	*first = i;
}

static void unlink_from(struct fm_contents *c, uint32_t i)
{
	const struct fm_content *x = &c->v[i];

	if (x->prev == FM_CONTENT_NONE)
		*head(c, x->hash) = x->next;
	else
		c->v[x->prev].next = x->next;
	if (x->next != FM_CONTENT_NONE)
		c->v[x->next].prev = x->prev;
}

uint32_t fm_contents_find(const struct fm_contents *c, struct fm_page_hash h, uint32_t after, unsigned *budget)
{
	if (!c->heads)
		return FM_CONTENT_NONE;
	for (uint32_t i = after == FM_CONTENT_NONE ? *head(c, h) : c->v[after].next; i != FM_CONTENT_NONE; i = c->v[i].next) {
		if (!*budget)
			break;
		--*budget;
		if (c->v[i].hash.lo == h.lo && c->v[i].hash.hi == h.hi)
			return i;
	}
	return FM_CONTENT_NONE;
}

static int enlarge(struct fm_contents *c, struct fm_error *err)
{
	uint64_t cap = c->cap ? (uint64_t)c->cap * 2 : CAP_MIN;
	size_t buckets = CAP_MIN;

	if (cap > c->max)
		cap = c->max;
	while (buckets < cap)
		buckets *= 2;
	struct fm_content *v = realloc(c->v, cap * sizeof(*v));
	if (v)
		c->v = v;
	uint32_t *heads = v ? malloc(buckets * sizeof(*heads)) : NULL;
	if (!heads)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for a table of page contents");
	free(c->heads);
	c->heads = heads;
	c->heads_mask = (uint32_t)(buckets - 1);
	c->cap = (uint32_t)cap;
	memset(heads, 0xff, buckets * sizeof(*heads)); /* FM_CONTENT_NONE */
	/* Only called when no number is free, so all of them are linked. */
	for (uint32_t i = 0; i < c->n; i++)
		link_in(c, i);
	return 0;
}

int fm_contents_reserve(struct fm_contents *c, uint32_t *ret, struct fm_error *err)
{
	if (c->free == FM_CONTENT_NONE && c->n == c->cap) {
		if (c->n >= c->max)
			return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "more than %u different pages", c->max);
		if (enlarge(c, err) < 0)
			return -1;
	}
	*ret = c->free != FM_CONTENT_NONE ? c->free : c->n;
	return 0;
}

uint32_t fm_contents_add(struct fm_contents *c, struct fm_page_hash h)
{
	uint32_t i = c->free;

	if (i != FM_CONTENT_NONE)
		c->free = c->v[i].next;
	else
		i = c->n++;
	c->v[i].hash = h;
	atomic_store_explicit(&c->v[i].refs, 1, memory_order_relaxed);
	link_in(c, i);
	return i;
}

bool fm_contents_unref(struct fm_contents *c, uint32_t i)
{
	/* One writer: no need for the price of an atomic subtraction */
	uint32_t refs = atomic_load_explicit(&c->v[i].refs, memory_order_relaxed) - 1;

	atomic_store_explicit(&c->v[i].refs, refs, memory_order_relaxed);
	if (refs)
		return false;
	unlink_from(c, i);
	c->v[i].next = FM_CONTENT_NONE;
	if (c->free == FM_CONTENT_NONE)
		c->free = i;
	else
		c->v[c->free_last].next = i;
	c->free_last = i;
	return true;
}

void fm_contents_change(struct fm_contents *c, uint32_t i, struct fm_page_hash h)
{
	unlink_from(c, i);
	c->v[i].hash = h;
	link_in(c, i);
}

void fm_contents_rehash(struct fm_contents *c, struct fm_page_hash (*of)(const void *ctx, uint32_t i), const void *ctx)
{
	if (!c->heads)
		return;
	memset(c->heads, 0xff, ((size_t)c->heads_mask + 1) * sizeof(*c->heads)); /* FM_CONTENT_NONE */
	for (uint32_t i = 0; i < c->n; i++) {
		if (atomic_load_explicit(&c->v[i].refs, memory_order_relaxed) == 0)
			continue; /* its next is in the list of free ones */
		c->v[i].hash = of(ctx, i);
		link_in(c, i);
	}
}
