/* SPDX-License-Identifier: MIT */
/* fuzz-wire.c - libFuzzer entry for the control protocol's messages, requests and answers: what is accepted can be packed again and says the same. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "migration/agent-api.h"
#include "rpc/rpc.h"
#include "rpc/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void round_trip(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t size)
{
	ProtobufCMessage *m = NULL, *again = NULL;
	struct fm_error err = FM_ERROR_INIT;
	uint8_t *bytes = NULL, *twice = NULL;
	size_t n = 0, n2 = 0;

	if (fm_wire_unpack(type, data, size, &m, &err) < 0) {
		assert(err.code != FM_OK);
		return;
	}
	assert(fm_wire_pack(m, &bytes, &n, &err) == 0);
	/* Unknown fields are kept as they came, also some that protobuf-c takes once and not twice (field number 0); we never send on what we were sent. */
	if (fm_wire_unpack(type, bytes, n, &again, &err) == 0) {
		assert(fm_wire_pack(again, &twice, &n2, &err) == 0);
		assert(n == n2 && memcmp(bytes, twice, n) == 0);
		protobuf_c_message_free_unpacked(again, NULL);
	}
	protobuf_c_message_free_unpacked(m, NULL);
	free(bytes);
	free(twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	/* The first byte chooses the method, and which way: a manager reads what agents answer, a command line what the manager does. */
	unsigned which = data[0] & 0x3f;
	const struct fm_rpc_method *m =
	        data[0] & 0x80 ? &fm_manager_methods[which % _FM_MANAGER_METHOD_MAX] : &fm_agent_methods[which % _FM_AGENT_METHOD_MAX];
	round_trip(data[0] & 0x40 ? m->response : m->request, data + 1, size - 1);
	return 0;
}
