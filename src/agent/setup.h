/* SPDX-License-Identifier: MIT */
/* setup.h - the agent's options and what it works with (struct fm_host) made from them; `fleximigrate doctor` uses it without an agent. */
#ifndef FM_AGENT_SETUP_H
#define FM_AGENT_SETUP_H

#include "migration/revisit-files.h"
#include "monitor/monitor.h"

struct fm_agent_options {
	const char *name, *manager, *listen, *socket, *tls_dir, *state_dir, *run_dir, *bridge, *runtime, *runtime_root, *criu_prefix,
	        *cgroup, *nest, *http, *log_format, *log_level;
	uint64_t revisit_memory, revisit_disk; /* bytes */
	uint64_t monitor_period_ms;
	char **labels;  /* KEY=VALUE; fm_strv_free */
	char **engines; /* NAME=SOCKET; likewise */
};
#define FM_AGENT_OPTIONS_INIT                                                                                                              \
	((struct fm_agent_options){ .manager = "unix:/run/fleximigrate/manager.sock",                                                      \
	                            .tls_dir = "/etc/fleximigrate/pki",                                                                    \
	                            .state_dir = "/var/lib/fleximigrate",                                                                  \
	                            .run_dir = "/run/fleximigrate",                                                                        \
	                            .runtime = "runc",                                                                                     \
	                            .runtime_root = "/run/runc",                                                                           \
	                            .criu_prefix = FM_CRIU_PREFIX_DEFAULT,                                                                 \
	                            .log_format = "human",                                                                                 \
	                            .log_level = "info",                                                                                   \
	                            .monitor_period_ms = FM_MONITOR_PERIOD_MS,                                                             \
	                            .revisit_memory = UINT64_MAX,                                                                          \
	                            .revisit_disk = FM_REVISIT_FILES_TENTH })

struct fm_agent_files {
	char *ca, *cert, *key, *socket;
};

/* 0, 1 (help), -1 */
int fm_agent_parse(int argc, char **argv, struct fm_agent_options *o, struct fm_error *err);
/* The labels of the options, into an empty host. */
int fm_agent_add_labels(const struct fm_agent_options *o, FM_PB(Host) * h, struct fm_error *err);
int fm_agent_setup_host(const struct fm_agent_options *o, struct fm_host *h, struct fm_agent_files *files, struct fm_error *err);
void fm_agent_teardown_host(struct fm_host *h, struct fm_agent_files *files);

#endif
