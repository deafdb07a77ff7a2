/* SPDX-License-Identifier: MIT */
/*
 * show-plan.c - a plan of several moves on screen: what will not make it first, the steps, and lines as they begin and end.
 *
 * Ctrl-C stops watching, not the plan: half a drain because a terminal was closed would be the worst of both. 'plan cancel' stops it.
 */
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "cli/cli.h"
#include "decision/strategy.h"

#define ASK_MS 300

static void print_left(const char *title, FM_PB(PlanLeft) * *v, size_t n)
{
	if (n == 0)
		return;
	printf("%s\n", title);
	for (size_t i = 0; i < n; i++)
		printf("  %-24s %s\n", v[i]->name, v[i]->why);
}

static void print_step(const FM_PB(PlanStep) * s, size_t number)
{
	_fm_buf_ struct fm_buf after = FM_BUF_INIT;
	char bytes[32];
	for (size_t i = 0; i < s->n_depends_on; i++)
		fm_buf_addf(&after, "%s%u", i ? ", " : " after ", s->depends_on[i] + 1);
	printf("  %zu. %s: %s -> %s%s, %s, %.1f s to %.1f s, downtime %llu ms, %s; %s", number, s->container, s->from, s->to,
	       after.len ? after.data : "", fm_strategy_to_string((enum fm_strategy)s->strategy), (double)s->start_ms / 1000,
	       (double)s->end_ms / 1000, (unsigned long long)s->downtime_ms, fm_format_bytes(s->wire_bytes, bytes, sizeof(bytes)), s->why);
	if (!fm_streq(s->state, "waiting"))
		printf(" [%s%s%s%s%s]", s->state, s->migration[0] ? " " : "", s->migration, s->error[0] ? ": " : "", s->error);
	printf("\n");
}

void fm_print_cluster_plan(const FM_PB(ClusterPlan) * p)
{
	char when[40];
	print_left("Will not make it:", p->will_not_make_it, p->n_will_not_make_it);
	print_left("Hosts that stay over a threshold:", p->over, p->n_over);
	printf("%s\n", p->summary);
	for (size_t i = 0; i < p->n_steps; i++)
		print_step(p->steps[i], i + 1);
	if (p->n_freed) {
		printf("Empty afterwards:");
		for (size_t i = 0; i < p->n_freed; i++)
			printf(" %s", p->freed[i]);
		printf("\n");
	}
	if (p->id[0])
		printf("Plan %s (%s%s%s) of %s: %s%s%s\n", p->id, p->kind, p->host[0] ? " " : "", p->host,
		       fm_format_time(p->created_unix_ms, when, sizeof(when)), p->state, p->reason[0] ? "; " : "", p->reason);
	else
		printf("Nothing is done.\n");
}

/* What is new since the last look. */
static void print_changes(const FM_PB(ClusterPlan) * before, const FM_PB(ClusterPlan) * now)
{
	for (size_t i = 0; i < now->n_steps; i++) {
		const FM_PB(PlanStep) *s = now->steps[i];
		const char *was = before && i < before->n_steps ? before->steps[i]->state : "waiting";
		if (fm_streq(s->state, was))
			continue;
		printf("%zu/%zu %s: %s -> %s: %s%s%s%s%s\n", i + 1, now->n_steps, s->container, s->from, s->to, s->state,
		       s->migration[0] ? " " : "", s->migration, s->error[0] ? ": " : "", s->error);
	}
	(void)fflush(stdout);
}

static int outcome(const struct fm_client_options *o, const FM_PB(ClusterPlan) * p)
{
	if (fm_client_wants_json(o))
		fm_print_json(&p->base);
	else
		printf("Plan %s: %s%s%s\n", p->id, p->state, p->reason[0] ? "; " : "", p->reason);
	return fm_streq(p->state, "done") && p->complete ? 0 : 1;
}

int fm_show_cluster_plan(const struct fm_client_options *o, struct fm_rpc_client *client, const FM_PB(ClusterPlan) * p, int signals)
{
	_fm_pb_ FM_PB(ClusterPlan) *seen = fm_pb_copy(p);
	struct fm_error err = FM_ERROR_INIT;
	if (!fm_client_wants_json(o))
		print_changes(NULL, seen);
	while (seen->finished_unix_ms == 0) {
		ProtobufCMessage *resp = NULL;
		FM_PB(IdRequest) req = FLEXIMIGRATE__V1__ID_REQUEST__INIT;
		req.id = seen->id;
		if (fm_wait_fd(signals, POLLIN, ASK_MS, NULL) != 0) {
			fprintf(stderr,
			        "The plan goes on without this terminal: 'fleximigrate plan show %s' looks at it, 'fleximigrate plan "
			        "cancel %s' stops it.\n",
			        seen->id, seen->id);
			return 130;
		}
		if (fm_rpc_client_call(client, &fm_manager_methods[FM_MANAGER_GET_PLAN], &req.base, 0, -1, &resp, &err) < 0)
			return fm_cli_fail(o, &err);
		if (!fm_client_wants_json(o))
			print_changes(seen, (const FM_PB(ClusterPlan) *)resp);
		fm_pb_free(seen);
		seen = (FM_PB(ClusterPlan) *)resp;
	}
	return outcome(o, seen);
}
