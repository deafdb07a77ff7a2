/* SPDX-License-Identifier: MIT */
/*
 * host.h - what an agent works with on its own host, as one parameter, and the undo of the outside effects that running and moving containers share.
 *
 * Everything is set up once by agent/ before threads start and read-only afterwards. Paths:
 *   <state>/instances/<instance>/   one folder an instance (container/bundle.h), plus container.pb (the Container as asked for) and user-config.json
 *   <state>/migrations/             journals
 *   <state>/visited/                what containers that left have left (revisit-files.h)
 *   <run>/netns/<instance>          pinned network namespaces
 *   <run>/images/<migration>.<role> tmpfs with a checkpoint's images
 * state must survive a reboot, run may not.
 */
#ifndef FM_MIGRATION_HOST_H
#define FM_MIGRATION_HOST_H

#include <net/if.h>
#include <stdbool.h>

#include "basic/error.h"
#include "basic/fault.h"
#include "basic/log.h"
#include "container/criu.h"
#include "container/runtimes.h"
#include "migration/agent-api.h"
#include "migration/journal.h"
#include "migration/revisit-pages.h"
#include "monitor/machine.h"
#include "sync/stream.h"

struct fm_host {
	char name[64];
	char state_dir[1024], run_dir[1024], instances_dir[1100], journals_dir[1100], visited_dir[1100], netns_dir[1100], images_dir[1100];
	char secrets_dir[1100];           /* key files that redirections name; the operator's, may be missing */
	uint64_t revisit_files_max_bytes; /* 0: nothing is kept; see revisit-files.h */
	char nest_binary[1024];
	char bridge[IFNAMSIZ];        /* default bridge; "" = what the container says */
	char cgroup_parent[256];      /* "/fleximigrate/<host>" unless told otherwise */
	char stream_host[64];         /* address other agents connect to for page streams */
	struct fm_runtime *runtime;   /* all of them as one */
	struct fm_runtimes *runtimes; /* NULL: there is only the one */
	char runtime_root[1024];      /* of the usual one: changes when an instance comes or goes */
	char runtime_version[128];    /* likewise, asked once at start */
	struct fm_machine machine;    /* read once at start */
	struct fm_criu_install criu;
	struct fm_error criu_problem; /* code FM_OK: fine */
	struct fm_stream_tls tls;
	bool use_tls;
	struct fm_revisit_pages *revisit_pages; /* the agent's; NULL elsewhere */
	struct fm_keeper *keeper;               /* the agent's; NULL elsewhere */
	struct fm_log *log;
	struct fm_fault *fault;
};

/* Makes the folders. */
int fm_host_init_dirs(struct fm_host *h, const char *state_dir, const char *run_dir, struct fm_error *err);
/* Undo one shared effect: "instance" (arg: instance), "netns" (path), "endpoint" (host interface name), "tmpfs" (path), "visited" (container). Unknown names fail. */
int fm_host_undo(struct fm_host *h, const char *what, const char *arg, struct fm_error *err);
/* A size-limited tmpfs for images at path; intent must be on record already. */
int fm_host_mount_images(const char *path, uint64_t max_bytes, int *ret_dirfd, struct fm_error *err);
/* The runtime of that name; "": the usual one. NOT_FOUND when this host has none. */
int fm_host_runtime(struct fm_host *h, const char *name, struct fm_runtime **ret, struct fm_error *err);
/* The same for a container that comes from elsewhere, where it ran under `name`: asked is what its user wants, "" = the same as there if there is one here that answers, else the usual one. */
int fm_host_choose_runtime(struct fm_host *h, const char *asked, const char *name, struct fm_runtime **ret, struct fm_error *err);
/* Why no ordinary container can be dumped or restored on this host, or NULL; the same for all of them, and nothing to nested ones. */
const char *fm_host_ordinary_problem(void);
/* Adds which runtimes there are and whether they answer: asks engines, which takes milliseconds each; a program is asked once, at the start. */
void fm_host_report_runtimes(struct fm_host *h, FM_PB(Host) * ret);
int fm_host_report(struct fm_host *h, FM_PB(Host) * ret, struct fm_error *err); /* fills an initialised message with malloc'ed strings */

#endif
