/* SPDX-License-Identifier: MIT */
/*
 * runtime.h - an OCI runtime behind a small vtable. runc today; crun, Docker, Podman, containerd have their own issue.
 *
 * All calls block (they run the runtime's program with a deadline) and are safe from any thread as long as two threads do not work on
 * the same instance. remove, kill are idempotent: a missing (for kill also a stopped) instance is success; so are pausing a paused and
 * resuming a running one.
 *
 * log_fd: stdio that CRIU can carry over is /dev/null or an anonymous pipe (its new end on restore is log_fd again). An ordinary container
 * whose log_fd is a file of the host cannot be checkpointed. A nested one may have any.
 */
#ifndef FM_CONTAINER_RUNTIME_H
#define FM_CONTAINER_RUNTIME_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "basic/error.h"

enum fm_container_status { FM_CONTAINER_UNKNOWN, FM_CONTAINER_CREATED, FM_CONTAINER_RUNNING, FM_CONTAINER_PAUSED, FM_CONTAINER_STOPPED };
const char *fm_container_status_to_string(enum fm_container_status s); /* lower case */

struct fm_instance {
	char id[128];
	enum fm_container_status status;
	pid_t pid; /* host pid of its PID 1; 0 when stopped */
	char bundle[4096];
	char owner_name[64]; /* annotation org.fleximigrate.name, "" when it is not ours */
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

struct fm_runtime; /* program, root folder, criu wrapper */

struct fm_runtime_ops {
	const char *name;
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
	void (*free)(struct fm_runtime *rt);
};
struct fm_runtime {
	const struct fm_runtime_ops *ops;
};

/* program "runc" (PATH), root "/run/runc" …, criu: wrapper path given to --criu; may be NULL until a checkpoint. */
int fm_runtime_runc_new(const char *program, const char *root, const char *criu, struct fm_runtime **ret, struct fm_error *err);
static inline void fm_runtime_free(struct fm_runtime *rt)
{
	if (rt)
		rt->ops->free(rt);
}

#endif
