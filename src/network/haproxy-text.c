/* SPDX-License-Identifier: MIT */
/*
 * haproxy-text.c - what HAProxy answers, and the words of an action that lead to it. See haproxy.h.
 *
 * Columns are found by their names in the first line, as newer versions add some. Every line must have as many as that one; a line that is cut short, a number with something behind it, a name that comes
 * twice: the whole answer is not believed. It must end with an empty line, HAProxy's mark that nothing is missing.
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <string.h>
#include <sys/un.h>

#include "basic/str.h"
#include "network/haproxy.h"

#define COLUMNS_MAX 256
#define NUMBER_MAX  32 /* bytes of a column with a number, or of an address */

/* The guide's masks of srv_admin_state and values of srv_op_state */
#define ADMIN_MAINT_ORDERED  0x01u
#define ADMIN_MAINT_ANY      0x23u
#define ADMIN_DRAIN_ORDERED  0x08u
#define ADMIN_DRAIN_ANY      0x18u
#define OP_STARTING          1u
#define OP_RUNNING           2u
#define WEIGHT_MAX           256u
#define STATE_FORMAT_VERSION "1"

/* ---- words ---- */

static bool parse_host(const char *text, bool v6, char ret[INET6_ADDRSTRLEN])
{
	uint8_t a[16];
	int family = v6 ? AF_INET6 : AF_INET;

	return inet_pton(family, text, a) == 1 && inet_ntop(family, a, ret, INET6_ADDRSTRLEN);
}

int fm_haproxy_address_parse(const char *text, struct fm_haproxy_address *ret, struct fm_error *err)
{
	struct fm_haproxy_address a = { 0 };
	bool v6 = text[0] == '[';
	char copy[FM_HAPROXY_ADDRESS_TEXT], *host = copy, *colon;
	int port;

	if (fm_snprintf(copy, sizeof(copy), NULL, "%s", text) == 0 && (colon = strrchr(copy, ':')) && colon > copy &&
	    fm_parse_int(colon + 1, 1, 65535, &port, NULL) == 0) {
		*colon = '\0';
		if (v6 && colon[-1] == ']') {
			colon[-1] = '\0';
			host++;
		}
		if (parse_host(host, v6, a.host)) {
			a.port = (uint16_t)port;
			*ret = a;
			return 0;
		}
	}
	(void)fm_error_set(err, FM_E_INVALID_ARGUMENT, "\"%.64s\" is not an address with a port", text);
	return fm_error_hint(err, "write 10.77.0.100:6379 or [fd00::1]:6379");
}

const char *fm_haproxy_address_format(const struct fm_haproxy_address *a, char ret[FM_HAPROXY_ADDRESS_TEXT])
{
	if (!a->host[0])
		(void)snprintf(ret, FM_HAPROXY_ADDRESS_TEXT, "nowhere");
	else
		(void)snprintf(ret, FM_HAPROXY_ADDRESS_TEXT, strchr(a->host, ':') ? "[%s]:%u" : "%s:%u", a->host, a->port);
	return ret;
}

int fm_haproxy_name_check(const char *name, struct fm_error *err)
{
	size_t n = strlen(name);
	bool good = n > 0 && n <= FM_HAPROXY_NAME_MAX;

	for (size_t i = 0; good && i < n; i++)
		good = isalnum((unsigned char)name[i]) || strchr("-_.:", name[i]);
	if (good)
		return 0;
	return fm_error_set(err, FM_E_INVALID_ARGUMENT, "\"%.64s\" is not the name of a backend or a server in HAProxy", name);
}

int fm_haproxy_socket_check(const char *socket, struct fm_error *err)
{
	struct fm_haproxy_address a;

	if (fm_str_startswith(socket, "tcp:"))
		return fm_haproxy_address_parse(socket + strlen("tcp:"), &a, err);
	if (socket[0] == '/' && strlen(socket) < sizeof(((struct sockaddr_un *)NULL)->sun_path))
		return 0;
	(void)fm_error_set(err, FM_E_INVALID_ARGUMENT, "\"%.128s\" is not HAProxy's socket", socket);
	return fm_error_hint(err, "an absolute path of less than %zu bytes, or tcp:ADDRESS:PORT",
	                     sizeof(((struct sockaddr_un *)NULL)->sun_path));
}

static const char *const state_names[] = { "ready", "drain", "maint" };

const char *fm_haproxy_state_to_string(enum fm_haproxy_state s)
{
	return (unsigned)s < FM_ARRAY_SIZE(state_names) ? state_names[s] : "unknown";
}

int fm_haproxy_state_from_string(const char *text, enum fm_haproxy_state *ret, struct fm_error *err)
{
	for (unsigned i = 0; i < FM_ARRAY_SIZE(state_names); i++)
		if (fm_streq(text, state_names[i])) {
			*ret = (enum fm_haproxy_state)i;
			return 0;
		}
	return fm_error_set(err, FM_E_INVALID_ARGUMENT, "\"%.32s\" is not ready, drain or maint", text);
}

/* ---- lines and columns ---- */

struct span {
	const char *p;
	size_t n;
};

static bool span_is(struct span s, const char *text)
{
	return s.n == strlen(text) && memcmp(s.p, text, s.n) == 0;
}

static int damaged(const char *what, struct fm_error *err)
{
	return fm_error_set(err, FM_E_DATA_LOSS, "HAProxy's answer %s", what);
}

/* 1: a line, 0: the end, an empty line with nothing behind it */
static int next_line(struct span *rest, struct span *ret, struct fm_error *err)
{
	const char *end = rest->n ? memchr(rest->p, '\n', rest->n) : NULL;

	if (!end)
		return damaged("is cut short", err);
	*ret = (struct span){ rest->p, (size_t)(end - rest->p) };
	rest->p += ret->n + 1;
	rest->n -= ret->n + 1;
	if (ret->n == 0 && rest->n > 0)
		return damaged("goes on behind its end", err);
	return ret->n > 0;
}

/* A table: the line of its titles begins with "# ". separator ' ' or ','; with ',' columns may be in quotation marks, and one more comma ends each line. */
struct table {
	struct span rest, title[COLUMNS_MAX], column[COLUMNS_MAX];
	size_t n;
	char separator;
};

/* One quoted column, RFC 4180; what is between the marks is never of interest, so doubled ones stay as they are. */
static bool take_quoted(struct span *line, struct span *ret)
{
	size_t end = 1; /* the mark that ends it */

	for (;;) {
		const char *mark = end < line->n ? memchr(line->p + end, '"', line->n - end) : NULL;

		if (!mark)
			return false;
		end = (size_t)(mark - line->p);
		if (end + 1 == line->n || mark[1] != '"')
			break;
		end += 2;
	}
	*ret = (struct span){ line->p + 1, end - 1 };
	line->p += end + 1;
	line->n -= end + 1;
	return line->n == 0 || *line->p == ',';
}

static bool take_column(struct span *line, char separator, struct span *ret)
{
	const char *end;

	if (separator == ',' && line->n && *line->p == '"')
		return take_quoted(line, ret);
	end = line->n ? memchr(line->p, separator, line->n) : NULL;
	*ret = (struct span){ line->p, end ? (size_t)(end - line->p) : line->n };
	line->p += ret->n;
	line->n -= ret->n;
	return true;
}

static int split(struct span line, char separator, struct span ret[COLUMNS_MAX], size_t *ret_n, struct fm_error *err)
{
	size_t n = 0;

	if (line.n && line.p[line.n - 1] == separator)
		line.n--;
	for (;;) {
		if (n == COLUMNS_MAX)
			return damaged("has too many columns", err);
		if (!take_column(&line, separator, &ret[n++]))
			return damaged("has a column with an unfinished quotation", err);
		if (line.n == 0)
			break;
		line.p++; /* the separator; what follows may be an empty column */
		line.n--;
	}
	*ret_n = n;
	return 0;
}

static int table_begin(struct span rest, char separator, struct table *ret, struct fm_error *err)
{
	struct span line;
	int got;

	ret->rest = rest;
	ret->separator = separator;
	got = next_line(&ret->rest, &line, err);
	if (got < 0)
		return -1;
	if (got == 0 || line.n < 2 || memcmp(line.p, "# ", 2) != 0)
		return damaged("has no line of titles", err);
	line.p += 2;
	line.n -= 2;
	return split(line, separator, ret->title, &ret->n, err);
}

/* 1: a line, 0: the end */
static int table_next(struct table *t, struct fm_error *err)
{
	struct span line;
	size_t n = 0;
	int got;

	do {
		got = next_line(&t->rest, &line, err);
		if (got <= 0)
			return got;
	} while (line.p[0] == '#');
	if (split(line, t->separator, t->column, &n, err) < 0)
		return -1;
	return n == t->n ? 1 : damaged("has a line with more or fewer columns than titles", err);
}

static int table_find(const struct table *t, const char *title, size_t *ret, struct fm_error *err)
{
	for (size_t i = 0; i < t->n; i++)
		if (span_is(t->title[i], title)) {
			*ret = i;
			return 0;
		}
	return fm_error_set(err, FM_E_DATA_LOSS, "HAProxy's answer has no column %s", title);
}

static int number(struct span s, uint64_t max, uint64_t *ret, struct fm_error *err)
{
	char text[NUMBER_MAX];

	if (s.n > 0 && s.n < sizeof(text) && !memchr(s.p, '\0', s.n)) {
		memcpy(text, s.p, s.n);
		text[s.n] = '\0';
		if (fm_parse_u64(text, ret, NULL) == 0 && *ret <= max)
			return 0;
	}
	return fm_error_set(err, FM_E_DATA_LOSS, "HAProxy's answer has \"%.*s\" where a number is expected", s.n < 32 ? (int)s.n : 32, s.p);
}

/* HAProxy refuses a command in words. */
static int refused(struct span s, struct fm_error *err)
{
	static const struct {
		const char *begins;
		enum fm_code code;
		const char *hint;
	} known[] = {
		{ "Permission denied", FM_E_PERMISSION_DENIED,
		  "the socket needs \"level admin\": stats socket /run/haproxy/admin.sock level admin" },
		{ "Can't find backend", FM_E_NOT_FOUND, "is the backend's name that of HAProxy's configuration?" },
		{ "No such backend", FM_E_NOT_FOUND, "is the backend's name that of HAProxy's configuration?" },
		{ "No such server", FM_E_NOT_FOUND, "is the server's name that of HAProxy's configuration?" },
		{ "No such proxy", FM_E_NOT_FOUND, "is the backend's name that of HAProxy's configuration?" },
		{ "Unknown command", FM_E_UNIMPLEMENTED, "is this HAProxy's runtime socket, of version 2.0 or later?" },
	};
	const char *end = memchr(s.p, '\n', s.n);
	int n = (int)((end ? (size_t)(end - s.p) : s.n) > 200 ? 200 : (end ? (size_t)(end - s.p) : s.n));

	for (size_t i = 0; i < FM_ARRAY_SIZE(known); i++)
		if (s.n >= strlen(known[i].begins) && memcmp(s.p, known[i].begins, strlen(known[i].begins)) == 0) {
			(void)fm_error_set(err, known[i].code, "HAProxy says \"%.*s\"", n, s.p);
			return fm_error_hint(err, "%s", known[i].hint);
		}
	return fm_error_set(err, FM_E_FAILED_PRECONDITION, "HAProxy says \"%.*s\"", n, s.p);
}

/* Whose line is it? */
static int is_wanted(const struct table *t, size_t name, const char *wanted, bool *found, struct fm_error *err)
{
	if (!span_is(t->column[name], wanted))
		return 0;
	if (*found)
		return damaged("has the server twice", err);
	*found = true;
	return 1;
}

static int not_found(const char *backend, const char *server, struct fm_error *err)
{
	(void)fm_error_set(err, FM_E_NOT_FOUND, "HAProxy has no server %s in its backend %s", server, backend);
	return fm_error_hint(err, "is the server's name that of HAProxy's configuration?");
}

/* ---- show servers state ---- */

enum { BACKEND, NAME, ADDRESS, OP_STATE, ADMIN_STATE, WEIGHT, FQDN, PORT, SRVRECORD, CHECK_PORT, CHECK_ADDRESS, N_STATE_COLUMNS };

static const char *const state_titles[N_STATE_COLUMNS] = { "be_name",         "srv_name",       "srv_addr",      "srv_op_state",
	                                                   "srv_admin_state", "srv_uweight",    "srv_fqdn",      "srv_port",
	                                                   "srvrecord",       "srv_check_port", "srv_check_addr" };

/* The version stands alone in the first line. */
static int state_begin(struct span text, struct table *ret, size_t at[N_STATE_COLUMNS], struct fm_error *err)
{
	struct span rest = text, line;

	if (text.n == 0)
		return fm_error_set(err, FM_E_UNAVAILABLE, "HAProxy closed the connection without an answer");
	if (next_line(&rest, &line, NULL) <= 0 || !isdigit((unsigned char)line.p[0]))
		return refused(text, err);
	if (!span_is(line, STATE_FORMAT_VERSION))
		return fm_error_set(err, FM_E_UNIMPLEMENTED, "HAProxy writes the state of its servers in format \"%.*s\"; only %s is known",
		                    line.n < 16 ? (int)line.n : 16, line.p, STATE_FORMAT_VERSION);
	if (table_begin(rest, ' ', ret, err) < 0)
		return -1;
	for (size_t i = 0; i < N_STATE_COLUMNS; i++)
		if (table_find(ret, state_titles[i], &at[i], err) < 0)
			return -1;
	return 0;
}

struct state_numbers {
	uint64_t op, admin, weight, port, check_port;
};

static int state_numbers(const struct table *t, const size_t at[N_STATE_COLUMNS], struct state_numbers *ret, struct fm_error *err)
{
	const struct span *column = t->column;

	if (number(column[at[OP_STATE]], 3, &ret->op, err) < 0 || number(column[at[ADMIN_STATE]], 0xff, &ret->admin, err) < 0 ||
	    number(column[at[WEIGHT]], WEIGHT_MAX, &ret->weight, err) < 0 || number(column[at[PORT]], 65535, &ret->port, err) < 0)
		return -1;
	return number(column[at[CHECK_PORT]], 65535, &ret->check_port, err);
}

static bool op_is_up(uint64_t op)
{
	return op == OP_STARTING || op == OP_RUNNING;
}

static int take_server(const struct table *t, const size_t at[N_STATE_COLUMNS], const struct state_numbers *v,
                       struct fm_haproxy_server *ret, struct fm_error *err)
{
	struct span host = t->column[at[ADDRESS]];
	char text[NUMBER_MAX + INET6_ADDRSTRLEN];

	ret->address = (struct fm_haproxy_address){ .port = (uint16_t)v->port };
	if (!span_is(host, "-")) {
		if (host.n >= sizeof(text))
			return damaged("has an address that is none", err);
		memcpy(text, host.p, host.n);
		text[host.n] = '\0';
		if (strlen(text) != host.n || !parse_host(text, strchr(text, ':') != NULL, ret->address.host))
			return damaged("has an address that is none", err);
	}
	ret->state = v->admin & ADMIN_MAINT_ORDERED   ? FM_HAPROXY_MAINT
	             : v->admin & ADMIN_DRAIN_ORDERED ? FM_HAPROXY_DRAIN
	                                              : FM_HAPROXY_READY;
	ret->up = op_is_up(v->op);
	ret->by_name = !span_is(t->column[at[FQDN]], "-") || !span_is(t->column[at[SRVRECORD]], "-");
	ret->checked_elsewhere = !span_is(t->column[at[CHECK_ADDRESS]], "-");
	ret->check_port = (uint16_t)v->check_port;
	ret->weight = (unsigned)v->weight;
	return 0;
}

int fm_haproxy_state_parse(const char *text, size_t n, const char *backend, const char *server, struct fm_haproxy_server *ret,
                           struct fm_error *err)
{
	struct fm_haproxy_server s = { 0 };
	struct state_numbers v;
	size_t at[N_STATE_COLUMNS] = { 0 };
	struct table t;
	bool found = false;
	int got;

	if (state_begin((struct span){ text, n }, &t, at, err) < 0)
		return -1;
	while ((got = table_next(&t, err)) > 0) {
		if (state_numbers(&t, at, &v, err) < 0)
			return -1;
		if (!span_is(t.column[at[BACKEND]], backend))
			continue;
		got = is_wanted(&t, at[NAME], server, &found, err);
		if (got < 0 || (got > 0 && take_server(&t, at, &v, &s, err) < 0))
			return -1;
		if (got == 0 && op_is_up(v.op) && !(v.admin & (ADMIN_MAINT_ANY | ADMIN_DRAIN_ANY)) && v.weight > 0)
			s.others_ready++;
	}
	if (got < 0)
		return -1;
	if (!found)
		return not_found(backend, server, err);
	*ret = s;
	return 0;
}

/* ---- show stat ---- */

int fm_haproxy_stat_parse(const char *text, size_t n, const char *backend, const char *server, uint64_t *ret_sessions, struct fm_error *err)
{
	struct span whole = { text, n };
	size_t px = 0, sv = 0, scur = 0, qcur = 0;
	uint64_t has = 0, waits = 0;
	struct table t;
	bool found = false;
	int got;

	if (n == 0)
		return fm_error_set(err, FM_E_UNAVAILABLE, "HAProxy closed the connection without an answer");
	if (text[0] != '#')
		return refused(whole, err);
	if (table_begin(whole, ',', &t, err) < 0 || table_find(&t, "pxname", &px, err) < 0 || table_find(&t, "svname", &sv, err) < 0 ||
	    table_find(&t, "scur", &scur, err) < 0 || table_find(&t, "qcur", &qcur, err) < 0)
		return -1;
	while ((got = table_next(&t, err)) > 0) {
		got = span_is(t.column[px], backend) ? is_wanted(&t, sv, server, &found, err) : 0;
		if (got < 0 ||
		    (got > 0 && (number(t.column[scur], UINT32_MAX, &has, err) < 0 || number(t.column[qcur], UINT32_MAX, &waits, err) < 0)))
			return -1;
	}
	if (got < 0)
		return -1;
	if (!found)
		return not_found(backend, server, err);
	*ret_sessions = has + waits;
	return 0;
}

int fm_haproxy_reply_error(const char *text, size_t n, struct fm_error *err)
{
	return refused((struct span){ text, n }, err);
}
