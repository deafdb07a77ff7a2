/* SPDX-License-Identifier: MIT */
/*
 * agent-api.h - how the coordinator reaches an agent: one call, by method number, with the contract's own messages.
 *
 * The messages of api/fleximigrate.proto are plain structs (protobuf-c); migration/ uses them as its vocabulary between manager and agent, so that nothing is
 * translated twice. rpc/ implements the call over gRPC; tests implement it in memory.
 */
#ifndef FM_MIGRATION_AGENT_API_H
#define FM_MIGRATION_AGENT_API_H

#include "basic/error.h"
#include "fleximigrate.pb-c.h"

/* Short names for the generated ones: FM_PB(Migration) is Fleximigrate__V1__Migration. */
#define FM_PB(name) Fleximigrate__V1__##name

enum fm_agent_method {
	FM_AGENT_INFO,
	FM_AGENT_RUN_CONTAINER,
	FM_AGENT_REMOVE_CONTAINER,
	FM_AGENT_LIST_CONTAINERS,
	FM_AGENT_INSPECT,
	FM_AGENT_PREPARE_DESTINATION,
	FM_AGENT_PREPARE_SOURCE,
	FM_AGENT_EXECUTE,
	FM_AGENT_STATUS,
	FM_AGENT_VERIFY,
	FM_AGENT_PROBE,
	FM_AGENT_RELEASE,
	FM_AGENT_ABORT,
	FM_AGENT_DOCTOR,
	FM_AGENT_REDIRECT,
	_FM_AGENT_METHOD_MAX
};

struct fm_agent_api {
	void *userdata;
	/* Blocks up to timeout_ms. UNAVAILABLE when the host's agent cannot be reached. cancel_fd -1 = none. *ret: free with protobuf_c_message_free_unpacked(…, NULL). */
	int (*call)(void *userdata, const char *host, enum fm_agent_method method, const ProtobufCMessage *request, int timeout_ms,
	            int cancel_fd, ProtobufCMessage **ret, struct fm_error *err);
};

#endif
