/* SPDX-License-Identifier: MIT */
/* fields.c - strict JSON objects by tables. See fields.h. */
#include "network/fields.h"

#include <inttypes.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

#include "basic/str.h"
#include "network/address.h"
#include "network/dns.h"

#define SAID_MAX 256

/* ---- places */

static const char *dot(const struct fm_place *at, const char *key)
{
	return *at->path && key ? "." : "";
}

static enum fm_code code_of(const struct fm_place *at)
{
	return at->code ? at->code : FM_E_INVALID_ARGUMENT;
}

struct fm_place fm_place_member(const struct fm_place *outer, const char *key)
{
	struct fm_place p = { .who = outer->who, .code = outer->code };

	(void)snprintf(p.path, sizeof(p.path), "%.64s%s%.48s", outer->path, dot(outer, key), key);
	return p;
}

struct fm_place fm_place_entry(const struct fm_place *outer, const char *key, size_t i)
{
	struct fm_place p = { .who = outer->who, .code = outer->code };

	(void)snprintf(p.path, sizeof(p.path), "%.64s%s%.32s[%zu]", outer->path, dot(outer, key), key, i);
	return p;
}

int(fm_field_wrong)(const struct fm_place *at, const char *key, const char *what, struct fm_error *err)
{
	return fm_error_set(err, code_of(at), "%s: %s%s%.64s%s%s", at->who, at->path, dot(at, key), key ? key : "",
	                    *at->path || key ? " " : "it ", what);
}

int(fm_field_error)(const struct fm_place *at, const char *key, struct fm_error *err)
{
	if (err)
		err->code = code_of(at);
	return fm_error_prefix(err, "%s: %s%s%.64s", at->who, at->path, dot(at, key), key ? key : "");
}

/* ---- values. `key` is NULL for an entry of a list, which is the place itself. */

/* "is not red, green or blue" */
static int not_a_word(const struct fm_place *at, const char *key, const struct fm_field *f, struct fm_error *err)
{
	char said[SAID_MAX] = "is not";

	for (size_t i = 0; f->words[i]; i++) {
		const char *before = i == 0 ? " " : f->words[i + 1] ? ", " : " or ";

		(void)snprintf(said + strlen(said), sizeof(said) - strlen(said), "%s%s", before, f->words[i]);
	}
	return fm_field_wrong(at, key, said, err);
}

static bool has_control_characters(const char *text, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
			return true;
	return false;
}

static int check_text(const json_t *v, const struct fm_place *at, const char *key, const struct fm_field *f, struct fm_error *err)
{
	const char *text = json_string_value(v);
	uint64_t n = json_string_length(v), max = f->max ? f->max : FM_FIELD_TEXT_MAX;
	char said[SAID_MAX] = "";

	if (!text)
		return fm_field_wrong(at, key, "is not a string", err);
	if (n == 0)
		(void)snprintf(said, sizeof(said), "is empty; 1 to %" PRIu64 " bytes are possible", max);
	else if (n > max)
		(void)snprintf(said, sizeof(said), "has %" PRIu64 " bytes; 1 to %" PRIu64 " are possible", n, max);
	if (*said)
		return fm_field_wrong(at, key, said, err);
	if (has_control_characters(text, n))
		return fm_field_wrong(at, key, "has control characters", err);
	return f->check && !f->check(text) ? fm_field_wrong(at, key, f->what, err) : 0;
}

static int read_text(const json_t *v, const struct fm_place *at, const char *key, const struct fm_field *f, void *ret, struct fm_error *err)
{
	const char *text = json_string_value(v);

	if (f->empty && text && json_string_length(v) == 0)
		return 0;
	if (check_text(v, at, key, f, err) < 0)
		return -1;
	if (!f->parse)
		*(const char **)ret = text;
	else if (f->parse(text, ret, err) < 0)
		return fm_field_error(at, key, err);
	return 0;
}

static int read_word(const json_t *v, const struct fm_place *at, const char *key, const struct fm_field *f, void *ret, struct fm_error *err)
{
	const char *text = json_string_value(v);
	unsigned word = 0;

	while (f->words[word] && !fm_streq(f->words[word], text))
		word++;
	if (!f->words[word])
		return not_a_word(at, key, f, err);
	if (f->type == FM_FIELD_WORD)
		*(unsigned *)ret = word;
	else if (f->type == FM_FIELD_BOOL)
		*(bool *)ret = word > 0;
	else
		*(const char **)ret = text;
	return 0;
}

static uint64_t type_max(enum fm_field_type type)
{
	return type == FM_FIELD_U8 ? UINT8_MAX : type == FM_FIELD_U16 ? UINT16_MAX : type == FM_FIELD_U32 ? UINT32_MAX : INT64_MAX;
}

static void store_number(enum fm_field_type type, uint64_t number, void *ret)
{
	if (type == FM_FIELD_U8)
		*(uint8_t *)ret = (uint8_t)number;
	else if (type == FM_FIELD_U16)
		*(uint16_t *)ret = (uint16_t)number;
	else if (type == FM_FIELD_U32)
		*(uint32_t *)ret = (uint32_t)number;
	else
		*(uint64_t *)ret = number;
}

static int read_number(const json_t *v, const struct fm_place *at, const char *key, const struct fm_field *f, void *ret,
                       struct fm_error *err)
{
	uint64_t most = type_max(f->type), max = f->max && f->max < most ? f->max : most;
	char said[SAID_MAX];

	if (!json_is_integer(v) || json_integer_value(v) < 0 || (uint64_t)json_integer_value(v) < f->min ||
	    (uint64_t)json_integer_value(v) > max) {
		(void)snprintf(said, sizeof(said), "is not a whole number from %" PRIu64 " to %" PRIu64, f->min, max);
		return fm_field_wrong(at, key, said, err);
	}
	store_number(f->type, (uint64_t)json_integer_value(v), ret);
	return 0;
}

static int read_bool(const json_t *v, const struct fm_place *at, const char *key, bool *ret, struct fm_error *err)
{
	if (!json_is_boolean(v))
		return fm_field_wrong(at, key, "is neither true nor false", err);
	*ret = json_is_true(v);
	return 0;
}

static int read_many(const json_t *v, const struct fm_place *at, const char *key, const struct fm_field *f, const json_t **ret,
                     struct fm_error *err)
{
	bool list = f->type == FM_FIELD_LIST;
	size_t n = list ? json_array_size(v) : json_object_size(v);
	char said[SAID_MAX];

	if (f->empty && json_is_null(v))
		return 0;
	if (list ? !json_is_array(v) : !json_is_object(v))
		return fm_field_wrong(at, key, list ? "is not a list" : "is not an object", err);
	if (n < f->min || (f->max && n > f->max)) {
		(void)snprintf(said, sizeof(said), "has %zu entries; %" PRIu64 " to %" PRIu64 " are possible", n, f->min, f->max);
		return fm_field_wrong(at, key, said, err);
	}
	*ret = v;
	return 0;
}

static int read_value(const json_t *v, const struct fm_place *at, const char *key, const struct fm_field *f, void *ret,
                      struct fm_error *err)
{
	switch (f->type) {
	case FM_FIELD_ANY:
		return 0;
	case FM_FIELD_LIST:
	case FM_FIELD_OBJECT:
		return read_many(v, at, key, f, ret, err);
	case FM_FIELD_U8:
	case FM_FIELD_U16:
	case FM_FIELD_U32:
	case FM_FIELD_U64:
		return read_number(v, at, key, f, ret, err);
	case FM_FIELD_BOOL:
		return f->words ? read_word(v, at, key, f, ret, err) : read_bool(v, at, key, ret, err);
	default:
		return f->words ? read_word(v, at, key, f, ret, err) : read_text(v, at, key, f, ret, err);
	}
}

int fm_field_read(const json_t *v, const struct fm_place *at, const struct fm_field *how, void *ret, struct fm_error *err)
{
	return read_value(v, at, NULL, how, ret, err);
}

/* ---- objects and lists */

static const struct fm_field *find(const struct fm_field *fields, const char *name)
{
	for (; fields->name; fields++)
		if (fm_streq(fields->name, name))
			return fields;
	return NULL;
}

int fm_fields_read(const json_t *o, const struct fm_place *at, const struct fm_field *fields, void *ret, struct fm_error *err)
{
	const char *key;
	json_t *v;

	if (!json_is_object(o))
		return fm_field_wrong(at, NULL, "is not an object", err);
	json_object_foreach((json_t *)o, key, v) /* the macro's iterator wants it changeable, and changes nothing */
	{
		const struct fm_field *f = find(fields, key);

		if (!f)
			return fm_field_wrong(at, key, "is not a member that is known here", err);
		if (read_value(v, at, key, f, (char *)ret + f->offset, err) < 0)
			return -1;
	}
	for (; fields->name; fields++)
		if (fields->required && !json_object_get(o, fields->name))
			return fm_field_wrong(at, fields->name, "is missing", err);
	return 0;
}

int fm_fields_each(const json_t *list, const struct fm_place *at, const char *key,
                   int (*each)(void *userdata, size_t i, const json_t *entry, const struct fm_place *at, struct fm_error *err),
                   void *userdata, struct fm_error *err)
{
	for (size_t i = 0; i < json_array_size(list); i++) {
		struct fm_place entry = fm_place_entry(at, key, i);

		if (each(userdata, i, json_array_get(list, i), &entry, err) < 0)
			return -1;
	}
	return 0;
}

int fm_fields_map(const json_t *o, const struct fm_place *at, const char *key, const struct fm_field *value, struct fm_error *err)
{
	const struct fm_place map = fm_place_member(at, key);
	const char *name;
	json_t *v;

	json_object_foreach((json_t *)o, name, v)
	{
		if (!fm_name_is_valid(name))
			return fm_field_wrong(&map, name, "is not a name", err);
		if (check_text(v, &map, name, value, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- texts */

bool fm_is_file_name(const char *text)
{
	return fm_name_is_valid(text);
}

bool fm_is_dns_name(const char *text)
{
	char canonical[FM_DNS_NAME_MAX + 1];

	return fm_dns_name_parse(text, canonical, NULL) == 0;
}

static int read_address(const char *text, bool of_one_machine, struct fm_ip *ret, struct fm_error *err)
{
	struct fm_ip a;

	if (!fm_ip_parse(text, &a) || (of_one_machine && !fm_ip_is_unicast(&a)))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "\"%.64s\" is not %s (without a prefix length)", text,
		                    of_one_machine ? "the address of one machine" : "an address");
	*ret = a;
	return 0;
}

int fm_read_ip(const char *text, void *ret_ip, struct fm_error *err)
{
	return read_address(text, false, ret_ip, err);
}

int fm_read_host(const char *text, void *ret_ip, struct fm_error *err)
{
	return read_address(text, true, ret_ip, err);
}

int fm_read_mac(const char *text, void *ret_mac, struct fm_error *err)
{
	uint8_t mac[6];

	if (!fm_mac_parse(text, mac))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "\"%.32s\" is not a MAC address like 02:77:00:00:01:00", text);
	if (!fm_mac_is_unicast(mac))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "\"%.32s\" is not the MAC address of one machine, but a group's or zero",
		                    text);
	memcpy(ret_mac, mac, sizeof(mac));
	return 0;
}

int fm_read_interface(const char *text, void *ret_name, struct fm_error *err)
{
	if (!fm_is_interface(text))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "\"%.64s\" is not the name of an interface", text);
	memcpy(ret_name, text, strlen(text) + 1);
	return 0;
}

int fm_read_hex(const char *text, void *ret_u64, struct fm_error *err)
{
	size_t n = strlen(text);

	if (n < 3 || n > 18 || text[0] != '0' || text[1] != 'x' || strspn(text + 2, "0123456789abcdefABCDEF") != n - 2)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "\"%.32s\" is not like 0x1f, with 1 to 16 hexadecimal digits", text);
	*(uint64_t *)ret_u64 = strtoull(text, NULL, 16);
	return 0;
}
