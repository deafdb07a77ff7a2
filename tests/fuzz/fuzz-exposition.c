/* SPDX-License-Identifier: MIT */
/*
 * fuzz-exposition.c - libFuzzer entry for Prometheus' text: label values are what agents and runtimes call things, numbers are what agents report. Whatever they are, the text is one that a strict
 * reader of the format takes, with as many samples as were added and the values that were given.
 */
#include <assert.h>
#include <ctype.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/limits.h"
#include "basic/str.h"
#include "web/exposition.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool is_name(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!islower((unsigned char)s[i]) && !isdigit((unsigned char)s[i]) && s[i] != '_')
			return false;
	return n > 0 && !isdigit((unsigned char)s[0]);
}

/* A quoted value; returns what follows it, and the value in `ret`. */
static const char *read_value(const char *s, char *ret)
{
	assert(*s == '"');
	for (s++; *s != '"'; s++) {
		assert(*s && *s != '\n');
		if (*s == '\\') {
			s++;
			assert(*s == '\\' || *s == '"' || *s == 'n');
			*ret++ = *s == 'n' ? '\n' : *s;
		} else {
			*ret++ = *s;
		}
	}
	*ret = '\0';
	return s + 1;
}

/* name{label="value",…} number; the value of the last label in `ret` */
static double read_sample(const char *line, char *ret)
{
	size_t n = strcspn(line, "{ ");
	char *end = NULL;
	assert(is_name(line, n));
	line += n;
	for (bool more = *line == '{'; more;) {
		n = strcspn(++line, "=");
		assert(is_name(line, n));
		line = read_value(line + n + 1, ret);
		assert(*line == ',' || *line == '}');
		more = *line == ',';
		line += !more;
	}
	assert(*line == ' ');
	double value = strtod(line + 1, &end);
	assert(end > line + 1 && *end == '\0');
	return value;
}

static size_t read_text(char *text, char *last, double *ret_value)
{
	size_t samples = 0;
	for (char *line = text, *next; *line; line = next) {
		next = strchr(line, '\n');
		assert(next);
		*next++ = '\0';
		if (fm_str_startswith(line, "# HELP ") || fm_str_startswith(line, "# TYPE "))
			continue;
		*ret_value = read_sample(line, last);
		samples++;
	}
	return samples;
}

static void one_value(const char *value, double number)
{
	struct fm_exposition *x = fm_exposition_new(1u << 16);
	char last[FM_MAX_LABEL_VALUE + 1], again[FM_MAX_LABEL_VALUE + 1];
	char *text = NULL;
	size_t len = 0;
	double read = 0;
	fm_exposition_begin(x, FM_METRIC_CONTAINER_PROCESSES);
	fm_exposition_add(x, number, (const char *const[]){ "a", value });
	assert(fm_exposition_take(x, &text, &len, NULL) == 0 && strlen(text) == len);
	assert(read_text(text, last, &read) == 1);
	assert(read == number || (isnan(read) && isnan(number)));
	memcpy(again, last, sizeof(again));
	fm_str_sanitize(again);
	assert(fm_streq(last, again)); /* valid UTF-8 in one line */
	if (strlen(value) <= FM_MAX_LABEL_VALUE) {
		char whole[FM_MAX_LABEL_VALUE + 1];
		(void)snprintf(whole, sizeof(whole), "%s", value);
		fm_str_sanitize(whole);
		assert(fm_streq(last, whole));
	}
	free(text);
	fm_exposition_free(x);
}

static void histogram(const uint8_t *data, size_t size)
{
	struct fm_exposition *x = fm_exposition_new(1u << 16);
	uint64_t bounds[8], counts[9] = { 0 }, total = 0;
	char last[FM_MAX_LABEL_VALUE + 1];
	char *text = NULL;
	size_t len = 0;
	double read = 0;
	for (size_t i = 0; i < 8; i++)
		bounds[i] = (i + 1) * 1000 + (i < size ? data[i] : 0);
	for (size_t i = 0; i < 9; i++)
		total += counts[i] = 8 + i < size ? data[8 + i] : 0;
	const struct fm_exposition_histogram h = { .bounds_us = bounds, .n = 8, .counts = counts, .sum_us = total };
	fm_exposition_begin(x, FM_METRIC_DOWNTIME);
	fm_exposition_histogram(x, &h, (const char *const[]){ "live" });
	assert(fm_exposition_take(x, &text, &len, NULL) == 0);
	assert(read_text(text, last, &read) == 11 && read == (double)total); /* 9 buckets, sum, count */
	free(text);
	fm_exposition_free(x);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	double number = 0;
	if (size < sizeof(number))
		return 0;
	memcpy(&number, data, sizeof(number));
	char *value = strndup((const char *)data + sizeof(number), size - sizeof(number));
	if (!value)
		return 0;
	one_value(value, number);
	histogram(data, size);
	free(value);
	return 0;
}
