/* SPDX-License-Identifier: MIT */
/*
 * volumes.h - writable bind mounts whose content travels with a container, as facts on this host: which they are, what stands in the way, and what is remembered of them.
 *
 * A volume has the same path on every host. What is remembered (a *record*, one file a path in <state>/volumes/, written durably) answers two questions later:
 *   made   was this folder made by a migration? Then it goes with the container when that moves on, as a received root filesystem does. What an administrator made is never removed.
 *   left   did the container leave it here, and is it still exactly as it was left (digest)? Only then may the container, when it comes back, put its own in the place.
 * Everything else that is found at a volume's path on a destination is somebody's, and the migration is refused.
 *
 * The record of one migration holds the one before it, so that a rollback after the commit can put it back. Functions are thread-safe; two migrations of one container do not write at the same time.
 */
#ifndef FM_MIGRATION_VOLUMES_H
#define FM_MIGRATION_VOLUMES_H

#include <jansson.h>

#include "migration/instances.h"

#define FM_VOLUME_ID_LEN 63

struct fm_volume {
	char *path;    /* on the host, as in config.json but without needless slashes */
	char *where;   /* the same with links resolved, where it exists */
	char *target;  /* in the container */
	char *lineage; /* "": never moved */
	bool file;
	uint64_t bytes;
};
struct fm_volumes {
	struct fm_volume *v;
	size_t n;
};
void fm_volumes_done(struct fm_volumes *vs);

/* The container's volumes that travel, and why they cannot (blockers: strv, may be NULL). measure: also bytes, which means walking them. */
int fm_volumes_find(struct fm_host *h, const struct fm_local *l, bool measure, struct fm_volumes *ret, char ***blockers,
                    struct fm_error *err);
/* Where an instance's writable bind mounts are, whether they travel or not (strv, added to *ret). */
void fm_volumes_paths(struct fm_host *h, const char *instance, char ***ret);
/* Label fleximigrate.volumes: "shared" (all) or "shared:/data,/other" (these, by their path in the container) do not travel. Anything else is INVALID_ARGUMENT. */
int fm_volumes_label(const FM_PB(Container) * c, char *const *targets, bool *ret_all, char ***ret_shared, struct fm_error *err);
/* Without doubled, trailing and "." parts; NULL when it is not absolute or has "..". */
char *fm_volume_path_clean(const char *path);
/*
 * Mount points that are files, by their path in the root filesystem (strv, added to *ret). They must not travel with it: a receiver makes files anew, and removing a file takes what is mounted on it in other mount
 * namespaces, the new container's, away. The runtime makes them where they are missing.
 */
void fm_file_mount_points(const struct fm_bundle_info *info, char ***ret);
/* Same or one in the other */
bool fm_paths_overlap(const char *a, const char *b);
/* Does another container on this host have it mounted, in part or as part of something? name: whose. */
bool fm_volume_is_used(struct fm_host *h, const char *where, const char *container, char *name, size_t cap);

/* Which file or folder this is, whatever becomes of its name: inode and time of birth (the device's number changes with a restart). NOT_FOUND. */
int fm_volume_identity(const char *path, char ret[FM_VOLUME_ID_LEN + 1], struct fm_error *err);
bool fm_volume_is(const char *path, const char *identity);
/* Nothing in it (a file: empty); lost+found of a file system that was just made does not count. */
int fm_volume_is_empty(const char *path, bool *ret, struct fm_error *err);
/* Remove what is in it (a file: make it empty), but not itself, nor lost+found. */
int fm_volume_empty(const char *path, struct fm_error *err);

/*
 * Records: {path, container, migration, lineage, id, made, left, digest, keep, top, before}. id: fm_volume_identity; keep: the folder itself was there before; top: the outermost folder that was made
 * for it. NULL: none, or it cannot be read, which means the same: not ours.
 */
json_t *fm_volume_record(struct fm_host *h, const char *where);
/* Takes r; `before` becomes the record there is (without its own `before`), unless that is of the same migration and kind already: then nothing is done. */
int fm_volume_record_put(struct fm_host *h, const char *where, json_t *r, struct fm_error *err);
/* Back to what was before this migration wrote its record; nothing when that is another's. */
int fm_volume_record_revert(struct fm_host *h, const char *where, const char *migration, struct fm_error *err);
int fm_volume_record_drop(struct fm_host *h, const char *where, struct fm_error *err);
/* All of them: an array, never NULL */
json_t *fm_volume_records(struct fm_host *h);
/* The container was removed by its user: its volumes here are the user's now. */
void fm_volumes_forget(struct fm_host *h, const char *container);

#endif
