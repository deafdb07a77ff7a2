/* SPDX-License-Identifier: MIT */
/*
 * topology-text.c - JSON in and out, Graphviz out. See topology.h.
 *
 * The text is an outsider's. jansson makes some hundred bytes of every bracket and nests up to 2048, so the brackets are counted first: a
 * topology has no more of them than nodes and links.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "basic/str.h"
#include "network/fields.h"
#include "network/topology-internal.h"

#define VERSION     1
#define MAX_OBJECTS (FM_MAX_TOPOLOGY_NODES + FM_MAX_TOPOLOGY_LINKS + 1)
#define MAX_LISTS   3 /* hosts, switches, links */

/* ---- reading ---- */

static int read_node(struct fm_topology *t, const json_t *o, const struct fm_place *at, enum fm_node_kind kind, struct fm_error *err)
{
	struct raw {
		const char *name;
		bool forwards;
	} raw = { 0 };
	static const struct fm_field fields[] = {
		{ FM_FIELD(struct raw, name), .required = true },
		{ FM_FIELD(struct raw, forwards), .type = FM_FIELD_BOOL },
		{ 0 },
	};

	if (kind == FM_NODE_SWITCH && json_object_get(o, "forwards"))
		return fm_field_wrong(at, "forwards", "is not a member that is known here", err);
	if (fm_fields_read(o, at, fields, &raw, err) < 0)
		return -1;
	if (fm_topology_add_node(t, raw.name, kind, raw.forwards, NULL, err) < 0)
		return fm_error_prefix(err, "%s: %s", at->who, at->path);
	return 0;
}

static int read_host(void *userdata, size_t i, const json_t *o, const struct fm_place *at, struct fm_error *err)
{
	return read_node(userdata, o, at, FM_NODE_HOST, err);
}

static int read_switch(void *userdata, size_t i, const json_t *o, const struct fm_place *at, struct fm_error *err)
{
	return read_node(userdata, o, at, FM_NODE_SWITCH, err);
}

static int read_port_name(const char *text, void *ret, struct fm_error *err)
{
	return fm_snprintf(ret, sizeof(((struct fm_topology_port *)NULL)->name), err, "%s", text);
}

static int read_link(void *userdata, size_t i, const json_t *o, const struct fm_place *at, struct fm_error *err)
{
	struct raw {
		struct fm_topology_link l;
		const char *from, *to;
	} raw = { .l.up = true };
#define L(member)    .offset = offsetof(struct raw, l.member)
#define PORT(member) .max = sizeof(raw.l.member.name) - 1, .parse = read_port_name, .empty = true, L(member.name)
	static const struct fm_field fields[] = {
		{ FM_FIELD(struct raw, from), .required = true },
		{ .name = "from_port", PORT(from_port) },
		{ .name = "from_port_number", .type = FM_FIELD_U32, L(from_port.number) },
		{ FM_FIELD(struct raw, to), .required = true },
		{ .name = "to_port", PORT(to_port) },
		{ .name = "to_port_number", .type = FM_FIELD_U32, L(to_port.number) },
		{ .name = "latency_us", .type = FM_FIELD_U64, .max = FM_MAX_LINK_LATENCY_US, L(m.latency_us), .required = true },
		{ .name = "bandwidth_bytes_per_s",
		  .type = FM_FIELD_U64,
		  .max = FM_MAX_LINK_BYTES_PER_S,
		  L(m.bandwidth_bytes_per_s),
		  .required = true },
		{ .name = "loss_ppm", .type = FM_FIELD_U32, .max = FM_PPM, L(m.loss_ppm) },
		{ .name = "utilisation_ppm", .type = FM_FIELD_U32, .max = FM_PPM, L(m.utilisation_ppm) },
		{ .name = "directed", .type = FM_FIELD_BOOL, L(directed) },
		{ .name = "up", .type = FM_FIELD_BOOL, L(up) },
		{ 0 },
	};
#undef L
#undef PORT
	struct fm_topology *t = userdata;

	if (fm_fields_read(o, at, fields, &raw, err) < 0)
		return -1;
	if (fm_topology_find_node(t, raw.from, &raw.l.from, err) < 0)
		return fm_field_error(at, "from", err);
	if (fm_topology_find_node(t, raw.to, &raw.l.to, err) < 0)
		return fm_field_error(at, "to", err);
	if (fm_topology_add_link(t, &raw.l, NULL, err) < 0)
		return fm_error_prefix(err, "%s: %s", at->who, at->path);
	return 0;
}

static int check_size(const char *text, size_t n, struct fm_error *err)
{
	size_t objects = 0, lists = 0;

	if (n > FM_MAX_TOPOLOGY_BYTES)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "topology: %zu bytes are more than %u", n, FM_MAX_TOPOLOGY_BYTES);
	for (size_t i = 0; i < n; i++) {
		objects += text[i] == '{';
		lists += text[i] == '[';
	}
	if (objects > MAX_OBJECTS)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "topology: %zu objects are more than the %d of the largest one", objects,
		                    MAX_OBJECTS);
	if (lists > MAX_LISTS)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT,
		                    "topology: %zu lists; there are three, \"hosts\", \"switches\" and \"links\"", lists);
	return 0;
}

int fm_topology_from_json(const json_t *o, struct fm_topology **ret, struct fm_error *err)
{
	struct raw {
		uint32_t version;
		const json_t *hosts, *switches, *links;
	} raw = { 0 };
	static const struct fm_field fields[] = {
		{ FM_FIELD(struct raw, version), .type = FM_FIELD_U32, .required = true },
		{ FM_FIELD(struct raw, hosts), .type = FM_FIELD_LIST },
		{ FM_FIELD(struct raw, switches), .type = FM_FIELD_LIST },
		{ FM_FIELD(struct raw, links), .type = FM_FIELD_LIST },
		{ 0 },
	};
	_fm_cleanup_(fm_topology_freep) struct fm_topology *t = NULL;
	const struct fm_place at = { .who = "topology" };

	if (fm_fields_read(o, &at, fields, &raw, err) < 0)
		return -1;
	if (raw.version != VERSION)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "topology: version %u; only %d is known", raw.version, VERSION);
	t = fm_topology_new();
	if (!t)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "topology: no memory");
	if (fm_fields_each(raw.hosts, &at, "hosts", read_host, t, err) < 0 ||
	    fm_fields_each(raw.switches, &at, "switches", read_switch, t, err) < 0 ||
	    fm_fields_each(raw.links, &at, "links", read_link, t, err) < 0)
		return -1;
	*ret = FM_TAKE_PTR(t);
	return 0;
}

int fm_topology_parse(const char *text, size_t n, struct fm_topology **ret, struct fm_error *err)
{
	_fm_cleanup_(json_decrefp) json_t *o = NULL;
	json_error_t e;

	if (check_size(text, n, err) < 0)
		return -1;
	o = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
	if (!o)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "topology: line %d, column %d: %s", e.line, e.column, e.text);
	return fm_topology_from_json(o, ret, err);
}

/* ---- writing. No name has a character that would need an escape. */

static const char *boolean(bool b)
{
	return b ? "true" : "false";
}

static void write_nodes(struct fm_buf *b, const struct fm_topology *t, enum fm_node_kind kind)
{
	const char *separator = "\n";

	for (uint32_t i = 0; i < t->n_nodes; i++) {
		if (t->nodes[i].kind != kind)
			continue;
		fm_buf_addf(b, "%s    {\"name\": \"%s\"", separator, t->nodes[i].name);
		if (kind == FM_NODE_HOST)
			fm_buf_addf(b, ", \"forwards\": %s", boolean(t->nodes[i].forwards));
		fm_buf_addf(b, "}");
		separator = ",\n";
	}
}

static void write_end(struct fm_buf *b, const struct fm_topology *t, const char *key, uint32_t node, const struct fm_topology_port *p)
{
	fm_buf_addf(b, "\"%s\": \"%s\", \"%s_port\": \"%s\", \"%s_port_number\": %u, ", key, t->nodes[node].name, key, p->name, key,
	            p->number);
}

char *fm_topology_to_json(const struct fm_topology *t)
{
	struct fm_buf b = FM_BUF_INIT;

	fm_buf_addf(&b, "{\n  \"version\": %d,\n  \"hosts\": [", VERSION);
	write_nodes(&b, t, FM_NODE_HOST);
	fm_buf_addf(&b, "\n  ],\n  \"switches\": [");
	write_nodes(&b, t, FM_NODE_SWITCH);
	fm_buf_addf(&b, "\n  ],\n  \"links\": [");
	for (uint32_t i = 0; i < t->n_links; i++) {
		const struct fm_topology_link *l = &t->links[i];

		fm_buf_addf(&b, "%s\n    {", i ? "," : "");
		write_end(&b, t, "from", l->from, &l->from_port);
		write_end(&b, t, "to", l->to, &l->to_port);
		fm_buf_addf(&b,
		            "\"latency_us\": %" PRIu64 ", \"bandwidth_bytes_per_s\": %" PRIu64
		            ", \"loss_ppm\": %u, \"utilisation_ppm\": %u, "
		            "\"directed\": %s, \"up\": %s}",
		            l->m.latency_us, l->m.bandwidth_bytes_per_s, l->m.loss_ppm, l->m.utilisation_ppm, boolean(l->directed),
		            boolean(l->up));
	}
	fm_buf_addf(&b, "\n  ]\n}\n");
	return b.data;
}

char *fm_topology_to_dot(const struct fm_topology *t)
{
	struct fm_buf b = FM_BUF_INIT;

	fm_buf_addf(&b, "digraph topology {\n");
	for (uint32_t i = 0; i < t->n_nodes; i++)
		fm_buf_addf(&b, "  \"%s\" [shape=%s];\n", t->nodes[i].name, t->nodes[i].kind == FM_NODE_HOST ? "box" : "ellipse");
	for (uint32_t i = 0; i < t->n_links; i++) {
		const struct fm_topology_link *l = &t->links[i];

		fm_buf_addf(&b,
		            "  \"%s\" -> \"%s\" [taillabel=\"%s\", headlabel=\"%s\", label=\"%" PRIu64 " us, %" PRIu64
		            " bytes/s available\", dir=%s, style=%s];\n",
		            t->nodes[l->from].name, t->nodes[l->to].name, l->from_port.name, l->to_port.name, l->m.latency_us,
		            fm_topology_link_available(l), l->directed ? "forward" : "none", l->up ? "solid" : "dashed");
	}
	fm_buf_addf(&b, "}\n");
	return b.data;
}
