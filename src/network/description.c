/* SPDX-License-Identifier: MIT */
/* description.c - the network's description from JSON. See description.h; the intents in it are read by intent-read.c. */
#include "network/description.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "basic/str.h"
#include "network/address.h"
#include "network/fields.h"
#include "network/intent-internal.h"
#include "network/redirect-tunnel.h"
#include "network/topology-internal.h"

#define VERSION            1
#define MAX_OBJECTS        (FM_MAX_TOPOLOGY_NODES + FM_MAX_TOPOLOGY_LINKS + 16 * FM_MAX_DESCRIPTION_LIST)
#define MAX_LISTS          (8 * FM_MAX_DESCRIPTION_LIST)
#define DEFAULT_PRIORITY   40000 /* above what switches and controllers install for themselves, below what an operator may put on top */
#define DEFAULT_TABLE      254   /* the kernel's main table */
#define DEFAULT_TTL_S      5
#define DEFAULT_DRAIN_MS   30000
#define SOCKET_PATH_MAX    107
#define SWITCH_ADDRESS_MAX 160
#define MAX_HEADERS        8

struct parts {
	uint32_t version;
	const json_t *topology, *openflow, *controllers, *vxlan, *routers, *tunnels, *dns, *load_balancers, *webhooks, *intents;
};

/* What a list's entries are put into: `n` of `size` bytes each so far. */
struct reading {
	struct fm_description *d;
	struct fm_net_switch *switches;
};

#define HOSTS_MAX FM_MAX_HOSTS

static const struct fm_place whole = { .who = "network" };
static const struct fm_field an_address = { .check = fm_is_ip_address, .what = "is not an address" };

/* Is the name of entry i that of one before it? `v` is an array of structs that begin with their name. */
static int check_unique(const void *v, size_t size, size_t i, const struct fm_place *at, struct fm_error *err)
{
	const char *name = *(const char *const *)(const void *)((const char *)v + i * size);

	for (size_t j = 0; j < i; j++)
		if (fm_streq(name, *(const char *const *)(const void *)((const char *)v + j * size)))
			return fm_field_wrong(at, "name", "is that of one before it, too", err);
	return 0;
}

/* Room for what a list has; NULL and 0 for none. */
static int make_room(const json_t *list, size_t size, void *ret, size_t *ret_n, struct fm_error *err)
{
	size_t n = json_array_size(list);
	void *v = n ? calloc(n, size) : NULL;

	if (n && !v)
		return fm_error_errno(err, ENOMEM, "network: %zu entries", n);
	*(void **)ret = v;
	*ret_n = n;
	return 0;
}

/* ---- switches */

static int read_switch(struct fm_description *d, struct fm_net_switch *all, size_t i, const json_t *o, const struct fm_place *at,
                       const struct fm_field *fields, struct fm_error *err)
{
	struct fm_net_switch *s = &all[i];
	const struct fm_topology_node *node;

	if (fm_fields_read(o, at, fields, s, err) < 0)
		return -1;
	if (fm_topology_find_node(d->topology, s->name, &s->node, NULL) < 0)
		return fm_field_wrong(at, "switch", "is not in the topology", err);
	node = fm_topology_node(d->topology, s->node);
	if (node->kind != FM_NODE_SWITCH)
		return fm_field_wrong(at, "switch", "is a host in the topology", err);
	for (size_t j = 0; j < i; j++)
		if (all[j].node == s->node)
			return fm_field_wrong(at, "switch", "is that of one before it, too", err);
	return 0;
}

static int read_flow_switch(void *userdata, size_t i, const json_t *o, const struct fm_place *at, struct fm_error *err)
{
	static const struct fm_field fields[] = {
		{ .name = "switch", .offset = offsetof(struct fm_net_switch, name), .required = true },
		{ FM_FIELD(struct fm_net_switch, address), .required = true, .max = SWITCH_ADDRESS_MAX, .check = fm_is_switch_address,
		  .what = "is not the address of a switch, tcp:HOST:PORT or unix:/PATH" },
		{ 0 },
	};
	struct reading *r = userdata;

	return read_switch(r->d, r->switches, i, o, at, fields, err);
}

static int read_openflow(struct fm_description *d, const json_t *o, struct fm_error *err)
{
	struct raw {
		uint32_t table, priority;
		const json_t *switches;
	} raw = { .priority = DEFAULT_PRIORITY };
	static const struct fm_field fields[] = {
		{ FM_FIELD(struct raw, table), .type = FM_FIELD_U32, .max = FM_MAX_FLOW_TABLE },
		{ FM_FIELD(struct raw, priority), .type = FM_FIELD_U32, .min = 1, .max = FM_MAX_FLOW_PRIORITY },
		{ FM_FIELD(struct raw, switches), .type = FM_FIELD_LIST, .required = true, .max = FM_MAX_DESCRIPTION_LIST },
		{ 0 },
	};
	const struct fm_place at = fm_place_member(&whole, "openflow");
	struct reading r = { .d = d };

	if (!o)
		return 0;
	if (fm_fields_read(o, &at, fields, &raw, err) < 0 ||
	    make_room(raw.switches, sizeof(*d->openflow.switches), &d->openflow.switches, &d->openflow.n, err) < 0)
		return -1;
	d->openflow.table = raw.table;
	d->openflow.priority = raw.priority;
	r.switches = d->openflow.switches;
	return fm_fields_each(raw.switches, &at, "switches", read_flow_switch, &r, err);
}

static bool is_path(const char *text)
{
	return *text == '/';
}

static int read_controller_switch(void *userdata, size_t i, const json_t *o, const struct fm_place *at, struct fm_error *err)
{
	static const struct fm_field fields[] = {
		{ .name = "switch", .offset = offsetof(struct fm_net_switch, name), .required = true },
		{ FM_FIELD(struct fm_net_switch, dpid), .type = FM_FIELD_U64, .required = true, .min = 1, .max = INT64_MAX },
		{ 0 },
	};
	struct reading *r = userdata;

	return read_switch(r->d, r->switches, i, o, at, fields, err);
}

static int read_controller(void *userdata, size_t i, const json_t *o, const struct fm_place *at, struct fm_error *err)
{
	struct raw {
		const char *name, *url, *ca, *unix_socket;
		uint32_t table, priority;
		const json_t *switches;
	} raw = { .priority = DEFAULT_PRIORITY };
	static const struct fm_field fields[] = {
		{ FM_FIELD(struct raw, name), .required = true, .check = fm_name_is_valid, .what = "is not a name" },
		{ FM_FIELD(struct raw, url), .required = true, .check = fm_is_url, .what = "is not a URL, http://… or https://…" },
		{ FM_FIELD(struct raw, ca), .check = fm_is_file_name, .what = "is not the name of a file in the folder of secrets" },
		{ FM_FIELD(struct raw, unix_socket), .max = SOCKET_PATH_MAX, .check = is_path, .what = "is not an absolute path" },
		{ FM_FIELD(struct raw, table), .type = FM_FIELD_U32, .max = FM_MAX_FLOW_TABLE },
		{ FM_FIELD(struct raw, priority), .type = FM_FIELD_U32, .min = 1, .max = FM_MAX_FLOW_PRIORITY },
		{ FM_FIELD(struct raw, switches), .type = FM_FIELD_LIST, .required = true, .max = FM_MAX_DESCRIPTION_LIST },
		{ 0 },
	};
	struct fm_description *d = userdata;
	struct fm_net_controller *c = &d->controllers[i];
	struct reading r = { .d = d };

	if (fm_fields_read(o, at, fields, &raw, err) < 0)
		return -1;
	*c = (struct fm_net_controller){
		.name = raw.name, .url = raw.url, .ca = raw.ca, .unix_socket = raw.unix_socket, .table = raw.table, .priority = raw.priority
	};
	if (check_unique(d->controllers, sizeof(*c), i, at, err) < 0 ||
	    make_room(raw.switches, sizeof(*c->switches), &c->switches, &c->n, err) < 0)
		return -1;
	r.switches = c->switches;
	return fm_fields_each(raw.switches, at, "switches", read_controller_switch, &r, err);
}

/* ---- hosts and routers */

static int read_vxlan(void *userdata, size_t i, const json_t *o, const struct fm_place *at, struct fm_error *err)
{
	static const struct fm_field fields[] = {
		{ FM_FIELD(struct fm_net_vxlan, device), .required = true, .check = fm_is_interface,
		  .what = "is not the name of an interface" },
		{ FM_FIELD(struct fm_net_vxlan, hosts), .type = FM_FIELD_OBJECT, .required = true, .max = HOSTS_MAX },
		{ 0 },
	};
	struct fm_net_vxlan *x = &((struct fm_description *)userdata)->vxlans[i];

	if (fm_fields_read(o, at, fields, x, err) < 0)
		return -1;
	return fm_fields_map(x->hosts, at, "hosts", &an_address, err);
}

static int read_router(void *userdata, size_t i, const json_t *o, const struct fm_place *at, struct fm_error *err)
{
	static const struct fm_field fields[] = {
		{ FM_FIELD(struct fm_net_router, host), .required = true, .check = fm_name_is_valid, .what = "is not a name" },
		{ FM_FIELD(struct fm_net_router, table), .type = FM_FIELD_U32, .min = 1, .max = UINT32_MAX },
		{ FM_FIELD(struct fm_net_router, host_routes), .type = FM_FIELD_BOOL },
		{ FM_FIELD(struct fm_net_router, via), .type = FM_FIELD_OBJECT, .required = true, .min = 1, .max = HOSTS_MAX },
		{ 0 },
	};
	struct fm_net_router *r = &((struct fm_description *)userdata)->routers[i];
	const char *host;
	json_t *v;

	r->table = DEFAULT_TABLE;
	r->host_routes = true;
	if (fm_fields_read(o, at, fields, r, err) < 0 || fm_fields_map(r->via, at, "via", &an_address, err) < 0)
		return -1;
	json_object_foreach((json_t *)r->via, host, v) /* the macro's iterator wants it changeable, and changes nothing */
	{
		int family = fm_ip_family(json_string_value(v));

		if (r->family && r->family != family)
			return fm_field_wrong(at, "via", "has next hops of both families: write one entry for each", err);
		r->family = family;
	}
	return 0;
}

static int read_tunnels(struct fm_description *d, const json_t *o, struct fm_error *err)
{
	static const struct fm_field fields[] = {
		{ FM_FIELD(struct fm_net_tunnels, port), .type = FM_FIELD_U32, .min = 1, .max = 65535 },
		{ FM_FIELD(struct fm_net_tunnels, hosts), .type = FM_FIELD_OBJECT, .required = true, .max = HOSTS_MAX },
		{ 0 },
	};

	const struct fm_place at = fm_place_member(&whole, "tunnels");

	d->tunnels.port = FM_TUNNEL_PORT;
	if (!o)
		return 0;
	if (fm_fields_read(o, &at, fields, &d->tunnels, err) < 0)
		return -1;
	return fm_fields_map(d->tunnels.hosts, &at, "hosts", &an_address, err);
}

/* ---- name service, load balancers, webhooks */

static int read_dns(void *userdata, size_t i, const json_t *o, const struct fm_place *at, struct fm_error *err)
{
	static const char *const algorithms[] = { "hmac-sha256", "hmac-sha1", "hmac-sha224", "hmac-sha384", "hmac-sha512", NULL };
#define AT(member) FM_FIELD(struct fm_net_dns, member)
	static const struct fm_field fields[] = {
		{ AT(name), .required = true, .check = fm_name_is_valid, .what = "is not a name" },
		{ AT(server), .required = true, .check = fm_is_host_port, .what = "is not an address with or without a port" },
		{ AT(zone), .required = true, .check = fm_is_dns_name, .what = "is not the name of a zone" },
		{ AT(reverse_zone), .check = fm_is_dns_name, .what = "is not the name of a zone" },
		{ AT(key), .required = true, .check = fm_is_dns_name, .what = "is not the name of a key" },
		{ AT(algorithm), .words = algorithms },
		{ AT(key_file), .required = true, .check = fm_is_file_name, .what = "is not the name of a file in the folder of secrets" },
		{ AT(ttl_s), .type = FM_FIELD_U32, .max = 86400 },
		{ 0 },
	};
#undef AT
	struct fm_description *d = userdata;
	struct fm_net_dns *n = &d->dns[i];

	n->algorithm = "hmac-sha256";
	n->ttl_s = DEFAULT_TTL_S;
	if (fm_fields_read(o, at, fields, n, err) < 0)
		return -1;
	return check_unique(d->dns, sizeof(*n), i, at, err);
}

static bool is_socket(const char *text)
{
	const char *tcp = fm_str_startswith(text, "tcp:") ? text + strlen("tcp:") : NULL;

	return is_path(text) || (tcp && fm_is_host_port(tcp) && !fm_is_ip_address(tcp));
}

static int read_balancer(void *userdata, size_t i, const json_t *o, const struct fm_place *at, struct fm_error *err)
{
	static const char *const drivers[] = { "haproxy", NULL };
#define AT(member) FM_FIELD(struct fm_net_balancer, member)
	static const struct fm_field fields[] = {
		{ AT(name), .required = true, .check = fm_name_is_valid, .what = "is not a name" },
		{ AT(driver), .words = drivers },
		{ AT(socket), .required = true, .max = SOCKET_PATH_MAX, .check = is_socket,
		  .what = "is neither the absolute path of a socket nor tcp:ADDRESS:PORT" },
		{ AT(max_drain_ms), .type = FM_FIELD_U64, .max = FM_MAX_DRAIN_MS },
		{ 0 },
	};
#undef AT
	struct fm_description *d = userdata;
	struct fm_net_balancer *b = &d->balancers[i];

	b->driver = "haproxy";
	b->max_drain_ms = DEFAULT_DRAIN_MS;
	if (fm_fields_read(o, at, fields, b, err) < 0)
		return -1;
	return check_unique(d->balancers, sizeof(*b), i, at, err);
}

static int check_event(void *userdata, size_t i, const json_t *v, const struct fm_place *at, struct fm_error *err)
{
	static const char *const known[] = { "prepare", "open", "flip", "verify", "revert", NULL };
	static const struct fm_field how = { .type = FM_FIELD_WORD, .words = known };
	unsigned word;

	return fm_field_read(v, at, &how, &word, err);
}

/* A field's value goes into a request as it is. */
static bool is_header(const char *text)
{
	for (const char *p = text; *p; p++)
		if (*p < ' ' || *p > '~')
			return false;
	return true;
}

static int read_webhook(void *userdata, size_t i, const json_t *o, const struct fm_place *at, struct fm_error *err)
{
	static const struct fm_field header = { .check = is_header, .what = "has characters that cannot be in a header" };
#define AT(member) FM_FIELD(struct fm_net_webhook, member)
	static const struct fm_field fields[] = {
		{ AT(name), .required = true, .check = fm_name_is_valid, .what = "is not a name" },
		{ AT(url), .required = true, .check = fm_is_url, .what = "is not a URL, http://… or https://…" },
		{ AT(events), .type = FM_FIELD_LIST, .min = 1, .max = FM_MAX_INTENT_LIST },
		{ AT(headers), .type = FM_FIELD_OBJECT, .max = MAX_HEADERS },
		{ AT(secret_file), .check = fm_is_file_name, .what = "is not the name of a file in the folder of secrets" },
		{ AT(ca_file), .check = fm_is_file_name, .what = "is not the name of a file in the folder of secrets" },
		{ AT(required), .type = FM_FIELD_BOOL },
		{ 0 },
	};
#undef AT
	struct fm_description *d = userdata;
	struct fm_net_webhook *w = &d->webhooks[i];

	if (fm_fields_read(o, at, fields, w, err) < 0 || check_unique(d->webhooks, sizeof(*w), i, at, err) < 0 ||
	    fm_fields_each(w->events, at, "events", check_event, NULL, err) < 0)
		return -1;
	return fm_fields_map(w->headers, at, "headers", &header, err);
}

/* ---- the whole */

static int check_size(const char *text, size_t n, struct fm_error *err)
{
	size_t objects = 0, lists = 0;

	if (n > FM_MAX_DESCRIPTION_BYTES)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "network: %zu bytes are more than %u", n, FM_MAX_DESCRIPTION_BYTES);
	for (size_t i = 0; i < n; i++) {
		objects += text[i] == '{';
		lists += text[i] == '[';
	}
	if (objects > MAX_OBJECTS || lists > MAX_LISTS)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "network: %zu objects and %zu lists are more than %d and %d", objects,
		                    lists, MAX_OBJECTS, MAX_LISTS);
	return 0;
}

static int read_topology(struct fm_description *d, const json_t *o, struct fm_error *err)
{
	if (o)
		return fm_topology_from_json(o, &d->topology, err) < 0 ? fm_error_prefix(err, "network") : 0;
	d->topology = fm_topology_new();
	return d->topology ? 0 : fm_error_errno(err, ENOMEM, "network: a topology");
}

static int read_lists(struct fm_description *d, const struct parts *p, struct fm_error *err)
{
	const struct {
		const char *key;
		const json_t *list;
		size_t size;
		void *v;
		size_t *n;
		int (*each)(void *userdata, size_t i, const json_t *o, const struct fm_place *at, struct fm_error *err);
	} lists[] = {
		{ "controllers", p->controllers, sizeof(*d->controllers), &d->controllers, &d->n_controllers, read_controller },
		{ "vxlan", p->vxlan, sizeof(*d->vxlans), &d->vxlans, &d->n_vxlans, read_vxlan },
		{ "routers", p->routers, sizeof(*d->routers), &d->routers, &d->n_routers, read_router },
		{ "dns", p->dns, sizeof(*d->dns), &d->dns, &d->n_dns, read_dns },
		{ "load_balancers", p->load_balancers, sizeof(*d->balancers), &d->balancers, &d->n_balancers, read_balancer },
		{ "webhooks", p->webhooks, sizeof(*d->webhooks), &d->webhooks, &d->n_webhooks, read_webhook },
		{ "intents", p->intents, sizeof(*d->intents), &d->intents, &d->n_intents, fm_intent_read }, /* last: they name the others */
	};

	for (size_t i = 0; i < FM_ARRAY_SIZE(lists); i++)
		if (make_room(lists[i].list, lists[i].size, lists[i].v, lists[i].n, err) < 0 ||
		    fm_fields_each(lists[i].list, &whole, lists[i].key, lists[i].each, d, err) < 0)
			return -1;
	return 0;
}

static int read_all(struct fm_description *d, struct fm_error *err)
{
#define PART(member, kind, most)                                                                                                           \
	{                                                                                                                                  \
		FM_FIELD(struct parts, member), .type = kind, .max = most                                                                  \
	}
	static const struct fm_field fields[] = {
		{ FM_FIELD(struct parts, version), .type = FM_FIELD_U32, .required = true },
		PART(topology, FM_FIELD_OBJECT, 0),
		PART(openflow, FM_FIELD_OBJECT, 0),
		PART(controllers, FM_FIELD_LIST, FM_MAX_DESCRIPTION_LIST),
		PART(vxlan, FM_FIELD_LIST, FM_MAX_DESCRIPTION_LIST),
		PART(routers, FM_FIELD_LIST, FM_MAX_DESCRIPTION_LIST),
		PART(tunnels, FM_FIELD_OBJECT, 0),
		PART(dns, FM_FIELD_LIST, FM_MAX_DESCRIPTION_LIST),
		PART(load_balancers, FM_FIELD_LIST, FM_MAX_DESCRIPTION_LIST),
		PART(webhooks, FM_FIELD_LIST, FM_MAX_DESCRIPTION_LIST),
		PART(intents, FM_FIELD_LIST, FM_MAX_INTENTS),
		{ 0 },
	};
#undef PART
	struct parts p = { 0 };

	if (fm_fields_read(d->json, &whole, fields, &p, err) < 0)
		return -1;
	if (p.version != VERSION)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "network: version %u; only %d is known", p.version, VERSION);
	if (read_topology(d, p.topology, err) < 0 || read_openflow(d, p.openflow, err) < 0 || read_tunnels(d, p.tunnels, err) < 0)
		return -1;
	return read_lists(d, &p, err);
}

int fm_description_parse(const char *text, size_t n, struct fm_description **ret, struct fm_error *err)
{
	_fm_cleanup_(fm_description_freep) struct fm_description *d = NULL;
	json_error_t e;

	if (check_size(text, n, err) < 0)
		return -1;
	d = calloc(1, sizeof(*d));
	if (!d)
		return fm_error_errno(err, ENOMEM, "network: its description");
	d->json = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
	if (!d->json)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "network: line %d, column %d: %s", e.line, e.column, e.text);
	if (read_all(d, err) < 0)
		return -1;
	*ret = FM_TAKE_PTR(d);
	return 0;
}

void fm_description_free(struct fm_description *d)
{
	if (!d)
		return;
	for (size_t i = 0; i < d->n_controllers; i++)
		free(d->controllers[i].switches);
	free(d->openflow.switches);
	free(d->controllers);
	free(d->vxlans);
	free(d->routers);
	free(d->dns);
	free(d->balancers);
	free(d->webhooks);
	free(d->intents);
	fm_topology_free(d->topology);
	json_decref(d->json);
	free(d);
}

#define FIND(v, count)                                                                                                                     \
	do {                                                                                                                               \
		for (size_t i = 0; i < (count); i++)                                                                                       \
			if (fm_streq((v)[i].name, name))                                                                                   \
				return &(v)[i];                                                                                            \
		return NULL;                                                                                                               \
	} while (0)

const struct fm_net_dns *fm_description_dns(const struct fm_description *d, const char *name)
{
	FIND(d->dns, d->n_dns);
}

const struct fm_net_balancer *fm_description_balancer(const struct fm_description *d, const char *name)
{
	FIND(d->balancers, d->n_balancers);
}

const struct fm_net_webhook *fm_description_webhook(const struct fm_description *d, const char *name)
{
	FIND(d->webhooks, d->n_webhooks);
}
