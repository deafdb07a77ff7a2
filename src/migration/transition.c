/* SPDX-License-Identifier: MIT */
/*
 * transition.c - the one function that moves a migration from state to state, and the small things around the record: log lines, counters, calls to agents.
 *
 * Order inside a transition: table -> store (one transaction, only if the stored state is the expected one) -> log -> event. If the store refuses, nothing has happened.
 */
#include <poll.h>
#include <stdarg.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "migration/coordinator-internal.h"
#include "migration/costs.h"

enum fm_state fm_migration_state(struct fm_migration *m)
{
	pthread_mutex_lock(&m->lock);
	enum fm_state s = (enum fm_state)m->pb->state;
	pthread_mutex_unlock(&m->lock);
	return s;
}

void fm_changed(struct fm_coordinator *c)
{
	pthread_mutex_lock(&c->lock);
	c->changes++;
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
}

bool fm_stopping(struct fm_migration *m)
{
	return fm_stop_requested(&m->c->shutdown);
}

static void write_line(struct fm_migration *m, enum fm_log_level level, const char *component, const char *from, const char *to,
                       const char *text)
{
	struct fm_log_fields f = { .migration_id = m->log_id,
		                   .container = m->pb->container,
		                   .state_from = from,
		                   .state_to = to,
		                   .action = from ? "transition" : NULL };
	fm_log_write(m->c->o.log, level, component, &f, "%s", text);
}

void fm_mlog(struct fm_migration *m, enum fm_log_level level, const char *component, const char *fmt, ...)
{
	char text[1600];
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	write_line(m, level, component, NULL, NULL, text);
}

/* The columns of the store from the message; strings are borrowed. */
static void to_record(struct fm_migration *m, struct fm_store_migration *r, uint8_t **detail)
{
	FM_PB(Migration) *pb = m->pb;
	size_t n = protobuf_c_message_get_packed_size(&pb->base);
	*detail = malloc(n ? n : 1);
	if (!*detail)
		abort();
	protobuf_c_message_pack(&pb->base, *detail);
	*r = (struct fm_store_migration){
		.id = m->id,
		.container = pb->container,
		.source = pb->source,
		.destination = pb->destination,
		.strategy = (char *)fm_strategy_to_string((enum fm_strategy)pb->strategy),
		.state = (int)pb->state,
		.path = pb->path,
		.epoch = m->epoch,
		.created_ms = pb->created_unix_ms,
		.finished_ms = pb->finished_unix_ms,
		.error_code = (int)pb->error_code,
		.error_message = pb->error_message,
		.detail = *detail,
		.detail_len = n,
	};
}

int fm_migration_save(struct fm_migration *m)
{
	struct fm_store_migration r;
	_fm_free_ uint8_t *detail = NULL;
	pthread_mutex_lock(&m->lock);
	to_record(m, &r, &detail);
	int rc = fm_store_migration_update(m->c->o.store, &r, NULL);
	pthread_mutex_unlock(&m->lock);
	return rc;
}

static void add_transition(FM_PB(Migration) * pb, enum fm_state from, enum fm_state to, const char *label, const char *reason)
{
	FM_PB(Transition) *t = FM_PB_NEW(Transition, transition);
	t->from = (FM_PB(State))from;
	t->to = (FM_PB(State))to;
	t->at_unix_ms = fm_realtime_ms();
	fm_pb_set(&t->label, label);
	fm_pb_set(&t->reason, reason);
	FM_PB_ADD(pb->transitions, pb->n_transitions, t);
	pb->state = (FM_PB(State))to;
	if (label[0]) {
		_fm_free_ char *path = pb->path[0] ? fm_xasprintf("%s %s", pb->path, label) : fm_xstrdup(label);
		fm_pb_set(&pb->path, path);
	}
}

/* Works on a copy, so that a refused transaction leaves the message as it was. */
static int store_transition(struct fm_migration *m, const struct fm_transition_rule *rule, const char *label, const char *reason,
                            struct fm_error *err)
{
	struct fm_store_migration r;
	_fm_free_ uint8_t *detail = NULL;
	pthread_mutex_lock(&m->lock);
	FM_PB(Migration) *old = m->pb;
	m->pb = fm_pb_copy(old);
	add_transition(m->pb, rule->from, rule->to, label, reason);
	if (rule->to != FM_STATE_VERIFICATION) /* there pages are fetched as before */
		fm_pause_clear(m->pb);
	if (rule->terminal)
		m->pb->finished_unix_ms = fm_realtime_ms();
	to_record(m, &r, &detail);
	int rc = fm_store_migration_transition(m->c->o.store, (int)rule->from, &r, label, reason, err);
	if (rc < 0) {
		fm_pb_free(m->pb);
		m->pb = old;
	} else {
		fm_pb_free(old);
		if (rule->terminal) {
			fm_tally_add(m->c->o.tally, m->pb);
			fm_costs_learn(m->c->costs, m->pb);
		}
	}
	pthread_mutex_unlock(&m->lock);
	return rc;
}

int fm_migration_transition(struct fm_migration *m, enum fm_state to, const char *reason, struct fm_error *err, enum fm_log_level level,
                            const char *fmt, ...)
{
	enum fm_state from = fm_migration_state(m);
	const struct fm_transition_rule *rule = fm_transition_find(from, to);
	if (!rule)
		return fm_error_set(err, FM_E_INTERNAL, "illegal transition %s -> %s of migration %s", fm_state_to_string(from),
		                    fm_state_to_string(to), m->id);
	/* Formatted first: the arguments may point into the message that storing replaces. */
	char text[1600];
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	/* After a failure in PENDING the clean-up has no label of its own (docs/LIFECYCLE.md). */
	const char *label = from == FM_STATE_ROLLBACK && fm_streq(m->pb->path, "1F") ? "" : rule->label;
	if (store_transition(m, rule, label, reason ? reason : "", err) < 0)
		return fm_error_prefix(err, "the store refused %s -> %s", fm_state_to_string(from), fm_state_to_string(to));
	write_line(m, level, "MigrationManager", fm_state_to_string(from), fm_state_to_string(to), text);
	fm_changed(m->c);
	return fm_fault_point(m->c->o.fault, "manager-after-transition", err);
}

void fm_migration_set_error(struct fm_migration *m, const struct fm_error *e)
{
	pthread_mutex_lock(&m->lock);
	m->pb->error_code = e->code;
	fm_pb_set(&m->pb->error_message, e->message);
	fm_pb_set(&m->pb->error_hint, e->hint);
	fm_pb_set(&m->pb->error_phase, e->phase);
	pthread_mutex_unlock(&m->lock);
}

void fm_migration_step(struct fm_migration *m, const char *step)
{
	pthread_mutex_lock(&m->lock);
	fm_pb_set(&m->pb->step, step);
	pthread_mutex_unlock(&m->lock);
	fm_changed(m->c);
}

static void take_phases(FM_PB(Migration) * pb, const FM_PB(MoverStatus) * s)
{
	for (size_t i = 0; i < s->n_phases; i++) {
		bool known = false;
		for (size_t k = 0; k < pb->n_phases; k++)
			known = known || fm_streq(pb->phases[k]->name, s->phases[i]->name);
		if (!known)
			FM_PB_ADD(pb->phases, pb->n_phases, fm_pb_copy(s->phases[i]));
	}
}

void fm_migration_take_status(struct fm_migration *m, const FM_PB(MoverStatus) * s)
{
	pthread_mutex_lock(&m->lock);
	FM_PB(Migration) *pb = m->pb;
	take_phases(pb, s);
	if (s->frozen_us)
		pb->frozen_us = s->frozen_us;
	if (s->pages_total) {
		pb->pages_total = s->pages_total;
		pb->pages_done = s->pages_done;
	}
	if (s->throttle_percent > pb->throttle_percent)
		pb->throttle_percent = s->throttle_percent;
	if (s->dirty_bytes_per_s)
		pb->dirty_bytes_per_s = s->dirty_bytes_per_s;
	if (s->compressibility > 0)
		pb->compressibility = s->compressibility;
	if (s->wire_bytes > pb->wire_bytes)
		pb->wire_bytes = s->wire_bytes;
	pthread_mutex_unlock(&m->lock);
	fm_changed(m->c);
}

int fm_check_cancelled(struct fm_migration *m, struct fm_error *err)
{
	if (!m->past_commit && fm_stop_requested(&m->cancel))
		return fm_error_set(err, FM_E_CANCELLED, "cancelled");
	if (!m->past_commit && m->deadline_ms && !fm_deadline_left_ms(m->deadline_ms))
		return m->deadline_is_policys
		               ? fm_error_set(err, FM_E_DEADLINE_EXCEEDED,
		                              "the migration took longer than policy '%s' allows (migration_duration %u s)",
		                              m->terms.duration_by, m->terms.duration_s)
		               : fm_error_set(err, FM_E_DEADLINE_EXCEEDED, "the migration took longer than its limit (--max-total-time)");
	return 0;
}

/* ---------------------------------------------------------------- calls */

int fm_call(struct fm_migration *m, const char *host, enum fm_agent_method method, const void *request, int timeout_ms, void *ret_response,
            struct fm_error *err)
{
	ProtobufCMessage *resp = NULL;
	struct fm_agent_api *a = &m->c->o.agents;
	if (a->call(a->userdata, host, method, request, timeout_ms, m->c->shutdown.fd, &resp, err) < 0)
		return -1;
	if (ret_response)
		*(ProtobufCMessage **)ret_response = resp;
	else
		fm_pb_free(resp);
	return 0;
}

int fm_call_cancellable(struct fm_migration *m, const char *host, enum fm_agent_method method, const void *request, int timeout_ms,
                        void *ret_response, struct fm_error *err)
{
	ProtobufCMessage *resp = NULL;
	struct fm_agent_api *a = &m->c->o.agents;
	if (m->deadline_ms && fm_deadline_left_ms(m->deadline_ms) < timeout_ms)
		timeout_ms = fm_deadline_left_ms(m->deadline_ms) + 1; /* 0 would not be a limit */
	if (a->call(a->userdata, host, method, request, timeout_ms, m->cancel.fd, &resp, err) < 0) {
		if (err->code == FM_E_CANCELLED || err->code == FM_E_DEADLINE_EXCEEDED)
			(void)fm_check_cancelled(m, err); /* says whose wish it was */
		return -1;
	}
	*(ProtobufCMessage **)ret_response = resp;
	return 0;
}

int fm_call_status(struct fm_migration *m, const char *host, uint32_t wait_ms, FM_PB(MoverStatus) * *ret, struct fm_error *err)
{
	FM_PB(StatusRequest) req = FLEXIMIGRATE__V1__STATUS_REQUEST__INIT;
	req.migration_id = m->id;
	req.wait_ms = wait_ms;
	req.known_pages_done = m->pb->pages_done;
	return fm_call(m, host, FM_AGENT_STATUS, &req, FM_CALL_TIMEOUT_MS, ret, err);
}

int fm_call_until_answered(struct fm_migration *m, const char *host, enum fm_agent_method method, const void *request, int timeout_ms,
                           void *ret_response, struct fm_error *err)
{
	return fm_call_within(m, host, method, request, timeout_ms, -1, ret_response, err);
}

int fm_call_within(struct fm_migration *m, const char *host, enum fm_agent_method method, const void *request, int timeout_ms, int grace_ms,
                   void *ret_response, struct fm_error *err)
{
	uint64_t next_warning = fm_now_ms() + 10000, started = fm_now_ms();
	for (;;) {
		struct fm_error e = FM_ERROR_INIT;
		if (fm_call(m, host, method, request, timeout_ms, ret_response, &e) == 0)
			return 0;
		if (fm_stop_requested(&m->c->shutdown))
			return fm_error_set(err, FM_E_UNAVAILABLE, "the manager is stopping; migration %s goes on when it is back", m->id);
		if ((e.code != FM_E_UNAVAILABLE && e.code != FM_E_DEADLINE_EXCEEDED) ||
		    (grace_ms >= 0 && fm_now_ms() - started >= (uint64_t)grace_ms)) {
			if (err)
				*err = e;
			return -1;
		}
		fm_pause_look(m, host, &e);
		if (fm_now_ms() > next_warning) {
			fm_mlog(m, FM_LOG_WARN, "MigrationManager", "Still waiting for host '%s': %s", host, e.message);
			next_warning = fm_now_ms() + 10000;
		}
		(void)fm_wait_fd(m->c->shutdown.fd, POLLIN, FM_RETRY_PAUSE_MS, NULL);
	}
}
