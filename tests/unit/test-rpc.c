/* SPDX-License-Identifier: MIT */
/*
 * test-rpc.c - rpc/ over real sockets: calls, streams, errors, deadlines, cancellation, limits, restarts. TLS is in
 * test-rpc-tls.c.
 *
 * The same program is the server of tests/integration/test_rpc_python.py: with FLEXIMIGRATE_TEST_RPC_SERVE=FOLDER it makes certificates
 * in FOLDER, listens on FOLDER/rpc.sock and on a TCP port, prints "ready PORT" and serves until its stdin ends. With
 * FLEXIMIGRATE_TEST_RPC_NOBODY=SOCKET it becomes the user nobody, makes one call and prints what came of it.
 */
#include "rpc-lab.h"

/* ---- unary */

static void test_unary(void **state)
{
	struct place *p = *state;
	struct fm_error err = FM_ERROR_INIT;
	FM_PB(Host) *host = NULL;
	char peer[128], expected[128];

	assert_int_equal(get_host(p->client, "alpha", 50000, -1, &host, &err), 0);
	assert_string_equal(host->name, "alpha");
	/* The deadline reached the server. gRPC sends what is left of it with three digits, rounded up: 50,000 ms and a bit become 50,100. */
	assert_in_range(host->last_seen_unix_ms, 1, 50600);
	free_host(host);
	(void)snprintf(expected, sizeof(expected), "unix:uid=%u,pid=%d", geteuid(), getpid());
	assert_int_equal(get_peer(p->client, peer, sizeof(peer), &err), 0);
	assert_string_equal(peer, expected);
}

static void test_errors_travel(void **state)
{
	struct place *p = *state;
	struct fm_error err = FM_ERROR_INIT;

	assert_int_equal(get_host(p->client, "missing", PATIENCE_MS, -1, NULL, &err), -1);
	assert_int_equal(err.code, FM_E_NOT_FOUND);
	assert_string_equal(err.message, "there is no host missing");
	assert_string_equal(err.hint, "see `fleximigrate hosts` \xe2\x80\x94 95% of them, %41 too");
	assert_string_equal(err.phase, "preparation");

	err = FM_ERROR_INIT;
	assert_int_equal(get_host(p->client, "dirty", PATIENCE_MS, -1, NULL, &err), -1);
	assert_int_equal(err.code, FM_E_DATA_LOSS);
	assert_string_equal(err.message, "bad ? byte, cut ??");
	assert_string_equal(err.hint, "");
	assert_string_equal(err.phase, "");

	err = FM_ERROR_INIT;
	assert_int_equal(get_host(p->client, "silent-failure", PATIENCE_MS, -1, NULL, &err), -1);
	assert_int_equal(err.code, FM_E_INTERNAL);
	assert_non_null(strstr(err.message, "GetHost"));
	err = FM_ERROR_INIT;
	assert_int_equal(get_host(p->client, "no-response", PATIENCE_MS, -1, NULL, &err), -1);
	assert_int_equal(err.code, FM_E_INTERNAL);
	assert_int_equal(get_host(p->client, "missing", PATIENCE_MS, -1, NULL, NULL), -1); /* err is optional */
}

static void test_not_utf8_goes_out_repaired(void **state)
{
	struct place *p = *state;
	struct fm_error err = FM_ERROR_INIT;
	FM_PB(Host) *host = NULL;

	assert_int_equal(get_host(p->client, "not-utf8", PATIENCE_MS, -1, &host, &err), 0);
	assert_string_equal(host->name, "caf?");
	free_host(host);
}

static void test_size_limits(void **state)
{
	struct place *p = *state;
	struct fm_error err = FM_ERROR_INIT;
	_fm_free_ char *long_name = repeat('n', FM_MAX_RPC_MESSAGE_BYTES);
	FM_PB(Host) *host = NULL;

	assert_int_equal(get_host(p->client, "big", PATIENCE_MS, -1, &host, &err), 0);
	assert_int_equal(strlen(host->name), 3u << 20);
	free_host(host);
	assert_int_equal(get_host(p->client, "too-big", PATIENCE_MS, -1, NULL, &err), -1);
	assert_int_equal(err.code, FM_E_RESOURCE_EXHAUSTED);
	err = FM_ERROR_INIT;
	assert_int_equal(get_host(p->client, long_name, PATIENCE_MS, -1, NULL, &err), -1);
	assert_int_equal(err.code, FM_E_RESOURCE_EXHAUSTED);
	assert_int_equal(get_host(p->client, "still alive", PATIENCE_MS, -1, NULL, &err), 0);
}

static void test_unknown_method(void **state)
{
	struct place *p = *state;
	struct fm_rpc_method unknown = *MANAGER(FM_MANAGER_GET_HOST);
	FM_PB(NameRequest) request = FLEXIMIGRATE__V1__NAME_REQUEST__INIT;
	FM_PB(Empty) empty = FLEXIMIGRATE__V1__EMPTY__INIT;
	struct fm_error err = FM_ERROR_INIT;
	ProtobufCMessage *response = NULL;

	unknown.path = "/fleximigrate.v1.Manager/Nothing";
	assert_int_equal(fm_rpc_client_call(p->client, &unknown, &request.base, PATIENCE_MS, -1, &response, &err), -1);
	assert_int_equal(err.code, FM_E_UNIMPLEMENTED);
	assert_true(*err.hint);
	err = FM_ERROR_INIT; /* in the contract, but this server has no handler */
	assert_int_equal(fm_rpc_client_call(p->client, MANAGER(FM_MANAGER_LIST_HOSTS), &empty.base, PATIENCE_MS, -1, &response, &err), -1);
	assert_int_equal(err.code, FM_E_UNIMPLEMENTED);
	err = FM_ERROR_INIT; /* the wrong message for the method never leaves us */
	assert_int_equal(fm_rpc_client_call(p->client, MANAGER(FM_MANAGER_GET_HOST), &empty.base, PATIENCE_MS, -1, &response, &err), -1);
	assert_int_equal(err.code, FM_E_INTERNAL);
	assert_null(response);
}

/* Bytes that are no NameRequest, made by lying to the client about the method's type. */
static void test_malformed_request(void **state)
{
	struct place *p = *state;
	FM_PB(ReportResponse) number = FLEXIMIGRATE__V1__REPORT_RESPONSE__INIT; /* field 1: a number where a string is due */
	FM_PB(InspectResponse) bytes = FLEXIMIGRATE__V1__INSPECT_RESPONSE__INIT;
	struct fm_rpc_method liar = *MANAGER(FM_MANAGER_GET_HOST);
	struct fm_error err = FM_ERROR_INIT;
	ProtobufCMessage *response = NULL;
	uint8_t not_utf8[] = { 'a', 0xc0, 0x80 };

	number.interval_ms = 7;
	liar.request = number.base.descriptor;
	assert_int_equal(fm_rpc_client_call(p->client, &liar, &number.base, PATIENCE_MS, -1, &response, &err), -1);
	assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
	assert_non_null(strstr(err.message, "NameRequest"));

	liar = *MANAGER(FM_MANAGER_WATCH_MIGRATION); /* field 2 is a number there, bytes here */
	bytes.config = (ProtobufCBinaryData){ .len = sizeof(not_utf8), .data = not_utf8 };
	liar.request = bytes.base.descriptor;
	err = FM_ERROR_INIT;
	assert_int_equal(fm_rpc_client_stream(p->client, &liar, &bytes.base, PATIENCE_MS, -1, count_events, NULL, &err), -1);
	assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
	/* and the answer of a server that speaks another language */
	liar = *MANAGER(FM_MANAGER_GET_HOST);
	liar.response = &fleximigrate__v1__report_response__descriptor;
	err = FM_ERROR_INIT;
	{
		FM_PB(NameRequest) request = FLEXIMIGRATE__V1__NAME_REQUEST__INIT;
		char name[] = "x";

		request.name = name;
		assert_int_equal(fm_rpc_client_call(p->client, &liar, &request.base, PATIENCE_MS, -1, &response, &err), -1);
	}
	assert_int_equal(err.code, FM_E_INTERNAL);
	assert_null(response);
}

/* ---- deadlines, cancellation */

static void test_deadline(void **state)
{
	struct place *p = *state;
	struct fm_error err = FM_ERROR_INIT;

	assert_int_equal(get_host(p->client, "first connect", PATIENCE_MS, -1, NULL, &err), 0);
	assert_int_equal(get_host(p->client, "slow", 200, -1, NULL, &err), -1);
	assert_int_equal(err.code, FM_E_DEADLINE_EXCEEDED);
	assert_non_null(strstr(err.message, p->target));
	assert_true(*err.hint);
	wait_cancellations(p, 1); /* the handler learned it */
}

struct canceller {
	struct place *place;
	int fd;
};

static void *cancel_when_entered(void *arg)
{
	struct canceller *c = arg;

	wait_entered(c->place);
	(void)eventfd_write(c->fd, 1);
	return NULL;
}

static void cancel_one(struct place *p, bool stream)
{
	struct canceller c = { .place = p, .fd = eventfd(0, EFD_CLOEXEC) };
	struct fm_error err = FM_ERROR_INIT;
	struct counter n = { 0 };
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, cancel_when_entered, &c), 0);
	if (stream)
		assert_int_equal(watch(p->client, "forever", PATIENCE_MS, c.fd, count_events, &n, &err), -1);
	else
		assert_int_equal(get_host(p->client, "slow", PATIENCE_MS, c.fd, NULL, &err), -1);
	assert_int_equal(err.code, FM_E_CANCELLED);
	assert_int_equal(pthread_join(thread, NULL), 0);
	/* readable from the start: nothing is sent */
	err = FM_ERROR_INIT;
	assert_int_equal(get_host(p->client, "gate", PATIENCE_MS, c.fd, NULL, &err), -1);
	assert_int_equal(err.code, FM_E_CANCELLED);
	(void)close(c.fd);
}

static void test_cancel(void **state)
{
	struct place *p = *state;

	cancel_one(p, false);
	wait_cancellations(p, 1);
	cancel_one(p, true);
	wait_cancellations(p, 2);
	assert_int_equal(p->gate.inside, 0);
}

/* ---- streams */

static void test_stream(void **state)
{
	struct place *p = *state;
	struct fm_error err = FM_ERROR_INIT;
	struct counter n = { 0 };

	assert_int_equal(watch(p->client, "count:1000", PATIENCE_MS, -1, count_events, &n, &err), 0);
	assert_int_equal(n.seen, 1000);
	n = (struct counter){ 0 };
	assert_int_equal(watch(p->client, "count:0", PATIENCE_MS, -1, count_events, &n, &err), 0);
	assert_int_equal(n.seen, 0);
	/* an error after messages */
	assert_int_equal(watch(p->client, "count:3", PATIENCE_MS, -1, count_events, &n, &err), -1);
	assert_int_equal(n.seen, 3);
	assert_int_equal(err.code, FM_E_ABORTED);
	/* stopped by the reader: success, and the sender, held back by flow control, learns it */
	n = (struct counter){ .stop_at = 10 };
	err = FM_ERROR_INIT;
	assert_int_equal(watch(p->client, "flood", PATIENCE_MS, -1, count_events, &n, &err), 0);
	assert_int_equal(n.seen, 10);
	wait_cancellations(p, 1);
	assert_int_equal(watch(p->client, "count:x", PATIENCE_MS, -1, count_events, &n, &err), -1);
	assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
}

struct background {
	struct place *place;
	pthread_t thread;
	const char *what;
	bool stream;
	int cancel_fd, result;
	struct counter n;
	struct fm_error err;
};

static void *background_main(void *arg)
{
	struct background *b = arg;

	b->result = b->stream ? watch(b->place->client, b->what, PATIENCE_MS, b->cancel_fd, count_events, &b->n, &b->err)
	                      : get_host(b->place->client, b->what, PATIENCE_MS, b->cancel_fd, NULL, &b->err);
	return NULL;
}

static void background_start(struct background *b, struct place *p, const char *what, bool stream, int cancel_fd)
{
	*b = (struct background){ .place = p, .what = what, .stream = stream, .cancel_fd = cancel_fd };
	assert_int_equal(pthread_create(&b->thread, NULL, background_main, b), 0);
}

/* 4 workers: 2 streams, and the third is turned away; what is left serves unary calls. */
static void test_streams_cannot_starve(void **state)
{
	struct place *p = *state;
	_fm_close_ int cancel_fd = eventfd(0, EFD_CLOEXEC);
	struct fm_error err = FM_ERROR_INIT;
	struct background streams[2];
	struct counter n = { 0 };

	for (size_t i = 0; i < 2; i++)
		background_start(&streams[i], p, "forever", true, cancel_fd);
	wait_entered(p);
	wait_entered(p);
	assert_int_equal(watch(p->client, "count:1", PATIENCE_MS, -1, count_events, &n, &err), -1);
	assert_int_equal(err.code, FM_E_RESOURCE_EXHAUSTED);
	assert_true(*err.hint);
	err = FM_ERROR_INIT;
	assert_int_equal(get_host(p->client, "alpha", PATIENCE_MS, -1, NULL, &err), 0);
	(void)eventfd_write(cancel_fd, 1);
	for (size_t i = 0; i < 2; i++) {
		assert_int_equal(pthread_join(streams[i].thread, NULL), 0);
		assert_int_equal(streams[i].result, -1);
		assert_int_equal(streams[i].err.code, FM_E_CANCELLED);
	}
	wait_cancellations(p, 2);
	for (int i = 0; i < 100; i++) { /* the places are free again, as soon as the handlers have returned */
		err = FM_ERROR_INIT;
		n = (struct counter){ 0 };
		if (watch(p->client, "count:1", PATIENCE_MS, -1, count_events, &n, &err) == 0)
			return;
		assert_int_equal(err.code, FM_E_RESOURCE_EXHAUSTED);
		fm_pause_ms(10);
	}
	fail_msg("streams are still refused");
}

/* More calls than workers and call objects together: all are answered in the end; deadlines work meanwhile. */
static void test_queueing(void **state)
{
	enum { N = 40 };
	struct place *p = *state;
	struct fm_error err = FM_ERROR_INIT;
	struct background calls[N];

	for (size_t i = 0; i < N; i++)
		background_start(&calls[i], p, "gate", false, -1);
	for (size_t i = 0; i < 4; i++)
		wait_entered(p);
	assert_int_equal(get_host(p->client, "alpha", 200, -1, NULL, &err), -1);
	assert_int_equal(err.code, FM_E_DEADLINE_EXCEEDED);
	open_gate(p);
	for (size_t i = 0; i < N; i++) {
		assert_int_equal(pthread_join(calls[i].thread, NULL), 0);
		if (calls[i].result < 0)
			fail_msg("call %zu: %s", i, calls[i].err.message);
	}
}

static void *one_client(void *arg)
{
	struct place *p = arg;
	struct fm_rpc_client *client = NULL;
	struct fm_error err = FM_ERROR_INIT;
	long bad = 0;

	if (fm_rpc_client_new(p->target, NULL, &client, &err) < 0)
		return (void *)1000L;
	for (int i = 0; i < 20; i++) {
		struct counter n = { 0 };

		bad += get_host(client, "alpha", PATIENCE_MS, -1, NULL, &err) < 0;
		bad += get_host(client, "missing", PATIENCE_MS, -1, NULL, &err) == 0 || err.code != FM_E_NOT_FOUND;
		if (i % 10 == 0)
			bad += watch(client, "count:50", PATIENCE_MS, -1, count_events, &n, &err) < 0 &&
			       err.code != FM_E_RESOURCE_EXHAUSTED;
	}
	fm_rpc_client_free(client);
	return (void *)bad;
}

static void test_many_clients(void **state)
{
	enum { N = 32 };
	pthread_t threads[N];

	for (size_t i = 0; i < N; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, one_client, *state), 0);
	for (size_t i = 0; i < N; i++) {
		void *bad = NULL;

		assert_int_equal(pthread_join(threads[i], &bad), 0);
		assert_null(bad);
	}
}

/* ---- servers that come and go */

static void test_nobody_there(void **state)
{
	struct place *p = *state;
	struct fm_error err = FM_ERROR_INIT;
	struct fm_rpc_client *client = NULL;
	struct counter n = { 0 };
	char target[160];
	_fm_close_ int fd = -1;

	(void)snprintf(target, sizeof(target), "unix:%s/none.sock", p->dir);
	assert_int_equal(fm_rpc_client_new(target, NULL, &client, &err), 0);
	for (int i = 0; i < 3; i++) {
		err = FM_ERROR_INIT;
		assert_int_equal(get_host(client, "alpha", PATIENCE_MS, -1, NULL, &err), -1);
		assert_int_equal(err.code, FM_E_UNAVAILABLE);
		assert_non_null(strstr(err.message, "manager at "));
		assert_non_null(strstr(err.message, target));
		assert_non_null(strstr(err.message, "No such file"));
		assert_true(*err.hint);
	}
	assert_int_equal(watch(client, "count:1", PATIENCE_MS, -1, count_events, &n, &err), -1);
	assert_int_equal(err.code, FM_E_UNAVAILABLE);
	/* a file that nobody listens on any more */
	assert_int_equal(fm_unix_listen(target + 5, SOCK_STREAM, 0600, &fd, &err), 0);
	(void)close(FM_TAKE_FD(fd));
	err = FM_ERROR_INIT;
	assert_int_equal(get_host(client, "alpha", PATIENCE_MS, -1, NULL, &err), -1);
	assert_int_equal(err.code, FM_E_UNAVAILABLE);
	assert_non_null(strstr(err.message, "refused"));
	/* one that accepts and never says a word: the deadline ends it, with the same verdict */
	assert_int_equal(fm_unix_listen(target + 5, SOCK_STREAM, 0600, &fd, &err), 0);
	err = FM_ERROR_INIT;
	assert_int_equal(get_host(client, "alpha", 300, -1, NULL, &err), -1);
	assert_int_equal(err.code, FM_E_UNAVAILABLE);
	fm_rpc_client_free(client);
}

static void test_restart(void **state)
{
	struct place *p = *state;
	struct fm_error err = FM_ERROR_INIT;

	for (int i = 0; i < 5; i++) {
		if (get_host(p->client, "alpha", PATIENCE_MS, -1, NULL, &err) < 0)
			fail_msg("after restart %d: %s", i, err.message);
		fm_rpc_server_free(FM_TAKE_PTR(p->server), i % 2 ? 1000 : 0);
		assert_false(fm_path_exists(p->socket));
		if (i >= 2) { /* also with a failure in between, which gRPC would keep repeating */
			assert_int_equal(get_host(p->client, "alpha", PATIENCE_MS, -1, NULL, &err), -1);
			assert_int_equal(err.code, FM_E_UNAVAILABLE);
			err = FM_ERROR_INIT;
		}
		start_server_with(p, 0);
	}
}

static void test_server_end_during_stream(void **state)
{
	struct place *p = *state;
	struct background stream;

	background_start(&stream, p, "forever", true, -1);
	wait_entered(p);
	fm_rpc_server_free(FM_TAKE_PTR(p->server), PATIENCE_MS); /* streams are told at once, grace is for the others */
	assert_int_equal(pthread_join(stream.thread, NULL), 0);
	assert_int_equal(stream.result, -1);
	assert_int_equal(stream.err.code, FM_E_UNAVAILABLE);
	assert_non_null(strstr(stream.err.message, "shutting down"));
}

static void *open_gate_when_stopping(void *arg)
{
	struct place *p = arg;

	while (fm_path_exists(p->socket)) /* its removal is the first thing that fm_rpc_server_free does */
		fm_pause_ms(2);
	open_gate(p);
	return NULL;
}

static void test_server_end_with_grace(void **state)
{
	struct place *p = *state;
	struct background call;
	pthread_t opener;

	background_start(&call, p, "gate", false, -1);
	wait_entered(p);
	assert_int_equal(pthread_create(&opener, NULL, open_gate_when_stopping, p), 0);
	fm_rpc_server_free(FM_TAKE_PTR(p->server), PATIENCE_MS);
	assert_int_equal(pthread_join(opener, NULL), 0);
	assert_int_equal(pthread_join(call.thread, NULL), 0);
	if (call.result < 0)
		fail_msg("the running call was not allowed to end: %s", call.err.message);
}

static void test_server_end_without_grace(void **state)
{
	struct place *p = *state;
	struct background calls[2];

	background_start(&calls[0], p, "slow", false, -1);
	background_start(&calls[1], p, "flood", true, -1);
	wait_entered(p);
	fm_rpc_server_free(FM_TAKE_PTR(p->server), 0);
	for (size_t i = 0; i < 2; i++) {
		assert_int_equal(pthread_join(calls[i].thread, NULL), 0);
		assert_int_equal(calls[i].result, -1);
	}
	assert_true(atomic_load(&p->gate.cancellations) >= 1);
}

static void test_bad_servers(void **state)
{
	struct place *p = *state;
	struct fm_rpc_server_opts opts = { .methods = p->methods, .userdata = p };
	struct fm_rpc_server *server = NULL;
	struct fm_error err = FM_ERROR_INIT;

	assert_int_equal(fm_rpc_server_new(&opts, &server, &err), -1); /* no address */
	assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
	opts.unix_path = p->socket; /* somebody answers there */
	err = FM_ERROR_INIT;
	assert_int_equal(fm_rpc_server_new(&opts, &server, &err), -1);
	assert_int_equal(err.code, FM_E_ALREADY_EXISTS);
	assert_true(fm_path_exists(p->socket));
	opts.unix_path = NULL;
	opts.tcp_address = "127.0.0.1:0"; /* no certificates */
	err = FM_ERROR_INIT;
	assert_int_equal(fm_rpc_server_new(&opts, &server, &err), -1);
	assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
	assert_true(*err.hint);
	assert_null(server);
	fm_rpc_server_free(NULL, 0);
}

static void test_bad_targets(void **state)
{
	static const char *const bad[] = { "",           "unix:",     "host",     "host:", "host:0",
		                           "host:70000", "[::1:7400", "[x]:7400", "a b:1", "http://x:1" };
	struct fm_rpc_tls tls = { "/none/ca.pem", "/none/a.pem", "/none/a.key" };
	struct fm_rpc_client *client = NULL;
	_fm_free_ char *long_path = repeat('p', 200);
	_fm_free_ char *too_long = fm_xasprintf("unix:/%s", long_path);
	struct fm_error err = FM_ERROR_INIT;

	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++) {
		err = FM_ERROR_INIT;
		assert_int_equal(fm_rpc_client_new(bad[i], &tls, &client, &err), -1);
		assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
		assert_true(*err.hint);
	}
	err = FM_ERROR_INIT;
	assert_int_equal(fm_rpc_client_new(too_long, NULL, &client, &err), -1);
	assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
	err = FM_ERROR_INIT;
	assert_int_equal(fm_rpc_client_new("127.0.0.1:1", NULL, &client, &err), -1);
	assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
	err = FM_ERROR_INIT;
	assert_int_equal(fm_rpc_client_new("127.0.0.1:1", &tls, &client, &err), -1);
	assert_int_equal(err.code, FM_E_NOT_FOUND);
	assert_non_null(strstr(err.message, "/none/ca.pem"));
	fm_rpc_client_free(NULL);
}

/* A path that needs escaping in a URI. */
static void test_odd_socket_path(void **state)
{
	struct place *p = *state;
	struct fm_rpc_client *client = NULL;
	struct fm_error err = FM_ERROR_INIT;

	fm_rpc_server_free(FM_TAKE_PTR(p->server), 0);
	(void)snprintf(p->socket, sizeof(p->socket), "%s/a b%%41#?.sock", p->dir);
	(void)snprintf(p->target, sizeof(p->target), "unix:%s", p->socket);
	start_server_with(p, 0);
	assert_int_equal(fm_rpc_client_new(p->target, NULL, &client, &err), 0);
	if (get_host(client, "alpha", PATIENCE_MS, -1, NULL, &err) < 0)
		fail_msg("%s", err.message);
	fm_rpc_client_free(client);
}

static int call_as_nobody(const char *socket)
{
	struct fm_rpc_client *client = NULL;
	struct fm_error err = FM_ERROR_INIT;
	_fm_free_ char *target = fm_xasprintf("unix:%s", socket);

	if (setgid(65534) < 0 || setuid(65534) < 0)
		return 1;
	if (fm_rpc_client_new(target, NULL, &client, &err) < 0)
		return 1;
	(void)get_host(client, "alpha", PATIENCE_MS, -1, NULL, &err);
	printf("%s: %s\n", fm_code_to_string(err.code), err.message);
	fm_rpc_client_free(client);
	return 0;
}

/* Even when the file's mode is opened up, the peer's credentials decide. */
static void test_other_users_are_refused(void **state)
{
	struct place *p = *state;
	struct stat st;
	char line[512] = "";

	assert_int_equal(stat(p->socket, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	if (geteuid() != 0) {
		print_message("skipped: needs root, to become another user\n");
		skip();
	}
	assert_int_equal(chmod(p->dir, 0711), 0);
	for (int open_mode = 0; open_mode < 2; open_mode++) {
		FILE *f;

		assert_int_equal(chmod(p->socket, open_mode ? 0666 : 0600), 0);
		assert_int_equal(setenv("FLEXIMIGRATE_TEST_RPC_NOBODY", p->socket, 1), 0);
		f = popen("exec /proc/$PPID/exe", "re");
		assert_non_null(f);
		assert_int_equal(unsetenv("FLEXIMIGRATE_TEST_RPC_NOBODY"), 0);
		assert_non_null(fgets(line, sizeof(line), f));
		assert_int_equal(pclose(f), 0);
		if (!fm_str_startswith(line, "UNAVAILABLE: manager at unix:"))
			fail_msg("%s", line);
	}
}

/* ---- without a server */

static void check_table(const struct fm_rpc_method *table, size_t n, const ProtobufCServiceDescriptor *service)
{
	assert_int_equal(service->n_methods, n);
	for (size_t i = 0; i < n; i++) {
		_fm_free_ char *path = fm_xasprintf("/%s/%s", service->name, service->methods[i].name);

		assert_string_equal(table[i].path, path);
		assert_ptr_equal(table[i].request, service->methods[i].input);
		assert_ptr_equal(table[i].response, service->methods[i].output);
	}
	assert_null(table[n].path);
}

static void test_tables_match_the_contract(void **state)
{
	check_table(fm_manager_methods, _FM_MANAGER_METHOD_MAX, &fleximigrate__v1__manager__descriptor);
	check_table(fm_agent_methods, _FM_AGENT_METHOD_MAX, &fleximigrate__v1__agent__descriptor);
}

static void check_text(const char *in, const char *expected)
{
	char out[64];

	fm_wire_text(out, sizeof(out), in, strlen(in));
	assert_string_equal(out, expected);
}

static void test_wire_text(void **state)
{
	static const char *const hints[] = { "", "plain", "95% full", "%41", "100%", "%", "\xc3\xa9\xe2\x80\x94\xf0\x9f\x98\x80", "%%25" };
	char small[6];

	check_text("plain \xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "plain \xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
	check_text("a\nb\x7f\x1b[0m", "a?b??[0m");
	check_text("\xc0\x80", "??");                             /* overlong */
	check_text("\xe0\x80\x80", "???");                        /* overlong */
	check_text("\xed\xa0\x80", "???");                        /* surrogate */
	check_text("\xf4\x90\x80\x80", "????");                   /* beyond U+10FFFF */
	check_text("\xe2\x82", "??");                             /* cut */
	fm_wire_text(small, sizeof(small), "abc\xe2\x82\xac", 6); /* does not fit whole */
	assert_string_equal(small, "abc");
	for (size_t i = 0; i < FM_ARRAY_SIZE(hints); i++) {
		char encoded[256], decoded[256];

		fm_wire_trailer_encode(encoded, sizeof(encoded), hints[i]);
		for (const char *c = encoded; *c; c++)
			assert_in_range(*c, 0x20, 0x7e);
		fm_wire_trailer_decode(decoded, sizeof(decoded), encoded, strlen(encoded));
		assert_string_equal(decoded, hints[i]);
	}
}

static void test_wire_limits(void **state)
{
	/* ListHostsResponse with 2 million empty hosts: 4 MiB on the wire, hundreds decoded */
	size_t n = FM_MAX_RPC_MESSAGE_BYTES;
	_fm_free_ uint8_t *bomb = malloc(n);
	struct fm_error err = FM_ERROR_INIT;
	ProtobufCMessage *m = NULL;

	assert_non_null(bomb);
	for (size_t i = 0; i + 1 < n; i += 2) {
		bomb[i] = 0x0a;
		bomb[i + 1] = 0;
	}
	assert_int_equal(fm_wire_unpack(&fleximigrate__v1__list_hosts_response__descriptor, bomb, n, &m, &err), -1);
	assert_int_equal(err.code, FM_E_RESOURCE_EXHAUSTED);
	err = FM_ERROR_INIT;
	assert_int_equal(fm_wire_unpack(&fleximigrate__v1__list_hosts_response__descriptor, bomb, 1000, &m, &err), 0);
	assert_int_equal(((FM_PB(ListHostsResponse) *)m)->n_hosts, 500);
	protobuf_c_message_free_unpacked(FM_TAKE_PTR(m), NULL);
	/* a string in a repeated message that is not UTF-8 */
	assert_int_equal(
	        fm_wire_unpack(&fleximigrate__v1__list_hosts_response__descriptor, (const uint8_t *)"\x0a\x03\x0a\x01\xff", 5, &m, &err),
	        -1);
	assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
	assert_non_null(strstr(err.message, "name"));
	assert_null(m);
}

/* ---- as a server for another program */

static int serve(const char *dir)
{
	struct place p = { 0 };
	struct authority ours, theirs;
	struct fm_rpc_server_opts opts = { .methods = p.methods, .userdata = &p, .tcp_address = "127.0.0.1:0" };
	struct fm_error err = FM_ERROR_INIT;
	char c;

	place_init(&p);
	make_authority(&ours, dir, "ours", "host-a");
	make_authority(&theirs, dir, "theirs", "intruder");
	(void)snprintf(p.socket, sizeof(p.socket), "%s/rpc.sock", dir);
	opts.unix_path = p.socket;
	opts.tls = ours.tls;
	if (fm_rpc_server_new(&opts, &p.server, &err) < 0) {
		fprintf(stderr, "%s\n", err.message);
		return 1;
	}
	printf("ready %u\n", fm_rpc_server_tcp_port(p.server));
	(void)fflush(stdout);
	while (read(STDIN_FILENO, &c, 1) > 0)
		;
	place_done(&p);
	return 0;
}

#define IN_PLACE(test)       cmocka_unit_test_setup_teardown(test, setup, teardown)
#define IN_SMALL_PLACE(test) cmocka_unit_test_setup_teardown(test, setup_small, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tables_match_the_contract),
		cmocka_unit_test(test_wire_text),
		cmocka_unit_test(test_wire_limits),
		IN_PLACE(test_unary),
		IN_PLACE(test_errors_travel),
		IN_PLACE(test_not_utf8_goes_out_repaired),
		IN_PLACE(test_size_limits),
		IN_PLACE(test_unknown_method),
		IN_PLACE(test_malformed_request),
		IN_PLACE(test_deadline),
		IN_PLACE(test_cancel),
		IN_PLACE(test_stream),
		IN_SMALL_PLACE(test_streams_cannot_starve),
		IN_SMALL_PLACE(test_queueing),
		IN_PLACE(test_many_clients),
		IN_PLACE(test_nobody_there),
		IN_PLACE(test_restart),
		IN_PLACE(test_server_end_during_stream),
		IN_PLACE(test_server_end_with_grace),
		IN_PLACE(test_server_end_without_grace),
		IN_PLACE(test_bad_servers),
		IN_PLACE(test_bad_targets),
		IN_PLACE(test_odd_socket_path),
		IN_PLACE(test_other_users_are_refused),
	};
	const char *serve_dir = getenv("FLEXIMIGRATE_TEST_RPC_SERVE");
	const char *nobody_socket = getenv("FLEXIMIGRATE_TEST_RPC_NOBODY");

	if (serve_dir)
		return serve(serve_dir);
	if (nobody_socket)
		return call_as_nobody(nobody_socket);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
