/* SPDX-License-Identifier: MIT */
/* cgroup.h - the cgroups the runtime makes for our instances (v1, hybrid and v2): only what the runtime does not do itself. */
#ifndef FM_CONTAINER_CGROUP_H
#define FM_CONTAINER_CGROUP_H

/* The runtime removes an instance's own cgroup and leaves the folders above it. Remove `path` ("/fleximigrate/HOST") and its parents, in every hierarchy mounted here,
 * as far as they are empty. Best effort: a cgroup in use stays. */
void fm_cgroup_prune(const char *path);

#endif
