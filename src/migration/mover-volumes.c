/* SPDX-License-Identifier: MIT */
/*
 * mover-volumes.c - volumes on their way; what they are is in volumes.h.
 *
 * Destination. Preparation looks and refuses before anything is changed. A volume is received beside its place, into `<path>.fleximigrate-<migration>-new`, and gets its name when the first pass is on the disk,
 * just before the parent container is made. Three kinds of place:
 *   nothing there            renamed into it, never over something
 *   an empty folder (or file) of an administrator, which may be a mount point: received into it; undoing empties it and gives it back its owner and mode
 *   what this container left there, unchanged since: set aside as `…-old` first; removed when the migration is over, put back when it is undone
 * Undoing removes by identity (inode and birth), so it never meets what is not from us.
 *
 * Source. Its copy stays untouched. Before the commit is on record its digest is, so that what is noted there is durable with it. Released, a copy that a migration had made here is removed, provided nobody has
 * changed anything in it since the freeze and no other container uses it; any other is kept, and remembered as left.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "migration/mover-internal.h"

#define SEND_TIMEOUT_MS 30000
#define NOTE            "volumes" /* journal: what is here of each, as an array */

static void json_freep(json_t **p)
{
	json_decref(*p);
}
#define _fm_json_ _fm_cleanup_(json_freep)

static const char *text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s ? s : "";
}

/* Takes o. */
static int intent(struct fm_mover *m, const char *what, json_t *o, struct fm_error *err)
{
	_fm_free_ char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	json_decref(o);
	if (!text)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a volume's path cannot be written down (it is not UTF-8)");
	return fm_journal_intent(m->journal, what, text, true, err);
}

static json_t *noted(struct fm_mover *m)
{
	const char *text = m->journal ? fm_journal_get(m->journal, NOTE) : NULL;
	json_t *all = text ? json_loads(text, JSON_REJECT_DUPLICATES, NULL) : NULL;
	return all ? all : json_array();
}

static int note(struct fm_mover *m, const json_t *all, struct fm_error *err)
{
	_fm_free_ char *text = json_dumps(all, JSON_COMPACT);
	if (!text)
		return fm_error_set(err, FM_E_INVALID_ARGUMENT, "a volume's path cannot be written down (it is not UTF-8)");
	return fm_journal_note(m->journal, NOTE, text, err);
}

void fm_mover_volumes_done(struct fm_mover *m)
{
	for (size_t i = 0; i < m->volumes.n; i++) {
		if (m->volume_manifests)
			fm_manifest_free(m->volume_manifests[i]);
		if (m->places) {
			free(m->places[i].staging);
			free(m->places[i].aside);
			free(m->places[i].top);
		}
	}
	free(m->volume_manifests);
	free(m->places);
	m->volume_manifests = NULL;
	m->places = NULL;
	fm_volumes_done(&m->volumes);
}

/* ---------------------------------------------------------------- source */

int fm_volumes_prepare_source(struct fm_mover *m, struct fm_error *err)
{
	_fm_cleanup_(fm_strv_freep) char **blockers = NULL;
	if (fm_volumes_find(m->h, &m->local, false, &m->volumes, &blockers, err) < 0)
		return -1;
	if (blockers && blockers[0])
		return fm_error_set(err, FM_E_FAILED_PRECONDITION, "container '%s' cannot be moved: %s", m->container, blockers[0]);
	m->volume_manifests = calloc(m->volumes.n ? m->volumes.n : 1, sizeof(struct fm_manifest *));
	return m->volume_manifests ? 0 : fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
}

int fm_volumes_send(struct fm_mover *m, unsigned pass, bool last, int timeout_ms, uint64_t *ret_bytes, struct fm_error *err)
{
	for (size_t i = 0; i < m->volumes.n; i++) {
		const struct fm_volume *v = &m->volumes.v[i];
		struct fm_manifest *now = NULL;
		uint64_t bytes = 0;
		if (fm_stream_send(m->control, FM_FRAME_VOLUME, i, pass, v->path, strlen(v->path),
		                   timeout_ms < SEND_TIMEOUT_MS ? timeout_ms : SEND_TIMEOUT_MS, err) < 0)
			return -1;
		int rc = last ? fm_filetree_send_last(m->control, v->where, NULL, m->volume_manifests[i], pass, &now, &bytes, timeout_ms,
		                                      fm_mover_cancel_fd(m), err)
		              : fm_filetree_send(m->control, v->where, NULL, m->volume_manifests[i], pass, &now, &bytes, timeout_ms,
		                                 fm_mover_cancel_fd(m), err);
		if (rc < 0)
			return fm_error_prefix(err, "cannot send the volume %s", v->path);
		fm_manifest_free(m->volume_manifests[i]);
		m->volume_manifests[i] = now;
		*ret_bytes += bytes;
	}
	return 0;
}

int fm_volumes_note_sent(struct fm_mover *m, struct fm_error *err)
{
	_fm_json_ json_t *all = json_array();
	if (m->volumes.n == 0)
		return 0;
	for (size_t i = 0; i < m->volumes.n; i++) {
		const struct fm_volume *v = &m->volumes.v[i];
		char digest[FM_MANIFEST_DIGEST_LEN + 1], id[FM_VOLUME_ID_LEN + 1];
		if (fm_volume_identity(v->where, id, err) < 0)
			return -1;
		fm_manifest_digest(m->volume_manifests[i], digest);
		(void)json_array_append_new(all, json_pack("{s:s, s:s, s:s, s:s}", "path", v->where, "id", id, "digest", digest, "lineage",
		                                           v->lineage[0] ? v->lineage : m->id));
	}
	return note(m, all, err);
}

/* Was it made by the migration that brought this container here? */
static bool was_made(const json_t *old, const struct fm_mover *m, const char *id)
{
	return old && json_is_true(json_object_get(old, "made")) && !json_is_true(json_object_get(old, "left")) &&
	       fm_streq(text_of(old, "container"), m->container) && fm_streq(text_of(old, "id"), id);
}

void fm_volumes_left(struct fm_mover *m)
{
	_fm_json_ json_t *all = noted(m);
	json_t *v;
	size_t i;
	json_array_foreach(all, i, v)
	{
		struct fm_error e = FM_ERROR_INIT;
		const char *path = text_of(v, "path");
		if (!fm_volume_is(path, text_of(v, "id")))
			continue; /* carried back meanwhile: another is in its place */
		_fm_json_ json_t *old = fm_volume_record(m->h, path);
		bool made = was_made(old, m, text_of(v, "id"));
		json_t *r = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:b, s:b, s:b, s:s}", "path", path, "container", m->container,
		                      "migration", m->id, "lineage", text_of(v, "lineage"), "id", text_of(v, "id"), "digest",
		                      text_of(v, "digest"), "left", 1, "made", made, "keep",
		                      made && json_is_true(json_object_get(old, "keep")), "top", made ? text_of(old, "top") : path);
		if (!r || fm_volume_record_put(m->h, path, r, &e) < 0)
			fm_mover_note(m, "what is left of the volume %s could not be noted (%s)", path, e.message);
	}
}

static bool is_unchanged(const char *path, const char *digest)
{
	struct fm_manifest *now = NULL;
	char text[FM_MANIFEST_DIGEST_LEN + 1] = "";
	if (!digest[0] || fm_filetree_look(path, &now, -1, NULL) < 0)
		return false;
	fm_manifest_digest(now, text);
	fm_manifest_free(now);
	return fm_streq(text, digest);
}

/* Once this is on record the removal is going to be finished, whatever happens in the middle of it. */
int fm_volumes_release_source(struct fm_mover *m, struct fm_error *err)
{
	_fm_json_ json_t *all = noted(m);
	json_t *v;
	size_t i;
	fm_volumes_left(m); /* should the agent have died between the commit and that */
	json_array_foreach(all, i, v)
	{
		const char *path = text_of(v, "path");
		_fm_json_ json_t *r = fm_volume_record(m->h, path);
		if (!r || !fm_streq(text_of(r, "migration"), m->id) || !json_is_true(json_object_get(r, "left")) ||
		    !json_is_true(json_object_get(r, "made")) || !fm_volume_is(path, text_of(r, "id")))
			continue; /* an administrator's, or one that has come back by a rollback */
		if (!is_unchanged(path, text_of(r, "digest")) || fm_volume_is_used(m->h, path, m->container, NULL, 0)) {
			fm_mover_note(m, "the old copy of the volume %s stays on '%s': it is in use, or was changed after the freeze", path,
			              m->h->name);
			continue;
		}
		if (intent(m, "volume-gone",
		           json_pack("{s:s, s:s, s:b, s:s}", "path", path, "id", text_of(r, "id"), "keep",
		                     json_is_true(json_object_get(r, "keep")), "top", text_of(r, "top")),
		           err) < 0)
			return -1;
	}
	return 0;
}

void fm_volumes_revert(struct fm_mover *m)
{
	_fm_json_ json_t *all = noted(m);
	json_t *v;
	size_t i;
	json_array_foreach(all, i, v)(void) fm_volume_record_revert(m->h, text_of(v, "path"), m->id, NULL);
}

/* ---------------------------------------------------------------- destination: looking */

static bool is_bind_of(char *const *sources, const char *path)
{
	for (; sources && *sources; sources++) {
		_fm_free_ char *clean = fm_volume_path_clean(*sources);
		if (fm_streq(clean, path))
			return true;
	}
	return false;
}

/* The manager says which volumes travel; only what config.json mounts can be one. */
static int take_request(struct fm_mover *m, struct fm_error *err)
{
	struct fm_bundle_info info __attribute__((cleanup(fm_bundle_info_done))) = { 0 };
	size_t n = m->request->n_volumes;
	if (n > FM_MAX_VOLUMES)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "%zu volumes, more than %d", n, FM_MAX_VOLUMES);
	if (fm_bundle_parse(m->config, "/", &info, err) < 0)
		return -1;
	m->volumes.v = calloc(n ? n : 1, sizeof(*m->volumes.v));
	m->places = calloc(n ? n : 1, sizeof(*m->places));
	if (!m->volumes.v || !m->places)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	for (size_t i = 0; i < n; i++) {
		const FM_PB(Volume) *w = m->request->volumes[i];
		struct fm_volume *v = &m->volumes.v[m->volumes.n++];
		*v = (struct fm_volume){ .path = fm_volume_path_clean(w->path),
			                 .target = fm_xstrdup(w->target),
			                 .lineage = fm_xstrdup(w->lineage),
			                 .file = w->file,
			                 .bytes = w->bytes };
		if (!v->path || !fm_streq(v->path, w->path) || !is_bind_of(info.volumes, v->path))
			return fm_error_set(err, FM_E_INVALID_ARGUMENT, "config.json has no writable bind mount of '%s'", w->path);
		v->where = realpath(v->path, NULL);
		if (!v->where)
			v->where = fm_xstrdup(v->path);
		for (size_t k = 0; k + 1 < m->volumes.n; k++)
			if (fm_paths_overlap(m->volumes.v[k].where, v->where))
				return fm_error_set(err, FM_E_INVALID_ARGUMENT, "volumes %s and %s overlap", m->volumes.v[k].where,
				                    v->where);
		if (fm_paths_overlap(v->where, m->h->state_dir) || fm_paths_overlap(v->where, m->h->run_dir))
			return fm_error_set(err, FM_E_FAILED_PRECONDITION, "volume %s would contain the agent's own folders on '%s'",
			                    v->path, m->h->name);
	}
	return 0;
}

static bool is_mount_point(const char *path)
{
	struct statx x;
	return statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_TYPE, &x) == 0 &&
	       (x.stx_attributes & STATX_ATTR_MOUNT_ROOT);
}

/* What the container left here, when it left for where it comes from now, and nobody has touched since. *why: what speaks against it. */
static bool has_come_home(struct fm_mover *m, const struct fm_volume *v, const char **why)
{
	_fm_json_ json_t *r = fm_volume_record(m->h, v->where);
	*why = "";
	if (!r || !json_is_true(json_object_get(r, "left")) || !fm_streq(text_of(r, "container"), m->container))
		return false;
	*why = ": an older copy of another volume of this name";
	if (!v->lineage[0] || !fm_streq(text_of(r, "lineage"), v->lineage))
		return false;
	*why = ": the copy that the container left here, but it was changed since";
	if (!fm_volume_is(v->where, text_of(r, "id")) || !is_unchanged(v->where, text_of(r, "digest")))
		return false;
	*why = ": the copy that the container left here, but a mount point cannot be set aside";
	return !is_mount_point(v->where);
}

static int refuse(struct fm_mover *m, const struct fm_volume *v, const char *why, struct fm_error *err)
{
	(void)fm_error_set(err, FM_E_FAILED_PRECONDITION, "host '%s' has something at %s already, where a volume of '%s' belongs%s",
	                   m->h->name, v->path, m->container, why);
	return fm_error_hint(err,
	                     "look at it and move it away on '%s'; if both hosts have the same storage there: label "
	                     "fleximigrate.volumes=shared:%.64s",
	                     m->h->name, v->target);
}

static int look(struct fm_mover *m, size_t i, struct fm_error *err)
{
	const struct fm_volume *v = &m->volumes.v[i];
	struct fm_volume_place *p = &m->places[i];
	struct stat st;
	const char *why = "";
	bool empty = false;
	p->staging = fm_xasprintf("%s.fleximigrate-%s-new", v->where, m->id);
	p->top = fm_xstrdup(v->where);
	if (lstat(v->where, &st) < 0)
		return errno == ENOENT ? 0 : fm_error_errno(err, errno, "cannot look at %s on '%s'", v->path, m->h->name);
	if (v->file ? !S_ISREG(st.st_mode) : !S_ISDIR(st.st_mode))
		return refuse(m, v, v->file ? ": not a regular file" : ": not a folder", err);
	if (fm_volume_is_empty(v->where, &empty, err) < 0)
		return -1;
	p->fill = empty;
	if (empty)
		return 0;
	if (!has_come_home(m, v, &why))
		return refuse(m, v, why, err);
	p->aside = fm_xasprintf("%s.fleximigrate-%s-old", v->where, m->id);
	return 0;
}

struct need {
	char path[FM_MAX_PATH]; /* that exists */
	uint64_t bytes;
	unsigned long fs;
	uint64_t free;
};

static int nearest(const char *path, struct need *n, struct fm_error *err)
{
	struct statvfs fs;
	(void)snprintf(n->path, sizeof(n->path), "%s", path);
	while (statvfs(n->path, &fs) < 0) {
		char *slash = strrchr(n->path, '/');
		if (errno != ENOENT || !slash)
			return fm_error_errno(err, errno, "cannot read the free space of %s", path);
		slash[slash == n->path ? 1 : 0] = '\0';
	}
	n->fs = fs.f_fsid;
	n->free = (uint64_t)fs.f_bavail * fs.f_frsize;
	return 0;
}

/* Root filesystem and volumes may share a disk, or each have one. */
static int check_space(struct fm_mover *m, struct fm_error *err)
{
	struct need first = { 0 }, one = { 0 };
	char need[32], have[32];
	for (size_t i = 0; i < m->volumes.n; i++) {
		uint64_t bytes = 0;
		if (nearest(m->volumes.v[i].where, &first, err) < 0)
			return -1;
		for (size_t k = 0; k < m->volumes.n; k++) {
			if (nearest(m->volumes.v[k].where, &one, err) < 0)
				return -1;
			bytes += one.fs == first.fs ? m->volumes.v[k].bytes : 0;
		}
		if (nearest(m->h->instances_dir, &one, err) < 0)
			return -1;
		bytes += one.fs == first.fs ? m->request->rootfs_bytes : 0;
		if (bytes > first.free) {
			(void)fm_error_set(err, FM_E_RESOURCE_EXHAUSTED,
			                   "the volume %s and what else goes to that disk need %s, '%s' has %s there", m->volumes.v[i].path,
			                   fm_format_bytes(bytes, need, sizeof(need)), m->h->name,
			                   fm_format_bytes(first.free, have, sizeof(have)));
			return fm_error_hint(err, "make room on '%s', or mount a larger disk there", m->h->name);
		}
	}
	return 0;
}

/* ---------------------------------------------------------------- destination: receiving */

static int make_parents(struct fm_mover *m, const char *where, char **top, struct fm_error *err)
{
	_fm_free_ char *path = fm_xstrdup(where);
	bool first = true;
	for (char *p = strchr(path + 1, '/'); p; p = strchr(p + 1, '/')) {
		*p = '\0';
		if (!fm_path_exists(path)) {
			if (first) {
				free(*top);
				*top = fm_xstrdup(path);
			}
			first = false;
			if (fm_journal_intent(m->journal, "volume-parent", path, true, err) < 0)
				return -1;
			if (mkdir(path, 0755) < 0 && errno != EEXIST)
				return fm_error_errno(err, errno, "cannot create %s", path);
		}
		*p = '/';
	}
	return 0;
}

static int begin_place(struct fm_mover *m, size_t i, struct fm_error *err)
{
	const struct fm_volume *v = &m->volumes.v[i];
	struct fm_volume_place *p = &m->places[i];
	struct stat st;
	if (p->fill) {
		char id[FM_VOLUME_ID_LEN + 1];
		if (stat(v->where, &st) < 0)
			return fm_error_errno(err, errno, "cannot look at %s", v->where);
		if (fm_volume_identity(v->where, id, err) < 0)
			return -1;
		return intent(m, "volume-fill",
		              json_pack("{s:s, s:s, s:I, s:I, s:I, s:I}", "path", v->where, "id", id, "mode",
		                        (json_int_t)(st.st_mode & 07777), "uid", (json_int_t)st.st_uid, "gid", (json_int_t)st.st_gid,
		                        "mtime", (json_int_t)st.st_mtim.tv_sec),
		              err);
	}
	if (make_parents(m, v->where, &p->top, err) < 0 || fm_journal_intent(m->journal, "volume-staging", p->staging, true, err) < 0)
		return -1;
	if (!v->file)
		return mkdir(p->staging, 0700) < 0 ? fm_error_errno(err, errno, "cannot create %s", p->staging) : 0;
	_fm_close_ int fd = open(p->staging, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	return fd < 0 ? fm_error_errno(err, errno, "cannot create %s", p->staging) : 0;
}

static int make_room(struct fm_mover *m, struct fm_error *err)
{
	if (take_request(m, err) < 0)
		return -1;
	for (size_t i = 0; i < m->volumes.n; i++)
		if (look(m, i, err) < 0)
			return -1;
	if (check_space(m, err) < 0)
		return -1;
	for (size_t i = 0; i < m->volumes.n; i++)
		if (begin_place(m, i, err) < 0)
			return -1;
	return 0;
}

int fm_volumes_prepare_destination(struct fm_mover *m, struct fm_error *err)
{
	return make_room(m, err) < 0 ? fm_error_phase(err, "files") : 0;
}

int fm_volumes_receive(struct fm_mover *m, uint8_t *buf, bool durable, int timeout_ms, struct fm_error *err)
{
	for (size_t i = 0; i < m->volumes.n; i++) {
		const struct fm_volume *v = &m->volumes.v[i];
		const struct fm_volume_place *p = &m->places[i];
		struct fm_frame_header h;
		if (fm_stream_expect(m->control, FM_FRAME_VOLUME, &h, buf, FM_MAX_FRAME_BYTES, timeout_ms, m->stop.fd, err) < 0)
			return -1;
		if (h.a != i || h.length != strlen(v->path) || memcmp(buf, v->path, h.length) != 0)
			return fm_error_set(err, FM_E_DATA_LOSS, "the source sends another volume than %s", v->path);
		if (fm_filetree_recv(m->control, p->fill || p->placed ? v->where : p->staging, durable, FM_MAX_VOLUME_BYTES, timeout_ms,
		                     m->stop.fd, err) < 0)
			return fm_error_prefix(err, "volume %s", v->path);
	}
	return 0;
}

/* ---------------------------------------------------------------- destination: into place */

static int rename_to_nothing(const char *from, const char *to, struct fm_error *err)
{
	if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
		return 0;
	return fm_error_errno(err, errno, "cannot rename %s to %s", from, to);
}

static int place(struct fm_mover *m, size_t i, struct fm_error *err)
{
	const struct fm_volume *v = &m->volumes.v[i];
	struct fm_volume_place *p = &m->places[i];
	char id[FM_VOLUME_ID_LEN + 1];
	if (p->fill)
		return 0;
	if (p->aside) {
		if (fm_volume_identity(v->where, id, err) < 0 ||
		    intent(m, "volume-aside", json_pack("{s:s, s:s, s:s}", "path", v->where, "aside", p->aside, "id", id), err) < 0 ||
		    rename_to_nothing(v->where, p->aside, err) < 0)
			return -1;
	}
	if (fm_volume_identity(p->staging, id, err) < 0 ||
	    intent(m, "volume-at", json_pack("{s:s, s:s}", "path", v->where, "id", id), err) < 0 ||
	    rename_to_nothing(p->staging, v->where, err) < 0)
		return -1;
	p->placed = true;
	return 0;
}

int fm_volumes_place(struct fm_mover *m, struct fm_error *err)
{
	_fm_json_ json_t *all = json_array();
	for (size_t i = 0; i < m->volumes.n; i++) {
		const struct fm_volume *v = &m->volumes.v[i];
		char id[FM_VOLUME_ID_LEN + 1];
		if (place(m, i, err) < 0 || fm_volume_identity(v->where, id, err) < 0)
			return -1;
		(void)json_array_append_new(all, json_pack("{s:s, s:s, s:s, s:b, s:s}", "path", v->where, "id", id, "lineage",
		                                           v->lineage[0] ? v->lineage : m->id, "keep", m->places[i].fill, "top",
		                                           m->places[i].top));
	}
	return m->volumes.n ? note(m, all, err) : 0;
}

void fm_volumes_came(struct fm_mover *m)
{
	_fm_json_ json_t *all = noted(m);
	json_t *v;
	size_t i;
	json_array_foreach(all, i, v)
	{
		struct fm_error e = FM_ERROR_INIT;
		const char *path = text_of(v, "path");
		_fm_json_ json_t *old = fm_volume_record(m->h, path);
		bool left_again = old && json_is_true(json_object_get(old, "left")) && fm_streq(text_of(old, "id"), text_of(v, "id"));
		json_t *r = !left_again && fm_volume_is(path, text_of(v, "id"))
		                    ? json_pack("{s:s, s:s, s:s, s:s, s:s, s:b, s:b, s:b, s:s}", "path", path, "container", m->container,
		                                "migration", m->id, "lineage", text_of(v, "lineage"), "id", text_of(v, "id"), "left", 0,
		                                "made", 1, "keep", json_is_true(json_object_get(v, "keep")), "top", text_of(v, "top"))
		                    : NULL;
		if (r && fm_volume_record_put(m->h, path, r, &e) < 0)
			fm_mover_note(m, "that the volume %s has come could not be noted (%s)", path, e.message);
	}
}

/* What was written inside the freeze is in memory only; the source may free its copy after this. */
int fm_volumes_sync(struct fm_mover *m, struct fm_error *err)
{
	_fm_json_ json_t *all = noted(m);
	json_t *v;
	size_t i;
	json_array_foreach(all, i, v)
	{
		_fm_close_ int fd = open(text_of(v, "path"), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		if (fd < 0 || syncfs(fd) < 0)
			return fm_error_errno(err, errno, "cannot write the volume %s to disk", text_of(v, "path"));
	}
	return 0;
}

int fm_volumes_release_destination(struct fm_mover *m, struct fm_error *err)
{
	static const char *const theirs[] = { "volume-parent", "volume-at", "volume-fill" }; /* the container's now */
	for (size_t i = 0; i < FM_ARRAY_SIZE(theirs); i++)
		if (fm_journal_forget(m->journal, theirs[i], err) < 0)
			return -1;
	return 0;
}

/* ---------------------------------------------------------------- undoing, of both sides */

static int undo_aside(struct fm_mover *m, const json_t *o, struct fm_error *err)
{
	const char *aside = text_of(o, "aside");
	if (!fm_volume_is(aside, text_of(o, "id")))
		return 0; /* not done, or undone */
	if (fm_journal_decision(m->journal) == FM_DECISION_RELEASED)
		return fm_remove_tree(aside, err);
	return rename_to_nothing(aside, text_of(o, "path"), err);
}

static int undo_at(const json_t *o, struct fm_error *err)
{
	return fm_volume_is(text_of(o, "path"), text_of(o, "id")) ? fm_remove_tree(text_of(o, "path"), err) : 0;
}

static int undo_fill(const json_t *o, struct fm_error *err)
{
	const char *path = text_of(o, "path");
	struct timespec t[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = (time_t)json_integer_value(json_object_get(o, "mtime")) } };
	if (!fm_volume_is(path, text_of(o, "id")))
		return 0;
	if (fm_volume_empty(path, err) < 0)
		return -1;
	if (chown(path, (uid_t)json_integer_value(json_object_get(o, "uid")), (gid_t)json_integer_value(json_object_get(o, "gid"))) < 0 ||
	    chmod(path, (mode_t)json_integer_value(json_object_get(o, "mode"))) < 0 || utimensat(AT_FDCWD, path, t, 0) < 0)
		return fm_error_errno(err, errno, "cannot give %s back its owner and mode", path);
	return 0;
}

/* Folders that were made for it, from the inside out, as far as nobody else uses them */
static void remove_parents(const char *path, const char *top)
{
	_fm_free_ char *p = fm_xstrdup(path);
	for (char *slash = strrchr(p, '/'); slash && slash != p; slash = strrchr(p, '/')) {
		*slash = '\0';
		if (!fm_str_startswith(p, top) || rmdir(p) < 0)
			return;
	}
}

static int undo_gone(struct fm_mover *m, const json_t *o, struct fm_error *err)
{
	const char *path = text_of(o, "path");
	bool keep = json_is_true(json_object_get(o, "keep"));
	if (fm_volume_is(path, text_of(o, "id")) && (keep ? fm_volume_empty(path, err) : fm_remove_tree(path, err)) < 0)
		return -1;
	if (!keep)
		remove_parents(path, text_of(o, "top"));
	_fm_json_ json_t *r = fm_volume_record(m->h, path);
	if (r && fm_streq(text_of(r, "migration"), m->id) && fm_volume_record_drop(m->h, path, err) < 0)
		return -1;
	return 0;
}

int fm_volumes_undo(struct fm_mover *m, const char *what, const char *arg, struct fm_error *err)
{
	if (fm_streq(what, "volume-parent"))
		return rmdir(arg) == 0 || errno == ENOENT || errno == ENOTEMPTY || errno == EEXIST || errno == EBUSY
		               ? 0
		               : fm_error_errno(err, errno, "cannot remove the folder %s", arg);
	if (fm_streq(what, "volume-staging"))
		return fm_remove_tree(arg, err);
	_fm_json_ json_t *o = json_loads(arg, JSON_REJECT_DUPLICATES, NULL);
	if (!o)
		return fm_error_set(err, FM_E_DATA_LOSS, "the journal's word about a volume cannot be read");
	if (fm_streq(what, "volume-aside"))
		return undo_aside(m, o, err);
	if (fm_streq(what, "volume-at"))
		return undo_at(o, err);
	if (fm_streq(what, "volume-fill"))
		return undo_fill(o, err);
	if (fm_streq(what, "volume-gone"))
		return undo_gone(m, o, err);
	return fm_error_set(err, FM_E_INTERNAL, "no undo is known for '%s'", what);
}
