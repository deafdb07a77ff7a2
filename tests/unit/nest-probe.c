/* SPDX-License-Identifier: MIT */
/*
 * nest-probe.c - the application of the container tests: a static program with one behaviour per first argument. Built and run by
 * test-nest and test-runtime-runc; says what it sees on its stdout, in lines.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SOCKET "/.fleximigrate/run/nest.sock"

static void say(const char *line)
{
	char buf[512];
	int n = snprintf(buf, sizeof buf, "%s\n", line);

	if (write(1, buf, (size_t)n) != n)
		_exit(90);
}

/* N bytes of a known pattern to stdout. */
static int do_out(const char *arg)
{
	size_t total = strtoul(arg, NULL, 10), done = 0;
	char buf[10000];

	while (done < total) {
		size_t n = total - done < sizeof buf ? total - done : sizeof buf;
		ssize_t w;

		for (size_t i = 0; i < n; i++)
			buf[i] = (char)('a' + (done + i) % 26);
		w = write(1, buf, n);
		if (w < 0)
			return 91;
		done += (size_t)w;
	}
	if (write(2, "done\n", 5) != 5)
		return 92;
	return 0;
}

/* "ready", then "signal N" for every signal; SIGTERM ends with 7. */
static int do_signals(void)
{
	sigset_t all;
	int sig = 0;
	char line[32];

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	say("ready");
	while (sig != SIGTERM) {
		if (sigwait(&all, &sig) != 0)
			return 93;
		snprintf(line, sizeof line, "signal %d", sig);
		say(line);
	}
	return 7;
}

/* A grandchild whose parent ends: whose child does it become? */
static int do_orphan(void)
{
	int down[2];
	pid_t child;

	if (pipe(down) < 0)
		return 94;
	child = fork();
	if (child == 0) {
		pid_t middle = getpid();

		if (fork() == 0) {
			char line[64], c;

			close(down[1]);
			if (read(down[0], &c, 1) < 0) /* the end: both others have closed it */
				_exit(95);
			while (getppid() == middle)
				sched_yield();
			snprintf(line, sizeof line, "orphan has parent %d", (int)getppid());
			say(line);
			_exit(0);
		}
		_exit(0);
	}
	waitpid(child, NULL, 0);
	close(down[0]);
	close(down[1]);
	printf("root is %d\n", (int)getpid());
	fflush(stdout);
	return wait(NULL) > 0 ? 0 : 96; /* the orphan, if it has become ours */
}

static int do_stdio(void)
{
	sigset_t mask;
	int subreaper = 0, blocked = 0;
	char link[256];
	DIR *d;

	for (int fd = 0; fd < 3; fd++) {
		char path[32];
		ssize_t n;

		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		n = readlink(path, link, sizeof link - 1);
		link[n > 0 ? n : 0] = '\0';
		printf("fd %d %s\n", fd, link);
	}
	d = opendir("/proc/self/fd");
	for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d))
		if (atoi(e->d_name) > 2 && atoi(e->d_name) != dirfd(d))
			printf("extra fd %s\n", e->d_name);
	prctl(PR_GET_CHILD_SUBREAPER, &subreaper, 0, 0, 0);
	sigprocmask(SIG_SETMASK, NULL, &mask);
	for (int s = 1; s < NSIG; s++)
		blocked += sigismember(&mask, s) == 1;
	printf("session %s, subreaper %d, blocked %d, umask %03o, uid %d\n", getsid(0) == getpid() ? "own" : "foreign", subreaper, blocked,
	       (unsigned)umask(0), (int)getuid());
	/* as programs do that log to /dev/stderr */
	printf("reopen %s\n", open("/proc/self/fd/1", O_WRONLY | O_APPEND) >= 0 ? "ok" : strerror(errno));
	printf("nest's descriptors %s\n", opendir("/proc/1/fd") ? "open" : "closed");
	return 0;
}

static int control_socket(struct sockaddr_un *a)
{
	*a = (struct sockaddr_un){ .sun_family = AF_UNIX, .sun_path = SOCKET };
	return socket(AF_UNIX, SOCK_SEQPACKET, 0);
}

/* An application that asks the nest to be left alone. */
static int do_talk(void)
{
	uint32_t request[6] = { 1, 3 /* HOLD */ };
	struct sockaddr_un a;
	char reply[512];
	int fd = control_socket(&a);

	if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0) {
		say("not connected");
		return 0;
	}
	(void)send(fd, request, sizeof request, MSG_NOSIGNAL);
	say(recv(fd, reply, sizeof reply, 0) > 0 ? "answered" : "refused");
	return 0;
}

/* An application that puts itself in the nest's place. */
static int do_impostor(void)
{
	struct sockaddr_un a;
	int fd = control_socket(&a);

	if (unlink(SOCKET) < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || listen(fd, 5) < 0)
		return 97;
	say("listening");
	pause();
	return 0;
}

static int do_symlink(void)
{
	if (unlink(SOCKET) < 0 || symlink("/dev/log", SOCKET) < 0)
		return 97;
	say("linked");
	pause();
	return 0;
}

/* Counts for ever, in shared memory of a file: an outsider sees whether it runs. */
static int do_count(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	struct timespec t = { .tv_nsec = 2000000 };
	volatile uint64_t private_copy = 0;
	volatile uint64_t *shared;

	if (fd < 0 || ftruncate(fd, 4096) < 0)
		return 98;
	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (shared == MAP_FAILED)
		return 98;
	say("counting");
	for (;;) {
		shared[0] = ++private_copy; /* starts again from the file's value only if memory was lost */
		nanosleep(&t, NULL);
	}
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "", *arg = argc > 2 ? argv[2] : "";

	if (strcmp(what, "exit") == 0)
		return atoi(arg);
	if (strcmp(what, "die") == 0)
		return raise(atoi(arg));
	if (strcmp(what, "out") == 0)
		return do_out(arg);
	if (strcmp(what, "signals") == 0)
		return do_signals();
	if (strcmp(what, "orphan") == 0)
		return do_orphan();
	if (strcmp(what, "stdio") == 0)
		return do_stdio();
	if (strcmp(what, "talk") == 0)
		return do_talk();
	if (strcmp(what, "impostor") == 0)
		return do_impostor();
	if (strcmp(what, "symlink") == 0)
		return do_symlink();
	if (strcmp(what, "count") == 0)
		return do_count(arg);
	if (strcmp(what, "pause") == 0) {
		say("pausing");
		pause();
	}
	return 99;
}
