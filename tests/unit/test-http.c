/* SPDX-License-Identifier: MIT */
/* test-http.c - one request (http.h) against a server that says what the test wants it to say. TLS: tests/integration/test_rest.py. */
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "loop/http.h"

#define WAIT_MS  20000
#define SHORT_MS 200
#define SLACK_MS 2000 /* of a busy machine */
#define DRIP_MS  5
#define HANG     "" /* a reply: nothing, and the connection stays */
#define HANG_UP  NULL

/* A server of one connection: reads a request to its end, says `reply`, and closes. */
struct server {
	int listener, cancel_fd; /* cancel_fd: written to when the request is there; -1 */
	const char *reply;
	const char *drip; /* said again and again after it, until the client goes */
	bool saw_end;     /* of the client, while hanging or dripping */
	char request[8192], url[64];
	pthread_t thread;
};

static size_t body_bytes(const char *request)
{
	const char *length = strstr(request, "Content-Length: ");

	return length ? strtoul(length + strlen("Content-Length: "), NULL, 10) : 0;
}

static bool is_whole(const char *request)
{
	const char *end = strstr(request, "\r\n\r\n");

	return end && strlen(end + 4) >= body_bytes(request);
}

static void say(struct server *s, int fd)
{
	char c;

	if (s->reply)
		(void)!send(fd, s->reply, strlen(s->reply), MSG_NOSIGNAL);
	while (s->drip && send(fd, s->drip, strlen(s->drip), MSG_NOSIGNAL) > 0)
		fm_pause_ms(DRIP_MS);
	if (s->drip || (s->reply && !*s->reply))
		s->saw_end = recv(fd, &c, 1, 0) <= 0;
}

static void *serve(void *arg)
{
	struct server *s = arg;
	uint64_t one = 1;
	size_t len = 0;
	int fd;

	if (fm_accept(s->listener, WAIT_MS, -1, &fd, NULL) < 0)
		return NULL;
	while (len < sizeof(s->request) - 1 && !is_whole(s->request)) {
		ssize_t n = recv(fd, s->request + len, sizeof(s->request) - 1 - len, 0);

		if (n <= 0)
			break;
		len += (size_t)n;
	}
	if (s->cancel_fd >= 0)
		assert_int_equal(write(s->cancel_fd, &one, sizeof(one)), sizeof(one));
	say(s, fd);
	close(fd);
	return NULL;
}

static void server_up(struct server *s, const char *reply)
{
	uint16_t port;

	*s = (struct server){ .listener = -1, .cancel_fd = -1, .reply = reply };
	assert_ok(fm_tcp_listen("127.0.0.1:0", 4, &s->listener, &err));
	assert_ok(fm_tcp_local_port(s->listener, &port, &err));
	(void)snprintf(s->url, sizeof(s->url), "http://127.0.0.1:%u/a?secret=7", port);
}

static void server_start(struct server *s)
{
	assert_int_equal(0, pthread_create(&s->thread, NULL, serve, s));
}

static void server_down(struct server *s)
{
	assert_int_equal(0, pthread_join(s->thread, NULL));
	close(s->listener);
}

static struct fm_http_request request_to(const char *url)
{
	return (struct fm_http_request){ .method = "GET", .url = url, .deadline_ms = fm_now_ms() + WAIT_MS, .cancel_fd = -1 };
}

static void assert_nothing_secret(void)
{
	assert_null(strstr(err.message, "secret"));
}

static void test_answer(void **state)
{
	_fm_http_response_ struct fm_http_response r = { 0 };
	struct server s;

	setenv("http_proxy", "http://127.0.0.1:1", 1); /* not used */
	server_up(&s, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
	server_start(&s);
	struct fm_http_request q = request_to(s.url);
	assert_ok(fm_http_call(&q, &r, &err));
	server_down(&s);
	unsetenv("http_proxy");
	assert_int_equal(r.status, 200);
	assert_int_equal(r.body_len, 5);
	assert_string_equal(r.body, "hello");
	assert_ok(fm_http_expect_ok(&q, &r, &err));
	assert_non_null(strstr(s.request, "GET /a?secret=7 HTTP/1.1\r\n"));
	assert_null(strstr(s.request, "Content-Type"));
	assert_null(strstr(s.request, "Accept-Encoding"));
}

static void test_body_and_headers(void **state)
{
	const char *headers[] = { "Authorization: Bearer abc", "X-Two: 2", NULL };
	_fm_http_response_ struct fm_http_response r = { 0 };
	_fm_free_ char *large = calloc(1, 5001);
	struct server s;

	memset(large, 'x', 5000);
	server_up(&s, "HTTP/1.1 204 No Content\r\n\r\n");
	server_start(&s);
	struct fm_http_request q = request_to(s.url);
	q.method = "PATCH";
	q.headers = headers;
	q.body = large;
	q.body_len = 5000;
	assert_ok(fm_http_call(&q, &r, &err));
	server_down(&s);
	assert_int_equal(r.status, 204);
	assert_string_equal(r.body, "");
	assert_true(fm_str_startswith(s.request, "PATCH /a?secret=7 HTTP/1.1\r\n"));
	assert_non_null(strstr(s.request, "Authorization: Bearer abc\r\n"));
	assert_non_null(strstr(s.request, "X-Two: 2\r\n"));
	assert_non_null(strstr(s.request, "Content-Type: application/json\r\n"));
	assert_null(strstr(s.request, "Expect"));
	assert_string_equal(strstr(s.request, "\r\n\r\n") + 4, large);
}

static void test_unix_socket(void **state)
{
	_fm_http_response_ struct fm_http_response r = { 0 };
	char dir[] = "/tmp/fm-http-XXXXXX";
	struct server s;

	assert_non_null(mkdtemp(dir));
	_fm_free_ char *path = fm_xasprintf("%s/socket", dir);
	server_up(&s, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
	close(s.listener);
	assert_ok(fm_unix_listen(path, SOCK_STREAM, 0600, &s.listener, &err));
	server_start(&s);
	struct fm_http_request q = request_to("http://balancer/v1");
	q.unix_socket = path;
	q.method = "POST";
	q.body = "";
	q.content_type = "text/plain";
	assert_ok(fm_http_call(&q, &r, &err));
	server_down(&s);
	assert_string_equal(r.body, "ok");
	assert_non_null(strstr(s.request, "POST /v1 HTTP/1.1\r\nHost: balancer\r\n"));
	assert_non_null(strstr(s.request, "Content-Type: text/plain\r\n"));
	assert_non_null(strstr(s.request, "Content-Length: 0\r\n"));
	assert_ok(fm_remove_tree(dir, &err));
	assert_code(FM_E_UNAVAILABLE, fm_http_call(&q, &r, &err));
}

/* What a status means, in expect_ok's words */
static void test_statuses(void **state)
{
	static const struct {
		const char *reply;
		unsigned status;
		enum fm_code code;
	} all[] = {
		{ "HTTP/1.1 400 Bad\r\nContent-Length: 3\r\n\r\nwhy", 400, FM_E_FAILED_PRECONDITION },
		{ "HTTP/1.1 401 No\r\nContent-Length: 3\r\n\r\nwhy", 401, FM_E_UNAUTHENTICATED },
		{ "HTTP/1.1 403 No\r\nContent-Length: 3\r\n\r\nwhy", 403, FM_E_PERMISSION_DENIED },
		{ "HTTP/1.1 404 No\r\nContent-Length: 3\r\n\r\nwhy", 404, FM_E_NOT_FOUND },
		{ "HTTP/1.1 409 No\r\nContent-Length: 3\r\n\r\nwhy", 409, FM_E_ABORTED },
		{ "HTTP/1.1 429 No\r\nContent-Length: 3\r\n\r\nwhy", 429, FM_E_RESOURCE_EXHAUSTED },
		{ "HTTP/1.1 501 No\r\nContent-Length: 3\r\n\r\nwhy", 501, FM_E_UNIMPLEMENTED },
		{ "HTTP/1.1 503 No\r\nContent-Length: 3\r\n\r\nwhy", 503, FM_E_UNAVAILABLE },
		/* leads elsewhere, and is not followed: the server takes one connection only */
		{ "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 3\r\n\r\nwhy", 302, FM_E_FAILED_PRECONDITION },
	};

	for (size_t i = 0; i < FM_ARRAY_SIZE(all); i++) {
		_fm_http_response_ struct fm_http_response r = { 0 };
		struct server s;
		char number[16];

		server_up(&s, all[i].reply);
		server_start(&s);
		struct fm_http_request q = request_to(s.url);
		assert_ok(fm_http_call(&q, &r, &err));
		server_down(&s);
		assert_int_equal(r.status, all[i].status);
		assert_code(all[i].code, fm_http_expect_ok(&q, &r, &err));
		(void)snprintf(number, sizeof(number), "%u: why", all[i].status);
		assert_non_null(strstr(err.message, number));
		assert_nothing_secret();
	}
}

static void assert_fails(struct server *s, enum fm_code code, int timeout_ms, size_t max_response_bytes, int cancel_fd)
{
	struct fm_http_response r = { .status = 7 };
	uint64_t began = fm_now_ms();

	server_start(s);
	struct fm_http_request q = request_to(s->url);
	q.deadline_ms = began + (uint64_t)timeout_ms;
	q.max_response_bytes = max_response_bytes;
	q.cancel_fd = cancel_fd;
	assert_code(code, fm_http_call(&q, &r, &err));
	assert_true(r.status == 7 && !r.body);
	assert_nothing_secret();
	if (code == FM_E_DEADLINE_EXCEEDED)
		assert_in_range(fm_now_ms() - began, (unsigned)timeout_ms, timeout_ms + SLACK_MS);
	else
		assert_true(fm_now_ms() - began < WAIT_MS / 2);
	server_down(s);
}

static void test_too_large(void **state)
{
	struct server s;

	server_up(&s, "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello there");
	assert_fails(&s, FM_E_RESOURCE_EXHAUSTED, WAIT_MS, 10, -1);
	/* without an end, in the body and before it */
	server_up(&s, "HTTP/1.1 200 OK\r\n\r\n");
	s.drip = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
	assert_fails(&s, FM_E_RESOURCE_EXHAUSTED, WAIT_MS, 2000, -1);
	char header[1500];
	memset(header, 'x', sizeof(header));
	memcpy(header, "A: ", 3);
	memcpy(header + sizeof(header) - 3, "\r\n", 3);
	server_up(&s, "HTTP/1.1 200 OK\r\n");
	s.drip = header;
	assert_fails(&s, FM_E_RESOURCE_EXHAUSTED, WAIT_MS, 0, -1);
}

static void test_hangs(void **state)
{
	struct server s;

	server_up(&s, HANG);
	assert_fails(&s, FM_E_DEADLINE_EXCEEDED, SHORT_MS, 0, -1);
	assert_true(s.saw_end);
	server_up(&s, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
	s.drip = "x"; /* never silent */
	assert_fails(&s, FM_E_DEADLINE_EXCEEDED, SHORT_MS, 0, -1);
}

static void test_cancel(void **state)
{
	_fm_close_ int cancel = eventfd(0, EFD_CLOEXEC);
	struct server s;

	server_up(&s, HANG);
	s.cancel_fd = cancel;
	assert_fails(&s, FM_E_CANCELLED, WAIT_MS, 0, cancel);
}

static void test_broken(void **state)
{
	struct fm_http_response r = { 0 };
	struct server s;

	server_up(&s, HANG_UP);
	assert_fails(&s, FM_E_UNAVAILABLE, WAIT_MS, 0, -1);
	server_up(&s, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
	assert_fails(&s, FM_E_UNAVAILABLE, WAIT_MS, 0, -1);
	server_up(&s, "SSH-2.0-OpenSSH_9.2\r\n");
	assert_fails(&s, FM_E_DATA_LOSS, WAIT_MS, 0, -1);
	server_up(&s, NULL);
	close(s.listener); /* nobody there */
	struct fm_http_request q = request_to(s.url);
	assert_code(FM_E_UNAVAILABLE, fm_http_call(&q, &r, &err));
	assert_nothing_secret();
}

static void test_requests_that_are_none(void **state)
{
	static const char *const urls[] = { "",
		                            "127.0.0.1",
		                            "ftp://a/",
		                            "file:///etc/passwd",
		                            "http://",
		                            "http:///x",
		                            "http://a b/",
		                            "http://a/\n",
		                            "HTTP://a/",
		                            "http://me:secret@a/",
		                            "https://secret@a",
		                            "gopher://a/",
		                            "http://\xc3\xa4/" };
	const char *bad_headers[][2] = { { "A", NULL }, { ": x", NULL }, { "A: b\r\nC: d", NULL }, { "", NULL } };
	static const char *const methods[] = { "", "get", "GET / HTTP/1.1\r\nX:", "ABCDEFGHIJKLMNOPQ" };
	const char *many[FM_MAX_HTTP_HEADERS + 2] = { NULL };
	struct fm_http_request good = request_to("http://127.0.0.1:1/"), q;
	_fm_free_ char *long_url = fm_xasprintf("http://a/%0*d", (int)FM_MAX_HTTP_URL_BYTES, 1);
	struct fm_http_response r;

	for (size_t i = 0; i < FM_ARRAY_SIZE(urls); i++) {
		q = request_to(urls[i]);
		assert_code(FM_E_INVALID_ARGUMENT, fm_http_call(&q, &r, &err));
		assert_code(FM_E_INVALID_ARGUMENT, fm_http_url_check(urls[i], &err));
		assert_nothing_secret();
	}
	assert_code(FM_E_INVALID_ARGUMENT, fm_http_url_check(NULL, &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_http_url_check(long_url, &err));
	assert_ok(fm_http_url_check("https://[::1]:8443/a?b=c@d", &err));
	for (size_t i = 0; i < FM_ARRAY_SIZE(methods); i++) {
		q = good;
		q.method = methods[i];
		assert_code(FM_E_INVALID_ARGUMENT, fm_http_call(&q, &r, &err));
	}
	for (size_t i = 0; i < FM_ARRAY_SIZE(bad_headers); i++) {
		q = good;
		q.headers = bad_headers[i];
		assert_code(FM_E_INVALID_ARGUMENT, fm_http_call(&q, &r, &err));
	}
	for (size_t i = 0; i <= FM_MAX_HTTP_HEADERS; i++)
		many[i] = "A: b";
	q = good;
	q.headers = many;
	assert_code(FM_E_INVALID_ARGUMENT, fm_http_call(&q, &r, &err));
	q = good;
	q.body = "x";
	q.body_len = FM_MAX_HTTP_BODY_BYTES + 1;
	assert_code(FM_E_INVALID_ARGUMENT, fm_http_call(&q, &r, &err));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_answer),   cmocka_unit_test(test_body_and_headers), cmocka_unit_test(test_unix_socket),
		cmocka_unit_test(test_statuses), cmocka_unit_test(test_too_large),        cmocka_unit_test(test_hangs),
		cmocka_unit_test(test_cancel),   cmocka_unit_test(test_broken),           cmocka_unit_test(test_requests_that_are_none),
	};

	return cmocka_run_group_tests_name("http", tests, NULL, NULL);
}
