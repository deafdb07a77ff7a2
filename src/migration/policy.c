/* SPDX-License-Identifier: MIT */
/*
 * policy.c - the Policy Enforcer: the policies that are always in force. Their names are what users see in logs; the policy language comes with the Decision Engine's own issue and joins here.
 *   placement              label "fleximigrate.migrate" = "deny" keeps a container where it is
 *   destination_readiness  the destination can restore (CRIU, runtime)
 *   destination_capacity   its available memory holds the container with a tenth to spare, its disk the root filesystem
 *   concurrency            at most max_concurrent_migrations of one host at a time
 */
#include <string.h>

#include "migration/coordinator-internal.h"

#define MAX_PER_HOST 5 /* the published example's max_concurrent_migrations */

static int placement(struct fm_migration *m, const FM_PB(Host) * dst, struct fm_error *err)
{
	if (!fm_streq(fm_pb_label(m->facts->container, "fleximigrate.migrate"), "deny"))
		return 0;
	(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "label fleximigrate.migrate=deny keeps it on '%s'", m->pb->source);
	return fm_error_hint(err, "run the container without that label to let it move");
}

static int readiness(struct fm_migration *m, const FM_PB(Host) * dst, struct fm_error *err)
{
	if (!dst->criu_problem[0])
		return 0;
	(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "host '%s' cannot restore: %s", dst->name, dst->criu_problem);
	return fm_error_hint(err, "run 'fleximigrate doctor' on '%s'", dst->name);
}

static int capacity(struct fm_migration *m, const FM_PB(Host) * dst, struct fm_error *err)
{
	char need[32], have[32];
	uint64_t memory = m->facts->container->memory_bytes + m->facts->container->memory_bytes / 10;
	if (memory > dst->memory_available_bytes)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "it needs %s of memory, '%s' has %s available",
		                    fm_format_bytes(memory, need, sizeof(need)), dst->name,
		                    fm_format_bytes(dst->memory_available_bytes, have, sizeof(have)));
	if (m->facts->rootfs_bytes > dst->disk_available_bytes)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "its root filesystem needs %s, '%s' has %s of disk available",
		                    fm_format_bytes(m->facts->rootfs_bytes, need, sizeof(need)), dst->name,
		                    fm_format_bytes(dst->disk_available_bytes, have, sizeof(have)));
	return 0;
}

static int concurrency(struct fm_migration *m, const FM_PB(Host) * dst, struct fm_error *err)
{
	unsigned n = 0;
	pthread_mutex_lock(&m->c->lock);
	for (struct fm_migration *o = m->c->active; o; o = o->next)
		n += o != m && fm_is_about(o, NULL, m->pb->source, dst->name);
	pthread_mutex_unlock(&m->c->lock);
	if (n < MAX_PER_HOST)
		return 0;
	(void)fm_error_set(err, FM_E_FAILED_PRECONDITION,
	                   "%u migrations of '%s' or '%s' are under way already (max_concurrent_migrations %d)", n, m->pb->source,
	                   dst->name, MAX_PER_HOST);
	return fm_error_hint(err, "try again when one of them is over: 'fleximigrate migration ls --active'");
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

int fm_policy_check(struct fm_migration *m, const FM_PB(Host) * destination, struct fm_error *err)
{
	for (size_t i = 0; i < FM_ARRAY_SIZE(policies); i++) {
		fm_mlog(m, FM_LOG_INFO, "PolicyEnforcer", "Checking policy '%s'.", policies[i].name);
		if (policies[i].check(m, destination, err) < 0) {
			fm_mlog(m, FM_LOG_WARN, "PolicyEnforcer", "Migration request '%s' violates policy '%s'. %s.", m->id,
			        policies[i].name, err->message);
			return fm_error_prefix(err, "policy '%s'", policies[i].name);
		}
	}
	return 0;
}
