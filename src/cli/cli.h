/* SPDX-License-Identifier: MIT */
/*
 * cli.h - the verbs of `fleximigrate`, one file each (verb-*.c), and what they share (common.c): finding the manager, output as text or JSON, exit codes.
 *
 * Exit codes (documented in the man page; scripts rely on them):
 *   0 done · 1 the operation failed (a migration ended FAILED, a check found problems) · 2 bad usage or arguments · 3 not found · 4 manager or host not reachable
 *   5 refused in this state (exists already, is being migrated, past the commit point, not in this version) · 6 permission · 7 a limit (disk, memory, time) · 8 can-migrate: it cannot be moved · 130 interrupted
 */
#ifndef FM_CLI_CLI_H
#define FM_CLI_CLI_H

#include <stdbool.h>

#include "basic/error.h"
#include "basic/options.h"
#include "migration/pb.h"
#include "rpc/rpc.h"

struct fm_verb {
	const char *name; /* "migrate", "host ls" */
	const char *summary;
	int (*run)(int argc, char **argv); /* returns the exit code */
};
extern const struct fm_verb fm_verbs[]; /* ends with name NULL */

/* Options every client verb has; put FM_CLIENT_OPTIONS(c) into its table. */
struct fm_client_options {
	const char *manager; /* target; default $FLEXIMIGRATE_MANAGER or unix:/run/fleximigrate/manager.sock */
	const char *
	        tls_dir; /* ca.pem, client.pem, client.key (name by --tls-name); needed for host:port targets; default $FLEXIMIGRATE_TLS or /etc/fleximigrate/pki */
	const char *tls_name;
	const char *output; /* "text" | "json" */
	uint64_t timeout_ms;
};
#define FM_CLIENT_OPTIONS(c)                                                                                                               \
	{ "manager", FM_OPT_STRING, &(c).manager, "TARGET", "unix:/path or host:port of the manager ($FLEXIMIGRATE_MANAGER)", NULL },      \
	        { "tls-dir", FM_OPT_STRING, &(c).tls_dir, "DIR", "certificates, for host:port targets ($FLEXIMIGRATE_TLS)", NULL },        \
	        { "tls-name", FM_OPT_STRING, &(c).tls_name, "NAME", "which certificate of that folder (default: client)", NULL },          \
	        { "output", FM_OPT_CHOICE, &(c).output, "FORMAT", "text (default) or json", "text|json" },                                 \
	{                                                                                                                                  \
		"timeout", FM_OPT_DURATION, &(c).timeout_ms, "TIME", "give up after (default 60s)", NULL                                   \
	}

int fm_client_connect(const struct fm_client_options *o, struct fm_rpc_client **ret, struct fm_error *err);
/* One call to the manager; *ret typed by the method. */
int fm_client_call(const struct fm_client_options *o, enum fm_manager_method method, const ProtobufCMessage *request, void *ret,
                   struct fm_error *err);
bool fm_client_wants_json(const struct fm_client_options *o);

/* For people, or (own_json) in either form. Returns the exit code. `answer` is of the method's type. */
typedef int (*fm_client_print_fn)(const struct fm_client_options *o, const ProtobufCMessage *answer);

/* One call, and its answer printed: as JSON, or by `print`. Returns the exit code; what fails is said. */
int fm_client_ask(const struct fm_client_options *o, enum fm_manager_method method, const ProtobufCMessage *request,
                  fm_client_print_fn print);

/* A verb that is just that: no options but those of every client, at most one argument. */
struct fm_client_verb {
	const char *usage, *summary, *details; /* as in struct fm_command_line */
	enum fm_manager_method method;
	ProtobufCMessage *request; /* NULL: Empty */
	char **argument;           /* the field of the request that the verb's only argument goes into; NULL: the verb takes none */
	fm_client_print_fn print;
	bool own_json; /* print is called for JSON, too */
};
int fm_client_verb(const struct fm_client_verb *v, int argc, char **argv);

/* Print an error for people ("fleximigrate: message" + "hint: …") or, with --output json, as {"error": {...}} on stdout; returns the exit code. */
int fm_cli_fail(const struct fm_client_options *o, const struct fm_error *err);
int fm_exit_code(enum fm_code code);

/* Any message of the contract as JSON (json.c): proto3 JSON mapping with the original field names, 64-bit numbers as numbers, bytes base64, enums by name. One line + newline to stdout. */
void fm_print_json(const ProtobufCMessage *m);

/* A table for people: header row, columns padded; cells are copied. */
struct fm_table;
struct fm_table *fm_table_new(const char *const *headers);
void fm_table_row(struct fm_table *t, ...) __attribute__((sentinel)); /* const char * …, NULL */
void fm_table_print(struct fm_table *t);                              /* prints and frees */

/* The migration on screen: live progress on a terminal, the log lines otherwise; returns the exit code (0 COMPLETED, 1 FAILED). */
int fm_show_migration(const struct fm_client_options *o, struct fm_rpc_client *client, const char *id, bool cancel_on_interrupt);
void fm_print_migration_summary(const FM_PB(Migration) * m);

/* A plan for people (show-plan.c): what will not make it first, then the steps. */
void fm_print_cluster_plan(const FM_PB(ClusterPlan) * p);
/* Lines as its steps begin and end, until it is over; on SIGINT it goes on without us. Returns the exit code: 0 done and its aim reached, 1 not. */
int fm_show_cluster_plan(const struct fm_client_options *o, struct fm_rpc_client *client, const FM_PB(ClusterPlan) * p, int signals);

/* wired in cli.c */
int fm_cli_main(int argc, char **argv);

#endif
