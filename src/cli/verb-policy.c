/* SPDX-License-Identifier: MIT */
/* verb-policy.c - `policy ls|check|test|explain`. check and test need no manager: they read files. */
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/str.h"
#include "cli/cli.h"
#include "cli/verbs.h"
#include "decision/plan.h"
#include "decision/policy.h"
#include "decision/snapshot.h"
#include "decision/strategy.h"
#include "migration/rules.h"

FM_DEFINE_CLEANUP(struct fm_snapshot *, fm_snapshot_free);

static void print_policies(const struct fm_client_options *o, const FM_PB(ListPoliciesResponse) * r)
{
	if (fm_client_wants_json(o)) {
		fm_print_json(&r->base);
		return;
	}
	for (size_t i = 0; i < r->n_policies; i++) {
		const FM_PB(Policy) *p = r->policies[i];
		printf("%s (PRIORITY %lld, %s)%s%s\n", p->name, (long long)p->priority, p->at, p->description[0] ? ": " : "",
		       p->description);
		printf("  if    %s\n  then ", p->conditions[0] ? p->conditions : "always");
		for (size_t k = 0; k < p->n_actions; k++)
			printf(" %s%s", p->actions[k], k + 1 < p->n_actions ? "," : "\n");
		for (size_t k = 0; k < p->n_constraints; k++)
			printf("%s%s%s", k ? ", " : "  limits ", p->constraints[k], k + 1 < p->n_constraints ? "" : "\n");
	}
}

static int print_in_force(const struct fm_client_options *o, const ProtobufCMessage *answer)
{
	const FM_PB(ListPoliciesResponse) *r = (const FM_PB(ListPoliciesResponse) *)answer;
	print_policies(o, r);
	if (r->n_policies == 0)
		printf("Only the policies that are built in: the manager was started without --policies.\n");
	return 0;
}

int fm_verb_policy_ls(int argc, char **argv)
{
	const struct fm_client_verb v = { .usage = "fleximigrate policy ls [options]",
		                          .summary = "List the policies that are in force on the manager, in the order of reading.",
		                          .method = FM_MANAGER_LIST_POLICIES,
		                          .print = print_in_force };
	return fm_client_verb(&v, argc, argv);
}

int fm_verb_policy_check(int argc, char **argv)
{
	struct fm_client_options o = { 0 };
	const struct fm_option table[] = { { "output", FM_OPT_CHOICE, &o.output, "FORMAT", "text (default) or json", "text|json" }, { 0 } };
	const struct fm_command_line cl = { .usage = "fleximigrate policy check PATH [options]",
		                            .summary =
		                                    "Read policies, a file or a folder, and say what is wrong with them, or what they are.",
		                            .options = table,
		                            .min_args = 1,
		                            .max_args = 1 };
	struct fm_arguments args __attribute__((cleanup(fm_arguments_done))) = { 0 };
	struct fm_error err = FM_ERROR_INIT;
	_fm_cleanup_(fm_policies_freep) struct fm_policies *set = NULL;
	int rc = fm_options_parse(&cl, argc, argv, &args, &err);
	if (rc > 0)
		return 0;
	if (rc < 0 || fm_policies_read(args.v[0], &set, &err) < 0)
		return fm_cli_fail(&o, &err);
	_fm_pb_ FM_PB(ListPoliciesResponse) *r = FM_PB_NEW(ListPoliciesResponse, list_policies_response);
	for (size_t i = 0; i < set->n; i++)
		FM_PB_ADD(r->policies, r->n_policies, fm_policy_to_pb(set->v[i]));
	print_policies(&o, r);
	return 0;
}

/* ---------------------------------------------------------------- test */

struct test_options {
	struct fm_client_options client;
	const char *with, *container, *to, *strategy, *trigger;
};

static int find(const struct test_options *t, const struct fm_snapshot *s, struct fm_policy_case *c, struct fm_error *err)
{
	struct fm_strategy_choice choice = { 0 };
	enum fm_strategy strategy = FM_STRATEGY_AUTO;
	c->container = fm_snapshot_container(s, t->container);
	c->destination = fm_snapshot_host(s, t->to);
	if (c->container == SIZE_MAX || c->destination == SIZE_MAX)
		return fm_error_set(err, FM_E_NOT_FOUND, "there is no %s '%s' in %s", c->container == SIZE_MAX ? "container" : "host",
		                    c->container == SIZE_MAX ? t->container : t->to, t->with);
	const struct fm_snap_container *sc = &s->containers[c->container];
	c->source = sc->host;
	if (t->strategy && fm_strategy_from_string(t->strategy, &strategy, err) < 0)
		return -1;
	c->snapshot = s;
	c->requested_strategy = fm_strategy_to_string(strategy);
	c->predicted_downtime_ms = c->predicted_total_ms = c->predicted_wire_bytes = FM_UNKNOWN;
	if (sc->memory_bytes == FM_UNKNOWN)
		return 0;
	const struct fm_move move = { .container = c->container,
		                      .from = c->source,
		                      .to = c->destination,
		                      .memory_bytes = sc->memory_bytes,
		                      .bandwidth_bytes_per_s = FM_PLAN_LINK_BYTES_PER_S,
		                      .destination_available_bytes = s->hosts[c->destination].memory_available_bytes };
	const struct fm_workload_snapshot w = fm_move_workload(s, &move);
	if (fm_strategy_choose(&w, strategy, &choice, err) < 0)
		return -1;
	c->strategy = fm_strategy_to_string(choice.strategy);
	c->predicted_downtime_ms = choice.predicted_downtime_ms;
	c->predicted_total_ms = choice.predicted_total_ms;
	c->predicted_wire_bytes = choice.predicted_wire_bytes;
	return 0;
}

static int parse_test(int argc, char **argv, struct test_options *t, char **ret_path, struct fm_error *err)
{
	const struct fm_option table[] = {
		{ "with", FM_OPT_STRING, &t->with, "FILE", "a snapshot of the cluster, JSON", NULL },
		{ "container", FM_OPT_STRING, &t->container, "NAME", "the container that would move", NULL },
		{ "to", FM_OPT_STRING, &t->to, "HOST", "destination", NULL },
		{ "strategy", FM_OPT_STRING, &t->strategy, "STRATEGY", "as asked for (default auto)", NULL },
		{ "trigger", FM_OPT_CHOICE, &t->trigger, "TRIGGER", "who asks: user (default), drain, balance, proactive",
		  "user|drain|balance|proactive" },
		{ "output", FM_OPT_CHOICE, &t->client.output, "FORMAT", "text (default) or json", "text|json" },
		{ 0 },
	};
	const struct fm_command_line cl = { .usage = "fleximigrate policy test PATH --with FILE --container NAME --to HOST [options]",
		                            .summary = "What policies would say about a migration in a snapshot of a cluster, and why.",
		                            .details = "Exit code 0: allowed; 1: denied.",
		                            .options = table,
		                            .min_args = 1,
		                            .max_args = 1 };
	struct fm_arguments args __attribute__((cleanup(fm_arguments_done))) = { 0 };
	int rc = fm_options_parse(&cl, argc, argv, &args, err);
	if (rc)
		return rc;
	if (!t->with || !t->container || !t->to)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "--with, --container and --to are needed");
	*ret_path = fm_xstrdup(args.v[0]);
	return 0;
}

static int print_decision(const struct fm_client_options *o, const struct fm_policy_decision *d)
{
	if (fm_client_wants_json(o)) {
		_fm_free_ char *text = json_dumps(d->record, JSON_COMPACT);
		printf("%s\n", text);
	} else {
		_fm_free_ char *text = fm_policy_explain(d->record);
		printf("%s", text);
	}
	return d->allowed ? 0 : 1;
}

int fm_verb_policy_test(int argc, char **argv)
{
	struct test_options t = { .trigger = "user" };
	struct fm_error err = FM_ERROR_INIT;
	_fm_free_ char *path = NULL;
	_fm_free_ char *text = NULL;
	_fm_cleanup_(fm_policies_freep) struct fm_policies *set = NULL;
	_fm_cleanup_(fm_snapshot_freep) struct fm_snapshot *s = NULL;
	struct fm_policy_case c = { 0 };
	struct fm_policy_decision d;
	size_t len = 0;
	int rc = parse_test(argc, argv, &t, &path, &err);
	if (rc > 0)
		return 0;
	c.trigger = t.trigger;
	if (rc < 0 || fm_policies_read(path, &set, &err) < 0 || fm_read_file(t.with, FM_MAX_SNAPSHOT_BYTES, &text, &len, &err) < 0 ||
	    fm_snapshot_parse(text, len, &s, &err) < 0 || find(&t, s, &c, &err) < 0)
		return fm_cli_fail(&t.client, &err);
	fm_policies_decide(set, &c, &d);
	rc = print_decision(&t.client, &d);
	json_decref(d.record);
	return rc;
}

/* ---------------------------------------------------------------- explain */

static int print_why(const struct fm_client_options *o, const ProtobufCMessage *answer)
{
	const FM_PB(Migration) *m = (const FM_PB(Migration) *)answer;
	struct fm_error err = FM_ERROR_INIT;
	json_t *record = m->decision[0] ? json_loads(m->decision, 0, NULL) : NULL;
	_fm_free_ char *text = fm_policy_explain(record);
	if (!text)
		(void)fm_error_set(&err, FM_E_FAILED_PRECONDITION, "no policy was asked about migration '%s'", m->id);
	else if (fm_client_wants_json(o))
		printf("%s\n", m->decision);
	else
		printf("Migration %s: container '%s' from '%s' to '%s'\n%s", m->id, m->container, m->source, m->destination, text);
	json_decref(record);
	return text ? 0 : fm_cli_fail(o, &err);
}

int fm_verb_policy_explain(int argc, char **argv)
{
	FM_PB(IdRequest) req = FLEXIMIGRATE__V1__ID_REQUEST__INIT;
	const struct fm_client_verb v = { .usage = "fleximigrate policy explain ID [options]",
		                          .summary = "Why policies allowed or denied a migration, with the values they saw.",
		                          .method = FM_MANAGER_GET_MIGRATION,
		                          .request = &req.base,
		                          .argument = &req.id,
		                          .print = print_why,
		                          .own_json = true };
	return fm_client_verb(&v, argc, argv);
}
