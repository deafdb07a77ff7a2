/* SPDX-License-Identifier: MIT */
/* test-machine.c - what of a host does not change: from made-up texts, and of this machine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "monitor/machine.h"

static void test_text(void **state)
{
	static struct fm_machine m;
	static char huge[6000];

	fm_machine_parse_cpuinfo("processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon (R)\nflags\t\t: fpu sse2\n\nprocessor\t: "
	                         "1\nflags\t\t: other\n",
	                         &m);
	assert_string_equal(m.cpu_vendor, "GenuineIntel");
	assert_string_equal(m.cpu_model, "Xeon (R)");
	assert_string_equal(m.cpu_flags, "fpu sse2");
	memset(&m, 0, sizeof(m));
	fm_machine_parse_cpuinfo("vmx flags\t: vnmi\nflagship: x\nFeatures : fp asimd", &m); /* no newline at the end */
	assert_string_equal(m.cpu_flags, "fp asimd");
	static const char *const nothing[] = { "", "\n\n", "flags", "flags:", "flags\t: \n", ": x\n" };
	for (size_t i = 0; i < sizeof(nothing) / sizeof(nothing[0]); i++) {
		memset(&m, 0, sizeof(m));
		fm_machine_parse_cpuinfo(nothing[i], &m);
		assert_string_equal(m.cpu_flags, "");
	}
	memset(huge, 'x', sizeof(huge) - 1);
	memcpy(huge, "flags\t:", 7);
	fm_machine_parse_cpuinfo(huge, &m);
	assert_string_equal(m.cpu_flags, ""); /* part of a list would be another list */
}

static void test_here(void **state)
{
	static struct fm_machine m;
	struct utsname u;

	fm_machine_read(&m);
	assert_int_equal(uname(&u), 0);
	assert_string_equal(m.arch, u.machine);
	assert_int_equal(m.page_bytes, getpagesize());
	assert_true(m.cpu_flags[0] != 0);
	if (strstr(m.cpu_flags, " xsave ")) {
		assert_true(m.xsave_bytes >= 576);         /* the legacy area and its header */
		assert_int_equal(m.xsave_features & 3, 3); /* x87 and SSE are always on */
	}
	print_message("%s, %s, xsave %u bytes 0x%llx, control groups '%s'\n", m.cpu_model, m.arch, m.xsave_bytes,
	              (unsigned long long)m.xsave_features, m.cgroup_mode);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_text), cmocka_unit_test(test_here) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
