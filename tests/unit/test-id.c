/* SPDX-License-Identifier: MIT */
/* Tests of basic/id and basic/clock. */
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "basic/clock.h"
#include "basic/id.h"

static void test_ids(void **state)
{
	char a[FM_MIGRATION_ID_LEN + 1], b[FM_MIGRATION_ID_LEN + 1];

	fm_id_new(a);
	fm_id_new(b);
	assert_int_equal(strlen(a), FM_MIGRATION_ID_LEN);
	assert_memory_equal(a, "m-", 2);
	assert_int_equal(strspn(a + 2, "0123456789abcdef"), FM_MIGRATION_ID_LEN - 2);
	assert_string_not_equal(a, b);
}

static void test_tokens(void **state)
{
	char a[FM_TOKEN_LEN + 1], b[FM_TOKEN_LEN + 1];

	fm_token_new(a);
	fm_token_new(b);
	assert_int_equal(strlen(a), FM_TOKEN_LEN);
	assert_int_equal(strspn(a, "0123456789abcdef"), FM_TOKEN_LEN);
	assert_string_not_equal(a, b);
}

static void test_random_bytes(void **state)
{
	uint8_t a[1000] = { 0 }, zero[1000] = { 0 };

	fm_random_bytes(a, 0);
	assert_memory_equal(a, zero, sizeof(a));
	fm_random_bytes(a, sizeof(a));
	assert_memory_not_equal(a, zero, sizeof(a));
}

/* names of interfaces depend on it: the published FNV-1a values */
static void test_hash(void **state)
{
	assert_true(fm_hash_str("") == 0xcbf29ce484222325u);
	assert_true(fm_hash_str("a") == 0xaf63dc4c8601ec8cu);
	assert_true(fm_hash_str("foobar") == 0x85944171f73967e8u);
}

static void test_clock(void **state)
{
	uint64_t before = fm_now_us(), ms = fm_now_ms(), after = fm_now_us();

	assert_true(before <= after);
	assert_true(before / 1000 <= ms && ms <= after / 1000);
	assert_true(fm_realtime_ms() > 1700000000000u);
	before = fm_now_ms();
	fm_pause_ms(2);
	assert_true(fm_now_ms() >= before + 1); /* never shorter, but for the rounding */
}

static void test_format_time(void **state)
{
	char buf[32];

	assert_string_equal(fm_format_time(0, buf, sizeof(buf)), "1970-01-01T00:00:00.000Z");
	assert_string_equal(fm_format_time(1795513529123u, buf, sizeof(buf)), "2026-11-24T09:45:29.123Z");
	assert_string_equal(fm_format_time(1709164800007u, buf, sizeof(buf)), "2024-02-29T00:00:00.007Z");
	assert_string_equal(fm_format_time(UINT64_MAX, buf, sizeof(buf)), "invalid");
}

static void test_deadline(void **state)
{
	uint64_t now = fm_now_ms();
	int left;

	assert_int_equal(fm_deadline_left_ms(0), 0);
	assert_int_equal(fm_deadline_left_ms(now), 0);
	assert_int_equal(fm_deadline_left_ms(UINT64_MAX), INT_MAX);
	left = fm_deadline_left_ms(now + 1000000);
	assert_in_range(left, 1, 1000000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ids),      cmocka_unit_test(test_tokens), cmocka_unit_test(test_random_bytes),
		cmocka_unit_test(test_hash),     cmocka_unit_test(test_clock),  cmocka_unit_test(test_format_time),
		cmocka_unit_test(test_deadline),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
