/* SPDX-License-Identifier: MIT */
/*
 * runtime-containerd.h - the runtime driver for containerd (1.6 and later), by its API; runtime.h says what a driver does.
 *
 * The API is gRPC, which is not used in this room: the driver is given a transport (rpc/containerd-client.h has it for containerd's Unix socket). Messages are those of containerd.proto.
 *
 * Namespaces (containerd's, that keep its clients apart): containers are made in the first of the list, and all of the list are looked at. An id of the first is as it is; one of another is
 * "NAMESPACE:ID". Docker's (moby) does not belong into the list: it sees to its containers itself.
 *
 * containerd's ids are narrower than ours (76 bytes, no two signs beside each other). One that does not fit is made of the id's hash, and the label org.fleximigrate.instance has ours, always.
 *
 * Output: create takes a log_fd of a regular file that has a name on the host, to which the shim appends, or /dev/null. A pipe is refused.
 */
#ifndef FM_CONTAINER_RUNTIME_CONTAINERD_H
#define FM_CONTAINER_RUNTIME_CONTAINERD_H

#include <protobuf-c/protobuf-c.h>

#include "container/runtime.h"

/* Returns not 0 when it has enough. */
typedef int (*fm_containerd_message_fn)(void *arg, const ProtobufCMessage *message);

/*
 * How containerd is reached. All functions from any thread, several at once. Errors have the code that containerd gave; UNAVAILABLE: it cannot be reached. Answers are checked (well-formed, UTF-8,
 * bounded memory), and are of the type that was asked for.
 */
struct fm_containerd_transport {
	void *userdata;
	/* One request and its answer (protobuf_c_message_free_unpacked). method: "/containerd.services.….v1.Service/Method". */
	int (*call)(void *userdata, const char *ns, const char *method, const ProtobufCMessage *request,
	            const ProtobufCMessageDescriptor *answer, int timeout_ms, ProtobufCMessage **ret, struct fm_error *err);
	/* An answer of many messages, fn for each: until its end, until fn has enough (both success), or cancel_fd (-1: none) is readable (CANCELLED). timeout_ms 0: a day. */
	int (*stream)(void *userdata, const char *ns, const char *method, const ProtobufCMessage *request,
	              const ProtobufCMessageDescriptor *answer, int timeout_ms, int cancel_fd, fm_containerd_message_fn fn, void *arg,
	              struct fm_error *err);
	void (*free)(void *userdata); /* may be NULL */
};

/*
 * Takes the transport over (it is copied), also when it fails. namespaces: NULL-terminated, NULL is {"default"}; at most FM_MAX_CONTAINERD_NAMESPACES, each a name of containerd's grammar of at most 48 bytes.
 * No daemon need be there yet.
 */
int fm_runtime_containerd_new(const struct fm_containerd_transport *transport, const char *const *namespaces, struct fm_runtime **ret,
                              struct fm_error *err);

#endif
