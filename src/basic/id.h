/* SPDX-License-Identifier: MIT */
/* id.h - identifiers and secrets from getrandom(2). */
#ifndef FM_BASIC_ID_H
#define FM_BASIC_ID_H

#include <stddef.h>
#include <stdint.h>

#define FM_MIGRATION_ID_LEN 14 /* "m-" + 12 hex digits */
#define FM_TOKEN_LEN        32 /* hex digits: 128 bits */

void fm_id_new(char ret[FM_MIGRATION_ID_LEN + 1]); /* "m-3f9a61c2b07d" */
void fm_token_new(char ret[FM_TOKEN_LEN + 1]);     /* authenticates one page stream */
void fm_random_bytes(void *buf, size_t n);
/* Stable 64-bit FNV-1a of a string: for names of interfaces and the like, not for security. */
uint64_t fm_hash_str(const char *s);

#endif
