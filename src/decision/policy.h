/* SPDX-License-Identifier: MIT */
/*
 * policy.h - Decision Engine: policies in the published form, and what they say about one migration. docs/POLICIES.md is the manual for who writes them.
 *
 * A set is read from documents (basic/document.h): one policy, a list of them, or {"policies": [...]}. A policy is a mapping with policy_name, CONTEXT, CONDITIONS, ACTIONS, CONSTRAINTS, PRIORITY (in this or any
 * other case of letters) and description. What is not known is refused with its place and the nearest name there is: a set that was read has no mistakes but those that only values can show.
 *
 * A decision is a pure function of the set and the case. Each policy whose conditions hold is in force. Denied is a migration when, going down from the highest PRIORITY, the first policy with something to say denies:
 * one in force with deny_migration or rollback, one in force outside its windows, or one that cannot be told, because a variable is unknown or evaluating it failed. On the same PRIORITY denying wins. It is allowed by
 * the first in force with allow_migration; when none speaks, it is allowed unless some policy of the set has allow_migration (then it is denied: nothing allows it).
 * Effects (priority, strategy, approval, …) are those of all policies in force; where they differ, the highest PRIORITY decides, then the order of reading; limits are the smallest, approval is needed when one asks.
 *
 * A set is read-only once it is read: any number of threads. Snapshots are the caller's.
 */
#ifndef FM_DECISION_POLICY_H
#define FM_DECISION_POLICY_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/document.h"
#include "basic/error.h"
#include "basic/limits.h"
#include "decision/expr.h"
#include "decision/snapshot.h"

#define FM_PRIORITY_NORMAL 50 /* of a migration that no policy gives one; "low" 25, "high" 75, "critical" 100 */

enum fm_policy_action {
	FM_POLICY_ALLOW,
	FM_POLICY_DENY,
	FM_POLICY_ROLLBACK, /* the published name of a veto */
	FM_POLICY_SET_PRIORITY,
	FM_POLICY_SET_STRATEGY,
	FM_POLICY_REQUIRE_APPROVAL,
	FM_POLICY_LOAD_BALANCER, /* trigger_load_balancer_reconfiguration */
	FM_POLICY_NOTIFY,
	_FM_POLICY_ACTION_MAX
};
const char *fm_policy_action_name(enum fm_policy_action a);

/* Migrations under way at a time; 0: not limited */
struct fm_policy_limits {
	unsigned global, per_host, per_link;
};

struct fm_policy_window {
	uint8_t days;                    /* bit 0: Monday */
	uint16_t from_minute, to_minute; /* of the day; to <= from: into the next day */
	bool has_offset;
	int utc_offset_s; /* else the snapshot's */
};

struct fm_policy {
	char *name, *description;
	char *at;         /* "FILE:LINE:COLUMN" */
	char *conditions; /* as written; NULL: always */
	struct fm_expr *expr;
	int64_t priority;
	struct {
		enum fm_policy_action action;
		char *argument; /* NULL: none */
	} actions[FM_MAX_POLICY_LIST];
	size_t n_actions;
	struct fm_policy_limits limits;
	uint32_t duration_s; /* 0: not limited */
	struct fm_policy_window windows[FM_MAX_POLICY_LIST];
	size_t n_windows; /* 0: always */
};

struct fm_policies {
	struct fm_policy *v[FM_MAX_POLICIES];
	size_t n;
};

struct fm_policies *fm_policies_new(void);
void fm_policies_free(struct fm_policies *p);
FM_DEFINE_CLEANUP(struct fm_policies *, fm_policies_free);
/* Adds what is in the document. INVALID_ARGUMENT "FILE:LINE:COLUMN: …"; the set is to be freed then. */
int fm_policies_add(struct fm_policies *p, const struct fm_document *d, struct fm_error *err);

bool fm_policy_has(const struct fm_policy *p, enum fm_policy_action a);
const char *fm_policy_argument(const struct fm_policy *p, enum fm_policy_action a); /* of the first such action; NULL */

/* What policies can ask for, with its type; and the functions label("…"), source_label("…"), destination_label("…"). */
const struct fm_expr_vocabulary *fm_policy_vocabulary(void);

/* One migration that is asked for. */
struct fm_policy_case {
	const struct fm_snapshot *snapshot;                                       /* the time of day is its at_unix_ms and utc_offset_s */
	size_t container, source, destination;                                    /* in it */
	const char *strategy;                                                     /* as chosen: "live", …; NULL: unknown */
	const char *requested_strategy;                                           /* "auto", … */
	const char *trigger;                                                      /* "user", "drain", "balance", "proactive" */
	uint64_t predicted_downtime_ms, predicted_total_ms, predicted_wire_bytes; /* FM_UNKNOWN */
	unsigned active_migrations;                                               /* others that are under way */
};

/* FM_MAX_POLICY_VALUES values, in the vocabulary's order; texts are the case's. For who evaluates one case many times. */
#define FM_MAX_POLICY_VALUES 64
void fm_policy_values(const struct fm_policy_case *c, struct fm_expr_value values[FM_MAX_POLICY_VALUES]);

struct fm_policy_notice {
	const char *policy, *url;
};

struct fm_policy_decision {
	bool allowed;
	const char *decided_by; /* a policy's name; NULL: none spoke */
	char message[600];      /* denied: why, a sentence without its full stop */
	int64_t priority;       /* of the migration, FM_PRIORITY_NORMAL … */
	const char *strategy;   /* NULL: as it is */
	const char *strategy_by;
	const char *approval_by; /* NULL: none is needed */
	const char *balancer_by; /* NULL: no load balancer is asked for */
	struct fm_policy_limits limits;
	uint32_t duration_s;
	const char *duration_by;
	struct fm_policy_notice notices[FM_MAX_POLICY_LIST];
	size_t n_notices;
	json_t *record; /* how it came about; docs/POLICIES.md, "The record". json_decref */
};

/* Texts in the decision are the set's. ret->record is the caller's. */
void fm_policies_decide(const struct fm_policies *p, const struct fm_policy_case *c, struct fm_policy_decision *ret);

/* The record in plain words, lines of text; free(). NULL: it is none. */
char *fm_policy_explain(const json_t *record);

#endif
