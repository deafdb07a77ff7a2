/* SPDX-License-Identifier: MIT */
/* test-options.c - command lines as tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/options.h"
#include "basic/str.h"

struct values {
	bool flag;
	const char *text, *choice;
	char **many;
	uint64_t number, time_ms, bytes;
};

/* argv from words, parsed by a table with one option of each type */
static int parse(struct values *v, struct fm_arguments *a, int min, int max, struct fm_error *err, ...)
{
	const struct fm_option table[] = {
		{ "flag", FM_OPT_FLAG, &v->flag, NULL, "a flag", NULL },
		{ "text", FM_OPT_STRING, &v->text, "TEXT", "a text", NULL },
		{ "many", FM_OPT_STRINGS, &v->many, "TEXT", "several", NULL },
		{ "number", FM_OPT_UINT, &v->number, "N", "a number", NULL },
		{ "time", FM_OPT_DURATION, &v->time_ms, "TIME", "a time", NULL },
		{ "bytes", FM_OPT_BYTES, &v->bytes, "SIZE", "a size", NULL },
		{ "choice", FM_OPT_CHOICE, &v->choice, "WHICH", "one of", "human|json" },
		{ 0 },
	};
	const struct fm_command_line cl = { .usage = "prog verb [options]",
		                            .summary = "Does things.",
		                            .details = "In detail.",
		                            .options = table,
		                            .min_args = min,
		                            .max_args = max };
	char *argv[32] = { "verb" };
	int argc = 1;
	va_list ap;
	va_start(ap, err);
	for (char *s; argc < 31 && (s = va_arg(ap, char *));)
		argv[argc++] = s;
	va_end(ap);
	*err = FM_ERROR_INIT;
	return fm_options_parse(&cl, argc, argv, a, err);
}
#define PARSE(min, max, ...) parse(&v, &a, min, max, &e, __VA_ARGS__, (char *)NULL)
#define VALUES                                                                                                                             \
	struct values v = { 0 };                                                                                                           \
	struct fm_arguments a = { 0 };                                                                                                     \
	struct fm_error e = FM_ERROR_INIT

static void test_all_types(void **state)
{
	VALUES;
	assert_int_equal(PARSE(2, 2, "one", "--flag", "--text", "a=b", "--many=x", "two", "--many", "", "--number=18446744073709551615",
	                       "--time", "250ms", "--bytes=2G", "--choice", "json"),
	                 0);
	assert_true(v.flag);
	assert_string_equal(v.text, "a=b");
	assert_int_equal(fm_strv_len(v.many), 2);
	assert_string_equal(v.many[0], "x");
	assert_string_equal(v.many[1], "");
	assert_true(v.number == UINT64_MAX);
	assert_int_equal(v.time_ms, 250);
	assert_int_equal(v.bytes, 2ull << 30);
	assert_string_equal(v.choice, "json");
	assert_int_equal(a.n, 2);
	assert_string_equal(a.v[0], "one");
	assert_string_equal(a.v[1], "two");
	assert_null(a.v[2]);
	assert_null(a.rest);
	fm_arguments_done(&a);
	fm_arguments_done(&a);
	fm_strv_free(v.many);
}

static void test_positional_and_rest(void **state)
{
	VALUES;
	assert_int_equal(PARSE(0, -1, "a", "-", "b", "--", "--flag", "c"), 0);
	assert_int_equal(a.n, 3);
	assert_string_equal(a.v[1], "-");
	assert_false(v.flag);
	assert_non_null(a.rest);
	assert_string_equal(a.rest[0], "--flag");
	assert_string_equal(a.rest[1], "c");
	assert_null(a.rest[2]);
	fm_arguments_done(&a);
	assert_int_equal(PARSE(0, 0, "--"), 0);
	assert_non_null(a.rest);
	assert_null(a.rest[0]);
	fm_arguments_done(&a);
	/* "--" as a value is a value */
	assert_int_equal(PARSE(0, 0, "--text", "--"), 0);
	assert_string_equal(v.text, "--");
	assert_null(a.rest);
	fm_arguments_done(&a);
}

static void test_errors(void **state)
{
	VALUES;
#define BAD(part, ...)                                                                                                                     \
	do {                                                                                                                               \
		assert_int_equal(PARSE(0, 1, __VA_ARGS__), -1);                                                                            \
		assert_true(e.code == FM_E_INVALID_ARGUMENT || e.code == FM_E_OUT_OF_RANGE);                                               \
		if (!strstr(e.message, part))                                                                                              \
			fail_msg("'%s' does not mention '%s'", e.message, part);                                                           \
		assert_non_null(strstr(e.hint, "--help"));                                                                                 \
		assert_null(a.v);                                                                                                          \
	} while (0)
	BAD("--unknown", "--unknown");
	BAD("--unknown", "--unknown=1");
	BAD("--fla", "--fla");
	BAD("-x", "-x");
	BAD("takes no value", "--flag=yes");
	BAD("needs a value (TEXT)", "--text");
	BAD("needs a value (human|json)", "--choice");
	BAD("--number", "--number", "-1");
	BAD("--number", "--number", "18446744073709551616");
	BAD("--number", "--number=");
	BAD("--number", "--number", "1x");
	BAD("--time", "--time", "1 fortnight");
	BAD("--bytes", "--bytes", "99999999999T");
	BAD("human|json", "--choice", "xml");
	BAD("human|json", "--choice", "human|json");
	BAD("human|json", "--choice=");
	BAD("human|json", "--choice=hum");
	BAD("unexpected argument 'two'", "one", "two", "three");
	assert_int_equal(parse(&v, &a, 2, 2, &e, "one", (char *)NULL), -1);
	assert_string_equal(e.message, "an argument is missing");
	assert_int_equal(parse(&v, &a, 0, 0, &e, "one", (char *)NULL), -1);
	assert_string_equal(e.message, "unexpected argument 'one'");
	assert_null(v.choice);
}

static void test_help(void **state)
{
	VALUES;
	char path[] = "/tmp/fm-test-options-XXXXXX";
	_fm_close_ int fd = mkstemp(path), out = dup(STDOUT_FILENO);
	assert_true(fd >= 0 && out >= 0);
	(void)fflush(stdout);
	(void)dup2(fd, STDOUT_FILENO);
	int first = PARSE(3, 3, "--help"), second = PARSE(3, 3, "x", "-h", "--unknown");
	(void)fflush(stdout);
	(void)dup2(out, STDOUT_FILENO);
	(void)unlink(path);
	assert_int_equal(first, 1);
	assert_int_equal(second, 1);
	assert_null(a.v);
	char text[4096] = "";
	assert_true(pread(fd, text, sizeof(text) - 1, 0) > 0);
	static const char *const wanted[] = { "Usage: prog verb [options]\n", "Does things.", "In detail.", "--flag ", "--text TEXT",
		                              "--choice human|json",          "--time TIME",  "--help" };
	for (size_t i = 0; i < FM_ARRAY_SIZE(wanted); i++)
		assert_non_null(strstr(text, wanted[i]));
	/* behind "--" it is somebody else's */
	assert_int_equal(PARSE(0, 0, "--", "--help"), 0);
	fm_arguments_done(&a);
}

static void test_no_options(void **state)
{
	const struct fm_command_line cl = { .usage = "prog", .summary = "Nothing." };
	struct fm_arguments a = { 0 };
	struct fm_error e = FM_ERROR_INIT;
	char *argv[] = { "prog", "--x", NULL };
	assert_int_equal(fm_options_parse(&cl, 1, argv, &a, &e), 0);
	fm_arguments_done(&a);
	assert_int_equal(fm_options_parse(&cl, 2, argv, &a, &e), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_types), cmocka_unit_test(test_positional_and_rest), cmocka_unit_test(test_errors),
		cmocka_unit_test(test_help),      cmocka_unit_test(test_no_options),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
