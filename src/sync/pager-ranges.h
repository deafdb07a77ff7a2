/* SPDX-License-Identifier: MIT */
/*
 * pager-ranges.h - the pager's table: which pages of which task are lazy, where each address space has them now, which are done, which are
 * asked for. Internal to the pager.
 *
 * A *task* is one of the images' processes; its lazy pages are numbered 0..n_pages-1 in order of their address in the source. A page is
 * asked for by task and number, that is by the only address the source knows. A *space* is an address space with a userfaultfd: the
 * restored task, or one that forked off since. Its extents say where it has which pages, its bitmap says which of them are *done*: filled,
 * or removed or unmapped by the application. Done is for ever: what was removed reads as zeros. Every page of a space that is not done lies
 * in exactly one of its extents.
 *
 * No system calls but for the state file, no lock: the pager's.
 */
#ifndef FM_SYNC_PAGER_RANGES_H
#define FM_SYNC_PAGER_RANGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "basic/error.h"
#include "sync/pager-state.h"
#include "sync/pager.h"

struct fm_pager_extent {
	uint64_t addr;
	uint64_t page; /* number of the first */
	uint64_t n_pages;
};

struct fm_pager_space {
	uint64_t key;
	uint32_t task;
	uint32_t slot;
	int fd; /* userfaultfd, owned */
	bool forked, kept;
	bool dead;        /* the address space is gone: to be dropped */
	bool unguarded;   /* keeping it failed: served, but lost in a crash */
	uint64_t missing; /* pages not done */
	uint64_t *done;   /* bitmap, in the state file */
	/* Sorted by address and by page; both are the task's until the application moves something. */
	struct fm_pager_extent *by_addr, *by_page;
	size_t n_extents;
	struct fm_pager_extent *saved; /* by_addr in the state file, NULL: the task's */
	struct fm_pager_space *next;   /* of the same task */
};

enum fm_pager_task_state { FM_TASK_AWAITED, FM_TASK_HERE, FM_TASK_GONE };

struct fm_pager_task {
	pid_t pid;
	enum fm_pager_task_state state;
	struct fm_pager_extent *extents; /* as in the images: addresses of the source */
	size_t n_extents;
	uint64_t n_pages;
	uint64_t *asked; /* bitmap */
	struct fm_pager_space *spaces;
};

struct fm_pager_table {
	struct fm_pager_task *tasks; /* by pid */
	size_t n_tasks;
	struct fm_pager_extent *extents; /* all tasks' */
	uint64_t n_pages;
	struct fm_pager_space **spaces; /* by key */
	size_t n_spaces;
	struct fm_pager_state *state;
};

/*
 * The ranges may come in any order; overlapping, unaligned or too many (2^32 pages) are DATA_LOSS. create starts a new state file, open
 * takes up an old one: its spaces are there, without descriptors.
 */
int fm_table_create(int dirfd, const struct fm_pager_range *v, size_t n, struct fm_pager_table **ret, struct fm_error *err);
int fm_table_open(int dirfd, const struct fm_pager_range *v, size_t n, struct fm_pager_table **ret, struct fm_error *err);
/* Closes the descriptors of the spaces. */
void fm_table_free(struct fm_pager_table *t);

/*
 * A restored task's space; fd is owned from now on, also on failure. A process of which the images list nothing gets a task without pages.
 * A second one for a process is refused.
 */
int fm_table_add(struct fm_pager_table *t, pid_t pid, int fd, struct fm_pager_space **ret, struct fm_error *err);
/* A copy of parent as it is now, for the child; without a descriptor. */
int fm_table_fork(struct fm_pager_table *t, const struct fm_pager_space *parent, struct fm_pager_space **ret, struct fm_error *err);
void fm_table_set_kept(struct fm_pager_table *t, struct fm_pager_space *s);
/* Forget a space, close its descriptor. */
void fm_table_drop(struct fm_pager_table *t, struct fm_pager_space *s);
struct fm_pager_space *fm_table_space(const struct fm_pager_table *t, uint64_t key);
/* The task's space with the smallest key above `after`, or NULL. */
struct fm_pager_space *fm_table_next_space(const struct fm_pager_table *t, uint32_t task, uint64_t after);
/* Every task with pages has its space and every space of the restore is kept. */
bool fm_table_all_kept(const struct fm_pager_table *t);
uint64_t fm_table_missing(const struct fm_pager_table *t, bool forked_too);

/* Number of the page that the space has (or had) at addr; false: none of the images' pages. */
bool fm_space_page_at(const struct fm_pager_space *s, uint64_t addr, uint64_t *ret_page);
bool fm_space_is_done(const struct fm_pager_space *s, uint64_t page);
void fm_space_set_done(struct fm_pager_space *s, uint64_t page, uint64_t n);
/* The first run of pages in [page, end) that are not done and lie together in the space, at most max. */
bool fm_space_next_missing(const struct fm_pager_space *s, uint64_t page, uint64_t end, uint64_t max, struct fm_pager_extent *ret);
/* The application removed or unmapped [start, end). */
void fm_space_remove(struct fm_pager_space *s, uint64_t start, uint64_t end);
/* The application moved [from, from + len) to `to`. */
int fm_space_remap(struct fm_pager_table *t, struct fm_pager_space *s, uint64_t from, uint64_t to, uint64_t len, struct fm_error *err);

uint64_t fm_task_address(const struct fm_pager_task *task, uint64_t page); /* in the source */
void fm_task_set_asked(struct fm_pager_task *task, uint64_t page, uint64_t n, bool asked);
bool fm_task_is_asked(const struct fm_pager_task *task, uint64_t page);
/* The first run in [page, end) that some space lacks, that is not asked for, and that lies together in the source, at most max. */
bool fm_task_next_wanted(const struct fm_pager_task *task, uint64_t page, uint64_t end, uint64_t max, uint64_t *ret_page, uint32_t *ret_n);

#endif
