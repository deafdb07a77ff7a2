/* SPDX-License-Identifier: MIT */
/*
 * test-flows.c - a container's tracked connections between two movers: read at a host that tracks what it routes, over a stream, into another host's table.
 *
 *    cli 192.0.2.3 ---- src 192.0.2.10 ---- ct 10.79.0.100, other 10.79.1.101        dst, plain: hosts without anything
 */
#include "nslab.h"

#define PORT 6379

#include "migration/mover-internal.h"
#include "network/conntrack.h"

enum { SRC, DST, PLAIN, CLI, CT, OTHER, N_NS };
static const char *const names[] = { "src", "dst", "plain", "cli", "ct", "other" };

/* That it is looked at is what makes a host track. */
static const char tracks[] = "nft -f - <<'END'\n"
                             "table inet fw {\n"
                             "  chain forward {\n"
                             "    type filter hook forward priority filter;\n"
                             "    ct state established,related accept\n"
                             "  }\n"
                             "}\n"
                             "END\n";

static int group_setup(void **state)
{
	if (!lab_possible())
		return 0;
	lab_up(names, N_NS);
	in_ns(SRC, "ip link add c0 type veth peer name eth0 netns $DIR/cli; ip link add t0 type veth peer name eth0 netns $DIR/ct; "
	           "ip link set c0 up; ip link set t0 up; ip address add 192.0.2.10/24 dev c0; ip address add 10.79.0.1/24 dev t0; "
	           "ip link add t1 type veth peer name eth0 netns $DIR/other; ip link set t1 up; ip address add 10.79.1.1/24 dev t1; echo "
	           "1 >/proc/sys/net/ipv4/ip_forward");
	in_ns(SRC, tracks);
	in_ns(DST, tracks);
	in_ns(CLI, "ip link set eth0 up; ip address add 192.0.2.3/24 dev eth0; ip route add default via 192.0.2.10");
	in_ns(CT, "ip link set eth0 up; ip address add 10.79.0.100/24 dev eth0; ip route add default via 10.79.0.1");
	in_ns(OTHER, "ip link set eth0 up; ip address add 10.79.1.101/24 dev eth0; ip route add default via 10.79.1.1");
	return 0;
}

static int group_teardown(void **state)
{
	if (lab.n)
		lab_down();
	return 0;
}

/* ---------------------------------------------------------------- a runtime that has one container that has nothing to do with the move */

static bool runtime_fails;

static int one_list(struct fm_runtime *rt, struct fm_instance **ret, size_t *ret_n, struct fm_error *e)
{
	if (runtime_fails)
		return fm_error_set(e, FM_E_UNAVAILABLE, "no answer");
	*ret = calloc(1, sizeof(**ret));
	assert_non_null(*ret);
	(void)snprintf((*ret)->id, sizeof((*ret)->id), "other.1");
	*ret_n = 1;
	return 0;
}
static const struct fm_runtime_ops one_ops = { .name = "one", .list = one_list };

struct world {
	char dir[64];
	struct fm_runtime runtime;
	struct fm_host host;
	struct fm_mover *source, *destination;
	struct fm_stream *far; /* the source's control stream, as the destination has it */
	struct fm_conntrack *table[2];
	int listener;
	struct lab_connection c;
};

static int do_table(void *userdata, struct fm_error *e)
{
	return fm_conntrack_open(userdata, e);
}

/* "web" at 10.79.0.100, and "other" at 10.79.1.101 */
static struct fm_mover *mover(struct world *w, bool destination)
{
	const struct fm_endpoint_words words = { .bridge = "br0", .address = "10.79.0.100/24", .address6 = "fd79::100/64" };
	struct fm_mover *m = NULL;

	assert_ok(fm_mover_alloc(&w->host, "m-3f9a61c2b07d", destination, &m, &err));
	(void)snprintf(m->container, sizeof(m->container), "web");
	assert_ok(fm_endpoint_config_parse(&words, "web", 0, &m->local.endpoints[0], &err));
	m->local.n_endpoints = 1;
	return m;
}

static void other_container(struct world *w)
{
	_fm_pb_ FM_PB(Container) *c = FM_PB_NEW(Container, container);

	fm_pb_set(&c->name, "other");
	fm_pb_set(&c->kind, "ordinary");
	c->endpoint = FM_PB_NEW(Endpoint, endpoint);
	fm_pb_set(&c->endpoint->bridge, "br0");
	fm_pb_set(&c->endpoint->address, "10.79.1.101/24");
	assert_ok(fm_instances_save(&w->host, "other.1", c, "{}", &err));
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	char state_dir[96], run_dir[96];
	int sv[2];

	*state = w;
	(void)snprintf(w->dir, sizeof(w->dir), "/tmp/fm-test-flows-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	(void)snprintf(state_dir, sizeof(state_dir), "%s/state", w->dir);
	(void)snprintf(run_dir, sizeof(run_dir), "%s/run", w->dir);
	(void)snprintf(w->host.name, sizeof(w->host.name), "alpha");
	w->runtime.ops = &one_ops;
	w->host.runtime = &w->runtime;
	runtime_fails = false;
	assert_ok(fm_host_init_dirs(&w->host, state_dir, run_dir, &err));
	w->source = mover(w, false);
	w->destination = mover(w, true);
	assert_sys(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv));
	assert_ok(fm_stream_from_fd(sv[0], &w->source->control, &err));
	assert_ok(fm_stream_from_fd(sv[1], &w->far, &err));
	w->listener = w->c.client = w->c.server = -1;
	for (int i = SRC; i <= DST && lab.n; i++)
		assert_ok(fm_netns_call(lab.ns[i], do_table, &w->table[i], &err));
	return 0;
}

static int do_forget_all(void *userdata, struct fm_error *e)
{
	struct fm_conntrack_address all[2];

	assert_ok(fm_conntrack_address_parse("10.79.0.100", &all[0], &err));
	assert_ok(fm_conntrack_address_parse("10.79.1.101", &all[1], &err));
	return fm_conntrack_forget(userdata, all, 2, NULL, 0, true, NULL, e);
}

static int teardown(void **state)
{
	struct world *w = *state;
	int rc;

	if (w->c.client >= 0)
		break_off(&w->c);
	if (w->listener >= 0)
		(void)close(w->listener);
	for (int i = SRC; i <= DST && lab.n; i++) {
		assert_ok(fm_netns_call(lab.ns[i], do_forget_all, w->table[i], &err));
		fm_conntrack_free(w->table[i]);
	}
	fm_stream_free(w->far);
	fm_mover_destroy(w->source);
	fm_mover_destroy(w->destination);
	rc = fm_remove_tree(w->dir, NULL);
	free(w);
	return rc;
}

/* ---- in a host's namespace ---- */

static int do_open(void *userdata, struct fm_error *e)
{
	fm_flows_open(userdata);
	return 0;
}

static int do_read(void *userdata, struct fm_error *e)
{
	fm_flows_read(userdata);
	return 0;
}

static int do_send(void *userdata, struct fm_error *e)
{
	return fm_flows_send(userdata, LAB_WAIT_MS, e);
}

static int do_restore(void *userdata, struct fm_error *e)
{
	fm_flows_restore(userdata);
	return 0;
}

static int do_forget(void *userdata, struct fm_error *e)
{
	fm_flows_forget(userdata);
	return 0;
}

static void in_host(int ns, int (*fn)(void *, struct fm_error *), struct fm_mover *m)
{
	assert_ok(fm_netns_call(lab.ns[ns], fn, m, &err));
}

static struct fm_conntrack_live live(const struct world *w, int ns, const char *address)
{
	struct fm_conntrack_address a;
	struct fm_conntrack_live got;

	assert_ok(fm_conntrack_address_parse(address, &a, &err));
	assert_ok(fm_conntrack_count(w->table[ns], &a, 1, &got, &err));
	return got;
}

static bool noted(const struct fm_mover *m, const char *words)
{
	for (char **n = m->notes; n && *n; n++)
		if (strstr(*n, words))
			return true;
	return false;
}

static void connect_to(struct world *w, int ns)
{
	w->listener = listen_in(ns, PORT);
	w->c = connect_from(CLI, NULL, ns == CT ? "10.79.0.100" : "10.79.1.101", PORT, w->listener);
	talk(&w->c);
}

/* As in a switch-over */
static void send_from(struct world *w, int ns)
{
	in_host(ns, do_open, w->source);
	in_host(ns, do_read, w->source);
	in_host(ns, do_send, w->source);
	/* sent as the next one, whatever came before */
	assert_ok(fm_stream_send(w->source->control, FM_FRAME_COMMIT, 0, 0, NULL, 0, LAB_WAIT_MS, &err));
}

struct got {
	uint8_t *bytes;
	struct fm_frame_header h;
};

static struct got receive(struct world *w, enum fm_frame type)
{
	struct got g = { .bytes = malloc(FM_MAX_FRAME_BYTES) };

	assert_non_null(g.bytes);
	assert_ok(fm_stream_expect(w->far, type, &g.h, g.bytes, FM_MAX_FRAME_BYTES, LAB_WAIT_MS, -1, &err));
	return g;
}

static void assert_next(struct world *w, enum fm_frame type)
{
	free(receive(w, type).bytes);
}

/* ---------------------------------------------------------------- tests */

static void test_they_travel(void **state)
{
	struct world *w = *state;
	struct got g;

	if (!lab.n)
		skip();
	connect_to(w, CT);
	assert_int_equal(live(w, SRC, "10.79.0.100").tcp, 1);
	send_from(w, SRC);
	g = receive(w, FM_FRAME_FLOWS);
	assert_int_equal(g.h.a, 1);
	assert_int_equal(g.h.b, 0);
	assert_next(w, FM_FRAME_COMMIT);

	in_host(DST, do_open, w->destination);
	in_host(DST, do_restore, w->destination); /* nothing has come yet */
	assert_null(w->destination->notes);
	assert_ok(fm_flows_take(w->destination, g.bytes, g.h.length, &err));
	assert_int_equal(live(w, DST, "10.79.0.100").tcp, 0);
	in_host(DST, do_restore, w->destination);
	assert_int_equal(live(w, DST, "10.79.0.100").tcp, 1);
	assert_true(noted(w->destination, "1 tracked connections came along"));
	assert_false(noted(w->destination, "not all"));
	in_host(DST, do_restore, w->destination); /* as a recovery repeats it */
	assert_int_equal(live(w, DST, "10.79.0.100").tcp, 1);
	assert_null(w->source->notes);
	assert_int_equal(live(w, SRC, "10.79.0.100").tcp, 1); /* a rollback needs it */
	free(g.bytes);
}

static void test_nothing_to_send(void **state)
{
	struct world *w = *state;

	if (!lab.n)
		skip();
	/* a host that tracks nothing */
	send_from(w, PLAIN);
	assert_next(w, FM_FRAME_COMMIT);
	fm_flows_free(w->source);

	/* one that does, but for others */
	connect_to(w, OTHER);
	assert_int_equal(live(w, SRC, "10.79.1.101").tcp, 1);
	send_from(w, SRC);
	assert_next(w, FM_FRAME_COMMIT);
	fm_flows_free(w->source);

	/* and a container without an endpoint */
	w->source->local.n_endpoints = 0;
	send_from(w, SRC);
	assert_next(w, FM_FRAME_COMMIT);
	assert_null(w->source->flows);
	in_host(SRC, do_forget, w->source);
	in_host(SRC, do_restore, w->source);
	assert_ok(fm_flows_take(w->source, (const uint8_t *)"x", 1, &err));
	assert_null(w->source->notes);
}

/* What is read and never sent: the migration was given up in between. */
static void test_given_up(void **state)
{
	struct world *w = *state;

	if (!lab.n)
		skip();
	connect_to(w, CT);
	in_host(SRC, do_open, w->source);
	in_host(SRC, do_read, w->source);
	in_host(SRC, do_read, w->source);
	fm_flows_free(w->source);
	assert_null(w->source->flows);
	/* and again, from the beginning */
	send_from(w, SRC);
	assert_next(w, FM_FRAME_FLOWS);
	assert_next(w, FM_FRAME_COMMIT);
	/* once only */
	in_host(SRC, do_send, w->source);
	assert_ok(fm_stream_send(w->source->control, FM_FRAME_BYE, 0, 0, NULL, 0, LAB_WAIT_MS, &err));
	assert_next(w, FM_FRAME_BYE);
}

/* A peer that is gone is no matter of a firewall. */
static void test_lost_peer(void **state)
{
	struct world *w = *state;

	if (!lab.n)
		skip();
	connect_to(w, CT);
	in_host(SRC, do_open, w->source);
	in_host(SRC, do_read, w->source);
	fm_stream_shutdown(w->far);
	assert_code(FM_E_UNAVAILABLE, fm_netns_call(lab.ns[SRC], do_send, w->source, &err));
}

static void test_malformed(void **state)
{
	struct world *w = *state;
	uint8_t *bytes;
	struct got g;

	if (!lab.n)
		skip();
	connect_to(w, CT);
	send_from(w, SRC);
	g = receive(w, FM_FRAME_FLOWS);
	in_host(DST, do_open, w->destination);
	for (uint32_t n = 0; n < g.h.length; n++) {
		fm_strv_free(w->destination->notes);
		w->destination->notes = NULL;
		assert_ok(fm_flows_take(w->destination, g.bytes, n, &err));
		in_host(DST, do_restore, w->destination);
		assert_true(noted(w->destination, "connections are not known to this host's firewall"));
	}
	/* somebody else's */
	fm_strv_free(w->destination->notes);
	w->destination->notes = NULL;
	bytes = malloc(FM_MAX_CONNTRACK_BYTES + 1);
	assert_non_null(bytes);
	memcpy(bytes, g.bytes, g.h.length);
	for (uint32_t i = 0; i + 4 <= g.h.length; i++)
		if (memcmp(bytes + i, "\x0a\x4f\x00\x64", 4) == 0)
			bytes[i + 3] = 7;
	assert_ok(fm_flows_take(w->destination, bytes, g.h.length, &err));
	in_host(DST, do_restore, w->destination);
	assert_true(noted(w->destination, "is not one of the container's"));
	assert_int_equal(live(w, DST, "10.79.0.100").tcp + live(w, DST, "10.79.0.7").tcp, 0);
	/* more than can be is refused before it is taken: what came before stays */
	assert_ok(fm_flows_take(w->destination, g.bytes, g.h.length, &err));
	assert_code(FM_E_DATA_LOSS, fm_flows_take(w->destination, bytes, FM_MAX_CONNTRACK_BYTES + 1, &err));
	in_host(DST, do_restore, w->destination);
	assert_int_equal(live(w, DST, "10.79.0.100").tcp, 1);
	free(bytes);
	free(g.bytes);
}

/* Of all that the source has tracked only what has become stale goes: not what others have, and not what the container has with them. */
static void test_forget(void **state)
{
	struct world *w = *state;
	struct lab_connection other, between;
	int listener;

	if (!lab.n)
		skip();
	other_container(w);
	connect_to(w, CT);
	listener = listen_in(OTHER, PORT);
	other = connect_from(CLI, NULL, "10.79.1.101", PORT, listener);
	between = connect_from(OTHER, NULL, "10.79.0.100", PORT, w->listener);
	assert_int_equal(live(w, SRC, "10.79.0.100").tcp, 2);
	assert_int_equal(live(w, SRC, "10.79.1.101").tcp, 2);
	in_host(SRC, do_open, w->source);

	/* it is not known who is here */
	runtime_fails = true;
	in_host(SRC, do_forget, w->source);
	assert_int_equal(live(w, SRC, "10.79.0.100").tcp, 2);
	runtime_fails = false;
	in_host(SRC, do_forget, w->source);
	assert_int_equal(live(w, SRC, "10.79.0.100").tcp, 1);
	assert_int_equal(live(w, SRC, "10.79.1.101").tcp, 2);
	in_host(SRC, do_forget, w->source);
	assert_int_equal(live(w, SRC, "10.79.0.100").tcp, 1);
	assert_null(w->source->notes);

	break_off(&between);
	break_off(&other);
	(void)close(listener);
}

int main(void)
{
#define WITH_WORLD(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		WITH_WORLD(test_they_travel), WITH_WORLD(test_nothing_to_send), WITH_WORLD(test_given_up),
		WITH_WORLD(test_lost_peer),   WITH_WORLD(test_malformed),       WITH_WORLD(test_forget),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
