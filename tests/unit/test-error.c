/* SPDX-License-Identifier: MIT */
/* Tests of basic/error. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "basic/cleanup.h"
#include "basic/error.h"

static void test_set(void **state)
{
	struct fm_error err = FM_ERROR_INIT;

	errno = EXDEV;
	assert_false(fm_error_is_set(&err));
	assert_int_equal(fm_error_set(&err, FM_E_NOT_FOUND, "container '%s' is unknown", "web"), -1);
	assert_true(fm_error_is_set(&err));
	assert_int_equal(err.code, FM_E_NOT_FOUND);
	assert_int_equal(err.sys_errno, 0);
	assert_string_equal(err.message, "container 'web' is unknown");
	assert_string_equal(err.hint, "");
	assert_string_equal(err.phase, "");
	assert_int_equal(errno, EXDEV);
	fm_error_clear(&err);
	assert_false(fm_error_is_set(&err));
	assert_string_equal(err.message, "");
}

/* a failure never looks like success, even if somebody passes the wrong constant */
static void test_set_ok_is_no_success(void **state)
{
	struct fm_error err = FM_ERROR_INIT;

	(void)fm_error_set(&err, FM_OK, "strange");
	assert_int_equal(err.code, FM_E_UNKNOWN);
}

static void test_errno(void **state)
{
	static const struct {
		int sys_errno;
		enum fm_code code;
	} cases[] = {
		{ ENOENT, FM_E_NOT_FOUND },
		{ ESRCH, FM_E_NOT_FOUND },
		{ ENOSPC, FM_E_RESOURCE_EXHAUSTED },
		{ ENOMEM, FM_E_RESOURCE_EXHAUSTED },
		{ EDQUOT, FM_E_RESOURCE_EXHAUSTED },
		{ EMFILE, FM_E_RESOURCE_EXHAUSTED },
		{ EACCES, FM_E_PERMISSION_DENIED },
		{ EPERM, FM_E_PERMISSION_DENIED },
		{ ETIMEDOUT, FM_E_DEADLINE_EXCEEDED },
		{ ECONNREFUSED, FM_E_UNAVAILABLE },
		{ ECONNRESET, FM_E_UNAVAILABLE },
		{ ECONNABORTED, FM_E_UNAVAILABLE },
		{ EPIPE, FM_E_UNAVAILABLE },
		{ EEXIST, FM_E_ALREADY_EXISTS },
		{ EADDRINUSE, FM_E_ALREADY_EXISTS },
		{ EHOSTUNREACH, FM_E_UNAVAILABLE },
		{ EIO, FM_E_INTERNAL },
		{ EINVAL, FM_E_INTERNAL },
		{ ENOSYS, FM_E_UNIMPLEMENTED },
		{ 99999, FM_E_INTERNAL },
	};

	for (size_t i = 0; i < FM_ARRAY_SIZE(cases); i++) {
		struct fm_error err = FM_ERROR_INIT;

		assert_int_equal(fm_error_errno(&err, cases[i].sys_errno, "opening %s", "/x"), -1);
		assert_int_equal(err.code, cases[i].code);
		assert_int_equal(err.sys_errno, cases[i].sys_errno);
		assert_memory_equal(err.message, "opening /x: ", strlen("opening /x: "));
	}
}

static void test_errno_text_and_sign(void **state)
{
	struct fm_error err = FM_ERROR_INIT;

	(void)fm_error_errno(&err, -ENOENT, "opening %s", "/x");
	assert_string_equal(err.message, "opening /x: No such file or directory");
	assert_int_equal(err.sys_errno, ENOENT);
}

/* a very long name must not hide the reason */
static void test_errno_keeps_reason(void **state)
{
	struct fm_error err = FM_ERROR_INIT;
	char name[2000];

	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	(void)fm_error_errno(&err, ENOSPC, "%s", name);
	assert_true(strlen(err.message) < sizeof(err.message));
	assert_non_null(strstr(err.message, ": No space left on device"));
}

static void test_prefix_hint_phase(void **state)
{
	struct fm_error err = FM_ERROR_INIT;

	(void)fm_error_errno(&err, ENOSPC, "writing %s", "pages-1.img");
	assert_int_equal(fm_error_hint(&err, "free %d MiB", 20), -1);
	assert_int_equal(fm_error_prefix(&err, "dumping %s", "web"), -1);
	assert_int_equal(fm_error_phase(&err, "dump"), -1);
	assert_int_equal(fm_error_phase(&err, "later"), -1);
	assert_string_equal(err.message, "dumping web: writing pages-1.img: No space left on device");
	assert_string_equal(err.hint, "free 20 MiB");
	assert_string_equal(err.phase, "dump");
	assert_int_equal(err.code, FM_E_RESOURCE_EXHAUSTED);
	assert_int_equal(err.sys_errno, ENOSPC);
	(void)fm_error_hint(&err, "other");
	assert_string_equal(err.hint, "other");
}

static void test_prefix_cuts_at_the_end(void **state)
{
	struct fm_error err = FM_ERROR_INIT;
	char name[5000];

	memset(name, 'p', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	(void)fm_error_set(&err, FM_E_INTERNAL, "cause");
	for (size_t n = sizeof(err.message) - 20; n < sizeof(err.message) + 20; n++) {
		(void)fm_error_set(&err, FM_E_INTERNAL, "cause");
		(void)fm_error_prefix(&err, "%.*s", (int)n, name);
		assert_true(strlen(err.message) < sizeof(err.message));
		assert_int_equal(err.message[0], 'p');
	}
	(void)fm_error_hint(&err, "%s", name);
	assert_int_equal(strlen(err.hint), sizeof(err.hint) - 1);
	err.phase[0] = '\0';
	(void)fm_error_phase(&err, name);
	assert_int_equal(strlen(err.phase), sizeof(err.phase) - 1);
}

/* wrapping an error in itself is a natural thing to write */
static void test_self_reference(void **state)
{
	struct fm_error err = FM_ERROR_INIT;

	(void)fm_error_set(&err, FM_E_UNAVAILABLE, "peer gone");
	(void)fm_error_set(&err, FM_E_ABORTED, "round 3: %s", err.message);
	assert_string_equal(err.message, "round 3: peer gone");
	(void)fm_error_hint(&err, "%s", err.message);
	(void)fm_error_prefix(&err, "%s", err.message);
	assert_string_equal(err.message, "round 3: peer gone: round 3: peer gone");
}

static void test_control_characters(void **state)
{
	struct fm_error err = FM_ERROR_INIT;

	(void)fm_error_set(&err, FM_E_INTERNAL, "a\nb\rc\x1b[31md\x7f\xff e\xc3\xa9 %s", "x\ty");
	assert_string_equal(err.message, "a?b?c?[31md?? e\xc3\xa9 x?y");
	(void)fm_error_prefix(&err, "p\n");
	assert_memory_equal(err.message, "p?: ", 4);
	(void)fm_error_hint(&err, "h\n");
	assert_string_equal(err.hint, "h?");
}

static void test_null(void **state)
{
	errno = EXDEV;
	assert_int_equal(fm_error_set(NULL, FM_E_INTERNAL, "x"), -1);
	assert_int_equal(fm_error_errno(NULL, ENOENT, "x"), -1);
	assert_int_equal(fm_error_prefix(NULL, "x"), -1);
	assert_int_equal(fm_error_hint(NULL, "x"), -1);
	assert_int_equal(fm_error_phase(NULL, "x"), -1);
	fm_error_clear(NULL);
	assert_false(fm_error_is_set(NULL));
	assert_int_equal(errno, EXDEV);
}

static void test_names(void **state)
{
	for (int i = 0; i < _FM_CODE_MAX; i++) {
		assert_non_null(fm_code_to_string((enum fm_code)i));
		assert_int_equal(fm_code_from_string(fm_code_to_string((enum fm_code)i)), i);
	}
	assert_string_equal(fm_code_to_string(FM_E_NOT_FOUND), "NOT_FOUND");
	assert_string_equal(fm_code_to_string((enum fm_code)77), "UNKNOWN");
	assert_string_equal(fm_code_to_string((enum fm_code) - 1), "UNKNOWN");
	assert_int_equal(fm_code_from_string("not_found"), FM_E_UNKNOWN);
	assert_int_equal(fm_code_from_string(NULL), FM_E_UNKNOWN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_set),
		cmocka_unit_test(test_set_ok_is_no_success),
		cmocka_unit_test(test_errno),
		cmocka_unit_test(test_errno_text_and_sign),
		cmocka_unit_test(test_errno_keeps_reason),
		cmocka_unit_test(test_prefix_hint_phase),
		cmocka_unit_test(test_prefix_cuts_at_the_end),
		cmocka_unit_test(test_self_reference),
		cmocka_unit_test(test_control_characters),
		cmocka_unit_test(test_null),
		cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
