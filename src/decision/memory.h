/* SPDX-License-Identifier: MIT */
/* memory.h - private to decision/: arrays whose size is bounded by the snapshot's limits; without memory for them nothing can be decided, so it aborts like str.h. */
#ifndef FM_DECISION_MEMORY_H
#define FM_DECISION_MEMORY_H

#include <stdlib.h>

/* Zeroed; of no elements, too, it is something to free. */
static inline void *fm_alloc_array(size_t n, size_t size)
{
	void *p = calloc(n ? n : 1, size);
	if (!p)
		abort();
	return p;
}

static inline void *fm_grow_array(void *old, size_t n, size_t size)
{
	void *p = reallocarray(old, n ? n : 1, size);
	if (!p)
		abort();
	return p;
}

#endif
