/* SPDX-License-Identifier: MIT */
/*
 * cgroup.h - the cgroups the runtime makes for our instances (v1, hybrid and v2): only what the runtime does not do itself.
 *
 * Processor time: what a container's cgroup has used, and its quota, which is the only thing that is ever changed there, and only for a while. No state is kept between calls but the
 * names of the files; any thread.
 */
#ifndef FM_CONTAINER_CGROUP_H
#define FM_CONTAINER_CGROUP_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "basic/error.h"

/* The runtime removes an instance's own cgroup and leaves the folders above it. Remove `path` ("/fleximigrate/HOST") and its parents, in every hierarchy mounted here,
 * as far as they are empty. Best effort: a cgroup in use stays. */
void fm_cgroup_prune(const char *path);

struct fm_cgroup_cpu;

/* The cgroup that the process is in. FAILED_PRECONDITION when it has none of its own (the root's cannot be limited), or one without a quota. */
int fm_cgroup_cpu_open(pid_t pid, struct fm_cgroup_cpu **ret, struct fm_error *err);
void fm_cgroup_cpu_free(struct fm_cgroup_cpu *c);
/* Processor time that all its processes have had so far */
int fm_cgroup_cpu_used_us(const struct fm_cgroup_cpu *c, uint64_t *ret, struct fm_error *err);
/* The quota as it is now, in one line "FILE=VALUE" of at most cap bytes: what fm_cgroup_cpu_restore wants. */
int fm_cgroup_cpu_remember(const struct fm_cgroup_cpu *c, char *ret, size_t cap, struct fm_error *err);
/* At most so many microseconds of processor time a second. A quota that is lower already stays; the kernel's smallest one is a millisecond a period. */
int fm_cgroup_cpu_limit(const struct fm_cgroup_cpu *c, uint64_t us_per_s, struct fm_error *err);
/* Puts back what was remembered. Repeatable; a cgroup that is gone needs nothing. */
int fm_cgroup_cpu_restore(const char *remembered, struct fm_error *err);

#endif
