/* SPDX-License-Identifier: MIT */
/*
 * test-doctor.c - what redirections leave on a host: publications and tunnels in a real kernel, of which nobody knows any more, those that are kept, and those of containers that are here. The runtime is a list that the
 * test writes; what else doctor says is not looked at.
 */
#include "basic/str.h"
#include "migration/doctor.h"
#include "migration/instances.h"
#include "migration/keeper.h"
#include "migration/pb.h"
#include "migration/places.h"
#include "migration/redirections.h"
#include "network/redirect-tunnel.h"
#include "network/stub.h"
#include "nslab.h"

#define STEP(name) FLEXIMIGRATE__V1__REDIRECTION_STEP__REDIRECTION_##name
#define ID         "m-3f9a61c2b07d"
#define DNAT(side, port)                                                                                                                   \
	"{\"driver\":\"dnat\",\"side\":\"" side "\",\"protocol\":\"tcp\",\"host_address\":\"192.0.2.10\",\"host_port\":" port              \
	",\"address\":\"10.79.0.100\",\"port\":6379}"
#define TUNNEL(id, address)                                                                                                                \
	"{\"driver\":\"tunnel\",\"side\":\"source\",\"id\":\"" id                                                                          \
	"\",\"local\":\"192.0.2.10\",\"remote\":\"192.0.2.3\",\"addresses\":[\"" address "\"]}"
#define MAX_LEFT 8

enum { HOST, N_NS };
static const char *const names[] = { "host" };

/* ---- a runtime with at most one container */

static bool web_is_here, does_not_answer;

static int list(struct fm_runtime *rt, struct fm_instance **ret, size_t *ret_n, struct fm_error *e)
{
	if (does_not_answer)
		return fm_error_set(e, FM_E_UNAVAILABLE, "the runtime does not answer");
	*ret = calloc(1, sizeof(**ret));
	assert_non_null(*ret);
	(void)snprintf((*ret)->id, sizeof((*ret)->id), "web.1");
	(*ret)->status = FM_CONTAINER_RUNNING;
	*ret_n = web_is_here;
	return 0;
}

static int state_of(struct fm_runtime *rt, const char *id, struct fm_instance *ret, struct fm_error *e)
{
	_fm_free_ struct fm_instance *v = NULL;
	size_t n = 0;

	if (list(rt, &v, &n, e) < 0)
		return -1;
	if (n == 0 || strcmp(id, v[0].id) != 0)
		return fm_error_set(e, FM_E_NOT_FOUND, "there is no instance '%s'", id);
	*ret = v[0];
	return 0;
}

static int version(struct fm_runtime *rt, char *buf, size_t cap, struct fm_error *e)
{
	return fm_snprintf(buf, cap, e, "0");
}

static const struct fm_runtime_ops ops = { .name = "list", .list = list, .state = state_of, .version = version };

/* ---- the host */

static struct {
	char dir[64], kept[128];
	struct fm_runtime rt;
	struct fm_host h;
	struct fm_log *log;
	int null_fd;
	char *undo[MAX_LEFT];
	FM_PB(Redirection) redirections[MAX_LEFT], *v[MAX_LEFT];
	size_t n;
	bool clean;
	FM_PB(DoctorResponse) * said;
} w;

static int do_keeper(void *userdata, struct fm_error *e)
{
	return fm_keeper_new(w.kept, "/nowhere", w.log, &w.h.keeper, e);
}

static void start_keeper(void)
{
	assert_ok(fm_netns_call(lab.ns[HOST], do_keeper, NULL, &err));
}

static void stop_keeper(void)
{
	fm_keeper_free(w.h.keeper);
	w.h.keeper = NULL;
}

static int group_setup(void **state)
{
	if (!lab_possible())
		return 0;
	lab_up(names, N_NS);
	in_ns(HOST, "ip link set lo up; ip link add d0 type bridge; ip link set d0 up; ip address add 192.0.2.10/24 dev d0; ip route add "
	            "default via "
	            "192.0.2.1; echo 1 >/proc/sys/net/ipv4/ip_forward");
	return 0;
}

static int group_teardown(void **state)
{
	if (lab.n)
		lab_down();
	return 0;
}

static int setup(void **state)
{
	char state_dir[96], run_dir[96];

	memset(&w, 0, sizeof(w));
	web_is_here = does_not_answer = false;
	(void)snprintf(w.dir, sizeof(w.dir), "/tmp/fm-test-doctor-XXXXXX");
	assert_non_null(mkdtemp(w.dir));
	(void)snprintf(state_dir, sizeof(state_dir), "%s/state", w.dir);
	(void)snprintf(run_dir, sizeof(run_dir), "%s/run", w.dir);
	(void)snprintf(w.kept, sizeof(w.kept), "%s/kept", state_dir);
	(void)snprintf(w.h.name, sizeof(w.h.name), "alpha");
	w.null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
	w.h.log = w.log = fm_log_new(w.null_fd, FM_LOG_HUMAN, FM_LOG_INFO);
	w.rt.ops = &ops;
	w.h.runtime = &w.rt;
	return fm_host_init_dirs(&w.h, state_dir, run_dir, &err);
}

static int teardown(void **state)
{
	stop_keeper();
	fm_log_free(w.log);
	(void)close(w.null_fd);
	if (w.said)
		fm_pb_free(w.said);
	for (size_t i = 0; i < w.n; i++)
		free(w.undo[i]);
	return fm_remove_tree(w.dir, NULL);
}

/* What a container has on record here, as a migration or its operator has brought it. */
static void put_web(void)
{
	_fm_pb_ FM_PB(Container) *c = FM_PB_NEW(Container, container);

	fm_pb_set(&c->name, "web");
	fm_pb_set(&c->instance, "web.1");
	fm_pb_set(&c->kind, "ordinary");
	c->endpoint = FM_PB_NEW(Endpoint, endpoint);
	fm_pb_set(&c->endpoint->bridge, "br0");
	fm_pb_set(&c->endpoint->address, "10.79.0.100/24");
	assert_ok(fm_instances_save(&w.h, "web.1", c, "{}", &err));
	web_is_here = true;
}

static void web_leaves(void)
{
	_fm_free_ char *record = fm_xasprintf("%s/web.1", w.h.instances_dir);

	web_is_here = false;
	assert_ok(fm_remove_tree(record, &err));
}

struct taking {
	const FM_PB(Redirection) * r;
	FM_PB(RedirectionStep) step;
	char *undo;
};

static int do_take(void *userdata, struct fm_error *e)
{
	struct fm_redirect_call c = { .deadline_ms = fm_now_ms() + LAB_WAIT_MS, .cancel_fd = -1 };
	struct taking *t = userdata;

	return fm_redirection_step(&c, t->r, t->step, &t->undo, e);
}

/* Carried out by a migration, of which nothing else is left. */
static void carry_out(const char *action)
{
	static const FM_PB(RedirectionStep) steps[] = { STEP(PREPARED), STEP(OPEN), STEP(FLIPPED) };
	FM_PB(Redirection) *r = &w.redirections[w.n];

	assert_true(w.n < MAX_LEFT);
	fleximigrate__v1__redirection__init(r);
	r->action = (char *)action;
	for (size_t i = 0; i < FM_ARRAY_SIZE(steps); i++) {
		struct taking t = { .r = r, .step = steps[i] };

		assert_ok(fm_netns_call(lab.ns[HOST], do_take, &t, &err));
		if (i == 0)
			r->undo = w.undo[w.n] = t.undo;
	}
	w.v[w.n++] = r;
}

static void keep(void)
{
	assert_ok(fm_keeper_keep(w.h.keeper, ID, w.v, w.n, &err));
}

static int do_doctor(void *userdata, struct fm_error *e)
{
	return fm_doctor(&w.h, NULL, w.clean, w.said, e);
}

static void doctor(bool clean)
{
	if (w.said)
		fm_pb_free(w.said);
	w.said = FM_PB_NEW(DoctorResponse, doctor_response);
	w.clean = clean;
	assert_ok(fm_netns_call(lab.ns[HOST], do_doctor, NULL, &err));
}

/* Findings of that severity whose subject has these words. */
static unsigned found(const char *severity, const char *words)
{
	unsigned n = 0;

	for (size_t i = 0; i < w.said->n_findings; i++)
		n += strcmp(w.said->findings[i]->severity, severity) == 0 && strstr(w.said->findings[i]->subject, words);
	return n;
}

static void assert_nothing_left(void)
{
	doctor(false);
	for (size_t i = 0; i < w.said->n_findings; i++)
		if (strcmp(w.said->findings[i]->severity, "leftover") == 0)
			fail_msg("%s: %s", w.said->findings[i]->subject, w.said->findings[i]->detail);
}

static bool is_there(const char *words)
{
	_fm_free_ char *text = output_in(HOST, "nft list ruleset; ip link show; ip rule; ip -6 rule");

	return strstr(text, words);
}

/* ---- tests */

/* By hand, with our marks; of others, with what looks like them. */
static void test_strays(void **state)
{
	if (!lab.n)
		skip();
	start_keeper();
	carry_out(DNAT("source", "6379"));
	carry_out(TUNNEL("3f9a61c2", "10.79.0.100"));
	in_ns(HOST, "ip link add fmt0badcafe type vxlan id 7 dev d0 dstport 4798; ip rule add to 10.9.9.9 priority 100 protocol 70 table "
	            "1722665726; "
	            "ip rule add to 10.9.9.9 iif fmt0badcafe priority 101 protocol 70 blackhole; ip -6 rule add to fd99::9 priority 100 "
	            "protocol 70 table 1722665726; "
	            "ip link add fmt0badcaff type bridge; ip rule add to 10.8.8.8 priority 100 table 100; ip rule add to 10.8.8.9 priority "
	            "100 protocol 70 table 100");
	doctor(false);
	assert_int_equal(found("leftover", "192.0.2.10:6379 to 10.79.0.100:6379"), 1);
	assert_int_equal(found("leftover", "tunnel fmt3f9a61c2"), 1);
	assert_int_equal(found("leftover", "to 10.79.0.100"), 2); /* a rule of the tunnel, and the publication */
	assert_int_equal(found("leftover", "tunnel fmt0badcafe"), 1);
	assert_int_equal(found("leftover", "to 10.9.9.9)"), 1);
	assert_int_equal(found("leftover", "to 10.9.9.9 iif fmt0badcafe"), 1);
	assert_int_equal(found("leftover", "to fd99::9"), 1);
	assert_int_equal(found("leftover", "fmt0badcaff"), 0);
	assert_int_equal(found("leftover", "10.8.8."), 0);
	assert_true(is_there("fmt3f9a61c2")); /* told, no more */

	doctor(true);
	assert_int_equal(found("leftover", ""), 0);
	assert_int_equal(found("ok", "tunnel fmt3f9a61c2"), 1);
	assert_int_equal(found("ok", "192.0.2.10:6379 to 10.79.0.100:6379"), 1);
	assert_nothing_left();
	assert_false(is_there("fmt3f9a61c2") || is_there("fmt0badcafe") || is_there("table inet fleximigrate") || is_there("10.9.9.9") ||
	             is_there("fd99::9"));
	assert_true(is_there("fmt0badcaff") && is_there("10.8.8.8") && is_there("10.8.8.9"));
	in_ns(HOST, "ip link delete fmt0badcaff; ip rule delete to 10.8.8.8 priority 100; ip rule delete to 10.8.8.9 priority 100");
}

static void clean_up(void)
{
	for (size_t i = w.n; i-- > 0;) {
		struct taking t = { .r = w.v[i], .step = STEP(REVERTED) };

		assert_ok(fm_netns_call(lab.ns[HOST], do_take, &t, &err));
	}
}

/* What is kept is nobody's leftover, whether the agent says so or, without it, its folder. A second record's is not covered by it. */
static void test_kept(void **state)
{
	if (!lab.n)
		skip();
	start_keeper();
	carry_out(DNAT("source", "6379"));
	carry_out(TUNNEL("3f9a61c2", "10.79.0.100"));
	keep();
	carry_out(DNAT("source", "6380"));
	for (int agent = 1; agent >= 0; agent--) {
		if (!agent)
			stop_keeper();
		doctor(false);
		assert_int_equal(found("leftover", ""), 1);
		assert_int_equal(found("leftover", "192.0.2.10:6380"), 1);
	}
	doctor(true);
	assert_int_equal(found("ok", "192.0.2.10:6380"), 1);
	assert_true(is_there("fmt3f9a61c2") && is_there("10.79.0.100:6379"));
	assert_nothing_left();
	clean_up();
}

/* Of a migration under way a tunnel is known by its name; a publication might be its, and is left alone. */
static void test_under_way(void **state)
{
	_fm_free_ char *path = NULL;
	char id[FM_TUNNEL_ID_LEN + 1];
	_fm_free_ char *tunnel = NULL;

	if (!lab.n)
		skip();
	start_keeper();
	fm_tunnel_id(ID, id);
	tunnel = fm_xasprintf("{\"driver\":\"tunnel\",\"side\":\"source\",\"id\":\"%s\",\"local\":\"192.0.2.10\",\"remote\":\"192.0.2.3\","
	                      "\"addresses\":[\"10.79.0.100\"]}",
	                      id);
	carry_out(tunnel);
	carry_out(DNAT("source", "6379"));
	path = fm_xasprintf("%s/" ID ".source.journal", w.h.journals_dir);
	assert_ok(fm_write_file_atomic(path, "", 0, 0600, &err));
	in_ns(HOST, "ip link add fmt0badcafe type vxlan id 7 dev d0 dstport 4798");
	doctor(true);
	assert_int_equal(found("note", "192.0.2.10:6379"), 1);
	assert_int_equal(found("ok", "tunnel fmt0badcafe"), 1);
	assert_int_equal(found("leftover", "fmt") + found("note", "fmt"), 0);
	assert_true(is_there(id) && is_there("10.79.0.100:6379"));
	assert_false(is_there("fmt0badcafe"));
	clean_up();
}

/* Nobody knows what is in a record that cannot be read. */
static void test_damaged_record(void **state)
{
	_fm_free_ char *path = NULL;

	if (!lab.n)
		skip();
	path = fm_xasprintf("%s/cut.json", w.kept);
	assert_ok(fm_mkdir_p(w.kept, 0700, &err));
	assert_ok(fm_write_file_atomic(path, "{\"stub\":1,", 10, 0600, &err));
	start_keeper();
	carry_out(DNAT("source", "6379"));
	carry_out(TUNNEL("3f9a61c2", "10.79.0.100"));
	doctor(true);
	assert_int_equal(found("note", "192.0.2.10:6379"), 1);
	assert_int_equal(found("note", "tunnel fmt3f9a61c2"), 1);
	assert_true(is_there("fmt3f9a61c2") && is_there("10.79.0.100:6379"));
	clean_up();
}

static int do_arriving(void *userdata, struct fm_error *e)
{
	fm_keeper_arriving(w.h.keeper, (char *[]){ (char *)"10.79.0.100", NULL });
	return 0;
}

static int do_tidy(void *userdata, struct fm_error *e)
{
	fm_places_tidy(&w.h);
	return 0;
}

#define tidy() assert_ok(fm_netns_call(lab.ns[HOST], do_tidy, NULL, &err))

/* A publication at the destination stays while the container does, whatever becomes of its connections, and goes when the container has left. */
static void test_publication_goes_with_the_container(void **state)
{
	if (!lab.n)
		skip();
	start_keeper();
	put_web();
	carry_out(DNAT("destination", "6379"));
	carry_out(DNAT("destination", "6380"));
	carry_out(TUNNEL("3f9a61c2", "10.79.0.7"));
	keep();
	assert_int_equal(fm_keeper_count(w.h.keeper), 2); /* the tunnel has its own end */
	keep();
	assert_int_equal(fm_keeper_count(w.h.keeper), 2);
	tidy();
	assert_ok(fm_netns_call(lab.ns[HOST], do_arriving, NULL, &err)); /* on the way back of a rollback */
	assert_int_equal(fm_keeper_count(w.h.keeper), 2);
	assert_nothing_left();

	/* unknown is not "left" */
	does_not_answer = true;
	tidy();
	does_not_answer = false;
	assert_int_equal(fm_keeper_count(w.h.keeper), 2);
	assert_true(is_there("192.0.2.10 tcp dport 6379"));

	web_leaves();
	doctor(false);
	assert_int_equal(found("leftover", "publication " ID ".published"), 1);
	assert_true(is_there("192.0.2.10 tcp dport 6379"));
	tidy();
	assert_int_equal(fm_keeper_count(w.h.keeper), 1);
	assert_false(is_there("192.0.2.10 tcp dport 63"));
	assert_true(is_there("fmt3f9a61c2"));
	assert_nothing_left();
	clean_up();
}

/* The next move's own publication at what is its source now has the same translation, and is another one: of the two the place's goes. */
static void test_the_next_move_has_its_own(void **state)
{
	if (!lab.n)
		skip();
	start_keeper();
	put_web();
	carry_out(DNAT("destination", "6379"));
	keep();
	carry_out(DNAT("source", "6379"));
	assert_true(is_there("6379"));
	assert_ok(fm_keeper_keep(w.h.keeper, "m-000000000002", &w.v[1], 1, &err));
	web_leaves();
	tidy();
	assert_int_equal(fm_keeper_count(w.h.keeper), 1);
	assert_true(is_there("192.0.2.10 tcp dport 6379"));
	assert_ok(fm_netns_call(lab.ns[HOST], do_arriving, NULL, &err));
	assert_int_equal(fm_keeper_count(w.h.keeper), 0);
	assert_false(is_there("table inet fleximigrate"));
}

/* An agent that does not run: doctor takes it away itself. */
static void test_publication_without_an_agent(void **state)
{
	if (!lab.n)
		skip();
	start_keeper();
	carry_out(DNAT("destination", "6379"));
	keep();
	stop_keeper();
	doctor(false);
	assert_int_equal(found("leftover", "publication"), 1);
	doctor(true);
	assert_int_equal(found("ok", "publication " ID ".published"), 1);
	assert_false(is_there("table inet fleximigrate"));
	assert_nothing_left();
}

int main(void)
{
#define WITH_HOST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		WITH_HOST(test_strays),
		WITH_HOST(test_kept),
		WITH_HOST(test_under_way),
		WITH_HOST(test_damaged_record),
		WITH_HOST(test_publication_goes_with_the_container),
		WITH_HOST(test_the_next_move_has_its_own),
		WITH_HOST(test_publication_without_an_agent),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
