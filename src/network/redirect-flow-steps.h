/* SPDX-License-Identifier: MIT */
/*
 * redirect-flow-steps.h - the steps of the two drivers that move flows of switches (redirect-flow.h: what is moved, and what a flow that was found means). Private to network/.
 *
 * A step makes a session, asks every switch how its flow is now, and has those changed that are not yet as they should be. Nothing is remembered between calls, so any may be repeated, and one that was
 * interrupted is finished by the next. How flows are listed and changed is the medium's: switches with bundles, or a controller that changes one after the other.
 *
 * Time. A change that has begun must be taken back within the same deadline when a switch refuses or hangs, so the way forward has half of the time. Prepare, verify and leftovers change nothing and may use all of it.
 * Revert goes from switch to switch, each with its share of the time: one that is dead must not keep the others from being restored.
 */
#ifndef FM_NETWORK_REDIRECT_FLOW_STEPS_H
#define FM_NETWORK_REDIRECT_FLOW_STEPS_H

#include "network/redirect-flow.h"
#include "network/redirect.h"

struct fm_flow_session {
	const struct fm_redirect_call *call;
	struct fm_flow_plan plan;
	uint64_t until_ms; /* of what is being done now; at most the call's deadline */
	int cancel_fd;
	enum fm_flow_state state[FM_MAX_OF_SWITCHES]; /* as it was found last */
	char found[160];                              /* in words, on the switch that was asked last */
	const struct fm_flow_medium *medium;
	void *own; /* the medium's, own_bytes of zeros at first */
};

struct fm_flow_medium {
	enum fm_flow_kind kind;
	size_t own_bytes;
	int (*begin)(struct fm_flow_session *s, struct fm_error *err); /* the plan is there; NULL: nothing to do */
	void (*end)(struct fm_flow_session *s);                        /* also after a begin that failed */
	int (*check)(struct fm_flow_session *s, struct fm_error *err); /* what prepare finds out besides the flows; NULL: nothing */
	/* Flows of switch i, until until_ms: those that ours could be among, or, for leftovers, those that could be a mark of ours. *ret: free() */
	int (*list)(struct fm_flow_session *s, size_t i, bool leftovers, struct fm_of_flow **ret, size_t *ret_n, struct fm_error *err);
	/* From s->state to `want` on all switches, or back to s->state on all; the hint names one that may be neither. Forward until until_ms, back until the deadline. */
	int (*change)(struct fm_flow_session *s, enum fm_flow_state want, struct fm_error *err);
	/* Switch i to AS_IT_WAS, which it is not, until until_ms. */
	int (*restore)(struct fm_flow_session *s, size_t i, struct fm_error *err);
};

/* For the mediums: asks switch i, into s->state[i] and s->found. */
int fm_flow_ask(struct fm_flow_session *s, size_t i, struct fm_error *err);

extern const struct fm_flow_medium fm_flow_by_openflow, fm_flow_by_rest;

/* The steps of redirect.h, over the medium that the action's "driver" says. */
int fm_flow_prepare(const struct fm_redirect_call *c, const json_t *action, json_t **ret_undo, struct fm_error *err);
int fm_flow_open(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err);
int fm_flow_flip(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err);
int fm_flow_verify(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err);
int fm_flow_revert(const struct fm_redirect_call *c, const json_t *action, const json_t *undo, struct fm_error *err);
/* Of one driver. The switches are those of the known actions: there is no list of others. One that does not answer is told at the end, after the others were asked. */
int fm_flow_leftovers(enum fm_flow_kind kind, const struct fm_redirect_call *c, const json_t *known,
                      void (*cb)(const char *what, void *userdata), void *userdata, struct fm_error *err);

#endif
