/* SPDX-License-Identifier: MIT */
/* page-encoder-cache.c - see page-encoder-internal.h. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "sync/page-encoder-internal.h"

#define PAGE       4096u
#define PLACES_MAX (1u << 22)

int fm_delta_cache_init(struct fm_delta_cache *c, uint64_t bytes, struct fm_error *err)
{
	uint64_t n = bytes / PAGE < PLACES_MAX ? bytes / PAGE : PLACES_MAX;

	*c = (struct fm_delta_cache){ 0 };
	if (!n)
		return 0;
	fm_names_init(&c->names, n);
	c->places = calloc(n, sizeof(*c->places));
	/* Not touched before it is needed: memory of a cache that is not used costs nothing. */
	void *p = mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	c->data = p == MAP_FAILED ? NULL : p;
	c->n = (uint32_t)n;
	if (!c->places || !c->data)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for %llu versions of pages", (unsigned long long)n);
	return 0;
}

void fm_delta_cache_done(struct fm_delta_cache *c)
{
	fm_names_done(&c->names);
	free(c->places);
	if (c->data)
		(void)munmap(c->data, (size_t)c->n * PAGE);
	*c = (struct fm_delta_cache){ 0 };
}

void fm_delta_cache_clear(struct fm_delta_cache *c)
{
	uint64_t n = c->n;

	if (!n)
		return;
	fm_names_done(&c->names);
	fm_names_init(&c->names, n);
	memset(c->places, 0, n * sizeof(*c->places));
}

static uint8_t *place_bytes(const struct fm_delta_cache *c, uint32_t i)
{
	return c->data + (size_t)i * PAGE;
}

const void *fm_delta_cache_get(struct fm_delta_cache *c, pid_t ns_pid, uint64_t page)
{
	uint32_t i = fm_names_get(&c->names, ns_pid, page);

	if (!i)
		return NULL;
	c->places[i - 1].used_lately = true;
	return place_bytes(c, i - 1);
}

static void forget_one(void *ctx, struct fm_names_ref ref)
{
	struct fm_delta_cache *c = ctx;

	c->places[fm_names_at(&c->names, ref) - 1].ns_pid = 0;
	fm_names_set(&c->names, ref, 0);
}

void fm_delta_cache_forget(struct fm_delta_cache *c, pid_t ns_pid, uint64_t page)
{
	fm_names_each(&c->names, ns_pid, page, 1, forget_one, c);
}

/* A place that was not used since the hand came by the last time; its page is forgotten. */
static uint32_t free_place(struct fm_delta_cache *c)
{
	for (;;) {
		uint32_t i = c->hand;
		struct fm_delta_place *p = &c->places[i];
		c->hand = c->hand + 1 < c->n ? c->hand + 1 : 0;
		if (p->ns_pid && p->used_lately) {
			p->used_lately = false;
			continue;
		}
		if (p->ns_pid)
			fm_delta_cache_forget(c, p->ns_pid, p->page);
		return i;
	}
}

int fm_delta_cache_put(struct fm_delta_cache *c, pid_t ns_pid, uint64_t page, const void *bytes, struct fm_error *err)
{
	struct fm_names_ref ref;

	if (!c->n)
		return 0;
	uint32_t i = fm_names_get(&c->names, ns_pid, page);
	if (!i) {
		i = free_place(c) + 1;
		if (fm_names_reserve(&c->names, ns_pid, page, &ref, err) < 0)
			return -1;
		c->places[i - 1] = (struct fm_delta_place){ .page = page, .ns_pid = ns_pid };
		fm_names_set(&c->names, ref, i);
	}
	memcpy(place_bytes(c, i - 1), bytes, PAGE);
	return 0;
}
