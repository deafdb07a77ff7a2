/* SPDX-License-Identifier: MIT */
/*
 * criu-view.c - see criu-view.h.
 *
 * The filter looks at numbers only: "ioctl" and the request PAGEMAP_SCAN; "pread64", which a dumping CRIU uses for pagemap and for nothing else, on kernels without that request (before
 * Linux 6.7); and, for trees with much memory, "openat" below a folder for reading, which is how CRIU opens smaps (and a hundred other files, 20 us each: that is why only there). Every
 * other system call of CRIU is as fast as ever. A notification carries CRIU's descriptor and a pointer into CRIU. The descriptor is
 * duplicated (pidfd_getfd): it tells whose pagemap it is (its name), and for mappings that are not hidden the question is put to the kernel through it, with CRIU's own masks.
 * The addresses are CRIU's: it is trusted, and stopped in the call while we look.
 *
 * Only the question "which pages have content" is answered by us. CRIU asks others too (guard regions, and what the kernel can do at all): they go on to the kernel. So do reads of
 * pagemap with no hidden mapping in them; of others CRIU gets what the kernel says, with zeros, "nothing here", in place of the entries of hidden pages.
 */
#include "container/criu-view.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/pagemap-abi.h"
#include "basic/proc.h"
#include "basic/procmaps.h"
#include "basic/str.h"
#include "loop/pool.h"

#if defined(__x86_64__)
#define NATIVE_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define NATIVE_ARCH AUDIT_ARCH_AARCH64
#else
#define NATIVE_ARCH 0 /* no processor has it: fm_criu_view_is_possible says no */
#endif

#define PAGE_BYTES  4096u
#define REGIONS_MAX 32768u /* CRIU's own limit (criu/pagemap-cache.c) */
#define RANGES_MAX  (16u << 20)
#define HAS_CONTENT (FM_PAGE_IS_PRESENT | FM_PAGE_IS_SWAPPED)

/* A page's entry in pagemap: present, swapped. Our buffer has room for as many as CRIU asks about in 400 MB; it asks again for the rest. */
#define ENTRY_BYTES       sizeof(uint64_t)
#define ENTRY_HAS_CONTENT (UINT64_C(3) << 62)
#define ENTRIES_MAX       (REGIONS_MAX * sizeof(struct fm_page_region) / ENTRY_BYTES)

struct mapping {
	uint64_t start, end;
	bool hidden;
};

struct process {
	pid_t ns_pid, host_pid;
	struct mapping *mappings;
	size_t n;
};

struct fm_criu_view {
	int listener, criu_pidfd;
	pid_t criu_pid;
	struct fm_stop stop;
	pthread_t thread;
	struct seccomp_notif *request; /* as large as this kernel's */
	struct seccomp_notif_resp *response;
	size_t request_bytes, response_bytes;
	struct fm_page_region *regions; /* or entries of pagemap */

	pthread_mutex_t lock; /* the rest */
	pid_t root;           /* 0: nothing is hidden */
	int frozen_fd;        /* to be told; 0: nobody, or told */
	struct process *processes;
	size_t n_processes;
	struct fm_smaps *smaps;  /* or NULL */
	struct fm_error failure; /* first */
};

/* ---------------------------------------------------------------- the filter */

int fm_criu_view_install(bool maps)
{
	const uint32_t open_call = maps ? (uint32_t)__NR_openat : UINT32_MAX;
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NATIVE_ARCH, 0, 11),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_pread64, 8, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_ioctl, 0, 2),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)FM_PAGEMAP_SCAN, 5, 6),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, open_call, 0, 5),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)AT_FDCWD, 3, 0),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, O_RDONLY, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = FM_ARRAY_SIZE(code), .filter = code };

	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

static bool kernel_has_scan(int pagemap)
{
	struct fm_pm_scan_arg a = { .size = sizeof(a), .return_mask = FM_PAGE_IS_PRESENT };

	return ioctl(pagemap, FM_PAGEMAP_SCAN, &a) == 0;
}

bool fm_criu_view_is_possible(void)
{
	uint32_t action = SECCOMP_RET_USER_NOTIF;
	_fm_close_ int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	return NATIVE_ARCH != 0 && fd >= 0 && (syscall(SYS_pidfd_getfd, -1, 0, 0) == 0 || errno != ENOSYS) &&
	       syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
}

/* ---------------------------------------------------------------- mappings */

static int parse_mappings(struct process *p, char *text, struct fm_error *err)
{
	size_t cap = 0;

	for (char *line = *text ? text : NULL, *next; line; line = next) {
		struct fm_map m;
		next = fm_cut_line(line);
		if (p->n == cap) {
			cap = cap ? 2 * cap : 256;
			struct mapping *bigger = reallocarray(p->mappings, cap, sizeof(*bigger));
			if (!bigger)
				return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for the mappings of process %d",
				                    (int)p->host_pid);
			p->mappings = bigger;
		}
		if (!fm_map_parse(line, &m))
			return fm_error_set(err, FM_E_INTERNAL, "the kernel shows a mapping of process %d that cannot be read: %.80s",
			                    (int)p->host_pid, line);
		p->mappings[p->n++] = (struct mapping){ .start = m.start, .end = m.end, .hidden = fm_map_is_private_anonymous(&m) };
	}
	return 0;
}

struct locked {
	struct process *p;
	size_t i;
};

static int show_one(void *userdata, const char *header, char *flags)
{
	struct locked *l = userdata;
	struct fm_map m;

	if (!fm_smaps_has_flag(flags, "lo") || !fm_map_parse(header, &m))
		return 0;
	while (l->i < l->p->n && l->p->mappings[l->i].start < m.start)
		l->i++;
	if (l->i < l->p->n && l->p->mappings[l->i].start == m.start)
		l->p->mappings[l->i].hidden = false;
	return 0;
}

/* Only smaps tells which mappings are locked. It is slow (the kernel walks all pages), so it is read only when there are any. */
static int show_locked(struct process *p, struct fm_error *err)
{
	_fm_free_ char *smaps = NULL;
	struct locked l = { .p = p };
	uint64_t locked;

	if (fm_proc_status_number(p->host_pid, "VmLck:", &locked, err) < 0)
		return -1;
	if (locked == 0)
		return 0;
	if (fm_proc_read(p->host_pid, "smaps", FM_PROC_SMAPS_MAX, &smaps, NULL, err) < 0)
		return -1;
	return fm_smaps_each(smaps, show_one, &l);
}

static int look_at(struct process *p, struct fm_error *err)
{
	_fm_free_ char *maps = NULL;

	if (fm_proc_read(p->host_pid, "maps", FM_PROC_MAPS_MAX, &maps, NULL, err) < 0 || parse_mappings(p, maps, err) < 0)
		return -1;
	return show_locked(p, err);
}

/* The process of the tree with this number in its namespace; looked at once. NULL without an error: not of the tree. */
static int find_process(struct fm_criu_view *v, pid_t ns_pid, const struct process **ret, struct fm_error *err)
{
	_fm_free_ pid_t *tree = NULL;
	size_t n = 0;

	*ret = NULL;
	for (size_t i = 0; i < v->n_processes; i++)
		if (v->processes[i].ns_pid == ns_pid) {
			*ret = &v->processes[i];
			return 0;
		}
	if (fm_proc_tree(v->root, &tree, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		struct process p = { .host_pid = tree[i] };
		if (fm_proc_ns_pid(tree[i], &p.ns_pid, NULL) < 0 || p.ns_pid != ns_pid)
			continue;
		if (v->frozen_fd > 0)
			(void)eventfd_write(v->frozen_fd, 1);
		v->frozen_fd = 0;
		struct process *more = reallocarray(v->processes, v->n_processes + 1, sizeof(*more));
		if (!more)
			return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
		v->processes = more;
		if (look_at(&p, err) < 0) {
			free(p.mappings);
			return -1;
		}
		v->processes[v->n_processes] = p;
		*ret = &v->processes[v->n_processes++];
		return 0;
	}
	return 0;
}

/* ---------------------------------------------------------------- answers */

/* First mapping that ends above addr. */
static size_t mapping_above(const struct process *p, uint64_t addr)
{
	size_t low = 0, high = p->n;

	while (low < high) {
		size_t mid = (low + high) / 2;
		if (p->mappings[mid].end > addr)
			high = mid;
		else
			low = mid + 1;
	}
	return low;
}

/* From pos on: is it hidden, and up to where is the answer the same? */
static bool hidden_at(const struct process *p, uint64_t pos, uint64_t end, uint64_t *ret_end)
{
	size_t i = mapping_above(p, pos);
	bool hidden = i < p->n && p->mappings[i].hidden && p->mappings[i].start <= pos;

	if (hidden) {
		*ret_end = p->mappings[i].end < end ? p->mappings[i].end : end;
		return true;
	}
	while (i < p->n && !p->mappings[i].hidden)
		i++;
	*ret_end = i < p->n && p->mappings[i].start < end ? p->mappings[i].start : end;
	return false;
}

/* What CRIU is to see of [a->start, a->end), into v->regions; a->walk_end as the kernel would set it. Number of regions, or -1 and errno. */
static long visible(struct fm_criu_view *v, const struct process *p, int pagemap, struct fm_pm_scan_arg *a)
{
	uint64_t cap = a->vec_len < REGIONS_MAX ? a->vec_len : REGIONS_MAX, pos = a->start;
	long n = 0;

	while (pos < a->end && (uint64_t)n < cap) {
		uint64_t until;
		if (hidden_at(p, pos, a->end, &until)) {
			pos = until;
			continue;
		}
		struct fm_pm_scan_arg part = *a;
		part.start = pos;
		part.end = until;
		part.vec = (uintptr_t)(v->regions + n);
		part.vec_len = cap - (uint64_t)n;
		long got = ioctl(pagemap, FM_PAGEMAP_SCAN, &part);
		if (got < 0)
			return -1;
		n += got;
		/* walk_end is right only when the vector is full: otherwise it may be where the kernel's own buffer was full last (Linux 6.18). */
		pos = (uint64_t)got < part.vec_len ? until : part.walk_end;
		if (pos < until)
			break;
	}
	a->walk_end = pos;
	return n;
}

static int copy(pid_t pid, bool to_criu, uint64_t addr, void *ours, size_t n)
{
	struct iovec local = { .iov_base = ours, .iov_len = n };
	struct iovec remote = { .iov_base = (void *)(uintptr_t)addr, .iov_len = n };
	ssize_t done = to_criu ? process_vm_writev(pid, &local, 1, &remote, 1, 0) : process_vm_readv(pid, &local, 1, &remote, 1, 0);

	return done == (ssize_t)n ? 0 : -1;
}

/* "…/123" with the given end: the number in CRIU's own pid namespace, or 0 (its own is "self" and is nobody of the tree) */
static pid_t whose(int fd, const char *end)
{
	char path[48], name[256], *slash;
	ssize_t n;

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, name, sizeof(name) - 1);
	if (n <= 0)
		return 0;
	name[n] = '\0';
	size_t length = strlen(end);
	if ((size_t)n <= length || strcmp(name + n - length, end) != 0)
		return 0;
	name[n - (ssize_t)length] = '\0';
	slash = strrchr(name, '/');
	return slash ? (pid_t)strtol(slash + 1, NULL, 10) : 0;
}

/* Entries of n pages from start on, of which hidden ones have nothing. 0, or -1 and errno. */
static int read_visible(const struct process *p, int pagemap, uint64_t start, uint64_t n, uint64_t *entries)
{
	uint64_t end = start + n * PAGE_BYTES;

	for (uint64_t pos = start, until; pos < end; pos = until) {
		uint64_t *at = entries + (pos - start) / PAGE_BYTES;
		if (hidden_at(p, pos, end, &until)) {
			memset(at, 0, (until - pos) / PAGE_BYTES * ENTRY_BYTES);
			continue;
		}
		ssize_t got = pread(pagemap, at, (until - pos) / PAGE_BYTES * ENTRY_BYTES, (off_t)(pos / PAGE_BYTES * ENTRY_BYTES));
		if (got < (ssize_t)ENTRY_BYTES) {
			errno = got < 0 ? errno : ESRCH; /* its address space is gone */
			return -1;
		}
		until = pos + (uint64_t)got / ENTRY_BYTES * PAGE_BYTES;
	}
	return 0;
}

/* As answer(), for CRIU's reading of pagemap. It takes fewer bytes than it asked for, and asks for the rest. */
static bool answer_read(struct fm_criu_view *v, const struct seccomp_data *call, long *ret, struct fm_error *err)
{
	uint64_t n = call->args[2] / ENTRY_BYTES, first = call->args[3] / ENTRY_BYTES, until;
	uint64_t *entries = (uint64_t *)(void *)v->regions;
	const struct process *p;

	if (v->root == 0 || n == 0 || call->args[2] % ENTRY_BYTES || call->args[3] % ENTRY_BYTES)
		return false;
	n = n < ENTRIES_MAX ? n : ENTRIES_MAX;
	_fm_close_ int pagemap = (int)syscall(SYS_pidfd_getfd, v->criu_pidfd, (int)call->args[0], 0);
	pid_t ns_pid = pagemap >= 0 ? whose(pagemap, "/pagemap") : 0;
	if (ns_pid <= 0 || first > UINT64_MAX / PAGE_BYTES - n)
		return false;
	*ret = -EIO;
	if (find_process(v, ns_pid, &p, err) < 0)
		return true;
	uint64_t start = first * PAGE_BYTES, end = start + n * PAGE_BYTES;
	if (!p || (!hidden_at(p, start, end, &until) && until == end))
		return false;
	if (read_visible(p, pagemap, start, n, entries) < 0)
		*ret = -errno;
	else if (copy(v->criu_pid, true, call->args[1], entries, n * ENTRY_BYTES) < 0)
		(void)fm_error_set(err, FM_E_INTERNAL, "CRIU's memory cannot be written to");
	else
		*ret = (long)(n * ENTRY_BYTES);
	return true;
}

/* true: answered, *ret is what the call returns (negative: -errno). false: the kernel is to answer. */
static bool answer(struct fm_criu_view *v, const struct seccomp_data *call, long *ret, struct fm_error *err)
{
	struct fm_pm_scan_arg a;
	const struct process *p;

	if (v->root == 0 || copy(v->criu_pid, false, call->args[2], &a, sizeof(a)) < 0 || a.category_anyof_mask != HAS_CONTENT ||
	    a.flags != 0 || a.max_pages != 0 || a.vec == 0)
		return false;
	_fm_close_ int pagemap = (int)syscall(SYS_pidfd_getfd, v->criu_pidfd, (int)call->args[0], 0);
	pid_t ns_pid = pagemap >= 0 ? whose(pagemap, "/pagemap") : 0;
	*ret = -EIO;
	if (ns_pid <= 0)
		return false;
	if (find_process(v, ns_pid, &p, err) < 0)
		return true;
	if (!p)
		return false;
	long n = visible(v, p, pagemap, &a);
	if (n < 0) {
		*ret = -errno;
		return true;
	}
	if ((n > 0 && copy(v->criu_pid, true, a.vec, v->regions, (size_t)n * sizeof(*v->regions)) < 0) ||
	    copy(v->criu_pid, true, call->args[2] + offsetof(struct fm_pm_scan_arg, walk_end), &a.walk_end, sizeof(a.walk_end)) < 0) {
		(void)fm_error_set(err, FM_E_INTERNAL, "CRIU's memory cannot be written to");
		return true;
	}
	*ret = n;
	return true;
}

/* The file is what CRIU's call returns. */
static bool hand_out(struct fm_criu_view *v, uint64_t id, const char *text)
{
	_fm_close_ int fd = memfd_create("smaps", MFD_CLOEXEC);
	struct seccomp_notif_addfd a = { .id = id, .flags = SECCOMP_ADDFD_FLAG_SEND, .srcfd = (uint32_t)fd };

	return fd >= 0 && fm_write_full(fd, text, strlen(text), NULL) == 0 && lseek(fd, 0, SEEK_SET) == 0 &&
	       ioctl(v->listener, SECCOMP_IOCTL_NOTIF_ADDFD, &a) >= 0;
}

/* Is it smaps of a process of the tree? true: answered. Whatever does not work out is the kernel's to answer. */
static bool answer_open(struct fm_criu_view *v, uint64_t id, const struct seccomp_data *call)
{
	struct fm_error e = FM_ERROR_INIT;
	const struct process *p = NULL;
	char name[6];

	if (!v->smaps || copy(v->criu_pid, false, call->args[1], name, sizeof(name)) < 0 || memcmp(name, "smaps", sizeof(name)) != 0)
		return false;
	_fm_close_ int folder = (int)syscall(SYS_pidfd_getfd, v->criu_pidfd, (int)call->args[0], 0);
	pid_t ns_pid = folder >= 0 ? whose(folder, "") : 0;
	if (ns_pid <= 0 || find_process(v, ns_pid, &p, &e) < 0 || !p)
		return false;
	_fm_free_ char *text = fm_smaps_answer(v->smaps, p->host_pid);
	return text && hand_out(v, id, text);
}

static void serve_one(struct fm_criu_view *v)
{
	struct fm_error err = FM_ERROR_INIT;
	long result = 0;

	memset(v->request, 0, v->request_bytes);
	if (ioctl(v->listener, SECCOMP_IOCTL_NOTIF_RECV, v->request) < 0)
		return; /* it was interrupted, or has ended */
	memset(v->response, 0, v->response_bytes);
	v->response->id = v->request->id;
	pthread_mutex_lock(&v->lock);
	if (v->request->data.nr == __NR_openat && answer_open(v, v->request->id, &v->request->data)) {
		pthread_mutex_unlock(&v->lock);
		return;
	}
	const struct seccomp_data *call = &v->request->data;
	bool answered = (call->nr == __NR_ioctl && answer(v, call, &result, &err)) ||
	                (call->nr == __NR_pread64 && answer_read(v, call, &result, &err));
	if (!answered)
		v->response->flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	else if (result < 0)
		v->response->error = (int)result;
	else
		v->response->val = result;
	if (err.code != FM_OK && v->failure.code == FM_OK)
		v->failure = err;
	pthread_mutex_unlock(&v->lock);
	(void)ioctl(v->listener, SECCOMP_IOCTL_NOTIF_SEND, v->response);
}

static void *serve(void *arg)
{
	struct fm_criu_view *v = arg;
	struct pollfd fds[] = { { .fd = v->listener, .events = POLLIN }, { .fd = v->stop.fd, .events = POLLIN } };

	fm_thread_haste(FM_HASTE_HURRIED);
	while (!fm_stop_requested(&v->stop)) {
		if (poll(fds, FM_ARRAY_SIZE(fds), -1) < 0 && errno != EINTR)
			break;
		if (fds[0].revents & POLLIN)
			serve_one(v);
		else if (fds[0].revents) /* CRIU has ended */
			break;
	}
	return NULL;
}

/* ---------------------------------------------------------------- public */

static int allocate(struct fm_criu_view *v, struct fm_error *err)
{
	struct seccomp_notif_sizes sizes;

	if (syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes) < 0)
		return fm_error_errno(err, errno, "seccomp notifications do not work here");
	v->request_bytes = sizes.seccomp_notif > sizeof(*v->request) ? sizes.seccomp_notif : sizeof(*v->request);
	v->response_bytes = sizes.seccomp_notif_resp > sizeof(*v->response) ? sizes.seccomp_notif_resp : sizeof(*v->response);
	v->request = calloc(1, v->request_bytes);
	v->response = calloc(1, v->response_bytes);
	v->regions = calloc(REGIONS_MAX, sizeof(*v->regions));
	if (!v->request || !v->response || !v->regions)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	return 0;
}

static void release(struct fm_criu_view *v)
{
	fm_closep(&v->listener);
	fm_closep(&v->criu_pidfd);
	for (size_t i = 0; i < v->n_processes; i++)
		free(v->processes[i].mappings);
	free(v->processes);
	fm_smaps_free(v->smaps);
	free(v->request);
	free(v->response);
	free(v->regions);
	fm_stop_done(&v->stop);
	pthread_mutex_destroy(&v->lock);
	free(v);
}

int fm_criu_view_new(int listener_fd, pid_t criu_pid, struct fm_criu_view **ret, struct fm_error *err)
{
	struct fm_criu_view *v = calloc(1, sizeof(*v));
	int rc = -1;

	if (!v) {
		(void)close(listener_fd);
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	}
	v->listener = listener_fd;
	v->criu_pid = criu_pid;
	pthread_mutex_init(&v->lock, NULL);
	v->criu_pidfd = (int)syscall(SYS_pidfd_open, criu_pid, 0);
	if (fm_stop_init(&v->stop, err) == 0 && allocate(v, err) == 0) {
		rc = v->criu_pidfd < 0 ? errno : pthread_create(&v->thread, NULL, serve, v);
		if (rc != 0)
			rc = fm_error_errno(err, rc, "cannot watch CRIU (process %d)", (int)criu_pid);
	}
	if (rc < 0) {
		release(v);
		return -1;
	}
	*ret = v;
	return 0;
}

void fm_criu_view_free(struct fm_criu_view *v)
{
	if (!v)
		return;
	fm_stop_request(&v->stop);
	pthread_join(v->thread, NULL);
	release(v);
}

void fm_criu_view_hide(struct fm_criu_view *v, pid_t root, int frozen_fd, struct fm_smaps *smaps)
{
	pthread_mutex_lock(&v->lock);
	v->root = root;
	v->frozen_fd = frozen_fd;
	fm_smaps_free(v->smaps);
	v->smaps = smaps;
	pthread_mutex_unlock(&v->lock);
}

struct ranges {
	struct fm_lazy_range *v;
	size_t n, cap;
};

static int add_range(struct ranges *r, pid_t ns_pid, uint64_t start, uint64_t end, struct fm_error *err)
{
	struct fm_lazy_range *last = r->n ? &r->v[r->n - 1] : NULL;

	if (last && last->ns_pid == ns_pid && last->vaddr + last->n_pages * PAGE_BYTES == start) {
		last->n_pages += (end - start) / PAGE_BYTES;
		return 0;
	}
	if (r->n == r->cap) {
		size_t cap = r->cap ? 2 * r->cap : 4096;
		struct fm_lazy_range *bigger = cap <= RANGES_MAX ? reallocarray(r->v, cap, sizeof(*bigger)) : NULL;
		if (!bigger)
			return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "the tree's memory is in more than %u pieces", RANGES_MAX / 2);
		r->v = bigger;
		r->cap = cap;
	}
	r->v[r->n++] = (struct fm_lazy_range){ .ns_pid = ns_pid, .vaddr = start, .n_pages = (end - start) / PAGE_BYTES };
	return 0;
}

/* All pages with content between start and end. Markers of guard regions look like swapped pages: kernels that have them can tell. */
static int scan(struct fm_criu_view *v, const struct process *p, int pagemap, const struct mapping *m, struct ranges *r,
                struct fm_error *err)
{
	for (uint64_t pos = m->start; pos < m->end;) {
		struct fm_pm_scan_arg a = { .size = sizeof(a),
			                    .start = pos,
			                    .end = m->end,
			                    .vec = (uintptr_t)v->regions,
			                    .vec_len = REGIONS_MAX,
			                    .category_inverted = FM_PAGE_IS_GUARD,
			                    .category_mask = FM_PAGE_IS_GUARD,
			                    .category_anyof_mask = HAS_CONTENT,
			                    .return_mask = FM_PAGE_IS_PRESENT };
		long n = ioctl(pagemap, FM_PAGEMAP_SCAN, &a);
		if (n < 0 && errno == EINVAL) {
			a.category_inverted = a.category_mask = 0;
			n = ioctl(pagemap, FM_PAGEMAP_SCAN, &a);
		}
		if (n < 0)
			return fm_error_errno(err, errno, "cannot list the pages of process %d", (int)p->host_pid);
		for (long i = 0; i < n; i++)
			if (add_range(r, p->ns_pid, v->regions[i].start, v->regions[i].end, err) < 0)
				return -1;
		if (n < (long)REGIONS_MAX) /* as in visible() */
			break;
		pos = r->v[r->n - 1].vaddr + r->v[r->n - 1].n_pages * PAGE_BYTES;
	}
	return 0;
}

/* The same where there is only pagemap to read. */
static int scan_by_reading(struct fm_criu_view *v, const struct process *p, int pagemap, const struct mapping *m, struct ranges *r,
                           struct fm_error *err)
{
	const uint64_t *entries = (const uint64_t *)(const void *)v->regions;

	for (uint64_t pos = m->start; pos < m->end;) {
		uint64_t left = (m->end - pos) / PAGE_BYTES, n = left < ENTRIES_MAX ? left : ENTRIES_MAX;
		ssize_t got = pread(pagemap, v->regions, n * ENTRY_BYTES, (off_t)(pos / PAGE_BYTES * ENTRY_BYTES));
		if (got < (ssize_t)ENTRY_BYTES)
			return fm_error_errno(err, got < 0 ? errno : ESRCH, "cannot list the pages of process %d", (int)p->host_pid);
		n = (uint64_t)got / ENTRY_BYTES;
		for (uint64_t i = 0; i < n; i++, pos += PAGE_BYTES)
			if ((entries[i] & ENTRY_HAS_CONTENT) && add_range(r, p->ns_pid, pos, pos + PAGE_BYTES, err) < 0)
				return -1;
	}
	return 0;
}

static int compare_processes(const void *a, const void *b)
{
	pid_t x = ((const struct process *)a)->ns_pid, y = ((const struct process *)b)->ns_pid;
	return x < y ? -1 : x > y;
}

static int list_process(struct fm_criu_view *v, const struct process *p, struct ranges *r, struct fm_error *err)
{
	char path[48];

	(void)snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)p->host_pid);
	_fm_close_ int pagemap = open(path, O_RDONLY | O_CLOEXEC);
	if (pagemap < 0)
		return fm_error_errno(err, errno, "cannot list the pages of process %d", (int)p->host_pid);
	int (*list)(struct fm_criu_view *, const struct process *, int, const struct mapping *, struct ranges *, struct fm_error *) =
	        kernel_has_scan(pagemap) ? scan : scan_by_reading;
	for (size_t i = 0; i < p->n; i++)
		if (p->mappings[i].hidden && list(v, p, pagemap, &p->mappings[i], r, err) < 0)
			return -1;
	return 0;
}

/* Only processes that CRIU has asked about: of others it has not dumped anything, so nothing was hidden. */
int fm_criu_view_ranges(struct fm_criu_view *v, struct fm_lazy_range **ret, size_t *ret_n, struct fm_error *err)
{
	struct ranges r = { 0 };
	int rc = 0;

	pthread_mutex_lock(&v->lock);
	if (v->failure.code != FM_OK) {
		*err = v->failure;
		rc = -1;
	}
	qsort(v->processes, v->n_processes, sizeof(*v->processes), compare_processes);
	for (size_t i = 0; i < v->n_processes && rc == 0; i++)
		rc = list_process(v, &v->processes[i], &r, err);
	pthread_mutex_unlock(&v->lock);
	if (rc < 0) {
		free(r.v);
		return -1;
	}
	*ret = r.v;
	*ret_n = r.n;
	return 0;
}

int fm_criu_view_verify(struct fm_criu_view *v, struct fm_error *err)
{
	pthread_mutex_lock(&v->lock);
	int rc = fm_smaps_verify(v->smaps, err);
	pthread_mutex_unlock(&v->lock);
	return rc;
}
