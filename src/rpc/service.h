/* SPDX-License-Identifier: MIT */
/*
 * service.h - the two services of the contract as method tables with handlers: decode is done, so validate, limit, call the domain, hand back. No decisions here.
 * Each function fills a copy of the contract's table; userdata of the server must be the struct given here.
 */
#ifndef FM_RPC_SERVICE_H
#define FM_RPC_SERVICE_H

#include "migration/cluster-snapshot.h"
#include "migration/coordinator.h"
#include "migration/mover.h"
#include "migration/network.h"
#include "migration/planner.h"
#include "rpc/rpc.h"

struct fm_manager_service {
	const char *version, *name;
	struct fm_coordinator *coordinator;
	struct fm_fleet *fleet;
	struct fm_agent_api agents;
	struct fm_log *log;
	struct fm_network *network; /* NULL: none is described */
	struct fm_planner *planner;
	struct fm_usage_history *history; /* takes the reports */
	int (*snapshot)(void *userdata, struct fm_snapshot **ret, struct fm_error *err);
	void *snapshot_userdata;
	struct fm_rulebook *policies; /* NULL: only those that are built in */
};
void fm_manager_service_methods(struct fm_rpc_method ret[_FM_MANAGER_METHOD_MAX + 1]);

struct fm_agent_service {
	const char *version;
	struct fm_host *host;
	struct fm_movers *movers;
	struct fm_keeper *keeper;
};
void fm_agent_service_methods(struct fm_rpc_method ret[_FM_AGENT_METHOD_MAX + 1]);

/* Put the movers' view into a host's containers: status "incoming" or "outgoing" instead of the runtime's. For ListContainers and the agent's reports. */
void fm_agent_mark_roles(struct fm_movers *ms, FM_PB(Container) * *containers, size_t n);

#endif
