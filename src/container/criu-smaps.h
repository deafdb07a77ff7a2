/* SPDX-License-Identifier: MIT */
/*
 * criu-smaps.h - what /proc/PID/smaps says that CRIU needs, without the time that the kernel takes to say it. Part of criu-view.h.
 *
 * CRIU reads smaps of every frozen process for two things: the mappings and their VmFlags. The kernel counts every page for it, 20 ms a GB. The mappings can be had from /proc/PID/maps at
 * once; flags hardly ever change. So they are read while the tree runs, handed out in the freeze for mappings that are the same as then (in all that maps shows), and compared with the real
 * ones while the destination restores: nothing is committed on flags that were not true. A mapping that is new since makes the kernel answer.
 *
 * Threads: one at a time.
 */
#ifndef FM_CONTAINER_CRIU_SMAPS_H
#define FM_CONTAINER_CRIU_SMAPS_H

#include <sys/types.h>

#include "basic/error.h"

struct fm_smaps;
/* Every process of the tree at root (host pid) as it is now. Processes that end meanwhile are left out. */
int fm_smaps_look(pid_t root, struct fm_smaps **ret, struct fm_error *err);
void fm_smaps_free(struct fm_smaps *s); /* NULL-safe */
/* The process is frozen: its smaps as far as CRIU reads it (mappings and VmFlags), malloc'ed. NULL: something is new, or cannot be read; ask the kernel. */
char *fm_smaps_answer(struct fm_smaps *s, pid_t host_pid);
/* Still frozen: was everything that was answered true? ABORTED: no; what was made of it must not be used. */
int fm_smaps_verify(const struct fm_smaps *s, struct fm_error *err);

#endif
