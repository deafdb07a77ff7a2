/* SPDX-License-Identifier: MIT */
/*
 * nest-control.c - the nest's control socket.
 *
 * Who may talk: processes of an outer pid namespace only. The kernel translates a peer's pid into our namespace, and gives 0 for one
 * that is not in it or below it. The application shares our uid and can reach the socket's file, so this check is what keeps it out.
 *
 * Packets are of one fixed size. Everything else is answered with an error, once, and the connection is closed. Nothing here waits for
 * somebody else: sockets are non-blocking and a reply that does not fit is dropped with its connection. Only LEAVE, FENCE and START wait, for the disk.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "container/nest-internal.h"

#define NEST_MAX_PACKET_FDS 4 /* room to receive, and close, more than the one that is allowed */
#define NEST_MAX_REPLY_FDS  16

int nest_control_open(struct nest *n)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = FM_NEST_RUN_MOUNT "/nest.sock" };
	mode_t mask;
	int fd, r;

	for (unsigned i = 0; i < NEST_MAX_CLIENTS; i++)
		n->clients[i] = -1;
	/* A restarted parent finds the socket of its former life; nobody else makes one here. */
	if (unlink(a.sun_path) < 0 && errno != ENOENT)
		return -1;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -1;
	mask = umask(0177); /* put back at once: the application inherits it */
	r = bind(fd, (struct sockaddr *)&a, sizeof a);
	(void)umask(mask);
	if (r < 0 || listen(fd, NEST_MAX_CLIENTS) < 0)
		return -1;
	n->listen_fd = fd;
	return 0;
}

void nest_control_accept(struct nest *n)
{
	struct ucred peer = { .pid = -1 };
	socklen_t len = sizeof peer;
	unsigned slot = 0;
	int fd = accept4(n->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 || peer.pid != 0) {
		close(fd);
		return;
	}
	while (slot < NEST_MAX_CLIENTS && n->clients[slot] >= 0)
		slot++;
	if (slot == NEST_MAX_CLIENTS) { /* the oldest has had its chance: a call is one packet */
		close(n->clients[0]);
		memmove(n->clients, n->clients + 1, (NEST_MAX_CLIENTS - 1) * sizeof n->clients[0]);
		slot = NEST_MAX_CLIENTS - 1;
	}
	n->clients[slot] = fd;
}

/* Nobody in here is answered, but whoever connects is turned away at once, and by PID 1. Nothing of that happens while the loop does not turn. */
int nest_health(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = FM_NEST_RUN_MOUNT "/nest.sock" };
	struct pollfd p = { .fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), .events = POLLIN };
	struct ucred peer = { .pid = -1 };
	socklen_t len = sizeof peer;
	char c;

	if (p.fd < 0 || connect(p.fd, (struct sockaddr *)&a, sizeof a) < 0) {
		nest_say("no nest listens on " FM_NEST_RUN_MOUNT "/nest.sock", errno);
		return 1;
	}
	if (getsockopt(p.fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 || peer.pid != 1) {
		nest_say("it is not PID 1 that listens on " FM_NEST_RUN_MOUNT "/nest.sock", 0);
		return 1;
	}
	if (poll(&p, 1, NEST_HEALTH_MS) <= 0 || read(p.fd, &c, 1) > 0) {
		nest_say("the nest does not react", 0);
		return 1;
	}
	return 0;
}

/* ---- kept descriptors */

/* Index of the first entry with a key >= key. */
static unsigned kept_find(const struct nest *n, uint64_t key)
{
	unsigned i = 0;

	while (i < n->n_kept && n->kept[i].key < key)
		i++;
	return i;
}

/* Takes over fd on success. */
static int kept_put(struct nest *n, uint64_t key, int fd)
{
	unsigned i = kept_find(n, key);

	if (key == UINT64_MAX)
		return EINVAL; /* means "all" to FM_NEST_DROP */
	if (i < n->n_kept && n->kept[i].key == key) {
		close(n->kept[i].fd);
		n->kept[i].fd = fd;
		return 0;
	}
	if (n->n_kept == FM_NEST_MAX_KEPT)
		return ENOSPC;
	memmove(n->kept + i + 1, n->kept + i, (n->n_kept - i) * sizeof n->kept[0]);
	n->kept[i] = (struct nest_kept){ .key = key, .fd = fd };
	n->n_kept++;
	return 0;
}

static int kept_drop(struct nest *n, uint64_t key)
{
	unsigned i = kept_find(n, key);

	if (key == UINT64_MAX) {
		while (n->n_kept > 0)
			close(n->kept[--n->n_kept].fd);
		return 0;
	}
	if (i == n->n_kept || n->kept[i].key != key)
		return ENOENT;
	close(n->kept[i].fd);
	n->n_kept--;
	memmove(n->kept + i, n->kept + i + 1, (n->n_kept - i) * sizeof n->kept[0]);
	return 0;
}

/* ---- requests */

static int do_hold(struct nest *n)
{
	if (n->state == FM_NEST_HELD)
		return 0;
	if (n->state != FM_NEST_RUNNING)
		return EBUSY;
	n->state = FM_NEST_HELD;
	return 0;
}

static int do_unhold(struct nest *n)
{
	if (n->state == FM_NEST_RUNNING)
		return 0;
	if (n->state != FM_NEST_HELD)
		return EBUSY;
	nest_unhold(n);
	return 0;
}

static int do_leave(struct nest *n)
{
	int e;

	if (n->state == FM_NEST_GONE)
		return 0;
	if (n->state != FM_NEST_HELD)
		return EBUSY;
	e = nest_mark_set(FM_NEST_MOVED);
	if (e == 0)
		n->state = FM_NEST_GONE;
	return e;
}

/* From now on nothing starts it here again; or: it belongs here. */
static int do_fence(struct nest *n, uint64_t on)
{
	if (on > 1)
		return EINVAL;
	if (n->state == FM_NEST_EMPTY || n->state == FM_NEST_GONE || (on && n->state == FM_NEST_EXITED))
		return EBUSY;
	return on ? nest_mark_set(FM_NEST_HELD_MARK) : nest_marks_clear();
}

static int do_start(struct nest *n)
{
	int e;

	if (n->state != FM_NEST_EMPTY || n->finishing || nest_mark_is_set(FM_NEST_MOVED) || nest_mark_is_set(FM_NEST_HELD_MARK))
		return EBUSY;
	e = nest_marks_clear();
	return e ? e : nest_start(n);
}

/* Returns 0 or an errno. *fd is set to -1 when it has been taken. fds of a FETCH are borrowed from n->kept. */
static int handle(struct nest *n, const struct fm_nest_request *q, int *fd, struct fm_nest_reply *r, int *fds)
{
	int e;

	if ((q->op == FM_NEST_KEEP) != (*fd >= 0))
		return EINVAL;
	switch (q->op) {
	case FM_NEST_STATUS:
		return 0;
	case FM_NEST_ADOPT:
		if (q->arg < 2 || q->arg > INT32_MAX)
			return EINVAL;
		return nest_adopt(n, (pid_t)q->arg);
	case FM_NEST_HOLD:
		return do_hold(n);
	case FM_NEST_UNHOLD:
		return do_unhold(n);
	case FM_NEST_LEAVE:
		return do_leave(n);
	case FM_NEST_KEEP:
		e = kept_put(n, q->key, *fd);
		if (e == 0)
			*fd = -1;
		return e;
	case FM_NEST_FETCH:
		for (unsigned i = kept_find(n, q->arg); i < n->n_kept && r->n_keys < NEST_MAX_REPLY_FDS; i++) {
			fds[r->n_keys] = n->kept[i].fd;
			r->keys[r->n_keys++] = n->kept[i].key;
		}
		return 0;
	case FM_NEST_DROP:
		return kept_drop(n, q->key);
	case FM_NEST_START:
		return do_start(n);
	case FM_NEST_FENCE:
		return do_fence(n, q->arg);
	default:
		return EOPNOTSUPP;
	}
}

static int send_reply(int sock, const struct fm_nest_reply *r, const int *fds)
{
	union {
		char buf[CMSG_SPACE(NEST_MAX_REPLY_FDS * sizeof(int))];
		struct cmsghdr align;
	} u;
	struct iovec iov = { .iov_base = (void *)(uintptr_t)r, .iov_len = sizeof *r };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	memset(&u, 0, sizeof u);
	if (r->n_keys > 0) {
		struct cmsghdr *c = &u.align;

		m.msg_control = u.buf;
		m.msg_controllen = CMSG_SPACE(r->n_keys * sizeof(int));
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(r->n_keys * sizeof(int));
		memcpy(CMSG_DATA(c), fds, r->n_keys * sizeof(int));
	}
	return sendmsg(sock, &m, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof *r ? 0 : -1;
}

/* All descriptors of a packet; those beyond max are closed. Returns how many came in all. */
static unsigned take_fds(struct msghdr *m, int *fds, unsigned max)
{
	unsigned n = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		size_t count;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len < CMSG_LEN(0))
			continue;
		count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
			if (n < max)
				fds[n] = fd;
			else
				close(fd);
			n++;
		}
	}
	return n;
}

/* Returns 0 with a well-formed request, an errno to report, or -1: nothing more will come. */
static int recv_request(int sock, struct fm_nest_request *q, int *ret_fd)
{
	union {
		char buf[CMSG_SPACE(NEST_MAX_PACKET_FDS * sizeof(int))];
		struct cmsghdr align;
	} u;
	struct iovec iov = { .iov_base = q, .iov_len = sizeof *q };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = u.buf, .msg_controllen = sizeof u.buf };
	ssize_t len = recvmsg(sock, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	unsigned n_fds;
	int fd = -1, bad = 0;

	if (len <= 0) /* an empty packet looks like the end, and is treated as one */
		return len < 0 && errno == EAGAIN ? EAGAIN : -1;
	n_fds = take_fds(&m, &fd, 1);
	if (len != (ssize_t)sizeof *q || m.msg_flags & (MSG_TRUNC | MSG_CTRUNC) || n_fds > 1)
		bad = EBADMSG;
	else if (q->version != FM_NEST_VERSION)
		bad = EPROTONOSUPPORT;
	if (bad && fd >= 0)
		close(fd);
	else
		*ret_fd = fd;
	return bad;
}

void nest_control_serve(struct nest *n, unsigned i)
{
	struct fm_nest_request q = { 0 };
	struct fm_nest_reply r = { .version = FM_NEST_VERSION };
	int fds[NEST_MAX_REPLY_FDS];
	int fd = -1;
	int bad = recv_request(n->clients[i], &q, &fd);

	if (bad == EAGAIN)
		return;
	if (bad >= 0) {
		r.error = bad ? bad : handle(n, &q, &fd, &r, fds);
		r.state = n->state;
		r.app_pid = n->app;
		r.exit_status = n->app_status;
		r.n_kept = n->n_kept;
		if (send_reply(n->clients[i], &r, fds) < 0)
			bad = -1;
	}
	if (fd >= 0)
		close(fd);
	if (bad != 0) {
		close(n->clients[i]);
		n->clients[i] = -1;
	}
}
