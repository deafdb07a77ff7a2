/* SPDX-License-Identifier: MIT */
/* clock.c - see clock.h. clock_gettime() cannot fail for these clocks on Linux, so results are not checked. */
#include "basic/clock.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <time.h>

uint64_t fm_now_us(void)
{
	struct timespec ts = { 0 };

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

uint64_t fm_now_ms(void)
{
	return fm_now_us() / 1000u;
}

uint64_t fm_realtime_ms(void)
{
	struct timespec ts = { 0 };

	(void)clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000u + (uint64_t)ts.tv_nsec / 1000000u;
}

uint64_t fm_thread_cpu_us(void)
{
	struct timespec ts = { 0 };

	(void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

const char *fm_format_time(uint64_t realtime_ms, char *buf, size_t cap)
{
	time_t seconds = (time_t)(realtime_ms / 1000u);
	struct tm tm;
	char day[24];

	if (!gmtime_r(&seconds, &tm) || strftime(day, sizeof(day), "%Y-%m-%dT%H:%M:%S", &tm) == 0)
		(void)snprintf(buf, cap, "invalid");
	else
		(void)snprintf(buf, cap, "%s.%03uZ", day, (unsigned)(realtime_ms % 1000u));
	return buf;
}

int fm_deadline_left_ms(uint64_t deadline_ms)
{
	uint64_t now = fm_now_ms(), left;

	if (deadline_ms <= now)
		return 0;
	left = deadline_ms - now;
	return left > INT_MAX ? INT_MAX : (int)left;
}

void fm_pause_ms(unsigned ms)
{
	struct timespec until = { 0 };

	/* absolute, so that signals neither shorten nor stretch the pause */
	(void)clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)(ms / 1000u);
	until.tv_nsec += (long)(ms % 1000u) * 1000000L;
	if (until.tv_nsec >= 1000000000L) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000L;
	}
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
		;
}
