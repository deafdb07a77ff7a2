/* SPDX-License-Identifier: MIT */
/* runtime-containerd-internal.h - what the parts of the containerd driver share: OCI configurations as containerd has them (-spec.c), and the thread that listens to events (-watch.c). */
#ifndef FM_CONTAINER_RUNTIME_CONTAINERD_INTERNAL_H
#define FM_CONTAINER_RUNTIME_CONTAINERD_INTERNAL_H

#include "containerd.pb-c.h"
#include "container/runtime-containerd.h"

/* ---- -spec.c: texts from containerd, which may be anything */

struct fm_containerd_spec {
	char *json;    /* the bundle's config with the root that the shim mounts, "rootfs" */
	char *rootfs;  /* the bundle's own, absolute */
	char **labels; /* key, value, key, value, …: annotations of ours; NULL none */
};
void fm_containerd_spec_done(struct fm_containerd_spec *s);
/* INVALID_ARGUMENT what cannot be used; FAILED_PRECONDITION when there is no such bundle, or no root in it. */
int fm_containerd_spec_of_bundle(const char *bundle, struct fm_containerd_spec *ret, struct fm_error *err);

/* Whether the first argument of the process is the nest; false also for what is no configuration. */
bool fm_containerd_spec_is_nested(const FmCtrdAny *spec);
/* As fm_runtime_ops.describe says. rootfs: absolute path on the host. */
int fm_containerd_describe(const FmCtrdContainer *container, const char *rootfs, char **ret_config, struct fm_error *err);
/* Where the root filesystem of a running container is mounted on the host: malloc'ed path. */
int fm_containerd_root_of(const char *container_id, pid_t pid, char **ret, struct fm_error *err);

const char *fm_containerd_label(const FmCtrdContainer *container, const char *key); /* NULL: none */

/* ---- -watch.c */

struct fm_containerd_watch;
/* Subscribes to what happens in these namespaces, in a thread of its own, again and again until free. Both are borrowed until then. */
int fm_containerd_watch_new(const struct fm_containerd_transport *t, char *const *namespaces, struct fm_containerd_watch **ret,
                            struct fm_error *err);
int fm_containerd_watch_fd(const struct fm_containerd_watch *w);
void fm_containerd_watch_free(struct fm_containerd_watch *w); /* waits for the thread: a call that is under way, 2 s at most */

#define FM_CONTAINERD_VERSION "/containerd.services.version.v1.Version/Version"

#endif
