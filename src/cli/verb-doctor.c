/* SPDX-License-Identifier: MIT */
/* verb-doctor.c - `doctor`: asks this host's agent; when none runs, looks for itself with the agent's own options. */
#include <stdio.h>
#include <string.h>

#include "agent/setup.h"
#include "basic/cleanup.h"
#include "cli/cli.h"
#include "cli/verbs.h"
#include "migration/doctor.h"

struct doctor_options {
	struct fm_client_options client;
	struct fm_agent_options agent;
	bool clean;
};

static int ask_agent(const struct doctor_options *o, FM_PB(DoctorResponse) * *ret, struct fm_error *err)
{
	_fm_free_ char *target =
	        o->agent.socket ? fm_xasprintf("unix:%s", o->agent.socket) : fm_xasprintf("unix:%s/agent.sock", o->agent.run_dir);
	struct fm_rpc_client *c = NULL;
	ProtobufCMessage *resp = NULL;
	FM_PB(DoctorRequest) req = FLEXIMIGRATE__V1__DOCTOR_REQUEST__INIT;
	req.clean = o->clean;
	if (fm_rpc_client_new(target, NULL, &c, err) < 0)
		return -1;
	int rc = fm_rpc_client_call(c, &fm_agent_methods[FM_AGENT_DOCTOR], &req.base, 60000, -1, &resp, err);
	fm_rpc_client_free(c);
	if (rc == 0)
		*ret = (FM_PB(DoctorResponse) *)resp;
	return rc;
}

static int look_alone(const struct doctor_options *o, FM_PB(DoctorResponse) * *ret, struct fm_error *err)
{
	struct fm_host h = { 0 };
	struct fm_agent_files files = { 0 };
	FM_PB(DoctorResponse) *r = FM_PB_NEW(DoctorResponse, doctor_response);
	int rc = fm_agent_setup_host(&o->agent, &h, &files, err);
	if (rc == 0) {
		FM_PB(Finding) *f = FM_PB_NEW(Finding, finding);
		fm_pb_set(&f->severity, "problem");
		fm_pb_set(&f->subject, "agent");
		fm_pb_set(&f->detail, "no agent answers on this host");
		fm_pb_set(&f->remedy, "start it: fleximigrate agent --manager TARGET --listen ADDR:PORT");
		FM_PB_ADD(r->findings, r->n_findings, f);
		rc = fm_doctor(&h, NULL, o->clean, r, err);
	}
	fm_agent_teardown_host(&h, &files);
	if (rc == 0)
		*ret = r;
	else
		fm_pb_free(r);
	return rc;
}

static int print_findings(const FM_PB(DoctorResponse) * r, const struct fm_client_options *o)
{
	unsigned bad = 0;
	for (size_t i = 0; r && i < r->n_findings; i++) {
		const FM_PB(Finding) *f = r->findings[i];
		bool is_bad = fm_streq(f->severity, "problem") || fm_streq(f->severity, "leftover");
		bad += is_bad;
		if (fm_client_wants_json(o))
			continue;
		printf("%-9s %s: %s\n", f->severity, f->subject, f->detail);
		if (f->remedy[0])
			printf("          %s\n", f->remedy);
	}
	if (fm_client_wants_json(o))
		fm_print_json(&r->base);
	else
		printf(bad ? "%u problem(s) found.\n" : "All is well.\n", bad);
	return bad ? 1 : 0;
}

int fm_verb_doctor(int argc, char **argv)
{
	struct doctor_options o = { .agent = FM_AGENT_OPTIONS_INIT };
	const struct fm_option table[] = {
		{ "clean", FM_OPT_FLAG, &o.clean, NULL, "remove leftovers that belong to no container and no migration", NULL },
		{ "socket", FM_OPT_STRING, &o.agent.socket, "PATH", "the agent's Unix socket (default: RUN-DIR/agent.sock)", NULL },
		{ "run-dir", FM_OPT_STRING, &o.agent.run_dir, "DIR", "the agent's (default: /run/fleximigrate)", NULL },
		{ "state-dir", FM_OPT_STRING, &o.agent.state_dir, "DIR", "the agent's, when it does not run", NULL },
		{ "name", FM_OPT_STRING, &o.agent.name, "NAME", "the host's, when the agent does not run", NULL },
		{ "bridge", FM_OPT_STRING, &o.agent.bridge, "NAME", "likewise", NULL },
		{ "runtime-root", FM_OPT_STRING, &o.agent.runtime_root, "DIR", "likewise", NULL },
		{ "engine", FM_OPT_STRINGS, &o.agent.engines, "NAME=SOCKET", "likewise; may be given several times", NULL },
		{ "criu-prefix", FM_OPT_STRING, &o.agent.criu_prefix, "DIR", "likewise", NULL },
		FM_CLIENT_OPTIONS(o.client),
		{ 0 },
	};
	const struct fm_command_line cl = { .usage = "fleximigrate doctor [--clean] [options]",
		                            .summary = "Check this host: what is missing, what is left over, what to do about it.",
		                            .options = table };
	struct fm_arguments args __attribute__((cleanup(fm_arguments_done))) = { 0 };
	struct fm_error err = FM_ERROR_INIT;
	_fm_pb_ FM_PB(DoctorResponse) *r = NULL;
	int rc = fm_options_parse(&cl, argc, argv, &args, &err);
	if (rc > 0)
		return 0;
	if (rc == 0 && ask_agent(&o, &r, &err) < 0) {
		if (err.code != FM_E_UNAVAILABLE)
			return fm_cli_fail(&o.client, &err);
		err = FM_ERROR_INIT;
		rc = look_alone(&o, &r, &err);
	}
	if (rc < 0)
		return fm_cli_fail(&o.client, &err);
	return print_findings(r, &o.client);
}
