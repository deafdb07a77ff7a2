/* SPDX-License-Identifier: MIT */
/*
 * redirect-rest.c - the redirection driver "rest": flows of switches, changed by somebody else's controller over the REST interface that users of ryu and os-ken know (ofctl_rest): GET /stats/switches,
 * /stats/flow/<dpid>, /stats/desc/<dpid>, POST /stats/flowentry/{add,modify_strict,delete_strict}. The action and what flows mean: redirect-flow.h.
 *
 * Such a controller says 200 when it has passed a change on, not when the switch has made it, and it answers a question about flows with "none" when the switch does not answer in time. So
 * - after each change the flow is read, and a change that is not there after SETTLE_MS was refused: by whom, and why, the controller's log knows;
 * - where our flow is not in the list, the switch is asked for its description, too: no description, no belief that there is no flow.
 *
 * Several switches change one after the other, there is nothing like a bundle. When one fails, it and those before it are taken back. The way forward has half of the time, so that the way back has some.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "basic/clock.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "network/http.h"
#include "network/redirect-flow.h"
#include "network/redirect.h"
#include "network/rest-flow.h"

#define SETTLE_MS       500 /* from the controller's 200 to the change on the switch */
#define SETTLE_PAUSE_MS 20

struct session {
	struct fm_flow_plan plan;
	const struct fm_redirect_call *call;
	char *base, *ca_path; /* the URL without a slash at its end */
	uint64_t until_ms;    /* of what is being done now; at most the call's deadline */
	int cancel_fd;
};

static void json_done(json_t **j)
{
	json_decref(*j);
}

static void session_free(struct session *s)
{
	free(s->base);
	free(s->ca_path);
	free(s);
}
FM_DEFINE_CLEANUP(struct session *, session_free);
#define _session_ _fm_cleanup_(session_freep)

static char *base_of(const char *url)
{
	size_t n = strlen(url);

	while (n > 0 && url[n - 1] == '/')
		n--;
	return fm_xasprintf("%.*s", (int)n, url);
}

static int session_new(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct session **ret,
                       struct fm_error *err)
{
	_session_ struct session *s = calloc(1, sizeof(*s));

	if (!s)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "rest: no memory for a session");
	s->call = c;
	s->until_ms = c->deadline_ms;
	s->cancel_fd = c->cancel_fd;
	if (fm_flow_plan_parse(action, FM_FLOW_REST, &s->plan, err) < 0 || (undo && fm_flow_undo_parse(&s->plan, undo, err) < 0))
		return -1;
	s->base = base_of(s->plan.url);
	if (s->plan.ca && !c->secrets_dir)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "rest: ca: there is no folder for such files here");
	if (s->plan.ca)
		s->ca_path = fm_xasprintf("%s/%s", c->secrets_dir, s->plan.ca);
	*ret = FM_TAKE_PTR(s);
	return 0;
}

/* ---- asking ---- */

static int hint_of(const struct session *s, enum fm_code code, struct fm_error *err)
{
	if (code == FM_E_UNAVAILABLE || code == FM_E_DEADLINE_EXCEEDED)
		return fm_error_hint(err, "is the controller running, and does it answer: curl %.150s/stats/switches", s->base);
	if (code == FM_E_NOT_FOUND)
		return fm_error_hint(
		        err, "the controller does not know it: is the switch connected to it, does it serve ofctl_rest's /stats/…?");
	return -1;
}

/* GET, or POST of a body, of base + path; *ret_answer may be NULL when nothing is to be read. */
static int ask(const struct session *s, const char *path, const char *body, json_t **ret_answer, struct fm_error *err)
{
	_fm_http_response_ struct fm_http_response answer = { 0 };
	_fm_free_ char *url = fm_xasprintf("%s%s", s->base, path);
	struct fm_http_request r = { .method = body ? "POST" : "GET",
		                     .url = url,
		                     .unix_socket = s->plan.unix_socket,
		                     .body = body,
		                     .body_len = body ? strlen(body) : 0,
		                     .ca_file = s->ca_path,
		                     .deadline_ms = s->until_ms,
		                     .cancel_fd = s->cancel_fd };
	struct fm_error e = FM_ERROR_INIT;

	if (fm_http_call(&r, &answer, &e) < 0 || fm_http_expect_ok(&r, &answer, &e) < 0 ||
	    (ret_answer && fm_rest_parse(answer.body, answer.body_len, ret_answer, &e) < 0)) {
		(void)hint_of(s, e.code, &e);
		if (err)
			*err = e;
		return fm_error_prefix(err, "rest: controller");
	}
	return 0;
}

static int ask_of_switch(const struct session *s, size_t i, const char *what, json_t **ret, struct fm_error *err)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "/stats/%s/%" PRIu64, what, s->plan.at[i].dpid);
	return ask(s, path, NULL, ret, err) < 0 ? fm_error_prefix(err, "switch %s", s->plan.at[i].name) : 0;
}

/* Does the switch answer the controller? */
static int check_alive(const struct session *s, size_t i, struct fm_error *err)
{
	_fm_cleanup_(json_done) json_t *answer = NULL;
	char key[24];

	(void)snprintf(key, sizeof(key), "%" PRIu64, s->plan.at[i].dpid);
	if (ask_of_switch(s, i, "desc", &answer, err) < 0)
		return -1;
	if (json_object_size(json_object_get(answer, key)) > 0)
		return 0;
	(void)fm_error_set(err, FM_E_UNAVAILABLE, "rest: switch %s does not answer the controller", s->plan.at[i].name);
	return fm_error_hint(err, "is the switch up, and its connection to the controller?");
}

static int ask_flows(const struct session *s, size_t i, struct fm_of_flow **ret, size_t *ret_n, struct fm_error *err)
{
	_fm_cleanup_(json_done) json_t *answer = NULL;
	_fm_free_ struct fm_of_flow *flows = NULL;
	size_t n = 0;

	if (ask_of_switch(s, i, "flow", &answer, err) < 0)
		return -1;
	if (fm_rest_flows(answer, s->plan.at[i].dpid, &flows, &n, err) < 0)
		return fm_error_prefix(err, "rest: switch %s", s->plan.at[i].name);
	if (!fm_flow_find(&s->plan, flows, n) && check_alive(s, i, err) < 0)
		return -1;
	*ret = FM_TAKE_PTR(flows);
	*ret_n = n;
	return 0;
}

static int find_state(const struct session *s, size_t i, enum fm_flow_state *ret, char found[160], struct fm_error *err)
{
	_fm_free_ struct fm_of_flow *flows = NULL;
	size_t n = 0;

	if (ask_flows(s, i, &flows, &n, err) < 0)
		return -1;
	*ret = fm_flow_state_of(&s->plan, i, flows, n, found, 160);
	return 0;
}

/* All switches are connected to the controller. */
static int check_switches(const struct session *s, struct fm_error *err)
{
	_fm_cleanup_(json_done) json_t *answer = NULL;

	if (ask(s, "/stats/switches", NULL, &answer, err) < 0)
		return -1;
	if (!json_is_array(answer))
		return fm_error_set(err, FM_E_DATA_LOSS, "rest: controller: /stats/switches is not a list");
	for (size_t i = 0; i < s->plan.n; i++) {
		bool known = false;

		for (size_t j = 0; j < json_array_size(answer); j++)
			known |= json_integer_value(json_array_get(answer, j)) == (json_int_t)s->plan.at[i].dpid;
		if (!known) {
			(void)fm_error_set(err, FM_E_NOT_FOUND, "rest: switch %s: the controller has no datapath %" PRIu64,
			                   s->plan.at[i].name, s->plan.at[i].dpid);
			return hint_of(s, FM_E_NOT_FOUND, err);
		}
	}
	return 0;
}

/* ---- changing ---- */

static int foreign(const struct session *s, size_t i, const char *found, struct fm_error *err)
{
	(void)fm_flow_foreign(&s->plan, i, found, err);
	return fm_error_prefix(err, "rest");
}

/* Reads the flow until it is as it should be, for a moment. `was`: how it was before; anything else that is not wanted is somebody's. */
static int await(const struct session *s, size_t i, enum fm_flow_state want, struct fm_error *err)
{
	uint64_t settle_ms = fm_now_ms() + SETTLE_MS;
	enum fm_flow_state state;
	char found[160];

	for (;;) {
		if (find_state(s, i, &state, found, err) < 0)
			return -1;
		if (state == want)
			return 0;
		if (state == FM_FLOW_FOREIGN)
			return foreign(s, i, found, err);
		if (fm_deadline_left_ms(settle_ms) == 0)
			break;
		fm_pause_ms(SETTLE_PAUSE_MS);
	}
	(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "rest: switch %s has not made the flow to %s what it should be (%s): %s",
	                   s->plan.at[i].name, s->plan.what, fm_flow_state_to_string(want), found);
	return fm_error_hint(err, "the controller has taken the change, the switch has not: its reason is in the controller's log");
}

static int set(const struct session *s, size_t i, enum fm_flow_state want, struct fm_error *err)
{
	const char *command = NULL;
	struct fm_of_flow_mod m;
	char path[64];

	fm_flow_mod_to(&s->plan, i, want, &m);
	_fm_free_ char *body = fm_rest_flow_mod(s->plan.at[i].dpid, &m, &command);
	if (!body)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "rest: no memory for a change");
	(void)snprintf(path, sizeof(path), "/stats/flowentry/%s", command);
	if (ask(s, path, body, NULL, err) < 0)
		return fm_error_prefix(err, "switch %s", s->plan.at[i].name);
	return await(s, i, want, err);
}

/* Back to what it was before this call; not heard: cancelling, which may be why. */
static int take_back(struct session *s, size_t i, enum fm_flow_state before, struct fm_error *err)
{
	enum fm_flow_state now;
	char found[160];

	if (find_state(s, i, &now, found, err) < 0)
		return -1;
	if (now == before || now == FM_FLOW_FOREIGN)
		return 0;
	return set(s, i, before, err);
}

static void take_all_back(struct session *s, const enum fm_flow_state *before, const bool *touched, struct fm_error *err)
{
	s->until_ms = s->call->deadline_ms;
	s->cancel_fd = -1;
	for (size_t i = s->plan.n; i-- > 0;)
		if (touched[i] && take_back(s, i, before[i], NULL) < 0)
			(void)fm_error_hint(err, "switch %s could not be taken back, and may be changed still", s->plan.at[i].name);
}

static int change_all(struct session *s, const enum fm_flow_state *before, bool *touched, enum fm_flow_state want, struct fm_error *err)
{
	for (size_t i = 0; i < s->plan.n; i++) {
		if (before[i] == want)
			continue;
		touched[i] = true;
		if (set(s, i, want, err) < 0)
			return -1;
	}
	return 0;
}

static int change_to(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, enum fm_flow_state want,
                     struct fm_error *err)
{
	enum fm_flow_state before[FM_MAX_OF_SWITCHES];
	bool touched[FM_MAX_OF_SWITCHES] = { false };
	struct fm_error e = FM_ERROR_INIT;
	_session_ struct session *s = NULL;
	char found[160];

	if (session_new(c, action, undo, &s, err) < 0)
		return -1;
	s->until_ms = fm_now_ms() + (uint64_t)fm_deadline_left_ms(c->deadline_ms) / 2;
	for (size_t i = 0; i < s->plan.n; i++) {
		if (find_state(s, i, &before[i], found, err) < 0)
			return -1;
		if (before[i] == FM_FLOW_FOREIGN)
			return foreign(s, i, found, err);
	}
	if (change_all(s, before, touched, want, &e) == 0)
		return 0;
	take_all_back(s, before, touched, &e);
	if (err)
		*err = e;
	return -1;
}

/* ---- the driver ---- */

static int rest_prepare(const struct fm_redirect_call *c, const json_t *action, json_t **ret_undo, struct fm_error *err)
{
	_session_ struct session *s = NULL;

	if (session_new(c, action, NULL, &s, err) < 0 || check_switches(s, err) < 0)
		return -1;
	for (size_t i = 0; i < s->plan.n; i++) {
		_fm_free_ struct fm_of_flow *flows = NULL;
		size_t n = 0;

		if (ask_flows(s, i, &flows, &n, err) < 0)
			return -1;
		if (fm_flow_look(&s->plan, i, flows, n, err) < 0)
			return fm_error_prefix(err, "rest");
	}
	*ret_undo = fm_flow_undo_make(&s->plan);
	return *ret_undo ? 0 : fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "rest: no memory for an undo");
}

static int rest_open(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	return change_to(c, action, undo, FM_FLOW_BOTH, err);
}

static int rest_flip(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	return change_to(c, action, undo, FM_FLOW_MOVED, err);
}

static int rest_verify(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	_session_ struct session *s = NULL;
	enum fm_flow_state state;
	char found[160];

	if (session_new(c, action, undo, &s, err) < 0)
		return -1;
	for (size_t i = 0; i < s->plan.n; i++) {
		if (find_state(s, i, &state, found, err) < 0)
			return -1;
		if (state != FM_FLOW_MOVED)
			return fm_error_set(err, FM_E_FAILED_PRECONDITION, "rest: switch %s: the flow to %s is %s: %s instead of output:%u",
			                    s->plan.at[i].name, s->plan.what, fm_flow_state_to_string(state), found, s->plan.at[i].to_port);
	}
	return 0;
}

static int restore(struct session *s, size_t i, struct fm_error *err)
{
	enum fm_flow_state state;
	char found[160];

	if (find_state(s, i, &state, found, err) < 0)
		return -1;
	if (state == FM_FLOW_FOREIGN)
		return foreign(s, i, found, err);
	return state == FM_FLOW_AS_IT_WAS ? 0 : set(s, i, FM_FLOW_AS_IT_WAS, err);
}

static int rest_revert(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	struct fm_error first = FM_ERROR_INIT;
	_session_ struct session *s = NULL;
	size_t failed = 0;

	if (session_new(c, action, undo, &s, err) < 0)
		return -1;
	for (size_t i = 0; i < s->plan.n; i++) {
		struct fm_error e = FM_ERROR_INIT;

		s->until_ms = fm_now_ms() + (uint64_t)fm_deadline_left_ms(c->deadline_ms) / (s->plan.n - i);
		if (restore(s, i, &e) < 0 && failed++ == 0)
			first = e;
	}
	if (failed == 0)
		return 0;
	if (failed > 1)
		(void)fm_error_prefix(&first, "%zu of %zu switches could not be restored, the first", failed, s->plan.n);
	if (err)
		*err = first;
	return -1;
}

/* ---- leftovers ---- */

static int leftovers_of(const struct session *s, const json_t *known, void (*cb)(const char *what, void *userdata), void *userdata,
                        struct fm_error *err)
{
	char words[256];

	for (size_t i = 0; i < s->plan.n; i++) {
		_fm_free_ struct fm_of_flow *flows = NULL;
		size_t n = 0;

		if (ask_flows(s, i, &flows, &n, err) < 0)
			return -1;
		for (size_t j = 0; j < n; j++)
			if (fm_flow_is_leftover(known, s->plan.at[i].name, &flows[j], words, sizeof(words)))
				cb(words, userdata);
	}
	return 0;
}

/* The controllers and switches are those of the known actions. A flow may be told once for each action that has its switch. */
static int rest_leftovers(const struct fm_redirect_call *c, const json_t *known, void (*cb)(const char *what, void *userdata),
                          void *userdata, struct fm_error *err)
{
	struct fm_error first = FM_ERROR_INIT;

	for (size_t i = 0; i < json_array_size(known); i++) {
		const json_t *action = json_array_get(known, i);
		struct fm_error e = FM_ERROR_INIT;
		_session_ struct session *s = NULL;

		if (!fm_streq(json_string_value(json_object_get(action, "driver")), "rest") || session_new(c, action, NULL, &s, NULL) < 0)
			continue;
		if (leftovers_of(s, known, cb, userdata, &e) < 0 && !fm_error_is_set(&first))
			first = e;
	}
	if (!fm_error_is_set(&first))
		return 0;
	if (err)
		*err = first;
	return -1;
}

const struct fm_redirect_ops fm_redirect_rest = {
	.name = "rest",
	.title = "flows of switches behind a controller",
	.prepare = rest_prepare,
	.open = rest_open,
	.flip = rest_flip,
	.verify = rest_verify,
	.revert = rest_revert,
	.leftovers = rest_leftovers,
};
