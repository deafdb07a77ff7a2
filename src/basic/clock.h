/* SPDX-License-Identifier: MIT */
/* clock.h - time: monotonic for intervals and deadlines, real time for people. All _us are microseconds, _ms milliseconds. */
#ifndef FM_BASIC_CLOCK_H
#define FM_BASIC_CLOCK_H

#include <stddef.h>
#include <stdint.h>

uint64_t fm_now_us(void); /* CLOCK_MONOTONIC */
uint64_t fm_now_ms(void);
uint64_t fm_realtime_ms(void);   /* Unix epoch */
uint64_t fm_thread_cpu_us(void); /* processor time of the calling thread */
/* "2026-11-24T09:45:29.123Z" into buf (cap >= 32); returns buf */
const char *fm_format_time(uint64_t realtime_ms, char *buf, size_t cap);
/* milliseconds left until a monotonic deadline, 0 when passed, clamped to INT_MAX */
int fm_deadline_left_ms(uint64_t deadline_ms);
/* sleep that is a pause between polls of an outside condition, never synchronisation */
void fm_pause_ms(unsigned ms);

#endif
