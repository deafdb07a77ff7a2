/* SPDX-License-Identifier: MIT */
/*
 * id.c - see id.h.
 *
 * A process that cannot get random bytes must not go on: it would hand out guessable tokens. So failure aborts.
 */
#include "basic/id.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static void hex(const uint8_t *in, size_t n, char *out)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < n; i++) {
		out[2 * i] = digits[in[i] >> 4];
		out[2 * i + 1] = digits[in[i] & 15];
	}
	out[2 * n] = '\0';
}

void fm_random_bytes(void *buf, size_t n)
{
	uint8_t *p = buf;

	while (n > 0) {
		ssize_t got = getrandom(p, n, 0);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			abort();
		p += got;
		n -= (size_t)got;
	}
}

void fm_id_new(char ret[FM_MIGRATION_ID_LEN + 1])
{
	uint8_t raw[(FM_MIGRATION_ID_LEN - 2) / 2];

	fm_random_bytes(raw, sizeof(raw));
	ret[0] = 'm';
	ret[1] = '-';
	hex(raw, sizeof(raw), ret + 2);
}

void fm_token_new(char ret[FM_TOKEN_LEN + 1])
{
	uint8_t raw[FM_TOKEN_LEN / 2];

	fm_random_bytes(raw, sizeof(raw));
	hex(raw, sizeof(raw), ret);
	explicit_bzero(raw, sizeof(raw));
}

uint64_t fm_hash_str(const char *s)
{
	uint64_t h = 0xcbf29ce484222325u;

	for (; *s; s++) {
		h ^= (uint8_t)*s;
		h *= 0x100000001b3u;
	}
	return h;
}
