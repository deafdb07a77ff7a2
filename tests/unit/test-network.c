/* SPDX-License-Identifier: MIT */
/* test-network.c - the manager's view of the network: a description from a file, the real fleet and store, measurements that change, questions and answers. */
#include "check.h"

#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/str.h"
#include "migration/network.h"
#include "migration/pb.h"

/* gw - s1 = s2 - h1, s2 - h2: two links between the switches, 2 the shorter one. */
static const char lab[] =
        "{\"version\": 1, \"topology\": {\"version\": 1, \"hosts\": [{\"name\": \"h1\"}, {\"name\": \"h2\"}, {\"name\": \"gw\"}],"
        "\"switches\": [{\"name\": \"s1\"}, {\"name\": \"s2\"}], \"links\": ["
        "{\"from\": \"h1\", \"to\": \"s2\", \"to_port_number\": 1, \"latency_us\": 10, \"bandwidth_bytes_per_s\": 1000},"
        "{\"from\": \"h2\", \"to\": \"s2\", \"to_port_number\": 2, \"latency_us\": 10, \"bandwidth_bytes_per_s\": 1000},"
        "{\"from\": \"gw\", \"to\": \"s1\", \"to_port_number\": 1, \"latency_us\": 10, \"bandwidth_bytes_per_s\": 1000},"
        "{\"from\": \"s1\", \"from_port\": \"p2\", \"from_port_number\": 2, \"to\": \"s2\", \"to_port\": \"p3\", \"to_port_number\": 3, "
        "\"latency_us\": 100, \"bandwidth_bytes_per_s\": 1000},"
        "{\"from\": \"s1\", \"from_port\": \"p3\", \"from_port_number\": 3, \"to\": \"s2\", \"to_port\": \"p4\", \"to_port_number\": 4, "
        "\"latency_us\": 200, \"bandwidth_bytes_per_s\": 1000}]},"
        "\"openflow\": {\"switches\": [{\"switch\": \"s1\", \"address\": \"unix:/run/s1\"}, {\"switch\": \"s2\", \"address\": "
        "\"unix:/run/s2\"}]},"
        "\"intents\": [{\"service\": \"redis\", \"container\": \"redis-1\", \"min_bandwidth_bytes_per_s\": 600, \"clients\": [\"gw\"]},"
        "{\"service\": \"web\", \"label\": \"app=web\"}, {\"service\": \"tier\", \"label\": \"tier=1\"}%s]}";

struct fixture {
	char path[64];
	struct fm_store *store;
	struct fm_fleet *fleet;
	struct fm_network *network;
};

static void write_lab(struct fixture *f, const char *more)
{
	_fm_free_ char *text = fm_xasprintf(lab, more);
	_fm_close_ int fd = open(f->path, O_WRONLY | O_TRUNC | O_CLOEXEC);

	assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int fd;

	*state = f;
	(void)snprintf(f->path, sizeof(f->path), "/tmp/fm-test-network-XXXXXX");
	fd = mkstemp(f->path);
	assert_true(fd >= 0);
	close(fd);
	assert_ok(fm_store_open_sqlite(":memory:", &f->store, &err));
	assert_ok(fm_fleet_new(f->store, &f->fleet, &err));
	write_lab(f, "");
	assert_ok(fm_network_open(f->path, f->fleet, &f->network, &err));
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fm_network_free(f->network);
	fm_fleet_free(f->fleet);
	fm_store_close(f->store);
	(void)unlink(f->path);
	free(f);
	return 0;
}

/* name, status, "key=value" or NULL */
struct row {
	const char *name, *status, *label;
};

static FM_PB(Container) * new_container(const struct row *row)
{
	FM_PB(Container) *c = FM_PB_NEW(Container, container);
	FM_PB(Label) * label;

	fm_pb_set(&c->name, row->name);
	fm_pb_set(&c->instance, row->name);
	fm_pb_set(&c->status, row->status);
	c->endpoint = FM_PB_NEW(Endpoint, endpoint);
	fm_pb_set(&c->endpoint->address, "10.77.0.100/24");
	if (row->label) {
		_fm_free_ char *key = strndup(row->label, strcspn(row->label, "="));
		label = FM_PB_NEW(Label, label);
		fm_pb_set(&label->key, key);
		fm_pb_set(&label->value, strchr(row->label, '=') + 1);
		FM_PB_ADD(c->labels, c->n_labels, label);
	}
	return c;
}

static void report(struct fixture *f, const char *host, const struct row *rows, size_t n)
{
	_fm_pb_ FM_PB(ReportRequest) *r = FM_PB_NEW(ReportRequest, report_request);

	r->host = FM_PB_NEW(Host, host);
	fm_pb_set(&r->host->name, host);
	fm_pb_set(&r->host->address, "10.0.0.1:7401");
	for (size_t i = 0; i < n; i++)
		FM_PB_ADD(r->containers, r->n_containers, new_container(&rows[i]));
	assert_ok(fm_fleet_report(f->fleet, r, &err));
}
#define REPORT(host, ...)                                                                                                                  \
	report(f, host, (const struct row[]){ __VA_ARGS__ }, sizeof((const struct row[]){ __VA_ARGS__ }) / sizeof(struct row))

static json_t *compile(struct fixture *f, const struct row *row, const char *from, const char *to, enum fm_code code)
{
	_fm_pb_ FM_PB(Container) *c = new_container(row);
	json_t *actions = NULL;

	if (code != FM_OK) {
		assert_code(code, fm_network_compile(f->network, "m-1", c, from, to, 50, &actions, &err));
		assert_null(actions);
		return NULL;
	}
	assert_ok(fm_network_compile(f->network, "m-1", c, from, to, 50, &actions, &err));
	return actions;
}

/* "s2 1>2" of all flows */
static void assert_flows(const json_t *actions, const char *expected)
{
	_fm_buf_ struct fm_buf b = FM_BUF_INIT;

	fm_buf_addf(&b, "%s", "");
	for (size_t a = 0; a < json_array_size(actions); a++) {
		const json_t *switches = json_object_get(json_array_get(actions, a), "switches");

		for (size_t s = 0; s < json_array_size(switches); s++) {
			const json_t *o = json_array_get(switches, s);
			fm_buf_addf(&b, "%s%s %lld>%lld", b.len ? ", " : "", json_string_value(json_object_get(o, "name")),
			            json_integer_value(json_object_get(o, "from_port")), json_integer_value(json_object_get(o, "to_port")));
		}
	}
	assert_string_equal(b.data, expected);
}

static void test_without_a_description(void **state)
{
	_fm_pb_ FM_PB(Container) *c = new_container(&(struct row){ "redis-1", "running", NULL });
	FM_PB(FindPathsRequest) req = FLEXIMIGRATE__V1__FIND_PATHS_REQUEST__INIT;
	json_auto_t *actions = NULL;

	assert_ok(fm_network_compile(NULL, NULL, c, "h1", "h2", 50, &actions, &err));
	assert_int_equal(json_array_size(actions), 0);
	fm_network_moved(NULL, "redis-1", actions);
	fm_network_recheck(NULL, NULL);
	fm_network_free(NULL);
	assert_code(FM_E_FAILED_PRECONDITION, fm_network_show(NULL, &(FM_PB(GetNetworkResponse) *){ NULL }, &err));
	assert_non_null(strstr(err.hint, "--network FILE"));
	assert_code(FM_E_FAILED_PRECONDITION, fm_network_paths(NULL, &req, &(FM_PB(FindPathsResponse) *){ NULL }, &err));
	assert_code(FM_E_FAILED_PRECONDITION, fm_network_check(NULL, &(FM_PB(CheckNetworkResponse) *){ NULL }, &err));
	assert_code(FM_E_FAILED_PRECONDITION, fm_network_intents(NULL, &(FM_PB(ListIntentsResponse) *){ NULL }, &err));
	assert_code(FM_E_FAILED_PRECONDITION, fm_network_intent(NULL, "redis", &(FM_PB(Intent) *){ NULL }, &err));
	assert_code(FM_E_FAILED_PRECONDITION, fm_network_measure(NULL, "a", NULL, "b", NULL, &(struct fm_link_measurement){ 0 }, &err));
}

static void test_files(void **state)
{
	struct fixture *f = *state;
	struct fm_network *n = NULL;

	assert_code(FM_E_NOT_FOUND, fm_network_open("/nonexistent/network.json", f->fleet, &n, &err));
	write_lab(f, ", {\"service\": \"web\", \"container\": \"c\"}");
	assert_code(FM_E_INVALID_ARGUMENT, fm_network_open(f->path, f->fleet, &n, &err));
	assert_non_null(strstr(err.message, f->path));
	assert_non_null(strstr(err.message, "intents[3].service is that of one before it"));
	assert_null(n);
}

/* A changed file counts from the next question on; one that cannot be used changes nothing. */
static void test_reload(void **state)
{
	struct fixture *f = *state;
	const struct fm_link_measurement busy = { .latency_us = 10, .bandwidth_bytes_per_s = 1000, .utilisation_ppm = 500000 };
	const struct row redis = { "redis-1", "running", NULL }, web = { "w", "running", "app=web" }, added = { "n", "running", NULL };
	json_auto_t *none = compile(f, &added, "h1", "h2", FM_OK), *there = compile(f, &web, "gw", "h2", FM_OK), *same, *some, *back;

	assert_int_equal(json_array_size(none), 0);
	fm_network_moved(f->network, "w", there);
	assert_ok(fm_network_measure(f->network, "s1", NULL, "gw", NULL, &busy, &err));
	write_lab(f, ", {\"service\": \"new\", \"container\": \"n\"}, {\"service\": \"new\", \"container\": \"m\"}");
	assert_code(FM_E_INVALID_ARGUMENT, fm_network_reload(f->network, &err));
	assert_non_null(strstr(err.message, f->path));
	assert_non_null(strstr(err.message, "intents[4].service is that of one before it"));
	assert_sys(unlink(f->path));
	assert_code(FM_E_NOT_FOUND, fm_network_reload(f->network, &err));
	same = compile(f, &added, "h1", "h2", FM_OK);
	assert_int_equal(json_array_size(same), 0);
	(void)compile(f, &redis, "h1", "h2", FM_E_FAILED_PRECONDITION); /* what was measured is still known, too */

	close(open(f->path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	write_lab(f, ", {\"service\": \"new\", \"container\": \"n\"}");
	assert_ok(fm_network_reload(f->network, &err));
	some = compile(f, &added, "h1", "h2", FM_OK);
	assert_flows(some, "s2 1>2");
	back = compile(f, &redis, "h1", "h2", FM_OK); /* as the file says */
	assert_flows(back, "s2 1>2");
	json_decref(back);
	back = compile(f, &web, "gw", "h1", FM_OK); /* from where it led it */
	assert_flows(back, "s2 2>1");
	assert_code(FM_E_FAILED_PRECONDITION, fm_network_reload(NULL, &err));
}

static void *reload_often(void *arg)
{
	struct fm_error e = FM_ERROR_INIT;

	for (int i = 0; i < 200; i++)
		if (fm_network_reload(arg, &e) < 0)
			return arg;
	return NULL;
}

/* Whoever asks at that moment has an answer from the one or the other. */
static void test_reload_while_asked(void **state)
{
	struct fixture *f = *state;
	const struct row redis = { "redis-1", "running", NULL };
	void *failed = NULL;
	pthread_t t;

	REPORT("h1", { "redis-1", "running", NULL });
	assert_int_equal(pthread_create(&t, NULL, reload_often, f->network), 0);
	for (int i = 0; i < 50; i++) {
		json_auto_t *a = compile(f, &redis, "h1", "h2", FM_OK);
		_fm_pb_ FM_PB(CheckNetworkResponse) *check = NULL;
		_fm_pb_ FM_PB(GetNetworkResponse) *show = NULL;
		_fm_pb_ FM_PB(ListIntentsResponse) *all = NULL;
		_fm_pb_ FM_PB(Intent) *one = NULL;

		assert_flows(a, "s2 1>2");
		assert_ok(fm_network_check(f->network, &check, &err));
		assert_ok(fm_network_show(f->network, &show, &err));
		assert_ok(fm_network_intents(f->network, &all, &err));
		assert_ok(fm_network_intent(f->network, "redis", &one, &err));
		assert_int_equal(all->n_intents, 3);
	}
	assert_int_equal(pthread_join(t, &failed), 0);
	assert_null(failed);
}

static void test_actions_of_a_move(void **state)
{
	struct fixture *f = *state;
	const struct row redis = { "redis-1", "running", NULL }, web = { "w", "running", "app=web" },
	                 other = { "x", "running", "app=none" };
	json_auto_t *a = compile(f, &redis, "h1", "h2", FM_OK), *b = compile(f, &web, "h2", "h1", FM_OK),
	            *c = compile(f, &other, "h1", "h2", FM_OK);

	assert_flows(a, "s2 1>2");
	assert_flows(b, "s2 2>1");
	assert_int_equal(json_array_size(c), 0);
	/* the MAC address is that which the container has everywhere: made from its name */
	assert_int_equal(json_string_length(json_object_get(json_object_get(json_array_get(a, 0), "match"), "mac")), 17);
}

/* Where flows lead is remembered, so that a new measurement is no reason to believe that they lead elsewhere. */
static void test_where_flows_lead(void **state)
{
	struct fixture *f = *state;
	const struct fm_link_measurement slow = { .latency_us = 900, .bandwidth_bytes_per_s = 1000 };
	const struct row web = { "w", "running", "app=web" };
	json_auto_t *there = compile(f, &web, "gw", "h2", FM_OK), *back, *again;

	assert_flows(there, "s1 1>2, s2 3>2");
	fm_network_moved(f->network, "w", there);
	assert_ok(fm_network_measure(f->network, "s1", "p2", "s2", "p3", &slow, &err));
	back = compile(f, &web, "h2", "h1", FM_OK);
	assert_flows(back, "s1 2>3, s2 2>1"); /* not 3: that is where it would lead if it were made now */
	fm_network_moved(f->network, "w", back);
	again = compile(f, &web, "h1", "gw", FM_OK);
	assert_flows(again, "s1 3>1, s2 1>4");
}

static void test_measurements(void **state)
{
	struct fixture *f = *state;
	const struct fm_link_measurement busy = { .latency_us = 10, .bandwidth_bytes_per_s = 1000, .utilisation_ppm = 500000 };
	const struct fm_link_measurement wrong = { .latency_us = UINT64_MAX };
	const struct row redis = { "redis-1", "running", NULL };

	assert_code(FM_E_NOT_FOUND, fm_network_measure(f->network, "gw", NULL, "s9", NULL, &busy, &err));
	assert_code(FM_E_FAILED_PRECONDITION, fm_network_measure(f->network, "s1", NULL, "s2", NULL, &busy, &err)); /* which of the two? */
	assert_code(FM_E_INVALID_ARGUMENT, fm_network_measure(f->network, "gw", NULL, "s1", NULL, &wrong, &err));
	assert_ok(fm_network_measure(f->network, "s1", NULL, "gw", NULL, &busy, &err));
	(void)compile(f, &redis, "h1", "h2", FM_E_FAILED_PRECONDITION);
	assert_non_null(strstr(err.message, "intent 'redis': no path from \"gw\" to \"h2\" has 600 bytes/s available: the widest has 500"));
	assert_non_null(strstr(err.hint, "fleximigrate intent show redis"));
	assert_ok(fm_network_set_up(f->network, "h2", NULL, "s2", NULL, false, &err));
	(void)compile(f, &redis, "h1", "h2", FM_E_FAILED_PRECONDITION);
	assert_non_null(strstr(err.message, "has a link that is down"));
}

static const FM_PB(NetworkLink) * link_of(const FM_PB(GetNetworkResponse) * r, const char *from)
{
	for (size_t i = 0; i < r->n_links; i++)
		if (fm_streq(r->links[i]->from, from))
			return r->links[i];
	fail_msg("no link from %s", from);
	return NULL;
}

/* A host with its interfaces' traffic and the ways it measured: "h2 5030 10000" is host, microseconds, parts per million. */
static void report_measures(struct fixture *f, const char *host, uint64_t in, uint64_t out, const char *const *ways)
{
	_fm_pb_ FM_PB(ReportRequest) *r = FM_PB_NEW(ReportRequest, report_request);
	char to[64];
	unsigned long long latency;
	unsigned loss;

	r->host = FM_PB_NEW(Host, host);
	fm_pb_set(&r->host->name, host);
	r->host->usage = FM_PB_NEW(HostUsage, host_usage);
	r->host->usage->at_unix_ms = 1;
	r->host->usage->network_in_bytes_per_s = in;
	r->host->usage->network_out_bytes_per_s = out;
	for (; *ways; ways++) {
		FM_PB(PeerMeasure) *p = FM_PB_NEW(PeerMeasure, peer_measure);
		assert_int_equal(sscanf(*ways, "%63s %llu %u", to, &latency, &loss), 3);
		fm_pb_set(&p->host, to);
		p->latency_us = latency;
		p->loss_ppm = loss;
		FM_PB_ADD(r->host->peers, r->host->n_peers, p);
	}
	assert_ok(fm_fleet_report(f->fleet, r, &err));
}

/* What agents report: three hosts measure each other, so that each one's own link comes out as it is, whatever was described; the one between the switches keeps its described share. */
static void test_agents_measure(void **state)
{
	struct fixture *f = *state;
	_fm_pb_ FM_PB(GetNetworkResponse) *r = NULL;
	_fm_pb_ FM_PB(FindPathsResponse) *paths = NULL;
	struct fm_network_way way;

	report_measures(f, "h1", 300, 100, (const char *const[]){ "h2 5030 100000", "gw 150 0", NULL });
	report_measures(f, "h2", 50, 40, (const char *const[]){ "gw 5120 100000", NULL });
	report_measures(f, "gw", 2000, 0, (const char *const[]){ NULL });
	assert_ok(fm_network_show(f->network, &r, &err));
	const FM_PB(NetworkLink) *h1 = link_of(r, "h1"), *h2 = link_of(r, "h2"), *gw = link_of(r, "gw");
	assert_in_range(h2->latency_us, 4995, 5005); /* (5030 + 5120 - 150) / 2 */
	assert_in_range(h1->latency_us, 25, 35);
	assert_in_range(h2->loss_ppm, 99000, 100500);
	assert_true(h1->loss_ppm < 1000 && gw->loss_ppm < 1000);
	assert_int_equal(h1->utilisation_ppm, 300000);
	assert_int_equal(h2->utilisation_ppm, 50000);
	assert_int_equal(gw->utilisation_ppm, 1000000); /* more than it is described to carry */
	assert_true(h1->described_latency_us == 10 && h1->n_measured == 3 && h1->measured_unix_ms > 0 && h1->bandwidth_bytes_per_s == 1000);
	/* nobody measures the other link between the switches, which the shortest path does not use */
	const FM_PB(NetworkLink) *other = r->links[4];
	assert_true(other->n_measured == 0 && other->latency_us == 200 && other->measured_unix_ms == 0);
	assert_int_equal(r->links[3]->n_measured, 2); /* a link between switches has no host's interface */
	assert_ok(fm_network_between(f->network, "h1", "h2", &way, &err));
	assert_in_range(way.latency_us, 5020, 5040);
	assert_true(way.utilisation_ppm == 300000 && way.bandwidth_bytes_per_s == 1000 && way.loss_ppm > 99000);
	assert_code(FM_E_NOT_FOUND, fm_network_between(f->network, "h1", "nobody", &way, &err));
	/* paths and intents go by what is measured: gw's link is full */
	FM_PB(FindPathsRequest) q = FLEXIMIGRATE__V1__FIND_PATHS_REQUEST__INIT;
	q.from = (char *)"gw";
	q.to = (char *)"h1";
	q.min_bandwidth_bytes_per_s = 1;
	assert_code(FM_E_NOT_FOUND, fm_network_paths(f->network, &q, &paths, &err));
	const struct row redis = { "redis-1", "running", NULL };
	(void)compile(f, &redis, "h1", "h2", FM_E_FAILED_PRECONDITION);
}

static double twice_as_much_at_h1(void *userdata, const char *host)
{
	return fm_streq(host, "h1") ? 2 * (300 + 100) : fm_streq(host, "h2") ? 1 : NAN;
}

/* What is expected counts where it is more than what passes now, and nowhere else. */
static void test_expected_traffic(void **state)
{
	struct fixture *f = *state;
	_fm_pb_ FM_PB(GetNetworkResponse) *r = NULL;
	fm_network_set_forecast(f->network, twice_as_much_at_h1, NULL);
	report_measures(f, "h1", 300, 100, (const char *const[]){ NULL });
	report_measures(f, "h2", 50, 40, (const char *const[]){ NULL });
	report_measures(f, "gw", 200, 0, (const char *const[]){ NULL });
	assert_ok(fm_network_show(f->network, &r, &err));
	assert_int_equal(link_of(r, "h1")->utilisation_ppm, 600000);
	assert_int_equal(link_of(r, "h2")->utilisation_ppm, 50000);
	assert_int_equal(link_of(r, "gw")->utilisation_ppm, 200000);
}

/* What an operator told stays where nothing is measured, and is what is measured against. */
static void test_told_and_measured(void **state)
{
	struct fixture *f = *state;
	_fm_pb_ FM_PB(GetNetworkResponse) *r = NULL;
	const struct fm_link_measurement busy = { .latency_us = 77, .bandwidth_bytes_per_s = 1000, .utilisation_ppm = 500000 };

	assert_ok(fm_network_measure(f->network, "h2", NULL, "s2", NULL, &busy, &err));
	report_measures(f, "h1", 300, 100, (const char *const[]){ NULL });
	assert_ok(fm_network_show(f->network, &r, &err));
	const FM_PB(NetworkLink) *h1 = link_of(r, "h1"), *h2 = link_of(r, "h2");
	assert_true(h2->latency_us == 77 && h2->utilisation_ppm == 500000 && h2->n_measured == 3);
	assert_true(h1->latency_us == 10 && h1->utilisation_ppm == 300000 && h1->n_measured == 1 && h1->measured[0] == 11);
}

static void test_two_intents(void **state)
{
	struct fixture *f = *state;
	_fm_pb_ FM_PB(Container) *c = new_container(&(struct row){ "w", "running", "app=web" });
	FM_PB(Label) *label = FM_PB_NEW(Label, label);

	fm_pb_set(&label->key, "tier");
	fm_pb_set(&label->value, "1");
	FM_PB_ADD(c->labels, c->n_labels, label);
	assert_code(FM_E_FAILED_PRECONDITION, fm_network_compile(f->network, "m-1", c, "h1", "h2", 50, &(json_t *){ NULL }, &err));
	assert_non_null(strstr(err.message, "'web' and 'tier'"));
}

/* ---- questions */

static const FM_PB(NetworkNode) * node_of(const FM_PB(GetNetworkResponse) * r, const char *name)
{
	for (size_t i = 0; i < r->n_nodes; i++)
		if (fm_streq(r->nodes[i]->name, name))
			return r->nodes[i];
	fail_msg("no node %s", name);
	return NULL;
}

static void test_show(void **state)
{
	struct fixture *f = *state;
	_fm_pb_ FM_PB(GetNetworkResponse) *r = NULL;
	const FM_PB(NetworkNode) * n;

	REPORT("h1", { "redis-1", "running", NULL }, { "moving", "outgoing", NULL });
	REPORT("h2", { "moving", "incoming", NULL });
	REPORT("elsewhere", { "x", "running", NULL });
	assert_ok(fm_network_show(f->network, &r, &err));
	assert_int_equal(r->n_nodes, 6);
	assert_int_equal(r->n_links, 5);
	n = node_of(r, "h1");
	assert_string_equal(n->kind, "host");
	assert_string_equal(n->agent, "online");
	assert_true(n->described);
	assert_int_equal(n->n_containers, 2);
	assert_int_equal(node_of(r, "h2")->n_containers, 0);
	assert_string_equal(node_of(r, "gw")->agent, "");
	assert_string_equal(node_of(r, "s1")->control, "openflow unix:/run/s1");
	assert_false(node_of(r, "elsewhere")->described);
	assert_string_equal(node_of(r, "elsewhere")->containers[0], "x");
	assert_string_equal(r->links[4]->from, "s1");
	assert_string_equal(r->links[4]->to_port, "p4");
	assert_int_equal(r->links[4]->latency_us, 200);
	assert_int_equal(r->links[4]->available_bytes_per_s, 1000);
	assert_true(r->links[4]->up && !r->links[4]->directed);
	assert_int_equal(r->n_drivers, 10);
	assert_string_equal(r->drivers[0]->name, "bridge");
	assert_true(r->drivers[0]->available);
	assert_string_equal(r->drivers[6]->name, "dns");
	assert_false(r->drivers[6]->available); /* no zone is described */
}

static void test_paths(void **state)
{
	struct fixture *f = *state;
	_fm_pb_ FM_PB(FindPathsResponse) *one = NULL, *two = NULL, *wide = NULL;
	FM_PB(FindPathsRequest) req = FLEXIMIGRATE__V1__FIND_PATHS_REQUEST__INIT;
	const struct fm_link_measurement busy = {
		.latency_us = 100, .bandwidth_bytes_per_s = 1000, .utilisation_ppm = 700000, .loss_ppm = 1000
	};

	req.from = (char *)"gw";
	req.to = (char *)"h1";
	assert_ok(fm_network_measure(f->network, "s1", "p2", "s2", NULL, &busy, &err));
	assert_ok(fm_network_paths(f->network, &req, &one, &err));
	assert_int_equal(one->n_paths, 1);
	assert_int_equal(one->paths[0]->n_nodes, 4);
	assert_string_equal(one->paths[0]->nodes[2], "s2");
	assert_string_equal(one->paths[0]->links[1]->from_port, "p2");
	assert_int_equal(one->paths[0]->latency_us, 120);
	assert_int_equal(one->paths[0]->available_bytes_per_s, 300);
	assert_int_equal(one->paths[0]->loss_ppm, 1000);
	req.alternatives = 5;
	assert_ok(fm_network_paths(f->network, &req, &two, &err));
	assert_int_equal(two->n_paths, 2);
	req.alternatives = 0;
	req.widest = true;
	assert_ok(fm_network_paths(f->network, &req, &wide, &err));
	assert_string_equal(wide->paths[0]->links[1]->from_port, "p3");
	req.min_bandwidth_bytes_per_s = 2000;
	assert_code(FM_E_NOT_FOUND, fm_network_paths(f->network, &req, &(FM_PB(FindPathsResponse) *){ NULL }, &err));
	req.alternatives = 1;
	assert_code(FM_E_INVALID_ARGUMENT, fm_network_paths(f->network, &req, &(FM_PB(FindPathsResponse) *){ NULL }, &err));
	req.widest = false;
	req.alternatives = FM_MAX_PATHS + 1;
	assert_code(FM_E_INVALID_ARGUMENT, fm_network_paths(f->network, &req, &(FM_PB(FindPathsResponse) *){ NULL }, &err));
	req.to = (char *)"nowhere";
	assert_code(FM_E_NOT_FOUND, fm_network_paths(f->network, &req, &(FM_PB(FindPathsResponse) *){ NULL }, &err));
}

static const FM_PB(IntentStatus) * status_of(const FM_PB(CheckNetworkResponse) * r, const char *service)
{
	for (size_t i = 0; i < r->n_intents; i++)
		if (fm_streq(r->intents[i]->service, service))
			return r->intents[i];
	fail_msg("nothing about %s", service);
	return NULL;
}

static void test_check_and_recheck(void **state)
{
	struct fixture *f = *state;
	_fm_pb_ FM_PB(CheckNetworkResponse) *good = NULL, *bad = NULL;
	const struct fm_link_measurement busy = { .latency_us = 10, .bandwidth_bytes_per_s = 1000, .utilisation_ppm = 500000 };
	const struct fm_link_measurement idle = { .latency_us = 10, .bandwidth_bytes_per_s = 1000 };
	char said[4096] = "";
	int ends[2];

	assert_sys(pipe2(ends, O_CLOEXEC | O_NONBLOCK));
	struct fm_log *log = fm_log_new(ends[1], FM_LOG_HUMAN, FM_LOG_INFO);

	REPORT("h1", { "redis-1", "running", NULL }, { "other", "running", "a=b" });
	assert_ok(fm_network_check(f->network, &good, &err));
	assert_int_equal(good->n_intents, 3); /* redis, and two of nobody */
	assert_true(status_of(good, "redis")->met);
	assert_string_equal(status_of(good, "redis")->host, "h1");
	assert_string_equal(status_of(good, "web")->container, "");
	fm_network_recheck(f->network, log);
	assert_int_equal(read(ends[0], said, sizeof(said)), -1); /* nothing to tell */

	assert_ok(fm_network_measure(f->network, "h1", NULL, "s2", NULL, &busy, &err));
	assert_ok(fm_network_check(f->network, &bad, &err));
	assert_false(status_of(bad, "redis")->met);
	assert_int_equal(status_of(bad, "redis")->n_problems, 1);
	fm_network_recheck(f->network, log);
	fm_network_recheck(f->network, log); /* told once */
	assert_ok(fm_network_measure(f->network, "h1", NULL, "s2", NULL, &idle, &err));
	fm_network_recheck(f->network, log);
	assert_true(read(ends[0], said, sizeof(said) - 1) > 0);
	assert_string_equal(
	        said,
	        "WARN [NetworkManager]: Intent 'redis' is not met for container 'redis-1' on 'h1': no path from \"gw\" to \"h1\" has 600 "
	        "bytes/s available: the widest has 500.\n"
	        "INFO [NetworkManager]: Intent 'redis' is met again for container 'redis-1' on 'h1'.\n");
	fm_log_free(log);
	close(ends[0]);
	close(ends[1]);
}

static void test_intents(void **state)
{
	struct fixture *f = *state;
	_fm_pb_ FM_PB(ListIntentsResponse) *all = NULL;
	_fm_pb_ FM_PB(Intent) *i = NULL;

	REPORT("h1", { "redis-1", "running", NULL }, { "a", "running", "app=web" }, { "b", "running", "app=web" });
	assert_ok(fm_network_intents(f->network, &all, &err));
	assert_int_equal(all->n_intents, 3);
	assert_ok(fm_network_intent(f->network, "web", &i, &err));
	assert_string_equal(i->label, "app=web");
	assert_string_equal(i->container, "");
	assert_string_equal(i->keep, "address");
	assert_string_equal(i->isolation, "none");
	assert_int_equal(i->n_drivers, 10);
	assert_int_equal(i->n_containers, 2);
	assert_string_equal(i->containers[1], "b");
	assert_string_equal(all->intents[0]->clients[0], "gw");
	assert_code(FM_E_NOT_FOUND, fm_network_intent(f->network, "nosuch", &(FM_PB(Intent) *){ NULL }, &err));
}

/* Two services with paths of their own from gw can not both be at hosts behind its one link; one of them can be beside a service that names no clients. */
static void test_dedicated_paths(void **state)
{
	struct fixture *f = *state;
	_fm_pb_ FM_PB(CheckNetworkResponse) *r = NULL;
	const struct row mine = { "mine", "running", NULL };
	json_auto_t *alone = NULL;

	write_lab(f, ", {\"service\": \"mine\", \"container\": \"mine\", \"clients\": [\"s1\"], \"isolation\": \"dedicated-path\"}");
	fm_network_free(f->network);
	assert_ok(fm_network_open(f->path, f->fleet, &f->network, &err));
	REPORT("h1", { "mine", "running", NULL });
	alone = compile(f, &mine, "h1", "h2", FM_OK);
	assert_flows(alone, "s2 1>2");
	REPORT("h1", { "mine", "running", NULL });
	REPORT("h2", { "redis-1", "running", NULL });
	/* redis' clients come over one of the two links between the switches, and over h2's own, which mine would need */
	(void)compile(f, &mine, "h1", "h2", FM_E_FAILED_PRECONDITION);
	assert_non_null(strstr(err.message, "keeps from other services' links"));
	/* where they are now both can be: redis goes by the longer link */
	assert_ok(fm_network_check(f->network, &r, &err));
	assert_true(status_of(r, "mine")->met);
	assert_true(status_of(r, "redis")->met);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_without_a_description, setup, teardown),
		cmocka_unit_test_setup_teardown(test_files, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reload, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reload_while_asked, setup, teardown),
		cmocka_unit_test_setup_teardown(test_actions_of_a_move, setup, teardown),
		cmocka_unit_test_setup_teardown(test_where_flows_lead, setup, teardown),
		cmocka_unit_test_setup_teardown(test_measurements, setup, teardown),
		cmocka_unit_test_setup_teardown(test_agents_measure, setup, teardown),
		cmocka_unit_test_setup_teardown(test_expected_traffic, setup, teardown),
		cmocka_unit_test_setup_teardown(test_told_and_measured, setup, teardown),
		cmocka_unit_test_setup_teardown(test_two_intents, setup, teardown),
		cmocka_unit_test_setup_teardown(test_show, setup, teardown),
		cmocka_unit_test_setup_teardown(test_paths, setup, teardown),
		cmocka_unit_test_setup_teardown(test_check_and_recheck, setup, teardown),
		cmocka_unit_test_setup_teardown(test_intents, setup, teardown),
		cmocka_unit_test_setup_teardown(test_dedicated_paths, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
