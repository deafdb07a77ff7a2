/* SPDX-License-Identifier: MIT */
/*
 * criu-log.c - what CRIU says about a failure, made short.
 *
 * The first error line names the cause, the last ones where it gave up; both are shown. Lines that are always there, or that only
 * repeat that it failed (or that we refused), are left out. What a user can do about the known ones is a table of signs.
 */
#include "container/criu-log.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "basic/cleanup.h"

#define LOG_TAIL_BYTES (256u << 10)

static bool is_cause(const char *line)
{
	static const char *const noise[] = { "rlimit: Can't setup RLIMIT",
		                             "Dumping FAILED",
		                             "Restoring FAILED",
		                             "One of more action scripts failed",
		                             "RPC client reported script error",
		                             "Can't send response: Broken pipe",
		                             "tun: Unable to create tun" };

	if (!strstr(line, "Error ("))
		return false;
	for (size_t i = 0; i < FM_ARRAY_SIZE(noise); i++)
		if (strstr(line, noise[i]))
			return false;
	return true;
}

/* The first and the last two "Error (…)" lines, "; " between, into buf; "" when there are none. Changes text. */
static void pick_errors(char *text, char *buf, size_t cap)
{
	const char *first = NULL, *last[2] = { NULL, NULL };
	size_t len = 0;
	char *save = NULL;

	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (!is_cause(line))
			continue;
		line = strstr(line, "Error (");
		if (!first) {
			first = line;
			continue;
		}
		last[0] = last[1];
		last[1] = line;
	}
	const char *const lines[] = { first, last[0], last[1] };
	buf[0] = '\0';
	for (size_t i = 0; i < FM_ARRAY_SIZE(lines) && len < cap; i++)
		if (lines[i])
			len += (size_t)snprintf(buf + len, cap - len, "%s%.180s", len ? "; " : "", lines[i]);
}

/* The head (where the cause is) and the tail of a file that may be long; NUL-terminated, malloc'ed, NULL when it cannot be read. */
static char *read_log(int fd)
{
	struct stat st;
	char *text;
	size_t head, tail;
	ssize_t n;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size <= 0)
		return NULL;
	head = st.st_size > LOG_TAIL_BYTES ? LOG_TAIL_BYTES : (size_t)st.st_size;
	tail = st.st_size > 2 * (off_t)LOG_TAIL_BYTES ? LOG_TAIL_BYTES : (size_t)st.st_size - head;
	text = malloc(head + tail + 2);
	if (!text)
		return NULL;
	n = pread(fd, text, head, 0);
	head = n > 0 ? (size_t)n : 0;
	text[head++] = '\n';
	n = pread(fd, text + head, tail, st.st_size - (off_t)tail);
	text[head + (n > 0 ? (size_t)n : 0)] = '\0';
	for (char *p = text; p < text + head; p++)
		if (*p == '\0')
			*p = '?';
	return text;
}

void fm_criu_log_errors(int folder_fd, const char *log_file, int stderr_fd, char *buf, size_t cap)
{
	_fm_close_ int fd = folder_fd >= 0 && log_file ? openat(folder_fd, log_file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK) : -1;
	_fm_free_ char *text = fd >= 0 ? read_log(fd) : NULL;

	buf[0] = '\0';
	if (text)
		pick_errors(text, buf, cap);
	if (buf[0] != '\0')
		return;
	/* Before the log is open, errors go to stderr; the loader has no other place. */
	_fm_free_ char *early = read_log(stderr_fd);
	if (early)
		snprintf(buf, cap, "%.300s", early + strspn(early, "\n"));
	buf[strcspn(buf, "\n")] = '\0';
}

const char *fm_criu_log_advice(const char *errors)
{
	static const struct {
		const char *sign, *hint;
	} known[] = {
		{ "tee: Operation not permitted", "raise the limit on memory in pipes: sysctl fs.pipe-user-pages-soft=0" },
		{ "Can't get rlimit", "CRIU needs CAP_SYS_RESOURCE here to save processes of other users than root" },
		{ "In-flight connection", "a client was waiting to be accepted at this moment; try again" },
		{ "link-remap", "a process has a file open whose name is gone while the file has others; close it" },
		{ "ghost file", "a process has a large deleted file open; close it" },
		{ "Can't lookup mount", "a process has a file open from outside its container (often its stdin, stdout or stderr)" },
		{ "external socket is used", "a process is connected to a Unix socket of somebody outside the tree" },
		{ "SysVIPC shmem", "System V shared memory cannot be migrated; use POSIX or mmap shared memory" },
		{ "multipathtcp", "start Go programs with GODEBUG=multipathtcp=0" },
		{ "Unsupported proto", "a process uses a socket of a kind that CRIU cannot save" },
		{ "iptables-restore",
		  "install the package iptables: CRIU closes the network of an ordinary container with iptables-restore" },
		{ "lazy-pages.socket", "the fault server was not running" },
		{ "io_uring", "a process uses io_uring, which CRIU cannot save: let it use epoll" },
		{ "Can't dump nested", "a process has made a namespace of its own, which cannot be saved" },
		{ "Can't dump half of stream unix connection", "a process is connected to a Unix socket of somebody outside the tree" },
		{ "is not a part of process tree", "a process holds a pidfd of a process outside the tree; close it" },
		{ "Unsupported mapping", "a process has memory of a device mapped, which cannot be saved" },
		{ "Can't dump file", "a process has a device or kernel object open that CRIU cannot save" },
		{ "has bad size", "a file that a process has open is not the same on the destination: something changed it meanwhile" },
		{ "has bad mode", "a file that a process has open is not the same on the destination: something changed it meanwhile" },
		{ "No space left on device", "the destination, or the folder for images, is full: free space there" },
		{ "xsave", "the destination's processor has other registers than the source's: choose another host" },
		{ "CPU instruction capabilities", "the destination's processor lacks instructions of the source's: choose another host" },
		{ "session leader of", "a process belongs to a session (terminal) from outside its container: start it with setsid" },
		{ "PTRACE_SEIZE", "a process is being debugged or traced, or tracing is forbidden (kernel.yama.ptrace_scope, seccomp)" },
		{ "Pid reused", "a process number was taken meanwhile; try again" },
		{ "Can't fork for", "a process number is taken on the destination, or its limit of processes is reached" },
	};

	for (size_t i = 0; i < FM_ARRAY_SIZE(known); i++)
		if (strstr(errors, known[i].sign))
			return known[i].hint;
	return NULL;
}
