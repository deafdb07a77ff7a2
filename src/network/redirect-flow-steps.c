/* SPDX-License-Identifier: MIT */
/* redirect-flow-steps.c - see redirect-flow-steps.h. */
#include "network/redirect-flow-steps.h"

#include <stdlib.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/str.h"

static void session_free(struct fm_flow_session *s)
{
	s->medium->end(s);
	free(s);
}
FM_DEFINE_CLEANUP(struct fm_flow_session *, session_free);
#define _session_ _fm_cleanup_(session_freep)

static const struct fm_flow_medium *medium_of(const json_t *action)
{
	const char *driver = json_string_value(json_object_get(action, "driver"));

	return fm_streq(driver, fm_flow_driver(FM_FLOW_REST)) ? &fm_flow_by_rest : &fm_flow_by_openflow;
}

/* undo NULL: there is none yet. */
static int session_new(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_flow_session **ret,
                       struct fm_error *err)
{
	const struct fm_flow_medium *m = medium_of(action);
	_session_ struct fm_flow_session *s = calloc(1, sizeof(*s) + m->own_bytes);

	if (!s)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "%s: no memory for a session", fm_flow_driver(m->kind));
	s->medium = m;
	s->own = s + 1;
	s->call = c;
	s->until_ms = c->deadline_ms;
	s->cancel_fd = c->cancel_fd;
	if (fm_flow_plan_parse(action, m->kind, &s->plan, err) < 0 || (undo && fm_flow_undo_parse(&s->plan, undo, err) < 0))
		return -1;
	if (m->begin && m->begin(s, err) < 0)
		return -1;
	*ret = FM_TAKE_PTR(s);
	return 0;
}

/* A part of what is left of the time */
static void set_time(struct fm_flow_session *s, size_t parts)
{
	s->until_ms = fm_now_ms() + (uint64_t)fm_deadline_left_ms(s->call->deadline_ms) / parts;
}

int fm_flow_ask(struct fm_flow_session *s, size_t i, struct fm_error *err)
{
	_fm_free_ struct fm_of_flow *flows = NULL;
	size_t n = 0;

	if (s->medium->list(s, i, false, &flows, &n, err) < 0)
		return -1;
	s->state[i] = fm_flow_state_of(&s->plan, i, flows, n, s->found, sizeof(s->found));
	return 0;
}

/* It must not be FOREIGN. */
static int ask_ours(struct fm_flow_session *s, size_t i, struct fm_error *err)
{
	if (fm_flow_ask(s, i, err) < 0)
		return -1;
	return s->state[i] == FM_FLOW_FOREIGN ? fm_flow_foreign(&s->plan, i, s->found, err) : 0;
}

int fm_flow_prepare(const struct fm_redirect_call *c, const json_t *action, json_t **ret_undo, struct fm_error *err)
{
	_session_ struct fm_flow_session *s = NULL;

	if (session_new(c, action, NULL, &s, err) < 0 || (s->medium->check && s->medium->check(s, err) < 0))
		return -1;
	for (size_t i = 0; i < s->plan.n; i++) {
		_fm_free_ struct fm_of_flow *flows = NULL;
		size_t n = 0;

		if (s->medium->list(s, i, false, &flows, &n, err) < 0 || fm_flow_look(&s->plan, i, flows, n, err) < 0)
			return -1;
	}
	*ret_undo = fm_flow_undo_make(&s->plan);
	return *ret_undo ? 0 : fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "%s: no memory for an undo", fm_flow_driver(s->plan.kind));
}

static int change_to(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, enum fm_flow_state want,
                     struct fm_error *err)
{
	_session_ struct fm_flow_session *s = NULL;
	bool done = true;

	if (session_new(c, action, undo, &s, err) < 0)
		return -1;
	set_time(s, 2);
	for (size_t i = 0; i < s->plan.n; i++) {
		if (ask_ours(s, i, err) < 0)
			return -1;
		done &= s->state[i] == want;
	}
	return done ? 0 : s->medium->change(s, want, err);
}

int fm_flow_open(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	return change_to(c, action, undo, FM_FLOW_BOTH, err);
}

int fm_flow_flip(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	return change_to(c, action, undo, FM_FLOW_MOVED, err);
}

int fm_flow_verify(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	_session_ struct fm_flow_session *s = NULL;

	if (session_new(c, action, undo, &s, err) < 0)
		return -1;
	for (size_t i = 0; i < s->plan.n; i++) {
		if (fm_flow_ask(s, i, err) < 0)
			return -1;
		if (s->state[i] != FM_FLOW_MOVED)
			return fm_error_set(err, FM_E_FAILED_PRECONDITION, "%s: switch %s: the flow to %s is %s: %s instead of output:%u",
			                    fm_flow_driver(s->plan.kind), s->plan.at[i].name, s->plan.what,
			                    fm_flow_state_to_string(s->state[i]), s->found, s->plan.at[i].to_port);
	}
	return 0;
}

static int restore(struct fm_flow_session *s, size_t i, struct fm_error *err)
{
	if (ask_ours(s, i, err) < 0)
		return -1;
	return s->state[i] == FM_FLOW_AS_IT_WAS ? 0 : s->medium->restore(s, i, err);
}

/* Keeps the first of several. */
static void note(struct fm_error *first, const struct fm_error *e, size_t *n)
{
	if ((*n)++ == 0)
		*first = *e;
}

int fm_flow_revert(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	struct fm_error first = FM_ERROR_INIT;
	_session_ struct fm_flow_session *s = NULL;
	size_t failed = 0;

	if (session_new(c, action, undo, &s, err) < 0)
		return -1;
	for (size_t i = 0; i < s->plan.n; i++) {
		struct fm_error e = FM_ERROR_INIT;

		set_time(s, s->plan.n - i);
		if (restore(s, i, &e) < 0)
			note(&first, &e, &failed);
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

/* An action before this one has the same switch. Controllers' switches have no address: a flow there may be told once for each action that has its switch. */
static bool seen_before(const json_t *known, size_t action, const char *address)
{
	for (size_t i = 0; i < action; i++) {
		const json_t *list = json_object_get(json_array_get(known, i), "switches");

		for (size_t j = 0; j < json_array_size(list); j++)
			if (fm_streq(json_string_value(json_object_get(json_array_get(list, j), "address")), address))
				return true;
	}
	return false;
}

struct leftovers {
	const json_t *known;
	void (*cb)(const char *what, void *userdata);
	void *userdata;
};

static int leftovers_of(const struct leftovers *l, struct fm_flow_session *s, size_t i, struct fm_error *err)
{
	_fm_free_ struct fm_of_flow *flows = NULL;
	char words[256];
	size_t n = 0;

	if (s->medium->list(s, i, true, &flows, &n, err) < 0)
		return -1;
	for (size_t j = 0; j < n; j++)
		if (fm_flow_is_leftover(l->known, s->plan.at[i].name, &flows[j], words, sizeof(words)))
			l->cb(words, l->userdata);
	return 0;
}

int fm_flow_leftovers(enum fm_flow_kind kind, const struct fm_redirect_call *c, const json_t *known,
                      void (*cb)(const char *what, void *userdata), void *userdata, struct fm_error *err)
{
	const struct leftovers l = { .known = known, .cb = cb, .userdata = userdata };
	struct fm_error first = FM_ERROR_INIT, e;
	size_t failed = 0;

	for (size_t k = 0; k < json_array_size(known); k++) {
		const json_t *action = json_array_get(known, k);
		_session_ struct fm_flow_session *s = NULL;

		if (!fm_streq(json_string_value(json_object_get(action, "driver")), fm_flow_driver(kind)) ||
		    session_new(c, action, NULL, &s, NULL) < 0)
			continue;
		for (size_t i = 0; i < s->plan.n; i++) {
			e = FM_ERROR_INIT;
			if (!seen_before(known, k, s->plan.at[i].address) && leftovers_of(&l, s, i, &e) < 0)
				note(&first, &e, &failed);
		}
	}
	if (failed && err)
		*err = first;
	return failed ? -1 : 0;
}
