/* SPDX-License-Identifier: MIT */
/*
 * redirect-openflow.c - the redirection driver "openflow": flows of switches, changed by ourselves (redirect.h; the action and what flows mean: redirect-flow.h).
 *
 * Each call connects, asks every switch how its flow is now, and changes those that are not yet as they should be, together (openflow-group.h). So nothing is remembered between calls, any may be repeated,
 * and one that was interrupted is finished by the next. After the commit the switches are asked once more: "modify" says nothing when the flow it means is gone.
 *
 * Time. A change that has begun must be taken back within the same deadline when a switch refuses or hangs, so the questions get half of the time, handing over and committing a third of what is left then,
 * and taking back what the commit had. Prepare, verify and leftovers change nothing and may use all of it. Revert goes from switch to switch, each with its share of the time: one that is dead must not keep
 * the others from being restored.
 */
#include <poll.h>
#include <string.h>

#include "basic/clock.h"
#include "network/openflow-group.h"
#include "network/redirect-flow.h"
#include "network/redirect.h"

struct session {
	struct fm_flow_plan plan;
	const struct fm_redirect_call *call;
	struct fm_of *conn[FM_MAX_OF_SWITCHES];
	enum fm_flow_state found[FM_MAX_OF_SWITCHES];
};

static void session_free(struct session *s)
{
	for (size_t i = 0; i < FM_MAX_OF_SWITCHES; i++)
		fm_of_free(s->conn[i]);
	free(s);
}
FM_DEFINE_CLEANUP(struct session *, session_free);
#define _session_ _fm_cleanup_(session_freep)

static int left_ms(const struct session *s)
{
	return fm_deadline_left_ms(s->call->deadline_ms);
}

/* undo NULL: there is none yet. */
static int session_new(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct session **ret,
                       struct fm_error *err)
{
	_session_ struct session *s = calloc(1, sizeof(*s));

	if (!s)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "openflow: no memory for a session");
	s->call = c;
	if (fm_flow_plan_parse(action, FM_FLOW_OPENFLOW, &s->plan, err) < 0 || (undo && fm_flow_undo_parse(&s->plan, undo, err) < 0))
		return -1;
	*ret = FM_TAKE_PTR(s);
	return 0;
}

/* ---- asking ---- */

static int prefix(const struct session *s, size_t i, struct fm_error *err)
{
	return fm_error_prefix(err, "openflow: %s", s->plan.at[i].name);
}

static int connect_to(struct session *s, size_t i, int timeout_ms, struct fm_error *err)
{
	struct fm_of_options o = { .address = s->plan.at[i].address };

	if (fm_of_connect(&o, timeout_ms, s->call->cancel_fd, &s->conn[i], err) < 0)
		return prefix(s, i, err);
	for (size_t j = 0; j < s->plan.n; j++)
		if (j != i && s->conn[j] && fm_of_datapath_id(s->conn[j]) == fm_of_datapath_id(s->conn[i]))
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "openflow: switches: %s and %s are the same switch, %016llx",
			                    s->plan.at[j].name, s->plan.at[i].name, (unsigned long long)fm_of_datapath_id(s->conn[i]));
	return 0;
}

/* Also when each switch answers at once, and nothing is ever waited for */
static int check_cancelled(const struct session *s, struct fm_error *err)
{
	struct pollfd p = { .fd = s->call->cancel_fd, .events = POLLIN };

	return p.fd >= 0 && poll(&p, 1, 0) > 0 ? fm_error_set(err, FM_E_CANCELLED, "openflow: cancelled") : 0;
}

/* The flows of switch i that ours could be among; free() */
static int ask(struct session *s, size_t i, int timeout_ms, struct fm_of_flow **ret, size_t *ret_n, struct fm_error *err)
{
	uint64_t until = fm_now_ms() + (uint64_t)timeout_ms;
	struct fm_of_flow_filter filter;

	fm_flow_filter(&s->plan, &filter);
	if (check_cancelled(s, err) < 0)
		return -1;
	if (!s->conn[i] && connect_to(s, i, timeout_ms, err) < 0)
		return -1;
	if (fm_of_flows(s->conn[i], &filter, fm_deadline_left_ms(until), s->call->cancel_fd, ret, ret_n, err) < 0)
		return prefix(s, i, err);
	return 0;
}

static int find_state(struct session *s, size_t i, int timeout_ms, char found[160], struct fm_error *err)
{
	_fm_free_ struct fm_of_flow *flows = NULL;
	size_t n = 0;

	if (ask(s, i, timeout_ms, &flows, &n, err) < 0)
		return -1;
	s->found[i] = fm_flow_state_of(&s->plan, i, flows, n, found, 160);
	return 0;
}

/* All of them, and none FOREIGN. */
static int find_states(struct session *s, int timeout_ms, struct fm_error *err)
{
	uint64_t until = fm_now_ms() + (uint64_t)timeout_ms;
	char found[160];

	for (size_t i = 0; i < s->plan.n; i++) {
		if (find_state(s, i, fm_deadline_left_ms(until), found, err) < 0)
			return -1;
		if (s->found[i] == FM_FLOW_FOREIGN) {
			(void)fm_flow_foreign(&s->plan, i, found, err);
			return fm_error_prefix(err, "openflow");
		}
	}
	return 0;
}

/* ---- changing ---- */

struct change {
	struct fm_of_change member[FM_MAX_OF_SWITCHES];
	struct fm_of_flow_mod mod[FM_MAX_OF_SWITCHES], undo[FM_MAX_OF_SWITCHES];
	size_t at[FM_MAX_OF_SWITCHES], n; /* which switches */
};

static void change_make(const struct session *s, enum fm_flow_state want, struct change *c)
{
	for (size_t i = 0; i < s->plan.n; i++) {
		size_t n = c->n;

		if (s->found[i] == want)
			continue;
		fm_flow_mod_to(&s->plan, i, want, &c->mod[n]);
		fm_flow_mod_to(&s->plan, i, s->found[i], &c->undo[n]);
		c->member[n] =
		        (struct fm_of_change){ .conn = s->conn[i], .mods = &c->mod[n], .undo = &c->undo[n], .n_mods = 1, .n_undo = 1 };
		c->at[c->n++] = i;
	}
}

/* A change that a switch has taken and not made: the flow was exchanged between our question and our change. */
static int check_made(struct session *s, const struct change *c, enum fm_flow_state want, int timeout_ms, struct fm_error *err)
{
	uint64_t until = fm_now_ms() + (uint64_t)timeout_ms;
	char found[160];

	for (size_t k = 0; k < c->n; k++) {
		size_t i = c->at[k];

		if (find_state(s, i, fm_deadline_left_ms(until), found, err) < 0)
			return -1;
		if (s->found[i] != want) {
			(void)fm_flow_foreign(&s->plan, i, found, err);
			return fm_error_prefix(err, "openflow");
		}
	}
	return 0;
}

static const char *member_name(const struct session *s, const struct change *c, const struct fm_of_group *g)
{
	for (size_t k = 0; k < c->n; k++)
		if (fm_of_group_state(g, k) == FM_OF_UNKNOWN || fm_of_group_state(g, k) == FM_OF_COMMITTED)
			return s->plan.at[c->at[k]].name;
	return NULL;
}

static int carry_out(struct session *s, const struct change *c, enum fm_flow_state want, struct fm_error *err)
{
	_fm_of_group_ struct fm_of_group *g = NULL;
	int cancel_fd = s->call->cancel_fd;

	if (fm_of_group_new(c->member, c->n, &g, err) < 0 || fm_of_group_prepare(g, left_ms(s) / 3, cancel_fd, err) < 0 ||
	    fm_of_group_commit(g, left_ms(s) / 3, cancel_fd, err) < 0) {
		const char *open_end = g ? member_name(s, c, g) : NULL;

		if (open_end)
			(void)fm_error_hint(err, "switch %s, at least, may be changed still; the rest was taken back", open_end);
		return fm_error_prefix(err, "openflow");
	}
	if (check_made(s, c, want, left_ms(s) / 2, err) < 0) {
		if (fm_of_group_rollback(g, left_ms(s), -1, NULL) < 0)
			(void)fm_error_hint(err, "not all switches could be taken back to what they had before");
		return -1;
	}
	return 0;
}

static int change_to(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, enum fm_flow_state want,
                     struct fm_error *err)
{
	_fm_free_ struct change *change = calloc(1, sizeof(*change));
	_session_ struct session *s = NULL;

	if (!change)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "openflow: no memory for a change");
	if (session_new(c, action, undo, &s, err) < 0 || find_states(s, left_ms(s) / 2, err) < 0)
		return -1;
	change_make(s, want, change);
	return change->n == 0 ? 0 : carry_out(s, change, want, err);
}

/* ---- the driver ---- */

static int openflow_prepare(const struct fm_redirect_call *c, const json_t *action, json_t **ret_undo, struct fm_error *err)
{
	_session_ struct session *s = NULL;

	if (session_new(c, action, NULL, &s, err) < 0)
		return -1;
	for (size_t i = 0; i < s->plan.n; i++) {
		_fm_free_ struct fm_of_flow *flows = NULL;
		size_t n = 0;

		if (ask(s, i, left_ms(s), &flows, &n, err) < 0)
			return -1;
		if (fm_flow_look(&s->plan, i, flows, n, err) < 0)
			return fm_error_prefix(err, "openflow");
	}
	*ret_undo = fm_flow_undo_make(&s->plan);
	return *ret_undo ? 0 : fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "openflow: no memory for an undo");
}

static int openflow_open(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	return change_to(c, action, undo, FM_FLOW_BOTH, err);
}

static int openflow_flip(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	return change_to(c, action, undo, FM_FLOW_MOVED, err);
}

static int openflow_verify(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	_session_ struct session *s = NULL;
	char found[160];

	if (session_new(c, action, undo, &s, err) < 0)
		return -1;
	for (size_t i = 0; i < s->plan.n; i++) {
		if (find_state(s, i, left_ms(s), found, err) < 0)
			return -1;
		if (s->found[i] != FM_FLOW_MOVED)
			return fm_error_set(err, FM_E_FAILED_PRECONDITION,
			                    "openflow: switch %s: the flow to %s is %s: %s instead of output:%u", s->plan.at[i].name,
			                    s->plan.what, fm_flow_state_to_string(s->found[i]), found, s->plan.at[i].to_port);
	}
	return 0;
}

static int restore(struct session *s, size_t i, int timeout_ms, struct fm_error *err)
{
	uint64_t until = fm_now_ms() + (uint64_t)timeout_ms;
	struct fm_of_flow_mod m;
	char found[160];

	if (find_state(s, i, timeout_ms, found, err) < 0)
		return -1;
	if (s->found[i] == FM_FLOW_AS_IT_WAS)
		return 0;
	if (s->found[i] == FM_FLOW_FOREIGN) {
		(void)fm_flow_foreign(&s->plan, i, found, err);
		return fm_error_prefix(err, "openflow");
	}
	fm_flow_mod_to(&s->plan, i, FM_FLOW_AS_IT_WAS, &m);
	if (fm_of_flow_mods(s->conn[i], &m, 1, fm_deadline_left_ms(until), s->call->cancel_fd, err) < 0)
		return prefix(s, i, err);
	return 0;
}

static int openflow_revert(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err)
{
	struct fm_error first = FM_ERROR_INIT;
	_session_ struct session *s = NULL;
	size_t failed = 0;

	if (session_new(c, action, undo, &s, err) < 0)
		return -1;
	for (size_t i = 0; i < s->plan.n; i++) {
		struct fm_error e = FM_ERROR_INIT;

		if (restore(s, i, left_ms(s) / (int)(s->plan.n - i), &e) < 0 && failed++ == 0)
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

struct leftovers {
	const struct fm_redirect_call *call;
	const json_t *known;
	void (*cb)(const char *what, void *userdata);
	void *userdata;
};

static int leftovers_of(const struct leftovers *l, const struct fm_flow_switch *s, struct fm_error *err)
{
	struct fm_of_flow_filter filter = { .table = FM_OF_TABLE_ALL, .cookie = FM_FLOW_COOKIE, .cookie_mask = FM_FLOW_COOKIE_MASK };
	struct fm_of_options o = { .address = s->address };
	_fm_free_ struct fm_of_flow *flows = NULL;
	_fm_of_ struct fm_of *conn = NULL;
	char words[256];
	size_t n = 0;

	if (fm_of_connect(&o, fm_deadline_left_ms(l->call->deadline_ms), l->call->cancel_fd, &conn, err) < 0 ||
	    fm_of_flows(conn, &filter, fm_deadline_left_ms(l->call->deadline_ms), l->call->cancel_fd, &flows, &n, err) < 0)
		return fm_error_prefix(err, "openflow: %s", s->name);
	for (size_t i = 0; i < n; i++)
		if (fm_flow_is_leftover(l->known, s->name, &flows[i], words, sizeof(words)))
			l->cb(words, l->userdata);
	return 0;
}

static bool seen_before(const json_t *known, size_t action, const char *address)
{
	for (size_t i = 0; i < action; i++) {
		const json_t *list = json_object_get(json_array_get(known, i), "switches");

		for (size_t j = 0; j < json_array_size(list); j++) {
			const char *other = json_string_value(json_object_get(json_array_get(list, j), "address"));

			if (other && strcmp(other, address) == 0)
				return true;
		}
	}
	return false;
}

/* The switches are those of the known actions: there is no list of others. One that does not answer is told at the end, after the others were asked. */
static int openflow_leftovers(const struct fm_redirect_call *c, const json_t *known, void (*cb)(const char *what, void *userdata),
                              void *userdata, struct fm_error *err)
{
	struct leftovers l = { .call = c, .known = known, .cb = cb, .userdata = userdata };
	_fm_free_ struct fm_flow_plan *p = calloc(1, sizeof(*p));
	struct fm_error first = FM_ERROR_INIT;

	if (!p)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "openflow: no memory for an action");
	for (size_t i = 0; i < json_array_size(known); i++) {
		const json_t *action = json_array_get(known, i);
		const char *driver = json_string_value(json_object_get(action, "driver"));

		if (!driver || strcmp(driver, "openflow") != 0 || fm_flow_plan_parse(action, FM_FLOW_OPENFLOW, p, NULL) < 0)
			continue;
		for (size_t j = 0; j < p->n; j++) {
			struct fm_error e = FM_ERROR_INIT;

			if (!seen_before(known, i, p->at[j].address) && leftovers_of(&l, &p->at[j], &e) < 0 && !fm_error_is_set(&first))
				first = e;
		}
	}
	if (!fm_error_is_set(&first))
		return 0;
	if (err)
		*err = first;
	return -1;
}

const struct fm_redirect_ops fm_redirect_openflow = {
	.name = "openflow",
	.title = "flows of OpenFlow switches",
	.prepare = openflow_prepare,
	.open = openflow_open,
	.flip = openflow_flip,
	.verify = openflow_verify,
	.revert = openflow_revert,
	.leftovers = openflow_leftovers,
};
