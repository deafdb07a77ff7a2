/* SPDX-License-Identifier: MIT */
/* test-exposition.c - Prometheus' text: what is written is what the format's description says, byte by byte. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "basic/limits.h"
#include "basic/str.h"
#include "web/exposition.h"

static void assert_text(struct fm_exposition *x, const char *want)
{
	_fm_free_ char *text = NULL;
	size_t len = 0;
	assert_ok(fm_exposition_take(x, &text, &len, &err));
	assert_string_equal(text, want);
	assert_int_equal(len, strlen(want));
	fm_exposition_free(x);
}

static void test_nothing(void **state)
{
	struct fm_exposition *x = fm_exposition_new(100);
	fm_exposition_begin(x, FM_METRIC_HOST_UP); /* no host: no trace */
	assert_text(x, "");
}

static void test_samples(void **state)
{
	struct fm_exposition *x = fm_exposition_new(4096);
	fm_exposition_one(x, FM_METRIC_PROCESS_CPU, 0.25);
	fm_exposition_begin(x, FM_METRIC_HOST_UP);
	fm_exposition_add_u64(x, 1, (const char *const[]){ "a" });
	fm_exposition_add_u64(x, UINT64_MAX, (const char *const[]){ "b" });
	fm_exposition_begin(x, FM_METRIC_MIGRATIONS);
	fm_exposition_add(x, 3, (const char *const[]){ "live", "COMPLETED" });
	_fm_free_ char *want = fm_xasprintf("# HELP process_cpu_seconds_total %s\n"
	                                    "# TYPE process_cpu_seconds_total counter\n"
	                                    "process_cpu_seconds_total 0.25\n"
	                                    "# HELP fleximigrate_host_up %s\n"
	                                    "# TYPE fleximigrate_host_up gauge\n"
	                                    "fleximigrate_host_up{host=\"a\"} 1\n"
	                                    "fleximigrate_host_up{host=\"b\"} 18446744073709551615\n"
	                                    "# HELP fleximigrate_migrations_total %s\n"
	                                    "# TYPE fleximigrate_migrations_total counter\n"
	                                    "fleximigrate_migrations_total{strategy=\"live\",state=\"COMPLETED\"} 3\n",
	                                    fm_metrics[FM_METRIC_PROCESS_CPU].help, fm_metrics[FM_METRIC_HOST_UP].help,
	                                    fm_metrics[FM_METRIC_MIGRATIONS].help);
	assert_text(x, want);
}

/* What one host's name becomes */
static char *label(const char *value)
{
	struct fm_exposition *x = fm_exposition_new(4096);
	_fm_free_ char *text = NULL;
	size_t len = 0;
	fm_exposition_begin(x, FM_METRIC_HOST_UP);
	fm_exposition_add_u64(x, 7, (const char *const[]){ value });
	assert_ok(fm_exposition_take(x, &text, &len, &err));
	fm_exposition_free(x);
	char *begin = strstr(text, "{host=\"");
	assert_non_null(begin);
	begin += strlen("{host=\"");
	char *end = strstr(begin, "\"} 7\n");
	assert_non_null(end);
	assert_string_equal(end, "\"} 7\n");
	return strndup(begin, (size_t)(end - begin));
}

static void assert_label(const char *value, const char *want)
{
	_fm_free_ char *got = label(value);
	assert_string_equal(got, want);
}

static void test_label_values(void **state)
{
	assert_label("", "");
	assert_label("plain-1.2_x", "plain-1.2_x");
	assert_label("a \"b\" \\c\\", "a \\\"b\\\" \\\\c\\\\");
	assert_label("two\nlines\r\x01\x7f", "two?lines???");
	assert_label("gr\xc3\xbc\xc3\x9f dich", "gr\xc3\xbc\xc3\x9f dich");
	assert_label("cut \xc3", "cut ?");
	assert_label("\xff\xfe", "??");
}

static void test_long_label_values_are_cut_between_characters(void **state)
{
	char value[FM_MAX_LABEL_VALUE + 20];
	memset(value, 'x', sizeof(value));
	value[sizeof(value) - 1] = '\0';
	_fm_free_ char *all_x = label(value);
	assert_int_equal(strlen(all_x), FM_MAX_LABEL_VALUE);
	memcpy(value + FM_MAX_LABEL_VALUE - 1, "\xc3\xbc", 2); /* its second byte is one too many */
	_fm_free_ char *cut = label(value);
	assert_int_equal(strlen(cut), FM_MAX_LABEL_VALUE - 1);
	assert_null(strchr(cut, '?'));
}

static void assert_number(double value, const char *want)
{
	char buf[FM_EXPOSITION_NUMBER_LEN];
	assert_string_equal(fm_exposition_number(value, buf), want);
}

static void test_numbers(void **state)
{
	assert_number(0, "0");
	assert_number(-0.5, "-0.5");
	assert_number(0.1, "0.1");
	assert_number(1e300, "1e+300");
	assert_number(1732648530.123, "1732648530.123");
	assert_number(NAN, "NaN");
	assert_number(INFINITY, "+Inf");
	assert_number(-INFINITY, "-Inf");
	const double hard[] = { 1.0 / 3, 4.9406564584124654e-324, 1.7976931348623157e308, 9007199254740993.0, 0.1 + 0.2 };
	for (size_t i = 0; i < FM_ARRAY_SIZE(hard); i++) {
		char buf[FM_EXPOSITION_NUMBER_LEN];
		assert_true(strtod(fm_exposition_number(hard[i], buf), NULL) == hard[i]);
	}
}

static void test_histogram(void **state)
{
	static const uint64_t bounds[] = { 5000, 100000, 2500000 }, counts[] = { 1, 0, 2, 4 };
	const struct fm_exposition_histogram h = { .bounds_us = bounds, .n = 3, .counts = counts, .sum_us = 10000001 };
	struct fm_exposition *x = fm_exposition_new(4096);
	fm_exposition_begin(x, FM_METRIC_DOWNTIME);
	fm_exposition_histogram(x, &h, (const char *const[]){ "live" });
	_fm_free_ char *want = fm_xasprintf("# HELP fleximigrate_migration_downtime_seconds %s\n"
	                                    "# TYPE fleximigrate_migration_downtime_seconds histogram\n"
	                                    "fleximigrate_migration_downtime_seconds_bucket{strategy=\"live\",le=\"0.005\"} 1\n"
	                                    "fleximigrate_migration_downtime_seconds_bucket{strategy=\"live\",le=\"0.1\"} 1\n"
	                                    "fleximigrate_migration_downtime_seconds_bucket{strategy=\"live\",le=\"2.5\"} 3\n"
	                                    "fleximigrate_migration_downtime_seconds_bucket{strategy=\"live\",le=\"+Inf\"} 7\n"
	                                    "fleximigrate_migration_downtime_seconds_sum{strategy=\"live\"} 10.000001\n"
	                                    "fleximigrate_migration_downtime_seconds_count{strategy=\"live\"} 7\n",
	                                    fm_metrics[FM_METRIC_DOWNTIME].help);
	assert_text(x, want);
}

static void test_too_long(void **state)
{
	struct fm_exposition *x = fm_exposition_new(1000);
	_fm_free_ char *text = NULL;
	size_t len = 0;
	fm_exposition_begin(x, FM_METRIC_HOST_UP);
	for (unsigned i = 0; i < 1000000; i++)
		fm_exposition_add_u64(x, i, (const char *const[]){ "a" });
	assert_code(FM_E_RESOURCE_EXHAUSTED, fm_exposition_take(x, &text, &len, &err));
	assert_null(text);
	fm_exposition_free(x);
}

/* Prometheus' rules that promtool checks only for what happens to be exposed. */
static void test_catalogue(void **state)
{
	for (size_t i = 0; i < _FM_METRIC_MAX; i++) {
		const struct fm_metric_info *m = &fm_metrics[i];
		assert_non_null(m->name);
		assert_true(fm_str_startswith(m->name, "fleximigrate_") || fm_str_startswith(m->name, "process_"));
		assert_int_equal(strspn(m->name, "abcdefghijklmnopqrstuvwxyz0123456789_"), strlen(m->name));
		assert_int_equal(m->type == FM_COUNTER, fm_str_endswith(m->name, "_total"));
		assert_int_equal(strspn(m->labels, "abcdefghijklmnopqrstuvwxyz_,"), strlen(m->labels));
		assert_true(m->help[0] && fm_str_endswith(m->help, "."));
		for (size_t k = 0; k < i; k++)
			assert_string_not_equal(m->name, fm_metrics[k].name);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing),      cmocka_unit_test(test_samples),
		cmocka_unit_test(test_label_values), cmocka_unit_test(test_long_label_values_are_cut_between_characters),
		cmocka_unit_test(test_numbers),      cmocka_unit_test(test_histogram),
		cmocka_unit_test(test_too_long),     cmocka_unit_test(test_catalogue),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
