/* SPDX-License-Identifier: MIT */
/* verb-host.c - `host ls`, `host show`. */
#include <math.h>
#include <stdio.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "cli/cli.h"
#include "cli/usage.h"
#include "cli/verbs.h"

static int print_hosts(const struct fm_client_options *o, const ProtobufCMessage *answer)
{
	const FM_PB(ListHostsResponse) *r = (const FM_PB(ListHostsResponse) *)answer;
	struct fm_table *t = fm_table_new((const char *const[]){ "HOST", "STATUS", "ADDRESS", "CONTAINERS", "CPU", "MEM", "LOAD",
	                                                         "MEMORY AVAILABLE", "CRIU", "KERNEL", NULL });
	for (size_t i = 0; i < r->n_hosts; i++) {
		const FM_PB(Host) *h = r->hosts[i];
		char memory[32], containers[16], cpu[16], used[16];
		struct fm_host_usage u;
		fm_usage_host_figures(h->usage, &u);
		double total = (double)u.memory_total_bytes, left = (double)u.memory_available_bytes;
		bool known =
		        u.memory_total_bytes != FM_USAGE_UNKNOWN && u.memory_total_bytes && u.memory_available_bytes != FM_USAGE_UNKNOWN;
		(void)snprintf(containers, sizeof(containers), "%u", h->containers);
		fm_table_row(t, h->name, h->cordoned ? "cordoned" : h->status, h->address, containers,
		             fm_show_percent(u.cpu_percent, cpu, sizeof(cpu)),
		             fm_show_percent(known ? (total - left) * 100 / total : NAN, used, sizeof(used)), h->load[0] ? h->load : "-",
		             fm_format_bytes(h->memory_available_bytes, memory, sizeof(memory)),
		             h->criu_problem[0] ? "missing" : h->criu_version, h->kernel, (char *)NULL);
	}
	fm_table_print(t);
	return 0;
}

int fm_verb_host_ls(int argc, char **argv)
{
	const struct fm_client_verb v = { .usage = "fleximigrate host ls [options]",
		                          .summary = "List the hosts the manager knows.",
		                          .method = FM_MANAGER_LIST_HOSTS,
		                          .print = print_hosts };
	return fm_client_verb(&v, argc, argv);
}

static int print_host(const struct fm_client_options *o, const ProtobufCMessage *answer)
{
	const FM_PB(Host) *h = (const FM_PB(Host) *)answer;
	char total[32], available[32], disk[32], seen[40];
	printf("Host:       %s (%s%s)\n", h->name, h->status, h->cordoned ? ", cordoned" : "");
	printf("Agent:      %s, version %s, last report %s\n", h->address, h->version,
	       h->last_seen_unix_ms ? fm_format_time(h->last_seen_unix_ms, seen, sizeof(seen)) : "never");
	printf("Kernel:     %s, %u cpus\n", h->kernel, h->cpus);
	printf("Memory:     %s available of %s\n", fm_format_bytes(h->memory_available_bytes, available, sizeof(available)),
	       fm_format_bytes(h->memory_total_bytes, total, sizeof(total)));
	printf("Disk:       %s available\n", fm_format_bytes(h->disk_available_bytes, disk, sizeof(disk)));
	printf("Runtime:    %s\n", h->runtime_version);
	for (size_t i = 0; i < h->n_runtimes; i++)
		printf("            %s %s%s\n", h->runtimes[i]->name, h->runtimes[i]->version, h->runtimes[i]->problem);
	printf("CRIU:       %s\n", h->criu_problem[0] ? h->criu_problem : h->criu_version);
	printf("Bridge:     %s\n", h->bridge[0] ? h->bridge : "(none)");
	printf("Containers: %u\n", h->containers);
	fm_print_host_usage(h);
	return 0;
}

int fm_verb_host_show(int argc, char **argv)
{
	FM_PB(NameRequest) req = FLEXIMIGRATE__V1__NAME_REQUEST__INIT;
	const struct fm_client_verb v = { .usage = "fleximigrate host show HOST [options]",
		                          .summary = "Show one host.",
		                          .method = FM_MANAGER_GET_HOST,
		                          .request = &req.base,
		                          .argument = &req.name,
		                          .print = print_host };
	return fm_client_verb(&v, argc, argv);
}
