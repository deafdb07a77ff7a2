/* SPDX-License-Identifier: MIT */
/* test-strategy.c - the names of the strategies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <string.h>

#include "basic/cleanup.h"
#include "decision/strategy.h"

static void test_names(void **state)
{
	static const char *const names[] = { "auto", "cold", "pre-copy", "post-copy", "live" };
	struct fm_error e = FM_ERROR_INIT;
	for (int i = 0; i < 5; i++) {
		enum fm_strategy s = (enum fm_strategy)0;
		assert_string_equal(fm_strategy_to_string((enum fm_strategy)(i + 1)), names[i]);
		assert_int_equal(fm_strategy_from_string(names[i], &s, &e), 0);
		assert_int_equal(s, i + 1);
	}
	static const char *const bad[] = { "", "AUTO", "unspecified", "cold ", NULL };
	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++) {
		enum fm_strategy s = FM_STRATEGY_COLD;
		e = FM_ERROR_INIT;
		assert_int_equal(fm_strategy_from_string(bad[i], &s, &e), -1);
		assert_int_equal(e.code, FM_E_INVALID_ARGUMENT);
		assert_non_null(strstr(e.hint, "post-copy"));
		assert_int_equal(s, FM_STRATEGY_COLD);
	}
	assert_non_null(fm_strategy_to_string((enum fm_strategy) - 1));
	assert_non_null(fm_strategy_to_string((enum fm_strategy)99));
}

static void test_available(void **state)
{
	for (int s = -1; s <= 7; s++) {
		struct fm_error e = FM_ERROR_INIT;
		bool there = s >= FM_STRATEGY_AUTO && s <= FM_STRATEGY_LIVE;
		assert_int_equal(fm_strategy_check_available((enum fm_strategy)s, &e), there ? 0 : -1);
		assert_int_equal(e.code, there ? FM_OK : FM_E_INVALID_ARGUMENT);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_available),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
