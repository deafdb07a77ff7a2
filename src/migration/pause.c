/* SPDX-License-Identifier: MIT */
/*
 * pause.c - the sub-state PAUSED: the container runs on the destination, pages of it are missing there, and just now they cannot be fetched. Tasks that touch one wait; nothing has failed, and nothing has to be done:
 * the source connects again by itself, and an agent that comes back takes the pages up again.
 *
 * It is no state of the lifecycle: the record says so beside its state, a line is logged when it begins and one when it ends. Who knows is the destination's agent; when that one is silent, its silence is the pause.
 */
#include "basic/cleanup.h"
#include "migration/coordinator-internal.h"

#define PAUSED          "PAUSED"
#define LOOK_TIMEOUT_MS 2000

static bool is_silence(const struct fm_error *e)
{
	return e->code == FM_E_UNAVAILABLE || e->code == FM_E_DEADLINE_EXCEEDED;
}

static bool has_pages_to_fetch(const struct fm_migration *m)
{
	return m->pb->strategy != FLEXIMIGRATE__V1__STRATEGY__COLD;
}

/* 0: it has not been said yet */
static const char *how_many(const FM_PB(Pause) * p, char *buf, size_t cap)
{
	if (p->pages_missing == 0)
		return "pages";
	(void)snprintf(buf, cap, "%llu pages", (unsigned long long)p->pages_missing);
	return buf;
}

/* The first to say it says since when. */
static void enter(struct fm_migration *m, const FM_PB(Pause) * p)
{
	char pages[48];
	pthread_mutex_lock(&m->lock);
	FM_PB(Pause) *old = m->pb->pause;
	m->pb->pause = fm_pb_copy(p);
	if (old && old->since_unix_ms < p->since_unix_ms)
		m->pb->pause->since_unix_ms = old->since_unix_ms;
	fm_pb_set(&m->pb->sub_state, PAUSED);
	pthread_mutex_unlock(&m->lock);
	if (!old)
		fm_tally_paused(m->c->o.tally);
	if (!old)
		fm_mlog(m, FM_LOG_WARN, "StateSynchronizer",
		        "Fetching the pages of '%s' is " PAUSED ": %s are missing on '%s', and %s. It goes on by itself.", m->pb->container,
		        how_many(p, pages, sizeof(pages)), m->pb->destination, p->reason);
	fm_pb_free(old);
	fm_changed(m->c);
}

void fm_pause_clear(FM_PB(Migration) * pb)
{
	fm_pb_free(pb->pause);
	pb->pause = NULL;
	fm_pb_set(&pb->sub_state, "");
}

static void leave(struct fm_migration *m)
{
	pthread_mutex_lock(&m->lock);
	FM_PB(Pause) *old = m->pb->pause;
	m->pb->pause = NULL;
	fm_pause_clear(m->pb);
	pthread_mutex_unlock(&m->lock);
	if (!old)
		return;
	uint64_t now = fm_realtime_ms();
	fm_mlog(m, FM_LOG_INFO, "StateSynchronizer", "Fetching the pages of '%s' goes on after %.1f s of pause.", m->pb->container,
	        now > old->since_unix_ms ? (double)(now - old->since_unix_ms) / 1000 : 0.0);
	fm_pb_free(old);
	fm_changed(m->c);
}

void fm_pause_take(struct fm_migration *m, const FM_PB(MoverStatus) * s)
{
	if (s->pause)
		enter(m, s->pause);
	else
		leave(m);
}

/* A host does not answer, and pages are missing as far as is known. */
static void silent(struct fm_migration *m, const char *host, const struct fm_error *e)
{
	FM_PB(Pause) p = FLEXIMIGRATE__V1__PAUSE__INIT;
	_fm_free_ char *reason = fm_xasprintf("host '%s' does not answer (%.120s)", host, e->message);
	p.since_unix_ms = fm_realtime_ms();
	p.pages_missing = m->pb->pages_total - m->pb->pages_done;
	p.reason = reason;
	enter(m, &p);
}

bool fm_pause_silence(struct fm_migration *m, const char *host, const struct fm_error *e)
{
	if (!has_pages_to_fetch(m) || !is_silence(e))
		return false;
	silent(m, host, e);
	return true;
}

static int ask(struct fm_migration *m, const char *host, FM_PB(MoverStatus) * *ret, struct fm_error *err)
{
	FM_PB(StatusRequest) req = FLEXIMIGRATE__V1__STATUS_REQUEST__INIT;
	req.migration_id = m->id;
	return fm_call(m, host, FM_AGENT_STATUS, &req, LOOK_TIMEOUT_MS, ret, err);
}

void fm_pause_look(struct fm_migration *m, const char *host_that_is_silent, const struct fm_error *e)
{
	enum fm_state state = fm_migration_state(m);
	_fm_pb_ FM_PB(MoverStatus) *s = NULL;
	struct fm_error unknown = FM_ERROR_INIT;
	if (!has_pages_to_fetch(m) || (state != FM_STATE_EXECUTION && state != FM_STATE_VERIFICATION))
		return;
	if (fm_streq(host_that_is_silent, m->pb->destination)) {
		/* Before the commit nothing runs there that could wait. */
		if (m->past_commit && m->pb->pages_done < m->pb->pages_total)
			silent(m, host_that_is_silent, e);
	} else if (ask(m, m->pb->destination, &s, &unknown) == 0) {
		fm_pause_take(m, s);
	}
}

bool fm_pause_holds(struct fm_migration *m)
{
	_fm_pb_ FM_PB(MoverStatus) *s = NULL, *source = NULL;
	struct fm_error e = FM_ERROR_INIT;
	if (!has_pages_to_fetch(m))
		return false;
	if (ask(m, m->pb->destination, &s, &e) < 0)
		return fm_pause_silence(m, m->pb->destination, &e);
	fm_migration_take_status(m, s);
	fm_pause_take(m, s);
	if (s->pause)
		return true;
	if (s->error_code || !s->alive || fm_streq(s->step, "pages complete") || s->decision != FLEXIMIGRATE__V1__DECISION__COMMITTED)
		return false;
	/* A cut link is silent for a while before it counts as broken. */
	return ask(m, m->pb->source, &source, &e) < 0 && fm_pause_silence(m, m->pb->source, &e);
}
