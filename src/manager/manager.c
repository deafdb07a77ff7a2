/* SPDX-License-Identifier: MIT */
/* manager.c - wires the manager: store, fleet, clients of the agents, coordinator, service; then waits for a signal. */
#include "manager/manager.h"

#include <math.h>
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
#include "migration/cluster-snapshot.h"
#include "migration/costs.h"
#include "migration/forecasts.h"
#include "rpc/agent-client.h"
#include "rpc/service.h"
#include "web/metrics.h"
#include "web/server.h"

#define LOAD_MS_MAX 86400000u

struct options {
	const char *name, *listen, *socket, *state_dir, *tls_dir, *network, *http, *policies, *strategy_selector, *log_format, *log_level;
	uint64_t max_concurrent, over_cpu, over_memory, under_cpu, under_memory, load_ms;
	struct fm_load_limits limits; /* made of the five above */
	bool proactive;
	uint64_t proactive_period_ms, proactive_moves;
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
	struct fm_usage_history *history;
	struct fm_forecasts *forecasts;
	struct fm_costs *costs;
	struct fm_cluster cluster; /* what snapshots are made of */
	struct fm_rulebook *policies;
	struct fm_agent_clients *clients;
	struct fm_coordinator *coordinator;
	struct fm_planner *planner;
	struct fm_manager_service service;
	struct fm_rpc_method methods[_FM_MANAGER_METHOD_MAX + 1];
	struct fm_rpc_server *server;
	struct fm_tally *tally; /* both NULL without --http */
	struct fm_web_manager web;
	struct fm_web_server *http;
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

static int take_snapshot(void *userdata, struct fm_snapshot **ret, struct fm_error *err)
{
	struct manager *m = userdata;
	const struct fm_snapshot_predictor p = { .userdata = m->forecasts, .predict = fm_forecasts_predict };
	return fm_cluster_snapshot_predicted(&m->cluster, &p, ret, err);
}

static double expected_traffic(void *userdata, const char *host)
{
	struct manager *m = userdata;
	struct fm_series past;
	return fm_usage_history_host(m->history, host, FM_USAGE_NETWORK, &past)
	               ? fm_forecasts_predict(m->forecasts, true, host, FM_USAGE_NETWORK, &past)
	               : NAN;
}

static int start_planner(struct manager *m, struct fm_error *err)
{
	struct fm_planner_opts po = { .store = m->store,
		                      .fleet = m->fleet,
		                      .coordinator = m->coordinator,
		                      .log = m->log,
		                      .snapshot = take_snapshot,
		                      .snapshot_userdata = m,
		                      .proactive = m->o.proactive,
		                      .proactive_period_ms = m->o.proactive_period_ms,
		                      .proactive_opts = {
		                              .plan = { .cpu_percent = (double)m->o.over_cpu, .memory_percent = (double)m->o.over_memory },
		                              .moves_per_hour = (unsigned)m->o.proactive_moves } };
	if (m->o.proactive_moves > UINT16_MAX || m->o.proactive_period_ms > INT32_MAX)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT,
		                    "thresholds are percentages, and the budget and the period have their limits");
	return fm_planner_new(&po, &m->planner, err);
}

static void judge(void *userdata, FM_PB(Host) * host)
{
	struct manager *m = userdata;
	fm_usage_history_load(m->history, host);
}

static int serve_http(struct manager *m, struct fm_error *err)
{
	if (!m->o.http)
		return 0;
	m->web = (struct fm_web_manager){ .version = FM_VERSION,
		                          .fleet = m->fleet,
		                          .coordinator = m->coordinator,
		                          .tally = m->tally,
		                          .judge = judge,
		                          .judge_userdata = m };
	const struct fm_web_server_opts o = {
		.address = m->o.http, .metrics = fm_web_manager_metrics, .ready = fm_web_manager_ready, .userdata = &m->web
	};
	if (fm_web_server_new(&o, &m->http, err) < 0)
		return -1;
	fm_web_server_log(m->http, m->log, "MigrationManager");
	return 0;
}

static int wire(struct manager *m, struct fm_error *err)
{
	m->ca = fm_xasprintf("%s/ca.pem", m->o.tls_dir);
	m->cert = fm_xasprintf("%s/%s.pem", m->o.tls_dir, m->o.name);
	m->key = fm_xasprintf("%s/%s.key", m->o.tls_dir, m->o.name);
	m->tls = (struct fm_rpc_tls){ .ca_pem_path = m->ca, .cert_pem_path = m->cert, .key_pem_path = m->key };
	if (fm_fault_new(getenv("FLEXIMIGRATE_FAULT"), &m->fault, err) < 0 || open_store(m, err) < 0 ||
	    fm_fleet_new(m->store, &m->fleet, err) < 0 || (m->o.network && fm_network_open(m->o.network, m->fleet, &m->network, err) < 0) ||
	    fm_usage_history_new(m->store, &m->o.limits, m->log, &m->history, err) < 0 ||
	    (m->o.policies && fm_rulebook_open(m->o.policies, &m->policies, err) < 0) || fm_costs_new(m->store, &m->costs, err) < 0 ||
	    fm_agent_clients_new(&m->tls, resolve, m, &m->clients, err) < 0)
		return -1;
	if (m->o.http && fm_tally_new(m->store, &m->tally, err) < 0) /* before anything can end */
		return -1;
	m->secrets_dir = fm_xasprintf("%s/secrets", m->o.state_dir);
	struct fm_coordinator_opts co = { .store = m->store,
		                          .agents = fm_agent_clients_api(m->clients),
		                          .fleet = m->fleet,
		                          .log = m->log,
		                          .fault = m->fault,
		                          .network = m->network,
		                          .costs = m->costs,
		                          .tally = m->tally,
		                          .policies = m->policies,
		                          .snapshot = take_snapshot,
		                          .snapshot_userdata = m,
		                          .secrets_dir = m->secrets_dir,
		                          .strategy_by_weights = fm_streq(m->o.strategy_selector, "weights"),
		                          .max_concurrent = (unsigned)m->o.max_concurrent };
	m->forecasts = fm_forecasts_new();
	if (m->network)
		fm_network_set_forecast(m->network, expected_traffic, m);
	m->cluster = (struct fm_cluster){
		.fleet = m->fleet, .store = m->store, .history = m->history, .network = m->network, .costs = m->costs
	};
	if (fm_coordinator_new(&co, &m->coordinator, err) < 0 || start_planner(m, err) < 0)
		return -1;
	m->service = (struct fm_manager_service){
		.version = FM_VERSION,
		.name = m->o.name,
		.coordinator = m->coordinator,
		.fleet = m->fleet,
		.agents = fm_agent_clients_api(m->clients),
		.log = m->log,
		.network = m->network,
		.planner = m->planner,
		.policies = m->policies,
		.history = m->history,
		.snapshot = take_snapshot,
		.snapshot_userdata = m,
	};
	fm_manager_service_methods(m->methods);
	struct fm_rpc_server_opts so = { .methods = m->methods,
		                         .userdata = &m->service,
		                         .n_threads = 32,
		                         .unix_path = m->o.socket,
		                         .tcp_address = m->o.listen,
		                         .tls = m->tls };
	if (prepare_socket_folder(m->o.socket, err) < 0)
		return -1;
	if (fm_rpc_server_new(&so, &m->server, err) < 0)
		return -1;
	return serve_http(m, err);
}

static void unwire(struct manager *m)
{
	fm_web_server_free(m->http);
	if (m->server)
		fm_rpc_server_free(m->server, 1000);
	fm_planner_free(m->planner);
	fm_coordinator_free(m->coordinator);
	fm_agent_clients_free(m->clients);
	fm_network_free(m->network);
	fm_forecasts_free(m->forecasts);
	fm_costs_free(m->costs);
	fm_usage_history_free(m->history);
	fm_tally_free(m->tally);
	fm_rulebook_free(m->policies);
	fm_fleet_free(m->fleet);
	fm_store_close(m->store);
	fm_fault_free(m->fault);
	free(m->secrets_dir);
	free(m->ca);
	free(m->cert);
	free(m->key);
}

static int set_limits(struct options *o, struct fm_error *err)
{
	if (o->load_ms > LOAD_MS_MAX)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "--load-time is more than a day");
	o->limits = FM_LOAD_LIMITS_DEFAULT;
	o->limits.over[FM_LOAD_CPU] = (double)o->over_cpu;
	o->limits.over[FM_LOAD_MEMORY] = (double)o->over_memory;
	o->limits.under_cpu_percent = (double)o->under_cpu;
	o->limits.under_memory_percent = (double)o->under_memory;
	o->limits.over_ms = o->limits.clear_ms = (uint32_t)o->load_ms;
	o->limits.under_ms = (uint32_t)o->load_ms * 10;
	return fm_load_limits_check(&o->limits, err);
}

/* What is wrong with a file is told with its place; then everything stays as it was. */
static void reload_network(struct manager *m)
{
	struct fm_error e = FM_ERROR_INIT;
	if (fm_network_reload(m->network, &e) < 0)
		fm_log_write(m->log, FM_LOG_ERROR, "NetworkManager", NULL,
		             "The changed description of the network is refused, the one from before holds: %s", e.message);
	else
		fm_log_write(m->log, FM_LOG_INFO, "NetworkManager", NULL,
		             "The description of the network, %s, was read again: it holds for migrations that begin from now on.",
		             m->o.network);
}

static void reload_policies(struct manager *m)
{
	struct fm_error e = FM_ERROR_INIT;
	if (fm_rulebook_reload(m->policies, &e) < 0)
		fm_log_write(m->log, FM_LOG_ERROR, "PolicyEnforcer", NULL, "The changed policies are refused, those from before hold: %s",
		             e.message);
	else
		fm_log_write(m->log, FM_LOG_INFO, "PolicyEnforcer", NULL, "The policies were read again: %zu from %s hold from now on.",
		             fm_rulebook_count(m->policies), m->o.policies);
}

static void reload(struct manager *m)
{
	if (!m->network && !m->policies)
		fm_log_write(
		        m->log, FM_LOG_WARN, "MigrationManager", NULL,
		        "SIGHUP: there is nothing to read again, this manager was started without --network FILE and --policies PATH.");
	if (m->network)
		reload_network(m);
	if (m->policies)
		reload_policies(m);
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
		{ "http", FM_OPT_STRING, &o->http, "ADDR:PORT",
		  "serve /metrics, /healthz and /readyz there, without TLS; :PORT is loopback (default: not at all)", NULL },
		{ "strategy-selector", FM_OPT_CHOICE, &o->strategy_selector, "WAY",
		  "how strategy auto is chosen: cost (default: the cheapest that meets the limits) or weights (the published ones)",
		  "cost|weights" },
		{ "max-concurrent", FM_OPT_UINT, &o->max_concurrent, "N", "migrations at a time; more wait in the queue (default: 8)",
		  NULL },
		{ "proactive", FM_OPT_FLAG, &o->proactive, NULL,
		  "move containers before a host is over a threshold, unasked (default: never)", NULL },
		{ "proactive-period", FM_OPT_DURATION, &o->proactive_period_ms, "TIME", "between two looks (default: 10s)", NULL },
		{ "proactive-moves", FM_OPT_UINT, &o->proactive_moves, "N", "moves in any hour, at most (default: 12)", NULL },
		{ "over-cpu", FM_OPT_UINT, &o->over_cpu, "PERCENT",
		  "a host with more of its processors in use is used too much (default: 80)", NULL },
		{ "over-memory", FM_OPT_UINT, &o->over_memory, "PERCENT", "likewise, of its memory (default: 70)", NULL },
		{ "under-cpu", FM_OPT_UINT, &o->under_cpu, "PERCENT",
		  "with less than this and --under-memory, a host is used little (default: 20)", NULL },
		{ "under-memory", FM_OPT_UINT, &o->under_memory, "PERCENT", "likewise (default: 30)", NULL },
		{ "load-time", FM_OPT_DURATION, &o->load_ms, "TIME",
		  "for which that must last before it counts; ten times as long for little (default: 60s)", NULL },
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
	return rc == 0 ? set_limits(o, err) : rc;
}

int fm_manager_main(int argc, char **argv)
{
	struct manager m = { .o = { .name = "manager",
		                    .socket = "/run/fleximigrate/manager.sock",
		                    .tls_dir = "/etc/fleximigrate/pki",
		                    .state_dir = "/var/lib/fleximigrate",
		                    .strategy_selector = "cost",
		                    .log_format = "human",
		                    .log_level = "info",
		                    .max_concurrent = 8,
		                    .over_cpu = 80,
		                    .over_memory = 70,
		                    .under_cpu = 20,
		                    .under_memory = 30,
		                    .load_ms = 60000 } };
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
