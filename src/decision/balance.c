/* SPDX-License-Identifier: MIT */
/* balance.c - see balance.h. The search is in search.c, the order of steps in order.c. */
#include "decision/balance.h"

#include <stdio.h>

#include "basic/cleanup.h"
#include "decision/memory.h"
#include "decision/order.h"
#include "decision/search.h"

#define ATTEMPTS 3 /* when an assignment is found, but no order in which its moves work */

static void finish(struct fm_plan *p, const struct fm_load *l)
{
	char what[128];
	fm_plan_add_over(p, l);
	fm_plan_sort_left(p);
	p->complete = p->n_over == 0;
	fm_plan_describe(p, what, sizeof(what));
	if (p->n_steps == 0 && p->complete)
		(void)snprintf(p->summary, sizeof(p->summary), "No host is over its thresholds: nothing to do.");
	else if (p->complete)
		(void)snprintf(p->summary, sizeof(p->summary), "All hosts get under their thresholds: %s.", what);
	else
		(void)snprintf(p->summary, sizeof(p->summary), "%zu host%s over a threshold: %s.", p->n_over,
		               p->n_over == 1 ? " stays" : "s stay", what);
}

/* One plan from home; *ret_stuck: containers that could not get where they should, and may not be sent there again. */
static struct fm_plan *attempt(struct fm_load *l, const struct fm_plan_opts *o, size_t *ret_stuck)
{
	struct fm_plan *p = fm_alloc_array(1, sizeof(*p));
	p->kind = FM_PLAN_BALANCE;
	(void)fm_search_relieve(l, o->weights);
	_fm_free_ size_t *wanted = fm_search_hosts(l);
	_fm_free_ size_t *to = fm_search_hosts(l);
	fm_search_reset(l, NULL);
	fm_plan_assemble(p, l, to, o);
	*ret_stuck = 0;
	for (size_t i = 0; i < l->n_items; i++)
		if (to[i] != wanted[i]) {
			l->items[i].avoids = wanted[i];
			++*ret_stuck;
		}
	fm_search_reset(l, to);
	finish(p, l);
	fm_search_reset(l, NULL);
	return p;
}

int fm_plan_balance(const struct fm_snapshot *s, const struct fm_plan_opts *o, struct fm_plan **ret, struct fm_error *err)
{
	struct fm_plan_opts r = fm_plan_opts_resolved(o);
	struct fm_load_opts lo = { .percent = { r.cpu_percent, r.memory_percent }, .drained = FM_NONE };
	_fm_cleanup_(fm_load_freep) struct fm_load *l = fm_load_new(s, &lo);
	size_t stuck = 0;
	fm_search_give_up(l);
	struct fm_plan *best = attempt(l, &r, &stuck);
	for (int i = 1; i < ATTEMPTS && stuck > 0; i++) {
		struct fm_plan *p = attempt(l, &r, &stuck);
		bool better = p->n_over < best->n_over; /* else the first one, which says what is stuck */
		fm_plan_free(better ? best : p);
		best = better ? p : best;
	}
	*ret = best;
	return 0;
}
