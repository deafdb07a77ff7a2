/* SPDX-License-Identifier: MIT */
/* test-usage.c - figures to messages and back, what is believed of a report, the history with its store, and the snapshot of the real fleet. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "basic/clock.h"
#include "basic/limits.h"
#include "migration/cluster-snapshot.h"
#include "migration/pb.h"
#include "migration/usage.h"
#include "migration/usage-history.h"

#define STEP FM_SERIES_LONG_STEP_MS

static void test_messages(void **state)
{
	struct fm_host_usage u, back;
	struct fm_container_usage c, c_back;

	fm_host_usage_unknown(&u);
	assert_null(fm_usage_host_message(&u)); /* nothing was measured */
	u.at_unix_ms = 5;
	u.cpu_percent = 12.5;
	u.connections = 0;
	u.memory_total_bytes = 1ull << 40;
	_fm_pb_ FM_PB(HostUsage) *m = fm_usage_host_message(&u);
	assert_true(m->cpu_percent == 12.5 && m->n_unknown == 14);
	_fm_pb_ FM_PB(HostUsage) *copy = fm_pb_copy(m);
	fm_usage_host_figures(copy, &back);
	assert_memory_equal(&back.cpu_percent, &u.cpu_percent, sizeof(double));
	assert_true(back.connections == 0 && back.memory_total_bytes == 1ull << 40 && isnan(back.load1) &&
	            back.memory_available_bytes == FM_USAGE_UNKNOWN && back.at_unix_ms == 5);
	fm_usage_host_figures(NULL, &back);
	assert_true(isnan(back.cpu_percent) && back.at_unix_ms == 0);
	fm_container_usage_unknown(&c);
	c.at_unix_ms = 6;
	c.dirty_bytes_per_s = 7;
	c.throttled_percent = 0;
	c.restarts = 3;
	_fm_pb_ FM_PB(ContainerUsage) *cm = fm_usage_container_message(&c);
	fm_usage_container_figures(cm, &c_back);
	assert_true(c_back.dirty_bytes_per_s == 7 && c_back.throttled_percent == 0 && c_back.restarts == 3 && isnan(c_back.cpu_cores) &&
	            c_back.threads == FM_USAGE_UNKNOWN);
}

/* What cannot be is not known; the rest stays. */
static void test_impossible_figures(void **state)
{
	const double impossible[] = { NAN, INFINITY, -INFINITY, -0.1, 100.5, 1e300 };
	struct fm_host_usage u;

	for (size_t i = 0; i < FM_ARRAY_SIZE(impossible); i++) {
		_fm_pb_ FM_PB(Host) *h = FM_PB_NEW(Host, host);
		h->usage = FM_PB_NEW(HostUsage, host_usage);
		h->usage->at_unix_ms = 1;
		h->usage->cpu_percent = impossible[i];
		h->usage->load1 = 3;
		h->usage->network_in_bytes_per_s = UINT64_MAX - 1;
		h->cordoned = true;
		fm_pb_set(&h->load, "under");
		fm_usage_check_host(h);
		fm_usage_host_figures(h->usage, &u);
		assert_true(isnan(u.cpu_percent) && u.load1 == 3 && u.network_in_bytes_per_s == FM_USAGE_UNKNOWN &&
		            u.network_out_bytes_per_s == 0);
		assert_true(!h->cordoned && !h->load[0]);
	}
}

static void test_too_much(void **state)
{
	_fm_pb_ FM_PB(Host) *h = FM_PB_NEW(Host, host);
	char name[300];

	for (int i = 0; i < 2 * FM_MAX_LABELS; i++) {
		FM_PB(Label) *l = FM_PB_NEW(Label, label);
		fm_pb_set(&l->key, i % 4 ? "k" : "");
		FM_PB_ADD(h->labels, h->n_labels, l);
	}
	for (int i = 0; i < 2 * FM_MAX_PEERS; i++) {
		FM_PB(PeerMeasure) *p = FM_PB_NEW(PeerMeasure, peer_measure);
		fm_pb_set(&p->host, i == 1 ? "../x" : "b");
		p->loss_ppm = i == 2 ? 1000001 : 5;
		p->latency_us = i == 3 ? UINT64_MAX : 5;
		FM_PB_ADD(h->peers, h->n_peers, p);
	}
	memset(name, 'x', sizeof(name));
	name[sizeof(name) - 1] = '\0';
	fm_pb_add_string(&h->images, &h->n_images, name);
	for (int i = 0; i < 2 * FM_MAX_IMAGES; i++)
		fm_pb_add_string(&h->images, &h->n_images, "i");
	h->echo_port = 70000;
	fm_usage_check_host(h);
	assert_int_equal(h->n_labels, FM_MAX_LABELS);
	assert_int_equal(h->n_peers, FM_MAX_PEERS);
	for (size_t i = 0; i < h->n_peers; i++)
		assert_true(fm_streq(h->peers[i]->host, "b") && h->peers[i]->loss_ppm == 5);
	assert_int_equal(h->n_images, FM_MAX_IMAGES);
	assert_int_equal(h->echo_port, 0);
}

/* ---------------------------------------------------------------- history and snapshot */

struct fixture {
	struct fm_store *store;
	struct fm_fleet *fleet;
	struct fm_usage_history *history;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	assert_ok(fm_store_open_sqlite(":memory:", &f->store, &err));
	assert_ok(fm_fleet_new(f->store, &f->fleet, &err));
	assert_ok(fm_usage_history_new(f->store, NULL, NULL, &f->history, &err));
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fm_usage_history_free(f->history);
	fm_fleet_free(f->fleet);
	fm_store_close(f->store);
	free(f);
	return 0;
}

/* Host `host` at cpu percent, with a container that uses cpu / 10 cores. */
static FM_PB(ReportRequest) * report_of(const char *host, double cpu, const char *container, const char *status)
{
	FM_PB(ReportRequest) *r = FM_PB_NEW(ReportRequest, report_request);
	struct fm_host_usage u;
	struct fm_container_usage c;

	r->host = FM_PB_NEW(Host, host);
	fm_pb_set(&r->host->name, host);
	fm_pb_set(&r->host->stream_address, "127.0.0.1");
	fm_pb_set(&r->host->runtime_version, "runc");
	r->host->cpus = 4;
	r->host->memory_total_bytes = 1000;
	r->host->memory_available_bytes = 600;
	r->host->echo_port = 7401;
	fm_host_usage_unknown(&u);
	u.at_unix_ms = 1;
	u.cpu_percent = cpu;
	u.memory_total_bytes = 1000;
	u.memory_available_bytes = 600;
	u.network_capacity_bytes_per_s = 1000;
	u.network_in_bytes_per_s = 100;
	u.network_out_bytes_per_s = 250;
	r->host->usage = fm_usage_host_message(&u);
	fm_container_usage_unknown(&c);
	c.at_unix_ms = 1;
	c.cpu_cores = cpu / 10;
	c.memory_bytes = 50;
	if (container) {
		FM_PB(Container) *m = FM_PB_NEW(Container, container);
		fm_pb_set(&m->name, container);
		fm_pb_set(&m->instance, container);
		fm_pb_set(&m->status, status);
		fm_pb_set(&m->kind, "nested");
		m->usage = fm_usage_container_message(&c);
		FM_PB_ADD(r->containers, r->n_containers, m);
	}
	return r;
}

static void report(struct fixture *f, const char *host, double cpu, const char *container, const char *status, uint64_t now_ms)
{
	_fm_pb_ FM_PB(ReportRequest) *r = report_of(host, cpu, container, status);

	fm_usage_history_report(f->history, r, now_ms);
}

static void reopen(struct fixture *f, bool clean)
{
	struct fm_usage_history *again = NULL;

	if (clean)
		fm_usage_history_free(f->history); /* writes */
	assert_ok(fm_usage_history_new(f->store, NULL, NULL, &again, &err));
	if (!clean) /* as after a crash: what was not written is not there */
		fm_usage_history_free(f->history);
	f->history = again;
}

static double five(struct fixture *f, bool host, const char *name, uint64_t at_ms)
{
	struct fm_series s;

	if (!(host ? fm_usage_history_host : fm_usage_history_container)(f->history, name, FM_USAGE_CPU, &s))
		return -1;
	return (double)fm_ring_at(&s.fives, at_ms / STEP);
}

static void test_history_survives(void **state)
{
	struct fixture *f = *state;
	/* three steps of an hour that is not over, so that all is in one record whatever the time is */
	uint64_t t = (fm_realtime_ms() / 3600000 - 2) * 3600000;

	for (int i = 0; i < 3; i++) {
		report(f, "a", 10 * (i + 1), "c", "running", t + (uint64_t)i * STEP);
		report(f, "a", 10 * (i + 1) + 2, "c", "running", t + (uint64_t)i * STEP + 1000);
	}
	report(f, "b", 99, "c", "incoming", t + 2 * STEP); /* does not count */
	assert_true(five(f, true, "a", t) == 11 && five(f, true, "a", t + STEP) == 21 && fabs(five(f, false, "c", t) - 1.1) < 0.001);
	reopen(f, false); /* the third step was not complete */
	assert_true(five(f, true, "a", t) == 11 && five(f, true, "a", t + STEP) == 21);
	assert_true(fabs(five(f, false, "c", t + STEP) - 2.1) < 0.001);
	assert_true(five(f, true, "b", t + 2 * STEP) == -1 || isnan(five(f, true, "b", t)));
	report(f, "b", 50, "c", "running", t + 4 * STEP); /* it has moved: its past comes along */
	reopen(f, true);
	assert_true(fabs(five(f, false, "c", t) - 1.1) < 0.001 && five(f, false, "c", t + 4 * STEP) == 5);
}

static int count(void *userdata, const char *kind, const char *name, const void *blob, size_t len, uint64_t at_ms)
{
	++*(size_t *)userdata;
	return 0;
}

static void test_history_is_bounded(void **state)
{
	struct fixture *f = *state;
	uint64_t now = fm_realtime_ms() / STEP * STEP;
	size_t records = 0;

	for (uint64_t t = now - 60 * 3600000ull; t <= now; t += STEP) /* 60 hours */
		report(f, "a", 1, "c", "running", t);
	assert_ok(fm_store_record_each(f->store, "usage", count, &records, &err));
	assert_in_range(records, 47, 51);
	assert_true(five(f, true, "a", now - 49 * 3600000ull) != 1 && five(f, true, "a", now - 47 * 3600000ull) == 1);
}

static void test_damaged_records(void **state)
{
	struct fixture *f = *state;
	static const uint8_t nonsense[] = { 0xff, 0xff, 0x01 };
	_fm_pb_ FM_PB(UsageRecord) *r = FM_PB_NEW(UsageRecord, usage_record);
	uint8_t b[4096];
	uint64_t hour = fm_realtime_ms() / 3600000;

	assert_ok(fm_store_record_keep(f->store, "usage", "a@1", 1, nonsense, sizeof(nonsense), &err));
	r->from_unix_ms = hour * 3600000;
	r->step_ms = STEP;
	r->kinds = _FM_USAGE_KINDS;
	FM_PB(UsageSeries) *s = FM_PB_NEW(UsageSeries, usage_series);
	s->host = true;
	fm_pb_set(&s->name, "a");
	s->n_values = 400; /* more than an hour has */
	s->values = calloc(s->n_values, sizeof(float));
	for (size_t i = 0; i < s->n_values; i++)
		s->values[i] = i < 4 ? 7 : -1;
	FM_PB_ADD(r->series, r->n_series, s);
	assert_true(protobuf_c_message_get_packed_size(&r->base) < sizeof(b));
	assert_ok(fm_store_record_keep(f->store, "usage", "a@2", 1, b, protobuf_c_message_pack(&r->base, b), &err));
	reopen(f, true);
	assert_true(five(f, true, "a", hour * 3600000) == 7 && isnan(five(f, true, "a", hour * 3600000 + STEP)));
}

static void test_verdict(void **state)
{
	struct fixture *f = *state;
	_fm_pb_ FM_PB(Host) *h = FM_PB_NEW(Host, host);
	struct fm_load_limits quick = FM_LOAD_LIMITS_DEFAULT;

	quick.over_ms = 0;
	fm_usage_history_free(f->history);
	assert_ok(fm_usage_history_new(f->store, &quick, NULL, &f->history, &err));
	fm_pb_set(&h->name, "a");
	fm_usage_history_load(f->history, h);
	assert_string_equal(h->load, "");
	report(f, "a", 50, NULL, NULL, fm_realtime_ms());
	fm_usage_history_load(f->history, h);
	assert_string_equal(h->load, "normal");
	for (int i = 0; i < 20; i++)
		report(f, "a", 100, NULL, NULL, fm_realtime_ms());
	fm_usage_history_load(f->history, h);
	assert_string_equal(h->load, "over");
	assert_non_null(strstr(h->load_reason, "processor"));
	assert_code(FM_E_INVALID_ARGUMENT,
	            fm_usage_history_new(f->store, &(struct fm_load_limits){ 0 }, NULL, &(struct fm_usage_history *){ NULL }, &err));
}

/* To the fleet and to the history, as the manager's service does. */
static void take(struct fixture *f, FM_PB(ReportRequest) * r)
{
	assert_ok(fm_fleet_report(f->fleet, r, &err));
	fm_usage_history_report(f->history, r, fm_realtime_ms());
	fm_pb_free(r);
}

static void add_peer(FM_PB(ReportRequest) * r, const char *host, uint64_t latency_us, uint32_t loss_ppm)
{
	FM_PB(PeerMeasure) *p = FM_PB_NEW(PeerMeasure, peer_measure);

	fm_pb_set(&p->host, host);
	p->latency_us = latency_us;
	p->loss_ppm = loss_ppm;
	FM_PB_ADD(r->host->peers, r->host->n_peers, p);
}

static double a_tenth_more(void *userdata, bool host, const char *name, enum fm_usage_kind kind, const struct fm_series *past)
{
	return kind == FM_USAGE_CPU ? fm_ring_mean(&past->recent, 0) * 1.1 : NAN;
}

static void test_snapshot(void **state)
{
	struct fixture *f = *state;
	const struct fm_cluster c = { .fleet = f->fleet, .store = f->store, .history = f->history };
	const struct fm_snapshot_predictor p = { .predict = a_tenth_more };
	FM_PB(ReportRequest) *r = report_of("a", 40, "web", "running");
	struct fm_snapshot *s = NULL;

	add_peer(r, "b", 1500, 20000);
	add_peer(r, "gone", 900000, 1000000); /* nobody whom the manager knows */
	FM_PB(Label) *l = FM_PB_NEW(Label, label);
	fm_pb_set(&l->key, "zone");
	fm_pb_set(&l->value, "1");
	FM_PB_ADD(r->host->labels, r->host->n_labels, l);
	take(f, r);
	take(f, report_of("b", 20, "db", "running"));
	take(f, report_of("c", 30, "web", "incoming"));
	assert_ok(fm_cluster_snapshot(&c, &s, &err));
	assert_int_equal(s->n_hosts, 3);
	assert_int_equal(s->n_containers, 2); /* web is where it leaves */
	const struct fm_snap_host *a = &s->hosts[fm_snapshot_host(s, "a")];
	assert_true(a->online && a->can_restore && a->cpus == 4 && fabs(a->cpu_percent - 40) < 0.01 && fabs(a->memory_percent - 40) < 0.01);
	assert_true(isnan(a->cpu_predicted_percent) && isnan(a->io_pressure_percent) && a->latency_ms == 1.5 && a->loss_percent == 2);
	assert_string_equal(fm_snap_label(&a->labels, "zone"), "1");
	const struct fm_snap_container *web = &s->containers[fm_snapshot_container(s, "web")];
	assert_true(web->host == fm_snapshot_host(s, "a") && web->nested && !web->moving && fabs(web->cpu_cores - 4) < 0.01 &&
	            web->memory_bytes == 50);
	assert_true(web->dirty_bytes_per_s == FM_UNKNOWN && web->disk_bytes_per_s == FM_UNKNOWN && web->last_moved_unix_ms == 0);
	const struct fm_snap_link *way = fm_snapshot_link(s, fm_snapshot_host(s, "a"), fm_snapshot_host(s, "b"));
	assert_true(way && way->latency_ms == 1.5 && way->bandwidth_bytes_per_s == 1000 && way->utilisation_percent == 25);
	assert_int_equal(s->n_links, 1); /* of the others nothing is known */
	_fm_free_ char *json = fm_snapshot_to_json(s);
	fm_snapshot_free(s);
	assert_ok(fm_snapshot_parse(json, strlen(json), &s, &err)); /* is what everybody reads */
	fm_snapshot_free(s);
	assert_ok(fm_cluster_snapshot_predicted(&c, &p, &s, &err));
	assert_true(fabs(s->hosts[fm_snapshot_host(s, "a")].cpu_predicted_percent - 44) < 0.01);
	assert_true(fabs(s->containers[fm_snapshot_container(s, "web")].cpu_predicted_cores - 4.4) < 0.01);
	fm_snapshot_free(s);
}

/* A forecast that was made of quiet times: what has come since is added, and what has gone is not taken off. */
static void test_forecasts_lag_behind(void **state)
{
	struct fixture *f = *state;
	const struct fm_cluster c = { .fleet = f->fleet, .store = f->store, .history = f->history };
	const struct fm_snapshot_predictor p = { .predict = a_tenth_more };
	const double last[] = { 20, 39, 90 }, expected[] = { 44 + 20, 44 + 1, 44 };
	const char *const hosts[] = { "a", "b", "c" }, *const containers[] = { "ca", "cb", "cc" };
	struct fm_snapshot *s = NULL;
	uint64_t before = fm_realtime_ms() - STEP;

	for (size_t i = 0; i < 3; i++) {
		report(f, hosts[i], last[i], containers[i], "running", before);
		take(f, report_of(hosts[i], 40, containers[i], "running"));
	}
	assert_ok(fm_cluster_snapshot_predicted(&c, &p, &s, &err));
	for (size_t i = 0; i < 3; i++) {
		double cores = s->containers[fm_snapshot_container(s, containers[i])].cpu_predicted_cores;
		assert_true(fabs(s->hosts[fm_snapshot_host(s, hosts[i])].cpu_predicted_percent - expected[i]) < 0.01);
		assert_true(fabs(cores - expected[i] / 10) < 0.01);
	}
	fm_snapshot_free(s);
	report(f, "a", 0, "ca", "running", fm_realtime_ms() - 2 * STEP); /* older than the last whole step: changes nothing */
	take(f, report_of("a", 100, "ca", "running"));
	assert_ok(fm_cluster_snapshot_predicted(&c, &p, &s, &err));
	assert_true(s->hosts[fm_snapshot_host(s, "a")].cpu_predicted_percent <= 100); /* more there is not */
	fm_snapshot_free(s);
}

static void test_moves_in_snapshot(void **state)
{
	struct fixture *f = *state;
	const struct fm_cluster c = { .fleet = f->fleet, .store = f->store, .history = NULL };
	struct fm_store_migration m = {
		.id = "m-1", .container = "web", .source = "a", .destination = "b", .strategy = "cold", .state = 1, .path = ""
	};
	struct fm_snapshot *s = NULL;
	uint32_t epoch;

	take(f, report_of("a", 40, "web", "running"));
	assert_ok(fm_store_migration_create(f->store, &m, &epoch, &err));
	assert_ok(fm_cluster_snapshot(&c, &s, &err));
	assert_true(s->containers[0].moving && s->containers[0].last_moved_unix_ms == 0);
	fm_snapshot_free(s);
	m.state = 6;
	m.finished_ms = 777;
	assert_ok(fm_store_migration_transition(f->store, 1, &m, "", "", &err));
	assert_ok(fm_cluster_snapshot(&c, &s, &err));
	assert_true(!s->containers[0].moving && s->containers[0].last_moved_unix_ms == 777);
	fm_snapshot_free(s);
}

/* Whose way is measured: those that answer, the others of the cluster; a cordon is the manager's. */
static void test_peers(void **state)
{
	struct fixture *f = *state;
	FM_PB(ReportRequest) *mute = report_of("mute", 1, NULL, NULL);
	_fm_pb_ FM_PB(ReportResponse) *r = FM_PB_NEW(ReportResponse, report_response), *many = FM_PB_NEW(ReportResponse, report_response);
	char name[16];

	mute->host->echo_port = 0;
	take(f, report_of("a", 1, NULL, NULL));
	take(f, mute);
	take(f, report_of("b", 1, NULL, NULL));
	fm_fleet_peers(f->fleet, "a", r);
	assert_int_equal(r->n_peers, 1);
	assert_string_equal(r->peers[0]->host, "b");
	assert_string_equal(r->peers[0]->address, "127.0.0.1:7401");
	assert_int_equal(r->peer_key.len, 32);
	for (int i = 0; i < 2 * FM_MAX_PEERS; i++) {
		(void)snprintf(name, sizeof(name), "h%d", i);
		take(f, report_of(name, 1, NULL, NULL));
	}
	fm_fleet_peers(f->fleet, "h5", many);
	assert_int_equal(many->n_peers, FM_MAX_PEERS);
	assert_string_equal(many->peers[0]->host, "h6");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_messages),
		cmocka_unit_test(test_impossible_figures),
		cmocka_unit_test(test_too_much),
		cmocka_unit_test_setup_teardown(test_history_survives, setup, teardown),
		cmocka_unit_test_setup_teardown(test_history_is_bounded, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damaged_records, setup, teardown),
		cmocka_unit_test_setup_teardown(test_verdict, setup, teardown),
		cmocka_unit_test_setup_teardown(test_snapshot, setup, teardown),
		cmocka_unit_test_setup_teardown(test_forecasts_lag_behind, setup, teardown),
		cmocka_unit_test_setup_teardown(test_moves_in_snapshot, setup, teardown),
		cmocka_unit_test_setup_teardown(test_peers, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
