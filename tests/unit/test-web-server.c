/* SPDX-License-Identifier: MIT */
/* test-web-server.c - the HTTP server as a client sees it, over real sockets: what it answers, what it refuses, and how much one client can take. */
#include "check.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "basic/clock.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "web/server.h"

#define PATIENCE_MS 20000

struct site {
	struct fm_web_server *server;
	atomic_uint made;
	atomic_bool ready;
	unsigned hosts; /* so many series */
};

static void metrics(void *userdata, struct fm_exposition *x)
{
	struct site *s = userdata;
	char name[32];
	fm_exposition_one_u64(x, FM_METRIC_PAUSED, atomic_fetch_add(&s->made, 1) + 1);
	fm_exposition_begin(x, FM_METRIC_HOST_UP);
	for (unsigned i = 0; i < s->hosts; i++) {
		(void)snprintf(name, sizeof(name), "host-%u", i);
		fm_exposition_add_u64(x, 1, (const char *const[]){ name });
	}
}

static int ready(void *userdata, struct fm_error *e)
{
	struct site *s = userdata;
	return s->ready ? 0 : fm_error_set(e, FM_E_UNAVAILABLE, "not yet");
}

static void site_up(struct site *s, const char *address)
{
	const struct fm_web_server_opts o = { .address = address, .metrics = metrics, .ready = ready, .userdata = s };
	assert_ok(fm_web_server_new(&o, &s->server, &err));
	assert_true(fm_web_server_port(s->server) > 0);
}

static int setup(void **state)
{
	struct site *s = calloc(1, sizeof(*s));
	*state = s;
	site_up(s, ":0");
	return 0;
}

static int teardown(void **state)
{
	struct site *s = *state;
	fm_web_server_free(s->server);
	free(s);
	return 0;
}

static int dial(const struct site *s)
{
	_fm_free_ char *address = fm_xasprintf("127.0.0.1:%u", fm_web_server_port(s->server));
	int fd = -1;
	assert_ok(fm_tcp_connect(address, PATIENCE_MS, &fd, &err));
	return fd;
}

static void send_all(int fd, const char *text)
{
	size_t n = strlen(text);
	while (n > 0) {
		ssize_t r = send(fd, text, n, MSG_NOSIGNAL);
		if (r <= 0)
			return; /* it does not listen any more: the answer says why */
		text += r;
		n -= (size_t)r;
	}
}

/* All that comes until the other side closes. */
static char *read_all(int fd)
{
	struct fm_buf b = FM_BUF_INIT;
	char piece[4096];
	for (;;) {
		assert_int_equal(fm_wait_fd(fd, POLLIN, PATIENCE_MS, &err), 1);
		ssize_t n = recv(fd, piece, sizeof(piece), 0);
		if (n <= 0)
			break;
		fm_buf_add(&b, piece, (size_t)n);
	}
	return b.data ? b.data : fm_xstrdup("");
}

static char *ask(const struct site *s, const char *request)
{
	_fm_close_ int fd = dial(s);
	send_all(fd, request);
	return read_all(fd);
}

static char *get(const struct site *s, const char *method, const char *path)
{
	_fm_free_ char *request = fm_xasprintf("%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", method, path);
	return ask(s, request);
}

static void assert_answer(const char *answer, const char *status, const char *part)
{
	_fm_free_ char *line = fm_xasprintf("HTTP/1.1 %s", status);
	if (!fm_str_startswith(answer, line))
		fail_msg("'%s' instead of '%s'", answer, line);
	if (!strstr(answer, part))
		fail_msg("'%s' is not in '%s'", part, answer);
}

static void test_paths(void **state)
{
	struct site *s = *state;
	_fm_free_ char *a = get(s, "GET", "/metrics"), *b = get(s, "GET", "/healthz"), *c = get(s, "GET", "/readyz");
	assert_answer(a, "200", "\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n");
	assert_answer(a, "200", "\nfleximigrate_migrations_paused 1\n");
	assert_answer(b, "200", "\r\n\r\nok\n");
	assert_answer(c, "503", "\r\n\r\nnot yet\n");
	s->ready = true;
	_fm_free_ char *d = get(s, "GET", "/readyz"), *e = get(s, "GET", "/metrics?name[]=x"), *f = get(s, "GET", "/Metrics"),
	               *g = get(s, "GET", "/metrics/"), *h = get(s, "GET", "/"), *i = get(s, "GET", "/../etc/passwd");
	assert_answer(d, "200", "\r\n\r\nready\n");
	assert_answer(e, "200", "fleximigrate_migrations_paused");
	assert_answer(f, "404", "/metrics, /healthz and /readyz");
	assert_answer(g, "404", "");
	assert_answer(h, "404", "");
	assert_answer(i, "404", "");
}

static void test_methods(void **state)
{
	struct site *s = *state;
	_fm_free_ char *head = get(s, "HEAD", "/metrics"), *post = get(s, "POST", "/metrics"), *put = get(s, "DELETE", "/metrics");
	assert_answer(head, "200", "\r\nContent-Length: ");
	assert_null(strstr(head, "fleximigrate_migrations_paused"));
	assert_answer(post, "405", "\r\nAllow: GET, HEAD\r\n");
	assert_answer(put, "405", "only GET and HEAD");
	_fm_free_ char *body = ask(s, "GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody");
	assert_string_equal(body, ""); /* nothing that is served reads one */
}

static void test_requests_that_are_too_long_or_none(void **state)
{
	struct site *s = *state;
	char *big = malloc(3 * FM_MAX_WEB_REQUEST_BYTES);
	assert_non_null(big);
	memset(big, 'a', 3 * FM_MAX_WEB_REQUEST_BYTES);
	memcpy(big, "GET /", 5);
	strcpy(big + 2 * FM_MAX_WEB_REQUEST_BYTES, " HTTP/1.1\r\nHost: x\r\n\r\n");
	_fm_free_ char *url = ask(s, big), *noise = ask(s, "\x16\x03\x01\r\n\r\n\r\n\r\n");
	assert_true(!url[0] || fm_str_startswith(url, "HTTP/1.1 4"));
	assert_null(strstr(noise, " 200 "));
	free(big);
	_fm_free_ char *after = get(s, "GET", "/healthz");
	assert_answer(after, "200", "ok");
}

/* Who asks again at once gets the text that was made already. */
static void test_a_text_is_made_at_most_so_often(void **state)
{
	struct site *s = *state;
	uint64_t began = fm_now_ms();
	unsigned asked = 0;
	for (; fm_now_ms() < began + 3 * FM_WEB_FRESH_MS; asked++)
		free(get(s, "GET", "/metrics"));
	unsigned made = atomic_load(&s->made);
	assert_true(made >= 2);
	assert_true(made <= (fm_now_ms() - began) / FM_WEB_FRESH_MS + 1);
	assert_true(made < asked);
}

static void test_connections_are_limited(void **state)
{
	struct site *s = *state;
	int fds[FM_MAX_WEB_CONNECTIONS + 4];
	for (size_t i = 0; i < FM_ARRAY_SIZE(fds); i++) {
		fds[i] = dial(s);
		send_all(fds[i], "GET /healthz HTTP/1.1\r\n");
	}
	/* Those that are one too many are closed, or wait in the backlog; the others are answered when their request is whole. */
	unsigned answered = 0;
	for (size_t i = 0; i < FM_MAX_WEB_CONNECTIONS; i++) {
		char answer[16] = "";
		send_all(fds[i], "Host: x\r\n\r\n");
		assert_int_equal(fm_wait_fd(fds[i], POLLIN, PATIENCE_MS, &err), 1);
		answered += recv(fds[i], answer, sizeof(answer) - 1, 0) > 12 && fm_str_startswith(answer, "HTTP/1.1 200");
	}
	assert_int_equal(answered, FM_MAX_WEB_CONNECTIONS);
	for (size_t i = FM_MAX_WEB_CONNECTIONS; i < FM_ARRAY_SIZE(fds); i++) {
		char answer[16] = "";
		send_all(fds[i], "Host: x\r\n\r\n");
		if (fm_wait_fd(fds[i], POLLIN, 300, &err) == 1)
			assert_true(recv(fds[i], answer, sizeof(answer), 0) <= 0);
	}
	for (size_t i = 0; i < FM_ARRAY_SIZE(fds); i++)
		(void)close(fds[i]);
}

/* Readers that never read keep a few texts, not as many as there are connections. */
static void test_slow_readers_hold_few_texts(void **state)
{
	struct site *s = *state;
	int fds[FM_MAX_WEB_RESPONSES + 3];
	s->hosts = 200000; /* more than sockets have room for */
	for (size_t i = 0; i < FM_ARRAY_SIZE(fds); i++) {
		fds[i] = dial(s);
		send_all(fds[i], "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
		assert_int_equal(fm_wait_fd(fds[i], POLLIN, PATIENCE_MS, &err), 1);
		uint64_t until = fm_now_ms() + FM_WEB_FRESH_MS + 1;
		while (fm_now_ms() < until) /* until a new text is due */
			(void)poll(NULL, 0, 1);
	}
	assert_int_equal(atomic_load(&s->made), FM_MAX_WEB_RESPONSES);
	_fm_free_ char *late = get(s, "GET", "/metrics"), *health = get(s, "GET", "/healthz");
	assert_answer(late, "503", "ask again");
	assert_answer(health, "200", "ok");
	for (size_t i = 0; i < FM_ARRAY_SIZE(fds); i++)
		(void)close(fds[i]);
	/* and when they are gone all is as before */
	s->hosts = 1;
	for (uint64_t until = fm_now_ms() + PATIENCE_MS;;) {
		_fm_free_ char *again = get(s, "GET", "/metrics");
		if (fm_str_startswith(again, "HTTP/1.1 200"))
			return;
		assert_true(fm_now_ms() < until);
	}
}

static void test_more_than_may_be_told(void **state)
{
	struct site *s = *state;
	s->hosts = FM_MAX_WEB_RESPONSE_BYTES / 30;
	_fm_free_ char *answer = get(s, "GET", "/metrics");
	assert_answer(answer, "500", "there is more to tell than");
}

static bool is_local(const char *address)
{
	struct site s = { 0 };
	site_up(&s, address);
	bool yes = fm_web_server_is_local(s.server);
	fm_web_server_free(s.server);
	return yes;
}

static void test_addresses(void **state)
{
	struct site *s = *state, other = { 0 };
	assert_true(fm_web_server_is_local(s->server));
	assert_true(is_local("127.9.9.9:0"));
	assert_true(is_local("[::1]:0"));
	assert_false(is_local("0.0.0.0:0"));
	assert_false(is_local("*:0"));
	assert_false(is_local("[::]:0"));
	_fm_free_ char *taken = fm_xasprintf("127.0.0.1:%u", fm_web_server_port(s->server));
	const struct fm_web_server_opts o = { .address = taken, .metrics = metrics, .ready = ready, .userdata = &other };
	assert_code(FM_E_ALREADY_EXISTS, fm_web_server_new(&o, &other.server, &err));
	assert_non_null(strstr(err.message, "HTTP for monitoring"));
	const struct fm_web_server_opts bad = { .address = "9401", .metrics = metrics, .ready = ready, .userdata = &other };
	assert_code(FM_E_INVALID_ARGUMENT, fm_web_server_new(&bad, &other.server, &err));
	assert_null(other.server);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_paths, setup, teardown),
		cmocka_unit_test_setup_teardown(test_methods, setup, teardown),
		cmocka_unit_test_setup_teardown(test_requests_that_are_too_long_or_none, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_text_is_made_at_most_so_often, setup, teardown),
		cmocka_unit_test_setup_teardown(test_connections_are_limited, setup, teardown),
		cmocka_unit_test_setup_teardown(test_slow_readers_hold_few_texts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_more_than_may_be_told, setup, teardown),
		cmocka_unit_test_setup_teardown(test_addresses, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
