/* SPDX-License-Identifier: MIT */
/*
 * instances.h - containers on this host: run, list, inspect, remove. Composes container/ (bundle, runtime, nest) and network/ (endpoints).
 *
 * A *container* has a name that is unique in the cluster; an *instance* is one incarnation of it in this host's runtime. While a migration is under way
 * both hosts have an instance of the same container. Thread-safe; two calls about the same container must not overlap (the agent serialises by name).
 */
#ifndef FM_MIGRATION_INSTANCES_H
#define FM_MIGRATION_INSTANCES_H

#include "container/bundle.h"
#include "migration/host.h"
#include "network/endpoints.h"

/* What is known about an instance of ours; for foreign ones (found in the runtime) only container and pid1. */
struct fm_local {
	FM_PB(Container) * container; /* owned */
	char dir[1400];               /* <instances>/<instance>, "" foreign */
	char control_dir[1500];       /* nest's, "" when ordinary */
	char netns_path[1400];        /* "" = none of ours */
	char *config;                 /* the user's config.json text */
	char runtime[16];             /* that it is in; "" not made yet */
	pid_t pid1;                   /* PID 1 of the instance (the nest for nested ones) */
	bool nested;
	size_t n_endpoints;
	struct fm_endpoint_config endpoints[FM_MAX_ENDPOINTS];
};
void fm_local_done(struct fm_local *l);
/* Adds its addresses, without prefix lengths. */
void fm_local_addresses(const struct fm_local *l, char ***addresses);
#define FM_LOCAL_INIT ((struct fm_local){ 0 })

/* Steps of bringing an instance up, used by run (start the application) and by a destination (wait for a tree). All effects have intents in j first. */
struct fm_bringup {
	const char *instance;
	const char *config;       /* user's */
	const char *rootfs;       /* absolute */
	const char *migration_id; /* NULL when run by the user */
	bool wait;                /* nested: adopt later; ordinary: do not create (the runtime's restore does) */
	const FM_PB(Container) * container;
};
/* Network namespace and closed endpoints; NULL: it has none. notes (strv, may be NULL) gets what was done. */
int fm_bringup_network(struct fm_host *h, struct fm_journal *j, const struct fm_bringup *b, struct fm_local *l,
                       struct fm_endpoints **ret_endpoints, char ***notes, struct fm_error *err);
/* To be called before the container runs: nobody else has its addresses. endpoints may be NULL. */
int fm_bringup_addresses(struct fm_endpoints *endpoints, struct fm_error *err);
/*
 * Instance folder, bundle, runtime create + start under container->runtime; nested: until the nest answers. Fills *l. endpoints (may be NULL) are those of fm_bringup_network; where the runtime makes network
 * namespaces itself they are made again in the one that it has made.
 */
int fm_bringup_instance(struct fm_host *h, struct fm_journal *j, const struct fm_bringup *b, struct fm_local *l,
                        struct fm_endpoints *endpoints, struct fm_error *err);
/* Does its runtime keep the root filesystem in a store of its own, so that the bundle's root folder is empty? */
bool fm_local_owns_root(struct fm_host *h, const struct fm_local *l);

int fm_instances_run(struct fm_host *h, const FM_PB(RunContainerRequest) * req, FM_PB(Container) * *ret, struct fm_error *err);
int fm_instances_remove(struct fm_host *h, const char *name, bool force, struct fm_error *err);
/* Everything in the runtime. Instances that belong to a migration (in, out) get status "incoming"/"outgoing" by the agent, which knows the movers. */
int fm_instances_list(struct fm_host *h, FM_PB(Container) * **ret, size_t *ret_n, struct fm_error *err);
/* The addresses of all containers here, coming and leaving ones included; fm_strv_free. Fails when one of them cannot be known. */
int fm_instances_addresses(struct fm_host *h, char ***ret, struct fm_error *err);
/* By container name: the instance that is (or was last) the container here; NOT_FOUND. skip: instance to ignore, may be NULL. */
int fm_instances_find(struct fm_host *h, const char *name, const char *skip, struct fm_local *ret, struct fm_error *err);
int fm_instances_open(struct fm_host *h, const char *instance, struct fm_local *ret, struct fm_error *err);
/* The instance that a migration of that id brought here, whatever became of its journal; ret[0] is NUL when the runtime has none. Fails when the runtime
 * does not answer: unknown is not "none". */
int fm_instances_of_migration(struct fm_host *h, const char *migration_id, char *ret, size_t cap, struct fm_error *err);
/* Facts for the planner; blockers in plain words. */
int fm_instances_inspect(struct fm_host *h, const char *name, FM_PB(InspectResponse) * *ret, struct fm_error *err);
/* Take an instance away for good: runtime, endpoints, namespace, folder. Idempotent. */
int fm_instances_destroy(struct fm_host *h, const char *instance, struct fm_error *err);
/* The same for one whose container has left for another host, but its root filesystem stays for the next visit (revisit-files.h), unless the container is here in another instance. Idempotent. */
int fm_instances_release(struct fm_host *h, const char *instance, const char *container, struct fm_error *err);
/* host pid of the application's first process: 0 when there is none */
pid_t fm_local_app_pid(const struct fm_local *l);
/* Fills in container->pid, processes and memory_bytes as they are now: what is on record of a container that was started here says nothing of them. */
void fm_local_measure(struct fm_local *l);

/* Rewrite container.pb (after an adoption: it is an ordinary resident now). */
int fm_instances_save(struct fm_host *h, const char *instance, const FM_PB(Container) * c, const char *config, struct fm_error *err);

#endif
