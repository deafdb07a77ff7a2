/* SPDX-License-Identifier: MIT */
/*
 * dns-undo.c - a change as a line of a journal, and back.
 *
 * The line is trusted as far as the journal is: read strictly all the same, because what it says will be sent to a server with our signature.
 */
#include <jansson.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/str.h"
#include "network/dns-internal.h"
#include "network/fields.h"

#define FORMAT_VERSION 1

static int side_check(const struct fm_dns_change *c, const struct fm_dns_side *s, struct fm_error *err)
{
	char canonical[FM_DNS_NAME_MAX + 1];

	if (!s->value[0])
		return s->ttl_s == 0 ? 0 : fm_error_set(err, FM_E_INVALID_ARGUMENT, "name service: an absent record has no time to live");
	if (s->ttl_s > FM_DNS_TTL_MAX)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "name service: a time to live of %u s", s->ttl_s);
	if (fm_dns_value_parse(c->type, s->value, canonical, err) < 0)
		return -1;
	return strcmp(canonical, s->value) == 0
	               ? 0
	               : fm_error_set(err, FM_E_INVALID_ARGUMENT, "name service: \"%s\" is not written in its canonical form", s->value);
}

int fm_dns_change_check(const struct fm_dns_change *c, struct fm_error *err)
{
	char canonical[FM_DNS_NAME_MAX + 1];

	if (c->type != FM_DNS_A && c->type != FM_DNS_AAAA && c->type != FM_DNS_PTR)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "name service: a record of type %d", (int)c->type);
	if (fm_dns_name_parse(c->name, canonical, err) < 0)
		return -1;
	if (strcmp(canonical, c->name) != 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "name service: \"%s\" is not written in its canonical form", c->name);
	if (!c->from.value[0] && !c->to.value[0])
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "name service: a change of %s from absent to absent", c->name);
	return side_check(c, &c->from, err) < 0 ? -1 : side_check(c, &c->to, err);
}

void fm_dns_change_inverse(const struct fm_dns_change *change, struct fm_dns_change *ret)
{
	struct fm_dns_side was = change->from;

	*ret = *change;
	ret->from = change->to;
	ret->to = was;
}

int fm_dns_undo_format(const struct fm_dns_change *change, char ret[FM_MAX_DNS_UNDO_BYTES], struct fm_error *err)
{
	struct fm_dns_change u;

	if (fm_dns_change_check(change, err) < 0)
		return -1;
	fm_dns_change_inverse(change, &u);
	/* canonical names and addresses have nothing that JSON would have to quote */
	return fm_snprintf(
	        ret, FM_MAX_DNS_UNDO_BYTES, err,
	        "{\"dns\":%d,\"name\":\"%s\",\"type\":\"%s\",\"from\":{\"value\":\"%s\",\"ttl\":%u},\"to\":{\"value\":\"%s\",\"ttl\":%u}}",
	        FORMAT_VERSION, u.name, fm_dns_type_to_string(u.type), u.from.value, u.from.ttl_s, u.to.value, u.to.ttl_s);
}

static int read_name(const char *text, void *ret, struct fm_error *err)
{
	return fm_snprintf(ret, FM_DNS_NAME_MAX + 1, err, "%s", text);
}

static int read_type(const char *text, void *ret, struct fm_error *err)
{
	return fm_dns_type_from_string(text, ret, err);
}

static int read_side(const json_t *o, const struct fm_place *at, const char *key, struct fm_dns_side *ret, struct fm_error *err)
{
	static const struct fm_field fields[] = {
		{ FM_FIELD(struct fm_dns_side, value), .max = FM_DNS_NAME_MAX, .parse = read_name, .empty = true, .required = true },
		{ .name = "ttl",
		  .type = FM_FIELD_U32,
		  .max = FM_DNS_TTL_MAX,
		  .offset = offsetof(struct fm_dns_side, ttl_s),
		  .required = true },
		{ 0 },
	};
	const struct fm_place side = fm_place_member(at, key);

	return fm_fields_read(o, &side, fields, ret, err);
}

static int read_change(const json_t *o, const struct fm_place *at, struct fm_dns_change *ret, struct fm_error *err)
{
	struct raw {
		uint32_t dns;
		struct fm_dns_change c;
		const json_t *from, *to;
	} raw = { 0 };
	static const struct fm_field fields[] = {
		{ FM_FIELD(struct raw, dns), .type = FM_FIELD_U32, .min = FORMAT_VERSION, .max = FORMAT_VERSION, .required = true },
		{ .name = "name", .max = FM_DNS_NAME_MAX, .parse = read_name, .offset = offsetof(struct raw, c.name), .required = true },
		{ .name = "type", .parse = read_type, .offset = offsetof(struct raw, c.type), .required = true },
		{ FM_FIELD(struct raw, from), .type = FM_FIELD_OBJECT, .required = true },
		{ FM_FIELD(struct raw, to), .type = FM_FIELD_OBJECT, .required = true },
		{ 0 },
	};

	if (fm_fields_read(o, at, fields, &raw, err) < 0 || read_side(raw.from, at, "from", &raw.c.from, err) < 0 ||
	    read_side(raw.to, at, "to", &raw.c.to, err) < 0)
		return -1;
	if (fm_dns_change_check(&raw.c, err) < 0)
		return fm_field_error(at, "what it says", err);
	*ret = raw.c;
	return 0;
}

int fm_dns_undo_parse(const char *line, struct fm_dns_change *ret, struct fm_error *err)
{
	const struct fm_place at = { .who = "name service: undo", .code = FM_E_DATA_LOSS };
	size_t n = strnlen(line, FM_MAX_DNS_UNDO_BYTES);
	_fm_cleanup_(json_decrefp) json_t *o = n < FM_MAX_DNS_UNDO_BYTES ? json_loadb(line, n, JSON_REJECT_DUPLICATES, NULL) : NULL;

	return read_change(o, &at, ret, err);
}
