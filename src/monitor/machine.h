/* SPDX-License-Identifier: MIT */
/* machine.h - Resource Monitor: what of a host does not change while it runs, and matters to a process that comes from another one. Read once. */
#ifndef FM_MONITOR_MACHINE_H
#define FM_MONITOR_MACHINE_H

#include <stdint.h>

struct fm_machine {
	char arch[65];                                        /* uname -m */
	char cpu_vendor[64], cpu_model[128], cpu_flags[4096]; /* of /proc/cpuinfo's first processor; "" not known */
	uint32_t page_bytes;
	uint32_t xsave_bytes;    /* CPUID leaf 0xD, sub-leaf 0, EBX: of the components that are switched on; 0: no x86, or no xsave */
	uint64_t xsave_features; /* XCR0: these components */
	char cgroup_mode[8];     /* "v2", "hybrid", "v1"; "" not known */
};

/* What cannot be read is left "" or 0. */
void fm_machine_read(struct fm_machine *ret);

/* From the text of a /proc/cpuinfo: three fields of *ret. */
void fm_machine_parse_cpuinfo(const char *text, struct fm_machine *ret);

#endif
