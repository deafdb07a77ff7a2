/* SPDX-License-Identifier: MIT */
/*
 * tracker-probe.c - which backends work, by what they do: a forked child writes to one of two pages, and a tracker has to see that one and not the other.
 *
 * By behaviour, because the kernel's answers prove little: without CONFIG_MEM_SOFT_DIRTY, writing to clear_refs succeeds and does nothing; inside a container the calls may exist and be
 * refused. The child is forked from a process with threads: it only writes, reads and exits.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "basic/clock.h"
#include "basic/io.h"
#include "sync/tracker-internal.h"

#define ANSWER_MS 2000

struct child {
	pid_t pid;
	int to, from;
	volatile uint8_t *memory; /* two pages, at this address in the child */
};

static void live(int in, int out, volatile uint8_t *memory, pid_t parent)
{
	char word;

	/* also when it is killed, or died before this */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
		_exit(1);
	memory[0] = memory[FM_TRACKER_PAGE] = 1;
	do
		memory[FM_TRACKER_PAGE]++;
	while (write(out, "x", 1) == 1 && read(in, &word, 1) == 1);
	_exit(0);
}

static int await_answer(const struct child *c, struct fm_error *err)
{
	char word;

	int ready = fm_wait_fd(c->from, POLLIN, ANSWER_MS, err);
	if (ready == 0)
		return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "a child that is to try out tracking does not answer");
	return ready < 0 ? -1 : fm_read_full(c->from, &word, 1, err);
}

static int make_child(struct child *c, struct fm_error *err)
{
	int to[2] = { -1, -1 }, from[2] = { -1, -1 };
	pid_t parent = getpid();
	void *memory = mmap(NULL, (size_t)2 * FM_TRACKER_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	*c = (struct child){ .pid = -1, .to = -1, .from = -1, .memory = memory };
	if (memory == MAP_FAILED)
		return fm_error_errno(err, errno, "cannot make a child that is to try out tracking");
	if (pipe2(to, O_CLOEXEC) == 0 && pipe2(from, O_CLOEXEC) == 0)
		c->pid = fork();
	int saved = errno;
	if (c->pid == 0) {
		(void)close(to[1]);
		(void)close(from[0]);
		live(to[0], from[1], memory, parent);
	}
	fm_closep(&to[0]);
	fm_closep(&from[1]);
	c->to = to[1];
	c->from = from[0];
	if (c->pid < 0)
		return fm_error_errno(err, saved, "cannot make a child that is to try out tracking");
	return await_answer(c, err);
}

static void end_child(struct child *c)
{
	fm_closep(&c->to);
	fm_closep(&c->from);
	if (c->pid > 0) {
		(void)kill(c->pid, SIGKILL);
		while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	if (c->memory != MAP_FAILED)
		(void)munmap((void *)(uintptr_t)c->memory, (size_t)2 * FM_TRACKER_PAGE);
}

static bool has(const struct fm_page_runs *r, uint64_t vaddr)
{
	for (size_t i = 0; i < r->n; i++)
		if (vaddr >= r->v[i].vaddr && vaddr < r->v[i].vaddr + (uint64_t)r->v[i].n_pages * FM_TRACKER_PAGE)
			return true;
	return false;
}

/* Scans and expects the two pages to be dirty or clean. */
static int expect(struct fm_tracker *t, const struct child *c, bool first, bool second, struct fm_error *err)
{
	_fm_cleanup_(fm_page_runs_done) struct fm_page_runs dirty = { 0 };
	uint64_t at = (uintptr_t)c->memory;

	if (fm_tracker_scan(t, &dirty, err) < 0)
		return -1;
	bool a = has(&dirty, at), b = has(&dirty, at + FM_TRACKER_PAGE);
	if (a == first && b == second)
		return 0;
	return fm_error_set(err, FM_E_UNIMPLEMENTED, "%s",
	                    (first && !a) || (second && !b) ? "the kernel does not mark pages that are written to"
	                                                    : "the kernel does not reset the marks of written pages");
}

static int try_marks(const struct fm_tracker_ops *ops, const struct child *c, struct fm_error *err)
{
	struct fm_page_source_task task = { .ns_pid = c->pid, .host_pid = c->pid };
	struct fm_tracker *t;

	if (fm_tracker_new_with(ops, FM_TRACK_ANONYMOUS, &t, err) < 0)
		return -1;
	int rc = -1;
	if (fm_tracker_set_tasks(t, &task, 1, err) == 0 && expect(t, c, true, true, err) == 0 && expect(t, c, false, false, err) == 0 &&
	    fm_write_full(c->to, "x", 1, err) == 0 && await_answer(c, err) == 0)
		rc = expect(t, c, false, true, err);
	fm_tracker_free(t);
	return rc;
}

static int try_reading(const struct child *c, struct fm_error *err)
{
	uint8_t byte = 0;
	struct iovec local = { .iov_base = &byte, .iov_len = 1 }, remote = { .iov_base = (void *)(uintptr_t)c->memory, .iov_len = 1 };

	if (process_vm_readv(c->pid, &local, 1, &remote, 1, 0) != 1 || byte != 1)
		return fm_error_errno(err, errno, "cannot read the memory of a child");
	return 0;
}

void fm_tracker_probe(struct fm_tracker_support *ret)
{
	static const enum fm_tracker_backend order[] = { FM_TRACKER_WRITE_PROTECT, FM_TRACKER_SOFT_DIRTY, FM_TRACKER_HASH };
	struct fm_error made = FM_ERROR_INIT;
	struct child c;

	*ret = (struct fm_tracker_support){ .best = FM_TRACKER_AUTO };
	int child = make_child(&c, &made);
	for (size_t i = 0; i < FM_ARRAY_SIZE(order); i++) {
		struct fm_error err = made;
		enum fm_tracker_backend b = order[i];
		int rc = child;
		if (child == 0)
			rc = b == FM_TRACKER_HASH
			             ? try_reading(&c, &err)
			             : try_marks(b == FM_TRACKER_WRITE_PROTECT ? &fm_tracker_write_protect : &fm_tracker_soft_dirty, &c,
			                         &err);
		ret->works[b] = rc == 0;
		if (rc < 0)
			(void)snprintf(ret->reason[b], sizeof(ret->reason[b]), "%.*s", (int)sizeof(ret->reason[b]) - 1, err.message);
		if (rc == 0 && ret->best == FM_TRACKER_AUTO)
			ret->best = b;
	}
	end_child(&c);
}
