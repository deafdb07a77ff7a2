/* SPDX-License-Identifier: MIT */
/* reader.c - see reader.h. */
#include "monitor/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "monitor/usage.h"

int fm_reader_init(struct fm_reader *r)
{
	*r = (struct fm_reader){ .text = calloc(1, FM_READER_BYTES + 1) };
	return r->text ? 0 : -1;
}

void fm_reader_done(struct fm_reader *r)
{
	free(r->text);
	r->text = NULL;
}

bool fm_reader_read(struct fm_reader *r, int fd, bool small)
{
	r->len = 0;
	while (fd >= 0 && r->len < FM_READER_BYTES) {
		ssize_t n = pread(fd, r->text + r->len, FM_READER_BYTES - r->len, (off_t)r->len);
		r->reads++;
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			r->len = 0;
			r->text[0] = '\0';
			return false;
		}
		r->len += (size_t)n;
		if (n == 0 || small)
			break;
	}
	r->text[r->len] = '\0';
	return fd >= 0;
}

bool fm_reader_read_path(struct fm_reader *r, const char *path, bool small)
{
	_fm_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);

	return fm_reader_read(r, fd, small);
}

double fm_counter_rate(struct fm_counter *c, bool known, uint64_t value, uint64_t now_us)
{
	struct fm_counter before = *c;

	*c = known ? (struct fm_counter){ .value = value, .at_us = now_us } : (struct fm_counter){ 0 };
	if (!known || !before.at_us || now_us <= before.at_us || value < before.value)
		return NAN;
	return (double)(value - before.value) * 1e6 / (double)(now_us - before.at_us);
}

uint64_t fm_usage_count(double v)
{
	return v >= 0 && v < 1e18 ? (uint64_t)(v + 0.5) : FM_USAGE_UNKNOWN;
}
