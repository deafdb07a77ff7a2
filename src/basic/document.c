/* SPDX-License-Identifier: MIT */
/*
 * document.c - see document.h.
 *
 * YAML: libyaml's events, one by one, into a stack of open lists and mappings; it is as deep as the limit, and checked before anything is built. JSON: jansson reads the tree, and a second walk over the same text, which
 * is known to be JSON then, finds the places.
 *
 * Places are in a hash table, by the list or mapping that a value is in and its key or index: jansson's true, false and null are one object each and have no place of their own.
 */
#include "basic/document.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <yaml.h>

#include "basic/io.h"
#include "basic/limits.h"
#include "basic/str.h"

#define MAX_DEPTH 1000 /* of a limit; jansson's own is 2048 */

struct entry {
	const void *parent;
	const char *key; /* the tree's own copy; NULL: index */
	size_t index;
	struct fm_document_place key_place, place;
};

struct fm_document {
	char *name;
	json_t *root;
	struct fm_document_limits limits;
	struct entry *table; /* open addressing; size is a power of two, at most half full */
	size_t n, size;
};

/* ---------------------------------------------------------------- places */

static size_t hash(const void *parent, const char *key, size_t index)
{
	uint64_t h = (uint64_t)(uintptr_t)parent * 0x9e3779b97f4a7c15u;
	for (const char *p = key; p && *p; p++)
		h = (h ^ (unsigned char)*p) * 0x100000001b3u;
	if (!key)
		h = (h ^ index) * 0xd6e8feb86659fd93u;
	return (size_t)(h ^ h >> 32);
}

static struct entry *slot(struct entry *table, size_t size, const void *parent, const char *key, size_t index)
{
	size_t i = hash(parent, key, index) & (size - 1);
	while (table[i].parent &&
	       (table[i].parent != parent || (key ? !fm_streq(table[i].key, key) : table[i].key || table[i].index != index)))
		i = (i + 1) & (size - 1);
	return &table[i];
}

static void grow(struct fm_document *d)
{
	size_t size = d->size ? d->size * 2 : 64;
	struct entry *table = calloc(size, sizeof(*table));
	if (!table)
		abort(); /* limited by the number of nodes */
	for (size_t i = 0; i < d->size; i++)
		if (d->table[i].parent)
			*slot(table, size, d->table[i].parent, d->table[i].key, d->table[i].index) = d->table[i];
	free(d->table);
	d->table = table;
	d->size = size;
}

static void keep_place(struct fm_document *d, const void *parent, const char *key, size_t index, struct fm_document_place key_place,
                       struct fm_document_place place)
{
	if (d->n * 2 >= d->size)
		grow(d);
	*slot(d->table, d->size, parent, key, index) = (struct entry){ parent, key, index, key_place, place };
	d->n++;
}

static const struct entry *find(const struct fm_document *d, const void *parent, const char *key, size_t index)
{
	static const struct entry none;
	return d->size && parent ? slot(d->table, d->size, parent, key, index) : &none;
}

struct fm_document_place fm_document_member_place(const struct fm_document *d, const json_t *object, const char *key)
{
	return object ? find(d, object, key, 0)->place : find(d, d, NULL, 0)->place;
}

struct fm_document_place fm_document_key_place(const struct fm_document *d, const json_t *object, const char *key)
{
	return find(d, object, key, 0)->key_place;
}

struct fm_document_place fm_document_entry_place(const struct fm_document *d, const json_t *array, size_t i)
{
	return array ? find(d, array, NULL, i)->place : find(d, d, NULL, 0)->place;
}

/* ---------------------------------------------------------------- errors */

__attribute__((format(printf, 5, 0))) static int verror(const struct fm_document *d, enum fm_code code, struct fm_document_place at,
                                                        struct fm_error *err, const char *fmt, va_list ap)
{
	char text[600], line[32] = "";
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	if (at.line)
		(void)snprintf(line, sizeof(line), ":%u:%u", at.line, at.column);
	return fm_error_set(err, code, "%s%s: %s", d->name, line, text);
}

int fm_document_error(const struct fm_document *d, struct fm_document_place at, struct fm_error *err, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	(void)verror(d, FM_E_INVALID_ARGUMENT, at, err, fmt, ap);
	va_end(ap);
	return -1;
}

__attribute__((format(printf, 4, 5))) static int too_much(const struct fm_document *d, struct fm_document_place at, struct fm_error *err,
                                                          const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	(void)verror(d, FM_E_RESOURCE_EXHAUSTED, at, err, fmt, ap);
	va_end(ap);
	return -1;
}

/* ---------------------------------------------------------------- YAML's scalars */

static bool is_digits(const char *s, size_t n, const char *digits)
{
	return n > 0 && strspn(s, digits) == n;
}

/* [-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )? */
static bool is_float(const char *s)
{
	s += *s == '-' || *s == '+';
	size_t whole = strspn(s, "0123456789");
	s += whole;
	if (*s == '.') {
		size_t part = strspn(s + 1, "0123456789");
		if (whole + part == 0)
			return false;
		s += 1 + part;
	} else if (whole == 0) {
		return false;
	}
	if (*s == 'e' || *s == 'E') {
		s++;
		s += *s == '-' || *s == '+';
		size_t n = strspn(s, "0123456789");
		return n > 0 && s[n] == '\0';
	}
	return *s == '\0';
}

static bool is_one_of(const char *s, const char *const *words)
{
	while (*words && !fm_streq(s, *words))
		words++;
	return *words != NULL;
}

struct builder {
	struct fm_document *d;
	struct fm_error *err;
	struct open {
		json_t *value; /* borrowed: the tree has it */
		char *key;     /* of a mapping: read, its value comes next */
		struct fm_document_place key_place;
	} * stack;
	unsigned depth;
	size_t nodes;
};

static int integer(struct builder *b, const char *s, int base, struct fm_document_place at, json_t **ret)
{
	errno = 0;
	long long v = strtoll(s, NULL, base);
	if (errno)
		return fm_document_error(b->d, at, b->err, "the number %.40s does not fit into 64 bits", s);
	*ret = json_integer(v);
	return 0;
}

/* A plain scalar is what it looks like, see document.h. */
static int plain(struct builder *b, const char *s, size_t n, struct fm_document_place at, json_t **ret)
{
	static const char *const nulls[] = { "", "~", "null", "Null", "NULL", NULL }, *const yes[] = { "true", "True", "TRUE", NULL },
	                         *const no[] = { "false", "False", "FALSE", NULL }, *const unbounded[] = { ".inf", ".Inf", ".INF", ".nan",
		                                                                                           ".NaN", ".NAN", NULL };
	size_t sign = *s == '-' || *s == '+';
	if (is_one_of(s, nulls))
		*ret = json_null();
	else if (is_one_of(s, yes) || is_one_of(s, no))
		*ret = json_boolean(is_one_of(s, yes));
	else if (is_one_of(s + sign, unbounded))
		return fm_document_error(b->d, at, b->err, "%s is no number that can be used here", s);
	else if (is_digits(s + sign, n - sign, "0123456789") && s[sign] == '0' && n - sign > 1)
		return fm_document_error(b->d, at, b->err, "%.40s: is it octal or a text? Write it without the leading 0, or in quotes", s);
	else if (is_digits(s + sign, n - sign, "0123456789"))
		return integer(b, s, 10, at, ret);
	else if (s[0] == '0' && s[1] == 'x' && is_digits(s + 2, n - 2, "0123456789abcdefABCDEF"))
		return integer(b, s + 2, 16, at, ret);
	else if (s[0] == '0' && s[1] == 'o' && is_digits(s + 2, n - 2, "01234567"))
		return integer(b, s + 2, 8, at, ret);
	else if (is_float(s))
		*ret = json_real(strtod(s, NULL)); /* NULL for an infinite one */
	else
		*ret = json_stringn(s, n);
	return *ret ? 0 : fm_document_error(b->d, at, b->err, "the number %.40s is too large", s);
}

/* ---------------------------------------------------------------- YAML's events */

static struct fm_document_place place_of(yaml_mark_t mark)
{
	return (struct fm_document_place){ (unsigned)mark.line + 1, (unsigned)mark.column + 1 };
}

/* Is what is open a mapping, and its next key what comes? */
static bool wants_key(const struct builder *b)
{
	return b->depth > 0 && json_is_object(b->stack[b->depth - 1].value) && !b->stack[b->depth - 1].key;
}

static int take_key(struct builder *b, struct open *top, const char *s, size_t n, struct fm_document_place at)
{
	if (json_object_getn(top->value, s, n))
		return fm_document_error(b->d, at, b->err, "'%.60s' is there twice; it was at line %u already", s,
		                         fm_document_key_place(b->d, top->value, s).line);
	top->key = fm_xstrdup(s);
	top->key_place = at;
	return 0;
}

/* Into what is open; the tree owns it then. */
static void put(struct builder *b, json_t *value, struct fm_document_place at)
{
	if (b->depth == 0) {
		b->d->root = value;
		keep_place(b->d, b->d, NULL, 0, at, at);
		return;
	}
	struct open *top = &b->stack[b->depth - 1];
	if (top->key) {
		(void)json_object_set_new(top->value, top->key, value);
		keep_place(b->d, top->value, json_object_iter_key(json_object_iter_at(top->value, top->key)), 0, top->key_place, at);
		free(top->key);
		top->key = NULL;
	} else {
		(void)json_array_append_new(top->value, value);
		keep_place(b->d, top->value, NULL, json_array_size(top->value) - 1, at, at);
	}
}

static int count(struct builder *b, struct fm_document_place at)
{
	if (++b->nodes > b->d->limits.nodes)
		return too_much(b->d, at, b->err, "more than %zu values", b->d->limits.nodes);
	return 0;
}

static int scalar(struct builder *b, const yaml_event_t *e)
{
	const char *s = (const char *)e->data.scalar.value;
	size_t n = e->data.scalar.length;
	struct fm_document_place at = place_of(e->start_mark);
	json_t *value = NULL;
	if (e->data.scalar.anchor || e->data.scalar.tag)
		return fm_document_error(b->d, at, b->err, "anchors and tags are not read here");
	if (memchr(s, '\0', n))
		return fm_document_error(b->d, at, b->err, "a text with a NUL character");
	if (wants_key(b))
		return take_key(b, &b->stack[b->depth - 1], s, n, at);
	if (count(b, at) < 0)
		return -1;
	if (e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
		value = json_stringn(s, n);
	else if (plain(b, s, n, at, &value) < 0)
		return -1;
	if (!value)
		return fm_document_error(b->d, at, b->err, "a text that is no UTF-8");
	put(b, value, at);
	return 0;
}

static int begin(struct builder *b, const yaml_event_t *e, json_t *value, const void *anchor, const void *tag)
{
	struct fm_document_place at = place_of(e->start_mark);
	int rc = 0;
	if (anchor || tag)
		rc = fm_document_error(b->d, at, b->err, "anchors and tags are not read here");
	else if (wants_key(b))
		rc = fm_document_error(b->d, at, b->err, "the key of a mapping has to be a text");
	else if (b->depth == b->d->limits.depth)
		rc = too_much(b->d, at, b->err, "more than %u lists and mappings in each other", b->d->limits.depth);
	if (rc < 0 || count(b, at) < 0) {
		json_decref(value);
		return -1;
	}
	put(b, value, at);
	b->stack[b->depth++] = (struct open){ .value = value };
	return 0;
}

/* 1: the document is over */
static int take_event(struct builder *b, const yaml_event_t *e)
{
	switch (e->type) {
	case YAML_ALIAS_EVENT:
		return fm_document_error(b->d, place_of(e->start_mark), b->err, "aliases are not read here");
	case YAML_SCALAR_EVENT:
		return scalar(b, e);
	case YAML_SEQUENCE_START_EVENT:
		return begin(b, e, json_array(), e->data.sequence_start.anchor, e->data.sequence_start.tag);
	case YAML_MAPPING_START_EVENT:
		return begin(b, e, json_object(), e->data.mapping_start.anchor, e->data.mapping_start.tag);
	case YAML_SEQUENCE_END_EVENT:
	case YAML_MAPPING_END_EVENT:
		b->depth--;
		return 0;
	case YAML_DOCUMENT_START_EVENT:
		if (b->d->root)
			return fm_document_error(b->d, place_of(e->start_mark), b->err, "a second document; one is read");
		if (e->data.document_start.tag_directives.start != e->data.document_start.tag_directives.end)
			return fm_document_error(b->d, place_of(e->start_mark), b->err, "tag directives are not read here");
		return 0;
	case YAML_STREAM_END_EVENT:
		return 1;
	default:
		return 0;
	}
}

static int yaml_failed(const struct fm_document *d, const yaml_parser_t *p, struct fm_error *err)
{
	struct fm_document_place at = place_of(p->problem_mark);
	if (p->error == YAML_MEMORY_ERROR)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "%s: out of memory", d->name);
	if (p->error == YAML_READER_ERROR)
		return fm_document_error(d, (struct fm_document_place){ 0 }, err, "at byte %zu: %s", p->problem_offset, p->problem);
	return fm_document_error(d, at, err, "%s%s%s", p->context ? p->context : "", p->context ? ": " : "",
	                         p->problem ? p->problem : "no YAML");
}

static int read_yaml(struct fm_document *d, const char *text, size_t len, struct fm_error *err)
{
	struct builder b = { .d = d, .err = err, .stack = calloc(d->limits.depth + 1, sizeof(*b.stack)) };
	yaml_parser_t parser;
	int rc = 0;
	if (!b.stack || !yaml_parser_initialize(&parser))
		abort();
	yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
	yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
	while (rc == 0) {
		yaml_event_t e;
		if (!yaml_parser_parse(&parser, &e)) {
			rc = yaml_failed(d, &parser, err);
			break;
		}
		rc = take_event(&b, &e);
		yaml_event_delete(&e);
	}
	for (unsigned i = 0; i < d->limits.depth; i++)
		free(b.stack[i].key);
	free(b.stack);
	yaml_parser_delete(&parser);
	if (rc > 0 && !d->root)
		return fm_document_error(d, (struct fm_document_place){ 1, 1 }, err, "there is nothing in it");
	return rc < 0 ? -1 : 0;
}

/* ---------------------------------------------------------------- JSON */

static int measure(const struct fm_document *d, const json_t *v, unsigned depth, size_t *nodes, struct fm_error *err)
{
	const struct fm_document_place nowhere = { 0 };
	const char *key = NULL;
	json_t *member = NULL;
	size_t i = 0;
	if (++*nodes > d->limits.nodes)
		return too_much(d, nowhere, err, "more than %zu values", d->limits.nodes);
	if ((json_is_object(v) || json_is_array(v)) && depth == d->limits.depth)
		return too_much(d, nowhere, err, "more than %u lists and mappings in each other", d->limits.depth);
	json_object_foreach((json_t *)v, key, member) if (measure(d, member, depth + 1, nodes, err) < 0) return -1;
	json_array_foreach(v, i, member) if (measure(d, member, depth + 1, nodes, err) < 0) return -1;
	return 0;
}

/* The text is JSON, and the tree is its: only positions are looked for, so nothing is checked again. */
struct scan {
	struct fm_document *d;
	const char *p, *line_start;
	unsigned line;
};

static void skip_blank(struct scan *s)
{
	for (; *s->p == ' ' || *s->p == '\t' || *s->p == '\r' || *s->p == '\n' || *s->p == ',' || *s->p == ':'; s->p++)
		if (*s->p == '\n') {
			s->line++;
			s->line_start = s->p + 1;
		}
}

static struct fm_document_place here(struct scan *s)
{
	skip_blank(s);
	return (struct fm_document_place){ s->line, (unsigned)(s->p - s->line_start) + 1 };
}

static void skip_string(struct scan *s)
{
	for (s->p++; *s->p != '"'; s->p++)
		s->p += *s->p == '\\';
	s->p++;
}

static void scan_value(struct scan *s, const json_t *v)
{
	if (json_is_object(v)) {
		s->p++;
		for (void *i = json_object_iter((json_t *)v); i; i = json_object_iter_next((json_t *)v, i)) {
			struct fm_document_place key = here(s);
			skip_string(s);
			keep_place(s->d, v, json_object_iter_key(i), 0, key, here(s));
			scan_value(s, json_object_iter_value(i));
		}
		skip_blank(s);
		s->p++;
	} else if (json_is_array(v)) {
		s->p++;
		for (size_t i = 0; i < json_array_size(v); i++) {
			keep_place(s->d, v, NULL, i, here(s), here(s));
			scan_value(s, json_array_get(v, i));
		}
		skip_blank(s);
		s->p++;
	} else if (json_is_string(v)) {
		skip_string(s);
	} else {
		s->p += strcspn(s->p, " \t\r\n,:]}");
	}
}

/* 1: it is none; *why says where */
static int read_json(struct fm_document *d, const char *text, size_t len, json_error_t *why, struct fm_error *err)
{
	size_t nodes = 0;
	json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, why);
	if (!root)
		return 1;
	d->root = root;
	if (measure(d, root, 0, &nodes, err) < 0)
		return -1;
	struct scan s = { .d = d, .p = text, .line_start = text, .line = 1 };
	struct fm_document_place at = here(&s);
	keep_place(d, d, NULL, 0, at, at);
	scan_value(&s, root);
	return 0;
}

/* ---------------------------------------------------------------- documents */

static int read_text(struct fm_document *d, const char *text, size_t len, struct fm_error *err)
{
	json_error_t why = { 0 };
	size_t blank = strspn(text, " \t\r\n");
	int rc = text[blank] == '{' || text[blank] == '[' ? read_json(d, text, len, &why, err) : 1;
	if (rc <= 0)
		return rc;
	if (fm_str_endswith(d->name, ".json"))
		return fm_document_error(
		        d,
		        (struct fm_document_place){ (unsigned)(why.line > 0 ? why.line : 1), (unsigned)(why.column > 0 ? why.column : 1) },
		        err, "%s", why.text[0] ? why.text : "no JSON: it begins with neither { nor [");
	return read_yaml(d, text, len, err);
}

int fm_document_parse(const char *text, size_t len, const char *name, const struct fm_document_limits *limits, struct fm_document **ret,
                      struct fm_error *err)
{
	_fm_document_ struct fm_document *d = calloc(1, sizeof(*d));
	_fm_free_ char *copy = malloc(len + 1); /* ends with a NUL, whatever the caller's does */
	if (!d || !copy)
		abort();
	d->name = fm_xstrdup(name);
	if (limits)
		d->limits = *limits;
	d->limits.bytes = d->limits.bytes ? d->limits.bytes : FM_MAX_DOCUMENT_BYTES;
	d->limits.nodes = d->limits.nodes ? d->limits.nodes : FM_MAX_DOCUMENT_NODES;
	d->limits.depth = d->limits.depth ? d->limits.depth : FM_MAX_DOCUMENT_DEPTH;
	if (d->limits.depth > MAX_DEPTH)
		d->limits.depth = MAX_DEPTH;
	if (len > d->limits.bytes)
		return too_much(d, (struct fm_document_place){ 0 }, err, "%zu bytes, at most %zu are read", len, d->limits.bytes);
	memcpy(copy, text, len);
	copy[len] = '\0';
	if (read_text(d, copy, len, err) < 0)
		return -1;
	*ret = FM_TAKE_PTR(d);
	return 0;
}

int fm_document_read(const char *path, const struct fm_document_limits *limits, struct fm_document **ret, struct fm_error *err)
{
	_fm_free_ char *text = NULL;
	size_t len = 0;
	if (fm_read_file(path, limits && limits->bytes ? limits->bytes : FM_MAX_DOCUMENT_BYTES, &text, &len, err) < 0)
		return -1;
	return fm_document_parse(text, len, path, limits, ret, err);
}

void fm_document_free(struct fm_document *d)
{
	if (!d)
		return;
	json_decref(d->root);
	free(d->table);
	free(d->name);
	free(d);
}

const char *fm_document_name(const struct fm_document *d)
{
	return d->name;
}

json_t *fm_document_root(const struct fm_document *d)
{
	return d->root;
}
