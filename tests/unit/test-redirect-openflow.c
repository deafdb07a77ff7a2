/* SPDX-License-Identifier: MIT */
/* test-redirect-openflow.c - the redirection driver "openflow" against a real Open vSwitch with two bridges; what flows there are is asked with ovs-ofctl. */
#include <jansson.h>
#include <sys/eventfd.h>

#include "network/openflow-codec.h"
#include "network/redirect-flow.h"
#include "network/redirect.h"
#include "ovs-flip.h"

#define COOKIE   "0x666d000000000007"
#define HANG_MS  600
#define SLACK_MS 2000 /* of a busy machine, beyond a deadline */
#define ROUNDS   5u

#define ABSENT         "priority=1 actions=drop\n" /* what is on a bridge besides our flow */
#define FOREIGN_COOKIE "0xfedcba9876543210"

static const struct fm_redirect_ops *driver;
static int no_cancel = -1;

/* ---- calls ---- */

static struct fm_redirect_call within(int ms)
{
	return (struct fm_redirect_call){ .deadline_ms = fm_now_ms() + (uint64_t)ms, .cancel_fd = no_cancel };
}

#define PREPARE(action, undo)                                                                                                              \
	({                                                                                                                                 \
		struct fm_redirect_call c_ = within(WAIT_MS);                                                                              \
		driver->prepare(&c_, action, undo, &err);                                                                                  \
	})
#define CALL(what, action, undo)                                                                                                           \
	({                                                                                                                                 \
		struct fm_redirect_call c_ = within(WAIT_MS);                                                                              \
		driver->what(&c_, action, undo, &err);                                                                                     \
	})

/* br-a by TCP, br-b by its Unix socket (or `address_b`), both from port 1 to 2 */
static json_t *two_switches(const char *address_b, int to_b)
{
	json_t *action =
	        json_pack("{s:s, s:i, s:i, s:s, s:{s:s}, s:[{s:s, s:s, s:i, s:i}, {s:s, s:s, s:i, s:i}]}", "driver", "openflow", "table", 0,
	                  "priority", 500, "cookie", COOKIE, "match", "mac", FLIP_MAC, "switches", "name", "s1", "address", TCP_A,
	                  "from_port", 2, "to_port", 3, "name", "s2", "address", address_b, "from_port", 1, "to_port", to_b);

	assert_non_null(action);
	return action;
}

static json_t *one_switch(int from, int to)
{
	json_t *action =
	        json_pack("{s:s, s:i, s:s, s:{s:s}, s:[{s:s, s:s, s:i, s:i}]}", "driver", "openflow", "priority", 500, "cookie", COOKIE,
	                  "match", "mac", FLIP_MAC, "switches", "name", "s1", "address", TCP_A, "from_port", from, "to_port", to);

	assert_non_null(action);
	return action;
}

/* ---- what the switches have ---- */

/* With cookies, the highest priority first */
static char *flows_of(const char *bridge)
{
	_fm_free_ char *command =
	        fm_xasprintf("ovs-ofctl -O OpenFlow14 --no-stats --no-names --rsort=priority dump-flows unix:$OVS_RUNDIR/%s.mgmt | "
	                     "sed 's/^ *//; /^OFPST/d'",
	                     bridge);

	return lab_output(command);
}

static void assert_bridge(const char *bridge, const char *expected)
{
	_fm_free_ char *flows = flows_of(bridge);

	assert_string_equal(flows, expected);
}

__attribute__((format(printf, 2, 3))) static void ofctl(const char *command, const char *fmt, ...)
{
	_fm_free_ char *rest = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&rest, fmt, ap) < 0)
		abort();
	va_end(ap);
	lab_run("ovs-ofctl -O OpenFlow14 %s unix:$OVS_RUNDIR/%s", command, rest);
}

static void fresh(void)
{
	for (int i = 0; i < 2; i++) {
		const char *bridge = i ? "br-b" : "br-a";

		ofctl("del-flows", "%s.mgmt", bridge);
		ofctl("add-flow", "%s.mgmt priority=1,actions=drop", bridge);
	}
}

#define OURS(actions)   "cookie=" COOKIE ", priority=500,dl_dst=" FLIP_MAC " actions=" actions "\n" ABSENT
#define THEIRS(actions) "cookie=" FOREIGN_COOKIE ", priority=500,dl_dst=" FLIP_MAC " actions=" actions "\n" ABSENT
/* ovs-ofctl leaves out a cookie of 0 with --no-stats only in newer versions */
static void theirs(const char *bridge, const char *actions)
{
	ofctl("add-flow", "%s.mgmt cookie=" FOREIGN_COOKIE ",priority=500,dl_dst=" FLIP_MAC ",actions=%s", bridge, actions);
}

/* ---- tests ---- */

static void test_there_and_back(void **state)
{
	struct ovs_lab *lab = *state;
	json_t *action = two_switches(lab->address_b, 2), *undo = NULL;

	fresh();
	theirs("br-b", "output:1");
	_fm_free_ char *a = flows_of("br-a"), *b = flows_of("br-b");
	assert_string_equal(b, THEIRS("output:1"));
	assert_ok(PREPARE(action, &undo));
	_fm_free_ char *text = json_dumps(undo, JSON_COMPACT);
	assert_string_equal(text, "{\"switches\":[{\"name\":\"s1\",\"was\":null},{\"name\":\"s2\",\"was\":{\"cookie\":\"" FOREIGN_COOKIE
	                          "\",\"output\":[1]}}]}");
	assert_bridge("br-a", a); /* nothing has changed */
	assert_bridge("br-b", b);
	assert_code(FM_E_FAILED_PRECONDITION, CALL(verify, action, undo));
	for (int again = 0; again < 2; again++) { /* everything may be repeated */
		assert_ok(CALL(open, action, undo));
		assert_bridge("br-a", OURS("output:2,output:3"));
		assert_bridge("br-b", THEIRS("output:1,output:2")); /* whose it is does not change */
		assert_code(FM_E_FAILED_PRECONDITION, CALL(verify, action, undo));
		assert_non_null(strstr(err.message, "s1: the flow to " FLIP_MAC " (table 0, priority 500) is to both ports"));
	}
	for (int again = 0; again < 2; again++) {
		assert_ok(CALL(flip, action, undo));
		assert_bridge("br-a", OURS("output:3"));
		assert_bridge("br-b", THEIRS("output:2"));
		assert_ok(CALL(verify, action, undo));
	}
	for (int again = 0; again < 2; again++) {
		assert_ok(CALL(revert, action, undo));
		assert_bridge("br-a", a);
		assert_bridge("br-b", b);
	}
	json_decref(undo);
	json_decref(action);
}

/* At any point: nothing done, opened, flipped without having been opened, one switch only as after a crash */
static void test_revert_from_anywhere(void **state)
{
	struct ovs_lab *lab = *state;
	json_t *action = two_switches(lab->address_b, 2), *undo = NULL;

	fresh();
	theirs("br-b", "output:1");
	assert_ok(PREPARE(action, &undo));
	for (int from = 0; from < 5; from++) {
		if (from == 1)
			assert_ok(CALL(open, action, undo));
		if (from == 2)
			assert_ok(CALL(flip, action, undo));
		if (from == 3)
			ofctl("add-flow", "br-a.mgmt cookie=" COOKIE ",priority=500,dl_dst=" FLIP_MAC ",actions=output:2,output:3");
		if (from == 4)
			ofctl("mod-flows --strict", "br-b.mgmt priority=500,dl_dst=" FLIP_MAC ",actions=output:2");
		assert_ok(CALL(revert, action, undo));
		assert_bridge("br-a", ABSENT);
		assert_bridge("br-b", THEIRS("output:1"));
	}
	/* and forwards from a half */
	ofctl("add-flow", "br-a.mgmt cookie=" COOKIE ",priority=500,dl_dst=" FLIP_MAC ",actions=output:2,output:3");
	assert_ok(CALL(flip, action, undo));
	assert_bridge("br-a", OURS("output:3"));
	assert_bridge("br-b", THEIRS("output:2"));
	json_decref(undo);
	json_decref(action);
}

static void test_in_the_way(void **state)
{
	struct ovs_lab *lab = *state;
	json_t *action = two_switches(lab->address_b, 2), *undo = NULL;

	fresh();
	theirs("br-b", "output:7");
	assert_code(FM_E_FAILED_PRECONDITION, PREPARE(action, &undo));
	assert_non_null(strstr(err.message,
	                       "switch s2: the flow to " FLIP_MAC " (table 0, priority 500) is somebody else's: cookie " FOREIGN_COOKIE
	                       ", output:7 instead of output:1"));
	theirs("br-b", "output:1,output:2");
	assert_code(FM_E_FAILED_PRECONDITION, PREPARE(action, &undo));
	theirs("br-b", "mod_dl_dst:02:00:00:00:00:01,output:1");
	assert_code(FM_E_FAILED_PRECONDITION, PREPARE(action, &undo));
	theirs("br-b", "drop");
	assert_code(FM_E_FAILED_PRECONDITION, PREPARE(action, &undo));
	assert_non_null(strstr(err.message, "drop instead"));
	ofctl("add-flow", "br-b.mgmt idle_timeout=300,priority=500,dl_dst=" FLIP_MAC ",actions=output:1");
	assert_code(FM_E_FAILED_PRECONDITION, PREPARE(action, &undo));
	assert_non_null(strstr(err.message, "expires"));
	fresh();
	ofctl("add-flow", "br-b.mgmt priority=501,dl_dst=" FLIP_MAC ",actions=output:1");
	assert_code(FM_E_FAILED_PRECONDITION, PREPARE(action, &undo));
	assert_non_null(strstr(err.message, "priority 501 takes the packets"));
	/* a narrower one, a wider one, and one in another table are not in the way */
	fresh();
	ofctl("add-flow", "br-b.mgmt priority=501,dl_dst=" FLIP_MAC ",in_port=3,actions=drop");
	ofctl("add-flow", "br-b.mgmt priority=400,dl_dst=" FLIP_MAC ",actions=output:9");
	ofctl("add-flow", "br-b.mgmt table=1,priority=500,dl_dst=" FLIP_MAC ",actions=output:9");
	assert_ok(PREPARE(action, &undo));
	json_decref(undo);
	json_decref(action);
}

/* IPv4, IPv6, a VLAN, another table: the same flow goes there and comes back. */
static void test_matches(void **state)
{
	static const char *const all[][2] = {
		{ "{\"ipv4\": \"10.77.0.100\"}", "table=3, priority=500,ip,nw_dst=10.77.0.100 actions=output:2,output:3\n" },
		{ "{\"ipv6\": \"fd77::100\", \"vlan\": 42}",
		  "table=3, priority=500,ipv6,dl_vlan=42,ipv6_dst=fd77::100 actions=output:2,output:3\n" },
		{ "{\"mac\": \"" FLIP_MAC "\", \"vlan\": 42}",
		  "table=3, priority=500,dl_vlan=42,dl_dst=" FLIP_MAC " actions=output:2,output:3\n" },
	};

	for (size_t i = 0; i < FM_ARRAY_SIZE(all); i++) {
		json_t *action = one_switch(2, 3), *undo = NULL;
		_fm_free_ char *expected = fm_xasprintf(ABSENT "cookie=" COOKIE ", %s", all[i][1]);

		fresh();
		(void)json_object_set_new(action, "match", json_loads(all[i][0], 0, NULL));
		(void)json_object_set_new(action, "table", json_integer(3));
		assert_ok(PREPARE(action, &undo));
		assert_ok(CALL(open, action, undo));
		_fm_free_ char *flows = flows_of("br-a");
		/* the order of tables is not ours */
		assert_true(strlen(flows) == strlen(expected) && strstr(flows, all[i][1]) && strstr(flows, ABSENT));
		assert_ok(CALL(flip, action, undo));
		assert_ok(CALL(verify, action, undo));
		assert_ok(CALL(revert, action, undo));
		assert_bridge("br-a", ABSENT);
		json_decref(undo);
		json_decref(action);
	}
}

/* A switch that is the same before and after is not asked: there need not be one. */
static void test_same_port(void **state)
{
	json_t *action = two_switches("unix:/nowhere", 1), *undo = NULL;

	fresh();
	assert_ok(PREPARE(action, &undo));
	assert_int_equal(json_array_size(json_object_get(undo, "switches")), 1);
	assert_ok(CALL(open, action, undo));
	assert_ok(CALL(flip, action, undo));
	assert_ok(CALL(verify, action, undo));
	assert_bridge("br-a", OURS("output:3"));
	assert_ok(CALL(revert, action, undo));
	assert_bridge("br-a", ABSENT);
	json_decref(undo);
	json_decref(action);
	/* one switch by two ways is found out */
	_fm_free_ char *other = fm_xasprintf("unix:%s/br-a.mgmt", ((struct ovs_lab *)*state)->dir);
	action = two_switches(other, 2);
	assert_code(FM_E_INVALID_ARGUMENT, PREPARE(action, &undo));
	assert_non_null(strstr(err.message, "s1 and s2 are the same switch, 000000000000000a"));
	json_decref(action);
}

/* Whoever has changed the flow in the meantime keeps it. */
static void test_somebody_else(void **state)
{
	struct ovs_lab *lab = *state;
	json_t *action = two_switches(lab->address_b, 2), *undo = NULL;

	fresh();
	theirs("br-b", "output:1");
	assert_ok(PREPARE(action, &undo));
	/* before we begin */
	theirs("br-b", "output:9");
	assert_code(FM_E_ABORTED, CALL(open, action, undo));
	assert_non_null(strstr(err.message, "switch s2: somebody else has changed the flow"));
	assert_non_null(strstr(err.message, "output:9"));
	assert_bridge("br-a", ABSENT);
	assert_bridge("br-b", THEIRS("output:9"));
	/* a flow where there was none */
	theirs("br-b", "output:1");
	theirs("br-a", "output:2");
	assert_code(FM_E_ABORTED, CALL(flip, action, undo));
	assert_bridge("br-a", THEIRS("output:2"));
	ofctl("--strict del-flows", "br-a.mgmt priority=500,dl_dst=" FLIP_MAC);
	/* and on the way back: the other switch is restored all the same */
	assert_ok(CALL(flip, action, undo));
	ofctl("--strict del-flows", "br-b.mgmt priority=500,dl_dst=" FLIP_MAC);
	assert_code(FM_E_ABORTED, CALL(verify, action, undo) < 0 && err.code == FM_E_FAILED_PRECONDITION ? CALL(revert, action, undo) : 0);
	assert_non_null(strstr(err.message, "no such flow"));
	assert_bridge("br-a", ABSENT);
	assert_bridge("br-b", ABSENT);
	json_decref(undo);
	json_decref(action);
}

/* ---- a switch that refuses ---- */

static void test_refused(void **state)
{
	struct ovs_lab *lab = *state;
	json_t *bad_port = two_switches(lab->address_b, 0x10007), *action = two_switches(lab->address_b, 2), *undo = NULL;

	fresh();
	theirs("br-a", "output:2");
	/* when it is handed over: Open vSwitch has no such port numbers */
	assert_ok(PREPARE(bad_port, &undo));
	assert_code(FM_E_FAILED_PRECONDITION, CALL(open, bad_port, undo));
	assert_non_null(strstr(err.message, lab->address_b));
	assert_non_null(strstr(err.message, "there is no such port to send to"));
	assert_bridge("br-a", THEIRS("output:2"));
	assert_bridge("br-b", ABSENT);
	json_decref(undo);
	/* when it is to be true: its table is full */
	lab_run("ovs-vsctl --db=$DB -- --id=@t create flow_table flow_limit=1 overflow_policy=refuse -- set bridge br-b flow_tables:0=@t");
	assert_ok(PREPARE(action, &undo));
	for (int flip = 0; flip < 2; flip++) {
		assert_code(FM_E_RESOURCE_EXHAUSTED, flip ? CALL(flip, action, undo) : CALL(open, action, undo));
		assert_non_null(strstr(err.message, lab->address_b));
		assert_non_null(strstr(err.message, "the table is full"));
		assert_bridge("br-a", THEIRS("output:2"));
		assert_bridge("br-b", ABSENT);
	}
	assert_ok(CALL(revert, action, undo));
	lab_run("ovs-vsctl --db=$DB clear bridge br-b flow_tables");
	assert_ok(CALL(open, action, undo));
	/* in flip: back to both ports, which works at either host */
	lab_run("ovs-ofctl -O OpenFlow14 del-flows unix:$OVS_RUNDIR/br-b.mgmt");
	lab_run("ovs-vsctl --db=$DB -- --id=@t create flow_table flow_limit=1 overflow_policy=refuse -- set bridge br-b flow_tables:0=@t");
	ofctl("add-flow", "br-b.mgmt priority=1,actions=drop");
	assert_code(FM_E_RESOURCE_EXHAUSTED, CALL(flip, action, undo));
	assert_bridge("br-a", THEIRS("output:2,output:3"));
	assert_bridge("br-b", ABSENT);
	lab_run("ovs-vsctl --db=$DB clear bridge br-b flow_tables");
	assert_ok(CALL(revert, action, undo));
	assert_bridge("br-a", THEIRS("output:2"));
	json_decref(undo);
	json_decref(bad_port);
	json_decref(action);
}

/* ---- hanging ---- */

static void assert_ends(uint64_t began, int ms)
{
	uint64_t took = fm_now_ms() - began;

	if (took > (uint64_t)ms + SLACK_MS)
		fail_msg("it took %llu ms instead of %d", (unsigned long long)took, ms);
}

/* The switches stand still: before anything, and while a change is open. */
static void test_switch_hangs(void **state)
{
	struct ovs_lab *lab = *state;
	json_t *action = two_switches(lab->address_b, 2), *undo = NULL, *other = NULL;
	int (*const calls[])(const struct fm_redirect_call *, const json_t *, const json_t *,
	                     struct fm_error *) = { driver->open, driver->flip, driver->verify, driver->revert };
	fresh();
	assert_ok(PREPARE(action, &undo));
	assert_ok(CALL(open, action, undo));
	assert_sys(kill(lab->vswitchd, SIGSTOP));
	for (size_t i = 0; i < FM_ARRAY_SIZE(calls); i++) {
		uint64_t began = fm_now_ms();
		struct fm_redirect_call c = within(HANG_MS);

		assert_code(FM_E_DEADLINE_EXCEEDED, calls[i](&c, action, undo, &err));
		assert_ends(began, HANG_MS);
	}
	uint64_t began = fm_now_ms();
	struct fm_redirect_call c = within(HANG_MS);
	assert_code(FM_E_DEADLINE_EXCEEDED, driver->prepare(&c, action, &other, &err));
	assert_non_null(strstr(err.message, "s1"));
	assert_ends(began, HANG_MS);
	assert_sys(kill(lab->vswitchd, SIGCONT));
	assert_ok(CALL(revert, action, undo));
	assert_bridge("br-a", ABSENT);
	assert_bridge("br-b", ABSENT);
	json_decref(undo);
	json_decref(action);
}

/* Listeners that never answer, one that nobody accepts from, and nobody at all */
static void test_nobody_answers(void **state)
{
	struct ovs_lab *lab = *state;
	_fm_free_ char *path = fm_xasprintf("%s/mute", lab->dir), *mute = fm_xasprintf("unix:%s", path), *tcp = NULL;
	_fm_close_ int listener = -1, tcp_listener = -1, cancel = eventfd(1, EFD_CLOEXEC);
	const struct {
		const char *address;
		enum fm_code code;
	} all[] = { { "unix:/nowhere", FM_E_UNAVAILABLE },
		    { "tcp:127.0.0.1:1", FM_E_UNAVAILABLE },
		    { mute, FM_E_DEADLINE_EXCEEDED },
		    { "tcp", FM_E_DEADLINE_EXCEEDED } };
	uint16_t port;

	assert_ok(fm_unix_listen(path, SOCK_STREAM, 0600, &listener, &err));
	assert_sys(listen(listener, 0)); /* one connection fits, the next is not even taken */
	assert_ok(fm_tcp_listen("127.0.0.1:0", 4, &tcp_listener, &err));
	assert_ok(fm_tcp_local_port(tcp_listener, &port, &err));
	tcp = fm_xasprintf("tcp:127.0.0.1:%u", port);
	for (size_t i = 0; i < FM_ARRAY_SIZE(all); i++)
		for (int cancelled = 0; cancelled < 3; cancelled++) {
			json_t *action = two_switches(fm_streq(all[i].address, "tcp") ? tcp : all[i].address, 2), *undo = NULL;
			uint64_t began = fm_now_ms();
			struct fm_redirect_call c = within(cancelled == 1 ? WAIT_MS : HANG_MS);

			if (cancelled == 1)
				c.cancel_fd = cancel;
			assert_code(cancelled == 1 ? FM_E_CANCELLED : all[i].code, driver->prepare(&c, action, &undo, &err));
			assert_ends(began, HANG_MS);
			json_decref(action);
		}
}

/*
 * Between us and br-b: hands everything on, but not what follows the word to commit. Whether the switch gets that word is the mood's; its answer does not come. So the change of br-a has to be taken back
 * within the time, and br-b be restored by a revert, whatever it has.
 */
enum proxy_mood { SWALLOW, SWALLOW_ANSWER, EXCHANGE /* somebody exchanges br-b's flow when it gets a bundle; nothing else happens */ };

struct proxy {
	int listener;
	enum proxy_mood mood;
	const char *behind;
	pthread_t thread;
	_Atomic bool stop;
};

static bool is_commit(const uint8_t *m, size_t n)
{
	return n >= 14 && m[1] == FM_OF_BUNDLE_CONTROL && m[13] == FM_OF_BUNDLE_COMMIT;
}

#define EXCHANGED "cookie=0x5, priority=500,dl_dst=" FLIP_MAC " actions=output:6\n" ABSENT

/* Not in the test's own thread: says nothing when it fails, which the test sees. */
static void exchange(void)
{
	char *argv[] = { "sh", "-c",
		         "ovs-ofctl -O OpenFlow14 add-flow unix:$OVS_RUNDIR/br-b.mgmt cookie=5,priority=500,dl_dst=" FLIP_MAC
		         ",actions=output:6",
		         NULL };
	struct fm_child_opts o = { .timeout_ms = WAIT_MS };
	struct fm_child_result r = { 0 };

	(void)fm_child_run(argv, &o, &r, NULL);
	fm_child_result_done(&r);
}

/* One message of the client's; false at the end, or when nothing more is to be heard. */
static bool pass_on(struct proxy *p, int client, int behind, bool *mute)
{
	uint8_t m[2048];
	size_t n;

	if (fm_read_full(client, m, FM_OF_HEADER_BYTES, NULL) < 0 || fm_of_message_length(m, &n, NULL) < 0 || n > sizeof(m) ||
	    fm_read_full(client, m + FM_OF_HEADER_BYTES, n - FM_OF_HEADER_BYTES, NULL) < 0)
		return false;
	if (p->mood == EXCHANGE && m[1] == FM_OF_BUNDLE_CONTROL && m[13] == FM_OF_BUNDLE_OPEN)
		exchange();
	*mute |= is_commit(m, n) && p->mood != EXCHANGE;
	if (!*mute || (is_commit(m, n) && p->mood == SWALLOW_ANSWER))
		(void)fm_write_full(behind, m, n, NULL);
	return true;
}

static void proxy_one(struct proxy *p, int client)
{
	_fm_close_ int behind = -1;
	uint8_t buf[4096];
	bool mute = false;

	if (fm_unix_connect(p->behind + strlen("unix:"), SOCK_STREAM, &behind, NULL) < 0)
		return;
	for (;;) {
		struct pollfd pfd[2] = { { .fd = client, .events = POLLIN }, { .fd = behind, .events = POLLIN } };

		if (poll(pfd, 2, WAIT_MS) <= 0)
			return;
		if (pfd[0].revents && !pass_on(p, client, behind, &mute))
			return;
		if (pfd[1].revents) {
			ssize_t n = recv(behind, buf, sizeof(buf), 0);

			if (n <= 0 || (!mute && fm_write_full(client, buf, (size_t)n, NULL) < 0))
				return;
		}
	}
}

static void *proxy_run(void *arg)
{
	struct proxy *p = arg;
	int client;

	while (fm_accept(p->listener, WAIT_MS, -1, &client, NULL) == 0) {
		if (!p->stop)
			proxy_one(p, client);
		close(client);
		if (p->stop)
			break;
	}
	return NULL;
}

static void proxy_up(struct proxy *p, const char *path)
{
	assert_ok(fm_unix_listen(path, SOCK_STREAM, 0600, &p->listener, &err));
	assert_int_equal(0, pthread_create(&p->thread, NULL, proxy_run, p));
}

static void proxy_down(struct proxy *p, const char *path)
{
	int end;

	p->stop = true;
	assert_ok(fm_unix_connect(path, SOCK_STREAM, &end, &err));
	close(end);
	assert_int_equal(0, pthread_join(p->thread, NULL));
	close(p->listener);
}

static void test_commit_without_an_answer(void **state)
{
	struct ovs_lab *lab = *state;
	_fm_free_ char *path = fm_xasprintf("%s/proxy", lab->dir), *address = fm_xasprintf("unix:%s", path);

	for (int mood = SWALLOW; mood <= SWALLOW_ANSWER; mood++) {
		struct proxy p = { .mood = (enum proxy_mood)mood, .behind = lab->address_b };
		json_t *action = two_switches(address, 2), *direct = two_switches(lab->address_b, 2), *undo = NULL;

		fresh();
		theirs("br-a", "output:2");
		proxy_up(&p, path);
		assert_ok(PREPARE(action, &undo));
		uint64_t began = fm_now_ms();
		struct fm_redirect_call c = within(3 * HANG_MS);
		assert_code(FM_E_DEADLINE_EXCEEDED, driver->open(&c, action, undo, &err));
		assert_ends(began, 3 * HANG_MS);
		assert_non_null(strstr(err.hint, "switch s2"));
		assert_bridge("br-a", THEIRS("output:2"));
		assert_bridge("br-b", mood == SWALLOW ? ABSENT : OURS("output:1,output:2"));
		assert_ok(CALL(revert, direct, undo));
		assert_bridge("br-a", THEIRS("output:2"));
		assert_bridge("br-b", ABSENT);
		proxy_down(&p, path);
		json_decref(undo);
		json_decref(direct);
		json_decref(action);
	}
}

/* Between our look and our change somebody exchanges the flow: it is not hit, and that is seen. */
static void test_exchanged_in_the_moment(void **state)
{
	struct ovs_lab *lab = *state;
	_fm_free_ char *path = fm_xasprintf("%s/proxy", lab->dir), *address = fm_xasprintf("unix:%s", path);
	struct proxy p = { .mood = EXCHANGE, .behind = lab->address_b };
	json_t *action = two_switches(address, 2), *undo = NULL;

	fresh();
	theirs("br-a", "output:2");
	theirs("br-b", "output:1");
	proxy_up(&p, path);
	assert_ok(PREPARE(action, &undo));
	assert_code(FM_E_ABORTED, CALL(open, action, undo));
	assert_non_null(strstr(err.message, "switch s2: somebody else has changed the flow"));
	assert_bridge("br-a", THEIRS("output:2"));
	assert_bridge("br-b", EXCHANGED);
	proxy_down(&p, path);
	json_decref(undo);
	json_decref(action);
}

/* A dead switch does not keep the others from being restored. */
static void test_revert_without_one(void **state)
{
	struct ovs_lab *lab = *state;
	json_t *action = two_switches(lab->address_b, 2), *undo = NULL;

	fresh();
	assert_ok(PREPARE(action, &undo));
	assert_ok(CALL(flip, action, undo));
	json_t *dead = json_deep_copy(action);
	(void)json_object_set_new(json_array_get(json_object_get(dead, "switches"), 1), "address", json_string("unix:/nowhere"));
	assert_code(FM_E_UNAVAILABLE, CALL(revert, dead, undo));
	assert_non_null(strstr(err.message, "s2"));
	assert_bridge("br-a", ABSENT);
	assert_bridge("br-b", OURS("output:2"));
	assert_ok(CALL(revert, action, undo));
	assert_bridge("br-b", ABSENT);
	json_decref(dead);
	json_decref(undo);
	json_decref(action);
}

/* ---- leftovers ---- */

static void count_leftover(const char *what, void *userdata)
{
	struct fm_buf *b = userdata;

	fm_buf_addf(b, "%s\n", what);
}

static void test_leftovers(void **state)
{
	struct ovs_lab *lab = *state;
	json_t *action = two_switches(lab->address_b, 2), *known = json_pack("[O, O, {s:s}]", action, action, "driver", "dns"),
	       *undo = NULL;
	_fm_buf_ struct fm_buf words = FM_BUF_INIT;
	struct fm_redirect_call c = within(WAIT_MS);

	fresh();
	theirs("br-a", "output:2");
	ofctl("add-flow", "br-b.mgmt cookie=0x666d00000000beef,table=2,priority=9,ip,actions=output:3");
	assert_ok(PREPARE(action, &undo));
	assert_ok(CALL(open, action, undo));
	assert_ok(driver->leftovers(&c, known, count_leftover, &words, &err));
	assert_string_equal(words.data ? words.data : "",
	                    "switch s2: a flow of ours, cookie 0x666d00000000beef, table 2, priority 9, output:3\n");
	assert_ok(CALL(revert, action, undo));
	json_decref(undo);
	json_decref(known);
	json_decref(action);
}

/* ---- under load ---- */

/* One move of the container from port 2+from to the other, as a migration does it */
static void move(struct flip_stream *s, unsigned from)
{
	json_t *action = one_switch(2 + (int)from, 3 - (int)from), *undo = NULL;

	assert_ok(PREPARE(action, &undo));
	assert_ok(CALL(open, action, undo));
	flip_await_more(s, &s->arrived[!from], 20); /* the switch's cache follows its table some milliseconds later */
	s->open = !from;
	flip_await_more(s, &s->at[!from],
	                1); /* packets that were under way when the one closed have passed: a freeze is longer than that */
	assert_ok(CALL(flip, action, undo));
	assert_ok(CALL(verify, action, undo));
	flip_await_more(s, &s->arrived[!from], 200);
	json_decref(undo);
	json_decref(action);
}

static void test_moves_lose_nothing(void **state)
{
	static struct flip_stream s;
	json_t *first = one_switch(3, 2), *undo = NULL;
	unsigned rounds = 0;
	pthread_t thread;

	s = (struct flip_stream){ .from = flip_port(1), .to = { flip_port(2), flip_port(3) } };
	fresh();
	assert_ok(PREPARE(first, &undo));
	assert_ok(CALL(flip, first, undo));
	flip_await_way(s.from, s.to[0]);
	assert_int_equal(0, pthread_create(&thread, NULL, flip_run, &s));
	for (; s.sent < FLIP_PACKETS - FLIP_RATE_HZ / 4 && rounds < 1000; rounds++)
		move(&s, rounds % 2);
	assert_int_equal(0, pthread_join(thread, NULL));
	print_message("%u packets, %llu a second; %u moves; lost %u, twice %u at the application; it got %u and %u, %u were dropped by a "
	              "closed port\n",
	              s.sent, (unsigned long long)((uint64_t)s.sent * 1000000 / s.took_us), rounds, s.lost, s.twice, s.at[0], s.at[1],
	              s.dropped);
	assert_int_equal(s.sent, FLIP_PACKETS);
	assert_int_equal(s.lost, 0);
	assert_int_equal(s.twice, 0);
	/* and both ports had packets while they were closed: it was both, for a while */
	assert_true(rounds >= ROUNDS && s.at[0] > 0 && s.at[1] > 0 && s.dropped >= rounds);
	close(s.from);
	close(s.to[0]);
	close(s.to[1]);
	json_decref(undo);
	json_decref(first);
}

/* ---- */

static void test_skipped(void **state)
{
	print_message("skipped: %s\n", ovs_is_missing());
	skip();
}

static int up(void **state)
{
	static struct ovs_lab lab;

	lab_up(&lab);
	driver = fm_redirect_driver("openflow");
	assert_non_null(driver);
	*state = &lab;
	return 0;
}

static int down(void **state)
{
	lab_down(*state);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_there_and_back),
		cmocka_unit_test(test_revert_from_anywhere),
		cmocka_unit_test(test_in_the_way),
		cmocka_unit_test(test_matches),
		cmocka_unit_test(test_same_port),
		cmocka_unit_test(test_somebody_else),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_switch_hangs),
		cmocka_unit_test(test_nobody_answers),
		cmocka_unit_test(test_commit_without_an_answer),
		cmocka_unit_test(test_exchanged_in_the_moment),
		cmocka_unit_test(test_revert_without_one),
		cmocka_unit_test(test_leftovers),
		cmocka_unit_test(test_moves_lose_nothing),
	};
	const struct CMUnitTest nothing[] = { cmocka_unit_test(test_skipped) };

	signal(SIGPIPE, SIG_IGN);
	if (ovs_is_missing())
		return cmocka_run_group_tests_name("redirect-openflow", nothing, NULL, NULL);
	return cmocka_run_group_tests_name("redirect-openflow", tests, up, down);
}
