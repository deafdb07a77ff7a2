/* SPDX-License-Identifier: MIT */
/*
 * revisit-files.h - what containers that have left this host leave here, so that their files need not travel again when they come back (sync/file-known.h).
 *
 *   <state>/visited/<container>        the root filesystem of the instance that left, moved here: the instance's own copy of it, not needed any more; or
 *   <state>/visited/<container> -> …   a symbolic link to the root filesystem of the user's bundle, which stays where it is and is only ever read
 *   <state>/visited/.gone.…            being removed
 *
 * A cache: losing it costs bandwidth and nothing else, and whatever is taken from it is compared with what the source has. So it needs no durability, and functions here may be interrupted at any
 * instant. A container that is on this host has none: it is removed when the container arrives, is run here, or is removed here by the user.
 *
 * Bounds: 16 of them, a tenth of the filesystem together (or h->revisit_files_max_bytes), seven days, and none while less than a tenth of the disk is free; the oldest go first. What a destination reads
 * just now is locked (flock) and stays until next time.
 */
#ifndef FM_MIGRATION_REVISIT_FILES_H
#define FM_MIGRATION_REVISIT_FILES_H

#include <time.h>

#include "migration/host.h"

#define FM_REVISIT_FILES_MAX           16u
#define FM_REVISIT_FILES_DAYS_MAX      7
#define FM_REVISIT_FILES_TENTH         UINT64_MAX /* h->revisit_files_max_bytes: a tenth of the filesystem */
#define FM_REVISIT_FILES_FREE_PART_MIN 10u        /* a tenth of the disk stays free */

/* The instance, which the runtime does not have any more, leaves its root filesystem; an older one of the container goes. Nothing when it has none, or when they are turned off. May be repeated. */
int fm_revisit_files_keep(struct fm_host *h, const char *container, const char *instance, struct fm_error *err);
int fm_revisit_files_remove(struct fm_host *h, const char *container, struct fm_error *err);
/* *ret_fd: the folder, locked for as long as it is open, -1 when there is none; *ret_since: when the container left. */
void fm_revisit_files_open(struct fm_host *h, const char *container, int *ret_fd, struct timespec *ret_since);
/* Enforce the bounds. measure: also that of the bytes, for which every file is looked at. */
int fm_revisit_files_trim(struct fm_host *h, bool measure, struct fm_error *err);
/* How many, and the disk space of those that are ours. */
void fm_revisit_files_usage(struct fm_host *h, unsigned *ret_n, uint64_t *ret_bytes);

#endif
