/* SPDX-License-Identifier: MIT */
/*
 * dns-config.c - words of the administrator -> struct fm_dns_zone, and the canonical forms of names and addresses.
 *
 * Names are hosts' names, not all that DNS allows: no escapes, no bytes that a log or a zone file would have to quote. What a server answers is compared with them and never becomes one of them unseen.
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/str.h"
#include "network/dns-internal.h"

#define LABEL_MAX       63
#define SECRET_FILE_MAX 1024
#define DNS_PORT        53

static const char *const algorithm_names[] = { "hmac-sha256", "hmac-sha1", "hmac-sha224", "hmac-sha384", "hmac-sha512" };

const char *fm_dns_algorithm_name(enum fm_dns_algorithm a)
{
	return (unsigned)a < FM_ARRAY_SIZE(algorithm_names) ? algorithm_names[a] : "unknown";
}

static int algorithm_parse(const char *text, enum fm_dns_algorithm *ret, struct fm_error *err)
{
	for (unsigned i = 0; i < FM_ARRAY_SIZE(algorithm_names); i++)
		if (strcasecmp(text, algorithm_names[i]) == 0) {
			*ret = (enum fm_dns_algorithm)i;
			return 0;
		}
	(void)fm_error_set(err, FM_E_INVALID_ARGUMENT, "name service: \"%.32s\" is no algorithm for its key", text);
	return fm_error_hint(err,
	                     "one of hmac-sha256, hmac-sha1, hmac-sha224, hmac-sha384, hmac-sha512, as the server's configuration has it");
}

/* ---- names ---- */

static bool label_char(char c)
{
	return isalnum((unsigned char)c) || c == '-' || c == '_';
}

int fm_dns_name_parse(const char *text, char ret[FM_DNS_NAME_MAX + 1], struct fm_error *err)
{
	size_t n = strlen(text), label = 0;

	if (n && text[n - 1] == '.')
		n--;
	if (n == 0 || n > FM_DNS_NAME_MAX)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "name service: a name of %zu characters, 1 to %d are possible", n,
		                    FM_DNS_NAME_MAX);
	for (size_t i = 0; i < n; i++) {
		label = text[i] == '.' ? 0 : label + 1;
		if ((text[i] == '.' && (i == 0 || i + 1 == n || text[i - 1] == '.')) || (text[i] != '.' && !label_char(text[i])) ||
		    label > LABEL_MAX)
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "name service: \"%.*s\" is not the name of a host", (int)n, text);
		ret[i] = (char)tolower((unsigned char)text[i]);
	}
	ret[n] = '\0';
	return 0;
}

bool fm_dns_name_is_in(const char *name, const char *zone)
{
	size_t n = strlen(name), z = strlen(zone);

	return z > 0 && n >= z && strcmp(name + n - z, zone) == 0 && (n == z || name[n - z - 1] == '.');
}

size_t fm_dns_name_to_wire(const char *name, uint8_t *ret)
{
	size_t out = 0;

	while (*name) {
		size_t n = strcspn(name, ".");

		ret[out++] = (uint8_t)n;
		memcpy(ret + out, name, n);
		out += n;
		name += n + (name[n] == '.');
	}
	ret[out++] = 0;
	return out;
}

int fm_dns_reverse_name(const char *address, char ret[FM_DNS_NAME_MAX + 1], struct fm_error *err)
{
	static const char hex[] = "0123456789abcdef";
	uint8_t a[16];
	size_t out = 0;

	if (inet_pton(AF_INET, address, a) == 1)
		return fm_snprintf(ret, FM_DNS_NAME_MAX + 1, err, "%u.%u.%u.%u.in-addr.arpa", a[3], a[2], a[1], a[0]);
	if (inet_pton(AF_INET6, address, a) != 1)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "name service: \"%.64s\" is not an address", address);
	for (int i = 15; i >= 0; i--) {
		ret[out++] = hex[a[i] & 15];
		ret[out++] = '.';
		ret[out++] = hex[a[i] >> 4];
		ret[out++] = '.';
	}
	memcpy(ret + out, "ip6.arpa", sizeof("ip6.arpa"));
	return 0;
}

int fm_dns_value_parse(enum fm_dns_type type, const char *text, char ret[FM_DNS_NAME_MAX + 1], struct fm_error *err)
{
	int family = type == FM_DNS_A ? AF_INET : AF_INET6;
	uint8_t a[16];

	if (type == FM_DNS_PTR)
		return fm_dns_name_parse(text, ret, err);
	if (inet_pton(family, text, a) != 1 || !inet_ntop(family, a, ret, FM_DNS_NAME_MAX + 1))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "name service: \"%.64s\" is not an address for a record of type %s", text,
		                    fm_dns_type_to_string(type));
	return 0;
}

const char *fm_dns_type_to_string(enum fm_dns_type t)
{
	return t == FM_DNS_A ? "A" : t == FM_DNS_AAAA ? "AAAA" : t == FM_DNS_PTR ? "PTR" : "?";
}

int fm_dns_type_from_string(const char *text, enum fm_dns_type *ret, struct fm_error *err)
{
	static const enum fm_dns_type all[] = { FM_DNS_A, FM_DNS_AAAA, FM_DNS_PTR };

	for (unsigned i = 0; i < FM_ARRAY_SIZE(all); i++)
		if (strcmp(text, fm_dns_type_to_string(all[i])) == 0) {
			*ret = all[i];
			return 0;
		}
	return fm_error_set(err, FM_E_INVALID_ARGUMENT, "name service: records of type \"%.16s\" are not ours to change: A, AAAA or PTR",
	                    text);
}

/* ---- the server ---- */

/* Takes the port off; *port stays when there is none. */
static bool split_port(char *text, char **ret_host, int *port)
{
	char *colon = strrchr(text, ':'), *host = text;

	if (text[0] == '[') {
		char *end = strchr(text, ']');

		if (!end || (end[1] && end[1] != ':'))
			return false;
		*end = '\0';
		host = text + 1;
		colon = end[1] ? end + 1 : NULL;
	} else if (colon && strchr(text, ':') != colon) {
		colon = NULL; /* IPv6 without brackets has no port */
	}
	if (colon) {
		*colon = '\0';
		if (fm_parse_int(colon + 1, 1, 65535, port, NULL) < 0)
			return false;
	}
	*ret_host = host;
	return true;
}

static int server_parse(const char *text, struct sockaddr_storage *ret, struct fm_error *err)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)ret;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)ret;
	char copy[80], *host = copy;
	int port = DNS_PORT;

	*ret = (struct sockaddr_storage){ 0 };
	if (fm_snprintf(copy, sizeof(copy), NULL, "%s", text) == 0 && split_port(copy, &host, &port)) {
		if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
			v4->sin_family = AF_INET;
			v4->sin_port = htons((uint16_t)port);
			return 0;
		}
		if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
			v6->sin6_family = AF_INET6;
			v6->sin6_port = htons((uint16_t)port);
			return 0;
		}
	}
	(void)fm_error_set(err, FM_E_INVALID_ARGUMENT, "name service: \"%.80s\" is not the address of a server", text);
	return fm_error_hint(err, "write 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:5353");
}

void fm_dns_server_text(const struct fm_dns_zone *zone, char ret[80])
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)&zone->server;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&zone->server;
	char host[INET6_ADDRSTRLEN] = "?";

	if (zone->server.ss_family == AF_INET6) {
		(void)inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
		(void)snprintf(ret, 80, "[%s]:%u", host, ntohs(v6->sin6_port));
		return;
	}
	(void)inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
	(void)snprintf(ret, 80, "%s:%u", host, ntohs(v4->sin_port));
}

/* ---- the secret ---- */

static int secret_open(const char *path, int *ret_fd, struct fm_error *err)
{
	_fm_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK); /* a FIFO must not make us wait */
	struct stat st;

	if (fd < 0)
		return fm_error_errno(err, errno, "name service: opening the secret %s", path);
	if (fstat(fd, &st) < 0)
		return fm_error_errno(err, errno, "name service: looking at the secret %s", path);
	if (!S_ISREG(st.st_mode))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "name service: the secret %s is not a file", path);
	if (st.st_uid != 0 && st.st_uid != geteuid()) {
		(void)fm_error_set(err, FM_E_PERMISSION_DENIED, "name service: the secret %s belongs to user %u", path, st.st_uid);
		return fm_error_hint(err, "chown root %s", path);
	}
	if (st.st_mode & 077) {
		(void)fm_error_set(err, FM_E_PERMISSION_DENIED, "name service: the secret %s has mode %04o: others can read or write it",
		                   path, st.st_mode & 07777);
		return fm_error_hint(err, "chmod 600 %s; who has read it can change the zone: make a new one", path);
	}
	*ret_fd = FM_TAKE_FD(fd);
	return 0;
}

static bool is_base64(const char *s, size_t n)
{
	size_t pad = 0;

	while (pad < 2 && pad < n && s[n - 1 - pad] == '=')
		pad++;
	for (size_t i = 0; i < n - pad; i++)
		if (!isalnum((unsigned char)s[i]) && s[i] != '+' && s[i] != '/')
			return false;
	return n > 0 && n % 4 == 0;
}

/* text has blanks at its ends. The caller overwrites both buffers. */
static int secret_decode(char *text, size_t n, const char *path, uint8_t *buf, struct fm_dns_zone *z, struct fm_error *err)
{
	size_t pad = 0;
	int got;

	while (n && isspace((unsigned char)text[n - 1]))
		n--;
	while (n && isspace((unsigned char)*text)) {
		text++;
		n--;
	}
	got = is_base64(text, n) ? EVP_DecodeBlock(buf, (const unsigned char *)text, (int)n) : -1;
	if (got < 0) {
		(void)fm_error_set(err, FM_E_INVALID_ARGUMENT, "name service: the secret in %s is not base64", path);
		return fm_error_hint(
		        err, "the file has the key's secret and nothing else, as keymgr or tsig-keygen prints it behind \"secret\"");
	}
	while (pad < 2 && text[n - 1 - pad] == '=')
		pad++;
	z->secret_len = (size_t)got - pad;
	if (z->secret_len < FM_DNS_SECRET_MIN || z->secret_len > FM_DNS_SECRET_MAX)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "name service: the secret in %s has %zu bytes, %d to %d are possible", path,
		                    z->secret_len, FM_DNS_SECRET_MIN, FM_DNS_SECRET_MAX);
	memcpy(z->secret, buf, z->secret_len);
	return 0;
}

static int secret_read(const char *path, struct fm_dns_zone *z, struct fm_error *err)
{
	_fm_close_ int fd = -1;
	char text[SECRET_FILE_MAX + 1];
	uint8_t raw[SECRET_FILE_MAX];
	ssize_t n;
	int rc;

	if (secret_open(path, &fd, err) < 0)
		return -1;
	n = read(fd, text, sizeof(text)); /* a small regular file comes in one piece */
	if (n < 0)
		rc = fm_error_errno(err, errno, "name service: reading the secret %s", path);
	else if (n == (ssize_t)sizeof(text))
		rc = fm_error_set(err, FM_E_INVALID_ARGUMENT, "name service: the secret %s has more than %d bytes", path, SECRET_FILE_MAX);
	else
		rc = secret_decode(text, (size_t)n, path, raw, z, err);
	explicit_bzero(text, sizeof(text));
	explicit_bzero(raw, sizeof(raw));
	return rc;
}

void fm_dns_zone_wipe(struct fm_dns_zone *z)
{
	explicit_bzero(z, sizeof(*z));
}

static bool said(const char *word)
{
	return word && *word;
}

int fm_dns_zone_parse(const struct fm_dns_words *w, struct fm_dns_zone *ret, struct fm_error *err)
{
	struct fm_dns_zone z = { .algorithm = FM_DNS_HMAC_SHA256 };
	int rc;

	if (!said(w->server) || !said(w->zone))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "name service: a server and a zone are needed");
	if (server_parse(w->server, &z.server, err) < 0 || fm_dns_name_parse(w->zone, z.zone, err) < 0)
		return -1;
	if (said(w->reverse_zone) && fm_dns_name_parse(w->reverse_zone, z.reverse_zone, err) < 0)
		return -1;
	if (said(w->key_name) != said(w->secret_file))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT,
		                    "name service: a key is a name and the file of its secret, one of them is missing");
	if (said(w->algorithm) && algorithm_parse(w->algorithm, &z.algorithm, err) < 0)
		return -1;
	rc = !said(w->key_name) ? 0 : fm_dns_name_parse(w->key_name, z.key_name, err) < 0 ? -1 : secret_read(w->secret_file, &z, err);
	if (rc == 0)
		*ret = z;
	fm_dns_zone_wipe(&z);
	return rc;
}
