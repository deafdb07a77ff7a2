/* SPDX-License-Identifier: MIT */
/* parse.c - see parse.h. By hand and not by sscanf: these are read hundreds of times a second. */
#include "monitor/parse.h"

#include <limits.h>
#include <math.h>
#include <string.h>

static const char *skip_blanks(const char *p)
{
	while (*p == ' ' || *p == '\t')
		p++;
	return p;
}

/* A number that is not followed by another letter of a word; NULL: there is none, or it is too large. */
static const char *number(const char *p, uint64_t *ret)
{
	uint64_t v = 0;

	if (*p < '0' || *p > '9')
		return NULL;
	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(v, (uint64_t)10, &v) || __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
			return NULL;
	*ret = v;
	return p;
}

static const char *next_line(const char *p)
{
	const char *end = strchr(p, '\n');

	return end ? end + 1 : p + strlen(p);
}

bool fm_parse_number(const char *text, uint64_t *ret)
{
	uint64_t v;
	const char *p = number(text, &v);

	if (!p || (*p && *p != '\n'))
		return false;
	*ret = v;
	return true;
}

bool fm_parse_keyed(const char *text, const char *key, uint64_t *ret)
{
	size_t n = strlen(key);

	for (const char *p = text; *p; p = next_line(p)) {
		if (strncmp(p, key, n) != 0 || (p[n] != ' ' && p[n] != '\t'))
			continue;
		uint64_t v;
		const char *end = number(skip_blanks(p + n), &v);
		if (!end || (*end && *end != '\n' && *end != ' '))
			return false;
		*ret = v;
		return true;
	}
	return false;
}

bool fm_parse_cpu_ticks(const char *text, uint64_t *ret_busy, uint64_t *ret_all)
{
	/* user nice system idle iowait irq softirq steal; steal is time that another machine had: not idle, and not ours to give away */
	uint64_t v[8] = { 0 }, all = 0;
	const char *p = text;
	int n = 0;

	if (strncmp(p, "cpu ", 4) != 0)
		return false;
	for (p += 4; n < 8 && (p = number(skip_blanks(p), &v[n])); n++)
		if (__builtin_add_overflow(all, v[n], &all))
			return false;
	if (n < 4)
		return false;
	*ret_all = all;
	*ret_busy = all - v[3] - v[4];
	return true;
}

/* "12.34" without a locale's opinion. */
static const char *decimal(const char *p, double *ret)
{
	uint64_t whole, part = 0;
	double scale = 1;

	if (!(p = number(p, &whole)))
		return NULL;
	if (*p == '.') {
		const char *digits = p + 1, *end = number(digits, &part);
		if (!end || end - digits > 9)
			return NULL;
		for (const char *d = digits; d < end; d++)
			scale *= 10;
		p = end;
	}
	*ret = (double)whole + (double)part / scale;
	return p;
}

bool fm_parse_pressure(const char *text, double *ret)
{
	static const char key[] = " avg60=";
	const char *end = strchr(text, '\n'), *p = strstr(text, key);
	double v;

	if (strncmp(text, "some ", 5) != 0 || !p || (end && p > end) || !decimal(p + strlen(key), &v) || v > 100)
		return false;
	*ret = v;
	return true;
}

bool fm_parse_load1(const char *text, double *ret)
{
	double v;
	const char *p = decimal(text, &v);

	if (!p || *p != ' ')
		return false;
	*ret = v;
	return true;
}

bool fm_parse_established(const char *text, uint64_t *ret)
{
	static const char key[] = "CurrEstab";
	const char *names = NULL;
	unsigned at = 0;

	for (const char *p = text; *p; p = next_line(p)) {
		if (strncmp(p, "Tcp: ", 5) != 0)
			continue;
		if (!names) {
			const char *end = strchr(p, '\n'), *found = strstr(p, key);
			if (!end || !found || found > end)
				return false;
			for (names = p; names < found; names++)
				at += *names == ' ';
			continue;
		}
		for (; at > 0 && *p && *p != '\n'; p++)
			at -= *p == ' ';
		return at == 0 && number(p, ret);
	}
	return false;
}

bool fm_parse_net_line(const char **p, struct fm_net_line *ret)
{
	for (; **p; *p = next_line(*p)) {
		const char *name = skip_blanks(*p), *end = name + strcspn(name, ":|\n");
		uint64_t v[9];
		int n = 0;
		size_t len = (size_t)(end - name);

		if (*end != ':' || !len || len >= sizeof(ret->name)) /* the two lines of headers */
			continue;
		for (const char *q = end + 1; n < 9 && (q = number(skip_blanks(q), &v[n])); n++)
			;
		if (n < 9)
			continue;
		memcpy(ret->name, name, len);
		ret->name[len] = '\0';
		ret->in_bytes = v[0];
		ret->out_bytes = v[8];
		*p = next_line(*p);
		return true;
	}
	return false;
}

bool fm_parse_disk_line(const char **p, struct fm_disk_line *ret)
{
	for (; **p; *p = next_line(*p)) {
		uint64_t v[10], ignored;
		const char *q = number(skip_blanks(*p), &ignored);
		int n = 0;

		if (!q || !(q = number(skip_blanks(q), &ignored)))
			continue;
		const char *name = skip_blanks(q);
		size_t len = strcspn(name, " \t\n");
		if (!len || len >= sizeof(ret->name))
			continue;
		for (q = name + len; n < 10 && (q = number(skip_blanks(q), &v[n])); n++)
			;
		if (n < 10 || v[2] > UINT64_MAX / 512 || v[6] > UINT64_MAX / 512)
			continue;
		memcpy(ret->name, name, len);
		ret->name[len] = '\0';
		ret->read_bytes = v[2] * 512; /* sectors of 512 bytes whatever the disk's are */
		ret->written_bytes = v[6] * 512;
		ret->busy_ms = v[9];
		*p = next_line(*p);
		return true;
	}
	return false;
}

/* Adds the number after `key` where the line has it. */
static bool add_word(const char *line, const char *key, uint64_t *sum)
{
	const char *end = line + strcspn(line, "\n"), *p = strstr(line, key);
	uint64_t v;

	if (!p || p >= end)
		return true;
	return number(p + strlen(key), &v) && !__builtin_add_overflow(*sum, v, sum);
}

static bool sum_words(const char *text, const char *read_key, const char *write_key, uint64_t *ret_read, uint64_t *ret_written)
{
	uint64_t in = 0, out = 0;

	for (const char *p = text; *p; p = next_line(p))
		if (!add_word(p, read_key, &in) || !add_word(p, write_key, &out))
			return false;
	*ret_read = in;
	*ret_written = out;
	return true;
}

bool fm_parse_blkio(const char *text, uint64_t *ret_read, uint64_t *ret_written)
{
	return sum_words(text, " Read ", " Write ", ret_read, ret_written);
}

bool fm_parse_io_stat(const char *text, uint64_t *ret_read, uint64_t *ret_written)
{
	return sum_words(text, " rbytes=", " wbytes=", ret_read, ret_written);
}

bool fm_parse_pid_line(const char **p, int *ret)
{
	for (; **p; *p = next_line(*p)) {
		uint64_t v;
		const char *end = number(*p, &v);

		if (!end || *end != '\n' || v == 0 || v > INT_MAX) /* a line that was cut off may be the beginning of another number */
			continue;
		*ret = (int)v;
		*p = end + 1;
		return true;
	}
	return false;
}
