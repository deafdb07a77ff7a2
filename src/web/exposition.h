/* SPDX-License-Identifier: MIT */
/*
 * exposition.h - Prometheus' text format, version 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/), of metrics in the catalogue.
 *
 * Calling sequence: new -> for each metric once: begin, then its samples -> take -> free. A metric without samples leaves no trace: what is not known is absent, never zero. Label values are made
 * fit: at most FM_MAX_LABEL_VALUE bytes, control characters and what is no UTF-8 become '?', quotes and backslashes are escaped. Who gives the same label values twice for one metric makes
 * a text that Prometheus takes half: callers see to that.
 *
 * Not thread-safe; one text, one thread. Memory: one buffer, at most max_bytes and one line; beyond it nothing more is added and take fails.
 */
#ifndef FM_WEB_EXPOSITION_H
#define FM_WEB_EXPOSITION_H

#include <stddef.h>
#include <stdint.h>

#include "basic/error.h"
#include "web/catalogue.h"

#define FM_EXPOSITION_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

struct fm_exposition;

struct fm_exposition *fm_exposition_new(size_t max_bytes);
void fm_exposition_free(struct fm_exposition *x);

/* The samples that follow are of this metric. Each once: a second time is a mistake of the program, and ends it. */
void fm_exposition_begin(struct fm_exposition *x, enum fm_metric m);
/* A sample of a counter or gauge. labels: as many values as the catalogue has names for that metric; NULL where it has none. */
void fm_exposition_add(struct fm_exposition *x, double value, const char *const *labels);
/* The same for whole numbers, also beyond 2^53. */
void fm_exposition_add_u64(struct fm_exposition *x, uint64_t value, const char *const *labels);
/* begin and one sample of a metric without labels */
void fm_exposition_one(struct fm_exposition *x, enum fm_metric m, double value);
void fm_exposition_one_u64(struct fm_exposition *x, enum fm_metric m, uint64_t value);

/* Times in buckets: counts[i] are those of at most bounds_us[i] and more than the bound before; counts[n] is the rest. */
struct fm_exposition_histogram {
	const uint64_t *bounds_us; /* increasing */
	size_t n;
	const uint64_t *counts; /* n + 1 */
	uint64_t sum_us;
};
/* Written in seconds. */
void fm_exposition_histogram(struct fm_exposition *x, const struct fm_exposition_histogram *h, const char *const *labels);

/* The whole text, without a NUL in its length; free() it. RESOURCE_EXHAUSTED: it would be longer than max_bytes. */
int fm_exposition_take(struct fm_exposition *x, char **ret, size_t *ret_len, struct fm_error *err);

/* A number as the format has it: the shortest form that reads back as the same; "NaN", "+Inf", "-Inf". Returns buf. */
#define FM_EXPOSITION_NUMBER_LEN 32
const char *fm_exposition_number(double value, char buf[FM_EXPOSITION_NUMBER_LEN]);

#endif
