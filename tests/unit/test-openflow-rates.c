/* SPDX-License-Identifier: MIT */
/* test-openflow-rates.c - rates of ports from two readings; a real switch's counters: test-openflow-ovs.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above */
#include <cmocka.h>

#include "network/openflow-rates.h"

static struct fm_of_counters reading(uint32_t port, uint64_t age_us, uint64_t rx, uint64_t tx)
{
	return (struct fm_of_counters){ .port = port, .age_us = age_us, .rx_bytes = rx, .tx_bytes = tx };
}

static void test_rates(void **state)
{
	const struct fm_of_counters before[] = { reading(1, 1000000, 100, 0), reading(2, 5000000, 0, 0), reading(3, 10, 7, 7) };
	const struct fm_of_counters after[] = {
		reading(4, 9000000, 1, 1),           /* new */
		reading(2, 5500000, 500, 1000000),   /* half a second later, and in another place */
		reading(1, 3000000, 100 + 2000, 10), /* two seconds */
	};
	struct fm_of_rate r[3];
	size_t n = 9;

	fm_of_port_rates(before, 3, after, 3, r, &n);
	assert_int_equal(n, 2);
	assert_true(r[0].port == 2 && r[0].rx_bytes_per_s == 1000 && r[0].tx_bytes_per_s == 2000000);
	assert_true(r[1].port == 1 && r[1].rx_bytes_per_s == 1000 && r[1].tx_bytes_per_s == 5);
	fm_of_port_rates(NULL, 0, after, 3, r, &n);
	assert_int_equal(n, 0);
}

static void test_no_rate(void **state)
{
	const struct fm_of_counters before = reading(1, 1000, 100, 100);
	const struct fm_of_counters bad[] = {
		reading(1, 1000, 200, 200),                                           /* no time has passed */
		reading(1, 999, 200, 200),                                            /* made anew */
		reading(1, 2000, 99, 200),                                            /* went back */
		reading(1, 2000, 200, 99),         reading(1, 2000, UINT64_MAX, 200), /* not counted */
		reading(1, 2000, 200, UINT64_MAX),
	};
	struct fm_of_rate r;
	size_t n = 9;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		fm_of_port_rates(&before, 1, &bad[i], 1, &r, &n);
		assert_int_equal(n, 0);
	}
	/* a stranger's numbers do not overflow */
	const struct fm_of_counters much = reading(1, 1001, UINT64_MAX - 1, 100);
	fm_of_port_rates(&before, 1, &much, 1, &r, &n);
	assert_true(n == 1 && r.rx_bytes_per_s == UINT64_MAX && r.tx_bytes_per_s == 0);
}

static void test_utilisation(void **state)
{
	assert_int_equal(fm_of_utilisation_ppm(0, 125000000), 0);
	assert_int_equal(fm_of_utilisation_ppm(31250000, 125000000), 250000);
	assert_int_equal(fm_of_utilisation_ppm(125000001, 125000000), 1000000);
	assert_int_equal(fm_of_utilisation_ppm(UINT64_MAX, 1), 1000000);
	assert_int_equal(fm_of_utilisation_ppm(0, 0), 1000000);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_rates), cmocka_unit_test(test_no_rate),
		                            cmocka_unit_test(test_utilisation) };

	return cmocka_run_group_tests_name("openflow-rates", tests, NULL, NULL);
}
