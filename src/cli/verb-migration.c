/* SPDX-License-Identifier: MIT */
/* verb-migration.c - `migration ls|show|watch|cancel|approve`. */
#include <stdio.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "cli/cli.h"
#include "cli/verbs.h"
#include "decision/strategy.h"
#include "migration/state.h"

static int print_migrations(const struct fm_client_options *o, const ProtobufCMessage *answer)
{
	const FM_PB(ListMigrationsResponse) *r = (const FM_PB(ListMigrationsResponse) *)answer;
	struct fm_table *t =
	        fm_table_new((const char *const[]){ "ID", "CONTAINER", "FROM", "TO", "STRATEGY", "STATE", "DOWNTIME", "STARTED", NULL });
	for (size_t i = 0; i < r->n_migrations; i++) {
		const FM_PB(Migration) *m = r->migrations[i];
		char down[32] = "-", started[40], state[48];
		(void)snprintf(state, sizeof(state), "%s%s%s%s", fm_state_to_string((enum fm_state)m->state), m->sub_state[0] ? " (" : "",
		               m->sub_state, m->sub_state[0] ? ")" : "");
		if (m->frozen_us)
			(void)snprintf(down, sizeof(down), "%.1f ms", (double)m->frozen_us / 1000);
		fm_table_row(t, m->id, m->container, m->source, m->destination, fm_strategy_to_string((enum fm_strategy)m->strategy), state,
		             down, fm_format_time(m->created_unix_ms, started, sizeof(started)), (char *)NULL);
	}
	fm_table_print(t);
	return 0;
}

int fm_verb_migration_ls(int argc, char **argv)
{
	struct fm_client_options o = { 0 };
	bool active = false;
	uint64_t limit = 20;
	const struct fm_option table[] = {
		{ "active", FM_OPT_FLAG, &active, NULL, "only those under way", NULL },
		{ "limit", FM_OPT_UINT, &limit, "N", "at most this many, newest first (default 20)", NULL },
		FM_CLIENT_OPTIONS(o),
		{ 0 },
	};
	const struct fm_command_line cl = { .usage = "fleximigrate migration ls [--active] [options]",
		                            .summary = "List migrations, newest first.",
		                            .options = table };
	struct fm_arguments args __attribute__((cleanup(fm_arguments_done))) = { 0 };
	struct fm_error err = FM_ERROR_INIT;
	FM_PB(ListMigrationsRequest) req = FLEXIMIGRATE__V1__LIST_MIGRATIONS_REQUEST__INIT;
	int rc = fm_options_parse(&cl, argc, argv, &args, &err);
	if (rc > 0)
		return 0;
	if (rc < 0)
		return fm_cli_fail(&o, &err);
	req.active_only = active;
	req.limit = (uint32_t)limit;
	return fm_client_ask(&o, FM_MANAGER_LIST_MIGRATIONS, &req.base, print_migrations);
}

static int print_migration(const struct fm_client_options *o, const ProtobufCMessage *answer)
{
	const FM_PB(Migration) *m = (const FM_PB(Migration) *)answer;
	fm_print_migration_summary(m);
	for (size_t i = 0; i < m->n_transitions; i++) {
		char at[40];
		printf("  %s  %s -> %s  %s  %s\n", fm_format_time(m->transitions[i]->at_unix_ms, at, sizeof(at)),
		       fm_state_to_string((enum fm_state)m->transitions[i]->from), fm_state_to_string((enum fm_state)m->transitions[i]->to),
		       m->transitions[i]->label, m->transitions[i]->reason);
	}
	return 0;
}

static int print_cancelled(const struct fm_client_options *o, const ProtobufCMessage *answer)
{
	const FM_PB(Migration) *m = (const FM_PB(Migration) *)answer;
	printf("Migration %s is being cancelled; 'fleximigrate migration watch %s' shows it.\n", m->id, m->id);
	return 0;
}

static int print_approved(const struct fm_client_options *o, const ProtobufCMessage *answer)
{
	const FM_PB(Migration) *m = (const FM_PB(Migration) *)answer;
	printf("Migration %s is approved; 'fleximigrate migration watch %s' shows it.\n", m->id, m->id);
	return 0;
}

int fm_verb_migration_show(int argc, char **argv)
{
	FM_PB(IdRequest) req = FLEXIMIGRATE__V1__ID_REQUEST__INIT;
	const struct fm_client_verb v = { .usage = "fleximigrate migration show ID [options]",
		                          .summary = "Show one migration: its path, phases and figures.",
		                          .method = FM_MANAGER_GET_MIGRATION,
		                          .request = &req.base,
		                          .argument = &req.id,
		                          .print = print_migration };
	return fm_client_verb(&v, argc, argv);
}

int fm_verb_migration_cancel(int argc, char **argv)
{
	FM_PB(IdRequest) req = FLEXIMIGRATE__V1__ID_REQUEST__INIT;
	const struct fm_client_verb v = { .usage = "fleximigrate migration cancel ID [options]",
		                          .summary =
		                                  "Cancel a migration; possible until its commit point. The container stays on its source.",
		                          .method = FM_MANAGER_CANCEL_MIGRATION,
		                          .request = &req.base,
		                          .argument = &req.id,
		                          .print = print_cancelled };
	return fm_client_verb(&v, argc, argv);
}

int fm_verb_migration_approve(int argc, char **argv)
{
	FM_PB(IdRequest) req = FLEXIMIGRATE__V1__ID_REQUEST__INIT;
	const struct fm_client_verb v = { .usage = "fleximigrate migration approve ID [options]",
		                          .summary = "Approve a migration that waits for it, because a policy requires it.",
		                          .method = FM_MANAGER_APPROVE_MIGRATION,
		                          .request = &req.base,
		                          .argument = &req.id,
		                          .print = print_approved };
	return fm_client_verb(&v, argc, argv);
}

int fm_verb_migration_watch(int argc, char **argv)
{
	struct fm_client_options o = { 0 };
	const struct fm_option table[] = { FM_CLIENT_OPTIONS(o), { 0 } };
	const struct fm_command_line cl = { .usage = "fleximigrate migration watch ID [options]",
		                            .summary = "Follow a migration to its end; --output json prints one event a line.",
		                            .options = table,
		                            .min_args = 1,
		                            .max_args = 1 };
	struct fm_arguments args __attribute__((cleanup(fm_arguments_done))) = { 0 };
	struct fm_error err = FM_ERROR_INIT;
	struct fm_rpc_client *client = NULL;
	int rc = fm_options_parse(&cl, argc, argv, &args, &err);
	if (rc > 0)
		return 0;
	if (rc < 0 || fm_client_connect(&o, &client, &err) < 0)
		return fm_cli_fail(&o, &err);
	rc = fm_show_migration(&o, client, args.v[0], false);
	fm_rpc_client_free(client);
	return rc;
}
