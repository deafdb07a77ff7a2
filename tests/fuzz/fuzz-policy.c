/* SPDX-License-Identifier: MIT */
/* fuzz-policy.c - libFuzzer entry for policies: what was read decides about one migration, twice the same, and the record of that can be written, read again and told in words. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "decision/policy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct fm_snapshot *world(void)
{
	struct fm_snapshot *s = fm_snapshot_new(1768219200000ull);

	fm_snapshot_add_host(s, "a")->cpu_percent = 90;
	fm_snapshot_add_host(s, "b")->cpu_percent = 20;
	struct fm_snap_container *c = fm_snapshot_add_container(s, "web", 0);
	c->nested = true;
	c->memory_bytes = 1000;
	fm_snap_labels_add(&c->labels, "service_type", "critical");
	return s;
}

static char *decide(const struct fm_policies *set, const struct fm_snapshot *s)
{
	const struct fm_policy_case c = { .snapshot = s,
		                          .destination = 1,
		                          .strategy = "live",
		                          .requested_strategy = "auto",
		                          .trigger = "user",
		                          .predicted_downtime_ms = 50,
		                          .predicted_total_ms = FM_UNKNOWN,
		                          .predicted_wire_bytes = FM_UNKNOWN };
	struct fm_policy_decision d;

	fm_policies_decide(set, &c, &d);
	assert(d.allowed || d.message[0]);
	char *text = json_dumps(d.record, JSON_COMPACT), *words = fm_policy_explain(d.record);
	assert(text && words);
	free(words);
	json_decref(d.record);
	return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_fm_document_ struct fm_document *d = NULL;
	_fm_cleanup_(fm_policies_freep) struct fm_policies *set = fm_policies_new();
	struct fm_error err = FM_ERROR_INIT;

	if (fm_document_parse((const char *)data, size, "p.yaml", NULL, &d, NULL) < 0)
		return 0;
	int rc = fm_policies_add(set, d, &err);
	assert((rc == 0) == (err.code == FM_OK));
	assert(rc == 0 || strncmp(err.message, "p.yaml", 6) == 0);
	if (rc < 0)
		return 0;
	struct fm_snapshot *s = world();
	char *first = decide(set, s), *second = decide(set, s);
	assert(strcmp(first, second) == 0);
	free(first);
	free(second);
	fm_snapshot_free(s);
	return 0;
}
