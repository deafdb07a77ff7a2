/* SPDX-License-Identifier: MIT */
/*
 * child.h - run another program, with a deadline and bounded output.
 *
 * fm_child_run: start argv[0] (searched in our PATH), stdin from /dev/null, capture stdout and stderr (64 KiB each kept, the rest read
 * and dropped), wait. The child gets its own process group, default signal mask and dispositions, no inherited descriptor but 0-2
 * and `keep_fds` (same numbers). At the deadline the whole group gets SIGTERM, 2 s later SIGKILL; result DEADLINE_EXCEEDED. A
 * non-zero exit is FAILED_PRECONDITION with the last line of stderr in the message; ret->exit_status tells it then. A program that
 * cannot be found is NOT_FOUND. Processes that a successful child left behind (a daemon) stay; their later output is not waited for.
 * Threads: safe from any (no SIGCHLD handler; pidfd and waitid on the one child).
 */
#ifndef FM_LOOP_CHILD_H
#define FM_LOOP_CHILD_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "basic/error.h"

struct fm_child_opts {
	int timeout_ms;      /* 0 = 30 s */
	const int *keep_fds; /* descriptors that stay open in the child, all > 2, -1-terminated; NULL none */
	char *const *env;    /* NULL = environ */
	int stdout_fd;       /* >0: use instead of capturing; 0 = capture */
	int stderr_fd;       /* likewise */
	int cancel_fd;       /* >0: readable = terminate early, CANCELLED */
};

struct fm_child_result {
	int exit_status; /* as WEXITSTATUS, or 128+signal; on failure too, -1 when the child did not end by itself */
	char *out;       /* captured, NUL-terminated, never NULL on return of 0, always NULL on failure; free with fm_child_result_done */
	char *err;
};

/* opts may be NULL; ret may be NULL when nobody wants the output. */
int fm_child_run(char *const *argv, const struct fm_child_opts *opts, struct fm_child_result *ret, struct fm_error *err);
void fm_child_result_done(struct fm_child_result *r);
/* Whether PATH leads to any file of this name, executable or not. */
bool fm_found_in_path(const char *name);

#endif
