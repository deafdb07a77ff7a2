/* SPDX-License-Identifier: MIT */
/*
 * fleet.h - what the manager knows about hosts and containers: the last report of each agent, kept in the store too.
 * A host is online while its reports are younger than FM_FLEET_OFFLINE_MS. Thread-safe. Returned messages are copies the caller frees (…__free_unpacked(m, NULL)).
 * A container is where an online or last seen agent reports it as its own; reports with status "incoming" or "outgoing" do not count as being there.
 */
#ifndef FM_MIGRATION_FLEET_H
#define FM_MIGRATION_FLEET_H

#include "basic/error.h"
#include "migration/agent-api.h"
#include "store/store.h"

#define FM_FLEET_REPORT_MS  1000
#define FM_FLEET_OFFLINE_MS 5000

struct fm_fleet;
int fm_fleet_new(struct fm_store *store, struct fm_fleet **ret, struct fm_error *err); /* loads the last known state */
void fm_fleet_free(struct fm_fleet *f);

/* Validates (names, limits, duplicate container name on another online host -> ALREADY_EXISTS is only logged by the caller) and takes over a report. */
int fm_fleet_report(struct fm_fleet *f, const FM_PB(ReportRequest) * r, struct fm_error *err);
int fm_fleet_host(struct fm_fleet *f, const char *name, FM_PB(Host) * *ret,
                  struct fm_error *err); /* NOT_FOUND lists known names in the hint */
int fm_fleet_hosts(struct fm_fleet *f, FM_PB(Host) * **ret, size_t *ret_n, struct fm_error *err);
int fm_fleet_container(struct fm_fleet *f, const char *name, FM_PB(Container) * *ret, struct fm_error *err); /* NOT_FOUND */
int fm_fleet_containers(struct fm_fleet *f, const char *host, FM_PB(Container) * **ret, size_t *ret_n, struct fm_error *err);
/* For the answer to a report: whose way that host's agent measures, at most FM_MAX_PEERS of those that answer, and the key. Those that follow it in the order in which they became known, so that everybody is measured
 * by as many. */
void fm_fleet_peers(struct fm_fleet *f, const char *host, FM_PB(ReportResponse) * r);
int fm_fleet_agent_address(struct fm_fleet *f, const char *host, char *ret, size_t cap, struct fm_error *err);
/* A cordoned host takes no container any more: a migration there is refused, plans leave it out. Durable, the manager's own: what an agent reports of it does not count. NOT_FOUND. */
int fm_fleet_cordon(struct fm_fleet *f, const char *host, bool cordoned, struct fm_error *err);
/* After a completed migration or a run/rm: correct the picture at once instead of waiting for the next report. */
void fm_fleet_container_moved(struct fm_fleet *f, const char *name, const char *to_host);
void fm_fleet_container_put(struct fm_fleet *f, const FM_PB(Container) * c);
void fm_fleet_container_gone(struct fm_fleet *f, const char *name, const char *host);

#endif
