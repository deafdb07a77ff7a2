/* SPDX-License-Identifier: MIT */
/* manager-service.c - service Manager; see service.h. */
#include <string.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/limits.h"
#include "migration/pb.h"
#include "rpc/service.h"

#define FORWARD_TIMEOUT_MS 60000
#define WATCH_TICK_MS      250 /* how often a watcher gets a snapshot when no line comes */

#define HANDLER(name)                                                                                                                      \
	static int name(void *userdata, struct fm_rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage **response,            \
	                struct fm_error *err)
#define SERVICE(s)    struct fm_manager_service *s = userdata
#define GIVE(message) (*response = &(message)->base)

HANDLER(info)
{
	SERVICE(s);
	FM_PB(InfoResponse) *r = FM_PB_NEW(InfoResponse, info_response);
	fm_pb_set(&r->version, s->version);
	fm_pb_set(&r->role, "manager");
	fm_pb_set(&r->name, s->name);
	r->protocol = 1;
	GIVE(r);
	return 0;
}

/* A host speaks for itself only: over TCP the certificate says who it is; over the Unix socket it is this machine's root. */
static int check_reporter(const struct fm_rpc_call *call, const FM_PB(ReportRequest) * req, struct fm_error *err)
{
	const char *peer = fm_rpc_call_peer(call);
	if (fm_str_startswith(peer, "unix:") || (req->host && fm_streq(peer, req->host->name)))
		return 0;
	(void)fm_error_set(err, FM_E_PERMISSION_DENIED, "the certificate of '%s' cannot report for host '%s'", peer,
	                   req->host ? req->host->name : "");
	return fm_error_hint(err, "start the agent with --name as its certificate was issued: 'fleximigrate pki issue NAME ADDRESS'");
}

HANDLER(report)
{
	SERVICE(s);
	const FM_PB(ReportRequest) *req = (const FM_PB(ReportRequest) *)request;
	if (req->protocol != 1)
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "the agent speaks protocol %u, this manager speaks 1", req->protocol);
	if (check_reporter(call, req, err) < 0 || fm_fleet_report(s->fleet, req, err) < 0)
		return -1;
	FM_PB(ReportResponse) *r = FM_PB_NEW(ReportResponse, report_response);
	fm_usage_history_report(s->history, req, fm_realtime_ms());
	r->interval_ms = FM_FLEET_REPORT_MS;
	fm_fleet_peers(s->fleet, req->host->name, r);
	GIVE(r);
	return 0;
}

HANDLER(list_hosts)
{
	SERVICE(s);
	FM_PB(ListHostsResponse) *r = FM_PB_NEW(ListHostsResponse, list_hosts_response);
	if (fm_fleet_hosts(s->fleet, &r->hosts, &r->n_hosts, err) < 0) {
		fm_pb_free(r);
		return -1;
	}
	for (size_t i = 0; i < r->n_hosts; i++)
		fm_usage_history_load(s->history, r->hosts[i]);
	GIVE(r);
	return 0;
}

HANDLER(get_host)
{
	SERVICE(s);
	FM_PB(Host) *h = NULL;
	if (fm_fleet_host(s->fleet, ((const FM_PB(NameRequest) *)request)->name, &h, err) < 0)
		return -1;
	fm_usage_history_load(s->history, h);
	GIVE(h);
	return 0;
}

HANDLER(list_containers)
{
	SERVICE(s);
	FM_PB(ListContainersResponse) *r = FM_PB_NEW(ListContainersResponse, list_containers_response);
	if (fm_fleet_containers(s->fleet, ((const FM_PB(ListContainersRequest) *)request)->host, &r->containers, &r->n_containers, err) <
	    0) {
		fm_pb_free(r);
		return -1;
	}
	GIVE(r);
	return 0;
}

HANDLER(get_container)
{
	SERVICE(s);
	FM_PB(Container) *c = NULL;
	if (fm_fleet_container(s->fleet, ((const FM_PB(NameRequest) *)request)->name, &c, err) < 0)
		return -1;
	GIVE(c);
	return 0;
}

/* "" means the only host there is. */
static int choose_host(struct fm_manager_service *s, const char *wanted, char *ret, size_t cap, struct fm_error *err)
{
	FM_PB(Host) **v = NULL;
	size_t n = 0;
	if (wanted[0])
		return fm_snprintf(ret, cap, err, "%s", wanted);
	if (fm_fleet_hosts(s->fleet, &v, &n, err) < 0)
		return -1;
	int rc = n == 1 ? fm_snprintf(ret, cap, err, "%s", v[0]->name)
	                : fm_error_set(err, FM_E_INVALID_ARGUMENT, "there are %zu hosts: say which one", n);
	if (n != 1)
		(void)fm_error_hint(err, "add --host NAME; 'fleximigrate host ls' shows them");
	for (size_t i = 0; i < n; i++)
		fm_pb_free(v[i]);
	free(v);
	return rc;
}

static int require_online(struct fm_manager_service *s, const char *host, struct fm_error *err)
{
	_fm_pb_ FM_PB(Host) *h = NULL;
	if (fm_fleet_host(s->fleet, host, &h, err) < 0)
		return -1;
	if (!fm_streq(h->status, "online")) {
		(void)fm_error_set(err, FM_E_UNAVAILABLE, "host '%s' is offline", host);
		return fm_error_hint(err, "start the agent there");
	}
	return 0;
}

static int require_open(struct fm_manager_service *s, const char *host, struct fm_error *err)
{
	_fm_pb_ FM_PB(Host) *h = NULL;
	if (fm_fleet_host(s->fleet, host, &h, err) < 0)
		return -1;
	if (!h->cordoned)
		return 0;
	(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "host '%s' is cordoned: it takes no containers", host);
	return fm_error_hint(err, "'fleximigrate host uncordon %s' opens it again", host);
}

HANDLER(run_container)
{
	SERVICE(s);
	const FM_PB(RunContainerRequest) *req = (const FM_PB(RunContainerRequest) *)request;
	_fm_pb_ FM_PB(Container) *elsewhere = NULL;
	char host[64];
	ProtobufCMessage *c = NULL;
	if (choose_host(s, req->host, host, sizeof(host), err) < 0 || require_online(s, host, err) < 0 || require_open(s, host, err) < 0)
		return -1;
	if (fm_fleet_container(s->fleet, req->name, &elsewhere, NULL) == 0 && !fm_streq(elsewhere->host, host)) {
		(void)fm_error_set(err, FM_E_ALREADY_EXISTS, "container '%s' exists on host '%s'", req->name, elsewhere->host);
		return fm_error_hint(err, "names are unique in the cluster: choose another one, or 'fleximigrate migrate %s --to %s'",
		                     req->name, host);
	}
	if (s->agents.call(s->agents.userdata, host, FM_AGENT_RUN_CONTAINER, request, FORWARD_TIMEOUT_MS, -1, &c, err) < 0)
		return -1;
	fm_fleet_container_put(s->fleet, (const FM_PB(Container) *)c);
	*response = c;
	return 0;
}

HANDLER(remove_container)
{
	SERVICE(s);
	FM_PB(RemoveContainerRequest) req = *(const FM_PB(RemoveContainerRequest) *)request;
	_fm_pb_ FM_PB(Container) *c = NULL;
	ProtobufCMessage *r = NULL;
	if (fm_coordinator_is_moving(s->coordinator, req.name)) {
		(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "container '%s' is being migrated", req.name);
		return fm_error_hint(err, "wait for it or cancel it: 'fleximigrate migration ls --active'");
	}
	if (fm_fleet_container(s->fleet, req.name, &c, err) < 0)
		return -1;
	const char *host = req.host[0] ? req.host : c->host;
	if (require_online(s, host, err) < 0 ||
	    s->agents.call(s->agents.userdata, host, FM_AGENT_REMOVE_CONTAINER, &req.base, FORWARD_TIMEOUT_MS, -1, &r, err) < 0)
		return -1;
	fm_fleet_container_gone(s->fleet, req.name, host);
	*response = r;
	return 0;
}

HANDLER(migrate)
{
	SERVICE(s);
	FM_PB(Migration) *m = NULL;
	if (fm_coordinator_migrate(s->coordinator, (const FM_PB(MigrateRequest) *)request, &m, err) < 0)
		return -1;
	GIVE(m);
	return 0;
}

HANDLER(can_migrate)
{
	SERVICE(s);
	FM_PB(CanMigrateResponse) *r = NULL;
	if (fm_coordinator_can_migrate(s->coordinator, (const FM_PB(CanMigrateRequest) *)request, &r, err) < 0)
		return -1;
	GIVE(r);
	return 0;
}

HANDLER(get_migration)
{
	SERVICE(s);
	FM_PB(Migration) *m = NULL;
	if (fm_coordinator_get(s->coordinator, ((const FM_PB(IdRequest) *)request)->id, &m, err) < 0)
		return -1;
	GIVE(m);
	return 0;
}

HANDLER(list_migrations)
{
	SERVICE(s);
	const FM_PB(ListMigrationsRequest) *req = (const FM_PB(ListMigrationsRequest) *)request;
	FM_PB(ListMigrationsResponse) *r = FM_PB_NEW(ListMigrationsResponse, list_migrations_response);
	if (fm_coordinator_list(s->coordinator, req->active_only, req->limit, &r->migrations, &r->n_migrations, err) < 0) {
		fm_pb_free(r);
		return -1;
	}
	GIVE(r);
	return 0;
}

HANDLER(cancel_migration)
{
	SERVICE(s);
	FM_PB(Migration) *m = NULL;
	if (fm_coordinator_cancel(s->coordinator, ((const FM_PB(IdRequest) *)request)->id, &m, err) < 0)
		return -1;
	GIVE(m);
	return 0;
}

HANDLER(approve_migration)
{
	SERVICE(s);
	FM_PB(Migration) *m = NULL;
	if (fm_coordinator_approve(s->coordinator, ((const FM_PB(IdRequest) *)request)->id, &m, err) < 0)
		return -1;
	GIVE(m);
	return 0;
}

HANDLER(list_policies)
{
	SERVICE(s);
	FM_PB(ListPoliciesResponse) *r = FM_PB_NEW(ListPoliciesResponse, list_policies_response);
	fm_rulebook_list(s->policies, r);
	GIVE(r);
	return 0;
}

HANDLER(get_network)
{
	SERVICE(s);
	FM_PB(GetNetworkResponse) *r = NULL;
	if (fm_network_show(s->network, &r, err) < 0)
		return -1;
	GIVE(r);
	return 0;
}

HANDLER(find_paths)
{
	SERVICE(s);
	FM_PB(FindPathsResponse) *r = NULL;
	if (fm_network_paths(s->network, (const FM_PB(FindPathsRequest) *)request, &r, err) < 0)
		return -1;
	GIVE(r);
	return 0;
}

HANDLER(check_network)
{
	SERVICE(s);
	FM_PB(CheckNetworkResponse) *r = NULL;
	if (fm_network_check(s->network, &r, err) < 0)
		return -1;
	GIVE(r);
	return 0;
}

HANDLER(list_intents)
{
	SERVICE(s);
	FM_PB(ListIntentsResponse) *r = NULL;
	if (fm_network_intents(s->network, &r, err) < 0)
		return -1;
	GIVE(r);
	return 0;
}

HANDLER(get_intent)
{
	SERVICE(s);
	FM_PB(Intent) *i = NULL;
	if (fm_network_intent(s->network, ((const FM_PB(NameRequest) *)request)->name, &i, err) < 0)
		return -1;
	GIVE(i);
	return 0;
}

HANDLER(plan)
{
	SERVICE(s);
	FM_PB(ClusterPlan) *p = NULL;
	if (fm_planner_plan(s->planner, (const FM_PB(PlanRequest) *)request, &p, err) < 0)
		return -1;
	GIVE(p);
	return 0;
}

HANDLER(get_plan)
{
	SERVICE(s);
	FM_PB(ClusterPlan) *p = NULL;
	if (fm_planner_get(s->planner, ((const FM_PB(IdRequest) *)request)->id, &p, err) < 0)
		return -1;
	GIVE(p);
	return 0;
}

HANDLER(list_plans)
{
	SERVICE(s);
	FM_PB(ListPlansResponse) *r = FM_PB_NEW(ListPlansResponse, list_plans_response);
	if (fm_planner_list(s->planner, &r->plans, &r->n_plans, err) < 0) {
		fm_pb_free(r);
		return -1;
	}
	GIVE(r);
	return 0;
}

HANDLER(get_snapshot)
{
	SERVICE(s);
	struct fm_snapshot *snapshot = NULL;
	if (s->snapshot(s->snapshot_userdata, &snapshot, err) < 0)
		return -1;
	_fm_free_ char *text = fm_snapshot_to_json(snapshot);
	size_t n_hosts = snapshot->n_hosts, n_containers = snapshot->n_containers, n_links = snapshot->n_links;
	fm_snapshot_free(snapshot);
	if (!text)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	if (strlen(text) > FM_MAX_RPC_SNAPSHOT_BYTES - 16) { /* what the message has around it */
		(void)fm_error_set(err, FM_E_RESOURCE_EXHAUSTED,
		                   "a snapshot of %zu hosts, %zu containers and %zu links has %zu MiB; an answer may have %u", n_hosts,
		                   n_containers, n_links, strlen(text) >> 20, FM_MAX_RPC_SNAPSHOT_BYTES >> 20);
		return fm_error_hint(err, "'fleximigrate host ls' and 'fleximigrate container ls --host NAME' show parts of it");
	}
	FM_PB(SnapshotResponse) *r = FM_PB_NEW(SnapshotResponse, snapshot_response);
	fm_pb_set(&r->json, text);
	GIVE(r);
	return 0;
}

HANDLER(cancel_plan)
{
	SERVICE(s);
	FM_PB(ClusterPlan) *p = NULL;
	if (fm_planner_cancel(s->planner, ((const FM_PB(IdRequest) *)request)->id, &p, err) < 0)
		return -1;
	GIVE(p);
	return 0;
}

HANDLER(cordon_host)
{
	SERVICE(s);
	const FM_PB(CordonRequest) *req = (const FM_PB(CordonRequest) *)request;
	FM_PB(Host) *h = NULL;
	if (fm_fleet_cordon(s->fleet, req->name, req->cordoned, err) < 0 || fm_fleet_host(s->fleet, req->name, &h, err) < 0)
		return -1;
	GIVE(h);
	return 0;
}

/* Lines as they come; between them a snapshot a tick, for progress; the last event says so and carries the outcome. */
static int watch_migration(void *userdata, struct fm_rpc_call *call, const ProtobufCMessage *request, struct fm_error *err)
{
	SERVICE(s);
	const FM_PB(WatchRequest) *req = (const FM_PB(WatchRequest) *)request;
	uint64_t seq = req->after_seq;
	while (!fm_rpc_call_cancelled(call)) {
		/* Asked in this order, "over" means that every line is in the store already. */
		_fm_pb_ FM_PB(Migration) *m = NULL;
		_fm_pb_ FM_PB(Event) *e = NULL;
		bool active = fm_coordinator_is_active(s->coordinator, req->id);
		if (fm_coordinator_get(s->coordinator, req->id, &m, err) < 0)
			return -1;
		bool over = m->finished_unix_ms != 0 && !active;
		if (fm_coordinator_next_event(s->coordinator, req->id, seq, over ? 0 : WATCH_TICK_MS, &e, err) < 0)
			return -1;
		if (e) {
			seq = e->seq;
		} else {
			e = FM_PB_NEW(Event, event);
			e->seq = seq;
			e->last = over;
			e->migration = FM_TAKE_PTR(m);
		}
		if (fm_rpc_call_send(call, &e->base, err) < 0)
			return -1;
		if (e->last)
			return 0;
	}
	return 0;
}

static const fm_rpc_unary_fn handlers[_FM_MANAGER_METHOD_MAX] = {
	[FM_MANAGER_INFO] = info,
	[FM_MANAGER_REPORT] = report,
	[FM_MANAGER_LIST_HOSTS] = list_hosts,
	[FM_MANAGER_GET_HOST] = get_host,
	[FM_MANAGER_RUN_CONTAINER] = run_container,
	[FM_MANAGER_LIST_CONTAINERS] = list_containers,
	[FM_MANAGER_GET_CONTAINER] = get_container,
	[FM_MANAGER_REMOVE_CONTAINER] = remove_container,
	[FM_MANAGER_MIGRATE] = migrate,
	[FM_MANAGER_GET_MIGRATION] = get_migration,
	[FM_MANAGER_LIST_MIGRATIONS] = list_migrations,
	[FM_MANAGER_CANCEL_MIGRATION] = cancel_migration,
	[FM_MANAGER_GET_NETWORK] = get_network,
	[FM_MANAGER_FIND_PATHS] = find_paths,
	[FM_MANAGER_CHECK_NETWORK] = check_network,
	[FM_MANAGER_LIST_INTENTS] = list_intents,
	[FM_MANAGER_GET_INTENT] = get_intent,
	[FM_MANAGER_PLAN] = plan,
	[FM_MANAGER_GET_PLAN] = get_plan,
	[FM_MANAGER_LIST_PLANS] = list_plans,
	[FM_MANAGER_CANCEL_PLAN] = cancel_plan,
	[FM_MANAGER_CORDON_HOST] = cordon_host,
	[FM_MANAGER_GET_SNAPSHOT] = get_snapshot,
	[FM_MANAGER_APPROVE_MIGRATION] = approve_migration,
	[FM_MANAGER_LIST_POLICIES] = list_policies,
	[FM_MANAGER_CAN_MIGRATE] = can_migrate,
};

void fm_manager_service_methods(struct fm_rpc_method ret[_FM_MANAGER_METHOD_MAX + 1])
{
	for (int i = 0; i <= _FM_MANAGER_METHOD_MAX; i++)
		ret[i] = fm_manager_methods[i];
	for (int i = 0; i < _FM_MANAGER_METHOD_MAX; i++)
		ret[i].unary = handlers[i];
	ret[FM_MANAGER_WATCH_MIGRATION].stream = watch_migration;
}
