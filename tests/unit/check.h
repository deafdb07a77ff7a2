/* SPDX-License-Identifier: MIT */
/* check.h - what tests of functions that fail with struct fm_error share: an error for their last argument, and calls that must or must not succeed. Included by one program each. */
#ifndef FM_TESTS_CHECK_H
#define FM_TESTS_CHECK_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
/* cmocka wants the four with std and setjmp above */
#include <cmocka.h>

#include "basic/error.h"

__attribute__((unused)) static struct fm_error err;

#define assert_ok(call)                                                                                                                    \
	do {                                                                                                                               \
		err = FM_ERROR_INIT;                                                                                                       \
		if ((call) < 0)                                                                                                            \
			fail_msg("%s: %s: %s", #call, fm_code_to_string(err.code), err.message);                                           \
	} while (0)
#define assert_sys(call)                                                                                                                   \
	do {                                                                                                                               \
		if ((call) < 0)                                                                                                            \
			fail_msg("%s: %s", #call, strerror(errno));                                                                        \
	} while (0)
#define assert_code(expected, call)                                                                                                        \
	do {                                                                                                                               \
		err = FM_ERROR_INIT;                                                                                                       \
		assert_int_equal(-1, (call));                                                                                              \
		if (err.code != (expected))                                                                                                \
			fail_msg("%s: %s instead of %s: %s", #call, fm_code_to_string(err.code), fm_code_to_string(expected),              \
			         err.message);                                                                                             \
	} while (0)

#endif
