/* SPDX-License-Identifier: MIT */
/* verb-container.c - `container run|ls|show|rm`. */
#include <stdio.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/limits.h"
#include "cli/cli.h"
#include "cli/usage.h"
#include "cli/verbs.h"

/* "10.77.0.100/24, fd77::100/64" of one or all; free() it. */
static char *addresses_text(const FM_PB(Container) * c, size_t from, size_t to)
{
	const FM_PB(Endpoint) * e;
	char *text = fm_xstrdup("");
	for (size_t i = from; i < to && (e = fm_pb_endpoint(c, i)); i++) {
		const char *words[] = { e->address, e->address6 };
		for (size_t k = 0; k < FM_ARRAY_SIZE(words); k++) {
			if (!words[k][0])
				continue;
			char *more = fm_xasprintf("%s%s%s", text, text[0] ? ", " : "", words[k]);
			free(text);
			text = more;
		}
	}
	return text;
}

static void print_endpoints(const FM_PB(Container) * c)
{
	const FM_PB(Endpoint) * e;
	for (size_t i = 0; (e = fm_pb_endpoint(c, i)); i++) {
		_fm_free_ char *text = addresses_text(c, i, i + 1);
		printf("Endpoint:  %s on bridge %s\n", text, e->bridge[0] ? e->bridge : "(the host's)");
	}
}

static int print_container(const struct fm_client_options *o, const ProtobufCMessage *answer)
{
	const FM_PB(Container) *c = (const FM_PB(Container) *)answer;
	char memory[32], limit[32], started[40];
	printf("Container: %s on %s (%s, %s, %s)\n", c->name, c->host, c->status, c->kind, c->runtime);
	printf("Instance:  %s, pid %d, %u processes\n", c->instance, c->pid, c->processes);
	printf("Memory:    %s%s%s\n", fm_format_bytes(c->memory_bytes, memory, sizeof(memory)), c->memory_limit_bytes ? " of " : "",
	       c->memory_limit_bytes ? fm_format_bytes(c->memory_limit_bytes, limit, sizeof(limit)) : "");
	print_endpoints(c);
	fm_print_container_usage(c);
	if (c->health && c->health->probe[0])
		printf("Health:    %s\n", c->health->probe);
	for (size_t i = 0; i < c->n_labels; i++)
		printf("Label:     %s=%s\n", c->labels[i]->key, c->labels[i]->value);
	if (c->image[0])
		printf("Image:     %s\n", c->image);
	printf("Bundle:    %s\n", c->bundle);
	if (c->started_unix_ms)
		printf("Started:   %s\n", fm_format_time(c->started_unix_ms, started, sizeof(started)));
	return 0;
}

static int add_labels(FM_PB(RunContainerRequest) * req, char **labels, struct fm_error *err)
{
	for (char **l = labels; l && *l; l++) {
		char *eq = strchr(*l, '=');
		if (!eq || eq == *l)
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "--label must be KEY=VALUE, not '%s'", *l);
		FM_PB(Label) *label = FM_PB_NEW(Label, label);
		_fm_free_ char *key = strndup(*l, (size_t)(eq - *l));
		fm_pb_set(&label->key, key);
		fm_pb_set(&label->value, eq + 1);
		FM_PB_ADD(req->labels, req->n_labels, label);
	}
	return 0;
}

struct run_options {
	struct fm_client_options client;
	const char *name, *host, *bundle, *address, *address6, *mac, *gateway, *gateway6, *bridge, *health, *runtime;
	char **labels, **endpoints;
	bool ordinary;
	uint64_t health_attempts, health_timeout_ms, health_max_latency_ms;
};

/* "bridge=br1,address=10.78.0.100/24,…": names as in the message, each once */
static FM_PB(Endpoint) * endpoint_from_text(const char *text, struct fm_error *err)
{
	FM_PB(Endpoint) *e = FM_PB_NEW(Endpoint, endpoint);
	const struct {
		const char *name;
		char **field;
	} parts[] = { { "bridge", &e->bridge },   { "mac", &e->mac },           { "address", &e->address },    { "address6", &e->address6 },
		      { "gateway", &e->gateway }, { "gateway6", &e->gateway6 }, { "interface", &e->interface } };
	_fm_free_ char *copy = fm_xstrdup(text);
	char *rest = copy, *part;
	while ((part = strsep(&rest, ","))) {
		char *eq = strchr(part, '=');
		size_t i = FM_ARRAY_SIZE(parts);
		if (eq && eq[1]) {
			*eq = '\0';
			for (i = 0; i < FM_ARRAY_SIZE(parts) && !fm_streq(parts[i].name, part); i++)
				;
		}
		if (i == FM_ARRAY_SIZE(parts) || (*parts[i].field)[0]) {
			(void)fm_error_set(err, FM_E_INVALID_ARGUMENT,
			                   "--endpoint '%s': '%s' is no NAME=VALUE, no name that it knows, or there twice", text, part);
			(void)fm_error_hint(err,
			                    "names: bridge, mac, address, address6, gateway, gateway6, interface; between them commas");
			fm_pb_free(e);
			return NULL;
		}
		fm_pb_set(parts[i].field, eq + 1);
	}
	if (!e->address[0] && !e->address6[0]) {
		(void)fm_error_set(err, FM_E_INVALID_ARGUMENT, "--endpoint '%s': neither address= nor address6=", text);
		fm_pb_free(e);
		return NULL;
	}
	return e;
}

static int add_endpoints(FM_PB(RunContainerRequest) * req, const struct run_options *o, struct fm_error *err)
{
	bool single = o->address || o->address6;
	if (o->endpoints && (single || o->mac || o->gateway || o->gateway6 || o->bridge))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT,
		                    "--address, --address6, --mac, --gateway, --gateway6 and --bridge are for "
		                    "a single endpoint, and do not go with --endpoint");
	if (single) {
		req->endpoint = FM_PB_NEW(Endpoint, endpoint);
		fm_pb_set(&req->endpoint->address, o->address);
		fm_pb_set(&req->endpoint->address6, o->address6);
		fm_pb_set(&req->endpoint->mac, o->mac);
		fm_pb_set(&req->endpoint->gateway, o->gateway);
		fm_pb_set(&req->endpoint->gateway6, o->gateway6);
		fm_pb_set(&req->endpoint->bridge, o->bridge);
	}
	for (char **text = o->endpoints; text && *text; text++) {
		FM_PB(Endpoint) *e = endpoint_from_text(*text, err);
		if (!e)
			return -1;
		if (!req->endpoint)
			req->endpoint = e;
		else
			FM_PB_ADD(req->more_endpoints, req->n_more_endpoints, e);
	}
	return 0;
}

static FM_PB(RunContainerRequest) * run_request(const struct run_options *o, struct fm_error *err)
{
	FM_PB(RunContainerRequest) *req = FM_PB_NEW(RunContainerRequest, run_container_request);
	_fm_free_ char *bundle = realpath(o->bundle, NULL);
	fm_pb_set(&req->name, o->name);
	fm_pb_set(&req->host, o->host);
	fm_pb_set(&req->bundle, bundle ? bundle : o->bundle);
	req->ordinary = o->ordinary;
	fm_pb_set(&req->runtime, o->runtime);
	if (o->health) {
		req->health = FM_PB_NEW(HealthCheck, health_check);
		fm_pb_set(&req->health->probe, o->health);
		req->health->attempts = (uint32_t)o->health_attempts;
		req->health->timeout_ms = (uint32_t)o->health_timeout_ms;
		req->health->max_latency_ms = (uint32_t)o->health_max_latency_ms;
	}
	if (add_endpoints(req, o, err) < 0 || add_labels(req, o->labels, err) < 0) {
		fm_pb_free(req);
		return NULL;
	}
	return req;
}

static int print_started(const struct fm_client_options *o, const ProtobufCMessage *answer)
{
	const FM_PB(Container) *c = (const FM_PB(Container) *)answer;
	printf("Container '%s' runs on '%s' (%s, pid %d).\n", c->name, c->host, c->kind, c->pid);
	return 0;
}

int fm_verb_container_run(int argc, char **argv)
{
	struct run_options o = { 0 };
	const struct fm_option table[] = {
		{ "host", FM_OPT_STRING, &o.host, "HOST", "where to run it (default: the only host)", NULL },
		{ "bundle", FM_OPT_STRING, &o.bundle, "DIR", "OCI bundle (config.json, rootfs) on that host", NULL },
		{ "address", FM_OPT_STRING, &o.address, "IP/LEN", "its IPv4 address; without any address there is no network endpoint",
		  NULL },
		{ "address6", FM_OPT_STRING, &o.address6, "IP/LEN", "its IPv6 address", NULL },
		{ "mac", FM_OPT_STRING, &o.mac, "MAC", "its MAC address (default: made from the name)", NULL },
		{ "gateway", FM_OPT_STRING, &o.gateway, "IP", "IPv4 default route", NULL },
		{ "gateway6", FM_OPT_STRING, &o.gateway6, "IP", "IPv6 default route", NULL },
		{ "bridge", FM_OPT_STRING, &o.bridge, "NAME", "bridge to plug into, where the agent has none of its own", NULL },
		{ "endpoint", FM_OPT_STRINGS, &o.endpoints, "NAME=VALUE,…",
		  "all of that of one of several endpoints: bridge, mac, address, address6, gateway, gateway6, interface; once for each",
		  NULL },
		{ "health", FM_OPT_STRING, &o.health, "PROBE", "tcp:PORT or http:PORT/PATH, asked after a migration", NULL },
		{ "health-attempts", FM_OPT_UINT, &o.health_attempts, "N", "before it counts as failed (default 3)", NULL },
		{ "health-timeout", FM_OPT_DURATION, &o.health_timeout_ms, "TIME", "of one attempt (default 1s)", NULL },
		{ "health-max-latency", FM_OPT_DURATION, &o.health_max_latency_ms, "TIME", "slower answers count as failed", NULL },
		{ "label", FM_OPT_STRINGS, &o.labels, "KEY=VALUE", "may be given several times", NULL },
		{ "runtime", FM_OPT_STRING, &o.runtime, "NAME", "under what: docker, containerd, runc (default: what its agent was given)",
		  NULL },
		{ "ordinary", FM_OPT_FLAG, &o.ordinary, NULL, "start it as it is, not nested: migrates slower, by the runtime's checkpoint",
		  NULL },
		FM_CLIENT_OPTIONS(o.client),
		{ 0 },
	};
	const struct fm_command_line cl = {
		.usage = "fleximigrate container run NAME --bundle DIR [--host HOST] [--address IP/LEN] [options]",
		.summary = "Start a container from an OCI bundle, inside a parent container that can be migrated.",
		.options = table,
		.min_args = 1,
		.max_args = 1
	};
	struct fm_arguments args __attribute__((cleanup(fm_arguments_done))) = { 0 };
	struct fm_error err = FM_ERROR_INIT;
	_fm_pb_ FM_PB(RunContainerRequest) *req = NULL;
	int rc = fm_options_parse(&cl, argc, argv, &args, &err);
	if (rc > 0)
		return 0;
	if (rc == 0 && !o.bundle)
		rc = fm_error_set(&err, FM_E_INVALID_ARGUMENT, "--bundle is missing");
	o.name = rc == 0 ? args.v[0] : NULL;
	if (rc == 0)
		rc = (req = run_request(&o, &err)) ? 0 : -1;
	fm_strv_free(o.labels);
	fm_strv_free(o.endpoints);
	if (rc < 0)
		return fm_cli_fail(&o.client, &err);
	return fm_client_ask(&o.client, FM_MANAGER_RUN_CONTAINER, &req->base, print_started);
}

static int print_containers(const struct fm_client_options *o, const ProtobufCMessage *answer)
{
	const FM_PB(ListContainersResponse) *r = (const FM_PB(ListContainersResponse) *)answer;
	struct fm_table *t =
	        fm_table_new((const char *const[]){ "CONTAINER", "HOST", "STATUS", "KIND", "CPU", "MEM", "PROCESSES", "ADDRESS", NULL });
	for (size_t i = 0; i < r->n_containers; i++) {
		const FM_PB(Container) *c = r->containers[i];
		char memory[40], processes[16], cpu[16];
		struct fm_container_usage u;
		fm_usage_container_figures(c->usage, &u);
		_fm_free_ char *addresses = addresses_text(c, 0, FM_MAX_ENDPOINTS);
		(void)snprintf(processes, sizeof(processes), "%u", c->processes);
		fm_table_row(t, c->name, c->host, c->status, c->kind, fm_show_number(u.cpu_cores, cpu, sizeof(cpu)),
		             fm_format_bytes(c->memory_bytes, memory, sizeof(memory)), processes, addresses[0] ? addresses : "-",
		             (char *)NULL);
	}
	fm_table_print(t);
	return 0;
}

int fm_verb_container_ls(int argc, char **argv)
{
	struct fm_client_options o = { 0 };
	const char *host = NULL;
	const struct fm_option table[] = { { "host", FM_OPT_STRING, &host, "HOST", "only this host's", NULL },
		                           FM_CLIENT_OPTIONS(o),
		                           { 0 } };
	const struct fm_command_line cl = { .usage = "fleximigrate container ls [--host HOST] [options]",
		                            .summary = "List the containers of all hosts.",
		                            .options = table };
	struct fm_arguments args __attribute__((cleanup(fm_arguments_done))) = { 0 };
	struct fm_error err = FM_ERROR_INIT;
	FM_PB(ListContainersRequest) req = FLEXIMIGRATE__V1__LIST_CONTAINERS_REQUEST__INIT;
	int rc = fm_options_parse(&cl, argc, argv, &args, &err);
	if (rc > 0)
		return 0;
	if (host)
		req.host = (char *)host;
	if (rc < 0)
		return fm_cli_fail(&o, &err);
	return fm_client_ask(&o, FM_MANAGER_LIST_CONTAINERS, &req.base, print_containers);
}

int fm_verb_container_show(int argc, char **argv)
{
	FM_PB(NameRequest) req = FLEXIMIGRATE__V1__NAME_REQUEST__INIT;
	const struct fm_client_verb v = { .usage = "fleximigrate container show NAME [options]",
		                          .summary = "Show one container.",
		                          .method = FM_MANAGER_GET_CONTAINER,
		                          .request = &req.base,
		                          .argument = &req.name,
		                          .print = print_container };
	return fm_client_verb(&v, argc, argv);
}

int fm_verb_container_rm(int argc, char **argv)
{
	struct fm_client_options o = { 0 };
	const char *host = NULL;
	bool force = false;
	const struct fm_option table[] = {
		{ "force", FM_OPT_FLAG, &force, NULL, "stop it if it is running", NULL },
		{ "host", FM_OPT_STRING, &host, "HOST", "on which host, when there are two of that name", NULL },
		FM_CLIENT_OPTIONS(o),
		{ 0 },
	};
	const struct fm_command_line cl = { .usage = "fleximigrate container rm [--force] NAME [options]",
		                            .summary = "Remove a container, its endpoints and its instance folder; the bundle stays.",
		                            .options = table,
		                            .min_args = 1,
		                            .max_args = 1 };
	struct fm_arguments args __attribute__((cleanup(fm_arguments_done))) = { 0 };
	struct fm_error err = FM_ERROR_INIT;
	_fm_pb_ FM_PB(Empty) *r = NULL;
	FM_PB(RemoveContainerRequest) req = FLEXIMIGRATE__V1__REMOVE_CONTAINER_REQUEST__INIT;
	int rc = fm_options_parse(&cl, argc, argv, &args, &err);
	if (rc > 0)
		return 0;
	if (rc == 0)
		req.name = args.v[0];
	if (host)
		req.host = (char *)host;
	req.force = force;
	if (rc < 0 || fm_client_call(&o, FM_MANAGER_REMOVE_CONTAINER, &req.base, &r, &err) < 0)
		return fm_cli_fail(&o, &err);
	if (fm_client_wants_json(&o))
		fm_print_json(&r->base);
	else
		printf("Container '%s' removed.\n", args.v[0]);
	return 0;
}
