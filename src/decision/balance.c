/* SPDX-License-Identifier: MIT */
/* balance.c - see balance.h. The search is in search.c, the order of steps in order.c. */
#include "decision/balance.h"

#include <stdio.h>

#include "decision/memory.h"
#include "decision/order.h"
#include "decision/search.h"

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

int fm_plan_balance(const struct fm_snapshot *s, const struct fm_plan_opts *o, struct fm_plan **ret, struct fm_error *err)
{
	struct fm_plan_opts r = fm_plan_opts_resolved(o);
	struct fm_load_opts lo = { .percent = { r.cpu_percent, r.memory_percent }, .drained = FM_NONE };
	_fm_cleanup_(fm_load_freep) struct fm_load *l = fm_load_new(s, &lo);
	struct fm_plan *p = fm_alloc_array(1, sizeof(*p));
	p->kind = FM_PLAN_BALANCE;
	fm_search_give_up(l);
	(void)fm_search_relieve(l, r.weights);
	size_t *to = fm_search_hosts(l);
	fm_search_reset(l, NULL);
	fm_plan_assemble(p, l, to, &r);
	fm_search_reset(l, to);
	finish(p, l);
	free(to);
	*ret = p;
	return 0;
}
