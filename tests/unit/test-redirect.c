/* SPDX-License-Identifier: MIT */
/*
 * test-redirect.c - what all redirections have in common: actions and undos are read strictly, and undos that are in operators' stores are read by later versions, too.
 *
 * Every call here has no time left, and nobody is where the actions lead. What was read is right then when the driver comes to that: DEADLINE_EXCEEDED, or UNAVAILABLE, before it has touched anything.
 */
#include "check.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/str.h"
#include "network/redirect.h"

#define SWITCHES(own) "\"switches\":[{\"name\":\"s1\"," own ",\"from_port\":1,\"to_port\":2}]"
#define FLOW          "\"priority\":500,\"cookie\":\"0x666d000000000007\",\"match\":{\"mac\":\"02:77:00:00:01:00\"}"
#define WAS           "{\"switches\":[{\"name\":\"s1\",\"was\":{\"cookie\":\"0x000000000000002a\",\"output\":[1]}}]}"
#define ENTRY(dst)    "{\"dst\":\"" dst "\",\"state\":192,\"flags\":2,\"port\":0,\"vni\":0,\"via\":\"\"}"
#define VXLAN         "{\"driver\":\"vxlan\",\"device\":\"vx0\",\"mac\":\"02:77:00:00:01:00\",\"from\":\"10.0.0.1\",\"to\":\"10.0.0.2\"}"
#define ROUTE         "{\"driver\":\"route\",\"address\":\"10.78.0.100\",\"via\":\"10.0.2.1\"}"
#define DNS                                                                                                                                \
	"{\"driver\":\"dns\",\"server\":\"127.0.0.1:1\",\"zone\":\"example.org\",\"key\":\"mover\",\"key_file\":\"mover.key\",\"name\":"   \
	"\"redis.example.org\",\"from\":\"10.77.0.100\",\"to\":\"10.78.0.100\"}"
#define LINE(from, to)                                                                                                                     \
	"\"{\\\"dns\\\":1,\\\"name\\\":\\\"redis.example.org\\\",\\\"type\\\":\\\"A\\\",\\\"from\\\":{\\\"value\\\":\\\"" from             \
	"\\\",\\\"ttl\\\":1},\\\"to\\\":{\\\"value\\\":\\\"" to "\\\",\\\"ttl\\\":1}}\""

/* Actions, and undos as version 0.1 has written them into stores. */
static const struct {
	const char *action, *undo;
} written[] = {
	{ "{\"driver\":\"openflow\"," FLOW "," SWITCHES("\"address\":\"tcp:127.0.0.1:1\"") "}",
	  "{\"switches\":[{\"name\":\"s1\",\"was\":null}]}" },
	{ "{\"driver\":\"openflow\"," FLOW "," SWITCHES("\"address\":\"tcp:127.0.0.1:1\"") "}", WAS },
	{ "{\"driver\":\"rest\",\"url\":\"http://127.0.0.1:1\"," FLOW "," SWITCHES("\"dpid\":9") "}", WAS },
	{ VXLAN, "{\"mode\":\"listed\",\"before\":" ENTRY("10.0.0.1") ",\"added\":[" ENTRY("10.0.0.1") "," ENTRY("10.0.0.2") "]}" },
	{ VXLAN, "{\"mode\":\"learned\",\"before\":null,\"added\":[]}" },
	{ VXLAN, "{\"mode\":\"flooded\",\"before\":{\"dst\":\"fd00::1\",\"state\":2,\"flags\":130,\"port\":4790,\"vni\":16777215,\"via\":"
	         "\"eth1\"},"
	         "\"added\":[]}" },
	{ ROUTE, "{\"old\":null}" },
	{ ROUTE,
	  "{\"old\":{\"via\":\"10.0.1.1\",\"device\":\"eth1\",\"source\":\"\",\"metric\":4294967295,\"tos\":0,\"protocol\":4,\"scope\":0,"
	  "\"type\":1,\"onlink\":0,\"pref\":0,\"realm\":0,\"metrics\":\"0800020014050000\"}}" },
	{ ROUTE, "{\"old\":{\"via\":\"\",\"device\":\"\",\"source\":\"127.0.0.1\",\"metric\":0,\"tos\":255,\"protocol\":255,\"scope\":253,"
	         "\"type\":6,\"onlink\":4,\"pref\":3,\"realm\":4294967295,\"metrics\":\"\"}}" },
	{ "{\"driver\":\"tunnel\",\"side\":\"destination\",\"id\":\"3f9a61c2\",\"local\":\"10.0.2.1\",\"remote\":\"10.0.1.1\","
	  "\"addresses\":["
	  "\"10.78.0.100\"],\"reply\":\"back\"}",
	  "{\"mtu\":1450}" },
	{ "{\"driver\":\"dnat\",\"side\":\"source\",\"protocol\":\"tcp\",\"host_address\":\"192.0.2.10\",\"host_port\":6379,\"address\":"
	  "\"10.78.0.100\",\"port\":6379}",
	  "{\"dnat\":1,\"id\":\"00c0ffee\"}" },
	{ DNS, "{\"lines\":[" LINE("10.78.0.100", "10.77.0.100") "],\"caches_hold_s\":3600}" },
	{ "{\"driver\":\"haproxy\",\"socket\":\"/nowhere\",\"backend\":\"be\",\"server\":\"redis1\",\"from\":\"10.77.0.100:6379\",\"to\":"
	  "\"[fd78::100]:6379\"}",
	  "{\"address\":\"10.77.0.100:6379\",\"state\":\"ready\"}" },
	{ "{\"driver\":\"webhook\",\"url\":\"http://127.0.0.1:1/\",\"events\":[\"open\",\"flip\",\"verify\",\"revert\"]}",
	  "{\"id\":\"0123456789abcdef0123456789abcdef\"}" },
};

static char secrets[] = "/tmp/fm-test-redirect-XXXXXX";

static json_t *load(const char *text)
{
	json_t *j = json_loads(text, 0, NULL);

	assert_non_null(j);
	return j;
}

/* All steps that have an undo say `expected`. */
static void assert_steps(enum fm_code expected, const json_t *action, const json_t *undo, const char *about)
{
	const struct fm_redirect_ops *ops = NULL;
	const struct fm_redirect_call c = { .deadline_ms = 1, .cancel_fd = -1, .secrets_dir = secrets };

	assert_ok(fm_redirect_driver_of(action, &ops, &err));
	int (*const steps[])(const struct fm_redirect_call *, const json_t *, const json_t *,
	                     struct fm_error *) = { ops->open, ops->flip, ops->verify, ops->revert };
	for (size_t i = 0; i < FM_ARRAY_SIZE(steps); i++) {
		err = FM_ERROR_INIT;
		int rc = steps[i](&c, action, undo, &err);
		bool read = expected == FM_E_DEADLINE_EXCEEDED;
		/* opening may be nothing, which needs no time */
		bool as_expected = read ? (rc == 0 && i == 0) || err.code == FM_E_DEADLINE_EXCEEDED || err.code == FM_E_UNAVAILABLE
		                        : rc < 0 && err.code == expected && fm_str_startswith(err.message, ops->name);
		if (!as_expected)
			fail_msg("%s, step %zu, %s: %s: %s", ops->name, i, about, fm_code_to_string(err.code), err.message);
	}
}

static void test_what_was_written_is_read(void **state)
{
	for (size_t i = 0; i < FM_ARRAY_SIZE(written); i++) {
		_fm_cleanup_(json_decrefp) json_t *action = load(written[i].action), *undo = load(written[i].undo);

		assert_steps(FM_E_DEADLINE_EXCEEDED, action, undo, "as it was written");
	}
}

/* An undo without one of its members, with one that is of another kind, with one more. What caches hold is for people. */
static void test_other_undos_are_not(void **state)
{
	for (size_t i = 0; i < FM_ARRAY_SIZE(written); i++) {
		_fm_cleanup_(json_decrefp) json_t *action = load(written[i].action), *undo = load(written[i].undo), *none = json_object();
		const char *key;
		json_t *v;

		assert_steps(FM_E_DATA_LOSS, action, none, "nothing in it");
		json_object_foreach(undo, key, v)
		{
			_fm_cleanup_(json_decrefp) json_t *less = json_copy(undo), *other = json_copy(undo);

			if (fm_streq(key, "caches_hold_s"))
				continue;
			assert_int_equal(0, json_object_del(less, key));
			assert_steps(FM_E_DATA_LOSS, action, less, key);
			assert_int_equal(0, json_object_set_new(other, key, json_true()));
			assert_steps(FM_E_DATA_LOSS, action, other, key);
		}
		assert_int_equal(0, json_object_set_new(undo, "more", json_integer(1)));
		assert_steps(FM_E_DATA_LOSS, action, undo, "more");
	}
}

/* The same of actions: "<driver>: <member> …". */
static void test_other_actions_are_not(void **state)
{
	for (size_t i = 0; i < FM_ARRAY_SIZE(written); i++) {
		_fm_cleanup_(json_decrefp) json_t *action = load(written[i].action), *undo = load(written[i].undo);
		const char *key;
		json_t *v;

		json_object_foreach(action, key, v)
		{
			_fm_cleanup_(json_decrefp) json_t *other = json_copy(action);

			if (fm_streq(key, "driver"))
				continue;
			assert_int_equal(0, json_object_set_new(other, key, json_null()));
			assert_steps(FM_E_INVALID_ARGUMENT, other, undo, key);
			if (!strstr(err.message, key))
				fail_msg("\"%s\" does not say %s", err.message, key);
		}
		assert_int_equal(0, json_object_set_new(action, "more", json_integer(1)));
		assert_steps(FM_E_INVALID_ARGUMENT, action, undo, "more");
		assert_true(fm_str_endswith(err.message, ": more is not a member that is known here"));
	}
}

static int make_secrets(void **state)
{
	static const char key[] = "YSBzZWNyZXQgb2YgdGhpcnR5LXR3byBieXRlcy4uLi4=\n";
	_fm_free_ char *path = NULL;
	struct fm_error e = FM_ERROR_INIT;

	if (!mkdtemp(secrets))
		return -1;
	path = fm_xasprintf("%s/mover.key", secrets);
	return fm_write_file_atomic(path, key, sizeof(key) - 1, 0600, &e);
}

static int remove_secrets(void **state)
{
	return fm_remove_tree(secrets, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_was_written_is_read),
		cmocka_unit_test(test_other_undos_are_not),
		cmocka_unit_test(test_other_actions_are_not),
	};

	return cmocka_run_group_tests(tests, make_secrets, remove_secrets);
}
