/* SPDX-License-Identifier: MIT */
/*
 * page-source.c - see page-source.h.
 *
 * One request is answered with one read in the common case: process_vm_readv goes straight into the place of the payload in the frame. Where it stops, the page is tried once more
 * through /proc/PID/mem, which also reads pages that the application itself may not (PROT_NONE guards that hold data, execute-only code); only what that refuses too is GONE.
 *
 * A page must never come from a stranger: process_vm_readv goes by number, and numbers are reused. So every task is held by a pidfd, which is looked at *after* each read:
 * as long as the task has not ended by then, the number was its own all the time. /proc/PID/mem is bound to the address space at open. A task that ended is fatal
 * (its memory is lost), never an answer of zeros.
 */
#include "sync/page-source.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/uio.h>

#include "basic/cleanup.h"
#include "basic/limits.h"
#include "basic/proc.h"
#include "sync/stream-internal.h"

#define SEND_MS     30000 /* a megabyte; a stream slower than that is no use */
#define BATCH_BYTES (FM_MAX_FRAME_BYTES + FM_PAGES_PER_REQUEST_MAX * (FM_FRAME_HEADER_BYTES + 4u))

struct task {
	pid_t ns_pid, host_pid;
	int pidfd, mem_fd;
};

struct fm_page_source {
	struct task *tasks; /* sorted by ns_pid */
	size_t n_tasks;
	_Atomic uint64_t pages_sent;
};

FM_DEFINE_CLEANUP(struct fm_page_source *, fm_page_source_free);

static int compare_tasks(const void *a, const void *b)
{
	pid_t x = ((const struct task *)a)->ns_pid, y = ((const struct task *)b)->ns_pid;
	return x < y ? -1 : x > y;
}

/* Also true for a zombie. */
static bool has_ended(const struct task *t)
{
	struct pollfd p = { .fd = t->pidfd, .events = POLLIN };
	int n;

	do
		n = poll(&p, 1, 0);
	while (n < 0 && errno == EINTR);
	return n != 0;
}

static int open_task(struct task *t, struct fm_error *err)
{
	char path[48];

	t->pidfd = fm_pidfd_open(t->host_pid);
	if (t->pidfd < 0)
		return fm_error_errno(err, errno, "cannot get hold of process %d", (int)t->host_pid);
	(void)snprintf(path, sizeof(path), "/proc/%d/mem", (int)t->host_pid);
	t->mem_fd = open(path, O_RDONLY | O_CLOEXEC);
	int saved = errno;
	/* A zombie belongs to the tree, but has no memory any more: newer kernels do not even open it. */
	if (t->mem_fd < 0 && !(saved == ESRCH && has_ended(t)))
		return fm_error_errno(err, saved, "cannot read the memory of process %d", (int)t->host_pid);
	return 0;
}

int fm_page_source_new(const struct fm_page_source_task *tasks, size_t n, struct fm_page_source **ret, struct fm_error *err)
{
	if (n == 0 || n > FM_MAX_TREE_PROCESSES)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "pages can be served for 1 to %d processes, not %zu", FM_MAX_TREE_PROCESSES,
		                    n);
	_fm_cleanup_(fm_page_source_freep) struct fm_page_source *p = calloc(1, sizeof(*p));
	if (p)
		p->tasks = calloc(n, sizeof(*p->tasks));
	if (!p || !p->tasks)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for a page source");
	for (size_t i = 0; i < n; i++)
		p->tasks[i] = (struct task){ .ns_pid = tasks[i].ns_pid, .host_pid = tasks[i].host_pid, .pidfd = -1, .mem_fd = -1 };
	p->n_tasks = n;
	qsort(p->tasks, n, sizeof(*p->tasks), compare_tasks);
	for (size_t i = 0; i < n; i++) {
		if (i && p->tasks[i].ns_pid == p->tasks[i - 1].ns_pid)
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "process %d is listed twice", (int)p->tasks[i].ns_pid);
		if (open_task(&p->tasks[i], err) < 0)
			return -1;
	}
	*ret = FM_TAKE_PTR(p);
	return 0;
}

void fm_page_source_free(struct fm_page_source *p)
{
	if (!p)
		return;
	for (size_t i = 0; i < p->n_tasks; i++) {
		fm_closep(&p->tasks[i].pidfd);
		fm_closep(&p->tasks[i].mem_fd);
	}
	free(p->tasks);
	free(p);
}

static int check_alive(const struct task *t, struct fm_error *err)
{
	if (has_ended(t))
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "process %d (host pid %d) ended while its memory was still needed",
		                    (int)t->ns_pid, (int)t->host_pid);
	return 0;
}

/* Whole pages from the front of the range; 0 = the first one cannot be read. The caller checks that the task still lives. */
static ssize_t read_pages(const struct task *t, uint64_t address, uint8_t *to, size_t n_pages, struct fm_error *err)
{
	struct iovec local = { .iov_base = to, .iov_len = n_pages * FM_PAGE_BYTES };
	struct iovec remote = { .iov_base = (void *)(uintptr_t)address, .iov_len = local.iov_len };

	ssize_t r = process_vm_readv(t->host_pid, &local, 1, &remote, 1, 0);
	if (r >= (ssize_t)FM_PAGE_BYTES)
		return r / FM_PAGE_BYTES;
	if (r < 0 && errno != EFAULT && errno != ESRCH)
		return fm_error_errno(err, errno, "cannot read %zu pages at %#llx of process %d", n_pages, (unsigned long long)address,
		                      (int)t->host_pid);

	if (address > INT64_MAX - FM_PAGE_BYTES || t->mem_fd < 0)
		return 0;
	do
		r = pread(t->mem_fd, to, FM_PAGE_BYTES, (off_t)address);
	while (r < 0 && errno == EINTR);
	if (r < 0 && errno != EIO && errno != EFAULT)
		return fm_error_errno(err, errno, "cannot read the page at %#llx of process %d", (unsigned long long)address,
		                      (int)t->host_pid);
	return r == (ssize_t)FM_PAGE_BYTES ? 1 : 0;
}

static int add_gone(struct fm_batch *b, const struct task *t, uint64_t address, uint32_t n_pages, struct fm_error *err)
{
	uint8_t count[4];

	if (!n_pages)
		return 0;
	fm_put_le32(count, n_pages);
	return fm_batch_add(b, FM_FRAME_PAGES_GONE, (uint64_t)t->ns_pid, address, count, sizeof(count), err);
}

/* Runs of readable and of unreadable pages, in order. The batch has room for the worst case, so nothing leaves before the task was seen alive. */
static int answer(struct fm_page_source *p, struct fm_batch *b, const struct task *t, uint64_t address, uint32_t n_pages,
                  struct fm_error *err)
{
	uint32_t gone = 0;
	uint64_t sent = 0;

	for (uint32_t i = 0; i < n_pages;) {
		uint64_t at = address + (uint64_t)i * FM_PAGE_BYTES;
		uint8_t *to;
		size_t room;
		/* A pending GONE frame goes in front: leave its place. */
		size_t before = gone ? FM_FRAME_HEADER_BYTES + 4u : 0;
		if (fm_batch_reserve(b, (size_t)(n_pages - i) * FM_PAGE_BYTES, &to, &room, err) < 0)
			return -1;
		ssize_t r = read_pages(t, at, to + before, n_pages - i, err);
		if (r < 0)
			return -1;
		if (r == 0) {
			gone++;
			i++;
			continue;
		}
		if (add_gone(b, t, at - (uint64_t)gone * FM_PAGE_BYTES, gone, err) < 0)
			return -1;
		gone = 0;
		fm_batch_commit(b, FM_FRAME_PAGES, (uint64_t)t->ns_pid, at, (size_t)r * FM_PAGE_BYTES);
		i += (uint32_t)r;
		sent += (uint64_t)r;
	}
	if (add_gone(b, t, address + (uint64_t)(n_pages - gone) * FM_PAGE_BYTES, gone, err) < 0)
		return -1;
	if (check_alive(t, err) < 0)
		return -1;
	if (fm_batch_flush(b, err) < 0)
		return -1;
	atomic_fetch_add_explicit(&p->pages_sent, sent, memory_order_relaxed);
	return 0;
}

static int handle_request(struct fm_page_source *p, struct fm_batch *b, const struct fm_frame_header *h, const uint8_t *payload,
                          struct fm_error *err)
{
	if (h->length != 8)
		return fm_error_set(err, FM_E_DATA_LOSS, "a page request of %u bytes", h->length);
	uint32_t n_pages = fm_get_le32(payload);
	if (n_pages == 0 || n_pages > FM_PAGES_PER_REQUEST_MAX || h->b % FM_PAGE_BYTES ||
	    h->b > UINT64_MAX - (uint64_t)n_pages * FM_PAGE_BYTES)
		return fm_error_set(err, FM_E_DATA_LOSS, "an impossible page request: %u pages at %#llx", n_pages,
		                    (unsigned long long)h->b);

	struct task key = { .ns_pid = (pid_t)h->a };
	const struct task *t = h->a <= INT32_MAX ? bsearch(&key, p->tasks, p->n_tasks, sizeof(*p->tasks), compare_tasks) : NULL;
	if (!t)
		return fm_error_set(err, FM_E_DATA_LOSS, "pages of process %llu were asked for, which is not being migrated",
		                    (unsigned long long)h->a);
	return answer(p, b, t, h->b, n_pages, err);
}

static int serve(struct fm_page_source *p, struct fm_stream *s, struct fm_batch *b, int cancel_fd, struct fm_error *err)
{
	struct fm_frame_header h;
	uint8_t payload[8];

	for (;;) {
		if (fm_stream_recv(s, &h, payload, sizeof(payload), -1, cancel_fd, err) < 0)
			return -1;
		if (h.type == FM_FRAME_PAGES_DONE)
			return 0;
		if (h.type != FM_FRAME_PAGE_REQUEST)
			return fm_stream_unexpected(s, &h, "serving pages", err);
		if (handle_request(p, b, &h, payload, err) < 0)
			return -1;
	}
}

int fm_page_source_serve(struct fm_page_source *p, struct fm_stream *s, int cancel_fd, struct fm_error *err)
{
	_fm_batch_ struct fm_batch b = { 0 };
	struct fm_error e = FM_ERROR_INIT;

	if (fm_batch_init(&b, s, BATCH_BYTES, SEND_MS, cancel_fd, err) < 0)
		return -1;
	if (serve(p, s, &b, cancel_fd, &e) == 0)
		return 0;
	/* The pager at the other end reconnects after a break; it must know when that is of no use. */
	if (e.code != FM_E_UNAVAILABLE && e.code != FM_E_CANCELLED && e.code != FM_E_DEADLINE_EXCEEDED)
		fm_stream_send_error(s, &e);
	if (e.code == FM_E_DEADLINE_EXCEEDED) /* the peer takes nothing any more: as good as cut */
		e.code = FM_E_UNAVAILABLE;
	if (err)
		*err = e;
	return -1;
}

uint64_t fm_page_source_pages_sent(const struct fm_page_source *p)
{
	return atomic_load_explicit(&p->pages_sent, memory_order_relaxed);
}
