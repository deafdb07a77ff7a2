/* SPDX-License-Identifier: MIT */
/*
 * hash-secret.h - the secret that makes hashes of contents unpredictable for those who choose contents.
 *
 * XXH3-128 is not a cryptographic hash: who knows how it begins can make two pages, or two blocks of a file, that look the same, and have them taken for each other. An application does not choose all that is
 * written into it (a database stores what its clients send), so wherever an equal hash counts as an equal content without a comparison, hashes are made with 192 random bytes that were drawn
 * for this migration and are known to its two agents only. The best pair of contents that we know how to make then looks the same with one secret in some 2^32.
 */
#ifndef FM_SYNC_HASH_SECRET_H
#define FM_SYNC_HASH_SECRET_H

#include <stddef.h>
#include <stdint.h>
#include <xxhash.h>

#include "basic/error.h"

#define FM_HASH_SECRET_BYTES 192u /* what XXH3 uses when it is given none */

struct fm_hash_secret {
	uint8_t bytes[FM_HASH_SECRET_BYTES];
};
void fm_hash_secret_draw(struct fm_hash_secret *ret);
/* XXH3-128 of n bytes with it. */
XXH128_hash_t fm_hash_keyed(const struct fm_hash_secret *secret, const void *p, size_t n);
/* One that a peer has drawn. DATA_LOSS: another length, or so few different bytes that it cannot be random (XXH3 with zeros, say, is next to no hash at all). */
int fm_hash_secret_take(const void *from, size_t n, struct fm_hash_secret *ret, struct fm_error *err);

#endif
