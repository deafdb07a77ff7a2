/* SPDX-License-Identifier: MIT */
/* hash-secret.c - see hash-secret.h. */
#include "sync/hash-secret.h"

#include <stdbool.h>
#include <string.h>

#include "basic/id.h"

#define DIFFERENT_BYTES_MIN 64u /* 192 random bytes have some 135 different ones; fewer than this, once in far more than 2^64 times */

void fm_hash_secret_draw(struct fm_hash_secret *ret)
{
	fm_random_bytes(ret->bytes, sizeof(ret->bytes));
}

XXH128_hash_t fm_hash_keyed(const struct fm_hash_secret *secret, const void *p, size_t n)
{
	return XXH3_128bits_withSecret(p, n, secret->bytes, sizeof(secret->bytes));
}

int fm_hash_secret_take(const void *from, size_t n, struct fm_hash_secret *ret, struct fm_error *err)
{
	const uint8_t *p = from;
	bool seen[256] = { false };
	unsigned different = 0;

	if (n != FM_HASH_SECRET_BYTES)
		return fm_error_set(err, FM_E_DATA_LOSS, "a secret for hashes of %zu bytes, not %u", n, FM_HASH_SECRET_BYTES);
	for (size_t i = 0; i < n; i++) {
		different += !seen[p[i]];
		seen[p[i]] = true;
	}
	if (different < DIFFERENT_BYTES_MIN)
		return fm_error_set(err, FM_E_DATA_LOSS, "a secret for hashes with only %u different bytes is none", different);
	memcpy(ret->bytes, p, n);
	return 0;
}
