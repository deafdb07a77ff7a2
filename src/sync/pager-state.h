/* SPDX-License-Identifier: MIT */
/*
 * pager-state.h - the pager's memory of itself ("pager.state" in the images folder): what a successor must know after a crash. Internal to
 * the pager.
 *
 * The file is mapped shared: a store is safe as soon as it is made (from the death of the process, not of the host; the tasks do not
 * survive that either). One slot for each address space with a userfaultfd, and areas (bitmaps, extents) that the slots point to. All space
 * is allocated before it is mapped, so that a full tmpfs is an error and not a SIGBUS.
 *
 * No lock: the pager's. Who changes what an event of the kernel means does it between begin_event and end_event: a message that was read
 * and not yet written down is lost in a crash, and cannot be asked for again; open() then refuses with DATA_LOSS.
 */
#ifndef FM_SYNC_PAGER_STATE_H
#define FM_SYNC_PAGER_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/error.h"
#include "basic/limits.h"

#define FM_PAGER_STATE_NAME "pager.state"
#define FM_PAGER_MAX_SPACES FM_MAX_TREE_PROCESSES

struct fm_state_slot {
	uint64_t key;
	uint64_t done_offset;    /* bitmap area */
	uint64_t extents_offset; /* 0: where the images have them */
	uint64_t n_extents;
	uint32_t task;   /* index in the sorted list of tasks */
	uint32_t live;   /* written last */
	uint32_t kept;   /* a duplicate of the descriptor is outside this process */
	uint32_t forked; /* came to life after the restore */
	uint64_t reserved[2];
};

struct fm_pager_state;

/*
 * fingerprint: of the ranges that the indices in the file refer to. create replaces an old file (which stays valid for who has it mapped).
 */
int fm_pager_state_create(int dirfd, uint64_t fingerprint, struct fm_pager_state **ret, struct fm_error *err);
/* NOT_FOUND, or DATA_LOSS when it is damaged, belongs to other ranges, or was in an event. */
int fm_pager_state_open(int dirfd, uint64_t fingerprint, struct fm_pager_state **ret, struct fm_error *err);
void fm_pager_state_free(struct fm_pager_state *st);

void fm_pager_state_begin_event(struct fm_pager_state *st);
void fm_pager_state_end_event(struct fm_pager_state *st);

/* CRIU has said that the restore is finished. */
bool fm_pager_state_finished(const struct fm_pager_state *st);
void fm_pager_state_set_finished(struct fm_pager_state *st);

/* Never the same twice, also after a crash; from 1. */
uint64_t fm_pager_state_next_key(struct fm_pager_state *st);

struct fm_state_slot *fm_pager_state_slot(struct fm_pager_state *st, uint32_t i); /* i < FM_PAGER_MAX_SPACES */
int fm_pager_state_free_slot(struct fm_pager_state *st, uint32_t *ret_i, struct fm_error *err);

/* A zeroed area, mapped. */
int fm_pager_state_alloc(struct fm_pager_state *st, uint64_t bytes, uint64_t *ret_offset, void **ret_area, struct fm_error *err);
/* Map one that a slot refers to. */
int fm_pager_state_map(struct fm_pager_state *st, uint64_t offset, uint64_t bytes, void **ret_area, struct fm_error *err);
void fm_pager_state_unmap(void *area, uint64_t bytes);
/* Unmap, and use the space again. */
void fm_pager_state_release(struct fm_pager_state *st, uint64_t offset, uint64_t bytes, void *area);

#endif
