/* SPDX-License-Identifier: MIT */
/* test-haproxy.c - what HAProxy answers, taken apart. The answers are a HAProxy 2.6's; what is done with it is tests/integration/test_haproxy.py's, with a real one. */
#include "network/haproxy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define STATE_HEAD                                                                                                                         \
	"1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change "     \
	"srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn "      \
	"srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port\n"
#define STAT_HEAD "# pxname,svname,qcur,qmax,scur,smax,slim,last_chk,\n"

/* One server's line, of which the interesting columns are given. */
#define LINE(be, name, addr, op, admin, weight, fqdn, port, srv, check_port, check_addr)                                                   \
	"4 " be " 1 " name " " addr " " op " " admin " " weight " 7 0 1 0 2 0 0 0 0 " fqdn " " port " " srv " 0 " check_port               \
	" " check_addr " - 0\n"
#define PLAIN(be, name, op, admin) LINE(be, name, "10.0.0.9", op, admin, "1", "-", "80", "-", "0", "-")

static int parse(const char *text, struct fm_haproxy_server *ret, struct fm_error *err)
{
	return fm_haproxy_state_parse(text, strlen(text), "be", "redis1", ret, err);
}

static void test_state(void **state)
{
	struct fm_haproxy_server s;

	assert_int_equal(parse(STATE_HEAD LINE("be", "redis1", "10.77.0.100", "2", "0", "7", "-", "6379", "-", "0", "-") "\n", &s, NULL),
	                 0);
	assert_string_equal(s.address.host, "10.77.0.100");
	assert_int_equal(s.address.port, 6379);
	assert_int_equal(s.state, FM_HAPROXY_READY);
	assert_int_equal(s.weight, 7);
	assert_true(s.up && !s.by_name && !s.checked_elsewhere);
	assert_int_equal(s.others_ready, 0);
	assert_int_equal(
	        parse(STATE_HEAD LINE("be", "redis1", "FD00:0::1", "0", "8", "0", "-", "1", "-", "8002", "10.0.0.1") "\n", &s, NULL), 0);
	assert_string_equal(s.address.host, "fd00::1");
	assert_true(!s.up && s.checked_elsewhere && s.check_port == 8002 && s.state == FM_HAPROXY_DRAIN);
	assert_int_equal(parse(STATE_HEAD LINE("be", "redis1", "-", "0", "5", "0", "a.example", "1", "-", "0", "-") "\n", &s, NULL), 0);
	assert_true(s.by_name && s.address.host[0] == '\0' && s.state == FM_HAPROXY_MAINT);
	assert_int_equal(parse(STATE_HEAD LINE("be", "redis1", "-", "0", "32", "0", "-", "1", "_redis._tcp", "0", "-") "\n", &s, NULL), 0);
	assert_true(s.by_name && s.state == FM_HAPROXY_READY); /* not ordered by anybody */
}

/* Which of the others take new sessions: not those that are down, ordered or inherited away, without weight, or of another backend */
static void test_others(void **state)
{
	struct fm_haproxy_server s;

	assert_int_equal(parse(STATE_HEAD PLAIN("other", "redis1", "2", "0") PLAIN("other", "x", "2", "0") PLAIN("be", "down", "0", "0")
	                               PLAIN("be", "stopping", "3", "0") PLAIN("be", "maint", "2", "1") PLAIN("be", "tracks", "2", "2")
	                                       PLAIN("be", "drain", "2", "8") PLAIN("be", "tracked", "2", "16")
	                                               PLAIN("be", "unresolved", "2", "32")
	                                                       LINE("be", "light", "10.0.0.9", "2", "0", "0", "-", "80", "-", "0", "-")
	                                                               PLAIN("be", "redis1", "2", "0") PLAIN("be", "good", "2", "0")
	                                                                       PLAIN("be", "warming", "1", "4") "\n",
	                       &s, NULL),
	                 0);
	assert_int_equal(s.others_ready, 2);
}

static void test_state_damaged(void **state)
{
#define GOOD PLAIN("be", "redis1", "2", "0")
	static const struct {
		const char *text, *words;
		enum fm_code code;
	} bad[] = {
		{ "", "without an answer", FM_E_UNAVAILABLE },
		{ "Can't find backend.\n\n", "Can't find backend", FM_E_NOT_FOUND },
		{ "Permission denied\n\n", "Permission denied", FM_E_PERMISSION_DENIED },
		{ "\n", "", FM_E_FAILED_PRECONDITION },
		{ "\xff\xfe\n\n", "??", FM_E_FAILED_PRECONDITION },
		{ "2\n# x\n\n", "format", FM_E_UNIMPLEMENTED },
		{ "1\n", "cut short", FM_E_DATA_LOSS },
		{ "1\n\n", "titles", FM_E_DATA_LOSS },
		{ "1\n# be_name\n\n", "no column srv_name", FM_E_DATA_LOSS },
		{ STATE_HEAD "\n", "no server", FM_E_NOT_FOUND },
		{ STATE_HEAD GOOD, "cut short", FM_E_DATA_LOSS },
		{ STATE_HEAD GOOD "\nx", "behind its end", FM_E_DATA_LOSS },
		{ STATE_HEAD GOOD GOOD "\n", "twice", FM_E_DATA_LOSS },
		{ STATE_HEAD "4 be\n\n", "columns", FM_E_DATA_LOSS },
		{ STATE_HEAD PLAIN("be", "redis1", "4", "0") "\n", "number", FM_E_DATA_LOSS },
		{ STATE_HEAD PLAIN("be", "redis1", "2", "-1") "\n", "number", FM_E_DATA_LOSS },
		{ STATE_HEAD PLAIN("be", "redis1", "2", "") "\n", "number", FM_E_DATA_LOSS },
		{ STATE_HEAD PLAIN("other", "x", "2", "256") GOOD "\n", "number", FM_E_DATA_LOSS },
		{ STATE_HEAD LINE("be", "redis1", "10.0.0", "2", "0", "1", "-", "80", "-", "0", "-") "\n", "address", FM_E_DATA_LOSS },
		{ STATE_HEAD LINE("be", "redis1", "10.0.0.1", "2", "0", "257", "-", "80", "-", "0", "-") "\n", "number", FM_E_DATA_LOSS },
		{ STATE_HEAD LINE("be", "redis1", "10.0.0.1", "2", "0", "1", "-", "65536", "-", "0", "-") "\n", "number", FM_E_DATA_LOSS },
		{ STATE_HEAD LINE("be", "redis1", "10.0.0.1", "2", "0", "1", "-", "80", "-", "18446744073709551616", "-") "\n", "number",
		  FM_E_DATA_LOSS },
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct fm_haproxy_server s = { .weight = 99 };
		struct fm_error err = FM_ERROR_INIT;

		assert_int_equal(parse(bad[i].text, &s, &err), -1);
		if (err.code != bad[i].code || !strstr(err.message, bad[i].words))
			fail_msg("case %zu: %s: %s", i, fm_code_to_string(err.code), err.message);
		assert_int_equal(s.weight, 99);
	}
}

static int sessions(const char *text, uint64_t *ret, struct fm_error *err)
{
	return fm_haproxy_stat_parse(text, strlen(text), "be", "redis1", ret, err);
}

static void test_stat(void **state)
{
	uint64_t n = 99;

	assert_int_equal(
	        sessions(STAT_HEAD "be,FRONTEND,,,7,7,,,\nbe,redis1,2,9,3,9,,\"L7, \"\"odd\"\"\",\nbe,BACKEND,0,0,9,9,200,,\n\n", &n, NULL),
	        0);
	assert_int_equal(n, 5);
	assert_int_equal(sessions(STAT_HEAD "other,redis1,,,7,7,,,\nbe,redis1,0,9,0,9,,,\n\n", &n, NULL), 0);
	assert_int_equal(n, 0);
}

static void test_stat_damaged(void **state)
{
	static const struct {
		const char *text, *words;
		enum fm_code code;
	} bad[] = {
		{ "", "without an answer", FM_E_UNAVAILABLE },
		{ "No such proxy.\n\n", "No such proxy", FM_E_NOT_FOUND },
		{ STAT_HEAD "\n", "no server", FM_E_NOT_FOUND },
		{ STAT_HEAD "be,redis1,0,9,0,9,,,\n", "cut short", FM_E_DATA_LOSS },
		{ STAT_HEAD "be,redis1,0,9,,9,,,\n\n", "number", FM_E_DATA_LOSS },
		{ STAT_HEAD "be,redis1,0,9,1x,9,,,\n\n", "number", FM_E_DATA_LOSS },
		{ STAT_HEAD "be,redis1,0,9,0,9,,,,\n\n", "columns", FM_E_DATA_LOSS },
		{ STAT_HEAD "be,redis1,0,9,0,9,,\"x,\n\n", "quotation", FM_E_DATA_LOSS },
		{ STAT_HEAD "be,redis1,0,9,0,9,,\"x\"y,\n\n", "quotation", FM_E_DATA_LOSS },
		{ "# pxname,svname,scur,\nbe,redis1,0,\n\n", "no column qcur", FM_E_DATA_LOSS },
		{ STAT_HEAD "be,redis1,0,9,0,9,,,\nbe,redis1,0,9,0,9,,,\n\n", "twice", FM_E_DATA_LOSS },
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct fm_error err = FM_ERROR_INIT;
		uint64_t n = 99;

		assert_int_equal(sessions(bad[i].text, &n, &err), -1);
		if (err.code != bad[i].code || !strstr(err.message, bad[i].words))
			fail_msg("case %zu: %s: %s", i, fm_code_to_string(err.code), err.message);
		assert_int_equal(n, 99);
	}
}

/* Columns without end are an error, not an overflow */
static void test_columns(void **state)
{
	struct fm_error err = FM_ERROR_INIT;
	char text[1024] = "# ";
	uint64_t n;

	memset(text + 2, ',', 600);
	(void)snprintf(text + 602, sizeof(text) - 602, "\n\n");
	assert_int_equal(sessions(text, &n, &err), -1);
	assert_non_null(strstr(err.message, "too many columns"));
}

static void test_words(void **state)
{
	static const char *const bad[] = {
		"",          "10.0.0.1",    "10.0.0.1:",   "10.0.0.1:0", "10.0.0.1:65536", "10.0.0:80", "[10.0.0.1]:80", "fd00::1:80",
		"[fd00::1]", "[fd00::1:80", "fd00::1]:80", ":80",        "[]:80",          "host:80",   "10.0.0.1:+80",  "10.0.0.1:80 "
	};
	struct fm_haproxy_address a;
	char text[FM_HAPROXY_ADDRESS_TEXT];
	enum fm_haproxy_state s;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (fm_haproxy_address_parse(bad[i], &a, NULL) == 0)
			fail_msg("\"%s\" was taken for an address", bad[i]);
	assert_int_equal(fm_haproxy_address_parse("[FD00:0::1]:65535", &a, NULL), 0);
	assert_string_equal(fm_haproxy_address_format(&a, text), "[fd00::1]:65535");
	assert_int_equal(fm_haproxy_address_parse("10.0.0.1:1", &a, NULL), 0);
	assert_string_equal(fm_haproxy_address_format(&a, text), "10.0.0.1:1");
	for (unsigned i = FM_HAPROXY_READY; i <= FM_HAPROXY_MAINT; i++) {
		assert_int_equal(fm_haproxy_state_from_string(fm_haproxy_state_to_string((enum fm_haproxy_state)i), &s, NULL), 0);
		assert_int_equal(s, i);
	}
	assert_int_equal(fm_haproxy_state_from_string("READY", &s, NULL), -1);
	assert_int_equal(fm_haproxy_name_check("a-b_c.d:9", NULL), 0);
	assert_int_equal(fm_haproxy_name_check("a;b", NULL), -1);
	assert_int_equal(fm_haproxy_name_check("a b", NULL), -1);
	assert_int_equal(fm_haproxy_name_check("", NULL), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_state),         cmocka_unit_test(test_others),
		                            cmocka_unit_test(test_state_damaged), cmocka_unit_test(test_stat),
		                            cmocka_unit_test(test_stat_damaged),  cmocka_unit_test(test_columns),
		                            cmocka_unit_test(test_words) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
