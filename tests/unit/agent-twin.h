/* SPDX-License-Identifier: MIT */
/*
 * agent-twin.h - an in-memory twin of two agents behind struct fm_agent_api: movers with their decisions as journals know them, the
 * instances of one container on two hosts, and rules that make calls fail, lose their answer or block.
 *
 * It checks the invariant of docs/LIFECYCLE.md by itself after every call (`violations`): never two running copies, never none that could
 * run. Every call is written down ("alpha Execute"), in order. Blocked calls end when their cancel_fd is readable or the rule is lifted.
 */
#ifndef FM_TEST_AGENT_TWIN_H
#define FM_TEST_AGENT_TWIN_H

#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/clock.h"
#include "basic/str.h"
#include "loop/pool.h"
#include "migration/agent-api.h"
#include "migration/pb.h"

enum { TWIN_MAX_REDIRECTIONS = 16, TWIN_MAX_MOVERS = 64, TWIN_MAX_INSTANCES = 64, TWIN_MAX_RULES = 16, TWIN_MAX_CALLS = 4096 };

#define TWIN(d) FLEXIMIGRATE__V1__DECISION__##d

enum twin_instance_state { TWIN_GONE, TWIN_WAITING, TWIN_RUNNING, TWIN_FROZEN };

struct twin_instance {
	char host[64];
	char container[64];
	enum twin_instance_state state;
};

struct twin_mover {
	char host[64];
	char id[64];
	bool destination;
	FM_PB(Decision) decision;
	bool ran;
	int instance;
	uint32_t epoch;
	uint32_t error_code;
	bool finished;
};

/* A change of the network as its host has it: the last step that was taken. */
struct twin_redirection {
	char host[64];
	char action[512];
	FM_PB(RedirectionStep) step;
};

enum twin_action {
	TWIN_FAIL,        /* before any effect */
	TWIN_LOSE_ANSWER, /* the effect happens, the answer does not arrive */
	TWIN_BLOCK,       /* before any effect, until lifted or cancelled */
};

struct twin_rule {
	const char *host; /* NULL = any */
	const char *step; /* of Redirect: "prepare", …; NULL = any */
	enum fm_agent_method method;
	enum twin_action action;
	enum fm_code code;
	unsigned after; /* so many such calls are left alone first */
	unsigned times; /* 0 = always */
	bool spent, lifted;
};

/* What Execute does */
enum twin_execute {
	TWIN_SUCCEEDS,
	TWIN_UNDOES,           /* the source fails and undoes */
	TWIN_STAYS_PREPARED,   /* nothing happens at all */
	TWIN_STAYS_FROZEN,     /* the source is in the middle of it, until somebody says otherwise */
	TWIN_DESTINATION_DIES, /* committed, ran, and its tree is dead */
	TWIN_NEVER_RUNS,       /* committed, but the destination failed before its first instruction */
};

struct twin {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct fm_stop lift; /* wakes blocked calls */
	struct twin_mover movers[TWIN_MAX_MOVERS];
	size_t n_movers;
	struct twin_instance instances[TWIN_MAX_INSTANCES];
	size_t n_instances;
	struct twin_rule rules[TWIN_MAX_RULES];
	size_t n_rules;
	char *calls[TWIN_MAX_CALLS];
	size_t n_calls;
	struct twin_redirection redirections[TWIN_MAX_REDIRECTIONS];
	size_t n_redirections;
	enum twin_execute execute, execute_back; /* back: of a way back, "-rN" */
	unsigned violations;
	char violation[256];
	/* facts */
	bool endpoint, health, bare;   /* bare: Inspect answers without a container */
	const char *addresses[4];      /* of its endpoints in turn, IPv4 and IPv6; all NULL: one that is 10.77.0.100/24 */
	const char *listens[4];        /* where; all NULL: 0.0.0.0 */
	const char *refuses;           /* a probe of this address fails */
	char probed[512];              /* "HOST ADDRESS:PORT; …", once when it is asked again */
	bool deny;                     /* label */
	const char *throttle;          /* label, NULL = none */
	uint32_t max_throttle_percent; /* of the last PrepareSource */
	const char *streams;           /* label, NULL = none */
	uint32_t asked_streams;        /* of the last PrepareSource */
	size_t flips, reverts;         /* of the last Execute, of the last PrepareDestination */
	bool nested;
	uint32_t max_latency_ms;
	uint64_t latency_us;
	uint64_t memory_bytes;
	uint64_t pages_total;
	unsigned paused; /* so many times the destination says that pages are missing and cannot be fetched */
	const char *blockers[4];
};

static const char *const twin_method_names[_FM_AGENT_METHOD_MAX] = {
	[FM_AGENT_INFO] = "Info",
	[FM_AGENT_RUN_CONTAINER] = "RunContainer",
	[FM_AGENT_REMOVE_CONTAINER] = "RemoveContainer",
	[FM_AGENT_LIST_CONTAINERS] = "ListContainers",
	[FM_AGENT_INSPECT] = "Inspect",
	[FM_AGENT_PREPARE_DESTINATION] = "PrepareDestination",
	[FM_AGENT_PREPARE_SOURCE] = "PrepareSource",
	[FM_AGENT_EXECUTE] = "Execute",
	[FM_AGENT_STATUS] = "Status",
	[FM_AGENT_VERIFY] = "Verify",
	[FM_AGENT_PROBE] = "Probe",
	[FM_AGENT_RELEASE] = "Release",
	[FM_AGENT_ABORT] = "Abort",
	[FM_AGENT_DOCTOR] = "Doctor",
	[FM_AGENT_REDIRECT] = "Redirect",
};

/* ---------------------------------------------------------------- the model; under the lock */

static void twin_check(struct twin *t, const char *after)
{
	for (size_t c = 0; c < t->n_instances; c++) {
		unsigned running = 0, alive = 0;
		for (size_t i = 0; i < t->n_instances; i++) {
			if (strcmp(t->instances[i].container, t->instances[c].container) != 0)
				continue;
			running += t->instances[i].state == TWIN_RUNNING;
			alive += t->instances[i].state == TWIN_RUNNING || t->instances[i].state == TWIN_FROZEN;
		}
		if (running <= 1 && alive >= 1)
			continue;
		if (!t->violations++)
			(void)snprintf(t->violation, sizeof(t->violation), "after '%s': %u running, %u alive copies of %s", after, running,
			               alive, t->instances[c].container);
	}
}

static struct twin_mover *twin_mover(struct twin *t, const char *host, const char *id)
{
	for (size_t i = 0; i < t->n_movers; i++)
		if (strcmp(t->movers[i].host, host) == 0 && strcmp(t->movers[i].id, id) == 0)
			return &t->movers[i];
	return NULL;
}

static struct twin_mover *twin_peer(struct twin *t, const struct twin_mover *m)
{
	for (size_t i = 0; i < t->n_movers; i++)
		if (&t->movers[i] != m && strcmp(t->movers[i].id, m->id) == 0)
			return &t->movers[i];
	return NULL;
}

static int twin_instance_add(struct twin *t, const char *host, const char *container, enum twin_instance_state state)
{
	struct twin_instance *i = &t->instances[t->n_instances];
	if (t->n_instances == TWIN_MAX_INSTANCES)
		abort();
	(void)snprintf(i->host, sizeof(i->host), "%s", host);
	(void)snprintf(i->container, sizeof(i->container), "%s", container);
	i->state = state;
	return (int)t->n_instances++;
}

static int twin_running(struct twin *t, const char *host, const char *container)
{
	for (size_t i = 0; i < t->n_instances; i++)
		if (strcmp(t->instances[i].host, host) == 0 && strcmp(t->instances[i].container, container) == 0 &&
		    t->instances[i].state == TWIN_RUNNING)
			return (int)i;
	return -1;
}

static struct twin_mover *twin_mover_add(struct twin *t, const char *host, const char *id, bool destination, uint32_t epoch, int instance)
{
	struct twin_mover *m = &t->movers[t->n_movers];
	if (t->n_movers == TWIN_MAX_MOVERS)
		abort();
	t->n_movers++;
	*m = (struct twin_mover){ 0 };
	(void)snprintf(m->host, sizeof(m->host), "%s", host);
	(void)snprintf(m->id, sizeof(m->id), "%s", id);
	m->destination = destination;
	m->decision = TWIN(PREPARED);
	m->epoch = epoch;
	m->instance = instance;
	return m;
}

/* ---------------------------------------------------------------- methods; under the lock */

typedef int (*twin_method_fn)(struct twin *t, const char *host, const void *request, ProtobufCMessage **ret, struct fm_error *err);

static void twin_describe(const struct twin *t, FM_PB(Container) * c, FM_PB(InspectResponse) * r)
{
	bool usual = !t->addresses[0] && !t->addresses[1], everywhere = !t->listens[0];
	c->endpoint = FM_PB_NEW(Endpoint, endpoint);
	fm_pb_set(&c->endpoint->address, usual ? "10.77.0.100/24" : t->addresses[0]);
	fm_pb_set(&c->endpoint->address6, t->addresses[1]);
	fm_pb_set(&c->endpoint->mac, "02:77:00:00:01:00");
	if (t->addresses[2] || t->addresses[3]) {
		FM_PB(Endpoint) *second = FM_PB_NEW(Endpoint, endpoint);
		fm_pb_set(&second->address, t->addresses[2]);
		fm_pb_set(&second->address6, t->addresses[3]);
		FM_PB_ADD(c->more_endpoints, c->n_more_endpoints, second);
	}
	for (uint32_t i = 0; i < 4 && (t->listens[i] || (everywhere && i == 0)); i++) {
		FM_PB(Listener) *l = FM_PB_NEW(Listener, listener);
		fm_pb_set(&l->address, everywhere ? "0.0.0.0" : t->listens[i]);
		l->port = 6379 + i;
		FM_PB_ADD(r->listeners, r->n_listeners, l);
	}
}

static int twin_inspect(struct twin *t, const char *host, const void *request, ProtobufCMessage **ret, struct fm_error *err)
{
	const FM_PB(InspectRequest) *req = request;
	if (twin_running(t, host, req->container) < 0)
		return fm_error_set(err, FM_E_NOT_FOUND, "there is no container '%s' on '%s'", req->container, host);
	FM_PB(InspectResponse) *r = FM_PB_NEW(InspectResponse, inspect_response);
	*ret = &r->base;
	if (t->bare)
		return 0;
	FM_PB(Container) *c = r->container = FM_PB_NEW(Container, container);
	fm_pb_set(&c->name, req->container);
	fm_pb_set(&c->host, host);
	fm_pb_set(&c->kind, t->nested ? "nested" : "ordinary");
	c->memory_bytes = t->memory_bytes;
	c->processes = 2;
	if (t->endpoint)
		twin_describe(t, c, r);
	if (t->health) {
		c->health = FM_PB_NEW(HealthCheck, health_check);
		fm_pb_set(&c->health->probe, "http:80/health");
		c->health->max_latency_ms = t->max_latency_ms;
		c->health->attempts = 2;
	}
	if (t->deny) {
		FM_PB(Label) *l = FM_PB_NEW(Label, label);
		fm_pb_set(&l->key, "fleximigrate.migrate");
		fm_pb_set(&l->value, "deny");
		FM_PB_ADD(c->labels, c->n_labels, l);
	}
	if (t->throttle) {
		FM_PB(Label) *l = FM_PB_NEW(Label, label);
		fm_pb_set(&l->key, "fleximigrate.throttle");
		fm_pb_set(&l->value, t->throttle);
		FM_PB_ADD(c->labels, c->n_labels, l);
	}
	if (t->streams) {
		FM_PB(Label) *l = FM_PB_NEW(Label, label);
		fm_pb_set(&l->key, "fleximigrate.streams");
		fm_pb_set(&l->value, t->streams);
		FM_PB_ADD(c->labels, c->n_labels, l);
	}
	for (int i = 0; i < 4 && t->blockers[i]; i++)
		fm_pb_add_string(&r->blockers, &r->n_blockers, t->blockers[i]);
	return 0;
}

static int twin_prepare_destination(struct twin *t, const char *host, const void *request, ProtobufCMessage **ret, struct fm_error *err)
{
	const FM_PB(PrepareDestinationRequest) *req = request;
	if (twin_mover(t, host, req->migration_id))
		return fm_error_set(err, FM_E_ALREADY_EXISTS, "migration %s is known on '%s' already", req->migration_id, host);
	t->reverts = req->n_reverts;
	(void)twin_mover_add(t, host, req->migration_id, true, req->epoch, twin_instance_add(t, host, req->container->name, TWIN_WAITING));
	FM_PB(PrepareDestinationResponse) *r = FM_PB_NEW(PrepareDestinationResponse, prepare_destination_response);
	fm_pb_set(&r->stream_address, "10.77.0.2:40000");
	fm_pb_set(&r->token, "0123456789abcdef0123456789abcdef");
	fm_pb_add_string(&r->network_notes, &r->n_network_notes, "Endpoint prepared, its port closed");
	*ret = &r->base;
	return 0;
}

static int twin_prepare_source(struct twin *t, const char *host, const void *request, ProtobufCMessage **ret, struct fm_error *err)
{
	const FM_PB(PrepareSourceRequest) *req = request;
	int i = twin_running(t, host, req->container);
	if (i < 0)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "container '%s' does not run on '%s'", req->container, host);
	if (twin_mover(t, host, req->migration_id))
		return fm_error_set(err, FM_E_ALREADY_EXISTS, "migration %s is known on '%s' already", req->migration_id, host);
	(void)twin_mover_add(t, host, req->migration_id, false, req->epoch, i);
	t->max_throttle_percent = req->max_throttle_percent;
	t->asked_streams = req->streams;
	FM_PB(PrepareSourceResponse) *r = FM_PB_NEW(PrepareSourceResponse, prepare_source_response);
	fm_pb_set(&r->checkpoint_id, "ckpt-1");
	*ret = &r->base;
	return 0;
}

static FM_PB(MoverStatus) * twin_status_of(struct twin *t, const struct twin_mover *m)
{
	FM_PB(MoverStatus) *s = FM_PB_NEW(MoverStatus, mover_status);
	enum twin_instance_state state = t->instances[m->instance].state;
	fm_pb_set(&s->migration_id, m->id);
	fm_pb_set(&s->role, m->destination ? "destination" : "source");
	s->decision = m->decision;
	s->ran = m->ran;
	s->alive = !m->finished && (state == TWIN_RUNNING || state == TWIN_FROZEN);
	fm_pb_set(&s->step, m->destination && m->decision == TWIN(COMMITTED) ? "pages complete" : "");
	s->pages_total = s->pages_done = m->destination ? t->pages_total : 0;
	if (m->destination && m->decision == TWIN(COMMITTED) && t->paused > 0) {
		t->paused--;
		fm_pb_set(&s->step, "running");
		s->pages_done = t->pages_total / 4;
		s->pause = FM_PB_NEW(Pause, pause);
		s->pause->since_unix_ms = 1000;
		s->pause->pages_missing = s->pages_total - s->pages_done;
		fm_pb_set(&s->pause->reason, "the connection to 'alpha' is down: cut");
	}
	s->frozen_us = m->destination ? 0 : 34000;
	s->wire_bytes = 64000000;
	s->throttle_percent = !m->destination && t->max_throttle_percent ? 20 : 0;
	s->error_code = m->error_code;
	if (m->error_code)
		fm_pb_set(&s->error_message, "the twin was told to fail");
	FM_PB(Phase) *p = FM_PB_NEW(Phase, phase);
	fm_pb_set(&p->name, "dump");
	p->duration_us = 1000;
	FM_PB_ADD(s->phases, s->n_phases, p);
	return s;
}

static void twin_switch_over(struct twin *t, struct twin_mover *src, struct twin_mover *dst, enum twin_execute how)
{
	t->instances[src->instance].state = TWIN_FROZEN;
	src->decision = TWIN(FROZEN);
	if (how == TWIN_STAYS_FROZEN)
		return;
	dst->decision = TWIN(RESTORED);
	src->decision = TWIN(COMMITTED);
	if (how == TWIN_NEVER_RUNS) {
		dst->error_code = FM_E_INTERNAL;
		return;
	}
	dst->decision = TWIN(COMMITTED);
	dst->ran = true;
	t->instances[dst->instance].state = TWIN_RUNNING;
	if (how == TWIN_DESTINATION_DIES) {
		t->instances[dst->instance].state = TWIN_GONE;
		dst->error_code = FM_E_DATA_LOSS;
	}
}

static int twin_execute(struct twin *t, const char *host, const void *request, ProtobufCMessage **ret, struct fm_error *err)
{
	const FM_PB(ExecuteRequest) *req = request;
	struct twin_mover *src = twin_mover(t, host, req->migration_id), *dst = src ? twin_peer(t, src) : NULL;
	enum twin_execute how = strstr(req->migration_id, "-r") ? t->execute_back : t->execute;
	if (!src || src->destination || src->decision != TWIN(PREPARED) || !dst || src->epoch != req->epoch)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "migration %s is not prepared as a source on '%s'", req->migration_id,
		                    host);
	t->flips = req->n_flips;
	if (how == TWIN_UNDOES) {
		src->decision = TWIN(ABORTED);
		src->error_code = FM_E_DATA_LOSS;
		src->finished = true;
	} else if (how != TWIN_STAYS_PREPARED) {
		twin_switch_over(t, src, dst, how);
	}
	*ret = &twin_status_of(t, src)->base;
	return 0;
}

static int twin_status(struct twin *t, const char *host, const void *request, ProtobufCMessage **ret, struct fm_error *err)
{
	const FM_PB(StatusRequest) *req = request;
	struct twin_mover *m = twin_mover(t, host, req->migration_id);
	*ret = m ? &twin_status_of(t, m)->base : fm_pb_new_raw(&fleximigrate__v1__mover_status__descriptor);
	return 0;
}

static int twin_verify(struct twin *t, const char *host, const void *request, ProtobufCMessage **ret, struct fm_error *err)
{
	const FM_PB(VerifyRequest) *req = request;
	struct twin_mover *m = twin_mover(t, host, req->migration_id);
	if (!m || !m->destination || m->decision != TWIN(COMMITTED) || t->instances[m->instance].state != TWIN_RUNNING)
		return fm_error_set(err, FM_E_DATA_LOSS, "the application does not run on '%s'", host);
	FM_PB(VerifyResponse) *r = FM_PB_NEW(VerifyResponse, verify_response);
	r->ok = true;
	*ret = &r->base;
	return 0;
}

static int twin_probe(struct twin *t, const char *host, const void *request, ProtobufCMessage **ret, struct fm_error *err)
{
	const FM_PB(ProbeRequest) *req = request;
	_fm_free_ char *at = fm_xasprintf("%s %s:%u", host, req->address, req->port);
	size_t n = strlen(t->probed);
	if (!fm_str_endswith(t->probed, at))
		(void)snprintf(t->probed + n, sizeof(t->probed) - n, "%s%s", n ? "; " : "", at);
	if (fm_streq(t->refuses, req->address))
		return fm_error_set(err, FM_E_UNAVAILABLE, "%s refuses", req->address);
	FM_PB(VerifyResponse) *r = FM_PB_NEW(VerifyResponse, verify_response);
	r->ok = true;
	r->latency_us = t->latency_us;
	*ret = &r->base;
	return 0;
}

static int twin_release(struct twin *t, const char *host, const void *request, ProtobufCMessage **ret, struct fm_error *err)
{
	const FM_PB(IdRequest) *req = request;
	struct twin_mover *m = twin_mover(t, host, req->id);
	if (m && !m->finished) {
		if (m->decision != TWIN(COMMITTED))
			return fm_error_set(err, FM_E_FAILED_PRECONDITION, "migration %s has not been committed on '%s'", req->id, host);
		m->decision = TWIN(RELEASED);
		m->finished = true;
		if (!m->destination)
			t->instances[m->instance].state = TWIN_GONE;
	}
	*ret = fm_pb_new_raw(&fleximigrate__v1__empty__descriptor);
	return 0;
}

static int twin_abort(struct twin *t, const char *host, const void *request, ProtobufCMessage **ret, struct fm_error *err)
{
	const FM_PB(AbortRequest) *req = request;
	struct twin_mover *m = twin_mover(t, host, req->migration_id);
	FM_PB(AbortResponse) *r = NULL;
	if (m && !m->finished) {
		if (!m->destination && m->decision == TWIN(COMMITTED) && !req->destination_is_dead)
			return fm_error_set(err, FM_E_FAILED_PRECONDITION, "migration %s is past its commit point", m->id);
		m->decision = TWIN(ABORTED);
		m->finished = true;
		t->instances[m->instance].state = m->destination ? TWIN_GONE : TWIN_RUNNING;
	}
	r = FM_PB_NEW(AbortResponse, abort_response);
	if (m)
		fm_pb_add_string(&r->undone, &r->n_undone, "what was done");
	*ret = &r->base;
	return 0;
}

static struct twin_redirection *twin_redirection(struct twin *t, const char *host, const char *action)
{
	for (size_t i = 0; i < t->n_redirections; i++)
		if (strcmp(t->redirections[i].host, host) == 0 && strcmp(t->redirections[i].action, action) == 0)
			return &t->redirections[i];
	if (t->n_redirections == TWIN_MAX_REDIRECTIONS)
		abort();
	struct twin_redirection *r = &t->redirections[t->n_redirections++];
	(void)snprintf(r->host, sizeof(r->host), "%s", host);
	(void)snprintf(r->action, sizeof(r->action), "%s", action);
	return r;
}

/* Wants the undo that its preparation gave, and changes nothing before. */
static int twin_redirect(struct twin *t, const char *host, const void *request, ProtobufCMessage **ret, struct fm_error *err)
{
	const FM_PB(RedirectRequest) *req = request;
	for (size_t i = 0; i < req->n_keep; i++)
		twin_redirection(t, host, req->keep[i]->action)->step = req->step;
	if (req->n_keep) {
		*ret = fm_pb_new_raw(&fleximigrate__v1__redirect_response__descriptor);
		return 0;
	}
	bool prepare = req->step == FLEXIMIGRATE__V1__REDIRECTION_STEP__REDIRECTION_PREPARED;
	if (prepare == (req->redirection->undo[0] != '\0'))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "step %d with undo '%s'", (int)req->step, req->redirection->undo);
	twin_redirection(t, host, req->redirection->action)->step = req->step;
	FM_PB(RedirectResponse) *r = FM_PB_NEW(RedirectResponse, redirect_response);
	if (prepare)
		fm_pb_set(&r->undo, "{\"was\":\"there\"}");
	*ret = &r->base;
	return 0;
}

static const twin_method_fn twin_methods[_FM_AGENT_METHOD_MAX] = {
	[FM_AGENT_INSPECT] = twin_inspect,
	[FM_AGENT_PREPARE_DESTINATION] = twin_prepare_destination,
	[FM_AGENT_PREPARE_SOURCE] = twin_prepare_source,
	[FM_AGENT_EXECUTE] = twin_execute,
	[FM_AGENT_STATUS] = twin_status,
	[FM_AGENT_VERIFY] = twin_verify,
	[FM_AGENT_PROBE] = twin_probe,
	[FM_AGENT_RELEASE] = twin_release,
	[FM_AGENT_ABORT] = twin_abort,
	[FM_AGENT_REDIRECT] = twin_redirect,
};

/* ---------------------------------------------------------------- the call */

static struct twin_rule *twin_find_rule(struct twin *t, const char *host, enum fm_agent_method method, const char *step)
{
	for (size_t i = 0; i < t->n_rules; i++) {
		struct twin_rule *r = &t->rules[i];
		if (r->spent || r->lifted || r->method != method || (r->host && strcmp(r->host, host) != 0) ||
		    (r->step && strcmp(r->step, step) != 0))
			continue;
		if (r->after) {
			r->after--;
			continue;
		}
		if (r->times && --r->times == 0)
			r->spent = true;
		return r;
	}
	return NULL;
}

/* FM_OK: lifted */
static enum fm_code twin_wait_lifted(struct twin *t, const struct twin_rule *r, int cancel_fd, int timeout_ms)
{
	uint64_t until = fm_now_ms() + (uint64_t)timeout_ms;
	for (;;) {
		struct pollfd p[2] = { { .fd = cancel_fd, .events = POLLIN }, { .fd = t->lift.fd, .events = POLLIN } };
		pthread_mutex_lock(&t->lock);
		bool lifted = r->lifted;
		pthread_mutex_unlock(&t->lock);
		if (lifted)
			return FM_OK;
		(void)poll(p, 2, fm_deadline_left_ms(until));
		if (p[0].revents)
			return FM_E_CANCELLED;
		if (!fm_deadline_left_ms(until))
			return FM_E_DEADLINE_EXCEEDED;
	}
}

static bool twin_readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	return fd >= 0 && poll(&p, 1, 0) > 0;
}

static int twin_call(void *userdata, const char *host, enum fm_agent_method method, const ProtobufCMessage *request, int timeout_ms,
                     int cancel_fd, ProtobufCMessage **ret, struct fm_error *err)
{
	struct twin *t = userdata;
	ProtobufCMessage *resp = NULL;
	enum twin_action action = TWIN_FAIL;
	enum fm_code code = FM_OK;
	static const char *const steps[] = { "", " prepare", " open", " flip", " verify", " revert", " keep" };
	bool dead = method == FM_AGENT_ABORT && ((const FM_PB(AbortRequest) *)request)->destination_is_dead;
	const char *more = dead ? " dead" : method == FM_AGENT_REDIRECT ? steps[((const FM_PB(RedirectRequest) *)request)->step] : "";
	if (twin_readable(cancel_fd))
		return fm_error_set(err, FM_E_CANCELLED, "host %s: cancelled", host);
	pthread_mutex_lock(&t->lock);
	if (t->n_calls < TWIN_MAX_CALLS)
		t->calls[t->n_calls++] = fm_xasprintf("%s %s%s", host, twin_method_names[method], more);
	struct twin_rule *r = twin_find_rule(t, host, method, more[0] ? more + 1 : more);
	if (r) {
		action = r->action;
		code = r->code;
	}
	pthread_cond_broadcast(&t->changed);
	pthread_mutex_unlock(&t->lock);
	enum fm_code ended = r && action == TWIN_BLOCK ? twin_wait_lifted(t, r, cancel_fd, timeout_ms) : FM_OK;
	if (ended != FM_OK)
		return fm_error_set(err, ended, "host %s: the call ended", host);
	if (r && action == TWIN_FAIL)
		return fm_error_set(err, code, "host %s: %s was told to fail", host, twin_method_names[method]);
	pthread_mutex_lock(&t->lock);
	int rc = twin_methods[method] ? twin_methods[method](t, host, request, &resp, err)
	                              : fm_error_set(err, FM_E_UNIMPLEMENTED, "the twin does not do that");
	twin_check(t, twin_method_names[method]);
	pthread_mutex_unlock(&t->lock);
	if (rc == 0 && r && action == TWIN_LOSE_ANSWER) {
		fm_pb_free(resp);
		return fm_error_set(err, code, "host %s: the answer was lost", host);
	}
	if (rc == 0)
		*ret = resp;
	return rc;
}

/* ---------------------------------------------------------------- for tests */

static inline struct twin *twin_new(void)
{
	struct twin *t = calloc(1, sizeof(*t));
	if (!t || fm_stop_init(&t->lift, NULL) < 0)
		abort();
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->changed, NULL);
	t->nested = true;
	t->memory_bytes = 64u << 20;
	t->pages_total = 100;
	return t;
}

static inline void twin_free(struct twin *t)
{
	for (size_t i = 0; i < t->n_calls; i++)
		free(t->calls[i]);
	fm_stop_done(&t->lift);
	pthread_cond_destroy(&t->changed);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

static inline struct fm_agent_api twin_api(struct twin *t)
{
	return (struct fm_agent_api){ .userdata = t, .call = twin_call };
}

static inline void twin_rule_add(struct twin *t, struct twin_rule rule)
{
	pthread_mutex_lock(&t->lock);
	if (t->n_rules == TWIN_MAX_RULES)
		abort();
	t->rules[t->n_rules++] = rule;
	pthread_mutex_unlock(&t->lock);
}

static inline void twin_lift_all(struct twin *t)
{
	pthread_mutex_lock(&t->lock);
	for (size_t i = 0; i < t->n_rules; i++)
		t->rules[i].lifted = true;
	pthread_mutex_unlock(&t->lock);
	fm_stop_request(&t->lift);
}

static inline unsigned twin_count_locked(struct twin *t, const char *call)
{
	unsigned n = 0;
	for (size_t i = 0; i < t->n_calls; i++)
		n += strcmp(t->calls[i], call) == 0;
	return n;
}

static inline unsigned twin_count(struct twin *t, const char *call)
{
	pthread_mutex_lock(&t->lock);
	unsigned n = twin_count_locked(t, call);
	pthread_mutex_unlock(&t->lock);
	return n;
}

/* Until that call has come in n times. The test's alarm ends a wait in vain. */
static inline void twin_await(struct twin *t, const char *call, unsigned n)
{
	pthread_mutex_lock(&t->lock);
	while (twin_count_locked(t, call) < n)
		pthread_cond_wait(&t->changed, &t->lock);
	pthread_mutex_unlock(&t->lock);
}

/* All calls of one kind, as one text: "beta Abort, alpha Abort dead" */
static inline char *twin_calls_like(struct twin *t, const char *part)
{
	struct fm_buf b = FM_BUF_INIT;
	fm_buf_add(&b, "", 0);
	pthread_mutex_lock(&t->lock);
	for (size_t i = 0; i < t->n_calls; i++)
		if (strstr(t->calls[i], part))
			fm_buf_addf(&b, "%s%s", b.len ? ", " : "", t->calls[i]);
	pthread_mutex_unlock(&t->lock);
	return b.data ? b.data : fm_xstrdup("");
}

/* Where the one running copy is, "" none */
static inline const char *twin_where(struct twin *t, const char *container)
{
	const char *host = "";
	pthread_mutex_lock(&t->lock);
	for (size_t i = 0; i < t->n_instances; i++)
		if (strcmp(t->instances[i].container, container) == 0 && t->instances[i].state == TWIN_RUNNING)
			host = t->instances[i].host;
	pthread_mutex_unlock(&t->lock);
	return host;
}

/* What is left besides one running instance a container, and movers that nobody has finished */
static inline unsigned twin_leftovers(struct twin *t)
{
	unsigned n = 0;
	pthread_mutex_lock(&t->lock);
	for (size_t i = 0; i < t->n_instances; i++)
		n += t->instances[i].state == TWIN_WAITING || t->instances[i].state == TWIN_FROZEN;
	for (size_t i = 0; i < t->n_movers; i++)
		n += !t->movers[i].finished;
	pthread_mutex_unlock(&t->lock);
	return n;
}

/* The agent forgets what it has finished, and undoes what was not committed. */
static inline void twin_restart_agent(struct twin *t, const char *host)
{
	size_t out = 0;
	pthread_mutex_lock(&t->lock);
	for (size_t i = 0; i < t->n_movers; i++) {
		struct twin_mover *m = &t->movers[i];
		bool here = strcmp(m->host, host) == 0;
		if (here && !m->finished && m->decision != TWIN(COMMITTED)) {
			m->decision = TWIN(ABORTED);
			m->finished = true;
			t->instances[m->instance].state = m->destination ? TWIN_GONE : TWIN_RUNNING;
		} else if (here && m->finished) {
			continue;
		}
		t->movers[out++] = *m;
	}
	t->n_movers = out;
	twin_check(t, "restart of an agent");
	pthread_mutex_unlock(&t->lock);
}

#endif
