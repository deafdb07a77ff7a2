/* SPDX-License-Identifier: MIT */
/* test-host-facts.c - what this host says about itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>
#include <sys/utsname.h>

#include "monitor/host-facts.h"

static void test_here(void **state)
{
	struct fm_host_facts f = { 0 };
	struct fm_error e = FM_ERROR_INIT;
	struct utsname u;
	assert_int_equal(fm_host_facts_read("/", &f, &e), 0);
	assert_true(f.cpus >= 1 && f.cpus < 100000);
	assert_true(f.memory_total_bytes > 1u << 20);
	assert_true(f.memory_available_bytes > 0 && f.memory_available_bytes <= f.memory_total_bytes);
	assert_int_equal(uname(&u), 0);
	assert_string_equal(f.kernel, u.release);
	/* procfs has no room at all */
	assert_int_equal(fm_host_facts_read("/proc", &f, &e), 0);
	assert_int_equal(f.disk_available_bytes, 0);
}

static void test_missing_path(void **state)
{
	struct fm_host_facts f = { .cpus = 77 };
	struct fm_error e = FM_ERROR_INIT;
	assert_int_equal(fm_host_facts_read("/nonexistent/path", &f, &e), -1);
	assert_int_equal(e.code, FM_E_NOT_FOUND);
	assert_non_null(strstr(e.message, "/nonexistent/path"));
	assert_int_equal(f.cpus, 77); /* written only on success */
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_here), cmocka_unit_test(test_missing_path) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
