/* SPDX-License-Identifier: MIT */
/*
 * root.h - the root filesystem of a container that runs, as its processes have it, and nothing that is mounted on it.
 *
 * Engines keep root filesystems in stores of their own; whatever those are, the mount at "/" of the container's mount namespace is the root filesystem, for reading and for writing. A detached copy of that
 * one mount (open_tree, since Linux 5.2) shows what lies below /proc, volumes and the like, too, lets nothing else in, and holds no name in anybody's mount table. It is gone with its last descriptor.
 */
#ifndef FM_CONTAINER_ROOT_H
#define FM_CONTAINER_ROOT_H

#include <sys/types.h>

#include "basic/error.h"

/* pid: host pid of a process of it. *ret_fd: O_PATH folder, close-on-exec; the mount stays usable when the container ends. Any thread. */
int fm_root_open(pid_t pid, int *ret_fd, struct fm_error *err);
/* The name by which this process can hand it to whoever wants a path (malloc): "/proc/self/fd/N/." */
char *fm_root_path(int fd);

#endif
