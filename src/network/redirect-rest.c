/* SPDX-License-Identifier: MIT */
/*
 * redirect-rest.c - the redirection driver "rest": flows of switches, changed by somebody else's controller over the REST interface that users of ryu and os-ken know (ofctl_rest): GET /stats/switches,
 * /stats/flow/<dpid>, /stats/desc/<dpid>, POST /stats/flowentry/{add,modify_strict,delete_strict}. The action and what flows mean: redirect-flow.h; the steps: redirect-flow-steps.h.
 *
 * Such a controller says 200 when it has passed a change on, not when the switch has made it, and it answers a question about flows with "none" when the switch does not answer in time. So
 * - after each change the flow is read, and a change that is not there after SETTLE_MS was refused: by whom, and why, the controller's log knows;
 * - where our flow is not in the list, the switch is asked for its description, too: no description, no belief that there is no flow.
 *
 * Several switches change one after the other, there is nothing like a bundle. When one fails, it and those before it are taken back.
 */
#include <inttypes.h>
#include <string.h>

#include "basic/clock.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "loop/http.h"
#include "network/redirect-flow-steps.h"
#include "network/rest-flow.h"

#define SETTLE_MS       500 /* from the controller's 200 to the change on the switch */
#define SETTLE_PAUSE_MS 20

struct own {
	char *base, *ca_path; /* the URL without a slash at its end */
};

static const struct own *own_of(const struct fm_flow_session *s)
{
	return s->own;
}

static void rest_end(struct fm_flow_session *s)
{
	free(own_of(s)->base);
	free(own_of(s)->ca_path);
}

static char *base_of(const char *url)
{
	size_t n = strlen(url);

	while (n > 0 && url[n - 1] == '/')
		n--;
	return fm_xasprintf("%.*s", (int)n, url);
}

static int rest_begin(struct fm_flow_session *s, struct fm_error *err)
{
	struct own *own = s->own;

	own->base = base_of(s->plan.url);
	if (s->plan.ca && !s->call->secrets_dir)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "rest: ca: there is no folder for such files here");
	if (s->plan.ca)
		own->ca_path = fm_xasprintf("%s/%s", s->call->secrets_dir, s->plan.ca);
	return 0;
}

/* ---- asking ---- */

static int hint_of(const struct fm_flow_session *s, enum fm_code code, struct fm_error *err)
{
	if (code == FM_E_UNAVAILABLE || code == FM_E_DEADLINE_EXCEEDED)
		return fm_error_hint(err, "is the controller running, and does it answer: curl %.150s/stats/switches", own_of(s)->base);
	if (code == FM_E_NOT_FOUND)
		return fm_error_hint(
		        err, "the controller does not know it: is the switch connected to it, does it serve ofctl_rest's /stats/…?");
	return -1;
}

/* GET, or POST of a body, of base + path; *ret_answer may be NULL when nothing is to be read. */
static int ask(const struct fm_flow_session *s, const char *path, const char *body, json_t **ret_answer, struct fm_error *err)
{
	_fm_http_response_ struct fm_http_response answer = { 0 };
	_fm_free_ char *url = fm_xasprintf("%s%s", own_of(s)->base, path);
	struct fm_http_request r = { .method = body ? "POST" : "GET",
		                     .url = url,
		                     .unix_socket = s->plan.unix_socket,
		                     .body = body,
		                     .body_len = body ? strlen(body) : 0,
		                     .ca_file = own_of(s)->ca_path,
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

static int ask_of_switch(const struct fm_flow_session *s, size_t i, const char *what, json_t **ret, struct fm_error *err)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "/stats/%s/%" PRIu64, what, s->plan.at[i].dpid);
	return ask(s, path, NULL, ret, err) < 0 ? fm_error_prefix(err, "switch %s", s->plan.at[i].name) : 0;
}

/* Does the switch answer the controller? */
static int check_alive(const struct fm_flow_session *s, size_t i, struct fm_error *err)
{
	_fm_cleanup_(json_decrefp) json_t *answer = NULL;
	char key[24];

	(void)snprintf(key, sizeof(key), "%" PRIu64, s->plan.at[i].dpid);
	if (ask_of_switch(s, i, "desc", &answer, err) < 0)
		return -1;
	if (json_object_size(json_object_get(answer, key)) > 0)
		return 0;
	(void)fm_error_set(err, FM_E_UNAVAILABLE, "rest: switch %s does not answer the controller", s->plan.at[i].name);
	return fm_error_hint(err, "is the switch up, and its connection to the controller?");
}

/* For leftovers, too: the controller tells all flows there are. */
static int rest_list(struct fm_flow_session *s, size_t i, bool leftovers, struct fm_of_flow **ret, size_t *ret_n, struct fm_error *err)
{
	_fm_cleanup_(json_decrefp) json_t *answer = NULL;
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

/* All switches are connected to the controller. */
static int check_switches(struct fm_flow_session *s, struct fm_error *err)
{
	_fm_cleanup_(json_decrefp) json_t *answer = NULL;

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

/* Reads the flow until it is as it should be, for a moment. */
static int await(struct fm_flow_session *s, size_t i, enum fm_flow_state want, struct fm_error *err)
{
	uint64_t settle_ms = fm_now_ms() + SETTLE_MS;

	for (;;) {
		if (fm_flow_ask(s, i, err) < 0)
			return -1;
		if (s->state[i] == want)
			return 0;
		if (s->state[i] == FM_FLOW_FOREIGN)
			return fm_flow_foreign(&s->plan, i, s->found, err);
		if (fm_deadline_left_ms(settle_ms) == 0)
			break;
		fm_pause_ms(SETTLE_PAUSE_MS);
	}
	(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "rest: switch %s has not made the flow to %s what it should be (%s): %s",
	                   s->plan.at[i].name, s->plan.what, fm_flow_state_to_string(want), s->found);
	return fm_error_hint(err, "the controller has taken the change, the switch has not: its reason is in the controller's log");
}

static int set(struct fm_flow_session *s, size_t i, enum fm_flow_state want, struct fm_error *err)
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

/* Back to what it was before this call. */
static int take_back(struct fm_flow_session *s, size_t i, enum fm_flow_state before, struct fm_error *err)
{
	if (fm_flow_ask(s, i, err) < 0)
		return -1;
	return s->state[i] == before || s->state[i] == FM_FLOW_FOREIGN ? 0 : set(s, i, before, err);
}

/* Those that a change has touched, which are the first n that were not as wanted. Not heard: cancelling, which may be why. */
static void take_all_back(struct fm_flow_session *s, const enum fm_flow_state *before, size_t n, enum fm_flow_state want,
                          struct fm_error *err)
{
	s->until_ms = s->call->deadline_ms;
	s->cancel_fd = -1;
	for (size_t i = n; i-- > 0;)
		if (before[i] != want && take_back(s, i, before[i], NULL) < 0)
			(void)fm_error_hint(err, "switch %s could not be taken back, and may be changed still", s->plan.at[i].name);
}

static int rest_change(struct fm_flow_session *s, enum fm_flow_state want, struct fm_error *err)
{
	enum fm_flow_state before[FM_MAX_OF_SWITCHES];

	memcpy(before, s->state, sizeof(before));
	for (size_t i = 0; i < s->plan.n; i++)
		if (before[i] != want && set(s, i, want, err) < 0) {
			take_all_back(s, before, i + 1, want, err);
			return -1;
		}
	return 0;
}

static int rest_restore(struct fm_flow_session *s, size_t i, struct fm_error *err)
{
	return set(s, i, FM_FLOW_AS_IT_WAS, err);
}

/* ---- the driver ---- */

const struct fm_flow_medium fm_flow_by_rest = {
	.kind = FM_FLOW_REST,
	.own_bytes = sizeof(struct own),
	.begin = rest_begin,
	.end = rest_end,
	.check = check_switches,
	.list = rest_list,
	.change = rest_change,
	.restore = rest_restore,
};

static int rest_leftovers(const struct fm_redirect_call *c, const json_t *known, void (*cb)(const char *what, void *userdata),
                          void *userdata, struct fm_error *err)
{
	return fm_flow_leftovers(FM_FLOW_REST, c, known, cb, userdata, err);
}

const struct fm_redirect_ops fm_redirect_rest = {
	.name = "rest",
	.title = "flows of switches behind a controller",
	.prepare = fm_flow_prepare,
	.open = fm_flow_open,
	.flip = fm_flow_flip,
	.verify = fm_flow_verify,
	.revert = fm_flow_revert,
	.leftovers = rest_leftovers,
};
