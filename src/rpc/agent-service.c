/* SPDX-License-Identifier: MIT */
/* agent-service.c - service Agent; see service.h. */
#include "basic/cleanup.h"
#include "basic/limits.h"
#include "migration/doctor.h"
#include "migration/instances.h"
#include "migration/keeper.h"
#include "migration/pb.h"
#include "migration/places.h"
#include "migration/redirections.h"
#include "network/sockets.h"
#include "rpc/service.h"

#define HANDLER(name)                                                                                                                      \
	static int name(void *userdata, struct fm_rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage **response,            \
	                struct fm_error *err)
#define SERVICE(s)    struct fm_agent_service *s = userdata
#define GIVE(message) (*response = &(message)->base)

void fm_agent_mark_roles(struct fm_movers *ms, FM_PB(Container) * *containers, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const char *role = fm_movers_instance_role(ms, containers[i]->instance);
		if (role)
			fm_pb_set(&containers[i]->status, role);
	}
}

HANDLER(info)
{
	SERVICE(s);
	FM_PB(InfoResponse) *r = FM_PB_NEW(InfoResponse, info_response);
	fm_pb_set(&r->version, s->version);
	fm_pb_set(&r->role, "agent");
	fm_pb_set(&r->name, s->host->name);
	r->protocol = 1;
	GIVE(r);
	return 0;
}

HANDLER(run_container)
{
	SERVICE(s);
	FM_PB(Container) *c = NULL;
	if (fm_instances_run(s->host, (const FM_PB(RunContainerRequest) *)request, &c, err) < 0)
		return -1;
	GIVE(c);
	return 0;
}

HANDLER(remove_container)
{
	SERVICE(s);
	const FM_PB(RemoveContainerRequest) *req = (const FM_PB(RemoveContainerRequest) *)request;
	if (fm_movers_holds(s->movers, req->name))
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "container '%s' is being migrated", req->name);
	if (fm_instances_remove(s->host, req->name, req->force, err) < 0)
		return -1;
	fm_places_tidy(s->host);
	GIVE(FM_PB_NEW(Empty, empty));
	return 0;
}

HANDLER(list_containers)
{
	SERVICE(s);
	FM_PB(ListContainersResponse) *r = FM_PB_NEW(ListContainersResponse, list_containers_response);
	if (fm_instances_list(s->host, &r->containers, &r->n_containers, err) < 0) {
		fm_pb_free(r);
		return -1;
	}
	fm_agent_mark_roles(s->movers, r->containers, r->n_containers);
	GIVE(r);
	return 0;
}

HANDLER(inspect)
{
	SERVICE(s);
	FM_PB(InspectResponse) *r = NULL;
	if (fm_instances_inspect(s->host, ((const FM_PB(InspectRequest) *)request)->container, &r, err) < 0)
		return -1;
	GIVE(r);
	return 0;
}

#define MOVER_HANDLER(name, Request, Response, function)                                                                                   \
	HANDLER(name)                                                                                                                      \
	{                                                                                                                                  \
		SERVICE(s);                                                                                                                \
		FM_PB(Response) *r = NULL;                                                                                                 \
		if (function(s->movers, (const FM_PB(Request) *)request, &r, err) < 0)                                                     \
			return -1;                                                                                                         \
		GIVE(r);                                                                                                                   \
		return 0;                                                                                                                  \
	}
MOVER_HANDLER(prepare_destination, PrepareDestinationRequest, PrepareDestinationResponse, fm_movers_prepare_destination)
MOVER_HANDLER(prepare_source, PrepareSourceRequest, PrepareSourceResponse, fm_movers_prepare_source)
MOVER_HANDLER(execute, ExecuteRequest, MoverStatus, fm_movers_execute)
MOVER_HANDLER(status, StatusRequest, MoverStatus, fm_movers_status)
MOVER_HANDLER(verify, VerifyRequest, VerifyResponse, fm_movers_verify)
MOVER_HANDLER(abort_migration, AbortRequest, AbortResponse, fm_movers_abort)

HANDLER(probe)
{
	const FM_PB(ProbeRequest) *req = (const FM_PB(ProbeRequest) *)request;
	uint64_t latency_us = 0;
	_fm_free_ char *spec = req->health && req->health->probe[0] ? fm_xstrdup(req->health->probe) : fm_xasprintf("tcp:%u", req->port);
	int timeout_ms =
	        req->health && req->health->timeout_ms ? (int)(req->health->timeout_ms < 60000 ? req->health->timeout_ms : 60000) : 1000;
	if (fm_probe(req->address, spec, timeout_ms, &latency_us, err) < 0)
		return -1;
	FM_PB(VerifyResponse) *r = FM_PB_NEW(VerifyResponse, verify_response);
	r->ok = true;
	r->latency_us = latency_us;
	GIVE(r);
	return 0;
}

HANDLER(release)
{
	SERVICE(s);
	if (fm_movers_release(s->movers, ((const FM_PB(IdRequest) *)request)->id, err) < 0)
		return -1;
	fm_places_tidy(s->host);
	GIVE(FM_PB_NEW(Empty, empty));
	return 0;
}

HANDLER(doctor)
{
	SERVICE(s);
	FM_PB(DoctorResponse) *r = FM_PB_NEW(DoctorResponse, doctor_response);
	if (fm_doctor(s->host, s->movers, ((const FM_PB(DoctorRequest) *)request)->clean, r, err) < 0) {
		fm_pb_free(r);
		return -1;
	}
	GIVE(r);
	return 0;
}

HANDLER(redirect)
{
	SERVICE(s);
	const FM_PB(RedirectRequest) *req = (const FM_PB(RedirectRequest) *)request;
	FM_PB(RedirectResponse) *r = NULL;
	if (req->step == FLEXIMIGRATE__V1__REDIRECTION_STEP__REDIRECTION_KEPT) {
		if (fm_keeper_keep(s->keeper, req->migration_id, req->keep, req->n_keep, err) < 0)
			return -1;
		GIVE(FM_PB_NEW(RedirectResponse, redirect_response));
		return 0;
	}
	if (fm_redirection_serve(s->host->secrets_dir, -1, req, &r, err) < 0)
		return -1;
	GIVE(r);
	return 0;
}

static const fm_rpc_unary_fn handlers[_FM_AGENT_METHOD_MAX] = {
	[FM_AGENT_INFO] = info,
	[FM_AGENT_RUN_CONTAINER] = run_container,
	[FM_AGENT_REMOVE_CONTAINER] = remove_container,
	[FM_AGENT_LIST_CONTAINERS] = list_containers,
	[FM_AGENT_INSPECT] = inspect,
	[FM_AGENT_PREPARE_DESTINATION] = prepare_destination,
	[FM_AGENT_PREPARE_SOURCE] = prepare_source,
	[FM_AGENT_EXECUTE] = execute,
	[FM_AGENT_STATUS] = status,
	[FM_AGENT_VERIFY] = verify,
	[FM_AGENT_PROBE] = probe,
	[FM_AGENT_RELEASE] = release,
	[FM_AGENT_ABORT] = abort_migration,
	[FM_AGENT_DOCTOR] = doctor,
	[FM_AGENT_REDIRECT] = redirect,
};

void fm_agent_service_methods(struct fm_rpc_method ret[_FM_AGENT_METHOD_MAX + 1])
{
	for (int i = 0; i <= _FM_AGENT_METHOD_MAX; i++)
		ret[i] = fm_agent_methods[i];
	for (int i = 0; i < _FM_AGENT_METHOD_MAX; i++)
		ret[i].unary = handlers[i];
}
