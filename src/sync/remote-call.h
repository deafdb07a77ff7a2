/* SPDX-License-Identifier: MIT */
/*
 * remote-call.h - a task of somebody else, held still for a moment, and system calls made by it.
 *
 * ptrace belongs to a thread, and a task that does not stop cannot be let go by its tracer. So each of the functions below works in a thread
 * of its own: whatever it still traces when it ends is let go by the kernel. The caller waits for it; every wait inside has a deadline.
 *
 * Afterwards the task runs on (or stays stopped, when it was stopped by SIGSTOP) with the registers and the signal mask it had. The exception:
 * when this process is killed between the first changed register and the last restored one (some 50 us), the task cannot go on.
 *
 * Tracing sends SIGCHLD to this process. Nobody in it may wait for any child (waitpid(-1)) meanwhile: it would take the stops away.
 *
 * Errors: NOT_FOUND the task has ended; FAILED_PRECONDITION it is traced by somebody else, or cannot make calls (32-bit, no vdso, another
 * architecture than x86-64); DEADLINE_EXCEEDED it did not stop (it waits in the kernel, as the parent in a vfork(2) does) and was not touched.
 */
#ifndef FM_SYNC_REMOTE_CALL_H
#define FM_SYNC_REMOTE_CALL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "basic/error.h"

struct fm_remote;
typedef int (*fm_remote_fn)(struct fm_remote *r, void *userdata, struct fm_error *err);

bool fm_remote_call_is_possible(void);

/* Stops the leader of the process and runs fn, which may make calls. Its error is ours. */
int fm_remote_run(pid_t pid, fm_remote_fn fn, void *userdata, struct fm_error *err);
/* *ret: what the kernel returned, -errno included. Only from fn. With seccomp suspended, all signals blocked. */
int fm_remote_call(struct fm_remote *r, long nr, const long args[3], long *ret, struct fm_error *err);

/* Stops all threads of the processes, runs fn (its first argument is NULL) and lets them go. Who ended meanwhile is left out. */
int fm_remote_hold(const pid_t *pids, size_t n, fm_remote_fn fn, void *userdata, struct fm_error *err);

#endif
