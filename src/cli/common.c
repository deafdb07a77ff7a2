/* SPDX-License-Identifier: MIT */
/* common.c - what the client verbs share: connection, errors and exit codes, tables. */
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "basic/cleanup.h"
#include "basic/str.h"
#include "cli/cli.h"

#define DEFAULT_TARGET     "unix:/run/fleximigrate/manager.sock"
#define DEFAULT_TLS_DIR    "/etc/fleximigrate/pki"
#define DEFAULT_TIMEOUT_MS 60000

static const char *env_or(const char *name, const char *fallback)
{
	const char *v = getenv(name);
	return v && v[0] ? v : fallback;
}

int fm_client_connect(const struct fm_client_options *o, struct fm_rpc_client **ret, struct fm_error *err)
{
	const char *target = o->manager ? o->manager : env_or("FLEXIMIGRATE_MANAGER", DEFAULT_TARGET);
	const char *dir = o->tls_dir ? o->tls_dir : env_or("FLEXIMIGRATE_TLS", DEFAULT_TLS_DIR);
	const char *name = o->tls_name ? o->tls_name : "client";
	_fm_free_ char *ca = fm_xasprintf("%s/ca.pem", dir);
	_fm_free_ char *cert = fm_xasprintf("%s/%s.pem", dir, name);
	_fm_free_ char *key = fm_xasprintf("%s/%s.key", dir, name);
	struct fm_rpc_tls tls = { .ca_pem_path = ca, .cert_pem_path = cert, .key_pem_path = key };
	return fm_rpc_client_new(target, fm_str_startswith(target, "unix:") ? NULL : &tls, ret, err);
}

int fm_client_call(const struct fm_client_options *o, enum fm_manager_method method, const ProtobufCMessage *request, void *ret,
                   struct fm_error *err)
{
	struct fm_rpc_client *c = NULL;
	ProtobufCMessage *resp = NULL;
	if (fm_client_connect(o, &c, err) < 0)
		return -1;
	uint64_t timeout_ms = o->timeout_ms ? o->timeout_ms : DEFAULT_TIMEOUT_MS;
	int rc = fm_rpc_client_call(c, &fm_manager_methods[method], request, timeout_ms < INT_MAX ? (int)timeout_ms : INT_MAX, -1, &resp,
	                            err);
	fm_rpc_client_free(c);
	if (rc == 0)
		*(ProtobufCMessage **)ret = resp;
	return rc;
}

bool fm_client_wants_json(const struct fm_client_options *o)
{
	return fm_streq(o->output, "json");
}

int fm_exit_code(enum fm_code code)
{
	switch (code) {
	case FM_OK:
		return 0;
	case FM_E_INVALID_ARGUMENT:
	case FM_E_OUT_OF_RANGE:
		return 2;
	case FM_E_NOT_FOUND:
		return 3;
	case FM_E_UNAVAILABLE:
		return 4;
	case FM_E_ALREADY_EXISTS:
	case FM_E_FAILED_PRECONDITION:
	case FM_E_ABORTED:
	case FM_E_UNIMPLEMENTED:
		return 5;
	case FM_E_PERMISSION_DENIED:
	case FM_E_UNAUTHENTICATED:
		return 6;
	case FM_E_RESOURCE_EXHAUSTED:
	case FM_E_DEADLINE_EXCEEDED:
		return 7;
	case FM_E_CANCELLED:
		return 130;
	default:
		return 1;
	}
}

int fm_cli_fail(const struct fm_client_options *o, const struct fm_error *err)
{
	if (o && fm_client_wants_json(o)) {
		json_t *j = json_pack("{s:{s:s, s:s, s:s, s:s}}", "error", "code", fm_code_to_string(err->code), "message", err->message,
		                      "hint", err->hint, "phase", err->phase);
		if (j)
			(void)json_dumpf(j, stdout, JSON_COMPACT);
		printf("\n");
		json_decref(j);
		return fm_exit_code(err->code);
	}
	fprintf(stderr, "fleximigrate: %s\n", err->message);
	if (err->hint[0])
		fprintf(stderr, "hint: %s\n", err->hint);
	return fm_exit_code(err->code);
}

/* ---------------------------------------------------------------- verbs that are one call */

static int ask(const struct fm_client_options *o, enum fm_manager_method method, const ProtobufCMessage *request, fm_client_print_fn print,
               bool own_json)
{
	struct fm_error err = FM_ERROR_INIT;
	ProtobufCMessage *answer = NULL;
	int rc = 0;
	if (fm_client_call(o, method, request, &answer, &err) < 0)
		return fm_cli_fail(o, &err);
	if (fm_client_wants_json(o) && !own_json)
		fm_print_json(answer);
	else
		rc = print(o, answer);
	fm_pb_free(answer);
	return rc;
}

int fm_client_ask(const struct fm_client_options *o, enum fm_manager_method method, const ProtobufCMessage *request,
                  fm_client_print_fn print)
{
	return ask(o, method, request, print, false);
}

int fm_client_verb(const struct fm_client_verb *v, int argc, char **argv)
{
	struct fm_client_options o = { 0 };
	const struct fm_option table[] = { FM_CLIENT_OPTIONS(o), { 0 } };
	const struct fm_command_line cl = { .usage = v->usage,
		                            .summary = v->summary,
		                            .details = v->details,
		                            .options = table,
		                            .min_args = v->argument ? 1 : 0,
		                            .max_args = v->argument ? 1 : 0 };
	struct fm_arguments args __attribute__((cleanup(fm_arguments_done))) = { 0 };
	struct fm_error err = FM_ERROR_INIT;
	FM_PB(Empty) empty = FLEXIMIGRATE__V1__EMPTY__INIT;
	int rc = fm_options_parse(&cl, argc, argv, &args, &err);
	if (rc > 0)
		return 0;
	if (rc < 0)
		return fm_cli_fail(&o, &err);
	if (v->argument)
		*v->argument = args.v[0];
	return ask(&o, v->method, v->request ? v->request : &empty.base, v->print, v->own_json);
}

/* ---------------------------------------------------------------- tables */

#define MAX_COLUMNS 16

struct fm_table {
	size_t n_columns, n_rows;
	char **cells; /* rows * columns */
	size_t width[MAX_COLUMNS];
};

static void add_cell(struct fm_table *t, size_t column, const char *text)
{
	char **grown = realloc(t->cells, (t->n_rows * t->n_columns + column + 1) * sizeof(*grown));
	if (!grown)
		abort();
	t->cells = grown;
	t->cells[t->n_rows * t->n_columns + column] = fm_xstrdup(text ? text : "");
	size_t n = strlen(text ? text : "");
	if (n > t->width[column])
		t->width[column] = n;
}

struct fm_table *fm_table_new(const char *const *headers)
{
	struct fm_table *t = calloc(1, sizeof(*t));
	if (!t)
		abort();
	while (t->n_columns < MAX_COLUMNS && headers[t->n_columns])
		t->n_columns++;
	for (size_t i = 0; i < t->n_columns; i++)
		add_cell(t, i, headers[i]);
	t->n_rows = 1;
	return t;
}

void fm_table_row(struct fm_table *t, ...)
{
	va_list ap;
	const char *cell = "";
	va_start(ap, t);
	for (size_t i = 0; i < t->n_columns; i++) {
		cell = cell ? va_arg(ap, const char *) : NULL; /* a short row is filled with empty cells */
		add_cell(t, i, cell);
	}
	va_end(ap);
	t->n_rows++;
}

void fm_table_print(struct fm_table *t)
{
	for (size_t r = 0; r < t->n_rows; r++) {
		for (size_t i = 0; i < t->n_columns; i++) {
			char *cell = t->cells[r * t->n_columns + i];
			if (i + 1 < t->n_columns)
				printf("%-*s  ", (int)t->width[i], cell);
			else
				printf("%s", cell);
			free(cell);
		}
		printf("\n");
	}
	free(t->cells);
	free(t);
}
