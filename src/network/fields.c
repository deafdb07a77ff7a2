/* SPDX-License-Identifier: MIT */
/* fields.c - strict JSON objects by tables. See fields.h. */
#include "network/fields.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

#include "basic/limits.h"
#include "basic/str.h"
#include "network/dns.h"

#define PLACE_MAX 128

int fm_field_wrong(const char *place, const char *key, const char *what, struct fm_error *err)
{
	return fm_error_set(err, FM_E_INVALID_ARGUMENT, "network: %.100s%s%.64s%s%s", place, *place && key ? "." : "", key ? key : "",
	                    *place || key ? " " : "it ", what);
}

static const struct fm_field *find(const struct fm_field *fields, const char *name)
{
	for (; fields->name; fields++)
		if (fm_streq(fields->name, name))
			return fields;
	return NULL;
}

static int read_number(const json_t *v, const char *place, const struct fm_field *m, uint64_t *ret, struct fm_error *err)
{
	char text[96];

	if (!json_is_integer(v) || json_integer_value(v) < 0 || (uint64_t)json_integer_value(v) < m->min ||
	    (uint64_t)json_integer_value(v) > m->max) {
		(void)snprintf(text, sizeof(text), "is not a whole number from %" PRIu64 " to %" PRIu64, m->min, m->max);
		return fm_field_wrong(place, m->name, text, err);
	}
	*ret = (uint64_t)json_integer_value(v);
	return 0;
}

static int check_text(const char *text, size_t max, const char *place, const char *key, bool (*check)(const char *text), const char *what,
                      struct fm_error *err)
{
	char said[96];

	if (!text)
		return fm_field_wrong(place, key, "is not a text", err);
	if (!*text)
		return fm_field_wrong(place, key, "is empty", err);
	if (strlen(text) > max) {
		(void)snprintf(said, sizeof(said), "has more than %zu characters", max);
		return fm_field_wrong(place, key, said, err);
	}
	if (check && !check(text))
		return fm_field_wrong(place, key, what, err);
	return 0;
}

static int read_many(const json_t *v, const char *place, const struct fm_field *m, const json_t **ret, struct fm_error *err)
{
	bool list = m->type == FM_FIELD_LIST;
	size_t n = list ? json_array_size(v) : json_object_size(v);
	char text[96];

	if (list ? !json_is_array(v) : !json_is_object(v))
		return fm_field_wrong(place, m->name, list ? "is not a list" : "is not an object", err);
	if (n < m->min || (m->max && n > m->max)) {
		(void)snprintf(text, sizeof(text), "has %zu entries; %" PRIu64 " to %" PRIu64 " are possible", n, m->min, m->max);
		return fm_field_wrong(place, m->name, text, err);
	}
	*ret = v;
	return 0;
}

static int read_member(const json_t *v, const char *place, const struct fm_field *m, void *ret, struct fm_error *err)
{
	void *p = (char *)ret + m->offset;
	uint64_t number = 0;

	switch (m->type) {
	case FM_FIELD_TEXT:
		if (check_text(json_string_value(v), m->max ? m->max : FM_FIELD_TEXT_MAX, place, m->name, m->check, m->what, err) < 0)
			return -1;
		*(const char **)p = json_string_value(v);
		return 0;
	case FM_FIELD_U32:
	case FM_FIELD_U64:
		if (read_number(v, place, m, &number, err) < 0)
			return -1;
		if (m->type == FM_FIELD_U32)
			*(uint32_t *)p = (uint32_t)number;
		else
			*(uint64_t *)p = number;
		return 0;
	case FM_FIELD_BOOL:
		if (!json_is_boolean(v))
			return fm_field_wrong(place, m->name, "is neither true nor false", err);
		*(bool *)p = json_is_true(v);
		return 0;
	default:
		return read_many(v, place, m, p, err);
	}
}

int fm_fields_read(const json_t *o, const char *place, const struct fm_field *fields, void *ret, struct fm_error *err)
{
	const char *key;
	json_t *v;

	if (!json_is_object(o))
		return fm_field_wrong(place, NULL, "is not an object", err);
	json_object_foreach((json_t *)o, key, v) /* the macro's iterator wants it changeable, and changes nothing */
	{
		const struct fm_field *m = find(fields, key);

		if (!m)
			return fm_field_wrong(place, key, "is not a member that is known here", err);
		if (read_member(v, place, m, ret, err) < 0)
			return -1;
	}
	for (; fields->name; fields++)
		if (fields->required && !json_object_get(o, fields->name))
			return fm_field_wrong(place, fields->name, "is missing", err);
	return 0;
}

int fm_fields_each(const json_t *list, const char *place, const char *key,
                   int (*each)(void *userdata, size_t i, const json_t *entry, const char *place, struct fm_error *err), void *userdata,
                   struct fm_error *err)
{
	char text[PLACE_MAX];

	for (size_t i = 0; i < json_array_size(list); i++) {
		(void)snprintf(text, sizeof(text), "%.64s%s%.32s[%zu]", place, *place ? "." : "", key, i);
		if (each(userdata, i, json_array_get(list, i), text, err) < 0)
			return -1;
	}
	return 0;
}

int fm_fields_map(const json_t *o, const char *place, const char *key, bool (*check)(const char *text), const char *what,
                  struct fm_error *err)
{
	char text[PLACE_MAX];
	const char *name;
	json_t *v;

	(void)snprintf(text, sizeof(text), "%.64s%s%.32s", place, *place ? "." : "", key);
	json_object_foreach((json_t *)o, name, v)
	{
		if (!fm_name_is_valid(name))
			return fm_field_wrong(text, name, "is not a name", err);
		if (check_text(json_string_value(v), FM_FIELD_TEXT_MAX, text, name, check, what, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- texts */

int fm_ip_family(const char *text)
{
	struct in6_addr a;

	if (inet_pton(AF_INET, text, &a) == 1)
		return AF_INET;
	return inet_pton(AF_INET6, text, &a) == 1 ? AF_INET6 : 0;
}

bool fm_is_ip_address(const char *text)
{
	return fm_ip_family(text) != 0;
}

static bool is_port(const char *text)
{
	int port = 0;

	return fm_parse_int(text, 1, 65535, &port, NULL) == 0;
}

bool fm_is_host_port(const char *text)
{
	char address[64];
	const char *end = *text == '[' ? strchr(text, ']') : strrchr(text, ':');
	size_t skip = *text == '[';

	if (fm_is_ip_address(text))
		return true;
	if (!end || (size_t)(end - text) - skip >= sizeof(address) || (skip && end[1] != ':'))
		return false;
	(void)snprintf(address, sizeof(address), "%.*s", (int)((size_t)(end - text) - skip), text + skip);
	return fm_ip_family(address) == (skip ? AF_INET6 : AF_INET) && is_port(end + 1 + skip);
}

bool fm_is_switch_address(const char *text)
{
	const char *colon = strrchr(text, ':');

	if (fm_str_startswith(text, "unix:"))
		return text[strlen("unix:")] == '/';
	return fm_str_startswith(text, "tcp:") && colon > text + strlen("tcp:") && is_port(colon + 1);
}

bool fm_is_url(const char *text)
{
	const char *host = fm_str_startswith(text, "http://")    ? text + strlen("http://")
	                   : fm_str_startswith(text, "https://") ? text + strlen("https://")
	                                                         : NULL;

	if (!host || !*host || strchr("/:?#@", *host))
		return false;
	for (const char *p = text; *p; p++)
		if (*p <= ' ' || *p > '~' || strchr("\"<>\\^`{|}", *p))
			return false;
	return true;
}

bool fm_is_file_name(const char *text)
{
	return fm_name_is_valid(text);
}

bool fm_is_interface(const char *text)
{
	return strlen(text) < IFNAMSIZ && !fm_streq(text, ".") && !fm_streq(text, "..") && !strpbrk(text, "/ \t\n:") && *text != '-';
}

bool fm_is_dns_name(const char *text)
{
	char canonical[FM_DNS_NAME_MAX + 1];

	return fm_dns_name_parse(text, canonical, NULL) == 0;
}
