/* SPDX-License-Identifier: MIT */
/* grpc-common.h - what grpc-server.c and grpc-client.c share; internal to rpc/. Only these three files include gRPC's headers. */
#ifndef FM_RPC_GRPC_COMMON_H
#define FM_RPC_GRPC_COMMON_H

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <protobuf-c/protobuf-c.h>
#include <signal.h>
#include <stdint.h>

#include "basic/error.h"

#define FM_GRPC_HINT_KEY  "fleximigrate-hint"  /* on every error of ours, maybe empty: tells our statuses from gRPC's own */
#define FM_GRPC_PHASE_KEY "fleximigrate-phase" /* only when there is one */

/* Reference the library: every server and client holds one. ref returns with all signals blocked, so that no thread that gRPC starts takes
 * them from the main thread; *saved_mask is for fm_grpc_unmask. */
void fm_grpc_ref(sigset_t *saved_mask);
void fm_grpc_unmask(const sigset_t *saved_mask);
void fm_grpc_unref(void);

gpr_timespec fm_grpc_in_ms(int64_t ms); /* monotonic */

grpc_arg fm_grpc_arg_int(const char *key, int value);
grpc_arg fm_grpc_arg_str(const char *key, const char *value);

int fm_grpc_pack(const ProtobufCMessage *message, grpc_byte_buffer **ret, struct fm_error *err);
int fm_grpc_unpack(const ProtobufCMessageDescriptor *type, grpc_byte_buffer *buffer, ProtobufCMessage **ret, struct fm_error *err);

#endif
