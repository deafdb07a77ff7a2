/* SPDX-License-Identifier: MIT */
/* verb-plan.c - `balance`, `drain HOST`, `consolidate`, `plan ls|show|cancel`, `host cordon|uncordon`. */
#include <stdio.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "cli/cli.h"
#include "cli/verbs.h"
#include "loop/pool.h"

struct plan_options {
	struct fm_client_options client;
	bool dry_run, detach;
	uint64_t deadline_ms, cpu, memory, max_concurrent, link_share;
};

#define PLAN_OPTIONS(o)                                                                                                                    \
	{ "dry-run", FM_OPT_FLAG, &(o).dry_run, NULL, "show the plan with its costs; change nothing", NULL },                              \
	        { "detach", FM_OPT_FLAG, &(o).detach, NULL, "print the plan's id and return at once", NULL },                              \
	        { "cpu-threshold", FM_OPT_UINT, &(o).cpu, "PERCENT", "of a host's processors (default 80)", NULL },                        \
	        { "memory-threshold", FM_OPT_UINT, &(o).memory, "PERCENT", "of a host's memory (default 70)", NULL },                      \
	        { "max-concurrent", FM_OPT_UINT, &(o).max_concurrent, "N", "migrations at once (default 8)", NULL },                       \
	        { "link-share", FM_OPT_UINT, &(o).link_share, "PERCENT", "of what links have free, for all moves together (default 80)",   \
		  NULL },                                                                                                                  \
	        FM_CLIENT_OPTIONS((o).client)

static int check(const struct plan_options *o, struct fm_error *err)
{
	if (o->cpu > 100 || o->memory > 100 || o->link_share > 100)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "percentages are from 1 to 100");
	if (o->max_concurrent > UINT16_MAX)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "--max-concurrent %llu is too much", (unsigned long long)o->max_concurrent);
	return 0;
}

static int follow(const struct plan_options *o, struct fm_rpc_client *client, const FM_PB(ClusterPlan) * p, int signals)
{
	bool json = fm_client_wants_json(&o->client);
	if (o->dry_run || o->detach) {
		if (json)
			fm_print_json(&p->base);
		else if (o->dry_run)
			fm_print_cluster_plan(p);
		else
			printf("%s\n", p->id);
		return 0;
	}
	if (!json)
		fm_print_cluster_plan(p);
	(void)fflush(stdout);
	return fm_show_cluster_plan(&o->client, client, p, signals);
}

static int plan(int argc, char **argv, const char *kind, const struct fm_command_line *cl, struct plan_options *o)
{
	struct fm_arguments args __attribute__((cleanup(fm_arguments_done))) = { 0 };
	struct fm_error err = FM_ERROR_INIT;
	struct fm_rpc_client *client = NULL;
	ProtobufCMessage *resp = NULL;
	_fm_close_ int signals = -1;
	FM_PB(PlanRequest) req = FLEXIMIGRATE__V1__PLAN_REQUEST__INIT;
	int rc = fm_options_parse(cl, argc, argv, &args, &err);
	if (rc > 0)
		return 0;
	/* Blocked before any thread starts: Ctrl-C is handled where the plan is watched. */
	if (rc < 0 || check(o, &err) < 0 || fm_signals_block(&signals, &err) < 0 || fm_client_connect(&o->client, &client, &err) < 0)
		return fm_cli_fail(&o->client, &err);
	req.kind = (char *)kind;
	req.host = cl->min_args ? args.v[0] : req.host;
	req.deadline_ms = o->deadline_ms;
	req.dry_run = o->dry_run;
	req.cpu_percent = (double)o->cpu;
	req.memory_percent = (double)o->memory;
	req.max_concurrent = (uint32_t)o->max_concurrent;
	req.link_share = (double)o->link_share / 100;
	int timeout_ms = o->client.timeout_ms ? (int)o->client.timeout_ms : 60000;
	if (fm_rpc_client_call(client, &fm_manager_methods[FM_MANAGER_PLAN], &req.base, timeout_ms, -1, &resp, &err) < 0)
		rc = fm_cli_fail(&o->client, &err);
	else
		rc = follow(o, client, (const FM_PB(ClusterPlan) *)resp, signals);
	fm_pb_free(resp);
	fm_rpc_client_free(client);
	return rc;
}

#define DETAILS                                                                                                                            \
	"Ctrl-C stops watching, not the plan: 'fleximigrate plan cancel ID' does. Exit code 0: done, and its aim is reached; 1: not. "     \
	"What is "                                                                                                                         \
	"not known of a host or a container is not taken for nothing: it stays as it is."

int fm_verb_balance(int argc, char **argv)
{
	struct plan_options o = { 0 };
	const struct fm_option table[] = { PLAN_OPTIONS(o), { 0 } };
	const struct fm_command_line cl = { .usage = "fleximigrate balance [--dry-run] [options]",
		                            .summary = "Bring all hosts under their thresholds with as few moves as can be found.",
		                            .details = DETAILS,
		                            .options = table };
	return plan(argc, argv, "balance", &cl, &o);
}

int fm_verb_drain(int argc, char **argv)
{
	struct plan_options o = { 0 };
	const struct fm_option table[] = { { "deadline", FM_OPT_DURATION, &o.deadline_ms, "TIME", "when all has to be away (default: none)",
		                             NULL },
		                           PLAN_OPTIONS(o),
		                           { 0 } };
	const struct fm_command_line cl = {
		.usage = "fleximigrate drain HOST [--deadline TIME] [--dry-run] [options]",
		.summary = "Move everything off a host, by a deadline where there is one. What will not make it is said first.",
		.details = DETAILS " The host is cordoned: 'fleximigrate host uncordon HOST' opens it again.",
		.options = table,
		.min_args = 1,
		.max_args = 1
	};
	return plan(argc, argv, "drain", &cl, &o);
}

int fm_verb_consolidate(int argc, char **argv)
{
	struct plan_options o = { 0 };
	const struct fm_option table[] = { PLAN_OPTIONS(o), { 0 } };
	const struct fm_command_line cl = { .usage = "fleximigrate consolidate [--dry-run] [options]",
		                            .summary = "Empty as many hosts as possible while none gets over its thresholds.",
		                            .details = DETAILS,
		                            .options = table };
	return plan(argc, argv, "consolidate", &cl, &o);
}

static int print_plans(const struct fm_client_options *o, const ProtobufCMessage *answer)
{
	const FM_PB(ListPlansResponse) *r = (const FM_PB(ListPlansResponse) *)answer;
	struct fm_table *t = fm_table_new((const char *const[]){ "ID", "KIND", "HOST", "STATE", "DONE", "CREATED", "SUMMARY", NULL });
	for (size_t i = 0; i < r->n_plans; i++) {
		const FM_PB(ClusterPlan) *p = r->plans[i];
		char done[32], created[40];
		size_t n = 0;
		for (size_t k = 0; k < p->n_steps; k++)
			n += fm_streq(p->steps[k]->state, "done");
		(void)snprintf(done, sizeof(done), "%zu/%zu", n, p->n_steps);
		fm_table_row(t, p->id, p->kind, p->host[0] ? p->host : "-", p->state, done,
		             fm_format_time(p->created_unix_ms, created, sizeof(created)), p->summary, (char *)NULL);
	}
	fm_table_print(t);
	return 0;
}

int fm_verb_plan_ls(int argc, char **argv)
{
	const struct fm_client_verb v = { .usage = "fleximigrate plan ls [options]",
		                          .summary = "List plans, newest first.",
		                          .method = FM_MANAGER_LIST_PLANS,
		                          .print = print_plans };
	return fm_client_verb(&v, argc, argv);
}

static int print_plan(const struct fm_client_options *o, const ProtobufCMessage *answer)
{
	fm_print_cluster_plan((const FM_PB(ClusterPlan) *)answer);
	return 0;
}

int fm_verb_plan_show(int argc, char **argv)
{
	FM_PB(IdRequest) req = FLEXIMIGRATE__V1__ID_REQUEST__INIT;
	const struct fm_client_verb v = { .usage = "fleximigrate plan show ID [options]",
		                          .summary = "Show one plan and what became of its steps.",
		                          .method = FM_MANAGER_GET_PLAN,
		                          .request = &req.base,
		                          .argument = &req.id,
		                          .print = print_plan };
	return fm_client_verb(&v, argc, argv);
}

int fm_verb_plan_cancel(int argc, char **argv)
{
	FM_PB(IdRequest) req = FLEXIMIGRATE__V1__ID_REQUEST__INIT;
	const struct fm_client_verb v = {
		.usage = "fleximigrate plan cancel ID [options]",
		.summary = "Begin no more steps of a plan; migrations under way are rolled back unless past their commit point.",
		.method = FM_MANAGER_CANCEL_PLAN,
		.request = &req.base,
		.argument = &req.id,
		.print = print_plan
	};
	return fm_client_verb(&v, argc, argv);
}

static int print_cordon(const struct fm_client_options *o, const ProtobufCMessage *answer)
{
	const FM_PB(Host) *h = (const FM_PB(Host) *)answer;
	printf("Host '%s' %s.\n", h->name, h->cordoned ? "is cordoned: it takes no containers" : "takes containers");
	return 0;
}

int fm_verb_host_cordon(int argc, char **argv)
{
	FM_PB(CordonRequest) req = FLEXIMIGRATE__V1__CORDON_REQUEST__INIT;
	const struct fm_client_verb v = { .usage = "fleximigrate host cordon HOST [options]",
		                          .summary =
		                                  "Let a host take no containers any more; those that are on it stay. Survives restarts.",
		                          .method = FM_MANAGER_CORDON_HOST,
		                          .request = &req.base,
		                          .argument = &req.name,
		                          .print = print_cordon };
	req.cordoned = true;
	return fm_client_verb(&v, argc, argv);
}

int fm_verb_host_uncordon(int argc, char **argv)
{
	FM_PB(CordonRequest) req = FLEXIMIGRATE__V1__CORDON_REQUEST__INIT;
	const struct fm_client_verb v = { .usage = "fleximigrate host uncordon HOST [options]",
		                          .summary = "Let a cordoned host take containers again.",
		                          .method = FM_MANAGER_CORDON_HOST,
		                          .request = &req.base,
		                          .argument = &req.name,
		                          .print = print_cordon };
	return fm_client_verb(&v, argc, argv);
}
