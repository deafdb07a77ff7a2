/* SPDX-License-Identifier: MIT */
/* page-delta.c - see page-delta.h. Compared in words of eight bytes: equal bytes inside a run shorter than that cost less than the head of another run, mostly. */
#include "sync/page-delta.h"

#include <stdbool.h>
#include <string.h>

#include "sync/stream-internal.h"

#define PAGE 4096u
#define HEAD 4u

static bool differs(const uint8_t *a, const uint8_t *b, size_t at)
{
	uint64_t x, y;

	memcpy(&x, a + at, sizeof(x));
	memcpy(&y, b + at, sizeof(y));
	return x != y;
}

size_t fm_page_delta_encode(const void *old, const void *page, uint8_t *out, size_t max)
{
	const uint8_t *a = old, *b = page;
	size_t len = 0, done = 0;

	for (size_t at = 0; at < PAGE;) {
		if (!differs(a, b, at)) {
			at += 8;
			continue;
		}
		size_t start = at, end = at + 8;
		while (end < PAGE && differs(a, b, end))
			end += 8;
		at = end;
		while (a[start] == b[start])
			start++;
		while (a[end - 1] == b[end - 1])
			end--;
		size_t copy = end - start;
		if (copy + HEAD > max - len)
			return 0;
		fm_put_le16(out + len, (uint16_t)(start - done));
		fm_put_le16(out + len + 2, (uint16_t)copy);
		memcpy(out + len + HEAD, b + start, copy);
		len += HEAD + copy;
		done = end;
	}
	return len;
}

int fm_page_delta_apply(void *page, const uint8_t *delta, size_t n, struct fm_error *err)
{
	size_t at = 0;

	while (n) {
		size_t skip = n >= HEAD ? fm_get_le16(delta) : 0, copy = n >= HEAD ? fm_get_le16(delta + 2) : 0;
		if (!copy || copy > n - HEAD || skip > PAGE - at || copy > PAGE - at - skip)
			return fm_error_set(err, FM_E_DATA_LOSS, "a malformed difference between two versions of a page");
		memcpy((uint8_t *)page + at + skip, delta + HEAD, copy);
		at += skip + copy;
		delta += HEAD + copy;
		n -= HEAD + copy;
	}
	return 0;
}
