/* SPDX-License-Identifier: MIT */
/*
 * nslab.h - namespaces of a test's own, and shell commands in them: what a test with the real ip and nft needs.
 *
 * The namespaces are pinned in a private mount namespace under a temporary folder, so that even a crash leaves none behind. In a command, $DIR/NAME is a namespace's path (ip takes it for a name). Included by one program.
 */
#ifndef FM_TESTS_NSLAB_H
#define FM_TESTS_NSLAB_H

#include "check.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "network/endpoint.h"

#define LAB_WAIT_MS 5000
#define LAB_NS_MAX  8

static struct {
	char dir[64];
	int ns[LAB_NS_MAX];
	char *names[LAB_NS_MAX];
	int n;
} lab;

static bool lab_possible(void)
{
	if (geteuid() == 0 && system("command -v nft >/dev/null && command -v ip >/dev/null") == 0)
		return true;
	print_message("skipped: namespaces with a firewall need root, ip and nft\n");
	return false;
}

/* The command's output, malloc'ed; what fails ends the test. */
__attribute__((format(printf, 2, 3))) static char *output_in(int ns, const char *fmt, ...)
{
	char command[4096], *out = calloc(1, 65536);
	size_t len = 0;
	int pipe_fd[2], status;
	va_list ap;
	ssize_t n;
	pid_t pid;

	va_start(ap, fmt);
	(void)vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	assert_non_null(out);
	assert_sys(pipe2(pipe_fd, O_CLOEXEC));
	pid = fork();
	assert_sys(pid);
	if (pid == 0) {
		if (setns(lab.ns[ns], CLONE_NEWNET) == 0 && dup2(pipe_fd[1], 1) >= 0 && dup2(pipe_fd[1], 2) >= 0 &&
		    setenv("DIR", lab.dir, 1) == 0)
			(void)execl("/bin/sh", "sh", "-ec", command, (char *)NULL);
		_exit(127);
	}
	(void)close(pipe_fd[1]);
	while ((n = read(pipe_fd[0], out + len, 65535 - len)) > 0)
		len += (size_t)n;
	(void)close(pipe_fd[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (status != 0)
		fail_msg("in %s: %s: status %d: %s", lab.names[ns], command, status, out);
	return out;
}

#define in_ns(...) free(output_in(__VA_ARGS__))

/* Until the command succeeds: for what the kernel does in its own time. */
__attribute__((unused, format(printf, 2, 3))) static void until_in(int ns, const char *fmt, ...)
{
	char command[1024];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	in_ns(ns, "i=0; until %s; do i=$((i + 1)); [ $i -lt 500 ] || exit 1; sleep 0.01; done", command);
}

static void lab_up(const char *const *names, int n)
{
	lab.n = n;
	(void)snprintf(lab.dir, sizeof(lab.dir), "/tmp/fm-test-conntrack-XXXXXX");
	assert_non_null(mkdtemp(lab.dir));
	assert_sys(unshare(CLONE_NEWNS));
	assert_sys(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
	for (int i = 0; i < n; i++) {
		char path[128];

		(void)snprintf(path, sizeof(path), "%s/%s", lab.dir, names[i]);
		assert_ok(fm_netns_create(path, &err));
		lab.ns[i] = open(path, O_RDONLY | O_CLOEXEC);
		assert_sys(lab.ns[i]);
		lab.names[i] = strdup(names[i]);
	}
}

static void lab_down(void)
{
	for (int i = 0; i < lab.n; i++) {
		char path[128];

		(void)close(lab.ns[i]);
		(void)snprintf(path, sizeof(path), "%s/%s", lab.dir, lab.names[i]);
		assert_ok(fm_netns_remove(path, &err));
		free(lab.names[i]);
	}
	/* nothing left in it */
	assert_sys(rmdir(lab.dir));
}

/* ---- calls and sockets inside ---- */

struct lab_socket {
	const char *address; /* NULL: any */
	uint16_t port;
	int type, fd;
};

static struct sockaddr_in6 lab_sockaddr(const char *address, uint16_t port)
{
	struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	char mapped[64];

	if (address) {
		(void)snprintf(mapped, sizeof(mapped), strchr(address, ':') ? "%s" : "::ffff:%s", address);
		assert_int_equal(inet_pton(AF_INET6, mapped, &a.sin6_addr), 1);
	}
	return a;
}

static int do_socket(void *userdata, struct fm_error *e)
{
	struct lab_socket *s = userdata;
	struct sockaddr_in6 a = lab_sockaddr(s->address, s->port);
	int off = 0, on = 1;

	s->fd = socket(AF_INET6, s->type | SOCK_CLOEXEC, 0);
	assert_sys(s->fd);
	assert_sys(setsockopt(s->fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)));
	assert_sys(setsockopt(s->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)));
	assert_sys(bind(s->fd, (struct sockaddr *)&a, sizeof(a)));
	return 0;
}

/* Dual stack: IPv4 addresses are told as ::ffff:a.b.c.d. */
static int socket_in(int ns, int type, const char *address, uint16_t port)
{
	struct lab_socket s = { .address = address, .port = port, .type = type };

	assert_ok(fm_netns_call(lab.ns[ns], do_socket, &s, &err));
	return s.fd;
}

__attribute__((unused)) static int listen_in(int ns, uint16_t port)
{
	int fd = socket_in(ns, SOCK_STREAM, NULL, port);

	assert_sys(listen(fd, 512));
	return fd;
}

struct lab_connection {
	int client, server;
};

static void wait_readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	if (poll(&p, 1, LAB_WAIT_MS) != 1)
		fail_msg("nothing came within %d ms", LAB_WAIT_MS);
}

__attribute__((unused)) static struct lab_connection connect_from(int ns, const char *from, const char *to, uint16_t port, int listener)
{
	struct lab_connection c = { .client = socket_in(ns, SOCK_STREAM, from, 0) };
	struct sockaddr_in6 a = lab_sockaddr(to, port);
	struct timeval limit = { .tv_sec = LAB_WAIT_MS / 1000 };

	assert_sys(setsockopt(c.client, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)));
	assert_sys(connect(c.client, (struct sockaddr *)&a, sizeof(a)));
	wait_readable(listener);
	c.server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_sys(c.server);
	return c;
}

static void send_over(int from, char what)
{
	assert_int_equal(send(from, &what, 1, MSG_NOSIGNAL), 1);
}

static void receive_over(int to, char what)
{
	char got = 0;

	wait_readable(to);
	assert_int_equal(recv(to, &got, 1, 0), 1);
	assert_int_equal(got, what);
}

/* Both ways. */
__attribute__((unused)) static void talk(const struct lab_connection *c)
{
	send_over(c->client, 'q');
	receive_over(c->server, 'q');
	send_over(c->server, 'a');
	receive_over(c->client, 'a');
}

/* Without anything that would be repeated. */
__attribute__((unused)) static void break_off(struct lab_connection *c)
{
	struct linger at_once = { .l_onoff = 1 };

	assert_sys(setsockopt(c->client, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)));
	assert_sys(setsockopt(c->server, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)));
	(void)close(c->server);
	(void)close(c->client);
	c->client = c->server = -1;
}

__attribute__((unused)) static void hang_up(struct lab_connection *c)
{
	(void)close(c->client);
	(void)close(c->server);
	c->client = c->server = -1;
}

#endif
