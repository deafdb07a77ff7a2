/* SPDX-License-Identifier: MIT */
/*
 * carry-back.c - the way back of a rollback after clients have reached the destination: an ordinary move in the other direction, with ids of its own ("<id>-r1" …),
 * so that the same code, the same journals and the same guarantees apply. Repeatable after a restart: what an attempt's journals say decides.
 */
#include <poll.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "migration/coordinator-internal.h"

#define MAX_ATTEMPTS 3

static struct fm_migration *reverse_new(struct fm_migration *m, unsigned attempt)
{
	struct fm_migration *r = calloc(1, sizeof(*r));
	if (!r)
		abort();
	r->c = m->c;
	pthread_mutex_init(&r->lock, NULL);
	r->pb = FM_PB_NEW(Migration, migration);
	r->pb->strategy = m->pb->strategy;
	fm_pb_set(&r->pb->container, m->pb->container);
	fm_pb_set(&r->pb->source, m->pb->destination);
	fm_pb_set(&r->pb->destination, m->pb->source);
	(void)snprintf(r->id, sizeof(r->id), "%.48s-r%u", m->id, attempt);
	(void)snprintf(r->log_id, sizeof(r->log_id), "%s", m->log_id);
	r->epoch = m->epoch + attempt;
	(void)fm_stop_init(&r->cancel, NULL);
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
	if (fm_await_pages(r, err) < 0)
		return -1;
	if (release(m, m->pb->source, err) < 0 || release(r, r->pb->source, err) < 0 || release(m, m->pb->destination, err) < 0 ||
	    release(r, r->pb->destination, err) < 0)
		return -1;
	fm_fleet_container_moved(m->c->o.fleet, m->pb->container, m->pb->source);
	return 0;
}

/* What became of an attempt before a restart: 1 = committed, 0 = nothing of it is left, -1 = cannot tell now */
static int earlier_attempt(struct fm_migration *r, struct fm_error *err)
{
	for (;;) {
		FM_PB(StatusRequest) req = FLEXIMIGRATE__V1__STATUS_REQUEST__INIT;
		_fm_pb_ FM_PB(MoverStatus) *s = NULL;
		req.migration_id = r->id;
		if (fm_call_until_answered(r, r->pb->source, FM_AGENT_STATUS, &req, FM_CALL_TIMEOUT_MS, &s, err) < 0)
			return -1;
		if (s->decision == FLEXIMIGRATE__V1__DECISION__COMMITTED || s->decision == FLEXIMIGRATE__V1__DECISION__RELEASED)
			return 1;
		if (s->decision != FLEXIMIGRATE__V1__DECISION__FROZEN)
			break;
		(void)fm_wait_fd(r->c->shutdown.fd, POLLIN, FM_RETRY_PAUSE_MS, NULL);
	}
	if (fm_abort_on(r, r->pb->source, false, NULL, err) < 0 || fm_abort_on(r, r->pb->destination, false, NULL, err) < 0)
		return -1;
	return 0;
}

static int attempt(struct fm_migration *m, struct fm_migration *r, struct fm_error *err)
{
	int earlier = earlier_attempt(r, err);
	if (earlier < 0)
		return -1;
	if (earlier == 0) {
		if (fm_load_facts(r, err) <
		    0) /* of the container where it runs now: asked below, the destination of the way back has none */
			return -1;
		if (fm_move_prepare(r, err) < 0 || fm_move_execute(r, err) < 0) {
			if (!r->past_commit) {
				(void)fm_abort_on(r, r->pb->source, false, NULL, NULL);
				(void)fm_abort_on(r, r->pb->destination, false, NULL, NULL);
			}
			return -1;
		}
	}
	return settle_at_home(m, r, err);
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
