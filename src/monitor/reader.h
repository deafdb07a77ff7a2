/* SPDX-License-Identifier: MIT */
/* reader.h - files that are read again and again: opened once, read with pread into one buffer; and counters as rates. Private to monitor/. */
#ifndef FM_MONITOR_READER_H
#define FM_MONITOR_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FM_READER_BYTES (512u << 10) /* /proc/net/dev of a host with 4000 interfaces */

struct fm_reader {
	char *text; /* FM_READER_BYTES + 1, always ends with NUL */
	size_t len;
	uint64_t reads; /* system calls so far */
};

int fm_reader_init(struct fm_reader *r);
void fm_reader_done(struct fm_reader *r);
/*
 * All of a file into r->text. fd -1 is false. `small`: it is known to come in one piece (one value, a group's statistics), which saves the read that finds the end. What is longer than the buffer is cut off.
 * false: it cannot be read; the text is empty then.
 */
bool fm_reader_read(struct fm_reader *r, int fd, bool small);
/* Opens, reads, closes. */
bool fm_reader_read_path(struct fm_reader *r, const char *path, bool small);

/* A counter that only grows. */
struct fm_counter {
	uint64_t value, at_us;
};
/* By how much a second since the last call; NAN the first time, and where it went back (somebody reset it, or the thing is another one). known false: it could not be read, the next call is the first one. */
double fm_counter_rate(struct fm_counter *c, bool known, uint64_t value, uint64_t now_us);
/* NAN and what does not fit are FM_USAGE_UNKNOWN. */
uint64_t fm_usage_count(double v);

#endif
