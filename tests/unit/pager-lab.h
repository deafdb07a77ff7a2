/* SPDX-License-Identifier: MIT */
/*
 * pager-lab.h - the laboratory of test-pager.c: a folder, a guard that keeps descriptors, victims (processes that do what CRIU's restorer
 * does: register memory, hand the userfaultfd over, run), and a source that answers with contents known from pid and address, as badly as
 * the test wants.
 *
 * Nothing waits for a time: threads and processes tell each other by eventfd and socket. Deadlines only end a test that hangs.
 * Included by one program; all functions are its own.
 */
#ifndef FM_TESTS_PAGER_LAB_H
#define FM_TESTS_PAGER_LAB_H

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "sync/pager.h"
#include "sync/stream-internal.h"
#include "sync/stream.h"

#define PAGE        ((uint64_t)FM_PAGE_BYTES)
#define HANG_MS     120000
#define MAX_RANGES  8
#define MAX_KEPT    512
#define MAX_SOURCES 64
#define MAX_VICTIMS 4

/* ---- what the source holds */

static inline uint64_t content_word(pid_t pid, uint64_t addr)
{
	uint64_t x = addr ^ (uint64_t)pid << 48;
	x = (x ^ x >> 31) * 0x9e3779b97f4a7c15ull;
	return x ^ x >> 29;
}

static inline void content_fill(pid_t pid, uint64_t addr, uint8_t *to, uint64_t pages)
{
	for (uint64_t i = 0; i < pages * PAGE; i += 8) {
		uint64_t w = content_word(pid, addr + i);
		memcpy(to + i, &w, 8);
	}
}

/* Is the page at mem the one that the source had at addr (0: zeros)? */
static inline bool content_is(pid_t pid, uint64_t addr, const volatile uint8_t *mem)
{
	for (uint64_t i = 0; i < PAGE; i += 8)
		if (*(const volatile uint64_t *)(mem + i) != (addr ? content_word(pid, addr + i) : 0))
			return false;
	return true;
}

/* ---- the lab */

enum source_mode {
	SOURCE_GOOD,
	SOURCE_SHUFFLE,
	SOURCE_SILENT,
	SOURCE_WRONG_PID,
	SOURCE_WRONG_ADDRESS,
	SOURCE_TOO_MANY,
	SOURCE_TWICE,
	SOURCE_ODD_LENGTH,
	SOURCE_GONE_TOO_MANY,
	SOURCE_WRONG_TYPE,
	SOURCE_DAMAGED,
	SOURCE_REPORTS,
};

struct source {
	pthread_t thread;
	bool started;
	struct fm_stream *s;
	int raw_fd; /* a duplicate, to send damage */
	enum source_mode mode;
	unsigned hold_after; /* after so many requests say so on held_fd and answer no more; 0 = never */
	unsigned cut_after;  /* shut the stream down */
	unsigned seed;
	int held_fd; /* SILENT: one for each urgent request */
	bool got_done;
	_Atomic unsigned requests;
	_Atomic uint64_t pages;
};

struct victim {
	pid_t pid; /* host */
	int sync;  /* the test's end */
};

struct lab {
	char dir[64];
	int dirfd;
	struct fm_pager *pager;
	struct fm_pager_range ranges[MAX_RANGES];
	size_t n_ranges;
	uint32_t window;

	pthread_mutex_t lock;
	struct {
		uint64_t key;
		int fd;
	} kept[MAX_KEPT];
	size_t n_kept, n_kept_ever;
	bool keep_fails;
	bool refuse_drop;

	struct source sources[MAX_SOURCES];
	size_t n_sources;
	struct fm_stream *ours[MAX_SOURCES];
	struct victim victims[MAX_VICTIMS];
	size_t n_victims;
	void *reserved;
	size_t reserved_bytes;
};

/* ---- the guard */

static inline int lab_keep(void *userdata, uint64_t key, int fd, struct fm_error *err)
{
	struct lab *l = userdata;
	int r = -1;

	pthread_mutex_lock(&l->lock);
	if (l->keep_fails || l->n_kept == MAX_KEPT) {
		(void)fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "the guard is full");
	} else {
		l->kept[l->n_kept].key = key;
		l->kept[l->n_kept++].fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
		l->n_kept_ever++;
		r = 0;
	}
	pthread_mutex_unlock(&l->lock);
	return r;
}

static inline int lab_drop(void *userdata, uint64_t key, struct fm_error *err)
{
	struct lab *l = userdata;
	bool refuse;

	pthread_mutex_lock(&l->lock);
	refuse = l->refuse_drop;
	for (size_t i = l->n_kept; i-- > 0 && !refuse;)
		if (key == UINT64_MAX || l->kept[i].key == key) {
			close(l->kept[i].fd);
			l->kept[i] = l->kept[--l->n_kept];
		}
	pthread_mutex_unlock(&l->lock);
	return refuse ? fm_error_set(err, FM_E_UNAVAILABLE, "the guard is gone") : 0;
}

static inline int lab_load(void *userdata, struct fm_pager_range **ret, size_t *ret_n, struct fm_error *err)
{
	struct lab *l = userdata;

	*ret = malloc(sizeof(l->ranges));
	memcpy(*ret, l->ranges, sizeof(l->ranges));
	*ret_n = l->n_ranges;
	return 0;
}

static inline struct fm_pager_opts lab_opts(struct lab *l)
{
	return (struct fm_pager_opts){ .images_dirfd = l->dirfd,
		                       .load_ranges = lab_load,
		                       .keep = lab_keep,
		                       .drop = lab_drop,
		                       .userdata = l,
		                       .window_pages = l->window };
}

static inline void lab_pager(struct lab *l)
{
	struct fm_pager_opts o = lab_opts(l);
	struct fm_error e = FM_ERROR_INIT;

	if (fm_pager_new(&o, &l->pager, &e) < 0)
		fail_msg("%s", e.message);
}

static inline int lab_recover(struct lab *l, struct fm_error *err)
{
	struct fm_pager_opts o = lab_opts(l);
	int fds[MAX_KEPT];
	uint64_t keys[MAX_KEPT];

	pthread_mutex_lock(&l->lock);
	size_t n = l->n_kept;
	for (size_t i = 0; i < n; i++) {
		keys[i] = l->kept[i].key;
		fds[i] = fcntl(l->kept[i].fd, F_DUPFD_CLOEXEC, 3);
	}
	pthread_mutex_unlock(&l->lock);
	return fm_pager_recover(&o, fds, keys, n, &l->pager, err);
}

/* ---- the source */

struct asked {
	pid_t pid;
	uint64_t addr;
	uint32_t n;
};

static inline int source_send(struct source *src, enum fm_frame type, uint64_t a, uint64_t b, const void *payload, size_t n)
{
	return fm_stream_send(src->s, type, a, b, payload, n, HANG_MS, NULL);
}

/* A page in 64 is GONE when the source shuffles; the victims know. */
static inline bool content_is_gone(uint64_t addr)
{
	return addr / PAGE % 64 == 33;
}

static inline int answer_pieces(struct source *src, const struct asked *q, uint8_t *buf)
{
	for (uint32_t i = 0, n; i < q->n; i += n) {
		uint64_t at = q->addr + i * PAGE;
		uint8_t count[4];
		if (content_is_gone(at)) {
			n = 1;
			fm_put_le32(count, n);
			if (source_send(src, FM_FRAME_PAGES_GONE, (uint64_t)q->pid, at, count, 4) < 0)
				return -1;
			continue;
		}
		uint32_t max = 1 + (uint32_t)rand_r(&src->seed) % (q->n - i);
		for (n = 1; n < max && !content_is_gone(at + n * PAGE);)
			n++;
		content_fill(q->pid, at, buf, n);
		if (source_send(src, FM_FRAME_PAGES, (uint64_t)q->pid, at, buf, n * PAGE) < 0)
			return -1;
	}
	return 0;
}

static inline int answer_badly(struct source *src, const struct asked *q, uint8_t *buf)
{
	struct fm_error e = FM_ERROR_INIT;
	uint8_t count[4];

	memset(buf, 0x5a, FM_MAX_FRAME_BYTES);
	switch (src->mode) {
	case SOURCE_WRONG_PID:
		return source_send(src, FM_FRAME_PAGES, (uint64_t)q->pid + 1, q->addr, buf, q->n * PAGE);
	case SOURCE_WRONG_ADDRESS:
		return source_send(src, FM_FRAME_PAGES, (uint64_t)q->pid, q->addr + 40 * PAGE, buf, q->n * PAGE);
	case SOURCE_TOO_MANY:
		return source_send(src, FM_FRAME_PAGES, (uint64_t)q->pid, q->addr, buf, (q->n + 1) % 257 * PAGE);
	case SOURCE_TWICE: /* right once, then again */
		content_fill(q->pid, q->addr, buf, q->n);
		if (source_send(src, FM_FRAME_PAGES, (uint64_t)q->pid, q->addr, buf, q->n * PAGE) < 0)
			return -1;
		memset(buf, 0x5a, q->n * PAGE);
		return source_send(src, FM_FRAME_PAGES, (uint64_t)q->pid, q->addr, buf, q->n * PAGE);
	case SOURCE_ODD_LENGTH:
		return source_send(src, FM_FRAME_PAGES, (uint64_t)q->pid, q->addr, buf, PAGE - 8);
	case SOURCE_GONE_TOO_MANY:
		fm_put_le32(count, UINT32_MAX);
		return source_send(src, FM_FRAME_PAGES_GONE, (uint64_t)q->pid, q->addr, count, 4);
	case SOURCE_WRONG_TYPE:
		return source_send(src, FM_FRAME_IMAGE_DATA, (uint64_t)q->pid, q->addr, buf, q->n * PAGE);
	case SOURCE_DAMAGED:
		fm_frame_encode(buf, FM_FRAME_PAGES, (uint64_t)q->pid, q->addr, buf + 64, PAGE);
		buf[100] ^= 1;
		return write(src->raw_fd, buf, FM_FRAME_HEADER_BYTES + PAGE) < 0 ? -1 : 0;
	default:
		(void)fm_error_set(&e, FM_E_FAILED_PRECONDITION, "the tree has ended");
		fm_stream_send_error(src->s, &e);
		return -1;
	}
}

static inline int answer(struct source *src, const struct asked *q, uint8_t *buf)
{
	atomic_fetch_add(&src->pages, q->n);
	if (src->mode == SOURCE_SILENT)
		return 0;
	if (src->mode == SOURCE_SHUFFLE)
		return answer_pieces(src, q, buf);
	if (src->mode != SOURCE_GOOD)
		return answer_badly(src, q, buf);
	content_fill(q->pid, q->addr, buf, q->n);
	return source_send(src, FM_FRAME_PAGES, (uint64_t)q->pid, q->addr, buf, q->n * PAGE);
}

/* 1 a request, 0 none now (only with timeout 0), -1 end */
static inline int next_asked(struct source *src, int timeout_ms, struct asked *ret)
{
	struct fm_frame_header h;
	struct fm_error e = FM_ERROR_INIT;
	uint8_t payload[8];

	if (fm_stream_recv(src->s, &h, payload, sizeof(payload), timeout_ms, -1, &e) < 0)
		return e.code == FM_E_DEADLINE_EXCEEDED ? 0 : -1;
	if (h.type == FM_FRAME_PAGES_DONE)
		src->got_done = true;
	if (h.type != FM_FRAME_PAGE_REQUEST || h.length != 8)
		return -1;
	*ret = (struct asked){ .pid = (pid_t)h.a, .addr = h.b, .n = fm_get_le32(payload) };
	if (fm_get_le32(payload + 4) && src->mode == SOURCE_SILENT)
		(void)eventfd_write(src->held_fd, 1);
	unsigned n = atomic_fetch_add(&src->requests, 1) + 1;
	if (src->cut_after && n > src->cut_after) {
		fm_stream_shutdown(src->s);
		return -1;
	}
	if (src->hold_after && n > src->hold_after) {
		(void)eventfd_write(src->held_fd, 1);
		while (fm_stream_recv(src->s, &h, payload, sizeof(payload), -1, -1, NULL) == 0)
			;
		return -1;
	}
	return 1;
}

/* Answers as soon as nothing more is asked, in any order. */
static inline void serve_shuffled(struct source *src, uint8_t *buf)
{
	struct asked held[64];
	unsigned n = 0;
	int r;

	while ((r = next_asked(src, n ? 0 : -1, &held[n])) >= 0) {
		if (r > 0 && ++n < FM_ARRAY_SIZE(held))
			continue;
		while (n) {
			unsigned i = (unsigned)rand_r(&src->seed) % n;
			if (answer(src, &held[i], buf) < 0)
				return;
			held[i] = held[--n];
		}
	}
}

static inline void *source_thread(void *arg)
{
	struct source *src = arg;
	struct asked q;
	uint8_t *buf = malloc(FM_MAX_FRAME_BYTES + PAGE);

	if (src->mode == SOURCE_SHUFFLE)
		serve_shuffled(src, buf);
	else
		while (next_asked(src, -1, &q) > 0 && answer(src, &q, buf) == 0)
			;
	if (src->mode != SOURCE_DAMAGED)
		fm_stream_shutdown(src->s);
	free(buf);
	return NULL;
}

/* Two ends of a connection over loopback, as between two hosts */
static inline void stream_pair(int fds[2])
{
	int listen_fd = -1;
	uint16_t port = 0;
	char address[32];

	assert_int_equal(fm_tcp_listen("127.0.0.1:0", 4, &listen_fd, NULL), 0);
	assert_int_equal(fm_tcp_local_port(listen_fd, &port, NULL), 0);
	(void)snprintf(address, sizeof(address), "127.0.0.1:%u", port);
	assert_int_equal(fm_tcp_connect(address, HANG_MS, &fds[0], NULL), 0);
	assert_int_equal(fm_accept(listen_fd, HANG_MS, -1, &fds[1], NULL), 0);
	close(listen_fd);
}

/* A source that is not yet running, connected with a stream of ours */
static inline struct source *lab_source(struct lab *l, enum source_mode mode, int *ret_our_fd)
{
	int fds[2];

	assert_true(l->n_sources < MAX_SOURCES);
	struct source *src = &l->sources[l->n_sources++];
	stream_pair(fds);
	src->mode = mode;
	src->seed = (unsigned)l->n_sources;
	src->held_fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
	src->raw_fd = fcntl(fds[1], F_DUPFD_CLOEXEC, 3);
	assert_int_equal(fm_stream_from_fd(fds[1], &src->s, NULL), 0);
	*ret_our_fd = fds[0];
	return src;
}

static inline void source_start(struct source *src)
{
	assert_int_equal(pthread_create(&src->thread, NULL, source_thread, src), 0);
	src->started = true;
}

/* Source, stream and set_stream */
static inline struct source *lab_connect(struct lab *l, enum source_mode mode, unsigned hold_after, unsigned cut_after)
{
	struct fm_error e = FM_ERROR_INIT;
	int fd = -1;
	struct source *src = lab_source(l, mode, &fd);
	struct fm_stream **ours = &l->ours[l->n_sources - 1];

	src->hold_after = hold_after;
	src->cut_after = cut_after;
	assert_int_equal(fm_stream_from_fd(fd, ours, NULL), 0);
	source_start(src);
	if (fm_pager_set_stream(l->pager, *ours, &e) < 0)
		fail_msg("%s", e.message);
	return src;
}

static inline void await_fd(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	assert_int_equal(poll(&p, 1, HANG_MS), 1);
}

static inline void lab_wait_done(struct lab *l)
{
	struct fm_error e = FM_ERROR_INIT;
	if (fm_pager_wait(l->pager, HANG_MS, -1, &e) < 0)
		fail_msg("%s %s", fm_code_to_string(e.code), e.message);
}

/* ---- victims */

struct victim_side {
	struct lab *lab;
	int sync;
	pid_t ns_pid;
	uint8_t *mem;
	uint64_t pages;
};

#define VICTIM_CHECK(cond)                                                                                                                 \
	do {                                                                                                                               \
		if (!(cond)) {                                                                                                             \
			dprintf(2, "victim: %s:%d: %s (errno %d)\n", __FILE__, __LINE__, #cond, errno);                                    \
			_exit(1);                                                                                                          \
		}                                                                                                                          \
	} while (0)

static inline int victim_uffd(void)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP };
	api.features |= UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_EVENT_REMOVE;
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	VICTIM_CHECK(fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0);
	return fd;
}

static inline int victim_connect(const struct lab *l)
{
	char path[96];
	int fd = -1;
	(void)snprintf(path, sizeof(path), "%s/lazy-pages.socket", l->dir);
	VICTIM_CHECK(fm_unix_connect(path, SOCK_STREAM, &fd, NULL) == 0);
	return fd;
}

static inline void victim_send_word(int sock, uint32_t w)
{
	VICTIM_CHECK(write(sock, &w, 4) == 4);
}

static inline void victim_send_task(int sock, pid_t ns_pid, int uffd)
{
	victim_send_word(sock, (uint32_t)ns_pid);
	VICTIM_CHECK(fm_send_with_fds(sock, "", 1, &uffd, 1, NULL) == 0);
}

static inline void victim_register(int uffd, void *mem, uint64_t bytes)
{
	struct uffdio_register r = { .range = { (uintptr_t)mem, bytes }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	VICTIM_CHECK(mmap(mem, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == mem);
	VICTIM_CHECK(ioctl(uffd, UFFDIO_REGISTER, &r) == 0);
}

/* What CRIU does for one task, in its order. */
static inline void victim_hand_over(const struct victim_side *v)
{
	int sock = victim_connect(v->lab), uffd = victim_uffd();
	victim_send_task(sock, v->ns_pid, uffd);
	victim_register(uffd, v->mem, v->pages * PAGE);
	close(uffd);
	victim_send_word(sock, 0x52535446);
	close(sock);
}

static inline void victim_say(const struct victim_side *v)
{
	VICTIM_CHECK(write(v->sync, "!", 1) == 1);
}

static inline void victim_await(const struct victim_side *v)
{
	char c;
	VICTIM_CHECK(read(v->sync, &c, 1) == 1);
}

static inline void victim_check_all(const struct victim_side *v)
{
	for (uint64_t i = 0; i < v->pages; i++)
		VICTIM_CHECK(content_is(v->ns_pid, (uintptr_t)v->mem + i * PAGE, v->mem + i * PAGE));
}

/* Address space for the victims: the same addresses in every process. */
static inline uint8_t *lab_reserve(struct lab *l, uint64_t pages)
{
	l->reserved_bytes = pages * PAGE;
	l->reserved = mmap(NULL, l->reserved_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_true(l->reserved != MAP_FAILED);
	return l->reserved;
}

static inline void lab_range(struct lab *l, pid_t ns_pid, const uint8_t *mem, uint64_t pages)
{
	l->ranges[l->n_ranges++] = (struct fm_pager_range){ .ns_pid = ns_pid, .vaddr = (uintptr_t)mem, .n_pages = pages };
}

/* Fork before the pager has its threads. The body begins when the test calls victim_go. */
static inline struct victim *lab_victim(struct lab *l, pid_t ns_pid, uint8_t *mem, uint64_t pages, void (*body)(const struct victim_side *))
{
	int sv[2];

	assert_true(l->n_victims < MAX_VICTIMS);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	pid_t parent = getpid(), pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct victim_side v = { .lab = l, .sync = sv[1], .ns_pid = ns_pid, .mem = mem, .pages = pages };
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		close(sv[0]);
		victim_await(&v);
		body(&v);
		_exit(0);
	}
	close(sv[1]);
	l->victims[l->n_victims] = (struct victim){ .pid = pid, .sync = sv[0] };
	return &l->victims[l->n_victims++];
}

static inline void victim_go(const struct victim *v)
{
	assert_int_equal(write(v->sync, "!", 1), 1);
}

static inline void await_victim(const struct victim *v)
{
	char c;
	await_fd(v->sync);
	assert_int_equal(read(v->sync, &c, 1), 1);
}

static inline void victim_must_succeed(struct victim *v)
{
	int status, pidfd = (int)syscall(SYS_pidfd_open, v->pid, 0);
	await_fd(pidfd);
	close(pidfd);
	assert_int_equal(waitpid(v->pid, &status, 0), v->pid);
	v->pid = 0;
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- beginning and end of a test */

static inline int lab_setup(void **state)
{
	struct lab *l = calloc(1, sizeof(*l));

	strcpy(l->dir, "/tmp/fm-pager-XXXXXX");
	assert_non_null(mkdtemp(l->dir));
	l->dirfd = open(l->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(l->dirfd >= 0);
	pthread_mutex_init(&l->lock, NULL);
	*state = l;
	return 0;
}

static inline int lab_teardown(void **state)
{
	struct lab *l = *state;

	for (size_t i = 0; i < l->n_victims; i++) {
		if (l->victims[i].pid) {
			kill(l->victims[i].pid, SIGKILL);
			(void)waitpid(l->victims[i].pid, NULL, 0);
		}
		close(l->victims[i].sync);
	}
	fm_pager_free(l->pager);
	l->refuse_drop = false;
	(void)lab_drop(l, UINT64_MAX, NULL);
	for (size_t i = 0; i < l->n_sources; i++) {
		struct source *src = &l->sources[i];
		fm_stream_shutdown(src->s);
		if (src->started)
			pthread_join(src->thread, NULL);
		fm_stream_free(src->s);
		fm_stream_free(l->ours[i]);
		close(src->held_fd);
		close(src->raw_fd);
	}
	if (l->reserved)
		munmap(l->reserved, l->reserved_bytes);
	close(l->dirfd);
	(void)fm_remove_tree(l->dir, NULL);
	pthread_mutex_destroy(&l->lock);
	free(l);
	return 0;
}

/* Root, and a kernel with all that CRIU asks for */
static inline bool lab_possible(void)
{
	if (geteuid() != 0) {
		printf("needs root (userfaultfd for a process's kernel faults)\n");
		return false;
	}
	return true;
}

#endif
