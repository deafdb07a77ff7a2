/* SPDX-License-Identifier: MIT */
/*
 * topology.c - the graph: adding, measuring, finding. See topology.h.
 *
 * Three arrays (nodes, links, ways out of each node), which grow by doubling, and a hash table from names to nodes. FNV-1a can be made to
 * collide, but with FM_MAX_TOPOLOGY_NODES names that costs tens of milliseconds in all.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/id.h"
#include "basic/str.h"
#include "network/topology-internal.h"

#define NAMES_MIN       64
#define PORT_NUMBER_MAX 0xffffff00u /* OpenFlow 1.3.5, A.2.1: OFPP_MAX */

/* Room for one more of n; at most `max` in all. */
static int make_room(void **v, uint32_t n, uint32_t *cap, uint32_t max, size_t size, const char *what, struct fm_error *err)
{
	uint32_t more = *cap ? *cap * 2 : 8;
	void *p;

	if (n >= max)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "more than %u %s", max, what);
	if (n < *cap)
		return 0;
	p = reallocarray(*v, more, size);
	if (!p)
		return fm_error_errno(err, ENOMEM, "%u %s", more, what);
	*v = p;
	*cap = more;
	return 0;
}

static void name_put(uint32_t *names, uint32_t size, const struct fm_topology_node *nodes, uint32_t node)
{
	uint32_t at = (uint32_t)fm_hash_str(nodes[node].name) & (size - 1);

	while (names[at] != FM_NO_NODE)
		at = (at + 1) & (size - 1);
	names[at] = node;
}

/* At most half full. */
static int names_grow(struct fm_topology *t, struct fm_error *err)
{
	uint32_t size = t->names_size ? t->names_size * 2 : NAMES_MIN;
	uint32_t *names;

	if ((t->n_nodes + 1) * 2 <= t->names_size)
		return 0;
	names = malloc(size * sizeof(*names));
	if (!names)
		return fm_error_errno(err, ENOMEM, "%u names", size);
	memset(names, 0xff, size * sizeof(*names));
	for (uint32_t i = 0; i < t->n_nodes; i++)
		name_put(names, size, t->nodes, i);
	free(t->names);
	t->names = names;
	t->names_size = size;
	return 0;
}

static uint32_t name_get(const struct fm_topology *t, const char *name)
{
	uint32_t at;

	if (!t->names_size)
		return FM_NO_NODE;
	for (at = (uint32_t)fm_hash_str(name) & (t->names_size - 1); t->names[at] != FM_NO_NODE; at = (at + 1) & (t->names_size - 1))
		if (fm_streq(t->nodes[t->names[at]].name, name))
			break;
	return t->names[at];
}

struct fm_topology *fm_topology_new(void)
{
	return calloc(1, sizeof(struct fm_topology));
}

void fm_topology_free(struct fm_topology *t)
{
	if (!t)
		return;
	for (uint32_t i = 0; i < t->n_nodes; i++)
		free(t->hops[i].v);
	free(t->nodes);
	free(t->hops);
	free(t->links);
	free(t->names);
	free(t);
}

int fm_topology_add_node(struct fm_topology *t, const char *name, enum fm_node_kind kind, bool forwards, uint32_t *ret_node,
                         struct fm_error *err)
{
	struct fm_topology_node n = { .kind = kind, .forwards = forwards || kind == FM_NODE_SWITCH };
	uint32_t cap_hops = t->cap_nodes;

	if (!fm_name_is_valid(name))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "\"%.80s\" is not a name ([a-zA-Z0-9][a-zA-Z0-9_.-]*, at most %d)",
		                    name ? name : "", FM_MAX_NAME - 1);
	if (kind != FM_NODE_HOST && kind != FM_NODE_SWITCH)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "node \"%s\" is neither a host nor a switch", name);
	if (name_get(t, name) != FM_NO_NODE)
		return fm_error_set(err, FM_E_ALREADY_EXISTS, "there is a host or switch \"%s\" already", name);
	/* two arrays of one capacity: that of the nodes is what counts, and grows last */
	if (make_room((void **)&t->hops, t->n_nodes, &cap_hops, FM_MAX_TOPOLOGY_NODES, sizeof(*t->hops), "hosts and switches", err) < 0 ||
	    make_room((void **)&t->nodes, t->n_nodes, &t->cap_nodes, FM_MAX_TOPOLOGY_NODES, sizeof(*t->nodes), "hosts and switches", err) <
	            0 ||
	    names_grow(t, err) < 0)
		return -1;
	(void)snprintf(n.name, sizeof(n.name), "%s", name);
	t->nodes[t->n_nodes] = n;
	t->hops[t->n_nodes] = (struct hops){ 0 };
	name_put(t->names, t->names_size, t->nodes, t->n_nodes);
	if (ret_node)
		*ret_node = t->n_nodes;
	t->n_nodes++;
	return 0;
}

static int measurement_check(const struct fm_link_measurement *m, struct fm_error *err)
{
	if (m->latency_us > FM_MAX_LINK_LATENCY_US)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a latency of %llu us is more than %d", (unsigned long long)m->latency_us,
		                    FM_MAX_LINK_LATENCY_US);
	if (m->bandwidth_bytes_per_s > FM_MAX_LINK_BYTES_PER_S)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a bandwidth of %llu bytes/s is more than %llu",
		                    (unsigned long long)m->bandwidth_bytes_per_s, FM_MAX_LINK_BYTES_PER_S);
	if (m->loss_ppm > FM_PPM || m->utilisation_ppm > FM_PPM)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s of %u ppm is more than all",
		                    m->loss_ppm > FM_PPM ? "loss" : "utilisation", m->loss_ppm > FM_PPM ? m->loss_ppm : m->utilisation_ppm);
	return 0;
}

static int port_check(const struct fm_topology_port *p, struct fm_error *err)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:@-";
	size_t n = strnlen(p->name, sizeof(p->name));

	if (n >= sizeof(p->name) || strspn(p->name, allowed) != n)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "\"%.31s\" is not the name of a port ([a-zA-Z0-9_./:@-], at most %d)",
		                    p->name, FM_MAX_PORT_NAME - 1);
	if (p->number > PORT_NUMBER_MAX)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "port number %u is more than %u", p->number, PORT_NUMBER_MAX);
	return 0;
}

static bool same_port(const struct fm_topology_port *a, const struct fm_topology_port *b)
{
	return fm_streq(a->name, b->name) && a->number == b->number;
}

/* Is there a link from `from` to `to` between these ports? */
static bool crosses(const struct fm_topology *t, uint32_t from, const struct fm_topology_port *from_port, uint32_t to,
                    const struct fm_topology_port *to_port)
{
	for (uint32_t i = 0; i < t->hops[from].n; i++) {
		const struct hop *h = &t->hops[from].v[i];
		const struct fm_topology_link *l = &t->links[h->link];

		if (h->peer == to && same_port(l->from == from ? &l->from_port : &l->to_port, from_port) &&
		    same_port(l->from == from ? &l->to_port : &l->from_port, to_port))
			return true;
	}
	return false;
}

static int link_check(const struct fm_topology *t, const struct fm_topology_link *l, struct fm_error *err)
{
	if (l->from >= t->n_nodes || l->to >= t->n_nodes)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "there is no node %u", l->from >= t->n_nodes ? l->from : l->to);
	if (l->from == l->to)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a link from \"%s\" to itself", t->nodes[l->from].name);
	if (port_check(&l->from_port, err) < 0 || port_check(&l->to_port, err) < 0 || measurement_check(&l->m, err) < 0)
		return -1;
	if (crosses(t, l->from, &l->from_port, l->to, &l->to_port) ||
	    (!l->directed && crosses(t, l->to, &l->to_port, l->from, &l->from_port)))
		return fm_error_set(err, FM_E_ALREADY_EXISTS, "there is a link between \"%s\" and \"%s\" at these ports already",
		                    t->nodes[l->from].name, t->nodes[l->to].name);
	return 0;
}

int fm_topology_add_link(struct fm_topology *t, const struct fm_topology_link *link, uint32_t *ret_link, struct fm_error *err)
{
	struct hops *out, *back;

	if (link_check(t, link, err) < 0)
		return -1;
	out = &t->hops[link->from];
	back = &t->hops[link->to];
	if (make_room((void **)&t->links, t->n_links, &t->cap_links, FM_MAX_TOPOLOGY_LINKS, sizeof(*t->links), "links", err) < 0 ||
	    make_room((void **)&out->v, out->n, &out->cap, FM_MAX_TOPOLOGY_PORTS, sizeof(*out->v), "links of one node", err) < 0 ||
	    (!link->directed &&
	     make_room((void **)&back->v, back->n, &back->cap, FM_MAX_TOPOLOGY_PORTS, sizeof(*back->v), "links of one node", err) < 0))
		return -1;
	out->v[out->n++] = (struct hop){ .link = t->n_links, .peer = link->to };
	if (!link->directed)
		back->v[back->n++] = (struct hop){ .link = t->n_links, .peer = link->from };
	if (ret_link)
		*ret_link = t->n_links;
	t->links[t->n_links++] = *link;
	return 0;
}

static int link_exists(const struct fm_topology *t, uint32_t link, struct fm_error *err)
{
	return link < t->n_links ? 0 : fm_error_set(err, FM_E_INVALID_ARGUMENT, "there is no link %u", link);
}

int fm_topology_measure(struct fm_topology *t, uint32_t link, const struct fm_link_measurement *m, struct fm_error *err)
{
	if (link_exists(t, link, err) < 0 || measurement_check(m, err) < 0)
		return -1;
	t->links[link].m = *m;
	return 0;
}

int fm_topology_set_up(struct fm_topology *t, uint32_t link, bool up, struct fm_error *err)
{
	if (link_exists(t, link, err) < 0)
		return -1;
	t->links[link].up = up;
	return 0;
}

uint32_t fm_topology_n_nodes(const struct fm_topology *t)
{
	return t->n_nodes;
}

uint32_t fm_topology_n_links(const struct fm_topology *t)
{
	return t->n_links;
}

const struct fm_topology_node *fm_topology_node(const struct fm_topology *t, uint32_t node)
{
	return node < t->n_nodes ? &t->nodes[node] : NULL;
}

const struct fm_topology_link *fm_topology_link(const struct fm_topology *t, uint32_t link)
{
	return link < t->n_links ? &t->links[link] : NULL;
}

uint64_t fm_topology_link_available(const struct fm_topology_link *link)
{
	return link->m.bandwidth_bytes_per_s - link->m.bandwidth_bytes_per_s * link->m.utilisation_ppm / FM_PPM;
}

int fm_topology_find_node(const struct fm_topology *t, const char *name, uint32_t *ret_node, struct fm_error *err)
{
	uint32_t node = name_get(t, name);

	if (node == FM_NO_NODE)
		return fm_error_set(err, FM_E_NOT_FOUND, "there is no host or switch \"%.80s\" in the topology", name);
	*ret_node = node;
	return 0;
}

int fm_topology_find_link(const struct fm_topology *t, const char *from, const char *from_port, const char *to, const char *to_port,
                          uint32_t *ret_link, struct fm_error *err)
{
	uint32_t a = FM_NO_NODE, b = FM_NO_NODE, found = 0, link = 0;

	if (fm_topology_find_node(t, from, &a, err) < 0 || fm_topology_find_node(t, to, &b, err) < 0)
		return -1;
	for (uint32_t i = 0; i < t->hops[a].n; i++) {
		const struct hop *h = &t->hops[a].v[i];
		const struct fm_topology_link *l = &t->links[h->link];

		if (h->peer != b || (from_port && !fm_streq(l->from == a ? l->from_port.name : l->to_port.name, from_port)) ||
		    (to_port && !fm_streq(l->from == a ? l->to_port.name : l->from_port.name, to_port)))
			continue;
		found++;
		link = h->link;
	}
	if (found == 0)
		return fm_error_set(err, FM_E_NOT_FOUND, "no such link leads from \"%s\" to \"%s\"", from, to);
	if (found > 1)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "%u links lead from \"%s\" to \"%s\": the ports tell which", found, from,
		                    to);
	*ret_link = link;
	return 0;
}
