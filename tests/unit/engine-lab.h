/* SPDX-License-Identifier: MIT */
/*
 * engine-lab.h - a test with a container engine's daemon of its own: the whole program runs as PID 1's child of namespaces made for it, so the daemon and whatever it started end with it. Included by one program.
 */
#ifndef FM_TESTS_ENGINE_LAB_H
#define FM_TESTS_ENGINE_LAB_H

#include "check.h"

#include <glob.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/clock.h"
#include "basic/io.h"
#include "basic/str.h"
#include "container/runtime.h"

#define ENGINE_PATIENCE_MS 30000

/* Runs tests() as PID 1 of a pid namespace, with private mounts, /proc, /run and network; the folder for the daemon is made here, on a disk, and removed with the cgroups called like it. The exit status. */
static int engine_lab_main(const char *prefix, int (*tests)(const char *dir))
{
	_fm_free_ char *dir = fm_xasprintf("/var/tmp/fm-%s-XXXXXX", prefix);
	int status = 1;
	pid_t pid;

	if (!mkdtemp(dir) || unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET) < 0)
		return 1;
	(void)fflush(stdout);
	pid = fork();
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || mount("proc", "/proc", "proc", 0, NULL) < 0 ||
		    mount("tmpfs", "/run", "tmpfs", 0, NULL) < 0)
			_exit(1);
		exit(tests(dir));
	}
	if (pid > 0)
		(void)waitpid(pid, &status, 0);
	_fm_free_ char *pattern = fm_xasprintf("/sys/fs/cgroup/*%s", strrchr(dir, '/')),
	               *deeper = fm_xasprintf("/sys/fs/cgroup/*%s/*", strrchr(dir, '/'));
	const char *const patterns[] = { deeper, pattern };
	for (size_t k = 0; k < 2; k++) {
		glob_t g;

		if (glob(patterns[k], GLOB_ONLYDIR, NULL, &g) != 0)
			continue;
		for (size_t i = 0; i < g.gl_pathc; i++)
			(void)rmdir(g.gl_pathv[i]); /* the deeper ones: files, too */
		globfree(&g);
	}
	_fm_free_ char *data = fm_xasprintf("%s/data", dir);
	(void)umount2(data, MNT_DETACH); /* dockerd mounts it onto itself, and it was killed */
	if (fm_remove_tree(dir, &err) < 0)
		printf("%s\n", err.message);
	(void)fflush(stdout);
	/* Not exit: who has lost the init of his children's pid namespace can make none any more, and LeakSanitizer wants one. */
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

static pid_t engine_spawn(char *const *argv, const char *log)
{
	pid_t pid = fork();

	assert_sys(pid);
	if (pid == 0) {
		int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);

		(void)dup2(fd, 1);
		(void)dup2(fd, 2);
		(void)execvp(argv[0], argv);
		_exit(127);
	}
	return pid;
}

static void engine_await(struct fm_runtime *rt)
{
	uint64_t deadline = fm_now_ms() + ENGINE_PATIENCE_MS;
	char buf[64];

	while (rt->ops->version(rt, buf, sizeof buf, &err) < 0) {
		assert_int_equal(err.code, FM_E_UNAVAILABLE);
		if (fm_now_ms() > deadline)
			fail_msg("the daemon does not come: %s", err.message);
		fm_pause_ms(50);
	}
}

#endif
