/* SPDX-License-Identifier: MIT */
/* group-lab.h - control groups of this machine, of whatever version, with processes of a test in them. Included by one program each. */
#ifndef FM_TESTS_GROUP_LAB_H
#define FM_TESTS_GROUP_LAB_H

#include <errno.h>
#include <mntent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/clock.h"
#include "basic/io.h"

struct group {
	char folder[12][160];
	size_t n;
	pid_t pid; /* of the process in it */
};

static inline bool group_wanted(const struct mntent *m)
{
	static const char *const controllers[] = { "cpu", "cpuacct", "memory", "pids", "blkio" };

	if (strcmp(m->mnt_type, "cgroup2") == 0)
		return true;
	for (size_t i = 0; strcmp(m->mnt_type, "cgroup") == 0 && i < sizeof(controllers) / sizeof(controllers[0]); i++)
		if (hasmntopt(m, controllers[i]))
			return true;
	return false;
}

/* In each hierarchy that counts something; false: there is none where one can be made. */
static inline bool group_make(struct group *g, const char *name)
{
	FILE *f = setmntent("/proc/self/mounts", "re");
	struct mntent m;
	char buf[4096];

	*g = (struct group){ 0 };
	while (f && g->n < 12 && getmntent_r(f, &m, buf, sizeof(buf))) {
		if (!group_wanted(&m))
			continue;
		(void)snprintf(g->folder[g->n], sizeof(g->folder[0]), "%.100s/%.50s", m.mnt_dir, name);
		if (mkdir(g->folder[g->n], 0755) == 0)
			g->n++;
	}
	if (f)
		(void)endmntent(f);
	return g->n > 0;
}

/* A process that does body(arg) in the group; it is there before it begins. */
static inline bool group_start(struct group *g, void (*body)(void *arg), void *arg)
{
	int go[2];
	char text[16], path[200];

	if (pipe(go) < 0)
		return false;
	g->pid = fork();
	if (g->pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)close(go[1]);
		if (read(go[0], text, 1) == 1)
			body(arg);
		_exit(0);
	}
	(void)close(go[0]);
	(void)snprintf(text, sizeof(text), "%d", (int)g->pid);
	bool ok = g->pid > 0;
	for (size_t i = 0; ok && i < g->n; i++) {
		(void)snprintf(path, sizeof(path), "%s/cgroup.procs", g->folder[i]);
		ok = fm_write_file(path, text, NULL) == 0;
	}
	ok = ok && write(go[1], "x", 1) == 1;
	(void)close(go[1]);
	return ok;
}

static inline void group_remove(struct group *g)
{
	uint64_t deadline = fm_now_ms() + 10000;

	if (g->pid > 0) {
		(void)kill(g->pid, SIGKILL);
		(void)waitpid(g->pid, NULL, 0);
	}
	for (size_t i = 0; i < g->n; i++)
		while (rmdir(g->folder[i]) < 0 && errno == EBUSY && fm_now_ms() < deadline)
			fm_pause_ms(5);
	*g = (struct group){ 0 };
}

#endif
