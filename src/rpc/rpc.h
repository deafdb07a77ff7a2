/* SPDX-License-Identifier: MIT */
/*
 * rpc.h - gRPC for the rest of the house: servers, clients, status. All use of gRPC's C core is in grpc-*.c, so that another
 * implementation can replace it.
 *
 * Messages are protobuf-c structs generated from api/fleximigrate.proto. A method is named by its full path
 * "/fleximigrate.v1.Manager/Migrate". Handlers run on the server's worker threads and may block.
 * Status: struct fm_error.code is the gRPC code, .message the status message, .hint travels in the trailer "fleximigrate-hint", .phase in
 * "fleximigrate-phase" (bytes that a trailer cannot carry are written %XX). Messages are limited to FM_MAX_RPC_MESSAGE_BYTES both ways, the answer of GetSnapshot to FM_MAX_RPC_SNAPSHOT_BYTES.
 */
#ifndef FM_RPC_RPC_H
#define FM_RPC_RPC_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

#include "basic/error.h"

struct fm_rpc_server;
struct fm_rpc_call; /* one incoming call, valid inside its handler */

/* Fills *response (created with protobuf-c's allocator; the server frees it) or returns -1 with *err. `request` is borrowed. */
typedef int (*fm_rpc_unary_fn)(void *userdata, struct fm_rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage **response,
                               struct fm_error *err);
/* Server streaming: call fm_rpc_call_send as often as needed, then return. */
typedef int (*fm_rpc_stream_fn)(void *userdata, struct fm_rpc_call *call, const ProtobufCMessage *request, struct fm_error *err);

struct fm_rpc_method {
	const char *path;
	const ProtobufCMessageDescriptor *request;
	const ProtobufCMessageDescriptor *response;
	fm_rpc_unary_fn unary; /* one of the two */
	fm_rpc_stream_fn stream;
};

/* milliseconds until the caller's deadline (INT_MAX when none was given) */
int fm_rpc_call_deadline_left_ms(const struct fm_rpc_call *call);
/* True when the client went away or the server's grace is over; for streams as soon as the server begins to stop. Long handlers and streams
 * must look. */
bool fm_rpc_call_cancelled(const struct fm_rpc_call *call);
/* "unix:uid=0,pid=123" or the TLS certificate's common name; never NULL */
const char *fm_rpc_call_peer(const struct fm_rpc_call *call);
/* One message of a stream; blocks while the client does not read. CANCELLED when it went away. From the handler's thread only. */
int fm_rpc_call_send(struct fm_rpc_call *call, const ProtobufCMessage *message, struct fm_error *err);

/* Mutual: peers without a certificate of this authority are refused. The files are checked and read when a server or client is made. */
struct fm_rpc_tls {
	const char *ca_pem_path, *cert_pem_path, *key_pem_path;
};

struct fm_rpc_server_opts {
	const struct fm_rpc_method *methods;      /* ends with .path = NULL; a copy is kept, a method without handler is UNIMPLEMENTED */
	const struct fm_rpc_method *more_methods; /* a second table, or NULL */
	void *userdata;
	unsigned n_threads;      /* 0 = 16, at least 4; a stream occupies one: n_threads - 2 at most, then RESOURCE_EXHAUSTED */
	const char *unix_path;   /* NULL = none; mode 0600, peers other than root and our own uid are refused (SO_PEERCRED) */
	const char *tcp_address; /* NULL = none; "10.77.0.1:7400", port 0 allowed */
	struct fm_rpc_tls tls;   /* needed with tcp_address */
};
int fm_rpc_server_new(const struct fm_rpc_server_opts *opts, struct fm_rpc_server **ret, struct fm_error *err);
uint16_t fm_rpc_server_tcp_port(const struct fm_rpc_server *s);
/* Stop accepting, tell streams to end, give running calls grace_ms, cancel the rest, join threads, free. Not from a handler. Never hangs: a
 * handler that has not returned 10 s after its cancellation is left behind with the server's memory, and its userdata must stay. */
void fm_rpc_server_free(struct fm_rpc_server *s, int grace_ms);

struct fm_rpc_client; /* one channel; thread-safe; reconnects by itself */
/* target: "unix:/run/fleximigrate/manager.sock" (tls ignored) or "host:port" with tls. Does not connect yet. */
int fm_rpc_client_new(const char *target, const struct fm_rpc_tls *tls, struct fm_rpc_client **ret, struct fm_error *err);
/* Somebody else's server on a Unix socket: errors call it `who`, and the metadata key: value (lower case; NULL none) goes with each call. Its methods are tables of the caller's. */
int fm_rpc_client_new_foreign(const char *target, const char *who, const char *key, const char *value, struct fm_rpc_client **ret,
                              struct fm_error *err);
/* No call may be under way. */
void fm_rpc_client_free(struct fm_rpc_client *c);
/* One unary call. *ret_response: free with protobuf_c_message_free_unpacked(…, NULL). Nobody listening, or not connected within the
 * deadline: UNAVAILABLE naming the target. timeout_ms 0 = 30 s. cancel_fd >= 0: readable cancels. */
int fm_rpc_client_call(struct fm_rpc_client *c, const struct fm_rpc_method *m, const ProtobufCMessage *request, int timeout_ms,
                       int cancel_fd, ProtobufCMessage **ret_response, struct fm_error *err);
/* Server streaming: fn for each message until end; fn returning non-zero stops (success). timeout_ms is for the whole stream, 0 = a day. */
typedef int (*fm_rpc_message_fn)(void *userdata, const ProtobufCMessage *message);
int fm_rpc_client_stream(struct fm_rpc_client *c, const struct fm_rpc_method *m, const ProtobufCMessage *request, int timeout_ms,
                         int cancel_fd, fm_rpc_message_fn fn, void *userdata, struct fm_error *err);

/* The contract as tables (methods.c): paths and descriptors, handlers NULL. Indexed by the enums; use for clients, copy and fill for
 * servers. */
enum fm_manager_method {
	FM_MANAGER_INFO,
	FM_MANAGER_REPORT,
	FM_MANAGER_LIST_HOSTS,
	FM_MANAGER_GET_HOST,
	FM_MANAGER_RUN_CONTAINER,
	FM_MANAGER_LIST_CONTAINERS,
	FM_MANAGER_GET_CONTAINER,
	FM_MANAGER_REMOVE_CONTAINER,
	FM_MANAGER_MIGRATE,
	FM_MANAGER_GET_MIGRATION,
	FM_MANAGER_LIST_MIGRATIONS,
	FM_MANAGER_CANCEL_MIGRATION,
	FM_MANAGER_WATCH_MIGRATION,
	FM_MANAGER_GET_NETWORK,
	FM_MANAGER_FIND_PATHS,
	FM_MANAGER_CHECK_NETWORK,
	FM_MANAGER_LIST_INTENTS,
	FM_MANAGER_GET_INTENT,
	FM_MANAGER_PLAN,
	FM_MANAGER_GET_PLAN,
	FM_MANAGER_LIST_PLANS,
	FM_MANAGER_CANCEL_PLAN,
	FM_MANAGER_CORDON_HOST,
	FM_MANAGER_GET_SNAPSHOT,
	FM_MANAGER_APPROVE_MIGRATION,
	FM_MANAGER_LIST_POLICIES,
	FM_MANAGER_CAN_MIGRATE,
	_FM_MANAGER_METHOD_MAX
};
extern const struct fm_rpc_method fm_manager_methods[_FM_MANAGER_METHOD_MAX + 1];
extern const struct fm_rpc_method fm_agent_methods[]; /* same order as enum fm_agent_method in migration/agent-api.h */

#endif
