/* SPDX-License-Identifier: MIT */
/* hostile-lab.h - targets for the tests of what reads running processes: hostile.c, started and told what to do. Included by one program each. */
#ifndef FM_TESTS_HOSTILE_LAB_H
#define FM_TESTS_HOSTILE_LAB_H

#include "check.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/clock.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/proc.h"
#include "basic/str.h"

#define HANG_MS 20000

struct target {
	pid_t pid;
	int to, from;
	uint64_t memory; /* of an echo */
};

static inline const char *hostile_path(void)
{
	static char path[FM_MAX_PATH];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 16);

	assert_true(n > 0);
	path[n] = '\0';
	strcpy(strrchr(path, '/'), "/hostile");
	return path;
}

static inline void read_target(const struct target *t, void *to, size_t n)
{
	assert_int_equal(fm_wait_fd(t->from, POLLIN, HANG_MS, NULL), 1);
	assert_ok(fm_read_full(t->from, to, n, &err));
}

/* A process of its own, which is told what to do through `to`; ready when this returns. Ends with the test. */
static inline void target_start(struct target *t, const char *what, const char *a, const char *b)
{
	int to[2], from[2];
	char word;

	assert_int_equal(pipe2(to, O_CLOEXEC), 0);
	assert_int_equal(pipe2(from, O_CLOEXEC), 0);
	const char *path = hostile_path();
	t->pid = fork();
	assert_true(t->pid >= 0);
	if (t->pid == 0) {
		if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || dup2(to[0], 0) < 0 || dup2(from[1], 1) < 0)
			_exit(126);
		(void)execl(path, "hostile", what, a, b, (char *)NULL);
		_exit(127);
	}
	(void)close(to[0]);
	(void)close(from[1]);
	t->to = to[1];
	t->from = from[0];
	if (fm_streq(what, "echo") || fm_streq(what, "small"))
		read_target(t, &t->memory, sizeof(t->memory));
	else
		read_target(t, &word, 1);
}

struct order {
	char op;
	uint32_t first, count;
};

static inline void give(const struct target *t, char op, uint32_t first, uint32_t count)
{
	struct order o;

	memset(&o, 0, sizeof(o));
	o.op = op;
	o.first = first;
	o.count = count;
	assert_ok(fm_write_full(t->to, &o, sizeof(o), &err));
}

static inline void order(const struct target *t, char op, uint32_t first, uint32_t count)
{
	char word;

	give(t, op, first, count);
	read_target(t, &word, 1);
	assert_int_equal(word, 'x');
}

static inline char state_becomes(pid_t pid, const char *wanted)
{
	uint64_t deadline = fm_now_ms() + HANG_MS;
	char s = fm_proc_state(pid);

	while (!strchr(wanted, s) && fm_deadline_left_ms(deadline) > 0) {
		fm_pause_ms(1);
		s = fm_proc_state(pid);
	}
	return s;
}

/* Only the target: its children die with it. */
static inline void target_end(struct target *t)
{
	if (t->pid > 0) {
		(void)kill(t->pid, SIGKILL);
		(void)waitpid(t->pid, NULL, 0);
	}
	(void)close(t->to);
	(void)close(t->from);
}

#endif
