/* SPDX-License-Identifier: MIT */
/*
 * probe.c - does the service answer? One connection per probe, one deadline for the whole of it.
 *
 * HTTP: a GET, and the status line of the answer. What answers is an application of somebody else: at most 8 KiB of it are read, and only
 * the three digits get into a message.
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/str.h"
#include "network/sockets.h"

#define MAX_ANSWER   8192
#define MAX_PATH_LEN 1024
#define STATUS_LEN   12 /* "HTTP/1.1 200" */

struct probe_spec {
	bool http;
	uint16_t port;
	const char *path; /* points into the spec; "" = "/" */
};

static int spec_error(const char *spec, const char *why, struct fm_error *err)
{
	(void)fm_error_set(err, FM_E_INVALID_ARGUMENT, "health check \"%.128s\": %s", spec, why);
	return fm_error_hint(err, "write tcp:PORT or http:PORT/PATH");
}

static int spec_parse(const char *spec, struct probe_spec *ret, struct fm_error *err)
{
	struct probe_spec s = { 0 };
	const char *number, *end;
	char digits[6];
	int port;

	if (fm_str_startswith(spec, "tcp:"))
		number = spec + 4;
	else if (fm_str_startswith(spec, "http:"))
		number = spec + 5;
	else
		return spec_error(spec, "unknown kind", err);
	s.http = spec[0] == 'h';
	end = number + strspn(number, "0123456789");
	if (end == number || (size_t)(end - number) >= sizeof(digits))
		return spec_error(spec, "no port between 1 and 65535", err);
	memcpy(digits, number, (size_t)(end - number));
	digits[end - number] = '\0';
	if (fm_parse_int(digits, 1, 65535, &port, NULL) < 0)
		return spec_error(spec, "no port between 1 and 65535", err);
	if (*end && (!s.http || *end != '/'))
		return spec_error(spec, "something behind the port that is no path", err);
	if (strlen(end) > MAX_PATH_LEN)
		return spec_error(spec, "the path is too long", err);
	/* it goes into the request line: no blanks, no line ends */
	for (const char *p = end; *p; p++)
		if (!isgraph((unsigned char)*p))
			return spec_error(spec, "the path has blanks or control characters", err);
	s.port = (uint16_t)port;
	s.path = end;
	*ret = s;
	return 0;
}

static int wait_for(int fd, short events, uint64_t deadline_ms, const char *what, struct fm_error *err)
{
	int r = fm_wait_fd(fd, events, fm_deadline_left_ms(deadline_ms), err);

	if (r == 0)
		return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "%s within the time", what);
	return r < 0 ? -1 : 0;
}

static int send_request(int fd, const char *host, const struct probe_spec *s, uint64_t deadline_ms, struct fm_error *err)
{
	_fm_free_ char *request = fm_xasprintf("GET %s HTTP/1.1\r\n"
	                                       "Host: %s\r\n"
	                                       "User-Agent: fleximigrate\r\n"
	                                       "Accept: */*\r\n"
	                                       "Connection: close\r\n"
	                                       "\r\n",
	                                       *s->path ? s->path : "/", host);
	size_t n = strlen(request), done = 0;

	while (done < n) {
		ssize_t w = send(fd, request + done, n - done, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (w > 0) {
			done += (size_t)w;
			continue;
		}
		if (w < 0 && errno == EINTR)
			continue;
		if (w < 0 && errno != EAGAIN)
			return fm_error_errno(err, errno, "send the request");
		if (wait_for(fd, POLLOUT, deadline_ms, "the request could not be sent", err) < 0)
			return -1;
	}
	return 0;
}

/* Reads until there is a status line, the end, or too much. */
static int read_answer(int fd, char *buf, size_t cap, uint64_t deadline_ms, struct fm_error *err)
{
	size_t n = 0;

	while (n < cap - 1) {
		ssize_t r;

		if (wait_for(fd, POLLIN, deadline_ms, "no answer", err) < 0)
			return -1;
		r = recv(fd, buf + n, cap - 1 - n, MSG_DONTWAIT);
		if (r < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (r < 0)
			return fm_error_errno(err, errno, "read the answer");
		if (r == 0)
			break;
		n += (size_t)r;
		if (memchr(buf, '\n', n))
			break;
	}
	buf[n] = '\0';
	if (n == 0)
		return fm_error_set(err, FM_E_UNAVAILABLE, "the connection was closed without an answer");
	return 0;
}

static int check_status(const char *answer, struct fm_error *err)
{
	const char *code = answer + STATUS_LEN - 3;

	if (strnlen(answer, STATUS_LEN) < STATUS_LEN || strncmp(answer, "HTTP/1.", 7) != 0 || answer[8] != ' ' ||
	    strspn(code, "0123456789") != 3)
		return fm_error_set(err, FM_E_UNAVAILABLE, "the answer is not HTTP");
	if (code[0] != '2' && code[0] != '3')
		return fm_error_set(err, FM_E_UNAVAILABLE, "HTTP %.3s", code);
	return 0;
}

static int probe_once(const char *ip, const struct probe_spec *s, int timeout_ms, struct fm_error *err)
{
	uint64_t deadline = fm_now_ms() + (uint64_t)timeout_ms;
	char address[INET6_ADDRSTRLEN + 10], answer[MAX_ANSWER];
	_fm_close_ int fd = -1;

	(void)snprintf(address, sizeof(address), strchr(ip, ':') ? "[%s]:%u" : "%s:%u", ip, s->port);
	if (fm_tcp_connect(address, timeout_ms, &fd, err) < 0)
		return -1;
	if (!s->http)
		return 0;
	if (send_request(fd, address, s, deadline, err) < 0 || read_answer(fd, answer, sizeof(answer), deadline, err) < 0)
		return -1;
	return check_status(answer, err);
}

int fm_probe_spec_check(const char *spec, struct fm_error *err)
{
	struct probe_spec s;

	return spec_parse(spec, &s, err);
}

int fm_probe(const char *ip, const char *spec, int timeout_ms, uint64_t *ret_latency_us, struct fm_error *err)
{
	struct probe_spec s;
	struct in6_addr a;
	uint64_t start;

	if (spec_parse(spec, &s, err) < 0)
		return -1;
	if (inet_pton(AF_INET, ip, &a) != 1 && inet_pton(AF_INET6, ip, &a) != 1)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "health check: \"%.64s\" is not an IP address", ip);
	if (timeout_ms <= 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "health check: a timeout of %d ms", timeout_ms);
	start = fm_now_us();
	if (probe_once(ip, &s, timeout_ms, err) < 0)
		return fm_error_prefix(err, "health check %.128s at %s", spec, ip);
	if (ret_latency_us)
		*ret_latency_us = fm_now_us() - start;
	return 0;
}
