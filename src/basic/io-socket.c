/* SPDX-License-Identifier: MIT */
/*
 * io-socket.c - the sockets of io.h.
 *
 * Unix sockets: bind(2) has no mode argument and umask is shared by all threads, so the file gets its mode between bind and listen,
 * when nobody can connect yet. A path that does not fit sun_path is reached through /proc/self/fd and a descriptor of its directory.
 * TCP connects are non-blocking with one deadline shared among the addresses a name has, so that a dead first address leaves time
 * for the others.
 */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/str.h"

#define UNIX_BACKLOG         128
#define UNIX_CONNECT_SECONDS 10
#define FDS_MAX              16

static void addrinfo_done(struct addrinfo **ai)
{
	if (*ai)
		freeaddrinfo(*ai);
}

/*
 * The address of a Unix socket at path. When path is too long, *dirfd (-1 before) becomes a descriptor that must stay open while the
 * address is used.
 */
static int unix_address(const char *path, struct sockaddr_un *sa, int *dirfd, struct fm_error *err)
{
	const char *slash = strrchr(path, '/');
	_fm_free_ char *dir = NULL;
	int n;

	*sa = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (!*path || (slash && !slash[1]))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%s' is no path of a socket", path);
	if (strlen(path) < sizeof(sa->sun_path)) {
		memcpy(sa->sun_path, path, strlen(path) + 1);
		return 0;
	}
	dir = slash ? fm_xasprintf("%.*s/", (int)(slash - path), path) : fm_xstrdup(".");
	*dirfd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (*dirfd < 0)
		return fm_error_errno(err, errno, "opening directory %s", dir);
	n = snprintf(sa->sun_path, sizeof(sa->sun_path), "/proc/self/fd/%d/%s", *dirfd, slash ? slash + 1 : path);
	if (n < 0 || (size_t)n >= sizeof(sa->sun_path))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "the name of socket %s is too long", path);
	return 0;
}

/* What stands at a path where bind said EADDRINUSE: removes it if it is a socket without a listener. */
static int remove_stale(const char *path, int type, const struct sockaddr_un *sa, struct fm_error *err)
{
	_fm_close_ int probe = -1;
	struct stat st;
	int failure;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : fm_error_errno(err, errno, "looking at %s", path);
	if (!S_ISSOCK(st.st_mode))
		return fm_error_set(err, FM_E_ALREADY_EXISTS, "%s exists and is no socket", path);
	probe = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (probe < 0)
		return fm_error_errno(err, errno, "creating a socket");
	failure = connect(probe, (const struct sockaddr *)sa, sizeof(*sa)) < 0 ? errno : 0;
	if (failure == ENOENT)
		return 0;
	/* every other answer, also "wrong type" or "backlog full", comes from a living listener */
	if (failure != ECONNREFUSED) {
		(void)fm_error_set(err, FM_E_ALREADY_EXISTS, "somebody already listens on %s", path);
		return fm_error_hint(err, "stop the other program or choose another socket path");
	}
	if (unlink(path) < 0 && errno != ENOENT)
		return fm_error_errno(err, errno, "removing the stale socket %s", path);
	return 0;
}

int fm_unix_listen(const char *path, int type, mode_t mode, int *ret_fd, struct fm_error *err)
{
	_fm_close_ int fd = -1, dirfd = -1;
	struct sockaddr_un sa;
	int failed;

	if (unix_address(path, &sa, &dirfd, err) < 0)
		return -1;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return fm_error_errno(err, errno, "creating a socket");
	/* the inode starts with the socket's own mode: never wider than asked, not even for a moment */
	if (fchmod(fd, mode) < 0)
		return fm_error_errno(err, errno, "setting the mode of a socket");
	failed = bind(fd, (struct sockaddr *)&sa, sizeof(sa));
	if (failed && errno == EADDRINUSE) {
		if (remove_stale(path, type, &sa, err) < 0)
			return -1;
		failed = bind(fd, (struct sockaddr *)&sa, sizeof(sa));
	}
	if (failed)
		return fm_error_errno(err, errno, "listening on %s", path);
	/* and not narrower either, whatever the umask */
	if (chmod(path, mode) < 0 || listen(fd, UNIX_BACKLOG) < 0) {
		(void)fm_error_errno(err, errno, "listening on %s", path);
		(void)unlink(path);
		return -1;
	}
	*ret_fd = FM_TAKE_FD(fd);
	return 0;
}

int fm_unix_connect(const char *path, int type, int *ret_fd, struct fm_error *err)
{
	struct timeval limit = { .tv_sec = UNIX_CONNECT_SECONDS }, none = { 0 };
	_fm_close_ int fd = -1, dirfd = -1;
	struct sockaddr_un sa;
	int failed;

	if (unix_address(path, &sa, &dirfd, err) < 0)
		return -1;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return fm_error_errno(err, errno, "creating a socket");
	/* a listener with a full backlog that never accepts would block connect for ever */
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	do {
		failed = connect(fd, (struct sockaddr *)&sa, sizeof(sa));
	} while (failed && errno == EINTR);
	if (failed && errno == EAGAIN)
		return fm_error_set(err, FM_E_UNAVAILABLE, "connecting to %s: the listener is busy", path);
	if (failed) {
		int saved = errno;

		(void)fm_error_errno(err, saved, "connecting to %s", path);
		if (saved == ECONNREFUSED || saved == ENOENT)
			(void)fm_error_hint(err, "is the service that owns this socket running?");
		return -1;
	}
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof(none));
	*ret_fd = FM_TAKE_FD(fd);
	return 0;
}

/* "host:port" or "[v6]:port" -> *ret_host (may be ""), *ret_port */
static int split_address(const char *address, char **ret_host, char **ret_port, struct fm_error *err)
{
	const char *colon = strrchr(address, ':'), *host = address;
	size_t n = colon ? (size_t)(colon - address) : 0;
	struct fm_error local = FM_ERROR_INIT;
	int port;

	if (colon && n >= 2 && host[0] == '[' && host[n - 1] == ']') {
		host++;
		n -= 2;
	} else if (colon && memchr(host, ':', n)) {
		(void)fm_error_set(err, FM_E_INVALID_ARGUMENT, "address '%.128s' has more than one colon", address);
		return fm_error_hint(err, "write an IPv6 address in brackets: [::1]:7000");
	}
	if (!colon || fm_parse_int(colon + 1, 0, 65535, &port, &local) < 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "address '%.128s' is not host:port with a port from 0 to 65535", address);
	*ret_host = fm_xasprintf("%.*s", (int)n, host);
	*ret_port = fm_xstrdup(colon + 1);
	return 0;
}

static int resolve(const char *address, bool passive, struct addrinfo **ret, struct fm_error *err)
{
	struct addrinfo hints = {
		.ai_family = AF_UNSPEC,
		.ai_socktype = SOCK_STREAM,
		.ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0),
	};
	_fm_free_ char *host = NULL, *port = NULL;
	bool any;
	int rc;

	if (split_address(address, &host, &port, err) < 0)
		return -1;
	any = !*host || fm_streq(host, "*");
	if (any && !passive)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "address '%.128s' names no host to connect to", address);
	rc = getaddrinfo(any ? NULL : host, port, &hints, ret);
	if (rc == EAI_SYSTEM)
		return fm_error_errno(err, errno, "looking up '%.128s'", host);
	if (rc)
		return fm_error_set(err,
		                    rc == EAI_AGAIN    ? FM_E_UNAVAILABLE
		                    : rc == EAI_MEMORY ? FM_E_RESOURCE_EXHAUSTED
		                                       : FM_E_NOT_FOUND,
		                    "looking up '%.128s': %s", host, gai_strerror(rc));
	return 0;
}

static int tcp_listen_one(const struct addrinfo *a, int backlog)
{
	_fm_close_ int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
	int on = 1;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 || bind(fd, a->ai_addr, a->ai_addrlen) < 0 ||
	    listen(fd, backlog) < 0)
		return -1;
	return FM_TAKE_FD(fd);
}

int fm_tcp_listen(const char *address, int backlog, int *ret_fd, struct fm_error *err)
{
	_fm_cleanup_(addrinfo_done) struct addrinfo *list = NULL;
	int last = EADDRNOTAVAIL;

	if (resolve(address, true, &list, err) < 0)
		return -1;
	for (const struct addrinfo *a = list; a; a = a->ai_next) {
		int fd = tcp_listen_one(a, backlog);

		if (fd >= 0) {
			*ret_fd = fd;
			return 0;
		}
		last = errno;
	}
	(void)fm_error_errno(err, last, "listening on %.128s", address);
	if (last == EADDRINUSE)
		(void)fm_error_hint(err, "another program uses this port; stop it or choose another one");
	return -1;
}

/* A connected, blocking socket, or -1 with errno. timeout_ms < 0: no limit. */
static int tcp_connect_one(const struct addrinfo *a, int timeout_ms)
{
	_fm_close_ int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol);
	int ready, failure = 0;
	socklen_t len = sizeof(failure);

	if (fd < 0)
		return -1;
	if (connect(fd, a->ai_addr, a->ai_addrlen) < 0) {
		if (errno != EINPROGRESS && errno != EINTR)
			return -1;
		ready = fm_wait_fd(fd, POLLOUT, timeout_ms, NULL);
		if (ready <= 0) {
			if (ready == 0)
				errno = ETIMEDOUT;
			return -1;
		}
		if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &len) < 0)
			return -1;
		if (failure) {
			errno = failure;
			return -1;
		}
	}
	if (fm_set_nonblocking(fd, false, NULL) < 0)
		return -1;
	return FM_TAKE_FD(fd);
}

int fm_tcp_connect(const char *address, int timeout_ms, int *ret_fd, struct fm_error *err)
{
	uint64_t deadline = timeout_ms < 0 ? 0 : fm_now_ms() + (uint64_t)timeout_ms;
	_fm_cleanup_(addrinfo_done) struct addrinfo *list = NULL;
	int last = ETIMEDOUT, n = 0;

	if (resolve(address, false, &list, err) < 0)
		return -1;
	for (const struct addrinfo *a = list; a; a = a->ai_next)
		n++;
	for (const struct addrinfo *a = list; a; a = a->ai_next, n--) {
		int fd = tcp_connect_one(a, timeout_ms < 0 ? -1 : fm_deadline_left_ms(deadline) / n);

		if (fd >= 0) {
			*ret_fd = fd;
			return 0;
		}
		last = errno;
	}
	(void)fm_error_errno(err, last, "connecting to %.128s", address);
	if (last == ECONNREFUSED)
		(void)fm_error_hint(err, "nothing listens there: is the service running, and is the port right?");
	else if (last == ETIMEDOUT || last == EHOSTUNREACH || last == ENETUNREACH)
		(void)fm_error_hint(err, "check the route and the firewall between the hosts");
	return -1;
}

int fm_tcp_local_port(int fd, uint16_t *ret_port, struct fm_error *err)
{
	struct sockaddr_storage sa = { 0 };
	socklen_t len = sizeof(sa);

	if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
		return fm_error_errno(err, errno, "asking for a socket's local port");
	if (sa.ss_family == AF_INET)
		*ret_port = ntohs(((struct sockaddr_in *)&sa)->sin_port);
	else if (sa.ss_family == AF_INET6)
		*ret_port = ntohs(((struct sockaddr_in6 *)&sa)->sin6_port);
	else
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a socket of family %d has no port", sa.ss_family);
	return 0;
}

/* errors of accept(2) that concern only the one connection */
static bool accept_error_passes(int e)
{
	return e == EINTR || e == EAGAIN || e == ECONNABORTED || e == EPROTO || e == ENETDOWN || e == EHOSTDOWN || e == EHOSTUNREACH ||
	       e == ENETUNREACH || e == ENOPROTOOPT || e == ENONET;
}

int fm_accept(int listen_fd, int timeout_ms, int cancel_fd, int *ret_fd, struct fm_error *err)
{
	uint64_t deadline = timeout_ms < 0 ? 0 : fm_now_ms() + (uint64_t)timeout_ms;
	struct pollfd p[2] = { { .fd = listen_fd, .events = POLLIN }, { .fd = cancel_fd, .events = POLLIN } };

	if (fm_set_nonblocking(listen_fd, true, err) < 0)
		return fm_error_prefix(err, "waiting for a connection");
	for (;;) {
		int n = poll(p, 2, timeout_ms < 0 ? -1 : fm_deadline_left_ms(deadline)), fd;

		if (n < 0 && errno != EINTR)
			return fm_error_errno(err, errno, "waiting for a connection");
		if (n == 0)
			return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "waiting for a connection: nobody came within %d ms", timeout_ms);
		if (n < 0)
			continue;
		if ((p[0].revents | p[1].revents) & POLLNVAL)
			return fm_error_errno(err, EBADF, "waiting for a connection");
		if (p[1].revents)
			return fm_error_set(err, FM_E_CANCELLED, "waiting for a connection: cancelled");
		fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0) {
			*ret_fd = fd;
			return 0;
		}
		if (!accept_error_passes(errno))
			return fm_error_errno(err, errno, "accepting a connection");
	}
}

int fm_send_with_fds(int sock, const void *buf, size_t n, const int *fds, size_t n_fds, struct fm_error *err)
{
	union {
		char space[CMSG_SPACE(FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)buf, .iov_len = n };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t put;

	if (n == 0 || n_fds > FDS_MAX)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "sending a message of %zu bytes with %zu descriptors (1.. and 0..%d)", n,
		                    n_fds, FDS_MAX);
	if (n_fds) {
		struct cmsghdr *c;

		m.msg_control = control.space;
		m.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
	}
	while (iov.iov_len > 0) {
		put = sendmsg(sock, &m, MSG_NOSIGNAL);
		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return fm_error_errno(err, errno, "sending a message of %zu bytes with %zu descriptors", n, n_fds);
		/* the descriptors went with the first byte; the rest of a stream's message follows without them */
		iov.iov_base = (char *)iov.iov_base + put;
		iov.iov_len -= (size_t)put;
		m.msg_control = NULL;
		m.msg_controllen = 0;
	}
	return 0;
}

/* Collects the descriptors of a received message into fds[max]; returns how many came. Every one that does not fit is closed. */
static size_t take_fds(struct msghdr *m, int *fds, size_t max)
{
	size_t count = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (count < max)
				fds[count] = fd;
			else
				(void)close(fd);
			count++;
		}
	}
	return count;
}

int fm_recv_with_fds(int sock, void *buf, size_t cap, size_t *ret_len, int *fds, size_t *n_fds, struct fm_error *err)
{
	union {
		/* room for credentials too, which SO_PASSCRED adds */
		char space[CMSG_SPACE(FDS_MAX * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { .iov_base = buf, .iov_len = cap };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof(control.space) };
	size_t max = n_fds ? *n_fds : 0, count;
	int taken[FDS_MAX];
	ssize_t got;

	if (max > FDS_MAX)
		max = FDS_MAX;
	do {
		got = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
	} while (got < 0 && errno == EINTR);
	if (got < 0 && errno == EAGAIN)
		return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "receiving a message: nothing came in time");
	if (got < 0)
		return fm_error_errno(err, errno, "receiving a message");

	count = take_fds(&m, taken, max);
	if (count > max || m.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) {
		for (size_t i = 0; i < count && i < max; i++)
			(void)close(taken[i]);
		if (m.msg_flags & MSG_TRUNC)
			return fm_error_set(err, FM_E_DATA_LOSS, "receiving a message: it is longer than the %zu bytes expected", cap);
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "receiving a message: it carries more than the %zu descriptors expected",
		                    max);
	}
	if (count)
		memcpy(fds, taken, count * sizeof(int));
	if (n_fds)
		*n_fds = count;
	*ret_len = (size_t)got;
	return 0;
}
