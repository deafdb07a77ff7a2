/* SPDX-License-Identifier: MIT */
/*
 * tree.c - a tree of processes as one thing: stop, continue, kill. (What CRIU cannot dump: tree-blockers.c.)
 *
 * A running tree cannot be listed exactly: while we read, it forks. So it is stopped in passes: list, send SIGSTOP to whoever has not
 * got it yet, until a pass finds nobody new and everybody found stands still. A process that stands still (stopped, or held by a
 * tracer) cannot fork, hence the list is then complete. SIGSTOP to a task that ptrace holds is queued, and taken before its next
 * instruction.
 *
 * A wrong number must not stop the host: a root that is no single process, init, or an ancestor of ours (or us) is refused before the
 * first signal.
 *
 * Killing stops first for the same reason, and kills children before parents, so that nobody is reparented out of the list.
 */
#include "container/criu.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/proc.h"
#include "basic/str.h"

#define STOP_TIMEOUT_MS 5000
#define POLL_MS         1

struct pid_set {
	pid_t pids[FM_MAX_TREE_PROCESSES];
	size_t n;
};

static bool has_pid(const struct pid_set *s, pid_t pid)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->pids[i] == pid)
			return true;
	return false;
}

static int comm_of(pid_t pid, char *buf, size_t cap)
{
	_fm_free_ char *text = NULL;
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	if (fm_read_file(path, 4096, &text, NULL, NULL) < 0) {
		snprintf(buf, cap, "?");
		return -1;
	}
	text[strcspn(text, "\n")] = '\0';
	snprintf(buf, cap, "%s", text);
	return 0;
}

/* The tree, unless it is one that we must never signal. */
static int list_tree(pid_t root, pid_t **ret, size_t *ret_n, struct fm_error *err)
{
	_fm_free_ pid_t *tree = NULL;
	size_t n = 0;

	if (root <= 1)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "process %d is not the root of an application", (int)root);
	if (fm_proc_tree(root, &tree, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++)
		if (tree[i] == getpid() || tree[i] == 1)
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "the tree of process %d contains this program itself", (int)root);
	*ret = FM_TAKE_PTR(tree);
	*ret_n = n;
	return 0;
}

static bool stands_still(char state)
{
	return state == 0 || strchr("TtZX", state) != NULL;
}

/* One pass: signal the newcomers. *ret_new: how many; *ret_moving: one that does not stand still yet, 0 when there is none. */
static int stop_pass(pid_t root, struct pid_set *seen, size_t *ret_new, pid_t *ret_moving, struct fm_error *err)
{
	_fm_free_ pid_t *tree = NULL;
	size_t n = 0, fresh = 0;
	pid_t moving = 0;

	if (list_tree(root, &tree, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		if (!has_pid(seen, tree[i])) {
			if (seen->n == FM_ARRAY_SIZE(seen->pids))
				return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "the tree of process %d keeps forking", (int)root);
			if (kill(tree[i], SIGSTOP) < 0 && errno != ESRCH)
				return fm_error_errno(err, errno, "cannot stop process %d", (int)tree[i]);
			seen->pids[seen->n++] = tree[i];
			fresh++;
		}
		if (!stands_still(fm_proc_state(tree[i])))
			moving = tree[i];
	}
	*ret_new = fresh;
	*ret_moving = moving;
	return 0;
}

int fm_tree_stop(pid_t root, struct fm_error *err)
{
	uint64_t deadline = fm_now_ms() + STOP_TIMEOUT_MS;
	struct pid_set seen; /* 16 KiB */

	seen.n = 0;
	for (;;) {
		size_t fresh = 0;
		pid_t moving = 0;

		if (stop_pass(root, &seen, &fresh, &moving, err) < 0)
			return -1;
		if (fresh == 0 && moving == 0)
			return 0;
		if (fm_deadline_left_ms(deadline) == 0) {
			char comm[32];
			comm_of(moving ? moving : root, comm, sizeof(comm));
			return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "process %d (%s) does not stop: state %c",
			                    (int)(moving ? moving : root), comm, fm_proc_state(moving ? moving : root) ?: '-');
		}
		if (fresh == 0)
			fm_pause_ms(POLL_MS);
	}
}

/* "State:\tT" and "TracerPid:\t0" of one thread. A thread that is gone or dead counts as stopped. */
static bool thread_stopped(int task_dir, const char *tid)
{
	_fm_free_ char *text = NULL;
	char path[288];
	const char *state, *tracer;

	snprintf(path, sizeof(path), "%s/status", tid);
	if (fm_read_file_at(task_dir, path, 65536, &text, NULL, NULL) < 0)
		return true;
	state = strstr(text, "\nState:\t");
	tracer = strstr(text, "\nTracerPid:\t");
	if (!state || !tracer)
		return false;
	state += strlen("\nState:\t");
	if (*state == 'Z' || *state == 'X')
		return true;
	return *state == 'T' && strtol(tracer + strlen("\nTracerPid:\t"), NULL, 10) == 0;
}

static bool process_stopped(pid_t pid)
{
	_fm_closedir_ DIR *d = NULL;
	struct dirent *e;
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	d = opendir(path);
	if (!d)
		return true;
	while ((e = readdir(d)))
		if (e->d_name[0] != '.' && !thread_stopped(dirfd(d), e->d_name))
			return false;
	return true;
}

int fm_tree_wait_stopped(pid_t root, int timeout_ms, struct fm_error *err)
{
	uint64_t deadline = fm_now_ms() + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0);

	for (;;) {
		_fm_free_ pid_t *tree = NULL;
		size_t n = 0;
		pid_t running = 0;

		if (list_tree(root, &tree, &n, err) < 0)
			return -1;
		for (size_t i = 0; i < n && !running; i++)
			if (!process_stopped(tree[i]))
				running = tree[i];
		if (!running)
			return 0;
		if (fm_deadline_left_ms(deadline) == 0) {
			char comm[32];
			comm_of(running, comm, sizeof(comm));
			return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "process %d (%s) is not stopped: state %c", (int)running, comm,
			                    fm_proc_state(running) ?: '-');
		}
		fm_pause_ms(POLL_MS);
	}
}

int fm_tree_continue(pid_t root, struct fm_error *err)
{
	_fm_free_ pid_t *tree = NULL;
	size_t n = 0;

	if (list_tree(root, &tree, &n, err) < 0)
		return -1;
	/* Children first: a parent that finds its child stopped may draw conclusions. */
	for (size_t i = n; i-- > 0;)
		if (kill(tree[i], SIGCONT) < 0 && errno != ESRCH)
			return fm_error_errno(err, errno, "cannot continue process %d", (int)tree[i]);
	return 0;
}

int fm_tree_kill(pid_t root, int timeout_ms, struct fm_error *err)
{
	uint64_t deadline = fm_now_ms() + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0);
	_fm_free_ struct fm_proc_id *ids = NULL;
	_fm_free_ pid_t *tree = NULL;
	size_t n = 0;

	if (root > 1 && fm_proc_state(root) == 0)
		return 0;
	/* Best effort: one that cannot be stopped (state D) is killed all the same. */
	(void)fm_tree_stop(root, NULL);
	if (list_tree(root, &tree, &n, err) < 0)
		return root > 1 && fm_proc_state(root) == 0 ? 0 : -1;
	ids = calloc(n, sizeof(*ids));
	if (!ids)
		return fm_error_errno(err, ENOMEM, "killing the tree of process %d", (int)root);
	for (size_t i = n; i-- > 0;) {
		if (fm_proc_identify(tree[i], &ids[i], NULL) < 0)
			continue;
		(void)kill(tree[i], SIGKILL);
	}
	for (size_t i = 0; i < n; i++)
		if (ids[i].pid > 0 && fm_proc_wait_gone(&ids[i], fm_deadline_left_ms(deadline), err) < 0)
			return fm_error_prefix(err, "killing the tree of process %d", (int)root);
	return 0;
}

/* ---- filters ---- */

/* "Seccomp:\t2" is a filter; 0 none, 1 strict. */
static bool task_is_filtered(const char *task_dir, const char *tid)
{
	_fm_free_ char *path = fm_xasprintf("%s/%s/status", task_dir, tid);
	_fm_free_ char *status = NULL;
	struct fm_error err = FM_ERROR_INIT;

	if (fm_read_file(path, 65536, &status, NULL, &err) < 0)
		return err.sys_errno != ENOENT && err.sys_errno != ESRCH;
	const char *line = strstr(status, "\nSeccomp:\t");
	return line && line[strlen("\nSeccomp:\t")] != '0';
}

static bool process_is_filtered(pid_t pid)
{
	_fm_free_ char *dir = fm_xasprintf("/proc/%d/task", (int)pid);
	_fm_closedir_ DIR *d = opendir(dir);

	if (!d)
		return errno != ENOENT;
	for (struct dirent *e; (e = readdir(d));)
		if (e->d_name[0] != '.' && task_is_filtered(dir, e->d_name))
			return true;
	return false;
}

bool fm_tree_is_filtered(pid_t root)
{
	_fm_free_ pid_t *tree = NULL;
	size_t n = 0;

	if (fm_proc_tree(root, &tree, &n, NULL) < 0)
		return true;
	for (size_t i = 0; i < n; i++)
		if (process_is_filtered(tree[i]))
			return true;
	return false;
}
