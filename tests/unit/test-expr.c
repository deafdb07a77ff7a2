/* SPDX-License-Identifier: MIT */
/*
 * test-expr.c - the language of conditions: what is read, what it comes to, what is told about mistakes, and what happens with what nobody measured.
 * That it agrees with Python is tests/integration/test_expr_oracle.py's.
 */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>

#include "basic/limits.h"
#include "basic/str.h"
#include "decision/expr.h"

enum { X, Y, U, W, S, T, B, _N };

static const struct fm_expr_variable variables[_N] = {
	[X] = { "x", FM_EXPR_NUMBER },          [Y] = { "y", FM_EXPR_NUMBER },
	[U] = { "unmeasured", FM_EXPR_NUMBER }, [W] = { "unmeasured_text", FM_EXPR_TEXT },
	[S] = { "service_type", FM_EXPR_TEXT }, [T] = { "time_of_day", FM_EXPR_NUMBER },
	[B] = { "nested", FM_EXPR_BOOL },
};
static const char *const lookups[] = { "label", "host_label", NULL };
static const struct fm_expr_vocabulary vocabulary = { variables, _N, lookups };

static const struct fm_expr_value values[_N] = {
	[X] = { .known = true, .number = 7 },
	[Y] = { .known = true, .number = -2.5 },
	[S] = { .known = true, .text = "critical", .len = 8 },
	[T] = { .known = true, .number = 18.5 },
	[B] = { .known = true, .truth = true },
};

static const char *look_up(void *userdata, unsigned function, const char *key)
{
	return fm_streq(key, "tier") ? (function ? "host-gold" : "gold") : NULL;
}

static const struct fm_expr_env env = { values, look_up, NULL };

static struct fm_expr_result result(const char *text)
{
	_fm_cleanup_(fm_expr_freep) struct fm_expr *e = NULL;
	struct fm_expr_result r;
	err = FM_ERROR_INIT;
	if (fm_expr_parse(text, strlen(text), &vocabulary, &e, &err) < 0)
		fail_msg("%s: %s", text, err.message);
	fm_expr_eval(e, &env, &r);
	return r;
}

static void is(const char *text, enum fm_truth truth)
{
	struct fm_expr_result r = result(text);
	if (r.truth != truth)
		fail_msg("%s: %d instead of %d %s", text, r.truth, truth, r.problem ? r.problem : "");
}

static void unknown(const char *text, unsigned variable)
{
	struct fm_expr_result r = result(text);
	if (r.truth != FM_TRUTH_UNKNOWN || r.variable != variable)
		fail_msg("%s: %d, of variable %u", text, r.truth, r.variable);
}

static void wrong(const char *text, const char *message)
{
	struct fm_expr *e = NULL;
	assert_code(FM_E_INVALID_ARGUMENT, fm_expr_parse(text, strlen(text), &vocabulary, &e, &err));
	if (!strstr(err.message, message))
		fail_msg("%s: '%s' does not say '%s'", text, err.message, message);
}

static void test_operators(void **state)
{
	static const char *const yes[] = {
		"x == 7",
		"x != 8",
		"x > 6.5 and x < 7.5",
		"not x < 7",
		"x >= 7 and x <= 7",
		"18 <= time_of_day <= 22",
		"1 < x < 8 > 3 != x",
		"x + 2 * 3 == 13",
		"(x + 2) * 3 == 27",
		"-x == 0 - 7",
		"- - x == 7",
		"+x == 7",
		"7 // 2 == 3",
		"-7 // 2 == -4",
		"-7 % 3 == 2",
		"7 % -3 == -2",
		"y // 1 == -3",
		"7 / 2 == 3.5",
		"2 - 3 - 4 == -5",
		"16 / 4 / 2 == 2",
		".5 + 5. == 55e-1",
		"service_type == 'critical'",
		"service_type == \"critical\"",
		"service_type in ('batch', 'critical')",
		"service_type not in ['batch']",
		"'crit' in service_type",
		"'' in service_type",
		"service_type in 'critical!'",
		"x in (7,)",
		"x in [1, 2, 7]",
		"x not in ()",
		"service_type < 'd' and service_type > 'crit'",
		"nested",
		"nested == true",
		"nested != False",
		"True or false",
		"min(x, 3, 9) == 3",
		"max(x, 3) == 7",
		"abs(y) == 2.5",
		"round(2.5) == 2",
		"round(3.5) == 4",
		"round(y) == -2",
		"round(2.675, 2) == 2.67",
		"floor(y) == -3",
		"ceil(y) == -2",
		"len('h\xc3\xa9llo') == 5",
		"lower('ABC') == 'abc'",
		"upper(service_type) == 'CRITICAL'",
		"startswith(service_type, 'cri')",
		"endswith(service_type, 'cal')",
		"not startswith('a', 'ab')",
		"label('tier') == 'gold'",
		"host_label(\"tier\") == 'host-gold'",
		"label('none') == ''",
		"'it\\'s' == \"it's\"",
		"'\\n' != 'n'",
		"known(x)",
		"not known(unmeasured)",
		"default(unmeasured, 4) == 4",
		"default(x, 4) == 7",
		"(x == 7)\n  or\n(x == 8)",
		"'x' in ('x')",
		"not not nested",
	};
	for (size_t i = 0; i < FM_ARRAY_SIZE(yes); i++) {
		_fm_free_ char *no = fm_xasprintf("not (%s)", yes[i]);
		is(yes[i], FM_TRUTH_TRUE);
		is(no, FM_TRUTH_FALSE);
	}
}

static void test_unknown(void **state)
{
	unknown("unmeasured > 3", U);
	unknown("not unmeasured > 3", U);
	unknown("x + unmeasured * 2 > 3", U);
	unknown("min(unmeasured, x) > 3", U);
	unknown("unmeasured_text == 'a'", W);
	unknown("x == 7 and unmeasured > 3", U);
	unknown("unmeasured > 3 and x == 7", U);
	unknown("unmeasured > 3 or x == 8", U);
	unknown("(unmeasured > 3 and x == 8) or unmeasured_text == 'a'", W); /* the one that is to blame */
	unknown("1 < unmeasured < 3", U);
	unknown("unmeasured in (1, 2)", U);
	unknown("x in (1, unmeasured)", U);
	unknown("'a' in unmeasured_text", W);
	unknown("unmeasured_text in service_type", W);
	unknown("lower(unmeasured_text) == 'a'", W);
	unknown("default(unmeasured, unmeasured) == 1", U);
	is("unmeasured > 3 and x == 8", FM_TRUTH_FALSE);
	is("x == 8 and unmeasured > 3", FM_TRUTH_FALSE);
	is("unmeasured > 3 or x == 7", FM_TRUTH_TRUE);
	is("unmeasured < 3 < 2", FM_TRUTH_FALSE);
	is("x in (unmeasured, 7)", FM_TRUTH_TRUE);
	is("x in (7, unmeasured)", FM_TRUTH_TRUE);
	is("unmeasured in ()", FM_TRUTH_FALSE);
}

static void ends_with_error(const char *text, const char *problem, unsigned column)
{
	struct fm_expr_result r = result(text);
	assert_int_equal(r.truth, FM_TRUTH_ERROR);
	assert_string_equal(r.problem, problem);
	assert_int_equal(r.line, 1);
	assert_int_equal(r.column, column);
}

static void test_errors_while_evaluating(void **state)
{
	ends_with_error("x / (x - 7) > 1", "division by zero", 5);
	ends_with_error("x // 0 > 1", "division by zero", 6);
	ends_with_error("x % 0 > 1", "division by zero", 5);
	ends_with_error("1e308 * x > 1", "a number grows over all bounds", 9);
	ends_with_error("unmeasured > 1 and 1 / 0 > 1", "division by zero", 24);
	ends_with_error("unmeasured > 1 or 1 in (1 / 0, 2)", "division by zero", 29);
	ends_with_error("known(1 / 0)", "division by zero", 11);
	is("x == 8 and 1 / 0 > 1", FM_TRUTH_FALSE); /* not reached */
	is("x == 7 or 1 / 0 > 1", FM_TRUTH_TRUE);
	is("2 < 1 < 1 / 0", FM_TRUTH_FALSE);
	_fm_buf_ struct fm_buf b = FM_BUF_INIT;
	fm_buf_addf(&b, "lower('%02000d') == upper('%02000d')", 0, 0);
	ends_with_error(b.data, "a text is too long", 2014);
}

static void test_mistakes(void **state)
{
	wrong("", "line 1, column 1: something is missing at the end");
	wrong("x >", "line 1, column 4: something is missing");
	wrong("x > 3 and\n  servce_type == 1", "line 2, column 3: there is no variable 'servce_type'; is 'service_type' meant?");
	wrong("time_of_dya > 3", "is 'time_of_day' meant?");
	wrong("zzzzzzzzzz > 3", "there is no variable 'zzzzzzzzzz'");
	wrong("starswith('a', 'b')", "there is no function 'starswith'; is 'startswith' meant?");
	wrong("lable('a') == ''", "is 'label' meant?");
	wrong("__import__('os')", "there is no function '__import__'");
	wrong("x == 'a'", "line 1, column 6: a number is compared with a text");
	wrong("x", "it has to come to a yes or no, this is a number");
	wrong("(1, 2)", "this is a list");
	wrong("x and nested", "line 1, column 1: 'and' needs a yes or no, this is a number");
	wrong("nested or 1", "line 1, column 11: 'or' needs a yes or no");
	wrong("not x", "line 1, column 5: 'not' needs a yes or no");
	wrong("nested + 1 > 2", "arithmetic needs a number, this is a yes or no");
	wrong("service_type + 'a' == 'b'", "arithmetic needs a number, this is a text");
	wrong("-service_type == 'b'", "a sign needs a number");
	wrong("nested < true", "neither less nor more");
	wrong("x in 7", "'in' needs a list, or two texts");
	wrong("x in ('a', 'b')", "a number is looked for in a list of text");
	wrong("x in (1, 'b')", "line 1, column 10: a text in a list of number");
	wrong("x in (1, (2, 3))", "a list in a list of number");
	wrong("x in ((2, 3), 1)", "a list in a list");
	wrong("(1, 2) == (1, 2)", "a list can only stand on the right of 'in'");
	wrong("x == (1, 2)", "a list can only stand on the right of 'in'");
	wrong("1 < x in (1, 2)", "'in' cannot be chained");
	wrong("x in (1, 2) == true", "'in' cannot be chained");
	wrong("x ** 2 > 1", "line 1, column 3: '**' is not known here: there are no powers");
	wrong("nested && nested", "write 'and'");
	wrong("nested || nested", "write 'or'");
	wrong("!nested", "write 'not'");
	wrong("x = 7", "write '=='");
	wrong("x.y == 1", "the character '.'");
	wrong("x == 10ms", "a number that goes on with 'm'");
	wrong("x == 1.2.3", "a number that goes on with '.'");
	wrong("x == 010", "a number that begins with 0");
	wrong("x == 9007199254740993", "is too large");
	wrong("x == 1e999", "is too large");
	wrong("service_type == 'abc", "line 1, column 17: a text without its closing '");
	wrong("service_type == 'a\nb'", "a text without its closing '");
	wrong("service_type == 'a\\qb'", "after \\ only one of");
	wrong("service_type == 'a' 'b'", "two texts beside each other");
	wrong("(x > 1", "')' is missing here");
	wrong("x in [1, 2", "']' is missing here");
	wrong("x > 1)", "the expression should end here");
	wrong("x > 1 y", "the expression should end here");
	wrong("x not 1", "'in' after 'not'");
	wrong("min(x) > 1", "min() takes 2 or more arguments, here are 1");
	wrong("abs() > 1", "abs() takes 1 argument, here are 0");
	wrong("round(x, y) > 1", "the digits of round()");
	wrong("len(x) > 1", "len needs a text, this is a number");
	wrong("label(service_type) == ''", "label() takes one text in quotes");
	wrong("default(x, 'a') == 1", "default() needs two of a kind");
	wrong("max((1, 2), 3) > 1", "max() takes no list");
	wrong("x > \x01", "the character 0x01");
	wrong("'\xc3\xa9' == '' and \xc3\xa9 > 1", "line 1, column 15: the character 0xc3");
}

static void test_limits(void **state)
{
	_fm_buf_ struct fm_buf deep = FM_BUF_INIT, longer = FM_BUF_INIT, signs = FM_BUF_INIT;
	for (int i = 0; i < 1000; i++)
		fm_buf_addf(&deep, "(");
	wrong(deep.data, "line 1, column 65: more than 64 levels");
	for (int i = 0; i < 1000; i++)
		fm_buf_addf(&signs, "- ");
	wrong(signs.data, "more than 64 levels");
	fm_buf_addf(&longer, "%*s", (int)FM_MAX_EXPR_BYTES + 1, "nested");
	wrong(longer.data, "bytes, at most 8192 are read");
	_fm_buf_ struct fm_buf sum = FM_BUF_INIT;
	fm_buf_addf(&sum, "0");
	for (int i = 0; i < 2047; i++)
		fm_buf_addf(&sum, "+1");
	wrong(sum.data, "more than 2048 parts"); /* 2047 numbers, the sum: full */
	fm_buf_done(&sum);
	sum = FM_BUF_INIT;
	fm_buf_addf(&sum, "0");
	for (int i = 0; i < 2040; i++)
		fm_buf_addf(&sum, "+1");
	fm_buf_addf(&sum, "==2040");
	is(sum.data, FM_TRUTH_TRUE); /* as wide as one likes, and no deeper */
}

static void parts_are(const char *text, const char *expected)
{
	_fm_cleanup_(fm_expr_freep) struct fm_expr *e = NULL;
	_fm_buf_ struct fm_buf b = FM_BUF_INIT;
	struct fm_expr_part parts[4];
	assert_ok(fm_expr_parse(text, strlen(text), &vocabulary, &e, &err));
	size_t n = fm_expr_explain(e, &env, parts, FM_ARRAY_SIZE(parts));
	for (size_t i = 0; i < n; i++)
		fm_buf_addf(&b, "%s%.*s=%d", i ? " | " : "", (int)parts[i].len, parts[i].text, parts[i].truth);
	assert_string_equal(b.data, expected);
}

static void test_explanation(void **state)
{
	parts_are("x > 8 or x > 6 or x > 5", "x > 6=1");
	parts_are("x > 8 or x > 9", "x > 8=0 | x > 9=0");
	parts_are("(x > 6 and x > 8) or (x > 9 and x > 6)", "x > 8=0 | x > 9=0");
	parts_are("not (x > 6 and y < 0)", "x > 6=1 | y < 0=1");
	parts_are("x == 7 and (unmeasured > 1 or x == 8)", "unmeasured > 1=2");
	parts_are("x == 7 and 1 / 0 > 2", "1 / 0 > 2=3");
	parts_are("(x > 1) and (x > 2) and (x > 3) and (x > 4) and (x > 5)", "(x > 1)=1 | (x > 2)=1 | (x > 3)=1 | (x > 4)=1");
	_fm_cleanup_(fm_expr_freep) struct fm_expr *e = NULL;
	unsigned column = 0;
	const char *text = "x > 6\nand -unmeasured < 0";
	struct fm_expr_part part;
	assert_ok(fm_expr_parse(text, strlen(text), &vocabulary, &e, &err));
	assert_true(fm_expr_uses(e, U) && fm_expr_uses(e, X) && !fm_expr_uses(e, Y));
	assert_int_equal(fm_expr_line_of(e, U, &column), 2);
	assert_int_equal(column, 6);
	assert_int_equal(fm_expr_line_of(e, Y, &column), 0);
	assert_int_equal(fm_expr_explain(e, &env, &part, 1), 1);
	assert_true(fm_expr_part_uses(e, &part, U) && !fm_expr_part_uses(e, &part, X));
}

static void test_nearest(void **state)
{
	static const char *const names[] = { "allow_migration", "deny_migration", "rollback", NULL };
	assert_string_equal(fm_nearest_name("alow_migration", names), "allow_migration");
	assert_string_equal(fm_nearest_name("rolback", names), "rollback");
	assert_null(fm_nearest_name("explode", names));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_operators), cmocka_unit_test(test_unknown), cmocka_unit_test(test_errors_while_evaluating),
		cmocka_unit_test(test_mistakes),  cmocka_unit_test(test_limits),  cmocka_unit_test(test_explanation),
		cmocka_unit_test(test_nearest),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
