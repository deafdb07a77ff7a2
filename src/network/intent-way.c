/* SPDX-License-Identifier: MIT */
/*
 * intent-way.c - how a kept address is led from one host to another, and what the links on its way have to offer. See intent.h.
 *
 * Why the flows have no loop: a switch's next link is the first one of its best path to the host. Best is least (latency, links), in this order, so whoever is next is nearer by this measure. With a least bandwidth, best
 * is greatest width first; who is next is at least as wide, and if not wider, nearer. Where some switches have to use links that others keep from, the former lead to the latter and never back.
 */
#include <string.h>

#include "basic/id.h"
#include "basic/str.h"
#include "network/address.h"
#include "network/intent-internal.h"

#define FLOW_COOKIE      0x666d000000000000ull /* the mark of flows that were made here */
#define FLOW_COOKIE_MASK 0xffff000000000000ull

#define TUNNEL_ADDRESSES_MAX 4 /* the driver's */

/* What a path may use. */
enum { THROUGH_ROUTERS = 1 << 0, TAKEN_LINKS = 1 << 1 };

static int path(const struct fm_intent_plan *p, uint32_t from, uint32_t to, unsigned may, uint64_t min_available, struct fm_path *ret,
                struct fm_error *err)
{
	const struct fm_topology *t = p->d->topology;
	struct fm_path_constraints c = { .min_available_bytes_per_s = min_available };
	_fm_free_ uint32_t *routers = NULL;

	if (!(may & TAKEN_LINKS)) {
		c.avoid_links = p->m->taken_links;
		c.n_avoid_links = p->m->n_taken_links;
	}
	if (!(may & THROUGH_ROUTERS)) {
		routers = calloc((size_t)fm_topology_n_nodes(t) + 1, sizeof(*routers));
		if (!routers)
			return fm_error_errno(err, ENOMEM, "%u hosts and switches", fm_topology_n_nodes(t));
		for (uint32_t n = 0; n < fm_topology_n_nodes(t); n++)
			if (n != from && n != to && fm_topology_node(t, n)->kind == FM_NODE_HOST && fm_topology_node(t, n)->forwards)
				routers[c.n_avoid_nodes++] = n;
		c.avoid_nodes = routers;
	}
	return (p->i->min_bandwidth_bytes_per_s ? fm_topology_widest : fm_topology_shortest)(t, from, to, &c, ret, err);
}

static bool find(const struct fm_intent_plan *p, const char *host, uint32_t *ret)
{
	return fm_topology_find_node(p->d->topology, host, ret, NULL) == 0 && fm_topology_node(p->d->topology, *ret)->kind == FM_NODE_HOST;
}

static const char *name_of(const struct fm_intent_plan *p, uint32_t node)
{
	return fm_topology_node(p->d->topology, node)->name;
}

/* ---- switches */

static const struct fm_net_switch *in_list(const struct fm_net_switch *v, size_t n, uint32_t node)
{
	for (size_t i = 0; i < n; i++)
		if (v[i].node == node)
			return &v[i];
	return NULL;
}

/* Does the network's description say how to change its flows? */
static unsigned controlled_by(const struct fm_description *d, uint32_t node)
{
	unsigned by = in_list(d->openflow.switches, d->openflow.n, node) ? FM_INTENT_OPENFLOW : 0;

	for (size_t i = 0; i < d->n_controllers; i++)
		if (in_list(d->controllers[i].switches, d->controllers[i].n, node))
			by |= FM_INTENT_REST;
	return by;
}

/* Learning switches, and a bridge of a host that is linked directly, follow an announcement; a switch that has flows does not. */
static int check_switches(const struct fm_intent_plan *p, const struct fm_path *way, bool flows_only, struct fm_error *err)
{
	if (way->n_links == 1 && !flows_only && !fm_plan_may(p, FM_INTENT_BRIDGE))
		return fm_plan_refuse(err, "'%s' has to learn, and bridge may not be used", name_of(p, way->nodes[0]));
	for (uint32_t n = 0; n <= way->n_links; n++) {
		uint32_t node = way->nodes[n];
		unsigned by = controlled_by(p->d, node);

		if (fm_topology_node(p->d->topology, node)->kind != FM_NODE_SWITCH || (by & p->i->drivers))
			continue;
		if (by)
			return fm_plan_refuse(err, "switch '%s' needs %s, which may not be used", name_of(p, node),
			                      by == FM_INTENT_REST ? "rest" : "openflow");
		if (flows_only)
			return fm_plan_refuse(err, "switch '%s' learns: neither openflow nor a controller is described for it",
			                      name_of(p, node));
		if (!fm_plan_may(p, FM_INTENT_BRIDGE))
			return fm_plan_refuse(err, "switch '%s' has to learn, and bridge may not be used", name_of(p, node));
	}
	return 0;
}

/* The port of the switch at which its best way to that host begins. NOT_FOUND: there is none. */
static int port_towards(const struct fm_intent_plan *p, const struct fm_net_switch *s, uint32_t host, uint32_t *ret, struct fm_error *err)
{
	_fm_cleanup_(fm_path_done) struct fm_path way = { 0 };
	const struct fm_topology_link *l;

	if (path(p, s->node, host, 0, 0, &way, NULL) < 0 && path(p, s->node, host, TAKEN_LINKS, 0, &way, err) < 0)
		return -1;
	l = fm_topology_link(p->d->topology, way.links[0]);
	*ret = l->from == s->node ? l->from_port.number : l->to_port.number;
	if (!*ret)
		return fm_plan_refuse(err, "the topology does not say which port of '%s' leads to '%s': its link has no number there",
		                      s->name, name_of(p, way.nodes[1]));
	return 0;
}

/* *ret NULL: nothing changes there, or nothing behind it reaches the host. */
static int switch_change(const struct fm_intent_plan *p, const struct fm_net_switch *s, json_t **ret, struct fm_error *err)
{
	struct fm_error why = FM_ERROR_INIT;
	uint32_t source = 0, destination = 0, from = 0, to = 0;

	*ret = NULL;
	if (!find(p, p->m->source, &source) || !find(p, p->m->destination, &destination))
		return fm_plan_refuse(err, "'%s' or '%s' is not a host of the topology", p->m->source, p->m->destination);
	if (port_towards(p, s, destination, &to, &why) < 0) {
		if (why.code == FM_E_NOT_FOUND)
			return 0;
		return fm_error_set(err, why.code, "%s", why.message);
	}
	if (json_is_integer(json_object_get(p->m->known_ports, s->name)))
		from = (uint32_t)json_integer_value(json_object_get(p->m->known_ports, s->name));
	else if (port_towards(p, s, source, &from, &why) < 0)
		return fm_plan_refuse(err, "it is not known where the flow of '%s' leads now: %s", s->name, why.message);
	if (from == to)
		return 0;
	*ret = json_pack("{s:s, s:I, s:I}", "name", s->name, "from_port", (json_int_t)from, "to_port", (json_int_t)to);
	return *ret ? 0 : fm_error_errno(err, ENOMEM, "a flow");
}

/* The same for each of the container's interfaces. action: what is the driver's own; taken. */
static int add_flows(struct fm_intent_plan *p, const char *driver, uint32_t table, uint32_t priority, json_t *action, json_t *switches,
                     struct fm_error *err)
{
	json_auto_t *mine = action, *changes = switches;

	if (!mine || !changes)
		return fm_error_errno(err, ENOMEM, "flows");
	if (json_array_size(changes) == 0)
		return 0;
	if (json_array_size(changes) > FM_MAX_OF_SWITCHES)
		return fm_plan_refuse(err, "%zu switches would have to change together, %u can", json_array_size(changes),
		                      FM_MAX_OF_SWITCHES);
	for (size_t e = 0; e < p->m->n_endpoints; e++) {
		json_t *match = json_pack("{s:s}", "mac", p->m->endpoints[e].mac);
		json_t *a = json_deep_copy(mine);

		if (p->i->vlan)
			json_object_set_new(match, "vlan", json_integer(p->i->vlan));
		json_object_set_new(a, "table", json_integer(table));
		json_object_set_new(a, "priority", json_integer(priority));
		json_object_set_new(a, "cookie",
		                    json_sprintf("0x%llx", (unsigned long long)(FLOW_COOKIE | (fm_plan_mark(p) & ~FLOW_COOKIE_MASK))));
		json_object_set_new(a, "match", match);
		json_object_set(a, "switches", changes);
		if (fm_plan_add(p, FM_INTENT_AT_MANAGER, driver, a, err) < 0)
			return -1;
	}
	return 0;
}

static int openflow_flows(struct fm_intent_plan *p, struct fm_error *err)
{
	const struct fm_net_openflow *o = &p->d->openflow;
	json_auto_t *changes = json_array();
	json_t *change;

	for (size_t n = 0; n < o->n; n++) {
		if (switch_change(p, &o->switches[n], &change, err) < 0)
			return -1;
		if (!change)
			continue;
		json_object_set_new(change, "address", json_string(o->switches[n].address));
		json_array_append_new(changes, change);
	}
	return add_flows(p, "openflow", o->table, o->priority, json_object(), json_incref(changes), err);
}

/* Of the switches that are not spoken to directly. */
static int controller_flows(struct fm_intent_plan *p, const struct fm_net_controller *c, struct fm_error *err)
{
	json_auto_t *changes = json_array();
	json_t *change, *action;

	for (size_t n = 0; n < c->n; n++) {
		unsigned by = controlled_by(p->d, c->switches[n].node);

		if ((by & FM_INTENT_OPENFLOW) && fm_plan_may(p, FM_INTENT_OPENFLOW))
			continue;
		if (switch_change(p, &c->switches[n], &change, err) < 0)
			return -1;
		if (!change)
			continue;
		json_object_set_new(change, "dpid", json_integer((json_int_t)c->switches[n].dpid));
		json_array_append_new(changes, change);
	}
	action = json_pack("{s:s}", "url", c->url);
	if (action && c->ca)
		json_object_set_new(action, "ca", json_string(c->ca));
	if (action && c->unix_socket)
		json_object_set_new(action, "unix_socket", json_string(c->unix_socket));
	return add_flows(p, "rest", c->table, c->priority, action, json_incref(changes), err);
}

/* A switch with flows that may not be changed would go on leading to the source. */
static int check_forbidden(const struct fm_intent_plan *p, const struct fm_net_switch *v, size_t n, struct fm_error *err)
{
	for (size_t i = 0; i < n; i++) {
		unsigned by = controlled_by(p->d, v[i].node);
		json_auto_t *change = NULL;

		if (by & p->i->drivers)
			continue;
		if (switch_change(p, &v[i], &change, err) < 0)
			return -1;
		if (change)
			return fm_plan_refuse(err, "switch '%s' needs %s, which may not be used", v[i].name,
			                      by == FM_INTENT_REST ? "rest" : "openflow");
	}
	return 0;
}

int fm_plan_switches(struct fm_intent_plan *p, struct fm_error *err)
{
	const struct fm_description *d = p->d;

	if (fm_topology_n_nodes(d->topology) == 0)
		return 0;
	if (check_forbidden(p, d->openflow.switches, d->openflow.n, err) < 0)
		return -1;
	if (fm_plan_may(p, FM_INTENT_OPENFLOW) && openflow_flows(p, err) < 0)
		return -1;
	for (size_t i = 0; i < d->n_controllers; i++)
		if (check_forbidden(p, d->controllers[i].switches, d->controllers[i].n, err) < 0 ||
		    (fm_plan_may(p, FM_INTENT_REST) && controller_flows(p, &d->controllers[i], err) < 0))
			return -1;
	return 0;
}

/* ---- ways. Each says whether it can be gone, and if not, adds to `why`. */

static bool can_vxlan(struct fm_intent_plan *p, struct fm_buf *why)
{
	if (!fm_plan_may(p, FM_INTENT_VXLAN)) {
		fm_buf_addf(why, "vxlan may not be used; ");
		return false;
	}
	for (size_t i = 0; i < p->d->n_vxlans && !p->vxlan; i++)
		if (json_object_get(p->d->vxlans[i].hosts, p->m->source) && json_object_get(p->d->vxlans[i].hosts, p->m->destination))
			p->vxlan = &p->d->vxlans[i];
	if (!p->vxlan)
		fm_buf_addf(why, "no vxlan has both; ");
	return p->vxlan != NULL;
}

static bool can_switches(struct fm_intent_plan *p, struct fm_buf *why)
{
	_fm_cleanup_(fm_path_done) struct fm_path way = { 0 };
	struct fm_error e = FM_ERROR_INIT;
	uint32_t source = 0, destination = 0;

	if (fm_topology_n_nodes(p->d->topology) == 0) { /* nothing is known: as without a description */
		if (!fm_plan_may(p, FM_INTENT_BRIDGE))
			fm_buf_addf(why, "bridge may not be used, and no topology is described; ");
		return fm_plan_may(p, FM_INTENT_BRIDGE);
	}
	if (!find(p, p->m->source, &source) || !find(p, p->m->destination, &destination)) {
		fm_buf_addf(why, "'%s' is not a host of the topology; ", find(p, p->m->source, &source) ? p->m->destination : p->m->source);
		return false;
	}
	if (path(p, source, destination, TAKEN_LINKS, 0, &way, &e) < 0)
		fm_buf_addf(why, "through switches: %s; ", e.message);
	else if (check_switches(p, &way, false, &e) < 0)
		fm_buf_addf(why, "%s; ", e.message);
	return e.code == FM_OK;
}

static bool is_covered(const struct fm_intent_plan *p, int family)
{
	for (size_t i = 0; i < p->d->n_routers; i++)
		if (p->d->routers[i].family == family && json_object_get(p->d->routers[i].via, p->m->source) &&
		    json_object_get(p->d->routers[i].via, p->m->destination))
			return true;
	return false;
}

static bool can_routers(struct fm_intent_plan *p, struct fm_buf *why)
{
	const struct fm_description *d = p->d;

	if (!fm_plan_may(p, FM_INTENT_ROUTE)) {
		fm_buf_addf(why, "route may not be used; ");
		return false;
	}
	for (size_t i = 0; i < d->n_routers; i++)
		if (json_object_get(d->routers[i].via, p->m->source) && !json_object_get(d->routers[i].via, p->m->destination)) {
			fm_buf_addf(why, "router '%s' has a next hop to '%s' and none to '%s'; ", d->routers[i].host, p->m->source,
			            p->m->destination);
			return false;
		}
	for (size_t e = 0; e < p->m->n_endpoints; e++)
		for (size_t a = 0; a < p->m->endpoints[e].n_addresses; a++)
			if (!is_covered(p, fm_ip_family(p->m->endpoints[e].addresses[a]))) {
				fm_buf_addf(why, "no router has next hops to both for %s; ", p->m->endpoints[e].addresses[a]);
				return false;
			}
	return true;
}

static bool can_tunnel(struct fm_intent_plan *p, struct fm_buf *why)
{
	const char *from = json_string_value(json_object_get(p->d->tunnels.hosts, p->m->source));
	const char *to = json_string_value(json_object_get(p->d->tunnels.hosts, p->m->destination));

	if (!fm_plan_may(p, FM_INTENT_TUNNEL))
		fm_buf_addf(why, "tunnel may not be used; ");
	else if (!from || !to)
		fm_buf_addf(why, "tunnels have no address of '%s'; ", from ? p->m->destination : p->m->source);
	else if (fm_ip_family(from) != fm_ip_family(to))
		fm_buf_addf(why, "tunnels have addresses of two families for them; ");
	else
		return true;
	return false;
}

/* ---- their actions */

static int add_vxlan(struct fm_intent_plan *p, struct fm_error *err)
{
	const json_t *from = json_object_get(p->vxlan->hosts, p->m->source), *to = json_object_get(p->vxlan->hosts, p->m->destination);
	const char *host;
	json_t *v;

	json_object_foreach((json_t *)p->vxlan->hosts, host, v) /* the macro's iterator wants it changeable, and changes nothing */
	{
		for (size_t e = 0; e < p->m->n_endpoints; e++)
			if (fm_plan_add(p, host, "vxlan",
			                json_pack("{s:s, s:s, s:s, s:s}", "device", p->vxlan->device, "mac", p->m->endpoints[e].mac, "from",
			                          json_string_value(from), "to", json_string_value(to)),
			                err) < 0)
				return -1;
	}
	return 0;
}

static int add_routes(struct fm_intent_plan *p, const struct fm_net_router *r, const char *address, struct fm_error *err)
{
	const char *from = json_string_value(json_object_get(r->via, p->m->source));
	const char *to = json_string_value(json_object_get(r->via, p->m->destination));
	json_t *a;

	if (!from || !to || r->family != fm_ip_family(address) || fm_streq(from, to))
		return 0;
	a = json_pack("{s:s, s:s, s:I}", "address", address, "via", to, "table", (json_int_t)r->table);
	if (a && r->host_routes) /* else it may be there or not: the driver takes it as it finds it */
		json_object_set_new(a, "from_via", json_string(from));
	return fm_plan_add(p, r->host, "route", a, err);
}

static int add_all_routes(struct fm_intent_plan *p, struct fm_error *err)
{
	for (size_t i = 0; i < p->d->n_routers; i++)
		for (size_t e = 0; e < p->m->n_endpoints; e++)
			for (size_t a = 0; a < p->m->endpoints[e].n_addresses; a++)
				if (add_routes(p, &p->d->routers[i], p->m->endpoints[e].addresses[a], err) < 0)
					return -1;
	return 0;
}

static json_t *addresses(const struct fm_intent_plan *p)
{
	json_t *list = json_array();

	for (size_t e = 0; e < p->m->n_endpoints; e++)
		for (size_t a = 0; a < p->m->endpoints[e].n_addresses; a++)
			json_array_append_new(list, json_string(p->m->endpoints[e].addresses[a]));
	return list;
}

int fm_plan_tunnel(struct fm_intent_plan *p, bool back, struct fm_error *err)
{
	_fm_buf_ struct fm_buf why = FM_BUF_INIT;
	json_auto_t *list = addresses(p);
	uint64_t mark = p->m->migration ? fm_hash_str(p->m->migration) : fm_plan_mark(p);

	if (!can_tunnel(p, &why))
		return fm_plan_refuse(err, "%.*s", (int)(why.len - 2), why.data);
	if (json_array_size(list) > TUNNEL_ADDRESSES_MAX)
		return fm_plan_refuse(err, "it has %zu addresses, a tunnel carries %d", json_array_size(list), TUNNEL_ADDRESSES_MAX);
	for (int side = 0; side < 2; side++) {
		const char *here = side ? p->m->destination : p->m->source, *there = side ? p->m->source : p->m->destination;
		const char *local = json_string_value(json_object_get(p->d->tunnels.hosts, here));
		const char *remote = json_string_value(json_object_get(p->d->tunnels.hosts, there));
		json_t *a = json_pack("{s:s, s:o, s:s, s:s, s:I, s:o, s:s}", "side", side ? "destination" : "source", "id",
		                      json_sprintf("%08x", (uint32_t)(mark ^ (mark >> 32))), "local", local, "remote", remote, "port",
		                      (json_int_t)p->d->tunnels.port, "addresses", json_deep_copy(list), "reply", back ? "back" : "direct");

		if (fm_plan_add(p, here, "tunnel", a, err) < 0)
			return -1;
	}
	return 0;
}

int fm_plan_way(struct fm_intent_plan *p, struct fm_error *err)
{
	_fm_buf_ struct fm_buf why = FM_BUF_INIT;
	bool beside = p->i->n_publish >
	              0; /* connections to a published port come to the source's host, and their answers have to go back there */

	if (!fm_plan_moves(p) || p->m->n_endpoints == 0)
		return 0;
	if (fm_streq(p->i->keep, "name"))
		return beside ? fm_plan_tunnel(p, true, err) : 0;
	p->way = can_vxlan(p, &why)      ? FM_WAY_VXLAN
	         : can_switches(p, &why) ? FM_WAY_SWITCHES
	         : can_routers(p, &why)  ? FM_WAY_ROUTERS
	         : can_tunnel(p, &why)   ? FM_WAY_TUNNEL
	                                 : FM_WAY_NONE;
	if (p->way == FM_WAY_NONE)
		return fm_plan_refuse(err, "nothing leads its address from '%s' to '%s': %.*s", p->m->source, p->m->destination,
		                      (int)(why.len - 2), why.data);
	if (beside || p->way == FM_WAY_TUNNEL || (p->way == FM_WAY_ROUTERS && can_tunnel(p, &why)))
		if (fm_plan_tunnel(p, beside, err) < 0)
			return -1;
	switch (p->way) {
	case FM_WAY_VXLAN:
		return add_vxlan(p, err);
	case FM_WAY_SWITCHES:
		return fm_plan_switches(p, err);
	case FM_WAY_ROUTERS:
		return add_all_routes(p, err);
	default:
		return 0;
	}
}

/* ---- what the way has to offer */

/* Without clients and without a move: the host's own links are what everybody has to pass. */
static int check_own_links(const struct fm_intent_plan *p, uint32_t host, struct fm_error *err)
{
	const struct fm_topology *t = p->d->topology;
	uint64_t best = 0;

	for (uint32_t n = 0; n < fm_topology_n_links(t); n++) {
		const struct fm_topology_link *l = fm_topology_link(t, n);
		uint64_t available = fm_topology_link_available(l);

		if (l->up && (l->to == host || (!l->directed && l->from == host)) && available > best)
			best = available;
	}
	if (best >= p->i->min_bandwidth_bytes_per_s)
		return 0;
	return fm_plan_refuse(err, "no link to '%s' has %llu bytes/s available: the widest has %llu", name_of(p, host),
	                      (unsigned long long)p->i->min_bandwidth_bytes_per_s, (unsigned long long)best);
}

/* The nodes that the service is judged from: its clients, else the host that it leaves. */
static size_t judges(const struct fm_intent_plan *p, uint32_t ret[FM_MAX_INTENT_LIST])
{
	if (p->i->n_clients > 0) {
		memcpy(ret, p->i->clients, p->i->n_clients * sizeof(*ret));
		return p->i->n_clients;
	}
	return fm_plan_moves(p) && find(p, p->m->source, &ret[0]);
}

int fm_plan_bandwidth(struct fm_intent_plan *p, struct fm_error *err)
{
	uint32_t from[FM_MAX_INTENT_LIST] = { 0 }, destination = 0;
	size_t n = judges(p, from);

	if (!p->i->min_bandwidth_bytes_per_s)
		return 0;
	if (!find(p, p->m->destination, &destination) || (n == 0 && fm_plan_moves(p)))
		return fm_plan_refuse(err, "'%s' is not a host of the topology: it is not known which bandwidth it has",
		                      n ? p->m->destination : p->m->source);
	for (size_t j = 0; j < n; j++) {
		_fm_cleanup_(fm_path_done) struct fm_path way = { 0 };
		struct fm_error e = FM_ERROR_INIT;

		if (from[j] != destination &&
		    path(p, from[j], destination, THROUGH_ROUTERS | TAKEN_LINKS, p->i->min_bandwidth_bytes_per_s, &way, &e) < 0)
			return fm_plan_refuse(err, "%s", e.message);
	}
	return n ? 0 : check_own_links(p, destination, err);
}

/* One client's way: on links of its own where that is wanted, through switches that do as they are told where that is. */
static int check_isolated(const struct fm_intent_plan *p, uint32_t from, uint32_t destination, struct fm_error *err)
{
	_fm_cleanup_(fm_path_done) struct fm_path way = { 0 };
	struct fm_error e = FM_ERROR_INIT;
	bool told = p->i->vlan || p->i->dedicated_path;

	if (from == destination)
		return 0;
	if (path(p, from, destination, told ? 0 : THROUGH_ROUTERS, 0, &way, &e) < 0)
		return fm_plan_refuse(err,
		                      p->m->n_taken_links ? "no way from '%s' to '%s' that keeps from other services' links: %s"
		                                          : "no way through switches from '%s' to '%s': %s",
		                      name_of(p, from), name_of(p, destination), e.message);
	if (told && check_switches(p, &way, true, &e) < 0)
		return fm_plan_refuse(err, "isolation %s: %s", p->i->isolation, e.message);
	return 0;
}

int fm_plan_isolation(struct fm_intent_plan *p, struct fm_error *err)
{
	bool told = p->i->vlan || p->i->dedicated_path;
	uint32_t from[FM_MAX_INTENT_LIST] = { 0 }, source = 0, destination = 0;
	size_t n = judges(p, from);

	if (!told && p->m->n_taken_links == 0)
		return 0;
	if (told && fm_plan_moves(p) && p->way != FM_WAY_SWITCHES)
		return fm_plan_refuse(err, "isolation %s: its way from '%s' to '%s' is not one of switches alone", p->i->isolation,
		                      p->m->source, p->m->destination);
	if (!find(p, p->m->destination, &destination))
		return told ? fm_plan_refuse(err, "isolation %s: '%s' is not a host of the topology", p->i->isolation, p->m->destination)
		            : 0;
	for (size_t j = 0; j < n; j++)
		if (check_isolated(p, from[j], destination, err) < 0)
			return -1;
	if (!p->i->vlan || !fm_plan_moves(p) || !find(p, p->m->source, &source))
		return 0;
	return check_isolated(p, source, destination, err);
}

int fm_intent_links(const struct fm_description *d, const struct fm_intent *i, const char *host, const uint32_t *taken, size_t n_taken,
                    uint32_t **ret, size_t *ret_n, struct fm_error *err)
{
	const struct fm_intent_move m = { .source = host, .destination = host, .taken_links = taken, .n_taken_links = n_taken };
	struct fm_intent_plan p = { .d = d, .i = i, .m = &m };
	_fm_free_ uint8_t *used = calloc((size_t)fm_topology_n_links(d->topology) + 1, 1);
	_fm_free_ uint32_t *v = calloc((size_t)fm_topology_n_links(d->topology) + 1, sizeof(*v));
	uint32_t destination = 0;
	size_t n = 0;

	if (!used || !v)
		return fm_error_errno(err, ENOMEM, "%u links", fm_topology_n_links(d->topology));
	for (size_t c = 0; c < i->n_clients && find(&p, host, &destination); c++) {
		_fm_cleanup_(fm_path_done) struct fm_path way = { 0 };

		if (i->clients[c] == destination || path(&p, i->clients[c], destination, THROUGH_ROUTERS, 0, &way, NULL) < 0)
			continue;
		for (uint32_t l = 0; l < way.n_links; l++)
			used[way.links[l]] = 1;
	}
	for (uint32_t l = 0; l < fm_topology_n_links(d->topology); l++)
		if (used[l])
			v[n++] = l;
	*ret = FM_TAKE_PTR(v);
	*ret_n = n;
	return 0;
}
