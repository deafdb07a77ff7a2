/* SPDX-License-Identifier: MIT */
/*
 * sockets.c - the TCP tables of a container, from /proc/PID/net, which shows the network namespace of that process.
 *
 * Text and not sock_diag: it needs no namespace switch, and it is read outside the freeze. The tables are read line by line (a busy
 * server's has hundreds of thousands of lines, of which a handful listen); only the number of kept listeners is limited.
 */
#include "network/sockets.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/cleanup.h"

#define MAX_LISTENERS 65536

/* st column: include/net/tcp_states.h */
#define ST_ESTABLISHED 0x01
#define ST_LISTEN      0x0a

struct tcp_line {
	char address[46];
	uint16_t port;
	unsigned state;
};

struct listeners {
	struct fm_listener *v;
	size_t n, cap;
};

typedef int (*line_fn)(const struct tcp_line *line, void *userdata, struct fm_error *err);

/* Each 32-bit word of the address is printed as a number of the machine's byte order. */
static bool address_parse(const char *hex, size_t words, char ret[46])
{
	uint32_t raw[4];

	for (size_t i = 0; i < words; i++)
		if (sscanf(hex + 8 * i, "%8x", &raw[i]) != 1)
			return false;
	return inet_ntop(words == 1 ? AF_INET : AF_INET6, raw, ret, 46) != NULL;
}

/* "  0: 0100007F:1F90 00000000:0000 0A …" */
static bool line_parse(const char *s, struct tcp_line *ret)
{
	char hex[33];
	unsigned port, state;

	if (sscanf(s, " %*u: %32[0-9A-Fa-f]:%4x %*32[0-9A-Fa-f]:%*4x %2x", hex, &port, &state) != 3)
		return false;
	if (strlen(hex) != 8 && strlen(hex) != 32)
		return false;
	ret->port = (uint16_t)port;
	ret->state = state;
	return address_parse(hex, strlen(hex) / 8, ret->address);
}

static int table_read(pid_t pid, const char *table, line_fn fn, void *userdata, struct fm_error *err)
{
	_fm_fclose_ FILE *f = NULL;
	_fm_free_ char *line = NULL;
	struct tcp_line parsed;
	size_t cap = 0;
	char path[64];
	int number = 0;

	(void)snprintf(path, sizeof(path), "/proc/%d/net/%s", (int)pid, table);
	f = fopen(path, "re");
	if (!f)
		return fm_error_errno(err, errno, "read %s", path);
	errno = 0;
	while (getline(&line, &cap, f) >= 0) {
		if (number++ == 0)
			continue; /* the heading */
		if (!line_parse(line, &parsed))
			return fm_error_set(err, FM_E_INTERNAL, "%s, line %d: not understood", path, number);
		if (fn(&parsed, userdata, err) < 0)
			return -1;
		errno = 0;
	}
	if (ferror(f))
		return fm_error_errno(err, errno ? errno : EIO, "read %s", path);
	return 0;
}

static int tables_read(pid_t pid, line_fn fn, void *userdata, struct fm_error *err)
{
	struct fm_error why = FM_ERROR_INIT;

	if (table_read(pid, "tcp", fn, userdata, err) < 0)
		return -1;
	/* a kernel without IPv6 has no second table */
	if (table_read(pid, "tcp6", fn, userdata, &why) < 0 && why.code != FM_E_NOT_FOUND) {
		if (err)
			*err = why;
		return -1;
	}
	return 0;
}

static int keep_listener(const struct tcp_line *line, void *userdata, struct fm_error *err)
{
	struct listeners *l = userdata;
	struct fm_listener *x;

	if (line->state != ST_LISTEN)
		return 0;
	if (l->n == MAX_LISTENERS)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "more than %d listening sockets", MAX_LISTENERS);
	if (l->n == l->cap) {
		size_t cap = l->cap ? 2 * l->cap : 16;
		void *p = realloc(l->v, cap * sizeof(*l->v));

		if (!p)
			return fm_error_errno(err, ENOMEM, "list listening sockets");
		l->v = p;
		l->cap = cap;
	}
	x = &l->v[l->n++];
	memset(x, 0, sizeof(*x));
	memcpy(x->address, line->address, sizeof(x->address));
	x->port = line->port;
	memcpy(x->protocol, "tcp", sizeof("tcp"));
	return 0;
}

static int count_established(const struct tcp_line *line, void *userdata, struct fm_error *err)
{
	size_t *n = userdata;

	*n += line->state == ST_ESTABLISHED;
	return 0;
}

static int listener_compare(const void *pa, const void *pb)
{
	const struct fm_listener *a = pa, *b = pb;

	if (a->port != b->port)
		return a->port < b->port ? -1 : 1;
	return strcmp(a->address, b->address);
}

int fm_listeners(pid_t pid, struct fm_listener **ret, size_t *ret_n, struct fm_error *err)
{
	struct listeners l = { 0 };
	size_t kept = 0;

	if (tables_read(pid, keep_listener, &l, err) < 0) {
		free(l.v);
		return fm_error_prefix(err, "listening sockets of process %d", (int)pid);
	}
	if (l.n > 1)
		qsort(l.v, l.n, sizeof(*l.v), listener_compare);
	/* SO_REUSEPORT: several sockets, one listener to us */
	for (size_t i = 0; i < l.n; i++)
		if (kept == 0 || listener_compare(&l.v[kept - 1], &l.v[i]) != 0)
			l.v[kept++] = l.v[i];
	*ret = l.v;
	*ret_n = kept;
	return 0;
}

int fm_established_count(pid_t pid, size_t *ret, struct fm_error *err)
{
	size_t n = 0;

	if (tables_read(pid, count_established, &n, err) < 0)
		return fm_error_prefix(err, "connections of process %d", (int)pid);
	*ret = n;
	return 0;
}
