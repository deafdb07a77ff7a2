/* SPDX-License-Identifier: MIT */
/*
 * grpc-server-call.c - design note: the life of one incoming call. The threads are described in grpc-server.c.
 *
 * A call is one of a fixed set of objects, reused for ever:
 *
 *   WAITING -new-> READING -bytes-> QUEUED -worker-> RUNNING -call_end-> ENDING -"closed" and "ended"-> WAITING
 *                     `--------------- refused without a worker -----------^
 *
 * Only that many calls are taken from gRPC; others wait in its queue, until their deadline. A peer that opens a call and sends no request,
 * or never reads the answer, is cancelled after a while (enforce_time_limits), so that it cannot hold an object. Streams may hold
 * n_threads - 2 workers at most. "closed" (RECV_CLOSE_ON_SERVER) is asked for at once: it is how a handler learns that its client
 * went away.
 *
 * Who may touch a call: the i/o thread, except between queue_push and call_end, when it is the worker's; the i/o thread then only sets
 * `cancelled` (atomic), `closed` and the result of a send. After call_end a worker must not touch it again.
 */
#include <grpc/byte_buffer.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "basic/clock.h"
#include "basic/str.h"
#include "rpc/grpc-server.h"
#include "rpc/wire.h"

#define TICK_MS       1000
#define READ_LIMIT_MS 10000 /* from the call's headers to the end of its request */
#define END_LIMIT_MS  30000 /* for the peer to take the answer */

/* ---- small helpers */

static void set_state(struct fm_rpc_call *call, enum call_state state)
{
	pthread_mutex_lock(&call->server->lock);
	call->state = state;
	call->since_ms = fm_now_ms();
	pthread_mutex_unlock(&call->server->lock);
}

static const struct fm_rpc_method *find_method(const struct fm_rpc_server *s, grpc_slice path)
{
	for (const struct fm_rpc_method *m = s->methods; m->path; m++)
		if (strlen(m->path) == GRPC_SLICE_LENGTH(path) && memcmp(m->path, GRPC_SLICE_START_PTR(path), GRPC_SLICE_LENGTH(path)) == 0)
			return m;
	return NULL;
}

/* ---- who is calling */

/* gRPC names a connection made from a descriptor "fd:N". N can only have been reused by a newer connection when the old one is closed: a
 * call of the old one is cancelled by then, and both peers passed the same check. */
static bool name_unix_peer(struct fm_rpc_call *call, const char *transport_peer)
{
	struct fm_rpc_server *s = call->server;
	struct unix_peer peer = { .known = false };
	int fd = -1;

	if (strncmp(transport_peer, "fd:", 3) != 0 || fm_parse_int(transport_peer + 3, 0, INT_MAX, &fd, NULL) < 0)
		return false;
	pthread_mutex_lock(&s->lock);
	if ((size_t)fd < s->n_unix_peers)
		peer = s->unix_peers[fd];
	pthread_mutex_unlock(&s->lock);
	if (!peer.known)
		return false;
	(void)snprintf(call->peer, sizeof(call->peer), "unix:uid=%u,pid=%d", peer.uid, peer.pid);
	return true;
}

static bool name_tls_peer(struct fm_rpc_call *call)
{
	grpc_auth_context *auth = grpc_call_auth_context(call->call);
	bool ok = false;

	if (!auth)
		return false;
	if (grpc_auth_context_peer_is_authenticated(auth)) {
		grpc_auth_property_iterator it = grpc_auth_context_find_properties_by_name(auth, GRPC_X509_CN_PROPERTY_NAME);
		const grpc_auth_property *name = grpc_auth_property_iterator_next(&it);

		if (name)
			fm_wire_text(call->peer, sizeof(call->peer), name->value, name->value_length);
		else
			(void)snprintf(call->peer, sizeof(call->peer), "(certificate without a name)");
		ok = true;
	}
	grpc_auth_context_release(auth);
	return ok;
}

static bool name_peer(struct fm_rpc_call *call)
{
	char *transport_peer = grpc_call_get_peer(call->call);
	bool ok = transport_peer && name_unix_peer(call, transport_peer);

	gpr_free(transport_peer);
	return ok || name_tls_peer(call);
}

/* ---- a call's end */

/* The last batch. Consumes response (or NULL); err NULL means success. Afterwards only the i/o thread may touch the call. */
static void call_end(struct fm_rpc_call *call, grpc_byte_buffer *response, const struct fm_error *err)
{
	char details[sizeof(err->message)] = "", hint[3 * sizeof(err->hint)], phase[3 * sizeof(err->phase)];
	grpc_op ops[3] = { 0 };
	size_t n = 0, n_trailers = 0;

	if (err) {
		fm_wire_text(details, sizeof(details), err->message, strnlen(err->message, sizeof(err->message)));
		fm_wire_trailer_encode(hint, sizeof(hint), err->hint);
		fm_wire_trailer_encode(phase, sizeof(phase), err->phase);
		call->trailer_hint = grpc_slice_from_copied_string(hint);
		call->trailers[n_trailers++] =
		        (grpc_metadata){ .key = grpc_slice_from_static_string(FM_GRPC_HINT_KEY), .value = call->trailer_hint };
		if (*phase) {
			call->trailer_phase = grpc_slice_from_copied_string(phase);
			call->trailers[n_trailers++] =
			        (grpc_metadata){ .key = grpc_slice_from_static_string(FM_GRPC_PHASE_KEY), .value = call->trailer_phase };
		}
	}
	call->status_details = grpc_slice_from_copied_string(details);
	call->response = response;

	if (!call->initial_sent)
		ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
	if (response) {
		ops[n].op = GRPC_OP_SEND_MESSAGE;
		ops[n++].data.send_message.send_message = response;
	}
	ops[n].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
	ops[n].data.send_status_from_server.status = err ? (grpc_status_code)err->code : GRPC_STATUS_OK;
	ops[n].data.send_status_from_server.status_details = &call->status_details;
	ops[n].data.send_status_from_server.trailing_metadata = call->trailers;
	ops[n++].data.send_status_from_server.trailing_metadata_count = n_trailers;
	set_state(call, CALL_ENDING);
	if (grpc_call_start_batch(call->call, ops, n, &call->op_end, NULL) == GRPC_CALL_OK)
		return;
	/* Not expected, as all that goes in is checked: drop the call; an empty batch completes at once. */
	(void)grpc_call_cancel(call->call, NULL);
	(void)grpc_call_start_batch(call->call, NULL, 0, &call->op_end, NULL);
}

static void call_refuse(struct fm_rpc_call *call, enum fm_code code, const char *message, const char *hint)
{
	struct fm_error err = FM_ERROR_INIT;

	fm_error_set(&err, code, "%s", message);
	fm_error_hint(&err, "%s", hint);
	call_end(call, NULL, &err);
}

/* ---- workers */

static void queue_push(struct fm_rpc_call *call)
{
	struct fm_rpc_server *s = call->server;

	pthread_mutex_lock(&s->lock);
	call->state = CALL_QUEUED;
	call->next = NULL;
	*s->queue_tail = call;
	s->queue_tail = &call->next;
	pthread_cond_signal(&s->work);
	pthread_mutex_unlock(&s->lock);
}

static struct fm_rpc_call *queue_pop(struct fm_rpc_server *s)
{
	struct fm_rpc_call *call;

	pthread_mutex_lock(&s->lock);
	while (!s->queue_head && !s->stop_workers)
		pthread_cond_wait(&s->work, &s->lock);
	call = s->queue_head;
	if (call) {
		s->queue_head = call->next;
		if (!s->queue_head)
			s->queue_tail = &s->queue_head;
		call->state = CALL_RUNNING;
	}
	pthread_mutex_unlock(&s->lock);
	return call;
}

static void stream_done(struct fm_rpc_server *s)
{
	pthread_mutex_lock(&s->lock);
	s->n_streams--;
	pthread_mutex_unlock(&s->lock);
}

static int run_unary(struct fm_rpc_call *call, const ProtobufCMessage *request, grpc_byte_buffer **ret, struct fm_error *err)
{
	const struct fm_rpc_method *m = call->method;
	ProtobufCMessage *response = NULL;
	int r = m->unary(call->server->userdata, call, request, &response, err);

	if (r == 0 && (!response || response->descriptor != m->response))
		r = fm_error_set(err, FM_E_INTERNAL, "the handler of %s gave no proper response", m->path);
	else if (r == 0)
		r = fm_grpc_pack(response, ret, err);
	if (response)
		protobuf_c_message_free_unpacked(response, NULL);
	return r;
}

static int run_stream(struct fm_rpc_call *call, const ProtobufCMessage *request, struct fm_error *err)
{
	int r = call->method->stream(call->server->userdata, call, request, err);

	/* A stream that ended because we go down: its client shall come back, not believe that somebody cancelled. */
	if (r < 0 && err->code == FM_E_CANCELLED && atomic_load(&call->server->stopping) && !atomic_load(&call->cancelled)) {
		fm_error_clear(err);
		fm_error_set(err, FM_E_UNAVAILABLE, "the server is shutting down");
		fm_error_hint(err, "connect again");
	}
	return r;
}

static void run_call(struct fm_rpc_call *call)
{
	struct fm_error err = FM_ERROR_INIT;
	ProtobufCMessage *request = NULL;
	grpc_byte_buffer *response = NULL;
	int r;

	if (atomic_load(&call->cancelled) || atomic_load(&call->server->cancelling))
		r = fm_error_set(&err, FM_E_CANCELLED, "the call ended before it was its turn");
	else
		r = fm_grpc_unpack(call->method->request, call->payload, &request, &err);
	if (r == 0)
		r = call->method->unary ? run_unary(call, request, &response, &err) : run_stream(call, request, &err);
	if (r < 0 && err.code == FM_OK)
		fm_error_set(&err, FM_E_INTERNAL, "%s failed without giving a reason", call->method->path);
	if (request)
		protobuf_c_message_free_unpacked(request, NULL);
	if (!call->method->unary)
		stream_done(call->server);
	call_end(call, response, r < 0 ? &err : NULL);
}

void *fm_grpc_worker_main(void *arg)
{
	struct fm_rpc_server *s = arg;

	for (;;) {
		struct fm_rpc_call *call = queue_pop(s);

		if (!call)
			break;
		run_call(call);
	}
	pthread_mutex_lock(&s->lock);
	s->workers_alive--;
	pthread_cond_broadcast(&s->progress);
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

/* ---- i/o thread */

void fm_grpc_call_arm(struct fm_rpc_call *call)
{
	call->call = NULL;
	call->payload = call->response = NULL;
	call->method = NULL;
	call->peer[0] = '\0';
	call->was_cancelled = 0;
	atomic_store(&call->cancelled, false);
	call->closed = call->ended = call->initial_sent = call->send_pending = call->send_ok = false;
	call->status_details = call->trailer_hint = call->trailer_phase = grpc_empty_slice();
	grpc_call_details_init(&call->details);
	grpc_metadata_array_init(&call->metadata);
	set_state(call, CALL_WAITING);
	if (grpc_server_request_call(call->server->server, &call->call, &call->details, &call->metadata, call->server->cq, call->server->cq,
	                             &call->op_new) != GRPC_CALL_OK) {
		grpc_call_details_destroy(&call->details);
		grpc_metadata_array_destroy(&call->metadata);
		set_state(call, CALL_RETIRED);
	}
}

static void call_finish(struct fm_rpc_call *call)
{
	struct fm_rpc_server *s = call->server;

	if (!call->closed || !call->ended)
		return;
	if (call->payload)
		grpc_byte_buffer_destroy(call->payload);
	if (call->response)
		grpc_byte_buffer_destroy(call->response);
	grpc_slice_unref(call->status_details);
	grpc_slice_unref(call->trailer_hint);
	grpc_slice_unref(call->trailer_phase);
	grpc_call_details_destroy(&call->details);
	grpc_metadata_array_destroy(&call->metadata);
	grpc_call_unref(call->call);
	call->call = NULL;
	pthread_mutex_lock(&s->lock);
	call->state = CALL_RETIRED;
	s->n_active--;
	pthread_cond_broadcast(&s->progress);
	pthread_mutex_unlock(&s->lock);
	if (!atomic_load(&s->stopping))
		fm_grpc_call_arm(call);
}

static void on_new(struct fm_rpc_call *call, bool ok)
{
	struct fm_rpc_server *s = call->server;
	grpc_op close_op = { .op = GRPC_OP_RECV_CLOSE_ON_SERVER, .data.recv_close_on_server.cancelled = &call->was_cancelled };
	grpc_op read_op = { .op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &call->payload };

	if (!ok) { /* the server is shutting down */
		grpc_call_details_destroy(&call->details);
		grpc_metadata_array_destroy(&call->metadata);
		set_state(call, CALL_RETIRED);
		return;
	}
	pthread_mutex_lock(&s->lock);
	s->n_active++;
	pthread_mutex_unlock(&s->lock);
	set_state(call, CALL_READING);
	if (grpc_call_start_batch(call->call, &close_op, 1, &call->op_close, NULL) != GRPC_CALL_OK)
		call->closed = true;
	call->method = find_method(s, call->details.method);
	if (!name_peer(call))
		call_refuse(call, FM_E_UNAUTHENTICATED, "the peer did not show who it is",
		            "connect with a certificate of this cluster's authority");
	else if (!call->method || (!call->method->unary && !call->method->stream))
		call_refuse(call, FM_E_UNIMPLEMENTED, "this server has no such method",
		            "check the address: manager and agent answer different calls; and that both sides run the same version");
	else if (grpc_call_start_batch(call->call, &read_op, 1, &call->op_read, NULL) != GRPC_CALL_OK)
		call_refuse(call, FM_E_INTERNAL, "the request cannot be read", "");
}

static bool stream_admit(struct fm_rpc_server *s)
{
	bool ok;

	pthread_mutex_lock(&s->lock);
	ok = s->n_streams < s->max_streams;
	if (ok)
		s->n_streams++;
	pthread_mutex_unlock(&s->lock);
	return ok;
}

static void on_read(struct fm_rpc_call *call, bool ok)
{
	if (!ok || (!call->payload && call->closed))
		call_refuse(call, FM_E_CANCELLED, "the call ended before its request was complete", "");
	else if (!call->payload)
		call_refuse(call, FM_E_INVALID_ARGUMENT, "the call carried no request", "");
	else if (call->method->stream && !stream_admit(call->server))
		call_refuse(call, FM_E_RESOURCE_EXHAUSTED, "too many streams are open on this server",
		            "end another watcher, or poll instead");
	else
		queue_push(call);
}

static void on_send(struct fm_rpc_call *call, bool ok)
{
	pthread_mutex_lock(&call->server->lock);
	call->send_pending = false;
	call->send_ok = ok;
	pthread_cond_signal(&call->sent);
	pthread_mutex_unlock(&call->server->lock);
}

static void dispatch(const struct op *op, bool ok)
{
	struct fm_rpc_server *s = op->server;
	struct fm_rpc_call *call = op->call;

	switch (op->kind) {
	case OP_NEW:
		on_new(call, ok);
		break;
	case OP_READ:
		on_read(call, ok);
		break;
	case OP_SEND:
		on_send(call, ok);
		break;
	case OP_CLOSE:
		if (call->was_cancelled)
			atomic_store(&call->cancelled, true);
		call->closed = true;
		call_finish(call);
		break;
	case OP_END:
		call->ended = true;
		call_finish(call);
		break;
	case OP_SHUTDOWN:
		pthread_mutex_lock(&s->lock);
		s->shutdown_done = true;
		pthread_cond_broadcast(&s->progress);
		pthread_mutex_unlock(&s->lock);
		break;
	}
}

static void enforce_time_limits(struct fm_rpc_server *s)
{
	uint64_t now = fm_now_ms();

	for (size_t i = 0; i < s->n_calls; i++) {
		struct fm_rpc_call *call = &s->calls[i];
		bool late;

		pthread_mutex_lock(&s->lock);
		late = (call->state == CALL_READING && now - call->since_ms > READ_LIMIT_MS) ||
		       (call->state == CALL_ENDING && now - call->since_ms > END_LIMIT_MS);
		pthread_mutex_unlock(&s->lock);
		if (late)
			(void)grpc_call_cancel(call->call, NULL);
	}
}

void *fm_grpc_io_main(void *arg)
{
	struct fm_rpc_server *s = arg;
	uint64_t checked_ms = fm_now_ms();

	for (;;) {
		grpc_event ev = grpc_completion_queue_next(s->cq, fm_grpc_in_ms(TICK_MS), NULL);

		if (ev.type == GRPC_QUEUE_SHUTDOWN)
			return NULL;
		if (ev.type == GRPC_OP_COMPLETE)
			dispatch(ev.tag, ev.success != 0);
		if (fm_now_ms() - checked_ms >= TICK_MS) {
			enforce_time_limits(s);
			checked_ms = fm_now_ms();
		}
	}
}

/* ---- for handlers */

int fm_rpc_call_deadline_left_ms(const struct fm_rpc_call *call)
{
	gpr_timespec left;
	int32_t ms;

	if (gpr_time_cmp(call->details.deadline, gpr_inf_future(call->details.deadline.clock_type)) == 0)
		return INT_MAX;
	left = gpr_time_sub(gpr_convert_clock_type(call->details.deadline, GPR_CLOCK_MONOTONIC), gpr_now(GPR_CLOCK_MONOTONIC));
	ms = gpr_time_to_millis(left);
	return ms > 0 ? ms : 0;
}

bool fm_rpc_call_cancelled(const struct fm_rpc_call *call)
{
	struct fm_rpc_server *s = call->server;

	return atomic_load(&call->cancelled) || atomic_load(&s->cancelling) || (call->method->stream && atomic_load(&s->stopping));
}

const char *fm_rpc_call_peer(const struct fm_rpc_call *call)
{
	return call->peer;
}

int fm_rpc_call_send(struct fm_rpc_call *call, const ProtobufCMessage *message, struct fm_error *err)
{
	struct fm_rpc_server *s = call->server;
	grpc_byte_buffer *buffer = NULL;
	grpc_op ops[2] = { 0 };
	size_t n = 0;
	bool ok;

	if (!call->method->stream || message->descriptor != call->method->response)
		return fm_error_set(err, FM_E_INTERNAL, "%s cannot send a %s", call->method->path, message->descriptor->short_name);
	if (fm_grpc_pack(message, &buffer, err) < 0)
		return -1;
	if (!call->initial_sent)
		ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
	ops[n].op = GRPC_OP_SEND_MESSAGE;
	ops[n++].data.send_message.send_message = buffer;
	call->send_pending = true; /* not yet shared */
	ok = grpc_call_start_batch(call->call, ops, n, &call->op_send, NULL) == GRPC_CALL_OK;
	if (ok) {
		call->initial_sent = true;
		pthread_mutex_lock(&s->lock);
		while (call->send_pending)
			pthread_cond_wait(&call->sent, &s->lock);
		ok = call->send_ok;
		pthread_mutex_unlock(&s->lock);
	}
	grpc_byte_buffer_destroy(buffer);
	return ok ? 0 : fm_error_set(err, FM_E_CANCELLED, "the client went away");
}
