/* SPDX-License-Identifier: MIT */
/*
 * phase-redirect.c - the manager's part in leading clients to the new host: the redirections of a migration, in the order of network/redirect.h.
 *
 *   PREPARATION    prepare each, its undo durably on record, then open each (widen)
 *   EXECUTION      the source's agent flips the urgent ones in the switch-over; the manager all of them right after it
 *   VERIFICATION   flip what is not flipped yet, ask each medium
 *   COMPLETED      what old connections still need is handed to its host, which keeps it until the last one has ended (keeper.h)
 *   rollback       revert, newest first; on the way back of a rollback they are opened once more first, so that both hosts can be reached
 *
 * Each step is on record after it was taken. What is on record is at least what was prepared, so that a revert after a restart finds every undo; steps can be repeated, so being behind does no harm.
 */
#include <poll.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "migration/coordinator-internal.h"
#include "migration/redirections.h"

#define STEP_TIMEOUT_MS    5000
#define CALL_MARGIN_MS     2000 /* an agent's answer comes after its deadline at the latest */
#define FLIP_TRIES         4
#define REVERT_TRIES       5
#define STEP(name)         FLEXIMIGRATE__V1__REDIRECTION_STEP__REDIRECTION_##name
#define STEP_IS_DONE(r, s) ((r)->step >= (s) && (r)->step != STEP(REVERTED))

typedef FM_PB(RedirectionStep) step_t;

static const char *where(const FM_PB(Redirection) * r)
{
	return r->at[0] ? r->at : "the manager";
}

static int step_here(struct fm_migration *m, FM_PB(Redirection) * r, step_t step, char **ret_undo, struct fm_error *err)
{
	struct fm_redirect_call c = { .deadline_ms = fm_now_ms() + STEP_TIMEOUT_MS, .secrets_dir = m->c->o.secrets_dir };

	/* What undoes or completes is not the user's to cancel: only a manager that stops ends it. */
	c.cancel_fd = step == STEP(PREPARED) || step == STEP(OPEN) ? m->cancel.fd : m->c->shutdown.fd;
	return fm_redirection_step(&c, r, step, ret_undo, err);
}

static int step_there(struct fm_migration *m, FM_PB(Redirection) * r, step_t step, char **ret_undo, struct fm_error *err)
{
	FM_PB(RedirectRequest) req = FLEXIMIGRATE__V1__REDIRECT_REQUEST__INIT;
	_fm_pb_ FM_PB(RedirectResponse) *resp = NULL;

	req.migration_id = m->id;
	req.step = step;
	req.redirection = r;
	req.timeout_ms = STEP_TIMEOUT_MS;
	if (fm_call(m, r->at, FM_AGENT_REDIRECT, &req, STEP_TIMEOUT_MS + CALL_MARGIN_MS, &resp, err) < 0)
		return -1;
	if (step == STEP(PREPARED))
		*ret_undo = fm_xstrdup(resp->undo);
	return 0;
}

static int take(struct fm_migration *m, FM_PB(Redirection) * r, step_t step, char **ret_undo, struct fm_error *err)
{
	if ((r->at[0] ? step_there : step_here)(m, r, step, ret_undo, err) < 0)
		return fm_error_phase(err, "network");
	return 0;
}

static void keep_step(struct fm_migration *m, FM_PB(Redirection) * r, step_t step, const char *undo)
{
	pthread_mutex_lock(&m->lock);
	if (undo)
		fm_pb_set(&r->undo, undo);
	r->step = step;
	pthread_mutex_unlock(&m->lock);
}

static int on_record(struct fm_migration *m, struct fm_error *err)
{
	if (fm_migration_save(m) < 0)
		return fm_error_set(err, FM_E_UNAVAILABLE, "what undoes the changes of the network cannot be recorded: nothing is changed");
	return 0;
}

int fm_redirections_prepare(struct fm_migration *m, struct fm_error *err)
{
	if (m->pb->n_redirections == 0)
		return 0;
	for (size_t i = 0; i < m->pb->n_redirections; i++) {
		FM_PB(Redirection) *r = m->pb->redirections[i];
		_fm_free_ char *undo = NULL;

		if (fm_check_cancelled(m, err) < 0 || take(m, r, STEP(PREPARED), &undo, err) < 0)
			return -1;
		keep_step(m, r, STEP(PREPARED), undo);
	}
	return on_record(m, err);
}

/* The record says OPEN before it is: a revert after a restart must not take an opened one for untouched. */
int fm_redirections_open(struct fm_migration *m, struct fm_error *err)
{
	if (m->pb->n_redirections == 0)
		return 0;
	for (size_t i = 0; i < m->pb->n_redirections; i++)
		keep_step(m, m->pb->redirections[i], STEP(OPEN), NULL);
	if (on_record(m, err) < 0)
		return -1;
	for (size_t i = 0; i < m->pb->n_redirections; i++) {
		FM_PB(Redirection) *r = m->pb->redirections[i];

		if (take(m, r, STEP(OPEN), NULL, err) < 0)
			return -1;
		fm_mlog(m, FM_LOG_INFO, "NetworkManager", "Opened the way to '%s' for '%s' (%s, by %s).", m->pb->destination,
		        m->pb->container, fm_redirection_title(r), where(r));
	}
	return 0;
}

/* Something that does not answer now may answer soon; the widened network serves meanwhile. */
static int flip_one(struct fm_migration *m, FM_PB(Redirection) * r, struct fm_error *err)
{
	for (int i = 1, pause_ms = FM_RETRY_PAUSE_MS;; i++, pause_ms *= 2) {
		struct fm_error e = FM_ERROR_INIT;

		if (take(m, r, STEP(FLIPPED), NULL, &e) == 0)
			return 0;
		if (i == FLIP_TRIES || e.code == FM_E_ABORTED || fm_stopping(m) ||
		    fm_wait_fd(m->c->shutdown.fd, POLLIN, pause_ms, NULL) != 0) {
			*err = e;
			return -1;
		}
		fm_mlog(m, FM_LOG_WARN, "NetworkManager", "Leading '%s' to '%s' (%s) failed, trying again: %s.", m->pb->container,
		        m->pb->destination, fm_redirection_title(r), e.message);
	}
}

int fm_redirections_flip(struct fm_migration *m, struct fm_error *err)
{
	size_t flipped = 0;

	for (size_t i = 0; i < m->pb->n_redirections; i++) {
		FM_PB(Redirection) *r = m->pb->redirections[i];

		if (STEP_IS_DONE(r, STEP(FLIPPED)))
			continue;
		if (flip_one(m, r, err) < 0)
			return -1;
		keep_step(m, r, STEP(FLIPPED), NULL);
		flipped++;
	}
	if (flipped == 0)
		return 0;
	fm_mlog(m, FM_LOG_INFO, "NetworkManager", "Clients of '%s' are led to '%s' (%zu changes of the network).", m->pb->container,
	        m->pb->destination, flipped);
	(void)fm_migration_save(m); /* behind is no harm: a flip can be repeated */
	return 0;
}

int fm_redirections_verify(struct fm_migration *m, struct fm_error *err)
{
	for (size_t i = 0; i < m->pb->n_redirections; i++) {
		FM_PB(Redirection) *r = m->pb->redirections[i];

		if (STEP_IS_DONE(r, STEP(VERIFIED)))
			continue;
		if (take(m, r, STEP(VERIFIED), NULL, err) < 0)
			return -1;
		keep_step(m, r, STEP(VERIFIED), NULL);
	}
	return 0;
}

static bool revert_one(struct fm_migration *m, FM_PB(Redirection) * r)
{
	for (int i = 1, pause_ms = FM_RETRY_PAUSE_MS;; i++, pause_ms *= 2) {
		struct fm_error e = FM_ERROR_INIT;

		if (take(m, r, STEP(REVERTED), NULL, &e) == 0)
			return true;
		if (fm_stopping(m))
			return false;
		fm_mlog(m, FM_LOG_ERROR, "NetworkManager", "Reverting %s for '%s' (by %s) failed: %s.", fm_redirection_title(r),
		        m->pb->container, where(r), e.message);
		if (i == REVERT_TRIES || e.code == FM_E_ABORTED || fm_wait_fd(m->c->shutdown.fd, POLLIN, pause_ms, NULL) != 0)
			return false;
	}
}

bool fm_redirections_revert(struct fm_migration *m)
{
	bool done = true, changed = false;

	for (size_t i = m->pb->n_redirections; i-- > 0;) {
		FM_PB(Redirection) *r = m->pb->redirections[i];

		if (r->step == STEP(NEW) || r->step == STEP(REVERTED))
			continue;
		if (r->step != STEP(PREPARED) && !revert_one(m, r)) { /* prepared only: nothing had been changed */
			done = false;
			continue;
		}
		keep_step(m, r, STEP(REVERTED), NULL);
		changed = true;
	}
	if (changed)
		(void)fm_migration_save(m);
	return done;
}

static int keep_on(struct fm_migration *m, const char *host, struct fm_error *err)
{
	FM_PB(RedirectRequest) req = FLEXIMIGRATE__V1__REDIRECT_REQUEST__INIT;
	_fm_free_ FM_PB(Redirection) **v = calloc(m->pb->n_redirections, sizeof(*v));

	if (!v)
		abort();
	req.migration_id = m->id;
	req.step = STEP(KEPT);
	req.keep = v;
	for (size_t i = 0; i < m->pb->n_redirections; i++) {
		FM_PB(Redirection) *r = m->pb->redirections[i];

		if (r->lasting && fm_streq(r->at, host))
			v[req.n_keep++] = r;
	}
	if (fm_call_until_answered(m, host, FM_AGENT_REDIRECT, &req, STEP_TIMEOUT_MS + CALL_MARGIN_MS, NULL, err) < 0)
		return -1;
	for (size_t i = 0; i < req.n_keep; i++)
		keep_step(m, v[i], STEP(KEPT), NULL);
	fm_mlog(m, FM_LOG_INFO, "NetworkManager", "'%s' looks after old connections of '%s' until the last one has ended.", host,
	        m->pb->container);
	return 0;
}

int fm_redirections_keep(struct fm_migration *m, struct fm_error *err)
{
	for (size_t i = 0; i < m->pb->n_redirections; i++) {
		const FM_PB(Redirection) *r = m->pb->redirections[i];

		if (r->lasting && r->at[0] && r->step != STEP(KEPT) && keep_on(m, r->at, err) < 0)
			return -1;
	}
	return 0;
}

void fm_redirections_urgent(struct fm_migration *m, FM_PB(Redirection) * **ret, size_t *ret_n)
{
	FM_PB(Redirection) **v = calloc(m->pb->n_redirections + 1, sizeof(*v));
	size_t n = 0;

	if (!v)
		abort();
	for (size_t i = 0; i < m->pb->n_redirections; i++)
		if (m->pb->redirections[i]->urgent && fm_streq(m->pb->redirections[i]->at, m->pb->source))
			v[n++] = m->pb->redirections[i];
	*ret = v;
	*ret_n = n;
}
