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

#define FORMAT_VERSION 1

static void json_done(json_t **j)
{
	json_decref(*j);
}

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

static bool take_string(const json_t *o, const char *key, char *ret, size_t cap)
{
	const json_t *v = json_object_get(o, key);
	size_t n = json_string_length(v);

	if (!json_is_string(v) || n >= cap || memchr(json_string_value(v), '\0', n))
		return false;
	memcpy(ret, json_string_value(v), n + 1);
	return true;
}

static bool take_side(const json_t *o, const char *key, struct fm_dns_side *ret)
{
	const json_t *side = json_object_get(o, key), *ttl = json_object_get(side, "ttl");

	if (json_object_size(side) != 2 || !take_string(side, "value", ret->value, sizeof(ret->value)) || !json_is_integer(ttl) ||
	    json_integer_value(ttl) < 0 || json_integer_value(ttl) > FM_DNS_TTL_MAX)
		return false;
	ret->ttl_s = (uint32_t)json_integer_value(ttl);
	return true;
}

int fm_dns_undo_parse(const char *line, struct fm_dns_change *ret, struct fm_error *err)
{
	size_t n = strnlen(line, FM_MAX_DNS_UNDO_BYTES);
	_fm_cleanup_(json_done) json_t *o = n < FM_MAX_DNS_UNDO_BYTES ? json_loadb(line, n, JSON_REJECT_DUPLICATES, NULL) : NULL;
	struct fm_dns_change c = { 0 };
	char type[8];

	if (!o || json_object_size(o) != 5 || json_integer_value(json_object_get(o, "dns")) != FORMAT_VERSION ||
	    !take_string(o, "name", c.name, sizeof(c.name)) || !take_string(o, "type", type, sizeof(type)) ||
	    !take_side(o, "from", &c.from) || !take_side(o, "to", &c.to))
		return fm_error_set(err, FM_E_DATA_LOSS, "name service: the undo \"%.256s\" is damaged, or of another version", line);
	if (fm_dns_type_from_string(type, &c.type, err) < 0 || fm_dns_change_check(&c, err) < 0) {
		if (err)
			err->code = FM_E_DATA_LOSS;
		return fm_error_prefix(err, "undo from the journal");
	}
	*ret = c;
	return 0;
}
