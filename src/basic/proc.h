/* SPDX-License-Identifier: MIT */
/*
 * proc.h - processes as /proc shows them, and a name for a process that pid reuse cannot fool (pid + start time).
 */
#ifndef FM_BASIC_PROC_H
#define FM_BASIC_PROC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "basic/error.h"

struct fm_proc_id {
	pid_t pid;
	uint64_t start_ticks;
}; /* start_ticks: field 22 of /proc/PID/stat */

int fm_proc_identify(pid_t pid, struct fm_proc_id *ret, struct fm_error *err);
/*
 * true when that very process still exists and is not a zombie; also true when /proc cannot be read, because "unknown" must not pass
 * for "dead"
 */
bool fm_proc_alive(const struct fm_proc_id *id);
/* 'R','S','D','T','t','Z'…; 0 when gone, '?' when it cannot be read */
char fm_proc_state(pid_t pid);
/* pid as seen in the innermost pid namespace of the process (last number of NSpid) */
int fm_proc_ns_pid(pid_t pid, pid_t *ret, struct fm_error *err);
/* A file of /proc/PID, as fm_read_file */
int fm_proc_read(pid_t pid, const char *name, size_t max_bytes, char **ret, size_t *ret_len, struct fm_error *err);
/* The number behind a key ("VmLck:") in /proc/PID/status; 0 when there is no such line */
int fm_proc_status_number(pid_t pid, const char *key, uint64_t *ret, struct fm_error *err);
/* VmRSS in bytes */
int fm_proc_rss_bytes(pid_t pid, uint64_t *ret, struct fm_error *err);
/* Direct children (all threads'), host pids. *ret: malloc'ed array. */
int fm_proc_children(pid_t pid, pid_t **ret, size_t *ret_n, struct fm_error *err);
/* pid and all descendants, pid first, breadth first, at most FM_MAX_TREE_PROCESSES */
int fm_proc_tree(pid_t root, pid_t **ret, size_t *ret_n, struct fm_error *err);
/* A pidfd, or -1 and errno. ESRCH: there is no such process; of one that is just being reaped, and of a thread's number, kernels say EINVAL (6.1) or ENOENT (6.18): never from here. */
int fm_pidfd_open(pid_t pid);
/*
 * wait until the process is gone or a zombie (pidfd poll); DEADLINE_EXCEEDED otherwise; timeout_ms < 0 waits for ever. Not only for
 * children.
 */
int fm_proc_wait_gone(const struct fm_proc_id *id, int timeout_ms, struct fm_error *err);

/*
 * How the calling thread stands to everything ordinary on this host. Hurried (nice -15): the few threads that work inside a freeze or that faulting tasks wait for: a host that is being drained
 * is a busy host. Patient (nice 10): work that only has to be done some time, next to an application that is not to feel it. Threads and processes that the thread makes meanwhile inherit it.
 */
enum fm_haste { FM_HASTE_USUAL, FM_HASTE_PATIENT, FM_HASTE_HURRIED };
void fm_thread_haste(enum fm_haste h);

#endif
