/* SPDX-License-Identifier: MIT */
/* fuzz-snapshot.c - libFuzzer entry for snapshots, which users bring along. What is accepted is written, read and written again as the same text. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "decision/snapshot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fm_error err = FM_ERROR_INIT;
	struct fm_snapshot *s = NULL;
	if (fm_snapshot_parse((const char *)data, size, &s, &err) < 0) {
		assert(err.code != FM_OK && err.message[0]);
		return 0;
	}
	char *text = fm_snapshot_to_json(s);
	struct fm_snapshot *again = NULL;
	if (fm_snapshot_parse(text, strlen(text), &again, &err) < 0)
		abort();
	struct fm_snapshot *copy = fm_snapshot_copy(again);
	char *second = fm_snapshot_to_json(copy);
	assert(strcmp(text, second) == 0);
	free(text);
	free(second);
	fm_snapshot_free(s);
	fm_snapshot_free(again);
	fm_snapshot_free(copy);
	return 0;
}
