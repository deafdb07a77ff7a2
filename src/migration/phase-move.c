/* SPDX-License-Identifier: MIT */
/* phase-move.c - PREPARATION and EXECUTION: what the manager asks of the two agents, and finding out what happened when one of them stops answering in between. */
#include <poll.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "migration/coordinator-internal.h"

/* ---------------------------------------------------------------- preparation */

static int prepare_destination(struct fm_migration *m, struct fm_error *err)
{
	FM_PB(PrepareDestinationRequest) req = FLEXIMIGRATE__V1__PREPARE_DESTINATION_REQUEST__INIT;
	req.migration_id = m->id;
	req.epoch = m->epoch;
	req.container = m->facts->container;
	req.config = m->facts->config;
	req.strategy = m->pb->strategy;
	req.source = m->pb->source;
	req.n_busy_pids = m->facts->n_busy_pids;
	req.busy_pids = m->facts->busy_pids;
	req.n_listeners = m->facts->n_listeners;
	req.listeners = m->facts->listeners;
	req.n_volumes = m->facts->n_volumes;
	req.volumes = m->facts->volumes;
	req.rootfs_bytes = m->facts->rootfs_bytes;
	/* Home again: what led from there to where it is now would lead away from it. */
	_fm_free_ FM_PB(Redirection) **reverts = NULL;
	if (m->of)
		fm_redirections_urgent(m->of, &reverts, &req.n_reverts);
	req.reverts = reverts;
	req.runtime = m->pb->requested_runtime;
	m->destination_touched = true;
	if (fm_call_cancellable(m, m->pb->destination, FM_AGENT_PREPARE_DESTINATION, &req, FM_PREPARE_TIMEOUT_MS, &m->prepared, err) < 0)
		return -1;
	for (size_t i = 0; i < m->prepared->n_network_notes; i++)
		fm_mlog(m, FM_LOG_INFO, "NetworkManager", "%s.", m->prepared->network_notes[i]);
	if (m->prepared->n_network_notes == 0)
		fm_mlog(m, FM_LOG_INFO, "NetworkManager", "Container '%s' has no network endpoint to prepare.", m->pb->container);
	return 0;
}

/* Files travel for as long as the migration may take. */
static int prepare_limit_ms(const struct fm_migration *m)
{
	int left = m->deadline_ms ? fm_deadline_left_ms(m->deadline_ms) : 0;
	return left > FM_PREPARE_TIMEOUT_MS ? left : FM_PREPARE_TIMEOUT_MS;
}

static int prepare_source(struct fm_migration *m, struct fm_error *err)
{
	FM_PB(PrepareSourceRequest) req = FLEXIMIGRATE__V1__PREPARE_SOURCE_REQUEST__INIT;
	_fm_pb_ FM_PB(PrepareSourceResponse) *resp = NULL;
	fm_mlog(m, FM_LOG_INFO, "StateSynchronizer", "Initiating checkpoint process for '%s'.", m->pb->container);
	req.migration_id = m->id;
	req.epoch = m->epoch;
	req.container = m->pb->container;
	req.strategy = m->pb->strategy;
	req.destination = m->pb->destination;
	req.stream_address = m->prepared->stream_address;
	req.token = m->prepared->token;
	req.max_downtime_ms = m->max_downtime_ms;
	req.bandwidth_bytes_per_s = m->bandwidth_bytes_per_s;
	req.max_throttle_percent = m->max_throttle_percent;
	req.streams = m->streams;
	/* The switch-over and what follows it need some of the time, too. */
	req.max_rounds_ms = (uint64_t)fm_deadline_left_ms(m->deadline_ms) / 2;
	m->source_touched = true;
	if (fm_call_cancellable(m, m->pb->source, FM_AGENT_PREPARE_SOURCE, &req, prepare_limit_ms(m), &resp, err) < 0)
		return -1;
	(void)snprintf(m->checkpoint_id, sizeof(m->checkpoint_id), "%s", resp->checkpoint_id);
	pthread_mutex_lock(&m->lock);
	m->pb->files_bytes = resp->files_bytes;
	pthread_mutex_unlock(&m->lock);
	return 0;
}

int fm_move_prepare(struct fm_migration *m, struct fm_error *err)
{
	if (prepare_destination(m, err) < 0)
		return -1;
	return prepare_source(m, err);
}

/* Which component speaks of a failed preparation: the one whose step it was. */
static const char *component_of(const struct fm_error *err)
{
	if (fm_streq(err->phase, "network"))
		return "NetworkManager";
	if (fm_streq(err->phase, "files") || fm_streq(err->phase, "pages") || fm_streq(err->phase, "transfer"))
		return "StateSynchronizer";
	return "ContainerManager";
}

int fm_phase_preparation(struct fm_migration *m, struct fm_error *err)
{
	fm_migration_step(m, "preparing");
	fm_mlog(m, FM_LOG_INFO, "ContainerManager", "Preparing %s for '%s' on '%s'.",
	        fm_streq(m->facts->container->kind, "nested") ? "nested parent container" : "container", m->pb->container,
	        m->pb->destination);
	if (fm_check_cancelled(m, err) < 0 || fm_redirections_prepare(m, err) < 0 || fm_move_prepare(m, err) < 0 ||
	    fm_redirections_open(m, err) < 0 || fm_check_cancelled(m, err) < 0) {
		if (fm_stopping(m))
			return -1;
		fm_mlog(m, FM_LOG_ERROR, component_of(err), "Preparation of '%s' on '%s' failed: %s.", m->pb->container, m->pb->destination,
		        err->message);
		return fm_error_phase(err, "preparation");
	}
	return fm_migration_transition(m, FM_STATE_EXECUTION, NULL, err, FM_LOG_INFO,
	                               "Preparation phase complete for '%s'. Transitioning: PREPARATION -> EXECUTION.", m->pb->container);
}

/* ---------------------------------------------------------------- execution */

static void error_from_status(const FM_PB(MoverStatus) * s, const char *host, struct fm_error *err)
{
	if (!s->error_code) {
		(void)fm_error_set(err, FM_E_ABORTED,
		                   s->decision == FLEXIMIGRATE__V1__DECISION__DECISION_UNKNOWN
		                           ? "host '%s' knows nothing of the switch-over"
		                           : "the switch-over was undone on host '%s'",
		                   host);
		return;
	}
	(void)fm_error_set(err, (enum fm_code)s->error_code, "%s", s->error_message);
	if (s->error_hint[0])
		(void)fm_error_hint(err, "%s", s->error_hint);
	(void)fm_error_phase(err, s->error_phase);
}

/* The source has given the container away: does the destination run it? */
static int await_destination(struct fm_migration *m, struct fm_error *err)
{
	for (;;) {
		_fm_pb_ FM_PB(MoverStatus) *s = NULL;
		FM_PB(StatusRequest) req = FLEXIMIGRATE__V1__STATUS_REQUEST__INIT;
		req.migration_id = m->id;
		if (fm_call_until_answered(m, m->pb->destination, FM_AGENT_STATUS, &req, FM_CALL_TIMEOUT_MS, &s, err) < 0)
			return -1;
		m->destination_ran = s->ran;
		fm_pause_take(m, s);
		bool undecided = s->decision == FLEXIMIGRATE__V1__DECISION__RESTORED ||
		                 (s->decision == FLEXIMIGRATE__V1__DECISION__COMMITTED && !s->alive && !s->error_code);
		if ((s->decision == FLEXIMIGRATE__V1__DECISION__COMMITTED && s->alive) ||
		    s->decision == FLEXIMIGRATE__V1__DECISION__RELEASED)
			return 0;
		if (!undecided) {
			error_from_status(s, m->pb->destination, err);
			return fm_error_prefix(err, "destination '%s'", m->pb->destination);
		}
		if (m->committed_ms && fm_now_ms() > m->committed_ms + 40000)
			return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "destination '%s' did not start the container",
			                    m->pb->destination);
		(void)fm_wait_fd(m->c->shutdown.fd, POLLIN, 50, NULL);
	}
}

/* A source that has released its copy forgets the migration; then only the destination can tell that there was a commit. */
static int committed_at_destination(struct fm_migration *m, bool *ret, struct fm_error *err)
{
	_fm_pb_ FM_PB(MoverStatus) *s = NULL;
	FM_PB(StatusRequest) req = FLEXIMIGRATE__V1__STATUS_REQUEST__INIT;
	req.migration_id = m->id;
	if (fm_call_until_answered(m, m->pb->destination, FM_AGENT_STATUS, &req, FM_CALL_TIMEOUT_MS, &s, err) < 0)
		return -1;
	*ret = s->decision == FLEXIMIGRATE__V1__DECISION__COMMITTED || s->decision == FLEXIMIGRATE__V1__DECISION__RELEASED;
	return 0;
}

static int switch_over_known(struct fm_migration *m, const FM_PB(MoverStatus) * s, struct fm_error *err)
{
	bool committed = s->decision == FLEXIMIGRATE__V1__DECISION__COMMITTED || s->decision == FLEXIMIGRATE__V1__DECISION__RELEASED;
	fm_migration_take_status(m, s);
	if (s->decision == FLEXIMIGRATE__V1__DECISION__DECISION_UNKNOWN && committed_at_destination(m, &committed, err) < 0)
		return -1;
	if (!committed) {
		error_from_status(s, m->pb->source, err);
		return -1;
	}
	m->past_commit = true;
	if (!m->committed_ms)
		m->committed_ms = fm_now_ms();
	for (size_t i = 0; i < s->n_notes; i++)
		fm_mlog(m, FM_LOG_INFO, "StateSynchronizer", "On '%s': %s.", m->pb->source, s->notes[i]);
	return await_destination(m, err);
}

/* Cancelled, or its time is up: the source undoes, and err says whose wish it was. False: it goes on, or the commit was quicker, which the next status says. */
static bool undo_frozen(struct fm_migration *m, struct fm_error *err)
{
	struct fm_error why = FM_ERROR_INIT, e = FM_ERROR_INIT;
	if (fm_stopping(m) || fm_check_cancelled(m, &why) == 0 || fm_abort_on(m, m->pb->source, false, NULL, &e) < 0)
		return false;
	*err = why;
	return true;
}

int fm_resolve_switch_over(struct fm_migration *m, struct fm_error *err)
{
	uint64_t give_up_ms = fm_now_ms() + FM_EXECUTE_TIMEOUT_MS;
	for (;;) {
		_fm_pb_ FM_PB(MoverStatus) *s = NULL;
		FM_PB(StatusRequest) req = FLEXIMIGRATE__V1__STATUS_REQUEST__INIT;
		req.migration_id = m->id;
		if (fm_call_until_answered(m, m->pb->source, FM_AGENT_STATUS, &req, FM_CALL_TIMEOUT_MS, &s, err) < 0)
			return -1;
		/* FROZEN: the source's agent lives and is in the middle of it; it commits or undoes by itself. */
		if (s->decision != FLEXIMIGRATE__V1__DECISION__FROZEN)
			return switch_over_known(m, s, err);
		if (undo_frozen(m, err))
			return -1;
		if (fm_now_ms() > give_up_ms)
			return fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "the source '%s' did not finish the switch-over", m->pb->source);
		(void)fm_wait_fd(m->c->shutdown.fd, POLLIN, 50, NULL);
	}
}

/* Rounds of pre-copy come on top of what a switch-over may take: half of the migration's time at most (prepare_source). */
static int execute_limit_ms(const struct fm_migration *m)
{
	bool rounds = m->pb->strategy == FLEXIMIGRATE__V1__STRATEGY__PRE_COPY || m->pb->strategy == FLEXIMIGRATE__V1__STRATEGY__LIVE;
	return FM_EXECUTE_TIMEOUT_MS + (rounds && m->deadline_ms ? fm_deadline_left_ms(m->deadline_ms) / 2 : 0);
}

int fm_move_execute(struct fm_migration *m, struct fm_error *err)
{
	FM_PB(ExecuteRequest) req = FLEXIMIGRATE__V1__EXECUTE_REQUEST__INIT;
	_fm_pb_ FM_PB(MoverStatus) *s = NULL;
	struct fm_error e = FM_ERROR_INIT;
	_fm_free_ FM_PB(Redirection) **flips = NULL;
	fm_redirections_urgent(m, &flips, &req.n_flips);
	req.flips = flips;
	req.migration_id = m->id;
	req.epoch = m->epoch;
	int limit_ms = execute_limit_ms(m);
	req.timeout_ms = (uint32_t)limit_ms - 30000;
	if (m->deadline_ms && (uint32_t)fm_deadline_left_ms(m->deadline_ms) < req.timeout_ms)
		req.timeout_ms = (uint32_t)fm_deadline_left_ms(m->deadline_ms) + 1; /* 0 would be the agent's own limit */
	if (fm_fault_point(m->c->o.fault, "manager-before-execute", err) < 0)
		return -1;
	if (fm_call_cancellable(m, m->pb->source, FM_AGENT_EXECUTE, &req, limit_ms, &s, &e) == 0)
		return switch_over_known(m, s, err);
	struct fm_error why = FM_ERROR_INIT;
	if (!fm_stopping(m) && fm_check_cancelled(m, &why) < 0) {
		/* The user's cancel, or the time is up: the source undoes, unless the commit was quicker. */
		if (fm_abort_on(m, m->pb->source, false, NULL, &e) < 0)
			return fm_resolve_switch_over(m, err);
		*err = why;
		return -1;
	}
	/* No answer is not "no", and an error may come from a broken connection: only the source's journal knows. */
	if (e.code != FM_E_UNAVAILABLE && e.code != FM_E_DEADLINE_EXCEEDED && e.code != FM_E_CANCELLED) {
		int rc = fm_resolve_switch_over(m, err);
		if (rc < 0 && !m->past_commit)
			*err = e;
		return rc;
	}
	if (fm_stopping(m)) {
		*err = e;
		return -1;
	}
	fm_mlog(m, FM_LOG_WARN, "MigrationManager", "Lost host '%s' during the switch-over (%s); asking both hosts what happened.",
	        m->pb->source, e.message);
	return fm_resolve_switch_over(m, err);
}

int fm_phase_execution(struct fm_migration *m, struct fm_error *err)
{
	char total[32];
	fm_migration_step(m, "switch-over");
	fm_mlog(m, FM_LOG_INFO, "StateSynchronizer", "Starting %s state transfer (Checkpoint ID: %s) for '%s' to '%s'.",
	        fm_strategy_to_string((enum fm_strategy)m->pb->strategy), m->checkpoint_id, m->pb->container, m->pb->destination);
	if (fm_check_cancelled(m, err) < 0 || fm_move_execute(m, err) < 0 || fm_redirections_flip(m, err) < 0) {
		if (fm_stopping(m))
			return -1;
		fm_mlog(m, FM_LOG_ERROR, "StateSynchronizer", "State transfer of '%s' to '%s' failed: %s.", m->pb->container,
		        m->pb->destination, err->message);
		return fm_error_phase(err, "execution");
	}
	(void)snprintf(total, sizeof(total), "%.1f", (double)m->pb->wire_bytes / 1e6);
	fm_mlog(m, FM_LOG_INFO, "StateSynchronizer", "%s state transfer complete. Total data transferred: %s MB.",
	        fm_strategy_to_string((enum fm_strategy)m->pb->strategy), total);
	fm_mlog(m, FM_LOG_INFO, "ContainerManager", "Restoring container '%s' state on '%s' from checkpoint '%s'.", m->pb->container,
	        m->pb->destination, m->checkpoint_id);
	if (fm_fault_point(m->c->o.fault, "manager-after-execute", err) < 0)
		return -1;
	return fm_migration_transition(m, FM_STATE_VERIFICATION, NULL, err, FM_LOG_INFO,
	                               "State transfer and restoration complete for '%s'. Transitioning: EXECUTION -> VERIFICATION.",
	                               m->pb->container);
}
