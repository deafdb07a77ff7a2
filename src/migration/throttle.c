/* SPDX-License-Identifier: MIT */
/*
 * throttle.c - slowing the container down on the source while rounds do not shrink (rounds.c decides when): the processor time of its cgroup is limited to a part of what it used before.
 *
 * The quota that it had is on record before the first change, so that whoever comes after us can put it back. It is lifted just before the fence, by every way of giving up, and by a restarted agent.
 * Nothing of it travels: the destination's quota comes from config.json, and CRIU is told to leave cgroups alone.
 */
#include "container/cgroup.h"

#include <unistd.h>

#include "basic/cleanup.h"
#include "migration/mover-internal.h"

#define REMEMBERED_BYTES_MAX (FM_MAX_PATH + 64u)

struct fm_throttle {
	struct fm_cgroup_cpu *cpu;
	uint64_t used_us, at_us;        /* when the round began */
	uint64_t usual_us_per_s;        /* processor time of the last round without a throttle; 0: not measured */
	char was[REMEMBERED_BYTES_MAX]; /* "": nothing was changed */
	uint32_t percent;
};

void fm_throttle_free(struct fm_throttle *t)
{
	if (!t)
		return;
	fm_cgroup_cpu_free(t->cpu);
	free(t);
}

static int make(struct fm_mover *m, struct fm_error *err)
{
	if (m->throttle)
		return 0;
	struct fm_throttle *t = calloc(1, sizeof(*t));
	if (!t)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	if (fm_cgroup_cpu_open(m->root, &t->cpu, err) < 0) {
		free(t);
		return -1;
	}
	m->throttle = t;
	return 0;
}

uint32_t fm_throttle_percent(const struct fm_mover *m)
{
	return m->throttle ? m->throttle->percent : 0;
}

/* Whatever goes wrong with measuring is found out, and told, when there is something to throttle. */
void fm_throttle_round_begins(struct fm_mover *m)
{
	if (m->limits.max_throttle_percent == 0 || make(m, NULL) < 0)
		return;
	m->throttle->at_us = fm_cgroup_cpu_used_us(m->throttle->cpu, &m->throttle->used_us, NULL) < 0 ? 0 : fm_now_us();
}

void fm_throttle_round_ended(struct fm_mover *m)
{
	struct fm_throttle *t = m->throttle;
	uint64_t used_us, now_us = fm_now_us();
	if (!t || t->percent > 0 || t->at_us == 0 || now_us <= t->at_us || fm_cgroup_cpu_used_us(t->cpu, &used_us, NULL) < 0)
		return;
	t->usual_us_per_s = used_us > t->used_us ? (used_us - t->used_us) * 1000000 / (now_us - t->at_us) : 0;
}

static uint64_t allowed_us_per_s(const struct fm_throttle *t, uint32_t percent)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	uint64_t all_us_per_s = (cpus > 0 ? (uint64_t)cpus : 1) * 1000000;
	uint64_t usual = t->usual_us_per_s && t->usual_us_per_s < all_us_per_s ? t->usual_us_per_s : all_us_per_s;
	return usual * (100 - percent) / 100;
}

static int apply(struct fm_mover *m, uint32_t percent, struct fm_error *err)
{
	if (make(m, err) < 0)
		return -1;
	struct fm_throttle *t = m->throttle;
	if (!t->was[0]) {
		char was[REMEMBERED_BYTES_MAX];
		if (fm_cgroup_cpu_remember(t->cpu, was, sizeof(was), err) < 0 ||
		    fm_journal_intent(m->journal, "throttle", was, false, err) < 0)
			return -1;
		(void)snprintf(t->was, sizeof(t->was), "%s", was);
	}
	return fm_cgroup_cpu_limit(t->cpu, allowed_us_per_s(t, percent), err);
}

int fm_throttle_to(struct fm_mover *m, uint32_t percent, const char *why, struct fm_error *err)
{
	if (apply(m, percent, err) < 0)
		return fm_error_prefix(err, "container '%s' cannot be throttled", m->container);
	m->throttle->percent = percent;
	pthread_mutex_lock(&m->lock);
	m->throttled_percent = percent;
	pthread_mutex_unlock(&m->lock);
	fm_mover_note(m, "throttled to %u %% of its processor time: %s", 100 - percent, why);
	struct fm_log_fields f = { .migration_id = m->id, .container = m->container };
	fm_log_write(m->h->log, FM_LOG_INFO, "StateSynchronizer", &f, "Container '%s' is throttled to %u %% of its processor time: %s.",
	             m->container, 100 - percent, why);
	return 0;
}

/* A quota that could not be put back stays on record: abort and release try again. */
void fm_throttle_lift(struct fm_mover *m)
{
	struct fm_throttle *t = m->throttle;
	struct fm_error e = FM_ERROR_INIT;
	if (!t || !t->was[0])
		return;
	if (fm_cgroup_cpu_restore(t->was, &e) < 0) {
		fm_mover_note(m, "the throttle of '%s' could not be lifted yet: %s", m->container, e.message);
		return;
	}
	(void)fm_journal_forget(m->journal, "throttle", NULL);
	t->was[0] = '\0';
	t->percent = 0;
}

int fm_throttle_undo(struct fm_mover *m, const char *was, struct fm_error *err)
{
	if (fm_cgroup_cpu_restore(was, err) < 0)
		return fm_error_prefix(err, "cannot lift the throttle of '%s'", m->container);
	if (m->throttle) {
		m->throttle->was[0] = '\0';
		m->throttle->percent = 0;
	}
	fm_mover_note(m, "container '%s' has all its processor time again on '%s'", m->container, m->h->name);
	return 0;
}
