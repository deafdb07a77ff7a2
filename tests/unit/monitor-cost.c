/* SPDX-License-Identifier: MIT */
/*
 * monitor-cost.c - what the Resource Monitor costs, for bench/monitor.py: N control groups of this machine with a process each, sampled for some seconds at some period.
 *
 *   monitor-cost GROUPS SECONDS PERIOD_MS [no-dirty]
 *
 * Each process has 8 MB, writes 1 MB/s of it and uses a little processor time. Prints one line of JSON: processor time of the monitor's thread, as a part of a core, its samples and its reads.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "group-lab.h"
#include "monitor/monitor.h"

#define MEMORY_BYTES (8u << 20)
#define PAGE         4096u

static void work(void *arg)
{
	uint8_t *m = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (uint64_t n = 0; m != MAP_FAILED; fm_pause_ms(100))
		for (int i = 0; i < 26; i++, n++)
			m[n * PAGE % MEMORY_BYTES + 1]++;
}

static void run(struct fm_monitor *m, unsigned seconds, unsigned period_ms, unsigned groups)
{
	uint64_t samples = (uint64_t)seconds * 1000 / period_ms, most_us = 0, looked_at = 0;
	struct fm_container_usage u;
	char name[16];

	for (unsigned i = 0; i < 6; i++) /* opens everything */
		fm_monitor_sample(m);
	uint64_t cpu_us = fm_thread_cpu_us(), reads = fm_monitor_reads(m), began_us = fm_now_us();
	for (uint64_t i = 0; i < samples; i++) {
		uint64_t before_us = fm_thread_cpu_us(), next_us = began_us + (i + 1) * period_ms * 1000;
		fm_monitor_sample(m);
		uint64_t took_us = fm_thread_cpu_us() - before_us, now_us = fm_now_us();
		most_us = took_us > most_us ? took_us : most_us;
		if (now_us < next_us)
			fm_pause_ms((unsigned)((next_us - now_us) / 1000));
	}
	cpu_us = fm_thread_cpu_us() - cpu_us;
	for (unsigned i = 0; i < groups; i++) {
		(void)snprintf(name, sizeof(name), "c%u", i);
		looked_at += fm_monitor_container(m, name, &u) && u.dirty_bytes_per_s != FM_USAGE_UNKNOWN;
	}
	printf("{\"groups\": %u, \"period_ms\": %u, \"samples\": %llu, \"core_percent\": %.3f, \"sample_us\": %.0f, \"longest_sample_us\": "
	       "%llu, \"reads_a_sample\": %.0f, \"dirty_known\": %llu}\n",
	       groups, period_ms, (unsigned long long)samples, (double)cpu_us * 100 / (double)(fm_now_us() - began_us),
	       (double)cpu_us / (double)samples, (unsigned long long)most_us, (double)(fm_monitor_reads(m) - reads) / (double)samples,
	       (unsigned long long)looked_at);
}

static void remove_all(struct group *g, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		group_remove(&g[i]);
}

int main(int argc, char **argv)
{
	unsigned n = argc > 1 ? (unsigned)atoi(argv[1]) : 0, seconds = argc > 2 ? (unsigned)atoi(argv[2]) : 0,
	         period_ms = argc > 3 ? (unsigned)atoi(argv[3]) : 0, made = 0;
	struct group *g = calloc(n + 1, sizeof(*g));
	struct fm_monitor_subject *s = calloc(n + 1, sizeof(*s));
	static char names[4096][16];
	struct fm_monitor *m = NULL;

	if (!g || !s || !n || n > 4096 || !seconds || !period_ms ||
	    fm_monitor_new(&(struct fm_monitor_options){ .no_dirty = argc > 4 }, &m, NULL) < 0) {
		fprintf(stderr, "usage: monitor-cost GROUPS SECONDS PERIOD_MS [no-dirty]\n");
		return 2;
	}
	for (; made < n; made++) {
		char folder[32];
		(void)snprintf(folder, sizeof(folder), "fm-monitor-cost-%u", made);
		(void)snprintf(names[made], sizeof(names[made]), "c%u", made);
		if (!group_make(&g[made], folder) || !group_start(&g[made], work, NULL))
			break;
		s[made] = (struct fm_monitor_subject){ .name = names[made], .pid = g[made].pid };
	}
	if (made == n) {
		fm_monitor_watch(m, s, n);
		run(m, seconds, period_ms, n);
	} else {
		fprintf(stderr, "monitor-cost: no control group number %u can be made\n", made + 1);
	}
	remove_all(g, made < n ? made + 1 : made);
	fm_monitor_free(m);
	free(g);
	free(s);
	return made == n ? 0 : 1;
}
