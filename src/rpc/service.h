/* SPDX-License-Identifier: MIT */
/*
 * service.h - the two services of the contract as method tables with handlers: decode is done, so validate, limit, call the domain, hand back. No decisions here.
 * Each function fills a copy of the contract's table; userdata of the server must be the struct given here.
 */
#ifndef FM_RPC_SERVICE_H
#define FM_RPC_SERVICE_H

#include "migration/coordinator.h"
#include "migration/mover.h"
#include "rpc/rpc.h"

struct fm_manager_service {
	const char *version, *name;
	struct fm_coordinator *coordinator;
	struct fm_fleet *fleet;
	struct fm_agent_api agents;
	struct fm_log *log;
};
void fm_manager_service_methods(struct fm_rpc_method ret[_FM_MANAGER_METHOD_MAX + 1]);

struct fm_agent_service {
	const char *version;
	struct fm_host *host;
	struct fm_movers *movers;
};
void fm_agent_service_methods(struct fm_rpc_method ret[_FM_AGENT_METHOD_MAX + 1]);

/* The containers of a host with the movers' view ("incoming", "outgoing") put in: for ListContainers and for the agent's reports. */
int fm_agent_containers(struct fm_host *h, struct fm_movers *ms, FM_PB(Container) * **ret, size_t *ret_n, struct fm_error *err);

#endif
