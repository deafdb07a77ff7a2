/* SPDX-License-Identifier: MIT */
/*
 * rules.c - the operator's policies in PLANNING: the case is made of the fleet and the plan, the decision becomes the migration's terms, and all of it its record. Notices go out on threads of their own: whoever is told
 * of a migration never holds it up.
 */
#include "migration/rules.h"

#include <poll.h>
#include <string.h>

#include "basic/cleanup.h"
#include "loop/http.h"
#include "migration/cluster-snapshot.h"
#include "migration/coordinator-internal.h"
#include "migration/costs.h"

#define NOTICE_TIMEOUT_MS 5000
#define MAX_NOTICE_ANSWER 4096

FM_DEFINE_CLEANUP(struct fm_snapshot *, fm_snapshot_free);

/* ---------------------------------------------------------------- the record */

/* Takes the reference. */
static void keep_record(struct fm_migration *m, json_t *record)
{
	(void)json_object_set(record, "built_in", m->built_in);
	char *text = json_dumps(record, JSON_COMPACT);
	pthread_mutex_lock(&m->lock);
	fm_pb_set(&m->pb->decision, text);
	pthread_mutex_unlock(&m->lock);
	free(text);
	json_decref(record);
}

void fm_rules_denied(struct fm_migration *m, const char *policy, const struct fm_error *why)
{
	keep_record(m, json_pack("{s:b, s:s, s:s, s:I, s:[], s:{}}", "allowed", 0, "decided_by", policy, "message", why->message,
	                         "at_unix_ms", (json_int_t)fm_realtime_ms(), "policies", "variables"));
}

/* ---------------------------------------------------------------- the case */

/* What the source told just now is fresher than the fleet's picture; a container that the fleet does not list any more is added. */
static size_t put_container(struct fm_migration *m, struct fm_snapshot *s, size_t source)
{
	size_t i = fm_snapshot_container(s, m->pb->container);
	const FM_PB(Container) *facts = m->facts->container;
	struct fm_snap_container *c = i == SIZE_MAX ? fm_snapshot_add_container(s, m->pb->container, source) : &s->containers[i];
	c->host = source;
	c->nested = fm_streq(facts->kind, "nested");
	c->memory_bytes = facts->memory_bytes;
	c->processes = facts->processes;
	c->files_bytes = m->facts->rootfs_bytes;
	for (size_t k = 0; k < m->facts->n_volumes; k++)
		c->files_bytes += m->facts->volumes[k]->bytes;
	for (size_t k = 0; k < facts->n_labels; k++)
		if (!fm_snap_label(&c->labels, facts->labels[k]->key))
			fm_snap_labels_add(&c->labels, facts->labels[k]->key, facts->labels[k]->value);
	return (size_t)(c - s->containers);
}

static unsigned others_under_way(struct fm_migration *m)
{
	unsigned n = 0;
	pthread_mutex_lock(&m->c->lock);
	for (const struct fm_migration *o = m->c->active; o; o = o->next)
		n += o != m && o->queue.running;
	pthread_mutex_unlock(&m->c->lock);
	return n;
}

static int make_case(struct fm_migration *m, struct fm_snapshot *s, const struct fm_strategy_choice *choice, struct fm_policy_case *ret,
                     struct fm_error *err)
{
	size_t source = fm_snapshot_host(s, m->pb->source), destination = fm_snapshot_host(s, m->pb->destination);
	if (source == SIZE_MAX || destination == SIZE_MAX)
		return fm_error_set(err, FM_E_UNAVAILABLE, "host '%s' is gone", source == SIZE_MAX ? m->pb->source : m->pb->destination);
	*ret = (struct fm_policy_case){ .snapshot = s,
		                        .container = put_container(m, s, source),
		                        .source = source,
		                        .destination = destination,
		                        .strategy = fm_strategy_to_string(choice->strategy),
		                        .requested_strategy = fm_strategy_to_string(m->requested),
		                        .trigger = m->trigger,
		                        .predicted_downtime_ms = choice->predicted_downtime_ms,
		                        .predicted_total_ms = choice->predicted_total_ms,
		                        .predicted_wire_bytes = choice->predicted_wire_bytes,
		                        .active_migrations = others_under_way(m) };
	return 0;
}

/* ---------------------------------------------------------------- what follows from it */

static void keep_name(char *to, const char *name)
{
	(void)snprintf(to, FM_MAX_NAME, "%s", name ? name : "");
}

static void lower(unsigned *to, unsigned limit)
{
	if (limit && (*to == 0 || limit < *to))
		*to = limit;
}

static void take_terms(struct fm_terms *t, const struct fm_policy_decision *d)
{
	t->priority = d->priority;
	lower(&t->limits.global, d->limits.global);
	lower(&t->limits.per_host, d->limits.per_host); /* the built-in one holds, too */
	lower(&t->limits.per_link, d->limits.per_link);
	t->duration_s = d->duration_s;
	keep_name(t->duration_by, d->duration_by);
	keep_name(t->approval_by, d->approval_by);
	keep_name(t->balancer_by, d->balancer_by);
	for (size_t i = 0; i < d->n_notices; i++) {
		fm_strv_add(&t->notices, d->notices[i].policy);
		fm_strv_add(&t->notices, d->notices[i].url);
	}
}

static uint64_t end_of_planning_unix_ms(const FM_PB(Migration) * pb)
{
	for (size_t i = pb->n_transitions; i-- > 0;)
		if ((enum fm_state)pb->transitions[i]->to == FM_STATE_PREPARATION)
			return pb->transitions[i]->at_unix_ms;
	return 0;
}

void fm_rules_resume_duration(struct fm_migration *m)
{
	json_t *record = json_loads(m->pb->decision ? m->pb->decision : "", 0, NULL);
	json_t *effects = json_object_get(record, "effects");
	json_int_t limit_s = json_integer_value(json_object_get(effects, "migration_duration_s"));
	uint64_t began = end_of_planning_unix_ms(m->pb), now = fm_realtime_ms();
	if (limit_s > 0 && limit_s <= UINT32_MAX) {
		uint64_t limit_ms = (uint64_t)limit_s * 1000, spent_ms = now > began ? now - began : 0;
		m->terms.duration_s = (uint32_t)limit_s;
		keep_name(m->terms.duration_by, json_string_value(json_object_get(effects, "migration_duration_by")));
		m->deadline_ms = fm_now_ms() + (spent_ms < limit_ms ? limit_ms - spent_ms : 0);
		m->deadline_is_policys = true;
	}
	json_decref(record);
}

/* A policy's strategy takes the place of auto. What somebody asked for by name is not changed behind his back. */
static int take_strategy(struct fm_migration *m, const struct fm_policy_decision *d, const struct fm_workload_snapshot *w,
                         struct fm_strategy_choice *choice, struct fm_error *err)
{
	enum fm_strategy wanted = FM_STRATEGY_AUTO;
	if (!d->strategy || fm_strategy_from_string(d->strategy, &wanted, err) < 0)
		return d->strategy ? -1 : 0;
	if (wanted == FM_STRATEGY_AUTO || wanted == choice->strategy)
		return 0;
	if (m->requested != FM_STRATEGY_AUTO) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "policy '%s' wants strategy %s, asked for was %s", d->strategy_by,
		                   d->strategy, fm_strategy_to_string(m->requested));
		return fm_error_hint(err, "leave out --strategy, or change the policy");
	}
	return fm_costs_choose(m->c->costs, w, wanted, choice, err) < 0 ? fm_error_prefix(err, "policy '%s'", d->strategy_by) : 0;
}

static int denied(struct fm_migration *m, const struct fm_policy_decision *d, struct fm_error *err)
{
	const char *by = d->decided_by ? d->decided_by : "default";
	fm_mlog(m, FM_LOG_WARN, "PolicyEnforcer", "Migration request '%s' violates policy '%s'. %s.", m->id, by, d->message);
	(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "policy '%s': %s", by, d->message);
	return m->log_id[0] ? fm_error_hint(err, "'fleximigrate policy explain %s' tells how that was decided", m->id) : -1;
}

static int decide(struct fm_migration *m, const struct fm_policies *set, const struct fm_policy_case *c,
                  const struct fm_workload_snapshot *w, struct fm_strategy_choice *choice, struct fm_error *err)
{
	struct fm_policy_decision d;
	fm_policies_decide(set, c, &d);
	for (size_t i = 0; i < set->n; i++)
		fm_mlog(m, FM_LOG_INFO, "PolicyEnforcer", "Checking policy '%s'.", set->v[i]->name);
	keep_record(m, d.record);
	take_terms(&m->terms, &d);
	if (!d.allowed)
		return denied(m, &d, err);
	return take_strategy(m, &d, w, choice, err);
}

static int take_snapshot(struct fm_coordinator *c, struct fm_snapshot **ret, struct fm_error *err)
{
	const struct fm_cluster known = { .fleet = c->o.fleet, .store = c->o.store, .network = c->o.network, .costs = c->costs };
	return c->o.snapshot ? c->o.snapshot(c->o.snapshot_userdata, ret, err) : fm_cluster_snapshot(&known, ret, err);
}

int fm_rules_apply(struct fm_migration *m, const struct fm_workload_snapshot *w, struct fm_strategy_choice *choice, struct fm_error *err)
{
	static const struct fm_policies none;
	_fm_cleanup_(fm_snapshot_freep) struct fm_snapshot *s = NULL;
	struct fm_policy_case c;
	if (take_snapshot(m->c, &s, err) < 0 || make_case(m, s, choice, &c, err) < 0)
		return -1;
	const struct fm_policies *set = fm_rulebook_hold(m->c->o.policies);
	int rc = decide(m, set ? set : &none, &c, w, choice, err);
	fm_rulebook_release(m->c->o.policies);
	return rc;
}

/* ---------------------------------------------------------------- notices */

struct notice {
	struct fm_coordinator *c;
	char id[64];
	char *policy, *url, *container, *body;
};

static void notice_free(struct notice *n)
{
	free(n->policy);
	free(n->url);
	free(n->container);
	free(n->body);
	free(n);
}

static void deliver(void *arg)
{
	struct notice *n = arg;
	struct fm_error err = FM_ERROR_INIT;
	_fm_http_response_ struct fm_http_response answer = { 0 };
	const struct fm_log_fields f = { .migration_id = n->id, .container = n->container };
	struct fm_http_request r = { .method = "POST",
		                     .url = n->url,
		                     .body = n->body,
		                     .body_len = strlen(n->body),
		                     .deadline_ms = fm_now_ms() + NOTICE_TIMEOUT_MS,
		                     .cancel_fd = n->c->shutdown.fd,
		                     .max_response_bytes = MAX_NOTICE_ANSWER };
	if (fm_http_call(&r, &answer, &err) < 0 || fm_http_expect_ok(&r, &answer, &err) < 0)
		fm_log_write(n->c->o.log, FM_LOG_WARN, "PolicyEnforcer", &f, "The notice of policy '%s' could not be delivered: %s.",
		             n->policy, err.message);
	notice_free(n);
}

static void send_notice(struct fm_migration *m, const char *policy, const char *url, const char *outcome, const char *why)
{
	struct notice *n = calloc(1, sizeof(*n));
	struct fm_error err = FM_ERROR_INIT;
	json_t *body = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I}", "policy", policy, "migration", m->id, "container",
	                         m->pb->container, "source", m->pb->source, "destination", m->pb->destination, "trigger", m->trigger,
	                         "outcome", outcome, "reason", why, "at_unix_ms", (json_int_t)fm_realtime_ms());
	if (!n || !body)
		abort();
	n->c = m->c;
	(void)snprintf(n->id, sizeof(n->id), "%s", m->id);
	n->policy = fm_xstrdup(policy);
	n->url = fm_xstrdup(url);
	n->container = fm_xstrdup(m->pb->container);
	n->body = json_dumps(body, JSON_COMPACT);
	json_decref(body);
	if (fm_pool_submit(m->c->messengers, deliver, n, &err) == 0)
		return;
	fm_mlog(m, FM_LOG_WARN, "PolicyEnforcer", "The notice of policy '%s' is dropped: %s.", policy, err.message);
	notice_free(n);
}

void fm_rules_notify(struct fm_migration *m, const char *outcome, const char *why)
{
	for (char **v = m->terms.notices; v && v[0]; v += 2)
		send_notice(m, v[0], v[1], outcome, why);
}
