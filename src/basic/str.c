/* SPDX-License-Identifier: MIT */
/*
 * str.c - see str.h.
 *
 * Parsers are strict on purpose: strtoull() would accept blanks, signs and "0x", and an option such as
 * "--downtime -1" would silently become a huge number. Buffers grow by doubling; size arithmetic is checked.
 */
#include "basic/str.h"

#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/limits.h"

static void *must(void *p)
{
	if (!p)
		abort();
	return p;
}

char *fm_xstrdup(const char *s)
{
	return must(strdup(s));
}

char *fm_xasprintf(const char *fmt, ...)
{
	char *s = NULL;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&s, fmt, ap);
	va_end(ap);
	if (n < 0)
		abort();
	return s;
}

int fm_snprintf(char *buf, size_t cap, struct fm_error *err, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(buf, cap, fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= cap)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "text '%.64s…' of %d bytes does not fit into %zu", cap ? buf : "", n,
		                    cap);
	return 0;
}

/* room for n more bytes and the NUL */
static void buf_reserve(struct fm_buf *b, size_t n)
{
	size_t need, cap;

	if (__builtin_add_overflow(b->len, n, &need) || __builtin_add_overflow(need, (size_t)1, &need))
		abort();
	if (need <= b->cap)
		return;
	cap = b->cap ? b->cap : 64;
	while (cap < need)
		if (__builtin_mul_overflow(cap, (size_t)2, &cap))
			abort();
	b->data = must(realloc(b->data, cap));
	b->cap = cap;
}

void fm_buf_add(struct fm_buf *b, const void *data, size_t n)
{
	buf_reserve(b, n);
	if (n)
		memcpy(b->data + b->len, data, n);
	b->len += n;
	b->data[b->len] = '\0';
}

void fm_buf_addf(struct fm_buf *b, const char *fmt, ...)
{
	va_list ap, again;
	int n;

	va_start(ap, fmt);
	va_copy(again, ap);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0)
		abort();
	buf_reserve(b, (size_t)n);
	(void)vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
	va_end(again);
	b->len += (size_t)n;
}

void fm_buf_done(struct fm_buf *b)
{
	int saved = errno;

	free(b->data);
	*b = FM_BUF_INIT;
	errno = saved;
}

size_t fm_strv_len(char *const *v)
{
	size_t n = 0;

	while (v && v[n])
		n++;
	return n;
}

char **fm_strv_copy(char *const *v)
{
	size_t n = fm_strv_len(v);
	char **copy = must(calloc(n + 1, sizeof(*copy)));

	for (size_t i = 0; i < n; i++)
		copy[i] = fm_xstrdup(v[i]);
	return copy;
}

void fm_strv_free(char **v)
{
	for (size_t i = 0; v && v[i]; i++)
		free(v[i]);
	free(v);
}

void fm_strv_add(char ***v, const char *s)
{
	size_t n = fm_strv_len(*v);

	*v = must(reallocarray(*v, n + 2, sizeof(**v)));
	(*v)[n] = fm_xstrdup(s);
	(*v)[n + 1] = NULL;
}

bool fm_str_startswith(const char *s, const char *prefix)
{
	return s && prefix && strncmp(s, prefix, strlen(prefix)) == 0;
}

bool fm_str_endswith(const char *s, const char *suffix)
{
	size_t n, m;

	if (!s || !suffix)
		return false;
	n = strlen(s);
	m = strlen(suffix);
	return n >= m && memcmp(s + n - m, suffix, m) == 0;
}

/* Length of the valid UTF-8 sequence at s that is no control character; 0 when there is none. Never reads behind the NUL. */
static size_t utf8_printable(const unsigned char *s)
{
	uint32_t c = s[0], min;
	size_t n;

	if (c < 0x80)
		return c >= 0x20 && c != 0x7f;
	if ((c & 0xe0) == 0xc0) {
		n = 2;
		c &= 0x1f;
		min = 0xa0; /* U+0080…U+009F are C1 controls */
	} else if ((c & 0xf0) == 0xe0) {
		n = 3;
		c &= 0x0f;
		min = 0x800;
	} else if ((c & 0xf8) == 0xf0) {
		n = 4;
		c &= 0x07;
		min = 0x10000;
	} else {
		return 0;
	}
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (s[i] & 0x3f);
	}
	if (c < min || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff) || c == 0x2028 || c == 0x2029)
		return 0;
	return n;
}

void fm_str_sanitize(char *s)
{
	while (*s) {
		size_t n = utf8_printable((const unsigned char *)s);

		if (n == 0) {
			*s = '?';
			n = 1;
		}
		s += n;
	}
}

/* Leading decimal digits of s; *ret_end behind them. -1: no digit, or overflow (*ret_overflow). */
static int digits_u64(const char *s, uint64_t *ret, const char **ret_end, bool *ret_overflow)
{
	const char *p = s;
	uint64_t v = 0;

	*ret_overflow = false;
	for (; *p >= '0' && *p <= '9'; p++) {
		if (__builtin_mul_overflow(v, (uint64_t)10, &v) || __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v)) {
			*ret_overflow = true;
			return -1;
		}
	}
	if (p == s)
		return -1;
	*ret = v;
	*ret_end = p;
	return 0;
}

static int number_error(const char *s, bool overflow, const char *wanted, struct fm_error *err)
{
	if (overflow)
		return fm_error_set(err, FM_E_OUT_OF_RANGE, "'%.64s' is too large", s);
	return fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%.64s' is not %s", s ? s : "", wanted);
}

int fm_parse_u64(const char *s, uint64_t *ret, struct fm_error *err)
{
	const char *end = NULL;
	bool overflow = false;
	uint64_t v = 0;

	if (!s || digits_u64(s, &v, &end, &overflow) < 0 || *end)
		return number_error(s, overflow, "a whole number", err);
	*ret = v;
	return 0;
}

int fm_parse_int(const char *s, int min, int max, int *ret, struct fm_error *err)
{
	bool negative = s && *s == '-', overflow = false;
	const char *end = NULL;
	uint64_t magnitude = 0;
	int64_t v;

	if (!s || digits_u64(s + negative, &magnitude, &end, &overflow) < 0 || *end) {
		if (!overflow)
			return number_error(s, false, "a whole number", err);
		magnitude = UINT64_MAX;
	}
	/* anything beyond int's range is out of [min, max] too, so the clamp loses nothing */
	if (magnitude > (uint64_t)INT_MAX + 1)
		magnitude = (uint64_t)INT_MAX + 2;
	v = negative ? -(int64_t)magnitude : (int64_t)magnitude;
	if (v < min || v > max)
		return fm_error_set(err, FM_E_OUT_OF_RANGE, "'%.64s' is not between %d and %d", s, min, max);
	*ret = (int)v;
	return 0;
}

static int bytes_shift(const char *suffix)
{
	static const char units[] = "kmgtp";
	char letter = *suffix;
	const char *unit;

	if (letter == '\0' || fm_streq(suffix, "B"))
		return 0;
	if (letter >= 'A' && letter <= 'Z')
		letter = (char)(letter - 'A' + 'a');
	unit = strchr(units, letter);
	if (!unit || (suffix[1] && !fm_streq(suffix + 1, "i") && !fm_streq(suffix + 1, "iB")))
		return -1;
	return 10 * (int)(unit - units + 1);
}

int fm_parse_bytes(const char *s, uint64_t *ret, struct fm_error *err)
{
	static const char wanted[] = "a size such as 100, 64K, 512M or 2G";
	const char *end = NULL;
	bool overflow = false;
	uint64_t v = 0;
	int shift;

	if (!s || digits_u64(s, &v, &end, &overflow) < 0)
		return number_error(s, overflow, wanted, err);
	shift = bytes_shift(end);
	if (shift < 0)
		return number_error(s, false, wanted, err);
	if (v > UINT64_MAX >> shift)
		return number_error(s, true, wanted, err);
	*ret = v << shift;
	return 0;
}

int fm_parse_duration_ms(const char *s, uint64_t *ret, struct fm_error *err)
{
	static const char wanted[] = "a duration such as 250ms, 2s, 1m or 3h";
	static const struct {
		const char *suffix;
		uint64_t ms;
	} units[] = { { "", 1000 }, { "ms", 1 }, { "s", 1000 }, { "m", 60000 }, { "h", 3600000 } };
	const char *end = NULL;
	bool overflow = false;
	uint64_t v = 0;

	if (!s || digits_u64(s, &v, &end, &overflow) < 0)
		return number_error(s, overflow, wanted, err);
	for (size_t i = 0; i < FM_ARRAY_SIZE(units); i++) {
		if (!fm_streq(end, units[i].suffix))
			continue;
		if (__builtin_mul_overflow(v, units[i].ms, &v))
			return number_error(s, true, wanted, err);
		*ret = v;
		return 0;
	}
	return number_error(s, false, wanted, err);
}

const char *fm_format_bytes(uint64_t bytes, char *buf, size_t cap)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double v = (double)bytes;
	size_t u = 0;

	/* 1023.95 would be printed as "1024.0" */
	while (v >= 1023.95 && u + 1 < FM_ARRAY_SIZE(units)) {
		v /= 1024;
		u++;
	}
	if (bytes < 1024)
		(void)snprintf(buf, cap, "%" PRIu64 " B", bytes);
	else
		(void)snprintf(buf, cap, "%.1f %s", v, units[u]);
	return buf;
}

static bool is_alnum(char c)
{
	/* not isalnum(): the locale must not widen what is safe in a path */
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool fm_name_is_valid(const char *s)
{
	size_t n = 0;

	if (!s || !is_alnum(s[0]))
		return false;
	while (s[n]) {
		if (!is_alnum(s[n]) && s[n] != '_' && s[n] != '.' && s[n] != '-')
			return false;
		if (++n >= FM_MAX_NAME)
			return false;
	}
	return true;
}
