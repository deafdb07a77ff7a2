/* SPDX-License-Identifier: MIT */
/* redirect-secret.c - see redirect-secret.h. */
#include "network/redirect-secret.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "basic/cleanup.h"
#include "basic/str.h"

int fm_redirect_secret_path(const struct fm_redirect_call *c, const char *name, const struct fm_place *at, const char *key, char **ret,
                            struct fm_error *err)
{
	if (!name) {
		*ret = NULL;
		return 0;
	}
	if (strchr(name, '/') || name[0] == '.')
		return fm_field_wrong(at, key, "is not the name of a file in the folder of secrets: it has a '/' or begins with '.'", err);
	if (!c->secrets_dir) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "%s: %s: there is no folder of secrets here", at->who, key);
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

int fm_redirect_secret(const struct fm_redirect_call *c, const char *name, const struct fm_place *at, const char *key, size_t min,
                       char *ret, size_t cap, size_t *ret_len, struct fm_error *err)
{
	_fm_free_ char *path = NULL;

	*ret_len = 0;
	if (fm_redirect_secret_path(c, name, at, key, &path, err) < 0)
		return -1;
	if (path && secret_read(path, min, ret, cap, ret_len, err) < 0)
		return fm_error_prefix(err, "%s: %s", at->who, key);
	return 0;
}
