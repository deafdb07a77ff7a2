/* SPDX-License-Identifier: MIT */
/*
 * proactive.h - Decision Engine: moves before a host is over its threshold, without a human, and without moving things to and fro.
 *
 * A step looks at one snapshot and answers with a plan, mostly an empty one. It acts on what is predicted (what is now, of what nobody predicts), and is held back by
 *   - patience: a host has to be predicted over a threshold in every step for sustain_ms before it is acted on,
 *   - hysteresis: it is then brought under the threshold less a margin, and only hosts that stay under that take something; a host that was acted on is done with when it is below it,
 *   - rest: a host that has given or taken is left alone for settle_ms, while predictions learn what it is like now,
 *   - cool-down: a container that has moved stays for cooldown_ms, and does not go back where it came from for return_ms,
 *   - a budget: so many moves in any hour, so many at once.
 * With a constant load there is never a second plan for the same host: after the first it is under the threshold less the margin, and it takes a change of the load by the margin to come back.
 *
 * Moves count when they are planned, whatever becomes of them: what fails is not tried again at once. The state is memory of the caller's; it belongs to one thread. Time is the snapshot's.
 */
#ifndef FM_DECISION_PROACTIVE_H
#define FM_DECISION_PROACTIVE_H

#include "decision/plan.h"

/* Zero is the default. */
struct fm_proactive_opts {
	struct fm_plan_opts plan; /* thresholds, links, weights, costs */
	double margin_percent;    /* 10 */
	uint64_t sustain_ms;      /* 60 s */
	uint64_t settle_ms;       /* 5 min */
	uint64_t cooldown_ms;     /* 15 min */
	uint64_t return_ms;       /* 1 h */
	unsigned moves_per_hour;  /* 12 */
	unsigned moves_at_once;   /* 2 */
};

struct fm_proactive;
struct fm_proactive *fm_proactive_new(void);
void fm_proactive_free(struct fm_proactive *p);

/* *ret: a plan of kind PROACTIVE, without steps when there is nothing to do (its summary says why, where there would be). The caller frees it. Cannot fail. */
void fm_proactive_step(struct fm_proactive *p, const struct fm_snapshot *s, const struct fm_proactive_opts *o, struct fm_plan **ret);

#endif
