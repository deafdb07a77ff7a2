/* SPDX-License-Identifier: MIT */
/* fuzz-topology.c - libFuzzer entry for descriptions of a topology, which users write. What is accepted is the same when it is written and read again, and answers questions. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "network/topology.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ask(const struct fm_topology *t, uint32_t from, uint32_t to)
{
	struct fm_path shortest = { 0 }, widest = { 0 }, *several = NULL;
	struct fm_error err = FM_ERROR_INIT;
	size_t n = 0;

	if (fm_topology_shortest(t, from, to, NULL, &shortest, &err) < 0) {
		assert(err.code == FM_E_NOT_FOUND && err.message[0]);
		assert(fm_topology_widest(t, from, to, NULL, &widest, NULL) < 0);
		return;
	}
	assert(fm_topology_widest(t, from, to, NULL, &widest, NULL) == 0 &&
	       fm_topology_k_shortest(t, from, to, 4, NULL, &several, &n, NULL) == 0);
	assert(widest.available_bytes_per_s >= shortest.available_bytes_per_s && widest.latency_us >= shortest.latency_us);
	assert(n >= 1 && several[0].latency_us == shortest.latency_us && several[n - 1].latency_us >= shortest.latency_us);
	fm_path_done(&shortest);
	fm_path_done(&widest);
	fm_paths_free(several, n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fm_topology *t = NULL, *again = NULL;
	struct fm_error err = FM_ERROR_INIT;
	char *text, *same, *dot;

	if (fm_topology_parse((const char *)data, size, &t, &err) < 0) {
		assert(err.code != FM_OK && strncmp(err.message, "topology: ", 10) == 0);
		return 0;
	}
	text = fm_topology_to_json(t);
	assert(fm_topology_parse(text, strlen(text), &again, NULL) == 0);
	same = fm_topology_to_json(again);
	assert(strcmp(text, same) == 0);
	dot = fm_topology_to_dot(t);
	assert(dot);
	if (fm_topology_n_nodes(t) > 1)
		ask(again, 0, fm_topology_n_nodes(t) - 1);
	free(dot);
	free(same);
	free(text);
	fm_topology_free(again);
	fm_topology_free(t);
	return 0;
}
