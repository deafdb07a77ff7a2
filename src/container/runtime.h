/* SPDX-License-Identifier: MIT */
/*
 * runtime.h - what runs containers on a host, behind a small vtable: OCI runtimes (runc) by their command line, engines (Docker, containerd) by the API on their socket.
 *
 * The words between us and all of them are OCI's: a bundle, whose config.json says everything about the container that is to be made (bundle.h), whoever makes it. A driver of an engine translates it into
 * its engine's own request: process (args, env, cwd, user, capabilities, rlimits, noNewPrivileges), hostname, bind mounts and tmpfs, /dev/shm's size, resources, the cgroup's parent (the folder of
 * linux.cgroupsPath), annotations (as labels), a network namespace by path where the engine can join one. What an engine cannot do is refused by create, with the member's name; what every engine mounts
 * by itself (proc, sysfs, mqueue, devpts, /dev, the cgroups) is left to it.
 *
 * An instance's id is ours where we made it (label org.fleximigrate.instance, or the runtime's own id where that can be chosen), else what its user calls it.
 *
 * All calls block (with a deadline) and are safe from any thread as long as two threads do not work on the same instance. remove, kill, stop are idempotent: a missing (for kill and stop also a stopped)
 * instance is success; so are pausing a paused and resuming a running one. An operation that a runtime does not have is NULL in its table. UNAVAILABLE: the engine does not answer (its daemon is being
 * restarted, say), which says nothing about its containers.
 *
 * log_fd: stdio that CRIU can carry over is /dev/null or an anonymous pipe (its new end on restore is log_fd again). An ordinary container
 * whose log_fd is a file of the host cannot be checkpointed. A nested one may have any. Engines keep output themselves (FM_RUNTIME_OWN_LOG): -1.
 */
#ifndef FM_CONTAINER_RUNTIME_H
#define FM_CONTAINER_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "basic/error.h"

enum fm_container_status { FM_CONTAINER_UNKNOWN, FM_CONTAINER_CREATED, FM_CONTAINER_RUNNING, FM_CONTAINER_PAUSED, FM_CONTAINER_STOPPED };
const char *fm_container_status_to_string(enum fm_container_status s); /* lower case */

struct fm_instance {
	char id[128];
	char runtime[16]; /* its driver's name */
	enum fm_container_status status;
	pid_t pid; /* host pid of its PID 1; 0 when stopped */
	char bundle[4096];
	char owner_name[64]; /* annotation or label org.fleximigrate.name, "" when there is none */
	char name[128];      /* what its user calls it; id where the runtime has no names */
	char image[256];     /* that it was made of, "" not known */
	bool nested;         /* PID 1 is the nest, as far as the runtime can say: its entry point is FM_NEST_MOUNT */
	uint64_t created_ms;
};

struct fm_checkpoint_opts {
	const char *image_dir, *work_dir;
	bool tcp_established;
	int timeout_ms;
};
struct fm_restore_opts {
	const char *image_dir, *work_dir, *bundle;
	const char
	        *criu_config; /* file of more CRIU options (one a line, "action-script PATH"), or NULL; changes the bundle's annotation */
	bool tcp_established;
	int timeout_ms; /* 0 = 10 minutes; likewise above */
	int log_fd;
};

/* What a runtime does in its own way. */
enum fm_runtime_traits {
	FM_RUNTIME_CHECKPOINTS = 1 << 0, /* ordinary containers can be saved and restored by it */
	FM_RUNTIME_OWN_ROOT =
	        1
	        << 1, /* the root filesystem is in its own store. create takes the content of the bundle's root over (moved where that is possible, else copied: the folder is empty then). */
	FM_RUNTIME_OWN_NETNS =
	        1
	        << 2, /* makes the network namespace itself, without interfaces; there is one as soon as the container is started. A path in config.json is ignored. */
	FM_RUNTIME_OWN_LOG = 1 << 3,      /* keeps what PID 1 writes itself */
	FM_RUNTIME_RESTARTS = 1 << 4,     /* may start again what has ended: has restart_policy */
	FM_RUNTIME_CREATES_LATE = 1 << 5, /* there is no process before start: pid is 0 in state created */
};

struct fm_runtime;

struct fm_runtime_ops {
	const char *name; /* "runc", "crun", "docker", "podman", "containerd" */
	unsigned traits;
	int (*version)(struct fm_runtime *rt, char *buf, size_t cap, struct fm_error *err);
	int (*list)(struct fm_runtime *rt, struct fm_instance **ret, size_t *ret_n, struct fm_error *err);
	/* NOT_FOUND when there is none */
	int (*state)(struct fm_runtime *rt, const char *id, struct fm_instance *ret, struct fm_error *err);
	/* stdio of PID 1 goes to log_fd (stdin /dev/null) */
	int (*create)(struct fm_runtime *rt, const char *id, const char *bundle, int log_fd, struct fm_error *err);
	int (*start)(struct fm_runtime *rt, const char *id, struct fm_error *err);
	int (*kill)(struct fm_runtime *rt, const char *id, int signal, struct fm_error *err);
	int (*pause)(struct fm_runtime *rt, const char *id, struct fm_error *err);
	int (*resume)(struct fm_runtime *rt, const char *id, struct fm_error *err);
	int (*remove)(struct fm_runtime *rt, const char *id, struct fm_error *err); /* force: kills, waits, deletes */
	/* Ordinary containers only. checkpoint leaves the container frozen and complete (pause first, leave-running, so nothing is
	 * destroyed); when it fails the container is as it was found, running or paused. */
	int (*checkpoint)(struct fm_runtime *rt, const char *id, const struct fm_checkpoint_opts *o, struct fm_error *err);
	int (*restore)(struct fm_runtime *rt, const char *id, const struct fm_restore_opts *o, struct fm_error *err);
	/* Ends it as its user would: SIGTERM, and SIGKILL after timeout_ms. The runtime knows that it was asked for, and starts it no more. */
	int (*stop)(struct fm_runtime *rt, const char *id, int timeout_ms, struct fm_error *err);
	/* What happens when it ends by itself, in the runtime's own words ("no", "unless-stopped", "on-failure:3"); set takes what get gave, or "no". UNIMPLEMENTED: cannot be changed while there is the container. */
	int (*restart_policy)(struct fm_runtime *rt, const char *id, char *buf, size_t cap, struct fm_error *err);
	int (*set_restart_policy)(struct fm_runtime *rt, const char *id, const char *policy, struct fm_error *err);
	/* OCI config.json (malloc) of a container that was not made by us, as it is run: process with its args (without the nest in front), env, cwd, numeric user, capabilities; root.path; hostname; bind mounts
	 * and tmpfs; resources; labels as annotations. Enough to make it again on another host. */
	int (*describe)(struct fm_runtime *rt, const char *id, char **ret_config, struct fm_error *err);
	/* A descriptor (the runtime's, open until free) that is readable when something may have changed: a container came, went, started or ended. Whoever waits reads it empty. Lost events, and a daemon that comes
	 * back, make it readable, too. */
	int (*watch)(struct fm_runtime *rt, int *ret_fd, struct fm_error *err);
	/* Its own image store. config: the image's OCI configuration as JSON (malloc), NOT_FOUND. save writes a docker archive or OCI layout (tar) to fd, load takes either. */
	int (*image_config)(struct fm_runtime *rt, const char *reference, char **ret_json, struct fm_error *err);
	int (*image_save)(struct fm_runtime *rt, const char *reference, int fd, int cancel_fd, struct fm_error *err);
	int (*image_load)(struct fm_runtime *rt, int fd, int cancel_fd, struct fm_error *err);
	void (*free)(struct fm_runtime *rt);
};
struct fm_runtime {
	const struct fm_runtime_ops *ops;
};

/* program "runc" (PATH), root "/run/runc" …, criu: wrapper path given to --criu; may be NULL until a checkpoint. */
int fm_runtime_runc_new(const char *program, const char *root, const char *criu, struct fm_runtime **ret, struct fm_error *err);
/* Docker Engine (API 1.41 and later) on a Unix socket. No daemon need be there yet. */
int fm_runtime_docker_new(const char *socket, struct fm_runtime **ret, struct fm_error *err);

static inline void fm_runtime_free(struct fm_runtime *rt)
{
	if (rt)
		rt->ops->free(rt);
}

#endif
