/* SPDX-License-Identifier: MIT */
/*
 * writer.c - the target of test-dirty.c: a program of its own, without the test's memory and without a sanitizer's.
 *
 *   writer write BYTES_PER_S   64 MB, page after page, round and round, each time something else; how many pages so far stands in the memory of descriptor 3
 *   writer sparse              1 GB is mapped, every fourth page of its first 256 MB was touched; then nothing
 *
 * Writes one byte to descriptor 1 when it is ready.
 */
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define PAGE         4096u
#define MEMORY_BYTES (64u << 20)

static uint64_t now_us(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static uint8_t *map(size_t bytes)
{
	uint8_t *m = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (m == MAP_FAILED)
		_exit(1);
	return m;
}

static void write_on(uint64_t bytes_per_s, volatile uint64_t *written)
{
	uint8_t *m = map(MEMORY_BYTES);
	const struct timespec pause = { .tv_nsec = 2000000 };
	uint64_t n = 0;

	for (size_t i = 0; i < MEMORY_BYTES; i += PAGE)
		m[i] = (uint8_t)(i / PAGE);
	if (write(1, "x", 1) != 1)
		_exit(1);
	for (uint64_t began_us = now_us();; (void)nanosleep(&pause, NULL)) {
		uint64_t due = (now_us() - began_us) * bytes_per_s / 1000000 / PAGE;
		for (; n < due; n++)
			*(uint64_t *)(void *)(m + n * PAGE % MEMORY_BYTES + 128) = n + 1;
		*written = n;
	}
}

int main(int argc, char **argv)
{
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (argc == 3 && strcmp(argv[1], "write") == 0) {
		uint64_t *written = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, 3, 0);
		if (written == MAP_FAILED)
			return 1;
		write_on(strtoull(argv[2], NULL, 10), written);
	}
	uint8_t *m = map(16 * (size_t)MEMORY_BYTES);
	for (size_t i = 0; i < MEMORY_BYTES; i += PAGE)
		m[i * 4] = 1;
	if (write(1, "x", 1) != 1)
		return 1;
	for (;;)
		(void)pause();
}
