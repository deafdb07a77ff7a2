/* SPDX-License-Identifier: MIT */
/*
 * openflow-group.c - see openflow-group.h.
 *
 * In each phase everything is sent to all switches first and the answers are collected then, one switch after the other; while we wait for one, the others work. Every switch that was told
 * something is listened to, whatever another one said: only so is it known what state each is in.
 */
#include "network/openflow-group.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/clock.h"

struct member {
	struct fm_of *conn;
	struct fm_of_flow_mod *mods, *undo;
	size_t n_mods, n_undo;
	enum fm_of_state state;
	uint32_t bundle;
	bool asked; /* begun, its answer is to be collected */
};

struct fm_of_group {
	size_t n;
	struct member at[FM_MAX_OF_SWITCHES];
};

struct budget {
	uint64_t deadline_ms; /* 0: none */
	int cancel_fd;
};

static struct budget budget_for(int timeout_ms, int cancel_fd)
{
	return (struct budget){ .deadline_ms = timeout_ms < 0 ? 0 : fm_now_ms() + (uint64_t)timeout_ms, .cancel_fd = cancel_fd };
}

/* When the time was used up waiting for one, the others have had it, too: what they have said is there, and is read with 0. */
static int left_ms(const struct budget *b)
{
	return b->deadline_ms ? fm_deadline_left_ms(b->deadline_ms) : -1;
}

/* An equal part of what is left for each of n, so that one that hangs does not take the time of the others */
static struct budget share_of(const struct budget *b, size_t n)
{
	return budget_for(b->deadline_ms ? (int)((size_t)left_ms(b) / n) : -1, b->cancel_fd);
}

/* The first error is the one that is told. */
static void keep_first(struct fm_error *first, const struct fm_error *e)
{
	if (!fm_error_is_set(first))
		*first = *e;
}

static int tell(const struct fm_error *first, struct fm_error *err)
{
	if (!fm_error_is_set(first))
		return 0;
	if (err)
		*err = *first;
	return -1;
}

/* making */

static int copy(const struct fm_of *conn, const char *what, const struct fm_of_flow_mod *mods, size_t n, struct fm_of_flow_mod **ret,
                size_t *ret_n, struct fm_error *err)
{
	if (n == 0 || n > FM_MAX_OF_BUNDLE_MESSAGES)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "switch %s: %s of %zu flows, there have to be 1 to %u", fm_of_name(conn),
		                    what, n, FM_MAX_OF_BUNDLE_MESSAGES);
	*ret = calloc(n, sizeof(**ret));
	if (!*ret)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "no memory for a change of %zu flows", n);
	memcpy(*ret, mods, n * sizeof(**ret));
	*ret_n = n;
	return 0;
}

int fm_of_group_new(const struct fm_of_change *changes, size_t n, struct fm_of_group **ret, struct fm_error *err)
{
	_fm_of_group_ struct fm_of_group *g = NULL;

	if (n == 0 || n > FM_MAX_OF_SWITCHES)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%zu switches to change together, there have to be 1 to %u", n,
		                    FM_MAX_OF_SWITCHES);
	g = calloc(1, sizeof(*g));
	if (!g)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "no memory for a change of %zu switches", n);
	for (size_t i = 0; i < n; i++) {
		struct member *m = &g->at[i];

		for (size_t j = 0; j < i; j++)
			if (g->at[j].conn == changes[i].conn)
				return fm_error_set(err, FM_E_INVALID_ARGUMENT, "switch %s has two changes", fm_of_name(changes[i].conn));
		g->n++;
		m->conn = changes[i].conn;
		if (copy(m->conn, "a change", changes[i].mods, changes[i].n_mods, &m->mods, &m->n_mods, err) < 0 ||
		    copy(m->conn, "an undo", changes[i].undo, changes[i].n_undo, &m->undo, &m->n_undo, err) < 0)
			return -1;
	}
	*ret = FM_TAKE_PTR(g);
	return 0;
}

void fm_of_group_free(struct fm_of_group *g)
{
	if (!g)
		return;
	for (size_t i = 0; i < g->n; i++) {
		free(g->at[i].mods);
		free(g->at[i].undo);
	}
	free(g);
}

/* prepare */

static void discard_prepared(struct fm_of_group *g, const struct budget *b)
{
	for (size_t i = 0; i < g->n; i++) {
		struct member *m = &g->at[i];

		if (m->state != FM_OF_PREPARED)
			continue;
		/* whether it is heard or not: a bundle that is not committed changes nothing, and goes with its connection or its time */
		(void)fm_of_bundle_discard(m->conn, m->bundle, left_ms(b), b->cancel_fd, NULL);
		m->state = FM_OF_UNCHANGED;
	}
}

int fm_of_group_prepare(struct fm_of_group *g, int timeout_ms, int cancel_fd, struct fm_error *err)
{
	struct budget b = budget_for(timeout_ms, cancel_fd);
	struct fm_error first = FM_ERROR_INIT, e;

	for (size_t i = 0; i < g->n; i++)
		if (g->at[i].state != FM_OF_UNCHANGED && g->at[i].state != FM_OF_UNDONE)
			return fm_error_set(err, FM_E_FAILED_PRECONDITION, "switch %s is %s already", fm_of_name(g->at[i].conn),
			                    fm_of_state_to_string(g->at[i].state));
	for (size_t i = 0; i < g->n && !fm_error_is_set(&first); i++) {
		struct member *m = &g->at[i];

		m->asked = fm_of_bundle_prepare_begin(m->conn, m->mods, m->n_mods, &m->bundle, &first) == 0;
	}
	for (size_t i = 0; i < g->n; i++) {
		struct member *m = &g->at[i];

		if (!m->asked)
			continue;
		m->asked = false;
		e = FM_ERROR_INIT;
		if (fm_of_finish(m->conn, left_ms(&b), cancel_fd, &e) == 0)
			m->state = FM_OF_PREPARED;
		else
			keep_first(&first, &e);
	}
	if (fm_error_is_set(&first))
		discard_prepared(g, &b);
	return tell(&first, err);
}

/* commit */

/* Refused for a reason of the switch's own: it says that it has not changed. Everything else is a silence. */
static bool is_refusal(const struct member *m, enum fm_code code)
{
	return fm_of_is_up(m->conn) && code != FM_E_DEADLINE_EXCEEDED && code != FM_E_CANCELLED && code != FM_E_INTERNAL;
}

static void begin_commits(struct fm_of_group *g, struct fm_error *first)
{
	for (size_t i = 0; i < g->n; i++) {
		struct member *m = &g->at[i];
		struct fm_error e = FM_ERROR_INIT;
		bool was_up = fm_of_is_up(m->conn);

		if (fm_of_bundle_commit_begin(m->conn, m->bundle, &e) == 0) {
			m->asked = true;
			m->state = FM_OF_UNKNOWN;
			continue;
		}
		/* a connection that was down before takes its bundle along; one that broke in between may have carried the commit */
		m->state = was_up ? FM_OF_UNKNOWN : FM_OF_UNCHANGED;
		keep_first(first, &e);
		return;
	}
}

static void collect_commits(struct fm_of_group *g, const struct budget *b, struct fm_error *first)
{
	for (size_t i = 0; i < g->n; i++) {
		struct member *m = &g->at[i];
		struct fm_error e = FM_ERROR_INIT;

		if (!m->asked)
			continue;
		m->asked = false;
		if (fm_of_finish(m->conn, left_ms(b), b->cancel_fd, &e) == 0) {
			m->state = FM_OF_COMMITTED;
			continue;
		}
		if (is_refusal(m, e.code))
			m->state = FM_OF_UNCHANGED;
		keep_first(first, &e);
	}
}

int fm_of_group_commit(struct fm_of_group *g, int timeout_ms, int cancel_fd, struct fm_error *err)
{
	struct budget b = budget_for(timeout_ms, cancel_fd);
	struct fm_error first = FM_ERROR_INIT;
	char states[160];

	for (size_t i = 0; i < g->n; i++)
		if (g->at[i].state != FM_OF_PREPARED)
			return fm_error_set(err, FM_E_FAILED_PRECONDITION, "switch %s is not prepared", fm_of_name(g->at[i].conn));
	/* one that is gone already need not cost the others an undo */
	for (size_t i = 0; i < g->n; i++)
		if (fm_of_check(g->at[i].conn, err) < 0) {
			discard_prepared(g, &b);
			return -1;
		}
	begin_commits(g, &first);
	collect_commits(g, &b, &first);
	if (!fm_error_is_set(&first))
		return 0;
	if (fm_of_group_rollback(g, timeout_ms, -1, NULL) < 0)
		(void)fm_error_hint(&first, "not all could be taken back: %s", fm_of_group_describe(g, states, sizeof(states)));
	return tell(&first, err);
}

/* back */

static int undo(struct member *m, const struct budget *b, struct fm_error *err)
{
	uint32_t bundle;

	if (fm_of_reconnect(m->conn, left_ms(b), b->cancel_fd, err) < 0 ||
	    fm_of_bundle_prepare(m->conn, m->undo, m->n_undo, left_ms(b), b->cancel_fd, &bundle, err) < 0)
		return -1;
	struct fm_error e = FM_ERROR_INIT;
	if (fm_of_bundle_commit(m->conn, bundle, left_ms(b), b->cancel_fd, &e) == 0) {
		m->state = FM_OF_UNDONE;
		return 0;
	}
	if (!is_refusal(m, e.code))
		m->state = FM_OF_UNKNOWN;
	if (err)
		*err = e;
	return -1;
}

static size_t count(const struct fm_of_group *g, enum fm_of_state s)
{
	size_t n = 0;

	for (size_t i = 0; i < g->n; i++)
		n += g->at[i].state == s;
	return n;
}

/* Those that are in this state now, each in its part of the time; `more` others are still to come. */
static void undo_all(struct fm_of_group *g, enum fm_of_state s, size_t more, const struct budget *b, struct fm_error *first)
{
	size_t n = count(g, s) + more;

	for (size_t i = 0; i < g->n; i++) {
		struct fm_error e = FM_ERROR_INIT;

		if (g->at[i].state != s)
			continue;
		struct budget own = share_of(b, n--);
		if (undo(&g->at[i], &own, &e) < 0)
			keep_first(first, &e);
	}
}

int fm_of_group_rollback(struct fm_of_group *g, int timeout_ms, int cancel_fd, struct fm_error *err)
{
	struct budget b = budget_for(timeout_ms, cancel_fd);
	struct fm_error first = FM_ERROR_INIT;

	/* those first that have answered: they forward packets the new way, and will answer again */
	undo_all(g, FM_OF_COMMITTED, count(g, FM_OF_UNKNOWN), &b, &first);
	undo_all(g, FM_OF_UNKNOWN, 0, &b, &first);
	discard_prepared(g, &b);
	return tell(&first, err);
}

/* telling */

size_t fm_of_group_size(const struct fm_of_group *g)
{
	return g->n;
}

enum fm_of_state fm_of_group_state(const struct fm_of_group *g, size_t i)
{
	return g->at[i].state;
}

const char *fm_of_state_to_string(enum fm_of_state s)
{
	static const char *const names[] = { "UNCHANGED", "PREPARED", "COMMITTED", "UNDONE", "UNKNOWN" };

	return (size_t)s < sizeof(names) / sizeof(names[0]) ? names[s] : "?";
}

const char *fm_of_group_describe(const struct fm_of_group *g, char *buf, size_t cap)
{
	size_t len = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < g->n && len < cap; i++) {
		int n = snprintf(buf + len, cap - len, "%s%s %s", i ? ", " : "", fm_of_name(g->at[i].conn),
		                 fm_of_state_to_string(g->at[i].state));
		if (n < 0)
			break;
		len += (size_t)n;
	}
	return buf;
}
