/* SPDX-License-Identifier: MIT */
/*
 * queue.c - who may begin now, and who waits for approval: PLANNING's last steps.
 *
 * A migration is under way from when the queue lets it go until it is over. It may go when fewer than --max-concurrent are under way, and not more than its own limits allow (its terms': built-in ones of a host, those
 * of policies in force, which count all migrations, not only theirs). Of those that could go, the one with the highest priority goes first, then the one that came first; one that has to wait for its host does not
 * hold up others that need not. The queue is bounded by FM_MAX_MIGRATIONS_ACTIVE: more are refused when they are asked for.
 *
 * The waiting are woken by whatever changes: one that is over, a cancel, an approval, the manager's end.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "migration/coordinator-internal.h"

typedef struct fm_place_in_queue place_t;

static bool touches(const place_t *p, const char *host)
{
	return fm_streq(p->source, host) || fm_streq(p->destination, host);
}

static bool is_below(unsigned n, unsigned limit)
{
	return limit == 0 || n < limit;
}

/* Under the lock. Could it begin, if nobody else waited? */
static bool could_begin(const struct fm_coordinator *c, const struct fm_migration *m)
{
	const place_t *p = &m->queue;
	unsigned all = 0, source = 0, destination = 0, link = 0;
	for (const struct fm_migration *o = c->active; o; o = o->next) {
		if (!o->queue.running || o == m)
			continue;
		bool at_source = touches(&o->queue, p->source), at_destination = touches(&o->queue, p->destination);
		all++;
		source += at_source;
		destination += at_destination;
		link += at_source && at_destination;
	}
	return all < c->o.max_concurrent && is_below(all, p->limits.global) && is_below(source, p->limits.per_host) &&
	       is_below(destination, p->limits.per_host) && is_below(link, p->limits.per_link);
}

static bool comes_before(const place_t *a, const place_t *b)
{
	return a->priority != b->priority ? a->priority > b->priority : a->number < b->number;
}

/* How many that wait come before it; *ret_able: of them that could go */
static unsigned ahead_of(const struct fm_coordinator *c, const struct fm_migration *m, unsigned *ret_able)
{
	unsigned n = 0, able = 0;
	for (const struct fm_migration *o = c->active; o; o = o->next)
		if (o != m && o->queue.waiting && comes_before(&o->queue, &m->queue)) {
			n++;
			able += could_begin(c, o);
		}
	*ret_able = able;
	return n;
}

/* Until something has changed, or the migration's time is up. Under the lock. */
static void wait_for_change(struct fm_migration *m)
{
	struct fm_coordinator *c = m->c;
	uint64_t seen = c->changes, left_ms = m->deadline_ms ? (uint64_t)fm_deadline_left_ms(m->deadline_ms) : 60000;
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)(left_ms / 1000);
	until.tv_nsec += (long)(left_ms % 1000 + 1) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	while (c->changes == seen && !fm_stop_requested(&c->shutdown) && pthread_cond_timedwait(&c->changed, &c->lock, &until) == 0)
		;
}

static void set_sub_state(struct fm_migration *m, const char *sub_state, const char *step)
{
	pthread_mutex_lock(&m->lock);
	fm_pb_set(&m->pb->sub_state, sub_state);
	fm_pb_set(&m->pb->step, step);
	pthread_mutex_unlock(&m->lock);
	(void)fm_migration_save(m); /* for who asks; a restart plans it anew, whatever is written there */
}

static int check(struct fm_migration *m, struct fm_error *err)
{
	if (fm_stopping(m))
		return fm_error_set(err, FM_E_UNAVAILABLE, "the manager is stopping; migration %s goes on when it is back", m->id);
	return fm_check_cancelled(m, err);
}

/* ---------------------------------------------------------------- the queue */

/* Under the lock: its place as its plan wants it. */
static void arrive(struct fm_migration *m)
{
	place_t *p = &m->queue;
	p->waiting = true;
	p->priority = m->terms.priority;
	p->limits = m->terms.limits;
	if (!p->number)
		p->number = ++m->c->arrivals;
	(void)snprintf(p->source, sizeof(p->source), "%s", m->pb->source);
	(void)snprintf(p->destination, sizeof(p->destination), "%s", m->pb->destination);
}

/* Under the lock. */
static bool try_to_begin(struct fm_migration *m, unsigned *ret_ahead)
{
	unsigned able = 0;
	*ret_ahead = ahead_of(m->c, m, &able);
	if (able > 0 || !could_begin(m->c, m))
		return false;
	m->queue.waiting = false;
	m->queue.running = true;
	m->c->changes++; /* who stood behind it may be able to go, too */
	pthread_cond_broadcast(&m->c->changed);
	return true;
}

static void tell(struct fm_migration *m, unsigned ahead)
{
	char step[96];
	(void)snprintf(step, sizeof(step), "in the queue, priority %lld, %u before it", (long long)m->terms.priority, ahead);
	/* The line first: who sees the sub-state finds it. */
	fm_mlog(m, FM_LOG_INFO, "MigrationManager",
	        "Migration '%s' waits in the queue (priority %lld, %u before it): as many are under way as may be.", m->id,
	        (long long)m->terms.priority, ahead);
	set_sub_state(m, FM_QUEUED, step);
	fm_changed(m->c);
}

int fm_queue_enter(struct fm_migration *m, bool *ret_waited, struct fm_error *err)
{
	unsigned ahead = 0;
	*ret_waited = false;
	pthread_mutex_lock(&m->c->lock);
	arrive(m);
	bool began = try_to_begin(m, &ahead);
	pthread_mutex_unlock(&m->c->lock);
	if (began)
		return 0;
	*ret_waited = true;
	tell(m, ahead);
	pthread_mutex_lock(&m->c->lock);
	while (!(began = try_to_begin(m, &ahead)) && check(m, err) == 0)
		wait_for_change(m);
	m->queue.waiting = false;
	m->c->changes++; /* it stood before others */
	pthread_cond_broadcast(&m->c->changed);
	pthread_mutex_unlock(&m->c->lock);
	if (!began)
		return -1;
	set_sub_state(m, "", "planning");
	return 0;
}

void fm_queue_join(struct fm_migration *m)
{
	m->queue.running = true;
	(void)snprintf(m->queue.source, sizeof(m->queue.source), "%s", m->pb->source);
	(void)snprintf(m->queue.destination, sizeof(m->queue.destination), "%s", m->pb->destination);
}

/* ---------------------------------------------------------------- approval */

static bool is_approved(struct fm_migration *m)
{
	pthread_mutex_lock(&m->lock);
	bool is = m->pb->approved_unix_ms != 0;
	pthread_mutex_unlock(&m->lock);
	return is;
}

int fm_await_approval(struct fm_migration *m, struct fm_error *err)
{
	int rc = 0;
	fm_mlog(m, FM_LOG_INFO, "PolicyEnforcer",
	        "Migration '%s' waits for approval, as policy '%s' wants: 'fleximigrate migration approve %s'.", m->id,
	        m->terms.approval_by, m->id);
	set_sub_state(m, FM_AWAITING_APPROVAL, "waiting for approval");
	fm_changed(m->c);
	fm_rules_notify(m, "waits for approval", "");
	pthread_mutex_lock(&m->c->lock);
	while (!is_approved(m) && (rc = check(m, err)) == 0)
		wait_for_change(m);
	pthread_mutex_unlock(&m->c->lock);
	if (rc < 0)
		return -1;
	set_sub_state(m, "", "planning");
	fm_mlog(m, FM_LOG_INFO, "PolicyEnforcer", "Migration '%s' is approved.", m->id);
	return 0;
}
