/* SPDX-License-Identifier: MIT */
/*
 * redirect-openflow.c - the redirection driver "openflow": flows of switches, changed by ourselves (redirect.h; the steps: redirect-flow-steps.h).
 *
 * The switches change together (openflow-group.h). After the commit they are asked once more: "modify" says nothing when the flow it means is gone.
 *
 * Of the time that is left when the change begins, handing over and committing have a third of what is left then each, and taking back what the commit had.
 */
#include <poll.h>

#include "basic/clock.h"
#include "network/openflow-group.h"
#include "network/redirect-flow-steps.h"

struct own {
	struct fm_of *conn[FM_MAX_OF_SWITCHES];
};

static struct fm_of **conns(const struct fm_flow_session *s)
{
	return ((struct own *)s->own)->conn;
}

static void of_end(struct fm_flow_session *s)
{
	for (size_t i = 0; i < s->plan.n; i++)
		fm_of_free(conns(s)[i]);
}

/* ---- asking ---- */

static int left_ms(const struct fm_flow_session *s)
{
	return fm_deadline_left_ms(s->call->deadline_ms);
}

static int prefix(const struct fm_flow_session *s, size_t i, struct fm_error *err)
{
	return fm_error_prefix(err, "openflow: %s", s->plan.at[i].name);
}

static int connect_to(struct fm_flow_session *s, size_t i, struct fm_error *err)
{
	struct fm_of_options o = { .address = s->plan.at[i].address };
	struct fm_of **conn = conns(s);

	if (fm_of_connect(&o, fm_deadline_left_ms(s->until_ms), s->cancel_fd, &conn[i], err) < 0)
		return prefix(s, i, err);
	for (size_t j = 0; j < s->plan.n; j++)
		if (j != i && conn[j] && fm_of_datapath_id(conn[j]) == fm_of_datapath_id(conn[i]))
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "openflow: switches: %s and %s are the same switch, %016llx",
			                    s->plan.at[j].name, s->plan.at[i].name, (unsigned long long)fm_of_datapath_id(conn[i]));
	return 0;
}

/* Also when each switch answers at once, and nothing is ever waited for */
static int check_cancelled(const struct fm_flow_session *s, struct fm_error *err)
{
	struct pollfd p = { .fd = s->cancel_fd, .events = POLLIN };

	return p.fd >= 0 && poll(&p, 1, 0) > 0 ? fm_error_set(err, FM_E_CANCELLED, "openflow: cancelled") : 0;
}

static int of_list(struct fm_flow_session *s, size_t i, bool leftovers, struct fm_of_flow **ret, size_t *ret_n, struct fm_error *err)
{
	struct fm_of_flow_filter filter = { .table = FM_OF_TABLE_ALL, .cookie = FM_FLOW_COOKIE, .cookie_mask = FM_FLOW_COOKIE_MASK };

	if (!leftovers)
		fm_flow_filter(&s->plan, &filter);
	if (check_cancelled(s, err) < 0 || (!conns(s)[i] && connect_to(s, i, err) < 0))
		return -1;
	if (fm_of_flows(conns(s)[i], &filter, fm_deadline_left_ms(s->until_ms), s->cancel_fd, ret, ret_n, err) < 0)
		return prefix(s, i, err);
	return 0;
}

/* ---- changing ---- */

struct change {
	struct fm_of_change member[FM_MAX_OF_SWITCHES];
	struct fm_of_flow_mod mod[FM_MAX_OF_SWITCHES], undo[FM_MAX_OF_SWITCHES];
	size_t at[FM_MAX_OF_SWITCHES], n; /* which switches */
};

static void change_make(const struct fm_flow_session *s, enum fm_flow_state want, struct change *c)
{
	for (size_t i = 0; i < s->plan.n; i++) {
		size_t n = c->n;

		if (s->state[i] == want)
			continue;
		fm_flow_mod_to(&s->plan, i, want, &c->mod[n]);
		fm_flow_mod_to(&s->plan, i, s->state[i], &c->undo[n]);
		c->member[n] =
		        (struct fm_of_change){ .conn = conns(s)[i], .mods = &c->mod[n], .undo = &c->undo[n], .n_mods = 1, .n_undo = 1 };
		c->at[c->n++] = i;
	}
}

/* A change that a switch has taken and not made: the flow was exchanged between our question and our change. */
static int check_made(struct fm_flow_session *s, const struct change *c, enum fm_flow_state want, struct fm_error *err)
{
	s->until_ms = fm_now_ms() + (uint64_t)left_ms(s) / 2;
	for (size_t k = 0; k < c->n; k++) {
		size_t i = c->at[k];

		if (fm_flow_ask(s, i, err) < 0)
			return -1;
		if (s->state[i] != want)
			return fm_flow_foreign(&s->plan, i, s->found, err);
	}
	return 0;
}

static const char *member_name(const struct fm_flow_session *s, const struct change *c, const struct fm_of_group *g)
{
	for (size_t k = 0; k < c->n; k++)
		if (fm_of_group_state(g, k) == FM_OF_UNKNOWN || fm_of_group_state(g, k) == FM_OF_COMMITTED)
			return s->plan.at[c->at[k]].name;
	return NULL;
}

static int carry_out(struct fm_flow_session *s, const struct change *c, enum fm_flow_state want, struct fm_error *err)
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
	if (check_made(s, c, want, err) < 0) {
		if (fm_of_group_rollback(g, left_ms(s), -1, NULL) < 0)
			(void)fm_error_hint(err, "not all switches could be taken back to what they had before");
		return -1;
	}
	return 0;
}

static int of_change(struct fm_flow_session *s, enum fm_flow_state want, struct fm_error *err)
{
	_fm_free_ struct change *change = calloc(1, sizeof(*change));

	if (!change)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "openflow: no memory for a change");
	change_make(s, want, change);
	return carry_out(s, change, want, err);
}

static int of_restore(struct fm_flow_session *s, size_t i, struct fm_error *err)
{
	struct fm_of_flow_mod m;

	fm_flow_mod_to(&s->plan, i, FM_FLOW_AS_IT_WAS, &m);
	if (fm_of_flow_mods(conns(s)[i], &m, 1, fm_deadline_left_ms(s->until_ms), s->cancel_fd, err) < 0)
		return prefix(s, i, err);
	return 0;
}

/* ---- the driver ---- */

const struct fm_flow_medium fm_flow_by_openflow = {
	.kind = FM_FLOW_OPENFLOW,
	.own_bytes = sizeof(struct own),
	.end = of_end,
	.list = of_list,
	.change = of_change,
	.restore = of_restore,
};

static int openflow_leftovers(const struct fm_redirect_call *c, const json_t *known, void (*cb)(const char *what, void *userdata),
                              void *userdata, struct fm_error *err)
{
	return fm_flow_leftovers(FM_FLOW_OPENFLOW, c, known, cb, userdata, err);
}

const struct fm_redirect_ops fm_redirect_openflow = {
	.name = "openflow",
	.title = "flows of OpenFlow switches",
	.prepare = fm_flow_prepare,
	.open = fm_flow_open,
	.flip = fm_flow_flip,
	.verify = fm_flow_verify,
	.revert = fm_flow_revert,
	.leftovers = openflow_leftovers,
};
