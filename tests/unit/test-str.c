/* SPDX-License-Identifier: MIT */
/* Tests of basic/str. */
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "basic/str.h"

static void test_copy_and_format(void **state)
{
	_fm_free_ char *a = fm_xstrdup("abc"), *b = fm_xasprintf("%s-%d", "x", 7);
	struct fm_error err = FM_ERROR_INIT;
	char buf[8];

	assert_string_equal(a, "abc");
	assert_string_equal(b, "x-7");
	assert_int_equal(fm_snprintf(buf, sizeof(buf), &err, "%s", "1234567"), 0);
	assert_string_equal(buf, "1234567");
	assert_int_equal(fm_snprintf(buf, sizeof(buf), &err, "%s", "12345678"), -1);
	assert_int_equal(err.code, FM_E_RESOURCE_EXHAUSTED);
}

static void test_buf(void **state)
{
	_fm_buf_ struct fm_buf b = FM_BUF_INIT;

	fm_buf_add(&b, "", 0);
	assert_non_null(b.data);
	assert_string_equal(b.data, "");
	for (int i = 0; i < 1000; i++)
		fm_buf_addf(&b, "%03d,", i);
	assert_int_equal(b.len, 4000);
	assert_int_equal(strlen(b.data), 4000);
	assert_memory_equal(b.data, "000,001,", 8);
	assert_string_equal(b.data + 3996, "999,");
	fm_buf_add(&b, "\0x", 2);
	assert_int_equal(b.len, 4002);
	assert_int_equal(b.data[4001], 'x');
	assert_int_equal(b.data[4002], '\0');
	fm_buf_done(&b);
	assert_null(b.data);
	fm_buf_done(&b);
}

static void test_strv(void **state)
{
	_fm_cleanup_(fm_strv_freep) char **v = NULL, **copy = NULL, **empty = NULL;

	assert_int_equal(fm_strv_len(NULL), 0);
	fm_strv_add(&v, "a");
	fm_strv_add(&v, "b");
	fm_strv_add(&v, "");
	assert_int_equal(fm_strv_len(v), 3);
	copy = fm_strv_copy(v);
	assert_ptr_not_equal(copy[0], v[0]);
	assert_string_equal(copy[1], "b");
	assert_null(copy[3]);
	empty = fm_strv_copy(NULL);
	assert_non_null(empty);
	assert_null(empty[0]);
	fm_strv_free(NULL);
}

static void test_compare(void **state)
{
	assert_true(fm_streq("a", "a"));
	assert_false(fm_streq("a", NULL));
	assert_false(fm_streq(NULL, NULL));
	assert_true(fm_str_startswith("abc", "ab"));
	assert_true(fm_str_startswith("abc", ""));
	assert_false(fm_str_startswith("ab", "abc"));
	assert_false(fm_str_startswith(NULL, "a"));
	assert_true(fm_str_endswith("abc", "bc"));
	assert_true(fm_str_endswith("abc", ""));
	assert_false(fm_str_endswith("bc", "abc"));
	assert_false(fm_str_endswith("abc", NULL));
}

static void test_sanitize(void **state)
{
	static const struct {
		const char *in, *out;
	} cases[] = {
		{ "plain ~text", "plain ~text" },
		{ "\x01\x1f\x7f", "???" },
		{ "gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80", "gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80" },
		{ "\xc2\x80\xc2\x9f", "????" },             /* C1 controls */
		{ "\xc2\xa0", "\xc2\xa0" },                 /* the first behind them */
		{ "\xc0\xaf", "??" },                       /* overlong '/' */
		{ "\xe0\x80\xaf", "???" },                  /* overlong */
		{ "\xf0\x80\x80\xaf", "????" },             /* overlong */
		{ "\xed\xa0\x80", "???" },                  /* surrogate */
		{ "\xf4\x90\x80\x80", "????" },             /* above U+10FFFF */
		{ "\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf" }, /* U+10FFFF */
		{ "\xe2\x80\xa8", "???" },                  /* line separator */
		{ "\xff\xfe\x80", "???" },
		{ "a\xc3", "a?" }, /* cut sequences at the end */
		{ "a\xe2\x82", "a??" },
		{ "a\xf0\x9f\x98", "a???" },
		{ "\xc3\x28", "?(" },
		{ "", "" },
	};

	for (size_t i = 0; i < FM_ARRAY_SIZE(cases); i++) {
		_fm_free_ char *s = fm_xstrdup(cases[i].in);

		fm_str_sanitize(s);
		assert_string_equal(s, cases[i].out);
	}
}

static void test_parse_u64(void **state)
{
	static const char *const bad[] = { "", " 1", "1 ", "+1", "-1", "0x10", "1.0", "1e3", "a", "1\n" };
	struct fm_error err = FM_ERROR_INIT;
	uint64_t v = 42;

	assert_int_equal(fm_parse_u64("0", &v, &err), 0);
	assert_int_equal(v, 0);
	assert_int_equal(fm_parse_u64("18446744073709551615", &v, &err), 0);
	assert_true(v == UINT64_MAX);
	assert_int_equal(fm_parse_u64("007", &v, &err), 0);
	assert_int_equal(v, 7);
	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++) {
		assert_int_equal(fm_parse_u64(bad[i], &v, &err), -1);
		assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
	}
	assert_int_equal(fm_parse_u64(NULL, &v, &err), -1);
	assert_int_equal(fm_parse_u64("18446744073709551616", &v, &err), -1);
	assert_int_equal(err.code, FM_E_OUT_OF_RANGE);
	assert_int_equal(fm_parse_u64("99999999999999999999999", &v, &err), -1);
	assert_int_equal(v, 7); /* untouched by failures */
}

static void test_parse_int(void **state)
{
	static const char *const out[] = { "11", "-11", "99999999999999999999999999", "-99999999999999999999999999" };
	static const char *const bad[] = { "", "-", "--1", "+1", "1x", " 1" };
	struct fm_error err = FM_ERROR_INIT;
	int v = 42;

	assert_int_equal(fm_parse_int("-10", -10, 10, &v, &err), 0);
	assert_int_equal(v, -10);
	assert_int_equal(fm_parse_int("2147483647", INT_MIN, INT_MAX, &v, &err), 0);
	assert_int_equal(v, INT_MAX);
	assert_int_equal(fm_parse_int("-2147483648", INT_MIN, INT_MAX, &v, &err), 0);
	assert_int_equal(v, INT_MIN);
	assert_int_equal(fm_parse_int("2147483648", INT_MIN, INT_MAX, &v, &err), -1);
	assert_int_equal(fm_parse_int("-2147483649", INT_MIN, INT_MAX, &v, &err), -1);
	for (size_t i = 0; i < FM_ARRAY_SIZE(out); i++) {
		assert_int_equal(fm_parse_int(out[i], -10, 10, &v, &err), -1);
		assert_int_equal(err.code, FM_E_OUT_OF_RANGE);
	}
	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++) {
		assert_int_equal(fm_parse_int(bad[i], -10, 10, &v, &err), -1);
		assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
	}
	assert_int_equal(fm_parse_int(NULL, 0, 1, &v, &err), -1);
	assert_int_equal(v, INT_MIN);
}

static void test_parse_bytes(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{ "0", 0 },           { "100", 100 },       { "100B", 100 },        { "64K", 65536 },
		{ "64k", 65536 },     { "1Ki", 1024 },      { "1KiB", 1024 },       { "512M", 512u << 20 },
		{ "2G", 2ull << 30 }, { "1T", 1ull << 40 }, { "15P", 15ull << 50 },
	};
	static const char *const bad[] = { "", "K", "-1K", "1X", "1KB", "1KK", "1 K", "1.5G", "1Kib", "1k " };
	struct fm_error err = FM_ERROR_INIT;
	uint64_t v = 0;

	for (size_t i = 0; i < FM_ARRAY_SIZE(good); i++) {
		assert_int_equal(fm_parse_bytes(good[i].text, &v, &err), 0);
		assert_true(v == good[i].bytes);
	}
	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++) {
		assert_int_equal(fm_parse_bytes(bad[i], &v, &err), -1);
		assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
	}
	assert_int_equal(fm_parse_bytes("16384P", &v, &err), -1);
	assert_int_equal(err.code, FM_E_OUT_OF_RANGE);
	assert_int_equal(fm_parse_bytes(NULL, &v, &err), -1);
}

static void test_parse_duration(void **state)
{
	static const struct {
		const char *text;
		uint64_t ms;
	} good[] = { { "0", 0 }, { "2", 2000 }, { "250ms", 250 }, { "2s", 2000 }, { "1m", 60000 }, { "3h", 10800000 } };
	static const char *const bad[] = { "", "ms", "1d", "1.5s", "-1s", "1 s", "1S", "1sm" };
	struct fm_error err = FM_ERROR_INIT;
	uint64_t v = 0;

	for (size_t i = 0; i < FM_ARRAY_SIZE(good); i++) {
		assert_int_equal(fm_parse_duration_ms(good[i].text, &v, &err), 0);
		assert_true(v == good[i].ms);
	}
	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++)
		assert_int_equal(fm_parse_duration_ms(bad[i], &v, &err), -1);
	assert_int_equal(fm_parse_duration_ms("18446744073709551615h", &v, &err), -1);
	assert_int_equal(err.code, FM_E_OUT_OF_RANGE);
	assert_int_equal(fm_parse_duration_ms(NULL, &v, &err), -1);
}

static void test_format_bytes(void **state)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} cases[] = {
		{ 0, "0 B" },
		{ 1023, "1023 B" },
		{ 1024, "1.0 KiB" },
		{ 12897485, "12.3 MiB" },
		{ (1u << 20) - 1, "1.0 MiB" },
		{ 1ull << 30, "1.0 GiB" },
		{ UINT64_MAX, "16.0 EiB" },
	};
	char buf[32];

	for (size_t i = 0; i < FM_ARRAY_SIZE(cases); i++)
		assert_string_equal(fm_format_bytes(cases[i].bytes, buf, sizeof(buf)), cases[i].text);
}

static void test_names(void **state)
{
	static const char *const good[] = { "a", "9", "web-1", "A_b.c-d", "web.example.org" };
	static const char *const bad[] = { "", ".", "..", "-a", "_a", ".a", "a/b", "a b", "a\n", "gr\xc3\xbcn", "a:b", "a%b" };
	char name[80];

	for (size_t i = 0; i < FM_ARRAY_SIZE(good); i++)
		assert_true(fm_name_is_valid(good[i]));
	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++)
		assert_false(fm_name_is_valid(bad[i]));
	assert_false(fm_name_is_valid(NULL));
	memset(name, 'a', sizeof(name));
	name[63] = '\0';
	assert_true(fm_name_is_valid(name));
	name[63] = 'a';
	name[64] = '\0';
	assert_false(fm_name_is_valid(name));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_copy_and_format), cmocka_unit_test(test_buf),         cmocka_unit_test(test_strv),
		cmocka_unit_test(test_compare),         cmocka_unit_test(test_sanitize),    cmocka_unit_test(test_parse_u64),
		cmocka_unit_test(test_parse_int),       cmocka_unit_test(test_parse_bytes), cmocka_unit_test(test_parse_duration),
		cmocka_unit_test(test_format_bytes),    cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
