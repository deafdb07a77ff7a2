/* SPDX-License-Identifier: MIT */
/*
 * test-stub.c - redirections that stay until the last flow has ended: with a real publication (driver dnat), real connections through it, and the kernel's own table of them.
 *
 *    cli 192.0.2.3 ---- host 192.0.2.10 ---- ct 10.79.0.100
 */
#include <dirent.h>
#include <pthread.h>

#include "basic/str.h"
#include "network/stub.h"
#include "nslab.h"

#define PORT     6379
#define GRACE_MS 300

enum { HOST, CLI, CT, N_NS };
static const char *const names[] = { "host", "cli", "ct" };

static int group_setup(void **state)
{
	if (!lab_possible())
		return 0;
	lab_up(names, N_NS);
	in_ns(HOST, "ip link add c0 type veth peer name eth0 netns $DIR/cli; ip link add t0 type veth peer name eth0 netns $DIR/ct; "
	            "ip link set c0 up; ip link set t0 up; ip address add 192.0.2.10/24 dev c0; ip address add 10.79.0.1/24 dev t0; "
	            "echo 1 >/proc/sys/net/ipv4/ip_forward");
	in_ns(CLI, "ip link set eth0 up; ip address add 192.0.2.3/24 dev eth0; ip route add default via 192.0.2.10");
	in_ns(CT, "ip link set eth0 up; ip address add 10.79.0.100/24 dev eth0; ip route add default via 10.79.0.1");
	return 0;
}

static int group_teardown(void **state)
{
	if (lab.n)
		lab_down();
	return 0;
}

static char folder[64];

static int setup(void **state)
{
	(void)snprintf(folder, sizeof(folder), "/tmp/fm-test-stub-XXXXXX");
	assert_non_null(mkdtemp(folder));
	return 0;
}

static int teardown(void **state)
{
	return fm_remove_tree(folder, NULL);
}

static size_t files(void)
{
	_fm_closedir_ DIR *d = opendir(folder);
	size_t n = 0;

	assert_non_null(d);
	for (const struct dirent *e; (e = readdir(d));)
		n += e->d_name[0] != '.';
	return n;
}

static json_t *action(int port)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:i, s:s, s:i}", "driver", "dnat", "side", "source", "protocol", "tcp", "host_address",
	                 "192.0.2.10", "host_port", port, "address", "10.79.0.100", "port", PORT);
}

static json_t *record(const char *id, json_t *its_action, json_t *undo)
{
	json_t *j = json_pack("{s:i, s:s, s:[s], s:s, s:i, s:[{s:o, s:o}]}", "stub", 1, "id", id, "addresses", "10.79.0.100", "flows",
	                      "translated", "grace_ms", GRACE_MS, "actions", "action", its_action, "undo", undo);

	assert_non_null(j);
	return j;
}

static json_t *plain_record(const char *id)
{
	return record(id, action(PORT), json_pack("{s:i, s:s}", "dnat", 1, "id", "00000000"));
}

static struct fm_stubs *load(void)
{
	struct fm_stubs *s = NULL;

	assert_ok(fm_stubs_load(folder, NULL, NULL, &s, &err));
	return s;
}

/* ---- in the host's namespace ---- */

struct stepping {
	struct fm_stubs *stubs;
	struct fm_conntrack *table;
	json_t *action, *undo;
	uint64_t packets; /* what a counter says */
	int counter;      /* its result */
	bool flows, count, fails;
	char why[64];
};

static int do_open(void *userdata, struct fm_error *e)
{
	struct stepping *s = userdata;
	struct fm_redirect_call c = { .deadline_ms = fm_now_ms() + LAB_WAIT_MS, .cancel_fd = -1 };
	const struct fm_redirect_ops *ops = fm_redirect_driver("dnat");

	if (fm_conntrack_open(&s->table, e) < 0 || ops->prepare(&c, s->action, &s->undo, e) < 0)
		return -1;
	return ops->open(&c, s->action, s->undo, e);
}

static void retired(const char *id, const char *why, void *userdata)
{
	struct stepping *s = userdata;

	(void)snprintf(s->why, sizeof(s->why), "%s: %s", id, why);
}

static int counter(const json_t *its_action, const json_t *undo, uint64_t *ret, void *userdata, struct fm_error *e)
{
	struct stepping *s = userdata;

	*ret = s->packets;
	return s->counter < 0 ? fm_error_set(e, FM_E_UNAVAILABLE, "no counters today") : s->counter;
}

static int do_step(void *userdata, struct fm_error *e)
{
	struct stepping *s = userdata;
	struct fm_stubs_step how = { .call = { .deadline_ms = fm_now_ms() + (s->fails ? 0 : LAB_WAIT_MS), .cancel_fd = -1 },
		                     .conntrack = s->flows ? s->table : NULL,
		                     .counter = s->count ? counter : NULL,
		                     .retired = retired,
		                     .userdata = s };

	s->why[0] = '\0';
	return fm_stubs_step(s->stubs, &how, e);
}

static size_t step(struct stepping *s)
{
	assert_ok(fm_netns_call(lab.ns[HOST], do_step, s, &err));
	return fm_stubs_count(s->stubs);
}

static bool is_published(void)
{
	_fm_free_ char *text = output_in(HOST, "nft list ruleset");

	return strstr(text, "10.79.0.100:6379");
}

/* How long until it has gone, in milliseconds. */
static uint64_t until_gone(struct stepping *s)
{
	uint64_t begin = fm_now_ms();

	while (step(s)) {
		assert_true(fm_now_ms() - begin < LAB_WAIT_MS);
		fm_pause_ms(5);
	}
	return fm_now_ms() - begin;
}

static void wait_for_no_flow(const struct stepping *s)
{
	uint64_t deadline = fm_now_ms() + LAB_WAIT_MS;
	struct fm_conntrack_address a;
	struct fm_conntrack_live live;

	assert_ok(fm_conntrack_address_parse("10.79.0.100", &a, &err));
	do {
		assert_true(fm_deadline_left_ms(deadline) > 0);
		assert_ok(fm_conntrack_count(s->table, &a, 1, &live, &err));
	} while (live.translated);
}

/* ---- tests ---- */

static void test_goes_after_the_last_flow(void **state)
{
	struct stepping s = { .flows = true };
	struct lab_connection one, two, direct;
	_fm_free_ char *before = NULL, *after = NULL;
	uint64_t begin;
	json_t *r;
	int listener;

	if (!lab.n)
		skip();
	before = output_in(HOST, "nft list ruleset");
	listener = listen_in(CT, PORT);
	s.action = action(PORT);
	assert_ok(fm_netns_call(lab.ns[HOST], do_open, &s, &err));
	s.stubs = load();
	r = record("m-000000000001", s.action, s.undo);
	assert_ok(fm_stubs_add(s.stubs, r, &err));
	one = connect_from(CLI, NULL, "192.0.2.10", PORT, listener);
	two = connect_from(CLI, NULL, "192.0.2.10", PORT, listener);
	/* passes through this host, but not through the publication: it holds nothing up */
	direct = connect_from(CLI, NULL, "10.79.0.100", PORT, listener);

	for (begin = fm_now_ms(); fm_now_ms() - begin < 2 * GRACE_MS; fm_pause_ms(20))
		assert_int_equal(step(&s), 1);
	hang_up(&one);
	for (begin = fm_now_ms(); fm_now_ms() - begin < 2 * GRACE_MS; fm_pause_ms(20))
		assert_int_equal(step(&s), 1);
	talk(&two);

	/* the agent is started anew; a new flow within the grace begins it again */
	fm_stubs_free(s.stubs);
	s.stubs = load();
	assert_int_equal(fm_stubs_count(s.stubs), 1);
	hang_up(&two);
	wait_for_no_flow(&s);
	assert_int_equal(step(&s), 1);
	one = connect_from(CLI, NULL, "192.0.2.10", PORT, listener);
	assert_int_equal(step(&s), 1);
	assert_true(is_published());
	begin = fm_now_ms();
	hang_up(&one);
	(void)until_gone(&s);
	assert_true(fm_now_ms() - begin >= GRACE_MS);
	assert_string_equal(s.why, "m-000000000001: no flows any more");
	assert_int_equal(files(), 0);
	assert_false(is_published());
	after = output_in(HOST, "nft list ruleset");
	assert_string_equal(after, before);
	talk(&direct);
	break_off(&direct);
	(void)close(listener);
	json_decref(r);
	fm_stubs_free(s.stubs);
	fm_conntrack_free(s.table);
}

static void test_counters_count(void **state)
{
	struct stepping s = { .count = true, .packets = 100 };
	uint64_t begin = fm_now_ms();
	json_t *r;

	if (!lab.n)
		skip();
	s.stubs = load();
	r = plain_record("tunnel");
	assert_ok(fm_stubs_add(s.stubs, r, &err));
	for (; fm_now_ms() - begin < 2 * GRACE_MS; fm_pause_ms(GRACE_MS / 10)) {
		s.packets++;
		assert_int_equal(step(&s), 1);
	}
	/* that it cannot be known is no reason to go */
	s.counter = -1;
	for (begin = fm_now_ms(); fm_now_ms() - begin < 2 * GRACE_MS; fm_pause_ms(GRACE_MS / 10))
		assert_code(FM_E_UNAVAILABLE, fm_netns_call(lab.ns[HOST], do_step, &s, &err));
	assert_int_equal(fm_stubs_count(s.stubs), 1);
	s.counter = 0;
	assert_true(until_gone(&s) >= GRACE_MS);
	json_decref(r);
	fm_stubs_free(s.stubs);
}

static void test_greatest_age(void **state)
{
	struct stepping s = { .flows = true };
	struct lab_connection c;
	json_t *r;
	int listener;

	if (!lab.n)
		skip();
	listener = listen_in(CT, PORT);
	s.action = action(PORT);
	assert_ok(fm_netns_call(lab.ns[HOST], do_open, &s, &err));
	s.stubs = load();
	r = record("old", s.action, s.undo);
	json_object_set_new(r, "max_age_ms", json_integer(3600000));
	json_object_set_new(r, "created_ms", json_integer((json_int_t)fm_realtime_ms() - 3599000));
	assert_ok(fm_stubs_add(s.stubs, r, &err));
	c = connect_from(CLI, NULL, "192.0.2.10", PORT, listener);
	assert_int_equal(step(&s), 1);
	(void)until_gone(&s);
	assert_string_equal(s.why, "old: its greatest age");
	assert_false(is_published());
	break_off(&c);

	/* 0: none */
	json_object_set_new(r, "max_age_ms", json_integer(0));
	json_object_set_new(r, "created_ms", json_integer(1));
	assert_ok(fm_stubs_add(s.stubs, r, &err));
	assert_int_equal(step(&s), 1);
	(void)close(listener);
	json_decref(r);
	fm_stubs_free(s.stubs);
	fm_conntrack_free(s.table);
}

struct retiring {
	struct fm_stubs *stubs;
	const char *id;
};

static int do_retire(void *userdata, struct fm_error *e)
{
	struct retiring *r = userdata;
	struct fm_redirect_call c = { .deadline_ms = fm_now_ms() + LAB_WAIT_MS, .cancel_fd = -1 };

	return fm_stubs_retire(r->stubs, r->id, &c, e);
}

/* What belongs to a container that is here: neither without flows nor with the greatest age it goes by itself. */
static void test_stays_until_it_leaves(void **state)
{
	struct stepping s = { .flows = true };
	struct retiring r = { .id = "here" };
	json_t *record_here;

	if (!lab.n)
		skip();
	s.action = action(PORT);
	assert_ok(fm_netns_call(lab.ns[HOST], do_open, &s, &err));
	r.stubs = s.stubs = load();
	record_here = record("here", s.action, s.undo);
	json_object_set_new(record_here, "until", json_string("leaves"));
	json_object_set_new(record_here, "grace_ms", json_integer(0));
	json_object_set_new(record_here, "max_age_ms", json_integer(1));
	json_object_set_new(record_here, "created_ms", json_integer(1));
	assert_ok(fm_stubs_add(s.stubs, record_here, &err));
	for (int i = 0; i < 3; i++)
		assert_int_equal(step(&s), 1);
	fm_stubs_free(s.stubs);
	r.stubs = s.stubs = load();
	assert_int_equal(step(&s), 1);
	assert_true(is_published());
	assert_ok(fm_netns_call(lab.ns[HOST], do_retire, &r, &err));
	assert_false(is_published());
	assert_int_equal(files(), 0);
	json_decref(record_here);
	fm_stubs_free(s.stubs);
	fm_conntrack_free(s.table);
}

/* A revert that fails leaves the record, and is tried again. */
static void test_tries_again(void **state)
{
	struct stepping s = { .fails = true };
	json_t *r[2];

	if (!lab.n)
		skip();
	s.stubs = load();
	for (int i = 0; i < 2; i++) {
		r[i] = plain_record(i ? "b" : "a");
		json_object_set_new(r[i], "grace_ms", json_integer(0));
		assert_ok(fm_stubs_add(s.stubs, r[i], &err));
		json_decref(r[i]);
	}
	assert_code(FM_E_DEADLINE_EXCEEDED, fm_netns_call(lab.ns[HOST], do_step, &s, &err));
	assert_non_null(strstr(err.message, "stub "));
	assert_int_equal(fm_stubs_count(s.stubs), 2);
	assert_int_equal(files(), 2);
	s.fails = false;
	assert_int_equal(step(&s), 0);
	assert_int_equal(files(), 0);
	fm_stubs_free(s.stubs);
}

static void test_retire(void **state)
{
	struct stepping s = { .flows = true };
	struct retiring retiring = { .id = "here" };
	json_t *r;

	if (!lab.n)
		skip();
	s.action = action(PORT);
	assert_ok(fm_netns_call(lab.ns[HOST], do_open, &s, &err));
	retiring.stubs = load();
	r = record("here", s.action, s.undo);
	assert_ok(fm_stubs_add(retiring.stubs, r, &err));
	assert_true(is_published());
	assert_ok(fm_netns_call(lab.ns[HOST], do_retire, &retiring, &err));
	assert_false(is_published());
	assert_code(FM_E_NOT_FOUND, fm_netns_call(lab.ns[HOST], do_retire, &retiring, &err));
	json_decref(r);
	fm_stubs_free(retiring.stubs);
	fm_conntrack_free(s.table);
}

struct meanwhile {
	struct retiring retiring[2];
	unsigned looked;
	struct fm_error why;
	int rc;
};

static void *retire_both(void *arg)
{
	struct meanwhile *m = arg;

	for (size_t i = 0; i < 2 && m->rc == 0; i++)
		m->rc = fm_netns_call(lab.ns[HOST], do_retire, &m->retiring[i], &m->why);
	return NULL;
}

/* In the middle of the first look: a container is back, on another thread, which is waited for. */
static int counter_meanwhile(const json_t *its_action, const json_t *undo, uint64_t *ret, void *userdata, struct fm_error *e)
{
	struct meanwhile *m = userdata;
	struct timespec until;
	pthread_t t;

	if (m->looked++ == 0) {
		assert_int_equal(pthread_create(&t, NULL, retire_both, m), 0);
		assert_int_equal(clock_gettime(CLOCK_REALTIME, &until), 0);
		until.tv_sec += LAB_WAIT_MS / 1000;
		if (pthread_timedjoin_np(t, NULL, &until) != 0)
			fail_msg("a container that comes back waits for the step");
	}
	return 1;
}

static int do_step_meanwhile(void *userdata, struct fm_error *e)
{
	struct meanwhile *m = userdata;
	struct fm_stubs_step how = { .call = { .deadline_ms = fm_now_ms() + LAB_WAIT_MS, .cancel_fd = -1 },
		                     .counter = counter_meanwhile,
		                     .userdata = m };

	return fm_stubs_step(m->retiring[0].stubs, &how, e);
}

/* Nobody waits until all have been looked at, neither for the one that is just looked at nor for another. */
static void test_retire_in_a_step(void **state)
{
	static const char *const ids[] = { "a", "b", "c" };
	struct meanwhile m = { .retiring = { { .id = "b" }, { .id = "a" } } };
	json_t *left;

	if (!lab.n)
		skip();
	m.retiring[0].stubs = m.retiring[1].stubs = load();
	for (size_t i = 0; i < FM_ARRAY_SIZE(ids); i++) {
		json_t *r = plain_record(ids[i]);

		assert_ok(fm_stubs_add(m.retiring[0].stubs, r, &err));
		json_decref(r);
	}
	assert_ok(fm_netns_call(lab.ns[HOST], do_step_meanwhile, &m, &err));
	if (m.rc < 0)
		fail_msg("%s", m.why.message);
	assert_int_equal(m.looked, 3); /* what has gone is looked at to the end, and no harm is done */
	left = fm_stubs_records(m.retiring[0].stubs);
	assert_int_equal(json_array_size(left), 1);
	assert_string_equal(json_string_value(json_object_get(json_array_get(left, 0), "id")), "c");
	assert_int_equal(files(), 1);
	json_decref(left);
	fm_stubs_free(m.retiring[0].stubs);
}

static unsigned n_damaged;

static void damaged(const char *file, const struct fm_error *why, void *userdata)
{
	assert_true(why->message[0]);
	n_damaged++;
}

static void put_file(const char *name, const char *text)
{
	char path[128];

	(void)snprintf(path, sizeof(path), "%s/%s", folder, name);
	assert_ok(fm_write_file_atomic(path, text, strlen(text), 0600, &err));
}

static void test_records(void **state)
{
	struct fm_stubs *s = load();
	json_t *r = plain_record("m-1"), *other = plain_record("m-1"), *all;
	_fm_free_ char *text = NULL;

	assert_ok(fm_stubs_add(s, r, &err));
	assert_ok(fm_stubs_add(s, r, &err));
	assert_int_equal(fm_stubs_count(s), 1);
	json_object_set_new(other, "grace_ms", json_integer(1));
	assert_code(FM_E_ALREADY_EXISTS, fm_stubs_add(s, other, &err));
	all = fm_stubs_records(s);
	assert_int_equal(json_array_size(all), 1);
	text = json_dumps(json_array_get(all, 0), 0);
	assert_true(json_integer_value(json_object_get(json_array_get(all, 0), "created_ms")) > 1500000000000);
	json_decref(all);
	fm_stubs_free(s);

	put_file("cut.json", "{\"stub\":1,");
	put_file("m-2.json", text); /* a copy */
	put_file("new.json", "{\"stub\":2}");
	put_file("note.txt", "not a record");
	n_damaged = 0;
	assert_ok(fm_stubs_load(folder, damaged, NULL, &s, &err));
	assert_int_equal(n_damaged, 3);
	assert_int_equal(fm_stubs_count(s), 1);
	all = fm_stubs_records(s);
	assert_true(json_equal(json_object_get(json_array_get(all, 0), "actions"), json_object_get(r, "actions")));
	json_decref(all);
	assert_int_equal(files(), 5);
	fm_stubs_free(s);
	json_decref(r);
	json_decref(other);
}

static void test_refuses(void **state)
{
	static const struct {
		const char *member, *value;
	} t[] = { { "stub", "2" },
		  { "id", "\"../x\"" },
		  { "id", "7" },
		  { "addresses", "[]" },
		  { "addresses", "[\"10.0.0\"]" },
		  { "addresses", "[1]" },
		  { "flows", "\"some\"" },
		  { "flows", "true" },
		  { "until", "\"later\"" },
		  { "until", "1" },
		  { "grace_ms", "-1" },
		  { "grace_ms", "1.5" },
		  { "max_age_ms", "31622400001" },
		  { "actions", "[]" },
		  { "actions", "[{\"action\":{\"driver\":\"dnat\"}}]" },
		  { "actions", "[{\"action\":{\"driver\":\"teleport\"},\"undo\":{}}]" },
		  { "more", "1" } };
	struct fm_stubs *s = load();
	_fm_free_ char *text = NULL;
	json_t *one_more;

	for (size_t i = 0; i < FM_ARRAY_SIZE(t); i++) {
		json_t *r = plain_record("m-1");

		json_object_set_new(r, t[i].member, json_loads(t[i].value, JSON_DECODE_ANY, NULL));
		assert_code(FM_E_INVALID_ARGUMENT, fm_stubs_add(s, r, &err));
		if (!strstr(err.message, t[i].member))
			fail_msg("line %zu: \"%s\" does not name %s", i, err.message, t[i].member);
		json_decref(r);
	}
	assert_int_equal(files(), 0);
	for (int i = 0; i <= FM_MAX_STUBS; i++) {
		char id[32];
		json_t *r;

		(void)snprintf(id, sizeof(id), "m-%d", i);
		r = plain_record(id);
		if (i < FM_MAX_STUBS)
			assert_ok(fm_stubs_add(s, r, &err));
		else
			assert_code(FM_E_RESOURCE_EXHAUSTED, fm_stubs_add(s, r, &err));
		json_decref(r);
	}
	fm_stubs_free(s);
	one_more = plain_record("m-1000");
	text = json_dumps(one_more, 0);
	put_file("m-1000.json", text);
	json_decref(one_more);
	assert_code(FM_E_RESOURCE_EXHAUSTED, fm_stubs_load(folder, NULL, NULL, &s, &err));
}

int main(void)
{
#define WITH_FOLDER(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		WITH_FOLDER(test_goes_after_the_last_flow), WITH_FOLDER(test_counters_count), WITH_FOLDER(test_greatest_age),
		WITH_FOLDER(test_stays_until_it_leaves),    WITH_FOLDER(test_tries_again),    WITH_FOLDER(test_retire),
		WITH_FOLDER(test_retire_in_a_step),         WITH_FOLDER(test_records),        WITH_FOLDER(test_refuses),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
