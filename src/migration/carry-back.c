/* SPDX-License-Identifier: MIT */
/*
 * carry-back.c - the way back of a rollback after clients have reached the destination: an ordinary move in the other direction, with ids of its own ("<id>-r1" …),
 * so that the same code, the same journals and the same guarantees apply. Repeatable after a restart: what an attempt's journals say decides.
 */
#include <fcntl.h>
#include <string.h>

#include "basic/cleanup.h"
#include "migration/coordinator-internal.h"

#define MAX_ATTEMPTS 3

static struct fm_migration *reverse_new(struct fm_migration *m, unsigned attempt)
{
	struct fm_migration *r = calloc(1, sizeof(*r));
	if (!r)
		abort();
	r->c = m->c;
	r->of = m;
	pthread_mutex_init(&r->lock, NULL);
	r->pb = FM_PB_NEW(Migration, migration);
	r->pb->strategy = m->pb->strategy;
	fm_pb_set(&r->pb->container, m->pb->container);
	fm_pb_set(&r->pb->source, m->pb->destination);
	fm_pb_set(&r->pb->destination, m->pb->source);
	(void)snprintf(r->id, sizeof(r->id), "%.48s-r%u", m->id, attempt);
	(void)snprintf(r->log_id, sizeof(r->log_id), "%s", m->log_id);
	r->epoch = m->epoch + attempt;
	/* The user's cancel is over; a stop of the manager ends the long calls of the way back, too. */
	r->cancel.fd = fcntl(m->c->shutdown.fd, F_DUPFD_CLOEXEC, 3);
	if (r->cancel.fd < 0)
		abort();
	return r;
}

static void reverse_free(struct fm_migration *r)
{
	fm_pb_free(r->pb);
	fm_pb_free(r->facts);
	fm_pb_free(r->prepared);
	fm_stop_done(&r->cancel);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

static int release(struct fm_migration *m, const char *host, struct fm_error *err)
{
	FM_PB(IdRequest) req = FLEXIMIGRATE__V1__ID_REQUEST__INIT;
	req.id = m->id;
	return fm_call_until_answered(m, host, FM_AGENT_RELEASE, &req, 60000, NULL, err);
}

/* Home again: the frozen copy at home is out of date, the destination's is the one that moved away. */
static int settle_at_home(struct fm_migration *m, struct fm_migration *r, struct fm_error *err)
{
	if (release(m, m->pb->source, err) < 0 || release(r, r->pb->source, err) < 0 || release(m, m->pb->destination, err) < 0 ||
	    release(r, r->pb->destination, err) < 0)
		return -1;
	fm_fleet_container_moved(m->c->o.fleet, m->pb->container, m->pb->source);
	return 0;
}

/* Nobody may be left with half a way back. After its commit point the order turns round, as in rollback.c. */
static int undo_attempt(struct fm_migration *r)
{
	struct fm_error e = FM_ERROR_INIT;
	int rc;
	if (r->past_commit)
		rc = fm_abort_on(r, r->pb->destination, false, NULL, &e) < 0 ? -1 : fm_abort_on(r, r->pb->source, true, NULL, &e);
	else
		rc = fm_abort_on(r, r->pb->source, false, NULL, &e) < 0 ? -1 : fm_abort_within_grace(r, r->pb->destination, NULL, &e);
	if (rc < 0 && !fm_stopping(r))
		fm_mlog(r, FM_LOG_ERROR, "ContainerManager", "Undoing an attempt to carry '%s' back failed: %s", r->pb->container,
		        e.message);
	return rc;
}

static int attempt(struct fm_migration *m, struct fm_migration *r, struct fm_error *err)
{
	struct fm_error e = FM_ERROR_INIT;
	int rc = -1;
	if (m->taken_up) {
		/* What became of this attempt before the restart? */
		rc = fm_resolve_switch_over(r, &e);
		if (rc < 0 && !r->past_commit && !fm_stopping(r))
			(void)undo_attempt(r);
	}
	if (rc < 0 && !r->past_commit && !fm_stopping(r)) {
		e = FM_ERROR_INIT;
		/* facts of the container where it runs now */
		rc = fm_load_facts(r, r->pb->source, &e) < 0 || fm_move_prepare(r, &e) < 0 || fm_move_execute(r, &e) < 0 ? -1 : 0;
	}
	if (rc == 0 && fm_await_pages(r, &e) < 0) {
		struct fm_error gone = FM_ERROR_INIT;
		rc = -1;
		if (fm_stopping(r) || fm_resolve_switch_over(r, &gone) == 0) {
			*err = e;
			return -1; /* it lives at home: nothing may be undone */
		}
	}
	/* An attempt that cannot be undone may have been quicker than the undoing: then it lives at home. */
	struct fm_error late = FM_ERROR_INIT;
	if (rc < 0 && (fm_stopping(r) || undo_attempt(r) == 0 || fm_resolve_switch_over(r, &late) < 0)) {
		*err = e;
		return -1;
	}
	return settle_at_home(m, r, err);
}

bool fm_carried_back_before(struct fm_migration *m)
{
	bool settled = false;
	for (unsigned i = 1; m->taken_up && !settled && i <= MAX_ATTEMPTS; i++) {
		struct fm_migration *r = reverse_new(m, i);
		_fm_pb_ FM_PB(MoverStatus) *s = NULL;
		FM_PB(StatusRequest) req = FLEXIMIGRATE__V1__STATUS_REQUEST__INIT;
		struct fm_error e = FM_ERROR_INIT;
		req.migration_id = r->id;
		if (fm_call_until_answered(r, r->pb->destination, FM_AGENT_STATUS, &req, FM_CALL_TIMEOUT_MS, &s, &e) == 0 &&
		    ((s->decision == FLEXIMIGRATE__V1__DECISION__COMMITTED && s->alive) ||
		     s->decision == FLEXIMIGRATE__V1__DECISION__RELEASED))
			settled = fm_await_pages(r, &e) == 0 && settle_at_home(m, r, &e) == 0;
		reverse_free(r);
	}
	return settled;
}

int fm_carry_back(struct fm_migration *m, struct fm_error *err)
{
	/* A dump needs every page: those still missing come first. */
	if (fm_await_pages(m, err) < 0)
		return -1;
	for (unsigned i = 1; i <= MAX_ATTEMPTS; i++) {
		struct fm_migration *r = reverse_new(m, i);
		struct fm_error e = FM_ERROR_INIT;
		int rc = attempt(m, r, &e);
		reverse_free(r);
		if (rc == 0)
			return 0;
		*err = e;
		if (fm_stop_requested(&m->c->shutdown))
			return -1;
		fm_mlog(m, FM_LOG_WARN, "StateSynchronizer", "Attempt %u of %d to carry '%s' back failed: %s", i, MAX_ATTEMPTS,
		        m->pb->container, e.message);
	}
	return -1;
}
