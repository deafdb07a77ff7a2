/* SPDX-License-Identifier: MIT */
/*
 * criu-view.h - what a dumping CRIU gets to see of the tree's memory: nothing of the pages that we bring to the destination ourselves.
 *
 * A dump of CRIU walks and pins every page of the tree, 0.1 ms a MB and more, even when it is "lazy" and writes none of them. Pages of private anonymous
 * memory are not its business here: they are on their way, or already there, or will be asked for by the fault server. So CRIU runs under a seccomp filter
 * that hands its PAGEMAP_SCAN ioctls (before Linux 6.7: its reads of pagemap) to us, and we answer that those mappings hold no pages; all else it learns from the kernel as ever. The tree itself is not touched: giving up
 * costs nothing. A restore with lazy pages registers every such mapping with the fault server, whatever the images hold (criu/pie/restorer.c, vma_remap), so
 * what was hidden is asked for there; pager.h registers them once more, so that a mapping that is not covered is an error before the commit, never a page of zeros.
 *
 * Hidden: exactly what CRIU calls lazy (criu/include/vma.h, vma_entry_can_be_lazy): private, anonymous, not locked, not huge pages of hugetlbfs.
 *
 * If this process dies, the kernel answers these calls with ENOSYS: the dump fails and is undone.
 *
 * Threads: a thread of its own answers; the functions may be called from any one other.
 */
#ifndef FM_CONTAINER_CRIU_VIEW_H
#define FM_CONTAINER_CRIU_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "basic/error.h"
#include "container/criu-smaps.h"
#include "container/images.h"

/* Can it be done on this kernel (seccomp user notification, pidfd_getfd)? */
bool fm_criu_view_is_possible(void);
/* In the child, before exec; async-signal-safe. maps: the opening of smaps as well (criu-smaps.h). The descriptor to hand to fm_criu_view_new, or -1 and errno. Needs CAP_SYS_ADMIN. */
int fm_criu_view_install(bool maps);

struct fm_criu_view;
/* Takes the descriptor, also on failure. Until fm_criu_view_hide CRIU sees everything. */
int fm_criu_view_new(int listener_fd, pid_t criu_pid, struct fm_criu_view **ret, struct fm_error *err);
/* Ends the thread; later ioctls of CRIU fail. NULL-safe. */
void fm_criu_view_free(struct fm_criu_view *v);
/* From now on, for the tree at root (host pid). Looks at a process when CRIU first asks for it, which is when all are frozen: then frozen_fd (> 0, an eventfd, borrowed) is
 * written to. smaps: what is answered for it, or NULL; taken. */
void fm_criu_view_hide(struct fm_criu_view *v, pid_t root, int frozen_fd, struct fm_smaps *smaps);
/* While the tree is still frozen: the pages that exist in hidden mappings, sorted by (pid, vaddr); *ret malloc'ed. An error when CRIU could not be answered properly. */
int fm_criu_view_ranges(struct fm_criu_view *v, struct fm_lazy_range **ret, size_t *ret_n, struct fm_error *err);

/* Later, still frozen, CRIU may have let go: was everything true that was not the kernel's word? ABORTED: no. */
int fm_criu_view_verify(struct fm_criu_view *v, struct fm_error *err);

#endif
