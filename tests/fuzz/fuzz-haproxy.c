/* SPDX-License-Identifier: MIT */
/* fuzz-haproxy.c - libFuzzer entry for what HAProxy, or what is in its place, answers: the state of servers ("s…") and their figures ("c…"); and for addresses that users write. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "network/haproxy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_error(const struct fm_error *err)
{
	assert(err->code == FM_E_DATA_LOSS || err->code == FM_E_NOT_FOUND || err->code == FM_E_UNIMPLEMENTED ||
	       err->code == FM_E_UNAVAILABLE || err->code == FM_E_PERMISSION_DENIED || err->code == FM_E_FAILED_PRECONDITION);
	assert(strncmp(err->message, "HAProxy", 7) == 0);
}

static void check_address(const char *text)
{
	struct fm_haproxy_address a, again;
	char out[FM_HAPROXY_ADDRESS_TEXT];

	if (fm_haproxy_address_parse(text, &a, NULL) < 0)
		return;
	assert(a.port > 0 && fm_haproxy_address_parse(fm_haproxy_address_format(&a, out), &again, NULL) == 0);
	assert(strcmp(a.host, again.host) == 0 && a.port == again.port);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fm_error err = FM_ERROR_INIT;
	struct fm_haproxy_server s = { 0 };
	uint64_t sessions = 0;
	char text[128], out[FM_HAPROXY_ADDRESS_TEXT];

	if (size == 0)
		return 0;
	if (data[0] == 's') {
		if (fm_haproxy_state_parse((const char *)data + 1, size - 1, "be", "redis1", &s, &err) < 0)
			check_error(&err);
		else
			assert(s.weight <= 256 && s.state <= FM_HAPROXY_MAINT && fm_haproxy_address_format(&s.address, out)[0]);
		return 0;
	}
	if (data[0] == 'c') {
		if (fm_haproxy_stat_parse((const char *)data + 1, size - 1, "be", "redis1", &sessions, &err) < 0)
			check_error(&err);
		return 0;
	}
	if (size < sizeof(text)) {
		memcpy(text, data, size);
		text[size] = '\0';
		check_address(text);
		(void)fm_haproxy_socket_check(text, NULL);
		(void)fm_haproxy_name_check(text, NULL);
	}
	return 0;
}
