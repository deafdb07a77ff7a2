/* SPDX-License-Identifier: MIT */
/*
 * metrics.h - what manager and agent expose (catalogue.h), written from what they know. docs/METRICS.md is for who reads the figures.
 *
 * fm_web_manager and fm_web_agent are userdata of a server (server.h): the *_metrics and *_ready functions are its callbacks. The parts below them are used by both.
 */
#ifndef FM_WEB_METRICS_H
#define FM_WEB_METRICS_H

#include "migration/agent-api.h"
#include "migration/coordinator.h"
#include "migration/fleet.h"
#include "migration/keeper.h"
#include "migration/mover.h"
#include "migration/tally.h"
#include "web/exposition.h"

/* ---- the manager's: all borrowed, thread-safe by themselves */
struct fm_web_manager {
	const char *version;
	struct fm_fleet *fleet;
	struct fm_coordinator *coordinator;
	struct fm_tally *tally;
	void (*judge)(void *userdata, FM_PB(Host) * host); /* fills in `load`, by the manager's thresholds; NULL: there are none */
	void *judge_userdata;
};
void fm_web_manager_metrics(void *userdata, struct fm_exposition *x); /* struct fm_web_manager * */
int fm_web_manager_ready(void *userdata, struct fm_error *err);       /* the store can be read */

/* ---- the agent's: keeps a copy of the last report for the server's thread. Thread-safe. */
struct fm_web_agent;
struct fm_web_agent_opts {
	const char *version;
	const char *journals_dir;
	struct fm_movers *movers;
	struct fm_keeper *keeper;
}; /* borrowed */
struct fm_web_agent *fm_web_agent_new(const struct fm_web_agent_opts *o);
void fm_web_agent_free(struct fm_web_agent *a);
/* The report that is about to be sent: from here the agent's figures of its host and containers come. Copied. NULL-safe. */
void fm_web_agent_report(struct fm_web_agent *a, const FM_PB(ReportRequest) * r);
/* The manager took it, and wants the next one after interval_ms. NULL-safe. */
void fm_web_agent_taken(struct fm_web_agent *a, uint32_t interval_ms);
void fm_web_agent_metrics(void *userdata, struct fm_exposition *x); /* struct fm_web_agent * */
int fm_web_agent_ready(void *userdata, struct fm_error *err);       /* the manager takes the reports */

/* ---- parts */
/* fleximigrate_build_info and process_* of this process; what /proc does not tell is absent. */
void fm_web_write_process(struct fm_exposition *x, const char *version, const char *role);
/* Of hosts that are offline only that they are. A value whose number is in `unknown` of its usage is absent, and so is all use of a host that reports none. */
void fm_web_write_hosts(struct fm_exposition *x, FM_PB(Host) *const *v, size_t n);
void fm_web_write_peers(struct fm_exposition *x, const FM_PB(Host) * h);
/*
 * Containers by status, and the series of each: one for a host and a name, the resident's before one that comes or goes. The array is sorted. Left out, and counted: names that are none (another
 * program's), and all of them beyond FM_MAX_WEB_CONTAINERS.
 */
void fm_web_write_containers(struct fm_exposition *x, FM_PB(Container) * *v, size_t n);

#endif
