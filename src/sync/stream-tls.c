/* SPDX-License-Identifier: MIT */
/*
 * stream-tls.c - TLS 1.3 under a stream.
 *
 * OpenSSL's connection object is not thread-safe, yet one thread reads while another writes. So the socket never blocks, both sides wait with poll(2) outside (stream.c), and a
 * lock is held for one SSL_* call at a time, at most one 16 KiB record. The lock is a ticket lock: with a plain mutex a busy reader takes it again before the waiting writer
 * has woken up, and an urgent page request would wait behind megabytes of arriving pages.
 *
 * The transport below OpenSSL is a BIO of our own: send(2) with MSG_NOSIGNAL (the stock one raises SIGPIPE), input buffered so that a record does not take two system calls,
 * bytes counted, and the socket's errno and end-of-file kept, so that "the peer is lost" is told from "the peer sent rubbish" without guessing at OpenSSL's queue.
 *
 * Both certificates are checked against one authority; a client also checks that the server's names the host it dialled. No tickets, no resumption, no renegotiation.
 */
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>

#include "basic/cleanup.h"
#include "sync/stream-internal.h"

#define INPUT_BUFFER_BYTES (128u << 10)
#define REKEY_BYTES        (64ull << 30) /* AES-GCM is good for 2^24.5 records (about 380 GB) under one key */

struct ticket_lock {
	pthread_mutex_t mutex;
	pthread_cond_t turn;
	unsigned next, serving;
};

struct fm_tls {
	SSL_CTX *ctx;
	SSL *ssl;
	BIO_METHOD *method;
	struct ticket_lock lock;
	bool established, failed;
	bool write_pending; /* a record is half out: OpenSSL wants the same bytes again */
	uint64_t rekey_bytes, written_since_key;
	uint8_t bounce[FM_TLS_RECORD_BYTES]; /* a frame's header and the start of its payload, as one record */

	/* the transport */
	int fd;
	int sys_errno; /* of the last failed transfer, 0 none */
	bool eof;
	_Atomic uint64_t *wire_bytes;
	size_t in_off, in_len;
	uint8_t in[INPUT_BUFFER_BYTES];
};

FM_DEFINE_CLEANUP(struct fm_tls *, fm_tls_free);

static void ticket_take(struct ticket_lock *l)
{
	pthread_mutex_lock(&l->mutex);
	unsigned mine = l->next++;
	while (mine != l->serving)
		pthread_cond_wait(&l->turn, &l->mutex);
	pthread_mutex_unlock(&l->mutex);
}

static void ticket_give(struct ticket_lock *l)
{
	pthread_mutex_lock(&l->mutex);
	l->serving++;
	if (l->serving != l->next)
		pthread_cond_broadcast(&l->turn);
	pthread_mutex_unlock(&l->mutex);
}

static void tls_enter(struct fm_tls *t)
{
	ticket_take(&t->lock);
	ERR_clear_error();
	t->sys_errno = 0;
}

static int bio_write(BIO *bio, const char *buf, int n)
{
	struct fm_tls *t = BIO_get_data(bio);

	BIO_clear_retry_flags(bio);
	ssize_t r;
	do
		r = send(t->fd, buf, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (r < 0 && errno == EINTR);
	if (r >= 0) {
		atomic_fetch_add_explicit(t->wire_bytes, (uint64_t)r, memory_order_relaxed);
		return (int)r;
	}
	if (errno == EAGAIN || errno == EWOULDBLOCK)
		BIO_set_retry_write(bio);
	else
		t->sys_errno = errno;
	return -1;
}

static ssize_t socket_read(struct fm_tls *t, void *buf, size_t n)
{
	ssize_t r;
	do
		r = recv(t->fd, buf, n, MSG_DONTWAIT);
	while (r < 0 && errno == EINTR);
	if (r > 0)
		atomic_fetch_add_explicit(t->wire_bytes, (uint64_t)r, memory_order_relaxed);
	return r;
}

static int bio_read(BIO *bio, char *buf, int n)
{
	struct fm_tls *t = BIO_get_data(bio);

	BIO_clear_retry_flags(bio);
	if (n <= 0)
		return 0;
	if (t->in_len == 0) {
		ssize_t r = socket_read(t, t->in, sizeof(t->in));
		if (r < 0) {
			if (errno == EAGAIN || errno == EWOULDBLOCK)
				BIO_set_retry_read(bio);
			else
				t->sys_errno = errno;
			return -1;
		}
		if (r == 0) {
			t->eof = true;
			return 0;
		}
		t->in_off = 0;
		t->in_len = (size_t)r;
	}
	size_t take = t->in_len < (size_t)n ? t->in_len : (size_t)n;
	memcpy(buf, t->in + t->in_off, take);
	t->in_off += take;
	t->in_len -= take;
	return (int)take;
}

static long bio_ctrl(BIO *bio, int cmd, long larg, void *parg)
{
	struct fm_tls *t = BIO_get_data(bio);

	switch (cmd) {
	case BIO_CTRL_FLUSH:
		return 1;
	case BIO_CTRL_EOF:
		return t->eof;
	case BIO_CTRL_PENDING:
		return (long)t->in_len;
	default:
		return 0;
	}
}

/* Alerts that mean "I do not accept who you are" */
static bool alert_is_about_identity(int reason)
{
	switch (reason - SSL_AD_REASON_OFFSET) {
	case SSL_AD_BAD_CERTIFICATE:
	case SSL_AD_UNSUPPORTED_CERTIFICATE:
	case SSL_AD_CERTIFICATE_REVOKED:
	case SSL_AD_CERTIFICATE_EXPIRED:
	case SSL_AD_CERTIFICATE_UNKNOWN:
	case SSL_AD_UNKNOWN_CA:
	case SSL_AD_ACCESS_DENIED:
	case SSL_AD_DECRYPT_ERROR:
	case SSL_AD_CERTIFICATE_REQUIRED:
		return true;
	default:
		return false;
	}
}

/* What a failed SSL_* call means for our callers. The lock is held. */
static int tls_fail(struct fm_tls *t, int ssl_error, const char *what, struct fm_error *err)
{
	t->failed = true;
	if (ssl_error == SSL_ERROR_ZERO_RETURN)
		return fm_error_set(err, FM_E_UNAVAILABLE, "%s: the other side closed the connection", what);
	if (t->sys_errno) {
		(void)fm_error_errno(err, t->sys_errno, "%s: the connection broke", what);
		if (err)
			err->code = FM_E_UNAVAILABLE;
		return -1;
	}
	if (t->eof)
		return fm_error_set(err, FM_E_UNAVAILABLE, "%s: the connection was cut", what);

	unsigned long e = ERR_peek_error();
	int reason = ERR_GET_REASON(e);
	const char *text = ERR_reason_error_string(e);
	text = text ? text : "unknown TLS error";

	if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED) {
		(void)fm_error_set(err, FM_E_UNAUTHENTICATED, "%s: the other side's certificate was refused: %s", what,
		                   X509_verify_cert_error_string(SSL_get_verify_result(t->ssl)));
		return fm_error_hint(err, "both hosts need certificates of the same authority, valid now, that carry the host's name and "
		                          "addresses (fleximigrate pki issue)");
	}
	if (alert_is_about_identity(reason) || reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) {
		(void)fm_error_set(err, FM_E_UNAUTHENTICATED, "%s: certificates were refused: %s", what, text);
		return fm_error_hint(err, "both hosts need certificates of the same authority, valid now (fleximigrate pki issue)");
	}
	if (!t->established)
		return fm_error_set(err, FM_E_UNAUTHENTICATED, "%s: no TLS connection could be agreed on: %s", what, text);
	return fm_error_set(err, FM_E_DATA_LOSS, "%s: the encrypted stream is damaged: %s", what, text);
}

/* 0 and *ret_want when it is only a matter of waiting, else -1 */
static int tls_result(struct fm_tls *t, int r, const char *what, short *ret_want, struct fm_error *err)
{
	int e = SSL_get_error(t->ssl, r);
	if (e == SSL_ERROR_WANT_READ) {
		*ret_want = POLLIN;
		return 0;
	}
	if (e == SSL_ERROR_WANT_WRITE) {
		*ret_want = POLLOUT;
		return 0;
	}
	return tls_fail(t, e, what, err);
}

static int ctx_fail(enum fm_code code, const char *path, const char *what, struct fm_error *err)
{
	unsigned long e = ERR_peek_error(); /* the first one is the cause, the others say where it passed by */
	const char *text = ERR_reason_error_string(e);

	if (ERR_SYSTEM_ERROR(e))
		return fm_error_errno(err, ERR_GET_REASON(e), "cannot read %s '%s'", what, path);
	return fm_error_set(err, code, "cannot use %s '%s': %s", what, path, text ? text : "not a PEM file");
}

static int ctx_new(const struct fm_stream_tls *f, bool server, SSL_CTX **ret, struct fm_error *err)
{
	SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
	if (!ctx)
		return fm_error_set(err, FM_E_INTERNAL, "cannot create a TLS context");
	*ret = ctx; /* the caller frees it either way */

	if (SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1 || SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) != 1 ||
	    SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256") != 1)
		return fm_error_set(err, FM_E_INTERNAL, "this OpenSSL has no TLS 1.3");
	SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
	(void)SSL_CTX_set_num_tickets(ctx, 0);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);

	if (SSL_CTX_load_verify_file(ctx, f->ca_pem_path) != 1)
		return ctx_fail(FM_E_INVALID_ARGUMENT, f->ca_pem_path, "certificate authority", err);
	if (SSL_CTX_use_certificate_chain_file(ctx, f->cert_pem_path) != 1)
		return ctx_fail(FM_E_INVALID_ARGUMENT, f->cert_pem_path, "certificate", err);
	if (SSL_CTX_use_PrivateKey_file(ctx, f->key_pem_path, SSL_FILETYPE_PEM) != 1)
		return ctx_fail(FM_E_INVALID_ARGUMENT, f->key_pem_path, "private key", err);
	if (SSL_CTX_check_private_key(ctx) != 1)
		return ctx_fail(FM_E_INVALID_ARGUMENT, f->key_pem_path, "private key", err);
	return 0;
}

static int check_host(SSL *ssl, const char *host, struct fm_error *err)
{
	uint8_t address[sizeof(struct in6_addr)];
	bool literal = inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
	int ok = literal ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host) : SSL_set1_host(ssl, host);

	return ok == 1 ? 0 : fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%s' is no host name that a certificate could carry", host);
}

static int attach_transport(struct fm_tls *t, struct fm_error *err)
{
	t->method = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "fleximigrate socket");
	if (!t->method || BIO_meth_set_write(t->method, bio_write) != 1 || BIO_meth_set_read(t->method, bio_read) != 1 ||
	    BIO_meth_set_ctrl(t->method, bio_ctrl) != 1)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for a TLS connection");

	BIO *bio = BIO_new(t->method);
	if (!bio)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for a TLS connection");
	BIO_set_data(bio, t);
	BIO_set_init(bio, 1);
	SSL_set_bio(t->ssl, bio, bio); /* takes the reference */
	return 0;
}

int fm_tls_new(int fd, const struct fm_stream_tls *files, bool server, const char *host, _Atomic uint64_t *wire_bytes, struct fm_tls **ret,
               struct fm_error *err)
{
	if (!files->ca_pem_path || !files->cert_pem_path || !files->key_pem_path)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "TLS needs an authority, a certificate and a key");

	_fm_cleanup_(fm_tls_freep) struct fm_tls *t = calloc(1, sizeof(*t));
	if (!t)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for a TLS connection");
	pthread_mutex_init(&t->lock.mutex, NULL);
	pthread_cond_init(&t->lock.turn, NULL);
	t->fd = fd;
	t->wire_bytes = wire_bytes;
	t->rekey_bytes = REKEY_BYTES;

	ERR_clear_error();
	if (ctx_new(files, server, &t->ctx, err) < 0)
		return -1;
	t->ssl = SSL_new(t->ctx);
	if (!t->ssl)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for a TLS connection");
	if (host && check_host(t->ssl, host, err) < 0)
		return -1;
	if (attach_transport(t, err) < 0)
		return -1;
	if (server)
		SSL_set_accept_state(t->ssl);
	else
		SSL_set_connect_state(t->ssl);
	*ret = FM_TAKE_PTR(t);
	return 0;
}

void fm_tls_free(struct fm_tls *t)
{
	if (!t)
		return;
	ERR_clear_error();
	if (t->established && !t->failed && !t->write_pending)
		(void)SSL_shutdown(t->ssl); /* one close_notify if the socket takes it; nobody waits for the answer */
	SSL_free(t->ssl);
	SSL_CTX_free(t->ctx);
	BIO_meth_free(t->method);
	ERR_clear_error();
	pthread_cond_destroy(&t->lock.turn);
	pthread_mutex_destroy(&t->lock.mutex);
	free(t);
}

int fm_tls_handshake(struct fm_tls *t, short *ret_want, struct fm_error *err)
{
	tls_enter(t);
	int r = SSL_do_handshake(t->ssl);
	int result = 1;
	if (r == 1)
		t->established = true;
	else
		result = tls_result(t, r, "TLS handshake", ret_want, err);
	ticket_give(&t->lock);
	return result;
}

ssize_t fm_tls_read(struct fm_tls *t, void *buf, size_t n, short *ret_want, struct fm_error *err)
{
	size_t got = 0;

	tls_enter(t);
	int r = SSL_read_ex(t->ssl, buf, n, &got);
	ssize_t result = (ssize_t)got;
	if (r != 1)
		result = tls_result(t, r, "receiving", ret_want, err);
	ticket_give(&t->lock);
	return result;
}

/* The bytes of the next record: in place when one piece has enough, else gathered, so that a frame's header does not become a record of its own. */
static const void *gather_record(struct fm_tls *t, const struct iovec *iov, size_t n_iov, size_t *ret_n)
{
	if (n_iov == 1 || iov[0].iov_len >= FM_TLS_RECORD_BYTES) {
		*ret_n = iov[0].iov_len < FM_TLS_RECORD_BYTES ? iov[0].iov_len : FM_TLS_RECORD_BYTES;
		return iov[0].iov_base;
	}
	size_t len = 0;
	for (size_t i = 0; i < n_iov && len < sizeof(t->bounce); i++) {
		size_t take = iov[i].iov_len < sizeof(t->bounce) - len ? iov[i].iov_len : sizeof(t->bounce) - len;
		if (take)
			memcpy(t->bounce + len, iov[i].iov_base, take);
		len += take;
	}
	*ret_n = len;
	return t->bounce;
}

ssize_t fm_tls_write(struct fm_tls *t, const struct iovec *iov, size_t n_iov, short *ret_want, struct fm_error *err)
{
	size_t n, put = 0;
	const void *record = gather_record(t, iov, n_iov, &n); /* only the one writer gets here, so the bounce buffer needs no lock */

	tls_enter(t);
	if (!t->write_pending && t->written_since_key >= t->rekey_bytes) {
		if (SSL_key_update(t->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) == 1)
			t->written_since_key = 0;
		ERR_clear_error(); /* not possible just now: next record */
	}
	int r = SSL_write_ex(t->ssl, record, n, &put);
	ssize_t result = (ssize_t)put;
	t->write_pending = false;
	if (r != 1) {
		result = tls_result(t, r, "sending", ret_want, err);
		t->write_pending = result == 0;
	}
	t->written_since_key += put;
	ticket_give(&t->lock);
	return result;
}

void fm_tls_set_rekey_bytes(struct fm_tls *t, uint64_t bytes)
{
	ticket_take(&t->lock);
	t->rekey_bytes = bytes;
	ticket_give(&t->lock);
}
