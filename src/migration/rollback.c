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

#define UNDO_TRIES        5
#define FM_AGENT_GRACE_MS 30000

int fm_abort_on(struct fm_migration *m, const char *host, bool destination_is_dead, FM_PB(AbortResponse) * *ret, struct fm_error *err)
{
	FM_PB(AbortRequest) req = FLEXIMIGRATE__V1__ABORT_REQUEST__INIT;
	req.migration_id = m->id;
	req.reason = m->pb->error_message;
	req.destination_is_dead = destination_is_dead;
	return fm_call_until_answered(m, host, FM_AGENT_ABORT, &req, 90000, ret, err);
}

int fm_abort_within_grace(struct fm_migration *m, const char *host, FM_PB(AbortResponse) * *ret, struct fm_error *err)
{
	FM_PB(AbortRequest) req = FLEXIMIGRATE__V1__ABORT_REQUEST__INIT;
	int grace_ms = m->c->o.agent_grace_ms ? m->c->o.agent_grace_ms : FM_AGENT_GRACE_MS;
	req.migration_id = m->id;
	req.reason = m->pb->error_message;
	return fm_call_within(m, host, FM_AGENT_ABORT, &req, 90000, grace_ms, ret, err);
}

/* What is asked of a host in a rollback */
enum undo {
	UNDO,            /* as long as it takes until the host answers */
	UNDO_OR_LEAVE,   /* a host that does not own the container any more may stay away: its agent undoes its side when it comes back */
	UNDO_WITH_PROOF, /* source: the destination is dead */
	UNDO_RELEASE,    /* free what is out of date */
};

static int ask(struct fm_migration *m, const char *host, enum undo what, FM_PB(AbortResponse) * *ret, struct fm_error *err)
{
	FM_PB(IdRequest) req = FLEXIMIGRATE__V1__ID_REQUEST__INIT;
	req.id = m->id;
	if (what == UNDO_RELEASE)
		return fm_call_until_answered(m, host, FM_AGENT_RELEASE, &req, 60000, NULL, err);
	return what == UNDO_OR_LEAVE ? fm_abort_within_grace(m, host, ret, err) : fm_abort_on(m, host, what == UNDO_WITH_PROOF, ret, err);
}

/*
 * Ask and report; false when it could not be done: the manager is stopping, or the host says no (FAILED_PRECONDITION) or has failed UNDO_TRIES
 * times.
 */
static bool undo_on(struct fm_migration *m, const char *host, enum undo what)
{
	int pause_ms = FM_RETRY_PAUSE_MS;
	for (int i = 1;; i++, pause_ms *= 2) {
		_fm_pb_ FM_PB(AbortResponse) *r = NULL;
		struct fm_error e = FM_ERROR_INIT;
		if (ask(m, host, what, &r, &e) == 0) {
			for (size_t k = 0; r && k < r->n_undone; k++)
				fm_mlog(m, FM_LOG_INFO, "ContainerManager", "Undone: %s.", r->undone[k]);
			return true;
		}
		if (fm_stopping(m))
			return false;
		if (what == UNDO_OR_LEAVE && e.code == FM_E_UNAVAILABLE) {
			fm_mlog(m, FM_LOG_WARN, "ContainerManager",
			        "Host '%s' does not answer (%s); going on without it: its agent undoes its side when it is back.", host,
			        e.message);
			return false;
		}
		fm_mlog(m, FM_LOG_ERROR, "ContainerManager", "Undoing on '%s' failed: %s", host, e.message);
		if (e.code == FM_E_FAILED_PRECONDITION || i == UNDO_TRIES || fm_wait_fd(m->c->shutdown.fd, POLLIN, pause_ms, NULL) != 0)
			return false;
	}
}

static void say_network_reverted(struct fm_migration *m)
{
	fm_mlog(m, FM_LOG_INFO, "NetworkManager", "Reverting endpoint and port changes for '%s': '%s' is reached on '%s' again.",
	        m->pb->container, m->pb->container, m->pb->source);
}

/* How a rollback can end; conclusion() has the words. */
enum end { END_PENDING, END_PLANNING, END_SOURCE, END_RESTORED, END_DESTINATION, END_OPERATOR };

static enum end undo_preparation(struct fm_migration *m)
{
	bool done = !m->source_touched || undo_on(m, m->pb->source, UNDO);
	if (m->destination_touched)
		done = undo_on(m, m->pb->destination, UNDO_OR_LEAVE) && done;
	if (fm_stopping(m))
		return END_SOURCE;
	fm_mlog(m, done ? FM_LOG_INFO : FM_LOG_WARN, "ContainerManager",
	        done ? "Reverted the preparation of '%s' on '%s': parent container and root filesystem removed."
	             : "Reverted the preparation of '%s' on '%s' in part: 'fleximigrate doctor' shows what is left.",
	        m->pb->container, m->pb->destination);
	fm_mlog(m, FM_LOG_INFO, "NetworkManager", "Reverted the endpoint of '%s' on '%s'; the port on '%s' is untouched.", m->pb->container,
	        m->pb->destination, m->pb->source);
	return END_SOURCE;
}

/* Does the source's journal say that the container was given away after all? */
static bool source_committed(struct fm_migration *m)
{
	FM_PB(StatusRequest) req = FLEXIMIGRATE__V1__STATUS_REQUEST__INIT;
	_fm_pb_ FM_PB(MoverStatus) *s = NULL;
	struct fm_error e = FM_ERROR_INIT;
	req.migration_id = m->id;
	if (fm_call_until_answered(m, m->pb->source, FM_AGENT_STATUS, &req, FM_CALL_TIMEOUT_MS, &s, &e) < 0)
		return true; /* unknown must not pass for "no" */
	return s->decision != FLEXIMIGRATE__V1__DECISION__ABORTED && s->decision != FLEXIMIGRATE__V1__DECISION__DECISION_UNKNOWN;
}

/* For how long clients may have been served there: since the switch-over, or, after a restart, since what is on record of it. */
static uint64_t served_ms(struct fm_migration *m)
{
	if (m->committed_ms && !m->taken_up)
		return fm_now_ms() - m->committed_ms;
	for (size_t i = m->pb->n_transitions; i-- > 0;) {
		uint64_t at = m->pb->transitions[i]->at_unix_ms;
		if (m->pb->transitions[i]->to == FLEXIMIGRATE__V1__STATE__EXECUTION)
			return fm_realtime_ms() > at ? fm_realtime_ms() - at : 0;
	}
	return 0;
}

/* The destination is dead or never ran: its undoing is the proof with which the frozen source may run again. */
static enum end resume_source(struct fm_migration *m)
{
	fm_mlog(m, FM_LOG_INFO, "ContainerManager",
	        "Halting container '%s' on destination '%s' and attempting to reactivate on source '%s'.", m->pb->container,
	        m->pb->destination, m->pb->source);
	if (!undo_on(m, m->pb->destination, UNDO) || !undo_on(m, m->pb->source, UNDO_WITH_PROOF))
		return END_OPERATOR;
	if (m->destination_ran) {
		pthread_mutex_lock(&m->lock);
		m->pb->lost_service_ms = served_ms(m);
		pthread_mutex_unlock(&m->lock);
		fm_mlog(m, FM_LOG_WARN, "StateSynchronizer",
		        "The destination had run since the switch-over %llu ms ago and died: writes acknowledged there since then may be "
		        "missing.",
		        (unsigned long long)m->pb->lost_service_ms);
	}
	say_network_reverted(m);
	fm_mlog(m, FM_LOG_INFO, "StateSynchronizer", "Discarding partial state data on '%s'.", m->pb->destination);
	return END_RESTORED;
}

enum fate { FATE_UNKNOWN, FATE_DEAD, FATE_LIVES, FATE_SETTLED };

static enum fate destination_fate(struct fm_migration *m)
{
	FM_PB(StatusRequest) req = FLEXIMIGRATE__V1__STATUS_REQUEST__INIT;
	req.migration_id = m->id;
	for (;;) {
		_fm_pb_ FM_PB(MoverStatus) *s = NULL;
		struct fm_error e = FM_ERROR_INIT;
		if (fm_call_until_answered(m, m->pb->destination, FM_AGENT_STATUS, &req, FM_CALL_TIMEOUT_MS, &s, &e) == 0) {
			m->destination_ran = s->ran;
			if (s->decision == FLEXIMIGRATE__V1__DECISION__RELEASED)
				return FATE_SETTLED;
			return s->alive && s->decision == FLEXIMIGRATE__V1__DECISION__COMMITTED ? FATE_LIVES : FATE_DEAD;
		}
		/* An error is no proof of a death. */
		if (fm_stopping(m))
			return FATE_UNKNOWN;
		fm_mlog(m, FM_LOG_ERROR, "ContainerManager", "Cannot learn what runs on '%s' (trying again): %s", m->pb->destination,
		        e.message);
		if (fm_wait_fd(m->c->shutdown.fd, POLLIN, FM_RETRY_PAUSE_MS, NULL) != 0)
			return FATE_UNKNOWN;
	}
}

/* The service stays on the destination, the only place with all its writes; the source's frozen copy is out of date for good: free it. */
static enum end settle_on_destination(struct fm_migration *m)
{
	bool done = undo_on(m, m->pb->source, UNDO_RELEASE) && undo_on(m, m->pb->destination, UNDO_RELEASE);
	fm_fleet_container_moved(m->c->o.fleet, m->pb->container, m->pb->destination);
	return done ? END_DESTINATION : END_OPERATOR;
}

static enum end undo_after_commit(struct fm_migration *m)
{
	struct fm_error e = FM_ERROR_INIT;
	if (fm_carried_back_before(m)) {
		say_network_reverted(m);
		return END_RESTORED;
	}
	enum fate fate = destination_fate(m);
	if (fate == FATE_LIVES) {
		fm_mlog(m, FM_LOG_INFO, "ContainerManager",
		        "Halting container '%s' on destination '%s' and carrying its state back to reactivate on source '%s'.",
		        m->pb->container, m->pb->destination, m->pb->source);
		/* Clients have to reach both hosts again while it is under way. */
		if (fm_redirections_open(m, &e) < 0)
			fm_mlog(m, FM_LOG_WARN, "NetworkManager", "Opening the way back to '%s' failed: %s.", m->pb->source, e.message);
		e = FM_ERROR_INIT;
		if (fm_carry_back(m, &e) == 0) {
			say_network_reverted(m);
			return END_RESTORED;
		}
		if (fm_stopping(m))
			return END_OPERATOR;
		fate = destination_fate(m);
	}
	if (fate == FATE_UNKNOWN)
		return END_OPERATOR;
	if (fate == FATE_DEAD)
		return resume_source(m);
	if (fate == FATE_LIVES)
		fm_mlog(m, FM_LOG_ERROR, "ContainerManager", "Carrying '%s' back failed: %s. It stays on '%s', where all its writes are.",
		        m->pb->container, e.message, m->pb->destination);
	return settle_on_destination(m);
}

static enum end undo_execution(struct fm_migration *m)
{
	fm_mlog(m, FM_LOG_INFO, "ContainerManager",
	        "Ensuring container '%s' remains operational on source '%s'. Aborting destination restore.", m->pb->container,
	        m->pb->source);
	bool done = undo_on(m, m->pb->source, UNDO);
	if (fm_stopping(m))
		return END_OPERATOR;
	if (!done && source_committed(m)) {
		/* The commit was quicker than we: now the destination may have the only living copy. */
		m->past_commit = true;
		return fm_stopping(m) ? END_OPERATOR : undo_after_commit(m);
	}
	(void)undo_on(m, m->pb->destination, UNDO_OR_LEAVE);
	if (fm_stopping(m))
		return END_OPERATOR;
	say_network_reverted(m);
	fm_mlog(m, FM_LOG_INFO, "StateSynchronizer", "Discarding partial state data on '%s'.", m->pb->destination);
	return done ? END_SOURCE : END_OPERATOR;
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

static enum end undo_hosts(struct fm_migration *m)
{
	switch (failed_in(m)) {
	case FM_STATE_PENDING:
		fm_mlog(m, FM_LOG_INFO, "MigrationManager", "Minimal rollback required for '%s': nothing had been touched.", m->id);
		return END_PENDING;
	case FM_STATE_PLANNING:
		return END_PLANNING;
	case FM_STATE_PREPARATION:
		return undo_preparation(m);
	case FM_STATE_EXECUTION:
		return m->past_commit ? undo_after_commit(m) : undo_execution(m);
	default:
		return undo_after_commit(m);
	}
}

/* The hosts first, for the service's sake; then the network around them leads to where the container is. */
static enum end undo(struct fm_migration *m)
{
	struct fm_error e = FM_ERROR_INIT;
	enum end end = undo_hosts(m);
	if (fm_stopping(m))
		return end;
	if ((end == END_SOURCE || end == END_RESTORED) && !fm_redirections_revert(m))
		return END_OPERATOR;
	if (end == END_DESTINATION && fm_redirections_flip(m, &e) < 0) {
		fm_mlog(m, FM_LOG_ERROR, "NetworkManager", "Leading clients of '%s' to '%s' failed: %s.", m->pb->container,
		        m->pb->destination, e.message);
		return END_OPERATOR;
	}
	if (end == END_DESTINATION) {
		fm_redirections_over(m);
		if (fm_redirections_keep(m, &e) < 0) {
			fm_mlog(m, FM_LOG_ERROR, "NetworkManager", "What old connections of '%s' need could not be handed to its host: %s.",
			        m->pb->container, e.message);
			return END_OPERATOR;
		}
	}
	return end;
}

static void conclusion(struct fm_migration *m, enum end end, char *buf, size_t cap)
{
	const char *c = m->pb->container;
	switch (end) {
	case END_PENDING:
		(void)snprintf(buf, cap, "Migration request '%s' failed. Final State: FAILED.", m->id);
		break;
	case END_PLANNING:
		(void)snprintf(buf, cap, "No actions to roll back for '%s'. Final State: FAILED.", m->id);
		break;
	case END_SOURCE:
		(void)snprintf(buf, cap, "Rollback of '%s' complete. Migration failed. Final State: FAILED.", c);
		break;
	case END_RESTORED:
		(void)snprintf(buf, cap, "Rollback of '%s' complete. Service restored on source. Migration failed. Final State: FAILED.",
		               c);
		break;
	case END_DESTINATION:
		(void)snprintf(
		        buf, cap,
		        "'%s' could not be rolled back; the service stays on destination '%s'. Migration failed. Final State: FAILED.", c,
		        m->pb->destination);
		break;
	case END_OPERATOR:
		(void)snprintf(
		        buf, cap,
		        "Rollback of '%s' is incomplete, it needs an operator: see the errors above and 'fleximigrate doctor' on '%s' and "
		        "'%s'. Migration failed. Final State: FAILED.",
		        c, m->pb->source, m->pb->destination);
		break;
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
	if (fm_migration_state(m) != FM_STATE_ROLLBACK || fm_stopping(m))
		return; /* the store knows where to go on */
	fm_migration_step(m, "rolling back");
	enum end end = undo(m);
	if (fm_stopping(m))
		return;
	if (end == END_SOURCE || end == END_RESTORED) /* not shown as incoming there until the next report */
		fm_fleet_container_moved(m->c->o.fleet, m->pb->container, m->pb->source);
	pthread_mutex_lock(&m->lock);
	m->pb->rolled_back = end != END_DESTINATION && end != END_OPERATOR;
	fm_pb_set(&m->pb->step, "failed");
	pthread_mutex_unlock(&m->lock);
	conclusion(m, end, line, sizeof(line));
	must_transition(m, FM_STATE_FAILED, m->pb->error_message, end == END_OPERATOR ? FM_LOG_ERROR : FM_LOG_INFO, line);
}
