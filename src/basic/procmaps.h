/* SPDX-License-Identifier: MIT */
/* procmaps.h - /proc/PID/maps and smaps, line by line: who looks at a process's mappings starts here. Text comes from fm_proc_read (proc.h). */
#ifndef FM_BASIC_PROCMAPS_H
#define FM_BASIC_PROCMAPS_H

#include <stdbool.h>
#include <stdint.h>

#define FM_PROC_MAPS_MAX  (64u << 20)  /* bytes of maps that are read */
#define FM_PROC_SMAPS_MAX (256u << 20) /* and of smaps */

struct fm_map {
	uint64_t start, end, offset, inode; /* offset: in the file */
	bool writable, shared;
	const char *name; /* in the line; "" when there is none */
};

/* A line without its end, "start-end perms offset major:minor inode   name"; false when it is none. */
bool fm_map_parse(const char *line, struct fm_map *ret);
/* Private memory that is no file's: heap, stacks, anonymous. What the kernel brings along itself ([vdso], [vvar], …) is not. */
bool fm_map_is_private_anonymous(const struct fm_map *m);

/* Cuts the line at p off (its end becomes NUL). The start of the next one, or NULL. */
char *fm_cut_line(char *p);
/* Each mapping of smaps: its header line and the flags after "VmFlags: " (two letters each, with a space after each but maybe the last). Cuts text into lines. Ends at the first that
 * returns less than 0, and returns that. */
typedef int (*fm_smaps_fn)(void *userdata, const char *header, char *flags);
int fm_smaps_each(char *text, fm_smaps_fn fn, void *userdata);
/* flag: two letters */
bool fm_smaps_has_flag(const char *flags, const char *flag);

#endif
