/* SPDX-License-Identifier: MIT */
/* criu-log.h - what CRIU says about a failure, made short: for us, who run it, and for runtimes, which only say that it failed. Private to this room. */
#ifndef FM_CONTAINER_CRIU_LOG_H
#define FM_CONTAINER_CRIU_LOG_H

#include <stddef.h>

/* The error lines of a log in the folder, or else of what came before the log (stderr_fd, -1 = nothing); "" when there are none. */
void fm_criu_log_errors(int folder_fd, const char *log_file, int stderr_fd, char *buf, size_t cap);
/* A hint for such lines, or NULL. */
const char *fm_criu_log_advice(const char *errors);

#endif
