/* SPDX-License-Identifier: MIT */
/* manager.c - wires the manager: store, fleet, clients of the agents, coordinator, service; then waits for a signal. */
#include "manager/manager.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/fault.h"
#include "basic/io.h"
#include "basic/options.h"
#include "basic/str.h"
#include "fm-version.h"
#include "loop/pool.h"
#include "rpc/agent-client.h"
#include "rpc/service.h"

struct options {
	const char *name, *listen, *socket, *state_dir, *tls_dir, *network, *policies, *log_format, *log_level;
	uint64_t max_concurrent;
};

struct manager {
	struct options o;
	char *ca, *cert, *key, *secrets_dir;
	struct fm_rpc_tls tls;
	struct fm_log *log;
	struct fm_fault *fault;
	struct fm_store *store;
	struct fm_fleet *fleet;
	struct fm_network *network;
	struct fm_rulebook *policies;
	struct fm_agent_clients *clients;
	struct fm_coordinator *coordinator;
	struct fm_manager_service service;
	struct fm_rpc_method methods[_FM_MANAGER_METHOD_MAX + 1];
	struct fm_rpc_server *server;
};

static int resolve(void *userdata, const char *host, char *ret, size_t cap, struct fm_error *err)
{
	struct manager *m = userdata;
	return fm_fleet_agent_address(m->fleet, host, ret, cap, err);
}

static int open_store(struct manager *m, struct fm_error *err)
{
	_fm_free_ char *path = fm_xasprintf("%s/manager.db", m->o.state_dir);
	if (fm_mkdir_p(m->o.state_dir, 0700, err) < 0)
		return -1;
	return fm_store_open_sqlite(path, &m->store, err);
}

static int prepare_socket_folder(const char *path, struct fm_error *err)
{
	_fm_free_ char *dir = fm_xstrdup(path);
	char *slash = strrchr(dir, '/');
	if (!slash || slash == dir)
		return 0;
	*slash = '\0';
	return fm_mkdir_p(dir, 0755, err);
}

static int wire(struct manager *m, struct fm_error *err)
{
	m->ca = fm_xasprintf("%s/ca.pem", m->o.tls_dir);
	m->cert = fm_xasprintf("%s/%s.pem", m->o.tls_dir, m->o.name);
	m->key = fm_xasprintf("%s/%s.key", m->o.tls_dir, m->o.name);
	m->tls = (struct fm_rpc_tls){ .ca_pem_path = m->ca, .cert_pem_path = m->cert, .key_pem_path = m->key };
	if (fm_fault_new(getenv("FLEXIMIGRATE_FAULT"), &m->fault, err) < 0 || open_store(m, err) < 0 ||
	    fm_fleet_new(m->store, &m->fleet, err) < 0 || (m->o.network && fm_network_open(m->o.network, m->fleet, &m->network, err) < 0) ||
	    (m->o.policies && fm_rulebook_open(m->o.policies, &m->policies, err) < 0) ||
	    fm_agent_clients_new(&m->tls, resolve, m, &m->clients, err) < 0)
		return -1;
	m->secrets_dir = fm_xasprintf("%s/secrets", m->o.state_dir);
	struct fm_coordinator_opts co = { .store = m->store,
		                          .agents = fm_agent_clients_api(m->clients),
		                          .fleet = m->fleet,
		                          .log = m->log,
		                          .fault = m->fault,
		                          .network = m->network,
		                          .policies = m->policies,
		                          .secrets_dir = m->secrets_dir,
		                          .max_concurrent = (unsigned)m->o.max_concurrent };
	if (fm_coordinator_new(&co, &m->coordinator, err) < 0)
		return -1;
	m->service = (struct fm_manager_service){ .version = FM_VERSION,
		                                  .name = m->o.name,
		                                  .coordinator = m->coordinator,
		                                  .fleet = m->fleet,
		                                  .agents = fm_agent_clients_api(m->clients),
		                                  .log = m->log,
		                                  .network = m->network,
		                                  .policies = m->policies };
	fm_manager_service_methods(m->methods);
	struct fm_rpc_server_opts so = { .methods = m->methods,
		                         .userdata = &m->service,
		                         .n_threads = 32,
		                         .unix_path = m->o.socket,
		                         .tcp_address = m->o.listen,
		                         .tls = m->tls };
	if (prepare_socket_folder(m->o.socket, err) < 0)
		return -1;
	return fm_rpc_server_new(&so, &m->server, err);
}

static void unwire(struct manager *m)
{
	if (m->server)
		fm_rpc_server_free(m->server, 1000);
	fm_coordinator_free(m->coordinator);
	fm_agent_clients_free(m->clients);
	fm_network_free(m->network);
	fm_rulebook_free(m->policies);
	fm_fleet_free(m->fleet);
	fm_store_close(m->store);
	fm_fault_free(m->fault);
	free(m->secrets_dir);
	free(m->ca);
	free(m->cert);
	free(m->key);
}

/* What is wrong with a file is told with its place; then everything stays as it was. */
static void reload(struct manager *m)
{
	struct fm_error e = FM_ERROR_INIT;

	if (!m->policies)
		fm_log_write(m->log, FM_LOG_WARN, "PolicyEnforcer", NULL,
		             "SIGHUP: there is nothing to read again, this manager was started without --policies PATH.");
	else if (fm_rulebook_reload(m->policies, &e) < 0)
		fm_log_write(m->log, FM_LOG_ERROR, "PolicyEnforcer", NULL, "The changed policies are refused, those from before hold: %s",
		             e.message);
	else
		fm_log_write(m->log, FM_LOG_INFO, "PolicyEnforcer", NULL, "The policies were read again: %zu from %s hold from now on.",
		             fm_rulebook_count(m->policies), m->o.policies);
}

static void wait_for_the_end(struct manager *m, int signals)
{
	struct signalfd_siginfo which;

	for (;;) {
		int rc = fm_wait_fd(signals, POLLIN, m->network ? FM_NETWORK_RECHECK_MS : -1, NULL);

		if (rc < 0 || (rc > 0 && (read(signals, &which, sizeof(which)) != sizeof(which) || which.ssi_signo != SIGHUP)))
			return;
		if (rc > 0)
			reload(m);
		fm_network_recheck(m->network, m->log);
	}
}

static int parse(int argc, char **argv, struct options *o, struct fm_error *err)
{
	const struct fm_option table[] = {
		{ "name", FM_OPT_STRING, &o->name, "NAME", "its certificate's name (default: manager)", NULL },
		{ "socket", FM_OPT_STRING, &o->socket, "PATH", "Unix socket for local clients (default: /run/fleximigrate/manager.sock)",
		  NULL },
		{ "listen", FM_OPT_STRING, &o->listen, "ADDR:PORT", "also listen on TCP with mutual TLS, for agents on other hosts", NULL },
		{ "tls-dir", FM_OPT_STRING, &o->tls_dir, "DIR", "ca.pem, NAME.pem, NAME.key (default: /etc/fleximigrate/pki)", NULL },
		{ "state-dir", FM_OPT_STRING, &o->state_dir, "DIR", "database (default: /var/lib/fleximigrate)", NULL },
		{ "network", FM_OPT_STRING, &o->network, "FILE",
		  "description of the network and of what services want of it (default: none)", NULL },
		{ "policies", FM_OPT_STRING, &o->policies, "PATH",
		  "file or folder of policies, YAML or JSON; SIGHUP has them read again (default: only those that are built in)", NULL },
		{ "max-concurrent", FM_OPT_UINT, &o->max_concurrent, "N", "migrations at a time; more wait in the queue (default: 8)",
		  NULL },
		{ "log-format", FM_OPT_CHOICE, &o->log_format, "FORMAT", "human (default) or json", "human|json" },
		{ "log-level", FM_OPT_CHOICE, &o->log_level, "LEVEL", "smallest level that is written (default: info)",
		  "debug|info|warn|error" },
		{ 0 },
	};
	const struct fm_command_line cl = { .usage = "fleximigrate manager [options]",
		                            .summary = "Run the manager: it knows the hosts and drives every migration.",
		                            .options = table };
	struct fm_arguments args = { 0 };
	int rc = fm_options_parse(&cl, argc, argv, &args, err);
	fm_arguments_done(&args);
	return rc;
}

int fm_manager_main(int argc, char **argv)
{
	struct manager m = { .o = { .name = "manager",
		                    .socket = "/run/fleximigrate/manager.sock",
		                    .tls_dir = "/etc/fleximigrate/pki",
		                    .state_dir = "/var/lib/fleximigrate",
		                    .log_format = "human",
		                    .log_level = "info",
		                    .max_concurrent = 8 } };
	struct fm_error err = FM_ERROR_INIT;
	enum fm_log_level level = FM_LOG_INFO;
	int signals = -1;
	int rc = parse(argc, argv, &m.o, &err);
	if (rc > 0)
		return 0;
	if (rc == 0)
		rc = fm_signals_block_and(SIGHUP, &signals, &err);
	(void)fm_log_level_from_string(m.o.log_level, &level);
	m.log = fm_log_new(STDERR_FILENO, fm_streq(m.o.log_format, "json") ? FM_LOG_JSON : FM_LOG_HUMAN, level);
	bool usage = rc < 0;
	if (rc == 0)
		rc = wire(&m, &err);
	if (rc == 0) {
		fm_log_write(m.log, FM_LOG_INFO, "MigrationManager", NULL, "Manager %s ready on %s%s%s.", FM_VERSION, m.o.socket,
		             m.o.listen ? " and " : "", m.o.listen ? m.o.listen : "");
		if (m.policies)
			fm_log_write(m.log, FM_LOG_INFO, "PolicyEnforcer", NULL, "%zu policies from %s are in force.",
			             fm_rulebook_count(m.policies), m.o.policies);
		wait_for_the_end(&m, signals);
		fm_log_write(m.log, FM_LOG_INFO, "MigrationManager", NULL,
		             "Stopping; migrations under way go on when the manager is back.");
	} else {
		fprintf(stderr, "fleximigrate manager: %s\n", err.message);
		if (err.hint[0])
			fprintf(stderr, "hint: %s\n", err.hint);
	}
	unwire(&m);
	fm_log_free(m.log);
	if (signals >= 0)
		(void)close(signals);
	return rc < 0 ? (usage ? 2 : 1) : 0;
}
