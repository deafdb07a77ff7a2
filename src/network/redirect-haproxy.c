/* SPDX-License-Identifier: MIT */
/*
 * redirect-haproxy.c - driver "haproxy": a load balancer's server follows the container. What the policies' action trigger_load_balancer_reconfiguration does. Run by the manager.
 *
 *   {"driver":"haproxy","socket":"/run/haproxy/admin.sock","backend":"be","server":"redis1","from":"10.77.0.100:6379","to":"10.78.0.100:6379","drain":true,"max_drain_ms":2000}
 *
 *     ready, from  --open-->  drain, from  --flip-->  drain, to  --flip-->  ready, to
 *
 * With "drain" new sessions go to the backend's other servers from open on (so there must be one: else they would be refused), and open waits up to max_drain_ms for those that stand to end. Without it only
 * the address changes. A server that was drained or in maintenance before is somebody's decision: it stays so, at its new address.
 *
 * The undo is the address and the state as they were: {"address":"10.77.0.100:6379","state":"ready"}. The weight is not touched (HAProxy's agents and operators change it as they like), and so not undone.
 * Each step looks first; an address that is neither, or a state that no step of this action leaves, is somebody else's: ABORTED. HAProxy cannot compare and change in one, so somebody who acts in the
 * millisecond between is overwritten.
 */
#include <stdio.h>
#include <string.h>

#include "basic/clock.h"
#include "basic/str.h"
#include "network/fields.h"
#include "network/haproxy.h"
#include "network/redirect.h"

#define ME             "haproxy"
#define DRAIN_MS_MAX   600000
#define DRAIN_PAUSE_MS 20
#define UP_PAUSE_MS    50

struct job {
	struct fm_haproxy_call call;
	struct fm_haproxy_address from, to;
	bool drain;
	uint64_t max_drain_ms;
	struct fm_haproxy_address old; /* of the undo */
	enum fm_haproxy_state old_state;
};

/* ---- reading ---- */

static int read_address(const char *text, void *ret, struct fm_error *err)
{
	return fm_haproxy_address_parse(text, ret, err);
}

static int read_state(const char *text, void *ret, struct fm_error *err)
{
	return fm_haproxy_state_from_string(text, ret, err);
}

static int check_names(const struct fm_haproxy_call *c, const struct fm_place *at, struct fm_error *err)
{
	if (fm_haproxy_socket_check(c->socket, err) < 0)
		return fm_field_error(at, "socket", err);
	if (fm_haproxy_name_check(c->backend, err) < 0)
		return fm_field_error(at, "backend", err);
	return fm_haproxy_name_check(c->server, err) < 0 ? fm_field_error(at, "server", err) : 0;
}

static int read_action(const struct fm_redirect_call *c, const json_t *a, struct job *j, struct fm_error *err)
{
#define IN_CALL(member, most) .name = #member, .offset = offsetof(struct job, call.member), .max = most, .required = true
	static const struct fm_field fields[] = {
		FM_FIELD_DRIVER,
		{ IN_CALL(socket, 255) },
		{ IN_CALL(backend, FM_HAPROXY_NAME_MAX) },
		{ IN_CALL(server, FM_HAPROXY_NAME_MAX) },
		{ FM_FIELD(struct job, from), .parse = read_address, .required = true },
		{ FM_FIELD(struct job, to), .parse = read_address, .required = true },
		{ FM_FIELD(struct job, drain), .type = FM_FIELD_BOOL },
		{ FM_FIELD(struct job, max_drain_ms), .type = FM_FIELD_U64, .max = DRAIN_MS_MAX },
		{ 0 },
	};
#undef IN_CALL
	const struct fm_place at = { .who = ME };

	*j = (struct job){ .call = { .deadline_ms = c->deadline_ms, .cancel_fd = c->cancel_fd } };
	if (fm_fields_read(a, &at, fields, j, err) < 0 || check_names(&j->call, &at, err) < 0)
		return -1;
	if (j->max_drain_ms > 0 && !j->drain)
		return fm_field_wrong(&at, "max_drain_ms", "is given without \"drain\"", err);
	return 0;
}

static int read_undo(const json_t *undo, struct job *j, struct fm_error *err)
{
	static const struct fm_field fields[] = {
		{ .name = "address", .parse = read_address, .offset = offsetof(struct job, old), .required = true },
		{ .name = "state", .parse = read_state, .offset = offsetof(struct job, old_state), .required = true },
		{ 0 },
	};
	const struct fm_place at = { .who = ME ": undo", .code = FM_E_DATA_LOSS };

	return fm_fields_read(undo, &at, fields, j, err);
}

static int read_job(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct job *j, struct fm_error *err)
{
	return read_action(c, action, j, err) < 0 ? -1 : read_undo(undo, j, err);
}

static bool same(const struct fm_haproxy_address *a, const struct fm_haproxy_address *b)
{
	return a->port == b->port && strcmp(a->host, b->host) == 0;
}

static int found(const struct job *j, enum fm_code code, const struct fm_haproxy_server *now, const char *wanted, struct fm_error *err)
{
	char text[FM_HAPROXY_ADDRESS_TEXT];

	return fm_error_set(err, code, "%s: server %s/%s is at %s, %s, %s", ME, j->call.backend, j->call.server,
	                    fm_haproxy_address_format(&now->address, text), fm_haproxy_state_to_string(now->state), wanted);
}

/* ---- before ---- */

/* What would make the change wrong although HAProxy takes it. */
static int check_server(const struct job *j, const struct fm_haproxy_server *now, struct fm_error *err)
{
	const char *name = j->call.server;

	if (now->by_name) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION,
		                   "%s: server %s has its address from a name, and HAProxy may look it up again any time", ME, name);
		return fm_error_hint(err, "move the name (driver dns), or write an address into HAProxy's configuration");
	}
	if (same(&j->from, &j->to))
		return 0;
	if (now->checked_elsewhere || (now->check_port && j->from.port != j->to.port)) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION,
		                   "%s: the health checks of server %s go to %s of their own, which would not move", ME, name,
		                   now->checked_elsewhere ? "an address" : "a port");
		return fm_error_hint(err, "leave out %s in HAProxy's configuration", now->checked_elsewhere ? "\"addr\"" : "\"port\"");
	}
	return 0;
}

static int check_others(const struct job *j, const struct fm_haproxy_server *now, struct fm_error *err)
{
	if (!j->drain || now->state != FM_HAPROXY_READY || now->others_ready > 0)
		return 0;
	(void)fm_error_set(err, FM_E_FAILED_PRECONDITION,
	                   "%s: no other server of backend %s takes new sessions now: draining %s would refuse them all", ME,
	                   j->call.backend, j->call.server);
	return fm_error_hint(err, "leave out \"drain\": then only the address changes");
}

static int prepare(const struct fm_redirect_call *c, const json_t *action, json_t **ret_undo, struct fm_error *err)
{
	struct fm_haproxy_server now = { 0 };
	char text[FM_HAPROXY_ADDRESS_TEXT];
	uint64_t sessions = 0;
	struct job j;

	if (read_action(c, action, &j, err) < 0 || fm_haproxy_look(&j.call, &now, err) < 0 || check_server(&j, &now, err) < 0)
		return -1;
	if (!same(&now.address, &j.from))
		return found(&j, FM_E_ABORTED, &now, "not where \"from\" says", err);
	if (check_others(&j, &now, err) < 0)
		return -1;
	if (j.drain && fm_haproxy_sessions(&j.call, &sessions, err) < 0)
		return -1;
	/* a socket that may ask but not tell would be found out in the middle of the move */
	if (fm_haproxy_may_change(&j.call, err) < 0)
		return -1;
	*ret_undo = json_pack("{s:s, s:s}", "address", fm_haproxy_address_format(&now.address, text), "state",
	                      fm_haproxy_state_to_string(now.state));
	return *ret_undo ? 0 : fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "%s: no memory", ME);
}

/* ---- and after ---- */

/* As it was, as it shall be, or in between. */
static int look(const struct job *j, struct fm_haproxy_server *ret, struct fm_error *err)
{
	bool may_drain = j->drain && j->old_state == FM_HAPROXY_READY;

	if (fm_haproxy_look(&j->call, ret, err) < 0)
		return -1;
	if ((same(&ret->address, &j->old) || same(&ret->address, &j->to)) &&
	    (ret->state == j->old_state || (may_drain && ret->state == FM_HAPROXY_DRAIN)))
		return 0;
	(void)found(j, FM_E_ABORTED, ret, "neither as before nor as this move leaves it", err);
	return fm_error_hint(err, "somebody else has changed the server; it was left as it is");
}

/* Sessions that do not end in this time are the move's: they are not waited for, and not cut either. */
static int wait_drained(const struct job *j, struct fm_error *err)
{
	uint64_t end_ms = fm_now_ms() + j->max_drain_ms, sessions = 0;

	for (;;) {
		if (fm_haproxy_sessions(&j->call, &sessions, err) < 0)
			return -1;
		if (sessions == 0 || fm_now_ms() >= end_ms)
			return 0;
		if (fm_haproxy_pause(&j->call, DRAIN_PAUSE_MS, err) < 0)
			return -1;
	}
}

static int do_open(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	struct fm_haproxy_server now = { 0 };
	struct job j;

	if (read_job(c, action, undo, &j, err) < 0 || look(&j, &now, err) < 0)
		return -1;
	if (!j.drain || !same(&now.address, &j.old)) /* nothing to widen, or flipped already */
		return 0;
	if (check_others(&j, &now, err) < 0) /* one more may have gone since */
		return -1;
	if (now.state == FM_HAPROXY_READY && fm_haproxy_set_state(&j.call, FM_HAPROXY_DRAIN, err) < 0)
		return -1;
	return j.max_drain_ms > 0 ? wait_drained(&j, err) : 0;
}

/* The address first: nobody new goes to the wrong one. */
static int settle(const struct job *j, const struct fm_haproxy_address *address, struct fm_error *err)
{
	struct fm_haproxy_server now = { 0 };

	if (look(j, &now, err) < 0 || (!same(&now.address, address) && fm_haproxy_point(&j->call, address, err) < 0))
		return -1;
	return now.state == j->old_state ? 0 : fm_haproxy_set_state(&j->call, j->old_state, err);
}

static int flip(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	struct job j;

	return read_job(c, action, undo, &j, err) < 0 ? -1 : settle(&j, &j.to, err);
}

static int revert(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	struct job j;

	return read_job(c, action, undo, &j, err) < 0 ? -1 : settle(&j, &j.old, err);
}

/* A server that its checks have seen down in the freeze comes back with the next ones: that is waited for. (Before the first check at the new address HAProxy goes by the last one at the old.) */
static int verify(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	struct fm_haproxy_server now = { 0 };
	struct fm_error late = FM_ERROR_INIT;
	struct job j;

	if (read_job(c, action, undo, &j, err) < 0)
		return -1;
	for (;;) {
		if (fm_haproxy_look(&j.call, &now, err) < 0)
			return -1;
		if (!same(&now.address, &j.to) || now.state != j.old_state)
			return found(&j, FM_E_FAILED_PRECONDITION, &now, "not as this move leaves it", err);
		if (now.up || now.state == FM_HAPROXY_MAINT)
			return 0;
		if (fm_haproxy_pause(&j.call, UP_PAUSE_MS, &late) < 0)
			break;
	}
	if (late.code == FM_E_DEADLINE_EXCEEDED)
		return found(&j, FM_E_FAILED_PRECONDITION, &now, "but its health checks say that it is down", err);
	if (err)
		*err = late;
	return -1;
}

const struct fm_redirect_ops fm_redirect_haproxy = {
	.name = ME,
	.title = "servers of HAProxy",
	.prepare = prepare,
	.open = do_open,
	.flip = flip,
	.verify = verify,
	.revert = revert,
};
