/* SPDX-License-Identifier: MIT */
/* phase-plan.c - PENDING (is the request about things that exist?) and PLANNING (may it, where, how, what will it cost?). Nothing outside is touched. */
#include <string.h>

#include "basic/cleanup.h"
#include "decision/converge.h"
#include "migration/coordinator-internal.h"
#include "migration/costs.h"
#include "migration/redirections.h"

int fm_check_hosts(struct fm_migration *m, struct fm_error *err)
{
	_fm_pb_ FM_PB(Container) *c = NULL;
	_fm_pb_ FM_PB(Host) *src = NULL;
	_fm_pb_ FM_PB(Host) *dst = NULL;
	if (fm_fleet_container(m->c->o.fleet, m->pb->container, &c, err) < 0)
		return -1;
	pthread_mutex_lock(&m->lock);
	fm_pb_set(&m->pb->source, c->host);
	pthread_mutex_unlock(&m->lock);
	if (fm_fleet_host(m->c->o.fleet, m->pb->destination, &dst, err) < 0)
		return -1;
	if (fm_streq(c->host, m->pb->destination))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "container '%s' is on '%s' already", c->name, c->host);
	if (fm_fleet_host(m->c->o.fleet, c->host, &src, err) < 0)
		return -1;
	if (dst->cordoned) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "host '%s' is cordoned: it takes no containers", dst->name);
		return fm_error_hint(err, "'fleximigrate host uncordon %s' opens it again", dst->name);
	}
	const FM_PB(Host) * hosts[] = { src, dst };
	for (int i = 0; i < 2; i++)
		if (!fm_streq(hosts[i]->status, "online")) {
			(void)fm_error_set(err, FM_E_UNAVAILABLE, "%s host '%s' is offline", i ? "destination" : "source", hosts[i]->name);
			return fm_error_hint(err, "start the agent there: 'fleximigrate agent --name %s …'", hosts[i]->name);
		}
	return 0;
}

int fm_phase_pending(struct fm_migration *m, struct fm_error *err)
{
	fm_mlog(m, FM_LOG_INFO, "MigrationManager", "Received migration request '%s' for container '%s' to '%s'. Initial State: PENDING.",
	        m->id, m->pb->container, m->pb->destination);
	if (fm_check_cancelled(m, err) < 0 || fm_check_hosts(m, err) < 0) {
		if (fm_stopping(m))
			return -1;
		fm_mlog(m, FM_LOG_ERROR, "MigrationManager", "Initial validation failed for migration request '%s'. Reason: %s.", m->id,
		        err->message);
		return -1;
	}
	fm_mlog(m, FM_LOG_INFO, "MigrationManager", "Evaluating policies for migration request '%s'.", m->id);
	return fm_migration_transition(m, FM_STATE_PLANNING, NULL, err, FM_LOG_INFO,
	                               "Policy check passed. Transitioning: PENDING -> PLANNING.");
}

static void compat_host(const FM_PB(Host) * h, struct fm_compat_host *to)
{
	*to = (struct fm_compat_host){ .name = h->name,
		                       .kernel = h->kernel,
		                       .runtime_version = h->runtime_version,
		                       .criu_version = h->criu_version,
		                       .criu_problem = h->criu_problem,
		                       .memory_available_bytes = h->memory_available_bytes,
		                       .disk_available_bytes = h->disk_available_bytes };
	if (!h->facts)
		return;
	to->machine = h->facts->machine;
	to->cpu_vendor = h->facts->cpu_vendor;
	to->cpu_model = h->facts->cpu_model;
	to->cpu_flags = h->facts->cpu_flags;
	to->xsave_bytes = h->facts->xsave_bytes;
	to->xsave_features = h->facts->xsave_features;
	to->page_bytes = h->facts->page_bytes;
	to->cgroup_mode = h->facts->cgroup_mode;
	to->ordinary_problem = h->facts->ordinary_problem;
}

static int look_at_container(struct fm_migration *m, struct fm_error *err)
{
	FM_PB(InspectRequest) req = FLEXIMIGRATE__V1__INSPECT_REQUEST__INIT;
	req.container = m->pb->container;
	fm_pb_free(m->facts);
	m->facts = NULL;
	if (fm_call(m, m->pb->source, FM_AGENT_INSPECT, &req, FM_CALL_TIMEOUT_MS, &m->facts, err) < 0)
		return -1;
	if (!m->facts->container)
		return fm_error_set(err, FM_E_INTERNAL, "host '%s' describes no container '%s'", m->pb->source, m->pb->container);
	return 0;
}

int fm_compat_look(struct fm_migration *m, struct fm_error *err)
{
	_fm_pb_ FM_PB(Host) *src = NULL;
	_fm_pb_ FM_PB(Host) *dst = NULL;
	struct fm_compat_host from, to;
	if (look_at_container(m, err) < 0 || fm_fleet_host(m->c->o.fleet, m->pb->source, &src, err) < 0 ||
	    fm_fleet_host(m->c->o.fleet, m->pb->destination, &dst, err) < 0)
		return -1;
	if (!m->compat && !(m->compat = malloc(sizeof(*m->compat))))
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	compat_host(src, &from);
	compat_host(dst, &to);
	const struct fm_compat_container c = { .name = m->pb->container,
		                               .nested = fm_streq(m->facts->container->kind, "nested"),
		                               .ignore_cpu = fm_streq(fm_pb_label(m->facts->container, "fleximigrate.cpu"), "ignore"),
		                               .memory_bytes = m->facts->container->memory_bytes,
		                               .rootfs_bytes = m->facts->rootfs_bytes,
		                               .blockers = m->facts->blockers,
		                               .n_blockers = m->facts->n_blockers };
	fm_compat_check(&c, &from, &to, m->compat);
	return 0;
}

static int inspect(struct fm_migration *m, struct fm_error *err)
{
	if (fm_compat_look(m, err) < 0)
		return -1;
	const struct fm_compat_finding *f = fm_compat_blocker(m->compat, FM_COMPAT_CONTAINER);
	if (!f)
		return 0;
	(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "container '%s' cannot be moved: %s", m->pb->container, f->text);
	if (m->facts->n_blockers > 1)
		return fm_error_hint(err, "%zu more reasons: 'fleximigrate migrate --dry-run' lists them", m->facts->n_blockers - 1);
	return f->remedy[0] ? fm_error_hint(err, "%s", f->remedy) : -1;
}

static bool has_rounds(enum fm_strategy s)
{
	return s == FM_STRATEGY_PRE_COPY || s == FM_STRATEGY_LIVE;
}

/* The label is the default for who asks for nothing. */
static int throttle_of_label(struct fm_migration *m, struct fm_error *err)
{
	const char *label = fm_pb_label(m->facts->container, "fleximigrate.throttle");
	if (!label || m->no_throttle || m->max_throttle_percent > 0)
		return 0;
	return fm_throttle_from_string(label, &m->max_throttle_percent, err) < 0 ? fm_error_prefix(err, "label fleximigrate.throttle") : 0;
}

static int streams_of_label(struct fm_migration *m, struct fm_error *err)
{
	const char *label = fm_pb_label(m->facts->container, "fleximigrate.streams");
	if (!label || m->streams > 0)
		return 0;
	return fm_streams_from_string(label, &m->streams, err) < 0 ? fm_error_prefix(err, "label fleximigrate.streams") : 0;
}

static void add_rounds_step(const struct fm_migration *m, FM_PB(Plan) * p)
{
	p->max_throttle_percent = m->max_throttle_percent;
	p->streams = m->streams;
	_fm_free_ char *throttle =
	        p->max_throttle_percent
	                ? fm_xasprintf("; if that does not shrink, up to %u %% of its processor time are taken away step by step",
	                               p->max_throttle_percent)
	                : fm_xstrdup("");
	_fm_free_ char *rounds =
	        fm_xasprintf("send the memory in rounds while it runs, each what changed during the one before%s", throttle);
	fm_pb_add_string(&p->steps, &p->n_steps, rounds);
}

static void add_network_steps(const struct fm_migration *m, FM_PB(Plan) * p)
{
	for (size_t i = 0; i < m->pb->n_redirections; i++) {
		const FM_PB(Redirection) *r = m->pb->redirections[i];
		_fm_free_ char *step = fm_xasprintf("lead clients there: %s, by %s, opened before the freeze: %s", fm_redirection_title(r),
		                                    r->at[0] ? r->at : "the manager", r->action);
		fm_pb_add_string(&p->steps, &p->n_steps, step);
	}
}

static void keep_plan(struct fm_migration *m, const struct fm_cost_case *known, const struct fm_strategy_choice *c)
{
	FM_PB(Plan) *p = FM_PB_NEW(Plan, plan);
	p->strategy = (FM_PB(Strategy))c->strategy;
	fm_pb_set(&p->explanation, c->explanation);
	p->memory_bytes = m->facts->container->memory_bytes;
	p->predicted_downtime_ms = c->predicted_downtime_ms;
	p->predicted_total_ms = c->predicted_total_ms;
	p->predicted_wire_bytes = c->predicted_wire_bytes;
	fm_costs_keep(p, known, c);
	_fm_free_ char *parent = fm_xasprintf("prepare a %s of '%s' on '%s', its endpoint closed",
	                                      fm_streq(m->facts->container->kind, "nested") ? "parent container" : "place",
	                                      m->pb->container, m->pb->destination);
	_fm_free_ char *freeze =
	        fm_xasprintf("fence the port on '%s', freeze, checkpoint, restore on '%s'", m->pb->source, m->pb->destination);
	_fm_free_ char *commit = fm_xasprintf(
	        "commit, open the port on '%s'%s", m->pb->destination,
	        c->strategy == FM_STRATEGY_POST_COPY || c->strategy == FM_STRATEGY_LIVE ? ", fetch the remaining pages on demand" : "");
	fm_pb_add_string(&p->steps, &p->n_steps, parent);
	if (has_rounds(c->strategy))
		add_rounds_step(m, p);
	fm_pb_add_string(&p->steps, &p->n_steps, freeze);
	fm_pb_add_string(&p->steps, &p->n_steps, commit);
	add_network_steps(m, p);
	fm_pb_add_string(&p->steps, &p->n_steps, "verify from the client's side, then free the source");
	pthread_mutex_lock(&m->lock);
	fm_pb_free(m->pb->plan);
	m->pb->plan = p;
	m->pb->strategy = p->strategy;
	pthread_mutex_unlock(&m->lock);
}

/* Its agent's report has what was measured of it, which no inspection has; what was not measured there, earlier migrations may tell. */
static void look_at_it(struct fm_migration *m, const FM_PB(Host) * source, struct fm_cost_case *c)
{
	_fm_pb_ FM_PB(Container) *reported = NULL;
	bool known = fm_fleet_container(m->c->o.fleet, m->pb->container, &reported, NULL) == 0 && fm_streq(reported->host, m->pb->source);
	fm_costs_case(m->facts, known ? reported->usage : NULL, source, c);
	fm_costs_recall(m->c->costs, m->pb->container, c);
}

/* What the network's description and the agents' measurements say of it; the user's limit counts in any case. */
static void look_at_the_way(struct fm_migration *m, struct fm_cost_case *c)
{
	struct fm_network_way way;
	if (m->c->o.network && fm_network_between(m->c->o.network, m->pb->source, m->pb->destination, &way, NULL) == 0) {
		c->latency_ms = (double)way.latency_us / 1000;
		if (way.bandwidth_bytes_per_s != UINT64_MAX)
			c->bandwidth_bytes_per_s = (uint64_t)((double)way.bandwidth_bytes_per_s * (1 - way.utilisation_ppm / 1e6));
	}
	if (m->bandwidth_bytes_per_s && (!c->bandwidth_bytes_per_s || m->bandwidth_bytes_per_s < c->bandwidth_bytes_per_s))
		c->bandwidth_bytes_per_s = m->bandwidth_bytes_per_s;
}

/* Label fleximigrate.importance, 0 to 100; what is none of these is 1. */
static double importance(const FM_PB(Container) * c)
{
	const char *label = fm_pb_label(c, "fleximigrate.importance");
	int value = 1;
	return label && fm_parse_int(label, 0, 100, &value, NULL) < 0 ? 1 : value;
}

int fm_plan(struct fm_migration *m, struct fm_strategy_choice *ret, struct fm_error *err)
{
	_fm_pb_ FM_PB(Host) *src = NULL;
	_fm_pb_ FM_PB(Host) *dst = NULL;
	if (inspect(m, err) < 0 || fm_fleet_host(m->c->o.fleet, m->pb->source, &src, err) < 0 ||
	    fm_fleet_host(m->c->o.fleet, m->pb->destination, &dst, err) < 0 || fm_policy_check(m, dst, err) < 0)
		return -1;
	struct fm_workload_snapshot w = FM_WORKLOAD_UNKNOWN;
	look_at_it(m, src, &w.c);
	look_at_the_way(m, &w.c);
	w.filtered = m->facts->filtered;
	w.importance = importance(m->facts->container);
	w.destination_memory_available_bytes = dst->memory_available_bytes;
	w.max_downtime_ms = m->max_downtime_ms;
	w.max_total_ms = m->deadline_ms ? (uint64_t)fm_deadline_left_ms(m->deadline_ms) : 0;
	w.by_weights = m->c->o.strategy_by_weights;
	if (fm_costs_choose(m->c->costs, &w, m->requested, ret, err) < 0 || fm_rules_apply(m, &w, ret, err) < 0 ||
	    throttle_of_label(m, err) < 0 || streams_of_label(m, err) < 0 || fm_redirections_plan(m, ret->predicted_downtime_ms, err) < 0)
		return -1;
	keep_plan(m, &w.c, ret);
	return 0;
}

/* The plan, until nothing had to be waited for since it was made: what it was made of may have changed meanwhile. */
static int plan_to_begin(struct fm_migration *m, struct fm_strategy_choice *choice, struct fm_error *err)
{
	for (bool queued = false, waited = true; waited;) {
		if (fm_check_cancelled(m, err) < 0 || fm_plan(m, choice, err) < 0)
			return -1;
		waited = m->terms.approval_by[0] && !m->pb->approved_unix_ms;
		if (waited && fm_await_approval(m, err) < 0)
			return -1;
		if (waited || queued)
			continue;
		if (fm_queue_enter(m, &waited, err) < 0)
			return -1;
		queued = true; /* its place is kept while it is planned once more */
	}
	return 0;
}

/* From here on the time runs that a policy gives it: what it waited does not count. */
static void limit_duration(struct fm_migration *m)
{
	uint64_t end_ms = fm_now_ms() + m->terms.duration_s * 1000ull;
	if (!m->terms.duration_s || (m->deadline_ms && m->deadline_ms <= end_ms))
		return;
	m->deadline_ms = end_ms;
	m->deadline_is_policys = true;
}

int fm_phase_planning(struct fm_migration *m, struct fm_error *err)
{
	struct fm_strategy_choice choice;
	fm_migration_step(m, "planning");
	if (plan_to_begin(m, &choice, err) < 0) {
		if (!fm_stopping(m))
			fm_rules_notify(m, err->code == FM_E_FAILED_PRECONDITION ? "denied" : "failed", err->message);
		return fm_error_phase(err, "planning");
	}
	fm_rules_notify(m, "allowed", "");
	limit_duration(m);
	fm_mlog(m, FM_LOG_INFO, "DecisionEngine", "Analyzing workload and resources for '%s'. Optimal strategy: %s. %s", m->pb->container,
	        fm_strategy_to_string(choice.strategy), choice.explanation);
	fm_mlog(m, FM_LOG_INFO, "ResourceAllocator", "Allocating resources on destination '%s'.", m->pb->destination);
	return fm_migration_transition(m, FM_STATE_PREPARATION, NULL, err, FM_LOG_INFO,
	                               "Migration plan generated for '%s'. Transitioning: PLANNING -> PREPARATION.", m->pb->container);
}
