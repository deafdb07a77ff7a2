/* SPDX-License-Identifier: MIT */
/* fuzz-scenario.c - libFuzzer entry for scenarios, which users write. What is accepted and is not large is played twice, with the same answer; its counts agree. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "decision/simulator.h"

#define HOSTS_MOST      16u
#define CONTAINERS_MOST 64u
#define STEPS_MOST      48u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* NULL: there is no room at the beginning */
static char *play(const struct fm_scenario *s, unsigned mode)
{
	const struct fm_simulation_inputs in = { .mode = mode, .seed = fm_scenario_seed(s) };
	struct fm_simulation *r = NULL;
	struct fm_error err = FM_ERROR_INIT;
	if (fm_simulate(s, &in, &r, &err) < 0) {
		assert(err.code == FM_E_FAILED_PRECONDITION);
		return NULL;
	}
	assert(r->asked == r->moved + r->failed + r->denied + r->refused + r->overdue + r->interrupted + r->under_way);
	assert(r->hosts_in_use_most <= r->hosts && r->ping_pong <= r->moved && r->forecasts_met <= r->moved);
	json_t *j = fm_simulation_to_json(r);
	char *text = json_dumps(j, JSON_COMPACT);
	assert(text);
	json_decref(j);
	fm_simulation_free(r);
	return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_fm_document_ struct fm_document *d = NULL;
	_fm_cleanup_(fm_scenario_freep) struct fm_scenario *s = NULL;
	struct fm_error err = FM_ERROR_INIT;
	size_t hosts, containers, traces;
	uint64_t steps;

	if (fm_document_parse((const char *)data, size, "s.yaml", NULL, &d, NULL) < 0)
		return 0;
	int rc = fm_scenario_read(d, &s, &err);
	assert((rc == 0) == (err.code == FM_OK));
	assert(rc == 0 || strncmp(err.message, "s.yaml", 6) == 0);
	if (rc < 0)
		return 0;
	fm_scenario_size(s, &hosts, &containers, &steps);
	(void)fm_scenario_traces(s, &traces);
	assert(hosts > 0);
	if (hosts > HOSTS_MOST || containers > CONTAINERS_MOST || steps > STEPS_MOST || traces > 0)
		return 0;
	char *first = play(s, fm_scenario_mode(s)), *second = play(s, fm_scenario_mode(s));
	assert((first && second && strcmp(first, second) == 0) || (!first && !second));
	free(first);
	free(second);
	return 0;
}
