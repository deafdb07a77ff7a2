/* SPDX-License-Identifier: MIT */
/* setup.c - see setup.h. */
#include "agent/setup.h"
#include "rpc/containerd-client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/limits.h"
#include "basic/options.h"
#include "basic/str.h"
#include "fm-version.h"
#include "migration/pb.h"

#define LABEL_BYTES_MAX 255

int fm_agent_add_labels(const struct fm_agent_options *o, FM_PB(Host) * h, struct fm_error *err)
{
	for (char **l = o->labels; l && *l; l++) {
		const char *eq = strchr(*l, '=');
		if (!eq || eq == *l || strlen(*l) > LABEL_BYTES_MAX || h->n_labels == FM_MAX_LABELS)
			return fm_error_set(err, FM_E_INVALID_ARGUMENT,
			                    "--label must be KEY=VALUE of at most %d bytes, and %d of them, not '%.60s'", LABEL_BYTES_MAX,
			                    FM_MAX_LABELS, *l);
		FM_PB(Label) *label = FM_PB_NEW(Label, label);
		_fm_free_ char *key = strndup(*l, (size_t)(eq - *l));
		fm_pb_set(&label->key, key);
		fm_pb_set(&label->value, eq + 1);
		FM_PB_ADD(h->labels, h->n_labels, label);
	}
	return 0;
}

/* Where an engine's socket is; "": not to be used. --engine NAME=SOCKET says otherwise than the usual place. */
static const char *engine_socket(const struct fm_agent_options *o, const char *name, const char *usual)
{
	size_t n = strlen(name);
	const char *socket = usual;
	for (char **e = o->engines; e && *e; e++)
		if (strncmp(*e, name, n) == 0 && (*e)[n] == '=')
			socket = *e + n + 1;
	return fm_streq(socket, "off") ? "" : socket;
}

static int make_containerd(const char *socket, struct fm_runtime **ret, struct fm_error *err)
{
	struct fm_containerd_transport t;
	return fm_containerd_transport_new(socket, &t, err) < 0 ? -1 : fm_runtime_containerd_new(&t, NULL, ret, err);
}

/* Engines are found by their sockets, whenever they come. */
static const struct engine {
	const char *name, *socket;
	int (*make)(const char *socket, struct fm_runtime **ret, struct fm_error *err);
} engines[] = {
	{ "docker", "/run/docker.sock", fm_runtime_docker_new },
	{ "containerd", "/run/containerd/containerd.sock", make_containerd },
};

static int check_engines(const struct fm_agent_options *o, struct fm_error *err)
{
	for (char **e = o->engines; e && *e; e++) {
		const char *value = strchr(*e, '=');
		bool known = false;
		for (size_t i = 0; value && i < FM_ARRAY_SIZE(engines); i++)
			known = known || (strlen(engines[i].name) == (size_t)(value - *e) &&
			                  strncmp(*e, engines[i].name, (size_t)(value - *e)) == 0);
		if (!known || (value[1] != '/' && !fm_streq(value + 1, "off")))
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "--engine %s: NAME=SOCKET or NAME=off, NAME docker or containerd",
			                    *e);
	}
	return 0;
}

static int check(const struct fm_agent_options *o, struct fm_error *err)
{
	_fm_pb_ FM_PB(Host) *h = FM_PB_NEW(Host, host);

	if (o->monitor_period_ms < FM_MONITOR_PERIOD_MIN_MS || o->monitor_period_ms > FM_MONITOR_PERIOD_MAX_MS)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "--monitor-period must be from 200ms to 60s");
	return check_engines(o, err) < 0 ? -1 : fm_agent_add_labels(o, h, err);
}

int fm_agent_parse(int argc, char **argv, struct fm_agent_options *o, struct fm_error *err)
{
	const struct fm_option table[] = {
		{ "name", FM_OPT_STRING, &o->name, "NAME", "this host's name in the cluster and its certificate's (default: the hostname)",
		  NULL },
		{ "manager", FM_OPT_STRING, &o->manager, "TARGET",
		  "host:port or unix:/path of the manager (default: unix:/run/fleximigrate/manager.sock)", NULL },
		{ "listen", FM_OPT_STRING, &o->listen, "ADDR:PORT",
		  "an address of this host (not 0.0.0.0) where manager and other agents reach it (mutual TLS)", NULL },
		{ "socket", FM_OPT_STRING, &o->socket, "PATH", "Unix socket for local clients (default: RUN-DIR/agent.sock)", NULL },
		{ "tls-dir", FM_OPT_STRING, &o->tls_dir, "DIR", "ca.pem, NAME.pem, NAME.key (default: /etc/fleximigrate/pki)", NULL },
		{ "state-dir", FM_OPT_STRING, &o->state_dir, "DIR",
		  "instances and journals; survives a reboot (default: /var/lib/fleximigrate)", NULL },
		{ "run-dir", FM_OPT_STRING, &o->run_dir, "DIR", "namespaces, images, sockets (default: /run/fleximigrate)", NULL },
		{ "bridge", FM_OPT_STRING, &o->bridge, "NAME", "Linux bridge that containers are plugged into", NULL },
		{ "runtime", FM_OPT_STRING, &o->runtime, "PROGRAM", "OCI runtime (default: runc)", NULL },
		{ "runtime-root", FM_OPT_STRING, &o->runtime_root, "DIR", "the runtime's state folder (default: /run/runc)", NULL },
		{ "engine", FM_OPT_STRINGS, &o->engines, "NAME=SOCKET",
		  "where docker or containerd listens, or NAME=off; may be given several times (default: where each usually does)", NULL },
		{ "criu-prefix", FM_OPT_STRING, &o->criu_prefix, "DIR",
		  "CRIU as tools/setup/install-criu.sh lays it out (default: " FM_CRIU_PREFIX_DEFAULT ")", NULL },
		{ "cgroup", FM_OPT_STRING, &o->cgroup, "PATH", "cgroup below which containers are put (default: /fleximigrate/NAME)",
		  NULL },
		{ "nest", FM_OPT_STRING, &o->nest, "PATH",
		  "fleximigrate-nest, the init of parent containers (default: beside this program, else libexec)", NULL },
		{ "http", FM_OPT_STRING, &o->http, "ADDR:PORT",
		  "serve /metrics, /healthz and /readyz there, without TLS; :PORT is loopback (default: not at all)", NULL },
		{ "revisit-memory", FM_OPT_BYTES, &o->revisit_memory, "SIZE",
		  "for pages of containers that left, should they return; 0: none (default: an eighth of the memory)", NULL },
		{ "revisit-disk", FM_OPT_BYTES, &o->revisit_disk, "SIZE",
		  "for files of containers that left, should they return; 0: none (default: a tenth of the disk)", NULL },
		{ "label", FM_OPT_STRINGS, &o->labels, "KEY=VALUE",
		  "what is to be known of this host (zone=a, disk=ssd, …); may be given several times", NULL },
		{ "monitor-period", FM_OPT_DURATION, &o->monitor_period_ms, "TIME",
		  "between two samples of host and containers, 200ms to 60s (default: 1s)", NULL },
		{ "log-format", FM_OPT_CHOICE, &o->log_format, "FORMAT", "human (default) or json", "human|json" },
		{ "log-level", FM_OPT_CHOICE, &o->log_level, "LEVEL", "smallest level that is written (default: info)",
		  "debug|info|warn|error" },
		{ 0 },
	};
	const struct fm_command_line cl = {
		.usage = "fleximigrate agent --manager TARGET --listen ADDR:PORT [options]",
		.summary = "Run this host's agent: it reports the host and its containers, and moves them when the manager says so.",
		.options = table
	};
	struct fm_arguments args = { 0 };
	int rc = fm_options_parse(&cl, argc, argv, &args, err);
	fm_arguments_done(&args);
	return rc == 0 ? check(o, err) : rc;
}

/* Beside this program (build folder), else where it is installed. */
static int find_nest(const struct fm_agent_options *o, struct fm_host *h, struct fm_error *err)
{
	char self[1024];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (o->nest)
		return fm_snprintf(h->nest_binary, sizeof(h->nest_binary), err, "%s", o->nest);
	self[n > 0 ? n : 0] = '\0';
	char *slash = strrchr(self, '/');
	if (slash)
		*slash = '\0';
	_fm_free_ char *beside = fm_xasprintf("%s/fleximigrate-nest", self);
	return fm_snprintf(h->nest_binary, sizeof(h->nest_binary), err, "%s",
	                   access(beside, X_OK) == 0 ? beside : FM_LIBEXECDIR "/fleximigrate-nest");
}

static int name_host(const struct fm_agent_options *o, struct fm_host *h, struct fm_error *err)
{
	if (o->name)
		(void)snprintf(h->name, sizeof(h->name), "%s", o->name);
	else if (gethostname(h->name, sizeof(h->name) - 1) < 0)
		return fm_error_errno(err, errno, "cannot read the hostname");
	if (!fm_name_is_valid(h->name))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "'%s' is not a host name: give --name", h->name);
	if (o->cgroup && (o->cgroup[0] != '/' || strstr(o->cgroup, "..")))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "--cgroup must be an absolute path, not '%s'", o->cgroup);
	if (fm_snprintf(h->cgroup_parent, sizeof(h->cgroup_parent), err, "%s%s", o->cgroup ? o->cgroup : "/fleximigrate/",
	                o->cgroup ? "" : h->name) < 0)
		return fm_error_prefix(err, "--cgroup");
	const char *colon = o->listen ? strrchr(o->listen, ':') : NULL;
	if (o->listen && (!colon || (size_t)(colon - o->listen) >= sizeof(h->stream_host)))
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "--listen must be ADDRESS:PORT, not '%s'", o->listen);
	(void)snprintf(h->stream_host, sizeof(h->stream_host), "%.*s", colon ? (int)(colon - o->listen) : 9,
	               colon ? o->listen : "127.0.0.1");
	return 0;
}

static int add_engines(const struct fm_agent_options *o, struct fm_host *h, struct fm_error *err)
{
	for (size_t i = 0; i < FM_ARRAY_SIZE(engines); i++) {
		const char *socket = engine_socket(o, engines[i].name, engines[i].socket);
		struct fm_runtime *rt;
		if (!socket[0])
			continue;
		if (engines[i].make(socket, &rt, err) < 0 || fm_runtimes_add(h->runtimes, rt, socket, err) < 0)
			return -1;
	}
	return 0;
}

static int open_runtime(const struct fm_agent_options *o, struct fm_host *h, struct fm_error *err)
{
	_fm_free_ char *wrapper = fm_xasprintf("%s/criu", o->criu_prefix);
	if (fm_snprintf(h->runtime_root, sizeof(h->runtime_root), err, "%s", o->runtime_root) < 0)
		return fm_error_prefix(err, "--runtime-root");
	if (fm_runtimes_new(&h->runtimes, err) < 0 || add_engines(o, h, err) < 0)
		return -1;
	struct fm_runtime *usual;
	if (fm_runtime_runc_new(o->runtime, o->runtime_root, wrapper, &usual, err) < 0 ||
	    fm_runtimes_add(h->runtimes, usual, NULL, err) < 0)
		return -1;
	h->runtime = fm_runtimes_all(h->runtimes);
	/* A host without a working runtime or CRIU still reports itself and says what is missing. */
	(void)h->runtime->ops->version(h->runtime, h->runtime_version, sizeof(h->runtime_version), NULL);
	fm_machine_read(&h->machine);
	h->criu_problem = FM_ERROR_INIT;
	(void)fm_criu_install_probe(o->criu_prefix, 0, &h->criu, &h->criu_problem);
	return 0;
}

int fm_agent_setup_host(const struct fm_agent_options *o, struct fm_host *h, struct fm_agent_files *files, struct fm_error *err)
{
	enum fm_log_level level = FM_LOG_INFO;
	(void)fm_log_level_from_string(o->log_level, &level);
	h->log = fm_log_new(STDERR_FILENO, fm_streq(o->log_format, "json") ? FM_LOG_JSON : FM_LOG_HUMAN, level);
	if (name_host(o, h, err) < 0 || fm_fault_new(getenv("FLEXIMIGRATE_FAULT"), &h->fault, err) < 0 ||
	    fm_host_init_dirs(h, o->state_dir, o->run_dir, err) < 0 || find_nest(o, h, err) < 0 || open_runtime(o, h, err) < 0 ||
	    fm_revisit_pages_new(o->revisit_memory, &h->revisit_pages, err) < 0)
		return -1;
	if (o->bridge && fm_snprintf(h->bridge, sizeof(h->bridge), err, "%s", o->bridge) < 0)
		return fm_error_prefix(err, "--bridge");
	files->ca = fm_xasprintf("%s/ca.pem", o->tls_dir);
	files->cert = fm_xasprintf("%s/%s.pem", o->tls_dir, h->name);
	files->key = fm_xasprintf("%s/%s.key", o->tls_dir, h->name);
	files->socket = o->socket ? fm_xstrdup(o->socket) : fm_xasprintf("%s/agent.sock", h->run_dir);
	h->tls = (struct fm_stream_tls){ .ca_pem_path = files->ca, .cert_pem_path = files->cert, .key_pem_path = files->key };
	h->use_tls = o->listen != NULL;
	h->revisit_files_max_bytes = o->revisit_disk;
	return 0;
}

void fm_agent_teardown_host(struct fm_host *h, struct fm_agent_files *files)
{
	fm_revisit_pages_free(h->revisit_pages);
	fm_runtimes_free(h->runtimes);
	fm_fault_free(h->fault);
	fm_log_free(h->log);
	free(files->ca);
	free(files->cert);
	free(files->key);
	free(files->socket);
}
