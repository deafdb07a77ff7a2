/* SPDX-License-Identifier: MIT */
/* verb-migrate.c - `migrate CONTAINER --to HOST`. */
#include <stdio.h>

#include "basic/cleanup.h"
#include "basic/limits.h"
#include "cli/cli.h"
#include "cli/verbs.h"
#include "decision/strategy.h"
#include "loop/pool.h"

struct migrate_options {
	struct fm_client_options client;
	const char *runtime, *to, *strategy;
	bool dry_run, detach;
	uint64_t max_total_ms, max_downtime_ms, bandwidth, max_throttle, streams;
};

#define NOT_GIVEN UINT64_MAX /* 0 is a wish, too: it wins over the container's label */

static void print_options(const FM_PB(Plan) * p)
{
	for (size_t i = 0; i < p->n_options; i++) {
		const FM_PB(StrategyOption) *o = p->options[i];
		char wire[32];
		printf("    %-9s  ", fm_strategy_to_string((enum fm_strategy)o->strategy));
		if (o->possible)
			printf("downtime %.0f ms, total %.0f ms, %s, price %.1f%s", o->downtime_ms, o->total_ms,
			       fm_format_bytes((uint64_t)o->wire_bytes, wire, sizeof(wire)), o->price, o->why_not[0] ? "; " : "");
		printf("%s\n", o->why_not);
	}
}

static void print_plan(const FM_PB(Migration) * m)
{
	char memory[32], wire[32];
	const FM_PB(Plan) *p = m->plan;
	printf("Plan for '%s' from '%s' to '%s' (nothing is done):\n", m->container, m->source, m->destination);
	printf("  strategy   %s. %s\n", fm_strategy_to_string((enum fm_strategy)p->strategy), p->explanation);
	if (p->max_throttle_percent)
		printf("  throttle   up to %u %% of its processor time may be taken away\n", p->max_throttle_percent);
	if (p->streams)
		printf("  streams    pages are sent over %u\n", p->streams);
	printf("  memory     %s\n", fm_format_bytes(p->memory_bytes, memory, sizeof(memory)));
	printf("  predicted  downtime %llu ms, total %llu ms, %s over the wire\n", (unsigned long long)p->predicted_downtime_ms,
	       (unsigned long long)p->predicted_total_ms, fm_format_bytes(p->predicted_wire_bytes, wire, sizeof(wire)));
	print_options(p);
	for (size_t i = 0; i < p->n_steps; i++)
		printf("  %zu. %s\n", i + 1, p->steps[i]);
}

static int parse(int argc, char **argv, struct migrate_options *o, FM_PB(MigrateRequest) * req, struct fm_error *err)
{
	const struct fm_option table[] = {
		{ "to", FM_OPT_STRING, &o->to, "HOST", "destination", NULL },
		{ "strategy", FM_OPT_STRING, &o->strategy, "STRATEGY", "auto (default), live, pre-copy, post-copy, cold", NULL },
		{ "dry-run", FM_OPT_FLAG, &o->dry_run, NULL, "show the plan and every reason against it; change nothing", NULL },
		{ "runtime", FM_OPT_STRING, &o->runtime, "NAME",
		  "that it is to run under there: docker, containerd, runc (default: as here if that host has it)", NULL },
		{ "detach", FM_OPT_FLAG, &o->detach, NULL, "print the migration's id and return at once", NULL },
		{ "max-total-time", FM_OPT_DURATION, &o->max_total_ms, "TIME", "roll back when it is not committed by then (default 10m)",
		  NULL },
		{ "max-downtime", FM_OPT_DURATION, &o->max_downtime_ms, "TIME",
		  "pre-copy: switch over when about this is predicted, give up if it cannot be (default 300ms)", NULL },
		{ "bandwidth", FM_OPT_BYTES, &o->bandwidth, "BYTES", "pages sent before the switch-over, per second (default: no limit)",
		  NULL },
		{ "max-throttle", FM_OPT_UINT, &o->max_throttle, "PERCENT",
		  "processor time that may be taken away when rounds do not shrink (default 0, or its label fleximigrate.throttle)", NULL },
		{ "streams", FM_OPT_UINT, &o->streams, "N",
		  "that pages are sent over before the switch-over (default 0: its label fleximigrate.streams, or what suits the source)",
		  NULL },
		FM_CLIENT_OPTIONS(o->client),
		{ 0 },
	};
	const struct fm_command_line cl = { .usage = "fleximigrate migrate CONTAINER --to HOST [options]",
		                            .summary = "Move a running container to another host, its connections kept.",
		                            .details = "Ctrl-C cancels before the commit point: the container stays where it is. Exit code "
		                                       "0: moved; 1: failed and rolled back.",
		                            .options = table,
		                            .min_args = 1,
		                            .max_args = 1 };
	struct fm_arguments args __attribute__((cleanup(fm_arguments_done))) = { 0 };
	enum fm_strategy strategy = FM_STRATEGY_AUTO;
	int rc = fm_options_parse(&cl, argc, argv, &args, err);
	if (rc)
		return rc;
	if (!o->to) {
		(void)fm_error_set(err, FM_E_INVALID_ARGUMENT, "--to HOST is missing");
		return fm_error_hint(err, "'fleximigrate host ls' shows the hosts");
	}
	if (o->max_throttle != NOT_GIVEN && o->max_throttle > FM_MAX_THROTTLE_PERCENT)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "--max-throttle %llu is more than the highest one, %d %%",
		                    (unsigned long long)o->max_throttle, FM_MAX_THROTTLE_PERCENT);
	if (o->streams > FM_MAX_PUSH_STREAMS)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "--streams %llu is more than there may be, %d",
		                    (unsigned long long)o->streams, FM_MAX_PUSH_STREAMS);
	if (o->strategy && fm_strategy_from_string(o->strategy, &strategy, err) < 0)
		return -1;
	req->container = args.v[0];
	req->to = (char *)o->to;
	if (o->runtime)
		req->runtime = (char *)o->runtime;
	req->strategy = (FM_PB(Strategy))strategy;
	req->dry_run = o->dry_run;
	req->max_total_ms = o->max_total_ms;
	req->max_downtime_ms = o->max_downtime_ms;
	req->bandwidth_bytes_per_s = o->bandwidth;
	req->streams = (uint32_t)o->streams;
	req->no_throttle = o->max_throttle == 0;
	req->max_throttle_percent = o->max_throttle != NOT_GIVEN ? (uint32_t)o->max_throttle : 0;
	return 0;
}

static int follow(const struct migrate_options *o, struct fm_rpc_client *client, const FM_PB(Migration) * m)
{
	if (o->dry_run || o->detach) {
		if (fm_client_wants_json(&o->client))
			fm_print_json(&m->base);
		else if (o->dry_run)
			print_plan(m);
		else
			printf("%s\n", m->id);
		return 0;
	}
	return fm_show_migration(&o->client, client, m->id, true);
}

int fm_verb_migrate(int argc, char **argv)
{
	struct migrate_options o = { .max_throttle = NOT_GIVEN };
	struct fm_error err = FM_ERROR_INIT;
	struct fm_rpc_client *client = NULL;
	ProtobufCMessage *resp = NULL;
	_fm_close_ int signals = -1;
	FM_PB(MigrateRequest) req = FLEXIMIGRATE__V1__MIGRATE_REQUEST__INIT;
	int rc = parse(argc, argv, &o, &req, &err);
	if (rc > 0)
		return 0;
	/* Blocked before any thread starts: Ctrl-C is handled where the migration is watched. */
	if (rc < 0 || fm_signals_block(&signals, &err) < 0 || fm_client_connect(&o.client, &client, &err) < 0)
		return fm_cli_fail(&o.client, &err);
	int timeout_ms = o.client.timeout_ms ? (int)o.client.timeout_ms : 60000;
	if (fm_rpc_client_call(client, &fm_manager_methods[FM_MANAGER_MIGRATE], &req.base, timeout_ms, -1, &resp, &err) < 0)
		rc = fm_cli_fail(&o.client, &err);
	else
		rc = follow(&o, client, (const FM_PB(Migration) *)resp);
	fm_pb_free(resp);
	fm_rpc_client_free(client);
	return rc;
}
