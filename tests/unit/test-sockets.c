/* SPDX-License-Identifier: MIT */
/* test-sockets.c - the TCP tables of real processes, and probes against servers that answer well, badly, too much or not at all. */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "network/netlink.h"
#include "network/sockets.h"

#define TIMEOUT_MS 5000

#define OK(call)                                                                                                                           \
	do {                                                                                                                               \
		struct fm_error err = FM_ERROR_INIT;                                                                                       \
		if ((call) != 0)                                                                                                           \
			fail_msg("%s: %s (%d)", #call, err.message, err.code);                                                             \
	} while (0)

static int listen_on(const char *address, uint16_t *ret_port)
{
	int fd = -1;

	OK(fm_tcp_listen(address, 8, &fd, &err));
	OK(fm_tcp_local_port(fd, ret_port, &err));
	return fd;
}

static const struct fm_listener *find(const struct fm_listener *v, size_t n, const char *address, uint16_t port)
{
	for (size_t i = 0; i < n; i++)
		if (v[i].port == port && strcmp(v[i].address, address) == 0)
			return &v[i];
	return NULL;
}

static void test_listeners_here(void **state)
{
	_fm_free_ struct fm_listener *v = NULL, *w = NULL;
	uint16_t port_a, port_b;
	_fm_close_ int a = listen_on("127.0.0.1:0", &port_a);
	_fm_close_ int b = listen_on("0.0.0.0:0", &port_b);
	size_t n, m;

	assert_true(a >= 0 && b >= 0);
	OK(fm_listeners(getpid(), &v, &n, &err));
	assert_non_null(find(v, n, "127.0.0.1", port_a));
	assert_non_null(find(v, n, "0.0.0.0", port_b));
	assert_string_equal(v[0].protocol, "tcp");
	for (size_t i = 1; i < n; i++)
		assert_true(v[i - 1].port < v[i].port || (v[i - 1].port == v[i].port && strcmp(v[i - 1].address, v[i].address) < 0));
	(void)close(FM_TAKE_FD(a));
	OK(fm_listeners(getpid(), &w, &m, &err));
	assert_null(find(w, m, "127.0.0.1", port_a));
}

static void test_process_gone(void **state)
{
	struct fm_error err = FM_ERROR_INIT;
	struct fm_listener *v = NULL;
	pid_t pid = fork();
	size_t n = 77;

	if (pid == 0)
		_exit(0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(fm_listeners(pid, &v, &n, &err), -1);
	assert_int_equal(err.code, FM_E_NOT_FOUND);
	assert_int_equal(fm_established_count(pid, &n, NULL), -1);
	assert_int_equal(n, 77);
	assert_null(v);
}

/* ---- a process in a namespace of its own ---- */

static int lo_up(void)
{
	_fm_nl_ struct fm_nl *nl = NULL;
	struct fm_link lo;

	if (fm_nl_open(0, &nl, NULL) < 0 || fm_nl_link(nl, "lo", &lo) < 0)
		return -1;
	return fm_nl_link_up(nl, lo.index);
}

/* Two sockets on one port (SO_REUSEPORT), one of IPv6, three connections. */
static int make_sockets(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(6379), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_in6 b = { .sin6_family = AF_INET6, .sin6_port = htons(8080), .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	int one = 1, fd;

	for (int i = 0; i < 2; i++) {
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ||
		    listen(fd, 8) < 0)
			return -1;
	}
	fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(fd, (struct sockaddr *)&b, sizeof(b)) < 0 || listen(fd, 8) < 0)
		return -1;
	for (int i = 0; i < 2; i++) {
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
			return -1;
	}
	fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return connect(fd, (struct sockaddr *)&b, sizeof(b));
}

static pid_t start_child(int *ret_stop)
{
	int ready[2], stop[2];
	char c = 0;
	pid_t pid;

	assert_int_equal(pipe(ready), 0);
	assert_int_equal(pipe(stop), 0);
	pid = fork();
	if (pid == 0) {
		(void)close(stop[1]);
		c = unshare(CLONE_NEWNET) == 0 && lo_up() == 0 && make_sockets() == 0 ? 'y' : 'n';
		if (write(ready[1], &c, 1) != 1)
			_exit(1);
		_exit(read(stop[0], &c, 1) == 0 ? 0 : 1); /* until the parent closes its end, or dies */
	}
	(void)close(stop[0]);
	assert_int_equal(read(ready[0], &c, 1), 1);
	(void)close(ready[0]);
	(void)close(ready[1]);
	assert_int_equal(c, 'y');
	*ret_stop = stop[1];
	return pid;
}

static void test_other_namespace(void **state)
{
	_fm_free_ struct fm_listener *v = NULL;
	size_t n, established;
	int stop, status;
	pid_t pid;

	if (geteuid() != 0) {
		print_message("skipped: network namespaces need root\n");
		skip();
	}
	pid = start_child(&stop);
	OK(fm_listeners(pid, &v, &n, &err));
	assert_int_equal(n, 2);
	assert_string_equal(v[0].address, "127.0.0.1");
	assert_int_equal(v[0].port, 6379);
	assert_string_equal(v[1].address, "::1");
	assert_int_equal(v[1].port, 8080);
	OK(fm_established_count(pid, &established, &err));
	assert_int_equal(established, 6); /* both ends are here */
	(void)close(stop);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ---- probes ---- */

enum manner { CLOSES, STAYS_SILENT, TRICKLES };

struct server {
	int listen_fd, stop_fd;
	uint16_t port;
	const char *answer;
	size_t repeat;
	enum manner manner;
	char request[2048];
	pthread_t thread;
};

static void serve_one(struct server *s, int fd)
{
	size_t n = 0, len = strlen(s->answer);
	struct pollfd p[2] = { { .fd = fd, .events = POLLIN }, { .fd = s->stop_fd, .events = POLLIN } };

	/* the whole request, or the client's end */
	while (n < sizeof(s->request) - 1 && !strstr(s->request, "\r\n\r\n")) {
		ssize_t r = recv(fd, s->request + n, sizeof(s->request) - 1 - n, 0);

		if (r <= 0)
			return;
		n += (size_t)r;
	}
	for (size_t i = 0; i < s->repeat; i++) {
		for (size_t k = 0; s->manner == TRICKLES && k < len; k++)
			if (send(fd, s->answer + k, 1, MSG_NOSIGNAL) < 0)
				return;
		if (s->manner != TRICKLES && send(fd, s->answer, len, MSG_NOSIGNAL) < 0)
			return;
	}
	if (s->manner == STAYS_SILENT)
		while (poll(p, 2, -1) > 0 && !p[1].revents && recv(fd, s->answer ? s->request : NULL, 1, 0) > 0)
			;
}

static void *serve(void *arg)
{
	struct server *s = arg;
	_fm_close_ int fd = -1;

	if (fm_accept(s->listen_fd, TIMEOUT_MS, s->stop_fd, &fd, NULL) == 0)
		serve_one(s, fd);
	return NULL;
}

static void server_start(struct server *s, const char *host)
{
	char at[64];

	(void)snprintf(at, sizeof(at), strchr(host, ':') ? "[%s]:0" : "%s:0", host);
	s->listen_fd = listen_on(at, &s->port);
	s->stop_fd = eventfd(0, EFD_CLOEXEC);
	assert_true(s->stop_fd >= 0);
	assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
}

static void server_stop(struct server *s)
{
	uint64_t one = 1;

	assert_int_equal(write(s->stop_fd, &one, sizeof(one)), sizeof(one));
	assert_int_equal(pthread_join(s->thread, NULL), 0);
	(void)close(s->listen_fd);
	(void)close(s->stop_fd);
}

static int probe_at(struct server *s, const char *host, const char *kind, const char *path, int timeout_ms, struct fm_error *err)
{
	uint64_t latency = UINT64_MAX;
	char spec[128];
	int r;

	server_start(s, host);
	(void)snprintf(spec, sizeof(spec), "%s:%u%s", kind, s->port, path);
	r = fm_probe(host, spec, timeout_ms, &latency, err);
	server_stop(s);
	assert_true((r == 0) == (latency != UINT64_MAX));
	return r;
}

static int probe(struct server *s, const char *kind, const char *path, int timeout_ms, struct fm_error *err)
{
	return probe_at(s, "127.0.0.1", kind, path, timeout_ms, err);
}

static void test_probe_answers(void **state)
{
	static const struct {
		const char *answer, *says;
		size_t repeat;
		enum manner manner;
		enum fm_code code;
	} t[] = {
		{ "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", NULL, 1, CLOSES, FM_OK },
		{ "HTTP/1.1 200\r\n\r\n", NULL, 1, CLOSES, FM_OK },
		{ "HTTP/1.0 204 No Content\n\n", NULL, 1, TRICKLES, FM_OK },
		{ "HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", NULL, 1, STAYS_SILENT, FM_OK },
		{ "HTTP/1.1 503 Service Unavailable\r\n\r\n", "HTTP 503", 1, CLOSES, FM_E_UNAVAILABLE },
		{ "HTTP/1.1 404 Not Found\r\n\r\n", "HTTP 404", 1, CLOSES, FM_E_UNAVAILABLE },
		{ "HTTP/1.1 2000 OK\r\n\r\n", "not HTTP", 1, CLOSES, FM_E_UNAVAILABLE },
		{ "HTTP/1.1 20", "not HTTP", 1, CLOSES, FM_E_UNAVAILABLE },
		{ "-ERR unknown command\r\n", "not HTTP", 1, CLOSES, FM_E_UNAVAILABLE },
		{ "", "without an answer", 1, CLOSES, FM_E_UNAVAILABLE },
		{ "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "not HTTP", 1000, STAYS_SILENT, FM_E_UNAVAILABLE },
	};

	for (size_t i = 0; i < FM_ARRAY_SIZE(t); i++) {
		struct server s = { .answer = t[i].answer, .manner = t[i].manner, .repeat = t[i].repeat };
		struct fm_error err = FM_ERROR_INIT;
		int r = probe(&s, "http", "/healthz", TIMEOUT_MS, &err);

		if ((r == 0) != (t[i].code == FM_OK) || err.code != t[i].code)
			fail_msg("answer %zu: %d %s", i, err.code, err.message);
		if (t[i].says && !strstr(err.message, t[i].says))
			fail_msg("answer %zu: \"%s\" does not say \"%s\"", i, err.message, t[i].says);
		if (i == 0) {
			assert_ptr_equal(strstr(s.request, "GET /healthz HTTP/1.1\r\n"), s.request);
			assert_non_null(strstr(s.request, "\r\nConnection: close\r\n"));
		}
	}
}

static void test_probe_default_path(void **state)
{
	struct server s = { .answer = "HTTP/1.1 200 OK\r\n\r\n", .repeat = 1 };

	OK(probe(&s, "http", "", TIMEOUT_MS, &err));
	assert_ptr_equal(strstr(s.request, "GET / HTTP/1.1\r\n"), s.request);
}

static void test_probe_silence(void **state)
{
	struct server s = { .answer = "", .manner = STAYS_SILENT };
	struct fm_error err = FM_ERROR_INIT;

	assert_int_equal(probe(&s, "http", "/", 100, &err), -1);
	assert_int_equal(err.code, FM_E_DEADLINE_EXCEEDED);
}

static void test_probe_tcp(void **state)
{
	struct server s = { .answer = "", .manner = CLOSES };
	struct fm_error why = FM_ERROR_INIT;
	char spec[32];

	OK(probe(&s, "tcp", "", TIMEOUT_MS, &err));
	/* nobody there any more */
	(void)snprintf(spec, sizeof(spec), "tcp:%u", s.port);
	assert_int_equal(fm_probe("127.0.0.1", spec, TIMEOUT_MS, NULL, &why), -1);
	assert_int_equal(why.code, FM_E_UNAVAILABLE);
}

static void test_probe_ipv6(void **state)
{
	struct server s = { .answer = "HTTP/1.1 200 OK\r\n\r\n", .repeat = 1 };
	char host[64];

	if (!fm_path_exists("/proc/net/if_inet6")) {
		print_message("skipped: the kernel has no IPv6\n");
		skip();
	}
	OK(probe_at(&s, "::1", "http", "/healthz", TIMEOUT_MS, &err));
	(void)snprintf(host, sizeof(host), "\r\nHost: [::1]:%u\r\n", s.port);
	assert_non_null(strstr(s.request, host));
}

static void test_probe_spec(void **state)
{
	static const char *const good[] = { "tcp:1", "tcp:65535", "http:80", "http:8080/", "http:8080/healthz?full=1" };
	static const char *const bad[] = {
		"",       "tcp",   "tcp:",    "tcp:0",    "tcp:65536", "tcp:99999999999", "tcp:80/x",          "tcp:-1",       "tcp: 80",
		"udp:53", "http:", "http:/x", "http:80x", "http:80 /", "http:80/a b",     "http:80/a\r\nX: y", "http:80/\x80", "https:443/"
	};
	struct fm_error why;
	char spec[2048];

	for (size_t i = 0; i < FM_ARRAY_SIZE(good); i++)
		OK(fm_probe_spec_check(good[i], &err));
	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++) {
		why = FM_ERROR_INIT;
		if (fm_probe_spec_check(bad[i], &why) != -1 || why.code != FM_E_INVALID_ARGUMENT || !why.hint[0])
			fail_msg("\"%s\" was taken", bad[i]);
	}
	memset(spec, 'a', sizeof(spec));
	memcpy(spec, "http:80/", 8);
	spec[sizeof(spec) - 1] = '\0';
	assert_int_equal(fm_probe_spec_check(spec, NULL), -1);
	why = FM_ERROR_INIT;
	assert_int_equal(fm_probe("localhost", "tcp:80", 100, NULL, &why), -1);
	assert_int_equal(why.code, FM_E_INVALID_ARGUMENT);
	why = FM_ERROR_INIT;
	assert_int_equal(fm_probe("[::1]", "tcp:80", 100, NULL, &why), -1);
	assert_int_equal(why.code, FM_E_INVALID_ARGUMENT);
	assert_int_equal(fm_probe("127.0.0.1", "tcp:80", 0, NULL, NULL), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_listeners_here), cmocka_unit_test(test_process_gone),       cmocka_unit_test(test_other_namespace),
		cmocka_unit_test(test_probe_answers),  cmocka_unit_test(test_probe_default_path), cmocka_unit_test(test_probe_silence),
		cmocka_unit_test(test_probe_tcp),      cmocka_unit_test(test_probe_spec),         cmocka_unit_test(test_probe_ipv6),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
