/* SPDX-License-Identifier: MIT */
/* test-planner.c - the manager carries plans out: in order, bounded, stopped by a failure, cancelled, interrupted by a restart, and unasked. Real store, fleet and coordinator; twins of two agents. */
#include "coordinator-lab.h"

#include <math.h>

#include "migration/cluster-snapshot.h"
#include "migration/planner.h"

struct plans {
	struct lab *l;
	struct fm_planner *p;
	struct fm_planner_opts o;
};

static const char *const three[] = { "web", "db", "cache", NULL };

/* A host with 10 cores and 100 GB, of which so much is used; its containers use a core each. */
static void report(struct lab *l, const char *host, const char *const *containers, double cpu_percent)
{
	FM_PB(ReportRequest) *r = FM_PB_NEW(ReportRequest, report_request);
	struct fm_error e = FM_ERROR_INIT;
	uint64_t now = fm_realtime_ms();
	r->host = FM_PB_NEW(Host, host);
	fm_pb_set(&r->host->name, host);
	fm_pb_set(&r->host->address, "127.0.0.1:7401");
	r->host->cpus = 10;
	r->host->memory_total_bytes = 100ull << 30;
	r->host->memory_available_bytes = 80ull << 30;
	r->host->disk_available_bytes = 1ull << 40;
	r->host->cordoned = true; /* not an agent's to say */
	fm_pb_set(&r->host->criu_version, "4.2");
	fm_pb_set(&r->host->runtime_version, "runc 1.1");
	r->host->usage = FM_PB_NEW(HostUsage, host_usage);
	r->host->usage->at_unix_ms = now;
	r->host->usage->cpu_percent = cpu_percent;
	for (size_t i = 0; containers && containers[i]; i++) {
		FM_PB(Container) *c = FM_PB_NEW(Container, container);
		fm_pb_set(&c->name, containers[i]);
		fm_pb_set(&c->instance, containers[i]);
		fm_pb_set(&c->status, "running");
		fm_pb_set(&c->kind, "nested");
		c->memory_bytes = 64 << 20;
		c->usage = FM_PB_NEW(ContainerUsage, container_usage);
		c->usage->at_unix_ms = now;
		c->usage->cpu_cores = 1;
		c->usage->memory_bytes = c->usage->working_set_bytes = 64 << 20;
		FM_PB_ADD(r->containers, r->n_containers, c);
	}
	assert_ok(fm_fleet_report(l->fleet, r, &e), e);
	fm_pb_free(r);
}

static int take_snapshot(void *userdata, struct fm_snapshot **ret, struct fm_error *e)
{
	struct lab *l = userdata;
	const struct fm_cluster c = { .fleet = l->fleet, .store = l->store };
	return fm_cluster_snapshot(&c, ret, e);
}

static void start(struct plans *f)
{
	struct fm_error e = FM_ERROR_INIT;
	lab_start(f->l);
	f->o.store = f->l->store;
	f->o.fleet = f->l->fleet;
	f->o.coordinator = f->l->c;
	f->o.log = f->l->log;
	f->o.snapshot = take_snapshot;
	f->o.snapshot_userdata = f->l;
	assert_ok(fm_planner_new(&f->o, &f->p, &e), e);
}

static void stop(struct plans *f)
{
	fm_planner_free(f->p);
	f->p = NULL;
	lab_stop(f->l);
}

static int setup(void **state)
{
	struct plans *f = calloc(1, sizeof(*f));
	void *lab = NULL;
	if (!f || lab_setup(&lab) < 0)
		return -1;
	f->l = lab;
	(void)twin_instance_add(f->l->t, "alpha", "db", TWIN_RUNNING);
	(void)twin_instance_add(f->l->t, "alpha", "cache", TWIN_RUNNING);
	report(f->l, "alpha", three, 40);
	report(f->l, "beta", NULL, 10);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct plans *f = *state;
	void *lab = f->l;
	fm_planner_free(f->p);
	int rc = lab_teardown(&lab);
	free(f);
	return rc;
}

static int try_plan(struct plans *f, const char *kind, const char *host, bool dry_run, unsigned max_concurrent, FM_PB(ClusterPlan) * *ret,
                    struct fm_error *e)
{
	FM_PB(PlanRequest) req = FLEXIMIGRATE__V1__PLAN_REQUEST__INIT;
	req.kind = (char *)kind;
	req.host = (char *)host;
	req.dry_run = dry_run;
	req.max_concurrent = max_concurrent;
	return fm_planner_plan(f->p, &req, ret, e);
}

static FM_PB(ClusterPlan) * plan(struct plans *f, const char *kind, const char *host, bool dry_run, unsigned max_concurrent)
{
	FM_PB(ClusterPlan) *p = NULL;
	struct fm_error e = FM_ERROR_INIT;
	assert_ok(try_plan(f, kind, host, dry_run, max_concurrent, &p, &e), e);
	return p;
}

/* Polled, as a client does. */
static FM_PB(ClusterPlan) * finish(struct plans *f, FM_PB(ClusterPlan) * p)
{
	while (p->finished_unix_ms == 0) {
		struct fm_error e = FM_ERROR_INIT;
		FM_PB(ClusterPlan) *now = NULL;
		fm_pause_ms(20);
		assert_ok(fm_planner_get(f->p, p->id, &now, &e), e);
		fm_pb_free(p);
		p = now;
	}
	return p;
}

static size_t count(const FM_PB(ClusterPlan) * p, const char *state)
{
	size_t n = 0;
	for (size_t i = 0; i < p->n_steps; i++)
		n += strcmp(p->steps[i]->state, state) == 0;
	return n;
}

static bool cordoned(struct plans *f, const char *host)
{
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(Host) *h = NULL;
	assert_ok(fm_fleet_host(f->l->fleet, host, &h, &e), e);
	bool is = h->cordoned;
	fm_pb_free(h);
	return is;
}

static void test_dry_run_changes_nothing(void **state)
{
	struct plans *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(ClusterPlan) **list = NULL;
	size_t n = 0;
	start(f);
	FM_PB(ClusterPlan) *p = plan(f, "drain", "alpha", true, 0);
	assert_int_equal(p->n_steps, 3);
	assert_string_equal(p->state, "planned");
	assert_string_equal(p->id, "");
	assert_false(cordoned(f, "alpha"));
	assert_ok(fm_planner_list(f->p, &list, &n, &e), e);
	assert_int_equal(n, 0);
	assert_int_equal(f->l->t->n_calls, 0);
	free(list);
	fm_pb_free(p);
}

static void test_drain(void **state)
{
	struct plans *f = *state;
	start(f);
	FM_PB(ClusterPlan) *p = finish(f, plan(f, "drain", "alpha", false, 0));
	assert_string_equal(p->state, "done");
	assert_true(p->complete);
	assert_int_equal(count(p, "done"), 3);
	for (int i = 0; i < 3; i++)
		assert_string_equal(twin_where(f->l->t, three[i]), "beta");
	assert_true(cordoned(f, "alpha"));
	fm_pb_free(p);
	p = finish(f, plan(f, "drain", "alpha", false, 0)); /* nothing is left to do */
	assert_string_equal(p->state, "done");
	assert_int_equal(p->n_steps, 0);
	fm_pb_free(p);
}

static void test_one_at_a_time(void **state)
{
	struct plans *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(ClusterPlan) *now = NULL;
	twin_rule_add(f->l->t, (struct twin_rule){ .host = "alpha", .method = FM_AGENT_EXECUTE, .action = TWIN_BLOCK });
	start(f);
	FM_PB(ClusterPlan) *p = plan(f, "drain", "alpha", false, 1);
	twin_await(f->l->t, "alpha Execute", 1);
	for (int i = 0; i < 5; i++) {
		fm_pause_ms(60); /* the planner looks several times, and must not begin another */
		assert_ok(fm_planner_get(f->p, p->id, &now, &e), e);
		assert_int_equal(count(now, "running"), 1);
		assert_int_equal(count(now, "waiting"), 2);
		fm_pb_free(now);
	}
	twin_lift_all(f->l->t);
	p = finish(f, p);
	assert_int_equal(count(p, "done"), 3);
	for (size_t i = 1; i < 3; i++)
		assert_true(p->steps[i]->started_unix_ms >= p->steps[i - 1]->finished_unix_ms);
	fm_pb_free(p);
}

/* Two drains at once: the second knows of the first, and each is cancelled for itself. */
static void test_two_at_once(void **state)
{
	struct plans *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(ClusterPlan) *now = NULL;
	static const char *const lone[] = { "lone", NULL };
	report(f->l, "beta", lone, 10);
	report(f->l, "gamma", NULL, 10);
	(void)twin_instance_add(f->l->t, "beta", "lone", TWIN_RUNNING);
	twin_rule_add(f->l->t, (struct twin_rule){ .host = "alpha", .method = FM_AGENT_EXECUTE, .action = TWIN_BLOCK });
	start(f);
	FM_PB(ClusterPlan) *first = plan(f, "drain", "alpha", false, 1);
	twin_await(f->l->t, "alpha Execute", 1);
	FM_PB(ClusterPlan) *again = finish(f, plan(f, "drain", "alpha", false, 1)); /* all of it is the first one's */
	assert_int_equal(again->n_steps, 0);
	assert_int_equal(again->n_will_not_make_it, 3);
	for (int i = 0; i < 3; i++) {
		assert_non_null(strstr(again->will_not_make_it[i]->why, first->id));
		assert_non_null(strstr(again->will_not_make_it[i]->why, "moves it"));
	}
	fm_pb_free(again);
	FM_PB(ClusterPlan) *second = plan(f, "drain", "beta", false, 1); /* begins while the other one waits */
	assert_int_equal(second->n_steps, 1);
	assert_string_equal(second->steps[0]->container, "lone");
	assert_string_equal(second->steps[0]->to, "gamma");
	assert_ok(fm_planner_cancel(f->p, first->id, &now, &e), e);
	fm_pb_free(now);
	second = finish(f, second);
	assert_string_equal(second->state, "done");
	assert_string_equal(twin_where(f->l->t, "lone"), "gamma");
	twin_lift_all(f->l->t);
	first = finish(f, first);
	assert_string_equal(first->state, "cancelled");
	fm_pb_free(first);
	fm_pb_free(second);
}

static void test_there_is_a_most(void **state)
{
	struct plans *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(ClusterPlan) * p[FM_MAX_PLANS_ACTIVE], *more = NULL;
	char host[16], container[16];
	twin_rule_add(f->l->t, (struct twin_rule){ .action = TWIN_BLOCK, .method = FM_AGENT_INSPECT });
	for (int i = 0; i <= FM_MAX_PLANS_ACTIVE; i++) {
		const char *const own[] = { container, NULL };
		(void)snprintf(host, sizeof(host), "h%d", i);
		(void)snprintf(container, sizeof(container), "c%d", i);
		report(f->l, host, own, 10);
	}
	start(f);
	for (int i = 0; i < FM_MAX_PLANS_ACTIVE; i++) {
		(void)snprintf(host, sizeof(host), "h%d", i);
		p[i] = plan(f, "drain", host, false, 1);
		assert_int_equal(p[i]->n_steps, 1);
	}
	(void)snprintf(host, sizeof(host), "h%d", FM_MAX_PLANS_ACTIVE);
	assert_code(try_plan(f, "drain", host, false, 1, &more, &e), e, FM_E_FAILED_PRECONDITION);
	assert_non_null(strstr(e.message, "4 plans are under way"));
	twin_lift_all(f->l->t);
	for (int i = 0; i < FM_MAX_PLANS_ACTIVE; i++)
		fm_pb_free(finish(f, p[i]));
	more = finish(f, plan(f, "drain", host, false, 1));
	fm_pb_free(more);
}

static void test_a_failure_stops_it(void **state)
{
	struct plans *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(PlanRequest) req = FLEXIMIGRATE__V1__PLAN_REQUEST__INIT;
	FM_PB(ClusterPlan) *p = NULL;
	report(f->l, "alpha", three, 88);
	twin_rule_add(f->l->t, (struct twin_rule){ .host = "beta", .method = FM_AGENT_PREPARE_DESTINATION, .action = TWIN_FAIL });
	start(f);
	req.kind = (char *)"balance";
	req.cpu_percent = 60;
	req.max_concurrent = 1;
	assert_ok(fm_planner_plan(f->p, &req, &p, &e), e);
	p = finish(f, p);
	assert_string_equal(p->state, "failed");
	assert_int_equal(count(p, "failed"), 1);
	assert_int_equal(count(p, "left"), 2);
	assert_non_null(strstr(p->reason, "was not moved from 'alpha' to 'beta'"));
	assert_non_null(strstr(p->reason, "2 steps are left"));
	for (int i = 0; i < 3; i++)
		assert_string_equal(twin_where(f->l->t, three[i]), "alpha");
	fm_pb_free(p);
}

static void test_who_can_leaves_a_drained_host(void **state)
{
	struct plans *f = *state;
	twin_rule_add(f->l->t,
	              (struct twin_rule){ .host = "beta", .method = FM_AGENT_PREPARE_DESTINATION, .action = TWIN_FAIL, .times = 1 });
	start(f);
	FM_PB(ClusterPlan) *p = finish(f, plan(f, "drain", "alpha", false, 1));
	assert_string_equal(p->state, "failed");
	assert_int_equal(count(p, "failed"), 1);
	assert_int_equal(count(p, "done"), 2);
	assert_non_null(strstr(p->reason, "was not moved from 'alpha' to 'beta'"));
	fm_pb_free(p);
}

static void test_cancel(void **state)
{
	struct plans *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(ClusterPlan) *now = NULL;
	twin_rule_add(f->l->t, (struct twin_rule){ .host = "beta", .method = FM_AGENT_PREPARE_DESTINATION, .action = TWIN_BLOCK });
	start(f);
	FM_PB(ClusterPlan) *p = plan(f, "drain", "alpha", false, 1);
	twin_await(f->l->t, "beta PrepareDestination", 1);
	assert_ok(fm_planner_cancel(f->p, p->id, &now, &e), e);
	fm_pb_free(now);
	p = finish(f, p);
	assert_string_equal(p->state, "cancelled");
	assert_int_equal(count(p, "failed"), 1);
	assert_int_equal(count(p, "left"), 2);
	assert_code(fm_planner_cancel(f->p, p->id, &now, &e), e, FM_E_FAILED_PRECONDITION);
	assert_code(fm_planner_cancel(f->p, "p-000000000000", &now, &e), e, FM_E_NOT_FOUND);
	for (int i = 0; i < 3; i++)
		assert_string_equal(twin_where(f->l->t, three[i]), "alpha");
	fm_pb_free(p);
}

static void test_a_restart_interrupts_it(void **state)
{
	struct plans *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(ClusterPlan) *now = NULL;
	twin_rule_add(f->l->t, (struct twin_rule){ .host = "alpha", .method = FM_AGENT_VERIFY, .action = TWIN_BLOCK });
	twin_rule_add(f->l->t, (struct twin_rule){ .host = "beta", .method = FM_AGENT_VERIFY, .action = TWIN_BLOCK });
	start(f);
	FM_PB(ClusterPlan) *p = plan(f, "drain", "alpha", false, 1);
	twin_await(f->l->t, "beta Verify", 1);
	stop(f);
	twin_lift_all(f->l->t);
	fm_fleet_free(f->l->fleet);
	assert_ok(fm_fleet_new(f->l->store, &f->l->fleet, &e), e);
	assert_true(cordoned(f, "alpha")); /* durable */
	report(f->l, "alpha", three, 40);
	report(f->l, "beta", NULL, 10);
	assert_true(cordoned(f, "alpha"));
	assert_false(cordoned(f, "beta"));
	start(f);
	assert_ok(fm_planner_get(f->p, p->id, &now, &e), e);
	assert_string_equal(now->state, "interrupted");
	assert_int_equal(count(now, "left"), 2);
	assert_non_null(strstr(now->reason, "1 under way go on as migrations, 2 were not begun"));
	assert_true(now->finished_unix_ms > 0);
	fm_pb_free(lab_finish(f->l, now->steps[0]->migration)); /* it does go on */
	fm_pb_free(now);
	assert_ok(fm_planner_get(f->p, p->id, &now, &e), e);
	assert_int_equal(count(now, "done"), 1);
	fm_pb_free(now);
	fm_pb_free(p);
}

static void test_cordon(void **state)
{
	struct plans *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	char id[64];
	start(f);
	assert_code(fm_fleet_cordon(f->l->fleet, "gamma", true, &e), e, FM_E_NOT_FOUND);
	assert_ok(fm_fleet_cordon(f->l->fleet, "beta", true, &e), e);
	lab_migrate(f->l, id);
	FM_PB(Migration) *m = lab_finish(f->l, id);
	assert_string_equal(m->path, "1F");
	assert_non_null(strstr(m->error_message, "cordoned"));
	fm_pb_free(m);
	FM_PB(ClusterPlan) *p = plan(f, "drain", "alpha", true, 0);
	assert_int_equal(p->n_steps, 0);
	assert_int_equal(p->n_will_not_make_it, 3);
	assert_non_null(strstr(p->will_not_make_it[0]->why, "'beta': it is cordoned"));
	fm_pb_free(p);
	assert_ok(fm_fleet_cordon(f->l->fleet, "beta", false, &e), e);
	lab_migrate(f->l, id);
	m = lab_finish(f->l, id);
	assert_int_equal(m->error_code, 0);
	fm_pb_free(m);
}

static void test_balance(void **state)
{
	struct plans *f = *state;
	report(f->l, "alpha", three, 88);
	start(f);
	FM_PB(ClusterPlan) *p = finish(f, plan(f, "balance", "", false, 0));
	assert_string_equal(p->state, "done");
	assert_true(p->complete);
	assert_int_equal(p->n_steps, 1);
	fm_pb_free(p);
}

static void test_requests_are_checked(void **state)
{
	struct plans *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(ClusterPlan) *p = NULL;
	start(f);
	assert_code(try_plan(f, "shuffle", "", true, 0, &p, &e), e, FM_E_INVALID_ARGUMENT);
	assert_code(try_plan(f, "drain", "", true, 0, &p, &e), e, FM_E_INVALID_ARGUMENT);
	assert_code(try_plan(f, "balance", "alpha", true, 0, &p, &e), e, FM_E_INVALID_ARGUMENT);
	assert_code(try_plan(f, "drain", "gamma", true, 0, &p, &e), e, FM_E_NOT_FOUND);
	assert_code(try_plan(f, "drain", "alpha", true, 1000, &p, &e), e, FM_E_INVALID_ARGUMENT);
	FM_PB(PlanRequest) req = FLEXIMIGRATE__V1__PLAN_REQUEST__INIT;
	req.kind = (char *)"balance";
	req.cpu_percent = (double)NAN;
	assert_code(fm_planner_plan(f->p, &req, &p, &e), e, FM_E_INVALID_ARGUMENT);
	req.cpu_percent = 0;
	req.deadline_ms = 1000;
	assert_code(fm_planner_plan(f->p, &req, &p, &e), e, FM_E_INVALID_ARGUMENT);
}

static void test_unasked(void **state)
{
	struct plans *f = *state;
	struct fm_error e = FM_ERROR_INIT;
	FM_PB(ClusterPlan) **list = NULL;
	size_t n = 0;
	report(f->l, "alpha", three, 88);
	f->o.proactive = true;
	f->o.proactive_period_ms = 20;
	f->o.proactive_opts.sustain_ms = 100;
	start(f);
	while (n == 0) {
		fm_pause_ms(20);
		assert_ok(fm_planner_list(f->p, &list, &n, &e), e);
		if (n == 0)
			free(list);
	}
	assert_string_equal(list[0]->kind, "proactive");
	FM_PB(ClusterPlan) *p = finish(f, list[0]);
	free(list);
	assert_string_equal(p->state, "done");
	assert_int_equal(p->n_steps, 2); /* to 70 %: under the threshold less the margin */
	for (int i = 0; i < 10; i++) {   /* the host's last report still says 88 %: it is left alone for a while, whatever it says */
		fm_pause_ms(30);
		assert_ok(fm_planner_list(f->p, &list, &n, &e), e);
		assert_int_equal(n, 1);
		fm_pb_free(list[0]);
		free(list);
	}
	fm_pb_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_dry_run_changes_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_drain, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_at_a_time, setup, teardown),
		cmocka_unit_test_setup_teardown(test_two_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_there_is_a_most, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_failure_stops_it, setup, teardown),
		cmocka_unit_test_setup_teardown(test_who_can_leaves_a_drained_host, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cancel, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_restart_interrupts_it, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cordon, setup, teardown),
		cmocka_unit_test_setup_teardown(test_balance, setup, teardown),
		cmocka_unit_test_setup_teardown(test_requests_are_checked, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unasked, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
