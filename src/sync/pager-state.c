/* SPDX-License-Identifier: MIT */
/*
 * pager-state.c - see pager-state.h.
 *
 * Layout: one page of header, the table of slots, then areas in multiples of a page. Areas are never moved, so each has a mapping of its
 * own and pointers stay valid while the file grows. Which parts are free is only known in memory: after a crash the holes are lost, which
 * costs nothing that matters.
 */
#include "sync/pager-state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "basic/cleanup.h"

#define MAGIC        0x31305245474150ull /* "PAGER01" */
#define UNIT         4096ull
#define SLOTS_OFFSET UNIT
#define SLOTS_BYTES  ((uint64_t)FM_PAGER_MAX_SPACES * sizeof(struct fm_state_slot))
#define AREAS_OFFSET (SLOTS_OFFSET + SLOTS_BYTES)
#define MAX_BYTES    (64ull << 30)

struct header {
	uint64_t magic; /* written last */
	uint64_t fingerprint;
	uint64_t next_key;
	uint32_t finished;
	_Atomic uint32_t in_event;
};

struct hole {
	uint64_t offset, bytes;
};

struct fm_pager_state {
	int fd;
	struct header *header;
	struct fm_state_slot *slots;
	uint64_t end; /* of the file */
	struct hole *holes;
	size_t n_holes;
};

_Static_assert(sizeof(struct fm_state_slot) == 64, "the file's layout");
_Static_assert(SLOTS_BYTES % UNIT == 0, "areas start on a page");

FM_DEFINE_CLEANUP(struct fm_pager_state *, fm_pager_state_free);

static uint64_t round_up(uint64_t bytes)
{
	return bytes ? (bytes + UNIT - 1) / UNIT * UNIT : UNIT;
}

static int map_file(struct fm_pager_state *st, uint64_t offset, uint64_t bytes, void **ret, struct fm_error *err)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, st->fd, (off_t)offset);
	if (p == MAP_FAILED)
		return fm_error_errno(err, errno, "cannot map %llu bytes of " FM_PAGER_STATE_NAME, (unsigned long long)bytes);
	*ret = p;
	return 0;
}

static int grow(struct fm_pager_state *st, uint64_t bytes, struct fm_error *err)
{
	int e = bytes > MAX_BYTES - st->end ? ENOSPC : posix_fallocate(st->fd, (off_t)st->end, (off_t)bytes);
	if (e)
		return fm_error_errno(err, e, "cannot enlarge " FM_PAGER_STATE_NAME " by %llu bytes", (unsigned long long)bytes);
	st->end += bytes;
	return 0;
}

static struct fm_pager_state *state_new(struct fm_error *err)
{
	struct fm_pager_state *st = calloc(1, sizeof(*st));
	if (!st) {
		(void)fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory for the pager's state");
		return NULL;
	}
	st->fd = -1;
	return st;
}

static int map_tables(struct fm_pager_state *st, struct fm_error *err)
{
	void *p = NULL;

	if (map_file(st, 0, AREAS_OFFSET, &p, err) < 0)
		return -1;
	st->header = p;
	st->slots = (struct fm_state_slot *)((uint8_t *)p + SLOTS_OFFSET);
	return 0;
}

int fm_pager_state_create(int dirfd, uint64_t fingerprint, struct fm_pager_state **ret, struct fm_error *err)
{
	_fm_cleanup_(fm_pager_state_freep) struct fm_pager_state *st = state_new(err);
	if (!st)
		return -1;
	if (unlinkat(dirfd, FM_PAGER_STATE_NAME, 0) < 0 && errno != ENOENT)
		return fm_error_errno(err, errno, "cannot remove the old " FM_PAGER_STATE_NAME);
	st->fd = openat(dirfd, FM_PAGER_STATE_NAME, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (st->fd < 0)
		return fm_error_errno(err, errno, "cannot create " FM_PAGER_STATE_NAME);
	if (grow(st, AREAS_OFFSET, err) < 0 || map_tables(st, err) < 0)
		return -1;
	st->header->fingerprint = fingerprint;
	st->header->next_key = 1;
	atomic_signal_fence(memory_order_seq_cst);
	st->header->magic = MAGIC;
	*ret = FM_TAKE_PTR(st);
	return 0;
}

static int check_header(const struct header *h, uint64_t fingerprint, struct fm_error *err)
{
	if (h->magic != MAGIC)
		return fm_error_set(err, FM_E_DATA_LOSS, FM_PAGER_STATE_NAME " is damaged or was never complete");
	if (h->fingerprint != fingerprint)
		return fm_error_set(err, FM_E_DATA_LOSS, FM_PAGER_STATE_NAME " does not belong to these images");
	if (atomic_load(&h->in_event))
		return fm_error_set(err, FM_E_DATA_LOSS,
		                    "the pager died while it took note of a change of the tasks' memory: what changed is unknown");
	return 0;
}

int fm_pager_state_open(int dirfd, uint64_t fingerprint, struct fm_pager_state **ret, struct fm_error *err)
{
	struct stat sb;
	_fm_cleanup_(fm_pager_state_freep) struct fm_pager_state *st = state_new(err);
	if (!st)
		return -1;
	st->fd = openat(dirfd, FM_PAGER_STATE_NAME, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (st->fd < 0 || fstat(st->fd, &sb) < 0)
		return fm_error_errno(err, errno, "cannot open " FM_PAGER_STATE_NAME);
	if (!S_ISREG(sb.st_mode) || sb.st_size < (off_t)AREAS_OFFSET || sb.st_size > (off_t)MAX_BYTES || sb.st_size % (off_t)UNIT)
		return fm_error_set(err, FM_E_DATA_LOSS, FM_PAGER_STATE_NAME " has an impossible size of %lld bytes",
		                    (long long)sb.st_size);
	st->end = (uint64_t)sb.st_size;
	if (map_tables(st, err) < 0 || check_header(st->header, fingerprint, err) < 0)
		return -1;
	*ret = FM_TAKE_PTR(st);
	return 0;
}

void fm_pager_state_free(struct fm_pager_state *st)
{
	if (!st)
		return;
	if (st->header)
		(void)munmap(st->header, AREAS_OFFSET);
	fm_closep(&st->fd);
	free(st->holes);
	free(st);
}

/*
 * What lies between the two must not be moved out by the compiler: only the order of the stores matters, the reader comes after our death.
 */
void fm_pager_state_begin_event(struct fm_pager_state *st)
{
	atomic_store_explicit(&st->header->in_event, 1, memory_order_seq_cst);
}

void fm_pager_state_end_event(struct fm_pager_state *st)
{
	atomic_store_explicit(&st->header->in_event, 0, memory_order_seq_cst);
}

bool fm_pager_state_finished(const struct fm_pager_state *st)
{
	return st->header->finished;
}

void fm_pager_state_set_finished(struct fm_pager_state *st)
{
	st->header->finished = 1;
}

uint64_t fm_pager_state_next_key(struct fm_pager_state *st)
{
	return st->header->next_key++;
}

struct fm_state_slot *fm_pager_state_slot(struct fm_pager_state *st, uint32_t i)
{
	return &st->slots[i];
}

int fm_pager_state_free_slot(struct fm_pager_state *st, uint32_t *ret_i, struct fm_error *err)
{
	for (uint32_t i = 0; i < FM_PAGER_MAX_SPACES; i++)
		if (!st->slots[i].live) {
			st->slots[i] = (struct fm_state_slot){ 0 };
			*ret_i = i;
			return 0;
		}
	return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "more than %d processes wait for their memory", FM_PAGER_MAX_SPACES);
}

static bool take_hole(struct fm_pager_state *st, uint64_t bytes, uint64_t *ret_offset)
{
	for (size_t i = 0; i < st->n_holes; i++)
		if (st->holes[i].bytes == bytes) {
			*ret_offset = st->holes[i].offset;
			st->holes[i] = st->holes[--st->n_holes];
			return true;
		}
	return false;
}

int fm_pager_state_alloc(struct fm_pager_state *st, uint64_t bytes, uint64_t *ret_offset, void **ret_area, struct fm_error *err)
{
	uint64_t offset = st->end;
	void *area = NULL;

	bytes = round_up(bytes);
	if (!take_hole(st, bytes, &offset) && grow(st, bytes, err) < 0)
		return -1;
	if (map_file(st, offset, bytes, &area, err) < 0)
		return -1;
	memset(area, 0, bytes);
	*ret_offset = offset;
	*ret_area = area;
	return 0;
}

int fm_pager_state_map(struct fm_pager_state *st, uint64_t offset, uint64_t bytes, void **ret_area, struct fm_error *err)
{
	bytes = round_up(bytes);
	if (offset < AREAS_OFFSET || offset % UNIT || offset > st->end || bytes > st->end - offset)
		return fm_error_set(err, FM_E_DATA_LOSS, FM_PAGER_STATE_NAME " is damaged: an area lies outside the file");
	return map_file(st, offset, bytes, ret_area, err);
}

void fm_pager_state_unmap(void *area, uint64_t bytes)
{
	if (area)
		(void)munmap(area, round_up(bytes));
}

void fm_pager_state_release(struct fm_pager_state *st, uint64_t offset, uint64_t bytes, void *area)
{
	fm_pager_state_unmap(area, bytes);
	struct hole *more = area ? realloc(st->holes, (st->n_holes + 1) * sizeof(*more)) : NULL;
	if (!more) /* the space is lost until the file is removed */
		return;
	st->holes = more;
	st->holes[st->n_holes++] = (struct hole){ .offset = offset, .bytes = round_up(bytes) };
}
