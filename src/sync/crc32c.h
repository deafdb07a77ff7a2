/* SPDX-License-Identifier: MIT */
/*
 * crc32c.h - CRC-32C (Castagnoli), the checksum of a frame's payload.
 *
 * Start with crc 0; feed the result back in to go on: fm_crc32c(fm_crc32c(0, a, n), b, m) equals the checksum of a followed by b. Pure, thread-safe.
 */
#ifndef FM_SYNC_CRC32C_H
#define FM_SYNC_CRC32C_H

#include <stddef.h>
#include <stdint.h>

uint32_t fm_crc32c(uint32_t crc, const void *data, size_t n);
/* The table version whatever the processor can do: for tests, and what other processors get. */
uint32_t fm_crc32c_table(uint32_t crc, const void *data, size_t n);

#endif
