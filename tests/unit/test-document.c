/* SPDX-License-Identifier: MIT */
/* test-document.c - what people write: YAML and JSON come to the same tree, every value has its place, everything that could be read in two ways is refused with its place. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>

#include "basic/document.h"
#include "basic/limits.h"
#include "basic/str.h"

static struct fm_document *parse(const char *text)
{
	struct fm_document *d = NULL;
	assert_ok(fm_document_parse(text, strlen(text), "doc", NULL, &d, &err));
	return d;
}

static void reads(const char *text, const char *expected)
{
	_fm_document_ struct fm_document *d = parse(text);
	_fm_free_ char *got = json_dumps(fm_document_root(d), JSON_COMPACT | JSON_ENCODE_ANY);
	assert_string_equal(got, expected);
}

static void refused(enum fm_code code, const char *text, size_t len, const char *message)
{
	struct fm_document *d = NULL;
	assert_code(code, fm_document_parse(text, len, "doc", NULL, &d, &err));
	assert_null(d);
	if (!strstr(err.message, message))
		fail_msg("'%s' does not say '%s'", err.message, message);
}

static void wrong(const char *text, const char *message)
{
	refused(FM_E_INVALID_ARGUMENT, text, strlen(text), message);
}

static void test_scalars(void **state)
{
	reads("a: 1\nb: -2.5\nc: yes\nd: True\ne: ~\nf:\ng: '1'\nh: \"x\\ty\"\ni: 09:30\nj: 0x1F\nk: 0o17\nl: 1e3\nm: +4\nn: "
	      "2026-01-02\no: .5\np: 5.\n",
	      "{\"a\":1,\"b\":-2.5,\"c\":\"yes\",\"d\":true,\"e\":null,\"f\":null,\"g\":\"1\",\"h\":\"x\\ty\",\"i\":\"09:30\",\"j\":31,"
	      "\"k\":15,\"l\":1000.0,"
	      "\"m\":4,\"n\":\"2026-01-02\",\"o\":0.5,\"p\":5.0}");
	reads("- a\n- [b, {c: d}]\n-\n  e: 'it''s'\n", "[\"a\",[\"b\",{\"c\":\"d\"}],{\"e\":\"it's\"}]");
	reads("t: >-\n  one\n  two\nu: |\n  three\n", "{\"t\":\"one two\",\"u\":\"three\\n\"}");
	reads("{'k': ['x'], \"l\": 2}", "{\"k\":[\"x\"],\"l\":2}"); /* begins like JSON, and is none */
	reads("0", "0");
	reads("-0", "0");
	reads("9223372036854775807", "9223372036854775807");
	reads("1: one", "{\"1\":\"one\"}");
	reads("e: 1e\nf: 1.2.3\ng: '0x'\nh: 0x\ni: '-'\n", "{\"e\":\"1e\",\"f\":\"1.2.3\",\"g\":\"0x\",\"h\":\"0x\",\"i\":\"-\"}");
}

static void test_json_is_the_same(void **state)
{
	reads(" {\"a\": [1, 2.5, true, null, \"x\\u00e9\\\"\"],\r\n \"b\": {}}", "{\"a\":[1,2.5,true,null,\"xé\\\"\"],\"b\":{}}");
	struct fm_document *d = NULL;
	assert_code(FM_E_INVALID_ARGUMENT, fm_document_parse("{a: 1}", 6, "x.json", NULL, &d, &err)); /* by its name it has to be JSON */
	assert_non_null(strstr(err.message, "x.json:1:"));
	assert_code(FM_E_INVALID_ARGUMENT, fm_document_parse("a: 1", 4, "x.json", NULL, &d, &err));
	assert_non_null(strstr(err.message, "begins with neither"));
}

static void is_at(struct fm_document_place p, unsigned line, unsigned column)
{
	assert_int_equal(p.line, line);
	assert_int_equal(p.column, column);
}

static void places(const char *text, unsigned line_of_b, unsigned column_of_b)
{
	_fm_document_ struct fm_document *d = parse(text);
	json_t *root = fm_document_root(d), *list = json_object_get(root, "b");
	is_at(fm_document_key_place(d, root, "a"), 2, 2);
	is_at(fm_document_member_place(d, root, "a"), 2, 6);
	is_at(fm_document_member_place(d, root, "b"), line_of_b, column_of_b);
	is_at(fm_document_entry_place(d, list, 0), 3, 7);
	is_at(fm_document_entry_place(d, list, 1), 4, 2);
	is_at(fm_document_entry_place(d, list, 2), 4, 9);
	is_at(fm_document_entry_place(d, list, 3), 0, 0);
	is_at(fm_document_member_place(d, root, "c"), 0, 0);
	is_at(fm_document_member_place(d, json_object_get(root, "nothing"), "c"), 1, 1); /* no parent: the root */
}

static void test_places(void **state)
{
	places("{\n \"a\":true,\n \"b\":[true,\n true , true]}", 3, 6);
	places("{\n 'a':true,\n \"b\":[true,\n true , true]}", 3, 6);
}

static void test_many_places(void **state)
{
	_fm_buf_ struct fm_buf text = FM_BUF_INIT;
	for (int i = 0; i < 3000; i++)
		fm_buf_addf(&text, "key%d: [x, %d]\n", i, i);
	_fm_document_ struct fm_document *d = parse(text.data);
	for (int i = 0; i < 3000; i++) {
		char key[32];
		(void)snprintf(key, sizeof(key), "key%d", i);
		is_at(fm_document_key_place(d, fm_document_root(d), key), (unsigned)i + 1, 1);
		is_at(fm_document_entry_place(d, json_object_get(fm_document_root(d), key), 1), (unsigned)i + 1, (unsigned)strlen(key) + 7);
	}
}

static void test_refused(void **state)
{
	wrong("", "doc:1:1: there is nothing in it");
	wrong("# only a comment\n", "there is nothing in it");
	wrong("a: 1\nb: 2\na: 3\n", "doc:3:1: 'a' is there twice; it was at line 1 already");
	wrong("{\"a\": 1,\n\"a\": 2}", "doc:2:1: 'a' is there twice");
	wrong("a: &x 1\n", "doc:1:4: anchors and tags");
	wrong("a: !!str 1\n", "doc:1:4: anchors and tags");
	wrong("- !x [1]\n", "doc:1:3: anchors and tags");
	wrong("a: &x [1]\n", "anchors and tags");
	wrong("a: *x\n", "doc:1:4: aliases");
	wrong("%TAG ! tag:x,2000:\n--- a\n", "tag directives");
	wrong("a: 1\n---\nb: 2\n", "doc:2:1: a second document");
	wrong("a: 010\n", "doc:1:4: 010: is it octal");
	wrong("a: -007\n", "is it octal");
	wrong("a: 99999999999999999999\n", "doc:1:4: the number 99999999999999999999 does not fit");
	wrong("a: .inf\n", ".inf is no number");
	wrong("a: -.NaN\n", "is no number");
	wrong("a: 1e999\n", "doc:1:4: the number 1e999 is too large");
	wrong("a: \"x\\0y\"\n", "NUL");
	wrong("? [a]\n: b\n", "doc:1:3: the key of a mapping has to be a text");
	wrong("a: [1\nb: 2\n", "doc:");
	wrong("a: 'x\n", "doc:");
	wrong("a: \xff\n", "doc: at byte");
	wrong("\t- a\n", "doc:1:1:");
	refused(FM_E_INVALID_ARGUMENT, "a: b\0c", 6, "doc: ");
}

static void test_limits(void **state)
{
	const struct fm_document_limits small = { .bytes = 20, .nodes = 4, .depth = 2 };
	static const char *const too_much[] = { "a: bcdefghijklmnopqrstuvw", "[1,2,3,4]", "- 1\n- 2\n- 3\n- 4\n", "[[[1]]]", "- - - 1\n",
		                                "{\"a\":{\"b\":{}}}" };
	static const char *const enough[] = { "[1,2,3]", "- 1\n- 2\n- 3\n", "[[1]]", "{\"a\":{\"b\":1}}", "a:\n  b: 1\n" };
	struct fm_document *d = NULL;
	for (size_t i = 0; i < FM_ARRAY_SIZE(too_much); i++)
		assert_code(FM_E_RESOURCE_EXHAUSTED, fm_document_parse(too_much[i], strlen(too_much[i]), "doc", &small, &d, &err));
	for (size_t i = 0; i < FM_ARRAY_SIZE(enough); i++) {
		assert_ok(fm_document_parse(enough[i], strlen(enough[i]), "doc", &small, &d, &err));
		fm_document_free(d);
	}
	_fm_free_ char *deep = malloc(200001);
	memset(deep, '[', 200000);
	deep[200000] = '\0';
	refused(FM_E_RESOURCE_EXHAUSTED, deep, 200000, "more than 32 lists and mappings in each other");
}

static void test_error_of_a_value(void **state)
{
	_fm_document_ struct fm_document *d = parse("a: 1\nb: 2\n");
	err = FM_ERROR_INIT;
	assert_int_equal(fm_document_error(d, fm_document_member_place(d, fm_document_root(d), "b"), &err, "%s", "no"), -1);
	assert_string_equal(err.message, "doc:2:4: no");
	assert_code(FM_E_NOT_FOUND, fm_document_read("/nonexistent/file.yaml", NULL, &d, &err));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_scalars),          cmocka_unit_test(test_json_is_the_same), cmocka_unit_test(test_places),
		cmocka_unit_test(test_many_places),      cmocka_unit_test(test_refused),          cmocka_unit_test(test_limits),
		cmocka_unit_test(test_error_of_a_value),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
