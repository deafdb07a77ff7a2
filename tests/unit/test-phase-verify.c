/* SPDX-License-Identifier: MIT */
/* test-phase-verify.c - at which of a container's addresses it is looked for when it has been moved. What becomes of a migration whose checks fail: test-coordinator-failures.c. */
#pragma GCC diagnostic ignored "-Wunused-function" /* of coordinator-lab.h */
#include "coordinator-lab.h"

static void test_where_it_is_probed(void **state)
{
	static const struct {
		const char *addresses[4], *listens[4], *refuses, *probed;
		bool health, fails;
	} v[] = {
		{ { NULL }, { NULL }, NULL, "alpha 10.77.0.100:6379", false, false },
		/* the first address that something listens at */
		{ { "10.77.0.100/24", "fd77::100/64" }, { "::", "0.0.0.0" }, NULL, "alpha 10.77.0.100:6380", false, false },
		{ { "10.77.0.100/24", "fd77::100/64" }, { "127.0.0.1", "::1", "fd77::100" }, NULL, "alpha fd77::100:6381", false, false },
		{ { NULL, "fd77::100/64" }, { "::" }, NULL, "alpha fd77::100:6379", false, false },
		{ { "10.77.0.100/24", NULL, NULL, "fd78::100/64" }, { "fd78::100" }, NULL, "alpha fd78::100:6379", false, false },
		{ { "10.77.0.100/24" }, { "::ffff:10.77.0.100" }, NULL, "alpha 10.77.0.100:6379", false, false },
		{ { "10.77.0.100/24" }, { "127.0.0.1", "::1", "10.77.0.101" }, NULL, "", false, false },
		{ { NULL, "fd77::100/64" }, { "0.0.0.0" }, NULL, "", false, false },
		/* whether it takes IPv4 there, nobody knows before */
		{ { "10.77.0.100/24", "fd77::100/64" }, { "::" }, NULL, "alpha 10.77.0.100:6379", false, false },
		{ { "10.77.0.100/24", "fd77::100/64" },
		  { "::" },
		  "10.77.0.100",
		  "alpha 10.77.0.100:6379; alpha fd77::100:6379",
		  false,
		  false },
		{ { "10.77.0.100/24" }, { "::" }, "10.77.0.100", "alpha 10.77.0.100:6379", false, true },
		{ { "10.77.0.100/24", "fd77::100/64" }, { "0.0.0.0", "::" }, "10.77.0.100", "alpha 10.77.0.100:6379", false, true },
		/* a health check has a port of its own */
		{ { NULL, "fd77::100/64", "10.78.0.100/24" }, { NULL }, NULL, "beta fd77::100:0; alpha fd77::100:0", true, false },
	};

	for (size_t i = 0; i < FM_ARRAY_SIZE(v); i++) {
		void *fresh = NULL;
		char id[64];
		assert_int_equal(lab_setup(&fresh), 0);
		struct lab *l = fresh;
		l->t->endpoint = true;
		l->t->health = v[i].health;
		l->t->refuses = v[i].refuses;
		memcpy(l->t->addresses, v[i].addresses, sizeof(v[i].addresses));
		memcpy(l->t->listens, v[i].listens, sizeof(v[i].listens));
		lab_start(l);
		lab_migrate(l, id);
		lab_assert_end(l, id, v[i].fails ? FAILED : COMPLETED, v[i].fails ? "1N 2N 3N 4N 5F 8N" : "1N 2N 3N 4N 5N 6N",
		               v[i].fails ? "alpha" : "beta");
		if (!fm_streq(l->t->probed, v[i].probed))
			fail_msg("case %zu: probed %s, not %s", i, l->t->probed, v[i].probed);
		assert_int_equal(lab_teardown(&fresh), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_where_it_is_probed) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
