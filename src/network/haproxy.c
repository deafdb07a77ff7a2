/* SPDX-License-Identifier: MIT */
/*
 * haproxy.c - one command, its answer; see haproxy.h. What the answer means is haproxy-text.c's.
 *
 * Nothing blocks but poll, which has the deadline and the cancel descriptor: connecting to a Unix socket with a full queue of callers fails at once and is tried again.
 */
#include "network/haproxy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "basic/clock.h"
#include "basic/limits.h"
#include "basic/str.h"

#define CONNECT_PAUSE_MS 10
#define READ_BYTES       8192
#define COMMAND_BYTES    512 /* names and addresses have limits of their own, together they fit */

static int at_socket(const struct fm_haproxy_call *c, struct fm_error *err)
{
	return fm_error_prefix(err, "HAProxy at %.128s, server %.64s/%.64s", c->socket, c->backend, c->server);
}

/* fd -1: only the time. 1 ready, 0 the time until_ms has come, -1 cancelled or over. */
static int wait_until(const struct fm_haproxy_call *c, int fd, short events, uint64_t until_ms, struct fm_error *err)
{
	for (;;) {
		uint64_t end_ms = until_ms < c->deadline_ms ? until_ms : c->deadline_ms;
		struct pollfd p[2] = { { .fd = fd, .events = events }, { .fd = c->cancel_fd, .events = POLLIN } };
		int r = poll(p, 2, fm_deadline_left_ms(end_ms));

		if (r < 0 && errno != EINTR)
			return fm_error_errno(err, errno, "waiting");
		if (r > 0 && p[1].revents)
			return fm_error_set(err, FM_E_CANCELLED, "cancelled while waiting for it");
		if (r > 0)
			return 1;
		if (fm_deadline_left_ms(c->deadline_ms) == 0)
			return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "it did not answer in time");
		if (fm_deadline_left_ms(until_ms) == 0)
			return 0;
	}
}

static int wait_for(const struct fm_haproxy_call *c, int fd, short events, struct fm_error *err)
{
	return wait_until(c, fd, events, UINT64_MAX, err) < 0 ? -1 : 0;
}

int fm_haproxy_pause(const struct fm_haproxy_call *c, unsigned ms, struct fm_error *err)
{
	return wait_until(c, -1, 0, fm_now_ms() + ms, err) < 0 ? at_socket(c, err) : 0;
}

/* ---- the connection ---- */

union any_address {
	struct sockaddr sa;
	struct sockaddr_un un;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static int socket_address(const char *text, union any_address *ret, socklen_t *ret_n, struct fm_error *err)
{
	struct fm_haproxy_address a;

	*ret = (union any_address){ .sa.sa_family = AF_UNIX };
	*ret_n = sizeof(ret->un);
	if (fm_haproxy_socket_check(text, err) < 0)
		return -1;
	if (text[0] == '/')
		return fm_snprintf(ret->un.sun_path, sizeof(ret->un.sun_path), err, "%s", text);
	if (fm_haproxy_address_parse(text + strlen("tcp:"), &a, err) < 0)
		return -1;
	if (inet_pton(AF_INET, a.host, &ret->v4.sin_addr) == 1) {
		ret->v4.sin_family = AF_INET;
		ret->v4.sin_port = htons(a.port);
		*ret_n = sizeof(ret->v4);
		return 0;
	}
	*ret = (union any_address){ .v6 = { .sin6_family = AF_INET6, .sin6_port = htons(a.port) } };
	(void)inet_pton(AF_INET6, a.host, &ret->v6.sin6_addr);
	*ret_n = sizeof(ret->v6);
	return 0;
}

static int nobody_there(int sys_errno, struct fm_error *err)
{
	(void)fm_error_errno(err, sys_errno, "connecting");
	if (err && (err->code == FM_E_NOT_FOUND || err->code == FM_E_INTERNAL))
		err->code = FM_E_UNAVAILABLE;
	return fm_error_hint(err, "is HAProxy running, with a \"stats socket\" there that has \"level admin\"?");
}

static int finish_connect(const struct fm_haproxy_call *c, int fd, struct fm_error *err)
{
	int failure = 0;
	socklen_t n = sizeof(failure);

	if (wait_for(c, fd, POLLOUT, err) < 0)
		return -1;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &n) < 0)
		failure = errno;
	return failure ? nobody_there(failure, err) : 0;
}

static int open_connection(const struct fm_haproxy_call *c, int *ret_fd, struct fm_error *err)
{
	_fm_close_ int fd = -1;
	union any_address to;
	socklen_t n;

	if (socket_address(c->socket, &to, &n, err) < 0)
		return -1;
	fd = socket(to.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return fm_error_errno(err, errno, "creating a socket");
	while (connect(fd, &to.sa, n) < 0) {
		if (errno == EINPROGRESS || errno == EINTR) {
			if (finish_connect(c, fd, err) < 0)
				return -1;
			break;
		}
		if (errno != EAGAIN) /* a Unix socket whose queue is full */
			return nobody_there(errno, err);
		if (wait_until(c, -1, 0, fm_now_ms() + CONNECT_PAUSE_MS, err) < 0)
			return -1;
	}
	*ret_fd = FM_TAKE_FD(fd);
	return 0;
}

static int send_all(const struct fm_haproxy_call *c, int fd, const char *text, struct fm_error *err)
{
	size_t n = strlen(text), done = 0;

	while (done < n) {
		ssize_t r = send(fd, text + done, n - done, MSG_NOSIGNAL);

		if (r >= 0)
			done += (size_t)r;
		else if (errno == EAGAIN && wait_for(c, fd, POLLOUT, err) < 0)
			return -1;
		else if (errno != EAGAIN && errno != EINTR)
			return fm_error_errno(err, errno, "sending");
	}
	return 0;
}

/* Until it closes. */
static int receive_all(const struct fm_haproxy_call *c, int fd, struct fm_buf *ret, struct fm_error *err)
{
	char buf[READ_BYTES];

	for (;;) {
		ssize_t r;

		if (wait_for(c, fd, POLLIN, err) < 0) /* also looks at the deadline while it never stops talking */
			return -1;
		if (fm_now_ms() >= c->deadline_ms)
			return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "it did not come to an end in time");
		r = recv(fd, buf, sizeof(buf), 0);
		if (r == 0)
			return 0;
		if (r < 0 && errno != EAGAIN && errno != EINTR)
			return fm_error_errno(err, errno, "receiving");
		if (r < 0)
			continue;
		if (ret->len + (size_t)r > FM_MAX_HAPROXY_ANSWER_BYTES)
			return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "its answer has more than %u bytes", FM_MAX_HAPROXY_ANSWER_BYTES);
		fm_buf_add(ret, buf, (size_t)r);
	}
}

/* ret->data is never NULL after it. */
static int run(const struct fm_haproxy_call *c, const char *command, struct fm_buf *ret, struct fm_error *err)
{
	_fm_close_ int fd = -1;

	if (fm_haproxy_name_check(c->backend, err) < 0 || fm_haproxy_name_check(c->server, err) < 0)
		return -1;
	/* who has cancelled already must not find the change made */
	if (wait_until(c, -1, 0, 0, err) < 0 || open_connection(c, &fd, err) < 0 || send_all(c, fd, command, err) < 0 ||
	    receive_all(c, fd, ret, err) < 0)
		return -1;
	fm_buf_add(ret, "", 0);
	return 0;
}

/* ---- asking ---- */

static int look(const struct fm_haproxy_call *c, struct fm_haproxy_server *ret, struct fm_error *err)
{
	_fm_buf_ struct fm_buf answer = FM_BUF_INIT;
	char command[COMMAND_BYTES];

	if (fm_snprintf(command, sizeof(command), err, "show servers state %s\n", c->backend) < 0 || run(c, command, &answer, err) < 0)
		return -1;
	return fm_haproxy_state_parse(answer.data, answer.len, c->backend, c->server, ret, err);
}

int fm_haproxy_look(const struct fm_haproxy_call *c, struct fm_haproxy_server *ret, struct fm_error *err)
{
	return look(c, ret, err) < 0 ? at_socket(c, err) : 0;
}

int fm_haproxy_sessions(const struct fm_haproxy_call *c, uint64_t *ret, struct fm_error *err)
{
	_fm_buf_ struct fm_buf answer = FM_BUF_INIT;
	char command[COMMAND_BYTES];

	if (fm_snprintf(command, sizeof(command), err, "show stat %s 4 -1\n", c->backend) < 0 || run(c, command, &answer, err) < 0 ||
	    fm_haproxy_stat_parse(answer.data, answer.len, c->backend, c->server, ret, err) < 0)
		return at_socket(c, err);
	return 0;
}

int fm_haproxy_may_change(const struct fm_haproxy_call *c, struct fm_error *err)
{
	_fm_buf_ struct fm_buf answer = FM_BUF_INIT;
	char command[COMMAND_BYTES];
	struct fm_error said = FM_ERROR_INIT;

	if (fm_snprintf(command, sizeof(command), err, "set server %s/%s\n", c->backend, c->server) < 0 ||
	    run(c, command, &answer, err) < 0)
		return at_socket(c, err);
	(void)fm_haproxy_reply_error(answer.data, answer.len, &said);
	if (said.code != FM_E_PERMISSION_DENIED)
		return 0; /* how the command is used */
	if (err)
		*err = said;
	return at_socket(c, err);
}

/* ---- telling ---- */

int fm_haproxy_point(const struct fm_haproxy_call *c, const struct fm_haproxy_address *to, struct fm_error *err)
{
	_fm_buf_ struct fm_buf answer = FM_BUF_INIT;
	struct fm_haproxy_server now = { 0 };
	char command[COMMAND_BYTES];

	if (fm_snprintf(command, sizeof(command), err, "set server %s/%s addr %s port %u\n", c->backend, c->server, to->host, to->port) <
	            0 ||
	    run(c, command, &answer, err) < 0 || look(c, &now, err) < 0)
		return at_socket(c, err);
	if (strcmp(now.address.host, to->host) != 0 || now.address.port != to->port) {
		(void)fm_haproxy_reply_error(answer.data, answer.len, err);
		return at_socket(c, err);
	}
	return 0;
}

int fm_haproxy_set_state(const struct fm_haproxy_call *c, enum fm_haproxy_state state, struct fm_error *err)
{
	_fm_buf_ struct fm_buf answer = FM_BUF_INIT;
	struct fm_haproxy_server now = { 0 };
	char command[COMMAND_BYTES];

	if (fm_snprintf(command, sizeof(command), err, "set server %s/%s state %s\n", c->backend, c->server,
	                fm_haproxy_state_to_string(state)) < 0 ||
	    run(c, command, &answer, err) < 0 || look(c, &now, err) < 0)
		return at_socket(c, err);
	if (now.state != state) {
		(void)fm_haproxy_reply_error(answer.data, answer.len, err);
		return at_socket(c, err);
	}
	return 0;
}
