/* SPDX-License-Identifier: MIT */
/*
 * grpc-server.h - what grpc-server.c (listening, beginning and end) and grpc-server-call.c (calls, their threads) share; internal to rpc/.
 */
#ifndef FM_RPC_GRPC_SERVER_H
#define FM_RPC_GRPC_SERVER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "rpc/grpc-common.h"
#include "rpc/rpc.h"

enum op_kind { OP_NEW, OP_READ, OP_CLOSE, OP_SEND, OP_END, OP_SHUTDOWN };

struct op {
	struct fm_rpc_server *server;
	struct fm_rpc_call *call;
	enum op_kind kind;
};

enum call_state { CALL_WAITING, CALL_READING, CALL_QUEUED, CALL_RUNNING, CALL_ENDING, CALL_RETIRED };

struct fm_rpc_call {
	struct fm_rpc_server *server;
	struct op op_new, op_read, op_close, op_send, op_end;
	enum call_state state; /* under server->lock */
	uint64_t since_ms;     /* of the state; under server->lock */
	struct fm_rpc_call *next;

	grpc_call *call;
	grpc_call_details details;
	grpc_metadata_array metadata;
	grpc_byte_buffer *payload;
	const struct fm_rpc_method *method;
	char peer[128];

	int was_cancelled;          /* written by gRPC */
	atomic_bool cancelled;      /* the client went away */
	bool closed, ended;         /* i/o thread's */
	bool initial_sent;          /* worker's */
	bool send_pending, send_ok; /* under server->lock */
	pthread_cond_t sent;

	/* must live until the last batch is done */
	grpc_byte_buffer *response;
	grpc_slice status_details, trailer_hint, trailer_phase;
	grpc_metadata trailers[2];
};

struct unix_peer {
	pid_t pid;
	uid_t uid;
	bool known;
};

struct fm_rpc_server {
	struct fm_rpc_method *methods; /* a copy of both tables, ends with .path = NULL */
	void *userdata;

	grpc_server *server;
	grpc_completion_queue *cq;
	grpc_server_credentials *local_credentials;
	struct op op_shutdown;
	uint16_t tcp_port;

	char *unix_path;
	int listen_fd, stop_fd;
	dev_t unix_dev; /* the socket file that is ours to remove */
	ino_t unix_ino;

	pthread_t io_thread, accept_thread;
	pthread_t *workers;
	unsigned n_workers, max_streams;
	bool io_running, accept_running;

	pthread_mutex_t lock;
	pthread_cond_t work;     /* queue, stop_workers */
	pthread_cond_t progress; /* n_active, shutdown_done, workers_alive */
	struct fm_rpc_call *queue_head, **queue_tail;
	bool stop_workers, shutdown_done;
	unsigned n_streams, n_active, workers_alive;
	struct unix_peer *unix_peers; /* indexed by descriptor */
	size_t n_unix_peers;
	atomic_bool stopping;   /* no new calls; streams should end */
	atomic_bool cancelling; /* everything should end */

	struct fm_rpc_call *calls;
	size_t n_calls;
};

/* grpc-server-call.c */
void *fm_grpc_io_main(void *server);
void *fm_grpc_worker_main(void *server);
/* Ask gRPC for one more call into this object. */
void fm_grpc_call_arm(struct fm_rpc_call *call);

#endif
