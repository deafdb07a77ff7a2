/* SPDX-License-Identifier: MIT */
/*
 * methods.c - the contract as tables: every method's path and message types, without handlers.
 *
 * Clients use an entry as it is; servers copy a table and fill the handlers in. The order is the enums'; the compiler checks the lengths
 * and a unit test compares every entry with the service descriptors that protoc-c made from api/fleximigrate.proto.
 */
#include "basic/cleanup.h"
#include "fleximigrate.pb-c.h"
#include "migration/agent-api.h"
#include "rpc/rpc.h"

#define METHOD(service, name, request_type, response_type)                                                                                 \
	{                                                                                                                                  \
		.path = "/fleximigrate.v1." service "/" name, .request = &fleximigrate__v1__##request_type##__descriptor,                  \
		.response = &fleximigrate__v1__##response_type##__descriptor                                                               \
	}
#define MANAGER(name, request_type, response_type) METHOD("Manager", name, request_type, response_type)
#define AGENT(name, request_type, response_type)   METHOD("Agent", name, request_type, response_type)

const struct fm_rpc_method fm_manager_methods[_FM_MANAGER_METHOD_MAX + 1] = {
	[FM_MANAGER_INFO] = MANAGER("Info", empty, info_response),
	[FM_MANAGER_REPORT] = MANAGER("Report", report_request, report_response),
	[FM_MANAGER_LIST_HOSTS] = MANAGER("ListHosts", empty, list_hosts_response),
	[FM_MANAGER_GET_HOST] = MANAGER("GetHost", name_request, host),
	[FM_MANAGER_RUN_CONTAINER] = MANAGER("RunContainer", run_container_request, container),
	[FM_MANAGER_LIST_CONTAINERS] = MANAGER("ListContainers", list_containers_request, list_containers_response),
	[FM_MANAGER_GET_CONTAINER] = MANAGER("GetContainer", name_request, container),
	[FM_MANAGER_REMOVE_CONTAINER] = MANAGER("RemoveContainer", remove_container_request, empty),
	[FM_MANAGER_MIGRATE] = MANAGER("Migrate", migrate_request, migration),
	[FM_MANAGER_GET_MIGRATION] = MANAGER("GetMigration", id_request, migration),
	[FM_MANAGER_LIST_MIGRATIONS] = MANAGER("ListMigrations", list_migrations_request, list_migrations_response),
	[FM_MANAGER_CANCEL_MIGRATION] = MANAGER("CancelMigration", id_request, migration),
	[FM_MANAGER_WATCH_MIGRATION] = MANAGER("WatchMigration", watch_request, event),
	[FM_MANAGER_GET_NETWORK] = MANAGER("GetNetwork", empty, get_network_response),
	[FM_MANAGER_FIND_PATHS] = MANAGER("FindPaths", find_paths_request, find_paths_response),
	[FM_MANAGER_CHECK_NETWORK] = MANAGER("CheckNetwork", empty, check_network_response),
	[FM_MANAGER_LIST_INTENTS] = MANAGER("ListIntents", empty, list_intents_response),
	[FM_MANAGER_GET_INTENT] = MANAGER("GetIntent", name_request, intent),
	[FM_MANAGER_PLAN] = MANAGER("Plan", plan_request, cluster_plan),
	[FM_MANAGER_GET_PLAN] = MANAGER("GetPlan", id_request, cluster_plan),
	[FM_MANAGER_LIST_PLANS] = MANAGER("ListPlans", empty, list_plans_response),
	[FM_MANAGER_CANCEL_PLAN] = MANAGER("CancelPlan", id_request, cluster_plan),
	[FM_MANAGER_CORDON_HOST] = MANAGER("CordonHost", cordon_request, host),
	[FM_MANAGER_GET_SNAPSHOT] = MANAGER("GetSnapshot", empty, snapshot_response),
	[FM_MANAGER_APPROVE_MIGRATION] = MANAGER("ApproveMigration", id_request, migration),
	[FM_MANAGER_LIST_POLICIES] = MANAGER("ListPolicies", empty, list_policies_response),
	[FM_MANAGER_CAN_MIGRATE] = MANAGER("CanMigrate", can_migrate_request, can_migrate_response),
};

const struct fm_rpc_method fm_agent_methods[] = {
	[FM_AGENT_INFO] = AGENT("Info", empty, info_response),
	[FM_AGENT_RUN_CONTAINER] = AGENT("RunContainer", run_container_request, container),
	[FM_AGENT_REMOVE_CONTAINER] = AGENT("RemoveContainer", remove_container_request, empty),
	[FM_AGENT_LIST_CONTAINERS] = AGENT("ListContainers", empty, list_containers_response),
	[FM_AGENT_INSPECT] = AGENT("Inspect", inspect_request, inspect_response),
	[FM_AGENT_PREPARE_DESTINATION] = AGENT("PrepareDestination", prepare_destination_request, prepare_destination_response),
	[FM_AGENT_PREPARE_SOURCE] = AGENT("PrepareSource", prepare_source_request, prepare_source_response),
	[FM_AGENT_EXECUTE] = AGENT("Execute", execute_request, mover_status),
	[FM_AGENT_STATUS] = AGENT("Status", status_request, mover_status),
	[FM_AGENT_VERIFY] = AGENT("Verify", verify_request, verify_response),
	[FM_AGENT_PROBE] = AGENT("Probe", probe_request, verify_response),
	[FM_AGENT_RELEASE] = AGENT("Release", id_request, empty),
	[FM_AGENT_ABORT] = AGENT("Abort", abort_request, abort_response),
	[FM_AGENT_DOCTOR] = AGENT("Doctor", doctor_request, doctor_response),
	[FM_AGENT_REDIRECT] = AGENT("Redirect", redirect_request, redirect_response),
	[_FM_AGENT_METHOD_MAX] = { .path = NULL },
};
_Static_assert(FM_ARRAY_SIZE(fm_agent_methods) == _FM_AGENT_METHOD_MAX + 1, "a method of the agent has no entry");
