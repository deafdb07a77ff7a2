/* SPDX-License-Identifier: MIT */
/*
 * dirty.h - how fast a group of processes changes its memory, estimated without disturbing it: nothing is stopped, nothing is written to clear_refs, no page is protected, no page is brought in.
 *
 * Two looks. The first draws FM_DIRTY_PAGES pages at random from the private writable memory of the group's largest processes, of those that are present (pagemap), reads them (process_vm_readv) and keeps a hash
 * of each. A second look some time later hashes the same pages again. The part that has changed, times the private memory of the group, by the time between, plus what the memory has grown by, is the
 * rate: different bytes changed a second, which is what a round of pre-copy has to send. With k of n pages changed the standard error is sqrt(k (1 - k/n)) / k of it; so where few have changed after a
 * second the same pages are looked at once more, after four seconds. What this cannot see: pages written with what they held already (which need not be sent either), shared memory, and how often a page is
 * written. Where nearly all pages have changed the rate is "at least".
 *
 * One look costs 0.3 to 3 ms of processor time (docs/MONITORING.md). An object looks at one group at a time. Not thread-safe. Nothing is allocated after _new.
 */
#ifndef FM_MONITOR_DIRTY_H
#define FM_MONITOR_DIRTY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define FM_DIRTY_PAGES     256u
#define FM_DIRTY_PROCESSES 8u /* the largest ones, that are looked into; the others are taken to be like them */
#define FM_DIRTY_SHORT_MS  1000u
#define FM_DIRTY_LONG_MS   4000u
#define FM_DIRTY_FEW       16u /* changed pages: with fewer it is looked at for longer */

struct fm_dirty;

struct fm_dirty *fm_dirty_new(uint64_t seed); /* NULL: no memory */
void fm_dirty_free(struct fm_dirty *d);

/* The first look. false: there is nothing that could be looked at: no such processes, or hardly any of what they have mapped is present. root: before /proc, "" but for tests. */
bool fm_dirty_begin(struct fm_dirty *d, const char *root, const pid_t *pids, size_t n, uint64_t now_us);
/* A later look: 1 done, *ret is bytes a second; 0 too early, or to be looked at again; -1 it cannot be known (a process has ended, the pages are gone). */
int fm_dirty_look(struct fm_dirty *d, uint64_t now_us, uint64_t *ret);

#endif
