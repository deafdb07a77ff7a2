/* SPDX-License-Identifier: MIT */
/* test-memory-files.c - which tmpfs mounts travel, and the list of them on the wire. On their way: tests/e2e/volumes.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "basic/str.h"
#include "migration/memory-files.h"

static void test_parse(void **state)
{
	static const char text[] = "30 1 8:1 / / rw - ext4 /dev/vda rw\n"
	                           "31 30 0:40 / /dev rw,nosuid - tmpfs tmpfs rw,size=64k\n"
	                           "32 31 0:41 / /dev/shm rw,nosuid shared:7 master:1 - tmpfs shm rw,size=65536k\n"
	                           "33 30 0:42 / /run/a\\040b rw - tmpfs tmpfs rw\n"
	                           "34 30 0:43 /part /etc/hosts rw - tmpfs tmpfs rw\n"
	                           "35 30 0:44 / /sys/firmware ro - tmpfs tmpfs ro\n"
	                           "36 30 0:45 / /data rw - tmpfs tmpfs rw\n"
	                           "37 30 0:46 / /over rw - tmpfs tmpfs rw\n"
	                           "38 37 8:1 / /over rw - ext4 /dev/vda rw\n"
	                           "39 30 0:47 / /given ro - tmpfs tmpfs rw\n"
	                           "nonsense\n";
	static char *const skip[] = { "/data", NULL };
	_fm_free_ char *copy = fm_xstrdup(text);
	struct fm_memory_trees t = { 0 };
	(void)state;
	assert_ok(fm_memory_trees_parse(copy, skip, &t, &err));
	assert_int_equal(t.n, 3);
	assert_string_equal(t.v[0].target, "/dev/shm");
	assert_int_equal(t.v[0].mount_id, 32);
	assert_string_equal(t.v[1].target, "/run/a b");
	assert_string_equal(t.v[2].target, "/given");
	assert_true(t.v[2].read_only && !t.v[0].read_only);
	fm_memory_trees_done(&t);
}

static void expect_bad(const uint8_t *bytes, size_t n)
{
	struct fm_memory_trees t = { 0 };
	struct fm_error e = FM_ERROR_INIT;
	assert_int_equal(fm_memory_list_decode(bytes, n, &t, &e), -1);
	assert_int_equal(e.code, FM_E_DATA_LOSS);
}

static void expect_bad_path(const char *path)
{
	struct fm_memory_tree one = { .target = (char *)path };
	struct fm_memory_trees t = { .v = &one, .n = 1 };
	_fm_free_ uint8_t *bytes = NULL;
	size_t n = 0;
	assert_ok(fm_memory_list_encode(&t, &bytes, &n, &err));
	expect_bad(bytes, n);
}

static void test_list(void **state)
{
	struct fm_memory_tree v[2] = { { .target = "/dev/shm", .bytes = 1ull << 40, .names = 3 }, { .target = "/run" } };
	struct fm_memory_trees t = { .v = v, .n = 2 }, got = { 0 };
	_fm_free_ uint8_t *bytes = NULL;
	size_t n = 0;
	(void)state;
	assert_ok(fm_memory_list_encode(&t, &bytes, &n, &err));
	assert_ok(fm_memory_list_decode(bytes, n, &got, &err));
	assert_int_equal(got.n, 2);
	assert_int_equal(got.v[0].bytes, 1ull << 40);
	assert_int_equal(got.v[0].names, 3);
	assert_string_equal(got.v[1].target, "/run");
	fm_memory_trees_done(&got);
	for (size_t k = 0; k < n; k++)
		expect_bad(bytes, k);
	static const char *const bad[] = {
		"run", "/", "/a/../b", "/a//b", "/a/", "/.", "/proc/x", "/sys", "/dev", "/.fleximigrate/run", ""
	};
	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++)
		expect_bad_path(bad[i]);
	v[1].target = "/dev/shm"; /* twice */
	_fm_free_ uint8_t *doubled = NULL;
	assert_ok(fm_memory_list_encode(&t, &doubled, &n, &err));
	expect_bad(doubled, n);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_parse), cmocka_unit_test(test_list) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
