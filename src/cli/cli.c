/* SPDX-License-Identifier: MIT */
/* cli.c - finds the verb and runs it. */
#include "cli/cli.h"

#include <stdio.h>
#include <string.h>

#include "agent/agent.h"
#include "basic/str.h"
#include "cli/verbs.h"
#include "fm-version.h"
#include "manager/manager.h"

const struct fm_verb fm_verbs[] = {
	{ "manager", "run the manager", fm_manager_main },
	{ "agent", "run a host's agent", fm_agent_main },
	{ "host ls", "list hosts", fm_verb_host_ls },
	{ "host show", "one host in detail", fm_verb_host_show },
	{ "container run", "start a container from an OCI bundle", fm_verb_container_run },
	{ "container ls", "list containers", fm_verb_container_ls },
	{ "container show", "one container in detail", fm_verb_container_show },
	{ "container rm", "remove a container", fm_verb_container_rm },
	{ "migrate", "move a container to another host", fm_verb_migrate },
	{ "can-migrate", "whether a container can move to a host, and what is in the way", fm_verb_can_migrate },
	{ "migration ls", "list migrations, newest first", fm_verb_migration_ls },
	{ "migration show", "one migration: path, phases, figures", fm_verb_migration_show },
	{ "migration watch", "follow a migration to its end", fm_verb_migration_watch },
	{ "migration cancel", "stop a migration before its commit point", fm_verb_migration_cancel },
	{ "migration approve", "let one go that a policy has wait for it", fm_verb_migration_approve },
	{ "policy ls", "list the policies that are in force", fm_verb_policy_ls },
	{ "policy check", "are these policies right", fm_verb_policy_check },
	{ "policy test", "what policies say about a migration in a snapshot", fm_verb_policy_test },
	{ "policy explain", "why policies allowed or denied a migration", fm_verb_policy_explain },
	{ "network show", "hosts, switches and links, and what they have to offer", fm_verb_network_show },
	{ "network path", "which ways lead from one to another", fm_verb_network_path },
	{ "network check", "do services get what they want of the network now", fm_verb_network_check },
	{ "intent list", "list what services want of the network", fm_verb_intent_list },
	{ "intent show", "one of them in detail", fm_verb_intent_show },
	{ "predict backtest", "how well recorded series would have been predicted", fm_verb_predict_backtest },
	{ "host cordon", "let a host take no containers any more", fm_verb_host_cordon },
	{ "host uncordon", "let it take containers again", fm_verb_host_uncordon },
	{ "balance", "bring all hosts under their thresholds with few moves", fm_verb_balance },
	{ "drain", "move everything off a host, by a deadline", fm_verb_drain },
	{ "consolidate", "empty as many hosts as possible", fm_verb_consolidate },
	{ "plan ls", "list plans, newest first", fm_verb_plan_ls },
	{ "plan show", "one plan and its steps", fm_verb_plan_show },
	{ "plan cancel", "begin no more steps, roll back those under way", fm_verb_plan_cancel },
	{ "simulate", "play a made-up cluster with the real decisions", fm_verb_simulate },
	{ "snapshot", "the cluster as decisions see it: usage, links", fm_verb_snapshot },
	{ "doctor", "what on this host is missing or left over", fm_verb_doctor },
	{ "pki init", "make a development certificate authority", fm_verb_pki_init },
	{ "pki issue", "issue a host's certificate", fm_verb_pki_issue },
	{ "version", "print the version", fm_verb_version },
	{ 0 },
};

static void print_verbs(FILE *f)
{
	fprintf(f, "Usage: fleximigrate VERB [options]\n\nMoves running containers between hosts, connections kept.\n\nVerbs:\n");
	for (const struct fm_verb *v = fm_verbs; v->name; v++)
		fprintf(f, "  %-18s %s\n", v->name, v->summary);
	fprintf(f, "\n'fleximigrate VERB --help' tells more. Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 not reachable,\n"
	           "5 refused in this state, 6 permission, 7 limit, 8 cannot be moved, 130 interrupted.\n");
}

int fm_verb_version(int argc, char **argv)
{
	struct fm_client_options o = { 0 };
	const struct fm_option table[] = { FM_CLIENT_OPTIONS(o), { 0 } };
	const struct fm_command_line cl = { .usage = "fleximigrate version [--output json]",
		                            .summary = "Print the version of this program and of its protocol.",
		                            .options = table };
	struct fm_arguments args = { 0 };
	struct fm_error err = FM_ERROR_INIT;
	int rc = fm_options_parse(&cl, argc, argv, &args, &err);
	fm_arguments_done(&args);
	if (rc)
		return rc > 0 ? 0 : fm_cli_fail(&o, &err);
	printf(fm_client_wants_json(&o) ? "{\"version\": \"%s\", \"protocol\": 1}\n" : "fleximigrate %s (protocol 1)\n", FM_VERSION);
	return 0;
}

/* How many words of argv a verb's name takes; 0 when it is another one. */
static int matches(const struct fm_verb *v, int argc, char **argv)
{
	const char *space = strchr(v->name, ' ');
	size_t first = space ? (size_t)(space - v->name) : strlen(v->name);
	if (strlen(argv[1]) != first || strncmp(v->name, argv[1], first) != 0)
		return 0;
	if (!space)
		return 1;
	return argc > 2 && strcmp(space + 1, argv[2]) == 0 ? 2 : 0;
}

int fm_cli_main(int argc, char **argv)
{
	if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
		print_verbs(argc < 2 ? stderr : stdout);
		return argc < 2 ? 2 : 0;
	}
	if (strcmp(argv[1], "--version") == 0)
		return fm_verb_version(1, argv);
	for (const struct fm_verb *v = fm_verbs; v->name; v++) {
		int words = matches(v, argc, argv);
		if (words)
			return v->run(argc - words, argv + words);
	}
	fprintf(stderr, "fleximigrate: there is no verb '%s%s%s'\n", argv[1], argc > 2 && argv[2][0] != '-' ? " " : "",
	        argc > 2 && argv[2][0] != '-' ? argv[2] : "");
	fprintf(stderr, "hint: 'fleximigrate --help' lists them\n");
	return 2;
}
