/* SPDX-License-Identifier: MIT */
/*
 * compat.h - Decision Engine: can this container move to that host? A pure function of what is known of the container and of both hosts; the same for `can-migrate` and for PLANNING.
 *
 * About processors: CRIU 4.2 compares them only when an image of the processor was asked for (cr-restore.c, CPU_CAP_IMAGE), which no dump here does, because it refuses differences that do no harm. So the rules are here:
 * saved registers need every state component (xfeatures) and as much room (CPUID leaf 0xD) as the source gave them; of instructions, nobody knows which ones a program found when it began, so that each one that the
 * destination lacks counts, unless label fleximigrate.cpu=ignore says otherwise. A destination that has more is fine.
 */
#ifndef FM_DECISION_COMPAT_H
#define FM_DECISION_COMPAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum fm_compat_severity {
	FM_COMPAT_BLOCKER, /* it is not begun */
	FM_COMPAT_RISK,    /* it is begun; may fail, or be noticed */
	FM_COMPAT_NOTE,
};
const char *fm_compat_severity_to_string(enum fm_compat_severity s);

/* Which gate of PLANNING a blocker closes. */
enum fm_compat_part {
	FM_COMPAT_CONTAINER, /* the container itself */
	FM_COMPAT_READINESS, /* policy destination_readiness */
	FM_COMPAT_CAPACITY,  /* policy destination_capacity */
};

/* Strings may be NULL or "", numbers 0: not known. */
struct fm_compat_host {
	const char *name, *kernel, *machine, *cpu_vendor, *cpu_model;
	const char *cpu_flags;   /* as in /proc/cpuinfo, one space between */
	const char *cgroup_mode; /* "v1", "hybrid", "v2" */
	const char *runtime_version, *criu_version, *criu_problem;
	const char *ordinary_problem; /* why no ordinary container can be restored there */
	uint64_t xsave_features;      /* components that are switched on (XCR0) */
	uint32_t xsave_bytes, page_bytes;
	uint64_t memory_available_bytes, disk_available_bytes;
};

struct fm_compat_container {
	const char *name;
	bool nested, ignore_cpu;
	uint64_t memory_bytes, rootfs_bytes;
	char *const *blockers; /* what its host found in it, in plain words */
	size_t n_blockers;
};

struct fm_compat_finding {
	enum fm_compat_severity severity;
	enum fm_compat_part part;
	const char *subject; /* "cpu", "memory", … */
	char text[512], remedy[256];
};
#define FM_COMPAT_MAX 96
struct fm_compat {
	struct fm_compat_finding v[FM_COMPAT_MAX]; /* blockers first; within a severity in the order of the checks */
	size_t n;
};

/* Large (80 KB): not for a stack. */
void fm_compat_check(const struct fm_compat_container *c, const struct fm_compat_host *from, const struct fm_compat_host *to,
                     struct fm_compat *ret);
/* The first blocker of that part, or NULL. */
const struct fm_compat_finding *fm_compat_blocker(const struct fm_compat *c, enum fm_compat_part part);
/* What helps against something that was found in a container; "" when nothing is known to. */
const char *fm_compat_remedy(const char *blocker);

#endif
