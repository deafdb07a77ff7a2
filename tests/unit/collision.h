/* SPDX-License-Identifier: MIT */
/* collision.h - two contents that an attacker makes who knows what XXH3-128 begins with: without a secret of our own they have one hash. */
#ifndef FM_TESTS_COLLISION_H
#define FM_TESTS_COLLISION_H

#include <string.h>
#include <xxhash.h>

#include "sync/stream-internal.h"

/*
 * XXH3 adds to a lane, word by word, the product of the two halves of (word ^ key), and the word itself to the lane next to it. A word whose lower half is the key's adds nothing but itself: then the upper
 * halves of two words of the same lane can be exchanged (n is far more than the 1 KiB after which lanes are mixed). The keys: the first two words of XXH3's own secret.
 */
__attribute__((unused)) static void make_collision(uint8_t *a, uint8_t *b, size_t n)
{
	const uint64_t key[2] = { 0xbe4ba423396cfeb8, 0x1cad21f72c81017c };

	for (size_t i = 0; i < n; i++)
		a[i] = b[i] = (uint8_t)(i * 7 + i / 256);
	for (unsigned i = 0; i < 2; i++) {
		fm_put_le64(a + i * 64ul, (key[i] & UINT32_MAX) | (i ? 0x11111111ull : 0x22222222ull) << 32);
		fm_put_le64(b + i * 64ul, (key[i] & UINT32_MAX) | (i ? 0x22222222ull : 0x11111111ull) << 32);
	}
	XXH128_hash_t x = XXH3_128bits(a, n), y = XXH3_128bits(b, n);
	assert_memory_not_equal(a, b, n);
	assert_int_equal(x.low64, y.low64);
	assert_int_equal(x.high64, y.high64);
}

#endif
