/* SPDX-License-Identifier: MIT */
/*
 * bundle.h - OCI bundles: read and check what the user wrote, and make the instance's own bundle from it.
 *
 * The user's bundle is never modified. An instance has a folder <instances>/<instance>/ with bundle/config.json, log (empty), nest/
 * (the control folder, bind-mounted into a nested parent at /.fleximigrate/run) and, where the root filesystem was received from another
 * host, rootfs/ (may exist before the instance is made). The runtime makes the mount points /.fleximigrate/{nest,run}
 * in the root filesystem.
 *
 * Nested: process.args become {"/.fleximigrate/nest", "--", original args…}; mounts gain the nest binary (read-only, nosuid,
 * nodev), the control folder and nothing else; everything else (user, env, cwd, capabilities, namespaces, resources) stays as written. A
 * network namespace path is set; pid, mount, ipc, uts namespaces must be private, else INVALID_ARGUMENT with the reason. A terminal must
 * not be asked for (nested or not), and bind mounts need absolute sources: the instance's bundle is another folder than the user's.
 */
#ifndef FM_CONTAINER_BUNDLE_H
#define FM_CONTAINER_BUNDLE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "basic/error.h"

#define FM_NEST_MOUNT           "/.fleximigrate/nest"
#define FM_NEST_RUN_MOUNT       "/.fleximigrate/run"
#define FM_ANNOTATION_NAME      "org.fleximigrate.name"
#define FM_ANNOTATION_KIND      "org.fleximigrate.kind"
#define FM_ANNOTATION_MIGRATION "org.fleximigrate.migration"
#define FM_ANNOTATION_INSTANCE  "org.fleximigrate.instance" /* engines that give ids of their own know ours by it */

struct fm_bundle_info {
	char *rootfs;     /* absolute */
	char *netns_path; /* linux.namespaces network path, "" private, NULL host's network */
	uint64_t memory_limit_bytes;
	uid_t uid;
	gid_t gid; /* process.user */
	bool terminal;
	bool cgroup_namespace; /* one of its own */
	char **args;
	char **volumes;        /* host paths bind-mounted read-write … */
	char **volume_targets; /* … and where in the container, in the same order */
	char **read_only;      /* host paths bind-mounted read-only … */
	char **read_only_targets;
};
void fm_bundle_info_done(struct fm_bundle_info *i);

/*
 * Reads <bundle>/config.json (<= FM_MAX_CONFIG_BYTES, jansson with duplicate keys rejected, depth limited). Malformed is INVALID_ARGUMENT
 * with line and column or the missing member's name. The root filesystem must exist (only here, not in fm_bundle_parse).
 */
int fm_bundle_read(const char *bundle, char **ret_config, struct fm_bundle_info *ret, struct fm_error *err);
/* The same for a config given as text; rootfs relative to base. */
int fm_bundle_parse(const char *config, const char *base, struct fm_bundle_info *ret, struct fm_error *err);

struct fm_instance_spec {
	const char *instances_dir; /* <state>/instances */
	const char *instance;
	const char *name;         /* the container's */
	const char *config;       /* user's config.json text */
	const char *rootfs;       /* absolute path to use as root */
	const char *netns_path;   /* NULL = as written */
	const char *cgroup_path;  /* linux.cgroupsPath, e.g. "/fleximigrate/src/redis" */
	const char *migration_id; /* annotation while incoming, or NULL */
	bool nested;
	bool wait; /* nested: the parent waits, for a tree that will be adopted or for the word to start the application (mark in the control folder) */
	const char *nest_binary; /* host path of fleximigrate-nest */
};
/* Writes the folder and returns the bundle path (malloc). Fails before writing anything when the config is unusable. ALREADY_EXISTS when
 * there is such an instance. */
int fm_bundle_make_instance(const struct fm_instance_spec *s, char **ret_bundle, struct fm_error *err);
int fm_bundle_remove_instance(const char *instances_dir, const char *instance, struct fm_error *err);

#endif
