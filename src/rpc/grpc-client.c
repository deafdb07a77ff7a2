/* SPDX-License-Identifier: MIT */
/*
 * grpc-client.c - design note.
 *
 * Every call has its own completion queue and is driven by the caller's thread, so that a client costs no thread and calls do not meet
 * each other. With a cancel_fd the wait is cut into slices of SLICE_MS between looks at that descriptor.
 *
 * Reconnection. gRPC's own back-off answers calls with the last failure until its timer has run out, up to seconds after the server is
 * back. Callers here want the present truth, so a channel in that state is replaced and the call makes an attempt to connect at once
 * (use_channel); channels are counted, since calls of other threads may still be on the old one. A connection that died while nobody
 * called is noticed by one poll before the call starts (the zero-wait in begin).
 *
 * grpc.min_reconnect_backoff_ms is, despite its name, also the least time that one connection attempt may take, TLS included. It is
 * therefore not the short pause between attempts (that is initial_reconnect_backoff_ms) but CONNECT_LIMIT_MS.
 *
 * gRPC makes up statuses of its own ("failed to connect to all addresses…"). A status that carries our trailer comes from the other side
 * and is passed on as it is; the others are put into the words of our user (explain).
 */
#include <arpa/inet.h>
#include <grpc/byte_buffer.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "rpc/grpc-common.h"
#include "rpc/rpc.h"
#include "rpc/tls-files.h"
#include "rpc/wire.h"

#define SLICE_MS          50
#define CONNECT_LIMIT_MS  5000
#define UNARY_DEFAULT_MS  30000
#define STREAM_DEFAULT_MS (24 * 3600 * 1000)
#define OVERDUE_MS        2000 /* gRPC ends calls at their deadline by itself; this is for the case that it does not */

struct channel {
	grpc_channel *channel;
	unsigned refs; /* under client->lock */
};

struct fm_rpc_client {
	char *target;         /* as the user wrote it */
	char *uri;            /* as gRPC wants it */
	const char *tls_name; /* whom the certificate must name when that is not the URI's address; NULL */
	bool is_unix;
	char *who, *key, *value; /* somebody else's server: its name, and metadata for each call; NULL */
	grpc_channel_credentials *credentials;
	pthread_mutex_t lock;
	struct channel *current;
};

/* One call under way. */
struct invocation {
	struct fm_rpc_client *client;
	const struct fm_rpc_method *method;
	struct channel *channel;
	grpc_completion_queue *cq;
	grpc_call *call;
	int timeout_ms, cancel_fd;
	uint64_t deadline_ms;
	bool cancelled; /* because of cancel_fd */

	grpc_byte_buffer *request, *response;
	grpc_metadata metadata; /* of the request, with the client's key and value */
	grpc_metadata_array initial, trailers;
	grpc_status_code status;
	grpc_slice details;
};

/* ---- channels */

/* A channel has one limit for what it receives, which is the largest; methods have theirs below it. That of GetSnapshot is the channel's. */
static void limits_of_methods(char text[300])
{
	(void)snprintf(text, 300,
	               "{\"methodConfig\":[{\"name\":[{}],\"maxResponseMessageBytes\":%u},"
	               "{\"name\":[{\"service\":\"fleximigrate.v1.Manager\",\"method\":\"GetSnapshot\"}],\"maxResponseMessageBytes\":%u}]}",
	               FM_MAX_RPC_MESSAGE_BYTES, FM_MAX_RPC_SNAPSHOT_BYTES);
}

static grpc_channel *make_channel(const struct fm_rpc_client *c)
{
	char limits[300];
	limits_of_methods(limits);
	grpc_arg args[] = {
		fm_grpc_arg_int(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, FM_MAX_RPC_SNAPSHOT_BYTES),
		fm_grpc_arg_str(GRPC_ARG_SERVICE_CONFIG, limits),
		fm_grpc_arg_int(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1),
		fm_grpc_arg_int(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100),
		fm_grpc_arg_int(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, CONNECT_LIMIT_MS),
		fm_grpc_arg_int(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000),
		/* two clients of one target share nothing: neither a connection nor its back-off */
		fm_grpc_arg_int(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1),
		/* the control plane goes where it was told, not through the proxy of somebody's environment, nor after DNS TXT records */
		fm_grpc_arg_int(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
		fm_grpc_arg_int(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1),
		/* from here TCP only. A dead host is noticed during a call. */
		fm_grpc_arg_int(GRPC_ARG_KEEPALIVE_TIME_MS, 10000),
		fm_grpc_arg_int(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000),
		fm_grpc_arg_int(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
		fm_grpc_arg_int(GRPC_ARG_HTTP2_MIN_SENT_PING_INTERVAL_WITHOUT_DATA_MS, 5000),
		/* last: only with a name of its own */
		fm_grpc_arg_str(GRPC_SSL_TARGET_NAME_OVERRIDE_ARG, c->tls_name),
	};
	size_t n = FM_ARRAY_SIZE(args) - (c->is_unix ? 5 : c->tls_name ? 0 : 1);
	grpc_channel_args all = { .num_args = n, .args = args };

	return grpc_channel_create(c->uri, c->credentials, &all);
}

static void channel_unref_locked(struct channel *ch)
{
	if (--ch->refs > 0)
		return;
	grpc_channel_destroy(ch->channel);
	free(ch);
}

/* A reference to the channel to use now: never one that would answer from its back-off. NULL when out of memory. */
static struct channel *use_channel(struct fm_rpc_client *c)
{
	struct channel *ch;

	pthread_mutex_lock(&c->lock);
	if (c->current && grpc_channel_check_connectivity_state(c->current->channel, 0) == GRPC_CHANNEL_TRANSIENT_FAILURE) {
		channel_unref_locked(c->current);
		c->current = NULL;
	}
	if (!c->current) {
		c->current = calloc(1, sizeof(*c->current));
		if (c->current)
			*c->current = (struct channel){ .channel = make_channel(c), .refs = 1 };
	}
	ch = c->current;
	if (ch)
		ch->refs++;
	pthread_mutex_unlock(&c->lock);
	return ch;
}

/* ---- targets */

/* A path in a URI: everything but the plainest characters as %XX. */
static char *escape_path(const char *path)
{
	char *escaped = malloc(3 * strlen(path) + 1), *out = escaped;

	if (!escaped)
		abort(); /* as fm_xstrdup does */
	for (; *path; path++) {
		unsigned char ch = (unsigned char)*path;
		bool plain = (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9') || strchr("/-._~", ch);

		out += sprintf(out, plain ? "%c" : "%%%02X", ch);
	}
	*out = '\0';
	return escaped;
}

static int parse_unix(const char *path, char **ret, struct fm_error *err)
{
	_fm_free_ char *escaped = NULL;

	if (!*path || strlen(path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path)) {
		fm_error_set(err, FM_E_INVALID_ARGUMENT, "'unix:%s' is not a usable socket path: 1 to %zu bytes are", path,
		             sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1);
		return fm_error_hint(err, "use a shorter path, such as unix:/run/fleximigrate/manager.sock");
	}
	escaped = escape_path(path);
	*ret = fm_xasprintf("unix:%s", escaped);
	return 0;
}

static int bad_target(const char *target, struct fm_error *err)
{
	fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%s' is not an address to connect to", target);
	return fm_error_hint(err, "write unix:/path/to/socket, host:port, 10.77.0.1:7400 or [fd00::1]:7400");
}

/* IP literals go to gRPC as such, so that no resolver is asked; nor for "localhost", where gRPC's resolver (c-ares) also leaks memory. */
static int parse_tcp(const char *target, char **ret, const char **ret_tls_name, struct fm_error *err)
{
	_fm_free_ char *host = fm_xstrdup(target);
	char *colon = strrchr(host, ':');
	unsigned char ip[sizeof(struct in6_addr)];
	size_t n;
	int port;

	if (!colon || fm_parse_int(colon + 1, 1, 65535, &port, NULL) < 0)
		return bad_target(target, err);
	*colon = '\0';
	n = strlen(host);
	if (n > 2 && host[0] == '[' && host[n - 1] == ']') {
		host[n - 1] = '\0';
		if (inet_pton(AF_INET6, host + 1, ip) != 1)
			return bad_target(target, err);
		*ret = fm_xasprintf("ipv6:%%5B%s%%5D:%d", host + 1, port);
	} else if (inet_pton(AF_INET, host, ip) == 1) {
		*ret = fm_xasprintf("ipv4:%s:%d", host, port);
	} else if (fm_streq(host, "localhost")) {
		*ret = fm_xasprintf("ipv4:127.0.0.1:%d", port);
		*ret_tls_name = "localhost";
	} else if (n > 0 && n < 254 && strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") == n) {
		*ret = fm_xasprintf("dns:///%s:%d", host, port);
	} else {
		return bad_target(target, err);
	}
	return 0;
}

/* ---- errors */

static const char *role_of(const struct invocation *iv)
{
	const struct fm_rpc_method *m = iv->method;

	if (iv->client->who)
		return iv->client->who;
	return strstr(m->path, ".Agent/") ? "agent" : strstr(m->path, ".Manager/") ? "manager" : "server";
}

/* gRPC nests its reasons: "failed to connect to all addresses; last error: UNKNOWN: unix:/x: Connection refused". Keep the last. */
static const char *innermost(const char *details)
{
	static const char marker[] = "last error: ";
	const char *at = strstr(details, marker);
	const char *colon;

	if (strstr(details, "Socket closed") || strstr(details, "Cancelling all calls") || strstr(details, "GOAWAY"))
		return "it closed the connection";
	if (!at)
		return details;
	at += sizeof(marker) - 1;
	colon = strrchr(at, ':');
	return colon && colon[1] == ' ' && colon[2] ? colon + 2 : at;
}

static void not_answering(const struct invocation *iv, const char *reason, struct fm_error *err)
{
	const struct fm_rpc_client *c = iv->client;
	const char *role = role_of(iv);

	fm_error_set(err, FM_E_UNAVAILABLE, "%s at %s does not answer: %s", role, c->target, innermost(reason));
	if (c->is_unix && strstr(reason, "ermission denied"))
		fm_error_hint(err, "the socket belongs to root or to the user that runs the %s: call as that user", role);
	else if (c->who)
		fm_error_hint(err, "is %s running on this host, with this socket?", role);
	else if (c->is_unix)
		fm_error_hint(err, "is the %s running on this host, with this socket? Only root and its own user are let in", role);
	else
		fm_error_hint(err, "is the %s running there, is the port open, and do both sides have certificates of the same authority?",
		              role);
}

static enum fm_code code_of(grpc_status_code status)
{
	return (unsigned)status < _FM_CODE_MAX ? (enum fm_code)status : FM_E_UNKNOWN;
}

static bool find_trailer(const struct invocation *iv, const char *key, char *buf, size_t cap)
{
	for (size_t i = 0; i < iv->trailers.count; i++) {
		const grpc_metadata *m = &iv->trailers.metadata[i];

		if (grpc_slice_str_cmp(m->key, key) != 0)
			continue;
		fm_wire_trailer_decode(buf, cap, (const char *)GRPC_SLICE_START_PTR(m->value), GRPC_SLICE_LENGTH(m->value));
		return true;
	}
	return false;
}

/* A status that gRPC itself made. */
static void explain(const struct invocation *iv, const char *details, struct fm_error *err)
{
	const struct fm_rpc_client *c = iv->client;
	bool connected = grpc_channel_check_connectivity_state(iv->channel->channel, 0) == GRPC_CHANNEL_READY;
	char reason[64];

	switch (iv->status) {
	case GRPC_STATUS_UNAVAILABLE:
		not_answering(iv, details, err);
		break;
	case GRPC_STATUS_DEADLINE_EXCEEDED:
		(void)snprintf(reason, sizeof(reason), "no connection within %d ms", iv->timeout_ms);
		if (!connected) {
			not_answering(iv, reason, err);
			break;
		}
		fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "%s at %s did not finish %s within %d ms", role_of(iv), c->target,
		             iv->method->path, iv->timeout_ms);
		fm_error_hint(err, "allow more time, or see what the %s is waiting for in its log", role_of(iv));
		break;
	default:
		fm_error_set(err, code_of(iv->status), "%s at %s: %s", role_of(iv), c->target,
		             *details ? details : "failed without giving a reason");
	}
}

static int status_error(const struct invocation *iv, struct fm_error *err)
{
	char details[sizeof(err->message)], hint[sizeof(err->hint)], phase[sizeof(err->phase)];

	fm_wire_text(details, sizeof(details), (const char *)GRPC_SLICE_START_PTR(iv->details), GRPC_SLICE_LENGTH(iv->details));
	if (iv->cancelled)
		return fm_error_set(err, FM_E_CANCELLED, "the call of %s was cancelled", iv->method->path);
	if (find_trailer(iv, FM_GRPC_HINT_KEY, hint, sizeof(hint))) {
		fm_error_set(err, code_of(iv->status), "%s", details);
		if (*hint)
			fm_error_hint(err, "%s", hint);
		if (find_trailer(iv, FM_GRPC_PHASE_KEY, phase, sizeof(phase)))
			fm_error_phase(err, phase);
		return -1;
	}
	explain(iv, details, err);
	return -1;
}

/* ---- one call */

static bool fd_readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return fd >= 0 && poll(&p, 1, 0) > 0;
}

/* Undoes begin, also a partial one. Every batch that was started must have completed. */
static void finish(struct invocation *iv)
{
	if (iv->request)
		grpc_byte_buffer_destroy(iv->request);
	if (iv->response)
		grpc_byte_buffer_destroy(iv->response);
	grpc_metadata_array_destroy(&iv->initial);
	grpc_metadata_array_destroy(&iv->trailers);
	grpc_slice_unref(iv->details);
	if (iv->call)
		grpc_call_unref(iv->call);
	if (iv->channel) {
		pthread_mutex_lock(&iv->client->lock);
		channel_unref_locked(iv->channel);
		pthread_mutex_unlock(&iv->client->lock);
	}
	if (iv->cq) {
		grpc_completion_queue_shutdown(iv->cq);
		while (grpc_completion_queue_next(iv->cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type != GRPC_QUEUE_SHUTDOWN)
			;
		grpc_completion_queue_destroy(iv->cq);
	}
}

static int begin(struct invocation *iv, const ProtobufCMessage *request, struct fm_error *err)
{
	grpc_slice path;

	grpc_metadata_array_init(&iv->initial);
	grpc_metadata_array_init(&iv->trailers);
	iv->details = grpc_empty_slice();
	iv->status = GRPC_STATUS_UNKNOWN;
	if (fd_readable(iv->cancel_fd)) {
		iv->cancelled = true;
		return status_error(iv, err);
	}
	if (request->descriptor != iv->method->request)
		return fm_error_set(err, FM_E_INTERNAL, "%s does not take a %s", iv->method->path, request->descriptor->short_name);
	if (fm_grpc_pack(request, &iv->request, err) < 0)
		return -1;
	iv->cq = grpc_completion_queue_create_for_next(NULL);
	(void)grpc_completion_queue_next(iv->cq, gpr_inf_past(GPR_CLOCK_MONOTONIC), NULL);
	iv->channel = use_channel(iv->client);
	if (!iv->channel)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "cannot call %s: out of memory", iv->client->target);
	iv->deadline_ms = fm_now_ms() + (uint64_t)iv->timeout_ms;
	path = grpc_slice_from_copied_string(iv->method->path);
	iv->call = grpc_channel_create_call(iv->channel->channel, NULL, GRPC_PROPAGATE_DEFAULTS, iv->cq, path, NULL,
	                                    fm_grpc_in_ms(iv->timeout_ms), NULL);
	grpc_slice_unref(path);
	return 0;
}

/* The next completion. Cancels the call when cancel_fd says so or when it is overdue; completions come nevertheless, all of them. */
static grpc_event wait_event(struct invocation *iv)
{
	for (;;) {
		int slice = iv->cancel_fd >= 0 && !iv->cancelled ? SLICE_MS : OVERDUE_MS;
		grpc_event ev = grpc_completion_queue_next(iv->cq, fm_grpc_in_ms(slice), NULL);

		if (ev.type == GRPC_OP_COMPLETE)
			return ev;
		if (!iv->cancelled && fd_readable(iv->cancel_fd)) {
			iv->cancelled = true;
			(void)grpc_call_cancel(iv->call, NULL);
		} else if (fm_now_ms() > iv->deadline_ms + OVERDUE_MS) {
			(void)grpc_call_cancel_with_status(iv->call, GRPC_STATUS_DEADLINE_EXCEEDED, "deadline exceeded", NULL);
		}
	}
}

static size_t sending_ops(struct invocation *iv, grpc_op *ops)
{
	ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
	if (iv->client->key) {
		iv->metadata = (grpc_metadata){ .key = grpc_slice_from_static_string(iv->client->key),
			                        .value = grpc_slice_from_static_string(iv->client->value) };
		ops[0].data.send_initial_metadata.metadata = &iv->metadata;
		ops[0].data.send_initial_metadata.count = 1;
	}
	ops[1].op = GRPC_OP_SEND_MESSAGE;
	ops[1].data.send_message.send_message = iv->request;
	ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
	ops[3].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
	ops[3].data.recv_status_on_client.trailing_metadata = &iv->trailers;
	ops[3].data.recv_status_on_client.status = &iv->status;
	ops[3].data.recv_status_on_client.status_details = &iv->details;
	return 4;
}

static int refused_batch(const struct invocation *iv, grpc_call_error e, struct fm_error *err)
{
	return fm_error_set(err, FM_E_INTERNAL, "cannot call %s: %s", iv->method->path, grpc_call_error_to_string(e));
}

static int decode_response(struct invocation *iv, ProtobufCMessage **ret, struct fm_error *err)
{
	if (fm_grpc_unpack(iv->method->response, iv->response, ret, err) == 0)
		return 0;
	/* an invalid argument would blame the caller */
	if (err && err->code == FM_E_INVALID_ARGUMENT)
		err->code = FM_E_INTERNAL;
	return fm_error_prefix(err, "answer of %s at %s", role_of(iv), iv->client->target);
}

static int run_unary(struct invocation *iv, const ProtobufCMessage *request, ProtobufCMessage **ret, struct fm_error *err)
{
	grpc_op ops[6] = { 0 };
	grpc_call_error e;
	size_t n;

	if (begin(iv, request, err) < 0)
		return -1;
	n = sending_ops(iv, ops);
	ops[n].op = GRPC_OP_RECV_INITIAL_METADATA;
	ops[n++].data.recv_initial_metadata.recv_initial_metadata = &iv->initial;
	ops[n].op = GRPC_OP_RECV_MESSAGE;
	ops[n++].data.recv_message.recv_message = &iv->response;
	e = grpc_call_start_batch(iv->call, ops, n, iv, NULL);
	if (e != GRPC_CALL_OK)
		return refused_batch(iv, e, err);
	(void)wait_event(iv);
	if (iv->status != GRPC_STATUS_OK)
		return status_error(iv, err);
	if (!iv->response)
		return fm_error_set(err, FM_E_INTERNAL, "%s at %s gave no answer to %s", role_of(iv), iv->client->target, iv->method->path);
	return decode_response(iv, ret, err);
}

/* Read messages until the stream ends, fn has enough, or one cannot be decoded. *ret_stopped: we ended it. */
static int read_messages(struct invocation *iv, bool *over, fm_rpc_message_fn fn, void *userdata, bool *ret_stopped, struct fm_error *err)
{
	for (bool first = true;; first = false) {
		grpc_op ops[2] = { 0 };
		ProtobufCMessage *message = NULL;
		size_t n = 0;
		bool stop;
		int tag;

		if (first) {
			ops[n].op = GRPC_OP_RECV_INITIAL_METADATA;
			ops[n++].data.recv_initial_metadata.recv_initial_metadata = &iv->initial;
		}
		ops[n].op = GRPC_OP_RECV_MESSAGE;
		ops[n++].data.recv_message.recv_message = &iv->response;
		if (grpc_call_start_batch(iv->call, ops, n, &tag, NULL) != GRPC_CALL_OK)
			return 0; /* the status tells why */
		for (bool got = false; !got;) {
			grpc_event ev = wait_event(iv);

			got = ev.tag == &tag;
			*over |= ev.tag == iv;
		}
		if (!iv->response || iv->cancelled)
			return 0;
		if (decode_response(iv, &message, err) < 0) {
			*ret_stopped = true;
			return -1;
		}
		grpc_byte_buffer_destroy(iv->response);
		iv->response = NULL;
		stop = fn(userdata, message) != 0;
		protobuf_c_message_free_unpacked(message, NULL);
		if (stop) {
			*ret_stopped = true;
			return 0;
		}
	}
}

static int run_stream(struct invocation *iv, const ProtobufCMessage *request, fm_rpc_message_fn fn, void *userdata, struct fm_error *err)
{
	grpc_op ops[4] = { 0 };
	bool over = false, stopped = false;
	grpc_call_error e;
	int r;

	if (begin(iv, request, err) < 0)
		return -1;
	e = grpc_call_start_batch(iv->call, ops, sending_ops(iv, ops), iv, NULL);
	if (e != GRPC_CALL_OK)
		return refused_batch(iv, e, err);
	r = read_messages(iv, &over, fn, userdata, &stopped, err);
	if (stopped)
		(void)grpc_call_cancel(iv->call, NULL);
	while (!over)
		over = wait_event(iv).tag == iv;
	if (stopped || iv->status == GRPC_STATUS_OK)
		return r;
	return status_error(iv, err);
}

/* ---- public */

int fm_rpc_client_call(struct fm_rpc_client *c, const struct fm_rpc_method *m, const ProtobufCMessage *request, int timeout_ms,
                       int cancel_fd, ProtobufCMessage **ret_response, struct fm_error *err)
{
	struct invocation iv = {
		.client = c, .method = m, .timeout_ms = timeout_ms > 0 ? timeout_ms : UNARY_DEFAULT_MS, .cancel_fd = cancel_fd
	};
	int r = run_unary(&iv, request, ret_response, err);

	finish(&iv);
	return r;
}

int fm_rpc_client_stream(struct fm_rpc_client *c, const struct fm_rpc_method *m, const ProtobufCMessage *request, int timeout_ms,
                         int cancel_fd, fm_rpc_message_fn fn, void *userdata, struct fm_error *err)
{
	struct invocation iv = {
		.client = c, .method = m, .timeout_ms = timeout_ms > 0 ? timeout_ms : STREAM_DEFAULT_MS, .cancel_fd = cancel_fd
	};
	int r = run_stream(&iv, request, fn, userdata, err);

	finish(&iv);
	return r;
}

void fm_rpc_client_free(struct fm_rpc_client *c)
{
	if (!c)
		return;
	if (c->current)
		channel_unref_locked(c->current);
	grpc_channel_credentials_release(c->credentials);
	(void)pthread_mutex_destroy(&c->lock);
	free(c->target);
	free(c->uri);
	free(c->who);
	free(c->key);
	free(c->value);
	free(c);
	fm_grpc_unref();
}

int fm_rpc_client_new(const char *target, const struct fm_rpc_tls *tls, struct fm_rpc_client **ret, struct fm_error *err)
{
	_fm_cleanup_(fm_tls_files_done) struct fm_tls_files files = { 0 };
	_fm_free_ char *uri = NULL;
	const char *tls_name = NULL;
	bool is_unix = fm_str_startswith(target, "unix:");
	grpc_ssl_pem_key_cert_pair pair;
	struct fm_rpc_client *c;
	sigset_t mask;

	if ((is_unix ? parse_unix(target + 5, &uri, err) : parse_tcp(target, &uri, &tls_name, err)) < 0)
		return -1;
	if (!is_unix && !tls) {
		fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s can only be reached with certificates", target);
		return fm_error_hint(err, "name the files of the authority, our certificate and our key");
	}
	if (!is_unix && fm_tls_files_load(tls, &files, err) < 0)
		return fm_error_prefix(err, "cannot connect to %s", target);
	c = calloc(1, sizeof(*c));
	if (!c)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "cannot connect to %s: out of memory", target);
	fm_grpc_ref(&mask);
	pair = (grpc_ssl_pem_key_cert_pair){ .private_key = files.key_pem, .cert_chain = files.cert_pem };
	*c = (struct fm_rpc_client){ .target = fm_xstrdup(target),
		                     .uri = FM_TAKE_PTR(uri),
		                     .tls_name = tls_name,
		                     .is_unix = is_unix,
		                     .credentials = is_unix ? grpc_insecure_credentials_create()
		                                            : grpc_ssl_credentials_create_ex(files.ca_pem, &pair, NULL, NULL) };
	(void)pthread_mutex_init(&c->lock, NULL);
	fm_grpc_unmask(&mask);
	*ret = c;
	return 0;
}

int fm_rpc_client_new_foreign(const char *target, const char *who, const char *key, const char *value, struct fm_rpc_client **ret,
                              struct fm_error *err)
{
	if (!fm_str_startswith(target, "unix:"))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s is reached by a Unix socket, not by '%s'", who, target);
	if (fm_rpc_client_new(target, NULL, ret, err) < 0)
		return -1;
	(*ret)->who = fm_xstrdup(who);
	(*ret)->key = key ? fm_xstrdup(key) : NULL;
	(*ret)->value = value ? fm_xstrdup(value) : NULL;
	return 0;
}
