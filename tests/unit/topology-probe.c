/* SPDX-License-Identifier: MIT */
/*
 * topology-probe.c - the topology's questions for tests/integration/test_topology_oracle.py, which knows the answers from elsewhere.
 *
 * Commands on stdin, a line each; an answer ends with a line "end":
 *   open PATH                                          a description
 *   shortest|widest|several FROM TO K MIN_AVAILABLE MAX_LATENCY    zero: no constraint; K is for several only
 *   time TIMES and the rest as above                   "us PER_QUESTION", of processor time
 * A path is "LATENCY AVAILABLE LOSS LINK LINK …"; an error "error CODE MESSAGE".
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/clock.h"
#include "basic/io.h"
#include "network/topology.h"

struct question {
	char what[16], from[FM_MAX_NAME], to[FM_MAX_NAME];
	size_t k;
	struct fm_path_constraints c;
};

static int ask(const struct fm_topology *t, const struct question *q, struct fm_path **ret, size_t *ret_n, struct fm_error *err)
{
	uint32_t from, to;
	int r;

	if (fm_topology_find_node(t, q->from, &from, err) < 0 || fm_topology_find_node(t, q->to, &to, err) < 0)
		return -1;
	if (strcmp(q->what, "several") == 0)
		return fm_topology_k_shortest(t, from, to, q->k, &q->c, ret, ret_n, err);
	*ret = calloc(1, sizeof(**ret));
	if (!*ret)
		abort();
	*ret_n = 1;
	r = (strcmp(q->what, "widest") == 0 ? fm_topology_widest : fm_topology_shortest)(t, from, to, &q->c, *ret, err);
	if (r < 0)
		free(*ret);
	return r;
}

static void answer(const struct fm_topology *t, const struct question *q)
{
	struct fm_error err = FM_ERROR_INIT;
	struct fm_path *v = NULL;
	size_t n = 0;

	if (ask(t, q, &v, &n, &err) < 0) {
		printf("error %s %s\n", fm_code_to_string(err.code), err.message);
		return;
	}
	for (size_t i = 0; i < n; i++) {
		printf("%" PRIu64 " %" PRIu64 " %u", v[i].latency_us, v[i].available_bytes_per_s, v[i].loss_ppm);
		for (uint32_t j = 0; j < v[i].n_links; j++)
			printf(" %u", v[i].links[j]);
		printf("\n");
	}
	fm_paths_free(v, n);
}

static void measure(const struct fm_topology *t, const struct question *q, unsigned times)
{
	uint64_t began = fm_thread_cpu_us();

	for (unsigned i = 0; i < times; i++) {
		struct fm_path *v = NULL;
		size_t n = 0;

		if (ask(t, q, &v, &n, NULL) == 0)
			fm_paths_free(v, n);
	}
	printf("us %.1f\n", (double)(fm_thread_cpu_us() - began) / times);
}

static void open_topology(const char *path, struct fm_topology **t)
{
	_fm_free_ char *text = NULL;
	struct fm_error err = FM_ERROR_INIT;
	size_t n = 0;

	fm_topology_free(*t);
	*t = NULL;
	if (fm_read_file(path, FM_MAX_TOPOLOGY_BYTES, &text, &n, &err) < 0 || fm_topology_parse(text, n, t, &err) < 0)
		printf("error %s %s\n", fm_code_to_string(err.code), err.message);
}

int main(void)
{
	_fm_cleanup_(fm_topology_freep) struct fm_topology *t = NULL;
	char line[1024], path[512];

	while (fgets(line, sizeof(line), stdin)) {
		struct question q = { 0 };
		const char *rest = line;
		unsigned times = 0;
		int skip = 0;

		if (sscanf(line, "open %511s", path) == 1) {
			open_topology(path, &t);
		} else {
			if (sscanf(line, "time %u %n", &times, &skip) == 1)
				rest += skip;
			if (!t || sscanf(rest, "%15s %63s %63s %zu %" SCNu64 " %" SCNu64, q.what, q.from, q.to, &q.k,
			                 &q.c.min_available_bytes_per_s, &q.c.max_latency_us) != 6)
				return 2;
			if (times)
				measure(t, &q, times);
			else
				answer(t, &q);
		}
		printf("end\n");
		fflush(stdout);
	}
	return 0;
}
