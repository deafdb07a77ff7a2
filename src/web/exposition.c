/* SPDX-License-Identifier: MIT */
/* exposition.c - see exposition.h. */
#include "web/exposition.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "basic/limits.h"
#include "basic/str.h"

struct fm_exposition {
	struct fm_buf text;
	size_t max_bytes;
	bool too_long;
	const struct fm_metric_info *metric; /* that samples are added to; NULL: none yet */
	bool headed;                         /* HELP and TYPE are written */
	bool begun[_FM_METRIC_MAX];
};

struct fm_exposition *fm_exposition_new(size_t max_bytes)
{
	struct fm_exposition *x = calloc(1, sizeof(*x));
	if (!x)
		abort();
	x->max_bytes = max_bytes;
	return x;
}

void fm_exposition_free(struct fm_exposition *x)
{
	if (!x)
		return;
	fm_buf_done(&x->text);
	free(x);
}

static bool is_full(struct fm_exposition *x)
{
	x->too_long = x->too_long || x->text.len > x->max_bytes;
	return x->too_long;
}

/* The format's escapes, which are the same in label values and, but for the quote, in HELP. */
static void add_escaped(struct fm_buf *b, const char *s, bool quotes)
{
	for (;;) {
		size_t plain = strcspn(s, quotes ? "\\\n\"" : "\\\n");
		fm_buf_add(b, s, plain);
		s += plain;
		if (!*s)
			return;
		fm_buf_add(b, *s == '\n' ? "\\n" : *s == '"' ? "\\\"" : "\\\\", 2);
		s++;
	}
}

static void add_value(struct fm_buf *b, const char *value)
{
	char fit[FM_MAX_LABEL_VALUE + 1];
	size_t n = strlen(value);
	if (n > FM_MAX_LABEL_VALUE) {
		n = FM_MAX_LABEL_VALUE;
		while (n > 0 && ((unsigned char)value[n] & 0xc0) == 0x80) /* not in the middle of a character */
			n--;
	}
	memcpy(fit, value, n);
	fit[n] = '\0';
	fm_str_sanitize(fit);
	add_escaped(b, fit, true);
}

void fm_exposition_begin(struct fm_exposition *x, enum fm_metric m)
{
	assert(m < _FM_METRIC_MAX && !x->begun[m]);
	x->begun[m] = true;
	x->metric = &fm_metrics[m];
	x->headed = false;
}

static void head(struct fm_exposition *x)
{
	static const char *const types[] = { [FM_COUNTER] = "counter", [FM_GAUGE] = "gauge", [FM_HISTOGRAM] = "histogram" };
	if (x->headed)
		return;
	fm_buf_addf(&x->text, "# HELP %s ", x->metric->name);
	add_escaped(&x->text, x->metric->help, false);
	fm_buf_addf(&x->text, "\n# TYPE %s %s\n", x->metric->name, types[x->metric->type]);
	x->headed = true;
}

/* {host="a",le="0.1"} or nothing */
static void add_labels(struct fm_exposition *x, const char *const *values, const char *le)
{
	struct fm_buf *b = &x->text;
	const char *separator = "{";
	for (const char *name = x->metric->labels; *name; values++) {
		size_t n = strcspn(name, ",");
		assert(values && *values);
		fm_buf_add(b, separator, 1);
		fm_buf_add(b, name, n);
		fm_buf_add(b, "=\"", 2);
		add_value(b, *values);
		fm_buf_add(b, "\"", 1);
		separator = ",";
		name += name[n] ? n + 1 : n;
	}
	if (le)
		fm_buf_addf(b, "%sle=\"%s\"", separator, le);
	if (le || x->metric->labels[0])
		fm_buf_add(b, "}", 1);
}

static void add_sample(struct fm_exposition *x, const char *suffix, const char *const *labels, const char *le, const char *number)
{
	/* by pieces: of this there are some hundred thousand in a large cluster's text */
	fm_buf_add(&x->text, x->metric->name, strlen(x->metric->name));
	fm_buf_add(&x->text, suffix, strlen(suffix));
	add_labels(x, labels, le);
	fm_buf_add(&x->text, " ", 1);
	fm_buf_add(&x->text, number, strlen(number));
	fm_buf_add(&x->text, "\n", 1);
}

const char *fm_exposition_number(double value, char buf[FM_EXPOSITION_NUMBER_LEN])
{
	if (!isfinite(value)) {
		(void)snprintf(buf, FM_EXPOSITION_NUMBER_LEN, "%s", isnan(value) ? "NaN" : value > 0 ? "+Inf" : "-Inf");
		return buf;
	}
	for (int digits = 15; digits <= 17; digits++) {
		(void)snprintf(buf, FM_EXPOSITION_NUMBER_LEN, "%.*g", digits, value);
		if (strtod(buf, NULL) == value)
			break;
	}
	return buf;
}

void fm_exposition_add(struct fm_exposition *x, double value, const char *const *labels)
{
	char number[FM_EXPOSITION_NUMBER_LEN];
	assert(x->metric && x->metric->type != FM_HISTOGRAM);
	if (is_full(x))
		return;
	head(x);
	add_sample(x, "", labels, NULL, fm_exposition_number(value, number));
}

void fm_exposition_add_u64(struct fm_exposition *x, uint64_t value, const char *const *labels)
{
	char number[FM_EXPOSITION_NUMBER_LEN];
	assert(x->metric && x->metric->type != FM_HISTOGRAM);
	if (is_full(x))
		return;
	head(x);
	(void)snprintf(number, sizeof(number), "%llu", (unsigned long long)value);
	add_sample(x, "", labels, NULL, number);
}

void fm_exposition_one(struct fm_exposition *x, enum fm_metric m, double value)
{
	fm_exposition_begin(x, m);
	fm_exposition_add(x, value, NULL);
}

void fm_exposition_one_u64(struct fm_exposition *x, enum fm_metric m, uint64_t value)
{
	fm_exposition_begin(x, m);
	fm_exposition_add_u64(x, value, NULL);
}

void fm_exposition_histogram(struct fm_exposition *x, const struct fm_exposition_histogram *h, const char *const *labels)
{
	char number[FM_EXPOSITION_NUMBER_LEN], bound[FM_EXPOSITION_NUMBER_LEN];
	uint64_t below = 0;
	assert(x->metric && x->metric->type == FM_HISTOGRAM);
	if (is_full(x))
		return;
	head(x);
	for (size_t i = 0; i <= h->n; i++) {
		below += h->counts[i];
		(void)snprintf(number, sizeof(number), "%llu", (unsigned long long)below);
		add_sample(x, "_bucket", labels, fm_exposition_number(i < h->n ? (double)h->bounds_us[i] / 1e6 : INFINITY, bound), number);
	}
	add_sample(x, "_sum", labels, NULL, fm_exposition_number((double)h->sum_us / 1e6, bound));
	add_sample(x, "_count", labels, NULL, number);
}

int fm_exposition_take(struct fm_exposition *x, char **ret, size_t *ret_len, struct fm_error *err)
{
	if (is_full(x))
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "there is more to tell than %zu bytes", x->max_bytes);
	*ret_len = x->text.len;
	*ret = x->text.data ? FM_TAKE_PTR(x->text.data) : fm_xstrdup("");
	x->text = FM_BUF_INIT;
	return 0;
}
