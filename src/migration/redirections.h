/* SPDX-License-Identifier: MIT */
/*
 * redirections.h - one step of one change of the network around a move (network/redirect.h), in the contract's words: for the manager, for agents, and for a source inside its switch-over.
 *
 * The manager's record is the only memory of them: it has the undo before anything is changed, and every call carries it. An agent that takes a step keeps nothing.
 */
#ifndef FM_MIGRATION_REDIRECTIONS_H
#define FM_MIGRATION_REDIRECTIONS_H

#include "migration/agent-api.h"
#include "network/redirect.h"

/* Takes the step (PREPARED, OPEN, FLIPPED, VERIFIED or REVERTED: what it will be) in the calling thread's network namespace. PREPARED: *ret_undo is malloc'ed; else it is not touched and may be
 * NULL. r is not changed. Errors say the driver first. */
int fm_redirection_step(const struct fm_redirect_call *c, const FM_PB(Redirection) * r, FM_PB(RedirectionStep) step, char **ret_undo,
                        struct fm_error *err);
/* The agent's side of the call Redirect. */
int fm_redirection_serve(const char *secrets_dir, int cancel_fd, const FM_PB(RedirectRequest) * req, FM_PB(RedirectResponse) * *ret,
                         struct fm_error *err);
/* For the log: "flows of OpenFlow switches", or the driver's name where it is not known. */
const char *fm_redirection_title(const FM_PB(Redirection) * r);

#endif
