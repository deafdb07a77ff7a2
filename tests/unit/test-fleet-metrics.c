/* SPDX-License-Identifier: MIT */
/* test-fleet-metrics.c - hosts and containers as metrics: what is known is there in its unit, what is not known is absent, and nothing is there twice. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "basic/limits.h"
#include "migration/pb.h"
#include "web/metrics.h"

/* The text's lines without HELP and TYPE */
static char *finish(struct fm_exposition *x)
{
	_fm_free_ char *text = NULL;
	size_t len = 0;
	struct fm_buf samples = FM_BUF_INIT;
	assert_ok(fm_exposition_take(x, &text, &len, &err));
	fm_exposition_free(x);
	fm_buf_add(&samples, "\n", 1);
	for (char *line = text, *next; *line; line = next) {
		next = strchr(line, '\n') + 1;
		if (*line != '#')
			fm_buf_add(&samples, line, (size_t)(next - line));
	}
	return samples.data;
}

static void assert_line(const char *text, const char *line)
{
	_fm_free_ char *want = fm_xasprintf("\n%s\n", line);
	const char *at = strstr(text, want);
	if (!at)
		fail_msg("no line '%s' in%s", line, text);
	else
		assert_null(strstr(at + 1, want));
}

static void assert_absent(const char *text, const char *part)
{
	const char *at = strstr(text, part);
	if (at)
		fail_msg("'%s' is there: %.80s", part, at);
}

static FM_PB(Host) * host(const char *name, const char *status)
{
	FM_PB(Host) *h = FM_PB_NEW(Host, host);
	fm_pb_set(&h->name, name);
	fm_pb_set(&h->status, status);
	return h;
}

static char *of_host(FM_PB(Host) * h)
{
	struct fm_exposition *x = fm_exposition_new(1u << 20);
	fm_web_write_hosts(x, &h, 1);
	fm_web_write_peers(x, h);
	return finish(x);
}

static void test_a_host_that_says_little(void **state)
{
	_fm_pb_ FM_PB(Host) *h = host("a", "online");
	_fm_free_ char *text = of_host(h);
	assert_line(text, "fleximigrate_host_up{host=\"a\"} 1");
	assert_line(text, "fleximigrate_host_containers{host=\"a\"} 0");
	assert_line(text, "fleximigrate_host_migration_ready{host=\"a\"} 1");
	assert_line(text, "fleximigrate_host_cordoned{host=\"a\"} 0");
	/* nothing of this is known, so nothing is zero */
	assert_absent(text, "fleximigrate_host_cpu");
	assert_absent(text, "memory");
	assert_absent(text, "_per_second");
	assert_absent(text, "timestamp");
	assert_absent(text, "load");
	assert_absent(text, "peer");
}

/* An agent does not know what the manager does about it. */
static void test_an_agents_own_host(void **state)
{
	_fm_pb_ FM_PB(Host) *h = host("a", "");
	_fm_free_ char *text = of_host(h);
	assert_line(text, "fleximigrate_host_up{host=\"a\"} 1");
	assert_absent(text, "cordoned");
	assert_absent(text, "load_state");
}

static void test_a_host_that_is_offline(void **state)
{
	_fm_pb_ FM_PB(Host) *h = host("a", "offline");
	h->last_seen_unix_ms = 1500;
	h->cpus = 4;
	fm_pb_set(&h->load, "over");
	h->usage = FM_PB_NEW(HostUsage, host_usage);
	h->usage->cpu_percent = 50;
	_fm_free_ char *text = of_host(h);
	assert_string_equal(text, "\nfleximigrate_host_up{host=\"a\"} 0\nfleximigrate_host_last_seen_timestamp_seconds{host=\"a\"} 1.5\n"
	                          "fleximigrate_host_cordoned{host=\"a\"} 0\n");
}

static void fill_usage(FM_PB(HostUsage) * u)
{
	u->at_unix_ms = 1732648530123;
	u->cpu_percent = 12.5;
	u->load1 = 0.75;
	u->swap_used_bytes = 4096;
	u->page_faults_per_s = 10.5;
	u->major_page_faults_per_s = 0;
	u->disk_read_bytes_per_s = 1;
	u->disk_write_bytes_per_s = UINT64_C(1) << 40;
	u->disk_utilisation_percent = 100;
	u->network_in_bytes_per_s = 3;
	u->network_out_bytes_per_s = 4;
	u->connections = UINT32_MAX;
	u->cpu_pressure_percent = 1.25;
	u->memory_pressure_percent = 2.5;
	u->io_pressure_percent = 5;
}

static void test_use_of_a_host(void **state)
{
	_fm_pb_ FM_PB(Host) *h = host("a", "online");
	h->cpus = 4;
	h->memory_total_bytes = 8;
	h->cordoned = true;
	fm_pb_set(&h->load, "over");
	fm_pb_set(&h->criu_problem, "there is none");
	h->usage = FM_PB_NEW(HostUsage, host_usage);
	fill_usage(h->usage);
	_fm_free_ char *text = of_host(h);
	static const char *const lines[] = {
		"fleximigrate_host_usage_timestamp_seconds{host=\"a\"} 1732648530.123",
		"fleximigrate_host_cpu_utilisation_ratio{host=\"a\"} 0.125",
		"fleximigrate_host_load1{host=\"a\"} 0.75",
		"fleximigrate_host_swap_used_bytes{host=\"a\"} 4096",
		"fleximigrate_host_page_faults_per_second{host=\"a\"} 10.5",
		"fleximigrate_host_major_page_faults_per_second{host=\"a\"} 0",
		"fleximigrate_host_disk_read_bytes_per_second{host=\"a\"} 1",
		"fleximigrate_host_disk_write_bytes_per_second{host=\"a\"} 1099511627776",
		"fleximigrate_host_disk_utilisation_ratio{host=\"a\"} 1",
		"fleximigrate_host_network_receive_bytes_per_second{host=\"a\"} 3",
		"fleximigrate_host_network_transmit_bytes_per_second{host=\"a\"} 4",
		"fleximigrate_host_connections{host=\"a\"} 4294967295",
		"fleximigrate_host_cpu_pressure_ratio{host=\"a\"} 0.0125",
		"fleximigrate_host_memory_pressure_ratio{host=\"a\"} 0.025",
		"fleximigrate_host_io_pressure_ratio{host=\"a\"} 0.05",
		"fleximigrate_host_cpus{host=\"a\"} 4",
		"fleximigrate_host_memory_total_bytes{host=\"a\"} 8",
		"fleximigrate_host_cordoned{host=\"a\"} 1",
		"fleximigrate_host_migration_ready{host=\"a\"} 0",
		"fleximigrate_host_load_state{host=\"a\",state=\"over\"} 1",
		"fleximigrate_host_load_state{host=\"a\",state=\"normal\"} 0",
		"fleximigrate_host_load_state{host=\"a\",state=\"under\"} 0",
	};
	for (size_t i = 0; i < FM_ARRAY_SIZE(lines); i++)
		assert_line(text, lines[i]);
	assert_absent(text, "capacity"); /* 0: not known */
}

/* Each field that is unknown is absent, and only it. */
static void test_unknown_use_of_a_host(void **state)
{
	size_t all = 0;
	for (uint32_t number = 0; number <= 19; number++) {
		_fm_pb_ FM_PB(Host) *h = host("a", "online");
		h->usage = FM_PB_NEW(HostUsage, host_usage);
		fill_usage(h->usage);
		h->usage->network_capacity_bytes_per_s = 9;
		h->usage->unknown = malloc(sizeof(uint32_t));
		assert_non_null(h->usage->unknown);
		h->usage->unknown[0] = number;
		h->usage->n_unknown = 1;
		_fm_free_ char *text = of_host(h);
		size_t lines = 0;
		for (const char *p = text; *p; p++)
			lines += *p == '\n';
		all = number == 0 ? lines : all;
		/* 4 and 5 are told from the host's facts; there is no field 19 of that kind */
		assert_int_equal(lines, number == 0 || number == 4 || number == 5 || number == 19 ? all : all - 1);
	}
}

static void add_peer(FM_PB(Host) * h, const char *name, uint64_t latency_us, uint32_t loss_ppm)
{
	FM_PB(PeerMeasure) *p = FM_PB_NEW(PeerMeasure, peer_measure);
	fm_pb_set(&p->host, name);
	p->latency_us = latency_us;
	p->loss_ppm = loss_ppm;
	FM_PB_ADD(h->peers, h->n_peers, p);
}

static void test_peers(void **state)
{
	_fm_pb_ FM_PB(Host) *h = host("a", "online");
	char name[16];
	add_peer(h, "b", 250, 10000);
	add_peer(h, "b", 999, 0); /* said twice: the first counts */
	add_peer(h, "c", 0, 1000000);
	_fm_free_ char *text = of_host(h);
	assert_line(text, "fleximigrate_peer_latency_seconds{host=\"a\",peer=\"b\"} 0.00025");
	assert_line(text, "fleximigrate_peer_loss_ratio{host=\"a\",peer=\"b\"} 0.01");
	assert_line(text, "fleximigrate_peer_loss_ratio{host=\"a\",peer=\"c\"} 1");
	assert_absent(text, "latency_seconds{host=\"a\",peer=\"c\"");
	assert_absent(text, "0.000999");
	for (unsigned i = 0; i < 2 * FM_MAX_WEB_PEERS; i++) {
		(void)snprintf(name, sizeof(name), "h%u", i);
		add_peer(h, name, 1, 0);
	}
	_fm_free_ char *many = of_host(h);
	assert_line(many, "fleximigrate_peer_loss_ratio{host=\"a\",peer=\"h0\"} 0");
	assert_absent(many, "peer=\"h100\"");
}

/* ---------------------------------------------------------------- containers */

struct containers {
	FM_PB(Container) * *v;
	size_t n;
};

static FM_PB(Container) * add(struct containers *c, const char *host_name, const char *name, const char *status)
{
	FM_PB(Container) *m = FM_PB_NEW(Container, container);
	fm_pb_set(&m->host, host_name);
	fm_pb_set(&m->name, name);
	fm_pb_set(&m->status, status);
	fm_pb_set(&m->kind, "nested");
	FM_PB_ADD(c->v, c->n, m);
	return m;
}

static char *of_containers(struct containers *c)
{
	struct fm_exposition *x = fm_exposition_new(64u << 20);
	fm_web_write_containers(x, c->v, c->n);
	for (size_t i = 0; i < c->n; i++) /* each of them is still there, once */
		fm_pb_free(c->v[i]);
	free(c->v);
	*c = (struct containers){ 0 };
	return finish(x);
}

static void test_containers_once_each(void **state)
{
	struct containers c = { 0 };
	add(&c, "b", "web", "outgoing");
	add(&c, "a", "web", "incoming");
	add(&c, "a", "web", "running");
	add(&c, "b", "db", "paused")->memory_limit_bytes = 7;
	add(&c, "b", "odd name\n", "running");
	add(&c, "b", "", "running");
	add(&c, "b", "strange", "dreaming");
	_fm_free_ char *text = of_containers(&c);
	assert_line(text, "fleximigrate_containers{status=\"running\"} 3");
	assert_line(text, "fleximigrate_containers{status=\"paused\"} 1");
	assert_line(text, "fleximigrate_containers{status=\"incoming\"} 1");
	assert_line(text, "fleximigrate_containers{status=\"outgoing\"} 1");
	assert_line(text, "fleximigrate_containers{status=\"stopped\"} 0");
	assert_line(text, "fleximigrate_containers{status=\"other\"} 1");
	assert_line(text, "fleximigrate_containers_left_out 2");
	assert_line(text, "fleximigrate_container_info{host=\"a\",container=\"web\",status=\"running\",kind=\"nested\",image=\"\"} 1");
	assert_line(text, "fleximigrate_container_info{host=\"b\",container=\"web\",status=\"outgoing\",kind=\"nested\",image=\"\"} 1");
	assert_line(text, "fleximigrate_container_info{host=\"b\",container=\"strange\",status=\"other\",kind=\"nested\",image=\"\"} 1");
	assert_line(text, "fleximigrate_container_processes{host=\"a\",container=\"web\"} 0");
	assert_line(text, "fleximigrate_container_memory_limit_bytes{host=\"b\",container=\"db\"} 7");
	assert_absent(text, "memory_limit_bytes{host=\"a\"");
	assert_absent(text, "odd");
	assert_absent(text, "cpu_cores");
}

static void test_use_of_a_container(void **state)
{
	struct containers c = { 0 };
	FM_PB(ContainerUsage) *u = add(&c, "a", "web", "running")->usage = FM_PB_NEW(ContainerUsage, container_usage);
	u->at_unix_ms = 2000;
	u->cpu_cores = 1.5;
	u->memory_bytes = 11;
	u->working_set_bytes = 12;
	u->dirty_bytes_per_s = 13;
	u->restarts = 3;
	u->throttled_percent = 7;
	u->unknown = malloc(2 * sizeof(uint32_t));
	assert_non_null(u->unknown);
	u->unknown[0] = 5;  /* dirty_bytes_per_s */
	u->unknown[1] = 12; /* connections */
	u->n_unknown = 2;
	_fm_free_ char *text = of_containers(&c);
	assert_line(text, "fleximigrate_container_usage_timestamp_seconds{host=\"a\",container=\"web\"} 2");
	assert_line(text, "fleximigrate_container_cpu_cores{host=\"a\",container=\"web\"} 1.5");
	assert_line(text, "fleximigrate_container_memory_bytes{host=\"a\",container=\"web\"} 11");
	assert_line(text, "fleximigrate_container_working_set_bytes{host=\"a\",container=\"web\"} 12");
	assert_line(text, "fleximigrate_container_restarts_total{host=\"a\",container=\"web\"} 3");
	assert_line(text, "fleximigrate_container_throttled_ratio{host=\"a\",container=\"web\"} 0.07");
	assert_line(text, "fleximigrate_container_threads{host=\"a\",container=\"web\"} 0");
	assert_absent(text, "dirty");
	assert_absent(text, "connections");
}

static void test_too_many_containers(void **state)
{
	for (unsigned more = 0; more < 2; more++) {
		struct containers c = { 0 };
		char name[16];
		for (unsigned i = 0; i < FM_MAX_WEB_CONTAINERS + more; i++) {
			(void)snprintf(name, sizeof(name), "c%u", i);
			add(&c, "a", name, "running");
		}
		_fm_free_ char *text = of_containers(&c);
		if (more == 0) {
			assert_line(text, "fleximigrate_container_processes{host=\"a\",container=\"c9999\"} 0");
			assert_line(text, "fleximigrate_containers_left_out 0");
		} else {
			assert_absent(text, "container=");
			assert_line(text, "fleximigrate_containers_left_out 10001");
		}
	}
}

static void test_process(void **state)
{
	struct fm_exposition *x = fm_exposition_new(1u << 16);
	fm_web_write_process(x, "1.2.3", "agent");
	_fm_free_ char *text = finish(x);
	assert_line(text, "fleximigrate_build_info{version=\"1.2.3\",role=\"agent\"} 1");
	static const char *const names[] = { "process_cpu_seconds_total",
		                             "process_start_time_seconds",
		                             "process_resident_memory_bytes",
		                             "process_virtual_memory_bytes",
		                             "process_open_fds",
		                             "process_max_fds",
		                             "process_threads" };
	for (size_t i = 0; i < FM_ARRAY_SIZE(names); i++) {
		_fm_free_ char *begin = fm_xasprintf("\n%s ", names[i]);
		const char *at = strstr(text, begin);
		if (!at && fm_streq(names[i], "process_max_fds"))
			continue; /* no limit */
		assert_non_null(at);
		assert_true(atof(at + strlen(begin)) > 0 || i == 0);
	}
	assert_line(text, "process_threads 1");
	/* within the time that this machine runs, and not in the future */
	double start = atof(strstr(text, "process_start_time_seconds ") + strlen("process_start_time_seconds "));
	assert_true(start <= (double)time(NULL) + 1 && start > (double)time(NULL) - 3600);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_host_that_says_little), cmocka_unit_test(test_a_host_that_is_offline),
		cmocka_unit_test(test_an_agents_own_host),      cmocka_unit_test(test_use_of_a_host),
		cmocka_unit_test(test_unknown_use_of_a_host),   cmocka_unit_test(test_peers),
		cmocka_unit_test(test_containers_once_each),    cmocka_unit_test(test_use_of_a_container),
		cmocka_unit_test(test_too_many_containers),     cmocka_unit_test(test_process),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
