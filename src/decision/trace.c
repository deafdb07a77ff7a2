/* SPDX-License-Identifier: MIT */
/* trace.c - reads a recorded series. */
#include "decision/trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "basic/limits.h"

#define STEP_MS_MIN 1000
#define STEP_MS_MAX 86400000
#define VALUE_MOST  1e15
#define NUMBER_MOST 64u /* characters of a value */

struct scan {
	const char *at, *end; /* of a line */
};

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Exactly n digits. */
static bool scan_digits(struct scan *s, unsigned n, int *ret)
{
	int value = 0;
	for (unsigned i = 0; i < n; i++) {
		if (s->at == s->end || !is_digit(*s->at))
			return false;
		value = value * 10 + (*s->at++ - '0');
	}
	*ret = value;
	return true;
}

static bool scan_char(struct scan *s, char c)
{
	if (s->at == s->end || *s->at != c)
		return false;
	s->at++;
	return true;
}

/* Days from 1970-01-01 to a date of the Gregorian calendar: years begin in March, so that the leap day is the last. */
static int64_t days_from_date(int year, int month, int day)
{
	int64_t y = month > 2 ? year : year - 1, m = month > 2 ? month - 3 : month + 9;
	return y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1 - 719468;
}

static int days_of_month(int year, int month)
{
	static const int days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
	bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
	return days[month - 1] + (month == 2 && leap);
}

/* "Z", "+hh:mm", "-hh:mm" or nothing: milliseconds to subtract. */
static bool scan_zone(struct scan *s, int64_t *ret_ms)
{
	int hours, minutes, sign;
	*ret_ms = 0;
	if (scan_char(s, 'Z') || s->at == s->end || (*s->at != '+' && *s->at != '-'))
		return true;
	sign = *s->at++ == '+' ? 1 : -1;
	if (!scan_digits(s, 2, &hours) || !scan_char(s, ':') || !scan_digits(s, 2, &minutes) || hours > 15 || minutes > 59)
		return false;
	*ret_ms = sign * (hours * 60 + minutes) * 60000ll;
	return true;
}

/* ".123": milliseconds; nothing is 0. */
static bool scan_fraction(struct scan *s, int *ret_ms)
{
	unsigned n = 0;
	*ret_ms = 0;
	if (!scan_char(s, '.'))
		return true;
	for (; s->at < s->end && is_digit(*s->at); s->at++, n++)
		if (n < 3)
			*ret_ms += (*s->at - '0') * (n == 0 ? 100 : n == 1 ? 10 : 1);
	return n > 0 && n <= 9;
}

static bool scan_stamp(struct scan *s, int64_t *ret_ms)
{
	int year, month, day, hour, minute, second, fraction;
	int64_t zone;
	if (!scan_digits(s, 4, &year) || !scan_char(s, '-') || !scan_digits(s, 2, &month) || !scan_char(s, '-') ||
	    !scan_digits(s, 2, &day) || (!scan_char(s, ' ') && !scan_char(s, 'T')) || !scan_digits(s, 2, &hour) || !scan_char(s, ':') ||
	    !scan_digits(s, 2, &minute) || !scan_char(s, ':') || !scan_digits(s, 2, &second) || !scan_fraction(s, &fraction) ||
	    !scan_zone(s, &zone))
		return false;
	if (year < 1970 || month < 1 || month > 12 || day < 1 || day > days_of_month(year, month) || hour > 23 || minute > 59 ||
	    second > 60)
		return false;
	*ret_ms = (days_from_date(year, month, day) * 86400 + hour * 3600 + minute * 60 + second) * 1000 + fraction - zone;
	return *ret_ms >= 0;
}

/* What strtod takes and is a decimal number: no hexadecimal, nan, inf, leading space. */
static bool scan_value(struct scan *s, double *ret)
{
	char copy[NUMBER_MOST + 1], *end;
	size_t n = 0;
	while (s->at < s->end && (is_digit(*s->at) || strchr("+-.eE", *s->at))) {
		if (!*s->at || n == NUMBER_MOST)
			return false;
		copy[n++] = *s->at++;
	}
	copy[n] = '\0';
	*ret = strtod(copy, &end);
	return n > 0 && end == copy + n && fabs(*ret) <= VALUE_MOST;
}

static int take_line(struct fm_trace *t, size_t *room, struct scan s, size_t number, struct fm_error *err)
{
	struct fm_trace_point p;
	if (!scan_stamp(&s, &p.unix_ms))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "line %zu: no stamp like 2014-02-14 14:30:00 at its beginning", number);
	if (!scan_char(&s, ',') || !scan_value(&s, &p.value) || s.at != s.end)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "line %zu: no finite number, and nothing else, behind stamp and comma",
		                    number);
	if (t->n == FM_MAX_TRACE_POINTS)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "line %zu: more than %u points", number, FM_MAX_TRACE_POINTS);
	if (t->n == *room) {
		size_t more = *room ? *room * 2 : 1024;
		struct fm_trace_point *grown = realloc(t->point, more * sizeof(*grown));
		if (!grown)
			return fm_error_errno(err, ENOMEM, "line %zu", number);
		t->point = grown;
		*room = more;
	}
	t->point[t->n++] = p;
	return 0;
}

static int ascending(const void *a, const void *b)
{
	const int64_t *x = a, *y = b;
	return (*x > *y) - (*x < *y);
}

static int find_step(struct fm_trace *t, struct fm_error *err)
{
	_fm_free_ int64_t *distance = calloc(t->n + 1, sizeof(*distance));
	size_t n = 0, best = 0;
	if (!distance)
		return fm_error_errno(err, ENOMEM, "%zu points", t->n);
	for (size_t i = 1; i < t->n; i++) {
		int64_t d = t->point[i].unix_ms - t->point[i - 1].unix_ms;
		if (d >= STEP_MS_MIN && d <= STEP_MS_MAX)
			distance[n++] = d;
	}
	qsort(distance, n, sizeof(*distance), ascending);
	for (size_t i = 0, run = 0; i < n; i++) {
		run = i > 0 && distance[i] == distance[i - 1] ? run + 1 : 1;
		if (run > best) {
			best = run;
			t->step_ms = (uint32_t)distance[i];
		}
	}
	return best ? 0 : fm_error_set(err, FM_E_INVALID_ARGUMENT, "no two neighbouring points are 1 s to 1 day apart");
}

void fm_trace_done(struct fm_trace *t)
{
	free(t->point);
	*t = (struct fm_trace){ 0 };
}

int fm_trace_parse(const char *text, size_t n, struct fm_trace *ret, struct fm_error *err)
{
	_fm_cleanup_(fm_trace_done) struct fm_trace t = { 0 };
	const char *at = text, *end = text + n;
	size_t room = 0;
	for (size_t number = 1; at < end; number++) {
		const char *newline = memchr(at, '\n', (size_t)(end - at)), *next = newline ? newline + 1 : end;
		struct scan line = { at, newline ? newline : end };
		if (line.end > line.at && line.end[-1] == '\r')
			line.end--;
		at = next;
		if (line.at == line.end || (number == 1 && !is_digit(*line.at)))
			continue;
		if (take_line(&t, &room, line, number, err) < 0)
			return -1;
	}
	if (find_step(&t, err) < 0)
		return -1;
	*ret = t;
	t = (struct fm_trace){ 0 };
	return 0;
}
