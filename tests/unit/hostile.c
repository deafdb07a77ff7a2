/* SPDX-License-Identifier: MIT */
/*
 * hostile.c - targets of the dirty tracker's tests, as programs of their own (test-tracker.c).
 *
 *   hostile chaos SEED DIR   threads and children that map, move, unmap, discard, protect and write for ever; DIR is for a file. Says "x".
 *   hostile writer SEED      what a child of it becomes: writes for a while, exits
 *   hostile echo PAGES       says the address of that many written pages; then for each {op, first, count}: 'w' write, 'd' discard, 'v' vfork
 *                            a child that writes, 'm' move the second half away, 'b' back (where it is one mapping with the first again),
 *                            'r' read, 'a' move as many pages that come after these over them, 'e' execute itself anew; answers "x"
 *   hostile small PAGES      the same without huge pages
 *   hostile registers        checks its registers for ever; SIGTERM: says how many SIGRTMIN came
 *   hostile reader           one read(2): status 0 when it gives a byte
 *   hostile grower           makes a mapping larger, and again; status 1 when that fails, 0 on SIGTERM
 *   hostile sleeper          sleeps; status 1 when a sleep ends early, 0 on SIGTERM
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE      4096u
#define SLOTS     40
#define THREADS   3
#define CHILDREN  3
#define MAX_PAGES 128u
#define HUGE      (2u << 20)

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

enum kind { ANON, ANON_HUGE, SHARED_ANON, MEMFD, PRIVATE_FILE, _KIND_MAX };

struct slot {
	pthread_mutex_t lock;
	uint8_t *p;
	size_t n; /* pages */
	enum kind kind;
	int fd;           /* MEMFD */
	size_t none, end; /* pages that are PROT_NONE now */
	bool split;       /* may be several mappings */
	bool guarded;     /* cannot be written any more */
};

struct world {
	struct slot slots[SLOTS];
	int file, children;
	pthread_mutex_t children_lock;
	pthread_rwlock_t
	        layout; /* read: where mappings are made; write: where a refused move leaves holes that nobody may fill meanwhile */
	unsigned seed;
};

struct thread {
	struct world *w;
	unsigned r;
};

static unsigned pick(unsigned *r, size_t below)
{
	*r ^= *r << 13;
	*r ^= *r >> 17;
	*r ^= *r << 5;
	return (unsigned)(*r % below);
}

static void pause_us(unsigned us)
{
	struct timespec t = { .tv_nsec = us * 1000L };

	(void)nanosleep(&t, NULL);
}

/* ---------------------------------------------------------------- one slot */

static void unprotect(struct slot *s)
{
	if (s->none < s->end)
		(void)mprotect(s->p + s->none * PAGE, (s->end - s->none) * PAGE, PROT_READ | PROT_WRITE);
	s->none = s->end = 0;
}

static void make(struct world *w, struct slot *s, unsigned *r)
{
	void *p = MAP_FAILED;

	pthread_rwlock_rdlock(&w->layout);

	/* Field by field: the lock is held, others wait for it, and it must not be copied. */
	s->n = 1 + pick(r, MAX_PAGES);
	s->kind = (enum kind)pick(r, _KIND_MAX);
	s->fd = -1;
	s->none = s->end = 0;
	s->split = s->guarded = false;
	switch (s->kind) {
	case ANON_HUGE:
		if (pick(r, 4) == 0)
			s->n = 2 * HUGE / PAGE;
		/* fall through */
	case ANON:
		p = mmap(NULL, s->n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		break;
	case SHARED_ANON:
		p = mmap(NULL, s->n * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		break;
	case MEMFD:
		s->fd = memfd_create("hostile", MFD_CLOEXEC);
		if (s->fd >= 0 && ftruncate(s->fd, (off_t)(s->n * PAGE)) == 0)
			p = mmap(NULL, s->n * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
		break;
	default:
		p = mmap(NULL, s->n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, w->file, 0);
		break;
	}
	pthread_rwlock_unlock(&w->layout);
	s->p = p == MAP_FAILED ? NULL : p;
	if (s->p && s->kind == ANON_HUGE)
		(void)madvise(s->p, s->n * PAGE, MADV_HUGEPAGE);
}

static void drop(struct slot *s)
{
	(void)munmap(s->p, s->n * PAGE);
	if (s->fd >= 0)
		(void)close(s->fd);
	s->p = NULL;
	s->fd = -1;
}

static void write_some(struct slot *s, unsigned *r, int times)
{
	while (times-- > 0) {
		uint32_t value = *r;
		memcpy(s->p + pick(r, s->n) * (size_t)PAGE + pick(r, PAGE / 4) * 4u, &value, sizeof(value));
	}
}

static void kernel_writes(struct slot *s, unsigned *r)
{
	int p[2];

	if (s->fd >= 0 && pick(r, 2)) { /* past the mapping */
		(void)!pwrite(s->fd, r, sizeof(*r), (off_t)(pick(r, s->n) * (size_t)PAGE));
		return;
	}
	if (pipe2(p, O_CLOEXEC) < 0)
		return;
	if (write(p[1], r, sizeof(*r)) == sizeof(*r))
		(void)!read(p[0], s->p + pick(r, s->n) * (size_t)PAGE, sizeof(*r));
	(void)close(p[0]);
	(void)close(p[1]);
}

/* Over a mapping that is there. Several at once are what newer kernels refuse while they are tracked, half-way: see tracker-wp.c for when a slot is more than one. Then its content is lost. */
static void move_over(struct world *w, struct slot *s)
{
	size_t bytes = s->n * PAGE;

	pthread_rwlock_wrlock(&w->layout);
	void *there = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (there != MAP_FAILED) {
		*(volatile uint8_t *)there = 1;
		void *p = mremap(s->p, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, there);
		if (p == MAP_FAILED) {
			(void)fprintf(stderr, "             hostile: a move was refused: %s\n", strerror(errno));
			(void)munmap(there, bytes);
			drop(s);
		} else {
			s->p = p;
		}
	}
	pthread_rwlock_unlock(&w->layout);
}

static void grow(struct world *w, struct slot *s, size_t more)
{
	pthread_rwlock_rdlock(&w->layout);
	void *p = mremap(s->p, s->n * PAGE, (s->n + more) * PAGE, MREMAP_MAYMOVE);
	if (p != MAP_FAILED) {
		s->p = p;
		s->n += more;
	}
	pthread_rwlock_unlock(&w->layout);
}

static void move(struct world *w, struct slot *s, unsigned *r)
{
	if (s->split)
		return;
	if (s->kind == PRIVATE_FILE || s->fd >= 0 || s->kind == SHARED_ANON || pick(r, 2))
		move_over(w, s);
	else
		grow(w, s, pick(r, 16));
}

static void discard(struct slot *s, unsigned *r)
{
	size_t first = pick(r, s->n), n = 1 + pick(r, s->n - first);

	switch (pick(r, 4)) {
	case 0:
		(void)madvise(s->p + first * PAGE, n * PAGE, MADV_FREE);
		break;
	case 1:
		(void)madvise(s->p + first * PAGE, n * PAGE, MADV_REMOVE); /* of shared memory */
		break;
	case 2:
		s->guarded = s->kind == ANON && pick(r, 4) == 0 && madvise(s->p + first * PAGE, PAGE, MADV_GUARD_INSTALL) == 0;
		break;
	default:
		(void)madvise(s->p + first * PAGE, n * PAGE, MADV_DONTNEED);
		break;
	}
}

static void protect(struct slot *s, unsigned *r)
{
	s->none = pick(r, s->n);
	s->end = s->none + 1 + pick(r, s->n - s->none);
	s->split = true;
	if (mprotect(s->p + s->none * PAGE, (s->end - s->none) * PAGE, pick(r, 2) ? PROT_NONE : PROT_READ) < 0)
		s->none = s->end = 0;
}

/* ---------------------------------------------------------------- processes */

static void child(struct slot *s, unsigned r)
{
	char seed[16];

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (pick(&r, 3) == 0) {
		(void)snprintf(seed, sizeof(seed), "%u", r | 1);
		(void)execl("/proc/self/exe", "hostile", "writer", seed, (char *)NULL);
		_exit(1);
	}
	for (unsigned i = 10 + pick(&r, 40); i > 0; i--) {
		write_some(s, &r, 8);
		pause_us(2000);
	}
	_exit(0);
}

static int writer(unsigned r)
{
	struct slot s = { .n = MAX_PAGES };

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	s.p = mmap(NULL, s.n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (unsigned i = 0; i < 50 && s.p != MAP_FAILED; i++) {
		write_some(&s, &r, 8);
		pause_us(2000);
	}
	return 0;
}

static void make_child(struct world *w, struct slot *s, unsigned *r)
{
	pthread_mutex_lock(&w->children_lock);
	while (w->children > 0 && waitpid(-1, NULL, WNOHANG) > 0)
		w->children--;
	if (w->children < CHILDREN) {
		pid_t pid = fork();
		if (pid == 0)
			child(s, *r);
		w->children += pid > 0;
	}
	pthread_mutex_unlock(&w->children_lock);
}

static void act(struct world *w, struct slot *s, unsigned *r)
{
	unsigned op = pick(r, 100);

	if (!s->p) {
		make(w, s, r);
		return;
	}
	if (s->guarded) {
		drop(s);
		return;
	}
	unprotect(s);
	if (op < 70)
		write_some(s, r, 16);
	else if (op < 77)
		kernel_writes(s, r);
	else if (op < 83)
		discard(s, r);
	else if (op < 88)
		move(w, s, r);
	else if (op < 91)
		drop(s);
	else if (op < 96)
		protect(s, r);
	else if (op < 97)
		make_child(w, s, r);
	else if (op < 98)
		(void)!*(volatile uint8_t *)(s->p + pick(r, s->n) * (size_t)PAGE); /* the zero page, or the file's */
	else if (op < 99 && s->kind == ANON_HUGE)
		(void)madvise(s->p, s->n * PAGE, 25 /* MADV_COLLAPSE */);
}

static void *run_thread(void *arg)
{
	struct thread *t = arg;

	for (unsigned i = 1;; i++) {
		struct slot *s = &t->w->slots[pick(&t->r, SLOTS)];
		pthread_mutex_lock(&s->lock);
		act(t->w, s, &t->r);
		pthread_mutex_unlock(&s->lock);
		if (i % 32 == 0)
			pause_us(500);
	}
	return NULL;
}

/* The main thread's own: the stack and the heap. */
static void __attribute__((noinline)) grow_stack(unsigned *r, unsigned depth)
{
	volatile uint8_t room[3 * PAGE];

	room[pick(r, sizeof(room))] = (uint8_t)depth;
	if (depth > 0)
		grow_stack(r, depth - 1);
	room[0] = 1;
}

static void change_heap(unsigned *r)
{
	static const int most = 64;
	static int pages;
	int step = (int)pick(r, 9) - 4;

	if (pages + step < 0 || pages + step > most)
		step = 0;
	uint8_t *end = sbrk(step * (int)PAGE);
	if (end == (void *)-1)
		return;
	pages += step;
	for (int i = 0; i < step; i++)
		end[(size_t)i * PAGE] = (uint8_t)pages;
}

static int chaos(unsigned seed, const char *dir)
{
	static struct world w;
	static struct thread threads[THREADS];
	char path[4096];
	unsigned r = seed | 1;

	(void)snprintf(path, sizeof(path), "%s/hostile.bin", dir);
	w.file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (w.file < 0)
		return 1;
	for (unsigned i = 0; i < MAX_PAGES * (PAGE / 4); i++)
		if (pwrite(w.file, &i, sizeof(i), (off_t)i * 4) != sizeof(i))
			return 1;
	pthread_mutex_init(&w.children_lock, NULL);
	pthread_rwlock_init(&w.layout, NULL);
	for (size_t i = 0; i < SLOTS; i++) {
		pthread_mutex_init(&w.slots[i].lock, NULL);
		make(&w, &w.slots[i], &r);
		if (w.slots[i].p)
			write_some(&w.slots[i], &r, 64);
	}
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_t thread;
		threads[i] = (struct thread){ .w = &w, .r = (r + i * 7919u) | 1 };
		if (pthread_create(&thread, NULL, run_thread, &threads[i]) != 0)
			return 1;
	}
	(void)!write(1, "x", 1);
	for (;;) {
		grow_stack(&r, pick(&r, 40));
		change_heap(&r);
		if (pick(&r, 20) == 0) {
			pid_t pid = vfork();
			if (pid == 0) {
				r++; /* in the parent's memory */
				_exit(0);
			}
			(void)waitpid(pid, NULL, 0);
		}
		pause_us(1000);
	}
}

/* ---------------------------------------------------------------- simple ones */

struct order {
	char op;
	uint32_t first, count;
};

/* From or to a place of its own, with holes around it. */
static bool move_half(uint8_t *p, size_t n, bool back)
{
	static uint8_t *away;
	uint8_t *half = p + n / 2 * PAGE;
	size_t bytes = (n - n / 2) * PAGE;

	if (!away) {
		away = mmap(NULL, bytes + (size_t)2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (away == MAP_FAILED)
			return false;
		away += PAGE;
	}
	return mremap(back ? away : half, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, back ? half : away) != MAP_FAILED;
}

static int echo(const char *pages, bool small)
{
	size_t n = strtoul(pages, NULL, 10);
	uint8_t *p = mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct order o;

	if (p == MAP_FAILED || (small && madvise(p, n * PAGE, MADV_NOHUGEPAGE) < 0))
		return 1;
	for (size_t i = 0; i < n; i++)
		p[i * PAGE] = (uint8_t)(i + 1);
	if (write(1, &p, sizeof(p)) != sizeof(p))
		return 1;
	while (read(0, &o, sizeof(o)) == sizeof(o)) {
		pid_t pid;
		switch (o.op) {
		case 'w':
			for (size_t i = o.first; i < (size_t)o.first + o.count; i++)
				p[i * PAGE + 8]++;
			break;
		case 'd':
			(void)madvise(p + (size_t)o.first * PAGE, (size_t)o.count * PAGE, MADV_DONTNEED);
			break;
		case 'r':
			for (size_t i = o.first; i < (size_t)o.first + o.count; i++)
				(void)*(volatile uint8_t *)(p + i * PAGE);
			break;
		case 'a':
			if (mremap(p + ((size_t)o.first + o.count) * PAGE, (size_t)o.count * PAGE, (size_t)o.count * PAGE,
			           MREMAP_MAYMOVE | MREMAP_FIXED, p + (size_t)o.first * PAGE) == MAP_FAILED)
				return 1;
			break;
		case 'm':
		case 'b':
			if (!move_half(p, n, o.op == 'b'))
				return 1;
			break;
		case 'v':
			pid = vfork();
			if (pid == 0) {
				p[(size_t)o.first * PAGE + 8]++;
				(void)!write(1, "v", 1);
				while (read(0, &o, sizeof(o)) != sizeof(o)) /* the next order ends it */
					;
				_exit(0);
			}
			(void)waitpid(pid, NULL, 0);
			break;
		default:
			(void)execl("/proc/self/exe", "hostile", "echo", pages, (char *)NULL);
			return 1;
		}
		if (write(1, "x", 1) != 1)
			return 1;
	}
	return 0;
}

static volatile sig_atomic_t received, ended;

static void on_signal(int n)
{
	if (n == SIGTERM)
		ended = 1;
	else
		received++;
}

#if defined(__x86_64__)
/* clang-format does not agree with itself about these lines */
/* clang-format off */
#define EACH(X) \
	X(rbx, xmm0, 0x101) \
	X(rcx, xmm1, 0x102) \
	X(rdx, xmm2, 0x103) \
	X(rsi, xmm3, 0x104) \
	X(rdi, xmm4, 0x105) \
	X(r8, xmm5, 0x106) \
	X(r9, xmm6, 0x107) \
	X(r10, xmm7, 0x108) \
	X(r11, xmm8, 0x109) \
	X(r12, xmm9, 0x10a) \
	X(r13, xmm10, 0x10b) \
	X(r14, xmm11, 0x10c) \
	X(r15, xmm12, 0x10d)
/* clang-format on */
#define LOAD(r, x, v) "movabs $" #v "00000001,%%" #r "\nmovq %%" #r ",%%" #x "\n"
#define TEST(r, x, v) "movabs $" #v "00000001,%%rax\ncmp %%rax,%%" #r "\njne 9f\nmovq %%" #x ",%%" #r "\ncmp %%rax,%%" #r "\njne 9f\n"

static long registers_wrong(void)
{
	long wrong;

	__asm__ volatile(EACH(LOAD) "mov $200000,%%eax\n1: dec %%rax\njnz 1b\n" EACH(TEST) "xor %%eax,%%eax\njmp 8f\n9: mov $1,%%eax\n8:\n"
	                 : "=a"(wrong)
	                 :
	                 : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0", "xmm1", "xmm2",
	                   "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "cc", "memory");
	return wrong;
}
#else
static long registers_wrong(void)
{
	return 0;
}
#endif

static void catch_signals(void)
{
	struct sigaction a = { .sa_handler = on_signal, .sa_flags = SA_RESTART };

	(void)sigaction(SIGTERM, &a, NULL);
	(void)sigaction(SIGRTMIN, &a, NULL);
	(void)!write(1, "x", 1);
}

static int registers(void)
{
	catch_signals();
	while (!ended)
		if (registers_wrong())
			return 1;
	uint32_t n = (uint32_t)received;
	return write(1, &n, sizeof(n)) == sizeof(n) ? 0 : 1;
}

static int sleeper(void)
{
	struct timespec t = { .tv_nsec = 20000000 };

	catch_signals();
	while (!ended)
		if (nanosleep(&t, NULL) < 0 && !ended)
			return 1;
	return 0;
}

static int reader(void)
{
	char byte;

	catch_signals();
	return read(0, &byte, 1) == 1 ? 0 : 1;
}

/* Page by page, as far as there was room. */
static int grower(void)
{
	catch_signals();
	while (!ended) {
		uint8_t *p = mmap(NULL, MAX_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED || munmap(p + PAGE, (MAX_PAGES - 1) * PAGE) < 0)
			return 1;
		for (size_t n = 1; n < MAX_PAGES; n++) {
			p = mremap(p, n * PAGE, (n + 1) * PAGE, MREMAP_MAYMOVE);
			if (p == MAP_FAILED)
				return 1;
			p[n * PAGE] = 1;
		}
		(void)munmap(p, MAX_PAGES * PAGE);
	}
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (strcmp(what, "chaos") == 0 && argc == 4)
		return chaos((unsigned)strtoul(argv[2], NULL, 10), argv[3]);
	if (strcmp(what, "writer") == 0 && argc == 3)
		return writer((unsigned)strtoul(argv[2], NULL, 10));
	if (argc == 3 && (strcmp(what, "echo") == 0 || strcmp(what, "small") == 0))
		return echo(argv[2], what[0] == 's');
	if (strcmp(what, "registers") == 0)
		return registers();
	if (strcmp(what, "reader") == 0)
		return reader();
	if (strcmp(what, "grower") == 0)
		return grower();
	return strcmp(what, "sleeper") == 0 ? sleeper() : 2;
}
