/* SPDX-License-Identifier: MIT */
/* fuzz-document.c - libFuzzer entry for documents that people write. What was read is JSON that can be written and read again, and every value in it has a place in the text. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "basic/document.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_places(const struct fm_document *d, json_t *v)
{
	const char *key = NULL;
	json_t *member = NULL;
	size_t i = 0;

	json_object_foreach(v, key, member)
	{
		assert(fm_document_key_place(d, v, key).line > 0 && fm_document_member_place(d, v, key).line > 0);
		check_places(d, member);
	}
	json_array_foreach(v, i, member)
	{
		assert(fm_document_entry_place(d, v, i).line > 0);
		check_places(d, member);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_fm_document_ struct fm_document *d = NULL;
	struct fm_error err = FM_ERROR_INIT;
	int rc = fm_document_parse((const char *)data, size, size % 2 ? "x.yaml" : "x.json", NULL, &d, &err);

	assert((rc == 0) == (err.code == FM_OK));
	assert(rc == 0 || strncmp(err.message, "x.", 2) == 0);
	if (rc < 0)
		return 0;
	check_places(d, fm_document_root(d));
	char *text = json_dumps(fm_document_root(d), JSON_COMPACT | JSON_ENCODE_ANY);
	assert(text);
	json_t *again = json_loads(text, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
	assert(again && json_equal(again, fm_document_root(d)));
	json_decref(again);
	free(text);
	return 0;
}
