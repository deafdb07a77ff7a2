/* SPDX-License-Identifier: MIT */
/*
 * proc.c - see proc.h.
 *
 * /proc/PID/stat is parsed behind the last ')', because a process may put anything, also ") R 1", into its own name.
 * The lists of children are exact only for a tree that stands still (frozen or stopped); for a running one they are a
 * snapshot that may miss what forks meanwhile. Callers that need certainty freeze first.
 */
#include "basic/proc.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/str.h"

#define HURRY_NICE   (-15)
#define PATIENT_NICE 10

#define PROC_FILE_MAX (64u << 10)
/* "1234567 " for every process of the largest tree */
#define CHILDREN_FILE_MAX (FM_MAX_TREE_PROCESSES * 12u)

struct pid_list {
	pid_t *pids;
	size_t n, cap;
};

static void pid_list_done(struct pid_list *l)
{
	free(l->pids);
}

static int pid_list_add(struct pid_list *l, pid_t pid, struct fm_error *err)
{
	if (l->n == FM_MAX_TREE_PROCESSES)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "more than %d processes in one tree", FM_MAX_TREE_PROCESSES);
	if (l->n == l->cap) {
		size_t cap = l->cap ? 2 * l->cap : 16;
		pid_t *bigger = reallocarray(l->pids, cap, sizeof(*bigger));

		if (!bigger)
			return fm_error_errno(err, ENOMEM, "listing processes");
		l->pids = bigger;
		l->cap = cap;
	}
	l->pids[l->n++] = pid;
	return 0;
}

static bool pid_list_has(const struct pid_list *l, pid_t pid)
{
	for (size_t i = 0; i < l->n; i++)
		if (l->pids[i] == pid)
			return true;
	return false;
}

int fm_proc_read(pid_t pid, const char *name, size_t max_bytes, char **ret, size_t *ret_len, struct fm_error *err)
{
	char path[64];

	if (pid <= 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%d is not a process id", (int)pid);
	(void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	if (fm_read_file(path, max_bytes, ret, ret_len, err) < 0)
		return fm_error_prefix(err, "process %d", (int)pid);
	return 0;
}

/* State letter and start time (fields 3 and 22) of /proc/PID/stat. */
static int read_stat(pid_t pid, char *ret_state, uint64_t *ret_start, struct fm_error *err)
{
	_fm_free_ char *text = NULL;
	unsigned long long start;
	char state, *p;

	if (fm_proc_read(pid, "stat", PROC_FILE_MAX, &text, NULL, err) < 0)
		return -1;
	p = strrchr(text, ')');
	if (!p || sscanf(p + 1, " %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu", &state, &start) != 2)
		return fm_error_set(err, FM_E_INTERNAL, "process %d: /proc/%d/stat has an unknown form", (int)pid, (int)pid);
	*ret_state = state;
	*ret_start = start;
	return 0;
}

/*
 * The line of /proc/PID/status that starts with key (with its colon); *ret points into *ret_text, behind the key. NULL when there is
 * none.
 */
static int read_status(pid_t pid, const char *key, char **ret_text, char **ret, struct fm_error *err)
{
	_fm_free_ char *text = NULL;
	char *line, *found = NULL;

	if (fm_proc_read(pid, "status", PROC_FILE_MAX, &text, NULL, err) < 0)
		return -1;
	/* the first line is the name, chosen by the process, but the kernel escapes newlines in it */
	for (line = text; line && !found; line = strchr(line, '\n')) {
		if (*line == '\n')
			line++;
		if (fm_str_startswith(line, key))
			found = line + strlen(key);
	}
	if (found)
		found[strcspn(found, "\n")] = '\0';
	*ret = found;
	*ret_text = FM_TAKE_PTR(text);
	return 0;
}

int fm_proc_identify(pid_t pid, struct fm_proc_id *ret, struct fm_error *err)
{
	uint64_t start;
	char state;

	if (read_stat(pid, &state, &start, err) < 0)
		return -1;
	ret->pid = pid;
	ret->start_ticks = start;
	return 0;
}

bool fm_proc_alive(const struct fm_proc_id *id)
{
	struct fm_error local = FM_ERROR_INIT;
	uint64_t start;
	char state;

	/* "cannot tell" (no descriptors left) must not read as "dead": somebody would start a second copy */
	if (read_stat(id->pid, &state, &start, &local) < 0)
		return local.code != FM_E_NOT_FOUND && local.code != FM_E_INVALID_ARGUMENT;
	return start == id->start_ticks && state != 'Z' && state != 'X';
}

char fm_proc_state(pid_t pid)
{
	struct fm_error local = FM_ERROR_INIT;
	uint64_t start;
	char state;

	if (read_stat(pid, &state, &start, &local) < 0)
		return local.code == FM_E_NOT_FOUND || local.code == FM_E_INVALID_ARGUMENT ? 0 : '?';
	return state;
}

int fm_proc_ns_pid(pid_t pid, pid_t *ret, struct fm_error *err)
{
	_fm_free_ char *text = NULL;
	char *value, *last;
	long n;

	if (read_status(pid, "NSpid:", &text, &value, err) < 0)
		return -1;
	last = value ? strrchr(value, '\t') : NULL;
	n = last ? strtol(last + 1, NULL, 10) : 0;
	if (n <= 0)
		return fm_error_set(err, FM_E_UNIMPLEMENTED, "process %d: the kernel shows no NSpid", (int)pid);
	*ret = (pid_t)n;
	return 0;
}

int fm_proc_status_number(pid_t pid, const char *key, uint64_t *ret, struct fm_error *err)
{
	_fm_free_ char *text = NULL;
	unsigned long long number = 0;
	char *value;

	if (read_status(pid, key, &text, &value, err) < 0)
		return -1;
	if (value && sscanf(value, " %llu", &number) != 1)
		return fm_error_set(err, FM_E_INTERNAL, "process %d: %s '%.32s' has an unknown form", (int)pid, key, value);
	*ret = number;
	return 0;
}

int fm_proc_rss_bytes(pid_t pid, uint64_t *ret, struct fm_error *err)
{
	uint64_t kib;

	/* no such line: a zombie or a kernel thread, which has no memory of its own */
	if (fm_proc_status_number(pid, "VmRSS:", &kib, err) < 0)
		return -1;
	*ret = kib * 1024u;
	return 0;
}

static int add_thread_children(int task_fd, const char *tid, struct pid_list *list, bool *ret_read, struct fm_error *err)
{
	struct fm_error local = FM_ERROR_INIT;
	_fm_free_ char *text = NULL;
	char path[288], *p, *end;

	(void)snprintf(path, sizeof(path), "%s/children", tid);
	if (fm_read_file_at(task_fd, path, CHILDREN_FILE_MAX, &text, NULL, &local) < 0) {
		if (local.code == FM_E_NOT_FOUND)
			return 0; /* the thread ended meanwhile; its children went to another one */
		if (err)
			*err = local;
		return -1;
	}
	*ret_read = true;
	for (p = text;; p = end) {
		long pid = strtol(p, &end, 10);

		if (end == p)
			return 0;
		if (pid > 0 && !pid_list_has(list, (pid_t)pid) && pid_list_add(list, (pid_t)pid, err) < 0)
			return -1;
	}
}

int fm_proc_children(pid_t pid, pid_t **ret, size_t *ret_n, struct fm_error *err)
{
	_fm_cleanup_(pid_list_done) struct pid_list list = { 0 };
	_fm_closedir_ DIR *d = NULL;
	bool any_read = false;
	struct dirent *e;
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	d = opendir(path);
	if (!d)
		return fm_error_errno(err, errno, "listing the children of process %d", (int)pid);
	while ((e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		if (add_thread_children(dirfd(d), e->d_name, &list, &any_read, err) < 0)
			return fm_error_prefix(err, "listing the children of process %d", (int)pid);
	}
	if (!any_read) {
		if (!fm_proc_state(pid))
			return fm_error_errno(err, ESRCH, "listing the children of process %d", (int)pid);
		(void)fm_error_set(err, FM_E_UNIMPLEMENTED, "listing the children of process %d: /proc shows no children files", (int)pid);
		return fm_error_hint(err, "the kernel needs CONFIG_PROC_CHILDREN");
	}
	*ret = FM_TAKE_PTR(list.pids);
	*ret_n = list.n;
	return 0;
}

int fm_proc_tree(pid_t root, pid_t **ret, size_t *ret_n, struct fm_error *err)
{
	_fm_cleanup_(pid_list_done) struct pid_list tree = { 0 };

	if (pid_list_add(&tree, root, err) < 0)
		return -1;
	for (size_t i = 0; i < tree.n; i++) {
		struct fm_error local = FM_ERROR_INIT;
		_fm_free_ pid_t *children = NULL;
		size_t n = 0;

		if (fm_proc_children(tree.pids[i], &children, &n, &local) < 0) {
			if (local.code == FM_E_NOT_FOUND && i > 0)
				continue; /* ended since its parent was read */
			if (err)
				*err = local;
			return -1;
		}
		for (size_t k = 0; k < n; k++) {
			/* an orphan that was handed to another process of the tree shows up twice */
			if (!pid_list_has(&tree, children[k]) && pid_list_add(&tree, children[k], err) < 0)
				return -1;
		}
	}
	*ret = FM_TAKE_PTR(tree.pids);
	*ret_n = tree.n;
	return 0;
}

int fm_pidfd_open(pid_t pid)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);

	if (fd < 0 && (errno == EINVAL || errno == ENOENT) && pid > 0)
		errno = ESRCH;
	return fd;
}

int fm_proc_wait_gone(const struct fm_proc_id *id, int timeout_ms, struct fm_error *err)
{
	_fm_close_ int pidfd = fm_pidfd_open(id->pid);
	int ready;

	if (pidfd < 0 && errno == ESRCH)
		return 0;
	if (pidfd < 0)
		return fm_error_errno(err, errno, "waiting for the end of process %d", (int)id->pid);
	/* only now is it certain that the descriptor is not of a newer process with the same number */
	if (!fm_proc_alive(id))
		return 0;
	ready = fm_wait_fd(pidfd, POLLIN, timeout_ms, err);
	if (ready < 0)
		return fm_error_prefix(err, "waiting for the end of process %d", (int)id->pid);
	if (ready == 0)
		return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "process %d still runs after %d ms", (int)id->pid, timeout_ms);
	return 0;
}

void fm_thread_haste(enum fm_haste h)
{
	static const int nice[] = { [FM_HASTE_USUAL] = 0, [FM_HASTE_PATIENT] = PATIENT_NICE, [FM_HASTE_HURRIED] = HURRY_NICE };

	/* Without the right to (a container, an unprivileged test) it is only slower. */
	(void)setpriority(PRIO_PROCESS, (id_t)gettid(), nice[h]);
}
