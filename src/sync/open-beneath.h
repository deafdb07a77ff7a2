/* SPDX-License-Identifier: MIT */
/* open-beneath.h - opening what lies in a tree that others may write to: never through a link, a mount or out of it, and never anything but a folder or a regular file. */
#ifndef FM_SYNC_OPEN_BENEATH_H
#define FM_SYNC_OPEN_BENEATH_H

#include <stdint.h>
#include <sys/stat.h>

/* path: relative to dirfd. flags: O_PATH, or O_RDONLY | O_DIRECTORY. -1 and errno. */
int fm_open_beneath(int dirfd, const char *path, uint64_t flags);
/* To be read, without a new access time where that is allowed. A device or a fifo put in a file's place is never opened. -1: it is none, or cannot be. */
int fm_open_regular_beneath(int dirfd, const char *path, struct stat *ret);
/* What a descriptor with O_PATH stands for, as above. */
int fm_open_regular_at(int path_fd, struct stat *ret);

#endif
