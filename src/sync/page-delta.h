/* SPDX-License-Identifier: MIT */
/*
 * page-delta.h - the difference between two versions of a page, as runs {u16 skip, u16 copy, bytes}, little-endian: skip so many bytes of the old version, then so many are new. What no
 * run reaches is as before. Internal to this room. Pure.
 */
#ifndef FM_SYNC_PAGE_DELTA_H
#define FM_SYNC_PAGE_DELTA_H

#include <stddef.h>
#include <stdint.h>

#include "basic/error.h"

/* Writes at most max bytes to out; returns how many, or 0 when that is not enough (or the pages are equal). */
size_t fm_page_delta_encode(const void *old, const void *page, uint8_t *out, size_t max);
/* page: the old version, becomes the new one. DATA_LOSS when a run is malformed; page is undefined then. */
int fm_page_delta_apply(void *page, const uint8_t *delta, size_t n, struct fm_error *err);

#endif
