/* SPDX-License-Identifier: MIT */
/* open-beneath.c - see open-beneath.h. */
#include "sync/open-beneath.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "basic/cleanup.h"

int fm_open_beneath(int dirfd, const char *path, uint64_t flags)
{
	struct open_how how = {
		.flags = flags | O_CLOEXEC | O_NOFOLLOW,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
	};
	return (int)syscall(SYS_openat2, dirfd, path, &how, sizeof(how));
}

int fm_open_regular_at(int path_fd, struct stat *ret)
{
	char proc[48];

	if (fstat(path_fd, ret) < 0 || !S_ISREG(ret->st_mode))
		return -1;
	(void)snprintf(proc, sizeof(proc), "/proc/self/fd/%d", path_fd);
	int fd = open(proc, O_RDONLY | O_NOATIME | O_CLOEXEC);
	return fd < 0 && errno == EPERM ? open(proc, O_RDONLY | O_CLOEXEC) : fd;
}

int fm_open_regular_beneath(int dirfd, const char *path, struct stat *ret)
{
	_fm_close_ int path_fd = fm_open_beneath(dirfd, path, O_PATH);

	return path_fd < 0 ? -1 : fm_open_regular_at(path_fd, ret);
}
