/* SPDX-License-Identifier: MIT */
/*
 * rollback.c - from any failed state back to a source that serves, with nothing left behind.
 *
 * What is asked of the agents depends only on where it failed and on what their journals say, so it can be repeated after a restart. The source comes first: the service.
 * After the commit point the order turns round: the destination must be undone (or proved dead) before the source may run, and while the destination's tree lives it is carried back
 * with everything that clients have written there (carry-back.c).
 */
#include <poll.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "migration/coordinator-internal.h"

int fm_abort_on(struct fm_migration *m, const char *host, bool destination_is_dead, FM_PB(AbortResponse) * *ret, struct fm_error *err)
{
	FM_PB(AbortRequest) req = FLEXIMIGRATE__V1__ABORT_REQUEST__INIT;
	req.migration_id = m->id;
	req.reason = m->pb->error_message;
	req.destination_is_dead = destination_is_dead;
	return fm_call_until_answered(m, host, FM_AGENT_ABORT, &req, 90000, ret, err);
}

static void say_undone(struct fm_migration *m, const char *component, const FM_PB(AbortResponse) * r)
{
	for (size_t i = 0; r && i < r->n_undone; i++)
		fm_mlog(m, FM_LOG_INFO, component, "Undone: %s.", r->undone[i]);
}

/* Abort on a host and report; false when it could not be done (the manager is stopping, or the host refuses). */
static bool abort_and_say(struct fm_migration *m, const char *host, bool dead, const char *component)
{
	_fm_pb_ FM_PB(AbortResponse) *r = NULL;
	struct fm_error e = FM_ERROR_INIT;
	if (fm_abort_on(m, host, dead, &r, &e) < 0) {
		fm_mlog(m, FM_LOG_ERROR, component, "Undoing on '%s' failed: %s", host, e.message);
		return false;
	}
	say_undone(m, component, r);
	return true;
}

static void undo_preparation(struct fm_migration *m)
{
	if (m->source_touched)
		(void)abort_and_say(m, m->pb->source, false, "ContainerManager");
	if (m->destination_touched)
		(void)abort_and_say(m, m->pb->destination, false, "ContainerManager");
	fm_mlog(m, FM_LOG_INFO, "ContainerManager",
	        "Reverted the preparation of '%s' on '%s': parent container and root filesystem removed.", m->pb->container,
	        m->pb->destination);
	fm_mlog(m, FM_LOG_INFO, "NetworkManager", "Reverted the endpoint of '%s' on '%s'; the port on '%s' is untouched.", m->pb->container,
	        m->pb->destination, m->pb->source);
}

static void undo_execution(struct fm_migration *m)
{
	fm_mlog(m, FM_LOG_INFO, "ContainerManager",
	        "Ensuring container '%s' remains operational on source '%s'. Aborting destination restore.", m->pb->container,
	        m->pb->source);
	(void)abort_and_say(m, m->pb->source, false, "ContainerManager");
	(void)abort_and_say(m, m->pb->destination, false, "ContainerManager");
	fm_mlog(m, FM_LOG_INFO, "NetworkManager", "Reverting endpoint and port changes for '%s': '%s' is reached on '%s' again.",
	        m->pb->container, m->pb->container, m->pb->source);
	fm_mlog(m, FM_LOG_INFO, "StateSynchronizer", "Discarding partial state data on '%s'.", m->pb->destination);
}

/* The destination is dead or never ran: its undoing is the proof with which the frozen source may run again. */
static void resume_source(struct fm_migration *m)
{
	fm_mlog(m, FM_LOG_INFO, "ContainerManager",
	        "Halting container '%s' on destination '%s' and attempting to reactivate on source '%s'.", m->pb->container,
	        m->pb->destination, m->pb->source);
	if (!abort_and_say(m, m->pb->destination, false, "ContainerManager") || !abort_and_say(m, m->pb->source, true, "ContainerManager"))
		return;
	if (m->destination_ran && m->committed_ms) {
		pthread_mutex_lock(&m->lock);
		m->pb->lost_service_ms = fm_now_ms() - m->committed_ms;
		pthread_mutex_unlock(&m->lock);
		fm_mlog(m, FM_LOG_WARN, "StateSynchronizer",
		        "The destination had run since the switch-over %llu ms ago and died: writes acknowledged there since then may be "
		        "missing.",
		        (unsigned long long)m->pb->lost_service_ms);
	}
	fm_mlog(m, FM_LOG_INFO, "NetworkManager", "Reverting endpoint and port changes for '%s': '%s' is reached on '%s' again.",
	        m->pb->container, m->pb->container, m->pb->source);
	fm_mlog(m, FM_LOG_INFO, "StateSynchronizer", "Discarding partial state data on '%s'.", m->pb->destination);
}

static bool destination_lives(struct fm_migration *m)
{
	FM_PB(StatusRequest) req = FLEXIMIGRATE__V1__STATUS_REQUEST__INIT;
	_fm_pb_ FM_PB(MoverStatus) *s = NULL;
	struct fm_error e = FM_ERROR_INIT;
	req.migration_id = m->id;
	if (fm_call_until_answered(m, m->pb->destination, FM_AGENT_STATUS, &req, FM_CALL_TIMEOUT_MS, &s, &e) < 0)
		return false;
	m->destination_ran = s->ran;
	return s->alive && s->decision == FLEXIMIGRATE__V1__DECISION__COMMITTED;
}

/* 0: the service is where it belongs; 1: it stays on the destination, the only place with all its writes */
static int undo_after_commit(struct fm_migration *m)
{
	struct fm_error e = FM_ERROR_INIT;
	if (!destination_lives(m)) {
		if (!fm_stop_requested(&m->c->shutdown))
			resume_source(m);
		return 0;
	}
	fm_mlog(m, FM_LOG_INFO, "ContainerManager",
	        "Halting container '%s' on destination '%s' and carrying its state back to reactivate on source '%s'.", m->pb->container,
	        m->pb->destination, m->pb->source);
	if (fm_carry_back(m, &e) == 0) {
		fm_mlog(m, FM_LOG_INFO, "NetworkManager", "Reverting endpoint and port changes for '%s': '%s' is reached on '%s' again.",
		        m->pb->container, m->pb->container, m->pb->source);
		return 0;
	}
	if (fm_stop_requested(&m->c->shutdown))
		return 0;
	if (!destination_lives(m)) {
		resume_source(m);
		return 0;
	}
	fm_mlog(m, FM_LOG_ERROR, "ContainerManager", "Carrying '%s' back failed: %s. It stays on '%s', where all its writes are.",
	        m->pb->container, e.message, m->pb->destination);
	return 1;
}

/* The source's frozen copy is out of date for good: free it. */
static void settle_on_destination(struct fm_migration *m)
{
	FM_PB(IdRequest) req = FLEXIMIGRATE__V1__ID_REQUEST__INIT;
	struct fm_error e = FM_ERROR_INIT;
	req.id = m->id;
	(void)fm_call_until_answered(m, m->pb->source, FM_AGENT_RELEASE, &req, 60000, NULL, &e);
	(void)fm_call_until_answered(m, m->pb->destination, FM_AGENT_RELEASE, &req, 60000, NULL, &e);
	fm_fleet_container_moved(m->c->o.fleet, m->pb->container, m->pb->destination);
}

/* Every move of the rollback has to be on record; a store that is full now may have room later. */
static void must_transition(struct fm_migration *m, enum fm_state to, const char *reason, enum fm_log_level level, const char *line)
{
	for (;;) {
		struct fm_error e = FM_ERROR_INIT;
		if (fm_migration_transition(m, to, reason, &e, level, "%s", line) == 0 || fm_migration_state(m) == to)
			return;
		fm_mlog(m, FM_LOG_ERROR, "MigrationManager", "Cannot record the rollback of '%s' (trying again): %s", m->id, e.message);
		if (fm_wait_fd(m->c->shutdown.fd, POLLIN, 1000, NULL) > 0)
			return;
	}
}

static enum fm_state failed_in(struct fm_migration *m)
{
	for (size_t i = m->pb->n_transitions; i-- > 0;)
		if (m->pb->transitions[i]->to == FLEXIMIGRATE__V1__STATE__FAILED)
			return (enum fm_state)m->pb->transitions[i]->from;
	return FM_STATE_PENDING;
}

static const char *undo_and_conclude(struct fm_migration *m, enum fm_state where)
{
	switch (where) {
	case FM_STATE_PENDING:
		fm_mlog(m, FM_LOG_INFO, "MigrationManager", "Minimal rollback required for '%s': nothing had been touched.", m->id);
		return "Migration request '%s' failed.";
	case FM_STATE_PLANNING:
		return "No actions to roll back for '%s'.";
	case FM_STATE_PREPARATION:
		undo_preparation(m);
		return "Rollback of '%s' complete. Migration failed.";
	case FM_STATE_EXECUTION:
		if (!m->past_commit) {
			undo_execution(m);
			return "Rollback of '%s' complete. Migration failed.";
		}
		/* fall through */
	default:
		if (undo_after_commit(m) == 0)
			return "Service of '%s' restored on source. Migration failed.";
		settle_on_destination(m);
		return "'%s' could not be rolled back; the service stays on the destination. Migration failed.";
	}
}

void fm_rollback(struct fm_migration *m, const struct fm_error *cause)
{
	enum fm_state state = fm_migration_state(m);
	char line[512];
	if (cause)
		fm_migration_set_error(m, cause);
	if (state != FM_STATE_FAILED && state != FM_STATE_ROLLBACK) {
		(void)snprintf(line, sizeof(line), "Migration '%s' failed. Reason: %.300s. Transitioning: %s -> FAILED.", m->id,
		               m->pb->error_message, fm_state_to_string(state));
		must_transition(m, FM_STATE_FAILED, m->pb->error_message, FM_LOG_ERROR, line);
	}
	if (fm_migration_state(m) == FM_STATE_FAILED) {
		(void)snprintf(line, sizeof(line), "Rolling back migration '%s'. State: FAILED -> ROLLBACK.", m->id);
		must_transition(m, FM_STATE_ROLLBACK, NULL, FM_LOG_INFO, line);
	}
	if (fm_migration_state(m) != FM_STATE_ROLLBACK)
		return; /* stopping; the store knows where to go on */
	fm_migration_step(m, "rolling back");
	const char *conclusion = undo_and_conclude(m, failed_in(m));
	if (fm_stop_requested(&m->c->shutdown))
		return;
	pthread_mutex_lock(&m->lock);
	m->pb->rolled_back = true;
	fm_pb_set(&m->pb->step, "failed");
	pthread_mutex_unlock(&m->lock);
	char text[256];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	(void)snprintf(text, sizeof(text), conclusion, m->pb->container);
#pragma GCC diagnostic pop
	(void)snprintf(line, sizeof(line), "%s Final State: FAILED.", text);
	must_transition(m, FM_STATE_FAILED, m->pb->error_message, FM_LOG_INFO, line);
}
