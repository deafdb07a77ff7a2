/* SPDX-License-Identifier: MIT */
/*
 * watcher.h - the agent's Resource Monitor: a thread that samples (monitor/monitor.h) and the probes to other agents (monitor/peers.h), and what of that goes into reports.
 *
 * Calling sequence: new -> watch, report and peers from the thread that reports -> free.
 */
#ifndef FM_AGENT_WATCHER_H
#define FM_AGENT_WATCHER_H

#include "migration/host.h"
#include "migration/mover.h"
#include "monitor/monitor.h"

struct fm_watcher;

struct fm_watcher_options {
	uint32_t period_ms;
	const char *host; /* where probes are answered, with port; NULL: they are not */
	uint16_t port;
	struct fm_log *log;
	struct fm_movers *movers; /* borrowed */
};

/* A port that is taken is logged, and this host's ways are not measured then. */
int fm_watcher_new(const struct fm_watcher_options *o, struct fm_watcher **ret, struct fm_error *err);
void fm_watcher_free(struct fm_watcher *w); /* NULL is fine */

/* These are this host's containers. */
void fm_watcher_watch(struct fm_watcher *w, FM_PB(Container) *const *v, size_t n);
/* Fills usage, peers and echo_port of the host, and usage of the containers. */
void fm_watcher_report(struct fm_watcher *w, FM_PB(Host) * h, FM_PB(Container) *const *v, size_t n);
/* What the manager answered: whose ways are to be measured. */
void fm_watcher_peers(struct fm_watcher *w, const FM_PB(ReportResponse) * r);

#endif
