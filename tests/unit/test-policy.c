/* SPDX-License-Identifier: MIT */
/* test-policy.c - policies as they are written, every mistake with its place; who decides when several speak; the published example, in all its cases. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>

#include "basic/io.h"
#include "basic/str.h"
#include "decision/policy.h"

static struct fm_policies *read_set(const char *text)
{
	_fm_document_ struct fm_document *d = NULL;
	struct fm_policies *set = fm_policies_new();
	assert_ok(fm_document_parse(text, strlen(text), "p.yaml", NULL, &d, &err));
	assert_ok(fm_policies_add(set, d, &err));
	return set;
}

static void wrong(const char *text, const char *message)
{
	_fm_document_ struct fm_document *d = NULL;
	_fm_cleanup_(fm_policies_freep) struct fm_policies *set = fm_policies_new();
	assert_ok(fm_document_parse(text, strlen(text), "p.yaml", NULL, &d, &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_policies_add(set, d, &err));
	if (!strstr(err.message, message))
		fail_msg("'%s' does not say '%s'", err.message, message);
}

/* Two hosts, one container. Monday, 12 January 2026, 12:00 UTC. */
#define NOON 1768219200000ull

static struct fm_snapshot *world(void)
{
	struct fm_snapshot *s = fm_snapshot_new(NOON);
	struct fm_snap_host *a = fm_snapshot_add_host(s, "a");
	a->cpu_percent = 90;
	a->memory_percent = 50;
	fm_snap_labels_add(&a->labels, "zone", "z1");
	struct fm_snap_host *b = fm_snapshot_add_host(s, "b");
	b->cpu_percent = 20;
	struct fm_snap_container *c = fm_snapshot_add_container(s, "web", 0);
	c->nested = true;
	c->memory_bytes = 1000;
	fm_snap_labels_add(&c->labels, "service_type", "critical");
	fm_snap_labels_add(&c->labels, "team", "sales");
	struct fm_snap_link *l = fm_snapshot_add_link(s, 0, 1);
	l->latency_ms = 300;
	l->loss_percent = 0;
	l->utilisation_percent = 60;
	return s;
}

static struct fm_policy_case case_of(const struct fm_snapshot *s)
{
	return (struct fm_policy_case){ .snapshot = s,
		                        .source = 0,
		                        .destination = 1,
		                        .strategy = "live",
		                        .requested_strategy = "auto",
		                        .trigger = "user",
		                        .predicted_downtime_ms = 50,
		                        .predicted_total_ms = FM_UNKNOWN,
		                        .predicted_wire_bytes = FM_UNKNOWN };
}

/* by NULL: nobody spoke */
static void decides_in(const struct fm_snapshot *s, const char *text, bool allowed, const char *by, const char *message)
{
	_fm_cleanup_(fm_policies_freep) struct fm_policies *set = read_set(text);
	struct fm_policy_case c = case_of(s);
	struct fm_policy_decision d;
	fm_policies_decide(set, &c, &d);
	if (d.allowed != allowed || (by ? !fm_streq(d.decided_by, by) : d.decided_by != NULL) || !strstr(d.message, message))
		fail_msg("%s\n: %s by %s: %s", text, d.allowed ? "allowed" : "denied", d.decided_by ? d.decided_by : "nobody", d.message);
	_fm_free_ char *words = fm_policy_explain(d.record);
	assert_non_null(words);
	json_decref(d.record);
}

static void decides(const char *text, bool allowed, const char *by, const char *message)
{
	struct fm_snapshot *s = world();
	decides_in(s, text, allowed, by, message);
	fm_snapshot_free(s);
}

static void test_mistakes(void **state)
{
	wrong("policy_name: a\nACTIONS: [allow_migration]\nCONDITION: nested\n",
	      "p.yaml:3:1: there is no member of a policy 'CONDITION'; is 'CONDITIONS' meant?");
	wrong("policy_name: a\nACTIONS: [allow_migration]\nactions: [rollback]\n", "p.yaml:3:1: 'actions' is there already, as 'ACTIONS'");
	wrong("ACTIONS: [allow_migration]\n", "p.yaml:1:1: a policy without policy_name");
	wrong("policy_name: 'a b'\nACTIONS: [allow_migration]\n", "p.yaml:1:14: policy_name has to be");
	wrong("policy_name: a\n", "policy 'a' needs ACTIONS");
	wrong("policy_name: a\nACTIONS: []\n", "policy 'a' needs ACTIONS");
	wrong("policy_name: a\nACTIONS: [allow_migratoin]\n",
	      "p.yaml:2:11: there is no action 'allow_migratoin'; is 'allow_migration' meant?");
	wrong("policy_name: a\nACTIONS: [5]\n", "p.yaml:2:11: an action has to be a text");
	wrong("policy_name: a\nACTIONS: ['set_priority']\n", "set_priority needs an argument");
	wrong("policy_name: a\nACTIONS: ['set_priority(\"urgent\")']\n", "there are low, normal, high and critical");
	wrong("policy_name: a\nACTIONS: ['set_priority(high)']\n", "an action is written NAME or NAME(\"argument\")");
	wrong("policy_name: a\nACTIONS: ['allow_migration(\"x\")']\n", "allow_migration takes no argument");
	wrong("policy_name: a\nACTIONS: ['set_strategy(\"warm\")']\n", "set_strategy(\"warm\")");
	wrong("policy_name: a\nACTIONS: ['notify(\"ftp://x\")']\n", "notify needs a URL");
	wrong("policy_name: a\nACTIONS: ['notify(\"http://\")']\n", "notify needs a URL");
	wrong("policy_name: a\nACTIONS: [allow_migration, deny_migration]\n", "policy 'a' allows and denies");
	wrong("policy_name: a\nACTIONS: [rollback]\nCONSTRAINTS: {migration_duration: 5}\n", "policy 'a' denies: there is nothing");
	wrong("policy_name: a\nACTIONS: [allow_migration]\nPRIORITY: high\n", "p.yaml:3:11: PRIORITY has to be a whole number");
	wrong("policy_name: a\nACTIONS: [allow_migration]\nCONDITIONS: 7\n", "CONDITIONS has to be a text");
	wrong("policy_name: a\nACTIONS: [allow_migration]\nCONDITIONS: |\n  nested and\n  souce_host == 'a'\n",
	      "p.yaml:3:13: CONDITIONS of 'a', line 2, column 1: there is no variable 'souce_host'; is 'source_host' meant?");
	wrong("policy_name: a\nACTIONS: [allow_migration]\nCONTEXT: [nested, memory_byte]\n",
	      "p.yaml:3:19: there is no variable 'memory_byte'; is 'memory_bytes' meant?");
	wrong("policy_name: a\nACTIONS: [allow_migration]\nCONTEXT: [nested]\nCONDITIONS: nested and memory_bytes > 1\n",
	      "p.yaml:4:13: CONDITIONS of 'a', line 1, column 12: 'memory_bytes' is not in CONTEXT");
	wrong("policy_name: a\nACTIONS: [allow_migration]\nCONSTRAINTS: {migration_durations: 5}\n", "is 'migration_duration' meant?");
	wrong("policy_name: a\nACTIONS: [allow_migration]\nCONSTRAINTS: {migration_duration: 0}\n",
	      "migration_duration has to be a whole number from 1");
	wrong("policy_name: a\nACTIONS: [allow_migration]\nCONSTRAINTS: {max_concurrent_migrations: {perhost: 1}}\n",
	      "is 'per_host' meant?");
	wrong("policy_name: a\nACTIONS: [allow_migration]\nCONSTRAINTS: {windows: [{from: \"25:00\"}]}\n", "from of a window has to be");
	wrong("policy_name: a\nACTIONS: [allow_migration]\nCONSTRAINTS: {windows: [{days: [monday]}]}\n", "there is no day 'monday'");
	wrong("policy_name: a\nACTIONS: [allow_migration]\nCONSTRAINTS: {windows: [{utc_offset: \"2\"}]}\n", "utc_offset of a window");
	wrong("- policy_name: a\n  ACTIONS: [allow_migration]\n- policy_name: a\n  ACTIONS: [rollback]\n",
	      "p.yaml:3:16: there is a policy 'a' already, at p.yaml:1:16");
	wrong("- nothing\n", "p.yaml:1:3: a policy is a mapping");
	wrong("policies: 5\n", "policies has to be a list");
}

static void test_who_decides(void **state)
{
#define P(name, rest) "- {policy_name: " name ", " rest "}\n"
#define YES           "CONDITIONS: nested"
#define NO            "CONDITIONS: not nested"
#define MAYBE         "CONDITIONS: dirty_rate_bytes_per_s > 5"
#define ALLOW         "ACTIONS: [allow_migration]"
#define DENY          "ACTIONS: [deny_migration]"
#define APPROVE       "ACTIONS: [require_approval]"
	decides("[]", true, NULL, "");
	decides(P("a", NO ", " DENY), true, NULL, "");
	decides(P("a", YES ", " DENY), false, "a", "it denies: nested (nested is true)");
	decides(P("a", YES ", ACTIONS: [rollback]"), false, "a", "it denies");
	decides(P("a", YES ", " ALLOW), true, "a", "");
	decides(P("a", ALLOW), true, "a", "");
	decides(P("a", NO ", " ALLOW), false, NULL, "no policy allows it; 'a': its conditions do not hold: nested (nested is true)");
	decides(P("a", NO ", " ALLOW) P("b", YES ", " APPROVE), false, NULL, "no policy allows it");
	decides(P("a", NO ", " ALLOW) P("b", YES ", " ALLOW), true, "b", "");
	/* PRIORITY, then denying */
	decides(P("a", YES ", " ALLOW) P("b", YES ", " DENY), false, "b", "");
	decides(P("a", YES ", " DENY) P("b", YES ", " ALLOW), false, "a", "");
	decides(P("a", YES ", PRIORITY: 2, " ALLOW) P("b", YES ", PRIORITY: 1, " DENY), true, "a", "");
	decides(P("a", YES ", PRIORITY: -2, " ALLOW) P("b", YES ", PRIORITY: -1, " DENY), false, "b", "");
	/* what is not known denies at its own PRIORITY, whatever it would have said */
	decides(P("a", MAYBE ", " ALLOW), false, "a", "'dirty_rate_bytes_per_s' is not known");
	decides(P("a", MAYBE ", " DENY), false, "a", "'dirty_rate_bytes_per_s' is not known");
	decides(P("a", MAYBE ", " APPROVE), false, "a", "'dirty_rate_bytes_per_s' is not known");
	decides(P("a", MAYBE ", " DENY) P("b", YES ", PRIORITY: 1, " ALLOW), true, "b", "");
	decides(P("a", MAYBE ", " ALLOW) P("b", YES ", " ALLOW), false, "a", "");
	decides(P("a", "CONDITIONS: 1 / (memory_bytes - 1000) > 0, " ALLOW), false, "a", "CONDITIONS, line 1, column 5: division by zero");
}

static void test_windows(void **state)
{
#define W(rest) P("a", ALLOW ", CONSTRAINTS: {windows: [" rest "]}")
	decides(W("{days: [mon]}"), true, "a", "");
	decides(W("{days: [tue, SUN]}"), false, "a", "outside its windows");
	decides(W("{days: [tue]}, {days: [mon]}"), true, "a", "");
	decides(W("{from: \"12:00\", to: \"12:01\"}"), true, "a", "");
	decides(W("{from: \"11:00\", to: \"12:00\"}"), false, "a", "");
	decides(W("{from: \"12:01\", to: \"12:00\"}"), false, "a", "");             /* over midnight, all but one minute */
	decides(W("{from: \"22:00\", to: \"12:01\", days: [sun]}"), true, "a", ""); /* began on Sunday */
	decides(W("{from: \"22:00\", to: \"12:01\", days: [mon]}"), false, "a", "");
	decides(W("{from: \"14:00\", to: \"14:01\", utc_offset: \"+02:00\"}"), true, "a", "");
	decides(W("{from: \"08:30\", to: \"08:31\", utc_offset: \"-03:30\"}"), true, "a", "");
	decides(W("{days: [tue], utc_offset: \"+12:00\"}"), true, "a", "");
	decides(W("{from: \"12:00\", to: \"24:00\"}"), true, "a", "");
	struct fm_snapshot *s = world();
	s->utc_offset_s = -13 * 3600; /* Sunday, 23:00 */
	decides_in(s, W("{days: [sun], from: \"23:00\"}"), true, "a", "");
	decides_in(s, P("a", "CONDITIONS: day_of_week == 6 and time_of_day == 23, " ALLOW), true, "a", "");
	fm_snapshot_free(s);
}

static void test_variables(void **state)
{
	static const char *const hold[] = {
		"source_cpu_utilization == 90 and destination_cpu_utilization == 20",
		"time_of_day == 12 and day_of_week == 0",
		"abs(network_congestion_prob - 0.3) < 1e-9 and network_latency_ms == 300",
		"service_type == 'critical' and label('team') == 'sales'",
		"source_label('zone') == 'z1' and destination_label('zone') == ''",
		"container == 'web' and source_host == 'a' and destination_host == 'b'",
		"strategy == 'live' and requested_strategy == 'auto' and trigger == 'user'",
		"predicted_downtime_ms == 50 and not known(predicted_total_ms)",
		"memory_bytes == 1000 and nested and source_containers == 1 and destination_containers == 0",
		"source_memory_utilization == 50 and not known(destination_memory_utilization)",
		"seconds_since_last_move > 1e9 and active_migrations == 0 and not known(image) and not destination_cordoned",
	};
	for (size_t i = 0; i < FM_ARRAY_SIZE(hold); i++) {
		_fm_free_ char *text = fm_xasprintf("policy_name: a\nACTIONS: [deny_migration]\nCONDITIONS: |\n  %s\n", hold[i]);
		decides(text, false, "a", "it denies");
	}
	/* no link: the worse of the two hosts' ways, and their use of their own links */
	struct fm_snapshot *s = world();
	s->n_links = 0;
	decides_in(s, "policy_name: a\nACTIONS: [deny_migration]\nCONDITIONS: network_congestion_prob < 2\n", false, "a",
	           "'network_congestion_prob' is not known");
	s->hosts[0].latency_ms = 3;
	s->hosts[1].latency_ms = 30;
	s->hosts[0].loss_percent = s->hosts[1].loss_percent = 1;
	s->hosts[0].network_out_bytes_per_s = 50;
	s->hosts[1].network_in_bytes_per_s = 10;
	s->hosts[0].network_capacity_bytes_per_s = s->hosts[1].network_capacity_bytes_per_s = 100;
	decides_in(s,
	           "policy_name: a\nACTIONS: [deny_migration]\nCONDITIONS: abs(network_congestion_prob - (0.5 + 0.01 + 0.03) / 3) < 1e-9\n",
	           false, "a", "it denies");
	fm_snapshot_free(s);
}

static void test_effects(void **state)
{
	struct fm_snapshot *s = world();
	_fm_cleanup_(fm_policies_freep) struct fm_policies *set = read_set(
	        P("a", "PRIORITY: 1, ACTIONS: [\"set_priority('low')\", \"set_strategy('cold')\", \"notify('http://x/a')\"], CONSTRAINTS: "
	               "{max_concurrent_migrations: 5, "
	               "migration_duration: 300}")
	                P("b", "PRIORITY: 3, ACTIONS: ['set_priority(\"critical\")', require_approval, "
	                       "trigger_load_balancer_reconfiguration], CONSTRAINTS: "
	                       "{max_concurrent_migrations: {global: 7, per_host: 2, per_link: 1}, migration_duration: 400}")
	                        P("c", NO ", PRIORITY: 9, ACTIONS: ['set_priority(\"normal\")'], CONSTRAINTS: {migration_duration: 1}"));
	struct fm_policy_case c = case_of(s);
	struct fm_policy_decision d;
	fm_policies_decide(set, &c, &d);
	assert_true(d.allowed);
	assert_int_equal(d.priority, 100);
	assert_string_equal(d.strategy, "cold");
	assert_string_equal(d.strategy_by, "a");
	assert_string_equal(d.approval_by, "b");
	assert_string_equal(d.balancer_by, "b");
	assert_int_equal(d.limits.global, 5);
	assert_int_equal(d.limits.per_host, 2);
	assert_int_equal(d.limits.per_link, 1);
	assert_int_equal(d.duration_s, 300);
	assert_string_equal(d.duration_by, "a");
	assert_int_equal(d.n_notices, 1);
	assert_string_equal(d.notices[0].url, "http://x/a");
	json_decref(d.record);
	fm_snapshot_free(s);
}

/* What is told is cut, but not so that it were no text any more. */
static void test_long_parts(void **state)
{
	_fm_buf_ struct fm_buf b = FM_BUF_INIT;
	for (int shift = 0; shift < 3; shift++) {
		fm_buf_addf(&b, "policy_name: a\nACTIONS: [deny_migration]\nCONDITIONS: |\n  container !=%*s'", shift + 1, "");
		for (int i = 0; i < 300; i++)
			fm_buf_addf(&b, "\xe4\xb8\xad");
		fm_buf_addf(&b, "'\n  and\n  nested\n");
		decides(b.data, false, "a", "it denies: container != ");
		fm_buf_done(&b);
		b = FM_BUF_INIT;
	}
}

static void test_record(void **state)
{
	struct fm_snapshot *s = world();
	_fm_cleanup_(fm_policies_freep) struct fm_policies *set =
	        read_set(P("a", "CONDITIONS: \"label('team') == 'sales' and (memory_bytes < 5 or not known(cpu_cores))\", " DENY));
	struct fm_policy_case c = case_of(s);
	struct fm_policy_decision d;
	fm_policies_decide(set, &c, &d);
	json_t *v = json_object_get(d.record, "variables"), *p = json_array_get(json_object_get(d.record, "policies"), 0);
	assert_int_equal(json_object_size(v), 2);
	assert_true(json_is_null(json_object_get(v, "cpu_cores")));
	assert_true(json_real_value(json_object_get(v, "memory_bytes")) == 1000);
	assert_string_equal(json_string_value(json_object_get(json_object_get(d.record, "labels"), "label(\"team\")")), "sales");
	assert_string_equal(json_string_value(json_object_get(p, "result")), "true");
	assert_string_equal(json_string_value(json_object_get(json_array_get(json_object_get(p, "because"), 1), "text")),
	                    "known(cpu_cores) (cpu_cores is not known)");
	_fm_free_ char *words = fm_policy_explain(d.record);
	assert_non_null(strstr(words, "Denied by policy 'a'"));
	json_decref(d.record);
	fm_snapshot_free(s);
	assert_null(fm_policy_explain(NULL));
	json_t *other = json_pack("{s:s}", "allowed", "yes");
	assert_null(fm_policy_explain(other));
	json_decref(other);
}

/* As it was published, word for word, but for Python's way to write a list of dictionaries. */
static const char published[] =
        "[{'policy_name': 'adaptive_load_balancing',\n"
        "'CONTEXT': ['source_cpu_utilization', 'destination_cpu_utilization', 'time_of_day', 'network_congestion_prob', 'service_type'],\n"
        "'CONDITIONS': '(source_cpu_utilization > 80 and destination_cpu_utilization < 50) or (time_of_day >= 18 and time_of_day <= 22 and "
        "service_type == "
        "\"critical\") or (network_congestion_prob < 0.2)',\n"
        "'ACTIONS': ['allow_migration', 'set_priority(\"high\")', 'trigger_load_balancer_reconfiguration'],\n"
        "'CONSTRAINTS': {'max_concurrent_migrations': 5, 'migration_duration': 300},\n"
        "'PRIORITY': 2}]\n";

static void test_published(void **state)
{
	struct fm_snapshot *s = world();
	_fm_cleanup_(fm_policies_freep) struct fm_policies *set = read_set(published);
	struct fm_policy_case c = case_of(s);
	struct fm_policy_decision d;
	decides_in(s, published, true, "adaptive_load_balancing", ""); /* 90 % and 20 % */
	fm_policies_decide(set, &c, &d);
	assert_int_equal(d.priority, 75);
	assert_int_equal(d.limits.global, 5);
	assert_int_equal(d.duration_s, 300);
	assert_string_equal(d.balancer_by, "adaptive_load_balancing");
	json_decref(d.record);
	s->hosts[0].cpu_percent = 70;
	decides_in(s, published, false, NULL,
	           "no policy allows it; 'adaptive_load_balancing': its conditions do not hold: source_cpu_utilization > 80");
	s->at_unix_ms += 6 * 3600 * 1000; /* 18:00, a critical service */
	decides_in(s, published, true, "adaptive_load_balancing", "");
	s->at_unix_ms += 5 * 3600 * 1000; /* 23:00 */
	decides_in(s, published, false, NULL, "no policy allows it");
	s->links[0].utilisation_percent = 10; /* (0.1 + 0 + 0.3) / 3 */
	decides_in(s, published, true, "adaptive_load_balancing", "");
	s->links[0].utilisation_percent = 0.0 / 0.0;
	decides_in(s, published, false, "adaptive_load_balancing", "'network_congestion_prob' is not known");
	s->hosts[0].cpu_percent = 99; /* enough, whatever the network does */
	decides_in(s, published, true, "adaptive_load_balancing", "");
	fm_snapshot_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_mistakes),   cmocka_unit_test(test_who_decides), cmocka_unit_test(test_windows),
		cmocka_unit_test(test_variables),  cmocka_unit_test(test_effects),     cmocka_unit_test(test_record),
		cmocka_unit_test(test_long_parts), cmocka_unit_test(test_published),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
