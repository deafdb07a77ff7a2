/* SPDX-License-Identifier: MIT */
/* fuzz-bundle.c - libFuzzer entry for OCI configurations, which come from users and from other hosts. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "container/bundle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fm_bundle_info info = { 0 };
	struct fm_error err = FM_ERROR_INIT;
	char *text = malloc(size + 1);

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	if (fm_bundle_parse(text, "/base", &info, &err) == 0) {
		assert(info.rootfs && info.rootfs[0] == '/');
		assert(info.args && info.args[0]);
		fm_bundle_info_done(&info);
	} else {
		assert(err.code != FM_OK && err.message[0]);
	}
	free(text);
	return 0;
}
