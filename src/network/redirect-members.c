/* SPDX-License-Identifier: MIT */
/* redirect-members.c - see redirect-members.h. */
#include "network/redirect-members.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "basic/limits.h"
#include "basic/str.h"

int fm_member_wrong(const char *where, const char *key, const char *text, struct fm_error *err)
{
	return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s: %.64s %s", where, key, text);
}

int fm_members_check(const json_t *o, const char *where, const char *const *known, struct fm_error *err)
{
	const char *key;
	json_t *value;

	if (!json_is_object(o))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%s: it is not an object", where);
	/* the macro's iterator takes no const object, and changes nothing */
	json_object_foreach((json_t *)o, key, value)
	{
		size_t i = 0;

		while (known[i] && !fm_streq(known[i], key))
			i++;
		if (!known[i])
			return fm_member_wrong(where, key, "is not a member that is known here", err);
	}
	return 0;
}

static bool is_plain(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f)
			return false;
	return true;
}

int fm_member_text(const json_t *o, const char *where, const char *key, bool required, size_t max_bytes, const char **ret,
                   struct fm_error *err)
{
	const json_t *m = json_object_get(o, key);
	size_t n = json_string_length(m);
	char text[64];

	if (!m)
		return required ? fm_member_wrong(where, key, "is missing", err) : 0;
	if (!json_is_string(m))
		return fm_member_wrong(where, key, "is not a string", err);
	if (n == 0 || n > max_bytes) {
		(void)snprintf(text, sizeof(text), "has %zu bytes, 1 to %zu are possible", n, max_bytes);
		return fm_member_wrong(where, key, text, err);
	}
	if (!is_plain(json_string_value(m), n))
		return fm_member_wrong(where, key, "has control characters", err);
	*ret = json_string_value(m);
	return 0;
}

int fm_member_number(const json_t *o, const char *where, const char *key, uint64_t min, uint64_t max, uint64_t *ret, struct fm_error *err)
{
	const json_t *m = json_object_get(o, key);
	json_int_t v = json_integer_value(m);
	char text[80];

	if (!m)
		return 0;
	if (!json_is_integer(m) || v < 0 || (uint64_t)v < min || (uint64_t)v > max) {
		(void)snprintf(text, sizeof(text), "is not a whole number from %" PRIu64 " to %" PRIu64, min, max);
		return fm_member_wrong(where, key, text, err);
	}
	*ret = (uint64_t)v;
	return 0;
}

int fm_member_bool(const json_t *o, const char *where, const char *key, bool *ret, struct fm_error *err)
{
	const json_t *m = json_object_get(o, key);

	if (m && !json_is_boolean(m))
		return fm_member_wrong(where, key, "is neither true nor false", err);
	if (m)
		*ret = json_is_true(m);
	return 0;
}

int fm_member_secret_path(const struct fm_redirect_call *c, const json_t *o, const char *where, const char *key, bool required, char **ret,
                          struct fm_error *err)
{
	const char *name = NULL;

	*ret = NULL;
	if (fm_member_text(o, where, key, required, FM_MAX_NAME, &name, err) < 0)
		return -1;
	if (!name)
		return 0;
	if (strchr(name, '/') || name[0] == '.')
		return fm_member_wrong(where, key, "is not the name of a file in the folder of secrets: it has a '/' or begins with '.'",
		                       err);
	if (!c->secrets_dir) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "%s: %s: there is no folder of secrets here", where, key);
		return fm_error_hint(err, "secrets are never in an action; tell the daemon where they are");
	}
	*ret = fm_xasprintf("%s/%s", c->secrets_dir, name);
	return 0;
}

int fm_members_undo_error(const char *where, struct fm_error *err)
{
	if (err)
		err->code = FM_E_DATA_LOSS;
	return fm_error_prefix(err, "%s: the undo is damaged, or of another version", where);
}
