/* SPDX-License-Identifier: MIT */
/*
 * snapshot.c - see snapshot.h.
 *
 * One table a kind says which member of JSON is which member of a struct; reading, writing, copying and "all unknown" go by it, so that none of them can forget one.
 */
#include "decision/snapshot.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/limits.h"
#include "basic/str.h"

#define GROW_MIN 16

enum kind { END, DOUBLE, U64, BOOL, TEXT, LABELS, TEXTS };

struct member {
	const char *name;
	enum kind kind;
	size_t offset;
};

#define MEMBER(type, what, kind)                                                                                                           \
	{                                                                                                                                  \
#what, kind, offsetof(struct type, what)                                                                                   \
	}
#define H(what, kind) MEMBER(fm_snap_host, what, kind)
#define C(what, kind) MEMBER(fm_snap_container, what, kind)
#define L(what, kind) MEMBER(fm_snap_link, what, kind)

static const struct member host_members[] = {
	H(name, TEXT),
	H(online, BOOL),
	H(cordoned, BOOL),
	H(can_restore, BOOL),
	H(cpus, DOUBLE),
	H(cpu_percent, DOUBLE),
	H(cpu_predicted_percent, DOUBLE),
	H(memory_percent, DOUBLE),
	H(cpu_pressure_percent, DOUBLE),
	H(memory_pressure_percent, DOUBLE),
	H(io_pressure_percent, DOUBLE),
	H(disk_utilisation_percent, DOUBLE),
	H(loss_percent, DOUBLE),
	H(latency_ms, DOUBLE),
	H(memory_total_bytes, U64),
	H(memory_available_bytes, U64),
	H(disk_available_bytes, U64),
	H(network_in_bytes_per_s, U64),
	H(network_out_bytes_per_s, U64),
	H(network_capacity_bytes_per_s, U64),
	H(labels, LABELS),
	H(images, TEXTS),
	{ NULL, END, 0 },
};

static const struct member container_members[] = {
	C(name, TEXT),
	C(nested, BOOL),
	C(moving, BOOL),
	C(fixed, BOOL),
	C(cpu_cores, DOUBLE),
	C(cpu_predicted_cores, DOUBLE),
	C(compressibility, DOUBLE),
	C(processes, U64),
	C(memory_bytes, U64),
	C(memory_limit_bytes, U64),
	C(working_set_bytes, U64),
	C(dirty_bytes_per_s, U64),
	C(network_in_bytes_per_s, U64),
	C(network_out_bytes_per_s, U64),
	C(disk_bytes_per_s, U64),
	C(connections, U64),
	C(restarts, U64),
	C(files_bytes, U64),
	C(last_moved_unix_ms, U64),
	C(image, TEXT),
	C(blocker, TEXT),
	C(labels, LABELS),
	{ NULL, END, 0 },
};

static const struct member link_members[] = {
	L(latency_ms, DOUBLE),         L(loss_percent, DOUBLE), L(utilisation_percent, DOUBLE), L(predicted_utilisation_percent, DOUBLE),
	L(bandwidth_bytes_per_s, U64), { NULL, END, 0 },
};

static void *at(const void *base, const struct member *m)
{
	return (char *)base + m->offset;
}

/* ---------------------------------------------------------------- texts and labels */

static void labels_free(struct fm_snap_labels *l)
{
	for (size_t i = 0; i < l->n; i++) {
		free(l->v[i].key);
		free(l->v[i].value);
	}
	free(l->v);
	*l = (struct fm_snap_labels){ 0 };
}

void fm_snap_labels_add(struct fm_snap_labels *l, const char *key, const char *value)
{
	struct fm_snap_label *grown = reallocarray(l->v, l->n + 1, sizeof(*grown));
	if (!grown)
		abort(); /* small, and limited by who reads it: see str.h */
	l->v = grown;
	l->v[l->n++] = (struct fm_snap_label){ fm_xstrdup(key), fm_xstrdup(value) };
}

const char *fm_snap_label(const struct fm_snap_labels *l, const char *key)
{
	for (size_t i = 0; i < l->n; i++)
		if (fm_streq(l->v[i].key, key))
			return l->v[i].value;
	return NULL;
}

/* ---------------------------------------------------------------- by the tables */

static void clear(void *base, const struct member *members)
{
	for (const struct member *m = members; m->name; m++)
		switch (m->kind) {
		case DOUBLE:
			*(double *)at(base, m) = NAN;
			break;
		case U64:
			*(uint64_t *)at(base, m) = FM_UNKNOWN;
			break;
		default:
			break; /* zeroed by who made it */
		}
}

static void release(void *base, const struct member *members)
{
	for (const struct member *m = members; m->name; m++)
		switch (m->kind) {
		case TEXT:
			free(*(char **)at(base, m));
			break;
		case TEXTS:
			fm_strv_free(*(char ***)at(base, m));
			break;
		case LABELS:
			labels_free(at(base, m));
			break;
		default:
			break;
		}
}

/* to is a byte copy of from already: what it owns gets an owner of its own */
static void own(void *to, const struct member *members)
{
	for (const struct member *m = members; m->name; m++)
		switch (m->kind) {
		case TEXT: {
			char **text = at(to, m);
			*text = *text ? fm_xstrdup(*text) : NULL;
			break;
		}
		case TEXTS: {
			char ***texts = at(to, m);
			*texts = *texts ? fm_strv_copy(*texts) : NULL;
			break;
		}
		case LABELS: {
			struct fm_snap_labels borrowed = *(struct fm_snap_labels *)at(to, m);
			struct fm_snap_labels *l = at(to, m);
			*l = (struct fm_snap_labels){ 0 };
			for (size_t i = 0; i < borrowed.n; i++)
				fm_snap_labels_add(l, borrowed.v[i].key, borrowed.v[i].value);
			break;
		}
		default:
			break;
		}
}

static void *append(void **array, size_t *n, size_t size)
{
	if ((*n & (*n - 1)) == 0 && (*n == 0 || *n >= GROW_MIN)) { /* a power of two: full, or empty */
		size_t cap = *n ? *n * 2 : GROW_MIN;
		void *grown = reallocarray(*array, cap, size);
		if (!grown)
			abort();
		*array = grown;
	}
	void *one = (char *)*array + (*n)++ * size;
	memset(one, 0, size);
	return one;
}

/* ---------------------------------------------------------------- building */

struct fm_snapshot *fm_snapshot_new(uint64_t at_unix_ms)
{
	struct fm_snapshot *s = calloc(1, sizeof(*s));
	if (!s)
		abort();
	s->at_unix_ms = at_unix_ms;
	return s;
}

void fm_snapshot_free(struct fm_snapshot *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n_hosts; i++)
		release(&s->hosts[i], host_members);
	for (size_t i = 0; i < s->n_containers; i++)
		release(&s->containers[i], container_members);
	free(s->hosts);
	free(s->containers);
	free(s->links);
	free(s);
}
FM_DEFINE_CLEANUP(struct fm_snapshot *, fm_snapshot_free);

struct fm_snap_host *fm_snapshot_add_host(struct fm_snapshot *s, const char *name)
{
	struct fm_snap_host *h = append((void **)&s->hosts, &s->n_hosts, sizeof(*h));
	clear(h, host_members);
	h->name = fm_xstrdup(name);
	return h;
}

struct fm_snap_container *fm_snapshot_add_container(struct fm_snapshot *s, const char *name, size_t host)
{
	struct fm_snap_container *c = append((void **)&s->containers, &s->n_containers, sizeof(*c));
	clear(c, container_members);
	c->name = fm_xstrdup(name);
	c->host = host;
	c->last_moved_unix_ms = 0;
	return c;
}

struct fm_snap_link *fm_snapshot_add_link(struct fm_snapshot *s, size_t from, size_t to)
{
	struct fm_snap_link *l = append((void **)&s->links, &s->n_links, sizeof(*l));
	clear(l, link_members);
	l->from = from;
	l->to = to;
	return l;
}

struct fm_snapshot *fm_snapshot_copy(const struct fm_snapshot *s)
{
	struct fm_snapshot *copy = fm_snapshot_new(s->at_unix_ms);
	copy->utc_offset_s = s->utc_offset_s;
	for (size_t i = 0; i < s->n_hosts; i++) {
		struct fm_snap_host *h = append((void **)&copy->hosts, &copy->n_hosts, sizeof(*h));
		*h = s->hosts[i];
		own(h, host_members);
	}
	for (size_t i = 0; i < s->n_containers; i++) {
		struct fm_snap_container *c = append((void **)&copy->containers, &copy->n_containers, sizeof(*c));
		*c = s->containers[i];
		own(c, container_members);
	}
	for (size_t i = 0; i < s->n_links; i++)
		*(struct fm_snap_link *)append((void **)&copy->links, &copy->n_links, sizeof(*s->links)) = s->links[i];
	return copy;
}

/* ---------------------------------------------------------------- looking */

size_t fm_snapshot_host(const struct fm_snapshot *s, const char *name)
{
	for (size_t i = 0; i < s->n_hosts; i++)
		if (fm_streq(s->hosts[i].name, name))
			return i;
	return SIZE_MAX;
}

size_t fm_snapshot_container(const struct fm_snapshot *s, const char *name)
{
	for (size_t i = 0; i < s->n_containers; i++)
		if (fm_streq(s->containers[i].name, name))
			return i;
	return SIZE_MAX;
}

const struct fm_snap_link *fm_snapshot_link(const struct fm_snapshot *s, size_t from, size_t to)
{
	const struct fm_snap_link *back = NULL;
	for (size_t i = 0; i < s->n_links; i++) {
		if (s->links[i].from == from && s->links[i].to == to)
			return &s->links[i];
		if (s->links[i].from == to && s->links[i].to == from)
			back = &s->links[i];
	}
	return back;
}

/* ---------------------------------------------------------------- writing */

static json_t *texts_to_json(char *const *texts)
{
	json_t *list = json_array();
	for (char *const *t = texts; *t; t++)
		(void)json_array_append_new(list, json_string(*t));
	return list;
}

static json_t *labels_to_json(const struct fm_snap_labels *l)
{
	json_t *o = json_object();
	for (size_t i = 0; i < l->n; i++)
		(void)json_object_set_new(o, l->v[i].key, json_string(l->v[i].value));
	return o;
}

/* NULL: unknown, empty or false */
static json_t *value_to_json(const void *p, enum kind kind)
{
	switch (kind) {
	case DOUBLE:
		return isfinite(*(const double *)p) ? json_real(*(const double *)p) : NULL;
	case U64:
		return *(const uint64_t *)p <= INT64_MAX ? json_integer((json_int_t) * (const uint64_t *)p) : NULL;
	case BOOL:
		return *(const bool *)p ? json_true() : NULL;
	case TEXT:
		return *(char *const *)p ? json_string(*(char *const *)p) : NULL;
	case TEXTS:
		return *(char **const *)p ? texts_to_json(*(char **const *)p) : NULL;
	case LABELS:
		return ((const struct fm_snap_labels *)p)->n ? labels_to_json(p) : NULL;
	default:
		return NULL;
	}
}

static json_t *to_json(const void *base, const struct member *members)
{
	json_t *o = json_object();
	for (const struct member *m = members; m->name; m++) {
		json_t *value = value_to_json(at(base, m), m->kind);
		if (value)
			(void)json_object_set_new(o, m->name, value);
	}
	return o;
}

char *fm_snapshot_to_json(const struct fm_snapshot *s)
{
	json_t *hosts = json_array();
	json_t *containers = json_array();
	json_t *links = json_array();
	for (size_t i = 0; i < s->n_hosts; i++)
		(void)json_array_append_new(hosts, to_json(&s->hosts[i], host_members));
	for (size_t i = 0; i < s->n_containers; i++) {
		json_t *o = to_json(&s->containers[i], container_members);
		(void)json_object_set_new(o, "host", json_string(s->hosts[s->containers[i].host].name));
		(void)json_array_append_new(containers, o);
	}
	for (size_t i = 0; i < s->n_links; i++) {
		json_t *o = to_json(&s->links[i], link_members);
		(void)json_object_set_new(o, "from", json_string(s->hosts[s->links[i].from].name));
		(void)json_object_set_new(o, "to", json_string(s->hosts[s->links[i].to].name));
		(void)json_array_append_new(links, o);
	}
	json_t *all = json_pack("{s:I, s:i, s:o, s:o, s:o}", "at_unix_ms", (json_int_t)s->at_unix_ms, "utc_offset_s", s->utc_offset_s,
	                        "hosts", hosts, "containers", containers, "links", links);
	char *text = all ? json_dumps(all, JSON_COMPACT) : NULL;
	json_decref(all);
	if (!text)
		abort();
	return text;
}

/* ---------------------------------------------------------------- reading */

struct place {
	const char *list;
	size_t i;
};

static int wrong(const struct place *p, const char *member, const char *what, struct fm_error *err)
{
	return fm_error_set(err, FM_E_INVALID_ARGUMENT, "snapshot: %s[%zu].%s %s", p->list, p->i, member, what);
}

static int read_labels(const json_t *v, const struct place *p, struct fm_snap_labels *ret, struct fm_error *err)
{
	const char *key = NULL;
	json_t *value = NULL;
	if (!json_is_object(v) || json_object_size(v) > FM_MAX_LABELS)
		return wrong(p, "labels", "is no object of at most 64 labels", err);
	json_object_foreach((json_t *)v, key, value)
	{
		if (!json_is_string(value))
			return wrong(p, "labels", "has a value that is no text", err);
		fm_snap_labels_add(ret, key, json_string_value(value));
	}
	return 0;
}

static int read_texts(const json_t *v, const struct place *p, const char *name, char ***ret, struct fm_error *err)
{
	size_t i = 0;
	json_t *text = NULL;
	if (!json_is_array(v))
		return wrong(p, name, "is no list", err);
	char **texts = calloc(json_array_size(v) + 1, sizeof(*texts));
	if (!texts)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "no memory for a list of texts");
	json_array_foreach(v, i, text)
	{
		if (!json_is_string(text)) {
			fm_strv_free(texts);
			return wrong(p, name, "has an entry that is no text", err);
		}
		texts[i] = fm_xstrdup(json_string_value(text));
	}
	*ret = texts;
	return 0;
}

static int read_value(const json_t *v, const struct place *p, const struct member *m, void *to, struct fm_error *err)
{
	switch (m->kind) {
	case DOUBLE:
		if (!json_is_number(v) || json_number_value(v) < 0)
			return wrong(p, m->name, "is no number from 0 on", err);
		*(double *)to = json_number_value(v);
		return 0;
	case U64:
		if (!json_is_integer(v) || json_integer_value(v) < 0)
			return wrong(p, m->name, "is no whole number from 0 on", err);
		*(uint64_t *)to = (uint64_t)json_integer_value(v);
		return 0;
	case BOOL:
		if (!json_is_boolean(v))
			return wrong(p, m->name, "is neither true nor false", err);
		*(bool *)to = json_is_true(v);
		return 0;
	case TEXT:
		if (!json_is_string(v) || json_string_length(v) > FM_MAX_PATH)
			return wrong(p, m->name, "is no text, or a long one", err);
		free(*(char **)to);
		*(char **)to = fm_xstrdup(json_string_value(v));
		return 0;
	case TEXTS:
		return read_texts(v, p, m->name, to, err);
	default:
		return read_labels(v, p, to, err);
	}
}

static bool is_name(const char *name, const char *const *names)
{
	for (; *names; names++)
		if (fm_streq(name, *names))
			return true;
	return false;
}

/* besides: members that the caller reads itself */
static int read_members(const json_t *o, const struct place *p, const struct member *members, const char *const *besides, void *base,
                        struct fm_error *err)
{
	const char *key = NULL;
	json_t *value = NULL;
	json_object_foreach((json_t *)o, key, value)
	{
		const struct member *m = members;
		while (m->name && !fm_streq(m->name, key))
			m++;
		if (!m->name && !is_name(key, besides))
			return wrong(p, key, "is not known", err);
		if (m->name && !json_is_null(value) && read_value(value, p, m, at(base, m), err) < 0)
			return -1;
	}
	return 0;
}

static int check_name(const json_t *o, const struct place *p, const char **ret, struct fm_error *err)
{
	const char *name = json_string_value(json_object_get(o, "name"));
	if (!json_is_object(o) || !name || !*name || strlen(name) > FM_MAX_NAME)
		return wrong(p, "name", "is missing, or no text of 1 to 64 characters", err);
	*ret = name;
	return 0;
}

/* Names to indices while reading: a JSON object is jansson's hash table. */
static int read_hosts(const json_t *list, struct fm_snapshot *s, json_t *index, struct fm_error *err)
{
	static const char *const none[] = { NULL };
	size_t i = 0;
	json_t *o = NULL;
	json_array_foreach(list, i, o)
	{
		const struct place p = { "hosts", i };
		const char *name = NULL;
		if (check_name(o, &p, &name, err) < 0)
			return -1;
		if (json_object_get(index, name))
			return wrong(&p, "name", "is another host's, too", err);
		(void)json_object_set_new(index, name, json_integer((json_int_t)i));
		if (read_members(o, &p, host_members, none, fm_snapshot_add_host(s, name), err) < 0)
			return -1;
	}
	return 0;
}

static int find_host(const json_t *o, const struct place *p, const char *member, const json_t *index, size_t *ret, struct fm_error *err)
{
	const char *name = json_string_value(json_object_get(o, member));
	const json_t *i = name ? json_object_get(index, name) : NULL;
	if (!i)
		return wrong(p, member, "is none of the hosts", err);
	*ret = (size_t)json_integer_value(i);
	return 0;
}

static int read_containers(const json_t *list, struct fm_snapshot *s, const json_t *index, json_t *names, struct fm_error *err)
{
	static const char *const besides[] = { "host", NULL };
	size_t i = 0;
	json_t *o = NULL;
	json_array_foreach(list, i, o)
	{
		const struct place p = { "containers", i };
		const char *name = NULL;
		size_t host = 0;
		if (check_name(o, &p, &name, err) < 0 || find_host(o, &p, "host", index, &host, err) < 0)
			return -1;
		if (json_object_get(names, name))
			return wrong(&p, "name", "is another container's, too", err);
		(void)json_object_set_new(names, name, json_true());
		if (read_members(o, &p, container_members, besides, fm_snapshot_add_container(s, name, host), err) < 0)
			return -1;
	}
	return 0;
}

static int read_links(const json_t *list, struct fm_snapshot *s, const json_t *index, struct fm_error *err)
{
	static const char *const besides[] = { "from", "to", NULL };
	size_t i = 0;
	json_t *o = NULL;
	json_array_foreach(list, i, o)
	{
		const struct place p = { "links", i };
		size_t from = 0, to = 0;
		if (find_host(o, &p, "from", index, &from, err) < 0 || find_host(o, &p, "to", index, &to, err) < 0 ||
		    read_members(o, &p, link_members, besides, fm_snapshot_add_link(s, from, to), err) < 0)
			return -1;
	}
	return 0;
}

static int check_list(const json_t *all, const char *name, size_t max, struct fm_error *err)
{
	const json_t *list = json_object_get(all, name);
	if (list && !json_is_array(list))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "snapshot: %s is no list", name);
	if (json_array_size(list) > max)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "snapshot: %s has %zu entries, at most %zu are read", name,
		                    json_array_size(list), max);
	return 0;
}

static int check_outside(const json_t *all, struct fm_error *err)
{
	static const char *const known[] = { "at_unix_ms", "utc_offset_s", "hosts", "containers", "links", NULL };
	const char *key = NULL;
	json_t *value = NULL;
	if (!json_is_object(all))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "snapshot: it is no JSON object");
	json_object_foreach((json_t *)all, key, value) if (!is_name(key, known)) return fm_error_set(err, FM_E_INVALID_ARGUMENT,
	                                                                                             "snapshot: %s is not known", key);
	const json_t *at_ms = json_object_get(all, "at_unix_ms");
	const json_t *offset = json_object_get(all, "utc_offset_s");
	if (at_ms && (!json_is_integer(at_ms) || json_integer_value(at_ms) < 0))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "snapshot: at_unix_ms is no whole number from 0 on");
	if (offset && (!json_is_integer(offset) || llabs(json_integer_value(offset)) > 86400))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "snapshot: utc_offset_s is no whole number from -86400 to 86400");
	return check_list(all, "hosts", FM_MAX_HOSTS, err) < 0 || check_list(all, "containers", FM_MAX_SNAPSHOT_CONTAINERS, err) < 0 ||
	                       check_list(all, "links", FM_MAX_SNAPSHOT_LINKS, err) < 0
	               ? -1
	               : 0;
}

static void json_freep(json_t **j)
{
	json_decref(*j);
}
#define _json_ _fm_cleanup_(json_freep)

int fm_snapshot_parse(const char *text, size_t len, struct fm_snapshot **ret, struct fm_error *err)
{
	json_error_t why;
	if (len > FM_MAX_SNAPSHOT_BYTES)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "snapshot: %zu bytes are too many", len);
	_json_ json_t *all = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
	if (!all)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "snapshot: line %d: %s", why.line, why.text);
	if (check_outside(all, err) < 0)
		return -1;
	_json_ json_t *index = json_object();
	_json_ json_t *names = json_object();
	_fm_cleanup_(fm_snapshot_freep) struct fm_snapshot *s =
	        fm_snapshot_new((uint64_t)json_integer_value(json_object_get(all, "at_unix_ms")));
	s->utc_offset_s = (int)json_integer_value(json_object_get(all, "utc_offset_s"));
	if (read_hosts(json_object_get(all, "hosts"), s, index, err) < 0 ||
	    read_containers(json_object_get(all, "containers"), s, index, names, err) < 0 ||
	    read_links(json_object_get(all, "links"), s, index, err) < 0)
		return -1;
	*ret = FM_TAKE_PTR(s);
	return 0;
}
