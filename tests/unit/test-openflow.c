/* SPDX-License-Identifier: MIT */
/* test-openflow.c - the connection to a switch that misbehaves: what a real one (test-openflow-ovs.c) cannot be brought to do. */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "network/openflow-group.h"
#include "network/openflow-link.h"

#define WAIT_MS    20000
#define SHORT_MS   100
#define HANG_MS    500 /* for a commit that is not answered, and for one that is */
#define DPID       0x77ull
#define N_EVENTS   (FM_MAX_OF_EVENTS + 44)
#define FLOW_BYTES 56u /* of an entry without match and actions */

enum mood {
	GOOD,
	SILENT,        /* says nothing at all, not even HELLO */
	GARBAGE,       /* is no switch */
	HANGS_UP,      /* at once */
	REFUSES_HELLO, /* speaks something else, and says so */
	AUXILIARY,
	BY_BYTES,      /* every byte by itself */
	ANSWERS_LATE,  /* a barrier when the next one comes */
	ANSWERS_WRONG, /* a barrier with a list of ports */
	ASKS,          /* an echo before it answers a barrier, which it does when it has the reply */
	CHATTERS,      /* never stops, and never answers a barrier */
	EVENTS,        /* many of them before it answers a barrier */
	TOO_MANY_FLOWS,
	DIES_AT_COMMIT,
	HANGS_AT_COMMIT, /* and at each one that follows */
	NEVER_READS,
};

struct fake {
	int fd;
	enum mood mood;
	uint64_t dpid;
	uint32_t late_xid;
	pthread_t thread;
};

static void put(struct fake *f, const void *data, size_t n)
{
	const uint8_t *p = data;

	if (f->mood != BY_BYTES)
		(void)fm_write_full(f->fd, p, n, NULL);
	else
		for (size_t i = 0; i < n; i++)
			(void)fm_write_full(f->fd, p + i, 1, NULL);
}

static void say(struct fake *f, const struct fm_of_message *m)
{
	static __thread uint8_t buf[FM_OF_MESSAGE_BYTES_MAX];
	size_t n;

	if (fm_of_encode(m, buf, sizeof(buf), &n, NULL) < 0)
		abort();
	put(f, buf, n);
}

static bool hear(struct fake *f, struct fm_of_message *m, uint8_t *buf)
{
	size_t n;

	return fm_read_full(f->fd, buf, FM_OF_HEADER_BYTES, NULL) == 0 && fm_of_message_length(buf, &n, NULL) == 0 &&
	       fm_read_full(f->fd, buf + FM_OF_HEADER_BYTES, n - FM_OF_HEADER_BYTES, NULL) == 0 && fm_of_decode(buf, n, m, NULL) == 0;
}

static void say_events(struct fake *f, unsigned n)
{
	struct fm_of_message m = { .type = FM_OF_PORT_STATUS, .port_status = { FM_OF_PORT_ADDED, { .name = "x" } } };

	for (unsigned i = 1; i <= n; i++) {
		m.port_status.port.number = i;
		say(f, &m);
	}
}

static void say_flows(struct fake *f, uint32_t xid)
{
	static uint8_t list[1000 * FLOW_BYTES];
	struct fm_of_message m = { .type = FM_OF_MULTIPART_REPLY, .xid = xid };
	size_t many = f->mood == TOO_MANY_FLOWS ? FM_MAX_OF_FLOWS / 1000 + 3 : 2;

	for (size_t i = 0; i < sizeof(list); i += FLOW_BYTES) {
		list[i + 1] = FLOW_BYTES;
		list[i + 49] = 1; /* a match of 4 bytes */
		list[i + 51] = 4;
	}
	m.multipart.kind = FM_OF_MULTIPART_FLOWS;
	m.multipart.entries = (struct fm_of_bytes){ list, sizeof(list) };
	for (size_t i = 0; i < many; i++) {
		m.multipart.to_be_continued = i + 1 < many;
		say(f, &m);
	}
}

/* False: that was all it says */
static bool answer_barrier(struct fake *f, uint32_t xid, uint8_t *buf)
{
	struct fm_of_message reply = { .type = FM_OF_BARRIER_REPLY, .xid = xid }, m;

	switch (f->mood) {
	case ANSWERS_LATE:
		if (f->late_xid) {
			struct fm_of_message late = { .type = FM_OF_BARRIER_REPLY, .xid = f->late_xid };
			struct fm_of_message error = { .type = FM_OF_ERROR, .xid = f->late_xid, .error = { 1, 1 } };
			say(f, &late);
			say(f, &error);
			say(f, &reply);
		}
		f->late_xid = xid;
		return true;
	case ANSWERS_WRONG:
		reply = (struct fm_of_message){ .type = FM_OF_MULTIPART_REPLY, .xid = xid, .multipart.kind = FM_OF_MULTIPART_PORTS };
		say(f, &reply);
		return true;
	case ASKS:
		m = (struct fm_of_message){ .type = FM_OF_ECHO_REQUEST, .xid = 0xabcd, .echo = { (const uint8_t *)"alive?", 6 } };
		say(f, &m);
		if (!hear(f, &m, buf) || m.type != FM_OF_ECHO_REPLY || m.xid != 0xabcd || m.echo.n != 6 ||
		    memcmp(m.echo.data, "alive?", 6) != 0)
			return false;
		say(f, &reply);
		return true;
	case CHATTERS:
		m = (struct fm_of_message){ .type = FM_OF_PORT_STATUS, .port_status.port.number = 1 };
		for (;;) {
			uint8_t message[128];
			size_t n;
			if (fm_of_encode(&m, message, sizeof(message), &n, NULL) < 0 || fm_write_full(f->fd, message, n, NULL) < 0)
				return false;
		}
	case EVENTS:
		say_events(f, N_EVENTS);
		say(f, &reply);
		return true;
	default:
		say(f, &reply);
		return true;
	}
}

/* The switch: answers until the other side is gone. */
static bool answer(struct fake *f, const struct fm_of_message *m, uint8_t *buf)
{
	struct fm_of_message reply = { .type = FM_OF_FEATURES_REPLY, .xid = m->xid };

	switch (m->type) {
	case FM_OF_FEATURES_REQUEST:
		reply.features = (struct fm_of_features){ .datapath_id = f->dpid, .auxiliary_id = f->mood == AUXILIARY };
		say(f, &reply);
		return f->mood != NEVER_READS;
	case FM_OF_BARRIER_REQUEST:
		return answer_barrier(f, m->xid, buf);
	case FM_OF_MULTIPART_REQUEST:
		say_flows(f, m->xid);
		return true;
	case FM_OF_BUNDLE_CONTROL:
		if (m->bundle.kind == FM_OF_BUNDLE_COMMIT && f->mood == DIES_AT_COMMIT)
			return false;
		if (m->bundle.kind == FM_OF_BUNDLE_COMMIT && f->mood == HANGS_AT_COMMIT)
			return true;
		reply = *m;
		reply.bundle.kind++;
		say(f, &reply);
		return true;
	default:
		return true;
	}
}

static void *run_fake(void *arg)
{
	static const uint8_t incompatible[] = { 1, 1, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0 };
	struct fm_of_message hello = { .type = FM_OF_HELLO, .xid = 1, .hello.versions = 1u << FM_OF_VERSION }, m;
	_fm_free_ uint8_t *buf = malloc(FM_OF_MESSAGE_BYTES_MAX);
	struct fake *f = arg;

	if (f->mood == GARBAGE)
		put(f, "HTTP/1.1 400 Bad Request\r\n\r\n", 28);
	else if (f->mood == REFUSES_HELLO)
		put(f, incompatible, sizeof(incompatible));
	else if (f->mood != SILENT && f->mood != HANGS_UP)
		say(f, &hello);
	bool open = f->mood != HANGS_UP;
	while (open && hear(f, &m, buf))
		open = f->mood == SILENT || answer(f, &m, buf);
	if (f->mood == NEVER_READS)
		while (fm_wait_fd(f->fd, POLLHUP, SHORT_MS, NULL) == 0)
			;
	shutdown(f->fd, SHUT_RDWR);
	return NULL;
}

/* The other end of the fake's connection */
static int begin(struct fake *f, enum mood mood)
{
	int sv[2];

	assert_sys(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv));
	*f = (struct fake){ .fd = sv[1], .mood = mood, .dpid = DPID };
	assert_int_equal(0, pthread_create(&f->thread, NULL, run_fake, f));
	return sv[0];
}

static void end(struct fake *f, struct fm_of *c)
{
	fm_of_free(c);
	assert_int_equal(0, pthread_join(f->thread, NULL));
	close(f->fd);
}

static const struct fm_of_options fake_options = { .address = "fake" };

static struct fm_of *meet(struct fake *f, enum mood mood)
{
	struct fm_of *c = NULL;

	assert_ok(fm_of_accept(begin(f, mood), &fake_options, WAIT_MS, -1, &c, &err));
	assert_true(fm_of_datapath_id(c) == DPID);
	return c;
}

static void test_bad_handshakes(void **state)
{
	static const struct {
		enum mood mood;
		enum fm_code code;
	} cases[] = { { SILENT, FM_E_DEADLINE_EXCEEDED },
		      { GARBAGE, FM_E_DATA_LOSS },
		      { HANGS_UP, FM_E_UNAVAILABLE },
		      { REFUSES_HELLO, FM_E_UNIMPLEMENTED },
		      { AUXILIARY, FM_E_FAILED_PRECONDITION } };

	for (size_t i = 0; i < FM_ARRAY_SIZE(cases); i++) {
		struct fm_of *c = NULL;
		struct fake f;
		uint64_t begun = fm_now_ms();

		int fd = begin(&f, cases[i].mood);
		assert_code(cases[i].code, fm_of_accept(fd, &fake_options, cases[i].mood == SILENT ? SHORT_MS : WAIT_MS, -1, &c, &err));
		assert_non_null(strstr(err.message, "switch fake"));
		assert_true(fm_now_ms() - begun < WAIT_MS);
		end(&f, c);
	}
}

static void test_cancel(void **state)
{
	_fm_close_ int cancel = eventfd(1, EFD_CLOEXEC);
	struct fm_of *c = NULL;
	struct fake f;

	int fd = begin(&f, SILENT);
	assert_code(FM_E_CANCELLED, fm_of_accept(fd, &fake_options, WAIT_MS, cancel, &c, &err));
	end(&f, c);
	c = meet(&f, ANSWERS_LATE);
	assert_code(FM_E_CANCELLED, fm_of_barrier(c, -1, cancel, &err));
	assert_true(fm_of_is_up(c));
	assert_ok(fm_of_barrier(c, WAIT_MS, -1, &err));
	end(&f, c);
}

static void test_byte_by_byte(void **state)
{
	struct fake f;
	struct fm_of *c = meet(&f, BY_BYTES);

	for (int i = 0; i < 10; i++)
		assert_ok(fm_of_barrier(c, WAIT_MS, -1, &err));
	end(&f, c);
}

static void test_late_answers(void **state)
{
	struct fake f;
	struct fm_of *c = meet(&f, ANSWERS_LATE);

	assert_code(FM_E_DEADLINE_EXCEEDED, fm_of_barrier(c, SHORT_MS, -1, &err));
	assert_ok(fm_of_barrier(c, WAIT_MS, -1, &err)); /* the late one, and an error for it, come first */
	assert_ok(fm_of_barrier(c, WAIT_MS, -1, &err));
	end(&f, c);
}

static void test_wrong_answer(void **state)
{
	struct fake f;
	struct fm_of *c = meet(&f, ANSWERS_WRONG);

	assert_code(FM_E_DATA_LOSS, fm_of_barrier(c, WAIT_MS, -1, &err));
	assert_false(fm_of_is_up(c));
	assert_code(FM_E_UNAVAILABLE, fm_of_barrier(c, WAIT_MS, -1, &err));
	assert_non_null(strstr(err.message, "wrong MULTIPART_REPLY"));
	assert_code(FM_E_FAILED_PRECONDITION, fm_of_reconnect(c, WAIT_MS, -1, &err)); /* it has called us */
	end(&f, c);
}

static void test_echo(void **state)
{
	struct fake f;
	struct fm_of *c = meet(&f, ASKS);

	assert_ok(fm_of_barrier(c, WAIT_MS, -1, &err));
	end(&f, c);
}

static void test_chatter(void **state)
{
	struct fake f;
	struct fm_of *c = meet(&f, CHATTERS);
	uint64_t begun = fm_now_ms();

	assert_code(FM_E_DEADLINE_EXCEEDED, fm_of_barrier(c, SHORT_MS, -1, &err));
	assert_true(fm_now_ms() - begun < WAIT_MS / 2);
	end(&f, c);
}

static void test_events(void **state)
{
	struct fm_of_port_status s = { 0 };
	struct fake f;
	struct fm_of *c = meet(&f, EVENTS);

	assert_ok(fm_of_barrier(c, WAIT_MS, -1, &err));
	assert_code(FM_E_ABORTED, fm_of_port_event(c, 0, -1, &s, &err)); /* some are lost: once */
	for (unsigned i = N_EVENTS - FM_MAX_OF_EVENTS + 1; i <= N_EVENTS; i++) {
		assert_ok(fm_of_port_event(c, 0, -1, &s, &err));
		assert_int_equal(s.port.number, i);
	}
	assert_code(FM_E_DEADLINE_EXCEEDED, fm_of_port_event(c, 0, -1, &s, &err));
	end(&f, c);
}

static void test_too_many_flows(void **state)
{
	struct fm_of_flow *flows = NULL;
	struct fake f;
	struct fm_of *c = meet(&f, TOO_MANY_FLOWS);
	size_t n;

	assert_code(FM_E_RESOURCE_EXHAUSTED, fm_of_flows(c, NULL, WAIT_MS, -1, &flows, &n, &err));
	assert_null(flows);
	assert_ok(fm_of_barrier(c, WAIT_MS, -1, &err));
	end(&f, c);
	c = meet(&f, GOOD);
	assert_ok(fm_of_flows(c, NULL, WAIT_MS, -1, &flows, &n, &err));
	assert_int_equal(n, 2000);
	free(flows);
	end(&f, c);
}

/* What waits to be sent is limited, and a list that does not fit is not begun. */
static void test_switch_that_never_reads(void **state)
{
	struct fm_of_flow_mod *mods = calloc(FM_MAX_OF_BUNDLE_MESSAGES, sizeof(*mods));
	struct fake f;
	struct fm_of *c = meet(&f, NEVER_READS);
	unsigned n = 0;

	err = FM_ERROR_INIT;
	while (fm_of_flow_mods(c, mods, FM_MAX_OF_BUNDLE_MESSAGES, 0, -1, &err) < 0 && err.code == FM_E_DEADLINE_EXCEEDED) {
		assert_true(n++ < 1000);
		err = FM_ERROR_INIT;
	}
	assert_int_equal(err.code, FM_E_RESOURCE_EXHAUSTED);
	assert_true(c->out.len - c->out_off <= FM_MAX_OF_OUTPUT_BYTES);
	size_t before = c->out.len - c->out_off;
	assert_code(FM_E_RESOURCE_EXHAUSTED, fm_of_flow_mods(c, mods, FM_MAX_OF_BUNDLE_MESSAGES, 0, -1, &err));
	assert_int_equal(before, c->out.len - c->out_off);
	free(mods);
	end(&f, c);
}

/* The clock is moved, not waited for. */
static void test_keepalive(void **state)
{
	struct fake f;
	struct fm_of *c = meet(&f, ANSWERS_LATE); /* answers no echoes */

	assert_ok(fm_of_keepalive(c, 0, -1, &err)); /* heard just now */
	assert_true(fm_of_keepalive_at_ms(c) > fm_now_ms());
	c->heard_ms -= FM_OF_KEEPALIVE_MS;
	assert_code(FM_E_DEADLINE_EXCEEDED, fm_of_keepalive(c, 10, -1, &err));
	assert_true(fm_of_is_up(c));
	assert_true(c->asked_ms > 0);
	c->asked_ms -= FM_OF_ECHO_PATIENCE_MS;
	assert_code(FM_E_UNAVAILABLE, fm_of_keepalive(c, WAIT_MS, -1, &err));
	assert_false(fm_of_is_up(c));
	end(&f, c);
}

static void *accept_and_run(void *arg)
{
	struct fake *listening = arg, f = *listening;

	if (fm_accept(listening->fd, WAIT_MS, -1, &f.fd, NULL) < 0)
		abort();
	run_fake(&f);
	close(f.fd);
	return NULL;
}

/* Another switch answers at the same address. */
static void test_another_switch(void **state)
{
	_fm_close_ int listener = -1;
	struct fake f = { .mood = GOOD, .dpid = DPID };
	struct fm_of *c = NULL;
	struct fm_error e = FM_ERROR_INIT;
	char address[64];
	uint16_t port;

	assert_ok(fm_tcp_listen("127.0.0.1:0", 4, &listener, &err));
	assert_ok(fm_tcp_local_port(listener, &port, &err));
	(void)snprintf(address, sizeof(address), "tcp:127.0.0.1:%u", port);
	struct fm_of_options o = { .address = address };
	assert_ok(fm_of_new(&o, &c, &err));
	assert_code(FM_E_UNAVAILABLE, fm_of_barrier(c, WAIT_MS, -1, &err));
	for (int round = 0; round < 2; round++) {
		struct fm_error refused = FM_ERROR_INIT;
		pthread_t thread;
		f.fd = listener;
		assert_int_equal(0, pthread_create(&thread, NULL, accept_and_run, &f));
		int rc = fm_of_reconnect(c, WAIT_MS, -1, &refused);
		if (round == 0) {
			assert_int_equal(rc, 0);
			(void)fm_error_set(&e, FM_E_UNAVAILABLE, "for the test");
			(void)fm_of_lose(c, &e);
			f.dpid++;
		} else {
			assert_int_equal(rc, -1);
			assert_int_equal(refused.code, FM_E_FAILED_PRECONDITION);
			assert_false(fm_of_is_up(c));
			assert_true(fm_of_retry_at_ms(c) > 0);
		}
		assert_int_equal(0, pthread_join(thread, NULL));
	}
	fm_of_free(c);
}

/* One dies when it is to commit and cannot be reached again; the other one has committed, and is taken back. */
static void test_group_one_dies(void **state)
{
	struct fm_of_flow_mod mod = { .command = FM_OF_ADD }, undo = { .command = FM_OF_DELETE_STRICT };
	_fm_of_group_ struct fm_of_group *g = NULL;
	struct fake f[2];
	struct fm_of *c[2] = { meet(&f[0], GOOD), meet(&f[1], DIES_AT_COMMIT) };
	struct fm_of_change changes[2] = { { c[0], &mod, &undo, 1, 1 }, { c[1], &mod, &undo, 1, 1 } };
	char text[128], small[9];

	changes[1].conn = c[0];
	assert_code(FM_E_INVALID_ARGUMENT, fm_of_group_new(changes, 2, &g, &err));
	changes[1].conn = c[1];
	changes[1].n_undo = 0;
	assert_code(FM_E_INVALID_ARGUMENT, fm_of_group_new(changes, 2, &g, &err));
	assert_code(FM_E_INVALID_ARGUMENT, fm_of_group_new(changes, 0, &g, &err));
	changes[1].n_undo = 1;
	assert_ok(fm_of_group_new(changes, 2, &g, &err));
	assert_int_equal(fm_of_group_size(g), 2);
	assert_ok(fm_of_group_rollback(g, WAIT_MS, -1, &err)); /* nothing to do */
	assert_ok(fm_of_group_prepare(g, WAIT_MS, -1, &err));
	assert_code(FM_E_FAILED_PRECONDITION, fm_of_group_prepare(g, WAIT_MS, -1, &err));
	assert_code(FM_E_UNAVAILABLE, fm_of_group_commit(g, WAIT_MS, -1, &err));
	assert_string_equal(err.hint, "not all could be taken back: fake UNDONE, fake UNKNOWN");
	assert_int_equal(fm_of_group_state(g, 1), FM_OF_UNKNOWN);
	assert_int_equal(fm_of_group_state(g, 0), FM_OF_UNDONE);
	assert_code(FM_E_FAILED_PRECONDITION, fm_of_group_rollback(g, WAIT_MS, -1, &err));
	assert_string_equal(fm_of_group_describe(g, text, sizeof(text)), "fake UNDONE, fake UNKNOWN");
	assert_string_equal(fm_of_group_describe(g, small, sizeof(small)), "fake UND");
	end(&f[0], c[0]);
	end(&f[1], c[1]);
}

/* One hangs, whichever it is: the other one is taken back in time all the same. */
static void test_group_one_hangs(void **state)
{
	struct fm_of_flow_mod mod = { .command = FM_OF_ADD }, undo = { .command = FM_OF_DELETE_STRICT };

	for (int who = 0; who < 2; who++) {
		_fm_of_group_ struct fm_of_group *g = NULL;
		struct fake f[2];
		struct fm_of *c[2] = { meet(&f[0], who ? GOOD : HANGS_AT_COMMIT), meet(&f[1], who ? HANGS_AT_COMMIT : GOOD) };
		struct fm_of_change changes[2] = { { c[0], &mod, &undo, 1, 1 }, { c[1], &mod, &undo, 1, 1 } };
		uint64_t begun;

		assert_ok(fm_of_group_new(changes, 2, &g, &err));
		assert_ok(fm_of_group_prepare(g, WAIT_MS, -1, &err));
		begun = fm_now_ms();
		assert_code(FM_E_DEADLINE_EXCEEDED, fm_of_group_commit(g, HANG_MS, -1, &err));
		assert_true(fm_now_ms() - begun < WAIT_MS / 2);
		assert_int_equal(fm_of_group_state(g, (size_t)who), FM_OF_UNKNOWN);
		assert_int_equal(fm_of_group_state(g, (size_t)!who), FM_OF_UNDONE);
		assert_code(FM_E_DEADLINE_EXCEEDED, fm_of_group_rollback(g, SHORT_MS, -1, &err)); /* again, in vain */
		assert_int_equal(fm_of_group_state(g, (size_t)who), FM_OF_UNKNOWN);
		end(&f[0], c[0]);
		end(&f[1], c[1]);
	}
}

/* Nobody has to be undone when one is seen to be gone before the commit. */
static void test_group_one_is_gone(void **state)
{
	struct fm_of_flow_mod mod = { .command = FM_OF_ADD }, undo = { .command = FM_OF_DELETE_STRICT };
	_fm_of_group_ struct fm_of_group *g = NULL;
	struct fm_error e = FM_ERROR_INIT;
	struct fake f[2];
	struct fm_of *c[2] = { meet(&f[0], GOOD), meet(&f[1], GOOD) };
	struct fm_of_change changes[2] = { { c[0], &mod, &undo, 1, 1 }, { c[1], &mod, &undo, 1, 1 } };

	assert_ok(fm_of_group_new(changes, 2, &g, &err));
	assert_ok(fm_of_group_prepare(g, WAIT_MS, -1, &err));
	(void)fm_error_set(&e, FM_E_UNAVAILABLE, "for the test");
	(void)fm_of_lose(c[1], &e);
	assert_code(FM_E_UNAVAILABLE, fm_of_group_commit(g, WAIT_MS, -1, &err));
	assert_int_equal(fm_of_group_state(g, 0), FM_OF_UNCHANGED);
	assert_int_equal(fm_of_group_state(g, 1), FM_OF_UNCHANGED);
	end(&f[0], c[0]);
	end(&f[1], c[1]);
}

static void test_addresses(void **state)
{
	static const char *const bad[] = { "", "10.0.0.1:6653", "ssl:10.0.0.1:6653", "unix" };
	struct fm_of *c = NULL;

	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++) {
		struct fm_of_options o = { .address = bad[i] };
		assert_code(FM_E_INVALID_ARGUMENT, fm_of_new(&o, &c, &err));
	}
	struct fm_of_options o = { .address = "tcp:nonsense" }, nobody = { .address = "unix:/nonexistent/socket" };
	assert_code(FM_E_INVALID_ARGUMENT, fm_of_connect(&o, WAIT_MS, -1, &c, &err));
	assert_code(FM_E_UNAVAILABLE, fm_of_connect(&nobody, WAIT_MS, -1, &c, &err));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bad_handshakes),    cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_byte_by_byte),      cmocka_unit_test(test_late_answers),
		cmocka_unit_test(test_wrong_answer),      cmocka_unit_test(test_echo),
		cmocka_unit_test(test_chatter),           cmocka_unit_test(test_events),
		cmocka_unit_test(test_too_many_flows),    cmocka_unit_test(test_switch_that_never_reads),
		cmocka_unit_test(test_keepalive),         cmocka_unit_test(test_another_switch),
		cmocka_unit_test(test_group_one_dies),    cmocka_unit_test(test_group_one_hangs),
		cmocka_unit_test(test_group_one_is_gone), cmocka_unit_test(test_addresses),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("openflow", tests, NULL, NULL);
}
