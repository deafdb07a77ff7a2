/* SPDX-License-Identifier: MIT */
/*
 * tls-files.c - design note.
 *
 * The checks are those that the other end will make of us: our certificate must chain to the authority now, and the key must fit. A key
 * with a pass phrase is refused: OpenSSL would otherwise ask on the terminal.
 */
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509_vfy.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "rpc/tls-files.h"

#define MAX_PEM_BYTES (256u << 10) /* a bundle of some hundred certificates */

FM_DEFINE_CLEANUP(BIO *, BIO_free);
FM_DEFINE_CLEANUP(EVP_PKEY *, EVP_PKEY_free);
FM_DEFINE_CLEANUP(X509_STORE *, X509_STORE_free);
FM_DEFINE_CLEANUP(X509_STORE_CTX *, X509_STORE_CTX_free);

static void free_chain(STACK_OF(X509) * chain)
{
	sk_X509_pop_free(chain, X509_free);
}
FM_DEFINE_CLEANUP(STACK_OF(X509) *, free_chain);

static int no_pass_phrase(char *buf, int size, int rwflag, void *userdata)
{
	return -1;
}

static int out_of_memory(struct fm_error *err)
{
	return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "cannot check the TLS certificates: out of memory");
}

/* All certificates of a PEM text; at least one. */
static int parse_certificates(const char *pem, const char *path, STACK_OF(X509) * *ret, struct fm_error *err)
{
	_fm_cleanup_(BIO_freep) BIO *bio = BIO_new_mem_buf(pem, -1);
	_fm_cleanup_(free_chainp) STACK_OF(X509) *chain = sk_X509_new_null();

	if (!bio || !chain)
		return out_of_memory(err);
	for (;;) {
		X509 *cert = PEM_read_bio_X509(bio, NULL, no_pass_phrase, NULL);

		if (!cert)
			break;
		if (sk_X509_push(chain, cert) == 0) {
			X509_free(cert);
			return out_of_memory(err);
		}
	}
	ERR_clear_error(); /* the end of the file is an error to OpenSSL */
	if (sk_X509_num(chain) == 0) {
		fm_error_set(err, FM_E_INVALID_ARGUMENT, "there is no certificate in PEM form in %s", path);
		return fm_error_hint(err, "make certificates with `fleximigrate pki init` and `fleximigrate pki issue`");
	}
	*ret = FM_TAKE_PTR(chain);
	return 0;
}

static int check_key(X509 *cert, const char *key_pem, const struct fm_rpc_tls *tls, struct fm_error *err)
{
	_fm_cleanup_(BIO_freep) BIO *bio = BIO_new_mem_buf(key_pem, -1);
	_fm_cleanup_(EVP_PKEY_freep) EVP_PKEY *key = NULL;
	bool fits;

	if (!bio)
		return out_of_memory(err);
	key = PEM_read_bio_PrivateKey(bio, NULL, no_pass_phrase, NULL);
	fits = key && X509_check_private_key(cert, key) == 1;
	ERR_clear_error();
	if (!key) {
		fm_error_set(err, FM_E_INVALID_ARGUMENT, "there is no private key in PEM form, without pass phrase, in %s",
		             tls->key_pem_path);
		return fm_error_hint(err, "make a key with `fleximigrate pki issue`");
	}
	if (!fits) {
		fm_error_set(err, FM_E_INVALID_ARGUMENT, "the key in %s does not belong to the certificate in %s", tls->key_pem_path,
		             tls->cert_pem_path);
		return fm_error_hint(err, "name the two files that were issued together");
	}
	return 0;
}

static int check_chain(STACK_OF(X509) * authority, STACK_OF(X509) * chain, const struct fm_rpc_tls *tls, struct fm_error *err)
{
	_fm_cleanup_(X509_STORE_freep) X509_STORE *store = X509_STORE_new();
	_fm_cleanup_(X509_STORE_CTX_freep) X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	int reason;

	if (!store || !ctx)
		return out_of_memory(err);
	for (int i = 0; i < sk_X509_num(authority); i++)
		if (X509_STORE_add_cert(store, sk_X509_value(authority, i)) != 1)
			return out_of_memory(err);
	if (X509_STORE_CTX_init(ctx, store, sk_X509_value(chain, 0), chain) != 1)
		return out_of_memory(err);
	if (X509_verify_cert(ctx) == 1)
		return 0;
	reason = X509_STORE_CTX_get_error(ctx);
	ERR_clear_error();
	fm_error_set(err, FM_E_FAILED_PRECONDITION, "the certificate in %s is not valid under the authority in %s: %s", tls->cert_pem_path,
	             tls->ca_pem_path, X509_verify_cert_error_string(reason));
	if (reason == X509_V_ERR_CERT_NOT_YET_VALID)
		return fm_error_hint(err, "compare this host's clock with the one that issued the certificate");
	return fm_error_hint(err, "issue a new certificate with the authority that all hosts share (`fleximigrate pki issue`)");
}

static int read_pem(const char *path, const char *what, char **ret, struct fm_error *err)
{
	if (!path || !*path) {
		fm_error_set(err, FM_E_INVALID_ARGUMENT, "TLS needs the path of %s", what);
		return fm_error_hint(err, "name the three files, or make them with `fleximigrate pki init` and `fleximigrate pki issue`");
	}
	if (fm_read_file(path, MAX_PEM_BYTES, ret, NULL, err) < 0) {
		fm_error_prefix(err, "cannot use %s", what);
		return fm_error_hint(err, "check the path and its permissions, or make the file with `fleximigrate pki`");
	}
	return 0;
}

void fm_tls_files_done(struct fm_tls_files *f)
{
	free(f->ca_pem);
	free(f->cert_pem);
	if (f->key_pem)
		OPENSSL_cleanse(f->key_pem, strlen(f->key_pem));
	free(f->key_pem);
	*f = (struct fm_tls_files){ 0 };
}

int fm_tls_files_load(const struct fm_rpc_tls *tls, struct fm_tls_files *ret, struct fm_error *err)
{
	_fm_cleanup_(fm_tls_files_done) struct fm_tls_files f = { 0 };
	_fm_cleanup_(free_chainp) STACK_OF(X509) *authority = NULL;
	_fm_cleanup_(free_chainp) STACK_OF(X509) *chain = NULL;

	if (read_pem(tls->ca_pem_path, "the authority's certificate", &f.ca_pem, err) < 0 ||
	    read_pem(tls->cert_pem_path, "our certificate", &f.cert_pem, err) < 0 ||
	    read_pem(tls->key_pem_path, "our key", &f.key_pem, err) < 0)
		return -1;
	if (parse_certificates(f.ca_pem, tls->ca_pem_path, &authority, err) < 0 ||
	    parse_certificates(f.cert_pem, tls->cert_pem_path, &chain, err) < 0)
		return -1;
	if (check_key(sk_X509_value(chain, 0), f.key_pem, tls, err) < 0 || check_chain(authority, chain, tls, err) < 0)
		return -1;
	ret->ca_pem = FM_TAKE_PTR(f.ca_pem);
	ret->cert_pem = FM_TAKE_PTR(f.cert_pem);
	ret->key_pem = FM_TAKE_PTR(f.key_pem);
	return 0;
}
