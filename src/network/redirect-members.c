/* SPDX-License-Identifier: MIT */
/* redirect-members.c - see redirect-members.h. */
#include "network/redirect-members.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "basic/cleanup.h"
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

/* A FIFO must not make us wait, and what others can read is no secret. */
static int secret_open(const char *path, int *ret_fd, struct fm_error *err)
{
	_fm_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;

	if (fd < 0)
		return fm_error_errno(err, errno, "opening the secret %s", path);
	if (fstat(fd, &st) < 0)
		return fm_error_errno(err, errno, "looking at the secret %s", path);
	if (!S_ISREG(st.st_mode))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "the secret %s is not a file", path);
	if ((st.st_uid != 0 && st.st_uid != geteuid()) || (st.st_mode & 077)) {
		(void)fm_error_set(err, FM_E_PERMISSION_DENIED,
		                   "the secret %s belongs to user %u and has mode %04o: others can read or write it", path, st.st_uid,
		                   st.st_mode & 07777);
		return fm_error_hint(err, "chown root %s; chmod 600 %s; and make a new secret", path, path);
	}
	*ret_fd = FM_TAKE_FD(fd);
	return 0;
}

static int secret_read(const char *path, size_t min, char *ret, size_t cap, size_t *ret_len, struct fm_error *err)
{
	_fm_close_ int fd = -1;
	ssize_t n, more = 0;
	char byte;

	if (secret_open(path, &fd, err) < 0)
		return -1;
	n = read(fd, ret, cap); /* a small regular file comes in one piece */
	if (n == (ssize_t)cap)
		more = read(fd, &byte, 1);
	if (n < 0 || more < 0)
		return fm_error_errno(err, errno, "reading the secret %s", path);
	if (more > 0)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "the secret %s has more than %zu bytes", path, cap);
	while (n > 0 && isspace((unsigned char)ret[n - 1]))
		n--;
	if ((size_t)n < min)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "the secret %s has %zd bytes: less than %zu can be guessed", path, n, min);
	*ret_len = (size_t)n;
	return 0;
}

int fm_member_secret(const struct fm_redirect_call *c, const json_t *o, const char *where, const char *key, size_t min, char *ret,
                     size_t cap, size_t *ret_len, struct fm_error *err)
{
	_fm_free_ char *path = NULL;

	*ret_len = 0;
	if (fm_member_secret_path(c, o, where, key, false, &path, err) < 0)
		return -1;
	if (path && secret_read(path, min, ret, cap, ret_len, err) < 0)
		return fm_error_prefix(err, "%s: %s", where, key);
	return 0;
}

int fm_members_undo_error(const char *where, struct fm_error *err)
{
	if (err)
		err->code = FM_E_DATA_LOSS;
	return fm_error_prefix(err, "%s: the undo is damaged, or of another version", where);
}
