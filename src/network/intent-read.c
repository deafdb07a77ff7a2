/* SPDX-License-Identifier: MIT */
/* intent-read.c - intents from JSON, checked against the description that they are a part of. See intent.h. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "basic/str.h"
#include "network/address.h"
#include "network/dns-internal.h"
#include "network/fields.h"
#include "network/intent-internal.h"

#define VLAN_MAX         4094
#define HAPROXY_NAME_MAX 128
#define NAME_MAX_DNS     (FM_DNS_NAME_MAX + 1)

static const char *const driver_names[] = { "bridge", "openflow", "rest", "vxlan", "route", "tunnel", "dns", "haproxy", "webhook", "dnat" };
_Static_assert(FM_INTENT_ALL == (1 << FM_ARRAY_SIZE(driver_names)) - 1, "a driver has no name");

unsigned fm_intent_driver(const char *name)
{
	for (size_t i = 0; i < FM_ARRAY_SIZE(driver_names); i++)
		if (fm_streq(name, driver_names[i]))
			return 1u << i;
	return 0;
}

const char *fm_intent_driver_name(unsigned driver)
{
	for (size_t i = 0; i < FM_ARRAY_SIZE(driver_names); i++)
		if (driver == 1u << i)
			return driver_names[i];
	return NULL;
}

/* ---- what texts may be */

static bool is_label(const char *text)
{
	const char *eq = strchr(text, '=');

	return eq && eq > text;
}

/* What HAProxy's socket and its configuration take as a name. */
static bool is_haproxy_name(const char *text)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:";

	return strspn(text, allowed) == strlen(text);
}

static int vlan_of(const char *text)
{
	int vlan = 0;

	if (!fm_str_startswith(text, "vlan:") || fm_parse_int(text + strlen("vlan:"), 1, VLAN_MAX, &vlan, NULL) < 0)
		return 0;
	return vlan;
}

static bool is_isolation(const char *text)
{
	return fm_streq(text, "none") || fm_streq(text, "dedicated-path") || vlan_of(text);
}

static const struct fm_field an_address = { .check = fm_is_ip_address, .what = "is not an address" };

/* ---- the lists in an intent */

struct raw {
	struct fm_intent i;
	const char *dns;
	const json_t *clients, *drivers, *balancer, *publish, *webhooks;
};

struct reading {
	const struct fm_description *d;
	struct fm_intent *i;
};

static int read_driver(void *userdata, size_t n, const json_t *v, const struct fm_place *at, struct fm_error *err)
{
	struct reading *r = userdata;
	unsigned driver = fm_intent_driver(json_string_value(v));

	if (!driver)
		return fm_field_wrong(at, NULL, "is not bridge, openflow, rest, vxlan, route, tunnel, dns, haproxy, webhook or dnat", err);
	r->i->drivers |= driver;
	return 0;
}

static int read_client(void *userdata, size_t n, const json_t *v, const struct fm_place *at, struct fm_error *err)
{
	struct reading *r = userdata;
	const char *name = json_string_value(v);

	if (!name || fm_topology_find_node(r->d->topology, name, &r->i->clients[n], NULL) < 0)
		return fm_field_wrong(at, NULL, "is not a host or switch of the topology", err);
	r->i->n_clients = n + 1;
	return 0;
}

static int read_publish(void *userdata, size_t n, const json_t *o, const struct fm_place *at, struct fm_error *err)
{
	static const char *const protocols[] = { "tcp", "udp", NULL };
#define AT(member) FM_FIELD(struct fm_intent_port, member)
	static const struct fm_field fields[] = {
		{ AT(host_port), .type = FM_FIELD_U32, .required = true, .min = 1, .max = 65535 },
		{ AT(port), .type = FM_FIELD_U32, .required = true, .min = 1, .max = 65535 },
		{ AT(protocol), .words = protocols },
		{ 0 },
	};
#undef AT
	struct fm_intent *i = ((struct reading *)userdata)->i;
	struct fm_intent_port *p = &i->publish[n];

	p->protocol = "tcp";
	if (fm_fields_read(o, at, fields, p, err) < 0)
		return -1;
	for (size_t j = 0; j < n; j++)
		if (i->publish[j].host_port == p->host_port && fm_streq(i->publish[j].protocol, p->protocol))
			return fm_field_wrong(at, "host_port", "is that of one before it, too", err);
	i->n_publish = n + 1;
	return 0;
}

static int read_webhook(void *userdata, size_t n, const json_t *v, const struct fm_place *at, struct fm_error *err)
{
	struct reading *r = userdata;
	const char *name = json_string_value(v);

	r->i->webhooks[n] = name ? fm_description_webhook(r->d, name) : NULL;
	if (!r->i->webhooks[n])
		return fm_field_wrong(at, NULL, "is not the name of one of the webhooks", err);
	r->i->n_webhooks = n + 1;
	return 0;
}

static int read_balancer(const struct fm_description *d, const json_t *o, const struct fm_place *at, struct fm_intent_balancer *b,
                         struct fm_error *err)
{
#define AT(member) FM_FIELD(struct fm_intent_balancer, member)
	static const struct fm_field fields[] = {
		{ AT(name), .required = true },
		{ AT(backend), .required = true, .max = HAPROXY_NAME_MAX, .check = is_haproxy_name,
		  .what = "is not the name of a backend" },
		{ AT(server), .required = true, .max = HAPROXY_NAME_MAX, .check = is_haproxy_name, .what = "is not the name of a server" },
		{ AT(port), .type = FM_FIELD_U32, .required = true, .min = 1, .max = 65535 },
		{ AT(drain), .type = FM_FIELD_BOOL },
		{ AT(by_policy), .type = FM_FIELD_BOOL },
		{ 0 },
	};
#undef AT
	const struct fm_place inner = fm_place_member(at, "load_balancer");

	if (!o)
		return 0;
	if (fm_fields_read(o, &inner, fields, b, err) < 0)
		return -1;
	b->balancer = fm_description_balancer(d, b->name);
	return b->balancer ? 0 : fm_field_wrong(&inner, "name", "is not the name of one of the load_balancers", err);
}

/* ---- an intent */

static int check_who(const struct fm_description *d, size_t n, const struct fm_intent *i, const struct fm_place *at, struct fm_error *err)
{
	if (!i->container == !i->label)
		return fm_field_wrong(
		        at, i->container ? "label" : "container",
		        i->container ? "is there beside container: one of the two" : "is missing, and there is no label either", err);
	for (size_t j = 0; j < n; j++) {
		if (fm_streq(d->intents[j].service, i->service))
			return fm_field_wrong(at, "service", "is that of one before it, too", err);
		if (i->container && fm_streq(d->intents[j].container, i->container))
			return fm_field_wrong(at, "container", "has an intent before this one", err);
	}
	return 0;
}

static int check_name(const struct fm_description *d, struct fm_intent *i, const char *dns, const struct fm_place *at, struct fm_error *err)
{
	char name[FM_DNS_NAME_MAX + 1], zone[FM_DNS_NAME_MAX + 1];

	if (fm_streq(i->keep, "address"))
		return i->name || dns ? fm_field_wrong(at, i->name ? "name" : "dns", "has a meaning with \"keep\": \"name\" only", err) : 0;
	if (!i->name || !dns)
		return fm_field_wrong(at, i->name ? "dns" : "name", "is missing, and \"keep\": \"name\" needs it", err);
	i->dns = fm_description_dns(d, dns);
	if (!i->dns)
		return fm_field_wrong(at, "dns", "is not the name of one of the entries of dns", err);
	if (fm_dns_name_parse(i->name, name, err) < 0 || fm_dns_name_parse(i->dns->zone, zone, err) < 0)
		return -1;
	return fm_dns_name_is_in(name, zone) ? 0 : fm_field_wrong(at, "name", "is not in the zone of its dns entry", err);
}

static const struct fm_field *intent_fields(void)
{
	static const char *const kept[] = { "address", "name", NULL };
#define IN(member)     .name = #member, .offset = offsetof(struct raw, i.member)
#define RAW(n, member) .name = n, .offset = offsetof(struct raw, member)
	static const struct fm_field fields[] = {
		{ IN(service), .required = true, .check = fm_name_is_valid, .what = "is not a name" },
		{ IN(container), .check = fm_name_is_valid, .what = "is not the name of a container" },
		{ IN(label), .check = is_label, .what = "is not KEY=VALUE" },
		{ IN(keep), .words = kept },
		{ IN(name), .max = NAME_MAX_DNS, .check = fm_is_dns_name, .what = "is not the name of a host" },
		{ RAW("dns", dns) },
		{ IN(addresses), .type = FM_FIELD_OBJECT, .max = FM_MAX_HOSTS },
		{ IN(max_gap_ms), .type = FM_FIELD_U64, .max = FM_MAX_GAP_MS },
		{ IN(min_bandwidth_bytes_per_s), .type = FM_FIELD_U64, .max = FM_MAX_LINK_BYTES_PER_S },
		{ RAW("clients", clients), .type = FM_FIELD_LIST, .min = 1, .max = FM_MAX_INTENT_LIST },
		{ RAW("drivers", drivers), .type = FM_FIELD_LIST, .max = FM_MAX_INTENT_LIST },
		{ IN(isolation), .check = is_isolation, .what = "is not none, vlan:1 to vlan:4094, or dedicated-path" },
		{ RAW("load_balancer", balancer), .type = FM_FIELD_OBJECT },
		{ RAW("publish", publish), .type = FM_FIELD_LIST, .max = FM_MAX_INTENT_LIST },
		{ RAW("webhooks", webhooks), .type = FM_FIELD_LIST, .max = FM_MAX_INTENT_LIST },
		{ 0 },
	};
#undef IN
#undef RAW
	return fields;
}

int fm_intent_read(void *description, size_t n, const json_t *o, const struct fm_place *at, struct fm_error *err)
{
	struct fm_description *d = description;
	struct fm_intent *i = &d->intents[n];
	struct raw raw = { .i = { .keep = "address", .isolation = "none", .json = o } };
	struct reading r = { .d = d, .i = i };

	if (fm_fields_read(o, at, intent_fields(), &raw, err) < 0)
		return -1;
	*i = raw.i;
	i->vlan = (uint32_t)vlan_of(i->isolation);
	i->dedicated_path = fm_streq(i->isolation, "dedicated-path");
	if (!raw.drivers)
		i->drivers = FM_INTENT_ALL;
	if (fm_fields_map(i->addresses, at, "addresses", &an_address, err) < 0 ||
	    fm_fields_each(raw.drivers, at, "drivers", read_driver, &r, err) < 0 ||
	    fm_fields_each(raw.clients, at, "clients", read_client, &r, err) < 0 ||
	    fm_fields_each(raw.publish, at, "publish", read_publish, &r, err) < 0 ||
	    fm_fields_each(raw.webhooks, at, "webhooks", read_webhook, &r, err) < 0 ||
	    read_balancer(d, raw.balancer, at, &i->balancer, err) < 0)
		return -1;
	if (i->dedicated_path && i->n_clients == 0)
		return fm_field_wrong(at, "clients", "is missing, and \"dedicated-path\" needs them", err);
	return check_who(d, n, i, at, err) < 0 ? -1 : check_name(d, i, raw.dns, at, err);
}
