/* SPDX-License-Identifier: MIT */
/* Tests of basic/fault. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/fault.h"
#include "basic/str.h"

FM_DEFINE_CLEANUP(struct fm_fault *, fm_fault_free);

static void test_nothing_armed(void **state)
{
	_fm_cleanup_(fm_fault_freep) struct fm_fault *a = NULL, *b = NULL;
	struct fm_error err = FM_ERROR_INIT;

	assert_int_equal(fm_fault_new(NULL, &a, &err), 0);
	assert_int_equal(fm_fault_new("", &b, &err), 0);
	for (size_t i = 0; fm_fault_points()[i]; i++) {
		assert_int_equal(fm_fault_point(a, fm_fault_points()[i], &err), 0);
		assert_int_equal(fm_fault_point(b, fm_fault_points()[i], &err), 0);
		assert_int_equal(fm_fault_point(NULL, fm_fault_points()[i], &err), 0);
	}
	assert_false(fm_error_is_set(&err));
	fm_fault_free(NULL);
}

static void test_fail_every_passage(void **state)
{
	_fm_cleanup_(fm_fault_freep) struct fm_fault *f = NULL;
	struct fm_error err = FM_ERROR_INIT;

	assert_int_equal(fm_fault_new("source-after-dump=fail", &f, &err), 0);
	assert_int_equal(fm_fault_point(f, "source-after-fence", &err), 0);
	for (int i = 0; i < 3; i++) {
		fm_error_clear(&err);
		assert_int_equal(fm_fault_point(f, "source-after-dump", &err), -1);
		assert_int_equal(err.code, FM_E_INTERNAL);
		assert_non_null(strstr(err.message, "injected"));
		assert_non_null(strstr(err.message, "source-after-dump"));
	}
}

static void test_nth_passage(void **state)
{
	_fm_cleanup_(fm_fault_freep) struct fm_fault *f = NULL;
	struct fm_error err = FM_ERROR_INIT;

	assert_int_equal(fm_fault_new("destination-pages@3=fail,stream-corrupt=fail", &f, &err), 0);
	assert_int_equal(fm_fault_point(f, "destination-pages", &err), 0);
	assert_int_equal(fm_fault_point(f, "destination-pages", &err), 0);
	assert_int_equal(fm_fault_point(f, "destination-pages", &err), -1);
	assert_int_equal(fm_fault_point(f, "destination-pages", &err), 0);
	assert_int_equal(fm_fault_point(f, "stream-corrupt", &err), -1);
}

static void test_stall_then_fail(void **state)
{
	_fm_cleanup_(fm_fault_freep) struct fm_fault *f = NULL;
	struct fm_error err = FM_ERROR_INIT;
	uint64_t before = fm_now_us();

	assert_int_equal(fm_fault_new("destination-verify=stall:5,destination-verify=fail", &f, &err), 0);
	assert_int_equal(fm_fault_point(f, "destination-verify", &err), -1);
	assert_true(fm_now_us() >= before + 5000);
}

static void test_kill(void **state)
{
	pid_t pid = fork();
	int status = 0;

	assert_true(pid >= 0);
	if (pid == 0) {
		struct fm_fault *f = NULL;

		if (fm_fault_new("manager-before-execute=kill", &f, NULL) == 0)
			(void)fm_fault_point(f, "manager-before-execute", NULL);
		_exit(0); /* must not be reached */
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGKILL);
}

static void test_bad_specs(void **state)
{
	static const char *const bad[] = {
		"no-such-point=fail",
		"source-after-dump",
		"source-after-dump=",
		"source-after-dump=explode",
		"source-after-dump=stall",
		"source-after-dump=stall:",
		"source-after-dump=stall:x",
		"source-after-dump=stall:-1",
		"source-after-dump=stall:99999999999",
		"source-after-dump@=fail",
		"source-after-dump@0=fail",
		"source-after-dump@x=fail",
		"source-after-dump=fail,",
		",",
		"=fail",
		" source-after-dump=fail",
		"source-after-dump=fail,no-such-point=kill",
	};
	struct fm_error err = FM_ERROR_INIT;
	struct fm_fault *f = NULL;

	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++) {
		fm_error_clear(&err);
		assert_int_equal(fm_fault_new(bad[i], &f, &err), -1);
		assert_null(f);
		assert_true(err.code == FM_E_INVALID_ARGUMENT || err.code == FM_E_OUT_OF_RANGE);
	}
}

static void test_too_many(void **state)
{
	_fm_buf_ struct fm_buf spec = FM_BUF_INIT;
	struct fm_error err = FM_ERROR_INIT;
	struct fm_fault *f = NULL;

	for (int i = 0; i < 1000; i++)
		fm_buf_addf(&spec, "%sstream-corrupt@%d=fail", i ? "," : "", i + 1);
	assert_int_equal(fm_fault_new(spec.data, &f, &err), -1);
	assert_int_equal(err.code, FM_E_INVALID_ARGUMENT);
}

/* code that passes a point which nobody can arm is a mistake that tests must see */
static void test_point_missing_in_list(void **state)
{
	_fm_cleanup_(fm_fault_freep) struct fm_fault *f = NULL;
	struct fm_error err = FM_ERROR_INIT;

	assert_int_equal(fm_fault_new("stream-corrupt=fail", &f, &err), 0);
	assert_int_equal(fm_fault_point(f, "no-such-point", &err), -1);
	assert_int_equal(err.code, FM_E_INTERNAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_armed), cmocka_unit_test(test_fail_every_passage),
		cmocka_unit_test(test_nth_passage),   cmocka_unit_test(test_stall_then_fail),
		cmocka_unit_test(test_kill),          cmocka_unit_test(test_bad_specs),
		cmocka_unit_test(test_too_many),      cmocka_unit_test(test_point_missing_in_list),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
