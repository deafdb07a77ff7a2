/* SPDX-License-Identifier: MIT */
/*
 * pki.c - a small certificate authority for development and laboratories, with OpenSSL 3's own functions, no program called.
 *
 * Certificates are built in memory and written last, key before certificate, each under a random name that is renamed into place with
 * RENAME_NOREPLACE: a file is there whole or not at all, and one that exists is never touched, whoever created it meanwhile. A
 * certificate without its key is of no use to anybody, the other way round it is a leftover: so a failure at the certificate removes the
 * key again.
 *
 * Subject alternative names are built as ASN.1 objects from checked text, never through OpenSSL's configuration strings, in which a
 * comma in an address would be another entry.
 * Validity starts some minutes in the past, because hosts' clocks differ; a host's certificate never outlives its authority.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "basic/id.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "rpc/pki.h"

#define CURVE            "P-256"
#define CA_NAME          "ca"
#define CA_SUBJECT       "FlexiMigrate development authority"
#define DAYS_MAX         36500
#define BACKDATE_SECONDS 300
#define SERIAL_BYTES     16
#define ADDRESSES_MAX    64
#define DNS_NAME_MAX     253
#define PEM_MAX          (64u << 10)

FM_DEFINE_CLEANUP(X509 *, X509_free);
FM_DEFINE_CLEANUP(EVP_PKEY *, EVP_PKEY_free);
FM_DEFINE_CLEANUP(BIO *, BIO_free);
FM_DEFINE_CLEANUP(BIGNUM *, BN_free);
FM_DEFINE_CLEANUP(X509_EXTENSION *, X509_EXTENSION_free);
FM_DEFINE_CLEANUP(GENERAL_NAME *, GENERAL_NAME_free);
FM_DEFINE_CLEANUP(GENERAL_NAMES *, GENERAL_NAMES_free);

/* ------------------------------------------------------------------------------------------------ errors, checks */

/* OpenSSL's reason, and an empty queue: the next user of this thread must not find ours. */
static int crypto_error_as(struct fm_error *err, enum fm_code code, const char *what)
{
	unsigned long e = ERR_peek_last_error();
	char reason[160] = "unknown reason";

	if (e)
		ERR_error_string_n(e, reason, sizeof(reason));
	ERR_clear_error();
	return fm_error_set(err, code, "pki: cannot %s: %s", what, reason);
}

static int crypto_error(struct fm_error *err, const char *what)
{
	return crypto_error_as(err, FM_E_INTERNAL, what);
}

static int check_days(unsigned days, struct fm_error *err)
{
	if (days == 0 || days > DAYS_MAX)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "pki: a certificate is valid for 1 to %d days, not %u", DAYS_MAX, days);
	return 0;
}

static bool is_ip(const char *s)
{
	unsigned char buf[sizeof(struct in6_addr)];

	return inet_pton(AF_INET, s, buf) == 1 || inet_pton(AF_INET6, s, buf) == 1;
}

/* Letters, digits, '-' and '_' between single dots; at least one letter, so that a mistyped "10.77.0.300" does not pass as a name. */
static bool is_dns_name(const char *s)
{
	size_t n = strnlen(s, DNS_NAME_MAX + 1), label = 0;
	bool letter = false;

	if (n == 0 || n > DNS_NAME_MAX)
		return false;
	for (size_t i = 0; i <= n; i++) {
		char c = s[i];
		bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');

		if (c == '.' || c == '\0') {
			if (label == 0 || label > 63 || s[i - 1] == '-' || s[i - label] == '-')
				return false;
			label = 0;
			continue;
		}
		if (!is_letter && !(c >= '0' && c <= '9') && c != '-' && c != '_')
			return false;
		letter |= is_letter;
		label++;
	}
	return letter;
}

static int check_addresses(char *const *addresses, struct fm_error *err)
{
	size_t n = 0;

	for (; addresses && addresses[n]; n++) {
		if (n == ADDRESSES_MAX)
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "pki: more than %d addresses", ADDRESSES_MAX);
		if (!is_ip(addresses[n]) && !is_dns_name(addresses[n])) {
			(void)fm_error_set(err, FM_E_INVALID_ARGUMENT, "pki: '%.64s' is neither an IP address nor a DNS name",
			                   addresses[n]);
			return fm_error_hint(err,
			                     "write addresses without port, brackets or wildcard: 10.77.0.1, fd00::1, node1.example.org");
		}
	}
	return 0;
}

static int check_host_name(const char *name, struct fm_error *err)
{
	if (!name || !fm_name_is_valid(name))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "pki: '%.64s' is not a host's name (letters, digits, '.', '_', '-')",
		                    name ? name : "");
	if (strcmp(name, CA_NAME) == 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "pki: the name '%s' belongs to the authority's own files", CA_NAME);
	return 0;
}

/* ------------------------------------------------------------------------------------------------ files */

static int open_folder(const char *dir, int *ret_fd, struct fm_error *err)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return fm_error_errno(err, errno, "pki: cannot open folder '%s'", dir);
	*ret_fd = fd;
	return 0;
}

static int refuse_existing(int dirfd, const char *dir, const char *name, const char *suffix, struct fm_error *err)
{
	_fm_free_ char *file = fm_xasprintf("%s.%s", name, suffix);
	struct stat sb;

	if (fstatat(dirfd, file, &sb, AT_SYMLINK_NOFOLLOW) == 0) {
		(void)fm_error_set(err, FM_E_ALREADY_EXISTS, "pki: '%s/%s' exists already", dir, file);
		return fm_error_hint(err, "certificates are never overwritten; move the old %s.pem and %s.key away first", name, name);
	}
	if (errno != ENOENT)
		return fm_error_errno(err, errno, "pki: cannot look at '%s/%s'", dir, file);
	return 0;
}

static int refuse_existing_pair(int dirfd, const char *dir, const char *name, struct fm_error *err)
{
	if (refuse_existing(dirfd, dir, name, "key", err) < 0)
		return -1;
	return refuse_existing(dirfd, dir, name, "pem", err);
}

/* Give the file its final name unless that is taken: 0, or -1 with errno. */
static int publish(int dirfd, const char *tmp, const char *file)
{
	if (renameat2(dirfd, tmp, dirfd, file, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -1;
	/* A file system that cannot do it that way: a hard link does not replace either. */
	if (linkat(dirfd, tmp, dirfd, file, 0) < 0)
		return -1;
	return unlinkat(dirfd, tmp, 0);
}

static int fill(int fd, BIO *pem, mode_t mode, struct fm_error *err)
{
	char *data = NULL;
	long n = BIO_get_mem_data(pem, &data);

	/* The mode asked for, whatever the umask is. */
	if (fchmod(fd, mode) < 0)
		return fm_error_errno(err, errno, "cannot set its mode");
	if (fm_write_full(fd, data, (size_t)n, err) < 0)
		return -1;
	if (fsync(fd) < 0)
		return fm_error_errno(err, errno, "cannot sync it");
	return 0;
}

static int write_new(int dirfd, const char *dir, const char *file, mode_t mode, BIO *pem, struct fm_error *err)
{
	char token[FM_TOKEN_LEN + 1];
	_fm_free_ char *tmp = NULL;
	_fm_close_ int fd = -1;

	fm_token_new(token);
	tmp = fm_xasprintf(".%s.%s", file, token);
	fd = openat(dirfd, tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return fm_error_errno(err, errno, "pki: cannot create '%s/%s'", dir, file);
	if (fill(fd, pem, mode, err) < 0) {
		(void)fm_error_prefix(err, "pki: cannot write '%s/%s'", dir, file);
		goto undo;
	}
	if (publish(dirfd, tmp, file) < 0) {
		(void)fm_error_errno(err, errno, "pki: cannot create '%s/%s'", dir, file);
		goto undo;
	}
	if (fsync(dirfd) < 0)
		return fm_error_errno(err, errno, "pki: cannot sync folder '%s'", dir);
	return 0;

undo:
	(void)unlinkat(dirfd, tmp, 0);
	return -1;
}

static int write_pair(int dirfd, const char *dir, const char *name, X509 *cert, EVP_PKEY *key, struct fm_error *err)
{
	_fm_cleanup_(BIO_freep) BIO *key_pem = BIO_new(BIO_s_secmem()); /* wiped when freed */
	_fm_cleanup_(BIO_freep) BIO *cert_pem = BIO_new(BIO_s_mem());
	_fm_free_ char *key_file = fm_xasprintf("%s.key", name);
	_fm_free_ char *cert_file = fm_xasprintf("%s.pem", name);

	if (!key_pem || !cert_pem || PEM_write_bio_PKCS8PrivateKey(key_pem, key, NULL, NULL, 0, NULL, NULL) != 1 ||
	    PEM_write_bio_X509(cert_pem, cert) != 1)
		return crypto_error(err, "encode a certificate");
	if (write_new(dirfd, dir, key_file, 0600, key_pem, err) < 0)
		return -1;
	if (write_new(dirfd, dir, cert_file, 0644, cert_pem, err) < 0) {
		(void)unlinkat(dirfd, key_file, 0);
		return -1;
	}
	return 0;
}

/* ------------------------------------------------------------------------------------------------ certificates */

static int set_serial(X509 *cert)
{
	_fm_cleanup_(BN_freep) BIGNUM *n = NULL;
	unsigned char bytes[SERIAL_BYTES];

	/* RFC 5280: positive, at most 20 octets; random, because nobody counts here. */
	if (RAND_bytes(bytes, sizeof(bytes)) != 1)
		return 0;
	bytes[0] = (bytes[0] & 0x7f) | 0x40;
	n = BN_bin2bn(bytes, sizeof(bytes), NULL);
	return n && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(cert)) != NULL;
}

/* A certificate with everything but issuer, extensions and signature. */
static int new_certificate(const char *common_name, EVP_PKEY *key, unsigned days, X509 **ret, struct fm_error *err)
{
	_fm_cleanup_(X509_freep) X509 *cert = X509_new();

	if (!cert || X509_set_version(cert, X509_VERSION_3) != 1 || !set_serial(cert) ||
	    !X509_gmtime_adj(X509_getm_notBefore(cert), -BACKDATE_SECONDS) ||
	    !X509_time_adj_ex(X509_getm_notAfter(cert), (int)days, 0, NULL) || X509_set_pubkey(cert, key) != 1 ||
	    X509_NAME_add_entry_by_NID(X509_get_subject_name(cert), NID_commonName, MBSTRING_UTF8, (const unsigned char *)common_name, -1,
	                               -1, 0) != 1)
		return crypto_error(err, "build a certificate");
	*ret = FM_TAKE_PTR(cert);
	return 0;
}

struct extension {
	int nid;
	const char *value;
};

static const struct extension ca_extensions[] = {
	{ NID_basic_constraints, "critical,CA:TRUE,pathlen:0" },
	{ NID_key_usage, "critical,keyCertSign,cRLSign" },
	{ NID_subject_key_identifier, "hash" },
	{ NID_authority_key_identifier, "keyid:always" },
};

static const struct extension host_extensions[] = {
	{ NID_basic_constraints, "critical,CA:FALSE" },   { NID_key_usage, "critical,digitalSignature" },
	{ NID_ext_key_usage, "serverAuth,clientAuth" },   { NID_subject_key_identifier, "hash" },
	{ NID_authority_key_identifier, "keyid:always" },
};

static int add_extensions(X509 *cert, X509 *issuer, const struct extension *list, size_t n, struct fm_error *err)
{
	X509V3_CTX ctx;

	X509V3_set_ctx_nodb(&ctx);
	X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
	for (size_t i = 0; i < n; i++) {
		_fm_cleanup_(X509_EXTENSION_freep) X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &ctx, list[i].nid, list[i].value);

		if (!e || X509_add_ext(cert, e, -1) != 1)
			return crypto_error(err, "add an extension to a certificate");
	}
	return 0;
}

static GENERAL_NAME *new_name(const char *text)
{
	_fm_cleanup_(GENERAL_NAME_freep) GENERAL_NAME *name = GENERAL_NAME_new();
	ASN1_IA5STRING *dns;

	if (!name)
		return NULL;
	if (is_ip(text)) {
		ASN1_OCTET_STRING *ip = a2i_IPADDRESS(text);

		if (!ip)
			return NULL;
		GENERAL_NAME_set0_value(name, GEN_IPADD, ip);
		return FM_TAKE_PTR(name);
	}
	dns = ASN1_IA5STRING_new();
	if (!dns)
		return NULL;
	GENERAL_NAME_set0_value(name, GEN_DNS, dns);
	if (ASN1_STRING_set(dns, text, -1) != 1)
		return NULL;
	return FM_TAKE_PTR(name);
}

static int add_name(GENERAL_NAMES *names, const char *text, struct fm_error *err)
{
	_fm_cleanup_(GENERAL_NAME_freep) GENERAL_NAME *name = new_name(text);

	if (!name)
		return crypto_error(err, "build a subject alternative name");
	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++)
		if (GENERAL_NAME_cmp(sk_GENERAL_NAME_value(names, i), name) == 0)
			return 0;
	if (sk_GENERAL_NAME_push(names, name) <= 0)
		return crypto_error(err, "build a subject alternative name");
	name = NULL; /* the list owns it */
	return 0;
}

static int add_subject_names(X509 *cert, const char *host, char *const *addresses, struct fm_error *err)
{
	_fm_cleanup_(GENERAL_NAMES_freep) GENERAL_NAMES *names = GENERAL_NAMES_new();

	if (!names)
		return crypto_error(err, "build a subject alternative name");
	if (add_name(names, host, err) < 0)
		return -1;
	for (size_t i = 0; addresses && addresses[i]; i++)
		if (add_name(names, addresses[i], err) < 0)
			return -1;
	if (add_name(names, "localhost", err) < 0 || add_name(names, "127.0.0.1", err) < 0)
		return -1;
	if (X509_add1_ext_i2d(cert, NID_subject_alt_name, names, 0, X509V3_ADD_DEFAULT) != 1)
		return crypto_error(err, "add subject alternative names");
	return 0;
}

static int sign(X509 *cert, EVP_PKEY *issuer_key, struct fm_error *err)
{
	if (X509_sign(cert, issuer_key, EVP_sha256()) <= 0)
		return crypto_error(err, "sign a certificate");
	return 0;
}

static int new_key(EVP_PKEY **ret, struct fm_error *err)
{
	EVP_PKEY *key = EVP_EC_gen(CURVE);

	if (!key)
		return crypto_error(err, "make a " CURVE " key");
	*ret = key;
	return 0;
}

/* ------------------------------------------------------------------------------------------------ the authority's files */

/* Never ask at a terminal. */
static int no_password(char *buf, int size, int rwflag, void *userdata)
{
	return -1;
}

struct pem_text {
	char *data;
	size_t len;
};

static void pem_text_wipe(struct pem_text *t)
{
	if (t->data)
		OPENSSL_cleanse(t->data, t->len);
	free(t->data);
}

static int read_pem(const char *dir, const char *file, struct pem_text *ret, BIO **ret_bio, struct fm_error *err)
{
	_fm_free_ char *path = fm_xasprintf("%s/%s", dir, file);

	if (fm_read_file(path, PEM_MAX, &ret->data, &ret->len, err) < 0) {
		(void)fm_error_prefix(err, "pki: cannot read the authority");
		return fm_error_hint(err, "make the authority first: `fleximigrate pki init`");
	}
	*ret_bio = BIO_new_mem_buf(ret->data, (int)ret->len);
	return *ret_bio ? 0 : crypto_error(err, "read the authority");
}

static int load_authority(const char *dir, X509 **ret_cert, EVP_PKEY **ret_key, struct fm_error *err)
{
	_fm_cleanup_(pem_text_wipe) struct pem_text cert_text = { 0 };
	_fm_cleanup_(pem_text_wipe) struct pem_text key_text = { 0 };
	_fm_cleanup_(BIO_freep) BIO *cert_bio = NULL;
	_fm_cleanup_(BIO_freep) BIO *key_bio = NULL;
	_fm_cleanup_(X509_freep) X509 *cert = NULL;
	_fm_cleanup_(EVP_PKEY_freep) EVP_PKEY *key = NULL;

	if (read_pem(dir, CA_NAME ".pem", &cert_text, &cert_bio, err) < 0 || read_pem(dir, CA_NAME ".key", &key_text, &key_bio, err) < 0)
		return -1;
	cert = PEM_read_bio_X509(cert_bio, NULL, no_password, NULL);
	key = PEM_read_bio_PrivateKey(key_bio, NULL, no_password, NULL);
	if (!cert || !key) {
		(void)crypto_error_as(err, FM_E_FAILED_PRECONDITION,
		                      cert ? "read the authority's key" : "read the authority's certificate");
		return fm_error_hint(err, "look at '%s/ca.pem' and '%s/ca.key': PEM, without a password", dir, dir);
	}
	if (X509_check_private_key(cert, key) != 1 || X509_check_ca(cert) != 1) {
		ERR_clear_error();
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "pki: '%s/ca.pem' is not an authority's certificate for '%s/ca.key'",
		                    dir, dir);
	}
	if (X509_cmp_current_time(X509_get0_notAfter(cert)) <= 0) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "pki: the authority '%s/ca.pem' has expired", dir);
		return fm_error_hint(err, "make a new one in another folder and issue all hosts' certificates again");
	}
	*ret_cert = FM_TAKE_PTR(cert);
	*ret_key = FM_TAKE_PTR(key);
	return 0;
}

/* ------------------------------------------------------------------------------------------------ public */

int fm_pki_init(const char *dir, unsigned days, struct fm_error *err)
{
	_fm_cleanup_(EVP_PKEY_freep) EVP_PKEY *key = NULL;
	_fm_cleanup_(X509_freep) X509 *cert = NULL;
	_fm_free_ char *subject = NULL;
	_fm_close_ int dirfd = -1;
	char token[FM_TOKEN_LEN + 1];

	if (check_days(days, err) < 0 || fm_mkdir_p(dir, 0700, err) < 0 || open_folder(dir, &dirfd, err) < 0 ||
	    refuse_existing_pair(dirfd, dir, CA_NAME, err) < 0)
		return -1;
	/* A number in the name, so that people see when two authorities are mixed up. */
	fm_token_new(token);
	subject = fm_xasprintf(CA_SUBJECT " %.8s", token);
	if (new_key(&key, err) < 0 || new_certificate(subject, key, days, &cert, err) < 0)
		return -1;
	if (X509_set_issuer_name(cert, X509_get_subject_name(cert)) != 1)
		return crypto_error(err, "name the issuer");
	if (add_extensions(cert, cert, ca_extensions, FM_ARRAY_SIZE(ca_extensions), err) < 0 || sign(cert, key, err) < 0)
		return -1;
	return write_pair(dirfd, dir, CA_NAME, cert, key, err);
}

int fm_pki_issue(const char *dir, const char *name, char *const *addresses, unsigned days, struct fm_error *err)
{
	_fm_cleanup_(X509_freep) X509 *ca = NULL;
	_fm_cleanup_(EVP_PKEY_freep) EVP_PKEY *ca_key = NULL;
	_fm_cleanup_(EVP_PKEY_freep) EVP_PKEY *key = NULL;
	_fm_cleanup_(X509_freep) X509 *cert = NULL;
	_fm_close_ int dirfd = -1;

	if (check_host_name(name, err) < 0 || check_days(days, err) < 0 || check_addresses(addresses, err) < 0 ||
	    open_folder(dir, &dirfd, err) < 0 || refuse_existing_pair(dirfd, dir, name, err) < 0 ||
	    load_authority(dir, &ca, &ca_key, err) < 0 || new_key(&key, err) < 0 || new_certificate(name, key, days, &cert, err) < 0)
		return -1;
	if (X509_set_issuer_name(cert, X509_get_subject_name(ca)) != 1)
		return crypto_error(err, "name the issuer");
	if (ASN1_TIME_compare(X509_get0_notAfter(cert), X509_get0_notAfter(ca)) > 0 &&
	    X509_set1_notAfter(cert, X509_get0_notAfter(ca)) != 1)
		return crypto_error(err, "limit a certificate's validity");
	if (add_extensions(cert, ca, host_extensions, FM_ARRAY_SIZE(host_extensions), err) < 0 ||
	    add_subject_names(cert, name, addresses, err) < 0 || sign(cert, ca_key, err) < 0)
		return -1;
	return write_pair(dirfd, dir, name, cert, key, err);
}
