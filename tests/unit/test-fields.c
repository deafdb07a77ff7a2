/* SPDX-License-Identifier: MIT */
/* test-fields.c - strict JSON objects by tables: each type at its bounds, and what is wrong told with its place. */
#include "check.h"

#include <net/if.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/str.h"
#include "network/address.h"
#include "network/fields.h"

struct thing {
	const char *text, *word_text;
	enum { RED, GREEN, BLUE } color;
	bool yes, second;
	uint8_t u8;
	uint16_t u16;
	uint32_t u32;
	uint64_t u64;
	const json_t *list, *object;
	struct fm_ip ip, host;
	uint8_t mac[6];
	char device[IFNAMSIZ];
	uint64_t hex;
};

static bool is_short(const char *text)
{
	return strlen(text) < 4;
}

static const char *const colors[] = { "red", "green", "blue", NULL };
static const char *const two[] = { "first", "second", NULL };

#define AT(member) FM_FIELD(struct thing, member)
static const struct fm_field fields[] = {
	FM_FIELD_DRIVER,
	{ AT(text), .max = 5, .check = is_short, .what = "is not short" },
	{ AT(word_text), .words = two },
	{ AT(color), .type = FM_FIELD_WORD, .words = colors },
	{ AT(yes), .type = FM_FIELD_BOOL },
	{ AT(second), .type = FM_FIELD_BOOL, .words = two },
	{ AT(u8), .type = FM_FIELD_U8, .min = 2 },
	{ AT(u16), .type = FM_FIELD_U16 },
	{ AT(u32), .type = FM_FIELD_U32, .max = 7 },
	{ AT(u64), .type = FM_FIELD_U64 },
	{ AT(list), .type = FM_FIELD_LIST, .min = 1, .max = 2 },
	{ AT(object), .type = FM_FIELD_OBJECT, .max = 1, .empty = true },
	{ AT(ip), .parse = fm_read_ip, .empty = true },
	{ AT(host), .parse = fm_read_host },
	{ AT(mac), .parse = fm_read_mac },
	{ AT(device), .parse = fm_read_interface },
	{ AT(hex), .parse = fm_read_hex },
	{ 0 },
};

static json_t *load(const char *text)
{
	json_t *j = json_loads(text, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);

	assert_non_null(j);
	return j;
}

static void test_all_types(void **state)
{
	_fm_cleanup_(json_decrefp) json_t *o = load(
	        "{\"driver\": [], \"text\": \"abc\", \"word_text\": \"second\", \"color\": \"blue\", \"yes\": true, \"second\": "
	        "\"second\", "
	        "\"u8\": 255, \"u16\": 65535, \"u32\": 7, \"u64\": 9223372036854775807, \"list\": [1, 2], \"object\": {\"a\": 1}, \"ip\": "
	        "\"127.0.0.1\", \"host\": \"fd00::1\", \"mac\": \"02:77:00:00:01:aF\", \"device\": \"123456789012345\", "
	        "\"hex\": \"0xfedcba9876543210\"}");
	struct thing t = { 0 };
	const struct fm_place at = { .who = "thing" };

	assert_ok(fm_fields_read(o, &at, fields, &t, &err));
	assert_string_equal(t.text, "abc");
	assert_ptr_equal(t.text, json_string_value(json_object_get(o, "text")));
	assert_string_equal(t.word_text, "second");
	assert_true(t.color == BLUE && t.yes && t.second && t.u8 == 255 && t.u16 == 65535 && t.u32 == 7 && t.u64 == INT64_MAX);
	assert_int_equal(json_array_size(t.list), 2);
	assert_int_equal(json_object_size(t.object), 1);
	assert_true(t.ip.family == AF_INET && t.ip.raw[0] == 127 && t.host.family == AF_INET6 && t.host.raw[15] == 1);
	assert_memory_equal(t.mac, "\x02\x77\0\0\x01\xaf", 6);
	assert_string_equal(t.device, "123456789012345");
	assert_int_equal(t.hex, 0xfedcba9876543210ull);
}

/* What is missing, or "" or null where that may be, leaves everything as it was. */
static void test_what_is_not_said(void **state)
{
	_fm_cleanup_(json_decrefp) json_t *o = load("{\"object\": null, \"ip\": \"\"}");
	struct thing t, before;
	const struct fm_place at = { .who = "thing" };

	memset(&t, 0x5a, sizeof(t));
	before = t;
	assert_ok(fm_fields_read(o, &at, fields, &t, &err));
	assert_memory_equal(&t, &before, sizeof(t));
}

static void test_wrong(void **state)
{
	static const char *const all[][2] = {
		{ "[]", "thing: it is not an object" },
		{ "7", "thing: it is not an object" },
		{ "{\"texts\": \"\"}", "thing: texts is not a member that is known here" },
		{ "{\"Text\": \"\"}", "thing: Text is not a member that is known here" },
		{ "{\"text\": 7}", "thing: text is not a string" },
		{ "{\"text\": null}", "thing: text is not a string" },
		{ "{\"text\": \"\"}", "thing: text is empty; 1 to 5 bytes are possible" },
		{ "{\"text\": \"123456\"}", "thing: text has 6 bytes; 1 to 5 are possible" },
		{ "{\"text\": \"1234\"}", "thing: text is not short" },
		{ "{\"text\": \"a\\n\"}", "thing: text has control characters" },
		{ "{\"text\": \"a\\u0000\"}", "thing: text has control characters" },
		{ "{\"text\": \"a\\u007f\"}", "thing: text has control characters" },
		{ "{\"word_text\": \"third\"}", "thing: word_text is not first or second" },
		{ "{\"color\": \"pink\"}", "thing: color is not red, green or blue" },
		{ "{\"color\": \"Red\"}", "thing: color is not red" },
		{ "{\"color\": 1}", "thing: color is not red, green or blue" },
		{ "{\"second\": true}", "thing: second is not first or second" },
		{ "{\"yes\": \"true\"}", "thing: yes is neither true nor false" },
		{ "{\"yes\": null}", "thing: yes is neither true nor false" },
		{ "{\"u8\": 1}", "thing: u8 is not a whole number from 2 to 255" },
		{ "{\"u8\": 256}", "thing: u8 is not a whole number" },
		{ "{\"u16\": 65536}", "thing: u16 is not a whole number from 0 to 65535" },
		{ "{\"u16\": -1}", "thing: u16 is not a whole number" },
		{ "{\"u32\": 8}", "thing: u32 is not a whole number from 0 to 7" },
		{ "{\"u32\": 1.0}", "thing: u32 is not a whole number" },
		{ "{\"u32\": \"1\"}", "thing: u32 is not a whole number" },
		{ "{\"u64\": -9223372036854775808}", "thing: u64 is not a whole number from 0 to 9223372036854775807" },
		{ "{\"list\": {}}", "thing: list is not a list" },
		{ "{\"list\": null}", "thing: list is not a list" },
		{ "{\"list\": []}", "thing: list has 0 entries; 1 to 2 are possible" },
		{ "{\"list\": [1, 2, 3]}", "thing: list has 3 entries; 1 to 2 are possible" },
		{ "{\"object\": []}", "thing: object is not an object" },
		{ "{\"object\": {\"a\": 1, \"b\": 1}}", "thing: object has 2 entries; 0 to 1 are possible" },
		{ "{\"ip\": \"10.0.0.1/24\"}", "thing: ip: \"10.0.0.1/24\" is not an address" },
		{ "{\"host\": \"\"}", "thing: host is empty" },
		{ "{\"host\": \"127.0.0.1\"}", "thing: host: \"127.0.0.1\" is not the address of one machine" },
		{ "{\"host\": \"ff02::1\"}", "thing: host: \"ff02::1\" is not the address of one machine" },
		{ "{\"host\": \"::ffff:10.0.0.1\"}", "is not the address of one machine" },
		{ "{\"mac\": \"02:77:00:00:01\"}", "thing: mac: \"02:77:00:00:01\" is not a MAC address" },
		{ "{\"mac\": \"02:77:00:00:01:0g\"}", "is not a MAC address" },
		{ "{\"mac\": \"02:77:00:00:01:000\"}", "is not a MAC address" },
		{ "{\"mac\": \"01:00:00:00:00:01\"}", "a group's" },
		{ "{\"mac\": \"00:00:00:00:00:00\"}", "zero" },
		{ "{\"device\": \"1234567890123456\"}", "thing: device: \"1234567890123456\" is not the name of an interface" },
		{ "{\"device\": \"a/b\"}", "is not the name of an interface" },
		{ "{\"device\": \"..\"}", "is not the name of an interface" },
		{ "{\"device\": \"a b\"}", "is not the name of an interface" },
		{ "{\"hex\": \"0x\"}", "thing: hex: \"0x\" is not like 0x1f" },
		{ "{\"hex\": \"1f\"}", "is not like 0x1f" },
		{ "{\"hex\": \"0x+1\"}", "is not like 0x1f" },
		{ "{\"hex\": \"0x11111111111111111\"}", "is not like 0x1f" },
	};
	const struct fm_place at = { .who = "thing" };
	struct thing t = { 0 };

	for (size_t i = 0; i < FM_ARRAY_SIZE(all); i++) {
		_fm_cleanup_(json_decrefp) json_t *o = load(all[i][0]);

		assert_code(FM_E_INVALID_ARGUMENT, fm_fields_read(o, &at, fields, &t, &err));
		if (strncmp(err.message, "thing: ", 7) != 0 || !strstr(err.message, all[i][1]))
			fail_msg("%s: \"%s\" does not say \"%s\"", all[i][0], err.message, all[i][1]);
	}
}

/* Without a bound of the table's a text has FM_FIELD_TEXT_MAX. */
static void test_longest_text(void **state)
{
	static const struct fm_field plain[] = { { .name = "a", .required = true }, { 0 } };
	const struct fm_place at = { .who = "thing" };
	char longest[FM_FIELD_TEXT_MAX + 2];
	const char *text = NULL;
	_fm_cleanup_(json_decrefp) json_t *o = json_object();

	memset(longest, 'x', sizeof(longest));
	longest[FM_FIELD_TEXT_MAX] = '\0';
	json_object_set_new(o, "a", json_string(longest));
	assert_ok(fm_fields_read(o, &at, plain, &text, &err));
	assert_string_equal(text, longest);
	longest[FM_FIELD_TEXT_MAX] = 'x';
	longest[FM_FIELD_TEXT_MAX + 1] = '\0';
	json_object_set_new(o, "a", json_string(longest));
	assert_code(FM_E_INVALID_ARGUMENT, fm_fields_read(o, &at, plain, &text, &err));
	json_object_clear(o);
	assert_code(FM_E_INVALID_ARGUMENT, fm_fields_read(o, &at, plain, &text, &err));
	assert_string_equal(err.message, "thing: a is missing");
	assert_code(FM_E_INVALID_ARGUMENT, fm_fields_read(NULL, &at, plain, &text, &err));
}

static int read_entry(void *userdata, size_t i, const json_t *v, const struct fm_place *at, struct fm_error *why)
{
	static const struct fm_field how = { .type = FM_FIELD_U8, .max = 9 };
	uint8_t *all = userdata;

	return fm_field_read(v, at, &how, &all[i], why);
}

/* Places grow inwards, and take their code along. */
static void test_places(void **state)
{
	const struct fm_place at = { .who = "store", .code = FM_E_DATA_LOSS }, a = fm_place_member(&at, "a");
	const struct fm_place b = fm_place_entry(&a, "b", 3), c = fm_place_member(&b, "c");
	_fm_cleanup_(json_decrefp) json_t *list = load("[1, 2, 10]"), *o = load("{\"x\": 1}");
	struct fm_error other = FM_ERROR_INIT;
	struct thing t = { 0 };
	uint8_t got[3] = { 0 };

	assert_string_equal(b.path, "a.b[3]");
	assert_code(FM_E_DATA_LOSS, fm_fields_read(o, &c, fields, &t, &err));
	assert_string_equal(err.message, "store: a.b[3].c.x is not a member that is known here");
	assert_code(FM_E_DATA_LOSS, fm_fields_each(list, &a, "l", read_entry, got, &err));
	assert_string_equal(err.message, "store: a.l[2] is not a whole number from 0 to 9");
	assert_true(got[0] == 1 && got[1] == 2 && got[2] == 0);
	assert_ok(fm_fields_each(NULL, &a, "l", read_entry, got, &err));
	assert_code(FM_E_DATA_LOSS, fm_field_wrong(&at, NULL, "is old", &err));
	assert_string_equal(err.message, "store: it is old");
	(void)fm_error_set(&other, FM_E_NOT_FOUND, "there is no h");
	(void)fm_error_hint(&other, "make one");
	assert_int_equal(fm_field_error(&b, "h", &other), -1);
	assert_true(other.code == FM_E_DATA_LOSS && fm_streq(other.message, "store: a.b[3].h: there is no h") &&
	            fm_streq(other.hint, "make one"));
}

static void test_map(void **state)
{
	static const char *const wrong[][2] = {
		{ "{\"a b\": \"10.0.0.1\"}", "thing: m.a b is not a name" },
		{ "{\"a\": 1}", "thing: m.a is not a string" },
		{ "{\"a\": \"10.0.0.1\", \"b\": \"10.0.0\"}", "thing: m.b is no address" },
	};
	static const struct fm_field address = { .check = fm_is_ip_address, .what = "is no address" };
	_fm_cleanup_(json_decrefp) json_t *good = load("{\"a\": \"10.0.0.1\", \"b\": \"fd00::1\"}");
	const struct fm_place at = { .who = "thing" };

	assert_ok(fm_fields_map(NULL, &at, "m", &address, &err));
	assert_ok(fm_fields_map(good, &at, "m", &address, &err));
	for (size_t i = 0; i < FM_ARRAY_SIZE(wrong); i++) {
		_fm_cleanup_(json_decrefp) json_t *o = load(wrong[i][0]);

		assert_code(FM_E_INVALID_ARGUMENT, fm_fields_map(o, &at, "m", &address, &err));
		assert_string_equal(err.message, wrong[i][1]);
	}
}

/* A place that is deeper than there is room for is cut off, and nothing else. */
static void test_long_places(void **state)
{
	struct fm_place at = { .who = "thing" };
	char key[200];

	memset(key, 'k', sizeof(key));
	key[sizeof(key) - 1] = '\0';
	for (int i = 0; i < 10; i++)
		at = fm_place_entry(&at, key, SIZE_MAX);
	assert_true(strlen(at.path) < FM_PLACE_MAX);
	assert_code(FM_E_INVALID_ARGUMENT, fm_field_wrong(&at, key, "is wrong", &err));
	assert_true(fm_str_startswith(err.message, "thing: kkk") && fm_str_endswith(err.message, "k is wrong"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_types),    cmocka_unit_test(test_what_is_not_said), cmocka_unit_test(test_wrong),
		cmocka_unit_test(test_longest_text), cmocka_unit_test(test_places),           cmocka_unit_test(test_map),
		cmocka_unit_test(test_long_places),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
