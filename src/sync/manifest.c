/* SPDX-License-Identifier: MIT */
/*
 * manifest.c - what a pass over a file tree has sent; see filetree-internal.h.
 *
 * Entries stand in the order of the walk, a folder before what is in it, and hold only their own name and the index of their folder: the full path is put together when it is needed, which is
 * only for deletions. 64 bytes and a short name an entry, so that the four million allowed take some 350 MB. The look-up by (folder, name) happens once per file in the pass that runs
 * inside the freeze: open addressing, at most three quarters full.
 */
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "basic/cleanup.h"
#include "sync/filetree-internal.h"

#define FIRST_ENTRIES    1024u
#define FIRST_SLOTS      2048u
#define FIRST_NAME_BYTES 16384u

int fm_manifest_new(const struct fm_manifest *previous, struct fm_manifest **ret, struct fm_error *err)
{
	struct fm_manifest *m = calloc(1, sizeof(*m));
	if (!m)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for the list of files");
	if (previous)
		m->secret = previous->secret;
	else
		fm_hash_secret_draw(&m->secret);
	*ret = m;
	return 0;
}

void fm_manifest_free(struct fm_manifest *m)
{
	if (!m)
		return;
	free(m->entries);
	free(m->names);
	free(m->blocks);
	free(m->slots);
	free(m);
}

size_t fm_manifest_entries(const struct fm_manifest *m)
{
	return m ? m->n : 0;
}

static uint32_t hash_name(uint32_t parent, const char *name, size_t n)
{
	uint32_t h = 2166136261u ^ (parent * 2654435761u);

	for (size_t i = 0; i < n; i++)
		h = (h ^ (uint8_t)name[i]) * 16777619u;
	h ^= h >> 15;
	return h * 2246822519u;
}

static void insert_slot(struct fm_manifest *m, uint32_t index)
{
	const struct fm_manifest_entry *e = &m->entries[index];
	uint32_t i = hash_name(e->parent, e->name_len ? m->names + e->name_off : "", e->name_len) & (m->n_slots - 1);

	while (m->slots[i] != FM_MANIFEST_NONE)
		i = (i + 1) & (m->n_slots - 1);
	m->slots[i] = index;
}

static int grow_slots(struct fm_manifest *m)
{
	uint32_t n = m->n_slots ? m->n_slots * 2 : FIRST_SLOTS;
	uint32_t *slots = malloc(n * sizeof(*slots));

	if (!slots)
		return -1;
	memset(slots, 0xff, n * sizeof(*slots));
	free(m->slots);
	m->slots = slots;
	m->n_slots = n;
	for (uint32_t i = 0; i < m->n; i++)
		insert_slot(m, i);
	return 0;
}

static int make_room(struct fm_manifest *m, size_t name_len)
{
	if (m->n == m->cap) {
		uint32_t cap = m->cap ? m->cap * 2 : FIRST_ENTRIES;
		struct fm_manifest_entry *e = realloc(m->entries, cap * sizeof(*e));
		if (!e)
			return -1;
		m->entries = e;
		m->cap = cap;
	}
	if (m->names_cap - m->names_len < name_len) { /* at most 4 Mi * 255 bytes: below 2^30, the doubling below 2^31 */
		uint32_t cap = m->names_cap ? m->names_cap * 2 : FIRST_NAME_BYTES;
		char *names = realloc(m->names, cap);
		if (!names)
			return -1;
		m->names = names;
		m->names_cap = cap;
	}
	return (uint64_t)(m->n + 1) * 4 > (uint64_t)m->n_slots * 3 ? grow_slots(m) : 0;
}

int fm_manifest_add(struct fm_manifest *m, uint32_t parent, const char *name, size_t name_len, const struct stat *st, bool racy,
                    uint32_t *ret_index, struct fm_error *err)
{
	if (m->n >= FM_TREE_ENTRIES_MAX)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "the tree has more than %u files", FM_TREE_ENTRIES_MAX);
	if (name_len > FM_TREE_NAME_MAX || make_room(m, name_len) < 0)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for the list of files (%u so far)", m->n);

	m->entries[m->n] = (struct fm_manifest_entry){
		.ino = st->st_ino,
		.size = (uint64_t)st->st_size,
		.mtime_s = st->st_mtim.tv_sec,
		.mtime_ns = (uint32_t)st->st_mtim.tv_nsec,
		.ctime_s = st->st_ctim.tv_sec,
		.ctime_ns = (uint32_t)st->st_ctim.tv_nsec,
		.mode = st->st_mode,
		.uid = st->st_uid,
		.gid = st->st_gid,
		.parent = parent,
		.name_off = m->names_len,
		.name_len = (uint8_t)name_len,
		.racy = racy,
	};
	if (name_len)
		memcpy(m->names + m->names_len, name, name_len);
	m->names_len += (uint32_t)name_len;
	insert_slot(m, m->n);
	*ret_index = m->n++;
	return 0;
}

uint32_t fm_manifest_find(const struct fm_manifest *m, uint32_t parent, const char *name, size_t name_len)
{
	if (!m || !m->n)
		return FM_MANIFEST_NONE;
	for (uint32_t i = hash_name(parent, name, name_len) & (m->n_slots - 1); m->slots[i] != FM_MANIFEST_NONE;
	     i = (i + 1) & (m->n_slots - 1)) {
		const struct fm_manifest_entry *e = &m->entries[m->slots[i]];
		if (e->parent == parent && e->name_len == name_len && (!name_len || memcmp(m->names + e->name_off, name, name_len) == 0))
			return m->slots[i];
	}
	return FM_MANIFEST_NONE;
}

void fm_manifest_drop_blocks(struct fm_manifest *m)
{
	struct fm_manifest_entry *e = &m->entries[m->n - 1];

	m->n_blocks -= e->n_blocks;
	e->n_blocks = 0;
}

bool fm_manifest_add_block(struct fm_manifest *m, struct fm_block_hash h)
{
	struct fm_manifest_entry *e = &m->entries[m->n - 1];

	if (m->n_blocks == m->cap_blocks) {
		uint32_t cap = m->cap_blocks ? m->cap_blocks * 2 : FIRST_ENTRIES;
		struct fm_block_hash *grown = cap > FM_TREE_BLOCKS_MAX ? NULL : realloc(m->blocks, cap * sizeof(*grown));
		if (!grown) {
			fm_manifest_drop_blocks(m);
			return false;
		}
		m->blocks = grown;
		m->cap_blocks = cap;
	}
	if (e->n_blocks == 0)
		e->blocks = m->n_blocks;
	m->blocks[m->n_blocks++] = h;
	e->n_blocks++;
	return true;
}

void fm_manifest_copy_blocks(struct fm_manifest *m, const struct fm_manifest *from, uint32_t index)
{
	const struct fm_manifest_entry *e = &from->entries[index];

	for (uint32_t i = 0; i < e->n_blocks; i++)
		if (!fm_manifest_add_block(m, from->blocks[e->blocks + i]))
			return;
}

bool fm_manifest_same(const struct fm_manifest_entry *e, const struct stat *st)
{
	return !e->racy && e->ino == st->st_ino && e->size == (uint64_t)st->st_size && e->mtime_s == st->st_mtim.tv_sec &&
	       e->mtime_ns == (uint32_t)st->st_mtim.tv_nsec && e->ctime_s == st->st_ctim.tv_sec &&
	       e->ctime_ns == (uint32_t)st->st_ctim.tv_nsec && e->mode == st->st_mode && e->uid == st->st_uid && e->gid == st->st_gid;
}

size_t fm_manifest_path(const struct fm_manifest *m, uint32_t index, char path[FM_TREE_PATH_MAX + 1])
{
	size_t len = 0, at;

	for (uint32_t i = index; m->entries[i].parent != FM_MANIFEST_NONE; i = m->entries[i].parent)
		len += m->entries[i].name_len + 1u;
	if (len == 0) {
		memcpy(path, ".", 2);
		return 1;
	}
	len--;                        /* no slash in front */
	if (len > FM_TREE_PATH_MAX) { /* cannot be, see above; never write past the end */
		path[0] = 0;
		return 0;
	}
	path[len] = 0;
	at = len;
	for (uint32_t i = index; m->entries[i].parent != FM_MANIFEST_NONE; i = m->entries[i].parent) {
		const struct fm_manifest_entry *e = &m->entries[i];
		at -= e->name_len;
		memcpy(path + at, m->names + e->name_off, e->name_len);
		if (at)
			path[--at] = '/';
	}
	return len;
}

/* What is hashed of an entry; no padding. */
struct fact {
	uint64_t ino, size;
	int64_t mtime_s, ctime_s;
	uint32_t mtime_ns, ctime_ns, mode, uid, gid, path_len;
};

/* A sum, because folders may be read in another order next time. Without a secret, since it is compared by later migrations: among what it is of are facts that no container can choose (inode numbers, ctime). */
void fm_manifest_digest(const struct fm_manifest *m, char ret[FM_MANIFEST_DIGEST_LEN + 1])
{
	uint64_t low = 0, high = 0;
	struct {
		struct fact fact;
		char path[FM_TREE_PATH_MAX + 1];
	} one;

	for (uint32_t i = 0; i < m->n; i++) {
		const struct fm_manifest_entry *e = &m->entries[i];
		bool root = e->parent == FM_MANIFEST_NONE;
		one.fact = (struct fact){ .ino = e->ino,
			                  .size = S_ISREG(e->mode) ? e->size : 0,
			                  .mtime_s = e->mtime_s,
			                  .mtime_ns = e->mtime_ns,
			                  .ctime_s = root ? 0 : e->ctime_s,
			                  .ctime_ns = root ? 0 : e->ctime_ns,
			                  .mode = e->mode,
			                  .uid = e->uid,
			                  .gid = e->gid };
		one.fact.path_len = (uint32_t)fm_manifest_path(m, i, one.path);
		XXH128_hash_t h = XXH3_128bits(&one, sizeof(one.fact) + one.fact.path_len);
		uint64_t sum = low + h.low64;
		high += h.high64 + (sum < low);
		low = sum;
	}
	(void)snprintf(ret, FM_MANIFEST_DIGEST_LEN + 1, "%016llx%016llx", (unsigned long long)high, (unsigned long long)low);
}

bool fm_xattr_is_carried(const char *name)
{
	return strncmp(name, "user.", 5) == 0 || strcmp(name, "security.capability") == 0 || strcmp(name, "system.posix_acl_access") == 0 ||
	       strcmp(name, "system.posix_acl_default") == 0;
}
