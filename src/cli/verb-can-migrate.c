/* SPDX-License-Identifier: MIT */
/* verb-can-migrate.c - `can-migrate CONTAINER --to HOST`: what is in the way, what may go wrong. Nothing is touched. */
#include <stdio.h>

#include "basic/cleanup.h"
#include "cli/cli.h"
#include "cli/verbs.h"
#include "decision/strategy.h"

#define EXIT_NOT_POSSIBLE 8

static void print_findings(const FM_PB(CanMigrateResponse) * r)
{
	for (size_t i = 0; i < r->n_findings; i++) {
		const FM_PB(CompatFinding) *f = r->findings[i];
		printf("  %-8s %s: %s\n", f->severity, f->subject, f->text);
		if (f->remedy[0])
			printf("           remedy: %s\n", f->remedy);
	}
}

static void print_answer(const FM_PB(CanMigrateRequest) * req, const FM_PB(CanMigrateResponse) * r)
{
	printf("'%s' %s move from '%s' to '%s' (nothing was touched).\n", req->container, r->possible ? "can" : "cannot", r->source,
	       req->to);
	if (r->plan)
		printf("  predicted downtime %llu ms, total %llu ms, strategy %s\n", (unsigned long long)r->plan->predicted_downtime_ms,
		       (unsigned long long)r->plan->predicted_total_ms, fm_strategy_to_string((enum fm_strategy)r->plan->strategy));
	print_findings(r);
}

static int ask(const struct fm_client_options *client, const FM_PB(CanMigrateRequest) * req, struct fm_error *err)
{
	_fm_pb_ FM_PB(CanMigrateResponse) *r = NULL;
	if (fm_client_call(client, FM_MANAGER_CAN_MIGRATE, &req->base, &r, err) < 0)
		return fm_cli_fail(client, err);
	if (fm_client_wants_json(client))
		fm_print_json(&r->base);
	else
		print_answer(req, r);
	return r->possible ? 0 : EXIT_NOT_POSSIBLE;
}

int fm_verb_can_migrate(int argc, char **argv)
{
	struct fm_client_options client = { 0 };
	const char *to = NULL, *name = NULL;
	const struct fm_option table[] = {
		{ "to", FM_OPT_STRING, &to, "HOST", "destination", NULL },
		{ "strategy", FM_OPT_STRING, &name, "STRATEGY", "auto (default), live, pre-copy, post-copy, cold", NULL },
		FM_CLIENT_OPTIONS(client),
		{ 0 },
	};
	const struct fm_command_line cl = { .usage = "fleximigrate can-migrate CONTAINER --to HOST [options]",
		                            .summary = "Say whether a container can move to a host: every blocker with its remedy, every "
		                                       "risk, and the downtime to expect.",
		                            .details = "Nothing is frozen or changed. Exit code 0: it can; 8: it cannot.",
		                            .options = table,
		                            .min_args = 1,
		                            .max_args = 1 };
	struct fm_arguments args __attribute__((cleanup(fm_arguments_done))) = { 0 };
	struct fm_error err = FM_ERROR_INIT;
	enum fm_strategy strategy = FM_STRATEGY_AUTO;
	FM_PB(CanMigrateRequest) req = FLEXIMIGRATE__V1__CAN_MIGRATE_REQUEST__INIT;
	int rc = fm_options_parse(&cl, argc, argv, &args, &err);
	if (rc > 0)
		return 0;
	if (rc == 0 && !to) {
		rc = fm_error_set(&err, FM_E_INVALID_ARGUMENT, "--to HOST is missing");
		(void)fm_error_hint(&err, "'fleximigrate host ls' shows the hosts");
	}
	if (rc == 0 && name)
		rc = fm_strategy_from_string(name, &strategy, &err);
	if (rc < 0)
		return fm_cli_fail(&client, &err);
	req.container = args.v[0];
	req.to = (char *)to;
	req.strategy = (FM_PB(Strategy))strategy;
	return ask(&client, &req, &err);
}
