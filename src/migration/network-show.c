/* SPDX-License-Identifier: MIT */
/* network-show.c - the network for people: nodes, links, drivers, paths, intents as messages of the contract. See network.h. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "basic/cleanup.h"
#include "migration/network-internal.h"
#include "network/redirect.h"

/* ---- nodes and links */

static FM_PB(NetworkNode) * add_node(FM_PB(GetNetworkResponse) * r, const char *name, bool is_switch, bool described, bool forwards)
{
	FM_PB(NetworkNode) *node = FM_PB_NEW(NetworkNode, network_node);

	fm_pb_set(&node->name, name);
	fm_pb_set(&node->kind, is_switch ? "switch" : "host");
	node->described = described;
	node->forwards = forwards;
	FM_PB_ADD(r->nodes, r->n_nodes, node);
	return node;
}

static FM_PB(NetworkNode) * find_node(FM_PB(GetNetworkResponse) * r, const char *host)
{
	for (size_t i = 0; i < r->n_nodes; i++)
		if (fm_streq(r->nodes[i]->name, host) && fm_streq(r->nodes[i]->kind, "host"))
			return r->nodes[i];
	return add_node(r, host, false, false, false);
}

/* Field numbers of what was measured, beside what is described. */
static void add_measured(FM_PB(NetworkLink) * p, const struct fm_measured_link *m)
{
	const struct {
		bool is;
		uint32_t number;
	} parts[] = { { m->latency, 7 }, { m->loss, 10 }, { m->utilisation, 11 } };

	p->described_latency_us = m->base.latency_us;
	p->described_loss_ppm = m->base.loss_ppm;
	p->described_utilisation_ppm = m->base.utilisation_ppm;
	for (size_t i = 0; i < FM_ARRAY_SIZE(parts); i++)
		if (parts[i].is)
			FM_PB_ADD(p->measured, p->n_measured, parts[i].number);
	p->measured_unix_ms = p->n_measured ? m->at_unix_ms : 0;
}

static FM_PB(NetworkLink) * new_link(const struct fm_network *n, uint32_t link)
{
	const struct fm_topology *t = n->d->topology;
	const struct fm_topology_link *l = fm_topology_link(t, link);
	FM_PB(NetworkLink) *p = FM_PB_NEW(NetworkLink, network_link);

	fm_pb_set(&p->from, fm_topology_node(t, l->from)->name);
	fm_pb_set(&p->from_port, l->from_port.name);
	p->from_port_number = l->from_port.number;
	fm_pb_set(&p->to, fm_topology_node(t, l->to)->name);
	fm_pb_set(&p->to_port, l->to_port.name);
	p->to_port_number = l->to_port.number;
	p->latency_us = l->m.latency_us;
	p->bandwidth_bytes_per_s = l->m.bandwidth_bytes_per_s;
	p->available_bytes_per_s = fm_topology_link_available(l);
	p->loss_ppm = l->m.loss_ppm;
	p->utilisation_ppm = l->m.utilisation_ppm;
	p->directed = l->directed;
	p->up = l->up;
	add_measured(p, &n->measured[link]);
	return p;
}

static void set_control(FM_PB(GetNetworkResponse) * r, const struct fm_net_switch *s, const char *by, const char *detail)
{
	_fm_free_ char *text = fm_xasprintf("%s %s", by, detail);

	fm_pb_set(&r->nodes[s->node]->control, text); /* the first nodes are the topology's */
}

static void add_described(FM_PB(GetNetworkResponse) * r, const struct fm_network *n)
{
	const struct fm_description *d = n->d;
	const struct fm_topology *t = d->topology;

	for (uint32_t i = 0; i < fm_topology_n_nodes(t); i++) {
		const struct fm_topology_node *node = fm_topology_node(t, i);
		add_node(r, node->name, node->kind == FM_NODE_SWITCH, true, node->forwards);
	}
	for (uint32_t i = 0; i < fm_topology_n_links(t); i++)
		FM_PB_ADD(r->links, r->n_links, new_link(n, i));
	for (size_t c = 0; c < d->n_controllers; c++)
		for (size_t i = 0; i < d->controllers[c].n; i++)
			set_control(r, &d->controllers[c].switches[i], "controller", d->controllers[c].name);
	for (size_t i = 0; i < d->openflow.n; i++)
		set_control(r, &d->openflow.switches[i], "openflow", d->openflow.switches[i].address);
}

static int add_fleet(FM_PB(GetNetworkResponse) * r, struct fm_network *n, struct fm_error *err)
{
	_fm_cleanup_(fm_containers_done) struct containers all = { 0 };
	FM_PB(Host) **hosts = NULL;
	size_t n_hosts = 0;

	if (fm_fleet_hosts(n->fleet, &hosts, &n_hosts, err) < 0)
		return -1;
	for (size_t i = 0; i < n_hosts; i++) {
		fm_pb_set(&find_node(r, hosts[i]->name)->agent, hosts[i]->status);
		fm_pb_free(hosts[i]);
	}
	free(hosts);
	if (fm_network_containers(n, &all, err) < 0)
		return -1;
	for (size_t i = 0; i < all.n; i++) {
		FM_PB(NetworkNode) *node = find_node(r, all.v[i]->host);
		fm_pb_add_string(&node->containers, &node->n_containers, all.v[i]->name);
	}
	return 0;
}

/* ---- drivers */

static size_t n_controlled(const struct fm_description *d)
{
	size_t n = 0;

	for (size_t i = 0; i < d->n_controllers; i++)
		n += d->controllers[i].n;
	return n;
}

/* How many of what the driver needs are described; *ret_what says of what, for people. */
static size_t described(const struct fm_description *d, unsigned driver, const char **ret_what)
{
	switch (driver) {
	case FM_INTENT_OPENFLOW:
		*ret_what = "switches";
		return d->openflow.n;
	case FM_INTENT_REST:
		*ret_what = "switches behind controllers";
		return n_controlled(d);
	case FM_INTENT_VXLAN:
		*ret_what = "VXLANs";
		return d->n_vxlans;
	case FM_INTENT_ROUTE:
		*ret_what = "routers";
		return d->n_routers;
	case FM_INTENT_TUNNEL:
	case FM_INTENT_DNAT: /* answers go back through a tunnel */
		*ret_what = "hosts with tunnels";
		return json_object_size(d->tunnels.hosts);
	case FM_INTENT_DNS:
		*ret_what = "zones";
		return d->n_dns;
	case FM_INTENT_HAPROXY:
		*ret_what = "load balancers";
		return d->n_balancers;
	case FM_INTENT_WEBHOOK:
		*ret_what = "webhooks";
		return d->n_webhooks;
	default:
		*ret_what = "";
		return 0;
	}
}

static void add_driver(FM_PB(GetNetworkResponse) * r, const struct fm_description *d, unsigned driver)
{
	FM_PB(NetworkDriver) *p = FM_PB_NEW(NetworkDriver, network_driver);
	const char *what = NULL, *name = fm_intent_driver_name(driver);
	size_t n = described(d, driver, &what);
	_fm_free_ char *detail = fm_xasprintf("%zu %s", n, what);
	bool built_in = driver == FM_INTENT_BRIDGE || fm_redirect_driver(name);

	fm_pb_set(&p->name, name);
	p->available = built_in && (n > 0 || driver == FM_INTENT_BRIDGE);
	fm_pb_set(&p->detail, !built_in ? "not in this program" : driver == FM_INTENT_BRIDGE ? "switches that learn" : detail);
	FM_PB_ADD(r->drivers, r->n_drivers, p);
}

int fm_network_show(struct fm_network *n, FM_PB(GetNetworkResponse) * *ret, struct fm_error *err)
{
	_fm_pb_ FM_PB(GetNetworkResponse) *r = NULL;

	if (fm_network_require(n, err) < 0)
		return -1;
	r = FM_PB_NEW(GetNetworkResponse, get_network_response);
	fm_network_refresh(n);
	pthread_rwlock_rdlock(&n->lock);
	add_described(r, n);
	for (unsigned driver = 1; driver & FM_INTENT_ALL; driver <<= 1)
		add_driver(r, n->d, driver);
	pthread_rwlock_unlock(&n->lock);
	if (add_fleet(r, n, err) < 0)
		return -1;
	*ret = FM_TAKE_PTR(r);
	return 0;
}

/* ---- paths */

struct question {
	uint32_t from, to;
	struct fm_path_constraints c;
	struct fm_path *v;
	size_t n;
};

static void question_done(struct question *q)
{
	fm_paths_free(q->v, q->n);
}

static int ask(const struct fm_topology *t, const FM_PB(FindPathsRequest) * req, struct question *q, struct fm_error *err)
{
	if (fm_topology_find_node(t, req->from, &q->from, err) < 0 || fm_topology_find_node(t, req->to, &q->to, err) < 0)
		return -1;
	q->c.min_available_bytes_per_s = req->min_bandwidth_bytes_per_s;
	if (!req->widest)
		return fm_topology_k_shortest(t, q->from, q->to, req->alternatives ? req->alternatives : 1, &q->c, &q->v, &q->n, err);
	q->v = calloc(1, sizeof(*q->v));
	if (!q->v)
		return fm_error_errno(err, ENOMEM, "a path");
	if (fm_topology_widest(t, q->from, q->to, &q->c, q->v, err) < 0)
		return -1;
	q->n = 1;
	return 0;
}

static FM_PB(NetworkPath) * new_path(const struct fm_network *n, const struct fm_path *p)
{
	const struct fm_topology *t = n->d->topology;
	FM_PB(NetworkPath) *r = FM_PB_NEW(NetworkPath, network_path);

	for (uint32_t i = 0; i <= p->n_links; i++)
		fm_pb_add_string(&r->nodes, &r->n_nodes, fm_topology_node(t, p->nodes[i])->name);
	for (uint32_t i = 0; i < p->n_links; i++)
		FM_PB_ADD(r->links, r->n_links, new_link(n, p->links[i]));
	r->latency_us = p->latency_us;
	r->available_bytes_per_s = p->available_bytes_per_s;
	r->loss_ppm = p->loss_ppm;
	return r;
}

int fm_network_paths(struct fm_network *n, const FM_PB(FindPathsRequest) * req, FM_PB(FindPathsResponse) * *ret, struct fm_error *err)
{
	_fm_cleanup_(question_done) struct question q = { 0 };
	FM_PB(FindPathsResponse) *r = NULL;

	if (fm_network_require(n, err) < 0)
		return -1;
	if (req->widest && req->alternatives)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "alternatives are the shortest paths: there is one widest");
	fm_network_refresh(n);
	pthread_rwlock_rdlock(&n->lock);
	int rc = ask(n->d->topology, req, &q, err);
	if (rc == 0) {
		r = FM_PB_NEW(FindPathsResponse, find_paths_response);
		for (size_t i = 0; i < q.n; i++)
			FM_PB_ADD(r->paths, r->n_paths, new_path(n, &q.v[i]));
	}
	pthread_rwlock_unlock(&n->lock);
	*ret = r;
	return rc;
}

/* ---- intents */

static void add_lists(const struct fm_description *d, const struct fm_intent *i, FM_PB(Intent) * r)
{
	const char *host;
	json_t *v;

	json_object_foreach((json_t *)i->addresses, host, v) /* the macro's iterator wants it changeable, and changes nothing */
	{
		_fm_free_ char *text = fm_xasprintf("%s=%s", host, json_string_value(v));
		fm_pb_add_string(&r->addresses, &r->n_addresses, text);
	}
	for (size_t c = 0; c < i->n_clients; c++)
		fm_pb_add_string(&r->clients, &r->n_clients, fm_topology_node(d->topology, i->clients[c])->name);
	for (unsigned driver = 1; driver & FM_INTENT_ALL; driver <<= 1)
		if (i->drivers & driver)
			fm_pb_add_string(&r->drivers, &r->n_drivers, fm_intent_driver_name(driver));
	for (size_t p = 0; p < i->n_publish; p++) {
		_fm_free_ char *text = fm_xasprintf("%s/%u=%u", i->publish[p].protocol, i->publish[p].host_port, i->publish[p].port);
		fm_pb_add_string(&r->published, &r->n_published, text);
	}
	for (size_t w = 0; w < i->n_webhooks; w++)
		fm_pb_add_string(&r->webhooks, &r->n_webhooks, i->webhooks[w]->name);
}

static FM_PB(Intent) * new_intent(const struct fm_network *n, const struct fm_intent *i, const struct containers *all)
{
	FM_PB(Intent) *r = FM_PB_NEW(Intent, intent);

	fm_pb_set(&r->service, i->service);
	fm_pb_set(&r->container, i->container);
	fm_pb_set(&r->label, i->label);
	fm_pb_set(&r->keep, i->keep);
	fm_pb_set(&r->name, i->name);
	fm_pb_set(&r->dns, i->dns ? i->dns->name : "");
	fm_pb_set(&r->isolation, i->isolation);
	r->max_gap_ms = i->max_gap_ms;
	r->min_bandwidth_bytes_per_s = i->min_bandwidth_bytes_per_s;
	if (i->balancer.balancer) {
		_fm_free_ char *text =
		        fm_xasprintf("%s %s/%s:%u", i->balancer.name, i->balancer.backend, i->balancer.server, i->balancer.port);
		fm_pb_set(&r->load_balancer, text);
	}
	add_lists(n->d, i, r);
	for (size_t c = 0; c < all->n; c++) {
		const struct fm_intent *its = NULL;
		if (fm_network_intent_of(n, all->v[c], &its, NULL) == 0 && its == i)
			fm_pb_add_string(&r->containers, &r->n_containers, all->v[c]->name);
	}
	return r;
}

int fm_network_intents(struct fm_network *n, FM_PB(ListIntentsResponse) * *ret, struct fm_error *err)
{
	_fm_cleanup_(fm_containers_done) struct containers all = { 0 };
	FM_PB(ListIntentsResponse) * r;

	if (fm_network_require(n, err) < 0 || fm_network_containers(n, &all, err) < 0)
		return -1;
	r = FM_PB_NEW(ListIntentsResponse, list_intents_response);
	pthread_rwlock_rdlock(&n->lock);
	for (size_t i = 0; i < n->d->n_intents; i++)
		FM_PB_ADD(r->intents, r->n_intents, new_intent(n, &n->d->intents[i], &all));
	pthread_rwlock_unlock(&n->lock);
	*ret = r;
	return 0;
}

int fm_network_intent(struct fm_network *n, const char *service, FM_PB(Intent) * *ret, struct fm_error *err)
{
	_fm_cleanup_(fm_containers_done) struct containers all = { 0 };
	FM_PB(Intent) *found = NULL;

	if (fm_network_require(n, err) < 0 || fm_network_containers(n, &all, err) < 0)
		return -1;
	pthread_rwlock_rdlock(&n->lock);
	for (size_t i = 0; i < n->d->n_intents && !found; i++)
		if (fm_streq(n->d->intents[i].service, service))
			found = new_intent(n, &n->d->intents[i], &all);
	pthread_rwlock_unlock(&n->lock);
	if (found) {
		*ret = found;
		return 0;
	}
	(void)fm_error_set(err, FM_E_NOT_FOUND, "no service '%s' has an intent", service);
	return fm_error_hint(err, "'fleximigrate intent list' shows them");
}
