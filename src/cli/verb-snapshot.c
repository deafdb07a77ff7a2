/* SPDX-License-Identifier: MIT */
/* verb-snapshot.c - `snapshot`: the cluster as decisions see it now; as JSON it is what `policy test --with` reads. */
#include <math.h>
#include <stdio.h>

#include "basic/cleanup.h"
#include "cli/cli.h"
#include "cli/usage.h"
#include "cli/verbs.h"
#include "decision/snapshot.h"

static void print_hosts(const struct fm_snapshot *s)
{
	struct fm_table *t = fm_table_new(
	        (const char *const[]){ "HOST", "STATUS", "CPUS", "CPU", "IN 30 MIN", "MEM", "NET IN", "NET OUT", "LATENCY", "LOSS", NULL });

	for (size_t i = 0; i < s->n_hosts; i++) {
		const struct fm_snap_host *h = &s->hosts[i];
		char cpus[16], cpu[16], predicted[16], memory[16], in[40], out[40], latency[16], loss[16];
		(void)snprintf(cpus, sizeof(cpus), isnan(h->cpus) ? "-" : "%.0f", h->cpus);
		(void)snprintf(latency, sizeof(latency), isnan(h->latency_ms) ? "-" : "%.3f ms", h->latency_ms);
		fm_table_row(t, h->name,
		             !h->online       ? "offline"
		             : h->cordoned    ? "cordoned"
		             : h->can_restore ? "online"
		                              : "no CRIU",
		             cpus, fm_show_percent(h->cpu_percent, cpu, sizeof(cpu)),
		             fm_show_percent(h->cpu_predicted_percent, predicted, sizeof(predicted)),
		             fm_show_percent(h->memory_percent, memory, sizeof(memory)),
		             fm_show_rate(h->network_in_bytes_per_s, in, sizeof(in)),
		             fm_show_rate(h->network_out_bytes_per_s, out, sizeof(out)), latency,
		             fm_show_percent(h->loss_percent, loss, sizeof(loss)), (char *)NULL);
	}
	fm_table_print(t);
}

static void print_containers(const struct fm_snapshot *s)
{
	struct fm_table *t = fm_table_new((const char *const[]){ "CONTAINER", "HOST", "CPU", "IN 30 MIN", "WORKING SET", "WRITTEN",
	                                                         "NET IN", "NET OUT", "DISK", NULL });

	for (size_t i = 0; i < s->n_containers; i++) {
		const struct fm_snap_container *c = &s->containers[i];
		char cpu[16], predicted[16], memory[40], dirty[40], in[40], out[40], disk[40];
		fm_table_row(t, c->name, s->hosts[c->host].name, fm_show_number(c->cpu_cores, cpu, sizeof(cpu)),
		             fm_show_number(c->cpu_predicted_cores, predicted, sizeof(predicted)),
		             fm_show_bytes(c->working_set_bytes, memory, sizeof(memory)),
		             fm_show_rate(c->dirty_bytes_per_s, dirty, sizeof(dirty)),
		             fm_show_rate(c->network_in_bytes_per_s, in, sizeof(in)),
		             fm_show_rate(c->network_out_bytes_per_s, out, sizeof(out)),
		             fm_show_rate(c->disk_bytes_per_s, disk, sizeof(disk)), (char *)NULL);
	}
	fm_table_print(t);
}

static void print_links(const struct fm_snapshot *s)
{
	struct fm_table *t = fm_table_new((const char *const[]){ "FROM", "TO", "LATENCY", "LOSS", "BANDWIDTH", "USED", NULL });

	for (size_t i = 0; i < s->n_links; i++) {
		const struct fm_snap_link *l = &s->links[i];
		char latency[16], loss[16], bandwidth[40], used[16];
		(void)snprintf(latency, sizeof(latency), isnan(l->latency_ms) ? "-" : "%.3f ms", l->latency_ms);
		fm_table_row(t, s->hosts[l->from].name, s->hosts[l->to].name, latency, fm_show_percent(l->loss_percent, loss, sizeof(loss)),
		             fm_show_rate(l->bandwidth_bytes_per_s, bandwidth, sizeof(bandwidth)),
		             fm_show_percent(l->utilisation_percent, used, sizeof(used)), (char *)NULL);
	}
	fm_table_print(t);
}

static int print_snapshot(const struct fm_client_options *o, const ProtobufCMessage *answer)
{
	const FM_PB(SnapshotResponse) *r = (const FM_PB(SnapshotResponse) *)answer;
	struct fm_error err = FM_ERROR_INIT;
	struct fm_snapshot *s = NULL;
	if (fm_client_wants_json(o)) {
		printf("%s\n", r->json);
		return 0;
	}
	if (fm_snapshot_parse(r->json, strlen(r->json), &s, &err) < 0)
		return fm_cli_fail(o, &err);
	print_hosts(s);
	printf("\n");
	print_containers(s);
	printf("\n");
	print_links(s);
	fm_snapshot_free(s);
	return 0;
}

int fm_verb_snapshot(int argc, char **argv)
{
	const struct fm_client_verb v = { .usage = "fleximigrate snapshot [options]",
		                          .summary = "Show the cluster as decisions see it now: hosts, containers, links.",
		                          .details = "With --output json it is the form that decisions can be replayed with. What is not "
		                                     "known is '-', and in JSON is missing.",
		                          .method = FM_MANAGER_GET_SNAPSHOT,
		                          .print = print_snapshot,
		                          .own_json = true };
	return fm_client_verb(&v, argc, argv);
}
