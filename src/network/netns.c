/* SPDX-License-Identifier: MIT */
/*
 * netns.c - network namespaces: enter one for a moment, and name one by a path.
 *
 * setns(2) and unshare(2) change the calling thread only, so other threads of the agent never notice. The way back must not fail: a thread
 * that stayed in a container's namespace would take the container for the host from then on, so the process aborts instead.
 */
#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "network/endpoint.h"
#include "network/netlink.h"

#define OWN_NETNS "/proc/thread-self/ns/net"
/* mounts can be stacked on one path; more than this is not ours */
#define MAX_STACKED_MOUNTS 16

static int open_home(int *ret, struct fm_error *err)
{
	int fd = open(OWN_NETNS, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return fm_error_errno(err, errno, "open this thread's network namespace (%s)", OWN_NETNS);
	*ret = fd;
	return 0;
}

static void go_home(int home)
{
	int saved = errno;

	if (setns(home, CLONE_NEWNET) < 0)
		abort();
	errno = saved;
}

int fm_netns_call(int netns_fd, int (*fn)(void *userdata, struct fm_error *err), void *userdata, struct fm_error *err)
{
	_fm_close_ int home = -1;
	int r;

	if (open_home(&home, err) < 0)
		return -1;
	if (setns(netns_fd, CLONE_NEWNET) < 0)
		return fm_error_errno(err, errno, "enter the container's network namespace");
	r = fn(userdata, err);
	go_home(home);
	return r;
}

static bool is_nsfs(const char *path)
{
	struct statfs fs;

	return statfs(path, &fs) == 0 && (unsigned long)fs.f_type == NSFS_MAGIC;
}

static int loopback_up(struct fm_error *err)
{
	_fm_nl_ struct fm_nl *nl = NULL;
	struct fm_link lo;
	int rc;

	if (fm_nl_open(0, &nl, err) < 0)
		return -1;
	rc = fm_nl_link(nl, "lo", &lo);
	if (rc == 0)
		rc = fm_nl_link_up(nl, lo.index);
	return rc < 0 ? fm_nl_fail(nl, rc, err, "bring up the loopback device") : 0;
}

/* The thread is in the new namespace between unshare and go_home. */
static int create_and_pin(const char *path, struct fm_error *err)
{
	_fm_close_ int home = -1;
	int r;

	if (open_home(&home, err) < 0)
		return -1;
	if (unshare(CLONE_NEWNET) < 0)
		return fm_error_errno(err, errno, "create a network namespace for %s", path);
	r = loopback_up(err);
	if (r == 0 && mount(OWN_NETNS, path, "none", MS_BIND, NULL) < 0)
		r = fm_error_errno(err, errno, "bind the new network namespace to %s", path);
	go_home(home);
	return r;
}

static int make_mount_point(const char *path, struct fm_error *err)
{
	_fm_close_ int fd = -1;
	_fm_free_ char *parent = strdup(path);
	char *slash = parent ? strrchr(parent, '/') : NULL;
	struct stat st;

	if (!slash || path[0] != '/' || slash[1] == '\0' || strlen(path) >= FM_MAX_PATH)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "network namespace path \"%s\" is not an absolute path of a file", path);
	*slash = '\0';
	if (parent[0] && fm_mkdir_p(parent, 0755, err) < 0)
		return -1;
	fd = open(path, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0444);
	if (fd >= 0)
		return 0;
	/* an empty file without a mount is what a crash between the two steps leaves: use it */
	if (errno == EEXIST && !is_nsfs(path) && lstat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == 0)
		return 0;
	if (errno == EEXIST)
		return fm_error_set(err, FM_E_ALREADY_EXISTS, "network namespace path %s exists already", path);
	return fm_error_errno(err, errno, "create %s", path);
}

int fm_netns_create(const char *path, struct fm_error *err)
{
	if (make_mount_point(path, err) < 0)
		return -1;
	if (create_and_pin(path, err) < 0) {
		(void)unlink(path);
		return -1;
	}
	return 0;
}

int fm_netns_remove(const char *path, struct fm_error *err)
{
	struct stat st;

	for (int i = 0; i < MAX_STACKED_MOUNTS && is_nsfs(path); i++)
		if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
			return fm_error_errno(err, errno, "unmount the network namespace %s", path);
	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : fm_error_errno(err, errno, "remove the network namespace %s", path);
	/* never delete what is not ours */
	if (!S_ISREG(st.st_mode) || st.st_size != 0)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "%s is not the mount point of a network namespace", path);
	if (unlink(path) < 0 && errno != ENOENT)
		return fm_error_errno(err, errno, "remove %s", path);
	return 0;
}

int fm_netns_pin(const char *path, pid_t pid, struct fm_error *err)
{
	char source[64];

	(void)snprintf(source, sizeof(source), "/proc/%d/ns/net", (int)pid);
	if (fm_netns_remove(path, err) < 0 || make_mount_point(path, err) < 0)
		return -1;
	if (mount(source, path, "none", MS_BIND, NULL) < 0) {
		(void)fm_error_errno(err, errno, "bind the network namespace of process %d to %s", (int)pid, path);
		(void)unlink(path);
		return -1;
	}
	return 0;
}
