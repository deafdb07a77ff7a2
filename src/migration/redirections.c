/* SPDX-License-Identifier: MIT */
/* redirections.c - texts to JSON and back, and the driver's function for a step. */
#include "migration/redirections.h"

#include <string.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "migration/pb.h"

#define STEP_TIMEOUT_MS     5000
#define STEP_TIMEOUT_MAX_MS 120000

static json_t *parse(const char *text, size_t max, const char *what, struct fm_error *err)
{
	json_error_t e;
	size_t n = strlen(text);
	json_t *j;

	if (n > max) {
		(void)fm_error_set(err, FM_E_INVALID_ARGUMENT, "the %s of a redirection has %zu bytes, more than %zu", what, n, max);
		return NULL;
	}
	j = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
	if (!j || !json_is_object(j)) {
		(void)fm_error_set(err, FM_E_INVALID_ARGUMENT, "the %s of a redirection is no JSON object: %s", what,
		                   j ? "another value" : e.text);
		json_decref(j);
		return NULL;
	}
	return j;
}

static int prepare(const struct fm_redirect_call *c, const struct fm_redirect_ops *ops, const json_t *action, char **ret_undo,
                   struct fm_error *err)
{
	_fm_cleanup_(json_decrefp) json_t *undo = NULL;
	char *text;

	if (ops->prepare(c, action, &undo, err) < 0)
		return -1;
	text = json_dumps(undo, JSON_COMPACT);
	if (!text)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	if (strlen(text) > FM_MAX_REDIRECT_UNDO_BYTES) {
		free(text);
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "what would undo it takes more than %d bytes",
		                    FM_MAX_REDIRECT_UNDO_BYTES);
	}
	*ret_undo = text;
	return 0;
}

static int take(const struct fm_redirect_call *c, const struct fm_redirect_ops *ops, const json_t *action, const json_t *undo,
                FM_PB(RedirectionStep) step, struct fm_error *err)
{
	switch (step) {
	case FLEXIMIGRATE__V1__REDIRECTION_STEP__REDIRECTION_OPEN:
		return ops->open(c, action, undo, err);
	case FLEXIMIGRATE__V1__REDIRECTION_STEP__REDIRECTION_FLIPPED:
		return ops->flip(c, action, undo, err);
	case FLEXIMIGRATE__V1__REDIRECTION_STEP__REDIRECTION_VERIFIED:
		return ops->verify(c, action, undo, err);
	case FLEXIMIGRATE__V1__REDIRECTION_STEP__REDIRECTION_REVERTED:
		return ops->revert(c, action, undo, err);
	default:
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "%d is no step of a redirection", (int)step);
	}
}

/* Most drivers say so themselves. */
static int by_driver(const struct fm_redirect_ops *ops, struct fm_error *err)
{
	size_t n = strlen(ops->name);

	if (err && strncmp(err->message, ops->name, n) == 0 && err->message[n] == ':')
		return -1;
	return fm_error_prefix(err, "%s", ops->name);
}

int fm_redirection_step(const struct fm_redirect_call *c, const FM_PB(Redirection) * r, FM_PB(RedirectionStep) step, char **ret_undo,
                        struct fm_error *err)
{
	_fm_cleanup_(json_decrefp) json_t *action = parse(r->action, FM_MAX_REDIRECT_BYTES, "action", err);
	_fm_cleanup_(json_decrefp) json_t *undo = NULL;
	const struct fm_redirect_ops *ops = NULL;
	int rc;

	if (!action || fm_redirect_driver_of(action, &ops, err) < 0)
		return -1;
	if (step == FLEXIMIGRATE__V1__REDIRECTION_STEP__REDIRECTION_PREPARED) {
		rc = prepare(c, ops, action, ret_undo, err);
	} else {
		undo = parse(r->undo, FM_MAX_REDIRECT_UNDO_BYTES, "undo", err);
		rc = undo ? take(c, ops, action, undo, step, err) : -1;
	}
	return rc < 0 ? by_driver(ops, err) : 0;
}

int fm_redirection_serve(const char *secrets_dir, int cancel_fd, const FM_PB(RedirectRequest) * req, FM_PB(RedirectResponse) * *ret,
                         struct fm_error *err)
{
	uint32_t limit_ms = req->timeout_ms ? req->timeout_ms : STEP_TIMEOUT_MS;
	struct fm_redirect_call c = { .cancel_fd = cancel_fd, .secrets_dir = secrets_dir };
	_fm_free_ char *undo = NULL;

	if (!req->redirection) {
		(void)fm_error_set(err, FM_E_INVALID_ARGUMENT, "a call without a redirection");
		return fm_error_phase(err, "network");
	}
	c.deadline_ms = fm_now_ms() + (limit_ms < STEP_TIMEOUT_MAX_MS ? limit_ms : STEP_TIMEOUT_MAX_MS);
	if (fm_redirection_step(&c, req->redirection, req->step, &undo, err) < 0)
		return fm_error_phase(err, "network");
	*ret = FM_PB_NEW(RedirectResponse, redirect_response);
	if (undo)
		fm_pb_set(&(*ret)->undo, undo);
	return 0;
}

const char *fm_redirection_title(const FM_PB(Redirection) * r)
{
	_fm_cleanup_(json_decrefp) json_t *action = parse(r->action, FM_MAX_REDIRECT_BYTES, "action", NULL);
	const struct fm_redirect_ops *ops = NULL;

	return action && fm_redirect_driver_of(action, &ops, NULL) == 0 ? ops->title : "the network";
}
