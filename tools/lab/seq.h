/* SPDX-License-Identifier: MIT */
/*
 * seq.h - what seq-client and seq-server agree upon: numbered packets, and which of them have come.
 */
#ifndef FM_LAB_SEQ_H
#define FM_LAB_SEQ_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#define SEQ_MAGIC    0x666d7371u
#define SEQ_WINDOW   (1u << 17) /* numbers below the highest that are told apart: three seconds at SEQ_RATE_MAX */
#define SEQ_RATE_MAX 40000
#define SEQ_RCVBUF   (4 << 20)

/* Both ends are on one machine: its own byte order. */
struct seq_packet {
	uint32_t magic, stream;
	uint64_t number;
	unsigned char padding[48];
};

struct seq_count {
	uint64_t received; /* different ones */
	uint64_t duplicates, reordered;
	uint64_t end;                              /* the highest number + 1 */
	double longest_gap_ms, gap_at_ms, last_ms; /* between two arrivals; real time of its begin; 0: none yet */
	uint8_t seen[SEQ_WINDOW / 8];
};

static inline double seq_clock_ms(clockid_t id)
{
	struct timespec t;
	(void)clock_gettime(id, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static inline bool seq_has(const struct seq_count *c, uint64_t number)
{
	uint32_t at = (uint32_t)(number % SEQ_WINDOW);
	return number < c->end && c->end - number <= SEQ_WINDOW && (c->seen[at / 8] >> (at % 8) & 1);
}

static inline void seq_note_gap(struct seq_count *c, double now_ms)
{
	double gap = c->last_ms > 0 ? now_ms - c->last_ms : 0;

	if (gap > c->longest_gap_ms) {
		c->longest_gap_ms = gap;
		c->gap_at_ms = seq_clock_ms(CLOCK_REALTIME) - gap;
	}
}

/* True when it is one that had not come before. Too old to be told: counts as a duplicate. */
static inline bool seq_take(struct seq_count *c, uint64_t number)
{
	double now = seq_clock_ms(CLOCK_MONOTONIC);

	seq_note_gap(c, now);
	c->last_ms = now;
	if (number < c->end && (c->end - number > SEQ_WINDOW || seq_has(c, number))) {
		c->duplicates++;
		return false;
	}
	c->received++;
	c->reordered += number < c->end;
	if (number >= c->end && number - c->end >= SEQ_WINDOW) {
		memset(c->seen, 0, sizeof(c->seen));
		c->end = number + 1;
	}
	for (; c->end <= number; c->end++)
		c->seen[c->end % SEQ_WINDOW / 8] &= (uint8_t) ~(1u << (c->end % SEQ_WINDOW % 8));
	c->seen[number % SEQ_WINDOW / 8] |= (uint8_t)(1u << (number % SEQ_WINDOW % 8));
	return true;
}

#endif
