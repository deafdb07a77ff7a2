/* SPDX-License-Identifier: MIT */
/* test-snapshot.c - the snapshot's JSON form: what is missing is unknown, what is wrong is told with its place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decision/snapshot.h"

static struct fm_snapshot *parse(const char *text)
{
	struct fm_snapshot *s = NULL;
	struct fm_error err = FM_ERROR_INIT;
	if (fm_snapshot_parse(text, strlen(text), &s, &err) < 0)
		fail_msg("%s", err.message);
	return s;
}

static void refused(const char *text, const char *message)
{
	struct fm_snapshot *s = NULL;
	struct fm_error err = FM_ERROR_INIT;
	assert_int_equal(fm_snapshot_parse(text, strlen(text), &s, &err), -1);
	assert_null(s);
	if (!strstr(err.message, message))
		fail_msg("'%s' does not say '%s'", err.message, message);
}

static const char example[] =
        "{\"at_unix_ms\": 1000, \"utc_offset_s\": 3600, \"hosts\": [{\"name\": \"a\", \"online\": true, \"cpus\": 4, \"cpu_percent\": 12.5,"
        "\"labels\": {\"zone\": \"z1\"}, \"images\": [\"redis:7\"]}, {\"name\": \"b\", \"cpu_percent\": null}],"
        "\"containers\": [{\"name\": \"c\", \"host\": \"b\", \"memory_bytes\": 4096, \"nested\": true, \"labels\": {\"service_type\": "
        "\"critical\"}}],"
        "\"links\": [{\"from\": \"a\", \"to\": \"b\", \"latency_ms\": 0.5, \"bandwidth_bytes_per_s\": 125000000}]}";

static void check_example(const struct fm_snapshot *s)
{
	assert_int_equal(s->n_hosts, 2);
	assert_int_equal(s->at_unix_ms, 1000);
	assert_int_equal(s->utc_offset_s, 3600);
	assert_true(s->hosts[0].online);
	assert_false(s->hosts[1].online);
	assert_true(s->hosts[0].cpu_percent == 12.5);
	assert_true(isnan(s->hosts[1].cpu_percent));
	assert_true(s->hosts[0].memory_total_bytes == FM_UNKNOWN);
	assert_string_equal(s->hosts[0].images[0], "redis:7");
	assert_string_equal(fm_snap_label(&s->hosts[0].labels, "zone"), "z1");
	assert_null(fm_snap_label(&s->hosts[0].labels, "zon"));
	size_t c = fm_snapshot_container(s, "c");
	assert_int_equal(c, 0);
	assert_int_equal(s->containers[c].host, fm_snapshot_host(s, "b"));
	assert_int_equal(s->containers[c].memory_bytes, 4096);
	assert_true(isnan(s->containers[c].cpu_cores));
	assert_int_equal(s->containers[c].last_moved_unix_ms, 0);
	/* one link, both ways */
	assert_ptr_equal(fm_snapshot_link(s, 0, 1), fm_snapshot_link(s, 1, 0));
	assert_true(fm_snapshot_link(s, 1, 0)->latency_ms == 0.5);
	assert_true(isnan(fm_snapshot_link(s, 0, 1)->loss_percent));
}

static void test_what_is_missing_is_unknown(void **state)
{
	struct fm_snapshot *s = parse(example);
	check_example(s);
	assert_int_equal(fm_snapshot_host(s, "zz"), SIZE_MAX);
	assert_null(fm_snapshot_link(s, 0, 0));
	fm_snapshot_free(s);
}

static void test_written_and_read_again(void **state)
{
	struct fm_snapshot *s = parse(example);
	char *text = fm_snapshot_to_json(s);
	struct fm_snapshot *again = parse(text);
	check_example(again);
	struct fm_snapshot *copy = fm_snapshot_copy(again);
	fm_snapshot_free(again);
	check_example(copy);
	char *second = fm_snapshot_to_json(copy);
	assert_string_equal(text, second);
	free(text);
	free(second);
	fm_snapshot_free(copy);
	fm_snapshot_free(s);
}

static void test_the_way_back_may_differ(void **state)
{
	struct fm_snapshot *s =
	        parse("{\"hosts\": [{\"name\": \"a\"}, {\"name\": \"b\"}], \"links\": [{\"from\": \"a\", \"to\": \"b\", \"latency_ms\": 1},"
	              "{\"from\": \"b\", \"to\": \"a\", \"latency_ms\": 2}]}");
	assert_true(fm_snapshot_link(s, 0, 1)->latency_ms == 1);
	assert_true(fm_snapshot_link(s, 1, 0)->latency_ms == 2);
	fm_snapshot_free(s);
}

static void test_grows(void **state)
{
	struct fm_snapshot *s = fm_snapshot_new(1);
	char name[32];
	for (unsigned i = 0; i < 1000; i++) {
		(void)snprintf(name, sizeof(name), "h%u", i);
		fm_snapshot_add_host(s, name)->cpus = i;
	}
	for (unsigned i = 0; i < 1000; i++)
		assert_true(s->hosts[i].cpus == i);
	assert_int_equal(fm_snapshot_host(s, "h999"), 999);
	fm_snapshot_free(s);
}

static void test_mistakes_are_told_with_their_place(void **state)
{
	refused("", "line 1");
	refused("[]", "no JSON object");
	refused("{\"host\": []}", "host is not known");
	refused("{\"hosts\": {}}", "hosts is no list");
	refused("{\"at_unix_ms\": -1}", "at_unix_ms");
	refused("{\"utc_offset_s\": 100000}", "utc_offset_s");
	refused("{\"hosts\": [{}]}", "hosts[0].name");
	refused("{\"hosts\": [3]}", "hosts[0].name");
	refused("{\"hosts\": [{\"name\": \"a\"}, {\"name\": \"a\"}]}", "hosts[1].name is another host's");
	refused("{\"hosts\": [{\"name\": \"a\", \"cpu\": 1}]}", "hosts[0].cpu is not known");
	refused("{\"hosts\": [{\"name\": \"a\", \"cpus\": -1}]}", "hosts[0].cpus");
	refused("{\"hosts\": [{\"name\": \"a\", \"memory_total_bytes\": 1.5}]}", "whole number");
	refused("{\"hosts\": [{\"name\": \"a\", \"online\": 1}]}", "neither true nor false");
	refused("{\"hosts\": [{\"name\": \"a\", \"labels\": {\"x\": 1}}]}", "hosts[0].labels");
	refused("{\"hosts\": [{\"name\": \"a\", \"images\": [1]}]}", "hosts[0].images");
	refused("{\"hosts\": [{\"name\": \"a\"}], \"containers\": [{\"name\": \"c\", \"host\": \"b\"}]}",
	        "containers[0].host is none of the hosts");
	refused("{\"hosts\": [{\"name\": \"a\"}], \"containers\": [{\"name\": \"c\", \"host\": \"a\"}, {\"name\": \"c\", \"host\": "
	        "\"a\"}]}",
	        "containers[1].name is another container's");
	refused("{\"hosts\": [{\"name\": \"a\"}], \"links\": [{\"from\": \"a\"}]}", "links[0].to");
	refused("{\"hosts\": [{\"name\": \"a\"}], \"links\": [{\"from\": \"a\", \"to\": \"a\", \"speed\": 1}]}",
	        "links[0].speed is not known");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_missing_is_unknown),
		cmocka_unit_test(test_written_and_read_again),
		cmocka_unit_test(test_the_way_back_may_differ),
		cmocka_unit_test(test_grows),
		cmocka_unit_test(test_mistakes_are_told_with_their_place),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
