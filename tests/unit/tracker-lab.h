/* SPDX-License-Identifier: MIT */
/*
 * tracker-lab.h - what the dirty tracker is for: a copy of a tree's memory, kept while it runs, and compared with the frozen original byte for byte. Reads maps and pagemap on its own, so
 * that a mistake of the tracker is not repeated here.
 */
#ifndef FM_TESTS_TRACKER_LAB_H
#define FM_TESTS_TRACKER_LAB_H

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/proc.h"
#include "sync/tracker.h"

#define LAB_PAGE      4096u
#define LAB_SLOTS     (1u << 19) /* 2 GiB of pages, half full */
#define LAB_PROCESSES 64

/* ---- the copy: pages of processes by address */

struct copied {
	pid_t pid; /* 0: free */
	uint64_t vaddr;
	uint8_t *data; /* NULL: not in the copy (any more) */
	bool seen;
};

struct copy {
	struct copied *slots;
	size_t used;
};

static inline struct copied *copy_find(struct copy *c, pid_t pid, uint64_t vaddr)
{
	uint64_t h = (vaddr / LAB_PAGE + (uint64_t)pid * 0x9e3779b97f4a7c15u) * 0xff51afd7ed558ccdu >> 20;

	for (;; h++) {
		struct copied *s = &c->slots[h % LAB_SLOTS];
		if (s->pid == 0) {
			*s = (struct copied){ .pid = pid, .vaddr = vaddr };
			assert_true(++c->used < LAB_SLOTS * 3u / 4);
		}
		if (s->pid == pid && s->vaddr == vaddr)
			return s;
	}
}

static inline void copy_drop(struct copied *s)
{
	free(s->data);
	s->data = NULL;
}

static inline void copy_done(struct copy *c)
{
	for (size_t i = 0; c->slots && i < LAB_SLOTS; i++)
		copy_drop(&c->slots[i]);
	free(c->slots);
}

static inline int lab_open(pid_t pid, const char *name)
{
	char path[48];

	(void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* What cannot be read is not in the copy. Returns pages read. */
static inline uint64_t copy_run(struct copy *c, struct fm_tracker *t, const struct fm_page_run *r, pid_t pid, int mem)
{
	uint64_t done = 0;

	for (uint32_t i = 0; i < r->n_pages; i++) {
		uint64_t at = r->vaddr + (uint64_t)i * LAB_PAGE;
		struct copied *s = copy_find(c, pid, at);
		if (!s->data)
			s->data = malloc(LAB_PAGE);
		assert_non_null(s->data);
		struct iovec local = { .iov_base = s->data, .iov_len = LAB_PAGE };
		struct iovec remote = { .iov_base = (void *)(uintptr_t)at, .iov_len = LAB_PAGE };
		if (process_vm_readv(pid, &local, 1, &remote, 1, 0) != LAB_PAGE && pread(mem, s->data, LAB_PAGE, (off_t)at) != LAB_PAGE) {
			copy_drop(s);
			continue;
		}
		fm_tracker_note_read(t, r->task, at, s->data, 1);
		done++;
	}
	return done;
}

static inline uint64_t copy_read(struct copy *c, struct fm_tracker *t, const struct fm_page_runs *dirty,
                                 const struct fm_page_source_task *tasks)
{
	uint64_t done = 0;

	for (size_t i = 0, end; i < dirty->n; i = end) {
		pid_t pid = tasks[dirty->v[i].task].host_pid;
		_fm_close_ int mem = lab_open(pid, "mem");
		for (end = i; end < dirty->n && dirty->v[end].task == dirty->v[i].task; end++)
			done += copy_run(c, t, &dirty->v[end], pid, mem);
	}
	return done;
}

/* What is not present any more is dropped. */
static inline void copy_keep(struct copy *c, const struct fm_page_runs *present, const struct fm_page_source_task *tasks)
{
	for (size_t i = 0; i < present->n; i++)
		for (uint32_t k = 0; k < present->v[i].n_pages; k++)
			copy_find(c, tasks[present->v[i].task].host_pid, present->v[i].vaddr + (uint64_t)k * LAB_PAGE)->seen = true;
	for (size_t i = 0; i < LAB_SLOTS; i++) {
		if (!c->slots[i].seen)
			copy_drop(&c->slots[i]);
		c->slots[i].seen = false;
	}
}

/* ---- the tree */

static inline size_t lab_tree(pid_t root, struct fm_page_source_task *tasks)
{
	_fm_free_ pid_t *tree = NULL;
	size_t n = 0;

	assert_int_equal(fm_proc_tree(root, &tree, &n, NULL), 0);
	assert_true(n <= LAB_PROCESSES);
	for (size_t i = 0; i < n; i++)
		tasks[i] = (struct fm_page_source_task){ .ns_pid = tree[i], .host_pid = tree[i] };
	return n;
}

static inline bool lab_all_threads_stopped(pid_t pid)
{
	char path[48];
	bool all = true;

	(void)snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	_fm_closedir_ DIR *d = opendir(path);
	for (struct dirent *e = d ? readdir(d) : NULL; e && all; e = readdir(d)) {
		pid_t tid = (pid_t)strtol(e->d_name, NULL, 10);
		char s = tid > 0 ? fm_proc_state(tid) : 'T';
		all = s == 'T' || s == 'Z' || s == 'X' || s == 0;
	}
	return all;
}

/* A parent in vfork(2) stops when its child lets it; the child is not stopped before it has done so. */
static inline size_t lab_freeze(pid_t root, struct fm_page_source_task *tasks)
{
	uint64_t deadline = fm_now_ms() + 20000;

	for (;;) {
		size_t n = lab_tree(root, tasks), stopped = 0;
		for (size_t i = 0; i < n; i++) {
			bool is = lab_all_threads_stopped(tasks[i].host_pid);
			stopped += is;
			if (!is)
				(void)kill(tasks[i].host_pid, SIGSTOP);
		}
		if (stopped == n && lab_tree(root, tasks) == n)
			return n;
		assert_true(fm_deadline_left_ms(deadline) > 0);
		/* stopped half-way through a vfork: let go once more */
		for (size_t i = 0; i < n; i++)
			if (fm_proc_state(tasks[i].host_pid) == 'D')
				for (size_t k = 0; k < n; k++)
					(void)kill(tasks[k].host_pid, SIGCONT);
		fm_pause_ms(1);
	}
}

/* ---- the truth */

struct truth {
	uint64_t same, zero, of_file, unreadable;
	uint64_t different, missing, stale; /* must be 0 */
};

struct lab_mapping {
	unsigned long long start, end, offset, inode;
	char perms[5], name[256];
};

/* The tracker's contract in other words: 0 never, 'a' anonymous, 'p' private file, 's' shared */
static inline char lab_kind(const struct lab_mapping *m)
{
	bool bracket = m->name[0] == '[' && strcmp(m->name, "[heap]") != 0 && strcmp(m->name, "[stack]") != 0;

	if (m->perms[3] == 's')
		return m->perms[1] == 'w' || strncmp(m->name, "/memfd", 6) == 0 || strncmp(m->name, "/dev/zero", 9) == 0 ? 's' : 0;
	return m->inode ? 'p' : bracket ? 0 : 'a';
}

static inline void lab_complain(struct truth *t, uint64_t *count, const char *what, pid_t pid, uint64_t at, const struct lab_mapping *m)
{
	if ((*count)++ < 5)
		printf("             %s: %#llx of %d, %s %s\n", what, (unsigned long long)at, (int)pid, m->perms, m->name);
}

static inline void lab_compare_page(struct copy *c, struct truth *t, pid_t pid, uint64_t at, const struct lab_mapping *m, int mem, int file)
{
	static const uint8_t zero[LAB_PAGE];
	uint8_t page[LAB_PAGE], of_file[LAB_PAGE];
	struct copied *s = copy_find(c, pid, at);

	s->seen = true;
	if (pread(mem, page, sizeof(page), (off_t)at) != (ssize_t)sizeof(page)) {
		t->unreadable++;
		if (s->data)
			lab_complain(t, &t->stale, "stale, cannot be read", pid, at, m);
		return;
	}
	if (s->data && memcmp(s->data, page, sizeof(page)) == 0) {
		t->same++;
	} else if (s->data) {
		lab_complain(t, &t->different, "different", pid, at, m);
	} else if (memcmp(page, zero, sizeof(page)) == 0) {
		t->zero++;
	} else {
		memset(of_file, 0, sizeof(of_file));
		if (lab_kind(m) == 'p' && file >= 0 && pread(file, of_file, sizeof(of_file), (off_t)(m->offset + (at - m->start))) >= 0 &&
		    memcmp(page, of_file, sizeof(page)) == 0)
			t->of_file++;
		else
			lab_complain(t, &t->missing, "missing", pid, at, m);
	}
}

static inline void lab_compare_process(struct copy *c, struct truth *t, pid_t pid)
{
	_fm_close_ int mem = lab_open(pid, "mem");
	_fm_free_ char *maps = NULL;
	char path[48], *save = NULL;

	(void)snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	if (fm_read_file(path, 1u << 20, &maps, NULL, NULL) < 0)
		return;
	for (char *line = strtok_r(maps, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		struct lab_mapping m = { 0 };
		assert_true(sscanf(line, "%llx-%llx %4s %llx %*s %llu %255[^\n]", &m.start, &m.end, m.perms, &m.offset, &m.inode, m.name) >=
		            5);
		if (lab_kind(&m) == 0)
			continue;
		_fm_close_ int file = lab_kind(&m) == 'p' ? open(m.name, O_RDONLY | O_CLOEXEC) : -1;
		for (uint64_t at = m.start; at < m.end; at += LAB_PAGE)
			lab_compare_page(c, t, pid, at, &m, mem, file);
	}
}

static inline struct truth lab_compare(struct copy *c, const struct fm_page_source_task *tasks, size_t n)
{
	static const struct lab_mapping none = { .perms = "----", .name = "(no mapping)" };
	struct truth t = { 0 };

	for (size_t i = 0; i < LAB_SLOTS; i++)
		c->slots[i].seen = false;
	for (size_t i = 0; i < n; i++)
		lab_compare_process(c, &t, tasks[i].host_pid);
	for (size_t i = 0; i < LAB_SLOTS; i++)
		if (c->slots[i].data && !c->slots[i].seen)
			lab_complain(&t, &t.stale, "stale", c->slots[i].pid, c->slots[i].vaddr, &none);
	return t;
}

#endif
