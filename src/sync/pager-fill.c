/* SPDX-License-Identifier: MIT */
/*
 * pager-fill.c - the pager and the kernel: messages of the userfaultfds, and putting pages into place.
 *
 * Why the lock lies around read(2) *and* what follows from it: a process that removes, unmaps, moves or forks waits until its message is
 * read, and UFFDIO_COPY fails with EAGAIN as long as it waits. So the table is behind the kernel only between read and the change of the
 * table; as no page is put into place in between, an old page can never appear where the application has removed it, or at an address that
 * now means something else. The same makes a fork exact: the child has the pages that were done in the table when its message was read, no
 * other.
 *
 * ENOENT from UFFDIO_COPY means that no registered mapping covers all of the piece: it spans two mappings (then smaller pieces go in), or
 * the page's mapping is gone, or it is just being moved and its message is not there yet. The second try tells the last two apart: the
 * kernel looks for changes under way *first*, so an ENOENT after an ENOENT, with no message read in between, means that nothing was under
 * way at the first. Before CRIU has said that the restore is finished, mappings may still be to come, and a page that does not fit is left
 * alone.
 *
 * Known limit: MADV_WIPEONFORK memory that is still missing at a fork should be zeros in the child; the kernel does not tell, and the
 * images' ranges do not either.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "sync/pager-internal.h"

#define READS_MAX   16  /* at a time: then the others' turn */
#define PIECE_PAGES 64u /* put into place without giving the lock away: some 30 us */

/* ioctls; 0 or -errno, *ret_pages: how many are in place */

static int uffd_copy(int fd, uint64_t addr, const uint8_t *data, uint64_t n, uint64_t *ret_pages)
{
	struct uffdio_copy c = { .dst = addr, .src = (uintptr_t)data, .len = n * FM_PAGE_BYTES };
	int e = ioctl(fd, UFFDIO_COPY, &c) < 0 ? errno : 0;

	*ret_pages = !e ? n : c.copy > 0 ? (uint64_t)c.copy / FM_PAGE_BYTES : 0;
	return *ret_pages ? 0 : -e;
}

static int uffd_zero(int fd, uint64_t addr, uint64_t n, uint64_t *ret_pages)
{
	struct uffdio_zeropage z = { .range = { .start = addr, .len = n * FM_PAGE_BYTES } };
	int e = ioctl(fd, UFFDIO_ZEROPAGE, &z) < 0 ? errno : 0;

	*ret_pages = !e ? n : z.zeropage > 0 ? (uint64_t)z.zeropage / FM_PAGE_BYTES : 0;
	return *ret_pages ? 0 : -e;
}

static void uffd_wake(int fd, uint64_t addr, uint64_t len)
{
	struct uffdio_range r = { .start = addr, .len = len };
	(void)ioctl(fd, UFFDIO_WAKE, &r);
}

int fm_pager_prepare_uffd(int fd, struct fm_error *err)
{
	char path[40], target[40];

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(path, target, sizeof(target) - 1);
	target[n > 0 ? n : 0] = 0;
	if (strcmp(target, "anon_inode:[userfaultfd]") != 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "descriptor %d is %s, not a userfaultfd", fd, n > 0 ? target : "unknown");
	int flags = fcntl(fd, F_GETFL); /* poll(2) refuses blocking ones */
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return fm_error_errno(err, errno, "cannot set flags of a userfaultfd");
	return 0;
}

/*
 * The kernel takes no range beyond the end of the address space, and where that is depends on the machine and the process: the largest
 * power of two it takes.
 */
void fm_pager_wake_all(const struct fm_pager_space *s)
{
	const uint64_t start = 64u << 10; /* vm.mmap_min_addr; nobody maps below */

	for (unsigned bits = 57; bits >= 30; bits--) {
		struct uffdio_range r = { .start = start, .len = (1ull << bits) - FM_PAGE_BYTES - start };
		if (ioctl(s->fd, UFFDIO_WAKE, &r) == 0)
			return;
	}
}

/* waiting faults */

static unsigned latency_bucket(uint64_t us)
{
	if (us < 4)
		return (unsigned)us;
	unsigned log = 63 - (unsigned)__builtin_clzll(us);
	return 4 * (log - 1) + (unsigned)(us >> (log - 2) & 3);
}

static void drop_waiting(struct fm_pager *p, size_t i)
{
	p->waiting[i] = p->waiting[--p->n_waiting];
}

/* Their page came. */
static void served(struct fm_pager *p, const struct fm_pager_space *s, uint64_t page, uint64_t n)
{
	for (size_t i = p->n_waiting; i-- > 0;) {
		const struct fm_pager_waiting *w = &p->waiting[i];
		if (w->key != s->key || w->page - page >= n)
			continue;
		uint64_t us = fm_now_us() - w->since_us;
		if (us > p->latency_max_us)
			p->latency_max_us = us;
		p->latency[latency_bucket(us)]++;
		p->latency_n++;
		drop_waiting(p, i);
	}
}

void fm_pager_forget_waiting(struct fm_pager *p, uint64_t key)
{
	for (size_t i = p->n_waiting; i-- > 0;)
		if (p->waiting[i].key == key)
			drop_waiting(p, i);
}

/* What they waited for has changed: they shall look again. */
static void rouse(struct fm_pager *p, const struct fm_pager_space *s, uint64_t start, uint64_t end)
{
	for (size_t i = p->n_waiting; i-- > 0;) {
		const struct fm_pager_waiting *w = &p->waiting[i];
		if (w->key != s->key || w->addr < start || w->addr >= end)
			continue;
		uffd_wake(s->fd, w->addr, FM_PAGE_BYTES);
		drop_waiting(p, i);
	}
}

static int add_waiting(struct fm_pager *p, const struct fm_pager_space *s, uint64_t addr, uint64_t page, struct fm_error *err)
{
	for (size_t i = 0; i < p->n_waiting; i++)
		if (p->waiting[i].key == s->key && p->waiting[i].page == page)
			return 0;
	if (p->n_waiting == p->cap_waiting) {
		size_t cap = p->cap_waiting ? p->cap_waiting * 2 : 64;
		struct fm_pager_waiting *more = realloc(p->waiting, cap * sizeof(*more));
		if (!more)
			return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for waiting faults");
		p->waiting = more;
		p->cap_waiting = cap;
	}
	p->waiting[p->n_waiting++] =
	        (struct fm_pager_waiting){ .key = s->key, .addr = addr, .page = page, .task = s->task, .since_us = fm_now_us() };
	/* The answer queues behind what the background has under way. */
	p->window = p->window / 2 > FM_PAGER_WINDOW_MIN ? p->window / 2 : FM_PAGER_WINDOW_MIN;
	return 0;
}

/* messages */

/* Memory of which the images list nothing, or that was removed: zeros. Where that does not go just now, the thread shall fault again. */
static int zero_fault(struct fm_pager_space *s, uint64_t addr, struct fm_error *err)
{
	uint64_t n;
	int r = uffd_zero(s->fd, addr, 1, &n);

	if (r == -ESRCH || r == -ENOSPC)
		s->dead = true;
	else if (r == -EEXIST || r == -EAGAIN || r == -ENOENT)
		uffd_wake(s->fd, addr, FM_PAGE_BYTES);
	else if (r < 0)
		return fm_error_errno(err, -r, "cannot put a page of zeros at %#llx", (unsigned long long)addr);
	return 0;
}

static int page_fault(struct fm_pager *p, struct fm_pager_space *s, uint64_t addr, struct fm_error *err)
{
	uint64_t page;

	p->faults++;
	addr -= addr % FM_PAGE_BYTES;
	if (fm_space_page_at(s, addr, &page) && !fm_space_is_done(s, page))
		return add_waiting(p, s, addr, page, err);
	return zero_fault(s, addr, err);
}

/*
 * A child that lacks nothing needs no pager: closing its descriptor makes its memory ordinary again. For one that lacks pages that is the
 * last thing that may happen, also when we cannot take it up.
 */
static int forked(struct fm_pager *p, const struct fm_pager_space *parent, int fd, struct fm_error *err)
{
	struct fm_pager_space *s;

	if (parent->missing == 0) {
		(void)close(fd);
		return 0;
	}
	if (fm_table_fork(p->table, parent, &s, err) < 0) {
		p->orphans[p->n_orphans++] = fd;
		return fm_error_prefix(err, "a process forked while its memory was being filled");
	}
	s->fd = fd; /* its flags are the parent's */
	p->look_again = true;
	return fm_pager_watch(p, s->fd, s->key, err);
}

/* What changes the table. */
static int take_note(struct fm_pager *p, struct fm_pager_space *s, const struct uffd_msg *m, struct fm_error *err)
{
	switch (m->event) {
	case UFFD_EVENT_PAGEFAULT:
		return 0;
	case UFFD_EVENT_FORK:
		return forked(p, s, (int)m->arg.fork.ufd, err);
	case UFFD_EVENT_REMAP:
		return fm_space_remap(p->table, s, m->arg.remap.from, m->arg.remap.to, m->arg.remap.len, err);
	case UFFD_EVENT_REMOVE:
	case UFFD_EVENT_UNMAP:
		fm_space_remove(s, m->arg.remove.start, m->arg.remove.end);
		return 0;
	default:
		return fm_error_set(err, FM_E_INTERNAL, "the kernel sent an unknown userfaultfd message %#x", m->event);
	}
}

/* What the waiting threads need. A fault is judged by the table as it is after all messages that were read with it: so does the kernel. */
static int respond(struct fm_pager *p, struct fm_pager_space *s, const struct uffd_msg *m, struct fm_error *err)
{
	switch (m->event) {
	case UFFD_EVENT_PAGEFAULT:
		return page_fault(p, s, m->arg.pagefault.address, err);
	case UFFD_EVENT_REMAP:
		rouse(p, s, m->arg.remap.from, m->arg.remap.from + m->arg.remap.len);
		rouse(p, s, m->arg.remap.to, m->arg.remap.to + m->arg.remap.len);
		return 0;
	case UFFD_EVENT_REMOVE:
	case UFFD_EVENT_UNMAP:
		rouse(p, s, m->arg.remove.start, m->arg.remove.end);
		return 0;
	default:
		return 0;
	}
}

/*
 * Number of messages read and handled, -1 fatal. Only what must not be lost in a crash is done within the event: faults are reported again.
 * After a failure the event stays open in the state file, because something was not written down.
 */
static int read_batch(struct fm_pager *p, struct fm_pager_space *s, struct fm_error *err)
{
	struct uffd_msg m[FM_PAGER_MESSAGES];

	fm_pager_state_begin_event(p->table->state);
	ssize_t r = read(s->fd, m, sizeof(m));
	int e = r < 0 ? errno : 0;
	size_t n = r < 0 ? 0 : (size_t)r / sizeof(m[0]);
	for (size_t i = 0; i < n; i++) {
		if (take_note(p, s, &m[i], err) == 0)
			continue;
		while (++i < n)
			if (m[i].event == UFFD_EVENT_FORK)
				p->orphans[p->n_orphans++] = (int)m[i].arg.fork.ufd;
		return -1;
	}
	fm_pager_state_end_event(p->table->state);
	for (size_t i = 0; i < n; i++)
		if (respond(p, s, &m[i], err) < 0)
			return -1;
	if (r >= 0 || e == EAGAIN || e == EINTR)
		return (int)n;
	(void)fm_error_errno(err, e, "cannot read from a userfaultfd");
	if (e == EMFILE || e == ENFILE)
		(void)fm_error_hint(
		        err, "a process forked and there is no descriptor left for its child: raise the agent's limit of open files");
	return -1;
}

void fm_pager_read_events(struct fm_pager *p, struct fm_pager_space *s)
{
	struct fm_error e = FM_ERROR_INIT;
	int n = FM_PAGER_MESSAGES;

	for (int i = 0; i < READS_MAX && n == (int)FM_PAGER_MESSAGES && !s->dead && !p->quit; i++)
		n = read_batch(p, s, &e);
	if (n < 0)
		fm_pager_fatal(p, &e);
}

/* pages */

static int put_run(const struct fm_pager_space *s, const struct fm_pager_extent *run, const uint8_t *data, uint64_t n, uint64_t *ret_pages)
{
	return data ? uffd_copy(s->fd, run->addr, data, n, ret_pages) : uffd_zero(s->fd, run->addr, n, ret_pages);
}

int fm_pager_put(struct fm_pager *p, struct fm_pager_space *s, uint64_t *page, uint64_t end, const uint8_t *data, uint64_t first,
                 struct fm_error *err)
{
	struct fm_pager_extent run;
	uint64_t n = 0;
	int r;

	if (s->dead || !fm_space_next_missing(s, *page, end, PIECE_PAGES, &run)) {
		*page = end;
		return 1;
	}
	const uint8_t *from = data ? data + (run.page - first) * FM_PAGE_BYTES : NULL;
	uint64_t want = run.n_pages;
	while ((r = put_run(s, &run, from, want, &n)) == -ENOENT && want > 1)
		want /= 2;
	if (r == -ENOENT)
		r = put_run(s, &run, from, 1, &n);
	*page = run.page + (r == 0 ? n : 1);
	switch (r) {
	case 0:
		fm_space_set_done(s, run.page, n);
		served(p, s, run.page, n);
		return 1;
	case -EEXIST:
		fm_space_set_done(s, run.page, 1);
		served(p, s, run.page, 1);
		uffd_wake(s->fd, run.addr, FM_PAGE_BYTES);
		return 1;
	case -ENOENT:
		if (fm_pager_state_finished(p->table->state)) {
			fm_space_set_done(s, run.page, 1);
			rouse(p, s, run.addr, run.addr + FM_PAGE_BYTES);
		}
		return 1;
	case -EAGAIN:
		*page = run.page;
		return 0;
	case -ESRCH:
	case -ENOSPC: /* older kernels */
		s->dead = true;
		*page = end;
		return 1;
	default:
		return fm_error_errno(err, -r, "cannot put a page into process %d at %#llx", (int)p->table->tasks[s->task].pid,
		                      (unsigned long long)run.addr);
	}
}
