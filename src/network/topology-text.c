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
#include "network/topology-internal.h"

#define VERSION     1
#define MAX_OBJECTS (FM_MAX_TOPOLOGY_NODES + FM_MAX_TOPOLOGY_LINKS + 1)
#define MAX_LISTS   3 /* hosts, switches, links */

/* ---- reading. `place` is "links[3]", or "" for the whole. */

struct place {
	char text[32];
};

static int wrong(const struct place *p, const char *key, const char *what, struct fm_error *err)
{
	return fm_error_set(err, FM_E_INVALID_ARGUMENT, "topology: %s%s%.64s %s", p->text, *p->text ? "." : "", key, what);
}

/* Typing errors, and units that are not ours. */
static int check_members(const json_t *o, const struct place *p, const char *const *known, struct fm_error *err)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)o, key, value) /* the macro's iterator wants it changeable, and changes nothing */
	{
		size_t i = 0;

		while (known[i] && !fm_streq(known[i], key))
			i++;
		if (!known[i])
			return wrong(p, key, "is not a member that is known here", err);
	}
	return 0;
}

/* ret keeps its value when the member is missing and not required. */
static int get_number(const json_t *o, const struct place *p, const char *key, uint64_t max, bool required, uint64_t *ret,
                      struct fm_error *err)
{
	json_t *m = json_object_get(o, key);
	char text[64];

	if (!m)
		return required ? wrong(p, key, "is missing", err) : 0;
	if (!json_is_integer(m) || json_integer_value(m) < 0 || (uint64_t)json_integer_value(m) > max) {
		(void)snprintf(text, sizeof(text), "is not a whole number from 0 to %" PRIu64, max);
		return wrong(p, key, text, err);
	}
	*ret = (uint64_t)json_integer_value(m);
	return 0;
}

static int get_bool(const json_t *o, const struct place *p, const char *key, bool *ret, struct fm_error *err)
{
	json_t *m = json_object_get(o, key);

	if (m && !json_is_boolean(m))
		return wrong(p, key, "is neither true nor false", err);
	if (m)
		*ret = json_is_true(m);
	return 0;
}

static int get_text(const json_t *o, const struct place *p, const char *key, bool required, const char **ret, struct fm_error *err)
{
	json_t *m = json_object_get(o, key);

	if (!m)
		return required ? wrong(p, key, "is missing", err) : 0;
	if (!json_is_string(m))
		return wrong(p, key, "is not a string", err);
	*ret = json_string_value(m);
	return 0;
}

static int read_node(struct fm_topology *t, json_t *o, const struct place *p, enum fm_node_kind kind, struct fm_error *err)
{
	static const char *const host[] = { "name", "forwards", NULL }, *const switch_[] = { "name", NULL };
	const char *name = NULL;
	bool forwards = false;

	if (check_members(o, p, kind == FM_NODE_HOST ? host : switch_, err) < 0 || get_text(o, p, "name", true, &name, err) < 0 ||
	    get_bool(o, p, "forwards", &forwards, err) < 0)
		return -1;
	if (fm_topology_add_node(t, name, kind, forwards, NULL, err) < 0)
		return fm_error_prefix(err, "topology: %s", p->text);
	return 0;
}

static int read_host(struct fm_topology *t, json_t *o, const struct place *p, struct fm_error *err)
{
	return read_node(t, o, p, FM_NODE_HOST, err);
}

static int read_switch(struct fm_topology *t, json_t *o, const struct place *p, struct fm_error *err)
{
	return read_node(t, o, p, FM_NODE_SWITCH, err);
}

/* One end: "from", "from_port", "from_port_number", or the same with "to". */
static int read_end(const struct fm_topology *t, json_t *o, const struct place *p, const char *key, uint32_t *ret_node,
                    struct fm_topology_port *ret_port, struct fm_error *err)
{
	char port_key[16], number_key[24];
	const char *name = NULL, *port = "";
	uint64_t number = 0;

	(void)snprintf(port_key, sizeof(port_key), "%s_port", key);
	(void)snprintf(number_key, sizeof(number_key), "%s_port_number", key);
	if (get_text(o, p, key, true, &name, err) < 0 || get_text(o, p, port_key, false, &port, err) < 0 ||
	    get_number(o, p, number_key, UINT32_MAX, false, &number, err) < 0)
		return -1;
	if (fm_topology_find_node(t, name, ret_node, err) < 0) {
		if (err)
			err->code = FM_E_INVALID_ARGUMENT; /* the description is wrong, nothing was looked for */
		return fm_error_prefix(err, "topology: %s.%s", p->text, key);
	}
	if (strlen(port) >= sizeof(ret_port->name))
		return wrong(p, port_key, "is too long", err);
	(void)snprintf(ret_port->name, sizeof(ret_port->name), "%s", port);
	ret_port->number = (uint32_t)number;
	return 0;
}

static int read_link(struct fm_topology *t, json_t *o, const struct place *p, struct fm_error *err)
{
	static const char *const known[] = { "from",     "from_port",       "from_port_number",
		                             "to",       "to_port",         "to_port_number",
		                             "directed", "latency_us",      "bandwidth_bytes_per_s",
		                             "loss_ppm", "utilisation_ppm", "up",
		                             NULL };
	struct fm_topology_link l = { .up = true };
	uint64_t loss = 0, utilisation = 0;

	if (check_members(o, p, known, err) < 0 || read_end(t, o, p, "from", &l.from, &l.from_port, err) < 0 ||
	    read_end(t, o, p, "to", &l.to, &l.to_port, err) < 0 ||
	    get_number(o, p, "latency_us", FM_MAX_LINK_LATENCY_US, true, &l.m.latency_us, err) < 0 ||
	    get_number(o, p, "bandwidth_bytes_per_s", FM_MAX_LINK_BYTES_PER_S, true, &l.m.bandwidth_bytes_per_s, err) < 0 ||
	    get_number(o, p, "loss_ppm", FM_PPM, false, &loss, err) < 0 ||
	    get_number(o, p, "utilisation_ppm", FM_PPM, false, &utilisation, err) < 0 || get_bool(o, p, "directed", &l.directed, err) < 0 ||
	    get_bool(o, p, "up", &l.up, err) < 0)
		return -1;
	l.m.loss_ppm = (uint32_t)loss;
	l.m.utilisation_ppm = (uint32_t)utilisation;
	if (fm_topology_add_link(t, &l, NULL, err) < 0)
		return fm_error_prefix(err, "topology: %s", p->text);
	return 0;
}

static int read_list(struct fm_topology *t, const json_t *o, const char *key,
                     int (*read)(struct fm_topology *t, json_t *o, const struct place *p, struct fm_error *err), struct fm_error *err)
{
	json_t *list = json_object_get(o, key);
	struct place p = { "" };

	if (list && !json_is_array(list))
		return wrong(&p, key, "is not a list", err);
	for (size_t i = 0; i < json_array_size(list); i++) {
		(void)snprintf(p.text, sizeof(p.text), "%s[%zu]", key, i);
		if (!json_is_object(json_array_get(list, i)))
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "topology: %s is not an object", p.text);
		if (read(t, json_array_get(list, i), &p, err) < 0)
			return -1;
	}
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
	static const char *const known[] = { "version", "hosts", "switches", "links", NULL };
	_fm_cleanup_(fm_topology_freep) struct fm_topology *t = NULL;
	const struct place whole = { "" };
	uint64_t version = 0;

	if (!json_is_object(o))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "topology: it is not an object");
	if (check_members(o, &whole, known, err) < 0 || get_number(o, &whole, "version", UINT32_MAX, true, &version, err) < 0)
		return -1;
	if (version != VERSION)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "topology: version %" PRIu64 "; only %d is known", version, VERSION);
	t = fm_topology_new();
	if (!t)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "topology: no memory");
	if (read_list(t, o, "hosts", read_host, err) < 0 || read_list(t, o, "switches", read_switch, err) < 0 ||
	    read_list(t, o, "links", read_link, err) < 0)
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
