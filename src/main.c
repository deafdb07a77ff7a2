/* SPDX-License-Identifier: MIT */
/* main.c - the one binary: manager, agent and command line. */
#include <malloc.h>

#include "cli/cli.h"

/* A frame's buffer is 1 MiB, and every worker thread may hold one for a while. By default the allocator would learn to keep such blocks in one heap a thread for ever; so they come
 * from the kernel and go back to it. */
#define HEAPS_MAX       4
#define BIG_BLOCK_BYTES (256 * 1024)

int main(int argc, char **argv)
{
	(void)mallopt(M_ARENA_MAX, HEAPS_MAX);
	(void)mallopt(M_MMAP_THRESHOLD, BIG_BLOCK_BYTES);
	return fm_cli_main(argc, argv);
}
