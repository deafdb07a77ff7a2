/* SPDX-License-Identifier: MIT */
/*
 * test-pki.c - the development authority: files and their modes, what is in a certificate, what is refused, and real TLS
 * handshakes over a socketpair, both ends showing and demanding certificates.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "basic/io.h"
#include "basic/str.h"
#include "rpc/pki.h"

#define assert_ok(call, e)                                                                                                                 \
	do {                                                                                                                               \
		if ((call) != 0)                                                                                                           \
			fail_msg("%s: %s (%s)", #call, (e).message, (e).hint);                                                             \
	} while (0)
#define assert_code(call, e, want)                                                                                                         \
	do {                                                                                                                               \
		(e) = FM_ERROR_INIT;                                                                                                       \
		assert_int_equal((call), -1);                                                                                              \
		if ((e).code != (want))                                                                                                    \
			fail_msg("%s: %s %s, wanted %s", #call, fm_code_to_string((e).code), (e).message, fm_code_to_string(want));        \
	} while (0)

struct fixture {
	char dir[64];
	char pki[80];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	(void)snprintf(f->dir, sizeof(f->dir), "/tmp/fm-test-pki-XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	(void)snprintf(f->pki, sizeof(f->pki), "%s/pki", f->dir);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	int r = fm_remove_tree(f->dir, &e);

	free(f);
	return r;
}

static const char *in(const char *dir, const char *file, char *buf, size_t cap)
{
	(void)snprintf(buf, cap, "%s/%s", dir, file);
	return buf;
}

static mode_t mode_of(const char *dir, const char *file)
{
	char path[256];
	struct stat sb;

	assert_int_equal(stat(in(dir, file, path, sizeof(path)), &sb), 0);
	return sb.st_mode & 07777;
}

static X509 *load(const char *dir, const char *file)
{
	char path[256];
	_fm_fclose_ FILE *fp = fopen(in(dir, file, path, sizeof(path)), "re");
	X509 *cert;

	assert_non_null(fp);
	cert = PEM_read_X509(fp, NULL, NULL, NULL);
	assert_non_null(cert);
	return cert;
}

static unsigned count_files(const char *dir)
{
	_fm_closedir_ DIR *d = opendir(dir);
	struct dirent *de;
	unsigned n = 0;

	assert_non_null(d);
	while ((de = readdir(d)))
		n += strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0;
	return n;
}

/* ------------------------------------------------------------------------------------------------ files */

static void test_files_and_modes(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	const mode_t masks[] = { 0, 0022, 0077 };

	for (size_t i = 0; i < FM_ARRAY_SIZE(masks); i++) {
		char dir[128];
		mode_t old = umask(masks[i]);

		(void)snprintf(dir, sizeof(dir), "%s/deep/%zu", f->dir, i); /* folders are made */
		assert_ok(fm_pki_init(dir, 30, &e), e);
		assert_ok(fm_pki_issue(dir, "node1", NULL, 30, &e), e);
		umask(old);
		assert_int_equal(mode_of(dir, "ca.key"), 0600);
		assert_int_equal(mode_of(dir, "ca.pem"), 0644);
		assert_int_equal(mode_of(dir, "node1.key"), 0600);
		assert_int_equal(mode_of(dir, "node1.pem"), 0644);
		assert_int_equal(count_files(dir), 4); /* nothing else */
	}
	assert_int_equal(mode_of(f->dir, "deep/0") & 077, 0);
}

static void assert_same_file(const char *path, const char *want, size_t n_want)
{
	_fm_free_ char *now = NULL;
	struct fm_error e = FM_ERROR_INIT;
	size_t n = 0;

	assert_ok(fm_read_file(path, 1 << 20, &now, &n, &e), e);
	assert_int_equal(n, n_want);
	assert_memory_equal(now, want, n);
}

static void test_nothing_is_overwritten(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	const char *const files[] = { "ca.key", "ca.pem", "n1.key", "n1.pem" };
	char *content[4] = { NULL };
	size_t lens[4];
	char path[256];

	assert_ok(fm_pki_init(f->pki, 30, &e), e);
	assert_ok(fm_pki_issue(f->pki, "n1", NULL, 30, &e), e);
	for (int i = 0; i < 4; i++)
		assert_ok(fm_read_file(in(f->pki, files[i], path, sizeof(path)), 1 << 20, &content[i], &lens[i], &e), e);
	assert_code(fm_pki_init(f->pki, 30, &e), e, FM_E_ALREADY_EXISTS);
	assert_non_null(strstr(e.message, "ca.key"));
	assert_code(fm_pki_issue(f->pki, "n1", NULL, 30, &e), e, FM_E_ALREADY_EXISTS);
	assert_non_null(strstr(e.message, "n1.key"));
	for (int i = 0; i < 4; i++) {
		assert_same_file(in(f->pki, files[i], path, sizeof(path)), content[i], lens[i]);
		free(content[i]);
	}
	/* Half a pair, or a dangling link where a file would be: refused too, and nothing is added. */
	assert_int_equal(unlink(in(f->pki, "n1.key", path, sizeof(path))), 0);
	assert_code(fm_pki_issue(f->pki, "n1", NULL, 30, &e), e, FM_E_ALREADY_EXISTS);
	assert_int_equal(symlink("/nowhere/at/all", in(f->pki, "n2.pem", path, sizeof(path))), 0);
	assert_code(fm_pki_issue(f->pki, "n2", NULL, 30, &e), e, FM_E_ALREADY_EXISTS);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(count_files(f->pki), 3);
}

/* Several at once for the same name: one wins, and its key and certificate belong together. */
static void test_race_has_one_winner(void **state)
{
	enum { N = 4 };
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	pid_t pids[N];
	int winners = 0;
	char path[256];
	X509 *cert;
	EVP_PKEY *key;
	FILE *fp;

	assert_ok(fm_pki_init(f->pki, 30, &e), e);
	for (int i = 0; i < N; i++) {
		pids[i] = fork();
		if (pids[i] == 0)
			_exit(fm_pki_issue(f->pki, "n1", NULL, 30, &e) == 0 ? 0 : (int)e.code);
	}
	for (int i = 0; i < N; i++) {
		int status = 0;

		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_true(WIFEXITED(status));
		assert_true(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == FM_E_ALREADY_EXISTS);
		winners += WEXITSTATUS(status) == 0;
	}
	assert_int_equal(winners, 1);
	assert_int_equal(count_files(f->pki), 4);
	cert = load(f->pki, "n1.pem");
	fp = fopen(in(f->pki, "n1.key", path, sizeof(path)), "re");
	assert_non_null(fp);
	key = PEM_read_PrivateKey(fp, NULL, NULL, NULL);
	assert_non_null(key);
	assert_int_equal(X509_check_private_key(cert, key), 1);
	(void)fclose(fp);
	EVP_PKEY_free(key);
	X509_free(cert);
}

static void test_arguments_are_refused(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	const char *const bad_names[] = { NULL, "", "ca", "../n1", "a/b", "-n", ".n", "a b", "n1\n" };
	const char *const bad_addresses[] = { "",     "10.77.0.300", "10.77.0.1:7400", "[::1]", "*.example.org", "a..b", ".a", "a.", "-a.b",
		                              "a-.b", "DNS:evil",    "x,DNS:evil",     "a b",   "http://x",      "1.2.3" };
	char *too_many[66] = { NULL };
	char path[256];

	assert_code(fm_pki_init(f->pki, 0, &e), e, FM_E_INVALID_ARGUMENT);
	assert_code(fm_pki_init(f->pki, 36501, &e), e, FM_E_INVALID_ARGUMENT);
	assert_false(fm_path_exists(f->pki));
	assert_code(fm_pki_issue(f->pki, "n1", NULL, 30, &e), e, FM_E_NOT_FOUND); /* no folder */
	assert_int_equal(mkdir(f->pki, 0700), 0);
	assert_code(fm_pki_issue(f->pki, "n1", NULL, 30, &e), e, FM_E_NOT_FOUND); /* no authority */
	assert_non_null(strstr(e.hint, "pki init"));
	assert_ok(fm_pki_init(f->pki, 30, &e), e);
	for (size_t i = 0; i < FM_ARRAY_SIZE(bad_names); i++)
		assert_code(fm_pki_issue(f->pki, bad_names[i], NULL, 30, &e), e, FM_E_INVALID_ARGUMENT);
	for (size_t i = 0; i < FM_ARRAY_SIZE(bad_addresses); i++) {
		char *addresses[] = { "10.77.0.1", (char *)bad_addresses[i], NULL };

		assert_code(fm_pki_issue(f->pki, "n1", addresses, 30, &e), e, FM_E_INVALID_ARGUMENT);
	}
	for (int i = 0; i < 65; i++)
		too_many[i] = "10.0.0.1";
	assert_code(fm_pki_issue(f->pki, "n1", too_many, 30, &e), e, FM_E_INVALID_ARGUMENT);
	assert_code(fm_pki_issue(f->pki, "n1", NULL, 0, &e), e, FM_E_INVALID_ARGUMENT);
	assert_int_equal(count_files(f->pki), 2);
	/* A file where the folder should be. */
	assert_code(fm_pki_issue(in(f->pki, "ca.pem", path, sizeof(path)), "n1", NULL, 30, &e), e, FM_E_INTERNAL);
}

static void write_encrypted_key(const char *path)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	FILE *fp = fopen(path, "we");

	assert_non_null(fp);
	assert_int_equal(PEM_write_PKCS8PrivateKey(fp, key, EVP_aes_256_cbc(), "secret", 6, NULL, NULL), 1);
	(void)fclose(fp);
	EVP_PKEY_free(key);
}

static void test_damaged_authority_is_refused(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	char other[128], a[256], b[256];

	(void)snprintf(other, sizeof(other), "%s/other", f->dir);
	assert_ok(fm_pki_init(f->pki, 30, &e), e);
	assert_ok(fm_pki_init(other, 30, &e), e);
	/* The certificate of one with the key of the other. */
	assert_int_equal(rename(in(other, "ca.key", a, sizeof(a)), in(f->pki, "ca.key", b, sizeof(b))), 0);
	assert_code(fm_pki_issue(f->pki, "n1", NULL, 30, &e), e, FM_E_FAILED_PRECONDITION);
	/* Not PEM. */
	assert_ok(fm_write_file_atomic(b, "hello\n", 6, 0600, &e), e);
	assert_code(fm_pki_issue(f->pki, "n1", NULL, 30, &e), e, FM_E_FAILED_PRECONDITION);
	assert_int_equal(ERR_peek_error(), 0); /* the queue is left empty */
	/* A key with a password is refused without asking at the terminal. */
	write_encrypted_key(b);
	assert_code(fm_pki_issue(f->pki, "n1", NULL, 30, &e), e, FM_E_FAILED_PRECONDITION);
	assert_non_null(strstr(e.hint, "password"));
	/* A host's certificate is not an authority. */
	assert_ok(fm_remove_tree(other, &e), e);
	assert_ok(fm_pki_init(other, 30, &e), e);
	assert_ok(fm_pki_issue(other, "n1", NULL, 30, &e), e);
	assert_int_equal(rename(in(other, "n1.pem", a, sizeof(a)), in(other, "ca.pem", b, sizeof(b))), 0);
	assert_int_equal(rename(in(other, "n1.key", a, sizeof(a)), in(other, "ca.key", b, sizeof(b))), 0);
	assert_code(fm_pki_issue(other, "n2", NULL, 30, &e), e, FM_E_FAILED_PRECONDITION);
}

/* ------------------------------------------------------------------------------------------------ certificates */

/* X509_V_OK or the reason; purpose: X509_PURPOSE_SSL_SERVER, _CLIENT. */
static int verify(X509 *ca, X509 *cert, int purpose)
{
	X509_STORE *store = X509_STORE_new();
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	int r;

	assert_int_equal(X509_STORE_add_cert(store, ca), 1);
	assert_int_equal(X509_STORE_CTX_init(ctx, store, cert, NULL), 1);
	assert_int_equal(X509_STORE_CTX_set_purpose(ctx, purpose), 1);
	X509_VERIFY_PARAM_set_flags(X509_STORE_CTX_get0_param(ctx), X509_V_FLAG_X509_STRICT);
	r = X509_verify_cert(ctx) == 1 ? X509_V_OK : X509_STORE_CTX_get_error(ctx);
	X509_STORE_CTX_free(ctx);
	X509_STORE_free(store);
	return r;
}

static void test_chain_and_names(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	char *addresses[] = { "10.77.0.1", "fd00::1", "node1.example.org", "10.77.0.1", "localhost", NULL };
	const char *const hosts[] = { "node1", "node1.example.org", "localhost" };
	const char *const ips[] = { "10.77.0.1", "fd00::1", "127.0.0.1" };
	GENERAL_NAMES *names;
	X509 *ca, *cert;
	char cn[64], issuer[128];

	assert_ok(fm_pki_init(f->pki, 365, &e), e);
	assert_ok(fm_pki_issue(f->pki, "node1", addresses, 30, &e), e);
	ca = load(f->pki, "ca.pem");
	cert = load(f->pki, "node1.pem");
	assert_int_equal(verify(ca, cert, X509_PURPOSE_SSL_SERVER), X509_V_OK);
	assert_int_equal(verify(ca, cert, X509_PURPOSE_SSL_CLIENT), X509_V_OK);
	for (size_t i = 0; i < FM_ARRAY_SIZE(hosts); i++)
		assert_int_equal(X509_check_host(cert, hosts[i], 0, 0, NULL), 1);
	for (size_t i = 0; i < FM_ARRAY_SIZE(ips); i++)
		assert_int_equal(X509_check_ip_asc(cert, ips[i], 0), 1);
	assert_int_equal(X509_check_host(cert, "node2", 0, 0, NULL), 0);
	assert_int_equal(X509_check_ip_asc(cert, "10.77.0.2", 0), 0);
	names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
	assert_int_equal(sk_GENERAL_NAME_num(names), 6); /* each once */
	GENERAL_NAMES_free(names);

	assert_int_equal(X509_check_ca(ca), 1);
	assert_int_equal(X509_check_ca(cert), 0);
	assert_int_equal(X509_get_extension_flags(ca) & EXFLAG_CA, EXFLAG_CA);
	assert_int_equal(X509_get_extension_flags(cert) & (EXFLAG_CA | EXFLAG_BCONS), EXFLAG_BCONS);
	assert_int_equal(X509_get_pathlen(ca), 0);
	assert_int_equal(X509_get_version(cert), X509_VERSION_3);
	assert_int_equal(X509_get_signature_nid(cert), NID_ecdsa_with_SHA256);
	assert_int_equal(X509_get_key_usage(cert), KU_DIGITAL_SIGNATURE);
	assert_int_equal(X509_get_extended_key_usage(cert), XKU_SSL_SERVER | XKU_SSL_CLIENT);
	assert_int_equal(X509_get_key_usage(ca), KU_KEY_CERT_SIGN | KU_CRL_SIGN);
	assert_int_equal(EVP_PKEY_get_bits(X509_get0_pubkey(cert)), 256);
	assert_true(X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, cn, sizeof(cn)) > 0);
	assert_string_equal(cn, "node1");
	assert_true(X509_NAME_get_text_by_NID(X509_get_issuer_name(cert), NID_commonName, issuer, sizeof(issuer)) > 0);
	assert_true(fm_str_startswith(issuer, "FlexiMigrate"));
	assert_int_not_equal(ASN1_INTEGER_cmp(X509_get0_serialNumber(ca), X509_get0_serialNumber(cert)), 0);
	assert_false(ASN1_STRING_length(X509_get0_serialNumber(cert)) > 20);
	assert_true(X509_cmp_current_time(X509_get0_notBefore(cert)) < 0);
	X509_free(cert);
	X509_free(ca);
}

static void test_validity(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	X509 *ca, *cert;
	int days = 0, seconds = 0;

	assert_ok(fm_pki_init(f->pki, 10, &e), e);
	assert_ok(fm_pki_issue(f->pki, "n1", NULL, 5, &e), e);
	assert_ok(fm_pki_issue(f->pki, "n2", NULL, 36500, &e), e); /* cut to the authority's */
	ca = load(f->pki, "ca.pem");
	cert = load(f->pki, "n1.pem");
	assert_int_equal(ASN1_TIME_diff(&days, &seconds, X509_get0_notBefore(cert), X509_get0_notAfter(cert)), 1);
	assert_int_equal(days, 5);
	X509_free(cert);
	cert = load(f->pki, "n2.pem");
	assert_int_equal(ASN1_TIME_compare(X509_get0_notAfter(ca), X509_get0_notAfter(cert)), 0);
	X509_free(cert);
	X509_free(ca);
}

/* ------------------------------------------------------------------------------------------------ handshake */

struct end {
	SSL_CTX *ctx;
	int fd;
	const char *want_host, *want_ip;
	bool server;
	int result;
	char reason[160];
	char peer[64];
};

static SSL_CTX *context(const char *dir, const char *name, const char *ca_dir)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_method());
	char path[256], file[80];

	assert_int_equal(SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION), 1);
	assert_int_equal(SSL_CTX_load_verify_file(ctx, in(ca_dir, "ca.pem", path, sizeof(path))), 1);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	if (!name)
		return ctx;
	(void)snprintf(file, sizeof(file), "%s.pem", name);
	assert_int_equal(SSL_CTX_use_certificate_chain_file(ctx, in(dir, file, path, sizeof(path))), 1);
	(void)snprintf(file, sizeof(file), "%s.key", name);
	assert_int_equal(SSL_CTX_use_PrivateKey_file(ctx, in(dir, file, path, sizeof(path)), SSL_FILETYPE_PEM), 1);
	return ctx;
}

/* One end: shake hands, then one byte each way (a TLS 1.3 client learns only then that it was refused).
 * No assertions: may be another thread. */
static void *run_end(void *arg)
{
	struct end *end = arg;
	SSL *ssl = SSL_new(end->ctx);
	char byte = 'x';

	(void)SSL_set_fd(ssl, end->fd);
	if (end->want_host)
		(void)SSL_set1_host(ssl, end->want_host);
	if (end->want_ip)
		(void)X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), end->want_ip);
	end->result =
	        (end->server ? SSL_accept(ssl) : SSL_connect(ssl)) == 1 && SSL_write(ssl, &byte, 1) == 1 && SSL_read(ssl, &byte, 1) == 1;
	if (end->result) {
		X509 *peer = SSL_get1_peer_certificate(ssl);

		(void)X509_NAME_get_text_by_NID(X509_get_subject_name(peer), NID_commonName, end->peer, sizeof(end->peer));
		X509_free(peer);
	} else {
		(void)snprintf(end->reason, sizeof(end->reason), "%s", X509_verify_cert_error_string(SSL_get_verify_result(ssl)));
	}
	ERR_clear_error();
	SSL_free(ssl);
	(void)shutdown(end->fd, SHUT_RDWR);
	return NULL;
}

static void shake(struct end *server, struct end *client)
{
	pthread_t thread;
	int fds[2];

	(void)signal(SIGPIPE, SIG_IGN);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	server->fd = fds[0];
	server->server = true;
	client->fd = fds[1];
	assert_int_equal(pthread_create(&thread, NULL, run_end, server), 0);
	(void)run_end(client);
	assert_int_equal(pthread_join(thread, NULL), 0);
	(void)close(fds[0]);
	(void)close(fds[1]);
	SSL_CTX_free(server->ctx);
	SSL_CTX_free(client->ctx);
}

static void test_handshake(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	char *addresses[] = { "10.77.0.2", NULL };
	struct end server = { 0 }, client = { .want_host = "node2" };

	assert_ok(fm_pki_init(f->pki, 30, &e), e);
	assert_ok(fm_pki_issue(f->pki, "node1", NULL, 30, &e), e);
	assert_ok(fm_pki_issue(f->pki, "node2", addresses, 30, &e), e);
	server.ctx = context(f->pki, "node2", f->pki);
	client.ctx = context(f->pki, "node1", f->pki);
	shake(&server, &client);
	assert_int_equal(server.result, 1);
	assert_int_equal(client.result, 1);
	assert_string_equal(server.peer, "node1");
	assert_string_equal(client.peer, "node2");
	/* By address. */
	client = (struct end){ .want_ip = "10.77.0.2", .ctx = context(f->pki, "node1", f->pki) };
	server = (struct end){ .ctx = context(f->pki, "node2", f->pki) };
	shake(&server, &client);
	assert_int_equal(client.result, 1);
	/* Another host than the one meant. */
	client = (struct end){ .want_host = "node3", .ctx = context(f->pki, "node1", f->pki) };
	server = (struct end){ .ctx = context(f->pki, "node2", f->pki) };
	shake(&server, &client);
	assert_int_equal(client.result, 0);
	assert_int_equal(server.result, 0);
	assert_non_null(strstr(client.reason, "ostname mismatch"));
}

static void test_strangers_are_refused(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	struct end server = { 0 }, client = { 0 };
	char other[128];

	(void)snprintf(other, sizeof(other), "%s/other", f->dir);
	assert_ok(fm_pki_init(f->pki, 30, &e), e);
	assert_ok(fm_pki_issue(f->pki, "node1", NULL, 30, &e), e);
	assert_ok(fm_pki_init(other, 30, &e), e);
	assert_ok(fm_pki_issue(other, "node1", NULL, 30, &e), e);
	/* A client of another authority, which itself trusts the server. */
	server.ctx = context(f->pki, "node1", f->pki);
	client.ctx = context(other, "node1", f->pki);
	shake(&server, &client);
	assert_int_equal(server.result, 0);
	assert_int_equal(client.result, 0);
	assert_non_null(strstr(server.reason, "issuer"));
	/* A server of another authority. */
	server = (struct end){ .ctx = context(other, "node1", f->pki) };
	client = (struct end){ .ctx = context(f->pki, "node1", f->pki) };
	shake(&server, &client);
	assert_int_equal(server.result, 0);
	assert_int_equal(client.result, 0);
	assert_non_null(strstr(client.reason, "issuer"));
	/* A client without a certificate. */
	server = (struct end){ .ctx = context(f->pki, "node1", f->pki) };
	client = (struct end){ .ctx = context(NULL, NULL, f->pki) };
	shake(&server, &client);
	assert_int_equal(server.result, 0);
	assert_int_equal(client.result, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_files_and_modes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nothing_is_overwritten, setup, teardown),
		cmocka_unit_test_setup_teardown(test_race_has_one_winner, setup, teardown),
		cmocka_unit_test_setup_teardown(test_arguments_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damaged_authority_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_chain_and_names, setup, teardown),
		cmocka_unit_test_setup_teardown(test_validity, setup, teardown),
		cmocka_unit_test_setup_teardown(test_handshake, setup, teardown),
		cmocka_unit_test_setup_teardown(test_strangers_are_refused, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
