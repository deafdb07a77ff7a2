/* SPDX-License-Identifier: MIT */
/*
 * mover-memory-files.c - what is in the tmpfs mounts of a parent (memory-files.h) on its way, from memory to memory: neither side writes it to a disk.
 *
 * The destination's parent mounts the same, and what is in its mounts goes with it: there is nothing to undo. So the first pass can only go when it stands, after PREPARED; then two more, as for files. All passes compare by content.
 * A mount that appears later is appended to the list, with all that is in it; one that is gone by a later pass fails the migration, because what it hid has changed, too.
 * Space is checked when the first pass begins, before anything is frozen: in the destination's mount, which may be smaller, and in its memory.
 */
#include <errno.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "migration/mover-internal.h"
#include "monitor/host-facts.h"

/* A root for filetree.h that stays what was opened. */
static void root_of(int fd, char ret[40])
{
	(void)snprintf(ret, 40, "/proc/self/fd/%d/.", fd);
}

/* ---------------------------------------------------------------- source */

static struct fm_memory_tree *same_place(struct fm_memory_trees *t, const char *target)
{
	for (size_t i = 0; i < t->n; i++)
		if (fm_streq(t->v[i].target, target))
			return &t->v[i];
	return NULL;
}

static int append(struct fm_memory_trees *t, struct fm_memory_tree *one, struct fm_error *err)
{
	struct fm_memory_tree *grown = t->n < FM_MAX_MEMORY_TREES ? realloc(t->v, (t->n + 1) * sizeof(*grown)) : NULL;
	if (!grown)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "more tmpfs mounts than can travel");
	t->v = grown;
	t->v[t->n++] = *one;
	*one = (struct fm_memory_tree){ 0 };
	return 0;
}

/* As they are now; what is known of earlier passes stays. */
static int refresh(struct fm_mover *m, struct fm_error *err)
{
	struct fm_memory_trees now __attribute__((cleanup(fm_memory_trees_done))) = { 0 };
	struct fm_bundle_info info __attribute__((cleanup(fm_bundle_info_done))) = { 0 };
	_fm_cleanup_(fm_strv_freep) char **skip = NULL;
	_fm_free_ char *config = NULL;
	size_t found = 0;
	if (!m->local.nested)
		return 0; /* the runtime's CRIU saves an ordinary container's */
	if (fm_bundle_read(m->local.container->bundle, &config, &info, err) < 0)
		return -1;
	char **lists[] = { info.volume_targets, info.read_only_targets };
	for (size_t k = 0; k < FM_ARRAY_SIZE(lists); k++)
		for (char **p = lists[k]; p && *p; p++)
			fm_strv_add(&skip, *p);
	if (fm_memory_trees_find(m->local.pid1, skip, &now, err) < 0)
		return -1;
	for (size_t i = 0; i < now.n; i++) {
		struct fm_memory_tree *known = same_place(&m->memory_trees, now.v[i].target);
		if (!known) {
			if (append(&m->memory_trees, &now.v[i], err) < 0)
				return -1;
			found++;
			continue;
		}
		if (known->mount_id != now.v[i].mount_id)
			break;
		known->bytes = now.v[i].bytes;
		known->names = now.v[i].names;
		found++;
	}
	return found == m->memory_trees.n
	               ? 0
	               : fm_error_set(err, FM_E_ABORTED, "a tmpfs of container '%s' was unmounted or replaced meanwhile", m->container);
}

static int send_tree(struct fm_mover *m, struct fm_memory_tree *t, unsigned pass, bool last, int timeout_ms, uint64_t *ret_bytes,
                     struct fm_error *err)
{
	struct fm_manifest *now = NULL;
	uint64_t bytes = 0;
	char root[40];
	_fm_close_ int fd = -1;
	if (fm_memory_tree_open(m->local.pid1, t->target, t->mount_id, &fd, err) < 0)
		return -1;
	root_of(fd, root);
	if (fm_filetree_send_memory(m->control, root, t->manifest, pass, last ? NULL : &now, &bytes, timeout_ms, fm_mover_cancel_fd(m),
	                            err) < 0)
		return fm_error_prefix(err, "cannot send what is in the tmpfs at %s", t->target);
	fm_manifest_free(t->manifest);
	t->manifest = now;
	*ret_bytes += bytes;
	return 0;
}

int fm_memory_files_send(struct fm_mover *m, unsigned pass, bool last, int timeout_ms, uint64_t *ret_bytes, struct fm_error *err)
{
	_fm_free_ uint8_t *list = NULL;
	size_t n = 0;
	if (refresh(m, err) < 0 || fm_memory_list_encode(&m->memory_trees, &list, &n, err) < 0 ||
	    fm_stream_send(m->control, FM_FRAME_MEMORY, pass, 0, list, n, timeout_ms, err) < 0)
		return -1;
	for (size_t i = 0; i < m->memory_trees.n; i++)
		if (send_tree(m, &m->memory_trees.v[i], pass, last, timeout_ms, ret_bytes, err) < 0)
			return -1;
	return 0;
}

/* ---------------------------------------------------------------- destination */

/* What comes first has to fit; what was there before may have grown a little, and is refused by the mount itself. */
static int check_room(struct fm_mover *m, const struct fm_memory_tree *t, uint64_t *all, struct fm_error *err)
{
	struct statvfs fs;
	char need[32], have[32];
	_fm_close_ int fd = -1;
	if (fm_memory_tree_open(m->local.pid1, t->target, 0, &fd, err) < 0) {
		(void)fm_error_prefix(err, "the parent container on '%s'", m->h->name);
		return fm_error_hint(err,
		                     "what is in memory here would have to be written to a disk there: mount a tmpfs at %s in config.json",
		                     t->target);
	}
	if (fstatvfs(fd, &fs) < 0)
		return fm_error_errno(err, errno, "cannot read the free space of the tmpfs at %s", t->target);
	uint64_t free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	*all += t->bytes;
	if (fs.f_blocks && t->bytes > free_bytes) { /* 0 blocks: without a limit */
		(void)fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "the tmpfs at %s has %s in it, the one on '%s' has room for %s", t->target,
		                   fm_format_bytes(t->bytes, need, sizeof(need)), m->h->name,
		                   fm_format_bytes(free_bytes, have, sizeof(have)));
		return fm_error_hint(err, "give it a larger size= in config.json, or delete what is not needed there");
	}
	if (fs.f_files && t->names > fs.f_ffree + 1)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "the tmpfs at %s has %llu files in it, the one on '%s' takes %llu",
		                    t->target, (unsigned long long)t->names, m->h->name, (unsigned long long)fs.f_ffree);
	return 0;
}

static int check_memory(struct fm_mover *m, uint64_t bytes, struct fm_error *err)
{
	struct fm_host_facts facts;
	char need[32], have[32];
	if (bytes == 0 || fm_host_facts_read(m->h->state_dir, &facts, err) < 0)
		return bytes == 0 ? 0 : -1;
	if (bytes <= facts.memory_available_bytes)
		return 0;
	(void)fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "the container's tmpfs mounts have %s in them, '%s' has %s of memory left",
	                   fm_format_bytes(bytes, need, sizeof(need)), m->h->name,
	                   fm_format_bytes(facts.memory_available_bytes, have, sizeof(have)));
	return fm_error_hint(err, "free memory on '%s', or delete what is not needed there", m->h->name);
}

/* The new list takes the old one's place: it begins with the same. */
static int take_list(struct fm_mover *m, const uint8_t *buf, size_t n, struct fm_error *err)
{
	struct fm_memory_trees now __attribute__((cleanup(fm_memory_trees_done))) = { 0 };
	uint64_t all = 0;
	if (fm_memory_list_decode(buf, n, &now, err) < 0)
		return -1;
	if (now.n < m->memory_trees.n || (now.n && !m->local.nested))
		return fm_error_set(err, FM_E_DATA_LOSS, "a list of %zu memory trees where there were %zu", now.n, m->memory_trees.n);
	for (size_t i = 0; i < m->memory_trees.n; i++)
		if (!fm_streq(now.v[i].target, m->memory_trees.v[i].target))
			return fm_error_set(err, FM_E_DATA_LOSS, "a memory tree at %s where %s belongs", now.v[i].target,
			                    m->memory_trees.v[i].target);
	for (size_t i = m->memory_trees.n; i < now.n; i++)
		if (check_room(m, &now.v[i], &all, err) < 0)
			return -1;
	if (check_memory(m, all, err) < 0)
		return -1;
	fm_memory_trees_done(&m->memory_trees);
	m->memory_trees = now;
	now = (struct fm_memory_trees){ 0 };
	return 0;
}

int fm_memory_files_receive(struct fm_mover *m, uint8_t *buf, int wait_ms, int timeout_ms, struct fm_error *err)
{
	struct fm_frame_header h;
	if (fm_stream_expect(m->control, FM_FRAME_MEMORY, &h, buf, FM_MAX_FRAME_BYTES, wait_ms, m->stop.fd, err) < 0 ||
	    take_list(m, buf, h.length, err) < 0)
		return -1;
	for (size_t i = 0; i < m->memory_trees.n; i++) {
		const char *target = m->memory_trees.v[i].target;
		char root[40];
		_fm_close_ int fd = -1;
		if (fm_memory_tree_open(m->local.pid1, target, 0, &fd, err) < 0)
			return -1;
		root_of(fd, root);
		if (fm_filetree_recv(m->control, root, false, FM_MOVER_IMAGES_MAX_BYTES, timeout_ms, m->stop.fd, err) < 0)
			return fm_error_prefix(err, "tmpfs at %s", target);
	}
	return 0;
}
