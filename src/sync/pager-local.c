/* SPDX-License-Identifier: MIT */
/*
 * pager-local.c - the pager and the pages that are here already.
 *
 * They came before the freeze (push.h). A fault on one of them costs one copy, and brings the ones behind it along; the rest is put into place piece by piece by the fault thread
 * itself, so that a fault waits for one piece at most. Only when all that is here has been tried does the background ask the source for what is left.
 *
 * Whatever does not go in now (a change of the address space that takes too long, a child that came to life meanwhile) the source is asked for later: it has these pages too.
 */
#include "basic/clock.h"
#include "sync/pager-internal.h"

#define AHEAD_PAGES 16u /* with a fault */
#define PIECE_PAGES 64u
#define TRIES_MAX   1024u

bool fm_pager_local_is_over(const struct fm_pager *p)
{
	return !p->o.local || p->local.done;
}

/* Pages [page, page + *n) of the task are wanted and lie together: what of it, from the front, is here? 0: nothing, *n says of how many that is true. */
static int put_local(struct fm_pager *p, uint32_t task, uint64_t page, uint32_t *n, struct fm_error *err)
{
	const struct fm_pager_task *t = &p->table->tasks[task];
	enum fm_page_have have = FM_PAGE_NOT_HERE;
	const void *data = NULL;
	uint64_t vaddr = fm_task_address(t, page);

	*n = (uint32_t)p->o.local(p->o.userdata, t->pid, vaddr, *n, &have, &data);
	if (have == FM_PAGE_NOT_HERE)
		return 0;
	if (fm_pager_put_everywhere(p, task, page, page + *n, have == FM_PAGE_DATA ? data : NULL, err) < 0)
		return -1;
	if (p->o.local_taken)
		p->o.local_taken(p->o.userdata, t->pid, vaddr, *n);
	fm_pager_lock(p);
	p->local.pages += *n;
	fm_pager_unlock(p);
	return 1;
}

/* The next page that a task waits for and that was not tried in this round. */
static bool next_waiting(struct fm_pager *p, size_t *i, uint32_t *ret_task, uint64_t *ret_page)
{
	bool found = false;

	fm_pager_lock(p);
	for (; *i < p->n_waiting && !found; (*i)++) {
		const struct fm_pager_waiting *w = &p->waiting[*i];
		if (fm_task_is_asked(&p->table->tasks[w->task], w->page))
			continue;
		*ret_task = w->task;
		*ret_page = w->page;
		found = true;
	}
	fm_pager_unlock(p);
	return found;
}

static bool next_wanted(struct fm_pager *p, uint32_t task, uint64_t from, uint64_t end, uint64_t max, uint64_t *ret_page, uint32_t *ret_n)
{
	fm_pager_lock(p);
	bool found = fm_task_next_wanted(&p->table->tasks[task], from, end, max, ret_page, ret_n);
	fm_pager_unlock(p);
	return found;
}

/* Served ones leave the list, which is then shorter: those that are not here are passed over. */
static int fill_waiting(struct fm_pager *p, struct fm_error *err)
{
	uint64_t page, next;
	uint32_t task, n;

	/* One that does not go in just now stays: not for ever. */
	for (size_t i = 0, tries = 0; tries < TRIES_MAX && next_waiting(p, &i, &task, &page); tries++) {
		n = 1;
		int r = put_local(p, task, page, &n, err);
		if (r < 0)
			return -1;
		if (r == 0)
			continue;
		i = i > 0 ? i - 1 : 0;
		if (next_wanted(p, task, page + 1, page + 1 + AHEAD_PAGES, AHEAD_PAGES, &next, &n) && put_local(p, task, next, &n, err) < 0)
			return -1;
	}
	return 0;
}

/* One piece. 1: go on, 0: all was tried */
static int fill_piece(struct fm_pager *p, struct fm_error *err)
{
	uint64_t page;
	uint32_t n;

	while (p->local.task < p->table->n_tasks) {
		if (!next_wanted(p, p->local.task, p->local.page, UINT64_MAX, PIECE_PAGES, &page, &n)) {
			p->local.task++;
			p->local.page = 0;
			continue;
		}
		int r = put_local(p, p->local.task, page, &n, err);
		if (r < 0)
			return -1;
		p->local.page = page + n;
		if (r > 0)
			return 1;
	}
	return 0;
}

int fm_pager_fill_local(struct fm_pager *p, struct fm_error *err)
{
	fm_pager_lock(p);
	bool ready = p->o.local && p->table && !p->quit, background = p->background && !p->local.done;
	background = background && ready && fm_pager_state_finished(p->table->state);
	fm_pager_unlock(p);
	if (!ready)
		return 0;
	if (fill_waiting(p, err) < 0)
		return -1;
	int r = background ? fill_piece(p, err) : 0;
	if (background && r == 0) {
		fm_pager_lock(p);
		p->local.done = true;
		fm_pager_unlock(p);
	}
	return r;
}
