/* SPDX-License-Identifier: MIT */
/*
 * wire.h - what goes over the wire, without gRPC: messages as bytes with limits, and text that any peer can read.
 *
 * Nothing here knows a transport, so that another implementation of rpc.h can use it, and a fuzzer needs no server. Thread-safe (no
 * state).
 */
#ifndef FM_RPC_WIRE_H
#define FM_RPC_WIRE_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/error.h"

/* Memory one decoded message may need. The densest honest message (4 MiB of one-byte list entries) takes a quarter of it. */
#define FM_WIRE_MAX_DECODED_BYTES (64u << 20)

/* Serialise. More than FM_MAX_RPC_MESSAGE_BYTES (of a SnapshotResponse: FM_MAX_RPC_SNAPSHOT_BYTES) is RESOURCE_EXHAUSTED. Strings that are not UTF-8 (a file name, say) go out with '?' for
 * each bad byte, since other implementations refuse the whole message otherwise. *ret: free(). */
int fm_wire_pack(const ProtobufCMessage *message, uint8_t **ret, size_t *ret_len, struct fm_error *err);

/* Parse. Malformed bytes and strings that are not UTF-8 are INVALID_ARGUMENT, too much memory is RESOURCE_EXHAUSTED.
 * *ret: protobuf_c_message_free_unpacked(…, NULL). */
int fm_wire_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t n, ProtobufCMessage **ret, struct fm_error *err);

/* Copy text of n bytes into dst: cut at a character's border when too long, bad UTF-8 and control characters become '?'. */
void fm_wire_text(char *dst, size_t cap, const char *src, size_t n);

/* HTTP trailers carry printable ASCII only. Other bytes become %XX; '%' itself only where it would read as such a code, so that
 * "disk 95% full" stays as it is. decode also sanitises like fm_wire_text. */
void fm_wire_trailer_encode(char *dst, size_t cap, const char *src);
void fm_wire_trailer_decode(char *dst, size_t cap, const char *src, size_t n);

#endif
