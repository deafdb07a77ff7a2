/* SPDX-License-Identifier: MIT */
/*
 * fuzz-redirect.c - libFuzzer entry for actions of redirections and what would undo them, which come from a store. The first byte chooses the driver, the undo is behind a NUL. No call has any time left: what is
 * read is right when the driver says that, and it must say it before it has touched anything. (Flows have a fuzzer of their own; a name service's and a webhook's words are told to others.)
 */
#include "fuzz.h"
#include "network/redirect.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct fm_redirect_ops *const all[] = { &fm_redirect_vxlan, &fm_redirect_route, &fm_redirect_tunnel, &fm_redirect_dnat,
		                                             &fm_redirect_haproxy };
	const struct fm_redirect_call c = { .deadline_ms = 1, .cancel_fd = -1 };
	struct fm_error err = FM_ERROR_INIT;

	if (size == 0)
		return 0;
	const struct fm_redirect_ops *ops = all[data[0] % (sizeof(all) / sizeof(all[0]))];
	const char *text = (const char *)data + 1, *end = memchr(text, '\0', size - 1);
	size_t n = end ? (size_t)(end - text) : size - 1;
	json_t *action = json_loadb(text, n, 0, NULL), *undo = end ? json_loadb(end + 1, size - 2 - n, JSON_DECODE_ANY, NULL) : NULL;
	assert(ops->revert(&c, action, undo, &err) < 0 && err.message[0]);
	assert(err.code == FM_E_INVALID_ARGUMENT || err.code == FM_E_DATA_LOSS || err.code == FM_E_DEADLINE_EXCEEDED);
	assert(err.code == FM_E_DEADLINE_EXCEEDED || strncmp(err.message, ops->name, strlen(ops->name)) == 0);
	json_decref(action);
	json_decref(undo);
	return 0;
}
