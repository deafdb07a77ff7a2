/* SPDX-License-Identifier: MIT */
/*
 * objects.c - a program that holds kernel objects of many kinds and checks itself what has become of them, for tests of moves.
 *
 *   objects threads|timers|objects|unix|pty|sysv|uring
 *
 * Serves on port 6379 as much of Redis' protocol as the tests need: PING, INCR key, STATE. The state, as JSON: rounds, how often each part has been through its check, and wrong, the first thing
 * that was not what it had to be ("" while everything is). sysv and uring only have something that cannot be moved.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <pty.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define N_THREADS   100
#define PARTS_MAX   (N_THREADS + 16)
#define KEYS_MAX    64
#define PATIENCE_MS 20000
#define IN_FLIGHT   8 /* messages that are always on their way */
#define NS_PER_S    1000000000ll

struct part {
	char name[32];
	_Atomic uint64_t rounds;
	void (*step)(struct part *p);
	void *data;
	unsigned number;
	uint64_t next;
};

static struct part parts[PARTS_MAX];
static _Atomic unsigned n_parts;
static pthread_mutex_t wrong_lock = PTHREAD_MUTEX_INITIALIZER;
static char wrong[256];

__attribute__((format(printf, 2, 3))) static void is_wrong(const struct part *p, const char *format, ...)
{
	char text[160];
	va_list args;

	va_start(args, format);
	(void)vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	(void)pthread_mutex_lock(&wrong_lock);
	if (!wrong[0])
		(void)snprintf(wrong, sizeof(wrong), "%s: %s", p->name, text);
	(void)pthread_mutex_unlock(&wrong_lock);
}

/* While the program is being set up, nothing may fail. */
static int must(int result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(1);
	}
	return result;
}

static void pause_ms(long ms)
{
	struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };
	(void)nanosleep(&t, NULL);
}

static int64_t now_ns(clockid_t clock)
{
	struct timespec t;
	(void)clock_gettime(clock, &t);
	return t.tv_sec * NS_PER_S + t.tv_nsec;
}

static bool readable(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	int n;

	while ((n = poll(&p, 1, ms)) < 0 && errno == EINTR)
		;
	return n > 0;
}

static void *run_part(void *arg)
{
	struct part *p = arg;

	for (;;) {
		p->step(p);
		atomic_fetch_add(&p->rounds, 1);
	}
	return NULL;
}

static struct part *add_part(const char *name, void (*step)(struct part *), void *data)
{
	struct part *p = &parts[n_parts];
	pthread_t t;

	(void)snprintf(p->name, sizeof(p->name), "%s", name);
	p->step = step;
	p->data = data;
	p->number = n_parts++;
	if (pthread_create(&t, NULL, run_part, p) != 0)
		abort();
	return p;
}

/* ---- threads: a ring in which a token goes round; each has data of its own */

static struct {
	pthread_mutex_t lock;
	pthread_cond_t turn[N_THREADS];
	unsigned whose;
	uint64_t passed;
} ring = { .lock = PTHREAD_MUTEX_INITIALIZER };
static _Thread_local uint64_t own;

static void step_ring(struct part *p)
{
	char name[16] = "", expected[16];

	(void)snprintf(expected, sizeof(expected), "ring %u", p->number);
	if (p->next == 0)
		(void)prctl(PR_SET_NAME, expected);
	(void)pthread_mutex_lock(&ring.lock);
	while (ring.whose != p->number)
		(void)pthread_cond_wait(&ring.turn[p->number], &ring.lock);
	ring.whose = (p->number + 1) % N_THREADS;
	if (ring.passed++ % N_THREADS != p->number)
		is_wrong(p, "the token came out of turn");
	(void)pthread_cond_signal(&ring.turn[ring.whose]);
	(void)pthread_mutex_unlock(&ring.lock);
	if (own++ != p->next++)
		is_wrong(p, "the thread's own data is another");
	(void)prctl(PR_GET_NAME, name);
	if (strcmp(name, expected) != 0)
		is_wrong(p, "the thread's name is %s", name);
	if (p->number % 10 == 0)
		pause_ms(1);
}

static void threads_setup(void)
{
	for (unsigned i = 0; i < N_THREADS; i++)
		(void)pthread_cond_init(&ring.turn[i], NULL);
	for (unsigned i = 0; i < N_THREADS; i++)
		(void)add_part("", step_ring, NULL);
	for (unsigned i = 0; i < N_THREADS; i++)
		(void)snprintf(parts[i].name, sizeof(parts[i].name), "ring %u", i);
}

/* ---- timers */

static _Atomic uint64_t posix_fired, itimer_fired;

static void on_posix(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	if (info->si_value.sival_int == 4711)
		atomic_fetch_add(&posix_fired, 1);
}

static void on_alarm(int number)
{
	(void)number;
	atomic_fetch_add(&itimer_fired, 1);
}

static void wait_for_growth(struct part *p, _Atomic uint64_t *counter)
{
	uint64_t before = *counter;

	for (int ms = 0; *counter == before; ms += 5) {
		if (ms > PATIENCE_MS) {
			is_wrong(p, "it does not fire any more");
			return;
		}
		pause_ms(5);
	}
}

static void step_counter(struct part *p)
{
	wait_for_growth(p, p->data);
}

static void step_timerfd(struct part *p)
{
	int fd = *(int *)p->data;
	uint64_t times = 0;
	struct itimerspec left;

	if (!readable(fd, PATIENCE_MS) || read(fd, &times, sizeof(times)) != sizeof(times) || times == 0)
		is_wrong(p, "it does not expire any more");
	if (timerfd_gettime(fd, &left) < 0 || left.it_interval.tv_nsec != 20000000 || left.it_interval.tv_sec != 0)
		is_wrong(p, "its interval is another");
}

/* One that never expires: what is left of it only gets less. */
static void step_far(struct part *p)
{
	struct itimerspec left;
	int64_t *last = p->data;

	pause_ms(20);
	if (timerfd_gettime((int)last[1], &left) < 0 || left.it_value.tv_sec * NS_PER_S + left.it_value.tv_nsec > last[0] ||
	    left.it_value.tv_sec < 80000)
		is_wrong(p, "%lld s are left of it", (long long)left.it_value.tv_sec);
	last[0] = left.it_value.tv_sec * NS_PER_S + left.it_value.tv_nsec;
}

static void step_sleep(struct part *p)
{
	int64_t start = now_ns(CLOCK_MONOTONIC), length = (1 + p->number % 3) * NS_PER_S / 2;
	struct timespec t = { .tv_sec = length / NS_PER_S, .tv_nsec = length % NS_PER_S };

	/* Interrupted by nothing but our own signals, which some threads take: go on with the rest. */
	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &t, &t) == EINTR)
		;
	if (now_ns(CLOCK_MONOTONIC) - start < length)
		is_wrong(p, "woke %lld us too early", (long long)(length - (now_ns(CLOCK_MONOTONIC) - start)) / 1000);
}

static void step_sleep_until(struct part *p)
{
	int64_t end = now_ns(CLOCK_REALTIME) + NS_PER_S;
	struct timespec t = { .tv_sec = end / NS_PER_S, .tv_nsec = end % NS_PER_S };

	while (clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
	if (now_ns(CLOCK_REALTIME) < end)
		is_wrong(p, "woke too early");
}

static void timers_setup(void)
{
	static int fd;
	static int64_t far[2] = { INT64_MAX };
	struct sigaction alarm = { .sa_handler = on_alarm, .sa_flags = SA_RESTART },
	                 posix = { .sa_sigaction = on_posix, .sa_flags = SA_SIGINFO | SA_RESTART };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 1, .sigev_value.sival_int = 4711 };
	struct itimerspec every = { .it_interval.tv_nsec = 20000000, .it_value.tv_nsec = 20000000 };
	struct itimerval often = { .it_interval.tv_usec = 30000, .it_value.tv_usec = 30000 };
	timer_t timer;

	must(sigaction(SIGALRM, &alarm, NULL), "sigaction");
	must(sigaction(SIGRTMIN + 1, &posix, NULL), "sigaction");
	must(timer_create(CLOCK_MONOTONIC, &event, &timer), "timer_create");
	must(timer_settime(timer, 0, &every, NULL), "timer_settime");
	must(setitimer(ITIMER_REAL, &often, NULL), "setitimer");
	fd = must(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), "timerfd_create");
	must(timerfd_settime(fd, 0, &every, NULL), "timerfd_settime");
	far[1] = must(timerfd_create(CLOCK_BOOTTIME, 0), "timerfd_create");
	must(timerfd_settime((int)far[1], 0, &(struct itimerspec){ .it_value.tv_sec = 86400 }, NULL), "timerfd_settime");
	(void)add_part("POSIX timer", step_counter, &posix_fired);
	(void)add_part("itimer", step_counter, &itimer_fired);
	(void)add_part("timerfd", step_timerfd, &fd);
	(void)add_part("timerfd of a day", step_far, far);
	(void)add_part("sleep 1", step_sleep, NULL);
	(void)add_part("sleep 2", step_sleep, NULL);
	(void)add_part("sleep until", step_sleep_until, NULL);
}

/* ---- objects with a descriptor */

static void step_inotify(struct part *p)
{
	char path[64], name[32];
	union {
		struct inotify_event event;
		char bytes[4096];
	} u;
	int fd = *(int *)p->data;

	(void)snprintf(name, sizeof(name), "%llu", (unsigned long long)p->next++);
	(void)snprintf(path, sizeof(path), "/data/watched/%s", name);
	pause_ms(50);
	for (int tries = 0;; tries++) {
		/* CRIU does not keep events that were not read yet: the file may have been made just before the freeze. Then the next one has to be seen. */
		int made = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
		bool seen = made >= 0 && close(made) == 0 && readable(fd, PATIENCE_MS / 10);

		if (seen && (read(fd, &u, sizeof(u)) <= 0 || u.event.mask != IN_CREATE || strcmp(u.event.name, name) != 0))
			is_wrong(p, "the event is another: %x %s, not %s", u.event.mask, u.event.name, name);
		(void)unlink(path);
		if (seen)
			return;
		if (tries == 2) {
			is_wrong(p, "nothing is reported any more (%s)", made < 0 ? strerror(errno) : "the file is there");
			return;
		}
	}
}

/* Signals that are queued and read later, in their order. */
static void step_signalfd(struct part *p)
{
	struct signalfd_siginfo info;
	int fd = *(int *)p->data;

	(void)sigqueue(getpid(), SIGRTMIN + 5, (union sigval){ .sival_int = (int)p->next++ });
	pause_ms(2);
	if (p->next < IN_FLIGHT)
		return;
	if (!readable(fd, PATIENCE_MS) || read(fd, &info, sizeof(info)) != sizeof(info) || info.ssi_int != (int)(p->next - IN_FLIGHT))
		is_wrong(p, "a signal is missing, or another");
}

static void step_eventfd(struct part *p)
{
	uint64_t add = 3, found = 0;
	int fd = *(int *)p->data; /* a semaphore: reads take 1 */

	if (write(fd, &add, sizeof(add)) != sizeof(add))
		is_wrong(p, "cannot be written");
	for (int i = 0; i < 3; i++) {
		pause_ms(1);
		if (read(fd, &found, sizeof(found)) != sizeof(found) || found != 1)
			is_wrong(p, "its counter is another");
	}
	if (readable(fd, 0))
		is_wrong(p, "its counter has grown");
}

struct polled {
	int outer, inner, pipe[2], event;
};

static void step_epoll(struct part *p)
{
	struct polled *e = p->data;
	struct epoll_event got;
	uint64_t one = 1;
	char c = 'x';
	bool by_pipe = p->next++ % 2;

	if ((by_pipe ? write(e->pipe[1], &c, 1) : write(e->event, &one, sizeof(one))) <= 0)
		is_wrong(p, "cannot be written");
	pause_ms(2);
	if (epoll_wait(e->outer, &got, 1, PATIENCE_MS) != 1 || got.data.u64 != 77)
		is_wrong(p, "the outer one says nothing");
	if (epoll_wait(e->inner, &got, 1, PATIENCE_MS) != 1 || got.data.u64 != (by_pipe ? UINT64_MAX - 1 : 12345))
		is_wrong(p, "the inner one says something else");
	if ((by_pipe ? read(e->pipe[0], &c, 1) : read(e->event, &one, sizeof(one))) <= 0)
		is_wrong(p, "cannot be read");
}

struct held {
	int fd;
	uint64_t *map;
	uint64_t size;
};

/* A file without a name: its contents by descriptor and by mapping, its size, its position. */
static void step_nameless(struct part *p)
{
	struct held *h = p->data;
	uint64_t words = h->size / sizeof(uint64_t), at = p->next++ * 509 % words, value = 0;
	struct stat st;

	pause_ms(2);
	if (pread(h->fd, &value, sizeof(value), (off_t)(at * sizeof(value))) != sizeof(value) || value != h->map[at])
		is_wrong(p, "descriptor and mapping differ");
	if (value >> 32 != at)
		is_wrong(p, "word %llu is %llx", (unsigned long long)at, (unsigned long long)value);
	h->map[at] = at << 32 | (uint32_t)p->next;
	if (fstat(h->fd, &st) < 0 || (uint64_t)st.st_size != h->size || lseek(h->fd, 0, SEEK_CUR) != 24)
		is_wrong(p, "its size or position is another");
}

static struct held *hold(int fd)
{
	struct held *h = calloc(1, sizeof(*h));

	h->fd = fd;
	h->size = 1 << 20;
	must(ftruncate(fd, (off_t)h->size), "ftruncate");
	h->map = mmap(NULL, h->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (h->map == MAP_FAILED)
		must(-1, "mmap");
	for (uint64_t i = 0; i < h->size / sizeof(uint64_t); i++)
		h->map[i] = i << 32;
	(void)lseek(fd, 24, SEEK_SET);
	return h;
}

static void step_seals(struct part *p)
{
	int fd = *(int *)p->data;
	char text[8] = "";

	pause_ms(20);
	if (fcntl(fd, F_GET_SEALS) != (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) || pread(fd, text, 6, 0) != 6 ||
	    strcmp(text, "sealed") != 0 || write(fd, "x", 1) >= 0)
		is_wrong(p, "seals %x, contents '%s'", fcntl(fd, F_GET_SEALS), text);
}

/* A pipe that is never empty, and a named one. */
static void step_pipe(struct part *p)
{
	int *fds = p->data;
	uint64_t value = p->next++, found = 0;

	if (write(fds[1], &value, sizeof(value)) != sizeof(value))
		is_wrong(p, "cannot be written");
	pause_ms(1);
	if (value >= IN_FLIGHT && (read(fds[0], &found, sizeof(found)) != sizeof(found) || found != value - IN_FLIGHT))
		is_wrong(p, "%llu instead of %llu", (unsigned long long)found, (unsigned long long)(value - IN_FLIGHT));
}

/* Held by us: another process must not get them, however often it tries. It says over a pipe what it found. */
static void try_locks(int report)
{
	int whole = must(open("/data/flock", O_RDWR | O_CLOEXEC), "open"), part = must(open("/data/fcntl", O_RDWR | O_CLOEXEC), "open");

	for (;;) {
		struct flock range = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 5 },
		             open_range = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 20, .l_len = 5 },
		             free_range = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 40, .l_len = 5 };
		char verdict = flock(whole, LOCK_EX | LOCK_NB) == 0         ? 'f'
		               : fcntl(part, F_SETLK, &range) == 0          ? 'p'
		               : fcntl(part, F_OFD_SETLK, &open_range) == 0 ? 'o'
		               : fcntl(part, F_SETLK, &free_range) < 0      ? 'n'
		                                                            : '.';

		if (write(report, &verdict, 1) != 1)
			_exit(0);
		pause_ms(20);
	}
}

static void step_locks(struct part *p)
{
	char verdict = 0;
	int fd = *(int *)p->data;

	if (!readable(fd, PATIENCE_MS) || read(fd, &verdict, 1) != 1 || verdict != '.')
		is_wrong(p, "another process says '%c' (f: it got the flock, p: the POSIX lock, o: the open file's lock, n: nothing)",
		         verdict ? verdict : '-');
}

static void locks_setup(void)
{
	static int report[2];
	int whole = must(open("/data/flock", O_RDWR | O_CREAT | O_CLOEXEC, 0600), "open"),
	    part = must(open("/data/fcntl", O_RDWR | O_CREAT | O_CLOEXEC, 0600), "open"),
	    other = must(open("/data/fcntl", O_RDWR | O_CLOEXEC), "open");
	struct flock range = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 5 },
	             open_range = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 20, .l_len = 5 };

	must(pipe2(report, O_CLOEXEC), "pipe");
	if (must(fork(), "fork") == 0) {
		/* Not the inherited descriptors: they share the locks. */
		(void)close(whole);
		(void)close(part);
		(void)close(other);
		pause_ms(200);
		try_locks(report[1]);
	}
	must(flock(whole, LOCK_EX), "flock");
	must(fcntl(part, F_SETLK, &range), "fcntl");
	must(fcntl(other, F_OFD_SETLK, &open_range), "fcntl");
	(void)add_part("locks", step_locks, &report[0]);
}

/* What a process has besides descriptors, and its children: one stopped, one that has ended and is not waited for. */
static pid_t stopped, ended;

static void step_process(struct part *p)
{
	char cwd[64] = "";
	siginfo_t info = { 0 };
	struct rlimit limit;
	mode_t mask = umask(027);

	pause_ms(20);
	if (mask != 027 || getpriority(PRIO_PROCESS, (id_t)getpid()) != 5 || !getcwd(cwd, sizeof(cwd)) || strcmp(cwd, "/data/watched") != 0)
		is_wrong(p, "umask %o, nice %d, folder %s", (unsigned)mask, getpriority(PRIO_PROCESS, (id_t)getpid()), cwd);
	if (getrlimit(RLIMIT_CORE, &limit) < 0 || limit.rlim_cur != 12345)
		is_wrong(p, "its limit is another");
	if (waitid(P_PID, (id_t)ended, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_status != 42)
		is_wrong(p, "the child that ended has status %d", info.si_status);
	info = (siginfo_t){ 0 };
	if (waitid(P_PID, (id_t)stopped, &info, WEXITED | WCONTINUED | WNOHANG) < 0 || info.si_pid != 0)
		is_wrong(p, "the stopped child has ended or goes on");
}

static void process_setup(void)
{
	must((ended = fork()), "fork");
	if (ended == 0)
		_exit(42);
	must((stopped = fork()), "fork");
	if (stopped == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			(void)raise(SIGSTOP);
	}
	must(setpriority(PRIO_PROCESS, 0, 5), "setpriority");
	must(setrlimit(RLIMIT_CORE, &(struct rlimit){ .rlim_cur = 12345, .rlim_max = 12345 }), "setrlimit");
	must(chdir("/data/watched"), "chdir");
	(void)umask(027);
}

static void objects_setup(void)
{
	static int watcher, signals, semaphore, sealed, pipes[2], fifo[2];
	static struct polled polled;
	sigset_t set;

	(void)mkdir("/data/watched", 0700);
	process_setup();
	locks_setup();
	watcher = must(inotify_init1(IN_NONBLOCK), "inotify_init");
	must(inotify_add_watch(watcher, "/data/watched", IN_CREATE), "inotify_add_watch");
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGRTMIN + 5);
	(void)pthread_sigmask(SIG_BLOCK, &set, NULL); /* before any thread is started */
	signals = must(signalfd(-1, &set, SFD_NONBLOCK), "signalfd");
	semaphore = must(eventfd(0, EFD_SEMAPHORE | EFD_NONBLOCK), "eventfd");
	polled = (struct polled){ .outer = must(epoll_create1(0), "epoll"),
		                  .inner = must(epoll_create1(0), "epoll"),
		                  .event = must(eventfd(0, EFD_NONBLOCK), "eventfd") };
	must(pipe(polled.pipe), "pipe");
	must(epoll_ctl(polled.inner, EPOLL_CTL_ADD, polled.pipe[0], &(struct epoll_event){ .events = EPOLLIN, .data.u64 = UINT64_MAX - 1 }),
	     "epoll_ctl");
	must(epoll_ctl(polled.inner, EPOLL_CTL_ADD, polled.event, &(struct epoll_event){ .events = EPOLLIN, .data.u64 = 12345 }),
	     "epoll_ctl");
	must(epoll_ctl(polled.outer, EPOLL_CTL_ADD, polled.inner, &(struct epoll_event){ .events = EPOLLIN, .data.u64 = 77 }), "epoll_ctl");
	sealed = must(memfd_create("sealed", MFD_ALLOW_SEALING), "memfd_create");
	must((int)write(sealed, "sealed", 6), "write");
	must(fcntl(sealed, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), "F_ADD_SEALS");
	must(pipe(pipes), "pipe");
	must(mkfifo("/data/fifo", 0600), "mkfifo");
	fifo[0] = must(open("/data/fifo", O_RDWR), "open");
	fifo[1] = must(open("/data/fifo", O_WRONLY), "open");
	int deleted = must(open("/data/deleted", O_RDWR | O_CREAT | O_EXCL, 0600), "open"),
	    temporary = must(open("/data", O_TMPFILE | O_RDWR, 0600), "O_TMPFILE");
	must(unlink("/data/deleted"), "unlink");
	(void)add_part("inotify", step_inotify, &watcher);
	(void)add_part("signalfd", step_signalfd, &signals);
	(void)add_part("eventfd", step_eventfd, &semaphore);
	(void)add_part("epoll", step_epoll, &polled);
	(void)add_part("memfd", step_nameless, hold(must(memfd_create("held", 0), "memfd_create")));
	(void)add_part("sealed memfd", step_seals, &sealed);
	(void)add_part("deleted file", step_nameless, hold(deleted));
	(void)add_part("nameless file", step_nameless, hold(temporary));
	(void)add_part("pipe", step_pipe, pipes);
	(void)add_part("named pipe", step_pipe, fifo);
	(void)add_part("process", step_process, NULL);
}

/* ---- Unix sockets */

static void step_pair(struct part *p)
{
	int *fds = p->data;
	char out[64], in[64];
	uint64_t value = p->next++;
	int n = snprintf(out, sizeof(out), "message %012llu", (unsigned long long)value);

	if (send(fds[0], out, (size_t)n, MSG_NOSIGNAL) != n)
		is_wrong(p, "cannot be sent to: %s", strerror(errno));
	pause_ms(1);
	if (value < IN_FLIGHT)
		return;
	n = snprintf(out, sizeof(out), "message %012llu", (unsigned long long)(value - IN_FLIGHT));
	ssize_t r = readable(fds[1], PATIENCE_MS) ? recv(fds[1], in, (size_t)n, 0) : -1;
	if (r != n || memcmp(in, out, (size_t)n) != 0)
		is_wrong(p, "'%.*s' instead of '%s'", (int)(r > 0 ? r : 0), in, out);
}

/* A pipe with a number in it is sent; some are always on their way. */
static void step_rights(struct part *p)
{
	int *fds = p->data, ends[2], got = -1;
	uint64_t value = p->next++, found = 0;
	char byte = 'r', room[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec v = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	if (pipe(ends) < 0 || write(ends[1], &value, sizeof(value)) != sizeof(value)) {
		is_wrong(p, "no pipe");
		return;
	}
	*c = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
	memcpy(CMSG_DATA(c), &ends[0], sizeof(int));
	if (sendmsg(fds[0], &m, MSG_NOSIGNAL) != 1)
		is_wrong(p, "cannot be sent to: %s", strerror(errno));
	(void)close(ends[0]);
	(void)close(ends[1]);
	pause_ms(5);
	if (value < 3)
		return;
	m.msg_controllen = sizeof(room);
	if (readable(fds[1], PATIENCE_MS) && recvmsg(fds[1], &m, 0) == 1 && (c = CMSG_FIRSTHDR(&m)))
		memcpy(&got, CMSG_DATA(c), sizeof(int));
	if (got < 0 || read(got, &found, sizeof(found)) != sizeof(found) || found != value - 3)
		is_wrong(p, "descriptor %d has %llu, not %llu", got, (unsigned long long)found, (unsigned long long)(value - 3));
	if (got >= 0)
		(void)close(got);
}

static struct sockaddr_un unix_address(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	(void)snprintf(a.sun_path + (*path == '@'), sizeof(a.sun_path) - 1, "%s", path + (*path == '@'));
	return a;
}

static socklen_t unix_length(const char *path)
{
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path) + (*path == '@' ? 0 : 1));
}

struct named {
	const char *path;
	int listener;
};

static void step_listener(struct part *p)
{
	struct named *l = p->data;
	struct sockaddr_un a = unix_address(l->path);
	int there = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), here = -1;
	char in[8] = "";

	/* The pause is there so that some connections are not accepted yet when it is frozen; of those that are, one side has sent. */
	if (connect(there, (struct sockaddr *)&a, unix_length(l->path)) < 0)
		is_wrong(p, "cannot be connected to: %s", strerror(errno));
	else if ((here = accept(l->listener, NULL, NULL)) < 0 || send(there, "hello", 5, MSG_NOSIGNAL) != 5)
		is_wrong(p, "nothing can be sent: %s", strerror(errno));
	pause_ms(10);
	if (here >= 0 && (recv(here, in, 5, 0) != 5 || strcmp(in, "hello") != 0))
		is_wrong(p, "'%s' came over", in);
	(void)close(there);
	if (here >= 0)
		(void)close(here);
}

static struct named *named_socket(const char *path)
{
	struct named *n = calloc(1, sizeof(*n));
	struct sockaddr_un a = unix_address(path);

	*n = (struct named){ .path = path, .listener = must(socket(AF_UNIX, SOCK_STREAM, 0), "socket") };
	must(bind(n->listener, (struct sockaddr *)&a, unix_length(path)), "bind");
	must(listen(n->listener, 8), "listen");
	return n;
}

/* Datagrams to a name. */
static int *named_datagrams(const char *path)
{
	int *fds = calloc(2, sizeof(int));
	struct sockaddr_un a = unix_address(path);

	fds[0] = must(socket(AF_UNIX, SOCK_DGRAM, 0), "socket");
	fds[1] = must(socket(AF_UNIX, SOCK_DGRAM, 0), "socket");
	must(bind(fds[1], (struct sockaddr *)&a, unix_length(path)), "bind");
	must(connect(fds[0], (struct sockaddr *)&a, unix_length(path)), "connect");
	return fds;
}

static int *pair_of(int type)
{
	int *fds = calloc(2, sizeof(int));

	must(socketpair(AF_UNIX, type, 0, fds), "socketpair");
	return fds;
}

static void unix_setup(void)
{
	(void)add_part("stream", step_pair, pair_of(SOCK_STREAM));
	(void)add_part("datagram", step_pair, pair_of(SOCK_DGRAM));
	(void)add_part("seqpacket", step_pair, pair_of(SOCK_SEQPACKET));
	(void)add_part("named datagram", step_pair, named_datagrams("/data/datagrams"));
	(void)add_part("rights", step_rights, pair_of(SOCK_STREAM));
	(void)add_part("listener", step_listener, named_socket("/data/listener"));
	(void)add_part("abstract listener", step_listener, named_socket("@objects"));
}

/* ---- a terminal */

struct terminal {
	int master;
	pid_t shell;
	char seen[4096];
	size_t n;
};

/* Until the text is there; what is before it is dropped. */
static bool expect_text(struct terminal *t, const char *text)
{
	for (;;) {
		char *at = strstr(t->seen, text);
		if (at) {
			at += strlen(text);
			t->n -= (size_t)(at - t->seen);
			memmove(t->seen, at, t->n + 1);
			return true;
		}
		if (t->n > sizeof(t->seen) - 256) { /* keep the end */
			memmove(t->seen, t->seen + t->n - 128, 129);
			t->n = 128;
		}
		ssize_t r = readable(t->master, PATIENCE_MS) ? read(t->master, t->seen + t->n, sizeof(t->seen) - 1 - t->n) : -1;
		if (r <= 0)
			return false;
		t->n += (size_t)r;
		t->seen[t->n] = '\0';
	}
}

static void step_shell(struct part *p)
{
	struct terminal *t = p->data;
	char line[96], answer[96];
	struct winsize size = { 0 };

	p->next++;
	(void)snprintf(line, sizeof(line), "echo a$((%llu + 1))b\n", (unsigned long long)p->next);
	(void)snprintf(answer, sizeof(answer), "a%llub", (unsigned long long)p->next + 1);
	if (write(t->master, line, strlen(line)) < 0 || !expect_text(t, answer))
		is_wrong(p, "the shell does not answer: '%.80s'", t->seen);
	pause_ms(10);
	if (ioctl(t->master, TIOCGWINSZ, &size) < 0 || size.ws_row != 33 || size.ws_col != 111)
		is_wrong(p, "its size is %d x %d", size.ws_row, size.ws_col);
	if (tcgetsid(t->master) != t->shell)
		is_wrong(p, "its session is %d, not %d", tcgetsid(t->master), t->shell);
}

/* A job in the foreground that is stopped from the keyboard, continued, and interrupted. */
static void step_jobs(struct part *p)
{
	struct terminal *t = p->data;

	pause_ms(20);
	if (write(t->master, "sleep 1000\n", 11) != 11)
		is_wrong(p, "cannot be written");
	for (int ms = 0; tcgetpgrp(t->master) == t->shell && ms < PATIENCE_MS; ms += 5)
		pause_ms(5);
	if (tcgetpgrp(t->master) == t->shell)
		is_wrong(p, "the job is not in the foreground");
	pause_ms(50);
	if (write(t->master, "\x1a", 1) != 1 || !expect_text(t, "Stopped"))
		is_wrong(p, "Ctrl-Z: '%.80s'", t->seen);
	if (write(t->master, "fg\n", 3) != 3 || !expect_text(t, "sleep 1000"))
		is_wrong(p, "fg: '%.80s'", t->seen);
	for (int ms = 0; tcgetpgrp(t->master) == t->shell && ms < PATIENCE_MS; ms += 5)
		pause_ms(5);
	pause_ms(50);
	if (write(t->master, "\x03", 1) != 1)
		is_wrong(p, "cannot be written");
	for (int ms = 0; tcgetpgrp(t->master) != t->shell && ms < PATIENCE_MS; ms += 5)
		pause_ms(5);
	if (tcgetpgrp(t->master) != t->shell)
		is_wrong(p, "Ctrl-C does not end the job");
}

static struct terminal *start_shell(void)
{
	struct terminal *t = calloc(1, sizeof(*t));
	struct winsize size = { .ws_row = 33, .ws_col = 111 };

	t->shell = must(forkpty(&t->master, NULL, NULL, &size), "forkpty");
	if (t->shell == 0) {
		(void)setenv("PS1", "$ ", 1);
		(void)execl("/bin/sh", "sh", "-i", (char *)NULL);
		_exit(127);
	}
	(void)fcntl(t->master, F_SETFD, FD_CLOEXEC);
	return t;
}

static void pty_setup(void)
{
	struct terminal *shell = start_shell(), *jobs = start_shell();

	(void)add_part("shell", step_shell, shell);
	(void)add_part("jobs", step_jobs, jobs);
}

/* ---- what cannot be moved */

static void sysv_setup(void)
{
	void *at = shmat(must(shmget(4711, 4096, IPC_CREAT | 0600), "shmget"), NULL, 0);

	if (at == (void *)-1)
		must(-1, "shmat");
}

static void uring_setup(void)
{
	char parameters[120] = { 0 };

	must((int)syscall(SYS_io_uring_setup, 8, parameters), "io_uring_setup");
}

/* ---- serving */

static int state_text(char *out, size_t cap)
{
	size_t n = (size_t)snprintf(out, cap, "{\"wrong\": \"");

	(void)pthread_mutex_lock(&wrong_lock);
	for (const char *c = wrong; *c; c++)
		out[n++] = *c < ' ' || *c == '"' || *c == '\\' || *c == 127 ? '?' : *c;
	(void)pthread_mutex_unlock(&wrong_lock);
	n += (size_t)snprintf(out + n, cap - n, "\", \"rounds\": {");
	for (unsigned i = 0; i < n_parts; i++)
		n += (size_t)snprintf(out + n, cap - n, "%s\"%s\": %llu", i ? ", " : "", parts[i].name,
		                      (unsigned long long)parts[i].rounds);
	return (int)(n + (size_t)snprintf(out + n, cap - n, "}}"));
}

static bool read_word(FILE *f, char *word, size_t cap)
{
	char line[64];
	long n = fgets(line, sizeof(line), f) && line[0] == '$' ? strtol(line + 1, NULL, 10) : -1;

	if (n < 0 || (size_t)n + 2 >= cap || fread(word, 1, (size_t)n + 2, f) != (size_t)n + 2)
		return false;
	word[n] = '\0';
	return true;
}

static void *serve(void *arg)
{
	static struct {
		char key[64];
		uint64_t value;
	} counters[KEYS_MAX];
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	FILE *f = fdopen((int)(intptr_t)arg, "r+");
	char line[64], words[2][64], text[8192], out[8300];

	while (fgets(line, sizeof(line), f) && line[0] == '*') {
		long count = strtol(line + 1, NULL, 10);

		words[1][0] = '\0';
		if (count < 1 || count > 2 || !read_word(f, words[0], sizeof(words[0])) ||
		    (count > 1 && !read_word(f, words[1], sizeof(words[1]))))
			break;
		if (strcmp(words[0], "INCR") == 0) {
			unsigned i = 0;
			(void)pthread_mutex_lock(&lock);
			while (i < KEYS_MAX - 1 && counters[i].key[0] && strcmp(counters[i].key, words[1]) != 0)
				i++;
			(void)snprintf(counters[i].key, sizeof(counters[i].key), "%s", words[1]);
			(void)snprintf(out, sizeof(out), ":%llu\r\n", (unsigned long long)++counters[i].value);
			(void)pthread_mutex_unlock(&lock);
		} else if (strcmp(words[0], "STATE") == 0) {
			int n = state_text(text, sizeof(text));
			(void)snprintf(out, sizeof(out), "$%d\r\n%s\r\n", n, text);
		} else {
			(void)snprintf(out, sizeof(out), "+PONG\r\n");
		}
		if (send(fileno(f), out, strlen(out), MSG_NOSIGNAL) < 0)
			break;
	}
	(void)fclose(f);
	return NULL;
}

static void serve_all(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(6379) };
	int one = 1, listener = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");

	must(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)), "SO_REUSEADDR");
	must(bind(listener, (struct sockaddr *)&a, sizeof(a)), "bind");
	must(listen(listener, 64), "listen");
	for (;;) {
		pthread_t t;
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0)
			continue;
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		if (pthread_create(&t, NULL, serve, (void *)(intptr_t)fd) == 0)
			(void)pthread_detach(t);
		else
			(void)close(fd);
	}
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*setup)(void);
	} kinds[] = { { "threads", threads_setup }, { "timers", timers_setup }, { "objects", objects_setup }, { "unix", unix_setup },
		      { "pty", pty_setup },         { "sysv", sysv_setup },     { "uring", uring_setup } };

	for (size_t i = 0; argc == 2 && i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (strcmp(argv[1], kinds[i].name) == 0) {
			kinds[i].setup();
			serve_all();
		}
	(void)fprintf(stderr, "usage: objects threads|timers|objects|unix|pty|sysv|uring\n");
	return 2;
}
