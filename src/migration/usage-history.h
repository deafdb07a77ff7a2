/* SPDX-License-Identifier: MIT */
/*
 * usage-history.h - what hosts and containers have used, as the manager remembers it: means of the last two minutes, and of 5 minutes for 48 hours (monitor/ring.h), which predictors and the snapshot
 * read. A container's history belongs to its name, wherever it is.
 *
 * In memory, at most FM_MAX_USAGE_SERIES; when a new one would be one too many, the one that was heard of longest ago goes. In the store: one record for each host and hour (usage of the host and of what ran there),
 * written when 5 minutes are complete, removed after 48 hours. What is lost by a crash is 5 minutes. Thread-safe.
 *
 * The verdict (monitor/analyzer.h) over each host is kept here, too.
 */
#ifndef FM_MIGRATION_USAGE_HISTORY_H
#define FM_MIGRATION_USAGE_HISTORY_H

#include "basic/log.h"
#include "migration/agent-api.h"
#include "monitor/analyzer.h"
#include "monitor/ring.h"
#include "store/store.h"

struct fm_usage_history;

/* limits NULL: the defaults. log may be NULL: it gets a line when a verdict changes. The store is borrowed. */
int fm_usage_history_new(struct fm_store *store, const struct fm_load_limits *limits, struct fm_log *log, struct fm_usage_history **ret,
                         struct fm_error *err);
void fm_usage_history_free(struct fm_usage_history *h); /* writes what is not written yet */

/* A report that was checked; usage of containers that are about to come or have gone does not count. The clock is the manager's. */
void fm_usage_history_report(struct fm_usage_history *h, const FM_PB(ReportRequest) * r, uint64_t now_unix_ms);

/* A copy. false: nothing is known of it. */
bool fm_usage_history_host(struct fm_usage_history *h, const char *name, enum fm_usage_kind kind, struct fm_series *ret);
bool fm_usage_history_container(struct fm_usage_history *h, const char *name, enum fm_usage_kind kind, struct fm_series *ret);
/* The mean of the last minute; NAN: not known. */
double fm_usage_history_now(struct fm_usage_history *h, bool host, const char *name, enum fm_usage_kind kind, uint64_t now_unix_ms);

/* Fills in load and load_reason of a host. */
void fm_usage_history_load(struct fm_usage_history *h, FM_PB(Host) * host);

#endif
