/* SPDX-License-Identifier: MIT */
/*
 * test-stream-tls.c - streams over TLS on loopback, with certificates made here: who is let in, who is not, and what happens to bytes that somebody changes on the way.
 */
#include "stream-lab.h"

#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <signal.h>

#include "basic/str.h"

struct pki {
	char *dir;
	struct fm_stream_tls host, other, wrong_name; /* signed by the authority, by another one, for another host */
	char paths[8][96];
};

static EVP_PKEY *new_key(const char *path)
{
	EVP_PKEY *k = EVP_EC_gen("P-256");
	FILE *f = fopen(path, "we");
	assert_non_null(k);
	assert_non_null(f);
	assert_int_equal(1, PEM_write_PrivateKey(f, k, NULL, NULL, 0, NULL, NULL));
	fclose(f);
	return k;
}

static void add_extension(X509 *x, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX c;
	X509V3_set_ctx_nodb(&c);
	X509V3_set_ctx(&c, issuer, x, NULL, NULL, 0);
	X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &c, nid, value);
	assert_non_null(e);
	X509_add_ext(x, e, -1);
	X509_EXTENSION_free(e);
}

static X509 *new_cert(const char *path, const char *name, const char *san, EVP_PKEY *key, X509 *issuer, EVP_PKEY *issuer_key)
{
	X509 *x = X509_new();
	static long serial;

	X509_set_version(x, X509_VERSION_3);
	ASN1_INTEGER_set(X509_get_serialNumber(x), ++serial);
	X509_gmtime_adj(X509_getm_notBefore(x), -60);
	X509_gmtime_adj(X509_getm_notAfter(x), 3600);
	X509_set_pubkey(x, key);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_UTF8, (const unsigned char *)name, -1, -1, 0);
	X509_set_issuer_name(x, X509_get_subject_name(issuer ? issuer : x));
	add_extension(x, issuer ? issuer : x, NID_basic_constraints, issuer ? "CA:FALSE" : "critical,CA:TRUE");
	if (issuer)
		add_extension(x, issuer, NID_ext_key_usage, "serverAuth,clientAuth");
	if (san)
		add_extension(x, issuer, NID_subject_alt_name, san);
	assert_true(X509_sign(x, issuer_key, EVP_sha256()) > 0);
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	assert_int_equal(1, PEM_write_X509(f, x));
	fclose(f);
	return x;
}

static int pki_setup(void **state)
{
	struct pki *p = calloc(1, sizeof(*p));
	static const char *const names[8] = { "ca.pem",       "ca.key",    "host.pem",  "host.key",
		                              "other-ca.pem", "other.pem", "wrong.pem", "plain.txt" };

	p->dir = fm_xstrdup("/tmp/fm-test-stream-XXXXXX");
	if (!mkdtemp(p->dir))
		return -1;
	for (int i = 0; i < 8; i++)
		snprintf(p->paths[i], sizeof(p->paths[i]), "%s/%s", p->dir, names[i]);
	EVP_PKEY *ca_key = new_key(p->paths[1]), *key = new_key(p->paths[3]);
	X509 *ca = new_cert(p->paths[0], "test authority", NULL, ca_key, NULL, ca_key);
	X509 *host = new_cert(p->paths[2], "a", "DNS:localhost,IP:127.0.0.1,IP:::1", key, ca, ca_key);
	X509 *other_ca = new_cert(p->paths[4], "other authority", NULL, key, NULL, key);
	X509 *other = new_cert(p->paths[5], "a", "DNS:localhost,IP:127.0.0.1", key, other_ca, key);
	X509 *wrong = new_cert(p->paths[6], "b", "DNS:elsewhere.example,IP:192.0.2.1", key, ca, ca_key);
	p->host = (struct fm_stream_tls){ p->paths[0], p->paths[2], p->paths[3] };
	p->other = (struct fm_stream_tls){ p->paths[4], p->paths[5], p->paths[3] };
	p->wrong_name = (struct fm_stream_tls){ p->paths[0], p->paths[6], p->paths[3] };
	X509_free(ca);
	X509_free(host);
	X509_free(other_ca);
	X509_free(other);
	X509_free(wrong);
	EVP_PKEY_free(ca_key);
	EVP_PKEY_free(key);
	*state = p;
	return 0;
}

static int pki_teardown(void **state)
{
	struct pki *p = *state;
	struct fm_error e = FM_ERROR_INIT;
	int r = fm_remove_tree(p->dir, &e);
	free(p->dir);
	free(p);
	return r;
}

static const struct fm_stream_hello control = { .role = FM_STREAM_CONTROL }, pages = { .role = FM_STREAM_PAGES };

struct server {
	int listen_fd;
	char address[32];
	const struct fm_stream_tls *tls;
	const char *token, *id;
	int timeout_ms;
	pthread_t thread;
	struct fm_stream *stream;
	struct fm_stream_hello what;
	struct fm_error err;
};

static void *serve_one(void *arg)
{
	struct server *s = arg;
	int fd;

	if (fm_accept(s->listen_fd, WAIT_MS, -1, &fd, &s->err) == 0)
		fm_stream_accept(fd, s->tls, s->token, s->id, s->timeout_ms, &s->what, &s->stream, &s->err);
	return NULL;
}

static void server_start(struct server *s, const struct fm_stream_tls *tls)
{
	uint16_t port;

	*s = (struct server){ .tls = tls, .token = TOKEN, .id = ID, .timeout_ms = WAIT_MS };
	assert_ok(fm_tcp_listen("127.0.0.1:0", 4, &s->listen_fd, &err));
	assert_ok(fm_tcp_local_port(s->listen_fd, &port, &err));
	snprintf(s->address, sizeof(s->address), "127.0.0.1:%u", port);
	pthread_create(&s->thread, NULL, serve_one, s);
}

static void server_join(struct server *s)
{
	pthread_join(s->thread, NULL);
	close(s->listen_fd);
}

static void tls_pair(struct pki *p, struct fm_stream **client, struct fm_stream **server)
{
	struct server s;

	server_start(&s, p ? &p->host : NULL);
	assert_ok(fm_stream_connect(s.address, p ? &p->host : NULL, TOKEN, ID, &pages, WAIT_MS, client, &err));
	server_join(&s);
	assert_string_equal("", s.err.message);
	assert_int_equal(FM_STREAM_PAGES, s.what.role);
	*server = s.stream;
}

static void test_tls_frames(void **state)
{
	struct fm_stream *a, *b;
	pthread_t t;

	tls_pair(*state, &a, &b);
	pthread_create(&t, NULL, send_sizes, a);
	receive_sizes(b);
	pthread_join(t, NULL);
	pthread_create(&t, NULL, send_sizes, b);
	receive_sizes(a);
	pthread_join(t, NULL);
	/* what TLS adds is counted, and no more than that */
	uint64_t plain = 2 * (FM_MAX_FRAME_BYTES + 250000u);
	assert_true(fm_stream_bytes(a) > 2 * (uint64_t)FM_MAX_FRAME_BYTES && fm_stream_bytes(a) < plain + plain / 20);
	fm_stream_free(a);
	struct fm_frame_header h;
	assert_code(FM_E_UNAVAILABLE, fm_stream_recv(b, &h, NULL, 0, WAIT_MS, -1, &err)); /* said good-bye */
	fm_stream_free(b);
}

static void test_tls_rekey(void **state)
{
	struct fm_stream *a, *b;

	tls_pair(*state, &a, &b);
	fm_stream_set_rekey_bytes(a, 100000);
	fm_stream_set_rekey_bytes(b, 70000);
	run_duplex(a, b, 64, 65536, "TLS, new keys all the time");
	fm_stream_free(a);
	fm_stream_free(b);
}

static void test_tls_throughput(void **state)
{
	struct fm_stream *a, *b;

	tls_pair(NULL, &a, &b);
	run_simplex(a, b, 256, FM_MAX_FRAME_BYTES, "plain loopback");
	fm_stream_free(a);
	fm_stream_free(b);
	tls_pair(*state, &a, &b);
	run_simplex(a, b, 256, FM_MAX_FRAME_BYTES, "TLS loopback");
	run_simplex(a, b, 10000, 4096, "TLS loopback");
	run_duplex(a, b, 96, FM_MAX_FRAME_BYTES, "TLS loopback");
	fm_stream_free(a);
	fm_stream_free(b);
}

/* Both sides' codes when the client comes with these credentials */
static void expect_hello(const struct fm_stream_tls *server_tls, const struct fm_stream_tls *client_tls, const char *token, const char *id,
                         enum fm_code client_code, enum fm_code server_code)
{
	struct server s;
	struct fm_stream *c = NULL;

	server_start(&s, server_tls);
	assert_code(client_code, fm_stream_connect(s.address, client_tls, token, id, &control, WAIT_MS, &c, &err));
	assert_null(c);
	struct fm_error client_err = err;
	server_join(&s);
	assert_null(s.stream);
	if (s.err.code != server_code)
		fail_msg("server: %s instead of %s: %s (client: %s)", fm_code_to_string(s.err.code), fm_code_to_string(server_code),
		         s.err.message, client_err.message);
}

static void test_tls_refusals(void **state)
{
	struct pki *p = *state;

	expect_hello(&p->host, &p->host, "0123456789abcdef0123456789abcdee", ID, FM_E_UNAUTHENTICATED, FM_E_UNAUTHENTICATED);
	expect_hello(&p->host, &p->host, "0", ID, FM_E_UNAUTHENTICATED, FM_E_UNAUTHENTICATED);
	expect_hello(&p->host, &p->host, TOKEN, "m-000000000000", FM_E_UNAUTHENTICATED, FM_E_UNAUTHENTICATED);
	/* another authority, on either side, and on the client's side only (its certificate is what is wrong) */
	expect_hello(&p->host, &p->other, TOKEN, ID, FM_E_UNAUTHENTICATED, FM_E_UNAUTHENTICATED);
	struct fm_stream_tls mixed = { p->host.ca_pem_path, p->other.cert_pem_path, p->other.key_pem_path };
	expect_hello(&p->host, &mixed, TOKEN, ID, FM_E_UNAUTHENTICATED, FM_E_UNAUTHENTICATED);
	/* a genuine host, but not the one that was dialled */
	expect_hello(&p->wrong_name, &p->host, TOKEN, ID, FM_E_UNAUTHENTICATED, FM_E_UNAUTHENTICATED);
}

static void test_tls_files(void **state)
{
	struct pki *p = *state;
	struct fm_stream *s;
	struct fm_stream_tls bad = p->host;
	int sv[2];
	struct fm_stream_hello what;

	bad.cert_pem_path = "/nonexistent/cert.pem";
	assert_int_equal(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
	assert_code(FM_E_NOT_FOUND, fm_stream_accept(sv[0], &bad, TOKEN, ID, WAIT_MS, &what, &s, &err));
	assert_non_null(strstr(err.message, "/nonexistent/cert.pem"));
	close(sv[1]);
	bad = p->host;
	bad.key_pem_path = p->paths[1]; /* the key of another certificate */
	assert_int_equal(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
	assert_code(FM_E_INVALID_ARGUMENT, fm_stream_accept(sv[0], &bad, TOKEN, ID, WAIT_MS, &what, &s, &err));
	close(sv[1]);
	assert_int_equal(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
	assert_code(FM_E_INVALID_ARGUMENT,
	            fm_stream_accept(sv[0], &p->host, "", ID, WAIT_MS, &what, &s, &err)); /* an empty token would let everybody in */
	close(sv[1]);
}

/* Clients that are not ours: no certificate, an old TLS, no TLS at all, nothing */
static void *rude_client(void *arg)
{
	const char *kind = ((void **)arg)[0], *address = ((void **)arg)[1];
	struct fm_error e = FM_ERROR_INIT;
	char c[64];
	int fd;

	if (fm_tcp_connect(address, WAIT_MS, &fd, &e) < 0)
		return NULL;
	if (strcmp(kind, "plain") == 0) {
		(void)!write(fd, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27);
	} else if (strcmp(kind, "silent") != 0) {
		SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
		if (strcmp(kind, "old") == 0)
			SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION);
		SSL *ssl = SSL_new(ctx);
		SSL_set_fd(ssl, fd);
		if (SSL_connect(ssl) == 1)
			(void)SSL_read(ssl, c, sizeof(c));
		SSL_free(ssl);
		SSL_CTX_free(ctx);
	}
	while (read(fd, c, sizeof(c)) > 0)
		;
	close(fd);
	return NULL;
}

static void expect_rude(struct pki *p, const char *kind, int timeout_ms, enum fm_code code)
{
	uint16_t port;
	char address[32];
	int fd, listen_fd;
	struct fm_stream *s = NULL;
	struct fm_stream_hello what;
	pthread_t t;

	assert_ok(fm_tcp_listen("127.0.0.1:0", 4, &listen_fd, &err));
	assert_ok(fm_tcp_local_port(listen_fd, &port, &err));
	snprintf(address, sizeof(address), "127.0.0.1:%u", port);
	const void *arg[2] = { kind, address };
	pthread_create(&t, NULL, rude_client, arg);
	assert_ok(fm_accept(listen_fd, WAIT_MS, -1, &fd, &err));
	assert_code(code, fm_stream_accept(fd, &p->host, TOKEN, ID, timeout_ms, &what, &s, &err));
	assert_null(s);
	pthread_join(t, NULL);
	close(listen_fd);
}

static void test_tls_rude_clients(void **state)
{
	signal(SIGPIPE, SIG_IGN); /* OpenSSL's own socket code in rude_client */
	expect_rude(*state, "no certificate", WAIT_MS, FM_E_UNAUTHENTICATED);
	expect_rude(*state, "old", WAIT_MS, FM_E_UNAUTHENTICATED);
	expect_rude(*state, "plain", WAIT_MS, FM_E_UNAUTHENTICATED);
	expect_rude(*state, "silent", 50, FM_E_DEADLINE_EXCEEDED);
	signal(SIGPIPE, SIG_DFL);
}

/* Somebody on the wire who changes one byte of what the client sends, or cuts. Accepts one client and forwards. */
struct middle {
	int listen_fd;
	char address[32];
	const char *server_address;
	size_t damage_at, cut_at; /* counted from the client's first byte; 0 = never */
	pthread_t thread;
};

static void *run_middle(void *arg)
{
	struct middle *m = arg;
	struct fm_error e = FM_ERROR_INIT;
	uint8_t buf[4096];
	size_t seen = 0;
	int client, server;

	if (fm_accept(m->listen_fd, WAIT_MS, -1, &client, &e) < 0)
		return NULL;
	if (fm_tcp_connect(m->server_address, WAIT_MS, &server, &e) < 0) {
		close(client);
		return NULL;
	}
	for (;;) {
		struct pollfd p[2] = { { .fd = client, .events = POLLIN }, { .fd = server, .events = POLLIN } };
		if (poll(p, 2, WAIT_MS) <= 0)
			break;
		bool up = p[0].revents;
		ssize_t n = read(up ? client : server, buf, sizeof(buf));
		if (n <= 0)
			break;
		if (up && m->cut_at && seen + (size_t)n > m->cut_at)
			break;
		if (up && m->damage_at && seen <= m->damage_at && m->damage_at < seen + (size_t)n)
			buf[m->damage_at - seen] ^= 1;
		seen += up ? (size_t)n : 0;
		if (send(up ? server : client, buf, (size_t)n, MSG_NOSIGNAL) != n)
			break;
	}
	close(client);
	close(server);
	return NULL;
}

static void expect_on_wire(struct pki *p, size_t damage_at, size_t cut_at, enum fm_code code)
{
	struct server s;
	struct fm_stream *c;
	struct middle m = { .damage_at = damage_at, .cut_at = cut_at };
	uint16_t port;
	struct fm_frame_header h;
	uint8_t *buf = calloc(1, FM_MAX_FRAME_BYTES);

	server_start(&s, &p->host);
	m.server_address = s.address;
	assert_ok(fm_tcp_listen("127.0.0.1:0", 4, &m.listen_fd, &err));
	assert_ok(fm_tcp_local_port(m.listen_fd, &port, &err));
	snprintf(m.address, sizeof(m.address), "127.0.0.1:%u", port);
	pthread_create(&m.thread, NULL, run_middle, &m);
	assert_ok(fm_stream_connect(m.address, &p->host, TOKEN, ID, &control, WAIT_MS, &c, &err));
	server_join(&s);
	assert_string_equal("", s.err.message);
	assert_int_equal(FM_STREAM_CONTROL, s.what.role);

	struct load out = { .s = c, .frames = 8, .bytes = 65536 };
	pthread_t t;
	pthread_create(&t, NULL, send_load, &out);
	int r = 0;
	err = FM_ERROR_INIT;
	for (int i = 0; i < 9 && r == 0; i++)
		r = fm_stream_recv(s.stream, &h, buf, FM_MAX_FRAME_BYTES, WAIT_MS, -1, &err);
	assert_int_equal(-1, r);
	assert_int_equal(code, err.code);
	fm_stream_shutdown(s.stream);
	pthread_join(t, NULL);
	fm_stream_free(c);
	fm_stream_free(s.stream);
	pthread_join(m.thread, NULL);
	close(m.listen_fd);
	free(buf);
}

static void test_tls_on_wire(void **state)
{
	expect_on_wire(*state, 100000, 0, FM_E_DATA_LOSS);
	expect_on_wire(*state, 0, 100000, FM_E_UNAVAILABLE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tls_frames),   cmocka_unit_test(test_tls_rekey), cmocka_unit_test(test_tls_throughput),
		cmocka_unit_test(test_tls_refusals), cmocka_unit_test(test_tls_files), cmocka_unit_test(test_tls_rude_clients),
		cmocka_unit_test(test_tls_on_wire),
	};
	return cmocka_run_group_tests_name("stream-tls", tests, pki_setup, pki_teardown);
}
