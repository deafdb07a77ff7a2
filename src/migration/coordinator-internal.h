/* SPDX-License-Identifier: MIT */
/* coordinator-internal.h - one migration as its worker thread sees it; private to the coordinator's files. */
#ifndef FM_MIGRATION_COORDINATOR_INTERNAL_H
#define FM_MIGRATION_COORDINATOR_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "basic/clock.h"
#include "basic/id.h"
#include "basic/str.h"
#include "decision/compat.h"
#include "decision/policy.h"
#include "decision/selector.h"
#include "loop/pool.h"
#include "migration/coordinator.h"
#include "migration/pb.h"
#include "migration/state.h"

#define FM_CALL_TIMEOUT_MS    15000  /* calls that answer at once */
#define FM_PREPARE_TIMEOUT_MS 600000 /* root filesystems travel */
#define FM_EXECUTE_TIMEOUT_MS 180000
#define FM_AWAITING_APPROVAL  "AWAITING_APPROVAL" /* sub-states, docs/LIFECYCLE.md */
#define FM_QUEUED             "QUEUED"
#define FM_RETRY_PAUSE_MS     300
#define FM_RETRY_PAUSE_MAX_MS 60000

/* What policies make of a migration that they allow; of the last plan. Copied: a set of policies may be replaced meanwhile. */
struct fm_terms {
	int64_t priority;
	struct fm_policy_limits limits;
	uint32_t duration_s; /* 0: not limited */
	char duration_by[FM_MAX_NAME], approval_by[FM_MAX_NAME], balancer_by[FM_MAX_NAME];
	char **notices; /* policy and URL, one after the other */
};

struct fm_migration {
	struct fm_coordinator *c;
	pthread_mutex_t lock; /* guards pb */
	FM_PB(Migration) * pb;
	char id[64];     /* what the agents know it by */
	char log_id[64]; /* what its log lines belong to: the same, but for the way back of a rollback */
	uint32_t epoch;
	struct fm_stop cancel; /* the user's cancel, heeded until the commit point */
	atomic_bool past_commit;
	enum fm_state resume_from;                       /* after a restart; INVALID: a new one */
	bool taken_up;                                   /* after a restart, for good */
	uint64_t deadline_ms;                            /* monotonic */
	uint64_t max_downtime_ms, bandwidth_bytes_per_s; /* as asked for; 0 = none */
	uint32_t max_throttle_percent;                   /* as asked for, else, once it is planned, as the label says; 0 = none */
	bool no_throttle;
	uint32_t streams; /* as asked for, else, once it is planned, as the label says; 0 = as many as suit the source */

	FM_PB(InspectResponse) * facts; /* from the source */
	struct fm_compat *compat;       /* what they and the hosts' facts say, of the last look */
	FM_PB(PrepareDestinationResponse) * prepared;
	char checkpoint_id[96];
	bool source_touched, destination_touched; /* Prepare was called: Abort has work */
	bool destination_ran;
	uint64_t committed_ms;      /* monotonic, of the switch-over; 0 unknown */
	enum fm_strategy requested; /* as asked for; pb->strategy is the one that was chosen */
	char trigger[16];           /* "user", "drain", … */
	struct fm_terms terms;
	json_t *built_in;          /* what the built-in policies said, for the record */
	bool deadline_is_policys;  /* deadline_ms is terms.duration_s, not what was asked for */
	struct fm_place_in_queue { /* queue.c; guarded by the coordinator's lock */
		bool running, waiting;
		uint64_t number; /* of its arrival; 0: has not arrived */
		int64_t priority;
		struct fm_policy_limits limits;
		char source[FM_MAX_NAME + 1], destination[FM_MAX_NAME + 1];
	} queue;
	struct fm_migration *next;
	struct fm_migration *of; /* carry-back.c: whose way back this is; else NULL */
};

struct fm_coordinator {
	struct fm_coordinator_opts o;
	struct fm_pool *pool;
	struct fm_costs *costs; /* what moves have cost so far; our own unless o.costs */
	struct fm_stop shutdown;
	pthread_mutex_t lock;   /* guards active */
	pthread_cond_t changed; /* new event or state of any migration */
	uint64_t changes;       /* how many there were, so that a waiter cannot miss one */
	struct fm_migration *active;
	uint64_t arrivals;          /* in the queue, so far; under lock */
	struct fm_pool *messengers; /* of notify("…") */
};

/* Has it to do with that container or one of those hosts (NULL = not asked)? For any thread. */
bool fm_is_about(struct fm_migration *m, const char *container, const char *source, const char *destination);

/* ---- log.c-like helpers (transition.c) */
void fm_mlog(struct fm_migration *m, enum fm_log_level level, const char *component, const char *fmt, ...)
        __attribute__((format(printf, 4, 5)));
/* The one setter: table check, store transaction, log line (message + "Transitioning: A -> B." or the form lifecycle.md wants), event. */
int fm_migration_transition(struct fm_migration *m, enum fm_state to, const char *reason, struct fm_error *err, enum fm_log_level level,
                            const char *fmt, ...) __attribute__((format(printf, 6, 7)));
int fm_migration_save(struct fm_migration *m);
enum fm_state fm_migration_state(struct fm_migration *m);
void fm_migration_set_error(struct fm_migration *m, const struct fm_error *e);
void fm_migration_step(struct fm_migration *m, const char *step);
void fm_migration_take_status(struct fm_migration *m, const FM_PB(MoverStatus) * s); /* counters and phases into pb */
int fm_check_cancelled(struct fm_migration *m, struct fm_error *err);
/* Wakes who waits for events. Never with a lock held. */
void fm_changed(struct fm_coordinator *c);
/* The manager is stopping: what fails now has not failed, the next manager goes on with it. */
bool fm_stopping(struct fm_migration *m);

/* ---- calls to agents: wrappers that also log nothing */
int fm_call(struct fm_migration *m, const char *host, enum fm_agent_method method, const void *request, int timeout_ms, void *ret_response,
            struct fm_error *err);
int fm_call_cancellable(struct fm_migration *m, const char *host, enum fm_agent_method method, const void *request, int timeout_ms,
                        void *ret_response, struct fm_error *err);
int fm_call_status(struct fm_migration *m, const char *host, uint32_t wait_ms, FM_PB(MoverStatus) * *ret, struct fm_error *err);
/* Until the agent answers (it may be restarting) or the coordinator shuts down. */
int fm_call_until_answered(struct fm_migration *m, const char *host, enum fm_agent_method method, const void *request, int timeout_ms,
                           void *ret_response, struct fm_error *err);
/* The same, for grace_ms at most; < 0 = for ever. */
int fm_call_within(struct fm_migration *m, const char *host, enum fm_agent_method method, const void *request, int timeout_ms, int grace_ms,
                   void *ret_response, struct fm_error *err);

/* ---- pause.c: the sub-state PAUSED */
/* What the destination's agent says about it. */
void fm_pause_take(struct fm_migration *m, const FM_PB(MoverStatus) * s);
/* The destination's container has pages to fetch and this call to that host failed: is it for silence? Then it is paused. */
bool fm_pause_silence(struct fm_migration *m, const char *host, const struct fm_error *e);
/* While some host is waited for: does that hold up pages? */
void fm_pause_look(struct fm_migration *m, const char *host_that_is_silent, const struct fm_error *e);
/* Asks. True: pages are missing and cannot be fetched just now, so that a check that fails says nothing. */
bool fm_pause_holds(struct fm_migration *m);
void fm_pause_clear(FM_PB(Migration) * pb); /* without a word */

/* ---- phases; each returns 0 when its state was left normally, -1 with the cause */
int fm_phase_pending(struct fm_migration *m, struct fm_error *err);
int fm_phase_planning(struct fm_migration *m, struct fm_error *err);
int fm_phase_preparation(struct fm_migration *m, struct fm_error *err);
int fm_phase_execution(struct fm_migration *m, struct fm_error *err);
int fm_phase_verification(struct fm_migration *m, struct fm_error *err);
int fm_phase_completed(struct fm_migration *m, struct fm_error *err);
/* After a doubt: what happened in the switch-over? 0 = committed and the destination lives; -1 = it did not happen or failed (m->past_commit tells). */
int fm_resolve_switch_over(struct fm_migration *m, struct fm_error *err);
/* The two halves of a move without transitions: used by the phases and by the way back of a rollback. */
int fm_move_prepare(struct fm_migration *m, struct fm_error *err);
int fm_move_execute(struct fm_migration *m, struct fm_error *err);
int fm_await_pages(struct fm_migration *m, struct fm_error *err);
/* Facts of the container as it is on that host, unless they are known */
int fm_load_facts(struct fm_migration *m, const char *host, struct fm_error *err);
/* Container and hosts exist, are online and not the same; fills in the source */
int fm_check_hosts(struct fm_migration *m, struct fm_error *err);
/* Asks the source about the container; m->facts and m->compat. Fails only when that cannot be known. */
int fm_compat_look(struct fm_migration *m, struct fm_error *err);
/* The plan alone, for --dry-run */
int fm_plan(struct fm_migration *m, struct fm_strategy_choice *ret, struct fm_error *err);
/* From any failed state to the final FAILED. Never fails: retries until agents answer or the coordinator stops. */
void fm_rollback(struct fm_migration *m, const struct fm_error *cause);
/* carry-back.c: bring a container that runs on the destination back to the source, the same switch-over in reverse. */
int fm_carry_back(struct fm_migration *m, struct fm_error *err);
/* After a restart: had it been carried back already? Then what was left to do is done. */
bool fm_carried_back_before(struct fm_migration *m);
int fm_abort_on(struct fm_migration *m, const char *host, bool destination_is_dead, FM_PB(AbortResponse) * *ret, struct fm_error *err);
/* The same, but a host that is not heard of for agent_grace_ms is left to itself (UNAVAILABLE). Only where that is safe: it cannot own the container any more. */
int fm_abort_within_grace(struct fm_migration *m, const char *host, FM_PB(AbortResponse) * *ret, struct fm_error *err);

/* ---- phase-redirect.c: the redirections of a migration; each is nothing where there are none */
int fm_redirections_plan(struct fm_migration *m, uint64_t downtime_ms, struct fm_error *err); /* redirect-plan.c: which */
int fm_redirections_prepare(struct fm_migration *m, struct fm_error *err); /* looks; every undo is on record then, and nothing is changed */
int fm_redirections_open(struct fm_migration *m, struct fm_error *err);    /* also on the way back of a rollback, from flipped ones */
int fm_redirections_flip(struct fm_migration *m, struct fm_error *err);
int fm_redirections_verify(struct fm_migration *m, struct fm_error *err);
void fm_redirections_over(struct fm_migration *m); /* redirect-plan.c: the flows of switches lead where it wanted them */
int fm_redirections_remember(struct fm_coordinator *c,
                             struct fm_error *err);                     /* the same of all that are on record and over, at the start */
int fm_redirections_keep(struct fm_migration *m, struct fm_error *err); /* before the source is released; repeatable */
bool fm_redirections_revert(struct fm_migration *m);                    /* false: something is left, the log says what */
/* Those that the source flips in its switch-over, and takes back when its port opens again. Borrowed; *ret is free()d. */
void fm_redirections_urgent(struct fm_migration *m, FM_PB(Redirection) * **ret, size_t *ret_n);

/* queue.c: who may begin now. Waits, as sub-state QUEUED, until the limits that hold for it allow it and nobody who comes before it could go instead. *ret_waited: something may have changed meanwhile. */
int fm_queue_enter(struct fm_migration *m, bool *ret_waited, struct fm_error *err);
/* Taken up after a restart in the middle: it is under way, whatever the limits say. */
void fm_queue_join(struct fm_migration *m);
/* queue.c: waits, as sub-state AWAITING_APPROVAL, until somebody approves it; cancelled and too late like everywhere. */
int fm_await_approval(struct fm_migration *m, struct fm_error *err);

/* rules.c: what the operator's policies say about the plan; the record of the decision, terms, strategy. FAILED_PRECONDITION: denied. */
int fm_rules_apply(struct fm_migration *m, const struct fm_workload_snapshot *w, struct fm_strategy_choice *choice, struct fm_error *err);
/* The record of what a built-in policy denied, too. */
void fm_rules_denied(struct fm_migration *m, const char *policy, const struct fm_error *why);
/* The terms' notices; outcome: "allowed", "denied", "failed", "waits for approval". Returns at once. */
void fm_rules_notify(struct fm_migration *m, const char *outcome, const char *why);

/* The limit of time of a migration that is taken up in EXECUTION, from its record. What is over of it is by the clock of the day, from the end of
 * PLANNING on; a clock that was set back gives the whole of it again at most. Call before any other thread knows the migration. */
void fm_rules_resume_duration(struct fm_migration *m);

/* policy.c - the Policy Enforcer: built-in policies; they always hold, before those of rules.c. DENIED: FAILED_PRECONDITION. */
int fm_policy_check(struct fm_migration *m, const FM_PB(Host) * destination, struct fm_error *err);

#endif
