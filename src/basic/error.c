/* SPDX-License-Identifier: MIT */
/*
 * error.c - see error.h.
 *
 * Text is always formatted into a scratch buffer first and then copied, because callers wrap an error in itself
 * (fm_error_set(err, code, "…: %s", err->message)). Messages carry outsiders' text (file names, stderr of programs), so
 * everything goes through fm_str_sanitize before it is stored. errno survives every function here.
 */
#include "basic/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/str.h"

static const char *const code_names[_FM_CODE_MAX] = {
	[FM_OK] = "OK",
	[FM_E_CANCELLED] = "CANCELLED",
	[FM_E_UNKNOWN] = "UNKNOWN",
	[FM_E_INVALID_ARGUMENT] = "INVALID_ARGUMENT",
	[FM_E_DEADLINE_EXCEEDED] = "DEADLINE_EXCEEDED",
	[FM_E_NOT_FOUND] = "NOT_FOUND",
	[FM_E_ALREADY_EXISTS] = "ALREADY_EXISTS",
	[FM_E_PERMISSION_DENIED] = "PERMISSION_DENIED",
	[FM_E_RESOURCE_EXHAUSTED] = "RESOURCE_EXHAUSTED",
	[FM_E_FAILED_PRECONDITION] = "FAILED_PRECONDITION",
	[FM_E_ABORTED] = "ABORTED",
	[FM_E_OUT_OF_RANGE] = "OUT_OF_RANGE",
	[FM_E_UNIMPLEMENTED] = "UNIMPLEMENTED",
	[FM_E_INTERNAL] = "INTERNAL",
	[FM_E_UNAVAILABLE] = "UNAVAILABLE",
	[FM_E_DATA_LOSS] = "DATA_LOSS",
	[FM_E_UNAUTHENTICATED] = "UNAUTHENTICATED",
};

static const struct {
	int sys_errno;
	enum fm_code code;
} errno_codes[] = {
	{ ENOENT, FM_E_NOT_FOUND },
	{ ESRCH, FM_E_NOT_FOUND },
	{ ENOSPC, FM_E_RESOURCE_EXHAUSTED },
	{ ENOMEM, FM_E_RESOURCE_EXHAUSTED },
	{ EDQUOT, FM_E_RESOURCE_EXHAUSTED },
	{ EMFILE, FM_E_RESOURCE_EXHAUSTED },
	{ ENFILE, FM_E_RESOURCE_EXHAUSTED },
	{ EACCES, FM_E_PERMISSION_DENIED },
	{ EPERM, FM_E_PERMISSION_DENIED },
	{ EROFS, FM_E_PERMISSION_DENIED },
	{ ETIMEDOUT, FM_E_DEADLINE_EXCEEDED },
	{ ECONNREFUSED, FM_E_UNAVAILABLE },
	{ ECONNRESET, FM_E_UNAVAILABLE },
	{ ECONNABORTED, FM_E_UNAVAILABLE },
	{ ENOTCONN, FM_E_UNAVAILABLE },
	{ EPIPE, FM_E_UNAVAILABLE },
	{ EHOSTUNREACH, FM_E_UNAVAILABLE },
	{ ENETUNREACH, FM_E_UNAVAILABLE },
	{ EEXIST, FM_E_ALREADY_EXISTS },
	{ EADDRINUSE, FM_E_ALREADY_EXISTS },
	{ ECANCELED, FM_E_CANCELLED },
	{ ENOSYS, FM_E_UNIMPLEMENTED },
	{ EOPNOTSUPP, FM_E_UNIMPLEMENTED },
};

static enum fm_code code_from_errno(int sys_errno)
{
	for (size_t i = 0; i < FM_ARRAY_SIZE(errno_codes); i++)
		if (errno_codes[i].sys_errno == sys_errno)
			return errno_codes[i].code;
	return FM_E_INTERNAL;
}

/* dst becomes text, cut to cap; cutting may split a UTF-8 sequence, which the sanitising repairs */
static void store_text(char *dst, size_t cap, const char *text)
{
	size_t n = strnlen(text, cap - 1);

	memcpy(dst, text, n);
	dst[n] = '\0';
	fm_str_sanitize(dst);
}

int(fm_error_set)(struct fm_error *err, enum fm_code code, const char *fmt, ...)
{
	char text[sizeof(err->message)];
	int saved = errno;
	va_list ap;

	if (!err)
		return -1;
	va_start(ap, fmt);
	if (vsnprintf(text, sizeof(text), fmt, ap) < 0)
		text[0] = '\0';
	va_end(ap);

	*err = FM_ERROR_INIT;
	err->code = code == FM_OK ? FM_E_UNKNOWN : code;
	store_text(err->message, sizeof(err->message), text);
	errno = saved;
	return -1;
}

int(fm_error_errno)(struct fm_error *err, int sys_errno, const char *fmt, ...)
{
	char text[sizeof(err->message)], reason_buf[128];
	int saved = errno;
	const char *reason;
	size_t room, used;
	va_list ap;

	if (!err)
		return -1;
	if (sys_errno < 0)
		sys_errno = -sys_errno;
	/* GNU strerror_r: thread-safe, may return a constant instead of filling the buffer */
	reason = strerror_r(sys_errno, reason_buf, sizeof(reason_buf));
	/* a long text must not push the reason out */
	room = sizeof(text) - strnlen(reason, sizeof(reason_buf)) - 2;

	va_start(ap, fmt);
	if (vsnprintf(text, room, fmt, ap) < 0)
		text[0] = '\0';
	va_end(ap);
	used = strlen(text);
	(void)snprintf(text + used, sizeof(text) - used, ": %s", reason);

	*err = FM_ERROR_INIT;
	err->code = code_from_errno(sys_errno);
	err->sys_errno = sys_errno;
	store_text(err->message, sizeof(err->message), text);
	errno = saved;
	return -1;
}

int(fm_error_prefix)(struct fm_error *err, const char *fmt, ...)
{
	char text[sizeof(err->message)];
	int saved = errno;
	size_t used, n;
	va_list ap;

	if (!err)
		return -1;
	va_start(ap, fmt);
	if (vsnprintf(text, sizeof(text), fmt, ap) < 0)
		text[0] = '\0';
	va_end(ap);

	used = strlen(text);
	if (used + 2 < sizeof(text)) {
		memcpy(text + used, ": ", 2);
		used += 2;
		n = strnlen(err->message, sizeof(text) - 1 - used);
		memcpy(text + used, err->message, n);
		text[used + n] = '\0';
	}
	store_text(err->message, sizeof(err->message), text);
	errno = saved;
	return -1;
}

int(fm_error_hint)(struct fm_error *err, const char *fmt, ...)
{
	char text[sizeof(err->hint)];
	int saved = errno;
	va_list ap;

	if (!err)
		return -1;
	va_start(ap, fmt);
	if (vsnprintf(text, sizeof(text), fmt, ap) < 0)
		text[0] = '\0';
	va_end(ap);
	store_text(err->hint, sizeof(err->hint), text);
	errno = saved;
	return -1;
}

int(fm_error_phase)(struct fm_error *err, const char *phase)
{
	if (err && phase && !err->phase[0])
		store_text(err->phase, sizeof(err->phase), phase);
	return -1;
}

void fm_error_clear(struct fm_error *err)
{
	if (err)
		*err = FM_ERROR_INIT;
}

const char *fm_code_to_string(enum fm_code code)
{
	if ((unsigned)code >= _FM_CODE_MAX)
		return "UNKNOWN";
	return code_names[code];
}

enum fm_code fm_code_from_string(const char *name)
{
	for (unsigned i = 0; name && i < _FM_CODE_MAX; i++)
		if (strcmp(code_names[i], name) == 0)
			return (enum fm_code)i;
	return FM_E_UNKNOWN;
}
