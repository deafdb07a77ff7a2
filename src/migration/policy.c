/* SPDX-License-Identifier: MIT */
/*
 * policy.c - the Policy Enforcer: the policies that are always in force. Their names are what users see in logs. Those that an operator writes come after them (rules.c).
 *   placement              label "fleximigrate.migrate" = "deny" keeps a container where it is
 *   destination_readiness  the destination can restore it (CRIU, processor, architecture; decision/compat.h)
 *   destination_capacity   its available memory holds the container with a tenth to spare, its disk the root filesystem
 *   concurrency            at most max_concurrent_migrations of one host at a time; what is more waits in the queue (queue.c)
 */
#include <string.h>

#include "basic/cleanup.h"
#include "migration/coordinator-internal.h"

#define MAX_PER_HOST 5 /* the published example's max_concurrent_migrations */

static int placement(struct fm_migration *m, const FM_PB(Host) * dst, struct fm_error *err)
{
	if (!fm_streq(fm_pb_label(m->facts->container, "fleximigrate.migrate"), "deny"))
		return 0;
	(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "label fleximigrate.migrate=deny keeps it on '%s'", m->pb->source);
	return fm_error_hint(err, "run the container without that label to let it move");
}

/* What the user asked for; nobody else does. */
static int has_runtime(const struct fm_migration *m, const FM_PB(Host) * dst, struct fm_error *err)
{
	const char *asked = m->pb->requested_runtime;
	_fm_free_ char *names = fm_xstrdup("none");
	if (!asked || !asked[0])
		return 0;
	for (size_t i = 0; i < dst->n_runtimes; i++) {
		const FM_PB(HostRuntime) *r = dst->runtimes[i];
		if (fm_streq(r->name, asked) && !r->problem[0])
			return 0;
		if (fm_streq(r->name, asked))
			return fm_error_set(err, FM_E_FAILED_PRECONDITION, "runtime '%s' of '%s' cannot be used: %s", asked, dst->name,
			                    r->problem);
		char *more = fm_xasprintf("%s%s%s", i ? names : "", i ? ", " : "", r->name);
		free(names);
		names = more;
	}
	return fm_error_set(err, FM_E_FAILED_PRECONDITION, "host '%s' has no runtime '%s', only %s", dst->name, asked, names);
}

/* What compat.h says of it; the remedy becomes the hint. */
static int gate(const struct fm_migration *m, enum fm_compat_part part, struct fm_error *err)
{
	const struct fm_compat_finding *f = fm_compat_blocker(m->compat, part);
	if (!f)
		return 0;
	(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "%s", f->text);
	return f->remedy[0] ? fm_error_hint(err, "%s", f->remedy) : -1;
}

static int readiness(struct fm_migration *m, const FM_PB(Host) * dst, struct fm_error *err)
{
	return gate(m, FM_COMPAT_READINESS, err) < 0 ? -1 : has_runtime(m, dst, err);
}

static int capacity(struct fm_migration *m, const FM_PB(Host) * dst, struct fm_error *err)
{
	return gate(m, FM_COMPAT_CAPACITY, err);
}

static int concurrency(struct fm_migration *m, const FM_PB(Host) * dst, struct fm_error *err)
{
	m->terms.limits.per_host = MAX_PER_HOST;
	return 0;
}

static const struct {
	const char *name;
	int (*check)(struct fm_migration *m, const FM_PB(Host) * dst, struct fm_error *err);
} policies[] = {
	{ "placement", placement },
	{ "destination_readiness", readiness },
	{ "destination_capacity", capacity },
	{ "concurrency", concurrency },
};

static void note(struct fm_migration *m, const char *policy, const char *verdict, const char *reason)
{
	(void)json_array_append_new(m->built_in, json_pack("{s:s, s:s, s:s}", "name", policy, "verdict", verdict, "reason", reason));
}

int fm_policy_check(struct fm_migration *m, const FM_PB(Host) * destination, struct fm_error *err)
{
	json_decref(m->built_in);
	m->built_in = json_array();
	fm_strv_free(m->terms.notices);
	m->terms = (struct fm_terms){ .priority = FM_PRIORITY_NORMAL };
	for (size_t i = 0; i < FM_ARRAY_SIZE(policies); i++) {
		fm_mlog(m, FM_LOG_INFO, "PolicyEnforcer", "Checking policy '%s'.", policies[i].name);
		if (policies[i].check(m, destination, err) < 0) {
			note(m, policies[i].name, "deny", err->message);
			fm_rules_denied(m, policies[i].name, err);
			fm_mlog(m, FM_LOG_WARN, "PolicyEnforcer", "Migration request '%s' violates policy '%s'. %s.", m->id,
			        policies[i].name, err->message);
			return fm_error_prefix(err, "policy '%s'", policies[i].name);
		}
		note(m, policies[i].name, "none", "nothing against it");
	}
	return 0;
}
