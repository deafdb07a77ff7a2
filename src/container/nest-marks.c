/* SPDX-License-Identifier: MIT */
/*
 * nest-marks.c - the files in the control folder that say what a parent does when it is started (nest.h), and the folder itself.
 *
 * A mark that keeps something from being started is on disk before anybody relies on it. Whatever is there under a mark's name counts, also what cannot be looked at.
 *
 * The folder may be a sticky one that is everybody's (the parent image has it so, because the application's user is not known when it is made): no file is opened with O_CREAT that may be there
 * already, which the kernel refuses for somebody else's in such a folder (fs.protected_regular).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "container/nest-internal.h"

static const char *mark_path(const char *name, char path[128])
{
	(void)snprintf(path, 128, FM_NEST_RUN_MOUNT "/%s", name);
	return path;
}

bool nest_mark_is_set(const char *name)
{
	struct stat st;
	char path[128];

	return lstat(mark_path(name, path), &st) == 0 || errno != ENOENT;
}

/* A name must outlive a power cut before anybody relies on it. */
static int sync_folder(void)
{
	int fd = open(FM_NEST_RUN_MOUNT, O_RDONLY | O_DIRECTORY | O_CLOEXEC), e;

	if (fd < 0)
		return errno;
	e = fsync(fd) < 0 ? errno : 0;
	close(fd);
	return e;
}

int nest_mark_set(const char *name)
{
	struct stat st;
	char path[128];
	int fd = open(mark_path(name, path), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd >= 0)
		close(fd);
	else if (errno != EEXIST || lstat(path, &st) < 0)
		return errno;
	else if (!S_ISREG(st.st_mode))
		return ENOTSUP; /* not ours: whoever put it there may take it away again */
	return sync_folder();
}

int nest_marks_clear(void)
{
	static const char *const marks[] = { FM_NEST_MOVED, FM_NEST_HELD_MARK, FM_NEST_WAITING };
	char path[128];
	bool changed = false;

	for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++) {
		if (unlink(mark_path(marks[i], path)) == 0)
			changed = true;
		else if (errno != ENOENT)
			return errno;
	}
	return changed ? sync_folder() : 0;
}

int nest_folder_make(void)
{
	/* Beside a folder, what is in the way may be a read-only root filesystem: then the open that follows says so. */
	if (mkdir("/.fleximigrate", 0755) < 0 && errno != EEXIST && errno != EROFS)
		return -1;
	return mkdir(FM_NEST_RUN_MOUNT, 0700) < 0 && errno != EEXIST && errno != EROFS ? -1 : 0;
}
