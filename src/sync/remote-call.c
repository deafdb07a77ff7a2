/* SPDX-License-Identifier: MIT */
/*
 * remote-call.c - see remote-call.h.
 *
 * A call: registers set to the vdso's `syscall` instruction (no text is changed), two syscall-stops, the result read, registers restored. orig_rax = -1 keeps the kernel from
 * restarting an interrupted call of the task in the middle of ours; after the detach it sees the old orig_rax again and restarts it (PTRACE_DETACH makes the task look for signals).
 *
 * Stops that are not ours while a call is made: SIGSTOP cannot be blocked and is passed on; the group-stop that follows is stepped over, and the kernel reinstates it at the detach.
 */
#include "sync/remote-call.h"

#include <dirent.h>
#include <errno.h>
#include <elf.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/proc.h"
#include "basic/procmaps.h"
#include "basic/str.h"

#define STOP_MS      500u   /* a running task stops within microseconds */
#define CALL_MS      2000u  /* userfaultfd and close do not wait for anything */
#define RECOVER_MS   30000u /* a task that is let go with our registers is lost: be patient */
#define SPINS        2000u
#define VDSO_MAX     (64u << 10)
#define TASK_THREADS 65536u

/* ---------------------------------------------------------------- stopping and letting go */

static int gone(pid_t tid, struct fm_error *err)
{
	return fm_error_set(err, FM_E_NOT_FOUND, "task %d has ended", (int)tid);
}

/* A stop takes microseconds: yield first, then pause between looks. There is no descriptor that tells about stops. */
static int wait_stop(pid_t tid, unsigned timeout_ms, int *ret_status, struct fm_error *err)
{
	uint64_t deadline = fm_now_ms() + timeout_ms;
	int status;

	for (unsigned i = 0;; i++) {
		pid_t r = waitpid(tid, &status, __WALL | WNOHANG);
		if (r == tid && WIFSTOPPED(status)) {
			*ret_status = status;
			return 0;
		}
		if (r == tid || (r < 0 && errno == ECHILD))
			return gone(tid, err);
		if (r < 0 && errno != EINTR)
			return fm_error_errno(err, errno, "cannot wait for task %d", (int)tid);
		if (fm_deadline_left_ms(deadline) == 0)
			return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "task %d did not stop within %u ms", (int)tid, timeout_ms);
		if (i < SPINS)
			(void)sched_yield();
		else
			fm_pause_ms(1);
	}
}

static bool is_event_stop(int status)
{
	return status >> 16 == PTRACE_EVENT_STOP;
}

static pid_t tracer_of(pid_t tid)
{
	_fm_free_ char *text = NULL;
	char path[48];

	(void)snprintf(path, sizeof(path), "/proc/%d/status", (int)tid);
	if (fm_read_file(path, 65536, &text, NULL, NULL) < 0)
		return 0;
	const char *line = strstr(text, "\nTracerPid:");
	return line ? (pid_t)strtol(line + 11, NULL, 10) : 0;
}

static int seize(pid_t tid, struct fm_error *err)
{
	if (ptrace(PTRACE_SEIZE, tid, NULL, PTRACE_O_TRACESYSGOOD) == 0)
		return 0;
	int saved = errno;
	char state = fm_proc_state(tid);
	if (saved == ESRCH || state == 0 || state == 'Z' || state == 'X')
		return gone(tid, err);
	pid_t tracer = tracer_of(tid);
	if (tracer > 0) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "task %d is traced by process %d", (int)tid, (int)tracer);
		return fm_error_hint(err, "end the debugger, or track the container by content (label fleximigrate.tracking=hash)");
	}
	return fm_error_errno(err, saved, "cannot trace task %d", (int)tid);
}

/* The task is seized. When it does not stop, it can only be let go by the end of this thread. */
static int interrupt(pid_t tid, unsigned timeout_ms, int *ret_status, struct fm_error *err)
{
	int status;

	for (;;) {
		if (ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) < 0)
			return errno == ESRCH ? gone(tid, err) : fm_error_errno(err, errno, "cannot interrupt task %d", (int)tid);
		if (wait_stop(tid, timeout_ms, &status, err) < 0)
			return -1;
		if (is_event_stop(status)) {
			*ret_status = status;
			return 0;
		}
		/* About to get a signal: that comes first. Any stop takes back the interruption, so it is asked for once more. */
		if (ptrace(PTRACE_CONT, tid, NULL, WSTOPSIG(status)) < 0)
			return gone(tid, err);
	}
}

/* ---------------------------------------------------------------- a thread of its own */

struct job {
	int (*run)(struct job *j);
	const pid_t *pids;
	size_t n;
	fm_remote_fn fn;
	void *userdata;
	struct fm_error err;
	int rc;
};

static void *work(void *arg)
{
	struct job *j = arg;

	j->rc = j->run(j);
	return NULL;
}

static int run_job(struct job *j, struct fm_error *err)
{
	pthread_t thread;
	sigset_t all, old;

	/* The thread is no place for this process's signal handlers. */
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	int rc = pthread_create(&thread, NULL, work, j);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc != 0)
		return fm_error_errno(err, rc, "cannot start a thread that traces");
	(void)pthread_join(thread, NULL);
	if (j->rc < 0 && err)
		*err = j->err;
	return j->rc;
}

/* ---------------------------------------------------------------- calls */

#if defined(__x86_64__)

#define CS_64BIT 0x33u

struct fm_remote {
	pid_t tid;
	uint64_t insn; /* of a `syscall` instruction */
	struct user_regs_struct saved;
	uint64_t signal_mask;
	bool stopped;
};

bool fm_remote_call_is_possible(void)
{
	return true;
}

static bool read_task(pid_t tid, uint64_t at, void *to, size_t n)
{
	struct iovec local = { .iov_base = to, .iov_len = n };
	struct iovec remote = { .iov_base = (void *)(uintptr_t)at, .iov_len = n };

	return process_vm_readv(tid, &local, 1, &remote, 1, 0) == (ssize_t)n;
}

static int find_instruction(struct fm_remote *r, struct fm_error *err)
{
	static const uint8_t code[] = { 0x0f, 0x05 };
	_fm_free_ char *maps = NULL;
	_fm_free_ uint8_t *text = NULL;
	struct fm_map m;

	if (fm_proc_read(r->tid, "maps", FM_PROC_MAPS_MAX, &maps, NULL, err) < 0)
		return -1;
	for (char *line = *maps ? maps : NULL, *next; line; line = next) {
		next = fm_cut_line(line);
		if (!fm_map_parse(line, &m) || !fm_streq(m.name, "[vdso]") || m.end - m.start > VDSO_MAX)
			continue;
		size_t n = (size_t)(m.end - m.start);
		text = malloc(n);
		const uint8_t *at = text && read_task(r->tid, m.start, text, n) ? memmem(text, n, code, sizeof(code)) : NULL;
		if (at) {
			r->insn = m.start + (uint64_t)(at - text);
			return 0;
		}
		break;
	}
	return fm_error_set(err, FM_E_FAILED_PRECONDITION, "task %d has no vdso with a system call instruction", (int)r->tid);
}

/*
 * A restartable sequence that is interrupted has to begin again. The kernel sees to it on the way back to user space, but there it would find our
 * instruction and not the sequence: so what it would have done is done to the saved registers. Kernels without the question: no sequence is known.
 */
static void leave_restartable_sequence(struct fm_remote *r)
{
	struct __ptrace_rseq_configuration config = { 0 };
	struct {
		uint32_t version, flags;
		uint64_t start_ip, post_commit_offset, abort_ip;
	} cs;
	uint64_t at = 0;

	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, r->tid, sizeof(config), &config) != sizeof(config) || config.rseq_abi_pointer == 0)
		return;
	/* struct rseq: two processor numbers, then the pointer to the sequence */
	if (!read_task(r->tid, config.rseq_abi_pointer + 8, &at, sizeof(at)) || at == 0 || !read_task(r->tid, at, &cs, sizeof(cs)))
		return;
	if (r->saved.rip - cs.start_ip < cs.post_commit_offset)
		r->saved.rip = cs.abort_ip;
}

/* The task is stopped. Nothing of it is changed unless this succeeds. */
static int prepare(struct fm_remote *r, struct fm_error *err)
{
	uint64_t all = UINT64_MAX;

	if (find_instruction(r, err) < 0)
		return -1;
	if (ptrace(PTRACE_SETOPTIONS, r->tid, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_SUSPEND_SECCOMP) < 0)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "the seccomp filter of task %d cannot be suspended: %s", (int)r->tid,
		                    strerrordesc_np(errno));
	if (ptrace(PTRACE_GETREGS, r->tid, NULL, &r->saved) < 0 ||
	    ptrace(PTRACE_GETSIGMASK, r->tid, sizeof(r->signal_mask), &r->signal_mask) < 0)
		return errno == ESRCH ? gone(r->tid, err) : fm_error_errno(err, errno, "cannot read the registers of task %d", (int)r->tid);
	if (r->saved.cs != CS_64BIT)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "task %d runs 32-bit code", (int)r->tid);
	leave_restartable_sequence(r);
	if (ptrace(PTRACE_SETSIGMASK, r->tid, sizeof(all), &all) < 0)
		return errno == ESRCH ? gone(r->tid, err) : fm_error_errno(err, errno, "cannot block the signals of task %d", (int)r->tid);
	return 0;
}

/* Goes on to the next syscall-stop. */
static int next_syscall_stop(struct fm_remote *r, uint64_t deadline_ms, struct fm_error *err)
{
	int status, signal = 0;

	for (;;) {
		if (ptrace(PTRACE_SYSCALL, r->tid, NULL, signal) < 0)
			return errno == ESRCH ? gone(r->tid, err) : fm_error_errno(err, errno, "cannot resume task %d", (int)r->tid);
		r->stopped = false;
		if (wait_stop(r->tid, (unsigned)fm_deadline_left_ms(deadline_ms), &status, err) < 0)
			return -1;
		r->stopped = true;
		if (WSTOPSIG(status) == (SIGTRAP | 0x80))
			return 0;
		signal = is_event_stop(status) ? 0 : WSTOPSIG(status);
		if (signal != 0 && signal != SIGSTOP)
			return fm_error_set(err, FM_E_FAILED_PRECONDITION, "a system call in task %d ended in signal %d", (int)r->tid,
			                    signal);
	}
}

int fm_remote_call(struct fm_remote *r, long nr, const long args[3], long *ret, struct fm_error *err)
{
	uint64_t deadline = fm_now_ms() + CALL_MS;
	struct user_regs_struct regs = r->saved;

	regs.rip = r->insn;
	regs.rax = (unsigned long long)nr;
	regs.orig_rax = (unsigned long long)-1;
	regs.rdi = (unsigned long long)args[0];
	regs.rsi = (unsigned long long)args[1];
	regs.rdx = (unsigned long long)args[2];
	if (ptrace(PTRACE_SETREGS, r->tid, NULL, &regs) < 0)
		return errno == ESRCH ? gone(r->tid, err) : fm_error_errno(err, errno, "cannot set the registers of task %d", (int)r->tid);
	for (int stops = 0; stops < 2; stops++) /* at its entry, at its exit */
		if (next_syscall_stop(r, deadline, err) < 0)
			return -1;
	if (ptrace(PTRACE_GETREGS, r->tid, NULL, &regs) < 0)
		return gone(r->tid, err);
	if (regs.orig_rax != (unsigned long long)nr)
		return fm_error_set(err, FM_E_INTERNAL, "task %d made system call %lld instead of %ld", (int)r->tid,
		                    (long long)regs.orig_rax, nr);
	*ret = (long)regs.rax;
	return 0;
}

/* As it was. -1 when that did not work although the task still exists. */
static int restore(struct fm_remote *r, struct fm_error *err)
{
	struct fm_error local = FM_ERROR_INIT;
	int status;

	if (!r->stopped && interrupt(r->tid, RECOVER_MS, &status, &local) < 0) {
		if (local.code == FM_E_NOT_FOUND)
			return 0;
		if (err)
			*err = local;
		return -1;
	}
	r->stopped = true;
	if ((ptrace(PTRACE_SETREGS, r->tid, NULL, &r->saved) < 0 ||
	     ptrace(PTRACE_SETSIGMASK, r->tid, sizeof(r->signal_mask), &r->signal_mask) < 0) &&
	    errno != ESRCH)
		return fm_error_errno(err, errno, "cannot restore the registers of task %d", (int)r->tid);
	return 0;
}

static int run_calls(struct job *j)
{
	struct fm_remote r = { .tid = j->pids[0] };
	struct fm_error undo = FM_ERROR_INIT;
	int status, rc = -1;

	if (seize(r.tid, &j->err) < 0 || interrupt(r.tid, STOP_MS, &status, &j->err) < 0)
		return -1;
	r.stopped = true;
	if (prepare(&r, &j->err) == 0) {
		rc = j->fn(&r, j->userdata, &j->err);
		if (restore(&r, &undo) < 0 && rc == 0) {
			j->err = undo;
			rc = -1;
		}
	}
	(void)ptrace(PTRACE_DETACH, r.tid, NULL, 0); /* fails when it was killed; the end of this thread does the rest */
	return rc;
}

int fm_remote_run(pid_t pid, fm_remote_fn fn, void *userdata, struct fm_error *err)
{
	struct job j = { .run = run_calls, .pids = &pid, .n = 1, .fn = fn, .userdata = userdata };

	return run_job(&j, err);
}

#else

bool fm_remote_call_is_possible(void)
{
	return false;
}

int fm_remote_run(pid_t pid, fm_remote_fn fn, void *userdata, struct fm_error *err)
{
	return fm_error_set(err, FM_E_FAILED_PRECONDITION, "system calls inside a task are only possible on x86-64");
}

int fm_remote_call(struct fm_remote *r, long nr, const long args[3], long *ret, struct fm_error *err)
{
	return fm_error_set(err, FM_E_FAILED_PRECONDITION, "system calls inside a task are only possible on x86-64");
}

#endif

/* ---------------------------------------------------------------- holding */

struct held {
	pid_t *tids;
	size_t n, cap;
};

static bool is_held(const struct held *h, size_t from, pid_t tid)
{
	for (size_t i = from; i < h->n; i++)
		if (h->tids[i] == tid)
			return true;
	return false;
}

static int add_tid(struct held *h, pid_t tid, struct fm_error *err)
{
	if (h->n == h->cap) {
		size_t cap = h->cap ? 2 * h->cap : 64;
		pid_t *more = cap <= TASK_THREADS ? reallocarray(h->tids, cap, sizeof(*more)) : NULL;
		if (!more)
			return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "too many threads to stop");
		h->tids = more;
		h->cap = cap;
	}
	h->tids[h->n++] = tid;
	return 0;
}

/* One look at the threads of a process; those not held yet are stopped. Number of new ones, or -1. */
static int hold_new_threads(struct held *h, size_t from, pid_t pid, struct fm_error *err)
{
	char path[48];
	int added = 0, status;

	(void)snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	_fm_closedir_ DIR *d = opendir(path);
	for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
		pid_t tid = (pid_t)strtol(e->d_name, NULL, 10);
		struct fm_error local = FM_ERROR_INIT;
		if (tid <= 0 || is_held(h, from, tid))
			continue;
		if (seize(tid, &local) == 0 && interrupt(tid, STOP_MS, &status, &local) == 0) {
			if (add_tid(h, tid, err) < 0)
				return -1;
			added++;
		} else if (local.code != FM_E_NOT_FOUND) {
			if (err)
				*err = local;
			return -1;
		}
	}
	return added;
}

/* The end of this thread lets everything go that is not let go here. */
static int run_hold(struct job *j)
{
	struct held h = { 0 };
	int rc = 0;

	for (size_t i = 0; i < j->n && rc >= 0; i++) {
		size_t from = h.n;
		/* until a look finds none: who is stopped makes no new ones */
		do
			rc = hold_new_threads(&h, from, j->pids[i], &j->err);
		while (rc > 0);
	}
	if (rc == 0)
		rc = j->fn(NULL, j->userdata, &j->err);
	for (size_t i = 0; i < h.n; i++)
		(void)ptrace(PTRACE_DETACH, h.tids[i], NULL, 0);
	free(h.tids);
	return rc;
}

int fm_remote_hold(const pid_t *pids, size_t n, fm_remote_fn fn, void *userdata, struct fm_error *err)
{
	struct job j = { .run = run_hold, .pids = pids, .n = n, .fn = fn, .userdata = userdata };

	return run_job(&j, err);
}
