/* SPDX-License-Identifier: MIT */
/*
 * grpc-server.c - design note: threads, listening, beginning and end. A call's life is in grpc-server-call.c.
 *
 * Threads. One i/o thread owns the completion queue: it alone polls, receives new calls, reads their request bytes and recycles finished
 * calls, and it never waits for a handler, so that deadlines, cancellations and keepalives work while every worker is busy. Workers
 * decode and run handlers. One accept thread takes connections on the Unix socket, because the peer's credentials can only be checked
 * before gRPC gets the descriptor.
 *
 * fm_rpc_server_free never hangs: a handler that ignores its cancellation for STUCK_MS is left behind together with the server's memory
 * and threads.
 */
#include <errno.h>
#include <grpc/grpc_posix.h>
#include <grpc/support/time.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "rpc/grpc-server.h"
#include "rpc/tls-files.h"

#define THREADS_DEFAULT      16
#define THREADS_MIN          4
#define THREADS_MAX          256
#define CALLS_BEYOND_THREADS 16  /* calls being read, refused or answered while all workers are busy */
#define FLUSH_MS             200 /* for polite goodbyes to idle connections */
#define STUCK_MS             10000

/* ---- small helpers */

static void cond_init_monotonic(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	(void)pthread_condattr_init(&attr);
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	(void)pthread_cond_init(cond, &attr);
	(void)pthread_condattr_destroy(&attr);
}

static struct timespec at_ms(uint64_t monotonic_ms)
{
	return (struct timespec){ .tv_sec = (time_t)(monotonic_ms / 1000), .tv_nsec = (long)(monotonic_ms % 1000) * 1000000 };
}

/* ---- Unix socket */

static void remember_unix_peer(struct fm_rpc_server *s, int fd, const struct ucred *cred)
{
	size_t n = (size_t)fd + 1;

	pthread_mutex_lock(&s->lock);
	if (n > s->n_unix_peers) {
		struct unix_peer *bigger = reallocarray(s->unix_peers, n + 64, sizeof(*bigger));

		if (bigger) {
			memset(bigger + s->n_unix_peers, 0, (n + 64 - s->n_unix_peers) * sizeof(*bigger));
			s->unix_peers = bigger;
			s->n_unix_peers = n + 64;
		}
	}
	if (n <= s->n_unix_peers)
		s->unix_peers[fd] = (struct unix_peer){ .pid = cred->pid, .uid = cred->uid, .known = true };
	pthread_mutex_unlock(&s->lock);
}

static void accept_one(struct fm_rpc_server *s)
{
	_fm_close_ int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ucred cred = { .uid = (uid_t)-1 };
	socklen_t len = sizeof(cred);

	if (fd < 0) {
		/* Out of descriptors or memory: the connection stays in the backlog; look again soon instead of spinning. */
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
			(void)fm_wait_fd(s->stop_fd, POLLIN, 100, NULL);
		return;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0 || (cred.uid != 0 && cred.uid != geteuid()))
		return;
	remember_unix_peer(s, fd, &cred);
	grpc_server_add_channel_from_fd(s->server, FM_TAKE_FD(fd), s->local_credentials);
}

static void *accept_main(void *arg)
{
	struct fm_rpc_server *s = arg;
	struct pollfd p[2] = { { .fd = s->stop_fd, .events = POLLIN }, { .fd = s->listen_fd, .events = POLLIN } };

	for (;;) {
		if (poll(p, 2, -1) < 0)
			continue; /* EINTR only: all signals are blocked, but a debugger may interrupt */
		if (p[0].revents)
			return NULL;
		if (p[1].revents)
			accept_one(s);
	}
}

static int listen_unix(struct fm_rpc_server *s, const char *path, struct fm_error *err)
{
	struct stat st;

	if (fm_unix_listen(path, SOCK_STREAM, 0600, &s->listen_fd, err) < 0)
		return -1;
	s->unix_path = fm_xstrdup(path);
	if (lstat(path, &st) == 0) {
		s->unix_dev = st.st_dev;
		s->unix_ino = st.st_ino;
	}
	s->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->stop_fd < 0)
		return fm_error_errno(err, errno, "cannot listen on %s", path);
	s->local_credentials = grpc_insecure_server_credentials_create();
	return fm_set_nonblocking(s->listen_fd, true, err);
}

static void stop_accepting(struct fm_rpc_server *s)
{
	struct stat st;

	if (s->accept_running) {
		(void)eventfd_write(s->stop_fd, 1);
		(void)pthread_join(s->accept_thread, NULL);
		s->accept_running = false;
	}
	/* Nobody takes connections any more: who waits in the backlog shall know now. */
	if (s->listen_fd >= 0)
		(void)close(FM_TAKE_FD(s->listen_fd));
	/* A successor may have bound the path anew. */
	if (s->unix_path && lstat(s->unix_path, &st) == 0 && st.st_dev == s->unix_dev && st.st_ino == s->unix_ino)
		(void)unlink(s->unix_path);
}

/* ---- TCP */

static int listen_tcp(struct fm_rpc_server *s, const struct fm_rpc_server_opts *opts, struct fm_error *err)
{
	_fm_cleanup_(fm_tls_files_done) struct fm_tls_files files = { 0 };
	_fm_close_ int probe_fd = -1;
	grpc_ssl_pem_key_cert_pair pair;
	grpc_server_credentials *credentials;
	int port;

	if (fm_tls_files_load(&opts->tls, &files, err) < 0)
		return fm_error_prefix(err, "cannot listen on %s", opts->tcp_address);
	pair = (grpc_ssl_pem_key_cert_pair){ .private_key = files.key_pem, .cert_chain = files.cert_pem };
	credentials = grpc_ssl_server_credentials_create_ex(files.ca_pem, &pair, 1,
	                                                    GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY, NULL);
	port = grpc_server_add_http2_port(s->server, opts->tcp_address, credentials);
	grpc_server_credentials_release(credentials);
	if (port > 0) {
		s->tcp_port = (uint16_t)port;
		return 0;
	}
	/* gRPC does not say why; an attempt of our own does. */
	if (fm_tcp_listen(opts->tcp_address, 1, &probe_fd, err) == 0)
		fm_error_set(err, FM_E_INTERNAL, "cannot listen on %s: gRPC refused without a reason", opts->tcp_address);
	return fm_error_hint(err, "is another fleximigrate running, and does this host have that address?");
}

/* ---- construction and end */

static int copy_methods(struct fm_rpc_server *s, const struct fm_rpc_server_opts *opts, struct fm_error *err)
{
	const struct fm_rpc_method *tables[] = { opts->methods, opts->more_methods };
	size_t n = 0;

	for (size_t t = 0; t < FM_ARRAY_SIZE(tables); t++)
		for (const struct fm_rpc_method *m = tables[t]; m && m->path; m++)
			n++;
	s->methods = calloc(n + 1, sizeof(*s->methods));
	if (!s->methods)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "cannot start a server: out of memory");
	n = 0;
	for (size_t t = 0; t < FM_ARRAY_SIZE(tables); t++)
		for (const struct fm_rpc_method *m = tables[t]; m && m->path; m++)
			s->methods[n++] = *m;
	return 0;
}

static int make_calls(struct fm_rpc_server *s, unsigned n_threads, struct fm_error *err)
{
	s->n_calls = n_threads + CALLS_BEYOND_THREADS;
	s->calls = calloc(s->n_calls, sizeof(*s->calls));
	s->workers = calloc(n_threads, sizeof(*s->workers));
	if (!s->calls || !s->workers)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "cannot start a server: out of memory");
	for (size_t i = 0; i < s->n_calls; i++) {
		struct fm_rpc_call *call = &s->calls[i];

		call->server = s;
		call->state = CALL_RETIRED;
		cond_init_monotonic(&call->sent);
		call->op_new = (struct op){ s, call, OP_NEW };
		call->op_read = (struct op){ s, call, OP_READ };
		call->op_close = (struct op){ s, call, OP_CLOSE };
		call->op_send = (struct op){ s, call, OP_SEND };
		call->op_end = (struct op){ s, call, OP_END };
	}
	return 0;
}

static grpc_server *make_grpc_server(void)
{
	grpc_arg args[] = {
		fm_grpc_arg_int(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, FM_MAX_RPC_MESSAGE_BYTES),
		fm_grpc_arg_int(GRPC_ARG_MAX_CONCURRENT_STREAMS, 128), /* per connection */
		fm_grpc_arg_int(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 10000),
		fm_grpc_arg_int(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1), /* none: no decompression bombs */
		fm_grpc_arg_int(GRPC_ARG_ALLOW_REUSEPORT, 0), /* a second server on a port is a mistake, not load balancing */
		/* Notice clients on dead hosts, and let clients do the same with us. */
		fm_grpc_arg_int(GRPC_ARG_KEEPALIVE_TIME_MS, 10000),
		fm_grpc_arg_int(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000),
		fm_grpc_arg_int(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
		fm_grpc_arg_int(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
		fm_grpc_arg_int(GRPC_ARG_HTTP2_MIN_SENT_PING_INTERVAL_WITHOUT_DATA_MS, 5000),
		fm_grpc_arg_int(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1000),
		fm_grpc_arg_int(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0),
	};
	grpc_channel_args all = { .num_args = FM_ARRAY_SIZE(args), .args = args };

	return grpc_server_create(&all, NULL);
}

static int start_thread(pthread_t *thread, void *(*fn)(void *), struct fm_rpc_server *s, struct fm_error *err)
{
	int r = pthread_create(thread, NULL, fn, s);

	return r == 0 ? 0 : fm_error_errno(err, r, "cannot start a thread of the RPC server");
}

/* Threads come first: whatever fails later, the i/o thread can bring the server to its end. */
static int start_threads(struct fm_rpc_server *s, unsigned n_threads, struct fm_error *err)
{
	if (start_thread(&s->io_thread, fm_grpc_io_main, s, err) < 0)
		return -1;
	s->io_running = true;
	for (; s->n_workers < n_threads; s->n_workers++) {
		pthread_mutex_lock(&s->lock);
		s->workers_alive++;
		pthread_mutex_unlock(&s->lock);
		if (start_thread(&s->workers[s->n_workers], fm_grpc_worker_main, s, err) < 0) {
			pthread_mutex_lock(&s->lock);
			s->workers_alive--;
			pthread_mutex_unlock(&s->lock);
			return -1;
		}
	}
	return 0;
}

enum wait_for { WAIT_IDLE, WAIT_SHUTDOWN, WAIT_BOTH, WAIT_WORKERS };

static bool wait_until(struct fm_rpc_server *s, enum wait_for what, int timeout_ms)
{
	struct timespec deadline = at_ms(fm_now_ms() + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0));
	bool done = false;

	pthread_mutex_lock(&s->lock);
	for (int r = 0;;) {
		bool idle = s->n_active == 0;

		done = what == WAIT_IDLE       ? idle
		       : what == WAIT_SHUTDOWN ? s->shutdown_done
		       : what == WAIT_WORKERS  ? s->workers_alive == 0
		                               : idle && s->shutdown_done;
		if (done || r == ETIMEDOUT)
			break;
		r = pthread_cond_timedwait(&s->progress, &s->lock, &deadline);
	}
	pthread_mutex_unlock(&s->lock);
	return done;
}

/* Returns false when a handler does not end. */
static bool drain(struct fm_rpc_server *s, int grace_ms)
{
	grpc_server_shutdown_and_notify(s->server, s->cq, &s->op_shutdown);
	/* The last answers leave the socket while gRPC says goodbye to the connections; a peer that does not reply to that has had its time. */
	if (wait_until(s, WAIT_IDLE, grace_ms))
		(void)wait_until(s, WAIT_SHUTDOWN, FLUSH_MS);
	atomic_store(&s->cancelling, true);
	grpc_server_cancel_all_calls(s->server);
	return wait_until(s, WAIT_BOTH, STUCK_MS);
}

static bool stop_workers(struct fm_rpc_server *s, bool wait)
{
	pthread_mutex_lock(&s->lock);
	s->stop_workers = true;
	pthread_cond_broadcast(&s->work);
	pthread_mutex_unlock(&s->lock);
	if (!wait || !wait_until(s, WAIT_WORKERS, STUCK_MS))
		return false;
	for (unsigned i = 0; i < s->n_workers; i++)
		(void)pthread_join(s->workers[i], NULL);
	return true;
}

static void free_memory(struct fm_rpc_server *s)
{
	for (size_t i = 0; s->calls && i < s->n_calls; i++)
		(void)pthread_cond_destroy(&s->calls[i].sent);
	if (s->local_credentials)
		grpc_server_credentials_release(s->local_credentials);
	if (s->stop_fd >= 0)
		(void)close(s->stop_fd);
	(void)pthread_cond_destroy(&s->work);
	(void)pthread_cond_destroy(&s->progress);
	(void)pthread_mutex_destroy(&s->lock);
	free(s->unix_peers);
	free(s->unix_path);
	free(s->calls);
	free(s->workers);
	free(s->methods);
	free(s);
	fm_grpc_unref();
}

void fm_rpc_server_free(struct fm_rpc_server *s, int grace_ms)
{
	bool drained;

	if (!s)
		return;
	atomic_store(&s->stopping, true);
	stop_accepting(s);
	drained = !s->io_running || drain(s, grace_ms);
	if (!stop_workers(s, drained))
		return; /* left behind on purpose, see rpc.h */
	if (s->cq)
		grpc_completion_queue_shutdown(s->cq);
	if (s->io_running)
		(void)pthread_join(s->io_thread, NULL);
	if (s->server)
		grpc_server_destroy(s->server);
	if (s->cq)
		grpc_completion_queue_destroy(s->cq);
	free_memory(s);
}

static int setup(struct fm_rpc_server *s, const struct fm_rpc_server_opts *opts, struct fm_error *err)
{
	unsigned n_threads = opts->n_threads ? opts->n_threads : THREADS_DEFAULT;

	if (!opts->unix_path && !opts->tcp_address)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "an RPC server needs an address to listen on");
	if (n_threads < THREADS_MIN)
		n_threads = THREADS_MIN;
	if (n_threads > THREADS_MAX)
		n_threads = THREADS_MAX;
	s->max_streams = n_threads - 2;
	if (copy_methods(s, opts, err) < 0 || make_calls(s, n_threads, err) < 0)
		return -1;
	s->server = make_grpc_server();
	s->cq = grpc_completion_queue_create_for_next(NULL);
	grpc_server_register_completion_queue(s->server, s->cq, NULL);
	if (start_threads(s, n_threads, err) < 0)
		return -1;
	if (opts->tcp_address && listen_tcp(s, opts, err) < 0)
		return -1;
	if (opts->unix_path && listen_unix(s, opts->unix_path, err) < 0)
		return -1;
	grpc_server_start(s->server);
	for (size_t i = 0; i < s->n_calls; i++)
		fm_grpc_call_arm(&s->calls[i]);
	if (s->listen_fd < 0)
		return 0;
	if (start_thread(&s->accept_thread, accept_main, s, err) < 0)
		return -1;
	s->accept_running = true;
	return 0;
}

int fm_rpc_server_new(const struct fm_rpc_server_opts *opts, struct fm_rpc_server **ret, struct fm_error *err)
{
	struct fm_rpc_server *s = calloc(1, sizeof(*s));
	sigset_t mask;
	int r;

	if (!s)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "cannot start a server: out of memory");
	s->listen_fd = s->stop_fd = -1;
	s->userdata = opts->userdata;
	s->queue_tail = &s->queue_head;
	s->op_shutdown = (struct op){ .server = s, .kind = OP_SHUTDOWN };
	(void)pthread_mutex_init(&s->lock, NULL);
	cond_init_monotonic(&s->work);
	cond_init_monotonic(&s->progress);
	fm_grpc_ref(&mask);
	r = setup(s, opts, err);
	fm_grpc_unmask(&mask);
	if (r < 0) {
		fm_rpc_server_free(s, 0);
		return -1;
	}
	*ret = s;
	return 0;
}

uint16_t fm_rpc_server_tcp_port(const struct fm_rpc_server *s)
{
	return s->tcp_port;
}
