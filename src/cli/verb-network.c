/* SPDX-License-Identifier: MIT */
/* verb-network.c - `network show|path|check`, `intent list|show`. */
#include <stdio.h>

#include "basic/cleanup.h"
#include "basic/limits.h"
#include "cli/cli.h"
#include "cli/verbs.h"

/* A list as one cell: "a, b", "-" when it is empty. */
static const char *join(char *const *v, size_t n, struct fm_buf *b)
{
	b->len = 0;
	for (size_t i = 0; i < n; i++)
		fm_buf_addf(b, "%s%s", i ? ", " : "", v[i]);
	return n ? b->data : "-";
}

static const char *with_port(const char *node, const char *port, uint32_t number, char *buf, size_t cap)
{
	char text[16];

	(void)snprintf(text, sizeof(text), "%u", number);
	(void)snprintf(buf, cap, "%s%s%s", node, port[0] || number ? ":" : "", port[0] ? port : number ? text : "");
	return buf;
}

static const char *per_second(uint64_t bytes, char *buf, size_t cap)
{
	char text[32];

	(void)snprintf(buf, cap, "%s/s", fm_format_bytes(bytes, text, sizeof(text)));
	return buf;
}

static const char *percent(uint32_t ppm, char *buf, size_t cap)
{
	(void)snprintf(buf, cap, "%.2f %%", ppm / 10000.0);
	return buf;
}

/* ---- network show */

static void print_nodes(const FM_PB(GetNetworkResponse) * r)
{
	struct fm_table *t = fm_table_new((const char *const[]){ "NODE", "KIND", "AGENT", "CONTROLLED BY", "CONTAINERS", NULL });

	for (size_t i = 0; i < r->n_nodes; i++) {
		const FM_PB(NetworkNode) *n = r->nodes[i];
		bool is_switch = n->kind[0] == 's';
		_fm_buf_ struct fm_buf b = FM_BUF_INIT;

		fm_table_row(t, n->name,
		             !n->described               ? "host, not in the topology"
		             : !is_switch && n->forwards ? "host, forwards"
		                                         : n->kind,
		             n->agent[0] ? n->agent : "-",
		             n->control[0] ? n->control
		             : is_switch   ? "(learns)"
		                           : "-",
		             join(n->containers, n->n_containers, &b), (char *)NULL);
	}
	fm_table_print(t);
}

static bool is_measured(const FM_PB(NetworkLink) * l, uint32_t number)
{
	for (size_t i = 0; i < l->n_measured; i++)
		if (l->measured[i] == number)
			return true;
	return false;
}

/* "0.212 ms (0.100)": measured, and in parentheses as it is described */
static void with_described(char *cell, size_t cap, const FM_PB(NetworkLink) * l, uint32_t number, double now, double described)
{
	bool time = number == 7;
	int n = snprintf(cell, cap, time ? "%.3f ms" : "%.2f %%", now);

	if (is_measured(l, number) && n > 0 && (size_t)n < cap)
		(void)snprintf(cell + n, cap - (size_t)n, time ? " (%.3f)" : " (%.2f)", described);
}

static void print_links(FM_PB(NetworkLink) * *links, size_t n)
{
	struct fm_table *t =
	        fm_table_new((const char *const[]){ "FROM", "", "TO", "LATENCY", "AVAILABLE", "OF", "USED", "LOSS", "STATUS", NULL });

	for (size_t i = 0; i < n; i++) {
		const FM_PB(NetworkLink) *l = links[i];
		char from[128], to[128], latency[48], available[40], bandwidth[40], used[40], loss[40];

		with_described(latency, sizeof(latency), l, 7, (double)l->latency_us / 1000, (double)l->described_latency_us / 1000);
		with_described(loss, sizeof(loss), l, 10, l->loss_ppm / 1e4, l->described_loss_ppm / 1e4);
		with_described(used, sizeof(used), l, 11, l->utilisation_ppm / 1e4, l->described_utilisation_ppm / 1e4);
		fm_table_row(t, with_port(l->from, l->from_port, l->from_port_number, from, sizeof(from)), l->directed ? "->" : "--",
		             with_port(l->to, l->to_port, l->to_port_number, to, sizeof(to)), latency,
		             per_second(l->available_bytes_per_s, available, sizeof(available)),
		             per_second(l->bandwidth_bytes_per_s, bandwidth, sizeof(bandwidth)), used, loss, l->up ? "up" : "down",
		             (char *)NULL);
	}
	fm_table_print(t);
}

static void print_drivers(const FM_PB(GetNetworkResponse) * r)
{
	struct fm_table *t = fm_table_new((const char *const[]){ "DRIVER", "AVAILABLE", "WHAT THERE IS", NULL });

	for (size_t i = 0; i < r->n_drivers; i++)
		fm_table_row(t, r->drivers[i]->name, r->drivers[i]->available ? "yes" : "no", r->drivers[i]->detail, (char *)NULL);
	fm_table_print(t);
}

static int print_network(const struct fm_client_options *o, const ProtobufCMessage *answer)
{
	const FM_PB(GetNetworkResponse) *r = (const FM_PB(GetNetworkResponse) *)answer;
	print_nodes(r);
	printf("\n");
	print_links(r->links, r->n_links);
	printf("\n");
	print_drivers(r);
	return 0;
}

int fm_verb_network_show(int argc, char **argv)
{
	const struct fm_client_verb v = {
		.usage = "fleximigrate network show [options]",
		.summary = "Show hosts, switches and links as they are described and measured, and which drivers can be used.",
		.method = FM_MANAGER_GET_NETWORK,
		.print = print_network
	};
	return fm_client_verb(&v, argc, argv);
}

/* ---- network path */

static void print_path(const FM_PB(NetworkPath) * p)
{
	char available[40], loss[16];

	for (size_t i = 0; i < p->n_nodes; i++)
		printf("%s%s", i ? " - " : "", p->nodes[i]);
	printf("\n  latency %.3f ms, %s available, loss %s\n", (double)p->latency_us / 1000,
	       per_second(p->available_bytes_per_s, available, sizeof(available)), percent(p->loss_ppm, loss, sizeof(loss)));
}

static int print_paths(const struct fm_client_options *o, const ProtobufCMessage *answer)
{
	const FM_PB(FindPathsResponse) *r = (const FM_PB(FindPathsResponse) *)answer;
	for (size_t i = 0; i < r->n_paths; i++)
		print_path(r->paths[i]);
	return 0;
}

int fm_verb_network_path(int argc, char **argv)
{
	struct fm_client_options o = { 0 };
	bool widest = false;
	uint64_t alternatives = 0, min_bandwidth = 0;
	const struct fm_option table[] = {
		{ "widest", FM_OPT_FLAG, &widest, NULL, "the one whose narrowest link has most available, not the shortest", NULL },
		{ "alternatives", FM_OPT_UINT, &alternatives, "K", "the K shortest ones, at most 64", NULL },
		{ "min-bandwidth", FM_OPT_BYTES, &min_bandwidth, "BYTES", "a second, available on every link", NULL },
		FM_CLIENT_OPTIONS(o),
		{ 0 },
	};
	const struct fm_command_line cl = { .usage = "fleximigrate network path FROM TO [options]",
		                            .summary = "Show the way from one host or switch to another, as the measurements are now.",
		                            .options = table,
		                            .min_args = 2,
		                            .max_args = 2 };
	struct fm_arguments args __attribute__((cleanup(fm_arguments_done))) = { 0 };
	struct fm_error err = FM_ERROR_INIT;
	FM_PB(FindPathsRequest) req = FLEXIMIGRATE__V1__FIND_PATHS_REQUEST__INIT;
	int rc = fm_options_parse(&cl, argc, argv, &args, &err);
	if (rc > 0)
		return 0;
	if (rc == 0 && alternatives > FM_MAX_PATHS)
		rc = fm_error_set(&err, FM_E_INVALID_ARGUMENT, "--alternatives %llu is more than there may be, %d",
		                  (unsigned long long)alternatives, FM_MAX_PATHS);
	if (rc < 0)
		return fm_cli_fail(&o, &err);
	req.from = args.v[0];
	req.to = args.v[1];
	req.widest = widest;
	req.alternatives = (uint32_t)alternatives;
	req.min_bandwidth_bytes_per_s = min_bandwidth;
	return fm_client_ask(&o, FM_MANAGER_FIND_PATHS, &req.base, print_paths);
}

/* ---- network check */

static int print_check(const struct fm_client_options *o, const ProtobufCMessage *answer)
{
	const FM_PB(CheckNetworkResponse) *r = (const FM_PB(CheckNetworkResponse) *)answer;
	bool json = fm_client_wants_json(o);
	struct fm_table *t = json ? NULL : fm_table_new((const char *const[]){ "SERVICE", "CONTAINER", "HOST", "MET", NULL });
	bool all = true;

	for (size_t i = 0; i < r->n_intents; i++) {
		const FM_PB(IntentStatus) *s = r->intents[i];

		all = all && s->met;
		if (!json)
			fm_table_row(t, s->service[0] ? s->service : "-", s->container[0] ? s->container : "-", s->host[0] ? s->host : "-",
			             s->met ? "yes" : "no", (char *)NULL);
	}
	if (json) {
		fm_print_json(&r->base);
		return all ? 0 : 1;
	}
	fm_table_print(t);
	for (size_t i = 0; i < r->n_intents; i++)
		for (size_t p = 0; p < r->intents[i]->n_problems; p++)
			printf("%s: %s\n", r->intents[i]->container, r->intents[i]->problems[p]);
	return all ? 0 : 1;
}

int fm_verb_network_check(int argc, char **argv)
{
	const struct fm_client_verb v = { .usage = "fleximigrate network check [options]",
		                          .summary = "Say which services get what they want of the network where they are now.",
		                          .details = "Exit code 0: all of them; 1: one does not.",
		                          .method = FM_MANAGER_CHECK_NETWORK,
		                          .print = print_check,
		                          .own_json = true };
	return fm_client_verb(&v, argc, argv);
}

/* ---- intents */

static const char *whose(const FM_PB(Intent) * i, char *buf, size_t cap)
{
	(void)snprintf(buf, cap, "%s%s", i->container[0] ? "" : "label ", i->container[0] ? i->container : i->label);
	return buf;
}

static const char *gap(const FM_PB(Intent) * i, char *buf, size_t cap)
{
	(void)snprintf(buf, cap, i->max_gap_ms ? "%llu ms" : "any", (unsigned long long)i->max_gap_ms);
	return buf;
}

static int print_intents(const struct fm_client_options *o, const ProtobufCMessage *answer)
{
	const FM_PB(ListIntentsResponse) *r = (const FM_PB(ListIntentsResponse) *)answer;
	struct fm_table *t =
	        fm_table_new((const char *const[]){ "SERVICE", "CONTAINERS", "KEEPS", "GAP", "BANDWIDTH", "ISOLATION", "NOW ABOUT", NULL });

	for (size_t n = 0; n < r->n_intents; n++) {
		const FM_PB(Intent) *i = r->intents[n];
		_fm_buf_ struct fm_buf b = FM_BUF_INIT;
		char who[300], longest[32], bandwidth[40];

		fm_table_row(t, i->service, whose(i, who, sizeof(who)), i->name[0] ? i->name : i->keep, gap(i, longest, sizeof(longest)),
		             i->min_bandwidth_bytes_per_s ? per_second(i->min_bandwidth_bytes_per_s, bandwidth, sizeof(bandwidth)) : "any",
		             i->isolation, join(i->containers, i->n_containers, &b), (char *)NULL);
	}
	fm_table_print(t);
	return 0;
}

static int print_intent(const struct fm_client_options *o, const ProtobufCMessage *answer)
{
	const FM_PB(Intent) *i = (const FM_PB(Intent) *)answer;
	_fm_buf_ struct fm_buf b = FM_BUF_INIT;
	char who[300], longest[32], bandwidth[40];

	printf("Service:       %s (%s%s)\n", i->service, i->container[0] ? "container " : "", whose(i, who, sizeof(who)));
	printf("Keeps:         %s%s%s\n", i->keep, i->name[0] ? " " : "", i->name);
	if (i->dns[0])
		printf("Name service:  %s\n", i->dns);
	printf("Longest gap:   %s\n", gap(i, longest, sizeof(longest)));
	printf("Bandwidth:     %s\n",
	       i->min_bandwidth_bytes_per_s ? per_second(i->min_bandwidth_bytes_per_s, bandwidth, sizeof(bandwidth)) : "any");
	printf("Clients:       %s\n", join(i->clients, i->n_clients, &b));
	printf("Addresses:     %s\n", join(i->addresses, i->n_addresses, &b));
	printf("Isolation:     %s\n", i->isolation);
	printf("Drivers:       %s\n", join(i->drivers, i->n_drivers, &b));
	printf("Load balancer: %s\n", i->load_balancer[0] ? i->load_balancer : "-");
	printf("Published:     %s\n", join(i->published, i->n_published, &b));
	printf("Webhooks:      %s\n", join(i->webhooks, i->n_webhooks, &b));
	printf("Now about:     %s\n", join(i->containers, i->n_containers, &b));
	return 0;
}

int fm_verb_intent_list(int argc, char **argv)
{
	const struct fm_client_verb v = { .usage = "fleximigrate intent list [options]",
		                          .summary = "List what services want of the network when they move.",
		                          .method = FM_MANAGER_LIST_INTENTS,
		                          .print = print_intents };
	return fm_client_verb(&v, argc, argv);
}

int fm_verb_intent_show(int argc, char **argv)
{
	FM_PB(NameRequest) req = FLEXIMIGRATE__V1__NAME_REQUEST__INIT;
	const struct fm_client_verb v = { .usage = "fleximigrate intent show SERVICE [options]",
		                          .summary = "Show what one service wants of the network when it moves.",
		                          .method = FM_MANAGER_GET_INTENT,
		                          .request = &req.base,
		                          .argument = &req.name,
		                          .print = print_intent };
	return fm_client_verb(&v, argc, argv);
}
