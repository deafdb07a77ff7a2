/* SPDX-License-Identifier: MIT */
/* test-fleet.c - what the manager knows of hosts and containers, with the real store behind it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "basic/limits.h"
#include "migration/fleet.h"
#include "migration/pb.h"

#define assert_ok(call, e)                                                                                                                 \
	do {                                                                                                                               \
		if ((call) != 0)                                                                                                           \
			fail_msg("%s: %s", #call, (e).message);                                                                            \
	} while (0)

struct fixture {
	struct fm_store *store;
	struct fm_fleet *fleet;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	*state = f;
	return fm_store_open_sqlite(":memory:", &f->store, NULL) < 0 || fm_fleet_new(f->store, &f->fleet, NULL) < 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	fm_fleet_free(f->fleet);
	fm_store_close(f->store);
	free(f);
	return 0;
}

/* "name:status" … */
static int report(struct fm_fleet *fleet, const char *host, struct fm_error *err, ...)
{
	_fm_pb_ FM_PB(ReportRequest) *r = FM_PB_NEW(ReportRequest, report_request);
	va_list ap;
	r->host = FM_PB_NEW(Host, host);
	fm_pb_set(&r->host->name, host);
	fm_pb_set(&r->host->address, "10.0.0.1:7401");
	va_start(ap, err);
	for (const char *s; (s = va_arg(ap, const char *));) {
		FM_PB(Container) *c = FM_PB_NEW(Container, container);
		_fm_free_ char *name = strndup(s, strcspn(s, ":"));
		fm_pb_set(&c->name, name);
		fm_pb_set(&c->instance, name);
		fm_pb_set(&c->status, strchr(s, ':') + 1);
		FM_PB_ADD(r->containers, r->n_containers, c);
	}
	va_end(ap);
	return fm_fleet_report(fleet, r, err);
}
#define REPORT(host, ...) assert_ok(report(f->fleet, host, &e, __VA_ARGS__), e)

static const char *where(struct fm_fleet *fleet, const char *name, char buf[64])
{
	_fm_pb_ FM_PB(Container) *c = NULL;
	(void)snprintf(buf, 64, "%s", fm_fleet_container(fleet, name, &c, NULL) == 0 ? c->host : "-");
	return buf;
}

static void test_report_and_questions(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(Host) *h = NULL, **hosts = NULL;
	FM_PB(Container) **containers = NULL;
	char address[64];
	size_t n = 0;
	assert_int_equal(fm_fleet_host(f->fleet, "alpha", &h, &e), -1);
	assert_int_equal(e.code, FM_E_NOT_FOUND);
	REPORT("alpha", "web:running", "db:running", "moving:outgoing", NULL);
	REPORT("beta", "moving:incoming", NULL);
	e = FM_ERROR_INIT;
	assert_int_equal(fm_fleet_host(f->fleet, "gamma", &h, &e), -1);
	assert_non_null(strstr(e.hint, "alpha"));
	assert_non_null(strstr(e.hint, "beta"));
	assert_ok(fm_fleet_host(f->fleet, "alpha", &h, &e), e);
	assert_string_equal(h->status, "online");
	assert_int_equal(h->containers, 2); /* what moves does not count as being there */
	assert_true(h->last_seen_unix_ms > 0);
	fm_pb_free(h);
	assert_ok(fm_fleet_hosts(f->fleet, &hosts, &n, &e), e);
	assert_int_equal(n, 2);
	for (size_t i = 0; i < n; i++)
		fm_pb_free(hosts[i]);
	free(hosts);
	assert_ok(fm_fleet_containers(f->fleet, "", &containers, &n, &e), e);
	assert_int_equal(n, 4);
	for (size_t i = 0; i < n; i++)
		fm_pb_free(containers[i]);
	free(containers);
	assert_ok(fm_fleet_containers(f->fleet, "beta", &containers, &n, &e), e);
	assert_int_equal(n, 1);
	assert_string_equal(containers[0]->host, "beta");
	fm_pb_free(containers[0]);
	free(containers);
	assert_ok(fm_fleet_agent_address(f->fleet, "beta", address, sizeof(address), &e), e);
	assert_string_equal(address, "10.0.0.1:7401");
	assert_int_equal(fm_fleet_agent_address(f->fleet, "beta", address, 4, &e), -1);
	FM_PB(Container) *c = NULL;
	assert_int_equal(fm_fleet_container(f->fleet, "moving", &c, &e), -1);
	/* the next report replaces */
	REPORT("alpha", "web:stopped", NULL);
	assert_int_equal(fm_fleet_container(f->fleet, "db", &c, &e), -1);
	assert_ok(fm_fleet_container(f->fleet, "web", &c, &e), e);
	assert_string_equal(c->status, "stopped");
	fm_pb_free(c);
}

/* Two hosts report the same name: the running resident one counts, whatever the order. */
static void test_best_of_two(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	char buf[64];
	REPORT("alpha", "web:stopped", NULL);
	REPORT("beta", "web:running", NULL);
	assert_string_equal(where(f->fleet, "web", buf), "beta");
	REPORT("alpha", "web:running", NULL);
	REPORT("beta", "web:outgoing", NULL);
	assert_string_equal(where(f->fleet, "web", buf), "alpha");
}

static void test_corrections(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	char buf[64];
	REPORT("alpha", "web:running", "db:running", NULL);
	REPORT("beta", "web:incoming", NULL);
	fm_fleet_container_moved(f->fleet, "web", "beta");
	assert_string_equal(where(f->fleet, "web", buf), "beta");
	fm_fleet_container_moved(f->fleet, "web", "beta"); /* again */
	assert_string_equal(where(f->fleet, "web", buf), "beta");
	fm_fleet_container_moved(f->fleet, "nobody", "beta");
	fm_fleet_container_gone(f->fleet, "db", "beta"); /* not there */
	assert_string_equal(where(f->fleet, "db", buf), "alpha");
	fm_fleet_container_gone(f->fleet, "db", "alpha");
	assert_string_equal(where(f->fleet, "db", buf), "-");
	_fm_pb_ FM_PB(Container) *c = FM_PB_NEW(Container, container);
	fm_pb_set(&c->name, "new");
	fm_pb_set(&c->host, "alpha");
	fm_pb_set(&c->status, "running");
	fm_fleet_container_put(f->fleet, c);
	fm_fleet_container_put(f->fleet, c);
	FM_PB(Container) **v = NULL;
	size_t n = 0;
	assert_ok(fm_fleet_containers(f->fleet, "alpha", &v, &n, &e), e);
	assert_int_equal(n, 1);
	assert_string_equal(v[0]->name, "new");
	fm_pb_free(v[0]);
	free(v);
}

/* A manager that starts again knows its fleet, but nobody is online before having reported. */
static void test_restart(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(Host) *h = NULL;
	char buf[64], long_name[64];
	memset(long_name, 'n', 63);
	long_name[63] = '\0';
	_fm_free_ char *longest = fm_xasprintf("%s:running", long_name);
	REPORT("alpha", "web:running", longest, NULL);
	fm_fleet_free(f->fleet);
	f->fleet = NULL;
	assert_ok(fm_fleet_new(f->store, &f->fleet, &e), e);
	assert_ok(fm_fleet_host(f->fleet, "alpha", &h, &e), e);
	assert_string_equal(h->status, "offline");
	assert_int_equal(h->containers, 2);
	fm_pb_free(h);
	/* the host of the report, though the containers did not name it */
	assert_string_equal(where(f->fleet, "web", buf), "alpha");
	assert_string_equal(where(f->fleet, long_name, buf), "alpha");
	REPORT("alpha", NULL);
	assert_ok(fm_fleet_host(f->fleet, "alpha", &h, &e), e);
	assert_string_equal(h->status, "online");
	fm_pb_free(h);
	assert_string_equal(where(f->fleet, "web", buf), "-");
}

/* An instance's name is longer than its container's; that may not keep the others of its host from the store. */
static void test_long_instance(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	char buf[64];
	_fm_pb_ FM_PB(ReportRequest) *r = FM_PB_NEW(ReportRequest, report_request);
	r->host = FM_PB_NEW(Host, host);
	fm_pb_set(&r->host->name, "alpha");
	for (int i = 0; i < 3; i++) {
		FM_PB(Container) *c = FM_PB_NEW(Container, container);
		_fm_free_ char *name = fm_xasprintf("%063d", i);
		_fm_free_ char *instance = fm_xasprintf("%063d.m-0123456789ab", i);
		fm_pb_set(&c->name, i ? name : "web");
		fm_pb_set(&c->instance, instance);
		fm_pb_set(&c->status, "running");
		FM_PB_ADD(r->containers, r->n_containers, c);
	}
	assert_ok(fm_fleet_report(f->fleet, r, &e), e);
	fm_fleet_free(f->fleet);
	f->fleet = NULL;
	assert_ok(fm_fleet_new(f->store, &f->fleet, &e), e);
	assert_string_equal(where(f->fleet, "web", buf), "alpha");
}

static void test_refused_reports(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(ReportRequest) r = FLEXIMIGRATE__V1__REPORT_REQUEST__INIT;
	FM_PB(Host) h = FLEXIMIGRATE__V1__HOST__INIT;
	static const char *const bad[] = { "", "../x", "a b", "a/b", "-x" };
	assert_int_equal(fm_fleet_report(f->fleet, &r, &e), -1);
	assert_int_equal(e.code, FM_E_INVALID_ARGUMENT);
	r.host = &h;
	for (size_t i = 0; i < FM_ARRAY_SIZE(bad); i++) {
		h.name = (char *)bad[i];
		assert_int_equal(fm_fleet_report(f->fleet, &r, &e), -1);
	}
	e = FM_ERROR_INIT;
	assert_int_equal(report(f->fleet, "alpha", &e, ":running", NULL), -1);
	assert_int_equal(e.code, FM_E_INVALID_ARGUMENT);
	_fm_free_ char *name = fm_xasprintf("%0200d:running", 1);
	assert_int_equal(report(f->fleet, "alpha", &e, name, NULL), -1);
	h.name = "alpha";
	r.n_containers = FM_MAX_CONTAINERS_PER_HOST + 1; /* looked at before they are */
	e = FM_ERROR_INIT;
	assert_int_equal(fm_fleet_report(f->fleet, &r, &e), -1);
	assert_int_equal(e.code, FM_E_RESOURCE_EXHAUSTED);
	FM_PB(Host) *found = NULL;
	assert_int_equal(fm_fleet_host(f->fleet, "alpha", &found, &e), -1); /* nothing of them was taken over */
}

static void test_max_hosts(void **state)
{
	struct fixture *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	char name[32];
	for (int i = 0; i < FM_MAX_HOSTS; i++) {
		(void)snprintf(name, sizeof(name), "h%d", i);
		assert_ok(report(f->fleet, name, &e, NULL), e);
	}
	assert_int_equal(report(f->fleet, "one-more", &e, NULL), -1);
	assert_int_equal(e.code, FM_E_RESOURCE_EXHAUSTED);
	assert_ok(report(f->fleet, "h7", &e, NULL), e); /* a known one goes on reporting */
}

static void *reporter(void *arg)
{
	struct fixture *f = arg;
	for (int i = 0; i < 100; i++) {
		FM_PB(Container) *c = NULL;
		(void)report(f->fleet, i % 2 ? "alpha" : "beta", NULL, "web:running", NULL);
		if (fm_fleet_container(f->fleet, "web", &c, NULL) == 0)
			fm_pb_free(c);
		fm_fleet_container_moved(f->fleet, "web", "beta");
	}
	return NULL;
}

static void test_threads(void **state)
{
	pthread_t t[4];
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&t[i], NULL, reporter, *state), 0);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_join(t[i], NULL), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = { T(test_report_and_questions), T(test_best_of_two),     T(test_corrections), T(test_restart),
		                            T(test_long_instance),        T(test_refused_reports), T(test_max_hosts),   T(test_threads) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
