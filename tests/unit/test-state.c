/* SPDX-License-Identifier: MIT */
/* test-state.c - the transition table, pair by pair, against docs/LIFECYCLE.md. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "migration/state.h"

/* Row: from (1-8), column: to (1-8); "" legal without a label, NULL illegal. Written down again on purpose. */
static const char *const want[9][9] = {
	[FM_STATE_PENDING] = { [FM_STATE_PLANNING] = "1N", [FM_STATE_FAILED] = "1F" },
	[FM_STATE_PLANNING] = { [FM_STATE_PREPARATION] = "2N", [FM_STATE_FAILED] = "2F" },
	[FM_STATE_PREPARATION] = { [FM_STATE_EXECUTION] = "3N", [FM_STATE_FAILED] = "3F" },
	[FM_STATE_EXECUTION] = { [FM_STATE_VERIFICATION] = "4N", [FM_STATE_FAILED] = "4F" },
	[FM_STATE_VERIFICATION] = { [FM_STATE_COMPLETED] = "5N", [FM_STATE_FAILED] = "5F" },
	[FM_STATE_COMPLETED] = { [FM_STATE_COMPLETED] = "6N" },
	[FM_STATE_FAILED] = { [FM_STATE_ROLLBACK] = "" },
	[FM_STATE_ROLLBACK] = { [FM_STATE_FAILED] = "8N" },
};

static void test_every_pair(void **state)
{
	for (int from = -1; from <= _FM_STATE_MAX; from++)
		for (int to = -1; to <= _FM_STATE_MAX; to++) {
			const struct fm_transition_rule *r = fm_transition_find((enum fm_state)from, (enum fm_state)to);
			const char *label = from > 0 && from < 9 && to > 0 && to < 9 ? want[from][to] : NULL;
			if (!label) {
				assert_null(r);
				continue;
			}
			assert_non_null(r);
			assert_int_equal(r->from, from);
			assert_int_equal(r->to, to);
			assert_string_equal(r->label, label);
			/* terminal: released, or rolled back */
			assert_int_equal(r->terminal, strcmp(label, "6N") == 0 || strcmp(label, "8N") == 0);
		}
}

/* Every state is reached and left, and every way ends in a terminal row. */
static void test_table_is_whole(void **state)
{
	size_t n = 0;
	for (const struct fm_transition_rule *r = fm_transition_rules; r->from != FM_STATE_INVALID; r++, n++) {
		bool goes_on = false;
		for (const struct fm_transition_rule *o = fm_transition_rules; o->from != FM_STATE_INVALID; o++)
			goes_on = goes_on || o->from == r->to;
		assert_true(goes_on || r->terminal);
		for (const struct fm_transition_rule *o = r + 1; o->from != FM_STATE_INVALID; o++)
			assert_false(o->from == r->from && o->to == r->to);
	}
	assert_int_equal(n, 13);
}

static void test_numbers_and_names(void **state)
{
	static const char *const names[] = { "PENDING",      "PLANNING",  "PREPARATION", "EXECUTION",
		                             "VERIFICATION", "COMPLETED", "FAILED",      "ROLLBACK" };
	for (int i = 1; i <= 8; i++) {
		assert_string_equal(fm_state_to_string((enum fm_state)i), names[i - 1]);
		assert_int_equal(fm_state_from_string(names[i - 1]), i);
	}
	assert_string_equal(fm_state_to_string(FM_STATE_INVALID), "INVALID");
	assert_string_equal(fm_state_to_string((enum fm_state) - 1), "INVALID");
	assert_string_equal(fm_state_to_string(_FM_STATE_MAX), "INVALID");
	assert_int_equal(fm_state_from_string("INVALID"), FM_STATE_INVALID);
	assert_int_equal(fm_state_from_string("pending"), FM_STATE_INVALID);
	assert_int_equal(fm_state_from_string(""), FM_STATE_INVALID);
	assert_int_equal(fm_state_from_string(NULL), FM_STATE_INVALID);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_pair),
		cmocka_unit_test(test_table_is_whole),
		cmocka_unit_test(test_numbers_and_names),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
