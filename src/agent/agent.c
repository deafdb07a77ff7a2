/* SPDX-License-Identifier: MIT */
/* agent.c - wires the agent: the host's facts and folders, movers (which recover from their journals), service, and the thread that reports to the manager. */
#include "agent/agent.h"

#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/setup.h"
#include "agent/watcher.h"
#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/str.h"
#include "fm-version.h"
#include "loop/pool.h"
#include "migration/keeper.h"
#include "migration/instances.h"
#include "migration/pb.h"
#include "migration/places.h"
#include "rpc/service.h"
#include "web/metrics.h"
#include "web/server.h"

#define REPORT_TIMEOUT_MS 5000
#define LIST_EVERY_MS     5000
#define TIDY_EVERY_MS     60000
#define RUNTIMES_EVERY_MS 10000
/* A folder that changed this shortly before the look may have been looked at half-way: the runtime makes an instance's folder first and fills it later. */
#define LIST_SETTLED_MS 2000

struct agent {
	struct fm_agent_options o;
	struct fm_host host;
	struct fm_agent_files files;
	struct fm_movers *movers;
	struct fm_keeper *keeper;
	struct fm_watcher *watcher;
	struct fm_agent_service service;
	struct fm_rpc_method methods[_FM_AGENT_METHOD_MAX + 1];
	struct fm_rpc_server *server;
	struct fm_rpc_client *manager;
	struct fm_web_agent *web; /* both NULL without --http */
	struct fm_web_server *http;
	char address[128];
	struct fm_stop stop;
	pthread_t reporter, tidier;
	bool reporting, tidying;

	/* the reporter's last look into the runtime; see refresh_containers */
	FM_PB(Container) * *listed;
	size_t n_listed;
	uint64_t listed_ms;
	struct timespec runtime_changed;
	bool listed_settled;

	FM_PB(Host) * runtimes; /* which there are; only that is filled in */
	uint64_t runtimes_ms;   /* when they were asked */
};

static void forget_containers(struct agent *a)
{
	for (size_t i = 0; i < a->n_listed; i++)
		fm_pb_free(a->listed[i]);
	free(a->listed);
	a->listed = NULL;
	a->n_listed = 0;
}

/* One that is just being made has a folder before the runtime lists it, and listing it later does not touch the folder above. */
static size_t count_folders(const char *path)
{
	size_t n = 0;
	_fm_closedir_ DIR *d = opendir(path);
	for (struct dirent *e; d && (e = readdir(d));)
		n += e->d_name[0] != '.';
	return n;
}

static size_t count_of_usual(const struct agent *a)
{
	struct fm_runtime *usual;
	size_t n = 0;
	for (size_t i = 0; fm_host_runtime((struct fm_host *)&a->host, "", &usual, NULL) == 0 && i < a->n_listed; i++)
		n += fm_streq(a->listed[i]->runtime, usual->ops->name);
	return n;
}

/* Has nothing changed since the last look: no instance came or went (the runtime's folder is untouched), none ended? */
static bool containers_are_fresh(const struct agent *a)
{
	struct stat st;
	if (!a->listed_settled || fm_now_ms() > a->listed_ms + LIST_EVERY_MS || stat(a->host.runtime_root, &st) < 0 ||
	    st.st_mtim.tv_sec != a->runtime_changed.tv_sec || st.st_mtim.tv_nsec != a->runtime_changed.tv_nsec ||
	    count_folders(a->host.runtime_root) != count_of_usual(a))
		return false;
	for (size_t i = 0; i < a->n_listed; i++)
		if (a->listed[i]->pid > 0 && kill(a->listed[i]->pid, 0) < 0)
			return false;
	return true;
}

/* Asking the runtime costs a process; a report a second must not cost one a second, least of all while a container is frozen. */
static int refresh_containers(struct agent *a, struct fm_error *err)
{
	struct stat st = { 0 };
	bool changed = fm_runtimes_changed(a->host.runtimes);
	if (!changed && containers_are_fresh(a))
		return 0;
	forget_containers(a);
	(void)stat(a->host.runtime_root, &st); /* before the look: what changes meanwhile is seen next time */
	if (fm_instances_list(&a->host, &a->listed, &a->n_listed, err) < 0)
		return -1;
	a->runtime_changed = st.st_mtim;
	a->listed_settled = fm_realtime_ms() > (uint64_t)st.st_mtim.tv_sec * 1000 + LIST_SETTLED_MS;
	a->listed_ms = fm_now_ms();
	return 0;
}

/* Those that its containers are of are there. */
static void add_images(FM_PB(Host) * h, FM_PB(Container) *const *v, size_t n)
{
	for (size_t i = 0; i < n && h->n_images < FM_MAX_IMAGES; i++) {
		bool known = !v[i]->image[0];
		for (size_t k = 0; k < h->n_images && !known; k++)
			known = fm_streq(h->images[k], v[i]->image);
		if (!known)
			fm_pb_add_string(&h->images, &h->n_images, v[i]->image);
	}
}

/* Asking costs a process or a request each: only now and then. */
static void add_runtimes(struct agent *a, FM_PB(Host) * h)
{
	if (!a->runtimes || fm_now_ms() > a->runtimes_ms + RUNTIMES_EVERY_MS) {
		fm_pb_free(a->runtimes);
		a->runtimes = FM_PB_NEW(Host, host);
		fm_host_report_runtimes(&a->host, a->runtimes);
		a->runtimes_ms = fm_now_ms();
	}
	for (size_t i = 0; i < a->runtimes->n_runtimes; i++)
		FM_PB_ADD(h->runtimes, h->n_runtimes, fm_pb_copy(a->runtimes->runtimes[i]));
}

static int report_once(struct agent *a, uint32_t *interval_ms, struct fm_error *err)
{
	_fm_pb_ FM_PB(ReportRequest) *req = FM_PB_NEW(ReportRequest, report_request);
	ProtobufCMessage *resp = NULL;
	req->protocol = 1;
	req->host = FM_PB_NEW(Host, host);
	if (fm_host_report(&a->host, req->host, err) < 0 || fm_agent_add_labels(&a->o, req->host, err) < 0 ||
	    refresh_containers(a, err) < 0)
		return -1;
	add_runtimes(a, req->host);
	fm_watcher_watch(a->watcher, a->listed, a->n_listed);
	for (size_t i = 0; i < a->n_listed; i++)
		FM_PB_ADD(req->containers, req->n_containers, fm_pb_copy(a->listed[i]));
	fm_watcher_report(a->watcher, req->host, req->containers, req->n_containers);
	add_images(req->host, req->containers, req->n_containers);
	fm_agent_mark_roles(a->movers, req->containers, req->n_containers);
	fm_pb_set(&req->host->address, a->address);
	fm_pb_set(&req->host->version, FM_VERSION);
	fm_web_agent_report(a->web, req);
	if (fm_rpc_client_call(a->manager, &fm_manager_methods[FM_MANAGER_REPORT], &req->base, REPORT_TIMEOUT_MS, a->stop.fd, &resp, err) <
	    0)
		return -1;
	uint32_t wanted = ((FM_PB(ReportResponse) *)resp)->interval_ms;
	*interval_ms = wanted >= 100 && wanted <= 60000 ? wanted : 1000;
	fm_watcher_peers(a->watcher, (FM_PB(ReportResponse) *)resp);
	fm_web_agent_taken(a->web, *interval_ms);
	fm_pb_free(resp);
	return 0;
}

static void *report(void *arg)
{
	struct agent *a = arg;
	uint32_t interval_ms = 1000;
	bool connected = false, complained = false;
	while (!fm_stop_requested(&a->stop)) {
		struct fm_error err = FM_ERROR_INIT;
		fm_revisit_pages_expire(a->host.revisit_pages);
		bool ok = report_once(a, &interval_ms, &err) == 0;
		if (ok && !connected)
			fm_log_write(a->host.log, FM_LOG_INFO, "ResourceMonitor", NULL, "Host '%s' registered with the manager at %s.",
			             a->host.name, a->o.manager);
		else if (!ok && (connected || !complained) && !fm_stop_requested(&a->stop))
			fm_log_write(a->host.log, FM_LOG_WARN, "ResourceMonitor", NULL,
			             "Reporting to the manager failed (trying again): %s", err.message);
		complained = complained || !ok;
		connected = ok;
		(void)fm_wait_fd(a->stop.fd, POLLIN, (int)interval_ms, NULL);
	}
	return NULL;
}

/* What is kept for the next visit has its bounds also when nobody comes or goes (revisit-files.h). */
static void *tidy(void *arg)
{
	struct agent *a = arg;
	bool first = true;
	while (!fm_stop_requested(&a->stop)) {
		struct fm_error err = FM_ERROR_INIT;
		if (fm_revisit_files_trim(&a->host, first, &err) < 0)
			fm_log_write(a->host.log, FM_LOG_WARN, "ResourceMonitor", NULL, "Removing what containers have left here: %s",
			             err.message);
		first = false;
		(void)fm_wait_fd(a->stop.fd, POLLIN, TIDY_EVERY_MS, NULL);
	}
	return NULL;
}

static int start_threads(struct agent *a, struct fm_error *err)
{
	int rc = pthread_create(&a->reporter, NULL, report, a);
	if (rc != 0)
		return fm_error_errno(err, rc, "cannot start the reporting thread");
	a->reporting = true;
	rc = pthread_create(&a->tidier, NULL, tidy, a);
	if (rc != 0)
		return fm_error_errno(err, rc, "cannot start the tidying thread");
	a->tidying = true;
	return 0;
}

static int serve_http(struct agent *a, struct fm_error *err)
{
	if (!a->o.http)
		return 0;
	a->web = fm_web_agent_new(&(struct fm_web_agent_opts){
	        .version = FM_VERSION, .journals_dir = a->host.journals_dir, .movers = a->movers, .keeper = a->keeper });
	const struct fm_web_server_opts o = {
		.address = a->o.http, .metrics = fm_web_agent_metrics, .ready = fm_web_agent_ready, .userdata = a->web
	};
	if (fm_web_server_new(&o, &a->http, err) < 0)
		return -1;
	fm_web_server_log(a->http, a->host.log, "ResourceMonitor");
	return 0;
}

static int wire(struct agent *a, struct fm_error *err)
{
	if (fm_stop_init(&a->stop, err) < 0 || fm_agent_setup_host(&a->o, &a->host, &a->files, err) < 0 ||
	    fm_movers_new(&a->host, &a->movers, err) < 0)
		return -1;
	_fm_free_ char *kept = fm_xasprintf("%s/kept", a->host.state_dir);
	if (fm_keeper_new(kept, a->host.secrets_dir, a->host.log, &a->keeper, err) < 0)
		return -1;
	a->host.keeper = a->keeper;
	fm_places_tidy(&a->host);
	a->service = (struct fm_agent_service){ .version = FM_VERSION, .host = &a->host, .movers = a->movers, .keeper = a->keeper };
	fm_agent_service_methods(a->methods);
	struct fm_rpc_tls tls = { .ca_pem_path = a->files.ca, .cert_pem_path = a->files.cert, .key_pem_path = a->files.key };
	struct fm_rpc_server_opts so = { .methods = a->methods,
		                         .userdata = &a->service,
		                         .n_threads = 32,
		                         .unix_path = a->files.socket,
		                         .tcp_address = a->o.listen,
		                         .tls = tls };
	if (fm_rpc_server_new(&so, &a->server, err) < 0)
		return -1;
	if (a->o.listen)
		(void)snprintf(a->address, sizeof(a->address), "%s:%u", a->host.stream_host, fm_rpc_server_tcp_port(a->server));
	else
		(void)snprintf(a->address, sizeof(a->address), "unix:%.100s", a->files.socket);
	struct fm_watcher_options wo = { .period_ms = (uint32_t)a->o.monitor_period_ms,
		                         .host = a->o.listen ? a->host.stream_host : NULL,
		                         .port = a->o.listen ? fm_rpc_server_tcp_port(a->server) : 0,
		                         .log = a->host.log,
		                         .movers = a->movers };
	if (fm_watcher_new(&wo, &a->watcher, err) < 0)
		return -1;
	bool unix_manager = fm_str_startswith(a->o.manager, "unix:");
	if (fm_rpc_client_new(a->o.manager, unix_manager ? NULL : &tls, &a->manager, err) < 0 || serve_http(a, err) < 0)
		return -1;
	return start_threads(a, err);
}

static void unwire(struct agent *a)
{
	fm_stop_request(&a->stop);
	if (a->reporting)
		pthread_join(a->reporter, NULL);
	if (a->tidying)
		pthread_join(a->tidier, NULL);
	fm_web_server_free(a->http);
	fm_web_agent_free(a->web);
	if (a->server)
		fm_rpc_server_free(a->server, 1000);
	fm_watcher_free(a->watcher);
	fm_rpc_client_free(a->manager);
	fm_movers_free(a->movers);
	fm_keeper_free(a->keeper);
	forget_containers(a);
	fm_agent_teardown_host(&a->host, &a->files);
	fm_stop_done(&a->stop);
	fm_strv_free(a->o.labels);
	fm_strv_free(a->o.engines);
	fm_pb_free(a->runtimes);
}

int fm_agent_main(int argc, char **argv)
{
	struct agent a = { .o = FM_AGENT_OPTIONS_INIT };
	struct fm_error err = FM_ERROR_INIT;
	int signals = -1;
	int rc = fm_agent_parse(argc, argv, &a.o, &err);
	if (rc > 0)
		return 0;
	bool usage = rc < 0;
	if (rc == 0)
		rc = fm_signals_block(&signals, &err);
	if (rc == 0)
		rc = wire(&a, &err);
	if (rc == 0) {
		fm_log_write(a.host.log, FM_LOG_INFO, "MigrationManager", NULL, "Agent of host '%s' ready on %s (version %s).", a.host.name,
		             a.address, FM_VERSION);
		if (a.host.criu_problem.code != FM_OK)
			fm_log_write(a.host.log, FM_LOG_WARN, "ContainerManager", NULL, "This host cannot migrate containers yet: %s",
			             a.host.criu_problem.message);
		(void)fm_wait_fd(signals, POLLIN, -1, NULL);
		fm_log_write(a.host.log, FM_LOG_INFO, "MigrationManager", NULL, "Stopping; containers run on.");
	} else {
		fprintf(stderr, "fleximigrate agent: %s\n", err.message);
		if (err.hint[0])
			fprintf(stderr, "hint: %s\n", err.hint);
	}
	unwire(&a);
	if (signals >= 0)
		(void)close(signals);
	return rc < 0 ? (usage ? 2 : 1) : 0;
}
