/* SPDX-License-Identifier: MIT */
/* root.c - see root.h. A mount can only be copied from within its mount namespace, and only a thread of its own can go there without taking the others along. */
#include "container/root.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/str.h"

#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
#ifndef OPEN_TREE_CLOEXEC
#define OPEN_TREE_CLOEXEC O_CLOEXEC
#endif

struct visit {
	pid_t pid;
	int fd, error;
	const char *what;
};

static int fail(struct visit *v, const char *what)
{
	v->error = errno;
	v->what = what;
	return -1;
}

static int copy_root(struct visit *v)
{
	char path[64];
	_fm_close_ int ns = -1, root = -1;

	(void)snprintf(path, sizeof(path), "/proc/%d/ns/mnt", (int)v->pid);
	ns = open(path, O_RDONLY | O_CLOEXEC);
	(void)snprintf(path, sizeof(path), "/proc/%d/root", (int)v->pid);
	root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (ns < 0 || root < 0)
		return fail(v, "look into");
	if (unshare(CLONE_FS) < 0 || setns(ns, CLONE_NEWNS) < 0)
		return fail(v, "enter the mount namespace of");
	v->fd = (int)syscall(SYS_open_tree, root, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
	return v->fd < 0 ? fail(v, "copy the root mount of") : 0;
}

static void *visit(void *arg)
{
	(void)copy_root(arg); /* the thread ends in that namespace */
	return NULL;
}

int fm_root_open(pid_t pid, int *ret_fd, struct fm_error *err)
{
	struct visit v = { .pid = pid, .fd = -1 };
	pthread_t thread;
	int rc = pthread_create(&thread, NULL, visit, &v);

	if (rc != 0)
		return fm_error_errno(err, rc, "cannot start a thread");
	pthread_join(thread, NULL);
	if (v.fd < 0)
		return fm_error_errno(err, v.error, "cannot %s the container with process %d", v.what, (int)pid);
	*ret_fd = v.fd;
	return 0;
}

char *fm_root_path(int fd)
{
	return fm_xasprintf("/proc/self/fd/%d/.", fd);
}
