/* SPDX-License-Identifier: MIT */
/*
 * rpc-lab.h - what the tests of rpc/ share: a folder with a server in it, handlers that do what the request's name says, calls,
 * certificates.
 */
#ifndef FM_TESTS_RPC_LAB_H
#define FM_TESTS_RPC_LAB_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "fleximigrate.pb-c.h"
#include "rpc/agent-client.h"
#include "rpc/pki.h"
#include "rpc/rpc.h"
#include "rpc/wire.h"

#define PATIENCE_MS 60000 /* a bound against hanging, never an expectation */
#define MANAGER(m)  (&fm_manager_methods[m])

struct gate { /* lets a test know that a handler runs, and hold it there */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	unsigned inside;
	bool open;
	int entered_fd; /* eventfd: +1 for each handler that came to wait */
	atomic_uint cancellations;
};

struct place { /* a folder, with a server in it */
	char dir[64];
	char socket[96], target[128];
	struct gate gate;
	struct fm_rpc_method methods[_FM_MANAGER_METHOD_MAX + 1];
	struct fm_rpc_server *server;
	struct fm_rpc_client *client;
};

/* ---- handlers */

static inline ProtobufCMessage *make(const ProtobufCMessageDescriptor *type)
{
	ProtobufCMessage *m = calloc(1, type->sizeof_message);

	assert_non_null(m);
	type->message_init(m);
	return m;
}

static inline int handle_info(void *userdata, struct fm_rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage **response,
                              struct fm_error *err)
{
	FM_PB(InfoResponse) *r = (FM_PB(InfoResponse) *)make(&fleximigrate__v1__info_response__descriptor);

	r->role = fm_xstrdup("test");
	r->name = fm_xstrdup(fm_rpc_call_peer(call));
	r->protocol = 1;
	*response = &r->base;
	return 0;
}

static inline void gate_wait(struct gate *g)
{
	pthread_mutex_lock(&g->lock);
	g->inside++;
	(void)eventfd_write(g->entered_fd, 1);
	while (!g->open)
		pthread_cond_wait(&g->cond, &g->lock);
	g->inside--;
	pthread_mutex_unlock(&g->lock);
}

/* Until the client goes away. */
static inline int wait_cancelled(struct gate *g, struct fm_rpc_call *call, struct fm_error *err)
{
	(void)eventfd_write(g->entered_fd, 1);
	while (!fm_rpc_call_cancelled(call))
		fm_pause_ms(2);
	atomic_fetch_add(&g->cancellations, 1);
	return fm_error_set(err, FM_E_CANCELLED, "nobody waits for this any more");
}

static inline char *repeat(char c, size_t n)
{
	char *s = malloc(n + 1);

	assert_non_null(s);
	memset(s, c, n);
	s[n] = '\0';
	return s;
}

/* The name in the request says what to do. */
static inline int handle_get_host(void *userdata, struct fm_rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage **response,
                                  struct fm_error *err)
{
	struct place *p = userdata;
	const char *name = ((const FM_PB(NameRequest) *)request)->name;
	FM_PB(Host) * host;

	if (fm_streq(name, "missing")) {
		fm_error_set(err, FM_E_NOT_FOUND, "there is no host %s", name);
		fm_error_phase(err, "preparation");
		return fm_error_hint(err, "see `fleximigrate hosts` \xe2\x80\x94 95%% of them, %%41 too");
	}
	if (fm_streq(name, "dirty")) {
		fm_error_set(err, FM_E_DATA_LOSS, "x");
		(void)snprintf(err->message, sizeof(err->message), "bad \xff byte, cut \xe2\x82");
		return -1;
	}
	if (fm_streq(name, "silent-failure"))
		return -1;
	if (fm_streq(name, "no-response"))
		return 0;
	if (fm_streq(name, "slow"))
		return wait_cancelled(&p->gate, call, err);
	if (fm_streq(name, "gate"))
		gate_wait(&p->gate);
	host = (FM_PB(Host) *)make(&fleximigrate__v1__host__descriptor);
	host->name = fm_streq(name, "big")        ? repeat('x', 3u << 20)
	             : fm_streq(name, "too-big")  ? repeat('x', 5u << 20)
	             : fm_streq(name, "not-utf8") ? fm_xstrdup("caf\xe9")
	                                          : fm_xstrdup(name);
	host->last_seen_unix_ms = (uint64_t)fm_rpc_call_deadline_left_ms(call);
	*response = &host->base;
	return 0;
}

/* "count:N" sends N events; "forever" sends one and waits for its end; "flood" sends until somebody stops it. */
static inline int handle_watch(void *userdata, struct fm_rpc_call *call, const ProtobufCMessage *request, struct fm_error *err)
{
	struct place *p = userdata;
	const char *id = ((const FM_PB(WatchRequest) *)request)->id;
	FM_PB(Event) event = FLEXIMIGRATE__V1__EVENT__INIT;
	char line[] = "an event's line";
	uint64_t n = fm_streq(id, "forever") ? 1 : UINT64_MAX;

	if (fm_str_startswith(id, "count:") && fm_parse_u64(id + 6, &n, err) < 0)
		return -1;
	event.line = line;
	for (event.seq = 1; event.seq <= n; event.seq++) {
		event.last = event.seq == n;
		if (fm_rpc_call_send(call, &event.base, err) < 0) {
			atomic_fetch_add(&p->gate.cancellations, 1);
			return -1;
		}
	}
	if (fm_streq(id, "forever"))
		return wait_cancelled(&p->gate, call, err);
	if (fm_streq(id, "count:3"))
		return fm_error_set(err, FM_E_ABORTED, "broken off after three");
	return 0;
}

/* ---- the place */

static inline void start_server_with(struct place *p, unsigned n_threads)
{
	struct fm_rpc_server_opts opts = { .methods = p->methods, .userdata = p, .n_threads = n_threads, .unix_path = p->socket };
	struct fm_error err = FM_ERROR_INIT;

	if (fm_rpc_server_new(&opts, &p->server, &err) < 0)
		fail_msg("server: %s", err.message);
}

static inline void place_init(struct place *p)
{
	*p = (struct place){ .dir = "/tmp/fm-test-rpc-XXXXXX" };
	assert_non_null(mkdtemp(p->dir));
	(void)snprintf(p->socket, sizeof(p->socket), "%s/rpc.sock", p->dir);
	(void)snprintf(p->target, sizeof(p->target), "unix:%s", p->socket);
	(void)pthread_mutex_init(&p->gate.lock, NULL);
	(void)pthread_cond_init(&p->gate.cond, NULL);
	p->gate.entered_fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
	assert_true(p->gate.entered_fd >= 0);
	memcpy(p->methods, fm_manager_methods, sizeof(p->methods));
	p->methods[FM_MANAGER_INFO].unary = handle_info;
	p->methods[FM_MANAGER_GET_HOST].unary = handle_get_host;
	p->methods[FM_MANAGER_WATCH_MIGRATION].stream = handle_watch;
}

static inline void place_done(struct place *p)
{
	struct fm_error err = FM_ERROR_INIT;

	fm_rpc_client_free(p->client);
	fm_rpc_server_free(p->server, 0);
	(void)close(p->gate.entered_fd);
	(void)pthread_mutex_destroy(&p->gate.lock);
	(void)pthread_cond_destroy(&p->gate.cond);
	assert_int_equal(fm_remove_tree(p->dir, &err), 0);
}

static inline int setup_with(void **state, unsigned n_threads)
{
	struct place *p = calloc(1, sizeof(*p));
	struct fm_error err = FM_ERROR_INIT;

	assert_non_null(p);
	place_init(p);
	start_server_with(p, n_threads);
	assert_int_equal(fm_rpc_client_new(p->target, NULL, &p->client, &err), 0);
	*state = p;
	return 0;
}

static inline int setup(void **state)
{
	return setup_with(state, 0);
}

static inline int setup_small(void **state)
{
	return setup_with(state, 4);
}

static inline int teardown(void **state)
{
	place_done(*state);
	free(*state);
	return 0;
}

static inline void wait_entered(struct place *p)
{
	eventfd_t n;

	assert_int_equal(fm_wait_fd(p->gate.entered_fd, POLLIN, PATIENCE_MS, NULL), 1);
	assert_int_equal(eventfd_read(p->gate.entered_fd, &n), 0);
}

static inline void open_gate(struct place *p)
{
	pthread_mutex_lock(&p->gate.lock);
	p->gate.open = true;
	pthread_cond_broadcast(&p->gate.cond);
	pthread_mutex_unlock(&p->gate.lock);
}

static inline void wait_cancellations(struct place *p, unsigned n)
{
	uint64_t deadline = fm_now_ms() + PATIENCE_MS;

	while (atomic_load(&p->gate.cancellations) < n && fm_now_ms() < deadline)
		fm_pause_ms(2);
	assert_true(atomic_load(&p->gate.cancellations) >= n);
}

/* ---- calling */

static inline int get_host(struct fm_rpc_client *c, const char *name, int timeout_ms, int cancel_fd, FM_PB(Host) * *ret,
                           struct fm_error *err)
{
	FM_PB(NameRequest) request = FLEXIMIGRATE__V1__NAME_REQUEST__INIT;
	ProtobufCMessage *response = NULL;

	request.name = (char *)(uintptr_t)name;
	if (fm_rpc_client_call(c, MANAGER(FM_MANAGER_GET_HOST), &request.base, timeout_ms, cancel_fd, &response, err) < 0)
		return -1;
	if (ret)
		*ret = (FM_PB(Host) *)response;
	else
		protobuf_c_message_free_unpacked(response, NULL);
	return 0;
}

static inline void free_host(FM_PB(Host) * h)
{
	fleximigrate__v1__host__free_unpacked(h, NULL);
}

/* Our name as the server sees it. */
static inline int get_peer(struct fm_rpc_client *c, char *buf, size_t cap, struct fm_error *err)
{
	FM_PB(Empty) request = FLEXIMIGRATE__V1__EMPTY__INIT;
	ProtobufCMessage *response = NULL;

	if (fm_rpc_client_call(c, MANAGER(FM_MANAGER_INFO), &request.base, PATIENCE_MS, -1, &response, err) < 0)
		return -1;
	(void)snprintf(buf, cap, "%s", ((FM_PB(InfoResponse) *)response)->name);
	protobuf_c_message_free_unpacked(response, NULL);
	return 0;
}

static inline int watch(struct fm_rpc_client *c, const char *id, int timeout_ms, int cancel_fd, fm_rpc_message_fn fn, void *userdata,
                        struct fm_error *err)
{
	FM_PB(WatchRequest) request = FLEXIMIGRATE__V1__WATCH_REQUEST__INIT;

	request.id = (char *)(uintptr_t)id;
	return fm_rpc_client_stream(c, MANAGER(FM_MANAGER_WATCH_MIGRATION), &request.base, timeout_ms, cancel_fd, fn, userdata, err);
}

struct counter {
	uint64_t seen, stop_at;
};

static inline int count_events(void *userdata, const ProtobufCMessage *message)
{
	struct counter *n = userdata;
	const FM_PB(Event) *event = (const FM_PB(Event) *)message;

	assert_int_equal(event->seq, ++n->seen);
	return n->seen == n->stop_at;
}

/* ---- certificates */

struct authority {
	char dir[80], ca[96], cert[96], key[96];
	struct fm_rpc_tls tls;
};

static inline void make_authority(struct authority *a, const char *parent, const char *name, const char *host)
{
	struct fm_error err = FM_ERROR_INIT;

	(void)snprintf(a->dir, sizeof(a->dir), "%s/%s", parent, name);
	(void)snprintf(a->ca, sizeof(a->ca), "%s/ca.pem", a->dir);
	(void)snprintf(a->cert, sizeof(a->cert), "%s/%s.pem", a->dir, host);
	(void)snprintf(a->key, sizeof(a->key), "%s/%s.key", a->dir, host);
	a->tls = (struct fm_rpc_tls){ a->ca, a->cert, a->key };
	if (fm_mkdir_p(a->dir, 0700, &err) < 0 || fm_pki_init(a->dir, 2, &err) < 0 || fm_pki_issue(a->dir, host, NULL, 2, &err) < 0)
		fail_msg("pki: %s", err.message);
}

#endif
