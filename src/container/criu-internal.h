/* SPDX-License-Identifier: MIT */
/* criu-internal.h - shared by criu.c (the protocol) and criu-start.c (how the program gets running). For nobody else. */
#ifndef FM_CONTAINER_CRIU_INTERNAL_H
#define FM_CONTAINER_CRIU_INTERNAL_H

#include "container/criu.h"

/* A running `criu swrk`, our child. */
struct fm_criu_process {
	pid_t pid;
	int pidfd;
	int socket;    /* our end of the RPC */
	int view_fd;   /* the other end of its filter (criu-view.h), or -1 */
	int stderr_fd; /* memfd: what the loader and CRIU wrote before the log file was open */
};

/* o may be NULL: outside, without an images folder. Does not speak to it yet. */
int fm_criu_spawn(const char *prefix, const struct fm_criu_start_opts *o, struct fm_criu_process *ret, struct fm_error *err);

/* write(2) to a pipe whose reader may be dead: EPIPE, never SIGPIPE. */
ssize_t fm_criu_write_quietly(int fd, const void *buf, size_t n);

/* CRIU's working files in its work folder that are no images (see criu-start.c). */
void fm_criu_remove_litter(int images_dirfd);

/* As the child sees them. */
#define FM_CRIU_CHILD_SOCKET    3
#define FM_CRIU_CHILD_IMAGES_FD 4
#define FM_CRIU_CHILD_IMAGES    "/proc/self/fd/4"

#endif
