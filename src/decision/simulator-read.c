/* SPDX-License-Identifier: MIT */
/* simulator-read.c - a scenario from a document, every mistake with its place; see simulator.h, docs/SIMULATE.md. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "basic/str.h"
#include "decision/memory.h"
#include "decision/simulator-internal.h"

#define MINUTE_MS   60000u
#define HOUR_MS     3600000u
#define DAY_MS      86400000u
#define YEARS_MS    (3660ull * DAY_MS)
#define START_MS    1768176000000ull /* Monday, 12 January 2026 */
#define MOST_CORES  1e6
#define MOST_BYTES  1e15 /* sums are exact in a double */
#define SHORTEST_MS 1000 /* of a predictor's step, and so of ours */

struct reader {
	const struct fm_document *d;
	struct fm_error *err;
	struct fm_scenario *s;
};

/* ---------------------------------------------------------------- members by a table */

enum field_kind { NUMBER, COUNT, SIZE, TIME, TEXT, FLAG, RANGE, SIZES, LATER };
struct field {
	const char *name;
	enum field_kind kind;
	size_t offset;
	double min, max;
};
#define FIELDS_MAX 32

static int wrong(const struct reader *r, const json_t *o, const char *key, const char *what)
{
	return fm_document_error(r->d, fm_document_member_place(r->d, o, key), r->err, "'%s' has to be %s", key, what);
}

static int beyond(const struct reader *r, const json_t *o, const struct field *f)
{
	return fm_document_error(r->d, fm_document_member_place(r->d, o, f->name), r->err, "'%s' has to be from %g to %g%s", f->name,
	                         f->kind == TIME ? f->min / 1000 : f->min, f->kind == TIME ? f->max / 1000 : f->max,
	                         f->kind == TIME                       ? " seconds"
	                         : f->kind == SIZE || f->kind == SIZES ? " bytes"
	                                                               : "");
}

static bool to_number(const json_t *v, double *ret)
{
	*ret = json_number_value(v);
	return json_is_number(v);
}

static bool to_size(const json_t *v, double *ret)
{
	uint64_t bytes = 0;
	if (json_is_string(v) && fm_parse_bytes(json_string_value(v), &bytes, NULL) == 0)
		*ret = (double)bytes;
	else if (json_is_integer(v))
		*ret = (double)json_integer_value(v);
	else
		return false;
	return true;
}

/* As everywhere, and days: "7d" */
static bool to_time(const json_t *v, double *ret)
{
	uint64_t ms = 0;
	const char *text = json_string_value(v);
	if (json_is_number(v)) {
		*ret = json_number_value(v) * 1000;
		return true;
	}
	if (!text)
		return false;
	size_t n = strlen(text);
	if (n >= 2 && n < 8 && text[n - 1] == 'd') {
		char days[8] = "";
		memcpy(days, text, n - 1);
		if (fm_parse_u64(days, &ms, NULL) < 0)
			return false;
		*ret = (double)ms * DAY_MS;
		return true;
	}
	if (fm_parse_duration_ms(text, &ms, NULL) < 0)
		return false;
	*ret = (double)ms;
	return true;
}

static int read_pair(const struct reader *r, const json_t *o, const struct field *f, const json_t *v, double pair[2])
{
	bool (*to)(const json_t *, double *) = f->kind == SIZES ? to_size : to_number;
	bool list = json_is_array(v);
	if (list ? json_array_size(v) != 2 || !to(json_array_get(v, 0), &pair[0]) || !to(json_array_get(v, 1), &pair[1]) : !to(v, &pair[0]))
		return wrong(r, o, f->name, f->kind == SIZES ? "a size like 512M, or two of them, [from, to]" : "a number, or [from, to]");
	if (!list)
		pair[1] = pair[0];
	if (!(pair[0] >= f->min && pair[1] <= f->max))
		return beyond(r, o, f);
	return pair[0] <= pair[1] ? 0 : wrong(r, o, f->name, "[from, to] with the smaller one first");
}

static int read_number(const struct reader *r, const json_t *o, const struct field *f, const json_t *v, double *ret)
{
	if (f->kind == NUMBER && !to_number(v, ret))
		return wrong(r, o, f->name, "a number");
	if (f->kind == COUNT && (!json_is_integer(v) || !to_number(v, ret)))
		return wrong(r, o, f->name, "a whole number");
	if (f->kind == SIZE && !to_size(v, ret))
		return wrong(r, o, f->name, "a size like 512M");
	if (f->kind == TIME && !to_time(v, ret))
		return wrong(r, o, f->name, "a time like 90s, 5m, 12h or 7d");
	return *ret >= f->min && *ret <= f->max ? 0 : beyond(r, o, f);
}

static int read_field(const struct reader *r, const json_t *o, const struct field *f, const json_t *v, void *base)
{
	void *to = (char *)base + f->offset;
	double pair[2] = { 0 };
	if (f->kind == FLAG) {
		if (!json_is_boolean(v))
			return wrong(r, o, f->name, "true or false");
		*(bool *)to = json_is_true(v);
	} else if (f->kind == TEXT) {
		if (!json_is_string(v) || json_string_length(v) >= FM_MAX_PATH || !json_string_length(v))
			return wrong(r, o, f->name, "a text");
		*(char **)to = fm_xstrdup(json_string_value(v));
	} else if (f->kind == RANGE || f->kind == SIZES) {
		if (read_pair(r, o, f, v, pair) < 0)
			return -1;
		for (unsigned i = 0; i < 2; i++)
			if (f->kind == RANGE)
				((double *)to)[i] = pair[i];
			else
				((uint64_t *)to)[i] = (uint64_t)pair[i];
	} else if (f->kind != LATER) {
		if (read_number(r, o, f, v, &pair[0]) < 0)
			return -1;
		if (f->kind == NUMBER)
			*(double *)to = pair[0];
		else
			*(uint64_t *)to = (uint64_t)pair[0];
	}
	return 0;
}

/* All members of o, which has to be a mapping; what is not there stays as it is. The table ends with name NULL. */
static int read_fields(const struct reader *r, const json_t *o, struct fm_document_place at, const char *what, const struct field *table,
                       void *base)
{
	const char *key = NULL, *names[FIELDS_MAX + 1] = { NULL };
	json_t *v = NULL;
	if (!json_is_object(o))
		return fm_document_error(r->d, at, r->err, "%s has to be a mapping", what);
	for (size_t i = 0; table[i].name && i < FIELDS_MAX; i++)
		names[i] = table[i].name;
	json_object_foreach((json_t *)o, key, v)
	{
		size_t i = 0;
		while (table[i].name && !fm_streq(table[i].name, key))
			i++;
		if (!table[i].name) {
			const char *best = fm_nearest_name(key, names);
			return fm_document_error(r->d, fm_document_key_place(r->d, o, key), r->err, "%s has no member '%.64s'%s%s%s", what,
			                         key, best ? "; is '" : "", best ? best : "", best ? "' meant?" : "");
		}
		if (read_field(r, o, &table[i], v, base) < 0)
			return -1;
	}
	return 0;
}

static int read_section(const struct reader *r, const json_t *o, const char *key, const struct field *table, void *base)
{
	const json_t *v = json_object_get(o, key);
	return v ? read_fields(r, v, fm_document_member_place(r->d, o, key), key, table, base) : 0;
}

static int read_choice(const struct reader *r, const json_t *o, const char *key, const char *const *names, unsigned *ret)
{
	const json_t *v = json_object_get(o, key);
	char all[160] = "one of";
	if (!v)
		return 0;
	for (unsigned i = 0; names[i]; i++) {
		size_t at = strlen(all);
		if (fm_streq(json_string_value(v), names[i])) {
			*ret = i;
			return 0;
		}
		(void)snprintf(all + at, sizeof(all) - at, "%s %s", i ? "," : "", names[i]);
	}
	return wrong(r, o, key, all);
}

static int read_labels(const struct reader *r, const json_t *o, struct fm_snap_labels *ret)
{
	const json_t *labels = json_object_get(o, "labels");
	const char *key = NULL;
	json_t *v = NULL;
	if (!labels)
		return 0;
	if (!json_is_object(labels) || json_object_size(labels) > FM_MAX_LABELS)
		return wrong(r, o, "labels", "a mapping of at most 64 labels");
	json_object_foreach((json_t *)labels, key, v)
	{
		if (!json_is_string(v) || json_string_length(v) >= FM_MAX_PATH)
			return wrong(r, labels, key, "a text: labels are");
		fm_snap_labels_add(ret, key, json_string_value(v));
	}
	return 0;
}

static size_t index_of(char ***v, const char *name)
{
	size_t i = 0, n = fm_strv_len(*v);
	while (*v && i < n && !fm_streq((*v)[i], name))
		i++;
	if (i == n)
		fm_strv_add(v, name);
	return i;
}

/* ---------------------------------------------------------------- groups */

static const json_t *list_of(const struct reader *r, const json_t *o, const char *key, size_t most, int *rc)
{
	const json_t *list = json_object_get(o, key);
	*rc = 0;
	if (list && !json_is_array(list))
		*rc = wrong(r, o, key, "a list");
	else if (json_array_size(list) > most)
		*rc = fm_error_set(r->err, FM_E_RESOURCE_EXHAUSTED, "%s: '%s' has more than %zu entries", fm_document_name(r->d), key,
		                   most);
	return list;
}

/* The longest name of the group has to be one. */
static int check_name(const struct reader *r, const json_t *o, struct fm_document_place at, const char *name, uint64_t count)
{
	if (!name)
		return fm_document_error(r->d, at, r->err, "a group without 'name'");
	_fm_free_ char *last = count ? fm_xasprintf("%s-%llu", name, (unsigned long long)count) : fm_xstrdup(name);
	return fm_name_is_valid(last) ? 0 : wrong(r, o, "name", "1 to 63 letters, digits, _ . - with its number");
}

static int read_host_group(const struct reader *r, const json_t *o, struct fm_document_place at, struct sim_hosts *h)
{
	static const struct field table[] = { { "name", TEXT, offsetof(struct sim_hosts, name), 0, 0 },
		                              { "count", COUNT, offsetof(struct sim_hosts, count), 1, FM_MAX_HOSTS },
		                              { "cpus", NUMBER, offsetof(struct sim_hosts, cpus), 0.01, MOST_CORES },
		                              { "memory", SIZE, offsetof(struct sim_hosts, memory_bytes), 1, MOST_BYTES },
		                              { "network", SIZE, offsetof(struct sim_hosts, network_bytes_per_s), 1000, 1e13 },
		                              { "latency_ms", NUMBER, offsetof(struct sim_hosts, latency_ms), 0, 60000 },
		                              { "cost", NUMBER, offsetof(struct sim_hosts, cost), 0, 1e9 },
		                              { "labels", LATER, 0, 0, 0 },
		                              { 0 } };
	*h = (struct sim_hosts){
		.cpus = 16, .memory_bytes = 64ull << 30, .network_bytes_per_s = FM_PLAN_LINK_BYTES_PER_S, .latency_ms = 0.2, .cost = NAN
	};
	if (read_fields(r, o, at, "a group of hosts", table, h) < 0 || check_name(r, o, at, h->name, h->count) < 0)
		return -1;
	if (!isnan(h->cost)) {
		_fm_free_ char *cost = fm_xasprintf("%g", h->cost);
		fm_snap_labels_add(&h->labels, "fleximigrate.cost", cost);
	}
	return read_labels(r, o, &h->labels);
}

static int read_cpu(const struct reader *r, const json_t *o, struct sim_cpu *c)
{
	static const char *const kinds[] = { "constant", "sine", "walk", "bursts", "trace", NULL };
	static const struct field table[] = { { "kind", LATER, 0, 0, 0 },
		                              { "cores", NUMBER, offsetof(struct sim_cpu, cores), 0, MOST_CORES },
		                              { "amplitude", NUMBER, offsetof(struct sim_cpu, amplitude), 0, MOST_CORES },
		                              { "deviation", NUMBER, offsetof(struct sim_cpu, deviation), 0, MOST_CORES },
		                              { "peak", NUMBER, offsetof(struct sim_cpu, peak), 0, MOST_CORES },
		                              { "scale", NUMBER, offsetof(struct sim_cpu, scale), 0, 1e12 },
		                              { "noise", NUMBER, offsetof(struct sim_cpu, noise), 0, 10 },
		                              { "spread", RANGE, offsetof(struct sim_cpu, spread), 0, 1000 },
		                              { "min", NUMBER, offsetof(struct sim_cpu, min), 0, MOST_CORES },
		                              { "max", NUMBER, offsetof(struct sim_cpu, max), 0, MOST_CORES },
		                              { "period", TIME, offsetof(struct sim_cpu, period_ms), 1000, YEARS_MS },
		                              { "on", TIME, offsetof(struct sim_cpu, on_ms), 1000, YEARS_MS },
		                              { "off", TIME, offsetof(struct sim_cpu, off_ms), 1000, YEARS_MS },
		                              { "shift", LATER, 0, 0, 0 },
		                              { "file", LATER, 0, 0, 0 },
		                              { 0 } };
	static const struct field shift = { "shift", TIME, offsetof(struct sim_cpu, shift_ms), 0, YEARS_MS };
	const json_t *v = json_object_get(o, "cpu"), *when = json_object_get(v, "shift");
	struct fm_document_place at = fm_document_member_place(r->d, o, "cpu");
	unsigned kind = SIM_CONSTANT;
	*c = (struct sim_cpu){
		.scale = 0.01, .spread = { 1, 1 }, .max = MOST_CORES, .period_ms = DAY_MS, .on_ms = 10 * MINUTE_MS, .off_ms = 50 * MINUTE_MS
	};
	if (json_is_number(v)) {
		c->cores = json_number_value(v);
		return c->cores >= 0 && c->cores <= MOST_CORES ? 0 : wrong(r, o, "cpu", "cores, not below 0, or a mapping");
	}
	if (!v)
		return fm_document_error(r->d, fm_document_key_place(r->d, o, "name"), r->err, "a group of containers without 'cpu'");
	if (read_fields(r, v, at, "cpu", table, c) < 0 || read_choice(r, v, "kind", kinds, &kind) < 0)
		return -1;
	c->kind = (enum sim_cpu_kind)kind;
	c->shift_random = fm_streq(json_string_value(when), "random");
	if (when && !c->shift_random && read_field(r, v, &shift, when, c) < 0)
		return -1;
	if (c->min > c->max)
		return wrong(r, v, "min", "less than 'max'");
	const char *file = json_string_value(json_object_get(v, "file"));
	if ((kind == SIM_TRACE) != (file != NULL) || (file && (!file[0] || strlen(file) >= FM_MAX_PATH)))
		return fm_document_error(r->d, at, r->err, "'file' is needed for kind trace, and only for that");
	if (file)
		c->trace = index_of(&r->s->traces, file);
	return 0;
}

static int read_container_group(const struct reader *r, const json_t *o, struct fm_document_place at, struct sim_containers *c)
{
	static const char *const placements[] = { "spread", "pack", "random", NULL };
	static const struct field table[] = { { "name", TEXT, offsetof(struct sim_containers, name), 0, 0 },
		                              { "count", COUNT, offsetof(struct sim_containers, count), 1, FM_MAX_SIMULATION_CONTAINERS },
		                              { "memory", SIZES, offsetof(struct sim_containers, memory_bytes), 1, MOST_BYTES },
		                              { "dirty", SIZE, offsetof(struct sim_containers, dirty_bytes_per_s), 0, MOST_BYTES },
		                              { "files", SIZE, offsetof(struct sim_containers, files_bytes), 0, MOST_BYTES },
		                              { "processes", COUNT, offsetof(struct sim_containers, processes), 1, FM_MAX_TREE_PROCESSES },
		                              { "compressibility", NUMBER, offsetof(struct sim_containers, compressibility), 0.01, 1 },
		                              { "nested", FLAG, offsetof(struct sim_containers, nested), 0, 0 },
		                              { "placement", LATER, 0, 0, 0 },
		                              { "labels", LATER, 0, 0, 0 },
		                              { "cpu", LATER, 0, 0, 0 },
		                              { 0 } };
	unsigned placement = SIM_SPREAD;
	*c = (struct sim_containers){ .memory_bytes = { 1ull << 30, 1ull << 30 },
		                      .dirty_bytes_per_s = 10000000,
		                      .processes = 4,
		                      .compressibility = 0.6,
		                      .nested = true };
	if (read_fields(r, o, at, "a group of containers", table, c) < 0 || check_name(r, o, at, c->name, c->count) < 0)
		return -1;
	if (read_choice(r, o, "placement", placements, &placement) < 0 || read_cpu(r, o, &c->cpu) < 0)
		return -1;
	c->placement = (enum sim_placement)placement;
	return read_labels(r, o, &c->labels);
}

static uint64_t of_group(uint64_t count)
{
	return count ? count : 1;
}

/* Is it one of the group's names? Numbers begin with 1. */
static bool in_group(const char *group, uint64_t count, const char *name)
{
	size_t n = strlen(group);
	uint64_t number = 0;
	if (count == 0)
		return fm_streq(group, name);
	return strncmp(group, name, n) == 0 && name[n] == '-' && name[n + 1] != '0' && fm_parse_u64(name + n + 1, &number, NULL) == 0 &&
	       number >= 1 && number <= count;
}

static int check_collision(const struct reader *r, const json_t *list, size_t i, const char *a, uint64_t count_a, const char *b,
                           uint64_t count_b)
{
	bool both = count_a && count_b ? fm_streq(a, b) : count_a ? in_group(a, count_a, b) : in_group(b, count_b, a);
	if (!both)
		return 0;
	return fm_document_error(r->d, fm_document_member_place(r->d, json_array_get(list, i), "name"), r->err,
	                         "a name of '%s' is there already, of '%s'", a, b);
}

static int check_host_names(const struct reader *r, const json_t *list)
{
	const struct sim_hosts *h = r->s->hosts;
	for (size_t i = 0; i < r->s->n_hosts; i++)
		for (size_t k = 0; k < i; k++)
			if (check_collision(r, list, i, h[i].name, h[i].count, h[k].name, h[k].count) < 0)
				return -1;
	return 0;
}

static int check_container_names(const struct reader *r, const json_t *list)
{
	const struct sim_containers *c = r->s->containers;
	for (size_t i = 0; i < r->s->n_containers; i++)
		for (size_t k = 0; k < i; k++)
			if (check_collision(r, list, i, c[i].name, c[i].count, c[k].name, c[k].count) < 0)
				return -1;
	return 0;
}

static int read_groups(const struct reader *r, const json_t *o)
{
	struct fm_scenario *s = r->s;
	uint64_t hosts = 0, containers = 0;
	int rc = 0;
	const json_t *list = list_of(r, o, "hosts", FM_MAX_SIMULATION_GROUPS, &rc);
	s->hosts = fm_alloc_array(json_array_size(list), sizeof(*s->hosts));
	for (size_t i = 0; rc == 0 && i < json_array_size(list); i++) {
		rc = read_host_group(r, json_array_get(list, i), fm_document_entry_place(r->d, list, i), &s->hosts[s->n_hosts++]);
		hosts += of_group(s->hosts[i].count);
	}
	if (rc == 0)
		rc = check_host_names(r, list);
	if (rc == 0)
		list = list_of(r, o, "containers", FM_MAX_SIMULATION_GROUPS, &rc);
	s->containers = fm_alloc_array(rc == 0 ? json_array_size(list) : 0, sizeof(*s->containers));
	for (size_t i = 0; rc == 0 && i < json_array_size(list); i++) {
		rc = read_container_group(r, json_array_get(list, i), fm_document_entry_place(r->d, list, i),
		                          &s->containers[s->n_containers++]);
		containers += of_group(s->containers[i].count);
	}
	if (rc == 0)
		rc = check_container_names(r, list);
	if (rc == 0 && hosts == 0)
		return fm_document_error(r->d, (struct fm_document_place){ 0 }, r->err,
		                         "'hosts' is needed, with one group of hosts at least");
	if (rc == 0 && (hosts > FM_MAX_HOSTS || containers > FM_MAX_SIMULATION_CONTAINERS))
		return fm_error_set(r->err, FM_E_RESOURCE_EXHAUSTED, "%s: more than %d hosts or %u containers", fm_document_name(r->d),
		                    FM_MAX_HOSTS, FM_MAX_SIMULATION_CONTAINERS);
	return rc;
}

/* ---------------------------------------------------------------- events */

static bool is_host(const struct fm_scenario *s, const char *name)
{
	for (size_t i = 0; i < s->n_hosts; i++)
		if (in_group(s->hosts[i].name, s->hosts[i].count, name))
			return true;
	return false;
}

static bool is_group(const struct fm_scenario *s, const char *name)
{
	for (size_t i = 0; i < s->n_containers; i++)
		if (fm_streq(s->containers[i].name, name))
			return true;
	return false;
}

static int read_event(const struct reader *r, const json_t *o, struct fm_document_place at, struct sim_event *e)
{
	static const char *const kinds[] = { "drain", "fail", "return", "load", NULL };
	static const struct field table[] = { { "at", TIME, offsetof(struct sim_event, at_ms), 0, YEARS_MS },
		                              { "deadline", TIME, offsetof(struct sim_event, deadline_ms), 1000, YEARS_MS },
		                              { "factor", NUMBER, offsetof(struct sim_event, factor), 0, 1e6 },
		                              { "drain", LATER, 0, 0, 0 },
		                              { "fail", LATER, 0, 0, 0 },
		                              { "return", LATER, 0, 0, 0 },
		                              { "load", LATER, 0, 0, 0 },
		                              { 0 } };
	unsigned found = 0;
	e->factor = NAN;
	if (read_fields(r, o, at, "an event", table, e) < 0)
		return -1;
	for (unsigned k = 0; kinds[k]; k++)
		if (json_object_get(o, kinds[k])) {
			const char *name = json_string_value(json_object_get(o, kinds[k]));
			found++;
			e->kind = (enum sim_event_kind)k;
			if (!name || !(k == SIM_LOAD ? is_group(r->s, name) : is_host(r->s, name)))
				return wrong(r, o, kinds[k], k == SIM_LOAD ? "the name of a group of containers" : "the name of a host");
			free(e->name);
			e->name = fm_xstrdup(name);
		}
	if (found != 1 || !json_object_get(o, "at"))
		return fm_document_error(r->d, at, r->err, "an event has 'at', and one of drain, fail, return and load");
	if ((e->kind == SIM_LOAD) != !isnan(e->factor))
		return fm_document_error(r->d, at, r->err, "'factor' is needed for load, and only for that");
	if (e->kind != SIM_DRAIN && e->deadline_ms)
		return wrong(r, o, "deadline", "with a drain");
	return 0;
}

/* Stable: what is at the same moment stays in its order. */
static void sort_events(struct fm_scenario *s)
{
	for (size_t i = 1; i < s->n_events; i++)
		for (size_t k = i; k > 0 && s->events[k - 1].at_ms > s->events[k].at_ms; k--) {
			struct sim_event e = s->events[k];
			s->events[k] = s->events[k - 1];
			s->events[k - 1] = e;
		}
}

static int read_events(const struct reader *r, const json_t *o)
{
	int rc = 0;
	const json_t *list = list_of(r, o, "events", FM_MAX_SIMULATION_EVENTS, &rc);
	if (rc < 0)
		return -1;
	r->s->events = fm_alloc_array(json_array_size(list), sizeof(*r->s->events));
	for (size_t i = 0; i < json_array_size(list); i++)
		if (read_event(r, json_array_get(list, i), fm_document_entry_place(r->d, list, i), &r->s->events[r->s->n_events++]) < 0)
			return -1;
	sort_events(r->s);
	return 0;
}

/* ---------------------------------------------------------------- the rest */

static int read_start(const struct reader *r, const json_t *o)
{
	const json_t *v = json_object_get(o, "start");
	const char *text = json_string_value(v);
	struct tm tm = { 0 };
	if (!v)
		return 0;
	const char *end = text ? strptime(text, strlen(text) == 10 ? "%Y-%m-%d" : "%Y-%m-%d %H:%M", &tm) : NULL;
	if (!end || *end || (strlen(text) != 10 && strlen(text) != 16) || tm.tm_year < 70 || tm.tm_year > 1000)
		return wrong(r, o, "start", "a moment like '2026-01-12' or '2026-01-12 09:30', UTC");
	r->s->start_unix_ms = (uint64_t)timegm(&tm) * 1000;
	return 0;
}

static int read_policies(const struct reader *r, const json_t *o)
{
	int rc = 0;
	const json_t *v = json_object_get(o, "policies");
	if (json_is_string(v)) {
		fm_strv_add(&r->s->policies, json_string_value(v));
		return 0;
	}
	v = list_of(r, o, "policies", FM_MAX_POLICY_FILES, &rc);
	for (size_t i = 0; rc == 0 && i < json_array_size(v); i++) {
		const char *name = json_string_value(json_array_get(v, i));
		if (!name)
			return fm_document_error(r->d, fm_document_entry_place(r->d, v, i), r->err,
			                         "'policies' has to be a file or a list of files");
		(void)index_of(&r->s->policies, name);
	}
	return rc;
}

static int by_number(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;
	return (*x > *y) - (*x < *y);
}

static int read_consolidate(const struct reader *r, const json_t *o)
{
	static const struct field table[] = { { "at", LATER, 0, 0, 0 }, { 0 } }, at = { "at", TIME, 0, 0, YEARS_MS };
	const json_t *section = json_object_get(o, "consolidate"), *list = NULL;
	int rc = read_section(r, o, "consolidate", table, r->s);
	if (rc < 0 || !section)
		return rc;
	list = list_of(r, section, "at", FM_MAX_SIMULATION_EVENTS, &rc);
	if (rc < 0)
		return -1;
	r->s->consolidate_at_ms = fm_alloc_array(json_array_size(list), sizeof(uint64_t));
	for (size_t i = 0; i < json_array_size(list); i++)
		if (read_field(r, section, &at, json_array_get(list, i), &r->s->consolidate_at_ms[r->s->n_consolidate++]) < 0)
			return -1;
	if (r->s->n_consolidate)
		qsort(r->s->consolidate_at_ms, r->s->n_consolidate, sizeof(uint64_t), by_number);
	return 0;
}

static int read_predictor(const struct reader *r, const json_t *o)
{
	static const struct field table[] = { { "members", LATER, 0, 0, 0 },
		                              { "horizon", TIME, offsetof(struct fm_scenario, horizon_ms), 1000, DAY_MS },
		                              { 0 } };
	const json_t *section = json_object_get(o, "predictor"), *members = json_object_get(section, "members");
	struct fm_error e = FM_ERROR_INIT;
	if (read_section(r, o, "predictor", table, r->s) < 0)
		return -1;
	if (members && (!json_is_string(members) || fm_predictor_kinds_from_string(json_string_value(members), &r->s->members, &e) < 0))
		return fm_document_error(r->d, fm_document_member_place(r->d, section, "members"), r->err, "'members': %s",
		                         e.message[0] ? e.message : "names of members, as a text");
	return 0;
}

static int read_sections(const struct reader *r, const json_t *o)
{
#define S(what) offsetof(struct fm_scenario, what)
	static const struct field thresholds[] = { { "cpu", NUMBER, S(cpu_percent), 1, 100 },
		                                   { "memory", NUMBER, S(memory_percent), 1, 100 },
		                                   { 0 } },
	                          reactive[] = { { "every", TIME, S(reactive_every_ms), 1000, YEARS_MS }, { 0 } },
	                          moves[] = { { "link_share", NUMBER, S(moves.share), 0.01, 1 },
		                              { "max_concurrent", COUNT, S(moves.max_concurrent), 1, 1000 },
		                              { "max_per_host", COUNT, S(moves.max_per_host), 1, 1000 },
		                              { 0 } },
	                          outcome[] = { { "noise", NUMBER, S(outcome.noise), 0, 1 },
		                                { "downtime_factor", NUMBER, S(outcome.downtime_factor), 0.1, 10 },
		                                { "total_factor", NUMBER, S(outcome.total_factor), 0.1, 10 },
		                                { "failures", NUMBER, S(outcome.failures), 0, 1 },
		                                { 0 } },
	                          proactive[] = { { "margin", NUMBER, S(proactive.margin_percent), 0.1, 50 },
		                                  { "sustain", TIME, S(proactive.sustain_ms), 1000, YEARS_MS },
		                                  { "settle", TIME, S(proactive.settle_ms), 1000, YEARS_MS },
		                                  { "cooldown", TIME, S(proactive.cooldown_ms), 1000, YEARS_MS },
		                                  { "return", TIME, S(proactive.return_ms), 1000, YEARS_MS },
		                                  { "moves_per_hour", COUNT, S(proactive.moves_per_hour), 1, 100000 },
		                                  { "moves_at_once", COUNT, S(proactive.moves_at_once), 1, 1000 },
		                                  { 0 } };
	if (read_section(r, o, "thresholds", thresholds, r->s) < 0 || read_section(r, o, "reactive", reactive, r->s) < 0 ||
	    read_section(r, o, "moves", moves, r->s) < 0 || read_section(r, o, "outcome", outcome, r->s) < 0 ||
	    read_section(r, o, "proactive", proactive, r->s) < 0)
		return -1;
	return read_predictor(r, o) < 0 || read_consolidate(r, o) < 0 ? -1 : 0;
}

static int read_mode(const struct reader *r, const json_t *o)
{
	const json_t *v = json_object_get(o, "mode");
	struct fm_error e = FM_ERROR_INIT;
	if (!v)
		return 0;
	if (!json_is_string(v))
		return wrong(r, o, "mode", "a text");
	if (fm_simulation_mode_from_string(json_string_value(v), &r->s->mode, &e) < 0)
		return fm_document_error(r->d, fm_document_member_place(r->d, o, "mode"), r->err, "%s", e.message);
	return 0;
}

static int read_all(const struct reader *r)
{
	static const struct field table[] = { { "seed", COUNT, S(seed), 0, 9e15 },
		                              { "start", LATER, 0, 0, 0 },
		                              { "utc_offset_hours", NUMBER, S(utc_offset_h), -14, 14 },
		                              { "duration", TIME, S(duration_ms), SHORTEST_MS, YEARS_MS },
		                              { "step", TIME, S(step_ms), SHORTEST_MS, DAY_MS },
		                              { "mode", LATER, 0, 0, 0 },
		                              { "hosts", LATER, 0, 0, 0 },
		                              { "containers", LATER, 0, 0, 0 },
		                              { "thresholds", LATER, 0, 0, 0 },
		                              { "policies", LATER, 0, 0, 0 },
		                              { "reactive", LATER, 0, 0, 0 },
		                              { "proactive", LATER, 0, 0, 0 },
		                              { "consolidate", LATER, 0, 0, 0 },
		                              { "predictor", LATER, 0, 0, 0 },
		                              { "moves", LATER, 0, 0, 0 },
		                              { "outcome", LATER, 0, 0, 0 },
		                              { "events", LATER, 0, 0, 0 },
		                              { 0 } };
	const json_t *root = fm_document_root(r->d);
	struct fm_scenario *s = r->s;
	if (read_fields(r, root, fm_document_member_place(r->d, NULL, NULL), "a scenario", table, s) < 0)
		return -1;
	if (s->duration_ms / s->step_ms > FM_MAX_SIMULATION_STEPS)
		return fm_error_set(r->err, FM_E_RESOURCE_EXHAUSTED, "%s: 'duration' has more than %u of 'step'", fm_document_name(r->d),
		                    FM_MAX_SIMULATION_STEPS);
	if (read_start(r, root) < 0 || read_mode(r, root) < 0 || read_policies(r, root) < 0 || read_sections(r, root) < 0)
		return -1;
	return read_groups(r, root) < 0 || read_events(r, root) < 0 ? -1 : 0;
}

int fm_scenario_read(const struct fm_document *d, struct fm_scenario **ret, struct fm_error *err)
{
	_fm_cleanup_(fm_scenario_freep) struct fm_scenario *s = fm_alloc_array(1, sizeof(*s));
	struct reader r = { d, err, s };
	s->start_unix_ms = START_MS;
	s->duration_ms = DAY_MS;
	s->step_ms = FM_PREDICTOR_STEP_MS;
	s->cpu_percent = FM_PLAN_CPU_PERCENT;
	s->memory_percent = FM_PLAN_MEMORY_PERCENT;
	s->outcome.downtime_factor = s->outcome.total_factor = 1;
	s->outcome.noise = 0.1;
	s->reactive_every_ms = FM_PREDICTOR_STEP_MS;
	s->members = FM_PREDICTOR_SMOOTHING | FM_PREDICTOR_WINDOW | FM_PREDICTOR_AUTOREGRESSIVE;
	s->horizon_ms = 30 * MINUTE_MS;
	if (read_all(&r) < 0)
		return -1;
	*ret = FM_TAKE_PTR(s);
	return 0;
}

static void labels_done(struct fm_snap_labels *l)
{
	for (size_t i = 0; i < l->n; i++) {
		free(l->v[i].key);
		free(l->v[i].value);
	}
	free(l->v);
}

void fm_scenario_free(struct fm_scenario *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n_hosts; i++) {
		free(s->hosts[i].name);
		labels_done(&s->hosts[i].labels);
	}
	for (size_t i = 0; i < s->n_containers; i++) {
		free(s->containers[i].name);
		labels_done(&s->containers[i].labels);
	}
	for (size_t i = 0; i < s->n_events; i++)
		free(s->events[i].name);
	free(s->hosts);
	free(s->containers);
	free(s->events);
	free(s->consolidate_at_ms);
	fm_strv_free(s->traces);
	fm_strv_free(s->policies);
	free(s);
}

/* ---------------------------------------------------------------- what callers ask */

static const char *const modes[FM_SIMULATE_MODES] = { "none",
	                                              "reactive",
	                                              "proactive",
	                                              "reactive+proactive",
	                                              "consolidate",
	                                              "reactive+consolidate",
	                                              "proactive+consolidate",
	                                              "reactive+proactive+consolidate" };

const char *fm_simulation_mode_to_string(unsigned mode)
{
	return mode < FM_SIMULATE_MODES ? modes[mode] : modes[0];
}

int fm_simulation_mode_from_string(const char *name, unsigned *ret, struct fm_error *err)
{
	for (unsigned i = 0; i < FM_SIMULATE_MODES; i++)
		if (fm_streq(modes[i], name)) {
			*ret = i;
			return 0;
		}
	return fm_error_set(
	        err, FM_E_INVALID_ARGUMENT,
	        "there is no mode '%.64s': none, reactive, proactive, consolidate, or several in this order with + between them", name);
}

char *const *fm_scenario_traces(const struct fm_scenario *s, size_t *ret_n)
{
	*ret_n = fm_strv_len(s->traces);
	return s->traces;
}

char *const *fm_scenario_policies(const struct fm_scenario *s, size_t *ret_n)
{
	*ret_n = fm_strv_len(s->policies);
	return s->policies;
}

unsigned fm_scenario_mode(const struct fm_scenario *s)
{
	return s->mode;
}

uint64_t fm_scenario_seed(const struct fm_scenario *s)
{
	return s->seed;
}

void fm_scenario_size(const struct fm_scenario *s, size_t *ret_hosts, size_t *ret_containers, uint64_t *ret_steps)
{
	*ret_hosts = *ret_containers = 0;
	for (size_t i = 0; i < s->n_hosts; i++)
		*ret_hosts += of_group(s->hosts[i].count);
	for (size_t i = 0; i < s->n_containers; i++)
		*ret_containers += of_group(s->containers[i].count);
	*ret_steps = s->duration_ms / s->step_ms;
}
