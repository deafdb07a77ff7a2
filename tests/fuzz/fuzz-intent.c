/* SPDX-License-Identifier: MIT */
/*
 * fuzz-intent.c - libFuzzer entry for the network's description and its intents, which operators write. What is accepted compiles, for every pair of the first hosts, to bounded actions with an "at" and a "driver", or to a
 * reason; and who is told that nothing stands against a move can have it.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "basic/str.h"
#include "network/intent.h"
#include "network/redirect.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HOSTS_MAX   3
#define INTENTS_MAX 4

static void check_actions(const json_t *actions)
{
	assert(json_is_array(actions) && json_array_size(actions) <= FM_MAX_REDIRECTS);
	for (size_t i = 0; i < json_array_size(actions); i++) {
		const json_t *a = json_array_get(actions, i);

		assert(json_string_length(json_object_get(a, "at")) > 0);
		assert(fm_intent_driver(json_string_value(json_object_get(a, "driver"))));
		assert(json_dumpb(a, NULL, 0, JSON_COMPACT) <= FM_MAX_REDIRECT_BYTES);
	}
}

static void try_move(const struct fm_description *d, const struct fm_intent *i, const char *source, const char *destination)
{
	static const char *const addresses[] = { "10.77.0.100", "fd77::100" };
	const struct fm_intent_endpoint end = { .mac = "02:77:00:00:01:00", .addresses = addresses, .n_addresses = 2 };
	const struct fm_intent_move m = { .container = "c",
		                          .endpoints = &end,
		                          .n_endpoints = 1,
		                          .source = source,
		                          .destination = destination,
		                          .predicted_downtime_ms = 50 };
	struct fm_error err = FM_ERROR_INIT;
	json_t *actions = NULL;
	char **problems = NULL;
	int rc = 0;

	if (strcmp(source, destination) != 0) {
		rc = fm_intent_compile(d, i, &m, &actions, &err);
		assert(rc == 0 || (err.code == FM_E_FAILED_PRECONDITION && strncmp(err.message, "intent '", 8) == 0));
		if (rc == 0)
			check_actions(actions);
	}
	assert(fm_intent_check(d, i, &m, &problems, NULL) == 0);
	assert(rc == 0 || problems);
	assert(rc < 0 || !problems || strcmp(source, destination) == 0);
	json_decref(actions);
	fm_strv_free(problems);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fm_description *d = NULL;
	struct fm_error err = FM_ERROR_INIT;
	const char *hosts[HOSTS_MAX] = { "h1", "h2", "h3" };

	if (fm_description_parse((const char *)data, size, &d, &err) < 0) {
		assert(err.code != FM_OK && strncmp(err.message, "network: ", 9) == 0);
		return 0;
	}
	for (uint32_t n = 0; n < HOSTS_MAX && n < fm_topology_n_nodes(d->topology); n++)
		hosts[n] = fm_topology_node(d->topology, n)->name;
	for (size_t i = 0; i < d->n_intents && i < INTENTS_MAX; i++) {
		uint32_t *links = NULL;
		size_t n = 0;

		for (int from = 0; from < HOSTS_MAX; from++)
			for (int to = 0; to < HOSTS_MAX; to++)
				try_move(d, &d->intents[i], hosts[from], hosts[to]);
		assert(fm_intent_links(d, &d->intents[i], hosts[0], NULL, 0, &links, &n, NULL) == 0);
		free(links);
	}
	fm_description_free(d);
	return 0;
}
